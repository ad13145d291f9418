/* codec.c - see codec.h.  A cursor that writes, a cursor that reads and remembers overruns;
 * each record is one list of fields per direction. */
#include "kvstore/codec.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/err.h"

struct rd {
    const uint8_t *p, *end;
    bool bad;
};

static const uint8_t *rd_take(struct rd *d, size_t n)
{
    if (d->bad || (size_t)(d->end - d->p) < n) {
        d->bad = true;
        return NULL;
    }
    d->p += n;
    return d->p - n;
}
static uint32_t rd32(struct rd *d)
{
    const uint8_t *p = rd_take(d, 4);
    return p ? ld32(p) : 0;
}
static uint64_t rd64(struct rd *d)
{
    const uint8_t *p = rd_take(d, 8);
    return p ? ld64(p) : 0;
}
static void rd_bytes(struct rd *d, void *ret, size_t n)
{
    const uint8_t *p = rd_take(d, n);
    if (p)
        memcpy(ret, p, n);
}
static void rd_str(struct rd *d, char *ret, size_t cap)
{
    uint32_t n = rd32(d);
    const uint8_t *p = n < cap ? rd_take(d, n) : NULL;

    if (!p || memchr(p, 0, n)) {
        d->bad = true;
        return;
    }
    memcpy(ret, p, n);
    ret[n] = 0;
}

static uint8_t *wr32(uint8_t *p, uint32_t v)
{
    st32(p, v);
    return p + 4;
}
static uint8_t *wr64(uint8_t *p, uint64_t v)
{
    st64(p, v);
    return p + 8;
}
static uint8_t *wr_bytes(uint8_t *p, const void *v, size_t n)
{
    if (n)
        memcpy(p, v, n);
    return p + n;
}
static uint8_t *wr_str(uint8_t *p, const char *s)
{
    size_t n = strlen(s);
    return wr_bytes(wr32(p, (uint32_t)n), s, n);
}

size_t codec_session_put(uint8_t *ret, const struct kvs_session *s)
{
    uint8_t *p = wr_bytes(ret, s->id.b, 16);

    p = wr32(p, s->owner);
    p = wr32(p, s->flags);
    p = wr_bytes(p, s->branch.b, 16);
    p = wr64(p, s->head);
    p = wr64(p, s->created_ns);
    p = wr64(p, s->used_ns);
    p = wr_bytes(p, s->tokenizer_id, 32);
    p = wr_str(p, s->name);
    p = wr_str(p, s->model);
    p = wr_str(p, s->settings);
    return (size_t)(p - ret);
}

int codec_session_get(const uint8_t *b, size_t n, struct kvs_session *ret)
{
    struct rd d = {b, b + n, false};

    memset(ret, 0, sizeof *ret);
    rd_bytes(&d, ret->id.b, 16);
    ret->owner = rd32(&d);
    ret->flags = rd32(&d);
    rd_bytes(&d, ret->branch.b, 16);
    ret->head = rd64(&d);
    ret->created_ns = rd64(&d);
    ret->used_ns = rd64(&d);
    rd_bytes(&d, ret->tokenizer_id, 32);
    rd_str(&d, ret->name, sizeof ret->name);
    rd_str(&d, ret->model, sizeof ret->model);
    rd_str(&d, ret->settings, sizeof ret->settings);
    return d.bad || d.p != d.end ? E_CORRUPT : 0;
}

size_t codec_branch_put(uint8_t *ret, const struct kvs_branch *b)
{
    uint8_t *p = wr_bytes(ret, b->id.b, 16);

    p = wr_bytes(p, b->parent.b, 16);
    p = wr64(p, b->parent_pos);
    p = wr32(p, b->owner);
    p = wr64(p, 0); /* kept for the index, which stores the branch's end here */
    must(p - ret == CODEC_BRANCH_BYTES);
    return (size_t)(p - ret);
}

int codec_branch_get(const uint8_t *b, size_t n, struct kvs_branch *ret)
{
    if (n != CODEC_BRANCH_BYTES)
        return E_CORRUPT;
    memcpy(ret->id.b, b, 16);
    memcpy(ret->parent.b, b + 16, 16);
    ret->parent_pos = ld64(b + 32);
    ret->owner = ld32(b + 40);
    return 0;
}

