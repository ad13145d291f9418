/* kvflow.c - see kvflow.h: the book, and what a sequence holds of it. */
#include "daemon/kvflow.h"
#include "base/bytes.h"
#include "base/check.h"
#include "daemon/daemon.h"
#include "daemon/engd.h"
#include "daemon/kvbook.h"
#include "daemon/model.h"
#include "daemon/sess.h"
#include "engine/engine.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- the book ----------------------------------------------------------------------------------- */
static uint32_t hash_of(const struct kvf *f, const struct kvs_key *k)
{
    return (k->b[0] | (uint32_t)k->b[1] << 8 | (uint32_t)k->b[2] << 16) & f->hash_mask;
}

static void idle_out(struct kvf *f, struct kvf_page *p)
{
    if (!p->idle)
        return;
    *(p->prev_idle ? &p->prev_idle->next : &f->idle_old) = p->next;
    *(p->next ? &p->next->prev_idle : &f->idle_new) = p->prev_idle;
    p->next = p->prev_idle = NULL;
    p->idle = false;
}

static void hash_out(struct kvf *f, struct kvf_page *p)
{
    struct kvf_page **at = &f->hash[hash_of(f, &p->prev)];

    for (; *at; at = &(*at)->hash_next)
        if (*at == p) {
            *at = p->hash_next;
            p->hash_next = NULL;
            return;
        }
}

/* Out of hash and lists, engine pages kept: ready to become another block. */
static void book_clear(struct kvf *f, struct kvf_page *p)
{
    must(p->refs == 0 && p->load != LOAD_OUT && p->put != PUT_OUT);
    if (p->load == LOAD_WAIT)
        queue_remove(&f->loads, p);
    if (p->put == PUT_WAIT)
        queue_remove(&f->puts, p);
    idle_out(f, p);
    if (p->live)
        hash_out(f, p);
    p->live = p->writer = p->forget = false;
    p->load = LOAD_NONE;
    p->put = PUT_NO;
    p->n = p->part = 0;
}

void book_free(struct kvf *f, struct kvf_page *p)
{
    book_clear(f, p);
    for (int part = 0; part < KV_PART_; part++) {
        if (p->index[part] != ENG_PAGE_NONE)
            eng_page_drop(f->eng, part, p->index[part]);
        p->index[part] = ENG_PAGE_NONE;
    }
    p->next = f->free;
    f->free = p;
    f->n_free++;
}

static bool can_go(const struct kvf_page *p)
{
    return p->load != LOAD_OUT && p->put != PUT_WAIT && p->put != PUT_OUT;
}

struct kvf_page *book_take(struct kvf *f)
{
    struct kvf_page *p = f->free;

    if (p) {
        for (int part = 0; part < KV_PART_; part++) {
            if (!f->part_bytes[part])
                continue;
            if (eng_page_take(f->eng, part, &p->index[part]) < 0) {
                for (part--; part >= 0; part--)
                    if (p->index[part] != ENG_PAGE_NONE) {
                        eng_page_drop(f->eng, part, p->index[part]);
                        p->index[part] = ENG_PAGE_NONE;
                    }
                p = NULL;
                break;
            }
        }
        if (p) {
            f->free = p->next;
            f->n_free--;
            p->next = NULL;
            return p;
        }
    }
    for (p = f->idle_old; p && !can_go(p); p = p->next)
        ;
    if (p)
        book_clear(f, p);
    return p;
}

void book_enter(struct kvf *f, struct kvf_page *p)
{
    struct kvf_page **at = &f->hash[hash_of(f, &p->prev)];

    must(!p->live);
    p->hash_next = *at;
    *at = p;
    p->live = true;
}

void book_pin(struct kvf *f, struct kvf_page *p)
{
    p->forget = false; /* somebody needs it after all */
    if (p->refs++ == 0)
        idle_out(f, p);
}

