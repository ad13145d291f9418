/* commit.c - the commit thread: what waits shares one sync per file and one transaction.
 *
 * A group: batches are accepted and written to the turn log as frames; log synced; every
 * segment that new blocks lie in synced; one index transaction with the frames, the blocks
 * and the dropped blocks; done.  Frames are applied from their bytes, the same way a replay
 * does it.  Nothing else happens inside the transaction.
 *
 * Somebody waits for a turn, nobody for a block: a group of turns leaves blocks to the next, and
 * files are made and unlinked when a group is done.
 *
 * When the disk is full the reserve goes first, then the io thread is asked to give segments
 * back; batches wait for that, blocks do not. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/codec.h"
#include "kvstore/repair.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static const uint64_t SHRINK_AGAIN_NS = 5000000000u;
static const uint64_t HOLD_NS =
    4000000000u; /* turns wait for room at most; a stop waits longer */

struct group {
    struct kvs_batch *batch[GROUP_BATCHES_MAX];
    int res[GROUP_BATCHES_MAX];
    uint32_t n_batch;
    struct job *job[TXN_BLOCKS_MAX]; /* BLOCK and DROP */
    uint32_t n_job, n_rows;
    struct meta_job *meta;
    LIST(struct job) segs; /* files to make or to unlink, after all else */
    bool early;            /* KVS_WRONG_ACK_FIRST: batches are gone already */
    bool full;             /* batches that the limit has no room for are refused */
};

void commit_job(struct kvstore *s, struct job *j)
{
    pthread_mutex_lock(&s->to_commit.lock);
    LIST_PUSH(&s->to_commit.jobs, j);
    pthread_cond_signal(&s->to_commit.cond);
    pthread_mutex_unlock(&s->to_commit.lock);
}

void commit_wake(struct kvstore *s)
{
    pthread_mutex_lock(&s->to_commit.lock);
    s->to_commit.woken = true;
    pthread_cond_signal(&s->to_commit.cond);
    pthread_mutex_unlock(&s->to_commit.lock);
}

int commit_apply_frame(struct kvstore *s, const uint8_t *recs, uint32_t bytes)
{
    struct codec_rec c;
    size_t one;
    int r = 0;

    for (uint32_t at = 0; at < bytes && r == 0; at += (uint32_t)one) {
        r = codec_get(recs + at, bytes - at, &c, &one);
        if (r == 0)
            r = index_apply(s->idx, &c.rec);
    }
    return r;
}

/* --- the reserve ------------------------------------------------------------------------------ */

static void reserve_path(const struct kvstore *s, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s/reserve", s->dir);
}

void reserve_make(struct kvstore *s)
{
    char path[PATH_MAX];

    reserve_path(s, path);
    s->reserve_ns = now_ns() + 10000000000u;
    if (s->reserve_held || s->reserve_bytes == 0)
        return;
    int in_way = sys_plain(path);
    if (in_way < 0 && in_way != -ELOOP) {
        store_state(s, SAY_RESERVE,
                    "the reserve for a full disk cannot be made (%.300s: %s); move it away",
                    path, err_str(in_way));
        return;
    }
    /* Only where it leaves room: else it would be given up again at once. */
    if ((in_way < 0 || sys_taken_bytes(path) < s->reserve_bytes) &&
        (sys_free_bytes(s->dir) < 2 * s->reserve_bytes || sys_clear(path, NULL) < 0 ||
         sys_make(&s->sys, path, NULL, 0, s->reserve_bytes) < 0))
        return;
    s->reserve_held = true;
    store_over(s, SAY_RESERVE, "the reserve for a full disk is there again");
}

static bool reserve_release(struct kvstore *s)
{
    char path[PATH_MAX];

    if (!s->reserve_held)
        return false;
    reserve_path(s, path);
    s->reserve_held = false;
    store_state(s, SAY_RESERVE,
                "disk full: the reserve of %llu MiB (%.300s) is given up; free some space, it "
                "is made again by itself",
                (unsigned long long)(s->reserve_bytes >> 20), path);
    return sys_unlink(&s->sys, path) == 0;
}

