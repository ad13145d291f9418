/* test_commit.c - what goes with what into one group of the commit thread. */
#include "tests/t.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A turn of its own session; done says when. */
struct turn {
    struct kvs_batch b;
    struct kvs_session ses;
    struct kvs_branch br;
    struct kvs_rec rec[2];
    bool done;
};

static void turn_done(struct kvs_batch *b)
{
    *(bool *)b->user = true;
}

static void turn_submit(struct rig *g, struct turn *t, uint64_t n)
{
    char name[32];

    memset(t, 0, sizeof *t);
    snprintf(name, sizeof name, "s%llu", (unsigned long long)n);
    rig_session(&t->ses, n, 0, name);
    t->br = (struct kvs_branch){.id = t->ses.branch, .owner = t->ses.owner};
    t->rec[0] = (struct kvs_rec){.kind = KVS_REC_BRANCH, .branch = &t->br};
    t->rec[1] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &t->ses};
    t->b = (struct kvs_batch){.rec = t->rec, .n_rec = 2, .done = turn_done, .user = &t->done};
    CHECK_EQ(kvs_batch_submit(g->s, &t->b), 0);
}

/* The io side works until something waits for the commit thread. */
static void until_a_job_waits(struct rig *g)
{
    uint64_t end = now_ns() + 20000000000u * T_SLOWER;

    while (!g->s->to_commit.jobs.head && now_ns() < end)
        kvs_io_turn(g->s, 1000000);
    CHECK(g->s->to_commit.jobs.head != NULL);
}

static void commit_once(struct rig *g)
{
    kvs_commit_turn(g->s, 0);
    kvs_io_turn(g->s, 0);
    kvs_loop_turn(g->s);
}

static void rig_alone(struct rig *g)
{
    rig_init(g, KVS_IO_THREADS, false);
    g->threads = false;
    CHECK_EQ(rig_open(g), 0);
    if (!g->s)
        exit(1);
}

/* Who is answered when his turn is on the disk does not wait for another's blocks to be synced; and
 * they wait for one group of turns, not for an end of them. */
static void turns_go_before_blocks_and_blocks_with_the_next(void)
{
    struct rig g;
    struct rig_block b;
    struct turn t[2];

    rig_alone(&g);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    for (uint64_t k = 0; k < 2; k++) {
        rig_block_set(&g, &b, 1, 1 + (uint32_t)k);
        rig_submit(&g, &b, true);
        until_a_job_waits(&g);
        turn_submit(&g, &t[0], 10 + 2 * k);
        commit_once(&g);
        CHECK(t[0].done && t[0].b.res == 0);
        CHECK(!b.done);
        turn_submit(&g, &t[1], 11 + 2 * k);
        commit_once(&g);
        CHECK(t[1].done && t[1].b.res == 0);
        CHECK(b.done && b.r.res == 0);
    }
    rig_reopen(&g);
    CHECK_EQ(g.rep.blocks, 3);
    rig_fini(&g);
}

/* So with the files that blocks need. */
static void turns_do_not_wait_for_a_segment_to_be_made(void)
{
    struct rig g;
    struct rig_block b;
    struct turn t[2];
    char cmd[400];

    rig_alone(&g);
    rig_block_set(&g, &b, 1, 0);
    rig_submit(&g, &b, true);
    until_a_job_waits(&g);
    snprintf(cmd, sizeof cmd, "ls '%s/kv/test' 2>/dev/null | grep -q .", g.dir);
    for (uint64_t k = 0; k < 2; k++) {
        CHECK(system(cmd) != 0);
        turn_submit(&g, &t[k], 10 + k);
        commit_once(&g);
        CHECK(t[k].done && t[k].b.res == 0);
    }
    CHECK_EQ(system(cmd), 0);
    rig_wait(&g);
    CHECK(b.done && b.r.res == 0);
    rig_fini(&g);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(turns_go_before_blocks_and_blocks_with_the_next),
       C(turns_do_not_wait_for_a_segment_to_be_made))
