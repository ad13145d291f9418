/* shell.h - a word as a shell reads it, for commands that are said to be typed.  Pure; any thread. */
#ifndef BASE_SHELL_H
#define BASE_SHELL_H
#include <stdbool.h>
#include <stddef.h>

#define SHELL_WORD_BYTES(n) (4 * (n) + 3) /* what n bytes take at most, terminator included */
/* s in single quotes, each of its own as '\''.  false: ret is too small, it is "" then. */
static inline bool shell_word(char *ret, size_t cap, const char *s)
{
    size_t at = 0;

    ret[at++] = '\'';
    for (; *s && at + SHELL_WORD_BYTES(1) <= cap; s++) {
        ret[at++] = *s;
        for (const char *more = *s == '\'' ? "\\''" : ""; *more; more++)
            ret[at++] = *more;
    }
    ret[at++] = '\'';
    ret[at] = 0;
    if (*s)
        ret[0] = 0;
    return !*s;
}

#endif
