/* corelink.c - see corelink.h.
 *
 * One stream carries the frames of all owners (the holders of keys, our own user), and hearthd takes
 * them in their order: a large one is in the way of whatever comes behind it, and one that finds no
 * room there (HELD_USER_MAX, which all owners of a front have together) stops the link.  So frames
 * wait here, in classes: small ones (NEXT, CANCEL, short questions) go at once, large ones one at a
 * time of each owner, owners in turn; and of what is not small no more is under way than hearthd
 * has room for. */
#include "daemon/front/corelink.h"
#include "base/bounds.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/share.h"
#include "daemon/front/fjson.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CORELINK_MAGIC = 0x6b6e6c63,
    RETRY_MS_MIN = 20,
    RETRY_MS_MAX = 500,
    PING_MS =
        5000, /* while replies are due and nothing comes, the core is asked whether it lives */
    FIRST_CORE_MS = 5000, /* a core that started us listens already; more is a dead one */
    FRAME_BYTES_MAX = HRT_HEAD_BYTES + JSON_BYTES_MAX + TAIL_BYTES_MAX,
    LARGE_BYTES = 256 << 10,
    BEGUN_MAX = 1020,     /* unanswered by hearthd, which takes 1024 */
    CALL_BYTES = 1 << 10, /* what hearthd counts for a frame beside its bytes, at most */
    SMALL_CHARGE = 16 << 10,
};
enum ask_class { SMALL, MEDIUM, LARGE, CLASSES_ };

/* What frames that are under way may come to in hearthd (link.c, link_charge); small ones have room
 * of their own there. */
static const uint64_t charge_max[CLASSES_] = {0, 14 << 20, 48 << 20};
bound((14 << 20) + (48 << 20) < HELD_USER_MAX, "what is under way finds room in hearthd");

struct owner { /* there while he has asks */
    struct owner *next;
    char as[33]; /* "": our own user */
    uint32_t asks;
    size_t bytes;
    uint64_t charge[CLASSES_]; /* of what is under way */
    uint64_t turn[CLASSES_];   /* when he last had one */
};

struct ask {
    struct ask *next, *prev;   /* all, in order of arrival */
    struct ask *qnext, *qprev; /* those of its class that have not begun */
    struct owner *owner;
    uint64_t charge;
    uint8_t class;
    bool queued, went; /* not begun on this link; begun on this or an earlier one */
    int64_t id;
    uint64_t arrived_ns;
    corelink_fn *fn; /* NULL: forgotten, kept only until its bytes are out */
    void *user;
    bool refused; /* answered before it was wholly sent */
    size_t n;
    uint8_t bytes[];
};
struct corelink {
    uint32_t magic;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    char *hello;
    struct corelink_opts o;
    int fd;
    bool up, over;
    uint32_t generation;
    uint64_t opened_ns, down_ns, retry_ns;
    uint64_t
        heard_ns; /* when bytes last came, or the link was made, or a first ask began to wait */
    bool pinging;
    uint32_t retry_ms;
    int64_t next_id;
    struct ask *head, *tail; /* in order of arrival */
    struct {
        struct ask *head, *tail;
    } queue[CLASSES_];
    struct owner *owners;
    uint64_t charge[CLASSES_], turns;
    struct ask *sending; /* begun and not wholly sent; or NULL */
    size_t sent;         /* bytes of it that are out */
    uint32_t asks, begun;
    size_t ask_bytes;
    uint8_t *in;
    size_t in_n, in_cap;
    int depth; /* inside a callback: a closed link must not free what the caller reads */
};

static void changed(struct corelink *l)
{
    if (l->o.changed)
        l->o.changed(l->o.user);
}

