/* recover.c - opening what a predecessor left, however it ended.
 *
 * 1. The index is walked in a child process, which may crash on a damaged file.
 * 2. Sound: frames of the turn log that it has not seen are applied.  Lost or damaged, or
 *    older than the log reaches back: it is made anew from the whole log and, for blocks,
 *    from the slots' own headers.  The log damaged, the index sound: the log is made anew.
 * 3. Segments are opened, synced after a crash, and the table and the free maps filled from
 *    the index; a row that names no slot of ours is dropped.
 * 4. Branches that no session and no request leads to are collected, old requests forgotten.
 * Nothing is ever formatted while there is something to read. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/codec.h"
#include "kvstore/store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SCHEMA_OLDEST = 1, SCHEMA = 2, VERIFY_NEWEST = 64, FRAMES_PER_TXN = 256 };
static const uint64_t QUICK_BYTES = 64ull << 20;

/* --- the index, and the log into it ---------------------------------------------------------- */

/* 0 sound, -ENOENT none, E_CORRUPT damaged. */
static int walk_in_child(const char *dir)
{
    int status;
    pid_t pid = fork();

    if (pid < 0)
        return E_CORRUPT; /* unknown is damaged: a rebuild is safe */
    if (pid == 0) {
        struct rlimit none = {0, 0};
        sigset_t all;
        int null = open("/dev/null", O_RDWR);
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        sigfillset(&all);
        for (int i = 1; i < NSIG; i++)
            (void)signal(i, SIG_DFL);
        (void)sigprocmask(SIG_UNBLOCK, &all, NULL);
        (void)alarm(60); /* damage can close a circle */
        int r = index_verify(dir, QUICK_BYTES);
        _exit(r == 0 ? 0 : r == -ENOENT ? 2 : 1);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return E_CORRUPT;
    if (!WIFEXITED(status))
        return E_CORRUPT;
    return WEXITSTATUS(status) == 0 ? 0 : WEXITSTATUS(status) == 2 ? -ENOENT : E_CORRUPT;
}

static int index_start(struct kvstore *s, struct errbuf *eb)
{
    struct index_opts o = {s->dir, &s->sys, s->index_budget / 2, s->o.no_fsync};

    return index_open(&s->idx, &o, eb);
}

struct replay {
    struct kvstore *s;
    bool rebuild;
    uint64_t applied; /* the newest frame in the index */
    uint32_t in_txn;
    uint64_t frames, refused;
};

static int replay_commit(struct replay *p)
{
    uint8_t v[8];

    if (!p->in_txn)
        return 0;
    p->in_txn = 0;
    st64(v, p->applied);
    int r = index_meta_put(p->s->idx, "logseq", v, 8);
    if (r < 0) {
        index_abort(p->s->idx);
        return r;
    }
    return index_commit(p->s->idx);
}

/* A frame behind damage may not fit any more: it is left out, whole. */
static int replay_accept(struct replay *p, const uint8_t *recs, uint32_t bytes)
{
    struct codec_rec c;
    size_t one;
    int r = 0;

    accept_begin(&p->s->accept, p->s->idx, INDEX_WRITE);
    for (uint32_t at = 0; at < bytes && r == 0; at += (uint32_t)one) {
        r = codec_get(recs + at, bytes - at, &c, &one);
        if (r == 0)
            r = accept_batch(&p->s->accept, &c.rec, 1);
    }
    return r;
}

static int replay_frame(void *ctx, bool base, uint64_t seq, const uint8_t *recs, uint32_t bytes)
{
    struct replay *p = ctx;
    int r = 0;

    if (!p->rebuild) {
        if (seq > p->applied + (base ? 0 : 1))
            return E_STALE; /* an index from before the log begins */
        if (seq <= p->applied)
            return 0;
    }
    if (p->in_txn == 0)
        r = index_begin(p->s->idx);
    if (r < 0)
        return r;
    p->in_txn++;
    if (base || (r = replay_accept(p, recs, bytes)) == 0)
        r = commit_apply_frame(p->s, recs, bytes);
    else
        p->refused++, r = 0;
    if (r < 0) {
        index_abort(p->s->idx);
        p->in_txn = 0;
        return r;
    }
    p->applied = seq;
    p->frames++;
    return p->in_txn >= FRAMES_PER_TXN ? replay_commit(p) : 0;
}

static int log_read(struct kvstore *s, struct replay *p, struct turnlog_report *rep,
                    struct errbuf *eb)
{
    char dir[PATH_MAX];
    struct turnlog_opts o = {.dir = dir,
                             .sys = &s->sys,
                             .seg_bytes =
                                 s->log_budget / 8 < 16 << 20 ? s->log_budget / 8 : 16 << 20,
                             .salvage = p->rebuild,
                             .each = replay_frame,
                             .ctx = p};

    snprintf(dir, sizeof dir, "%s/log", s->dir);
    int r = turnlog_open(&s->log, &o, rep, eb);
    if (r == 0)
        r = replay_commit(p);
    else if (p->in_txn)
        index_abort(s->idx);
    return r;
}

static bool meta_u64(struct kvstore *s, const char *name, uint64_t *ret)
{
    uint8_t v[8];

    if (index_meta_get(s->idx, INDEX_LOOP, name, v, 8) != 8)
        return false;
    *ret = ld64(v);
    return true;
}

static bool dir_empty(const char *path)
{
    DIR *d = opendir(path);
    bool empty = true;

    if (!d)
        return true;
    for (struct dirent *e; empty && (e = readdir(d));)
        empty = e->d_name[0] == '.';
    closedir(d);
    return empty;
}

/* Index and log agree after this, or the open fails. */
static int index_and_log(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    struct replay p = {.s = s};
    struct turnlog_report log;
    char path[PATH_MAX];
    uint64_t schema = SCHEMA, clean = 0;
    bool something;
    int r = walk_in_child(s->dir);

    snprintf(path, sizeof path, "%s/log", s->dir);
    something = !dir_empty(path);
    snprintf(path, sizeof path, "%s/kv", s->dir);
    something |= !dir_empty(path);
    bool sound = r == 0;
    if (!sound && (r = index_remove(&s->sys, s->dir)) < 0)
        return err_set(eb, r, "cannot remove the damaged index in %s: %s", s->dir, err_str(r));
    r = index_start(s, eb);
    if (r < 0)
        return r;
    if (sound && index_meta_get(s->idx, INDEX_LOOP, "uuid", s->uuid, 16) != 16)
        sound = false; /* made and never filled */
    if (sound) {
        (void)meta_u64(s, "schema", &schema);
        if (schema < SCHEMA_OLDEST || schema > SCHEMA)
            return err_set(eb, E_VERSION,
                           "the store in %s has format %llu, this program knows %d to %d",
                           s->dir, (unsigned long long)schema, SCHEMA_OLDEST, SCHEMA);
        (void)meta_u64(s, "clean", &clean);
        (void)meta_u64(s, "logseq", &p.applied);
        r = log_read(s, &p, &log, eb);
        if (r == E_STALE) {
            sound = false;
            index_close(s->idx);
            s->idx = NULL;
            r = index_remove(&s->sys, s->dir);
            if (r == 0)
                r = index_start(s, eb);
        }
        if (r < 0)
            return r;
    }
    if (!sound) {
        p = (struct replay){.s = s, .rebuild = true};
        r = log_read(s, &p, &log, eb);
        if (r < 0)
            return r;
        if (log.have_uuid)
            memcpy(s->uuid, log.uuid, 16);
        rep->rebuilt = something;
    }
    rep->clean = sound && clean == 1;
    rep->log_torn_bytes = log.torn_bytes;
    uint64_t seq = p.applied > log.last_seq ? p.applied : log.last_seq;
    bool hurt = log.damaged || log.last_seq < p.applied;
    if (hurt)
        store_warn(s, "the turn log was damaged, %s",
                   sound ? "made anew from the index" : "what could be read was kept");
    if (sodium_is_zero(s->uuid, 16))
        return hurt; /* the segments may still know the store's name */
    r = turnlog_start(s->log, s->uuid, seq);
    return r < 0 ? err_set(eb, r, "cannot write the turn log in %s: %s", s->dir, err_str(r))
                 : hurt;
}

/* --- segments and blocks ----------------------------------------------------------------------- */

/* A segment whose own header is hurt: any slot in it says the same things again. */
static int seg_repair(struct kvstore *s, const char *path, uint32_t number)
{
    uint8_t head[SLOT_HEAD_BYTES];
    struct slot_head h;
    struct stat st;
    uint32_t crc;
    int fd = open(path, O_RDWR | O_CLOEXEC), r;

    if (fd < 0)
        return -errno;
    r = fstat(fd, &st) < 0 ? -errno : sys_read(fd, head, sizeof head, SEG_HEAD_BYTES);
    if (r == 0)
        r = slot_head_get(head, &h, &crc) < 0 ? E_CORRUPT : 0;
    if (r == 0 && memcmp(h.uuid, s->uuid, 16))
        r = E_CORRUPT;
    if (r == 0) {
        struct seg_head g = {.hot_bytes = h.hot_bytes,
                             .cold_bytes = h.cold_bytes,
                             .slot_bytes = SLOT_HEAD_BYTES + h.hot_bytes + h.cold_bytes,
                             .number = number};
        g.n_slots = (uint32_t)(((uint64_t)st.st_size - SEG_HEAD_BYTES) / g.slot_bytes);
        memcpy(g.uuid, h.uuid, 16);
        memcpy(g.layout, h.layout, LAYOUT_ID_BYTES);
        seg_head_put(head, &g);
        r = sys_write(&s->sys, fd, head, sizeof head, 0);
        if (r == 0)
            r = sys_sync(&s->sys, fd);
    }
    close(fd);
    return r;
}

static struct layout *layout_of(struct kvstore *s, uint64_t tag)
{
    for (uint32_t i = 0; i < s->n_layouts; i++)
        if (s->layout[i]->tag == tag)
            return s->layout[i];
    return NULL;
}

static int layout_from(struct kvstore *s, const struct seg_head *h, struct layout **ret)
{
    struct layout *l = layout_of(s, layout_tag(h->layout));

    if (l) {
        *ret = l;
        return l->hot_bytes == h->hot_bytes && l->cold_bytes == h->cold_bytes ? 0 : E_SHAPE;
    }
    if (s->n_layouts == LAYOUTS_MAX)
        return E_LIMIT;
    l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    memcpy(l->id, h->layout, LAYOUT_ID_BYTES);
    l->tag = layout_tag(l->id);
    l->hot_bytes = h->hot_bytes;
    l->cold_bytes = h->cold_bytes;
    l->slot_bytes = h->slot_bytes;
    l->next_number = 1;
    l->index = (uint16_t)s->n_layouts;
    s->layout[s->n_layouts++] = l;
    *ret = l;
    return 0;
}

static int seg_take(struct kvstore *s, const char *folder, const char *name,
                    struct kvs_open_report *rep)
{
    char path[PATH_MAX], end;
    uint32_t number;
    struct seg *g;
    struct seg_head h;
    struct layout *l;

    if (snprintf(path, sizeof path, "%s/kv/%s/%s", s->dir, folder, name) >= PATH_MAX)
        return 0;
    if (strstr(name, ".tmp")) {
        (void)unlink(path);
        return 0;
    }
    if (sscanf(name, "seg-%u%c", &number, &end) != 1)
        return 0;
    int r = seg_open(path, &g, &h);
    if (r == E_CORRUPT && seg_repair(s, path, number) == 0)
        r = seg_open(path, &g, &h);
    if (r == E_CORRUPT) {
        store_warn(s, "%s is not readable as a segment: removed, its blocks are recomputed",
                   path);
        rep->blocks_dropped++;
        return sys_unlink(&s->sys, path);
    }
    if (r < 0)
        return r;
    if (sodium_is_zero(s->uuid, 16))
        memcpy(s->uuid, h.uuid, 16);
    r = memcmp(h.uuid, s->uuid, 16) || strcmp(h.layout, folder) || h.number != number
            ? E_SHAPE
            : layout_from(s, &h, &l);
    if (r == 0)
        r = layout_add_seg(l, g);
    if (r < 0) {
        seg_close(g);
        if (r == -ENOMEM)
            return r;
        store_warn(s, "%s belongs to another store or layout: left alone", path);
        s->file_bytes += sys_taken_bytes(path);
        return 0;
    }
    s->file_bytes += g->bytes;
    if (!g->direct)
        s->direct = false;
    return rep->clean ? 0 : sys_sync(&s->sys, g->fd); /* writes of a killed predecessor */
}

static int segs_scan(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    char path[PATH_MAX];
    int r = 0;

    snprintf(path, sizeof path, "%s/kv", s->dir);
    DIR *d = opendir(path);
    if (!d)
        return err_set(eb, -errno, "cannot read %s: %s", path, strerror(errno));
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        if (e->d_name[0] == '.' || strlen(e->d_name) >= LAYOUT_ID_BYTES)
            continue;
        if (snprintf(path, sizeof path, "%s/kv/%s", s->dir, e->d_name) >= PATH_MAX)
            continue;
        DIR *f = opendir(path);
        for (struct dirent *g; f && r == 0 && (g = readdir(f));)
            if (g->d_name[0] != '.') {
                r = seg_take(s, e->d_name, g->d_name, rep);
                if (r < 0)
                    (void)err_set(eb, r, "cannot open segment %s/%s: %s", path, g->d_name,
                                  err_str(r));
            }
        if (f)
            closedir(f);
    }
    closedir(d);
    return r;
}

