/* test_limits.c - bounds, full disks, wrong directories: clear refusals, nothing lost. */
#include "kvstore/seg.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t du_bytes;
static int du_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)path, (void)f;
    if (type == FTW_F)
        du_bytes += (uint64_t)st->st_blocks * 512;
    return 0;
}
static uint64_t du(const char *dir)
{
    du_bytes = 0;
    nftw(dir, du_one, 16, FTW_PHYS);
    return du_bytes;
}

static void start(struct rig *g, uint64_t disk)
{
    rig_init(g, KVS_IO_THREADS, true);
    g->o.disk_bytes = disk;
    CHECK_EQ(rig_open(g), 0);
}

static void two_processes_cannot_have_one_store(void)
{
    struct rig g, h;
    int p[2];
    char pid[32], c;

    rig_init(&g, KVS_IO_THREADS, true);
    if (pipe(p) < 0)
        abort();
    pid_t child = fork();
    if (child == 0) {
        if (rig_open(&g) < 0 || write(p[1], "x", 1) != 1)
            _exit(1);
        pause();
        _exit(0);
    }
    CHECK_EQ(read(p[0], &c, 1), 1);
    h = g;
    CHECK_EQ(rig_open(&h), -EBUSY);
    snprintf(pid, sizeof pid, "process %d", (int)child);
    CHECK(strstr(h.eb.s, pid));
    printf("    %s\n", h.eb.s);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_EQ(rig_open(&h), 0);
    rig_fini(&h);
}

static void a_directory_that_cannot_be_is_refused_in_words(void)
{
    struct rig g;
    char path[512];

    rig_init(&g, KVS_IO_THREADS, true);
    snprintf(path, sizeof path, "%s/file", g.dir);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    snprintf(path, sizeof path, "%s/file/store", g.dir);
    g.o.dir = path;
    CHECK(rig_open(&g) < 0);
    CHECK(strstr(g.eb.s, "/file"));
    printf("    %s\n", g.eb.s);
    g.o.dir = "/proc/nothing/here";
    CHECK(rig_open(&g) < 0);
    g.o.dir = g.dir;
    g.o.disk_bytes = 1000;
    CHECK_EQ(rig_open(&g), -EINVAL);
    CHECK(strstr(g.eb.s, "1000"));
    rig_fini(&g);
}

static void layouts_say_what_does_not_fit(void)
{
    struct kvs_layout l = {.id = "test", .hot_bytes = 4096};
    struct rig g;
    uint32_t n;

    start(&g, 8 << 20);
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), E_SHAPE);
    printf("    %s\n", g.eb.s);
    l = (struct kvs_layout){.id = "big", .hot_bytes = 64 << 20};
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), E_LIMIT);
    CHECK(strstr(g.eb.s, "host memory"));
    l = (struct kvs_layout){.id = "odd", .hot_bytes = 5000};
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), -EINVAL);
    l = (struct kvs_layout){.id = "a/b", .hot_bytes = 4096};
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), -EINVAL);
    l = (struct kvs_layout){.id = "cold", .hot_bytes = 4096, .cold_bytes = 8 << 20};
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), E_LIMIT);
    l = (struct kvs_layout){.id = "ok", .hot_bytes = 4096};
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), 0);
    CHECK_EQ(n, 1);
    rig_fini(&g);
}

static void the_limit_is_never_passed_and_a_long_session_keeps_its_beginning(void)
{
    enum { N = 700 };
    struct rig g;
    int first_refused = -1, kept = 0;
    struct kvs_stats st;

    start(&g, 8 << 20);
    for (uint32_t n = 0; n < N; n++) {
        int r = rig_put(&g, 1, n);
        if (r == E_LIMIT && first_refused < 0)
            first_refused = (int)n;
        CHECK(r == 0 || r == E_LIMIT);
        kept += r == 0;
    }
    CHECK(first_refused > 100);
    CHECK(du(g.dir) <= g.o.disk_bytes);
    kvs_stats(g.s, &st);
    CHECK(st.file_allocated <= st.file_limit);
    CHECK(st.file_used <= st.file_allocated);
    printf("    %d of %d kept, %llu of %llu bytes\n", kept, N, (unsigned long long)du(g.dir),
           (unsigned long long)g.o.disk_bytes);
    CHECK_EQ(rig_talk(&g, 3, 0, 100), 0);
    rig_reopen(&g);
    for (int n = 0; n < first_refused; n++)
        CHECK_EQ(rig_get(&g, 1, (uint32_t)n, NULL), 0);
    rig_fini(&g);
}

