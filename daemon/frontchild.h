/* frontchild.h - hearth-front processes that this daemon starts and keeps alive.
 *
 * Two of them, one for nanomsg and one for HTTP, so that either may die without the other.
 * A dead one is back at once: a front holds nothing that matters, clients resend.  Below
 * FRONT_DEATHS_MAX deaths a second there is no back-off at all.  Above it, and for one that ends
 * itself because it cannot go on, a second, then twice as long each time: the reason, which the front
 * says on its standard output, is logged once and stands in the status until one lives.  They
 * end with this process (PR_SET_PDEATHSIG, and the link they talk through closes).
 * Loop thread only. */
#ifndef DAEMON_FRONTCHILD_H
#define DAEMON_FRONTCHILD_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct conf;
struct daemon;
enum { FRONT_DEATHS_MAX = 100, FRONT_REST_MAX_S = 30 };

/* Is what the front is given (--api-key-file, --http-origin) as it wants it?  -EINVAL with its words. */
int fronts_check_given(const struct conf *c, struct errbuf *eb);
/* Before anything else of a start, and before there are threads: has another user the port for
 * HTTP?  -EADDRINUSE with words that name him: clients that trust the number would talk to him. */
int fronts_check(const struct conf *c, struct errbuf *eb);
/* Sets d->fronts and starts them; core.sock must be bound.  A program that cannot be found is
 * a standing warning, not an error: core.sock serves without it. */
int fronts_open(struct daemon *d);
/* Ends them: SIGTERM, and after a moment SIGKILL. */
void fronts_close(struct daemon *d);
void fronts_reap(struct daemon *d); /* on SIGCHLD */
/* Does a front of ours serve HTTP, or will it?  false: not wanted, or given up. */
bool fronts_http(const struct daemon *d);
/* Why the last one of HTTP ended, while that lasts; "": it does not. */
const char *fronts_http_error(const struct daemon *d);
/* Restarts since start; for metrics. */
uint64_t fronts_restarts(const struct daemon *d);

#endif
