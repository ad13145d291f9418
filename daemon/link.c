/* link.c - see link.h.
 *
 * A link is a state machine over bytes: 32 of header, then the body, then again.  A link that
 * must go is only marked (link_doom) and really taken apart by a timer of the same round,
 * because the mark is often set from inside a handler that still holds the link's call.
 *
 * A frame for which its user has no room (held.h) makes the link wait: nothing is read from it
 * until there is, or until LINK_ROOM_S are over; then the frame is refused, its body read and
 * thrown away, so that what comes behind it (reading other streams) gets on. */
#include "daemon/link.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/share.h"
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/coresock.h"
#include "daemon/daemon.h"
#include "daemon/gen.h"
#include "daemon/held.h"
#include "daemon/ident.h"
#include "daemon/loop.h"
#include "daemon/pace.h"
#include "json/json.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define LINK_MAGIC  0x6c696e6bu
#define LINKS_MAGIC 0x6c6e6b73u
enum {
    SCRATCH_BYTES = 64 << 10,
    READ_ROUND_BYTES = 4 << 20, /* from one peer before the others get a turn */
    LINK_OUT_HARD = 64 << 20,   /* unsent bytes at which a peer counts as dead */
};

struct out { /* bytes the peer has not taken yet */
    struct out *next;
    size_t bytes, sent;
    uint8_t data[];
};
struct link {
    uint32_t magic;
    struct links *ls;
    struct link *next, *prev;
    struct loop_watch watch;
    struct loop_timer stall; /* half a frame, or a reader that stopped */
    struct loop_timer room;  /* waits no longer for room */
    uint32_t uid;
    struct held_user *user;
    uint64_t frame_ns; /* its first byte came, or it could go on */
    uint64_t taken_ns; /* the peer last took some of a reply */
    uint64_t used_ns;  /* bytes last came */
    bool held_up;      /* the frame at hand waits for us, not we for it */
    uint64_t charge;   /* held for the frame at hand */
    bool waiting;      /* for room for it */
    bool no_room;      /* it is refused for that */
    bool late;         /* reads on when its user's turn comes (pace.h) */
    uint8_t head[HRT_HEAD_BYTES];
    uint32_t head_got;
    struct hrt_frame f;
    uint8_t *body;
    size_t body_got, body_cap, body_want;
    char
        skip[256]; /* "": parse the body; else it is thrown away, the frame refused with this */
    struct out *out, **out_tail;
    size_t out_bytes;
    uint8_t *rest; /* read, but not looked at: the peer's replies are to be taken first */
    size_t rest_bytes;
    struct call *calls;
    uint32_t n_calls;
    bool closing; /* nothing is read any more; goes when all is sent */
    bool doomed;
};
struct links {
    uint32_t magic;
    struct daemon *d;
    struct coresock sock;
    struct loop_watch listen;
    struct loop_timer reap, again, resume;
    struct held *held;
    struct link *head;
    struct call *gone; /* of a link being freed, not told yet */
    uint64_t half_frame_ns;
    struct links_stats st;
    uint8_t scratch[SCRATCH_BYTES];
};
struct link_call {
    struct call c; /* first: freed through it */
    struct held_user *user;
    uint64_t charge;
    cJSON *json;
    uint8_t *body;
};

/* --- going away --- */
static void link_doom(struct link *l)
{
    if (l->doomed)
        return;
    l->doomed = true;
    loop_del(l->ls->d->loop, &l->watch);
    loop_timer_set(l->ls->d->loop, &l->ls->reap, now_ns());
}

static void call_unchain(struct call *c, struct call **head)
{
    if (c->prev)
        c->prev->next = c->next;
    else if (*head == c)
        *head = c->next;
    if (c->next)
        c->next->prev = c->prev;
    c->next = c->prev = NULL;
}

