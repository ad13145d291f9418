/* merge.c - see merge.h.
 *
 * 1. L, the last frame that the old index has seen, is read from it.
 * 2. Frames up to L; then the old index's rows over them, since they are the state at L; then
 *    the frames behind L.  Records are taken one by one, wherever they belong: a frame that is
 *    missing costs what was in it and nothing that came later.
 * 3. The pieces are fitted together (merge_settle): tokens count up to the first hole, sessions whose
 *    path has one are moved to before it and marked.
 * When L is not known (its row is hurt), all frames come first.  Then, and where the old index may
 * have rows older than L, of a row that both have the one that was used later counts.
 * A log without a hole that is as new as the old index is the state: what is not in it was
 * removed, and nothing comes from the index.  So is its checkpoint when that is newer than L,
 * whatever is missing behind it. */
#include "kvstore/merge.h"
#include "base/check.h"
#include "kvstore/index_check.h"
#include "kvstore/logfile.h"
#include "kvstore/merge_env.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ROWS_PER_TXN = 4000 };

/* --- transactions and rows ------------------------------------------------------------------- */

/* Space for one more change.  Small transactions: LMDB bounds the pages one may touch. */
int merge_step(struct merge *m)
{
    int r = 0;

    if (m->in_txn >= ROWS_PER_TXN) {
        m->in_txn = 0;
        r = index_commit(m->idx);
        if (r == 0)
            r = index_begin(m->idx);
    }
    m->in_txn++;
    return r;
}

void merge_log_key(uint8_t k[LOG_KEY], const struct kvs_id *branch, uint8_t kind,
                   uint64_t first)
{
    memcpy(k, branch->b, 16);
    k[16] = kind;
    st64be(k + 17, first);
}

bool merge_row_is(struct merge *m, enum index_db db, const void *key, size_t n)
{
    const uint8_t *v;
    size_t bytes;

    return index_row_get(m->idx, db, key, n, &v, &bytes) == 0;
}

static uint64_t ids_at(const struct ids *x, const struct kvs_id *id)
{
    uint64_t at = ld64(id->b) & (x->cap - 1);

    while (memcmp(x->id[at].b, MERGE_NONE.b, 16) && memcmp(x->id[at].b, id->b, 16))
        at = (at + 1) & (x->cap - 1);
    return at;
}

int merge_ids_set(struct ids *x, const struct kvs_id *id, uint64_t what)
{
    if (2 * x->n >= x->cap) {
        struct ids y = {.cap = x->cap ? 2 * x->cap : 1024, .n = x->n};
        y.id = calloc(y.cap, sizeof *y.id);
        y.what = calloc(y.cap, sizeof *y.what);
        if (!y.id || !y.what) {
            free(y.id);
            free(y.what);
            return -ENOMEM;
        }
        for (uint64_t i = 0; i < x->cap; i++)
            if (memcmp(x->id[i].b, MERGE_NONE.b, 16)) {
                uint64_t at = ids_at(&y, &x->id[i]);
                y.id[at] = x->id[i];
                y.what[at] = x->what[i];
            }
        free(x->id);
        free(x->what);
        *x = y;
    }
    if (memcmp(id->b, MERGE_NONE.b, 16) == 0)
        return 0;
    uint64_t at = ids_at(x, id);
    x->n += memcmp(x->id[at].b, MERGE_NONE.b, 16) == 0;
    x->id[at] = *id;
    x->what[at] = what;
    return 0;
}

bool merge_ids_is(const struct ids *x, const struct kvs_id *id, uint64_t what)
{
    uint64_t at = x->cap ? ids_at(x, id) : 0;

    return x->cap && memcmp(x->id[at].b, id->b, 16) == 0 && x->what[at] == what;
}

static bool is_removed(const struct merge *m, const struct kvs_id *id)
{
    return merge_ids_is(&m->ids, id, MERGE_REMOVED);
}

/* --- branches and tokens ------------------------------------------------------------------------ */

