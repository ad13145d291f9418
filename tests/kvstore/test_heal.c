/* test_heal.c - an index that is written to, overwritten or cut while the store is open. */
#include "kvstore/repair.h"
#include "tests/kvstore/heal.h"
#include <sys/resource.h>
#include <sys/syscall.h>

/* Read, written or left alone first; then everything, also after a restart. */
static void goes_on(int first)
{
    struct kvs_block_req got;
    uint8_t clean[8] = {1};

    if (first == 0)
        all_is_there();
    else if (first == 1)
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    else
        for (int i = 0; i < 3; i++) {
            rig_turn(&g);
            CHECK(!index_hurt() || g.threads);
        }
    all_is_there();
    CHECK(!index_hurt());
    CHECK(said_soon("damaged in its structure: made anew"));
    /* A store that is open: killed now, it must be looked at. */
    CHECK_EQ(index_meta_get(g.s->idx, INDEX_LOOP, "clean", clean, 8), 8);
    CHECK_EQ(clean[0], 0);
    if (first != 1)
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    CHECK_EQ(rig_get(&g, 7, 0, &got), 0);
    CHECK_EQ(rig_put(&g, 7, 1), 0);
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
    CHECK_EQ(rig_get(&g, 7, 0, &got), 0);
    CHECK_EQ(rig_get(&g, 7, 1, &got), 0);
}

static void pages_overwritten_under_the_open_store_cost_nothing(void)
{
    static void (*const how[])(int, off_t) = {heads, whole, zeros};

    for (int k = 0; k < 12; k++) {
        open_rig(k % 2);
        pages_hurt(how[k % 3], k < 9 ? 2 * PAGE : 0); /* with the meta pages, or without */
        goes_on(k / 2 % 3 == 2 && g.threads ? 0 : k / 2 % 3);
        rig_fini(&g);
    }
}

static void an_index_that_is_cut_costs_nothing(void)
{
    static const off_t to[] = {0, 100, PAGE, 2 * PAGE, 5 * PAGE};

    for (int k = 0; k < 10; k++) {
        open_rig(k % 2);
        int fd = index_fd();
        CHECK_EQ(ftruncate(fd, to[k / 2]), 0);
        close(fd);
        goes_on(k % 3 == 2 && g.threads ? 0 : k % 3);
        rig_fini(&g);
    }
}

/* One page alone, whichever it is; nobody reads it, or a batch comes to it. */
static void any_page_may_be_hit(void)
{
    struct stat st;

    open_rig(false);
    int fd = index_fd();
    CHECK_EQ(fstat(fd, &st), 0);
    close(fd);
    rig_fini(&g);
    for (off_t at = 0; at + PAGE <= st.st_size && at < 24 * PAGE; at += PAGE) {
        open_rig(false);
        fd = index_fd();
        past(fd);
        heads(fd, at);
        close(fd);
        CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
        all_is_there();
        CHECK(!index_hurt());
        rig_reopen(&g);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 2, TOKENS + 10));
        rig_fini(&g);
    }
}

static void a_write_that_changed_nothing_is_no_damage(void)
{
    uint8_t b;

    open_rig(false);
    for (int i = 0; i < 20; i++) {
        int fd = index_fd();
        past(fd);
        CHECK_EQ(pread(fd, &b, 1, 3 * PAGE), 1);
        CHECK_EQ(pwrite(fd, &b, 1, 3 * PAGE), 1);
        close(fd);
        all_is_there();
        CHECK_EQ(rig_talk(&g, 1, TOKENS + 10 * (uint64_t)i, TOKENS + 10 * (uint64_t)i + 10), 0);
    }
    CHECK(!index_hurt());
    CHECK(!said("made anew"));
    CHECK_EQ(g.s->heals, 0);
    rig_fini(&g);
}

/* LMDB has 126 places for who reads, and each walk leaves one behind: within a minute, too. */
static void it_is_walked_as_often_as_it_is_touched(void)
{
    struct kvs_id id = rig_id(1, 0);
    struct kvs_branch b;

    open_rig(false);
    for (int i = 0; i < 140; i++) {
        touched();
        CHECK_EQ(kvs_branch_get(g.s, &id, &b), 0);
    }
    CHECK_EQ(g.s->heals, 0);
    rig_fini(&g);
}

