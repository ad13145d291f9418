/* origin.h - may a page in its reader's browser talk to us, and use the answer?
 *
 * A browser runs pages of anybody as its own user, so the kernel's word on whose a connection is
 * says nothing about the page.  The browser does, in Origin and Sec-Fetch-Site, and keeps answers
 * from a page that are not marked for it (CORS).  Let in are the origins that were configured, and
 * pages that come from this machine, when it is our own user's browser that asks: from a port that
 * our own user or root listens on, so that another user's page on localhost stays out.  Where
 * somebody else's browser runs we do not know, nor so what its localhost is.  One thread. */
#ifndef FRONT_ORIGIN_H
#define FRONT_ORIGIN_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ORIGINS_MAX = 32, ORIGIN_BYTES_MAX = 255 };

struct origins {
    char item[ORIGINS_MAX][ORIGIN_BYTES_MAX + 1];
    uint32_t n;
};
/* "app://obsidian.md, chrome-extension://abc..., https://chat.example": an origin as browsers
 * send it, or of an app or extension scheme "app://" and a star for all of it.  -EINVAL. */
int origins_parse(struct origins *ret, const char *list, struct errbuf *eb);

struct origin_ask {
    const char *origin, *site,
        *mode;        /* Origin, Sec-Fetch-Site, Sec-Fetch-Mode; NULL: not sent */
    const char *addr; /* what we listen on */
    uint32_t uid;     /* ours */
    bool
        list_only; /* not a process of ours: only what was configured gets in, and no look-up */
};
/* NULL: it may; else why not, and what to do. */
const char *origin_refusal(const struct origins *o, const struct origin_ask *a);

#endif
