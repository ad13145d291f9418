/* test_sched.c - the planner: tables for the policy, random views for the rules. */
#include "daemon/sched.h"
#include "tests/t.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sched_seq decode_at(uint32_t id, uint64_t pos, uint64_t wait)
{
    return (struct sched_seq){
        .id = id, .ready = true, .decoding = true, .pos = pos, .todo = 1, .wait_us = wait};
}
static struct sched_seq prefill_at(uint32_t id, uint64_t pos, uint64_t todo, uint64_t wait)
{
    return (struct sched_seq){
        .id = id, .ready = true, .pos = pos, .todo = todo, .wait_us = wait};
}
static struct sched_plan plan_of(const struct sched_seq *s, uint32_t n, struct sched_view v)
{
    struct sched_plan p;
    const char *why;

    v.seq = s;
    v.seqs = n;
    if (!v.chunk_max)
        v.chunk_max = 512;
    if (!v.goal_us)
        v.goal_us = 100000;
    sched_plan(&v, &p);
    why = sched_check(&v, &p);
    if (why)
        t_fail(__FILE__, __LINE__, "plan breaks a rule: %s", why);
    return p;
}
static uint32_t tokens_of(const struct sched_plan *p, uint32_t seq)
{
    for (uint32_t i = 0; i < p->runs; i++)
        if (p->run[i].seq == seq)
            return p->run[i].n;
    return 0;
}

