/* test_attn.c - rotation, row store, attention: against ref, and the same bits however cut. */
#include "kernels/cpu/cpu.h"
#include "kernels/rows.h"
#include "tests/kernels/cases.h"
#include "tests/t.h"
#include <errno.h>

static const float freq[256] = {1.f, .75f, .5f, .3f, .2f, .1f, .05f, .03f, .01f, .003f, .001f};

struct run { /* one layer's worth of inputs, all tokens of a sequence */
    struct case_attn c;
    uint32_t total;
    float *q, *k, *v, *y;
};

static void run_init(struct run *r, const struct case_attn *c, uint64_t seed)
{
    r->c = *c;
    r->total = c->past + c->n;
    size_t nq = (size_t)r->total * c->n_head * c->dim,
           nk = (size_t)r->total * c->n_kv_head * c->dim;
    r->q = malloc(nq * 4), r->k = malloc(nk * 4), r->v = malloc(nk * 4), r->y = calloc(nq, 4);
    for (size_t i = 0; i < nq; i++)
        r->q[i] = 2 * (case_unit(&seed) + case_unit(&seed));
    for (size_t i = 0; i < nk; i++) {
        r->k[i] = 2 * (case_unit(&seed) + case_unit(&seed));
        r->v[i] = case_unit(&seed) * (i % 1001 ? 1 : 100);
    }
}
static void run_fini(struct run *r)
{
    free(r->q), free(r->k), free(r->v), free(r->y);
}

/* Tokens [from, from + n) of the run through rope_store and attn, as one sequence. */
static int step(const struct kern_ops *ops, struct kern *k, struct run *r,
                const struct case_cache *cc, const float *sink, uint32_t from, uint32_t n,
                bool attend)
{
    const struct case_attn *c = &r->c;
    size_t hq = (size_t)c->n_head * c->dim, hk = (size_t)c->n_kv_head * c->dim;
    uint32_t pages[256];
    memcpy(pages, cc->pages, cc->n_pages * 4);
    struct k_seq s = {0, n, from, 0, pages, cc->n_pages};
    float *q = malloc(n * hq * 4);
    memcpy(q, r->q + from * hq, n * hq * 4);
    struct k_rope_store ro = {.q = q,
                              .k = r->k + from * hk,
                              .v = r->v + from * hk,
                              .n_head = c->n_head,
                              .n_kv_head = c->n_kv_head,
                              .head_dim = c->dim,
                              .rope_dims = c->dim,
                              .kind = c->dim % 16 ? K_ROPE_HALVES : K_ROPE_PAIRS,
                              .inv_freq = freq,
                              .mscale = 1,
                              .krows = cc->k,
                              .vrows = cc->v,
                              .seq = &s,
                              .n_seqs = 1};
    int e = ops->rope_store(k, &ro);
    if (c->window) /* what is older than the window is not resident */
        for (uint32_t b = 0; (b + 1) * BLOCK_TOKENS + c->window <= from + 1; b++)
            pages[b] = K_PAGE_NONE;
    struct k_attn a = {.q = q,
                       .y = r->y + from * hq,
                       .n_head = c->n_head,
                       .n_kv_head = c->n_kv_head,
                       .head_dim = c->dim,
                       .scale = .125f,
                       .src = {{.k = cc->k, .v = cc->v, .window = c->window}},
                       .n_src = 1,
                       .sink = sink,
                       .seq = &s,
                       .n_seqs = 1};
    if (e == 0 && attend)
        e = ops->attn(k, &a);
    free(q);
    return e;
}

/* Everything in steps of `chunk` tokens; results of the case's last n tokens. */
static void through(const struct kern_ops *ops, struct kern *k, struct run *r, uint32_t chunk,
                    const float *sink)
{
    struct case_cache cc;
    uint64_t s = 12345;
    case_cache_init(&cc, ops, k, &r->c, &s);
    for (uint32_t at = 0; at < r->c.past; at += 256)
        CHECK_EQ(
            step(ops, k, r, &cc, sink, at, r->c.past - at < 256 ? r->c.past - at : 256, false),
            0);
    for (uint32_t at = r->c.past; at < r->total; at += chunk)
        CHECK_EQ(
            step(ops, k, r, &cc, sink, at, r->total - at < chunk ? r->total - at : chunk, true),
            0);
    case_cache_fini(&cc, ops, k);
}

