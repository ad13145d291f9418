/* test_logheal.c - a turn log that others cut, overwrite or put back while the store is open. */
#include "tests/kvstore/heal.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/hurt_readdir.h"
#include <glob.h>

static void log_cut(off_t to)
{
    glob_t v;
    char pattern[512];

    snprintf(pattern, sizeof pattern, "%.400s/log/seg-*", g.dir);
    CHECK_EQ(glob(pattern, 0, NULL, &v), 0);
    for (size_t i = 0; i < v.gl_pathc; i++)
        CHECK_EQ(truncate(v.gl_pathv[i], to), 0);
    globfree(&v);
}

/* The index has all of it, and is what is cut next. */
static void a_log_that_is_cut_is_made_anew(void)
{
    static const off_t to[] = {0, PAGE, 3 * PAGE};

    for (int k = 0; k < 6; k++) {
        open_rig(false);
        log_cut(to[k / 2]);
        if (k % 2)
            CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        g.s->guard_ns = 0;
        do
            rig_turn(&g);
        while (ckpt_busy(g.s) || g.s->ckpt.trim);
        CHECK(said("was cut short by another program"));
        CHECK(!g.s->log_hurt);
        int fd = index_fd();
        CHECK_EQ(ftruncate(fd, 0), 0);
        close(fd);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 1, k % 2 ? TOKENS + 10 : TOKENS));
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        all_is_there();
        rig_fini(&g);
    }
}

/* In place, so that its length says nothing: n times the byte x, 0: all that follows. */
static void log_overwritten(off_t from, off_t n, int x)
{
    glob_t v;
    char pattern[512];
    uint8_t b[PAGE];
    struct stat st;

    memset(b, x, sizeof b);
    snprintf(pattern, sizeof pattern, "%.400s/log/seg-*", g.dir);
    CHECK_EQ(glob(pattern, 0, NULL, &v), 0);
    for (size_t i = 0; i < v.gl_pathc; i++) {
        int fd = open(v.gl_pathv[i], O_RDWR);
        CHECK(fd >= 0);
        past(fd);
        CHECK_EQ(fstat(fd, &st), 0);
        off_t to = n ? from + n : st.st_size;
        for (off_t at = from, one; at < to; at += one) {
            one = to - at < PAGE ? to - at : PAGE;
            CHECK_EQ(pwrite(fd, b, (size_t)one, at), one);
        }
        close(fd);
    }
    globfree(&v);
}

static void looked_at(void)
{
    for (int i = 0; i < 3; i++) {
        g.s->guard_ns = 0;
        do
            rig_turn(&g);
        while (ckpt_busy(g.s) || g.s->ckpt.trim);
    }
}

static void a_log_that_is_overwritten_is_made_anew(void)
{
    static const struct {
        off_t from, n;
        int x;
    } hit[] = {
        {3 * PAGE, 1, 0x5a}, {3 * PAGE, PAGE, 0x5a}, {PAGE, 0, 0}}; /* the last: no frame */

    for (int k = 0; k < 6; k++) {
        open_rig(false);
        looked_at();
        log_overwritten(hit[k / 2].from, hit[k / 2].n, hit[k / 2].x);
        if (k % 2)
            CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
        looked_at();
        CHECK(said("was overwritten by another program"));
        CHECK(!g.s->log_hurt && !g.s->log_touched);
        int fd = index_fd();
        CHECK_EQ(ftruncate(fd, 0), 0);
        close(fd);
        all_is_there();
        CHECK(rig_tokens_ok(&g, 1, k % 2 ? TOKENS + 10 : TOKENS));
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        all_is_there();
        rig_fini(&g);
    }
}

static size_t log_names(glob_t *v)
{
    char pattern[512];

    snprintf(pattern, sizeof pattern, "%.400s/log/seg-????", g.dir);
    return glob(pattern, 0, NULL, v) == 0 ? v->gl_pathc : 0;
}