void book_unpin(struct kvf *f, struct kvf_page *p)
{
    must(p->refs > 0);
    if (--p->refs)
        return;
    if (p->load == LOAD_OUT)
        return; /* its end decides */
    p->writer = false;
    if (p->n == 0 || p->load == LOAD_WAIT) {
        book_free(f, p);
        return;
    }
    p->next = NULL;
    p->prev_idle = f->idle_new;
    *(f->idle_new ? &f->idle_new->next : &f->idle_old) = p;
    f->idle_new = p;
    p->idle = true;
}

struct kvf_page *book_whole(struct kvf *f, const struct kvs_key *prev, const int32_t *ids)
{
    for (struct kvf_page *p = f->hash[hash_of(f, prev)]; p; p = p->hash_next)
        if ((p->n == BLOCK_TOKENS || (p->load != LOAD_NONE && !p->part)) &&
            memcmp(&p->prev, prev, sizeof *prev) == 0 &&
            memcmp(p->ids, ids, sizeof p->ids) == 0)
            return p;
    return NULL;
}

/* The page that holds most of the first n rows that ids ask for after prev, and how many. */
static struct kvf_page *book_part(struct kvf *f, const struct kvs_key *prev, const int32_t *ids,
                                  uint32_t n, uint32_t *ret_rows)
{
    struct kvf_page *best = NULL;
    uint32_t most = 0;

    for (struct kvf_page *p = f->hash[hash_of(f, prev)]; p; p = p->hash_next) {
        uint32_t c = 0;

        if (p->load != LOAD_NONE || memcmp(&p->prev, prev, sizeof *prev) != 0)
            continue;
        while (c < n && c < p->n && p->ids[c] == ids[c])
            c++;
        /* Among equals one that ends here: it can be taken over without a copy. */
        if (c > most || (best && c == most && p->n == c && !p->refs)) {
            most = c;
            best = p;
        }
    }
    *ret_rows = most;
    return best;
}

/* --- models --------------------------------------------------------------------------------------- */
int kvflow_model_open(struct daemon *d, struct model *m)
{
    const struct kv_layout *l = eng_layout(m->eng);
    struct kvf *f = calloc(1, sizeof *f);
    struct kvs_id made_up[2];
    uint32_t size = 64;

    must(m->eng && !m->kv);
    if (!f)
        return -ENOMEM;
    f->d = d;
    f->m = m;
    f->eng = m->eng;
    f->part_bytes[KV_HOT] = l->page_bytes[KV_HOT];
    f->part_bytes[KV_COLD] = l->page_bytes[KV_COLD];
    f->n_pages = eng_info(m->eng)->pages;
    while (size < f->n_pages)
        size *= 2;
    f->hash_mask = size - 1;
    f->hash = calloc(size, sizeof *f->hash);
    f->page = calloc(f->n_pages, sizeof *f->page);
    queue_init(&f->loads);
    queue_init(&f->puts);
    m->kv = f;
    if (!f->hash || (!f->page && f->n_pages)) {
        kvflow_model_close(m);
        return -ENOMEM;
    }
    for (uint32_t i = f->n_pages; i-- > 0;) {
        struct kvf_page *p = &f->page[i];

        for (int part = 0; part < KV_PART_; part++)
            p->index[part] = ENG_PAGE_NONE;
        p->next = f->free;
        f->free = p;
    }
    f->n_free = f->n_pages;
    kvs_id_new(&made_up[0]);
    kvs_id_new(&made_up[1]);
    memcpy(f->fingerprint, made_up, sizeof f->fingerprint);
    if (m->keyed) {
        memcpy(f->fingerprint, m->fingerprint, sizeof f->fingerprint);
        f->keyed = true;
    }
    return 0;
}

static int by_pos(const void *a, const void *b)
{
    const struct kvf_page *x = *(struct kvf_page *const *)a, *y = *(struct kvf_page *const *)b;

    return x->first_pos < y->first_pos ? -1 : x->first_pos > y->first_pos;
}

/* What book_rename works with: the live pages from the front of their chains on, the names
 * they had, and those already renamed by these (heads by hash, then next; 0 ends, i + 1). */
struct rename {
    struct kvf_page **page;
    struct kvs_key *old;
    uint32_t *head, *next;
};

