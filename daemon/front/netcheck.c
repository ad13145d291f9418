/* netcheck.c - see netcheck.h. */
#include "daemon/front/netcheck.h"
#include "base/dirlist.h"
#include "base/log.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PORTS_TRIED = 100,
    TCP_ESTABLISHED_ = 1,
    TCP_FIN_WAIT1_ = 4,
    TCP_FIN_WAIT2_ = 5,
    TCP_LISTEN_ = 10
};

/* An end as /proc/net/tcp prints it: address words in memory order, port as a number. */
static bool end_text(const struct sockaddr_storage *ss, bool v6, char *ret, size_t cap)
{
    const struct sockaddr_in *a4 = (const void *)ss;
    const struct sockaddr_in6 *a6 = (const void *)ss;
    uint32_t w[4] = {0, 0, htonl(0xffff), 0};
    if (ss->ss_family == AF_INET && !v6) {
        snprintf(ret, cap, "%08X:%04X", a4->sin_addr.s_addr, ntohs(a4->sin_port));
        return true;
    }
    if (ss->ss_family == AF_INET)
        w[3] = a4->sin_addr.s_addr; /* a v6 socket talking v4 */
    else if (ss->ss_family == AF_INET6 && v6)
        memcpy(w, &a6->sin6_addr, sizeof w);
    else
        return false;
    snprintf(ret, cap, "%08X%08X%08X%08X:%04X", w[0], w[1], w[2], w[3], ntohs(a4->sin_port));
    return true;
}

struct row {
    char local[40], remote[40];
    unsigned state;
    uint32_t uid;
    unsigned long inode;
};
static bool next_row(FILE *f, struct row *r)
{
    char line[512];
    while (fgets(line, sizeof line, f))
        if (sscanf(line, " %*d: %39s %39s %x %*s %*s %*s %u %*d %lu", r->local, r->remote,
                   &r->state, &r->uid, &r->inode) == 5)
            return true;
    return false;
}

static bool state_has_owner(unsigned state)
{
    return state == TCP_ESTABLISHED_ || state == TCP_FIN_WAIT1_ || state == TCP_FIN_WAIT2_;
}

/* ::ffff:127.0.0.1 is how a socket of both families shows what is IPv4. */
static void unmap(struct sockaddr_storage *ss)
{
    const struct sockaddr_in6 a6 = *(const struct sockaddr_in6 *)(const void *)ss;
    struct sockaddr_in *a4 = (void *)ss;
    if (ss->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a6.sin6_addr))
        return;
    memset(ss, 0, sizeof *ss);
    a4->sin_family = AF_INET;
    a4->sin_port = a6.sin6_port;
    memcpy(&a4->sin_addr, a6.sin6_addr.s6_addr + 12, 4);
}

static bool both_ends(int fd, struct sockaddr_storage *us, struct sockaddr_storage *peer)
{
    socklen_t n = sizeof *us, m = sizeof *peer;
    memset(us, 0, sizeof *us);
    memset(peer, 0, sizeof *peer);
    if (getsockname(fd, (void *)us, &n) < 0 || getpeername(fd, (void *)peer, &m) < 0)
        return false;
    unmap(us);
    unmap(peer);
    return true;
}

/* The end that peer's socket has of a connection to us, for the kernel's own lookup. */
static void diag_id(struct inet_diag_sockid *ret, const struct sockaddr_storage *peer,
                    const struct sockaddr_storage *us)
{
    const struct sockaddr_in *p4 = (const void *)peer, *u4 = (const void *)us;
    const struct sockaddr_in6 *p6 = (const void *)peer, *u6 = (const void *)us;
    *ret = (struct inet_diag_sockid){.idiag_sport = p4->sin_port, .idiag_dport = u4->sin_port};
    if (peer->ss_family == AF_INET) {
        ret->idiag_src[0] = p4->sin_addr.s_addr;
        ret->idiag_dst[0] = u4->sin_addr.s_addr;
    } else {
        memcpy(ret->idiag_src, &p6->sin6_addr, sizeof ret->idiag_src);
        memcpy(ret->idiag_dst, &u6->sin6_addr, sizeof ret->idiag_dst);
    }
    ret->idiag_cookie[0] = ret->idiag_cookie[1] = INET_DIAG_NOCOOKIE;
}