static void blk_fill(struct blk *b, const struct layout *l, const struct index_block *row)
{
    b->parent = row->parent;
    b->first_pos = row->first_pos;
    b->time_ns = row->time_ns;
    b->segment = row->segment;
    b->slot = row->slot;
    b->head_crc = row->head_crc;
    b->n_tokens = row->n_tokens;
    b->used = (uint32_t)(row->time_ns / USED_UNIT_NS);
    b->layout = l->index;
    b->on_file = true;
    memcpy(b->hash, row->hash, 16);
}

/* 0 taken, -ENOENT: names nothing of ours, -ENOMEM. */
static int row_take(struct kvstore *s, const struct index_block *row)
{
    struct layout *l = layout_of(s, row->layout);
    struct seg *g = l ? layout_seg(l, row->segment) : NULL;

    if (!g || row->slot >= g->n_slots || slot_claim(l, g, row->slot) < 0)
        return -ENOENT;
    struct blk *b = table_add(&s->table, &row->key, row->variant);
    if (!b)
        return -ENOMEM;
    blk_fill(b, l, row);
    s->n.blocks++;
    return 0;
}

static int rows_write(struct kvstore *s, const struct index_block *put, uint32_t n_put,
                      const struct index_block *del, uint32_t n_del)
{
    int r = n_put + n_del ? index_begin(s->idx) : 0;

    if (r < 0 || n_put + n_del == 0)
        return r;
    for (uint32_t i = 0; i < n_put && r == 0; i++)
        r = index_block_put(s->idx, &put[i]);
    for (uint32_t i = 0; i < n_del && r == 0; i++)
        r = index_block_del(s->idx, &del[i].key, del[i].variant);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    return index_commit(s->idx);
}

