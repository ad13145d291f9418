/* rota.h - whose turn it is among those who wait: users in turn, each user's keys in turn, and
 * the work of one key in the order of its coming.
 *
 * Anybody can name keys (ident.h), so a user with a hundred of them has one turn where another
 * has one.  Who comes waits for those who wait already, and goes before who has just been
 * served.  A walk over all who wait at each turn: their number is bounded by who keeps a rota.
 * No locks. */
#ifndef DAEMON_ROTA_H
#define DAEMON_ROTA_H
#include <stdbool.h>
#include <stdint.h>

struct rota_item {  /* caller's memory; it stays where it is while it waits */
    uint32_t uid;   /* the kernel's */
    uint32_t owner; /* uid, or one of its keys */
    /* rota's */
    uint64_t uid_turn, owner_turn; /* when one of his, or of the key's, was last served */
    struct rota_item *next;
};
struct rota { /* zeroed */
    struct rota_item *first;
    uint64_t turn;
    uint32_t n;
};

void rota_add(struct rota *r, struct rota_item *x);
void rota_drop(struct rota *r, struct rota_item *x); /* it waits there */
/* Whose turn is next, of those that may have it (may NULL: of all); NULL: none. */
struct rota_item *rota_next(const struct rota *r, bool (*may)(struct rota_item *x, void *ctx),
                            void *ctx);
/* x is served now; it may have just been dropped. */
void rota_served(struct rota *r, const struct rota_item *x);
/* How many of uid wait, and how many of owner. */
uint32_t rota_count(const struct rota *r, uint32_t uid, uint32_t owner, uint32_t *ret_owner);

#endif
