/* lograte.h - the same line again and again becomes a few lines and a count.
 *
 * Keyed by the format's address: one place in the code is one kind of line.  For the log of a
 * program whose peers can make it speak: what they do must not fill the disk. */
#ifndef BASE_LOGRATE_H
#define BASE_LOGRATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LOGRATE_KINDS = 32, LOGRATE_LINES = 20, LOGRATE_WINDOW_S = 10 };
struct lograte {
    struct lograte_kind {
        const char *fmt;
        uint64_t since_ns;
        uint32_t lines, held;
    } kind[LOGRATE_KINDS];
};

/* May a line of this format go out now?  *ret_held: how many were held back before it, to be
 * said with it; 0 else.  A caller with threads locks around it. */
static inline bool lograte_ok(struct lograte *l, const char *fmt, uint64_t now_ns,
                              uint32_t *ret_held)
{
    struct lograte_kind *k = &l->kind[0];

    *ret_held = 0;
    for (size_t i = 0; i < LOGRATE_KINDS; i++) {
        if (l->kind[i].fmt == fmt) {
            k = &l->kind[i];
            break;
        }
        if (l->kind[i].since_ns < k->since_ns)
            k = &l->kind[i];
    }
    if (k->fmt != fmt)
        *k = (struct lograte_kind){.fmt = fmt, .since_ns = now_ns};
    if (now_ns - k->since_ns > LOGRATE_WINDOW_S * 1000000000ull) {
        *ret_held = k->held;
        *k = (struct lograte_kind){.fmt = fmt, .since_ns = now_ns};
    }
    if (k->lines >= LOGRATE_LINES) {
        k->held++;
        return false;
    }
    k->lines++;
    return true;
}

#endif
