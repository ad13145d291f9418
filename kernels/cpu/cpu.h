/* cpu.h - inside the cpu backend: laid-out weights, quantised rows, kernels per instruction set.
 *
 * The arithmetic, once, for every kernel here (kern.h says why).  Sums named below are fma
 * chains: acc = fma(a, b, acc), so the plain C twin needs a true fma (num.h).
 *
 * Quantised weights, output element r of a row x, over units b = 0, 1 ... of 32 columns:
 *     isum = sum over the unit of (q - off) * xq, exact int32; where the halves of a unit
 *            have scales of their own, the sum of the halves' sums times these scales
 *     acc  = fma(wd * x.d, (float)isum, acc)     wd = d, or d * sc with one scale per unit
 *     acm  = fma(m, x.s, acm)                    Q4_1, Q5_1
 *     acm  = fma(-(m * mn), x.s, acm)            Q4_K, Q5_K
 *     acm  = fma(-(m * x.d), (float)imin, acm)   Q2_K: imin = sum over halves of mn * h
 *     y    = acc + acm                           acc where the type has no minimum
 * Float weights: four chains over k % 4, joined as (c0 + c1) + (c2 + c3). */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H
#include "kernels/cpu/pool.h"
#include "kernels/kern.h"
#include "kernels/types.h"

/* One unit of a quantised activation row. */
struct cpu_xq {
    int8_t q[32];
    float d, s;   /* max|x| / 127; d * sum of q */
    int16_t h[2]; /* sums of q over each half */
    int32_t sum;  /* h[0] + h[1] */
};
bound(sizeof(struct cpu_xq) == 48, "rows of units are walked by AVX2 and by C alike");

/* Weights as laid out: groups of 8 rows; a group is one contiguous run of 32-column units.
 *
 * A unit of a group, by type (8 rows r, columns k = 4 g + j; g < 8, j < 4):
 *     nib[128]    byte 32 i + 4 r + j: low nibble k = 4 i + j, high nibble k = 16 + 4 i + j
 *     qh[32]      byte 4 r + j, bit g: the fifth (third) bit of k = 4 g + j
 *     two[64]     byte 32 (g / 4) + 4 r + j, bits 2 (g % 4) and above: two bits
 *     bytes[256]  byte 32 g + 4 r + j, signed
 *   head d[8] (m[8]): halves, per unit, or per 8 units for K types (then scales per unit):
 *     Q4_0  d | nib                     144 bytes a unit
 *     Q4_1  d m | nib                   160
 *     Q5_0  d | nib qh                  176
 *     Q5_1  d m | nib qh                192
 *     Q8_0  d | bytes                   272
 *     Q2_K  d m | 8 x (sc[2][8] mn[2][8] two)      32 + 8 * 96
 *     Q3_K  d   | 8 x (sc[2][8] two qh)            16 + 8 * 112
 *     Q4_K  d m | 8 x (sc[8] mn[8] nib)            32 + 8 * 144
 *     Q5_K  d m | 8 x (sc[8] mn[8] nib qh)         32 + 8 * 176
 *     Q6_K  d   | 8 x (sc[2][8] nib two)           16 + 8 * 208
 *   floats: column by column, 8 rows each, in the type's own width. */
struct cpu_lay {
    uint16_t head, unit;           /* bytes */
    uint16_t per;                  /* units under one head: 1, or 8 for K types */
    uint16_t sc, mn, nib, qh, two; /* offsets in a unit; CPU_NO: absent */
};
enum { CPU_NO = 0xffff, CPU_ROWS = 8, CPU_STRIP = 16 };
const struct cpu_lay *cpu_lay(enum k_type t); /* NULL: a float type */
uint64_t cpu_lay_group_bytes(enum k_type t, uint32_t cols);
/* Lays out groups [g, g + n) of a matrix as stored in a GGUF; rows past the end are zeros. */
void cpu_lay_groups(const struct k_weight_src *src, uint64_t row_bytes, uint32_t g, uint32_t n,
                    uint8_t *dst);