static void nothing_to_do_is_an_empty_plan(void)
{
    struct sched_plan p = plan_of(NULL, 0, (struct sched_view){.pages_free = 4});

    CHECK_EQ(p.runs, 0);
}
static void all_decodes_run_in_one_step(void)
{
    struct sched_seq s[3] = {decode_at(1, 10, 5), decode_at(2, 300, 9), decode_at(3, 77, 1)};
    struct sched_plan p = plan_of(s, 3, (struct sched_view){.pages_free = 0});

    CHECK_EQ(p.runs, 3);
    CHECK_EQ(p.run[0].seq, 1); /* waited longest */
}
static void a_lone_prefill_takes_chunk_max_and_ends_at_an_edge(void)
{
    struct sched_seq s[1] = {prefill_at(1, 100, 4000, 0)};
    struct sched_plan p =
        plan_of(s, 1, (struct sched_view){.pages_free = 100, .chunk_max = 512});

    CHECK_EQ(p.runs, 1);
    CHECK_EQ(100 + p.run[0].n, 512);
}
static void a_slow_model_takes_short_steps(void)
{
    static const struct {
        uint32_t ns, want;
    } rows[] = {{0, 128},         /* not known yet */
                {100000, 512},    /* 0.1 ms a token: all that is allowed */
                {2000000, 200},   /* 2 ms */
                {100000000, 64}}; /* 0.1 s: not less than the weights are worth */

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_EQ(sched_chunk(512, 400000, rows[i].ns), rows[i].want);
    CHECK_EQ(sched_chunk(16, 400000, 100000000), 16);
}
static void a_prefill_reaches_the_end_of_its_input(void)
{
    struct sched_seq s[1] = {prefill_at(1, 256, 70, 0)};
    struct sched_plan p = plan_of(s, 1, (struct sched_view){.pages_free = 100});

    CHECK_EQ(p.run[0].n, 70);
}
static void prefill_beside_a_decode_fits_the_goal(void)
{
    struct sched_seq s[2] = {decode_at(1, 10, 0), prefill_at(2, 0, 4096, 0)};
    /* 100 ms goal, 20 ms decode step: 80 ms at 1 ms a token. */
    struct sched_plan p =
        plan_of(s, 2,
                (struct sched_view){
                    .pages_free = 100, .step_us = 20000, .prefill_ns_per_tok = 1000000});

    CHECK_EQ(tokens_of(&p, 0), 1);
    CHECK_EQ(tokens_of(&p, 1), 80);
}
static void prefill_goes_on_even_when_decoding_alone_misses_the_goal(void)
{
    struct sched_seq s[2] = {decode_at(1, 10, 0), prefill_at(2, 0, 4096, 0)};
    struct sched_plan p =
        plan_of(s, 2,
                (struct sched_view){
                    .pages_free = 100, .step_us = 500000, .prefill_ns_per_tok = 1000000});

    CHECK(tokens_of(&p, 1) > 0);
}
static void prefills_take_turns_by_waiting_time(void)
{
    struct sched_seq s[2] = {prefill_at(1, 0, 4096, 10), prefill_at(2, 0, 4096, 20)};
    struct sched_plan p = plan_of(s, 2, (struct sched_view){.pages_free = 100});

    CHECK_EQ(p.run[0].seq, 1);
    s[1].wait_us = 0;
    p = plan_of(s, 2, (struct sched_view){.pages_free = 100});
    CHECK_EQ(p.run[0].seq, 0);
}
/* --- several users: a step costs 2 ms and 0.5 ms a row, and more with the position ---------- */
#define BASE_NS 2000000ull
#define ROW_NS  500000ull
static struct sched_seq of(struct sched_seq s, uint32_t user, uint64_t spent_ns)
{
    s.user = (struct sched_who){.n = user, .spent_ns = spent_ns};
    s.key = s.user;
    s.row_ns = ROW_NS + s.pos * 1000;
    return s;
}
static uint64_t cost_ns(const struct sched_seq *s, const struct sched_plan *p)
{
    uint64_t ns = BASE_NS;

    for (uint32_t i = 0; i < p->runs; i++)
        ns += p->run[i].n * s[p->run[i].seq].row_ns;
    return ns;
}
static struct sched_view shared_view(void)
{
    return (struct sched_view){
        .pages_free = 1000, .base_ns = BASE_NS, .step_us = 2500, .prefill_ns_per_tok = 500000};
}
static void the_user_who_had_least_goes_first(void)
{
    struct sched_seq s[2] = {of(prefill_at(1, 0, 4096, 99), 0, 5000),
                             of(prefill_at(2, 0, 4096, 0), 1, 4000)};
    struct sched_plan p = plan_of(s, 2, shared_view());

    CHECK_EQ(p.run[0].seq, 1);
    CHECK_EQ(p.runs, 2);
    CHECK(tokens_of(&p, 0) <= 256 && tokens_of(&p, 1) <= 256); /* half of chunk_max each */
}
static void thirty_decodes_of_another_user_double_a_step_at_most(void)
{
    struct sched_seq s[31];
    struct sched_plan p;

    s[0] = of(decode_at(0, 10, 0), 7, 0);
    for (uint32_t i = 1; i < 31; i++)
        s[i] = of(decode_at(i, 10, i), 8, 0);
    p = plan_of(s, 31, shared_view());
    CHECK_EQ(tokens_of(&p, 0), 1);
    CHECK(p.runs > 2);
    CHECK(cost_ns(s, &p) <= 2 * (BASE_NS + s[0].row_ns));
    CHECK_EQ(tokens_of(&p, 30), 1); /* who waited longest is among them */
    CHECK_EQ(tokens_of(&p, 1), 0);
}
static void a_prefill_of_another_user_doubles_a_step_at_most(void)
{
    struct sched_seq s[2] = {of(decode_at(0, 10, 0), 0, 0),
                             of(prefill_at(1, 0, 4096, 5), 1, 0)};
    struct sched_plan p = plan_of(s, 2, shared_view());

    CHECK_EQ(tokens_of(&p, 0), 1);
    CHECK(tokens_of(&p, 1) > 1);
    CHECK(cost_ns(s, &p) <= 2 * (BASE_NS + s[0].row_ns));
    /* His own prefill may take what a step's goal leaves: it is his time. */
    s[1].user.n = s[1].key.n = 0;
    p = plan_of(s, 2, shared_view());
    CHECK(tokens_of(&p, 1) > 100);
}
/* Plans are carried out for a thousand steps: one user decodes near the beginning of his context,
 * another has prefills and decodes, some of them far into theirs. */