static uint32_t match(struct rig *g, uint64_t seed, uint32_t n)
{
    struct kvs_key *k = calloc(n, sizeof *k);
    struct rig_block b;

    for (uint32_t i = 0; i < n; i++) {
        rig_block_set(g, &b, seed, i);
        k[i] = b.r.key;
    }
    uint32_t m = kvs_match(g->s, k, n, 7);
    free(k);
    return m;
}

/* Also when it is written slowly: what comes behind a block that is not there any more is worth less than
 * its beginning, in this life and after a restart. */
static void a_session_written_slowly_keeps_its_beginning(void)
{
    enum { GAP = 20 };
    struct timespec pause = {1, 200000000};
    uint32_t first = 0, n = 0, left = 0;
    struct kvs_key key[GAP];
    struct kvs_stats st;
    struct rig_block b;
    struct rig g;

    start(&g, 8 << 20);
    while (rig_put(&g, 1, n) == 0)
        n++;
    first = n;
    CHECK(first > 100);
    kvs_stats(g.s, &st);
    n += (uint32_t)(st.host_limit / 4096) + 40; /* enough to drive it out of memory */
    for (uint32_t i = first; i < n; i++)
        CHECK_EQ(rig_put(&g, 1, i), E_LIMIT);
    nanosleep(&pause, NULL);
    for (uint32_t i = n; i < n + 60; i++)
        CHECK_EQ(rig_put(&g, 1, i), E_LIMIT);
    CHECK_EQ(match(&g, 1, first), first);
    /* Slots that are free are taken by blocks that nobody can reach: they are the first to go. */
    for (uint32_t i = 0; i < GAP; i++) {
        rig_block_set(&g, &b, 1, first - GAP + i);
        key[i] = b.r.key;
    }
    kvs_forget(g.s, key, GAP, b.r.variant);
    for (uint32_t i = 0; i < GAP; i++)
        CHECK_EQ(rig_put(&g, 1, n + 100 + i), 0);
    rig_reopen(&g);
    CHECK_EQ(rig_put(&g, 2, 0), 0);
    CHECK_EQ(match(&g, 1, first), first - GAP);
    CHECK_EQ(match(&g, 2, 1), 1);
    for (uint32_t i = 0; i < GAP; i++)
        left += rig_get(&g, 1, n + 100 + i, NULL) == 0;
    CHECK(left < GAP);
    rig_fini(&g);
}

static void the_older_session_gives_way_from_its_end(void)
{
    enum { OLD = 400, NEW = 60 };
    struct timespec pause = {1, 200000000};
    struct rig g;
    uint32_t stored = 0, there = 0;
    struct kvs_stats st;

    start(&g, 8 << 20);
    for (uint32_t n = 0; n < OLD; n++)
        stored += rig_put(&g, 1, n) == 0;
    nanosleep(&pause, NULL);
    for (uint32_t n = 0; n < NEW; n++)
        CHECK_EQ(rig_put(&g, 2, n), 0);
    kvs_stats(g.s, &st);
    CHECK(st.evicted >= NEW / 2);
    rig_reopen(&g); /* what is in memory only would blur it */
    uint32_t prefix = match(&g, 1, OLD);
    for (uint32_t n = 0; n < OLD; n++)
        there += rig_get(&g, 1, n, NULL) == 0;
    printf("    %u stored, %u left, prefix of %u\n", stored, there, prefix);
    CHECK_EQ(there, prefix); /* no block is left whose parent is gone */
    CHECK(there < stored && there + 2 * NEW > stored);
    CHECK_EQ(match(&g, 2, NEW), NEW);
    CHECK(du(g.dir) <= g.o.disk_bytes);
    rig_fini(&g);
}

