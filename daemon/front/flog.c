/* flog.c - log_at() of hearth-front: one line to stderr, with a priority under systemd. */
#include "daemon/front/flog.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/lograte.h"
#include "base/text.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *face = "front";
static bool journal;
static enum log_level most = LOG_INFO_;

void flog_init(const char *name, bool to_journal, enum log_level level)
{
    face = name;
    journal = to_journal;
    most = level;
}

static volatile sig_atomic_t hup;

void flog_on_hup(int sig)
{
    (void)sig;
    hup = 1;
}
void flog_hup_said(void)
{
    if (!hup)
        return;
    hup = 0;
    log_at(LOG_WARN_, "SIGHUP: keys and settings are read at start only; restart for new ones");
}

void log_at(enum log_level level, const char *fmt, ...)
{
    static struct lograte rate;
    uint32_t held = 0;
    if (level > most || (level <= LOG_WARN_ && !lograte_ok(&rate, fmt, now_ns(), &held)))
        return;
    char line[1200], shown[2400];
    int at;
    if (journal) {
        at = snprintf(line, sizeof line, "<%d>", level);
    } else { /* as hearthd's lines: both may share a terminal */
        static const char *const word[] = {"error", "warn ", "     ", "info ", "debug"};
        uint64_t now = wall_ns();
        time_t s = (time_t)(now / 1000000000);
        struct tm tm;
        at = (int)strftime(line, sizeof line, "%F %T", localtime_r(&s, &tm));
        at += snprintf(line + at, sizeof line - (size_t)at, ".%03u %s ",
                       (unsigned)(now / 1000000 % 1000), word[level - LOG_ERROR_]);
    }
    at += snprintf(line + at, sizeof line - (size_t)at, "hearth-front %s: ", face);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + at, sizeof line - (size_t)at - 1, fmt, ap);
    va_end(ap);
    at = (int)strlen(line);
    if (held)
        snprintf(line + at, sizeof line - (size_t)at - 1, " (and %u more of these)", held);
    /* What a peer sent may be in it: nothing that steers a terminal reaches one. */
    size_t n = text_show(shown, sizeof shown - 1, line, strlen(line), false);
    shown[n++] = '\n';
    (void)fwrite(shown, 1, n, stderr);
}
