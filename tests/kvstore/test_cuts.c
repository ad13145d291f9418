/* test_cuts.c - power cuts as the disk sees them: below the system calls, LMDB's among them.
 *
 * A life: a store opens, works and closes while every call is written down.  Then the power goes,
 * or the process, at random events of it; what the disk would hold is opened and judged: nothing
 * acknowledged is missing, nothing is wrong, and after a cut alone nothing has to be rebuilt.
 * Either copy (index or turn log) may be lost or damaged after the cut: the other has all of it.
 * And the opening itself is such a life, which is cut again: replay, rebuild, migration.
 * HEARTH_CUTS=n for more. */
#include "tests/sim/calls.h"
/* first: it takes the place of the C library's calls */
#include "kvstore/index.h"
#include "kvstore/store.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <ctype.h>

enum { BRANCHES = 3, BLOCKS = 120, MARKS = 4000, CUTS_A_LIFE = 10, DEPTH_MAX = 3 };

/* What the outside was told, and what it asked for. */
struct told {
    uint64_t sent[BRANCHES], acked[BRANCHES];
    uint32_t n_blocks;
    bool block[BLOCKS];
};
struct mark {
    uint64_t event;
    int branch; /* or -1: a block */
    uint64_t to;
};
struct life {
    struct rig g;
    char dir[128];
    uint64_t seed;
    struct told before; /* when it began */
    uint64_t sent[BRANCHES], acked[BRANCHES];
    bool many, refused;
    uint64_t opened; /* the event when open came back */
    struct mark mark[MARKS];
    uint32_t n_mark, n_blocks, evicted;
    struct rig_block block[BLOCKS];
    bool marked[BLOCKS];
};
struct utter {
    struct kvs_batch b;
    struct life *l;
    uint32_t branch;
    uint64_t to;
    struct kvs_branch br;
    struct kvs_session ses;
    struct kvs_req req;
    struct kvs_turn turn;
    struct kvs_rec rec[6];
    int32_t ids[];
};

static void marked(struct life *l, int branch, uint64_t to)
{
    if (l->n_mark < MARKS)
        l->mark[l->n_mark++] = (struct mark){calls_mark(), branch, to};
}

static void said(struct kvs_batch *b)
{
    struct utter *t = b->user;

    /* Once the limit has refused one, those behind it stand on what is not there. */
    t->l->refused |= b->res < 0;
    if (!t->l->refused && t->to > t->l->acked[t->branch]) {
        t->l->acked[t->branch] = t->to;
        marked(t->l, (int)t->branch, t->to);
    }
    free(t);
}

static void passed(struct kvs_batch *b)
{
    free(b->user);
}

static void say(struct life *l, uint64_t *rnd, bool small)
{
    uint32_t i = (uint32_t)(rig_rand(rnd) % BRANCHES);
    uint32_t n = small                              ? 1 + (uint32_t)(rig_rand(rnd) % 8)
                 : l->many || !(rig_rand(rnd) % 12) ? 16000
                                                    : 1 + (uint32_t)(rig_rand(rnd) % 299);
    struct utter *t = calloc(1, sizeof *t + n * sizeof *t->ids);
    uint64_t from = l->sent[i];
    uint32_t m = 0;
    char name[32];

    t->l = l;
    t->branch = i;
    t->to = from + n;
    t->br = (struct kvs_branch){.id = rig_id(l->seed + i, 0), .owner = 1000};
    snprintf(name, sizeof name, "b%u", i);
    rig_session(&t->ses, l->seed + i, 0, name);
    t->ses.head = t->to;
    bool touch = from && rig_rand(rnd) % 3 == 0; /* only the session, as when it is renamed */
    if (touch)
        t->to = t->ses.head = from;
    for (uint32_t k = 0; k < n; k++)
        t->ids[k] = rig_token(l->seed + i, from + k);
    t->turn =
        (struct kvs_turn){.branch = t->br.id, .first = from, .n_tokens = n, .seed = l->seed};
    t->req = (struct kvs_req){.owner = 1000,
                              .id = rig_id(l->seed + i, 5000 + t->to),
                              .state = KVS_REQ_ENDED,
                              .time_ns = 1ull << 62};
    if (from == 0)
        t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_BRANCH, .branch = &t->br};
    if (!touch) {
        t->rec[m++] =
            (struct kvs_rec){.kind = KVS_REC_TOKENS, .tokens = {t->br.id, from, t->ids, n}};
        t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_TURN, .turn = &t->turn};
        t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_REQ, .req = &t->req};
    }
    t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &t->ses};
    t->b = (struct kvs_batch){.rec = t->rec, .n_rec = m, .done = said, .user = t};
    l->sent[i] = t->to;
    if (kvs_batch_submit(l->g.s, &t->b) < 0)
        abort();
}

