/* test_mm.c - matmul and feed-forward: against ref, against the twin, in any batch. */
#include "kernels/cpu/cpu.h"
#include "tests/kernels/cases.h"
#include "tests/t.h"
#include <errno.h>
#ifdef __x86_64__
#    include <immintrin.h>
#endif

static uint64_t seed(void)
{
    return 88172645463325252u;
}

static struct kern *open_with(const struct cpu_vec *vec, uint32_t threads)
{
    struct kern *k = NULL;
    struct errbuf eb;
    struct kern_opts o = {.threads = threads};
    int r = vec ? cpu_open_vec(&k, &o, vec, &eb) : kern_ref.open(&k, &o, &eb);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "open: %s", eb.s);
    return k;
}

static const struct kern_ops *ops_of(const struct kern *k)
{
    return *(const struct kern_ops *const *)(const void *)k;
}

/* One matmul from nothing: weight made, run, freed.  y must hold n * rows. */
static void mm_once(struct kern *k, const struct k_weight_src *src, enum k_residency res,
                    const float *x, float *y, uint32_t n, bool add)
{
    struct errbuf eb;
    struct k_weight *w = NULL;
    int r = ops_of(k)->weight(k, &w, src, K_USE_MATMUL, res, &eb);
    struct k_matmul m = {.w = {w}, .y = {y}, .n_w = 1, .x = x, .n = n, .add = add};
    if (r == 0)
        r = ops_of(k)->matmul(k, &m);
    CHECK_EQ(r, 0);
    ops_of(k)->weight_free(k, w);
}

/* The same with a handle that is made once. */
static void mm_with(struct kern *k, struct k_weight *w, const float *x, float *y, uint32_t n,
                    bool add)
{
    struct k_matmul m = {.w = {w}, .y = {y}, .n_w = 1, .x = x, .n = n, .add = add};
    CHECK_EQ(ops_of(k)->matmul(k, &m), 0);
}

static bool fits(enum k_type t, const struct case_mm *c)
{
    return c->cols % k_type_info(t)->block == 0;
}

static void each_type_and_shape_is_near_ref(void)
{
    uint64_t s = seed();
    struct kern *ref = open_with(NULL, 1), *cpu = open_with(cpu_vec_list()[0], 2);
    for (int t = 0; t < CASE_TYPES; t++)
        for (int i = 0; i < CASE_MM; i++) {
            const struct case_mm *c = &case_mm[i];
            uint32_t n = c->rows > 1000 ? 2 : 21;
            if (!fits(case_types[t], c) || c->rows > 2000)
                continue;
            void *d = case_weight(&s, case_types[t], c->rows, c->cols);
            struct k_weight_src src = {.name = "w",
                                       .data = d,
                                       .type = case_types[t],
                                       .rows = c->rows,
                                       .cols = c->cols};
            float *x = malloc((size_t)n * c->cols * 4), *a = malloc((size_t)n * c->rows * 4),
                  *b = malloc((size_t)n * c->rows * 4);
            case_floats(&s, x, (size_t)n * c->cols);
            mm_once(ref, &src, K_RES_RELAID, x, a, n, false);
            mm_once(cpu, &src, K_RES_RELAID, x, b, n, false);
            double e = case_nmse(a, b, (size_t)n * c->rows), zero = 0;
            for (size_t j = 0; j < (size_t)n * c->rows; j++)
                zero += (double)a[j] * a[j];
            if (e > 5e-6)
                t_fail(__FILE__, __LINE__, "%s %u x %u: NMSE %g",
                       k_type_info(case_types[t])->name, c->rows, c->cols, e);
            CHECK(zero > 0);
            free(d), free(x), free(a), free(b);
        }
    kern_ref.close(ref);
    kern_cpu.close(cpu);
}

