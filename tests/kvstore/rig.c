/* rig.c - see rig.h. */
#include "tests/kvstore/rig.h"
#include "base/clock.h"
#include "tests/t.h"
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t rig_rand(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int rm_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

int rig_rm(const char *dir)
{
    return nftw(dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

int rig_cp(const char *from, const char *to)
{
    char cmd[1024];

    snprintf(cmd, sizeof cmd, "rm -rf '%s' && cp -a --reflink=auto --sparse=always '%s' '%s'",
             to, from, to);
    return system(cmd);
}

void rig_init(struct rig *g, enum kvs_io io, bool fast)
{
    const char *tmp = getenv("TMPDIR"), *memory = getenv("T_MEMORY");

    memset(g, 0, sizeof *g);
    memory = memory ? memory : "/dev/shm";
    if (fast && access(memory, W_OK) == 0)
        tmp = memory;
    snprintf(g->dir, sizeof g->dir, "%s/hearth-kvs-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(g->dir)) {
        perror("mkdtemp");
        exit(1);
    }
    g->o = (struct kvs_opts){.dir = g->dir,
                             .io = io,
                             .host_bytes = 64 * RIG_SLOT,
                             .disk_bytes = 32 << 20,
                             .no_fsync = false};
    g->threads = true;
}

static void *io_body(void *arg)
{
    struct rig *g = arg;

    while (!g->stop)
        kvs_io_turn(g->s, 50000000);
    return NULL;
}

static void *commit_body(void *arg)
{
    struct rig *g = arg;

    while (!g->stop)
        kvs_commit_turn(g->s, 50000000);
    return NULL;
}

int rig_open(struct rig *g)
{
    struct kvs_layout l = {.id = "test", .hot_bytes = RIG_HOT, .cold_bytes = RIG_COLD};
    int r;

    if (!g->env.lived_ns) /* a store that is not of today: what is old in it may go */
        g->env.lived_ns = 30 * 86400ull * 1000000000u;
    r = kvs_open_env(&g->s, &g->o, &g->env, &g->rep, &g->eb);

    if (r < 0) {
        g->s = NULL;
        return r;
    }
    r = kvs_layout_add(g->s, &l, &g->layout, &g->eb);
    if (r == 0 && g->threads) {
        g->stop = false;
        if (pthread_create(&g->io, NULL, io_body, g) ||
            pthread_create(&g->commit, NULL, commit_body, g))
            exit(1);
    }
    return r;
}

void rig_turn(struct rig *g)
{
    kvs_io_turn(g->s, 0);
    kvs_commit_turn(g->s, 0);
    kvs_io_turn(g->s, 0);
    kvs_loop_turn(g->s);
}

/* Nothing in these tests takes a minute: a request that does is lost. */
static void step(struct rig *g)
{
    uint64_t was = kvs_in_flight(g->s);

    if (!g->since_ns)
        g->since_ns = now_ns();
    if (now_ns() - g->since_ns > 30000000000u * T_SLOWER) {
        fprintf(stderr, "%s: nothing was done for %d s, %llu in flight\n", g->dir,
                30 * T_SLOWER, (unsigned long long)was);
        abort();
    }
    if (g->threads) {
        struct pollfd p = {.fd = kvs_event_fd(g->s), .events = POLLIN};
        (void)poll(&p, 1, 100);
        kvs_loop_turn(g->s);
    } else {
        rig_turn(g);
    }
    if (kvs_in_flight(g->s) != was)
        g->since_ns = 0;
}

void rig_wait(struct rig *g)
{
    while (g->s && kvs_in_flight(g->s))
        step(g);
}

void rig_rest(struct rig *g)
{
    rig_wait(g);
    if (g->threads && !g->stop) {
        g->stop = true;
        kvs_wake(g->s);
        pthread_join(g->io, NULL);
        pthread_join(g->commit, NULL);
    }
}

void rig_close(struct rig *g)
{
    if (!g->s)
        return;
    rig_rest(g);
    kvs_close(g->s);
    g->s = NULL;
}

void rig_fini(struct rig *g)
{
    rig_close(g);
    rig_rm(g->dir);
}

void rig_reopen(struct rig *g)
{
    rig_close(g);
    g->eb.s[0] = 0;
    CHECK_EQ(rig_open(g), 0);
    if (!g->s) {
        fprintf(stderr, "reopen: %s\n", g->eb.s);
        exit(1);
    }
}

void rig_no_index(const struct rig *g)
{
    char path[300];

    snprintf(path, sizeof path, "%s/index.mdb", g->dir);
    CHECK_EQ(unlink(path), 0);
}

bool rig_leads(int fd, const char *word)
{
    char link[64], path[512];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, word) != NULL;
}

bool rig_is_ckpt(const struct sys_event *e)
{
    return e->op == SYS_WRITE && !e->after && e->off > 0 && rig_leads(e->fd, "/log/") &&
           rig_leads(e->fd, ".tmp");
}

bool rig_compacting(const struct rig *g)
{
    char path[512];
    bool found = false;

    snprintf(path, sizeof path, "%s/log", g->dir);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        found |= strstr(e->d_name, ".tmp") != NULL;
    if (d)
        closedir(d);
    return found;
}

/* --- blocks ---------------------------------------------------------------------------------- */

static void block_key(uint64_t seed, uint32_t n, struct kvs_key *key, int32_t ids[BLOCK_TOKENS])
{
    /* Not a real chain: tests need any key at once. */
    uint8_t f[32] = {0};
    struct kvs_key root;

    memcpy(f, &seed, 8);
    kvs_key_root(f, 1000, &root);
    for (int i = 0; i < BLOCK_TOKENS; i++)
        ids[i] = (int32_t)(n * BLOCK_TOKENS + (uint32_t)i);
    kvs_key_next(&root, ids, BLOCK_TOKENS, key);
}

void rig_payload(uint64_t seed, uint32_t n, uint8_t *ret, uint64_t bytes)
{
    uint64_t s = seed * 1000003 + n;

    for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t v = rig_rand(&s);
        memcpy(ret + i, &v, 8);
    }
}

static int copy(struct kvs_block_req *r, void *payload)
{
    struct rig_block *b = r->user;
    static _Thread_local uint8_t want[RIG_HOT + RIG_COLD];

    b->calls++;
    if (r->put) {
        rig_payload(b->seed, b->n, payload, RIG_HOT + RIG_COLD);
        return 0;
    }
    rig_payload(b->seed, b->n, want, sizeof want);
    b->wrong = memcmp(want, payload, sizeof want) != 0;
    return 0;
}

static void block_done(struct kvs_block_req *r)
{
    struct rig_block *b = r->user;

    b->done = true;
}

void rig_block_set(struct rig *g, struct rig_block *b, uint64_t seed, uint32_t n)
{
    int32_t ids[BLOCK_TOKENS];

    memset(b, 0, sizeof *b);
    b->seed = seed;
    b->n = n;
    b->r.layout = g->layout;
    b->r.variant = 7;
    b->r.first_pos = (uint64_t)n * BLOCK_TOKENS;
    if (n > 0)
        block_key(seed, n - 1, &b->r.parent, ids);
    block_key(seed, n, &b->r.key, b->r.ids);
    b->r.copy = copy;
    b->r.done = block_done;
    b->r.user = b;
}

void rig_submit(struct rig *g, struct rig_block *b, bool put)
{
    b->r.put = put;
    b->done = false;
    while (kvs_block_submit(g->s, &b->r) == -EAGAIN)
        step(g);
}

int rig_put(struct rig *g, uint64_t seed, uint32_t n)
{
    struct rig_block b;

    rig_block_set(g, &b, seed, n);
    rig_submit(g, &b, true);
    while (!b.done)
        step(g);
    return b.r.res;
}

int rig_get(struct rig *g, uint64_t seed, uint32_t n, struct kvs_block_req *ret)
{
    struct rig_block b;

    rig_block_set(g, &b, seed, n);
    rig_submit(g, &b, false);
    while (!b.done)
        step(g);
    if (ret)
        *ret = b.r;
    return b.r.res == 0 && b.wrong ? -9999 : b.r.res;
}

/* --- batches --------------------------------------------------------------------------------- */

struct kvs_id rig_id(uint64_t seed, uint64_t n)
{
    struct kvs_id id;
    uint64_t s = seed ^ (n + 1) * 0x1234567, a = rig_rand(&s) | 1, b = rig_rand(&s);

    memcpy(id.b, &a, 8);
    memcpy(id.b + 8, &b, 8);
    return id;
}

static void batch_done(struct kvs_batch *b)
{
    *(bool *)b->user = true;
}

int rig_batch(struct rig *g, const struct kvs_rec *rec, uint32_t n)
{
    bool done = false;
    struct kvs_batch b = {.rec = rec, .n_rec = n, .done = batch_done, .user = &done};

    while (kvs_batch_submit(g->s, &b) == -EAGAIN)
        step(g);
    while (!done)
        step(g);
    return b.res;
}

void rig_session(struct kvs_session *s, uint64_t seed, uint64_t n, const char *name)
{
    memset(s, 0, sizeof *s);
    s->id = rig_id(seed, 1000 + n);
    s->branch = rig_id(seed, n);
    s->owner = 1000;
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->model, sizeof s->model, "model-%llu", (unsigned long long)n);
    snprintf(s->settings, sizeof s->settings, "{\"system\":\"%llu\"}",
             (unsigned long long)seed);
    s->created_ns = 5;
}