/* Sessions that come and go, of which nothing is asked afterwards: their branches are collected,
 * the log is compacted and the index copied smaller. */
enum { PASSING = 10, PASSING_TOKENS = 16000 };
static void passing(struct life *l, bool go)
{
    for (uint32_t i = 0; i < PASSING; i++) {
        struct utter *t = calloc(1, sizeof *t + PASSING_TOKENS * sizeof *t->ids);
        char name[32];

        t->l = l;
        t->br = (struct kvs_branch){.id = rig_id(l->seed + i, 900 + l->g.rep.log_bytes),
                                    .owner = 1000};
        snprintf(name, sizeof name, "p%u", i);
        rig_session(&t->ses, l->seed + i, 700, name);
        t->ses.branch = t->br.id;
        t->ses.head = PASSING_TOKENS;
        t->rec[0] = (struct kvs_rec){.kind = go ? KVS_REC_SESSION_RM : KVS_REC_SESSION,
                                     .session = &t->ses};
        t->rec[1] = (struct kvs_rec){.kind = KVS_REC_BRANCH, .branch = &t->br};
        t->rec[2] = (struct kvs_rec){.kind = KVS_REC_TOKENS,
                                     .tokens = {t->br.id, 0, t->ids, PASSING_TOKENS}};
        t->b =
            (struct kvs_batch){.rec = t->rec, .n_rec = go ? 1 : 3, .done = passed, .user = t};
        if (kvs_batch_submit(l->g.s, &t->b) < 0)
            abort();
    }
}

static void store_at(struct rig *g, const char *dir, uint64_t disk_bytes, bool threads)
{
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "%.127s", dir);
    g->o = (struct kvs_opts){.dir = g->dir,
                             .io = KVS_IO_THREADS,
                             .host_bytes = 64 * RIG_SLOT,
                             .disk_bytes = disk_bytes};
    g->threads = threads;
}

static void blocks_seen(struct life *l)
{
    for (uint32_t n = l->before.n_blocks; n < l->n_blocks; n++)
        if (!l->marked[n] && l->block[n].done && l->block[n].r.res == 0) {
            l->marked[n] = true;
            marked(l, -1, n);
        }
}

