/* test_segs.c - files of blocks that cannot be read, are hurt or are somebody else's: they cost
 * their blocks, never the start, and nothing that could not be read is touched. */
#include "kvstore/seg.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCKS = 80, NOBODY = 65534 };

static void path_of(const struct rig *g, uint32_t number, char ret[512])
{
    snprintf(ret, 512, "%s/kv/test/seg-%04u", g->dir, number);
}

/* Blocks [0, n) of a chain, all at once; odd: every other one. */
static void put_many(struct rig *g, uint64_t seed, uint32_t n, bool odd)
{
    static struct rig_block b[BLOCKS];

    for (uint32_t i = odd; i < n; i += 1 + odd) {
        rig_block_set(g, &b[i], seed, i);
        rig_submit(g, &b[i], true);
    }
    rig_wait(g);
    for (uint32_t i = odd; i < n; i += 1 + odd)
        CHECK_EQ(b[i].r.res, 0);
}

/* A store with three segments, cleanly closed; as root, under a user who may be refused. */
static void make(struct rig *g)
{
    rig_init(g, KVS_IO_THREADS, true);
    if (geteuid() == 0) {
        CHECK_EQ(chown(g->dir, NOBODY, NOBODY), 0);
        CHECK_EQ(seteuid(NOBODY), 0);
        CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0); /* else its own /proc/self is not its own */
    }
    g->o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(g), 0);
    put_many(g, 1, BLOCKS, false);
    rig_close(g);
}

static void unmake(struct rig *g)
{
    rig_close(g);
    if (getuid() == 0)
        CHECK_EQ(seteuid(0), 0);
    rig_rm(g->dir);
}

static int blocks_there(struct rig *g)
{
    int n = 0;

    for (uint32_t i = 0; i < BLOCKS; i++) {
        int r = rig_get(g, 1, i, NULL);
        CHECK(r == 0 || r == -ENOENT);
        n += r == 0;
    }
    return n;
}

/* Whether a note names the file and says this; prints it. */
static bool said(struct rig *g, const char *file, const char *words)
{
    char note[512];
    bool yes = false;

    while (kvs_note(g->s, note, sizeof note)) {
        printf("    %s\n", note);
        yes |= strstr(note, file) && strstr(note, words);
    }
    return yes;
}