static void link_free(struct link *l)
{
    struct links *ls = l->ls;
    struct loop *loop = ls->d->loop;

    must_be(l, LINK_MAGIC);
    l->magic = 0;
    loop_del(loop, &l->watch);
    loop_timer_cancel(loop, &l->stall);
    loop_timer_cancel(loop, &l->room);
    close(l->watch.fd);
    if (l->next)
        l->next->prev = l->prev;
    *(l->prev ? &l->prev->next : &ls->head) = l->next;
    ls->st.links--;
    /* All are cut loose first: an on_gone may answer, and so free, any of them. */
    ls->st.calls_open -= l->n_calls;
    ls->gone = l->calls;
    for (struct call *c = ls->gone; c; c = c->next) {
        c->gone = true;
        c->link = NULL;
    }
    while (ls->gone) {
        struct call *c = ls->gone;
        void (*fn)(struct call *) = c->on_gone;

        call_unchain(c, &ls->gone);
        c->on_gone = NULL;
        if (fn)
            fn(c);
    }
    while (l->out) {
        struct out *o = l->out;
        l->out = o->next;
        held_sub(l->user, o->bytes);
        free(o);
    }
    held_sub(l->user, l->charge);
    held_drop(l->user);
    free(l->body);
    free(l->rest);
    readers_link_gone(ls->d, l);
    free(l);
}

static void links_reap(struct loop_timer *t)
{
    struct links *ls = t->user;

    for (struct link *l = ls->head, *next; l; l = next) {
        next = l->next;
        if (l->doomed)
            link_free(l);
    }
}

/* --- out --- */
/* A frame may take so long to come in: at least 256 KiB a second once it is under way. */
static uint64_t link_frame_ns(const struct link *l)
{
    return l->ls->half_frame_ns + (uint64_t)l->body_want * 4000;
}

/* What to wait for now, and when the peer has kept us waiting for too long. */
static void link_arm(struct link *l)
{
    struct loop *loop = l->ls->d->loop;
    bool full = l->out_bytes > LINK_OUT_MAX;
    uint32_t ev =
        (l->out ? EPOLLOUT : 0) | (full || l->closing || l->waiting || l->late ? 0 : EPOLLIN);
    uint64_t at = 0;

    if (l->doomed)
        return;
    if (!ev && l->late) { /* it may have hung up, and is to be read all the same */
        loop_del(loop, &l->watch);
    } else if (loop_set(loop, &l->watch, ev) < 0) {
        link_doom(l);
        return;
    }
    if (full || l->waiting || l->late) {
        l->held_up = true;
    } else if (l->head_got) {
        if (l->held_up)
            l->frame_ns = now_ns();
        l->held_up = false;
        at = l->frame_ns + link_frame_ns(l);
    }
    if (l->out && (!at || l->taken_ns + LINK_TAKE_S * 1000000000ull < at))
        at = l->taken_ns + LINK_TAKE_S * 1000000000ull;
    if (at)
        loop_timer_set(loop, &l->stall, at);
    else
        loop_timer_cancel(loop, &l->stall);
}

static void link_stalled(struct loop_timer *t)
{
    struct link *l = t->user;
    bool take = l->out && now_ns() - l->taken_ns >= LINK_TAKE_S * 1000000000ull;

    log_at(LOG_WARN_, "link of uid %u: %s for %llu s, closing it", l->uid,
           take ? "a reply not taken" : "half a frame",
           (unsigned long long)(take ? LINK_TAKE_S : link_frame_ns(l) / 1000000000ull));
    link_doom(l);
}

static void link_flush(struct link *l)
{
    while (l->out && !l->doomed) {
        struct out *o = l->out;
        ssize_t n = send(l->watch.fd, o->data + o->sent, o->bytes - o->sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                link_doom(l);
            break;
        }
        l->taken_ns = now_ns();
        o->sent += (size_t)n;
        l->out_bytes -= (size_t)n;
        l->ls->st.bytes_out += (uint64_t)n;
        if (o->sent == o->bytes) {
            l->out = o->next;
            if (!l->out)
                l->out_tail = &l->out;
            held_sub(l->user, o->bytes);
            free(o);
        }
    }
    if (l->closing && !l->out)
        link_doom(l);
    link_arm(l);
}