/* One life on dir, from its open to its close; `ops` of work.  NULL, or what is wrong. */
static const char *live(struct life *l, const struct calls_opts *o, const struct told *before,
                        uint64_t disk_bytes, uint32_t ops)
{
    uint64_t rnd = l->seed ^ 0x77 ^ ops;
    struct kvs_stats st;
    uint32_t n_said = 0;
    bool many = ops > 40 && rig_rand(&rnd) % 3 == 0;
    bool comes = ops > 12 && rig_rand(&rnd) % 2;

    l->many = many;
    l->refused = false;
    l->before = *before;
    memcpy(l->sent, before->sent, sizeof l->sent);
    memcpy(l->acked, before->acked, sizeof l->acked);
    l->n_blocks = before->n_blocks;
    l->n_mark = 0;
    store_at(&l->g, l->dir, disk_bytes, rig_rand(&rnd) % 4 == 0);
    l->g.env.forget_ns = 1;
    calls_begin(o);
    if (rig_open(&l->g) < 0) {
        calls_end();
        printf("    %s\n", l->g.eb.s);
        return "the store does not open";
    }
    l->opened = calls_events();
    /* What the predecessor did not acknowledge may be there all the same. */
    for (uint32_t i = 0; i < BRANCHES; i++) {
        struct kvs_id id = rig_id(l->seed + i, 0);
        uint64_t end = 0;
        (void)kvs_branch_end(l->g.s, &id, &end);
        l->sent[i] = end;
    }
    for (uint32_t k = 0; k < ops; k++) {
        if (comes && disk_bytes > 16 << 20 && (k == 5 || k == 12))
            passing(l, k == 12);
        uint32_t what = (uint32_t)(rig_rand(&rnd) % 4);
        /* A checkpoint of the log first, then so many frames that a rebuild takes commits. */
        for (uint32_t n = what ? 0 : many ? 40 : 1; n; n--)
            say(l, &rnd, many && n_said++ >= 12);
        for (uint64_t n = what == 1 ? 1 + rig_rand(&rnd) % 6 : 0; n && l->n_blocks < BLOCKS;
             n--) {
            rig_block_set(&l->g, &l->block[l->n_blocks], l->seed, l->n_blocks);
            rig_submit(&l->g, &l->block[l->n_blocks++], true);
        }
        if (l->g.threads)
            kvs_loop_turn(l->g.s);
        else if (what == 2)
            kvs_io_turn(l->g.s, 0);
        else
            rig_turn(&l->g);
        blocks_seen(l);
    }
    rig_wait(&l->g);
    for (int k = 0; comes && !l->g.threads && k < 80; k++)
        rig_turn(&l->g);
    blocks_seen(l);
    rig_rest(&l->g); /* or some may be evicted after the look */
    kvs_stats(l->g.s, &st);
    l->evicted = (uint32_t)st.evicted;
    rig_close(&l->g);
    calls_end();
    return NULL;
}

/* What had been told by the event n. */
static void told_at(const struct life *l, uint64_t n, struct told *t)
{
    *t = l->before;
    for (uint32_t i = 0; i < BRANCHES; i++)
        t->sent[i] = l->sent[i] > t->sent[i] ? l->sent[i] : t->sent[i];
    t->n_blocks = l->n_blocks;
    for (uint32_t k = 0; k < l->n_mark; k++) {
        const struct mark *m = &l->mark[k];
        if (m->event >= n)
            continue;
        if (m->branch < 0)
            t->block[m->to] = true;
        else if (m->to > t->acked[m->branch])
            t->acked[m->branch] = m->to;
    }
    if (l->evicted)
        memset(t->block, 0, sizeof t->block);
}

/* --- damage ---------------------------------------------------------------------------------- */

enum hurt { WHOLE, INDEX_GONE, INDEX_BIT, INDEX_ZERO, LOG_GONE, LOG_BIT, LOG_ZERO, HURT_ };
static const char *const hurt_name[] = {"whole",  "no index", "index bit", "index page",
                                        "no log", "log bit",  "log page"};

static bool is_log(const char *name)
{
    return strncmp(name, "seg-", 4) == 0 && isdigit((unsigned char)name[4]) &&
           !strchr(name, '.');
}

static void hurt_file(const char *path, enum hurt h, uint64_t *rnd)
{
    static uint8_t page[4096];
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        off_t at = (off_t)(rig_rand(rnd) % (uint64_t)st.st_size);
        if (h == INDEX_BIT || h == LOG_BIT) {
            uint8_t b = 0;
            (void)!pread(fd, &b, 1, at);
            b ^= (uint8_t)(1 << rig_rand(rnd) % 8);
            (void)!pwrite(fd, &b, 1, at);
        } else {
            at -= at % 4096;
            (void)!pwrite(fd, page, at + 4096 > st.st_size ? (size_t)(st.st_size - at) : 4096,
                          at);
        }
    }
    close(fd);
}

static void hurt(const char *dir, enum hurt h, uint64_t *rnd)
{
    char path[PATH_MAX];
    struct dirent *e;

    snprintf(path, sizeof path, "%s/index.mdb", dir);
    if (h == INDEX_GONE)
        (void)unlink(path);
    if (h == INDEX_BIT || h == INDEX_ZERO)
        hurt_file(path, h, rnd);
    if (h < LOG_GONE)
        return;
    snprintf(path, sizeof path, "%s/log", dir);
    DIR *d = opendir(path);
    while (d && (e = readdir(d))) {
        char file[PATH_MAX + 300];
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        if (is_log(e->d_name) && h == LOG_GONE)
            (void)unlink(file);
        else if (is_log(e->d_name))
            hurt_file(file, h, rnd);
    }
    if (d)
        closedir(d);
}

