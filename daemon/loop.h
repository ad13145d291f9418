/* loop.h - the loop thread: file descriptors, timers, and nothing that blocks.
 *
 * epoll underneath.  Everything here is called on the loop thread, except loop_stop().
 * Callbacks may add and remove watches and timers, their own included. */
#ifndef DAEMON_LOOP_H
#define DAEMON_LOOP_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_watch { /* caller's memory, zeroed before the first add */
    int fd;
    uint32_t events; /* EPOLLIN | EPOLLOUT ... */
    void (*ready)(struct loop_watch *w, uint32_t events);
    void *user;
    bool added; /* the loop's */
};
struct loop_timer { /* caller's memory, zeroed before the first set */
    uint64_t at_ns; /* now_ns() */
    void (*fire)(struct loop_timer *t);
    void *user;
    uint32_t index; /* the loop's heap place + 1; 0: not set */
};

int loop_open(struct loop **ret);
void loop_close(struct loop *l);
int loop_add(struct loop *l, struct loop_watch *w);
int loop_mod(struct loop *l, struct loop_watch *w, uint32_t events);
int loop_set(struct loop *l, struct loop_watch *w, uint32_t events); /* whether added or not */
void loop_del(struct loop *l, struct loop_watch *w); /* not added: nothing happens */
void loop_timer_set(struct loop *l, struct loop_timer *t, uint64_t at_ns); /* or moves it */
void loop_timer_cancel(struct loop *l, struct loop_timer *t);
/* Called once per round after all events and timers: where the plan for the next step is made. */
void loop_after(struct loop *l, void (*fn)(void *user), void *user);
uint64_t loop_round(const struct loop *l); /* which one this is */
int loop_run(struct loop *l);              /* until loop_stop */
void loop_stop(struct loop *l);            /* any thread, async-signal-safe */

#endif
