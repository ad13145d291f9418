/* test_evict.c - too many anonymous sessions: who has the most loses his own oldest. */
#include "tests/t.h"
#include "daemon/evict.h"
#include <stdlib.h>

enum { MAX = 1024 };
static struct evict_item v[4096];
static uint32_t n;

static void add(uint32_t owner, uint32_t count, uint64_t used_ns, bool stays)
{
    for (uint32_t i = 0; i < count; i++)
        v[n++] = (struct evict_item){.owner = owner, .used_ns = used_ns + i, .stays = stays};
}

/* How many of owner go, and that they are his oldest that may. */
static uint32_t of(uint32_t owner, uint32_t gone)
{
    uint64_t newest_gone = 0;
    uint32_t count = 0;

    for (uint32_t i = 0; i < gone; i++)
        if (v[i].owner == owner) {
            CHECK(!v[i].stays);
            CHECK(v[i].used_ns >= newest_gone);
            newest_gone = v[i].used_ns;
            count++;
        }
    for (uint32_t i = gone; i < n && count; i++)
        CHECK(v[i].owner != owner || v[i].stays || v[i].used_ns >= newest_gone);
    return count;
}

static void as_many_as_there_may_be_all_stay(void)
{
    n = 0;
    add(1, MAX, 5, false);
    CHECK_EQ(evict_pick(v, n, MAX), 0);
}
static void a_lone_user_loses_his_oldest(void)
{
    n = 0;
    add(1, 500, 1000000, false);
    add(1, MAX, 5, false);
    CHECK_EQ(evict_pick(v, n, MAX), 500);
    CHECK_EQ(of(1, 500), 500);
}
static void a_flood_of_one_user_takes_nothing_from_the_others(void)
{
    n = 0;
    add(7, 300, 1, false); /* the oldest of all */
    add(1, 3000, 1000000, false);
    add(9, 20, 2, false);
    uint32_t gone = evict_pick(v, n, MAX);
    CHECK_EQ(gone, n - MAX);
    CHECK_EQ(of(1, gone), gone);
}
static void two_above_their_share_come_down_to_the_same(void)
{
    n = 0;
    add(1, 1500, 100, false);
    add(2, 900, 1, false);
    add(3, 100, 1, false);
    uint32_t gone = evict_pick(v, n, MAX);
    CHECK_EQ(n - gone, MAX);
    CHECK_EQ(1500 - of(1, gone), 462);
    CHECK_EQ(900 - of(2, gone), 462);
}
static void what_cannot_go_is_not_made_up_for_by_others(void)
{
    n = 0;
    add(1, 2000, 1, true);
    add(1, 10, 1, false);
    add(2, 400, 1, false);
    CHECK_EQ(evict_pick(v, n, MAX), 10);
    CHECK_EQ(of(1, 10), 10);
}

#define CASE(name)                                                                             \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(CASE(as_many_as_there_may_be_all_stay), CASE(a_lone_user_loses_his_oldest),
       CASE(a_flood_of_one_user_takes_nothing_from_the_others),
       CASE(two_above_their_share_come_down_to_the_same),
       CASE(what_cannot_go_is_not_made_up_for_by_others))
