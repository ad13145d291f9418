/* test_llama.c - the llama family against its formulas, written down here once more.
 *
 * ref and cpu share what the engine reads from the file and how it puts operations together, so
 * beside each other they cannot show a knob that both ignore.  Here every number is taken from
 * what was asked for, the weights are read from the file, and all is done in double. */
#include "tests/engine/tiny.h"

enum { LLAMA_N = 48 };

struct oracle {
    const struct mk_llama *m;
    struct gguf *g;
    uint32_t dim, rope_dims;
    double base, scale, mscale, attn_scale, eps;
    double inv[64];
};

/* A tensor as floats, or NULL. */
static float *tensor(const struct oracle *o, int layer, const char *name)
{
    struct errbuf eb = {""};
    char full[64];

    if (layer >= 0)
        snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    const struct gguf_tensor *t = gguf_tensor(o->g, layer >= 0 ? full : name);
    if (!t)
        return NULL;
    uint64_t n = t->dims[0] * t->dims[1];
    uint8_t *raw = malloc(t->bytes);
    float *f = malloc(n * sizeof *f);
    must(raw && f && t->type == K_F32 && n * 4 == t->bytes);
    CHECK_EQ(gguf_read(o->g, t, 0, raw, t->bytes, &eb), 0);
    memcpy(f, raw, t->bytes);
    free(raw);
    return f;
}

static void norm(const double *x, const float *w, double *y, uint32_t n, double eps)
{
    double s = 0;

    for (uint32_t i = 0; i < n; i++)
        s += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] / sqrt(s / n + eps) * (double)w[i];
}

/* y[i] (+)= sum of w[i][j] x[j], plus a bias when there is one; frees both. */
static void apply(float *w, float *bias, const double *x, double *y, uint32_t rows,
                  uint32_t cols, bool add)
{
    must(w);
    for (uint32_t i = 0; i < rows; i++) {
        double s = bias ? (double)bias[i] : 0;
        for (uint32_t j = 0; j < cols; j++)
            s += (double)w[(size_t)i * cols + j] * x[j];
        y[i] = add ? y[i] + s : s;
    }
    free(w);
    free(bias);
}

static double extra(const struct mk_llama *m, const char *key, double otherwise)
{
    for (int i = 0; i < 4 && m->extra[i].key; i++)
        if (strcmp(m->extra[i].key, key) == 0)
            return (double)m->extra[i].v;
    return otherwise;
}

/* The fractional pair that turns so often in the original context (YaRN, appendix A.2). */
static double pair_of(const struct oracle *o, double turns)
{
    return o->rope_dims * log(o->m->ctx / 4 / (turns * 2 * M_PI)) / (2 * log(o->base));
}

static void angles(struct oracle *o)
{
    const struct mk_llama *m = o->m;
    bool yarn = m->scaling && strcmp(m->scaling, "yarn") == 0;
    float *factor = tensor(o, -1, "rope_freqs.weight");
    double by = extra(m, "llama.rope.scale_linear", 1), lo = 0, hi = 0;

    by = extra(m, "llama.rope.scaling.factor", m->scaling ? (double)m->factor : by);
    if (m->scaling && strcmp(m->scaling, "none") == 0)
        by = 1;
    o->mscale = extra(m, "llama.rope.scaling.attn_factor", 1);
    if (yarn) {
        o->mscale *= 0.1 * log(by) + 1;
        lo = floor(pair_of(o, extra(m, "llama.rope.scaling.yarn_beta_fast", 32)));
        hi = ceil(pair_of(o, extra(m, "llama.rope.scaling.yarn_beta_slow", 1)));
        lo = lo < 0 ? 0 : lo;
        hi = hi > o->rope_dims - 1 ? o->rope_dims - 1 : hi;
    }
    for (uint32_t i = 0; i < o->rope_dims / 2; i++) {
        double inv = pow(o->base, -2.0 * i / o->rope_dims) / (factor ? (double)factor[i] : 1);
        double ramp = (i - lo) / (hi > lo ? hi - lo : 0.001);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        o->inv[i] = yarn ? inv / by * ramp + inv * (1 - ramp) : inv / by;
    }
    free(factor);
}

