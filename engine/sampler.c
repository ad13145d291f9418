/* sampler.c - see sampler.h.
 *
 * Nothing is sorted.  A filter is a threshold, found by radix on the bits of a float: three
 * histograms, whatever the numbers are.  What a token's choice depends on uses only IEEE
 * operations in a fixed order (the exponential is ours), so that a killed answer goes on the
 * same on another machine; libm's logarithm only reports.
 *
 * Not a number counts as -infinity, +infinity as 1e30. */
#include "engine/sampler.h"
#include "base/bytes.h"
#include "base/check.h"
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define HUGE_LOGIT 1e30f

void smp_defaults(struct smp_params *p)
{
    *p = (struct smp_params){
        .temp = 1.0f, .top_p = 1.0f, .repeat_penalty = 1.0f, .repeat_last = 64};
    for (uint8_t i = 0; i < SMP_STEP_; i++) /* as they stand in the enum */
        p->order[p->n_order++] = i;
}

void smp_order_first(struct smp_params *p)
{
    static const uint8_t order[] = {SMP_PENALTIES, SMP_TEMPERATURE, SMP_TOP_K, SMP_TOP_P,
                                    SMP_MIN_P};

    memcpy(p->order, order, sizeof order);
    p->n_order = sizeof order;
}

const char *smp_step_name(enum smp_step s)
{
    static const char *const names[SMP_STEP_] = {"penalties", "top_k", "top_p", "min_p",
                                                 "temperature"};

    must(s < SMP_STEP_);
    return names[s];
}

int smp_order_set(struct smp_params *p, const char *const *names, uint32_t n, struct errbuf *eb)
{
    uint8_t order[SMP_STEP_];

    for (uint32_t i = 0; i < n; i++) {
        uint8_t s = 0;
        while (s < SMP_STEP_ && strcmp(names[i], smp_step_name(s)) != 0)
            s++;
        if (s == SMP_STEP_)
            return err_set(eb, -EINVAL,
                           "samplers: \"%.40s\" is none of penalties, top_k, top_p, min_p, "
                           "temperature",
                           names[i]);
        if (i == SMP_STEP_ || memchr(order, s, i))
            return err_set(eb, -EINVAL, "samplers: %s stands there twice", names[i]);
        if (s == SMP_PENALTIES && i)
            return err_set(eb, -EINVAL, "samplers: penalties come first, or not at all");
        order[i] = s;
    }
    if (n)
        memcpy(p->order, order, n);
    p->n_order = n;
    return 0;
}

static int out_of_range(struct errbuf *eb, const char *member, const char *range, double got)
{
    return err_set(eb, -EINVAL, "%s: want a number in %s, got %g", member, range, got);
}

int smp_check(const struct smp_params *p, uint32_t n_vocab, struct errbuf *eb)
{
    if (!(p->temp >= 0 && p->temp <= 100))
        return out_of_range(eb, "temp", "[0, 100]", p->temp);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return out_of_range(eb, "top_p", "(0, 1]", p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return out_of_range(eb, "min_p", "[0, 1]", p->min_p);
    if (!(p->repeat_penalty > 0 && p->repeat_penalty <= 100))
        return out_of_range(eb, "repeat_penalty", "(0, 100]", p->repeat_penalty);
    if (!(p->presence_penalty >= -2 && p->presence_penalty <= 2))
        return out_of_range(eb, "presence_penalty", "[-2, 2]", p->presence_penalty);
    if (!(p->frequency_penalty >= -2 && p->frequency_penalty <= 2))
        return out_of_range(eb, "frequency_penalty", "[-2, 2]", p->frequency_penalty);
    if (p->n_top > SMP_TOP_MAX)
        return err_set(eb, -EINVAL, "n_top: want at most %d, got %u", SMP_TOP_MAX, p->n_top);
    if (p->n_bias > n_vocab)
        return err_set(eb, -EINVAL, "bias: want at most %u entries, got %u", n_vocab,
                       p->n_bias);
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= n_vocab)
            return err_set(eb, -EINVAL, "bias[%u].id: want a token in [0, %u), got %d", i,
                           n_vocab, p->bias[i].id);
        if (!(p->bias[i].add >= -100 && p->bias[i].add <= 100))
            return err_set(eb, -EINVAL, "bias[%u].add: want a number in [-100, 100], got %g", i,
                           (double)p->bias[i].add);
    }
    return 0;
}

/* --- arithmetic, four at a time ------------------------------------------------------------------ */
typedef float f4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
enum { LANES = 4, RUN = 256 }; /* RUN: tokens whose weights are summed as floats */