/* The page that came before p, renamed already; NULL: it was given away. */
static struct kvf_page *renamed_before(const struct kvf *f, const struct rename *x,
                                       const struct kvf_page *p)
{
    for (uint32_t at = x->head[hash_of(f, &p->prev)]; at; at = x->next[at - 1]) {
        struct kvf_page *q = x->page[at - 1];

        if (q->first_pos + BLOCK_TOKENS == p->first_pos &&
            memcmp(&x->old[at - 1], &p->prev, sizeof p->prev) == 0)
            return q;
    }
    return NULL;
}

static void rename_one(struct kvf *f, struct rename *x, uint32_t i)
{
    struct kvf_page *p = x->page[i], *before = NULL;

    x->old[i] = p->key;
    p->live = false;
    if (p->first_pos && !(before = renamed_before(f, x, p))) {
        if (p->refs == 0)
            book_free(f, p);
        return;
    }
    if (before)
        p->prev = before->key;
    else
        kvs_key_root(f->fingerprint, p->uid, &p->prev);
    if (p->n == BLOCK_TOKENS) {
        uint32_t *head = &x->head[hash_of(f, &p->key)];

        kvs_key_next(&p->prev, p->ids, BLOCK_TOKENS, &p->key);
        x->next[i] = *head;
        *head = i + 1;
    }
    book_enter(f, p);
}

/* From the front of each chain, since a name follows from the one before.  A page whose chain
 * is broken (the one before it was given away) cannot be named and goes, unless a sequence
 * holds it. */
void book_rename(struct kvf *f)
{
    struct rename x = {.page = calloc(f->n_pages, sizeof *x.page),
                       .old = calloc(f->n_pages, sizeof *x.old),
                       .head = calloc(f->hash_mask + 1, sizeof *x.head),
                       .next = calloc(f->n_pages, sizeof *x.next)};
    bool room = x.page && x.old && x.head && x.next;
    uint32_t n = 0;

    for (uint32_t i = 0; room && i < f->n_pages; i++)
        if (f->page[i].live)
            x.page[n++] = &f->page[i];
    if (n)
        qsort(x.page, n, sizeof *x.page, by_pos);
    memset(f->hash, 0, (f->hash_mask + 1) * sizeof *f->hash);
    for (uint32_t i = 0; i < n; i++)
        rename_one(f, &x, i);
    free(x.page);
    free(x.old);
    free(x.head);
    free(x.next);
}

void kvflow_model_keyed(struct daemon *d, struct model *m)
{
    struct kvf *f = m->kv;

    (void)d;
    if (!f || f->keyed || !m->keyed)
        return;
    memcpy(f->fingerprint, m->fingerprint, sizeof f->fingerprint);
    book_rename(f);
    f->keyed = true;
    for (struct kvf_seq *q = f->seqs; q; q = q->next)
        for (uint32_t b = 0; b < q->n_key; b++) {
            if (b == 0)
                kvs_key_root(f->fingerprint, q->uid, &q->key[0]);
            else
                kvs_key_next(&q->key[b - 1], q->toks->p + (uint64_t)(b - 1) * BLOCK_TOKENS,
                             BLOCK_TOKENS, &q->key[b]);
        }
    for (uint32_t i = 0; i < f->n_pages; i++)
        if (f->page[i].live && f->page[i].n == BLOCK_TOKENS)
            move_down(f, &f->page[i]);
}

bool kvflow_model_idle(struct model *m)
{
    struct kvf *f = m->kv;

    if (!f)
        return true;
    if (!f->closing && !engd_rests(m->engd))
        return false; /* a step writes to the pages that are to go down */
    if (!f->closing)
        move_tails_down(f);
    f->closing = true;
    move_pump(f);
    return f->loads_out == 0 && f->puts_out == 0 && f->puts.n == 0 && f->loads.n == 0;
}

static void seq_free(struct kvf_seq *q)
{
    free(q->key);
    free(q->page);
    for (int part = 0; part < KV_PART_; part++)
        free(q->table[part]);
    memset(q, 0, sizeof *q);
}