size_t codec_turn_put(uint8_t *ret, const struct kvs_turn *t)
{
    uint8_t *p = wr_bytes(ret, t->branch.b, 16);

    p = wr64(p, t->first);
    p = wr64(p, t->n_tokens);
    p = wr32(p, t->role);
    p = wr32(p, t->flags);
    p = wr64(p, t->time_ns);
    p = wr_bytes(p, t->request.b, 16);
    p = wr64(p, t->seed);
    p = wr32(p, t->reused);
    p = wr32(p, t->prefilled);
    p = wr32(p, t->generated);
    p = wr32(p, t->finish);
    p = wr_str(p, t->params);
    return (size_t)(p - ret);
}

int codec_turn_get(const uint8_t *b, size_t n, struct kvs_turn *ret)
{
    struct rd d = {b, b + n, false};

    memset(ret, 0, sizeof *ret);
    rd_bytes(&d, ret->branch.b, 16);
    ret->first = rd64(&d);
    ret->n_tokens = rd64(&d);
    ret->role = rd32(&d);
    ret->flags = rd32(&d);
    ret->time_ns = rd64(&d);
    rd_bytes(&d, ret->request.b, 16);
    ret->seed = rd64(&d);
    ret->reused = rd32(&d);
    ret->prefilled = rd32(&d);
    ret->generated = rd32(&d);
    ret->finish = rd32(&d);
    rd_str(&d, ret->params, sizeof ret->params);
    return d.bad || d.p != d.end ? E_CORRUPT : 0;
}

enum { REQ_FIXED = 4 + 16 * 3 + 8 + 4 + 4 + 8 + 4 + 4 };

size_t codec_req_put(uint8_t *ret, const struct kvs_req *q)
{
    uint8_t *p = wr32(ret, q->owner);

    p = wr_bytes(p, q->id.b, 16);
    p = wr_bytes(p, q->session.b, 16);
    p = wr_bytes(p, q->branch.b, 16);
    p = wr64(p, q->pos);
    p = wr32(p, q->type);
    p = wr32(p, q->state);
    p = wr64(p, q->time_ns);
    p = wr32(p, q->reply != NULL);
    p = wr32(p, q->reply ? q->reply_bytes : 0);
    must(p - ret == REQ_FIXED);
    p = wr_bytes(p, q->reply, q->reply ? q->reply_bytes : 0);
    return (size_t)(p - ret);
}

int codec_req_get(const uint8_t *b, size_t n, struct kvs_req *ret)
{
    struct rd d = {b, b + n, false};

    memset(ret, 0, sizeof *ret);
    ret->owner = rd32(&d);
    rd_bytes(&d, ret->id.b, 16);
    rd_bytes(&d, ret->session.b, 16);
    rd_bytes(&d, ret->branch.b, 16);
    ret->pos = rd64(&d);
    ret->type = rd32(&d);
    ret->state = rd32(&d);
    ret->time_ns = rd64(&d);
    uint32_t have = rd32(&d), bytes = rd32(&d);
    const uint8_t *reply = rd_take(&d, bytes);
    if (d.bad || d.p != d.end || have > 1 || (!have && bytes))
        return E_CORRUPT;
    ret->reply = have ? (const char *)reply : NULL;
    ret->reply_bytes = bytes;
    return 0;
}

enum { PART_FIXED = 4 + 16 + 8 + 4 };

static size_t part_put(uint8_t *ret, const struct kvs_part *a)
{
    uint8_t *p = wr_bytes(wr32(ret, a->owner), a->id.b, 16);

    p = wr32(wr64(p, a->first), a->bytes);
    must(p - ret == PART_FIXED);
    return (size_t)(wr_bytes(p, a->data, a->bytes) - ret);
}

static int part_get(const uint8_t *b, size_t n, struct kvs_part *ret)
{
    struct rd d = {b, b + n, false};

    ret->owner = rd32(&d);
    rd_bytes(&d, ret->id.b, 16);
    ret->first = rd64(&d);
    ret->bytes = rd32(&d);
    ret->data = rd_take(&d, ret->bytes);
    return d.bad || d.p != d.end || ret->first == UINT64_MAX || ret->bytes > TAIL_BYTES_MAX
               ? E_CORRUPT
               : 0;
}

static bool str_ok(const char *s, size_t cap)
{
    return memchr(s, 0, cap) != NULL;
}

