/* test_rebuild.c - an index that is being made anew: killed on its way, beside a reader of the old
 * one, and out of a store of the program before. */
#include "base/clock.h"
#include "kvstore/index.h"
#include "kvstore/sys.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- killed while it is made anew ------------------------------------------------------------------- */

/* A process that dies at its n-th event below sys.c: a write, a sync, a commit, a new name. */
static uint64_t dies_at, events;

static int die_hook(void *user, const struct sys_event *e)
{
    (void)user, (void)e;
    if (++events == dies_at)
        kill(getpid(), SIGKILL);
    return 0;
}

/* true: it was killed. */
static bool open_and_die(struct rig *g, uint64_t at)
{
    int st;

    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dies_at = at;
        events = 0;
        g->threads = false;
        g->env.sys_hook = die_hook;
        _exit(rig_open(g) < 0 ? 1 : (rig_close(g), 0));
    }
    waitpid(pid, &st, 0);
    if (!WIFSIGNALED(st))
        CHECK_EQ(WEXITSTATUS(st), 0);
    return WIFSIGNALED(st);
}

static void a_rebuild_killed_at_every_step_loses_nothing(void)
{
    enum { MANY = 300, FEW = 5 };
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t killed = 0;
    struct rig base, g;
    char copy[300], path[512];

    rig_init(&base, KVS_IO_THREADS, true);
    base.o.disk_bytes = 64 << 20;
    base.o.no_fsync = true;
    CHECK_EQ(rig_open(&base), 0);
    for (uint64_t t = 0; t < MANY; t++) /* more frames than one transaction takes */
        for (uint64_t s = 1; s < 5; s++) {
            CHECK_EQ(rig_talk(&base, s, t * FEW, (t + 1) * FEW), 0);
            if (t % 50)
                continue;
            /* One that fits any state: applied again, it would put the session back. */
            struct kvs_session x;
            struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};
            char name[8];
            snprintf(name, sizeof name, "s%llu", (unsigned long long)s);
            rig_session(&x, s, 0, name);
            x.flags = KVS_SESS_PINNED;
            x.head = (t + 1) * FEW;
            CHECK_EQ(rig_batch(&base, &r, 1), 0);
        }
    for (uint32_t n = 0; n < 10; n++)
        CHECK_EQ(rig_put(&base, 77, n), 0);
    rig_close(&base);
    base.o.no_fsync = false;
    snprintf(copy, sizeof copy, "%s-hurt", base.dir);
    for (int how = 0; how < 3; how++) {
        bool more = true;
        for (uint64_t at = 1; more; at++) {
            CHECK_EQ(rig_cp(base.dir, copy), 0);
            g = base;
            snprintf(g.dir, sizeof g.dir, "%.200s", copy);
            g.o.dir = g.dir;
            hurt_path(&g, "index.mdb", path);
            if (how == 0)
                CHECK_EQ(unlink(path), 0);
            else if (how == 1)
                CHECK_EQ(truncate(path, 3 * 4096), 0);
            else
                CHECK(hurt_tokens(&g, 1, 700) > 0 && hurt_frame(&g, 2, 100 * FEW) > 0);
            more = open_and_die(&g, at);
            killed += more;
            if (more) /* and again, somewhere */
                killed += open_and_die(&g, 1 + rig_rand(&rnd) % (at + 10));
            g.eb.s[0] = 0;
            if (rig_open(&g) < 0) {
                t_fail(__FILE__, __LINE__, "SEED=%llu damage %d, event %llu: %s",
                       (unsigned long long)seed, how, (unsigned long long)at, g.eb.s);
            } else {
                for (uint64_t s = 1; s < 5; s++)
                    if (!rig_tokens_ok(&g, s, MANY * FEW))
                        t_fail(__FILE__, __LINE__,
                               "SEED=%llu damage %d, event %llu: session %llu is not whole",
                               (unsigned long long)seed, how, (unsigned long long)at,
                               (unsigned long long)s);
                static struct hurt_have h;
                h.n = 0;
                CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
                CHECK_EQ(h.n, 4);
                for (uint32_t i = 0; i < h.n; i++)
                    if (h.s[i].head != MANY * FEW || h.s[i].flags & KVS_SESS_LOST)
                        t_fail(__FILE__, __LINE__,
                               "SEED=%llu damage %d, event %llu: %s stands at %llu",
                               (unsigned long long)seed, how, (unsigned long long)at,
                               h.s[i].name, (unsigned long long)h.s[i].head);
                for (uint32_t n = 0; n < 10; n++)
                    CHECK_EQ(rig_get(&g, 77, n, NULL), 0);
                CHECK_EQ(hurt_count(g.dir, ".new"), 0);
                rig_close(&g);
            }
            rig_rm(copy);
        }
    }
    printf("    killed %u times\n", killed);
    CHECK(killed > 20);
    rig_fini(&base);
}