static void what_comes_after_many_touches_is_seen(void)
{
    for (int k = 0; k < 4; k++) {
        open_rig(k % 2);
        for (uint64_t i = 0; i < 12; i++) {
            touched();
            all_is_there();
            if (k / 2) {
                uint64_t at = TOKENS + 10 * i;
                CHECK_EQ(rig_talk(&g, 2, at, at + 10), 0);
            }
        }
        CHECK_EQ(g.s->heals, 0);
        if (k / 2) { /* a touch behind each commit: times are looked at again later */
            pthread_mutex_lock(&g.s->idx->hurt_lock);
            CHECK(g.s->idx->alarm_ns > now_ns());
            g.s->idx->alarm_ns = now_ns();
            pthread_mutex_unlock(&g.s->idx->hurt_lock);
        }
        pages_hurt(zeros, 2 * PAGE);
        if (!g.threads) /* before LMDB has met it */
            CHECK_EQ(index_trust(g.s->idx), INDEX_TOUCHED);
        goes_on(0);
        rig_fini(&g);
    }
}

/* --- sound, and not what was left ----------------------------------------------------------- */

static void times_are_not_believed(void)
{
    pthread_mutex_lock(&g.s->idx->hurt_lock);
    g.s->idx->alarm_ns = UINT64_MAX;
    pthread_mutex_unlock(&g.s->idx->hurt_lock);
}

/* Found by its time, or by nothing but the number of its last transaction. */
static void an_older_copy_put_back_costs_nothing(void)
{
    size_t bytes;

    for (uint64_t k = 0; k < 8; k++) {
        uint64_t turns = 1 + k / 2;
        open_rig(k % 2);
        uint8_t *old = index_read(g.dir, &bytes);
        for (uint64_t t = 0; t < turns; t++)
            CHECK_EQ(rig_talk(&g, 3, TOKENS + 10 * t, TOKENS + 10 * t + 10), 0);
        if (k / 4)
            times_are_not_believed();
        index_put_back(old, bytes);
        free(old);
        if (k % 4 < 2)
            CHECK(rig_tokens_ok(&g, 3, TOKENS + 10 * turns));
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        CHECK(!index_hurt());
        CHECK(said_soon("overwritten with an older copy of it or another index: made anew"));
        for (int again = 0; again < 2; again++) {
            CHECK(rig_tokens_ok(&g, 3, TOKENS + 10 * turns));
            CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
            all_is_there();
            if (!again)
                rig_reopen(&g);
        }
        CHECK(g.rep.clean && !g.rep.rebuilt);
        rig_fini(&g);
    }
}

/* As many transactions, and the log as far: but its store has another name. */
static void another_stores_index_is_not_believed(void)
{
    size_t bytes;

    for (int k = 0; k < 4; k++) {
        open_rig(false);
        CHECK_EQ(rig_talk(&g, 9, 0, 10), 0);
        uint8_t *theirs = index_read(g.dir, &bytes);
        rig_fini(&g);
        open_rig(k % 2);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        if (k == 3)
            times_are_not_believed();
        index_put_back(theirs, bytes);
        free(theirs);
        CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
        CHECK(said_soon("another store's index, which is kept as"));
        for (int again = 0; again < 2; again++) {
            CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
            CHECK(rig_tokens_ok(&g, 2, TOKENS + 10));
            CHECK(!rig_tokens_ok(&g, 9, 10));
            all_is_there();
            if (!again)
                rig_reopen(&g);
        }
        CHECK(g.rep.clean && !g.rep.rebuilt);
        rig_fini(&g);
    }
}

