/* io.c - the io thread: block requests, the host tier, transfers.
 *
 * A get is served from the host page, joins a transfer under way, or becomes a task that
 * reads a slot into a page.  A put fills a page, takes a slot, is written whole, goes to the
 * commit thread and comes back durable.  Whatever cannot go on waits in a list and is tried
 * again each turn: gets and puts for a page or a task, slotless puts for room. */
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <unistd.h>

enum { DEPTH_BIG = 8, DEPTH_SMALL = 16 };
static const uint64_t WARM_BYTES = 512 << 20; /* of unused host memory, kept ready */

/* --- the ring ---------------------------------------------------------------------------- */

static int ring_files(struct kvstore *s)
{
    /* What is locked rides along: while dead I/O of ours is in flight the ring keeps it open,
     * so that a newcomer cannot have the store before the last write has landed. */
    int r = s->io.ops->add_file(s->io.ring, s->lock_fd);

    if (r >= 0)
        r = s->io.ops->add_file(s->io.ring, s->dir_fd);

    for (uint32_t i = 0; i < s->io.n_open && r >= 0; i++) {
        r = s->io.ops->add_file(s->io.ring, s->io.open[i]->fd);
        s->io.open[i]->file = r;
    }
    return r < 0 ? r : 0;
}

void io_seg_forget(struct kvstore *s, struct seg *g)
{
    struct io_side *io = &s->io;

    for (uint32_t i = 0; i < io->n_open; i++)
        if (io->open[i] == g) {
            must(g->users == 0);
            if (io->ring)
                io->ops->del_file(io->ring, g->file);
            io->open[i] = io->open[--io->n_open];
            break;
        }
    g->file = -1;
}

/* The one asked for longest ago, of those that nothing needs.  false: all are needed. */
static bool seg_shut_one(struct kvstore *s)
{
    struct seg *g = NULL;

    for (uint32_t i = 0; i < s->io.n_open; i++)
        if (s->io.open[i]->users == 0 && (!g || s->io.open[i]->tick < g->tick))
            g = s->io.open[i];
    if (!g)
        return false;
    io_seg_forget(s, g);
    seg_rest(g);
    return true;
}

int io_seg_open(struct kvstore *s, struct layout *l, struct seg *g)
{
    struct io_side *io = &s->io;
    int r;

    g->tick = ++io->tick;
    if (g->file >= 0)
        return 0;
    if (io->n_open == SEGS_OPEN_MAX && !seg_shut_one(s))
        return -EAGAIN;
    r = seg_wake(s->dir, l, g);
    if ((r == -EMFILE || r == -ENFILE) && seg_shut_one(s))
        r = seg_wake(s->dir, l, g);
    if (r == 0)
        r = io->ring ? io->ops->add_file(io->ring, g->fd) : -EIO;
    if (r < 0) {
        seg_rest(g);
        return r;
    }
    g->file = r;
    io->open[io->n_open++] = g;
    return 0;
}

static int ring_open(struct kvstore *s, const struct io_ops *ops)
{
    struct io_opts o = {IO_INFLIGHT_MAX, s->env.io_fault, s->env.io_user};
    struct io_ring *ring;
    int r = ops->open(&ring, &o);

    if (r < 0)
        return r;
    pthread_mutex_lock(&s->ring_lock);
    s->io.ops = ops;
    s->io.ring = ring;
    pthread_mutex_unlock(&s->ring_lock);
    return ring_files(s);
}

void io_wake(struct kvstore *s)
{
    pthread_mutex_lock(&s->ring_lock);
    if (s->io.ring)
        s->io.ops->wake(s->io.ring);
    pthread_mutex_unlock(&s->ring_lock);
}

/* A ring that can no longer be believed has come back empty: go on with threads. */
static void ring_replace(struct kvstore *s)
{
    struct io_ring *old = s->io.ring;
    const struct io_ops *ops = s->io.ops;

    pthread_mutex_lock(&s->ring_lock);
    s->io.ring = NULL;
    pthread_mutex_unlock(&s->ring_lock);
    ops->close(old);
    int r = ring_open(s, &ring_pool);
    if (r < 0)
        store_fault(s, r, "replacing a broken ring", NULL);
    else
        store_state(s, SAY_RING,
                    "%s broke down, block I/O goes on with threads; restart to try it again",
                    ops->name);
}