static uint64_t sum(const char *path)
{
    uint64_t h = 0;
    uint8_t b[4096];
    int fd = open(path, O_RDONLY);

    for (ssize_t n; fd >= 0 && (n = read(fd, b, sizeof b)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            h = h * 31 + b[i];
    if (fd >= 0)
        close(fd);
    return h;
}

/* --- what cannot be read ------------------------------------------------------------------------ */

static void mode_000(const char *path)
{
    CHECK_EQ(chmod(path, 0), 0);
}
static void mode_back(const char *path)
{
    CHECK_EQ(chmod(path, 0600), 0);
}
/* STORE/kv/test/seg-N to STORE/away, and back. */
static void away_of(const char *path, char ret[512])
{
    snprintf(ret, 512, "%s", path);
    snprintf(strstr(ret, "/kv/test/"), 8, "/away");
}
static void away(const char *path)
{
    char to[512];

    away_of(path, to);
    CHECK_EQ(rename(path, to), 0);
}
static void back(const char *path)
{
    char from[512];

    away_of(path, from);
    CHECK_EQ(remove(path), 0);
    CHECK_EQ(rename(from, path), 0);
}
static void a_directory(const char *path)
{
    away(path);
    CHECK_EQ(mkdir(path, 0700), 0);
}
/* Reading it fails with EIO, as a dying disk's would. */
static void eio(const char *path)
{
    away(path);
    CHECK_EQ(symlink("/proc/self/mem", path), 0);
}
static void a_pipe(const char *path)
{
    away(path);
    CHECK_EQ(mkfifo(path, 0600), 0);
}

static const struct {
    const char *name, *words;
    void (*hide)(const char *path), (*show)(const char *path);
} hidden[] = {
    {"mode 000", "Permission denied", mode_000, mode_back},
    {"a directory", "Is a directory", a_directory, back},
    {"EIO", "Input/output error", eio, back},
    {"a pipe", "put the file back", a_pipe, back},
};

static void a_file_that_cannot_be_read_costs_its_blocks_for_one_run(void)
{
    for (unsigned i = 0; i < sizeof hidden / sizeof *hidden; i++)
        for (int crash = 0; crash < 2; crash++) {
            struct rig g;
            char path[512], idx[512];
            struct stat st;

            make(&g);
            path_of(&g, 2, path);
            uint64_t was = sum(path);
            hidden[i].hide(path);
            if (crash) { /* the index goes too: the slots are all there is */
                snprintf(idx, sizeof idx, "%s/index.mdb", g.dir);
                CHECK_EQ(unlink(idx), 0);
            }
            rig_reopen(&g);
            CHECK_EQ(g.rep.segs_unread, 1);
            if (!said(&g, "seg-0002", hidden[i].words))
                t_fail(__FILE__, __LINE__, "%s: nothing is said", hidden[i].name);
            int some = blocks_there(&g);
            CHECK(some > BLOCKS / 3 && some < BLOCKS);
            put_many(&g, 1, BLOCKS, true); /* recomputed, in new segments too */
            put_many(&g, 2, 60, false);
            rig_close(&g);
            CHECK_EQ(lstat(path, &st), 0);
            hidden[i].show(path);
            CHECK_EQ(sum(path), was);
            rig_reopen(&g);
            CHECK_EQ(g.rep.segs_unread, 0);
            CHECK_EQ(blocks_there(&g), BLOCKS);
            for (uint32_t n = 0; n < 60; n++)
                CHECK_EQ(rig_get(&g, 2, n, NULL), 0);
            unmake(&g);
        }
}

static void a_folder_that_cannot_be_listed_is_left_alone(void)
{
    static const mode_t modes[] = {0, 0300};

    for (unsigned i = 0; i < 2; i++) {
        struct rig g;
        char path[512], seg[512];

        make(&g);
        snprintf(path, sizeof path, "%s/kv/test", g.dir);
        path_of(&g, 1, seg);
        uint64_t was = sum(seg);
        CHECK_EQ(chmod(path, modes[i]),
                 0); /* 0300: what is in it can be replaced all the same */
        rig_reopen(&g);
        CHECK(g.rep.segs_unread > 0);
        CHECK(said(&g, "kv/test", "Permission denied"));
        CHECK_EQ(blocks_there(&g), 0);
        CHECK_EQ(rig_put(&g, 1, 0), -EACCES);
        CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
        rig_close(&g);
        CHECK_EQ(chmod(path, 0700), 0);
        CHECK_EQ(sum(seg), was);
        rig_reopen(&g);
        CHECK_EQ(blocks_there(&g), BLOCKS);
        unmake(&g);
    }
}

/* --- lock files ---------------------------------------------------------------------------------- */

static void as_pipe(const char *path)
{
    (void)unlink(path);
    CHECK_EQ(mkfifo(path, 0600), 0);
}
static void as_dir(const char *path)
{
    (void)unlink(path);
    CHECK_EQ(mkdir(path, 0700), 0);
}
static void as_000(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);

    CHECK(fd >= 0 && chmod(path, 0) == 0);
    close(fd);
}

static void a_lock_file_that_cannot_be_had_is_blamed_itself(void)
{
    static const char *const name[] = {"store.lock", "index.mdb-lock"};
    static const struct {
        const char *words;
        void (*make)(const char *path);
    } row[] = {
        {"Permission denied", as_000}, {"is a directory", as_dir}, {"is a pipe", as_pipe}};
    struct rig g;

    make(&g);
    for (unsigned i = 0; i < 6; i++) {
        char path[512];

        snprintf(path, sizeof path, "%s/%s", g.dir, name[i / 3]);
        row[i % 3].make(path);
        CHECK(rig_open(&g) < 0);
        if (!strstr(g.eb.s, path) || !strstr(g.eb.s, row[i % 3].words) ||
            !strstr(g.eb.s, "made again"))
            t_fail(__FILE__, __LINE__, "%s: %s", path, g.eb.s);
        g.eb.s[0] = 0;
        CHECK_EQ(remove(path), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(blocks_there(&g), BLOCKS);
        rig_close(&g);
    }
    unmake(&g);
}

/* --- kv/ as a whole, and what is taken away ------------------------------------------------------ */

static void kv_of(const struct rig *g, char ret[512])
{
    snprintf(ret, 512, "%s/kv", g->dir);
}

static bool files_off(struct rig *g)
{
    struct kvs_stats st;

    kvs_stats(g->s, &st);
    return st.files_off;
}

static void kv_mode(const char *kv, bool hide)
{
    CHECK_EQ(chmod(kv, hide ? 0 : 0700), 0);
}
/* What is in it could be replaced all the same. */
static void kv_list(const char *kv, bool hide)
{
    CHECK_EQ(chmod(kv, hide ? 0300 : 0700), 0);
}
/* STORE/kv to STORE/moved, and something of another kind in its place. */
static void kv_file(const char *kv, bool hide)
{
    char to[600];

    snprintf(to, sizeof to, "%.500s/../moved", kv);
    if (hide) {
        CHECK_EQ(rename(kv, to), 0);
        int fd = open(kv, O_WRONLY | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && write(fd, "mine", 4) == 4);
        close(fd);
    } else {
        char b[5] = "";
        int fd = open(kv, O_RDONLY);
        CHECK(fd >= 0 && read(fd, b, 4) == 4);
        close(fd);
        CHECK_STR(b, "mine");
        snprintf(to, sizeof to, "%s", kv);
        snprintf(strrchr(to, '/'), 8, "/moved");
        CHECK_EQ(unlink(kv), 0);
        CHECK_EQ(rename(to, kv), 0);
    }
}
static void kv_nowhere(const char *kv, bool hide)
{
    char to[600];

    snprintf(to, sizeof to, "%s", kv);
    snprintf(strrchr(to, '/'), 8, "/moved");
    if (hide) {
        CHECK_EQ(rename(kv, to), 0);
        CHECK_EQ(symlink("/nowhere/at/all", kv), 0);
    } else {
        CHECK_EQ(unlink(kv), 0);
        CHECK_EQ(rename(to, kv), 0);
    }
}

static void a_kv_that_cannot_be_read_costs_blocks_and_not_the_start(void)
{
    static const struct {
        const char *words;
        int why;
        void (*hide)(const char *kv, bool hide);
    } row[] = {{"Permission denied", -EACCES, kv_mode},
               {"Permission denied", -EACCES, kv_list},
               {"Not a directory", -ENOTDIR, kv_file},
               {"No such file", -ENOENT, kv_nowhere}};

    for (unsigned i = 0; i < 4; i++)
        for (int lost = 0; lost < 2; lost++) { /* the index as well, or not */
            struct rig g;
            char kv[512], idx[512], seg[512];

            make(&g);
            CHECK_EQ(rig_open(&g), 0);
            CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
            rig_close(&g);
            kv_of(&g, kv);
            path_of(&g, 1, seg);
            uint64_t was = sum(seg);
            snprintf(idx, sizeof idx, "%s/index.mdb", g.dir);
            row[i].hide(kv, true);
            if (lost)
                CHECK_EQ(unlink(idx), 0);
            CHECK_EQ(rig_open(&g), 0);
            CHECK(said(&g, "/kv ", row[i].words));
            CHECK(files_off(&g));
            CHECK_EQ(blocks_there(&g), 0);
            CHECK_EQ(rig_put(&g, 1, 0), row[i].why);
            CHECK(rig_tokens_ok(&g, 1, 10));
            CHECK_EQ(rig_talk(&g, 1, 10, 20), 0);
            rig_close(&g);
            row[i].hide(kv, false);
            CHECK_EQ(sum(seg), was);
            CHECK_EQ(rig_open(&g), 0);
            CHECK(!files_off(&g));
            CHECK_EQ(blocks_there(&g), BLOCKS);
            CHECK(rig_tokens_ok(&g, 1, 20));
            unmake(&g);
        }
}

/* Turns the store until a note says so. */
static bool comes(struct rig *g, const char *file, const char *words)
{
    for (int i = 0; i < 6000 * T_SLOWER; i++) {
        if (!g->threads)
            rig_turn(g);
        if (said(g, file, words))
            return true;
        usleep(5000);
    }
    return false;
}

static void take_file(const char *dir, const char *to)
{
    char path[600];

    snprintf(path, sizeof path, "%.500s/kv/test/seg-0002", dir);
    CHECK_EQ(rename(path, to), 0);
}
static void take_folder(const char *dir, const char *to)
{
    char path[600];

    snprintf(path, sizeof path, "%.500s/kv/test", dir);
    CHECK_EQ(rename(path, to), 0);
}
static void take_all(const char *dir, const char *to)
{
    char path[600];

    snprintf(path, sizeof path, "%.500s/kv", dir);
    CHECK_EQ(rename(path, to), 0);
}

/* Another's file in the place of a segment is nobody's to write to, or to remove. */
static void put_other(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

    CHECK(fd >= 0 && write(fd, "other", 5) == 5);
    close(fd);
}

static void blocks_taken_away_while_it_runs_are_said_and_computed_again(void)
{
    static void (*const take[])(const char *dir, const char *to) = {take_file, take_folder,
                                                                    take_all};

    for (int i = 0; i < 4; i++) {
        struct rig g;
        char to[512], seg[512];
        struct kvs_stats st;
        struct stat was;

        make(&g);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
        snprintf(to, sizeof to, "%s/taken", g.dir);
        path_of(&g, 2, seg);
        take[i % 3](g.dir, to);
        if (i == 3)
            put_other(seg);
        CHECK(comes(&g, i % 3 ? "seg-0001" : "seg-0002", "while in use"));
        int some = blocks_there(&g);
        CHECK(i % 3 ? some == 0 : some > BLOCKS / 3 && some < BLOCKS);
        put_many(&g, 1, BLOCKS, false); /* into new files */
        CHECK_EQ(blocks_there(&g), BLOCKS);
        CHECK(rig_tokens_ok(&g, 1, 10));
        kvs_stats(g.s, &st);
        CHECK(!st.files_off && st.fault == 0);
        CHECK(st.file_allocated <= st.file_limit);
        if (i == 3) {
            CHECK(stat(seg, &was) == 0 && was.st_size == 5);
            CHECK_EQ(unlink(seg), 0);
        }
        rig_reopen(&g);
        CHECK_EQ(blocks_there(&g), BLOCKS);
        unmake(&g);
    }
}

static void blocks_that_come_back_are_there_again(void)
{
    struct rig g;
    char to[512], seg[512];

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    snprintf(to, sizeof to, "%s/taken", g.dir);
    path_of(&g, 2, seg);
    take_file(g.dir, to);
    CHECK(comes(&g, "seg-0002", "put back"));
    rig_close(&g);
    CHECK_EQ(rename(to, seg), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(blocks_there(&g), BLOCKS);
    unmake(&g);
}

static void blocks_taken_away_between_two_runs_are_said(void)
{
    static void (*const take[])(const char *dir, const char *to) = {take_file, take_folder,
                                                                    take_all};

    for (int i = 0; i < 3; i++) {
        struct rig g;
        char to[512];

        make(&g);
        snprintf(to, sizeof to, "%s/taken", g.dir);
        take[i](g.dir, to);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(said(&g, i ? "/kv" : "seg-0002", "with them since the last run"));
        put_many(&g, 1, BLOCKS, false);
        rig_reopen(&g);
        CHECK(!said(&g, "kv", "since the last run"));
        CHECK_EQ(blocks_there(&g), BLOCKS);
        unmake(&g);
    }
}

static void files_that_cannot_be_made_are_said_until_they_can(void)
{
    struct rig g;
    char kv[512];

    rig_init(&g, KVS_IO_THREADS, true);
    CHECK_EQ(rig_open(&g), 0);
    kv_of(&g, kv);
    CHECK_EQ(rmdir(kv), 0);
    put_other(kv);
    CHECK_EQ(rig_put(&g, 1, 0), -ENOTDIR);
    CHECK(files_off(&g));
    CHECK(said(&g, "/kv/test", "no file of blocks can be made"));
    CHECK_EQ(unlink(kv), 0);
    for (uint32_t n = 1; files_off(&g) && n < 3000 * T_SLOWER; n++) {
        (void)rig_put(&g, 1, n);
        usleep(10000);
    }
    CHECK(!files_off(&g));
    CHECK(said(&g, "files of blocks", "can be made again"));
    CHECK_EQ(rig_put(&g, 2, 0), 0);
    rig_fini(&g);
}

/* So many that the next one would be one too many; 0: as they were. */
static void few_files(int most)
{
    static struct rlimit was;
    struct rlimit few;

    if (was.rlim_cur == 0)
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){most ? (rlim_t)most : was.rlim_cur, was.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
}

/* Which says nothing about a file: no block is given up, nothing is called a full disk, and what was
 * said is over when it is. */
static void too_few_descriptors_cost_nothing_for_longer_than_they_are(void)
{
    struct rig g;
    char note[1024];

    make(&g);
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    int next = dup(0);
    close(next);
    few_files(next);
    CHECK_EQ(rig_get(&g, 1, 3, NULL), -ENOENT);
    CHECK_EQ(rig_get(&g, 1, 40, NULL), -ENOENT);
    CHECK(files_off(&g));
    CHECK_EQ(kvs_note(g.s, note, sizeof note), KVS_NOTE_BEGINS);
    CHECK(strstr(note, "Too many open files") && strstr(note, "LimitNOFILE"));
    CHECK_EQ(rig_put(&g, 2, 0), -EMFILE);
    CHECK(!kvs_note(g.s, note,
                    sizeof note)); /* once: no disk is blamed, and no file left alone */
    few_files(0);
    CHECK(comes(&g, "files of blocks", "again"));
    CHECK(!files_off(&g));
    CHECK_EQ(blocks_there(&g), BLOCKS);
    CHECK_EQ(rig_put(&g, 2, 0), 0);
    rig_reopen(&g);
    CHECK_EQ(blocks_there(&g), BLOCKS);
    CHECK_EQ(rig_get(&g, 2, 0, NULL), 0);
    unmake(&g);
}

/* As long as one may not grow: neither that nor the reason for it is a full disk. */
static void a_file_that_may_not_be_so_large_is_no_full_disk(void)
{
    struct rlimit was, small;
    struct kvs_stats st;
    struct rig g;

    rig_init(&g, KVS_IO_THREADS, true);
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, SIG_IGN);
    small = (struct rlimit){4096, was.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_EQ(rig_put(&g, 1, 0), -EFBIG);
    CHECK_EQ(rig_talk(&g, 1, 0, 400000), -EFBIG);
    kvs_stats(g.s, &st);
    CHECK(st.fault == -ENOSPC && st.full_why == -EFBIG);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &was), 0);
    rig_fini(&g);
}

static _Atomic bool disk_fails;
static int on_read(void *user, const struct io_req *q, uint32_t *len)
{
    (void)user, (void)len;
    return disk_fails && q->op == IO_READ ? -EIO : 0;
}

static void a_disk_that_does_not_answer_costs_no_row(void)
{
    struct rig g;

    make(&g);
    g.env.io_fault = on_read;
    disk_fails = true;
    rig_reopen(&g);
    CHECK_EQ(rig_get(&g, 1, 3, NULL), -ENOENT);
    CHECK_EQ(rig_get(&g, 1, 3, NULL), -ENOENT);
    CHECK(said(&g, "seg-0001", "Input/output error"));
    disk_fails = false;
    CHECK_EQ(rig_get(&g, 1, 4, NULL), 0);
    CHECK_EQ(rig_get(&g, 1, 3, NULL), -ENOENT); /* never tried again in this run */
    rig_reopen(&g);
    CHECK_EQ(blocks_there(&g), BLOCKS);
    unmake(&g);
}

/* --- what is hurt --------------------------------------------------------------------------------- */

static void flip(const char *path, off_t at, int bytes)
{
    uint8_t b;
    int fd = open(path, O_RDWR);

    for (int i = 0; i < bytes; i++) {
        CHECK_EQ(pread(fd, &b, 1, at + i), 1);
        b ^= 0xff;
        CHECK_EQ(pwrite(fd, &b, 1, at + i), 1);
    }
    close(fd);
}

static off_t size_of(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? 0 : st.st_size;
}

static void any_flipped_byte_of_a_header_is_mended_from_its_copy(void)
{
    /* magic, version, CRC, uuid, layout, sizes, slots, number, the rest */
    static const off_t at[] = {0, 8, 12, 20, 33, 100, 120, 124, 4000};

    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) {
        struct rig g;
        char path[512];

        make(&g);
        path_of(&g, 3, path);
        uint64_t was = sum(path);
        flip(path, at[i], 1);
        flip(path, 4096, 4096); /* and the first slot, which was all that spoke before */
        rig_reopen(&g);
        CHECK(said(&g, "seg-0003", "its copy"));
        CHECK_EQ(g.rep.file_largest, (uint64_t)size_of(path));
        CHECK(blocks_there(&g) >= BLOCKS - 1);
        rig_close(&g);
        flip(path, 4096, 4096);
        CHECK_EQ(sum(path), was);
        unmake(&g);
    }
}

