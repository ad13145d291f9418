/* rope.h - rotation frequencies of a model, every scaling variant folded into them.
 *
 * Kernels see only dims/2 inverse frequencies and one factor on sin and cos (kern.h,
 * k_rope_store): none, linear, YaRN and per-frequency factors (Llama 3's rope_freqs.weight)
 * all come down to that.  Values are computed once per load in the order the reference
 * implementation (transformers) computes them, in float, and are part of the fingerprint. */
#ifndef ENGINE_ROPE_H
#define ENGINE_ROPE_H
#include "base/err.h"
#include <stdint.h>

struct gguf;
enum { ROPE_PAIRS_MAX = 512 };
struct rope {
    uint32_t dims; /* rotated of each head, even, <= head_dim */
    float base, mscale;
    float inv_freq[ROPE_PAIRS_MAX];
    /* Per-frequency divisors, from a tensor; all ones otherwise.  Set by the caller between
     * rope_read and rope_scale. */
    float factor[ROPE_PAIRS_MAX];
    /* As read: */
    uint8_t kind; /* enum rope_scaling */
    float scale;  /* 1 / the scaling factor */
    uint32_t ctx_orig;
    float ext, attn, beta_fast, beta_slow;
};
enum rope_scaling { ROPE_SCALE_NONE, ROPE_SCALE_LINEAR, ROPE_SCALE_YARN };

/* Reads ARCH.rope.*.  ctx: the model's context, YaRN's default original one. */
int rope_read(struct rope *r, const struct gguf *g, const char *arch, uint32_t head_dim,
              uint32_t ctx, struct errbuf *eb);
/* Derives inv_freq and mscale; E_CORRUPT when a factor is not positive and finite. */
int rope_scale(struct rope *r, struct errbuf *eb);

#endif
