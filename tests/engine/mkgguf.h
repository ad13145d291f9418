/* mkgguf.h - builds small GGUF files in memory, for tests: right ones, and wrong ones on purpose.
 *
 * A growing buffer with writers for the format's parts, then whole tiny llama models with
 * random weights of any type.  Random blocks have sane scales, so logits stay finite. */
#ifndef TESTS_MKGGUF_H
#define TESTS_MKGGUF_H
#include "base/bytes.h"
#include "base/check.h"
#include "engine/gguf.h"
#include "kernels/kern.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct mk {
    uint8_t *p;
    size_t n, cap;
};
__attribute__((unused)) static void *mk_add(struct mk *m, const void *p, size_t n)
{
    if (m->n + n >= m->cap) {
        m->cap = (m->n + n) * 2 + 4096;
        m->p = realloc(m->p, m->cap);
        must(m->p);
    }
    if (p && n)
        memcpy(m->p + m->n, p, n);
    else
        memset(m->p + m->n, 0, n);
    m->n += n;
    return m->p + m->n - n;
}
__attribute__((unused)) static void mk_u32(struct mk *m, uint32_t v)
{
    mk_add(m, &v, 4);
}
__attribute__((unused)) static void mk_u64(struct mk *m, uint64_t v)
{
    mk_add(m, &v, 8);
}
__attribute__((unused)) static void mk_str(struct mk *m, const char *s)
{
    mk_u64(m, strlen(s));
    mk_add(m, s, strlen(s));
}
__attribute__((unused)) static void mk_head(struct mk *m, uint64_t n_tensors, uint64_t n_kv)
{
    mk_add(m, "GGUF", 4);
    mk_u32(m, 3);
    mk_u64(m, n_tensors);
    mk_u64(m, n_kv);
}
__attribute__((unused)) static void mk_kv_u32(struct mk *m, const char *key, uint32_t v)
{
    mk_str(m, key);
    mk_u32(m, GGUF_U32);
    mk_u32(m, v);
}
__attribute__((unused)) static void mk_kv_f32(struct mk *m, const char *key, float v)
{
    mk_str(m, key);
    mk_u32(m, GGUF_F32);
    mk_add(m, &v, 4);
}
__attribute__((unused)) static void mk_kv_str(struct mk *m, const char *key, const char *v)
{
    mk_str(m, key);
    mk_u32(m, GGUF_STR);
    mk_str(m, v);
}
__attribute__((unused)) static void mk_tensor(struct mk *m, const char *name, uint32_t type,
                                              uint64_t cols, uint64_t rows, uint64_t off)
{
    mk_str(m, name);
    mk_u32(m, rows ? 2 : 1);
    mk_u64(m, cols);
    if (rows)
        mk_u64(m, rows);
    mk_u32(m, type);
    mk_u64(m, off);
}
__attribute__((unused)) static void mk_pad(struct mk *m, size_t align)
{
    while (m->n % align)
        mk_add(m, "", 1);
}

/* --- tiny llama models ---------------------------------------------------------------------- */

struct mk_key {
    const char *key;
    enum gguf_kv_type type; /* F32, U32, BOOL: num; STR: text */
    double num;
    const char *text;
};
struct mk_llama {
    uint32_t layers, embd, ff, head, kv, dim, ctx; /* dim 0: embd / head */
    uint32_t type;                                 /* of matrices */
    uint32_t embed_type;
    bool tied, bias, no_experts_key;
    const char *scaling; /* NULL, "linear", "yarn" */
    float factor;
    bool rope_freqs;
    uint64_t seed;
    const char *extra_tensor;  /* one more F32 vector of this name */
    const struct mk_key *keys; /* more metadata, up to a key of NULL */
    uint32_t experts;
    float eps;          /* 0: 1e-5 */
    uint32_t rope_dims; /* 0: dim, or no key where dim is 0 */
    const char *pre;    /* NULL: gpt-2 */
    uint32_t rows;      /* of the table of tokens; 0: as many as there are tokens */
    struct {            /* more metadata of floats, ends with NULL */
        const char *key;
        float v;
    } extra[4];
};
enum { MK_VOCAB = 256 + 2 };

