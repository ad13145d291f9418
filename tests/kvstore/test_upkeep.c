/* test_upkeep.c - what the commit thread does beside damage: when it leaves the log alone, which
 * checkpoint is believed, and that a collection which cannot read stops nobody. */
#include "base/clock.h"
#include "kvstore/index_env.h"
#include "kvstore/logfile.h"
#include "kvstore/store.h"
#include "tests/kvstore/flip.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct rig g;

/* --- checkpoints ------------------------------------------------------------------------------- */

static uint64_t du_bytes, du_max; /* what the store takes, at most while it is compacted */
static bool du_seen;
static uint32_t writes; /* to a checkpoint of the log */
static bool fails;      /* and they fail */
static int fails_with;
static char copy_log[400]; /* where the log goes when the first is under way; "": nowhere */

static int du_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)path, (void)f;
    du_bytes += type == FTW_F ? (uint64_t)st->st_blocks * 512 : 0;
    return 0;
}

static uint64_t du(void)
{
    du_bytes = 0;
    (void)nftw(g.dir, du_one, 16, FTW_PHYS);
    return du_bytes;
}

static int see_ckpt(void *user, const struct sys_event *e)
{
    char from[400];

    (void)user;
    if (!rig_is_ckpt(e))
        return 0;
    if (writes++ == 0 && copy_log[0]) {
        snprintf(from, sizeof from, "%s/log", g.dir);
        CHECK_EQ(rig_cp(from, copy_log), 0);
    }
    if (du_seen && du() > du_max)
        du_max = du_bytes;
    return fails ? fails_with : 0;
}

static void start(uint64_t forget_ns)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.o.no_fsync = true;
    g.threads = false;
    g.env.sys_hook = see_ckpt;
    g.env.forget_ns = forget_ns;
    writes = 0;
    copy_log[0] = 0;
    fails = du_seen = false;
    fails_with = -EIO;
    CHECK_EQ(rig_open(&g), 0);
}

/* What is hurt from here on is not found by a walk: whoever reads it comes to it first. */
static void unseen(void)
{
    g.s->idx->alarm_ns = UINT64_MAX;
}

static void a_log_beside_an_index_that_lacks_something_is_not_compacted(void)
{
    for (int hurt = 0; hurt < 2; hurt++) {
        struct kvs_stats st;

        start(0);
        for (uint64_t s = 1; s < 4; s++)
            for (uint64_t at = 0; at < 1000; at += 250)
                CHECK_EQ(rig_talk(&g, s, at, at + 250), 0);
        if (hurt) {
            CHECK(flip_tokens(g.dir, "index.mdb", 1, 300) > 0);
            CHECK(flip_tokens(g.dir, "log", 1, 300) > 0);
            CHECK(!rig_tokens_ok(&g, 1, 1000)); /* neither has it any more */
            kvs_stats(g.s, &st);
            CHECK_EQ(st.rows_unrepaired, 1);
        }
        for (uint64_t at = 0; at < 300000; at += 3000) /* it has grown long ago */
            CHECK_EQ(rig_talk(&g, 50, at, at + 3000), 0);
        CHECK_EQ(writes > 0, !hurt);
        kvs_stats(g.s, &st);
        for (size_t i = 0; i < sizeof st.warning / sizeof *st.warning; i++)
            CHECK(!strstr(st.warning[i], "compacted")); /* nor was it begun */
        rig_reopen(&g);
        CHECK_EQ(g.rep.clean, !hurt);
        for (uint64_t s = 1; s < 4; s++)
            CHECK(rig_tokens_ok(&g, s, hurt && s == 1 ? 256 : 1000));
        CHECK(rig_tokens_ok(&g, 50, 300000));
        rig_fini(&g);
    }
}

static void a_compaction_that_failed_leaves_nothing_behind(void)
{
    uint64_t at = 0;

    start(0);
    fails = true;
    for (; writes == 0 && at < 3000000; at += 3000)
        CHECK_EQ(rig_talk(&g, 50, at, at + 3000), 0);
    CHECK(writes > 0);
    CHECK(!rig_compacting(&g));
    CHECK_EQ(rig_talk(&g, 50, at, at + 3000), 0);
    rig_reopen(&g);
    CHECK(g.rep.clean);
    CHECK(rig_tokens_ok(&g, 50, at + 3000));
    rig_fini(&g);
}

