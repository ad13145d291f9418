/* peers.c - see peers.h. */
#include "daemon/front/peers.h"
#include "base/check.h"
#include "base/share.h"
#include "daemon/front/http.h"
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_SMALL = 16 << 10 }; /* taken even when large bodies fill their bound */

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

int peer_no_body(const struct peers *s, const struct peer *p, size_t have, size_t n,
                 char words[200])
{
    bool own = p->body_bytes > have;
    if (have + n <= BODY_SMALL ||
        share_more(p->body_bytes + n - 1, s->body_bytes + n - 1, HTTP_BODIES_MAX))
        return 0;
    snprintf(
        words, 200,
        "requests that are being sent hold %llu MiB, %llu of them yours, of at most %d: %s",
        (unsigned long long)(s->body_bytes >> 20), (unsigned long long)(p->body_bytes >> 20),
        HTTP_BODIES_MAX >> 20, own ? "that is your share; send fewer at a time" : "try again");
    return own ? 429 : 503;
}

int peer_no_open(const struct peers *s, const struct peer *p, char words[200])
{
    if (share_more(p->open, s->open, HTTP_OPEN_MAX))
        return 0;
    snprintf(words, 200, "%u requests are open, %u of them yours, of at most %d: %s", s->open,
             p->open, HTTP_OPEN_MAX,
             p->open ? "that is your share; wait for answers" : "try again");
    return p->open ? 429 : 503;
}

const struct peer *peer_crowd(const struct peers *s, uint32_t uid)
{
    const struct peer *most = NULL;
    for (const struct peer *p = s->first; p; p = p->next)
        if (!p->as && p->uid != uid && (!most || p->conns > most->conns))
            most = p;
    return most;
}
