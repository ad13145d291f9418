/* test_wrong.c - what went wrong once stays noticed: failed syncs and commits, frames that changed,
 * batches that were refused. */
#include "base/bytes.h"
#include "kvstore/store.h"
#include "tests/kvstore/hurt_write.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void make(struct rig *g)
{
    memset(&bad, 0, sizeof bad);
    rig_init(g, KVS_IO_THREADS, true);
    g->threads = false;
}

static uint64_t end_of(struct rig *g, uint64_t seed)
{
    struct kvs_id id = rig_id(seed, 0);
    uint64_t end = 0;

    (void)kvs_branch_end(g->s, &id, &end);
    return end;
}

/* --- a fault is for good -------------------------------------------------------------------------- */

/* After whatever set it: nothing is taken any more, all is said, and a restart goes on. */
static void is_read_only(struct rig *g, int line)
{
    struct kvs_stats st;

    if (rig_talk(g, 91, 0, 10) != -EROFS)
        t_fail(__FILE__, line, "a batch is still taken");
    if (rig_put(g, 92, 0) != -EROFS)
        t_fail(__FILE__, line, "a block is still taken");
    if (rig_talk(g, 93, 0, 10) != -EROFS || rig_put(g, 92, 1) != -EROFS)
        t_fail(__FILE__, line, "the second time it is taken");
    kvs_stats(g->s, &st);
    if (st.fault != -EROFS || !st.warning[0][0])
        t_fail(__FILE__, line, "fault %d, warning '%s'", st.fault, st.warning[0]);
    if (!rig_tokens_ok(g, 1, 100) || rig_get(g, 2, 0, NULL) != 0)
        t_fail(__FILE__, line, "what was there before cannot be read");
    rig_reopen(g);
    if (end_of(g, 91) || end_of(g, 93))
        t_fail(__FILE__, line, "what was refused is there");
    if (g->rep.clean)
        t_fail(__FILE__, line, "it was closed cleanly");
    if (!rig_tokens_ok(g, 1, 100) || rig_get(g, 2, 0, NULL) != 0)
        t_fail(__FILE__, line, "what was acknowledged is lost");
    if (rig_talk(g, 94, 0, 10) != 0 || rig_put(g, 95, 0) != 0)
        t_fail(__FILE__, line, "a restart does not end it");
}

static void before(struct rig *g)
{
    make(g);
    CHECK_EQ(rig_open(g), 0);
    CHECK_EQ(rig_talk(g, 1, 0, 100), 0);
    CHECK_EQ(rig_put(g, 2, 0), 0);
    bad.times = 1;
}

static void a_sync_of_the_log_that_fails_once_ends_writing(void)
{
    struct rig g;

    before(&g);
    bad.sync = "/log/";
    CHECK(rig_talk(&g, 3, 0, 10) < 0);
    CHECK_EQ(bad.failed, 1);
    is_read_only(&g, __LINE__);
    rig_fini(&g);
}

static void a_sync_of_a_segment_that_fails_once_ends_writing(void)
{
    struct rig g;

    before(&g);
    bad.sync = "/kv/";
    CHECK_EQ(rig_put(&g, 4, 0), -EROFS);
    CHECK_EQ(bad.failed, 1);
    is_read_only(&g, __LINE__);
    rig_fini(&g);
}

static void a_block_that_cannot_be_written_ends_writing(void)
{
    struct rig g;

    before(&g);
    bad.write = "/kv/";
    CHECK_EQ(rig_put(&g, 4, 0), -EROFS);
    CHECK_EQ(bad.failed, 1);
    is_read_only(&g, __LINE__);
    CHECK_EQ(rig_get(&g, 4, 0, NULL), -ENOENT);
    rig_fini(&g);
}

static void a_frame_that_cannot_be_written_ends_writing(void)
{
    struct rig g;

    before(&g);
    bad.write = "/log/";
    CHECK(rig_talk(&g, 3, 0, 10) < 0);
    CHECK_EQ(bad.failed, 1);
    is_read_only(&g, __LINE__);
    CHECK_EQ(end_of(&g, 3), 0);
    rig_fini(&g);
}

/* A directory's sync, after the new file has its name. */
static bool fail_names;

