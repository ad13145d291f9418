/* test_merge.c - both copies of the truth hurt: what either of them holds intact is kept, what
 * neither holds is said, what could not be read is left as it is.
 *
 * EIO is put in place of pread for some files; mode 000 is another user's start. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "kvstore/index.h"
#include "kvstore/index_check.h"
#include "kvstore/logfile.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/hurt_pread.h"
#include "tests/t.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- damage ----------------------------------------------------------------------------------------- */

/* One byte of the frame that brings session s's tokens from `first` on, in whatever file. */
static int hurt_frame(struct rig *g, uint64_t s, uint64_t first)
{
    int32_t want[4];
    int n = 0;

    for (uint64_t i = 0; i < 4; i++)
        want[i] = rig_token(s, first + i);
    for (int i = 1; i < 10; i++) {
        char path[512], sub[32];
        size_t bytes;
        snprintf(sub, sizeof sub, "log/seg-%04d", i);
        hurt_path(g, sub, path);
        if (access(path, F_OK))
            continue;
        uint8_t *b = hurt_load(path, &bytes);
        for (size_t at = 4096; at + 16 <= bytes; at += 4)
            if (memcmp(b + at, want, sizeof want) == 0) {
                hurt_xor(path, at, 0x10);
                n++;
            }
        free(b);
    }
    return n;
}

/* One byte in every copy of a row of the index: the live one is among them. */
static int hurt_row(struct rig *g, const void *bytes, size_t n_bytes, size_t off)
{
    char path[512];
    size_t n;
    int done = 0;

    hurt_path(g, "index.mdb", path);
    uint8_t *b = hurt_load(path, &n);
    for (size_t at = 2 * 4096; at + n_bytes <= n; at++)
        if (memcmp(b + at, bytes, n_bytes) == 0) {
            hurt_xor(path, at + off, 0x10);
            done++;
        }
    free(b);
    return done;
}

static int hurt_tokens(struct rig *g, uint64_t s, uint64_t at)
{
    int32_t want[4];

    for (uint64_t i = 0; i < 4; i++)
        want[i] = rig_token(s, at + i);
    return hurt_row(g, want, sizeof want, 3);
}

static int hurt_session_row(struct rig *g, uint64_t s)
{
    uint8_t key[16 + 4];
    struct kvs_id id = rig_id(s, 1000);

    memcpy(key, id.b, 16); /* the id twice: as the key, and at the value's beginning */
    memcpy(key + 16, id.b, 4);
    return hurt_row(g, key, sizeof key, 16 + 2);
}

/* --- cases --------------------------------------------------------------------------------------------- */

static void one_row_and_one_frame_cost_what_both_lost_at_most(void)
{
    char said[4096];
    struct rig g;

    /* Different things: nothing is lost. */
    hurt_make(&g);
    CHECK(hurt_tokens(&g, 1, 1100) > 0);
    CHECK(hurt_frame(&g, 2, 2 * HURT_TURN) > 0);
    rig_reopen(&g);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(hurt_lost(&g, "row of 1, frame of 2"), 0);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    CHECK(strstr(said, "index.mdb") && strstr(said, ".bad-"));
    CHECK_EQ(hurt_count(g.dir, "index.mdb.bad-"), 1);
    rig_reopen(&g);
    CHECK(!g.rep.rebuilt && g.rep.clean);
    CHECK_EQ(hurt_lost(&g, "opened again"), 0);
    CHECK_EQ(rig_talk(&g, 1, HURT_TURNS * HURT_TURN, HURT_TURNS * HURT_TURN + 10), 0);
    rig_fini(&g);

    /* A session's record, and a frame of another. */
    hurt_make(&g);
    CHECK(hurt_session_row(&g, 3) > 0);
    CHECK(hurt_frame(&g, 4, 0) > 0);
    rig_reopen(&g);
    CHECK_EQ(hurt_lost(&g, "session row of 3, first frame of 4"), 0);
    rig_fini(&g);

    /* The same tokens in both: those, what follows them, and nothing of anybody else. */
    hurt_make(&g);
    CHECK(hurt_tokens(&g, 5, 2 * HURT_TURN) > 0);
    CHECK(hurt_frame(&g, 5, 2 * HURT_TURN) > 0);
    rig_reopen(&g);
    CHECK_EQ(hurt_lost(&g, "tokens of 5 in both"), 1);
    CHECK_EQ(hurt_whole(&g, 5), 2 * HURT_TURN);
    CHECK_EQ(g.rep.sessions_hurt, 1);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    CHECK(strstr(said, "\"s5\" of user 1000 from token 1200 of 3600 on"));
    /* It stays said, marked and usable until the damaged files are gone. */
    rig_reopen(&g);
    CHECK_EQ(hurt_lost(&g, "opened again"), 1);
    CHECK(hurt_notes(&g, said, sizeof said) > 0 && strstr(said, "from token 1200"));
    CHECK_EQ(rig_talk(&g, 5, 1200, 1300), 0);
    CHECK_EQ(hurt_whole(&g, 5), 1300);
    rig_close(&g);
    snprintf(said, sizeof said, "rm %s/*.bad-* %s/log/*.bad-*", g.dir, g.dir);
    CHECK_EQ(system(said), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_notes(&g, said, sizeof said), 0);
    rig_fini(&g);
}

