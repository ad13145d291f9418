/* httplisten.c - see httplisten.h. */
#include "daemon/front/httplisten.h"
#include "base/log.h"
#include "daemon/front/netcheck.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FDS_KEPT = 32 }; /* for everything that is no connection */

/* Whole or not at all: a reader never sees half a number. */
void http_write_port(uint16_t port, const char *runtime)
{
    char path[4096], tmp[4096 + 16];
    if (!runtime || snprintf(path, sizeof path, "%s/http.port", runtime) >= (int)sizeof path)
        return;
    snprintf(tmp, sizeof tmp, "%s.%d", path, (int)getpid());
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    char line[16];
    int n = snprintf(line, sizeof line, "%u\n", port);
    bool ok = fd >= 0 && write(fd, line, (size_t)n) == n;
    if (fd >= 0)
        close(fd);
    if (!ok || rename(tmp, path) < 0) {
        log_at(LOG_WARN_, "cannot write %s: %s; clients must know port %u by themselves", path,
               strerror(errno), port);
        (void)unlink(tmp);
    }
}

static int listen_at_addr(const struct http_opts *o, bool keyed, char ret_addr[64],
                          uint16_t *ret_port, int ret_fd[2], struct errbuf *eb)
{
    struct net_addr a;
    int r = net_addr_parse(o->addr, &a, eb);
    if (r < 0)
        return r;
    if (!net_is_loopback(a.addr) && !keyed)
        return err_set(eb, -EPERM,
                       "--http: %s can be reached from other machines; that wants an "
                       "--api-key-file",
                       a.addr);
    memcpy(ret_addr, a.addr, sizeof a.addr);
    ret_fd[0] = net_listen(&a, o->any_port, ret_port, eb);
    if (ret_fd[0] < 0)
        return ret_fd[0];
    if (strcmp(a.addr, "127.0.0.1") == 0 || strcmp(a.addr, "localhost") == 0)
        ret_fd[1] = net_listen_v6(*ret_port, o->any_port, eb);
    return ret_fd[1] == -EADDRINUSE ? ret_fd[1] : 0;
}

int http_listen(const struct http_opts *o, bool keyed, char ret_addr[64], uint16_t *ret_port,
                int ret_fd[2], struct errbuf *eb)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    char port[16] = "0";
    ret_fd[0] = o->listen_fd;
    ret_fd[1] = -1;
    if (ret_fd[0] < 0)
        return listen_at_addr(o, keyed, ret_addr, ret_port, ret_fd, eb);
    if (getsockname(ret_fd[0], (void *)&sa, &n) < 0 ||
        getnameinfo((void *)&sa, n, ret_addr, 64, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return err_set(eb, -EINVAL, "the socket systemd passed is not a TCP socket");
    if (!net_is_loopback(ret_addr) && !keyed)
        return err_set(eb, -EPERM,
                       "the socket systemd passed listens on %s; that wants an --api-key-file",
                       ret_addr);
    *ret_port = (uint16_t)strtoul(port, NULL, 10);
    (void)fcntl(ret_fd[0], F_SETFL, fcntl(ret_fd[0], F_GETFL) | O_NONBLOCK);
    return 0;
}

uint32_t http_conns_limit(void)
{
    struct rlimit lim;
    rlim_t n = getrlimit(RLIMIT_NOFILE, &lim) == 0 ? lim.rlim_cur : 1024;
    n = n > 2 * FDS_KEPT ? n - FDS_KEPT : FDS_KEPT;
    return n < HTTP_CONNS_MAX ? (uint32_t)n : HTTP_CONNS_MAX;
}
