/* warn.c - standing warnings: said once in the log, kept for status. */
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void daemon_warn(struct daemon *d, const char *fmt, ...)
{
    const uint32_t max = sizeof d->warnings / sizeof *d->warnings;
    char words[sizeof *d->warnings];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    for (uint32_t i = 0; i < d->n_warnings; i++)
        if (strcmp(d->warnings[i], words) == 0)
            return;
    log_at(LOG_WARN_, "%s", words);
    if (d->n_warnings == max) { /* the oldest makes room */
        memmove(d->warnings[0], d->warnings[1], sizeof *d->warnings * (max - 1));
        d->n_warnings--;
    }
    memcpy(d->warnings[d->n_warnings++], words, sizeof words);
}

void daemon_unwarn(struct daemon *d, const char *begin)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->n_warnings; i++)
        if (strncmp(d->warnings[i], begin, strlen(begin)) != 0)
            memmove(d->warnings[n++], d->warnings[i], sizeof *d->warnings);
    d->n_warnings = n;
}

const char *daemon_why(struct daemon *d, uint32_t uid, int res, char ret[DAEMON_WHY])
{
    bool stopped = res > -4096 && kvs_stopped(d->store, ret, DAEMON_WHY);

    if (!stopped)
        snprintf(ret, DAEMON_WHY, "%s", err_str(res));
    else if (!daemon_trusts(d, uid))
        snprintf(ret, DAEMON_WHY, "who runs the daemon sees why in its status");
    return ret;
}
