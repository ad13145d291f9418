/* test_healwait.c - an index that cannot be checked or made anew at once: what it waits for, and what
 * is said and done meanwhile. */
#include "kvstore/repair.h"
#include "tests/kvstore/flip.h"
#include "tests/kvstore/heal.h"
#include <sys/syscall.h>

static int no_new_one(void *user, const struct sys_event *e)
{
    return e->op == SYS_COMMIT && !e->after && strstr(e->path, ".new") ? *(int *)user : 0;
}

static int none_req(void *ctx, const struct kvs_req *r)
{
    (void)ctx, (void)r;
    return 0;
}

static int none_turn(void *ctx, const struct kvs_turn *t)
{
    (void)ctx, (void)t;
    return 0;
}

static int none_part(void *ctx, const struct kvs_part *p)
{
    (void)ctx, (void)p;
    return 0;
}

/* Every read of the store; who hears of a loss believes it. */
static void reads_are(int want)
{
    struct kvs_id id = rig_id(1, 0);
    struct kvs_branch b;
    struct kvs_req q;
    uint64_t end;
    int32_t ids[10];
    char *reply, v[8];
    int n = 0;

    CHECK_EQ(kvs_branch_get(g.s, &id, &b), want);
    CHECK_EQ(kvs_branch_end(g.s, &id, &end), want);
    CHECK_EQ(kvs_tokens(g.s, &id, 0, 10, ids), want);
    CHECK_EQ(kvs_turns(g.s, &id, 10, none_turn, NULL), want);
    CHECK_EQ(kvs_sessions(g.s, count_session, &n), want);
    CHECK_EQ(kvs_reqs(g.s, none_req, NULL), want);
    CHECK_EQ(kvs_req_get(g.s, 1, &id, &q, &reply), want);
    CHECK_EQ(kvs_parts(g.s, 1, &id, none_part, NULL), want);
    CHECK_EQ(kvs_meta_get(g.s, "any", v, sizeof v), want);
    CHECK_EQ(n, 0);
}

/* A store in which nothing was ever written: its log is empty, and lacks nothing. */
static void an_empty_store_loses_nothing(void)
{
    struct kvs_stats st;
    int n = 0;

    rig_init(&g, KVS_IO_THREADS, true);
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    pages_hurt(zeros, 2 * PAGE);
    CHECK_EQ(kvs_sessions(g.s, count_session, &n), 0);
    CHECK_EQ(n, 0);
    CHECK(said("nothing is missing"));
    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        CHECK(!strstr(st.warning[i], "Lost:"));
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    rig_fini(&g);
}

/* What was put in its place keeps its name until there is another. */
static void anothers_index_waits_for_room_too(void)
{
    struct kvs_stats st;
    size_t bytes;
    int why = -ENOSPC;

    open_rig(false);
    CHECK_EQ(rig_talk(&g, 9, 0, 10), 0);
    uint8_t *theirs = index_read(g.dir, &bytes);
    rig_fini(&g);
    open_rig(false);
    g.s->sys.hook = no_new_one;
    g.s->sys.user = &why;
    index_put_back(theirs, bytes);
    free(theirs);
    for (int i = 0; i < 3; i++) {
        g.s->heal_ns = g.s->guard_ns = 0;
        rig_turn(&g);
        reads_are(-ENOSPC);
    }
    kvs_stats(g.s, &st);
    CHECK(st.fault == 0 && st.index_hurt);
    CHECK(!said("is kept as"));
    why = 0;
    g.s->heal_ns = 0;
    rig_turn(&g);
    all_is_there();
    CHECK(!rig_tokens_ok(&g, 9, 10));
    CHECK(said("another store's index, which is kept as"));
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    g.s->sys.hook = NULL;
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    rig_fini(&g);
}

