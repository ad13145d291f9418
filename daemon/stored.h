/* stored.h - the two threads of the store: io and commit.
 *
 * Bodies only: each calls the store's own round until told to stop (kvstore.h says which
 * thread owns what), and the loop gets completions through kvs_event_fd(). */
#ifndef DAEMON_STORED_H
#define DAEMON_STORED_H
#include "base/err.h"

struct kvstore;
struct loop;
struct stored;

/* said() runs on the loop thread with each thing the store has to say (kind: enum kvs_note),
 * also what happened before; NULL: nobody listens. */
int stored_open(struct stored **ret, struct kvstore *s, struct loop *l,
                void (*said)(void *user, int kind, const char *words), void *user);
/* Waits up to wait_ns for what is in flight, then stops and joins both.  NULL ok. */
void stored_close(struct stored *d, unsigned long long wait_ns);

#endif
