/* slot.c - see slot.h. */
#include "kvstore/slot.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"
#include <errno.h>
#include <xxhash.h>

enum { FORMAT_VERSION = 1 };
static const char SEG_MAGIC[8] = "HRTHSEG1", SLOT_MAGIC[8] = "HRTHSLT1";

/* The CRC field counts as zero in its own sum. */
static uint32_t head_crc(const uint8_t *b)
{
    static const uint8_t zero[4];
    uint32_t c = crc32c(0, b, 12);

    c = crc32c(c, zero, 4);
    return crc32c(c, b + 16, 4096 - 16);
}

static int head_ok(const uint8_t *b, const char magic[8])
{
    if (memcmp(b, magic, 8))
        return E_CORRUPT;
    if (ld32(b + 12) != head_crc(b))
        return E_CORRUPT;
    return ld32(b + 8) == FORMAT_VERSION ? 0 : E_VERSION;
}

static int name_ok(const char *s)
{
    return s[0] && memchr(s, 0, LAYOUT_ID_BYTES);
}

static int sizes_ok(uint64_t hot, uint64_t cold)
{
    return hot && hot % IO_ALIGN == 0 && cold % IO_ALIGN == 0 && hot < 1ull << 40 &&
           cold / IO_ALIGN <= SLOT_COLD_PAGES_MAX;
}

void seg_head_put(uint8_t b[SEG_HEAD_BYTES], const struct seg_head *h)
{
    memset(b, 0, SEG_HEAD_BYTES);
    memcpy(b, SEG_MAGIC, 8);
    st32(b + 8, FORMAT_VERSION);
    memcpy(b + 16, h->uuid, 16);
    memcpy(b + 32, h->layout, LAYOUT_ID_BYTES);
    st64(b + 96, h->hot_bytes);
    st64(b + 104, h->cold_bytes);
    st64(b + 112, h->slot_bytes);
    st32(b + 120, h->n_slots);
    st32(b + 124, h->number);
    st32(b + 12, head_crc(b));
}

int seg_head_get(const uint8_t b[SEG_HEAD_BYTES], struct seg_head *ret)
{
    struct seg_head h;
    int r = head_ok(b, SEG_MAGIC);

    if (r < 0)
        return r;
    memcpy(h.uuid, b + 16, 16);
    memcpy(h.layout, b + 32, LAYOUT_ID_BYTES);
    h.hot_bytes = ld64(b + 96);
    h.cold_bytes = ld64(b + 104);
    h.slot_bytes = ld64(b + 112);
    h.n_slots = ld32(b + 120);
    h.number = ld32(b + 124);
    if (!name_ok(h.layout) || !sizes_ok(h.hot_bytes, h.cold_bytes) || h.n_slots == 0 ||
        h.n_slots > 1u << 24 || h.slot_bytes != SLOT_HEAD_BYTES + h.hot_bytes + h.cold_bytes)
        return E_CORRUPT;
    *ret = h;
    return 0;
}

uint32_t slot_seal(uint8_t *b, struct slot_head *h, const int32_t *ids)
{
    const uint8_t *payload = b + SLOT_HEAD_BYTES;
    uint64_t pages = h->cold_bytes / IO_ALIGN;
    XXH128_canonical_t canon;

    must(sizes_ok(h->hot_bytes, h->cold_bytes) && h->n_tokens <= BLOCK_TOKENS);
    XXH128_canonicalFromHash(&canon, XXH3_128bits(payload, h->hot_bytes));
    memcpy(h->hash, canon.digest, 16);
    memset(b, 0, SLOT_HEAD_BYTES);
    memcpy(b, SLOT_MAGIC, 8);
    st32(b + 8, FORMAT_VERSION);
    memcpy(b + 16, h->uuid, 16);
    memcpy(b + 32, h->layout, LAYOUT_ID_BYTES);
    memcpy(b + 96, h->key.b, 32);
    memcpy(b + 128, h->parent.b, 32);
    st64(b + 160, h->variant);
    st64(b + 168, h->first_pos);
    st64(b + 176, h->hot_bytes);
    st64(b + 184, h->cold_bytes);
    memcpy(b + 192, h->hash, 16);
    st64(b + 208, h->time_ns);
    st32(b + 216, h->n_tokens);
    st32(b + 220, (uint32_t)pages);
    memcpy(b + 224, ids, 4 * (size_t)h->n_tokens);
    for (uint64_t i = 0; i < pages; i++)
        st32(b + 1248 + 4 * i, crc32c(0, payload + h->hot_bytes + i * IO_ALIGN, IO_ALIGN));
    uint32_t crc = head_crc(b);
    st32(b + 12, crc);
    return crc;
}

int slot_head_get(const uint8_t b[SLOT_HEAD_BYTES], struct slot_head *ret, uint32_t *ret_crc)
{
    struct slot_head h;
    int r = head_ok(b, SLOT_MAGIC);

    if (r < 0) {
        for (int i = 0; i < 16; i++)
            if (b[i])
                return r;
        return -ENOENT;
    }
    memcpy(h.uuid, b + 16, 16);
    memcpy(h.layout, b + 32, LAYOUT_ID_BYTES);
    memcpy(h.key.b, b + 96, 32);
    memcpy(h.parent.b, b + 128, 32);
    h.variant = ld64(b + 160);
    h.first_pos = ld64(b + 168);
    h.hot_bytes = ld64(b + 176);
    h.cold_bytes = ld64(b + 184);
    memcpy(h.hash, b + 192, 16);
    h.time_ns = ld64(b + 208);
    h.n_tokens = ld32(b + 216);
    if (!name_ok(h.layout) || !sizes_ok(h.hot_bytes, h.cold_bytes) ||
        h.n_tokens > BLOCK_TOKENS || ld32(b + 220) != h.cold_bytes / IO_ALIGN)
        return E_CORRUPT;
    *ret = h;
    *ret_crc = ld32(b + 12);
    return 0;
}

int slot_check(const uint8_t *b, const struct slot_head *h)
{
    const uint8_t *payload = b + SLOT_HEAD_BYTES;
    XXH128_canonical_t canon;

    XXH128_canonicalFromHash(&canon, XXH3_128bits(payload, h->hot_bytes));
    if (memcmp(canon.digest, h->hash, 16))
        return E_CORRUPT;
    for (uint64_t i = 0; i < h->cold_bytes / IO_ALIGN; i++)
        if (ld32(b + 1248 + 4 * i) !=
            crc32c(0, payload + h->hot_bytes + i * IO_ALIGN, IO_ALIGN))
            return E_CORRUPT;
    return 0;
}

int slot_ids_equal(const uint8_t *b, const int32_t *ids, uint32_t n)
{
    return n <= BLOCK_TOKENS && ld32(b + 216) == n && memcmp(b + 224, ids, 4 * (size_t)n) == 0;
}

uint64_t layout_tag(const char *id)
{
    return XXH3_64bits(id, strlen(id));
}