void kvflow_model_close(struct model *m)
{
    struct kvf *f = m->kv;

    if (!f)
        return;
    /* At the daemon's end sequences may still be open: they let go of what is going away. */
    while (f->seqs) {
        struct kvf_seq *q = f->seqs;

        f->seqs = q->next;
        seq_free(q);
    }
    free(f->copy_buf);
    free(f->tails);
    free(f->hash);
    free(f->page);
    free(f);
    m->kv = NULL;
}

static void usage_add(const struct kvf *f, struct kvflow_usage *u)
{
    uint64_t bytes = f->part_bytes[KV_HOT] + f->part_bytes[KV_COLD];

    u->pages += f->n_pages;
    u->limit_bytes += f->n_pages * bytes;
    u->corrupt += f->corrupt;
    for (uint32_t i = 0; i < f->n_pages; i++) {
        u->pages_used += f->page[i].live;
        u->pages_pinned += f->page[i].refs > 0;
        u->used_bytes += f->page[i].live ? bytes : 0;
        u->dirty += f->page[i].put == PUT_WAIT || f->page[i].put == PUT_OUT;
    }
}

void kvflow_usage(struct daemon *d, const struct model *m, struct kvflow_usage *ret)
{
    memset(ret, 0, sizeof *ret);
    if (m && m->kv)
        usage_add(m->kv, ret);
    for (uint32_t i = 0; !m && model_at(d, i); i++)
        if (model_at(d, i)->kv)
            usage_add(model_at(d, i)->kv, ret);
}

int kvflow_fault(const struct model *m)
{
    const struct kvf *f = m->kv;
    struct kvs_stats k;

    if (!f || (f->put_fault != -EMFILE && f->put_fault != -ENFILE))
        return f ? f->put_fault : 0;
    kvs_stats(f->d->store, &k);
    return k.files_off ? f->put_fault : 0; /* it is over, though no block has come since */
}

uint64_t kvflow_block_bytes(const struct model *m)
{
    const struct kvf *f = m->kv;

    return f ? f->part_bytes[KV_HOT] + f->part_bytes[KV_COLD] : 0;
}

uint32_t kvf_pages(const struct model *m)
{
    const struct kvf *f = m->kv;

    return f ? f->n_pages : 0;
}

uint32_t kvf_pages_free(const struct model *m)
{
    const struct kvf *f = m->kv;
    uint32_t n = f ? f->n_free : 0;

    if (f)
        for (const struct kvf_page *p = f->idle_old; p; p = p->next)
            n += can_go(p);
    return n;
}

void kvflow_path(struct daemon *d, struct model *m, uint32_t uid, const int32_t *ids,
                 uint64_t n, struct kvflow_places *ret)
{
    struct kvf *f = m->kv;
    uint32_t blocks = (uint32_t)(n / BLOCK_TOKENS);
    bool stored = f ? f->keyed : m->known_block_bytes != 0;
    struct kvs_key *key = f || stored ? calloc(blocks + 1, sizeof *key) : NULL;

    *ret = (struct kvflow_places){0};
    if (!key)
        return;
    kvs_key_root(f ? f->fingerprint : m->fingerprint, uid, &key[0]);
    for (uint32_t b = 0; b < blocks; b++) {
        kvs_key_next(&key[b], ids + (uint64_t)b * BLOCK_TOKENS, BLOCK_TOKENS, &key[b + 1]);
        ret->device += f && book_whole(f, &key[b], ids + (uint64_t)b * BLOCK_TOKENS) != NULL;
    }
    if (stored)
        kvs_where(d->store, key + 1, blocks, m->variant, &ret->host, &ret->file);
    free(key);
}

/* The store forgets what it has.  What is still to come must not come after that: a page that
 * waits to go down, or for its name, goes; one that is on its way is forgotten when it is there. */
