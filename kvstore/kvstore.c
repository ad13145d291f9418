/* kvstore.c - the face of the store: open, close, hand-over between threads, reads. */
#include "kvstore/kvstore.h"
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/repair.h"
#include "kvstore/store.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATHS_MAX = 1 << 16, PAGE = 32 };
static const uint64_t DISK_MIN = 4ull << 20;
static const uint64_t TOKENS_NS = 4000000000u; /* one read waits for damaged runs at most */

/* --- open and close ------------------------------------------------------------------------ */

static uint64_t clamp(uint64_t v, uint64_t lo, uint64_t hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* What is wrong with the place, another has not; a limit or a disk is not the place's fault. */
static int dir_refuse(struct errbuf *eb, int r, const char *path)
{
    switch (r) {
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM:
    case -ENOSPC:
    case -EDQUOT:
    case -EROFS:
    case -EIO: return sys_refuse(eb, r, "make", path);
    default:
        return err_set(
            eb, r, "cannot make %s: %s; choose another directory or change its owner or mode",
            path, err_str(r));
    }
}

/* The directory and everything above it that is missing. */
static int make_dirs(struct sys *y, const char *dir, struct errbuf *eb)
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s", dir) >= sizeof path)
        return err_set(eb, -ENAMETOOLONG, "the store's directory has too long a name");
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            if (mkdir(path, 0755) < 0 && errno != EEXIST)
                return dir_refuse(eb, -errno, path);
            *p = '/';
        }
    int r = sys_mkdir(y, path);
    return r < 0 ? dir_refuse(eb, r, path) : 0;
}

static int opts_check(const struct kvs_opts *o, struct errbuf *eb)
{
    if (!o->dir || !o->dir[0])
        return err_set(eb, -EINVAL, "the store needs a directory");
    if (strlen(o->dir) >= sizeof((struct kvstore *)0)->dir)
        return err_set(eb, -ENAMETOOLONG, "the store's directory: at most %zu bytes, got %zu",
                       sizeof((struct kvstore *)0)->dir - 1, strlen(o->dir));
    if (o->disk_bytes < DISK_MIN)
        return err_set(eb, -EINVAL, "disk limit: want at least %llu bytes, got %llu",
                       (unsigned long long)DISK_MIN, (unsigned long long)o->disk_bytes);
    return 0;
}

static void store_init(struct kvstore *s, const struct kvs_opts *o, const struct kvs_env *env)
{
    pthread_condattr_t mono;

    s->o = *o;
    if (env)
        s->env = *env;
    s->lock_fd = s->dir_fd = s->event_fd = -1;
    s->direct = true;
    snprintf(s->dir, sizeof s->dir, "%s", o->dir);
    s->sys.hook = s->env.sys_hook;
    s->sys.user = s->env.sys_user;
    s->sys.no_fsync = o->no_fsync;
    s->reserve_bytes = clamp(o->disk_bytes / 100, 0, 64 << 20);
    s->index_budget = clamp(o->disk_bytes / 64, 512 << 10, 64 << 20);
    s->log_budget = clamp(o->disk_bytes / 16, 1 << 20, 1 << 30);
    pthread_mutex_init(&s->to_io.lock, NULL);
    pthread_mutex_init(&s->to_commit.lock, NULL);
    pthread_mutex_init(&s->to_loop.lock, NULL);
    pthread_mutex_init(&s->ring_lock, NULL);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&s->to_commit.cond, &mono);
    pthread_mutex_init(&s->repair_lock, NULL);
    pthread_cond_init(&s->repair_cond, &mono);
    s->scrub.fd = -1;
    pthread_condattr_destroy(&mono);
    LIST_INIT(&s->to_io.reqs);
    LIST_INIT(&s->to_io.back);
    LIST_INIT(&s->to_commit.batches);
    LIST_INIT(&s->to_commit.jobs);
    LIST_INIT(&s->to_commit.metas);
    LIST_INIT(&s->to_loop.reqs);
    LIST_INIT(&s->to_loop.batches);
}