static struct kern *open_with(const struct cpu_vec *vec, uint32_t threads)
{
    struct kern *k = NULL;
    struct kern_opts o = {.threads = threads};
    CHECK_EQ(vec ? cpu_open_vec(&k, &o, vec, NULL) : kern_ref.open(&k, &o, NULL), 0);
    return k;
}

static void each_case_is_near_ref(void)
{
    static const float sink[16] = {.5f, -3, 4, 0, 1, 2, 1, 1, 9};
    struct kern *ref = open_with(NULL, 1), *cpu = open_with(cpu_vec_list()[0], 2);
    for (int i = 0; i < CASE_ATTN; i++)
        for (int with = 0; with < 2; with++) {
            const struct case_attn *c = &case_attn[i];
            struct run r;
            if (c->past > 2000 || c->n > 400)
                continue;
            run_init(&r, c, 77 + i);
            size_t hq = (size_t)c->n_head * c->dim, at = c->past * hq, n = c->n * hq;
            float *want = malloc(n * 4);
            double sum = 0;
            through(&kern_ref, ref, &r, 512, with ? sink : NULL);
            memcpy(want, r.y + at, n * 4);
            memset(r.y, 0, r.total * hq * 4);
            through(&kern_cpu, cpu, &r, 512, with ? sink : NULL);
            double e = case_nmse(want, r.y + at, n);
            for (size_t j = 0; j < n; j++)
                sum += (double)want[j] * want[j];
            if (e > 5e-6)
                t_fail(__FILE__, __LINE__, "case %d, sink %d: NMSE %g", i, with, e);
            CHECK(sum > 0);
            free(want);
            run_fini(&r);
        }
    kern_ref.close(ref);
    kern_cpu.close(cpu);
}

static void prefill_and_decode_have_the_same_bits(void)
{
    static const uint32_t chunks[] = {1, 2, 7, 16, 17, 37, 256, 512};
    struct kern *k = open_with(cpu_vec_list()[0], 2);
    for (int i = 0; i < CASE_ATTN; i++) {
        const struct case_attn *c = &case_attn[i];
        struct run r;
        if (c->past > 2000 || c->n < 2)
            continue;
        run_init(&r, c, 99 + i);
        size_t hq = (size_t)c->n_head * c->dim, at = c->past * hq, n = c->n * hq;
        float *want = malloc(n * 4);
        for (size_t j = 0; j < sizeof chunks / sizeof *chunks; j++) {
            memset(r.y, 0xaa, r.total * hq * 4);
            through(&kern_cpu, k, &r, chunks[j], NULL);
            if (j == 0)
                memcpy(want, r.y + at, n * 4);
            else if (memcmp(want, r.y + at, n * 4))
                t_fail(__FILE__, __LINE__, "case %d, chunk %u: other bits", i, chunks[j]);
        }
        free(want);
        run_fini(&r);
    }
    kern_cpu.close(k);
}

static void every_set_and_thread_count_has_the_twins_bits(void)
{
    for (int i = 0; i < CASE_ATTN; i++) {
        const struct case_attn *c = &case_attn[i];
        struct run r;
        if (c->past > 1000 || c->n > 100)
            continue;
        run_init(&r, c, 5 + i);
        size_t hq = (size_t)c->n_head * c->dim, at = c->past * hq, n = c->n * hq;
        float *want = malloc(n * 4);
        struct kern *twin = open_with(&cpu_vec_c, 1);
        through(&kern_cpu, twin, &r, 512, NULL);
        memcpy(want, r.y + at, n * 4);
        kern_cpu.close(twin);
        for (const struct cpu_vec *const *v = cpu_vec_list(); *v; v++)
            for (uint32_t t = 1; t <= 3; t++) {
                struct kern *k = open_with(*v, t);
                memset(r.y, 0xaa, r.total * hq * 4);
                through(&kern_cpu, k, &r, 512, NULL);
                if (memcmp(want, r.y + at, n * 4))
                    t_fail(__FILE__, __LINE__, "case %d, %s, %u threads: other bits", i,
                           (*v)->name, t);
                kern_cpu.close(k);
            }
        free(want);
        run_fini(&r);
    }
}

