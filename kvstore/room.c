/* room.c - room in the file tier: new segments, evicted blocks, segments given back.
 *
 * Order of value: used longer ago goes first, and of those used at the same time the one
 * deepest in its sequence.  An ancestor is never older than its descendants (table_touch), so
 * this never evicts a block before the blocks that need it.  A new block evicts only what is
 * worth less than itself: a session larger than the disk keeps its beginning.
 *
 * A slot is given back only when the transaction that forgot it is committed. */
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>

enum { TOGETHER = 60 };                       /* units of blk.used */
static const uint64_t RETRY_NS = 2000000000u; /* after the disk refused a segment */

uint64_t seg_limit(const struct kvstore *s)
{
    uint64_t log = s->log_want > s->log_budget ? s->log_want : s->log_budget;
    uint64_t idx = s->index_bytes > s->index_budget ? s->index_bytes : s->index_budget;
    uint64_t rest = s->reserve_bytes + log + idx;

    return s->o.disk_bytes > rest ? s->o.disk_bytes - rest : 0;
}

/* a goes before b. */
static bool worth_less(const struct blk *a, const struct blk *b)
{
    return a->used < b->used || (a->used == b->used && a->first_pos > b->first_pos);
}

/* Takes the file copy out of the table and notes it in the job. */
static void drop_note(struct kvstore *s, struct drop_job *d, struct blk *b)
{
    d->v[d->n].key = b->key;
    d->v[d->n].variant = b->variant;
    d->v[d->n].seg = layout_seg(d->l, b->segment);
    d->v[d->n].slot = b->slot;
    must(d->v[d->n].seg);
    d->n++;
    pthread_mutex_lock(&s->table.lock);
    b->on_file = false;
    pthread_mutex_unlock(&s->table.lock);
    if (!b->page && !b->task) {
        table_del(&s->table, b);
        s->n.blocks--;
    }
}

static struct drop_job *drop_new(struct layout *l)
{
    struct drop_job *d = calloc(1, sizeof *d);

    if (d) {
        d->job.kind = JOB_DROP;
        d->l = l;
    }
    return d;
}

static void drop_send(struct kvstore *s, struct drop_job *d)
{
    d->l->dropping++;
    commit_job(s, &d->job);
}

/* The caller forgets the block itself when it has no page. */
void room_drop(struct kvstore *s, struct blk *b)
{
    struct drop_job *d = b->on_file ? drop_new(s->layout[b->layout]) : NULL;
    struct host_page *page = b->page;

    if (!d)
        return; /* no memory: found again, and dropped, at the next use */
    must(page);
    drop_note(s, d, b);
    drop_send(s, d);
}

void room_forget(struct kvstore *s, struct forget_job *f)
{
    struct drop_job *d = NULL;
    uint32_t used = 0;

    for (uint32_t i = f->n; i-- > 0;) {
        struct blk *b = table_find(&s->table, &f->key[i], f->variant);
        if (!b || !b->on_file || b->task || (b->page && (b->page->pins || b->page->dirty)))
            continue;
        /* Puts of one path come in any order, some seconds apart on a busy machine. */
        if (used && b->used > used + TOGETHER)
            break; /* somebody has used it since, and all that is above it */
        used = used ? used : b->used;
        if (d && (d->n == DROPS_PER_JOB || d->l != s->layout[b->layout])) {
            drop_send(s, d);
            d = NULL;
        }
        if (!d && !(d = drop_new(s->layout[b->layout])))
            break;
        if (b->page) { /* of no use either */
            pthread_mutex_lock(&s->table.lock);
            struct host_page *page = b->page;
            b->page = NULL;
            b->whole = false;
            pthread_mutex_unlock(&s->table.lock);
            host_drop(s->host, page);
        }
        drop_note(s, d, b);
    }
    if (d)
        drop_send(s, d);
    free(f);
}

void room_drop_done(struct drop_job *d)
{
    /* When the index could not be changed the slots stay taken: it still names them, and the
     * blocks are back after the next open. */
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->job.res == 0) {
            slot_give(d->l, d->v[i].seg, d->v[i].slot);
        } else {
            d->v[i].seg->stuck = true;
        }
    }
    d->l->dropping--;
    free(d);
}

