/* stored.c - see stored.h. */
#include "daemon/stored.h"
#include "base/clock.h"
#include "base/sigmask.h"
#include "daemon/loop.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>

/* A round returns at once when there is work or a wake; the limit only bounds how late a
 * missed wake could be noticed. */
#define ROUND_NS 200000000u

struct stored {
    struct kvstore *store;
    struct loop *loop;
    struct loop_watch watch;
    void (*said)(void *user, int kind, const char *words);
    void *user;
    pthread_t io, commit;
    bool io_on, commit_on;
    /* Read once per round by both threads; a stale read costs one round. */
    atomic_bool stop;
};

static void *io_main(void *arg)
{
    struct stored *d = arg;

    while (!atomic_load_explicit(&d->stop, memory_order_relaxed))
        kvs_io_turn(d->store, ROUND_NS);
    return NULL;
}

static void *commit_main(void *arg)
{
    struct stored *d = arg;

    while (!atomic_load_explicit(&d->stop, memory_order_relaxed))
        kvs_commit_turn(d->store, ROUND_NS);
    return NULL;
}

static void say(struct stored *d)
{
    char words[KVS_WORDS];
    int kind;

    while (d->said && (kind = (int)kvs_note(d->store, words, sizeof words)) != KVS_NOTE_NONE)
        d->said(d->user, kind, words);
}

static void stored_ready(struct loop_watch *w, uint32_t events)
{
    struct stored *d = w->user;

    (void)events;
    kvs_loop_turn(d->store);
    say(d);
}

int stored_open(struct stored **ret, struct kvstore *s, struct loop *l,
                void (*said)(void *user, int kind, const char *words), void *user)
{
    struct stored *d = calloc(1, sizeof *d);
    sigset_t old;
    int r = d ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    d->store = s;
    d->loop = l;
    d->said = said;
    d->user = user;
    say(d);
    d->watch = (struct loop_watch){
        .fd = kvs_event_fd(s), .events = EPOLLIN, .ready = stored_ready, .user = d};
    r = loop_add(l, &d->watch);
    sigmask_hold(&old);
    if (r == 0) {
        r = -pthread_create(&d->io, NULL, io_main, d);
        d->io_on = r == 0;
    }
    if (r == 0) {
        r = -pthread_create(&d->commit, NULL, commit_main, d);
        d->commit_on = r == 0;
    }
    sigmask_back(&old);
    if (r < 0) {
        stored_close(d, 0);
        return r;
    }
    *ret = d;
    return 0;
}

void stored_close(struct stored *d, unsigned long long wait_ns)
{
    uint64_t until = now_ns() + wait_ns;

    if (!d)
        return;
    /* Completions of what is in flight still reach the loop thread, which is the caller. */
    while (d->io_on && d->commit_on && kvs_in_flight(d->store) && now_ns() < until) {
        struct pollfd p = {.fd = kvs_event_fd(d->store), .events = POLLIN};

        (void)poll(&p, 1, 50);
        kvs_loop_turn(d->store);
    }
    atomic_store_explicit(&d->stop, true, memory_order_relaxed);
    kvs_wake(d->store);
    if (d->io_on)
        pthread_join(d->io, NULL);
    if (d->commit_on)
        pthread_join(d->commit, NULL);
    kvs_loop_turn(d->store);
    loop_del(d->loop, &d->watch);
    free(d);
}