/* With no room for a new one: nothing is read or written, that is said, and it goes on by itself. */
static void one_that_lacks_room_is_tried_again(void)
{
    static const int full[] = {-ENOSPC, -ENOMEM, -EFBIG, -EDQUOT};
    struct kvs_stats st;
    struct kvs_branch b;

    for (int k = 0; k < 8; k++) {
        int why = full[k / 2];
        struct kvs_id id = rig_id(1, 0);
        open_rig(false);
        g.s->sys.hook = no_new_one;
        g.s->sys.user = &why;
        pages_hurt(k % 2 ? heads : zeros, 2 * PAGE);
        CHECK(rig_talk(&g, 1, TOKENS, TOKENS + 10) < 0);
        (void)rig_put(&g, 7, 1);
        CHECK_EQ(kvs_branch_get(g.s, &id, &b), why == -EDQUOT ? -ENOSPC : why);
        kvs_stats(g.s, &st);
        CHECK(st.fault != -EROFS && st.index_hurt);
        CHECK(said(why == -ENOMEM ? "for want of memory" : "for want of room"));
        why = 0;
        g.s->heal_ns = 0;
        rig_turn(&g);
        all_is_there();
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        kvs_stats(g.s, &st);
        CHECK(st.fault == 0 && !st.index_hurt);
        g.s->sys.hook = NULL;
        rig_reopen(&g);
        CHECK(!g.rep.rebuilt);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
        rig_fini(&g);
    }
}

/* What the index's check begins with, and whether that can be had. */
static int no_pipe;
static uint32_t n_pipes;
static _Atomic bool touches; /* others write to the index as its walk begins */
int pipe2(int p[2], int flags)
{
    n_pipes++;
    if (touches)
        touched();
    if (no_pipe == ETIMEDOUT)
        usleep(300000);
    if (no_pipe) {
        errno = no_pipe;
        return -1;
    }
    return (int)syscall(SYS_pipe2, p, flags);
}

/* No process, no file, no memory for it: that says nothing of the index, and passes. */
static void one_that_cannot_be_walked_waits(void)
{
    static const struct {
        int why, is;
    } v[] = {{EMFILE, -EAGAIN}, {EAGAIN, -EAGAIN}, {ENOMEM, -ENOMEM}};
    struct kvs_stats st;

    for (int k = 0; k < 6; k++) {
        open_rig(false);
        no_pipe = v[k / 2].why;
        if (k % 2)
            touched();
        else
            pages_hurt(zeros, 2 * PAGE);
        rig_turn(&g);
        reads_are(v[k / 2].is);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), v[k / 2].is);
        CHECK_EQ(rig_put(&g, 7, 1), v[k / 2].is);
        kvs_stats(g.s, &st);
        CHECK(st.fault == 0 && st.index_hurt && st.n_warnings == 1);
        CHECK(strstr(st.warning[0], "cannot be checked now"));
        no_pipe = 0;
        g.s->heal_ns = 0;
        rig_turn(&g);
        all_is_there();
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        CHECK_EQ(rig_put(&g, 7, 1), 0);
        kvs_stats(g.s, &st);
        CHECK(st.fault == 0 && !st.index_hurt);
        CHECK_EQ(st.n_warnings, k % 2 ? 0 : 1);
        CHECK(k % 2 || strstr(st.warning[0], ".bad-")); /* is kept, and nothing else */
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
        rig_fini(&g);
    }
}

/* A sound index that others write to whenever it is walked: it is asked for again, and neither lost
 * nor the end of the writing. */
static void one_that_is_written_to_at_each_walk_waits(void)
{
    struct kvs_stats st;

    for (int k = 0; k < 2; k++) {
        open_rig(k);
        touches = true;
        touched();
        reads_are(-EAGAIN);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), -EAGAIN);
        CHECK_EQ(rig_put(&g, 7, 1), -EAGAIN);
        touches = false;
        all_is_there();
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        CHECK_EQ(rig_put(&g, 7, 1), 0);
        kvs_stats(g.s, &st);
        CHECK(st.fault == 0 && st.rows_unrepaired == 0);
        CHECK_EQ(g.s->heals, 0);
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
        rig_fini(&g);
    }
}

/* One that takes too long is not walked all the time, and memory is no help. */
static void one_that_takes_long_to_walk_rests_as_long(void)
{
    struct kvs_stats st;

    open_rig(false);
    no_pipe = ETIMEDOUT;
    touched();
    uint64_t began = now_ns();
    rig_turn(&g);
    CHECK(g.s->heal_ns >= began + 1600000000u); /* a second and twice the walk */
    reads_are(-EAGAIN);
    kvs_stats(g.s, &st);
    CHECK(st.fault == 0 && st.n_warnings == 1);
    CHECK(strstr(st.warning[0], "check the disk, and what else keeps it busy"));
    CHECK(!strstr(st.warning[0], "memory"));
    no_pipe = 0;
    g.s->heal_ns = 0;
    all_is_there();
    rig_fini(&g);
}