static size_t body_size(const struct kvs_rec *r)
{
    switch (r->kind) {
    case KVS_REC_SESSION: {
        const struct kvs_session *s = r->session;
        if (!str_ok(s->name, sizeof s->name) || !str_ok(s->model, sizeof s->model) ||
            !str_ok(s->settings, sizeof s->settings))
            return 0;
        return 108 + strlen(s->name) + strlen(s->model) + strlen(s->settings);
    }
    case KVS_REC_SESSION_RM: return 20;
    case KVS_REC_BRANCH: return CODEC_BRANCH_BYTES;
    case KVS_REC_TOKENS:
        return r->tokens.n <= CTX_TOKENS_MAX ? 32 + 4 * (size_t)r->tokens.n : 0;
    case KVS_REC_TURN:
        return str_ok(r->turn->params, sizeof r->turn->params) ? 92 + strlen(r->turn->params)
                                                               : 0;
    case KVS_REC_REQ: {
        size_t n = r->req->reply ? r->req->reply_bytes : 0;
        return n <= TAIL_BYTES_MAX ? REQ_FIXED + n : 0;
    }
    case KVS_REC_CUT: return 24;
    case KVS_REC_PART:
        return r->part->bytes <= TAIL_BYTES_MAX && r->part->first != UINT64_MAX
                   ? PART_FIXED + (size_t)r->part->bytes
                   : 0;
    default: return 0;
    }
}

size_t codec_size(const struct kvs_rec *r)
{
    size_t n = body_size(r);
    return n ? (size_t)round_up(8 + n, 8) : 0;
}

void codec_put(uint8_t *ret, const struct kvs_rec *r)
{
    size_t n = body_size(r), total = (size_t)round_up(8 + n, 8), wrote = n;
    uint8_t *p = ret + 8;

    memset(ret + total - 8, 0, 8);
    st32(ret, r->kind);
    st32(ret + 4, (uint32_t)n);
    switch (r->kind) {
    case KVS_REC_SESSION: wrote = codec_session_put(p, r->session); break;
    case KVS_REC_SESSION_RM: wr32(wr_bytes(p, r->session->id.b, 16), r->session->owner); break;
    case KVS_REC_BRANCH: wrote = codec_branch_put(p, r->branch); break;
    case KVS_REC_TOKENS:
        p = wr64(wr_bytes(p, r->tokens.branch.b, 16), r->tokens.first);
        p = wr32(wr32(p, r->tokens.n), 0);
        wr_bytes(p, r->tokens.ids, 4 * (size_t)r->tokens.n);
        break;
    case KVS_REC_TURN: wrote = codec_turn_put(p, r->turn); break;
    case KVS_REC_REQ: wrote = codec_req_put(p, r->req); break;
    case KVS_REC_CUT: wr64(wr_bytes(p, r->tokens.branch.b, 16), r->tokens.first); break;
    case KVS_REC_PART: wrote = part_put(p, r->part); break;
    default: must(!"a record that codec_size accepted");
    }
    must(wrote == n);
}

