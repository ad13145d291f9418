/* test_sampler.c - what each parameter does, at its edges too; determinism; distributions. */
#include "base/clock.h"
#include "base/err.h"
#include "engine/sampler.h"
#include "tests/t.h"
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { V = 1000, BIG = 49152 };
static float scratch[BIG * SMP_SCRATCH / sizeof(float)];

static uint64_t rng;
static double uniform(void)
{
    rng += 0x9e3779b97f4a7c15u;
    uint64_t x = rng;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11) * 0x1p-53;
}
static void seed(void)
{
    const char *s = getenv("SEED");
    rng = s ? strtoull(s, NULL, 10) : now_ns();
    printf("      SEED=%llu\n", (unsigned long long)rng);
}
static void noise(float *v, uint32_t n, float scale)
{
    for (uint32_t i = 0; i < n; i++)
        v[i] =
            scale * (float)sqrt(-2 * log(1 - uniform())) * (float)cos(6.283185307 * uniform());
}
static struct smp_params params(float temp)
{
    struct smp_params p;
    smp_defaults(&p);
    p.temp = temp;
    return p;
}
static int32_t pick(const struct smp_params *p, const float *v, uint32_t n, uint64_t pos)
{
    struct smp_result r = {.id = -1};
    CHECK_EQ(smp_pick(p, v, n, NULL, 0, pos, NULL, scratch, &r), 0);
    return r.id;
}
static uint32_t best_of(const float *v, uint32_t n)
{
    uint32_t b = 0;
    for (uint32_t i = 1; i < n; i++)
        if (v[i] > v[b])
            b = i;
    return b;
}

/* --- greedy -------------------------------------------------------------------------------------- */
static void greedy_takes_the_largest_and_of_equals_the_first(void)
{
    float v[V] = {0};
    struct smp_params p = params(0);
    CHECK_EQ(pick(&p, v, V, 7), 0);
    v[300] = v[200] = 1;
    CHECK_EQ(pick(&p, v, V, 7), 200);
    v[0] = -0.0f;
    v[200] = v[300] = 0;
    CHECK_EQ(pick(&p, v, V, 7), 0);
}

/* Whatever smp_check takes gives a token that is among the likeliest, and no NaN on the way. */
static void the_smallest_values_of_a_knob_are_no_other_answer(void)
{
    static const float temps[] = {1e-45f, 1e-40f, 2.9e-39f, 3e-39f, 1e-38f, 1e-30f};
    float v[V];
    noise(v, V, 3);
    v[0] = v[V - 1] = -INFINITY; /* what a weight that is no number would fall back on */
    int32_t best = (int32_t)best_of(v, V);
    for (size_t t = 0; t < sizeof temps / sizeof *temps; t++)
        for (int first = 0; first < 2; first++) {
            struct smp_params p = params(temps[t]);
            if (first)
                smp_order_first(&p);
            CHECK_EQ(smp_check(&p, V, NULL), 0);
            CHECK_EQ(pick(&p, v, V, t), best);
            p.top_p = 0.9f;
            p.min_p = 0.1f;
            CHECK_EQ(pick(&p, v, V, t), best);
        }
    for (uint64_t pos = 0; pos < 50; pos++) {
        struct smp_params p = params(1);
        p.top_p = 1e-45f;
        CHECK_EQ(smp_check(&p, V, NULL), 0);
        CHECK_EQ(pick(&p, v, V, pos), best);
        p.top_p = 1;
        p.min_p = 1e-45f; /* all but what is impossible */
        CHECK(isfinite(v[pick(&p, v, V, pos)]));
        p.min_p = 1; /* all that are as likely as the likeliest */
        CHECK_EQ(smp_check(&p, V, NULL), 0);
        CHECK_EQ(pick(&p, v, V, pos), best);
        p = params(1);
        p.repeat_penalty = 1e-45f; /* what was said is certain */
        const int32_t said[] = {best, 0};
        struct smp_result r = {.id = -1};
        CHECK_EQ(smp_check(&p, V, NULL), 0);
        CHECK_EQ(smp_pick(&p, v, V, said, 2, pos, NULL, scratch, &r), 0);
        CHECK_EQ(r.id, best);
    }
}