static void pages_forget(struct kvf *f, const struct kvs_key *prev, const int32_t *ids,
                         uint32_t rows)
{
    for (struct kvf_page *p = f->hash[hash_of(f, prev)], *next; p; p = next) {
        next = p->hash_next;
        if (p->n != rows || p->refs > p->tails || p->load != LOAD_NONE ||
            memcmp(&p->prev, prev, sizeof *prev) != 0 ||
            memcmp(p->ids, ids, rows * sizeof *ids) != 0)
            continue;
        if (p->put == PUT_OUT || p->tails)
            p->forget = p->put == PUT_OUT || p->put == PUT_WAIT;
        else if (p->put == PUT_WAIT || (rows == BLOCK_TOKENS && !f->keyed))
            book_free(f, p);
    }
    for (uint32_t i = 0; i < f->n_tails; i++) {
        struct kvf_page *p = &f->tails[i];

        if (p->n != rows || memcmp(&p->prev, prev, sizeof *prev) != 0 ||
            memcmp(p->ids, ids, rows * sizeof *ids) != 0)
            continue;
        if (p->put == PUT_WAIT || p->put == PUT_OUT)
            p->forget = true;
    }
}

void kvflow_forget(struct daemon *d, struct model *m, uint32_t uid, const int32_t *ids,
                   uint32_t from, uint32_t n, uint64_t rest)
{
    struct kvf *f = m->kv;
    uint32_t b = (uint32_t)(rest / BLOCK_TOKENS), rows = (uint32_t)(rest % BLOCK_TOKENS);
    struct kvs_key tail;
    bool stored = f ? f->keyed : m->known_block_bytes != 0;
    struct kvs_key *key = f || stored ? calloc(n + 1, sizeof *key) : NULL;

    if (!key)
        return;
    kvs_key_root(f ? f->fingerprint : m->fingerprint, uid, &key[0]);
    for (uint32_t i = 0; i < n; i++)
        kvs_key_next(&key[i], ids + (uint64_t)i * BLOCK_TOKENS, BLOCK_TOKENS, &key[i + 1]);
    if (rows >= COPY_ROWS_MIN && b >= from && b <= n) {
        kvs_key_next(&key[b], ids + (uint64_t)b * BLOCK_TOKENS, rows, &tail);
        if (f)
            pages_forget(f, &key[b], ids + (uint64_t)b * BLOCK_TOKENS, rows);
        if (stored)
            kvs_forget(d->store, &tail, 1, m->variant);
    }
    for (uint32_t i = from; i < n && f; i++)
        pages_forget(f, &key[i], ids + (uint64_t)i * BLOCK_TOKENS, BLOCK_TOKENS);
    if (from < n && stored)
        kvs_forget(d->store, key + 1 + from, n - from, m->variant);
    free(key);
}

/* --- sequences -------------------------------------------------------------------------------------- */
static int seq_room(struct kvf_seq *q, uint32_t blocks)
{
    uint32_t cap = q->cap ? q->cap : 16;

    if (blocks + 1 <= q->cap)
        return 0;
    while (cap < blocks + 1)
        cap *= 2;
    struct kvs_key *key = realloc(q->key, cap * sizeof *key);
    if (key)
        q->key = key;
    struct kvf_page **page = realloc(q->page, cap * sizeof *page);
    if (page)
        q->page = page;
    if (!key || !page)
        return -ENOMEM;
    for (int part = 0; part < KV_PART_; part++) {
        uint32_t *t = realloc(q->table[part], cap * sizeof *t);

        if (!t)
            return -ENOMEM;
        q->table[part] = t;
    }
    q->cap = cap;
    return 0;
}

/* Keys before blocks 0 .. blocks; all but the last block must be whole. */
static void seq_keys(struct kvf_seq *q, uint32_t blocks)
{
    if (q->n_key == 0)
        kvs_key_root(q->f->fingerprint, q->uid, &q->key[q->n_key++]);
    for (; q->n_key <= blocks; q->n_key++)
        kvs_key_next(&q->key[q->n_key - 1],
                     q->toks->p + (uint64_t)(q->n_key - 1) * BLOCK_TOKENS, BLOCK_TOKENS,
                     &q->key[q->n_key]);
}

