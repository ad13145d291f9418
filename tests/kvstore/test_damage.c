/* test_damage.c - files that were hurt, lost or cut: nothing wrong is served, all opens. */
#include "kvstore/index_check.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCKS = 30, TOKENS = 1000 };

/* A store with blocks, turns, a fork, a request, cleanly closed. */
static void make(struct rig *g)
{
    struct kvs_id root = rig_id(1, 0), fork_id = rig_id(1, 5);
    struct kvs_branch br = {.id = fork_id, .parent = root, .parent_pos = 300, .owner = 1000};
    struct kvs_session ses;
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(1, 6),
                        .session = rig_id(1, 1005),
                        .branch = fork_id,
                        .pos = 300,
                        .type = 50,
                        .state = 2,
                        .time_ns = 1ull << 62,
                        .reply = "{\"a\":1}",
                        .reply_bytes = 7};
    int32_t ids[100];

    rig_init(g, KVS_IO_THREADS, true);
    g->o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(g), 0);
    for (uint32_t n = 0; n < BLOCKS; n++)
        CHECK_EQ(rig_put(g, 1, n), 0);
    for (uint64_t at = 0; at < TOKENS; at += 100)
        CHECK_EQ(rig_talk(g, 1, at, at + 100), 0);
    for (int i = 0; i < 100; i++)
        ids[i] = 7000 + i;
    rig_session(&ses, 1, 5, "fork");
    ses.head = 400;
    struct kvs_rec rec[] = {{.kind = KVS_REC_BRANCH, .branch = &br},
                            {.kind = KVS_REC_TOKENS, .tokens = {fork_id, 300, ids, 100}},
                            {.kind = KVS_REC_SESSION, .session = &ses},
                            {.kind = KVS_REC_REQ, .req = &q}};
    CHECK_EQ(rig_batch(g, rec, 4), 0);
    rig_close(g);
}

static int count_session(void *ctx, const struct kvs_session *s)
{
    (void)s;
    (*(int *)ctx)++;
    return 0;
}

/* Everything of make() that is not a block. */
static bool turns_ok(struct rig *g)
{
    struct kvs_id fork_id = rig_id(1, 5), req = rig_id(1, 6);
    struct kvs_req q;
    char *reply = NULL;
    int32_t ids[400];
    int n = 0;
    bool ok = rig_tokens_ok(g, 1, TOKENS);

    ok &= kvs_sessions(g->s, count_session, &n) == 0 && n == 2;
    ok &= kvs_tokens(g->s, &fork_id, 0, 400, ids) == 0;
    for (int i = 0; i < 400 && ok; i++)
        ok = ids[i] == (i < 300 ? rig_token(1, (uint64_t)i) : 7000 + i - 300);
    ok &= kvs_req_get(g->s, 1000, &req, &q, &reply) == 0 && reply &&
          !strcmp(reply, "{\"a\":1}") && q.state == 2;
    free(reply);
    return ok;
}

/* Gets them all: how many came; wrong bytes fail the test. */
static int blocks_there(struct rig *g)
{
    int n = 0;

    for (uint32_t i = 0; i < BLOCKS; i++) {
        int r = rig_get(g, 1, i, NULL);
        if (r == -9999)
            t_fail(__FILE__, __LINE__, "block %u: wrong bytes were served", i);
        n += r == 0;
    }
    return n;
}

static void index_lost_everything_is_rebuilt(void)
{
    struct rig g;
    char path[512];

    make(&g);
    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(unlink(path), 0);
    rig_reopen(&g);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(g.rep.blocks, BLOCKS);
    CHECK(turns_ok(&g));
    CHECK_EQ(blocks_there(&g), BLOCKS);
    CHECK_EQ(rig_put(&g, 1, BLOCKS), 0); /* slots that are in use were not taken again */
    CHECK_EQ(blocks_there(&g), BLOCKS);
    rig_reopen(&g);
    CHECK(!g.rep.rebuilt && g.rep.clean);
    CHECK_EQ(g.rep.blocks, BLOCKS + 1);
    rig_fini(&g);
}

