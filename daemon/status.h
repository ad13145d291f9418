/* status.h - the daemon as it is now, as docs/PROTOCOL.md's STATUS and as Prometheus text.
 *
 * Loop thread only. */
#ifndef DAEMON_STATUS_H
#define DAEMON_STATUS_H
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct daemon;
/* As uid may see it; NULL: no memory. */
cJSON *status_json(struct daemon *d, uint32_t uid);
/* Where the HTTP front listens; reads RUNTIME/http.port when it changed.  "" when nowhere. */
const char *status_http(struct daemon *d);
/* Free and of *ret_bytes bytes; NULL: no memory. */
char *metrics_text(struct daemon *d, uint32_t uid, size_t *ret_bytes);

#endif
