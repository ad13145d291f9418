/* test_forget.c - requests are remembered for a day, and shorter where sessions find no room. */
#include "tests/t.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { YOUNG = 20, RUNNING = 20, REPLY = 300 };
static const uint64_t SEC = 1000000000u;
static struct rig g;

static void start(uint64_t forget_ns)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 4 << 20;
    g.o.no_fsync = true;
    g.threads = false;
    g.env.forget_ns = forget_ns;
    CHECK_EQ(rig_open(&g), 0);
}

static int ask(uint64_t kind, uint64_t n, uint64_t age_s, uint32_t state)
{
    char reply[REPLY];
    struct kvs_req q = {.owner = 7,
                        .id = rig_id(kind, n),
                        .state = state,
                        .time_ns = wall_ns() - age_s * SEC,
                        .reply = reply,
                        .reply_bytes = REPLY};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};

    memset(reply, 'r', sizeof reply);
    return rig_batch(&g, &r, 1);
}

static bool known(uint64_t kind, uint64_t n)
{
    struct kvs_id id = rig_id(kind, n);
    struct kvs_req q;
    char *reply;

    if (kvs_req_get(g.s, 7, &id, &q, &reply) < 0)
        return false;
    free(reply);
    return true;
}

static void turn_for(uint64_t ns)
{
    for (uint64_t until = now_ns() + ns; now_ns() < until;)
        rig_turn(&g);
}

/* n ended requests: the first is a minute old, each of the others ten seconds older. */
static uint32_t ask_many(uint32_t max)
{
    uint32_t n = 0;

    while (n < max && ask(1, n, 60 + 10 * (uint64_t)n, KVS_REQ_ENDED) == 0)
        n++;
    return n;
}

static void with_room_they_are_remembered_for_a_day(void)
{
    enum { N = 1500 }; /* more than their part of the limit */

    start(SEC / 5);
    CHECK_EQ(ask_many(N), N);
    CHECK_EQ(ask(2, 0, 86400 + 60, KVS_REQ_ENDED), 0);
    CHECK(index_table_bytes(g.s->idx, DB_REQ) > g.o.disk_bytes / 8);
    CHECK(!g.s->turns_short);
    turn_for(SEC);
    for (uint32_t i = 0; i < N; i++)
        CHECK(known(1, i));
    CHECK(!known(2, 0));
    rig_fini(&g);
}

static void where_sessions_find_no_room_the_oldest_are_given_up(void)
{
    uint32_t n, kept = 0;
    uint64_t until, log;

    start(3600 * SEC);
    for (uint32_t i = 0; i < YOUNG; i++)
        CHECK_EQ(ask(2, i, 1, KVS_REQ_ENDED), 0);
    for (uint32_t i = 0; i < RUNNING; i++)
        CHECK_EQ(ask(3, i, 80000, KVS_REQ_RUNNING), 0);
    n = ask_many(100000);
    CHECK(n > 2000 && n < 8000);
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), -EDQUOT);
    log = turnlog_bytes(g.s->log);
    g.env.forget_ns = SEC / 5;
    rig_reopen(&g);
    for (until = now_ns() + 20 * SEC * T_SLOWER; g.s->turns_short && now_ns() < until;)
        rig_turn(&g);
    CHECK(!g.s->turns_short);
    turn_for(SEC);
    /* What stays is the youngest, and no more than their part, nor much less. */
    while (kept < n && known(1, kept))
        kept++;
    for (uint32_t i = kept; i < n; i++)
        CHECK(!known(1, i));
    printf("    %u of %u kept\n", kept, n);
    uint64_t share = g.o.disk_bytes / 16, young = YOUNG + RUNNING;
    CHECK(kept < n / 2);
    CHECK((kept + young) * REPLY < share);
    CHECK((kept + young) * (REPLY + 150) > share / 2);
    for (uint32_t i = 0; i < YOUNG; i++)
        CHECK(known(2, i));
    for (uint32_t i = 0; i < RUNNING; i++)
        CHECK(known(3, i));
    /* The log is smaller as well, and sessions have room. */
    CHECK(turnlog_bytes(g.s->log) < log / 2);
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
    rig_reopen(&g);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    for (uint32_t i = 0; i < kept; i++)
        CHECK(known(1, i));
    rig_fini(&g);
}

/* What is forgotten leaves pages half empty behind: their part is of pages, not of rows. */
static void their_part_holds_for_the_pages_they_take(void)
{
    uint32_t n, kept = 0;

    start(3600 * SEC);
    n = ask_many(100000);
    CHECK(index_table_bytes(g.s->idx, DB_REQ) > g.o.disk_bytes / 8);
    g.env.forget_ns = SEC / 10;
    rig_reopen(&g);
    for (uint64_t until = now_ns() + 2 * SEC * T_SLOWER; now_ns() < until; rig_turn(&g))
        g.s->turns_short = true; /* and stays so, whatever is given up */
    CHECK(index_table_bytes(g.s->idx, DB_REQ) <= g.o.disk_bytes / 16);
    while (kept < n && known(1, kept))
        kept++;
    printf("    %u of %u kept\n", kept, n);
    CHECK(kept > 50);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(with_room_they_are_remembered_for_a_day),
       ROW(where_sessions_find_no_room_the_oldest_are_given_up),
       ROW(their_part_holds_for_the_pages_they_take))