static void over_many_steps_users_get_the_same_time(void)
{
    static struct sched_seq s[31];
    uint64_t spent[2] = {0}, idle[2] = {0}, alone, slow = 0, steps = 0, ran = 0, deep = 0;

    for (uint32_t i = 0; i < 31; i++)
        s[i] = i == 0       ? decode_at(i, 100, 0)
               : i % 3 == 0 ? prefill_at(i, 0, 100000, 0)
                            : decode_at(i, i % 5 == 0 ? 7000 : 300, 0);
    for (uint32_t k = 0; k < 1000; k++) {
        struct sched_plan p;
        uint64_t ns;

        for (uint32_t i = 0; i < 31; i++) {
            s[i] = of(s[i], i != 0, spent[i != 0]);
            s[i].user.idle_ns = s[i].key.idle_ns = idle[i != 0];
        }
        alone = BASE_NS + s[0].row_ns;
        p = plan_of(s, 31, shared_view());
        ns = cost_ns(s, &p);
        for (uint32_t i = 0; i < 31; i++)
            s[i].wait_us += ns / 1000;
        idle[0] += ns;
        idle[1] += ns;
        for (uint32_t i = 0; i < p.runs; i++) {
            struct sched_seq *q = &s[p.run[i].seq];

            spent[q->user.n] += p.run[i].n * q->row_ns * ns / (ns - BASE_NS);
            q->pos += q->decoding ? 0 : p.run[i].n;
            q->wait_us = 0;
            idle[q->user.n] = 0;
            deep += q->decoding && q->pos == 7000;
        }
        if (tokens_of(&p, 0)) {
            steps++;
            slow += ns > 2 * alone + alone / 10;
        }
        ran += ns;
    }
    printf("      %llu of 1000 steps are his, %llu of them slow; he had %.0f %% of the time, "
           "%llu rows far in\n",
           (unsigned long long)steps, (unsigned long long)slow,
           100.0 * (double)spent[0] / (double)ran, (unsigned long long)deep);
    CHECK(steps >= 900);
    CHECK(deep >= 20); /* a row that costs more than a share gets its turn */
    CHECK(ran / steps <= 2 * (BASE_NS + s[0].row_ns) * 12 / 10); /* a token, on the mean */
    CHECK(spent[1] * 100 >= ran * 35); /* and the other is not starved */
}

