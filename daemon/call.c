/* call.c - see call.h: replies, and members read with their bounds. */
#include "daemon/call.h"
#include "base/text.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/link.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_AFTER_MS = 1000 }; /* said when the handler knows nothing better */

/* As text.  A file's name may hold any bytes, and words that were cut end in the middle of a
 * character: JSON is UTF-8, so what belongs to no character goes as U+FFFD.  NULL: no memory. */
static char *printed(const cJSON *o)
{
    char *s = cJSON_PrintUnformatted(o);
    size_t n = s ? strlen(s) : 0;

    if (!s || text_bad(s, n) == n)
        return s;
    char *fit = malloc(3 * n + 1);
    if (fit)
        text_mend(fit, s, n);
    free(s);
    return fit;
}

void call_ok(struct call *c, cJSON *reply, const void *tail, size_t tail_bytes)
{
    char *s = reply ? printed(reply) : NULL;

    if (reply && !s) {
        cJSON_Delete(reply);
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL,
                  "no memory for the reply; nothing was undone, ask again");
        return;
    }
    if (s && strlen(s) > JSON_BYTES_MAX) {
        size_t n = strlen(s);

        free(s);
        cJSON_Delete(reply);
        call_fail(c, HRT_INTERNAL, "internal", NULL,
                  "the reply's JSON has %zu bytes, a frame holds %d", n, JSON_BYTES_MAX);
        return;
    }
    if (tail_bytes > TAIL_BYTES_MAX) {
        free(s);
        cJSON_Delete(reply);
        call_fail(c, HRT_INTERNAL, "internal", NULL,
                  "the reply's tail has %zu bytes, a frame holds %d", tail_bytes,
                  TAIL_BYTES_MAX);
        return;
    }
    link_reply(c, HRT_OK, s ? s : "{}", s ? strlen(s) : 2, tail, tail_bytes);
    free(s);
    cJSON_Delete(reply);
}

void call_fail(struct call *c, uint32_t status, const char *slug, cJSON *extra, const char *fmt,
               ...)
{
    char words[1024];
    va_list ap;
    cJSON *o = cJSON_CreateObject();
    char *s = NULL;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    if (o) {
        cJSON_AddStringToObject(o, "status", hrt_status_str(status));
        cJSON_AddStringToObject(o, "slug", slug);
        cJSON_AddStringToObject(o, "message", words);
        while (extra && extra->child) {
            cJSON *item = cJSON_DetachItemViaPointer(extra, extra->child);
            char *name = item->string;

            /* AddItemToObject makes its own copy of the name and frees the item's. */
            name = name ? strdup(name) : NULL;
            if (!name || !cJSON_AddItemToObject(o, name, item))
                cJSON_Delete(item);
            free(name);
        }
        if ((status == HRT_RESOURCE_EXHAUSTED || status == HRT_UNAVAILABLE) &&
            !cJSON_GetObjectItemCaseSensitive(o, "retry_after_ms"))
            cJSON_AddNumberToObject(o, "retry_after_ms", RETRY_AFTER_MS);
        s = printed(o);
    }
    static const char plain[] =
        "{\"status\":\"RESOURCE_EXHAUSTED\",\"slug\":\"out_of_memory\","
        "\"message\":\"no memory for the reply\",\"retry_after_ms\":1000}";
    if (s)
        link_reply(c, status, s, strlen(s), NULL, 0);
    else
        link_reply(c, HRT_RESOURCE_EXHAUSTED, plain, sizeof plain - 1, NULL, 0);
    free(s);
    cJSON_Delete(o);
    cJSON_Delete(extra);
}

/* --- members --- */
static const cJSON *member(const cJSON *obj, const char *path)
{
    const char *dot = strrchr(path, '.');
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, dot ? dot + 1 : path);

    return v && cJSON_IsNull(v) ? NULL : v;
}

/* A value as it is shown in an error: short, and never cut inside a code point. */
static void show(const cJSON *v, char *ret, size_t cap)
{
    char *s = cJSON_PrintUnformatted(v);
    size_t n = s ? strlen(s) : 0, max = 60;

    if (n <= max) {
        snprintf(ret, cap, "%s", s ? s : "?");
    } else {
        while (max && (s[max] & 0xc0) == 0x80)
            max--;
        snprintf(ret, cap, "%.*s...", (int)max, s);
    }
    free(s);
}

static int refuse(struct call *c, const cJSON *v, const char *path, const char *want)
{
    char got[128];
    cJSON *extra = cJSON_CreateObject();

    show(v, got, sizeof got);
    if (extra)
        cJSON_AddStringToObject(extra, "field", path);
    call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", extra, "%s: want %s, got %s", path, want,
              got);
    return -EINVAL;
}

