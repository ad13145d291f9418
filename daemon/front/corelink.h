/* corelink.h - the front's side of the link to hearthd.
 *
 * Owns one AF_UNIX stream.  Requests get new ids on it and are kept as bytes until they are
 * answered; when the link breaks they are sent again on the next one (every operation is
 * idempotent).  While no core is there a request waits hold_ms and is then answered
 * UNAVAILABLE core_unavailable; so it is when the link stands and nothing comes
 * (a core that hangs: it is sent a PING after a while).  Requests need not go out in their order:
 * small ones do not wait for large ones, nor one owner's for another's.  Knows no event loop: the face polls corelink_fd() for
 * corelink_events() and calls corelink_ready(); corelink_tick() at the latest after
 * corelink_wait_ms().  One thread. */
#ifndef FRONT_CORELINK_H
#define FRONT_CORELINK_H
#include "base/err.h"
#include "proto.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct corelink;

struct corelink_opts {
    const char *path;            /* core.sock */
    const char *hello;           /* HELLO's JSON, sent first on every connection; copied */
    uint32_t hold_ms;            /* how long a request waits for a core that is not there */
    bool exit_with_core;         /* corelink_over() once the link, after it stood, closes */
    void (*changed)(void *user); /* the fd or the events wanted may differ now; NULL ok */
    void *user;
};
struct corelink_reply { /* valid during the callback */
    uint32_t status;
    uint8_t type;
    const char *json; /* not terminated */
    size_t json_len;
    const uint8_t *tail;
    size_t tail_len;
};
typedef void corelink_fn(void *user, const struct corelink_reply *r);

enum {
    CORELINK_ASKS_MAX = 1000,       /* requests open at a time; hearthd takes 1024 of a peer */
    CORELINK_CANCELS_MAX = 4000,    /* CANCELs on top of them, which wait for their turn */
    CORELINK_BYTES_MAX = 256 << 20, /* bytes of requests; of one owner alone half (share.h) */
};

int corelink_open(struct corelink **ret, const struct corelink_opts *o, struct errbuf *eb);
void corelink_close(struct corelink *l); /* NULL ok; open requests are dropped unanswered */

/* Copies json and tail.  fn is called once, never from within corelink_send.
 * > 0 id; -EAGAIN: a bound above is reached; -EMSGSIZE: longer than a frame may be; -ENOMEM. */
int64_t corelink_send(struct corelink *l, uint8_t type, const void *json, size_t json_len,
                      const void *tail, size_t tail_len, corelink_fn *fn, void *user);
/* The same for the holder of an API key: as is 32 hex digits (keyfile.h), or NULL. */
int64_t corelink_send_as(struct corelink *l, const char *as, uint8_t type, const void *json,
                         size_t json_len, const void *tail, size_t tail_len, corelink_fn *fn,
                         void *user);
/* The asker has gone: fn will not be called. An unknown id is ignored.  True: it was not sent, and
 * will not be. */
bool corelink_forget(struct corelink *l, int64_t id);

int corelink_fd(const struct corelink *l);       /* -1: not connected */
short corelink_events(const struct corelink *l); /* POLLIN, POLLOUT */
void corelink_ready(struct corelink *l, short revents);
int corelink_wait_ms(const struct corelink *l); /* until corelink_tick must be called; -1 */
/* For a link that lasts as long as its core (exit_with_core): waits until it stands or is over.
 * What follows may give up the right to make another. */
void corelink_wait_first(struct corelink *l, const volatile int *stop);
void corelink_tick(struct corelink *l);
bool corelink_up(const struct corelink *l);
bool corelink_over(const struct corelink *l); /* exit_with_core, and the core has gone */
/* How often a link has been made: a stream notices by it that its core may be another one. */
uint32_t corelink_generation(const struct corelink *l);
uint32_t corelink_asks(const struct corelink *l);
uint64_t corelink_bytes(const struct corelink *l,
                        const char *as); /* of this owner's requests */

#endif