/* The command that is said takes the damaged files away, and nothing else. */
static void what_is_set_aside_is_said_with_its_size_and_how_to_remove_it(void)
{
    char said[4096], path[512], *cmd;
    struct stat file;
    struct rig g;

    hurt_make(&g);
    CHECK_EQ(rig_open(&g), 0);
    for (uint32_t i = 0; i < 10; i++)
        CHECK_EQ(rig_put(&g, 1, i), 0);
    rig_close(&g);
    CHECK(hurt_tokens(&g, 1, 1100) > 0);
    hurt_path(&g, "kv/test/seg-0001", path);
    FILE *f = fopen(path, "r+"); /* nothing in it speaks any more */
    CHECK(f && fstat(fileno(f), &file) == 0);
    for (off_t i = 0; i < file.st_size; i++)
        fputc('x', f);
    fclose(f);
    rig_reopen(&g);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    cmd = strstr(said, "2 damaged files are kept, ");
    CHECK(cmd && strtod(cmd + 26, NULL) * (1 << 20) >= (double)file.st_size);
    rig_close(&g);
    cmd = strstr(said, "find '");
    CHECK(cmd != NULL);
    cmd[strcspn(cmd, "\n")] = 0;
    CHECK_EQ(system(cmd), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_notes(&g, said, sizeof said), 0);
    CHECK_EQ(hurt_lost(&g, "the damaged files removed"), 0);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    rig_fini(&g);
}

/* A fork has its own record and nothing else: the frame that brings it, wherever it lies. */
static int hurt_record(struct rig *g, const struct kvs_id *id)
{
    int n = 0;

    for (int i = 1; i < 10; i++) {
        char path[512], sub[32];
        size_t bytes;
        snprintf(sub, sizeof sub, "log/seg-%04d", i);
        hurt_path(g, sub, path);
        if (access(path, F_OK))
            continue;
        uint8_t *b = hurt_load(path, &bytes);
        for (size_t at = 4096; at + 16 <= bytes; at++)
            if (memcmp(b + at, id->b, 16) == 0) {
                hurt_xor(path, at + 20, 0x10);
                n++;
                break;
            }
        free(b);
    }
    return n;
}

static void a_session_of_which_only_others_speak_is_named(void)
{
    char said[4096], path[512];

    for (int how = 0; how < 3; how++) {
        struct rig g;
        struct kvs_session x;
        struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};

        hurt_make(&g);
        CHECK_EQ(rig_open(&g), 0);
        rig_session(&x, 77, 1, "the fork");
        x.branch = rig_id(1, 0);
        x.head = HURT_TURN;
        CHECK_EQ(rig_batch(&g, &r, 1), 0);
        struct kvs_req q = {.owner = 1000,
                            .id = rig_id(77, 2),
                            .session = x.id,
                            .branch = x.branch,
                            .state = KVS_REQ_ENDED,
                            .reply = "{}",
                            .reply_bytes = 2,
                            .time_ns = wall_ns()};
        struct kvs_rec rq = {.kind = KVS_REC_REQ, .req = &q};
        if (how == 1)
            CHECK_EQ(rig_batch(&g, &rq, 1), 0);
        CHECK_EQ(rig_talk(&g, 2, HURT_TURNS * HURT_TURN, HURT_TURNS * HURT_TURN + 10), 0);
        rig_close(&g);
        CHECK(hurt_record(&g, &x.id) > 0);
        if (how == 1) { /* the index is gone, and its name with it */
            hurt_path(&g, "index.mdb", path);
            CHECK_EQ(unlink(path), 0);
        } else {
            uint8_t twice[20];
            memcpy(twice, x.id.b, 16);
            memcpy(twice + 16, x.id.b, 4);
            CHECK(hurt_row(&g, twice, sizeof twice, 16 + 2) > 0);
        }
        if (how == 2) { /* its name's row as well */
            uint8_t name[12] = {0, 0, 3, 0xe8};
            memcpy(name + 4, "the fork", 8);
            CHECK(hurt_row(&g, name, sizeof name, 13) > 0);
        }
        rig_reopen(&g);
        CHECK(hurt_notes(&g, said, sizeof said) > 0);
        char id[32];
        snprintf(id, sizeof id, "id %02x%02x%02x", x.id.b[0], x.id.b[1], x.id.b[2]);
        if (!strstr(said, how ? id : "\"the fork\" of user 1000 whole") ||
            !strstr(said, how ? "perhaps 1 session " : "1 session whole"))
            t_fail(__FILE__, __LINE__, "%d: %s", how, said);
        CHECK(!strstr(said, " 0 "));
        rig_fini(&g);
    }
}