static struct sched_seq by_key(struct sched_seq s, uint32_t key, uint64_t spent_ns)
{
    s.key = (struct sched_who){.n = key, .spent_ns = spent_ns};
    return s;
}
/* A hundred keys of one user's making, each with a decode, or half of them with a prefill. */
static void a_hundred_keys_of_another_user_double_a_step_at_most(void)
{
    static struct sched_seq s[101];

    for (int prefills = 0; prefills < 2; prefills++) {
        struct sched_plan p;

        s[0] = of(decode_at(0, 10, 0), 7, 0);
        for (uint32_t i = 1; i < 101; i++)
            s[i] = by_key(
                of(prefills && i % 2 ? prefill_at(i, 0, 4096, i) : decode_at(i, 10, i), 8, 0),
                8 + i, 0);
        p = plan_of(s, 101, shared_view());
        CHECK_EQ(tokens_of(&p, 0), 1);
        CHECK(p.runs > 2);
        CHECK(cost_ns(s, &p) <= 2 * (BASE_NS + s[0].row_ns));
    }
}
/* The time of the user who has keys goes to who of them has had least, and in the end to all. */
static void keys_of_one_user_share_what_is_his(void)
{
    static struct sched_seq s[11];
    uint64_t spent[3] = {0}, user[2] = {0}, ran = 0, steps = 0;

    /* One decodes for another user; of the keys two prefill, and the third has eight decodes. */
    for (uint32_t i = 0; i < 11; i++)
        s[i] = i == 1 || i == 2 ? prefill_at(i, 0, 1000000, 0) : decode_at(i, 100, 0);
    for (uint32_t k = 0; k < 1000; k++) {
        struct sched_plan p;
        uint64_t ns;

        for (uint32_t i = 0; i < 11; i++) {
            uint32_t key = i < 3 ? i : 3;

            s[i] = by_key(of(s[i], i != 0, user[i != 0]), key, key ? spent[key - 1] : user[0]);
            s[i].row_ns = ROW_NS;
        }
        p = plan_of(s, 11, shared_view());
        ns = cost_ns(s, &p);
        ran += ns;
        steps += tokens_of(&p, 0);
        for (uint32_t i = 0; i < 11; i++)
            s[i].wait_us += ns / 1000;
        for (uint32_t i = 0; i < p.runs; i++) {
            struct sched_seq *q = &s[p.run[i].seq];
            uint64_t part = p.run[i].n * q->row_ns * ns / (ns - BASE_NS);

            user[q->user.n] += part;
            if (q->key.n)
                spent[q->key.n - 1] += part;
            q->pos += q->decoding ? 0 : p.run[i].n;
            q->wait_us = 0;
        }
    }
    printf("      he had %.0f %% of the time in %llu steps; the keys %.0f, %.0f, %.0f %%\n",
           100.0 * (double)user[0] / (double)ran, (unsigned long long)steps,
           100.0 * (double)spent[0] / (double)ran, 100.0 * (double)spent[1] / (double)ran,
           100.0 * (double)spent[2] / (double)ran);
    CHECK(steps >= 900);
    CHECK(ran / steps <= 2 * (BASE_NS + ROW_NS) * 12 / 10);
    for (int i = 0; i < 3; i++)
        CHECK(spent[i] * 10 >= user[1] * 3 && spent[i] * 10 <= user[1] * 4);
}
/* One user's front, and nobody else: his keys are to each other what users are. */
static void keys_alone_are_to_each_other_what_users_are(void)
{
    static struct sched_seq s[31];
    struct sched_plan p;

    s[0] = by_key(of(decode_at(0, 10, 0), 5, 0), 0, 0);
    for (uint32_t i = 1; i < 31; i++)
        s[i] = by_key(of(i % 3 ? decode_at(i, 10, i) : prefill_at(i, 0, 4096, i), 5, 0), 1, 0);
    p = plan_of(s, 31, shared_view());
    CHECK_EQ(tokens_of(&p, 0), 1);
    CHECK(p.runs > 2);
    CHECK(cost_ns(s, &p) <= 2 * (BASE_NS + s[0].row_ns));
}

/* While another user may come no step is long, and what waits goes on in the next. */
static void steps_are_short_while_another_user_may_come(void)
{
    struct sched_view v = shared_view();
    struct sched_seq s[31];
    struct sched_plan p;
    bool had[31] = {false};

    v.cap_ns = 4 * (BASE_NS + ROW_NS);
    for (uint32_t i = 0; i < 31; i++)
        s[i] = of(decode_at(i, 0, 0), 8, 0);
    for (int k = 0; k < 3; k++) {
        p = plan_of(s, 31, v);
        CHECK(cost_ns(s, &p) <= v.cap_ns && cost_ns(s, &p) + ROW_NS > v.cap_ns);
        for (uint32_t i = 0; i < 31; i++)
            s[i].wait_us++;
        for (uint32_t i = 0; i < p.runs; i++) {
            s[p.run[i].seq].wait_us = 0;
            had[p.run[i].seq] = true;
        }
    }
    for (int i = 0; i < 31; i++)
        CHECK(had[i]);
    /* A prefill of one, of two users, and one beside decodes that fill the step. */
    s[0] = of(prefill_at(0, 0, 4096, 0), 8, 0);
    s[1] = of(prefill_at(1, 0, 4096, 0), 9, 0);
    p = plan_of(s, 1, v);
    CHECK(cost_ns(s, &p) <= v.cap_ns && tokens_of(&p, 0) >= 12);
    p = plan_of(s, 2, v);
    CHECK(cost_ns(s, &p) <= v.cap_ns + BASE_NS && tokens_of(&p, 0) && tokens_of(&p, 1));
    s[1] = of(prefill_at(1, 0, 4096, 0), 8, 0);
    p = plan_of(s + 1, 30, v);
    CHECK(tokens_of(&p, 0) >= 4 && tokens_of(&p, 0) <= 16);
    CHECK(p.runs >= 5 && cost_ns(s + 1, &p) <= v.cap_ns);
    /* A model whose weights take longer than a step should: some rows for them all the same. */
    v.cap_ns = BASE_NS / 2;
    p = plan_of(s, 1, v);
    CHECK(tokens_of(&p, 0) > 1 && cost_ns(s, &p) <= 2 * BASE_NS);
    v.cap_ns = 0;
    p = plan_of(s, 1, v);
    CHECK_EQ(tokens_of(&p, 0), 512);
}

