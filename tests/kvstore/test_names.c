/* test_names.c - names of the store's that lead elsewhere, or to what is no file: nothing outside is
 * written, no start takes them for missing, and each refusal names them and says what to do. */
#include "kvstore/store.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char PRECIOUS[] = "precious";

/* A file outside the store. */
static void outside_make(const struct rig *g, char ret[512])
{
    snprintf(ret, 512, "%.250s-outside", g->dir);
    int fd = open(ret, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, PRECIOUS, sizeof PRECIOUS) == sizeof PRECIOUS);
    close(fd);
}

static void outside_same(const char *path, const char *what)
{
    size_t n;
    uint8_t *b = hurt_load(path, &n);

    if (n != sizeof PRECIOUS || memcmp(b, PRECIOUS, n))
        t_fail(__FILE__, __LINE__, "%s: %zu bytes are outside", what, n);
    free(b);
}

static bool is_link(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

/* The start is refused, with these words and the path. */
static void refused(struct rig *g, const char *path, const char *a, const char *b)
{
    g->eb.s[0] = 0;
    int r = rig_open(g);
    if (r == 0 || !strstr(g->eb.s, path) || !strstr(g->eb.s, a) || !strstr(g->eb.s, b) ||
        !strstr(g->eb.s, "nothing was changed") || !strstr(g->eb.s, "start again"))
        t_fail(__FILE__, __LINE__, "%s: %d: %s", path, r, g->eb.s);
}

static void opens_whole(struct rig *g, const char *what)
{
    g->eb.s[0] = 0;
    int r = rig_open(g);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "%s: %d: %s", what, r, g->eb.s);
    CHECK_EQ(hurt_lost(g, what), 0);
    rig_close(g);
}

/* --- names for a time only ------------------------------------------------------------------------ */

static const char *const temporary[] = {"index.mdb.new", "index.mdb.new-lock", "index.mdb.tmp",
                                        "log/seg-0009.tmp"};
enum { TEMPORARY = sizeof temporary / sizeof *temporary };

/* LMDB follows a link to its lock file: a merge wrote there. */
static void a_link_under_a_temporary_name_goes_and_what_it_leads_to_stays(void)
{
    char path[512], idx[512], out[512];
    struct rig g;

    hurt_make(&g);
    outside_make(&g, out);
    hurt_path(&g, "index.mdb", idx);
    for (int i = 0; i < 3 * TEMPORARY; i++) { /* index sound, damaged, missing */
        hurt_path(&g, temporary[i % TEMPORARY], path);
        CHECK_EQ(symlink(out, path), 0);
        if (i / TEMPORARY)
            CHECK_EQ(i / TEMPORARY == 1 ? truncate(idx, 1) : unlink(idx), 0);
        opens_whole(&g, temporary[i % TEMPORARY]);
        outside_same(out, temporary[i % TEMPORARY]);
        CHECK(!is_link(path) && !is_link(idx));
    }
    CHECK_EQ(unlink(out), 0);
    rig_fini(&g);
}

/* An index in a file outside is no leftover of a merge: it was believed, and its name given to it. */
static void a_link_to_another_index_is_not_put_in_place(void)
{
    char path[512], idx[512], out[512];
    struct rig g;

    hurt_make(&g);
    hurt_path(&g, "index.mdb", idx);
    hurt_path(&g, "index.mdb.new", path);
    snprintf(out, sizeof out, "%.250s-outside", g.dir);
    CHECK_EQ(rename(idx, out), 0);
    CHECK_EQ(symlink(out, path), 0);
    size_t n, n2;
    uint8_t *b = hurt_load(out, &n);
    opens_whole(&g, "another index");
    uint8_t *b2 = hurt_load(out, &n2);
    CHECK(n == n2 && !memcmp(b, b2, n));
    CHECK(!is_link(idx) && !is_link(path));
    free(b);
    free(b2);
    CHECK_EQ(unlink(out), 0);
    rig_fini(&g);
}