static int blocks_load(struct kvstore *s, struct kvs_open_report *rep)
{
    struct index_block *row = malloc(2 * TXN_BLOCKS_MAX * sizeof *row);
    struct index_at at = {0};
    uint64_t bad = 0;
    int n = row ? 1 : -ENOMEM, r = 0;

    while (n > 0 && r == 0) {
        uint32_t gone = 0;
        n = index_blocks(s->idx, INDEX_LOOP, &at, row, TXN_BLOCKS_MAX, &bad);
        for (int i = 0; i < n && r == 0; i++) {
            r = row_take(s, &row[i]);
            if (r == -ENOENT) {
                row[TXN_BLOCKS_MAX + gone++] = row[i];
                r = 0;
            }
        }
        rep->blocks_dropped += gone;
        if (r == 0)
            r = rows_write(s, NULL, 0, row + TXN_BLOCKS_MAX, gone);
    }
    free(row);
    return r < 0 ? r : n < 0 ? n : 0;
}

static int head_read(const struct layout *l, const struct seg *g, uint32_t slot, uint8_t *buf,
                     struct slot_head *ret, uint32_t *ret_crc)
{
    int r = sys_read(g->fd, buf, SLOT_HEAD_BYTES, slot_off(l, slot));

    return r < 0 ? r : slot_head_get(buf, ret, ret_crc);
}

