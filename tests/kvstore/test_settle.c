/* test_settle.c - log and index that do not say the same: which of them is believed, record by
 * record, and what is said of a turn that neither of them has. */
#include "base/clock.h"
#include "kvstore/codec.h"
#include "tests/kvstore/flip.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct rig g;

static void start(void)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.o.no_fsync = true;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
}

/* The index as it is now, aside; and back, as if the store had not come further. */
static void index_copy(bool back)
{
    char path[400], old[400];

    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    snprintf(old, sizeof old, "%s/kept-index", g.dir);
    CHECK_EQ(back ? rig_cp(old, path) : rig_cp(path, old), 0);
}

/* Tokens [from, to) of branch 1 and turns of it, in one frame; its session stands at `to`. */
static void add(uint64_t from, uint64_t to, struct kvs_turn *turn, uint32_t n)
{
    struct kvs_id branch = rig_id(1, 0);
    struct kvs_session ses;
    struct kvs_rec rec[4];
    int32_t ids[1000];
    uint32_t k = 0;

    CHECK(to - from <= 1000 && n <= 2);
    for (uint64_t i = from; i < to; i++)
        ids[i - from] = rig_token(1, i);
    if (to > from)
        rec[k++] = (struct kvs_rec){.kind = KVS_REC_TOKENS,
                                    .tokens = {branch, from, ids, (uint32_t)(to - from)}};
    for (uint32_t i = 0; i < n; i++) {
        turn[i].branch = branch;
        rec[k++] = (struct kvs_rec){.kind = KVS_REC_TURN, .turn = &turn[i]};
    }
    rig_session(&ses, 1, 0, "s1");
    ses.head = ses.used_ns = to;
    rec[k++] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &ses};
    CHECK_EQ(rig_batch(&g, rec, k), 0);
}

struct turns {
    uint32_t n;
    struct kvs_turn v[8];
};

static int turn_each(void *ctx, const struct kvs_turn *t)
{
    struct turns *x = ctx;

    if (x->n < 8)
        x->v[x->n++] = *t;
    return 0;
}

static int lost_each(void *ctx, const struct kvs_session *s)
{
    *(int *)ctx += (s->flags & KVS_SESS_LOST) != 0;
    return 0;
}

static int sessions_lost(void)
{
    int n = 0;

    CHECK_EQ(kvs_sessions(g.s, lost_each, &n), 0);
    return n;
}

/* An index from before them, and damage in front of them: only a merge keeps them. */
static void frames_behind_damage_that_the_index_has_not_seen_are_kept(void)
{
    start();
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    for (uint64_t at = 1000; at < 2000; at += 10) /* more than may be under way at once */
        CHECK_EQ(rig_talk(&g, 2, at, at + 10), 0);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    CHECK(!rig_tokens_ok(&g, 1, 1001));
    CHECK(rig_tokens_ok(&g, 2, 2000));
    CHECK(rig_tokens_ok(&g, 3, 1000));
    rig_fini(&g);
}

/* Its end and the turn behind it are lost with one frame and two rows; the tokens are all there,
 * and the open turn seems to reach over them. */
static void a_lost_turn_behind_an_open_one_is_said(void)
{
    struct kvs_turn open = {.first = 600, .n_tokens = 300, .flags = KVS_TURN_OPEN},
                    ended[2] = {{.first = 600, .n_tokens = 300},
                                {.first = 900, .n_tokens = 300}},
                    last = {.first = 1200, .n_tokens = 600};

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 600), 0);
    add(600, 900, &open, 1);
    add(900, 1200, ended, 2);
    add(1200, 1800, &last, 1);
    rig_close(&g);
    CHECK(flip_turn(g.dir, 1, 600) > 0);
    CHECK(flip_turn(g.dir, 1, 900) > 0);
    CHECK(flip_tokens(g.dir, "log", 1, 900) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 1800));
    CHECK_EQ(sessions_lost(), 1);
    CHECK_EQ(g.rep.sessions_hurt, 1);
    rig_fini(&g);
}

static void put_req(uint32_t state, uint64_t time_ns)
{
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .state = state,
                        .time_ns = time_ns};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};

    CHECK_EQ(rig_batch(&g, &r, 1), 0);
}

/* The clock was set back between the two, and how far the index had come is not known. */
static void of_two_copies_the_ended_one_counts(void)
{
    struct kvs_turn open = {.first = 600, .flags = KVS_TURN_OPEN, .time_ns = 2000},
                    ended = {.first = 600, .n_tokens = 300, .time_ns = 1000};
    struct kvs_id branch = rig_id(1, 0), req = rig_id(9, 1);
    uint64_t now = wall_ns();
    static struct turns t;
    struct kvs_req q;
    char *reply = NULL;

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 600), 0);
    add(600, 900, &open, 1);
    put_req(KVS_REQ_RUNNING, now);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    add(900, 900, &ended, 1);
    put_req(KVS_REQ_ENDED, now - 1000000000u);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_bytes(g.dir, "index.mdb", "logseq", 6, 6) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 900));
    t.n = 0;
    CHECK_EQ(kvs_turns(g.s, &branch, 900, turn_each, &t), 0);
    CHECK_EQ(t.n, 2);
    CHECK_EQ(t.v[1].first, 600);
    CHECK_EQ(t.v[1].n_tokens, 300);
    CHECK_EQ(t.v[1].flags & KVS_TURN_OPEN, 0);
    CHECK_EQ(kvs_req_get(g.s, 1000, &req, &q, &reply), 0);
    CHECK_EQ(q.state, KVS_REQ_ENDED);
    free(reply);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(frames_behind_damage_that_the_index_has_not_seen_are_kept),
       ROW(a_lost_turn_behind_an_open_one_is_said), ROW(of_two_copies_the_ended_one_counts))
