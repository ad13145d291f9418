/* test_ring.c - one contract, three rings: io_uring, threads, the simulated one. */
#include "base/clock.h"
#include "kvstore/ring.h"
#include "tests/sim/disk_sim.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 64, LEN = 16384 };

/* Faults by attempt: which one, what, how often. */
struct plan {
    int at, code, times; /* code 1: a short transfer */
    uint32_t short_len;
    _Atomic int count;
};
static int fault(void *user, const struct io_req *q, uint32_t *len)
{
    struct plan *p = user;
    int n = ++p->count;

    (void)q;
    if (n < p->at || n >= p->at + p->times)
        return 0;
    if (p->code == 1) {
        if (*len > p->short_len)
            *len = p->short_len;
        return 0;
    }
    return p->code;
}

struct rig {
    const struct io_ops *ops;
    struct io_ring *r;
    int fd, file;
    uint8_t *buf;
    struct io_req q[N];
    struct plan plan;
};
static int done_count, done_order[N * 4];

static void done(struct io_req *q)
{
    done_order[done_count++ % (N * 4)] = (int)(intptr_t)q->user;
}

static void rig_start(struct rig *g, const struct io_ops *ops, uint32_t depth)
{
    char path[300];
    struct io_opts o = {.depth = depth, .fault = fault, .fault_user = &g->plan};

    memset(g, 0, sizeof *g);
    g->ops = ops;
    done_count = 0;
    if (ops == &ring_sim)
        o.fault_user = NULL;
    int r = ops->open(&g->r, &o);
    if (r < 0)
        t_skip(ops->name);
    static const char *dir;
    if (!dir)
        dir = t_tmpdir();
    snprintf(path, sizeof path, "%s/file", dir);
    g->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    if (g->fd < 0)
        g->fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (ftruncate(g->fd, N * LEN) < 0 || posix_memalign((void **)&g->buf, 4096, N * LEN))
        abort();
    g->file = ops->add_file(g->r, g->fd);
    CHECK(g->file >= 0);
}

static void rig_end(struct rig *g)
{
    g->ops->close(g->r);
    close(g->fd);
    free(g->buf);
}

static int go(struct rig *g, uint8_t op, int i)
{
    g->q[i] = (struct io_req){.op = op,
                              .file = (uint16_t)g->file,
                              .len = LEN,
                              .off = (uint64_t)i * LEN,
                              .buf = g->buf + (size_t)i * LEN,
                              .done = done,
                              .user = (void *)(intptr_t)i};
    return g->ops->submit(g->r, &g->q[i]);
}

static void drain(struct rig *g, int n)
{
    uint64_t until = now_ns() + 20000000000u;

    while (done_count < n && now_ns() < until)
        if (g->ops->poll(g->r, 10000000) < 0)
            break;
    CHECK_EQ(done_count, n);
}

static void what_is_written_is_read(const struct io_ops *ops)
{
    struct rig g;

    rig_start(&g, ops, 32);
    for (size_t i = 0; i < N * LEN; i++)
        g.buf[i] = (uint8_t)(i * 31 + i / 4096);
    for (int i = 0; i < 32; i++)
        CHECK_EQ(go(&g, IO_WRITE, i), 0);
    drain(&g, 32);
    for (int i = 0; i < 32; i++)
        CHECK_EQ(g.q[i].res, LEN);
    memset(g.buf, 0, N * LEN);
    done_count = 0;
    for (int i = 0; i < 32; i++)
        CHECK_EQ(go(&g, IO_READ, i), 0);
    drain(&g, 32);
    size_t bad = 0;
    for (size_t i = 0; i < 32 * LEN; i++)
        bad += g.buf[i] != (uint8_t)(i * 31 + i / 4096);
    CHECK_EQ(bad, 0);
    rig_end(&g);
}