int kvf_open(struct kvf_seq *q, struct model *m, uint32_t uid, const struct toks *toks)
{
    must(m->kv && !q->f);
    memset(q, 0, sizeof *q);
    q->f = m->kv;
    q->uid = uid;
    q->toks = toks;
    q->next = q->f->seqs;
    if (q->next)
        q->next->prev = q;
    q->f->seqs = q;
    return 0;
}

void kvf_close(struct kvf_seq *q)
{
    if (!q->f)
        return;
    kvf_detach(q);
    *(q->prev ? &q->prev->next : &q->f->seqs) = q->next;
    if (q->next)
        q->next->prev = q->prev;
    seq_free(q);
}

static uint32_t stored_blocks(struct kvf_seq *q, uint32_t whole)
{
    return q->f->keyed && whole ? kvs_match(q->f->d->store, q->key + 1, whole, q->f->m->variant)
                                : 0;
}

/* Rows of block b that the store has of the session's last rest, and their key; 0: none. */
static uint32_t stored_rest(struct kvf_seq *q, uint32_t b, uint64_t want, struct kvs_key *ret)
{
    uint32_t n = (uint32_t)(q->rest % BLOCK_TOKENS);

    if (!q->f->keyed || q->rest > want || q->rest / BLOCK_TOKENS != b || n < COPY_ROWS_MIN)
        return 0;
    kvs_key_next(&q->key[b], q->toks->p + (uint64_t)b * BLOCK_TOKENS, n, ret);
    return kvs_match(q->f->d->store, ret, 1, q->f->m->variant) ? n : 0;
}

uint64_t kvf_probe(struct kvf_seq *q, uint64_t want)
{
    uint32_t whole = (uint32_t)(want / BLOCK_TOKENS), stored, b, rows = 0, rest;
    struct kvs_key key;

    if (seq_room(q, whole + 1) < 0)
        return 0;
    seq_keys(q, whole);
    stored = stored_blocks(q, whole);
    for (b = 0; b < whole; b++)
        if (b >= stored &&
            !book_whole(q->f, &q->key[b], q->toks->p + (uint64_t)b * BLOCK_TOKENS))
            break;
    uint64_t at = (uint64_t)b * BLOCK_TOKENS;
    uint32_t n = want - at < BLOCK_TOKENS ? (uint32_t)(want - at) : BLOCK_TOKENS;
    if (n)
        (void)book_part(q->f, &q->key[b], q->toks->p + at, n, &rows);
    if (n && (rest = stored_rest(q, b, want, &key)) > rows)
        rows = rest;
    return at + rows;
}

static void seq_set(struct kvf_seq *q, uint32_t b, struct kvf_page *p)
{
    q->page[b] = p;
    for (int part = 0; part < KV_PART_; part++)
        q->table[part][b] = p ? p->index[part] : ENG_PAGE_NONE;
}

/* A page of our own for block b, empty. */
static struct kvf_page *seq_new_page(struct kvf_seq *q, uint32_t b)
{
    struct kvf_page *p = book_take(q->f);

    if (!p)
        return NULL;
    p->prev = q->key[b];
    p->first_pos = (uint64_t)b * BLOCK_TOKENS;
    p->uid = q->uid;
    p->n = 0;
    p->put = PUT_NO;
    p->load = LOAD_NONE;
    p->writer = true;
    p->refs = 1;
    book_enter(q->f, p);
    seq_set(q, b, p);
    return p;
}

static int page_copy(struct kvf *f, const struct kvf_page *from, struct kvf_page *to)
{
    uint64_t most = f->part_bytes[KV_HOT] > f->part_bytes[KV_COLD] ? f->part_bytes[KV_HOT]
                                                                   : f->part_bytes[KV_COLD];
    int r = 0;

    if (!f->copy_buf)
        f->copy_buf = aligned_alloc(IO_ALIGN, round_up(most, IO_ALIGN));
    if (!f->copy_buf)
        return -ENOMEM;
    for (int part = 0; part < KV_PART_ && r == 0; part++) {
        if (!f->part_bytes[part])
            continue;
        r = eng_page_save(f->eng, part, from->index[part], f->copy_buf);
        if (r == 0)
            r = eng_page_load(f->eng, part, to->index[part], f->copy_buf);
    }
    return r;
}