int32_t rig_token(uint64_t seed, uint64_t pos)
{
    uint64_t s = seed + pos * 77;

    return (int32_t)(rig_rand(&s) % 49152);
}

int rig_talk(struct rig *g, uint64_t seed, uint64_t from, uint64_t to)
{
    struct kvs_session ses;
    struct kvs_branch br = {.id = rig_id(seed, 0), .owner = 1000};
    struct kvs_turn turn = {
        .branch = br.id, .first = from, .n_tokens = to - from, .seed = seed};
    int32_t *ids = malloc((to - from + 1) * sizeof *ids);
    struct kvs_rec rec[4];
    uint32_t n = 0;
    char name[32];

    snprintf(name, sizeof name, "s%llu", (unsigned long long)seed);
    rig_session(&ses, seed, 0, name);
    ses.head = to;
    ses.used_ns = to; /* grows with each turn, as a clock does */
    for (uint64_t i = from; i < to; i++)
        ids[i - from] = rig_token(seed, i);
    if (from == 0)
        rec[n++] = (struct kvs_rec){.kind = KVS_REC_BRANCH, .branch = &br};
    rec[n++] = (struct kvs_rec){.kind = KVS_REC_TOKENS,
                                .tokens = {br.id, from, ids, (uint32_t)(to - from)}};
    rec[n++] = (struct kvs_rec){.kind = KVS_REC_TURN, .turn = &turn};
    rec[n++] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &ses};
    int r = rig_batch(g, rec, n);
    free(ids);
    return r;
}

bool rig_tokens_ok(struct rig *g, uint64_t seed, uint64_t to)
{
    struct kvs_id id = rig_id(seed, 0);
    int32_t *ids = malloc((to + 1) * sizeof *ids);
    bool ok = kvs_tokens(g->s, &id, 0, to, ids) == 0;

    for (uint64_t i = 0; i < to && ok; i++)
        ok = ids[i] == rig_token(seed, i);
    free(ids);
    return ok;
}
