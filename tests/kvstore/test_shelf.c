/* test_shelf.c - the shelf against a list that is searched from end to end. */
#include "kvstore/shelf.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 3000, LAYOUTS = 3 };

struct plain {
    bool there;
    struct kvs_key key;
    uint64_t variant;
    uint32_t used, depth, layout, handle, parent; /* the last: its number */
};

static struct plain v[BLOCKS];

static uint32_t worst(uint32_t layout)
{
    const struct plain *w = NULL;

    for (uint32_t i = 0; i < BLOCKS; i++)
        if (v[i].there && v[i].layout == layout &&
            (!w || v[i].used < w->used || (v[i].used == w->used && v[i].depth > w->depth)))
            w = &v[i];
    return w ? (uint32_t)(w - v) + 1 : 0;
}

static void add(struct shelf *x, uint32_t i, uint64_t *rnd)
{
    struct plain *p = &v[i];
    struct shelf_blk like = {.segment = i,
                             .slot = i & 0xffffff,
                             .layout = (uint8_t)(i % LAYOUTS),
                             .used = (uint32_t)(rig_rand(rnd) % 50),
                             .depth = (uint16_t)(rig_rand(rnd) % 20)};

    for (int k = 0; k < 32; k += 8) {
        uint64_t r = rig_rand(rnd);
        memcpy(p->key.b + k, &r, 8);
    }
    p->variant = rig_rand(rnd) % 5 * 1000003;
    p->parent = (uint32_t)(rig_rand(rnd) % BLOCKS);
    memcpy(like.parent, v[p->parent].key.b, 8);
    p->used = like.used;
    p->depth = like.depth;
    p->layout = like.layout;
    p->handle = shelf_add(x, &p->key, p->variant, &like);
    p->there = p->handle != 0;
    CHECK(p->there);
}

static void it_finds_and_orders_as_a_plain_list_does(void)
{
    uint64_t seed = t_seed(), rnd = seed;
    struct shelf x;

    memset(v, 0, sizeof v);
    CHECK_EQ(shelf_init(&x), 0);
    for (int step = 0; step < 60000; step++) {
        uint32_t i = (uint32_t)(rig_rand(&rnd) % BLOCKS), what = (uint32_t)(rig_rand(&rnd) % 8);
        struct plain *p = &v[i];

        CHECK_EQ(shelf_find(&x, p->key.b, p->variant), p->there ? p->handle : 0);
        if (!p->there) {
            add(&x, i, &rnd);
        } else if (what == 0) {
            shelf_del(&x, p->handle);
            p->there = false;
        } else if (what < 4) {
            uint32_t used = (uint32_t)(rig_rand(&rnd) % 60);
            shelf_use(&x, p->handle, used);
            p->used = used > p->used ? used : p->used;
        } else if (what == 4) {
            shelf_lift(&x, p->handle);
            shelf_lay(&x, p->handle);
        }
        if (p->there) {
            const struct shelf_blk *b = shelf_at(&x, p->handle);
            CHECK_EQ(b->segment, i);
            CHECK_EQ(b->used, p->used);
            CHECK_EQ(shelf_variant(&x, b), p->variant);
            uint32_t up = shelf_by_tag(&x, b->parent, p->variant);
            const struct plain *q = &v[p->parent];
            if (up)
                CHECK(memcmp(shelf_at(&x, up)->key, b->parent, 8) == 0);
            else if (q->there && q->variant == p->variant)
                CHECK(memcmp(q->key.b, b->parent, 8) != 0); /* another by now */
        }
        if (step % 16 == 0)
            for (uint32_t l = 0; l < LAYOUTS; l++) {
                uint32_t w = worst(l), h = shelf_worst(&x, l);
                CHECK_EQ(h != 0, w != 0);
                if (w && h) {
                    CHECK_EQ(shelf_at(&x, h)->used, v[w - 1].used);
                    CHECK_EQ(shelf_at(&x, h)->depth, v[w - 1].depth);
                }
            }
    }
    shelf_fini(&x);
}

static void a_block_takes_at_most_64_bytes(void)
{
    static const uint32_t at[] = {100000, 131073, 262145, 300000, 524289, 1000000};
    uint64_t rnd = 1;
    struct shelf x;
    uint32_t n = 0;

    CHECK_EQ(shelf_init(&x), 0);
    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) {
        for (; n < at[i]; n++) {
            struct kvs_key key;
            struct shelf_blk like = {.segment = n / 1000, .used = n / 100};
            for (int k = 0; k < 32; k += 8) {
                uint64_t r = rig_rand(&rnd);
                memcpy(key.b + k, &r, 8);
            }
            CHECK(shelf_add(&x, &key, 7, &like));
        }
        printf("    %u blocks: %.1f bytes each\n", n, (double)shelf_bytes(&x) / n);
        CHECK(shelf_bytes(&x) <= 64ull * n);
    }
    shelf_fini(&x);
}

T_MAIN({"it_finds_and_orders_as_a_plain_list_does", it_finds_and_orders_as_a_plain_list_does},
       {"a_block_takes_at_most_64_bytes", a_block_takes_at_most_64_bytes})
