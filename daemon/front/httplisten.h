/* httplisten.h - where the HTTP face listens, and how clients learn it. */
#ifndef FRONT_HTTPLISTEN_H
#define FRONT_HTTPLISTEN_H
#include "base/err.h"
#include "daemon/front/http.h"

/* Binds o->addr, or takes the socket that systemd has bound.  ret_fd[1]: the same port of ::1
 * beside 127.0.0.1, or -1.  keyed: there are API keys, so other machines may be served. */
int http_listen(const struct http_opts *o, bool keyed, char ret_addr[64], uint16_t *ret_port,
                int ret_fd[2], struct errbuf *eb);
/* As many connections as there are descriptors for, up to our own bound. */
uint32_t http_conns_limit(void);
/* The port in use, into runtime/http.port; runtime NULL: nowhere. */
void http_write_port(uint16_t port, const char *runtime);

#endif
