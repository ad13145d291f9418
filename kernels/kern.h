/* kern.h - what a device computes: memory, weights as handles, one struct per operation.
 *
 * A backend is an open device.  `struct kern_ops` is its table; ref, cpu and cuda each
 * fill one, one list of cases (tests/kernels/cases.h) tests and times all of them.
 * kernels/ knows tensors and pages; it does not know models, sessions or files.
 *
 * Pointers named `dev` (float *x, void *pool ...) come from alloc() and belong to the
 * device: nobody outside kernels/ dereferences them; up() and down() copy.  On the CPU
 * they happen to be ordinary memory.
 *
 * Threads: one engine thread calls everything except where a line says "any thread".
 *
 * ONE ARITHMETIC.  A backend with props.exact promises: each output row of each operation
 * is a pure function of its own input row(s) and the weights: the same bits whatever
 * the number of rows, their order, the chunk, the batch or the thread count.  So:
 *  - a matmul output element is the sum over ascending 32-blocks b of K of
 *        acc += (wd[b] * xd[b]) * (float)isum[b]       scale parts, one accumulator
 *        acm += wm[b] * xs[b]                          minimum parts, another
 *    joined once at the end (y = acc + acm); isum is an exact int32.  GEMV and GEMM alike;
 *  - activations are quantised per 32 (d = max|x| / 127, q = nearest-even(x / d), s = d * sum q)
 *    before every matmul with a quantised weight; float weights take float activations;
 *  - attention walks its rows by blocks of 256 at absolute positions, ascending;
 *  - no libm, no contraction, no fast-math: own exp, sin, cos; MXCSR set per thread. */
#ifndef KERNELS_KERN_H
#define KERNELS_KERN_H
#include "base/bounds.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element types of weights; the numbers are GGUF's. */
enum k_type {
    K_F32 = 0,
    K_F16 = 1,
    K_Q4_0 = 2,
    K_Q4_1 = 3,
    K_Q5_0 = 6,
    K_Q5_1 = 7,
    K_Q8_0 = 8,
    K_Q2_K = 10,
    K_Q3_K = 11,
    K_Q4_K = 12,
    K_Q5_K = 13,
    K_Q6_K = 14,
    K_BF16 = 30,
    K_TYPE_,
};
struct k_type_info {
    const char *name; /* "Q4_K"; NULL: not a type we know */
    uint32_t block;   /* elements in a block; a row is a whole number of blocks */
    uint32_t block_bytes;
};
/* NULL when t is unknown.  Any thread. */
const struct k_type_info *k_type_info(uint32_t t);
/* One row of `cols` elements of type t, as stored in a GGUF, to floats.  Any thread. */
void k_dequant_row(enum k_type t, const void *src, float *dst, uint32_t cols);
/* The first of n blocks of type t that has a value which is not a finite number, n when there
 * is none.  Reads every float and every scale once.  Any thread. */
uint64_t k_not_finite(enum k_type t, const void *src, uint64_t n);

/* Formats of a stored KV row. */
enum k_row {
    K_ROW_F16, /* nearest even, saturating at +-65504; saturations are counted */
    K_ROW_F32, /* for the oracle */
    K_ROW_,
};

/* --- weights ------------------------------------------------------------------------- */
enum k_use {
    K_USE_MATMUL = 1, /* rows are outputs: y[r] = sum_c w[r][c] x[c] */
    K_USE_EMBED = 2,  /* rows are looked up; a tied head is MATMUL | EMBED */
    K_USE_VECTOR = 4, /* norms: floats, one row */
};
enum k_residency {
    K_RES_RELAID, /* copied into the backend's own layout; the source may go away */
    K_RES_MAPPED, /* used as it lies (larger than memory): the source outlives the handle */
};
struct k_weight; /* opaque: belongs to the backend that made it */
struct k_weight_src {
    const char *name; /* for errors */
    const void *data; /* rows * row bytes, row-major as in a GGUF; NULL: read() brings them */
    enum k_type type;
    uint32_t rows, cols;
    /* Copies bytes [off, off + bytes) of what data would be to `to`.  Called only while weight()
     * runs, from several threads at once, mostly ascending, a few hundred KiB at a time; what it
     * returns (< 0) ends weight(), with its words.  K_RES_MAPPED has no use for it. */
    int (*read)(void *ctx, uint64_t off, void *to, uint64_t bytes, struct errbuf *eb);
    void *ctx;
};

