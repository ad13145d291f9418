/* http.c - see http.h.  Connections and requests in libevent's loop; hx.c has the replies.
 *
 * Who may ask: a TCP peer of our own uid (the kernel's word), or the bearer of an API key;
 * and without a key only under a name that is this machine's (Host, Origin), so that a web
 * page cannot talk to us through its reader's browser.  That is decided by the headers: of a
 * request that is refused no byte of a body is kept.
 *
 * A connection takes one request at a time: headers, body, answer, and then the next. */
#include "daemon/front/http.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/share.h"
#include "daemon/front/flog.h"
#include "daemon/front/httpconn.h"
#include "daemon/front/httplisten.h"
#include "daemon/front/httproute.h"
#include "daemon/front/netcheck.h"
#include "daemon/front/openai.h"
#include "daemon/front/sandbox.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    HTTP_TICK_MS = 250,
    ACCEPTS_A_ROUND = 64,
    ACCEPT_PAUSE_MS = 250, /* when descriptors or memory have run out */
    LINGER_MS = 2000,      /* a refused client may finish its sending, to read why */
    STOP_MS = 400,         /* for the last words to everybody; hearthd waits half a second */
};

/* --- connections --------------------------------------------------------------------------- */
static struct evbuffer *input(struct conn *c)
{
    return bufferevent_get_input(c->b);
}

static void conn_unlink(struct conn *c)
{
    *(c->newer ? &c->newer->older : &c->s->newest) = c->older;
    *(c->older ? &c->older->newer : &c->s->oldest) = c->newer;
}
static void conn_link(struct conn *c)
{
    c->newer = NULL;
    c->older = c->s->newest;
    *(c->older ? &c->older->newer : &c->s->oldest) = c;
    c->s->newest = c;
}

void conn_state(struct conn *c, enum conn_state state)
{
    c->state = (uint8_t)state;
    c->since_ns = now_ns();
    /* Between a request and the end of its reply nothing is read: what a client sends ahead waits
     * with the kernel, and the end of his sending is not taken for his own.  Whether he is there
     * is looked after by look_for_gone. */
    if (state == CS_BUSY || state == CS_ENDING)
        (void)bufferevent_disable(c->b, EV_READ);
    else
        (void)bufferevent_enable(c->b, EV_READ);
}

static void body_drop(struct conn *c)
{
    peer_body(&c->s->peers, c->peer, -(int64_t)evbuffer_get_length(c->body));
    (void)evbuffer_drain(c->body, evbuffer_get_length(c->body));
}

static void conn_free(struct conn *c)
{
    struct server *s = c->s;
    conn_unlink(c);
    s->n_conns--;
    s->n_foreign -= c->uid != s->uid;
    if (c->open) {
        c->open = false;
        peer_open(&s->peers, c->peer, false);
        if (c->x.ops && c->x.ops->gone)
            c->x.ops->gone(c->x.user);
    }
    body_drop(c);
    peer_drop(&s->peers, c->peer);
    evbuffer_free(c->body);
    httpin_fini(&c->head);
    /* At once, not when libevent gets to freeing it: its number may be another's by then. */
    (void)bufferevent_disable(c->b, EV_READ | EV_WRITE);
    bufferevent_free(c->b);
    free(c);
}
static void conn_run(struct conn *c);

/* A request that is answered before, or instead of, its body. */
static void refuse(struct conn *c, int code, const char *slug, const char *words,
                   uint32_t retry_after_ms)
{
    openai_fail(hx_open(c, true), code, slug, NULL, words, retry_after_ms);
    body_drop(c);
}

/* --- who may ask ------------------------------------------------------------------------- */
static void learn_peer(struct conn *c)
{
    struct server *s = c->s;
    uint32_t uid;
    if (net_peer_uid(bufferevent_getfd(c->b), &uid) < 0)
        return;
    s->n_foreign -= c->uid != s->uid;
    c->uid = uid;
    s->n_foreign += c->uid != s->uid;
    c->trusted |= uid == s->uid;
}

