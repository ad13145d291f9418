/* ring_uring.c - the ring on io_uring: one owner thread, registered files, no fixed buffers.
 *
 * The kernel is told that one thread submits (SINGLE_ISSUER) and that completions may wait
 * until that thread asks (DEFER_TASKRUN); kernels that know neither get a plain ring.  The
 * ring starts disabled and is enabled by the first submit or poll, because the thread that
 * enables it is the one the kernel will accept; open() may run on another.
 *
 * user_data = slot | generation << 32.  A completion whose generation is not the slot's
 * cannot happen; if it does, nothing about this ring can be believed any more: it is broken,
 * takes nothing new, and poll() says so once the last request is back. */
#include "kvstore/ring.h"
#include "base/check.h"
#include "base/err.h"
#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RING_MAGIC = 0x72696e67, SQ_ENTRIES = 2 * IO_INFLIGHT_MAX };
static const uint64_t WAKE_DATA = ~0ull;

struct slot {
    struct io_req *q; /* NULL: free */
    uint32_t generation;
    uint32_t moved; /* bytes done, IO_ALIGN multiple */
    uint32_t tries;
    int forced; /* from the fault hook: this attempt's result */
};
struct io_ring {
    uint32_t magic;
    struct io_uring u;
    bool have_u, enabled, broken, fixed, wake_armed;
    uint32_t out, depth;
    struct slot slot[IO_INFLIGHT_MAX];
    uint32_t idle[IO_INFLIGHT_MAX], n_idle;
    /* Prepared and not yet taken by the kernel, oldest first: what must be failed by hand
     * when submitting itself breaks. */
    int32_t prepared[SQ_ENTRIES + 1];
    uint32_t n_prepared;
    int wake_fd;
    uint64_t wake_word;
    int fds[IO_FILES_MAX];
    struct io_opts o;
};

static void uring_close(struct io_ring *r)
{
    if (!r)
        return;
    must(r->out == 0);
    r->magic = 0;
    if (r->have_u)
        io_uring_queue_exit(&r->u);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    free(r);
}

static int uring_setup(struct io_uring *u)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL |
            IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
        IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
    };
    int res = -EINVAL;

    for (unsigned i = 0; i < 2 && res == -EINVAL; i++) {
        struct io_uring_params p = {.flags = flags[i]};
        res = io_uring_queue_init_params(SQ_ENTRIES, u, &p);
        if (res == 0 && !(p.features & IORING_FEAT_EXT_ARG)) { /* timed waits need it */
            io_uring_queue_exit(u);
            res = -ENOSYS;
        }
    }
    return res;
}

/* By system call: Debian 12's shared liburing lacks the function its header declares. */
static int rings_enable(struct io_uring *u)
{
    long res =
        syscall(__NR_io_uring_register, u->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);

    return res < 0 ? -errno : 0;
}

/* Whether this process may use a ring at all is found out by using one: some sandboxes let
 * the setup call through and refuse the next. */
static int uring_probe(void)
{
    struct io_uring u;
    struct io_uring_cqe *cqe;
    int res = uring_setup(&u);

    if (res < 0)
        return res;
    res = rings_enable(&u);
    if (res >= 0) {
        io_uring_prep_nop(io_uring_get_sqe(&u));
        res = io_uring_submit_and_wait(&u, 1);
    }
    if (res >= 0)
        res = io_uring_peek_cqe(&u, &cqe);
    io_uring_queue_exit(&u);
    return res < 0 ? res : 0;
}

static int uring_open(struct io_ring **ret, const struct io_opts *o)
{
    struct io_ring *r = calloc(1, sizeof *r);
    int res = r ? 0 : -ENOMEM;

    must(o->depth && o->depth <= IO_INFLIGHT_MAX);
    if (res == 0) {
        r->wake_fd = eventfd(0, EFD_CLOEXEC);
        if (r->wake_fd < 0)
            res = -errno;
    }
    if (res == 0)
        res = uring_probe();
    if (res == 0)
        res = uring_setup(&r->u);
    if (res < 0) {
        uring_close(r);
        return res;
    }
    r->have_u = true;
    r->fixed = io_uring_register_files_sparse(&r->u, IO_FILES_MAX) == 0;
    r->o = *o;
    r->depth = o->depth;
    for (uint32_t i = 0; i < r->depth; i++)
        r->idle[r->n_idle++] = r->depth - 1 - i;
    for (uint32_t i = 0; i < IO_FILES_MAX; i++)
        r->fds[i] = -1;
    r->magic = RING_MAGIC;
    *ret = r;
    return 0;
}