/* Every slot that says it is a block of this store and layout becomes one again. */
static int slots_scan(struct kvstore *s, struct layout *l, struct seg *g, uint8_t *buf)
{
    struct slot_head h;
    uint32_t crc;

    for (uint32_t i = 0; i < g->n_slots; i++) {
        int r = head_read(l, g, i, buf, &h, &crc);
        if (r < 0 || memcmp(h.uuid, s->uuid, 16) || strcmp(h.layout, l->id) ||
            h.hot_bytes != l->hot_bytes || h.cold_bytes != l->cold_bytes)
            continue;
        struct index_block row = {.key = h.key,
                                  .parent = h.parent,
                                  .variant = h.variant,
                                  .layout = l->tag,
                                  .first_pos = h.first_pos,
                                  .time_ns = h.time_ns,
                                  .segment = g->number,
                                  .slot = i,
                                  .head_crc = crc,
                                  .n_tokens = h.n_tokens};
        memcpy(row.hash, h.hash, 16);
        struct blk *b = table_find(&s->table, &h.key, h.variant);
        if (b && b->time_ns >= h.time_ns)
            continue; /* an older copy in a slot that was given back */
        if (b) {
            struct layout *bl = s->layout[b->layout];
            slot_give(bl, layout_seg(bl, b->segment), b->slot);
            must(slot_claim(l, g, i) == 0);
            blk_fill(b, l, &row);
        } else if ((r = row_take(s, &row)) < 0) {
            return r;
        }
    }
    return 0;
}

