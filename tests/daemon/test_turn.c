/* test_turn.c - what is called durable when a batch of a request is. */
#include "daemon/turn.c"
#include "tests/t.h"

static struct daemon d;
static struct gen gen;
static struct sess *s;
static struct req r;
static const struct kvs_id earlier = {{1}}, now = {{2}};

/* A session with a turn of an earlier request, and the question and answer of this one. */
static void up(uint32_t answer_flags)
{
    struct turn t = {.n_tokens = 8, .request = earlier};

    memset(&d, 0, sizeof d);
    memset(&r, 0, sizeof r);
    d.gen = &gen;
    CHECK_EQ(sess_table_new(&d.sess), 0);
    CHECK_EQ(sess_make(&d, 7, "s", "m", &s), 0);
    CHECK_EQ(sess_turn_add(s, &t), 0);
    t = (struct turn){.first = 8, .n_tokens = 8, .request = now};
    CHECK_EQ(sess_turn_add(s, &t), 0);
    t = (struct turn){.first = 16, .n_tokens = 8, .request = now, .flags = answer_flags};
    CHECK_EQ(sess_turn_add(s, &t), 0);
    sess_warm(s);
    r.magic = REQ_MAGIC;
    r.d = &d;
    r.s = s;
    r.id = now;
}

static void down(void)
{
    d.gen = NULL;
    sess_close(&d);
}

static void is(bool first, bool question, bool answer)
{
    CHECK_EQ(s->turns[0].durable, first);
    CHECK_EQ(s->turns[1].durable, question);
    CHECK_EQ(s->turns[2].durable, answer);
}

static void the_last_of_a_session_makes_all_of_it_durable(void)
{
    struct tbatch t = {.r = &r, .kind = T_COMMIT};

    up(KVS_TURN_OPEN);
    written(&t);
    is(false, false, false);
    t.kind = T_BEGIN;
    written(&t);
    is(true, true, false); /* the answer goes on */
    down();
}

/* Of one session and of its forks, whose batches are behind others'. */
static void what_is_behind_is_not_durable(void)
{
    struct tbatch t = {.r = &r, .kind = T_BEGIN};

    up(0);
    s->out = 1;
    written(&t); /* its end is still on the way */
    is(false, false, false);
    t.kind = T_END;
    written(&t); /* the earlier request's is */
    is(false, true, true);
    s->out = 0;
    written(&t);
    is(true, true, true);
    down();
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(the_last_of_a_session_makes_all_of_it_durable), CASE(what_is_behind_is_not_durable))