/* Nor is a header that is hurt in it written again, from its copy or from a slot. */
static void anothers_file_is_not_replaced_or_mended(void)
{
    for (int hurt = 0; hurt < 3; hurt++) {
        struct rig g, h;
        char path[512], theirs[512], cmd[1400];

        make(&h);
        make(&g);
        path_of(&g, 1, path);
        path_of(&h, 1, theirs);
        if (hurt > 0)
            flip(theirs, 100, 8);
        if (hurt > 1)
            flip(theirs, size_of(theirs) - 4096, 8);
        uint64_t was = sum(theirs);
        snprintf(cmd, sizeof cmd, "rm %s/kv/test/* && cp -p %s %s", g.dir, theirs, path);
        CHECK_EQ(system(cmd), 0);
        rig_reopen(&g);
        CHECK_EQ(blocks_there(&g), 0);
        CHECK(said(&g, "seg-0001", "another store"));
        put_many(&g, 1, BLOCKS, false);
        rig_reopen(&g);
        CHECK_EQ(blocks_there(&g), BLOCKS);
        CHECK_EQ(sum(path), was);
        unmake(&g);
        unmake(&h);
    }
}

/* Renamed, swapped or copied, also with a hurt header: it is called that, and by the name that it
 * belongs under it is whole again. */