/* --- judging ----------------------------------------------------------------------------------- */

struct find {
    struct kvs_id id;
    uint64_t head;
};
static int found(void *ctx, const struct kvs_session *x)
{
    struct find *f = ctx;

    if (memcmp(x->id.b, f->id.b, 16) == 0)
        f->head = x->head;
    return 0;
}

static const char *judge_branch(struct rig *c, uint64_t seed, uint32_t i, const struct told *t)
{
    struct kvs_id id = rig_id(seed + i, 0);
    struct kvs_req q;
    uint64_t end = 0;
    char *reply;

    (void)kvs_branch_end(c->s, &id, &end);
    if (end < t->acked[i])
        return "an acknowledged turn is lost";
    if (end > t->sent[i] || (end && !rig_tokens_ok(c, seed + i, end)))
        return "tokens are not what was said";
    if (!t->acked[i])
        return NULL;
    struct find f = {rig_id(seed + i, 1000), 0};
    if (kvs_sessions(c->s, found, &f) < 0 || f.head < t->acked[i])
        return "an acknowledged session is lost";
    id = rig_id(seed + i, 5000 + t->acked[i]);
    if (kvs_req_get(c->s, 1000, &id, &q, &reply) < 0)
        return "an acknowledged request is lost";
    free(reply);
    return NULL;
}

/* What an open says that is no business of a cut's. */
static bool says_damage(struct rig *c)
{
    char said[512];
    bool found = strstr(c->rep.warning, "damage") != NULL;

    if (found)
        printf("    open says: %s\n", c->rep.warning);
    while (kvs_note(c->s, said, sizeof said))
        if (strstr(said, "damage") || strstr(said, "agree") || strstr(said, "Lost")) {
            printf("    open says: %s\n", said);
            found = true;
        }
    return found;
}

/* Opens what was left and looks.  plain: the cut was all that happened to it. */
static const char *judge(const char *dir, uint64_t seed, const struct told *t, bool plain,
                         uint64_t disk_bytes)
{
    struct rig c;
    struct kvs_stats st;
    const char *bad = NULL;

    store_at(&c, dir, disk_bytes, false);
    if (rig_open(&c) < 0) {
        printf("    open: %s\n", c.eb.s);
        return "the store does not open";
    }
    if (plain && c.rep.rebuilt) /* a torn end is no damage */
        bad = "the index had to be rebuilt after a cut";
    else if (plain && says_damage(&c))
        bad = "the store found something to warn of after a cut";
    else if (plain && c.rep.blocks_dropped)
        bad = "the index named a block that is not there";
    for (uint32_t i = 0; i < BRANCHES && !bad; i++)
        bad = judge_branch(&c, seed, i, t);
    for (uint32_t n = 0; n < t->n_blocks && !bad; n++) {
        struct kvs_block_req b;
        int e = rig_get(&c, seed, n, &b);
        if (e == -9999)
            bad = "wrong bytes were served";
        else if (b.corrupt && plain) /* a rebuilt index has only the headers to go by */
            bad = "the index named a block that is not whole";
        kvs_stats(c.s, &st);
        if (!bad && e == -ENOENT && t->block[n] && st.evicted == 0)
            bad = "an acknowledged block is lost";
    }
    kvs_stats(c.s, &st);
    if (!bad && plain && st.corrupt)
        bad = "something was corrupt";
    rig_close(&c);
    return bad;
}

/* --- runs ---------------------------------------------------------------------------------------- */

struct tally {
    uint32_t cuts, chains;
};

/* The last cut's directory opens, is cut while it opens or works, and so on. */
static const char *chain(struct life *l, uint64_t *rnd, const struct told *at,
                         uint64_t disk_bytes, const struct calls_opts *o, bool plain,
                         struct tally *n)
{
    struct told t = *at;
    uint32_t depth = 1 + (uint32_t)(rig_rand(rnd) % DEPTH_MAX);
    const char *bad = NULL;