static bool stands(const struct rig *g, const char *words)
{
    struct kvs_stats st;
    bool any = false;

    kvs_stats(g->s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        any |= strstr(st.warning[i], words) != NULL;
    return any;
}

/* Deleting the damaged files is how it is said no more, without a restart. */
static void what_was_lost_is_said_until_the_damaged_files_are_deleted(void)
{
    char cmd[1200], said[4096];
    struct rig g;

    hurt_make(&g);
    CHECK(hurt_tokens(&g, 5, 2 * HURT_TURN) > 0);
    CHECK(hurt_frame(&g, 5, 2 * HURT_TURN) > 0);
    rig_reopen(&g);
    CHECK(stands(&g, "Lost: "));
    CHECK(stands(&g, "To have this said no more delete the damaged files (*.bad-* in "));
    CHECK(stands(&g, "damaged files are kept"));
    rig_reopen(&g);
    CHECK(stands(&g, "Lost: "));
    snprintf(cmd, sizeof cmd, "rm %s/*.bad-* %s/log/*.bad-*", g.dir, g.dir);
    CHECK_EQ(system(cmd), 0);
    for (int i = 0; i < 6000 * T_SLOWER && stands(&g, "kept"); i++) {
        if (!g.threads)
            rig_turn(&g);
        usleep(5000);
    }
    CHECK(!stands(&g, "Lost: ") && !stands(&g, "kept"));
    CHECK(hurt_notes(&g, said, sizeof said) > 0 && strstr(said, "were deleted"));
    rig_reopen(&g);
    CHECK(!stands(&g, "Lost: ") && !stands(&g, "kept"));
    CHECK_EQ(hurt_notes(&g, said, sizeof said), 0);
    rig_fini(&g);
}

/* Frames that follow a lost one are not lost with it. */
static void a_lost_frame_costs_what_was_in_it(void)
{
    char path[512], said[4096];
    struct rig g;

    for (uint64_t t = 0; t < HURT_TURNS; t++) {
        hurt_make(&g);
        CHECK(hurt_frame(&g, 6, t * HURT_TURN) > 0);
        hurt_path(&g, "index.mdb", path);
        CHECK_EQ(unlink(path), 0);
        rig_reopen(&g);
        int marked = 0;
        CHECK_EQ(hurt_marked(&g, "frame of 6, no index", &marked), 1);
        CHECK_EQ(marked, t + 1 < HURT_TURNS ? 0 : 5); /* those not heard of again */
        CHECK_EQ(hurt_whole(&g, 6), t * HURT_TURN);
        CHECK(hurt_notes(&g, said, sizeof said) > 0 && strstr(said, "Lost"));
        CHECK(hurt_count(g.dir, "log") > 0);
        hurt_path(&g, "log", path);
        CHECK(hurt_count(path, ".bad-") > 0);
        rig_fini(&g);
    }
}

static void nothing_wins_over_a_newer_row(void)
{
    struct kvs_session x;
    struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};
    static struct hurt_have h;
    struct rig g;

    /* The newest frame is lost; the index has it.  Then the other way round. */
    for (int side = 0; side < 2; side++) {
        hurt_make(&g);
        CHECK_EQ(rig_open(&g), 0);
        rig_session(&x, 7, 0, "renamed");
        x.head = HURT_TURNS * HURT_TURN;
        CHECK_EQ(rig_batch(&g, &r, 1), 0);
        rig_close(&g);
        CHECK(hurt_tokens(&g, 1, 1100) > 0); /* so that there is a merge */
        if (side == 0)
            CHECK(hurt_frame(&g, 1, 0) > 0);
        else
            CHECK(hurt_session_row(&g, 7) > 0);
        rig_reopen(&g);
        h.n = 0;
        CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
        int found = 0;
        for (uint32_t i = 0; i < h.n; i++) {
            found += strcmp(h.s[i].name, "renamed") == 0;
            CHECK(strcmp(h.s[i].name, "s7") != 0);
        }
        CHECK_EQ(found, 1);
        rig_fini(&g);
    }
}

/* --- each file hurt in each way, with each other file hurt in each way ---------------------------- */

enum harm { H_NONE, H_BIT, H_CUT, H_ZERO, H_GONE, H_EIO, H_DIR, H_ };
static const char *const harm_name[] = {"none", "bit", "cut",      "zeroed",
                                        "gone", "EIO", "directory"};

static void harm(const char *path, enum harm how, uint64_t *rnd)
{
    size_t n;
    uint8_t *b = hurt_load(path, &n), *zero = calloc(1, n);
    size_t used = n;

    while (used > 1 && b[used - 1] == 0)
        used--;
    switch (how) {
    case H_BIT: hurt_xor(path, rig_rand(rnd) % used, (uint8_t)(1 << rig_rand(rnd) % 8)); break;
    case H_CUT: CHECK_EQ(truncate(path, (off_t)(rig_rand(rnd) % used)), 0); break;
    case H_ZERO: {
        int fd = open(path, O_RDWR);
        size_t at = rig_rand(rnd) % used / 4096 * 4096;
        size_t m = rig_rand(rnd) % 2 ? 4096 : n - at;
        CHECK(pwrite(fd, zero, at + m > n ? n - at : m, (off_t)at) > 0);
        close(fd);
        break;
    }
    case H_GONE: CHECK_EQ(unlink(path), 0); break;
    case H_EIO: hurt_eio(path, rig_rand(rnd) % used); break;
    case H_DIR:
        CHECK_EQ(unlink(path), 0);
        CHECK_EQ(mkdir(path, 0700), 0);
        break;
    default: break;
    }
    free(b);
    free(zero);
}