static void another_layout_gets_a_segment_from_the_oldest(void)
{
    struct kvs_layout l = {.id = "other", .hot_bytes = 65536};
    struct timespec pause = {1, 200000000};
    struct rig g;
    struct rig_block b;
    uint32_t n;

    start(&g, 8 << 20);
    for (n = 0; n < 500; n++)
        (void)rig_put(&g, 1, n);
    nanosleep(&pause, NULL);
    CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), 0);
    rig_block_set(&g, &b, 5, 0);
    b.r.layout = n;
    b.r.copy = NULL;
    rig_submit(&g, &b, true);
    rig_wait(&g);
    CHECK_EQ(b.r.res, 0);
    CHECK(du(g.dir) <= g.o.disk_bytes);
    rig_fini(&g);
}

/* Also when some of its slots, but no whole file, would find room beside the others'. */
static void another_layout_is_not_left_with_what_is_over(void)
{
    enum { BLOCKS = 24 };
    struct timespec pause = {1, 200000000};

    for (uint32_t hot = 8192; hot <= 65536; hot *= 8) {
        struct kvs_layout l = {.id = "other", .hot_bytes = hot};
        uint32_t n, there = 0;
        struct rig_block b;
        struct rig g;

        start(&g, 8 << 20);
        for (n = 0; n < 500; n++)
            (void)rig_put(&g, 1, n);
        nanosleep(&pause, NULL);
        CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), 0);
        for (uint32_t i = 0; i < BLOCKS; i++) {
            rig_block_set(&g, &b, 5, i);
            b.r.layout = n;
            b.r.copy = NULL;
            rig_submit(&g, &b, true);
            rig_wait(&g);
            there += b.r.res == 0;
        }
        CHECK(there >= SEG_SLOTS_MIN);
        printf("    %u of %d with %u bytes\n", there, BLOCKS, hot);
        rig_fini(&g);
    }
}

static void past_the_day_budget_blocks_stay_in_memory(void)
{
    struct rig g;
    struct rig_block b;
    struct kvs_block_req q;
    struct kvs_stats st;
    uint64_t before;
    uint32_t n;
    int res = 0;

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.day_bytes = 100 * RIG_SLOT;
    CHECK_EQ(rig_open(&g), 0);
    for (n = 0; n < 100 && res == 0; n++) {
        res = rig_put(&g, 1, n);
        kvs_stats(g.s, &st);
        /* One count: blocks, log and index are all in both. */
        CHECK_EQ(st.today_bytes, st.bytes_written);
        CHECK(st.today_bytes >= n * RIG_SLOT);
    }
    CHECK_EQ(res, -EDQUOT);
    CHECK(n > 10 && n < 100);
    CHECK(st.today_bytes > g.o.day_bytes - 2 * RIG_SLOT);
    rig_block_set(&g, &b, 1, n);
    rig_submit(&g, &b, true);
    rig_wait(&g);
    CHECK_EQ(b.r.res, -EDQUOT);
    CHECK(b.r.in_host);
    CHECK_EQ(rig_get(&g, 1, n, &q), 0);
    CHECK_EQ(q.from, KVS_FROM_HOST);
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    kvs_stats(g.s, &st);
    before = st.today_bytes;
    rig_reopen(&g);
    CHECK_EQ(rig_put(&g, 1, n + 1), -EDQUOT); /* the day is remembered */
    kvs_stats(g.s, &st);
    CHECK(st.bytes_written < before);
    CHECK(st.today_bytes >= before);
    rig_fini(&g);
}

