/* chores.h - work of the loop that takes longer than a moment, done a piece at a time.
 *
 * All chores together get CHORES_NS of a round of the loop; so long does anybody else wait for
 * them, whatever there is to do.  While requests are at work in a model they rest in between
 * (pace.h).  Users and their keys take turns (rota.h) after each piece.
 * Work that needs nothing of the loop's belongs to prep.h.  Loop thread only. */
#ifndef DAEMON_CHORES_H
#define DAEMON_CHORES_H
#include "daemon/rota.h"

enum { CHORES_MAX = 512, CHORES_NS = 1000000 };

struct daemon;
struct chores;
struct chore {                      /* caller's memory, from chores_add to chores_drop */
    struct rota_item turn;          /* who it is for: chores_add sets it */
    void (*piece)(struct chore *x); /* a fraction of CHORES_NS; drops x when it is over */
};

int chores_open(struct daemon *d);   /* sets d->chores; -ENOMEM */
void chores_close(struct daemon *d); /* what is left is forgotten */
/* -EAGAIN: his share of CHORES_MAX is under way. */
int chores_add(struct daemon *d, uint32_t owner, struct chore *x);
void chores_drop(struct daemon *d, struct chore *x);

#endif