static void store_free(struct kvstore *s)
{
    if (!s)
        return;
    s->magic = 0;
    repair_close(s);
    io_close(s);
    turnlog_close(s->log);
    index_close(s->idx);
    for (uint32_t i = 0; i < s->n_layouts; i++) {
        for (uint32_t k = 0; k < s->layout[i]->n_seg; k++)
            seg_close(s->layout[i]->seg[k]);
        free(s->layout[i]->seg);
        free(s->layout[i]);
    }
    free(s->unread);
    free(s->to_commit.held);
    free(s->collect.keep.v);
    free(s->collect.held.v);
    table_fini(&s->table);
    shelf_fini(&s->shelf);
    if (s->event_fd >= 0)
        close(s->event_fd);
    guard_drop(s);
    pthread_cond_destroy(&s->to_commit.cond);
    free(s);
}

int kvs_open_env(struct kvstore **ret, const struct kvs_opts *o, const struct kvs_env *env,
                 struct kvs_open_report *rep, struct errbuf *eb)
{
    struct kvs_open_report none;
    char states[SAY_SEEN][KVS_WORDS];
    int faults[SAY_SEEN];
    struct kvstore *s;
    int r = opts_check(o, eb);

    if (!rep)
        rep = &none;
    memset(rep, 0, sizeof *rep);
    rep->io = "";
    if (r < 0)
        return r;
    if (sodium_init() < 0)
        return err_set(eb, -ENOSYS, "libsodium cannot start: no source of randomness");
    s = calloc(1, sizeof *s);
    if (!s)
        return err_set(eb, -ENOMEM, "no memory for the store");
    store_init(s, o, env);
    r = table_init(&s->table);
    if (r == 0)
        r = shelf_init(&s->shelf);
    if (r == 0)
        r = make_dirs(&s->sys, s->dir, eb);
    if (r == 0)
        r = guard_take(s, eb);
    if (r == 0) {
        s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (s->event_fd < 0)
            r = sys_refuse(eb, -errno, "make an eventfd for", s->dir);
    }
    if (r == 0)
        r = recover_open(s, rep, eb);
    if (r == 0)
        r = io_open(s, rep, eb);
    if (r < 0) {
        store_free(s);
        return r;
    }
    reserve_make(s);
    if (store_states(s, states, faults))
        snprintf(rep->warning, sizeof rep->warning, "%.250s", states[0]);
    s->magic = STORE_MAGIC;
    *ret = s;
    return 0;
}

int kvs_open(struct kvstore **ret, const struct kvs_opts *o, struct kvs_open_report *rep,
             struct errbuf *eb)
{
    return kvs_open_env(ret, o, NULL, rep, eb);
}