int want_str(struct call *c, const cJSON *obj, const char *path, size_t bytes_max,
             const char **ret)
{
    const cJSON *v = member(obj, path);
    char want[96];

    if (!v)
        return 0;
    if (!cJSON_IsString(v))
        return refuse(c, v, path, "a string");
    size_t n = strlen(v->valuestring);
    if (n > bytes_max) {
        snprintf(want, sizeof want, "a string of at most %zu bytes (this has %zu)", bytes_max,
                 n);
        return refuse(c, v, path, want);
    }
    *ret = v->valuestring;
    return 1;
}

int want_u64(struct call *c, const cJSON *obj, const char *path, uint64_t min, uint64_t max,
             uint64_t *ret)
{
    const cJSON *v = member(obj, path);
    char want[96];

    if (!v)
        return 0;
    /* Doubles hold integers up to 2^53 exactly; above that two numbers look the same. */
    const uint64_t exact = (uint64_t)1 << 53;
    if (max > exact)
        max = exact;
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble) ||
        v->valuedouble != floor(v->valuedouble) || v->valuedouble < (double)min ||
        v->valuedouble > (double)max) {
        snprintf(want, sizeof want, "a whole number in [%llu,%llu]", (unsigned long long)min,
                 (unsigned long long)max);
        return refuse(c, v, path, want);
    }
    *ret = (uint64_t)v->valuedouble;
    return 1;
}

int want_num(struct call *c, const cJSON *obj, const char *path, double min, double max,
             bool min_open, double *ret)
{
    const cJSON *v = member(obj, path);
    char want[96];

    if (!v)
        return 0;
    if (!cJSON_IsNumber(v) || !isfinite(v->valuedouble) || v->valuedouble > max ||
        v->valuedouble < min || (min_open && v->valuedouble == min)) {
        snprintf(want, sizeof want, "a number in %c%g,%g]", min_open ? '(' : '[', min, max);
        return refuse(c, v, path, want);
    }
    *ret = v->valuedouble;
    return 1;
}

int want_bool(struct call *c, const cJSON *obj, const char *path, bool *ret)
{
    const cJSON *v = member(obj, path);

    if (!v)
        return 0;
    if (!cJSON_IsBool(v))
        return refuse(c, v, path, "true or false");
    *ret = cJSON_IsTrue(v);
    return 1;
}

static int hex_digit(char ch)
{
    return ch >= '0' && ch <= '9' ? ch - '0' : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

int want_hex(struct call *c, const cJSON *obj, const char *path, uint8_t *ret, size_t bytes)
{
    const cJSON *v = member(obj, path);
    char want[64];

    if (!v)
        return 0;
    snprintf(want, sizeof want, "%zu lower-case hexadecimal digits", 2 * bytes);
    if (!cJSON_IsString(v) || strlen(v->valuestring) != 2 * bytes)
        return refuse(c, v, path, want);
    const char *s = v->valuestring;
    for (size_t i = 0; i < 2 * bytes; i++)
        if (hex_digit(s[i]) < 0)
            return refuse(c, v, path, want);
    for (size_t i = 0; i < bytes; i++)
        ret[i] = (uint8_t)(hex_digit(s[2 * i]) << 4 | hex_digit(s[2 * i + 1]));
    return 1;
}

int want_obj(struct call *c, const cJSON *obj, const char *path, const cJSON **ret)
{
    const cJSON *v = member(obj, path);

    if (!v)
        return 0;
    if (!cJSON_IsObject(v))
        return refuse(c, v, path, "an object");
    *ret = v;
    return 1;
}

int want_arr(struct call *c, const cJSON *obj, const char *path, const cJSON **ret)
{
    const cJSON *v = member(obj, path);

    if (!v)
        return 0;
    if (!cJSON_IsArray(v))
        return refuse(c, v, path, "an array");
    *ret = v;
    return 1;
}

void hex_put(char *ret, const uint8_t *b, size_t n)
{
    static const char digit[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digit[b[i] >> 4];
        ret[2 * i + 1] = digit[b[i] & 15];
    }
    ret[2 * n] = 0;
}

bool call_as(struct call *c)
{
    uint8_t as[IDENT_BYTES];
    int r = want_hex(c, c->json, "as", as, sizeof as);

    if (r <= 0)
        return r == 0;
    r = c->d->idents ? ident_owner(c->d->idents, c->uid, as, &c->uid) : -ENOMEM;
    if (r == 0)
        return true;
    if (r == -EEXIST)
        call_fail(c, HRT_INTERNAL, "internal", NULL,
                  "as: this key has the number of another one; make a new key");
    else if (r == -EAGAIN) /* waiting does not help */
        call_fail(
            c, HRT_PERMISSION_DENIED, "permission_denied", NULL,
            "as: hearthd has seen %d API keys of one user since it began and takes no new "
            "one; those go on to work; restart hearthd for others",
            IDENT_KEYS_MAX);
    else
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory for this key");
    return false;
}
