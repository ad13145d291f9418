/* test_loop.c - the loop: timers in order, watches that come and go, stopping. */
#include "base/clock.h"
#include "daemon/loop.h"
#include "tests/t.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static struct loop *l;
static int order[64], n_order;

static void note(struct loop_timer *t)
{
    order[n_order++] = (int)(intptr_t)t->user;
}
static void stop(struct loop_timer *t)
{
    (void)t;
    loop_stop(l);
}
static void run_for(uint64_t ms)
{
    struct loop_timer t = {.fire = stop};

    loop_timer_set(l, &t, now_ns() + ms * 1000000);
    CHECK_EQ(loop_run(l), 0);
    loop_timer_cancel(l, &t);
}

static void timers_fire_in_the_order_of_their_times(void)
{
    struct loop_timer t[32];
    uint64_t now = now_ns(), seed = t_seed();

    CHECK_EQ(loop_open(&l), 0);
    n_order = 0;
    memset(t, 0, sizeof t);
    for (int i = 0; i < 32; i++) {
        t[i].fire = note;
        t[i].user = (void *)(intptr_t)i;
        loop_timer_set(l, &t[i], now + (uint64_t)rand() % 1000000);
    }
    srand((unsigned)seed);
    /* Set again, in an order that has nothing to do with the times. */
    for (int i = 0; i < 200; i++) {
        int k = rand() % 32;
        loop_timer_set(l, &t[k], now + (uint64_t)((k * 7) % 32 + 1) * 10000);
    }
    for (int i = 0; i < 32; i++)
        loop_timer_set(l, &t[i], now + (uint64_t)((i * 7) % 32 + 1) * 10000);
    run_for(30);
    CHECK_EQ(n_order, 32);
    for (int i = 0; i < n_order; i++)
        CHECK_EQ((order[i] * 7) % 32, i);
    loop_close(l);
}

static void a_cancelled_timer_does_not_fire(void)
{
    struct loop_timer a = {.fire = note, .user = (void *)1},
                      b = {.fire = note, .user = (void *)2};

    CHECK_EQ(loop_open(&l), 0);
    n_order = 0;
    loop_timer_set(l, &a, now_ns());
    loop_timer_set(l, &b, now_ns());
    loop_timer_cancel(l, &a);
    loop_timer_cancel(l, &a);
    run_for(5);
    CHECK_EQ(n_order, 1);
    CHECK_EQ(order[0], 2);
    loop_close(l);
}

static int again_count;
static void again(struct loop_timer *t)
{
    again_count++;
    loop_timer_set(l, t, 0); /* always in the past */
}
static void on_event(struct loop_watch *w, uint32_t events)
{
    (void)events;
    ++*(int *)w->user;
    uint64_t v;
    (void)!read(w->fd, &v, sizeof v);
}

static void a_timer_that_sets_itself_to_the_past_starves_nobody(void)
{
    struct loop_timer t = {.fire = again};
    int hits = 0;
    struct loop_watch w = {
        .fd = eventfd(1, EFD_NONBLOCK), .events = EPOLLIN, .ready = on_event, .user = &hits};

    CHECK_EQ(loop_open(&l), 0);
    again_count = 0;
    loop_timer_set(l, &t, 0);
    CHECK_EQ(loop_add(l, &w), 0);
    run_for(10);
    CHECK_EQ(hits, 1);
    CHECK(again_count > 1);
    loop_timer_cancel(l, &t);
    loop_del(l, &w);
    close(w.fd);
    loop_close(l);
}

static struct loop_watch pair[2];
static int pair_hits;
static void kill_other(struct loop_watch *w, uint32_t events)
{
    (void)events;
    pair_hits++;
    loop_del(l, &pair[w == &pair[0]]);
    loop_del(l, w);
}

static void a_watch_removed_by_another_in_the_same_round_is_not_called(void)
{
    CHECK_EQ(loop_open(&l), 0);
    pair_hits = 0;
    for (int i = 0; i < 2; i++) {
        pair[i] = (struct loop_watch){
            .fd = eventfd(1, EFD_NONBLOCK), .events = EPOLLIN, .ready = kill_other};
        CHECK_EQ(loop_add(l, &pair[i]), 0);
    }
    run_for(5);
    CHECK_EQ(pair_hits, 1);
    for (int i = 0; i < 2; i++)
        close(pair[i].fd);
    loop_close(l);
}

static void *stopper(void *arg)
{
    (void)arg;
    usleep(5000);
    loop_stop(l);
    return NULL;
}
static void another_thread_can_stop_it(void)
{
    pthread_t t;
    uint64_t from = now_ns();

    CHECK_EQ(loop_open(&l), 0);
    pthread_create(&t, NULL, stopper, NULL);
    CHECK_EQ(loop_run(l), 0);
    pthread_join(t, NULL);
    CHECK(now_ns() - from < 5000000000u);
    loop_close(l);
}

static int rounds;
static void after(void *user)
{
    (void)user;
    rounds++;
}
static void the_after_hook_runs_once_a_round(void)
{
    struct loop_timer t[3];

    CHECK_EQ(loop_open(&l), 0);
    rounds = n_order = 0;
    memset(t, 0, sizeof t);
    loop_after(l, after, NULL);
    for (int i = 0; i < 3; i++) {
        t[i].fire = note;
        loop_timer_set(l, &t[i], 0); /* all in one round */
    }
    run_for(3);
    CHECK_EQ(n_order, 3);
    CHECK(rounds >= 2 && rounds <= 4);
    loop_close(l);
}

T_MAIN({"timers_fire_in_the_order_of_their_times", timers_fire_in_the_order_of_their_times},
       {"a_cancelled_timer_does_not_fire", a_cancelled_timer_does_not_fire},
       {"a_timer_that_sets_itself_to_the_past_starves_nobody",
        a_timer_that_sets_itself_to_the_past_starves_nobody},
       {"a_watch_removed_by_another_in_the_same_round_is_not_called",
        a_watch_removed_by_another_in_the_same_round_is_not_called},
       {"another_thread_can_stop_it", another_thread_can_stop_it},
       {"the_after_hook_runs_once_a_round", the_after_hook_runs_once_a_round})
