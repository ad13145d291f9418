/* arch_llama.c - the llama family: RMSNorm, grouped attention, gated feed-forward.
 *
 * SmolLM2, Llama 2 and 3, Mistral and every GGUF that says architecture "llama" without
 * experts.  Query and key weights are permuted in such files so that rotation acts on
 * neighbouring pairs.  Biases of the attention projections are optional; the head may be
 * tied to the embedding.
 *
 * Per layer: x += O(attn(rope(Q n(x)), K n(x), V n(x)));  x += D(silu(G m(x)) * U m(x)). */
#include "base/check.h"
#include "engine/arch.h"
#include "engine/gguf.h"
#include "engine/knobs.h"
#include "engine/rope.h"
#include "engine/weights.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS_MAX = 1024, HEAD_DIM_MAX = 1024, COLS_MAX = 1 << 20 };
enum { STREAM_K, STREAM_V };

struct layer {
    struct k_weight *attn_norm, *ffn_norm;
    struct k_weight *qkv[3], *qkv_bias[3]; /* a bias: NULL when the file has none */
    struct k_weight *out, *out_bias;
    struct k_weight *gate, *up, *down;
    uint64_t off[2]; /* of this layer's K and V extents in a page */
};
struct llama {
    const struct arch_ops *ops; /* first: this is a struct arch */
    uint32_t n_layers, n_embd, n_ff, n_head, n_kv_head, head_dim, n_vocab;
    float eps, attn_scale;
    struct rope rope;
    uint8_t fmt;
    uint32_t row_bytes;
    uint64_t page_bytes;
    char *identity;

    struct layer *layer;
    struct k_weight *embed, *out_norm, *head;

    struct kern *k;
    const struct kern_ops *kops;
    float *x, *qkv[3], *y; /* dev: the residual stream, projections, attention's result */
    float *one;            /* dev: the input (1, 0, 0 ...) that adds a bias */
    uint32_t *zero;        /* host: rows all 0, for the same */
};

/* --- opening ------------------------------------------------------------------------------- */

static int read_params(struct llama *m, const struct gguf *g, struct eng_info *info,
                       struct errbuf *eb)
{
    static const char arch[] = "llama";
    uint32_t experts = 0, v_dim = 0, ctx = 0;
    int r = arch_u32(g, arch, "expert_count", true, 0, UINT32_MAX, &experts, eb);

    if (r == 0 && experts > 0)
        return err_set(eb, E_UNSUPP,
                       "llama.expert_count is %u: models of experts are not supported",
                       experts);
    if (r == 0)
        r = arch_u32(g, arch, "block_count", false, 1, KV_LAYERS_MAX, &m->n_layers, eb);
    if (r == 0)
        r = arch_u32(g, arch, "embedding_length", false, 1, COLS_MAX, &m->n_embd, eb);
    if (r == 0)
        r = arch_u32(g, arch, "feed_forward_length", false, 1, COLS_MAX, &m->n_ff, eb);
    if (r == 0)
        r = arch_u32(g, arch, "context_length", false, 1, CTX_TOKENS_MAX, &ctx, eb);
    if (r == 0)
        r = arch_u32(g, arch, "attention.head_count", false, 1, HEADS_MAX, &m->n_head, eb);
    m->n_kv_head = m->n_head;
    if (r == 0)
        r = arch_u32(g, arch, "attention.head_count_kv", true, 1, m->n_head, &m->n_kv_head, eb);
    if (r < 0)
        return r;
    if (m->n_head % m->n_kv_head)
        return err_set(eb, E_SHAPE,
                       "llama.attention.head_count is %u, not a multiple of head_count_kv %u",
                       m->n_head, m->n_kv_head);
    m->head_dim = m->n_embd / m->n_head;
    r = arch_u32(g, arch, "attention.key_length", true, 2, HEAD_DIM_MAX, &m->head_dim, eb);
    v_dim = m->head_dim;
    if (r == 0)
        r = arch_u32(g, arch, "attention.value_length", true, 2, HEAD_DIM_MAX, &v_dim, eb);
    if (r < 0)
        return r;
    if (m->head_dim < 2 || m->head_dim % 2 || m->head_dim > HEAD_DIM_MAX)
        return err_set(eb, E_LIMIT, "a head is %u wide, allowed are even numbers from 2 to %d",
                       m->head_dim, HEAD_DIM_MAX);
    if (v_dim != m->head_dim)
        return err_set(eb, E_UNSUPP,
                       "llama.attention.value_length is %u, supported is only key_length, %u",
                       v_dim, m->head_dim);
    r = arch_f32(g, arch, "attention.layer_norm_rms_epsilon", false, 0, 1, &m->eps, eb);
    m->attn_scale = (float)(1 / sqrt((double)m->head_dim));
    if (r == 0)
        r = arch_f32(g, arch, "attention.scale", true, 1e-6, 1e6, &m->attn_scale, eb);
    if (r == 0)
        r = rope_read(&m->rope, g, arch, m->head_dim, ctx, eb);
    if (r == 0)
        r = knobs_check(g, arch, ctx, eb);
    if (r < 0)
        return r;

