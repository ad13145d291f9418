/* json.h - what must hold of a peer's JSON before the library may build a tree of it.
 *
 * cJSON is lenient (trailing bytes, raw control characters, "\u0000" that ends a string
 * early) and spends 64 bytes a value, so 8 MiB of "[[],[],..." would become a quarter of a
 * gigabyte.  This pass runs first, in one walk without memory: grammar, UTF-8, depth
 * <= JSON_DEPTH_MAX, at most JSON_VALUES_MAX values.  Half a surrogate pair is taken as U+FFFD
 * (base/surrogate.h).  Any thread; no state. */
#ifndef JSON_JSON_H
#define JSON_JSON_H
#include "base/err.h"
#include <cjson/cJSON.h>
#include <stddef.h>

enum { JSON_VALUES_MAX = 1 << 18 };

/* Checks and parses; the text must be one object; *ret is freed with cJSON_Delete.  An empty
 * text is {}.  -EINVAL with words (offset, what was wanted), -ENOMEM. */
int json_parse(cJSON **ret, const char *text, size_t bytes, struct errbuf *eb);

#endif