void kvs_close(struct kvstore *s)
{
    uint8_t one[8] = {1};

    if (!s)
        return;
    must_be(s, STORE_MAGIC);
    must(s->in_flight == 0);
    room_settle(s);
    heal_turn(s);
    if (guard_holds(s) && !s->index_bad && index_begin(s->idx) == 0) {
        int r = index_meta_put(s->idx, "clean", one, 8);
        if (r == 0)
            r = guard_clock_put(s);
        if (r == 0)
            r = commit_day(s);
        for (struct meta_job *m = s->to_commit.metas.head; m && r == 0; m = m->next)
            r = index_meta_put(s->idx, m->name, m->v, m->bytes);
        if (r == 0)
            (void)index_commit(s->idx);
        else
            index_abort(s->idx);
    }
    for (struct meta_job *m = s->to_commit.metas.head, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    store_free(s);
}

/* --- between threads ------------------------------------------------------------------------- */

uint64_t store_wall(const struct kvstore *s)
{
    return wall_ns() + (uint64_t)(s->env.wall_off_ns ? *s->env.wall_off_ns : 0);
}

uint64_t store_day_now(const struct kvstore *s)
{
    return store_wall(s) / 86400000000000u;
}

uint64_t store_today(const struct kvstore *s)
{
    return s->sys.bytes_written - s->day_mark;
}

void store_req_done(struct kvstore *s, struct kvs_block_req *r, int res)
{
    r->res = res;
    pthread_mutex_lock(&s->to_loop.lock);
    bool first = !s->to_loop.reqs.head && !s->to_loop.batches.head;
    LIST_PUSH(&s->to_loop.reqs, r);
    pthread_mutex_unlock(&s->to_loop.lock);
    if (first)
        store_event(s);
}

void store_batch_done(struct kvstore *s, struct kvs_batch *b, int res)
{
    b->res = res;
    pthread_mutex_lock(&s->to_loop.lock);
    bool first = !s->to_loop.reqs.head && !s->to_loop.batches.head;
    LIST_PUSH(&s->to_loop.batches, b);
    pthread_mutex_unlock(&s->to_loop.lock);
    if (first)
        store_event(s);
}

void kvs_wake(struct kvstore *s)
{
    must_be(s, STORE_MAGIC);
    io_wake(s);
    commit_wake(s);
}

const uint8_t *kvs_uuid(const struct kvstore *s)
{
    return s->uuid;
}

int kvs_event_fd(const struct kvstore *s)
{
    return s->event_fd;
}

void kvs_loop_turn(struct kvstore *s)
{
    uint64_t n;

    must_be(s, STORE_MAGIC);
    (void)!read(s->event_fd, &n, sizeof n);
    pthread_mutex_lock(&s->to_loop.lock);
    struct kvs_block_req *r = s->to_loop.reqs.head;
    struct kvs_batch *b = s->to_loop.batches.head;
    LIST_INIT(&s->to_loop.reqs);
    LIST_INIT(&s->to_loop.batches);
    bool asked = s->to_loop.asked;
    s->to_loop.asked = false;
    pthread_mutex_unlock(&s->to_loop.lock);
    /* done() may free the request and submit others. */
    while (b) {
        struct kvs_batch *next = b->next;
        s->n_batches--;
        s->in_flight--;
        s->refusals_seen = b->seen;
        b->done(b);
        b = next;
    }
    while (r) {
        struct kvs_block_req *next = r->next;
        s->n_reqs--;
        s->in_flight--;
        r->done(r);
        r = next;
    }
    if (asked)
        collect_asked(s);
}

uint64_t kvs_in_flight(const struct kvstore *s)
{
    return s->in_flight;
}

/* --- blocks ---------------------------------------------------------------------------------- */

static int layout_shape(struct kvstore *s, const struct kvs_layout *l, struct errbuf *eb)
{
    uint64_t slot = SLOT_HEAD_BYTES + l->hot_bytes + l->cold_bytes;

    if (!memchr(l->id, 0, sizeof l->id) || !l->id[0] || l->id[0] == '.' || strchr(l->id, '/'))
        return err_set(eb, -EINVAL, "layout id: want 1 to 63 bytes, no '/' and no leading '.'");
    if (l->hot_bytes == 0 || l->hot_bytes % IO_ALIGN || l->cold_bytes % IO_ALIGN)
        return err_set(eb, -EINVAL,
                       "layout %s: hot_bytes and cold_bytes must be multiples of %d, hot not "
                       "0; got %llu and %llu",
                       l->id, IO_ALIGN, (unsigned long long)l->hot_bytes,
                       (unsigned long long)l->cold_bytes);
    if (l->hot_bytes > 1ull << 30 || l->cold_bytes / IO_ALIGN > SLOT_COLD_PAGES_MAX)
        return err_set(eb, E_LIMIT,
                       "layout %s: hot_bytes at most %llu, cold_bytes at most %llu; got %llu "
                       "and %llu",
                       l->id, 1ull << 30, (unsigned long long)SLOT_COLD_PAGES_MAX * IO_ALIGN,
                       (unsigned long long)l->hot_bytes, (unsigned long long)l->cold_bytes);
    if (host_bytes(s->host) / slot < 2)
        return err_set(eb, E_LIMIT,
                       "layout %s: host memory of %llu bytes holds less than two blocks of "
                       "%llu; want at least %llu",
                       l->id, (unsigned long long)host_bytes(s->host), (unsigned long long)slot,
                       (unsigned long long)(2 * slot));
    return 0;
}

int kvs_layout_add(struct kvstore *s, const struct kvs_layout *l, uint32_t *ret,
                   struct errbuf *eb)
{
    must_be(s, STORE_MAGIC);
    int r = layout_shape(s, l, eb);
    if (r < 0)
        return r;
    uint64_t tag = layout_tag(l->id);
    for (uint32_t i = 0; i < s->n_layouts; i++) {
        const struct layout *x = s->layout[i];
        if (x->tag != tag)
            continue;
        if (strcmp(x->id, l->id) || x->hot_bytes != l->hot_bytes ||
            x->cold_bytes != l->cold_bytes)
            return err_set(eb, E_SHAPE,
                           "layout %s is stored with blocks of %llu + %llu bytes, not %llu + "
                           "%llu: give the new shape another id",
                           x->id, (unsigned long long)x->hot_bytes,
                           (unsigned long long)x->cold_bytes, (unsigned long long)l->hot_bytes,
                           (unsigned long long)l->cold_bytes);
        *ret = i;
        return 0;
    }
    if (s->n_layouts == LAYOUTS_MAX)
        return err_set(eb, E_LIMIT, "layout %s: at most %d layouts in one store", l->id,
                       LAYOUTS_MAX);
    struct layout *x = calloc(1, sizeof *x);
    if (!x)
        return err_set(eb, -ENOMEM, "no memory for layout %s", l->id);
    memcpy(x->id, l->id, sizeof x->id);
    x->tag = tag;
    x->hot_bytes = l->hot_bytes;
    x->cold_bytes = l->cold_bytes;
    x->slot_bytes = SLOT_HEAD_BYTES + l->hot_bytes + l->cold_bytes;
    x->next_number = 1;
    recover_numbers(s, x);
    x->index = (uint16_t)s->n_layouts;
    pthread_mutex_lock(&s->table.lock);
    s->layout[x->index] = x;
    s->n_layouts++; /* the io thread reads up to here and no further */
    pthread_mutex_unlock(&s->table.lock);
    *ret = x->index;
    return 0;
}

int kvs_block_submit(struct kvstore *s, struct kvs_block_req *r)
{
    must_be(s, STORE_MAGIC);
    must(r->layout < s->n_layouts && r->done);
    if (s->n_reqs == BLOCK_REQS_MAX)
        return -EAGAIN;
    s->n_reqs++;
    s->in_flight++;
    r->res = 0;
    r->from = KVS_FROM_NONE;
    r->in_host = r->corrupt = false;
    pthread_mutex_lock(&s->to_io.lock);
    LIST_PUSH(&s->to_io.reqs, r);
    pthread_mutex_unlock(&s->to_io.lock);
    io_wake(s);
    return 0;
}

uint32_t kvs_match(struct kvstore *s, const struct kvs_key *keys, uint32_t n, uint64_t variant)
{
    uint32_t i = 0;

    must_be(s, STORE_MAGIC);
    pthread_mutex_lock(&s->table.lock);
    for (; i < n; i++) {
        const struct blk *b = table_find(&s->table, &keys[i], variant);
        if (!(b && b->page && b->whole) && !shelf_find(&s->shelf, keys[i].b, variant))
            break;
    }
    pthread_mutex_unlock(&s->table.lock);
    return i;
}

void kvs_where(struct kvstore *s, const struct kvs_key *keys, uint32_t n, uint64_t variant,
               uint32_t *ret_host, uint32_t *ret_file)
{
    must_be(s, STORE_MAGIC);
    *ret_host = *ret_file = 0;
    pthread_mutex_lock(&s->table.lock);
    for (uint32_t i = 0; i < n; i++) {
        const struct blk *b = table_find(&s->table, &keys[i], variant);

        *ret_host += b && b->page && b->whole;
        *ret_file += shelf_find(&s->shelf, keys[i].b, variant) != 0;
    }
    pthread_mutex_unlock(&s->table.lock);
}

void kvs_forget(struct kvstore *s, const struct kvs_key *keys, uint32_t n, uint64_t variant)
{
    struct forget_job *f = n ? malloc(sizeof *f + n * sizeof *keys) : NULL;

    must_be(s, STORE_MAGIC);
    if (!f)
        return;
    *f = (struct forget_job){.job.kind = JOB_FORGET, .variant = variant, .n = n};
    memcpy(f->key, keys, n * sizeof *keys);
    io_job_back(s, &f->job);
    io_wake(s);
}

/* --- sessions and turns ------------------------------------------------------------------------ */

int kvs_batch_submit(struct kvstore *s, struct kvs_batch *b)
{
    must_be(s, STORE_MAGIC);
    must(b->done);
    if (s->n_batches == BATCHES_MAX)
        return -EAGAIN;
    s->n_batches++;
    s->in_flight++;
    b->res = 0;
    b->seen = s->refusals_seen;
    pthread_mutex_lock(&s->to_commit.lock);
    LIST_PUSH(&s->to_commit.batches, b);
    pthread_cond_signal(&s->to_commit.cond);
    pthread_mutex_unlock(&s->to_commit.lock);
    return 0;
}

bool kvs_turns_full(const struct kvstore *s)
{
    return s->turns_full;
}

bool kvs_turns_short(const struct kvstore *s)
{
    return s->turns_short;
}

uint64_t kvs_day(const struct kvstore *s, uint64_t *ret_today, uint64_t *ret_count)
{
    *ret_count = s->day_mark;
    *ret_today =
        s->sys.bytes_written - *ret_count; /* the later of the two, so never negative */
    return s->o.day_bytes;
}

/* What is damaged is made anew and read again; E_CORRUPT is what cannot be.  More than once: what
 * was mended last may have been something else. */
#define READ(r, read)                                                                          \
    do {                                                                                       \
        (r) = read;                                                                            \
        for (int i_ = 0; i_ < 3 && (r) == E_CORRUPT && repair_wait(s); i_++)                   \
            (r) = read;                                                                        \
        (r) = repair_why(s, (r));                                                              \
    } while (0)

/* The same where a page of a listing left a damaged row out. */
#define READ_PAGE(at, n, page)                                                                 \
    do {                                                                                       \
        const struct index_at was_ = (at);                                                     \
        const uint64_t bad_ = bad;                                                             \
        (n) = page;                                                                            \
        for (int i_ = 0; i_ < 3 && (bad != bad_ || (n) == E_CORRUPT) && repair_wait(s);        \
             i_++) {                                                                           \
            (at) = was_;                                                                       \
            bad = bad_;                                                                        \
            (n) = page;                                                                        \
        }                                                                                      \
        (n) = repair_why(s, (n));                                                              \
    } while (0)

int kvs_sessions(struct kvstore *s, int (*each)(void *ctx, const struct kvs_session *x),
                 void *ctx)
{
    struct kvs_session *v = malloc(PAGE * sizeof *v);
    struct index_at at = {0};
    uint64_t bad = 0;
    int r = 0;

    must_be(s, STORE_MAGIC);
    for (int n = v ? 1 : 0; r == 0 && n > 0;) {
        READ_PAGE(at, n, index_sessions(s->idx, INDEX_LOOP, &at, v, PAGE, &bad));
        if (n < 0)
            r = n;
        for (int i = 0; i < n && r == 0; i++)
            r = each(ctx, &v[i]);
    }
    s->n.corrupt += bad;
    r = v ? r : -ENOMEM;
    free(v);
    return r;
}

static int branch_read(struct kvstore *s, const struct kvs_id *id, struct kvs_branch *ret,
                       uint64_t *ret_end)
{
    int r;

    READ(r, index_branch_get(s->idx, INDEX_LOOP, id, ret, ret_end));
    return r;
}

int kvs_branch_get(struct kvstore *s, const struct kvs_id *id, struct kvs_branch *ret)
{
    uint64_t end;

    must_be(s, STORE_MAGIC);
    return branch_read(s, id, ret, &end);
}

int kvs_branch_end(struct kvstore *s, const struct kvs_id *branch, uint64_t *ret)
{
    struct kvs_branch b;

    must_be(s, STORE_MAGIC);
    return branch_read(s, branch, &b, ret);
}

/* A path from its root: which branch holds which positions. */
struct piece {
    struct kvs_id id;
    uint64_t from, to;
};

static int path_of(struct kvstore *s, const struct kvs_id *branch, uint64_t to,
                   struct piece **ret, uint32_t *ret_n)
{
    static const struct kvs_id none;
    struct piece *v = NULL;
    struct kvs_id id = *branch;
    uint32_t n = 0, cap = 0;
    int r = 0;

    while (memcmp(id.b, none.b, 16)) {
        struct kvs_branch b;
        uint64_t end = 0;
        if (n == cap) {
            cap = cap ? 2 * cap : 16;
            struct piece *more = realloc(v, cap * sizeof *v);
            r = more && n < PATHS_MAX ? 0 : more ? E_CORRUPT : -ENOMEM; /* a circle */
            v = more ? more : v;
        }
        if (r == 0)
            r = branch_read(s, &id, &b, &end);
        if (r == -ENOENT && n > 0)
            r = E_CORRUPT; /* a parent is missing */
        if (r == 0 && end < to && n > 0)
            r = E_CORRUPT; /* it was cut below where its child begins */
        if (r < 0) {
            free(v);
            return r;
        }
        v[n].id = id;
        v[n].from = b.parent_pos;
        v[n++].to = end < to ? end : to;
        if (b.parent_pos < to)
            to = b.parent_pos;
        id = b.parent;
    }
    for (uint32_t i = 0; i < n / 2; i++) {
        struct piece x = v[i];
        v[i] = v[n - 1 - i];
        v[n - 1 - i] = x;
    }
    *ret = v;
    *ret_n = n;
    return 0;
}

/* Each damaged run is made anew in its turn, and there may be many; but the loop has others to serve,
 * and an index that others write to all the while is left to the next call. */
static int tokens_read(struct kvstore *s, const struct kvs_id *id, uint64_t from, uint64_t to,
                       int32_t *ret, uint64_t until)
{
    int r, whole = 0;

    for (;;) {
        r = index_tokens(s->idx, INDEX_LOOP, id, from, to, ret);
        bool late = r == E_CORRUPT && now_ns() >= until;
        if (r != E_CORRUPT || late || (index_trust(s->idx) != INDEX_FINE && whole++ == 3) ||
            !repair_wait(s)) {
            r = repair_why(s, r);
            return late && r == E_CORRUPT ? -EAGAIN : r;
        }
    }
}

int kvs_tokens(struct kvstore *s, const struct kvs_id *branch, uint64_t from, uint64_t to,
               int32_t *ret)
{
    uint64_t until = now_ns() + TOKENS_NS;
    struct piece *v;
    uint32_t n;

    must_be(s, STORE_MAGIC);
    int r = path_of(s, branch, to, &v, &n);
    if (r < 0)
        return r;
    if (from > to || n == 0 || v[n - 1].to < to)
        r = -ENOENT; /* more than the branch holds */
    for (uint32_t i = 0; i < n && r == 0; i++) {
        uint64_t a = v[i].from > from ? v[i].from : from, z = v[i].to < to ? v[i].to : to;
        if (a < z)
            r = tokens_read(s, &v[i].id, a, z, ret + (a - from), until);
    }
    free(v);
    return r;
}

int kvs_turns(struct kvstore *s, const struct kvs_id *branch, uint64_t to,
              int (*each)(void *ctx, const struct kvs_turn *t), void *ctx)
{
    struct kvs_turn *t = malloc(PAGE * sizeof *t);
    struct piece *v = NULL;
    uint32_t n = 0;
    uint64_t bad = 0;

    must_be(s, STORE_MAGIC);
    int r = t ? path_of(s, branch, to, &v, &n) : -ENOMEM;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        struct index_at at;
        /* A turn may be on record before its first token is: the last branch's turns count
         * up to `to`, the others' up to where the next branch leaves.  One without tokens that
         * stands just there is part of the path: an answer cancelled before it began. */
        uint64_t stop = i + 1 < n ? v[i].to : to;
        index_at_turns(&at, &v[i].id);
        for (int got = 1; got > 0 && r == 0;) {
            READ_PAGE(at, got, index_turns(s->idx, INDEX_LOOP, &at, &v[i].id, t, PAGE, &bad));
            if (got < 0)
                r = got;
            for (int k = 0; k < got && r == 0; k++) {
                if (t[k].first > stop || (t[k].first == stop && t[k].n_tokens)) {
                    got = 0;
                    break;
                }
                r = each(ctx, &t[k]);
            }
        }
    }
    s->n.corrupt += bad;
    free(v);
    free(t);
    return r;
}

