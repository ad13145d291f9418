/* test_engine.c - opening: every tensor type, every llama shape, and models refused with words. */
#include "base/bytes.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/engine/tiny.h"
#include <errno.h>
#include <fcntl.h>

static const struct eng_opts on_ref = {.kern = &kern_ref};
static const struct eng_opts on_cpu = {.kern = &kern_cpu, .threads = 1};

/* Relative distance of two runs' logits: sum of squares of the difference over the first's. */
static double distance(const struct tiny *a, const struct tiny *b, uint32_t n)
{
    double d = 0, s = 0;

    for (size_t i = 0; i < (size_t)n * MK_VOCAB; i++) {
        double x = a->logits[i], y = b->logits[i];
        d += (x - y) * (x - y);
        s += x * x;
    }
    return d / s;
}

/* The oracle and the fast path take one model to nearly the same logits. */
static void agree(const struct mk_llama *m, const char *what, double max)
{
    struct engine *r = tiny_open(m, &on_ref), *c = tiny_open(m, &on_cpu);
    struct tiny a, b;

    if (r && c) {
        tiny_init(&a, r, 3);
        tiny_init(&b, c, 3);
        CHECK_EQ(tiny_run(&a, 0, 70, 70), 0);
        CHECK_EQ(tiny_run(&b, 0, 70, 33), 0);
        CHECK(tiny_alive(&a, 0, 70));
        if (!(distance(&a, &b, 70) < max))
            t_fail(__FILE__, __LINE__, "%s: ref and cpu differ by %g", what,
                   distance(&a, &b, 70));
        tiny_fini(&a);
        tiny_fini(&b);
    }
    eng_close(r);
    eng_close(c);
}

static void every_tensor_type_runs(void)
{
    for (uint32_t t = 0; t < K_TYPE_; t++) {
        const struct k_type_info *ti = k_type_info(t);
        struct mk_llama m = tiny_default;
        if (!ti)
            continue;
        m.type = t;
        if (ti->block == 256) {
            m.embd = 256;
            m.ff = 512;
            m.head = 8;
            m.kv = 4;
            m.dim = 32;
        }
        agree(&m, ti->name, 1e-3);
    }
}

static void every_shape_of_llama_runs(void)
{
    struct mk_llama m;

#define SHAPE(what, ...)                                                                       \
    m = tiny_default;                                                                          \
    __VA_ARGS__;                                                                               \
    agree(&m, what, 1e-3)
    SHAPE("as many kv heads as heads", m.kv = 4);
    SHAPE("one kv head", m.kv = 1);
    SHAPE("a head of its own", m.tied = false);
    SHAPE("biases", m.bias = true);
    SHAPE("heads of embd / n", m.dim = 0; m.embd = 192; m.head = 6);
    SHAPE("wide heads", m.dim = 128; m.head = 2; m.kv = 1);
    SHAPE("linear scaling", m.scaling = "linear"; m.factor = 4);
    SHAPE("yarn", m.scaling = "yarn"; m.factor = 4);
    SHAPE("rope factors", m.rope_freqs = true);
    SHAPE("one layer", m.layers = 1);
#undef SHAPE
}

/* What changes the model changes its logits: an ignored knob would pass every other test. */
static void every_knob_matters(void)
{
    struct tiny a, b;
    struct mk_llama m[5];
    struct engine *e = tiny_open(&tiny_default, &on_ref);

    if (!e)
        return;
    tiny_init(&a, e, 3);
    CHECK_EQ(tiny_run(&a, 0, 40, 40), 0);
    for (int i = 0; i < 5; i++)
        m[i] = tiny_default;
    m[0].bias = true;
    m[1].scaling = "linear", m[1].factor = 4;
    m[2].scaling = "yarn", m[2].factor = 4;
    m[3].rope_freqs = true;
    m[4].tied = false;
    for (int i = 0; i < 5; i++) {
        struct engine *f = tiny_open(&m[i], &on_ref);
        tiny_init(&b, f, 3);
        CHECK_EQ(tiny_run(&b, 0, 40, 40), 0);
        if (!(distance(&a, &b, 40) > 1e-6))
            t_fail(__FILE__, __LINE__, "knob %d changes nothing", i);
        tiny_fini(&b);
        eng_close(f);
    }
    tiny_fini(&a);
    eng_close(e);
}

