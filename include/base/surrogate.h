/* surrogate.h - half a surrogate pair in a JSON text.
 *
 * An editor or a language of 16-bit characters may cut a text between the halves of one; the
 * escape of the half that is left ("\ud83d") stands for no character.  It is taken as U+FFFD,
 * as decoders do with bytes that are no text: refused, it would end the conversation whose
 * past it has become part of. */
#ifndef BASE_SURROGATE_H
#define BASE_SURROGATE_H
#include <stddef.h>
#include <string.h>

/* The value of the escape \uXXXX at p, -1 when there is none. */
static inline int surrogate_escape(const char *p, size_t n)
{
    int v = 0;

    if (n < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* Where the next half without its other half is written, at or after from; n: nowhere. */
static inline size_t surrogate_lone(const char *p, size_t n, size_t from)
{
    for (size_t i = from; i < n;) {
        const char *q = memchr(p + i, '\\', n - i);

        if (!q)
            return n;
        i = (size_t)(q - p);
        int v = surrogate_escape(p + i, n - i);
        if (v < 0xd800 || v > 0xdfff) {
            i += 2; /* whatever is escaped is no backslash of its own */
            continue;
        }
        int w = v < 0xdc00 ? surrogate_escape(p + i + 6, n - i - 6) : -1;
        if (w < 0xdc00 || w > 0xdfff)
            return i;
        i += 12;
    }
    return n;
}

/* Each becomes \ufffd, in its place. */
static inline void surrogate_mend(char *p, size_t n)
{
    for (size_t i = 0; (i = surrogate_lone(p, n, i)) < n; i += 6)
        memcpy(p + i, "\\ufffd", 6);
}

#endif
