/* log.c - one line to stderr, in one write.
 *
 * Any thread.  A line from outside data may hold anything: what would move a terminal's cursor,
 * turn its reading order or fake a second line is shown as an escape. */
#include "daemon/log.h"
#include "base/clock.h"
#include "base/lograte.h"
#include "base/text.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int log_max = LOG_INFO_;
static bool log_journal;

void log_setup(int level, bool journal)
{
    log_max = level;
    log_journal = journal;
}

static const char *level_word(int level)
{
    return level <= LOG_ERROR_  ? "error"
           : level <= LOG_WARN_ ? "warn "
           : level <= LOG_INFO_ ? "info "
                                : "debug";
}

/* Warnings and errors that peers can cause at will must not fill the disk. */
static bool rate_ok(enum log_level level, const char *fmt, uint32_t *ret_held)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct lograte rate;

    *ret_held = 0;
    if (level > LOG_WARN_)
        return true;
    pthread_mutex_lock(&lock);
    bool ok = lograte_ok(&rate, fmt, now_ns(), ret_held);
    pthread_mutex_unlock(&lock);
    return ok;
}

void log_at(enum log_level level, const char *fmt, ...)
{
    char line[2048], shown[4096];
    int n;
    uint32_t held;
    va_list ap;

    if ((int)level > log_max || !rate_ok(level, fmt, &held))
        return;
    if (log_journal) {
        n = snprintf(line, sizeof line, "<%d>", (int)level);
    } else {
        uint64_t t = wall_ns();
        time_t s = (time_t)(t / 1000000000u);
        struct tm tm;

        localtime_r(&s, &tm);
        n = (int)strftime(line, sizeof line, "%F %T", &tm);
        n += snprintf(line + n, sizeof line - (size_t)n, ".%03u %s ",
                      (unsigned)(t / 1000000u % 1000u), level_word(level));
    }
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (m < 0)
        return;
    size_t k = strlen(line);
    if (held)
        snprintf(line + k, sizeof line - k, " (and %u more of these)", held);
    size_t end = text_show(shown, sizeof shown - 1, line, strlen(line), false);
    shown[end++] = '\n';
    (void)!write(STDERR_FILENO, shown, end);
}
