/* kvmove.c - blocks on their way between device pages and the store.
 *
 * Two queues, loads before puts (a waiting user before write-behind), a bounded number of
 * transfers under way.  The copies run on the store's io thread: they touch the page's
 * engine memory and nothing of the book. */
#include "base/check.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/kvbook.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/quota.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "engine/engine.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void queue_init(struct kvf_queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
    q->n = 0;
}

void queue_push(struct kvf_queue *q, struct kvf_page *p)
{
    p->wait_next = NULL;
    *q->tail = p;
    q->tail = &p->wait_next;
    q->n++;
}

struct kvf_page *queue_pop(struct kvf_queue *q)
{
    struct kvf_page *p = q->head;

    if (!p)
        return NULL;
    q->head = p->wait_next;
    if (!q->head)
        q->tail = &q->head;
    p->wait_next = NULL;
    q->n--;
    return p;
}

void queue_remove(struct kvf_queue *q, struct kvf_page *p)
{
    for (struct kvf_page **at = &q->head; *at; at = &(*at)->wait_next)
        if (*at == p) {
            *at = p->wait_next;
            if (!*at)
                q->tail = at;
            p->wait_next = NULL;
            q->n--;
            return;
        }
}

/* --- the two copies: io thread ---------------------------------------------------------------- */
static int copy_down(struct kvs_block_req *r, void *payload)
{
    const struct kvf_io *io = r->user;
    const struct kvf *f = io->f;
    int res = eng_page_save(f->eng, KV_HOT, io->page->index[KV_HOT], payload);

    if (res == 0 && f->part_bytes[KV_COLD])
        res = eng_page_save(f->eng, KV_COLD, io->page->index[KV_COLD],
                            (uint8_t *)payload + f->part_bytes[KV_HOT]);
    return res;
}

static int copy_up(struct kvs_block_req *r, void *payload)
{
    const struct kvf_io *io = r->user;
    const struct kvf *f = io->f;
    int res = eng_page_load(f->eng, KV_HOT, io->page->index[KV_HOT], payload);

    if (res == 0 && f->part_bytes[KV_COLD])
        res = eng_page_load(f->eng, KV_COLD, io->page->index[KV_COLD],
                            (const uint8_t *)payload + f->part_bytes[KV_HOT]);
    return res;
}

/* --- ends -------------------------------------------------------------------------------------- */
static void put_done(struct kvs_block_req *r)
{
    char why[NOROOM_WORDS];
    struct kvf_io *io = r->user;
    struct kvf *f = io->f;
    struct kvf_page *p = io->page;

    must(p->put == PUT_OUT);
    p->put = r->res == 0 || r->res == -EEXIST ? PUT_DONE : PUT_FAILED;
    if (p->put == PUT_FAILED && r->res != f->put_fault)
        log_at(
            LOG_WARN_,
            "model %s: blocks do not go to disk, they stay in memory while there is room and "
            "are computed again when it is not: %s",
            f->m->name, noroom_block(f->d, f->d->uid, f->m, r->res, why));
    f->put_fault = p->put == PUT_FAILED ? r->res : 0;
    if (r->res != 0)
        quota_back(f->d, p->uid, kvflow_block_bytes(f->m));
    io->busy = false;
    f->puts_out--;
    if (p->forget) { /* its session was removed meanwhile */
        kvs_forget(f->d->store, &p->key, 1, f->m->variant);
        if (p->live && !p->refs)
            book_free(f, p);
    }
    move_pump(f);
}

/* Tells every sequence that waits for p what became of it. */
static void load_tell(struct kvf *f, struct kvf_page *p, const struct kvs_block_req *r)
{
    uint64_t b = p->first_pos / BLOCK_TOKENS;

    for (struct kvf_seq *q = f->seqs; q; q = q->next) {
        if (b >= q->n_blocks || q->page[b] != p)
            continue;
        must(q->loading > 0);
        q->loading--;
        q->corrupt += r->corrupt;
        if (r->res == 0) {
            *(r->from == KVS_FROM_HOST ? &q->from_host : &q->from_file) +=
                p->part ? p->part : BLOCK_TOKENS;
            continue;
        }
        q->lost++;
        q->page[b] = NULL;
        q->table[KV_HOT][b] = q->table[KV_COLD][b] = ENG_PAGE_NONE;
        must(p->refs > 0);
        p->refs--;
    }
}

