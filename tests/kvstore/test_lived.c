/* test_lived.c - the clock that counts the time which has passed: boots, clocks that were set, and
 * more of that than it can keep. */
#include "kvstore/lived.h"
#include "tests/t.h"

#define S ((uint64_t)1000000000)

static const uint64_t WALL = 1700000000ull * 1000000000u, DAY = 86400ull * 1000000000u;
static struct lived c;

static void goes_on(struct lived_now *now, uint64_t ns)
{
    now->uptime_ns += ns;
    now->wall_ns += ns;
    CHECK_EQ(lived_tick(&c, now), 0);
}

static void what_passed_in_one_boot_counts_and_the_time_between_two_does_not(void)
{
    for (int same = 0; same < 2; same++) {
        struct lived_now now = {.wall_ns = WALL, .uptime_ns = 1000 * S, .boot = {1}};
        uint8_t b[LIVED_BYTES];

        CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
        goes_on(&now, 100 * S);
        CHECK_EQ(lived_span(&c), 100 * S);
        size_t n = lived_pack(&c, b);
        lived_fini(&c);
        now.boot[0] = same ? 1 : 2;
        now.uptime_ns += 500 * S; /* of another boot, which has run longer already */
        now.wall_ns += 500 * S;
        CHECK_EQ(lived_begin(&c, b, n, 0, &now), 0);
        CHECK_EQ(lived_span(&c), (same ? 600 : 100) * S);
        goes_on(&now, 10 * S);
        CHECK_EQ(lived_span(&c), (same ? 610 : 110) * S);
        CHECK_EQ(lived_at(&c, WALL + 40 * S), 40 * S);
        lived_fini(&c);
    }
}

static void the_shortest_epoch_makes_room_and_the_others_stay(void)
{
    enum { SHORT = 2 };
    struct lived_now now = {.wall_ns = WALL, .uptime_ns = 1000 * S, .boot = {1}};
    uint64_t wall[LIVED_EPOCHS], at[LIVED_EPOCHS], sum = 0;

    CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
    for (int i = 0; i < LIVED_EPOCHS; i++) {
        uint64_t ns = (i == SHORT ? 200 : 1000) * S;
        wall[i] = now.wall_ns;
        at[i] = sum;
        goes_on(&now, ns);
        sum += ns;
        now.wall_ns += 30 * DAY; /* somebody sets it */
        CHECK(lived_tick(&c, &now) > 0);
    }
    CHECK_EQ(lived_span(&c), sum);
    for (int i = 0; i < LIVED_EPOCHS; i++) {
        if (i == SHORT)
            continue;
        CHECK_EQ(lived_at(&c, wall[i] + 500 * S), at[i] + 500 * S);
        /* Behind its end, from before the setting was noticed: it is no younger than that. */
        CHECK_EQ(lived_at(&c, wall[i] + 1060 * S), at[i] + 1000 * S);
    }
    /* Of the one that is gone only its end is known: never older than it was. */
    CHECK_EQ(lived_at(&c, wall[SHORT] + 100 * S), at[SHORT] + 200 * S);
    lived_fini(&c);
}

static void up_to_the_setting_the_clock_was_as_before(void)
{
    struct lived_now now = {.wall_ns = WALL, .uptime_ns = 1000 * S, .boot = {1}};

    CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
    goes_on(&now, 100 * S);
    now.uptime_ns += 1000 * S; /* long after the last look somebody sets it */
    now.wall_ns += 1000 * S + 30 * DAY;
    CHECK(lived_tick(&c, &now) > 0);
    CHECK_EQ(lived_at(&c, WALL + 1000 * S), 1000 * S);
    lived_fini(&c);
}

static void what_is_newer_than_the_last_look_is_as_new_as_it_says(void)
{
    struct lived_now now = {.wall_ns = WALL, .uptime_ns = 1000 * S, .boot = {1}};

    CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
    goes_on(&now, 100 * S);
    CHECK_EQ(lived_at(&c, WALL + 150 * S), 150 * S);
    lived_fini(&c);
}

/* A machine put back as it was, or one whose boots all have one name. */
static void a_boot_that_runs_for_less_than_before_is_another(void)
{
    struct lived_now now = {.wall_ns = WALL, .uptime_ns = 1000 * S, .boot = {1}};
    uint8_t b[LIVED_BYTES];

    CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
    goes_on(&now, 100 * S);
    size_t n = lived_pack(&c, b);
    lived_fini(&c);
    now.uptime_ns = 10 * S;
    now.wall_ns += 500 * S;
    CHECK_EQ(lived_begin(&c, b, n, 0, &now), 0); /* nobody has set anything */
    CHECK_EQ(lived_span(&c), 100 * S);
    lived_fini(&c);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(up_to_the_setting_the_clock_was_as_before),
       ROW(what_is_newer_than_the_last_look_is_as_new_as_it_says),
       ROW(a_boot_that_runs_for_less_than_before_is_another),
       ROW(what_passed_in_one_boot_counts_and_the_time_between_two_does_not),
       ROW(the_shortest_epoch_makes_room_and_the_others_stay))
