/* loop.c - see loop.h.
 *
 * Timers are a binary heap of pointers; a timer knows its place, so moving one is a sift.
 * A round takes at most LOOP_EVENTS events and each timer at most once, so that neither a
 * chatty peer nor a timer that sets itself to the past can keep the others waiting. */
#include "daemon/loop.h"
#include "base/check.h"
#include "base/clock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOP_MAGIC 0x6c6f6f70u
enum { LOOP_EVENTS = 64, LOOP_AFTER_MAX = 8 };

struct loop {
    uint32_t magic;
    int ep, stop_fd;
    struct loop_timer **heap;
    uint32_t n_timers, cap_timers;
    uint64_t round;
    uint64_t firing_ns; /* nonzero while due timers fire: the time that counts as now */
    struct {
        void (*fn)(void *user);
        void *user;
    } after[LOOP_AFTER_MAX];
    uint32_t n_after;
    /* The round's events, so that a watch removed in a callback is not called any more. */
    struct epoll_event ev[LOOP_EVENTS];
    int n_ev;
};

int loop_open(struct loop **ret)
{
    struct loop *l = calloc(1, sizeof *l);
    struct epoll_event e = {.events = EPOLLIN};

    if (!l)
        return -ENOMEM;
    l->magic = LOOP_MAGIC;
    l->ep = epoll_create1(EPOLL_CLOEXEC);
    l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e.data.ptr = l;
    if (l->ep < 0 || l->stop_fd < 0 || epoll_ctl(l->ep, EPOLL_CTL_ADD, l->stop_fd, &e) < 0) {
        int r = -errno;
        loop_close(l);
        return r;
    }
    *ret = l;
    return 0;
}

void loop_close(struct loop *l)
{
    if (!l)
        return;
    must_be(l, LOOP_MAGIC);
    l->magic = 0;
    for (uint32_t i = 0; i < l->n_timers; i++)
        l->heap[i]->index = 0;
    if (l->ep >= 0)
        close(l->ep);
    if (l->stop_fd >= 0)
        close(l->stop_fd);
    free(l->heap);
    free(l);
}

int loop_add(struct loop *l, struct loop_watch *w)
{
    struct epoll_event e = {.events = w->events, .data.ptr = w};

    must_be(l, LOOP_MAGIC);
    must(!w->added && w->ready);
    if (epoll_ctl(l->ep, EPOLL_CTL_ADD, w->fd, &e) < 0)
        return -errno;
    w->added = true;
    return 0;
}

int loop_mod(struct loop *l, struct loop_watch *w, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = w};

    must(w->added);
    if (w->events == events)
        return 0;
    if (epoll_ctl(l->ep, EPOLL_CTL_MOD, w->fd, &e) < 0)
        return -errno;
    w->events = events;
    return 0;
}

int loop_set(struct loop *l, struct loop_watch *w, uint32_t events)
{
    if (w->added)
        return loop_mod(l, w, events);
    w->events = events;
    return loop_add(l, w);
}

void loop_del(struct loop *l, struct loop_watch *w)
{
    if (!w->added)
        return;
    (void)epoll_ctl(l->ep, EPOLL_CTL_DEL, w->fd, NULL);
    w->added = false;
    for (int i = 0; i < l->n_ev; i++)
        if (l->ev[i].data.ptr == w)
            l->ev[i].data.ptr = NULL;
}

/* --- timers --- */
static void heap_put(struct loop *l, uint32_t at, struct loop_timer *t)
{
    l->heap[at] = t;
    t->index = at + 1;
}

static void heap_sift(struct loop *l, uint32_t at)
{
    struct loop_timer *t = l->heap[at];

    while (at && l->heap[(at - 1) / 2]->at_ns > t->at_ns) {
        heap_put(l, at, l->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t c = 2 * at + 1;

        if (c >= l->n_timers)
            break;
        if (c + 1 < l->n_timers && l->heap[c + 1]->at_ns < l->heap[c]->at_ns)
            c++;
        if (l->heap[c]->at_ns >= t->at_ns)
            break;
        heap_put(l, at, l->heap[c]);
        at = c;
    }
    heap_put(l, at, t);
}

void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t at_ns)
{
    must_be(l, LOOP_MAGIC);
    must(t->fire);
    /* Set to the past while timers fire: its turn is the next round. */
    t->at_ns = at_ns <= l->firing_ns ? l->firing_ns + 1 : at_ns;
    if (!t->index) {
        if (l->n_timers == l->cap_timers) {
            uint32_t cap = l->cap_timers ? l->cap_timers * 2 : 64;
            struct loop_timer **p = realloc(l->heap, cap * sizeof *p);

            /* A timer that cannot be set would be a wait without end; there are a few
             * hundred of them, so this fails only when nothing else could go on either. */
            must(p);
            l->heap = p;
            l->cap_timers = cap;
        }
        heap_put(l, l->n_timers++, t);
    }
    heap_sift(l, t->index - 1);
}

void loop_timer_cancel(struct loop *l, struct loop_timer *t)
{
    uint32_t at = t->index;

    if (!at--)
        return;
    must(l->heap[at] == t);
    t->index = 0;
    if (at != --l->n_timers) {
        heap_put(l, at, l->heap[l->n_timers]);
        heap_sift(l, at);
    }
}

void loop_after(struct loop *l, void (*fn)(void *user), void *user)
{
    must(l->n_after < LOOP_AFTER_MAX);
    l->after[l->n_after].fn = fn;
    l->after[l->n_after++].user = user;
}

static int wait_ms(const struct loop *l)
{
    uint64_t now;

    if (!l->n_timers)
        return -1;
    now = now_ns();
    if (l->heap[0]->at_ns <= now)
        return 0;
    uint64_t ms = (l->heap[0]->at_ns - now + 999999) / 1000000;
    return ms > 60000 ? 60000 : (int)ms;
}

static void fire_due(struct loop *l)
{
    l->firing_ns = now_ns();
    while (l->n_timers && l->heap[0]->at_ns <= l->firing_ns) {
        struct loop_timer *t = l->heap[0];

        loop_timer_cancel(l, t);
        t->fire(t);
    }
    l->firing_ns = 0;
}

uint64_t loop_round(const struct loop *l)
{
    return l->round;
}

int loop_run(struct loop *l)
{
    bool stop = false;

    must_be(l, LOOP_MAGIC);
    while (!stop) {
        l->round++;
        l->n_ev = epoll_wait(l->ep, l->ev, LOOP_EVENTS, wait_ms(l));
        if (l->n_ev < 0) {
            int r = -errno;
            l->n_ev = 0;
            if (r != -EINTR)
                return r;
        }
        for (int i = 0; i < l->n_ev; i++) {
            void *p = l->ev[i].data.ptr;

            if (p == l) {
                uint64_t n;
                stop = read(l->stop_fd, &n, sizeof n) == sizeof n || stop;
            } else if (p) {
                struct loop_watch *w = p;
                w->ready(w, l->ev[i].events);
            }
        }
        l->n_ev = 0;
        fire_due(l);
        for (uint32_t i = 0; i < l->n_after; i++)
            l->after[i].fn(l->after[i].user);
    }
    return 0;
}

void loop_stop(struct loop *l)
{
    uint64_t one = 1;
    int e = errno;

    (void)!write(l->stop_fd, &one, sizeof one);
    errno = e;
}
