/* http.c - see http.h.  The only file that knows libevent.
 *
 * Who may ask: a TCP peer of our own uid (the kernel's word), or the bearer of an API key;
 * and without a key only under a name that is this machine's (Host, Origin), so that a web
 * page cannot talk to us through its reader's browser. */
#include "daemon/front/http.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/front/fjson.h"
#include "daemon/front/netcheck.h"
#include "daemon/front/openai.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HTTP_TICK_MS = 250, HTTP_IDLE_S = 120, KEYS_MAX = 64, KEY_BYTES_MAX = 256 };

struct server {
    struct event_base *base;
    struct evhttp *http;
    struct corelink *core;
    struct event *core_ev, *core_timer, *tick;
    int core_fd; /* what core_ev watches; -1: nothing */
    short core_events;
    struct hx *open;
    uint32_t n_open;
    char addr[64]; /* what we listen on */
    uint16_t port;
    uint32_t uid;
    char keys[KEYS_MAX][KEY_BYTES_MAX + 1];
    uint32_t n_keys;
    const volatile int *stop;
};
struct hx {
    struct server *s;
    struct evhttp_request *req;
    const struct hx_ops *ops;
    void *user;
    struct hx *next, *prev;
};

/* --- exchanges --------------------------------------------------------------------------- */
/* Between a request and the end of its reply nothing is read.  libevent would take the end of
 * the client's sending for the end of the client, who may well wait for his answer, and ends the
 * process when its own read callback meets the bytes of a next request.  Whether he is there is
 * looked after by look_for_gone; reading begins again with the next request.  After every call
 * that writes, because writing switches it on. */
static void hx_deaf(struct evhttp_request *req)
{
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    if (c)
        bufferevent_disable(evhttp_connection_get_bufferevent(c), EV_READ);
}

static void hx_free(struct hx *x)
{
    struct evhttp_connection *c = evhttp_request_get_connection(x->req);
    if (c) { /* as it was, for the next request on it */
        struct bufferevent *b = evhttp_connection_get_bufferevent(c);
        struct timeval idle = {HTTP_IDLE_S, 0};
        evhttp_connection_set_closecb(c, NULL, NULL);
        bufferevent_set_timeouts(b, &idle, &idle);
    }
    *(x->prev ? &x->prev->next : &x->s->open) = x->next;
    if (x->next)
        x->next->prev = x->prev;
    x->s->n_open--;
    free(x);
}

void hx_own(struct hx *x, const struct hx_ops *ops, void *user)
{
    x->ops = ops;
    x->user = user;
}
struct corelink *hx_core(struct hx *x)
{
    return x->s->core;
}

static void add_header(struct evhttp_request *req, const char *name, const char *value)
{
    (void)evhttp_add_header(evhttp_request_get_output_headers(req), name, value);
}

static const char *reason(int code)
{
    switch (code) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 429: return "Too Many Requests";
    case 499: return "Client Closed Request";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return code < 500 ? "Error" : "Internal Server Error";
    }
}

void hx_reply(struct hx *x, int code, const char *type, const void *p, size_t n,
              uint32_t retry_after_ms)
{
    struct evhttp_request *req = x->req;
    struct evbuffer *b = evbuffer_new();
    add_header(req, "Content-Type", type);
    add_header(req, "Cache-Control", "no-store");
    if (retry_after_ms) {
        char s[32];
        snprintf(s, sizeof s, "%u", (retry_after_ms + 999) / 1000);
        add_header(req, "Retry-After", s);
    }
    if (b)
        (void)evbuffer_add(b, p, n);
    hx_free(x);
    evhttp_send_reply(req, code, reason(code), b);
    hx_deaf(req);
    if (b)
        evbuffer_free(b);
}

void hx_stream_begin(struct hx *x)
{
    add_header(x->req, "Content-Type", "text/event-stream; charset=utf-8");
    add_header(x->req, "Cache-Control", "no-store");
    add_header(x->req, "X-Accel-Buffering", "no");
    evhttp_send_reply_start(x->req, 200, "OK");
    hx_deaf(x->req);
}
void hx_stream_write(struct hx *x, const void *p, size_t n)
{
    struct evbuffer *b = evbuffer_new();
    if (!b)
        return;
    (void)evbuffer_add(b, p, n);
    evhttp_send_reply_chunk(x->req, b);
    hx_deaf(x->req);
    evbuffer_free(b);
}
void hx_stream_end(struct hx *x)
{
    struct evhttp_request *req = x->req;
    hx_free(x);
    evhttp_send_reply_end(req);
    hx_deaf(req);
}
size_t hx_backlog(const struct hx *x)
{
    struct evhttp_connection *c = evhttp_request_get_connection(x->req);
    struct bufferevent *b = c ? evhttp_connection_get_bufferevent(c) : NULL;
    return b ? evbuffer_get_length(bufferevent_get_output(b)) : 0;
}