static void hurt_both(uint64_t seed)
{
    static const char *const file[] = {"index.mdb", "log/seg-0001", "log/seg-0002"};
    uint64_t rnd = seed;
    int opened = 0, refused = 0, hurt = 0;
    struct rig base, g;
    char said[4096];

    hurt_make(&base);
    char second[512];
    hurt_path(&base, file[2], second);
    CHECK(access(second, F_OK) == 0);
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t k = 0; k < 3; k++)
            for (int a = H_BIT; a < H_; a++)
                for (int b = i == k ? H_NONE : H_BIT; b < (i == k ? H_BIT : H_); b++) {
                    char what[128], copy[300], path[512];
                    if (k < i && b != H_NONE)
                        continue;
                    snprintf(what, sizeof what, "SEED=%llu %s %s, %s %s",
                             (unsigned long long)seed, file[i], harm_name[a], file[k],
                             harm_name[b]);
                    snprintf(copy, sizeof copy, "%s-hurt", base.dir);
                    CHECK_EQ(rig_cp(base.dir, copy), 0);
                    g = base;
                    snprintf(g.dir, sizeof g.dir, "%.200s", copy);
                    g.o.dir = g.dir;
                    hurt_path(&g, file[i], path);
                    harm(path, (enum harm)a, &rnd);
                    if (i != k) {
                        hurt_path(&g, file[k], path);
                        harm(path, (enum harm)b, &rnd);
                    }
                    bool unread = a == H_EIO || a == H_DIR || b == H_EIO || b == H_DIR;
                    uint64_t before = hurt_sum(g.dir);
                    g.eb.s[0] = 0;
                    int r = rig_open(&g);
                    if (r < 0) {
                        refused++;
                        if (!unread)
                            t_fail(__FILE__, __LINE__, "%s: does not open: %s", what, g.eb.s);
                        if (hurt_sum(g.dir) != before ||
                            !strstr(g.eb.s, "nothing was changed") || !strstr(g.eb.s, g.dir))
                            t_fail(__FILE__, __LINE__, "%s: refused, but: %s", what, g.eb.s);
                        hurt_eio(NULL, 0);
                    } else {
                        hurt_eio(NULL, 0);
                        opened++;
                        int marked = 0;
                        /* Without the index and the log's last file, nothing may be left
                         * that knows of it. */
                        bool unknown = i == 0 && k == 2 && b == H_GONE;
                        int lost = unknown ? 0 : hurt_marked(&g, what, &marked);
                        hurt += lost > 0;
                        /* One copy that is whole is enough. */
                        if ((lost || marked) && (i == k || i > 0))
                            t_fail(__FILE__, __LINE__, "%s: %d sessions hurt", what, lost);
                        (void)hurt_notes(&g, said, sizeof said);
                        if ((lost || marked) && !strstr(said, "Lost"))
                            t_fail(__FILE__, __LINE__, "%s: %d sessions hurt, said: %s", what,
                                   lost, said);
                        CHECK_EQ(rig_talk(&g, 99, 0, 10), 0);
                        rig_close(&g);
                    }
                    rig_rm(copy);
                }
    printf("    %d opened, %d of them with losses, %d refused\n", opened, hurt, refused);
    rig_fini(&base);
}

static void both_copies_hurt_is_never_worse_than_what_both_lost(void)
{
    hurt_both(t_seed());
}

/* Damage all over both files: whatever is lost, it is said where it is lost. */
static void many_bits_in_both_copies_are_never_silent(void)
{
    static const char *const file[] = {"index.mdb", "log/seg-0001", "log/seg-0002"};
    uint64_t seed = t_seed(), rnd = seed;
    const char *more = getenv("HEARTH_KILLS");
    uint32_t rounds = more ? (uint32_t)strtoul(more, NULL, 10) : 12, lossy = 0;
    struct rig base, g;
    char copy[300], path[512], what[64], said[4096];

    hurt_make(&base);
    snprintf(copy, sizeof copy, "%s-hurt", base.dir);
    for (uint32_t i = 0; i < rounds; i++) {
        int marked = 0, lost;
        CHECK_EQ(rig_cp(base.dir, copy), 0);
        g = base;
        snprintf(g.dir, sizeof g.dir, "%.200s", copy);
        g.o.dir = g.dir;
        snprintf(what, sizeof what, "SEED=%llu round %u", (unsigned long long)seed, i);
        uint32_t bits = 1u << (i % 7);
        for (int f = 0; f < 3; f++) {
            hurt_path(&g, file[f], path);
            for (uint32_t b = 0; b < bits; b++)
                harm(path, H_BIT, &rnd);
        }
        if (rig_open(&g) < 0) {
            t_fail(__FILE__, __LINE__, "%s: does not open: %s", what, g.eb.s);
        } else {
            lost = hurt_marked(&g, what, &marked);
            lossy += lost > 0;
            (void)hurt_notes(&g, said, sizeof said);
            if (lost && !strstr(said, "Lost"))
                t_fail(__FILE__, __LINE__, "%s: %d sessions hurt, said: %s", what, lost, said);
            rig_close(&g);
        }
        rig_rm(copy);
    }
    printf("    %u rounds, %u with losses\n", rounds, lossy);
    CHECK(lossy > 0);
    rig_fini(&base);
}

/* The log's first file gone, and of the index the pages with the same sessions: no row and no
 * frame named them any more, and "nothing is missing" was said. */
static void sessions_that_no_copy_names_any_more_are_said(void)
{
    hurt_both(2336238509048631357u);
}

/* --- what could not be read is not damage ----------------------------------------------------------- */