    for (uint32_t d = 0; d < depth && !bad; d++) {
        struct calls_opts here = *o;
        char next[128];
        here.root = l->dir;
        bad = live(l, &here, &t, disk_bytes, d % 2 ? 6 : 0);
        if (bad)
            break;
        /* Mostly within the opening. */
        uint64_t upto = rig_rand(rnd) % 3 ? l->opened : calls_events();
        uint64_t cut = rig_rand(rnd) % (upto + 1);
        snprintf(next, sizeof next, "%.100s-%u", l->dir, d);
        calls_cut(cut, rig_rand(rnd) % 2, rig_rand(rnd), next);
        told_at(l, cut, &t);
        n->chains++;
        rig_rm(l->dir);
        memcpy(l->dir, next, sizeof next);
    }
    return bad ? bad : judge(l->dir, l->seed, &t, plain, disk_bytes);
}

static const char *run_once(uint64_t seed, enum calls_wrong wrong, const char *path, bool hurts,
                            struct tally *n)
{
    static struct life l;
    struct told none = {0}, t;
    struct calls_opts o = {.root = l.dir, .wrong = wrong, .wrong_path = path};
    uint64_t rnd = seed, disk = rig_rand(&rnd) % 3 ? 32 << 20 : 5 << 20;
    char cut[128];
    struct rig g;

    memset(&l, 0, sizeof l);
    l.seed = seed;
    rig_init(&g, KVS_IO_THREADS, true); /* its directory */
    snprintf(l.dir, sizeof l.dir, "%.100s", g.dir);
    snprintf(cut, sizeof cut, "%.100s-cut", g.dir);
    const char *bad = live(&l, &o, &none, disk, 20 + (uint32_t)(rig_rand(&rnd) % 80));
    uint64_t events = calls_events(), at = 0;
    bool plain = true;
    for (uint32_t i = 0; i < CUTS_A_LIFE && !bad; i++) {
        bool last = i + 1 == CUTS_A_LIFE;
        enum hurt h = hurts && rig_rand(&rnd) % 2 ? rig_rand(&rnd) % HURT_ : WHOLE;
        bool kill = rig_rand(&rnd) % 5 == 0;
        at = rig_rand(&rnd) % 4 ? rig_rand(&rnd) % (events + 1) : calls_names(rig_rand(&rnd));
        calls_cut(at, kill, rig_rand(&rnd), cut);
        told_at(&l, at, &t);
        hurt(cut, h, &rnd);
        plain = h == WHOLE && at >= l.opened;
        n->cuts++;
        if (!last) {
            bad = judge(cut, seed, &t, plain, disk);
        } else {
            rig_rm(l.dir);
            memcpy(l.dir, cut, sizeof cut);
            bad = chain(&l, &rnd, &t, disk, &o, plain, n);
        }
        if (bad)
            printf("    SEED=%llu: cut %u at event %llu of %llu%s, %s, disk %llu: %s\n",
                   (unsigned long long)seed, i, (unsigned long long)at,
                   (unsigned long long)events, kill ? " (kill)" : "", hurt_name[h],
                   (unsigned long long)disk, bad);
        rig_rm(cut);
    }
    rig_rm(l.dir);
    rig_rm(g.dir);
    return bad;
}

static void no_cut_loses_anything_whatever_happens_to_one_copy(void)
{
    const char *more = getenv("HEARTH_CUTS");
    uint64_t seed = t_seed();
    uint32_t runs = (more ? (uint32_t)strtoul(more, NULL, 10) : 150) / CUTS_A_LIFE + 1;
    struct tally n = {0};

    for (uint32_t i = 0; i < runs; i++) {
        const char *bad = run_once(seed + i * 1000, CALLS_RIGHT, NULL, true, &n);
        if (bad) {
            t_fail(__FILE__, __LINE__, "SEED=%llu: %s", (unsigned long long)(seed + i * 1000),
                   bad);
            break;
        }
    }
    printf("    %u cuts, %u of them while opening again\n", n.cuts + n.chains, n.chains);
}

