/* test_repair.c - rows of the index that are hurt while the store is open, and what a believed
 * index hides until it is walked beside the open store. */
#include "base/bytes.h"
#include "base/clock.h"
#include "kvstore/index_env.h"
#include "kvstore/store.h"
#include "tests/kvstore/flip.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKENS = 1000 };

static struct rig g;

static void open_rig(bool threads)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = threads;
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t s = 1; s < 4; s++)
        for (uint64_t at = 0; at < TOKENS; at += 250)
            CHECK_EQ(rig_talk(&g, s, at, at + 250), 0);
}

static int flip_run(uint64_t s, uint64_t at)
{
    return flip_tokens(g.dir, "index.mdb", s, at);
}

/* A row's key, and the value behind it. */
static int flip_row(const void *key, size_t n, long off)
{
    return flip_bytes(g.dir, "index.mdb", key, n, (long)n + off);
}

static uint64_t repaired(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_unrepaired, 0);
    return st.rows_repaired;
}

static bool said(const char *words)
{
    char note[512];
    bool any = false;

    while (kvs_note(g.s, note, sizeof note))
        any |= strstr(note, words) != NULL;
    return any;
}

static int count_session(void *ctx, const struct kvs_session *s)
{
    (void)s;
    (*(int *)ctx)++;
    return 0;
}
static int count_turn(void *ctx, const struct kvs_turn *t)
{
    (void)t;
    (*(int *)ctx)++;
    return 0;
}

static void a_hurt_row_is_made_anew_at_once(void)
{
    for (int threads = 0; threads < 2; threads++) {
        struct kvs_id branch = rig_id(1, 0), session = rig_id(2, 1000);
        uint8_t key[25], twice[32], name[6] = {0, 0, 3, 0xe8, 's', '3'};
        uint64_t end;
        int n = 0;

        open_rig(threads);
        CHECK(flip_run(1, 300) > 0);
        CHECK(rig_tokens_ok(&g, 1, TOKENS));
        CHECK_EQ(repaired(), 1);
        CHECK(said("made anew from the turn log"));
        CHECK(rig_tokens_ok(&g, 1, TOKENS));
        CHECK_EQ(repaired(), 1);

        memcpy(twice, branch.b, 16); /* the key, and the beginning of the value */
        memcpy(twice + 16, branch.b, 16);
        CHECK(flip_row(twice, 32, 10) > 0);
        CHECK_EQ(kvs_branch_end(g.s, &branch, &end), 0);
        CHECK_EQ(end, TOKENS);

        memcpy(key, branch.b, 16);
        key[16] = 1;
        st64be(key + 17, 500);
        CHECK(flip_row(key, 25, 30) > 0);
        CHECK_EQ(kvs_turns(g.s, &branch, TOKENS, count_turn, &n), 0);
        CHECK_EQ(n, 4);

        n = 0;
        memcpy(twice, session.b, 16);
        memcpy(twice + 16, session.b, 16);
        CHECK(flip_row(twice, 32, 2) > 0);
        CHECK_EQ(kvs_sessions(g.s, count_session, &n), 0);
        CHECK_EQ(n, 3);
        CHECK(repaired() >= 4);

        /* What a batch would change. */
        CHECK(flip_run(3, 900) > 0);
        CHECK(flip_row(name, sizeof name, 3) > 0);
        CHECK_EQ(rig_talk(&g, 3, TOKENS, TOKENS + 50), 0);
        CHECK(rig_tokens_ok(&g, 3, TOKENS + 50));
        uint64_t all = repaired();
        CHECK(all >= 6);
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        for (uint64_t s = 1; s < 4; s++)
            CHECK(rig_tokens_ok(&g, s, TOKENS));
        rig_fini(&g);
    }
}

static int slow_commit(void *user, const struct sys_event *e)
{
    (void)user;
    if (e->op == SYS_COMMIT && !e->after)
        usleep(2100000);
    return 0;
}