/* --- operations: x, y, q, k, v are dev, float, row-major; n rows = tokens ------------- */

/* y[i] = row ids[i] of w.  ids is host memory. */
struct k_embed {
    const struct k_weight *w;
    const int32_t *ids;
    float *y;
    uint32_t n;
};
/* y[j][i] (+)= w[j] * f(x[i]), j < n_w; f is RMSNorm(norm, eps) when norm is not NULL, else
 * identity.  The input is normalised and quantised once for all w.  Rows: i-th input row is
 * x + (rows ? rows[i] : i) * cols (rows: host, so that a head runs on the last rows only). */
struct k_matmul {
    const struct k_weight *w[3];
    float *y[3];
    uint32_t ldy[3]; /* floats between output rows; 0: tight */
    uint32_t n_w;
    const float *x;
    const struct k_weight *norm;
    float eps;
    const uint32_t *rows;
    uint32_t n;
    bool add; /* y += (the residual stream) */
};
enum k_act { K_ACT_SILU, K_ACT_GELU_TANH };
/* y = down * (act(gate * f(x)) .* (up * f(x))), added to y when add: a gated feed-forward. */
struct k_ffn {
    const struct k_weight *gate, *up, *down;
    const struct k_weight *norm;
    float eps;
    enum k_act act;
    const float *x;
    float *y;
    uint32_t n;
    bool add;
};
/* y = RMSNorm(x) * w, per row. */
struct k_norm {
    const struct k_weight *w;
    const float *x;
    float *y;
    float eps;
    uint32_t n, cols;
};

/* Where rows live: pages of one pool.  Row of position p in layer extent `off`:
 *   pool + page(p / BLOCK_TOKENS) * page_bytes + off + head * BLOCK_TOKENS/ratio * row_bytes
 *        + (p % BLOCK_TOKENS) / ratio * row_bytes */
struct k_rows {
    void *pool; /* dev */
    uint64_t page_bytes;
    uint64_t off;       /* this layer's extent in a page, head 0 */
    uint32_t row_bytes; /* one head's row */
    uint8_t fmt;        /* enum k_row */
    uint16_t ratio;     /* tokens per row; 1 for GQA */
};
enum { K_PAGE_NONE = 0xffffffffu };
/* One sequence of a step: tokens [first, first + n) of the step are its positions pos... */
struct k_seq {
    uint32_t first, n;
    uint64_t pos;
    uint64_t store_from;   /* rows of positions below it are never written */
    const uint32_t *pages; /* host; index by block, K_PAGE_NONE where not resident */
    uint32_t n_pages;
};
enum k_rope_kind { K_ROPE_NONE, K_ROPE_PAIRS, K_ROPE_HALVES };
/* Rotate q (in place) and k at their positions, then round k and v to their stored form
 * and write them.  inv_freq: host, dims/2 floats, scaling already applied; the angle is
 * (float)pos * inv_freq[i] in fp32, sin and cos of it multiplied by mscale. */
struct k_rope_store {
    float *q;
    const float *k, *v;
    uint32_t n_head, n_kv_head, head_dim, rope_dims;
    enum k_rope_kind kind;
    const float *inv_freq;
    float mscale;
    struct k_rows krows, vrows;
    const struct k_seq *seq;
    uint32_t n_seqs;
};
/* One source of rows.  v may be the same rows as k (latent attention). */
struct k_attn_src {
    struct k_rows k, v;
    uint32_t window;        /* rows older than this many positions are masked; 0: none */
    const uint32_t *select; /* dev; chosen rows per query, NULL: all (causal) */
    uint32_t n_select;
};
/* y = softmax(scale * q k^T + mask) v over all sources at once, causal, GQA by n_head/n_kv_head.
 * sink: n_head floats (dev) joining the denominator, or NULL. */
struct k_attn {
    const float *q;
    float *y;
    uint32_t n_head, n_kv_head, head_dim;
    float scale;
    struct k_attn_src src[3];
    uint32_t n_src;
    const float *sink;
    const struct k_seq *seq;
    uint32_t n_seqs;
};