/* Opens in a child as another user, or with few descriptors; its answer and words. */
static int open_as(struct rig *g, uid_t uid, rlim_t files, char *words, size_t cap)
{
    int p[2], r = 0;

    CHECK_EQ(pipe(p), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit few = {files, files};
        if (files)
            (void)setrlimit(RLIMIT_NOFILE, &few);
        if (uid && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
            _exit(9);
        g->eb.s[0] = 0;
        r = rig_open(g);
        if (write(p[1], &r, sizeof r) != sizeof r ||
            write(p[1], g->eb.s, sizeof g->eb.s) != sizeof g->eb.s)
            _exit(9);
        if (r == 0)
            rig_close(g);
        _exit(0);
    }
    close(p[1]);
    CHECK_EQ(read(p[0], &r, sizeof r), sizeof r);
    ssize_t n = read(p[0], words, cap - 1);
    words[n > 0 ? n : 0] = 0;
    close(p[0]);
    waitpid(pid, NULL, 0);
    return r;
}

static void what_another_user_may_not_read_is_left_alone(void)
{
    static const char *const file[] = {"index.mdb", "log/seg-0001", "log/seg-0002", "log"};
    char path[512], words[600], cmd[600];
    struct rig g;

    if (geteuid())
        t_skip("only root can start as another user");
    hurt_make(&g);
    snprintf(cmd, sizeof cmd, "chown -R 65534:65534 '%s'", g.dir);
    CHECK_EQ(system(cmd), 0);
    for (uint32_t i = 0; i < 4; i++) {
        hurt_path(&g, file[i], path);
        CHECK_EQ(chmod(path, 0), 0);
        uint64_t before = hurt_sum(g.dir);
        CHECK_EQ(open_as(&g, 65534, 0, words, sizeof words), -EACCES);
        if (!strstr(words, path) || !strstr(words, "chmod"))
            t_fail(__FILE__, __LINE__, "%s: %s", file[i], words);
        CHECK_EQ(hurt_sum(g.dir), before);
        CHECK_EQ(chmod(path, i == 3 ? 0700 : 0600), 0);
    }
    CHECK_EQ(open_as(&g, 65534, 0, words, sizeof words), 0);
    rig_open(&g);
    CHECK_EQ(hurt_lost(&g, "after all"), 0);
    rig_fini(&g);
}

static void too_few_descriptors_refuse_and_change_nothing(void)
{
    char words[600];
    int refused = 0;
    struct rig g;

    hurt_make(&g);
    for (rlim_t files = 4; files < 24; files++) {
        uint64_t before = hurt_sum(g.dir);
        int r = open_as(&g, 0, files, words, sizeof words);
        if (r == 0)
            continue;
        refused++;
        CHECK(r == -EMFILE || r == -ENFILE || r == -EAGAIN);
        if (hurt_sum(g.dir) != before)
            t_fail(__FILE__, __LINE__, "%d descriptors: changed (%s)", (int)files, words);
    }
    CHECK(refused > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(!g.rep.rebuilt);
    CHECK_EQ(hurt_lost(&g, "few descriptors"), 0);
    rig_fini(&g);
}

static void a_process_that_cannot_be_made_refuses_and_changes_nothing(void)
{
    char words[600], cmd[600];
    struct rig g;

    if (geteuid())
        t_skip("only root can start as another user");
    hurt_make(&g);
    snprintf(cmd, sizeof cmd, "chown -R 65534:65534 '%s'", g.dir);
    CHECK_EQ(system(cmd), 0);
    uint64_t before = hurt_sum(g.dir);
    /* One process, this one: the walk's child cannot be made. */
    struct rlimit was, one;
    CHECK_EQ(getrlimit(RLIMIT_NPROC, &was), 0);
    one = (struct rlimit){0, was.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &one), 0);
    g.threads = false;
    int r = open_as(&g, 65534, 0, words, sizeof words);
    CHECK_EQ(setrlimit(RLIMIT_NPROC, &was), 0);
    CHECK_EQ(r, -EAGAIN);
    CHECK(strstr(words, "index.mdb") && strstr(words, "nothing was changed"));
    CHECK_EQ(hurt_sum(g.dir), before);
    rig_fini(&g);
}

/* --- killed while it is made anew ------------------------------------------------------------------- */

/* A process that dies at its n-th event below sys.c: a write, a sync, a commit, a new name. */
static uint64_t dies_at, events;

static int die_hook(void *user, const struct sys_event *e)
{
    (void)user, (void)e;
    if (++events == dies_at)
        kill(getpid(), SIGKILL);
    return 0;
}

/* true: it was killed. */
static bool open_and_die(struct rig *g, uint64_t at)
{
    int st;

    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dies_at = at;
        events = 0;
        g->threads = false;
        g->env.sys_hook = die_hook;
        _exit(rig_open(g) < 0 ? 1 : (rig_close(g), 0));
    }
    waitpid(pid, &st, 0);
    if (!WIFSIGNALED(st))
        CHECK_EQ(WEXITSTATUS(st), 0);
    return WIFSIGNALED(st);
}