static uint64_t mk_next(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static float mk_unit(uint64_t *s) /* -1 .. 1 */
{
    return (float)((double)(int64_t)mk_next(s) / 9223372036854775808.0);
}
static uint16_t mk_half(float f) /* positive and small, truncated */
{
    uint32_t u;
    if (f < 0x1p-14f)
        return (uint16_t)(f * 0x1p24f);
    memcpy(&u, &f, 4);
    return (uint16_t)((((u >> 23) - 112) << 10) | ((u >> 13) & 0x3ff));
}

/* Fills n bytes with random blocks of a type; `amp` is roughly the size of a weight. */
static void mk_blocks(uint8_t *p, size_t bytes, uint32_t type, float amp, uint64_t *seed)
{
    /* Where the f16 scales of a block lie, and how large a step of theirs makes a weight. */
    static const struct {
        uint8_t type, n, at[2];
        float step;
    } scales[] = {
        {K_Q4_0, 1, {0}, 4},      {K_Q4_1, 2, {0, 2}, 8},   {K_Q5_0, 1, {0}, 8},
        {K_Q5_1, 2, {0, 2}, 16},  {K_Q8_0, 1, {0}, 64},     {K_Q2_K, 2, {80, 82}, 24},
        {K_Q3_K, 1, {108}, 64},   {K_Q4_K, 2, {0, 2}, 256}, {K_Q5_K, 2, {0, 2}, 512},
        {K_Q6_K, 1, {208}, 2048},
    };
    uint32_t each = k_type_info(type)->block_bytes;

    if (type == K_F32 || type == K_F16 || type == K_BF16) {
        for (size_t i = 0; i < bytes / each; i++) {
            float f = amp * mk_unit(seed);
            uint32_t u;
            uint16_t h = mk_half(fabsf(f) + amp * 0.01f);
            memcpy(&u, &f, 4);
            if (type == K_F32)
                memcpy(p + 4 * i, &f, 4);
            else if (type == K_BF16)
                st16(p + 2 * i, (uint16_t)(u >> 16));
            else
                st16(p + 2 * i, (uint16_t)(h | (f < 0 ? 0x8000 : 0)));
        }
        return;
    }
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)mk_next(seed);
    for (size_t s = 0; s < sizeof scales / sizeof *scales; s++)
        for (size_t b = 0; scales[s].type == type && b < bytes / each; b++)
            for (int j = 0; j < scales[s].n; j++) {
                float d = amp / scales[s].step * (0.75f + 0.25f * mk_unit(seed));
                uint16_t h = mk_half(d);
                /* The minimum of x_1 formats is negative: values straddle zero. */
                if (j == 1 && (type == K_Q4_1 || type == K_Q5_1))
                    h = (uint16_t)(mk_half(d * (type == K_Q4_1 ? 7.5f : 15.5f)) | 0x8000);
                st16(p + b * each + scales[s].at[j], h);
            }
}

struct mk_plan {
    struct mk dir, data;
    uint64_t seed;
    uint32_t n;
};
static void mk_put(struct mk_plan *p, const char *name, uint32_t type, uint64_t cols,
                   uint64_t rows, float amp, float base)
{
    const struct k_type_info *ti = k_type_info(type);
    uint64_t bytes = cols / ti->block * ti->block_bytes * (rows ? rows : 1);

    mk_pad(&p->data, 32);
    mk_tensor(&p->dir, name, type, cols, rows, p->data.n);
    uint8_t *at = mk_add(&p->data, NULL, bytes);
    mk_blocks(at, bytes, type, amp, &p->seed);
    for (uint64_t i = 0; base != 0 && type == K_F32 && i < cols; i++) {
        float f;
        memcpy(&f, at + 4 * i, 4);
        f += base;
        memcpy(at + 4 * i, &f, 4);
    }
    p->n++;
}

