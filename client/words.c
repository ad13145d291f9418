/* words.c - see words.h. */
#include "client/words.h"
#include "base/shell.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *words_count(char ret[WORDS_BYTES], double n)
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%.0f", fabs(n) < 1e15 ? n : 0), at = 0;
    for (int i = 0; i < len; i++) {
        ret[at++] = digits[i];
        int left = len - 1 - i;
        if (left && left % 3 == 0 && digits[i] != '-')
            ret[at++] = ',';
    }
    ret[at] = 0;
    return ret;
}

const char *words_tokens(char ret[WORDS_BYTES], double n)
{
    char b[WORDS_BYTES];
    snprintf(ret, WORDS_BYTES, "%.24s token%s", words_count(b, n), words_s(n));
    return ret;
}

const char *words_short(char ret[WORDS_BYTES], double n)
{
    if (n < 10000)
        snprintf(ret, WORDS_BYTES, "%.0f", n);
    else if (n < 1e6)
        snprintf(ret, WORDS_BYTES, "%.0fk", floor(n / 1000));
    else
        snprintf(ret, WORDS_BYTES, "%.2fM", n / 1e6);
    return ret;
}

const char *words_bytes(char ret[WORDS_BYTES], double n)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t u = 0;
    while (n >= 1024 && u + 1 < sizeof unit / sizeof *unit) {
        n /= 1024;
        u++;
    }
    snprintf(ret, WORDS_BYTES, u && n < 100 ? "%.1f %s" : "%.0f %s", n, unit[u]);
    return ret;
}

const char *words_share(char ret[WORDS_BYTES], double of_one)
{
    if (of_one <= 0)
        snprintf(ret, WORDS_BYTES, "none");
    else if (of_one < 0.01)
        snprintf(ret, WORDS_BYTES, "less than 1 %%");
    else
        snprintf(ret, WORDS_BYTES, "about %.0f %%", floor(of_one * 100));
    return ret;
}

const char *words_ms(char ret[WORDS_BYTES], double ms)
{
    double s = ms / 1000;
    if (ms < 1000)
        snprintf(ret, WORDS_BYTES, "%.0f ms", ms);
    else if (s < 60)
        snprintf(ret, WORDS_BYTES, "%.1f s", s);
    else if (s < 3600)
        snprintf(ret, WORDS_BYTES, "%dm%02ds", (int)s / 60, (int)s % 60);
    else if (s < 3600 * 1000.0)
        snprintf(ret, WORDS_BYTES, "%dh%02dm", (int)s / 3600, (int)s / 60 % 60);
    else
        snprintf(ret, WORDS_BYTES, "%.0f days", s / 86400);
    return ret;
}

const char *words_ago(char ret[WORDS_BYTES], double unix_s)
{
    if (unix_s > 0)
        return words_idle(ret, difftime(time(NULL), (time_t)unix_s));
    snprintf(ret, WORDS_BYTES, "never");
    return ret;
}

const char *words_idle(char ret[WORDS_BYTES], double s)
{
    if (s < 60)
        snprintf(ret, WORDS_BYTES, "just now");
    else if (s < 3600)
        snprintf(ret, WORDS_BYTES, "%.0f min ago", floor(s / 60));
    else if (s < 2 * 86400)
        snprintf(ret, WORDS_BYTES, "%.0f h ago", floor(s / 3600));
    else
        snprintf(ret, WORDS_BYTES, "%.0f days ago", floor(s / 86400));
    return ret;
}

bool words_seconds(const char *s, double *ret)
{
    static const char letter[] = "smhd";
    static const double unit[] = {1, 60, 3600, 86400};
    double total = 0;
    do {
        size_t digits = strspn(s, "0123456789.");
        char *end;
        double v = strtod(s, &end);
        const char *u = *end ? strchr(letter, *end) : NULL; /* a bare number: of what? */
        if (!digits || end != s + digits || !u)
            return false;
        total += v * unit[u - letter];
        s = end + 1;
    } while (*s);
    if (total > 1e9)
        return false;
    *ret = total;
    return true;
}

const char *words_s(double n)
{
    return n > 0.5 && n < 1.5 ? "" : "s";
}

const char *words_shell(char ret[WORDS_SHELL_BYTES], const char *name)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                "_-./:@%+,=";
    size_t n = strlen(name);
    if (n && strspn(name, plain) == n && n < WORDS_SHELL_BYTES) {
        memcpy(ret, name, n + 1);
        return ret;
    }
    if (!shell_word(ret, WORDS_SHELL_BYTES, name))
        snprintf(ret, WORDS_SHELL_BYTES, "NAME"); /* no name is so long */
    return ret;
}