/* From a row's mending on, so that the first reads find it sound. */
static int touched_at_commit(void *user, const struct sys_event *e)
{
    bool *due = user;

    if (*due && e->op == SYS_COMMIT && e->after) {
        *due = false;
        g.s->idx->alarm_ns = 0;
        index_trust_less(g.s->idx, INDEX_TOUCHED);
        touches = true;
    }
    return 0;
}

static void a_read_of_tokens_does_not_wait_for_the_end_of_that(void)
{
    struct kvs_id id = rig_id(1, 0);
    int32_t ids[TOKENS];
    bool due = true;

    open_rig(false);
    g.s->idx->alarm_ns = UINT64_MAX;
    CHECK(flip_tokens(g.dir, "index.mdb", 1, 300) > 0);
    g.s->sys.hook = touched_at_commit;
    g.s->sys.user = &due;
    uint32_t n = n_pipes;
    CHECK_EQ(kvs_tokens(g.s, &id, 0, TOKENS, ids), -EAGAIN);
    CHECK(!due);
    CHECK_EQ(n_pipes, n + 3);
    touches = false;
    all_is_there();
    g.s->sys.hook = NULL;
    rig_fini(&g);
}

/* The same when the log has the batch already: it is taken back. */
static int touched_at_sync(void *user, const struct sys_event *e)
{
    bool *due = user;

    if (*due && e->op == SYS_SYNC && e->after) {
        *due = false;
        touches = true;
        touched();
    }
    return 0;
}

static void one_that_is_written_to_at_each_commit_waits(void)
{
    struct kvs_stats st;
    bool due = true;

    open_rig(false);
    g.s->sys.hook = touched_at_sync;
    g.s->sys.user = &due;
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), -EAGAIN);
    CHECK(!due);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.fault, 0);
    touches = false;
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 20), 0);
    g.s->sys.hook = NULL;
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 20));
    rig_fini(&g);
}

/* An index made anew has the batch by way of the log: what others do to it then takes neither back. */
static int hurt_then_touched(void *user, const struct sys_event *e)
{
    int *step = user;

    if (*step == 0 && e->op == SYS_SYNC && e->after) {
        *step = 1;
        pages_hurt(zeros, 2 * PAGE);
    } else if (*step == 1 && e->op == SYS_COMMIT && e->after && g.s->heals) {
        *step = 2;
        index_trust_less(g.s->idx, INDEX_TOUCHED);
        touches = true;
    }
    return 0;
}

static void one_made_anew_keeps_the_batch(void)
{
    struct kvs_stats st;
    int step = 0;

    open_rig(false);
    g.s->sys.hook = hurt_then_touched;
    g.s->sys.user = &step;
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    CHECK_EQ(step, 2);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.fault, 0);
    CHECK_EQ(g.s->heals, 1);
    touches = false;
    CHECK_EQ(rig_talk(&g, 1, TOKENS + 10, TOKENS + 20), 0);
    g.s->sys.hook = NULL;
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 20));
    rig_fini(&g);
}

/* Nor is what a reader met before that was healed, or while it is. */
static void what_was_mended_since_the_read_is_no_loss(void)
{
    open_rig(true);
    CHECK(!repair_wait(g.s));
    CHECK_EQ(repair_why(g.s, E_CORRUPT), E_CORRUPT);
    g.s->healing = true;
    CHECK_EQ(repair_why(g.s, E_CORRUPT), -EAGAIN);
    g.s->healing = false;
    g.s->healed++;
    CHECK_EQ(repair_why(g.s, E_CORRUPT), -EAGAIN);
    rig_fini(&g);
}

/* A new index is not begun before this is let go of, or before who waits has asked often. */
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool holds;
static _Atomic int asked;
static int held_up(void *user, const struct sys_event *e)
{
    (void)user;
    if (e->op != SYS_COMMIT || e->after || !strstr(e->path, ".new") ||
        atomic_exchange(&holds, true))
        return 0;
    pthread_mutex_lock(&held);
    pthread_mutex_unlock(&held);
    for (uint64_t until = now_ns() + 20000000000u * T_SLOWER; asked > 0 && now_ns() < until;) {
        pthread_mutex_lock(&g.s->to_commit.lock);
        asked -= g.s->to_commit.woken;
        g.s->to_commit.woken = false;
        pthread_mutex_unlock(&g.s->to_commit.lock);
        usleep(1000);
    }
    return 0;
}