static int blocks_rebuild(struct kvstore *s)
{
    struct index_block *row = malloc(TXN_BLOCKS_MAX * sizeof *row);
    uint8_t *buf = NULL;
    uint32_t n = 0;
    int r = row && posix_memalign((void **)&buf, IO_ALIGN, SLOT_HEAD_BYTES) == 0 ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < s->n_layouts && r == 0; i++)
        for (uint32_t k = 0; k < s->layout[i]->n_seg && r == 0; k++)
            r = slots_scan(s, s->layout[i], s->layout[i]->seg[k], buf);
    for (uint64_t i = 0; i < s->table.n_buckets && r == 0; i++)
        for (struct blk *b = s->table.bucket[i]; b && r == 0; b = b->next) {
            row[n] = (struct index_block){.key = b->key,
                                          .parent = b->parent,
                                          .variant = b->variant,
                                          .layout = s->layout[b->layout]->tag,
                                          .first_pos = b->first_pos,
                                          .time_ns = b->time_ns,
                                          .segment = b->segment,
                                          .slot = b->slot,
                                          .head_crc = b->head_crc,
                                          .n_tokens = b->n_tokens};
            memcpy(row[n++].hash, b->hash, 16);
            if (n == TXN_BLOCKS_MAX) {
                r = rows_write(s, row, n, NULL, 0);
                n = 0;
            }
        }
    if (r == 0)
        r = rows_write(s, row, n, NULL, 0);
    free(row);
    free(buf);
    return r;
}

static int by_age(const void *a, const void *b)
{
    const struct blk *x = *(struct blk *const *)a, *y = *(struct blk *const *)b;

    if (x->time_ns != y->time_ns)
        return x->time_ns > y->time_ns ? -1 : 1;
    return 0;
}

/* Youngest first: each carries its age up to its ancestors, and after a crash the newest
 * slots are looked at, since they are what a lying disk would have lost. */
