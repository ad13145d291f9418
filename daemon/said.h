/* said.h - the messages of an input, as turns of its session.
 *
 * A turn is one message, whoever else's tokens it shares: it begins where the message begins, not
 * where a shared beginning ends.  The template's opening of an answer belongs to the message
 * before it, its end to the answer; a system message to the turn that it begins.  Where a message
 * lies is read off the rendered text, whose mask says what the template wrote itself; of a template
 * that changes what it is given that cannot be told, and the input is one turn. */
#ifndef DAEMON_SAID_H
#define DAEMON_SAID_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chat_msg;
struct chat_text;
struct prepared;
struct req;

enum { SAID_MAX = 1024 }; /* turns of one input; of more messages the first are one turn */
struct said {
    size_t from, to;          /* its text, in bytes of what was rendered */
    uint64_t first, text_end; /* its first token, and the first behind its text */
    uint32_t role;            /* enum kvs_role */
    bool closed;              /* an answer that ends with its end-of-turn token */
    bool opened;              /* ends with the assistant's opening */
};
/* The ids that the input becomes: n of the session's path or a stored one, each with the bytes
 * of text that it ends at, then those that are new. */
struct said_ids {
    const int32_t *id[2];
    const size_t *end[2]; /* of n + 1 */
    uint64_t n[2];
};

/* Worker thread.  p->said from m, which t was rendered from; -ENOMEM. */
int said_find(struct prepared *p, const struct chat_msg *m, size_t n,
              const struct chat_text *t);
/* Where they begin among the tokens; before: how many there are before ids. */
void said_place(struct prepared *p, const struct said_ids *ids, uint64_t before);

/* Loop thread: r has its session and branch, and how much of its path was there.  Sets
 * r->turn_first, and which of p's messages are turns of their own before it. */
void said_settle(struct req *r, struct prepared *p, bool anonymous);

#endif