static int uring_add_file(struct io_ring *r, int fd)
{
    must_be(r, RING_MAGIC);
    for (int i = 0; i < IO_FILES_MAX; i++) {
        if (r->fds[i] >= 0)
            continue;
        if (r->fixed) {
            int res = io_uring_register_files_update(&r->u, (unsigned)i, &fd, 1);
            if (res < 0)
                return res;
        }
        r->fds[i] = fd;
        return i;
    }
    return -ENFILE;
}

static void uring_del_file(struct io_ring *r, int file)
{
    static const int none = -1;

    must_be(r, RING_MAGIC);
    must(file >= 0 && file < IO_FILES_MAX && r->fds[file] >= 0);
    if (r->fixed)
        (void)io_uring_register_files_update(&r->u, (unsigned)file, &none, 1);
    r->fds[file] = -1;
}

/* The request goes back to its owner; the slot is free before, so that the callback may
 * submit again even at full depth. */
static void finish(struct io_ring *r, uint32_t i, int32_t res)
{
    struct io_req *q = r->slot[i].q;

    r->slot[i].q = NULL;
    r->slot[i].generation++;
    r->idle[r->n_idle++] = i;
    r->out--;
    q->res = res;
    q->state = IO_IDLE;
    q->done(q);
}

/* Hands what is prepared to the kernel.  Anything but "try again" means the ring is broken:
 * what the kernel did not take is failed by the next poll, the rest still comes back. */
static void flush(struct io_ring *r)
{
    while (io_uring_sq_ready(&r->u) && !r->broken) {
        int n = io_uring_submit(&r->u);
        if (n == -EINTR)
            continue;
        if (n == -EAGAIN || n == -EBUSY)
            return; /* reaping makes room; poll comes back here */
        if (n <= 0) {
            r->broken = true;
            return;
        }
        must((uint32_t)n <= r->n_prepared);
        r->n_prepared -= (uint32_t)n;
        memmove(r->prepared, r->prepared + n, r->n_prepared * sizeof r->prepared[0]);
    }
}

static struct io_uring_sqe *sqe_take(struct io_ring *r)
{
    struct io_uring_sqe *e = io_uring_get_sqe(&r->u);

    if (!e) {
        flush(r);
        e = io_uring_get_sqe(&r->u);
    }
    return e;
}

/* One attempt at what is left of slot i.  false: the ring has no room or is broken. */
static bool attempt(struct io_ring *r, uint32_t i)
{
    struct slot *s = &r->slot[i];
    struct io_req *q = s->q;
    uint32_t len = q->len - s->moved;
    struct io_uring_sqe *e = r->broken ? NULL : sqe_take(r);

    if (!e)
        return false;
    s->forced = r->o.fault ? r->o.fault(r->o.fault_user, q, &len) : 0;
    if (s->forced) {
        io_uring_prep_nop(e);
    } else {
        io_uring_prep_rw(q->op == IO_READ ? IORING_OP_READ : IORING_OP_WRITE, e,
                         r->fixed ? q->file : r->fds[q->file], (char *)q->buf + s->moved, len,
                         q->off + s->moved);
        if (r->fixed)
            io_uring_sqe_set_flags(e, IOSQE_FIXED_FILE);
    }
    io_uring_sqe_set_data64(e, i | (uint64_t)s->generation << 32);
    r->prepared[r->n_prepared++] = (int32_t)i;
    return true;
}

static int enable(struct io_ring *r)
{
    if (!r->enabled) {
        int res = rings_enable(&r->u);
        if (res < 0) {
            r->broken = true;
            return -EIO;
        }
        r->enabled = true;
    }
    return 0;
}

