/* cases.h - the operations' cases: one list for every backend's tests and for the benchmark.
 *
 * Shapes cover what real models have and what breaks tiles: one row, rows that are not a
 * multiple of 8 or 16, one unit of columns, 576 columns (not a multiple of 256).  Inputs
 * have outliers, ties, zeros and subnormals. */
#ifndef TESTS_KERNELS_CASES_H
#define TESTS_KERNELS_CASES_H
#include "kernels/kern.h"
#include "kernels/num.h"
#include "kernels/types.h"
#include <stdio.h>
#include <stdlib.h>

static const enum k_type case_types[] = {K_F32,  K_F16,  K_BF16, K_Q4_0, K_Q4_1, K_Q5_0, K_Q5_1,
                                         K_Q8_0, K_Q2_K, K_Q3_K, K_Q4_K, K_Q5_K, K_Q6_K};
enum { CASE_TYPES = sizeof case_types / sizeof *case_types };

struct case_mm {
    uint32_t rows, cols;
    bool model; /* a shape of SmolLM2-135M: timed by the benchmark */
};
static const struct case_mm case_mm[] = {
    {1, 32, false},     {3, 256, false},  {8, 64, false},    {13, 96, false},
    {16, 576, false},   {70, 256, false}, {33, 512, false},  {40, 1536, false},
    {576, 576, true},   {192, 576, true}, {1536, 576, true}, {576, 1536, true},
    {49152, 576, true},
};
enum { CASE_MM = sizeof case_mm / sizeof *case_mm };

struct case_attn {
    uint32_t n_head, n_kv_head, dim;
    uint32_t past, n; /* the step's tokens follow `past` stored ones */
    uint32_t window;
    uint8_t fmt;
    bool model;
};
static const struct case_attn case_attn[] = {
    {1, 1, 8, 0, 1, 0, K_ROW_F16, false},       {3, 1, 64, 0, 5, 0, K_ROW_F16, false},
    {9, 3, 64, 255, 3, 0, K_ROW_F16, false},    {9, 3, 64, 256, 1, 0, K_ROW_F16, false},
    {4, 4, 40, 511, 2, 0, K_ROW_F16, false},    {4, 2, 24, 250, 300, 0, K_ROW_F16, false},
    {4, 1, 128, 700, 9, 100, K_ROW_F16, false}, {2, 2, 64, 300, 70, 256, K_ROW_F32, false},
    {8, 2, 48, 500, 1, 0, K_ROW_F32, false},    {8, 4, 96, 300, 1, 90, K_ROW_F16, false},
    {8, 8, 16, 600, 17, 1, K_ROW_F16, false},   {10, 2, 16, 30, 40, 0, K_ROW_F16, false},
    {7, 1, 24, 250, 20, 9, K_ROW_F32, false},   {9, 3, 64, 0, 512, 0, K_ROW_F16, true},
    {9, 3, 64, 511, 1, 0, K_ROW_F16, true},     {9, 3, 64, 8191, 1, 0, K_ROW_F16, true},
    {9, 3, 64, 7680, 512, 0, K_ROW_F16, true},
};
enum { CASE_ATTN = sizeof case_attn / sizeof *case_attn };

/* --- inputs ---------------------------------------------------------------------------- */
static inline uint64_t case_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x9e3779b97f4a7c15u;
}
static inline float case_unit(uint64_t *s) /* [-1, 1) */
{
    return (float)(int32_t)(case_next(s) >> 32) * 0x1p-31f;
}

/* Roughly normal numbers, with what rounding trips over strewn in by 32s. */
static inline void case_floats(uint64_t *s, float *p, size_t n)
{
    uint32_t kind = 0;
    for (size_t i = 0; i < n; i++) {
        if (i % 32 == 0)
            kind = (uint32_t)(case_next(s) >> 60);
        p[i] = case_unit(s) + case_unit(s) + case_unit(s);
        if (kind == 0)
            p[i] = 0;
        if (kind == 1 && i % 32 == 7)
            p[i] *= 300; /* an outlier flattens its unit */
        if (kind == 2)   /* ties: halves of the step 1 / 127 */
            p[i] = i % 32 == 0 ? 1.f : (float)(int)(case_next(s) >> 57) * (0.5f / 127) - .25f;
        if (kind == 3)
            p[i] *= 0x1p-120f;
    }
}