/* To give it up would give nothing. */
static void a_reserve_that_is_a_link_is_made_anew(void)
{
    char path[512], out[512];
    struct rig g;
    struct stat st;

    hurt_make(&g);
    hurt_path(&g, "reserve", path);
    snprintf(out, sizeof out, "%.250s-outside", g.dir);
    CHECK_EQ(rename(path, out), 0);
    CHECK_EQ(symlink(out, path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_blocks > 0);
    CHECK(lstat(out, &st) == 0 && st.st_blocks > 0);
    CHECK_EQ(unlink(out), 0);
    rig_fini(&g);
}

/* Files that are made while it runs: another of the log, a checkpoint, the reserve. */
static void a_link_in_the_way_of_a_new_file_is_not_written_through(void)
{
    char path[512], out[512], name[32];
    struct rig g;
    int left = 0;

    hurt_make(&g);
    outside_make(&g, out);
    hurt_path(&g, "reserve", path);
    CHECK_EQ(unlink(path), 0);
    hurt_path(&g, "reserve.tmp", path);
    CHECK_EQ(symlink(out, path), 0);
    CHECK_EQ(rig_open(&g), 0);
    outside_same(out, "reserve.tmp");
    CHECK(!is_link(path));
    for (uint32_t n = 1; n < 100; n++) {
        snprintf(name, sizeof name, "log/seg-%04u.tmp", n);
        hurt_path(&g, name, path);
        CHECK_EQ(symlink(out, path), 0);
    }
    for (uint64_t t = 0; t < 60; t++)
        CHECK_EQ(rig_talk(&g, 50, t * HURT_TURN * 10, (t + 1) * HURT_TURN * 10), 0);
    outside_same(out, "log/*.tmp");
    for (uint32_t n = 1; n < 100; n++) {
        snprintf(name, sizeof name, "log/seg-%04u.tmp", n);
        hurt_path(&g, name, path);
        left += is_link(path);
    }
    CHECK(left > 0 && left < 95); /* several of them were in the way */
    CHECK(rig_tokens_ok(&g, 50, 60 * HURT_TURN * 10));
    rig_close(&g);
    opens_whole(&g, "links in the log");
    outside_same(out, "log/*.tmp");
    CHECK_EQ(unlink(out), 0);
    rig_fini(&g);
}

static void what_is_no_file_under_a_temporary_name_refuses(void)
{
    char path[512];
    struct rig g;

    hurt_make(&g);
    for (int i = 0; i < 2 * TEMPORARY; i++) {
        bool pipe = i / TEMPORARY;
        hurt_path(&g, temporary[i % TEMPORARY], path);
        CHECK_EQ(pipe ? mkfifo(path, 0600) : mkdir(path, 0700), 0);
        int n = hurt_count(g.dir, "") + hurt_count(path, "");
        refused(&g, path, pipe ? "No such device" : "Is a directory", "move it away");
        CHECK_EQ(hurt_count(g.dir, "") + hurt_count(path, ""), n);
        CHECK_EQ(remove(path), 0);
        opens_whole(&g, path);
    }
    rig_fini(&g);
}

/* A directory or a pipe where the next file of blocks is made: aside, and the blocks go down. */
static void what_is_no_file_in_the_way_of_blocks_goes_aside(void)
{
    char path[512], words[2000];
    struct rig g;

    for (int i = 0; i < 2; i++) {
        rig_init(&g, KVS_IO_THREADS, true);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_put(&g, 7, 0), 0);
        rig_close(&g);
        hurt_path(&g, "kv/test/seg-0002.tmp", path);
        CHECK_EQ(i ? mkfifo(path, 0600) : mkdir(path, 0700), 0);
        CHECK_EQ(rig_open(&g), 0);
        hurt_notes(&g, words, sizeof words);
        CHECK(strstr(words, "set aside as seg-0002.tmp.bad-"));
        CHECK(access(path, F_OK) < 0);
        hurt_path(&g, "kv/test", path);
        CHECK_EQ(hurt_count(path, "seg-0002.tmp.bad-"), 1);
        rig_fini(&g);
    }
}

static void a_reserve_that_cannot_be_made_is_said(void)
{
    char path[512];
    struct rig g;
    struct kvs_stats st;
    bool said = false;

    hurt_make(&g);
    hurt_path(&g, "reserve", path);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_EQ(rig_open(&g), 0);
    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        said |= strstr(st.warning[i], path) && strstr(st.warning[i], "move it away");
    CHECK(said);
    rig_close(&g);
    CHECK_EQ(rmdir(path), 0);
    CHECK_EQ(rig_open(&g), 0);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.n_warnings, 0);
    CHECK_EQ(sys_plain(path), 0);
    CHECK_EQ(access(path, F_OK), 0);
    rig_fini(&g);
}