/* The cpu set `vec`, n rows at once, against the C twin row by row. */
static void same_bits(const struct cpu_vec *vec, uint32_t threads, enum k_residency res)
{
    static const uint32_t shapes[][2] = {{1, 256},  {13, 512}, {70, 256}, {9, 1536},
                                         {24, 576}, {17, 32},  {15, 96},  {47, 256}};
    static const uint32_t counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 70};
    uint64_t s = seed() + threads;
    struct kern *twin = open_with(&cpu_vec_c, 1), *k = open_with(vec, threads);
    for (int t = 0; t < CASE_TYPES; t++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            uint32_t rows = shapes[i][0], cols = shapes[i][1], n = 70;
            if (cols % k_type_info(case_types[t])->block)
                continue;
            void *d = case_weight(&s, case_types[t], rows, cols);
            struct k_weight_src src = {
                .name = "w", .data = d, .type = case_types[t], .rows = rows, .cols = cols};
            float *x = malloc((size_t)n * cols * 4), *a = calloc((size_t)n * rows, 4),
                  *b = calloc((size_t)n * rows, 4);
            case_floats(&s, x, (size_t)n * cols);
            struct k_weight *wt = NULL, *w = NULL;
            CHECK_EQ(kern_cpu.weight(twin, &wt, &src, K_USE_MATMUL, K_RES_RELAID, NULL), 0);
            CHECK_EQ(kern_cpu.weight(k, &w, &src, K_USE_MATMUL, res, NULL), 0);
            for (uint32_t j = 0; j < n; j++)
                mm_with(twin, wt, x + j * cols, a + j * rows, 1, false);
            for (size_t m = 0; m < sizeof counts / sizeof *counts; m++) {
                memset(b, 0xaa, (size_t)n * rows * 4);
                mm_with(k, w, x, b, counts[m], false);
                if (memcmp(a, b, (size_t)counts[m] * rows * 4))
                    t_fail(__FILE__, __LINE__, "%s %s %u x %u, %u rows: other bits", vec->name,
                           k_type_info(case_types[t])->name, rows, cols, counts[m]);
                for (uint32_t j = counts[m] * rows; j < n * rows; j++)
                    if (num_bits(b[j]) != 0xaaaaaaaa) {
                        t_fail(__FILE__, __LINE__, "%s %s %u x %u, %u rows: written behind",
                               vec->name, k_type_info(case_types[t])->name, rows, cols,
                               counts[m]);
                        break;
                    }
            }
            for (uint32_t j = 0; j < n * rows; j++)
                b[j] = 1.5f; /* add: the old value comes first */
            mm_with(k, w, x, b, n, true);
            for (uint32_t j = 0; j < n * rows; j++)
                if (num_bits(b[j]) != num_bits(1.5f + a[j])) {
                    t_fail(__FILE__, __LINE__, "%s add: element %u", vec->name, j);
                    break;
                }
            kern_cpu.weight_free(twin, wt);
            kern_cpu.weight_free(k, w);
            free(d), free(x), free(a), free(b);
        }
    kern_cpu.close(twin);
    kern_cpu.close(k);
}

static void every_set_has_the_twins_bits(void)
{
    for (const struct cpu_vec *const *v = cpu_vec_list(); *v; v++)
        same_bits(*v, 1, K_RES_RELAID);
}
static void two_and_three_threads_change_no_bit(void)
{
    same_bits(cpu_vec_list()[0], 2, K_RES_RELAID);
    same_bits(cpu_vec_list()[0], 3, K_RES_RELAID);
}
static void mapped_weights_give_the_same_bits(void)
{
    same_bits(cpu_vec_list()[0], 2, K_RES_MAPPED);
}