/* Sends what the socket takes at once and keeps the rest. */
static void link_send(struct link *l, struct iovec *iov, int n_iov)
{
    size_t total = 0, sent = 0;

    if (l->doomed)
        return;
    for (int i = 0; i < n_iov; i++)
        total += iov[i].iov_len;
    if (!l->out) {
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n_iov};
        ssize_t n;

        do
            n = sendmsg(l->watch.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno != EAGAIN) {
            link_doom(l);
            return;
        }
        sent = n > 0 ? (size_t)n : 0;
        l->ls->st.bytes_out += sent;
    }
    if (sent < total) {
        struct out *o = malloc(sizeof *o + total - sent);

        if (!o || l->out_bytes + total - sent > LINK_OUT_HARD) {
            log_at(LOG_WARN_, "link of uid %u: %zu bytes of replies not taken, closing it",
                   l->uid, l->out_bytes);
            free(o);
            link_doom(l);
            return;
        }
        *o = (struct out){.bytes = total - sent};
        if (!l->out || sent)
            l->taken_ns = now_ns();
        size_t skip = sent, at = 0;
        for (int i = 0; i < n_iov; i++) {
            size_t s = skip < iov[i].iov_len ? skip : iov[i].iov_len;

            if (iov[i].iov_len > s)
                memcpy(o->data + at, (const uint8_t *)iov[i].iov_base + s, iov[i].iov_len - s);
            at += iov[i].iov_len - s;
            skip -= s;
        }
        *l->out_tail = o;
        l->out_tail = &o->next;
        l->out_bytes += o->bytes;
        held_add_reply(l->user, o->bytes);
    }
    link_arm(l);
}

static void call_free(struct call *c)
{
    struct link_call *lc = (struct link_call *)c;

    cJSON_Delete(lc->json);
    free(lc->body);
    held_sub(lc->user, lc->charge);
    held_drop(lc->user);
    free(lc);
}

void link_reply(struct call *c, uint32_t status, const char *json, size_t json_bytes,
                const void *tail, size_t tail_bytes)
{
    struct link *l = c->link;
    uint8_t head[HRT_HEAD_BYTES];

    if (!l) { /* the peer went away */
        if (c->d->links)
            call_unchain(c, &c->d->links->gone);
        call_free(c);
        return;
    }
    must_be(l, LINK_MAGIC);
    must(json_bytes <= JSON_BYTES_MAX && tail_bytes <= TAIL_BYTES_MAX);
    call_unchain(c, &l->calls);
    l->n_calls--;
    l->ls->st.calls_open--;
    if (status < sizeof l->ls->st.replies / sizeof *l->ls->st.replies)
        l->ls->st.replies[status]++;
    struct hrt_frame f = {.type = c->type,
                          .flags = HRT_REPLY,
                          .json_len = (uint32_t)json_bytes,
                          .tail_len = (uint32_t)tail_bytes,
                          .id = c->frame_id,
                          .status = status};
    hrt_pack(head, &f);
    struct iovec iov[3] = {{head, sizeof head},
                           {(void *)(uintptr_t)json, json_bytes},
                           {(void *)(uintptr_t)tail, tail_bytes}};
    link_send(l, iov, tail_bytes ? 3 : 2);
    call_free(c);
}

/* --- in --- */
static struct call *link_call_new(struct link *l, uint8_t type, uint64_t id)
{
    struct link_call *lc = calloc(1, sizeof *lc);
    struct call *c = &lc->c;

    if (!lc)
        return NULL;
    lc->user = held_take_same(l->user);
    *c = (struct call){.d = l->ls->d,
                       .uid = l->uid,
                       .type = type,
                       .frame_id = id,
                       .arrived_ns = now_ns(),
                       .link = l,
                       .next = l->calls};
    if (l->calls)
        l->calls->prev = c;
    l->calls = c;
    l->n_calls++;
    l->ls->st.calls_open++;
    return c;
}

/* Refuses a frame that never became a call. */
static void link_refuse(struct link *l, uint8_t type, uint64_t id, uint32_t status,
                        const char *slug, const char *words)
{
    struct call *c = link_call_new(l, type, id);

    l->ls->st.bad_frames++;
    if (c)
        call_fail(c, status, slug, NULL, "%s", words);
    else
        link_doom(l);
}

