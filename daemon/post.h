/* post.h - how another thread hands finished work to the loop.
 *
 * A message is the sender's memory and stays put until its fn has run on the loop thread.
 * A mutex guards a pointer swap (tens of nanoseconds, never held across a call): messages
 * come at most once per step or job, so a lock-free queue would buy nothing. */
#ifndef DAEMON_POST_H
#define DAEMON_POST_H
#include "base/err.h"
#include "daemon/loop.h"
#include <pthread.h>

struct post_msg {                   /* zeroed before the first send */
    void (*fn)(struct post_msg *m); /* loop thread */
    void *user;
    struct post_msg *next; /* the post's */
    bool sent;             /* the post's: catches sending twice */
};
struct post {
    struct loop *loop;
    struct loop_watch watch;
    pthread_mutex_t lock;
    struct post_msg *head, **tail;
};
int post_init(struct post *p, struct loop *l);
void post_fini(struct post *p);                     /* runs nothing that is left */
void post_send(struct post *p, struct post_msg *m); /* any thread */

#endif