static void qkv_at_once_equals_one_by_one(void)
{
    enum { COLS = 576, N = 6 };
    static const uint32_t rows[3] = {576, 192, 200};
    static const enum k_type types[3] = {K_Q4_1, K_Q8_0, K_F16};
    uint64_t s = seed();
    struct kern *k = open_with(cpu_vec_list()[0], 2);
    float *x = malloc(9 * COLS * 4), *all = calloc(N * 1000, 4), *one = malloc(N * 576 * 4),
          nv[COLS];
    uint32_t pick[N] = {8, 0, 3, 3, 5, 1};
    case_floats(&s, x, 9 * COLS);
    case_floats(&s, nv, COLS);
    struct k_weight *w[3] = {0}, *norm = NULL;
    void *d[3];
    struct k_weight_src ns = {.name = "n", .data = nv, .type = K_F32, .rows = 1, .cols = COLS};
    kern_cpu.weight(k, &norm, &ns, K_USE_VECTOR, K_RES_RELAID, NULL);
    struct k_matmul m = {.n_w = 3, .x = x, .norm = norm, .eps = 1e-5f, .rows = pick, .n = N};
    for (int i = 0; i < 3; i++) {
        d[i] = case_weight(&s, types[i], rows[i], COLS);
        struct k_weight_src src = {
            .name = "w", .data = d[i], .type = types[i], .rows = rows[i], .cols = COLS};
        kern_cpu.weight(k, &w[i], &src, K_USE_MATMUL, K_RES_RELAID, NULL);
        m.w[i] = w[i];
        m.y[i] = all + (i ? rows[0] + (i - 1) * rows[1] : 0);
        m.ldy[i] = 1000;
    }
    CHECK_EQ(kern_cpu.matmul(k, &m), 0);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < N; j++) {
            struct k_matmul a = {.w = {w[i]},
                                 .y = {one},
                                 .n_w = 1,
                                 .x = x + pick[j] * COLS,
                                 .norm = norm,
                                 .eps = 1e-5f,
                                 .n = 1};
            CHECK_EQ(kern_cpu.matmul(k, &a), 0);
            CHECK(!memcmp(one, m.y[i] + j * 1000, rows[i] * 4));
        }
    m.ldy[0] = 5;
    CHECK_EQ(kern_cpu.matmul(k, &m), -EINVAL);
    for (int i = 0; i < 3; i++)
        kern_cpu.weight_free(k, w[i]), free(d[i]);
    kern_cpu.weight_free(k, norm);
    free(x), free(all), free(one);
    kern_cpu.close(k);
}

static void ffn_once(struct kern *k, const enum k_type t[3], uint32_t cols, uint32_t hidden,
                     enum k_act act, const float *x, float *y, uint32_t n, uint64_t s)
{
    struct k_weight *w[3], *norm;
    void *d[3];
    float *nv = malloc(cols * 4);
    case_floats(&s, nv, cols);
    struct k_weight_src ns = {.name = "n", .data = nv, .type = K_F32, .rows = 1, .cols = cols};
    ops_of(k)->weight(k, &norm, &ns, K_USE_VECTOR, K_RES_RELAID, NULL);
    for (int i = 0; i < 3; i++) {
        uint32_t r = i == 2 ? cols : hidden, c = i == 2 ? hidden : cols;
        d[i] = case_weight(&s, t[i], r, c);
        struct k_weight_src src = {
            .name = "w", .data = d[i], .type = t[i], .rows = r, .cols = c};
        CHECK_EQ(ops_of(k)->weight(k, &w[i], &src, K_USE_MATMUL, K_RES_RELAID, NULL), 0);
    }
    struct k_ffn f = {.gate = w[0],
                      .up = w[1],
                      .down = w[2],
                      .norm = norm,
                      .eps = 1e-5f,
                      .act = act,
                      .x = x,
                      .y = y,
                      .n = n,
                      .add = true};
    CHECK_EQ(ops_of(k)->ffn(k, &f), 0);
    for (int i = 0; i < 3; i++)
        ops_of(k)->weight_free(k, w[i]), free(d[i]);
    ops_of(k)->weight_free(k, norm);
    free(nv);
}

static float start(size_t i)
{
    return (float)(i % 13) - 6;
}