static bool evict_own(struct kvstore *s, struct layout *l, const struct blk *b)
{
    struct blk *worst[DROPS_PER_JOB];
    uint32_t n = 0, want = (uint32_t)(l->n_slots / 32);

    if (want > DROPS_PER_JOB)
        want = DROPS_PER_JOB;
    if (want == 0)
        want = 1;
    for (uint64_t i = 0; i < s->table.n_buckets; i++)
        for (struct blk *x = s->table.bucket[i]; x; x = x->next) {
            if (!x->on_file || x->task || x->layout != l->index || !worth_less(x, b))
                continue;
            if (n == want && !worth_less(x, worst[n - 1]))
                continue;
            uint32_t at = n < want ? n++ : n - 1;
            for (; at > 0 && worth_less(x, worst[at - 1]); at--)
                worst[at] = worst[at - 1];
            worst[at] = x;
        }
    struct drop_job *d = n ? drop_new(l) : NULL;
    if (!d)
        return false;
    for (uint32_t i = 0; i < n; i++)
        drop_note(s, d, worst[i]);
    s->n.evicted += n;
    drop_send(s, d);
    return true;
}

/* Everything in the segment is forgotten; its file goes once that is committed. */
static bool seg_retire(struct kvstore *s, struct layout *l, struct seg *g)
{
    struct drop_job *d = NULL;

    g->dying = true;
    s->io.n_dying++;
    for (uint64_t i = 0; i < s->table.n_buckets; i++)
        for (struct blk *x = s->table.bucket[i], *next; x; x = next) {
            next = x->next;
            if (!x->on_file || x->layout != l->index || x->segment != g->number)
                continue;
            if (!d && !(d = drop_new(l))) {
                g->dying = false;
                l->full_to = 0;
                s->io.n_dying--;
                return false;
            }
            drop_note(s, d, x);
            s->n.evicted++;
            if (d->n == DROPS_PER_JOB) {
                drop_send(s, d);
                d = NULL;
            }
        }
    if (d)
        drop_send(s, d);
    return true;
}

/* The segment whose youngest block is oldest, of those with nothing in transfer. */
static bool retire_oldest(struct kvstore *s, const struct layout *except, uint32_t before)
{
    struct layout *best_l = NULL;
    struct seg *best = NULL;

    for (uint32_t li = 0; li < s->n_layouts; li++) {
        struct layout *l = s->layout[li];
        if (l == except || l->n_seg == 0)
            continue;
        for (uint32_t k = 0; k < l->n_seg; k++)
            l->seg[k]->young = 0, l->seg[k]->shallow = UINT64_MAX;
        for (uint64_t i = 0; i < s->table.n_buckets; i++)
            for (struct blk *x = s->table.bucket[i]; x; x = x->next) {
                struct seg *g = NULL;
                if (x->layout == li && x->task)
                    g = x->task->seg;
                else if (x->layout == li && x->on_file)
                    g = layout_seg(l, x->segment);
                if (g && (x->task || x->used > g->young))
                    g->young = x->task ? UINT32_MAX : x->used;
                if (g && x->first_pos < g->shallow)
                    g->shallow = x->first_pos;
            }
        for (uint32_t k = 0; k < l->n_seg; k++) {
            struct seg *g = l->seg[k];
            if (g->dying || g->stuck || g->young >= before)
                continue;
            /* Of equals the one that holds no beginnings. */
            if (!best || g->young < best->young ||
                (g->young == best->young && g->shallow > best->shallow)) {
                best = g;
                best_l = l;
            }
        }
    }
    return best && seg_retire(s, best_l, best);
}

static void grow(struct kvstore *s, struct layout *l, uint32_t n_slots)
{
    struct seg_job *g = calloc(1, sizeof *g);

    if (!g)
        return;
    g->job.kind = JOB_GROW;
    g->l = l;
    g->number = l->next_number++;
    g->n_slots = n_slots;
    g->bytes = seg_bytes(n_slots, l->slot_bytes);
    s->file_bytes += g->bytes;
    l->growing = true;
    commit_job(s, &g->job);
}