/* --- what waits here, and what is under way ------------------------------------------------ */
static void queue_in(struct corelink *l, struct ask *a, bool first)
{
    struct ask **head = &l->queue[a->class].head, **tail = &l->queue[a->class].tail;
    a->queued = true;
    a->qprev = first ? NULL : *tail;
    a->qnext = first ? *head : NULL;
    *(a->qprev ? &a->qprev->qnext : head) = a;
    *(a->qnext ? &a->qnext->qprev : tail) = a;
}
static void queue_out(struct corelink *l, struct ask *a)
{
    *(a->qprev ? &a->qprev->qnext : &l->queue[a->class].head) = a->qnext;
    *(a->qnext ? &a->qnext->qprev : &l->queue[a->class].tail) = a->qprev;
    a->qnext = a->qprev = NULL;
    a->queued = false;
}

/* May it begin, as far as its owner is concerned? */
static bool owner_may(const struct corelink *l, const struct ask *a)
{
    uint64_t own = a->owner->charge[a->class], all = l->charge[a->class];
    return own == 0 ||
           (a->class == MEDIUM &&
            share_more(own + a->charge - 1, all + a->charge - 1, charge_max[MEDIUM]));
}

/* The next of a class: of the owner who has waited longest for one.  When there is no room for it
 * nobody else's goes instead, or it might wait for ever. */
static struct ask *queue_next(const struct corelink *l, enum ask_class class)
{
    struct ask *best = NULL;
    if (class == SMALL)
        return l->queue[SMALL].head;
    for (struct ask *a = l->queue[class].head; a; a = a->qnext)
        if ((!best || a->owner->turn[class] < best->owner->turn[class]) && owner_may(l, a))
            best = a;
    return best && (l->charge[class] == 0 ||
                    l->charge[class] + best->charge <= charge_max[class])
               ? best
               : NULL;
}
static struct ask *next_ask(const struct corelink *l)
{
    struct ask *a = NULL;
    for (int class = SMALL; !a && class < CLASSES_ && l->begun < BEGUN_MAX; class ++)
        a = queue_next(l, (enum ask_class) class);
    return a;
}

static void ask_begin(struct corelink *l, struct ask *a)
{
    queue_out(l, a);
    a->went = true;
    a->owner->charge[a->class] += a->charge;
    a->owner->turn[a->class] = ++l->turns;
    l->charge[a->class] += a->charge;
    l->begun++;
    l->sending = a;
    l->sent = 0;
}
/* It is answered, or its link is gone. */
static void ask_settle(struct corelink *l, struct ask *a)
{
    a->owner->charge[a->class] -= a->charge;
    l->charge[a->class] -= a->charge;
    l->begun--;
    if (l->sending == a)
        l->sending = NULL;
}

static struct owner *owner_of(struct corelink *l, const char *as)
{
    struct owner *o = l->owners;
    while (o && strcmp(o->as, as ? as : "") != 0)
        o = o->next;
    if (!o && (o = calloc(1, sizeof *o))) {
        snprintf(o->as, sizeof o->as, "%.32s", as ? as : "");
        o->next = l->owners;
        l->owners = o;
    }
    return o;
}
static void owner_drop(struct corelink *l, struct owner *o)
{
    struct owner **at = &l->owners;
    if (o->asks)
        return;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    free(o);
}

static void ask_unlink(struct corelink *l, struct ask *a)
{
    if (a->queued)
        queue_out(l, a);
    else
        ask_settle(l, a);
    *(a->prev ? &a->prev->next : &l->head) = a->next;
    *(a->next ? &a->next->prev : &l->tail) = a->prev;
    l->asks--;
    l->ask_bytes -= a->n;
    a->owner->asks--;
    a->owner->bytes -= a->n;
    owner_drop(l, a->owner);
}

/* Unlinks, answers and frees. */
static void ask_end(struct corelink *l, struct ask *a, const struct corelink_reply *r)
{
    corelink_fn *fn = a->fn;
    void *user = a->user;
    a->fn = NULL;
    /* A core may refuse a frame by its header alone: the rest of it must still go out. */
    if (l->up && a == l->sending && l->sent) {
        a->refused = true;
    } else {
        ask_unlink(l, a);
        free(a);
    }
    if (fn)
        fn(user, r);
}