/* Three sequences of different length and depth, alone and in one step. */
static void a_sequence_is_not_moved_by_its_neighbours(void)
{
    enum { N = 3, HEADS = 9, KV = 3, DIM = 64 };
    static const uint32_t past[N] = {300, 0, 511}, n[N] = {1, 40, 2};
    struct kern *k = open_with(cpu_vec_list()[0], 2);
    struct run r[N];
    struct case_cache cc[N];
    struct k_seq s[N + 1];
    float *q = malloc(43 * HEADS * DIM * 4), *y = malloc(43 * HEADS * DIM * 4);
    uint32_t first = 0;
    uint64_t seed = 4;
    /* One pool for all, as in an engine. */
    struct case_attn all = {HEADS, KV, DIM, 0, 256 * 6, 0, K_ROW_F16, false};
    struct case_cache pool;
    case_cache_init(&pool, &kern_cpu, k, &all, &seed);
    for (int i = 0, page = 0; i < N; i++) {
        struct case_attn c = {HEADS, KV, DIM, past[i], n[i], 0, K_ROW_F16, false};
        run_init(&r[i], &c, 1000 + i);
        cc[i] = pool;
        cc[i].pages = pool.pages + page;
        cc[i].n_pages = (past[i] + n[i] + 255) / 256;
        page += cc[i].n_pages;
        for (uint32_t at = 0; at < past[i]; at += 256)
            CHECK_EQ(step(&kern_cpu, k, &r[i], &cc[i], NULL, at,
                          past[i] - at < 256 ? past[i] - at : 256, false),
                     0);
        CHECK_EQ(step(&kern_cpu, k, &r[i], &cc[i], NULL, past[i], n[i], true), 0);
        s[i] = (struct k_seq){first, n[i], past[i], 0, cc[i].pages, cc[i].n_pages};
        memcpy(q + first * HEADS * DIM, r[i].q + (size_t)past[i] * HEADS * DIM,
               n[i] * HEADS * DIM * 4);
        first += n[i];
    }
    s[N] = (struct k_seq){first, 0, 0, 0, NULL, 0}; /* one with nothing to do */
    float *kk = malloc(43 * KV * DIM * 4), *vv = malloc(43 * KV * DIM * 4);
    for (int i = 0; i < N; i++) {
        memcpy(kk + s[i].first * KV * DIM, r[i].k + (size_t)past[i] * KV * DIM,
               n[i] * KV * DIM * 4);
        memcpy(vv + s[i].first * KV * DIM, r[i].v + (size_t)past[i] * KV * DIM,
               n[i] * KV * DIM * 4);
    }
    struct k_rope_store ro = {.q = q,
                              .k = kk,
                              .v = vv,
                              .n_head = HEADS,
                              .n_kv_head = KV,
                              .head_dim = DIM,
                              .rope_dims = DIM,
                              .kind = K_ROPE_PAIRS,
                              .inv_freq = freq,
                              .mscale = 1,
                              .krows = pool.k,
                              .vrows = pool.v,
                              .seq = s,
                              .n_seqs = N + 1};
    struct k_attn a = {.q = q,
                       .y = y,
                       .n_head = HEADS,
                       .n_kv_head = KV,
                       .head_dim = DIM,
                       .scale = .125f,
                       .src = {{.k = pool.k, .v = pool.v}},
                       .n_src = 1,
                       .seq = s,
                       .n_seqs = N + 1};
    CHECK_EQ(kern_cpu.rope_store(k, &ro), 0);
    CHECK_EQ(kern_cpu.attn(k, &a), 0);
    for (int i = 0; i < N; i++)
        CHECK(!memcmp(y + s[i].first * HEADS * DIM, r[i].y + (size_t)past[i] * HEADS * DIM,
                      n[i] * HEADS * DIM * 4));
    for (int i = 0; i < N; i++)
        run_fini(&r[i]);
    case_cache_fini(&pool, &kern_cpu, k);
    free(q), free(y), free(kk), free(vv);
    kern_cpu.close(k);
}