/* Gone is gone: what comes after it is trimmed as ever, and nobody is told where it was kept. */
static void a_file_of_the_log_that_is_removed_is_no_obstacle(void)
{
    uint64_t at = TOKENS;
    glob_t v = {0};

    open_rig(false);
    while (log_names(&v) < 2 && at < 4000000) {
        globfree(&v);
        CHECK_EQ(rig_talk(&g, 1, at, at + 100000), 0);
        at += 100000;
    }
    CHECK_EQ(v.gl_pathc, 2);
    looked_at();
    CHECK_EQ(unlink(v.gl_pathv[0]), 0);
    globfree(&v);
    looked_at();
    CHECK(said("has lost a file, which was removed by another program"));
    CHECK(!g.s->log_hurt);
    CHECK_EQ(log_names(&v), 1);
    globfree(&v);
    rig_close(&g);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(said("nothing is missing"));
    CHECK(rig_tokens_ok(&g, 1, at));
    all_is_there();
    rig_fini(&g);
}

static int fail_ckpt(void *user, const struct sys_event *e)
{
    (void)user;
    return rig_is_ckpt(e) ? -ENOSPC : 0;
}

/* No room for a new one: it is still hurt, and made anew when there is. */
static void a_log_that_could_not_be_made_anew_is_still_hurt(void)
{
    open_rig(false);
    looked_at();
    g.s->sys.hook = fail_ckpt;
    log_overwritten(3 * PAGE, PAGE, 0x5a);
    looked_at();
    CHECK(said("was overwritten by another program"));
    CHECK(g.s->log_hurt);
    g.s->sys.hook = NULL;
    g.s->ckpt.again_ns = 0;
    looked_at();
    CHECK(!g.s->log_hurt);
    int fd = index_fd();
    CHECK_EQ(ftruncate(fd, 0), 0);
    close(fd);
    all_is_there();
    rig_reopen(&g);
    CHECK(g.rep.clean && !g.rep.rebuilt);
    all_is_there();
    rig_fini(&g);
}

static void log_touched(void)
{
    static const struct timespec other[2] = {{1, 0}, {1, 0}};
    glob_t v;
    char pattern[512];

    snprintf(pattern, sizeof pattern, "%.400s/log/seg-*", g.dir);
    CHECK_EQ(glob(pattern, 0, NULL, &v), 0);
    for (size_t j = 0; j < v.gl_pathc; j++)
        CHECK_EQ(utimensat(AT_FDCWD, v.gl_pathv[j], other, 0), 0);
    globfree(&v);
}

/* Nor is a log that lacks nothing: touched by others, or written to by the store itself. */
static void a_log_that_was_touched_stays(void)
{
    open_rig(false);
    looked_at();
    log_touched();
    looked_at();
    CHECK(!said("by another program"));
    CHECK(!g.s->log_touched);
    for (uint64_t t = 0; t < 5; t++) {
        CHECK_EQ(rig_talk(&g, 1, TOKENS + 10 * t, TOKENS + 10 * t + 10), 0);
        looked_at();
        CHECK(!g.s->log_touched);
    }
    CHECK_EQ(hurt_count(g.dir, ".bad-"), 0);
    rig_fini(&g);
}

/* --- both copies ------------------------------------------------------------------------------- */

static bool marked(uint64_t s)
{
    return hurt_is_marked(&g, s);
}

static bool loss_stands(void)
{
    struct kvs_stats st;
    bool is = false;

    kvs_stats(g.s, &st);
    for (uint32_t i = 0; i < st.n_warnings; i++)
        is |= strstr(st.warning[i], "which is in neither copy") != NULL;
    return is;
}

/* Both are older when the group has written its frame, which so lies behind a hole. */
struct both {
    uint8_t *index, *log;
    size_t index_bytes, log_bytes;
    bool due;
};
static int both_at_sync(void *user, const struct sys_event *e)
{
    struct both *x = user;
    char log[512];

    if (!x->due || e->op != SYS_SYNC || e->after)
        return 0;
    x->due = false;
    snprintf(log, sizeof log, "%.400s/log/seg-0001", g.dir);
    size_t end = x->log_bytes;
    while (end && !x->log[end - 1])
        end--;
    uint8_t none[8] = {0}; /* what follows the older copy's end */
    int fd = open(log, O_WRONLY);
    CHECK(fd >= 0);
    CHECK_EQ(pwrite(fd, none, sizeof none, (off_t)((end + 7) & ~7ull)), 8);
    close(fd);
    index_put_back(x->index, x->index_bytes);
    return 0;
}

