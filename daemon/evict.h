/* evict.h - which anonymous sessions go when there are too many of them.
 *
 * The users share what there may be in equal parts.  Who has more than his share loses his
 * own, those used longest ago first, and of several such users the one with the most; who is
 * within it loses none for the others.  Pure; any thread. */
#ifndef DAEMON_EVICT_H
#define DAEMON_EVICT_H
#include <stdbool.h>
#include <stdint.h>

struct evict_item {
    uint32_t owner;
    uint64_t used_ns;
    bool stays; /* counts, but cannot go now */
    void *user; /* the caller's */
};
/* Sorts v and returns how many of it go: these lie in front, in the order of their going. */
uint32_t evict_pick(struct evict_item *v, uint32_t n, uint32_t max);

#endif