static inline f4 load(const float *p)
{
    f4 x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline f4 all(float x)
{
    return (f4){x, x, x, x};
}

static inline f4 choose(i4 mask, f4 yes, f4 no)
{
    return (f4)((mask & (i4)yes) | (~mask & (i4)no));
}

/* Also not-a-number becomes -infinity, and -0 becomes 0. */
static inline f4 clean4(f4 x)
{
    f4 y = choose(x > all(HUGE_LOGIT), all(HUGE_LOGIT), x);
    return choose(y > all(-HUGE_LOGIT), y + all(0.0f), all(-INFINITY));
}

static float clean(float x)
{
    return clean4(all(x))[0];
}

/* e^x for x <= 0, to 2 units in the last place; 0 below -87.  (Cephes' polynomial.) */
static inline f4 exp4(f4 x)
{
    const f4 round = all(12582912.0f); /* 1.5 * 2^23: adding it leaves the nearest integer */
    i4 tiny = x < all(-87.0f);
    f4 c = choose(tiny, all(-87.0f), x);
    f4 k = c * all(1.44269504f) + round;
    f4 n = k - round;
    f4 r = (c - n * all(0.693359375f)) - n * all(-2.12194440e-4f);
    f4 p = all(1.9875691500e-4f);
    p = p * r + all(1.3981999507e-3f);
    p = p * r + all(8.3334519073e-3f);
    p = p * r + all(4.1665795894e-2f);
    p = p * r + all(1.6666665459e-1f);
    p = p * r + all(5.0000001201e-1f);
    p = p * r * r + r + all(1.0f);
    i4 scale = ((i4)k << 23) + 0x3f800000; /* the low bits of k are n */
    return choose(tiny, all(0.0f), p * (f4)scale);
}

/* Loops below take whole vectors; what is left over goes through one that is filled up. */
static inline f4 load_tail(const float *p, uint32_t n, float fill)
{
    f4 x = all(fill);
    memcpy(&x, p, n * sizeof *p);
    return x;
}

/* v = the logits made clean; returns the largest. */
static float clean_all(const float *logits, float *v, uint32_t n)
{
    f4 m = all(-INFINITY);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        f4 x = clean4(load(logits + i));
        memcpy(v + i, &x, sizeof x);
        m = choose(x > m, x, m);
    }
    if (i < n) {
        f4 x = clean4(load_tail(logits + i, n - i, -INFINITY));
        memcpy(v + i, &x, (n - i) * sizeof *v);
        m = choose(x > m, x, m);
    }
    float a = m[0] > m[1] ? m[0] : m[1], b = m[2] > m[3] ? m[2] : m[3];
    return a > b ? a : b;
}

static float largest(const float *v, uint32_t n)
{
    f4 m = all(-INFINITY);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        f4 x = load(v + i);
        m = choose(x > m, x, m);
    }
    if (i < n) {
        f4 x = load_tail(v + i, n - i, -INFINITY);
        m = choose(x > m, x, m);
    }
    float a = m[0] > m[1] ? m[0] : m[1], b = m[2] > m[3] ? m[2] : m[3];
    return a > b ? a : b;
}

/* w = e^((v - max) * per_temp), in place when w is v; w NULL: only the sum.  Returns the sum:
 * floats within a run, doubles across runs. */
static double weigh(const float *v, float *w, uint32_t n, float max, float per_temp)
{
    double sum = 0;
    for (uint32_t at = 0; at < n; at += RUN) {
        uint32_t i = at, end = n - at < RUN ? n : at + RUN;
        f4 s = all(0.0f);
        for (; i + LANES <= end; i += LANES) {
            f4 x = exp4((load(v + i) - all(max)) * all(per_temp));
            if (w)
                memcpy(w + i, &x, sizeof x);
            s += x;
        }
        if (i < end) {
            f4 x = exp4((load_tail(v + i, end - i, -INFINITY) - all(max)) * all(per_temp));
            if (w)
                memcpy(w + i, &x, (end - i) * sizeof *w);
            s += x;
        }
        sum += ((double)s[0] + (double)s[1]) + ((double)s[2] + (double)s[3]);
    }
    return sum;
}

static double run_sum(const float *w, uint32_t n) /* n <= RUN */
{
    f4 s = all(0.0f);
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        s += load(w + i);
    if (i < n)
        s += load_tail(w + i, n - i, 0.0f);
    return ((double)s[0] + (double)s[1]) + ((double)s[2] + (double)s[3]);
}

