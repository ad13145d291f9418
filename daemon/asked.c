/* asked.c - see asked.h.
 *
 * A run of (name, kind, length, bytes) in a fixed order; what is absent leaves nothing.  The
 * hash lies on disk for a day: whoever changes what follows changes VERSION with it, or the ids
 * of before the change are taken for used by something else. */
#include "daemon/asked.h"
#include "base/bytes.h"
#include "daemon/call.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char VERSION[] = "hearth asked v1";

enum kind { K_BYTES = 1, K_NUMBER, K_BOOL, K_OTHER };
struct asked {
    crypto_generichash_state h;
};

static void put_head(struct asked *a, const char *name, enum kind kind, uint64_t n)
{
    uint8_t b[9] = {(uint8_t)kind};

    st64(b + 1, n);
    crypto_generichash_update(&a->h, (const unsigned char *)name, strlen(name) + 1);
    crypto_generichash_update(&a->h, b, sizeof b);
}

static void put(struct asked *a, const char *name, enum kind kind, const void *p, size_t n)
{
    put_head(a, name, kind, n);
    if (n)
        crypto_generichash_update(&a->h, p, n);
}

/* --- members ---------------------------------------------------------------------------------- */
static const cJSON *member(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    return v && cJSON_IsNull(v) ? NULL : v;
}

static void put_value(struct asked *a, const char *name, const cJSON *v)
{
    uint8_t type = (uint8_t)v->type, b[8];
    double d = cJSON_IsNumber(v) && v->valuedouble != 0 ? v->valuedouble : 0; /* -0 is 0 */
    uint64_t bits;

    memcpy(&bits, &d, sizeof bits);
    st64(b, bits);
    if (cJSON_IsString(v))
        put(a, name, K_BYTES, v->valuestring, strlen(v->valuestring));
    else if (cJSON_IsNumber(v))
        put(a, name, K_NUMBER, b, sizeof b);
    else
        put(a, name, K_OTHER, &type, 1);
}

static void put_member(struct asked *a, const cJSON *o, const char *name)
{
    const cJSON *v = member(o, name);

    if (v && !(cJSON_IsString(v) && !v->valuestring[0]))
        put_value(a, name, v);
}

static void put_bool(struct asked *a, const cJSON *o, const char *name, bool otherwise)
{
    const cJSON *v = member(o, name);

    if (v && !cJSON_IsBool(v))
        put_value(a, name, v);
    else if (v && (cJSON_IsTrue(v) != 0) != otherwise)
        put(a, name, K_BOOL, NULL, 0);
}

/* --- input ------------------------------------------------------------------------------------ */
static const char *part_text(const cJSON *part)
{
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");

    return cJSON_IsString(type) && strcmp(type->valuestring, "text") == 0 &&
                   cJSON_IsString(text)
               ? text->valuestring
               : NULL;
}

/* Parts of text are the text they make together; null is no text. */
static void put_content(struct asked *a, const cJSON *v)
{
    const cJSON *part;
    uint64_t n = 0;

    if (!v || cJSON_IsNull(v) || cJSON_IsString(v)) {
        const char *s = v && cJSON_IsString(v) ? v->valuestring : "";

        put(a, "content", K_BYTES, s, strlen(s));
        return;
    }
    cJSON_ArrayForEach(part, v)
    {
        const char *s = part_text(part);

        if (s)
            n += strlen(s);
        else
            put_value(a, "part", part);
    }
    put_head(a, "content", cJSON_IsArray(v) ? K_BYTES : K_OTHER, n);
    cJSON_ArrayForEach(part, v)
    {
        const char *s = part_text(part);

        if (s)
            crypto_generichash_update(&a->h, (const unsigned char *)s, strlen(s));
    }
}