/* A branch's row; in its last field, until merge_settle, how many tokens it is known to have had. */
int merge_branch_note(struct merge *m, const struct kvs_branch *b, uint64_t end)
{
    uint8_t v[CODEC_BRANCH_BYTES];
    const uint8_t *had;
    size_t bytes;
    int r = index_row_get(m->idx, DB_BRANCH, b->id.b, 16, &had, &bytes);

    if (r == 0 && bytes == sizeof v) {
        if (ld64(had + sizeof v - 8) >= end)
            return 0;
        memcpy(v, had, sizeof v);
    } else {
        codec_branch_put(v, b);
    }
    st64(v + sizeof v - 8, end);
    return index_row_put(m->idx, DB_BRANCH, b->id.b, 16, v, sizeof v);
}

static int end_note(struct merge *m, const struct kvs_id *branch, uint64_t end)
{
    struct kvs_branch b;
    uint64_t had;

    int r = index_branch_get(m->idx, INDEX_WRITE, branch, &b, &had);
    return r == -ENOENT ? 0 : r < 0 ? r : merge_branch_note(m, &b, end);
}

/* Of two that begin at the same place the longer one stays. */
static int piece_put(struct merge *m, const struct kvs_id *branch, uint64_t first, uint32_t n,
                     const int32_t *ids)
{
    uint8_t k[LOG_KEY], v[CODEC_CHUNK_MAX];
    int32_t had[BLOCK_TOKENS];
    const uint8_t *old;
    uint32_t have = 0;
    size_t bytes;
    uint64_t at;

    merge_log_key(k, branch, MERGE_PIECE, first);
    int r = index_row_get(m->idx, DB_LOG, k, sizeof k, &old, &bytes);
    if (r == 0 &&
        codec_chunk_get(old, bytes, first - first % BLOCK_TOKENS, &at, &have, had) == 0 &&
        have >= n)
        return 0;
    return index_row_put(m->idx, DB_LOG, k, sizeof k, v, codec_chunk_put(v, first, n, ids));
}

/* Ids into one aligned run.  What does not touch those that are there is kept apart: in the
 * run's own row is what comes first, as from there on tokens count. */
int merge_run_put(struct merge *m, const struct kvs_id *branch, uint64_t first, uint32_t n,
                  const uint8_t *ids)
{
    uint64_t base = first - first % BLOCK_TOKENS, at = first;
    int32_t had[BLOCK_TOKENS], all[BLOCK_TOKENS];
    uint8_t k[LOG_KEY], v[CODEC_CHUNK_MAX];
    const uint8_t *old;
    uint32_t have = 0;
    size_t bytes;

    merge_log_key(k, branch, 0, base);
    int r = index_row_get(m->idx, DB_LOG, k, sizeof k, &old, &bytes);
    if (r == 0)
        r = codec_chunk_get(old, bytes, base, &at, &have, had);
    if (r < 0 && r != -ENOENT)
        return r;
    if (r == 0 && first > at + have) {
        memcpy(all, ids, 4 * (size_t)n);
        return piece_put(m, branch, first, n, all);
    }
    if (r == 0 && first + n < at) {
        r = piece_put(m, branch, at, have, had);
        if (r < 0)
            return r;
        r = -ENOENT; /* its row is the new one's */
    }
    uint64_t from = r == 0 && at < first ? at : first;
    uint64_t to = r == 0 && at + have > first + n ? at + have : first + n;
    if (r == 0)
        memcpy(all + (at - from), had, 4 * (size_t)have);
    memcpy(all + (first - from), ids, 4 * (size_t)n);
    return index_row_put(m->idx, DB_LOG, k, sizeof k, v,
                         codec_chunk_put(v, from, (uint32_t)(to - from), all));
}

static int tokens_put(struct merge *m, const struct kvs_id *branch, uint64_t first, uint32_t n,
                      const void *ids)
{
    int r = 0;

    for (uint32_t done = 0; done < n && r == 0;) {
        uint64_t pos = first + done;
        uint32_t room = BLOCK_TOKENS - (uint32_t)(pos % BLOCK_TOKENS);
        uint32_t take = n - done < room ? n - done : room;
        r = merge_step(m);
        if (r == 0)
            r = merge_run_put(m, branch, pos, take, (const uint8_t *)ids + 4 * (size_t)done);
        done += take;
    }
    return r < 0 ? r : end_note(m, branch, first + n);
}