static void rows_below_store_from_are_not_written(void)
{
    struct kern *k = open_with(cpu_vec_list()[0], 1);
    struct case_attn c = {2, 1, 32, 0, 20, 0, K_ROW_F16, false};
    struct case_cache cc;
    struct run r;
    uint64_t seed = 9;
    run_init(&r, &c, 3);
    case_cache_init(&cc, &kern_cpu, k, &c, &seed);
    struct k_seq s = {0, 20, 0, 13, cc.pages, cc.n_pages};
    struct k_rope_store ro = {.q = r.q,
                              .k = r.k,
                              .v = r.v,
                              .n_head = 2,
                              .n_kv_head = 1,
                              .head_dim = 32,
                              .rope_dims = 32,
                              .kind = K_ROPE_PAIRS,
                              .inv_freq = freq,
                              .mscale = 1,
                              .krows = cc.k,
                              .vrows = cc.v,
                              .seq = &s,
                              .n_seqs = 1};
    uint8_t *page = (uint8_t *)cc.pool + cc.pages[0] * cc.page_bytes;
    memset(page, 0x5a, cc.page_bytes);
    CHECK_EQ(kern_cpu.rope_store(k, &ro), 0);
    for (int i = 0; i < 13 * 64; i++)
        if (page[i] != 0x5a) {
            t_fail(__FILE__, __LINE__, "byte %d of a shared row was written", i);
            break;
        }
    CHECK(page[13 * 64] != 0x5a || page[13 * 64 + 1] != 0x5a);
    CHECK(page[20 * 64] == 0x5a);
    s.n_pages = 0;
    CHECK_EQ(kern_cpu.rope_store(k, &ro), -EINVAL);
    case_cache_fini(&cc, &kern_cpu, k);
    run_fini(&r);
    kern_cpu.close(k);
}

static void clipped_rows_saturate_and_are_counted(void)
{
    const struct kern_ops *ops[2] = {&kern_ref, &kern_cpu};
    for (int b = 0; b < 2; b++) {
        struct kern *k = open_with(b ? cpu_vec_list()[0] : NULL, 2);
        struct case_attn c = {1, 1, 24, 0, 12, 0, K_ROW_F16, false};
        struct case_cache cc;
        struct run r;
        uint64_t seed = 9;
        uint16_t h;
        run_init(&r, &c, 3);
        memset(r.v, 0, 12 * 24 * 4);
        case_cache_init(&cc, ops[b], k, &c, &seed);
        r.v[2 * 24 + 1] = 1e6f;
        r.v[2 * 24 + 2] = -65519.f; /* rounds to -65504, not clipped */
        r.v[5 * 24 + 23] = -__builtin_inff();
        r.v[6 * 24 + 3] = 65520.f;
        r.k[9 * 24 + 5] = 1e7f; /* turned, some of its pair is still too large */
        CHECK_EQ(step(ops[b], k, &r, &cc, NULL, 0, 12, false), 0);
        CHECK_EQ(ops[b]->saturations(k), 4);
        const uint8_t *v = (uint8_t *)cc.pool + cc.pages[0] * cc.page_bytes + cc.v.off;
        memcpy(&h, v + 2 * 48 + 2, 2);
        CHECK_EQ(h, 0x7bff);
        memcpy(&h, v + 2 * 48 + 4, 2);
        CHECK_EQ(h, 0xfbff);
        memcpy(&h, v + 5 * 48 + 46, 2);
        CHECK_EQ(h, 0xfbff);
        case_cache_fini(&cc, ops[b], k);
        run_fini(&r);
        ops[b]->close(k);
    }
}

