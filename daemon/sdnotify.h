/* sdnotify.h - what the service manager is told: READY, STATUS, WATCHDOG, STOPPING.
 *
 * The datagram protocol itself (a few words to $NOTIFY_SOCKET), without libsystemd.  Without
 * a manager every call does nothing.  The watchdog is fed from a timer of the loop, so a
 * stuck loop is noticed; it is also held back while health() says no.  Loop thread only. */
#ifndef DAEMON_SDNOTIFY_H
#define DAEMON_SDNOTIFY_H
#include <stdbool.h>

struct daemon;
struct notify;

/* Sets d->notify. healthy may be NULL. */
int notify_open(struct daemon *d, bool (*healthy)(struct daemon *d));
void notify_close(struct daemon *d);
void notify_ready(struct daemon *d); /* once; later calls do nothing */
__attribute__((format(printf, 2, 3))) void notify_status(struct daemon *d, const char *fmt,
                                                         ...);
/* Asks for this much more time from now, in start-up and in stopping. */
void notify_extend(struct daemon *d, unsigned seconds);
void notify_stopping(struct daemon *d);

#endif
