/* test_pace.c - how long a user's frames wait when they have had their part of the loop's time. */
#include "base/clock.h"
#include "daemon/daemon.h"
#include "daemon/loop.h"
#include "daemon/pace.h"
#include "daemon/req.h"
#include "tests/t.h"

enum { A = 1000, B = 2000 };
static struct gen gen;
static struct gmodel gm;
static struct daemon d;

static void begin(void)
{
    d = (struct daemon){.gen = &gen};
    gen = (struct gen){.gm = {&gm}};
    turns_init(&gm.turns, 0);
    CHECK_EQ(loop_open(&d.loop), 0);
}

static void at_work(uint32_t uid)
{
    uint32_t user, owner;

    turns_begin(&gm.turns);
    turns_see(&gm.turns, uid, uid, now_ns(), &user, &owner);
    turns_settle(&gm.turns);
}

static void a_little_is_free_and_what_is_more_waits_for_the_next_round(void)
{
    struct pace p = {0};
    uint64_t now;

    begin();
    CHECK_EQ(pace_late(&p, &d), 0);
    p = (struct pace){.ns = PACE_NS / 2, .round = loop_round(d.loop)};
    CHECK_EQ(pace_late(&p, &d), 0);
    pace_frame(&p, &d, B, now_ns() - PACE_NS / 2);
    now = now_ns();
    CHECK(pace_late(&p, &d) >= now && p.until_ns == 0); /* now: in the next round */
    p.round--;
    CHECK_EQ(pace_late(&p, &d), 0);
    loop_close(d.loop);
}

static void beside_another_users_answer_it_rests(void)
{
    struct pace p = {0};
    uint64_t now;

    begin();
    at_work(B); /* his own is no reason */
    pace_frame(&p, &d, B, now_ns() - PACE_NS);
    CHECK_EQ(p.until_ns, 0);
    at_work(A);
    now = now_ns();
    pace_frame(&p, &d, B, now - PACE_NS);
    CHECK(p.until_ns >= now + PACE_REST * (uint64_t)PACE_NS);
    p.round--;
    p.until_ns = now_ns() + 3600000000000u;
    CHECK_EQ(pace_late(&p, &d), p.until_ns); /* in later rounds, too */
    p.until_ns = now_ns();
    CHECK_EQ(pace_late(&p, &d), 0);
    loop_close(d.loop);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(a_little_is_free_and_what_is_more_waits_for_the_next_round),
       C(beside_another_users_answer_it_rests))