static void on_ping(void *user, const struct corelink_reply *r)
{
    ((struct corelink *)user)->pinging = false;
    (void)r;
}

/* as becomes the first member of the object. */
static struct ask *ask_make(struct corelink *l, const char *as, uint8_t type, const void *json,
                            size_t json_len, const void *tail, size_t tail_len)
{
    char whose[64] = "";
    if (as) {
        const char *p = json;
        size_t i = 1;
        while (i < json_len && (p[i] == ' ' || p[i] == '\n'))
            i++;
        snprintf(whose, sizeof whose, "{\"as\":\"%.32s\"%s", as,
                 i < json_len && p[i] == '}' ? "" : ",");
        json = p + 1;
        json_len--;
    }
    size_t n_whose = strlen(whose), n = HRT_HEAD_BYTES + n_whose + json_len + tail_len;
    struct ask *a = malloc(sizeof *a + n);
    struct owner *o = a ? owner_of(l, as) : NULL;
    if (!o) {
        free(a);
        return NULL;
    }
    *a = (struct ask){.id = l->next_id++, .n = n, .arrived_ns = now_ns(), .owner = o};
    a->charge = 4 * (uint64_t)(n_whose + json_len) + tail_len + CALL_BYTES;
    a->class = a->charge <= SMALL_CHARGE ? SMALL : n <= LARGE_BYTES ? MEDIUM : LARGE;
    hrt_pack(a->bytes, &(struct hrt_frame){.type = type,
                                           .json_len = (uint32_t)(n_whose + json_len),
                                           .tail_len = (uint32_t)tail_len,
                                           .id = (uint64_t)a->id});
    memcpy(a->bytes + HRT_HEAD_BYTES, whose, n_whose);
    if (json_len)
        memcpy(a->bytes + HRT_HEAD_BYTES + n_whose, json, json_len);
    if (tail_len)
        memcpy(a->bytes + HRT_HEAD_BYTES + n_whose + json_len, tail, tail_len);
    return a;
}

static void ask_link(struct corelink *l, struct ask *a, bool first)
{
    if (first) {
        a->next = l->head;
        *(l->head ? &l->head->prev : &l->tail) = a;
        l->head = a;
    } else {
        a->prev = l->tail;
        *(l->tail ? &l->tail->next : &l->head) = a;
        l->tail = a;
    }
    l->asks++;
    l->ask_bytes += a->n;
    a->owner->asks++;
    a->owner->bytes += a->n;
    queue_in(l, a, first);
}

static void link_down(struct corelink *l, const char *why)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    if (l->up)
        log_at(l->o.exit_with_core ? LOG_INFO_ : LOG_WARN_,
               l->o.exit_with_core ? "link to %s: %s; this front ends with it, and %u requests"
                                   : "link to %s: %s; %u requests wait for the next one",
               l->path, why, l->asks);
    if (l->up && l->o.exit_with_core)
        l->over = true;
    l->up = l->pinging = false;
    l->in_n = 0;
    l->down_ns = now_ns();
    l->retry_ns = l->down_ns + (uint64_t)l->retry_ms * 1000000;
    /* What nobody waits for any more needs no second sending. */
    for (struct ask *a = l->head, *next; a; a = next) {
        next = a->next;
        if (!a->fn) {
            ask_unlink(l, a);
            free(a);
        } else if (!a->queued) {
            ask_settle(l, a);
        } else {
            queue_out(l, a);
        }
    }
    must(l->begun == 0);
    for (struct ask *a = l->head; a; a = a->next)
        queue_in(l, a, false);
    changed(l);
}

static void on_hello(void *user, const struct corelink_reply *r)
{
    struct corelink *l = user;
    if (r->status != HRT_OK)
        log_at(LOG_ERROR_, "hearthd at %s refused HELLO: %.*s", l->path, (int)r->json_len,
               r->json);
}

