/* test_scale.c - stores that grow: the log compacted in slices, branches collected, limits kept
 * for turns, many sessions. */
#include "base/clock.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct rig g;

static uint64_t du_bytes;
static int du_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)path, (void)f;
    if (type == FTW_F && !strstr(path, "store.lock") && !strstr(path, "mdb-lock"))
        du_bytes += (uint64_t)st->st_blocks * 512;
    return 0;
}
static uint64_t du(void)
{
    du_bytes = 0;
    nftw(g.dir, du_one, 16, FTW_PHYS);
    return du_bytes;
}

static void start(uint64_t disk)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = disk;
    g.o.no_fsync = true;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
}

static uint64_t wrote(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.bytes_written;
}

static int rm(uint64_t seed)
{
    struct kvs_session s = {.id = rig_id(seed, 1000), .owner = 1000};
    struct kvs_rec r = {.kind = KVS_REC_SESSION_RM, .session = &s};

    return rig_batch(&g, &r, 1);
}

static uint64_t end_of(uint64_t seed, uint64_t n)
{
    struct kvs_id id = rig_id(seed, n);
    uint64_t end = 0;

    return kvs_branch_end(g.s, &id, &end) < 0 ? UINT64_MAX : end;
}

/* Turns of the store until what is in the works has been done, at most ms. */
static bool settle(bool (*over)(void), int ms)
{
    for (uint64_t until = now_ns() + (uint64_t)ms * 1000000u * T_SLOWER; now_ns() < until;) {
        rig_turn(&g);
        if (over())
            return true;
        usleep(500);
    }
    return false;
}

/* --- compaction ------------------------------------------------------------------------------ */

enum { TALKS = 24, EACH = 250000 }; /* 24 MB of tokens */

static void all_there(void)
{
    for (uint64_t t = 1; t <= TALKS; t++)
        CHECK(rig_tokens_ok(&g, t, EACH));
}

