/* test_logend.c - the newest file of the turn log is missing, with the index or alone. */
#include "kvstore/logend.h"
#include "tests/kvstore/heal.h"
#include "tests/kvstore/hurt.h"
#include <glob.h>

static char newest[600], dir_log[512];
static bool fresh;  /* it was just opened */
static uint64_t at; /* tokens of session 1 */

static size_t log_names(void)
{
    glob_t v = {0};
    char pattern[600];

    snprintf(pattern, sizeof pattern, "%s/seg-????", dir_log);
    size_t n = glob(pattern, 0, NULL, &v) == 0 ? v.gl_pathc : 0;
    if (n)
        snprintf(newest, sizeof newest, "%s", v.gl_pathv[n - 1]);
    globfree(&v);
    return n;
}

/* All that was said since the start, and what stands. */
static bool told(const char *words)
{
    static char all[16384];
    struct kvs_stats st;
    size_t n = fresh ? 0 : strlen(all);
    char note[512];

    fresh = false;
    while (n < sizeof all - sizeof note && kvs_note(g.s, note, sizeof note))
        n += (size_t)snprintf(all + n, sizeof all - n, "%s\n", note);
    all[n] = 0;
    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        if (strstr(st.warning[i], words))
            return true;
    return strstr(all, words) != NULL;
}

static bool marked(uint64_t s)
{
    return hurt_is_marked(&g, s);
}

static void start(void)
{
    fresh = true;
    CHECK_EQ(rig_open(&g), 0);
}

/* A log of two files at least, closed; the newest holds turns of sessions 1 and 2. */
static void two_files(void)
{
    open_rig(false);
    snprintf(dir_log, sizeof dir_log, "%.400s/log", g.dir);
    for (at = TOKENS; log_names() < 2 && at < 4000000; at += 100000)
        CHECK_EQ(rig_talk(&g, 1, at, at + 100000), 0);
    CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
    rig_close(&g);
    CHECK_EQ(log_names(), 2);
    CHECK_EQ(logend_get(dir_log), 2);
}

static void both_gone_is_said_and_marked(void)
{
    two_files();
    CHECK_EQ(unlink(newest), 0);
    rig_no_index(&g);
    start();
    CHECK(!told("nothing is missing") && told("Lost"));
    CHECK(marked(1) && marked(2));
    CHECK(rig_tokens_ok(&g, 2, TOKENS));
    CHECK(rig_tokens_ok(&g, 3, TOKENS)); /* what is whole stays */
    rig_reopen(&g);                      /* once is enough, and it stays said */
    CHECK(!g.rep.rebuilt);
    CHECK(marked(1) && marked(2));
    /* One that was made since does not take the number of what may come back. */
    CHECK(log_names() && strcmp(newest + strlen(newest) - 4, "0002") > 0);
    rig_close(&g);
    CHECK(logend_get(dir_log) > 2);
    rig_no_index(&g);
    start();
    CHECK(rig_tokens_ok(&g, 2, TOKENS));
    CHECK(!told("nothing is missing") || marked(2));
    rig_fini(&g);
}

static int no_ckpt(void *user, const struct sys_event *e)
{
    (void)user;
    return rig_is_ckpt(e) ? -ENOSPC : 0;
}

/* Whatever keeps a start from making the log anew, the next one finds that it lacks something. */
static void a_loss_is_found_until_the_log_is_made_anew(void)
{
    two_files();
    CHECK_EQ(unlink(newest), 0);
    rig_no_index(&g);
    g.env.sys_hook = no_ckpt;
    start();
    CHECK(told("Lost") && marked(1) && marked(2) && g.s->log_hurt);
    rig_close(&g);
    CHECK_EQ(logend_get(dir_log), 2);
    g.env.sys_hook = NULL;
    start();
    CHECK(told("Lost") && marked(1) && marked(2) && !g.s->log_hurt);
    rig_close(&g);
    start();
    CHECK(marked(1) && marked(2) && !g.s->log_hurt);
    CHECK(logend_get(dir_log) > 2);
    rig_fini(&g);
}

/* The last of all files: then the log looks like one that never was. */
static void a_log_of_one_file_that_is_gone_is_not_a_new_one(void)
{
    open_rig(false);
    snprintf(dir_log, sizeof dir_log, "%.400s/log", g.dir);
    rig_close(&g);
    CHECK_EQ(log_names(), 1);
    CHECK_EQ(unlink(newest), 0);
    rig_no_index(&g);
    start();
    CHECK(!told("nothing is missing") && told("Lost"));
    rig_fini(&g);
}

static void with_an_index_nothing_is_lost(void)
{
    two_files();
    CHECK_EQ(unlink(newest), 0);
    start();
    CHECK(!told("Lost") && !marked(1) && !marked(2));
    CHECK(rig_tokens_ok(&g, 1, at) && rig_tokens_ok(&g, 2, TOKENS + 10));
    rig_close(&g);
    rig_no_index(&g); /* the log has all of it again */
    start();
    CHECK(told("nothing is missing") && !told("nobody could tell"));
    CHECK(rig_tokens_ok(&g, 1, at) && rig_tokens_ok(&g, 2, TOKENS + 10));
    rig_fini(&g);
}

/* It is a hint: without it the store is what it was, and says what cannot be known. */
static void one_that_is_hurt_says_nothing(void)
{
    char path[600], cmd[1300];

    for (int how = 0; how < 5; how++) {
        two_files();
        snprintf(path, sizeof path, "%s.end", dir_log);
        int fd = open(path, O_WRONLY);
        CHECK(fd >= 0);
        if (how == 0)
            CHECK_EQ(pwrite(fd, "\x09", 1, 4), 1);
        if (how == 1)
            CHECK_EQ(ftruncate(fd, 7), 0);
        close(fd);
        if (how > 1)
            CHECK_EQ(unlink(path), 0);
        if (how == 3)
            CHECK_EQ(mkdir(path, 0700), 0);
        if (how == 4)
            CHECK_EQ(symlink("log/seg-0001", path), 0);
        CHECK_EQ(logend_get(dir_log), 0);
        rig_no_index(&g);
        start();
        CHECK(told("nothing is missing") && told("nobody could tell"));
        CHECK(rig_tokens_ok(&g, 1, at) && rig_tokens_ok(&g, 2, TOKENS + 10));
        CHECK_EQ(rig_talk(&g, 2, TOKENS + 10, TOKENS + 20), 0);
        rig_close(&g);
        CHECK_EQ(logend_get(dir_log), how < 3 ? 2 : 0); /* made anew where it can be */
        snprintf(cmd, sizeof cmd, "rm -rf '%s'", path);
        CHECK(system(cmd) == 0);
        rig_reopen(&g);
        rig_fini(&g);
    }
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(both_gone_is_said_and_marked), ROW(a_loss_is_found_until_the_log_is_made_anew),
       ROW(a_log_of_one_file_that_is_gone_is_not_a_new_one), ROW(with_an_index_nothing_is_lost),
       ROW(one_that_is_hurt_says_nothing))