static void f32_rows_and_f16_rows_have_other_layouts(void)
{
    struct eng_opts o = on_ref;
    struct engine *a = tiny_open(&tiny_default, &o), *b;

    o.rows_f32 = true;
    b = tiny_open(&tiny_default, &o);
    if (a && b) {
        CHECK(strcmp(eng_layout(a)->id, "gqa-f16-L2-H2-D16") == 0);
        CHECK(strcmp(eng_layout(b)->id, "gqa-f32-L2-H2-D16") == 0);
        CHECK_EQ(eng_layout(a)->page_bytes[KV_HOT] * 2, eng_layout(b)->page_bytes[KV_HOT]);
        uint8_t id[16] = {1}, fa[32], fb[32];
        eng_fingerprint(a, id, fa);
        eng_fingerprint(b, id, fb);
        CHECK(memcmp(fa, fb, 32) != 0);
    }
    eng_close(a);
    eng_close(b);
}

static void info_says_what_the_file_says(void)
{
    struct eng_opts o = on_ref;
    o.ctx_max = 512;
    struct engine *e = tiny_open(&tiny_default, &o);

    if (!e)
        return;
    const struct eng_info *i = eng_info(e);
    CHECK(strcmp(i->arch, "llama") == 0 && strcmp(i->name, "tiny") == 0);
    CHECK(strcmp(i->quant, "Q4_1") == 0 && strcmp(i->backend, "ref") == 0);
    CHECK_EQ(i->n_layers, 2);
    CHECK_EQ(i->n_vocab, MK_VOCAB);
    CHECK_EQ(i->n_embd, 96);
    CHECK_EQ(i->n_head, 4);
    CHECK_EQ(i->n_kv_head, 2);
    CHECK_EQ(i->head_dim, 16);
    CHECK_EQ(i->ctx_max, 512);
    CHECK_EQ(i->pages, 2);
    CHECK_EQ(i->page_memory, 2 * eng_layout(e)->page_bytes[KV_HOT]);
    /* Embedding, and per layer: q, k and v, output, three of the feed-forward, two norms. */
    CHECK_EQ(i->n_params,
             MK_VOCAB * 96 + 96 + 2 * (96 * 64 + 2 * 96 * 32 + 64 * 96 + 3 * 96 * 96 + 2 * 96));
    CHECK(i->weight_bytes > 0 && i->token_bytes == i->weight_bytes);
    CHECK(memcmp(i->tokenizer_id, tok_id(eng_tokenizer(e)), 32) == 0);
    CHECK(eng_chat(e) == NULL && eng_chat_why(e)[0]);
    CHECK(eng_gguf(e) != NULL);
    eng_close(e);
}

static void fingerprints_follow_what_decides_the_rows(void)
{
    enum { MODELS = 10 };
    struct mk_llama m[MODELS];
    uint8_t fp[MODELS + 1][32], id[16] = {0};

    for (int i = 0; i < MODELS; i++)
        m[i] = tiny_default;
    m[1].ctx = 1024; /* how long a context may get does not decide a row */
    m[2].scaling = "linear", m[2].factor = 2;
    m[3].rope_freqs = true;
    m[4].layers = 1;
    m[5].eps = 2e-5f;
    m[6].extra[0].key = "llama.attention.scale", m[6].extra[0].v = 0.3f;
    m[7].extra[0].key = "llama.rope.scaling.attn_factor", m[7].extra[0].v = 1.5f;
    m[8].extra[0].key = "llama.rope.freq_base", m[8].extra[0].v = 500000;
    m[9].pre = "llama-bpe";
    for (int i = 0; i < MODELS; i++) {
        struct engine *e = tiny_open(&m[i], &on_ref);
        if (!e)
            return;
        eng_fingerprint(e, id, fp[i]);
        if (i == 0) {
            id[3] = 1;
            eng_fingerprint(e, id, fp[MODELS]);
            id[3] = 0;
        }
        eng_close(e);
    }
    CHECK(memcmp(fp[0], fp[1], 32) == 0);
    for (int i = 2; i <= MODELS; i++)
        if (memcmp(fp[0], fp[i], 32) == 0)
            t_fail(__FILE__, __LINE__, "model %d has the fingerprint of the first", i);
}

