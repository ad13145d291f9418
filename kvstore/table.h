/* table.h - the blocks that are in host memory or on their way: key and variant to them.
 *
 * What has a copy on file stands on the shelf (shelf.h); a block is here only while it has a
 * page or a task.  Owner: the io thread, the only one that changes it, and then under `lock`; another
 * thread may look under `lock` (kvs_match).  The lock is held for one look-up or change,
 * never across I/O. */
#ifndef KVSTORE_TABLE_H
#define KVSTORE_TABLE_H
#include "kvstore/key.h"
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct host_page;
struct io_task;
struct kvs_block_req;

struct blk {
    struct kvs_key key, parent;
    uint64_t variant, first_pos, time_ns;
    struct blk *next;              /* in its bucket */
    struct host_page *page;        /* host copy, or NULL */
    struct io_task *task;          /* being read or written, or NULL */
    struct kvs_block_req *waiting; /* for that to end */
    uint32_t segment, slot;        /* file copy, when on_file */
    uint32_t head_crc, n_tokens;
    uint32_t used; /* when (lived.h), in units of USED_UNIT_NS */
    uint16_t layout;
    bool on_file; /* durable: index and slot agree, and it is on the shelf */
    bool whole;   /* page holds the whole block (not just being filled) */
    uint8_t hash[16];
};
static const uint64_t USED_UNIT_NS = 1000000000u;

struct table {
    pthread_mutex_t lock;
    struct blk **bucket;
    uint64_t n_buckets, n; /* power of two; blocks */
    struct blk *spare;
    void **slab;
    uint32_t n_slabs;
};
int table_init(struct table *t);
void table_fini(struct table *t);
struct blk *table_find(const struct table *t, const struct kvs_key *key, uint64_t variant);
/* By the first bytes of its key, eight or more. */
struct blk *table_find_part(const struct table *t, const uint8_t *key, size_t bytes,
                            uint64_t variant);
struct blk *table_add(struct table *t, const struct kvs_key *key,
                      uint64_t variant); /* or NULL */
void table_del(struct table *t, struct blk *b);
#endif