/* The row before the first of this branch and kind with first or more. */
void merge_at_before(struct index_at *at, const struct kvs_id *branch, uint8_t kind,
                     uint64_t first)
{
    merge_log_key(at->key, branch, kind, first ? first - 1 : 0);
    at->bytes = first ? LOG_KEY : LOG_KEY - 8; /* what is shorter comes first */
}

bool merge_at_in(const struct index_at *at, const struct kvs_id *branch, uint8_t kind)
{
    return at->bytes == LOG_KEY && !memcmp(at->key, branch->b, 16) && at->key[16] == kind;
}

/* --- records of the log ---------------------------------------------------------------------------- */

static int turn_put(struct merge *m, const struct kvs_turn *t)
{
    uint8_t k[LOG_KEY], v[CODEC_FIXED_MAX];

    merge_log_key(k, &t->branch, 1, t->first);
    return index_row_put(m->idx, DB_LOG, k, sizeof k, v, codec_turn_put(v, t));
}

static int part_put(struct merge *m, const struct kvs_part *a)
{
    uint8_t k[28];

    st32be(k, a->owner);
    memcpy(k + 4, a->id.b, 16);
    st64be(k + 20, a->first);
    return index_row_put(m->idx, DB_REQ, k, sizeof k, a->data, a->bytes);
}

static uint64_t rec_ns(const struct kvs_rec *c)
{
    return c->kind == KVS_REC_SESSION ? c->session->used_ns
           : c->kind == KVS_REC_TURN  ? c->turn->time_ns
           : c->kind == KVS_REC_REQ   ? c->req->time_ns
                                      : 0;
}

static int rec_take(struct merge *m, const struct kvs_rec *c)
{
    int r = merge_step(m);

    if (r < 0)
        return r;
    m->log_ns = rec_ns(c) > m->log_ns ? rec_ns(c) : m->log_ns;
    switch (c->kind) {
    case KVS_REC_SESSION_RM:
        r = merge_ids_set(&m->ids, &c->session->id, MERGE_REMOVED);
        return r < 0 ? r : index_apply(m->idx, c);
    case KVS_REC_SESSION:
        r = merge_ids_set(&m->ids, &c->session->id, m->holes);
        return r < 0 ? r : index_apply(m->idx, c);
    case KVS_REC_BRANCH: return merge_branch_note(m, c->branch, c->branch->parent_pos);
    case KVS_REC_TOKENS:
        return tokens_put(m, &c->tokens.branch, c->tokens.first, c->tokens.n, c->tokens.ids);
    case KVS_REC_TURN: return turn_put(m, c->turn);
    case KVS_REC_PART: return part_put(m, c->part);
    case KVS_REC_CUT:
        r = index_apply(m->idx, c);
        return r == -EINVAL || r == -ENOENT || r == E_CORRUPT ? 0 : r;
    default: return index_apply(m->idx, c); /* REQ: put */
    }
}

static int frame_take(void *ctx, bool base, uint64_t seq, const uint8_t *recs, uint32_t bytes)
{
    struct merge *m = ctx;
    size_t one;
    int r = 0;

    m->base_hurt |= base && !recs;
    if (base && recs)
        m->base_seq = seq;
    if (seq > m->seq)
        m->seq = seq;
    if (m->have_l && m->behind != (recs ? seq > m->l : seq >= m->l))
        return 0;
    /* Behind L nothing was acknowledged: a hole at the very end is a torn one. */
    bool hole = recs ? m->hole_ahead : !m->behind;
    m->holes += hole;
    m->hole_behind |= hole && m->behind;
    m->rep->blind |= hole && (m->behind || !m->have_l || !m->sound);
    m->hole_ahead = !recs && m->behind;
    if (!recs)
        return 0;
    for (uint32_t at = 0; at < bytes && r == 0; at += (uint32_t)one) {
        if (codec_get(recs + at, bytes - at, &m->rec, &one) < 0)
            return 0; /* its CRC holds: a kind of record that we do not know */
        r = rec_take(m, &m->rec.rec);
    }
    return r;
}