int kvs_req_get(struct kvstore *s, uint32_t owner, const struct kvs_id *id, struct kvs_req *ret,
                char **ret_reply)
{
    int r;

    must_be(s, STORE_MAGIC);
    READ(r, index_req_get(s->idx, INDEX_LOOP, owner, id, ret, ret_reply));
    return r;
}

int kvs_reqs(struct kvstore *s, int (*each)(void *ctx, const struct kvs_req *r), void *ctx)
{
    struct index_at at = {0};
    struct kvs_req q;
    uint64_t bad = 0;
    int n, r = 0;

    must_be(s, STORE_MAGIC);
    for (;;) {
        char *reply = NULL;
        READ_PAGE(
            at, n,
            (free(reply), reply = NULL, index_reqs(s->idx, INDEX_LOOP, &at, &q, &reply, &bad)));
        if (n < 0)
            return n;
        if (n == 0)
            break;
        r = each(ctx, &q);
        free(reply);
        if (r)
            break;
    }
    s->n.corrupt += bad;
    return r;
}

int kvs_parts(struct kvstore *s, uint32_t owner, const struct kvs_id *id,
              int (*each)(void *ctx, const struct kvs_part *p), void *ctx)
{
    struct index_at at;
    struct kvs_part a;
    uint64_t bad = 0;
    int n = 0, r = 0;

    must_be(s, STORE_MAGIC);
    index_at_parts(&at, owner, id);
    for (n = 1; r == 0 && n == 1;) {
        uint8_t *data = NULL;
        READ_PAGE(
            at, n,
            (free(data), data = NULL, index_parts(s->idx, INDEX_LOOP, &at, &a, &data, &bad)));
        if (n == 1)
            r = each(ctx, &a);
        free(data);
    }
    s->n.corrupt += bad;
    return n < 0 ? n : r;
}