/* --- a group --------------------------------------------------------------------------------- */

static void fault_in(struct kvstore *s, int why, const char *doing, const char *name)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof path, "%s/%s", s->dir, name);
    store_fault(s, why, doing, path);
}

/* The batch may be submitted again, and what came behind it has to wait for that. */
static bool is_refusal(int r)
{
    return sys_full(r) || r == -ENOMEM || r == -EAGAIN;
}

/* Frames into the log's buffer; a batch that does not fit its state fails alone, one for which there
 * is no room takes those behind it along. */
static void group_log(struct kvstore *s, struct group *g)
{
    uint64_t sum = 0, refusals = s->refusals;

    turnlog_begin(s->log);
    accept_begin(&s->accept, s->idx, INDEX_COMMIT);
    for (uint32_t i = 0; i < g->n_batch; i++) {
        struct kvs_batch *b = g->batch[i];
        g->res[i] = s->fault == -EROFS ? -EROFS : b->seen != refusals ? -ECANCELED : 0;
        if (g->res[i] == 0 && g->full && !limit_takes(s, b, &sum))
            g->res[i] = -EDQUOT;
        if (g->res[i] == 0)
            g->res[i] = accept_batch(&s->accept, b->rec, b->n_rec);
        if (g->res[i] ==
            E_CORRUPT) { /* what it would change is damaged: made anew, once more */
            repair_turn(s);
            g->res[i] = repair_why(s, accept_batch(&s->accept, b->rec, b->n_rec));
        }
        if (s->acked_lost && (g->res[i] == -EINVAL || g->res[i] == -ENOENT))
            g->res[i] = E_CORRUPT; /* it follows what was lost, and that was said */
        if (g->res[i] == 0)
            g->res[i] = turnlog_add(s->log, b->rec, b->n_rec);
        if (g->res[i] == 0)
            collect_seen(s, b->rec, b->n_rec);
        if (is_refusal(g->res[i]))
            refusals = s->refusals + 1;
    }
}

/* Back to the front of the queue, those from n on. */
static void group_return(struct kvstore *s, struct group *g, uint32_t n)
{
    pthread_mutex_lock(&s->to_commit.lock);
    for (uint32_t i = g->n_batch; i-- > n;) {
        g->batch[i]->next = s->to_commit.batches.head;
        s->to_commit.batches.head = g->batch[i];
        if (!g->batch[i]->next)
            s->to_commit.batches.tail = &g->batch[i]->next;
    }
    pthread_mutex_unlock(&s->to_commit.lock);
    g->n_batch = n;
}

/* Turns that do not fit the limit wait for segments to be given back, then for the log to be
 * compacted; then they are refused. */
static void group_limit(struct kvstore *s, struct group *g)
{
    uint64_t sum = 0, all = 0;
    bool fit = true;

    g->full = false;
    for (uint32_t i = 0; i < g->n_batch; i++)
        if (!limit_takes(s, g->batch[i], &sum))
            fit = false;
    all = sum;
    if (g->n_batch == 0 || s->fault == -EROFS)
        return;
    if ((!fit || limit_wants_segments(s, all)) && s->space != SPACE_NONE && s->file_bytes) {
        s->space = SPACE_WANTED;
        group_return(s, g, 0);
        io_wake(s);
        return;
    }
    if (fit) {
        s->hold_ns = 0;
        return;
    }
    if (s->hold_ns == 0)
        s->hold_ns = now_ns();
    if (now_ns() - s->hold_ns > HOLD_NS) {
        s->hold_ns = 0;
        g->full = true;
        return;
    }
    if (ckpt_busy(s) || s->ckpt.trim || collect_gains(s) ||
        (limit_log_due(s, true) && ckpt_begin(s) == 0)) {
        s->limit_hold = true;
        group_return(s, g, 0);
        return;
    }
    s->hold_ns = 0;
    g->full = true;
}