static void two_pages_of_memory_are_enough(void)
{
    enum { N = 60 };
    static struct rig_block b[N];
    struct rig g;

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.host_bytes = 2 * RIG_SLOT;
    CHECK_EQ(rig_open(&g), 0);
    for (int again = 0; again < 2; again++) {
        for (uint32_t n = 0; n < N; n++) {
            rig_block_set(&g, &b[n], 1, n);
            rig_submit(&g, &b[n], again == 0);
        }
        rig_wait(&g);
        for (uint32_t n = 0; n < N; n++) {
            CHECK_EQ(b[n].r.res, 0);
            CHECK(!b[n].wrong);
        }
    }
    rig_fini(&g);
}

static void equal_requests_at_once_are_one_transfer(void)
{
    enum { N = 20 };
    static struct rig_block b[N];
    struct rig g;
    struct kvs_stats st;
    int copies = 0;

    start(&g, 32 << 20);
    for (int i = 0; i < N; i++) {
        rig_block_set(&g, &b[i], 1, 0);
        rig_submit(&g, &b[i], true);
    }
    rig_wait(&g);
    for (int i = 0; i < N; i++) {
        CHECK_EQ(b[i].r.res, 0);
        copies += b[i].calls;
    }
    CHECK_EQ(copies, 1);
    rig_reopen(&g);
    for (int i = 0; i < N; i++) {
        rig_block_set(&g, &b[i], 1, 0);
        rig_submit(&g, &b[i], false);
    }
    rig_wait(&g);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.hits_file, 1);
    CHECK_EQ(st.hits_host, N - 1);
    rig_fini(&g);
}

static int refuse(struct kvs_block_req *r, void *payload)
{
    (void)r, (void)payload;
    return -EHOSTDOWN;
}

static void a_failing_copy_fails_its_request_only(void)
{
    struct rig g;
    struct rig_block b;

    start(&g, 32 << 20);
    rig_block_set(&g, &b, 1, 0);
    b.r.copy = refuse;
    rig_submit(&g, &b, true);
    rig_wait(&g);
    CHECK_EQ(b.r.res, -EHOSTDOWN);
    CHECK_EQ(rig_get(&g, 1, 0, NULL), -ENOENT);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    rig_submit(&g, &b, false);
    rig_wait(&g);
    CHECK_EQ(b.r.res, -EHOSTDOWN);
    CHECK_EQ(rig_get(&g, 1, 0, NULL), 0);
    rig_fini(&g);
}

static void other_tokens_under_the_same_key_are_a_miss(void)
{
    struct rig g;
    struct rig_block b;

    start(&g, 32 << 20);
    CHECK_EQ(rig_put(&g, 1, 0), 0);
    for (int again = 0; again < 2; again++) {
        rig_block_set(&g, &b, 1, 0);
        b.r.ids[17]++;
        rig_submit(&g, &b, false);
        rig_wait(&g);
        CHECK_EQ(b.r.res, -ENOENT);
        CHECK(b.r.corrupt);
        CHECK_EQ(b.calls, 0);
        rig_reopen(&g);
    }
    rig_fini(&g);
}

/* --- a disk that is really full ----------------------------------------------------------------- */