/* Kept open: when descriptors have run out, who asks must still be known.  One thread. */
static int diag_socket(void)
{
    static int nl = -1;
    if (nl < 0)
        nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    return nl < 0 ? -errno : nl;
}

/* A question to the kernel's own lookup. */
struct diag_ask {
    struct nlmsghdr h;
    struct inet_diag_req_v2 r;
};
static void diag_ask_init(struct diag_ask *q, uint16_t flags)
{
    static uint32_t seq;
    *q = (struct diag_ask){.h = {.nlmsg_len = sizeof *q,
                                 .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                                 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
                                 .nlmsg_seq = ++seq},
                           .r = {.sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u}};
}

/* The kernel answers within send and recv: nothing to wait for.  The bytes of one reply; -1: there
 * is none (more).  What an earlier question left behind has another number. */
static ssize_t diag_reply(int nl, const struct diag_ask *q, void *ret, size_t cap)
{
    const struct nlmsghdr *h = ret;
    ssize_t k;
    do
        k = recv(nl, ret, cap, 0);
    while (k >= (ssize_t)sizeof *h && h->nlmsg_seq != q->h.nlmsg_seq);
    return k >= (ssize_t)sizeof *h ? k : -1;
}

int net_peer_uid_diag(int fd, uint32_t *ret_uid)
{
    struct sockaddr_storage us, peer;
    struct diag_ask q;
    _Alignas(struct nlmsghdr) uint8_t got[1024];
    const struct nlmsghdr *h = (const void *)got;
    if (!both_ends(fd, &us, &peer) || (peer.ss_family != AF_INET && peer.ss_family != AF_INET6))
        return -ENOENT;
    diag_ask_init(&q, 0);
    q.r.sdiag_family = (uint8_t)peer.ss_family;
    diag_id(&q.r.id, &peer, &us);
    int nl = diag_socket();
    if (nl < 0)
        return nl;
    ssize_t k = send(nl, &q, sizeof q, 0) == (ssize_t)sizeof q
                    ? diag_reply(nl, &q, got, sizeof got)
                    : -1;
    const struct inet_diag_msg *d = NLMSG_DATA(h);
    if (k < (ssize_t)NLMSG_LENGTH(sizeof *d) || h->nlmsg_type != SOCK_DIAG_BY_FAMILY)
        return -ENOENT; /* no such socket; a kernel without this lookup says the same */
    /* Where there is no connection the kernel names a listener on the port; and an orphan
     * (inode 0) belongs to nobody, whatever its uid is said to be. */
    if (d->id.idiag_sport != q.r.id.idiag_sport || d->id.idiag_dport != q.r.id.idiag_dport ||
        !d->idiag_inode || !state_has_owner(d->idiag_state))
        return -ENOENT;
    *ret_uid = d->idiag_uid;
    return 0;
}

/* The kernel's table from its beginning.  Kept open, as above; a process that has closed its
 * doors can open no more. */
static FILE *proc_table(bool v6)
{
    static FILE *table[2];
    if (!table[v6])
        table[v6] = fopen(v6 ? "/proc/net/tcp6" : "/proc/net/tcp", "re");
    FILE *f = table[v6];
    if (f) { /* not rewind(), which may be content with what it has read before */
        __fpurge(f);
        (void)lseek(fileno(f), 0, SEEK_SET);
        clearerr(f);
    }
    return f;
}

int net_peer_uid_proc(int fd, uint32_t *ret_uid)
{
    struct sockaddr_storage us, peer;
    if (!both_ends(fd, &us, &peer))
        return -ENOENT;
    for (int v6 = 0; v6 <= 1; v6++) {
        char a[40], b[40];
        if (!end_text(&peer, v6, a, sizeof a) || !end_text(&us, v6, b, sizeof b))
            continue;
        FILE *f = proc_table(v6);
        struct row r;
        bool found = false;
        while (f && !found && next_row(f, &r))
            /* An orphan (inode 0) belongs to nobody, whatever its uid column says. */
            found = strcmp(r.local, a) == 0 && strcmp(r.remote, b) == 0 && r.inode &&
                    state_has_owner(r.state);
        if (found) {
            *ret_uid = r.uid;
            return 0;
        }
    }
    return -ENOENT;
}

/* Once netlink has found somebody its word is enough; until then it may be missing or barred.
 * One thread; elsewhere a stale read costs one reading of the table. */
static bool diag_works;

