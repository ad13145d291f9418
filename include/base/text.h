/* text.h - text from outside: is it UTF-8, character by character.
 *
 * Strict: no overlong forms, no surrogates, nothing above U+10FFFF.  Pure; any thread. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of the character at s, of which n are there; 0: there is none whole. */
static inline size_t text_char(const char *s, size_t n)
{
    const uint8_t *p = (const uint8_t *)s;
    size_t len;

    if (!n || p[0] < 0x80)
        return n ? 1 : 0;
    len = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (len == 0 || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

/* Where the first byte stands that belongs to none, or is zero; n: nowhere. */
static inline size_t text_bad(const char *s, size_t n)
{
    size_t i = 0, len;

    while (i < n && s[i] && (len = text_char(s + i, n - i)))
        i += len;
    return i;
}

#endif
