/* rota.c - see rota.h. */
#include "daemon/rota.h"
#include "base/check.h"
#include <stddef.h>

void rota_add(struct rota *r, struct rota_item *x)
{
    struct rota_item **at = &r->first;

    /* Whoever was served last carries r->turn; a newcomer goes before him. */
    x->uid_turn = x->owner_turn = r->turn ? r->turn - 1 : 0;
    for (; *at; at = &(*at)->next) {
        if ((*at)->uid == x->uid)
            x->uid_turn = (*at)->uid_turn;
        if ((*at)->uid == x->uid && (*at)->owner == x->owner)
            x->owner_turn = (*at)->owner_turn;
    }
    x->next = NULL;
    *at = x;
    r->n++;
}

void rota_drop(struct rota *r, struct rota_item *x)
{
    struct rota_item **at = &r->first;

    while (*at && *at != x)
        at = &(*at)->next;
    must(*at == x);
    *at = x->next;
    x->next = NULL;
    r->n--;
}

struct rota_item *rota_next(const struct rota *r, bool (*may)(struct rota_item *x, void *ctx),
                            void *ctx)
{
    struct rota_item *best = NULL;

    /* In the order of their coming, so that of equals the first is taken. */
    for (struct rota_item *x = r->first; x; x = x->next)
        if ((!best || x->uid_turn < best->uid_turn ||
             (x->uid_turn == best->uid_turn && x->uid == best->uid &&
              x->owner_turn < best->owner_turn)) &&
            (!may || may(x, ctx)))
            best = x;
    return best;
}

void rota_served(struct rota *r, const struct rota_item *x)
{
    const uint32_t uid = x->uid, owner = x->owner;

    r->turn++;
    for (struct rota_item *y = r->first; y; y = y->next) {
        if (y->uid == uid)
            y->uid_turn = r->turn;
        if (y->uid == uid && y->owner == owner)
            y->owner_turn = r->turn;
    }
}

uint32_t rota_count(const struct rota *r, uint32_t uid, uint32_t owner, uint32_t *ret_owner)
{
    uint32_t n = 0;

    *ret_owner = 0;
    for (const struct rota_item *x = r->first; x; x = x->next) {
        n += x->uid == uid;
        *ret_owner += x->uid == uid && x->owner == owner;
    }
    return n;
}
