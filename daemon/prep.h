/* prep.h - one worker thread for long pure work: rendering templates, tokenising, hashing.
 *
 * A megabyte of text takes a fraction of a second to tokenise; on the loop that would stall
 * every stream.  Jobs run in order, one at a time; run() touches only what the job holds and
 * what is immutable (tokenizer, chat), done() is back on the loop thread. */
#ifndef DAEMON_PREP_H
#define DAEMON_PREP_H
#include "daemon/post.h"
#include <stdbool.h>

struct prep;
struct prep_job { /* caller's memory from submit until done or drop; zeroed before */
    void (*run)(struct prep_job *j);  /* worker thread */
    void (*done)(struct prep_job *j); /* loop thread */
    void (*drop)(struct prep_job *j); /* loop thread, instead of done: prep closes; NULL ok */
    void *user;
    struct post_msg msg;   /* prep's */
    struct prep_job *next; /* prep's */
    struct prep *prep;     /* prep's */
};
int prep_open(struct prep **ret, struct loop *l);
/* Finishes the job in hand; what has not come back by then, run or not, is dropped.  NULL ok. */
void prep_close(struct prep *p);
void prep_submit(struct prep *p, struct prep_job *j); /* loop thread */

#endif
