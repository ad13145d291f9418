/* test_netcheck.c - whose connection it is, and names a browser could be tricked with. */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/front/netcheck.h"
#include "tests/t.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void names_of_this_machine_pass_and_no_others(void)
{
    static const struct {
        const char *host;
        bool ok;
    } rows[] = {
        {"127.0.0.1", true},
        {"127.0.0.1:8765", true},
        {"localhost", true},
        {"LocalHost:1", true},
        {"localhost.", true},
        {"localhost.:8765", true},
        {"localhost..", false},
        {"localhost.:", false},
        {".localhost", false},
        {"[::1]:8765", true},
        {"[::1]", true},
        {"evil.example", false},
        {"evil.example:8765", false},
        {"127.0.0.1.evil.example", false},
        {"localhost.evil.example", false},
        {"", false},
        {"127.0.0.1:", false},
        {"127.0.0.1:80x", false},
        {"127.0.0.1:999999", false},
        {"[::1", false},
        {"[::1]x", false},
        {"0.0.0.0", false},
        {"127.0.0.2", false},
        {"user@127.0.0.1", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (net_host_ok(rows[i].host, "127.0.0.1") != rows[i].ok)
            t_fail(__FILE__, __LINE__, "Host \"%s\": want %d", rows[i].host, rows[i].ok);
    CHECK(!net_host_ok(NULL, "127.0.0.1"));
    CHECK(net_host_ok("127.0.0.2:80", "127.0.0.2"));
}

static void an_origin_of_another_site_is_refused(void)
{
    CHECK(net_origin_ok(NULL, "127.0.0.1"));
    CHECK(net_origin_ok("http://localhost:3000", "127.0.0.1"));
    CHECK(net_origin_ok("https://127.0.0.1", "127.0.0.1"));
    CHECK(!net_origin_ok("null", "127.0.0.1"));
    CHECK(!net_origin_ok("http://evil.example", "127.0.0.1"));
    CHECK(!net_origin_ok("file://localhost", "127.0.0.1"));
    CHECK(!net_origin_ok("http://localhost@evil.example", "127.0.0.1"));
}

static void addresses_are_parsed_or_refused_with_words(void)
{
    static const char *const bad[] = {"",
                                      "8765",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "127.0.0.1:65536",
                                      "127.0.0.1:-1",
                                      "127.0.0.1:80x",
                                      "example.com:80",
                                      ":80",
                                      "[::1:80"};
    struct net_addr a;
    struct errbuf eb;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        eb.s[0] = 0;
        if (net_addr_parse(bad[i], &a, &eb) == 0 || !eb.s[0])
            t_fail(__FILE__, __LINE__, "\"%s\" was accepted, or without words", bad[i]);
    }
    CHECK_EQ(net_addr_parse("127.0.0.1:8765", &a, &eb), 0);
    CHECK_EQ(a.port, 8765);
    CHECK_EQ(net_addr_parse("[::1]:0", &a, &eb), 0);
    CHECK_EQ(a.sa.ss_family, AF_INET6);
    CHECK_EQ(net_addr_parse("localhost:1", &a, &eb), 0);
}

static int a_connection(int family, int *ret_listen, int *ret_client)
{
    struct net_addr a;
    uint16_t port = 0;
    CHECK_EQ(net_addr_parse(family == AF_INET6 ? "[::1]:0" : "127.0.0.1:0", &a, NULL), 0);
    *ret_listen = net_listen(&a, false, &port, NULL);
    if (*ret_listen < 0)
        return -1;
    struct sockaddr_storage sa = a.sa;
    ((struct sockaddr_in *)&sa)->sin_port = htons(port);
    *ret_client = socket(family, SOCK_STREAM, 0);
    CHECK_EQ(connect(*ret_client, (void *)&sa, a.len), 0);
    struct timeval tv = {.tv_sec = 5};
    setsockopt(*ret_listen, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    int fd = -1;
    for (int i = 0; i < 200 && fd < 0; i++) {
        fd = accept(*ret_listen, NULL, NULL);
        if (fd < 0)
            usleep(1000);
    }
    return fd;
}

static const struct {
    const char *name;
    int (*uid)(int fd, uint32_t *ret_uid);
} ways[] = {
    {"netlink", net_peer_uid_diag}, {"/proc", net_peer_uid_proc}, {"both", net_peer_uid}};

/* Some machines have no netlink lookup; the others must see it work. */
static bool here(int way, int fd)
{
    uint32_t uid;
    int r = ways[way].uid(fd, &uid);
    if (r < 0 && way == 0)
        printf("    no netlink lookup here (%d)\n", r);
    return r == 0 || way != 0;
}

static void the_kernel_names_the_peers_uid(void)
{
    static const int families[] = {AF_INET, AF_INET6};
    for (int i = 0; i < 6; i++) {
        int l = -1, c = -1, fd = a_connection(families[i % 2], &l, &c), way = i / 2;
        uint32_t uid = 12345;
        if (fd < 0 && families[i % 2] == AF_INET6)
            continue; /* a machine without IPv6 */
        if (!here(way, fd))
            continue;
        if (ways[way].uid(fd, &uid) != 0 || uid != getuid())
            t_fail(__FILE__, __LINE__, "by %s: uid %u, want %u", ways[way].name, uid, getuid());
        /* Its other half of the question: once the peer is gone nobody is trusted. */
        close(c);
        usleep(20000);
        uid = 12345;
        if (ways[way].uid(fd, &uid) >= 0 || uid != 12345)
            t_fail(__FILE__, __LINE__, "by %s: a peer that is gone has uid %u", ways[way].name,
                   uid);
        close(fd);
        /* And of a port that only somebody listens on. */
        if (ways[way].uid(l, &uid) >= 0)
            t_fail(__FILE__, __LINE__, "by %s: a listener has a peer", ways[way].name);
        close(l);
    }
}

/* A socket of both families shows an IPv4 peer as ::ffff:127.0.0.1. */
static void the_kernel_names_a_mapped_peers_uid(void)
{
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a6;
    int l = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), zero = 0;
    if (l < 0 || setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero) < 0 ||
        bind(l, (void *)&a6, sizeof a6) < 0)
        t_skip("no IPv6");
    CHECK_EQ(listen(l, 8), 0);
    CHECK_EQ(getsockname(l, (void *)&a6, &n), 0);
    a4.sin_port = a6.sin6_port;
    int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(c, (void *)&a4, sizeof a4), 0);
    int fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
    for (int way = 0; way < 3; way++) {
        uint32_t uid = 12345;
        if (here(way, fd) && (ways[way].uid(fd, &uid) != 0 || uid != getuid()))
            t_fail(__FILE__, __LINE__, "by %s: uid %u, want %u", ways[way].name, uid, getuid());
    }
    CHECK(net_is_loopback("::ffff:127.0.0.1"));
    close(c);
    close(fd);
    close(l);
}

