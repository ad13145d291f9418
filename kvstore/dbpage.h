/* dbpage.h - the pages of LMDB's file, checked as bytes before LMDB may change them.
 *
 * LMDB believes every offset and length it finds: a flipped bit in a page's head, or in a
 * node's, passes reading and makes the next write go beside the page in memory.  Whoever walks
 * the file notes each page here by what it was reached as; a page may have one use only.
 * false: the file is damaged.
 *
 * A page of 4096 bytes (LMDB 0.9):
 *   0   u64    its number
 *   8   u16    not used
 *   10  u16    1 branch, 2 leaf, 4 the first of a large value
 *   12  u16    where free space begins: 16 + 2 for each node   | u32 pages, of a large value
 *   14  u16    where it ends
 *   16  u16 x  offset of each node; the nodes fill the rest of the page, each an even size
 * A node:
 *   0   u32    bytes of the value   | u48 number of the child page
 *   4   u16    0, 1 the value is the number of a large value's page, 2 a database
 *   6   u16    bytes of the key; key and value follow */
#ifndef KVSTORE_DBPAGE_H
#define KVSTORE_DBPAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DBPAGE_BYTES = 4096,
    DBPAGE_METAS = 2,
    DBPAGE_META_TXN = 144 /* its number in a meta page */
};

struct dbpages {
    const uint8_t *map;  /* where page 0 lies; known from the first leaf on */
    const uint8_t *leaf; /* the one that was noted last */
    uint8_t *used;       /* one bit a page */
    uint64_t n;
};
int dbpages_init(struct dbpages *x, uint64_t n);
void dbpages_fini(struct dbpages *x);
/* The leaf that key lies in; db: its nodes are databases.  All keys of a leaf in one go. */
bool dbpages_leaf(struct dbpages *x, const void *key, bool db);
/* The value beside key in the leaf noted last, or a large one: its pages are added to *large. */
bool dbpages_value(struct dbpages *x, const void *value, size_t bytes, uint64_t *large);
bool dbpages_free(struct dbpages *x, uint64_t number);
/* All are noted: what is left can only be branches. */
bool dbpages_rest(struct dbpages *x);

#endif
