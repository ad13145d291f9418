/* httpconn.h - a connection of the HTTP face from within: what http.c and hx.c share.
 *
 * These are the files that know libevent.  http.c owns connections and their states; hx.c puts
 * replies into their output, and ends exchanges.  One thread. */
#ifndef FRONT_HTTPCONN_H
#define FRONT_HTTPCONN_H
#include "daemon/front/http.h"
#include "daemon/front/httpin.h"
#include "daemon/front/keyfile.h"
#include "daemon/front/origin.h"
#include "daemon/front/peers.h"
#include <event2/bufferevent.h>

enum conn_state {
    CS_HEAD, /* between requests, or within one's headers */
    CS_BODY,
    CS_BUSY,   /* an exchange is open */
    CS_ENDING, /* the reply goes out; then the next request, or the end */
    CS_LINGER, /* the reply is out; what still comes is thrown away */
};

struct server {
    struct event_base *base;
    struct corelink *core;
    struct event *core_ev, *core_timer, *tick, *accept_ev, *accept6_ev, *accept_again;
    int core_fd; /* what core_ev watches; -1: nothing */
    short core_events;
    struct conn *newest, *oldest; /* by the time of their last request */
    uint32_t n_conns, conns_max, n_foreign, foreign_max;
    struct peers peers;
    char addr[64]; /* what we listen on */
    uint16_t port;
    uint32_t uid;
    struct keyfile keys;
    struct origins origins;
    const volatile int *stop;
};
struct hx {
    struct conn *c;
    const struct hx_ops *ops;
    void *user;
    char extra[1024]; /* header lines of this reply */
    bool stream, chunked;
};
struct conn {
    struct server *s;
    struct conn *older, *newer;
    struct bufferevent *b;
    uint32_t uid;      /* of the other end; PEER_UID_NONE: not known */
    struct peer *peer; /* who asks */
    bool trusted;      /* our own uid, or has shown a key */
    bool open;         /* x is an exchange */
    bool cors;         /* the page that asks may read the answer */
    bool reuse;        /* another request may follow */
    uint8_t state;     /* enum conn_state */
    size_t seen;       /* of the head's bytes */
    uint64_t since_ns; /* of this state; of the request, from its first byte to the last */
    struct httpin_head head;
    struct httpin_chunks chunks;
    uint64_t body_left;
    struct evbuffer *body;
    struct hx x;
};

static inline struct evbuffer *conn_output(struct conn *c)
{
    return bufferevent_get_output(c->b);
}
/* Its clock begins anew. */
void conn_state(struct conn *c, enum conn_state state);
/* Opens the exchange of this connection.  last: no other request follows on it. */
struct hx *hx_open(struct conn *c, bool last);

#endif