/* LMDB maps that one too, whatever its name is by now. */
static void lock_file_cut(off_t to, bool moved)
{
    char path[512], aside[512];

    snprintf(path, sizeof path, "%.400s/index.mdb-lock", g.dir);
    snprintf(aside, sizeof aside, "%.400s/index.mdb-was", g.dir);
    if (moved)
        CHECK_EQ(rename(path, aside), 0);
    CHECK_EQ(truncate(moved ? aside : path, to), 0);
}

static void a_lock_file_that_is_cut_costs_nothing(void)
{
    for (int k = 0; k < 8; k++) {
        open_rig(k % 2);
        if (k == 2)
            CHECK_EQ(ckpt_begin(g.s), 0);
        lock_file_cut(k / 2 % 3 * 64, k / 2 == 3);
        all_is_there();
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        CHECK(!index_hurt());
        CHECK(said("index.mdb-lock was cut short"));
        CHECK(!said("made anew"));
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        all_is_there();
        rig_fini(&g);
    }
}

/* What ends a view of the index writes to the lock file. */
static void a_view_outlives_its_lock_file(void)
{
    open_rig(false);
    CHECK_EQ(ckpt_begin(g.s), 0);
    lock_file_cut(0, false);
    while (ckpt_busy(g.s))
        ckpt_turn(g.s);
    all_is_there();
    CHECK(!index_hurt());
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    rig_fini(&g);
}

/* With another lock file the index is opened again, whatever it is by then: what is put back or
 * damaged beside the cut is not what was left. */
static void a_lock_file_cut_beside_another_index_costs_nothing(void)
{
    size_t bytes;

    for (int k = 0; k < 8; k++) {
        open_rig(k % 2);
        uint8_t *old = index_read(g.dir, &bytes);
        CHECK_EQ(rig_talk(&g, 3, TOKENS, TOKENS + 10), 0);
        if (k / 4)
            times_are_not_believed();
        if (!g.threads)
            CHECK_EQ(ckpt_begin(g.s), 0);
        lock_file_cut(0, false);
        if (k / 2 % 2)
            pages_hurt(zeros, 2 * PAGE);
        else
            index_put_back(old, bytes);
        free(old);
        CHECK(rig_tokens_ok(&g, 3, TOKENS + 10));
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        CHECK(!index_hurt());
        CHECK(said_soon(k / 2 % 2 ? "damaged in its structure: made anew"
                                  : "an older copy of it or another index: made anew"));
        for (int again = 0; again < 2; again++) {
            CHECK(rig_tokens_ok(&g, 3, TOKENS + 10));
            CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
            all_is_there();
            if (!again)
                rig_reopen(&g);
        }
        CHECK(g.rep.clean && !g.rep.rebuilt);
        rig_fini(&g);
    }
}

/* Nor is one read that was damaged between the walk and that, or its end. */
static void one_that_cannot_be_opened_again_is_made_anew(void)
{
    open_rig(false);
    lock_file_cut(0, false);
    CHECK_EQ(index_trust(g.s->idx), INDEX_TOUCHED);
    CHECK_EQ(index_walk_begin(g.s->idx), 1);
    pages_hurt(whole, 0);
    CHECK_EQ(index_is_last(g.s->idx), E_CORRUPT);
    CHECK_EQ(index_begin(g.s->idx), E_CORRUPT);
    CHECK(rig_tokens_ok(&g, 1, TOKENS));
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    all_is_there();
    CHECK(said("damaged in its structure: made anew"));
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
    rig_fini(&g);
}

/* A rename that fails, and from then on no descriptor is to be had. */
static bool no_rename;
static void files_may(bool some)
{
    struct rlimit lim;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &lim), 0);
    lim.rlim_cur = some ? lim.rlim_max : 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &lim), 0);
}

int rename(const char *from, const char *to)
{
    if (!no_rename)
        return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    files_may(false);
    errno = EIO;
    return -1;
}

