/* test_ops.c - look-up, norm, epoch, memory; the pool and its shares. */
#include "kernels/cpu/cpu.h"
#include "tests/kernels/cases.h"
#include "tests/t.h"
#include <errno.h>

static struct kern *open_with(const struct cpu_vec *vec, uint32_t threads)
{
    struct kern *k = NULL;
    struct kern_opts o = {.threads = threads};
    CHECK_EQ(vec ? cpu_open_vec(&k, &o, vec, NULL) : kern_ref.open(&k, &o, NULL), 0);
    return k;
}

static void tied_and_plain_embeddings_give_the_stored_row(void)
{
    const struct kern_ops *ops[2] = {&kern_ref, &kern_cpu};
    static const uint32_t uses[] = {K_USE_EMBED, K_USE_EMBED | K_USE_MATMUL};
    enum { ROWS = 30, COLS = 512, N = 12 };
    int32_t ids[N] = {0, 29, 3, 3, 17, 8, 9, 1, 2, 28, 11, 7};
    uint64_t s = 3;
    for (int b = 0; b < 2; b++)
        for (int t = 0; t < CASE_TYPES; t++)
            for (int u = 0; u < 4; u++) {
                struct kern *k = open_with(b ? cpu_vec_list()[0] : NULL, 2);
                void *d = case_weight(&s, case_types[t], ROWS, COLS);
                struct k_weight_src src = {
                    .name = "w", .data = d, .type = case_types[t], .rows = ROWS, .cols = COLS};
                struct k_weight *w;
                float y[N * COLS], want[COLS];
                struct k_embed e = {.ids = ids, .y = y, .n = N};
                CHECK_EQ(ops[b]->weight(k, &w, &src, uses[u % 2],
                                        u < 2 ? K_RES_RELAID : K_RES_MAPPED, NULL),
                         0);
                e.w = w;
                CHECK_EQ(ops[b]->embed(k, &e), 0);
                for (int i = 0; i < N; i++) {
                    k_dequant_row(case_types[t],
                                  (uint8_t *)d + ids[i] * case_row_bytes(case_types[t], COLS),
                                  want, COLS);
                    CHECK(!memcmp(want, y + i * COLS, sizeof want));
                }
                ids[4] = ROWS;
                CHECK_EQ(ops[b]->embed(k, &e), -EINVAL);
                ids[4] = -1;
                CHECK_EQ(ops[b]->embed(k, &e), -EINVAL);
                ids[4] = 17;
                ops[b]->weight_free(k, w);
                ops[b]->close(k);
                free(d);
            }
}

/* A source that is read instead of lying in memory; its n-th read fails, -1: none does. */
struct reader {
    const uint8_t *data;
    uint64_t bytes;
    int fail_at, calls; /* calls: atomic, workers read at once */
};
static int read_some(void *ctx, uint64_t off, void *to, uint64_t bytes, struct errbuf *eb)
{
    struct reader *d = ctx;
    int n = __atomic_fetch_add(&d->calls, 1, __ATOMIC_RELAXED);

    if (n == d->fail_at)
        return err_set(eb, -EIO, "read %d failed", n);
    CHECK(off <= d->bytes && bytes <= d->bytes - off);
    memcpy(to, d->data + off, bytes);
    return 0;
}

/* Rows of a weight as looked up, or y of a vector's norm: what a handle holds, as floats. */
static void shown(const struct kern_ops *ops, struct kern *k, struct k_weight *w, uint32_t use,
                  uint32_t rows, uint32_t cols, float *y)
{
    if (use & K_USE_VECTOR) {
        for (uint32_t i = 0; i < cols; i++)
            y[i] = (float)(i % 7) - 3;
        struct k_norm n = {.w = w, .x = y, .y = y + cols, .eps = 1, .n = 1, .cols = cols};
        CHECK_EQ(ops->norm(k, &n), 0);
        return;
    }
    for (int32_t i = 0; i < (int32_t)rows; i++) {
        struct k_embed e = {.w = w, .ids = &i, .y = y + (size_t)i * cols, .n = 1};
        CHECK_EQ(ops->embed(k, &e), 0);
    }
}

