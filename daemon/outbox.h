/* outbox.h - batches on their way to the store, kept until they are there.
 *
 * Everything that changes sessions goes through here.  Each owner's batches become durable in the
 * order they were put.  One that finds no room (a full disk, the disk limit, no memory) is kept
 * with all that came behind it, and tried again: with the owner's next batch, when something was
 * removed, and by itself, at growing intervals of up to some seconds.  So the store never holds a
 * later batch without the earlier ones, and nothing is given up that is in memory alone.
 *
 * Loop thread only.  A put batch and all it points at belong to the outbox until done(). */
#ifndef DAEMON_OUTBOX_H
#define DAEMON_OUTBOX_H
#include "kvstore/kvstore.h"
#include <stdbool.h>

struct daemon;
struct outbox;
struct sess;

enum out_kind {
    OUT_KEPT,  /* tried until it is written */
    OUT_ONCE,  /* fails when it, or what its owner has before it, finds no room */
    OUT_FIRST, /* makes room: it does not wait for what does not find any; fails at once */
};
struct out {
    struct kvs_batch b; /* n_rec; the rest is the outbox's */
    struct kvs_rec *rec;
    uint8_t kind;
    uint32_t owner;
    struct kvs_id session;
    struct kvs_session *place; /* its record among rec, or NULL */
    /* OUT_KEPT: it found no room, and stays here.  Once, before done. */
    void (*refused)(struct out *o, int res);
    /* b.res 0: durable; else it never will be, -ESTALE: because its session was removed.  o is the
     * caller's again.  It may be called inside outbox_put. */
    void (*done)(struct out *o);
    /* the outbox's */
    struct daemon *d;
    struct out *next, *prev;
    uint64_t bytes;
    bool in_flight, said, renew;
};

int outbox_open(struct daemon *d);
/* The store's threads are gone: what is still here is lost, and the log says whose. */
void outbox_close(struct daemon *d);
void outbox_put(struct daemon *d, struct out *o);
/* Half a second has passed. */
void outbox_tick(struct daemon *d);
/* The daemon stops: tries all that waits, at once.  true: nothing is in flight (any more). */
bool outbox_stop(struct daemon *d);
/* So much of his waits for room that he should begin nothing: users, and a user's keys, share what
 * may wait (share.h). */
bool outbox_full(const struct daemon *d, uint32_t owner);
int outbox_why(
    const struct daemon *d); /* what the store said to the newest of it; 0: nothing waits */
bool outbox_has(const struct sess *s); /* anything of s, in flight included */
bool outbox_waits(const struct daemon *d, uint32_t owner); /* does any of his wait for room? */
/* s is what it was before a change that failed: so say those that come behind it. */
void outbox_renew(struct daemon *d, const struct sess *s);
/* The session was removed from the store, and is forgotten: nothing here may bring it back. */
void outbox_gone(struct daemon *d, uint32_t owner, const struct kvs_id *session);
/* kvs_hold for every branch that is named here. */
void outbox_hold(struct daemon *d);
/* Whether turns are in memory alone: words for uid, with the sessions that are his by name. */
bool outbox_words(struct daemon *d, uint32_t uid, char *ret, size_t cap);

#endif
