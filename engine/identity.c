/* identity.c - what a model's KV depends on, as hashes: weights id and fingerprint. */
#include "base/bytes.h"
#include "base/check.h"
#include "engine/eng.h"
#include "engine/tokenizer.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

enum { ID_CHUNK = 4 << 20, RECORD_FORMAT = 1 };

int eng_weights_id(const char *path, const volatile bool *stop, uint8_t ret[16],
                   struct errbuf *eb)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *buf = fd < 0 ? NULL : malloc(ID_CHUNK);
    XXH3_state_t *st = fd < 0 ? NULL : XXH3_createState();
    int r = fd < 0 ? -errno : buf && st ? 0 : -ENOMEM;
    ssize_t n = 1;

    if (r == 0)
        (void)XXH3_128bits_reset(st);
    while (r == 0 && n > 0) {
        if (stop && *stop) {
            r = -ECANCELED;
            break;
        }
        n = read(fd, buf, ID_CHUNK);
        if (n > 0)
            (void)XXH3_128bits_update(st, buf, (size_t)n);
        else if (n < 0 && errno == EINTR)
            n = 1;
        else if (n < 0)
            r = -errno;
    }
    if (r == 0) {
        XXH128_canonical_t c;
        XXH128_canonicalFromHash(&c, XXH3_128bits_digest(st));
        memcpy(ret, c.digest, 16);
    } else if (r != -ECANCELED) {
        err_set(eb, r, "%s: %s", path, strerror(-r));
    }
    if (st)
        (void)XXH3_freeState(st);
    free(buf);
    if (fd >= 0)
        close(fd);
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