static void this_stores_own_under_another_name_is_called_that(void)
{
    for (int how = 0; how < 10; how++) {
        struct rig g;
        char one[512], two[512], nine[512], cmd[1400], folder[512];

        make(&g);
        path_of(&g, 1, one);
        path_of(&g, 2, two);
        path_of(&g, 9, nine);
        snprintf(folder, sizeof folder, "%s/kv/other", g.dir);
        if (how % 2)
            flip(one, 100, 8);
        switch (how / 2) {
        case 0: CHECK_EQ(rename(one, nine), 0); break;
        case 1: snprintf(cmd, sizeof cmd, "cp -p %s %s", one, nine); break;
        case 2:
            snprintf(cmd, sizeof cmd,
                     "cd %s/kv/test && mv seg-0001 x && mv seg-0002 "
                     "seg-0001 && mv x seg-0002",
                     g.dir);
            break;
        case 3: snprintf(cmd, sizeof cmd, "cd %s/kv && mv test other", g.dir); break;
        default: snprintf(cmd, sizeof cmd, "cd %s/kv && cp -rp test other", g.dir);
        }
        if (how / 2)
            CHECK_EQ(system(cmd), 0);
        rig_reopen(&g);
        char note[2048], all[8192] = "";
        while (kvs_note(g.s, note, sizeof note))
            snprintf(all + strlen(all), sizeof all - strlen(all), "%s\n", note);
        printf("%d: %s", how, all);
        bool copy = how / 2 == 1 || how / 2 == 4;
        CHECK(strstr(all, copy ? "is a copy of this store's" : "rename it back"));
        CHECK(!strstr(all, "another store") && !strstr(all, "since the last run"));
        CHECK(how / 2 != 2 || strstr(all, "what has that name now"));
        CHECK((blocks_there(&g) == BLOCKS) == copy);
        put_many(&g, 1, BLOCKS, false);
        rig_close(&g);
        if (how / 2 == 0)
            CHECK_EQ(rename(nine, one), 0);
        if (how / 2 == 2)
            CHECK_EQ(system(cmd), 0);
        if (how / 2 == 3) {
            snprintf(cmd, sizeof cmd, "cd %s/kv && mv other/* test", g.dir);
            CHECK_EQ(system(cmd), 0);
        }
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(blocks_there(&g), BLOCKS);
        CHECK_EQ(g.rep.blocks_dropped, 0);
        unmake(&g);
    }
}

