/* netcheck.h - who is at the other end of a loopback connection, and is it a browser's trick.
 *
 * A port on 127.0.0.1 is open to every local user; the kernel tells whose socket the other
 * end is: asked for that one by netlink, or from its whole table in /proc, which takes
 * milliseconds once thousands of connections are remembered. */
#ifndef FRONT_NETCHECK_H
#define FRONT_NETCHECK_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* The uid that owns the peer's end of the connected TCP socket fd. 0; -ENOENT: the peer is
 * not on this machine, or gone. */
int net_peer_uid(int fd, uint32_t *ret_uid);
/* Opens what that needs, once and for good: before the process gives up opening files. */
void net_check_open(void);
/* Its two ways, for tests. */
int net_peer_uid_diag(int fd, uint32_t *ret_uid);
int net_peer_uid_proc(int fd, uint32_t *ret_uid);
/* "pid 71 (ollama serve) of uid 1000", as far as /proc lets us see; never fails.  True: another
 * user's, or nobody's that can be seen. */
bool net_who_listens(uint16_t port, char *ret, size_t cap);
/* Who listens on a TCP port of this machine, on any address: nobody that can be seen, our own
 * user or root alone, or somebody else too. */
enum net_port { NET_PORT_NOBODY, NET_PORT_OURS, NET_PORT_OTHERS };
enum net_port net_port_owners(uint16_t port, uint32_t uid);
/* Its two ways, for tests: netlink is asked for the listeners on that port alone. */
int net_port_owners_diag(uint16_t port, uint32_t uid, enum net_port *ret);
enum net_port net_port_owners_proc(uint16_t port, uint32_t uid);
/* A page on another site may resolve its name to 127.0.0.1 and talk to us: its Host or Origin
 * gives it away.  host NULL: none sent.  addr: what we listen on. */
bool net_host_ok(const char *host, const char *addr);
bool net_origin_ok(const char *origin, const char *addr);
bool net_is_loopback(const char *addr);

/* "ADDR:PORT", "[::1]:PORT". -EINVAL with words. */
struct net_addr {
    struct sockaddr_storage sa;
    socklen_t len;
    char addr[64]; /* without brackets */
    uint16_t port;
};
int net_addr_parse(const char *s, struct net_addr *ret, struct errbuf *eb);
/* Binds and listens; when the port is taken by the same user says by whom (log) and takes the next
 * free one of the hundred above it; ret_port says which.  One that another user has is an error
 * (-EADDRINUSE) unless any_port: who trusts the number would talk to him. fd, or < 0 with words. */
int net_listen(const struct net_addr *a, bool any_port, uint16_t *ret_port, struct errbuf *eb);
/* The same port of ::1, which `localhost` is for many clients.  fd; -ENOENT: there is no IPv6, or
 * it cannot be had and the log says so; -EADDRINUSE with words: as net_listen. */
int net_listen_v6(uint16_t port, bool any_port, struct errbuf *eb);

#endif