static void the_weights_id_is_of_every_byte_and_stops_when_told(void)
{
    struct mk file = {0};
    struct errbuf eb = {""};
    uint8_t a[16], b[16];
    atomic_bool stop = true;
    char path[64];

    for (int i = 0; i < (5 << 20) + 17; i++)
        mk_add(&file, (uint8_t[]){(uint8_t)(i * 31)}, 1);
    mk_file(&file, path, sizeof path);
    CHECK_EQ(eng_weights_id(path, NULL, a, &eb), 0);
    CHECK_EQ(eng_weights_id(path, &stop, b, &eb), -ECANCELED);
    CHECK_EQ(eng_weights_id("/nonexistent", NULL, b, &eb), -ENOENT);
    CHECK(strstr(eb.s, "/nonexistent") != NULL);
    /* XXH3-128 of nothing, canonical: the published value. */
    static const uint8_t empty[16] = {0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                      0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f};
    unlink(path);
    size_t all = file.n;
    file.n = 0;
    mk_file(&file, path, sizeof path);
    CHECK_EQ(eng_weights_id(path, NULL, b, &eb), 0);
    CHECK(memcmp(b, empty, 16) == 0);
    unlink(path);
    file.n = all;
    file.p[file.n - 1] ^= 1;
    mk_file(&file, path, sizeof path);
    CHECK_EQ(eng_weights_id(path, NULL, b, &eb), 0);
    CHECK(memcmp(a, b, 16) != 0);
    unlink(path);
    free(file.p);
}

/* --- refusals ------------------------------------------------------------------------------ */

/* Opens a file that differs from the default by `old` -> `new` bytes; returns the error. */
static int open_edited(const struct mk_llama *m, const char *old, const char *new,
                       const struct eng_opts *o, struct errbuf *eb)
{
    struct mk file = {0};
    struct engine *e = NULL;
    struct eng_opts opts = *o;
    char path[64];

    mk_llama(&file, m);
    if (old) {
        uint8_t *p = memmem(file.p, file.n, old, strlen(old));
        must(p && strlen(old) == strlen(new));
        memcpy(p, new, strlen(new));
    }
    mk_file(&file, path, sizeof path);
    free(file.p);
    opts.path = path;
    int r = eng_open(&e, &opts, eb);
    if (!strstr(eb->s, path) && r < 0)
        t_fail(__FILE__, __LINE__, "no path in '%s'", eb->s);
    unlink(path);
    eng_close(e);
    return r;
}

static void models_that_cannot_run_are_refused_with_words(void)
{
    static const struct {
        const char *old, *new;
        int code;
        const char *words;
    } t[] = {
        {"\5\0\0\0\0\0\0\0llama", "\5\0\0\0\0\0\0\0llamx", E_UNSUPP,
         "'llamx', supported: llama"},
        {"llama.block_count", "llama.block_cosnt", E_CORRUPT, "llama.block_count is missing"},
        {"llama.attention.head_count_kv", "llama.attention.head_count_kx", E_SHAPE, "attn_k"},
        {"blk.1.ffn_up.weight", "blk.1.ffn_uq.weight", E_SHAPE,
         "blk.1.ffn_up.weight is missing"},
        {"tokenizer.ggml.model", "tokenizer.ggml.modex", 0, ""},
    };
    struct errbuf eb = {""};

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char old[64], new[64];
        size_t n = i == 0 ? 13 : strlen(t[i].old);
        memcpy(old, t[i].old, n);
        memcpy(new, t[i].new, n);
        struct mk file = {0};
        struct engine *e = NULL;
        struct eng_opts o = on_ref;
        char path[64];
        mk_llama(&file, &tiny_default);
        uint8_t *p = memmem(file.p, file.n, old, n);
        must(p);
        memcpy(p, new, n);
        mk_file(&file, path, sizeof path);
        free(file.p);
        o.path = path;
        int r = eng_open(&e, &o, &eb);
        bool right = t[i].code ? r == t[i].code : r < 0;
        if (!right || !strstr(eb.s, t[i].words) || !strstr(eb.s, path))
            t_fail(__FILE__, __LINE__, "row %zu: got %d '%s'", i, r, eb.s);
        eng_close(e);
        unlink(path);
    }
}