static void log_lost_it_is_made_anew_from_the_index(void)
{
    struct rig g;
    char path[512];

    make(&g);
    snprintf(path, sizeof path, "%s/log", g.dir);
    CHECK_EQ(rig_rm(path), 0);
    rig_reopen(&g);
    CHECK(turns_ok(&g));
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 5), 0);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(unlink(path), 0);
    rig_reopen(&g);
    CHECK(g.rep.rebuilt);
    CHECK(turns_ok(&g));
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 5));
    rig_fini(&g);
}

static void opening_again_changes_nothing(void)
{
    struct rig g;

    make(&g);
    for (int i = 0; i < 5; i++) {
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt && !g.rep.warning[0]);
        CHECK_EQ(g.rep.blocks, BLOCKS);
        CHECK_EQ(g.rep.sessions, 2);
        CHECK_EQ(g.rep.log_torn_bytes, 0);
        CHECK(turns_ok(&g));
    }
    CHECK_EQ(blocks_there(&g), BLOCKS);
    rig_fini(&g);
}

/* --- damage by chance ------------------------------------------------------------------------- */

static void files_in(const char *dir, const char *sub, char ret[][512], int *n)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, sub);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && *n < 16)
            snprintf(ret[(*n)++], 512, "%.400s/%.100s", path, e->d_name);
    if (d)
        closedir(d);
}

/* A bit among the first `bytes` that matter; heads: of a database page's head, or a node's. */
static void flip(const char *path, uint64_t bytes, bool heads, uint64_t *rnd)
{
    uint8_t b, node[2];
    int fd = open(path, O_RDWR);
    uint64_t at = rig_rand(rnd) % bytes;

    if (heads) {
        at -= at % 4096;
        uint64_t which = at + 16 + rig_rand(rnd) % 4 * 2;
        if (fd < 0 || pread(fd, node, 2, (off_t)which) != 2)
            abort();
        at += rig_rand(rnd) % 2 ? 8 + rig_rand(rnd) % 16
                                : (node[0] | node[1] << 8) % 4088u + rig_rand(rnd) % 8;
    }
    if (fd < 0 || pread(fd, &b, 1, (off_t)at) != 1)
        abort();
    b ^= (uint8_t)(1 << rig_rand(rnd) % 8);
    if (pwrite(fd, &b, 1, (off_t)at) != 1)
        abort();
    close(fd);
}

struct tally {
    int opened, rebuilt, all, less;
};

static void flips_from(uint64_t seed, const char *sub, uint64_t bytes, bool heads, int n,
                       bool turns_must_stay, bool blocks_must_stay)
{
    struct rig g, h;
    uint64_t rnd = seed;
    char copy[300], file[16][512];
    struct tally t = {0};

    make(&g);
    for (int i = 0; i < n; i++) {
        int files = 0;
        struct stat st;
        snprintf(copy, sizeof copy, "%s-hurt", g.dir);
        if (rig_cp(g.dir, copy) != 0)
            abort();
        if (strchr(sub, '.'))
            snprintf(file[files++], 512, "%s/%s", copy, sub);
        else
            files_in(copy, sub, file, &files);
        int f = (int)(rig_rand(&rnd) % (uint64_t)files);
        if (stat(file[f], &st) < 0)
            abort();
        flip(file[f], bytes && bytes < (uint64_t)st.st_size ? bytes : (uint64_t)st.st_size,
             heads, &rnd);
        h = g;
        snprintf(h.dir, sizeof h.dir, "%.200s", copy);
        h.o.dir = h.dir;
        int r = rig_open(&h);
        if (r < 0) {
            t_fail(__FILE__, __LINE__, "SEED=%llu flip %d in %s: does not open: %s",
                   (unsigned long long)seed, i, sub, h.eb.s);
            rig_rm(copy);
            continue;
        }
        t.opened++;
        t.rebuilt += h.rep.rebuilt;
        bool turns = turns_ok(&h);
        int blocks = blocks_there(&h);
        t.all += blocks == BLOCKS && turns;
        if (turns_must_stay && !turns)
            t_fail(__FILE__, __LINE__, "SEED=%llu flip %d in %s: turns are lost",
                   (unsigned long long)seed, i, sub);
        if (blocks < (blocks_must_stay ? BLOCKS : BLOCKS - 1))
            t_fail(__FILE__, __LINE__, "SEED=%llu flip %d in %s: %d blocks of %d",
                   (unsigned long long)seed, i, sub, blocks, BLOCKS);
        CHECK_EQ(rig_put(&h, 99, 0), 0);
        CHECK_EQ(rig_talk(&h, 99, 0, 10), 0);
        rig_close(&h);
        rig_rm(copy);
    }
    printf("    %d flips in %s: %d opened, %d with everything, %d rebuilt\n", n, sub, t.opened,
           t.all, t.rebuilt);
    rig_fini(&g);
}

