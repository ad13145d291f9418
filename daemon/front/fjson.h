/* fjson.h - the little the front does with JSON: parse within bounds, write errors.
 *
 * cJSON is the parser; depth and size are checked before it sees a byte, and half a surrogate
 * pair is U+FFFD by then (base/surrogate.h). */
#ifndef FRONT_FJSON_H
#define FRONT_FJSON_H
#include "base/err.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FRONT_VALUES_MAX = 1 << 18 }; /* in one JSON text: members, elements, objects, arrays */
/* An object, to be freed with cJSON_Delete; NULL with words in eb: not UTF-8, not JSON,
 * deeper than JSON_DEPTH_MAX, more values than FRONT_VALUES_MAX, a number no double holds, not an object. */
cJSON *front_parse(const char *p, size_t n, struct errbuf *eb);
bool front_utf8_ok(const char *p, size_t n);

/* {"status","slug","message"[,"retry_after_ms"]}; malloc'd; NULL only without memory. */
__attribute__((format(printf, 4, 5))) char *
front_error(uint32_t status, const char *slug, uint32_t retry_after_ms, const char *fmt, ...);
const char *front_str(const cJSON *o, const char *name, const char *otherwise);
double front_num(const cJSON *o, const char *name, double otherwise);

/* Growable text. A failed allocation sets bad and drops what follows; check it once. */
struct fbuf {
    char *p;
    size_t n, cap;
    bool bad;
};
void fbuf_fini(struct fbuf *b);
void fbuf_put(struct fbuf *b, const void *p, size_t n);
void fbuf_puts(struct fbuf *b, const char *s);
__attribute__((format(printf, 2, 3))) void fbuf_printf(struct fbuf *b, const char *fmt, ...);
void fbuf_json_str(struct fbuf *b, const char *p, size_t n); /* quoted and escaped */

#endif
