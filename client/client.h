/* client.h - libhearth: talk to a hearth daemon from C.
 *
 * One hearth_conn carries one request at a time (a REQ socket, or a unix stream); open one
 * for control and one per stream.  Not shared between threads.  JSON in, JSON out: the
 * members are those of docs/PROTOCOL.md.  Every call resends by itself while the daemon
 * restarts, until its deadline; operations are idempotent, so that is harmless.
 * Installed: #include <hearth/client.h>, cc prog.c $(pkg-config --cflags --libs hearth). */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H
#include "base/err.h"
#include "proto.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hearth_conn;

struct hearth_reply {
    uint32_t status; /* enum hrt_status */
    char *json;      /* terminated; owned by the reply */
    size_t json_bytes;
    uint8_t *tail;
    size_t tail_bytes;
};
void hearth_reply_fini(struct hearth_reply *r);

/* url: "ipc://PATH" (nanomsg) or "unix://PATH" (straight to the core).  Does not wait for the
 * daemon.  -EINVAL (not such a URL, path too long), -ENOMEM. */
int hearth_connect(struct hearth_conn **ret, const char *url, struct errbuf *eb);
void hearth_close(struct hearth_conn *c); /* NULL ok */
/* Has it ever got through to somebody who listens? A call that fails then says that he ended. */
bool hearth_reached(const struct hearth_conn *c);
/* The default: $HEARTH_SOCKET is the caller's business; this looks for the user's
 * hearth.ipc, then /run/hearth/core.sock.  -ENOENT: neither is there, ret is the user's, for
 * a message. */
int hearth_default_url(char *ret, size_t cap);

/* Sends one frame and waits for its reply.  0 whatever the reply's status; -ETIMEDOUT,
 * -ECONNREFUSED (nobody listens), -EINVAL (a socket of the url's other kind is there), -EACCES (this user may not reach the socket), -EPERM (others than root and this user could have put the
 * socket there: nothing was sent), E_CORRUPT, E_LIMIT (longer than a frame may be), -EINTR (a
 * signal handler ran: call again, or do something else first).  json may be NULL ({}). */
int hearth_call(struct hearth_conn *c, enum hrt_type type, const char *json, const void *tail,
                size_t tail_bytes, uint32_t timeout_ms, struct hearth_reply *ret,
                struct errbuf *eb);
/* A new 128-bit id as 32 hex digits, terminated. */
void hearth_new_id(char ret[33]);

#endif