/* Else it would be of no use on the day that the first one is hurt. */
static void after_a_kill_the_second_header_is_mended(void)
{
    struct rig g, killed;
    char path[512];

    make(&g);
    CHECK_EQ(rig_open(&g), 0);
    killed = g;
    snprintf(killed.dir, sizeof killed.dir, "%.200s-killed", g.dir);
    killed.o.dir = killed.dir;
    killed.s = NULL;
    CHECK_EQ(rig_cp(g.dir, killed.dir), 0);
    path_of(&killed, 3, path);
    uint64_t was = sum(path);
    flip(path, size_of(path) - 4096 + 100, 8);
    CHECK_EQ(rig_open(&killed), 0);
    CHECK(!killed.rep.clean);
    CHECK_EQ(blocks_there(&killed), BLOCKS);
    rig_close(&killed);
    CHECK_EQ(sum(path), was);
    rig_rm(killed.dir);
    unmake(&g);
}

static void a_header_hurt_in_both_copies_is_mended_from_any_slot(void)
{
    struct rig g;
    char path[512];

    make(&g);
    path_of(&g, 1, path);
    uint64_t was = sum(path);
    flip(path, 100, 8);
    flip(path, size_of(path) - 4096, 8);
    flip(path, 4096, 8); /* the first slot does not speak any more */
    rig_reopen(&g);
    CHECK(said(&g, "seg-0001", "a slot"));
    CHECK_EQ(blocks_there(&g), BLOCKS - 1);
    rig_close(&g);
    flip(path, 4096, 8);
    CHECK_EQ(sum(path), was); /* both copies are back */
    unmake(&g);
}

