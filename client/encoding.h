/* encoding.h - what a file or a pipe holds, as UTF-8: converted when it is certain what it is,
 * or was said; refused, with the way out, otherwise. */
#ifndef CLIENT_ENCODING_H
#define CLIENT_ENCODING_H
#include "client/cli.h"

/* The flag --encoding NAME. */
extern const struct flag flags_encoding[];
/* *text (malloc'd, *n bytes, terminated) becomes UTF-8 without zero bytes, of at most max bytes.
 * what: its name in words.  With --encoding it is converted from that; else a byte order mark,
 * or the clear structure of UTF-16, decides.  A conversion is said unless hush.  An exit code;
 * of a failure *text is freed. */
int encoding_take(struct cli *c, const struct args *a, const char *what, size_t max, bool hush,
                  char **text, size_t *n);
/* Is there an encoding of that name?  An exit code. */
int encoding_known(struct cli *c, const char *name);
/* Words that were typed must be UTF-8.  what: "--system", "the question".  An exit code. */
int encoding_typed(struct cli *c, const char *what, const char *words);

#endif
