/* share.h - how much of what is bounded one user may have.
 *
 * He may take one more while he has less than what nobody has: alone he gets half, of n users
 * who want all they can get each has max / (n + 1), and as much is left for who comes next. */
#ifndef DAEMON_SHARE_H
#define DAEMON_SHARE_H
#include <stdbool.h>
#include <stdint.h>

static inline bool share_more(uint64_t own, uint64_t all, uint64_t max)
{
    return all < max && own < max - all;
}

/* Of what n users hold, has he more than each would have, were there one more of them?  Where
 * little is left, such a one waits: the rest is for the others, and for who comes next. */
static inline bool share_over(uint64_t own, uint64_t all, uint32_t n)
{
    return own > all / ((uint64_t)n + 1);
}

#endif
