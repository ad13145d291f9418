/* json.c - see json.h. */
#include "json/json.h"
#include "base/bounds.h"
#include "base/surrogate.h"
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct scan {
    const uint8_t *p, *end, *start;
    uint32_t objects; /* bit per open level: 1 an object, 0 an array */
    int depth;
    uint32_t values;
    struct errbuf *eb;
};
bound(JSON_DEPTH_MAX <= 32, "open levels fit a 32-bit word");

static int bad(const struct scan *s, const char *want)
{
    return err_set(s->eb, -EINVAL, "JSON at byte %zu: %s", (size_t)(s->p - s->start), want);
}

static void skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

/* Length of the UTF-8 sequence at p, 0 when it is not one (overlong, surrogate, too big). */
static size_t utf8_len(const uint8_t *p, const uint8_t *end)
{
    uint8_t c = p[0];
    size_t n = c < 0x80                ? 1
               : c >= 0xc2 && c < 0xe0 ? 2
               : c >= 0xe0 && c < 0xf0 ? 3
               : c >= 0xf0 && c < 0xf5 ? 4
                                       : 0;

    if (n == 0 || (size_t)(end - p) < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) ||
        (c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static int scan_escape(struct scan *s) /* at the byte after the backslash */
{
    if (s->p == s->end)
        return bad(s, "the text ends inside a string");
    if (*s->p != 'u') {
        if (!strchr("\"\\/bfnrt", *s->p) || !*s->p)
            return bad(s, "unknown escape in a string");
        s->p++;
        return 0;
    }
    int v = surrogate_escape((const char *)s->p - 1, (size_t)(s->end - s->p) + 1);
    if (v < 0)
        return bad(s, "\\u wants four hexadecimal digits");
    if (v == 0)
        return bad(s, "\\u0000 is not accepted in a string");
    s->p += 5; /* of a surrogate's halves surrogate.h has the rule */
    return 0;
}

static int scan_string(struct scan *s) /* at the opening quote */
{
    for (s->p++; s->p < s->end;) {
        uint8_t c = *s->p;

        if (c == '"') {
            s->p++;
            return 0;
        }
        if (c < 0x20)
            return bad(s, "a control character in a string (write it as \\n, \\t or \\u00XX)");
        if (c == '\\') {
            s->p++;
            int r = scan_escape(s);
            if (r < 0)
                return r;
            continue;
        }
        size_t n = utf8_len(s->p, s->end);
        if (n == 0)
            return bad(s, "not UTF-8");
        s->p += n;
    }
    return bad(s, "the text ends inside a string");
}

static bool digits(struct scan *s)
{
    const uint8_t *from = s->p;

    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    return s->p > from;
}

static int scan_number(struct scan *s)
{
    const uint8_t *from = s->p;

    if (*s->p == '-')
        s->p++;
    if (s->p < s->end && *s->p == '0')
        s->p++;
    else if (!digits(s))
        return bad(s, "want a digit");
    if (s->p < s->end && *s->p == '.') {
        s->p++;
        if (!digits(s))
            return bad(s, "want a digit after the point");
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
            s->p++;
        if (!digits(s))
            return bad(s, "want a digit in the exponent");
    }
    return s->p - from > 60 ? bad(s, "a number of more than 60 characters") : 0;
}

static int scan_scalar(struct scan *s)
{
    static const char *const word[] = {"true", "false", "null"};

    if (*s->p == '"')
        return scan_string(s);
    if (*s->p == '-' || (*s->p >= '0' && *s->p <= '9'))
        return scan_number(s);
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(word[i]);
        if ((size_t)(s->end - s->p) >= n && memcmp(s->p, word[i], n) == 0) {
            s->p += n;
            return 0;
        }
    }
    return bad(s, "want a value");
}

static int scan_key(struct scan *s)
{
    skip_space(s);
    if (s->p == s->end || *s->p != '"')
        return bad(s, "want a member's name in quotes");
    int r = scan_string(s);
    if (r < 0)
        return r;
    skip_space(s);
    if (s->p == s->end || *s->p != ':')
        return bad(s, "want ':' after a member's name");
    s->p++;
    return 0;
}

/* One value begins at p (space skipped).  Opens a level or eats a scalar; *ret_opened says
 * which, and an empty {} or [] is eaten whole. */
static int scan_begin(struct scan *s, bool *ret_opened)
{
    *ret_opened = false;
    if (s->p == s->end)
        return bad(s, "the text ends where a value should be");
    if (++s->values > JSON_VALUES_MAX)
        return err_set(s->eb, -EINVAL, "JSON: more than %d values", JSON_VALUES_MAX);
    uint8_t c = *s->p;
    if (c != '{' && c != '[')
        return scan_scalar(s);
    if (s->depth == JSON_DEPTH_MAX)
        return err_set(s->eb, -EINVAL, "JSON at byte %zu: deeper than the limit %d",
                       (size_t)(s->p - s->start), JSON_DEPTH_MAX);
    s->p++;
    skip_space(s);
    if (s->p < s->end && *s->p == (c == '{' ? '}' : ']')) {
        s->p++;
        return 0;
    }
    s->objects = (s->objects & ~(1u << s->depth)) | (c == '{' ? 1u << s->depth : 0);
    s->depth++;
    *ret_opened = true;
    return c == '{' ? scan_key(s) : 0;
}

static int scan_all(struct scan *s)
{
    skip_space(s);
    if (s->p == s->end || *s->p != '{')
        return bad(s, "want an object");
    for (;;) {
        bool opened;

        skip_space(s);
        int r = scan_begin(s, &opened);
        if (r < 0)
            return r;
        if (opened)
            continue;
        /* A value has ended: close levels until one goes on. */
        for (;;) {
            skip_space(s);
            if (s->depth == 0)
                return s->p == s->end ? 0 : bad(s, "bytes after the end of the object");
            bool object = s->objects >> (s->depth - 1) & 1;
            if (s->p < s->end && *s->p == ',') {
                s->p++;
                if (object && (r = scan_key(s)) < 0)
                    return r;
                break;
            }
            if (s->p == s->end || *s->p != (object ? '}' : ']'))
                return bad(s, object ? "want ',' or '}'" : "want ',' or ']'");
            s->p++;
            s->depth--;
        }
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

/* A name said twice would let two readers see two requests.  Recursion is bounded by the
 * depth already checked. */
static int no_twins(const cJSON *v, struct errbuf *eb)
{
    size_t n = 0;
    int r = 0;

    for (const cJSON *c = v->child; c; c = c->next, n++)
        if (c->child && (r = no_twins(c, eb)) < 0)
            return r;
    if (!cJSON_IsObject(v) || n < 2)
        return 0;
    const cJSON *few[16], **names = n <= 16 ? few : malloc(n * sizeof *names);
    if (!names)
        return -ENOMEM;
    n = 0;
    for (const cJSON *c = v->child; c; c = c->next)
        names[n++] = c;
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 1; i < n && r == 0; i++)
        if (strcmp(names[i - 1]->string, names[i]->string) == 0)
            r = err_set(eb, -EINVAL, "JSON: member \"%.60s\" is there twice", names[i]->string);
    if (names != few)
        free(names);
    return r;
}

int json_parse(cJSON **ret, const char *text, size_t bytes, struct errbuf *eb)
{
    struct scan s = {.p = (const uint8_t *)text, .eb = eb};
    char *mended = NULL;
    cJSON *v;
    int r = 0;

    s.start = s.p;
    if (bytes) { /* text may be NULL without */
        s.end = s.p + bytes;
        r = scan_all(&s);
    }
    if (r < 0)
        return r;
    if (surrogate_lone(text, bytes, 0) < bytes) {
        mended = malloc(bytes);
        if (!mended)
            return err_set(eb, -ENOMEM, "JSON: not enough memory for %zu bytes", bytes);
        memcpy(mended, text, bytes);
        surrogate_mend(mended, bytes);
        text = mended;
    }
    v = bytes ? cJSON_ParseWithLength(text, bytes) : cJSON_CreateObject();
    free(mended);
    if (!v)
        return err_set(eb, -ENOMEM, "JSON: not enough memory for %u values", s.values);
    r = no_twins(v, eb);
    if (r < 0) {
        cJSON_Delete(v);
        return r;
    }
    *ret = v;
    return 0;
}
