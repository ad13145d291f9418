/* engine.c - see engine.h: opening a model on a backend, and what is known about it. */
#include "engine/engine.h"
#include "base/check.h"
#include "engine/chat.h"
#include "engine/eng.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include <errno.h>
#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>

/* A backend may lack an operation: found here, by name, not in the middle of a session. */
static int has_operations(const struct kern_ops *k, const struct arch_ops *a, struct errbuf *eb)
{
#define OP(o)                                                                                  \
    {                                                                                          \
#        o, offsetof(struct kern_ops, o)                                                       \
    }
    static const struct {
        const char *name;
        size_t at;
    } ops[] = {OP(embed), OP(matmul), OP(ffn), OP(norm), OP(rope_store), OP(attn), OP(sync)};
#undef OP
    for (const char *const *need = a->needs; *need; need++) {
        bool known = false;
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
            void (*fn)(void);
            if (strcmp(ops[i].name, *need) != 0)
                continue;
            known = true;
            memcpy(&fn, (const char *)k + ops[i].at, sizeof fn);
            if (!fn)
                return err_set(eb, E_UNSUPP,
                               "backend %s has no operation '%s', which architecture %s needs",
                               k->name, *need, a->name);
        }
        must(known);
    }
    return 0;
}

static int open_backend(struct engine *e, const struct eng_opts *o, struct errbuf *eb)
{
    struct kern_opts ko = {.threads = o->threads, .act_f32 = o->act_f32, .plain_c = o->plain_c};
    struct kern_props props = {0};
    struct errbuf why = {""};

    e->ops = o->kern ? o->kern : &kern_cpu;
    int r = e->ops->open(&e->k, &ko, &why);
    if (r < 0)
        return err_set(eb, r, "backend %s: %s", e->ops->name, why.s[0] ? why.s : err_str(r));
    e->ops->props(e->k, &props);
    snprintf(e->info.backend, sizeof e->info.backend, "%s", props.name);
    e->info.exact = props.exact;
    r = e->ops->epoch ? e->ops->epoch(e->k, &e->info.epoch) : 0;
    return r < 0 ? err_set(eb, r, "backend %s: %s", e->ops->name, err_str(r)) : 0;
}

static int open_text(struct engine *e, struct errbuf *eb)
{
    int r = tok_open(&e->tok, e->gguf, eb);

    if (r < 0)
        return r;
    if (tok_n_vocab(e->tok) != e->info.n_vocab)
        return err_set(eb, E_SHAPE, "token_embd.weight has %u rows, the tokenizer %u tokens",
                       e->info.n_vocab, tok_n_vocab(e->tok));
    memcpy(e->info.tokenizer_id, tok_id(e->tok), sizeof e->info.tokenizer_id);

    /* A template we cannot render is no reason not to run the model on plain text. */
    r = chat_open(&e->chat, e->gguf, e->tok, &e->chat_why);
    if (r < 0 && r != E_UNSUPP)
        return err_set(eb, r, "chat template: %s", e->chat_why.s);
    if (r < 0)
        e->chat = NULL;
    else if (!e->chat)
        err_set(&e->chat_why, 0, "the model has no chat template");
    return 0;
}