static void the_log_is_compacted_a_little_at_a_time(void)
{
    uint64_t most = 0, seen = 0, late = 0;

    start(1ull << 30);
    for (uint64_t t = 1; t <= TALKS; t++)
        CHECK_EQ(rig_talk(&g, t, 0, EACH), 0);
    /* 8 MB of rewritten sessions make it due. */
    for (int i = 0; i < 40000 && !rig_compacting(&g); i++) {
        uint64_t was = wrote();
        CHECK_EQ(rig_talk(&g, 100, (uint64_t)i, (uint64_t)i + 1), 0);
        most = wrote() - was > most ? wrote() - was : most;
        late++;
    }
    CHECK(rig_compacting(&g));
    /* Commits go on beside it, each in its own turn. */
    while (rig_compacting(&g) && seen < 100000) {
        uint64_t was = wrote();
        CHECK_EQ(rig_talk(&g, 100, late + seen, late + seen + 1), 0);
        most = wrote() - was > most ? wrote() - was : most;
        seen++;
    }
    printf("    %llu commits meanwhile, at most %llu bytes with one of them\n",
           (unsigned long long)seen, (unsigned long long)most);
    CHECK(seen > 8);
    CHECK(most < 3 << 20);
    for (int i = 0; i < 2; i++) {
        char path[512];
        all_there();
        CHECK(rig_tokens_ok(&g, 100, late + seen));
        rig_close(&g);
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        if (i == 0)
            CHECK_EQ(remove(path), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(g.rep.rebuilt, i == 0);
    }
    rig_fini(&g);
}

/* What a kill would leave after every turn of a compaction, with the index and without. */
static void a_compaction_may_be_killed_at_any_turn(void)
{
    char copy[300], path[400], live[256];
    uint64_t n = 0, at = 0;

    start(64 << 20);
    snprintf(live, sizeof live, "%s", g.dir);
    snprintf(copy, sizeof copy, "%s-copy", g.dir);
    for (uint64_t t = 1; t <= 3; t++)
        CHECK_EQ(rig_talk(&g, t, 0, 200000), 0);
    while (!rig_compacting(&g) && at < 20000) {
        CHECK_EQ(rig_talk(&g, 100, at, at + 1), 0);
        at++;
    }
    for (bool on = true; on || n % 8; n++) {
        on = rig_compacting(&g);
        CHECK_EQ(rig_talk(&g, 100, at, at + 1), 0);
        at++;
        CHECK_EQ(rig_cp(g.dir, copy), 0);
        struct kvstore *s = g.s;
        snprintf(g.dir, sizeof g.dir, "%.255s", copy);
        if (n % 2) {
            snprintf(path, sizeof path, "%s/index.mdb", copy);
            CHECK_EQ(remove(path), 0);
        }
        CHECK_EQ(rig_open(&g), 0);
        for (uint64_t t = 1; t <= 3; t++)
            CHECK(rig_tokens_ok(&g, t, 200000));
        CHECK(rig_tokens_ok(&g, 100, at));
        CHECK_EQ(rig_talk(&g, 100, at, at + 10), 0);
        rig_reopen(&g);
        CHECK(rig_tokens_ok(&g, 100, at + 10));
        rig_close(&g);
        rig_rm(copy);
        g.s = s;
        snprintf(g.dir, sizeof g.dir, "%s", live);
    }
    printf("    killed %llu times\n", (unsigned long long)n);
    CHECK(n > 6);
    rig_fini(&g);
}

/* --- collection ------------------------------------------------------------------------------- */

static bool gone_2(void)
{
    return end_of(2, 0) == UINT64_MAX;
}

static void what_a_removed_session_had_is_collected_while_open(void)
{
    struct kvs_branch child = {.id = rig_id(1, 7), .parent = rig_id(1, 0), .parent_pos = 500};
    struct kvs_session ses;
    struct kvs_rec rec[2] = {{.kind = KVS_REC_BRANCH, .branch = &child},
                             {.kind = KVS_REC_SESSION, .session = &ses}};

    start(64 << 20);
    for (uint64_t t = 1; t <= 3; t++)
        CHECK_EQ(rig_talk(&g, t, 0, 5000), 0);
    rig_session(&ses, 1, 7, "child");
    ses.head = 500;
    CHECK_EQ(rig_batch(&g, rec, 2), 0);
    CHECK_EQ(rm(1), 0); /* the child's parent */
    CHECK_EQ(rm(2), 0);
    CHECK(settle(gone_2, 5000));
    CHECK_EQ(end_of(1, 0), 5000);
    CHECK_EQ(end_of(1, 7), 500);
    CHECK_EQ(end_of(3, 0), 5000);
    CHECK(rig_tokens_ok(&g, 3, 5000));
    rig_reopen(&g);
    CHECK_EQ(end_of(1, 0), 5000);
    rig_fini(&g);
}

static int count_part(void *ctx, const struct kvs_part *p)
{
    (void)p;
    ++*(int *)ctx;
    return 0;
}
static bool has_parts(uint64_t n)
{
    struct kvs_id id = rig_id(9, n);
    int parts = 0;

    CHECK_EQ(kvs_parts(g.s, 1000, &id, count_part, &parts), 0);
    return parts > 0;
}
static bool parts_1_gone(void)
{
    return !has_parts(1);
}

static void requests_lead_to_a_branch_while_they_run_or_their_session_is_there(void)
{
    start(64 << 20);
    for (uint64_t t = 1; t <= 4; t++)
        CHECK_EQ(rig_talk(&g, t, 0, 1000), 0);
    /* 1: ended, its session goes; 2: nothing leads there; 3: runs; 4: ended, session stays but
     * stands elsewhere. */
    for (uint64_t t = 1; t <= 4; t++) {
        struct kvs_req q = {.owner = 1000,
                            .id = rig_id(9, t),
                            .session = rig_id(t, 1000),
                            .branch = rig_id(t, 0),
                            .state = t == 3 ? KVS_REQ_RUNNING : KVS_REQ_ENDED,
                            .time_ns = 1ull << 62};
        struct kvs_part a = {
            .owner = 1000, .id = q.id, .data = (const uint8_t *)"x", .bytes = 1};
        struct kvs_rec rec[2] = {{.kind = KVS_REC_REQ, .req = &q},
                                 {.kind = KVS_REC_PART, .part = &a}};
        if (t != 2)
            CHECK_EQ(rig_batch(&g, rec, 2), 0);
    }
    struct kvs_session ses;
    struct kvs_rec move = {.kind = KVS_REC_SESSION, .session = &ses};
    rig_session(&ses, 4, 0, "s4");
    ses.branch = (struct kvs_id){{0}};
    CHECK_EQ(rig_batch(&g, &move, 1), 0);
    for (uint64_t t = 1; t <= 3; t++)
        CHECK_EQ(rm(t), 0);
    CHECK(settle(gone_2, 5000));
    CHECK_EQ(end_of(1, 0), UINT64_MAX);
    CHECK_EQ(end_of(3, 0), 1000);
    CHECK_EQ(end_of(4, 0), 1000);
    CHECK(settle(parts_1_gone, 5000));
    CHECK(has_parts(3) && has_parts(4));
    rig_fini(&g);
}

static uint64_t held;
static void hold_one(void *ctx)
{
    struct kvs_id id = rig_id(1, 0);

    (void)ctx;
    held++;
    kvs_hold(g.s, &id);
}

/* The loop holds the first of them. */
static void remove_two(void)
{
    start(64 << 20);
    kvs_on_collect(g.s, hold_one, NULL);
    for (uint64_t t = 1; t <= 2; t++)
        CHECK_EQ(rig_talk(&g, t, 0, 1000), 0);
    CHECK_EQ(rm(1), 0);
    CHECK_EQ(rm(2), 0);
    CHECK(settle(gone_2, 5000));
}

static void what_the_loop_holds_is_kept_until_a_batch_names_it(void)
{
    struct kvs_branch child = {.id = rig_id(1, 7), .parent = rig_id(1, 0), .parent_pos = 900};
    struct kvs_session ses;
    struct kvs_rec rec[2] = {{.kind = KVS_REC_BRANCH, .branch = &child},
                             {.kind = KVS_REC_SESSION, .session = &ses}};

    remove_two();
    CHECK(held > 0);
    CHECK_EQ(end_of(1, 0), 1000);
    rig_session(&ses, 1, 7, "child");
    ses.head = 900;
    CHECK_EQ(rig_batch(&g, rec, 2), 0);
    kvs_on_collect(g.s, NULL, NULL);
    CHECK_EQ(rig_talk(&g, 3, 0, 1000), 0);
    CHECK_EQ(rm(3), 0);
    for (int i = 0; i < 300; i++) {
        rig_turn(&g);
        usleep(1000);
    }
    CHECK_EQ(end_of(1, 0), 1000);
    rig_fini(&g);
}

static bool gone_1(void)
{
    return end_of(1, 0) == UINT64_MAX;
}

static void what_the_loop_held_goes_when_it_lets_go(void)
{
    remove_two();
    CHECK_EQ(end_of(1, 0), 1000);
    kvs_on_collect(g.s, NULL, NULL); /* and no batch comes any more */
    CHECK(settle(gone_1, 20000));
    rig_fini(&g);
}

/* Batches that name branches, and rounds, in any order: what was acknowledged stays. */
static void rounds_beside_batches(bool threads)
{
    enum { SESS = 40 };
    uint64_t seed = t_seed(), rnd = seed, made = 0, forks = 0;
    struct {
        bool on;
        uint64_t branch, end;
    } v[SESS] = {{0}};

    start(64 << 20);
    rig_close(&g);
    g.threads = threads;
    CHECK_EQ(rig_open(&g), 0);
    for (int i = 0; i < 3000; i++) {
        uint64_t k = rig_rand(&rnd) % SESS, o = rig_rand(&rnd) % SESS;
        struct kvs_session ses;
        char name[32];

        snprintf(name, sizeof name, "k%llu", (unsigned long long)k);
        rig_session(&ses, 1, k, name);
        if (v[k].on && rig_rand(&rnd) % 2) {
            struct kvs_rec r = {.kind = KVS_REC_SESSION_RM, .session = &ses};
            CHECK_EQ(rig_batch(&g, &r, 1), 0);
            v[k].on = false;
        } else {
            /* A new branch, of its own or behind another session's end. */
            int32_t ids[50] = {0};
            struct kvs_branch b = {.id = rig_id(77, ++made), .owner = 1000};
            if (v[o].on) {
                b.parent = rig_id(77, v[o].branch);
                b.parent_pos = v[o].end;
                forks++;
            }
            struct kvs_rec r[3] = {
                {.kind = KVS_REC_BRANCH, .branch = &b},
                {.kind = KVS_REC_TOKENS, .tokens = {b.id, b.parent_pos, ids, 50}},
                {.kind = KVS_REC_SESSION, .session = &ses}};
            ses.branch = b.id;
            ses.head = b.parent_pos + 50;
            CHECK_EQ(rig_batch(&g, r, 3), 0);
            v[k].on = true;
            v[k].branch = made;
            v[k].end = ses.head;
        }
        if (i % 64 == 0)
            usleep(2000);
    }
    for (int again = 0; again < 2; again++) {
        for (uint64_t k = 0; k < SESS; k++) {
            int32_t *ids = malloc((v[k].end + 1) * sizeof *ids);
            struct kvs_id id = rig_id(77, v[k].branch);
            if (v[k].on)
                CHECK_EQ(kvs_tokens(g.s, &id, 0, v[k].end, ids), 0);
            free(ids);
        }
        rig_reopen(&g);
    }
    printf("    %llu branches, %llu of them forks\n", (unsigned long long)made,
           (unsigned long long)forks);
    rig_fini(&g);
}

static void rounds_beside_batches_drop_nothing_that_is_named(void)
{
    rounds_beside_batches(false);
    rounds_beside_batches(true);
}

/* --- the limit ---------------------------------------------------------------------------------- */

static bool not_full(void)
{
    return !kvs_turns_full(g.s);
}

static bool little_log(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.log_bytes < g.o.disk_bytes / 8;
}

/* Compacting writes all of it once more. */
static void as_much_as_the_log_holds_is_kept_free(void)
{
    enum { N = 100000 };
    struct kvs_stats before, after;

    start(64 << 20);
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    kvs_stats(g.s, &before);
    CHECK_EQ(rig_talk(&g, 1, 10, 10 + N), 0);
    kvs_stats(g.s, &after);
    CHECK(before.file_kept > 0 && after.file_kept > before.file_kept + 4 * N);
    CHECK(after.file_kept < before.file_kept + 5 * N);
    CHECK(after.file_allocated + after.file_kept < after.file_limit);
    rig_fini(&g);
}

static void turns_stay_inside_a_small_limit(uint64_t disk, bool blocks)
{
    enum { TALK = 3000 };
    uint64_t n = 0, nearly = 0, most = 0, more;
    struct kvs_stats st;
    int r = 0;

    start(disk);
    for (uint32_t i = 0; blocks && i < 600; i++)
        (void)rig_put(&g, 5, i);
    while (r == 0 && n < 20000) {
        r = rig_talk(&g, 1000 + n, 0, TALK);
        n += r == 0;
        nearly += kvs_turns_short(g.s) && !kvs_turns_full(g.s);
        most = du() > most ? du() : most;
    }
    CHECK_EQ(r, -EDQUOT);
    CHECK(kvs_turns_full(g.s));
    CHECK(kvs_turns_short(g.s) && nearly > 1); /* said before it is full, with room for some */
    kvs_stats(g.s, &st);
    CHECK(st.turns_full && st.fault == 0);
    CHECK_EQ(st.file_allocated + st.file_kept, st.file_limit);
    /* Several sessions' worth, and a good part of the limit. */
    CHECK(n * TALK * 4 > disk / 6);
    for (int again = 0; again < 2; again++) {
        for (uint64_t i = 0; i < n; i += 7)
            CHECK(rig_tokens_ok(&g, 1000 + i, TALK));
        rig_reopen(&g);
    }
    CHECK(rig_talk(&g, 999999, 0, TALK) == -EDQUOT);
    /* Half of them go: there is room again without a restart. */
    for (uint64_t i = 0; i < n; i += 2)
        CHECK_EQ(rm(1000 + i), 0);
    CHECK(settle(not_full, 20000));
    most = du() > most ? du() : most;
    for (more = 0, r = 0; r == 0 && more < n; more++) {
        r = rig_talk(&g, 100000 + more, 0, TALK);
        most = du() > most ? du() : most;
    }
    CHECK(more > n / 4);
    kvs_stats(g.s, &st);
    printf("    %llu MiB: %llu talks, then %llu more; at most %llu KiB, log %llu, index %llu\n",
           (unsigned long long)disk >> 20, (unsigned long long)n, (unsigned long long)more,
           (unsigned long long)most >> 10, (unsigned long long)st.log_bytes >> 10,
           (unsigned long long)st.index_bytes >> 10);
    CHECK(most <= disk);
    for (uint64_t i = 1; i < n; i += 2)
        CHECK(rig_tokens_ok(&g, 1000 + i, TALK));
    /* All go: what is left is little, on disk too; the index at the next open. */
    for (uint64_t i = 1; i < n; i += 2)
        CHECK_EQ(rm(1000 + i), 0);
    for (uint64_t i = 0; i < more; i++)
        CHECK_EQ(rm(100000 + i), 0);
    CHECK(settle(little_log, 20000));
    rig_reopen(&g);
    kvs_stats(g.s, &st);
    CHECK(st.log_bytes + st.index_bytes < disk / 5 + (512 << 10));
    CHECK(blocks || du() < disk / 5 + (1 << 20));
    CHECK_EQ(rig_talk(&g, 5, 0, TALK), 0);
    rig_fini(&g);
}

/* Less than it takes already: nothing is lost, nothing new is taken, removing is a way back. */
static void a_lowered_limit_is_come_back_to(void)
{
    enum { TALK = 3000, N = 400 };
    struct kvs_stats st;
    uint64_t was;

    start(64 << 20);
    for (uint64_t i = 0; i < N; i++)
        CHECK_EQ(rig_talk(&g, 1000 + i, 0, TALK), 0);
    rig_close(&g);
    g.o.disk_bytes = 6 << 20;
    CHECK_EQ(rig_open(&g), 0);
    was = du();
    CHECK(was > g.o.disk_bytes);
    CHECK(kvs_turns_full(g.s));
    CHECK_EQ(rig_talk(&g, 1, 0, TALK), -EDQUOT);
    for (uint64_t i = 0; i < N; i++)
        CHECK(rig_tokens_ok(&g, 1000 + i, TALK));
    for (uint64_t i = 10; i < N; i++)
        CHECK_EQ(rm(1000 + i), 0);
    CHECK(settle(not_full, 10000));
    kvs_stats(g.s, &st);
    printf("    %llu KiB, limit %llu, now %llu\n", (unsigned long long)was >> 10,
           (unsigned long long)g.o.disk_bytes >> 10,
           (unsigned long long)st.file_allocated >> 10);
    CHECK(du() <= g.o.disk_bytes);
    CHECK_EQ(rig_talk(&g, 1, 0, TALK), 0);
    for (uint64_t i = 0; i < 10; i++)
        CHECK(rig_tokens_ok(&g, 1000 + i, TALK));
    rig_fini(&g);
}

static uint64_t index_size(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.index_bytes;
}

/* The loop reads all the while; what is left is whole, and so it is after a kill. */
static void the_index_gets_smaller_under_its_readers(void)
{
    enum { TALK = 3000, N = 300, STAY = 20 };
    uint64_t was, reads = 0;
    char copy[300], live[256];

    start(256 << 20);
    rig_close(&g);
    g.threads = true;
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t i = 0; i < N; i++)
        CHECK_EQ(rig_talk(&g, 1000 + i, 0, TALK), 0);
    was = index_size();
    for (uint64_t i = STAY; i < N; i++)
        CHECK_EQ(rm(1000 + i), 0);
    for (uint64_t until = now_ns() + 20000000000u * T_SLOWER;
         index_size() > was / 2 && now_ns() < until; reads++) {
        kvs_loop_turn(g.s);
        CHECK(rig_tokens_ok(&g, 1000 + reads % STAY, TALK));
    }
    printf("    %llu KiB, now %llu, %llu reads\n", (unsigned long long)was >> 10,
           (unsigned long long)index_size() >> 10, (unsigned long long)reads);
    CHECK(index_size() <= was / 2);
    CHECK_EQ(rig_talk(&g, 5, 0, TALK), 0);
    snprintf(live, sizeof live, "%s", g.dir);
    snprintf(copy, sizeof copy, "%s-copy", g.dir);
    CHECK_EQ(rig_cp(g.dir, copy), 0);
    rig_close(&g);
    for (int killed = 0; killed < 2; killed++) {
        snprintf(g.dir, sizeof g.dir, "%.255s", killed ? copy : live);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!g.rep.rebuilt);
        for (uint64_t i = 0; i < STAY; i++)
            CHECK(rig_tokens_ok(&g, 1000 + i, TALK));
        CHECK(rig_tokens_ok(&g, 5, TALK));
        rig_close(&g);
        rig_rm(g.dir);
    }
}