static void link_run(struct link *l)
{
    const struct op *op = ops_find(l->f.type);
    struct errbuf eb = {""};
    struct call *c;
    char words[160];

    l->ls->st.frames++;
    if (l->skip[0]) {
        link_refuse(l, l->f.type, l->f.id,
                    l->no_room ? HRT_RESOURCE_EXHAUSTED : HRT_INVALID_ARGUMENT,
                    l->no_room ? "queue_full" : "bad_frame", l->skip);
        return;
    }
    if (!op) {
        snprintf(words, sizeof words, "operation type %u is not known to this daemon",
                 l->f.type);
        link_refuse(l, l->f.type, l->f.id, HRT_UNIMPLEMENTED, "unknown_type", words);
        return;
    }
    if (l->n_calls >= LINK_CALLS_MAX) {
        snprintf(words, sizeof words,
                 "%d requests of this connection wait for their reply already", LINK_CALLS_MAX);
        link_refuse(l, l->f.type, l->f.id, HRT_RESOURCE_EXHAUSTED, "queue_full", words);
        return;
    }
    cJSON *json = NULL;
    int r = json_parse(&json, (const char *)l->body, l->f.json_len, &eb);
    if (r < 0) {
        link_refuse(l, l->f.type, l->f.id,
                    r == -ENOMEM ? HRT_RESOURCE_EXHAUSTED : HRT_INVALID_ARGUMENT,
                    r == -ENOMEM ? "out_of_memory" : "bad_json", eb.s);
        return;
    }
    c = link_call_new(l, l->f.type, l->f.id);
    if (!c) {
        cJSON_Delete(json);
        link_doom(l);
        return;
    }
    struct link_call *lc = (struct link_call *)c;
    lc->json = json;
    lc->body = l->body;
    lc->charge = l->charge;
    l->charge = 0;
    c->json = json;
    c->tail = l->body ? l->body + l->f.json_len : NULL;
    c->tail_bytes = l->f.tail_len;
    l->body = NULL;
    l->body_cap = 0;
    if (call_as(c))
        op->run(c);
}

/* The 32 bytes are here.  false: the link cannot go on. */
static bool link_head(struct link *l)
{
    struct errbuf eb = {""};
    const uint8_t *h = l->head;
    int r = hrt_unpack(&l->f, h, &eb);

    l->skip[0] = 0;
    l->no_room = false;
    if (r == 0 && l->f.flags & HRT_REPLY)
        r = err_set(&eb, -EINVAL, "frame: a reply came where requests are read");
    if (r == -EINVAL) {
        /* The header's checksum fits, so its lengths are what the peer meant. */
        l->f = (struct hrt_frame){.type = h[5],
                                  .json_len = ld32(h + 8),
                                  .tail_len = ld32(h + 12),
                                  .id = ld64(h + 16)};
        if (l->f.json_len <= JSON_BYTES_MAX && l->f.tail_len <= TAIL_BYTES_MAX) {
            snprintf(l->skip, sizeof l->skip, "%.*s", (int)sizeof l->skip - 1, eb.s);
            r = 0;
        }
    }
    if (r < 0) {
        /* Where the next frame begins is not known any more. */
        bool sound = r != E_CORRUPT;

        l->closing = true;
        link_refuse(l, sound ? h[5] : 0, sound ? ld64(h + 16) : 0,
                    r == E_VERSION ? HRT_UNIMPLEMENTED : HRT_INVALID_ARGUMENT, "bad_frame",
                    eb.s);
        if (!l->out)
            link_doom(l);
        return false;
    }
    l->body_want = (size_t)l->f.json_len + l->f.tail_len;
    l->body_got = 0;
    return true;
}

/* What the frame may come to: its JSON as text, parsed, and copied by who works on it. */
static bool link_charge(struct link *l)
{
    uint64_t bytes =
        sizeof(struct link_call) + 4 * (uint64_t)l->f.json_len + (uint64_t)l->f.tail_len;

    if (l->skip[0])
        return true;
    if (held_add(l->user, bytes)) {
        l->charge = bytes;
        return true;
    }
    if (!l->waiting) {
        l->waiting = true;
        loop_timer_set(l->ls->d->loop, &l->room, now_ns() + LINK_ROOM_S * 1000000000ull);
    }
    return false;
}