int fsync(int fd)
{
    struct stat st;

    if (fail_names && is_of(fd, "/log") && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        fail_names = false;
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static void a_frame_in_a_new_file_that_was_refused_does_not_come_back(void)
{
    struct rig g;
    uint64_t at = 0;
    int r = 0;

    before(&g);
    fail_names = true;
    while (at < 3000000 && (r = rig_talk(&g, 3, at, at + 3000)) == 0)
        at += 3000;
    CHECK(at > 0 && r < 0 && !fail_names);
    is_read_only(&g, __LINE__);
    CHECK_EQ(end_of(&g, 3), at);
    CHECK(rig_tokens_ok(&g, 3, at));
    CHECK_EQ(rig_talk(&g, 3, at, at + 3000), 0);
    rig_fini(&g);
}

static struct {
    int code, n;
    unsigned hits;
} commit;
static int on_commit(void *user, const struct sys_event *e)
{
    (void)user;
    if (e->op != SYS_COMMIT || e->after || commit.n <= 0)
        return 0;
    commit.n--;
    commit.hits++;
    return commit.code;
}

static void a_commit_that_fails_once_ends_writing(void)
{
    struct rig g;

    make(&g);
    g.env.sys_hook = on_commit;
    commit.n = 0, commit.hits = 0;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
    CHECK_EQ(rig_put(&g, 2, 0), 0);
    commit.code = -EIO, commit.n = 1;
    CHECK(rig_talk(&g, 3, 0, 10) < 0);
    CHECK_EQ(commit.hits, 1);
    is_read_only(&g, __LINE__);
    rig_fini(&g);
}

/* --- frames of a commit that failed ---------------------------------------------------------------- */

/* The disk is full for the index, not for the log: what was refused must not come back from the
 * log, and what is taken afterwards must. */
static void frames_of_a_refused_batch_are_gone_from_the_log(void)
{
    struct rig g;

    make(&g);
    g.env.sys_hook = on_commit;
    commit.n = 0, commit.hits = 0;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 300), 0);
    for (int round = 0; round < 3; round++) {
        commit.code = -ENOSPC, commit.n = 1000;
        CHECK_EQ(rig_talk(&g, 50 + (uint64_t)round, 0, 900), -ENOSPC);
        commit.n = 0;
        /* Shorter than what was refused: its rest would lie behind. */
        CHECK_EQ(rig_talk(&g, 1, 300 + 20 * (uint64_t)round, 320 + 20 * (uint64_t)round), 0);
    }
    commit.code = -ENOSPC, commit.n = 1000;
    CHECK_EQ(rig_talk(&g, 60, 0, 40), -ENOSPC); /* the last one, too */
    commit.n = 0;
    for (int i = 0; i < 3; i++) { /* as it is; opened again; and with the log alone */
        char said[512];
        if (i)
            rig_close(&g);
        if (i == 2)
            rig_no_index(&g);
        if (i) {
            CHECK_EQ(rig_open(&g), 0);
            CHECK_EQ(g.rep.rebuilt, i == 2);
        }
        CHECK(i == 2 || !strstr(g.rep.warning, "damage"));
        while (kvs_note(g.s, said, sizeof said))
            if (i < 2 && strstr(said, "damage"))
                t_fail(__FILE__, __LINE__, "said: %s", said);
        CHECK_EQ(end_of(&g, 1), 360);
        CHECK(rig_tokens_ok(&g, 1, 360));
        for (uint64_t s = 50; s <= 60; s++)
            CHECK_EQ(end_of(&g, s), 0);
    }
    CHECK_EQ(rig_talk(&g, 60, 0, 40), 0);
    rig_fini(&g);
}

static void opens_without_a_word(struct rig *g, int line)
{
    char said[512];

    rig_reopen(g);
    if (g->rep.rebuilt || strstr(g->rep.warning, "damage"))
        t_fail(__FILE__, line, "rebuilt %d, '%s'", g->rep.rebuilt, g->rep.warning);
    while (kvs_note(g->s, said, sizeof said))
        if (strstr(said, "damage"))
            t_fail(__FILE__, line, "said: %s", said);
}

/* The disk is full for the log itself: numbers of frames that never were are used again. */
static void frames_that_could_not_be_written_leave_no_hole(void)
{
    struct rig g;
    char path[300];

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
    for (uint64_t i = 1; i < 4; i++) {
        bad.write = "/log/", bad.times = 1000, bad.code = ENOSPC;
        CHECK_EQ(rig_talk(&g, 50, 0, 10), -ENOSPC);
        bad.times = 0;
        snprintf(path, sizeof path, "%s/reserve", g.dir);
        CHECK(access(path, F_OK) < 0); /* given up before anything fails */
        CHECK_EQ(rig_talk(&g, 1, i * 100, i * 100 + 100), 0);
    }
    opens_without_a_word(&g, __LINE__);
    CHECK_EQ(end_of(&g, 1), 400);
    CHECK_EQ(end_of(&g, 50), 0);
    rig_close(&g);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(end_of(&g, 1), 400);
    CHECK(rig_tokens_ok(&g, 1, 400));
    rig_fini(&g);
}

