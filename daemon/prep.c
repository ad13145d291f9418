/* prep.c - see prep.h. */
#include "daemon/prep.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/share.h"
#include "base/sigmask.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Beside an engine that fills all cores a worker shall not make each step wait for it. */
enum { PREP_NICE = 5 };

struct prep_thread {
    struct prep *p;
    pthread_t id;
    pthread_cond_t go; /* its job may have the turn */
};
struct prep {
    struct post post;
    pthread_mutex_t lock;
    pthread_cond_t idle; /* for threads without a job */
    bool stop;
    struct prep_thread *thread[PREP_THREADS_MAX];
    uint32_t n_threads, n_idle;
    struct prep_job *oldest, *newest; /* from submit until back on the loop */
    struct rota round;                /* one of each owner that waits for a turn */
    struct prep_job *now;             /* has the turn; NULL: nobody wants it */
    struct prep_job *fresh;           /* it, and no thread has taken it yet */
    uint64_t slice_ns;                /* when it got it */
    _Atomic uint32_t beside;          /* whose requests are in steps */
};

/* --- whose turn it is; all with the lock held --------------------------------------------------- */
static struct prep_job *job_of(struct rota_item *x)
{
    return x ? (struct prep_job *)(void *)((char *)x - offsetof(struct prep_job, turn)) : NULL;
}

static void round_push(struct prep *p, struct prep_job *j)
{
    j->turn.uid = j->uid;
    j->turn.owner = j->owner;
    rota_add(&p->round, &j->turn);
}

static void *prep_main(void *arg);

static bool thread_make(struct prep *p)
{
    struct prep_thread *t;
    pthread_condattr_t mono;
    sigset_t old;
    int r;

    if (p->n_threads == PREP_THREADS_MAX || !(t = calloc(1, sizeof *t)))
        return false;
    t->p = p;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&t->go, &mono);
    pthread_condattr_destroy(&mono);
    /* Signals belong to the loop thread. */
    sigmask_hold(&old);
    r = pthread_create(&t->id, NULL, prep_main, t);
    sigmask_back(&old);
    if (r != 0) {
        pthread_cond_destroy(&t->go);
        free(t);
        return false;
    }
    p->thread[p->n_threads++] = t;
    p->n_idle++;
    return true;
}

/* A job that has begun may go on; another begins while there is a thread for it, and his user has
 * his share of them. */
static bool may_run(struct rota_item *x, void *ctx)
{
    const struct prep_job *j = job_of(x);
    struct prep *p = ctx;
    uint32_t own = 0, all = 0;

    if (j->thread)
        return true;
    for (const struct prep_job *y = p->oldest; y; y = y->newer) {
        all += y->thread && !y->over;
        own += y->thread && !y->over && y->uid == j->uid;
    }
    return share_more(own, all, PREP_THREADS_MAX) && (p->n_idle || thread_make(p));
}

/* The turn goes to the first in the round that can take it. */
static void turn_give(struct prep *p)
{
    struct prep_job *j;

    must(!p->now && !p->fresh);
    j = job_of(rota_next(&p->round, may_run, p));
    if (!j)
        return;
    rota_drop(&p->round, &j->turn);
    rota_served(&p->round, &j->turn);
    p->now = j;
    p->slice_ns = now_ns();
    if (j->thread) {
        pthread_cond_signal(&j->thread->go);
    } else {
        p->fresh = j;
        pthread_cond_signal(&p->idle);
    }
}

/* Waits until something changes; while others wait too, no longer than who has the turn may
 * keep it. */
static void turn_wait(struct prep *p, pthread_cond_t *c)
{
    uint64_t until = (p->fresh ? now_ns() : p->slice_ns) + PREP_STUCK_NS;
    struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};

    if (!p->now || !p->round.n) {
        pthread_cond_wait(c, &p->lock);
        return;
    }
    if (pthread_cond_timedwait(c, &p->lock, &ts) != ETIMEDOUT)
        return;
    if (p->now && !p->fresh && p->round.n && now_ns() - p->slice_ns >= PREP_STUCK_NS) {
        p->now->loose = true;
        p->now = NULL;
        turn_give(p);
    }
}

/* While others wait somebody watches who has the turn. */
static void turn_watch(struct prep *p)
{
    if (p->now && p->round.n && (p->n_idle > (p->fresh != NULL) || thread_make(p)))
        pthread_cond_broadcast(&p->idle);
}

/* Puts j behind its owner's others, or into the round. */
static void job_add(struct prep *p, struct prep_job *j)
{
    struct prep_job *first = p->oldest;

    while (first &&
           !(first->first && !first->over && first->uid == j->uid && first->owner == j->owner))
        first = first->newer;
    j->older = p->newest;
    *(p->newest ? &p->newest->newer : &p->oldest) = j;
    p->newest = j;
    if (first) {
        *(first->same_newest ? &first->same_newest->same : &first->same) = j;
        first->same_newest = j;
        return;
    }
    j->first = true;
    round_push(p, j);
}

static void job_over(struct prep *p, struct prep_job *j)
{
    struct prep_job *next = j->same;

    j->over = true;
    if (next) {
        next->first = true;
        next->same_newest = j->same_newest == next ? NULL : j->same_newest;
        round_push(p, next);
    }
    if (p->now == j)
        p->now = NULL;
    if (!p->now)
        turn_give(p);
    turn_watch(p);
}

/* --- threads -------------------------------------------------------------------------------------- */
static void prep_back(struct post_msg *m)
{
    struct prep_job *j = m->user;
    struct prep *p = j->prep;

    pthread_mutex_lock(&p->lock);
    *(j->older ? &j->older->newer : &p->oldest) = j->newer;
    *(j->newer ? &j->newer->older : &p->newest) = j->older;
    pthread_mutex_unlock(&p->lock);
    j->done(j);
}