int net_peer_uid(int fd, uint32_t *ret_uid)
{
    int r = net_peer_uid_diag(fd, ret_uid);
    if (r == 0)
        diag_works = true;
    return r == 0 || (r == -ENOENT && diag_works) ? r : net_peer_uid_proc(fd, ret_uid);
}

/* Looks for a connection of our own: where all peers are of other machines nothing else would
 * ever be found, and the whole table be read for each of them. */
static void diag_try(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof sa;
    uint32_t uid;
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l >= 0 && c >= 0 && bind(l, (void *)&sa, sizeof sa) == 0 && listen(l, 1) == 0 &&
        getsockname(l, (void *)&sa, &n) == 0 && connect(c, (void *)&sa, sizeof sa) == 0) {
        int k = accept4(l, NULL, NULL, SOCK_CLOEXEC);
        diag_works |= k >= 0 && net_peer_uid_diag(k, &uid) == 0;
        if (k >= 0)
            close(k);
    }
    if (c >= 0)
        close(c);
    if (l >= 0)
        close(l);
}

void net_check_open(void)
{
    (void)diag_socket();
    (void)proc_table(false);
    (void)proc_table(true);
    diag_try();
}

struct sought {
    char want[64]; /* as /proc has its name */
    const char *pid;
    long found;
};

static int is_fd(void *ctx, const char *fd)
{
    const struct sought *s = ctx;
    char path[300], got[64];

    snprintf(path, sizeof path, "/proc/%.16s/fd/%.16s", s->pid, fd);
    ssize_t n = readlink(path, got, sizeof got - 1);
    got[n > 0 ? n : 0] = 0;
    return strcmp(got, s->want) == 0;
}

/* A process may be gone by then, or be another user's: then it is not that one. */
static int has_pid(void *ctx, const char *pid)
{
    struct sought *s = ctx;
    char path[300];

    if (!isdigit((unsigned char)pid[0]))
        return 0;
    snprintf(path, sizeof path, "/proc/%.16s/fd", pid);
    s->pid = pid;
    s->found = strtol(pid, NULL, 10);
    return dir_list(path, is_fd, s) == 1;
}

/* The pid that has socket inode open; 0 when we may not see it. */
static long pid_of(unsigned long inode)
{
    struct sought s = {0};

    snprintf(s.want, sizeof s.want, "socket:[%lu]", inode);
    return dir_list("/proc", has_pid, &s) == 1 ? s.found : 0;
}

bool net_who_listens(uint16_t port, char *ret, size_t cap)
{
    struct row r, one;
    bool found = false, foreign = false;
    for (int v6 = 0; v6 <= 1 && !foreign; v6++) {
        FILE *f = fopen(v6 ? "/proc/net/tcp6" : "/proc/net/tcp", "re");
        while (f && !foreign && next_row(f, &one)) {
            const char *colon = strchr(one.local, ':');
            if (one.state != TCP_LISTEN_ || !colon || strtoul(colon + 1, NULL, 16) != port)
                continue;
            r = one; /* of several, on different addresses, another user's is the one to name */
            found = true;
            foreign = r.uid != geteuid();
        }
        if (f)
            fclose(f);
    }
    if (!found) {
        snprintf(ret, cap, "someone this process cannot see");
        return true;
    }
    long pid = pid_of(r.inode);
    if (!pid) {
        snprintf(ret, cap, "a process of uid %u", r.uid);
        return foreign;
    }
    char path[64], cmd[120] = "", *end;
    snprintf(path, sizeof path, "/proc/%ld/cmdline", pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(cmd, 1, sizeof cmd - 5, f) : 0;
    if (f)
        fclose(f);
    for (size_t i = 0; i + 1 < n; i++)
        if ((unsigned char)cmd[i] < 0x20 ||
            cmd[i] == 0x7f) /* words end in 0; lines may lie in them */
            cmd[i] = ' ';
    if (n == sizeof cmd - 5 && (end = strrchr(cmd, ' ')) != NULL) /* longer, most likely */
        memcpy(end, " ...", sizeof " ...");
    snprintf(ret, cap, "pid %ld (%s) of uid %u", pid, cmd, r.uid);
    return foreign;
}

/* One listener more, of owner. */
static void port_owner(enum net_port *ret, uint32_t owner, uint32_t uid)
{
    if (owner != uid && owner != 0)
        *ret = NET_PORT_OTHERS;
    else if (*ret == NET_PORT_NOBODY)
        *ret = NET_PORT_OURS;
}

/* Of one family.  To its end, also when the answer is known: the socket takes one such question
 * at a time. */
static int port_owners_of(int nl, uint8_t family, uint16_t port, uint32_t uid,
                          enum net_port *ret)
{
    _Alignas(struct nlmsghdr) static uint8_t got[32 << 10];
    struct diag_ask q;
    diag_ask_init(&q, NLM_F_DUMP);
    q.r.sdiag_family = family;
    q.r.idiag_states = 1u << TCP_LISTEN_;
    q.r.id.idiag_sport = htons(port);
    if (send(nl, &q, sizeof q, 0) != (ssize_t)sizeof q)
        return -ENOENT;
    for (ssize_t k; (k = diag_reply(nl, &q, got, sizeof got)) >= 0;) {
        const struct nlmsghdr *h = (const void *)got;
        for (int left = (int)k; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            const struct inet_diag_msg *d = NLMSG_DATA(h);
            if (h->nlmsg_type == NLMSG_DONE)
                return 0;
            if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof *d))
                return -ENOENT;
            if (d->id.idiag_sport == htons(port) && d->idiag_state == TCP_LISTEN_)
                port_owner(ret, d->idiag_uid, uid);
        }
    }
    return -ENOENT;
}