static void what_llama_cannot_do_here_is_refused(void)
{
    struct errbuf eb = {""};
    struct mk_llama m = tiny_default;
    struct eng_opts o = on_ref;

    m.experts = 8;
    CHECK_EQ(open_edited(&m, NULL, NULL, &o, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "llama.expert_count is 8") != NULL);
    m = tiny_default;
    m.extra_tensor = "blk.0.ffn_gate.bias";
    CHECK_EQ(open_edited(&m, NULL, NULL, &o, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "blk.0.ffn_gate.bias") != NULL);
    m = tiny_default;
    m.scaling = "longrope";
    m.factor = 2;
    CHECK_EQ(open_edited(&m, NULL, NULL, &o, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "longrope") != NULL);
    m = tiny_default;
    m.head = 3, m.dim = 32; /* not a multiple of 2 */
    CHECK_EQ(open_edited(&m, NULL, NULL, &o, &eb), E_SHAPE);
    CHECK(strstr(eb.s, "head_count") != NULL);
    m = tiny_default;
    m.rows = MK_VOCAB + 1;
    CHECK_EQ(open_edited(&m, NULL, NULL, &o, &eb), E_SHAPE);
    CHECK(strstr(eb.s, "token_embd.weight has 259 rows, the tokenizer 258") != NULL);
    m = tiny_default;
    m.ctx = CTX_TOKENS_MAX + 1;
    CHECK_EQ(open_edited(&m, NULL, NULL, &o, &eb), E_LIMIT);
    CHECK(strstr(eb.s, "llama.context_length is 1048577") != NULL);
    o.page_memory = 100;
    CHECK_EQ(open_edited(&tiny_default, NULL, NULL, &o, &eb), E_LIMIT);
    CHECK(strstr(eb.s, "are less than one block of this model") != NULL);
}

/* What would change the mathematics and is not honoured; and the same key where it says
 * nothing, or is honoured. */
static void metadata_that_is_not_honoured_is_refused_by_name(void)
{
    static const struct {
        struct mk_key bad, good;
    } t[] = {
        {{"llama.attn_logit_softcapping", GGUF_F32, 50, 0},
         {"llama.attn_logit_softcapping", GGUF_F32, 0, 0}},
        {{"llama.final_logit_softcapping", GGUF_F32, 30, 0},
         {"llama.final_logit_softcapping", GGUF_F32, 0, 0}},
        {{"llama.logit_scale", GGUF_F32, 0.5, 0}, {"llama.logit_scale", GGUF_F32, 1, 0}},
        {{"llama.residual_scale", GGUF_F32, 0.2, 0}, {"llama.residual_scale", GGUF_F32, 0, 0}},
        {{"llama.embedding_scale", GGUF_F32, 12, 0}, {"llama.embedding_scale", GGUF_F32, 1, 0}},
        {{"llama.attention.clamp_kqv", GGUF_F32, 8, 0},
         {"llama.attention.clamp_kqv", GGUF_F32, 0, 0}},
        {{"llama.attention.temperature_scale", GGUF_F32, 0.1, 0},
         {"llama.attention.temperature_scale", GGUF_F32, 0, 0}},
        {{"llama.attention.sliding_window", GGUF_U32, TINY_CTX - 1, 0},
         {"llama.attention.sliding_window", GGUF_U32, TINY_CTX, 0}},
        {{"llama.attention.sliding_window", GGUF_STR, 0, "4096"},
         {"llama.attention.sliding_window", GGUF_U32, 0, 0}},
        {{"llama.attention.causal", GGUF_BOOL, 0, 0},
         {"llama.attention.causal", GGUF_BOOL, 1, 0}},
        {{"llama.attention.causal", GGUF_U32, 0, 0},
         {"llama.use_parallel_residual", GGUF_BOOL, 0, 0}},
        {{"llama.rope.scaling.yarn_ext_factor", GGUF_F32, 0.5, 0},
         {"llama.rope.scaling.yarn_ext_factor", GGUF_F32, -1, 0}},
        {{"llama.rope.scaling.yarn_log_multiplier", GGUF_F32, 0.1, 0},
         {"llama.rope.scaling.yarn_log_multiplier", GGUF_F32, 0, 0}},
        {{"llama.rope.dimension_sections", GGUF_U32, 16, 0},
         {"llama.rope.scaling.finetuned", GGUF_BOOL, 1, 0}},
        {{"llama.hidden_activation", GGUF_STR, 0, "gelu"},
         {"llama.hidden_activation", GGUF_STR, 0, "silu"}},
    };
    struct errbuf eb = {""};

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct mk_key keys[2] = {t[i].bad, {NULL, 0, 0, 0}};
        struct mk_llama m = tiny_default;
        m.keys = keys;
        int r = open_edited(&m, NULL, NULL, &on_ref, &eb);
        if (r != E_UNSUPP || !strstr(eb.s, t[i].bad.key))
            t_fail(__FILE__, __LINE__, "%s: got %d '%s'", t[i].bad.key, r, eb.s);
        keys[0] = t[i].good;
        r = open_edited(&m, NULL, NULL, &on_ref, &eb);
        if (r != 0)
            t_fail(__FILE__, __LINE__, "%s: got %d '%s'", t[i].good.key, r, eb.s);
    }
}