static void turn(const struct oracle *o, double *head, uint32_t pos)
{
    for (uint32_t i = 0; i < o->rope_dims / 2; i++) {
        double c = cos(pos * o->inv[i]) * o->mscale, s = sin(pos * o->inv[i]) * o->mscale;
        double u = head[2 * i], v = head[2 * i + 1];
        head[2 * i] = u * c - v * s;
        head[2 * i + 1] = u * s + v * c;
    }
}

/* One layer's attention over all tokens; q, k, v: [token][head][dim]. */
static void attend(const struct oracle *o, const double *q, const double *k, const double *v,
                   double *y)
{
    uint32_t d = o->dim, nh = o->m->head, nk = o->m->kv;
    double p[LLAMA_N];

    for (uint32_t t = 0; t < LLAMA_N; t++)
        for (uint32_t h = 0; h < nh; h++) {
            const double *x = q + ((size_t)t * nh + h) * d;
            double *z = y + ((size_t)t * nh + h) * d, sum = 0;
            uint32_t g = h / (nh / nk);
            for (uint32_t s = 0; s <= t; s++) {
                double dot = 0;
                for (uint32_t i = 0; i < d; i++)
                    dot += x[i] * k[((size_t)s * nk + g) * d + i];
                sum += p[s] = exp(dot * o->attn_scale);
            }
            for (uint32_t i = 0; i < d; i++) {
                z[i] = 0;
                for (uint32_t s = 0; s <= t; s++)
                    z[i] += p[s] / sum * v[((size_t)s * nk + g) * d + i];
            }
        }
}

static void layer(const struct oracle *o, int l, double *x, double *buf[6])
{
    const struct mk_llama *m = o->m;
    uint32_t e = m->embd, d = o->dim, nq = m->head * d, nk = m->kv * d;
    double *n = buf[0], *q = buf[1], *k = buf[2], *v = buf[3], *y = buf[4], *h = buf[5];
    float *w = tensor(o, l, "attn_norm.weight");

    for (uint32_t t = 0; t < LLAMA_N; t++) {
        norm(x + (size_t)t * e, w, n, e, o->eps);
        apply(tensor(o, l, "attn_q.weight"), tensor(o, l, "attn_q.bias"), n, q + (size_t)t * nq,
              nq, e, false);
        apply(tensor(o, l, "attn_k.weight"), tensor(o, l, "attn_k.bias"), n, k + (size_t)t * nk,
              nk, e, false);
        apply(tensor(o, l, "attn_v.weight"), tensor(o, l, "attn_v.bias"), n, v + (size_t)t * nk,
              nk, e, false);
        for (uint32_t i = 0; i < m->head; i++)
            turn(o, q + (size_t)t * nq + (size_t)i * d, t);
        for (uint32_t i = 0; i < m->kv; i++)
            turn(o, k + (size_t)t * nk + (size_t)i * d, t);
    }
    free(w);
    attend(o, q, k, v, y);
    w = tensor(o, l, "ffn_norm.weight");
    for (uint32_t t = 0; t < LLAMA_N; t++) {
        double *at = x + (size_t)t * e;
        apply(tensor(o, l, "attn_output.weight"), tensor(o, l, "attn_output.bias"),
              y + (size_t)t * nq, at, e, nq, true);
        norm(at, w, n, e, o->eps);
        apply(tensor(o, l, "ffn_gate.weight"), NULL, n, h, m->ff, e, false);
        apply(tensor(o, l, "ffn_up.weight"), NULL, n, h + m->ff, m->ff, e, false);
        for (uint32_t i = 0; i < m->ff; i++)
            h[i] = h[i] / (1 + exp(-h[i])) * h[m->ff + i];
        apply(tensor(o, l, "ffn_down.weight"), NULL, h, at, e, m->ff, true);
    }
    free(w);
}

