/* split.h - a text in parts that a model's context holds, cut where a reader would. */
#ifndef CLIENT_SPLIT_H
#define CLIENT_SPLIT_H
#include "client/cli.h"

struct part {
    size_t from, n; /* bytes of the text */
};
/* Where a part of text that should end about `at` does (from < at < n): after a blank line, else a
 * line, else a word of its last quarter, and never within a character. */
size_t split_at(const char *text, size_t from, size_t at, size_t n);
/* Parts of at most three quarters of the model's context, about equal; the rest is for questions.
 * model NULL: the daemon's default.  *ret is malloc'd, *ret_n at least 1.  An exit code. */
int split_text(struct cli *c, const char *model, const char *what, const char *text, size_t n,
               struct part **ret, size_t *ret_n);

#endif
