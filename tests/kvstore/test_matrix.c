/* test_matrix.c - every two parts of a store hurt at once, each in every way: nothing that is
 * intact is lost, what is lost is said, what could not be read is left as it is.
 *
 * A part is a file, a folder, or a place in a file (the lived clock's row, a segment's second
 * header).  Mode 000 wants a user who can be refused: root becomes one. */
#include "kvstore/slot.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/hurt_pread.h"
#include "tests/t.h"
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>

enum { BLOCKS = 36, SEGS = 2, NOBODY = 65534, FILES_MAX = 16, DAY_S = 86400 };

enum harm { H_BIT, H_CUT, H_ZERO, H_GONE, H_MODE, H_EIO, H_OTHER, H_ };
static const char *const harm_name[] = {"bit",  "cut", "zeroed",   "gone",
                                        "mode", "EIO", "put aside"};
#define ANY    ((1u << H_) - 1)
#define FOLDER (1u << H_GONE | 1u << H_MODE | 1u << H_EIO | 1u << H_OTHER)
#define PLACE  (1u << H_BIT | 1u << H_ZERO)

enum part_at { AT_ALL, AT_CLOCK, AT_HEAD, AT_TAIL }; /* the file, or a place in it */
static const struct part {
    const char *path;
    unsigned ways;
    enum part_at at;
    bool index, log; /* a copy of the sessions */
    int seg;         /* blocks: of this segment; -1: of all; 0: none */
} parts[] = {
    {"index.mdb", ANY, AT_ALL, true, false, 0},
    {"index.mdb", PLACE, AT_CLOCK, true, false, 0},
    {"index.mdb-lock", ANY, AT_ALL, false, false, 0},
    {"log/seg-0001", ANY, AT_ALL, false, true, 0},
    {"log/seg-0002", ANY, AT_ALL, false, true, 0},
    {"log", FOLDER, AT_ALL, false, true, 0},
    {"kv/test/seg-0001", ANY, AT_ALL, false, false, 1},
    {"kv/test/seg-0001", PLACE, AT_HEAD, false, false, 1},
    {"kv/test/seg-0001", PLACE, AT_TAIL, false, false, 1},
    {"kv/test/seg-0002", ANY, AT_ALL, false, false, 2},
    {"kv/test", FOLDER, AT_ALL, false, false, -1},
    {"kv", FOLDER, AT_ALL, false, false, -1},
    {"reserve", ANY, AT_ALL, false, false, 0},
    {"store.lock", ANY, AT_ALL, false, false, 0},
};
enum { PARTS = sizeof parts / sizeof *parts };

/* --- a folder that cannot be listed --------------------------------------------------------------- */

static char no_list[2][512];

DIR *opendir(const char *path)
{
    static DIR *(*real)(const char *);

    for (int i = 0; i < 2; i++)
        if (no_list[i][0] && strcmp(path, no_list[i]) == 0) {
            errno = EIO;
            return NULL;
        }
    if (!real)
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "opendir");
    return real(path);
}

/* --- the store that is hurt ------------------------------------------------------------------------ */

static struct rig base;
static struct {
    char sub[64];
    uint8_t *b;
    size_t n;
} file[FILES_MAX];
static int n_files;
static struct {
    int seg;
    uint64_t at;
} block_at[BLOCKS];

static int keep_file(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)f;
    if (type != FTW_F || !S_ISREG(st->st_mode))
        return 0;
    CHECK(n_files < FILES_MAX);
    snprintf(file[n_files].sub, sizeof file->sub, "%s", path + strlen(base.dir) + 1);
    file[n_files].b = hurt_load(path, &file[n_files].n);
    n_files++;
    return 0;
}

/* Which block lies where, by the slots' own headers. */
static void find_blocks(void)
{
    struct slot_head h;
    uint32_t crc;
    int found = 0;

    for (int i = 0; i < n_files; i++)
        for (uint64_t at = 4096;
             strncmp(file[i].sub, "kv/", 3) == 0 && at + RIG_SLOT <= file[i].n; at += RIG_SLOT)
            if (slot_head_get(file[i].b + at, &h, &crc) == 0) {
                uint64_t n = h.first_pos / BLOCK_TOKENS;
                CHECK(n < BLOCKS);
                block_at[n].seg = atoi(strrchr(file[i].sub, '-') + 1);
                block_at[n].at = at;
                found++;
            }
    CHECK_EQ(found, BLOCKS);
}

