/* held.c - see held.h. */
#include "daemon/held.h"
#include "base/bounds.h"
#include "base/check.h"
#include "daemon/pace.h"
#include <errno.h>
#include <stdlib.h>

struct held_user {
    struct held *h; /* NULL: closed */
    struct held_user *next;
    uint64_t bytes;
    uint32_t uid, refs;
    struct pace pace;
};
struct held {
    struct held_user *users;
    uint64_t bytes;
    void (*room)(void *ctx);
    void *ctx;
    bool refused; /* somebody waits for room */
};

int held_open(struct held **ret, void (*room)(void *ctx), void *ctx)
{
    struct held *h = calloc(1, sizeof *h);

    if (!h)
        return -ENOMEM;
    h->room = room;
    h->ctx = ctx;
    *ret = h;
    return 0;
}

void held_close(struct held *h)
{
    for (struct held_user *u = h ? h->users : NULL; u; u = u->next)
        u->h = NULL;
    free(h);
}

struct held_user *held_take(struct held *h, uint32_t uid)
{
    struct held_user *u;

    for (u = h->users; u; u = u->next)
        if (u->uid == uid)
            return held_take_same(u);
    u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    *u = (struct held_user){.h = h, .next = h->users, .uid = uid, .refs = 1};
    h->users = u;
    return u;
}

struct held_user *held_take_same(struct held_user *u)
{
    u->refs++;
    return u;
}

void held_drop(struct held_user *u)
{
    if (!u || --u->refs)
        return;
    must(u->bytes == 0);
    if (u->h) {
        struct held_user **at = &u->h->users;

        while (*at != u)
            at = &(*at)->next;
        *at = u->next;
    }
    free(u);
}

static bool fits(const struct held_user *u, uint64_t bytes)
{
    bool small = bytes <= HELD_SMALL_BYTES;

    if (u->bytes == 0)
        return true;
    if (small)
        return u->bytes + bytes <= HELD_USER_MAX + HELD_SMALL_MAX;
    return u->bytes + bytes <= HELD_USER_MAX && u->h->bytes + bytes <= HELD_ALL_MAX;
}

bool held_add(struct held_user *u, uint64_t bytes)
{
    must(u->h);
    if (!fits(u, bytes)) {
        u->h->refused = true;
        return false;
    }
    held_add_reply(u, bytes);
    return true;
}

void held_add_reply(struct held_user *u, uint64_t bytes)
{
    u->bytes += bytes;
    if (u->h)
        u->h->bytes += bytes;
}

void held_sub(struct held_user *u, uint64_t bytes)
{
    must(u->bytes >= bytes);
    u->bytes -= bytes;
    if (!u->h || bytes == 0)
        return;
    u->h->bytes -= bytes;
    if (u->h->refused) {
        u->h->refused = false;
        u->h->room(u->h->ctx);
    }
}

struct pace *held_pace(struct held_user *u)
{
    return &u->pace;
}

uint64_t held_bytes(const struct held *h)
{
    return h->bytes;
}
