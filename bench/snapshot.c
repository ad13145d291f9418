/* snapshot.c - see snapshot.h. */
#include "bench/snapshot.h"
#include "base/bounds.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "engine/engine.h"
#include "kvstore/key.h"
#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

enum { HEAD_CRC_AT = 136, BLOCK_IDS_AT = 80, BLOCK_CRC_AT = 1104, SNAP_VERSION = 1 };

static uint64_t payload_bytes(const struct engine *e)
{
    return eng_layout(e)->page_bytes[KV_HOT] + eng_layout(e)->page_bytes[KV_COLD];
}

int snap_init(struct snap *s, const struct engine *e)
{
    uint32_t ctx = eng_info(e)->ctx_max;

    s->ids = calloc(ctx, sizeof *s->ids);
    for (int p = 0; p < 2; p++)
        s->pages[p] = calloc(ctx / BLOCK_TOKENS + 1, sizeof **s->pages);
    return s->ids && s->pages[0] && s->pages[1] ? 0 : -ENOMEM;
}

void snap_fini(struct snap *s, struct engine *e)
{
    for (int p = 0; p < 2; p++) {
        for (uint32_t i = 0; i < s->n_pages; i++)
            if (eng_layout(e)->page_bytes[p])
                eng_page_drop(e, p, s->pages[p][i]);
        free(s->pages[p]);
    }
    free(s->ids);
    memset(s, 0, sizeof *s);
}

int snap_room(struct snap *s, struct engine *e, uint64_t tokens)
{
    while ((uint64_t)s->n_pages * BLOCK_TOKENS < tokens) {
        uint32_t page[2] = {ENG_PAGE_NONE, ENG_PAGE_NONE};
        for (int p = 0; p < 2; p++) {
            int r = eng_layout(e)->page_bytes[p] ? eng_page_take(e, p, &page[p]) : 0;
            if (r < 0)
                return r;
            s->pages[p][s->n_pages] = page[p];
        }
        s->n_pages++;
    }
    return 0;
}

static int page_move(struct snap *s, struct engine *e, uint32_t block, uint8_t *payload,
                     bool save)
{
    for (int p = 0; p < 2; p++) {
        uint64_t bytes = eng_layout(e)->page_bytes[p];
        int r = !bytes ? 0
                : save ? eng_page_save(e, p, s->pages[p][block], payload)
                       : eng_page_load(e, p, s->pages[p][block], payload);
        if (r < 0)
            return r;
        payload += bytes;
    }
    return 0;
}

static void hash_payload(const void *p, uint64_t bytes, uint8_t ret[16])
{
    XXH128_canonical_t c;

    XXH128_canonicalFromHash(&c, XXH3_128bits(p, bytes));
    memcpy(ret, c.digest, 16);
}

static void head_fill(const struct snap *s, const struct engine *e, const uint8_t fp[32],
                      uint8_t h[IO_ALIGN])
{
    memset(h, 0, IO_ALIGN);
    memcpy(h, "HEARTHSN", 8);
    st32(h + 8, SNAP_VERSION);
    st32(h + 12, (uint32_t)((s->n + BLOCK_TOKENS - 1) / BLOCK_TOKENS));
    st64(h + 16, s->n);
    st64(h + 24, payload_bytes(e));
    st64(h + 32, eng_info(e)->epoch);
    memcpy(h + 40, fp, 32);
    snprintf((char *)h + 72, 64, "%s", eng_layout(e)->id);
    st32(h + HEAD_CRC_AT, crc32c(0, h, HEAD_CRC_AT));
}

int snap_save(const struct snap *s, struct engine *e, const uint8_t fingerprint[32],
              const char *path, struct errbuf *eb)
{
    uint64_t bytes = payload_bytes(e);
    uint8_t h[IO_ALIGN], *payload = aligned_alloc(IO_ALIGN, bytes);
    FILE *f = payload ? fopen(path, "wb") : NULL;
    int r = !payload ? -ENOMEM : f ? 0 : -errno;
    struct kvs_key key;

    head_fill(s, e, fingerprint, h);
    if (r == 0 && fwrite(h, sizeof h, 1, f) != 1)
        r = -errno;
    kvs_key_root(fingerprint, 0, &key);
    for (uint64_t at = 0; r == 0 && at < s->n; at += BLOCK_TOKENS) {
        uint32_t n = s->n - at < BLOCK_TOKENS ? (uint32_t)(s->n - at) : BLOCK_TOKENS;
        kvs_key_next(&key, s->ids + at, n, &key);
        r = page_move((struct snap *)s, e, (uint32_t)(at / BLOCK_TOKENS), payload, true);
        memset(h, 0, sizeof h);
        memcpy(h, "HEARTHBK", 8);
        st32(h + 8, SNAP_VERSION);
        st32(h + 12, n);
        st64(h + 16, at);
        st64(h + 24, bytes);
        memcpy(h + 32, key.b, 32);
        hash_payload(payload, bytes, h + 64);
        memcpy(h + BLOCK_IDS_AT, s->ids + at, n * sizeof *s->ids);
        st32(h + BLOCK_CRC_AT, crc32c(0, h, BLOCK_CRC_AT));
        if (r == 0 && (fwrite(h, sizeof h, 1, f) != 1 || fwrite(payload, bytes, 1, f) != 1))
            r = -errno;
    }
    if (f && fclose(f) != 0 && r == 0)
        r = -errno;
    free(payload);
    return r < 0 ? err_set(eb, r, "snapshot %s: %s", path, err_str(r)) : 0;
}

