/* progress.c - see progress.h. */
#include "client/progress.h"
#include "base/clock.h"
#include "client/say.h"
#include "client/words.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    BAR_MAX = 30,
    REDRAW_MS = 80,
    LINE_AGAIN_MS = 10000, /* without a terminal: while a stage lasts */
    LONG_MS = 1000,        /* and a stage that took longer has a line at its end */
};

static int percent(const struct progress_at *at)
{
    double p = at->total > 0 ? at->done * 100 / at->total : 0;
    return p < 0 ? 0 : p > 100 ? 100 : (int)p;
}

/* One field more, whole or not at all: half a number is another one. */
__attribute__((format(printf, 4, 5))) static size_t add(char *ret, size_t max, size_t n,
                                                        const char *fmt, ...)
{
    char field[64];
    va_list ap;
    va_start(ap, fmt);
    size_t k = (size_t)vsnprintf(field, sizeof field, fmt, ap);
    va_end(ap);
    if (n + k > max || k >= sizeof field)
        return n;
    memcpy(ret + n, field, k + 1);
    return n + k;
}

/* In at most max bytes, and room for a zero behind them. */
static void line(char *ret, size_t max, const char *what, const struct progress_at *at)
{
    char a[WORDS_BYTES], b[WORDS_BYTES];
    size_t n = (size_t)snprintf(ret, max + 1, "%s%s%s", what, what[0] ? ": " : "", at->stage);
    if (n > max)
        return;
    if (at->total > 0)
        n = add(ret, max, n, " %d %%", percent(at));
    if (at->total > 0 && !at->share)
        n = add(ret, max, n, " %s/%s", words_short(a, at->done), words_short(b, at->total));
    if (at->tokens_per_s > 0 && !at->share)
        n = add(ret, max, n, " %s t/s", words_short(a, at->tokens_per_s));
    if (at->eta_ms > 0)
        (void)add(ret, max, n, " ETA %s", words_ms(a, at->eta_ms));
}

void progress_line(char *ret, size_t cap, const char *what, const struct progress_at *at)
{
    line(ret, cap - 1, what, at);
}

void progress_bar(char *ret, size_t cap, int width, const char *what,
                  const struct progress_at *at)
{
    char text[256], bar[BAR_MAX + 4] = "";
    size_t max = width > 1 ? (size_t)width - 1 : 0;
    line(text, max < sizeof text ? max : sizeof text - 1, what, at);
    int room = width - (int)strlen(text) - 4;
    if (at->total > 0 && room >= 8) {
        int cells = room < BAR_MAX ? room : BAR_MAX;
        int full = (int)(cells * (at->done < at->total ? at->done / at->total : 1));
        bar[0] = '[';
        memset(bar + 1, '#', (size_t)full);
        memset(bar + 1 + full, '.', (size_t)(cells - full));
        bar[1 + cells] = ']';
        bar[2 + cells] = 0;
    }
    snprintf(ret, cap, "%s%s%s", text, bar[0] ? " " : "", bar);
}

void progress_show(struct progress *p, const struct progress_at *at)
{
    char text[300];
    bool fresh = strcmp(p->stage, at->stage) != 0;
    if (p->quiet)
        return;
    uint64_t now = now_ns();
    if (!p->tty) {
        if (fresh) {
            progress_done(p);
            p->first = at->done;
            p->began_ns = p->drawn_ns = now;
        }
        p->total = at->total;
        p->share = at->share;
        if (now - p->drawn_ns > LINE_AGAIN_MS * 1000000ull) {
            progress_line(text, sizeof text, p->what, at);
            say_err("%s\n", text);
            p->drawn_ns = now;
        }
    } else {
        if (!fresh && now - p->drawn_ns < REDRAW_MS * 1000000ull)
            return;
        p->drawn_ns = now;
        progress_bar(text, sizeof text, p->width ? p->width : 80, p->what, at);
        fputs("\r\033[K", stderr);
        say_err("%s", text);
        fflush(stderr);
        p->shown = true;
    }
    snprintf(p->stage, sizeof p->stage, "%s", at->stage);
}

void progress_clear(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

void progress_stop(struct progress *p)
{
    progress_clear(p);
    p->began_ns = 0;
    p->stage[0] = 0;
}

void progress_done(struct progress *p)
{
    char text[300], b[WORDS_BYTES];
    progress_clear(p);
    uint64_t took = now_ns() - p->began_ns;
    if (p->began_ns && took > LONG_MS * 1000000ull) {
        double s = (double)took / 1e9, rate = (p->total - p->first) / s;
        progress_line(text, sizeof text, p->what,
                      &(struct progress_at){.stage = p->stage,
                                            .done = p->total,
                                            .total = p->total,
                                            .share = p->share,
                                            .tokens_per_s = rate,
                                            .eta_ms = -1});
        say_err("%s, %s\n", text, words_ms(b, s * 1000));
    }
    progress_stop(p);
}