    const struct gguf_tensor *t = gguf_tensor(g, "token_embd.weight");
    if (!t || t->dims[1] < 1 || t->dims[1] > INT32_MAX)
        return err_set(eb, E_SHAPE, "tensor token_embd.weight is missing or has no rows");
    m->n_vocab = (uint32_t)t->dims[1];
    info->n_layers = m->n_layers;
    info->n_vocab = m->n_vocab;
    info->n_embd = m->n_embd;
    info->n_head = m->n_head;
    info->n_kv_head = m->n_kv_head;
    info->head_dim = m->head_dim;
    info->ctx_max = ctx;
    return 0;
}

/* K and V of every layer, nothing else: the whole history is append-only rows. */
static int declare(const struct llama *m, struct kv_layout *l, struct errbuf *eb)
{
    memset(l, 0, sizeof *l);
    snprintf(l->id, sizeof l->id, "gqa-%s-L%u-H%u-D%u", m->fmt == K_ROW_F32 ? "f32" : "f16",
             m->n_layers, m->n_kv_head, m->head_dim);
    l->n_streams = 2;
    for (int s = 0; s < 2; s++) {
        struct kv_stream *st = &l->stream[s];
        snprintf(st->name, sizeof st->name, "%s", s == STREAM_K ? "k" : "v");
        st->part = KV_HOT;
        st->fmt = m->fmt;
        st->tokens_row = 1;
        st->heads = m->n_kv_head;
        st->row_bytes = m->row_bytes;
        st->n_layers = m->n_layers;
        for (uint32_t i = 0; i < m->n_layers; i++)
            st->layers[i] = (uint16_t)i;
    }
    if (kv_layout_close(l) < 0)
        return err_set(eb, E_LIMIT,
                       "a block of %u layers, %u heads of %u is more than %d bytes of rows",
                       m->n_layers, m->n_kv_head, m->head_dim, KV_PAGE_BYTES_MAX);
    return 0;
}

static int llama_open(struct arch **ret, const struct gguf *g, uint8_t fmt,
                      struct kv_layout *layout, struct eng_info *info, struct errbuf *eb)
{
    struct llama *m = calloc(1, sizeof *m);
    int r = m ? 0 : -ENOMEM;

    if (r == 0) {
        m->ops = &arch_llama;
        m->fmt = fmt;
        r = read_params(m, g, info, eb);
    }
    if (r == 0) {
        m->row_bytes = m->head_dim * (fmt == K_ROW_F32 ? 4 : 2);
        r = declare(m, layout, eb);
    }
    if (r == 0) {
        m->page_bytes = layout->page_bytes[KV_HOT];
        m->layer = calloc(m->n_layers, sizeof *m->layer);
        r = m->layer ? 0 : -ENOMEM;
    }
    for (uint32_t i = 0; r == 0 && i < m->n_layers; i++)
        for (uint32_t s = 0; s < 2; s++)
            m->layer[i].off[s] = kv_layout_off(layout, s, i);
    if (r < 0) {
        arch_llama.close((struct arch *)m);
        return r;
    }
    *ret = (struct arch *)m;
    return 0;
}

