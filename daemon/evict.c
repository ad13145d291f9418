/* evict.c - see evict.h. */
#include "daemon/evict.h"
#include <stdlib.h>

static int by_going(const void *a, const void *b) /* owner, then those that may go, by age */
{
    const struct evict_item *x = a, *y = b;

    if (x->owner != y->owner)
        return x->owner < y->owner ? -1 : 1;
    if (x->stays != y->stays)
        return x->stays ? 1 : -1;
    return x->used_ns < y->used_ns ? -1 : x->used_ns > y->used_ns;
}

static uint32_t owner_end(const struct evict_item *v, uint32_t n, uint32_t from)
{
    uint32_t to = from;

    while (to < n && v[to].owner == v[from].owner)
        to++;
    return to;
}

/* The next of the owner that has the most of what is left in v; NULL: nobody is over. */
static struct evict_item *next_of_most(struct evict_item *v, uint32_t n, uint32_t share)
{
    struct evict_item *pick = NULL;
    uint32_t most = share;

    for (uint32_t i = 0, to; i < n; i = to) {
        to = owner_end(v, n, i);
        if (to - i > most && !v[i].stays) {
            most = to - i;
            pick = &v[i];
        }
    }
    return pick;
}

uint32_t evict_pick(struct evict_item *v, uint32_t n, uint32_t max)
{
    uint32_t gone = 0, users = 0;

    if (n <= max)
        return 0;
    qsort(v, n, sizeof *v, by_going);
    for (uint32_t i = 0; i < n; i = owner_end(v, n, i))
        users++;
    while (n - gone > max) {
        struct evict_item *p = next_of_most(v + gone, n - gone, max / users), one;

        if (!p)
            break;
        /* To the front; the order of the others stays. */
        for (one = *p; p > v + gone; p--)
            *p = p[-1];
        v[gone++] = one;
    }
    return gone;
}
