/* shelf.h - every block that has a copy on file: at most 64 bytes of memory each, all told.
 *
 * What kvs_match and eviction need, and where the copy lies; the rest stands in the slot's own
 * header and is read with it.  Half of the chain key will do to find a block: what is found is
 * a claim anyway, checked against the slot at every use.  Each layout's blocks stand in a heap,
 * the one worth least at its top: used longest ago, of those the deepest.
 * Owner: the io thread, which adds and removes under table.lock; another thread may find under
 * it.  A handle (0: none) is good until its block is removed. */
#ifndef KVSTORE_SHELF_H
#define KVSTORE_SHELF_H
#include "kvstore/key.h"
#include <stdbool.h>
#include <stdint.h>

enum { SHELF_KEY = 16, SHELF_VARIANTS = 65535, SHELF_LAYOUTS = 64 };

struct shelf_blk {
    uint8_t key[SHELF_KEY]; /* the first half of its chain key */
    uint8_t parent[8];      /* the first bytes of its parent's */
    uint32_t segment;
    uint32_t slot : 24, layout : 8;
    uint32_t head_crc;
    uint32_t used;    /* when (lived.h), in units of USED_UNIT_NS */
    uint32_t next;    /* in its bucket; among the idle ones */
    uint32_t at;      /* in its heap; SHELF_IDLE: names no block */
    uint16_t depth;   /* blocks before it in its sequence, or so */
    uint16_t variant; /* its number here */
};
_Static_assert(sizeof(struct shelf_blk) == 52, "memory per block");
static const uint32_t SHELF_IDLE = UINT32_MAX;

struct shelf {
    struct shelf_blk **slab;
    uint32_t n_slabs, n, idle; /* blocks; the first idle handle */
    uint32_t *bucket, n_buckets;
    uint64_t *variant;
    uint32_t n_variants;
    struct {
        uint32_t *v, n, cap;
    } heap[SHELF_LAYOUTS];
};
int shelf_init(struct shelf *x);
void shelf_fini(struct shelf *x);
struct shelf_blk *shelf_at(const struct shelf *x, uint32_t h);
uint32_t shelf_end(const struct shelf *x); /* handles are below this one */
uint32_t shelf_find(const struct shelf *x, const uint8_t key[SHELF_KEY], uint64_t variant);
uint32_t shelf_by_tag(const struct shelf *x, const uint8_t tag[8], uint64_t variant);
uint64_t shelf_variant(const struct shelf *x, const struct shelf_blk *b);
/* 0: no memory, or more variants than have numbers.  The caller fills where it lies before. */
uint32_t shelf_add(struct shelf *x, const struct kvs_key *key, uint64_t variant,
                   const struct shelf_blk *like);
void shelf_del(struct shelf *x, uint32_t h);
void shelf_use(struct shelf *x, uint32_t h, uint32_t used);   /* never back */
void shelf_age(struct shelf *x, uint32_t h, uint32_t used);   /* also back */
uint32_t shelf_worst(const struct shelf *x, uint32_t layout); /* or 0 */
/* Out of its heap for a moment, and in again. */
void shelf_lift(struct shelf *x, uint32_t h);
void shelf_lay(struct shelf *x, uint32_t h);
uint64_t shelf_bytes(const struct shelf *x); /* memory in all */

#endif