/* Room for n more body bytes; grows with what arrived, never with what was announced. */
static bool link_room(struct link *l, size_t n)
{
    size_t need = l->body_got + n, cap = l->body_cap ? l->body_cap : 4096;

    if (need <= l->body_cap)
        return true;
    while (cap < need)
        cap *= 2;
    if (cap > l->body_want)
        cap = l->body_want;
    uint8_t *p = realloc(l->body, cap);
    if (!p) {
        log_at(LOG_ERROR_, "link of uid %u: no memory for a frame of %zu bytes, closing it",
               l->uid, l->body_want);
        link_doom(l);
        return false;
    }
    l->body = p;
    l->body_cap = cap;
    return true;
}

static void link_frame_done(struct link *l)
{
    uint64_t from = now_ns();

    link_run(l);
    pace_frame(held_pace(l->user), l->ls->d, l->uid, from);
    held_sub(l->user, l->charge); /* no call has it */
    l->charge = 0;
    l->head_got = 0;
    l->body_got = l->body_want = 0;
    if (l->body_cap > 1u << 20) { /* refused frames leave theirs behind */
        free(l->body);
        l->body = NULL;
        l->body_cap = 0;
    }
}

static void links_room(void *ctx)
{
    struct links *ls = ctx;

    loop_timer_set(ls->d->loop, &ls->resume, now_ns());
}

/* Its user's frames have had their part: nothing more is read until links_resume. */
static bool link_late(struct link *l)
{
    struct loop_timer *t = &l->ls->resume;
    uint64_t at = pace_late(held_pace(l->user), l->ls->d);

    if (at && (!t->index || at < t->at_ns))
        loop_timer_set(l->ls->d->loop, t, at);
    return (l->late = at != 0);
}

/* One read may hold thousands of frames, whose replies may be large: the rest waits. */
static void link_keep(struct link *l, const uint8_t *p, size_t n)
{
    if (n == 0)
        return;
    l->rest = malloc(n);
    if (!l->rest) {
        link_doom(l);
        return;
    }
    memcpy(l->rest, p, n);
    l->rest_bytes = n;
}

static void link_feed(struct link *l, const uint8_t *p, size_t n)
{
    while (n && !l->doomed && !l->closing) {
        if (l->out_bytes > LINK_OUT_MAX || (l->head_got == 0 && link_late(l))) {
            link_keep(l, p, n);
            return;
        }
        if (l->head_got < HRT_HEAD_BYTES) {
            size_t take = HRT_HEAD_BYTES - l->head_got;

            take = take < n ? take : n;
            if (l->head_got == 0)
                l->frame_ns = now_ns();
            memcpy(l->head + l->head_got, p, take);
            l->head_got += (uint32_t)take;
            p += take;
            n -= take;
            if (l->head_got < HRT_HEAD_BYTES)
                return;
            if (!link_head(l))
                return;
            if (!link_charge(l)) {
                link_keep(l, p, n);
                return;
            }
        } else {
            size_t take = l->body_want - l->body_got;

            take = take < n ? take : n;
            if (!l->skip[0]) {
                if (!link_room(l, take))
                    return;
                memcpy(l->body + l->body_got, p, take);
            }
            l->body_got += take;
            p += take;
            n -= take;
        }
        if (l->body_got == l->body_want)
            link_frame_done(l);
    }
}

