/* prep.h - long pure work off the loop: rendering templates, tokenising, reading model files.
 *
 * A megabyte of text takes a fraction of a second to tokenise; on the loop that would stall
 * every stream.  run() touches only what the job holds and what is immutable (tokenizer, chat),
 * done() is back on the loop thread.
 *
 * One job runs at a time, and users take turns, within a user his keys (rota.h): a job that calls
 * prep_turn() now and then gives the others theirs every PREP_SLICE_NS; one owner's jobs run
 * one after another and come back in order.  A job that has begun and waits keeps a thread; it
 * is only the turn that goes round.  A job that does not call prep_turn for PREP_STUCK_NS loses
 * its turn without stopping: the others run beside it.  While another user's requests are in steps
 * a job that has had a slice rests PREP_REST times as long: a worker takes a core from the step.
 * At most PREP_THREADS_MAX jobs have begun at a time, of one user with keys his share (share.h),
 * so that of more users some wait for a job's end. */
#ifndef DAEMON_PREP_H
#define DAEMON_PREP_H
#include "daemon/post.h"
#include "daemon/rota.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PREP_OF_NOBODY UINT32_MAX
#define PREP_OF_MANY   (UINT32_MAX - 1)
enum {
    PREP_THREADS_MAX = 16,
    PREP_SLICE_NS = 5000000,
    PREP_STUCK_NS = 50000000,
    PREP_REST = 4
};

struct prep;
struct prep_thread;
struct prep_job { /* caller's memory from submit until done or drop; zeroed before */
    void (*run)(struct prep_job *j);  /* a worker thread */
    void (*done)(struct prep_job *j); /* loop thread */
    void (*drop)(struct prep_job *j); /* loop thread, instead of done: prep closes; NULL ok */
    void *user;
    uint32_t uid;   /* whose work it is by the kernel (ident_uid), or PREP_OF_NOBODY */
    uint32_t owner; /* and of his keys */
    /* prep's */
    struct post_msg msg;
    struct rota_item turn;
    struct prep_job *older, *newer;      /* all that are not back yet */
    struct prep_job *same, *same_newest; /* of the same owner, behind the one that has begun */
    struct prep *prep;
    struct prep_thread *thread; /* NULL: not begun */
    uint64_t turn_ns;
    bool first; /* of its owner: in the round */
    bool over;
    bool loose;            /* runs, and the turn is another's */
    atomic_bool cancelled; /* set by the loop; read late, the work goes on for one piece */
};
int prep_open(struct prep **ret, struct loop *l);
/* Ends the jobs in hand at their next turn; what has not come back by then, run or not, is
 * dropped.  NULL ok. */
void prep_close(struct prep *p);
void prep_submit(struct prep *p, struct prep_job *j); /* loop thread */
/* Nobody wants its result: it ends at its next turn, or is not begun; done() follows all the
 * same.  Loop thread. */
void prep_cancel(struct prep_job *j);
/* Whose requests are in steps: a user's by the kernel, PREP_OF_MANY or PREP_OF_NOBODY.  Loop thread. */
void prep_beside(struct prep *p, uint32_t uid);
/* From run(), at least every few hundred microseconds: lets others work.  -ECANCELED: give up. */
int prep_turn(struct prep_job *j);
/* For how long a job has been at work without asking whose turn it is: the longest of all, 0
 * when none works.  What the watchdog looks at.  Any thread. */
uint64_t prep_silent_ns(struct prep *p);

#endif