/* So with many keys of one user: each has its turn, but not all of them in one step. */
static void steps_of_many_keys_are_short_too(void)
{
    const uint64_t alone = BASE_NS + ROW_NS;
    struct sched_view v = shared_view();
    struct sched_seq s[32];
    struct sched_plan p;
    uint64_t had[32] = {0}, most = 0;

    v.cap_ns = 2 * alone;
    for (uint32_t i = 0; i < 31; i++)
        s[i] = by_key(of(i % 3 ? decode_at(i, 0, 0) : prefill_at(i, 0, 4096, 0), 8, 0), i, 0);
    for (int k = 0; k < 31; k++) {
        p = plan_of(s, 31, v);
        CHECK(p.runs > 1);
        CHECK(cost_ns(s, &p) <= v.cap_ns + alone);
        CHECK(k || cost_ns(s, &p) <= v.cap_ns);
        for (uint32_t i = 0; i < p.runs; i++) {
            had[p.run[i].seq] += p.run[i].n;
            s[p.run[i].seq].key.spent_ns += p.run[i].n * ROW_NS;
        }
    }
    for (int i = 0; i < 31; i++) {
        CHECK(had[i] > 0);
        most = had[i] > most ? had[i] : most;
    }
    CHECK(most * ROW_NS <= 2 * v.cap_ns);
    /* Who comes has his beginning all the same. */
    s[31] = of(prefill_at(31, 0, 15, 0), 9, 0);
    s[31].user.idle_ns = 1000 * alone;
    p = plan_of(s, 32, v);
    CHECK_EQ(tokens_of(&p, 31), 15);
    CHECK(p.runs > 1);
}

/* A key that comes has no more than the cap while another user may come: he has only one step to wait
 * for, whatever the keys do. */
static void a_key_that_comes_makes_no_step_long_for_another_user(void)
{
    const uint64_t alone = BASE_NS + ROW_NS;
    struct sched_view v = shared_view();
    struct sched_seq s[8];
    struct sched_plan p;

    v.cap_ns = 2 * alone;
    for (uint32_t i = 0; i < 8; i++)
        s[i] = by_key(of(decode_at(i, 0, 5), 8, 0), i, 100);
    s[0] = by_key(of(prefill_at(0, 0, 400, 0), 8, 0), 0, 0);
    s[0].key.idle_ns = 1000 * alone;
    p = plan_of(s, 8, v);
    CHECK_EQ(tokens_of(&p, 0), 8 * alone / ROW_NS);
    v.users_come = true;
    p = plan_of(s, 8, v);
    CHECK(tokens_of(&p, 0) >= alone / ROW_NS);
    CHECK(cost_ns(s, &p) <= v.cap_ns);
    s[0].todo = 4; /* what it leaves is for others */
    p = plan_of(s, 8, v);
    CHECK_EQ(tokens_of(&p, 0), 4);
    CHECK(p.runs > 1 && cost_ns(s, &p) <= v.cap_ns);
}