/* One read does not wait for ever for rows that are mended one after another: the next goes on. */
static void many_hurt_rows_are_not_all_waited_for(void)
{
    struct kvs_id id = rig_id(1, 0);
    int32_t ids[TOKENS];

    open_rig(false);
    g.s->idx->alarm_ns = UINT64_MAX; /* by its time it would be walked, and all found at once */
    for (uint64_t at = 100; at < TOKENS; at += BLOCK_TOKENS)
        CHECK(flip_run(1, at) > 0);
    g.s->sys.hook = slow_commit;
    CHECK_EQ(kvs_tokens(g.s, &id, 0, TOKENS, ids), -EAGAIN);
    CHECK_EQ(repaired(), 2);
    g.s->sys.hook = NULL;
    CHECK(rig_tokens_ok(&g, 1, TOKENS));
    CHECK_EQ(repaired(), 4);
    rig_fini(&g);
}

static void requests_and_blocks_are_made_anew_as_well(void)
{
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .type = 50,
                        .state = 2,
                        .time_ns = 1ull << 62,
                        .reply = "{\"a\":1}",
                        .reply_bytes = 7};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};
    struct rig_block b;
    struct kvs_req got;
    char *reply = NULL;
    uint8_t key[20];

    open_rig(true);
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    st32be(key, 1000);
    memcpy(key + 4, q.id.b, 16);
    CHECK(flip_row(key, sizeof key, 40) > 0);
    CHECK_EQ(kvs_req_get(g.s, 1000, &q.id, &got, &reply), 0);
    CHECK_STR(reply, "{\"a\":1}");
    free(reply);
    CHECK_EQ(repaired(), 1);
    CHECK_EQ(rig_put(&g, 5, 0), 0);
    rig_block_set(&g, &b, 5, 0);
    CHECK(flip_row(b.r.key.b, 32, 20) > 0);
    CHECK_EQ(rig_get(&g, 5, 0, NULL), 0);
    rig_fini(&g);
}

static int cut_at(uint64_t seed, uint64_t first)
{
    struct kvs_rec cut = {.kind = KVS_REC_CUT,
                          .tokens = {.branch = rig_id(seed, 0), .first = first}};

    return rig_batch(&g, &cut, 1);
}

/* Put back by others, and hurt: the log has it from before it was removed. */
static void a_hurt_row_of_a_removed_session_brings_nothing_back(void)
{
    struct kvs_session gone = {.id = rig_id(3, 1000), .owner = 1000};
    struct kvs_rec rm = {.kind = KVS_REC_SESSION_RM, .session = &gone};
    uint8_t twice[32], row[4096];
    const uint8_t *v = NULL;
    size_t bytes = 0;
    int n = 0;

    open_rig(false);
    CHECK_EQ(index_begin(g.s->idx), 0);
    CHECK_EQ(index_row_get(g.s->idx, DB_SESSION, gone.id.b, 16, &v, &bytes), 0);
    CHECK(bytes > 0 && bytes <= sizeof row);
    memcpy(row, v, bytes);
    index_abort(g.s->idx);
    CHECK_EQ(rig_batch(&g, &rm, 1), 0);
    CHECK_EQ(index_begin(g.s->idx), 0);
    CHECK_EQ(index_row_put(g.s->idx, DB_SESSION, gone.id.b, 16, row, bytes), 0);
    CHECK_EQ(index_commit(g.s->idx), 0);
    memcpy(twice, gone.id.b, 16);
    memcpy(twice + 16, gone.id.b, 16);
    CHECK(flip_bytes(g.dir, "index.mdb", twice, sizeof twice, 34) > 0);
    CHECK_EQ(kvs_sessions(g.s, count_session, &n), 0);
    CHECK_EQ(n, 2);
    CHECK_EQ(repaired(), 1);
    rig_reopen(&g);
    n = 0;
    CHECK_EQ(kvs_sessions(g.s, count_session, &n), 0);
    CHECK_EQ(n, 2);
    rig_fini(&g);
}