static void a_full_ring_says_again_and_takes_more_later(const struct io_ops *ops)
{
    struct rig g;

    rig_start(&g, ops, 4);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(go(&g, IO_WRITE, i), 0);
    CHECK_EQ(go(&g, IO_WRITE, 4), -EAGAIN);
    CHECK_EQ(g.q[4].state, IO_IDLE);
    drain(&g, 4);
    CHECK_EQ(go(&g, IO_WRITE, 4), 0);
    drain(&g, 5);
    rig_end(&g);
}

static void reading_behind_the_end_is_an_error(const struct io_ops *ops)
{
    struct rig g;

    rig_start(&g, ops, 4);
    CHECK_EQ(ftruncate(g.fd, LEN + 4096), 0);
    CHECK_EQ(go(&g, IO_READ, 1), 0); /* begins inside, ends behind */
    CHECK_EQ(go(&g, IO_READ, 5), 0);
    drain(&g, 2);
    CHECK_EQ(g.q[1].res, -ENODATA);
    CHECK_EQ(g.q[5].res, -ENODATA);
    rig_end(&g);
}

static struct rig *again_rig;
static int again_left;
static void done_again(struct io_req *q)
{
    done_count++;
    if (again_left-- > 0)
        CHECK_EQ(again_rig->ops->submit(again_rig->r, q), 0);
}

static void a_callback_may_submit_again(const struct io_ops *ops)
{
    struct rig g;

    rig_start(&g, ops, 1); /* depth 1: its slot must be free by then */
    again_rig = &g;
    again_left = 10;
    g.q[0] = (struct io_req){
        .op = IO_WRITE, .file = (uint16_t)g.file, .len = LEN, .buf = g.buf, .done = done_again};
    CHECK_EQ(ops->submit(g.r, &g.q[0]), 0);
    drain(&g, 11);
    rig_end(&g);
}

static void files_come_and_go(const struct io_ops *ops)
{
    struct rig g;

    rig_start(&g, ops, 4);
    for (int i = 0; i < 100; i++) {
        int f = ops->add_file(g.r, g.fd);
        CHECK(f >= 0 && f != g.file);
        ops->del_file(g.r, f);
    }
    CHECK_EQ(go(&g, IO_WRITE, 0), 0);
    drain(&g, 1);
    CHECK_EQ(g.q[0].res, LEN);
    rig_end(&g);
}

static void *wake_later(void *arg)
{
    struct rig *g = arg;
    struct timespec ts = {0, 30000000};

    nanosleep(&ts, NULL);
    g->ops->wake(g->r);
    return NULL;
}

static void wake_ends_a_wait_from_another_thread(const struct io_ops *ops)
{
    struct rig g;
    pthread_t t;

    rig_start(&g, ops, 4);
    uint64_t t0 = now_ns();
    while (now_ns() - t0 < 20000000) /* nobody wakes: its time ends it */
        CHECK_EQ(ops->poll(g.r, 1000000), 0);
    pthread_create(&t, NULL, wake_later, &g);
    CHECK_EQ(ops->poll(g.r, 10000000000u), 0);
    CHECK(now_ns() - t0 < 5000000000u);
    pthread_join(t, NULL);
    ops->wake(g.r); /* before the wait: it does not begin */
    t0 = now_ns();
    (void)ops->poll(g.r, 5000000000u);
    CHECK(now_ns() - t0 < 4000000000u);
    rig_end(&g);
}

/* --- faults: the two real ones ---------------------------------------------------------------- */

