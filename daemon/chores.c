/* chores.c - see chores.h. */
#include "daemon/chores.h"
#include "base/clock.h"
#include "base/share.h"
#include "daemon/daemon.h"
#include "daemon/gen.h"
#include "daemon/ident.h"
#include "daemon/loop.h"
#include "daemon/pace.h"
#include <errno.h>
#include <stdlib.h>

struct chores {
    struct rota rota;
    struct loop_timer timer;
    struct daemon *d;
};

static void pieces(struct loop_timer *t)
{
    struct chores *c = t->user;
    uint64_t until = now_ns() + CHORES_NS;

    do {
        struct chore *x = (struct chore *)rota_next(&c->rota, NULL, NULL);

        rota_served(&c->rota, &x->turn);
        x->piece(x); /* may be gone now */
    } while (c->rota.n && now_ns() < until);
    /* The next round's, or later: a loop that never sleeps takes a core from the steps. */
    if (c->rota.n)
        loop_timer_set(c->d->loop, t,
                       now_ns() + (gen_others(c->d, UINT32_MAX) ? PACE_REST * CHORES_NS : 0));
}

int chores_open(struct daemon *d)
{
    struct chores *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    c->d = d;
    c->timer = (struct loop_timer){.fire = pieces, .user = c};
    d->chores = c;
    return 0;
}

void chores_close(struct daemon *d)
{
    if (d->chores)
        loop_timer_cancel(d->loop, &d->chores->timer);
    free(d->chores);
    d->chores = NULL;
}

int chores_add(struct daemon *d, uint32_t owner, struct chore *x)
{
    struct chores *c = d->chores;
    uint32_t uid = ident_uid(d->idents, owner), own, user;

    user = rota_count(&c->rota, uid, owner, &own);
    if (!share_more2(own, user, c->rota.n, CHORES_MAX, ident_keys(d->idents, uid)))
        return -EAGAIN;
    x->turn.uid = uid;
    x->turn.owner = owner;
    rota_add(&c->rota, &x->turn);
    if (c->rota.n == 1)
        loop_timer_set(d->loop, &c->timer, now_ns());
    return 0;
}

void chores_drop(struct daemon *d, struct chore *x)
{
    struct chores *c = d->chores;

    rota_drop(&c->rota, &x->turn);
    if (c->rota.n == 0)
        loop_timer_cancel(d->loop, &c->timer);
}