static int blocks_settle(struct kvstore *s, struct kvs_open_report *rep)
{
    struct blk **v = malloc((s->table.n + 1) * sizeof(void *));
    struct index_block gone[VERIFY_NEWEST];
    uint32_t n_gone = 0;
    uint64_t n = 0;
    uint8_t *buf = NULL;

    if (!v || posix_memalign((void **)&buf, IO_ALIGN, SLOT_HEAD_BYTES)) {
        free(v);
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < s->table.n_buckets; i++)
        for (struct blk *b = s->table.bucket[i]; b; b = b->next)
            v[n++] = b;
    qsort(v, n, sizeof *v, by_age);
    for (uint64_t i = 0; i < n; i++) {
        struct blk *up = table_find(&s->table, &v[i]->parent, v[i]->variant);
        if (up)
            table_touch(&s->table, up, v[i]->used * USED_UNIT_NS);
    }
    for (uint64_t i = 0; i < n && i < VERIFY_NEWEST && !rep->clean; i++) {
        struct layout *l = s->layout[v[i]->layout];
        struct seg *g = layout_seg(l, v[i]->segment);
        struct slot_head h;
        uint32_t crc;
        if (head_read(l, g, v[i]->slot, buf, &h, &crc) == 0 && crc == v[i]->head_crc &&
            memcmp(h.key.b, v[i]->key.b, 32) == 0)
            continue;
        gone[n_gone].key = v[i]->key;
        gone[n_gone++].variant = v[i]->variant;
        slot_give(l, g, v[i]->slot);
        table_del(&s->table, v[i]);
        s->n.blocks--;
        s->n.corrupt++;
    }
    free(v);
    free(buf);
    rep->blocks_dropped += n_gone;
    return rows_write(s, NULL, 0, gone, n_gone);
}

/* --- what nobody needs any more ------------------------------------------------------------------ */

struct idset {
    struct kvs_id *v;
    uint64_t cap, n; /* power of two; zero ids are empty places */
};
static const struct kvs_id NO_ID;

static bool idset_has(const struct idset *x, const struct kvs_id *id, uint64_t *at)
{
    for (*at = ld64(id->b) & (x->cap - 1);; *at = (*at + 1) & (x->cap - 1)) {
        if (memcmp(x->v[*at].b, id->b, 16) == 0)
            return true;
        if (memcmp(x->v[*at].b, NO_ID.b, 16) == 0)
            return false;
    }
}

/* 1 new, 0 there already. */
static int idset_add(struct idset *x, const struct kvs_id *id)
{
    uint64_t at;

    if (memcmp(id->b, NO_ID.b, 16) == 0)
        return 0;
    if (2 * x->n >= x->cap) {
        struct idset y = {.cap = x->cap ? 2 * x->cap : 1024};
        y.v = calloc(y.cap, sizeof *y.v);
        if (!y.v)
            return -ENOMEM;
        for (uint64_t i = 0; i < x->cap; i++)
            if (memcmp(x->v[i].b, NO_ID.b, 16)) {
                (void)idset_has(&y, &x->v[i], &at);
                y.v[at] = x->v[i];
                y.n++;
            }
        free(x->v);
        *x = y;
    }
    if (idset_has(x, id, &at))
        return 0;
    x->v[at] = *id;
    x->n++;
    return 1;
}

static int keep_path(struct kvstore *s, struct idset *keep, struct kvs_id id)
{
    struct kvs_branch b;
    uint64_t end;
    int r;

    while ((r = idset_add(keep, &id)) == 1) {
        r = index_branch_get(s->idx, INDEX_LOOP, &id, &b, &end);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        id = b.parent;
    }
    return r;
}

/* Ends one transaction of a drop that may take several.  r: what its step said. */
static int drop_end(struct kvstore *s, int r)
{
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    int c = index_commit(s->idx);
    return c < 0 ? c : r;
}

static int branch_drop(struct kvstore *s, const struct kvs_id *id)
{
    int r;

    do {
        r = index_begin(s->idx);
        r = drop_end(s, r < 0 ? r : index_branch_del(s->idx, id, TXN_BLOCKS_MAX));
    } while (r == 1);
    return r;
}

static int req_drop(struct kvstore *s, const struct kvs_req *q)
{
    int r;

    do {
        uint32_t rows = TXN_BLOCKS_MAX;
        r = index_begin(s->idx);
        r = drop_end(s, r < 0 ? r : index_req_del(s->idx, q->owner, &q->id, &rows));
    } while (r == 1);
    return r;
}

