/* test_golden.c - a real model against what transformers computed once (tests/golden).
 *
 * Needs HEARTH_TEST_MODEL, the very file the goldens were made with.  The oracle is slow, so
 * here it sees the first 64 tokens of each text; tests/peer/logits_transformers.py runs it
 * over all of them.  A distribution is compared by its 32 largest entries and the rest as one
 * (which can only make a divergence smaller), and whole where the golden has it whole. */
#include "base/bytes.h"
#include "base/check.h"
#include "engine/engine.h"
#include "kernels/kern.h"
#include "tests/t.h"
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char golden_path[] = "tests/golden/logits.bin";
enum { HEAD_BYTES = 64, NAME_BYTES = 64, ORACLE_TOKENS = 64, CTX = 512 };

static struct golden {
    uint8_t *p;
    size_t bytes;
    uint32_t texts, tokens, vocab, top, whole;
    size_t text_bytes;
} g;

static uint8_t *read_whole(const char *path, size_t *ret)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = NULL;

    if (f && fseek(f, 0, SEEK_END) == 0) {
        *ret = (size_t)ftell(f);
        rewind(f);
        p = malloc(*ret);
        if (p && fread(p, 1, *ret, f) != *ret) {
            free(p);
            p = NULL;
        }
    }
    if (f)
        fclose(f);
    return p;
}

/* Reads the goldens once; skips unless the model is the one they were made with. */
static const char *model(void)
{
    const char *path = getenv("HEARTH_TEST_MODEL");
    uint8_t sha[32];
    size_t n = 0;

    if (!path || !path[0])
        t_skip("HEARTH_TEST_MODEL names no model");
    if (g.p)
        return path;
    uint8_t *m = read_whole(path, &n);
    if (!m)
        t_skip("HEARTH_TEST_MODEL cannot be read");
    crypto_hash_sha256(sha, m, n);
    free(m);
    g.p = read_whole(golden_path, &g.bytes);
    CHECK(g.p && g.bytes > HEAD_BYTES && memcmp(g.p, "HEARTHGL\1\0\0\0", 12) == 0);
    if (!g.p)
        t_skip("no goldens: run in the tree's root");
    if (memcmp(g.p + 32, sha, 32) != 0) {
        free(g.p);
        g.p = NULL;
        t_skip("HEARTH_TEST_MODEL is not the model of the goldens");
    }
    g.texts = ld32(g.p + 12);
    g.tokens = ld32(g.p + 16);
    g.vocab = ld32(g.p + 20);
    g.top = ld32(g.p + 24);
    g.whole = ld32(g.p + 28);
    g.text_bytes = NAME_BYTES + 4 * g.tokens + g.tokens * (8 * g.top + 4) +
                   g.whole * (4 + 4 * (size_t)g.vocab);
    CHECK_EQ(g.bytes, HEAD_BYTES + g.texts * g.text_bytes);
    return path;
}

static struct engine *open_model(struct eng_opts o)
{
    struct engine *e = NULL;
    struct errbuf eb = {""};

    o.path = model();
    o.ctx_max = CTX;
    if (eng_open(&e, &o, &eb) < 0)
        t_fail(__FILE__, __LINE__, "%s", eb.s);
    return e;
}

static const uint8_t *text_at(uint32_t i)
{
    return g.p + HEAD_BYTES + i * g.text_bytes;
}

/* Logits of the first n tokens of text i, in chunks; malloc'd. */
static float *compute(struct engine *e, uint32_t text, uint32_t n, uint32_t chunk)
{
    uint32_t pages[CTX / BLOCK_TOKENS], n_pages = (n + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    int32_t ids[CTX];
    float *logits = malloc((size_t)n * g.vocab * sizeof *logits);

    memcpy(ids, text_at(text) + NAME_BYTES, n * sizeof *ids);
    for (uint32_t i = 0; i < n_pages; i++)
        CHECK_EQ(eng_page_take(e, KV_HOT, &pages[i]), 0);
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t m = n - at < chunk ? n - at : chunk;
        struct eng_seq q = {.tokens = ids + at,
                            .n = m,
                            .pos = at,
                            .pages = {pages},
                            .n_pages = n_pages,
                            .n_logits = m,
                            .logits = logits + (size_t)at * g.vocab};
        struct eng_step s = {.seq = &q, .n_seqs = 1};
        CHECK_EQ(eng_step(e, &s), 0);
    }
    for (uint32_t i = 0; i < n_pages; i++)
        eng_page_drop(e, KV_HOT, pages[i]);
    return logits;
}

static double lse(const float *v, uint32_t n)
{
    double max = -INFINITY, sum = 0;

    for (uint32_t i = 0; i < n; i++)
        max = v[i] > max ? v[i] : max;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(v[i] - max);
    return max + log(sum);
}
static double add_exp(double a, double b)
{
    double max = a > b ? a : b;

    return max + log(exp(a - max) + exp(b - max));
}

struct verdict {
    double kl, top1, whole_kl;
    uint32_t wrong_where_clear;
};

