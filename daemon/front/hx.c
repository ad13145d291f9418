/* hx.c - exchanges: what a dialect is told of a request, and its reply on the way out (http.h). */
#include "base/clock.h"
#include "daemon/front/httpconn.h"
#include <event2/buffer.h>
#include <string.h>
#include <time.h>

struct hx *hx_open(struct conn *c, bool last)
{
    c->x = (struct hx){.c = c};
    c->open = true;
    c->reuse = !last && c->head.keep;
    peer_open(&c->s->peers, c->peer, true);
    conn_state(c, CS_BUSY);
    return &c->x;
}

/* The reply is on its way; what follows on this connection is looked at when the client has
 * taken it: who sends requests and reads nothing gets no further. */
static void hx_close(struct hx *x)
{
    struct conn *c = x->c;
    c->open = false;
    peer_open(&c->s->peers, c->peer, false);
    httpin_fini(&c->head);
    conn_state(c, CS_ENDING);
    c->seen = 0;
}

void hx_own(struct hx *x, const struct hx_ops *ops, void *user)
{
    x->ops = ops;
    x->user = user;
}
const char *hx_as(const struct hx *x)
{
    return x->c->peer->as;
}
struct corelink *hx_core(struct hx *x)
{
    return x->c->s->core;
}
const char *hx_method(const struct hx *x)
{
    return x->c->head.method;
}
const char *hx_header(const struct hx *x, const char *name)
{
    return httpin_field(&x->c->head, name);
}
const char *hx_header_next(const struct hx *x, const char *name, uint32_t *at)
{
    return httpin_next(&x->c->head, name, at);
}
const char *hx_body(struct hx *x, size_t *ret_n)
{
    *ret_n = evbuffer_get_length(x->c->body);
    const char *p = *ret_n ? (const char *)evbuffer_pullup(x->c->body, -1) : "";
    if (!p)
        *ret_n = 0;
    return p;
}

void hx_add_header(struct hx *x, const char *name, const char *value)
{
    size_t n = strlen(x->extra);
    if (strpbrk(value, "\r\n") == NULL &&
        n + strlen(name) + strlen(value) + 5 < sizeof x->extra)
        snprintf(x->extra + n, sizeof x->extra - n, "%s: %s\r\n", name, value);
}

/* Status line and headers; a length of -1: the body is a stream. */
static void put_head(struct hx *x, int code, const char *type, int64_t length)
{
    struct conn *c = x->c;
    char date[64];
    time_t now = time(NULL);
    struct tm tm;
    (void)strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
    x->stream = length < 0;
    x->chunked = x->stream && c->head.minor;
    if (x->stream && !x->chunked)
        c->reuse = false; /* HTTP/1.0: the end of the connection is the end of the body */
    struct evbuffer *out = conn_output(c);
    (void)evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: %s\r\n", code,
                              httpin_reason(code), date, type);
    (void)evbuffer_add_printf(out, "Cache-Control: no-store\r\n%s", x->extra);
    const char *origin = c->cors ? httpin_field(&c->head, "Origin") : NULL;
    if (origin)
        (void)evbuffer_add_printf(out,
                                  "Access-Control-Allow-Origin: %s\r\nVary: Origin\r\n"
                                  "Access-Control-Expose-Headers: Retry-After\r\n",
                                  origin);
    if (code == 204)
        ;
    else if (!x->stream)
        (void)evbuffer_add_printf(out, "Content-Length: %lld\r\n", (long long)length);
    else if (x->chunked)
        (void)evbuffer_add_printf(out, "Transfer-Encoding: chunked\r\n");
    (void)evbuffer_add_printf(out, "%s\r\n",
                              !c->reuse       ? "Connection: close\r\n"
                              : c->head.minor ? ""
                                              : "Connection: keep-alive\r\n");
}

void hx_reply(struct hx *x, int code, const char *type, const void *p, size_t n,
              uint32_t retry_after_ms)
{
    if (retry_after_ms) {
        char s[32];
        snprintf(s, sizeof s, "%u", (retry_after_ms + 999) / 1000);
        hx_add_header(x, "Retry-After", s);
    }
    put_head(x, code, type, (int64_t)n);
    if (!x->c->head.method || strcmp(x->c->head.method, "HEAD") != 0)
        (void)evbuffer_add(conn_output(x->c), p, n);
    hx_close(x);
}

void hx_stream_begin(struct hx *x)
{
    hx_add_header(x, "X-Accel-Buffering", "no");
    put_head(x, 200, "text/event-stream; charset=utf-8", -1);
}
void hx_stream_write(struct hx *x, const void *p, size_t n)
{
    struct evbuffer *out = conn_output(x->c);
    if (!n)
        return; /* an empty chunk would be the end */
    if (x->chunked)
        (void)evbuffer_add_printf(out, "%zx\r\n", n);
    (void)evbuffer_add(out, p, n);
    if (x->chunked)
        (void)evbuffer_add(out, "\r\n", 2);
}
void hx_stream_end(struct hx *x)
{
    if (x->chunked)
        (void)evbuffer_add(conn_output(x->c), "0\r\n\r\n", 5);
    hx_close(x);
}
size_t hx_backlog(const struct hx *x)
{
    return evbuffer_get_length(conn_output(x->c));
}
