/* test_logfiles.c - files of the turn log that somebody renamed, put beside them, or blew up: what
 * they hold is found, and none of them hides the others. */
#include "kvstore/logfile.h"
#include "kvstore/store.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static struct rig g;
static char words[4000];

static char *in_log(const char *name, char ret[512])
{
    snprintf(ret, 512, "%.250s/log/%s", g.dir, name);
    return ret;
}

static void touched(const char *name, off_t bytes)
{
    char path[512];
    int fd = open(in_log(name, path), O_WRONLY | O_CREAT | O_EXCL, 0600);

    CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
    close(fd);
}

static bool is_there(const char *name)
{
    char path[512];

    return access(in_log(name, path), F_OK) == 0;
}

static void copied(const char *from, const char *to)
{
    char a[512], b[512];

    CHECK_EQ(rig_cp(in_log(from, a), in_log(to, b)), 0);
}

static void renamed(const char *from, const char *to)
{
    char a[512], b[512];

    CHECK_EQ(rename(in_log(from, a), in_log(to, b)), 0);
}

/* With what hurt_make wrote, and what the case has added since under 50.  How many sessions are
 * marked because something that nobody can read may have been theirs. */
static int opens_marked(const char *what, uint64_t more)
{
    int marked = 0;

    g.eb.s[0] = 0;
    int r = rig_open(&g);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "%s: %d: %s", what, r, g.eb.s);
    CHECK_EQ(hurt_marked(&g, what, &marked), 0);
    hurt_notes(&g, words, sizeof words);
    if (more && !rig_tokens_ok(&g, 50, more))
        t_fail(__FILE__, __LINE__, "%s: tokens are missing: %s", what, words);
    return marked;
}

static void opens_whole(const char *what, uint64_t more)
{
    CHECK_EQ(opens_marked(what, more), 0);
}

/* --- names ---------------------------------------------------------------------------------------- */

/* Their numbers are those of files that are there: a start read these in their place. */
static void a_name_that_is_not_just_ours_is_left_alone(void)
{
    static const char *const near[] = {
        "seg-1",     "seg-2", "seg-00002", "seg-+002",      "seg-0001.copy",
        "seg-0001x", "seg-",  "seg-3.tmp", "seg-notes.tmp", "seg-4294967296"};
    enum { NEAR = sizeof near / sizeof *near };

    for (int no_index = 0; no_index < 2; no_index++) {
        hurt_make(&g);
        for (int i = 0; i < NEAR; i++)
            copied("seg-0001", near[i]);
        if (no_index)
            rig_no_index(&g);
        opens_whole("near names", 0);
        if (!no_index)
            CHECK(g.rep.clean && !words[0]);
        rig_close(&g);
        for (int i = 0; i < NEAR; i++)
            if (!is_there(near[i]))
                t_fail(__FILE__, __LINE__, "%s is gone", near[i]);
        rig_fini(&g);
    }
}

/* Each file that is there has a number that is listed. */
static void all_are_listed(const char *what)
{
    struct log_file *v;
    uint32_t n;
    char dir[512];

    hurt_path(&g, "log", dir);
    CHECK_EQ(log_files(dir, false, &v, &n, &g.eb), 0);
    if ((int)n != hurt_count(dir, "seg-") - hurt_count(dir, ".bad-"))
        t_fail(__FILE__, __LINE__, "%s: %u are listed", what, n);
    free(v);
}

/* Numbers went on behind it, to names that no start read. */
static void no_number_is_behind_that_of_a_stray_far_off(void)
{
    static const char *const stray[] = {"seg-999999998",  "seg-999999999",  "seg-1073741823",
                                        "seg-1073741824", "seg-4294967294", "seg-4294967295"};

    for (int i = 0; i < 6; i++) {
        hurt_make(&g);
        touched(stray[i], 0);
        for (uint64_t at = 0; at < 2; at++) {
            opens_whole(stray[i], at);
            CHECK_EQ(rig_talk(&g, 50, at, at + 1), 0);
            rig_close(&g);
            all_are_listed(stray[i]);
        }
        CHECK(!is_there(stray[i])); /* kept, beside it */
        rig_no_index(&g);
        opens_whole(stray[i], 2);
        rig_close(&g);
        all_are_listed(stray[i]);
        rig_fini(&g);
    }
}

/* A store that went on behind one: its own numbers are that high. */
static void a_log_with_high_numbers_of_its_own_goes_on(void)
{
    struct log_file v[] = {{.number = 1, .own = true},
                           {.number = 3},
                           {.number = 1000000000, .own = true},
                           {.number = 1000000002},
                           {.number = 1003000000},
                           {.number = UINT32_MAX, .own = true}};

    CHECK_EQ(log_number_next(v, 0), 1);
    CHECK_EQ(log_number_next(v, 1), 2);
    CHECK_EQ(log_number_next(v, 2), 4);
    CHECK_EQ(log_number_next(v, 3), 1000000001);
    for (uint32_t n = 4; n <= 6; n++)
        CHECK_EQ(log_number_next(v, n), 1000000003);
}

