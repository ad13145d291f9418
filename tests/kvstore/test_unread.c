/* test_unread.c - what could not be read is not damage: it is refused and left as it is.
 *
 * Mode 000 is another user's start. */
#include "kvstore/merge.h"
#include "kvstore/store.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Opens in a child as another user, or within a limit of `what`; its answer and words. */
static int open_in(struct rig *g, uid_t uid, __rlimit_resource_t what, rlim_t most, char *words,
                   size_t cap)
{
    int p[2], r = 0;

    CHECK_EQ(pipe(p), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit few = {most, most};
        signal(SIGXFSZ, SIG_IGN);
        if (most)
            (void)setrlimit(what, &few);
        if (uid && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
            _exit(9);
        g->eb.s[0] = 0;
        r = rig_open(g);
        if (write(p[1], &r, sizeof r) != sizeof r ||
            write(p[1], g->eb.s, sizeof g->eb.s) != sizeof g->eb.s)
            _exit(9);
        if (r == 0)
            rig_close(g);
        _exit(0);
    }
    close(p[1]);
    CHECK_EQ(read(p[0], &r, sizeof r), sizeof r);
    ssize_t n = read(p[0], words, cap - 1);
    words[n > 0 ? n : 0] = 0;
    close(p[0]);
    waitpid(pid, NULL, 0);
    return r;
}

static int open_as(struct rig *g, uid_t uid, rlim_t files, char *words, size_t cap)
{
    return open_in(g, uid, RLIMIT_NOFILE, files, words, cap);
}

static void what_another_user_may_not_read_is_left_alone(void)
{
    static const char *const file[] = {"index.mdb", "log/seg-0001", "log/seg-0002", "log"};
    char path[512], words[600], cmd[600];
    struct rig g;

    if (geteuid())
        t_skip("only root can start as another user");
    hurt_make(&g);
    snprintf(cmd, sizeof cmd, "chown -R 65534:65534 '%s'", g.dir);
    CHECK_EQ(system(cmd), 0);
    for (uint32_t i = 0; i < 4; i++) {
        hurt_path(&g, file[i], path);
        CHECK_EQ(chmod(path, 0), 0);
        uint64_t before = hurt_sum(g.dir);
        CHECK_EQ(open_as(&g, 65534, 0, words, sizeof words), -EACCES);
        if (!strstr(words, path) || !strstr(words, "chmod"))
            t_fail(__FILE__, __LINE__, "%s: %s", file[i], words);
        CHECK_EQ(hurt_sum(g.dir), before);
        CHECK_EQ(chmod(path, i == 3 ? 0700 : 0600), 0);
    }
    CHECK_EQ(open_as(&g, 65534, 0, words, sizeof words), 0);
    rig_open(&g);
    CHECK_EQ(hurt_lost(&g, "after all"), 0);
    rig_fini(&g);
}

static void too_few_descriptors_refuse_and_change_nothing(void)
{
    char words[600];
    int refused = 0;
    struct rig g;

    hurt_make(&g);
    for (rlim_t files = 4; files < 24; files++) {
        uint64_t before = hurt_sum(g.dir);
        int r = open_as(&g, 0, files, words, sizeof words);
        if (r == 0)
            continue;
        refused++;
        CHECK(r == -EMFILE || r == -ENFILE || r == -EAGAIN);
        if (!strstr(words, g.dir) || !strstr(words, "ulimit -n") ||
            !strstr(words, "nothing was changed") || strstr(words, "made again"))
            t_fail(__FILE__, __LINE__, "%d descriptors: %s", (int)files, words);
        if (hurt_sum(g.dir) != before)
            t_fail(__FILE__, __LINE__, "%d descriptors: changed (%s)", (int)files, words);
    }
    CHECK(refused > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(!g.rep.rebuilt);
    CHECK_EQ(hurt_lost(&g, "few descriptors"), 0);
    rig_fini(&g);
}

/* Not a full disk: freeing some of it helps nobody. */
static void a_limit_of_file_sizes_is_called_that(void)
{
    static const rlim_t most[] = {1, 4096, 16384, 65536, 100000, 300000, 600000};
    char words[600], path[512];
    int refused = 0;
    struct rig g;

    for (int k = 0; k < 3;
         k++) { /* all of it; the index lost, with a new one left half done at the last */
        hurt_make(&g);
        if (k)
            rig_no_index(&g);
        for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
            int r = open_in(&g, 0, RLIMIT_FSIZE, most[i], words, sizeof words);
            if (r == 0)
                break;
            refused++;
            if (r != -EFBIG || !strstr(words, g.dir) || !strstr(words, "ulimit -f") ||
                !strstr(words, "nothing was changed"))
                t_fail(__FILE__, __LINE__, "%llu bytes: %d, %s", (unsigned long long)most[i], r,
                       words);
        }
        if (k == 2) {
            hurt_path(&g, "index.mdb.new", path);
            CHECK(access(path, F_OK) < 0);
        }
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(hurt_lost(&g, "small files"), 0);
        rig_fini(&g);
    }
    CHECK(refused > 0);
}

static void a_process_that_cannot_be_made_refuses_and_changes_nothing(void)
{
    char words[600], cmd[600];
    struct rig g;

    if (geteuid())
        t_skip("only root can start as another user");
    hurt_make(&g);
    snprintf(cmd, sizeof cmd, "chown -R 65534:65534 '%s'", g.dir);
    CHECK_EQ(system(cmd), 0);
    uint64_t before = hurt_sum(g.dir);
    /* One process, this one: the walk's child cannot be made. */
    struct rlimit was, one;
    CHECK_EQ(getrlimit(RLIMIT_NPROC, &was), 0);
    one = (struct rlimit){0, was.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &one), 0);
    g.threads = false;
    int r = open_as(&g, 65534, 0, words, sizeof words);
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &was), 0);
    CHECK_EQ(r, -EAGAIN);
    CHECK(strstr(words, "index.mdb") && strstr(words, "nothing was changed"));
    CHECK_EQ(hurt_sum(g.dir), before);
    rig_fini(&g);
}