static void load_done(struct kvs_block_req *r)
{
    struct kvf_io *io = r->user;
    struct kvf *f = io->f;
    struct kvf_page *p = io->page;

    must(p->load == LOAD_OUT);
    p->load = LOAD_NONE;
    io->busy = false;
    f->loads_out--;
    f->corrupt += r->corrupt;
    if (r->corrupt)
        log_at(LOG_WARN_,
               "model %s: a stored block at token %llu is damaged, computing it again",
               f->m->name, (unsigned long long)p->first_pos);
    if (r->res == 0) {
        p->n = p->part ? p->part : BLOCK_TOKENS;
        p->put = p->part ? PUT_NO : PUT_DONE; /* unfinished: it goes down when it is whole */
    }
    load_tell(f, p, r);
    p->part = 0;
    if (p->refs == 0) {
        if (r->res == 0) {
            p->refs = 1;
            book_unpin(f, p);
        } else {
            book_free(f, p);
        }
    }
    move_pump(f);
}

/* --- starts ------------------------------------------------------------------------------------ */
static struct kvf_io *io_free(struct kvf *f)
{
    for (uint32_t i = 0; i < KVF_IO_MAX; i++)
        if (!f->io[i].busy)
            return &f->io[i];
    return NULL;
}

static int io_start(struct kvf *f, struct kvf_io *io, struct kvf_page *p, bool put)
{
    struct kvs_block_req *r = &io->req;
    int res;

    memset(r, 0, sizeof *r);
    r->put = put;
    r->layout = f->m->kvs_layout;
    r->key = p->key;
    r->parent = p->prev;
    r->variant = f->m->variant;
    r->first_pos = p->first_pos;
    memcpy(r->ids, p->ids, sizeof r->ids);
    r->n_tokens = put ? p->n : p->part;
    r->last = p->part != 0; /* what comes of it goes down again */
    r->copy = put ? copy_down : copy_up;
    r->done = put ? put_done : load_done;
    r->user = io;
    io->f = f;
    io->page = p;
    res = kvs_block_submit(f->d->store, r);
    io->busy = res == 0;
    return res;
}

void move_pump(struct kvf *f)
{
    struct kvf_io *io;

    if (!f->keyed)
        return;
    while (f->loads.head && (io = io_free(f))) {
        struct kvf_page *p = f->loads.head;

        if (io_start(f, io, p, false) < 0)
            return;
        (void)queue_pop(&f->loads);
        p->load = LOAD_OUT;
        f->loads_out++;
    }
    while (f->puts.head && f->puts_out < KVF_PUTS_MAX && (io = io_free(f))) {
        struct kvf_page *p = f->puts.head;

        if (!quota_put(f->d, p->uid, kvflow_block_bytes(f->m))) {
            (void)queue_pop(&f->puts);
            p->put = PUT_FAILED;
            continue;
        }
        if (io_start(f, io, p, true) < 0) {
            quota_back(f->d, p->uid, kvflow_block_bytes(f->m));
            return;
        }
        (void)queue_pop(&f->puts);
        p->put = PUT_OUT;
        f->puts_out++;
    }
}

void move_down(struct kvf *f, struct kvf_page *p)
{
    must(p->n == BLOCK_TOKENS);
    if (p->put != PUT_NO || !f->keyed)
        return;
    p->put = PUT_WAIT;
    queue_push(&f->puts, p);
    move_pump(f);
}

/* --- unfinished blocks --------------------------------------------------------------------------- */
/* Pages by whose they are and where; so many sessions' tokens are read for it. */
enum { TAIL_READS = 4096 };
struct tails {
    struct kvf *f;
    struct kvf_page **page;
    uint32_t n, reads;
};