/* --- places --------------------------------------------------------------------------------------- */

/* Three files, or with a checkpoint between them; the first file's name. */
static void log_made(bool base)
{
    char dir[512];

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    hurt_fill(&g);
    if (base)
        CHECK_EQ(ckpt_all(g.s), 0);
    for (uint64_t at = 0; at < 40000; at += 1000)
        CHECK_EQ(rig_talk(&g, 50, at, at + 1000), 0);
    rig_close(&g);
    hurt_path(&g, "log", dir);
    CHECK(hurt_count(dir, "seg-") >= 3);
}

static void name_of(int i, char ret[32])
{
    struct log_file *v;
    uint32_t n;
    char dir[512];

    hurt_path(&g, "log", dir);
    CHECK_EQ(log_files(dir, false, &v, &n, &g.eb), 0);
    CHECK((uint32_t)i < n);
    snprintf(ret, 32, "seg-%04u", v[i].number);
    free(v);
}

static void swapped(int i, int k)
{
    char a[32], b[32];

    name_of(i, a);
    name_of(k, b);
    renamed(a, "x");
    renamed(b, a);
    renamed("x", b);
}

static void header_lost(int i)
{
    uint8_t zero[LOG_HEAD_BYTES] = {0};
    char name[32], path[512];

    name_of(i, name);
    int fd = open(in_log(name, path), O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, zero, sizeof zero, 0) == sizeof zero);
    close(fd);
}

enum { SWAP, SWAP_LAST, TURN_ROUND, AWAY_FIRST, AWAY_LAST, COPY, LOSE_A, LOSE_B, HOWS };

static void displaced(int how)
{
    char a[32];

    if (how == SWAP || how == TURN_ROUND || how == LOSE_A || how == LOSE_B)
        swapped(0, 1);
    if (how == SWAP_LAST || how == TURN_ROUND)
        swapped(1, 2);
    if (how == LOSE_A || how == LOSE_B)
        header_lost(how == LOSE_B);
    name_of(how == AWAY_LAST ? 2 : 0, a);
    if (how == AWAY_FIRST || how == AWAY_LAST)
        renamed(a, "seg-0077");
    if (how == COPY)
        copied(a, "seg-0077");
}

/* The frames are whole and each file says where it belongs. */
static void what_a_file_says_counts_and_not_its_name(void)
{
    for (int i = 0; i < HOWS * 2 * 2; i++) {
        struct turnlog_report rep;
        char dir[512];
        int how = i % HOWS;
        if (how == LOSE_B &&
            i / HOWS / 2) /* nothing is left that says where the checkpoint was */
            continue;
        bool no_index = i / HOWS % 2;
        char what[64];
        snprintf(what, sizeof what, "way %d, index %d, checkpoint %d", how, !no_index,
                 i / HOWS / 2);
        log_made(i / HOWS / 2);
        displaced(how);
        hurt_path(&g, "log", dir);
        CHECK_EQ(log_salvage(dir, NULL, NULL, &rep, &g.eb), 0);
        CHECK(rep.damaged);
        if (no_index)
            rig_no_index(&g);
        int marked = opens_marked(what, 40000);
        if (marked && !(how >= LOSE_A && no_index)) /* a header may have been all */
            t_fail(__FILE__, __LINE__, "%s: %d are marked", what, marked);
        if (!strstr(words, no_index ? "made anew" : "was damaged: it is made anew"))
            t_fail(__FILE__, __LINE__, "%s: %s", what, words);
        rig_close(&g);
        CHECK_EQ(opens_marked(what, 40000), marked);
        CHECK(!g.rep.rebuilt);
        rig_fini(&g);
    }
}

/* --- between two files ---------------------------------------------------------------------------- */

/* Where the frames of the first file end, and its last one begins. */
static uint64_t frames_end(const uint8_t *b, size_t n, uint64_t *ret_last)
{
    struct log_frame f;
    uint64_t at = LOG_HEAD_BYTES, whole;

    for (; log_frame_get(b + at, n - at, &f, &whole) == 0; at += whole)
        *ret_last = at;
    return at;
}

/* Bytes of the first file behind its frames, or those of its last one, become x. */
static void first_changed(bool last_frame, int x)
{
    char name[32], path[512];
    uint64_t last = 0;
    size_t n;

    name_of(0, name);
    uint8_t *b = hurt_load(in_log(name, path), &n);
    uint64_t end = frames_end(b, n, &last);
    CHECK(last > LOG_HEAD_BYTES && end + 16 <= n);
    if (last_frame)
        memset(b + last, x, end - last);
    else
        memset(b + end, x, 16);
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0 && pwrite(fd, b, n, 0) == (ssize_t)n);
    close(fd);
    free(b);
}

