/* say.h - how the client prints what came from outside: names, errors, answers.
 *
 * A terminal must not obey any of it, and no name may fake a line or turn the reading order of one.
 * Everything but the client's own fixed words goes through here (make lint checks). */
#ifndef CLIENT_SAY_H
#define CLIENT_SAY_H
#include <stddef.h>
#include <stdio.h>

/* s on one line, its controls as escapes (base/text.h): s itself when it has none, else one of a few
 * buffers that are used in turn.  For each %s that is not ours. */
const char *shown(const char *s);
/* printf to stdout, to stderr; what slipped through is escaped but for newlines and tabs. */
__attribute__((format(printf, 1, 2))) void say_out(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void say_err(const char *fmt, ...);
/* Text of several lines. */
void say_text(FILE *f, const char *s, size_t n);
/* JSON on one line, newline included: the same value, with \u for what a terminal would obey. */
void say_json(FILE *f, const char *json);

#endif