/* The oldest of p's, or of all for NULL: `idle`, between two requests; or it has shown no key.  So
 * that somebody else has its place; not `but`. */
static bool drop_oldest(struct server *s, const struct peer *p, bool idle,
                        const struct conn *but)
{
    for (struct conn *c = s->oldest; c; c = c->newer) {
        bool may = idle ? c->state == CS_HEAD && !c->seen : !c->trusted && !c->open;
        if (may && c != but && (!p || c->peer == p)) {
            conn_free(c);
            return true;
        }
    }
    return false;
}

static struct peer *peer_of(struct server *s, const char *as, uint32_t uid, int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t n = sizeof ss;
    (void)getpeername(fd, (void *)&ss, &n);
    return peer_take(&s->peers, as, uid, &ss);
}

/* It is known for whom this connection asks now.  false: he has his share of them, all in use, and
 * is told so. */
static bool become(struct conn *c, const char *as)
{
    struct server *s = c->s;
    struct peer *p = peer_of(s, as, c->uid, bufferevent_getfd(c->b));
    char words[160];
    if (!p) {
        refuse(c, 503, "out_of_memory", "no memory for this request", 1000);
        return false;
    }
    if (as && p != c->peer && !share_more(p->conns - 1, s->peers.keyed - 1, s->foreign_max) &&
        !drop_oldest(s, p, true, c)) {
        snprintf(words, sizeof words,
                 "%u connections of this key are in use, which is its share of the %u for "
                 "holders of keys; use those",
                 p->conns - 1, s->foreign_max);
        peer_drop(&s->peers, p);
        refuse(c, 429, "queue_full", words, 1000);
        return false;
    }
    peer_drop(&s->peers, c->peer);
    c->peer = p;
    return true;
}

/* What keeps a page out; NULL: nothing. */
static const char *page_refusal(const struct conn *c, bool ours)
{
    const struct server *s = c->s;
    const struct httpin_head *h = &c->head;
    return origin_refusal(&s->origins,
                          &(struct origin_ask){.origin = httpin_field(h, "Origin"),
                                               .site = httpin_field(h, "Sec-Fetch-Site"),
                                               .mode = httpin_field(h, "Sec-Fetch-Mode"),
                                               .addr = s->addr,
                                               .uid = s->uid,
                                               .list_only = !ours});
}

/* By the headers alone: false, and the refusal is on its way.  Who asks comes first: what is
 * looked up beyond that costs, and is for those who may speak. */
static bool admit(struct conn *c)
{
    const struct server *s = c->s;
    const struct httpin_head *h = &c->head;
    const char *as = keyfile_fits(&s->keys, httpin_field(h, "Authorization"));
    c->trusted |= as != NULL;
    if (c->uid == (uint32_t)PEER_UID_NONE && !as)
        learn_peer(c);
    bool ours = c->uid == s->uid;
    if ((as || ours) && !become(c, as))
        return false;
    const char *no = page_refusal(c, ours);
    c->cors = !no;
    /* A browser asks without the key whether the page may send it. */
    bool preflight = s->keys.n && strcmp(h->method, "OPTIONS") == 0 && !h->chunked &&
                     !h->body_bytes && httpin_field(h, "Origin") &&
                     httpin_field(h, "Access-Control-Request-Method");
    if (as || (!no && preflight))
        return true;
    if (!ours) {
        refuse(c, 401, "unauthorized",
               s->keys.n ? "this port serves its owner's processes, and others that send "
                           "\"Authorization: Bearer KEY\" with a key of the key file"
                         : "this port serves only the processes of the user that runs it; "
                           "an --api-key-file lets others in",
               0);
        return false;
    }
    /* HTTP/1.0 has no Host, and what speaks it is no browser, which the name is asked for: that
     * always sends one. */
    bool nameless =
        !h->minor && !h->authority && !httpin_field(h, "Host") && !httpin_field(h, "Origin");
    if (!nameless && !net_host_ok(httpin_field(h, "Host"), s->addr)) {
        char words[120];
        snprintf(words, sizeof words,
                 "the Host header names another machine than this; use http://127.0.0.1:%u",
                 s->port);
        refuse(c, 403, "permission_denied", words, 0);
        return false;
    }
    if (no) {
        refuse(c, 403, "permission_denied", no, 0);
        return false;
    }
    return true;
}