static void llama_close(struct arch *a)
{
    struct llama *m = (struct llama *)a;

    if (!m)
        return;
    if (m->k) {
        m->kops->free(m->k, m->x);
        for (int i = 0; i < 3; i++)
            m->kops->free(m->k, m->qkv[i]);
        m->kops->free(m->k, m->y);
        m->kops->free(m->k, m->one);
    }
    free(m->zero);
    free(m->layer);
    free(m->identity);
    free(m);
}

/* --- weights ------------------------------------------------------------------------------- */

static int take_layer(struct llama *m, struct weights *w, uint32_t i, struct errbuf *eb)
{
    struct layer *l = &m->layer[i];
    uint32_t q = m->n_head * m->head_dim, kv = m->n_kv_head * m->head_dim;
    const struct {
        const char *name;
        uint32_t rows, cols, use;
        struct k_weight **to;
        struct k_weight **bias; /* NULL: it cannot have one */
    } t[] = {
        {"attn_norm", 1, m->n_embd, K_USE_VECTOR, &l->attn_norm, NULL},
        {"attn_q", q, m->n_embd, K_USE_MATMUL, &l->qkv[0], &l->qkv_bias[0]},
        {"attn_k", kv, m->n_embd, K_USE_MATMUL, &l->qkv[1], &l->qkv_bias[1]},
        {"attn_v", kv, m->n_embd, K_USE_MATMUL, &l->qkv[2], &l->qkv_bias[2]},
        {"attn_output", m->n_embd, q, K_USE_MATMUL, &l->out, &l->out_bias},
        {"ffn_norm", 1, m->n_embd, K_USE_VECTOR, &l->ffn_norm, NULL},
        {"ffn_gate", m->n_ff, m->n_embd, K_USE_MATMUL, &l->gate, NULL},
        {"ffn_up", m->n_ff, m->n_embd, K_USE_MATMUL, &l->up, NULL},
        {"ffn_down", m->n_embd, m->n_ff, K_USE_MATMUL, &l->down, NULL},
    };
    char name[64];
    int r = 0;

    for (size_t j = 0; r == 0 && j < sizeof t / sizeof *t; j++) {
        snprintf(name, sizeof name, "blk.%u.%s.weight", i, t[j].name);
        r = weights_take(w, name, t[j].rows, t[j].cols, t[j].use, t[j].to, eb);
        snprintf(name, sizeof name, "blk.%u.%s.bias", i, t[j].name);
        if (r == 0 && t[j].bias && weights_has(w, name))
            r = weights_take_bias(w, name, t[j].rows, t[j].bias, eb);
    }
    /* Left over in old files: the frequencies, which follow from the metadata. */
    snprintf(name, sizeof name, "blk.%u.attn_rot_embd", i);
    weights_skip(w, name);
    return r;
}

static int take_all(struct llama *m, struct weights *w, struct errbuf *eb)
{
    bool tied = !weights_has(w, "output.weight");
    int r = weights_take(w, "token_embd.weight", m->n_vocab, m->n_embd,
                         tied ? K_USE_EMBED | K_USE_MATMUL : K_USE_EMBED, &m->embed, eb);

    for (uint32_t i = 0; r == 0 && i < m->n_layers; i++)
        r = take_layer(m, w, i, eb);
    if (r == 0)
        r = weights_take(w, "output_norm.weight", 1, m->n_embd, K_USE_VECTOR, &m->out_norm, eb);
    m->head = m->embed;
    if (r == 0 && !tied)
        r = weights_take(w, "output.weight", m->n_vocab, m->n_embd, K_USE_MATMUL, &m->head, eb);
    if (r == 0 && weights_has(w, "rope_freqs.weight"))
        r = weights_take_floats(w, "rope_freqs.weight", m->rope.dims / 2, m->rope.factor, eb);
    if (r == 0)
        r = rope_scale(&m->rope, eb);
    return r == 0 ? weights_all_used(w, eb) : r;
}

