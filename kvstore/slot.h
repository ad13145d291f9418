/* slot.h - what lies in a segment: its own header, then slots that describe themselves.
 *
 * A segment is a file of preallocated, equal slots.  Its first 4 KiB say what it is; every
 * slot is a 4 KiB header and then the payload (hot part, cold part).  From the headers alone
 * the index of all blocks can be rebuilt.  Offset tables: docs/FORMATS.md.
 * Pure functions over bytes; any thread. */
#ifndef KVSTORE_SLOT_H
#define KVSTORE_SLOT_H
#include "base/bounds.h"
#include "kvstore/key.h"
#include <stdint.h>

enum {
    SLOT_HEAD_BYTES = 4096,
    SEG_HEAD_BYTES = 4096,
    SLOT_COLD_PAGES_MAX = (SLOT_HEAD_BYTES - 1248) / 4, /* CRCs that fit the header */
    LAYOUT_ID_BYTES = 64,
};

struct seg_head {
    uint8_t uuid[16];
    char layout[LAYOUT_ID_BYTES];
    uint64_t hot_bytes, cold_bytes, slot_bytes;
    uint32_t n_slots, number;
};
void seg_head_put(uint8_t ret[SEG_HEAD_BYTES], const struct seg_head *h);
/* 0, E_CORRUPT, E_VERSION: every size in *ret agrees with the others. */
int seg_head_get(const uint8_t b[SEG_HEAD_BYTES], struct seg_head *ret);

struct slot_head {
    uint8_t uuid[16];
    char layout[LAYOUT_ID_BYTES];
    struct kvs_key key, parent;
    uint64_t variant, first_pos, hot_bytes, cold_bytes, time_ns;
    uint8_t hash[16]; /* XXH3-128 of the hot part */
    uint32_t n_tokens;
};
/* Fills hash in *h and the header in slot[0, 4096) for the payload that follows it there.
 * Returns the header's CRC32C, which the index keeps beside the hash. */
uint32_t slot_seal(uint8_t *slot, struct slot_head *h, const int32_t *ids);
/* The header alone: 0, -ENOENT (never written), E_CORRUPT, E_VERSION. */
int slot_head_get(const uint8_t slot[SLOT_HEAD_BYTES], struct slot_head *ret,
                  uint32_t *ret_crc);
/* Payload against a header that slot_head_get accepted: 0, E_CORRUPT. */
int slot_check(const uint8_t *slot, const struct slot_head *h);
/* Whether the block's token ids are these n. */
int slot_ids_equal(const uint8_t *slot, const int32_t *ids, uint32_t n);
/* Eight bytes that stand for a layout's name in the index. */
uint64_t layout_tag(const char *id);

#endif
