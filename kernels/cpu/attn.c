/* attn.c - rotation, row store and attention, driven over the pool.
 *
 * Attention makes, per query and block of 256 absolute positions, a partial result
 * (m = largest score, l = sum of e^(s - m), o = the same sum over rows of V), each from
 * nothing, and joins them in ascending order of source and block (online softmax, Milakov
 * and Gimelshein 2018).  Which queries share a tile, and which thread makes a partial, can
 * therefore not be seen in the bits.  Two ways to the same sums:
 *   narrow  at most CPU_TILE queries a head group (decode): threads share blocks, partials
 *           are kept and joined in a second pass;
 *   wide    (prefill): threads share tiles of CPU_TILE queries and join as they go. */
#include "base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/num.h"
#include "kernels/rows.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- rotation and store --------------------------------------------------------------------- */
struct rope_job {
    struct kern_cpu *k;
    const struct k_rope_store *a;
    const struct k_seq *s;
};

/* cos and sin of every position of the step, shared by its layers: computed when positions,
 * frequencies or scale differ from the last call's.  Double: an angle of 1e6 keeps its bits. */
static int angles(struct kern_cpu *k, const struct k_rope_store *a)
{
    uint32_t n = 0, half = a->rope_dims / 2;
    for (uint32_t s = 0; s < a->n_seqs; s++)
        if (a->seq[s].first + a->seq[s].n > n)
            n = a->seq[s].first + a->seq[s].n;
    uint64_t floats = (uint64_t)n * a->rope_dims + half, need = floats + 2ull * n + 2;
    if (need > k->cs_cap || !k->cs) {
        float *p = realloc(k->cs, need * 4 + 64);
        if (!p)
            return -ENOMEM;
        k->cs = p;
        k->cs_cap = (uint32_t)need;
        k->cs_n = 0;
    }
    bool same = k->cs_n == n && k->cs_dims == a->rope_dims && k->cs_mscale == a->mscale;
    k->cs_freq = k->cs + (uint64_t)n * a->rope_dims;
    k->cs_pos = (uint64_t *)(k->cs + (floats + 1) / 2 * 2);
    same = same && !memcmp(k->cs_freq, a->inv_freq, half * 4);
    for (uint32_t s = 0; s < a->n_seqs && same; s++)
        for (uint32_t i = 0; i < a->seq[s].n && same; i++)
            same = k->cs_pos[a->seq[s].first + i] == a->seq[s].pos + i;
    if (same)
        return 0;
    memcpy(k->cs_freq, a->inv_freq, half * 4);
    for (uint32_t i = 0; i < n; i++)
        k->cs_pos[i] = UINT64_MAX; /* tokens of no sequence */
    for (uint32_t s = 0; s < a->n_seqs; s++)
        for (uint32_t i = 0; i < a->seq[s].n; i++) {
            uint32_t t = a->seq[s].first + i;
            k->cs_pos[t] = a->seq[s].pos + i;
            for (uint32_t j = 0; j < half; j++) {
                double sn, cn;
                float angle = (float)k->cs_pos[t] * a->inv_freq[j];
                num_sincos(angle, &sn, &cn);
                k->cs[(size_t)t * a->rope_dims + j] = (float)cn * a->mscale;
                k->cs[(size_t)t * a->rope_dims + half + j] = (float)sn * a->mscale;
            }
        }
    k->cs_n = n;
    k->cs_dims = a->rope_dims;
    k->cs_mscale = a->mscale;
    return 0;
}

static void rope_some(void *ctx, uint32_t worker)
{
    struct rope_job *j = ctx;
    const struct k_rope_store *a = j->a;
    const struct cpu_vec *vec = j->k->vec;
    struct cpu_worker me;
    uint32_t from, to, clipped = 0, dim = a->head_dim;

    cpu_worker(j->k, worker, &me);
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        for (uint32_t i = from; i < to; i++) {
            uint64_t tok = j->s->first + i, pos = j->s->pos + i;
            const float *cs = j->k->cs + tok * a->rope_dims;
            for (uint32_t h = 0; h < a->n_head; h++)
                vec->rotate(a->q + (tok * a->n_head + h) * dim, cs, a->rope_dims, a->kind);
            for (uint32_t h = 0; h < a->n_kv_head && pos >= j->s->store_from; h++) {
                size_t at = (tok * a->n_kv_head + h) * dim;
                memcpy(me.t, a->k + at, (size_t)dim * 4);
                vec->rotate(me.t, cs, a->rope_dims, a->kind);
                clipped +=
                    vec->store(a->krows.fmt, me.t, rows_at(&a->krows, j->s, pos, h), dim);
                clipped +=
                    vec->store(a->vrows.fmt, a->v + at, rows_at(&a->vrows, j->s, pos, h), dim);
            }
        }
    if (clipped)
        __atomic_fetch_add(&j->k->saturations, clipped, __ATOMIC_RELAXED);
}

