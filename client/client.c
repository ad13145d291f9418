/* client.c - see client.h.  The only file of the client that knows libnanomsg.
 *
 * Two carriers behind one call: a cooked REQ socket and a unix stream.  For both this file
 * connects again and sends again until the deadline when the other side ends. */
#include "client/client.h"
#include "base/clock.h"
#include "base/sigmask.h"
#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    CONN_MAGIC = 0x6e6e6f63,
    FRAME_BYTES_MAX = HRT_HEAD_BYTES + JSON_BYTES_MAX + TAIL_BYTES_MAX,
    PATH_BYTES_MAX = sizeof((struct sockaddr_un *)0)->sun_path,
    SLICE_MS = 2500,   /* a reply not here by then: a new socket, the same request */
    RESEND_MS = 31000, /* the longest wait of NEXT and one second */
    RETRY_MS = 50,     /* between attempts to connect */
    FIRST_MS = 400,    /* how long a first call waits for somebody to listen */
    GREET_MS = 500,    /* how long who listens may take to greet, and then to answer */
    BACK_MS = 2000,    /* and where somebody has listened: a front that died is back in one */
};

struct hearth_conn {
    uint32_t magic;
    bool nn;
    bool answered; /* somebody has replied once: from then on a silence is a restart */
    bool reached;  /* somebody has listened once */
    char url[PATH_BYTES_MAX + 8];
    const char *path; /* within url */
    int fd;           /* nn: the socket's number; unix: -1 while not connected */
    int watch;        /* nn: a connection that says when the front ends; -1: none */
    uint64_t next_id;
};

void hearth_reply_fini(struct hearth_reply *r)
{
    free(r->json);
    free(r->tail);
    *r = (struct hearth_reply){0};
}

void hearth_new_id(char ret[33])
{
    uint8_t b[16];
    ssize_t n = getrandom(b, sizeof b, 0);
    must(n == sizeof b); /* 16 bytes never come short */
    for (size_t i = 0; i < sizeof b; i++)
        snprintf(ret + 2 * i, 3, "%02x", b[i]);
}

int hearth_connect(struct hearth_conn **ret, const char *url, struct errbuf *eb)
{
    bool nn = strncmp(url, "ipc://", 6) == 0;
    const char *path = nn ? url + 6 : strncmp(url, "unix://", 7) == 0 ? url + 7 : NULL;
    if (!path || !path[0])
        return err_set(eb, -EINVAL, "socket: want ipc://PATH or unix://PATH, got \"%.200s\"",
                       url);
    if (strlen(path) >= PATH_BYTES_MAX)
        return err_set(eb, -EINVAL,
                       "socket: the path has %zu bytes, a socket's may have %d: %.200s",
                       strlen(path), PATH_BYTES_MAX - 1, path);
    struct hearth_conn *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(eb, -ENOMEM, "no memory for a connection");
    c->nn = nn;
    c->fd = c->watch = -1;
    c->next_id = 1;
    memcpy(c->url, url, strlen(url) + 1);
    c->path = c->url + (path - url);
    c->magic = CONN_MAGIC;
    *ret = c;
    return 0;
}

/* libnanomsg does not bear signals: a call of it that one interrupts leaves a socket that the
 * next call dies of.  So they are kept out of it, and of the threads it starts. */
static void drop(struct hearth_conn *c)
{
    sigset_t old;
    if (c->fd >= 0 && c->nn) {
        sigmask_hold(&old);
        (void)nn_close(c->fd);
        sigmask_back(&old);
    } else if (c->fd >= 0) {
        close(c->fd);
    }
    if (c->watch >= 0)
        close(c->watch);
    c->fd = c->watch = -1;
}

void hearth_close(struct hearth_conn *c)
{
    if (!c)
        return;
    must_be(c, CONN_MAGIC);
    c->magic = 0;
    drop(c);
    free(c);
}

bool hearth_reached(const struct hearth_conn *c)
{
    must_be(c, CONN_MAGIC);
    return c->reached;
}

static int left_ms(uint64_t until_ns)
{
    uint64_t now = now_ns();
    return now >= until_ns ? 0 : (int)((until_ns - now + 999999) / 1000000);
}

/* Is it root, or are we it? */
static bool ours(uid_t uid)
{
    return uid == 0 || uid == geteuid();
}

/* Whoever can put a socket there reads what we send: that must be root or we.  A directory of
 * somebody else is his service's, when root or we gave it him: when nobody else could have made it
 * where it lies.  0, or -EPERM with words; what is not there is no fault. */