static void try_connect(struct corelink *l)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, l->path, sizeof sa.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* A connect to a local socket does not wait, except for a full backlog: EAGAIN. */
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        if (l->o.exit_with_core && now_ns() - l->opened_ns > FIRST_CORE_MS * 1000000ull) {
            log_at(LOG_ERROR_, "cannot reach hearthd at %s: %s", l->path, strerror(e));
            l->over = true;
        }
        l->retry_ms = l->retry_ms * 2 < RETRY_MS_MAX ? l->retry_ms * 2 : RETRY_MS_MAX;
        l->retry_ns = now_ns() + (uint64_t)l->retry_ms * 1000000;
        return;
    }
    l->fd = fd;
    l->up = true;
    l->heard_ns = now_ns();
    l->retry_ms = RETRY_MS_MIN;
    if (l->generation++)
        log_at(LOG_INFO_, "link to %s is back, %u requests go on", l->path, l->asks);
    struct ask *a = ask_make(l, NULL, HRT_HELLO, l->hello, strlen(l->hello), NULL, 0);
    if (a) {
        a->fn = on_hello;
        a->user = l;
        ask_link(l, a, true);
    }
    changed(l);
}

/* What is about this link alone must not go out on the next one. */
static void drop_own(struct corelink *l)
{
    for (struct ask *a = l->head, *next; a; a = next) {
        next = a->next;
        if (a->fn == on_hello || a->fn == on_ping) {
            ask_unlink(l, a);
            free(a);
        }
    }
}

int corelink_open(struct corelink **ret, const struct corelink_opts *o, struct errbuf *eb)
{
    struct corelink *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(eb, -ENOMEM, "no memory for the link");
    l->fd = -1;
    l->magic = CORELINK_MAGIC;
    l->o = *o;
    l->next_id = 1;
    l->retry_ms = RETRY_MS_MIN;
    l->opened_ns = l->down_ns = now_ns();
    int r = 0;
    if (strlen(o->path) >= sizeof l->path)
        r = err_set(eb, -ENAMETOOLONG,
                    "--core: %s is longer than the %zu bytes of a socket path", o->path,
                    sizeof l->path - 1);
    else
        memcpy(l->path, o->path, strlen(o->path) + 1);
    l->hello = strdup(o->hello ? o->hello : "{}");
    if (r == 0 && !l->hello)
        r = err_set(eb, -ENOMEM, "no memory for the link");
    if (r < 0) {
        corelink_close(l);
        return r;
    }
    try_connect(l);
    *ret = l;
    return 0;
}

void corelink_close(struct corelink *l)
{
    if (!l)
        return;
    must_be(l, CORELINK_MAGIC);
    l->magic = 0;
    if (l->fd >= 0)
        close(l->fd);
    for (struct ask *a = l->head, *next; a; a = next) {
        next = a->next;
        ask_unlink(l, a);
        free(a);
    }
    free(l->hello);
    free(l->in);
    free(l);
}

int64_t corelink_send(struct corelink *l, uint8_t type, const void *json, size_t json_len,
                      const void *tail, size_t tail_len, corelink_fn *fn, void *user)
{
    return corelink_send_as(l, NULL, type, json, json_len, tail, tail_len, fn, user);
}

int64_t corelink_send_as(struct corelink *l, const char *as, uint8_t type, const void *json,
                         size_t json_len, const void *tail, size_t tail_len, corelink_fn *fn,
                         void *user)
{
    must_be(l, CORELINK_MAGIC);
    must(!as || (json_len >= 2 && *(const char *)json == '{'));
    if (json_len + (as ? 64 : 0) > JSON_BYTES_MAX || tail_len > TAIL_BYTES_MAX)
        return -EMSGSIZE;
    /* A CANCEL makes room, and who sends it is not there to send it again. */
    if (l->asks >= CORELINK_ASKS_MAX + (type == HRT_CANCEL ? CORELINK_CANCELS_MAX : 0))
        return -EAGAIN;
    struct ask *a = ask_make(l, as, type, json, json_len, tail, tail_len);
    if (!a)
        return -ENOMEM;
    if (a->class != SMALL &&
        !share_more(a->owner->bytes + a->n - 1, l->ask_bytes + a->n - 1, CORELINK_BYTES_MAX)) {
        owner_drop(l, a->owner);
        free(a);
        return -EAGAIN;
    }
    a->fn = fn;
    a->user = user;
    int64_t id = a->id;
    if (!l->head)
        l->heard_ns = now_ns(); /* silence before this was nobody's fault */
    ask_link(l, a, false);
    changed(l);
    return id;
}