/* Takes row r of a laid-out group apart again. */
void cpu_lay_unit(enum k_type t, const uint8_t *group, uint32_t r, uint32_t b,
                  struct k_unit *ret);
void cpu_lay_row(enum k_type t, const uint8_t *group, uint32_t r, float *dst, uint32_t cols);

/* The unit b of a group, and the head it lies under. */
static inline const uint8_t *cpu_lay_at(const struct cpu_lay *l, const uint8_t *group,
                                        uint32_t b, const uint8_t **ret_head)
{
    uint32_t super = b / l->per;
    const uint8_t *p = group + (uint64_t)super * (l->head + (uint32_t)l->per * l->unit);
    *ret_head = p;
    return p + l->head + (b % l->per) * l->unit;
}

struct k_weight {
    struct k_weight_src src; /* data stays valid only when mapped, or an embedding's own copy */
    uint64_t row_bytes;      /* of the source */
    uint32_t groups;
    uint64_t group_bytes;
    uint8_t *lay; /* groups; NULL: mapped, laid out when used */
    uint8_t *raw; /* rows as in the source, for look-ups */
    bool own_raw;
    float *vec; /* K_USE_VECTOR */
    uint64_t bytes;
    uint32_t chunk; /* of the huge-page memory lay came from */
};

/* One matmul of some groups: n rows of x times 8 * groups weight rows. */
struct cpu_mm {
    enum k_type type;
    const uint8_t *w; /* groups, contiguous */
    uint64_t group_bytes;
    uint32_t groups, rows; /* rows <= 8 * groups are stored */
    uint32_t cols;
    const struct cpu_xq *xq; /* [n][cols / 32], for quantised weights */
    const float *xf;         /* [n][cols], for float weights */
    uint32_t n;
    float *y; /* y[i * ldy + r] */
    size_t ldy;
    bool add;
    uint8_t *panel; /* scratch of this thread, cpu_panel_bytes(cols) */
};
static inline uint64_t cpu_panel_bytes(uint32_t cols)
{
    return (uint64_t)(cols / 32 + 1) * 640;
}

/* Attention of one group of heads over one block: 3 * CPU_TILE queries share K and V. */
enum { CPU_TILE = 48, CPU_DIM_OF = 8, CPU_DIM_MAX = 512 };
struct cpu_attn_block {
    const uint8_t *k, *v; /* first row of the block, this head */
    uint32_t k_bytes, v_bytes;
    uint8_t k_fmt, v_fmt;
    uint32_t dim, n_q;
    const float *q[CPU_TILE];              /* dim floats each */
    uint32_t from[CPU_TILE], to[CPU_TILE]; /* rows of the block each query sees: [from, to) */
    float scale;
    float *m, *l, *o;   /* results per query: maximum, sum, unnormalised rows [dim] */
    float *kt, *vf, *p; /* scratch: 256 * dim, 256 * dim, CPU_TILE * 256 */
    /* What this thread will likely read next, or NULL: asked for while this block is computed
     * (32 KiB extents end before a stream detector trusts them).  Never seen in the bits. */
    const uint8_t *ahead_k, *ahead_v;
};

/* Kernels of one instruction set; all sets give the same bits. */
struct cpu_vec {
    const char *name;
    void (*mm)(const struct cpu_mm *a);
    void (*quant)(const float *x, struct cpu_xq *q, uint32_t units);
    void (*rms)(const float *x, const float *w, float *y, uint32_t cols, float eps);
    /* h[i] = act(g[i]) * u[i] */
    void (*act)(enum k_act f, const float *g, const float *u, float *h, uint32_t n);
    void (*rotate)(float *x, const float *cs, uint32_t dims, enum k_rope_kind kind);
    bool (*store)(uint8_t fmt, const float *x, void *to, uint32_t n); /* true: clipped */
    void (*attn_block)(struct cpu_attn_block *a);
    /* Joins a block's (m, l, o) to the running one. */
    void (*attn_join)(float *m, float *l, float *o, float bm, float bl, const float *bo,
                      uint32_t dim);
};
extern const struct cpu_vec cpu_vec_c;
/* kern_cpu.open with a set of the caller's choice (tests); the machine must have it. */
int cpu_open_vec(struct kern **ret, const struct kern_opts *o, const struct cpu_vec *vec,
                 struct errbuf *eb);
