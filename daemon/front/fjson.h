/* fjson.h - the little the front does with JSON: parse within bounds, write errors.
 *
 * The core's own rules (json/json.h): what the front takes the core takes. */
#ifndef FRONT_FJSON_H
#define FRONT_FJSON_H
#include "base/err.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An object, to be freed with cJSON_Delete; NULL with words in eb: json.h says of what. */
cJSON *front_parse(const char *p, size_t n, struct errbuf *eb);
/* What hearthd sent.  A byte that belongs to no character, of the name of a file say, is U+FFFD:
 * for one such name nobody is left without the answer. */
cJSON *front_reply(const char *p, size_t n);
bool front_utf8_ok(const char *p, size_t n);
/* How many bytes of s to show, whole characters, at most that many: for "%.*s". */
int front_cut(const char *s, size_t most);

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
/* What is no UTF-8 becomes U+FFFD: whatever a client, a cut or hearthd put there, what is written
 * is text. */
void fbuf_text(struct fbuf *b, const char *p, size_t n);
void fbuf_json_str(struct fbuf *b, const char *p, size_t n); /* the same, quoted and escaped */

#endif
