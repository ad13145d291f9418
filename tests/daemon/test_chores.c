/* test_chores.c - long work on the loop: a little in each round, and users take turns. */
#include "base/clock.h"
#include "daemon/chores.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/loop.h"
#include "tests/t.h"
#include <errno.h>
#include <string.h>

enum { A = 1000, B = 2000, KEYS = 100 };
static struct daemon d;
static uint32_t key[KEYS];

struct work {
    struct chore chore; /* first */
    int left;           /* pieces; < 0: without end */
    uint64_t piece_ns;  /* at least so long */
    int *had;
    bool stops; /* the loop, when it is over */
};

static void piece(struct chore *x)
{
    struct work *w = (struct work *)x;
    uint64_t until = now_ns() + w->piece_ns;

    while (now_ns() < until)
        ;
    ++*w->had;
    if (--w->left)
        return;
    chores_drop(&d, x);
    if (w->stops)
        loop_stop(d.loop);
}

static void begin(void)
{
    uint8_t as[IDENT_BYTES] = {0};

    memset(&d, 0, sizeof d);
    CHECK_EQ(loop_open(&d.loop), 0);
    CHECK_EQ(idents_open(&d.idents, (const uint8_t *)"0123456789abcdef"), 0);
    CHECK_EQ(chores_open(&d), 0);
    for (int i = 0; i < KEYS; i++) {
        as[0] = (uint8_t)i;
        CHECK_EQ(ident_owner(d.idents, B, as, &key[i]), 0);
    }
}

static void end(void)
{
    chores_close(&d);
    idents_close(d.idents);
    loop_close(d.loop);
}

static void many_keys_of_one_user_have_one_turn_beside_another_user(void)
{
    static struct work b[KEYS];
    int hers = 0, his = 0;
    struct work a = {
        .chore = {.piece = piece}, .left = 20, .piece_ns = CHORES_NS, .had = &hers};

    begin();
    for (int i = 0; i < KEYS; i++) { /* each piece fills a round */
        b[i] = (struct work){
            .chore = {.piece = piece}, .left = -1, .piece_ns = CHORES_NS, .had = &his};
        CHECK_EQ(chores_add(&d, key[i], &b[i].chore), 0);
    }
    a.stops = true;
    CHECK_EQ(chores_add(&d, A, &a.chore), 0);
    CHECK_EQ(loop_run(d.loop), 0);
    CHECK_EQ(hers, 20);
    CHECK(his >= 19 && his <= 21);
    for (int i = 0; i < KEYS; i++)
        chores_drop(&d, &b[i].chore);
    end();
}

static int after_n, most, before;
static int *counted;
static void each_round(void *user)
{
    (void)user;
    after_n++;
    most = *counted - before > most ? *counted - before : most;
    before = *counted;
}

static void a_round_of_the_loop_holds_a_little_of_them(void)
{
    int had = 0;
    struct work w = {.chore = {.piece = piece},
                     .left = 40,
                     .piece_ns = CHORES_NS / 4 + 1,
                     .had = &had,
                     .stops = true};

    begin();
    after_n = most = before = 0;
    counted = &had;
    loop_after(d.loop, each_round, NULL);
    CHECK_EQ(chores_add(&d, A, &w.chore), 0);
    CHECK_EQ(loop_run(d.loop), 0);
    CHECK_EQ(had, 40);
    CHECK(most <= 4);
    CHECK(after_n >= 10);
    end();
}

static void a_user_and_each_of_his_keys_have_a_share(void)
{
    static struct work w[CHORES_MAX + 1];
    int had = 0, n = 0, r = 0;

    begin();
    for (int i = 0; i <= CHORES_MAX; i++)
        w[i] = (struct work){.chore = {.piece = piece}, .left = -1, .had = &had};
    while ((r = chores_add(&d, key[0], &w[n].chore)) == 0)
        n++;
    CHECK_EQ(r, -EAGAIN);
    CHECK_EQ(n, CHORES_MAX / 4); /* half of his user's half */
    while ((r = chores_add(&d, key[1 + n % (KEYS - 1)], &w[n].chore)) == 0)
        n++;
    CHECK_EQ(r, -EAGAIN);
    /* With a hundred keys no more than a user has; the last one would be a new key's. */
    CHECK(n == CHORES_MAX / 2 || n == CHORES_MAX / 2 - 1);
    CHECK_EQ(chores_add(&d, A, &w[n].chore), 0);
    for (int i = 0; i <= n; i++)
        chores_drop(&d, &w[i].chore);
    /* Who has no keys has all of his half. */
    for (n = 0; chores_add(&d, A, &w[n].chore) == 0;)
        n++;
    CHECK_EQ(n, CHORES_MAX / 2);
    end();
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(many_keys_of_one_user_have_one_turn_beside_another_user),
       C(a_round_of_the_loop_holds_a_little_of_them),
       C(a_user_and_each_of_his_keys_have_a_share))
