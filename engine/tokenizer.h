/* tokenizer.h - text to token ids and back, as the model's own metadata says.
 *
 * Byte-level BPE ("gpt2" models in GGUF) with the pre-tokenizers smollm, gpt-2, llama-bpe,
 * qwen2, deepseek-llm.  The oracle is llama.cpp's ids.  Immutable after open: any thread. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf;
struct tokenizer;

int tok_open(struct tokenizer **ret, const struct gguf *g, struct errbuf *eb);
void tok_close(struct tokenizer *t); /* NULL ok */

struct tok_ids { /* growable; zero-initialise, free with tok_ids_fini */
    int32_t *p;
    size_t n, cap;
};
void tok_ids_fini(struct tok_ids *v);

/* Appends the ids of text.  special: NULL, special tokens are plain text; else one byte per
 * byte of text, and a special token matches only where all its bytes are non-zero (what the
 * template wrote; all ones: everywhere).  bos: prepend BOS if the model asks for it.
 * Any bytes are accepted; what is not UTF-8 gets the ids of U+FFFD, as the oracle has it.
 * 0, -ENOMEM, E_LIMIT (1 GiB of text); out is as before on failure. */
int tok_encode(const struct tokenizer *t, const char *text, size_t bytes,
               const uint8_t *special, bool bos, struct tok_ids *out);
/* The same in turns: pause is called after each small piece of work (a fraction of a
 * millisecond on most machines; one word is found at a stretch, however long).  It may wait;
 * when it returns less than 0 the work ends with that. */
struct tok_pause {
    int (*fn)(void *ctx);
    void *ctx;
};
int tok_encode_in_turns(const struct tokenizer *t, const char *text, size_t bytes,
                        const uint8_t *special, bool bos, const struct tok_pause *pause,
                        struct tok_ids *out);
/* The bytes one id stands for; "" with *ret_bytes = 0 for control tokens unless `special`.
 * Points into the tokenizer.  NULL when id is out of range. */
const char *tok_piece(const struct tokenizer *t, int32_t id, bool special, size_t *ret_bytes);

uint32_t tok_n_vocab(const struct tokenizer *t);
int32_t tok_bos(const struct tokenizer *t); /* -1: none */
int32_t tok_eos(const struct tokenizer *t);
bool tok_is_end(const struct tokenizer *t, int32_t id); /* EOS, end of turn, end of message */
bool tok_is_special(const struct tokenizer *t, int32_t id);
int32_t tok_find(const struct tokenizer *t, const char *piece); /* special by text; -1 */
const uint8_t *tok_id(const struct tokenizer *t); /* 32 bytes: hash of all that decides ids */

/* Streaming detokenizer: holds back bytes until they are whole code points.  Invalid
 * sequences come out as U+FFFD, never split, never lost. */
struct tok_stream {
    uint8_t held[8];
    uint32_t n_held;
};
/* Feeds one piece; writes complete UTF-8 to out (room: bytes * 3 + 16), returns its length. */
size_t tok_stream_feed(struct tok_stream *s, const char *piece, size_t bytes, char *out);
size_t tok_stream_end(struct tok_stream *s, char *out); /* what was held, as U+FFFD */

#endif
