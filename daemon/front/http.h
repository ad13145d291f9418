/* http.h - the HTTP face: a small server on a loopback port, dialects on top of it.
 *
 * Everything is bounded: connections, bytes of headers and bodies, open exchanges, the time a
 * request may take to arrive; and shared among those who ask (peers.h), so that one at his limit
 * is told so and the others are served.  At the bound of connections the asker's oldest silent one
 * gives way; of those who have shown no key, also one that is not silent.
 *
 * Only http.c and hx.c know libevent; dialects see exchanges (struct hx): one request
 * that gets one reply, whole or as a stream of server-sent events.  One thread. */
#ifndef FRONT_HTTP_H
#define FRONT_HTTP_H
#include "base/bounds.h"
#include "base/err.h"
#include "daemon/front/corelink.h"
#include <stdbool.h>
#include <stddef.h>

struct http_opts {
    const char *addr; /* "127.0.0.1:8765"; NULL with listen_fd */
    bool any_port;    /* take the next free one also when another user has addr's port */
    int listen_fd;    /* a socket systemd has bound for us; -1: bind addr */
    const char *api_key_file; /* one key a line; NULL: none */
    const char *origins; /* web pages that may ask (origin.h); NULL: this machine's alone */
    const char *runtime; /* http.port is written there; NULL: nowhere */
    struct corelink_opts core;
};
/* Serves until *stop or the core is gone for good. 0; < 0 with words. Blocks. */
int http_run(const struct http_opts *o, const volatile int *stop, struct errbuf *eb);

/* --- an exchange, as a dialect sees it -------------------------------------------------- */
struct hx;
struct hx_ops {
    void (*gone)(void *user); /* the client has left: no hx_ call may follow */
    void (*tick)(void *user); /* four times a second while the exchange is open; NULL ok */
    /* Who asks the core one question: after this long gone() is called, and the client is told
     * that hearthd does not answer.  0: an answer, which takes the time it takes. */
    uint32_t answer_ms;
};
void hx_own(struct hx *x, const struct hx_ops *ops, void *user);
struct corelink *hx_core(struct hx *x);
/* For whom, as corelink_send_as wants it: the holder of a key, or NULL. */
const char *hx_as(const struct hx *x);
/* What was asked, until the reply. header NULL: not sent. The body is there while the request is
 * handed out, not later. */
const char *hx_method(const struct hx *x);
const char *hx_header(const struct hx *x, const char *name);
/* The lines of a list, one after the other: *at is 0 at first. */
const char *hx_header_next(const struct hx *x, const char *name, uint32_t *at);
const char *hx_body(struct hx *x, size_t *ret_n);
/* One more header line of the reply that follows; short ones only. */
void hx_add_header(struct hx *x, const char *name, const char *value);
/* Whole reply; ends the exchange. retry_after_ms > 0: Retry-After. */
void hx_reply(struct hx *x, int code, const char *type, const void *p, size_t n,
              uint32_t retry_after_ms);
/* Server-sent events: begin, write..., end (ends the exchange). */
void hx_stream_begin(struct hx *x);
void hx_stream_write(struct hx *x, const void *p, size_t n);
void hx_stream_end(struct hx *x);
size_t hx_backlog(const struct hx *x); /* bytes the client has not taken yet */

enum {
    HTTP_BODY_MAX = JSON_BYTES_MAX, /* more would be read to be refused by hearthd */
    HTTP_BODIES_MAX = 128 << 20,    /* of all requests that are being read; of one alone half */
    HTTP_CONNS_MAX = 4096,          /* fewer where there are fewer descriptors */
    HTTP_CONNS_FOREIGN_MAX =
        512,                  /* of them for others than our own user; of one key alone half */
    HTTP_CONNS_PEER_MAX = 64, /* of them for one user or machine that has shown no key */
    HTTP_OPEN_MAX = 512,      /* exchanges at a time; of one alone half */
    HTTP_BACKLOG_MAX = 256 << 10, /* then a stream waits for its reader */
    HTTP_KEEPALIVE_MS = 5000,     /* silence before a comment line goes out */
    HTTP_IDLE_MS = 120000,        /* a silent connection is closed */
    HTTP_HEAD_MS = 10000,         /* from the first byte of the headers to their last */
    HTTP_REQUEST_MS = 60000,      /* the same with the body */
    HTTP_STRANGER_MS = 5000,      /* for one that has not yet shown who it is: all of that */
    HTTP_WRITE_S = 60,            /* a client that takes nothing of its reply is gone */
    HTTP_HEALTH_MS = 1250,        /* hearthd's time to answer /health and /metrics */
    HTTP_ANSWER_MS = 4500,        /* and any other question: it may be starting again */
    HTTP_ADMIT_MS = 2000, /* how long headers wait for START's answer, to carry its code */
};

#endif