/* The newest checkpoint among the files of the log; 0: none. */
static uint32_t newest_base(void)
{
    char dir[400];
    struct log_file *v = NULL;
    uint32_t n = 0, base = 0;
    struct errbuf eb;

    snprintf(dir, sizeof dir, "%s/log", g.dir);
    CHECK_EQ(log_files(dir, false, &v, &n, &eb), 0);
    for (uint32_t i = 0; i < n; i++) {
        struct log_head h;
        if (log_head_read(dir, v[i].number, &h) == 0 && h.base)
            base = v[i].number;
    }
    free(v);
    return base;
}

/* Nobody asks for room before a log that was damaged is made anew: what that writes is counted, and
 * it ends where the limit is. */
static void a_compaction_does_not_pass_the_limit(void)
{
    enum { TOKENS = 1000000, STEP = 10000 };

    start(0);
    rig_close(&g);
    g.o.disk_bytes = 64 << 20;
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t at = 0; at < TOKENS; at += STEP)
        CHECK_EQ(rig_talk(&g, 1, at, at + STEP), 0);
    while (rig_compacting(&g))
        rig_turn(&g);
    rig_close(&g);
    CHECK(flip_tokens(g.dir, "log", 1, 300) > 0);
    g.o.disk_bytes = du() + TOKENS * 4 / 2; /* half of it fits once more */
    writes = 0;
    du_seen = true;
    du_max = 0;
    CHECK_EQ(rig_open(&g), 0);
    CHECK(writes > 0);
    CHECK(du_max <= g.o.disk_bytes + (1 << 20)); /* a slice is looked at when it is written */
    CHECK(du() <= g.o.disk_bytes);
    CHECK(rig_tokens_ok(&g, 1, TOKENS));
    rig_close(&g);
    g.o.disk_bytes = 64 << 20;
    uint32_t base = newest_base();
    CHECK_EQ(rig_open(&g), 0);
    CHECK(newest_base() > base);
    CHECK(rig_tokens_ok(&g, 1, TOKENS));
    rig_fini(&g);
}

static bool only_copy_said(void)
{
    struct kvs_stats st;
    bool is = false;

    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        is |= strstr(st.warning[i], "the index is the only copy") != NULL;
    return is;
}

static bool noted(const char *words)
{
    char note[KVS_WORDS];
    bool any = false;

    while (kvs_note(g.s, note, sizeof note))
        any |= strstr(note, words) != NULL;
    return any;
}

static void looks(void)
{
    g.s->guard_ns = g.s->ckpt.again_ns = 0;
    do
        rig_turn(&g);
    while (ckpt_busy(g.s) || g.s->ckpt.trim);
}

/* A damaged log that could not be made anew is no second copy, and is made anew when it can be. */
static void a_log_that_could_not_be_made_anew_is_no_copy(void)
{
    for (int k = 0; k < 3; k++) {
        start(0);
        for (uint64_t s = 1; s < 4; s++)
            CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
        rig_close(&g);
        CHECK(flip_tokens(g.dir, "log", 1, 300) > 0);
        fails = true;
        fails_with = k ? -EIO : -ENOSPC;
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!noted("it is made anew"));
        CHECK(only_copy_said());
        CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
        looks();
        CHECK(only_copy_said() && g.s->log_hurt);
        if (k == 2) { /* by the next start alone */
            fails = false;
            rig_reopen(&g);
            CHECK(g.rep.clean);
        }
        fails = false;
        looks();
        CHECK(!only_copy_said() && !g.s->log_hurt);
        CHECK(noted("it is made anew from the index, the old files are kept"));
        rig_close(&g);
        rig_no_index(&g);
        CHECK_EQ(rig_open(&g), 0);
        for (uint64_t s = 1; s < 4; s++)
            CHECK(rig_tokens_ok(&g, s, s == 1 ? 1100 : 1000));
        CHECK(!noted("Lost"));
        rig_fini(&g);
    }
}