static void base_make(void)
{
    rig_init(&base, KVS_IO_THREADS, true);
    if (geteuid() == 0) {
        CHECK_EQ(chown(base.dir, NOBODY, NOBODY), 0);
        CHECK_EQ(seteuid(NOBODY), 0);
        CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0); /* else its own /proc/self is not its own */
    }
    base.o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(&base), 0);
    hurt_fill(&base);
    for (uint32_t i = 0; i < BLOCKS; i++)
        CHECK_EQ(rig_put(&base, 1, i), 0);
    rig_close(&base);
    n_files = 0;
    CHECK_EQ(nftw(base.dir, keep_file, 16, FTW_PHYS), 0);
    find_blocks();
}

static void base_fini(void)
{
    rig_fini(&base);
    if (getuid() == 0)
        CHECK_EQ(seteuid(0), 0);
    while (n_files)
        free(file[--n_files].b);
}

/* The same bytes in a new directory. */
static void copy_make(struct rig *g)
{
    char path[512];

    *g = base;
    g->o.dir = g->dir;
    snprintf(g->dir, sizeof g->dir, "%.200s-hurt", base.dir);
    const char *sub[] = {"", "/log", "/kv", "/kv/test"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%.200s%s", g->dir, sub[i]);
        CHECK_EQ(mkdir(path, 0700), 0);
    }
    for (int i = 0; i < n_files; i++) {
        hurt_path(g, file[i].sub, path);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
        CHECK(fd >= 0 && write(fd, file[i].b, file[i].n) == (ssize_t)file[i].n);
        close(fd);
    }
}

/* --- harm -------------------------------------------------------------------------------------------- */

static bool unread(enum harm h)
{
    return h == H_MODE || h == H_EIO || h == H_OTHER;
}

/* A place in a file: the clock's row is where its name is, in every copy of the page. */
static void harm_place(const char *path, const struct part *p, enum harm how, uint64_t *rnd)
{
    uint8_t zero[64] = {0};
    size_t n;
    uint8_t *b = hurt_load(path, &n);
    uint64_t r = rig_rand(rnd);
    int done = 0, fd = open(path, O_WRONLY);

    size_t from = p->at == AT_CLOCK ? 2 * 4096 : p->at == AT_TAIL ? n - 4096 : 0;
    for (size_t at = from; at + 72 < n; at++) {
        if (p->at == AT_CLOCK && memcmp(b + at, "clock", 5))
            continue;
        if (how == H_BIT)
            hurt_xor(path, at + 5 + r % 60, 0x10);
        else
            CHECK_EQ(pwrite(fd, zero, sizeof zero, (off_t)at + 5), sizeof zero);
        done++;
        if (p->at != AT_CLOCK)
            break;
    }
    close(fd);
    free(b);
    CHECK(done > 0 || p->at == AT_TAIL); /* the other damage may have taken it */
}

static void harm_bytes(const char *path, enum harm how, uint64_t *rnd)
{
    size_t n, used;
    uint8_t *b = hurt_load(path, &n);

    for (used = n; used > 1 && b[used - 1] == 0;)
        used--;
    uint64_t at = used ? rig_rand(rnd) % used : 0;
    if (n == 0) {
        ; /* nothing to hurt */
    } else if (how == H_BIT) {
        hurt_xor(path, at, (uint8_t)(1 << rig_rand(rnd) % 8));
    } else if (how == H_CUT) {
        CHECK_EQ(truncate(path, (off_t)at), 0);
    } else {
        int fd = open(path, O_WRONLY);
        at = at / 4096 * 4096;
        size_t m = rig_rand(rnd) % 2 && n - at > 4096 ? 4096 : n - at;
        memset(b, 0, m);
        CHECK_EQ(pwrite(fd, b, m, (off_t)at), (ssize_t)m);
        close(fd);
    }
    free(b);
}

/* Where what was put aside waits: beside the store, not in it. */
static void aside(const struct rig *g, int i, char ret[512])
{
    snprintf(ret, 512, "%.250s-away-%d", g->dir, i);
}