static void a_rebuild_killed_at_every_step_loses_nothing(void)
{
    enum { MANY = 300, FEW = 5 };
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t killed = 0;
    struct rig base, g;
    char copy[300], path[512];

    rig_init(&base, KVS_IO_THREADS, true);
    base.o.disk_bytes = 64 << 20;
    base.o.no_fsync = true;
    CHECK_EQ(rig_open(&base), 0);
    for (uint64_t t = 0; t < MANY; t++) /* more frames than one transaction takes */
        for (uint64_t s = 1; s < 5; s++) {
            CHECK_EQ(rig_talk(&base, s, t * FEW, (t + 1) * FEW), 0);
            if (t % 50)
                continue;
            /* One that fits any state: applied again, it would put the session back. */
            struct kvs_session x;
            struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};
            char name[8];
            snprintf(name, sizeof name, "s%llu", (unsigned long long)s);
            rig_session(&x, s, 0, name);
            x.flags = KVS_SESS_PINNED;
            x.head = (t + 1) * FEW;
            CHECK_EQ(rig_batch(&base, &r, 1), 0);
        }
    for (uint32_t n = 0; n < 10; n++)
        CHECK_EQ(rig_put(&base, 77, n), 0);
    rig_close(&base);
    base.o.no_fsync = false;
    snprintf(copy, sizeof copy, "%s-hurt", base.dir);
    for (int how = 0; how < 3; how++) {
        bool more = true;
        for (uint64_t at = 1; more; at++) {
            CHECK_EQ(rig_cp(base.dir, copy), 0);
            g = base;
            snprintf(g.dir, sizeof g.dir, "%.200s", copy);
            g.o.dir = g.dir;
            hurt_path(&g, "index.mdb", path);
            if (how == 0)
                CHECK_EQ(unlink(path), 0);
            else if (how == 1)
                CHECK_EQ(truncate(path, 3 * 4096), 0);
            else
                CHECK(hurt_tokens(&g, 1, 700) > 0 && hurt_frame(&g, 2, 100 * FEW) > 0);
            more = open_and_die(&g, at);
            killed += more;
            if (more) /* and again, somewhere */
                killed += open_and_die(&g, 1 + rig_rand(&rnd) % (at + 10));
            g.eb.s[0] = 0;
            if (rig_open(&g) < 0) {
                t_fail(__FILE__, __LINE__, "SEED=%llu damage %d, event %llu: %s",
                       (unsigned long long)seed, how, (unsigned long long)at, g.eb.s);
            } else {
                for (uint64_t s = 1; s < 5; s++)
                    if (!rig_tokens_ok(&g, s, MANY * FEW))
                        t_fail(__FILE__, __LINE__,
                               "SEED=%llu damage %d, event %llu: session %llu is not whole",
                               (unsigned long long)seed, how, (unsigned long long)at,
                               (unsigned long long)s);
                static struct hurt_have h;
                h.n = 0;
                CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
                CHECK_EQ(h.n, 4);
                for (uint32_t i = 0; i < h.n; i++)
                    if (h.s[i].head != MANY * FEW || h.s[i].flags & KVS_SESS_LOST)
                        t_fail(__FILE__, __LINE__,
                               "SEED=%llu damage %d, event %llu: %s stands at %llu",
                               (unsigned long long)seed, how, (unsigned long long)at,
                               h.s[i].name, (unsigned long long)h.s[i].head);
                for (uint32_t n = 0; n < 10; n++)
                    CHECK_EQ(rig_get(&g, 77, n, NULL), 0);
                CHECK_EQ(hurt_count(g.dir, ".new"), 0);
                rig_close(&g);
            }
            rig_rm(copy);
        }
    }
    printf("    killed %u times\n", killed);
    CHECK(killed > 20);
    rig_fini(&base);
}

/* HEARTH_KILLS=n for more.  The index is gone or hurt each time, the log hurt every second time. */
static void a_rebuild_may_be_killed_at_any_instant(void)
{
    const char *more = getenv("HEARTH_KILLS");
    uint32_t n = more ? (uint32_t)strtoul(more, NULL, 10) : 60;
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t killed = 0;
    struct rig base, g;
    char copy[300], path[512];

    hurt_make(&base);
    snprintf(copy, sizeof copy, "%s-hurt", base.dir);
    /* How long one takes here and now: the kills fall within that. */
    CHECK_EQ(rig_cp(base.dir, copy), 0);
    g = base;
    snprintf(g.dir, sizeof g.dir, "%.200s", copy);
    g.o.dir = g.dir;
    hurt_path(&g, "index.mdb", path);
    CHECK_EQ(unlink(path), 0);
    uint64_t took_ns = now_ns();
    CHECK_EQ(rig_open(&g), 0);
    took_ns = now_ns() - took_ns;
    rig_close(&g);
    rig_rm(copy);
    for (uint32_t i = 0; i < n; i++) {
        CHECK_EQ(rig_cp(base.dir, copy), 0);
        g = base;
        snprintf(g.dir, sizeof g.dir, "%.200s", copy);
        g.o.dir = g.dir;
        hurt_path(&g, "index.mdb", path);
        switch (i % 3) {
        case 0: CHECK_EQ(unlink(path), 0); break;
        case 1: CHECK(hurt_tokens(&g, 1, 1100) > 0); break;
        default: CHECK_EQ(truncate(path, 3 * 4096), 0); break;
        }
        if (i % 3 == 1 && i % 2)
            CHECK(hurt_frame(&g, 2, 2 * HURT_TURN) > 0);
        for (int life = 0; life < 4; life++) {
            fflush(stdout);
            pid_t pid = fork();
            if (pid == 0) {
                g.threads = false;
                _exit(rig_open(&g) < 0 ? 1 : (rig_close(&g), 0));
            }
            uint64_t ns = rig_rand(&rnd) % (took_ns / (life ? 4 : 1));
            struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
            nanosleep(&ts, NULL);
            kill(pid, SIGKILL);
            int st;
            waitpid(pid, &st, 0);
            killed += WIFSIGNALED(st);
            if (WIFEXITED(st) && WEXITSTATUS(st))
                t_fail(__FILE__, __LINE__, "SEED=%llu round %u: a start failed",
                       (unsigned long long)seed, i);
        }
        g.eb.s[0] = 0;
        if (rig_open(&g) < 0) {
            t_fail(__FILE__, __LINE__, "SEED=%llu round %u: does not open: %s",
                   (unsigned long long)seed, i, g.eb.s);
        } else {
            char what[64];
            snprintf(what, sizeof what, "SEED=%llu round %u", (unsigned long long)seed, i);
            if (hurt_lost(&g, what))
                t_fail(__FILE__, __LINE__, "%s: lost something", what);
            CHECK_EQ(hurt_count(g.dir, ".new"), 0);
            rig_close(&g);
        }
        rig_rm(copy);
    }
    printf("    %u rounds, %u starts killed\n", n, killed);
    CHECK(killed > n / 2);
    rig_fini(&base);
}