static void on_close(struct evhttp_connection *c, void *user)
{
    struct hx *x = user;
    struct evhttp_request *req = x->req;
    (void)c;
    const struct hx_ops *ops = x->ops;
    void *owner = x->user;
    if (ops && ops->gone)
        ops->gone(owner);
    /* libevent lets go of a request whose connection fails before its reply is complete: then
     * it is ours to free, else it goes with the connection. */
    bool ours = evhttp_request_get_connection(req) == NULL;
    hx_free(x);
    if (ours)
        evhttp_request_free(req);
}

static struct hx *hx_new(struct server *s, struct evhttp_request *req)
{
    struct hx *x = s->n_open < HTTP_OPEN_MAX ? calloc(1, sizeof *x) : NULL;
    struct evhttp_connection *c = evhttp_request_get_connection(req);
    if (!x || !c)
        return free(x), NULL;
    x->s = s;
    x->req = req;
    x->next = s->open;
    if (s->open)
        s->open->prev = x;
    s->open = x;
    s->n_open++;
    evhttp_connection_set_closecb(c, on_close, x);
    struct bufferevent *b = evhttp_connection_get_bufferevent(c);
    bufferevent_data_cb wr = NULL;
    bufferevent_event_cb ev = NULL;
    void *arg = NULL;
    int one = 1;
    (void)setsockopt(bufferevent_getfd(b), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    bufferevent_getcb(b, NULL, &wr, &ev, &arg);
    bufferevent_setcb(b, NULL, wr, ev, arg);
    hx_deaf(req);
    /* A long answer is no idle client: no read timeout. */
    bufferevent_set_timeouts(b, NULL, &(struct timeval){HTTP_IDLE_S, 0});
    return x;
}

static int hx_fd(const struct hx *x)
{
    struct evhttp_connection *c = evhttp_request_get_connection(x->req);
    return c ? bufferevent_getfd(evhttp_connection_get_bufferevent(c)) : -1;
}

/* Ends the exchanges of clients that have left.  One whose sending has ended may have closed
 * his socket, or only that half of it: the kernel says whether anybody has it open still. */
static void look_for_gone(struct server *s)
{
    static struct pollfd fds[HTTP_OPEN_MAX];
    nfds_t n = 0, i = 0;
    for (struct hx *x = s->open; x; x = x->next)
        fds[n++] = (struct pollfd){hx_fd(x), POLLRDHUP, 0};
    if (!n || poll(fds, n, 0) <= 0)
        return;
    for (struct hx *x = s->open, *next; x; x = next) {
        short re = fds[i++].revents;
        uint32_t uid;
        next = x->next;
        if (re & (POLLERR | POLLHUP | POLLNVAL) ||
            (re & POLLRDHUP && net_peer_uid(hx_fd(x), &uid) == -ENOENT))
            evhttp_connection_free(evhttp_request_get_connection(x->req)); /* on_close */
    }
}

/* --- who may ask ------------------------------------------------------------------------- */
static bool key_fits(const struct server *s, const char *auth)
{
    char want[KEY_BYTES_MAX + 1] = {0};
    if (!auth || strncasecmp(auth, "Bearer ", 7) != 0 || strlen(auth + 7) > KEY_BYTES_MAX)
        return false;
    memcpy(want, auth + 7, strlen(auth + 7));
    bool fits = false;
    for (uint32_t i = 0; i < s->n_keys; i++) /* every key, always: time tells nothing */
        fits |= sodium_memcmp(want, s->keys[i], sizeof want) == 0;
    return fits;
}

static bool admit(struct server *s, struct hx *x)
{
    struct evkeyvalq *h = evhttp_request_get_input_headers(x->req);
    if (key_fits(s, evhttp_find_header(h, "Authorization")))
        return true;
    uint32_t uid = 0;
    if (net_peer_uid(hx_fd(x), &uid) < 0 || uid != s->uid) {
        openai_fail(x, 401, "unauthorized", NULL,
                    s->n_keys ? "this port serves its owner's processes, and others that send "
                                "\"Authorization: Bearer KEY\" with a key of the key file"
                              : "this port serves only the processes of the user that runs it; "
                                "an --api-key-file lets others in",
                    0);
        return false;
    }
    if (!net_host_ok(evhttp_find_header(h, "Host"), s->addr)) {
        openai_fail(x, 403, "permission_denied", NULL,
                    "the Host header names another machine than this; use http://127.0.0.1", 0);
        return false;
    }
    if (!net_origin_ok(evhttp_find_header(h, "Origin"), s->addr)) {
        openai_fail(x, 403, "permission_denied", NULL,
                    "the Origin header names a web page of another site", 0);
        return false;
    }
    return true;
}

/* --- small endpoints --------------------------------------------------------------------- */
struct probe {
    struct hx *x;
    int64_t ask;
    bool metrics;
};
static void on_probe(void *user, const struct corelink_reply *r)
{
    struct probe *p = user;
    cJSON *o = front_parse(r->json, r->json_len, NULL);
    if (r->status != HRT_OK)
        openai_fail(p->x, hrt_status_http(r->status), front_str(o, "slug", "internal"), NULL,
                    front_str(o, "message", "hearthd refused"), 1000);
    else if (p->metrics)
        hx_reply(p->x, 200, "text/plain; version=0.0.4; charset=utf-8", r->tail, r->tail_len,
                 0);
    else
        hx_reply(p->x, 200, "application/json", "{\"status\":\"ok\"}", 15, 0);
    cJSON_Delete(o);
    free(p);
}
static void probe_gone(void *user)
{
    struct probe *p = user;
    corelink_forget(hx_core(p->x), p->ask);
    free(p);
}
static void ask_core(struct hx *x, bool metrics)
{
    static const struct hx_ops ops = {.gone = probe_gone};
    struct probe *p = NULL;
    /* Whoever asks for health wants to know now, not in half a minute. */
    if (corelink_up(x->s->core) && (p = calloc(1, sizeof *p))) {
        p->x = x;
        p->metrics = metrics;
        p->ask = corelink_send(x->s->core, metrics ? HRT_METRICS : HRT_PING, "{}", 2, NULL, 0,
                               on_probe, p);
    }
    if (!p || p->ask < 0) {
        free(p);
        openai_fail(x, 503, "core_unavailable", NULL, "hearthd does not answer", 1000);
        return;
    }
    hx_own(x, &ops, p);
}

/* --- routes ------------------------------------------------------------------------------ */
static bool method_is(struct hx *x, enum evhttp_cmd_type want, const char *name)
{
    if (evhttp_request_get_command(x->req) == want)
        return true;
    char words[80];
    snprintf(words, sizeof words, "this address wants %s", name);
    add_header(x->req, "Allow", name);
    openai_fail(x, 405, "bad_field", NULL, words, 0);
    return false;
}

static void chat(struct hx *x)
{
    const char *type =
        evhttp_find_header(evhttp_request_get_input_headers(x->req), "Content-Type");
    /* A page's plain form cannot send this type without asking first. */
    if (type && strncasecmp(type, "application/json", 16) != 0) {
        openai_fail(x, 415, "bad_field", NULL, "want Content-Type: application/json", 0);
        return;
    }
    struct evbuffer *in = evhttp_request_get_input_buffer(x->req);
    size_t n = evbuffer_get_length(in);
    const char *p = n ? (const char *)evbuffer_pullup(in, -1) : NULL;
    openai_chat(x, p ? p : "", p ? n : 0);
}

static void route(struct hx *x, const char *path)
{
    static const char models[] = "/v1/models/";
    if (strcmp(path, "/v1/chat/completions") == 0) {
        if (method_is(x, EVHTTP_REQ_POST, "POST"))
            chat(x);
    } else if (strcmp(path, "/v1/models") == 0) {
        if (method_is(x, EVHTTP_REQ_GET, "GET"))
            openai_models(x, NULL);
    } else if (strncmp(path, models, sizeof models - 1) == 0 && path[sizeof models - 1]) {
        char *id = evhttp_uridecode(path + sizeof models - 1, 0, NULL);
        if (method_is(x, EVHTTP_REQ_GET, "GET"))
            openai_models(x, id ? id : "");
        free(id);
    } else if (strcmp(path, "/health") == 0) {
        if (method_is(x, EVHTTP_REQ_GET, "GET"))
            ask_core(x, false);
    } else if (strcmp(path, "/metrics") == 0) {
        if (method_is(x, EVHTTP_REQ_GET, "GET"))
            ask_core(x, true);
    } else {
        char words[300];
        snprintf(words, sizeof words,
                 "no such address: %.100s; there are /v1/chat/completions, /v1/models, /health "
                 "and /metrics",
                 front_utf8_ok(path, strlen(path)) ? path : "(not UTF-8)");
        openai_fail(x, 404, "not_found", NULL, words, 0);
    }
}

static void on_request(struct evhttp_request *req, void *user)
{
    struct server *s = user;
    struct hx *x = hx_new(s, req);
    if (!x) {
        evhttp_send_reply(req, 503, reason(503), NULL);
        return;
    }
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
    const char *path = uri ? evhttp_uri_get_path(uri) : NULL;
    if (admit(s, x))
        route(x, path && path[0] ? path : "/");
}

/* --- the link within libevent's loop ------------------------------------------------------- */
static void core_arm(void *user);

static void on_core(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    (void)fd;
    corelink_ready(s->core,
                   (short)((what & EV_READ ? POLLIN : 0) | (what & EV_WRITE ? POLLOUT : 0)));
    core_arm(s);
}
static void on_core_timer(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    (void)fd;
    (void)what;
    corelink_tick(s->core);
    core_arm(s);
}
static void core_arm(void *user)
{
    struct server *s = user;
    if (!s->core)
        return; /* still opening */
    int fd = corelink_fd(s->core), wait = corelink_wait_ms(s->core);
    short want = corelink_events(s->core), ev = 0;
    if (want & POLLIN)
        ev |= EV_READ;
    if (want & POLLOUT)
        ev |= EV_WRITE;
    if (fd != s->core_fd || ev != s->core_events) {
        if (s->core_fd >= 0)
            event_del(s->core_ev);
        if (fd >= 0) {
            event_assign(s->core_ev, s->base, fd, (short)(ev | EV_PERSIST), on_core, s);
            event_add(s->core_ev, NULL);
        }
        s->core_fd = fd;
        s->core_events = ev;
    }
    if (wait >= 0)
        event_add(s->core_timer, &(struct timeval){wait / 1000, wait % 1000 * 1000 + 1000});
    if (corelink_over(s->core))
        event_base_loopbreak(s->base);
}

static void on_tick(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    (void)fd;
    (void)what;
    look_for_gone(s);
    for (struct hx *x = s->open, *next; x; x = next) {
        next = x->next;
        if (x->ops && x->ops->tick)
            x->ops->tick(x->user);
    }
    corelink_tick(s->core);
    core_arm(s);
    if (*s->stop)
        event_base_loopbreak(s->base);
}

/* --- start and end ------------------------------------------------------------------------- */
static int read_keys(struct server *s, const char *path, struct errbuf *eb)
{
    FILE *f = fopen(path, "re");
    struct stat st;
    if (!f || fstat(fileno(f), &st) < 0) {
        int e = errno;
        if (f)
            fclose(f);
        return err_set(eb, -e, "--api-key-file: %s: %s", path, strerror(e));
    }
    int r = st.st_mode & 027 /* a group may be let in: systemd hands credentials over so */
                ? err_set(eb, -EPERM,
                          "--api-key-file: others may read %s (mode %03o); chmod 600 it", path,
                          st.st_mode & 0777)
                : 0;
    char line[1024];
    for (int n = 1; r == 0 && fgets(line, sizeof line, f); n++) {
        size_t len = strcspn(line, "\r\n");
        line[len] = 0;
        if (!len || line[0] == '#')
            continue;
        if (len < 16 || len > KEY_BYTES_MAX || strchr(line, ' '))
            r = err_set(eb, -EINVAL,
                        "--api-key-file: %s:%d: want a key of 16 to %d bytes without spaces",
                        path, n, KEY_BYTES_MAX);
        else if (s->n_keys == KEYS_MAX)
            r = err_set(eb, E_LIMIT, "--api-key-file: %s: more than %d keys", path, KEYS_MAX);
        else
            memcpy(s->keys[s->n_keys++], line, len + 1);
    }
    sodium_memzero(line, sizeof line);
    fclose(f);
    if (r == 0 && !s->n_keys)
        r = err_set(eb, -EINVAL, "--api-key-file: %s holds no key", path);
    return r;
}

/* Whole or not at all: a reader never sees half a number. */
static void write_port(const struct server *s, const char *runtime)
{
    char path[4096], tmp[4096 + 16];
    if (!runtime || snprintf(path, sizeof path, "%s/http.port", runtime) >= (int)sizeof path)
        return;
    snprintf(tmp, sizeof tmp, "%s.%d", path, (int)getpid());
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    char line[16];
    int n = snprintf(line, sizeof line, "%u\n", s->port);
    bool ok = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0)
        close(fd);
    if (!ok || rename(tmp, path) < 0) {
        log_at(LOG_WARN_, "cannot write %s: %s; clients must know port %u by themselves", path,
               strerror(errno), s->port);
        (void)unlink(tmp);
    }
}