int net_port_owners_diag(uint16_t port, uint32_t uid, enum net_port *ret)
{
    enum net_port owners = NET_PORT_NOBODY;
    int nl = diag_socket();
    int r = nl < 0 ? nl : port_owners_of(nl, AF_INET, port, uid, &owners);
    if (r == 0)
        r = port_owners_of(nl, AF_INET6, port, uid, &owners);
    if (r == 0)
        *ret = owners;
    return r;
}

enum net_port net_port_owners_proc(uint16_t port, uint32_t uid)
{
    enum net_port ret = NET_PORT_NOBODY;
    for (int v6 = 0; v6 <= 1 && ret != NET_PORT_OTHERS; v6++) {
        FILE *f = proc_table(v6);
        struct row r;
        while (f && ret != NET_PORT_OTHERS && next_row(f, &r)) {
            const char *colon = strrchr(r.local, ':');
            if (r.state == TCP_LISTEN_ && colon && strtoul(colon + 1, NULL, 16) == port)
                port_owner(&ret, r.uid, uid);
        }
    }
    return ret;
}

enum net_port net_port_owners(uint16_t port, uint32_t uid)
{
    enum net_port ret;
    return net_port_owners_diag(port, uid, &ret) == 0 ? ret : net_port_owners_proc(port, uid);
}

bool net_is_loopback(const char *addr)
{
    return strncmp(addr, "127.", 4) == 0 || strcmp(addr, "::1") == 0 ||
           strncasecmp(addr, "::ffff:127.", 11) == 0 || strcmp(addr, "localhost") == 0;
}

/* The name before an optional :PORT, compared without case. */
static bool name_is(const char *s, size_t n, const char *name)
{
    return strlen(name) == n && strncasecmp(s, name, n) == 0;
}
bool net_host_ok(const char *host, const char *addr)
{
    if (!host)
        return false;
    size_t n;
    const char *name = host, *rest;
    if (host[0] == '[') {
        const char *end = strchr(host, ']');
        if (!end)
            return false;
        name = host + 1;
        n = (size_t)(end - name);
        rest = end + 1;
    } else {
        n = strcspn(host, ":");
        rest = host + n;
    }
    if (*rest && (*rest != ':' || !rest[1] ||
                  strspn(rest + 1, "0123456789") != strlen(rest + 1) || strlen(rest) > 6))
        return false;
    return name_is(name, n, "localhost") || name_is(name, n, "localhost.") ||
           name_is(name, n, "127.0.0.1") || name_is(name, n, "::1") || name_is(name, n, addr);
}
bool net_origin_ok(const char *origin, const char *addr)
{
    if (!origin)
        return true; /* no browser sends a request across sites without one */
    if (strncasecmp(origin, "http://", 7) == 0)
        return net_host_ok(origin + 7, addr);
    if (strncasecmp(origin, "https://", 8) == 0)
        return net_host_ok(origin + 8, addr);
    return false;
}