static void hold_up(void)
{
    holds = false;
    pages_hurt(zeros, 2 * PAGE);
    commit_wake(g.s);
    while (!holds)
        usleep(1000);
}

/* Many reads wait no longer than one for the same; for the next time they wait again. */
static void reads_share_one_wait(void)
{
    open_rig(true);
    g.s->sys.hook = held_up;
    pthread_mutex_lock(&held);
    hold_up();
    uint64_t until = now_ns();
    g.s->wait = (struct repair_wait){.until_ns = until, .of = g.s->healed, .broken = true};
    reads_are(-EAGAIN); /* somebody has waited for it already */
    CHECK_EQ(g.s->wait.until_ns, until);
    pthread_mutex_unlock(&held);
    CHECK(said_soon("damaged in its structure: made anew"));
    all_is_there();
    pthread_mutex_lock(&held);
    hold_up();
    asked = 5;
    pthread_mutex_unlock(&held);
    all_is_there();
    CHECK_EQ(asked, 0);
    CHECK(said_soon("damaged in its structure: made anew"));
    g.s->sys.hook = NULL;
    rig_fini(&g);
}

/* Who has waited long enough, or knows why in vain, is answered at once: how long nine reads take. */
static uint64_t reads_take(int want)
{
    uint64_t began = now_ns();

    reads_are(want);
    return now_ns() - began;
}

static void reads_in_vain_take_no_time(void)
{
    uint64_t best = UINT64_MAX;

    open_rig(true);
    g.s->sys.hook = held_up;
    pthread_mutex_lock(&held);
    hold_up();
    uint64_t until = now_ns();
    g.s->wait = (struct repair_wait){.until_ns = until, .of = g.s->healed, .broken = true};
    for (int i = 0; i < 20 && best >= 100000000u; i++) {
        uint64_t ns = reads_take(-EAGAIN);
        best = ns < best ? ns : best;
    }
    CHECK(best < 100000000u); /* a moment each would be 180 ms */
    g.s->heal_why = -ENOSPC;
    g.s->wait.until_ns = now_ns() + 60000000000u;
    CHECK(reads_take(-ENOSPC) < 30000000000u);
    g.s->heal_why = 0;
    pthread_mutex_unlock(&held);
    CHECK(said_soon("damaged in its structure: made anew"));
    all_is_there();
    g.s->sys.hook = NULL;
    rig_fini(&g);
}

/* The commit thread is quick: what it has mended between a read and the wait after it counts. */
static void what_was_mended_before_the_wait_counts(void)
{
    open_rig(true);
    g.s->n.repaired++;
    CHECK(repair_wait(g.s));
    CHECK(!repair_wait(g.s));
    g.s->healed++;
    CHECK(repair_wait(g.s));
    CHECK(!repair_wait(g.s));
    rig_fini(&g);
}

static void what_cannot_be_made_anew_is_said(void)
{
    struct kvs_stats st;
    int why = -EIO;

    open_rig(false);
    g.s->sys.hook = no_new_one;
    g.s->sys.user = &why;
    pages_hurt(heads, 2 * PAGE);
    CHECK(rig_talk(&g, 1, TOKENS, TOKENS + 10) < 0);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.fault, -EROFS);
    CHECK(st.index_hurt);
    CHECK_EQ(g.s->heals, 0);
    CHECK(strstr(st.warning[0], "cannot be made anew"));
    reads_are(-EROFS);
    CHECK(said("cannot be made anew"));
    rig_reopen(&g);
    CHECK(g.rep.rebuilt);
    all_is_there();
    CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
    rig_fini(&g);
}