/* Nobody is sent to look for files that there are none of. */
static void of_a_log_that_was_removed_no_file_is_kept(void)
{
    char dir[512], notes[4000];

    start(0);
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
    rig_close(&g);
    hurt_path(&g, "log", dir);
    CHECK_EQ(rig_rm(dir), 0);
    CHECK_EQ(rig_open(&g), 0);
    hurt_notes(&g, notes, sizeof notes);
    CHECK(strstr(notes, "removed: it is made anew from the index"));
    CHECK(!strstr(notes, "are kept") && hurt_count(dir, ".bad-") == 0);
    rig_close(&g);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    rig_fini(&g);
}

/* Nor is one of which the index lacks a row that it has not got either. */
static void a_log_beside_a_damaged_index_stays_and_that_is_said(void)
{
    start(0);
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    looks();
    CHECK(flip_tokens(g.dir, "log", 1, 300) > 0);
    CHECK(flip_tokens(g.dir, "index.mdb", 1, 300) > 0);
    CHECK(!rig_tokens_ok(&g, 1, 1000));
    for (int i = 0; i < 3; i++)
        looks();
    CHECK(only_copy_said());
    CHECK_EQ(writes, 0);
    CHECK(!noted("it is made anew"));
    rig_fini(&g);
}

/* Killed when the new checkpoint had its name and the old files were not yet gone; then a bit of
 * the new one turned over, and the index was lost. */
