/* test_salvage.c - what is read of a log and of an index that were hurt: what is missing is seen, and
 * nothing is believed that is in another's place. */
#include "kvstore/index.h"
#include "kvstore/logfile.h"
#include "kvstore/store.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct rig g;
static char log_dir[512], path[512];

/* The first file of the log as it is, and to be written back; others lie behind it. */
static uint8_t *first_load(size_t *n)
{
    hurt_make(&g);
    hurt_path(&g, "log", log_dir);
    hurt_path(&g, "log/seg-0001", path);
    CHECK(hurt_count(log_dir, "seg-") > 1);
    return hurt_load(path, n);
}

static void store(const uint8_t *b, size_t n)
{
    int fd = open(path, O_WRONLY);

    CHECK(fd >= 0 && pwrite(fd, b, n, 0) == (ssize_t)n);
    close(fd);
}

static bool salvage_finds_damage(void)
{
    struct turnlog_report rep;

    CHECK_EQ(log_salvage(log_dir, NULL, NULL, &rep, NULL), 0);
    return rep.damaged;
}

/* Where its frames end. */
static size_t walk(const uint8_t *b, size_t n, uint32_t frames)
{
    size_t at = LOG_HEAD_BYTES;
    struct log_frame f;
    uint64_t whole;

    for (uint32_t i = 0; i < frames && log_frame_get(b + at, n - at, &f, &whole) == 0; i++)
        at += whole;
    return at;
}

/* Only at the end of all of it is something torn. */
static void what_is_torn_before_another_file_is_damage(void)
{
    size_t n;
    uint8_t *b = first_load(&n);
    size_t end = walk(b, n, UINT32_MAX);

    CHECK(end > LOG_HEAD_BYTES && end + 16 <= n);
    CHECK(!salvage_finds_damage());
    b[end] = 0x5a;
    store(b, n);
    CHECK(salvage_finds_damage());
    free(b);
    rig_fini(&g);
}

/* One frame was taken out and the rest moved up: each of them is whole, and one is missing. */
static void a_frame_that_is_not_the_next_is_damage(void)
{
    size_t n;
    uint8_t *b = first_load(&n);
    size_t from = walk(b, n, 2), to = walk(b, n, 3);

    CHECK(to > from && walk(b, n, 4) > to);
    memmove(b + from, b + to, n - to);
    memset(b + n - (to - from), 0, to - from);
    store(b, n);
    CHECK(salvage_finds_damage());
    free(b);
    rig_fini(&g);
}

/* Its frames say that it is one: they count from 0, and what is behind it has higher numbers. */
static void a_checkpoint_without_its_header_is_still_one(void)
{
    uint8_t zero[LOG_HEAD_BYTES] = {0};
    char words[4000];

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    hurt_fill(&g);
    CHECK_EQ(ckpt_all(g.s), 0);
    for (uint64_t at = 0; at < 100; at += 10)
        CHECK_EQ(rig_talk(&g, 50, at, at + 10), 0);
    uint32_t base = 0;
    for (uint32_t i = 1; i < 20 && !base; i++) {
        struct log_head h;
        hurt_path(&g, "log", log_dir);
        if (log_head_read(log_dir, i, &h) == 0 && h.base)
            base = i;
    }
    CHECK(base > 0);
    snprintf(path, sizeof path, "%.400s/seg-%04u", log_dir, base);
    rig_close(&g);
    rig_no_index(&g);
    store(zero, sizeof zero);
    CHECK_EQ(rig_open(&g), 0);
    hurt_notes(&g, words, sizeof words);
    for (uint64_t s = 1; s <= HURT_SESSIONS; s++)
        CHECK_EQ(hurt_whole(&g, s), HURT_TURNS * HURT_TURN);
    CHECK(rig_tokens_ok(&g, 50, 100));
    rig_fini(&g);
}

/* A page in which a key has changed: the row is whole, and that of another. */
static void a_row_under_another_key_is_refused(void)
{
    static const char key[] = "key of a row: A", other[] = "key of a row: Q";
    struct sys sys = {.no_fsync = true};
    struct index_opts o = {.dir = g.dir, .sys = &sys, .no_fsync = true};
    struct index *x = NULL;
    const uint8_t *v;
    size_t n;

    rig_init(&g, KVS_IO_THREADS, true);
    CHECK_EQ(rig_open(&g), 0);
    rig_close(&g);
    CHECK_EQ(index_open(&x, &o, NULL), 0);
    CHECK_EQ(index_begin(x), 0);
    CHECK_EQ(index_row_put(x, DB_META, (const uint8_t *)key, sizeof key - 1,
                           (const uint8_t *)"value", 5),
             0);
    CHECK_EQ(index_commit(x), 0);
    index_close(x);
    CHECK('A' == ('Q' ^ 0x10));
    CHECK(hurt_row(&g, key, sizeof key - 1, sizeof key - 2) > 0);
    CHECK_EQ(index_open(&x, &o, NULL), 0);
    CHECK_EQ(index_begin(x), 0);
    CHECK_EQ(index_row_get(x, DB_META, (const uint8_t *)other, sizeof other - 1, &v, &n),
             E_CORRUPT);
    index_abort(x);
    index_close(x);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(what_is_torn_before_another_file_is_damage),
       ROW(a_frame_that_is_not_the_next_is_damage),
       ROW(a_checkpoint_without_its_header_is_still_one),
       ROW(a_row_under_another_key_is_refused))
