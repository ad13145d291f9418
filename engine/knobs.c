/* knobs.c - see knobs.h. */
#include "engine/knobs.h"
#include "engine/gguf.h"
#include <string.h>

/* Numbers, and what changes nothing: one of two values (the same twice when there is one). */
static const struct {
    const char *key;
    double same[2];
} numbers[] = {
    {"attn_logit_softcapping", {0, 0}},
    {"final_logit_softcapping", {0, 0}},
    {"router_logit_softcapping", {0, 0}},
    {"attention.clamp_kqv", {0, 0}},
    {"attention.max_alibi_bias", {0, 0}},
    {"attention.temperature_scale", {0, 0}},
    {"attention.temperature_length", {0, 0}},
    {"attention.chunk_size", {0, 0}},
    {"attention.value_scale", {0, 1}},
    {"attention.q_lora_rank", {0, 0}},
    {"attention.kv_lora_rank", {0, 0}},
    {"attention.relative_buckets_count", {0, 0}},
    {"attention.shared_kv_layers", {0, 0}},
    {"attention.output_scale", {0, 1}},
    {"no_rope_layer_step", {0, 0}},
    {"no_rope_layer_interval", {0, 0}},
    {"embedding_scale", {0, 1}},
    {"residual_scale", {0, 1}},
    {"logit_scale", {0, 1}},
    {"expert_shared_count", {0, 0}},
    {"nextn_predict_layers", {0, 0}},
    {"token_shift_count", {0, 0}},
    {"rope.scaling.yarn_log_multiplier", {0, 0}},
    {"rope.scaling.yarn_attn_factor", {1, 1}},
    {"rope.scaling.alpha", {0, 1}},
};
static const struct {
    const char *key;
    bool same;
} flags[] = {
    {"attention.causal", true},       {"use_parallel_residual", false}, {"swin_norm", false},
    {"attention.use_qk_norm", false}, {"attention.use_kq_norm", false},
};
/* Present at all, they change something. */
static const char *const present[] = {"rope.dimension_sections"};

static bool key_there(const struct gguf *g, const char *key, enum gguf_kv_type *ret)
{
    for (uint32_t i = 0; i < gguf_n_kv(g); i++) {
        struct gguf_str k = gguf_key_at(g, i, ret);
        if (k.bytes == strlen(key) && memcmp(k.p, key, strlen(key)) == 0)
            return true;
    }
    return false;
}

/* 1 and the value, 0 absent, E_UNSUPP: something else than one number. */
static int number(const struct gguf *g, const char *key, double *ret, struct errbuf *eb)
{
    enum gguf_kv_type type;
    uint64_t u;

    if (gguf_f64(g, key, ret))
        return 1;
    if (gguf_u64(g, key, &u)) {
        *ret = (double)u;
        return 1;
    }
    if (!key_there(g, key, &type))
        return 0;
    return err_set(eb, E_UNSUPP, "%s is not a single number of zero or more", key);
}

static int check_numbers(const struct gguf *g, const char *arch, struct errbuf *eb)
{
    char key[128];
    double v = 0;

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const double *same = numbers[i].same;
        snprintf(key, sizeof key, "%s.%s", arch, numbers[i].key);
        int r = number(g, key, &v, eb);
        if (r < 0)
            return r;
        if (r && !(v == same[0] || v == same[1]))
            return err_set(eb, E_UNSUPP,
                           "%s is %g: that changes the model in a way that is not supported "
                           "here; supported is only %g",
                           key, v, same[1]);
    }
    return 0;
}

static int check_flags(const struct gguf *g, const char *arch, struct errbuf *eb)
{
    enum gguf_kv_type type;
    char key[128];

    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool v = flags[i].same;
        snprintf(key, sizeof key, "%s.%s", arch, flags[i].key);
        if (!gguf_bool(g, key, &v) && key_there(g, key, &type))
            return err_set(eb, E_UNSUPP, "%s is not true or false", key);
        if (v != flags[i].same)
            return err_set(eb, E_UNSUPP,
                           "%s is %s: that changes the model in a way that is not supported "
                           "here; supported is only %s",
                           key, v ? "true" : "false", flags[i].same ? "true" : "false");
    }
    for (size_t i = 0; i < sizeof present / sizeof *present; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, present[i]);
        if (key_there(g, key, &type))
            return err_set(eb, E_UNSUPP,
                           "%s is there: that changes the model in a way that is not "
                           "supported here",
                           key);
    }
    return 0;
}

static int check_window(const struct gguf *g, const char *arch, uint32_t ctx, struct errbuf *eb)
{
    char key[128];
    double v = 0;

    snprintf(key, sizeof key, "%s.attention.sliding_window", arch);
    int r = number(g, key, &v, eb);
    if (r > 0 && v > 0 && v < ctx)
        return err_set(eb, E_UNSUPP,
                       "%s is %g of %u tokens: attention within a window is not supported for "
                       "this architecture",
                       key, v, ctx);
    return r < 0 ? r : 0;
}

static int check_activation(const struct gguf *g, const char *arch, struct errbuf *eb)
{
    static const char *const keys[] = {"hidden_activation", "hidden_act"};
    struct gguf_str s;
    char key[128];

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, keys[i]);
        if (!gguf_str(g, key, &s) || (s.bytes == 4 && memcmp(s.p, "silu", 4) == 0) ||
            (s.bytes == 5 && memcmp(s.p, "swish", 5) == 0))
            continue;
        return err_set(eb, E_UNSUPP, "%s is '%.*s', supported is only silu", key,
                       (int)(s.bytes < 32 ? s.bytes : 32), s.p);
    }
    return 0;
}

int knobs_check(const struct gguf *g, const char *arch, uint32_t ctx, struct errbuf *eb)
{
    int r = check_numbers(g, arch, eb);

    if (r == 0)
        r = check_flags(g, arch, eb);
    if (r == 0)
        r = check_window(g, arch, ctx, eb);
    return r == 0 ? check_activation(g, arch, eb) : r;
}