static void evict(void *ctx, struct host_page *p)
{
    struct kvstore *s = ctx;
    struct blk *b = p->owner;

    must(b->page == p && !b->task);
    pthread_mutex_lock(&s->table.lock);
    b->page = NULL;
    b->whole = false;
    pthread_mutex_unlock(&s->table.lock);
    table_del(&s->table, b); /* on the shelf, or gone */
}

int io_open(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    struct io_side *io = &s->io;
    int r = host_open(&s->host, s->o.host_bytes, evict, s);

    if (r < 0)
        return err_set(eb, r, "no address space for %llu bytes of host memory",
                       (unsigned long long)s->o.host_bytes);
    r = helper_open(&s->helper, host_base(s->host), host_bytes(s->host), WARM_BYTES);
    if (r < 0)
        return err_set(eb, r, "cannot start a thread: %s", err_str(r));
    for (int i = TASKS_MAX - 1; i >= 0; i--) {
        io->task[i].next = io->idle_tasks;
        io->idle_tasks = &io->task[i];
    }
    for (int i = IO_INFLIGHT_MAX - 1; i >= 0; i--) {
        io->chunk[i].next = io->idle_chunks;
        io->idle_chunks = &io->chunk[i];
    }
    LIST_INIT(&io->gets);
    LIST_INIT(&io->puts);
    LIST_INIT(&io->slot_wait);
    LIST_INIT(&io->reads);
    LIST_INIT(&io->writes);
    if (s->env.ring) {
        r = ring_open(s, s->env.ring);
    } else if (s->o.io == KVS_IO_THREADS) {
        r = ring_open(s, &ring_pool);
    } else {
        r = ring_open(s, &ring_uring);
        if (r < 0 && !io->ring && s->o.io == KVS_IO_AUTO) {
            store_state(s, SAY_RING,
                        "io_uring is refused (%s), using four threads instead; allow it with "
                        "sysctl kernel.io_uring_disabled=0 or the io_uring_* system calls in "
                        "the sandbox, or say io=threads",
                        err_str(r));
            r = ring_open(s, &ring_pool);
        } else if (r < 0) {
            return err_set(eb, r, "io_uring is refused (%s): use io=auto or io=threads",
                           err_str(r));
        }
    }
    if (r < 0)
        return err_set(eb, r, "cannot start block I/O: %s", err_str(r));
    rep->io = io->ops->name;
    return 0;
}

void io_close(struct kvstore *s)
{
    helper_close(s->helper);
    if (s->io.ring)
        s->io.ops->close(s->io.ring);
    s->io.ring = NULL;
    host_close(s->host);
}

void io_job_back(struct kvstore *s, struct job *j)
{
    pthread_mutex_lock(&s->to_io.lock);
    LIST_PUSH(&s->to_io.back, j);
    pthread_mutex_unlock(&s->to_io.lock);
    io_wake(s);
}

/* --- tasks ------------------------------------------------------------------------------------ */