/* The metadata of a byte-level tokenizer: 256 bytes, one merge, two control tokens. */
static uint32_t mk_tokenizer(struct mk *m, const char *pre)
{
    mk_kv_str(m, "tokenizer.ggml.model", "gpt2");
    mk_kv_str(m, "tokenizer.ggml.pre", pre ? pre : "gpt-2");
    mk_str(m, "tokenizer.ggml.tokens");
    mk_u32(m, GGUF_ARR);
    mk_u32(m, GGUF_STR);
    mk_u64(m, MK_VOCAB);
    uint32_t odd = 256;
    for (uint32_t b = 0; b < 256; b++) { /* GPT-2's printable stand-ins for bytes, in UTF-8 */
        bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        uint32_t cp = plain ? b : odd++;
        char s[3] = {0};
        if (cp < 0x80) {
            s[0] = (char)cp;
        } else {
            s[0] = (char)(0xc0 | (cp >> 6));
            s[1] = (char)(0x80 | (cp & 63));
        }
        mk_str(m, s);
    }
    mk_str(m, "<|end|>");
    mk_str(m, "ab");
    mk_str(m, "tokenizer.ggml.token_type");
    mk_u32(m, GGUF_ARR);
    mk_u32(m, GGUF_I32);
    mk_u64(m, MK_VOCAB);
    for (uint32_t i = 0; i < MK_VOCAB; i++)
        mk_u32(m, i == 256 ? 3 : 1);
    mk_str(m, "tokenizer.ggml.merges");
    mk_u32(m, GGUF_ARR);
    mk_u32(m, GGUF_STR);
    mk_u64(m, 1);
    mk_str(m, "a b");
    mk_kv_u32(m, "tokenizer.ggml.eos_token_id", 256);
    mk_kv_u32(m, "tokenizer.ggml.bos_token_id", 256);
    return 7;
}