/* The old one is gone, and what is left of the new one is hurt: it is of no use, and no damage of
 * anything that was. */
static void a_new_index_that_is_hurt_is_not_put_in_place(void)
{
    char path[512], tmp[512], said[4096];
    struct rig g;

    hurt_make(&g);
    CHECK(hurt_tokens(&g, 1, 1100) > 0);
    hurt_path(&g, "index.mdb", path);
    hurt_path(&g, "index.mdb.new", tmp);
    CHECK_EQ(rename(path, tmp), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(hurt_lost(&g, "a hurt new one"), 0);
    CHECK_EQ(hurt_count(g.dir, ".bad-") + hurt_count(g.dir, ".new"), 0);
    CHECK(hurt_notes(&g, said, sizeof said) > 0 && strstr(said, "was missing"));
    rig_fini(&g);
}

/* HEARTH_KILLS=n for more.  The index is gone or hurt each time, the log hurt every second time. */
static void a_rebuild_may_be_killed_at_any_instant(void)
{
    const char *more = getenv("HEARTH_KILLS");
    uint32_t n = more ? (uint32_t)strtoul(more, NULL, 10) : 60;
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t killed = 0;
    struct rig base, g;
    char copy[300], path[512];

    hurt_make(&base);
    snprintf(copy, sizeof copy, "%s-hurt", base.dir);
    /* How long one takes here and now: the kills fall within that. */
    CHECK_EQ(rig_cp(base.dir, copy), 0);
    g = base;
    snprintf(g.dir, sizeof g.dir, "%.200s", copy);
    g.o.dir = g.dir;
    hurt_path(&g, "index.mdb", path);
    CHECK_EQ(unlink(path), 0);
    uint64_t took_ns = now_ns();
    CHECK_EQ(rig_open(&g), 0);
    took_ns = now_ns() - took_ns;
    rig_close(&g);
    rig_rm(copy);
    for (uint32_t i = 0; i < n; i++) {
        CHECK_EQ(rig_cp(base.dir, copy), 0);
        g = base;
        snprintf(g.dir, sizeof g.dir, "%.200s", copy);
        g.o.dir = g.dir;
        hurt_path(&g, "index.mdb", path);
        switch (i % 3) {
        case 0: CHECK_EQ(unlink(path), 0); break;
        case 1: CHECK(hurt_tokens(&g, 1, 1100) > 0); break;
        default: CHECK_EQ(truncate(path, 3 * 4096), 0); break;
        }
        if (i % 3 == 1 && i % 2)
            CHECK(hurt_frame(&g, 2, 2 * HURT_TURN) > 0);
        for (int life = 0; life < 4; life++) {
            fflush(stdout);
            pid_t pid = fork();
            if (pid == 0) {
                g.threads = false;
                _exit(rig_open(&g) < 0 ? 1 : (rig_close(&g), 0));
            }
            uint64_t ns = rig_rand(&rnd) % (took_ns / (life ? 4 : 1));
            struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
            nanosleep(&ts, NULL);
            kill(pid, SIGKILL);
            int st;
            waitpid(pid, &st, 0);
            killed += WIFSIGNALED(st);
            if (WIFEXITED(st) && WEXITSTATUS(st))
                t_fail(__FILE__, __LINE__, "SEED=%llu round %u: a start failed",
                       (unsigned long long)seed, i);
        }
        g.eb.s[0] = 0;
        if (rig_open(&g) < 0) {
            t_fail(__FILE__, __LINE__, "SEED=%llu round %u: does not open: %s",
                   (unsigned long long)seed, i, g.eb.s);
        } else {
            char what[64];
            snprintf(what, sizeof what, "SEED=%llu round %u", (unsigned long long)seed, i);
            if (hurt_lost(&g, what))
                t_fail(__FILE__, __LINE__, "%s: lost something", what);
            CHECK_EQ(hurt_count(g.dir, ".new"), 0);
            rig_close(&g);
        }
        rig_rm(copy);
    }
    printf("    %u rounds, %u starts killed\n", n, killed);
    CHECK(killed > n / 2);
    rig_fini(&base);
}

/* LMDB believes the lock file as long as any process has it open: one that walks the old index
 * while a new one is put in its place must not say where the new one's last transaction is. */
static void a_walker_of_the_old_index_is_not_believed(void)
{
    struct rig g;

    hurt_make(&g);
    for (int odd = 0; odd < 2; odd++) { /* of the two numbers one names the wrong page */
        int up[2];
        char ok = 0;
        CHECK_EQ(pipe(up), 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct sys sys = {0};
            struct index_opts o = {.dir = g.dir, .sys = &sys};
            struct index *i = NULL;
            ok = index_open(&i, &o, NULL) == 0;
            for (int n = 0; ok && n < 3 + odd; n++)
                ok = index_begin(i) == 0 && index_meta_put(i, "walker", "x", 1) == 0 &&
                     index_commit(i) == 0;
            _exit(write(up[1], &ok, 1) == 1 && pause() ? 0 : 1);
        }
        CHECK(read(up[0], &ok, 1) == 1 && ok);
        close(up[0]);
        close(up[1]);
        CHECK(hurt_session_row(&g, 1 + (uint64_t)odd) > 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(g.rep.rebuilt);
        for (uint64_t s = 1; s <= HURT_SESSIONS; s++)
            CHECK_EQ(hurt_whole(&g, s), HURT_TURNS * HURT_TURN);
        uint64_t more = HURT_SESSIONS + 1 + (uint64_t)odd;
        CHECK_EQ(rig_talk(&g, more, 0, 10), 0);
        rig_close(&g);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!g.rep.rebuilt);
        CHECK_EQ(hurt_whole(&g, more), 10);
        rig_close(&g);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
    }
    rig_fini(&g);
}

/* --- a store of the program before ------------------------------------------------------------------ */

static int count_part(void *ctx, const struct kvs_part *p)
{
    (*(int *)ctx) += p->bytes == 4 && memcmp(p->data, "part", 4) == 0;
    return 0;
}

/* tests/golden/store-v2.tar.gz: three sessions of 600 tokens, a request with a part, a block,
 * written by the last program of version 2. */
static void a_store_of_version_2_opens_and_is_merged(void)
{
    for (int how = 0; how < 4; how++) {
        struct kvs_id req = rig_id(1, 6);
        char cmd[700], path[512], *reply = NULL;
        struct kvs_req q;
        struct rig g;
        int parts = 0;

        rig_init(&g, KVS_IO_THREADS, true);
        g.o.disk_bytes = 4 << 20;
        snprintf(cmd, sizeof cmd, "tar -xzf tests/golden/store-v2.tar.gz -C '%s'", g.dir);
        CHECK_EQ(system(cmd), 0);
        hurt_path(&g, "index.mdb", path);
        if (how == 1)
            CHECK_EQ(unlink(path), 0);
        if (how == 2)
            CHECK(hurt_tokens(&g, 1, 300) > 0 && hurt_frame(&g, 2, 200) > 0);
        hurt_path(&g, "log/seg-0001", path);
        if (how == 3)
            hurt_xor(path, 8, 1); /* version 3, by chance */
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(g.rep.rebuilt, how == 1 || how == 2);
        for (uint64_t s = 1; s < 4; s++)
            CHECK(rig_tokens_ok(&g, s, 600));
        CHECK_EQ(kvs_req_get(g.s, 1000, &req, &q, &reply), 0);
        CHECK_STR(reply, "{\"a\":1}");
        free(reply);
        CHECK_EQ(kvs_parts(g.s, 1000, &req, count_part, &parts), 0);
        CHECK_EQ(parts, 1);
        CHECK_EQ(rig_get(&g, 5, 0, NULL), 0);
        CHECK_EQ(rig_talk(&g, 1, 600, 700), 0);
        rig_reopen(&g);
        CHECK(!g.rep.rebuilt);
        CHECK(rig_tokens_ok(&g, 1, 700));
        rig_fini(&g);
    }
}

static void a_start_on_version_2_killed_at_every_step_loses_nothing(void)
{
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t killed = 0;

    for (int how = 0; how < 2; how++) {
        bool more = true;
        for (uint64_t at = 1; more; at++) {
            char cmd[700], path[512];
            struct rig g;
            rig_init(&g, KVS_IO_THREADS, true);
            g.o.disk_bytes = 4 << 20;
            snprintf(cmd, sizeof cmd, "tar -xzf tests/golden/store-v2.tar.gz -C '%s'", g.dir);
            CHECK_EQ(system(cmd), 0);
            hurt_path(&g, "index.mdb", path);
            if (how)
                CHECK_EQ(unlink(path), 0);
            more = open_and_die(&g, at);
            killed += more;
            if (more)
                killed += open_and_die(&g, 1 + rig_rand(&rnd) % (at + 5));
            g.env.sys_hook = NULL;
            CHECK_EQ(rig_open(&g), 0);
            for (uint64_t s = 1; s < 4 && g.s; s++)
                if (!rig_tokens_ok(&g, s, 600))
                    t_fail(__FILE__, __LINE__, "SEED=%llu damage %d, event %llu: session %llu",
                           (unsigned long long)seed, how, (unsigned long long)at,
                           (unsigned long long)s);
            rig_fini(&g);
        }
    }
    printf("    killed %u times\n", killed);
    CHECK(killed > 10);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_rebuild_killed_at_every_step_loses_nothing),
       ROW(a_rebuild_may_be_killed_at_any_instant),
       ROW(a_new_index_that_is_hurt_is_not_put_in_place),
       ROW(a_store_of_version_2_opens_and_is_merged),
       ROW(a_start_on_version_2_killed_at_every_step_loses_nothing),
       ROW(a_walker_of_the_old_index_is_not_believed))