static struct {
    uint32_t n, empty;
} parts;
static int take_part(void *ctx, const struct kvs_part *a)
{
    (void)ctx;
    parts.n++;
    parts.empty += a->bytes == 0;
    return 0;
}

/* The log has only the request's other part any more. */
static void a_part_is_not_made_anew_from_another(void)
{
    static const char *const data[] = {"the first part of it", "the second"};
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .state = KVS_REQ_RUNNING,
                        .time_ns = 1ull << 62};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};
    struct kvs_stats st;
    uint8_t key[28] = {0};

    open_rig(false);
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    for (uint64_t i = 0; i < 2; i++) {
        struct kvs_part a = {.owner = 1000,
                             .id = q.id,
                             .first = i * 100,
                             .data = (const uint8_t *)data[i],
                             .bytes = (uint32_t)strlen(data[i])};
        r = (struct kvs_rec){.kind = KVS_REC_PART, .part = &a};
        CHECK_EQ(rig_batch(&g, &r, 1), 0);
    }
    st32be(key, 1000);
    memcpy(key + 4, q.id.b, 16);
    CHECK(flip_bytes(g.dir, "index.mdb", key, sizeof key, 28 + 4) > 0);
    CHECK(flip_bytes(g.dir, "log", data[0], strlen(data[0]), 4) > 0);
    memset(&parts, 0, sizeof parts);
    (void)kvs_parts(g.s, 1000, &q.id, take_part, NULL);
    CHECK_EQ(parts.empty, 0);
    CHECK(parts.n < 2);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_repaired, 0);
    CHECK_EQ(st.rows_unrepaired, 1);
    rig_fini(&g);
}

static void what_the_log_has_not_got_is_said_and_left_to_the_next_start(void)
{
    struct kvs_stats st;
    char cmd[600];

    open_rig(false); /* nobody else looks, and mends it before the log is gone */
    CHECK(flip_run(1, 300) > 0);
    snprintf(cmd, sizeof cmd, "rm %s/log/seg-*", g.dir);
    CHECK_EQ(system(cmd), 0);
    for (int i = 0; i < 3; i++)
        CHECK(!rig_tokens_ok(&g, 1, TOKENS));
    CHECK(rig_tokens_ok(&g, 2, TOKENS));
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_unrepaired, 1); /* tried once, not at every read */
    CHECK(said("restart hearthd"));
    rig_reopen(&g);
    CHECK(!g.rep.clean && g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 256)); /* what is left of it */
    CHECK(!rig_tokens_ok(&g, 1, 257));
    CHECK(rig_tokens_ok(&g, 2, TOKENS));
    CHECK(said("Lost"));
    rig_fini(&g);
}

/* --- a log that is hurt as well ------------------------------------------------------------------- */

static void req_put(uint32_t state)
{
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .type = 50,
                        .state = state,
                        .time_ns = 1ull << 62,
                        .reply = state == KVS_REQ_ENDED ? "{\"b\":22222222}" : "{\"a\":1}",
                        .reply_bytes = state == KVS_REQ_ENDED ? 14 : 7};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};

    CHECK_EQ(rig_batch(&g, &r, 1), 0);
}

static void part_put(void)
{
    struct kvs_part a = {
        .owner = 1000, .id = rig_id(9, 1), .data = (uint8_t *)"part", .bytes = 4};
    struct kvs_rec r = {.kind = KVS_REC_PART, .part = &a};

    CHECK_EQ(rig_batch(&g, &r, 1), 0);
}

static int session_rm(uint64_t seed)
{
    struct kvs_session s = {.id = rig_id(seed, 1000), .owner = 1000};
    struct kvs_rec r = {.kind = KVS_REC_SESSION_RM, .session = &s};

    return rig_batch(&g, &r, 1);
}