static int trusted(const char *path, struct errbuf *eb)
{
    static const char what_to_do[] = "what is sent there would be read by others; remove it, "
                                     "set XDG_RUNTIME_DIR to a directory "
                                     "of yours, or name the daemon's socket with --socket";
    char dir[PATH_BYTES_MAX], above[PATH_BYTES_MAX];
    struct stat st, up, sock;
    const char *slash = strrchr(path, '/');
    snprintf(dir, sizeof dir, "%.*s", slash && slash > path ? (int)(slash - path) : 1,
             slash ? path : ".");
    if (lstat(dir, &st) < 0)
        return 0;
    if (S_ISLNK(st.st_mode) && !ours(st.st_uid))
        return err_set(eb, -EPERM, "%s is a link of uid %u: %s", dir, st.st_uid, what_to_do);
    if (stat(dir, &st) < 0)
        return 0;
    snprintf(above, sizeof above, "%s", dir);
    char *end = strrchr(above, '/');
    if (end)
        end[end == above] = 0;
    if (!ours(st.st_uid) &&
        (!end || stat(above, &up) < 0 || !ours(up.st_uid) || up.st_mode & 022))
        return err_set(eb, -EPERM, "%s belongs to uid %u: %s", dir, st.st_uid, what_to_do);
    if (!(st.st_mode & 022))
        return 0;
    if (!(st.st_mode & S_ISVTX))
        return err_set(eb, -EPERM, "%s may be written by others (mode %04o): %s", dir,
                       st.st_mode & 07777, what_to_do);
    /* As in /tmp: anybody may have made it, but nobody can put another in its place. */
    if (lstat(path, &sock) == 0 && !ours(sock.st_uid))
        return err_set(eb, -EPERM, "%s belongs to uid %u: %s", path, sock.st_uid, what_to_do);
    return 0;
}

/* A plain connection: does anybody listen?  fd or -errno; -EPERM with words: he is not asked. */
static int connect_path(const char *path, struct errbuf *eb)
{
    int ok = trusted(path, eb);
    if (ok < 0)
        return ok;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0)
        return fd;
    int e = errno == EPERM ? EACCES : errno;
    if (fd >= 0)
        close(fd);
    return -e;
}

/* A frame of n bytes is a reply to type and id: into ret. 1: to something else, ignore it. */
static int take_reply(const uint8_t *m, size_t n, uint8_t type, uint64_t id,
                      struct hearth_reply *ret, struct errbuf *eb)
{
    struct hrt_frame f = {0};
    int r = n < HRT_HEAD_BYTES ? err_set(eb, E_CORRUPT, "frame: %zu bytes", n)
                               : hrt_unpack(&f, m, eb);
    if (r < 0)
        return r;
    if (n != (size_t)HRT_HEAD_BYTES + f.json_len + f.tail_len || !(f.flags & HRT_REPLY))
        return err_set(eb, E_CORRUPT, "frame: not a reply, or of another length than it says");
    /* A front that could not read the request's header answers with id 0. */
    if (f.id != id && !(f.id == 0 && f.status != HRT_OK))
        return 1;
    if (f.type != type && f.status == HRT_OK)
        return err_set(eb, E_CORRUPT, "frame: a reply of type %u to a request of type %u",
                       f.type, type);
    struct hearth_reply rep = {.status = f.status,
                               .json_bytes = f.json_len,
                               .tail_bytes = f.tail_len,
                               .json = malloc((size_t)f.json_len + 1),
                               .tail = malloc((size_t)f.tail_len + 1)};
    if (!rep.json || !rep.tail) {
        hearth_reply_fini(&rep);
        return err_set(eb, -ENOMEM, "no memory for a reply of %u bytes",
                       f.json_len + f.tail_len);
    }
    memcpy(rep.json, m + HRT_HEAD_BYTES, f.json_len);
    rep.json[f.json_len] = 0;
    memcpy(rep.tail, m + HRT_HEAD_BYTES + f.json_len, f.tail_len);
    *ret = rep;
    return 0;
}

static int nobody(const struct hearth_conn *c, int e, struct errbuf *eb)
{
    if (e == EACCES) /* perhaps there is one: who is kept out cannot see that */
        return err_set(eb, -EACCES, "this user may not reach a daemon at %s (%s)", c->path,
                       strerror(e));
    return err_set(eb, -ECONNREFUSED, "no daemon listens at %s (%s)", c->path, strerror(e));
}

static int too_late(const struct hearth_conn *c, struct errbuf *eb)
{
    return err_set(eb, -ETIMEDOUT, "no reply from %s in time", c->path);
}

/* --- bytes of a stream ------------------------------------------------------------------------ */
static const uint8_t greeting[4] = {0, 'S', 'P',
                                    0}; /* a nanomsg socket's, to whoever connects */