static void flips(const char *sub, uint64_t bytes, bool heads, int n, bool turns_must_stay,
                  bool blocks_must_stay)
{
    flips_from(t_seed(), sub, bytes, heads, n, turns_must_stay, blocks_must_stay);
}

static void flipped_bits_in_segments_cost_a_block_at_most(void)
{
    flips("kv/test", 4096 + BLOCKS * RIG_SLOT, false, 60, true, false);
}

static void flipped_bits_in_the_log_cost_nothing_while_the_index_lives(void)
{
    flips("log", 12000, false, 60, true, true);
}

/* Flip 52 of these turns the version in the log's header into another one. */
static void a_flipped_version_of_the_log_costs_nothing(void)
{
    flips_from(2105476487273876951u, "log", 12000, false, 60, true, true);
}

static void flipped_bits_in_the_index_cost_nothing(void)
{
    flips("index.mdb", 0, false, 100, true, true);
}

/* Where LMDB believes what it reads, and would write beside the page. */
static void flipped_bits_in_page_heads_of_the_index_cost_nothing(void)
{
    flips("index.mdb", 0, true, 200, true, true);
}

/* Of LMDB's two heads, which it believes.  The number of a transaction: it would go by the head before,
 * and what was committed last were missing from an index that is sound in all.  The rest would end
 * the process, or pass for want of memory. */
static void flipped_bits_in_the_heads_of_the_index_cost_no_block(void)
{
    enum { FROM = 0, UPTO = 152, BITS = (UPTO - FROM) * 8 };
    struct rig g, h;
    char copy[300], file[400];
    int rebuilt = 0, step = T_SLOWER > 1 ? 7 : 1;

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(&g), 0);
    for (uint32_t n = 0; n < 3; n++)
        CHECK_EQ(rig_put(&g, 1, n), 0);
    snprintf(copy, sizeof copy, "%s-hurt", g.dir);
    snprintf(file, sizeof file, "%s/index.mdb", copy);
    for (int bit = 0; bit < 2 * BITS; bit += step) {
        off_t in = FROM + bit % BITS / 8, at = bit / BITS * 4096 + in;
        uint8_t b;

        CHECK_EQ(rig_cp(g.dir, copy), 0); /* as a kill leaves it */
        int fd = open(file, O_RDWR);
        CHECK(fd >= 0 && pread(fd, &b, 1, at) == 1);
        b ^= (uint8_t)(1 << bit % 8);
        /* Two less is what the head was before: of that nothing tells it. */
        bool before = in == 144 && bit % 8 == 1 && !(b & 2);
        CHECK(pwrite(fd, &b, 1, at) == 1);
        close(fd);
        h = g;
        snprintf(h.dir, sizeof h.dir, "%.200s", copy);
        h.o.dir = h.dir;
        h.s = NULL;
        if (rig_open(&h) < 0) {
            t_fail(__FILE__, __LINE__, "bit %d of byte %d: %s", bit % 8, (int)at, h.eb.s);
        } else {
            rebuilt += h.rep.rebuilt;
            for (uint32_t n = 0; n < 3; n++)
                if (rig_get(&h, 1, n, NULL) != 0 && !before)
                    t_fail(__FILE__, __LINE__, "bit %d of byte %d: block %u is lost", bit % 8,
                           (int)at, n);
            rig_close(&h);
        }
        rig_rm(copy);
    }
    CHECK(rebuilt >= 800 / step);
    rig_close(&g);
    rig_fini(&g);
}