int net_addr_parse(const char *s, struct net_addr *ret, struct errbuf *eb)
{
    struct net_addr a = {0};
    const char *colon = strrchr(s, ':');
    size_t n = colon ? (size_t)(colon - s) : 0;
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 65536;
    if (!colon || !isdigit((unsigned char)colon[1]) || *end || port > 65535 || n == 0 ||
        n >= sizeof a.addr)
        return err_set(eb, -EINVAL,
                       "--http: want ADDR:PORT with a port of 0..65535, got \"%s\"", s);
    if (s[0] == '[' && s[n - 1] == ']')
        memcpy(a.addr, s + 1, n - 2);
    else
        memcpy(a.addr, s, n);
    a.port = (uint16_t)port;
    struct sockaddr_in *a4 = (void *)&a.sa;
    struct sockaddr_in6 *a6 = (void *)&a.sa;
    const char *num = strcmp(a.addr, "localhost") == 0 ? "127.0.0.1" : a.addr;
    if (inet_pton(AF_INET, num, &a4->sin_addr) == 1) {
        a4->sin_family = AF_INET;
        a.len = sizeof *a4;
    } else if (memset(&a.sa, 0, sizeof a.sa), inet_pton(AF_INET6, num, &a6->sin6_addr) == 1) {
        a6->sin6_family = AF_INET6;
        a.len = sizeof *a6;
    } else {
        return err_set(eb, -EINVAL, "--http: \"%s\" is no numeric IP address", a.addr);
    }
    *ret = a;
    return 0;
}

static int listen_at(const struct net_addr *a, uint16_t port)
{
    struct sockaddr_storage sa = a->sa;
    ((struct sockaddr_in *)&sa)->sin_port =
        htons(port); /* at the same place in both families */
    int one = 1, e;
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (sa.ss_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, (void *)&sa, a->len) == 0 && listen(fd, 128) == 0)
        return fd;
    e = errno;
    close(fd);
    return -e;
}

int net_listen(const struct net_addr *a, bool any_port, uint16_t *ret_port, struct errbuf *eb)
{
    int fd = listen_at(a, a->port);
    uint16_t port = a->port;
    if (fd == -EADDRINUSE) {
        char who[256];
        if (net_who_listens(a->port, who, sizeof who) && !any_port)
            return err_set(
                eb, -EADDRINUSE,
                "--http: port %u is taken by %s, who is given what clients send to it; "
                "choose another port, or take the next free one with --http-any-port",
                a->port, who);
        for (int i = 1; fd == -EADDRINUSE && i <= PORTS_TRIED && a->port + i <= 65535; i++) {
            port = (uint16_t)(a->port + i);
            fd = listen_at(a, port);
        }
        if (fd >= 0)
            log_at(LOG_WARN_, "port %u is taken by %s; serving port %u instead", a->port, who,
                   port);
        else
            return err_set(eb, fd,
                           "--http: port %u is taken by %s, and no port up to %u is free",
                           a->port, who, port);
    }
    if (fd < 0)
        return err_set(eb, fd, "--http: cannot listen on %s port %u: %s", a->addr, a->port,
                       strerror(-fd));
    struct sockaddr_storage got = {0};
    socklen_t n = sizeof got;
    if (getsockname(fd, (void *)&got, &n) == 0)
        port = ntohs(((struct sockaddr_in *)&got)->sin_port);
    *ret_port = port;
    return fd;
}

int net_listen_v6(uint16_t port, bool any_port, struct errbuf *eb)
{
    struct net_addr a = {.addr = "::1", .port = port, .len = sizeof(struct sockaddr_in6)};
    *(struct sockaddr_in6 *)(void *)&a.sa =
        (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = listen_at(&a, port);
    if (fd >= 0)
        return fd;
    if (fd == -EADDRINUSE && !any_port && net_port_owners(port, geteuid()) == NET_PORT_OTHERS)
        return err_set(
            eb, -EADDRINUSE,
            "--http: port %u of ::1 is taken by another user, who is given what clients "
            "send to `localhost`; choose another port, or serve 127.0.0.1 all the same "
            "with --http-any-port",
            port);
    if (fd == -EADDRINUSE)
        log_at(LOG_WARN_,
               "port %u of ::1 is taken: what calls this machine `localhost` may get there "
               "instead of here; use 127.0.0.1",
               port);
    else if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL)
        log_at(LOG_WARN_, "cannot listen on ::1 port %u: %s; 127.0.0.1 is served", port,
               strerror(-fd));
    return -ENOENT;
}