/* The sets this machine can run, best first; ends with NULL. */
const struct cpu_vec *const *cpu_vec_list(void);
#ifdef __x86_64__
extern const struct cpu_vec cpu_vec_avx2, cpu_vec_avx512;
#endif

struct kern {
    const struct kern_ops *ops;
};
struct cpu_chunk { /* huge-page memory that weights are cut from */
    uint8_t *base;
    uint64_t size, used;
    uint32_t weights; /* living in it; 0 again: unmapped */
};
enum { CPU_CHUNKS_MAX = 4096 };
struct kern_cpu {
    struct kern kern;
    uint32_t magic;
    const struct cpu_vec *vec;
    struct cpu_pool *pool;
    uint32_t threads;
    uint32_t n_alloc, n_weight;
    struct cpu_chunk *chunk; /* CPU_CHUNKS_MAX */
    /* Scratch; grows to the largest step and model seen. */
    uint8_t *scratch;
    uint64_t scratch_bytes;
    uint32_t tokens, cols; /* what it was sized for */
    struct cpu_xq *xq[2];  /* rows going into a matmul, and hidden rows of a feed-forward */
    float *xf[2];
    uint8_t *worker; /* worker_bytes for each thread */
    uint64_t worker_bytes;
    float *part; /* partial attention: records of m, l, o[dim]; CPU_PART_FLOATS */
    /* cos, sin of the last step's positions: layers share them. */
    float *cs, *cs_freq;
    uint64_t *cs_pos;
    uint32_t cs_n, cs_dims, cs_cap;
    float cs_mscale;
    uint64_t saturations;   /* atomic counter: readers may see it late */
    struct cpu_share share; /* of the operation in progress */
};
enum { CPU_PART_FLOATS = 4 << 20, CPU_FFN_TOKENS = 256 };

/* A worker's own scratch. */
struct cpu_worker {
    uint8_t *panel, *strip;          /* a strip unpacked; one of mapped weights laid out */
    float *g, *u;                    /* CPU_FFN_TOKENS x 32 */
    float *kt, *vf, *p;              /* attn_block's own */
    float *m, *l, *o, *bm, *bl, *bo; /* running and per block, CPU_TILE queries */
    float *t;                        /* one head's row */
};
void cpu_worker(const struct kern_cpu *k, uint32_t worker, struct cpu_worker *ret);
int cpu_reserve(struct kern_cpu *k, uint32_t tokens, uint32_t cols);

void *cpu_huge_take(struct kern_cpu *k, uint64_t bytes, uint32_t *ret_chunk);
void cpu_huge_drop(struct kern_cpu *k, uint32_t chunk);
int cpu_weight(struct kern *kern, struct k_weight **ret, const struct k_weight_src *src,
               uint32_t use, enum k_residency res, struct errbuf *eb);
void cpu_weight_free(struct kern *kern, struct k_weight *w);
uint64_t cpu_weight_bytes(const struct k_weight *w);
uint64_t cpu_weight_need(enum k_type t, uint64_t rows, uint64_t cols, uint32_t use);

int cpu_embed(struct kern *kern, const struct k_embed *a);
int cpu_matmul(struct kern *kern, const struct k_matmul *a);
int cpu_ffn(struct kern *kern, const struct k_ffn *a);
int cpu_norm(struct kern *kern, const struct k_norm *a);
int cpu_rope_store(struct kern *kern, const struct k_rope_store *a);
int cpu_attn(struct kern *kern, const struct k_attn *a);
int cpu_epoch(struct kern *kern, uint64_t *ret);

#endif