/* Beside thirty decodes of another, the question of who has rested goes in one step. */
static void who_comes_begins_at_once(void)
{
    const uint64_t alone = BASE_NS + ROW_NS, long_ago = 1000 * alone;
    struct sched_view v = shared_view();
    struct sched_seq s[32];
    struct sched_plan p;

    v.cap_ns = 4 * alone;
    for (uint32_t i = 2; i < 32; i++)
        s[i] = of(decode_at(i, 0, 5), 8, 0);
    s[0] = of(prefill_at(0, 0, 15, 0), 7, 0);
    s[1] = of(prefill_at(1, 0, 15, 0), 9, 0);
    s[0].user.idle_ns = s[1].user.idle_ns = long_ago;
    p = plan_of(s + 1, 31, v);
    CHECK_EQ(tokens_of(&p, 0), 15);
    CHECK(p.runs > 1);
    CHECK(cost_ns(s + 1, &p) <= 6 * alone);
    /* A long one begins with as much and goes on with its share; of two who come one begins. */
    s[0].todo = 4000;
    p = plan_of(s, 32, v);
    CHECK_EQ(tokens_of(&p, 0), 8 * alone / ROW_NS);
    CHECK(tokens_of(&p, 1) > 0 && tokens_of(&p, 1) < 15);
    CHECK(cost_ns(s, &p) <= 11 * alone);
    /* It is a tenth of what he has rested: half as long, half as many. */
    s[0].user.idle_ns = s[1].user.idle_ns = 40 * alone;
    p = plan_of(s, 32, v);
    CHECK_EQ(tokens_of(&p, 0), 4 * alone / ROW_NS);
    s[0].user.idle_ns = s[1].user.idle_ns = long_ago;
    /* Nor do twenty short questions at once make a long step. */
    for (uint32_t i = 0; i < 20; i++) {
        s[i] = of(prefill_at(i, 0, 3, 0), i, 0);
        s[i].user.idle_ns = long_ago;
    }
    v.cap_ns = 2 * alone;
    p = plan_of(s, 20, v);
    CHECK(p.runs > 1);
    CHECK(cost_ns(s, &p) <= v.cap_ns + 3 * ROW_NS);
    v.cap_ns = 4 * alone;
    s[0] = of(prefill_at(0, 0, 4000, 0), 7, 0);
    s[0].user.idle_ns = long_ago;
    s[2] = of(decode_at(2, 0, 5), 8, 0);
    /* A prefill makes room for who comes as for a decode. */
    s[1] = of(prefill_at(1, 0, 4000, 9), 8, 0);
    p = plan_of(s, 2, v);
    CHECK_EQ(tokens_of(&p, 0), 8 * alone / ROW_NS);
    CHECK(tokens_of(&p, 1) > 0 && tokens_of(&p, 1) * ROW_NS <= alone);
    s[0].user.idle_ns = 5 * alone;
    s[1] = s[2];
    p = plan_of(s, 2, v);
    CHECK(tokens_of(&p, 0) > 0 && tokens_of(&p, 0) * ROW_NS <= alone);
}

static void a_decode_that_needs_a_page_waits_without_blocking_the_rest(void)
{
    struct sched_seq s[2] = {decode_at(1, 256, 50), decode_at(2, 10, 0)};
    struct sched_plan p = plan_of(s, 2, (struct sched_view){.pages_free = 0});

    CHECK_EQ(tokens_of(&p, 0), 0);
    CHECK_EQ(tokens_of(&p, 1), 1);
}
static void prefill_is_cut_to_the_pages_there_are(void)
{
    struct sched_seq s[1] = {prefill_at(1, 0, 4096, 0)};
    struct sched_plan p = plan_of(s, 1, (struct sched_view){.pages_free = 1});

    CHECK_EQ(p.run[0].n, 256);
}
static void what_is_not_ready_does_not_run(void)
{
    struct sched_seq s[1] = {decode_at(1, 10, 0)};

    s[0].ready = false;
    CHECK_EQ(plan_of(s, 1, (struct sched_view){.pages_free = 9}).runs, 0);
}
static void more_decodes_than_a_step_holds_take_turns(void)
{
    struct sched_seq s[STEP_SEQS_MAX + 10];
    struct sched_plan p;

    for (uint32_t i = 0; i < STEP_SEQS_MAX + 10; i++)
        s[i] = decode_at(i, 10, i);
    p = plan_of(s, STEP_SEQS_MAX + 10, (struct sched_view){.pages_free = 0});
    CHECK_EQ(p.runs, STEP_SEQS_MAX);
    CHECK_EQ(tokens_of(&p, 0), 0);
    CHECK_EQ(tokens_of(&p, STEP_SEQS_MAX + 9), 1);
}