static void top_k_of_one_is_greedy_whatever_else(void)
{
    float v[V];
    seed();
    for (int i = 0; i < 300; i++) {
        noise(v, V, i % 3 == 0 ? 1e-6f : 3);
        struct smp_params p = params(i % 2 ? 0.8f : 50);
        p.top_k = 1;
        CHECK_EQ(pick(&p, v, V, (uint64_t)i), best_of(v, V));
        p.top_k = 0;
        p.top_p = 1e-6f;
        if (i % 3)
            CHECK_EQ(pick(&p, v, V, (uint64_t)i), best_of(v, V));
        p.top_p = 1;
        p.min_p = 0.9999999f;
        if (i % 3 && i % 2)
            CHECK_EQ(pick(&p, v, V, (uint64_t)i), best_of(v, V));
    }
}

/* --- which tokens each filter leaves -------------------------------------------------------------- */
/* A straight reading of the header: sort, cut, and list what is left.  Returns how many of
 * them have a chance of 2 % or more. */
struct one {
    float v;
    int32_t id;
};
static int by_value(const void *a, const void *b)
{
    const struct one *x = a, *y = b;
    return x->v != y->v ? (x->v > y->v ? -1 : 1) : x->id < y->id ? -1 : 1;
}
static uint32_t left_by_sorting(const struct smp_params *p, const float *v, uint32_t n,
                                bool *left)
{
    struct one *o = malloc(n * sizeof *o);
    double *w = malloc(n * sizeof *w), all = 0, temp = 1;
    uint32_t kept = n, likely = 0;
    for (uint32_t i = 0; i < n; i++)
        o[i] = (struct one){v[i], (int32_t)i};
    qsort(o, n, sizeof *o, by_value);
    for (uint32_t s = 0; s <= p->n_order; s++) {
        double sum = 0, cum = 0;
        uint32_t i = 0;
        for (; i < kept; i++)
            sum += w[i] = exp((double)(o[i].v - o[0].v) / temp);
        if (s == p->n_order)
            break;
        switch (p->order[s]) {
        case SMP_TEMPERATURE: temp = (double)p->temp; break;
        case SMP_TOP_K: kept = p->top_k && p->top_k < kept ? p->top_k : kept; break;
        case SMP_TOP_P:
            for (i = 0; i < kept; cum += w[i++])
                if (i && p->top_p < 1 && cum >= (double)p->top_p * sum * (1 - 1e-7))
                    break;
            kept = i;
            break;
        case SMP_MIN_P:
            for (i = 0; i < kept && w[i] >= (double)p->min_p * (1 - 1e-6);)
                i++;
            kept = i;
            break;
        default: break;
        }
    }
    memset(left, 0, n);
    for (uint32_t i = 0; i < kept; i++) {
        left[o[i].id] = true;
        all += w[i];
    }
    for (uint32_t i = 0; i < kept; i++)
        likely += w[i] >= all * 0.02;
    free(o);
    free(w);
    return likely;
}

static const char *const orders[][SMP_STEP_] = {
    {"penalties", "top_k", "top_p", "min_p", "temperature"},
    {"penalties", "temperature", "top_k", "top_p", "min_p"},
    {"min_p", "temperature", "top_p", "top_k"},
    {"top_p", "top_k", "temperature", "min_p"},
    {"temperature", "min_p", "top_k"},
    {"top_k"},
    {0},
};
enum { ORDERS = sizeof orders / sizeof *orders };
static void set_order(struct smp_params *p, uint32_t which)
{
    uint32_t n = 0;
    struct errbuf eb = {""};
    while (n < SMP_STEP_ && orders[which][n])
        n++;
    CHECK_EQ(smp_order_set(p, orders[which], n, &eb), 0);
}