/* A pipe was opened and waited for, for ever. */
static void what_is_no_file_is_refused_at_once(void)
{
    static const char *const file[] = {"index.mdb", "log/seg-0001", "log/seg-0002"};
    struct rig g;
    char path[512], away[520];

    hurt_make(&g);
    for (int i = 0; i < 3; i++) {
        hurt_path(&g, file[i], path);
        snprintf(away, sizeof away, "%s-away", g.dir);
        CHECK_EQ(rename(path, away), 0);
        CHECK_EQ(mkfifo(path, 0600), 0);
        g.eb.s[0] = 0;
        CHECK(rig_open(&g) < 0);
        CHECK(strstr(g.eb.s, path) && strstr(g.eb.s, "nothing was changed") &&
              strstr(g.eb.s, "no file: move it away"));
        CHECK_EQ(unlink(path), 0);
        CHECK_EQ(rename(away, path), 0);
    }
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_lost(&g, "as it was"), 0);
    rig_fini(&g);
}

/* The index of one store and the log of another are no damage of each other. */
static void copies_of_two_stores_are_refused(void)
{
    struct rig g, other;
    char path[512], from[512], away[520];

    hurt_make(&g);
    hurt_make(&other); /* and its log has more to tell */
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 50, 0, 10), 0);
    rig_close(&g);
    hurt_path(&g, "index.mdb", path);
    hurt_path(&other, "index.mdb", from);
    snprintf(away, sizeof away, "%s-away", g.dir);
    CHECK_EQ(rename(path, away), 0);
    CHECK_EQ(rename(from, path), 0);
    g.eb.s[0] = 0;
    CHECK_EQ(rig_open(&g), E_SHAPE);
    CHECK(strstr(g.eb.s, g.dir) && strstr(g.eb.s, "different stores"));
    CHECK_EQ(rename(path, from), 0);
    CHECK_EQ(rename(away, path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(hurt_whole(&g, 1) == HURT_TURNS * HURT_TURN && hurt_whole(&g, 50) == 10);
    rig_close(&g);
    CHECK_EQ(rig_open(&other), 0);
    CHECK_EQ(hurt_lost(&other, "as it was"), 0);
    rig_fini(&other);
    rig_fini(&g);
}

/* The same where the index is hurt: their names are whole, so neither is damage of the other. */
static void a_hurt_index_beside_the_log_of_another_store_is_refused(void)
{
    struct rig g, other;
    char path[512], from[512];

    hurt_make(&g);
    hurt_make(&other);
    hurt_path(&g, "index.mdb", path);
    hurt_path(&other, "index.mdb", from);
    CHECK_EQ(rename(from, path), 0);
    CHECK(hurt_tokens(&g, 1, 256) > 0);
    uint64_t before = hurt_sum(g.dir);
    g.eb.s[0] = 0;
    CHECK_EQ(rig_open(&g), E_SHAPE);
    CHECK(strstr(g.eb.s, g.dir) && strstr(g.eb.s, "different stores"));
    CHECK_EQ(hurt_sum(g.dir), before);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_lost(&g, "its own log"), 0);
    rig_fini(&other);
    rig_fini(&g);
}

/* What this program does not know it does not put together: an index of a later format, with damage
 * or lost, beside a log of this one. */
static void a_hurt_index_of_a_later_format_is_refused(void)
{
    uint8_t later[8] = {SCHEMA + 1};
    struct rig g;

    hurt_make(&g);
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(index_begin(g.s->idx), 0);
    CHECK_EQ(index_meta_put(g.s->idx, "schema", later, 8), 0);
    CHECK_EQ(index_commit(g.s->idx), 0);
    rig_close(&g);
    CHECK(hurt_tokens(&g, 1, 256) > 0);
    uint64_t before = hurt_sum(g.dir);
    g.eb.s[0] = 0;
    CHECK_EQ(rig_open(&g), E_VERSION);
    printf("    %s\n", g.eb.s);
    CHECK(strstr(g.eb.s, "format 4") && strstr(g.eb.s, "newer hearthd"));
    CHECK_EQ(hurt_sum(g.dir), before);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(what_another_user_may_not_read_is_left_alone),
       ROW(too_few_descriptors_refuse_and_change_nothing),
       ROW(a_limit_of_file_sizes_is_called_that),
       ROW(a_process_that_cannot_be_made_refuses_and_changes_nothing),
       ROW(what_is_no_file_is_refused_at_once), ROW(copies_of_two_stores_are_refused),
       ROW(a_hurt_index_beside_the_log_of_another_store_is_refused),
       ROW(a_hurt_index_of_a_later_format_is_refused))