/* Each connection that was closed is remembered for a minute; the look must not grow by it. */
static void a_peer_is_found_at_once_among_thousands(void)
{
    int l = -1, c = -1, fd = a_connection(AF_INET, &l, &c);
    uint32_t uid = 0;
    CHECK(fd >= 0);
    if (!here(0, fd))
        t_skip("no netlink lookup");
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    CHECK_EQ(getsockname(l, (void *)&sa, &n), 0);
    for (int i = 0; i < 3000; i++) {
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(s, (void *)&sa, n), 0);
        int t = -1;
        while (t < 0)
            t = accept4(l, NULL, NULL, SOCK_CLOEXEC);
        close(s);
        close(t);
    }
    uint64_t t0 = now_ns();
    for (int i = 0; i < 200; i++)
        CHECK_EQ(net_peer_uid(fd, &uid), 0);
    uint64_t ms = (now_ns() - t0) / 1000000;
    printf("    200 looks in %llu ms\n", (unsigned long long)ms);
    CHECK(ms < 1000);
    close(c);
    close(fd);
    close(l);
}

static int listener(uint32_t uid, uint16_t *ret_port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof sa;
    CHECK(seteuid(uid) == 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(fd, (void *)&sa, n) == 0 && listen(fd, 1) == 0);
    CHECK_EQ(getsockname(fd, (void *)&sa, &n), 0);
    CHECK(seteuid(0) == 0);
    *ret_port = ntohs(sa.sin_port);
    return fd;
}