/* Nothing lacks, but for whoever has only the log something might. */
static void what_lies_behind_the_frames_of_an_earlier_file_is_damage(void)
{
    log_made(false);
    first_changed(false, 0x5a);
    opens_whole("junk", 40000);
    CHECK(strstr(words, "was damaged: it is made anew"));
    rig_close(&g);
    rig_no_index(&g);
    opens_whole("junk, no index", 40000);
    rig_fini(&g);
}

/* The last frame of the first file is gone as if it had never been, and the index is one of before:
 * what lies in the next file is not the torn end of all. */
static void frames_behind_a_hole_between_two_files_are_not_torn(void)
{
    char idx[512], was[512], dir[512];
    uint64_t at = 0;

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
    hurt_path(&g, "index.mdb", idx);
    hurt_path(&g, "index-was", was);
    hurt_path(&g, "log", dir);
    CHECK_EQ(rig_cp(idx, was), 0);
    for (; hurt_count(dir, "seg-") < 2; at += 1000)
        CHECK_EQ(rig_talk(&g, 50, at, at + 1000), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 100), 0);
    rig_close(&g);
    first_changed(true, 0);
    CHECK_EQ(rename(was, idx), 0);
    CHECK_EQ(rig_open(&g), 0);
    hurt_notes(&g, words, sizeof words);
    CHECK(strstr(words, "did not agree"));
    CHECK(rig_tokens_ok(&g, 1, 100));
    CHECK(rig_tokens_ok(&g, 2, 100));
    CHECK(rig_tokens_ok(&g, 50, at - 2000)); /* the turn before that which began a file */
    rig_fini(&g);
}

/* --- sizes ---------------------------------------------------------------------------------------- */

enum { NOTHING, END, MIDDLE }; /* of what is written into what was blown up */

static void blown_up(const char *name, uint64_t bytes, int where)
{
    char path[512];
    int fd = open(in_log(name, path), O_WRONLY | O_CREAT, 0600);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    if (where)
        CHECK_EQ(pwrite(fd, "x", 1, (off_t)(where == END ? bytes - 1 : (5ull << 30) + 3)), 1);
    close(fd);
}

/* Of all that was in memory at once, ever. */
static uint64_t peak_bytes(void)
{
    struct rusage u;

    CHECK_EQ(getrusage(RUSAGE_SELF, &u), 0);
    return (uint64_t)u.ru_maxrss << 10;
}

/* The last file, one in the middle and one that none of ours is: what others put behind its end is
 * not read, and costs nothing that is in it. */
static void a_size_is_not_believed(void)
{
    static const char *const name[] = {"seg-0001", "seg-0002", "seg-0009"};
    static const uint64_t size[] = {6ull << 30, 1ull << 40};

    for (int i = 0; i < 3 * 2 * 3 * 2; i++) {
        const char *file = name[i % 3];
        bool no_index = i / 18;
        hurt_make(&g);
        blown_up(file, size[i / 3 % 2], i / 6 % 3);
        if (no_index)
            rig_no_index(&g);
        int marked = opens_marked(file, 0);
        if (i % 3 < 2 || !no_index) /* the third may be one that has lost its header */
            CHECK_EQ(marked, 0);
        if (!no_index)
            CHECK(strstr(words, "was damaged: it is made anew"));
        CHECK_EQ(rig_talk(&g, 50, 0, 10), 0);
        rig_close(&g);
        char dir[512];
        hurt_path(&g, "log", dir);
        if (!no_index) /* nothing is thrown away */
            CHECK_EQ(hurt_count(dir, file) - is_there(file), 1);
        CHECK_EQ(opens_marked(file, 10), marked);
        CHECK(!g.rep.rebuilt);
        rig_fini(&g);
    }
    if (peak_bytes() > 512ull << 20)
        t_fail(__FILE__, __LINE__, "%llu MiB", (unsigned long long)peak_bytes() >> 20);
}

/* More than is read ahead, in one frame and in many. */
static void long_frames_and_long_files_are_read_whole(void)
{
    enum { LONG = 400000, STEP = 7001, TO = LONG + 100 * STEP };

    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 1 << 30;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 50, 0, LONG), 0);
    for (uint64_t at = LONG; at < TO; at += STEP)
        CHECK_EQ(rig_talk(&g, 50, at, at + STEP), 0);
    rig_close(&g);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(rig_tokens_ok(&g, 50, TO));
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_name_that_is_not_just_ours_is_left_alone),
       ROW(what_a_file_says_counts_and_not_its_name),
       ROW(what_lies_behind_the_frames_of_an_earlier_file_is_damage),
       ROW(frames_behind_a_hole_between_two_files_are_not_torn),
       ROW(no_number_is_behind_that_of_a_stray_far_off), ROW(a_size_is_not_believed),
       ROW(long_frames_and_long_files_are_read_whole),
       ROW(a_log_with_high_numbers_of_its_own_goes_on))