/* Each read of a source fails once, and ends weight() with its words; when none does, the
 * weight holds what it would have from memory. */
static void a_source_may_be_read_and_may_fail_at_any_read(void)
{
    static const struct {
        uint32_t use, rows, cols;
    } t[] = {{K_USE_MATMUL | K_USE_EMBED, 1003, 512},
             {K_USE_EMBED, 37, 512},
             {K_USE_VECTOR, 1, 512}};
    enum { FLOATS = 1003 * 512 };
    float *a = calloc(FLOATS, 4), *b = calloc(FLOATS, 4);
    uint64_t s = 11;

    for (int i = 0; i < 2 * CASE_TYPES * 3; i++) {
        const struct kern_ops *ops = i % 2 ? &kern_cpu : &kern_ref;
        uint32_t ty = case_types[i / 2 % CASE_TYPES], u = i / 2 / CASE_TYPES;
        struct kern *k = open_with(i % 2 ? cpu_vec_list()[0] : NULL, 2);
        void *d = case_weight(&s, ty, t[u].rows, t[u].cols);
        struct reader rd = {d, t[u].rows * case_row_bytes(ty, t[u].cols), 0, 0};
        struct k_weight_src mem = {.name = "w",
                                   .data = d,
                                   .type = ty,
                                   .rows = t[u].rows,
                                   .cols = t[u].cols},
                            src = mem;
        struct k_weight *w = NULL;
        struct errbuf eb;

        src.data = NULL, src.read = read_some, src.ctx = &rd;
        CHECK_EQ(ops->weight(k, &w, &mem, t[u].use, K_RES_RELAID, NULL), 0);
        shown(ops, k, w, t[u].use, t[u].rows, t[u].cols, a);
        ops->weight_free(k, w);
        CHECK_EQ(ops->weight(k, &w, &src, t[u].use, K_RES_MAPPED, &eb), -EINVAL);
        /* The oracle reads row by row: some of its thousand reads do. */
        for (int n = 0, r = -EIO; r < 0; n += ops == &kern_ref ? 1 + n / 2 : 1) {
            char words[32];
            eb.s[0] = 0, w = NULL, rd.calls = 0, rd.fail_at = n;
            r = ops->weight(k, &w, &src, t[u].use, K_RES_RELAID, &eb);
            snprintf(words, sizeof words, "read %d failed", n);
            if (r < 0 ? r != -EIO || w || strcmp(eb.s, words) : rd.calls > n)
                t_fail(__FILE__, __LINE__, "case %d, read %d: %d '%s'", i, n, r, eb.s);
        }
        shown(ops, k, w, t[u].use, t[u].rows, t[u].cols, b);
        CHECK(memcmp(a, b, FLOATS * 4) == 0);
        CHECK_EQ(ops->weight_need(ty, t[u].rows, t[u].cols, t[u].use), ops->weight_bytes(w));
        CHECK(ops->weight_need(ty, 1ull << 60, 1ull << 40, t[u].use) == UINT64_MAX ||
              (t[u].use & K_USE_VECTOR));
        ops->weight_free(k, w);
        ops->close(k);
        free(d);
    }
    free(a);
    free(b);
}

