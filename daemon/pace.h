/* pace.h - how much of the loop's time one user's frames take.
 *
 * A socket can hold thousands of frames whose answers take a tenth of a millisecond each; what
 * is beyond PACE_NS is for the next round, so that in each everybody else has his turn.  While
 * another user's request is at work in a model it waits PACE_REST times as long as it took: a
 * loop that never sleeps takes a core from the step.  One frame is always taken: what takes
 * longer by itself belongs to prep.h or chores.h. */
#ifndef DAEMON_PACE_H
#define DAEMON_PACE_H
#include <stdint.h>

struct daemon;

#define PACE_NS 1000000u
enum { PACE_REST = 4 };

struct pace { /* zeroed */
    uint64_t round, ns;
    uint64_t until_ns; /* and not before */
};

/* A frame of uid's (the kernel's) was looked at, from from_ns until now. */
void pace_frame(struct pace *p, const struct daemon *d, uint32_t uid, uint64_t from_ns);
/* When to go on; 0: now. */
uint64_t pace_late(const struct pace *p, const struct daemon *d);

#endif