int cpu_rope_store(struct kern *kern, const struct k_rope_store *a)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    struct rope_job j = {.k = k, .a = a};
    int r = rows_check_store(a);

    if (r == 0 && a->head_dim > CPU_DIM_MAX)
        r = E_UNSUPP;
    if (r == 0)
        r = cpu_reserve(k, 1, 32);
    if (r == 0 && a->kind != K_ROPE_NONE)
        r = angles(k, a);
    for (uint32_t s = 0; s < a->n_seqs && r == 0; s++) {
        j.s = &a->seq[s];
        cpu_share_init(&k->share, j.s->n, 4, k->threads);
        if (j.s->n > 8)
            cpu_pool_run(k->pool, rope_some, &j);
        else
            cpu_pool_alone(rope_some, &j);
    }
    return r;
}

/* --- attention --------------------------------------------------------------------------------- */
struct attn_seq {
    uint32_t item;   /* index of its first item; items of a sequence are consecutive */
    uint32_t tiles;  /* wide: tiles per head group; narrow: 0 */
    uint32_t blocks; /* narrow: blocks of all sources */
    uint32_t block0[3], n_block[3];
    uint32_t part; /* narrow: index of its first record */
};
struct attn_job {
    struct kern_cpu *k;
    const struct k_attn *a;
    const struct k_seq *seq;
    uint32_t n_seqs, group; /* heads per kv head */
    uint32_t record;        /* floats of a partial */
    struct attn_seq as[STEP_SEQS_MAX];
};

/* Query i of head group h: token i / group, head h * group + i % group. */
static size_t query_at(const struct attn_job *j, const struct k_seq *s, uint32_t h, uint32_t i)
{
    return ((size_t)(s->first + i / j->group) * j->a->n_head + h * j->group + i % j->group) *
           j->a->head_dim;
}

static void setup(const struct attn_job *j, const struct cpu_worker *me, uint32_t src,
                  const struct k_seq *s, uint32_t h, uint32_t block, uint32_t q0, uint32_t nq,
                  struct cpu_attn_block *b)
{
    const struct k_attn_src *x = &j->a->src[src];
    uint64_t base = (uint64_t)block * BLOCK_TOKENS;
    b->k = rows_at(&x->k, s, base, h);
    b->v = rows_at(&x->v, s, base, h);
    b->k_bytes = x->k.row_bytes, b->v_bytes = x->v.row_bytes;
    b->k_fmt = x->k.fmt, b->v_fmt = x->v.fmt;
    b->dim = j->a->head_dim;
    b->n_q = nq;
    b->scale = j->a->scale;
    for (uint32_t i = 0; i < nq; i++) {
        uint64_t pos = s->pos + (q0 + i) / j->group, from = rows_from(x, pos);
        b->q[i] = j->a->q + query_at(j, s, h, q0 + i);
        b->from[i] = (uint32_t)(from <= base                  ? 0
                                : from - base >= BLOCK_TOKENS ? BLOCK_TOKENS
                                                              : from - base);
        b->to[i] = (uint32_t)(pos < base                      ? 0
                              : pos - base + 1 > BLOCK_TOKENS ? BLOCK_TOKENS
                                                              : pos - base + 1);
    }
    b->kt = me->kt, b->vf = me->vf, b->p = me->p;
}

static void begin(const struct attn_job *j, uint32_t head, float *m, float *l, float *o)
{
    *m = j->a->sink ? j->a->sink[head] : -__builtin_inff();
    *l = j->a->sink ? 1 : 0;
    memset(o, 0, (size_t)j->a->head_dim * 4);
}

