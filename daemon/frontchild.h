/* frontchild.h - hearth-front processes that this daemon starts and keeps alive.
 *
 * Two of them, one for nanomsg and one for HTTP, so that either may die without the other.
 * A dead one is back at once: a front holds nothing that matters, clients resend.  Below
 * FRONT_DEATHS_MAX deaths a second there is no back-off at all; above it, one second.  They
 * end with this process (PR_SET_PDEATHSIG, and the link they talk through closes).
 * Loop thread only. */
#ifndef DAEMON_FRONTCHILD_H
#define DAEMON_FRONTCHILD_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct conf;
struct daemon;
enum { FRONT_DEATHS_MAX = 100 };

/* Before anything else of a start, and before there are threads: has another user the port for
 * HTTP?  -EADDRINUSE with words that name him: clients that trust the number would talk to him. */
int fronts_check(const struct conf *c, struct errbuf *eb);
/* Sets d->fronts and starts them; core.sock must be bound.  A program that cannot be found is
 * a standing warning, not an error: core.sock serves without it. */
int fronts_open(struct daemon *d);
/* Ends them: SIGTERM, and after a moment SIGKILL. */
void fronts_close(struct daemon *d);
void fronts_reap(struct daemon *d); /* on SIGCHLD */
/* Restarts since start; for metrics. */
/* Does a front of ours serve HTTP, or will it?  false: not wanted, or given up. */
bool fronts_http(const struct daemon *d);
uint64_t fronts_restarts(const struct daemon *d);

#endif
