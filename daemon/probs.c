/* probs.c - see probs.h. */
#include "daemon/probs.h"
#include "base/bounds.h"
#include "base/bytes.h"
#include "base/check.h"
#include "daemon/daemon.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <math.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_BYTES = 8, TOP_BYTES = 8, PART_BYTES_MAX = 8 << 20 };
bound(HEAD_BYTES + 4ull * CTX_TOKENS_MAX <= PART_BYTES_MAX, "any answer fits a part");
bound((int)PART_BYTES_MAX <= (int)TAIL_BYTES_MAX, "the store takes it");

static uint64_t token_bytes(uint32_t width)
{
    return 4 + (uint64_t)TOP_BYTES * width;
}

/* --- writing ----------------------------------------------------------------------------------- */
static uint8_t *put_float(uint8_t *p, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    st32(p, bits);
    return p + 4;
}

int probs_make(const struct stream *s, uint32_t from, uint32_t to, struct kvs_part *ret)
{
    uint32_t n = to - from, width = s->top_want;
    uint8_t *b, *p;

    must(from <= to && n <= CTX_TOKENS_MAX);
    /* Only what could not be written for a very long time comes near it. */
    if (HEAD_BYTES + n * token_bytes(width) > PART_BYTES_MAX)
        width = 0;
    b = malloc(HEAD_BYTES + n * token_bytes(width));
    if (!b)
        return -ENOMEM;
    st32(b, n);
    st32(b + 4, width);
    p = b + HEAD_BYTES;
    for (uint32_t i = from; i < to; i++) {
        uint32_t n_top = 0;
        const struct smp_top *top = i < s->n_rec ? stream_tops(s, i, &n_top) : NULL;

        p = put_float(p, i < s->n_rec ? stream_logprob(s, i) : NAN);
        for (uint32_t k = 0; k < width; k++) {
            st32(p, k < n_top ? (uint32_t)top[k].id : UINT32_MAX);
            p = put_float(p + 4, k < n_top ? top[k].logprob : 0);
        }
    }
    ret->first = from;
    ret->data = b;
    ret->bytes = (uint32_t)(p - b);
    return 0;
}

/* --- reading ----------------------------------------------------------------------------------- */
static float get_float(const uint8_t *p)
{
    uint32_t bits = ld32(p);
    float v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

struct reading {
    uint64_t n; /* tokens so far */
    probs_each_fn *each;
    void *ctx;
};

static int read_part(void *ctx, const struct kvs_part *a)
{
    struct reading *g = ctx;
    uint32_t n = a->bytes >= HEAD_BYTES ? ld32(a->data) : 0;
    uint32_t width = n ? ld32(a->data + 4) : 0;
    const uint8_t *p = a->data + HEAD_BYTES;
    struct smp_top top[SMP_TOP_MAX];
    int r = 0;

    if (n == 0 || n > CTX_TOKENS_MAX || width > SMP_TOP_MAX || a->first != g->n ||
        g->n + n > CTX_TOKENS_MAX || a->bytes != HEAD_BYTES + n * token_bytes(width))
        return E_CORRUPT;
    for (uint32_t i = 0; g->each && i < n && r == 0; i++, p += token_bytes(width)) {
        uint32_t n_top = 0;

        for (; n_top < width && ld32(p + 4 + TOP_BYTES * n_top) != UINT32_MAX; n_top++) {
            top[n_top].id = (int32_t)ld32(p + 4 + TOP_BYTES * n_top);
            top[n_top].logprob = get_float(p + 8 + TOP_BYTES * n_top);
        }
        r = g->each(g->ctx, g->n + i, get_float(p), top, n_top);
    }
    g->n += n;
    return r;
}

bool probs_old(const cJSON *saved)
{
    return cJSON_HasObjectItem(saved, "generated");
}

static uint64_t old_count(const cJSON *saved)
{
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(saved, "generated");

    return cJSON_IsNumber(n) && n->valuedouble > 0 && n->valuedouble <= CTX_TOKENS_MAX
               ? (uint64_t)n->valuedouble
               : 0;
}

int probs_count(struct daemon *d, uint32_t owner, const struct kvs_id *id, const cJSON *saved,
                uint64_t *ret)
{
    struct reading g = {0};
    int r = 0;

    if (probs_old(saved))
        g.n = old_count(saved);
    else
        r = kvs_parts(d->store, owner, id, read_part, &g);
    if (r == 0)
        *ret = g.n;
    return r;
}

/* The first so many of them lie in the record, in base 64. */
static int old_each(const cJSON *saved, probs_each_fn *each, void *ctx)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(saved, "lp");
    uint64_t n = old_count(saved);
    uint8_t *b = malloc(n * 4 + 1);
    size_t got = 0;
    int r = b ? 0 : -ENOMEM;

    if (b && cJSON_IsString(v) &&
        sodium_base642bin(b, n * 4, v->valuestring, strlen(v->valuestring), NULL, &got, NULL,
                          sodium_base64_VARIANT_ORIGINAL) != 0)
        got = 0;
    for (uint64_t i = 0; i < n && r == 0; i++)
        r = each(ctx, i, i < got / 4 ? get_float(b + 4 * i) : NAN, NULL, 0);
    free(b);
    return r;
}

int probs_each(struct daemon *d, uint32_t owner, const struct kvs_id *id, const cJSON *saved,
               probs_each_fn *each, void *ctx)
{
    struct reading g = {.each = each, .ctx = ctx};

    return probs_old(saved) ? old_each(saved, each, ctx)
                            : kvs_parts(d->store, owner, id, read_part, &g);
}
