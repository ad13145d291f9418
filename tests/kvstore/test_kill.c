/* test_kill.c - kill -9 at random instants: nothing acknowledged is lost, the store opens.
 *
 * A child puts blocks and appends turns with its real threads and says through a pipe what
 * has been acknowledged.  The parent kills it, opens the store and looks for all of it.  The
 * same directory lives through all kills of a case.  HEARTH_KILLS=n for more. */
#include "base/clock.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PUTS = 8, BRANCHES = 3 };

struct say {
    uint32_t kind; /* 0 open, 1 block, 2 turn */
    uint32_t n;
    uint64_t to;
};

static void tell(int fd, uint32_t kind, uint32_t n, uint64_t to)
{
    struct say s = {kind, n, to};

    if (write(fd, &s, sizeof s) != sizeof s)
        _exit(3);
}

/* The child: for ever. */
static void work(struct rig *g, uint64_t seed, const uint64_t *have, uint32_t first, int fd)
{
    struct rig_block b[PUTS];
    uint64_t end[BRANCHES], rnd = seed ^ first;

    memcpy(end, have, sizeof end);
    if (rig_open(g) < 0)
        _exit(2);
    tell(fd, 0, 0, 0);
    for (uint32_t n = first;; n += PUTS) {
        for (uint32_t i = 0; i < PUTS; i++) {
            rig_block_set(g, &b[i], seed, n + i);
            rig_submit(g, &b[i], true);
        }
        for (uint32_t k = 0; k < 3; k++) {
            uint32_t i = (uint32_t)(rig_rand(&rnd) % BRANCHES);
            uint64_t to = end[i] + 1 + rig_rand(&rnd) % 200;
            if (rig_talk(g, seed + i + 1, end[i], to) == 0) {
                end[i] = to;
                tell(fd, 2, i, to);
            }
        }
        rig_wait(g);
        for (uint32_t i = 0; i < PUTS; i++)
            if (b[i].r.res == 0)
                tell(fd, 1, n + i, 0);
    }
}

static void kills(enum kvs_io io)
{
    const char *more = getenv("HEARTH_KILLS");
    uint32_t n = more ? (uint32_t)strtoul(more, NULL, 10) : 20;
    uint64_t seed = t_seed(), rnd = seed, acked[BRANCHES] = {0}, open_max = 0;
    uint32_t blocks = 0, told = 0;
    bool *ok = calloc(1 << 20, 1);
    struct rig g;

    rig_init(&g, io, !more); /* a soak goes to the disk, a check must not wait for it */
    g.o.disk_bytes = 512 << 20;
    int r = rig_open(&g);
    if (r < 0) {
        rig_fini(&g);
        t_skip("io_uring is refused here");
    }
    rig_close(&g);
    for (uint32_t i = 0; i < n; i++) {
        int p[2];
        uint64_t have[BRANCHES];
        struct say s;
        /* Where the last life ended, also behind what was acknowledged. */
        CHECK_EQ(rig_open(&g), 0);
        for (uint32_t k = 0; k < BRANCHES; k++) {
            struct kvs_id id = rig_id(seed + k + 1, 0);
            have[k] = 0;
            (void)kvs_branch_end(g.s, &id, &have[k]);
        }
        rig_close(&g);
        if (pipe(p) < 0)
            abort();
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            close(p[0]);
            work(&g, seed, have, blocks, p[1]);
            _exit(0);
        }
        close(p[1]);
        /* Every second life is killed while it opens or soon after, the others at work. */
        if (i % 2) {
            struct pollfd w = {.fd = p[0], .events = POLLIN};
            (void)poll(&w, 1, 20000);
        }
        struct timespec ts = {0, (long)(1000000 + rig_rand(&rnd) % 120000000)};
        nanosleep(&ts, NULL);
        kill(pid, SIGKILL);
        uint64_t t0 = now_ns();
        while (read(p[0], &s, sizeof s) == sizeof s) {
            told += s.kind > 0;
            if (s.kind == 1) {
                ok[s.n] = true;
                if (s.n >= blocks)
                    blocks = s.n + 1;
            } else if (s.kind == 2 && s.to > acked[s.n]) {
                acked[s.n] = s.to;
            }
        }
        close(p[0]);
        waitpid(pid, NULL, 0);
        r = rig_open(&g);
        uint64_t took = now_ns() - t0;
        open_max = took > open_max ? took : open_max;
        if (r < 0) {
            t_fail(__FILE__, __LINE__, "SEED=%llu kill %u: does not open: %s",
                   (unsigned long long)seed, i, g.eb.s);
            break;
        }
        CHECK_EQ(g.rep.blocks_dropped, 0);
        CHECK(!g.rep.rebuilt);
        for (uint32_t k = 0; k < BRANCHES; k++) {
            struct kvs_id id = rig_id(seed + k + 1, 0);
            uint64_t end = 0;
            (void)kvs_branch_end(g.s, &id, &end);
            if (end < acked[k] || (end && !rig_tokens_ok(&g, seed + k + 1, end)))
                t_fail(__FILE__, __LINE__,
                       "SEED=%llu kill %u: branch %u: %llu acked, %llu there",
                       (unsigned long long)seed, i, k, (unsigned long long)acked[k],
                       (unsigned long long)end);
        }
        /* All blocks at the end, else the newest. */
        for (uint32_t k = i + 1 == n || blocks < 64 ? 0 : blocks - 64; k < blocks; k++) {
            struct kvs_block_req q;
            if (!ok[k])
                continue;
            r = rig_get(&g, seed, k, &q);
            if (r != 0)
                t_fail(__FILE__, __LINE__, "SEED=%llu kill %u: block %u: %d%s",
                       (unsigned long long)seed, i, k, r, q.corrupt ? " corrupt" : "");
        }
        rig_close(&g);
        blocks += PUTS; /* what was on its way is another's now */
    }
    printf("    %u kills, %u acknowledgements, slowest open %.0f ms\n", n, told,
           (double)open_max / 1e6);
    CHECK(open_max < 2000000000u * T_SLOWER);
    CHECK(told > n);
    rig_fini(&g);
    free(ok);
}

static void kill_loses_nothing_acknowledged_uring(void)
{
    kills(KVS_IO_URING);
}
static void kill_loses_nothing_acknowledged_threads(void)
{
    kills(KVS_IO_THREADS);
}

T_MAIN({"kill_loses_nothing_acknowledged_uring", kill_loses_nothing_acknowledged_uring},
       {"kill_loses_nothing_acknowledged_threads", kill_loses_nothing_acknowledged_threads})