static int meta_name(const char *name, char ret[64])
{
    return snprintf(ret, 64, "user.%s", name) < 64 ? 0 : -ENAMETOOLONG;
}

int kvs_meta_get(struct kvstore *s, const char *name, void *ret, size_t cap)
{
    char key[64];

    must_be(s, STORE_MAGIC);
    int r = meta_name(name, key);
    if (r == 0)
        READ(r, index_meta_get(s->idx, INDEX_LOOP, key, ret, cap));
    return r;
}

int kvs_meta_put(struct kvstore *s, const char *name, const void *v, size_t bytes)
{
    struct meta_job *m;
    char key[64];

    must_be(s, STORE_MAGIC);
    int r = meta_name(name, key);
    if (r < 0)
        return r;
    if (bytes > 1 << 16)
        return E_LIMIT;
    m = malloc(sizeof *m + bytes);
    if (!m)
        return -ENOMEM;
    m->bytes = (uint32_t)bytes;
    memcpy(m->name, key, sizeof m->name);
    memcpy(m->v, v, bytes);
    pthread_mutex_lock(&s->to_commit.lock);
    LIST_PUSH(&s->to_commit.metas, m);
    s->to_commit.woken = true;
    pthread_cond_signal(&s->to_commit.cond);
    pthread_mutex_unlock(&s->to_commit.lock);
    return 0;
}