/* A negative factor means the default in files of today: the same model as without it. */
static void a_yarn_factor_of_minus_one_is_the_default(void)
{
    const struct mk_key ext[2] = {{"llama.rope.scaling.yarn_ext_factor", GGUF_F32, -1, 0}};
    struct mk_llama m = tiny_default;
    uint8_t id[16] = {1}, a[32], b[32];

    m.scaling = "yarn", m.factor = 4;
    struct engine *e = tiny_open(&m, &on_ref);
    m.keys = ext;
    struct engine *f = tiny_open(&m, &on_ref);
    if (e && f) {
        eng_fingerprint(e, id, a);
        eng_fingerprint(f, id, b);
        CHECK(memcmp(a, b, 32) == 0);
    }
    eng_close(e);
    eng_close(f);
}

static void a_head_no_kernel_has_is_refused_at_load(void)
{
    struct errbuf eb = {""};
    struct mk_llama m = tiny_default;

    m.type = K_F32;
    m.dim = 12;
    CHECK_EQ(open_edited(&m, NULL, NULL, &on_cpu, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "a head is 12 wide") && strstr(eb.s, "multiples of 8 up to 512"));
    m.dim = 520, m.head = 2, m.kv = 1, m.embd = 32, m.ff = 32;
    CHECK_EQ(open_edited(&m, NULL, NULL, &on_cpu, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "a head is 520 wide"));
    m.dim = 512;
    CHECK_EQ(open_edited(&m, NULL, NULL, &on_cpu, &eb), 0);
}

/* Every type, every float or scale in it, and every way weights are read. */
static void weights_that_are_no_numbers_are_refused_by_name(void)
{
    static const struct {
        uint8_t n, at[2];
    } scales[K_TYPE_] = {
        [K_F32] = {1, {2}},     [K_F16] = {1, {0}},     [K_BF16] = {1, {0}},
        [K_Q4_0] = {1, {0}},    [K_Q4_1] = {2, {0, 2}}, [K_Q5_0] = {1, {0}},
        [K_Q5_1] = {2, {0, 2}}, [K_Q8_0] = {1, {0}},    [K_Q2_K] = {2, {80, 82}},
        [K_Q3_K] = {1, {108}},  [K_Q4_K] = {2, {0, 2}}, [K_Q5_K] = {2, {0, 2}},
        [K_Q6_K] = {1, {208}},
    };
    static const char *const names[] = {"token_embd.weight", "blk.1.attn_q.weight",
                                        "blk.0.ffn_down.weight", "output.weight"};
    struct errbuf eb = {""};

    for (uint32_t type = 0; type < K_TYPE_; type++) {
        const struct k_type_info *ti = k_type_info(type);
        struct mk_llama m = tiny_default;
        if (!ti)
            continue;
        m.type = type;
        m.tied = false;
        if (ti->block == 256)
            m.embd = m.ff = 256, m.head = 8, m.kv = 4, m.dim = 32;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            for (int k = 0; k < scales[type].n; k++)
                for (int back = 0; back < 2; back++) {
                    struct mk file = {0};
                    struct gguf *g = NULL;
                    char path[64];
                    mk_llama(&file, &m);
                    CHECK_EQ(gguf_parse(&g, file.p, file.n, &eb), 0);
                    const struct gguf_tensor *t = gguf_tensor(g, names[i]);
                    uint64_t at = t->at, bytes = t->bytes;
                    gguf_close(g);
                    /* The last block: its row and column are in the words.  Infinity and not a
                     * number in turn; of a bf16 or f32 the upper half says so, too. */
                    uint64_t block = bytes / ti->block_bytes - 1;
                    bool wide = type == K_F32 || type == K_BF16;
                    st16(file.p + at + block * ti->block_bytes + scales[type].at[k],
                         (uint16_t)((wide ? 0x7f80 : 0x7c00) | (k + back) % 2));
                    mk_file(&file, path, sizeof path);
                    free(file.p);
                    struct eng_opts o = back ? on_cpu : on_ref;
                    struct engine *e = NULL;
                    o.path = path;
                    eb.s[0] = 0;
                    int r = eng_open(&e, &o, &eb);
                    if (r != E_CORRUPT || !strstr(eb.s, names[i]) ||
                        !strstr(eb.s, "NaN or infinity at column"))
                        t_fail(__FILE__, __LINE__, "%s, %s: got %d '%s'", ti->name, names[i], r,
                               eb.s);
                    eng_close(e);
                    unlink(path);
                }
    }
}