static void filters_leave_what_sorting_leaves(void)
{
    static const struct {
        uint32_t k;
        float p, m;
    } cases[] = {{5, 1, 0},    {0, 0.5f, 0}, {0, 0.95f, 0}, {0, 1, 0.1f}, {40, 0.9f, 0.05f},
                 {3, 0.3f, 0}, {V, 0.8f, 0}, {999, 1, 0},   {0, 0.01f, 0}};
    float v[V];
    bool left[V], seen[V];
    seed();
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint32_t round = 0; round < 6 + 2 * (ORDERS - 1); round++) {
            uint32_t kind = round < 6 ? round : round % 2 ? 5 : 2;
            struct smp_params p = params(round % 2 ? 0.7f : 1.5f);
            set_order(&p, round < 6 ? 0 : 1 + (round - 6) / 2);
            p.top_k = cases[c].k;
            p.top_p = cases[c].p;
            p.min_p = cases[c].m;
            p.seed = (uint64_t)round;
            noise(v, V, kind < 2 ? 0.5f : 4);
            for (int i = 0; kind == 5 && i < V; i++)
                v[i] = roundf(v[i]); /* ties */
            uint32_t want = left_by_sorting(&p, v, V, left), got = 0;
            memset(seen, 0, sizeof seen);
            for (uint64_t pos = 0; pos < 1200; pos++) {
                int32_t id = pick(&p, v, V, pos);
                got += !seen[id];
                seen[id] = true;
                if (!left[id])
                    return t_fail(__FILE__, __LINE__, "case %zu.%u: %d (%.3f) should be out", c,
                                  round, id, (double)v[id]);
            }
            if (got < want) /* 1200 draws miss 2 % once in 3e10 */
                t_fail(__FILE__, __LINE__, "case %zu.%u: saw %u of %u", c, round, got, want);
        }
}

static void of_equal_logits_top_k_keeps_the_first(void)
{
    float v[V] = {0};
    struct smp_params p = params(1);
    p.top_k = 7;
    for (uint64_t pos = 0; pos < 500; pos++)
        CHECK(pick(&p, v, V, pos) < 7);
    p.top_k = 0;
    p.top_p = 0.01f; /* of 1000 equal ones: 10 */
    int32_t most = 0;
    for (uint64_t pos = 0; pos < 2000; pos++) {
        int32_t id = pick(&p, v, V, pos);
        most = id > most ? id : most;
    }
    CHECK_EQ(most, 9);
}

static void filters_that_are_off_change_nothing(void)
{
    float v[V];
    seed();
    noise(v, V, 3);
    struct smp_params a = params(0.9f), b = a;
    b.top_k = V;
    b.top_p = 1;
    b.min_p = 0;
    b.repeat_last = 0;
    b.repeat_penalty = 1.3f;
    for (uint64_t pos = 0; pos < 200; pos++)
        CHECK_EQ(pick(&a, v, V, pos), pick(&b, v, V, pos));
}

/* --- distribution ---------------------------------------------------------------------------------- */
static double chi_square(const struct smp_params *p, const float *v, uint32_t n, uint64_t draws)
{
    double sum = 0, chi = 0;
    uint32_t count[64] = {0};
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)v[i] / (double)p->temp);
    for (uint64_t pos = 0; pos < draws; pos++)
        count[pick(p, v, n, pos)]++;
    for (uint32_t i = 0; i < n; i++) {
        double want = (double)draws * exp((double)v[i] / (double)p->temp) / sum;
        chi += (count[i] - want) * (count[i] - want) / want;
    }
    return chi;
}

static void draws_follow_the_distribution(void)
{
    float v[20];
    for (int i = 0; i < 20; i++)
        v[i] = (float)(i % 7) * 0.4f - (float)i * 0.05f;
    /* 19 degrees of freedom: 43.8 is passed once in a thousand; the seeds are fixed. */
    for (uint64_t s = 0; s < 8; s++)
        for (int t = 0; t < 3; t++) {
            struct smp_params p = params(t == 0 ? 1.0f : t == 1 ? 0.5f : 2.0f);
            p.seed = s * 0x123456789abcdefu;
            double chi = chi_square(&p, v, 20, 20000);
            if (!(chi < 43.8))
                t_fail(__FILE__, __LINE__, "seed %llu temp %.1f: chi-square %.1f",
                       (unsigned long long)s, (double)p.temp, chi);
        }
}

