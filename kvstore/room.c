/* room.c - room in the file tier: new segments, evicted blocks, segments given back.
 *
 * Order of value: used longer ago goes first, and of those used at the same time the one
 * deepest in its sequence.  An ancestor is never older than its descendants (room_touch), so
 * this never evicts a block before the blocks that need it.  A new block evicts only what is
 * worth less than itself: a session larger than the disk keeps its beginning.  One whose ancestors
 * are not all there serves nobody until they are: it goes first, and evicts nothing.
 *
 * A slot is given back only when the transaction that forgot it is committed.  While the index
 * waits to be healed there is none: no room is made, and what is dropped for another reason is told
 * to the index later. */
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { TOGETHER = 60, RETIRE_SLICE = 16384 }; /* units of used; of the shelf, in one turn */
static const uint64_t RETRY_NS = 2000000000u; /* after the disk refused a segment */
static const uint64_t SETTLE_NS = 2000000000u;

uint64_t seg_limit(const struct kvstore *s)
{
    uint64_t log = s->log_want > s->log_budget ? s->log_want : s->log_budget;
    uint64_t idx = s->index_bytes > s->index_budget ? s->index_bytes : s->index_budget;
    uint64_t rest = s->reserve_bytes + log + idx;

    return s->o.disk_bytes > rest ? s->o.disk_bytes - rest : 0;
}

int room_shut(const struct kvstore *s)
{
    return s->fault == -EROFS ? -EROFS : s->heal_why;
}

/* --- on the shelf ---------------------------------------------------------------------------- */

static void seg_seen(struct kvstore *s, const struct shelf_blk *b)
{
    struct seg *g = layout_seg(s->layout[b->layout], b->segment);

    if (g && b->used > g->young)
        g->young = b->used;
    if (g && b->depth < g->shallow)
        g->shallow = b->depth;
}

uint32_t room_shelve(struct kvstore *s, const struct kvs_key *key, uint64_t variant,
                     const struct shelf_blk *like)
{
    pthread_mutex_lock(&s->table.lock);
    uint32_t h = shelf_add(&s->shelf, key, variant, like);
    pthread_mutex_unlock(&s->table.lock);
    if (h) {
        seg_seen(s, like);
        s->n.blocks++;
    }
    return h;
}

void room_unshelve(struct kvstore *s, uint32_t h)
{
    pthread_mutex_lock(&s->table.lock);
    shelf_del(&s->shelf, h);
    pthread_mutex_unlock(&s->table.lock);
    s->n.blocks--;
}

/* One that is followed, on file or in memory; what it follows itself, if anything. */
struct follows {
    uint32_t h; /* on file, or */
    struct blk *live;
    uint32_t used;
    const uint8_t *parent; /* NULL: a beginning */
};

static bool follow(struct kvstore *s, const uint8_t tag[8], uint64_t variant,
                   struct follows *ret)
{
    uint32_t h = shelf_by_tag(&s->shelf, tag, variant);
    struct blk *live = h ? NULL : table_find_part(&s->table, tag, 8, variant);

    if (h) {
        const struct shelf_blk *b = shelf_at(&s->shelf, h);
        *ret = (struct follows){.h = h, .used = b->used, .parent = b->depth ? b->parent : NULL};
    } else if (live) {
        *ret = (struct follows){.live = live,
                                .used = live->used,
                                .parent = live->first_pos ? live->parent.b : NULL};
    }
    return h || live;
}

/* Up to the first one already this young those above are all there, and as young. */
static bool rooted(struct kvstore *s, const uint8_t *tag, uint64_t variant, uint32_t used)
{
    struct follows x;

    for (uint32_t n = 0; n < CTX_TOKENS_MAX; n++) {
        if (!follow(s, tag, variant, &x))
            return false;
        if (x.used >= used || !x.parent)
            return true;
        tag = x.parent;
    }
    return false;
}

bool room_touch(struct kvstore *s, const uint8_t tag[8], uint64_t variant, uint32_t used)
{
    struct follows x;

    if (!rooted(s, tag, variant, used))
        return false;
    while (tag && follow(s, tag, variant, &x) && x.used < used) {
        if (x.h) {
            shelf_use(&s->shelf, x.h, used);
            seg_seen(s, shelf_at(&s->shelf, x.h));
        } else {
            x.live->used = used; /* not on file, but what it follows may be */
        }
        tag = x.parent;
    }
    return true;
}

uint32_t room_now(struct kvstore *s)
{
    return (uint32_t)(kvs_lived_ns(s, store_wall(s)) / USED_UNIT_NS);
}

