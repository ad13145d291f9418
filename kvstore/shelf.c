/* shelf.c - see shelf.h: slabs that never move, chains of handles, a heap for each layout. */
#include "kvstore/shelf.h"
#include "base/bytes.h"
#include "base/check.h"
#include <errno.h>
#include <stdlib.h>

enum { SLAB = 2048, BUCKETS_MIN = 1024, HEAP_MIN = 256 };

struct shelf_blk *shelf_at(const struct shelf *x, uint32_t h)
{
    return &x->slab[(h - 1) / SLAB][(h - 1) % SLAB];
}

uint32_t shelf_end(const struct shelf *x)
{
    return x->n_slabs * SLAB + 1;
}

int shelf_init(struct shelf *x)
{
    *x = (struct shelf){.n_buckets = BUCKETS_MIN};
    x->bucket = calloc(x->n_buckets, sizeof *x->bucket);
    return x->bucket ? 0 : -ENOMEM;
}

void shelf_fini(struct shelf *x)
{
    for (uint32_t i = 0; i < x->n_slabs; i++)
        free(x->slab[i]);
    for (int i = 0; i < SHELF_LAYOUTS; i++)
        free(x->heap[i].v);
    free(x->slab);
    free(x->bucket);
    free(x->variant);
}

/* --- by key -------------------------------------------------------------------------------- */

/* Keys are hashes already: their first bytes will do. */
static uint32_t *place(const struct shelf *x, const uint8_t *key, uint32_t variant)
{
    return &x->bucket[(ld64(key) ^ variant * 0x9e3779b97f4a7c15u) & (x->n_buckets - 1)];
}

static uint32_t number_of(const struct shelf *x, uint64_t variant)
{
    uint32_t i = 0;

    while (i < x->n_variants && x->variant[i] != variant)
        i++;
    return i;
}

static uint32_t find(const struct shelf *x, const uint8_t *key, size_t bytes, uint32_t variant)
{
    uint32_t h = *place(x, key, variant);

    for (; h; h = shelf_at(x, h)->next) {
        const struct shelf_blk *b = shelf_at(x, h);
        if (b->variant == variant && memcmp(b->key, key, bytes) == 0)
            return h;
    }
    return 0;
}

uint32_t shelf_find(const struct shelf *x, const uint8_t key[SHELF_KEY], uint64_t variant)
{
    uint32_t v = number_of(x, variant);

    return v < x->n_variants ? find(x, key, SHELF_KEY, v) : 0;
}

uint32_t shelf_by_tag(const struct shelf *x, const uint8_t tag[8], uint64_t variant)
{
    uint32_t v = number_of(x, variant);

    return v < x->n_variants ? find(x, tag, 8, v) : 0;
}

uint64_t shelf_variant(const struct shelf *x, const struct shelf_blk *b)
{
    return x->variant[b->variant];
}

/* --- by worth -------------------------------------------------------------------------------- */

static bool worth_less(const struct shelf_blk *a, const struct shelf_blk *b)
{
    return a->used < b->used || (a->used == b->used && a->depth > b->depth);
}

static void put_at(struct shelf *x, uint32_t layout, uint32_t at, uint32_t h)
{
    x->heap[layout].v[at] = h;
    shelf_at(x, h)->at = at;
}

