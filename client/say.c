/* say.c - see say.h. */
#include "client/say.h"
#include "base/text.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>

enum { RING = 8 };

const char *shown(const char *s)
{
    static char *ring[RING];
    static unsigned at;
    size_t n = strlen(s), i = 0;
    for (size_t len; i < n; i += len) {
        len = text_char(s + i, n - i);
        if (!text_plain(s + i, len))
            break;
    }
    if (i == n)
        return s;
    char **p = &ring[at++ % RING];
    free(*p);
    *p = malloc(n * TEXT_GROWS + 1);
    if (!*p)
        return "?";
    (void)text_show(*p, n * TEXT_GROWS + 1, s, n, false);
    return *p;
}

void say_text(FILE *f, const char *s, size_t n)
{
    char one[TEXT_SHOWN_MAX];
    while (n) {
        size_t took = text_show_char(one, s, n, true);
        fputs(one, f);
        s += took;
        n -= took;
    }
}

static void say(FILE *f, const char *fmt, va_list ap)
{
    char *s = NULL;
    int n = vasprintf(&s, fmt, ap);
    if (n < 0)
        return;
    say_text(f, s, (size_t)n);
    free(s);
}

void say_out(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(stdout, fmt, ap);
    va_end(ap);
}

void say_err(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(stderr, fmt, ap);
    va_end(ap);
}

void say_json(FILE *f, const char *json)
{
    char one[TEXT_SHOWN_MAX];
    for (size_t n = strlen(json), took; n; n -= took, json += took) {
        took = text_show_char(one, json, n, false);
        if (one[0] == '\\' &&
            one[1] == 'x') /* JSON has no \x; a byte of no character is none */
            fprintf(f, text_char(json, n) ? "\\u00%s" : "\\ufffd", one + 2);
        else
            fputs(one, f);
    }
    putc('\n', f);
}