/* Logits of LLAMA_N tokens. */
static void oracle_run(struct oracle *o, const int32_t *ids, double *logits)
{
    const struct mk_llama *m = o->m;
    uint32_t e = m->embd;
    size_t wide = (size_t)LLAMA_N * (m->head * o->dim + 2 * m->ff + e);
    double *x = calloc((size_t)LLAMA_N * e, sizeof *x), *buf[6];
    float *embed = tensor(o, -1, "token_embd.weight");

    for (int i = 0; i < 6; i++)
        must(buf[i] = calloc(wide, sizeof(double)));
    for (uint32_t t = 0; t < LLAMA_N; t++)
        for (uint32_t i = 0; i < e; i++)
            x[(size_t)t * e + i] = (double)embed[(size_t)ids[t] * e + i];
    free(embed);
    for (uint32_t l = 0; l < m->layers; l++)
        layer(o, (int)l, x, buf);
    float *w = tensor(o, -1, "output_norm.weight");
    for (uint32_t t = 0; t < LLAMA_N; t++) {
        norm(x + (size_t)t * e, w, buf[0], e, o->eps);
        apply(tensor(o, -1, m->tied ? "token_embd.weight" : "output.weight"), NULL, buf[0],
              logits + (size_t)t * MK_VOCAB, MK_VOCAB, e, false);
    }
    free(w);
    free(x);
    for (int i = 0; i < 6; i++)
        free(buf[i]);
}

static double far(const double *want, const float *got)
{
    double d = 0, s = 0;

    for (size_t i = 0; i < (size_t)LLAMA_N * MK_VOCAB; i++) {
        d += (want[i] - (double)got[i]) * (want[i] - (double)got[i]);
        s += want[i] * want[i];
    }
    return s > 0 ? d / s : 1;
}

/* The engine's logits are the formulas'; returns them, to be freed. */
static double *agrees(const char *what, struct mk_llama m)
{
    struct eng_opts opts[2] = {{.kern = &kern_ref, .act_f32 = true, .rows_f32 = true},
                               {.kern = &kern_cpu, .threads = 2, .rows_f32 = true}};
    struct errbuf eb = {""};
    struct mk file = {0};
    struct oracle o = {.m = &m};
    struct tiny t;
    double *want = calloc((size_t)LLAMA_N * MK_VOCAB, sizeof *want);

    m.type = K_F32;
    o.dim = m.dim ? m.dim : m.embd / m.head;
    o.rope_dims = m.rope_dims ? m.rope_dims : o.dim;
    o.base = extra(&m, "llama.rope.freq_base", 10000);
    o.attn_scale = extra(&m, "llama.attention.scale", 1 / sqrt(o.dim));
    o.eps = m.eps > 0 ? (double)m.eps : 1e-5;
    mk_llama(&file, &m);
    CHECK_EQ(gguf_parse(&o.g, file.p, file.n, &eb), 0);
    angles(&o);
    for (int b = 0; b < 2; b++) {
        struct engine *e = tiny_open(&m, &opts[b]);
        if (!e)
            continue;
        tiny_init(&t, e, 3);
        if (b == 0)
            oracle_run(&o, t.ids, want);
        CHECK_EQ(tiny_run(&t, 0, LLAMA_N, b ? 13 : LLAMA_N), 0);
        double d = far(want, t.logits);
        if (!(d < 1e-9))
            t_fail(__FILE__, __LINE__, "%s, %s: %g away from the formulas", what,
                   b ? "cpu" : "ref", d);
        tiny_fini(&t);
        eng_close(e);
    }
    gguf_close(o.g);
    free(file.p);
    return want;
}

