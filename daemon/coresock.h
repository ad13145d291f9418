/* coresock.h - the listening AF_UNIX stream socket of the daemon: made, or handed over.
 *
 * A socket at conf->core_path that nobody answers on is replaced, anything else there is left
 * alone and refused.  Loop thread only. */
#ifndef DAEMON_CORESOCK_H
#define DAEMON_CORESOCK_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct conf;
struct coresock { /* caller's memory */
    int fd;       /* -1: none; listens, nonblocking */
    bool bound;   /* the path is ours to remove */
    dev_t dev;
    ino_t ino;
    uint64_t refused_log_ns; /* coresock_refuse's own */
    uint32_t refused;
};

/* Takes the socket the service manager handed over, or binds the path.  -EADDRINUSE: another
 * hearthd runs there, eb says its pid.  Close it after a failure, too. */
int coresock_open(struct coresock *k, const struct conf *cf, struct errbuf *eb);
/* Removes the path only if what lies there is still what we made. */
void coresock_close(struct coresock *k, const struct conf *cf);
/* Tells a connection that is not taken why, in a reply without id: own of the all that are open
 * are its user's. */
void coresock_refuse(struct coresock *k, int fd, uint32_t uid, uint32_t own, uint32_t all);

#endif