static int place_cmp(const struct kvf_page *p, uint32_t uid, uint64_t first_pos)
{
    if (p->uid != uid)
        return p->uid < uid ? -1 : 1;
    return p->first_pos < first_pos ? -1 : p->first_pos > first_pos;
}

static int by_place(const void *a, const void *b)
{
    const struct kvf_page *y = *(struct kvf_page *const *)b;

    return place_cmp(*(struct kvf_page *const *)a, y->uid, y->first_pos);
}

/* The first rows of src go down under their own key: beside the page, which may be another's by
 * now, that has gone on from them, or finished the block. */
static void tail_put(struct kvf *f, struct kvf_page *src, uint32_t rows)
{
    struct kvf_page *p = &f->tails[f->n_tails];

    kvs_key_next(&src->prev, src->ids, rows, &p->key);
    for (uint32_t i = 0; i < f->n_tails; i++)
        if (memcmp(&f->tails[i].key, &p->key, sizeof p->key) == 0)
            return;
    f->n_tails++;
    bool forget = src->forget;
    book_pin(f, src); /* for good: the book goes */
    src->forget = forget;
    src->tails++;
    memcpy(p->index, src->index, sizeof p->index);
    memcpy(p->ids, src->ids, rows * sizeof *p->ids);
    p->prev = src->prev;
    p->n = rows;
    p->uid = src->uid;
    p->first_pos = src->first_pos;
    p->put = PUT_WAIT;
    queue_push(&f->puts, p);
}

/* Are there pages with the rows of the block that s rests in, or that its answer has come to?  One
 * that only looks so, behind other blocks, costs a slot. */
static void tail_of(struct tails *x, const struct sess *s)
{
    const struct toks *t = s->running && s->running->toks ? s->running->toks : s->toks;
    uint64_t end = t && t != s->toks ? t->n : s->head;
    uint32_t rows = end ? (uint32_t)((end - 1) % BLOCK_TOKENS) : 0, lo = 0, hi = x->n;
    uint64_t at = end - 1 - rows;
    int32_t buf[BLOCK_TOKENS];
    const int32_t *ids = buf;

    if (rows < COPY_ROWS_MIN || strcmp(s->rec.model, x->f->m->name) != 0)
        return;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (place_cmp(x->page[mid], s->rec.owner, at) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == x->n || place_cmp(x->page[lo], s->rec.owner, at) != 0)
        return;
    if (t && t->n >= at + rows)
        ids = t->p + at;
    else if (x->reads++ >= TAIL_READS ||
             kvs_tokens(x->f->d->store, &s->branch->rec.id, at, at + rows, buf) < 0)
        return;
    for (; lo < x->n && place_cmp(x->page[lo], s->rec.owner, at) == 0; lo++)
        if (x->f->n_tails < KVF_TAILS_MAX && x->page[lo]->n >= rows &&
            memcmp(x->page[lo]->ids, ids, rows * sizeof *ids) == 0)
            tail_put(x->f, x->page[lo], rows);
}

void move_tails_down(struct kvf *f)
{
    const struct sess_table *t = f->d->sess;
    struct tails x = {.f = f};

    if (!f->keyed || !t || f->tails)
        return;
    f->tails = calloc(KVF_TAILS_MAX, sizeof *f->tails);
    x.page = calloc(f->n_pages, sizeof(struct kvf_page *));
    for (uint32_t i = 0; x.page && f->tails && i < f->n_pages; i++)
        if (f->page[i].live && f->page[i].load == LOAD_NONE && f->page[i].n >= COPY_ROWS_MIN)
            x.page[x.n++] = &f->page[i];
    if (x.n) {
        qsort(x.page, x.n, sizeof *x.page, by_place);
        for (const struct sess *s = t->warm_new; s; s = s->warm_older)
            tail_of(&x, s);
        for (const struct sess_user *u = t->users; u; u = u->next)
            for (int l = 0; l < SESS_LISTS_; l++)
                for (const struct sess *s = u->list[l].newest; s; s = s->older)
                    tail_of(&x, s);
    }
    free(x.page);
}
