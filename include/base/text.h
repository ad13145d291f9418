/* text.h - text from outside: is it UTF-8, and what of it a terminal or a log may be given.
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

/* The character of len bytes at s neither steers a terminal nor turns the reading order: it is no
 * control (C0, DEL, C1), no line or paragraph separator and no bidi control. */
static inline bool text_plain(const char *s, size_t len)
{
    const uint8_t *p = (const uint8_t *)s;

    if (len == 1)
        return p[0] >= 0x20 && p[0] != 0x7f;
    if (len == 2) /* U+0080 to 9F, U+061C */
        return !(p[0] == 0xc2 && p[1] < 0xa0) && !(p[0] == 0xd8 && p[1] == 0x9c);
    if (len != 3 || p[0] != 0xe2)
        return len != 0;
    if (p[1] == 0x80) /* U+200E, 200F, 2028 to 202E */
        return !(p[2] == 0x8e || p[2] == 0x8f || (p[2] >= 0xa8 && p[2] <= 0xae));
    return !(p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9); /* U+2066 to 2069 */
}

enum { TEXT_SHOWN_MAX = 7 }; /* what one character may become, terminator included */
/* The first character of s, n bytes of which are there (> 0), as it may be shown: itself, or
 * \x1b, \u202e, or, where a byte belongs to no character, \xff.  Returns the bytes of s it took.
 * lines: newlines and tabs stay. */
static inline size_t text_show_char(char ret[TEXT_SHOWN_MAX], const char *s, size_t n,
                                    bool lines)
{
    static const char hex[] = "0123456789abcdef";
    const uint8_t *p = (const uint8_t *)s;
    size_t len = text_char(s, n), at = 0;
    uint32_t cp;

    if (text_plain(s, len) || (lines && (s[0] == '\n' || s[0] == '\t'))) {
        memcpy(ret, s, len);
        ret[len] = 0;
        return len;
    }
    cp = len == 2   ? (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu)
         : len == 3 ? (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu)
                    : p[0];
    ret[at++] = '\\';
    ret[at++] = len > 1 ? 'u' : 'x';
    for (int shift = len > 1 ? 12 : 4; shift >= 0; shift -= 4)
        ret[at++] = hex[cp >> shift & 15];
    ret[at] = 0;
    return len ? len : 1;
}

/* n bytes of s as they may be shown, terminated, as far as cap (> 0) reaches.  Returns its length. */
static inline size_t text_show(char *ret, size_t cap, const char *s, size_t n, bool lines)
{
    char one[TEXT_SHOWN_MAX];
    size_t at = 0;

    while (n) {
        size_t took = text_show_char(one, s, n, lines), len = strlen(one);

        if (len >= cap - at)
            break;
        memcpy(ret + at, one, len);
        at += len;
        s += took;
        n -= took;
    }
    ret[at] = 0;
    return at;
}

#endif
