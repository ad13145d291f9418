/* recover.c - opening what a predecessor left, however it ended.
 *
 * 1. The index is walked in a child process, which may crash on a damaged file.  What could
 *    not be read is not damage: the open fails, with everything as it was.
 * 2. Sound: frames of the turn log that it has not seen are applied.  Lost or damaged, or not
 *    in agreement with the log: a new one is merged out of both (merge.h) and put in place
 *    when it is whole.  The log damaged, the index sound: the log is made anew.
 * 3. Segments are opened, and the table and the free maps filled (recover_segs.c): from the
 *    index, or, where it was made anew, from the slots' own headers.
 * 4. Branches that no session and no request leads to are collected, old requests forgotten.
 * Nothing is formatted while there is something to read; damaged files are set aside. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/dirlist.h"
#include "kvstore/codec.h"
#include "kvstore/index_check.h"
#include "kvstore/logfile.h"
#include "kvstore/merge.h"
#include "kvstore/repair.h"
#include "kvstore/store.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <unistd.h>

enum { FRAMES_PER_TXN = 256 };
static const uint64_t QUICK_BYTES = 64ull << 20;

/* --- the index, and the log into it ---------------------------------------------------------- */

static int index_start(struct kvstore *s, struct errbuf *eb)
{
    struct index_opts o = {.dir = s->dir,
                           .path = s->index,
                           .sys = &s->sys,
                           .prealloc_bytes = s->index_budget / 2,
                           .no_fsync = s->o.no_fsync};

    if (s->scrub_due) /* nobody has walked it */
        index_shrink_apart(&s->sys, s->dir, s->index, s->o.disk_bytes);
    else
        index_shrink(&s->sys, s->dir, s->index, s->o.disk_bytes);
    return index_open(&s->idx, &o, eb);
}

struct replay {
    struct kvstore *s;
    const struct turnlog_report *log; /* as far as it has been read */
    uint64_t applied;                 /* the newest frame in the index */
    uint32_t in_txn;
    uint64_t refused;
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

/* A frame that does not fit is one behind damage: the two copies are merged then. */
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

    if (p->log->have_uuid && memcmp(p->log->uuid, p->s->uuid, 16))
        return E_SHAPE; /* another store's */
    if (seq > p->applied + (base ? 0 : 1))
        return E_STALE; /* an index from before the log begins */
    if (seq <= p->applied || p->refused)
        return 0;
    if (p->in_txn == 0)
        r = index_begin(p->s->idx);
    if (r < 0)
        return r;
    p->in_txn++;
    r = replay_accept(p, recs, bytes);
    if (r < 0 && r != -ENOMEM) {
        p->refused++;
        p->in_txn--;
        if (!p->in_txn)
            index_abort(p->s->idx);
        return 0;
    }
    if (r == 0)
        r = commit_apply_frame(p->s, recs, bytes);
    if (r < 0) {
        index_abort(p->s->idx);
        p->in_txn = 0;
        return r;
    }
    p->applied = seq;
    return p->in_txn >= FRAMES_PER_TXN ? replay_commit(p) : 0;
}

static int log_read(struct kvstore *s, struct replay *p, struct turnlog_report *rep,
                    struct errbuf *eb)
{
    char dir[PATH_MAX];
    uint8_t v[LOGCRC_BYTES] = {0}; /* a store of before has none: then nothing is compared */
    if (index_meta_get(s->idx, INDEX_LOOP, "logcrc", v, sizeof v) != sizeof v)
        memset(v, 0, sizeof v);
    struct turnlog_opts o = {.dir = dir,
                             .seen_seq = ld64(v),
                             .seen_crc = ld32(v + 8),
                             .sys = &s->sys,
                             .seg_bytes =
                                 s->log_budget / 8 < 16 << 20 ? s->log_budget / 8 : 16 << 20,
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

static int used_by(void *ctx, const char *name)
{
    (void)ctx;
    return name[0] != '.';
}

/* 1: something is in it. */
static int dir_used(const char *path, struct errbuf *eb)
{
    int r = dir_list(path, used_by, NULL);

    if (r == -ENOENT && sys_leads(path) == 0)
        return 0;
    return r < 0 ? sys_unread(eb, r, path) : r;
}

/* Frames behind damage that the index has not seen: only a merge keeps them. */
static int newest_frame(void *ctx, bool base, uint64_t seq, const uint8_t *recs, uint32_t bytes)
{
    uint64_t *newest = ctx;

    (void)base, (void)recs, (void)bytes;
    *newest = seq > *newest ? seq : *newest;
    return 0;
}

static int log_has_more(struct kvstore *s, uint64_t applied, struct errbuf *eb)
{
    struct turnlog_report rep;
    uint64_t newest = 0;
    char dir[PATH_MAX];

    snprintf(dir, sizeof dir, "%s/log", s->dir);
    int r = log_salvage(dir, newest_frame, &newest, &rep, eb);
    return r < 0 ? r : newest > applied;
}

static int merged(struct kvstore *s, const char *why, bool sound, struct kvs_open_report *rep,
                  struct errbuf *eb)
{
    struct merge_report m;
    int r;

