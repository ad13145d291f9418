/* units.c - see units.h. */
#include "daemon/units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool units_u64(const char *s, uint64_t *ret)
{
    uint64_t v = 0;

    if (!*s)
        return false;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return false;
    }
    *ret = v;
    return true;
}

/* Digits with at most one point; strtod alone would take "inf", "0x1p3" and blanks. */
static const char *plain_num(const char *s, double *ret)
{
    char buf[32];
    size_t n = strspn(s, "0123456789."), dots = 0;

    for (size_t i = 0; i < n; i++)
        dots += s[i] == '.';
    if (n == 0 || n >= sizeof buf || dots > 1 || n == dots)
        return NULL;
    memcpy(buf, s, n);
    buf[n] = 0;
    *ret = strtod(buf, NULL);
    return s + n;
}

bool units_num(const char *s, double *ret)
{
    double v;
    bool minus = *s == '-';

    s = plain_num(s + minus, &v);
    if (!s || *s)
        return false;
    *ret = minus ? -v : v;
    return true;
}

bool units_size(const char *s, uint64_t *ret)
{
    static const struct {
        const char *word;
        double mul;
    } unit[] = {{"", 1},         {"B", 1},        {"K", 0x1p10},   {"KiB", 0x1p10},
                {"KB", 1e3},     {"M", 0x1p20},   {"MiB", 0x1p20}, {"MB", 1e6},
                {"G", 0x1p30},   {"GiB", 0x1p30}, {"GB", 1e9},     {"T", 0x1p40},
                {"TiB", 0x1p40}, {"TB", 1e12}};
    double v;

    s = plain_num(s, &v);
    if (!s)
        return false;
    while (*s == ' ')
        s++;
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++) {
        if (strcasecmp(s, unit[i].word) != 0)
            continue;
        v = floor(v * unit[i].mul);
        if (v >= 0x1p62)
            return false;
        *ret = (uint64_t)v;
        return true;
    }
    return false;
}

bool units_percent(const char *s, double *ret)
{
    double v;

    s = plain_num(s, &v);
    if (!s)
        return false;
    while (*s == ' ')
        s++;
    if (strcmp(s, "%") != 0 || !(v > 0 && v <= 100))
        return false;
    *ret = v;
    return true;
}

bool units_duration(const char *s, double *ret)
{
    static const struct {
        const char *word;
        double seconds;
    } unit[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    double total = 0, v;

    if (strcmp(s, "-1") == 0) {
        *ret = -1;
        return true;
    }
    do {
        s = plain_num(s, &v);
        if (!s)
            return false;
        size_t i = 0, n = 0;
        if (!*s) {
            total += v;
            break;
        }
        for (; i < sizeof unit / sizeof *unit; i++) {
            n = strlen(unit[i].word);
            if (strncmp(s, unit[i].word, n) == 0)
                break;
        }
        if (i == sizeof unit / sizeof *unit)
            return false;
        total += v * unit[i].seconds;
        s += n;
    } while (*s);
    if (total > 1e9)
        return false;
    *ret = total;
    return true;
}

/* Edit distance, words of at most 63 bytes. */
static uint32_t edits(const char *a, const char *b)
{
    uint32_t row[64], n = (uint32_t)strlen(b);

    if (n > 63 || strlen(a) > 63)
        return 64;
    for (uint32_t j = 0; j <= n; j++)
        row[j] = j;
    for (uint32_t i = 0; a[i]; i++) {
        uint32_t diag = row[0];

        row[0] = i + 1;
        for (uint32_t j = 0; j < n; j++) {
            uint32_t up = row[j + 1], put = diag + (a[i] != b[j]);

            put = put < up + 1 ? put : up + 1;
            put = put < row[j] + 1 ? put : row[j] + 1;
            diag = up;
            row[j + 1] = put;
        }
    }
    return row[n];
}

const char *units_nearest(const char *s, const char *const *list, uint32_t n)
{
    const char *best = NULL;
    uint32_t least = 64;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t e = edits(s, list[i]);

        if (e < least && e <= strlen(list[i]) / 2) {
            least = e;
            best = list[i];
        }
    }
    return best;
}
