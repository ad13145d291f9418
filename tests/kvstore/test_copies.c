/* test_copies.c - copies of blocks, in memory and in files: one that changed, that is another's, or
 * that was never written is not served.
 *
 * Memory and files are changed behind the store's back. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "kvstore/slot.h"
#include "kvstore/store.h"
#include "tests/kvstore/hurt_write.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void make(struct rig *g)
{
    memset(&bad, 0, sizeof bad);
    rig_init(g, KVS_IO_THREADS, true);
    g->threads = false;
}

static struct blk *blk_of(struct rig *g, uint64_t seed, uint32_t n)
{
    struct rig_block b;

    rig_block_set(g, &b, seed, n);
    return table_find(&g->s->table, &b.r.key, b.r.variant);
}

static const struct shelf_blk *shelf_of(struct rig *g, uint64_t seed, uint32_t n)
{
    struct rig_block b;

    rig_block_set(g, &b, seed, n);
    uint32_t h = shelf_find(&g->s->shelf, b.r.key.b, b.r.variant);
    return h ? shelf_at(&g->s->shelf, h) : NULL;
}

static void a_block_of_another_variant_is_another(void)
{
    struct rig_block b;
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0);
    rig_block_set(&g, &b, 8, 0);
    b.r.variant += 1ull << 40; /* the same bucket */
    rig_submit(&g, &b, false);
    rig_wait(&g);
    CHECK_EQ(b.r.res, -ENOENT);
    CHECK_EQ(kvs_match(g.s, &b.r.key, 1, b.r.variant), 0);
    CHECK_EQ(kvs_match(g.s, &b.r.key, 1, 7), 1);
    rig_fini(&g);
}

/* A header that is whole and says what cannot be. */
static void impossible_sizes_in_a_slot_are_not_believed(void)
{
    static uint8_t b[RIG_SLOT] __attribute__((aligned(4096)));
    static const uint64_t hot[] = {0, 100, 4096 + 8, 1ull << 40, 1ull << 63};
    static const uint8_t zero[4];
    int32_t ids[BLOCK_TOKENS] = {0};
    struct slot_head h = {.hot_bytes = RIG_HOT,
                          .cold_bytes = RIG_COLD,
                          .n_tokens = BLOCK_TOKENS},
                     got;
    uint32_t crc;

    snprintf(h.layout, sizeof h.layout, "test");
    (void)slot_seal(b, &h, ids);
    CHECK_EQ(slot_head_get(b, &got, &crc), 0);
    for (size_t i = 0; i < sizeof hot / sizeof *hot; i++) {
        st64(b + 176, hot[i]);
        crc = crc32c(crc32c(crc32c(0, b, 12), zero, 4), b + 16, 4096 - 16);
        st32(b + 12, crc);
        CHECK_EQ(slot_head_get(b, &got, &crc), E_CORRUPT);
    }
}

static void never_evicts(void *ctx, struct host_page *p)
{
    (void)p;
    ++*(int *)ctx;
}

static void host_memory_keeps_what_is_dirty_and_joins_its_holes(void)
{
    struct host_page *p[4], *two;
    struct host *h;
    int evicted = 0;

    CHECK_EQ(host_open(&h, 4 * 4096, never_evicts, &evicted), 0);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(host_take(h, 4096, &p[i], &p[i]), 0);
        p[i]->dirty = true;
    }
    CHECK_EQ(host_take(h, 4096, NULL, &two), -EAGAIN);
    CHECK_EQ(evicted, 0);
    for (int i = 0; i < 4; i++)
        p[i]->dirty = false;
    for (int order = 0; order < 2; order++) { /* a hole before it, and a hole behind it */
        host_drop(h, p[order ? 2 : 1]);
        host_drop(h, p[order ? 1 : 2]);
        CHECK_EQ(host_take(h, 2 * 4096, &two, &two), 0);
        CHECK_EQ(evicted, 0);
        host_drop(h, two);
        CHECK_EQ(host_take(h, 4096, &p[1], &p[1]), 0);
        CHECK_EQ(host_take(h, 4096, &p[2], &p[2]), 0);
    }
    host_close(h);
}

/* An ancestor is as young as what comes after it, also when only the disk says how old it is. */
static void ages_go_up_the_chain_at_an_open(void)
{
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0);
    uint32_t first = shelf_of(&g, 8, 0)->used;
    usleep(1100000 * (unsigned)(USED_UNIT_NS / 1000000000u ? USED_UNIT_NS / 1000000000u : 1));
    CHECK_EQ(rig_put(&g, 8, 1), 0);
    rig_reopen(&g);
    const struct shelf_blk *a = shelf_of(&g, 8, 0), *b = shelf_of(&g, 8, 1);
    CHECK(a && b && a->used >= b->used);
    CHECK(b && b->used > first);
    rig_fini(&g);
}