    turnlog_close(s->log);
    s->log = NULL;
    index_close(s->idx);
    s->idx = NULL;
    r = merge_index(s, why, sound, &m, eb);
    if (r < 0)
        return r;
    rep->rebuilt = true;
    rep->sessions_hurt = m.sessions + m.gone + m.unsure;
    if (why && !m.lost)
        store_note(
            s, "%s: made anew from the turn log and what could be read, nothing is missing%s",
            why,
            m.endless ? " of what these files hold; were a newer file of the log gone "
                        "too, nobody could tell: see that all of it is there"
                      : "");
    return 0;
}

/* An index that may be believed: the log into it.  1: the two must be merged. */
static int index_sound(struct kvstore *s, struct kvs_open_report *rep, bool *hurt,
                       struct errbuf *eb)
{
    struct turnlog_report log = {0};
    struct replay p = {.s = s, .log = &log};
    uint64_t schema = SCHEMA, clean = 0, whole = MERGE_BLOCKS_TOO;
    int r = index_start(s, eb);

    if (r < 0)
        return r;
    if (index_meta_get(s->idx, INDEX_LOOP, "uuid", s->uuid, 16) != 16)
        return 1; /* made and never filled */
    (void)meta_u64(s, "schema", &schema);
    if (schema < SCHEMA_OLDEST || schema > SCHEMA)
        return merge_unknown(s, schema, eb);
    if (schema < SCHEMA) { /* mark_open() raises it, or the open fails and nothing is said */
        rep->format_was = (uint32_t)schema;
        rep->format = SCHEMA;
    }
    (void)meta_u64(s, "clean", &clean);
    (void)meta_u64(s, "logseq", &p.applied);
    (void)meta_u64(s, "whole", &whole);
    s->slots_due = whole == MERGE_ROWS; /* a start was killed before it had looked at slots */
    uint64_t seen = p.applied;
    const uint64_t closed = clean == 1 ? p.applied : UINT64_MAX;
    r = log_read(s, &p, &log, eb);
    if (log.have_uuid && memcmp(log.uuid, s->uuid, 16))
        return err_set(
            eb, E_SHAPE,
            "index.mdb and log in %s belong to different stores: put back the one that "
            "belongs here, or move it away, then start again",
            s->dir);
    seen = log.frames_torn || r < 0 ? seen : p.applied;
    s->log_other = log.other;
    if (r == E_STALE || (r == 0 && p.refused))
        return 1;
    /* A group that was torn had not been acknowledged; more than one is damage. */
    if (log.frames_torn)
        seen += GROUP_BATCHES_MAX;
    if (r == 0 && (log.damaged || log.frames_torn) && (r = log_has_more(s, seen, eb)) != 0)
        return r;
    if (r < 0)
        return r;
    /* Whoever opens an index says so in it before he writes a frame: one that says it was closed
     * before these frames is an older one, put back.  Then nothing says where the log ended: what
     * is torn there may have been whole, and acknowledged. */
    if (p.applied > closed && log.torn_bytes) {
        s->acked_seq = p.applied + 1;
        s->acked_torn = true;
        return 1;
    }
    rep->clean = clean == 1 && !rep->rebuilt;
    rep->log_torn_bytes = log.torn_bytes;
    /* A torn end is wiped, but not when it may be the last that is left of something. */
    *hurt = log.damaged || log.last_seq < p.applied || (rep->rebuilt && log.torn_bytes);
    if (*hurt)
        turnlog_keep_old(s->log);
    if (sodium_is_zero(s->uuid, 16))
        return 0; /* the segments may still know the store's name */
    r = turnlog_start(s->log, s->uuid, p.applied > log.last_seq ? p.applied : log.last_seq);
    return r < 0 ? sys_refuse(eb, r, "write the turn log in", s->dir) : 0;
}

/* What a killed start, or somebody else, left under names that are for a time only: before anything
 * is changed, as it may refuse. */
static int leftovers(struct kvstore *s, struct errbuf *eb)
{
    char path[PATH_MAX];
    struct log_file *v = NULL;
    uint32_t n;

    snprintf(path, sizeof path, "%s.tmp", s->index);
    int r = sys_clear(path, eb);
    snprintf(path, sizeof path, "%s/log", s->dir);
    if (r == 0)
        r = log_files(path, true, &v, &n, eb);
    free(v);
    return r < 0 ? r : merge_leftover(s, eb);
}

/* What stands beside the index under its name and more: 1. */
static int beside_index(void *ctx, const char *name)
{
    const char *own = ctx;
    size_t n = strlen(own);

    return !strncmp(name, own, n) &&
           (!strcmp(name + n, ".new") || !strncmp(name + n, ".bad-", 5));
}

/* Where a link leads whose file is not there: a kill between two names of a new index leaves that, and
 * the old one or the new beside it; else its disk may not be. */
static bool left_behind(const char *dir, const char *link, char ret[PATH_MAX])
{
    char to[PATH_MAX], real[PATH_MAX];
    ssize_t n = readlink(link, to, sizeof to - 1);

    if (n <= 0)
        return false;
    to[n] = 0;
    char *name = strrchr(to, '/');
    if (to[0] != '/')
        n = snprintf(ret, PATH_MAX, "%s/%.*s", dir, name ? (int)(name - to) : 1,
                     name ? to : ".");
    else
        n = snprintf(ret, PATH_MAX, "%.*s/", (int)(name - to), to);
    name = name ? name + 1 : to;
    if (n >= PATH_MAX || !realpath(ret, real) || dir_list(real, beside_index, name) != 1)
        return false;
    return snprintf(ret, PATH_MAX, "%s/%s", real, name) < PATH_MAX;
}

/* Only to a file: what else a link leads to is refused by its name.  And only where there may be more
 * names beside it; else they are beside the link. */
static void index_where(struct kvstore *s)
{
    char real[PATH_MAX], dir[PATH_MAX];

    snprintf(s->index, sizeof s->index, "%s/index.mdb", s->dir);
    if (sys_plain(s->index) != -ELOOP)
        return;
    bool is =
        realpath(s->index, real) ? sys_plain(real) == 0 : left_behind(s->dir, s->index, real);
    if (!is || strlen(real) >= sizeof s->index)
        return;
    snprintf(dir, sizeof dir, "%s", real);
    *strrchr(dir, '/') = 0;
    if (access(dir[0] ? dir : "/", R_OK | W_OK | X_OK) == 0)
        memcpy(s->index, real, strlen(real) + 1);
}

/* Index and log agree after this, or the open fails with everything as it was.  *hurt: the log
 * is to be made anew. */
static int index_and_log(struct kvstore *s, struct kvs_open_report *rep, bool *hurt,
                         struct errbuf *eb)
{
    char path[PATH_MAX], sub[PATH_MAX], why[PATH_MAX + 64];
    int used = 0, r;

