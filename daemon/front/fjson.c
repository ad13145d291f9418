/* fjson.c - see fjson.h. */
#include "daemon/front/fjson.h"
#include "base/text.h"
#include "proto.h"
#include "json/json.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#define TEXT_BAD "\xef\xbf\xbd" /* U+FFFD, as for half a surrogate pair */

bool front_utf8_ok(const char *s, size_t n)
{
    size_t i = 0, len;
    while (i < n && (len = text_char(s + i, n - i)))
        i += len;
    return i == n;
}

int front_cut(const char *s, size_t most)
{
    size_t n = strnlen(s, most + 1);
    if (n >
        most) /* back to where a character begins; no text has more than 3 bytes behind it */
        for (n = most; n > 0 && most - n < 3 && (s[n] & 0xc0) == 0x80; n--)
            ;
    return (int)n;
}

cJSON *front_parse(const char *p, size_t n, struct errbuf *eb)
{
    struct errbuf why = {""};
    cJSON *o = NULL;
    /* A byte order mark, which some editors put before a text: no part of it (RFC 8259, 8.1). */
    if (n >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0) {
        p += 3;
        n -= 3;
    }
    if (n == 0) {
        err_set(eb, -EINVAL, "the body is empty; want a JSON object");
        return NULL;
    }
    int r = json_parse(&o, p, n, &why);
    if (r < 0)
        err_set(eb, r, "the body is not taken: %s", why.s[0] ? why.s : err_str(r));
    return o;
}

cJSON *front_reply(const char *p, size_t n)
{
    struct fbuf b = {0};
    cJSON *o;
    if (front_utf8_ok(p, n))
        return front_parse(p, n, NULL);
    fbuf_text(&b, p, n);
    o = b.bad ? NULL : front_parse(b.p, b.n, NULL);
    fbuf_fini(&b);
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
void fbuf_text(struct fbuf *b, const char *p, size_t n)
{
    size_t from = 0, i = 0;
    while (i < n) {
        size_t len = text_char(p + i, n - i);
        i += len;
        if (len)
            continue;
        fbuf_put(b, p + from, i - from);
        fbuf_puts(b, TEXT_BAD);
        i++;
        /* What is left of a character that was cut or broken is part of the same fault. */
        for (int k = 0; k < 3 && i < n && (p[i] & 0xc0) == 0x80; k++)
            i++;
        from = i;
    }
    fbuf_put(b, p + from, n - from);
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
        fbuf_text(b, p + from, i - from);
        from = i + 1;
        if (c == '"' || c == '\\')
            fbuf_put(b, (char[]){'\\', (char)c}, 2);
        else if (c == '\n')
            fbuf_put(b, "\\n", 2);
        else
            fbuf_put(b, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    }
    fbuf_text(b, p + from, n - from);
    fbuf_put(b, "\"", 1);
}