static void fill(const char *dir, uint64_t leave)
{
    char path[512];

    snprintf(path, sizeof path, "%s/../filler", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    uint8_t page[4096];
    memset(page, 1, sizeof page);
    while (write(fd, page, sizeof page) == sizeof page)
        ;
    off_t end = lseek(fd, 0, SEEK_END);
    if (ftruncate(fd, end > (off_t)leave ? end - (off_t)leave : 0) < 0)
        abort();
    close(fd);
}

static void unfill(const char *dir)
{
    char path[512];

    snprintf(path, sizeof path, "%s/../filler", dir);
    (void)unlink(path);
}

struct full { /* a store on a disk of its own that is really full but for leave bytes */
    struct rig g;
    char mnt[300];
    uint64_t talked;
};

static void full_fill(struct full *f, enum kvs_io io, uint64_t leave)
{
    int went = 0, refused = 0;

    rig_init(&f->g, io, false);
    snprintf(f->mnt, sizeof f->mnt, "%s", f->g.dir);
    if (mount("none", f->mnt, "tmpfs", 0, "size=12m,mode=0700") < 0) {
        rig_rm(f->mnt);
        t_skip("mounting a tmpfs is not allowed here");
    }
    snprintf(f->g.dir, sizeof f->g.dir, "%.240s/store", f->mnt);
    f->g.o.disk_bytes = 64 << 20; /* more than there is */
    CHECK_EQ(rig_open(&f->g), 0);
    for (uint32_t n = 0; n < 20; n++)
        CHECK_EQ(rig_put(&f->g, 1, n), 0);
    CHECK_EQ(rig_talk(&f->g, 1, 0, 500), 0);
    f->talked = 500;
    fill(f->g.dir, leave);
    for (uint32_t n = 20; n < 700; n++) {
        int r = rig_put(&f->g, 1, n);
        CHECK(r == 0 || r == -ENOSPC || r == E_LIMIT); /* of a new file, or of all of them */
        refused += r < 0;
        if (n % 4 == 0) {
            r = rig_talk(&f->g, 1, f->talked, f->talked + 2000);
            CHECK(r == 0 || r == -ENOSPC);
            if (r == 0) {
                f->talked += 2000;
                went++;
            }
        }
    }
    CHECK(refused > 0);
    CHECK(rig_tokens_ok(&f->g, 1, f->talked));
    unfill(f->g.dir);
    printf("    %llu bytes left: %d of 170 turns went, %d blocks refused\n",
           (unsigned long long)leave, went, refused);
}

static void full_heals(struct full *f)
{
    struct kvs_stats st;

    CHECK_EQ(rig_talk(&f->g, 1, f->talked, f->talked + 100), 0);
    f->talked += 100;
    CHECK_EQ(rig_put(&f->g, 2, 0), 0);
    kvs_stats(f->g.s, &st);
    CHECK_EQ(st.fault, 0);
    rig_reopen(&f->g);
    CHECK(!f->g.rep.rebuilt);
    CHECK(rig_tokens_ok(&f->g, 1, f->talked));
    CHECK_EQ(rig_get(&f->g, 2, 0, NULL), 0);
    rig_close(&f->g);
    umount2(f->mnt, MNT_DETACH);
    rig_rm(f->mnt);
}

static void a_full_disk_is_survived_and_left_without_a_restart(void)
{
    static const uint64_t leave[] = {0, 4096, 65536, 300000, 700000, 1500000};
    enum { N = 2 * sizeof leave / sizeof *leave };
    static struct full f[N];
    struct timespec pause = {2, 100000000}; /* how long a refused segment is not asked for */

    for (unsigned i = 0; i < N; i++)
        full_fill(&f[i], i % 2 ? KVS_IO_THREADS : KVS_IO_AUTO, leave[i / 2]);
    nanosleep(&pause, NULL); /* once for all of them */
    for (unsigned i = 0; i < N; i++)
        full_heals(&f[i]);
}

#define ROW(name)                                                                              \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(ROW(two_processes_cannot_have_one_store),
       ROW(a_directory_that_cannot_be_is_refused_in_words), ROW(layouts_say_what_does_not_fit),
       ROW(the_limit_is_never_passed_and_a_long_session_keeps_its_beginning),
       ROW(a_session_written_slowly_keeps_its_beginning),
       ROW(the_older_session_gives_way_from_its_end),
       ROW(another_layout_gets_a_segment_from_the_oldest),
       ROW(another_layout_is_not_left_with_what_is_over),
       ROW(past_the_day_budget_blocks_stay_in_memory), ROW(two_pages_of_memory_are_enough),
       ROW(equal_requests_at_once_are_one_transfer), ROW(a_failing_copy_fails_its_request_only),
       ROW(other_tokens_under_the_same_key_are_a_miss),
       ROW(a_full_disk_is_survived_and_left_without_a_restart))
