/* bpe.h - byte-pair merging: one word's bytes to symbols, by the ranks of a merge list.
 *
 * A symbol is a byte string that a byte, a vocabulary entry or a merge stands for.  Symbols
 * below n_vocab are token ids; above lie strings that some merge makes but the vocabulary
 * does not hold.  Built once, then immutable: any thread, each with its own scratch. */
#ifndef ENGINE_BPE_H
#define ENGINE_BPE_H
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

struct tok_ids;
struct bpe;
struct bpe_scratch { /* zero-initialise, free with bpe_scratch_fini; one thread at a time */
    void *p;
    size_t bytes;
    /* Called now and then while a long word is merged; negative: given up with that. NULL ok. */
    int (*pause)(void *ctx);
    void *ctx;
    uint32_t window; /* bytes merged at a time; 0: what is best */
};
void bpe_scratch_fini(struct bpe_scratch *s);

/* piece i is text[at[i]] .. text[at[i + 1]], the raw bytes of token i; reach[i] = 0 keeps a
 * token out (its text is no string of bytes that a word could be cut into).  The arrays stay
 * the caller's and outlive the bpe.  E_CORRUPT when two tokens share one text. */
int bpe_open(struct bpe **ret, const char *text, const uint32_t *at, const uint8_t *reach,
             uint32_t n_vocab, uint32_t n_merges, struct errbuf *eb);
void bpe_close(struct bpe *b); /* NULL ok */
/* Merges in the order of the list, first has precedence; n_merges calls at most. -ENOMEM. */
int bpe_add_merge(struct bpe *b, const char *left, size_t left_bytes, const char *right,
                  size_t right_bytes);

int32_t bpe_find(const struct bpe *b, const char *word, size_t bytes); /* token id or -1 */
/* Appends the ids of one word, in time linear in its bytes and in memory that does not grow
 * with them.  0, -ENOMEM, E_LIMIT (2^30 bytes or more), what pause returned. */
int bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *word, size_t bytes,
               struct tok_ids *out);
int tok_ids_push(struct tok_ids *v, int32_t id); /* -ENOMEM */

#endif
