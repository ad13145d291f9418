/* epoch.c - the numerics epoch: a digest of what this build on this machine computes.
 *
 * A fixed battery of every operation, small enough for a start-up, its output bits folded
 * into 64 bits.  All instruction sets give the same bits, so they share an epoch; a compiler
 * or a change of code that rounds otherwise is another one, and stored rows of the old one
 * are then not mixed with new ones. */
#include "base/check.h"
#include "kernels/cpu/cpu.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 72, COLS = 256, TOKENS = 19, DIM = 32, PAST = 300, BLOCKS = 2 };
struct battery {
    struct kern *k;
    uint64_t random, digest;
    struct k_weight *w[3], *norm;
    float *x, *y, *q;
    void *pool;
    int r;
};

static uint64_t next(struct battery *t)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return t->random * 0x9e3779b97f4a7c15u;
}

static void fold(struct battery *t, const void *p, size_t bytes)
{
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t v;
        memcpy(&v, (const uint8_t *)p + i, 4);
        t->digest = (t->digest ^ v) * 0x100000001b3u;
        t->digest ^= t->digest >> 29;
    }
}

static void floats(struct battery *t, float *p, size_t n)
{
    for (size_t i = 0; i < n; i++) /* eighths of small integers, now and then an outlier */
        p[i] = (float)(int)(next(t) >> 40 & 63) / 8 - 4 + (next(t) % 97 == 0 ? 250 : 0);
}

/* Any bytes are codes and scales; the halves d and m must be small numbers. */
static struct k_weight *weight(struct battery *t, enum k_type type, uint32_t rows, uint32_t use)
{
    const struct k_type_info *ti = k_type_info(type);
    uint32_t blocks = rows * COLS / ti->block, at = 0;
    struct k_weight *w = NULL;
    uint8_t *p = malloc((size_t)blocks * ti->block_bytes);

    if (!p) {
        t->r = -ENOMEM;
        return NULL;
    }
    for (size_t i = 0; i < (size_t)blocks * ti->block_bytes; i++)
        p[i] = (uint8_t)(next(t) >> 56);
    at = type == K_Q2_K ? 80 : type == K_Q3_K ? 108 : type == K_Q6_K ? 208 : 0;
    for (uint32_t b = 0; b < blocks; b++) {
        uint8_t *q = p + (size_t)b * ti->block_bytes;
        uint16_t d = (uint16_t)(0x2000 + (next(t) >> 54)); /* 2^-7 and up */
        float f = (float)(int)(next(t) >> 56) / 512 - .25f;
        if (type == K_F32)
            memcpy(q, &f, 4);
        else
            memcpy(q + at, &d, 2);
        if (k_unit_info(type)->min)
            memcpy(q + at + 2, &d, 2);
    }
    struct k_weight_src src = {
        .name = "epoch", .data = p, .type = type, .rows = rows, .cols = COLS};
    t->r = kern_cpu.weight(t->k, &w, &src, use, K_RES_RELAID, NULL);
    free(p);
    return w;
}

static void drop(struct battery *t)
{
    for (int i = 0; i < 3; i++) {
        cpu_weight_free(t->k, t->w[i]);
        t->w[i] = NULL;
    }
}

/* One type: a look-up, a normed matmul, and the feed-forward from it. */
static void run_type(struct battery *t, enum k_type type)
{
    int32_t ids[2] = {3, ROWS - 1};
    for (int i = 0; i < 3 && t->r == 0; i++)
        t->w[i] = weight(t, type, i < 2 ? COLS : ROWS, K_USE_MATMUL | K_USE_EMBED);
    struct k_embed e = {t->w[2], ids, t->y, 2};
    struct k_matmul m = {.w = {t->w[2]},
                         .y = {t->y + 2 * COLS},
                         .n_w = 1,
                         .x = t->x,
                         .norm = t->norm,
                         .eps = 1e-5f,
                         .n = TOKENS};
    struct k_ffn f = {.gate = t->w[0],
                      .up = t->w[1],
                      .down = t->w[2],
                      .norm = t->norm,
                      .eps = 1e-6f,
                      .act = type % 2 ? K_ACT_GELU_TANH : K_ACT_SILU,
                      .x = t->x,
                      .y = t->y + 2 * COLS,
                      .n = 3,
                      .add = true};
    if (t->r == 0)
        t->r = cpu_embed(t->k, &e);
    if (t->r == 0)
        t->r = cpu_matmul(t->k, &m);
    if (t->r == 0)
        t->r = cpu_ffn(t->k, &f);
    if (t->r == 0)
        fold(t, t->y, (2 * COLS + TOKENS * ROWS) * 4);
    drop(t);
}

