/* test_guard.c - what happens to a store from outside: its directory, its lock, the clock. */
#include "kvstore/lived.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const uint64_t SEC = 1000000000u, HOUR = 3600 * SEC, DAY = 24 * HOUR;

static bool said(struct rig *g, const char *a, const char *b)
{
    char note[512];
    bool yes = false;

    while (kvs_note(g->s, note, sizeof note)) {
        printf("    %s\n", note);
        yes |= strstr(note, a) && strstr(note, b);
    }
    return yes;
}

static bool said_soon(struct rig *g, const char *a, const char *b)
{
    struct timespec pause = {0, 50000000};

    for (int i = 0; i < 100 * T_SLOWER; i++) {
        if (said(g, a, b))
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

static void start(struct rig *g)
{
    rig_init(g, KVS_IO_THREADS, true);
    CHECK_EQ(rig_open(g), 0);
    CHECK_EQ(rig_talk(g, 1, 0, 100), 0);
    CHECK_EQ(rig_put(g, 1, 0), 0);
}

static void do_remove(const char *dir, const char *to)
{
    (void)to;
    CHECK_EQ(rig_rm(dir), 0);
}
static void do_move(const char *dir, const char *to)
{
    CHECK_EQ(rename(dir, to), 0);
}
static void do_replace(const char *dir, const char *to)
{
    char cmd[800];

    CHECK_EQ(rename(dir, to), 0);
    snprintf(cmd, sizeof cmd, "mkdir -p '%.300s/log' '%.300s/kv/test'", dir, dir);
    CHECK_EQ(system(cmd), 0);
}

/* The very first answer after it says so: none is given for what nobody will find. */
static void a_directory_that_is_gone_takes_no_acknowledgement_along(void)
{
    static const struct {
        const char *name, *words;
        void (*act)(const char *dir, const char *to);
    } row[] = {{"removed", "removed", do_remove},
               {"moved", "was moved to", do_move},
               {"replaced", "was moved to", do_replace}};

    for (unsigned i = 0; i < 3; i++) {
        struct rig g;
        char to[300];
        struct kvs_stats st;

        start(&g);
        snprintf(to, sizeof to, "%.250s-moved", g.dir);
        row[i].act(g.dir, to);
        CHECK_EQ(rig_talk(&g, 1, 100, 200), -EROFS);
        CHECK_EQ(rig_put(&g, 1, 1), -EROFS);
        kvs_stats(g.s, &st);
        CHECK_EQ(st.fault, -EROFS);
        if (!said(&g, g.dir, row[i].words))
            t_fail(__FILE__, __LINE__, "%s: nothing is said", row[i].name);
        CHECK(rig_tokens_ok(&g, 1, 100)); /* reads go on */
        rig_fini(&g);
        if (row[i].act == do_remove)
            continue;
        snprintf(g.dir, sizeof g.dir, "%.255s", to); /* where it was said to be */
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!g.rep.clean);
        CHECK(rig_tokens_ok(&g, 1, 100));
        CHECK_EQ(rig_get(&g, 1, 0, NULL), 0);
        rig_fini(&g);
    }
}

/* A tmpfs of our own, in names that nobody else sees. */
static void mounted(char ret[300])
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        t_skip("only root can mount");
    snprintf(ret, 300, "%.250s/disk", t_tmpdir());
    CHECK(mkdir(ret, 0700) == 0 || errno == EEXIST);
    CHECK_EQ(mount("tmpfs", ret, "tmpfs", 0, NULL), 0);
}

/* Its path is then one in a file system that has no place: nobody is to move anything there. */
static void a_directory_that_was_unmounted_was_not_moved(void)
{
    char disk[300], all[2000], dir[256];
    struct rig g;

    for (int over = 0; over < 2; over++) {
        mounted(disk);
        rig_init(&g, KVS_IO_THREADS, true);
        snprintf(dir, sizeof dir, "%s", g.dir);
        snprintf(g.dir, sizeof g.dir, "%.240s/state", disk);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
        if (over)
            CHECK_EQ(mount("tmpfs", disk, "tmpfs", 0, NULL), 0);
        else
            CHECK_EQ(umount2(disk, MNT_DETACH), 0);
        CHECK_EQ(rig_talk(&g, 1, 100, 200), -EROFS);
        hurt_notes(&g, all, sizeof all);
        if (!strstr(all, "unmounted") || !strstr(all, "mount it there again") ||
            strstr(all, "mv ") || strstr(all, "moved to"))
            t_fail(__FILE__, __LINE__, "%s", all);
        rig_close(&g);
        if (over) {
            CHECK_EQ(umount(disk), 0);
            CHECK_EQ(rig_open(&g), 0);
            CHECK(rig_tokens_ok(&g, 1, 100));
            rig_close(&g);
            CHECK_EQ(umount(disk), 0);
        }
        snprintf(g.dir, sizeof g.dir, "%s", dir);
        rig_fini(&g);
    }
}