/* Floats by their bits: text that reads the same everywhere. */
static int identify(struct llama *m)
{
    size_t n = 0;
    FILE *f = open_memstream(&m->identity, &n);
    const float *fl[] = {&m->eps, &m->attn_scale, &m->rope.mscale};
    uint32_t u;

    if (!f)
        return -ENOMEM;
    fprintf(f, "llama layers=%u embd=%u ff=%u head=%u kv=%u dim=%u vocab=%u rope=pairs,%u",
            m->n_layers, m->n_embd, m->n_ff, m->n_head, m->n_kv_head, m->head_dim, m->n_vocab,
            m->rope.dims);
    for (size_t i = 0; i < sizeof fl / sizeof *fl; i++) {
        memcpy(&u, fl[i], 4);
        fprintf(f, " %08x", u);
    }
    for (uint32_t i = 0; i < m->rope.dims / 2; i++) {
        memcpy(&u, &m->rope.inv_freq[i], 4);
        fprintf(f, ",%08x", u);
    }
    return fclose(f) == 0 ? 0 : -ENOMEM;
}

static int llama_load(struct arch *a, struct weights *w, uint32_t tokens, struct errbuf *eb)
{
    struct llama *m = (struct llama *)a;
    uint64_t q = (uint64_t)m->n_head * m->head_dim, kv = (uint64_t)m->n_kv_head * m->head_dim;
    float one[BIAS_COLS] = {1};
    int r = take_all(m, w, eb);

    if (r < 0)
        return r;
    m->k = w->k;
    m->kops = w->ops;
    m->x = m->kops->alloc(m->k, tokens * (uint64_t)m->n_embd * sizeof(float));
    m->qkv[0] = m->kops->alloc(m->k, tokens * q * sizeof(float));
    m->qkv[1] = m->kops->alloc(m->k, tokens * kv * sizeof(float));
    m->qkv[2] = m->kops->alloc(m->k, tokens * kv * sizeof(float));
    m->y = m->kops->alloc(m->k, tokens * q * sizeof(float));
    m->one = m->kops->alloc(m->k, sizeof one);
    m->zero = calloc(tokens, sizeof *m->zero);
    if (!m->x || !m->qkv[0] || !m->qkv[1] || !m->qkv[2] || !m->y || !m->one || !m->zero)
        return err_set(eb, -ENOMEM, "no memory for batches of %u tokens", tokens);
    r = m->kops->up(m->k, m->one, one, sizeof one);
    return r == 0 ? identify(m) : r;
}

/* --- computing ----------------------------------------------------------------------------- */

static int add_bias(struct llama *m, const struct k_weight *bias, float *y, uint32_t n)
{
    if (!bias)
        return 0;
    struct k_matmul a = {
        .w = {bias}, .y = {y}, .n_w = 1, .x = m->one, .rows = m->zero, .n = n, .add = true};
    return m->kops->matmul(m->k, &a);
}

