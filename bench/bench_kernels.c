/* bench_kernels.c - hearth-bench kernels: this machine's ceilings, and each kernel's share.
 *
 * Ceilings are measured in the same run, with the same threads: bytes read per second from
 * memory, int8 and fp32 operations per second from registers.  A kernel's limit is the
 * smaller of the two that it could reach (roofline); cases are those of the tests, the ones
 * marked as model shapes (SmolLM2-135M).  Weights rotate through more memory than the last
 * cache holds, so that decode is timed as decode.
 *
 * Bytes: weights as laid out, once; K and V rows once.  Operations: 2 a multiply-add. */
#include "base/clock.h"
#include "bench/bench.h"
#include "kernels/cpu/cpu.h"
#include "tests/kernels/cases.h"
#include <errno.h>
#ifdef __x86_64__
#    include <immintrin.h>
#endif

enum { RUNS = 7 };
struct bench {
    uint32_t threads;
    const struct cpu_vec *vec;
    bool json;
    uint32_t n_out;
    const char *only;
    struct kern *k;
    double read_gbs, int_gops, fp_gflops; /* ceilings with these threads */
    char machine[96];
};

static void machine_name(char *out, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(out, size, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *p = strchr(line, ':');
        if (!strncmp(line, "model name", 10) && p) {
            p[strcspn(p, "\n")] = 0;
            snprintf(out, size, "%s", p + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static void put(struct bench *b, const char *name, const char *param, const char *metric,
                const char *unit, double median, double spread)
{
    if (b->json)
        printf("%s{\"name\":\"%s\",\"parameters\":\"%s\",\"threads\":%u,\"metric\":\"%s\","
               "\"unit\":\"%s\",\"median\":%.6g,\"spread\":%.3g,\"machine\":\"%s\"}",
               b->n_out ? ",\n" : "[\n", name, param, b->threads, metric, unit, median, spread,
               b->machine);
    else
        printf("%s\t%s t=%u\t%s\t%s\t%.5g\t%.3f\t%s\n", name, param, b->threads, metric, unit,
               median, spread, b->machine);
    b->n_out++;
    fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds per call of fn: median of RUNS, each long enough to be read off a clock. */
static double time_it(void (*fn)(void *), void *ctx, double *ret_spread)
{
    double s[RUNS];
    uint64_t t = now_ns();
    uint32_t n = 1;
    fn(ctx);
    double once = (double)(now_ns() - t) * 1e-9;
    while (n * once < 0.04 && n < 1u << 20)
        n *= 2;
    for (int i = 0; i < RUNS; i++) {
        t = now_ns();
        for (uint32_t j = 0; j < n; j++)
            fn(ctx);
        s[i] = (double)(now_ns() - t) * 1e-9 / n;
    }
    qsort(s, RUNS, sizeof *s, by_value);
    *ret_spread = (s[RUNS - 1] - s[0]) / s[RUNS / 2];
    return s[RUNS / 2];
}

/* --- ceilings ------------------------------------------------------------------------------ */
struct ceiling {
    struct cpu_pool *pool;
    uint8_t *p;
    uint64_t bytes;
    uint32_t threads;
    uint64_t sink[CPU_THREADS_MAX];
};

static void read_some(void *ctx, uint32_t w)
{
    struct ceiling *c = ctx;
    uint64_t part = c->bytes / c->threads / 256 * 256, s[4] = {0};
    const uint8_t *p = c->p + w * part;
    for (uint64_t i = 0; i < part; i += 256) {
#ifdef __x86_64__
        for (int j = 0; j < 256; j += 64)
            _mm_prefetch((const char *)p + i + 2048 + j, _MM_HINT_T0);
        __m128i a = _mm_setzero_si128();
        for (int j = 0; j < 256; j += 16)
            a = _mm_xor_si128(a, _mm_load_si128((const __m128i *)(p + i + j)));
        s[0] ^= (uint64_t)_mm_cvtsi128_si64(a);
#else
        for (int j = 0; j < 256; j += 8)
            s[j / 8 % 4] ^= *(const uint64_t *)(p + i + j);
#endif
    }
    c->sink[w] = s[0] ^ s[1] ^ s[2] ^ s[3];
}
static void read_all(void *ctx)
{
    cpu_pool_run(((struct ceiling *)ctx)->pool, read_some, ctx);
}

enum { LOOPS = 20000 };
#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void fp_some(void *ctx, uint32_t w)
{
    __m256 a[10], x = _mm256_set1_ps(1.0001f), y = _mm256_set1_ps(1e-9f);
#    pragma GCC unroll 10
    for (int j = 0; j < 10; j++)
        a[j] = _mm256_set1_ps((float)j);
    for (int i = 0; i < LOOPS; i++)
#    pragma GCC unroll 10
        for (int j = 0; j < 10; j++) {
            a[j] = _mm256_fmadd_ps(a[j], x, y);
            __asm__("" : "+x"(a[j]));
        }
#    pragma GCC unroll 10
    for (int j = 1; j < 10; j++)
        a[0] = _mm256_add_ps(a[0], a[j]);
    ((struct ceiling *)ctx)->sink[w] =
        (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(_mm256_castps_si256(a[0])));
}
/* The mix a 4-bit matmul is made of: 8 maddubs, 7 adds, then madd and an add. */
__attribute__((target("avx2"))) static void int_some(void *ctx, uint32_t w)
{
    __m256i a[4], u = _mm256_set1_epi8(11), v = _mm256_set1_epi8(-7),
                  one = _mm256_set1_epi16(1);
#    pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        a[j] = _mm256_setzero_si256();
    for (int i = 0; i < LOOPS; i++)
#    pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m256i s = _mm256_maddubs_epi16(u, v);
            for (int k = 1; k < 8; k++) {
                __asm__("" : "+x"(u));
                s = _mm256_add_epi16(s, _mm256_maddubs_epi16(u, v));
            }
            a[j] = _mm256_add_epi32(a[j], _mm256_madd_epi16(s, one));
        }
#    pragma GCC unroll 4
    for (int j = 1; j < 4; j++)
        a[0] = _mm256_add_epi32(a[0], a[j]);
    ((struct ceiling *)ctx)->sink[w] =
        (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(a[0]));
}
__attribute__((target("avx512f,avx512vnni"))) static void vnni_some(void *ctx, uint32_t w)
{
    __m512i a[8], u = _mm512_set1_epi8(11), v = _mm512_set1_epi8(-7);
#    pragma GCC unroll 8
    for (int j = 0; j < 8; j++)
        a[j] = _mm512_setzero_si512();
    for (int i = 0; i < LOOPS; i++)
#    pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            a[j] = _mm512_dpbusd_epi32(a[j], u, v);
            __asm__("" : "+v"(a[j]));
        }
#    pragma GCC unroll 8
    for (int j = 1; j < 8; j++)
        a[0] = _mm512_add_epi32(a[0], a[j]);
    ((struct ceiling *)ctx)->sink[w] =
        (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(a[0]));
}
#endif
struct run_all {
    struct ceiling *c;
    void (*some)(void *ctx, uint32_t w);
};
static void run_all(void *ctx)
{
    struct run_all *r = ctx;
    cpu_pool_run(r->c->pool, r->some, r->c);
}

static int ceilings(struct bench *b)
{
    struct ceiling *c = calloc(1, sizeof *c);
    struct errbuf eb;
    double spread;
    if (!c || cpu_pool_open(&c->pool, b->threads, &eb) < 0) {
        free(c);
        return -ENOMEM;
    }
    c->threads = cpu_pool_threads(c->pool);
    c->bytes = 256u << 20;
    c->p = kern_cpu.alloc(b->k, c->bytes + 8192);
    if (c->p) {
        memset(c->p, 1, c->bytes);
        b->read_gbs = (double)c->bytes * 1e-9 / time_it(read_all, c, &spread);
        put(b, "ceiling", "256 MiB", "read", "GB/s", b->read_gbs, spread);
        kern_cpu.free(b->k, c->p);
    }
#ifdef __x86_64__
    if (b->vec != &cpu_vec_c) {
        struct run_all r = {c, fp_some};
        b->fp_gflops = 10. * 8 * 2 * LOOPS * c->threads * 1e-9 / time_it(run_all, &r, &spread);
        put(b, "ceiling", "256-bit fma", "fp32", "GFLOP/s", b->fp_gflops, spread);
        bool vnni = b->vec == &cpu_vec_avx512;
        r.some = vnni ? vnni_some : int_some;
        double ops = vnni ? 8. * 64 * 2 : 4. * 8 * 32 * 2;
        b->int_gops = ops * LOOPS * c->threads * 1e-9 / time_it(run_all, &r, &spread);
        put(b, "ceiling", vnni ? "vpdpbusd 512" : "8 maddubs, madd", "int8", "GOP/s",
            b->int_gops, spread);
    }
#endif
    cpu_pool_close(c->pool);
    free(c);
    return 0;
}

/* Reports a rate of operations and of bytes, and the share of what bounds them. */
static void report(struct bench *b, const char *name, const char *param, double s,
                   double spread, double ops, double bytes, double ops_ceiling)
{
    double by_bytes = b->read_gbs > 0 ? bytes * 1e-9 / b->read_gbs : 0,
           by_ops = ops_ceiling > 0 ? ops * 1e-9 / ops_ceiling : 0;
    put(b, name, param, "time", "us", s * 1e6, spread);
    put(b, name, param, "rate", "Gop/s", ops * 1e-9 / s, spread);
    put(b, name, param, "read", "GB/s", bytes * 1e-9 / s, spread);
    if (by_bytes > 0 || by_ops > 0)
        put(b, name, param, by_bytes > by_ops ? "share of read" : "share of compute", "1",
            (by_bytes > by_ops ? by_bytes : by_ops) / s, spread);
}

/* --- matmul ------------------------------------------------------------------------------------ */
struct mm_bench {
    struct kern *k;
    struct k_weight **w;
    uint32_t n_w, at;
    struct k_matmul m;
    int r;
};
static void mm_call(void *ctx)
{
    struct mm_bench *m = ctx;
    m->m.w[0] = m->w[m->at];
    m->at = (m->at + 1) % m->n_w;
    m->r |= kern_cpu.matmul(m->k, &m->m);
}

static int bench_mm(struct bench *b, enum k_type t, const struct case_mm *c, uint32_t n)
{
    struct mm_bench m = {.k = b->k};
    uint64_t s = 1;
    char param[96];
    double spread;
    struct errbuf eb;

    if (c->cols % k_type_info(t)->block || (uint64_t)c->rows * c->cols * n > 4000000000u)
        return 0;
    void *data = case_weight(&s, t, c->rows, c->cols);
    struct k_weight_src src = {
        .name = "bench", .data = data, .type = t, .rows = c->rows, .cols = c->cols};
    uint64_t bytes = case_row_bytes(t, c->cols) * c->rows;
    m.n_w = n > 8 ? 1 : (uint32_t)((96u << 20) / bytes + 1);
    m.n_w = m.n_w > 400 ? 400 : m.n_w;
    m.w = calloc(m.n_w, sizeof *m.w);
    float *x = kern_cpu.alloc(b->k, (uint64_t)n * c->cols * 4),
          *y = kern_cpu.alloc(b->k, (uint64_t)n * c->rows * 4);
    int r = m.w && x && y ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < m.n_w && r == 0; i++)
        r = kern_cpu.weight(b->k, &m.w[i], &src, K_USE_MATMUL, K_RES_RELAID, &eb);
    if (r == 0) {
        case_floats(&s, x, (size_t)n * c->cols);
        m.m = (struct k_matmul){.y = {y}, .n_w = 1, .x = x, .n = n};
        snprintf(param, sizeof param, "%s %ux%u n=%u %s", k_type_info(t)->name, c->rows,
                 c->cols, n, b->vec->name);
        double ops = 2. * c->rows * c->cols * n, sec = time_it(mm_call, &m, &spread);
        report(b, "matmul", param, sec, spread, ops, (double)kern_cpu.weight_bytes(m.w[0]),
               k_unit_info(t)->bits ? b->int_gops : b->fp_gflops);
        r = m.r;
    }
    for (uint32_t i = 0; i < m.n_w && m.w; i++)
        kern_cpu.weight_free(b->k, m.w[i]);
    kern_cpu.free(b->k, x);
    kern_cpu.free(b->k, y);
    free(m.w);
    free(data);
    return r;
}

/* --- attention ----------------------------------------------------------------------------------- */
enum { LAYERS_MAX = 64 };
struct attn_bench {
    struct kern *k;
    struct k_attn a;
    struct case_cache layer[LAYERS_MAX]; /* more than the last cache holds, as in a model */
    uint32_t n_layers, next;
    int r;
};
static void attn_call(void *ctx)
{
    struct attn_bench *a = ctx;
    const struct case_cache *c = &a->layer[a->next++ % a->n_layers];

    a->a.src[0].k = c->k;
    a->a.src[0].v = c->v;
    a->r |= kern_cpu.attn(a->k, &a->a);
}

static int bench_attn(struct bench *b, const struct case_attn *c)
{
    struct attn_bench a = {.k = b->k};
    uint64_t s = 1, layer_bytes = case_page_bytes(c) * (c->past + c->n) / BLOCK_TOKENS;
    char param[96];
    double spread;
    size_t hq = (size_t)c->n_head * c->dim;

    for (; a.n_layers < LAYERS_MAX && a.n_layers * layer_bytes < 96u << 20; a.n_layers++) {
        struct case_cache *cc = &a.layer[a.n_layers];
        uint64_t same = 2; /* every layer has its pages at the same places */
        case_cache_init(cc, &kern_cpu, b->k, c, &same);
        uint16_t *rows = cc->pool;
        for (uint64_t i = 0; i < cc->page_bytes * (cc->n_pages + 1) / 2; i++)
            rows[i] = (uint16_t)(0x2c00 + (case_next(&s) >> 52) + (i & 1 ? 0x8000 : 0));
    }
    float *q = kern_cpu.alloc(b->k, c->n * hq * 4), *y = kern_cpu.alloc(b->k, c->n * hq * 4);
    int r = q && y ? 0 : -ENOMEM;
    if (r == 0) {
        struct k_seq seq = {0, c->n, c->past, 0, a.layer[0].pages, a.layer[0].n_pages};
        for (size_t i = 0; i < c->n * hq; i++)
            q[i] = case_unit(&s);
        a.a = (struct k_attn){.q = q,
                              .y = y,
                              .n_head = c->n_head,
                              .n_kv_head = c->n_kv_head,
                              .head_dim = c->dim,
                              .scale = .125f,
                              .src = {{.window = c->window}},
                              .n_src = 1,
                              .seq = &seq,
                              .n_seqs = 1};
        snprintf(param, sizeof param, "h=%u/%u d=%u past=%u n=%u %s", c->n_head, c->n_kv_head,
                 c->dim, c->past, c->n, b->vec->name);
        double pairs = (double)c->n * c->past + .5 * c->n * (c->n + 1.);
        double sec = time_it(attn_call, &a, &spread);
        report(b, "attn", param, sec, spread, 4. * pairs * hq,
               2. * (c->past + c->n) * c->n_kv_head * c->dim * 2, b->fp_gflops);
        r = a.r;
    }
    kern_cpu.free(b->k, q);
    kern_cpu.free(b->k, y);
    for (uint32_t i = 0; i < a.n_layers; i++)
        case_cache_fini(&a.layer[i], &kern_cpu, b->k);
    return r;
}

static int bench_all(struct bench *b)
{
    static const uint32_t counts[] = {1, 4, 512};
    struct kern_opts o = {.threads = b->threads};
    struct errbuf eb = {""};
    int r = cpu_open_vec(&b->k, &o, b->vec, &eb);
    if (r < 0) {
        fprintf(stderr, "hearth-bench: %s\n", eb.s);
        return r;
    }
    r = ceilings(b);
    for (int t = 0; t < CASE_TYPES && r == 0; t++)
        for (int i = 0; i < CASE_MM && r == 0; i++)
            for (size_t n = 0; n < 3 && r == 0; n++) {
                struct case_mm c = case_mm[i];
                bool block = k_type_info(case_types[t])->block == 256;
                if (!c.model || (c.rows > 2000 && n > 0))
                    continue;
                if (block) /* 576 columns do not carry K types: the nearest that do */
                    c.cols = c.cols == 576 ? 512 : c.cols;
                if (b->only && strcmp(b->only, k_type_info(case_types[t])->name))
                    continue;
                r = bench_mm(b, case_types[t], &c, counts[n]);
            }
    for (int i = 0; i < CASE_ATTN && r == 0; i++)
        if (case_attn[i].model && (!b->only || !strcmp(b->only, "attn")))
            r = bench_attn(b, &case_attn[i]);
    kern_cpu.close(b->k);
    return r;
}

static const char usage[] =
    "usage: hearth-bench kernels [--threads N] [--set NAME] [--only TYPE|attn] [--json]\n"
    "  --threads N   0: every physical core (default)\n"
    "  --set NAME    cpu-avx512, cpu-avx2, cpu-c; default: the best this machine has\n"
    "  --only X      one weight type (Q4_1 ...), or attn\n";

int bench_kernels(int argc, char **argv)
{
    struct bench b = {.vec = cpu_vec_list()[0]};
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--json")) {
            b.json = true;
        } else if (!strcmp(argv[i], "--threads") && v &&
                   strtoul(v, NULL, 10) <= CPU_THREADS_MAX) {
            b.threads = (uint32_t)strtoul(v, NULL, 10), i++;
        } else if (!strcmp(argv[i], "--only") && v) {
            b.only = v, i++;
        } else if (!strcmp(argv[i], "--set") && v) {
            const struct cpu_vec *const *l = cpu_vec_list();
            while (*l && strcmp((*l)->name, v))
                l++;
            if (!(b.vec = *l)) {
                fprintf(stderr, "hearth-bench: this machine has no kernel set %s\n", v);
                return 2;
            }
            i++;
        } else {
            fputs(usage, stderr);
            return strcmp(argv[i], "--help") ? 2 : 0;
        }
    }
    machine_name(b.machine, sizeof b.machine);
    if (!b.threads) { /* say the number, not "all" */
        struct cpu_pool *p = NULL;
        if (cpu_pool_open(&p, 0, NULL) == 0)
            b.threads = cpu_pool_threads(p);
        cpu_pool_close(p);
    }
    int r = bench_all(&b);
    if (b.json)
        puts(b.n_out ? "\n]" : "[]");
    if (r < 0)
        fprintf(stderr, "hearth-bench: kernels: %s\n", err_str(r));
    return r < 0 ? 1 : 0;
}