/* What the file says about itself: size, parameters, the type most of its bytes have. */
static void describe(struct engine *e)
{
    uint64_t by_type[K_TYPE_] = {0}, best = 0;
    struct gguf_str name = {"", 0};

    e->info.file_bytes = gguf_bytes(e->gguf);
    e->info.file = *gguf_stamp(e->gguf);
    (void)gguf_str(e->gguf, "general.name", &name);
    size_t n =
        name.bytes < sizeof e->info.name - 1 ? (size_t)name.bytes : sizeof e->info.name - 1;
    for (size_t i = 0; i < n; i++) /* outside bytes that end up in terminals */
        e->info.name[i] =
            (unsigned char)name.p[i] >= 0x20 && name.p[i] != 0x7f ? name.p[i] : '?';
    for (uint32_t i = 0; i < gguf_n_tensors(e->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(e->gguf, i);
        e->info.n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        by_type[t->type] += t->bytes;
        if (by_type[t->type] > best) {
            best = by_type[t->type];
            snprintf(e->info.quant, sizeof e->info.quant, "%s", k_type_info(t->type)->name);
        }
    }
}

/* What the kernels cannot do is known before weights are read, not at the first token. */
static int heads_fit(const struct engine *e, struct errbuf *eb)
{
    struct kern_props p = {0};
    uint32_t dim = e->info.head_dim;

    e->ops->props(e->k, &p);
    if ((p.head_dim_of && dim % p.head_dim_of) || (p.head_dim_max && dim > p.head_dim_max))
        return err_set(eb, E_UNSUPP,
                       "a head is %u wide; backend %s has kernels for multiples of %u up to %u",
                       dim, p.name, p.head_dim_of, p.head_dim_max);
    return 0;
}

static int open_model(struct engine *e, const struct eng_opts *o, struct errbuf *eb)
{
    const struct arch_ops *family = NULL;
    int r = arch_find(&family, e->gguf, eb);

    if (r < 0)
        return r;
    snprintf(e->info.arch, sizeof e->info.arch, "%s", family->name);
    r = has_operations(e->ops, family, eb);
    if (r == 0)
        r = family->open(&e->arch, e->gguf, o->rows_f32 ? K_ROW_F32 : K_ROW_F16, &e->layout,
                         &e->info, eb);
    if (r == 0)
        r = heads_fit(e, eb);
    e->info.ctx_own = e->info.ctx_max;
    if (r == 0 && o->ctx_max && o->ctx_max < e->info.ctx_max)
        e->info.ctx_max = o->ctx_max;
    if (r == 0)
        describe(e);
    return r;
}

static int load_weights(struct engine *e, const struct eng_opts *o, struct errbuf *eb)
{
    e->weights.progress = o->progress;
    e->weights.progress_ctx = o->progress_ctx;
    int r = weights_init(&e->weights, e->gguf, e->k, e->ops);
    if (r == 0)
        r = e->ops->reserve(e->k, e->batch, e->arch->ops->cols_max(e->arch), e->info.ctx_max);
    if (r == 0)
        r = e->arch->ops->load(e->arch, &e->weights, e->batch, eb);
    if (r < 0)
        return r;
    e->info.weight_bytes = e->weights.bytes;
    e->info.token_bytes = e->weights.bytes - e->weights.lookup_bytes;
    return gguf_detach(e->gguf, eb);
}

static int open_scratch(struct engine *e, struct errbuf *eb)
{
    e->ids = calloc(e->batch, sizeof *e->ids);
    e->rows = calloc(e->batch, sizeof *e->rows);
    e->rows_to = calloc(e->batch, sizeof *e->rows_to);
    e->rows_of = calloc(e->batch, sizeof *e->rows_of);
    e->writer = calloc(e->info.pages, sizeof *e->writer);
    e->logits = e->ops->alloc(e->k, (uint64_t)ENG_HEAD_ROWS * e->info.n_vocab * sizeof(float));
    if (!e->ids || !e->rows || !e->rows_to || !e->rows_of || !e->writer || !e->logits)
        return err_set(eb, -ENOMEM, "no memory for the logits of %d tokens", ENG_HEAD_ROWS);
    return 0;
}

int eng_open(struct engine **ret, const struct eng_opts *o, struct errbuf *eb)
{
    struct engine *e = calloc(1, sizeof *e);
    struct errbuf why = {""};
    int r = e ? 0 : -ENOMEM;

    must(o && o->path);
    if (e)
        e->batch = ENG_BATCH;
    if (r == 0 && sodium_init() < 0)
        r = err_set(&why, -EIO, "libsodium cannot start");
    if (r == 0)
        r = gguf_open(&e->gguf, o->path, &why);
    if (r == 0)
        r = open_backend(e, o, &why);
    if (r == 0)
        r = open_model(e, o, &why);
    if (r == 0)
        r = open_text(e, &why);
    if (r == 0)
        r = load_weights(e, o, &why);
    if (r == 0)
        r = pool_open(e, &why, o->page_memory);
    if (r == 0)
        r = open_scratch(e, &why);
    if (e)
        e->magic = ENG_MAGIC;
    if (r < 0) {
        /* The words carry the path once; gguf_open has put it there already. */
        if (e && e->gguf)
            err_set(eb, r, "%s: %s", o->path, why.s[0] ? why.s : err_str(r));
        else
            err_set(eb, r, "%s", why.s[0] ? why.s : err_str(r));
        eng_close(e);
        return r;
    }
    *ret = e;
    return 0;
}

void eng_close(struct engine *e)
{
    if (!e)
        return;
    must_be(e, ENG_MAGIC);
    e->magic = 0;
    pool_close(e);
    if (e->logits)
        e->ops->free(e->k, e->logits);
    free(e->ids);
    free(e->rows);
    free(e->rows_to);
    free(e->rows_of);
    free(e->writer);
    if (e->arch)
        e->arch->ops->close(e->arch);
    weights_fini(&e->weights);
    if (e->chat)
        chat_close(e->chat);
    tok_close(e->tok);
    if (e->k)
        e->ops->close(e->k);
    gguf_close(e->gguf);
    free(e);
}

const struct eng_info *eng_info(const struct engine *e)
{
    must_be(e, ENG_MAGIC);
    return &e->info;
}
const struct kv_layout *eng_layout(const struct engine *e)
{
    must_be(e, ENG_MAGIC);
    return &e->layout;
}
const struct tokenizer *eng_tokenizer(const struct engine *e)
{
    must_be(e, ENG_MAGIC);
    return e->tok;
}
const struct chat *eng_chat(const struct engine *e)
{
    must_be(e, ENG_MAGIC);
    return e->chat;
}
const char *eng_chat_why(const struct engine *e)
{
    must_be(e, ENG_MAGIC);
    return e->chat ? "" : e->chat_why.s;
}
const struct gguf *eng_gguf(const struct engine *e)
{
    must_be(e, ENG_MAGIC);
    return e->gguf;
}
