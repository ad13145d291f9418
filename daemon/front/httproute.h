/* httproute.h - which address is answered by what: the dialects, /health and /metrics. */
#ifndef FRONT_HTTPROUTE_H
#define FRONT_HTTPROUTE_H
#include "daemon/front/http.h"

/* Answers x sooner or later. path: without a query, still escaped; not kept. */
void httproute(struct hx *x, const char *path);

/* Tells who has just connected, and whose conns connections are all in use, that no more are taken.
 * user: of a user of this machine; else of an address. */
void httproute_full(int fd, uint32_t conns, bool user);

#endif
