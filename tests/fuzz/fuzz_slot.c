/* fuzz_slot.c - whatever a disk may hand back: slot and segment headers, frames, records, rows.
 *
 * The first byte chooses the decoder.  CRCs are made right first, else nothing would get
 * past them; every second input is left as it is. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "kvstore/codec.h"
#include "kvstore/slot.h"
#include "kvstore/turnlog.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);

static uint32_t head_crc(const uint8_t *b)
{
    static const uint8_t zero[4];

    return crc32c(crc32c(crc32c(0, b, 12), zero, 4), b + 16, 4096 - 16);
}

static void slot(uint8_t *b, size_t n, bool mend)
{
    struct slot_head h;
    uint32_t crc;
    int32_t ids[BLOCK_TOKENS] = {0};

    if (n < SLOT_HEAD_BYTES)
        return;
    if (mend)
        st32(b + 12, head_crc(b));
    if (slot_head_get(b, &h, &crc) < 0)
        return;
    must(h.n_tokens <= BLOCK_TOKENS && h.hot_bytes % IO_ALIGN == 0);
    if (SLOT_HEAD_BYTES + h.hot_bytes + h.cold_bytes <= n)
        (void)slot_check(b, &h);
    (void)slot_ids_equal(b, ids, BLOCK_TOKENS);
}

static void seg(uint8_t *b, size_t n, bool mend)
{
    struct seg_head h;

    if (n < SEG_HEAD_BYTES)
        return;
    if (mend)
        st32(b + 12, head_crc(b));
    if (seg_head_get(b, &h) == 0)
        must(h.n_slots && h.slot_bytes > SLOT_HEAD_BYTES);
}

static void records(const uint8_t *b, size_t n)
{
    struct codec_rec c;
    size_t one;

    for (size_t at = 0; at < n && codec_get(b + at, n - at, &c, &one) == 0; at += one) {
        must(one && one <= n - at && one % 8 == 0);
        /* What is accepted can be written again, to the same bytes or fewer. */
        size_t again = codec_size(&c.rec);
        must(again == one);
        uint8_t *copy = malloc(again);
        must(copy);
        codec_put(copy, &c.rec);
        struct codec_rec c2;
        must(codec_get(copy, again, &c2, &one) == 0 && c2.rec.kind == c.rec.kind);
        free(copy);
    }
}

static void frame(uint8_t *b, size_t n, bool mend)
{
    struct log_frame f;
    uint64_t whole;

    if (mend && n >= LOG_FRAME_HEAD_BYTES + 8) {
        uint32_t bytes = (uint32_t)(n - LOG_FRAME_HEAD_BYTES - 8) / 8 * 8;
        st32(b, 0x4d524648);
        st32(b + 4, bytes);
        st32(b + LOG_FRAME_HEAD_BYTES + bytes, crc32c(0, b, LOG_FRAME_HEAD_BYTES + bytes));
    }
    if (log_frame_get(b, n, &f, &whole) < 0)
        return;
    must(whole <= n && f.recs + f.bytes <= b + n);
    records(f.recs, f.bytes);
}

static void rows(const uint8_t *b, size_t n)
{
    struct kvs_session s;
    struct kvs_branch br;
    struct kvs_turn t;
    struct kvs_req q;
    struct index_block row;
    int32_t ids[BLOCK_TOKENS];
    uint64_t first;
    uint32_t count;

    (void)codec_session_get(b, n, &s);
    (void)codec_branch_get(b, n, &br);
    (void)codec_turn_get(b, n, &t);
    (void)codec_req_get(b, n, &q);
    (void)codec_chunk_get(b, n, n >= 8 ? ld64(b) & ~255ull : 0, &first, &count, ids);
    if (n >= CODEC_BLOCK_KEY)
        (void)codec_block_get(b, CODEC_BLOCK_KEY, b + CODEC_BLOCK_KEY, n - CODEC_BLOCK_KEY,
                              &row);
}

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n)
{
    if (n < 2)
        return 0;
    uint8_t what = d[0] % 5;
    bool mend = d[1] & 1;
    /* A copy of exactly its size: a read past it is seen. */
    size_t m = n - 2;
    uint8_t *p = malloc(m ? m : 1);
    must(p);
    memcpy(p, d + 2, m);
    switch (what) {
    case 0: slot(p, m, mend); break;
    case 1: seg(p, m, mend); break;
    case 2: frame(p, m, mend); break;
    case 3: records(p, m); break;
    default: rows(p, m); break;
    }
    free(p);
    return 0;
}
