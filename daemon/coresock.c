/* coresock.c - see coresock.h. */
#include "daemon/coresock.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/link.h"
#include "proto.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { LISTEN_BACKLOG = 128, REFUSED_LOG_S = 10 };

/* The path is free, or holds a socket nobody answers on (which is removed). */
static int path_free(const char *path, const struct sockaddr_un *a, struct errbuf *eb)
{
    struct stat st;
    struct ucred cred = {0};
    socklen_t n = sizeof cred;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_set(eb, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return err_set(eb, -EEXIST, "%s is there and is not a socket; move it away", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(eb, -errno, "socket: %s", strerror(errno));
    int r = connect(fd, (const struct sockaddr *)a, sizeof *a) < 0 ? errno : 0;
    if (r == 0)
        (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n);
    close(fd);
    if (r == 0)
        return err_set(
            eb, -EADDRINUSE,
            "a hearthd (pid %d) answers on %s; stop it, or give this one a --runtime "
            "and --state of its own",
            cred.pid, path);
    if (r != ECONNREFUSED)
        return err_set(eb, -r, "%s: %s", path, strerror(r));
    if (unlink(path) < 0)
        return err_set(eb, -errno, "%s: a dead socket cannot be removed: %s", path,
                       strerror(errno));
    return 0;
}

static int sock_bind(struct coresock *k, const struct conf *cf, struct errbuf *eb)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(cf->core_path);
    struct stat st;

    if (n >= sizeof a.sun_path)
        return err_set(eb, -ENAMETOOLONG,
                       "%s: %zu bytes, a socket's path holds %zu; choose a shorter --runtime",
                       cf->core_path, n, sizeof a.sun_path - 1);
    memcpy(a.sun_path, cf->core_path, n + 1);
    int r = path_free(cf->core_path, &a, eb);
    if (r < 0)
        return r;
    k->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (k->fd < 0)
        return err_set(eb, -errno, "socket: %s", strerror(errno));
    /* Made with no more rights than it ends with: there is no moment at which a stranger
     * could connect. */
    mode_t old = umask((mode_t)(0777 & ~cf->socket_mode));
    r = bind(k->fd, (struct sockaddr *)&a, sizeof a) < 0 ? -errno : 0;
    umask(old);
    if (r < 0)
        return err_set(eb, r, "%s: bind: %s", cf->core_path, strerror(-r));
    k->bound = true;
    if (lstat(cf->core_path, &st) == 0) {
        k->dev = st.st_dev;
        k->ino = st.st_ino;
    }
    if (chmod(cf->core_path, (mode_t)cf->socket_mode) < 0 || listen(k->fd, LISTEN_BACKLOG) < 0)
        return err_set(eb, -errno, "%s: %s", cf->core_path, strerror(errno));
    return 0;
}

/* The first descriptor of the service manager that is a listening unix stream socket. */
static bool inherit(struct coresock *k, const struct conf *cf)
{
    for (int fd = 3; fd < 3 + (int)cf->listen_fds; fd++) {
        int domain = 0, type = 0, listens = 0;
        socklen_t n = sizeof(int), n2 = n, n3 = n;

        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) == 0 &&
            getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n2) == 0 &&
            getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n3) == 0 &&
            domain == AF_UNIX && type == SOCK_STREAM && listens) {
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
            (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
            k->fd = fd;
            return true;
        }
    }
    return false;
}

int coresock_open(struct coresock *k, const struct conf *cf, struct errbuf *eb)
{
    *k = (struct coresock){.fd = -1};
    return inherit(k, cf) ? 0 : sock_bind(k, cf, eb);
}

void coresock_close(struct coresock *k, const struct conf *cf)
{
    struct stat st;

    if (k->fd >= 0)
        close(k->fd);
    k->fd = -1;
    if (k->bound && lstat(cf->core_path, &st) == 0 && st.st_dev == k->dev &&
        st.st_ino == k->ino)
        (void)unlink(cf->core_path);
    k->bound = false;
}

void coresock_refuse(struct coresock *k, int fd, uint32_t uid, uint32_t own, uint32_t all)
{
    uint8_t b[HRT_HEAD_BYTES + 512];
    uint64_t now = now_ns();
    int n =
        snprintf((char *)b + HRT_HEAD_BYTES, sizeof b - HRT_HEAD_BYTES,
                 "{\"status\":\"RESOURCE_EXHAUSTED\",\"slug\":\"queue_full\",\"message\":"
                 "\"you have %u connections, your share of the %d this daemon takes (%u are "
                 "open); close some\",\"have\":%u,\"limit\":%d,\"retry_after_ms\":1000}",
                 own, LINKS_MAX, all, own, LINKS_MAX);
    struct hrt_frame f = {
        .flags = HRT_REPLY, .json_len = (uint32_t)n, .status = HRT_RESOURCE_EXHAUSTED};

    hrt_pack(b, &f);
    (void)send(fd, b, HRT_HEAD_BYTES + (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    k->refused++;
    if (k->refused_log_ns && now - k->refused_log_ns < REFUSED_LOG_S * 1000000000ull)
        return;
    log_at(LOG_WARN_, "core.sock: uid %u has %u connections, another is refused (%u refused)",
           uid, own, k->refused);
    k->refused = 0;
    k->refused_log_ns = now;
}
