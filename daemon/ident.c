/* ident.c - see ident.h. */
#include "daemon/ident.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

struct ident {
    struct ident *next;
    uint32_t uid, owner;
    uint8_t as[IDENT_BYTES];
};
struct idents {
    struct ident *all;
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
    while (t && t->all) {
        struct ident *i = t->all;

        t->all = i->next;
        free(i);
    }
    free(t);
}

int ident_owner(struct idents *t, uint32_t uid, const uint8_t as[IDENT_BYTES], uint32_t *ret)
{
    uint8_t in[4 + IDENT_BYTES], out[crypto_generichash_BYTES_MIN];
    uint32_t n = 0, owner;
    struct ident *i;

    for (i = t->all; i; i = i->next) {
        n += i->uid == uid;
        if (i->uid == uid && memcmp(i->as, as, IDENT_BYTES) == 0) {
            *ret = i->owner;
            return 0;
        }
    }
    if (n >= IDENT_KEYS_MAX)
        return -EAGAIN;
    st32(in, uid);
    memcpy(in + 4, as, IDENT_BYTES);
    crypto_generichash(out, sizeof out, in, sizeof in, t->secret, sizeof t->secret);
    owner = ld32(out) | IDENT_FIRST;
    if (owner == UINT32_MAX) /* nobody's uid, and used for nobody */
        owner--;
    for (i = t->all; i; i = i->next)
        if (i->owner == owner)
            return -EEXIST;
    i = calloc(1, sizeof *i);
    if (!i)
        return -ENOMEM;
    *i = (struct ident){.next = t->all, .uid = uid, .owner = owner};
    memcpy(i->as, as, IDENT_BYTES);
    t->all = i;
    log_at(LOG_INFO_, "key %02x%02x%02x%02x of uid %u is owner %u", as[0], as[1], as[2], as[3],
           uid, owner);
    *ret = owner;
    return 0;
}

uint32_t ident_uid(const struct idents *t, uint32_t owner)
{
    for (const struct ident *i = t && owner >= IDENT_FIRST ? t->all : NULL; i; i = i->next)
        if (i->owner == owner)
            return i->uid;
    return owner;
}
