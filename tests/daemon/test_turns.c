/* test_turns.c - what steps cost, learnt from steps; who has had what. */
#include "daemon/turns.h"
#include "tests/t.h"
#include <stdlib.h>

static void costs_are_learnt_from_steps_of_any_size(void)
{
    static struct turns t;
    uint64_t x = 88172645463325252u;

    /* 3 ms and 0.4 ms a row; a token's KV is a 4000th of the weights. */
    turns_init(&t, 1.0 / 4000);
    for (int i = 0; i < 200; i++) {
        uint64_t rows, pos, us;

        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        rows = 1 + x % 9;
        pos = rows * (x >> 20 & 1023);
        us = 3000 + rows * 400 + 3000 * pos / 4000;
        turns_measure(&t, us + us * (x >> 40 & 15) / 100, rows, pos); /* up to 15 % of noise */
    }
    CHECK(t.base_ns > 2400000 && t.base_ns < 4200000);
    CHECK(t.row_ns > 250000 && t.row_ns < 600000);
    CHECK(turns_row_ns(&t, 4000) > turns_row_ns(&t, 0) + 2000000);
}
static void steps_that_are_all_alike_keep_the_costs_sane(void)
{
    static struct turns t;

    turns_init(&t, 0);
    for (int i = 0; i < 100; i++)
        turns_measure(&t, 9000, 3, 0);
    CHECK(t.base_ns + 3 * t.row_ns > 8000000 && t.base_ns + 3 * t.row_ns < 10000000);
    turns_measure(&t, 0, 1, 0);
    turns_measure(&t, 1, 0, 0);
    uint64_t base = t.base_ns, row = t.row_ns;
    turns_measure(&t, 1000000000, 5000, 0); /* a long prefill says nothing about a row */
    CHECK(row >= 1 && base < 100000000);
    CHECK_EQ(t.base_ns, base);
    CHECK_EQ(t.row_ns, row);
}
/* A user without keys: where he stands in both lists. */
static uint32_t see(struct turns *t, uint32_t uid, uint64_t now)
{
    uint32_t user, owner;

    turns_see(t, uid, uid, now, &user, &owner);
    return user;
}
static void who_comes_starts_with_the_least_of_those_at_work(void)
{
    static struct turns t;
    uint32_t a, b;

    turns_init(&t, 0);
    turns_begin(&t);
    a = see(&t, 1, 10);
    turns_settle(&t);
    turns_spend(&t, 1, 1, 5000, 10);
    turns_begin(&t);
    a = see(&t, 1, 20);
    b = see(&t, 2, 20);
    turns_settle(&t);
    CHECK_EQ(t.user.who[a].spent_ns, 5000);
    CHECK_EQ(t.user.who[b].spent_ns, 5000);
    turns_spend(&t, 2, 2, 100, 20);
    turns_begin(&t); /* now at work, less is his advantage */
    turns_spend(&t, 1, 1, 1000, 20);
    a = see(&t, 1, 30);
    b = see(&t, 2, 30);
    turns_settle(&t);
    CHECK_EQ(t.user.who[b].spent_ns, 5100);
    CHECK(turns_others(&t.user, 1, 30, 100));
    CHECK(!turns_others(&t.user, 1, 1000, 100));
}
static void who_comes_back_with_more_keeps_that(void)
{
    static struct turns t;
    uint32_t a, b;

    turns_init(&t, 0);
    turns_begin(&t);
    (void)see(&t, 1, 10);
    (void)see(&t, 2, 10);
    turns_settle(&t);
    turns_spend(&t, 1, 1, 500, 10);
    turns_spend(&t, 2, 2, 9000, 10);
    turns_begin(&t); /* the one that has had more is away */
    (void)see(&t, 1, 20);
    turns_settle(&t);
    turns_begin(&t);
    a = see(&t, 1, 30);
    b = see(&t, 2, 30);
    turns_settle(&t);
    CHECK_EQ(t.user.who[a].spent_ns, 500);
    CHECK_EQ(t.user.who[b].spent_ns, 9000);
}
static void keys_have_their_own_account_within_their_user(void)
{
    enum { KEY = 1 << 20 };
    static struct turns t;
    uint32_t a, b, k[3], user;

    turns_init(&t, 0);
    for (uint32_t round = 0; round < 2; round++) {
        turns_begin(&t);
        turns_see(&t, 2, KEY, 10, &b, &k[0]);
        turns_see(&t, 2, KEY + 1, 10, &user, &k[1]);
        CHECK_EQ(user, b);
        turns_see(&t, 1, 1, 10, &a, &user);
        CHECK(a != b && k[0] != k[1]);
        turns_settle(&t);
        turns_spend(&t, 2, KEY, 1000, 10);
        turns_spend(&t, 2, KEY + 1, 500, 10);
        turns_spend(&t, 1, 1, 300, 10);
    }
    CHECK_EQ(turns_spent(&t.user, 2), 3000);
    CHECK_EQ(turns_spent(&t.owner, KEY), 2000);
    CHECK_EQ(turns_spent(&t.owner, KEY + 1), 1000);
    CHECK_EQ(turns_spent(&t.owner, 2), 0); /* he himself has asked for nothing */
    /* A new key begins with what its user's least served has had, and its user with his own. */
    turns_begin(&t);
    turns_see(&t, 2, KEY, 20, &b, &k[0]);
    turns_see(&t, 2, KEY + 1, 20, &b, &k[1]);
    turns_see(&t, 2, KEY + 2, 20, &b, &k[2]);
    turns_see(&t, 1, 1, 20, &a, &user);
    turns_settle(&t);
    CHECK_EQ(t.owner.who[k[2]].spent_ns, 1000);
    CHECK_EQ(t.user.who[b].spent_ns, 3000);
    CHECK_EQ(t.user.who[a].spent_ns, 600);
}
static void more_users_than_there_is_room_for_replace_the_oldest(void)
{
    static struct turns t;

    turns_init(&t, 0);
    for (uint32_t i = 0; i < 3 * REQ_MAX; i++) {
        turns_begin(&t);
        CHECK(see(&t, 1000 + i, i + 1) < REQ_MAX);
        turns_settle(&t);
        turns_spend(&t, 1000 + i, 1000 + i, 5, i + 1);
    }
    CHECK_EQ(t.user.n, REQ_MAX);
    CHECK_EQ(t.owner.n, REQ_MAX);
    for (uint32_t i = 0; i < 3 * REQ_MAX; i++)
        CHECK_EQ(turns_spent(&t.user, 1000 + i) > 0, i >= 2 * REQ_MAX);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(costs_are_learnt_from_steps_of_any_size),
       C(steps_that_are_all_alike_keep_the_costs_sane),
       C(who_comes_starts_with_the_least_of_those_at_work),
       C(who_comes_back_with_more_keeps_that), C(keys_have_their_own_account_within_their_user),
       C(more_users_than_there_is_room_for_replace_the_oldest))