static void of_two_checkpoints_one_that_is_hurt_is_not_begun_with(void)
{
    char path[500], sub[32], from[500];
    uint64_t at = 0;
    int back = 0;

    start(0);
    snprintf(copy_log, sizeof copy_log, "%s/kept-log", g.dir);
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 20000), 0);
    for (; (writes == 0 || rig_compacting(&g)) && at < 3000000; at += 3000)
        CHECK_EQ(rig_talk(&g, 50, at, at + 3000), 0);
    CHECK(writes > 0 && !rig_compacting(&g));
    copy_log[0] = 0;
    rig_close(&g);
    uint32_t base = newest_base();
    CHECK(base > 1);
    for (uint32_t i = 1; i < base; i++) {
        snprintf(path, sizeof path, "%s/log/seg-%04u", g.dir, i);
        snprintf(from, sizeof from, "%s/kept-log/seg-%04u", g.dir, i);
        if (access(from, F_OK) < 0)
            continue;
        back++;
        if (access(path, F_OK) < 0) /* or it has not come to that */
            CHECK_EQ(rig_cp(from, path), 0);
    }
    CHECK(back > 0);
    snprintf(sub, sizeof sub, "log/seg-%04u", base);
    CHECK(flip_tokens(g.dir, sub, 2, 10000) > 0);
    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(remove(path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    for (uint64_t s = 1; s < 4; s++)
        CHECK(rig_tokens_ok(&g, s, 20000));
    CHECK(rig_tokens_ok(&g, 50, at));
    rig_fini(&g);
}

/* A file of the log under another one's name is not that one: it would hide what is between them,
 * where there is no index, and where that has not seen it. */
static void a_checkpoint_under_a_newer_name_is_not_begun_with(void)
{
    for (int older = 0; older < 2; older++) {
        char from[500], to[500], idx[400], was[400];
        start(0);
        for (uint64_t s = 1; s < 4; s++)
            CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
        CHECK_EQ(ckpt_all(g.s), 0);
        uint32_t base = newest_base();
        CHECK(base > 0);
        snprintf(idx, sizeof idx, "%s/index.mdb", g.dir);
        snprintf(was, sizeof was, "%s-index", g.dir);
        CHECK_EQ(rig_cp(idx, was), 0);
        CHECK_EQ(rig_talk(&g, 2, 1000, 1500), 0);
        CHECK_EQ(rig_talk(&g, 4, 0, 1000), 0);
        rig_close(&g);
        snprintf(from, sizeof from, "%s/log/seg-%04u", g.dir, base);
        snprintf(to, sizeof to, "%s/log/seg-%04u", g.dir, base + 5);
        CHECK_EQ(rig_cp(from, to), 0);
        CHECK_EQ(older ? rename(was, idx) : unlink(idx) | unlink(was), 0);
        rig_reopen(&g);
        CHECK(older || g.rep.rebuilt);
        for (uint64_t s = 1; s < 5; s++)
            CHECK(rig_tokens_ok(&g, s, s == 2 ? 1500 : 1000));
        rig_fini(&g);
    }
}

static int leading_to(const char *word)
{
    int n = 0;

    for (int fd = 3; fd < 1024; fd++)
        n += rig_leads(fd, word);
    return n;
}

/* A log of many files would use up all there are. */
static void one_file_of_the_log_is_open(void)
{
    char path[400];

    start(0);
    rig_close(&g);
    g.o.disk_bytes = 64 << 20; /* no compaction yet */
    CHECK_EQ(rig_open(&g), 0);
    int before = leading_to("/log/");
    for (uint64_t at = 0; at < 1000000; at += 10000)
        CHECK_EQ(rig_talk(&g, 1, at, at + 10000), 0);
    while (rig_compacting(&g))
        rig_turn(&g);
    snprintf(path, sizeof path, "%s/log", g.dir);
    CHECK(hurt_count(path, "seg-") > 2);
    CHECK(before <= 1);
    CHECK_EQ(leading_to("/log/"), 1);
    rig_fini(&g);
}

/* Nor is one that was put together left open beside the one that is. */
static void an_index_that_was_made_anew_is_open_once(void)
{
    start(0);
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
    rig_reopen(&g);
    int before = leading_to("index.mdb");
    CHECK(before > 0);
    rig_close(&g);
    CHECK_EQ(leading_to("index.mdb"), 0);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(leading_to("index.mdb"), before);
    rig_fini(&g);
}

static int count_turn(void *ctx, const struct kvs_turn *t)
{
    (void)t;
    (*(int *)ctx)++;
    return 0;
}

static int turns_of(uint64_t seed, uint64_t end)
{
    struct kvs_id id = rig_id(seed, 0);
    int n = 0;

    CHECK_EQ(kvs_turns(g.s, &id, end, count_turn, &n), 0);
    return n;
}

/* A log without it would be the newer one, and what is left of it the only copy. */
static void a_log_that_has_a_turn_which_the_index_has_hurt_is_not_replaced(void)
{
    char path[400];

    start(0);
    for (uint64_t s = 1; s < 4; s++)
        for (uint64_t at = 0; at < 1000; at += 250)
            CHECK_EQ(rig_talk(&g, s, at, at + 250), 0);
    unseen();
    CHECK(flip_turn(g.dir, 1, 500) > 0);
    uint32_t base = newest_base();
    CHECK_EQ(ckpt_begin(g.s), 0);
    while (ckpt_busy(g.s) || g.s->ckpt.trim)
        ckpt_turn(g.s);
    CHECK_EQ(newest_base(), base);
    CHECK(!rig_compacting(&g));
    CHECK_EQ(turns_of(1, 1000), 4);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(remove(path), 0);
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t s = 1; s < 4; s++) {
        CHECK_EQ(turns_of(s, 1000), 4);
        CHECK(rig_tokens_ok(&g, s, 1000));
    }
    rig_fini(&g);
}

static uint64_t end_of_branch(struct kvs_id id)
{
    uint64_t end = 0;

    return kvs_branch_end(g.s, &id, &end) < 0 ? UINT64_MAX : end;
}

static uint64_t end_of(uint64_t seed)
{
    return end_of_branch(rig_id(seed, 0));
}

static bool settle(uint64_t gone)
{
    for (uint64_t until = now_ns() + 60000000000u * T_SLOWER;
         end_of(gone) != UINT64_MAX && now_ns() < until; usleep(500))
        rig_turn(&g);
    return end_of(gone) == UINT64_MAX;
}

static int rm(uint64_t seed)
{
    struct kvs_session s = {.id = rig_id(seed, 1000), .owner = 1000};
    struct kvs_rec r = {.kind = KVS_REC_SESSION_RM, .session = &s};

    return rig_batch(&g, &r, 1);
}