/* Of the ways to bring an input only the one that `input` names counts. */
static void put_input(struct asked *a, const struct call *c)
{
    const cJSON *v = member(c->json, "input"), *list = member(c->json, "messages"), *m;
    const char *input = v && cJSON_IsString(v) ? v->valuestring : "";
    const cJSON *prompt = strcmp(input, "prompt") == 0 ? member(c->json, "prompt") : NULL;

    put_member(a, c->json, "input");
    put_member(a, c->json, "system");
    put_bool(a, c->json, "raw", false);
    put_bool(a, c->json, "special", false);
    if (strcmp(input, "messages") != 0) {
        if (prompt)
            put_value(a, "text", prompt);
        else
            put(a, "text", K_BYTES, c->tail, c->tail_bytes);
        return;
    }
    cJSON_ArrayForEach(m, list)
    {
        const cJSON *role = member(m, "role");

        put(a, "message", K_OTHER, NULL, 0);
        if (role)
            put_value(a, "role", role);
        put_content(a, cJSON_GetObjectItemCaseSensitive(m, "content"));
    }
}

/* --- params ----------------------------------------------------------------------------------- */
static int by_name(const void *x, const void *y)
{
    return strcmp((*(const cJSON *const *)x)->string, (*(const cJSON *const *)y)->string);
}

static int put_bias(struct asked *a, const cJSON *map)
{
    int n = cJSON_IsObject(map) ? cJSON_GetArraySize(map) : 0;
    const cJSON **all = n ? malloc((size_t)n * sizeof *all) : NULL, *v;
    size_t at = 0;

    if (n && !all)
        return -ENOMEM;
    if (n) {
        cJSON_ArrayForEach(v, map) all[at++] = v;
        qsort(all, at, sizeof *all, by_name);
    } else if (map && !cJSON_IsObject(map)) {
        put_value(a, "logit_bias", map);
    }
    for (size_t i = 0; i < at; i++) {
        put(a, "logit_bias", K_BYTES, all[i]->string, strlen(all[i]->string));
        put_value(a, "add", all[i]);
    }
    free(all);
    return 0;
}

/* The same seed may be a number or its digits. */
static void put_seed(struct asked *a, const cJSON *v)
{
    char digits[32];

    if (v && cJSON_IsNumber(v)) {
        int n = snprintf(digits, sizeof digits, "%.17g", v->valuedouble);

        put(a, "seed", K_BYTES, digits, (size_t)n);
    } else if (v) {
        put_value(a, "seed", v);
    }
}

static int put_params(struct asked *a, const cJSON *o)
{
    static const char *const number[] = {"max_tokens",
                                         "temperature",
                                         "top_k",
                                         "top_p",
                                         "min_p",
                                         "repeat_penalty",
                                         "repeat_last",
                                         "presence_penalty",
                                         "frequency_penalty",
                                         "logprobs"};
    const cJSON *stop = member(o, "stop"), *order = member(o, "samplers"), *v;

    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        put_member(a, o, number[i]);
    put_bool(a, o, "ignore_eos", false);
    put_seed(a, member(o, "seed"));
    if (stop && !cJSON_IsArray(stop))
        put_value(a, "stop", stop);
    else
        cJSON_ArrayForEach(v, stop) put_value(a, "stop", v);
    if (order) /* an empty list is another order than none */
        put_value(a, "samplers", order);
    if (cJSON_IsArray(order))
        cJSON_ArrayForEach(v, order) put_value(a, "sampler", v);
    return put_bias(a, member(o, "logit_bias"));
}

int asked_hash(const struct call *c, uint8_t ret[ASKED_BYTES])
{
    struct asked a;
    int r;

    crypto_generichash_init(&a.h, NULL, 0, ASKED_BYTES);
    put(&a, VERSION, K_OTHER, NULL, 0);
    put_member(&a, c->json, "session");
    put_member(&a, c->json, "model");
    put_bool(&a, c->json, "create", true);
    put_bool(&a, c->json, "fork", false);
    put_bool(&a, c->json, "keep", true);
    put_input(&a, c);
    r = put_params(&a, member(c->json, "params"));
    if (r == 0)
        crypto_generichash_final(&a.h, ret, ASKED_BYTES);
    return r;
}