static void harm(const struct rig *g, int i, const struct part *p, enum harm how, uint64_t *rnd)
{
    char path[512], to[512];
    struct stat st;

    hurt_path(g, p->path, path);
    aside(g, i, to);
    if (lstat(path, &st) < 0)
        return; /* gone with the folder it was in */
    bool folder = S_ISDIR(st.st_mode);
    switch (how) {
    case H_GONE: CHECK_EQ(folder ? rig_rm(path) : unlink(path), 0); break;
    case H_MODE: CHECK_EQ(chmod(path, 0), 0); break;
    case H_EIO:
        if (folder)
            snprintf(no_list[i], sizeof no_list[i], "%s", path);
        else
            hurt_eio(path, st.st_size ? rig_rand(rnd) % (uint64_t)st.st_size : 0);
        break;
    case H_OTHER: /* a directory in a file's place, a file in a folder's */
        CHECK_EQ(rename(path, to), 0);
        CHECK(folder ? close(open(path, O_WRONLY | O_CREAT, 0600)) == 0
                     : mkdir(path, 0700) == 0);
        break;
    default:
        if (p->at == AT_ALL)
            harm_bytes(path, how, rnd);
        else
            harm_place(path, p, how, rnd);
    }
}

/* Everything can be read again.  What stands in the place of another goes, if it is as it was. */
static void unharm(const struct rig *g, int i, const struct part *p, enum harm how)
{
    char path[512], from[512];
    struct stat st;

    hurt_path(g, p->path, path);
    aside(g, i, from);
    no_list[i][0] = 0;
    if (how == H_MODE && lstat(path, &st) == 0)
        CHECK_EQ(chmod(path, S_ISDIR(st.st_mode) ? 0700 : 0600), 0);
    if (how == H_OTHER && lstat(from, &st) == 0) {
        CHECK_EQ(remove(path), 0); /* neither taken away nor filled */
        CHECK_EQ(rename(from, path), 0);
    }
}

/* --- what is there ------------------------------------------------------------------------------------ */

static uint64_t sum;
static size_t sum_skip;

static int sum_file(const char *path, const struct stat *st, int type, struct FTW *f)
{
    const char *sub = path + sum_skip;
    uint64_t h = 1469598103934665603u;

    (void)f;
    if (type != FTW_F || !S_ISREG(st->st_mode) || strcmp(sub, "store.lock") == 0 ||
        strstr(sub, "mdb-lock"))
        return 0;
    size_t n;
    uint8_t *b = hurt_load(path, &n);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = 0;
        memcpy(&v, b + i, n - i < 8 ? n - i : 8);
        h = (h ^ v) * 1099511628211u;
    }
    for (; *sub; sub++)
        h = (h ^ (uint8_t)*sub) * 1099511628211u;
    sum += h ^ n;
    free(b);
    return 0;
}

static uint64_t sum_all(const char *dir)
{
    sum = 0;
    sum_skip = strlen(dir) + 1;
    CHECK_EQ(nftw(dir, sum_file, 16, FTW_PHYS), 0);
    return sum;
}

static uint64_t sum_part(const struct rig *g, const struct part *p)
{
    char path[512];

    hurt_path(g, p->path, path);
    sum = 0;
    sum_skip = strlen(g->dir) + 1;
    return nftw(path, sum_file, 16, FTW_PHYS) == 0 ? sum : 0;
}

struct seen {
    int lost, marked, blocks;
    bool block[BLOCKS];
    char said[8192];
};

/* unknown: nothing that is left knows of the sessions' last turns. */
static void look(struct rig *g, const char *what, bool unknown, struct seen *ret)
{
    static struct rig_block b[BLOCKS];

    memset(ret, 0, sizeof *ret);
    if (!unknown)
        ret->lost = hurt_marked(g, what, &ret->marked);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        rig_block_set(g, &b[i], 1, i);
        rig_submit(g, &b[i], false);
    }
    rig_wait(g);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        ret->block[i] = b[i].r.res == 0;
        ret->blocks += ret->block[i];
        if ((b[i].r.res != 0 && b[i].r.res != -ENOENT) || b[i].wrong)
            t_fail(__FILE__, __LINE__, "%s: block %u: %d, wrong %d", what, i, b[i].r.res,
                   b[i].wrong);
    }
    (void)hurt_notes(g, ret->said, sizeof ret->said);
}

/* --- one case ------------------------------------------------------------------------------------------- */

struct hurt {
    const struct part *p[2];
    enum harm how[2];
    int n;
    char what[160];
};

