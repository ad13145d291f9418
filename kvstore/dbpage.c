/* dbpage.c - see dbpage.h. */
#include "kvstore/dbpage.h"
#include "base/bytes.h"
#include <errno.h>
#include <stdlib.h>

enum { BRANCH = 1, LEAF = 2, LARGE = 4, HEAD = 16, NODE_HEAD = 8, IS_LARGE = 1, IS_DB = 2 };

int dbpages_init(struct dbpages *x, uint64_t n)
{
    *x = (struct dbpages){.used = calloc(1, n / 8 + 1), .n = n};
    return x->used ? 0 : -ENOMEM;
}

void dbpages_fini(struct dbpages *x)
{
    free(x->used);
    *x = (struct dbpages){0};
}

static bool note(struct dbpages *x, uint64_t number, uint64_t pages)
{
    if (number < DBPAGE_METAS || number >= x->n || pages > x->n - number)
        return false;
    for (uint64_t p = number; p < number + pages; p++) {
        if (x->used[p / 8] >> p % 8 & 1)
            return false;
        x->used[p / 8] |= (uint8_t)(1 << p % 8);
    }
    return true;
}

/* Bytes of the node at p, of which the page has left many; 0: it is none. */
static uint32_t node_bytes(const uint8_t *p, uint32_t left, uint16_t type, bool db)
{
    uint64_t n = NODE_HEAD;

    if (left < NODE_HEAD)
        return 0;
    n += ld16(p + 6);
    if (type == LEAF) {
        uint16_t flags = ld16(p + 4);
        if (db ? flags != IS_DB : flags & ~IS_LARGE)
            return 0;
        n += flags == IS_LARGE ? 8 : ld32(p);
    }
    n += n & 1;
    return n <= left ? (uint32_t)n : 0;
}

/* Whether the nodes lie side by side to the page's end. */
static bool nodes_ok(const uint8_t *page, uint16_t type, bool db)
{
    uint32_t lower = ld16(page + 12), upper = ld16(page + 14);
    bool begins[DBPAGE_BYTES / 2] = {false};
    uint32_t bytes = 0;

    if (ld16(page + 10) != type || lower < HEAD || lower % 2 || lower > upper ||
        upper > DBPAGE_BYTES)
        return false;
    for (uint32_t at = HEAD; at < lower; at += 2) {
        uint32_t off = ld16(page + at);
        if (off < upper || off > DBPAGE_BYTES || off % 2)
            return false;
        uint32_t n = node_bytes(page + off, DBPAGE_BYTES - off, type, db);
        if (n == 0 || begins[off / 2])
            return false;
        begins[off / 2] = true;
        bytes += n;
    }
    if (bytes != DBPAGE_BYTES - upper)
        return false;
    for (uint32_t off = upper; off < DBPAGE_BYTES;) {
        if (!begins[off / 2])
            return false;
        off += node_bytes(page + off, DBPAGE_BYTES - off, type, db);
    }
    return true;
}

bool dbpages_leaf(struct dbpages *x, const void *key, bool db)
{
    const uint8_t *page = (const uint8_t *)((uintptr_t)key & ~(uintptr_t)(DBPAGE_BYTES - 1));
    uint64_t number = ld64(page);

    if (page == x->leaf)
        return true;
    if (!x->map)
        x->map = page - number * DBPAGE_BYTES;
    x->leaf = page;
    return x->map + number * DBPAGE_BYTES == page && note(x, number, 1) &&
           nodes_ok(page, LEAF, db);
}

bool dbpages_value(struct dbpages *x, const void *value, size_t bytes, uint64_t *large)
{
    const uint8_t *v = value, *page = v - HEAD;

    if (v > x->leaf && v < x->leaf + DBPAGE_BYTES) /* the nodes are known to end inside */
        return true;
    if (v == x->leaf + DBPAGE_BYTES && bytes == 0)
        return true;
    if ((uintptr_t)page % DBPAGE_BYTES || page < x->map)
        return false;
    uint64_t number = (uint64_t)(page - x->map) / DBPAGE_BYTES;
    if (number >= x->n || ld64(page) != number || ld16(page + 10) != LARGE)
        return false;
    uint64_t pages = ld32(page + 12);
    *large += pages;
    return bytes <= pages * DBPAGE_BYTES - HEAD && pages && note(x, number, pages);
}

bool dbpages_free(struct dbpages *x, uint64_t number)
{
    return note(x, number, 1);
}

bool dbpages_rest(struct dbpages *x)
{
    for (uint64_t p = DBPAGE_METAS; p < x->n; p++) {
        const uint8_t *page = x->map + p * DBPAGE_BYTES;
        if (x->used[p / 8] >> p % 8 & 1)
            continue;
        /* A branch leads to two pages at least; LMDB ends the process when one does not. */
        if (ld64(page) != p || !nodes_ok(page, BRANCH, false) || ld16(page + 12) < HEAD + 4)
            return false;
    }
    return true;
}
