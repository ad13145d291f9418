/* rope.c - see rope.h.
 *
 * YaRN after Peng, Quesnelle, Fan and Shippole 2023 (arXiv 2309.00071): frequencies that turn
 * more than beta_fast times in the original context stay, those that turn less than
 * beta_slow times are interpolated, a ramp joins them; section 3.4's temperature is mscale. */
#include "engine/rope.h"
#include "engine/arch.h"
#include "engine/gguf.h"
#include <math.h>
#include <string.h>

static bool str_is(struct gguf_str s, const char *c)
{
    return s.bytes == strlen(c) && memcmp(s.p, c, strlen(c)) == 0;
}

static int read_kind(struct rope *r, const struct gguf *g, const char *arch, struct errbuf *eb)
{
    char key[96];
    struct gguf_str type = {"linear", 6}; /* a factor without a type means linear */

    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    (void)gguf_str(g, key, &type);
    if (str_is(type, "none"))
        r->kind = ROPE_SCALE_NONE;
    else if (str_is(type, "linear"))
        r->kind = ROPE_SCALE_LINEAR;
    else if (str_is(type, "yarn"))
        r->kind = ROPE_SCALE_YARN;
    else
        return err_set(eb, E_UNSUPP, "%s is '%.*s', supported are none, linear and yarn", key,
                       (int)(type.bytes < 32 ? type.bytes : 32), type.p);
    return 0;
}

int rope_read(struct rope *r, const struct gguf *g, const char *arch, uint32_t head_dim,
              uint32_t ctx, struct errbuf *eb)
{
    float factor = 0, ext = -1;
    int e;

    memset(r, 0, sizeof *r);
    r->dims = head_dim;
    r->base = 10000;
    r->ctx_orig = ctx;
    r->attn = 1;
    r->beta_fast = 32;
    r->beta_slow = 1;
    for (int i = 0; i < ROPE_PAIRS_MAX; i++)
        r->factor[i] = 1;

    e = read_kind(r, g, arch, eb);
    if (e == 0)
        e = arch_u32(g, arch, "rope.dimension_count", true, 2, head_dim, &r->dims, eb);
    if (e == 0 && (r->dims % 2 || r->dims / 2 > ROPE_PAIRS_MAX))
        e = err_set(eb, E_LIMIT,
                    "%s.rope.dimension_count is %u, allowed are even numbers to %d", arch,
                    r->dims, 2 * ROPE_PAIRS_MAX);
    if (e == 0)
        e = arch_f32(g, arch, "rope.freq_base", true, 1, 1e12, &r->base, eb);
    /* The older key first, so that the newer one wins. */
    if (e == 0)
        e = arch_f32(g, arch, "rope.scale_linear", true, 0, 1e6, &factor, eb);
    if (e == 0)
        e = arch_f32(g, arch, "rope.scaling.factor", true, 0, 1e6, &factor, eb);
    if (e == 0)
        e = arch_u32(g, arch, "rope.scaling.original_context_length", true, 1, CTX_TOKENS_MAX,
                     &r->ctx_orig, eb);
    r->ext = r->kind == ROPE_SCALE_YARN ? 1 : 0;
    if (e == 0)
        e = arch_f32(g, arch, "rope.scaling.yarn_ext_factor", true, -1, 1e3, &ext, eb);
    if (e == 0)
        e = arch_f32(g, arch, "rope.scaling.attn_factor", true, 1e-3, 1e3, &r->attn, eb);
    if (e == 0)
        e = arch_f32(g, arch, "rope.scaling.yarn_beta_fast", true, 1e-3, 1e6, &r->beta_fast,
                     eb);
    if (e == 0)
        e = arch_f32(g, arch, "rope.scaling.yarn_beta_slow", true, 1e-3, 1e6, &r->beta_slow,
                     eb);
    /* Negative: the default.  Without YaRN it would still bend the frequencies elsewhere. */
    if (ext >= 0 && r->kind == ROPE_SCALE_YARN)
        r->ext = ext;
    else if (e == 0 && ext > 0)
        e = err_set(eb, E_UNSUPP,
                    "%s.rope.scaling.yarn_ext_factor is %g without yarn scaling, supported is "
                    "only 0",
                    arch, (double)ext);
    r->scale = factor > 0 && r->kind != ROPE_SCALE_NONE ? 1 / factor : 1;
    return e;
}

/* The (fractional) pair that turns `turns` times within the original context. */
static double turning_pair(const struct rope *r, double turns)
{
    return r->dims * log(r->ctx_orig / (turns * 2 * M_PI)) / (2 * log((double)r->base));
}
static float temperature(float factor)
{
    return factor <= 1 ? 1.0f : 0.1f * logf(factor) + 1.0f;
}

int rope_scale(struct rope *r, struct errbuf *eb)
{
    bool yarn = r->kind == ROPE_SCALE_YARN && r->ext != 0;
    double lo = 0, hi = 0;

    r->mscale = r->attn;
    if (yarn) {
        r->mscale *= temperature(1 / r->scale);
        lo = fmax(0, floor(turning_pair(r, r->beta_fast)));
        hi = fmin(r->dims - 1, ceil(turning_pair(r, r->beta_slow)));
    }
    for (uint32_t i = 0; i < r->dims / 2; i++) {
        if (!(r->factor[i] > 0) || !isfinite(r->factor[i]))
            return err_set(eb, E_CORRUPT, "rope factor %u is %g, it must be positive", i,
                           (double)r->factor[i]);
        /* Rounded to float after each operation, as the reference does it. */
        float e = (float)(2 * i) / (float)r->dims;
        float inv = 1.0f / (float)pow((double)r->base, (double)e);
        inv /= r->factor[i];
        float keep = 0; /* how much of the frequency stays as it was */
        if (yarn)
            keep = (float)(1 - fmin(1, fmax(0, (i - lo) / fmax(0.001, hi - lo)))) * r->ext;
        r->inv_freq[i] = inv * r->scale * (1 - keep) + inv * keep;
        if (!(r->inv_freq[i] > 0) || !isfinite(r->inv_freq[i]))
            return err_set(eb, E_LIMIT, "rope frequency %u is %g, it must be positive", i,
                           (double)r->inv_freq[i]);
    }
    return 0;
}
