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
#include <sys/wait.h>
#include <unistd.h>

enum { SCHEMA_OLDEST = 1, SCHEMA = 2, FRAMES_PER_TXN = 256 };
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
        (void)close_range(3, ~0u, 0); /* it reads one file, which may be anything */
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

    index_shrink(&s->sys, s->dir, s->o.disk_bytes);
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
        r = sys_mkdir(&s->sys, path);
    }
    if (r < 0)
        return err_set(eb, r, "cannot make %s: %s", path, err_str(r));
    hurt = index_and_log(s, rep, eb);
    if (hurt < 0)
        return hurt;
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
        r = rep->rebuilt ? recover_blocks_rebuild(s) : recover_blocks_load(s, rep);
    if (r == 0)
        r = recover_blocks_settle(s, rep);
    if (r == 0)
        r = collect_open(s, rep);
    if (r == 0)
        r = mark_open(s);
    if (r == 0 && hurt)
        (void)ckpt_all(s);
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
