/* identity.c - what a model's KV depends on, as hashes: weights id and fingerprint. */
#include "base/bytes.h"
#include "base/check.h"
#include "engine/eng.h"
#include "engine/source.h"
#include "engine/tokenizer.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <xxhash.h>

enum { ID_CHUNK = 4 << 20, RECORD_FORMAT = 1 };

int eng_weights_id(const char *path, const atomic_bool *stop, uint8_t ret[16],
                   struct errbuf *eb)
{
    struct source *s = NULL;
    struct errbuf why = {""};
    int r = source_open(&s, path, eb);

    if (r < 0)
        return r;
    void *buf = malloc(ID_CHUNK);
    XXH3_state_t *st = XXH3_createState();
    uint64_t all = source_bytes(s);
    r = buf && st ? 0 : -ENOMEM;
    if (r == 0)
        (void)XXH3_128bits_reset(st);
    for (uint64_t at = 0; r == 0 && at < all; at += ID_CHUNK) {
        uint64_t n = all - at < ID_CHUNK ? all - at : ID_CHUNK;
        r = stop && *stop ? -ECANCELED : source_read(s, at, buf, n, &why);
        if (r == 0)
            (void)XXH3_128bits_update(st, buf, (size_t)n);
    }
    if (r == 0)
        r = source_same(s, &why);
    if (r == 0) {
        XXH128_canonical_t c;
        XXH128_canonicalFromHash(&c, XXH3_128bits_digest(st));
        memcpy(ret, c.digest, 16);
    } else if (r != -ECANCELED) {
        err_set(eb, r, "%s: %s", path, why.s[0] ? why.s : err_str(r));
    }
    if (st)
        (void)XXH3_freeState(st);
    free(buf);
    source_close(s);
    return r;
}

/* Every field goes in with its length before it, so that no two lists of fields look alike. */
static void feed(crypto_generichash_state *h, const void *p, uint64_t bytes)
{
    uint8_t len[8];

    st64(len, bytes);
    crypto_generichash_update(h, len, sizeof len);
    crypto_generichash_update(h, p, bytes);
}
static void feed_str(crypto_generichash_state *h, const char *s)
{
    feed(h, s, strlen(s));
}

void eng_fingerprint(const struct engine *e, const uint8_t weights_id[16], uint8_t ret[32])
{
    crypto_generichash_state h;
    uint8_t format[4], loras[4];

    must_be(e, ENG_MAGIC);
    st32(format, RECORD_FORMAT);
    st32(loras, 0);
    crypto_generichash_init(&h, NULL, 0, 32);
    feed_str(&h, "hearth fingerprint 1");
    feed(&h, weights_id, 16);
    /* The identity holds the hyper-parameters and the rope frequencies, overrides included. */
    feed_str(&h, e->arch->ops->identity(e->arch));
    feed_str(&h, e->layout.id);
    feed(&h, format, sizeof format);
    feed(&h, tok_id(e->tok), 32);
    feed(&h, loras, sizeof loras);
    crypto_generichash_final(&h, ret, 32);
}