static void upper(uint8_t *page)
{
    page[15] ^= 0x40; /* free space ends behind the page */
}
static void db_bytes(uint8_t *page)
{
    uint8_t *node = page + (page[16] | page[17] << 8);

    if (node[4] == 2) /* a database's root */
        node[1] ^= 0x20;
}
static void node_flags(uint8_t *page)
{
    page[(page[16] | page[17] << 8) + 4] ^= 2;
}
static void offsets(uint8_t *page)
{
    memcpy(page + 18, page + 16, 2); /* two nodes in one place */
}

/* Nothing of it shows while it is only read, and LMDB would write beside the page. */
static void page_heads_that_cannot_be_rebuild_the_index(void)
{
    static const struct {
        const char *name;
        uint16_t type; /* 1 branch, 2 leaf */
        void (*hurt)(uint8_t *page);
    } row[] = {{"upper of leaves", 2, upper},
               {"upper of branches", 1, upper},
               {"size of a database's record", 2, db_bytes},
               {"flags of a node", 2, node_flags},
               {"offsets of a branch", 1, offsets}};

    for (uint32_t i = 0; i < sizeof row / sizeof *row; i++) {
        uint8_t page[4096];
        char path[512];
        struct rig g;
        int n = 0;

        make(&g);
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        int fd = open(path, O_RDWR);
        for (off_t at = 2 * 4096; pread(fd, page, 4096, at) == 4096; at += 4096) {
            if ((page[10] | page[11] << 8) != row[i].type)
                continue;
            row[i].hurt(page);
            n += pwrite(fd, page, 4096, at) == 4096;
        }
        close(fd);
        CHECK(n > 0);
        rig_reopen(&g);
        if (!g.rep.rebuilt)
            t_fail(__FILE__, __LINE__, "%s: the index was believed", row[i].name);
        CHECK(turns_ok(&g));
        CHECK_EQ(blocks_there(&g), BLOCKS);
        CHECK_EQ(rig_put(&g, 99, 0), 0);
        CHECK_EQ(rig_talk(&g, 99, 0, 10), 0);
        rig_fini(&g);
    }
}

/* In a child, as recovery does it; sound: it is not taken for damaged. */
static bool believed(const char *dir)
{
    char path[512];

    snprintf(path, sizeof path, "%s/index.mdb", dir);
    return index_check(path, 0, NULL) == 0;
}

static void an_index_of_any_shape_is_believed(void)
{
    static char reply[20000];
    uint64_t rnd = t_seed();
    struct rig g;

    memset(reply, 'x', sizeof reply);
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 64 << 20;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 1), 0);
    for (int i = 0; i < 40; i++) {
        for (int k = 0; k < 25; k++) { /* large and small values, over each other */
            struct kvs_req q = {.owner = 1000,
                                .id = rig_id(3, rig_rand(&rnd) % 60),
                                .session = rig_id(1, 1000),
                                .branch = rig_id(1, 0),
                                .type = 50,
                                .state = 2,
                                .time_ns = 1ull << 62,
                                .reply = reply,
                                .reply_bytes = (uint32_t)(rig_rand(&rnd) % sizeof reply)};
            struct kvs_rec rec = {.kind = KVS_REC_REQ, .req = &q};
            CHECK_EQ(rig_batch(&g, &rec, 1), 0);
        }
        for (uint32_t n = 0; n < 10; n++)
            CHECK_EQ(rig_put(&g, 5, (uint32_t)i * 10 + n), 0);
        for (uint64_t n = 0; n < 4; n++)
            CHECK_EQ(rig_talk(&g, 100 + (uint64_t)i * 4 + n, 0, rig_rand(&rnd) % 700), 0);
        rig_close(&g);
        CHECK(believed(g.dir));
        CHECK_EQ(rig_open(&g), 0);
    }
    rig_fini(&g);
}