/* --- requests come in ------------------------------------------------------------------------ */
/* hearthd takes as many bytes of what is made of it, where no escapes are left. */
static void too_large(struct conn *c, uint64_t n)
{
    char words[200];
    snprintf(words, sizeof words,
             "the body has %llu bytes or more, at most %d are taken; text takes fewer as UTF-8 "
             "than as \\u escapes",
             (unsigned long long)n, HTTP_BODY_MAX);
    refuse(c, 413, "too_large", words, 0);
}

/* false: more bytes are needed, or a refusal is on its way. */
static bool take_head(struct conn *c)
{
    struct evbuffer *in = input(c);
    struct errbuf eb;
    char two[2];
    /* One empty line before a request is passed over, as the standard asks. */
    if (!c->seen && evbuffer_copyout(in, two, 2) == 2 && memcmp(two, "\r\n", 2) == 0)
        (void)evbuffer_drain(in, 2);
    size_t n = evbuffer_get_length(in);
    if (!n)
        return false;
    if (!c->seen)
        c->since_ns = now_ns();
    n = n < HTTPIN_HEAD_MAX + 1 ? n : HTTPIN_HEAD_MAX + 1;
    const char *p = (const char *)evbuffer_pullup(in, (ssize_t)n);
    int r = p ? httpin_scan(p, n, &c->seen, &eb) : err_set(&eb, -503, "no memory");
    if (r == 0)
        return false;
    size_t head = r > 0 ? (size_t)r : 0;
    if (r > 0)
        r = httpin_parse(&c->head, p, head, &eb);
    if (r < 0) {
        refuse(c, -r, "bad_request", eb.s, 0);
        return false;
    }
    (void)evbuffer_drain(in, head);
    c->body_left = c->head.body_bytes;
    c->chunks = (struct httpin_chunks){0};
    if (!admit(c))
        return false;
    if (c->body_left > HTTP_BODY_MAX) {
        too_large(c, c->body_left);
        return false;
    }
    if (c->head.expects)
        (void)evbuffer_add_printf(conn_output(c), "HTTP/1.1 100 Continue\r\n\r\n");
    uint64_t since = c->since_ns;
    conn_state(c, CS_BODY);
    c->since_ns = since; /* one deadline for headers and body */
    conn_unlink(c);
    conn_link(c);
    return true;
}

/* Room for n bytes more of this body?  Refuses if not. */
static bool body_room(struct conn *c, size_t n)
{
    size_t have = evbuffer_get_length(c->body);
    char words[200];
    int no = peer_no_body(&c->s->peers, c->peer, have, n, words);
    if (have + n > HTTP_BODY_MAX)
        too_large(c, have + n);
    else if (no)
        refuse(c, no, "queue_full", words, 1000);
    else
        peer_body(&c->s->peers, c->peer, (int64_t)n);
    return have + n <= HTTP_BODY_MAX && !no;
}

/* true: the body is whole. */
static bool take_chunks(struct conn *c)
{
    struct evbuffer *in = input(c);
    struct evbuffer_iovec v;
    struct errbuf eb;
    while (evbuffer_peek(in, -1, NULL, &v, 1) > 0 && v.iov_len) {
        const char *data;
        size_t used = 0, n;
        int r = httpin_chunk(&c->chunks, v.iov_base, v.iov_len, &used, &data, &n, &eb);
        if (r < 0) {
            refuse(c, -r, "bad_request", eb.s, 0);
            return false;
        }
        if (n && !body_room(c, n))
            return false;
        if (n)
            (void)evbuffer_add(c->body, data, n);
        (void)evbuffer_drain(in, used);
        if (r > 0)
            return true;
    }
    return false;
}