static void short_and_interrupted_writes_go_on(void)
{
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    bad.half = true;
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ(rig_talk(&g, 1, i * 200, i * 200 + 200), 0);
    CHECK(bad.n > 30);
    bad.half = false;
    rig_close(&g);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(end_of(&g, 1), 2000);
    CHECK(rig_tokens_ok(&g, 1, 2000));
    rig_fini(&g);
}

/* --- what is believed ------------------------------------------------------------------------------ */

/* With the log alone, and a byte of a frame changed: what is there is what was said. */
static void a_frame_that_changed_is_not_believed(void)
{
    for (uint32_t k = 0; k < 12; k++) {
        struct rig g;
        char path[300];
        uint8_t c;
        make(&g);
        CHECK_EQ(rig_open(&g), 0);
        for (uint64_t i = 0; i < 5; i++)
            CHECK_EQ(rig_talk(&g, 1, i * 300, i * 300 + 300), 0);
        rig_close(&g);
        rig_no_index(&g);
        snprintf(path, sizeof path, "%s/log/seg-0001", g.dir);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        off_t at = 4096 + 300 + 600 * (off_t)k; /* frames of some 1.7 KiB, mostly tokens */
        CHECK_EQ(pread(fd, &c, 1, at), 1);
        c ^= 0x10;
        CHECK_EQ(pwrite(fd, &c, 1, at), 1);
        close(fd);
        if (rig_open(&g) == 0) {
            uint64_t end = end_of(&g, 1);
            CHECK(end < 1500);
            CHECK(end == 0 || rig_tokens_ok(&g, 1, end));
        } else {
            t_fail(__FILE__, __LINE__, "byte %lld: %s", (long long)at, g.eb.s);
        }
        rig_fini(&g);
    }
}

/* A frame that says it is longer than the file, at the very end of what may be read. */
static void a_frame_longer_than_its_file_is_not_read(void)
{
    uint8_t *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct log_frame f;
    uint64_t whole;

    CHECK_EQ(mprotect(m + 4096, 4096, PROT_NONE), 0);
    uint8_t *b = m + 4096 - 64;
    memcpy(b, "HFRM", 4);
    for (uint32_t bytes = 8; bytes < 1 << 20; bytes *= 2) {
        st32(b + 4, bytes);
        int r = log_frame_get(b, 64, &f, &whole);
        CHECK(r == E_CORRUPT);
    }
    munmap(m, 8192);
}

/* Frames behind the head of a log file: where each begins, and where the last ends. */
static uint32_t frames_of(const uint8_t *b, uint64_t n, uint64_t at[32])
{
    struct log_frame f;
    uint64_t whole;
    uint32_t k = 0;

    at[0] = 4096;
    while (k < 31 && log_frame_get(b + at[k], n - at[k], &f, &whole) == 0) {
        at[k + 1] = at[k] + whole;
        k++;
    }
    return k;
}