/* Damaged again and again it is left alone for a while, and goes on by itself. */
static void one_that_is_damaged_often_rests(void)
{
    struct kvs_stats st;

    open_rig(false);
    for (int i = 0; i < HEALS_MAX; i++) {
        pages_hurt(zeros, 2 * PAGE);
        all_is_there();
        CHECK(said("damaged in its structure: made anew"));
    }
    for (int i = 0; i < 2; i++) {
        pages_hurt(zeros, 2 * PAGE);
        rig_turn(&g);
        reads_are(-EAGAIN);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), -EAGAIN);
        kvs_stats(g.s, &st);
        CHECK(st.fault == 0 && st.index_hurt);
        CHECK(said("damaged again, after 4 times within an hour"));
        CHECK(g.s->heal_ns > now_ns() + 3000000000000u);
        /* As an hour after the oldest of them. */
        g.s->heal_at[i] -= 3600000000000u;
        g.s->heal_ns = 0;
        rig_turn(&g);
        all_is_there();
        CHECK(said("damaged in its structure: made anew"));
    }
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    rig_fini(&g);
}

/* A store that is read-only for another reason reads on; what is not sound it walks once. */
static void one_that_stays_damaged_is_walked_once(void)
{
    size_t bytes;
    uint32_t n;

    for (int k = 0; k < 2; k++) {
        open_rig(false);
        uint8_t *old = index_read(g.dir, &bytes);
        CHECK_EQ(rig_talk(&g, 3, TOKENS, TOKENS + 10), 0);
        store_stop(g.s, "for a test");
        touched();
        all_is_there();
        n = n_pipes;
        if (k)
            pages_hurt(zeros, 2 * PAGE);
        else
            index_put_back(old, bytes);
        free(old);
        reads_are(-EROFS);
        rig_turn(&g);
        CHECK_EQ(n_pipes, n + 1);
        CHECK_EQ(g.s->heals, 0);
        rig_reopen(&g);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 3, TOKENS + 10));
        rig_fini(&g);
    }
}

/* What LMDB itself has met, also where that waits for room, or what has lost its name: a store that
 * stopped for another reason waits for a restart. */
static void one_that_stopped_before_waits_for_a_restart(void)
{
    char path[512], aside[512];
    int why = -ENOSPC;

    for (int k = 0; k < 3; k++) {
        open_rig(false);
        if (k == 1) {
            g.s->sys.hook = no_new_one;
            g.s->sys.user = &why;
            pages_hurt(zeros, 2 * PAGE);
            reads_are(-ENOSPC);
        }
        store_stop(g.s, "for a test");
        if (k < 2)
            index_doubt(g.s->idx);
        snprintf(path, sizeof path, "%.400s/index.mdb", g.dir);
        snprintf(aside, sizeof aside, "%.400s/index.was", g.dir);
        if (k == 2) {
            touched();
            CHECK_EQ(rename(path, aside), 0);
        }
        reads_are(-EROFS);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), -EROFS);
        if (k == 2) { /* put back, it is read on */
            CHECK_EQ(rename(aside, path), 0);
            all_is_there();
        }
        g.s->sys.hook = NULL;
        rig_reopen(&g);
        all_is_there();
        rig_fini(&g);
    }
}

static uint32_t n_stuck(void)
{
    const struct layout *l = g.s->layout[g.layout];
    uint32_t n = 0;

    for (uint32_t k = 0; k < l->n_seg; k++)
        n += l->seg[k]->stuck;
    return n;
}

/* No slot is free, and beginnings are worth more than what has them. */
static uint32_t fill(void)
{
    uint32_t n = 1;

    open_rig(false);
    while (n < 2000 && rig_put(&g, 7, n) == 0)
        n++;
    CHECK(n < 2000);
    return n;
}

static void waits_for(int why)
{
    no_pipe = why;
    touched();
}

static void goes_on(void)
{
    no_pipe = 0;
    g.s->heal_ns = 0;
    for (int i = 0; i < 5; i++)
        rig_turn(&g);
    CHECK_EQ(g.s->heal_why, 0);
}

static uint32_t n_there(uint32_t n)
{
    struct kvs_block_req q;
    uint32_t there = 0;

    for (uint32_t i = 0; i < n; i++)
        there += rig_get(&g, 7, i, &q) == 0;
    return there;
}