/* tests/golden/store-v2.tar.gz: three sessions of 600 tokens, by the last program of version 2. */
static const char *migrated(const char *dir, uint64_t to)
{
    const char *bad = NULL;
    struct rig c;

    store_at(&c, dir, 4 << 20, false);
    if (rig_open(&c) < 0) {
        printf("    %s\n", c.eb.s);
        return "the store does not open";
    }
    for (uint64_t s = 1; s < 4 && !bad; s++)
        if (!rig_tokens_ok(&c, s, s == 1 ? to : 600))
            bad = "a turn of the old store is lost";
    if (!bad && rig_get(&c, 5, 0, NULL) != 0)
        bad = "a block of the old store is lost";
    if (!bad && rig_talk(&c, 2, 600, 610) != 0)
        bad = "it does not go on";
    rig_close(&c);
    return bad;
}

/* index: 0 there, 1 lost before the first start of the new program. */
static void a_store_of_version_2_loses_nothing_while_it_is_taken_over(void)
{
    const char *more = getenv("HEARTH_CUTS");
    uint64_t seed = t_seed(), rnd = seed;
    uint32_t cuts = (more ? (uint32_t)strtoul(more, NULL, 10) : 150) / 5, n = 0;

    for (int lost = 0; lost < 2; lost++) {
        char cmd[400], cut[128], path[300];
        struct rig g;
        rig_init(&g, KVS_IO_THREADS, true);
        snprintf(cmd, sizeof cmd, "tar -xzf tests/golden/store-v2.tar.gz -C '%s'", g.dir);
        CHECK_EQ(system(cmd), 0);
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        if (lost)
            CHECK_EQ(unlink(path), 0);
        g.o.disk_bytes = 4 << 20;
        g.threads = false;
        calls_begin(&(struct calls_opts){.root = g.dir});
        CHECK_EQ(rig_open(&g), 0);
        uint64_t opened = calls_events();
        CHECK_EQ(rig_talk(&g, 1, 600, 650), 0);
        uint64_t told = calls_mark();
        rig_close(&g);
        calls_end();
        snprintf(cut, sizeof cut, "%.100s-cut", g.dir);
        for (uint32_t i = 0; i < cuts; i++) {
            uint64_t at = rig_rand(&rnd) % ((i % 4 ? opened : calls_events()) + 1);
            calls_cut(at, i % 3 == 0, rig_rand(&rnd), cut);
            const char *bad = migrated(cut, at > told ? 650 : 600);
            rig_rm(cut);
            n++;
            if (bad) {
                t_fail(__FILE__, __LINE__, "SEED=%llu index %s, cut at %llu of %llu: %s",
                       (unsigned long long)seed, lost ? "lost" : "there",
                       (unsigned long long)at, (unsigned long long)calls_events(), bad);
                break;
            }
        }
        rig_fini(&g);
    }
    printf("    %u cuts\n", n);
}

/* --- one step at a time ------------------------------------------------------------------------ */

/* All of the file is these bytes, and zeros behind them. */
static bool is_whole(const char *path, const uint8_t *head, size_t n, off_t bytes)
{
    uint8_t *b = calloc(1, (size_t)bytes);
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && fstat(fd, &st) == 0 && st.st_size == bytes &&
              pread(fd, b, (size_t)bytes, 0) == bytes && memcmp(b, head, n) == 0;

    for (off_t i = (off_t)n; ok && i < bytes; i++)
        ok = b[i] == 0;
    if (fd >= 0)
        close(fd);
    free(b);
    return ok;
}