bool corelink_forget(struct corelink *l, int64_t id)
{
    must_be(l, CORELINK_MAGIC);
    struct ask *a = l->head;
    while (a && a->id != id)
        a = a->next;
    if (!a)
        return false;
    bool went = a->went;
    a->fn = NULL;
    /* Half a frame on the wire must be finished; one not begun need not be sent. */
    if (a->queued) {
        ask_unlink(l, a);
        free(a);
        changed(l);
    }
    return !went;
}

int corelink_fd(const struct corelink *l)
{
    return l->fd;
}
short corelink_events(const struct corelink *l)
{
    return (short)(l->fd < 0 ? 0 : POLLIN | (l->sending || next_ask(l) ? POLLOUT : 0));
}
bool corelink_up(const struct corelink *l)
{
    return l->up;
}
bool corelink_over(const struct corelink *l)
{
    return l->over;
}
uint32_t corelink_generation(const struct corelink *l)
{
    return l->generation;
}
uint64_t corelink_bytes(const struct corelink *l, const char *as)
{
    const struct owner *o = l->owners;
    while (o && strcmp(o->as, as ? as : "") != 0)
        o = o->next;
    return o ? o->bytes : 0;
}
uint32_t corelink_asks(const struct corelink *l)
{
    return l->asks;
}

static void send_some(struct corelink *l)
{
    for (struct ask *a; (a = l->sending ? l->sending : next_ask(l));) {
        if (!l->sending)
            ask_begin(l, a);
        ssize_t n = send(l->fd, a->bytes + l->sent, a->n - l->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0) {
            drop_own(l);
            link_down(l, strerror(errno));
            return;
        }
        l->sent += (size_t)n;
        if (l->sent == a->n) {
            l->sending = NULL;
            if (a->refused) {
                ask_unlink(l, a);
                free(a);
            }
        }
    }
    changed(l);
}

/* One whole frame from in; -EAGAIN: not yet whole. */
static int take_frame(struct corelink *l, size_t *at)
{
    struct hrt_frame f = {0};
    struct errbuf eb;
    if (l->in_n - *at < HRT_HEAD_BYTES)
        return -EAGAIN;
    int r = hrt_unpack(&f, l->in + *at, &eb);
    if (r == 0 && !(f.flags & HRT_REPLY))
        r = err_set(&eb, -EPROTO, "frame: a request where a reply was due");
    if (r < 0) {
        log_at(LOG_ERROR_, "link to %s: %s; the link is made anew", l->path, eb.s);
        return r;
    }
    size_t n = (size_t)HRT_HEAD_BYTES + f.json_len + f.tail_len;
    if (l->in_n - *at < n)
        return -EAGAIN;
    const uint8_t *p = l->in + *at + HRT_HEAD_BYTES;
    struct corelink_reply rep = {.status = f.status,
                                 .type = f.type,
                                 .json = (const char *)p,
                                 .json_len = f.json_len,
                                 .tail = p + f.json_len,
                                 .tail_len = f.tail_len};
    *at += n;
    for (struct ask *a = l->head; a; a = a->next)
        if ((uint64_t)a->id == f.id) {
            ask_end(l, a, &rep);
            break;
        }
    return 0;
}