/* Every part of the image in memory: header, hot part, cold part. */
static void a_copy_in_memory_that_changed_is_not_served(void)
{
    static const uint32_t at[] = {
        20, 100, 170, 230, 4096, 4096 + RIG_HOT - 1, 4096 + RIG_HOT, RIG_SLOT - 1};
    struct rig g;
    struct kvs_stats st;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    for (uint32_t i = 0; i < sizeof at / sizeof *at; i++) {
        struct kvs_block_req r;
        CHECK_EQ(rig_put(&g, 7, i), 0);
        struct blk *b = blk_of(&g, 7, i);
        CHECK(b && b->page && b->on_file);
        if (!b || !b->page)
            break;
        b->page->mem[at[i]] ^= 4;
        int e = rig_get(&g, 7, i, &r);
        if (e != 0 || r.from != KVS_FROM_FILE || !r.corrupt)
            t_fail(__FILE__, __LINE__, "byte %u: %d, from %d, corrupt %d", at[i], e, r.from,
                   r.corrupt);
        CHECK_EQ(rig_get(&g, 7, i, &r), 0); /* and it is well again */
        CHECK(!r.corrupt);
    }
    kvs_stats(g.s, &st);
    CHECK_EQ(st.corrupt, sizeof at / sizeof *at);
    rig_fini(&g);
}

/* And with no other copy to ask: a miss, not what is there. */
static void the_only_copy_in_memory_that_changed_is_a_miss(void)
{
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 7, 1), 0); /* the segment is there */
    bad.write = "/kv/", bad.times = 1;
    CHECK_EQ(rig_put(&g, 7, 0), -EROFS);
    CHECK_EQ(rig_get(&g, 7, 0, NULL), 0); /* in memory it is */
    struct blk *b = blk_of(&g, 7, 0);
    CHECK(b && b->page && !b->on_file);
    if (b && b->page) {
        b->page->mem[5000] ^= 1;
        CHECK_EQ(rig_get(&g, 7, 0, NULL), -ENOENT);
        CHECK_EQ(rig_get(&g, 7, 0, NULL), -ENOENT);
    }
    rig_fini(&g);
}

static void what_is_there_is_not_written_again(void)
{
    struct rig g;
    struct kvs_stats a, b;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0); /* in memory as well */
    kvs_stats(g.s, &a);
    CHECK_EQ(a.new_state_bytes, RIG_HOT + RIG_COLD);
    rig_reopen(&g);
    CHECK_EQ(rig_put(&g, 8, 0), 0); /* and on the disk alone */
    kvs_stats(g.s, &b);
    CHECK_EQ(b.new_state_bytes, 0);
    CHECK_EQ(b.blocks, 1);
    rig_fini(&g);
}

/* Found damaged once it is gone: not read again, not counted again, not there after a restart. */
static void a_damaged_block_is_dropped_at_once(void)
{
    struct rig g;
    struct kvs_block_req r;
    struct kvs_stats st;
    char path[400];

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0);
    CHECK_EQ(rig_put(&g, 8, 1), 0);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/kv/test/seg-0001", g.dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(pwrite(fd, "damaged", 7, SEG_HEAD_BYTES + 6000), 7);
    close(fd);
    CHECK_EQ(rig_open(&g), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(rig_get(&g, 8, 0, &r), -ENOENT);
        CHECK_EQ(r.corrupt, i == 0);
    }
    kvs_stats(g.s, &st);
    CHECK_EQ(st.corrupt, 1);
    CHECK_EQ(st.blocks, 1);
    rig_reopen(&g);
    CHECK_EQ(g.rep.blocks, 1);
    CHECK_EQ(rig_get(&g, 8, 1, NULL), 0);
    rig_fini(&g);
}

