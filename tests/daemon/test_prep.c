/* test_prep.c - jobs off the loop: order, threads, and shutdown with work left. */
#include "daemon/loop.h"
#include "daemon/prep.h"
#include "tests/t.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { JOBS = 200 };
static struct loop *loop;
static struct prep *prep;
static pthread_t loop_thread;
static int ran_on_loop, done_off_loop, done_n, out_of_order;
static atomic_int runs;

struct job {
    struct prep_job j;
    int n;
};
static struct job jobs[JOBS];

static void job_run(struct prep_job *j)
{
    (void)j;
    if (pthread_equal(pthread_self(), loop_thread))
        ran_on_loop++;
    atomic_fetch_add(&runs, 1);
}
static void job_done(struct prep_job *j)
{
    struct job *b = (struct job *)j;

    if (!pthread_equal(pthread_self(), loop_thread))
        done_off_loop++;
    if (b->n != done_n)
        out_of_order++;
    if (++done_n == JOBS)
        loop_stop(loop);
}

static void jobs_run_off_the_loop_and_come_back_in_order(void)
{
    loop_thread = pthread_self();
    CHECK_EQ(loop_open(&loop), 0);
    CHECK_EQ(prep_open(&prep, loop), 0);
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = (struct job){.j = {.run = job_run, .done = job_done}, .n = i};
        prep_submit(prep, &jobs[i].j);
    }
    CHECK(loop_run(loop) >= 0);
    CHECK_EQ(done_n, JOBS);
    CHECK_EQ(atomic_load(&runs), JOBS);
    CHECK_EQ(ran_on_loop, 0);
    CHECK_EQ(done_off_loop, 0);
    CHECK_EQ(out_of_order, 0);
    prep_close(prep);
    loop_close(loop);
}

static void slow_run(struct prep_job *j)
{
    (void)j;
    usleep(20000);
    atomic_fetch_add(&runs, 1);
}
static void never_done(struct prep_job *j)
{
    (void)j;
    done_n = -1;
}
static void job_drop(struct prep_job *j)
{
    (*(int *)j->user)++;
}
static void closing_drops_what_is_queued_and_waits_for_the_job_in_hand(void)
{
    static struct prep_job j[3];
    int dropped[3] = {0};

    atomic_store(&runs, 0);
    done_n = 0;
    CHECK_EQ(loop_open(&loop), 0);
    CHECK_EQ(prep_open(&prep, loop), 0);
    for (int i = 0; i < 3; i++) {
        j[i] = (struct prep_job){
            .run = slow_run, .done = never_done, .drop = job_drop, .user = &dropped[i]};
        prep_submit(prep, &j[i]);
    }
    usleep(5000);
    prep_close(prep);
    CHECK(atomic_load(&runs) <= 1);
    CHECK_EQ(done_n, 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(dropped[i], 1);
    loop_close(loop);
}

static void closing_drops_what_has_run_and_is_not_back(void)
{
    static struct prep_job j[2];
    int dropped = 0;

    atomic_store(&runs, 0);
    done_n = 0;
    CHECK_EQ(loop_open(&loop), 0);
    CHECK_EQ(prep_open(&prep, loop), 0);
    j[0] = (struct prep_job){
        .run = slow_run, .done = never_done, .drop = job_drop, .user = &dropped};
    j[1] = (struct prep_job){.run = slow_run, .done = never_done}; /* drop is optional */
    prep_submit(prep, &j[0]);
    prep_submit(prep, &j[1]);
    while (atomic_load(&runs) < 2)
        usleep(1000);
    prep_close(prep);
    CHECK_EQ(done_n, 0);
    CHECK_EQ(dropped, 1);
    loop_close(loop);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(jobs_run_off_the_loop_and_come_back_in_order),
       C(closing_drops_what_is_queued_and_waits_for_the_job_in_hand),
       C(closing_drops_what_has_run_and_is_not_back))
