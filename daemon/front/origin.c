/* origin.c - see origin.h. */
#include "daemon/front/origin.h"
#include "daemon/front/netcheck.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_web(const char *s)
{
    return strncasecmp(s, "http://", 7) == 0 || strncasecmp(s, "https://", 8) == 0;
}

/* scheme://host[:port]; the host "*" only of a scheme that is no web site's. */
static bool well_formed(const char *s, size_t n)
{
    const char *sep = memmem(s, n, "://", 3);
    if (!sep || sep == s || !isalpha((unsigned char)s[0]) || n > ORIGIN_BYTES_MAX)
        return false;
    for (const char *p = s; p < sep; p++)
        if (!isalnum((unsigned char)*p) && !strchr("+-.", *p))
            return false;
    const char *host = sep + 3;
    size_t k = n - (size_t)(host - s);
    if (k == 1 && host[0] == '*')
        return !is_web(s);
    for (size_t i = 0; i < k; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr(".-_:[]", host[i]))
            return false;
    return k > 0;
}

int origins_parse(struct origins *ret, const char *list, struct errbuf *eb)
{
    *ret = (struct origins){.n = 0};
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, ", \t");
        if (n && !well_formed(p, n))
            return err_set(eb, -EINVAL,
                           "--http-origin: want origins like app://obsidian.md, "
                           "https://chat.example:8443 or moz-extension://*, got \"%.*s\"",
                           (int)(n < 80 ? n : 80), p);
        if (n && ret->n == ORIGINS_MAX)
            return err_set(eb, E_LIMIT, "--http-origin: more than %d origins", ORIGINS_MAX);
        if (n)
            memcpy(ret->item[ret->n++], p, n); /* ended by the zero that is there */
        p += n + (p[n] != 0);
    }
    return 0;
}

static bool listed(const struct origins *o, const char *origin)
{
    for (uint32_t i = 0; i < o->n; i++) {
        size_t n = strlen(o->item[i]);
        if (strcasecmp(o->item[i], origin) == 0)
            return true;
        if (o->item[i][n - 1] == '*' && strncasecmp(o->item[i], origin, n - 1) == 0 &&
            origin[n - 1])
            return true;
    }
    return false;
}

/* Of an origin on this machine. */
static uint16_t port_of(const char *origin)
{
    const char *colon = strrchr(origin, ':'), *bracket = strrchr(origin, ']');
    if (colon > origin + 5 && colon > bracket)
        return (uint16_t)strtoul(colon + 1, NULL, 10);
    return strncasecmp(origin, "https", 5) == 0 ? 443 : 80;
}

const char *origin_refusal(const struct origins *o, const struct origin_ask *a)
{
    bool near = a->site && strcasecmp(a->site, "same-site") == 0;
    bool far = a->site && strcasecmp(a->site, "cross-site") == 0;
    bool typed = a->mode && strcasecmp(a->mode, "navigate") == 0;
    if (!a->origin)
        return (near || far) && !typed ? "Sec-Fetch-Site says that a page of another site asks"
                                       : NULL;
    if (listed(o, a->origin))
        return NULL;
    if (a->list_only || !net_origin_ok(a->origin, a->addr))
        return "the Origin header names a web page of another site; --http-origin lets one in";
    switch (net_port_owners(port_of(a->origin), a->uid)) {
    case NET_PORT_OURS: return NULL;
    case NET_PORT_OTHERS:
        return "the Origin header names a page that another user of this machine serves; "
               "--http-origin lets it in";
    default:
        /* Whose page it was cannot be known any more.  Programs that are no browser send an
         * Origin now and then, but no Sec-Fetch-Site. */
        return a->site ? "the Origin header names a page of this machine that nobody serves "
                         "now; --http-origin lets it in"
                       : NULL;
    }
}