static void a_name_that_was_made_or_moved_is_that_of_all_of_the_file(void)
{
    enum { HEAD = 8192, BYTES = 65536, TIMES = 6 };
    char cut[128], made[300], old[300], aside[300], path[400];
    uint8_t head[HEAD];
    struct sys y = {0};
    struct rig g;

    for (size_t i = 0; i < sizeof head; i++)
        head[i] = (uint8_t)(1 + i % 255);
    rig_init(&g, KVS_IO_THREADS, true);
    snprintf(cut, sizeof cut, "%.100s-cut", g.dir);
    snprintf(made, sizeof made, "%s/made", g.dir);
    snprintf(old, sizeof old, "%s/old", g.dir);
    CHECK_EQ(sys_make(&y, old, head, HEAD, BYTES), 0);
    calls_begin(&(struct calls_opts){.root = g.dir});
    CHECK_EQ(sys_make(&y, made, head, HEAD, BYTES), 0);
    uint64_t told_made = calls_mark();
    CHECK_EQ(sys_set_aside(&y, old, aside, sizeof aside), 0);
    uint64_t told_aside = calls_mark(), events = calls_events();
    calls_end();
    const char *name = strrchr(aside, '/');
    for (uint64_t at = 0; at <= events; at++)
        for (uint64_t k = 0; k < TIMES; k++) {
            calls_cut(at, false, at * TIMES + k, cut);
            snprintf(path, sizeof path, "%s/made", cut);
            bool there = access(path, F_OK) == 0, was, is;
            if (there ? !is_whole(path, head, HEAD, BYTES) : at > told_made)
                t_fail(__FILE__, __LINE__, "cut at %llu: a file that was made is %s",
                       (unsigned long long)at, there ? "not whole" : "not there");
            snprintf(path, sizeof path, "%s/old", cut);
            was = is_whole(path, head, HEAD, BYTES);
            snprintf(path, sizeof path, "%s%s", cut, name);
            is = is_whole(path, head, HEAD, BYTES);
            if (was == is || (was && at > told_aside))
                t_fail(__FILE__, __LINE__,
                       "cut at %llu: a file that was set aside is %sthere, and %sits old name",
                       (unsigned long long)at, is ? "" : "not ", was ? "has " : "has not ");
            rig_rm(cut);
        }
    rig_fini(&g);
}

/* What is left opens with sessions 1 to n, so many tokens in each, and finds nothing amiss. */
static bool goes_on_whole(const char *dir, uint64_t disk_bytes, uint64_t n, const uint64_t *to)
{
    struct rig c;
    bool ok;

    store_at(&c, dir, disk_bytes, false);
    if (rig_open(&c) < 0) {
        printf("    open: %s\n", c.eb.s);
        return false;
    }
    ok = !c.rep.rebuilt && !says_damage(&c);
    for (uint64_t s = 1; s <= n; s++)
        ok &= rig_tokens_ok(&c, s, to[s - 1]);
    rig_close(&c);
    return ok;
}

static void start_whole(struct rig *g, char cut[128])
{
    rig_init(g, KVS_IO_THREADS, true);
    snprintf(cut, 128, "%.100s-cut", g->dir);
    g->o.disk_bytes = 16 << 20;
    g->threads = false;
    CHECK_EQ(rig_open(g), 0);
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(g, s, 0, 2000), 0);
}

static bool same_file(const char *a, const char *b, const char *name)
{
    char cmd[600];

    snprintf(cmd, sizeof cmd, "cmp -s '%.200s/%s' '%.200s/%s'", a, name, b, name);
    return system(cmd) == 0;
}

static void a_smaller_copy_of_the_index_is_whole_when_it_has_the_name(void)
{
    enum { TIMES = 4 };
    static const uint64_t to[] = {2000, 2000, 2000};
    struct rig g;
    char cut[128];

    start_whole(&g, cut);
    calls_begin(&(struct calls_opts){.root = g.dir});
    CHECK_EQ(index_shrink_open(g.s->idx), 0);
    uint64_t events = calls_events();
    calls_end();
    CHECK(events > 2);
    /* Once it is used it has the name for good: the old one and the log make it up for the turns,
     * so nothing else shows that. */
    for (uint64_t k = 0; k < 4 * TIMES; k++) {
        calls_cut(events, false, k, cut);
        CHECK(same_file(g.dir, cut, "index.mdb"));
        rig_rm(cut);
    }
    for (uint64_t at = 1; at <= events; at++)
        for (uint64_t k = 0; k < TIMES; k++) {
            calls_cut(at, false, at * TIMES + k, cut);
            if (!goes_on_whole(cut, g.o.disk_bytes, 3, to))
                t_fail(__FILE__, __LINE__, "cut at %llu of %llu: not whole",
                       (unsigned long long)at, (unsigned long long)events);
            rig_rm(cut);
        }
    rig_fini(&g);
}