/* What commits take and give back is not copied away every few seconds, as long as nobody wants it. */
static void free_pages_that_come_and_go_stay(void)
{
    enum { TALK = 3000, N = 60 };
    uint64_t was;

    start(256 << 20);
    for (uint64_t i = 0; i < N; i++)
        CHECK_EQ(rig_talk(&g, 1000 + i, 0, TALK), 0);
    was = index_size();
    for (uint64_t i = 10; i < N; i++)
        CHECK_EQ(rm(1000 + i), 0);
    for (int i = 0; i < 2000; i++)
        rig_turn(&g);
    CHECK(was > 2 << 20 && was < 4 << 20);
    CHECK(index_spare_bytes(g.s->idx) > was / 2);
    for (int i = 0; i < 10; i++) {
        g.s->shrink_ns = 0;
        rig_turn(&g);
    }
    CHECK_EQ(index_size(), was);
    g.s->turns_short = true;
    g.s->shrink_ns = 0;
    kvs_commit_turn(g.s, 0);
    CHECK(index_size() < was / 2);
    for (uint64_t i = 0; i < 10; i++)
        CHECK(rig_tokens_ok(&g, 1000 + i, TALK));
    rig_fini(&g);
}

static void turns_stay_inside_the_smallest_limit(void)
{
    turns_stay_inside_a_small_limit(4 << 20, false);
}
static void turns_stay_inside_16_mib(void)
{
    turns_stay_inside_a_small_limit(16 << 20, false);
}
static void turns_take_the_room_of_blocks(void)
{
    turns_stay_inside_a_small_limit(16 << 20, true);
}

#define ROW(name)                                                                              \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(ROW(the_log_is_compacted_a_little_at_a_time),
       ROW(a_compaction_may_be_killed_at_any_turn),
       ROW(what_a_removed_session_had_is_collected_while_open),
       ROW(requests_lead_to_a_branch_while_they_run_or_their_session_is_there),
       ROW(what_the_loop_holds_is_kept_until_a_batch_names_it),
       ROW(what_the_loop_held_goes_when_it_lets_go),
       ROW(rounds_beside_batches_drop_nothing_that_is_named),
       ROW(as_much_as_the_log_holds_is_kept_free), ROW(turns_stay_inside_the_smallest_limit),
       ROW(turns_stay_inside_16_mib), ROW(the_index_gets_smaller_under_its_readers),
       ROW(free_pages_that_come_and_go_stay), ROW(turns_take_the_room_of_blocks),
       ROW(a_lowered_limit_is_come_back_to))
