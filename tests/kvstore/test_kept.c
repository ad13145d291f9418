/* test_kept.c - damaged files that were set aside, and what was lost with them: said as long as
 * they are there. */
#include "tests/t.h"
#include "tests/kvstore/hurt.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Directories of this name cannot be opened, or be opened and not read; the store's threads look. */
static _Atomic(const char *) no_open, no_read;

DIR *opendir(const char *name)
{
    const char *shut = no_open, *blank = no_read;

    if (shut && strcmp(name, shut) == 0) {
        errno = EMFILE;
        return NULL;
    }
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d && blank && strcmp(name, blank) == 0) {
        int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
        CHECK(other >= 0 && dup2(other, fd) == fd);
        close(other);
    }
    return d;
}

/* The command that is said takes the damaged files away, and nothing else. */
static void what_is_set_aside_is_said_with_its_size_and_how_to_remove_it(void)
{
    char said[4096], path[512], *cmd;
    struct stat file;
    struct rig g;

    hurt_make(&g);
    CHECK_EQ(rig_open(&g), 0);
    for (uint32_t i = 0; i < 10; i++)
        CHECK_EQ(rig_put(&g, 1, i), 0);
    rig_close(&g);
    CHECK(hurt_tokens(&g, 1, 1100) > 0);
    hurt_path(&g, "kv/test/seg-0001", path);
    FILE *f = fopen(path, "r+"); /* nothing in it speaks any more */
    CHECK(f && fstat(fileno(f), &file) == 0);
    for (off_t i = 0; i < file.st_size; i++)
        fputc('x', f);
    fclose(f);
    rig_reopen(&g);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    cmd = strstr(said, "2 damaged files are kept, ");
    CHECK(cmd && strtod(cmd + 26, NULL) * (1 << 20) >= (double)file.st_size);
    rig_close(&g);
    cmd = strstr(said, "find -L '");
    CHECK(cmd != NULL);
    cmd[strcspn(cmd, "\n")] = 0;
    CHECK_EQ(system(cmd), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_notes(&g, said, sizeof said), 0);
    CHECK_EQ(hurt_lost(&g, "the damaged files removed"), 0);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    rig_fini(&g);
}

