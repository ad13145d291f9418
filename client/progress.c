/* progress.c - see progress.h. */
#include "client/progress.h"
#include "base/clock.h"
#include "client/say.h"
#include "client/words.h"
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

void progress_line(char *ret, size_t cap, const char *what, const struct progress_at *at)
{
    char a[WORDS_BYTES], b[WORDS_BYTES], c[WORDS_BYTES], d[WORDS_BYTES];
    int n = snprintf(ret, cap, "%s%s%s", what, what[0] ? ": " : "", at->stage);
    if (at->total > 0)
        n += snprintf(ret + n, cap - (size_t)n, " %d %%", percent(at));
    if (at->total > 0 && !at->share)
        n += snprintf(ret + n, cap - (size_t)n, " %s/%s", words_short(a, at->done),
                      words_short(b, at->total));
    if (at->tokens_per_s > 0 && !at->share)
        n += snprintf(ret + n, cap - (size_t)n, " %s t/s", words_short(c, at->tokens_per_s));
    if (at->eta_ms > 0)
        n += snprintf(ret + n, cap - (size_t)n, " ETA %s", words_ms(d, at->eta_ms));
    (void)n;
}

void progress_bar(char *ret, size_t cap, int width, const char *what,
                  const struct progress_at *at)
{
    char line[256], bar[BAR_MAX + 4] = "";
    progress_line(line, sizeof line, what, at);
    int len = (int)strlen(line), room = width - len - 4;
    if (at->total > 0 && room >= 8) {
        int cells = room < BAR_MAX ? room : BAR_MAX;
        int full = (int)(cells * (at->done < at->total ? at->done / at->total : 1));
        bar[0] = '[';
        memset(bar + 1, '#', (size_t)full);
        memset(bar + 1 + full, '.', (size_t)(cells - full));
        bar[1 + cells] = ']';
        bar[2 + cells] = 0;
    }
    snprintf(ret, cap, "%.*s%s%s", width - 1 > 0 ? width - 1 : 0, line, bar[0] ? " " : "", bar);
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
