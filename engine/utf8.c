/* utf8.c - see utf8.h. */
#include "engine/utf8.h"
#include "base/bytes.h"
#include "base/check.h"

int utf8_status(const uint8_t *p, size_t bytes)
{
    uint8_t b = p[0], low = 0x80, high = 0xbf; /* bounds of the second byte */
    int need;

    if (b < 0x80)
        return 1;
    if (b >= 0xc2 && b <= 0xdf) {
        need = 2;
    } else if (b >= 0xe0 && b <= 0xef) {
        need = 3;
        low = b == 0xe0 ? 0xa0 : 0x80;
        high = b == 0xed ? 0x9f : 0xbf;
    } else if (b >= 0xf0 && b <= 0xf4) {
        need = 4;
        low = b == 0xf0 ? 0x90 : 0x80;
        high = b == 0xf4 ? 0x8f : 0xbf;
    } else {
        return -1;
    }
    for (int i = 1; i < need; i++) {
        if ((size_t)i >= bytes)
            return 0;
        if (p[i] < low || p[i] > high)
            return -1;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

bool utf8_is_strict(const char *text, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;

    while (i < bytes) {
        if (bytes - i >= 8 && (ld64(p + i) & 0x8080808080808080u) == 0) {
            i += 8;
            continue;
        }
        int n = utf8_status(p + i, bytes - i);
        if (n <= 0)
            return false;
        i += (size_t)n;
    }
    return true;
}

size_t utf8_put(uint32_t cp, char *out)
{
    uint8_t *o = (uint8_t *)out;

    must(cp <= 0x10ffff);
    if (cp < 0x80) {
        o[0] = (uint8_t)cp;
        return 1;
    }
    if (cp < 0x800) {
        o[0] = (uint8_t)(0xc0 | cp >> 6);
        o[1] = (uint8_t)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        o[0] = (uint8_t)(0xe0 | cp >> 12);
        o[1] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
        o[2] = (uint8_t)(0x80 | (cp & 0x3f));
        return 3;
    }
    o[0] = (uint8_t)(0xf0 | cp >> 18);
    o[1] = (uint8_t)(0x80 | (cp >> 12 & 0x3f));
    o[2] = (uint8_t)(0x80 | (cp >> 6 & 0x3f));
    o[3] = (uint8_t)(0x80 | (cp & 0x3f));
    return 4;
}

/* One code point by structure alone: lead byte and continuation bytes, whatever the value
 * (up to U+10FFFF).  0 when the structure is broken. */
static size_t loose(const uint8_t *p, size_t bytes, uint32_t *ret_cp)
{
    size_t need = p[0] < 0x80   ? 1
                  : p[0] < 0xc0 ? 0
                  : p[0] < 0xe0 ? 2
                  : p[0] < 0xf0 ? 3
                  : p[0] < 0xf8 ? 4
                                : 0;
    if (need == 0 || need > bytes)
        return 0;
    uint32_t cp = need == 1 ? p[0] : p[0] & (0xffu >> (need + 1));
    for (size_t i = 1; i < need; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        cp = cp << 6 | (p[i] & 0x3f);
    }
    if (cp > 0x10ffff)
        return 0;
    *ret_cp = cp;
    return need;
}

size_t utf8_mend(const char *text, size_t bytes, char *out, char *shadow)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 0;

    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        size_t len = loose(p + i, bytes - i, &cp);
        if (len == 0) {
            len = 1;
            cp = 0xfffd;
        }
        (void)utf8_put(cp >= 0xd800 && cp <= 0xdfff ? 0xfffd : cp, shadow + n);
        n += utf8_put(cp, out + n);
        i += len;
    }
    return n;
}