static void link_read(struct link *l)
{
    struct links *ls = l->ls;
    size_t budget = link_late(l) ? 0 : READ_ROUND_BYTES;

    if (l->rest && budget) {
        uint8_t *p = l->rest;

        l->rest = NULL;
        link_feed(l, p, l->rest_bytes);
        free(p);
    }
    while (budget && !l->rest && !l->waiting && !l->doomed && !l->closing &&
           l->out_bytes <= LINK_OUT_MAX) {
        size_t want = l->head_got == HRT_HEAD_BYTES ? l->body_want - l->body_got : 0;
        bool direct = want >= SCRATCH_BYTES && !l->skip[0]; /* a large body: no second copy */

        want = direct ? (want < 1u << 20 ? want : 1u << 20) : SCRATCH_BYTES;
        if (direct && !link_room(l, want))
            return;
        ssize_t n =
            recv(l->watch.fd, direct ? l->body + l->body_got : ls->scratch, want, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            link_doom(l);
            return;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        l->used_ns = now_ns();
        ls->st.bytes_in += (uint64_t)n;
        budget -= (size_t)n < budget ? (size_t)n : budget;
        if (!direct) {
            link_feed(l, ls->scratch, (size_t)n);
        } else {
            l->body_got += (size_t)n;
            if (l->body_got == l->body_want)
                link_frame_done(l);
        }
        if ((size_t)n < want)
            break; /* level-triggered: what comes later wakes us again */
    }
    link_arm(l);
}

/* The frame that waited for room goes on: it has room now, or is refused. */
static void link_go_on(struct link *l)
{
    l->waiting = false;
    loop_timer_cancel(l->ls->d->loop, &l->room);
    if (l->body_want == 0)
        link_frame_done(l);
    link_read(l);
}

static void link_no_room(struct loop_timer *t)
{
    struct link *l = t->user;

    if (l->doomed)
        return;
    l->no_room = true;
    snprintf(l->skip, sizeof l->skip,
             "what you have sent and not been answered fills your share of memory (%d MiB); "
             "wait for answers",
             HELD_USER_MAX >> 20);
    link_go_on(l);
}

static void links_resume(struct loop_timer *t)
{
    struct links *ls = t->user;

    for (struct link *l = ls->head; l; l = l->next) {
        if (l->waiting && !l->doomed && link_charge(l))
            link_go_on(l);
        else if (l->late && !l->waiting && !l->doomed && !link_late(l))
            link_read(l);
    }
}

static void link_ready(struct loop_watch *w, uint32_t events)
{
    struct link *l = w->user;

    if (events & EPOLLOUT)
        link_flush(l);
    if (!l->doomed && !l->waiting &&
        (events & EPOLLIN || (l->rest && l->out_bytes <= LINK_OUT_MAX)))
        link_read(l);
    /* The peer is gone for good and nothing is left to read. */
    if (!l->doomed && events & (EPOLLERR | EPOLLHUP) && !(events & EPOLLIN))
        link_doom(l);
}

/* --- room for one more --- */
static bool link_idle(const struct link *l, uint64_t now)
{
    return !l->n_calls && !l->out && !l->rest && !l->head_got && !l->doomed &&
           now - l->used_ns > LINK_IDLE_S * 1000000000ull;
}

/* A user who has his share loses the connection that has been idle for longest. */
static bool links_room_for(struct links *ls, uint32_t uid, uint32_t *ret_own)
{
    struct link *idle = NULL;
    uint64_t now = now_ns();
    uint32_t own = 0;

    for (struct link *l = ls->head; l; l = l->next) {
        own += l->uid == uid;
        if (l->uid == uid && link_idle(l, now) && (!idle || l->used_ns < idle->used_ns))
            idle = l;
    }
    *ret_own = own;
    if (share_more(own, ls->st.links, LINKS_MAX))
        return true;
    if (idle)
        link_free(idle);
    return idle != NULL;
}

int links_add(struct daemon *d, int fd, uint32_t uid)
{
    struct links *ls = d->links;
    struct link *l;
    uint32_t own = 0;

    must_be(ls, LINKS_MAGIC);
    if (!links_room_for(ls, uid, &own)) {
        coresock_refuse(&ls->sock, fd, uid, own, ls->st.links);
        return -EAGAIN;
    }
    l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->user = held_take(ls->held, uid);
    if (!l->user) {
        free(l);
        return -ENOMEM;
    }
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    l->ls = ls;
    l->uid = uid;
    l->used_ns = now_ns();
    l->out_tail = &l->out;
    l->watch = (struct loop_watch){.fd = fd, .events = EPOLLIN, .ready = link_ready, .user = l};
    l->stall = (struct loop_timer){.fire = link_stalled, .user = l};
    l->room = (struct loop_timer){.fire = link_no_room, .user = l};
    int r = loop_add(d->loop, &l->watch);
    if (r < 0) {
        held_drop(l->user);
        free(l);
        return r;
    }
    l->next = ls->head;
    if (ls->head)
        ls->head->prev = l;
    ls->head = l;
    ls->st.links++;
    ls->st.accepted++;
    l->magic = LINK_MAGIC;
    return 0;
}

/* --- listening --- */
static void links_accept(struct loop_watch *w, uint32_t events)
{
    struct links *ls = w->user;
    struct ucred cred;
    socklen_t n = sizeof cred;

    (void)events;
    for (int i = 0; i < 16; i++) {
        int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0) {
            /* Out of descriptors: the peer stays in the backlog; without a pause the
             * loop would spin on it. */
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                log_at(LOG_ERROR_, "core.sock: accept: %s, pausing 100 ms", strerror(errno));
                loop_del(ls->d->loop, w);
                loop_timer_set(ls->d->loop, &ls->again, now_ns() + 100000000u);
            }
            return;
        }
        /* An owner's number is a uid's or a key's, never both. */
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 || cred.uid >= IDENT_FIRST ||
            links_add(ls->d, fd, cred.uid) < 0)
            close(fd);
    }
}