void room_use(struct kvstore *s, struct blk *b)
{
    uint32_t now = room_now(s);
    bool beginning = b->first_pos == 0 && !b->on_file;

    if (beginning || room_touch(s, b->on_file ? b->key.b : b->parent.b, b->variant, now))
        b->used = now;
}

static struct blk *in_host(const struct kvstore *s, uint32_t h)
{
    const struct shelf_blk *b = shelf_at(&s->shelf, h);

    return table_find_part(&s->table, b->key, SHELF_KEY, shelf_variant(&s->shelf, b));
}

/* x goes before b. */
static bool worth_less(const struct shelf_blk *x, const struct blk *b)
{
    return x->used < b->used || (x->used == b->used && x->depth > b->first_pos / BLOCK_TOKENS);
}

/* --- given back ------------------------------------------------------------------------------- */

/* Takes the file copy off the shelf and notes it in the job. */
static void drop_note(struct kvstore *s, struct drop_job *d, uint32_t h)
{
    const struct shelf_blk *b = shelf_at(&s->shelf, h);
    struct blk *live = in_host(s, h);
    struct seg *g = layout_seg(d->l, b->segment);

    must(g);
    d->v[d->n].place = (struct index_place){.variant = shelf_variant(&s->shelf, b),
                                            .layout = d->l->tag,
                                            .segment = b->segment,
                                            .slot = b->slot};
    memcpy(d->v[d->n].place.key, b->key, SHELF_KEY);
    d->v[d->n++].seg = g;
    room_unshelve(s, h);
    if (live)
        live->on_file = false;
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

static void drop_pass(struct kvstore *s, struct drop_job *d)
{
    if (!s->heal_why) {
        commit_job(s, &d->job);
        return;
    }
    d->job.next = s->io.drops_wait;
    s->io.drops_wait = &d->job;
}

static void drop_send(struct kvstore *s, struct drop_job *d)
{
    d->l->dropping++; /* also while it waits: nothing more is evicted, no segment closed */
    drop_pass(s, d);
}

static void drops_go(struct kvstore *s)
{
    while (s->io.drops_wait) {
        struct job *j = s->io.drops_wait;
        s->io.drops_wait = j->next;
        commit_job(s, j);
    }
}

void room_drop(struct kvstore *s, struct blk *b)
{
    uint32_t h = shelf_find(&s->shelf, b->key.b, b->variant);
    struct drop_job *d = h ? drop_new(s->layout[b->layout]) : NULL;

    if (!d)
        return; /* no memory: found again, and dropped, at the next use */
    drop_note(s, d, h);
    drop_send(s, d);
}

void room_lose(struct kvstore *s, struct blk *b)
{
    uint32_t h = shelf_find(&s->shelf, b->key.b, b->variant);

    if (h)
        room_unshelve(s, h);
    b->on_file = false;
}

static void page_drop(struct kvstore *s, struct blk *b)
{
    struct host_page *p = b->page;

    pthread_mutex_lock(&s->table.lock);
    b->page = NULL;
    b->whole = false;
    pthread_mutex_unlock(&s->table.lock);
    host_drop(s->host, p);
    table_del(&s->table, b);
}

void room_forget(struct kvstore *s, struct forget_job *f)
{
    struct drop_job *d = NULL;
    uint32_t used = 0;

    for (uint32_t i = f->n; i-- > 0;) {
        uint32_t h = shelf_find(&s->shelf, f->key[i].b, f->variant);
        const struct shelf_blk *b = h ? shelf_at(&s->shelf, h) : NULL;
        struct blk *live = table_find(&s->table, &f->key[i], f->variant);
        if (!b || (live && (live->task || live->page->pins || live->page->dirty)))
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
        if (live)
            page_drop(s, live); /* of no use either */
        drop_note(s, d, h);
    }
    if (d)
        drop_send(s, d);
    free(f);
}

void room_drop_done(struct kvstore *s, struct drop_job *d)
{
    int res = d->job.res;

    /* It was on its way when the index began to wait; that may be over by now. */
    if (res == -EAGAIN || (res < 0 && res == s->heal_why)) {
        drop_pass(s, d);
        return;
    }
    /* When the index could not be changed the slots stay taken: it still names them, and the
     * blocks are back after the next open. */
    for (uint32_t i = 0; i < d->n; i++) {
        if (res == 0) {
            slot_give(d->l, d->v[i].seg, d->v[i].place.slot);
        } else {
            d->v[i].seg->stuck = true;
        }
    }
    d->l->dropping--;
    free(d);
}

static bool evict_own(struct kvstore *s, struct layout *l, const struct blk *b)
{
    uint32_t busy[TASKS_MAX], n_busy = 0, want = (uint32_t)(l->n_slots / 32), h;
    struct drop_job *d = NULL;

    if (want > DROPS_PER_JOB)
        want = DROPS_PER_JOB;
    if (want == 0)
        want = 1;
    while ((h = shelf_worst(&s->shelf, l->index)) && worth_less(shelf_at(&s->shelf, h), b)) {
        const struct blk *live = in_host(s, h);
        if (live && live->task) { /* there are no more of these than tasks */
            shelf_lift(&s->shelf, h);
            busy[n_busy++] = h;
            continue;
        }
        if (!d && !(d = drop_new(l)))
            break;
        drop_note(s, d, h);
        if (d->n == want)
            break;
    }
    while (n_busy)
        shelf_lay(&s->shelf, busy[--n_busy]);
    if (!d)
        return false;
    s->n.evicted += d->n;
    drop_send(s, d);
    return true;
}

/* Everything in the segment is forgotten, some of the shelf at a time; its file goes once that
 * is committed. */
static void retire_turn(struct kvstore *s)
{
    struct layout *l = s->io.retire.l;
    struct seg *g = s->io.retire.g;
    uint32_t end = shelf_end(&s->shelf), stop = s->io.retire.at + RETIRE_SLICE;
    struct drop_job *d = NULL;

    for (; s->io.retire.at < end && s->io.retire.at < stop; s->io.retire.at++) {
        uint32_t h = s->io.retire.at;
        const struct shelf_blk *b = shelf_at(&s->shelf, h);
        if (b->at == SHELF_IDLE || b->layout != l->index || b->segment != g->number)
            continue;
        const struct blk *live = in_host(s, h);
        if (live && live->task) {
            s->io.retire.again = true;
            continue;
        }
        if (!d && !(d = drop_new(l)))
            return; /* no memory now: from here on, later */
        drop_note(s, d, h);
        s->n.evicted++;
        if (d->n == DROPS_PER_JOB) {
            drop_send(s, d);
            d = NULL;
        }
    }
    if (d)
        drop_send(s, d);
    if (s->io.retire.at < end)
        return;
    s->io.retire.at = 1;
    if (!s->io.retire.again)
        s->io.retire.g = NULL;
    s->io.retire.again = false;
}

bool room_busy(const struct kvstore *s)
{
    return (s->io.retire.g != NULL && !s->heal_why) || s->io.gone_at != 0;
}

/* The segment whose youngest block is oldest, of those with nothing in transfer. */
static bool retire_oldest(struct kvstore *s, const struct layout *except, uint32_t before)
{
    struct layout *best_l = NULL;
    struct seg *best = NULL;

    for (uint32_t li = 0; li < s->n_layouts; li++) {
        struct layout *l = s->layout[li];
        for (uint32_t k = 0; k < l->n_seg && l != except; k++) {
            struct seg *g = l->seg[k];
            if (g->dying || g->stuck || g->tasks || g->young >= before)
                continue;
            /* Of equals the one that holds no beginnings. */
            if (!best || g->young < best->young ||
                (g->young == best->young && g->shallow > best->shallow)) {
                best = g;
                best_l = l;
            }
        }
    }
    if (!best)
        return false;
    best->dying = true;
    s->io.n_dying++;
    s->io.retire.l = best_l;
    s->io.retire.g = best;
    s->io.retire.at = 1;
    s->io.retire.again = false;
    retire_turn(s);
    return true;
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

/* 0: room is being made, wait; else none is to be had for this block: E_LIMIT in the limit, -ENOSPC
 * on the disk, -EFBIG a file may not be so large; or why there are no files. */
int room_make(struct kvstore *s, struct layout *l, const struct blk *b)
{
    uint64_t limit = seg_limit(s), used = s->file_bytes;
    uint64_t left = limit > used ? limit - used : 0;
    uint32_t n = seg_slots(l->slot_bytes, s->o.disk_bytes);
    /* A limit that has no room for such a file at all has some for a smaller one.  But where others
     * have taken the room, one of theirs gives way. */
    uint32_t least = seg_bytes(SEG_SLOTS_MIN, l->slot_bytes) <= limit ? SEG_SLOTS_MIN : 1;

    if (l->growing || l->dropping)
        return 0;
    if (l->barred)
        return evict_own(s, l, b) ? 0 : l->barred;
    if (left > 2 * SEG_HEAD_BYTES && (left - 2 * SEG_HEAD_BYTES) / l->slot_bytes < n)
        n = (uint32_t)((left - 2 * SEG_HEAD_BYTES) / l->slot_bytes);
    if (n >= least && seg_bytes(n, l->slot_bytes) <= left && now_ns() >= l->full_until_ns &&
        l->n_seg < SEGS_PER_LAYOUT_MAX) {
        grow(s, l, n);
        return l->growing ? 0 : -ENOMEM;
    }
    if (evict_own(s, l, b))
        return 0;
    if (s->io.n_dying)
        return 0;
    if (l->n_seg == 0 && now_ns() >= l->full_until_ns && retire_oldest(s, l, b->used))
        return 0;
    if (s->files_off)
        return s->files_off;
    return now_ns() < l->full_until_ns ? l->full_why : E_LIMIT;
}

static bool few_files(int r)
{
    return r == -EMFILE || r == -ENFILE;
}

/* A full disk is said elsewhere; of other reasons the first, until one can be had again. */
static void files_said(struct kvstore *s, const struct layout *l, int r)
{
    if (sys_full(r) || r == -ENOMEM || r == -EROFS)
        return;
    s->files_off = r;
    s->io.files_ns = now_ns() + RETRY_NS;
    if (few_files(r))
        store_state(s, SAY_FILES,
                    "files of blocks cannot be opened (%s): what is new is in memory only, and "
                    "what lies in them is computed again; it is tried again by itself, and if "
                    "that does not help allow more open files (ulimit -n, LimitNOFILE=) and "
                    "restart",
                    err_str(r));
    else if (r < 0)
        store_state(s, SAY_FILES,
                    "no file of blocks can be made in %s/kv/%s (%s): what is new is in memory "
                    "only and computed again after that; give the daemon a directory there "
                    "that it can write in, it tries again by itself",
                    s->dir, l->id, err_str(r));
    else
        store_over(s, SAY_FILES, "files of blocks can be made again");
}

bool room_passes(struct kvstore *s, const struct layout *l, int r)
{
    if (few_files(r))
        files_said(s, l, r);
    return few_files(r) || r == -ENOMEM;
}

void room_seg_said(struct kvstore *s, const struct io_task *t, const char *what,
                   const char *costs)
{
    char path[PATH_MAX], typed[400];

    seg_path(s->dir, t->l->id, t->seg->number, path, sizeof path);
    store_note(s, "%.300s cannot %s (%s): %s in this run; %s, then restart", path, what,
               err_str(t->res), costs, sys_remedy(t->res, path, typed, sizeof typed));
}

/* Nobody may ask for one so soon: whether there are descriptors again is tried. */
static void files_again(struct kvstore *s)
{
    if (!few_files(s->files_off) || now_ns() < s->io.files_ns)
        return;
    int fd = open(s->dir, O_PATH | O_CLOEXEC);
    files_said(s, NULL, fd < 0 && few_files(-errno) ? -errno : 0);
    if (fd >= 0)
        close(fd);
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
            store_state(s, SAY_DIRECT,
                        "the file system of %s refuses O_DIRECT: buffered I/O, slower", s->dir);
        }
    }
    if (r < 0) {
        s->file_bytes -= g->bytes;
        l->full_until_ns = now_ns() + RETRY_NS;
        l->full_why = sys_full(r) ? sys_full_as(r) : r;
    }
    files_said(s, l, r);
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
            if (g->dying && g->stuck && l->dropping == 0 &&
                s->io.retire.g != g) { /* will not empty in this run */
                g->dying = false;
                l->full_to = 0;
                s->io.n_dying--;
            }
            if (!g->dying || g->n_taken || s->io.retire.g == g)
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
    s->n.memory = shelf_bytes(&s->shelf);
}