/* Only at open: later a branch may be between its own record and its session's. */
static int collect(struct kvstore *s, struct kvs_open_report *rep)
{
    struct idset keep = {0};
    struct kvs_session *ses = malloc(sizeof *ses);
    struct index_at at = {0};
    struct kvs_branch b;
    struct kvs_req q;
    uint64_t bad = 0, end, now = wall_ns();
    char *reply;
    int n = ses ? 1 : -ENOMEM, r = ses ? 0 : -ENOMEM;

    if (r == 0)
        r = idset_add(&keep, &(struct kvs_id){{1}}); /* never empty */
    while (n > 0 && r >= 0) {
        n = index_sessions(s->idx, INDEX_LOOP, &at, ses, 1, &bad);
        if (n == 1) {
            rep->sessions++;
            r = keep_path(s, &keep, ses->branch);
        }
    }
    free(ses);
    at.bytes = 0;
    while (r >= 0 && (n = index_reqs(s->idx, INDEX_LOOP, &at, &q, &reply, &bad)) == 1) {
        free(reply);
        if (q.time_ns + REQ_KEEP_NS >= now) {
            r = keep_path(s, &keep, q.branch);
            continue;
        }
        r = req_drop(s, &q);
    }
    at.bytes = 0;
    uint64_t place;
    while (r >= 0 && bad == 0 &&
           (n = index_branches(s->idx, INDEX_LOOP, &at, &b, &end, 1, &bad)) == 1)
        if (!idset_has(&keep, &b.id, &place))
            r = branch_drop(s, &b.id);
    free(keep.v);
    return r < 0 ? r : n < 0 ? n : 0;
}

/* --- all of it -------------------------------------------------------------------------------------- */

static int mark_open(struct kvstore *s)
{
    uint8_t v[16];
    int r = index_begin(s->idx);

    st64(v, SCHEMA);
    if (r == 0)
        r = index_meta_put(s->idx, "schema", v, 8);
    if (r == 0)
        r = index_meta_put(s->idx, "uuid", s->uuid, 16);
    st64(v, 0);
    if (r == 0)
        r = index_meta_put(s->idx, "clean", v, 8);
    st64(v, turnlog_seq(s->log));
    if (r == 0)
        r = index_meta_put(s->idx, "logseq", v, 8);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    return index_commit(s->idx);
}

int recover_open(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    char path[PATH_MAX];
    uint8_t v[16];
    int hurt, r = 0;

    for (int i = 0; i < 2 && r == 0; i++) {
        snprintf(path, sizeof path, "%s/%s", s->dir, i ? "kv" : "log");
        r = sys_mkdir(path);
    }
    if (r < 0)
        return err_set(eb, r, "cannot make %s: %s", path, err_str(r));
    hurt = index_and_log(s, rep, eb);
    if (hurt < 0)
        return hurt;
    bool named = !sodium_is_zero(s->uuid, 16);
    r = segs_scan(s, rep, eb);
    if (r < 0)
        return r;
    if (!named) {
        if (sodium_is_zero(s->uuid, 16))
            randombytes_buf(s->uuid, 16);
        r = turnlog_start(s->log, s->uuid, turnlog_seq(s->log));
    }
    if (r == 0)
        r = rep->rebuilt ? blocks_rebuild(s) : blocks_load(s, rep);
    if (r == 0)
        r = blocks_settle(s, rep);
    if (r == 0)
        r = collect(s, rep);
    if (r == 0)
        r = mark_open(s);
    if (r == 0 && hurt)
        (void)commit_checkpoint(s);
    if (r < 0)
        return err_set(eb, r, "cannot open the store in %s: %s", s->dir, err_str(r));
    s->day = store_day_now();
    if (index_meta_get(s->idx, INDEX_LOOP, "day", v, 16) == 16 && ld64(v) == s->day)
        s->day_mark = 0 - ld64(v + 8);
    commit_sizes(s);
    room_count(s);
    rep->blocks = s->n.blocks;
    rep->log_bytes = s->log_bytes;
    return 0;
}