static bool take_body(struct conn *c)
{
    if (c->head.chunked)
        return take_chunks(c);
    size_t n = evbuffer_get_length(input(c));
    n = n < c->body_left ? n : (size_t)c->body_left;
    if (n && !body_room(c, n))
        return false;
    c->body_left -= n;
    if (n)
        (void)evbuffer_remove_buffer(input(c), c->body, n);
    return c->body_left == 0;
}

static void begin(struct conn *c)
{
    char words[200];
    int no = peer_no_open(&c->s->peers, c->peer, words);
    if (no) {
        refuse(c, no, "queue_full", words, 1000);
        return;
    }
    httproute(hx_open(c, false), c->head.path);
    body_drop(c);
}

static void conn_run(struct conn *c)
{
    for (;;) {
        if (c->state == CS_HEAD && !take_head(c))
            break;
        if (c->state != CS_BODY || !take_body(c))
            break;
        begin(c);
    }
    if (c->state == CS_LINGER)
        (void)evbuffer_drain(input(c), evbuffer_get_length(input(c)));
}

static void on_read(struct bufferevent *b, void *user)
{
    (void)b;
    conn_run(user);
}

/* The output is empty. */
static void on_written(struct bufferevent *b, void *user)
{
    struct conn *c = user;
    if (c->state != CS_ENDING || evbuffer_get_length(conn_output(c)))
        return;
    if (c->reuse) {
        conn_state(c, CS_HEAD);
        conn_run(c);
        return;
    }
    /* A close with bytes unread resets the connection: the client might lose the reply. */
    (void)shutdown(bufferevent_getfd(b), SHUT_WR);
    conn_state(c, CS_LINGER);
    (void)evbuffer_drain(input(c), evbuffer_get_length(input(c)));
}

static void on_event(struct bufferevent *b, short what, void *user)
{
    struct conn *c = user;
    (void)b;
    /* A client that sends no more may still read the reply that is on its way. */
    if ((what & BEV_EVENT_EOF) && !c->open && c->state != CS_LINGER &&
        evbuffer_get_length(conn_output(c))) {
        c->reuse = false;
        conn_state(c, CS_ENDING);
        return;
    }
    conn_free(c);
}

/* --- connections come in --------------------------------------------------------------------- */
/* May it have one more, which is counted with it already?  Somebody without a key gives way first
 * with one that he has, so that who holds one is heard; of several he with the most. */
static bool conn_room(struct server *s, const struct peer *p)
{
    if (!p->as && p->uid == s->uid)
        return s->n_conns - s->n_foreign < s->conns_max - s->foreign_max ||
               drop_oldest(s, p, true, NULL);
    if (p->conns > HTTP_CONNS_PEER_MAX && !drop_oldest(s, p, false, NULL))
        return false;
    return s->n_foreign < s->foreign_max ||
           drop_oldest(s, peer_crowd(&s->peers, s->uid), false, NULL);
}

static void conn_open(struct server *s, int fd)
{
    uint32_t uid = (uint32_t)PEER_UID_NONE;
    int one = 1;
    (void)net_peer_uid(fd, &uid);
    struct peer *p = peer_of(s, NULL, uid, fd);
    struct conn *c = p && conn_room(s, p) ? calloc(1, sizeof *c) : NULL;
    if (c) {
        c->body = evbuffer_new();
        c->b = bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
    }
    if (!c || !c->body || !c->b) {
        log_at(LOG_WARN_, "uid %d has as many connections as it may, or all have: refused one",
               (int)uid);
        httproute_full(fd, p ? p->conns - 1 : 0, uid != (uint32_t)PEER_UID_NONE);
        if (p)
            peer_drop(&s->peers, p);
        if (c && c->body)
            evbuffer_free(c->body);
        if (c && c->b)
            bufferevent_free(c->b);
        else
            close(fd);
        free(c);
        return;
    }
    c->s = s;
    c->uid = uid;
    c->peer = p;
    c->trusted = uid == s->uid;
    s->n_conns++;
    s->n_foreign += uid != s->uid;
    conn_link(c);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    bufferevent_setcb(c->b, on_read, on_written, on_event, c);
    bufferevent_set_timeouts(c->b, NULL, &(struct timeval){HTTP_WRITE_S, 0});
    conn_state(c, CS_HEAD);
    (void)bufferevent_enable(c->b, EV_READ | EV_WRITE);
}