static int group_sync_segments(struct kvstore *s, struct group *g)
{
    s->group++;
    for (uint32_t i = 0; i < g->n_job; i++) {
        struct io_task *t = (struct io_task *)g->job[i];
        if (g->job[i]->kind != JOB_BLOCK || t->seg->synced_group == s->group)
            continue;
        t->seg->synced_group = s->group;
        int r = sys_sync(&s->sys, t->seg->fd);
        if (r < 0) {
            char path[PATH_MAX];
            seg_path(s->dir, t->l->id, t->seg->number, path, sizeof path);
            store_fault(s, r, "syncing a segment", path);
            return r;
        }
    }
    return 0;
}

/* An index that was made anew while the group waited has the frames from the log already. */
static int txn_frames(struct kvstore *s)
{
    struct log_frame f;
    uint64_t n, whole, seen;
    const uint8_t *b = turnlog_group(s->log, &n);
    uint8_t v[8] = {0};
    int r = n ? index_meta_get(s->idx, INDEX_WRITE, "logseq", v, 8) : 0;

    seen = ld64(v);
    r = r == -ENOENT || r > 0 ? 0 : r;
    for (uint64_t at = 0; at < n && r == 0; at += whole) {
        r = log_frame_get(b + at, n - at, &f, &whole);
        must(r == 0); /* we have just made it */
        if (f.seq > seen)
            r = commit_apply_frame(s, f.recs, f.bytes);
    }
    return r;
}

int commit_day(struct kvstore *s)
{
    uint8_t v[16];

    st64(v, s->day);
    st64(v + 8, store_today(s));
    return index_meta_put(s->idx, "day", v, 16);
}

int commit_seq(struct kvstore *s)
{
    uint8_t v[LOGCRC_BYTES];
    uint32_t crc;

    st64(v, turnlog_seq(s->log));
    int r = index_meta_put(s->idx, "logseq", v, 8);
    if (!turnlog_crc(s->log, &crc))
        st64(v, 0); /* of that frame nothing is known */
    st32(v + 8, crc);
    return r < 0 ? r : index_meta_put(s->idx, "logcrc", v, sizeof v);
}

/* One attempt at the whole transaction, with the new blocks or without. */
static int group_txn(struct kvstore *s, struct group *g, bool blocks)
{
    int r = index_begin(s->idx);

    if (r < 0)
        return r;
    r = txn_frames(s);
    for (uint32_t i = 0; i < g->n_job && r == 0; i++) {
        struct drop_job *d = (struct drop_job *)g->job[i];
        if (g->job[i]->kind == JOB_BLOCK) {
            if (blocks && g->job[i]->res == 0)
                r = index_block_put(s->idx, &((struct io_task *)g->job[i])->row);
            continue;
        }
        for (uint32_t k = 0; k < d->n && r == 0; k++)
            r = index_block_drop(s->idx, &d->v[k].place);
    }
    for (struct meta_job *m = g->meta; m && r == 0; m = m->next)
        r = index_meta_put(s->idx, m->name, m->v, m->bytes);
    if (r == 0)
        r = commit_day(s);
    if (r == 0 && guard_clock_due(s))
        r = guard_clock_put(s);
    if (r == 0)
        r = commit_seq(s);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    r = index_commit(s->idx);
    if (r == 0)
        s->acked_seq = turnlog_seq(s->log);
    return r;
}

/* Once more where it met damage; others may write to the index in just that time, which ends
 * nothing: then it is -EAGAIN. */
static int group_index(struct kvstore *s, struct group *g, bool blocks)
{
    int r = group_txn(s, g, blocks);

    if (r == E_CORRUPT) {
        repair_turn(s);
        r = group_txn(s, g, blocks);
    }
    return repair_why(s, r);
}

