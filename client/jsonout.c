/* jsonout.c - see jsonout.h. */
#include "client/jsonout.h"
#include "client/out.h"
#include "client/say.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void jout_fini(struct jout *j)
{
    free(j->p);
    *j = (struct jout){0};
}

void jout_raw(struct jout *j, const char *s, size_t n)
{
    if (j->bad)
        return;
    if (j->cap - j->n < n + 1) {
        size_t cap = (j->cap + n + 1) * 2;
        char *p = realloc(j->p, cap);
        if (!p) {
            j->bad = true;
            return;
        }
        j->p = p;
        j->cap = cap;
    }
    memcpy(j->p + j->n, s, n);
    j->n += n;
    j->p[j->n] = 0;
}

static void text(struct jout *j, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    jout_raw(j, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        jout_raw(j, s + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\')
            jout_raw(j, (char[]){'\\', (char)c}, 2);
        else if (c == '\n')
            jout_raw(j, "\\n", 2);
        else if (c == '\t')
            jout_raw(j, "\\t", 2);
        else
            jout_raw(j, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    }
    jout_raw(j, s + from, n - from);
    jout_raw(j, "\"", 1);
}

static void begin(struct jout *j, const char *name)
{
    if (j->comma)
        jout_raw(j, ",", 1);
    j->comma = true;
    if (name) {
        text(j, name, strlen(name));
        jout_raw(j, ":", 1);
    }
}

void jout_open(struct jout *j, const char *name, char bracket)
{
    begin(j, name);
    jout_raw(j, &bracket, 1);
    j->comma = false;
}
void jout_close(struct jout *j, char bracket)
{
    jout_raw(j, &bracket, 1);
    j->comma = true;
}
void jout_str(struct jout *j, const char *name, const char *s, size_t n)
{
    begin(j, name);
    text(j, s, n);
}
static void number(struct jout *j, const char *fmt, double v)
{
    char b[40];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int n = snprintf(b, sizeof b, fmt, v);
#pragma GCC diagnostic pop
    jout_raw(j, b, (size_t)n);
}
void jout_num(struct jout *j, const char *name, double v)
{
    begin(j, name);
    if (!isfinite(v)) {
        jout_raw(j, "null", 4);
        return;
    }
    char b[40];
    snprintf(b, sizeof b, "%.15g", v);
    number(j, strtod(b, NULL) == v ? "%.15g" : "%.17g", v);
}
void jout_float(struct jout *j, const char *name, float v)
{
    begin(j, name);
    if (isfinite(v))
        number(j, "%.9g", (double)v);
    else /* JSON has no infinity; this reads back as one, in doubles and in floats */
        jout_raw(j, v > 0 ? "1e999" : v < 0 ? "-1e999" : "null", v > 0 ? 5 : v < 0 ? 6 : 4);
}
void jout_bool(struct jout *j, const char *name, bool v)
{
    begin(j, name);
    jout_raw(j, v ? "true" : "false", v ? 4 : 5);
}
void jout_json(struct jout *j, const char *name, const cJSON *v)
{
    char *s = v ? cJSON_PrintUnformatted(v) : NULL;
    begin(j, name);
    jout_raw(j, s ? s : "null", s ? strlen(s) : 4);
    free(s);
}
void jout_line(struct jout *j)
{
    if (!j->bad && j->p) {
        say_json(stdout, j->p);
        (void)out_flush();
    }
    j->n = 0;
    j->comma = false;
}
