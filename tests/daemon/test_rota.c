/* test_rota.c - turns of those who wait: between users first, then between the keys of one. */
#include "daemon/rota.h"
#include "tests/t.h"
#include <string.h>

enum { A = 1000, B = 2000, KEY = 1 << 20 };

static bool not_b(struct rota_item *x, void *ctx)
{
    (void)ctx;
    return x->uid != B;
}

/* One turn; who had it. */
static struct rota_item *turn(struct rota *r)
{
    struct rota_item *x = rota_next(r, NULL, NULL);

    rota_served(r, x);
    return x;
}

static void a_user_with_a_hundred_keys_has_every_second_turn(void)
{
    struct rota_item a = {.uid = A, .owner = A}, b[100];
    struct rota r = {0};
    int had[100] = {0};

    for (int i = 0; i < 100; i++) {
        b[i] = (struct rota_item){.uid = B, .owner = KEY + (uint32_t)i};
        rota_add(&r, &b[i]);
    }
    for (int i = 0; i < 7; i++)
        (void)turn(&r);
    rota_add(&r, &a);
    for (int i = 0; i < 200; i++) {
        const struct rota_item *x = turn(&r);

        CHECK_EQ(x == &a, i % 2 == 0);
        if (x != &a)
            had[x - b]++;
    }
    for (int i = 0; i < 100; i++)
        CHECK_EQ(had[i], 1); /* and his keys in turn */
}

static void work_of_one_key_is_done_in_its_order(void)
{
    struct rota_item x[6];
    struct rota r = {0};

    for (int i = 0; i < 6; i++) {
        x[i] = (struct rota_item){.uid = A, .owner = i % 2 ? KEY : A};
        rota_add(&r, &x[i]);
    }
    CHECK(turn(&r) == &x[0]);
    CHECK(turn(&r) == &x[1]);
    CHECK(turn(&r) == &x[0]);
    rota_drop(&r, &x[0]);
    CHECK(turn(&r) == &x[1]);
    CHECK(turn(&r) == &x[2]);
    rota_drop(&r, &x[1]);
    CHECK(turn(&r) == &x[3]);
}

static void who_leaves_and_comes_back_waits_for_all_others_once(void)
{
    struct rota_item x[3];
    struct rota r = {0};

    for (uint32_t i = 0; i < 3; i++) {
        x[i] = (struct rota_item){.uid = A + i, .owner = A + i};
        rota_add(&r, &x[i]);
    }
    /* Each is taken out while it is served, and comes again after. */
    for (int i = 0; i < 12; i++) {
        struct rota_item *y = turn(&r);

        CHECK(y == &x[i % 3]);
        rota_drop(&r, y);
        rota_add(&r, y);
    }
}

static void a_newcomer_goes_before_who_was_just_served(void)
{
    struct rota_item b[2] = {{.uid = B, .owner = B}, {.uid = B, .owner = KEY}},
                     a = {.uid = A, .owner = A};
    struct rota r = {0};

    rota_add(&r, &b[0]);
    rota_add(&r, &b[1]);
    CHECK(turn(&r) == &b[0]);
    rota_add(&r, &a);
    CHECK(turn(&r) == &a);
    CHECK(turn(&r) == &b[1]);
}

static void who_may_not_is_passed_over_and_keeps_his_place(void)
{
    struct rota_item b = {.uid = B, .owner = B}, a = {.uid = A, .owner = A};
    struct rota r = {0};
    uint32_t own;

    rota_add(&r, &b);
    rota_add(&r, &a);
    CHECK(rota_next(&r, not_b, NULL) == &a);
    rota_served(&r, &a);
    CHECK(rota_next(&r, NULL, NULL) == &b);
    CHECK_EQ(rota_count(&r, B, B, &own), 1);
    CHECK_EQ(own, 1);
    rota_drop(&r, &a);
    CHECK(!rota_next(&r, not_b, NULL));
    CHECK_EQ(r.n, 1);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(a_user_with_a_hundred_keys_has_every_second_turn),
       C(work_of_one_key_is_done_in_its_order),
       C(who_leaves_and_comes_back_waits_for_all_others_once),
       C(a_newcomer_goes_before_who_was_just_served),
       C(who_may_not_is_passed_over_and_keeps_his_place))