static void both_ways_name_a_ports_owners(void)
{
    if (getuid() != 0)
        t_skip("listening as another user needs root");
    uint16_t mine, theirs, none;
    int a = listener(0, &mine), b = listener(65534, &theirs), c = listener(0, &none);
    enum net_port got;
    close(c);
    const struct {
        uint16_t port;
        uint32_t uid;
        enum net_port want;
    } rows[] = {{mine, 0, NET_PORT_OURS},         {mine, 65534, NET_PORT_OURS},
                {theirs, 0, NET_PORT_OTHERS},     {theirs, 65534, NET_PORT_OURS},
                {theirs, 65533, NET_PORT_OTHERS}, {none, 0, NET_PORT_NOBODY}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_EQ(net_port_owners_proc(rows[i].port, rows[i].uid), rows[i].want);
        if (net_port_owners_diag(rows[i].port, rows[i].uid, &got) < 0)
            t_skip("no netlink lookup");
        CHECK_EQ(got, rows[i].want);
        CHECK_EQ(net_port_owners(rows[i].port, rows[i].uid), rows[i].want);
    }
    close(a);
    close(b);
}

/* Connections of whomever: the table in /proc has them all, and is read in a time that grows. */
static void a_ports_owner_is_found_at_once_among_thousands(void)
{
    enum { N = 1500, LOOKS = 20 };
    static int held[2 * N];
    int l = -1, c = -1, fd = a_connection(AF_INET, &l, &c);
    struct rlimit lim = {0};
    enum net_port got;
    CHECK(getrlimit(RLIMIT_NOFILE, &lim) == 0);
    lim.rlim_cur = lim.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &lim);
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    CHECK_EQ(getsockname(l, (void *)&sa, &n), 0);
    uint16_t port = ntohs(((struct sockaddr_in *)&sa)->sin_port);
    if (lim.rlim_cur < 2 * N + 100 || net_port_owners_diag(port, geteuid(), &got) < 0)
        t_skip("no netlink lookup, or too few descriptors");
    for (int i = 0; i < N; i++) {
        held[2 * i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(held[2 * i], (void *)&sa, n), 0);
        while ((held[2 * i + 1] = accept4(l, NULL, NULL, SOCK_CLOEXEC)) < 0)
            ;
    }
    uint64_t t0 = now_ns();
    for (int i = 0; i < LOOKS; i++)
        CHECK_EQ(net_port_owners_proc(port, geteuid()), NET_PORT_OURS);
    uint64_t t1 = now_ns();
    for (int i = 0; i < LOOKS; i++)
        CHECK_EQ(net_port_owners(port, geteuid()), NET_PORT_OURS);
    uint64_t t2 = now_ns();
    printf("    %d looks: %.1f ms by the table, %.1f ms by netlink\n", LOOKS,
           (double)(t1 - t0) / 1e6, (double)(t2 - t1) / 1e6);
    CHECK(t2 - t1 < (t1 - t0) / 2);
    for (int i = 0; i < 2 * N; i++)
        close(held[i]);
    close(c);
    close(fd);
    close(l);
}

static void a_taken_port_gives_the_next_and_names_its_owner(void)
{
    struct net_addr a;
    uint16_t first = 0, second = 0;
    char who[256];
    CHECK_EQ(net_addr_parse("127.0.0.1:0", &a, NULL), 0);
    int l = net_listen(&a, false, &first, NULL);
    CHECK(l >= 0 && first > 0);
    a.port = first;
    int m = net_listen(&a, false, &second, NULL);
    CHECK(m >= 0 && second > first && second <= first + 100);
    net_who_listens(first, who, sizeof who);
    char pid[32];
    snprintf(pid, sizeof pid, "pid %d ", (int)getpid());
    if (!strstr(who, pid))
        t_fail(__FILE__, __LINE__, "owner is \"%s\", want %s", who, pid);
    close(l);
    close(m);
}