/* --- rows of the old index ------------------------------------------------------------------------- */

static int session_over(struct merge *m, const struct kvs_session *x)
{
    struct kvs_session *had = malloc(sizeof *had);
    struct kvs_rec c = {.kind = KVS_REC_SESSION, .session = x};
    int r = had ? index_session_get(m->idx, INDEX_WRITE, &x->id, had) : -ENOMEM;
    bool older =
        r == 0 && ((m->stale && had->used_ns > x->used_ns) ||
                   (!m->have_l && !m->ahead && merge_ids_is(&m->ids, &x->id, m->holes)));

    if (!m->have_l && !older && !is_removed(m, &x->id) && (r < 0 || had->head != x->head))
        m->log_behind = true; /* its newest frames are missing */
    free(had);
    if (r == -ENOMEM)
        return r;
    if (older || is_removed(m, &x->id))
        return 0;
    r = m->current ? merge_ids_set(&m->ids, &x->id, MERGE_FROM_INDEX) : 0;
    return r < 0 ? r : index_apply(m->idx, &c);
}

static int turn_over(struct merge *m, const struct kvs_turn *t)
{
    uint8_t k[LOG_KEY];
    const uint8_t *v;
    size_t bytes;
    struct kvs_turn *had = malloc(sizeof *had);

    merge_log_key(k, &t->branch, 1, t->first);
    int r = had ? index_row_get(m->idx, DB_LOG, k, sizeof k, &v, &bytes) : -ENOMEM;
    if (r == 0)
        r = codec_turn_get(v, bytes, had);
    bool older = r == 0 && ((!(had->flags & KVS_TURN_OPEN) && (t->flags & KVS_TURN_OPEN)) ||
                            (m->stale && had->time_ns > t->time_ns));
    free(had);
    return r == -ENOMEM ? r : older ? 0 : turn_put(m, t);
}

static int req_over(struct merge *m, const uint8_t *key, size_t n, const uint8_t *b,
                    size_t bytes)
{
    const uint8_t *v;
    struct kvs_req had, q;
    size_t got;

    if (codec_req_get(b, bytes, &q) == 0 &&
        index_row_get(m->idx, DB_REQ, key, n, &v, &got) == 0 &&
        codec_req_get(v, got, &had) == 0 &&
        ((had.state == KVS_REQ_ENDED && q.state != KVS_REQ_ENDED) ||
         (m->stale && had.time_ns > q.time_ns)))
        return 0;
    return index_row_put(m->idx, DB_REQ, key, n, b, bytes);
}

static int row_hurt(struct merge *m, enum index_db db, const uint8_t *key, size_t n)
{
    struct hurt *h;

    if (m->n_hurt == HURT_MAX || n > sizeof h->key)
        return 0;
    h = &m->hurt[m->n_hurt++];
    h->db = (uint8_t)db;
    h->bytes = (uint8_t)n;
    memcpy(h->key, key, n);
    return 0;
}

static int log_over(struct merge *m, const uint8_t *key, const uint8_t *v, size_t bytes)
{
    int32_t ids[BLOCK_TOKENS];
    struct kvs_id branch;
    uint64_t base = ld64be(key + 17), first;
    uint32_t n;

    memcpy(branch.b, key, 16);
    if (key[16] == 0)
        return codec_chunk_get(v, bytes, base, &first, &n, ids) < 0
                   ? 0
                   : tokens_put(m, &branch, first, n, ids);
    return codec_turn_get(v, bytes, &m->rec.u.turn) < 0 ? 0 : turn_over(m, &m->rec.u.turn);
}

static int row_over(void *ctx, bool ok, enum index_db db, const uint8_t *key, size_t n,
                    const uint8_t *v, size_t bytes)
{
    struct merge *m = ctx;
    struct kvs_branch b;
    int r = merge_step(m);

    if (r < 0)
        return r;
    if (!ok)
        return row_hurt(m, db, key, n);
    switch (db) {
    case DB_SESSION:
        r = codec_session_get(v, bytes, &m->rec.u.session);
        return r < 0 ? 0 : session_over(m, &m->rec.u.session);
    case DB_BRANCH:
        r = codec_branch_get(v, bytes, &b);
        return r < 0 ? 0 : merge_branch_note(m, &b, ld64(v + CODEC_BRANCH_BYTES - 8));
    case DB_LOG: return log_over(m, key, v, bytes);
    case DB_REQ:
        return n == 20 ? req_over(m, key, n, v, bytes)
                       : index_row_put(m->idx, DB_REQ, key, n, v, bytes);
    default: return 0; /* names follow from sessions, blocks from their slots */
    }
}

