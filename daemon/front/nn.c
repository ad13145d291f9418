/* nn.c - see nn.h.  The only file of the front that knows libnanomsg. */
#include "daemon/front/nn.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/front/fjson.h"
#include "daemon/front/flog.h"
#include "daemon/front/sandbox.h"
#include "proto.h"
#include <errno.h>
#include <libgen.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    /* Finite, always: a declared size of 2^62 would abort, and the default of 1 MiB would make
     * longer requests vanish. */
    NNFACE_RCV_BYTES_MAX = HRT_HEAD_BYTES + JSON_BYTES_MAX + TAIL_BYTES_MAX,
    NNFACE_BIND_MS = 5000,
    NNFACE_DRAIN_MAX = 256, /* requests taken per round: the link gets its turn too */
};

struct nnask {
    struct nnask *next, *prev;
    struct nnface *f;
    void *control; /* nanomsg's, who gets the reply; NULL once it is given back */
    size_t control_n;
    uint64_t client_id;
    uint8_t type;
};
struct nnface {
    int sock;
    struct corelink *core;
    struct nnask *asks;
};

int nnface_check_path(const char *path, struct errbuf *eb)
{
    const size_t room = sizeof((struct sockaddr_un *)0)->sun_path;
    struct stat st;
    if (path[0] != '/')
        return err_set(eb, -EINVAL, "--nn: want an absolute path after ipc://, got \"%s\"",
                       path);
    if (strlen(path) >= room)
        return err_set(eb, -ENAMETOOLONG,
                       "--nn: the path has %zu bytes, a socket's may have %zu: %s",
                       strlen(path), room - 1, path);
    char copy[sizeof((struct sockaddr_un *)0)->sun_path];
    memcpy(copy, path, strlen(path) + 1);
    const char *dir = dirname(copy);
    if (stat(dir, &st) < 0)
        return err_set(eb, -errno, "--nn: the directory %s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return err_set(eb, -ENOTDIR, "--nn: %s is not a directory", dir);
    /* nanomsg tells nobody who a peer is: the directory is the only door. */
    if (st.st_uid != geteuid())
        return err_set(eb, -EPERM, "--nn: %s belongs to uid %u, not to us (%u)", dir, st.st_uid,
                       geteuid());
    if (st.st_mode & 022)
        return err_set(eb, -EPERM, "--nn: others may write to %s (mode %03o); chmod 700 it",
                       dir, st.st_mode & 0777);
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return err_set(eb, -EEXIST, "--nn: %s exists and is no socket; move it away", path);
    return 0;
}

static void nnask_free(struct nnask *a)
{
    *(a->prev ? &a->prev->next : &a->f->asks) = a->next;
    if (a->next)
        a->next->prev = a->prev;
    if (a->control)
        nn_freemsg(a->control);
    free(a);
}

static void reply(struct nnface *f, void **control, const struct hrt_frame *head,
                  const void *json, const void *tail)
{
    uint8_t *m = nn_allocmsg((size_t)HRT_HEAD_BYTES + head->json_len + head->tail_len, 0);
    if (!m) {
        log_at(LOG_ERROR_, "no memory for a reply of %u bytes; the client will ask again",
               head->json_len + head->tail_len);
        return;
    }
    hrt_pack(m, head);
    memcpy(m + HRT_HEAD_BYTES, json, head->json_len);
    if (head->tail_len)
        memcpy(m + HRT_HEAD_BYTES + head->json_len, tail, head->tail_len);
    struct nn_iovec iov = {&m, NN_MSG};
    struct nn_msghdr h = {&iov, 1, control, NN_MSG};
    /* A peer that is gone or busy loses its reply and resends its request. */
    if (nn_sendmsg(f->sock, &h, NN_DONTWAIT) < 0)
        nn_freemsg(m);
    else
        *control = NULL;
}

static void on_reply(void *user, const struct corelink_reply *r)
{
    struct nnask *a = user;
    reply(a->f, &a->control,
          &(struct hrt_frame){.type = a->type,
                              .flags = HRT_REPLY,
                              .json_len = (uint32_t)r->json_len,
                              .tail_len = (uint32_t)r->tail_len,
                              .id = a->client_id,
                              .status = r->status},
          r->json, r->tail);
    nnask_free(a);
}

static void refuse(struct nnface *f, void **control, uint8_t type, uint64_t id, uint32_t status,
                   const char *slug, const char *words)
{
    char *json =
        front_error(status, slug, status == HRT_RESOURCE_EXHAUSTED ? 1000 : 0, "%s", words);
    if (!json)
        return;
    reply(f, control,
          &(struct hrt_frame){.type = type,
                              .flags = HRT_REPLY,
                              .json_len = (uint32_t)strlen(json),
                              .id = id,
                              .status = status},
          json, NULL);
    free(json);
}

/* The bytes that say whom a reply goes to: equal ones are the same request, sent again. */
static size_t control_bytes(void *control, const uint8_t **ret)
{
    struct nn_msghdr h = {.msg_control = &control, .msg_controllen = NN_MSG};
    struct nn_cmsghdr *c = NN_CMSG_FIRSTHDR(&h);
    if (!c || c->cmsg_len < NN_CMSG_LEN(0))
        return 0;
    *ret = NN_CMSG_DATA(c);
    return c->cmsg_len - NN_CMSG_LEN(0);
}

static bool asked_already(const struct nnface *f, void *control)
{
    const uint8_t *p = NULL, *q = NULL;
    size_t n = control_bytes(control, &p);
    for (const struct nnask *a = f->asks; a && n; a = a->next)
        if (a->control && control_bytes(a->control, &q) == n && memcmp(p, q, n) == 0)
            return true;
    return false;
}

static void on_request(struct nnface *f, void **control, const uint8_t *m, size_t n)
{
    struct hrt_frame h = {0};
    struct errbuf eb;
    int r = 0;
    if (n < HRT_HEAD_BYTES)
        r = err_set(&eb, E_CORRUPT, "frame: %zu bytes, its header has %d", n, HRT_HEAD_BYTES);
    else
        r = hrt_unpack(&h, m, &eb);
    if (r == 0 && (h.flags & HRT_REPLY))
        r = err_set(&eb, -EINVAL, "frame: a reply where a request is due");
    if (r == 0 && n != (size_t)HRT_HEAD_BYTES + h.json_len + h.tail_len)
        r = err_set(&eb, E_CORRUPT, "frame: %zu bytes, the header tells of %zu", n,
                    (size_t)HRT_HEAD_BYTES + h.json_len + h.tail_len);
    if (r < 0) {
        /* Type and id as far as they can be read: the sender may still match them. */
        uint8_t type = n >= HRT_HEAD_BYTES ? m[5] : 0;
        uint64_t id = n >= HRT_HEAD_BYTES ? ld64(m + 16) : 0;
        refuse(f, control, type, id, r == E_VERSION ? HRT_UNIMPLEMENTED : HRT_INVALID_ARGUMENT,
               "bad_frame", eb.s);
        return;
    }
    if (asked_already(f, *control))
        return;
    struct nnask *a = calloc(1, sizeof *a);
    if (a) {
        a->f = f;
        a->client_id = h.id;
        a->type = h.type;
        const uint8_t *p = m + HRT_HEAD_BYTES;
        int64_t id = corelink_send(f->core, h.type, p, h.json_len, p + h.json_len, h.tail_len,
                                   on_reply, a);
        if (id > 0) {
            a->control = *control;
            *control = NULL;
            a->next = f->asks;
            if (f->asks)
                f->asks->prev = a;
            f->asks = a;
            return;
        }
        free(a);
    }
    refuse(f, control, h.type, h.id, HRT_RESOURCE_EXHAUSTED, "queue_full",
           "the front has as many requests open as it may; try again");
}

/* At most NNFACE_DRAIN_MAX messages; true when there may be more. */
static bool drain(struct nnface *f)
{
    for (int i = 0; i < NNFACE_DRAIN_MAX; i++) {
        void *m = NULL, *control = NULL;
        struct nn_iovec iov = {&m, NN_MSG};
        struct nn_msghdr h = {&iov, 1, &control, NN_MSG};
        int n = nn_recvmsg(f->sock, &h, NN_DONTWAIT);
        if (n < 0)
            return false;
        if (control)
            on_request(f, &control, m, (size_t)n);
        nn_freemsg(m);
        if (control)
            nn_freemsg(control);
    }
    return true;
}

static bool somebody_serves(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool yes =
        fd >= 0 && (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0 || errno == EAGAIN);
    if (fd >= 0)
        close(fd);
    return yes;
}

/* A front that is just ending may hold the path for a moment: try for a while. Looked at first
 * with a plain connect, because a bind that fails leaks in the library. */
static int bind_path(int sock, const char *url, const volatile int *stop, struct errbuf *eb)
{
    uint64_t until = now_ns() + NNFACE_BIND_MS * 1000000ull;
    for (;;) {
        int e = EADDRINUSE;
        if (!somebody_serves(url + 6)) {
            mode_t old = umask(0177);
            int r = nn_bind(sock, url);
            e = nn_errno();
            umask(old);
            if (r >= 0)
                return 0;
        }
        if (e != EADDRINUSE || now_ns() > until || *stop)
            return err_set(eb, e < 4096 ? -e : -EIO, "%s: %s%s", url, nn_strerror(e),
                           e == EADDRINUSE ? "; another front serves it" : "");
        (void)poll(NULL, 0, 20);
    }
}

static int serve(struct nnface *f, const volatile int *stop, struct errbuf *eb)
{
    int nnfd = -1;
    size_t len = sizeof nnfd;
    if (nn_getsockopt(f->sock, NN_SOL_SOCKET, NN_RCVFD, &nnfd, &len) < 0)
        return err_set(eb, -EIO, "nanomsg gives no descriptor: %s", nn_strerror(nn_errno()));
    bool more = false;
    while (!*stop && !corelink_over(f->core)) {
        struct pollfd p[2] = {{nnfd, POLLIN, 0},
                              {corelink_fd(f->core), corelink_events(f->core), 0}};
        int wait = more ? 0 : corelink_wait_ms(f->core);
        if (poll(p, 2, wait) < 0 && errno != EINTR)
            return err_set(eb, -errno, "poll: %s", strerror(errno));
        if (p[1].revents)
            corelink_ready(f->core, p[1].revents);
        corelink_tick(f->core);
        flog_hup_said();
        if (more || p[0].revents)
            more = drain(f);
    }
    return 0;
}

int nnface_run(const char *url, const struct corelink_opts *core, const volatile int *stop,
               struct errbuf *eb)
{
    struct nnface f = {.sock = -1};
    if (strncmp(url, "ipc://", 6) != 0)
        return err_set(eb, -EINVAL, "--nn: want ipc://PATH, got \"%s\"", url);
    int r = nnface_check_path(url + 6, eb);
    if (r == 0)
        r = corelink_open(&f.core, core, eb);
    if (r < 0)
        return r;
    f.sock = nn_socket(AF_SP_RAW, NN_REP);
    int max = NNFACE_RCV_BYTES_MAX, buf = 1 << 20;
    if (f.sock < 0 ||
        nn_setsockopt(f.sock, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max, sizeof max) < 0 ||
        nn_setsockopt(f.sock, NN_SOL_SOCKET, NN_SNDBUF, &buf, sizeof buf) < 0)
        r = err_set(eb, -EIO, "nanomsg: %s", nn_strerror(nn_errno()));
    if (r == 0)
        r = bind_path(f.sock, url, stop, eb);
    if (r == 0) {
        log_at(LOG_INFO_, "serving %s for %s", url, core->path);
        corelink_wait_first(f.core, stop);
        sandbox_enter(!core->exit_with_core);
        r = serve(&f, stop, eb);
    }
    /* No nn_close: it unlinks the path, which by now may be the next front's, and aborts when it
     * may not.  The process ends here anyway; a path that nobody serves is no obstacle. */
    while (f.asks)
        nnask_free(f.asks);
    corelink_close(f.core);
    return r;
}