/* What is left of it ends in a word, and says that there is more. */
static void a_long_command_line_ends_at_a_word(void)
{
    struct net_addr a;
    uint16_t first = 0;
    char who[256] = "";
    CHECK_EQ(net_addr_parse("127.0.0.1:0", &a, NULL), 0);
    int l = net_listen(&a, false, &first, NULL);
    CHECK(l >= 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(l, 0);
        execl("/bin/sh", "sh", "-c", "kill -STOP $$", "wordwordwordword1", "wordwordwordword2",
              "wordwordwordword3", "wordwordwordword4", "wordwordwordword5",
              "wordwordwordword6", (char *)NULL);
        _exit(0);
    }
    int st;
    CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid); /* it is a shell by now */
    close(l);
    net_who_listens(first, who, sizeof who);
    if (!strstr(who,
                "(sh -c kill -STOP $$ wordwordwordword1 wordwordwordword2 wordwordwordword3 "
                "wordwordwordword4 wordwordwordword5 ...)"))
        t_fail(__FILE__, __LINE__, "owner is \"%s\"", who);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* Who trusts the number would talk to him. */
static void a_port_that_another_user_has_is_an_error(void)
{
    struct net_addr a;
    struct errbuf eb = {""};
    uint16_t first = 0, second = 0;
    int up[2];
    if (geteuid() != 0)
        t_skip("wants root, to be another user");
    CHECK_EQ(net_addr_parse("127.0.0.1:0", &a, NULL), 0);
    CHECK_EQ(pipe(up), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        bool ok = setresuid(12345, 12345, 12345) == 0;
        int fd = ok ? net_listen(&a, false, &first, NULL) : -1;
        (void)!write(up[1], &first, fd >= 0 ? sizeof first : 0);
        (void)dup2(fd, 0); /* not closed by exec, and neither is the pipe's end that tells */
        (void)fcntl(up[1], F_SETFD, FD_CLOEXEC);
        execl("/bin/sh", "sh", "-c", "\nkill -STOP $$", (char *)NULL);
        _exit(0);
    }
    close(up[1]);
    CHECK_EQ(read(up[0], &first, sizeof first), sizeof first);
    CHECK_EQ(read(up[0], &(char){0}, 1), 0); /* it is a shell by now */
    a.port = first;
    CHECK_EQ(net_listen(&a, false, &second, &eb), -EADDRINUSE);
    char want[40];
    snprintf(want, sizeof want, "port %u is taken by pid %d ", first, (int)pid);
    if (!strstr(eb.s, want) || !strstr(eb.s, "uid 12345") || !strstr(eb.s, "--http-any-port"))
        t_fail(__FILE__, __LINE__, "\"%s\" lacks \"%s\" or uid or flag", eb.s, want);
    CHECK(strstr(eb.s, "(sh -c  kill") && !strchr(eb.s, '\n')); /* his line break is not ours */
    int m = net_listen(&a, true, &second, &eb);
    CHECK(m >= 0 && second > first && second <= first + 100);
    close(m);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    m = net_listen(&a, false, &second, &eb);
    CHECK(m >= 0 && second == first);
    close(m);
}

T_MAIN({"names_of_this_machine_pass_and_no_others", names_of_this_machine_pass_and_no_others},
       {"an_origin_of_another_site_is_refused", an_origin_of_another_site_is_refused},
       {"addresses_are_parsed_or_refused_with_words",
        addresses_are_parsed_or_refused_with_words},
       {"the_kernel_names_the_peers_uid", the_kernel_names_the_peers_uid},
       {"the_kernel_names_a_mapped_peers_uid", the_kernel_names_a_mapped_peers_uid},
       {"a_peer_is_found_at_once_among_thousands", a_peer_is_found_at_once_among_thousands},
       {"both_ways_name_a_ports_owners", both_ways_name_a_ports_owners},
       {"a_ports_owner_is_found_at_once_among_thousands",
        a_ports_owner_is_found_at_once_among_thousands},
       {"a_taken_port_gives_the_next_and_names_its_owner",
        a_taken_port_gives_the_next_and_names_its_owner},
       {"a_long_command_line_ends_at_a_word", a_long_command_line_ends_at_a_word},
       {"a_port_that_another_user_has_is_an_error", a_port_that_another_user_has_is_an_error})