static void sift(struct shelf *x, uint32_t h)
{
    struct shelf_blk *b = shelf_at(x, h);
    uint32_t l = b->layout, *v = x->heap[l].v, n = x->heap[l].n, at = b->at;

    while (at > 0 && worth_less(b, shelf_at(x, v[(at - 1) / 2]))) {
        put_at(x, l, at, v[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (uint32_t down; (down = 2 * at + 1) < n; at = down) {
        if (down + 1 < n && worth_less(shelf_at(x, v[down + 1]), shelf_at(x, v[down])))
            down++;
        if (!worth_less(shelf_at(x, v[down]), b))
            break;
        put_at(x, l, at, v[down]);
    }
    put_at(x, l, at, h);
}

static bool heap_room(struct shelf *x, uint32_t layout)
{
    uint32_t cap = x->heap[layout].cap, more = cap / 8 > HEAP_MIN ? cap / 8 : HEAP_MIN;

    if (x->heap[layout].n < cap)
        return true;
    uint32_t *v = realloc(x->heap[layout].v, (cap + more) * sizeof *v);
    if (!v)
        return false;
    x->heap[layout].v = v;
    x->heap[layout].cap = cap + more;
    return true;
}

void shelf_lift(struct shelf *x, uint32_t h)
{
    struct shelf_blk *b = shelf_at(x, h);
    uint32_t l = b->layout, last = x->heap[l].v[--x->heap[l].n];

    if (last != h) {
        put_at(x, l, b->at, last);
        sift(x, last);
    }
}

void shelf_lay(struct shelf *x, uint32_t h)
{
    uint32_t l = shelf_at(x, h)->layout;

    put_at(x, l, x->heap[l].n++, h); /* the room it had is still there */
    sift(x, h);
}

void shelf_age(struct shelf *x, uint32_t h, uint32_t used)
{
    shelf_at(x, h)->used = used;
    sift(x, h);
}

void shelf_use(struct shelf *x, uint32_t h, uint32_t used)
{
    if (shelf_at(x, h)->used < used)
        shelf_age(x, h, used);
}

uint32_t shelf_worst(const struct shelf *x, uint32_t layout)
{
    return x->heap[layout].n ? x->heap[layout].v[0] : 0;
}

/* --- in and out -------------------------------------------------------------------------------- */

static bool idle_fill(struct shelf *x)
{
    struct shelf_blk *s = malloc(SLAB * sizeof *s);
    struct shelf_blk **slabs = s ? realloc(x->slab, (x->n_slabs + 1) * sizeof *slabs) : NULL;

    if (!slabs) {
        free(s);
        return false;
    }
    x->slab = slabs;
    x->slab[x->n_slabs++] = s;
    for (uint32_t i = 0; i < SLAB; i++) {
        s[i].at = SHELF_IDLE;
        s[i].next = i + 1 < SLAB ? (x->n_slabs - 1) * SLAB + i + 2 : x->idle;
    }
    x->idle = (x->n_slabs - 1) * SLAB + 1;
    return true;
}

static void buckets_grow(struct shelf *x)
{
    uint32_t *old = x->bucket, n_old = x->n_buckets,
             *to = calloc(2 * (size_t)n_old, sizeof *to);

    if (!to)
        return; /* longer chains, same answers */
    x->bucket = to;
    x->n_buckets = 2 * n_old;
    for (uint32_t i = 0; i < n_old; i++)
        for (uint32_t h = old[i], next; h; h = next) {
            struct shelf_blk *b = shelf_at(x, h);
            uint32_t *p = place(x, b->key, b->variant);
            next = b->next;
            b->next = *p;
            *p = h;
        }
    free(old);
}

/* Few in a store's life: one for each kernel and compiler that computed other bits. */
static bool variant_have(struct shelf *x, uint64_t variant, uint32_t *ret)
{
    *ret = number_of(x, variant);
    if (*ret < x->n_variants)
        return true;
    uint64_t *v =
        *ret < SHELF_VARIANTS ? realloc(x->variant, (x->n_variants + 1) * sizeof *v) : NULL;
    if (!v)
        return false;
    x->variant = v;
    v[x->n_variants++] = variant;
    return true;
}

uint32_t shelf_add(struct shelf *x, const struct kvs_key *key, uint64_t variant,
                   const struct shelf_blk *like)
{
    uint32_t v;

    must(like->layout < SHELF_LAYOUTS);
    if (!variant_have(x, variant, &v) || !heap_room(x, like->layout) ||
        (!x->idle && !idle_fill(x)))
        return 0;
    if (x->n >= 2 * x->n_buckets)
        buckets_grow(x);
    uint32_t h = x->idle;
    struct shelf_blk *b = shelf_at(x, h);
    x->idle = b->next;
    *b = *like;
    memcpy(b->key, key->b, sizeof b->key);
    b->variant = (uint16_t)v;
    uint32_t *p = place(x, b->key, v);
    b->next = *p;
    *p = h;
    x->n++;
    shelf_lay(x, h);
    return h;
}

void shelf_del(struct shelf *x, uint32_t h)
{
    struct shelf_blk *b = shelf_at(x, h);
    uint32_t *at = place(x, b->key, b->variant);

    must(b->at != SHELF_IDLE);
    while (*at != h)
        at = &shelf_at(x, *at)->next;
    *at = b->next;
    shelf_lift(x, h);
    b->at = SHELF_IDLE;
    b->next = x->idle;
    x->idle = h;
    x->n--;
}

uint64_t shelf_bytes(const struct shelf *x)
{
    uint64_t n = (uint64_t)x->n_slabs * (SLAB * sizeof(struct shelf_blk) + sizeof(void *)) +
                 (uint64_t)x->n_buckets * sizeof *x->bucket;

    for (int i = 0; i < SHELF_LAYOUTS; i++)
        n += (uint64_t)x->heap[i].cap * sizeof(uint32_t);
    return n;
}