/* --- a store of the program before ------------------------------------------------------------------ */

static int count_part(void *ctx, const struct kvs_part *p)
{
    (*(int *)ctx) += p->bytes == 4 && memcmp(p->data, "part", 4) == 0;
    return 0;
}

/* tests/golden/store-v2.tar.gz: three sessions of 600 tokens, a request with a part, a block,
 * written by the last program of version 2. */
static void a_store_of_version_2_opens_and_is_merged(void)
{
    for (int how = 0; how < 4; how++) {
        struct kvs_id req = rig_id(1, 6);
        char cmd[700], path[512], *reply = NULL;
        struct kvs_req q;
        struct rig g;
        int parts = 0;

        rig_init(&g, KVS_IO_THREADS, true);
        g.o.disk_bytes = 4 << 20;
        snprintf(cmd, sizeof cmd, "tar -xzf tests/golden/store-v2.tar.gz -C '%s'", g.dir);
        CHECK_EQ(system(cmd), 0);
        hurt_path(&g, "index.mdb", path);
        if (how == 1)
            CHECK_EQ(unlink(path), 0);
        if (how == 2)
            CHECK(hurt_tokens(&g, 1, 300) > 0 && hurt_frame(&g, 2, 200) > 0);
        hurt_path(&g, "log/seg-0001", path);
        if (how == 3)
            hurt_xor(path, 8, 1); /* version 3, by chance */
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(g.rep.rebuilt, how == 1 || how == 2);
        for (uint64_t s = 1; s < 4; s++)
            CHECK(rig_tokens_ok(&g, s, 600));
        CHECK_EQ(kvs_req_get(g.s, 1000, &req, &q, &reply), 0);
        CHECK_STR(reply, "{\"a\":1}");
        free(reply);
        CHECK_EQ(kvs_parts(g.s, 1000, &req, count_part, &parts), 0);
        CHECK_EQ(parts, 1);
        CHECK_EQ(rig_get(&g, 5, 0, NULL), 0);
        CHECK_EQ(rig_talk(&g, 1, 600, 700), 0);
        rig_reopen(&g);
        CHECK(!g.rep.rebuilt);
        CHECK(rig_tokens_ok(&g, 1, 700));
        rig_fini(&g);
    }
}

static void a_start_on_version_2_killed_at_every_step_loses_nothing(void)
{
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t killed = 0;

    for (int how = 0; how < 2; how++) {
        bool more = true;
        for (uint64_t at = 1; more; at++) {
            char cmd[700], path[512];
            struct rig g;
            rig_init(&g, KVS_IO_THREADS, true);
            g.o.disk_bytes = 4 << 20;
            snprintf(cmd, sizeof cmd, "tar -xzf tests/golden/store-v2.tar.gz -C '%s'", g.dir);
            CHECK_EQ(system(cmd), 0);
            hurt_path(&g, "index.mdb", path);
            if (how)
                CHECK_EQ(unlink(path), 0);
            more = open_and_die(&g, at);
            killed += more;
            if (more)
                killed += open_and_die(&g, 1 + rig_rand(&rnd) % (at + 5));
            g.env.sys_hook = NULL;
            CHECK_EQ(rig_open(&g), 0);
            for (uint64_t s = 1; s < 4 && g.s; s++)
                if (!rig_tokens_ok(&g, s, 600))
                    t_fail(__FILE__, __LINE__, "SEED=%llu damage %d, event %llu: session %llu",
                           (unsigned long long)seed, how, (unsigned long long)at,
                           (unsigned long long)s);
            rig_fini(&g);
        }
    }
    printf("    killed %u times\n", killed);
    CHECK(killed > 10);
}

/* --- headers ------------------------------------------------------------------------------------------- */

/* A pipe was opened and waited for, for ever. */
static void what_is_no_file_is_refused_at_once(void)
{
    static const char *const file[] = {"index.mdb", "log/seg-0001", "log/seg-0002"};
    struct rig g;
    char path[512], away[520];

    hurt_make(&g);
    for (int i = 0; i < 3; i++) {
        hurt_path(&g, file[i], path);
        snprintf(away, sizeof away, "%s-away", g.dir);
        CHECK_EQ(rename(path, away), 0);
        CHECK_EQ(mkfifo(path, 0600), 0);
        g.eb.s[0] = 0;
        CHECK(rig_open(&g) < 0);
        CHECK(strstr(g.eb.s, path) && strstr(g.eb.s, "nothing was changed") &&
              strstr(g.eb.s, "no file: move it away"));
        CHECK_EQ(unlink(path), 0);
        CHECK_EQ(rename(away, path), 0);
    }
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(hurt_lost(&g, "as it was"), 0);
    rig_fini(&g);
}