static void a_file_in_which_nothing_speaks_is_set_aside(void)
{
    struct rig g;
    char path[512], dir[300], aside[600] = "", cmd[700];
    struct kvs_stats st;
    struct dirent *e;

    make(&g);
    path_of(&g, 1, path);
    snprintf(cmd, sizeof cmd, "head -c %lld /dev/urandom > %s", (long long)size_of(path), path);
    CHECK_EQ(system(cmd), 0);
    uint64_t was = sum(path), each = (uint64_t)size_of(path);
    rig_reopen(&g);
    CHECK(said(&g, "seg-0001", "set aside as seg-0001.bad-"));
    kvs_stats(g.s, &st);
    CHECK(st.file_allocated >= 3 * each); /* it takes its space all the same */
    int some = blocks_there(&g);
    CHECK(some > 0 && some < BLOCKS);
    put_many(&g, 1, BLOCKS, false);
    rig_reopen(&g);
    CHECK_EQ(blocks_there(&g), BLOCKS);
    snprintf(dir, sizeof dir, "%s/kv/test", g.dir);
    DIR *d = opendir(dir);
    while ((e = readdir(d)))
        if (strstr(e->d_name, ".bad-"))
            snprintf(aside, sizeof aside, "%s/%s", dir, e->d_name);
    closedir(d);
    CHECK_EQ(sum(aside), was);
    unmake(&g);
}