static void faulty(const struct io_ops *ops, struct plan plan, int want, bool is_read)
{
    struct rig g;

    rig_start(&g, ops, 8);
    for (size_t i = 0; i < 8 * LEN; i++)
        g.buf[i] = (uint8_t)(i * 7 + i / 512);
    CHECK_EQ(pwrite(g.fd, g.buf, 8 * LEN, 0), 8 * LEN);
    if (is_read)
        memset(g.buf, 0, 8 * LEN);
    g.plan.at = plan.at;
    g.plan.code = plan.code;
    g.plan.times = plan.times;
    g.plan.short_len = plan.short_len;
    for (int i = 0; i < 4; i++)
        CHECK_EQ(go(&g, is_read ? IO_READ : IO_WRITE, i), 0);
    drain(&g, 4);
    int failed = 0;
    for (int i = 0; i < 4; i++)
        if (g.q[i].res != LEN) {
            CHECK_EQ(g.q[i].res, want);
            failed++;
        }
    CHECK(want == LEN ? failed == 0 : failed > 0);
    if (want == LEN && is_read) {
        size_t bad = 0;
        for (size_t i = 0; i < 4 * LEN; i++)
            bad += g.buf[i] != (uint8_t)(i * 7 + i / 512);
        CHECK_EQ(bad, 0);
    }
    rig_end(&g);
}

static void short_transfers_are_finished(const struct io_ops *ops)
{
    static const uint32_t shorts[] = {4096, 8192, 512, 4608, 12288};

    for (int at = 1; at <= 6; at++)
        for (unsigned k = 0; k < sizeof shorts / sizeof *shorts; k++)
            for (int rd = 0; rd < 2; rd++)
                faulty(ops,
                       (struct plan){.at = at, .code = 1, .times = 3, .short_len = shorts[k]},
                       LEN, rd);
    faulty(ops, (struct plan){.at = 1, .code = 1, .times = 1 << 30, .short_len = 4096}, LEN,
           true);
    /* Never a whole page: no progress is possible, and that is found out. */
    faulty(ops, (struct plan){.at = 1, .code = 1, .times = 1 << 30, .short_len = 512}, -EIO,
           true);
}

static void interruptions_are_tried_again_for_a_while(const struct io_ops *ops)
{
    static const int codes[] = {-EINTR, -EAGAIN};

    for (int k = 0; k < 2; k++)
        for (int rd = 0; rd < 2; rd++) {
            faulty(ops, (struct plan){.at = 1, .code = codes[k], .times = 50}, LEN, rd);
            faulty(ops, (struct plan){.at = 1, .code = codes[k], .times = 1 << 30}, -EIO, rd);
        }
}

static void errors_come_back_as_they_are(const struct io_ops *ops)
{
    static const int codes[] = {-EIO, -ENOSPC, -EDQUOT, -EINVAL};

    for (int k = 0; k < 4; k++)
        for (int at = 1; at <= 4; at++)
            faulty(ops, (struct plan){.at = at, .code = codes[k], .times = 1}, codes[k],
                   at & 1);
}

#define ON(name, ring)                                                                         \
    static void name##_##ring(void)                                                            \
    {                                                                                          \
        name(&ring_##ring);                                                                    \
    }
#define ALL(name)  ON(name, uring) ON(name, pool) ON(name, sim)
#define REAL(name) ON(name, uring) ON(name, pool)
ALL(what_is_written_is_read)
ALL(a_full_ring_says_again_and_takes_more_later)
ALL(a_callback_may_submit_again)
ALL(files_come_and_go)
REAL(reading_behind_the_end_is_an_error)
REAL(wake_ends_a_wait_from_another_thread)
REAL(short_transfers_are_finished)
REAL(interruptions_are_tried_again_for_a_while)
REAL(errors_come_back_as_they_are)
#define ROW(name, ring)                                                                        \
    {                                                                                          \
#        name "_" #        ring, name##_##ring                                                 \
    }
#define ROWS2(name) ROW(name, uring), ROW(name, pool)
#define ROWS3(name) ROWS2(name), ROW(name, sim)
T_MAIN(ROWS3(what_is_written_is_read), ROWS3(a_full_ring_says_again_and_takes_more_later),
       ROWS3(a_callback_may_submit_again), ROWS3(files_come_and_go),
       ROWS2(reading_behind_the_end_is_an_error), ROWS2(wake_ends_a_wait_from_another_thread),
       ROWS2(short_transfers_are_finished), ROWS2(interruptions_are_tried_again_for_a_while),
       ROWS2(errors_come_back_as_they_are))