/* Brings rows of block b that lie in part of some page: takes that page over when it ends
 * where we go on and nobody has it, copies it otherwise. */
static void attach_part(struct kvf_seq *q, uint32_t b, uint32_t n)
{
    const int32_t *ids = q->toks->p + (uint64_t)b * BLOCK_TOKENS;
    struct kvf *f = q->f;
    struct kvf_page *p, *own;
    uint32_t rows;

    p = book_part(f, &q->key[b], ids, n, &rows);
    if (!p || rows == 0)
        return;
    if (p->n == rows && rows < BLOCK_TOKENS && p->refs == 0) {
        book_pin(f, p);
        p->writer = true;
        seq_set(q, b, p);
        q->from_device += rows;
        return;
    }
    if (rows < COPY_ROWS_MIN)
        return;
    book_pin(f, p);
    own = seq_new_page(q, b);
    if (own) {
        if (page_copy(f, p, own) == 0) {
            memcpy(own->ids, p->ids, rows * sizeof *own->ids);
            own->n = rows;
            q->from_device += rows;
        }
    }
    book_unpin(f, p);
}

/* A page for whole block b, to be filled from the store. */
static int attach_load(struct kvf_seq *q, uint32_t b)
{
    struct kvf_page *p = seq_new_page(q, b);

    if (!p)
        return -EAGAIN;
    memcpy(p->ids, q->toks->p + p->first_pos, sizeof p->ids);
    p->key = q->key[b + 1];
    p->writer = false;
    p->load = LOAD_WAIT;
    q->loading++;
    queue_push(&q->f->loads, p);
    return 0;
}

/* Where the store has more of an unfinished block than any page: those rows, into a page of our
 * own that goes on from them.  1: on their way; 0: there are none. */
static int attach_rest(struct kvf_seq *q, uint32_t b, uint64_t want)
{
    struct kvs_key key;
    uint32_t n = stored_rest(q, b, want, &key), rows = 0;
    struct kvf_page *p;

    if (n)
        (void)book_part(q->f, &q->key[b], q->toks->p + (uint64_t)b * BLOCK_TOKENS, n, &rows);
    if (rows >= n)
        return 0;
    p = seq_new_page(q, b);
    if (!p)
        return -EAGAIN;
    memcpy(p->ids, q->toks->p + p->first_pos, n * sizeof *p->ids);
    p->key = key;
    p->part = n;
    p->load = LOAD_WAIT;
    q->loading++;
    queue_push(&q->f->loads, p);
    return 1;
}

int kvf_attach(struct kvf_seq *q, uint64_t want)
{
    uint32_t whole = (uint32_t)(want / BLOCK_TOKENS);
    uint32_t blocks = (uint32_t)((want + BLOCK_TOKENS - 1) / BLOCK_TOKENS), stored;
    struct kvf *f = q->f;
    int r = seq_room(q, blocks + 1);

    must(!q->attached);
    if (f->closing)
        r = -EAGAIN;
    if (r < 0)
        return r;
    seq_keys(q, whole);
    stored = stored_blocks(q, whole);
    q->from_device = q->from_host = q->from_file = 0;
    q->n_blocks = blocks;
    for (uint32_t b = 0; b < blocks; b++)
        seq_set(q, b, NULL);
    q->attached = true;
    /* First what is on the device: pinned, so that making room for the rest spares it. */
    for (uint32_t b = 0; b < whole; b++) {
        struct kvf_page *p = book_whole(f, &q->key[b], q->toks->p + (uint64_t)b * BLOCK_TOKENS);

        if (!p)
            continue;
        book_pin(f, p);
        seq_set(q, b, p);
        if (p->load != LOAD_NONE)
            q->loading++;
        else
            q->from_device += BLOCK_TOKENS;
    }
    for (uint32_t b = 0; b < blocks && r >= 0; b++) {
        uint64_t at = (uint64_t)b * BLOCK_TOKENS;

        if (q->page[b])
            continue;
        if (b < stored)
            r = attach_load(q, b);
        else if ((r = attach_rest(q, b, want)) == 0)
            attach_part(q, b, b < whole ? BLOCK_TOKENS : (uint32_t)(want - at));
    }
    if (r < 0) {
        kvf_detach(q);
        return r;
    }
    move_pump(f);
    return 0;
}

