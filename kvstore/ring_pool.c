/* ring_pool.c - the ring on four threads with pread and pwrite.
 *
 * For kernels and sandboxes that refuse io_uring.  At transfers of a megabyte it is as fast.
 * One mutex guards two lists, waiting and finished; it is held for pointer moves only. */
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "kvstore/ring.h"
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

enum { RING_MAGIC = 0x706f6f6c, THREADS = 4 };

struct list {
    struct io_req *head, **tail;
};
struct io_ring {
    uint32_t magic;
    pthread_mutex_t lock;
    pthread_cond_t work, back; /* for the threads; for poll */
    struct list todo, done;
    uint32_t out, depth; /* the owner's */
    bool stop, woken;
    pthread_t thread[THREADS];
    uint32_t n_threads;
    int fds[IO_FILES_MAX];
    struct io_opts o;
};

static void push(struct list *l, struct io_req *q)
{
    q->next = NULL;
    *l->tail = q;
    l->tail = &q->next;
}

static struct io_req *pop(struct list *l)
{
    struct io_req *q = l->head;

    if (q) {
        l->head = q->next;
        if (!l->head)
            l->tail = &l->head;
    }
    return q;
}

/* All of len or a code; the rest of a short transfer starts aligned. */
static int32_t transfer(struct io_ring *r, const struct io_req *q)
{
    uint32_t moved = 0;

    for (uint32_t tries = 0; tries <= IO_TRIES_MAX; tries++) {
        uint32_t len = q->len - moved;
        char *at = (char *)q->buf + moved;
        off_t off = (off_t)(q->off + moved);
        ssize_t n = r->o.fault ? r->o.fault(r->o.fault_user, q, &len) : 0;
        if (n == 0) {
            n = q->op == IO_READ ? pread(r->fds[q->file], at, len, off)
                                 : pwrite(r->fds[q->file], at, len, off);
            if (n < 0)
                n = -errno;
            else if (n == 0)
                return q->op == IO_READ ? -ENODATA : -EIO;
        }
        if (n > 0) {
            uint32_t end = moved + (uint32_t)n;
            if (end >= q->len)
                return (int32_t)q->len;
            end -= end % IO_ALIGN;
            if (end > moved)
                tries = 0;
            moved = end;
        } else if (n != -EINTR && n != -EAGAIN) {
            return (int32_t)n;
        }
    }
    return -EIO;
}

static void *body(void *arg)
{
    struct io_ring *r = arg;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct io_req *q = pop(&r->todo);
        if (!q && r->stop)
            break;
        if (!q) {
            pthread_cond_wait(&r->work, &r->lock);
            continue;
        }
        pthread_mutex_unlock(&r->lock);
        q->res = transfer(r, q);
        pthread_mutex_lock(&r->lock);
        push(&r->done, q);
        pthread_cond_signal(&r->back);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static void pool_close(struct io_ring *r)
{
    if (!r)
        return;
    must(r->out == 0);
    r->magic = 0;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_broadcast(&r->work);
    pthread_mutex_unlock(&r->lock);
    for (uint32_t i = 0; i < r->n_threads; i++)
        pthread_join(r->thread[i], NULL);
    pthread_cond_destroy(&r->work);
    pthread_cond_destroy(&r->back);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static int pool_open(struct io_ring **ret, const struct io_opts *o)
{
    struct io_ring *r = calloc(1, sizeof *r);
    pthread_condattr_t mono;
    int res = 0;

    must(o->depth && o->depth <= IO_INFLIGHT_MAX);
    if (!r)
        return -ENOMEM;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&r->back, &mono);
    pthread_condattr_destroy(&mono);
    r->todo.tail = &r->todo.head;
    r->done.tail = &r->done.head;
    r->depth = o->depth;
    r->o = *o;
    for (int i = 0; i < IO_FILES_MAX; i++)
        r->fds[i] = -1;
    for (int i = 0; i < THREADS && res == 0; i++) {
        res = -pthread_create(&r->thread[i], NULL, body, r);
        if (res == 0)
            r->n_threads++;
    }
    if (r->n_threads == 0) { /* fewer than four is slower, not wrong */
        pool_close(r);
        return res;
    }
    r->magic = RING_MAGIC;
    *ret = r;
    return 0;
}

static int pool_add_file(struct io_ring *r, int fd)
{
    must_be(r, RING_MAGIC);
    for (int i = 0; i < IO_FILES_MAX; i++)
        if (r->fds[i] < 0) {
            r->fds[i] = fd;
            return i;
        }
    return -ENFILE;
}

static void pool_del_file(struct io_ring *r, int file)
{
    must_be(r, RING_MAGIC);
    must(file >= 0 && file < IO_FILES_MAX && r->fds[file] >= 0);
    r->fds[file] = -1;
}

static int pool_submit(struct io_ring *r, struct io_req *q)
{
    must_be(r, RING_MAGIC);
    must(q->state == IO_IDLE && q->len && q->len % IO_ALIGN == 0 && q->off % IO_ALIGN == 0);
    must((uintptr_t)q->buf % IO_ALIGN == 0 && q->file < IO_FILES_MAX && r->fds[q->file] >= 0);
    if (r->out == r->depth)
        return -EAGAIN;
    r->out++;
    q->state = IO_OUT;
    pthread_mutex_lock(&r->lock);
    push(&r->todo, q);
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
    return 0;
}

static int pool_poll(struct io_ring *r, uint64_t wait_ns)
{
    uint64_t until = now_ns() + wait_ns;
    struct timespec ts = {.tv_sec = (time_t)(until / 1000000000u),
                          .tv_nsec = (long)(until % 1000000000u)};
    int ran = 0;

    must_be(r, RING_MAGIC);
    pthread_mutex_lock(&r->lock);
    while (wait_ns && !r->done.head && !r->woken)
        if (pthread_cond_timedwait(&r->back, &r->lock, &ts) == ETIMEDOUT)
            break;
    r->woken = false;
    /* Only what is here now: a callback that submits must not keep us in this loop. */
    struct io_req *q = r->done.head;
    r->done.head = NULL;
    r->done.tail = &r->done.head;
    pthread_mutex_unlock(&r->lock);
    while (q) {
        struct io_req *next = q->next;
        q->state = IO_IDLE;
        r->out--;
        ran++;
        q->done(q);
        q = next;
    }
    return ran;
}

static void pool_wake(struct io_ring *r)
{
    must_be(r, RING_MAGIC);
    pthread_mutex_lock(&r->lock);
    r->woken = true;
    pthread_cond_signal(&r->back);
    pthread_mutex_unlock(&r->lock);
}

const struct io_ops ring_pool = {
    .name = "threads",
    .open = pool_open,
    .close = pool_close,
    .add_file = pool_add_file,
    .del_file = pool_del_file,
    .submit = pool_submit,
    .poll = pool_poll,
    .wake = pool_wake,
};