int codec_get(const uint8_t *b, size_t n, struct codec_rec *ret, size_t *ret_bytes)
{
    int r = 0;

    if (n < 8)
        return E_CORRUPT;
    uint32_t kind = ld32(b), bytes = ld32(b + 4);
    if (bytes > n - 8 || round_up(8 + (uint64_t)bytes, 8) > n)
        return E_CORRUPT;
    struct rd d = {b + 8, b + 8 + bytes, false};
    memset(&ret->rec, 0, sizeof ret->rec);
    ret->rec.kind = kind;
    switch (kind) {
    case KVS_REC_SESSION:
        r = codec_session_get(d.p, bytes, &ret->u.session);
        ret->rec.session = &ret->u.session;
        break;
    case KVS_REC_SESSION_RM:
        memset(&ret->u.session, 0, sizeof ret->u.session);
        rd_bytes(&d, ret->u.session.id.b, 16);
        ret->u.session.owner = rd32(&d);
        ret->rec.session = &ret->u.session;
        r = d.bad || d.p != d.end ? E_CORRUPT : 0;
        break;
    case KVS_REC_BRANCH:
        r = codec_branch_get(d.p, bytes, &ret->u.branch);
        ret->rec.branch = &ret->u.branch;
        break;
    case KVS_REC_TOKENS:
        rd_bytes(&d, ret->rec.tokens.branch.b, 16);
        ret->rec.tokens.first = rd64(&d);
        ret->rec.tokens.n = rd32(&d);
        (void)rd32(&d); /* keeps the ids 8-aligned */
        if (ret->rec.tokens.n > CTX_TOKENS_MAX)
            return E_CORRUPT;
        ret->rec.tokens.ids = (const int32_t *)(const void *)d.p;
        (void)rd_take(&d, 4 * (size_t)ret->rec.tokens.n);
        r = d.bad || d.p != d.end ? E_CORRUPT : 0;
        break;
    case KVS_REC_TURN:
        r = codec_turn_get(d.p, bytes, &ret->u.turn);
        ret->rec.turn = &ret->u.turn;
        break;
    case KVS_REC_REQ:
        r = codec_req_get(d.p, bytes, &ret->u.req);
        ret->rec.req = &ret->u.req;
        break;
    case KVS_REC_CUT:
        rd_bytes(&d, ret->rec.tokens.branch.b, 16);
        ret->rec.tokens.first = rd64(&d);
        r = d.bad || d.p != d.end ? E_CORRUPT : 0;
        break;
    case KVS_REC_PART:
        r = part_get(d.p, bytes, &ret->u.part);
        ret->rec.part = &ret->u.part;
        break;
    default: return E_CORRUPT;
    }
    if (r == 0)
        *ret_bytes = (size_t)round_up(8 + (uint64_t)bytes, 8);
    return r;
}

/* --- rows of the index ------------------------------------------------------------------------ */

size_t codec_chunk_put(uint8_t *ret, uint64_t first, uint32_t n, const int32_t *ids)
{
    must(n <= BLOCK_TOKENS);
    return (size_t)(wr_bytes(wr32(wr64(ret, first), n), ids, 4 * (size_t)n) - ret);
}

int codec_chunk_get(const uint8_t *b, size_t n, uint64_t base, uint64_t *ret_first,
                    uint32_t *ret_n, int32_t *ids)
{
    if (n < 12)
        return E_CORRUPT;
    uint64_t first = ld64(b);
    uint32_t count = ld32(b + 8);
    /* It begins behind the run's start only where the branch does. */
    if (first < base || count > BLOCK_TOKENS || first - base + count > BLOCK_TOKENS ||
        n != 12 + 4 * (size_t)count)
        return E_CORRUPT;
    memcpy(ids, b + 12, 4 * (size_t)count);
    *ret_first = first;
    *ret_n = count;
    return 0;
}

void codec_block_key(uint8_t ret[CODEC_BLOCK_KEY], const struct kvs_key *key, uint64_t variant)
{
    memcpy(ret, key->b, 32);
    st64be(ret + 32, variant);
}

void codec_block_put(uint8_t ret_key[CODEC_BLOCK_KEY], uint8_t ret[CODEC_BLOCK_BYTES],
                     const struct index_block *b)
{
    uint8_t *p = wr64(ret, b->layout);

    codec_block_key(ret_key, &b->key, b->variant);
    p = wr32(p, b->segment);
    p = wr32(p, b->slot);
    p = wr_bytes(p, b->hash, 16);
    p = wr32(p, b->head_crc);
    p = wr32(p, b->n_tokens);
    p = wr64(p, b->first_pos);
    p = wr64(p, b->time_ns);
    p = wr_bytes(p, b->parent.b, 32);
    p = wr64(p, 0);
    must(p - ret == CODEC_BLOCK_BYTES);
}

int codec_block_get(const uint8_t *key, size_t n_key, const uint8_t *b, size_t n,
                    struct index_block *ret)
{
    struct rd d = {b, b + n, false};

    if (n_key != CODEC_BLOCK_KEY || n != CODEC_BLOCK_BYTES)
        return E_CORRUPT;
    memcpy(ret->key.b, key, 32);
    ret->variant = ld64be(key + 32);
    ret->layout = rd64(&d);
    ret->segment = rd32(&d);
    ret->slot = rd32(&d);
    rd_bytes(&d, ret->hash, 16);
    ret->head_crc = rd32(&d);
    ret->n_tokens = rd32(&d);
    ret->first_pos = rd64(&d);
    ret->time_ns = rd64(&d);
    rd_bytes(&d, ret->parent.b, 32);
    return 0;
}