/* Also that each knob is one: the result is another than without it. */
static void every_knob_does_what_its_formula_says(void)
{
    struct mk_llama m = tiny_default;
    float *plain = malloc(sizeof(float) * LLAMA_N * MK_VOCAB);
    double *base = agrees("plain", m);

    for (size_t i = 0; i < (size_t)LLAMA_N * MK_VOCAB; i++)
        plain[i] = (float)base[i];
    free(base);
#define KNOB(what, ...)                                                                        \
    do {                                                                                       \
        m = tiny_default;                                                                      \
        __VA_ARGS__;                                                                           \
        base = agrees(what, m);                                                                \
        if (!(far(base, plain) > 1e-7))                                                        \
            t_fail(__FILE__, __LINE__, "%s changes nothing", what);                            \
        free(base);                                                                            \
    } while (0)
    KNOB("biases", m.bias = true);
    KNOB("a head of its own", m.tied = false);
    KNOB("an epsilon", m.eps = 0.03f);
    KNOB("another base", m.extra[0].key = "llama.rope.freq_base", m.extra[0].v = 1e6f);
    KNOB("a scale", m.extra[0].key = "llama.attention.scale", m.extra[0].v = 0.4f);
    KNOB("half of each head turned", m.rope_dims = 8);
    KNOB("narrow heads", m.dim = 8);
    KNOB("heads of embd / n", m.dim = 0; m.embd = 192; m.head = 6);
    KNOB("rope factors", m.rope_freqs = true);
    KNOB("linear", m.scaling = "linear"; m.factor = 4);
    KNOB("a factor without a type", m.extra[0].key = "llama.rope.scaling.factor",
         m.extra[0].v = 3);
    KNOB("the old key", m.extra[0].key = "llama.rope.scale_linear", m.extra[0].v = 5);
    KNOB("both keys", m.scaling = "linear"; m.factor = 2;
         m.extra[0].key = "llama.rope.scale_linear", m.extra[0].v = 5);
    KNOB("an attention factor", m.extra[0].key = "llama.rope.scaling.attn_factor",
         m.extra[0].v = 1.5f);
    KNOB("yarn", m.scaling = "yarn"; m.factor = 4);
    KNOB("yarn with its own bounds", m.scaling = "yarn"; m.factor = 8;
         m.extra[0].key = "llama.rope.scaling.yarn_beta_fast", m.extra[0].v = 8;
         m.extra[1].key = "llama.rope.scaling.yarn_beta_slow", m.extra[1].v = 0.25f);
    KNOB("yarn over factors", m.scaling = "yarn"; m.factor = 4; m.rope_freqs = true);
#undef KNOB
    m = tiny_default;
    m.scaling = "none", m.factor = 4;
    base = agrees("a scaling of type none", m);
    CHECK(far(base, plain) < 1e-12);
    free(base);
    free(plain);
}

static void a_factor_that_is_not_positive_is_refused(void)
{
    static const float bad[] = {0, -1, NAN, INFINITY};
    struct errbuf eb;
    struct mk_llama m = tiny_default;

    m.rope_freqs = true;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct eng_opts o = {.kern = &kern_ref};
        struct engine *e = NULL;
        struct mk file = {0};
        struct gguf *g = NULL;
        char path[64];
        mk_llama(&file, &m);
        CHECK_EQ(gguf_parse(&g, file.p, file.n, &eb), 0);
        memcpy(file.p + gguf_tensor(g, "rope_freqs.weight")->at + 4 * i, &bad[i], 4);
        gguf_close(g);
        mk_file(&file, path, sizeof path);
        o.path = path;
        eb.s[0] = 0;
        CHECK_EQ(eng_open(&e, &o, &eb), E_CORRUPT);
        CHECK(strstr(eb.s, "rope") != NULL);
        eng_close(e);
        unlink(path);
        free(file.p);
    }
}

T_MAIN({"every_knob_does_what_its_formula_says", every_knob_does_what_its_formula_says},
       {"a_factor_that_is_not_positive_is_refused", a_factor_that_is_not_positive_is_refused})