static void a_file_cut_short_keeps_what_it_holds_and_its_rows(void)
{
    struct rig g;
    char path[512], copy[800];

    make(&g);
    path_of(&g, 1, path);
    snprintf(copy, sizeof copy, "cp -p %s %s/whole", path, g.dir);
    CHECK_EQ(system(copy), 0);
    CHECK_EQ(truncate(path, 4096 + 10 * RIG_SLOT + 5000), 0);
    rig_reopen(&g);
    CHECK(said(&g, "seg-0001", "cut short"));
    int some = blocks_there(&g);
    CHECK(some >= 10 && some < BLOCKS);
    rig_close(&g);
    CHECK_EQ(size_of(path), 4096 + 10 * RIG_SLOT + 5000);
    snprintf(copy, sizeof copy, "%s/whole", g.dir);
    CHECK_EQ(rename(copy, path), 0); /* found again in a backup */
    rig_reopen(&g);
    CHECK_EQ(blocks_there(&g), BLOCKS);
    unmake(&g);
}

static void files_with_one_header_open_as_ever(void)
{
    struct rig g;
    char path[512], note[512];

    make(&g);
    for (uint32_t n = 1; n <= 3; n++) {
        path_of(&g, n, path);
        CHECK_EQ(truncate(path, size_of(path) - SEG_HEAD_BYTES), 0);
    }
    rig_reopen(&g);
    CHECK(!kvs_note(g.s, note, sizeof note));
    CHECK_EQ(blocks_there(&g), BLOCKS);
    rig_close(&g);
    flip(path, 0, 16); /* a slot still speaks for it */
    rig_reopen(&g);
    CHECK(said(&g, "seg-0003", "a slot"));
    CHECK_EQ(blocks_there(&g), BLOCKS);
    unmake(&g);
}