/* --- names that stay ------------------------------------------------------------------------------- */

/* Whatever it leads to: nothing is written there, nor made. */
static void a_lock_file_that_is_a_link_refuses(void)
{
    static const char *const name[] = {"store.lock", "index.mdb-lock"};
    char path[512], out[512], none[520];
    struct rig g;
    struct stat st;

    hurt_make(&g);
    outside_make(&g, out);
    snprintf(none, sizeof none, "%s-none", out);
    for (int i = 0; i < 6; i++) {
        hurt_path(&g, name[i / 3], path);
        (void)unlink(path);
        CHECK_EQ(symlink(i % 3 == 0 ? out : i % 3 == 1 ? none : path, path), 0);
        refused(&g, path, "is a symbolic link", "move it away, it is made again");
        CHECK(is_link(path));
        CHECK(lstat(none, &st) < 0 && errno == ENOENT);
        CHECK_EQ(unlink(path), 0);
        opens_whole(&g, path);
        outside_same(out, path);
    }
    CHECK_EQ(unlink(out), 0);
    rig_fini(&g);
}

/* On another disk, say: there it is made anew, copied smaller, and kept when it is damaged; and what
 * is said to delete that does so, also where the log and kv are links. */
static void an_index_behind_a_link_stays_where_it_is(void)
{
    static const char *const sub[] = {"index.mdb", "log", "kv"};
    char path[512], out[400], to[512], said[4096];
    struct rig g;
    struct stat st;

    hurt_make(&g);
    snprintf(out, sizeof out, "%.250s-outside", g.dir);
    CHECK_EQ(mkdir(out, 0700), 0);
    for (int i = 0; i < 3; i++) {
        hurt_path(&g, sub[i], path);
        snprintf(to, sizeof to, "%.400s/%s", out, i ? sub[i] : "i.db");
        CHECK_EQ(rename(path, to), 0);
        CHECK_EQ(symlink(to, path), 0);
    }
    hurt_path(&g, "index.mdb", path);
    snprintf(to, sizeof to, "%.400s/i.db", out);
    opens_whole(&g, "behind a link");
    CHECK_EQ(truncate(to, 8192), 0); /* at a start, and while it runs */
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(hurt_lost(&g, "damaged behind a link"), 0);
    CHECK(is_link(path) && lstat(to, &st) == 0 && S_ISREG(st.st_mode));
    CHECK_EQ(hurt_count(g.dir, ".bad-"), 0);
    CHECK_EQ(hurt_count(out, "i.db.bad-"), 1);
    CHECK_EQ(hurt_count(out, ".new"), 0);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    rig_close(&g);
    char *cmd = strstr(said, "find -L '");
    CHECK(strstr(said, "1 damaged file is kept") && cmd);
    if (cmd) {
        cmd[strcspn(cmd, "\n")] = 0;
        CHECK_EQ(system(cmd), 0);
    }
    CHECK_EQ(hurt_count(out, ".bad-"), 0);
    /* A kill between its two names: the link leads nowhere, but the old file lies beside. */
    char aside[600], from[500], from_away[600];
    snprintf(from_away, sizeof from_away, "%s-away", out);
    snprintf(aside, sizeof aside, "%s.bad-20260101T000000Z", to);
    CHECK_EQ(rename(to, aside), 0);
    opens_whole(&g, "set aside behind a link");
    CHECK(is_link(path) && lstat(to, &st) == 0 && S_ISREG(st.st_mode));
    /* The same by a relative link; with nothing beside it may be a disk that is not there. */
    snprintf(from, sizeof from, "../%s/i.db", strrchr(out, '/') + 1);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(symlink(from, path), 0);
    CHECK_EQ(unlink(to), 0);
    CHECK_EQ(rename(aside, from_away), 0);
    refused(&g, path, "is a symbolic link", "is its disk mounted?");
    CHECK_EQ(rename(from_away, aside), 0);
    opens_whole(&g, "set aside behind a relative link");
    CHECK(is_link(path) && lstat(to, &st) == 0 && S_ISREG(st.st_mode));
    CHECK_EQ(unlink(aside), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_notes(&g, said, sizeof said), 0);
    g.s->sys.no_fsync = true;
    rig_rest(&g);
    CHECK_EQ(index_shrink_open(g.s->idx), 0);
    CHECK(is_link(path) && lstat(to, &st) == 0 && S_ISREG(st.st_mode));
    CHECK_EQ(hurt_lost(&g, "copied behind a link"), 0);
    rig_close(&g);
    rig_rm(out);
    rig_fini(&g);
}

