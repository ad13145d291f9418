/* test_merge.c - both copies of the truth hurt: what either of them holds intact is kept, what
 * neither holds is said.
 *
 * EIO is put in place of pread for some files. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "kvstore/logfile.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/hurt_pread.h"
#include "tests/t.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
        /* A fork has its own record and nothing else: the frame that brings it, wherever it lies. */
        CHECK(hurt_log(&g, x.id.b, sizeof x.id.b, 20, true) > 0);
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
       ROW(a_session_of_which_only_others_speak_is_named),
       ROW(a_lost_frame_costs_what_was_in_it), ROW(nothing_wins_over_a_newer_row),
       ROW(both_copies_hurt_is_never_worse_than_what_both_lost),
       ROW(sessions_that_no_copy_names_any_more_are_said),
       ROW(many_bits_in_both_copies_are_never_silent),
       ROW(a_flipped_bit_in_a_log_header_is_never_a_newer_version))
