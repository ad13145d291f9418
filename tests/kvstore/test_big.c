/* test_big.c - 2 TB of segments and many blocks: few descriptors, and an open that reads rows
 * and headers only.  HEARTH_BLOCKS=n rows (200,000 unless set). */
#include "base/clock.h"
#include "kvstore/index.h"
#include "kvstore/seg.h"
#include "kvstore/sys.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SEGS = 2050, SLOTS = ((1 << 30) - 8192) / RIG_SLOT, REAL = 300, NOFILE = 256 };

struct big {
    struct rig g;
    uint32_t rows;
    uint8_t uuid[16];
};

static int write_all(const char *path, const void *head, uint64_t size, const void *slot)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    int r = fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
                    pwrite(fd, head, SEG_HEAD_BYTES, 0) != SEG_HEAD_BYTES ||
                    pwrite(fd, head, SEG_HEAD_BYTES, (off_t)size - SEG_HEAD_BYTES) < 0 ||
                    (slot && pwrite(fd, slot, RIG_SLOT, SEG_HEAD_BYTES) != RIG_SLOT)
                ? -1
                : 0;

    if (fd >= 0)
        close(fd);
    return r;
}

/* A block of the rig's as it lies in a slot, and its row. */
static void block_make(struct big *x, uint32_t n, uint32_t segment, uint8_t *slot,
                       struct index_block *row)
{
    struct rig_block b;

    rig_block_set(&x->g, &b, 1, n);
    struct slot_head h = {.key = b.r.key,
                          .parent = b.r.parent,
                          .variant = 7,
                          .first_pos = b.r.first_pos,
                          .hot_bytes = RIG_HOT,
                          .cold_bytes = RIG_COLD,
                          .time_ns = wall_ns(),
                          .n_tokens = BLOCK_TOKENS};
    memcpy(h.uuid, x->uuid, 16);
    snprintf(h.layout, sizeof h.layout, "test");
    rig_payload(1, n, slot + SLOT_HEAD_BYTES, RIG_HOT + RIG_COLD);
    *row = (struct index_block){.key = h.key,
                                .parent = h.parent,
                                .variant = 7,
                                .layout = layout_tag("test"),
                                .first_pos = h.first_pos,
                                .time_ns = h.time_ns,
                                .segment = segment,
                                .n_tokens = BLOCK_TOKENS};
    row->head_crc = slot_seal(slot, &h, b.r.ids);
    memcpy(row->hash, h.hash, 16);
}

/* 2 TB of sparse files; REAL blocks that can be read, the others only in the index. */
static void make(struct big *x)
{
    static uint8_t slot[RIG_SLOT] __attribute__((aligned(4096)));
    struct seg_head h = {
        .hot_bytes = RIG_HOT, .cold_bytes = RIG_COLD, .slot_bytes = RIG_SLOT, .n_slots = SLOTS};
    const char *env = getenv("HEARTH_BLOCKS");
    struct index_opts io = {.dir = x->g.dir, .no_fsync = true};
    struct sys y = {.no_fsync = true};
    struct index_block row;
    struct index *idx;
    uint8_t head[SEG_HEAD_BYTES];
    char path[400];

    x->rows = env ? (uint32_t)strtoul(env, NULL, 10) : 200000;
    rig_init(&x->g, KVS_IO_THREADS, true);
    x->g.o.disk_bytes = 4ull << 40;
    x->g.o.no_fsync = true;
    CHECK_EQ(rig_open(&x->g), 0);
    CHECK_EQ(rig_talk(&x->g, 1, 0, 10), 0);
    rig_close(&x->g);
    io.sys = &y;
    CHECK_EQ(index_open(&idx, &io, NULL), 0);
    CHECK_EQ(index_meta_get(idx, INDEX_LOOP, "uuid", x->uuid, 16), 16);
    memcpy(h.uuid, x->uuid, 16);
    snprintf(h.layout, sizeof h.layout, "test");
    snprintf(path, sizeof path, "%s/kv/test", x->g.dir);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_EQ(index_begin(idx), 0);
    for (uint32_t i = 0; i < SEGS; i++) {
        h.number = i + 1;
        seg_head_put(head, &h);
        if (i < REAL)
            block_make(x, i, i + 1, slot, &row);
        seg_path(x->g.dir, "test", i + 1, path, sizeof path);
        if (write_all(path, head, seg_bytes(SLOTS, RIG_SLOT), i < REAL ? slot : NULL) < 0) {
            perror(path);
            exit(1);
        }
        if (i < REAL)
            CHECK_EQ(index_block_put(idx, &row), 0);
    }
    for (uint32_t n = REAL; n < x->rows; n++) {
        struct index_block other = {.variant = 7,
                                    .layout = layout_tag("test"),
                                    .first_pos = n % 4096 * BLOCK_TOKENS,
                                    .time_ns = wall_ns(),
                                    .segment = n % SEGS + 1,
                                    .slot = 1 + n / SEGS,
                                    .n_tokens = BLOCK_TOKENS};
        for (int k = 0; k < 4; k++) /* ascending, as a B-tree likes it; else like a hash */
            other.key.b[k] = (uint8_t)((uint64_t)n * 4294967295u / x->rows >> (24 - 8 * k));
        memcpy(other.key.b + 4, &n, 4);
        CHECK_EQ(index_block_put(idx, &other), 0);
    }
    CHECK_EQ(index_commit(idx), 0);
    index_close(idx);
}

