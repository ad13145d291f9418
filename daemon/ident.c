/* ident.c - see ident.h. */
#include "daemon/ident.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 512 };

struct ident {
    struct ident *next;
    uint32_t uid, owner;
    uint8_t as[IDENT_BYTES];
};
struct idents {
    struct ident *bucket[BUCKETS]; /* by owner */
    struct {
        uint32_t uid, keys;
    } * user;
    uint32_t users;
    uint8_t secret[crypto_generichash_KEYBYTES];
};

int idents_open(struct idents **ret, const uint8_t secret[16])
{
    static const char domain[] = "hearth owner 1";
    struct idents *t = calloc(1, sizeof *t);

    if (!t)
        return -ENOMEM;
    must(sodium_init() >= 0);
    crypto_generichash(t->secret, sizeof t->secret, (const uint8_t *)domain, sizeof domain,
                       secret, 16);
    *ret = t;
    return 0;
}

void idents_close(struct idents *t)
{
    for (uint32_t b = 0; t && b < BUCKETS; b++)
        for (struct ident *i = t->bucket[b], *next; i; i = next) {
            next = i->next;
            free(i);
        }
    if (t)
        free(t->user);
    free(t);
}

static struct ident *find(const struct idents *t, uint32_t owner)
{
    struct ident *i = t->bucket[owner % BUCKETS];

    while (i && i->owner != owner)
        i = i->next;
    return i;
}

/* How many keys uid has; NULL: none, and with make no memory. */
static uint32_t *keys_of(struct idents *t, uint32_t uid, bool make)
{
    void *more;

    for (uint32_t i = 0; i < t->users; i++)
        if (t->user[i].uid == uid)
            return &t->user[i].keys;
    more = make ? realloc(t->user, (t->users + 1) * sizeof *t->user) : NULL;
    if (!more)
        return NULL;
    t->user = more;
    t->user[t->users].uid = uid;
    t->user[t->users].keys = 0;
    return &t->user[t->users++].keys;
}

static uint32_t owner_of(const struct idents *t, uint32_t uid, const uint8_t as[IDENT_BYTES])
{
    uint8_t in[4 + IDENT_BYTES], out[crypto_generichash_BYTES_MIN];
    uint32_t owner;

    st32(in, uid);
    memcpy(in + 4, as, IDENT_BYTES);
    crypto_generichash(out, sizeof out, in, sizeof in, t->secret, sizeof t->secret);
    owner = ld32(out) | IDENT_FIRST;
    if (owner == UINT32_MAX) /* nobody's uid, and used for nobody */
        owner--;
    return owner == IDENT_FIRST ? owner + 1 : owner;
}

int ident_owner(struct idents *t, uint32_t uid, const uint8_t as[IDENT_BYTES], uint32_t *ret)
{
    uint32_t owner = owner_of(t, uid, as), *keys;
    struct ident *i = find(t, owner);

    if (i && i->uid == uid && memcmp(i->as, as, IDENT_BYTES) == 0) {
        *ret = owner;
        return 0;
    }
    keys = keys_of(t, uid, true);
    if (!keys)
        return -ENOMEM;
    if (*keys >= IDENT_KEYS_MAX)
        return -EAGAIN;
    if (i)
        return -EEXIST;
    i = calloc(1, sizeof *i);
    if (!i)
        return -ENOMEM;
    *i = (struct ident){.next = t->bucket[owner % BUCKETS], .uid = uid, .owner = owner};
    memcpy(i->as, as, IDENT_BYTES);
    t->bucket[owner % BUCKETS] = i;
    ++*keys;
    log_at(LOG_INFO_, "key %02x%02x%02x%02x of uid %u is owner %u", as[0], as[1], as[2], as[3],
           uid, owner);
    *ret = owner;
    return 0;
}

uint32_t ident_uid(const struct idents *t, uint32_t owner)
{
    const struct ident *i = t && owner > IDENT_FIRST ? find(t, owner) : NULL;

    return owner < IDENT_FIRST ? owner : i ? i->uid : IDENT_FIRST;
}

bool ident_keys(const struct idents *t, uint32_t uid)
{
    const uint32_t *n = t ? keys_of((struct idents *)(uintptr_t)t, uid, false) : NULL;

    return n && *n;
}