static void norms_of_any_width_are_near_ref_with_the_twins_bits(void)
{
    static const uint32_t widths[] = {1, 7, 8, 31, 32, 64, 100, 576, 2048};
    struct kern *ref = open_with(NULL, 1), *twin = open_with(&cpu_vec_c, 1);
    uint64_t s = 5;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        uint32_t c = widths[i], n = 11;
        float *x = malloc(n * c * 4), *v = malloc(c * 4), *y[3];
        case_floats(&s, x, n * c);
        for (uint32_t j = 0; j < n * c; j++)
            x[j] += .01f;
        for (uint32_t j = 0; j < c; j++)
            v[j] = 1 + case_unit(&s);
        for (int b = 0; b < 3; b++)
            y[b] = malloc(n * c * 4);
        for (const struct cpu_vec *const *set = cpu_vec_list(); *set; set++) {
            struct kern *ks[3] = {ref, twin, open_with(*set, 3)};
            for (int b = 0; b < 3; b++) {
                const struct kern_ops *ops = b ? &kern_cpu : &kern_ref;
                struct k_weight_src src = {
                    .name = "n", .data = v, .type = K_F32, .rows = 1, .cols = c};
                struct k_weight *w;
                CHECK_EQ(ops->weight(ks[b], &w, &src, K_USE_VECTOR, K_RES_RELAID, NULL), 0);
                struct k_norm a = {w, x, y[b], i % 2 ? 0.5f : 1e-5f, n, c};
                CHECK_EQ(ops->norm(ks[b], &a), 0);
                a.cols++;
                CHECK_EQ(ops->norm(ks[b], &a), -EINVAL);
                ops->weight_free(ks[b], w);
            }
            kern_cpu.close(ks[2]);
            CHECK(case_nmse(y[0], y[1], n * c) < 1e-12);
            CHECK(!memcmp(y[1], y[2], n * c * 4));
        }
        for (int b = 0; b < 3; b++)
            free(y[b]);
        free(x), free(v);
    }
    kern_ref.close(ref);
    kern_cpu.close(twin);
}

static void every_set_and_thread_count_shares_one_epoch(void)
{
    uint64_t want = 0, got = 0;
    struct kern *k = open_with(&cpu_vec_c, 1);
    CHECK_EQ(kern_cpu.epoch(k, &want), 0);
    kern_cpu.close(k);
    CHECK(want != 0);
    for (const struct cpu_vec *const *v = cpu_vec_list(); *v; v++)
        for (uint32_t t = 1; t <= 3; t++) {
            k = open_with(*v, t);
            CHECK_EQ(kern_cpu.epoch(k, &got), 0);
            CHECK_EQ(got, want);
            CHECK_EQ(kern_cpu.saturations(k), 0);
            kern_cpu.close(k);
        }
}

/* Kernels that now and then round otherwise, one at a time. */
static void nudge(float *y)
{
    *y = num_float(num_bits(*y) ^ 1);
}
static void odd_mm(const struct cpu_mm *a)
{
    cpu_vec_c.mm(a);
    nudge(a->y);
}
static enum k_type odd_type;
static void odd_mm_type(const struct cpu_mm *a)
{
    cpu_vec_c.mm(a);
    if (a->type == odd_type)
        nudge(a->y);
}
static void odd_quant(const float *x, struct cpu_xq *q, uint32_t units)
{
    cpu_vec_c.quant(x, q, units);
    q->q[3] ^= 1;
}
static void odd_rms(const float *x, const float *w, float *y, uint32_t cols, float eps)
{
    cpu_vec_c.rms(x, w, y, cols, eps);
    y[0] *= 1.01f;
}
static void odd_act(enum k_act f, const float *g, const float *u, float *h, uint32_t n)
{
    cpu_vec_c.act(f, g, u, h, n);
    h[n - 1] *= 1.01f;
}
static void odd_rotate(float *x, const float *cs, uint32_t dims, enum k_rope_kind kind)
{
    cpu_vec_c.rotate(x, cs, dims, kind);
    x[0] *= 1.01f;
}
static bool odd_store(uint8_t fmt, const float *x, void *to, uint32_t n)
{
    bool r = cpu_vec_c.store(fmt, x, to, n);
    ((uint8_t *)to)[1] ^= 1;
    return r;
}
static void odd_attn(struct cpu_attn_block *a)
{
    cpu_vec_c.attn_block(a);
    nudge(a->o);
}
static void odd_join(float *m, float *l, float *o, float bm, float bl, const float *bo,
                     uint32_t dim)
{
    cpu_vec_c.attn_join(m, l, o, bm, bl, bo, dim);
    nudge(o);
}