static void links_again(struct loop_timer *t)
{
    struct links *ls = t->user;

    if (!ls->d->stopping && loop_add(ls->d->loop, &ls->listen) < 0)
        loop_timer_set(ls->d->loop, t, now_ns() + 1000000000u);
}

int links_open_bare(struct daemon *d)
{
    struct links *ls = calloc(1, sizeof *ls);

    if (!ls)
        return -ENOMEM;
    ls->d = d;
    ls->sock.fd = -1;
    ls->half_frame_ns = LINK_HALF_FRAME_S * 1000000000ull;
    ls->listen =
        (struct loop_watch){.fd = -1, .events = EPOLLIN, .ready = links_accept, .user = ls};
    ls->reap = (struct loop_timer){.fire = links_reap, .user = ls};
    ls->again = (struct loop_timer){.fire = links_again, .user = ls};
    ls->resume = (struct loop_timer){.fire = links_resume, .user = ls};
    if (held_open(&ls->held, links_room, ls) < 0) {
        free(ls);
        return -ENOMEM;
    }
    ls->magic = LINKS_MAGIC;
    d->links = ls;
    return 0;
}

int links_open(struct daemon *d, struct errbuf *eb)
{
    int r = links_open_bare(d);

    if (r < 0)
        return err_set(eb, r, "links: %s", err_str(r));
    r = coresock_open(&d->links->sock, d->conf, eb);
    d->links->listen.fd = d->links->sock.fd;
    if (r == 0 && (r = loop_add(d->loop, &d->links->listen)) < 0)
        err_set(eb, r, "%s: epoll: %s", d->conf->core_path, err_str(r));
    if (r < 0)
        links_close(d);
    return r;
}

void links_patience(struct daemon *d, uint64_t half_frame_ns)
{
    d->links->half_frame_ns = half_frame_ns;
}

void links_stop(struct daemon *d)
{
    struct links *ls = d->links;

    if (!ls)
        return;
    loop_timer_cancel(d->loop, &ls->again);
    loop_del(d->loop, &ls->listen);
}

void links_close(struct daemon *d)
{
    struct links *ls = d->links;

    if (!ls)
        return;
    must_be(ls, LINKS_MAGIC);
    links_stop(d);
    while (ls->head)
        link_free(ls->head);
    loop_timer_cancel(d->loop, &ls->reap);
    coresock_close(&ls->sock, d->conf);
    held_close(ls->held); /* before the timer: links_room sets it */
    loop_timer_cancel(d->loop, &ls->resume);
    ls->magic = 0;
    free(ls);
    d->links = NULL;
}

void links_stats(const struct daemon *d, struct links_stats *ret)
{
    *ret = d->links ? d->links->st : (struct links_stats){0};
    ret->held_bytes = d->links ? held_bytes(d->links->held) : 0;
}