static void a_group_behind_what_neither_has_is_kept(void)
{
    struct both x = {.due = true};
    char log[512];

    open_rig(false);
    hurt_path(&g, "log/seg-0001", log);
    x.index = index_read(g.dir, &x.index_bytes);
    x.log = hurt_load(log, &x.log_bytes);
    CHECK_EQ(rig_talk(&g, 3, TOKENS, TOKENS + 10), 0);
    g.s->sys.hook = both_at_sync;
    g.s->sys.user = &x;
    CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0);
    CHECK(!x.due);
    g.s->sys.hook = NULL;
    CHECK(!said("nothing is missing"));
    CHECK(marked(3) && !marked(1));
    CHECK_EQ(rig_talk(&g, 3, TOKENS + 10, TOKENS + 20), E_CORRUPT);
    CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
    looked_at();
    CHECK(!g.s->log_hurt);
    rig_close(&g);
    rig_no_index(&g);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(marked(3));
    CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
    CHECK(rig_tokens_ok(&g, 2, TOKENS + 10));
    all_is_there();
    free(x.index);
    free(x.log);
    rig_fini(&g);
}

/* The store remembers how far it had come, and neither copy reaches as far: older ones of both, or
 * of the index beside a log that has lost its end. */
static void what_neither_copy_has_is_no_nothing(void)
{
    size_t bytes, log_bytes;
    struct stat was;
    char log[512];

    for (int k = 0; k < 8; k++) {
        int how =
            k / 2; /* the log older, cut, older and first met by who goes on, the oldest */
        open_rig(k % 2);
        snprintf(log, sizeof log, "%.400s/log/seg-0001", g.dir);
        uint8_t *old = index_read(g.dir, &bytes), *old_log = hurt_load(log, &log_bytes);
        CHECK_EQ(rig_talk(&g, 3, TOKENS, TOKENS + 10), 0);
        free(how == 3 ? old : old_log);
        if (how == 3)
            old = index_read(g.dir, &bytes);
        else
            old_log = hurt_load(log, &log_bytes);
        size_t end = log_bytes;
        while (end && !old_log[end - 1])
            end--;
        for (uint64_t t = 1; t < 4; t++)
            CHECK_EQ(rig_talk(&g, 3, TOKENS + 10 * t, TOKENS + 10 * t + 10), 0);
        int fd = open(log, O_RDWR);
        CHECK(fd >= 0 && fstat(fd, &was) == 0);
        past(fd);
        if (how == 1)
            CHECK_EQ(ftruncate(fd, (off_t)end + 20), 0);
        else
            CHECK_EQ(pwrite(fd, old_log, log_bytes, 0), (ssize_t)log_bytes);
        if (how != 1) /* the merge alone finds it */
            CHECK_EQ(futimens(fd, (struct timespec[2]){was.st_atim, was.st_mtim}), 0);
        close(fd);
        index_put_back(old, bytes);
        free(old);
        free(old_log);
        if (how == 2)
            CHECK_EQ(rig_talk(&g, 3, TOKENS + 40, TOKENS + 50), E_CORRUPT);
        CHECK_EQ(rig_talk(&g, 1, TOKENS, TOKENS + 10), 0); /* it goes on */
        CHECK_EQ(rig_talk(&g, 3, TOKENS + 40, TOKENS + 50), E_CORRUPT);
        CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
        CHECK(!said("nothing is missing"));
        CHECK(loss_stands());
        CHECK(marked(3));
        CHECK(rig_tokens_ok(&g, 3, TOKENS + 10));
        CHECK(!rig_tokens_ok(&g, 3, TOKENS + 11));
        if (!g.threads)
            looked_at();
        hurt_path(&g, "log", log);
        for (int i = 0; i < 400 && g.threads && !hurt_count(log, ".bad-"); i++)
            usleep(10000);
        CHECK_EQ(hurt_count(log, ".bad-"), 1); /* made anew, the old one kept */
        rig_rest(&g);
        CHECK(!g.s->log_hurt);
        rig_reopen(&g);
        CHECK(g.rep.clean && !g.rep.rebuilt);
        CHECK(loss_stands());
        CHECK(marked(3));
        CHECK(rig_tokens_ok(&g, 3, TOKENS + 10));
        CHECK(rig_tokens_ok(&g, 1, TOKENS + 10));
        CHECK(rig_tokens_ok(&g, 2, TOKENS + 10));
        all_is_there();
        CHECK_EQ(rig_talk(&g, 3, TOKENS + 10, TOKENS + 20), 0);
        rig_close(&g); /* the log has all of it, too */
        rig_no_index(&g);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(rig_tokens_ok(&g, 3, TOKENS + 20));
        CHECK(rig_tokens_ok(&g, 2, TOKENS + 10));
        all_is_there();
        rig_fini(&g);
    }
}