static void a_backend_without_an_operation_is_refused_at_load(void)
{
    struct kern_ops lame = kern_ref;
    struct eng_opts o = {.kern = &lame};
    struct errbuf eb = {""};

    lame.attn = NULL;
    CHECK_EQ(open_edited(&tiny_default, NULL, NULL, &o, &eb), E_UNSUPP);
    CHECK(strstr(eb.s, "'attn'") && strstr(eb.s, "llama"));
}

static void a_missing_file_is_enoent(void)
{
    struct eng_opts o = {.kern = &kern_ref, .path = "/nonexistent.gguf"};
    struct engine *e = NULL;
    struct errbuf eb = {""};

    CHECK_EQ(eng_open(&e, &o, &eb), -ENOENT);
    CHECK(strstr(eb.s, "/nonexistent.gguf") != NULL);
    CHECK(e == NULL);
}

/* A file cut anywhere is refused by name, whatever part is gone. */
static void a_truncated_model_is_refused(void)
{
    struct mk file = {0};
    char path[64];

    mk_llama(&file, &tiny_default);
    size_t all = file.n;
    for (int i = 0; i < 20; i++) {
        struct eng_opts o = on_ref;
        struct engine *e = NULL;
        struct errbuf eb = {""};
        file.n = all * (size_t)i / 20;
        mk_file(&file, path, sizeof path);
        o.path = path;
        CHECK_EQ(eng_open(&e, &o, &eb), E_CORRUPT);
        CHECK(strstr(eb.s, path) != NULL);
        unlink(path);
    }
    free(file.p);
}

static uint64_t seen_done, seen_total, seen_calls;
static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
    CHECK(ctx == &seen_calls && done >= seen_done && done <= total);
    seen_done = done;
    seen_total = total;
    seen_calls++;
}
static void progress_ends_at_the_total(void)
{
    struct eng_opts o = {
        .kern = &kern_ref, .progress = on_progress, .progress_ctx = &seen_calls};
    struct engine *e = tiny_open(&tiny_default, &o);

    CHECK(seen_calls > 3 && seen_done == seen_total && seen_total > 0);
    eng_close(e);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(every_tensor_type_runs), CASE(every_shape_of_llama_runs), CASE(every_knob_matters),
       CASE(f32_rows_and_f16_rows_have_other_layouts), CASE(info_says_what_the_file_says),
       CASE(fingerprints_follow_what_decides_the_rows),
       CASE(the_weights_id_is_of_every_byte_and_stops_when_told),
       CASE(models_that_cannot_run_are_refused_with_words),
       CASE(what_llama_cannot_do_here_is_refused),
       CASE(metadata_that_is_not_honoured_is_refused_by_name),
       CASE(a_yarn_factor_of_minus_one_is_the_default),
       CASE(a_head_no_kernel_has_is_refused_at_load),
       CASE(weights_that_are_no_numbers_are_refused_by_name),
       CASE(a_backend_without_an_operation_is_refused_at_load), CASE(a_missing_file_is_enoent),
       CASE(a_truncated_model_is_refused), CASE(progress_ends_at_the_total))
