/* test_heal.c - an index that is written to, overwritten or cut while the store is open. */
#include "base/clock.h"
#include "kvstore/index_env.h"
#include "kvstore/repair.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TOKENS = 1000, SESSIONS = 6, PAGE = 4096 };

static struct rig g;

static void open_rig(bool threads)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = threads;
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t s = 1; s <= SESSIONS; s++)
        for (uint64_t at = 0; at < TOKENS; at += 250)
            CHECK_EQ(rig_talk(&g, s, at, at + 250), 0);
    CHECK_EQ(rig_put(&g, 7, 0), 0);
}

static int index_fd(void)
{
    char path[512];

    snprintf(path, sizeof path, "%.400s/index.mdb", g.dir);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0);
    return fd;
}

/* A clock of the file system that stands still between two writes would hide the second. */
static void past(int fd)
{
    struct stat st;
    char path[512];

    CHECK_EQ(fstat(fd, &st), 0);
    snprintf(path, sizeof path, "%.400s/tick", g.dir);
    for (;;) {
        struct stat now;
        int t = open(path, O_RDWR | O_CREAT, 0600);
        CHECK(t >= 0 && write(t, "x", 1) == 1 && fstat(t, &now) == 0);
        close(t);
        if (now.st_mtim.tv_sec != st.st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != st.st_mtim.tv_nsec)
            break;
    }
    unlink(path);
}

/* What is written into each page: six bytes of its head, all of it, or its middle. */
static void heads(int fd, off_t at)
{
    CHECK_EQ(pwrite(fd, "\xff\xff\xff\xff\xff\xff", 6, at + 10), 6);
}
static void whole(int fd, off_t at)
{
    uint8_t b[PAGE];

    memset(b, 0x5a, sizeof b);
    CHECK_EQ(pwrite(fd, b, sizeof b, at), PAGE);
}
static void zeros(int fd, off_t at)
{
    uint8_t b[PAGE] = {0};

    CHECK_EQ(pwrite(fd, b, sizeof b, at), PAGE);
}

static void pages_hurt(void (*how)(int fd, off_t at), off_t from)
{
    struct stat st;
    int fd = index_fd();

    past(fd);
    CHECK_EQ(fstat(fd, &st), 0);
    for (off_t at = from; at + PAGE <= st.st_size; at += PAGE)
        how(fd, at);
    close(fd);
}

static bool said(const char *words)
{
    char note[512];
    bool any = false;

    while (kvs_note(g.s, note, sizeof note))
        any |= strstr(note, words) != NULL;
    return any;
}

/* Who waits for the index to be made anew goes on a moment before that is said. */
static bool said_soon(const char *words)
{
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;
    bool is = said(words);

    while (!is && g.threads && now_ns() < until) {
        usleep(1000);
        is = said(words);
    }
    return is;
}

static int count_session(void *ctx, const struct kvs_session *s)
{
    (void)s;
    (*(int *)ctx)++;
    return 0;
}

static void all_is_there(void)
{
    int n = 0;

    CHECK_EQ(kvs_sessions(g.s, count_session, &n), 0);
    CHECK_EQ(n, SESSIONS);
    for (uint64_t s = 1; s <= SESSIONS; s++)
        CHECK(rig_tokens_ok(&g, s, TOKENS));
}

static bool index_hurt(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.index_hurt;
}

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

static void touched(void)
{
    int fd = index_fd();
    uint8_t b;

    past(fd);
    CHECK(pread(fd, &b, 1, 3 * PAGE) == 1 && pwrite(fd, &b, 1, 3 * PAGE) == 1);
    close(fd);
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

static uint8_t *index_read(const char *dir, size_t *ret_bytes)
{
    char path[512];
    struct stat st;

    snprintf(path, sizeof path, "%.400s/index.mdb", dir);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *b = malloc((size_t)st.st_size);
    CHECK(b && pread(fd, b, (size_t)st.st_size, 0) == st.st_size);
    close(fd);
    *ret_bytes = (size_t)st.st_size;
    return b;
}

static void index_put_back(const uint8_t *b, size_t bytes)
{
    int fd = index_fd();

    past(fd);
    CHECK_EQ(pwrite(fd, b, bytes, 0), (ssize_t)bytes);
    close(fd);
}

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

/* Nor is a row given up that another's write kept from being made anew. */
static void a_row_of_one_that_was_written_to_is_not_given_up(void)
{
    struct kvs_id id = rig_id(1, 0);
    struct kvs_stats st;

    open_rig(false);
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

static void log_cut(off_t to)
{
    glob_t v;
    char pattern[512];

    snprintf(pattern, sizeof pattern, "%.400s/log/seg-*", g.dir);
    CHECK_EQ(glob(pattern, 0, NULL, &v), 0);
    for (size_t i = 0; i < v.gl_pathc; i++)
        CHECK_EQ(truncate(v.gl_pathv[i], to), 0);
    globfree(&v);
}

/* The index has all of it, and is what is cut next. */
static void a_log_that_is_cut_is_made_anew(void)
{
    static const off_t to[] = {0, PAGE, 3 * PAGE};

    for (int k = 0; k < 6; k++) {
        open_rig(false);
        log_cut(to[k / 2]);
        if (k % 2)
            CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        g.s->guard_ns = 0;
        do
            rig_turn(&g);
        while (ckpt_busy(g.s) || g.s->ckpt.trim);
        CHECK(said("was cut short by another program"));
        CHECK(!g.s->log_hurt);
        int fd = index_fd();
        CHECK_EQ(ftruncate(fd, 0), 0);
        close(fd);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 1, k % 2 ? TOKENS + 10 : TOKENS));
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        all_is_there();
        rig_fini(&g);
    }
}

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
        CHECK_EQ(kvs_branch_get(g.s, &id, &b), why == -ENOMEM ? -ENOMEM : -ENOSPC);
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
int pipe2(int p[2], int flags)
{
    n_pipes++;
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

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(pages_overwritten_under_the_open_store_cost_nothing),
       ROW(an_index_that_is_cut_costs_nothing), ROW(a_lock_file_that_is_cut_costs_nothing),
       ROW(a_lock_file_cut_beside_another_index_costs_nothing),
       ROW(a_view_outlives_its_lock_file), ROW(what_is_written_during_a_walk_is_walked_again),
       ROW(a_row_of_one_that_was_written_to_is_not_given_up), ROW(any_page_may_be_hit),
       ROW(a_write_that_changed_nothing_is_no_damage),
       ROW(what_comes_after_many_touches_is_seen), ROW(an_older_copy_put_back_costs_nothing),
       ROW(another_stores_index_is_not_believed), ROW(a_compaction_under_way_keeps_the_log),
       ROW(a_batch_between_log_and_index_counts_once),
       ROW(what_lmdb_meets_itself_is_damage_too), ROW(a_log_that_is_cut_is_made_anew),
       ROW(one_that_lacks_room_is_tried_again), ROW(one_that_cannot_be_walked_waits),
       ROW(anothers_index_waits_for_room_too), ROW(an_empty_store_loses_nothing),
       ROW(one_that_is_damaged_often_rests), ROW(reads_share_one_wait),
       ROW(what_was_mended_before_the_wait_counts), ROW(what_cannot_be_made_anew_is_said),
       ROW(one_that_stays_damaged_is_walked_once))