/* --- a backend -------------------------------------------------------------------------- */
struct kern_opts {
    uint32_t threads; /* cpu: workers, engine thread included; 0: physical cores */
    bool act_f32;     /* ref: do not quantise activations (the oracle of whole models) */
    bool plain_c;     /* cpu: the C twin even where AVX2 exists */
    uint64_t seed;    /* reserved */
};
struct kern_props {
    const char *name;      /* "cpu-avx2", "cpu-c", "ref" */
    bool exact;            /* ONE ARITHMETIC holds for any batch */
    bool host_memory;      /* dev pointers are host memory */
    uint64_t memory_bytes; /* device memory, all and free; 0: host memory */
    uint64_t memory_free;
    uint32_t head_dim_of, head_dim_max; /* width of a head: a multiple of, at most; 0: any */
};
struct kern; /* an open backend; its first member is `const struct kern_ops *ops` */

struct kern_ops {
    const char *name;
    int (*open)(struct kern **ret, const struct kern_opts *o, struct errbuf *eb);
    void (*close)(struct kern *k); /* NULL ok; all memory and weights of it must be gone */
    void (*props)(const struct kern *k, struct kern_props *ret);

    /* Zeroed, IO_ALIGNed; NULL when there is no room. */
    void *(*alloc)(struct kern *k, uint64_t bytes);
    void (*free)(struct kern *k, void *p);
    /* Makes memory of alloc() ready before it is first used, where a first use costs something;
     * its contents stay.  May be NULL.  Any thread. */
    void (*warm)(struct kern *k, void *dev, uint64_t bytes);
    /* Host to device, device to host.  Any thread, as long as no running operation
     * touches the device side.  down() waits until the data has arrived. */
    int (*up)(struct kern *k, void *dev, const void *host, uint64_t bytes);
    int (*down)(struct kern *k, void *host, const void *dev, uint64_t bytes);

    int (*weight)(struct kern *k, struct k_weight **ret, const struct k_weight_src *src,
                  uint32_t use, enum k_residency res, struct errbuf *eb);
    void (*weight_free)(struct kern *k, struct k_weight *w); /* NULL ok */
    uint64_t (*weight_bytes)(const struct k_weight *w);      /* as laid out here */
    /* What weight_bytes() will be of a re-laid weight, for whoever decides before anything is
     * read; UINT64_MAX when no number holds it.  Any thread, without a backend open. */
    uint64_t (*weight_need)(enum k_type t, uint64_t rows, uint64_t cols, uint32_t use);

    /* Scratch for steps of up to this size; called once before the first operation and
     * again when a model with larger rows opens. */
    int (*reserve)(struct kern *k, uint32_t tokens, uint32_t cols_max, uint64_t ctx_tokens);

    /* 0, -EINVAL when shapes disagree (a programmer's error), E_DEVICE.  A NULL entry is a
     * missing operation: the engine finds that at load and says which. */
    int (*embed)(struct kern *k, const struct k_embed *a);
    int (*matmul)(struct kern *k, const struct k_matmul *a);
    int (*ffn)(struct kern *k, const struct k_ffn *a);
    int (*norm)(struct kern *k, const struct k_norm *a);
    int (*rope_store)(struct kern *k, const struct k_rope_store *a);
    int (*attn)(struct kern *k, const struct k_attn *a);
    int (*sync)(struct kern *k); /* everything issued so far is done */

    /* Captures what is issued between begin and end and replays it; NULL where the device
     * has no such thing (the engine then simply issues every step). */
    int (*graph_begin)(struct kern *k);
    int (*graph_end)(struct kern *k, void **ret_graph);
    int (*graph_launch)(struct kern *k, void *graph);

    /* BLAKE2b-64-like digest of the output bits of a fixed battery of every operation, run
     * on this device now: another compiler or instruction set that computes other bits is
     * another epoch.  Deterministic; under 100 ms. */
    int (*epoch)(struct kern *k, uint64_t *ret);
    uint64_t (*saturations)(const struct kern *k); /* rows clipped while stored; any thread */
};

/* kern_cuda.open says -ENODEV where there is no device. */
extern const struct kern_ops kern_ref, kern_cpu, kern_cuda;

#endif
