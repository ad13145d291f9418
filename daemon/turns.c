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

static struct turns_user *user_find(struct turns *t, uint32_t uid)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (t->user[i].uid == uid)
            return &t->user[i];
    return NULL;
}

uint32_t turns_user(struct turns *t, uint32_t uid, uint64_t now_ns)
{
    struct turns_user *u = user_find(t, uid);

    if (!u && t->n < REQ_MAX) {
        u = &t->user[t->n++];
        *u = (struct turns_user){.uid = uid};
    } else if (!u) {
        /* A view has no more users than requests, so that one of these is not in it. */
        u = &t->user[0];
        for (uint32_t i = 1; i < t->n; i++)
            if (t->user[i].round < u->round)
                u = &t->user[i];
        must(u->round != t->round);
        *u = (struct turns_user){.uid = uid};
    }
    if (u->round != t->round)
        u->came = u->round + 1 != t->round;
    u->round = t->round;
    u->seen_ns = now_ns;
    return (uint32_t)(u - t->user);
}

void turns_settle(struct turns *t)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < t->n; i++) {
        const struct turns_user *u = &t->user[i];

        if (u->round == t->round && !u->came && u->spent_ns < least)
            least = u->spent_ns;
    }
    for (uint32_t i = 0; i < t->n; i++) {
        struct turns_user *u = &t->user[i];

        if (u->round == t->round && u->came && least != UINT64_MAX && u->spent_ns < least)
            u->spent_ns = least;
    }
}

bool turns_others(const struct turns *t, uint32_t uid, uint64_t now_ns, uint64_t ns)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (t->user[i].uid != uid && now_ns - t->user[i].seen_ns < ns)
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

void turns_spend(struct turns *t, uint32_t uid, uint64_t ns, uint64_t now_ns)
{
    struct turns_user *u = user_find(t, uid);

    if (!u)
        return;
    u->spent_ns += ns;
    u->ran_ns = now_ns;
}

uint64_t turns_spent(const struct turns *t, uint32_t uid)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (t->user[i].uid == uid)
            return t->user[i].spent_ns;
    return 0;
}