/* The index of one store and the log of another are no damage of each other. */
static void copies_of_two_stores_are_refused(void)
{
    struct rig g, other;
    char path[512], from[512], away[520];

    hurt_make(&g);
    hurt_make(&other); /* and its log has more to tell */
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 50, 0, 10), 0);
    rig_close(&g);
    hurt_path(&g, "index.mdb", path);
    hurt_path(&other, "index.mdb", from);
    snprintf(away, sizeof away, "%s-away", g.dir);
    CHECK_EQ(rename(path, away), 0);
    CHECK_EQ(rename(from, path), 0);
    g.eb.s[0] = 0;
    CHECK_EQ(rig_open(&g), E_SHAPE);
    CHECK(strstr(g.eb.s, g.dir) && strstr(g.eb.s, "different stores"));
    CHECK_EQ(rename(path, from), 0);
    CHECK_EQ(rename(away, path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(hurt_whole(&g, 1) == HURT_TURNS * HURT_TURN && hurt_whole(&g, 50) == 10);
    rig_close(&g);
    CHECK_EQ(rig_open(&other), 0);
    CHECK_EQ(hurt_lost(&other, "as it was"), 0);
    rig_fini(&other);
    rig_fini(&g);
}

/* LMDB believes the lock file as long as any process has it open: one that walks the old index
 * while a new one is put in its place must not say where the new one's last transaction is. */
static void a_walker_of_the_old_index_is_not_believed(void)
{
    struct rig g;

    hurt_make(&g);
    for (int odd = 0; odd < 2; odd++) { /* of the two numbers one names the wrong page */
        int up[2];
        char ok = 0;
        CHECK_EQ(pipe(up), 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct sys sys = {0};
            struct index_opts o = {.dir = g.dir, .sys = &sys};
            struct index *i = NULL;
            ok = index_open(&i, &o, NULL) == 0;
            for (int n = 0; ok && n < 3 + odd; n++)
                ok = index_begin(i) == 0 && index_meta_put(i, "walker", "x", 1) == 0 &&
                     index_commit(i) == 0;
            _exit(write(up[1], &ok, 1) == 1 && pause() ? 0 : 1);
        }
        CHECK(read(up[0], &ok, 1) == 1 && ok);
        close(up[0]);
        close(up[1]);
        CHECK(hurt_session_row(&g, 1 + (uint64_t)odd) > 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(g.rep.rebuilt);
        for (uint64_t s = 1; s <= HURT_SESSIONS; s++)
            CHECK_EQ(hurt_whole(&g, s), HURT_TURNS * HURT_TURN);
        uint64_t more = HURT_SESSIONS + 1 + (uint64_t)odd;
        CHECK_EQ(rig_talk(&g, more, 0, 10), 0);
        rig_close(&g);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!g.rep.rebuilt);
        CHECK_EQ(hurt_whole(&g, more), 10);
        rig_close(&g);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
    }
    rig_fini(&g);
}

static void a_flipped_bit_in_a_log_header_is_never_a_newer_version(void)
{
    uint8_t b[LOG_HEAD_BYTES], c[LOG_HEAD_BYTES];
    struct log_head h = {.number = 7, .seq = 9, .prev_crc = 1, .bytes = 8192}, got;

    log_head_put(b, &h);
    for (uint32_t bit = 0; bit < 8 * LOG_HEAD_BYTES; bit++) {
        memcpy(c, b, sizeof c);
        c[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int r = log_head_get(c, &got);
        if (r != 0 || got.number != 7 || got.seq != 9 || got.version != LOG_FORMAT)
            t_fail(__FILE__, __LINE__, "bit %u: %d", bit, r);
    }
    /* Of the old versions there is one copy, and its CRC leaves the version out. */
    for (uint32_t v = 1; v < 3; v++) {
        memset(b + 52, 0, sizeof b - 52);
        st32(b + 8, v);
        st32(b + 12, crc32c(0, b + 16, sizeof b - 16));
        CHECK_EQ(log_head_get(b, &got), 0);
        for (uint32_t bit = 0; bit < 8 * LOG_HEAD_BYTES; bit++) {
            memcpy(c, b, sizeof c);
            c[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (log_head_get(c, &got) != E_CORRUPT)
                t_fail(__FILE__, __LINE__, "version %u, bit %u: believed", v, bit);
        }
    }
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(one_row_and_one_frame_cost_what_both_lost_at_most),
       ROW(what_was_lost_is_said_until_the_damaged_files_are_deleted),
       ROW(what_is_set_aside_is_said_with_its_size_and_how_to_remove_it),
       ROW(a_session_of_which_only_others_speak_is_named),
       ROW(a_lost_frame_costs_what_was_in_it), ROW(nothing_wins_over_a_newer_row),
       ROW(both_copies_hurt_is_never_worse_than_what_both_lost),
       ROW(sessions_that_no_copy_names_any_more_are_said),
       ROW(many_bits_in_both_copies_are_never_silent),
       ROW(what_another_user_may_not_read_is_left_alone),
       ROW(too_few_descriptors_refuse_and_change_nothing),
       ROW(a_process_that_cannot_be_made_refuses_and_changes_nothing),
       ROW(a_rebuild_killed_at_every_step_loses_nothing),
       ROW(a_rebuild_may_be_killed_at_any_instant),
       ROW(a_store_of_version_2_opens_and_is_merged),
       ROW(a_start_on_version_2_killed_at_every_step_loses_nothing),
       ROW(what_is_no_file_is_refused_at_once), ROW(copies_of_two_stores_are_refused),
       ROW(a_walker_of_the_old_index_is_not_believed),
       ROW(a_flipped_bit_in_a_log_header_is_never_a_newer_version))