/* What removed sessions had is gained once. */
static void what_was_freed_is_no_reason_to_compact_again(void)
{
    start(1);
    for (uint64_t s = 1; s < 5; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 20000), 0);
    CHECK_EQ(rm(1), 0);
    CHECK_EQ(rm(2), 0);
    CHECK(settle(1) && settle(2));
    for (uint64_t until = now_ns() + 60000000000u * T_SLOWER;
         (writes == 0 || rig_compacting(&g)) && now_ns() < until;)
        rig_turn(&g);
    CHECK(writes > 0);
    uint32_t base = newest_base();
    for (uint64_t at = 20000; at < 20500; at += 10)
        CHECK_EQ(rig_talk(&g, 3, at, at + 10), 0);
    for (int i = 0; i < 200; i++)
        rig_turn(&g);
    CHECK_EQ(newest_base(), base);
    rig_fini(&g);
}

/* --- collection --------------------------------------------------------------------------------- */

static void a_row_that_a_collection_cannot_read_stops_nobody(void)
{
    struct kvs_session gone = {.id = rig_id(2, 1000), .owner = 1000};
    struct kvs_rec rm = {.kind = KVS_REC_SESSION_RM, .session = &gone};
    struct kvs_id branch = rig_id(1, 0);
    uint8_t twice[32];
    struct kvs_stats st;

    start(1); /* rounds begin at once */
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    memcpy(twice, branch.b, 16); /* the key, and the beginning of the value */
    memcpy(twice + 16, branch.b, 16);
    unseen();
    CHECK(flip_bytes(g.dir, "index.mdb", twice, sizeof twice, 42) > 0);
    CHECK_EQ(rig_batch(&g, &rm, 1), 0);
    kvs_stats(g.s, &st);
    /* Until a round has come to it, and it was mended. */
    for (uint64_t until = now_ns() + 60000000000u * T_SLOWER;
         st.rows_repaired == 0 && now_ns() < until; kvs_stats(g.s, &st)) {
        rig_turn(&g);
        usleep(500);
    }
    CHECK_EQ(st.rows_repaired, 1);
    CHECK_EQ(rig_talk(&g, 3, 1000, 1100), 0);
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    CHECK(rig_tokens_ok(&g, 1, 1100));
    rig_reopen(&g);
    CHECK(g.rep.clean);
    CHECK(rig_tokens_ok(&g, 1, 1100));
    rig_fini(&g);
}

/* It cannot be read when the round comes to it; what leads to its branch is not known then. */
static void beside_a_session_that_cannot_be_read_nothing_is_dropped(void)
{
    struct kvs_id id = rig_id(1, 1000);
    uint8_t twice[32];
    struct kvs_stats st;

    start(1);
    for (uint64_t s = 1; s < 5; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    memcpy(twice, id.b, 16);
    memcpy(twice + 16, id.b, 16);
    unseen();
    CHECK(flip_bytes(g.dir, "index.mdb", twice, sizeof twice, 18) > 0);
    CHECK_EQ(rm(2), 0);
    for (int i = 0; i < 50; i++) /* more steps than a round has */
        rig_turn(&g);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_repaired, 1);
    CHECK_EQ(end_of(1), 1000);
    CHECK_EQ(rm(3), 0); /* another round, when it has been mended */
    CHECK(settle(3));
    CHECK_EQ(end_of(2), UINT64_MAX);
    CHECK_EQ(end_of(1), 1000);
    CHECK_EQ(end_of(4), 1000);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    rig_fini(&g);
}

/* A fork of branch 1, at a place in it, with a session of its own; it is in the index behind it. */
static struct kvs_branch fork_of_1(struct kvs_session *ses, uint64_t at)
{
    struct kvs_branch b = {.parent = rig_id(1, 0), .parent_pos = at, .owner = 1000};
    uint64_t n = 7;

    while (memcmp(rig_id(1, n).b, b.parent.b, 16) < 0)
        n++;
    b.id = rig_id(1, n);
    rig_session(ses, 1, n, "fork");
    ses->head = at;
    return b;
}

