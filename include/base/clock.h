/* clock.h - monotonic and wall time in nanoseconds. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline uint64_t clock_at(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static inline uint64_t now_ns(void) /* for intervals */
{
    return clock_at(CLOCK_MONOTONIC);
}
static inline uint64_t wall_ns(void) /* for dates that people read */
{
    return clock_at(CLOCK_REALTIME);
}

#endif