/* The row of session 1, of its branch, of a request. */
static int hurt_one(int k)
{
    struct kvs_id branch = rig_id(1, 0), session = rig_id(1, 1000), req = rig_id(9, 1);
    uint8_t key[32];

    if (k == 2) {
        st32be(key, 1000);
        memcpy(key + 4, req.b, 16);
        return flip_row(key, 20, 40);
    }
    memcpy(key, k ? branch.b : session.b, 16);
    memcpy(key + 16, key, 16);
    return flip_row(key, 32, k ? 10 : 2);
}

static struct kvs_session one;
static int take_one(void *ctx, const struct kvs_session *s)
{
    struct kvs_id id = rig_id(1, 1000);

    if (!memcmp(s->id.b, id.b, 16)) {
        one = *s;
        (*(int *)ctx)++;
    }
    return 0;
}

/* The log has older frames of it: what is made of these hides what came later. */
static void a_row_is_not_made_anew_from_a_log_that_lacks_its_newest(void)
{
    struct kvs_id branch = rig_id(1, 0), req = rig_id(9, 1);
    struct kvs_stats st;
    struct kvs_req got;
    char *reply = NULL;
    uint64_t end;

    for (int k = 0; k < 9; k++) {
        /* Nothing is behind it: the end is torn, to all appearance; or all of it is older. */
        bool last = k / 3 == 1, older = k / 3 == 2;
        char log[512];
        size_t bytes;
        int n = 0;
        open_rig(false);
        req_put(KVS_REQ_RUNNING);
        snprintf(log, sizeof log, "%.400s/log/seg-0001", g.dir);
        uint8_t *old = hurt_load(log, &bytes);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 50), 0);
        req_put(KVS_REQ_ENDED);
        if (!last)
            CHECK_EQ(rig_talk(&g, 3, TOKENS, TOKENS + 50), 0);
        if (older) {
            int fd = open(log, O_WRONLY);
            CHECK_EQ(pwrite(fd, old, bytes, 0), (ssize_t)bytes);
            close(fd);
        } else {
            CHECK(flip_tokens(g.dir, "log", 1, TOKENS + 10) > 0);
            CHECK(flip_bytes(g.dir, "log", "{\"b\":22222222}", 14, 6) > 0);
        }
        free(old);
        CHECK(hurt_one(k % 3) > 0);
        for (int i = 0; i < 3; i++)
            rig_turn(&g);
        (void)kvs_sessions(g.s, take_one, &n);
        (void)kvs_branch_end(g.s, &branch, &end);
        if (kvs_req_get(g.s, 1000, &req, &got, &reply) == 0)
            free(reply);
        kvs_stats(g.s, &st);
        CHECK_EQ(st.rows_repaired, 0);
        CHECK_EQ(st.rows_unrepaired, 1);
        /* What would change it fails alone. */
        if (k % 3 == 2)
            part_put();
        else
            CHECK_EQ(rig_talk(&g, 1, TOKENS + 50, TOKENS + 60), E_CORRUPT);
        if (k % 3 == 0)
            CHECK_EQ(session_rm(1), E_CORRUPT);
        CHECK_EQ(g.s->fault, 0);
        CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 50), 0);
        rig_reopen(&g);
        CHECK(!g.rep.clean && g.rep.rebuilt);
        CHECK_EQ(kvs_branch_end(g.s, &branch, &end), 0);
        CHECK_EQ(end, TOKENS + 50); /* the index had them, and has them */
        CHECK(rig_tokens_ok(&g, 1, TOKENS + 50));
        CHECK(rig_tokens_ok(&g, 2, TOKENS + 50));
        n = 0;
        CHECK_EQ(kvs_sessions(g.s, take_one, &n), 0);
        CHECK_EQ(n, 1);
        CHECK_EQ(one.head, TOKENS + 50);
        if (k % 3 == 2)
            CHECK(said("Lost"));
        rig_fini(&g);
    }
}

