/* pretok.h - cuts text into the words that BPE then merges, by the model's own rule.
 *
 * A rule is named by tokenizer.ggml.pre.  Several names share one rule.  Patterns run in
 * PCRE2, compiled to machine code where memory may be made executable and interpreted where
 * it may not (hardened services); the words are the same.  Immutable after open: any thread.
 *
 * Unicode is pinned at 15.1, the tables of the tokenizers we must agree with: an older PCRE2
 * gets the missing letters and numbers spelled out. */
#ifndef ENGINE_PRETOK_H
#define ENGINE_PRETOK_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pretok;

/* name is not terminated.  E_UNSUPP for a name we do not know (eb lists those we do);
 * -ENOMEM.  jit: false interprets always. */
int pretok_open(struct pretok **ret, const char *name, size_t bytes, bool jit,
                struct errbuf *eb);
void pretok_close(struct pretok *p); /* NULL ok */

const char *pretok_rule(const struct pretok *p);   /* the rule behind the name */
bool pretok_ignore_merges(const struct pretok *p); /* a word in the vocabulary is not cut */
bool pretok_wants_bos(const struct pretok *p);     /* unless the file says otherwise */
bool pretok_is_jit(const struct pretok *p);
/* Which Unicode decides, "15.1" or the name of PCRE2's newer one. */
const char *pretok_unicode(const struct pretok *p);
/* The i-th known name, in the order of the list; NULL past the end. */
const char *pretok_name_at(uint32_t i);

/* Calls word(ctx, offset, bytes) for each word in order; words tile the text.  text is strict
 * UTF-8.  Stops at the first non-zero result and returns it; -ENOMEM. */
typedef int pretok_word(void *ctx, size_t at, size_t bytes);
int pretok_split(const struct pretok *p, const char *text, size_t bytes, pretok_word *word,
                 void *ctx);

#endif
