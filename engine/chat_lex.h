/* chat_lex.h - a chat template's text as tokens and stretches of plain text (chat_jinja.h).
 *
 * Shared by the two halves of the parser and nobody else.  The first failure is kept; after it
 * the cursor stands at the end and every question is answered with no. */
#ifndef ENGINE_CHAT_LEX_H
#define ENGINE_CHAT_LEX_H
#include "engine/chat_jinja.h"

enum tok { T_END, T_NAME, T_STR, T_INT, T_OP };
struct parse {
    const char *p, *end; /* what is left of the source */
    bool line_start;     /* the last tag swallowed its newline */
    bool eat_space;      /* the last tag ended with a minus */
    struct jmem *m;
    struct errbuf *eb;
    int err;
    uint32_t line, depth;
    bool in_tag;
    uint32_t open; /* brackets not yet closed: inside them "}}" is not the end of a tag */
    /* the token under the cursor, inside a tag */
    enum tok tok;
    struct jstr word; /* name, operator, or the string's value */
    int64_t value;
    char close[3]; /* "%}" or "}}" of the tag we are in */
};

void lex_fail(struct parse *s, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *lex_take(struct parse *s, uint64_t bytes);          /* zeroed; NULL after a failure */
struct jnode *lex_node(struct parse *s, enum jtype type); /* NULL after any failure */
struct jstr lex_keep(struct parse *s, struct jstr w);     /* a copy that outlives the source */

/* Inside a tag: the next token; past the tag's end in_tag is false. */
void lex_next(struct parse *s);
void lex_open_tag(struct parse *s, char kind);      /* '%' or '{': reads the first token */
bool lex_op(const struct parse *s, const char *op); /* is it this operator? */
bool lex_name(const struct parse *s, const char *name);
bool lex_skip_op(struct parse *s, const char *op); /* if it is, step over it */
bool lex_skip_name(struct parse *s, const char *name);
void lex_want_op(struct parse *s, const char *op); /* it must be */
struct jstr lex_want_name(struct parse *s);

/* Outside: plain text up to the next tag, as a node or NULL when none is left of it; the
 * tag's opening is consumed.  *ret_tag: '%', '{', '#', or 0 at the end. */
struct jnode *lex_text(struct parse *s, char *ret_tag);
void lex_comment(struct parse *s); /* after "{#" */

#endif