/* The index and the newest file of the log: what was in both alone is in neither. */
static bool nobody_knows(const struct hurt *h)
{
    return h->n == 2 && (h->p[0]->index || h->p[1]->index) &&
           ((h->p[0]->log && h->how[0] == H_GONE && strcmp(h->p[0]->path, "log/seg-0001")) ||
            (h->p[1]->log && h->how[1] == H_GONE && strcmp(h->p[1]->path, "log/seg-0001")));
}

/* Whether block i's bytes are as they were, in a file that can be read: now, or once all can be
 * again. */
static bool block_intact(const struct rig *g, const struct hurt *h, uint32_t i, bool now)
{
    char path[512], sub[32];
    uint8_t b[RIG_SLOT];

    for (int k = 0; k < h->n; k++)
        if (now && unread(h->how[k]) && (h->p[k]->seg == -1 || h->p[k]->seg == block_at[i].seg))
            return false;
    snprintf(sub, sizeof sub, "kv/test/seg-%04d", block_at[i].seg);
    hurt_path(g, sub, path);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : syscall(SYS_pread64, fd, b, sizeof b, block_at[i].at);
    if (fd >= 0)
        close(fd);
    for (int f = 0; f < n_files && n == RIG_SLOT; f++)
        if (strcmp(file[f].sub, sub) == 0)
            return memcmp(b, file[f].b + block_at[i].at, RIG_SLOT) == 0;
    return false;
}

/* A start that is refused names a part that could not be read, and has changed nothing. */
static void refused(const struct rig *g, const struct hurt *h, uint64_t before)
{
    bool named = false, may = false;
    char path[512];

    for (int k = 0; k < h->n; k++) {
        hurt_path(g, h->p[k]->path, path);
        bool here = unread(h->how[k]);
        may |= here && (h->p[k]->seg <= 0);
        named |= here && strstr(g->eb.s, path);
    }
    if (!may)
        t_fail(__FILE__, __LINE__, "%s: does not open: %s", h->what, g->eb.s);
    if (!named || !strstr(g->eb.s, "nothing was changed"))
        t_fail(__FILE__, __LINE__, "%s: refused, but: %s", h->what, g->eb.s);
    if (sum_all(g->dir) != before)
        t_fail(__FILE__, __LINE__, "%s: refused, and changed: %s", h->what, g->eb.s);
}

/* What both copies had lost, and no more; it is said. */
static void opened(struct rig *g, const struct hurt *h, const bool *intact,
                   const struct seen *x)
{
    bool index = false, log = false;
    struct kvs_stats st = {0};

    for (int k = 0; k < h->n; k++) {
        index |= h->p[k]->index;
        log |= h->p[k]->log;
    }
    if ((x->lost || x->marked) && !(index && log))
        t_fail(__FILE__, __LINE__, "%s: %d sessions hurt, one copy was whole: %s", h->what,
               x->lost + x->marked, x->said);
    if ((x->lost || x->marked) && !strstr(x->said, "Lost"))
        t_fail(__FILE__, __LINE__, "%s: %d sessions hurt, said: %s", h->what,
               x->lost + x->marked, x->said);
    if (nobody_knows(h) && !x->said[0])
        t_fail(__FILE__, __LINE__, "%s: without a word", h->what);
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (intact[i] && !x->block[i])
            t_fail(__FILE__, __LINE__, "%s: block %u of segment %d is intact and lost: %s",
                   h->what, i, block_at[i].seg, x->said);
    kvs_stats(g->s, &st);
    if (x->blocks < BLOCKS && !x->said[0] && !st.corrupt)
        t_fail(__FILE__, __LINE__, "%s: %d blocks lost without a word", h->what,
               BLOCKS - x->blocks);
    CHECK_EQ(rig_talk(g, 99, 0, 10), 0);
}