static void feed_forward(const enum k_type t[3], uint32_t cols, uint32_t hidden, enum k_act act)
{
    enum { N = 300 };
    static const uint32_t cut[] = {0, 1, 5, 38, 294, N};
    uint64_t s = seed() + t[0] * 3 + act;
    struct kern *ref = open_with(NULL, 1), *twin = open_with(&cpu_vec_c, 1),
                *k = open_with(cpu_vec_list()[0], 2);
    float *x = malloc(N * cols * 4), *y = calloc(N * cols, 4), *z = calloc(N * cols, 4);
    for (size_t i = 0; i < N * cols; i++)
        x[i] = case_unit(&s) + case_unit(&s);
    for (size_t i = 0; i < N * cols; i++)
        y[i] = z[i] = start(i); /* what is there before is added to */
    for (size_t i = 0; i < sizeof cut / sizeof *cut - 1; i++)
        ffn_once(k, t, cols, hidden, act, x + cut[i] * cols, y + cut[i] * cols,
                 cut[i + 1] - cut[i], seed());
    ffn_once(k, t, cols, hidden, act, x, z, N, seed());
    CHECK(!memcmp(y, z, N * cols * 4));
    for (size_t i = 0; i < 20 * cols; i++)
        z[i] = start(i);
    ffn_once(twin, t, cols, hidden, act, x, z, 20, seed());
    CHECK(!memcmp(y, z, 20 * cols * 4));
    for (size_t i = 0; i < 20 * cols; i++)
        z[i] = start(i);
    ffn_once(ref, t, cols, hidden, act, x, z, 20, seed());
    /* The hidden row is rounded to int8 between the two halves: where a sum's last bit moves
     * it across a tie, one code differs by one. */
    for (size_t i = 0; i < 20 * cols; i++)
        y[i] -= start(i), z[i] -= start(i);
    double e = case_nmse(z, y, 20 * cols);
    if (e > 5e-6)
        t_fail(__FILE__, __LINE__, "%s: NMSE %g", k_type_info(t[0])->name, e);
    free(x), free(y), free(z);
    kern_ref.close(ref);
    kern_cpu.close(twin);
    kern_cpu.close(k);
}

static void feed_forward_any_chunk_same_bits_near_ref(void)
{
    feed_forward((const enum k_type[3]){K_Q4_1, K_Q4_1, K_Q4_1}, 64, 160, K_ACT_SILU);
    feed_forward((const enum k_type[3]){K_Q8_0, K_Q5_1, K_Q5_0}, 96, 224, K_ACT_GELU_TANH);
    feed_forward((const enum k_type[3]){K_Q4_K, K_F32, K_Q6_K}, 256, 256, K_ACT_SILU);
    feed_forward((const enum k_type[3]){K_F16, K_BF16, K_F32}, 50, 75, K_ACT_SILU);
}

static void one_bad_number_stays_in_its_row(void)
{
    enum { N = 9, COLS = 64, ROWS = 24 };
    uint64_t s = seed();
    struct kern *k = open_with(cpu_vec_list()[0], 2), *twin = open_with(&cpu_vec_c, 1);
    float *x = malloc(N * COLS * 4), *a = malloc(N * ROWS * 4), *b = malloc(N * ROWS * 4);
    void *d = case_weight(&s, K_Q4_1, ROWS, COLS);
    struct k_weight_src src = {
        .name = "w", .data = d, .type = K_Q4_1, .rows = ROWS, .cols = COLS};
    case_floats(&s, x, N * COLS);
    mm_once(k, &src, K_RES_RELAID, x, a, N, false);
    x[4 * COLS + 3] = __builtin_inff();
    x[6 * COLS + 9] = num_float(0x7fc00001);
    mm_once(k, &src, K_RES_RELAID, x, b, N, false);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < ROWS; j++)
            if (i == 4 || i == 6)
                CHECK(b[i * ROWS + j] != b[i * ROWS + j]);
            else
                CHECK(num_bits(a[i * ROWS + j]) == num_bits(b[i * ROWS + j]));
    mm_once(twin, &src, K_RES_RELAID, x, a, N, false);
    for (int j = 0; j < ROWS; j++)
        CHECK(a[4 * ROWS + j] != a[4 * ROWS + j]);
    free(x), free(a), free(b), free(d);
    kern_cpu.close(k);
    kern_cpu.close(twin);
}

/* A library that once set the rounding mode, or flushed subnormals, moves no bit; and the caller
 * gets his own mode back. */
