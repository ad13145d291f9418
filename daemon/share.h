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

#endif