static void end(const struct attn_job *j, size_t at, float l, const float *o)
{
    for (uint32_t d = 0; d < j->a->head_dim; d++)
        j->a->y[at + d] = o[d] / l;
}

static void wide(struct attn_job *j, const struct cpu_worker *me, const struct k_seq *s,
                 const struct attn_seq *as, uint32_t item)
{
    uint32_t h = item % j->a->n_kv_head, q0 = item / j->a->n_kv_head * CPU_TILE;
    uint32_t all = s->n * j->group, nq = all - q0 < CPU_TILE ? all - q0 : CPU_TILE;
    uint32_t dim = j->a->head_dim;
    uint64_t first = s->pos + q0 / j->group, last = s->pos + (q0 + nq - 1) / j->group;
    struct cpu_attn_block b = {.m = me->bm, .l = me->bl, .o = me->bo};

    (void)as;
    for (uint32_t i = 0; i < nq; i++)
        begin(j, h * j->group + (q0 + i) % j->group, &me->m[i], &me->l[i],
              me->o + (size_t)i * dim);
    for (uint32_t x = 0; x < j->a->n_src; x++)
        for (uint64_t blk = rows_from(&j->a->src[x], first) / BLOCK_TOKENS;
             blk <= last / BLOCK_TOKENS; blk++) {
            setup(j, me, x, s, h, (uint32_t)blk, q0, nq, &b);
            j->k->vec->attn_block(&b);
            for (uint32_t i = 0; i < nq; i++)
                j->k->vec->attn_join(&me->m[i], &me->l[i], me->o + (size_t)i * dim, b.m[i],
                                     b.l[i], b.o + (size_t)i * dim, dim);
        }
    for (uint32_t i = 0; i < nq; i++)
        end(j, query_at(j, s, h, q0 + i), me->l[i], me->o + (size_t)i * dim);
}

/* Records of a narrow sequence: [kv head][block of all sources][query]{m, l, o}. */
static float *record_at(const struct attn_job *j, const struct attn_seq *as, uint32_t nq,
                        uint32_t h, uint32_t block, uint32_t i)
{
    return j->k->part + (as->part + ((size_t)h * as->blocks + block) * nq + i) * j->record;
}

/* The head, source and block of a narrow item: heads outside, blocks of all sources within. */
static uint32_t narrow_at(const struct attn_seq *as, uint32_t item, uint32_t *ret_h,
                          uint32_t *ret_src)
{
    uint32_t x = 0, at = item % as->blocks;

    while (at >= as->n_block[x])
        at -= as->n_block[x++];
    *ret_h = item / as->blocks;
    *ret_src = x;
    return as->block0[x] + at;
}

static void narrow(struct attn_job *j, const struct cpu_worker *me, const struct k_seq *s,
                   const struct attn_seq *as, uint32_t item)
{
    uint32_t h, x, block = narrow_at(as, item, &h, &x);
    uint32_t nq = s->n * j->group, dim = j->a->head_dim;
    struct cpu_attn_block b = {.m = me->bm, .l = me->bl, .o = me->bo};

    setup(j, me, x, s, h, block, 0, nq, &b);
    if (item + 1 < as->blocks * j->a->n_kv_head) {
        uint32_t next_h, next_x, next = narrow_at(as, item + 1, &next_h, &next_x);
        b.ahead_k = rows_at(&j->a->src[next_x].k, s, (uint64_t)next * BLOCK_TOKENS, next_h);
        b.ahead_v = rows_at(&j->a->src[next_x].v, s, (uint64_t)next * BLOCK_TOKENS, next_h);
    }
    j->k->vec->attn_block(&b);
    for (uint32_t i = 0; i < nq; i++) {
        float *r = record_at(j, as, nq, h, item % as->blocks, i);
        r[0] = b.m[i];
        r[1] = b.l[i];
        memcpy(r + 2, b.o + (size_t)i * dim, (size_t)dim * 4);
    }
}

