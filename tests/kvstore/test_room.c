/* test_room.c - no room is not a broken disk, also where LMDB says the same of both, and passes by
 * itself. */
#include "base/clock.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static struct rig g;

/* 0: as much as there is. */
static void may(uint64_t bytes)
{
    struct rlimit lim;

    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &lim), 0);
    lim.rlim_cur = bytes ? bytes : lim.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &lim), 0);
}

static uint64_t index_end(void)
{
    char path[400];
    struct stat st;

    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

static bool log_full;
static uint64_t file_most; /* bytes that a new file of the log may have; 0: any */
static uint32_t probes;    /* of the log, at its tail; */
static uint32_t too_long;  /* new files of it that were refused */

static int see(void *user, const struct sys_event *e)
{
    (void)user;
    if (e->after || (e->op != SYS_WRITE && e->op != SYS_ALLOC) || !rig_leads(e->fd, "/log/"))
        return 0;
    if (e->op == SYS_ALLOC) {
        too_long += file_most && e->bytes > file_most;
        return file_most && e->bytes > file_most ? -ENOSPC : 0;
    }
    probes += e->bytes == 4096;
    return log_full ? -ENOSPC : 0;
}

static void start(void)
{
    (void)signal(SIGXFSZ, SIG_IGN); /* as in the daemon */
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.o.no_fsync = true;
    g.threads = false;
    g.env.sys_hook = see;
    CHECK_EQ(rig_open(&g), 0);
}

static void a_write_of_the_index_that_ends_short_is_no_room_and_tried_again(void)
{
    static const uint64_t past[] = {2048, 4096, 3 * 4096 + 1};
    struct kvs_stats st;

    for (unsigned i = 0; i < sizeof past / sizeof *past; i++) {
        uint64_t talked = 20000;
        start();
        /* The index is by far longer than the log: it meets the limit first. */
        CHECK_EQ(rig_talk(&g, 1, 0, talked), 0);
        may(index_end() + past[i]);
        int r = 0;
        for (int k = 0; k < 10 && r == 0; k++) {
            r = rig_talk(&g, 1, talked, talked + 2000);
            talked += r == 0 ? 2000 : 0;
        }
        may(0);
        CHECK_EQ(r, -EFBIG);
        kvs_stats(g.s, &st);
        CHECK_EQ(st.fault, -ENOSPC);
        CHECK(rig_tokens_ok(&g, 1, talked));
        CHECK_EQ(rig_talk(&g, 1, talked, talked + 2000), 0);
        talked += 2000;
        kvs_stats(g.s, &st);
        CHECK_EQ(st.fault, 0);
        rig_reopen(&g);
        CHECK(!g.rep.rebuilt);
        CHECK(rig_tokens_ok(&g, 1, talked));
        rig_fini(&g);
    }
}

static int fault(void)
{
    struct kvs_stats st;

    kvs_stats(g.s, &st);
    return st.fault;
}

static void a_store_that_was_full_finds_by_itself_that_there_is_room(void)
{
    for (int in_log = 0; in_log < 2; in_log++) {
        uint64_t talked = 20000, until;
        start();
        CHECK_EQ(rig_talk(&g, 1, 0, talked), 0);
        log_full = in_log;
        may(in_log ? 0 : index_end());
        while (talked < 60000 && rig_talk(&g, 1, talked, talked + 2000) == 0)
            talked += 2000;
        CHECK_EQ(fault(), -ENOSPC);
        /* As long as there is none it says so; nobody writes. */
        until = now_ns() + 60000000000u * T_SLOWER;
        for (probes = 0; probes == 0 && fault() && now_ns() < until;) {
            rig_turn(&g);
            usleep(1000);
        }
        CHECK_EQ(probes, 1);
        CHECK_EQ(fault(), -ENOSPC);
        log_full = false;
        may(0);
        until = now_ns() + 60000000000u * T_SLOWER;
        while (fault() && now_ns() < until) {
            rig_turn(&g);
            usleep(1000);
        }
        CHECK_EQ(fault(), 0);
        CHECK_EQ(rig_talk(&g, 1, talked, talked + 2000), 0);
        rig_reopen(&g);
        CHECK(!g.rep.rebuilt);
        CHECK(rig_tokens_ok(&g, 1, talked + 2000));
        rig_fini(&g);
    }
}

static bool asked(void)
{
    return too_long > 0;
}
static bool well(void)
{
    return fault() == 0;
}

static void until(bool (*so)(void))
{
    uint64_t end = now_ns() + 60000000000u * T_SLOWER;

    while (!so() && now_ns() < end) {
        g.s->guard_ns = g.s->room_ns = 0; /* it is asked for each few seconds */
        rig_turn(&g);
        usleep(1000);
    }
    CHECK(so());
}

/* The tail has room for a little; a file with room for less than what was refused can be had, too. */
static void room_is_for_what_was_refused(void)
{
    for (int some = 0; some < 2; some++) {
        uint64_t small = 2000, large = 400000;
        file_most = 0;
        start();
        CHECK_EQ(rig_talk(&g, 1, 0, small), 0);
        file_most = some ? turnlog_need(g.s->log, 4096 + turnlog_ahead_bytes(g.s->log)) : 1;
        CHECK_EQ(rig_talk(&g, 1, small, small + large), -ENOSPC);
        CHECK(turnlog_need(g.s->log, 4096) == 0);
        CHECK(turnlog_need(g.s->log, 4 * large) > file_most);
        CHECK_EQ(fault(), -ENOSPC);
        too_long = 0;
        until(asked);
        CHECK_EQ(fault(), -ENOSPC);
        file_most = 0;
        until(well);
        CHECK_EQ(rig_talk(&g, 1, small, small + large), 0);
        rig_reopen(&g);
        CHECK(rig_tokens_ok(&g, 1, small + large));
        rig_fini(&g);
    }
}

/* What was refused is not asked for any more once something else could be written. */
static void a_group_that_was_written_ends_what_was_refused(void)
{
    file_most = 0;
    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 2000), 0);
    file_most = 1;
    CHECK_EQ(rig_talk(&g, 2, 0, 400000), -ENOSPC);
    CHECK_EQ(turnlog_room(g.s->log), -ENOSPC);
    CHECK_EQ(rig_talk(&g, 1, 2000, 2010), 0);
    CHECK_EQ(fault(), 0);
    CHECK_EQ(turnlog_room(g.s->log), 0);
    file_most = 0;
    rig_fini(&g);
}

/* Nor do blocks that find room say that turns do, nor a turn that is refused for another reason. */
static void a_group_without_a_turn_does_not_end_it(void)
{
    file_most = 0;
    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 2000), 0);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    file_most = 1;
    CHECK_EQ(rig_talk(&g, 2, 0, 400000), -ENOSPC);
    CHECK_EQ(fault(), -ENOSPC);
    CHECK_EQ(rig_put(&g, 1, 1), 0);
    CHECK_EQ(fault(), -ENOSPC);
    CHECK_EQ(rig_talk(&g, 1, 3000, 3010), -EINVAL);
    CHECK_EQ(fault(), -ENOSPC);
    file_most = 0;
    until(well);
    rig_fini(&g);
}

#define ROW(name)                                                                              \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(ROW(a_write_of_the_index_that_ends_short_is_no_room_and_tried_again),
       ROW(a_store_that_was_full_finds_by_itself_that_there_is_room),
       ROW(room_is_for_what_was_refused), ROW(a_group_that_was_written_ends_what_was_refused),
       ROW(a_group_without_a_turn_does_not_end_it))