/* Log, segments, index, in this order.  A code for the batches; jobs carry their own. */
static int group_write(struct kvstore *s, struct group *g)
{
    bool logged, blocks = false;
    int r = turnlog_write(s->log, s->o.wrong != KVS_WRONG_ACK_FIRST);

    if (sys_full(r) && !g->early && reserve_release(s)) {
        group_log(s, g); /* the failed write took the frames back */
        r = turnlog_write(s->log, true);
    }
    logged = r == 0;
    if (r < 0 && !sys_full(r) && r != -ENOMEM)
        fault_in(s, r, "writing the turn log", "log");
    if (r < 0 && !logged)
        turnlog_begin(s->log); /* no frames: blocks and drops may still go */
    int rows = s->fault == -EROFS ? -EROFS : 0;
    if (rows == 0 && s->o.wrong != KVS_WRONG_INDEX_FIRST && group_sync_segments(s, g) < 0)
        rows = -EROFS;
    for (uint32_t i = 0; i < g->n_job; i++) {
        g->job[i]->res = rows;
        blocks |= g->job[i]->kind == JOB_BLOCK;
    }
    if (rows == -EROFS && !logged) /* -EEXIST would say that the batch names something twice */
        return r < 0 && r != -EEXIST ? r : -EROFS;
    uint32_t heals = s->heals;
    int t = group_index(s, g, true);
    if (sys_full(t) && reserve_release(s))
        t = group_index(s, g, true);
    if (sys_full(t) && blocks) {
        /* Turns are the truth: they go before blocks. */
        for (uint32_t i = 0; i < g->n_job; i++)
            if (g->job[i]->kind == JOB_BLOCK && g->job[i]->res == 0)
                g->job[i]->res = sys_full_as(t);
        t = group_index(s, g, false);
    }
    if (t < 0) {
        int why = sys_full(t) ? sys_full_as(t) : is_refusal(t) ? t : -EROFS;
        for (uint32_t i = 0; i < g->n_job; i++)
            if (g->job[i]->res == 0)
                g->job[i]->res = why;
        /* One made anew meanwhile has the frames from the log, which keeps them. */
        bool has = logged && s->heals != heals;
        if (why == -EROFS || (logged && !has && turnlog_undo(s->log) < 0))
            fault_in(s, t, "committing to the index", "index.mdb");
        if (logged)
            r = has && why != -EROFS ? 0 : why;
    }
    return r;
}

static void batches_done(struct kvstore *s, struct group *g, int r)
{
    bool refused = false;

    for (uint32_t i = 0; i < g->n_batch; i++) {
        int res = g->res[i] < 0 ? g->res[i] : r;
        if (is_refusal(res) && !refused) {
            s->refusals++;
            refused = true;
        }
        g->batch[i]->seen = s->refusals;
        store_batch_done(s, g->batch[i], res);
    }
}

static void group_done(struct kvstore *s, struct group *g, int r)
{
    if (!g->early)
        batches_done(s, g, r);
    for (uint32_t i = 0; i < g->n_job; i++)
        io_job_back(s, g->job[i]);
    while (g->meta) {
        struct meta_job *m = g->meta;
        g->meta = m->next;
        free(m);
    }
}

/* Batches that found the disk full wait, in front, for the io thread to give space back. */
static bool group_holds(struct kvstore *s, struct group *g, int r)
{
    if (!sys_full(r) || g->n_batch == 0 || g->early || s->space == SPACE_NONE ||
        s->fault == -EROFS)
        return false;
    s->space = SPACE_WANTED;
    group_return(s, g, 0);
    io_wake(s);
    return true;
}