static void attn_some(void *ctx, uint32_t worker)
{
    struct attn_job *j = ctx;
    struct cpu_worker me;
    uint32_t from, to;

    cpu_worker(j->k, worker, &me);
    while (cpu_share_take(&j->k->share, worker, &from, &to)) {
        uint32_t s = j->n_seqs - 1;
        while (j->as[s].item > from)
            s--;
        if (j->as[s].tiles)
            wide(j, &me, &j->seq[s], &j->as[s], from - j->as[s].item);
        else
            narrow(j, &me, &j->seq[s], &j->as[s], from - j->as[s].item);
    }
}

/* Items are sequences: few, and joining reads little. */
static void join_narrow(struct attn_job *j, uint32_t seq)
{
    const struct attn_seq *as = &j->as[seq];
    const struct k_seq *s = &j->seq[seq];
    uint32_t nq = s->n * j->group, dim = j->a->head_dim;
    float m, l, o[CPU_DIM_MAX];

    for (uint32_t h = 0; h < j->a->n_kv_head; h++)
        for (uint32_t i = 0; i < nq; i++) {
            begin(j, h * j->group + i % j->group, &m, &l, o);
            for (uint32_t b = 0; b < as->blocks; b++) {
                const float *r = record_at(j, as, nq, h, b, i);
                j->k->vec->attn_join(&m, &l, o, r[0], r[1], r + 2, dim);
            }
            end(j, query_at(j, s, h, i), l, o);
        }
}

static void join_some(void *ctx, uint32_t worker)
{
    struct attn_job *j = ctx;
    uint32_t from, to;
    while (cpu_share_take(&j->k->share, worker, &from, &to))
        if (!j->as[from].tiles && j->seq[from].n)
            join_narrow(j, from);
}

static void attn_batch(struct attn_job *j)
{
    uint32_t items = 0, n_narrow = 0, blocks = 0;
    uint64_t part = 0;

    for (uint32_t i = 0; i < j->n_seqs; i++) {
        const struct k_seq *s = &j->seq[i];
        struct attn_seq *as = &j->as[i];
        *as = (struct attn_seq){.item = items, .part = (uint32_t)part};
        for (uint32_t x = 0; x < j->a->n_src && s->n; x++) {
            as->block0[x] = (uint32_t)(rows_from(&j->a->src[x], s->pos) / BLOCK_TOKENS);
            as->n_block[x] = (uint32_t)((s->pos + s->n - 1) / BLOCK_TOKENS) - as->block0[x] + 1;
            as->blocks += as->n_block[x];
        }
        uint64_t records = (uint64_t)as->blocks * j->a->n_head * s->n;
        uint64_t nq = (uint64_t)s->n * j->group;
        if (nq <= CPU_TILE && (part + records) * j->record <= CPU_PART_FLOATS) {
            part += records;
            items += as->blocks * j->a->n_kv_head;
            blocks += as->blocks;
            n_narrow++;
        } else {
            as->tiles = (uint32_t)((nq + CPU_TILE - 1) / CPU_TILE);
            items += as->tiles * j->a->n_kv_head;
        }
    }
    cpu_share_init(&j->k->share, items, 1, j->k->threads);
    cpu_pool_run(j->k->pool, attn_some, j);
    if (!n_narrow)
        return;
    cpu_share_init(&j->k->share, j->n_seqs, 1, j->k->threads);
    if (n_narrow > 1 && blocks > 64)
        cpu_pool_run(j->k->pool, join_some, j);
    else
        cpu_pool_alone(join_some, j);
}

int cpu_attn(struct kern *kern, const struct k_attn *a)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    struct attn_job j = {.k = k, .a = a, .record = 2 + a->head_dim};
    int r = rows_check_attn(a);

    if (r == 0 && (a->head_dim % CPU_DIM_OF || a->head_dim > CPU_DIM_MAX))
        r = E_UNSUPP;
    if (r == 0)
        r = cpu_reserve(k, 1, 32);
    if (r < 0)
        return r;
    j.group = a->n_head / a->n_kv_head;
    for (uint32_t i = 0; i < a->n_seqs; i += STEP_SEQS_MAX) {
        j.seq = a->seq + i;
        j.n_seqs = a->n_seqs - i < STEP_SEQS_MAX ? a->n_seqs - i : STEP_SEQS_MAX;
        attn_batch(&j);
    }
    return 0;
}