static int uring_submit(struct io_ring *r, struct io_req *q)
{
    must_be(r, RING_MAGIC);
    must(q->state == IO_IDLE && q->len && q->len % IO_ALIGN == 0 && q->off % IO_ALIGN == 0);
    must((uintptr_t)q->buf % IO_ALIGN == 0 && q->file < IO_FILES_MAX && r->fds[q->file] >= 0);
    if (enable(r) < 0 || r->broken)
        return -EIO;
    if (r->n_idle == 0)
        return -EAGAIN;
    uint32_t i = r->idle[--r->n_idle];
    r->slot[i].q = q;
    r->slot[i].moved = r->slot[i].tries = 0;
    q->state = IO_OUT;
    r->out++;
    if (!attempt(r, i)) {
        r->slot[i].q = NULL;
        r->idle[r->n_idle++] = i;
        r->out--;
        q->state = IO_IDLE;
        return r->broken ? -EIO : -EAGAIN;
    }
    return 0;
}

static int complete(struct io_ring *r, uint64_t data, int32_t res)
{
    uint32_t i = (uint32_t)data;

    if (data == WAKE_DATA) {
        r->wake_armed = false;
        return 0;
    }
    if (i >= r->depth || !r->slot[i].q || r->slot[i].generation != (uint32_t)(data >> 32)) {
        r->broken = true;
        return 0;
    }
    struct slot *s = &r->slot[i];
    if (s->forced)
        res = s->forced;
    if (res > 0) {
        /* What is left must start aligned: a ragged end is transferred again. */
        uint32_t at = s->moved + (uint32_t)res;
        if (at >= s->q->len) {
            finish(r, i, (int32_t)s->q->len);
            return 1;
        }
        at -= at % IO_ALIGN;
        s->tries = at > s->moved ? 0 : s->tries + 1;
        s->moved = at;
    } else if (res == -EINTR || res == -EAGAIN) {
        s->tries++;
    } else {
        finish(r, i, res ? res : s->q->op == IO_READ ? -ENODATA : -EIO);
        return 1;
    }
    if (s->tries > IO_TRIES_MAX || !attempt(r, i)) {
        finish(r, i, -EIO);
        return 1;
    }
    return 0;
}

static void wake_arm(struct io_ring *r)
{
    struct io_uring_sqe *e = r->wake_armed ? NULL : sqe_take(r);

    if (!e)
        return;
    io_uring_prep_read(e, r->wake_fd, &r->wake_word, sizeof r->wake_word, 0);
    io_uring_sqe_set_data64(e, WAKE_DATA);
    r->prepared[r->n_prepared++] = -1;
    r->wake_armed = true;
}

/* After a break: what was prepared and never taken comes back by hand, once. */
static int fail_prepared(struct io_ring *r)
{
    uint32_t n = r->n_prepared;
    int ran = 0;

    r->n_prepared = 0;
    for (uint32_t i = 0; i < n; i++)
        if (r->prepared[i] >= 0) {
            finish(r, (uint32_t)r->prepared[i], -EIO);
            ran++;
        }
    return ran;
}

static int uring_poll(struct io_ring *r, uint64_t wait_ns)
{
    struct io_uring_cqe *cqe;
    int ran = 0;

    must_be(r, RING_MAGIC);
    if (enable(r) == 0 && !r->broken)
        wake_arm(r);
    flush(r);
    if (r->broken)
        ran = fail_prepared(r);
    if (r->broken && r->out == 0)
        return ran ? ran : -EIO;
    if (r->enabled && wait_ns && io_uring_cq_ready(&r->u) == 0) {
        struct __kernel_timespec ts = {.tv_sec = (int64_t)(wait_ns / 1000000000u),
                                       .tv_nsec = (long long)(wait_ns % 1000000000u)};
        (void)io_uring_wait_cqes(&r->u, &cqe, 1, &ts, NULL); /* ETIME, EINTR: nothing came */
    } else if (r->enabled) {
        (void)io_uring_get_events(&r->u);
    }
    while (r->enabled && io_uring_peek_cqe(&r->u, &cqe) == 0 && cqe) {
        uint64_t data = cqe->user_data;
        int32_t res = cqe->res;
        io_uring_cqe_seen(&r->u, cqe);
        ran += complete(r, data, res);
    }
    flush(r);
    return ran;
}

static void uring_wake(struct io_ring *r)
{
    uint64_t one = 1;

    must_be(r, RING_MAGIC);
    (void)!write(r->wake_fd, &one, sizeof one);
}

const struct io_ops ring_uring = {
    .name = "uring",
    .open = uring_open,
    .close = uring_close,
    .add_file = uring_add_file,
    .del_file = uring_del_file,
    .submit = uring_submit,
    .poll = uring_poll,
    .wake = uring_wake,
};