    for (int i = 0; i < 2 && used == 0; i++) {
        snprintf(sub, sizeof sub, "%s/%s", s->dir, i ? "kv" : "log");
        used = dir_used(sub, i ? NULL : eb);
        if (used < 0 && i) /* costs its blocks, not the start */
            used = 1;
    }
    if (used < 0)
        return used;
    index_where(s);
    snprintf(path, sizeof path, "%s-lock", s->index);
    r = sys_lock_ok(path, eb);
    if (r < 0)
        return r;
    snprintf(path, sizeof path, "%s", s->index);
    r = sys_leads(path); /* on a disk that is not there it is not missing */
    if (r < 0)
        return sys_unread(eb, r, path);
    r = leftovers(s, eb);
    if (r < 0)
        return r;
    r = index_check(path, s->env.quick_bytes ? s->env.quick_bytes : QUICK_BYTES, eb);
    if (r < 0 && r != -ENOENT && r != E_CORRUPT)
        return r;
    s->scrub_due = r == 1;
    used |= r == E_CORRUPT;
    if (r < 0) {
        snprintf(why, sizeof why, "%s was %s", path, r == -ENOENT ? "missing" : "damaged");
        r = merged(s, used ? why : NULL, false, rep, eb);
        rep->rebuilt = rep->rebuilt && used;
    }
    if (r < 0)
        return r;
    r = index_sound(s, rep, hurt, eb);
    if (r != 1)
        return r;
    snprintf(why, sizeof why, "%s and the turn log did not agree", path);
    /* One that was made and never filled has no name. */
    r = merged(s, why, !sodium_is_zero(s->uuid, 16), rep, eb);
    if (r == 0)
        r = index_sound(s, rep, hurt, eb);
    return r == 1 ? err_set(eb, E_CORRUPT,
                            "the store in %s cannot be put together; nothing was thrown away: "
                            "keep a copy of it",
                            s->dir)
                  : r;
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
    if (r == 0)
        r = commit_seq(s);
    st64(v, MERGE_BLOCKS_TOO);
    if (r == 0)
        r = index_meta_put(s->idx, "whole", v, 8);
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    s->acked_seq = turnlog_seq(s->log);
    s->acked_torn = s->log_other = false;
    return index_commit(s->idx);
}

int recover_open(struct kvstore *s, struct kvs_open_report *rep, struct errbuf *eb)
{
    char path[PATH_MAX];
    uint8_t v[16];
    bool hurt = false;
    int r = 0;

    for (int i = 0; i < 2 && r == 0; i++) {
        snprintf(path, sizeof path, "%s/%s", s->dir, i ? "kv" : "log");
        r = sys_mkdir(&s->sys, path);
    }
    if (r < 0)
        return sys_refuse(eb, r, "make", path);
    r = index_and_log(s, rep, &hurt, eb);
    if (r < 0)
        return r;
    bool named = !sodium_is_zero(s->uuid, 16);
    r = recover_segs(s, rep, eb);
    if (r < 0)
        return r;
    if (!named) {
        if (sodium_is_zero(s->uuid, 16))
            randombytes_buf(s->uuid, 16);
        r = turnlog_start(s->log, s->uuid, turnlog_seq(s->log));
    }
    if (r == 0)
        r = s->slots_due ? recover_blocks_rebuild(s) : recover_blocks_load(s, rep);
    if (r == 0)
        r = recover_blocks_settle(s, rep);
    if (r == 0)
        r = collect_open(s, rep);
    if (r == 0)
        r = mark_open(s);
    if (r == 0 && !s->scrub_due) /* a full disk: the next open does it */
        (void)index_sum_make(s->idx, QUICK_BYTES);
    if (r == 0 && hurt) {
        /* What fails is said, and tried again while the store is open. */
        s->log_hurt = true;
        (void)ckpt_all(s);
    }
    if (r == 0)
        r = kept_look(s, rep->rebuilt);
    if (r == 0)
        repair_scrub(s);
    if (r < 0)
        return sys_refuse(eb, r, "open the store in", s->dir);
    s->day = store_day_now(s);
    if (index_meta_get(s->idx, INDEX_LOOP, "day", v, 16) == 16 &&
        (ld64(v) == s->day || s->clock_set))
        s->day_mark = 0 - ld64(v + 8);
    commit_sizes(s);
    room_count(s);
    rep->blocks = s->n.blocks;
    rep->log_bytes = s->log_bytes;
    return 0;
}