/* A frame of the next number, whole, that follows another frame than the one before it. */
static void a_frame_that_names_another_before_it_is_not_its_successor(void)
{
    static uint8_t a[1 << 20], c[1 << 20];
    char path[400], to[300], cpath[400];
    uint64_t fa[32], fc[32];
    struct rig g, o;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
    rig_close(&g);
    snprintf(to, sizeof to, "%s-copy", g.dir);
    CHECK_EQ(rig_cp(g.dir, to), 0);
    memset(&o, 0, sizeof o);
    snprintf(o.dir, sizeof o.dir, "%.200s", to);
    o.o = g.o;
    o.o.dir = o.dir;
    CHECK_EQ(rig_open(&o), 0);
    CHECK_EQ(rig_talk(&o, 2, 0, 10), 0);
    rig_close(&o);
    CHECK_EQ(rig_open(&g), 0); /* the same store, another history */
    CHECK_EQ(rig_talk(&g, 4, 0, 20), 0);
    CHECK_EQ(rig_talk(&g, 3, 0, 50), 0);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/log/seg-0001", g.dir);
    snprintf(cpath, sizeof cpath, "%s/log/seg-0001", to);
    int fd = open(path, O_RDONLY | O_CLOEXEC), cd = open(cpath, O_RDWR | O_CLOEXEC);
    CHECK(pread(fd, a, sizeof a, 0) > 8192 && pread(cd, c, sizeof c, 0) > 8192);
    uint32_t na = frames_of(a, sizeof a, fa), nc = frames_of(c, sizeof c, fc);
    CHECK_EQ(na, nc + 1);
    uint64_t bytes = fa[na] - fa[na - 1];
    CHECK_EQ(pwrite(cd, a + fa[na - 1], bytes, (off_t)fc[nc]), (ssize_t)bytes);
    close(fd);
    close(cd);
    CHECK_EQ(rig_open(&o), 0);
    CHECK_EQ(end_of(&o, 3), 0);
    CHECK_EQ(end_of(&o, 1), 100);
    CHECK_EQ(end_of(&o, 2), 10);
    rig_fini(&o);
    rig_fini(&g);
}

static int n_done;
static void one_done(struct kvs_batch *b)
{
    (void)b;
    n_done++;
}

/* Two batches in one group: what the first would have made is not there for the second. */
static void a_refused_batch_leaves_nothing_for_the_next(void)
{
    struct rig g;
    struct kvs_branch br = {.id = rig_id(70, 0), .owner = 1000};
    int32_t ids[4] = {1, 2, 3, 4};
    struct kvs_rec one[2] = {{.kind = KVS_REC_BRANCH, .branch = &br},
                             {.kind = KVS_REC_TOKENS, .tokens = {br.id, 5, ids, 4}}};
    struct kvs_rec two[1] = {{.kind = KVS_REC_TOKENS, .tokens = {br.id, 0, ids, 4}}};
    struct kvs_batch a = {.rec = one, .n_rec = 2, .done = one_done},
                     b = {.rec = two, .n_rec = 1, .done = one_done};

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    n_done = 0;
    CHECK_EQ(kvs_batch_submit(g.s, &a), 0);
    CHECK_EQ(kvs_batch_submit(g.s, &b), 0);
    rig_wait(&g);
    CHECK_EQ(n_done, 2);
    CHECK_EQ(a.res, -EINVAL);
    CHECK_EQ(b.res, -ENOENT);
    CHECK_EQ(rig_talk(&g, 70, 0, 10), 0);
    rig_fini(&g);
}

static void turns_without_the_loop(struct rig *g)
{
    for (int i = 0; i < 20; i++) {
        kvs_io_turn(g->s, 0);
        kvs_commit_turn(g->s, 0);
    }
}

/* The first finds no room, and there is some again when the second's turn comes: it waits all the
 * same, until whoever submitted both has heard of it. */
static void what_is_behind_a_refused_batch_does_not_get_ahead(void)
{
    struct rig g;
    struct kvs_session x, y;
    struct kvs_rec one = {.kind = KVS_REC_SESSION, .session = &x};
    struct kvs_rec two = {.kind = KVS_REC_SESSION, .session = &y};
    struct kvs_batch a = {.rec = &one, .n_rec = 1, .done = one_done},
                     b = {.rec = &two, .n_rec = 1, .done = one_done};

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    rig_session(&x, 1, 1, "x");
    rig_session(&y, 1, 2, "y");
    memset(&x.branch, 0, sizeof x.branch);
    memset(&y.branch, 0, sizeof y.branch);
    for (int again = 0; again < 2; again++) {
        n_done = 0;
        bad.write = "/log/", bad.times = 1000, bad.code = ENOSPC;
        CHECK_EQ(kvs_batch_submit(g.s, &a), 0);
        turns_without_the_loop(&g);
        bad.times = 0;
        CHECK_EQ(kvs_batch_submit(g.s, &b), 0);
        turns_without_the_loop(&g);
        rig_wait(&g);
        CHECK_EQ(n_done, 2);
        CHECK_EQ(a.res, -ENOSPC);
        CHECK_EQ(b.res, -ECANCELED);
    }
    CHECK_EQ(kvs_batch_submit(g.s, &a), 0);
    CHECK_EQ(kvs_batch_submit(g.s, &b), 0);
    rig_wait(&g);
    CHECK_EQ(a.res, 0);
    CHECK_EQ(b.res, 0);
    rig_fini(&g);
}