/* What the index alone knows, and how far it had come. */
static int row_meta(void *ctx, bool ok, enum index_db db, const uint8_t *key, size_t n,
                    const uint8_t *v, size_t bytes)
{
    struct merge *m = ctx;

    if (ok)
        index_sum_add(&m->found, db, key, n, v, bytes);
    if (!ok || db != DB_META)
        return 0;
    if (index_sum_is(db, key, n))
        m->have_sums = index_sum_get(v, bytes, &m->said);
    if (n == 6 && bytes == 8 && memcmp(key, "logseq", 6) == 0) {
        /* An old one may turn up as well: the newest counts. */
        m->l = m->l > ld64(v) ? m->l : ld64(v);
        m->have_l = true;
        return 0;
    }
    if (n == 6 && bytes == 8 && memcmp(key, "schema", 6) == 0 && ld64(v) > SCHEMA) {
        m->schema = ld64(v);
        return E_VERSION;
    }
    if (n == 4 && bytes == 16 && memcmp(key, "uuid", 4) == 0)
        memcpy(m->uuid, v, 16);
    if (n == 4 && bytes < sizeof m->lost && memcmp(key, "lost", 4) == 0) {
        memcpy(m->lost, v, bytes);
        m->lost[bytes] = 0;
    }
    if ((n > 5 && memcmp(key, "user.", 5) == 0) || (n == 3 && memcmp(key, "day", 3) == 0))
        return index_row_put(m->idx, DB_META, key, n, v, bytes);
    return 0;
}

/* Has the index something that the log, did it lack nothing, would have?  Tokens behind a
 * branch's end, or what was used later than the log knows of. */
static int row_ahead(void *ctx, bool ok, enum index_db db, const uint8_t *key, size_t n,
                     const uint8_t *v, size_t bytes)
{
    struct merge *m = ctx;
    struct codec_rec *c = &m->rec;
    int32_t ids[BLOCK_TOKENS];
    struct kvs_branch b;
    struct kvs_id id;
    uint64_t first, end;
    uint32_t many;

    if (!ok || m->ahead)
        return 0;
    if (db == DB_SESSION && codec_session_get(v, bytes, &c->u.session) == 0) {
        id = c->u.session.id;
        end = c->u.session.used_ns;
        bool had = index_session_get(m->idx, INDEX_WRITE, &id, &c->u.session) == 0;
        m->ahead = !is_removed(m, &id) && end > (had ? c->u.session.used_ns : m->log_ns);
    }
    if (db == DB_REQ && n == 20 && codec_req_get(v, bytes, &c->u.req) == 0)
        m->ahead = c->u.req.time_ns > m->log_ns;
    if (db != DB_LOG)
        return 0;
    memcpy(id.b, key, 16);
    if (key[16] == 1 && codec_turn_get(v, bytes, &c->u.turn) == 0)
        m->ahead = c->u.turn.time_ns > m->log_ns;
    if (key[16] == 0 && codec_chunk_get(v, bytes, ld64be(key + 17), &first, &many, ids) == 0 &&
        index_branch_get(m->idx, INDEX_WRITE, &id, &b, &end) == 0)
        m->ahead = first + many > end;
    return 0;
}

/* --- the file ------------------------------------------------------------------------------------------ */