static void random_views_give_plans_that_keep_the_rules(void)
{
    const char *e = getenv("SEED");
    unsigned seed = e ? (unsigned)strtoul(e, NULL, 0) : 20261123u;
    static struct sched_seq s[REQ_MAX];

    printf("    SEED=%u\n", seed);
    for (int round = 0; round < 20000; round++) {
        uint32_t n = (uint32_t)rand_r(&seed) % (round % 10 ? 12 : REQ_MAX);

        for (uint32_t i = 0; i < n; i++) {
            bool d = rand_r(&seed) & 1;

            s[i] = (struct sched_seq){
                .id = i,
                .ready = rand_r(&seed) % 4 != 0,
                .decoding = d,
                .user = {.n = (uint32_t)rand_r(&seed) % (1 + (uint32_t)round % 4),
                         .spent_ns = (uint64_t)rand_r(&seed) % 100000},
                .row_ns = 1 + (uint64_t)rand_r(&seed) % 2000000,
                .pos = (uint64_t)rand_r(&seed) % 2000,
                .todo = d ? 1 : (uint64_t)rand_r(&seed) % 9000,
                .wait_us = (uint64_t)rand_r(&seed) % 1000};
            /* Up to three keys each. */
            s[i].key = (struct sched_who){.n = s[i].user.n * 3 + (uint32_t)rand_r(&seed) %
                                                                     (1 + (uint32_t)round % 3),
                                          .spent_ns = (uint64_t)rand_r(&seed) % 100000};
        }
        (void)plan_of(
            s, n,
            (struct sched_view){.pages_free = (uint32_t)rand_r(&seed) % 6,
                                .chunk_max = 1 + (uint32_t)rand_r(&seed) % 9000,
                                .goal_us = 1 + (uint32_t)rand_r(&seed) % 200000,
                                .step_us = (uint32_t)rand_r(&seed) % 200000,
                                .base_ns = (uint64_t)rand_r(&seed) % 20000000,
                                .cap_ns = (uint64_t)rand_r(&seed) % 3 * 10000000,
                                .users_come = rand_r(&seed) % 2,
                                .prefill_ns_per_tok = (uint32_t)rand_r(&seed) % 2000000});
    }
}
static void the_checker_sees_a_broken_plan(void)
{
    struct sched_seq s[1] = {decode_at(1, 10, 0)};
    struct sched_view v = {.seq = s, .seqs = 1, .chunk_max = 1};
    struct sched_plan p = {.runs = 1};

    p.run[0].n = 2;
    CHECK(sched_check(&v, &p) != NULL);
    p.run[0].n = 1;
    CHECK(sched_check(&v, &p) == NULL);
    p.run[0].seq = 1;
    CHECK(sched_check(&v, &p) != NULL);
    p = (struct sched_plan){.runs = 0};
    CHECK(sched_check(&v, &p) != NULL);
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(nothing_to_do_is_an_empty_plan), C(all_decodes_run_in_one_step),
       C(a_lone_prefill_takes_chunk_max_and_ends_at_an_edge), C(a_slow_model_takes_short_steps),
       C(a_prefill_reaches_the_end_of_its_input), C(prefill_beside_a_decode_fits_the_goal),
       C(prefill_goes_on_even_when_decoding_alone_misses_the_goal),
       C(prefills_take_turns_by_waiting_time), C(the_user_who_had_least_goes_first),
       C(thirty_decodes_of_another_user_double_a_step_at_most),
       C(a_prefill_of_another_user_doubles_a_step_at_most),
       C(over_many_steps_users_get_the_same_time),
       C(a_hundred_keys_of_another_user_double_a_step_at_most),
       C(keys_of_one_user_share_what_is_his), C(keys_alone_are_to_each_other_what_users_are),
       C(steps_are_short_while_another_user_may_come), C(steps_of_many_keys_are_short_too),
       C(who_comes_begins_at_once), C(a_key_that_comes_makes_no_step_long_for_another_user),
       C(a_decode_that_needs_a_page_waits_without_blocking_the_rest),
       C(prefill_is_cut_to_the_pages_there_are), C(what_is_not_ready_does_not_run),
       C(more_decodes_than_a_step_holds_take_turns),
       C(random_views_give_plans_that_keep_the_rules), C(the_checker_sees_a_broken_plan))
