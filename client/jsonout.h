/* jsonout.h - JSON as the command line prints it: members in our order, floats that read back.
 *
 * Grows in memory and is written with one fwrite, so that a line is whole or absent. */
#ifndef CLIENT_JSONOUT_H
#define CLIENT_JSONOUT_H
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct jout {
    char *p;
    size_t n, cap;
    bool bad, comma; /* bad: without memory; comma: the next member needs one before it */
};
void jout_fini(struct jout *j);
void jout_raw(struct jout *j, const char *s, size_t n);
void jout_open(struct jout *j, const char *name, char bracket); /* name NULL: none */
void jout_close(struct jout *j, char bracket);
void jout_str(struct jout *j, const char *name, const char *s, size_t n);
void jout_num(struct jout *j, const char *name, double v);  /* shortest of 15 or 17 digits */
void jout_float(struct jout *j, const char *name, float v); /* 9 digits: the same float again */
void jout_bool(struct jout *j, const char *name, bool v);
void jout_json(struct jout *j, const char *name, const cJSON *v); /* NULL: null */
void jout_line(struct jout *j); /* to stdout with a newline, flushed; j is empty again */

#endif