/* One that could not be copied smaller, nor be opened again as it was, has nothing wrong. */
static void one_that_was_not_shrunk_is_opened_later(void)
{
    struct kvs_id id = rig_id(1, 0);
    struct kvs_branch b;
    struct kvs_stats st;

    open_rig(false);
    no_rename = true;
    CHECK_EQ(index_shrink_open(g.s->idx), -EMFILE);
    no_rename = false;
    CHECK_EQ(kvs_branch_get(g.s, &id, &b), -EAGAIN);
    rig_turn(&g);
    files_may(true);
    CHECK_EQ(index_shrink_open(g.s->idx), E_CORRUPT);
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), -EAGAIN);
    kvs_stats(g.s, &st);
    CHECK(st.fault == 0 && st.index_hurt);
    g.s->heal_ns = 0;
    rig_turn(&g);
    all_is_there();
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    kvs_stats(g.s, &st);
    CHECK(st.fault == 0 && !st.index_hurt);
    CHECK_EQ(g.s->heals, 0);
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
    rig_fini(&g);
}

/* Nor is a row given up that another's write kept from being made anew. */
static void a_row_of_one_that_was_written_to_is_not_given_up(void)
{
    struct kvs_id id = rig_id(1, 0);
    struct kvs_stats st;

    open_rig(false);
    repair_row(g.s, DB_BRANCH, id.b, 16); /* it is whole */
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_repaired, 0);
    CHECK(!said("was made anew"));
    touched();
    repair_row(g.s, DB_BRANCH, id.b, 16);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.rows_unrepaired, 0);
    CHECK(!g.s->index_bad);
    all_is_there();
    CHECK(!said("could not be made anew"));
    rig_fini(&g);
}

/* Whoever writes while it is walked has not been walked. */
static void what_is_written_during_a_walk_is_walked_again(void)
{
    open_rig(false);
    touched();
    CHECK_EQ(index_trust(g.s->idx), INDEX_TOUCHED);
    CHECK_EQ(index_walk_begin(g.s->idx), 0);
    pages_hurt(heads, 2 * PAGE);
    index_believe(g.s->idx, true);
    CHECK_EQ(index_trust(g.s->idx), INDEX_TOUCHED);
    all_is_there();
    CHECK(said("damaged in its structure: made anew"));
    rig_fini(&g);
}

/* A compaction reads all of the index: what it reads of a damaged one replaces no log. */
static void a_compaction_under_way_keeps_the_log(void)
{
    open_rig(false);
    CHECK_EQ(ckpt_begin(g.s), 0);
    pages_hurt(zeros, 2 * PAGE);
    while (ckpt_busy(g.s))
        ckpt_turn(g.s);
    all_is_there();
    CHECK(said_soon("made anew from the turn log, nothing is missing"));
    rig_reopen(&g);
    all_is_there();
    rig_fini(&g);
}

static int n_shorter;

/* A page of sessions lacks its last row, and nothing in it is out of order. */
static void shorter(int fd, off_t at)
{
    uint8_t b[PAGE], twice[32];
    bool found = false;

    CHECK_EQ(pread(fd, b, sizeof b, at), PAGE);
    for (uint64_t s = 1; s <= SESSIONS; s++) {
        struct kvs_id id = rig_id(s, 1000); /* the key, and the beginning of the value */
        memcpy(twice, id.b, 16);
        memcpy(twice + 16, id.b, 16);
        found |= memmem(b, sizeof b, twice, sizeof twice) != NULL;
    }
    uint16_t flags = (uint16_t)(b[10] | b[11] << 8), lower = (uint16_t)(b[12] | b[13] << 8);
    if (!found || flags != 2 || lower <= 18)
        return;
    b[12] = (uint8_t)(lower - 2);
    b[13] = (uint8_t)((lower - 2) >> 8);
    CHECK_EQ(pwrite(fd, b + 12, 2, at + 12), 2);
    n_shorter++;
}

static void a_compaction_that_has_read_less_than_there_was_replaces_no_log(void)
{
    open_rig(false);
    CHECK_EQ(ckpt_begin(g.s), 0);
    n_shorter = 0;
    g.s->idx->alarm_ns = UINT64_MAX; /* its time says nothing before all of it was read */
    pages_hurt(shorter, 2 * PAGE);
    CHECK(n_shorter > 0);
    while (ckpt_busy(g.s) && g.s->ckpt.phase != CKPT_END)
        ckpt_turn(g.s);
    CHECK(ckpt_busy(g.s));
    g.s->idx->alarm_ns = 0;
    while (ckpt_busy(g.s) || g.s->ckpt.trim)
        ckpt_turn(g.s);
    all_is_there();
    CHECK(said_soon("made anew from the turn log, nothing is missing"));
    rig_reopen(&g);
    all_is_there();
    rig_fini(&g);
}