static void group_run(struct kvstore *s, struct group *g)
{
    group_limit(s, g);
    group_log(s, g);
    /* The group's own book of changes is full: the rest goes with the next group. */
    uint32_t n = 0;
    while (n < g->n_batch && (g->res[n] != E_LIMIT || n == 0))
        n++;
    if (n < g->n_batch) {
        group_return(s, g, n);
        group_log(s, g);
    }
    if (s->o.wrong == KVS_WRONG_ACK_FIRST) {
        batches_done(s, g, 0);
        g->early = true;
        /* As a commit at leisure would be: long enough for a kill right after the ack. */
        usleep(10000);
    }
    int r = group_write(s, g);
    s->n.commits++;
    if (r == 0 && !guard_holds(s)) {
        /* It went into files that nobody will find: that is not durable. */
        r = -EROFS;
        for (uint32_t i = 0; i < g->n_job; i++)
            if (g->job[i]->res == 0)
                g->job[i]->res = -EROFS;
    }
    bool wrote = false;
    int full = 0;
    for (uint32_t i = 0; i < g->n_job; i++)
        full = sys_full(g->job[i]->res) ? g->job[i]->res : full;
    for (uint32_t i = 0; i < g->n_batch; i++)
        wrote |= g->res[i] == 0;
    if (full)
        store_full(s, full, "committing blocks");
    if (r == 0) {
        if (wrote) {
            s->space = SPACE_FINE;
            if (s->fault == -ENOSPC && !full)
                store_recovered(s); /* else room is asked for by itself */
        }
    } else if (sys_full(r)) {
        if (group_holds(s, g, r)) {
            group_done(s, g, 0);
            return;
        }
        s->space = SPACE_FINE; /* asked and refused: these fail, the next may ask again */
        store_full(s, r, "writing turns");
        r = sys_full_as(r);
    }
    commit_sizes(s);
    group_done(s, g, r);
}

/* What log and index take, for whoever asks. */
void commit_sizes(struct kvstore *s)
{
    s->log_bytes = turnlog_bytes(s->log);
    s->index_bytes = index_bytes(s->idx);
    s->ahead_bytes = turnlog_ahead_bytes(s->log) + index_spare_bytes(s->idx);
    limit_look(s);
}

/* --- the turn ------------------------------------------------------------------------------------- */

static void seg_work(struct kvstore *s, struct seg_job *j)
{
    if (s->fault == -EROFS) {
        j->job.res = -EROFS;
    } else if (j->job.kind == JOB_GROW) {
        char dir[PATH_MAX];
        snprintf(dir, sizeof dir, "%s/kv", s->dir); /* others may have taken it away */
        j->job.res = sys_mkdir(&s->sys, dir);
        snprintf(dir, sizeof dir, "%s/kv/%s", s->dir, j->l->id);
        if (j->job.res == 0)
            j->job.res = sys_mkdir(&s->sys, dir);
        if (j->job.res == 0)
            j->job.res =
                seg_make(&s->sys, s->dir, s->uuid, j->l, j->number, j->n_slots, &j->seg);
    } else {
        char path[PATH_MAX];
        seg_path(s->dir, j->l->id, j->number, path, sizeof path);
        bool ours = seg_there(path, j->seg);
        seg_close(j->seg);
        j->job.res = ours ? sys_unlink(&s->sys, path) : 0;
    }
    io_job_back(s, &j->job);
}

static void segs_work(struct kvstore *s, struct group *g)
{
    while (g->segs.head) {
        struct job *j = g->segs.head;

        LIST_POP(&g->segs);
        seg_work(s, (struct seg_job *)j);
    }
}

static bool waits_for_space(const struct kvstore *s)
{
    return s->space == SPACE_WANTED || s->limit_hold;
}

/* Turns do not wait for blocks' segments to be synced: those go with the next group, whatever else
 * that has. */
static bool jobs_go(struct kvstore *s, const struct group *g)
{
    bool go = !g->n_batch || s->to_commit.jobs_waited;

    s->to_commit.jobs_waited = !go && s->to_commit.jobs.head;
    return go;
}