/* One position: divergence over 33 buckets; counts agreement on the likeliest token. */
static void compare_at(const uint8_t *p, const float *v, double *kl, uint32_t *same,
                       uint32_t *wrong_clear)
{
    float ref[33];
    uint32_t best = 0;
    double all, ours_all = lse(v, g.vocab), ours_rest = 0, ours_top = -INFINITY;

    must(g.top == 32);
    memcpy(ref, p + 4 * g.top, 4 * g.top + 4);
    all = add_exp(lse(ref, g.top), ref[g.top]);
    for (uint32_t i = 0; i < g.vocab; i++)
        best = v[i] > v[best] ? i : best;
    for (uint32_t i = 0; i < g.top; i++) {
        double a = ref[i] - all, b = v[ld32(p + 4 * i)] - ours_all;
        *kl += exp(a) * (a - b);
        ours_top = i ? add_exp(ours_top, b) : b;
    }
    double a = ref[g.top] - all;
    ours_rest = log1p(-exp(ours_top));
    if (exp(a) > 1e-12)
        *kl += exp(a) * (a - ours_rest);
    *same += best == ld32(p);
    *wrong_clear += best != ld32(p) && ref[0] - ref[1] > 1e-3;
}

static struct verdict judge(struct engine *e, uint32_t n)
{
    struct verdict r = {0};
    uint32_t same = 0, whole = 0;

    for (uint32_t t = 0; t < g.texts; t++) {
        float *v = compute(e, t, n, n);
        const uint8_t *p = text_at(t) + NAME_BYTES + 4 * g.tokens;
        for (uint32_t i = 0; i < n; i++)
            compare_at(p + i * (8 * g.top + 4), v + (size_t)i * g.vocab, &r.kl, &same,
                       &r.wrong_where_clear);
        const uint8_t *w = p + g.tokens * (8 * g.top + 4);
        for (uint32_t i = 0; i < g.whole; i++, w += 4 + 4 * (size_t)g.vocab) {
            const float *ref = (const float *)(const void *)(w + 4);
            const float *got = v + (size_t)ld32(w) * g.vocab;
            double la = lse(ref, g.vocab), lb = lse(got, g.vocab);
            for (uint32_t j = 0; j < g.vocab; j++)
                r.whole_kl += exp(ref[j] - la) * ((ref[j] - la) - (got[j] - lb));
            whole++;
        }
        free(v);
    }
    r.kl /= (double)n * g.texts;
    r.top1 = (double)same / ((double)n * g.texts);
    r.whole_kl /= whole ? whole : 1;
    printf("    KL %.3g, whole positions %.3g, top-1 %.2f %%, %u differ with a margin\n", r.kl,
           r.whole_kl, 100 * r.top1, r.wrong_where_clear);
    return r;
}

static void the_oracle_with_f32_rows_is_transformers(void)
{
    struct engine *e =
        open_model((struct eng_opts){.kern = &kern_ref, .act_f32 = true, .rows_f32 = true});
    if (!e)
        return;
    struct verdict v = judge(e, ORACLE_TOKENS);
    CHECK(v.kl <= 1e-9 && v.whole_kl <= 1e-9);
    CHECK_EQ(v.wrong_where_clear, 0);
    eng_close(e);
}

static void the_oracle_with_f16_rows_is_close(void)
{
    struct engine *e = open_model((struct eng_opts){.kern = &kern_ref, .act_f32 = true});
    if (!e)
        return;
    struct verdict v = judge(e, ORACLE_TOKENS);
    CHECK(v.kl <= 5e-6 && v.whole_kl <= 5e-5); /* six positions scatter more than 192 */
    CHECK(v.top1 >= 0.99);
    eng_close(e);
}

static void the_fast_path_is_close_on_all_512_tokens(void)
{
    struct engine *e = open_model((struct eng_opts){.kern = &kern_cpu});
    if (!e)
        return;
    struct verdict v = judge(e, g.tokens);
    CHECK(v.kl <= 8e-3);
    CHECK(v.top1 >= 0.92);
    eng_close(e);
}

static void chunks_and_threads_do_not_change_a_bit(void)
{
    static const struct {
        uint32_t threads, chunk;
    } t[] = {{2, 512}, {2, 256}, {1, 37}, {2, 1}};
    struct engine *e = NULL;
    float *first = NULL;
    uint32_t n = 300; /* past one block; the whole text would take chunk 1 half a minute */

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        e = open_model((struct eng_opts){.kern = &kern_cpu, .threads = t[i].threads});
        if (!e)
            return;
        float *v = compute(e, 1, n, t[i].chunk);
        if (first && memcmp(first, v, (size_t)n * g.vocab * sizeof *v) != 0)
            t_fail(__FILE__, __LINE__, "%u threads, chunk %u: other bits", t[i].threads,
                   t[i].chunk);
        if (first)
            free(v);
        else
            first = v;
        eng_close(e);
    }
    free(first);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(the_oracle_with_f32_rows_is_transformers), CASE(the_oracle_with_f16_rows_is_close),
       CASE(the_fast_path_is_close_on_all_512_tokens),
       CASE(chunks_and_threads_do_not_change_a_bit))