/* A whole file in memory; free m->p. */
__attribute__((unused)) static void mk_llama(struct mk *m, const struct mk_llama *o)
{
    struct mk_plan p = {.seed = o->seed};
    struct mk kv = {0};
    uint32_t dim = o->dim ? o->dim : o->embd / o->head, n_kv = 0;
    float in = 1.7f / sqrtf((float)o->embd);
    char name[64];

    mk_put(&p, "token_embd.weight", o->embed_type ? o->embed_type : o->type, o->embd,
           o->rows ? o->rows : MK_VOCAB, 1, 0);
    for (uint32_t l = 0; l < o->layers; l++) {
        const struct {
            const char *name;
            uint32_t type, cols, rows;
            float amp, base;
        } t[] = {
            {"attn_norm.weight", K_F32, o->embd, 0, 0.3f, 1},
            {"attn_q.weight", o->type, o->embd, o->head * dim, in * 2, 0},
            {"attn_k.weight", o->type, o->embd, o->kv * dim, in * 2, 0},
            {"attn_v.weight", o->type, o->embd, o->kv * dim, in, 0},
            {"attn_output.weight", o->type, o->head * dim, o->embd, in, 0},
            {"ffn_norm.weight", K_F32, o->embd, 0, 0.3f, 1},
            {"ffn_gate.weight", o->type, o->embd, o->ff, in, 0},
            {"ffn_up.weight", o->type, o->embd, o->ff, in, 0},
            {"ffn_down.weight", o->type, o->ff, o->embd, in, 0},
            {"attn_q.bias", K_F32, o->head * dim, 0, 0.5f, 0},
            {"attn_k.bias", K_F32, o->kv * dim, 0, 0.5f, 0},
            {"attn_v.bias", K_F32, o->kv * dim, 0, 0.5f, 0},
            {"attn_output.bias", K_F32, o->embd, 0, 0.5f, 0},
        };
        for (uint32_t i = 0; i < (o->bias ? 13u : 9u); i++) {
            snprintf(name, sizeof name, "blk.%u.%s", l, t[i].name);
            mk_put(&p, name, t[i].type, t[i].cols, t[i].rows, t[i].amp, t[i].base);
        }
    }
    mk_put(&p, "output_norm.weight", K_F32, o->embd, 0, 0.3f, 1);
    if (!o->tied)
        mk_put(&p, "output.weight", o->type, o->embd, MK_VOCAB, in * 2, 0);
    if (o->rope_freqs)
        mk_put(&p, "rope_freqs.weight", K_F32, dim / 2, 0, 1, 2);
    if (o->extra_tensor)
        mk_put(&p, o->extra_tensor, K_F32, o->embd, 0, 1, 0);

    n_kv += mk_tokenizer(&kv, o->pre);
    mk_kv_str(&kv, "general.architecture", "llama"), n_kv++;
    mk_kv_str(&kv, "general.name", "tiny"), n_kv++;
    mk_kv_u32(&kv, "llama.block_count", o->layers), n_kv++;
    mk_kv_u32(&kv, "llama.embedding_length", o->embd), n_kv++;
    mk_kv_u32(&kv, "llama.feed_forward_length", o->ff), n_kv++;
    mk_kv_u32(&kv, "llama.context_length", o->ctx), n_kv++;
    mk_kv_u32(&kv, "llama.attention.head_count", o->head), n_kv++;
    mk_kv_u32(&kv, "llama.attention.head_count_kv", o->kv), n_kv++;
    if (o->dim) {
        mk_kv_u32(&kv, "llama.attention.key_length", o->dim), n_kv++;
        mk_kv_u32(&kv, "llama.attention.value_length", o->dim), n_kv++;
    }
    if (o->dim || o->rope_dims)
        mk_kv_u32(&kv, "llama.rope.dimension_count", o->rope_dims ? o->rope_dims : o->dim),
            n_kv++;
    mk_kv_f32(&kv, "llama.attention.layer_norm_rms_epsilon", o->eps > 0 ? o->eps : 1e-5f),
        n_kv++;
    for (int i = 0; i < 4 && o->extra[i].key; i++)
        mk_kv_f32(&kv, o->extra[i].key, o->extra[i].v), n_kv++;
    if (o->scaling) {
        mk_kv_str(&kv, "llama.rope.scaling.type", o->scaling), n_kv++;
        mk_kv_f32(&kv, "llama.rope.scaling.factor", o->factor), n_kv++;
        mk_kv_u32(&kv, "llama.rope.scaling.original_context_length", o->ctx / 4), n_kv++;
    }
    for (const struct mk_key *k = o->keys; k && k->key; k++, n_kv++)
        if (k->type == GGUF_STR) {
            mk_kv_str(&kv, k->key, k->text);
        } else if (k->type == GGUF_F32) {
            mk_kv_f32(&kv, k->key, (float)k->num);
        } else if (k->type == GGUF_BOOL) {
            mk_str(&kv, k->key);
            mk_u32(&kv, GGUF_BOOL);
            mk_add(&kv, (uint8_t[]){k->num != 0}, 1);
        } else {
            mk_kv_u32(&kv, k->key, (uint32_t)k->num);
        }
    if (o->experts)
        mk_kv_u32(&kv, "llama.expert_count", o->experts), n_kv++;

    m->n = 0;
    mk_head(m, p.n, n_kv);
    mk_add(m, kv.p, kv.n);
    mk_add(m, p.dir.p, p.dir.n);
    mk_pad(m, 32);
    mk_add(m, p.data.p, p.data.n);
    free(kv.p);
    free(p.dir.p);
    free(p.data.p);
}

/* Writes a buffer to a new temporary file; the caller unlinks it. */
__attribute__((unused)) static void mk_file(const struct mk *m, char *path, size_t cap)
{
    snprintf(path, cap, "/tmp/hearth-test-XXXXXX");
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "wb");
    must(f && fwrite(m->p, 1, m->n, f) == m->n);
    must(fclose(f) == 0);
}

#endif
