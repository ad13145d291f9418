/* poison.h - a model in which one token leads to logits that are no numbers. */
#ifndef TESTS_POISON_H
#define TESTS_POISON_H
#include "base/bytes.h"
#include "engine/gguf.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"

enum { POISON = 7 };

/* The floats of a tensor in a file, `n` from `from` on, all become the one with these bits. */
__attribute__((unused)) static void poison_write(struct mk *file, const struct gguf *g,
                                                 const char *name, uint64_t from, uint64_t n,
                                                 uint32_t bits)
{
    for (uint64_t i = 0; i < n; i++)
        st32(file->p + gguf_tensor(g, name)->at + 4 * (from + i), bits);
}

/* mk_llama() of a model of floats whose column 0 of the stream is zero but for the token POISON;
 * the last norm makes that column huge.  All weights are finite. */
__attribute__((unused)) static void poison_llama(struct mk *file, struct mk_llama m)
{
    const uint32_t huge = 0x7f61b1e6u, hundred = 0x42c80000u; /* 3e38, 100 */
    struct errbuf eb = {""};
    struct gguf *g = NULL;
    char name[64];

    m.type = K_F32, m.tied = false;
    mk_llama(file, &m);
    CHECK_EQ(gguf_parse(&g, file->p, file->n, &eb), 0);
    for (uint32_t i = 0; i < MK_VOCAB; i++)
        poison_write(file, g, "token_embd.weight", i * m.embd, 1, i == POISON ? hundred : 0);
    for (uint32_t i = 0; i < m.layers; i++) {
        snprintf(name, sizeof name, "blk.%u.attn_output.weight", i);
        poison_write(file, g, name, 0, m.head * m.dim, 0);
        snprintf(name, sizeof name, "blk.%u.ffn_down.weight", i);
        poison_write(file, g, name, 0, m.ff, 0);
    }
    poison_write(file, g, "output_norm.weight", 0, 1, huge);
    gguf_close(g);
}

#endif
