/* httproute.h - which address is answered by what: the dialects, /health and /metrics. */
#ifndef FRONT_HTTPROUTE_H
#define FRONT_HTTPROUTE_H
#include "daemon/front/http.h"

/* Answers x sooner or later. path: without a query, still escaped; not kept. */
void httproute(struct hx *x, const char *path);

#endif
