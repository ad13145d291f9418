/* turns.h - what each user, and each of his keys, has had of one model's time, and what a step of
 * it costs.
 *
 * Costs are learnt from the steps themselves, less the part of the time that grows with the
 * position: what a step of one row takes, and what each further row of the others adds to it;
 * before there was one of one row, a straight line through (rows, time) says both.  A user
 * who comes (back) starts with what the least served of those at work has had: what he did not
 * use meanwhile is not saved up.  So it is with an owner (ident.h) among those of his user.
 * Loop thread only. */
#ifndef DAEMON_TURNS_H
#define DAEMON_TURNS_H
#include "base/bounds.h"
#include <stdbool.h>
#include <stdint.h>

struct turns_who { /* a user, or an owner */
    uint32_t id, uid;
    uint64_t round; /* when it last had something to run */
    bool came;      /* and not in the one before */
    uint64_t seen_ns, ran_ns;
    uint64_t spent_ns;
};
struct turns_list {
    struct turns_who who[REQ_MAX];
    uint32_t n;
};
struct turns { /* zeroed */
    struct turns_list user, owner;
    uint64_t round;
    double w, x, y, xx, xy; /* of the line through the last some thirty steps */
    double alone_ns,
        more_ns; /* running means: a step of one row, a row beyond it; 0: none yet */
    uint64_t base_ns, row_ns;
    double depth; /* a row's time grows by this part of base_ns with each position */
};

/* depth: KV bytes of a token over bytes of the weights. */
void turns_init(struct turns *t, double depth);
/* A new view is made: users are told anew. */
void turns_begin(struct turns *t);
/* One of the view: his places in t->user.who and t->owner.who, his until the next turns_begin. */
void turns_see(struct turns *t, uint32_t uid, uint32_t owner, uint64_t now_ns,
               uint32_t *ret_user, uint32_t *ret_owner);
/* After all are told: raises who came (back) to those who were at work. */
void turns_settle(struct turns *t);
/* Had anybody of the list but id something to run in the last `ns`? */
bool turns_others(const struct turns_list *l, uint32_t id, uint64_t now_ns, uint64_t ns);
/* What one more token at pos adds to a step. */
uint64_t turns_row_ns(const struct turns *t, uint64_t pos);
/* A step took us: rows tokens, whose positions add up to positions. */
void turns_measure(struct turns *t, uint64_t us, uint64_t rows, uint64_t positions);
uint64_t turns_spent(const struct turns_list *l, uint32_t id); /* 0: he is new */
/* owner's part, and uid's with it, of a step that ended at now_ns. */
void turns_spend(struct turns *t, uint32_t uid, uint32_t owner, uint64_t ns, uint64_t now_ns);

#endif