/* The next frame is in another file, whose sync is none of this one: with its torn end back it
 * would be a damaged one. */
static void a_torn_end_that_was_wiped_stays_wiped(void)
{
    enum { TIMES = 16, LONG = 40000 };
    static const uint64_t to[] = {2000, LONG, 2000};
    char cut[128], path[300];
    uint8_t *b = malloc(1 << 20);
    struct rig g;

    start_whole(&g, cut);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/log/seg-0001", g.dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ssize_t n = pread(fd, b, 1 << 20, 0), end = n;
    CHECK(n > 4096);
    while (end > 4096 && b[end - 1] == 0)
        end--;
    end = (end + 7) / 8 * 8;
    CHECK(end + 1000 < n);
    CHECK_EQ(pwrite(fd, b + 4096, 1000, end), 1000); /* the beginning of a frame */
    close(fd);
    free(b);
    calls_begin(&(struct calls_opts){.root = g.dir});
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.log_torn_bytes > 0);
    CHECK_EQ(rig_talk(&g, 2, 2000, LONG), 0);
    uint64_t told = calls_mark();
    calls_end();
    snprintf(path, sizeof path, "%s/log/seg-0002", g.dir);
    CHECK_EQ(access(path, F_OK), 0);
    for (uint64_t k = 0; k < TIMES; k++) {
        calls_cut(told, false, k, cut);
        if (!goes_on_whole(cut, g.o.disk_bytes, 3, to))
            t_fail(__FILE__, __LINE__, "cut %llu: not whole", (unsigned long long)k);
        rig_rm(cut);
    }
    rig_fini(&g);
}

/* A disk on which some syncs do nothing must be found out: else nothing above means anything. */
static void caught(enum calls_wrong wrong, const char *path, bool hurts)
{
    uint64_t seed = t_seed();
    struct tally n = {0};
    uint32_t i = 0;

    for (; i < 30; i++)
        if (run_once(seed + i * 1000, wrong, path, hurts, &n))
            break;
    printf("    caught after %u cuts\n", n.cuts + n.chains);
    CHECK(i < 30);
}
static void no_sync_at_all_is_caught(void)
{
    caught(CALLS_NO_SYNC, NULL, false);
}
static void directories_that_are_not_synced_are_caught(void)
{
    caught(CALLS_NO_DIR_SYNC, NULL, false);
}
static void an_index_without_syncs_is_caught(void)
{
    caught(CALLS_NO_FILE_SYNC, "index.mdb", false); /* LMDB's NOSYNC */
}
static void a_log_without_syncs_is_caught(void)
{
    caught(CALLS_NO_FILE_SYNC, "/log/", true);
}
static void segments_without_syncs_are_caught(void)
{
    caught(CALLS_NO_FILE_SYNC, "/kv/", false);
}

T_MAIN({"no_cut_loses_anything_whatever_happens_to_one_copy",
        no_cut_loses_anything_whatever_happens_to_one_copy},
       {"a_store_of_version_2_loses_nothing_while_it_is_taken_over",
        a_store_of_version_2_loses_nothing_while_it_is_taken_over},
       {"a_name_that_was_made_or_moved_is_that_of_all_of_the_file",
        a_name_that_was_made_or_moved_is_that_of_all_of_the_file},
       {"a_smaller_copy_of_the_index_is_whole_when_it_has_the_name",
        a_smaller_copy_of_the_index_is_whole_when_it_has_the_name},
       {"a_torn_end_that_was_wiped_stays_wiped", a_torn_end_that_was_wiped_stays_wiped},
       {"no_sync_at_all_is_caught", no_sync_at_all_is_caught},
       {"directories_that_are_not_synced_are_caught",
        directories_that_are_not_synced_are_caught},
       {"an_index_without_syncs_is_caught", an_index_without_syncs_is_caught},
       {"a_log_without_syncs_is_caught", a_log_without_syncs_is_caught},
       {"segments_without_syncs_are_caught", segments_without_syncs_are_caught})