static double sum_of(const float *w, uint32_t n)
{
    double sum = 0;
    for (uint32_t at = 0; at < n; at += RUN)
        sum += run_sum(w + at, n - at < RUN ? n - at : RUN);
    return sum;
}

/* Which of four are true, as bits. */
static inline bool any(i4 m)
{
    return (m[0] | m[1] | m[2] | m[3]) != 0;
}

/* Compacts v to those >= low and lists their places; *in order*. */
static uint32_t at_least(float *v, uint32_t *id, uint32_t n, float low)
{
    uint32_t kept = 0, i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        i4 hit = (load(v + i) >= all(low)) | (load(v + i + 4) >= all(low)) |
                 (load(v + i + 8) >= all(low)) | (load(v + i + 12) >= all(low));
        if (!any(hit))
            continue;
        for (uint32_t k = i; k < i + 4 * LANES; k++) {
            float x = v[k];
            v[kept] = x;
            id[kept] = k;
            kept += x >= low;
        }
    }
    for (; i < n; i++)
        if (v[i] >= low) {
            v[kept] = v[i];
            id[kept++] = i;
        }
    return kept;
}

static uint64_t mix(uint64_t x) /* the finaliser of splitmix64 */
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static double uniform(uint64_t seed, uint64_t pos) /* [0, 1), 53 bits of it */
{
    uint64_t h = mix(mix(seed + 0x9e3779b97f4a7c15u) ^
                     mix(pos * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u));
    return (double)(mix(h + 0x9e3779b97f4a7c15u) >> 11) * 0x1p-53;
}

/* --- thresholds --------------------------------------------------------------------------------- */
static inline uint32_t key_of(float v) /* unsigned order of keys = order of values */
{
    uint32_t b;
    memcpy(&b, &v, sizeof b);
    return b ^ (b >> 31 ? 0xffffffffu : 0x80000000u);
}

/* Keeps the largest v that together weigh `target` (each weighs 1, or its own value), and of
 * equal ones those with the smallest ids; at least one.  v, id and also (NULL: nothing) are
 * compacted; returns how many are left.  Three passes of 11, 11 and 10 bits. */
static uint32_t keep_top(float *v, uint32_t *id, float *also, uint32_t n, bool weigh,
                         double target)
{
    static const struct {
        uint32_t shift, bits;
    } level[] = {{21, 11}, {10, 11}, {0, 10}};
    double hist[2048], above = 0;
    uint32_t prefix = 0, fixed = 0; /* bits of the threshold found so far */

    for (size_t l = 0; l < 3; l++) {
        uint32_t size = 1u << level[l].bits, b = size;
        memset(hist, 0, size * sizeof *hist);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t k = key_of(v[i]);
            if (l == 0 || k >> (32 - fixed) == prefix)
                hist[k >> level[l].shift & (size - 1)] += weigh ? (double)v[i] : 1.0;
        }
        uint32_t last = size;
        while (b-- > 0) {
            if (hist[b] == 0)
                continue;
            last = b;
            if (above + hist[b] >= target)
                break;
            above += hist[b];
        }
        if (b == UINT32_MAX) { /* rounding left the target just beyond them all */
            must(last < size);
            above -= hist[last];
            b = last;
        }
        fixed += level[l].bits;
        prefix = prefix << level[l].bits | b;
    }
    uint32_t kept = 0, ties = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = key_of(v[i]);
        if (k < prefix)
            continue;
        if (k == prefix) {
            if (ties == UINT32_MAX) {
                double need = ceil((target - above) / (weigh ? (double)v[i] : 1.0));
                ties = need < 1 ? 1 : need > n ? n : (uint32_t)need;
            }
            if (ties == 0)
                continue;
            ties--;
        }
        v[kept] = v[i];
        if (also)
            also[kept] = also[i];
        id[kept++] = id[i];
    }
    return kept;
}

/* --- the steps of a choice ------------------------------------------------------------------------ */
/* recent's window, each distinct token once.  count is scratch of n_vocab, in any state. */
static void penalize(const struct smp_params *p, float *v, uint32_t n_vocab,
                     const int32_t *recent, uint32_t n_recent, uint32_t *count)
{
    uint32_t n = n_recent < p->repeat_last ? n_recent : p->repeat_last;
    const int32_t *r = n ? recent + (n_recent - n) : recent;

    for (uint32_t i = 0; i < n; i++)
        if (r[i] >= 0 && (uint32_t)r[i] < n_vocab)
            count[r[i]] = 0;
    for (uint32_t i = 0; i < n; i++)
        if (r[i] >= 0 && (uint32_t)r[i] < n_vocab)
            count[r[i]]++;
    for (uint32_t i = 0; i < n; i++) {
        if (r[i] < 0 || (uint32_t)r[i] >= n_vocab || count[r[i]] == 0)
            continue;
        float *x = &v[r[i]];
        *x = *x > 0 ? *x / p->repeat_penalty : *x * p->repeat_penalty;
        *x -= (float)count[r[i]] * p->frequency_penalty + p->presence_penalty;
        *x = clean(*x);  /* divided by next to nothing it would be infinite */
        count[r[i]] = 0; /* done with this one */
    }
}