static int attention(struct llama *m, const struct layer *l, const struct arch_batch *b)
{
    const struct kern_ops *ops = m->kops;
    const struct k_rows rows = {.pool = b->pool[KV_HOT],
                                .page_bytes = m->page_bytes,
                                .row_bytes = m->row_bytes,
                                .fmt = m->fmt,
                                .ratio = 1};
    struct k_rows krows = rows, vrows = rows;
    krows.off = l->off[STREAM_K];
    vrows.off = l->off[STREAM_V];

    struct k_matmul proj = {.w = {l->qkv[0], l->qkv[1], l->qkv[2]},
                            .y = {m->qkv[0], m->qkv[1], m->qkv[2]},
                            .n_w = 3,
                            .x = m->x,
                            .norm = l->attn_norm,
                            .eps = m->eps,
                            .n = b->n};
    int r = ops->matmul(m->k, &proj);
    for (int i = 0; r == 0 && i < 3; i++)
        r = add_bias(m, l->qkv_bias[i], m->qkv[i], b->n);

    struct k_rope_store store = {.q = m->qkv[0],
                                 .k = m->qkv[1],
                                 .v = m->qkv[2],
                                 .n_head = m->n_head,
                                 .n_kv_head = m->n_kv_head,
                                 .head_dim = m->head_dim,
                                 .rope_dims = m->rope.dims,
                                 .kind = K_ROPE_PAIRS,
                                 .inv_freq = m->rope.inv_freq,
                                 .mscale = m->rope.mscale,
                                 .krows = krows,
                                 .vrows = vrows,
                                 .seq = b->seq[KV_HOT],
                                 .n_seqs = b->n_seqs};
    if (r == 0)
        r = ops->rope_store(m->k, &store);

    struct k_attn at = {.q = m->qkv[0],
                        .y = m->y,
                        .n_head = m->n_head,
                        .n_kv_head = m->n_kv_head,
                        .head_dim = m->head_dim,
                        .scale = m->attn_scale,
                        .src = {{.k = krows, .v = vrows}},
                        .n_src = 1,
                        .seq = b->seq[KV_HOT],
                        .n_seqs = b->n_seqs};
    if (r == 0)
        r = ops->attn(m->k, &at);

    struct k_matmul out = {
        .w = {l->out}, .y = {m->x}, .n_w = 1, .x = m->y, .n = b->n, .add = true};
    if (r == 0)
        r = ops->matmul(m->k, &out);
    return r == 0 ? add_bias(m, l->out_bias, m->x, b->n) : r;
}

static int llama_forward(struct arch *a, const struct arch_batch *b)
{
    struct llama *m = (struct llama *)a;
    struct k_embed in = {.w = m->embed, .ids = b->ids, .y = m->x, .n = b->n};
    int r = m->kops->embed(m->k, &in);

    for (uint32_t i = 0; r == 0 && i < m->n_layers; i++) {
        const struct layer *l = &m->layer[i];
        if (atomic_load_explicit(b->stop, memory_order_relaxed))
            return -ECANCELED;
        r = attention(m, l, b);
        struct k_ffn ffn = {.gate = l->gate,
                            .up = l->up,
                            .down = l->down,
                            .norm = l->ffn_norm,
                            .eps = m->eps,
                            .act = K_ACT_SILU,
                            .x = m->x,
                            .y = m->x,
                            .n = b->n,
                            .add = true};
        if (r == 0)
            r = m->kops->ffn(m->k, &ffn);
    }
    return r;
}

static int llama_head(struct arch *a, const uint32_t *rows, uint32_t n, float *y)
{
    struct llama *m = (struct llama *)a;
    struct k_matmul head = {.w = {m->head},
                            .y = {y},
                            .n_w = 1,
                            .x = m->x,
                            .norm = m->out_norm,
                            .eps = m->eps,
                            .rows = rows,
                            .n = n};

    return m->kops->matmul(m->k, &head);
}

static const char *llama_identity(const struct arch *a)
{
    return ((const struct llama *)a)->identity;
}

static uint32_t llama_cols_max(const struct arch *a)
{
    const struct llama *m = (const struct llama *)a;
    uint32_t q = m->n_head * m->head_dim, c = m->n_embd > m->n_ff ? m->n_embd : m->n_ff;

    return c > q ? c : q;
}

static const char *const needs[] = {"embed", "matmul", "ffn", "rope_store",
                                    "attn",  "sync",   NULL};
const struct arch_ops arch_llama = {
    .name = "llama",
    .needs = needs,
    .open = llama_open,
    .close = llama_close,
    .load = llama_load,
    .forward = llama_forward,
    .head = llama_head,
    .identity = llama_identity,
    .cols_max = llama_cols_max,
};
