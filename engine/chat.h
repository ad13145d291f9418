/* chat.h - chat templates, rendered byte for byte as the model's Jinja renders.
 *
 * tokenizer.chat_template is parsed and evaluated (chat_jinja.h): ChatML and its default-system
 * variants, Llama 3, Mistral, Gemma ... A template that needs what we lack is refused with a
 * hint (--raw), never approximated.  Output is text plus a mask of the bytes the template itself
 * wrote: special tokens match only there.  Immutable: any thread. */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf;
struct tokenizer;
struct chat;

struct chat_msg {
    const char *role; /* "system" | "user" | "assistant" | ... */
    const char *text;
    size_t bytes;
};
struct chat_text { /* growable; zero-initialise, free with chat_text_fini */
    char *p;
    uint8_t *mask; /* 1: written by the template */
    size_t n, cap;
};
void chat_text_fini(struct chat_text *t);

/* *ret = NULL and 0 when the model has no template; E_UNSUPP when it has one we cannot follow
 * (eb says what it needs and how it begins).  tok outlives the chat. */
int chat_open(struct chat **ret, const struct gguf *g, const struct tokenizer *t,
              struct errbuf *eb);
void chat_close(struct chat *c);
const char *chat_family(const struct chat *c); /* for people: "chatml", "llama3" ... "jinja" */
bool chat_writes_bos(const struct chat *c);    /* then tokenise with bos off */

/* A whole conversation from nothing.  date: "YYYY-MM-DD", frozen when the session was made
 * (used by templates that print one).  prompt: end with the assistant's opening. -EINVAL with
 * words when the template itself would raise (roles out of order, unknown role). */
int chat_render(const struct chat *c, const struct chat_msg *m, size_t n, bool prompt,
                const char *date, struct chat_text *out, struct errbuf *eb);
/* What follows when a session whose last turn is the assistant's goes on with m[0..n): first
 * closes that turn (closed: its end-of-turn token was sampled and is already in the log; the
 * bytes after it are not), then the messages, then the opening if prompt.  first: the session
 * holds nothing yet (the same as chat_render). */
int chat_append(const struct chat *c, bool first, bool closed, const struct chat_msg *m,
                size_t n, bool prompt, const char *date, struct chat_text *out,
                struct errbuf *eb);

#endif