/* Rotation into pages out of order, then attention across the edge of a block. */
static void run_attn(struct battery *t, enum k_row fmt)
{
    static const float freq[DIM / 2] = {1, .5f, .25f, .1f, .05f, .01f, .003f, .001f};
    static const uint32_t pages[BLOCKS] = {1, 0};
    uint32_t row = fmt == K_ROW_F32 ? DIM * 4 : DIM * 2;
    struct k_rows k = {t->pool, 2ull * 2 * BLOCK_TOKENS * DIM * 4, 0, row, (uint8_t)fmt, 1},
                  v = k;
    struct k_seq s = {0, PAST, 0, 0, pages, BLOCKS};
    v.off = 2ull * BLOCK_TOKENS * row;
    struct k_rope_store ro = {.q = t->q,
                              .k = t->x,
                              .v = t->x + 2 * DIM * PAST,
                              .n_head = 4,
                              .n_kv_head = 2,
                              .head_dim = DIM,
                              .rope_dims = DIM / 2,
                              .kind = fmt == K_ROW_F32 ? K_ROPE_HALVES : K_ROPE_PAIRS,
                              .inv_freq = freq,
                              .mscale = 1,
                              .krows = k,
                              .vrows = v,
                              .seq = &s,
                              .n_seqs = 1};
    floats(t, t->q, 4 * DIM * PAST);
    floats(t, t->x, 4 * DIM * PAST);
    if (t->r == 0)
        t->r = cpu_rope_store(t->k, &ro);
    s.first = PAST - 4, s.n = 4, s.pos = PAST - 4;
    struct k_attn at = {.q = t->q,
                        .y = t->y,
                        .n_head = 4,
                        .n_kv_head = 2,
                        .head_dim = DIM,
                        .scale = .17f,
                        .src = {{.k = k, .v = v, .window = 290}},
                        .n_src = 1,
                        .seq = &s,
                        .n_seqs = 1};
    if (t->r == 0)
        t->r = cpu_attn(t->k, &at);
    if (t->r == 0)
        fold(t, t->y + (size_t)s.first * 4 * DIM, 4 * 4 * DIM * 4);
}

int cpu_epoch(struct kern *kern, uint64_t *ret)
{
    static const enum k_type types[] = {K_F32,  K_Q4_0, K_Q4_1, K_Q5_0, K_Q5_1, K_Q8_0,
                                        K_Q2_K, K_Q3_K, K_Q4_K, K_Q5_K, K_Q6_K};
    struct kern_cpu *k = (struct kern_cpu *)kern;
    struct battery t = {.k = kern, .random = 88172645463325252u, .digest = 0xcbf29ce484222325u};
    uint64_t clipped = k->saturations;
    size_t n = 4 * DIM * PAST;

    t.x = kern_cpu.alloc(kern, n * 4);
    t.y = kern_cpu.alloc(kern, n * 4);
    t.q = kern_cpu.alloc(kern, n * 4);
    t.pool = kern_cpu.alloc(kern, 2ull * BLOCKS * 2 * BLOCK_TOKENS * DIM * 4);
    t.r = t.x && t.y && t.q && t.pool ? 0 : -ENOMEM;
    if (t.r == 0)
        floats(&t, t.x, n);
    if (t.r == 0)
        t.norm = weight(&t, K_F32, 1, K_USE_VECTOR);
    for (size_t i = 0; i < sizeof types / sizeof *types && t.r == 0; i++)
        run_type(&t, types[i]);
    if (t.r == 0)
        run_attn(&t, K_ROW_F16);
    if (t.r == 0)
        run_attn(&t, K_ROW_F32);
    cpu_weight_free(kern, t.norm);
    kern_cpu.free(kern, t.x);
    kern_cpu.free(kern, t.y);
    kern_cpu.free(kern, t.q);
    kern_cpu.free(kern, t.pool);
    k->saturations = clipped; /* the battery's own are no news */
    if (t.r == 0)
        *ret = t.digest;
    return t.r;
}