/* A disk that is not mounted: what lies there is not missing. */
static void a_link_that_leads_to_nothing_of_ours_is_not_taken_for_a_missing_file(void)
{
    static const char *const file[] = {"index.mdb", "log", "log/seg-0001", "log/seg-0002"};
    char path[512], away[512];
    struct rig g;

    hurt_make(&g);
    snprintf(away, sizeof away, "%.250s-away", g.dir);
    for (int i = 0; i < 12; i++) {
        const char *to = i < 4 ? "/nowhere/at/all" : i < 8 ? path : "/dev/null";
        char words[600];
        hurt_path(&g, file[i % 4], path);
        CHECK_EQ(rename(path, away), 0);
        CHECK_EQ(symlink(to, path), 0);
        snprintf(words, sizeof words, "it is a symbolic link to %.200s", to);
        int n = hurt_count(g.dir, "");
        refused(&g, path, words, "is its disk mounted?");
        CHECK(is_link(path));
        CHECK_EQ(hurt_count(g.dir, ""), n);
        CHECK_EQ(unlink(path), 0);
        CHECK_EQ(rename(away, path), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!g.rep.rebuilt);
        CHECK_EQ(hurt_lost(&g, path), 0);
        rig_close(&g);
    }
    rig_fini(&g);
}

/* With the index away as well, a log that is not there now would have begun an empty store. */
static void a_store_whose_log_is_not_mounted_does_not_begin_empty(void)
{
    char idx[512], log[512], away[512], none[512];
    struct rig g;

    hurt_make(&g);
    hurt_path(&g, "index.mdb", idx);
    hurt_path(&g, "log", log);
    snprintf(away, sizeof away, "%.250s-away", g.dir);
    snprintf(none, sizeof none, "%.250s-away-idx", g.dir);
    CHECK_EQ(rename(log, away), 0);
    CHECK_EQ(rename(idx, none), 0);
    CHECK_EQ(symlink("/nowhere/at/all", log), 0);
    refused(&g, log, "it is a symbolic link to /nowhere/at/all", "disk");
    CHECK_EQ(access(idx, F_OK), -1);
    CHECK_EQ(unlink(log), 0);
    CHECK_EQ(rename(away, log), 0);
    opens_whole(&g, "the log is back");
    CHECK_EQ(unlink(none), 0);
    rig_fini(&g);
}

static void a_log_that_is_no_directory_refuses(void)
{
    char path[512], away[512], out[512];
    struct rig g;

    hurt_make(&g);
    outside_make(&g, out);
    hurt_path(&g, "log", path);
    snprintf(away, sizeof away, "%.250s-away", g.dir);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(rename(path, away), 0);
        int r = i == 0 ? link(out, path) : i == 1 ? mkfifo(path, 0600) : symlink(out, path);
        CHECK_EQ(r, 0);
        refused(&g, path, "Not a directory",
                i == 2 ? "it is a symbolic link to" : "no directory: move it away");
        CHECK_EQ(unlink(path), 0);
        CHECK_EQ(rename(away, path), 0);
        opens_whole(&g, path);
    }
    outside_same(out, "log");
    CHECK_EQ(unlink(out), 0);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(an_index_behind_a_link_stays_where_it_is),
       ROW(a_link_under_a_temporary_name_goes_and_what_it_leads_to_stays),
       ROW(a_link_to_another_index_is_not_put_in_place),
       ROW(a_reserve_that_is_a_link_is_made_anew),
       ROW(a_link_in_the_way_of_a_new_file_is_not_written_through),
       ROW(what_is_no_file_under_a_temporary_name_refuses),
       ROW(a_lock_file_that_is_a_link_refuses),
       ROW(a_link_that_leads_to_nothing_of_ours_is_not_taken_for_a_missing_file),
       ROW(a_store_whose_log_is_not_mounted_does_not_begin_empty),
       ROW(what_is_no_file_in_the_way_of_blocks_goes_aside),
       ROW(a_reserve_that_cannot_be_made_is_said), ROW(a_log_that_is_no_directory_refuses))