/* Its row says who they are. */
static void the_parents_of_a_branch_that_cannot_be_read_stay(void)
{
    struct kvs_session ses;
    uint8_t twice[32];
    struct kvs_stats st;

    start(1);
    for (uint64_t s = 1; s < 5; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    struct kvs_branch b = fork_of_1(&ses, 500);
    struct kvs_rec rec[2] = {{.kind = KVS_REC_BRANCH, .branch = &b},
                             {.kind = KVS_REC_SESSION, .session = &ses}};
    CHECK_EQ(rig_batch(&g, rec, 2), 0);
    unseen();
    memcpy(twice, b.id.b, 16);
    memcpy(twice + 16, b.id.b, 16);
    CHECK(flip_bytes(g.dir, "index.mdb", twice, sizeof twice, 42) > 0);
    CHECK_EQ(rm(1), 0);
    for (int i = 0; i < 50; i++) /* more steps than a round has */
        rig_turn(&g);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_repaired, 1);
    CHECK_EQ(end_of(1), 1000);
    CHECK_EQ(rm(2), 0); /* another round, when it has been mended */
    CHECK(settle(2));
    CHECK_EQ(end_of(1), 1000);
    CHECK_EQ(end_of_branch(b.id), 500);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    rig_fini(&g);
}

static int count_part(void *ctx, const struct kvs_part *p)
{
    (void)p;
    (*(int *)ctx)++;
    return 0;
}

/* Its session, which stands elsewhere, was read for its own branch and is hurt then: whether the
 * answer is still wanted is not known. */
static void an_answer_whose_session_cannot_be_read_stays(void)
{
    struct kvs_id id = rig_id(1, 1000);
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .session = id,
                        .branch = rig_id(1, 0),
                        .state = KVS_REQ_ENDED,
                        .time_ns = 1ull << 62};
    struct kvs_part part = {
        .owner = 1000, .id = q.id, .data = (const uint8_t *)"x", .bytes = 1};
    struct kvs_session ses;
    struct kvs_rec rec[3] = {{.kind = KVS_REC_REQ, .req = &q},
                             {.kind = KVS_REC_PART, .part = &part},
                             {.kind = KVS_REC_SESSION, .session = &ses}};
    uint8_t twice[32];
    struct kvs_stats st;
    int parts = 0;

    start(1);
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_session(&ses, 1, 0, "s1");
    ses.branch = (struct kvs_id){{0}};
    CHECK_EQ(rig_batch(&g, rec, 3), 0);
    unseen();
    CHECK_EQ(rm(2), 0);
    for (int i = 0; g.s->collect.phase != COLLECT_REQS && i < 50; i++)
        rig_turn(&g);
    CHECK_EQ(g.s->collect.phase, COLLECT_REQS);
    memcpy(twice, id.b, 16);
    memcpy(twice + 16, id.b, 16);
    CHECK(flip_bytes(g.dir, "index.mdb", twice, sizeof twice, 18) > 0);
    CHECK(settle(2));
    CHECK_EQ(rm(3), 0);
    CHECK(settle(3));
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_repaired, 1);
    CHECK_EQ(kvs_parts(g.s, 1000, &q.id, count_part, &parts), 0);
    CHECK_EQ(parts, 1);
    CHECK_EQ(end_of(1), 1000);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    rig_fini(&g);
}

static int request(uint64_t n, uint64_t time_ns)
{
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, n),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .state = KVS_REQ_ENDED,
                        .time_ns = time_ns,
                        .reply = "{}",
                        .reply_bytes = 2};
    struct kvs_rec rec = {.kind = KVS_REC_REQ, .req = &q};

    return rig_batch(&g, &rec, 1);
}

static bool has_request(uint64_t n)
{
    struct kvs_id id = rig_id(9, n);
    struct kvs_req q;
    char *reply = NULL;
    int r = kvs_req_get(g.s, 1000, &id, &q, &reply);

    free(reply);
    return r == 0;
}

/* Between the look that finds it old and the drop, whenever those are. */
static void a_request_that_is_asked_again_before_it_is_dropped_stays(void)
{
    start(1);
    CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
    for (int turns = 0; turns < 6; turns++) {
        CHECK_EQ(request(1, 1), 0);
        for (int i = 0; i < turns; i++)
            rig_turn(&g);
        CHECK_EQ(request(1, 1ull << 62), 0);
        for (int i = 0; i < 20; i++)
            rig_turn(&g);
        CHECK(has_request(1));
    }
    CHECK_EQ(request(1, 1), 0);
    for (uint64_t until = now_ns() + 60000000000u * T_SLOWER;
         has_request(1) && now_ns() < until;)
        rig_turn(&g);
    CHECK(!has_request(1)); /* rounds do come */
    rig_fini(&g);
}

