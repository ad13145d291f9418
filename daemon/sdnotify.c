/* sdnotify.c - see sdnotify.h. */
#include "daemon/sdnotify.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/loop.h"
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct notify {
    int fd; /* -1: no manager */
    struct sockaddr_un to;
    socklen_t to_bytes;
    bool ready;
    uint64_t every_ns; /* 0: no watchdog */
    struct loop_timer feed;
    bool (*healthy)(struct daemon *d);
    struct daemon *d;
};

static void say(struct notify *n, const char *words)
{
    if (n && n->fd >= 0 &&
        sendto(n->fd, words, strlen(words), MSG_NOSIGNAL | MSG_DONTWAIT,
               (const struct sockaddr *)&n->to, n->to_bytes) < 0)
        log_at(LOG_DEBUG_, "notify socket: %s", strerror(errno));
}

static void notify_feed(struct loop_timer *t)
{
    struct notify *n = t->user;

    if (!n->healthy || n->healthy(n->d))
        say(n, "WATCHDOG=1");
    loop_timer_set(n->d->loop, t, now_ns() + n->every_ns);
}

int notify_open(struct daemon *d, bool (*healthy)(struct daemon *d))
{
    const struct conf *c = d->conf;
    struct notify *n = calloc(1, sizeof *n);

    if (!n)
        return -ENOMEM;
    n->fd = -1;
    n->d = d;
    n->healthy = healthy;
    n->feed = (struct loop_timer){.fire = notify_feed, .user = n};
    d->notify = n;
    if (!c->notify_socket)
        return 0;
    size_t len = strlen(c->notify_socket);
    if (len >= sizeof n->to.sun_path ||
        (c->notify_socket[0] != '/' && c->notify_socket[0] != '@')) {
        log_at(LOG_WARN_, "NOTIFY_SOCKET \"%s\" is no socket address, going on without it",
               c->notify_socket);
        return 0;
    }
    n->to.sun_family = AF_UNIX;
    memcpy(n->to.sun_path, c->notify_socket, len);
    if (n->to.sun_path[0] == '@') /* abstract */
        n->to.sun_path[0] = 0;
    n->to_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (n->fd >= 0 && c->watchdog_us) {
        /* Twice per period, as the manager's manual advises. */
        n->every_ns = c->watchdog_us * 1000 / 2;
        loop_timer_set(d->loop, &n->feed, now_ns());
    }
    return 0;
}

void notify_close(struct daemon *d)
{
    struct notify *n = d->notify;

    if (!n)
        return;
    loop_timer_cancel(d->loop, &n->feed);
    if (n->fd >= 0)
        close(n->fd);
    free(n);
    d->notify = NULL;
}

void notify_ready(struct daemon *d)
{
    if (!d->notify || d->notify->ready)
        return;
    d->notify->ready = true;
    say(d->notify, "READY=1");
}

void notify_status(struct daemon *d, const char *fmt, ...)
{
    char words[256] = "STATUS=";
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words + 7, sizeof words - 7, fmt, ap);
    va_end(ap);
    for (char *p = words; *p; p++)
        if (*p == '\n')
            *p = ' ';
    say(d->notify, words);
}

void notify_extend(struct daemon *d, unsigned seconds)
{
    char words[64];

    snprintf(words, sizeof words, "EXTEND_TIMEOUT_USEC=%llu", seconds * 1000000ull);
    say(d->notify, words);
}

void notify_stopping(struct daemon *d)
{
    say(d->notify, "STOPPING=1");
}