/* All that is left, once turns may take no more. */
static uint64_t kept_free(const struct kvstore *s, const struct kvs_stats *k)
{
    uint64_t left = k->file_limit > k->file_allocated ? k->file_limit - k->file_allocated : 0;
    uint64_t want = s->log_want;
    uint64_t kept = s->reserve_bytes + (want > k->log_bytes ? want - k->log_bytes : 0);

    return s->turns_full || kept > left ? left : kept;
}

void kvs_stats(struct kvstore *s, struct kvs_stats *ret)
{
    uint64_t ahead;

    must_be(s, STORE_MAGIC);
    memset(ret, 0, sizeof *ret);
    ret->host_limit = host_bytes(s->host);
    ret->host_used = host_used(s->host);
    ret->log_bytes = s->log_bytes;
    ret->index_bytes = s->index_bytes;
    ret->file_allocated = s->file_bytes + ret->log_bytes + ret->index_bytes;
    ahead = s->ahead_bytes + s->file_bytes - s->slot_bytes;
    ret->file_used = ret->file_allocated > ahead ? ret->file_allocated - ahead : 0;
    ret->file_limit = s->o.disk_bytes;
    ret->file_kept = kept_free(s, ret);
    ret->blocks = s->n.blocks;
    ret->blocks_dirty = s->n.dirty;
    ret->segs_unread = s->n_unread;
    ret->blocks_memory = s->n.memory;
    ret->bytes_written = s->sys.bytes_written;
    ret->bytes_read = s->n.read;
    ret->new_state_bytes = s->n.state;
    ret->today_bytes = store_today(s);
    ret->day_limit = s->o.day_bytes;
    ret->hits_host = s->n.hits_host;
    ret->hits_file = s->n.hits_file;
    ret->misses = s->n.misses;
    ret->corrupt = s->n.corrupt;
    ret->rows_repaired = s->n.repaired;
    ret->rows_unrepaired = s->n.unrepaired;
    ret->evicted = s->n.evicted;
    ret->syncs = s->sys.syncs;
    ret->commits = s->n.commits;
    ret->turns_full = s->turns_full;
    ret->fault = s->fault;
    ret->full_why = s->full_why;
    ret->files_off = s->files_off || s->kv_unread;
    ret->index_hurt = s->index_bad || index_trust(s->idx) != INDEX_FINE;
    pthread_mutex_lock(&s->ring_lock);
    ret->uring = s->io.ring && s->io.ops == &ring_uring;
    pthread_mutex_unlock(&s->ring_lock);
    ret->direct = s->direct;
    ret->n_warnings = store_states(s, ret->warning, ret->warning_fault);
}
