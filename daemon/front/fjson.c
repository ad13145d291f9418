/* fjson.c - see fjson.h. */
#include "daemon/front/fjson.h"
#include "base/bounds.h"
#include "base/surrogate.h"
#include "proto.h"
#include <stdarg.h>
#include <stdlib.h>

bool front_utf8_ok(const char *s, size_t n)
{
    const uint8_t *p = (const uint8_t *)s, *end = p + n;
    while (p < end) {
        if (*p < 0x80) {
            p++;
            continue;
        }
        int more = *p >= 0xc2 && *p <= 0xdf   ? 1
                   : (*p & 0xf0) == 0xe0      ? 2
                   : *p >= 0xf0 && *p <= 0xf4 ? 3
                                              : 0;
        if (!more || end - p <= more)
            return false;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xc0) != 0x80)
                return false;
        if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
            (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
            return false; /* overlong, surrogate, past U+10FFFF */
        p += more + 1;
    }
    return true;
}

/* Depth and number of values without a parser: brackets, commas outside strings.  A value takes
 * a hundred bytes as soon as it is parsed, and may be written with two. */
static int depth_of(const char *p, size_t n, size_t *ret_values)
{
    int depth = 0, most = 0;
    bool in_str = false;
    size_t values = 1;
    for (size_t i = 0; i < n; i++) {
        if (in_str) {
            if (p[i] == '\\')
                i++;
            else if (p[i] == '"')
                in_str = false;
        } else if (p[i] == '"') {
            in_str = true;
        } else if (p[i] == ',') {
            values++;
        } else if (p[i] == '{' || p[i] == '[') {
            values++;
            if (++depth > most)
                most = depth;
        } else if (p[i] == '}' || p[i] == ']') {
            depth--;
        }
    }
    *ret_values = values;
    return most;
}

/* "\\u0000" would end a C string early: the rest of the text would be lost silently. */
static bool has_zero_escape(const char *p, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++) {
        if (p[i] != '\\')
            continue;
        if (n - i >= 6 && memcmp(p + i, "\\u0000", 6) == 0)
            return true;
        i++; /* whatever is escaped is no backslash of its own */
    }
    return false;
}

cJSON *front_parse(const char *p, size_t n, struct errbuf *eb)
{
    if (!front_utf8_ok(p, n)) {
        err_set(eb, -22, "the body is not valid UTF-8");
        return NULL;
    }
    if (memchr(p, 0, n)) {
        err_set(eb, -22, "the body holds a zero byte");
        return NULL;
    }
    if (has_zero_escape(p, n)) {
        err_set(eb, -22, "the body holds \\u0000; text with a zero character is not taken");
        return NULL;
    }
    size_t values;
    int depth = depth_of(p, n, &values);
    if (values > FRONT_VALUES_MAX) {
        err_set(eb, E_LIMIT, "the JSON has more than %d values", FRONT_VALUES_MAX);
        return NULL;
    }
    if (depth > JSON_DEPTH_MAX) {
        err_set(eb, E_LIMIT, "the JSON is nested deeper than %d levels", JSON_DEPTH_MAX);
        return NULL;
    }
    char *mended = NULL;
    if (surrogate_lone(p, n, 0) < n) {
        mended = malloc(n);
        if (!mended) {
            err_set(eb, -12, "the front has no memory for this body");
            return NULL;
        }
        memcpy(mended, p, n);
        surrogate_mend(mended, n);
    }
    const char *from = mended ? mended : p, *end = from;
    cJSON *o = cJSON_ParseWithLengthOpts(from, n, &end, 0);
    end = p + (end - from);
    free(mended);
    if (!o) {
        err_set(eb, -22, "the body is not JSON (near byte %zu of %zu)", (size_t)(end - p), n);
        return NULL;
    }
    while (end < p + n && strchr(" \t\r\n", *end))
        end++;
    if (end < p + n || !cJSON_IsObject(o)) {
        err_set(eb, -22,
                end < p + n ? "there is something after the JSON, at byte %zu"
                            : "the body is JSON of %zu bytes, but not an object",
                end < p + n ? (size_t)(end - p) : n);
        cJSON_Delete(o);
        return NULL;
    }
    return o;
}

char *front_error(uint32_t status, const char *slug, uint32_t retry_after_ms, const char *fmt,
                  ...)
{
    char words[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    struct fbuf b = {0};
    fbuf_printf(&b, "{\"status\":\"%s\",\"slug\":\"%s\",\"message\":", hrt_status_str(status),
                slug);
    fbuf_json_str(&b, words, strlen(words));
    if (retry_after_ms)
        fbuf_printf(&b, ",\"retry_after_ms\":%u", retry_after_ms);
    fbuf_puts(&b, "}");
    if (b.bad)
        fbuf_fini(&b);
    return b.p;
}

const char *front_str(const cJSON *o, const char *name, const char *otherwise)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsString(v) ? v->valuestring : otherwise;
}
double front_num(const cJSON *o, const char *name, double otherwise)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNumber(v) ? v->valuedouble : otherwise;
}

void fbuf_fini(struct fbuf *b)
{
    free(b->p);
    *b = (struct fbuf){0};
}

void fbuf_put(struct fbuf *b, const void *p, size_t n)
{
    if (b->bad)
        return;
    if (b->cap - b->n <= n) { /* one more than asked: always terminated */
        size_t cap = (b->cap + n + 1) * 2;
        char *q = realloc(b->p, cap);
        if (!q) {
            b->bad = true;
            return;
        }
        b->p = q;
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = 0;
}
void fbuf_puts(struct fbuf *b, const char *s)
{
    fbuf_put(b, s, strlen(s));
}
void fbuf_printf(struct fbuf *b, const char *fmt, ...)
{
    char words[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    must(n >= 0 && (size_t)n < sizeof words);
    fbuf_put(b, words, (size_t)n);
}
void fbuf_json_str(struct fbuf *b, const char *p, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    fbuf_put(b, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = (uint8_t)p[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        fbuf_put(b, p + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\')
            fbuf_put(b, (char[]){'\\', (char)c}, 2);
        else if (c == '\n')
            fbuf_put(b, "\\n", 2);
        else
            fbuf_put(b, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    }
    fbuf_put(b, p + from, n - from);
    fbuf_put(b, "\"", 1);
}