#define ROW(name)                                                                              \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(ROW(a_lock_file_that_cannot_be_had_is_blamed_itself),
       ROW(a_kv_that_cannot_be_read_costs_blocks_and_not_the_start),
       ROW(blocks_taken_away_while_it_runs_are_said_and_computed_again),
       ROW(blocks_that_come_back_are_there_again),
       ROW(blocks_taken_away_between_two_runs_are_said),
       ROW(files_that_cannot_be_made_are_said_until_they_can),
       ROW(a_file_that_cannot_be_read_costs_its_blocks_for_one_run),
       ROW(a_folder_that_cannot_be_listed_is_left_alone),
       ROW(anothers_file_is_not_replaced_or_mended),
       ROW(this_stores_own_under_another_name_is_called_that),
       ROW(a_disk_that_does_not_answer_costs_no_row),
       ROW(too_few_descriptors_cost_nothing_for_longer_than_they_are),
       ROW(a_file_that_may_not_be_so_large_is_no_full_disk),
       ROW(any_flipped_byte_of_a_header_is_mended_from_its_copy),
       ROW(after_a_kill_the_second_header_is_mended),
       ROW(a_header_hurt_in_both_copies_is_mended_from_any_slot),
       ROW(a_file_in_which_nothing_speaks_is_set_aside),
       ROW(a_file_cut_short_keeps_what_it_holds_and_its_rows),
       ROW(files_with_one_header_open_as_ever))