/* Takes what is here, up to the bounds of one group. */
static void gather(struct kvstore *s, struct group *g, uint64_t wait_ns)
{
    bool go;
    uint64_t until = now_ns() + wait_ns, company = 0;
    struct timespec ts;

    *g = (struct group){0};
    LIST_INIT(&g->segs);
    pthread_mutex_lock(&s->to_commit.lock);
    for (;;) {
        bool hold = waits_for_space(s), turns = s->to_commit.batches.head && !hold;
        uint64_t now = now_ns(), stop = until;
        if (turns || s->to_commit.woken || now >= until)
            break;
        if (s->to_commit.jobs.head) {
            /* Blocks alone wait a moment for others: a commit costs the same for many. */
            if (!company)
                company = now + GATHER_NS;
            if (company < stop)
                stop = company;
            if (now >= stop || s->to_commit.jobs.head->kind != JOB_BLOCK)
                break;
        }
        ts.tv_sec = (time_t)(stop / 1000000000u);
        ts.tv_nsec = (long)(stop % 1000000000u);
        (void)pthread_cond_timedwait(&s->to_commit.cond, &s->to_commit.lock, &ts);
    }
    s->to_commit.woken = false;
    while (!waits_for_space(s) && s->to_commit.batches.head && g->n_batch < GROUP_BATCHES_MAX) {
        g->batch[g->n_batch++] = s->to_commit.batches.head;
        LIST_POP(&s->to_commit.batches);
    }
    go = jobs_go(s, g);
    while (go && s->to_commit.jobs.head) {
        struct job *j = s->to_commit.jobs.head;
        uint32_t rows = j->kind == JOB_DROP ? ((struct drop_job *)j)->n : 1;
        bool row = j->kind == JOB_BLOCK || j->kind == JOB_DROP;
        if (row && g->n_rows + rows > TXN_BLOCKS_MAX)
            break;
        LIST_POP(&s->to_commit.jobs);
        if (row) {
            g->n_rows += rows;
            g->job[g->n_job++] = j;
        } else {
            LIST_PUSH(&g->segs, j);
        }
    }
    g->meta = s->to_commit.metas.head;
    LIST_INIT(&s->to_commit.metas);
    pthread_mutex_unlock(&s->to_commit.lock);
}

static void index_smaller(struct kvstore *s)
{
    /* LMDB is to copy only what was walked. */
    int r = s->index_bad || s->scrub.pid ? -EAGAIN : index_shrink_open(s->idx);

    s->shrink_ns = now_ns() + SHRINK_AGAIN_NS;
    if (r == -EIO)
        fault_in(s, r, "opening the index again", "index.mdb");
    commit_sizes(s);
}

void kvs_commit_turn(struct kvstore *s, uint64_t wait_ns)
{
    struct group g;

    must_be(s, STORE_MAGIC);
    guard_turn(s);
    kept_turn(s);
    bool busy = forget_busy(s) || collect_busy(s) || ckpt_busy(s) || s->ckpt.trim, some;
    repair_turn(s);
    gather(s, &g, busy ? 0 : wait_ns);
    some = g.n_batch || g.n_job || g.meta;
    logwatch_look(s);
    if (some)
        group_run(s, &g);
    segs_work(s, &g);
    forget_turn(s);
    collect_turn(s);
    if (!ckpt_busy(s) && !s->ckpt.trim && s->fault != -EROFS && limit_log_due(s, false))
        (void)ckpt_begin(s);
    ckpt_turn(s);
    logwatch_keep(s);
    if (!busy && !ckpt_busy(s) && s->fault != -EROFS && limit_index_due(s, !some))
        index_smaller(s);
    if (s->limit_hold && (now_ns() - s->hold_ns > HOLD_NS ||
                          (!ckpt_busy(s) && !s->ckpt.trim && !collect_gains(s))))
        s->limit_hold = false;
    uint64_t now = now_ns();
    if (!s->reserve_held && now > s->reserve_ns && s->fault != -EROFS)
        reserve_make(s);
    if (now > s->reader_check_ns) {
        s->reader_check_ns = now + 60000000000u;
        index_reader_check(s->idx);
    }
}