static int fds_open(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n - 3; /* the two dots and itself */
}

static uint64_t reads_done(void)
{
    char line[100];
    unsigned long long n = 0;
    FILE *f = fopen("/proc/self/io", "r");

    while (f && fgets(line, sizeof line, f))
        (void)sscanf(line, "syscr: %llu", &n);
    if (f)
        fclose(f);
    return n;
}

static _Atomic int syncs;
static int on_sys(void *user, const struct sys_event *e)
{
    (void)user;
    syncs += !e->after && e->op == SYS_SYNC;
    return 0;
}

static void in_few_descriptors(struct big *x)
{
    struct rlimit was, few;
    int most = 0, got = 0;

    x->g.env.sys_hook = on_sys;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){NOFILE, was.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
    syncs = 0;
    uint64_t t0 = now_ns(), reads = reads_done(), cpu = clock_at(CLOCK_PROCESS_CPUTIME_ID);
    int r = rig_open(&x->g);
    if (r < 0) {
        t_fail(__FILE__, __LINE__, "does not open: %s", x->g.eb.s);
        (void)setrlimit(RLIMIT_NOFILE, &was);
        return;
    }
    uint64_t ns = now_ns() - t0;
    cpu = clock_at(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    reads = reads_done() - reads;
    CHECK(x->g.rep.clean);
    CHECK_EQ(x->g.rep.segs_unread, 0);
    CHECK_EQ(x->g.rep.blocks, x->rows);
    printf(
        "    %u segments, %u rows: open in %.2f s (%.2f of the CPU's), %llu reads, %d syncs, "
        "%d descriptors\n",
        SEGS, x->rows, (double)ns / 1e9, (double)cpu / 1e9, (unsigned long long)reads,
        (int)syncs, fds_open());
    struct kvs_stats st;
    kvs_stats(x->g.s, &st);
    CHECK(st.blocks_memory > 0 && st.blocks_memory <= 64ull * x->rows);
    CHECK_EQ(st.blocks, x->rows);
    CHECK(reads == 0 || reads < 2 * SEGS); /* 0: not counted here */
    CHECK(syncs < 20);
    CHECK(ns < 60000000000u * T_SLOWER);
    for (uint32_t n = 0; n < REAL; n++) {
        got += rig_get(&x->g, 1, n, NULL) == 0;
        int k = fds_open();
        most = k > most ? k : most;
    }
    CHECK_EQ(got, REAL);
    for (uint32_t n = 0; n < 50; n++)
        CHECK_EQ(rig_put(&x->g, 2, n), 0);
    printf("    at most %d descriptors while %d segments were read\n", most, REAL);
    CHECK(most < 100);
    kvs_stats(x->g.s, &st); /* what was read is in host memory, and its record there */
    CHECK_EQ(st.blocks, x->rows + 50);
    rig_close(&x->g);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
}

static void two_terabytes(enum kvs_io io)
{
    struct big x;

    memset(&x, 0, sizeof x);
    make(&x);
    x.g.o.io = io;
    in_few_descriptors(&x);
    if (rig_open(&x.g) == 0) {
        CHECK(x.g.rep.clean);
        CHECK_EQ(x.g.rep.blocks, x.rows + 50);
    }
    rig_fini(&x.g);
}

static void two_terabytes_open_in_few_descriptors_uring(void)
{
    two_terabytes(KVS_IO_AUTO);
}
static void two_terabytes_open_in_few_descriptors_threads(void)
{
    two_terabytes(KVS_IO_THREADS);
}

T_MAIN({"two_terabytes_open_in_few_descriptors_uring",
        two_terabytes_open_in_few_descriptors_uring},
       {"two_terabytes_open_in_few_descriptors_threads",
        two_terabytes_open_in_few_descriptors_threads})
