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

/* n bytes of s with U+FFFD for each byte that belongs to no character, or is zero; terminated.  ret has
 * 3 * n + 1 bytes.  Returns its length. */
static inline size_t text_mend(char *ret, const char *s, size_t n)
{
    size_t at = 0;

    for (size_t i = 0, len; i < n; i += len) {
        len = s[i] ? text_char(s + i, n - i) : 0;
        if (len)
            memcpy(ret + at, s + i, len);
        else
            memcpy(ret + at, "\xef\xbf\xbd", 3);
        at += len ? len : 3;
        len = len ? len : 1;
    }
    ret[at] = 0;
    return at;
}

/* The code point of the character of len bytes at s, as text_char counted them. */
static inline uint32_t text_code(const char *s, size_t len)
{
    const uint8_t *p = (const uint8_t *)s;
    uint32_t cp = len == 2   ? p[0] & 0x1fu
                  : len == 3 ? p[0] & 0xfu
                  : len == 4 ? p[0] & 7u
                             : p[0];

    for (size_t i = 1; i < len; i++)
        cp = cp << 6 | (p[i] & 0x3fu);
    return cp;
}

/* Zero width (non-)joiners: what emoji and the words of some scripts are made with.  In an answer they
 * are text; two names must not differ by what nobody sees. */
static inline bool text_joiner(uint32_t cp)
{
    return cp == 0x200c || cp == 0x200d;
}

/* The character of len bytes at s neither steers a terminal, nor turns the reading order, nor is there
 * without being seen: it is no control (C0, DEL, C1), no line or paragraph separator and no format
 * character (Unicode's Cf, but for the few that are drawn). */
static inline bool text_plain(const char *s, size_t len)
{
    static const struct {
        uint32_t from, to;
    } unseen[] = {{0x00, 0x1f},      {0x7f, 0x9f},     {0xad, 0xad},       {0x61c, 0x61c},
                  {0x180e, 0x180e},  {0x200b, 0x200f}, {0x2028, 0x202e},   {0x2060, 0x206f},
                  {0xfeff, 0xfeff},  {0xfff9, 0xfffb}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
                  {0xe0000, 0xe007f}};
    uint32_t cp = text_code(s, len);

    if (len == 0 || (cp >= 0x20 && cp < 0x7f))
        return len != 0;
    for (size_t i = 0; i < sizeof unseen / sizeof *unseen; i++)
        if (cp >= unseen[i].from && cp <= unseen[i].to)
            return false;
    return true;
}

enum {
    TEXT_SHOWN_MAX = 13, /* what one character may become, terminator included */
    TEXT_GROWS = 4,      /* and how many bytes one byte may, of any text */
};
/* The first character of s, n bytes of which are there (> 0), as it may be shown: itself, or
 * \x1b, \u202e, \udb40\udc41 (two halves, as JSON has it), or, where a byte belongs to no character,
 * \xff.  Returns the bytes of s it took.  lines: newlines, tabs and joiners stay. */
static inline size_t text_show_char(char ret[TEXT_SHOWN_MAX], const char *s, size_t n,
                                    bool lines)
{
    static const char hex[] = "0123456789abcdef";
    size_t len = text_char(s, n), at = 0;
    uint32_t cp = text_code(s, len), unit[2] = {cp, 0};

    if (text_plain(s, len) || (lines && (cp == '\n' || cp == '\t' || text_joiner(cp)))) {
        memcpy(ret, s, len);
        ret[len] = 0;
        return len;
    }
    if (cp > 0xffff) {
        unit[0] = 0xd800 + ((cp - 0x10000) >> 10);
        unit[1] = 0xdc00 + (cp & 0x3ff);
    }
    for (int i = 0; i < 1 + (unit[1] != 0); i++) {
        ret[at++] = '\\';
        ret[at++] = len > 1 ? 'u' : 'x';
        for (int shift = len > 1 ? 12 : 4; shift >= 0; shift -= 4)
            ret[at++] = hex[unit[i] >> shift & 15];
    }
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
