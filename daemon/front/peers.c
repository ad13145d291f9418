/* peers.c - see peers.h. */
#include "daemon/front/peers.h"
#include "base/check.h"
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static void addr_of(uint8_t ret[16], const struct sockaddr_storage *ss)
{
    const struct sockaddr_in *a4 = (const void *)ss;
    const struct sockaddr_in6 *a6 = (const void *)ss;
    memset(ret, 0, 16);
    if (ss->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a6->sin6_addr))
        memcpy(ret, &a6->sin6_addr, 16);
    else if (ss->ss_family == AF_INET6)
        memcpy(ret, &a6->sin6_addr, 8);
    else if (ss->ss_family == AF_INET) {
        ret[10] = ret[11] = 0xff;
        memcpy(ret + 12, &a4->sin_addr, 4);
    }
}

struct peer *peer_take(struct peers *s, const char *as, uint32_t uid,
                       const struct sockaddr_storage *addr)
{
    struct peer want = {.as = as, .uid = as ? 0 : uid};
    struct peer *p = s->first;
    if (!as && uid == (uint32_t)PEER_UID_NONE)
        addr_of(want.addr, addr);
    while (p && (p->as != as || p->uid != want.uid || memcmp(p->addr, want.addr, 16) != 0))
        p = p->next;
    if (!p && (p = malloc(sizeof *p))) {
        *p = want;
        p->next = s->first;
        s->first = p;
    }
    if (p) {
        p->conns++;
        s->keyed += as != NULL;
    }
    return p;
}

void peer_drop(struct peers *s, struct peer *p)
{
    struct peer **at = &s->first;
    s->keyed -= p->as != NULL;
    if (--p->conns)
        return;
    must(p->open == 0);
    must(p->body_bytes == 0);
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    free(p);
}

void peer_open(struct peers *s, struct peer *p, bool open)
{
    must(open || p->open);
    p->open += open ? 1 : (uint32_t)-1;
    s->open += open ? 1 : (uint32_t)-1;
}

void peer_body(struct peers *s, struct peer *p, int64_t bytes)
{
    p->body_bytes += (uint64_t)bytes;
    s->body_bytes += (uint64_t)bytes;
}

const struct peer *peer_crowd(const struct peers *s, uint32_t uid)
{
    const struct peer *most = NULL;
    for (const struct peer *p = s->first; p; p = p->next)
        if (!p->as && p->uid != uid && (!most || p->conns > most->conns))
            most = p;
    return most;
}