static void neighbouring_positions_and_seeds_are_independent(void)
{
    /* Pairs of draws from two equal tokens: the four outcomes are equally likely. */
    float v[2] = {0, 0};
    for (int by_seed = 0; by_seed < 2; by_seed++) {
        uint32_t count[4] = {0};
        for (uint64_t i = 0; i < 20000; i++) {
            struct smp_params a = params(1), b = a;
            a.seed = by_seed ? i : 5;
            b.seed = by_seed ? i + 1 : 5;
            count[2 * pick(&a, v, 2, by_seed ? 9 : i) + pick(&b, v, 2, by_seed ? 9 : i + 1)]++;
        }
        for (int k = 0; k < 4; k++)
            CHECK(count[k] > 4700 && count[k] < 5300);
    }
}

static void the_same_inputs_give_the_same_token(void)
{
    static float v[BIG], copy[BIG];
    seed();
    noise(v, BIG, 3);
    memcpy(copy, v, sizeof v);
    struct smp_params p = params(0.8f);
    p.top_p = 0.95f;
    p.top_k = 50;
    p.min_p = 0.01f;
    p.repeat_penalty = 1.1f;
    int32_t recent[3] = {5, 9, 5};
    struct smp_result a = {0}, b = {0};
    for (uint64_t pos = 0; pos < 50; pos++) {
        CHECK_EQ(smp_pick(&p, v, BIG, recent, 3, pos, NULL, scratch, &a), 0);
        memset(scratch, (int)pos, sizeof scratch); /* whatever scratch held */
        CHECK_EQ(smp_pick(&p, v, BIG, recent, 3, pos, NULL, scratch, &b), 0);
        CHECK(a.id == b.id && memcmp(&a.logprob, &b.logprob, 4) == 0);
    }
    CHECK(memcmp(v, copy, sizeof v) == 0); /* the logits are only read */
}

static void known_draws_stay_what_they_are(void)
{
    /* A change here changes what killed answers go on with.  These began before there was a
     * choice of order. */
    float v[V];
    for (int i = 0; i < V; i++)
        v[i] = (float)((i * 7919) % 1000) * 0.01f;
    static const int32_t want[] = {952, 605, 667, 594, 347, 187, 198, 642, 742, 952, 866, 507};
    struct smp_params p = params(0.8f);
    p.top_p = 0.9f;
    p.seed = 42;
    smp_order_first(&p);
    for (uint64_t pos = 0; pos < sizeof want / sizeof *want; pos++)
        CHECK_EQ(pick(&p, v, V, pos), want[pos]);
}

/* What llama.cpp's users know: the filters look at the model's distribution, and temperature
 * shapes what they left. */
static void temperature_comes_last_unless_told(void)
{
    const float v[4] = {logf(0.5f), logf(0.3f), logf(0.15f), logf(0.05f)};
    bool seen[2][4] = {{0}};
    struct smp_params p = params(5);
    p.top_p = 0.75f; /* the first two; at temperature 5 it would be the first three */
    for (int first = 0; first < 2; first++) {
        if (first)
            smp_order_first(&p);
        for (uint64_t pos = 0; pos < 300; pos++)
            seen[first][pick(&p, v, 4, pos)] = true;
    }
    CHECK(seen[0][0] && seen[0][1] && !seen[0][2] && !seen[0][3]);
    CHECK(seen[1][0] && seen[1][1] && seen[1][2]);
    /* Without the step temperature does nothing, and without penalties nothing is punished. */
    struct smp_result a = {0};
    const int32_t recent[] = {0};
    CHECK_EQ(smp_order_set(&p, (const char *const[]){"top_k"}, 1, NULL), 0);
    p.top_k = 1;
    p.repeat_penalty = 100;
    CHECK_EQ(smp_pick(&p, v, 4, recent, 1, 0, NULL, scratch, &a), 0);
    CHECK_EQ(a.id, 0);
}

