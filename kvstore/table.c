/* table.c - see table.h: chained buckets over slabs, doubled when full. */
#include "kvstore/table.h"
#include "base/bounds.h"
#include "base/bytes.h"
#include "base/check.h"
#include <errno.h>
#include <stdlib.h>

enum { BUCKETS_MIN = 1024, SLAB = 512 };

/* Keys are hashes already: their first bytes will do. */
static uint64_t place(const struct table *t, const struct kvs_key *key, uint64_t variant)
{
    return (ld64(key->b) ^ variant) & (t->n_buckets - 1);
}

int table_init(struct table *t)
{
    *t = (struct table){.n_buckets = BUCKETS_MIN};
    t->bucket = calloc(t->n_buckets, sizeof(void *));
    pthread_mutex_init(&t->lock, NULL);
    return t->bucket ? 0 : -ENOMEM;
}

void table_fini(struct table *t)
{
    for (uint32_t i = 0; i < t->n_slabs; i++)
        free(t->slab[i]);
    free(t->slab);
    free(t->bucket);
    pthread_mutex_destroy(&t->lock);
}

struct blk *table_find(const struct table *t, const struct kvs_key *key, uint64_t variant)
{
    struct blk *b = t->bucket[place(t, key, variant)];

    while (b && (b->variant != variant || memcmp(b->key.b, key->b, 32)))
        b = b->next;
    return b;
}

struct blk *table_find_part(const struct table *t, const uint8_t *key, size_t bytes,
                            uint64_t variant)
{
    struct blk *b = t->bucket[(ld64(key) ^ variant) & (t->n_buckets - 1)];

    while (b && (b->variant != variant || memcmp(b->key.b, key, bytes)))
        b = b->next;
    return b;
}

static bool spare_fill(struct table *t)
{
    struct blk *s = calloc(SLAB, sizeof *s);
    void **slabs = s ? realloc(t->slab, (t->n_slabs + 1) * sizeof *slabs) : NULL;

    if (!slabs) {
        free(s);
        return false;
    }
    t->slab = slabs;
    t->slab[t->n_slabs++] = s;
    for (int i = 0; i < SLAB; i++) {
        s[i].next = t->spare;
        t->spare = &s[i];
    }
    return true;
}

static void grow(struct table *t)
{
    uint64_t old = t->n_buckets;
    struct blk **from = t->bucket, **to = calloc(2 * old, sizeof *to);

    if (!to)
        return; /* longer chains, same answers */
    t->bucket = to;
    t->n_buckets = 2 * old;
    for (uint64_t i = 0; i < old; i++)
        for (struct blk *b = from[i], *next; b; b = next) {
            next = b->next;
            uint64_t p = place(t, &b->key, b->variant);
            b->next = to[p];
            to[p] = b;
        }
    free(from);
}

struct blk *table_add(struct table *t, const struct kvs_key *key, uint64_t variant)
{
    struct blk *b;

    pthread_mutex_lock(&t->lock);
    costly(!table_find(t, key, variant));
    if (t->n >= t->n_buckets)
        grow(t);
    b = t->spare || spare_fill(t) ? t->spare : NULL;
    if (b) {
        t->spare = b->next;
        *b = (struct blk){.key = *key, .variant = variant};
        uint64_t p = place(t, key, variant);
        b->next = t->bucket[p];
        t->bucket[p] = b;
        t->n++;
    }
    pthread_mutex_unlock(&t->lock);
    return b;
}

void table_del(struct table *t, struct blk *b)
{
    pthread_mutex_lock(&t->lock);
    struct blk **at = &t->bucket[place(t, &b->key, b->variant)];
    while (*at && *at != b)
        at = &(*at)->next;
    must(*at == b);
    *at = b->next;
    b->next = t->spare;
    t->spare = b;
    t->n--;
    pthread_mutex_unlock(&t->lock);
}