static void accept_stop(struct server *s)
{
    event_del(s->accept_ev);
    if (s->accept6_ev)
        event_del(s->accept6_ev);
}

static void on_accept(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    (void)what;
    for (int i = 0; i < ACCEPTS_A_ROUND; i++) {
        int k = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (k >= 0) {
            conn_open(s, k);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The connection stays in the kernel's queue, and so the descriptor ready. */
            log_at(LOG_WARN_, "accept: %s, with %u connections; pausing", strerror(errno),
                   s->n_conns);
            (void)drop_oldest(s, NULL, true, NULL);
            accept_stop(s);
            event_add(s->accept_again, &(struct timeval){0, ACCEPT_PAUSE_MS * 1000});
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}
static void on_accept_again(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    (void)fd;
    (void)what;
    event_add(s->accept_ev, NULL);
    if (s->accept6_ev)
        event_add(s->accept6_ev, NULL);
}

static void busy_tick(struct conn *c, uint64_t ms)
{
    const struct hx_ops *ops = c->open ? c->x.ops : NULL;
    if (ops && ops->answer_ms && ms > ops->answer_ms) {
        bool up = corelink_up(c->s->core);
        ops->gone(c->x.user);
        openai_fail(&c->x, 503, "core_unavailable", NULL,
                    up ? "hearthd has a link to this front but does not answer"
                       : "hearthd does not answer",
                    1000);
    } else if (ops && ops->tick) {
        ops->tick(c->x.user);
    }
}

/* Nobody may keep a connection for ever by being slow. */
static void conn_tick(struct conn *c, uint64_t now)
{
    uint64_t ms = (now - c->since_ns) / 1000000;
    switch (c->state) {
    case CS_HEAD:
        if (!c->seen && ms > (c->trusted ? HTTP_IDLE_MS : HTTP_STRANGER_MS))
            conn_free(c);
        else if (c->seen && ms > (c->trusted ? HTTP_HEAD_MS : HTTP_STRANGER_MS))
            refuse(c, 408, "timeout", "the headers did not come to their end in time", 0);
        break;
    case CS_BODY:
        if (ms > HTTP_REQUEST_MS)
            refuse(c, 408, "timeout", "the body did not come to its end in time", 0);
        break;
    case CS_BUSY: busy_tick(c, ms); break;
    case CS_LINGER:
        if (ms > LINGER_MS)
            conn_free(c);
        break;
    default: break; /* the write's own timeout */
    }
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

/* Ends the exchanges of clients that have left.  One whose sending has ended may have closed
 * his socket, or only that half of it: the kernel says whether anybody has it open still. */
static void look_for_gone(struct server *s)
{
    static struct pollfd fds[HTTP_OPEN_MAX];
    static struct conn *of[HTTP_OPEN_MAX];
    nfds_t n = 0;
    for (struct conn *c = s->newest; c && n < HTTP_OPEN_MAX; c = c->older)
        if (c->open) {
            of[n] = c;
            fds[n++] = (struct pollfd){bufferevent_getfd(c->b), POLLRDHUP, 0};
        }
    if (!n || poll(fds, n, 0) <= 0)
        return;
    for (nfds_t i = 0; i < n; i++) {
        uint32_t uid;
        if (fds[i].revents & (POLLERR | POLLHUP | POLLNVAL) ||
            (fds[i].revents & POLLRDHUP && net_peer_uid(fds[i].fd, &uid) == -ENOENT))
            conn_free(of[i]);
    }
}

static void on_tick(evutil_socket_t fd, short what, void *user)
{
    struct server *s = user;
    uint64_t now = now_ns();
    (void)fd;
    (void)what;
    look_for_gone(s);
    for (struct conn *c = s->newest, *next; c; c = next) {
        next = c->older;
        conn_tick(c, now);
    }
    corelink_tick(s->core);
    core_arm(s);
    flog_hup_said();
    if (*s->stop)
        event_base_loopbreak(s->base);
}

/* --- start and end ------------------------------------------------------------------------- */
static int listen_on(struct server *s, const struct http_opts *o, struct errbuf *eb)
{
    int fd[2];
    int r = http_listen(o, s->keys.n > 0, s->addr, &s->port, fd, eb);
    if (r < 0)
        return r;
    s->accept_ev = event_new(s->base, fd[0], EV_READ | EV_PERSIST, on_accept, s);
    if (!s->accept_ev || event_add(s->accept_ev, NULL) < 0)
        return err_set(eb, -ENOMEM, "libevent does not take the listening socket");
    if (fd[1] >= 0)
        s->accept6_ev = event_new(s->base, fd[1], EV_READ | EV_PERSIST, on_accept, s);
    if (s->accept6_ev)
        (void)event_add(s->accept6_ev, NULL);
    return 0;
}

/* The front ends.  Whoever waits for an answer hears so, as an error of its own or, when that has
 * begun, as an event in it: a connection that just breaks looks like a fault. */
static void say_stop(struct server *s)
{
    const char *slug = *s->stop ? "shutting_down" : "core_unavailable";
    const char *words =
        *s->stop ? "hearthd stops or has ended; what is on disk of the answer is kept"
                 : "hearthd has ended; it may be back in a moment";
    uint64_t until = now_ns() + STOP_MS * 1000000ull;
    bool pending = true;
    accept_stop(s);
    for (struct conn *c = s->newest, *next; c; c = next) {
        struct hx *x = &c->x;
        next = c->older;
        if (!c->open)
            continue;
        if (x->ops && x->ops->gone)
            x->ops->gone(x->user);
        c->reuse = false;
        if (x->stream)
            openai_fail_event(x, 503, slug, words);
        else
            openai_fail(x, 503, slug, NULL, words, 1000);
    }
    while (pending && now_ns() < until) {
        (void)event_base_loop(s->base, EVLOOP_ONCE);
        pending = false;
        for (struct conn *c = s->newest; c; c = c->older)
            pending |= c->state == CS_ENDING;
    }
}

int http_run(const struct http_opts *o, const volatile int *stop, struct errbuf *eb)
{
    static struct server s; /* one a process; keys are not left on a stack */
    s = (struct server){.core_fd = -1, .stop = stop, .uid = geteuid()};
    int r = o->api_key_file ? keyfile_read(&s.keys, o->api_key_file, eb) : 0;
    if (r == 0)
        r = origins_parse(&s.origins, o->origins ? o->origins : "", eb);
    if (r < 0) /* a mistake of who wrote them, unless there was no room to read them */
        return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EIO ? r : -EINVAL;
    net_check_open();
    s.conns_max = http_conns_limit();
    s.foreign_max = s.conns_max / 4;
    if (s.foreign_max > HTTP_CONNS_FOREIGN_MAX)
        s.foreign_max = HTTP_CONNS_FOREIGN_MAX;
    s.base = event_base_new();
    if (s.base) {
        s.core_ev = event_new(s.base, -1, 0, on_core, &s);
        s.core_timer = evtimer_new(s.base, on_core_timer, &s);
        s.tick = event_new(s.base, -1, EV_PERSIST, on_tick, &s);
        s.accept_again = evtimer_new(s.base, on_accept_again, &s);
    }
    if (!s.core_ev || !s.core_timer || !s.tick || !s.accept_again)
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
            http_write_port(s.port, o->runtime);
            log_at(LOG_INFO_, "serving http://%s for %s", at, o->core.path);
            corelink_wait_first(s.core, stop);
            sandbox_enter(!co.exit_with_core);
            core_arm(&s);
            event_add(s.tick, &(struct timeval){0, HTTP_TICK_MS * 1000});
            (void)event_base_dispatch(s.base);
            say_stop(&s);
        }
    }
    corelink_close(s.core);
    s.core = NULL;
    return r;
}