static void an_order_is_refused_by_name(void)
{
    struct smp_params p = params(1);
    struct errbuf eb = {""};
    CHECK_EQ(smp_order_set(&p, (const char *const[]){"top_k", "typ_p"}, 2, &eb), -EINVAL);
    CHECK(strstr(eb.s, "\"typ_p\"") && strstr(eb.s, "min_p"));
    CHECK_EQ(smp_order_set(&p, (const char *const[]){"top_k", "top_k"}, 2, &eb), -EINVAL);
    CHECK(strstr(eb.s, "top_k stands there twice") != NULL);
    CHECK_EQ(smp_order_set(&p, (const char *const[]){"top_k", "penalties"}, 2, &eb), -EINVAL);
    CHECK(strstr(eb.s, "penalties come first") != NULL);
    CHECK_EQ(p.n_order, SMP_STEP_); /* nothing changed */
}

/* --- bias, penalties, masks -------------------------------------------------------------------------- */
static void bias_lifts_and_bans(void)
{
    float v[V] = {0};
    struct smp_bias bias[] = {{7, 5}, {9, 6}, {9, -2}};
    struct smp_params p = params(0);
    p.bias = bias;
    p.n_bias = 1;
    CHECK_EQ(pick(&p, v, V, 0), 7);
    p.n_bias = 2;
    CHECK_EQ(pick(&p, v, V, 0), 9);
    p.n_bias = 3; /* twice on one token adds up */
    CHECK_EQ(pick(&p, v, V, 0), 7);
    v[3] = 50;
    bias[0] = (struct smp_bias){3, -100};
    p.n_bias = 1;
    CHECK_EQ(pick(&p, v, V, 0), 0);
    v[3] = 500; /* never, however likely */
    CHECK_EQ(pick(&p, v, V, 0), 0);
    p.temp = 1;
    CHECK(pick(&p, v, V, 0) != 3);
}

static void penalties_count_the_window_and_no_more(void)
{
    float v[4] = {2, 1.9f, -1, -1.05f};
    int32_t recent[] = {1, 0, 0, 99, -1};
    struct smp_params p = params(0);
    struct smp_result r;
    p.repeat_penalty = 1.5f;
    CHECK_EQ(smp_pick(&p, v, 4, recent, 5, 0, NULL, scratch, &r), 0); /* both: 1.33 and 1.27 */
    CHECK_EQ(r.id, 0);
    p.repeat_last = 4; /* the window is the newest: 0 0 99 -1 */
    CHECK_EQ(smp_pick(&p, v, 4, recent, 5, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.id, 1);
    p.repeat_last = 0;
    CHECK_EQ(smp_pick(&p, v, 4, recent, 5, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.id, 0);
    /* A negative logit gets more negative, not less. */
    float w[4] = {-9, -9, -1, -1.05f};
    int32_t two = 2;
    p.repeat_last = 64;
    CHECK_EQ(smp_pick(&p, w, 4, &two, 1, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.id, 3);
    /* Presence counts once, frequency every time. */
    p.repeat_penalty = 1;
    p.presence_penalty = 0.05f;
    CHECK_EQ(smp_pick(&p, v, 4, recent + 1, 2, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.id, 0);
    p.presence_penalty = 0;
    p.frequency_penalty = 0.06f;
    CHECK_EQ(smp_pick(&p, v, 4, recent + 1, 2, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.id, 1);
    p.frequency_penalty = -0.06f;
    CHECK_EQ(smp_pick(&p, v, 4, recent, 1, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.id, 0);
}

static void a_mask_leaves_only_its_bits(void)
{
    float v[V];
    uint8_t mask[(V + 7) / 8] = {0};
    struct smp_result r;
    seed();
    noise(v, V, 3);
    v[500] = 90;
    mask[3 >> 3] |= 1 << (3 & 7);
    mask[999 >> 3] |= 1 << (999 & 7);
    for (int t = 0; t < 2; t++) {
        struct smp_params p = params((float)t);
        for (uint64_t pos = 0; pos < 100; pos++) {
            CHECK_EQ(smp_pick(&p, v, V, NULL, 0, pos, mask, scratch, &r), 0);
            CHECK(r.id == 3 || r.id == 999);
        }
        memset(mask, 0, sizeof mask);
        r.id = 77;
        CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, mask, scratch, &r), -EINVAL);
        CHECK_EQ(r.id, 77); /* untouched */
        mask[3 >> 3] |= 1 << (3 & 7);
    }
}

/* --- odd logits ----------------------------------------------------------------------------------------- */
static void no_number_is_never_picked_and_infinity_always_is(void)
{
    float v[V];
    struct smp_result r;
    for (int t = 0; t < 2; t++) {
        struct smp_params p = params((float)t);
        p.n_top = 3;
        for (int i = 0; i < V; i++)
            v[i] = NAN;
        CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, NULL, scratch, &r), -EINVAL);
        v[10] = -INFINITY;
        CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, NULL, scratch, &r), -EINVAL);
        v[20] = -1e20f;
        CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, NULL, scratch, &r), 0);
        CHECK_EQ(r.id, 20);
        CHECK(r.logprob == 0 && r.n_top == 1);
        v[30] = INFINITY;
        CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, NULL, scratch, &r), 0);
        CHECK_EQ(r.id, 30);
        CHECK(isfinite(r.logprob));
        v[5] = 3e38f;
        v[6] = -3e38f;
        for (uint64_t pos = 0; pos < 50; pos++) {
            CHECK_EQ(smp_pick(&p, v, V, NULL, 0, pos, NULL, scratch, &r), 0);
            CHECK(r.id == 30 || r.id == 5);
        }
    }
}