static int listen_on(struct server *s, const struct http_opts *o, struct errbuf *eb)
{
    int fd = o->listen_fd;
    if (fd < 0) {
        struct net_addr a;
        int r = net_addr_parse(o->addr, &a, eb);
        if (r < 0)
            return r;
        if (!net_is_loopback(a.addr) && !s->n_keys)
            return err_set(eb, -EPERM,
                           "--http: %s can be reached from other machines; that wants an "
                           "--api-key-file",
                           a.addr);
        memcpy(s->addr, a.addr, sizeof s->addr);
        fd = net_listen(&a, &s->port, eb);
        if (fd < 0)
            return fd;
    } else {
        struct sockaddr_storage sa = {0};
        socklen_t n = sizeof sa;
        char port[16] = "0";
        if (getsockname(fd, (void *)&sa, &n) < 0 ||
            getnameinfo((void *)&sa, n, s->addr, sizeof s->addr, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV) != 0)
            return err_set(eb, -EINVAL, "the socket systemd passed is not a TCP socket");
        if (!net_is_loopback(s->addr) && !s->n_keys)
            return err_set(
                eb, -EPERM,
                "the socket systemd passed listens on %s; that wants an --api-key-file",
                s->addr);
        s->port = (uint16_t)strtoul(port, NULL, 10);
        (void)evutil_make_socket_nonblocking(fd);
    }
    if (!evhttp_accept_socket_with_handle(s->http, fd))
        return err_set(eb, -EIO, "libevent does not take the listening socket");
    return 0;
}

