/* test_listed.c - a directory that could not be listed to its end does not hold less, and a file
 * that was not listed is not written over. */
#include "base/dirlist.h"
#include "kvstore/store.h"
#include "kvstore/turnlog.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/hurt_readdir.h"
#include "tests/t.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool no_noreplace; /* a file system that cannot rename without replacing */

int renameat2(int from, const char *a, int to, const char *b, unsigned flags)
{
    if (flags && no_noreplace) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from, a, to, b, flags);
}

/* --- listings ------------------------------------------------------------------------------------ */

/* With and without the index, wherever the listing of log/ breaks off, once or for good. */
static void a_log_that_cannot_be_listed_refuses_and_changes_nothing(void)
{
    struct rig g;

    for (int k = 0; k < 4; k++) {
        int refused = 0;
        hurt_make(&g);
        if (k & 1)
            rig_no_index(&g);
        uint64_t before = hurt_sum(g.dir);
        for (int n = 1;; n++) {
            bad_dir_set("/log", n, k & 2);
            g.eb.s[0] = 0;
            int r = rig_open(&g), failed = bad_dir.failed;
            bad_dir_set(NULL, 0, false);
            if (r == 0) { /* what has been opened only looks at its leftovers */
                CHECK(failed == 0 || n > 1);
                break;
            }
            refused++;
            CHECK_EQ(r, -EIO);
            if (k & 1 && hurt_count(g.dir, "index.mdb") > 1) /* it was made anew before that */
                before = hurt_sum(g.dir);
            if (!strstr(g.eb.s, "cannot read") || !strstr(g.eb.s, "/log: ") ||
                !strstr(g.eb.s, "nothing was changed"))
                t_fail(__FILE__, __LINE__, "%d, %d: %s", k, n, g.eb.s);
            CHECK_EQ(hurt_sum(g.dir), before);
        }
        CHECK(refused > 2);
        rig_close(&g);
        rig_reopen(&g);
        CHECK_EQ(hurt_lost(&g, "after all"), 0);
        rig_fini(&g);
    }
}

/* Whichever look into a directory fails: nothing is lost by it. */
static void a_listing_that_fails_anywhere_loses_nothing(void)
{
    struct rig g;

    for (int k = 0; k < 2; k++) {
        hurt_make(&g);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_put(&g, 7, 0), 0);
        rig_close(&g);
        for (int n = 1, failed = 1; failed; n++) {
            if (k && rig_open(&g) == 0) {
                rig_close(&g);
                rig_no_index(&g);
            }
            bad_dir_set(NULL, n, false);
            int r = rig_open(&g);
            failed = bad_dir.failed;
            bad_dir_set(NULL, 0, false);
            if (r == 0 && hurt_lost(&g, "one listing") != 0)
                t_fail(__FILE__, __LINE__, "%d: listing %d", k, n);
            rig_close(&g);
        }
        rig_reopen(&g);
        CHECK_EQ(hurt_lost(&g, "after all"), 0);
        rig_fini(&g);
    }
}

static int stop_at(void *ctx, const char *name)
{
    (void)name;
    return --*(int *)ctx == 0 ? 7 : 0;
}

static void a_listing_tells_an_error_from_its_end(void)
{
    char dir[300], path[320];
    int none = 0, first = 1;

    snprintf(dir, sizeof dir, "%.256s/listed", t_tmpdir());
    CHECK_EQ(dir_list(dir, stop_at, &none), -ENOENT);
    CHECK_EQ(mkdir(dir, 0700), 0);
    CHECK_EQ(dir_list(dir, stop_at, &first), 0); /* "." and ".." are none */
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%d", dir, i);
        CHECK_EQ(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    }
    none = 0;
    errno = EBADF;
    CHECK_EQ(dir_list(dir, stop_at, &none), 0);
    CHECK_EQ(none, -3);
    first = 2;
    CHECK_EQ(dir_list(dir, stop_at, &first), 7);
    bad_dir_set("/listed", 3, false);
    none = 0;
    CHECK_EQ(dir_list(dir, stop_at, &none), -EIO);
    bad_dir_set(NULL, 0, false);
}

/* --- names --------------------------------------------------------------------------------------- */

static void put_file(const char *path, const char *words)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);

    CHECK(fd >= 0 && write(fd, words, strlen(words)) == (ssize_t)strlen(words));
    close(fd);
}

static bool file_is(const char *path, const char *words)
{
    char b[64] = "";
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof b - 1);

    if (fd >= 0)
        close(fd);
    return n >= 0 && strcmp(b, words) == 0;
}