/* Segments shrink when the log or the index has outgrown its share, or when the commit
 * thread met a full disk. */
void room_turn(struct kvstore *s)
{
    bool wanted = s->space == SPACE_WANTED;

    room_count(s);
    files_again(s);
    if (s->heal_why) { /* nothing can go: who waits for room hears so */
        if (wanted) {
            s->space = SPACE_NONE;
            commit_wake(s);
        }
        return;
    }
    drops_go(s);
    if (s->io.retire.g)
        retire_turn(s);
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

/* Those on their way, and those that wait and can go. */
static uint32_t drops_due(const struct kvstore *s)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->n_layouts; i++)
        n += s->layout[i]->dropping;
    for (const struct job *j = s->io.drops_wait; j && s->heal_why; j = j->next)
        n--;
    return n;
}

/* Nobody waits for what is being forgotten, but what the index has not heard of by the end would
 * be back at the next open. */
void room_settle(struct kvstore *s)
{
    uint64_t until = now_ns() + SETTLE_NS;
    bool due;

    do {
        due = s->to_io.back.head || drops_due(s);
        if (due) {
            kvs_io_turn(s, 0);
            kvs_commit_turn(s, 0);
        }
    } while (due && now_ns() < until);
    while (s->io.drops_wait) {
        struct job *j = s->io.drops_wait;
        s->io.drops_wait = j->next;
        free(j);
    }
}