int http_run(const struct http_opts *o, const volatile int *stop, struct errbuf *eb)
{
    static struct server s; /* one a process; keys are not left on a stack */
    s = (struct server){.core_fd = -1, .stop = stop, .uid = geteuid()};
    int r = o->api_key_file ? read_keys(&s, o->api_key_file, eb) : 0;
    if (r < 0)
        return r;
    s.base = event_base_new();
    s.http = s.base ? evhttp_new(s.base) : NULL;
    if (s.http) {
        evhttp_set_max_headers_size(s.http, HTTP_HEADERS_MAX);
        evhttp_set_max_body_size(s.http, HTTP_BODY_MAX);
        evhttp_set_timeout(s.http, HTTP_IDLE_S);
        evhttp_set_allowed_methods(s.http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                               EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                               EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
        evhttp_set_gencb(s.http, on_request, &s);
        s.core_ev = event_new(s.base, -1, 0, on_core, &s);
        s.core_timer = evtimer_new(s.base, on_core_timer, &s);
        s.tick = event_new(s.base, -1, EV_PERSIST, on_tick, &s);
    }
    if (!s.http || !s.core_ev || !s.core_timer || !s.tick)
        r = err_set(eb, -ENOMEM, "libevent cannot start");
    if (r == 0)
        r = listen_on(&s, o, eb);
    if (r == 0) {
        char hello[200], at[80];
        snprintf(at, sizeof at, strchr(s.addr, ':') ? "[%s]:%u" : "%s:%u", s.addr, s.port);
        snprintf(hello, sizeof hello,
                 "{\"min\":1,\"max\":1,\"client\":\"hearth-front http\",\"http\":\"%s\"}", at);
        struct corelink_opts co = o->core;
        co.hello = hello;
        co.changed = core_arm;
        co.user = &s;
        r = corelink_open(&s.core, &co, eb);
        if (r == 0) {
            write_port(&s, o->runtime);
            log_at(LOG_INFO_, "serving http://%s for %s", at, o->core.path);
            core_arm(&s);
            event_add(s.tick, &(struct timeval){0, HTTP_TICK_MS * 1000});
            (void)event_base_dispatch(s.base);
        }
    }
    /* The process ends now; what clients still have open is closed with it. */
    corelink_close(s.core);
    s.core = NULL;
    return r;
}