static void torn_log_tails_are_cut_off_and_written_over(void)
{
    uint64_t seed = t_seed(), rnd = seed;
    struct rig g;

    for (int i = 0; i < 15; i++) {
        char file[16][512], path[512];
        uint8_t junk[600];
        int files = 0;
        make(&g);
        files_in(g.dir, "log", file, &files);
        CHECK_EQ(files, 1);
        int fd = open(file[0], O_RDWR);
        uint8_t *b = malloc(1 << 20);
        ssize_t n = pread(fd, b, 1 << 20, 0), end = n;
        while (end > 0 && b[end - 1] == 0)
            end--;
        end = (end + 7) / 8 * 8;
        /* A frame that never got whole: the copy of a true one, with a part of it missing. */
        for (size_t k = 0; k < sizeof junk; k++)
            junk[k] = (uint8_t)rig_rand(&rnd);
        memcpy(junk, b + 4096, 24 + rig_rand(&rnd) % 400);
        ssize_t m = 8 + (ssize_t)(rig_rand(&rnd) % (sizeof junk - 8));
        if (pwrite(fd, junk, (size_t)m, end) != m)
            abort();
        close(fd);
        free(b);
        if (i % 3 == 0) { /* and the index is lost too */
            snprintf(path, sizeof path, "%s/index.mdb", g.dir);
            CHECK_EQ(unlink(path), 0);
        }
        rig_reopen(&g);
        CHECK(g.rep.log_torn_bytes > 0);
        CHECK(turns_ok(&g));
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 1), 0);
        rig_close(&g);
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        CHECK_EQ(unlink(path), 0);
        rig_reopen(&g);
        CHECK_EQ(g.rep.log_torn_bytes, 0);
        CHECK(turns_ok(&g));
        CHECK(rig_tokens_ok(&g, 1, TOKENS + 1));
        rig_fini(&g);
    }
}

static void an_index_cut_short_is_rebuilt(void)
{
    uint64_t seed = t_seed(), rnd = seed;
    struct rig g;

    for (int i = 0; i < 10; i++) {
        char path[512];
        struct stat st;
        make(&g);
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        CHECK_EQ(stat(path, &st), 0);
        CHECK_EQ(truncate(path, (off_t)(rig_rand(&rnd) % (uint64_t)st.st_size)), 0);
        rig_reopen(&g);
        CHECK(turns_ok(&g));
        CHECK_EQ(blocks_there(&g), BLOCKS);
        rig_fini(&g);
    }
}

static void a_segment_cut_short_or_gone_costs_its_blocks_only(void)
{
    struct rig g;
    char path[512];

    make(&g);
    snprintf(path, sizeof path, "%s/kv/test/seg-0001", g.dir);
    CHECK_EQ(truncate(path, 100000), 0);
    rig_reopen(&g);
    CHECK(turns_ok(&g));
    CHECK(blocks_there(&g) < BLOCKS);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    CHECK_EQ(rig_get(&g, 1, 0, NULL), 0);
    rig_fini(&g);
}

T_MAIN({"index_lost_everything_is_rebuilt", index_lost_everything_is_rebuilt},
       {"log_lost_it_is_made_anew_from_the_index", log_lost_it_is_made_anew_from_the_index},
       {"opening_again_changes_nothing", opening_again_changes_nothing},
       {"flipped_bits_in_segments_cost_a_block_at_most",
        flipped_bits_in_segments_cost_a_block_at_most},
       {"flipped_bits_in_the_log_cost_nothing_while_the_index_lives",
        flipped_bits_in_the_log_cost_nothing_while_the_index_lives},
       {"a_flipped_version_of_the_log_costs_nothing",
        a_flipped_version_of_the_log_costs_nothing},
       {"flipped_bits_in_the_index_cost_nothing", flipped_bits_in_the_index_cost_nothing},
       {"flipped_bits_in_page_heads_of_the_index_cost_nothing",
        flipped_bits_in_page_heads_of_the_index_cost_nothing},
       {"flipped_bits_in_the_heads_of_the_index_cost_no_block",
        flipped_bits_in_the_heads_of_the_index_cost_no_block},
       {"an_index_of_any_shape_is_believed", an_index_of_any_shape_is_believed},
       {"page_heads_that_cannot_be_rebuild_the_index",
        page_heads_that_cannot_be_rebuild_the_index},
       {"torn_log_tails_are_cut_off_and_written_over",
        torn_log_tails_are_cut_off_and_written_over},
       {"an_index_cut_short_is_rebuilt", an_index_cut_short_is_rebuilt},
       {"a_segment_cut_short_or_gone_costs_its_blocks_only",
        a_segment_cut_short_or_gone_costs_its_blocks_only})
