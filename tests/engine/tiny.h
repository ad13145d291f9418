/* tiny.h - a tiny model opened on a backend, and sequences run on it: shared by engine tests. */
#ifndef TESTS_TINY_H
#define TESTS_TINY_H
#include "engine/engine.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"
#include <unistd.h>

enum { TINY_CTX = 2048, TINY_BLOCKS = TINY_CTX / BLOCK_TOKENS };

/* What most tests run on: grouped heads, tied head, a width no tile divides, quantised. */
static const struct mk_llama tiny_default = {.layers = 2,
                                             .embd = 96,
                                             .ff = 96,
                                             .head = 4,
                                             .kv = 2,
                                             .dim = 16,
                                             .ctx = TINY_CTX,
                                             .type = K_Q4_1,
                                             .tied = true,
                                             .seed = 7};

__attribute__((unused)) static struct engine *tiny_open(const struct mk_llama *m,
                                                        const struct eng_opts *o)
{
    struct mk file = {0};
    struct errbuf eb = {""};
    struct eng_opts opts = *o;
    struct engine *e = NULL;
    char path[64];

    mk_llama(&file, m);
    mk_file(&file, path, sizeof path);
    free(file.p);
    opts.path = path;
    int r = eng_open(&e, &opts, &eb);
    unlink(path);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "eng_open: %s", eb.s);
    return r < 0 ? NULL : e;
}

/* A sequence with its own pages and all logits it ever computed. */
struct tiny {
    struct engine *e;
    int32_t ids[TINY_CTX];
    uint32_t pages[TINY_BLOCKS];
    float *logits; /* [TINY_CTX][n_vocab] */
};
__attribute__((unused)) static void tiny_init(struct tiny *t, struct engine *e, uint64_t seed)
{
    t->e = e;
    for (int i = 0; i < TINY_CTX; i++)
        t->ids[i] = (int32_t)(mk_next(&seed) % MK_VOCAB);
    for (int i = 0; i < TINY_BLOCKS; i++)
        t->pages[i] = ENG_PAGE_NONE;
    t->logits = calloc((size_t)TINY_CTX * MK_VOCAB, sizeof(float));
}
__attribute__((unused)) static void tiny_fini(struct tiny *t)
{
    for (int i = 0; i < TINY_BLOCKS; i++)
        if (t->pages[i] != ENG_PAGE_NONE)
            eng_page_drop(t->e, KV_HOT, t->pages[i]);
    free(t->logits);
}
/* One sequence of a step: tokens [from, to) with all their logits. */
__attribute__((unused)) static struct eng_seq tiny_seq(struct tiny *t, uint32_t from,
                                                       uint32_t to)
{
    for (uint32_t b = 0; b < (to + BLOCK_TOKENS - 1) / BLOCK_TOKENS; b++)
        if (t->pages[b] == ENG_PAGE_NONE)
            CHECK_EQ(eng_page_take(t->e, KV_HOT, &t->pages[b]), 0);
    return (struct eng_seq){.tokens = t->ids + from,
                            .n = to - from,
                            .pos = from,
                            .pages = {t->pages},
                            .n_pages = TINY_BLOCKS,
                            .n_logits = to - from,
                            .logits = t->logits + (size_t)from * MK_VOCAB};
}
__attribute__((unused)) static int tiny_run(struct tiny *t, uint32_t from, uint32_t to,
                                            uint32_t chunk)
{
    int r = 0;

    for (uint32_t at = from; r == 0 && at < to; at += chunk) {
        struct eng_seq q = tiny_seq(t, at, to - at < chunk ? to : at + chunk);
        struct eng_step s = {.seq = &q, .n_seqs = 1};
        r = eng_step(t->e, &s);
    }
    return r;
}
/* The same bits of logits in [from, to)? */
__attribute__((unused)) static bool tiny_same(const struct tiny *a, const struct tiny *b,
                                              uint32_t from, uint32_t to)
{
    return memcmp(a->logits + (size_t)from * MK_VOCAB, b->logits + (size_t)from * MK_VOCAB,
                  (size_t)(to - from) * MK_VOCAB * sizeof(float)) == 0;
}
/* Finite, and not all one value: an empty result must not pass for equality. */
__attribute__((unused)) static bool tiny_alive(const struct tiny *a, uint32_t from, uint32_t to)
{
    bool varies = false;

    for (size_t i = (size_t)from * MK_VOCAB; i < (size_t)to * MK_VOCAB; i++) {
        if (!isfinite(a->logits[i]))
            return false;
        varies |= a->logits[i] != a->logits[(size_t)from * MK_VOCAB];
    }
    return varies;
}

#endif