/* What would change them fails alone. */
static void tokens_that_neither_has_stop_nobody_else(void)
{
    open_rig(false);
    CHECK(flip_tokens(g.dir, "log", 1, TOKENS - 10) > 0);
    CHECK(flip_run(1, TOKENS - 10) > 0);
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), E_CORRUPT);
    CHECK_EQ(cut_at(1, TOKENS - 5), E_CORRUPT);
    CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
    CHECK_EQ(cut_at(1, 500), 0); /* they go with it */
    CHECK_EQ(g.s->fault, 0);
    rig_reopen(&g);
    CHECK(rig_tokens_ok(&g, 1, 500));
    CHECK(rig_tokens_ok(&g, 2, TOKENS + 10));
    rig_fini(&g);
}

/* What lies behind the hole is the newest there is. */
static void a_row_is_made_anew_from_behind_a_hole_in_the_log(void)
{
    int n = 0;

    open_rig(false);
    CHECK(flip_tokens(g.dir, "log", 1, 260) > 0);
    CHECK(hurt_one(0) > 0);
    CHECK_EQ(kvs_sessions(g.s, take_one, &n), 0);
    CHECK_EQ(n, 1);
    CHECK_EQ(one.head, TOKENS);
    CHECK_EQ(repaired(), 1);
    rig_fini(&g);
}

/* Tokens that were cut off again are still in the log. */
static void a_branch_ends_where_its_tokens_do(void)
{
    struct kvs_id branch = rig_id(1, 0);
    uint64_t end;

    for (int k = 0; k < 2; k++) {
        open_rig(false);
        CHECK_EQ(cut_at(1, 500), 0);
        if (k) /* its runs are hurt as well: then the log says where */
            CHECK(flip_run(1, 300) > 0);
        CHECK(hurt_one(1) > 0);
        CHECK_EQ(kvs_branch_end(g.s, &branch, &end), 0);
        CHECK_EQ(end, 500);
        CHECK(rig_tokens_ok(&g, 1, 500));
        CHECK_EQ(rig_talk(&g, 1, 500, 700), 0);
        CHECK(rig_tokens_ok(&g, 1, 700));
        rig_fini(&g);
    }
}

/* How far the index has come is not how far the group has that finds its row hurt. */
static void a_turn_is_not_taken_for_one_that_the_index_has(void)
{
    open_rig(false);
    g.s->idx->alarm_ns = UINT64_MAX; /* by its time it would be walked before the group */
    CHECK(flip_row("logseq", 6, 0) > 0);
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 50), 0);
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 50));
    CHECK(repaired() >= 1);
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 50));
    rig_fini(&g);
}

/* Which finds, between log and index, a row hurt, and then no room: what made the row anew is not what
 * nobody has been told is kept. */
static struct {
    struct kvs_id id;
    int armed, commits;
} refuse;

static int refuse_at(void *user, const struct sys_event *e)
{
    (void)user;
    if (refuse.armed == 1 && e->op == SYS_SYNC && !e->after && rig_leads(e->fd, "/log/")) {
        refuse.armed = 2;
        CHECK(flip_row(refuse.id.b, 16, 90) > 0);
    }
    return refuse.armed == 2 && e->op == SYS_COMMIT && !e->after && ++refuse.commits > 1
               ? -ENOSPC
               : 0;
}

static void a_refused_group_is_in_no_row_that_it_made_anew(void)
{
    struct kvs_session x, *had = malloc(sizeof *had);
    struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};

    open_rig(false);
    refuse.id = rig_id(1, 1000);
    refuse.armed = 1;
    refuse.commits = 0;
    g.s->idx->alarm_ns = UINT64_MAX;
    g.s->sys.hook = refuse_at;
    CHECK_EQ(index_session_get(g.s->idx, INDEX_LOOP, &refuse.id, had), 0);
    x = *had;
    snprintf(x.name, sizeof x.name, "renamed");
    CHECK_EQ(rig_batch(&g, &r, 1), -ENOSPC);
    CHECK(refuse.armed == 2 && refuse.commits > 1);
    g.s->sys.hook = NULL;
    CHECK(repaired() >= 1);
    CHECK_EQ(index_session_get(g.s->idx, INDEX_LOOP, &refuse.id, had), 0);
    CHECK_STR(had->name, "s1");
    free(had);
    rig_fini(&g);
}