bool kvf_gap(const struct kvf_seq *q, uint64_t want, uint64_t *ret_from, uint64_t *ret_to)
{
    uint32_t blocks = (uint32_t)((want + BLOCK_TOKENS - 1) / BLOCK_TOKENS), b, e;

    for (b = 0; b < blocks; b++) {
        uint64_t at = (uint64_t)b * BLOCK_TOKENS;
        uint32_t n = want - at < BLOCK_TOKENS ? (uint32_t)(want - at) : BLOCK_TOKENS;
        uint32_t have = b < q->n_blocks && q->page[b] ? q->page[b]->n : 0;

        if (have >= n)
            continue;
        for (e = b + 1; e < blocks && (e >= q->n_blocks || !q->page[e]); e++)
            ;
        *ret_from = at + have;
        *ret_to = (uint64_t)e * BLOCK_TOKENS < want ? (uint64_t)e * BLOCK_TOKENS : want;
        return true;
    }
    return false;
}

int kvf_prepare(struct kvf_seq *q, uint64_t pos, uint32_t n)
{
    uint32_t last = (uint32_t)((pos + n - 1) / BLOCK_TOKENS);
    int r = seq_room(q, last + 1);

    must(q->attached && n);
    if (r < 0)
        return r;
    for (; q->n_blocks <= last; q->n_blocks++)
        seq_set(q, q->n_blocks, NULL);
    seq_keys(q, last);
    for (uint32_t b = (uint32_t)(pos / BLOCK_TOKENS); b <= last; b++)
        if (!q->page[b] && !seq_new_page(q, b))
            return -EAGAIN;
    return 0;
}

/* Block b is whole: named, shared, on its way down.  When somebody else finished the same
 * block first (equal key, equal bytes), ours is given back. */
static void seq_finished(struct kvf_seq *q, uint32_t b)
{
    struct kvf_page *p = q->page[b], *twin;

    p->writer = false;
    seq_keys(q, b + 1);
    p->key = q->key[b + 1];
    hash_out(q->f, p);
    p->live = false;
    twin = book_whole(q->f, &p->prev, p->ids);
    if (twin && twin->load == LOAD_NONE) {
        book_pin(q->f, twin);
        seq_set(q, b, twin);
        p->refs = 0;
        book_free(q->f, p);
        return;
    }
    book_enter(q->f, p);
    move_down(q->f, p);
}

uint32_t kvf_computed(struct kvf_seq *q, uint64_t pos, uint32_t n)
{
    uint32_t finished = 0;

    for (uint64_t at = pos; at < pos + n; at++) {
        uint32_t b = (uint32_t)(at / BLOCK_TOKENS), row = (uint32_t)(at % BLOCK_TOKENS);
        struct kvf_page *p = q->page[b];

        must(p);
        if (p->n > row)
            continue; /* was there: evaluated again for its logits */
        must(p->n == row && p->writer);
        p->ids[row] = q->toks->p[at];
        if (++p->n == BLOCK_TOKENS) {
            seq_finished(q, b);
            finished++;
        }
    }
    return finished;
}

void kvf_detach(struct kvf_seq *q)
{
    if (!q->attached)
        return;
    /* From the back: the front of a chain is let go last and therefore lives longest. */
    for (uint32_t b = q->n_blocks; b-- > 0;)
        if (q->page[b]) {
            struct kvf_page *p = q->page[b];

            seq_set(q, b, NULL);
            book_unpin(q->f, p);
        }
    q->n_blocks = q->loading = 0;
    q->attached = false;
}
