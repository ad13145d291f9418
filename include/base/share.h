/* share.h - how much of what is bounded one user may have, and of that one of his keys.
 *
 * Two levels, everywhere the same: users are those the kernel tells apart (ident_uid); within a
 * user the owners, himself and the API keys behind his front (ident.h), of which he can make as
 * many as he likes.  What many wait for in turn is rota.h's, time of the model turns.h's; both
 * have the same two levels.
 *
 * A user may take one more while he has less than what nobody has: alone he gets half, of n
 * users who want all they can get each has max / (n + 1), and as much is left for who comes
 * next.  A user with keys shares in the same way among their owners what he may have. */
#ifndef BASE_SHARE_H
#define BASE_SHARE_H
#include <stdbool.h>
#include <stdint.h>

static inline bool share_more(uint64_t own, uint64_t all, uint64_t max)
{
    return all < max && own < max - all;
}

/* The same in two levels: own of user's, user's of all.  keys: the user has any. */
static inline bool share_more2(uint64_t own, uint64_t user, uint64_t all, uint64_t max,
                               bool keys)
{
    uint64_t others = all - user;

    if (!share_more(user, all, max))
        return false;
    return !keys || share_more(own, user, (max - others + 1) / 2);
}

/* Of what n users hold, has he more than each would have, were there one more of them?  Where
 * little is left, such a one waits: the rest is for the others, and for who comes next. */
static inline bool share_over(uint64_t own, uint64_t all, uint32_t n)
{
    return own > all / ((uint64_t)n + 1);
}

/* In two levels: users users, this one with keys owners that hold some. */
static inline bool share_over2(uint64_t own, uint64_t user, uint64_t all, uint32_t users,
                               uint32_t keys)
{
    uint64_t his = all / ((uint64_t)users + 1);

    return user > his || (keys > 1 && own > his / ((uint64_t)keys + 1));
}

#endif