static bool adjust(const struct smp_params *p, float *v, uint32_t n_vocab,
                   const int32_t *recent, uint32_t n_recent, const uint8_t *mask,
                   uint32_t *count)
{
    bool penal = p->n_order && p->order[0] == SMP_PENALTIES;
    penal = penal &&
            (p->repeat_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0);
    for (uint32_t i = 0; i < p->n_bias; i++) /* the least a client can say means never */
        v[p->bias[i].id] += p->bias[i].add > -100 ? p->bias[i].add : -INFINITY;
    if (penal)
        penalize(p, v, n_vocab, recent, n_recent, count);
    for (uint32_t i = 0; mask && i < n_vocab; i++)
        if (!(mask[i >> 3] >> (i & 7) & 1))
            v[i] = -INFINITY;
    return p->n_bias || penal || mask;
}

/* Also a temperature whose inverse is no float: it would make weights of 0 * infinity. */
static bool is_greedy(const struct smp_params *p)
{
    return !(1.0f / p->temp <= FLT_MAX);
}

static uint32_t first_equal(const float *v, uint32_t n, float max)
{
    uint32_t i = 0;
    while (i + LANES <= n && !any(load(v + i) == all(max)))
        i += LANES;
    while (i < n && v[i] != max)
        i++;
    must(i < n); /* the largest is one of them */
    return i;
}

/* The k largest, k < n.  A bound first: the k-th largest of the maxima of small groups is not
 * above the k-th largest of all, and leaves little to look at. */
static uint32_t keep_largest(float *v, uint32_t *id, uint32_t n, uint32_t k)
{
    enum { GROUP = 16 };
    uint32_t groups = n / GROUP;
    float low = -INFINITY;
    if (k < groups / 2) {
        float *most = (float *)id; /* lent for a moment; groups <= n / 16 of each half */
        uint32_t *place = id + groups;
        for (uint32_t g = 0; g < groups; g++) {
            most[g] = largest(v + g * GROUP, GROUP);
            place[g] = g;
        }
        uint32_t left = keep_top(most, place, NULL, groups, false, k);
        for (uint32_t g = 0; g < left; g++)
            low = g == 0 || most[g] < low ? most[g] : low;
    }
    n = at_least(v, id, n, low);
    return k < n ? keep_top(v, id, NULL, n, false, k) : n;
}

/* Where a draw of `at` of the total falls. */
static uint32_t fall(const float *w, uint32_t n, double at)
{
    double cum = 0;
    uint32_t last = 0;
    for (uint32_t from = 0; from < n; from += RUN) {
        uint32_t end = n - from < RUN ? n : from + RUN;
        double sum = run_sum(w + from, end - from);
        if (cum + sum <= at) {
            cum += sum;
            continue;
        }
        for (uint32_t i = from; i < end; i++) {
            if (w[i] > 0)
                last = i;
            cum += (double)w[i];
            if (cum > at)
                break;
        }
        return last; /* or the run's last that weighs anything: rounding */
    }
    for (uint32_t i = n; i-- > 0;) /* rounding at the very end */
        if (w[i] > 0)
            return i;
    return last;
}

/* What may still be drawn.  v: logits; w: their weights, e^((v - max) * per_temp), when
 * weighed; the i-th is token id[i], or token i as long as nothing is listed. */
struct pool {
    float *v, *w;
    uint32_t *id, n;
    bool listed, weighed;
    float max, per_temp;
    double total; /* of w */
};

static void pool_weigh(struct pool *c)
{
    if (!c->weighed)
        c->total = weigh(c->v, c->w, c->n, c->max, c->per_temp);
    c->weighed = true;
}

