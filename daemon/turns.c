/* turns.c - see turns.h. */
#include "daemon/turns.h"
#include "base/check.h"
#include <string.h>

enum { ROWS_MAX = 64 };      /* beyond that a row costs what a prefill's does, which is less */
#define FIRST_ROW_NS  500000 /* before anything was measured */
#define FIRST_BASE_NS 2000000
#define KEEP          (31.0 / 32) /* of what was, at each new step */

void turns_init(struct turns *t, double depth)
{
    memset(t, 0, sizeof *t);
    t->depth = depth;
    t->base_ns = FIRST_BASE_NS;
    t->row_ns = FIRST_ROW_NS;
}

void turns_begin(struct turns *t)
{
    t->round++;
}

static struct turns_who *find(struct turns_list *l, uint32_t id)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->who[i].id == id)
            return &l->who[i];
    return NULL;
}

static uint32_t see(struct turns_list *l, uint32_t id, uint32_t uid, uint64_t round,
                    uint64_t now_ns)
{
    struct turns_who *u = find(l, id);

    if (!u && l->n < REQ_MAX) {
        u = &l->who[l->n++];
        *u = (struct turns_who){.id = id};
    } else if (!u) {
        /* A view has no more of them than requests, so that one of these is not in it. */
        u = &l->who[0];
        for (uint32_t i = 1; i < l->n; i++)
            if (l->who[i].round < u->round)
                u = &l->who[i];
        must(u->round != round);
        *u = (struct turns_who){.id = id};
    }
    if (u->round != round)
        u->came = u->round + 1 != round;
    u->uid = uid;
    u->round = round;
    u->seen_ns = now_ns;
    return (uint32_t)(u - l->who);
}

void turns_see(struct turns *t, uint32_t uid, uint32_t owner, uint64_t now_ns,
               uint32_t *ret_user, uint32_t *ret_owner)
{
    *ret_user = see(&t->user, uid, 0, t->round, now_ns); /* users are all alike */
    *ret_owner = see(&t->owner, owner, uid, t->round, now_ns);
}

/* What the least served of uid's who were at work before has had; UINT64_MAX: none was. */
static uint64_t least_of(const struct turns_list *l, uint32_t uid, uint64_t round)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < l->n; i++) {
        const struct turns_who *u = &l->who[i];

        if (u->uid == uid && u->round == round && !u->came && u->spent_ns < least)
            least = u->spent_ns;
    }
    return least;
}

static void settle(struct turns_list *l, uint64_t round)
{
    for (uint32_t i = 0; i < l->n; i++) {
        struct turns_who *u = &l->who[i];
        uint64_t least;

        if (u->round != round || !u->came)
            continue;
        least = least_of(l, u->uid, round);
        if (least != UINT64_MAX && u->spent_ns < least)
            u->spent_ns = least;
    }
}

void turns_settle(struct turns *t)
{
    settle(&t->user, t->round);
    settle(&t->owner, t->round);
}

bool turns_others(const struct turns_list *l, uint32_t id, uint64_t now_ns, uint64_t ns)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->who[i].id != id && now_ns - l->who[i].seen_ns < ns)
            return true;
    return false;
}

uint64_t turns_row_ns(const struct turns *t, uint64_t pos)
{
    return t->row_ns + (uint64_t)((double)t->base_ns * t->depth * (double)pos);
}

static void mean(double *m, double v)
{
    *m = *m > 0 ? *m + (v - *m) / 16 : v;
}

static void line(const struct turns *t, double *ret_base, double *ret_row)
{
    double x = t->x / t->w, y = t->y / t->w, var = t->xx / t->w - x * x,
           row = (double)t->row_ns;

    if (var > 0.5)
        row = (t->xy / t->w - x * y) / var;
    if (row > y / x)
        row = y / x;
    *ret_row = row;
    *ret_base = y - row * x;
}

void turns_measure(struct turns *t, uint64_t us, uint64_t rows, uint64_t positions)
{
    double x = (double)rows, y, row, base;

    if (rows == 0 || rows > ROWS_MAX)
        return;
    y = (double)us * 1000 - (double)t->base_ns * t->depth * (double)positions;
    if (y < 1)
        y = 1;
    t->w = t->w * KEEP + 1;
    t->x = t->x * KEEP + x;
    t->y = t->y * KEEP + y;
    t->xx = t->xx * KEEP + x * x;
    t->xy = t->xy * KEEP + x * y;
    line(t, &base, &row);
    if (rows == 1)
        mean(&t->alone_ns, y);
    else if (t->alone_ns > 0)
        mean(&t->more_ns, y > t->alone_ns ? (y - t->alone_ns) / (x - 1) : 1);
    if (t->alone_ns > 0) {
        row = t->more_ns > 0 ? t->more_ns : row;
        /* Of one row's time most is reading the weights, and some is the row's. */
        base = t->alone_ns - (row < t->alone_ns / 2 ? row : t->alone_ns / 2);
    }
    if (row < (base + row) / 200)
        row = (base + row) / 200;
    t->row_ns = row < 1 ? 1 : (uint64_t)row;
    t->base_ns = base < 1 ? 1 : (uint64_t)base;
}

static void spend(struct turns_who *u, uint64_t ns, uint64_t now_ns)
{
    if (!u)
        return;
    u->spent_ns += ns;
    u->ran_ns = now_ns;
}

void turns_spend(struct turns *t, uint32_t uid, uint32_t owner, uint64_t ns, uint64_t now_ns)
{
    spend(find(&t->user, uid), ns, now_ns);
    spend(find(&t->owner, owner), ns, now_ns);
}

uint64_t turns_spent(const struct turns_list *l, uint32_t id)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (l->who[i].id == id)
            return l->who[i].spent_ns;
    return 0;
}