static void a_missing_page_or_odd_shape_is_refused(void)
{
    struct kern *k = open_with(cpu_vec_list()[0], 1);
    struct case_attn c = {4, 2, 16, 0, 300, 0, K_ROW_F16, false};
    struct case_cache cc;
    uint64_t seed = 2;
    float q[4 * 16] = {0}, y[4 * 16];
    case_cache_init(&cc, &kern_cpu, k, &c, &seed);
    uint32_t pages[2] = {K_PAGE_NONE, cc.pages[1]};
    struct k_seq s = {0, 1, 299, 0, pages, 2};
    struct k_attn a = {.q = q,
                       .y = y,
                       .n_head = 4,
                       .n_kv_head = 2,
                       .head_dim = 16,
                       .scale = 1,
                       .src = {{.k = cc.k, .v = cc.v}},
                       .n_src = 1,
                       .seq = &s,
                       .n_seqs = 1};
    CHECK_EQ(kern_cpu.attn(k, &a), -EINVAL);
    a.src[0].window = 44; /* positions 256..299 */
    CHECK_EQ(kern_cpu.attn(k, &a), 0);
    a.src[0].window = 45;
    CHECK_EQ(kern_cpu.attn(k, &a), -EINVAL);
    a.src[0].window = 44;
    a.n_head = 3;
    CHECK_EQ(kern_cpu.attn(k, &a), -EINVAL);
    a.n_head = 4, a.head_dim = 12;
    CHECK_EQ(kern_cpu.attn(k, &a), E_UNSUPP);
    a.head_dim = 16, a.src[0].k.ratio = 4;
    CHECK_EQ(kern_cpu.attn(k, &a), E_UNSUPP);
    case_cache_fini(&cc, &kern_cpu, k);
    kern_cpu.close(k);
}

/* One backend keeps cos and sin from call to call, another is new at each: a call that differs
 * from the last in one thing alone must not get the last one's. */
static void kept_angles_are_those_of_the_call(void)
{
    enum { DIM = 32, TOKENS = 6 };
    static const float base[2] = {1, .9f};
    uint64_t rnd = t_seed();
    float f[2][DIM / 2], in[3][TOKENS * DIM];
    struct case_attn c = {1, 1, DIM, 0, 256, 0, K_ROW_F32, false};
    struct kern *kept = open_with(cpu_vec_list()[0], 1);
    struct case_cache cc;
    case_cache_init(&cc, &kern_cpu, kept, &c, &rnd);
    uint32_t at[5] = {0}; /* mscale, frequencies, dims, where each sequence is */
    for (int i = 0; i < 2 * DIM / 2; i++)
        f[i / (DIM / 2)][i % (DIM / 2)] =
            i % (DIM / 2) ? .8f / (float)(i % (DIM / 2)) : base[i / (DIM / 2)];
    for (int n = 0; n < 3000; n++) {
        float got[2][2][TOKENS * DIM];
        uint32_t what = (uint32_t)(case_next(&rnd) % 5);
        at[what] = (uint32_t)((case_next(&rnd) >> 20) % 2);
        for (int i = 0; i < 3 * TOKENS * DIM; i++)
            in[i / (TOKENS * DIM)][i % (TOKENS * DIM)] = case_unit(&rnd);
        for (int b = 0; b < 2; b++) {
            struct kern *k = b ? open_with(cpu_vec_list()[0], 1) : kept;
            struct k_seq s[2] = {{0, 3, 10 + at[3], 0, cc.pages, cc.n_pages},
                                 {3, 2 + at[4], 60 - at[4], 0, cc.pages, cc.n_pages}};
            memcpy(got[b][0], in[0], sizeof in[0]);
            struct k_rope_store ro = {.q = got[b][0],
                                      .k = in[1],
                                      .v = in[2],
                                      .n_head = 1,
                                      .n_kv_head = 1,
                                      .head_dim = DIM,
                                      .rope_dims = at[2] ? DIM / 2 : DIM,
                                      .kind = K_ROPE_PAIRS,
                                      .inv_freq = f[at[1]],
                                      .mscale = at[0] ? 1.5f : 1,
                                      .krows = cc.k,
                                      .vrows = cc.v,
                                      .seq = s,
                                      .n_seqs = 2};
            CHECK_EQ(kern_cpu.rope_store(k, &ro), 0);
            for (uint32_t t = 0; t < s[1].first + s[1].n; t++)
                memcpy(
                    got[b][1] + t * DIM,
                    rows_at(&cc.k, &s[t / 3 != 0], s[t / 3 != 0].pos + (t < 3 ? t : t - 3), 0),
                    DIM * 4);
            if (b)
                kern_cpu.close(k);
        }
        size_t bytes = (5 + at[4]) * DIM * 4;
        if (memcmp(got[0][0], got[1][0], bytes) || memcmp(got[0][1], got[1][1], bytes)) {
            t_fail(__FILE__, __LINE__, "call %d, after a change of %u: other bits", n, what);
            break;
        }
    }
    case_cache_fini(&cc, &kern_cpu, kept);
    kern_cpu.close(kept);
}