static struct io_task *task_take(struct kvstore *s, struct blk *b, struct kvs_block_req *r,
                                 bool write)
{
    struct io_task *t = s->io.idle_tasks;

    must(t && !b->task);
    s->io.idle_tasks = t->next;
    *t = (struct io_task){
        .s = s, .b = b, .l = s->layout[b->layout], .page = b->page, .req = r, .write = write};
    t->slot_bytes = t->l->slot_bytes;
    uint64_t n = (t->slot_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES; /* equal pieces */
    t->chunk = (t->slot_bytes / n + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    b->task = t;
    b->page->pins++;
    return t;
}

/* The block is at rest again; whoever waited for it is asked again, in order, first. */
static void task_drop(struct kvstore *s, struct io_task *t)
{
    struct blk *b = t->b;
    struct kvs_block_req *w = b->waiting;

    t->page->pins--;
    if (t->pinned)
        t->seg->users--;
    if (t->seg)
        t->seg->tasks--;
    b->task = NULL;
    b->waiting = NULL;
    t->next = s->io.idle_tasks;
    s->io.idle_tasks = t;
    while (w) {
        struct kvs_block_req *next = w->next;
        if (w->put)
            LIST_PUSH(&s->io.puts, w);
        else
            LIST_PUSH(&s->io.gets, w);
        w = next;
    }
}

static void wait_for(struct blk *b, struct kvs_block_req *r)
{
    struct kvs_block_req **at = &b->waiting;

    while (*at)
        at = &(*at)->next;
    r->next = NULL;
    *at = r;
}

/* Gives the host page back; without one the block is on the shelf, or nowhere. */
static void page_forget(struct kvstore *s, struct blk *b)
{
    struct host_page *p = b->page;

    pthread_mutex_lock(&s->table.lock);
    b->page = NULL;
    b->whole = false;
    pthread_mutex_unlock(&s->table.lock);
    if (p)
        host_drop(s->host, p);
    if (!b->task)
        table_del(&s->table, b);
}

static void touch(struct kvstore *s, struct blk *b)
{
    room_use(s, b);
    if (b->page)
        host_touch(s->host, b->page);
}

/* --- get ---------------------------------------------------------------------------------------- */

static uint32_t tokens_of(const struct kvs_block_req *r)
{
    return r->n_tokens ? r->n_tokens : BLOCK_TOKENS;
}

/* Its rows were handed up and nobody asks for them again: host page and slot are free. */
static void forget(struct kvstore *s, struct blk *b)
{
    room_drop(s, b);
    page_forget(s, b);
}

/* true: handed over, and wanted for the last time. */
static bool hand_over(struct kvstore *s, struct blk *b, struct kvs_block_req *r,
                      enum kvs_from from)
{
    int res = r->copy ? r->copy(r, b->page->mem + SLOT_HEAD_BYTES) : 0;
    bool last = r->last && res == 0;

    r->from = (uint8_t)from;
    if (res == 0) {
        if (from == KVS_FROM_HOST)
            s->n.hits_host++;
        else
            s->n.hits_file++;
        touch(s, b);
    }
    r->in_host = true;
    store_req_done(s, r, res > 0 ? -EIO : res);
    return last;
}

/* Whether the image in b's page is the block that was asked for.  E_CORRUPT: it is not whole;
 * E_STALE: it is, and holds other tokens than the caller's, which is nothing to drop it for. */
static int image_check(struct kvstore *s, const struct blk *b, const struct kvs_block_req *r)
{
    const struct layout *l = s->layout[b->layout];
    const uint8_t *m = b->page->mem;
    struct slot_head h;
    uint32_t crc;

    if (slot_head_get(m, &h, &crc) < 0 || crc != b->head_crc)
        return E_CORRUPT;
    if (memcmp(h.key.b, b->key.b, 32) || h.variant != b->variant ||
        memcmp(h.uuid, s->uuid, 16) || strcmp(h.layout, l->id) || h.hot_bytes != l->hot_bytes ||
        h.cold_bytes != l->cold_bytes || slot_check(m, &h) < 0) /* hash: under head_crc */
        return E_CORRUPT;
    return slot_ids_equal(m, r->ids, tokens_of(r)) ? 0 : E_STALE;
}

static void miss(struct kvstore *s, struct kvs_block_req *r, bool corrupt)
{
    s->n.misses++;
    if (corrupt)
        s->n.corrupt++;
    r->corrupt |= corrupt;
    store_req_done(s, r, -ENOENT);
}

static int page_take(struct kvstore *s, struct blk *b)
{
    struct host_page *p;
    int r = host_take(s->host, s->layout[b->layout]->slot_bytes, b, &p);

    if (r == 0) {
        helper_used(s->helper, host_top(s->host));
        pthread_mutex_lock(&s->table.lock);
        b->page = p;
        b->whole = false;
        pthread_mutex_unlock(&s->table.lock);
    }
    return r;
}

/* One that is on file only comes off the shelf's words. */
static bool on_shelf(const struct kvstore *s, const struct kvs_block_req *r)
{
    uint32_t h = shelf_find(&s->shelf, r->key.b, r->variant);

    return h && shelf_at(&s->shelf, h)->layout == r->layout;
}

static struct blk *blk_wake(struct kvstore *s, const struct kvs_block_req *r)
{
    uint32_t h = shelf_find(&s->shelf, r->key.b, r->variant);
    struct blk *b = h ? table_add(&s->table, &r->key, r->variant) : NULL;

    if (b) {
        const struct shelf_blk *x = shelf_at(&s->shelf, h);
        b->layout = x->layout;
        b->segment = x->segment;
        b->slot = x->slot;
        b->head_crc = x->head_crc;
        b->first_pos = x->depth * (uint64_t)BLOCK_TOKENS;
        b->used = x->used;
        b->n_tokens = BLOCK_TOKENS;
        b->on_file = true;
        b->parent = r->parent;
    }
    return b;
}

/* false: nothing to start it with now, keep it. */
static bool get_start(struct kvstore *s, struct kvs_block_req *r)
{
    struct blk *b = table_find(&s->table, &r->key, r->variant);

    if (b ? b->layout != r->layout : !on_shelf(s, r)) {
        miss(s, r, false);
        return true;
    }
    if (b && b->page && b->whole) {
        b->page->pins++;
        int bad = image_check(s, b, r);
        b->page->pins--;
        if (bad == 0) {
            if (hand_over(s, b, r, KVS_FROM_HOST) && !b->task)
                forget(s, b);
            return true;
        }
        if (bad == E_STALE) {
            miss(s, r, true);
            return true;
        }
        r->corrupt = true;
        s->n.corrupt++;
        if (b->task || !b->on_file) {
            /* Memory has changed under us and there is no other copy to ask. */
            if (!b->task)
                page_forget(s, b);
            miss(s, r, false);
            return true;
        }
        page_forget(s, b);
        b = NULL;
    }
    if (b && b->task) {
        wait_for(b, r);
        return true;
    }
    if (!s->io.idle_tasks || (!b && !(b = blk_wake(s, r))))
        return false;
    if (page_take(s, b) < 0) {
        table_del(&s->table, b);
        return false;
    }
    struct io_task *t = task_take(s, b, r, false);
    t->seg = layout_seg(t->l, b->segment);
    t->slot = b->slot;
    must(t->seg);
    t->seg->tasks++;
    LIST_PUSH(&s->io.reads, t);
    return true;
}

/* The page is pinned and the block at rest but for us: nothing of it changes meanwhile. */
static void check_apart(struct helper_job *j)
{
    struct io_task *t = (struct io_task *)((char *)j - offsetof(struct io_task, check));

    t->res = image_check(t->s, t->b, t->req);
    t->job.kind = JOB_CHECKED;
    io_job_back(t->s, &t->job);
}

static void read_end(struct kvstore *s, struct io_task *t)
{
    struct blk *b = t->b;
    struct kvs_block_req *r = t->req;
    int res = t->res;

    s->n.read += t->slot_bytes;
    if (res < 0 && res > -4096 && res != -ENODATA) {
        /* The disk did not answer, which says nothing about the copy: row and slot stay, the
         * next open may ask again. */
        if (!room_passes(s, t->l, res)) {
            if (!t->seg->stuck)
                room_seg_said(s, t, "be read", "the blocks it does not give are recomputed");
            t->seg->stuck = true;
            room_lose(s, b);
        }
        task_drop(s, t);
        page_forget(s, b);
        miss(s, r, false);
        return;
    }
    if (res < 0 && res != E_STALE) {
        /* Never served, never tried again: the file copy goes, the caller recomputes. */
        task_drop(s, t);
        room_drop(s, b);
        page_forget(s, b);
        miss(s, r, true);
        return;
    }
    pthread_mutex_lock(&s->table.lock);
    b->whole = true;
    pthread_mutex_unlock(&s->table.lock);
    bool last = res != E_STALE && hand_over(s, b, r, KVS_FROM_FILE);
    if (res == E_STALE)
        miss(s, r, true);
    task_drop(s, t);
    if (last)
        forget(s, b);
}

/* --- put ---------------------------------------------------------------------------------------- */

static void put_end(struct kvstore *s, struct io_task *t, int res)
{
    struct blk *b = t->b;
    struct kvs_block_req *r = t->req;

    t->page->dirty = false;
    s->n.dirty--;
    if (res == 0) {
        uint64_t depth = b->first_pos / BLOCK_TOKENS;
        struct shelf_blk x = {.segment = t->seg->number,
                              .slot = t->slot & 0xffffff,
                              .layout = (uint8_t)b->layout,
                              .head_crc = b->head_crc,
                              .used = b->used,
                              .depth = (uint16_t)(depth < UINT16_MAX ? depth : UINT16_MAX)};
        memcpy(x.parent, b->parent.b, sizeof x.parent);
        b->on_file = room_shelve(s, &b->key, b->variant, &x) != 0;
        b->segment = t->seg->number;
        b->slot = t->slot;
        if (!b->on_file) /* no memory for it: found again at the next open */
            t->seg->stuck = true;
        s->n.state += t->slot_bytes - SLOT_HEAD_BYTES;
    }
    task_drop(s, t);
    r->in_host = true;
    store_req_done(s, r, res);
}

/* Why nothing may go down now, or 0. */
static int put_refused(struct kvstore *s, uint64_t bytes)
{
    int shut = room_shut(s);

    if (shut)
        return shut;
    return s->o.day_bytes && store_today(s) + bytes > s->o.day_bytes ? -EDQUOT : 0;
}

static void image_make(struct kvstore *s, struct blk *b, const struct kvs_block_req *r)
{
    const struct layout *l = s->layout[b->layout];
    struct slot_head h = {.key = b->key,
                          .parent = b->parent,
                          .variant = b->variant,
                          .first_pos = b->first_pos,
                          .hot_bytes = l->hot_bytes,
                          .cold_bytes = l->cold_bytes,
                          .time_ns = b->time_ns,
                          .n_tokens = b->n_tokens};

    memcpy(h.uuid, s->uuid, 16);
    memcpy(h.layout, l->id, LAYOUT_ID_BYTES);
    b->head_crc = slot_seal(b->page->mem, &h, r->ids);
    memcpy(b->hash, h.hash, 16);
}

static bool put_start(struct kvstore *s, struct kvs_block_req *r)
{
    struct blk *b = table_find(&s->table, &r->key, r->variant);

    if (b ? b->layout != r->layout
          : shelf_find(&s->shelf, r->key.b, r->variant) &&
                !on_shelf(s, r)) { /* a key names one layout; another is a caller's error */
        store_req_done(s, r, E_SHAPE);
        return true;
    }
    if (b && b->task) {
        wait_for(b, r);
        return true;
    }
    if (b ? b->on_file : on_shelf(s, r)) { /* equal key and variant mean equal bytes */
        if (b)
            touch(s, b);
        else
            (void)room_touch(s, r->key.b, r->variant, room_now(s));
        r->in_host = b != NULL;
        store_req_done(s, r, 0);
        return true;
    }
    if (!s->io.idle_tasks)
        return false;
    if (!b) {
        b = table_add(&s->table, &r->key, r->variant);
        if (!b) {
            store_req_done(s, r, -ENOMEM);
            return true;
        }
        b->layout = (uint16_t)r->layout;
        b->parent = r->parent;
        b->first_pos = r->first_pos;
        b->n_tokens = tokens_of(r);
        b->time_ns = store_wall(s);
        if (page_take(s, b) < 0) {
            table_del(&s->table, b);
            return false;
        }
        int res = r->copy ? r->copy(r, b->page->mem + SLOT_HEAD_BYTES) : 0;
        if (res != 0) {
            page_forget(s, b);
            store_req_done(s, r, res > 0 ? -EIO : res);
            return true;
        }
        image_make(s, b, r);
        pthread_mutex_lock(&s->table.lock);
        b->whole = true;
        pthread_mutex_unlock(&s->table.lock);
    }
    touch(s, b);
    int refused = put_refused(s, s->layout[b->layout]->slot_bytes);
    if (refused < 0) {
        r->in_host = true;
        store_req_done(s, r, refused);
        return true;
    }
    struct io_task *t = task_take(s, b, r, true);
    t->page->dirty = true;
    s->n.dirty++;
    LIST_PUSH(&s->io.slot_wait, t);
    return true;
}

static void to_commit(struct kvstore *s, struct io_task *t)
{
    const struct blk *b = t->b;

    t->row = (struct index_block){.key = b->key,
                                  .parent = b->parent,
                                  .variant = b->variant,
                                  .layout = t->l->tag,
                                  .first_pos = b->first_pos,
                                  .time_ns = b->time_ns,
                                  .segment = t->seg->number,
                                  .slot = t->slot,
                                  .head_crc = b->head_crc,
                                  .n_tokens = b->n_tokens};
    memcpy(t->row.hash, b->hash, 16);
    t->job.kind = JOB_BLOCK;
    commit_job(s, &t->job);
}

static void slots_assign(struct kvstore *s)
{
    struct io_task *t = s->io.slot_wait.head;

    LIST_INIT(&s->io.slot_wait);
    while (t) {
        struct io_task *next = t->next;
        int shut = room_shut(s), r = shut ? shut : slot_take(t->l, &t->seg, &t->slot);
        if (r == 0) {
            t->seg->tasks++;
            s->sys.bytes_written += t->slot_bytes; /* before: the day's budget is kept */
            if (s->o.wrong == KVS_WRONG_INDEX_FIRST)
                to_commit(s, t);
            else
                LIST_PUSH(&s->io.writes, t);
        } else {
            if (r == -EAGAIN && !shut)
                r = room_make(s, t->l, t->b);
            if (r == 0)
                LIST_PUSH(&s->io.slot_wait, t);
            else
                put_end(s, t, r);
        }
        t = next;
    }
}

static void write_end(struct kvstore *s, struct io_task *t)
{
    if (t->res == 0) {
        if (t->indexed)
            put_end(s, t, 0);
        else
            to_commit(s, t);
        return;
    }
    int res = sys_full(t->res) ? sys_full_as(t->res) : -EROFS;
    if (!t->pinned && s->io.ring) { /* nothing was written: the file cannot be opened */
        if (room_passes(s, t->l, t->res)) {
            slot_give(t->l, t->seg, t->slot);
        } else {
            if (!t->seg->lost)
                room_seg_said(s, t, "be opened", "nothing more is put into it");
            t->seg->lost = t->seg->stuck = true;
        }
        put_end(s, t, t->res);
        return;
    }
    if (res == -EROFS) {
        char path[PATH_MAX];
        seg_path(s->dir, t->l->id, t->seg->number, path, sizeof path);
        store_fault(s, t->res, "writing a block", path);
        t->seg->stuck = true;
    } else {
        slot_give(t->l, t->seg, t->slot);
    }
    put_end(s, t, res);
}

static void block_committed(struct kvstore *s, struct io_task *t)
{
    int res = t->job.res;

    if (res == 0 && s->o.wrong == KVS_WRONG_INDEX_FIRST) {
        /* As a write at leisure would be: long enough for a kill right after the commit. */
        usleep(50000);
        t->indexed = true;
        LIST_PUSH(&s->io.writes, t);
        return;
    }
    if (res < 0 && res != -EROFS)
        slot_give(t->l, t->seg, t->slot);
    put_end(s, t, res);
}

/* --- transfers --------------------------------------------------------------------------------- */

static void transfer_end(struct kvstore *s, struct io_task *t)
{
    if (t->write) {
        write_end(s, t);
    } else if (t->res == 0 && t->slot_bytes >= CHECK_APART_BYTES) {
        t->check.run = check_apart;
        helper_submit(s->helper, &t->check);
    } else {
        if (t->res == 0)
            t->res = image_check(s, t->b, t->req);
        read_end(s, t);
    }
}

static void chunk_done(struct io_req *q)
{
    struct chunk *c = (struct chunk *)q;
    struct io_task *t = c->t;
    struct kvstore *s = t->s;

    c->next = s->io.idle_chunks;
    s->io.idle_chunks = c;
    if (t->write)
        s->io.writes_out--;
    else
        s->io.reads_out--;
    t->out--;
    if (q->res < 0 && t->res == 0)
        t->res = q->res;
    if (t->out == 0 && t->issued >= t->slot_bytes)
        transfer_end(s, t);
}

/* One transfer of the task at the head of a list.  false: the ring takes no more. */
static bool issue(struct kvstore *s, struct io_task *t)
{
    struct chunk *c = s->io.idle_chunks;
    uint64_t left = t->slot_bytes - t->issued;
    uint32_t len = (uint32_t)(left < t->chunk ? left : t->chunk);

    if (!c)
        return false;
    s->io.idle_chunks = c->next;
    c->t = t;
    c->q = (struct io_req){.op = t->write ? IO_WRITE : IO_READ,
                           .file = (uint16_t)t->seg->file,
                           .len = len,
                           .off = slot_off(t->l, t->slot) + t->issued,
                           .buf = t->page->mem + t->issued,
                           .done = chunk_done};
    if (s->io.ops->submit(s->io.ring, &c->q) < 0) {
        c->next = s->io.idle_chunks;
        s->io.idle_chunks = c;
        return false;
    }
    t->issued += len;
    t->out++;
    if (t->write)
        s->io.writes_out++;
    else
        s->io.reads_out++;
    return true;
}

/* Reads first; beside them one write at a time, because mixing costs an SSD most of its
 * bandwidth. */
static void pump(struct kvstore *s)
{
    struct io_side *io = &s->io;

    for (;;) {
        bool read = io->reads.head != NULL;
        struct io_task *t = read ? io->reads.head : io->writes.head;
        if (!t)
            return;
        uint32_t depth = t->slot_bytes < 1 << 20 ? DEPTH_SMALL : DEPTH_BIG;
        if (read ? io->reads_out >= depth : io->writes_out >= (io->reads_out ? 1 : depth))
            return;
        if (!t->pinned && t->res == 0) {
            int r = io->ring ? io_seg_open(s, t->l, t->seg) : -EIO;
            if (r == -EAGAIN)
                return; /* one of those that are open comes back */
            t->pinned = r == 0;
            t->seg->users += r == 0;
            t->res = r;
        }
        if (!io->ring)
            t->res = -EIO;
        if (t->res < 0) { /* a part has failed: the rest is not worth it */
            t->issued = t->slot_bytes;
        } else if (!issue(s, t)) {
            return;
        }
        if (t->issued >= t->slot_bytes) {
            if (read)
                LIST_POP(&io->reads);
            else
                LIST_POP(&io->writes);
            if (t->out == 0) /* only a failed one has nothing left to wait for */
                transfer_end(s, t);
        }
    }
}

/* --- the turn ------------------------------------------------------------------------------------ */

static void intake(struct kvstore *s)
{
    pthread_mutex_lock(&s->to_io.lock);
    struct kvs_block_req *r = s->to_io.reqs.head;
    struct job *j = s->to_io.back.head;
    LIST_INIT(&s->to_io.reqs);
    LIST_INIT(&s->to_io.back);
    pthread_mutex_unlock(&s->to_io.lock);
    while (r) {
        struct kvs_block_req *next = r->next;
        if (r->put)
            LIST_PUSH(&s->io.puts, r);
        else
            LIST_PUSH(&s->io.gets, r);
        r = next;
    }
    while (j) {
        struct job *next = j->next;
        switch (j->kind) {
        case JOB_BLOCK: block_committed(s, (struct io_task *)j); break;
        case JOB_CHECKED: read_end(s, (struct io_task *)j); break;
        case JOB_DROP: room_drop_done(s, (struct drop_job *)j); break;
        case JOB_GROW: room_grow_done(s, (struct seg_job *)j); break;
        case JOB_FORGET: room_forget(s, (struct forget_job *)j); break;
        case JOB_UNLINK: room_unlink_done(s, (struct seg_job *)j); break;
        default: must(!"a job kind");
        }
        j = next;
    }
}

static void work(struct kvstore *s)
{
    struct io_side *io = &s->io;

    while (io->gets.head) {
        struct kvs_block_req *r = io->gets.head;
        LIST_POP(&io->gets);
        if (!get_start(s, r)) { /* back in front: order is kept */
            r->next = io->gets.head;
            io->gets.head = r;
            if (!r->next)
                io->gets.tail = &r->next;
            break;
        }
    }
    while (io->puts.head) {
        struct kvs_block_req *r = io->puts.head;
        LIST_POP(&io->puts);
        if (!put_start(s, r)) {
            r->next = io->puts.head;
            io->puts.head = r;
            if (!r->next)
                io->puts.tail = &r->next;
            break;
        }
    }
    slots_assign(s);
    gone_turn(s);
    room_turn(s);
    pump(s);
}

void kvs_io_turn(struct kvstore *s, uint64_t wait_ns)
{
    must_be(s, STORE_MAGIC);
    intake(s);
    work(s);
    if (!s->io.ring) /* no ring and no threads to be had: every transfer fails, slowly */
        (void)poll(NULL, 0, wait_ns ? 10 : 0);
    else if (s->io.ops->poll(s->io.ring, room_busy(s) ? 0 : wait_ns) < 0)
        ring_replace(s);
    intake(s);
    work(s);
}