/* One more item of a list, as far as there is room. */
static void item(char words[LOST_BYTES], const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void item(char words[LOST_BYTES], const char *fmt, ...)
{
    size_t n = strlen(words);
    va_list ap;

    va_start(ap, fmt);
    if (n && words[n - 1] != ' ')
        n += (size_t)snprintf(words + n, LOST_BYTES - n, ", ");
    if (n < LOST_BYTES)
        (void)vsnprintf(words + n, LOST_BYTES - n, fmt, ap);
    va_end(ap);
}

/* What was lost now, in words. */
static void lost_words(const struct merge_report *x, const char *why, char words[LOST_BYTES])
{
    (void)snprintf(words, LOST_BYTES, "%.140s%s. Lost: ", why ? why : "the index was missing",
                   x->other
                       ? ": they are of two copies of one store that each went on, and the "
                         "log's is kept (the other index is index.mdb.bad-*)"
                   : x->empty ? " and the turn log is empty"
                              : " and the other copy had damage too");
    if (x->sessions)
        item(words, "%llu tokens of %llu session%s", (unsigned long long)x->tokens,
             (unsigned long long)x->sessions, x->sessions > 1 ? "s" : "");
    if (x->gone)
        item(words, "%llu session%s whole", (unsigned long long)x->gone,
             x->gone > 1 ? "s" : "");
    if (x->requests)
        item(words, "%llu request%s", (unsigned long long)x->requests,
             x->requests > 1 ? "s" : "");
    if (x->unsure)
        item(words,
             "perhaps the newest turns of %llu session%s (removed sessions may be there again)",
             (unsigned long long)x->unsure, x->unsure > 1 ? "s" : "");
    if (x->maybe)
        item(words, "perhaps %llu session%s that other records speak of (or removed before)",
             (unsigned long long)x->maybe, x->maybe > 1 ? "s" : "");
    if (x->missing)
        item(words,
             "%swhat was acknowledged as frames %llu to %llu of the turn log, which is in "
             "neither "
             "copy",
             x->torn ? "perhaps " : "", (unsigned long long)(x->seq - x->missing + 1),
             (unsigned long long)x->seq);
    if (x->blind && x->empty && words[strlen(words) - 1] == ' ')
        item(words, "the sessions of which nothing is left, if there were any");
    else if (x->blind)
        item(words, "perhaps more, of which nothing is left");
    if (x->named[0]) {
        size_t n = strlen(words);
        (void)snprintf(words + n, LOST_BYTES - n, ": %s%s", x->named,
                       x->more ? " and others" : "");
    }
}

/* Nothing but sessions that an earlier merge has named as well: who has not gone on with one lacks
 * the same again.  Those that the list has no room for may be others. */
static bool said_before(const struct merge_report *x, const char *lost)
{
    return x->named[0] && !x->more && !x->requests && !x->unsure && !x->blind && !x->missing &&
           strstr(lost, x->named);
}

/* What was lost stays said as long as the damaged files are there, and what was lost in an earlier
 * merge with it: as much of that as fits. */
static int lost_put(struct merge *m, const char *why)
{
    struct merge_report *x = m->rep;
    char words[LOST_BYTES] = "";

    x->lost = x->sessions || x->gone || x->requests || x->unsure || x->blind || x->missing;
    if (x->lost && !said_before(x, m->lost))
        lost_words(x, why, words);
    if (words[0] && m->lost[0])
        item(words, "and before that: %s", m->lost);
    else if (m->lost[0])
        memcpy(words, m->lost, sizeof words);
    if (!words[0])
        return 0;
    return index_meta_put(m->idx, "lost", words, strlen(words));
}

static int meta_put(struct merge *m, const char *why)
{
    uint8_t v[8], whole[8] = {MERGE_ROWS};

    st64(v, SCHEMA);
    int r = lost_put(m, why);
    if (r == 0)
        r = index_meta_put(m->idx, "schema", v, 8);
    if (r == 0)
        r = index_meta_put(m->idx, "uuid", m->uuid, 16);
    st64(v, m->rep->seq);
    if (r == 0)
        r = index_meta_put(m->idx, "logseq", v, 8);
    if (r == 0) /* last: without it the file is a half-filled one */
        r = index_meta_put(m->idx, "whole", whole, 8);
    return r;
}

/* Both names at once, so that at every instant an index of this name is there. */
static int put_in_place(struct kvstore *s, const char *tmp, const char *path)
{
    char aside[PATH_MAX + 64];
    struct stat st;
    int r = sys_sync_parent(&s->sys, path);

    if (r == 0 && stat(path, &st) == 0 && st.st_size > 0) {
        r = sys_link_aside(&s->sys, path, aside, sizeof aside);
        if (r < 0) /* a file system without links: merge_leftover mends what a kill leaves */
            r = sys_set_aside(&s->sys, path, aside, sizeof aside);
    }
    if (r == 0)
        index_lock_away(path);
    if (r == 0 && rename(tmp, path) < 0) /* in place of the old one, which is aside or empty */
        r = -errno;
    return r < 0 ? r : sys_sync_parent(&s->sys, path);
}

static void paths(const struct kvstore *s, char tmp[PATH_MAX], char lock[PATH_MAX],
                  char path[PATH_MAX])
{
    snprintf(tmp, PATH_MAX, "%s.new", s->index);
    snprintf(lock, PATH_MAX, "%s.new-lock", s->index);
    snprintf(path, PATH_MAX, "%s", s->index);
}

static int index_new(struct kvstore *s, const char *tmp, struct index **ret, struct errbuf *eb)
{
    struct index_opts o = {.path = tmp, .sys = &s->sys, .no_fsync = true};

    return index_open(ret, &o, eb);
}

/* The log's first frames are taken: does the old index have anything that counts? */
static int index_counts(struct merge *m, const char *old, const struct turnlog_report *log,
                        struct errbuf *eb)
{
    bool current;
    int r = 0;

    if (m->have_l) { /* a log that is whole and as new knows everything that the index knew */
        m->old_counts = m->lossy && (m->base_seq <= m->l || m->base_hurt);
        return 0;
    }
    m->ahead = m->l > log->last_seq; /* from whatever copy of its row, it may be an old one */
    if (!m->ahead)
        r = index_salvage(old, row_ahead, m, &current, eb);
    m->old_counts = m->lossy || m->holes || m->ahead;
    return r;
}

/* Rows are missing, or are not those that were written last: some may be older ones. */
static bool is_stale(const struct merge *m)
{
    for (int d = 0; d < DB_ && m->have_sums; d++)
        if (!index_sum_same(&m->found, &m->said, (enum index_db)d))
            return true;
    return false;
}

/* How far both copies reach, or more; and how far they should. */
static void end_look(struct merge *m)
{
    uint64_t have = m->l > m->seq ? m->l : m->seq, acked = m->s->acked_seq;

    m->rep->seq = have > acked ? have : acked;
    m->rep->endless = !m->have_l && acked == 0 && !m->end_known;
    m->rep->missing = m->rep->seq - have;
    m->rep->torn = m->rep->missing && m->s->acked_torn;
    bool early = m->rep->missing > 0;
    m->holes += early;
    m->hole_behind |= early;
    m->lossy |= early;
    m->rep->blind |= early;
}

int merge_unknown(const struct kvstore *s, uint64_t schema, struct errbuf *eb)
{
    return err_set(eb, E_VERSION,
                   "the store in %s has format %llu, this program knows %d to %d; %s", s->dir,
                   (unsigned long long)schema, SCHEMA_OLDEST, SCHEMA, LOG_NEWER_DO);
}

static int fill(struct merge *m, const char *old, struct errbuf *eb)
{
    struct kvstore *s = m->s;
    struct turnlog_report log;
    bool have_old = access(old, F_OK) == 0 || errno != ENOENT;
    char dir[PATH_MAX];
    int r = have_old ? index_salvage(old, row_meta, m, &m->current, eb) : 0;

    if (r == E_VERSION)
        return merge_unknown(s, m->schema, eb);
    m->have_l = m->have_l && m->current;
    m->stale = !m->have_l || is_stale(m);
    snprintf(dir, sizeof dir, "%s/log", s->dir);
    if (r == 0)
        r = log_salvage(dir, frame_take, m, &log, eb);
    if (r < 0)
        return r;
    m->end_known = log.end_known;
    /* Names lie under a CRC: two of them are two stores, and neither is damage of the other. */
    if (log.have_uuid && !sodium_is_zero(m->uuid, 16) && memcmp(m->uuid, log.uuid, 16))
        return err_set(
            eb, E_SHAPE,
            "%s and %s belong to different stores: put back the one that belongs here, "
            "or move it away; nothing was changed",
            old, dir);
    if (log.have_uuid)
        memcpy(m->uuid, log.uuid, 16);
    m->lossy = log.damaged || (m->have_l && log.last_seq < m->l) || log.frames == 0;
    r = have_old ? index_counts(m, old, &log, eb) : 0;
    if (r == 0 && m->old_counts)
        r = index_salvage(old, row_over, m, &m->current, eb);
    bool behind = m->log_behind || (m->have_l && log.last_seq < m->l);
    m->holes += behind;
    m->lossy |= behind;
    m->rep->blind |= (behind || log.frames == 0) && !m->sound;
    m->rep->empty = log.frames == 0 && !log.damaged;
    m->rep->other = m->s->log_other;
    m->rep->blind |= m->rep->other;
    m->behind = true;
    if (r == 0 && m->have_l)
        r = log_salvage(dir, frame_take, m, &log, eb);
    end_look(m);
    return r < 0 ? r : merge_settle(m, old, eb);
}

int merge_index(struct kvstore *s, const char *why, bool sound, struct merge_report *rep,
                struct errbuf *eb)
{
    struct merge *m = calloc(1, sizeof *m);
    char tmp[PATH_MAX], lock[PATH_MAX], path[PATH_MAX];
    int r = m ? 0 : -ENOMEM;

    memset(rep, 0, sizeof *rep);
    paths(s, tmp, lock, path);
    if (m) {
        m->s = s;
        m->rep = rep;
        m->sound = sound || !why; /* a new store lacks nothing */
        m->hurt = malloc(HURT_MAX * sizeof *m->hurt);
        r = m->hurt ? 0 : -ENOMEM;
    }
    if (r == 0)
        r = sys_clear(lock, eb);
    if (r == 0)
        r = sys_clear(tmp, eb);
    if (r == 0)
        r = sys_unlink(&s->sys, tmp);
    if (r == 0)
        r = index_new(s, tmp, &m->idx, eb);
    if (r == 0)
        r = index_begin(m->idx);
    if (r == 0) {
        r = fill(m, path, eb);
        if (r == 0)
            r = meta_put(m, why);
        if (r == 0)
            r = index_commit(m->idx);
        else
            index_abort(m->idx);
    }
    if (r == 0 && !s->o.no_fsync)
        r = index_sync(m->idx);
    if (m) {
        index_close(m->idx);
        (void)unlink(lock);
    }
    if (r == 0)
        r = put_in_place(s, tmp, path);
    else
        (void)unlink(tmp);
    if (r < 0 && eb && !eb->s[0])
        (void)sys_refuse(eb, r, "make the index anew in", s->dir);
    if (m) {
        free(m->hurt);
        free(m->ids.id);
        free(m->ids.what);
    }
    free(m);
    return r;
}

int merge_leftover(struct kvstore *s, struct errbuf *eb)
{
    char tmp[PATH_MAX], lock[PATH_MAX], path[PATH_MAX];
    struct stat st;
    uint8_t v[8] = {0};
    struct index *idx = NULL;

    paths(s, tmp, lock, path);
    int r = sys_clear(lock, eb);
    if (r < 0 || lstat(tmp, &st) < 0)
        return r;
    if (!S_ISREG(st.st_mode)) /* a link is never what is read, filled or put in place */
        return sys_clear(tmp, eb);
    bool gone = stat(path, &st) < 0 && errno == ENOENT;
    gone = gone && index_check(tmp, 0, NULL) == 0; /* it may be half of one */
    r = gone ? index_new(s, tmp, &idx, NULL) : 0;
    if (r == 0 && gone && index_meta_get(idx, INDEX_LOOP, "whole", v, 8) != 8)
        v[0] = 0;
    index_close(idx);
    (void)unlink(lock);
    if (r == 0 && v[0] != 0) {
        r = sys_rename_new(tmp, path);
        if (r == 0)
            r = sys_sync_parent(&s->sys, path);
    } else {
        r = sys_unlink(&s->sys, tmp);
    }
    return r < 0 ? sys_refuse(eb, r, "clear", tmp) : 0;
}