static void a_new_name_replaces_nothing(void)
{
    char a[300], b[300], aside[400];
    struct sys y = {0};

    snprintf(a, sizeof a, "%.256s/a", t_tmpdir());
    snprintf(b, sizeof b, "%.256s/b", t_tmpdir());
    for (int k = 0; k < 2; k++) { /* a file system that can, and one that cannot */
        no_noreplace = k;
        put_file(a, "one");
        put_file(b, "two");
        CHECK_EQ(sys_rename_new(a, b), -EEXIST);
        CHECK(file_is(a, "one") && file_is(b, "two"));
        CHECK_EQ(sys_make(&y, b, "head", 4, 0), -EEXIST);
        CHECK(file_is(b, "two"));
        CHECK_EQ(unlink(b), 0);
        CHECK_EQ(sys_rename_new(a, b), 0);
        CHECK(file_is(b, "one") && access(a, F_OK) < 0);
        CHECK_EQ(sys_make(&y, a, "head", 4, 0), 0);
        CHECK(file_is(a, "head"));
        CHECK_EQ(sys_set_aside(&y, a, aside, sizeof aside), 0);
        CHECK(file_is(aside, "head") && access(a, F_OK) < 0);
        CHECK(unlink(b) == 0 && unlink(aside) == 0);
    }
    no_noreplace = false;
}

/* The next file of the log: what stands there is left, and said. */
static void a_file_in_the_logs_way_is_not_written_over(void)
{
    char path[512];
    uint64_t at = 0;
    struct rig g;
    int r = 0;

    hurt_make(&g);
    CHECK_EQ(rig_open(&g), 0);
    for (int n = 1; n < 60; n++) { /* the next ones have names up to there */
        snprintf(path, sizeof path, "%.250s/log/seg-%04d", g.dir, n);
        if (access(path, F_OK) < 0)
            put_file(path, "another's");
    }
    for (; at < 1000000 && (r = rig_talk(&g, 50, at, at + 5000)) == 0; at += 5000)
        ;
    CHECK_EQ(r, -EROFS);
    struct kvs_stats st;
    kvs_stats(g.s, &st);
    CHECK(strstr(st.warning[0], "/log") && strstr(st.warning[0], "File exists") &&
          strstr(st.warning[0], "move it away"));
    rig_close(&g);
    int others = 0;
    for (int n = 1; n < 60; n++) {
        snprintf(path, sizeof path, "%.250s/log/seg-%04d", g.dir, n);
        if (file_is(path, "another's")) {
            others++;
            unlink(path);
        }
    }
    CHECK(others > 40);
    snprintf(path, sizeof path, "%.250s/log/seg-0059", g.dir);
    CHECK(access(path, F_OK) < 0);
    rig_reopen(&g);
    CHECK_EQ(hurt_lost(&g, "behind it"), 0);
    CHECK(at > 0 && rig_tokens_ok(&g, 50, at));
    rig_fini(&g);
}

static struct {
    char path[512]; /* what was put in the checkpoint's way */
    int n;
} way;

static int in_its_way(void *user, const struct sys_event *e)
{
    char link[64], path[512];
    (void)user;

    if (!rig_is_ckpt(e) || way.n)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", e->fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    *strstr(path, ".tmp") = 0;
    snprintf(way.path, sizeof way.path, "%s", path);
    put_file(path, "another's");
    way.n++;
    return 0;
}

static void a_file_in_a_checkpoints_way_is_not_written_over(void)
{
    struct rig g;

    way.n = 0;
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = false; /* nothing compacts but the call below */
    g.env.sys_hook = in_its_way;
    CHECK_EQ(rig_open(&g), 0);
    hurt_fill(&g);
    CHECK_EQ(ckpt_all(g.s), -EEXIST);
    CHECK_EQ(way.n, 1);
    CHECK(file_is(way.path, "another's"));
    struct kvs_stats st;
    kvs_stats(g.s, &st);
    CHECK(strstr(st.warning[0], "could not be compacted (File exists)") &&
          strstr(st.warning[0], "move away"));
    CHECK_EQ(rig_talk(&g, 50, 0, 10), -EROFS); /* the next file has the same number */
    rig_close(&g);
    CHECK(file_is(way.path, "another's"));
    CHECK_EQ(unlink(way.path), 0);
    rig_no_index(&g);
    rig_reopen(&g);
    CHECK_EQ(hurt_lost(&g, "behind it"), 0);
    CHECK_EQ(rig_talk(&g, 50, 0, 10), 0);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_log_that_cannot_be_listed_refuses_and_changes_nothing),
       ROW(a_listing_that_fails_anywhere_loses_nothing),
       ROW(a_listing_tells_an_error_from_its_end), ROW(a_new_name_replaces_nothing),
       ROW(a_file_in_the_logs_way_is_not_written_over),
       ROW(a_file_in_a_checkpoints_way_is_not_written_over))