/* All n bytes before until.  0, -ETIMEDOUT, -EINTR, or the connection's error. */
static int send_all(int fd, const uint8_t *p, size_t n, uint64_t until)
{
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k >= 0) {
            p += k;
            n -= (size_t)k;
            continue;
        }
        if (errno != EAGAIN)
            return errno == EINTR ? -EINTR : -errno;
        struct pollfd w = {fd, POLLOUT, 0};
        int r = poll(&w, 1, left_ms(until));
        if (r <= 0)
            return r < 0 ? -EINTR : -ETIMEDOUT;
    }
    return 0;
}
static int recv_all(int fd, uint8_t *p, size_t n, uint64_t until)
{
    while (n) {
        struct pollfd w = {fd, POLLIN, 0};
        int r = poll(&w, 1, left_ms(until));
        if (r <= 0)
            return r < 0 ? -EINTR : -ETIMEDOUT;
        ssize_t k = recv(fd, p, n, 0);
        if (k <= 0)
            return k == 0 ? -ECONNRESET : -errno;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* The next whole frame, malloc'd. */
static int recv_frame(int fd, uint64_t until, uint8_t **ret, size_t *ret_n, struct errbuf *eb)
{
    uint8_t head[HRT_HEAD_BYTES];
    struct hrt_frame f = {0};
    int r = recv_all(fd, head, sizeof greeting, until);
    if (r == 0 && memcmp(head, greeting, sizeof greeting) == 0)
        return err_set(eb, -EINVAL,
                       "socket: a nanomsg socket listens there; name it with ipc:// instead "
                       "of unix://");
    if (r == 0)
        r = recv_all(fd, head + sizeof greeting, sizeof head - sizeof greeting, until);
    if (r == 0)
        r = hrt_unpack(&f, head, eb);
    if (r < 0)
        return r;
    size_t n = (size_t)HRT_HEAD_BYTES + f.json_len + f.tail_len;
    uint8_t *m = malloc(n);
    if (!m)
        return err_set(eb, -ENOMEM, "no memory for a reply of %zu bytes", n);
    memcpy(m, head, sizeof head);
    r = recv_all(fd, m + sizeof head, n - sizeof head, until);
    if (r < 0) {
        free(m);
        return r;
    }
    *ret = m;
    *ret_n = n;
    return 0;
}

/* --- nanomsg --------------------------------------------------------------------------------- */
/* A peer that sends its header and ends at once is lost on libnanomsg: it neither sees the end
 * nor connects again.  A front that is killed as we connect does just that.  So a connection
 * of our own watches beside the library's, opened before it: when the front that it reached has
 * ended, the library's is either of that front too, or of a younger one, and is made anew. */
static int watch_open(struct hearth_conn *c, struct errbuf *eb)
{
    static const uint8_t hello[8] = {0, 'S', 'P', 0, NN_REQ >> 8, NN_REQ & 255, 0, 0};
    int fd = connect_path(c->path, eb);
    if (fd < 0)
        return fd;
    /* Without it the front closes us after a second. */
    if (send(fd, hello, sizeof hello, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof hello) {
        close(fd);
        return -EPIPE;
    }
    c->watch = fd;
    return 0;
}

static bool watch_ended(const struct hearth_conn *c)
{
    struct pollfd p = {c->watch, 0, 0};
    return poll(&p, 1, 0) > 0;
}

/* Does hearthd itself listen, where a front is meant?  A front greets at once; who does not is asked
 * in hearthd's own way. */
static bool is_core(const struct hearth_conn *c, uint64_t until)
{
    struct pollfd p = {c->watch, POLLIN, 0};
    uint8_t b[sizeof greeting], ping[HRT_HEAD_BYTES], *got = NULL;
    struct errbuf eb;
    size_t n;
    int wait = left_ms(until);
    if (poll(&p, 1, wait < GREET_MS ? wait : GREET_MS) == 1 &&
        recv(c->watch, b, sizeof b, MSG_PEEK | MSG_DONTWAIT) == sizeof b &&
        memcmp(b, greeting, sizeof b) == 0)
        return false;
    int fd = connect_path(c->path, &eb);
    if (fd < 0)
        return false;
    uint64_t end = now_ns() + GREET_MS * 1000000ull;
    until = end < until ? end : until;
    hrt_pack(ping, &(struct hrt_frame){.type = HRT_PING, .id = 1});
    bool answers = send_all(fd, ping, sizeof ping, until) == 0 &&
                   recv_frame(fd, until, &got, &n, &eb) == 0;
    free(got);
    close(fd);
    return answers;
}

/* -EIO, -EPERM and -EINVAL with words; another code, without: why nobody could be reached. */
static int nn_open(struct hearth_conn *c, uint64_t until, struct errbuf *eb)
{
    int max = FRAME_BYTES_MAX, resend = RESEND_MS, ivl = RETRY_MS;
    if (c->fd >= 0 && !watch_ended(c))
        return 0;
    drop(c);
    int r = watch_open(c, eb);
    if (r == 0 && !c->answered && is_core(c, until))
        r = err_set(eb, -EINVAL,
                    "socket: hearthd's own socket is there; name it with unix:// instead of "
                    "ipc://");
    if (r < 0)
        return r;
    c->fd = nn_socket(AF_SP, NN_REQ);
    if (c->fd < 0 || nn_setsockopt(c->fd, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max, sizeof max) < 0 ||
        nn_setsockopt(c->fd, NN_SOL_SOCKET, NN_RECONNECT_IVL, &ivl, sizeof ivl) < 0 ||
        nn_setsockopt(c->fd, NN_REQ, NN_REQ_RESEND_IVL, &resend, sizeof resend) < 0 ||
        nn_connect(c->fd, c->url) < 0) {
        r = err_set(eb, -EIO, "nanomsg: %s", nn_strerror(nn_errno()));
        drop(c);
        return r;
    }
    return 0;
}

/* Signals are held; only the waiting lets them in, as old says.  -ETIMEDOUT and -EPIPE (the
 * front ended) without words. */
static int nn_exchange(struct hearth_conn *c, const uint8_t *m, size_t n, uint8_t type,
                       uint64_t id, uint64_t until, const sigset_t *old,
                       struct hearth_reply *ret, struct errbuf *eb)
{
    int r, fd = -1;
    size_t len = sizeof fd;
    if (nn_send(c->fd, m, n, NN_DONTWAIT) < 0 ||
        nn_getsockopt(c->fd, NN_SOL_SOCKET, NN_RCVFD, &fd, &len) < 0)
        return err_set(eb, -EIO, "nanomsg: %s", nn_strerror(nn_errno()));
    for (;;) {
        struct pollfd p[2] = {{fd, POLLIN, 0}, {c->watch, 0, 0}};
        int ms = left_ms(until);
        struct timespec wait = {ms / 1000, (long)(ms % 1000) * 1000000};
        int k = ppoll(p, 2, &wait, old);
        if (k < 0)
            return -EINTR;
        if (k == 0)
            return -ETIMEDOUT;
        void *got = NULL;
        int bytes = nn_recv(c->fd, &got, NN_MSG, NN_DONTWAIT);
        if (bytes < 0 && nn_errno() != EAGAIN)
            return err_set(eb, -EIO, "nanomsg: %s", nn_strerror(nn_errno()));
        if (bytes < 0 && p[1].revents)
            return -EPIPE;
        if (bytes < 0)
            continue;
        r = take_reply(got, (size_t)bytes, type, id, ret, eb);
        nn_freemsg(got);
        if (r <= 0)
            return r;
    }
}

/* Signals are held.  -ETIMEDOUT without words: somebody listens, and does not reply. */
static int nn_attempts(struct hearth_conn *c, const uint8_t *m, size_t n, uint8_t type,
                       uint64_t id, uint64_t until, const sigset_t *old,
                       struct hearth_reply *ret, struct errbuf *eb)
{
    static const struct timespec pause = {0, RETRY_MS * 1000000L};
    uint64_t began = now_ns(), slice = SLICE_MS * 1000000ull;
    bool there = c->answered;
    for (;;) {
        int r = nn_open(c, until, eb);
        if (r == 0) {
            there = c->reached = true;
            uint64_t end = now_ns() + slice;
            r = nn_exchange(c, m, n, type, id, end < until ? end : until, old, ret, eb);
            if (r != -EPIPE && r != -ETIMEDOUT)
                return r;
            if (now_ns() >= until)
                return -ETIMEDOUT;
            /* A front too busy to shake hands in its second closes only the library's
             * connection: a new one now and then.  Operations are idempotent. */
            if (r == -ETIMEDOUT)
                slice *= 2;
            drop(c);
        } else if (r == -EIO || r == -EPERM || r == -EINVAL) {
            return r;
        } else {
            /* A socket that nobody listens on was left by a front that is gone, for a moment or
             * for good. */
            uint64_t first = (r == -ECONNREFUSED ? BACK_MS : FIRST_MS) * 1000000ull;
            if ((!there && now_ns() - began >= first) || now_ns() >= until || r == -EACCES)
                return nobody(c, -r, eb);
        }
        if (ppoll(NULL, 0, &pause, old) < 0)
            return -EINTR;
    }
}

static int call_nn(struct hearth_conn *c, const uint8_t *m, size_t n, uint8_t type, uint64_t id,
                   uint64_t until, struct hearth_reply *ret, struct errbuf *eb)
{
    sigset_t old;
    sigmask_hold(&old);
    int r = nn_attempts(c, m, n, type, id, until, &old, ret, eb);
    /* A request is open on it that nobody waits for, and libnanomsg may die of its late reply
     * when the socket sends another: the next call has a socket of its own. */
    if (r < 0)
        drop(c);
    sigmask_back(&old);
    return r == -ETIMEDOUT ? too_late(c, eb) : r;
}

/* --- a unix stream ---------------------------------------------------------------------------- */
/* One attempt on the connection as it is. */
static int exchange(struct hearth_conn *c, const uint8_t *m, size_t n, uint8_t type,
                    uint64_t id, uint64_t until, struct hearth_reply *ret, struct errbuf *eb)
{
    int r = send_all(c->fd, m, n, until);
    while (r == 0) {
        uint8_t *got = NULL;
        size_t got_n = 0;
        r = recv_frame(c->fd, until, &got, &got_n, eb);
        if (r < 0)
            break;
        r = take_reply(got, got_n, type, id, ret, eb);
        free(got);
        if (r <= 0)
            return r;
        r = 0; /* the late reply to a request that was given up: wait on */
    }
    return r;
}

static int call_unix(struct hearth_conn *c, const uint8_t *m, size_t n, uint8_t type,
                     uint64_t id, uint64_t until, struct hearth_reply *ret, struct errbuf *eb)
{
    uint64_t first = now_ns() + FIRST_MS * 1000000ull;
    for (;;) {
        int r = 0;
        if (c->fd < 0) {
            r = connect_path(c->path, eb);
            if (r >= 0) {
                c->fd = r;
                c->reached = true;
                r = 0;
            } else if (r == -EPERM) {
                return r;
            } else if ((!c->answered && now_ns() >= first) || now_ns() >= until ||
                       r == -EACCES) {
                return nobody(c, -r, eb);
            }
        }
        if (r == 0) {
            r = exchange(c, m, n, type, id, until, ret, eb);
            if (r == 0 || r == E_CORRUPT || r == E_VERSION || r == E_LIMIT || r == -ENOMEM ||
                r == -EINVAL) {
                if (r < 0)
                    drop(c);
                return r;
            }
            /* Half a frame may be out or in: this stream is of no more use. */
            drop(c);
            if (r == -EINTR)
                return r;
            if (r == -ETIMEDOUT)
                return too_late(c, eb);
        }
        int wait = left_ms(until);
        if (poll(NULL, 0, wait < RETRY_MS ? wait : RETRY_MS) < 0)
            return -EINTR;
    }
}

int hearth_call(struct hearth_conn *c, enum hrt_type type, const char *json, const void *tail,
                size_t tail_bytes, uint32_t timeout_ms, struct hearth_reply *ret,
                struct errbuf *eb)
{
    must_be(c, CONN_MAGIC);
    size_t json_bytes = strlen(json ? json : (json = "{}"));
    if (json_bytes > JSON_BYTES_MAX || tail_bytes > TAIL_BYTES_MAX)
        return err_set(
            eb, E_LIMIT,
            "a request may have %d bytes of JSON and %d of data, this has %zu and %zu",
            JSON_BYTES_MAX, TAIL_BYTES_MAX, json_bytes, tail_bytes);
    size_t n = HRT_HEAD_BYTES + json_bytes + tail_bytes;
    uint8_t *m = malloc(n);
    if (!m)
        return err_set(eb, -ENOMEM, "no memory for a request of %zu bytes", n);
    uint64_t id = c->next_id++, until = now_ns() + (uint64_t)timeout_ms * 1000000;
    hrt_pack(m, &(struct hrt_frame){.type = (uint8_t)type,
                                    .json_len = (uint32_t)json_bytes,
                                    .tail_len = (uint32_t)tail_bytes,
                                    .id = id});
    memcpy(m + HRT_HEAD_BYTES, json, json_bytes);
    if (tail_bytes)
        memcpy(m + HRT_HEAD_BYTES + json_bytes, tail, tail_bytes);
    int r = (c->nn ? call_nn : call_unix)(c, m, n, (uint8_t)type, id, until, ret, eb);
    free(m);
    if (r == 0)
        c->answered = true;
    return r == -EINTR ? err_set(eb, r, "interrupted by a signal") : r;
}