/* 0: room is being made, wait; -ENOSPC: none to be had for this block. */
int room_make(struct kvstore *s, struct layout *l, const struct blk *b)
{
    uint64_t limit = seg_limit(s), used = s->file_bytes;
    uint64_t left = limit > used ? limit - used : 0;
    uint32_t n = seg_slots(l->slot_bytes, s->o.disk_bytes);

    if (l->growing || l->dropping)
        return 0;
    if (l->barred)
        return evict_own(s, l, b) ? 0 : -ENOSPC;
    if (left > 2 * SEG_HEAD_BYTES && (left - 2 * SEG_HEAD_BYTES) / l->slot_bytes < n)
        n = (uint32_t)((left - 2 * SEG_HEAD_BYTES) / l->slot_bytes);
    if (n >= SEG_SLOTS_MIN && seg_bytes(n, l->slot_bytes) <= left &&
        now_ns() >= l->full_until_ns && l->n_seg < SEGS_PER_LAYOUT_MAX) {
        grow(s, l, n);
        return l->growing ? 0 : -ENOMEM;
    }
    if (evict_own(s, l, b))
        return 0;
    if (s->io.n_dying)
        return 0;
    if (l->n_seg == 0 && now_ns() >= l->full_until_ns && retire_oldest(s, l, b->used))
        return 0;
    return -ENOSPC;
}

void room_grow_done(struct kvstore *s, struct seg_job *g)
{
    struct layout *l = g->l;
    int r = g->job.res;

    l->growing = false;
    if (r == 0) {
        r = layout_add_seg(l, g->seg);
        if (r < 0)
            seg_close(g->seg);
        else if (io_seg_open(s, l, g->seg) < 0)
            seg_rest(g->seg); /* when it is needed */
        if (r == 0 && !g->seg->direct && s->direct) {
            s->direct = false;
            store_warn(s, "the file system of %s refuses O_DIRECT: buffered I/O, slower",
                       s->dir);
        }
    }
    if (r < 0) {
        s->file_bytes -= g->bytes;
        l->full_until_ns = now_ns() + RETRY_NS;
    }
    free(g);
}

void room_unlink_done(struct kvstore *s, struct seg_job *u)
{
    s->file_bytes -= u->bytes;
    s->io.n_dying--;
    for (uint32_t i = 0; i < s->n_layouts; i++)
        s->layout[i]->full_until_ns = 0;
    int wanted = SPACE_WANTED;
    if (atomic_compare_exchange_strong(&s->space, &wanted, SPACE_MADE))
        commit_wake(s);
    free(u);
}

static void unlink_emptied(struct kvstore *s)
{
    for (uint32_t i = 0; i < s->n_layouts && s->io.n_dying; i++) {
        struct layout *l = s->layout[i];
        for (uint32_t k = 0; k < l->n_seg; k++) {
            struct seg *g = l->seg[k];
            if (g->dying && g->stuck && l->dropping == 0) { /* will not empty in this run */
                g->dying = false;
                l->full_to = 0;
                s->io.n_dying--;
            }
            if (!g->dying || g->n_taken)
                continue;
            struct seg_job *u = calloc(1, sizeof *u);
            if (!u)
                return;
            u->job.kind = JOB_UNLINK;
            u->l = l;
            u->seg = g;
            u->number = g->number;
            u->bytes = g->bytes;
            io_seg_forget(s, g);
            layout_del_seg(l, g);
            commit_job(s, &u->job);
            k--;
        }
    }
}

void room_count(struct kvstore *s)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < s->n_layouts; i++)
        n += s->layout[i]->n_taken * s->layout[i]->slot_bytes;
    s->slot_bytes = n;
}

/* Segments shrink when the log or the index has outgrown its share, or when the commit
 * thread met a full disk. */
void room_turn(struct kvstore *s)
{
    bool wanted = s->space == SPACE_WANTED;

    room_count(s);
    if (s->io.n_dying && s->io.ring)
        unlink_emptied(s);
    if (s->io.n_dying || (!wanted && s->file_bytes <= seg_limit(s)))
        return;
    if (!wanted && now_ns() < s->io.retire_ns) /* nothing could go a moment ago */
        return;
    s->io.retire_ns = now_ns() + RETRY_NS;
    if (s->fault != -EROFS && retire_oldest(s, NULL, UINT32_MAX)) {
        if (s->io.ring)
            unlink_emptied(s);
    } else if (wanted) {
        s->space = SPACE_NONE;
        commit_wake(s);
    }
}