static inline size_t case_row_bytes(enum k_type t, uint32_t cols)
{
    return (size_t)cols / k_type_info(t)->block * k_type_info(t)->block_bytes;
}

/* A matrix as a GGUF stores it: any code, scales of weights around 0.05, signs mixed. */
static inline void *case_weight(uint64_t *s, enum k_type t, uint32_t rows, uint32_t cols)
{
    const struct k_type_info *ti = k_type_info(t);
    size_t blocks = (size_t)rows * cols / ti->block, bytes = blocks * ti->block_bytes;
    uint32_t at = t == K_Q2_K ? 80 : t == K_Q3_K ? 108 : t == K_Q6_K ? 208 : 0;
    float step = ti->block == 256 ? 0.0005f : t == K_Q8_0 ? 0.001f : 0.01f;
    uint8_t *p = malloc(bytes + 8);
    bool clip = false;

    if (!p)
        abort();
    for (size_t i = 0; i + 8 <= bytes + 8; i += 8) {
        uint64_t v = case_next(s);
        memcpy(p + (i < bytes ? i : 0), &v, 8);
    }
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *q = p + b * ti->block_bytes;
        float f = case_unit(s) * 0.1f;
        uint16_t d = num_to_f16(step * (1 + case_unit(s) * .5f) * (b % 5 ? 1 : -1), &clip),
                 m = num_to_f16(step * 7 * case_unit(s), &clip);
        if (b % 17 == 3)
            d = 0;
        if (b % 19 == 4)
            d = 0x0123; /* subnormal */
        if (t == K_F32)
            memcpy(q, &f, 4);
        else if (t == K_F16 || t == K_BF16)
            d = t == K_F16 ? num_to_f16(f, &clip) : (uint16_t)(num_bits(f) >> 16),
            memcpy(q, &d, 2);
        else
            memcpy(q + at, &d, 2);
        if (k_unit_info(t)->min)
            memcpy(q + at + 2, &m, 2);
    }
    return p;
}

/* Normalised mean squared error of got against want; 1e9 when something is not a number. */
static inline double case_nmse(const float *want, const float *got, size_t n)
{
    double e = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)want[i] - got[i];
        if (!(d > -1e30 && d < 1e30))
            return 1e9;
        e += d * d;
        w += (double)want[i] * want[i];
    }
    return w > 0 ? e / w : e > 0 ? 1e9 : 0;
}

/* A cache of one layer: pages in shuffled order in a pool, K then V, as GQA lays them out. */
struct case_cache {
    void *pool;
    uint64_t page_bytes;
    struct k_rows k, v;
    uint32_t *pages, n_pages;
};
static inline uint64_t case_page_bytes(const struct case_attn *c)
{
    return 2ull * c->n_kv_head * BLOCK_TOKENS * c->dim * (c->fmt == K_ROW_F32 ? 4 : 2);
}
static inline void case_cache_init(struct case_cache *r, const struct kern_ops *ops,
                                   struct kern *k, const struct case_attn *c, uint64_t *s)
{
    uint32_t row = c->dim * (c->fmt == K_ROW_F32 ? 4 : 2);
    r->n_pages = (c->past + c->n + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    r->page_bytes = case_page_bytes(c);
    r->pool = ops->alloc(k, r->page_bytes * (r->n_pages + 1));
    r->pages = malloc(r->n_pages * sizeof *r->pages);
    if (!r->pool || !r->pages)
        abort();
    for (uint32_t i = 0; i < r->n_pages; i++) { /* shuffled; page 0 stays unused */
        uint32_t j = (uint32_t)(case_next(s) % (i + 1));
        r->pages[i] = r->pages[j];
        r->pages[j] = i + 1;
        if (j == i)
            r->pages[i] = i + 1;
    }
    r->k = (struct k_rows){r->pool, r->page_bytes, 0, row, c->fmt, 1};
    r->v = r->k;
    r->v.off = r->page_bytes / 2;
}
static inline void case_cache_fini(struct case_cache *r, const struct kern_ops *ops,
                                   struct kern *k)
{
    ops->free(k, r->pool);
    free(r->pages);
}

#endif