/* Slot `from` again in slot `to`, so much older, with other bytes, and of another store perhaps. */
static void slot_copy(struct rig *g, uint32_t from, uint32_t to, int64_t older_ns, bool other)
{
    static uint8_t b[RIG_SLOT] __attribute__((aligned(4096)));
    int32_t ids[BLOCK_TOKENS];
    struct slot_head h;
    uint32_t crc;
    char path[400];

    snprintf(path, sizeof path, "%s/kv/test/seg-0001", g->dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t at = SEG_HEAD_BYTES + (off_t)from * RIG_SLOT;
    CHECK_EQ(pread(fd, b, sizeof b, at), sizeof b);
    CHECK_EQ(slot_head_get(b, &h, &crc), 0);
    memcpy(ids, b + 224, sizeof ids);
    h.time_ns -= (uint64_t)older_ns;
    if (other)
        h.uuid[3] ^= 1;
    memset(b + 4096, 0x55, 64);
    (void)slot_seal(b, &h, ids);
    at = SEG_HEAD_BYTES + (off_t)to * RIG_SLOT;
    CHECK_EQ(pwrite(fd, b, sizeof b, at), sizeof b);
    close(fd);
}

static void of_two_copies_the_younger_one_counts(void)
{
    for (int turn = 0; turn < 2; turn++) { /* the older one behind, and before */
        struct rig g;
        make(&g);
        CHECK_EQ(rig_open(&g), 0);
        if (turn) /* slot 0 is another's, whose row goes with the index */
            CHECK_EQ(rig_put(&g, 8, 9), 0);
        CHECK_EQ(rig_put(&g, 8, 0), 0);
        rig_close(&g);
        slot_copy(&g, turn ? 1 : 0, turn ? 0 : 3, 1000000000, false);
        rig_no_index(&g);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_get(&g, 8, 0, NULL), 0); /* its own bytes, not the copy's */
        rig_fini(&g);
    }
}

static void a_block_of_another_store_is_nobodys(void)
{
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0);
    rig_close(&g);
    slot_copy(&g, 0, 3, -1000000000, true); /* younger, and not ours */
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_get(&g, 8, 0, NULL), 0);
    rig_fini(&g);
}

/* Written by a later program: what cannot be read is not written over. */
static void a_block_of_a_later_version_keeps_its_slot(void)
{
    uint8_t b[SLOT_HEAD_BYTES], is[SLOT_HEAD_BYTES];
    char path[400];
    struct rig g;

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    for (uint32_t n = 0; n < 3; n++)
        CHECK_EQ(rig_put(&g, 8, n), 0);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/kv/test/seg-0001", g.dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    off_t at = SEG_HEAD_BYTES + RIG_SLOT;
    CHECK_EQ(pread(fd, b, sizeof b, at), sizeof b);
    st32(b + 8, 2);
    st32(b + 12, 0);
    st32(b + 12, crc32c(0, b, sizeof b));
    CHECK_EQ(pwrite(fd, b, sizeof b, at), sizeof b);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_get(&g, 8, 0, NULL), 0);
    CHECK_EQ(rig_get(&g, 8, 1, NULL), -ENOENT);
    for (uint32_t n = 0; n < 10; n++)
        CHECK_EQ(rig_put(&g, 9, n), 0);
    rig_close(&g);
    CHECK_EQ(pread(fd, is, sizeof is, at), sizeof is);
    CHECK_EQ(memcmp(b, is, sizeof b), 0);
    close(fd);
    rig_fini(&g);
}

/* A lying disk: the newest slot was never written.  After a crash it is found out at the open. */
static void after_a_crash_the_newest_slots_are_looked_at(void)
{
    struct rig g, c;
    char path[600], to[300];
    static const uint8_t zero[4096];

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 8, 0), 0);
    CHECK_EQ(rig_put(&g, 8, 1), 0);
    snprintf(to, sizeof to, "%s-copy", g.dir);
    CHECK_EQ(rig_cp(g.dir, to), 0); /* as a crash would leave it */
    snprintf(path, sizeof path, "%s/kv/test/seg-0001", to);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK_EQ(pwrite(fd, zero, sizeof zero, SEG_HEAD_BYTES + RIG_SLOT), sizeof zero);
    close(fd);
    memset(&c, 0, sizeof c);
    snprintf(c.dir, sizeof c.dir, "%.200s", to);
    c.o = g.o;
    c.o.dir = c.dir;
    CHECK_EQ(rig_open(&c), 0);
    CHECK_EQ(c.rep.blocks_dropped, 1);
    CHECK_EQ(rig_get(&c, 8, 0, NULL), 0);
    CHECK_EQ(rig_get(&c, 8, 1, NULL), -ENOENT);
    rig_fini(&c);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_block_of_another_variant_is_another),
       ROW(impossible_sizes_in_a_slot_are_not_believed),
       ROW(host_memory_keeps_what_is_dirty_and_joins_its_holes),
       ROW(ages_go_up_the_chain_at_an_open), ROW(a_copy_in_memory_that_changed_is_not_served),
       ROW(the_only_copy_in_memory_that_changed_is_a_miss),
       ROW(what_is_there_is_not_written_again), ROW(a_damaged_block_is_dropped_at_once),
       ROW(of_two_copies_the_younger_one_counts), ROW(a_block_of_another_store_is_nobodys),
       ROW(a_block_of_a_later_version_keeps_its_slot),
       ROW(after_a_crash_the_newest_slots_are_looked_at))