static void read_some(struct corelink *l)
{
    enum { STEP = 64 << 10 };
    if (l->in_cap - l->in_n < STEP) {
        size_t cap = l->in_cap ? l->in_cap * 2 : 4 * STEP;
        uint8_t *p = cap <= 2u * FRAME_BYTES_MAX + 4 * STEP ? realloc(l->in, cap) : NULL;
        if (!p) {
            drop_own(l);
            link_down(l, "no memory for a reply");
            return;
        }
        l->in = p;
        l->in_cap = cap;
    }
    ssize_t n = recv(l->fd, l->in + l->in_n, l->in_cap - l->in_n, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop_own(l);
        link_down(l, n == 0 ? "closed by hearthd" : strerror(errno));
        return;
    }
    l->in_n += (size_t)n;
    l->heard_ns = now_ns();
    size_t at = 0;
    int r;
    l->depth++;
    while ((r = take_frame(l, &at)) == 0)
        ;
    l->depth--;
    if (r != -EAGAIN) {
        drop_own(l);
        link_down(l, "bytes that are no frame");
        return;
    }
    memmove(l->in, l->in + at, l->in_n - at);
    l->in_n -= at;
}

void corelink_ready(struct corelink *l, short revents)
{
    must_be(l, CORELINK_MAGIC);
    must(l->depth == 0);
    if (l->fd >= 0 && (revents & (POLLIN | POLLHUP | POLLERR)))
        read_some(l);
    if (l->fd >= 0 && (revents & POLLOUT))
        send_some(l);
}

int corelink_wait_ms(const struct corelink *l)
{
    uint64_t now = now_ns();
    if (l->up) /* a second is fine enough for a core that hangs */
        return l->head ? 1000 : -1;
    return l->retry_ns <= now ? 0 : (int)((l->retry_ns - now) / 1000000 + 1);
}

/* A link can stand and its core hang: the kernel takes the bytes of both. */
static void ping(struct corelink *l)
{
    if (l->pinging || !l->head || now_ns() - l->heard_ns < PING_MS * 1000000ull)
        return;
    struct ask *a = ask_make(l, NULL, HRT_PING, "{}", 2, NULL, 0);
    if (!a)
        return;
    a->fn = on_ping;
    a->user = l;
    ask_link(l, a, false);
    l->pinging = true;
    changed(l);
}

/* Those that have waited hold_ms for a core get their answer. */
static void expire(struct corelink *l)
{
    uint64_t now = now_ns(), hold = (uint64_t)l->o.hold_ms * 1000000;
    for (struct ask *a = l->head; a;) {
        struct ask *next = a->next;
        uint64_t mute_ns = l->up ? l->heard_ns : l->down_ns;
        uint64_t since = a->arrived_ns > mute_ns ? a->arrived_ns : mute_ns;
        bool waits = a->fn && a->fn != on_ping && a->fn != on_hello;
        if (waits && now - since >= hold) {
            char *json = front_error(
                HRT_UNAVAILABLE, "core_unavailable", 1000,
                l->up ? "hearthd at %s has accepted requests but answers nothing; if "
                        "that lasts, restart it"
                      : "hearthd does not answer at %s; start it with `hearth serve` "
                        "or `systemctl start hearthd`",
                l->path);
            struct corelink_reply r = {.status = HRT_UNAVAILABLE,
                                       .type = a->bytes[5],
                                       .json = json ? json : "{}",
                                       .json_len = json ? strlen(json) : 2};
            ask_end(l, a, &r);
            free(json);
            next = l->head; /* the callback may have sent, forgotten, or both */
        }
        a = next;
    }
}

void corelink_wait_first(struct corelink *l, const volatile int *stop)
{
    while (l->o.exit_with_core && !l->up && !l->over && !*stop) {
        (void)poll(NULL, 0, corelink_wait_ms(l));
        corelink_tick(l);
    }
}

void corelink_tick(struct corelink *l)
{
    must_be(l, CORELINK_MAGIC);
    if (l->over)
        return;
    if (!l->up && now_ns() >= l->retry_ns)
        try_connect(l);
    if (l->up)
        ping(l);
    if (!l->up || l->pinging)
        expire(l);
}