enum { MANY = 400 }; /* more than a round takes turns for, each with its group of them */
static struct kvs_session many[MANY];
static struct kvs_rec many_rec[MANY];
static struct kvs_batch many_batch[MANY];
static uint32_t n_done, n_sent;

static void many_done(struct kvs_batch *b)
{
    n_done++;
    CHECK_EQ(b->res, 0);
}

/* The loop has been asked what it holds: it has sent all that yet. */
static void send_many(void *ctx)
{
    (void)ctx;
    while (n_sent < MANY && kvs_batch_submit(g.s, &many_batch[n_sent]) == 0)
        n_sent++;
}

/* The last of them takes the branch of a session that is being removed. */
enum takes { BY_SESSION, BY_FORK, BY_REQUEST, TAKES_ };

static void queue_takes(enum takes how)
{
    struct kvs_session heir;
    struct kvs_branch b;
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .branch = rig_id(1, 0),
                        .state = KVS_REQ_RUNNING,
                        .time_ns = 1ull << 62};
    struct kvs_rec rec[2] = {{.kind = KVS_REC_BRANCH, .branch = &b},
                             {.kind = KVS_REC_SESSION, .session = &heir}};

    start(1);
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    n_done = n_sent = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        rig_session(&many[i], 3, 0, "s3");
        many[i].head = 1000;
        many_rec[i] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &many[i]};
        many_batch[i] = (struct kvs_batch){.rec = &many_rec[i], .n_rec = 1, .done = many_done};
    }
    b = fork_of_1(&heir, 900);
    if (how == BY_SESSION) {
        heir.branch = rig_id(1, 0);
        rec[0] = rec[1];
    } else if (how == BY_REQUEST) {
        rec[0] = (struct kvs_rec){.kind = KVS_REC_REQ, .req = &q};
    }
    many_batch[MANY - 1].rec = rec;
    many_batch[MANY - 1].n_rec = how == BY_FORK ? 2 : 1;
    kvs_on_collect(g.s, send_many, NULL);
    CHECK_EQ(rm(1), 0);
    CHECK_EQ(rm(2), 0);
    CHECK(settle(2));
    CHECK_EQ(n_sent, MANY);
    for (uint64_t until = now_ns() + 60000000000u * T_SLOWER;
         n_done < MANY && now_ns() < until;)
        rig_turn(&g);
    CHECK_EQ(n_done, MANY);
    CHECK_EQ(end_of(1), 1000);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    if (how == BY_FORK)
        CHECK_EQ(end_of_branch(b.id), 900);
    kvs_on_collect(g.s, NULL, NULL);
    rig_fini(&g);
}

static void what_is_in_the_queue_is_not_dropped_before_its_turn(void)
{
    for (int how = 0; how < TAKES_; how++)
        queue_takes((enum takes)how);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_log_beside_an_index_that_lacks_something_is_not_compacted),
       ROW(of_two_checkpoints_one_that_is_hurt_is_not_begun_with),
       ROW(a_checkpoint_under_a_newer_name_is_not_begun_with), ROW(one_file_of_the_log_is_open),
       ROW(an_index_that_was_made_anew_is_open_once),
       ROW(a_compaction_that_failed_leaves_nothing_behind),
       ROW(a_log_that_has_a_turn_which_the_index_has_hurt_is_not_replaced),
       ROW(a_compaction_does_not_pass_the_limit),
       ROW(a_log_that_could_not_be_made_anew_is_no_copy),
       ROW(of_a_log_that_was_removed_no_file_is_kept),
       ROW(a_log_beside_a_damaged_index_stays_and_that_is_said),
       ROW(what_was_freed_is_no_reason_to_compact_again),
       ROW(a_request_that_is_asked_again_before_it_is_dropped_stays),
       ROW(a_row_that_a_collection_cannot_read_stops_nobody),
       ROW(beside_a_session_that_cannot_be_read_nothing_is_dropped),
       ROW(the_parents_of_a_branch_that_cannot_be_read_stay),
       ROW(an_answer_whose_session_cannot_be_read_stays),
       ROW(what_is_in_the_queue_is_not_dropped_before_its_turn))