/* The log has the batch, the index has not: it is in the new one by way of the log, once. */
static int hit_at_sync(void *user, const struct sys_event *e)
{
    bool *due = user;

    if (*due && e->op == SYS_SYNC && e->after) {
        *due = false;
        pages_hurt(heads, 2 * PAGE);
    }
    return 0;
}

static void a_batch_between_log_and_index_counts_once(void)
{
    bool due = true;

    open_rig(false);
    g.s->sys.hook = hit_at_sync;
    g.s->sys.user = &due;
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    CHECK(!due);
    CHECK_EQ(g.s->heals, 1);
    CHECK_EQ(rig_talk(&g, 1, TOKENS + 10, TOKENS + 20), 0);
    all_is_there();
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 20));
    g.s->sys.hook = NULL;
    rig_reopen(&g);
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 20));
    rig_fini(&g);
}

/* Nobody has written to it: the disk itself gives back something else. */
static void what_lmdb_meets_itself_is_damage_too(void)
{
    for (int k = 0; k < 4; k++) {
        open_rig(k % 2);
        times_are_not_believed();
        pages_hurt(zeros, 2 * PAGE);
        goes_on(k / 2);
        rig_fini(&g);
    }
}

/* --- the log ---------------------------------------------------------------------------------- */

/* A merge does not know it, and it is written once a minute: killed within that, ages would begin
 * anew. */
static void the_clock_outlives_a_kill_soon_after(void)
{
    const uint64_t gone = 50ull * 24 * 3600 * 1000000000u;
    struct timespec t;
    char copy[300];

    rig_init(&g, KVS_IO_THREADS, true);
    g.threads = false;
    g.env.lived_ns = gone;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, TOKENS), 0);
    pages_hurt(heads, 2 * PAGE);
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    CHECK(said_soon("damaged in its structure: made anew"));
    snprintf(copy, sizeof copy, "%.250s-killed", g.dir);
    CHECK_EQ(rig_cp(g.dir, copy), 0);
    rig_fini(&g);
    snprintf(g.dir, sizeof g.dir, "%.255s", copy);
    g.env.lived_ns = 0;
    CHECK_EQ(rig_open(&g), 0);
    CHECK(!g.rep.clean && !g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
    clock_gettime(CLOCK_REALTIME, &t);
    CHECK(kvs_lived_ns(g.s, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec) >= gone);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(pages_overwritten_under_the_open_store_cost_nothing),
       ROW(an_index_that_is_cut_costs_nothing), ROW(a_lock_file_that_is_cut_costs_nothing),
       ROW(a_lock_file_cut_beside_another_index_costs_nothing),
       ROW(a_view_outlives_its_lock_file), ROW(what_is_written_during_a_walk_is_walked_again),
       ROW(one_that_cannot_be_opened_again_is_made_anew),
       ROW(one_that_was_not_shrunk_is_opened_later),
       ROW(a_row_of_one_that_was_written_to_is_not_given_up), ROW(any_page_may_be_hit),
       ROW(a_write_that_changed_nothing_is_no_damage),
       ROW(it_is_walked_as_often_as_it_is_touched), ROW(what_comes_after_many_touches_is_seen),
       ROW(an_older_copy_put_back_costs_nothing), ROW(another_stores_index_is_not_believed),
       ROW(a_compaction_under_way_keeps_the_log),
       ROW(a_compaction_that_has_read_less_than_there_was_replaces_no_log),
       ROW(a_batch_between_log_and_index_counts_once),
       ROW(what_lmdb_meets_itself_is_damage_too), ROW(the_clock_outlives_a_kill_soon_after))