static void scrub_until(bool (*ok)(void))
{
    for (int i = 0; i < 1000 * T_SLOWER && !ok(); i++) {
        struct timespec ts = {0, 10000000};
        nanosleep(&ts, NULL);
        kvs_wake(g.s);
    }
    CHECK(ok());
}

static bool some_repaired(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.rows_repaired > 0;
}

static bool seen;
static bool structure_said(void)
{
    seen |= said("damaged in its structure: made anew");
    return seen;
}

static void a_believed_index_is_walked_beside_the_open_store(void)
{
    open_rig(true);
    g.env.quick_bytes = 4096;
    rig_close(&g);
    CHECK(flip_run(2, 700) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.clean && !g.rep.rebuilt); /* believed */
    scrub_until(some_repaired);           /* nobody has read it */
    CHECK(rig_tokens_ok(&g, 2, TOKENS));
    CHECK_EQ(repaired(), 1);
    rig_close(&g);

    /* The head of a page: nothing that one row could mend. */
    char path[512];
    uint8_t page[4096];
    snprintf(path, sizeof path, "%.400s/index.mdb", g.dir);
    int fd = open(path, O_RDWR), n = 0;
    for (off_t at = 8192; pread(fd, page, 4096, at) == 4096; at += 4096)
        if ((page[10] | page[11] << 8) == 2 && page[12] > 24) {
            page[9] ^= 1; /* not used by LMDB */
            memcpy(page, "\xff\xff", 2);
            n += pwrite(fd, page, 4096, at) == 4096;
        }
    close(fd);
    CHECK(n > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(!g.rep.rebuilt);
    seen = false;
    scrub_until(structure_said);
    CHECK(rig_talk(&g, 1, TOKENS, TOKENS + 10) == 0);
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    for (uint64_t s = 1; s < 4; s++)
        CHECK(rig_tokens_ok(&g, s, TOKENS));
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
    rig_fini(&g);
}

static uint32_t tries;

/* The disk fails where a checkpoint of the log is written. */
static int fail_ckpt(void *user, const struct sys_event *e)
{
    (void)user;
    if (!rig_is_ckpt(e))
        return 0;
    tries++;
    return -EIO;
}

static void a_compaction_that_fails_is_not_tried_at_every_commit(void)
{
    open_rig(true);
    rig_close(&g);
    g.env.sys_hook = fail_ckpt;
    tries = 0;
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t at = 0; at < 300000; at += 3000) /* it has grown long ago */
        CHECK_EQ(rig_talk(&g, 50, at, at + 3000), 0);
    printf("    tried %u times\n", tries);
    CHECK(tries > 0 && tries < 4);
    CHECK(rig_tokens_ok(&g, 50, 300000));
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_hurt_row_is_made_anew_at_once), ROW(many_hurt_rows_are_not_all_waited_for),
       ROW(requests_and_blocks_are_made_anew_as_well),
       ROW(a_hurt_row_of_a_removed_session_brings_nothing_back),
       ROW(a_part_is_not_made_anew_from_another),
       ROW(what_the_log_has_not_got_is_said_and_left_to_the_next_start),
       ROW(a_row_is_not_made_anew_from_a_log_that_lacks_its_newest),
       ROW(tokens_that_neither_has_stop_nobody_else),
       ROW(a_row_is_made_anew_from_behind_a_hole_in_the_log),
       ROW(a_branch_ends_where_its_tokens_do),
       ROW(a_turn_is_not_taken_for_one_that_the_index_has),
       ROW(a_refused_group_is_in_no_row_that_it_made_anew),
       ROW(a_compaction_that_fails_is_not_tried_at_every_commit),
       ROW(a_believed_index_is_walked_beside_the_open_store))
