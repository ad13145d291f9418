/* test_pieces.c - what two hurt copies have left, fitted together: nothing of it hangs in the air,
 * and a session that lacks something says so. */
#include "base/bytes.h"
#include "kvstore/index.h"
#include "kvstore/sys.h"
#include "tests/kvstore/flip.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TURN = 1 }; /* a kind of row, as in the key */

static struct rig g;

static void start(void)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.o.no_fsync = true;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
}

/* What has its id as its key and at the beginning of its value: a session, a branch. */
static void row_hurt(const struct kvs_id *id)
{
    uint8_t twice[20];

    memcpy(twice, id->b, 16);
    memcpy(twice + 16, id->b, 4);
    CHECK(hurt_row(&g, twice, sizeof twice, 16 + 2) > 0);
}

static size_t turn_key(uint8_t k[25], const struct kvs_id *branch, uint64_t first)
{
    memcpy(k, branch->b, 16);
    k[16] = TURN;
    st64be(k + 17, first);
    return 25;
}

/* The index of the closed store: the row of a turn, and then, without a trace, none. */
static int turn_row(uint64_t s, uint64_t first, bool del)
{
    struct sys sys = {.no_fsync = true};
    struct index_opts o = {.dir = g.dir, .sys = &sys, .no_fsync = true};
    struct kvs_id branch = rig_id(s, 0);
    struct index *x = NULL;
    const uint8_t *v;
    uint8_t k[25];
    size_t bytes, n = turn_key(k, &branch, first);

    CHECK_EQ(index_open(&x, &o, NULL), 0);
    CHECK_EQ(index_begin(x), 0);
    int r = index_row_get(x, DB_LOG, k, n, &v, &bytes);
    if (del)
        CHECK_EQ(index_row_del(x, DB_LOG, k, n), 0);
    CHECK_EQ(index_commit(x), 0);
    index_close(x);
    return r;
}

static struct kvs_session session(const struct kvs_id *id)
{
    static struct hurt_have h;

    h.n = 0;
    CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
    for (uint32_t i = 0; i < h.n; i++)
        if (memcmp(h.s[i].id.b, id->b, 16) == 0)
            return h.s[i];
    t_fail(__FILE__, __LINE__, "no such session");
    return (struct kvs_session){0};
}

static struct kvs_session session_of(uint64_t s)
{
    struct kvs_id id = rig_id(s, 1000);

    return session(&id);
}

static void merged(void)
{
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
}

/* Its record is lost with both copies, its tokens are there from 0 on. */
static void a_root_that_nobody_has_any_more_is_one_again(void)
{
    struct kvs_id branch = rig_id(1, 0);

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 1000), 0);
    rig_close(&g);
    CHECK(flip_tokens(g.dir, "log", 1, 10) > 0);
    row_hurt(&branch);
    merged();
    CHECK(rig_tokens_ok(&g, 1, 1000) && rig_tokens_ok(&g, 2, 1000));
    CHECK_EQ(session_of(1).head, 1000);
    rig_fini(&g);
}

static int count_part(void *ctx, const struct kvs_part *p)
{
    (void)p;
    (*(int *)ctx)++;
    return 0;
}

static void a_part_without_its_request_is_nobodys(void)
{
    struct kvs_part part = {.owner = 1000,
                            .id = rig_id(9, 1),
                            .first = 7,
                            .data = (const uint8_t *)"more",
                            .bytes = 4};
    struct kvs_req q = {.owner = 1000,
                        .id = part.id,
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .state = KVS_REQ_ENDED,
                        .reply = "{}",
                        .reply_bytes = 2,
                        .time_ns = UINT64_MAX / 4};
    struct kvs_rec first = {.kind = KVS_REC_REQ, .req = &q},
                   then = {.kind = KVS_REC_PART, .part = &part};
    int n = 0;

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
    CHECK_EQ(rig_batch(&g, &first, 1), 0);
    CHECK_EQ(rig_batch(&g, &then, 1), 0);
    CHECK_EQ(kvs_parts(g.s, 1000, &q.id, count_part, &n), 0);
    CHECK_EQ(n, 1);
    rig_close(&g);
    rig_no_index(&g);
    CHECK(hurt_log(&g, q.id.b, 16, 20, true) > 0); /* the frame that brings the request */
    merged();
    n = 0;
    CHECK_EQ(kvs_parts(g.s, 1000, &q.id, count_part, &n), 0);
    CHECK_EQ(n, 0);
    rig_fini(&g);
}