static bool stands(const struct rig *g, const char *words)
{
    struct kvs_stats st;
    bool any = false;

    kvs_stats(g->s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        any |= strstr(st.warning[i], words) != NULL;
    return any;
}

/* The same tokens of one session in both copies, which are open again. */
static void lose(struct rig *g, uint64_t session)
{
    CHECK(hurt_tokens(g, session, 2 * HURT_TURN) > 0);
    CHECK(hurt_frame(g, session, 2 * HURT_TURN) > 0);
    rig_reopen(g);
    CHECK(g->rep.rebuilt && stands(g, "Lost: "));
}

static void rm(const struct rig *g, const char *what)
{
    char cmd[600];

    snprintf(cmd, sizeof cmd, "cd '%s' && rm %s", g->dir, what);
    CHECK_EQ(system(cmd), 0);
}

static void until(struct rig *g, const char *words, bool there)
{
    for (int i = 0; i < 6000 * T_SLOWER && stands(g, words) != there; i++)
        usleep(5000);
    if (stands(g, words) != there)
        t_fail(__FILE__, __LINE__, "'%s' is %s", words, there ? "not said" : "still said");
}

/* A directory that cannot be listed is none that holds no damaged file: at an open, */
static void what_was_lost_stays_on_record_where_nobody_can_look(void)
{
    struct rig g;

    for (int read = 0; read < 2; read++) {
        hurt_make(&g);
        lose(&g, 5);
        rm(&g, "log/*.bad-*");
        *(read ? &no_read : &no_open) = g.dir;
        rig_reopen(&g);
        CHECK(stands(&g, "Lost: ") && stands(&g, "cannot be seen ("));
        no_read = no_open = NULL;
        rig_reopen(&g);
        CHECK(stands(&g, "Lost: ") && stands(&g, "damaged file is kept"));
        rig_fini(&g);
    }
}

/* and while it is open. */
static void what_was_lost_stays_said_while_nobody_can_look(void)
{
    char log[512];
    struct rig g;

    for (int read = 0; read < 2; read++) {
        hurt_make(&g);
        lose(&g, 5);
        hurt_path(&g, "log", log);
        *(read ? &no_read : &no_open) = log;
        rm(&g, "*.bad-* log/*.bad-*");
        until(&g, "cannot be seen (", true);
        CHECK(stands(&g, "Lost: "));
        no_read = no_open = NULL;
        until(&g, "cannot be seen (", false);
        until(&g, "Lost: ", false); /* perhaps with the next look */
        rig_fini(&g);
    }
}

/* A file of blocks has nothing of a session. */
static void what_was_lost_is_said_no_more_though_a_file_of_blocks_is_kept(void)
{
    char path[512];
    struct rig g;

    hurt_make(&g);
    lose(&g, 5);
    CHECK_EQ(rig_put(&g, 1, 0), 0); /* there is a folder of them */
    hurt_path(&g, "kv/test/seg-0009.bad-1", path);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    rm(&g, "*.bad-* log/*.bad-*");
    until(&g, "Lost: ", false);
    CHECK(stands(&g, "1 damaged file is kept"));
    rm(&g, "kv/test/*.bad-*");
    until(&g, "kept", false);
    rig_fini(&g);
}

/* Nor is it said to be kept when it is gone and kv/ cannot be listed. */
static void what_is_not_seen_any_more_is_not_said_to_be_kept(void)
{
    char path[512], kv[512];
    struct rig g;

    hurt_make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    hurt_path(&g, "kv", kv);
    hurt_path(&g, "kv/test/seg-0009.bad-1", path);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    close(fd);
    rig_reopen(&g);
    CHECK(stands(&g, "1 damaged file is kept"));
    no_open = kv;
    until(&g, "kept", false);
    no_open = NULL;
    until(&g, "kept", true); /* it is looked at again */
    rm(&g, "kv/test/*.bad-*");
    until(&g, "kept", false);
    rig_fini(&g);
}

static int times(const struct rig *g, const char *words)
{
    struct kvs_stats st;
    int n = 0;

    kvs_stats(g->s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        for (const char *p = st.warning[i]; (p = strstr(p, words)) != NULL; p++)
            n++;
    return n;
}

/* Another merge, with a loss of its own or without, does not end what an earlier one had to say:
 * also of a session that somebody went on with, which lacks nothing any more. */
static void what_was_lost_is_said_over_the_next_damage(void)
{
    struct rig g;

    for (int more = 0; more < 2; more++)
        for (int on = 0; on < 2; on++) {
            hurt_make(&g);
            lose(&g, 5);
            if (on)
                CHECK_EQ(rig_talk(&g, 5, 2 * HURT_TURN, 2 * HURT_TURN + 10), 0);
            rig_close(&g);
            CHECK(hurt_tokens(&g, 1, 1100) > 0);
            if (more)
                CHECK(hurt_frame(&g, 1, HURT_TURN) > 0);
            rig_reopen(&g);
            CHECK(g.rep.rebuilt);
            int said = times(&g, "\"s5\" of user 1000 from token 1200 of 3600 on");
            CHECK(on ? said == 1 : said > 0);
            CHECK(more || said == 1);
            CHECK_EQ(times(&g, "\"s1\" of user 1000 from token"), more);
            rig_fini(&g);
        }
}

/* More than can be named: that all of the names were said before says nothing of the others. */
static void a_loss_behind_the_list_is_said(void)
{
    struct rig g;
    uint64_t last = 1; /* by id: it is named last */

    for (uint64_t i = 2; i <= HURT_SESSIONS; i++) {
        struct kvs_id a = rig_id(i, 1000), b = rig_id(last, 1000);
        if (memcmp(a.b, b.b, sizeof a.b) > 0)
            last = i;
    }
    hurt_make(&g);
    for (int all = 0; all < 2; all++) {
        for (uint64_t i = 1; i <= HURT_SESSIONS; i++) {
            if ((i == last) != all)
                continue;
            CHECK(hurt_tokens(&g, i, 2 * HURT_TURN) > 0);
            CHECK(hurt_frame(&g, i, 2 * HURT_TURN) > 0);
        }
        rig_reopen(&g);
        CHECK(g.rep.rebuilt && stands(&g, " and others"));
        CHECK(stands(&g, all ? "tokens of 8 sessions" : "tokens of 7 sessions"));
        rig_close(&g);
    }
    rig_fini(&g);
}

/* Deleting the damaged files is how it is said no more, without a restart. */
static void what_was_lost_is_said_until_the_damaged_files_are_deleted(void)
{
    char cmd[1200], said[4096];
    struct rig g;

    hurt_make(&g);
    CHECK(hurt_tokens(&g, 5, 2 * HURT_TURN) > 0);
    CHECK(hurt_frame(&g, 5, 2 * HURT_TURN) > 0);
    rig_reopen(&g);
    CHECK(stands(&g, "Lost: "));
    CHECK(stands(&g, "To have this said no more delete the damaged files (*.bad-* in "));
    CHECK(stands(&g, "damaged files are kept"));
    rig_reopen(&g);
    CHECK(stands(&g, "Lost: "));
    snprintf(cmd, sizeof cmd, "rm %s/*.bad-* %s/log/*.bad-*", g.dir, g.dir);
    CHECK_EQ(system(cmd), 0);
    for (int i = 0; i < 6000 * T_SLOWER && stands(&g, "kept"); i++) {
        if (!g.threads)
            rig_turn(&g);
        usleep(5000);
    }
    CHECK(!stands(&g, "Lost: ") && !stands(&g, "kept"));
    CHECK(hurt_notes(&g, said, sizeof said) > 0 && strstr(said, "were deleted"));
    rig_reopen(&g);
    CHECK(!stands(&g, "Lost: ") && !stands(&g, "kept"));
    CHECK_EQ(hurt_notes(&g, said, sizeof said), 0);
    rig_fini(&g);
}

static void linked(struct rig *g, const char *as)
{
    char path[512], other[512];

    hurt_path(g, "index.mdb", path);
    hurt_path(g, as, other);
    CHECK_EQ(link(path, other), 0);
}

/* Another name of the index elsewhere, as a backup makes them, is not the one it is kept under; one
 * that a killed start has left is. */
static void a_damaged_index_is_kept_once_whatever_else_links_to_it(void)
{
    char dir[512];
    struct rig g;

    for (int k = 0; k < 4; k++) {
        hurt_make(&g);
        CHECK(hurt_tokens(&g, 1, 1100) > 0);
        hurt_path(&g, "backup", dir);
        CHECK_EQ(mkdir(dir, 0700), 0);
        if (k & 1)
            linked(&g, "backup/index.mdb.bad-1");
        if (k & 2)
            linked(&g, "index.mdb.bad-20200101T000000Z");
        CHECK_EQ(rig_open(&g), 0);
        CHECK(g.rep.rebuilt);
        hurt_path(&g, "", dir);
        CHECK_EQ(hurt_count(dir, "index.mdb.bad-"), 1);
        CHECK(stands(&g, "1 damaged file is kept"));
        rig_fini(&g);
    }
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
/* Of a store that never had a session the log is no copy that was damaged. */
static void an_empty_log_is_not_called_damaged(void)
{
    char said[4096], path[512], cmd[900];
    struct rig g;

    for (int had = 0; had < 2; had++) {
        rig_init(&g, KVS_IO_THREADS, true);
        CHECK_EQ(rig_open(&g), 0);
        if (had)
            CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
        rig_close(&g);
        hurt_path(&g, "index.mdb", path);
        snprintf(cmd, sizeof cmd, "echo junk >%s && rm -f %s/log/*", path, g.dir);
        CHECK_EQ(system(cmd), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(hurt_notes(&g, said, sizeof said) > 0);
        /* One that had files is not empty: log.end knows of them. */
        CHECK(
            strstr(said, had ? "damaged and the other copy had damage too. Lost: perhaps more, "
                               "of which nothing is left. To"
                             : "damaged and the turn log is empty. Lost: the sessions of which "
                               "nothing is left, if there were any. To"));
        rig_fini(&g);
    }
}

/* A file of the log that was a link is kept as one, and goes by what is said. */
static void a_link_to_a_damaged_file_is_kept_and_goes_by_what_is_said(void)
{
    char said[4096], path[512], out[400];
    struct rig g;

    hurt_make(&g);
    snprintf(out, sizeof out, "%.250s/reserve", g.dir);
    hurt_path(&g, "log/seg-0099.bad-x", path);
    CHECK_EQ(symlink(out, path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(hurt_notes(&g, said, sizeof said) > 0 && strstr(said, "1 damaged file is kept"));
    char *cmd = strstr(said, "find -L '");
    CHECK(cmd != NULL);
    cmd[strcspn(cmd, "\n")] = 0;
    CHECK_EQ(system(cmd), 0);
    CHECK(access(path, F_OK) < 0 && access(out, F_OK) == 0);
    rig_fini(&g);
}

T_MAIN(ROW(a_link_to_a_damaged_file_is_kept_and_goes_by_what_is_said),
       ROW(an_empty_log_is_not_called_damaged),
       ROW(what_was_lost_is_said_until_the_damaged_files_are_deleted),
       ROW(what_was_lost_stays_on_record_where_nobody_can_look),
       ROW(what_was_lost_stays_said_while_nobody_can_look),
       ROW(what_was_lost_is_said_no_more_though_a_file_of_blocks_is_kept),
       ROW(what_was_lost_is_said_over_the_next_damage), ROW(a_loss_behind_the_list_is_said),
       ROW(what_is_not_seen_any_more_is_not_said_to_be_kept),
       ROW(a_damaged_index_is_kept_once_whatever_else_links_to_it),
       ROW(what_is_set_aside_is_said_with_its_size_and_how_to_remove_it))
