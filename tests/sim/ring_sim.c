/* ring_sim.c - the ring as a disk with a mind of its own: any order, some things later. */
#include "base/check.h"
#include "base/err.h"
#include "tests/sim/disk_sim.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct io_ring {
    struct disk_sim *d;
    struct io_req *out[IO_INFLIGHT_MAX];
    uint32_t n, depth;
    int fds[IO_FILES_MAX];
};

static int sim_open(struct io_ring **ret, const struct io_opts *o)
{
    struct io_ring *r = calloc(1, sizeof *r);

    if (!r)
        return -ENOMEM;
    r->d = o->fault_user;
    r->depth = o->depth;
    for (int i = 0; i < IO_FILES_MAX; i++)
        r->fds[i] = -1;
    if (r->d)
        r->d->ring = r;
    *ret = r;
    return 0;
}

static void sim_close(struct io_ring *r)
{
    if (!r)
        return;
    must(r->n == 0);
    if (r->d)
        r->d->ring = NULL;
    free(r);
}

static int sim_add_file(struct io_ring *r, int fd)
{
    for (int i = 0; i < IO_FILES_MAX; i++)
        if (r->fds[i] < 0) {
            r->fds[i] = fd;
            return i;
        }
    return -ENFILE;
}

static void sim_del_file(struct io_ring *r, int file)
{
    r->fds[file] = -1;
}

static int sim_submit(struct io_ring *r, struct io_req *q)
{
    must(q->state == IO_IDLE);
    if (r->n == r->depth)
        return -EAGAIN;
    q->state = IO_OUT;
    r->out[r->n++] = q;
    return 0;
}

void ring_sim_out(struct io_ring *r, void (*each)(void *ctx, int fd, const struct io_req *q),
                  void *ctx)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (r->out[i]->op == IO_WRITE)
            each(ctx, r->fds[r->out[i]->file], r->out[i]);
}

static int sim_poll(struct io_ring *r, uint64_t wait_ns)
{
    uint32_t want = r->n ? 1 + (uint32_t)((r->d ? disk_sim_rand(r->d) : 0) % r->n) : 0;
    int ran = 0;

    (void)wait_ns;
    for (; want && r->n; want--) {
        uint32_t i = (uint32_t)((r->d ? disk_sim_rand(r->d) : 0) % r->n);
        struct io_req *q = r->out[i];
        int fd = r->fds[q->file];
        ssize_t n = q->op == IO_READ ? pread(fd, q->buf, q->len, (off_t)q->off)
                                     : pwrite(fd, q->buf, q->len, (off_t)q->off);
        q->res = n == (ssize_t)q->len ? (int32_t)n : n < 0 ? -errno : -ENODATA;
        if (r->d && q->op == IO_WRITE)
            disk_sim_wrote(r->d, fd, q->buf, q->off, q->len);
        r->out[i] = r->out[--r->n];
        q->state = IO_IDLE;
        if (r->d)
            disk_sim_event(r->d);
        q->done(q);
        ran++;
    }
    return ran;
}

static void sim_wake(struct io_ring *r)
{
    (void)r;
}

const struct io_ops ring_sim = {
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .add_file = sim_add_file,
    .del_file = sim_del_file,
    .submit = sim_submit,
    .poll = sim_poll,
    .wake = sim_wake,
};