static int bad_stat; /* so often stat fails under log/, with a disk's error */

int stat(const char *restrict path, struct stat *restrict st)
{
    if (bad_stat > 0 && strstr(path, "/log/")) {
        bad_stat--;
        errno = EIO;
        return -1;
    }
    return fstatat(AT_FDCWD, path, st, 0);
}

/* Nobody has written to it: it is not blamed on another program, and no file of it is put aside. */
static void a_log_that_cannot_be_looked_at_is_not_blamed_on_others(void)
{
    static const int times[] = {1, 2, 3, 1000};
    struct kvs_stats st;
    char dir[512];

    for (int k = 0; k < 24; k++) {
        open_rig(false);
        looked_at();
        bool names = k & 1, talk = k & 2, once = times[k / 4 % 4] < 4;
        bad_dir.code = k < 16 ? 0 : ENOMEM; /* the disk's, or one that passes */
        if (names)
            bad_dir_set("/log", times[k / 4 % 4] % 4 + 1, !once);
        else
            bad_stat = k < 16 ? times[k / 4 % 4] : 0;
        if (talk)
            (void)rig_talk(&g, 1, TOKENS, TOKENS + 10);
        looked_at();
        bool failed = names ? bad_dir.failed > 0 : k < 16;
        CHECK(failed || k >= 16);
        bad_dir_set(NULL, 0, false);
        bad_stat = 0;
        looked_at();
        CHECK(!said("another program"));
        CHECK(!g.s->log_hurt);
        kvs_stats(g.s, &st);
        if (k >= 16)
            CHECK_EQ(st.fault, 0);
        else if (once && st.fault == 0) /* it met what is tried again */
            ;
        else if (st.fault != -EROFS || !strstr(st.warning[0], "looking at the turn log") ||
                 !strstr(st.warning[0], "check the disk"))
            t_fail(__FILE__, __LINE__, "%d: %d, %s", k, st.fault, st.warning[0]);
        snprintf(dir, sizeof dir, "%.400s/log", g.dir);
        CHECK_EQ(hurt_count(dir, ".bad-"), 0);
        if (k >= 16)
            CHECK_EQ(rig_talk(&g, 2, TOKENS, TOKENS + 10), 0);
        rig_reopen(&g);
        CHECK(!g.rep.rebuilt && g.s->fault == 0);
        all_is_there();
        CHECK_EQ(hurt_count(dir, ".bad-"), 0);
        rig_fini(&g);
    }
    bad_dir.code = 0;
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_log_that_is_cut_is_made_anew), ROW(a_log_that_is_overwritten_is_made_anew),
       ROW(a_file_of_the_log_that_is_removed_is_no_obstacle),
       ROW(a_log_that_cannot_be_looked_at_is_not_blamed_on_others),
       ROW(a_log_that_could_not_be_made_anew_is_still_hurt), ROW(a_log_that_was_touched_stays),
       ROW(a_group_behind_what_neither_has_is_kept), ROW(what_neither_copy_has_is_no_nothing))
