/* pace.h - how much of a round of the loop one user's frames take.
 *
 * A socket can hold thousands of frames whose answers take a tenth of a millisecond each; what
 * is beyond PACE_NS is for the next round, so that in each everybody else has his turn.  One
 * frame is always taken: what takes longer by itself belongs to prep.h or chores.h. */
#ifndef DAEMON_PACE_H
#define DAEMON_PACE_H
#include <stdbool.h>
#include <stdint.h>

#define PACE_NS 1000000u

struct pace { /* zeroed */
    uint64_t round, ns;
};

static inline bool pace_over(const struct pace *p, uint64_t round)
{
    return p->round == round && p->ns >= PACE_NS;
}

static inline void pace_add(struct pace *p, uint64_t round, uint64_t ns)
{
    p->ns = ns + (p->round == round ? p->ns : 0);
    p->round = round;
}

#endif