struct firsts {
    uint64_t v[8];
    uint32_t n;
};
static int first_each(void *ctx, const struct kvs_turn *t)
{
    struct firsts *f = ctx;

    if (f->n < 8)
        f->v[f->n++] = t->first;
    return 0;
}

static void turns_that_were_cut_do_not_come_back(void)
{
    struct rig g;
    struct kvs_id id = rig_id(1, 0);
    struct kvs_rec cut = {.kind = KVS_REC_CUT, .tokens = {id, 50, NULL, 0}};
    struct firsts f = {.n = 0};

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    for (uint64_t i = 0; i < 3; i++)
        CHECK_EQ(rig_talk(&g, 1, i * 100, i * 100 + 100), 0);
    CHECK_EQ(rig_batch(&g, &cut, 1), 0);
    CHECK_EQ(rig_talk(&g, 1, 50, 400), 0);
    CHECK_EQ(kvs_turns(g.s, &id, 400, first_each, &f), 0);
    CHECK_EQ(f.n, 2);
    CHECK_EQ(f.v[0], 0);
    CHECK_EQ(f.v[1], 50);
    rig_fini(&g);
}

/* Key, owner, fingerprint, epoch: each is in the names. */
static void names_follow_from_all_that_they_should(void)
{
    uint8_t f[32] = {1}, h[32] = {2};
    int32_t ids[BLOCK_TOKENS] = {3};
    struct kvs_key a, b, c, d;

    kvs_key_root(f, 1, &a);
    kvs_key_root(f, 2, &b);
    kvs_key_root(h, 1, &c);
    CHECK(memcmp(&a, &b, 32) && memcmp(&a, &c, 32) && memcmp(&b, &c, 32));
    kvs_key_next(&a, ids, BLOCK_TOKENS, &c);
    kvs_key_next(&b, ids, BLOCK_TOKENS, &d);
    CHECK(memcmp(&c, &d, 32));
    ids[255] = 9;
    kvs_key_next(&a, ids, BLOCK_TOKENS, &d);
    CHECK(memcmp(&c, &d, 32));
    CHECK(kvs_variant(1, 0) != kvs_variant(2, 0) && kvs_variant(1, 0) != kvs_variant(1, 1));
}

/* --- closed cleanly, or not -------------------------------------------------------------------------- */

static bool copy_is_clean(struct rig *g)
{
    struct rig c;
    char to[300];

    snprintf(to, sizeof to, "%s-copy", g->dir);
    CHECK_EQ(rig_cp(g->dir, to), 0);
    memset(&c, 0, sizeof c);
    snprintf(c.dir, sizeof c.dir, "%.200s", to);
    c.o = g->o;
    c.o.dir = c.dir;
    CHECK_EQ(rig_open(&c), 0);
    bool clean = c.rep.clean;
    rig_fini(&c);
    return clean;
}

static void only_a_store_that_was_closed_is_clean(void)
{
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(!copy_is_clean(&g));
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    CHECK(!copy_is_clean(&g));
    rig_close(&g);
    CHECK(copy_is_clean(&g));
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.clean);
    CHECK(!copy_is_clean(&g)); /* open again, nothing written yet */
    CHECK_EQ(rig_put(&g, 2, 0), 0);
    CHECK(!copy_is_clean(&g));
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_sync_of_the_log_that_fails_once_ends_writing),
       ROW(a_sync_of_a_segment_that_fails_once_ends_writing),
       ROW(a_block_that_cannot_be_written_ends_writing),
       ROW(a_frame_that_cannot_be_written_ends_writing),
       ROW(a_frame_in_a_new_file_that_was_refused_does_not_come_back),
       ROW(a_commit_that_fails_once_ends_writing),
       ROW(frames_of_a_refused_batch_are_gone_from_the_log),
       ROW(frames_that_could_not_be_written_leave_no_hole),
       ROW(a_frame_that_changed_is_not_believed), ROW(a_frame_longer_than_its_file_is_not_read),
       ROW(a_frame_that_names_another_before_it_is_not_its_successor),
       ROW(a_refused_batch_leaves_nothing_for_the_next),
       ROW(what_is_behind_a_refused_batch_does_not_get_ahead),
       ROW(turns_that_were_cut_do_not_come_back), ROW(names_follow_from_all_that_they_should),
       ROW(short_and_interrupted_writes_go_on), ROW(only_a_store_that_was_closed_is_clean))
