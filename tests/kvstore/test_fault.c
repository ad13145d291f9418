/* test_fault.c - the n-th file operation fails, for n = 1, 2, 3... until none is left to fail.
 *
 * Every attempt at a transfer and every blocking call counts as one.  After each run the
 * store is opened again without faults: what was acknowledged is there, nothing is wrong.
 * {EIO, ENOSPC, EINTR, EAGAIN, short} x {once, for ever} x {uring, threads}. */
#include "tests/t.h"
#include "tests/kvstore/rig.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT = 1, BLOCKS = 5, TALKS = 4 };

struct faults {
    int at, code;
    bool for_ever;
    int count;
    bool hit;
};

static int due(struct faults *f)
{
    f->count++;
    if (!f->at || f->count < f->at || (f->count > f->at && !f->for_ever))
        return 0;
    f->hit = true;
    return f->code;
}

/* With threads the attempts come from four of them. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int on_io(void *user, const struct io_req *q, uint32_t *len)
{
    pthread_mutex_lock(&lock);
    int r = due(user);
    pthread_mutex_unlock(&lock);
    (void)q;
    if (r != SHORT)
        return r;
    *len = 4096;
    return 0;
}

static int on_sys(void *user, const struct sys_event *e)
{
    if (e->after)
        return 0;
    pthread_mutex_lock(&lock);
    int r = due(user);
    pthread_mutex_unlock(&lock);
    return r == SHORT ? 0 : r;
}

/* true: the fault was reached, there may be more. */
static bool one(enum kvs_io io, int code, bool for_ever, int n)
{
    struct rig g;
    struct faults f = {.at = n, .code = code, .for_ever = for_ever};
    int put[BLOCKS], talk[TALKS];
    bool good = true;

    memset(put, -1, sizeof put);
    memset(talk, -1, sizeof talk);
    rig_init(&g, io, true);
    g.threads = false;
    g.o.disk_bytes = 8 << 20;
    g.env =
        (struct kvs_env){.io_fault = on_io, .io_user = &f, .sys_hook = on_sys, .sys_user = &f};
    int r = rig_open(&g);
    if (r == 0) {
        uint64_t to = 0;
        for (int i = 0; i < BLOCKS || i < TALKS; i++) {
            if (i < BLOCKS)
                put[i] = rig_put(&g, 3, (uint32_t)i);
            if (i < TALKS) {
                talk[i] = rig_talk(&g, 3, to, to + 100);
                if (talk[i] == 0)
                    to += 100;
            }
            if (i < BLOCKS) {
                r = rig_get(&g, 3, (uint32_t)i, NULL);
                good &= r != -9999;
            }
        }
        rig_close(&g);
    }
    f.at = 0;
    r = rig_open(&g);
    if (r < 0) {
        t_fail(__FILE__, __LINE__, "code %d %s n %d: the store does not open again: %s", code,
               for_ever ? "for ever" : "once", n, g.eb.s);
        rig_rm(g.dir);
        return false;
    }
    uint64_t acked = 0, end = 0;
    for (int i = 0; i < TALKS; i++)
        acked += talk[i] == 0 ? 100 : 0;
    struct kvs_id id = rig_id(3, 0);
    (void)kvs_branch_end(g.s, &id, &end);
    if (end < acked || !good || (end && !rig_tokens_ok(&g, 3, end)))
        t_fail(__FILE__, __LINE__, "code %d %s n %d: %llu tokens acknowledged, %llu there",
               code, for_ever ? "for ever" : "once", n, (unsigned long long)acked,
               (unsigned long long)end);
    for (int i = 0; i < BLOCKS; i++) {
        struct kvs_block_req q;
        r = rig_get(&g, 3, (uint32_t)i, &q);
        if (r == -9999 || q.corrupt || (r != 0 && put[i] == 0))
            t_fail(__FILE__, __LINE__, "code %d %s n %d: block %d: put said %d, get %d%s", code,
                   for_ever ? "for ever" : "once", n, i, put[i], r,
                   q.corrupt ? ", corrupt" : "");
    }
    /* And it can be written to as if nothing had been. */
    if (rig_put(&g, 4, 0) != 0 || rig_talk(&g, 5, 0, 10) != 0)
        t_fail(__FILE__, __LINE__, "code %d n %d: the store is not writable again", code, n);
    rig_fini(&g);
    return f.hit;
}

static void every_one(enum kvs_io io)
{
    static const int codes[] = {-EIO, -ENOSPC, -EINTR, -EAGAIN, SHORT};
    struct rig probe;
    int runs = 0;

    rig_init(&probe, io, true);
    int r = rig_open(&probe);
    rig_fini(&probe);
    if (r < 0)
        t_skip("io_uring is refused here");
    for (unsigned k = 0; k < sizeof codes / sizeof *codes; k++)
        for (int for_ever = 0; for_ever < 2; for_ever++) {
            int n = 1;
            while (n < 1000 && one(io, codes[k], for_ever, n))
                n++;
            runs += n;

            CHECK(n > 10 && n < 1000);
        }
    printf("    %d runs\n", runs);
}

static void any_failing_operation_loses_nothing_acknowledged_uring(void)
{
    every_one(KVS_IO_URING);
}
static void any_failing_operation_loses_nothing_acknowledged_threads(void)
{
    every_one(KVS_IO_THREADS);
}

T_MAIN({"any_failing_operation_loses_nothing_acknowledged_uring",
        any_failing_operation_loses_nothing_acknowledged_uring},
       {"any_failing_operation_loses_nothing_acknowledged_threads",
        any_failing_operation_loses_nothing_acknowledged_threads})