static void a_vocabulary_of_one_has_one_answer(void)
{
    float v = -3;
    struct smp_params p = params(1.3f);
    p.top_p = 0.5f;
    p.top_k = 3;
    p.min_p = 0.5f;
    CHECK_EQ(pick(&p, &v, 1, 0), 0);
}

/* --- what is reported --------------------------------------------------------------------------------- */
static void logprobs_are_of_the_raw_logits(void)
{
    static float v[BIG];
    struct smp_bias ban = {0, 0};
    struct smp_result r;
    seed();
    noise(v, BIG, 4);
    struct smp_params p = params(0.5f);
    p.n_top = 20;
    p.repeat_penalty = 1.7f;
    ban.id = (int32_t)best_of(v, BIG);
    ban.add = -100;
    p.bias = &ban;
    p.n_bias = 1;
    double sum = 0;
    for (int i = 0; i < BIG; i++)
        sum += exp((double)v[i]);
    CHECK_EQ(smp_pick(&p, v, BIG, &ban.id, 1, 1, NULL, scratch, &r), 0);
    CHECK(r.id != ban.id);
    CHECK(fabs((double)r.logprob - ((double)v[r.id] - log(sum))) < 1e-5);
    CHECK_EQ(r.n_top, 20);
    CHECK_EQ(r.top[0].id, ban.id);
    for (uint32_t i = 0; i < r.n_top; i++) {
        uint32_t above = 0;
        for (int k = 0; k < BIG; k++)
            above += v[k] > v[r.top[i].id];
        CHECK_EQ(above, i);
        CHECK(fabs((double)r.top[i].logprob - ((double)v[r.top[i].id] - log(sum))) < 1e-5);
    }
}

static void alternatives_of_equal_weight_come_by_id(void)
{
    float v[V] = {0};
    struct smp_result r;
    struct smp_params p = params(0);
    p.n_top = 5;
    v[900] = 1;
    CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, NULL, scratch, &r), 0);
    static const int32_t want[] = {900, 0, 1, 2, 3};
    for (int i = 0; i < 5; i++)
        CHECK_EQ(r.top[i].id, want[i]);
    p.n_top = 0;
    CHECK_EQ(smp_pick(&p, v, V, NULL, 0, 0, NULL, scratch, &r), 0);
    CHECK_EQ(r.n_top, 0);
}