static void pool_top_k(struct pool *c, uint32_t k)
{
    if (k == 0 || k >= c->n)
        return;
    c->n = c->listed ? keep_top(c->v, c->id, c->w, c->n, false, k)
                     : keep_largest(c->v, c->id, c->n, k);
    /* The weights beside the logits were kept only where there was a list. */
    c->weighed = c->weighed && c->listed;
    c->listed = true;
    if (c->weighed)
        c->total = sum_of(c->w, c->n);
}

/* Only what weighs at least low; the likeliest weighs 1. */
static void pool_above(struct pool *c, float low)
{
    uint32_t kept = 0;

    if (!c->listed) {
        kept = at_least(c->w, c->id, c->n, low);
        for (uint32_t i = 0; i < kept; i++) /* id[i] >= i */
            c->v[i] = c->v[c->id[i]];
    }
    for (uint32_t i = 0; c->listed && i < c->n; i++)
        if (c->w[i] >= low) {
            c->w[kept] = c->w[i];
            c->v[kept] = c->v[i];
            c->id[kept++] = c->id[i];
        }
    c->n = kept;
    c->listed = true;
}

static void pool_top_p(struct pool *c, double p)
{
    if (p >= 1)
        return;
    pool_weigh(c);
    /* What cannot matter goes first.  All that weigh less than (1 - p) * total / n are
     * together less than 1 - p of it, so the others hold the p that is wanted. */
    double want = p * c->total, low = (1 - p) * c->total / c->n * 0.999;
    pool_above(c, low > 1 ? 1 : (float)low);
    c->n = keep_top(c->w, c->id, c->v, c->n, true, want);
    c->total = sum_of(c->w, c->n);
}

static void pool_min_p(struct pool *c, float p)
{
    if (p <= 0)
        return;
    pool_weigh(c);
    pool_above(c, p);
    c->total = sum_of(c->w, c->n);
}

static uint32_t draw(const struct smp_params *p, struct pool *c, uint64_t pos)
{
    for (uint32_t i = 0; i < p->n_order; i++)
        switch (p->order[i]) {
        case SMP_TOP_K: pool_top_k(c, p->top_k); break;
        case SMP_TOP_P: pool_top_p(c, (double)p->top_p); break;
        case SMP_MIN_P: pool_min_p(c, p->min_p); break;
        case SMP_TEMPERATURE:
            c->weighed = c->weighed && p->temp == 1;
            c->per_temp = 1.0f / p->temp;
            break;
        default: break; /* penalties: done */
        }
    pool_weigh(c);
    uint32_t i = fall(c->w, c->n, uniform(p->seed, pos) * c->total);
    return c->listed ? c->id[i] : i;
}

static void report_top(const struct smp_params *p, const float *logits, uint32_t n_vocab,
                       double lse, struct smp_result *ret)
{
    uint32_t want = p->n_top < SMP_TOP_MAX ? p->n_top : SMP_TOP_MAX, n = 0;
    float v[SMP_TOP_MAX];
    for (uint32_t i = 0; i < n_vocab && want; i++) {
        float x = clean(logits[i]);
        if (x == -INFINITY || (n == want && x <= v[n - 1]))
            continue;
        uint32_t k = n < want ? n++ : n - 1;
        for (; k && v[k - 1] < x; k--) {
            v[k] = v[k - 1];
            ret->top[k] = ret->top[k - 1];
        }
        v[k] = x;
        ret->top[k] = (struct smp_top){(int32_t)i, (float)((double)x - lse)};
    }
    ret->n_top = n;
}

int smp_pick(const struct smp_params *p, const float *logits, uint32_t n_vocab,
             const int32_t *recent, uint32_t n_recent, uint64_t pos, const uint8_t *mask,
             void *scratch, struct smp_result *ret)
{
    float *v = scratch;
    uint32_t *id = (uint32_t *)(v + n_vocab), picked;
    struct pool c = {
        .v = v, .w = v + 2 * (size_t)n_vocab, .id = id, .n = n_vocab, .per_temp = 1};
    struct smp_result res = {0};

    float max = clean_all(logits, v, n_vocab);
    if (max == -INFINITY)
        return -EINVAL;
    double lse = (double)max + log(weigh(v, NULL, n_vocab, max, 1.0f));
    report_top(p, logits, n_vocab, lse, &res);

    if (adjust(p, v, n_vocab, recent, n_recent, mask, id))
        max = largest(v, n_vocab);
    if (max == -INFINITY)
        return -EINVAL;
    c.max = max;
    picked = is_greedy(p) ? first_equal(v, n_vocab, max) : draw(p, &c, pos);
    res.id = (int32_t)picked;
    res.logprob = (float)((double)clean(logits[picked]) - lse);
    *ret = res;
    return 0;
}