static void a_disk_for_reading_only_is_to_be_mounted_for_writing(void)
{
    char disk[300], dir[256];
    struct rig g;

    mounted(disk);
    rig_init(&g, KVS_IO_THREADS, true);
    snprintf(dir, sizeof dir, "%s", g.dir);
    for (int there = 0; there < 2; there++) {
        snprintf(g.dir, sizeof g.dir, "%.240s/state", disk);
        if (there)
            CHECK_EQ(mkdir(g.dir, 0700), 0);
        CHECK_EQ(mount(NULL, disk, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
        g.eb.s[0] = 0;
        CHECK_EQ(rig_open(&g), -EROFS);
        if (!strstr(g.eb.s, "mount its file system for writing") || strstr(g.eb.s, "owner"))
            t_fail(__FILE__, __LINE__, "%s", g.eb.s);
        CHECK_EQ(mount(NULL, disk, NULL, MS_REMOUNT, NULL), 0);
    }
    CHECK_EQ(umount(disk), 0);
    snprintf(g.dir, sizeof g.dir, "%s", dir);
    rig_fini(&g);
}

static void a_directory_that_is_gone_is_noticed_without_any_work(void)
{
    struct rig g;
    char to[300];

    start(&g);
    snprintf(to, sizeof to, "%.250s-moved", g.dir);
    do_move(g.dir, to);
    CHECK(said_soon(&g, g.dir, to));
    do_move(to, g.dir);
    rig_fini(&g);
}

static void index_or_log_taken_away_lose_nothing_acknowledged(void)
{
    static const char *const name[] = {"index.mdb", "log", "log/seg-0001"};

    for (unsigned i = 0; i < 3; i++)
        for (int replaced = 0; replaced < 2; replaced++) {
            struct rig g;
            char path[512], cmd[1200];

            start(&g);
            snprintf(path, sizeof path, "%s/%s", g.dir, name[i]);
            snprintf(cmd, sizeof cmd,
                     replaced ? "cp -a %s %s-2 && rm -r %s && mv %s-2 %s" : "rm -r %s", path,
                     path, path, path, path);
            CHECK_EQ(system(cmd), 0);
            CHECK_EQ(rig_talk(&g, 1, 100, 200), -EROFS);
            CHECK(said(&g, i ? "/log" : "/index.mdb", "while in use"));
            rig_reopen(&g);
            CHECK(rig_tokens_ok(&g, 1, 100));
            CHECK_EQ(rig_get(&g, 1, 0, NULL), 0);
            uint64_t end = 0;
            struct kvs_id id = rig_id(1, 0);
            CHECK_EQ(kvs_branch_end(g.s, &id, &end), 0);
            CHECK_EQ(rig_talk(&g, 1, end, end + 50), 0);
            rig_fini(&g);
        }
}

/* --- two of them --------------------------------------------------------------------------------- */

static int another(const struct rig *g, const char *dir, struct errbuf *eb)
{
    struct kvs_opts o = g->o;
    struct kvstore *s = NULL;

    o.dir = dir;
    int r = kvs_open(&s, &o, NULL, eb);
    if (r == 0)
        kvs_close(s);
    return r;
}

static void a_store_is_locked_by_what_it_is_not_by_a_name(void)
{
    struct rig g;
    char lock[512], link[300];
    struct errbuf eb = {{0}};

    start(&g);
    snprintf(lock, sizeof lock, "%s/store.lock", g.dir);
    snprintf(link, sizeof link, "%.250s-link", g.dir);
    CHECK_EQ(symlink(g.dir, link), 0);
    CHECK_EQ(another(&g, link, &eb), -EBUSY);
    CHECK_EQ(unlink(lock), 0);
    CHECK_EQ(another(&g, link, &eb), -EBUSY);
    printf("    %s\n", eb.s);
    CHECK(said_soon(&g, "store.lock", "made again"));
    CHECK_EQ(rig_talk(&g, 1, 100, 200), 0);
    CHECK_EQ(another(&g, g.dir, &eb), -EBUSY);
    CHECK(strstr(eb.s, "process")); /* and says whose it is */
    rig_reopen(&g);
    CHECK(rig_tokens_ok(&g, 1, 200));
    CHECK_EQ(unlink(link), 0);
    rig_fini(&g);
}

/* It would refuse the next start, and a pipe can be opened and locked as well. */
static void what_is_no_file_does_not_stay_for_the_lock(void)
{
    for (int k = 0; k < 4; k++) {
        struct rig g;
        char lock[512], moved[520];
        struct stat st;
        struct kvs_stats said;
        struct errbuf eb = {{0}};

        start(&g);
        snprintf(lock, sizeof lock, "%s/store.lock", g.dir);
        snprintf(moved, sizeof moved, "%s-moved", lock);
        CHECK_EQ(rename(lock, moved), 0);
        CHECK_EQ(k == 0   ? mkfifo(lock, 0600)
                 : k == 1 ? mkdir(lock, 0700)
                 : k == 2 ? symlink("elsewhere", lock)
                          : symlink(moved, lock), /* and so to what is locked */
                 0);
        CHECK(said_soon(&g, "store.lock", "made again"));
        CHECK(lstat(lock, &st) == 0 && S_ISREG(st.st_mode));
        CHECK_EQ(hurt_count(g.dir, "store.lock.bad-"), 1);
        CHECK_EQ(hurt_count(g.dir, "elsewhere"), 0);
        CHECK_EQ(rig_talk(&g, 1, 100, 200), 0);
        CHECK_EQ(another(&g, g.dir, &eb), -EBUSY);
        rig_reopen(&g);
        CHECK(rig_tokens_ok(&g, 1, 200));
        kvs_stats(g.s, &said); /* the command for damaged files would leave it */
        CHECK_EQ(said.n_warnings, 0);
        rig_fini(&g);
    }
}

/* A directory that cannot be searched says nothing of what is in it. */
static void a_lock_that_cannot_be_looked_at_is_not_said_to_be_gone(void)
{
    struct errbuf eb = {{0}};
    char words[KVS_WORDS];
    struct rig g;
    bool seen = false;

    if (geteuid())
        t_skip("only root can be another user for a while");
    start(&g);
    for (int k = 0; k < 2; k++) {
        seen = false;
        CHECK_EQ(seteuid(65534), 0);
        for (int i = 0; i < 100 * T_SLOWER && !seen; i++) {
            usleep(50000);
            while (kvs_note(g.s, words, sizeof words)) {
                seen |= strstr(words, "store.lock cannot be looked at (Permission denied)") &&
                        strstr(words, "chmod");
                CHECK(!strstr(words, "deleted"));
            }
        }
        CHECK_EQ(seteuid(0), 0);
        CHECK(seen);
        usleep(k ? 0 : 2200000); /* seen again, and so to be said again */
    }
    CHECK_EQ(rig_talk(&g, 1, 100, 200), 0);
    CHECK_EQ(another(&g, g.dir, &eb), -EBUSY);
    rig_fini(&g);
}

/* An older program knows only store.lock: it may have come in when that was deleted. */
static void a_lock_that_another_has_meanwhile_stops_the_store(void)
{
    struct rig g;
    char lock[512];
    struct kvs_stats st;

    start(&g);
    snprintf(lock, sizeof lock, "%s/store.lock", g.dir);
    CHECK_EQ(unlink(lock), 0);
    int fd = open(lock, O_RDWR | O_CREAT, 0600);
    CHECK_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
    CHECK(said_soon(&g, "store.lock", "two programs"));
    CHECK_EQ(rig_talk(&g, 1, 100, 200), -EROFS);
    kvs_stats(g.s, &st);
    CHECK_EQ(st.fault, -EROFS);
    close(fd);
    rig_reopen(&g);
    CHECK(rig_tokens_ok(&g, 1, 100));
    rig_fini(&g);
}

/* --- the clock ---------------------------------------------------------------------------------- */

static _Atomic int64_t off;

static uint64_t shown(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * SEC + (uint64_t)t.tv_nsec + (uint64_t)off;
}

static int request(struct rig *g, uint64_t n)
{
    struct kvs_req q = {.owner = 5,
                        .id = rig_id(9, n),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .state = KVS_REQ_ENDED,
                        .time_ns = shown(),
                        .reply = "{}",
                        .reply_bytes = 2};
    struct kvs_rec rec = {.kind = KVS_REC_REQ, .req = &q};

    return rig_batch(g, &rec, 1);
}

static int request_there(struct rig *g, uint64_t n)
{
    struct kvs_id id = rig_id(9, n);
    struct kvs_req q;
    char *reply = NULL;
    int r = kvs_req_get(g->s, 5, &id, &q, &reply);

    free(reply);
    return r;
}

static void a_clock_that_was_wrong_makes_nothing_old(void)
{
    static const int64_t by[] = {-400, 400};

    for (int i = 0; i < 2; i++) {
        struct rig g;

        off = by[i] * (int64_t)DAY;
        rig_init(&g, KVS_IO_THREADS, true);
        g.env.wall_off_ns = &off;
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
        CHECK_EQ(request(&g, 1), 0);
        rig_close(&g);
        off = 0; /* set right between two runs */
        CHECK_EQ(rig_open(&g), 0);
        CHECK(said(&g, i ? "set back by" : "set forward by", "400 days"));
        CHECK_EQ(request_there(&g, 1), 0);
        CHECK_EQ(request(&g, 2), 0);
        rig_reopen(&g);
        CHECK_EQ(request_there(&g, 1), 0);
        CHECK_EQ(request_there(&g, 2), 0);
        rig_fini(&g);
    }
}

static void a_clock_set_while_it_runs_makes_nothing_old(void)
{
    struct timespec pause = {1, 300000000};
    struct rig g;

    off = 0;
    rig_init(&g, KVS_IO_THREADS, true);
    g.env.wall_off_ns = &off;
    g.env.forget_ns = 20000000;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    CHECK_EQ(request(&g, 1), 0);
    off = 400 * (int64_t)DAY;
    nanosleep(&pause, NULL);
    CHECK(said(&g, "set forward by 400 days", "check the date"));
    CHECK_EQ(request_there(&g, 1), 0);
    CHECK_EQ(request(&g, 2), 0);
    uint64_t ahead = shown();
    off = 0;
    nanosleep(&pause, NULL);
    CHECK(said(&g, "set back by 400 days", "check the date"));
    CHECK_EQ(request_there(&g, 1), 0);
    CHECK_EQ(request_there(&g, 2), 0);
    uint64_t age = kvs_age_ns(g.s, ahead); /* and it does get older */
    CHECK(age > SEC / 2 && age < 60 * SEC * T_SLOWER);
    rig_fini(&g);
}

/* Whoever keeps what he has heard takes the same sentence for the same thing. */
static void a_clock_that_is_set_by_as_much_again_is_said_again(void)
{
    struct timespec pause = {1, 300000000};
    char first[2000], second[2000];
    struct rig g;

    off = 0;
    rig_init(&g, KVS_IO_THREADS, true);
    g.env.wall_off_ns = &off;
    CHECK_EQ(rig_open(&g), 0);
    off = 400 * (int64_t)DAY;
    nanosleep(&pause, NULL);
    CHECK_EQ(hurt_notes(&g, first, sizeof first), 1);
    off = 800 * (int64_t)DAY;
    nanosleep(&pause, NULL);
    CHECK_EQ(hurt_notes(&g, second, sizeof second), 1);
    CHECK(strstr(first, "set forward by 400 days, to ") && strstr(second, "by 400 days, to "));
    CHECK(strcmp(first, second) != 0);
    rig_fini(&g);
}

static void a_day_that_was_set_begins_no_new_budget(void)
{
    struct timespec pause = {1, 300000000};
    struct rig g;
    int res = 0;

    off = 0;
    rig_init(&g, KVS_IO_THREADS, true);
    g.env.wall_off_ns = &off;
    g.o.day_bytes = 100 * RIG_SLOT;
    CHECK_EQ(rig_open(&g), 0);
    for (uint32_t n = 0; n < 100 && res == 0; n++)
        res = rig_put(&g, 1, n);
    CHECK_EQ(res, -EDQUOT);
    off = (int64_t)DAY;
    nanosleep(&pause, NULL);
    CHECK_EQ(rig_put(&g, 1, 200), -EDQUOT);
    rig_close(&g);
    off = 0;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_put(&g, 1, 201), -EDQUOT);
    rig_fini(&g);
}

/* Years of a machine whose clock, boots and pauses are chance: no age is ever above what went
 * by, and where the clock was not touched it is what went by. */
static void ages_are_never_above_what_went_by(void)
{
    uint64_t seed = t_seed(), rnd = seed;

    for (int run = 0; run < 200; run++) {
        struct lived c;
        struct lived_now now = {.boot = {1}, .uptime_ns = HOUR, .wall_ns = 1700000000 * SEC};
        uint64_t went = 0, stamp[40], at[40], exact_from = 0;
        uint8_t b[LIVED_BYTES];
        int n = 0;

        CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
        for (int step = 0; step < 300; step++) {
            uint64_t dt = rig_rand(&rnd) % (2 * HOUR);
            uint64_t what = rig_rand(&rnd) % 20;
            now.uptime_ns += dt;
            now.wall_ns += dt;
            went += dt;
            if (what == 0 || what == 1) { /* set, back and forth */
                int64_t by = (int64_t)(rig_rand(&rnd) % (800 * DAY)) - 400 * (int64_t)DAY;
                now.wall_ns += (uint64_t)by;
                CHECK((lived_tick(&c, &now) != 0) == (by > 10000000000 || by < -10000000000));
                exact_from = UINT64_MAX;
            } else if (what == 2) { /* closed, and another boot after a night */
                (void)lived_tick(&c, &now);
                size_t k = lived_pack(&c, b);
                now.boot[1] = (uint8_t)step;
                now.boot[2] = (uint8_t)run;
                now.wall_ns += 9 * HOUR;
                now.uptime_ns = 20 * SEC;
                lived_fini(&c);
                (void)lived_begin(&c, b, k, 0, &now);
            } else if (what == 3) { /* closed and opened again in one boot */
                size_t k = lived_pack(&c, b);
                now.uptime_ns += 5 * HOUR;
                now.wall_ns += 5 * HOUR;
                went += 5 * HOUR;
                lived_fini(&c);
                CHECK_EQ(lived_begin(&c, b, k, 0, &now), 0);
            } else {
                CHECK_EQ(lived_tick(&c, &now), 0);
            }
            if (n < 40 && what > 3) {
                stamp[n] = now.wall_ns;
                at[n++] = went;
            }
            for (int i = 0; i < n; i++) {
                uint64_t age = lived_age(&c, stamp[i]), truth = went - at[i];
                if (age > truth + 130 * SEC || (exact_from == 0 && age + 130 * SEC < truth))
                    t_fail(__FILE__, __LINE__,
                           "SEED=%llu run %d step %d: age %llu s, truth %llu s",
                           (unsigned long long)seed, run, step, (unsigned long long)(age / SEC),
                           (unsigned long long)(truth / SEC));
            }
        }
        lived_fini(&c);
    }
}

/* A clock that was ahead when something was written must not keep it for ever. */
static void a_clock_set_back_keeps_nothing_for_ever(void)
{
    struct lived_now now = {.boot = {1}, .uptime_ns = HOUR, .wall_ns = 1700000000 * SEC};
    struct lived c;

    CHECK_EQ(lived_begin(&c, NULL, 0, 0, &now), 0);
    now.wall_ns += 400 * DAY;
    now.uptime_ns += 2 * SEC;
    CHECK(lived_tick(&c, &now) != 0);
    uint64_t stamp = now.wall_ns + SEC / 2;
    now.wall_ns -= 400 * DAY;
    for (int h = 0; h < 30; h++) {
        now.uptime_ns += HOUR;
        now.wall_ns += HOUR;
        (void)lived_tick(&c, &now);
    }
    CHECK(lived_age(&c, stamp) > 24 * HOUR);
    CHECK(lived_age(&c, stamp) < 31 * HOUR);
    lived_fini(&c);
}

#define ROW(name)                                                                              \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(ROW(a_directory_that_is_gone_takes_no_acknowledgement_along),
       ROW(a_directory_that_is_gone_is_noticed_without_any_work),
       ROW(index_or_log_taken_away_lose_nothing_acknowledged),
       ROW(a_store_is_locked_by_what_it_is_not_by_a_name),
       ROW(what_is_no_file_does_not_stay_for_the_lock),
       ROW(a_lock_that_another_has_meanwhile_stops_the_store),
       ROW(a_lock_that_cannot_be_looked_at_is_not_said_to_be_gone),
       ROW(a_directory_that_was_unmounted_was_not_moved),
       ROW(a_disk_for_reading_only_is_to_be_mounted_for_writing),
       ROW(a_clock_that_is_set_by_as_much_again_is_said_again),
       ROW(a_clock_that_was_wrong_makes_nothing_old),
       ROW(a_clock_set_while_it_runs_makes_nothing_old),
       ROW(a_day_that_was_set_begins_no_new_budget), ROW(ages_are_never_above_what_went_by),
       ROW(a_clock_set_back_keeps_nothing_for_ever))
