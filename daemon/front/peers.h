/* peers.h - who asks over HTTP, and what each has of what is bounded.
 *
 * A peer is the holder of one API key, or our own user without one; and, for as long as no key was
 * shown, another user of this machine (his uid) or another machine (its address; of IPv6 the first
 * 64 bits, which are one network's).  Each connection has one, and it is there for as long as
 * connections have it.  Bounds are shared by share.h's rule: all who may ask are one user's, our own, so
 * there is one level.  One thread. */
#ifndef FRONT_PEERS_H
#define FRONT_PEERS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { PEER_UID_NONE = -1 }; /* not of this machine, or not known */

struct peer {
    struct peer *next;
    const char
        *as;      /* the key's holder (keyfile.h), whoever connected; NULL: no key was shown */
    uint32_t uid; /* without a key; PEER_UID_NONE: addr says who */
    uint8_t addr[16];
    uint32_t conns, open; /* connections; exchanges */
    uint64_t body_bytes;  /* of requests that are not whole yet */
};
struct peers { /* zeroed */
    struct peer *first;
    uint32_t keyed; /* connections of all holders of keys */
    uint32_t open;
    uint64_t body_bytes;
};

/* For one connection more; addr: of its other end, looked at when nothing else is known.  NULL: no
 * memory. */
struct peer *peer_take(struct peers *s, const char *as, uint32_t uid,
                       const struct sockaddr_storage *addr);
void peer_drop(struct peers *s, struct peer *p);
void peer_open(struct peers *s, struct peer *p, bool open); /* an exchange begins, or ends */
void peer_body(struct peers *s, struct peer *p, int64_t bytes);
/* n bytes more of a body that has `have`; one exchange more.  0: there is room; else the status to
 * refuse it with, and words. */
int peer_no_body(const struct peers *s, const struct peer *p, size_t have, size_t n,
                 char words[200]);
int peer_no_open(const struct peers *s, const struct peer *p, char words[200]);
/* Of those who have shown no key and are not uid, the one with the most connections; or NULL. */
const struct peer *peer_crowd(const struct peers *s, uint32_t uid);

#endif