static void *prep_main(void *arg)
{
    struct prep_thread *t = arg;
    struct prep *p = t->p;

    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), PREP_NICE);
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct prep_job *j;

        while (!p->fresh && !p->stop)
            turn_wait(p, &p->idle);
        if (p->stop)
            break;
        j = p->fresh;
        p->fresh = NULL;
        p->n_idle--;
        j->thread = t;
        j->turn_ns = p->slice_ns = now_ns();
        turn_watch(p);
        pthread_mutex_unlock(&p->lock);
        if (!atomic_load_explicit(&j->cancelled, memory_order_relaxed))
            j->run(j);
        pthread_mutex_lock(&p->lock);
        if (p->stop)
            break;
        p->n_idle++;
        job_over(p, j);
        post_send(&p->post, &j->msg); /* from here on it is the loop's */
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void prep_beside(struct prep *p, uint32_t uid)
{
    atomic_store_explicit(&p->beside, uid, memory_order_relaxed);
}

/* For how long j should rest, so that another user's step has the core. */
static uint64_t rest_of(const struct prep *p, const struct prep_job *j)
{
    uint32_t uid = atomic_load_explicit(&p->beside, memory_order_relaxed);
    uint64_t ns = now_ns() - j->turn_ns;

    if (uid == PREP_OF_NOBODY || uid == j->uid || j->uid == PREP_OF_NOBODY)
        return 0;
    return PREP_REST * (ns < PREP_STUCK_NS ? ns : PREP_STUCK_NS);
}

/* Others may have the turn meanwhile. */
static void job_rest(struct prep *p, struct prep_job *j, uint64_t ns)
{
    uint64_t until = now_ns() + ns;
    struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};

    if (!p->now)
        turn_give(p);
    while (!p->stop && now_ns() < until)
        (void)pthread_cond_timedwait(&j->thread->go, &p->lock, &ts);
}

int prep_turn(struct prep_job *j)
{
    struct prep *p = j->prep;
    uint64_t rest;
    bool stop;

    if (atomic_load_explicit(&j->cancelled, memory_order_relaxed))
        return -ECANCELED;
    if (now_ns() - j->turn_ns < PREP_SLICE_NS)
        return 0;
    rest = rest_of(p, j);
    pthread_mutex_lock(&p->lock);
    if (!p->stop && (rest || j->loose || p->round.n)) {
        j->loose = false;
        if (p->now == j)
            p->now = NULL;
        if (rest)
            job_rest(p, j, rest);
        round_push(p, j);
        if (!p->now)
            turn_give(p);
        /* On a busy machine it may lose the turn before it wakes up to it: then it runs so. */
        while (p->now != j && !j->loose && !p->stop)
            turn_wait(p, &j->thread->go);
    }
    j->turn_ns = now_ns();
    if (p->now == j)
        p->slice_ns = j->turn_ns;
    stop = p->stop;
    pthread_mutex_unlock(&p->lock);
    return stop ? -ECANCELED : 0;
}

/* --- the loop's side -------------------------------------------------------------------------------- */
int prep_open(struct prep **ret, struct loop *l)
{
    struct prep *p = calloc(1, sizeof *p);
    pthread_condattr_t mono;
    int r = p ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&p->idle, &mono);
    pthread_condattr_destroy(&mono);
    p->post.watch.fd = -1;
    prep_beside(p, PREP_OF_NOBODY);
    r = post_init(&p->post, l);
    pthread_mutex_lock(&p->lock);
    if (r == 0 && !thread_make(p))
        r = -EAGAIN;
    pthread_mutex_unlock(&p->lock);
    if (r < 0) {
        prep_close(p);
        return r;
    }
    *ret = p;
    return 0;
}

void prep_close(struct prep *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    for (struct prep_job *j = p->oldest; j; j = j->newer)
        prep_cancel(j);
    pthread_cond_broadcast(&p->idle);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_cond_broadcast(&p->thread[i]->go);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_threads; i++) {
        pthread_join(p->thread[i]->id, NULL);
        pthread_cond_destroy(&p->thread[i]->go);
        free(p->thread[i]);
    }
    post_fini(&p->post);
    for (struct prep_job *j = p->oldest, *next; j; j = next) {
        next = j->newer;
        if (j->drop)
            j->drop(j);
    }
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void prep_submit(struct prep *p, struct prep_job *j)
{
    must(j->run && j->done);
    j->prep = p;
    j->msg = (struct post_msg){.fn = prep_back, .user = j};
    j->older = j->newer = j->same = j->same_newest = NULL;
    j->thread = NULL;
    j->first = j->over = j->loose = false;
    pthread_mutex_lock(&p->lock);
    job_add(p, j);
    if (!p->now)
        turn_give(p);
    turn_watch(p);
    pthread_mutex_unlock(&p->lock);
}

void prep_cancel(struct prep_job *j)
{
    atomic_store_explicit(&j->cancelled, true, memory_order_relaxed);
}

uint64_t prep_silent_ns(struct prep *p)
{
    uint64_t now, longest = 0;

    pthread_mutex_lock(&p->lock);
    now = now_ns();
    for (struct prep_job *j = p->oldest; j; j = j->newer)
        if (j->thread && !j->over && (j == p->now || j->loose) && now - j->turn_ns > longest)
            longest = now - j->turn_ns;
    pthread_mutex_unlock(&p->lock);
    return longest;
}