static int head_check(const struct engine *e, const uint8_t fp[32], const uint8_t h[IO_ALIGN],
                      const char *path, struct errbuf *eb)
{
    const char *layout = (const char *)h + 72;

    if (memcmp(h, "HEARTHSN", 8) != 0)
        return err_set(eb, E_CORRUPT, "snapshot %s: not a snapshot", path);
    if (ld32(h + 8) != SNAP_VERSION)
        return err_set(eb, E_VERSION, "snapshot %s: version is %u, only %d is read", path,
                       ld32(h + 8), SNAP_VERSION);
    if (ld32(h + HEAD_CRC_AT) != crc32c(0, h, HEAD_CRC_AT))
        return err_set(eb, E_CORRUPT, "snapshot %s: header checksum is wrong", path);
    if (strncmp(layout, eng_layout(e)->id, 64) != 0)
        return err_set(eb, E_SHAPE, "snapshot %s: layout is %.63s, the model's is %s", path,
                       layout, eng_layout(e)->id);
    if (memcmp(h + 40, fp, 32) != 0)
        return err_set(eb, E_SHAPE, "snapshot %s: fingerprint differs: another model made it",
                       path);
    if (ld64(h + 32) != eng_info(e)->epoch)
        return err_set(
            eb, E_SHAPE, "snapshot %s: numerics epoch is %016llx, this backend's is %016llx",
            path, (unsigned long long)ld64(h + 32), (unsigned long long)eng_info(e)->epoch);
    if (ld64(h + 24) != payload_bytes(e))
        return err_set(eb, E_CORRUPT, "snapshot %s: block payload is %llu bytes, not %llu",
                       path, (unsigned long long)ld64(h + 24),
                       (unsigned long long)payload_bytes(e));
    if (ld64(h + 16) > eng_info(e)->ctx_max ||
        ld32(h + 12) != (ld64(h + 16) + BLOCK_TOKENS - 1) / BLOCK_TOKENS)
        return err_set(eb, E_LIMIT, "snapshot %s: %llu tokens in %u blocks, the context is %u",
                       path, (unsigned long long)ld64(h + 16), ld32(h + 12),
                       eng_info(e)->ctx_max);
    return 0;
}

/* One block's header against the chain so far. */
static int block_check(const struct engine *e, const uint8_t *h, uint64_t at, uint32_t n,
                       struct kvs_key *key, const char *path, struct errbuf *eb)
{
    int32_t ids[BLOCK_TOKENS];

    if (memcmp(h, "HEARTHBK", 8) != 0 || ld32(h + BLOCK_CRC_AT) != crc32c(0, h, BLOCK_CRC_AT) ||
        ld32(h + 8) != SNAP_VERSION || ld32(h + 12) != n || ld64(h + 16) != at ||
        ld64(h + 24) != payload_bytes(e))
        return err_set(eb, E_CORRUPT, "snapshot %s: block %llu has a damaged header", path,
                       (unsigned long long)(at / BLOCK_TOKENS));
    memcpy(ids, h + BLOCK_IDS_AT, sizeof ids);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= eng_info(e)->n_vocab)
            return err_set(eb, E_CORRUPT, "snapshot %s: token %llu is %d, the vocabulary is %u",
                           path, (unsigned long long)(at + i), ids[i], eng_info(e)->n_vocab);
    kvs_key_next(key, ids, n, key);
    if (memcmp(key->b, h + 32, 32) != 0)
        return err_set(eb, E_CORRUPT, "snapshot %s: block %llu does not follow from its tokens",
                       path, (unsigned long long)(at / BLOCK_TOKENS));
    return 0;
}

int snap_load(struct snap *s, struct engine *e, const uint8_t fingerprint[32], const char *path,
              struct errbuf *eb)
{
    uint64_t bytes = payload_bytes(e), n = 0;
    uint8_t h[IO_ALIGN], *payload = aligned_alloc(IO_ALIGN, bytes), sum[16];
    FILE *f = payload ? fopen(path, "rb") : NULL;
    struct kvs_key key;
    int r = 0;

    if (!f) {
        r = payload ? -errno : -ENOMEM;
        free(payload);
        return err_set(eb, r, "snapshot %s: %s", path, err_str(r));
    }
    if (fread(h, sizeof h, 1, f) != 1)
        r = err_set(eb, E_CORRUPT, "snapshot %s: shorter than its header", path);
    if (r == 0)
        r = head_check(e, fingerprint, h, path, eb);
    if (r == 0)
        n = ld64(h + 16);
    if (r == 0 && snap_room(s, e, n) < 0)
        r = err_set(eb, -EAGAIN, "snapshot %s: %llu tokens do not fit the page pool", path,
                    (unsigned long long)n);
    kvs_key_root(fingerprint, 0, &key);
    for (uint64_t at = 0; r == 0 && at < n; at += BLOCK_TOKENS) {
        uint32_t m = n - at < BLOCK_TOKENS ? (uint32_t)(n - at) : BLOCK_TOKENS;
        if (fread(h, sizeof h, 1, f) != 1 || fread(payload, bytes, 1, f) != 1)
            r = err_set(eb, E_CORRUPT, "snapshot %s: ends inside block %llu", path,
                        (unsigned long long)(at / BLOCK_TOKENS));
        if (r == 0)
            r = block_check(e, h, at, m, &key, path, eb);
        if (r < 0)
            break;
        hash_payload(payload, bytes, sum);
        if (memcmp(sum, h + 64, 16) != 0)
            r = err_set(eb, E_CORRUPT, "snapshot %s: block %llu has a wrong payload checksum",
                        path, (unsigned long long)(at / BLOCK_TOKENS));
        if (r == 0)
            r = page_move(s, e, (uint32_t)(at / BLOCK_TOKENS), payload, false);
        memcpy(s->ids + at, h + BLOCK_IDS_AT, m * sizeof *s->ids);
    }
    if (r == 0)
        s->n = n;
    fclose(f);
    free(payload);
    return r;
}