static void angles_of_a_million_keep_their_bits(void)
{
    struct kern *ref = open_with(NULL, 1), *k = open_with(cpu_vec_list()[0], 1);
    enum { DIM = 64 };
    float q[DIM], p[DIM], kv[DIM] = {0}, f[DIM / 2];
    uint64_t seed = 8;
    uint32_t *pages = malloc(4 * 4096);
    struct case_attn c = {1, 1, DIM, 0, 256, 0, K_ROW_F16, false};
    struct case_cache cc;
    case_cache_init(&cc, &kern_cpu, k, &c, &seed);
    for (int i = 0; i < 4096; i++)
        pages[i] = cc.pages[0];
    for (int kind = K_ROPE_PAIRS; kind <= K_ROPE_HALVES; kind++)
        for (uint64_t pos = 3; pos < 1 << 20; pos = pos * 3 + 1) {
            for (int i = 0; i < DIM; i++)
                q[i] = p[i] = case_unit(&seed);
            for (int i = 0; i < DIM / 2; i++)
                f[i] = i ? f[i - 1] * .75f : 1;
            struct k_seq s = {0, 1, pos, 0, pages, 4096};
            struct k_rope_store ro = {.q = q,
                                      .k = kv,
                                      .v = kv,
                                      .n_head = 1,
                                      .n_kv_head = 1,
                                      .head_dim = DIM,
                                      .rope_dims = DIM,
                                      .kind = (enum k_rope_kind)kind,
                                      .inv_freq = f,
                                      .mscale = 1.25f,
                                      .krows = cc.k,
                                      .vrows = cc.v,
                                      .seq = &s,
                                      .n_seqs = 1};
            CHECK_EQ(kern_cpu.rope_store(k, &ro), 0);
            ro.q = p;
            CHECK_EQ(kern_ref.rope_store(ref, &ro), 0);
            double e = case_nmse(p, q, DIM);
            if (e > 1e-13)
                t_fail(__FILE__, __LINE__, "position %llu: NMSE %g", (unsigned long long)pos,
                       e);
        }
    case_cache_fini(&cc, &kern_cpu, k);
    free(pages);
    kern_ref.close(ref);
    kern_cpu.close(k);
}

T_MAIN({"each_case_is_near_ref", each_case_is_near_ref},
       {"prefill_and_decode_have_the_same_bits", prefill_and_decode_have_the_same_bits},
       {"every_set_and_thread_count_has_the_twins_bits",
        every_set_and_thread_count_has_the_twins_bits},
       {"a_sequence_is_not_moved_by_its_neighbours", a_sequence_is_not_moved_by_its_neighbours},
       {"rows_below_store_from_are_not_written", rows_below_store_from_are_not_written},
       {"clipped_rows_saturate_and_are_counted", clipped_rows_saturate_and_are_counted},
       {"a_missing_page_or_odd_shape_is_refused", a_missing_page_or_odd_shape_is_refused},
       {"kept_angles_are_those_of_the_call", kept_angles_are_those_of_the_call},
       {"angles_of_a_million_keep_their_bits", angles_of_a_million_keep_their_bits})