/* The record of a renaming is lost, and another has the old name meanwhile. */
static void two_sessions_with_one_name_get_two(void)
{
    struct kvs_session a, b;
    struct kvs_rec rec = {.kind = KVS_REC_SESSION, .session = &a};

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    rig_session(&a, 81, 0, "the name");
    a.branch = rig_id(1, 0);
    a.head = 10;
    CHECK_EQ(rig_batch(&g, &rec, 1), 0);
    snprintf(a.name, sizeof a.name, "another name");
    a.used_ns = 1;
    CHECK_EQ(rig_batch(&g, &rec, 1), 0);
    b = a;
    b.id = rig_id(82, 1000);
    snprintf(b.name, sizeof b.name, "the name");
    rec.session = &b;
    CHECK_EQ(rig_batch(&g, &rec, 1), 0);
    rig_close(&g);
    CHECK(hurt_log(&g, "another name", 12, 0, false) > 0);
    row_hurt(&a.id);
    merged();
    struct kvs_session x = session(&a.id), y = session(&b.id);
    CHECK(strcmp(x.name, y.name) != 0);
    CHECK(strncmp(x.name, "the name", 8) == 0 && strncmp(y.name, "the name", 8) == 0);
    rig_fini(&g);
}

/* Not even that of a turn which begins just where the tokens end. */
static void a_turn_without_its_tokens_goes(void)
{
    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 1024), 0);
    CHECK_EQ(rig_talk(&g, 1, 1024, 1100), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 100), 0);
    rig_close(&g);
    CHECK(flip_tokens(g.dir, "log", 1, 1030) > 0);
    CHECK(hurt_tokens(&g, 1, 1030) > 0);
    CHECK_EQ(turn_row(1, 1024, false), 0);
    merged();
    CHECK(rig_tokens_ok(&g, 1, 1024) && !rig_tokens_ok(&g, 1, 1025));
    CHECK(session_of(1).flags & KVS_SESS_LOST);
    rig_close(&g);
    CHECK_EQ(turn_row(1, 1024, false), -ENOENT);
    CHECK_EQ(turn_row(1, 0, false), 0);
    rig_fini(&g);
}

/* Its newest record is lost: its tokens say how far it had come. */
static void a_session_without_its_newest_record_goes_as_far_as_its_tokens(void)
{
    struct kvs_id id = rig_id(1, 1000);

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 1024), 0);
    CHECK_EQ(rig_talk(&g, 1, 1024, 1100), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 100), 0);
    rig_close(&g);
    CHECK(flip_tokens(g.dir, "log", 1, 1030) > 0);
    row_hurt(&id);
    merged();
    CHECK(rig_tokens_ok(&g, 1, 1100));
    CHECK_EQ(session_of(1).head, 1100);
    CHECK(session_of(1).flags & KVS_SESS_LOST);
    rig_fini(&g);
}

/* The record of the last turn before it leaves is in neither copy, and none of its rows is hurt. */
static void a_turn_that_is_missing_further_up_is_said_of_each_that_has_it(void)
{
    struct kvs_branch child = {
        .id = rig_id(5, 0), .parent = rig_id(1, 0), .parent_pos = 1100, .owner = 1000};
    struct kvs_session fork;
    struct kvs_turn turn = {.branch = child.id, .first = 1100, .n_tokens = 8};
    int32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct kvs_rec rec[4] = {{.kind = KVS_REC_BRANCH, .branch = &child},
                             {.kind = KVS_REC_TOKENS, .tokens = {child.id, 1100, ids, 8}},
                             {.kind = KVS_REC_TURN, .turn = &turn},
                             {.kind = KVS_REC_SESSION, .session = &fork}};

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 1024), 0);
    CHECK_EQ(rig_talk(&g, 1, 1024, 1100), 0);
    rig_session(&fork, 5, 0, "fork");
    fork.head = 1108;
    CHECK_EQ(rig_batch(&g, rec, 4), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 100), 0);
    CHECK_EQ(rig_talk(&g, 3, 0, 100), 0);
    rig_close(&g);
    CHECK(flip_tokens(g.dir, "log", 1, 1030) > 0);
    CHECK_EQ(turn_row(1, 1024, true), 0);
    CHECK(hurt_tokens(&g, 3, 10) > 0); /* the log has these */
    merged();
    CHECK(rig_tokens_ok(&g, 1, 1100) && rig_tokens_ok(&g, 3, 100));
    CHECK(session_of(1).flags & KVS_SESS_LOST);
    CHECK(session_of(5).flags & KVS_SESS_LOST);
    CHECK(!(session_of(2).flags & KVS_SESS_LOST) && !(session_of(3).flags & KVS_SESS_LOST));
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_root_that_nobody_has_any_more_is_one_again),
       ROW(a_part_without_its_request_is_nobodys), ROW(two_sessions_with_one_name_get_two),
       ROW(a_turn_without_its_tokens_goes),
       ROW(a_session_without_its_newest_record_goes_as_far_as_its_tokens),
       ROW(a_turn_that_is_missing_further_up_is_said_of_each_that_has_it))