static void a_caller_that_rounds_otherwise_gets_the_same_bits(void)
{
#ifdef __x86_64__
    enum { N = 9, COLS = 256, ROWS = 40 };
    uint64_t s = seed();
    void *d = case_weight(&s, K_Q4_K, ROWS, COLS);
    float *x = malloc(N * COLS * 4), *a = malloc(N * ROWS * 4), *b = malloc(N * ROWS * 4);
    struct k_weight_src src = {
        .name = "w", .data = d, .type = K_Q4_K, .rows = ROWS, .cols = COLS};
    uint32_t was = _mm_getcsr(), up = (was & ~0x6000u) | 0x4000 | 0x8040;
    case_floats(&s, x, N * COLS);
    for (uint32_t threads = 1; threads <= 2; threads++)
        for (uint32_t n = 1; n <= N; n += N - 1) { /* alone, and with the pool */
            struct kern *k = open_with(cpu_vec_list()[0], threads);
            mm_once(k, &src, K_RES_RELAID, x, a, n, false);
            _mm_setcsr(up);
            mm_once(k, &src, K_RES_RELAID, x, b, n, false);
            CHECK_EQ(_mm_getcsr() & ~0x3fu, up & ~0x3fu);
            _mm_setcsr(was);
            CHECK(!memcmp(a, b, n * ROWS * 4));
            kern_cpu.close(k);
        }
    free(x), free(a), free(b), free(d);
#endif
}

static void shapes_that_disagree_are_refused(void)
{
    uint64_t s = seed();
    struct kern *k = open_with(cpu_vec_list()[0], 1);
    struct errbuf eb = {""};
    struct k_weight *w = NULL, *v = NULL;
    void *d = case_weight(&s, K_Q4_0, 8, 64);
    struct k_weight_src
        bad = {.name = "blk.0.x", .data = d, .type = K_Q4_0, .rows = 8, .cols = 40},
        a = {.name = "a", .data = d, .type = K_Q4_0, .rows = 8, .cols = 64},
        b = {.name = "b", .data = d, .type = K_Q4_0, .rows = 8, .cols = 32},
        unk = {.name = "u", .data = d, .type = (enum k_type)4, .rows = 8, .cols = 32},
        none = {.name = "z", .data = d, .type = K_F32, .rows = 0, .cols = 32};
    CHECK_EQ(kern_cpu.weight(k, &w, &bad, K_USE_MATMUL, K_RES_RELAID, &eb), E_SHAPE);
    CHECK(strstr(eb.s, "blk.0.x") && strstr(eb.s, "40") && strstr(eb.s, "32"));
    CHECK_EQ(kern_cpu.weight(k, &w, &unk, K_USE_MATMUL, K_RES_RELAID, &eb), E_UNSUPP);
    CHECK_EQ(kern_cpu.weight(k, &w, &none, K_USE_MATMUL, K_RES_RELAID, &eb), E_SHAPE);
    CHECK(w == NULL);
    CHECK_EQ(kern_cpu.weight(k, &w, &a, K_USE_MATMUL, K_RES_RELAID, &eb), 0);
    CHECK_EQ(kern_cpu.weight(k, &v, &b, K_USE_MATMUL, K_RES_RELAID, &eb), 0);
    float x[64] = {0}, y[64];
    struct k_matmul m = {.w = {w, v}, .y = {y, y}, .n_w = 2, .x = x, .n = 1};
    CHECK_EQ(kern_cpu.matmul(k, &m), -EINVAL);
    m.n_w = 0;
    CHECK_EQ(kern_cpu.matmul(k, &m), -EINVAL);
    kern_cpu.weight_free(k, w);
    kern_cpu.weight_free(k, v);
    kern_cpu.weight_free(k, NULL);
    free(d);
    kern_cpu.close(k);
}

T_MAIN({"each_type_and_shape_is_near_ref", each_type_and_shape_is_near_ref},
       {"every_set_has_the_twins_bits", every_set_has_the_twins_bits},
       {"two_and_three_threads_change_no_bit", two_and_three_threads_change_no_bit},
       {"mapped_weights_give_the_same_bits", mapped_weights_give_the_same_bits},
       {"qkv_at_once_equals_one_by_one", qkv_at_once_equals_one_by_one},
       {"feed_forward_any_chunk_same_bits_near_ref", feed_forward_any_chunk_same_bits_near_ref},
       {"one_bad_number_stays_in_its_row", one_bad_number_stays_in_its_row},
       {"a_caller_that_rounds_otherwise_gets_the_same_bits",
        a_caller_that_rounds_otherwise_gets_the_same_bits},
       {"shapes_that_disagree_are_refused", shapes_that_disagree_are_refused})