static void one_case(struct hurt *h, uint64_t *rnd, int ret[3])
{
    static struct seen first, second;
    bool intact[BLOCKS], later[BLOCKS], any_unread = false, seg_unread = false;
    uint64_t before = 0, part[2];
    struct rig g;

    copy_make(&g);
    /* What cannot be read comes last: what was there before can still be looked at. */
    if (h->n == 2 && unread(h->how[0]) && !unread(h->how[1])) {
        struct hurt o = *h;
        h->p[0] = o.p[1], h->p[1] = o.p[0], h->how[0] = o.how[1], h->how[1] = o.how[0];
    }
    for (int k = 0; k < h->n; k++) {
        if (!unread(h->how[k]))
            harm(&g, k, h->p[k], h->how[k], rnd);
        any_unread |= unread(h->how[k]);
        seg_unread |= unread(h->how[k]) && h->p[k]->seg;
    }
    for (uint32_t i = 0; i < BLOCKS; i++)
        intact[i] = block_intact(&g, h, i, true), later[i] = block_intact(&g, h, i, false);
    for (int k = 0; k < h->n; k++)
        part[k] = any_unread ? sum_part(&g, h->p[k]) : 0;
    before = any_unread ? sum_all(g.dir) : 0;
    for (int k = 0; k < h->n; k++) /* the inner one first */
        if (unread(h->how[k]))
            harm(&g, k, h->p[k], h->how[k], rnd);
    g.eb.s[0] = 0;
    int r = rig_open(&g);
    if (r == 0) {
        look(&g, h->what, nobody_knows(h), &first);
        opened(&g, h, intact, &first);
        ret[1] += first.lost > 0;
        rig_close(&g);
        if (rig_open(&g) < 0) {
            t_fail(__FILE__, __LINE__, "%s: does not open again: %s", h->what, g.eb.s);
        } else {
            look(&g, h->what, nobody_knows(h), &second);
            if (!g.rep.clean || g.rep.rebuilt || second.lost != first.lost ||
                second.blocks < first.blocks || hurt_whole(&g, 99) != 10)
                t_fail(__FILE__, __LINE__,
                       "%s: again: clean %d, rebuilt %d, %d sessions lost and %d, blocks %d "
                       "and %d",
                       h->what, g.rep.clean, g.rep.rebuilt, first.lost, second.lost,
                       first.blocks, second.blocks);
        }
        rig_close(&g);
    }
    ret[r < 0 ? 2 : 0]++;
    hurt_eio(NULL, 0);
    for (int k = h->n - 1; k >= 0; k--)
        unharm(&g, k, h->p[k], h->how[k]);
    if (r < 0)
        refused(&g, h, before);
    for (int k = 0; k < h->n && r == 0; k++)
        if ((h->how[k] == H_MODE || h->how[k] == H_OTHER) && part[k] &&
            sum_part(&g, h->p[k]) != part[k])
            t_fail(__FILE__, __LINE__, "%s: %s is not what it was", h->what, h->p[k]->path);
    if (r == 0 && seg_unread && rig_open(&g) == 0) {
        look(&g, h->what, nobody_knows(h), &second);
        for (uint32_t i = 0; i < BLOCKS; i++)
            if (later[i] && !second.block[i])
                t_fail(__FILE__, __LINE__, "%s: block %u can be read again and is lost",
                       h->what, i);
        rig_close(&g);
    }
    CHECK_EQ(rig_rm(g.dir), 0);
}

/* --- all of them ------------------------------------------------------------------------------------------ */

static uint32_t cases;

static void cross(const struct part *a, const struct part *b, uint64_t seed, int ret[3])
{
    for (int i = 0; i < H_; i++)
        for (int k = 0; k < (b ? H_ : 1); k++) {
            struct hurt h = {.p = {a, b}, .how = {(enum harm)i, (enum harm)k}, .n = b ? 2 : 1};
            uint64_t rnd = seed;
            if (!(a->ways >> i & 1) || (b && !(b->ways >> k & 1)))
                continue;
            if (b && T_SLOWER > 1 && cases++ % T_SLOWER) /* a sample, under a sanitizer */
                continue;
            snprintf(h.what, sizeof h.what, "SEED=%llu %s%s %s%s%s%s %s",
                     (unsigned long long)seed, a->path, a->at ? " (place)" : "", harm_name[i],
                     b ? ", " : "", b ? b->path : "", b && b->at ? " (place)" : "",
                     b ? harm_name[k] : "");
            one_case(&h, &rnd, ret);
        }
}

static void each_part_with_each_other(void)
{
    /* The same places each time, unless others are asked for. */
    uint64_t seed = getenv("SEED") ? t_seed() : 1;
    int n[3] = {0};

    base_make();
    for (int i = 0; i < PARTS; i++) {
        cross(&parts[i], NULL, seed, n);
        for (int k = i + 1; k < PARTS; k++) /* of one file: two places */
            cross(&parts[i], &parts[k], seed, n);
    }
    printf("    %d opened, %d of them with losses, %d refused\n", n[0], n[1], n[2]);
    base_fini();
}

T_MAIN({"each_part_with_each_other", each_part_with_each_other})
