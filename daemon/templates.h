/* templates.h - chat templates run in a process of their own.
 *
 * A template comes with a model file, from anybody.  Its interpreter is bounded (chat_jinja.h),
 * and should a fault hide in it all the same, it costs the request that met it: this process
 * has no models, no store, no sockets and no right to open anything.  It is this same program,
 * started again when a rendering is asked for and none runs; it ends with the daemon.
 *
 * One rendering at a time, from whatever thread; the caller waits. */
#ifndef DAEMON_TEMPLATES_H
#define DAEMON_TEMPLATES_H
#include "base/err.h"
#include <stdint.h>

/* Makes it the engine's chat host.  Loop thread, before any model is loaded. */
int templates_open(void);
void templates_close(void);    /* no rendering is under way */
uint64_t templates_lost(void); /* renderings that a fault or a time-out ended; any thread */

/* The process itself: renders what comes through fd until it is closed.  Never returns. */
_Noreturn void templates_child(int fd);
#define TEMPLATES_ARG "--render-templates" /* its first argument; the second is fd */

#endif