/* --- parameters -------------------------------------------------------------------------------------------- */
static void bad(struct smp_params p, const char *word)
{
    struct errbuf eb = {""};
    int r = smp_check(&p, V, &eb);
    if (r != -EINVAL || strncmp(eb.s, word, strlen(word)) != 0)
        t_fail(__FILE__, __LINE__, "%d \"%s\", want %s", r, eb.s, word);
}
static void a_wrong_parameter_is_named_with_its_range(void)
{
    struct smp_bias b = {V, 0};
    struct smp_params d, p;
    smp_defaults(&d);
    CHECK_EQ(smp_check(&d, V, NULL), 0);
    p = d, p.temp = -1, bad(p, "temp: want a number in [0, 100], got -1");
    p = d, p.temp = NAN, bad(p, "temp: ");
    p = d, p.temp = INFINITY, bad(p, "temp: ");
    p = d, p.top_p = 0, bad(p, "top_p: want a number in (0, 1], got 0");
    p = d, p.top_p = 1.01f, bad(p, "top_p: ");
    p = d, p.min_p = 1.01f, bad(p, "min_p: want a number in [0, 1], got 1.01");
    p = d, p.min_p = -0.1f, bad(p, "min_p: ");
    p = d, p.repeat_penalty = 0, bad(p, "repeat_penalty: ");
    p = d, p.presence_penalty = 3, bad(p, "presence_penalty: ");
    p = d, p.frequency_penalty = NAN, bad(p, "frequency_penalty: ");
    p = d, p.n_top = 21, bad(p, "n_top: want at most 20, got 21");
    p = d, p.bias = &b, p.n_bias = 1, bad(p, "bias[0].id: want a token in [0, 1000), got 1000");
    b = (struct smp_bias){-1, 0}, bad(p, "bias[0].id: ");
    b = (struct smp_bias){1, 101}, bad(p, "bias[0].add: ");
    b = (struct smp_bias){1, NAN}, bad(p, "bias[0].add: ");
    p.n_bias = V + 1, bad(p, "bias: want at most 1000 entries");
    p = d, p.temp = 0, p.top_p = 1e-9f, p.min_p = 0.999f, p.top_k = 1u << 31;
    CHECK_EQ(smp_check(&p, V, NULL), 0);
    CHECK_EQ(pick(&p, (float[V]){[4] = 1}, V, 0), 4);
}

static void a_pick_is_fast(void)
{
    static float v[BIG];
    noise(v, BIG, 3);
    static const struct {
        const char *name;
        float temp, p;
        uint32_t k, n;
    } cases[] = {{"greedy", 0, 1, 0, 0},
                 {"plain", 1, 1, 0, 0},
                 {"top-p", 0.8f, 0.95f, 0, 0},
                 {"top-k", 0.8f, 1, 40, 0},
                 {"hot top-p, 20 alternatives", 3, 0.9f, 0, 20}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct smp_params p = params(cases[c].temp);
        p.top_p = cases[c].p;
        p.top_k = cases[c].k;
        p.n_top = cases[c].n;
        uint64_t t0 = now_ns();
        for (uint64_t i = 0; i < 100; i++)
            (void)pick(&p, v, BIG, i);
        double us = (double)(now_ns() - t0) / 1e5;
        printf("      %s: %.0f us over %d tokens\n", cases[c].name, us, BIG);
        CHECK(us < 20000);
    }
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(greedy_takes_the_largest_and_of_equals_the_first),
       CASE(the_smallest_values_of_a_knob_are_no_other_answer),
       CASE(top_k_of_one_is_greedy_whatever_else), CASE(filters_leave_what_sorting_leaves),
       CASE(of_equal_logits_top_k_keeps_the_first), CASE(filters_that_are_off_change_nothing),
       CASE(draws_follow_the_distribution),
       CASE(neighbouring_positions_and_seeds_are_independent),
       CASE(the_same_inputs_give_the_same_token), CASE(known_draws_stay_what_they_are),
       CASE(temperature_comes_last_unless_told), CASE(an_order_is_refused_by_name),
       CASE(bias_lifts_and_bans), CASE(penalties_count_the_window_and_no_more),
       CASE(a_mask_leaves_only_its_bits),
       CASE(no_number_is_never_picked_and_infinity_always_is),
       CASE(a_vocabulary_of_one_has_one_answer), CASE(logprobs_are_of_the_raw_logits),
       CASE(alternatives_of_equal_weight_come_by_id),
       CASE(a_wrong_parameter_is_named_with_its_range), CASE(a_pick_is_fast))