static uint64_t epoch_of(const struct cpu_vec *v)
{
    uint64_t e = 0;
    struct kern *k = open_with(v, 1);
    CHECK_EQ(kern_cpu.epoch(k, &e), 0);
    kern_cpu.close(k);
    return e;
}

static void a_kernel_that_rounds_otherwise_is_another_epoch(void)
{
    uint64_t was = epoch_of(&cpu_vec_c);
#define ODD(f, g)                                                                              \
    do {                                                                                       \
        struct cpu_vec v = cpu_vec_c;                                                          \
        v.f = g;                                                                               \
        if (epoch_of(&v) == was)                                                               \
            t_fail(__FILE__, __LINE__, "%s: the epoch does not show it", #g);                  \
    } while (0)
    ODD(mm, odd_mm);
    ODD(quant, odd_quant);
    ODD(rms, odd_rms);
    ODD(act, odd_act);
    ODD(rotate, odd_rotate);
    ODD(store, odd_store);
    ODD(attn_block, odd_attn);
    ODD(attn_join, odd_join);
    for (int i = 0; i < CASE_TYPES; i++) {
        odd_type = case_types[i];
        if (odd_type != K_F16 && odd_type != K_BF16) /* widened, then as F32 */
            ODD(mm, odd_mm_type);
    }
#undef ODD
    CHECK_EQ(epoch_of(&cpu_vec_c), was);
}

static void memory_is_zeroed_and_aligned(void)
{
    const struct kern_ops *ops[2] = {&kern_ref, &kern_cpu};
    static const uint64_t sizes[] = {1, 4096, 5000, 3 << 20};
    for (int b = 0; b < 2; b++) {
        struct kern *k = open_with(b ? cpu_vec_list()[0] : NULL, 1);
        for (int i = 0; i < 4; i++) {
            uint8_t *p = ops[b]->alloc(k, sizes[i]), back[4] = {9, 9, 9, 9};
            CHECK(p && (uintptr_t)p % IO_ALIGN == 0);
            for (uint64_t j = 0; j < sizes[i]; j++)
                if (p[j]) {
                    t_fail(__FILE__, __LINE__, "byte %llu is not zero", (unsigned long long)j);
                    break;
                }
            CHECK_EQ(ops[b]->up(k, p, "\1", 1), 0);
            CHECK_EQ(ops[b]->down(k, back, p, 1), 0);
            CHECK_EQ(back[0], 1);
            memset(p, 7, sizes[i]);
            ops[b]->free(k, p);
        }
        CHECK(ops[b]->alloc(k, UINT64_MAX - 5) == NULL);
        CHECK(ops[b]->alloc(k, 1ull << 62) == NULL);
        ops[b]->free(k, NULL);
        ops[b]->close(k);
        ops[b]->close(NULL);
    }
}

static void steps_above_the_reserve_still_run(void)
{
    enum { COLS = 64, ROWS = 16, N = 50 };
    uint64_t s = 1;
    struct kern *k = open_with(cpu_vec_list()[0], 2);
    void *d = case_weight(&s, K_Q8_0, ROWS, COLS);
    float x[N * COLS], y[N * ROWS], z[ROWS];
    struct k_weight_src src = {
        .name = "w", .data = d, .type = K_Q8_0, .rows = ROWS, .cols = COLS};
    struct k_weight *w;
    case_floats(&s, x, N * COLS);
    CHECK_EQ(kern_cpu.reserve(k, 1, 32, 100), 0);
    CHECK_EQ(kern_cpu.weight(k, &w, &src, K_USE_MATMUL, K_RES_RELAID, NULL), 0);
    struct k_matmul m = {.w = {w}, .y = {y}, .n_w = 1, .x = x, .n = N}, one = m;
    CHECK_EQ(kern_cpu.matmul(k, &m), 0);
    one.y[0] = z, one.n = 1, one.x = x + 49 * COLS;
    CHECK_EQ(kern_cpu.matmul(k, &one), 0);
    CHECK(!memcmp(z, y + 49 * ROWS, sizeof z));
    m.n = 0;
    CHECK_EQ(kern_cpu.matmul(k, &m), 0);
    kern_cpu.weight_free(k, w);
    kern_cpu.close(k);
    free(d);
}

static void cuda_without_a_device_says_so(void)
{
    struct kern *k = NULL;
    struct errbuf eb = {""};
    CHECK(kern_cuda.open(&k, NULL, &eb) < 0);
    CHECK(k == NULL && strstr(eb.s, "CUDA"));
}

/* --- pool ---------------------------------------------------------------------------------- */
struct count {
    struct cpu_share share;
    uint8_t seen[1000];
    uint32_t calls;
};
static void count_some(void *ctx, uint32_t worker)
{
    struct count *c = ctx;
    uint32_t from, to;
    __atomic_fetch_add(&c->calls, 1, __ATOMIC_RELAXED);
    while (cpu_share_take(&c->share, worker, &from, &to))
        for (uint32_t i = from; i < to; i++)
            __atomic_fetch_add(&c->seen[i], 1, __ATOMIC_RELAXED);
}
static void shares_give_every_index_once(void)
{
    static struct count c;
    for (uint32_t threads = 1; threads <= 5; threads++) {
        struct cpu_pool *p = NULL;
        CHECK_EQ(cpu_pool_open(&p, threads, NULL), 0);
        for (uint32_t n = 0; n <= 1000; n = n * 2 + 1)
            for (uint32_t chunk = 1; chunk < 40; chunk = chunk * 3 + 1) {
                memset(&c, 0, sizeof c);
                cpu_share_init(&c.share, n, chunk, threads);
                cpu_pool_run(p, count_some, &c);
                CHECK(c.calls >= 1 && c.calls <= threads);
                for (uint32_t i = 0; i < 1000; i++)
                    if (c.seen[i] != (i < n)) {
                        t_fail(__FILE__, __LINE__,
                               "%u threads, n %u, chunk %u: %u seen %u times", threads, n,
                               chunk, i, c.seen[i]);
                        break;
                    }
            }
        cpu_pool_close(p);
    }
    struct errbuf eb;
    struct cpu_pool *p = NULL;
    CHECK_EQ(cpu_pool_open(&p, CPU_THREADS_MAX + 1, &eb), E_LIMIT);
    CHECK(strstr(eb.s, "257") && strstr(eb.s, "256"));
    CHECK_EQ(cpu_pool_open(&p, 0, NULL), 0);
    CHECK(cpu_pool_threads(p) >= 1);
    cpu_pool_close(p);
    cpu_pool_close(NULL);
}

T_MAIN({"tied_and_plain_embeddings_give_the_stored_row",
        tied_and_plain_embeddings_give_the_stored_row},
       {"a_source_may_be_read_and_may_fail_at_any_read",
        a_source_may_be_read_and_may_fail_at_any_read},
       {"norms_of_any_width_are_near_ref_with_the_twins_bits",
        norms_of_any_width_are_near_ref_with_the_twins_bits},
       {"every_set_and_thread_count_shares_one_epoch",
        every_set_and_thread_count_shares_one_epoch},
       {"a_kernel_that_rounds_otherwise_is_another_epoch",
        a_kernel_that_rounds_otherwise_is_another_epoch},
       {"memory_is_zeroed_and_aligned", memory_is_zeroed_and_aligned},
       {"steps_above_the_reserve_still_run", steps_above_the_reserve_still_run},
       {"cuda_without_a_device_says_so", cuda_without_a_device_says_so},
       {"shares_give_every_index_once", shares_give_every_index_once})