/* Room that the index cannot hear of is not made: each try would cost blocks and give none. */
static void a_full_tier_keeps_its_blocks_meanwhile(void)
{
    static const int why[] = {EMFILE, ENOMEM}, is[] = {-EAGAIN, -ENOMEM};

    for (int k = 0; k < 2; k++) {
        struct kvs_stats was, st;
        uint32_t n = fill();
        waits_for(why[k]);
        rig_turn(&g);
        CHECK_EQ(g.s->heal_why, is[k]);
        kvs_stats(g.s, &was);
        for (uint64_t s = 100; s < 120; s++)
            CHECK_EQ(rig_put(&g, s, 0), is[k]);
        g.s->space = SPACE_WANTED; /* nor for turns, which hear so */
        rig_turn(&g);
        CHECK_EQ(g.s->space, SPACE_NONE);
        g.s->space = SPACE_FINE;
        g.s->io.retire.l = g.s->layout[g.layout]; /* nor one more slice of a segment */
        g.s->io.retire.g = g.s->layout[g.layout]->seg[0];
        g.s->io.retire.at = 1;
        CHECK(!room_busy(g.s));
        rig_turn(&g);
        CHECK(g.s->io.retire.g != NULL);
        g.s->io.retire.g = NULL;
        kvs_stats(g.s, &st);
        CHECK_EQ(st.blocks, was.blocks);
        CHECK_EQ(st.evicted, was.evicted);
        CHECK_EQ(st.today_bytes, was.today_bytes);
        CHECK_EQ(n_stuck(), 0);
        CHECK_EQ(n_there(n), n);
        goes_on();
        for (uint64_t s = 100; s < 120; s++)
            CHECK_EQ(rig_put(&g, s, 0), 0);
        CHECK_EQ(n_stuck(), 0);
        rig_fini(&g);
    }
}

/* What was on its way to the index then is heard of later, or is back at the next open. */
static void a_drop_under_way_goes_on_afterwards(void)
{
    for (int k = 0; k < 4; k++) {
        struct kvs_stats st;
        uint32_t n = fill();
        struct rig_block b;
        rig_block_set(&g, &b, 100, 0);
        rig_submit(&g, &b, true);
        kvs_io_turn(g.s, 0);
        CHECK_EQ(g.s->layout[g.layout]->dropping, 1);
        waits_for(k % 2 ? ENOMEM : EMFILE);
        rig_turn(&g);
        rig_turn(&g);
        CHECK(b.done);
        CHECK_EQ(b.r.res, k % 2 ? -ENOMEM : -EAGAIN);
        CHECK(g.s->io.drops_wait);
        CHECK_EQ(n_stuck(), 0);
        kvs_stats(g.s, &st);
        CHECK(st.blocks < n);
        if (k < 2) {
            goes_on();
            CHECK_EQ(g.s->layout[g.layout]->dropping, 0);
            CHECK_EQ(n_stuck(), 0);
            CHECK_EQ(rig_put(&g, 100, 0), 0);
            CHECK(n_there(n) < n);
        } else {
            uint64_t began = now_ns();
            rig_close(&g);
            CHECK(now_ns() - began < 1900000000u); /* nothing is waited for */
            no_pipe = 0;
            CHECK_EQ(rig_open(&g), 0);
            kvs_stats(g.s, &st);
            CHECK_EQ(st.blocks, n);
        }
        rig_fini(&g);
    }
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(one_that_lacks_room_is_tried_again), ROW(one_that_cannot_be_walked_waits),
       ROW(one_that_takes_long_to_walk_rests_as_long),
       ROW(one_that_is_written_to_at_each_walk_waits),
       ROW(a_read_of_tokens_does_not_wait_for_the_end_of_that),
       ROW(one_that_is_written_to_at_each_commit_waits), ROW(one_made_anew_keeps_the_batch),
       ROW(what_was_mended_since_the_read_is_no_loss), ROW(anothers_index_waits_for_room_too),
       ROW(an_empty_store_loses_nothing), ROW(one_that_is_damaged_often_rests),
       ROW(reads_share_one_wait), ROW(reads_in_vain_take_no_time),
       ROW(what_was_mended_before_the_wait_counts), ROW(what_cannot_be_made_anew_is_said),
       ROW(one_that_stays_damaged_is_walked_once),
       ROW(one_that_stopped_before_waits_for_a_restart),
       ROW(a_full_tier_keeps_its_blocks_meanwhile), ROW(a_drop_under_way_goes_on_afterwards))
