/* ini.h - INI text to (section, key, value) triples.
 *
 *   # comment, also ;        lines of at most INI_LINE_MAX bytes
 *   [section]  [model NAME]  a section goes on to the next one
 *   key = value              blanks around both are dropped; "value" keeps its blanks
 *
 * Knows no key; no state; any thread. */
#ifndef DAEMON_INI_H
#define DAEMON_INI_H
#include "base/err.h"
#include <stdint.h>

enum { INI_LINE_MAX = 4096, INI_BYTES_MAX = 1 << 20 };

struct ini_line {
    const char *file; /* for messages */
    uint32_t line;
    const char *section; /* "" before the first */
    const char *key;     /* NULL: a section begins here */
    const char *value;
};
/* Calls each for every section and every pair; strings live until it returns, nonzero from
 * it stops.  -EINVAL with words "FILE:LINE: ...". */
int ini_parse(const char *file, const char *text, uint64_t bytes,
              int (*each)(void *ctx, const struct ini_line *l, struct errbuf *eb), void *ctx,
              struct errbuf *eb);

#endif
