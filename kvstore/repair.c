/* repair.c - see repair.h. */
#include "kvstore/repair.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "kvstore/codec.h"
#include "kvstore/index_check.h"
#include "kvstore/logfile.h"
#include "kvstore/merge.h"
#include "kvstore/store.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static const uint64_t WAIT_NS = 3000000000u, WHOLE_NS = 8000000000u;
enum { SESSION_KEY = 16, LOG_KEY = 25, REQ_KEY = 20, PART_KEY = 28 };

/* What the log says of one row, newest last: as of the newest frame that was acknowledged, and
 * only where nothing is missing behind it. */
struct seek {
    enum index_db db;
    const uint8_t *key;
    size_t n;
    bool found, removed;
    uint8_t *v;
    size_t bytes;
    int32_t ids[BLOCK_TOKENS]; /* of a run of tokens */
    bool known[BLOCK_TOKENS];
    uint64_t end;  /* of a branch's tokens */
    uint64_t upto; /* that newest frame */
    struct codec_rec rec;
};

/* Behind what was found so far something is missing, which may have changed it. */
static void forget(struct seek *x)
{
    x->found = x->removed = false;
    memset(x->known, 0, sizeof x->known);
    x->end = 0;
}

static int value_set(struct seek *x, size_t cap)
{
    uint8_t *v = realloc(x->v, cap);

    if (!v)
        return -ENOMEM;
    x->v = v;
    x->found = true;
    return 0;
}

static void tokens_look(struct seek *x, const struct kvs_rec *c)
{
    uint64_t base = ld64be(x->key + 17), first = c->tokens.first;

    if (memcmp(c->tokens.branch.b, x->key, 16))
        return;
    for (uint32_t i = 0; i < c->tokens.n; i++)
        if (first + i >= base && first + i < base + BLOCK_TOKENS) {
            memcpy(&x->ids[first + i - base], (const uint8_t *)c->tokens.ids + 4 * (size_t)i,
                   4);
            x->known[first + i - base] = true;
        }
}

/* A branch that was cut: what it had from there on has no row, or a newer one. */
static void cut_look(struct seek *x, const struct kvs_rec *c)
{
    uint64_t first = c->tokens.first, base = x->n == LOG_KEY ? ld64be(x->key + 17) : 0;

    if (memcmp(c->tokens.branch.b, x->key, 16))
        return;
    x->end = first < x->end ? first : x->end;
    for (uint64_t i = first > base ? first - base : 0; i < BLOCK_TOKENS; i++)
        x->known[i] = false;
}

static int rec_look(struct seek *x, const struct kvs_rec *c)
{
    uint8_t k[PART_KEY];
    int r = 0;

    if (x->db == DB_SESSION && (c->kind == KVS_REC_SESSION || c->kind == KVS_REC_SESSION_RM) &&
        !memcmp(c->session->id.b, x->key, SESSION_KEY)) {
        x->removed = c->kind == KVS_REC_SESSION_RM;
        r = x->removed ? 0 : value_set(x, CODEC_FIXED_MAX);
        if (r == 0 && !x->removed)
            x->bytes = codec_session_put(x->v, c->session);
    } else if ((x->db == DB_BRANCH || x->db == DB_LOG) && c->kind == KVS_REC_CUT) {
        cut_look(x, c);
    } else if (x->db == DB_BRANCH && c->kind == KVS_REC_BRANCH &&
               !memcmp(c->branch->id.b, x->key, 16)) {
        r = value_set(x, CODEC_BRANCH_BYTES);
        if (r == 0)
            x->bytes = codec_branch_put(x->v, c->branch);
    } else if (x->db == DB_BRANCH && c->kind == KVS_REC_TOKENS &&
               !memcmp(c->tokens.branch.b, x->key, 16)) {
        x->end =
            c->tokens.first + c->tokens.n > x->end ? c->tokens.first + c->tokens.n : x->end;
    } else if (x->db == DB_LOG && x->key[16] == 0 && c->kind == KVS_REC_TOKENS) {
        tokens_look(x, c);
    } else if (x->db == DB_LOG && x->key[16] == 1 && c->kind == KVS_REC_TURN &&
               !memcmp(c->turn->branch.b, x->key, 16) &&
               c->turn->first == ld64be(x->key + 17)) {
        r = value_set(x, CODEC_FIXED_MAX);
        if (r == 0)
            x->bytes = codec_turn_put(x->v, c->turn);
    } else if (x->db == DB_REQ && x->n == REQ_KEY && c->kind == KVS_REC_REQ &&
               c->req->owner == ld32be(x->key) && !memcmp(c->req->id.b, x->key + 4, 16)) {
        r = value_set(x, 128 + (size_t)c->req->reply_bytes);
        if (r == 0)
            x->bytes = codec_req_put(x->v, c->req);
    } else if (x->db == DB_REQ && x->n == PART_KEY && c->kind == KVS_REC_PART) {
        st32be(k, c->part->owner);
        memcpy(k + 4, c->part->id.b, 16);
        st64be(k + 20, c->part->first);
        r = memcmp(k, x->key, sizeof k) ? 0 : value_set(x, (size_t)c->part->bytes + 1);
        if (r == 0 && !memcmp(k, x->key, sizeof k)) {
            memcpy(x->v, c->part->data, c->part->bytes);
            x->bytes = c->part->bytes;
        }
    }
    return r;
}

static int frame_look(void *ctx, bool base, uint64_t seq, const uint8_t *recs, uint32_t bytes)
{
    struct seek *x = ctx;
    size_t one;
    int r = 0;

    /* A hole behind the newest is a write that failed; one in a checkpoint may be of anything. */
    if (!recs && (base || seq < x->upto))
        forget(x);
    if (!base && seq > x->upto) /* of the group under way: not in the index yet */
        return 0;
    for (uint32_t at = 0; recs && at < bytes && r == 0; at += (uint32_t)one) {
        if (codec_get(recs + at, bytes - at, &x->rec, &one) < 0)
            return 0;
        r = rec_look(x, &x->rec.rec);
    }
    return r;
}

/* --- one row --------------------------------------------------------------------------------------- */

/* Where the branch's tokens end, by its runs.  false: one of them is hurt as well. */
static bool runs_end(struct kvstore *s, const uint8_t branch[16], uint64_t *ret)
{
    struct index_at at = {.bytes = 17}; /* what is shorter comes first */
    int32_t ids[BLOCK_TOKENS];
    const uint8_t *v;
    uint64_t first;
    size_t bytes;
    uint32_t n;
    int r;

    memcpy(at.key, branch, 16);
    *ret = 0;
    while ((r = index_row_next(s->idx, DB_LOG, &at, &v, &bytes)) == 0 && at.bytes == LOG_KEY &&
           !memcmp(at.key, branch, 16) && at.key[16] == 0) {
        if (codec_chunk_get(v, bytes, ld64be(at.key + 17), &first, &n, ids) < 0)
            return false;
        *ret = first + n;
    }
    return r == 0 || r == -ENOENT;
}

/* Its record of the log has its beginning; its end is that of its runs, which the index has. */
static void branch_make(struct kvstore *s, struct seek *x)
{
    uint64_t from = ld64(x->v + 32), end;

    if (!runs_end(s, x->key, &end))
        end = x->end;
    st64(x->v + CODEC_BRANCH_BYTES - 8, end > from ? end : from);
}

/* All that the branch says this run holds, or nothing. */
static int run_make(struct kvstore *s, struct seek *x)
{
    uint64_t base = ld64be(x->key + 17), end, from;
    struct kvs_branch b;
    struct kvs_id id;

    memcpy(id.b, x->key, 16);
    int r = index_branch_get(s->idx, INDEX_WRITE, &id, &b, &end);
    if (r < 0)
        return r == -ENOENT ? index_row_del(s->idx, DB_LOG, x->key, x->n) : r;
    from = b.parent_pos > base ? b.parent_pos : base;
    end = end < base + BLOCK_TOKENS ? end : base + BLOCK_TOKENS;
    for (uint64_t i = from; i < end; i++)
        if (!x->known[i - base])
            return E_CORRUPT;
    r = end > from ? value_set(x, CODEC_CHUNK_MAX) : E_CORRUPT;
    if (r == 0)
        x->bytes = codec_chunk_put(x->v, from, (uint32_t)(end - from), x->ids + (from - base));
    return r;
}

/* Names follow from sessions. */
static int name_make(struct kvstore *s, struct seek *x)
{
    struct kvs_session *ses = malloc(sizeof *ses);
    struct index_at at = {0};
    uint64_t bad = 0;
    int n = ses ? 1 : -ENOMEM, r = 0;

    while (n == 1 && !x->found && r == 0) {
        n = index_sessions(s->idx, INDEX_WRITE, &at, ses, 1, &bad);
        if (n == 1 && ses->owner == ld32be(x->key) && strlen(ses->name) == x->n - 4 &&
            !memcmp(ses->name, x->key + 4, x->n - 4)) {
            r = value_set(x, 16);
            if (r == 0)
                memcpy(x->v, ses->id.b, x->bytes = 16);
        }
    }
    free(ses);
    return n < 0 ? n : r < 0 ? r : x->found ? 0 : bad ? E_CORRUPT : 1;
}

/* What the slot's own header says, where the shelf knows one; else the block is computed again. */
static int block_make(struct kvstore *s, struct seek *x)
{
    uint8_t b[SLOT_HEAD_BYTES];
    char path[PATH_MAX];
    struct slot_head h;
    struct index_block row = {.variant = 0};
    uint32_t crc, known = 0;
    const struct layout *l = NULL;

    if (x->n != CODEC_BLOCK_KEY)
        return 1;
    pthread_mutex_lock(&s->table.lock);
    uint32_t at = shelf_find(&s->shelf, x->key, ld64be(x->key + 32));
    if (at) {
        const struct shelf_blk *k = shelf_at(&s->shelf, at);
        l = s->layout[k->layout];
        row.segment = k->segment;
        row.slot = k->slot;
        known = k->head_crc;
    }
    pthread_mutex_unlock(&s->table.lock);
    if (!l)
        return 1;
    seg_path(s->dir, l->id, row.segment, path, sizeof path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = fd < 0 ? -errno : sys_read(fd, b, sizeof b, slot_off(l, row.slot));
    if (fd >= 0)
        close(fd);
    if (r == 0)
        r = slot_head_get(b, &h, &crc);
    if (r == 0 && (crc != known || memcmp(h.key.b, x->key, 32)))
        r = E_CORRUPT;
    if (r < 0)
        return r == -ENOMEM ? r : 1;
    row = (struct index_block){.key = h.key,
                               .parent = h.parent,
                               .variant = h.variant,
                               .layout = l->tag,
                               .first_pos = h.first_pos,
                               .time_ns = h.time_ns,
                               .segment = row.segment,
                               .slot = row.slot,
                               .head_crc = crc,
                               .n_tokens = h.n_tokens};
    memcpy(row.hash, h.hash, 16);
    return index_block_put(s->idx, &row);
}

static int meta_make(struct kvstore *s, struct seek *x)
{
    uint8_t v[8];
    uint64_t n = x->n == 6 && !memcmp(x->key, "logseq", 6)   ? s->acked_seq
                 : x->n == 6 && !memcmp(x->key, "schema", 6) ? SCHEMA
                 : x->n == 5 && !memcmp(x->key, "whole", 5)  ? MERGE_BLOCKS_TOO
                                                             : 0;

    if (x->n == 4 && !memcmp(x->key, "uuid", 4))
        return index_row_put(s->idx, DB_META, x->key, x->n, s->uuid, 16);
    st64(v, n);
    /* `clean` is 0 while it is open; the rest is found out again. */
    return n || (x->n == 5 && !memcmp(x->key, "clean", 5))
               ? index_row_put(s->idx, DB_META, x->key, x->n, v, 8)
               : 1;
}

enum { WHOLE = 2 };

/* Into the open transaction.  1: the row is dropped, nothing needs it; WHOLE: nothing was hurt. */
static int row_make(struct kvstore *s, struct seek *x)
{
    const uint8_t *v;
    size_t bytes;
    char dir[PATH_MAX];
    struct turnlog_report rep;
    int r = index_row_get(s->idx, x->db, x->key, x->n, &v, &bytes);

    if (r != E_CORRUPT)
        return r == 0 || r == -ENOENT ? WHOLE : r; /* mended or gone meanwhile */
    if (x->db == DB_META)
        return meta_make(s, x);
    if (x->db == DB_BLOCK)
        return block_make(s, x);
    if (x->db == DB_NAME) {
        r = name_make(s, x);
    } else {
        snprintf(dir, sizeof dir, "%s/log", s->dir);
        r = log_salvage(dir, frame_look, x, &rep, NULL);
        if (r == 0 && rep.last_seq < s->acked_seq)
            forget(x);
        if (r == 0 && x->db == DB_LOG && x->key[16] == 0)
            r = run_make(s, x);
        if (r == 0 && x->db == DB_SESSION && x->removed)
            r = 1;
        else if (r == 0 && !x->found)
            r = E_CORRUPT;
        if (r == 0 && x->db == DB_BRANCH)
            branch_make(s, x);
    }
    return r == 0 ? index_row_put(s->idx, x->db, x->key, x->n, x->v, x->bytes) : r;
}

static int row_again(struct kvstore *s, enum index_db db, const uint8_t *key, size_t n)
{
    struct seek *x = calloc(1, sizeof *x);
    int r = x ? index_begin(s->idx) : -ENOMEM;

    if (r < 0) {
        free(x);
        return r;
    }
    x->db = db;
    x->key = key;
    x->n = n;
    x->upto = s->acked_seq;
    r = row_make(s, x);
    if (r == 1)
        r = index_row_del(s->idx, db, key, n);
    free(x->v);
    free(x);
    if (r) {
        index_abort(s->idx);
        return r;
    }
    return index_commit(s->idx);
}

/* --- the list ---------------------------------------------------------------------------------------- */

void repair_row(struct kvstore *s, enum index_db db, const uint8_t *key, size_t n)
{
    static const char *const what[DB_] = {"a fact",           "a session", "a name", "a branch",
                                          "tokens or a turn", "a request", "a block"};
    uint32_t id = crc32c((uint32_t)db, key, n);
    int r;

    for (uint32_t i = 0; i < sizeof s->gave_up / sizeof *s->gave_up; i++)
        if (s->gave_up[i] == id && id)
            return; /* tried before, and the log has not got it since */
    r = row_again(s, db, key, n);
    if (r == WHOLE) /* a walk and a reader have found the same */
        return;
    if (r == 0) {
        s->n.repaired++;
        store_note(s,
                   "a damaged row of the index (%s) was made anew from the turn log; check "
                   "the disk and the memory of this machine",
                   what[db]);
        return;
    }
    if (index_trust(s->idx) != INDEX_FINE) /* that is why: the walk to come finds it again */
        return;
    s->gave_up[s->n.unrepaired++ % (sizeof s->gave_up / sizeof *s->gave_up)] = id;
    if (!s->index_bad)
        store_note(s,
                   "a damaged row of the index (%s) could not be made anew (%s): restart "
                   "hearthd, it then puts together what is left and says what is lost",
                   what[db], err_str(r));
    s->index_bad = true; /* not marked clean: the next start walks it */
}

static void scrub_turn(struct kvstore *s)
{
    int r = index_scrub_poll(&s->scrub);

    if (!s->scrub.pid && r == -EAGAIN)
        return;
    for (uint32_t i = 0; i < s->scrub.n; i++)
        repair_row(s, (enum index_db)s->scrub.v[i].db, s->scrub.v[i].key, s->scrub.v[i].bytes);
    s->scrub.n = 0;
    if (r == -EAGAIN)
        return;
    if (r == E_CORRUPT) {
        index_scrub_stop(&s->scrub);
        index_doubt(s->idx);
        heal_turn(s);
        return;
    }
    if (r < 0) {
        store_note(s,
                   "the index could not be checked beside the running store (%s): the next "
                   "start checks it",
                   err_str(r));
        s->index_bad = true;
    }
    index_scrub_stop(&s->scrub);
}

void repair_turn(struct kvstore *s)
{
    uint8_t key[512];
    enum index_db db;
    size_t n;

    if (!s->commit_runs) {
        s->commit_thread = pthread_self();
        s->commit_runs = true; /* from here on others read the line above */
    }
    heal_turn(s);
    while (s->fault == 0 && (n = index_hurt_take(s->idx, &db, key)) > 0)
        repair_row(s, db, key, n);
    pthread_mutex_lock(&s->repair_lock);
    s->repairs++;
    pthread_cond_broadcast(&s->repair_cond);
    pthread_mutex_unlock(&s->repair_lock);
    if (s->fault == 0)
        scrub_turn(s);
}

static uint64_t n_mended(const struct kvstore *s)
{
    return s->n.repaired + s->healed;
}

static bool mended(struct kvstore *s, uint64_t had, bool broken)
{
    return n_mended(s) != had || (broken && index_trust(s->idx) == INDEX_FINE);
}

static bool commit_is_here(const struct kvstore *s)
{
    return !s->commit_runs || pthread_equal(s->commit_thread, pthread_self());
}

/* One deadline for all that wait for the same: the loop, which reads, has others to serve, and is
 * taken for stuck when its reads wait one after another. */
static uint64_t wait_until(struct kvstore *s, bool broken, uint64_t of)
{
    struct repair_wait *w = &s->wait;

    if (!w->until_ns || w->broken != broken || w->of != of) {
        w->until_ns = now_ns() + (broken ? WHOLE_NS : WAIT_NS);
        w->broken = broken;
        w->of = of;
    }
    return w->until_ns;
}

static bool wait_loop(struct kvstore *s)
{
    struct repair_wait *w = &s->wait;
    bool broken = index_trust(s->idx) != INDEX_FINE, done; /* all of it waits */

    pthread_mutex_lock(&s->repair_lock);
    /* A turn under way may have passed the list already: the one after it has not. */
    uint64_t turn = s->repairs + 2, until = wait_until(s, broken, broken ? s->healed : turn);
    pthread_mutex_unlock(&s->repair_lock);
    for (bool waits = true; waits;) {
        commit_wake(s);
        /* Since the last look, and so also between the read and this one. */
        done = mended(s, w->seen, broken);
        pthread_mutex_lock(&s->repair_lock);
        uint64_t now = now_ns(), soon = now + 20000000u;
        struct timespec step = {(time_t)(soon / 1000000000u), (long)(soon % 1000000000u)};
        /* What it waits for by then takes longer than the loop does. */
        waits = s->repairs < turn && !done && !s->heal_why && now < until;
        if (waits)
            (void)pthread_cond_timedwait(&s->repair_cond, &s->repair_lock, &step);
        pthread_mutex_unlock(&s->repair_lock);
    }
    done = mended(s, w->seen, broken);
    w->seen = n_mended(s);
    return done;
}

bool repair_wait(struct kvstore *s)
{
    uint64_t had = n_mended(s);

    if (!commit_is_here(s))
        return wait_loop(s);
    bool broken = index_trust(s->idx) != INDEX_FINE;
    repair_turn(s);
    return mended(s, had, broken);
}

/* In this order: it is believed before that is counted. */
static bool heals_now(struct kvstore *s)
{
    return index_trust(s->idx) != INDEX_FINE || s->healing ||
           (!commit_is_here(s) && n_mended(s) != s->wait.seen);
}

int repair_why(struct kvstore *s, int r)
{
    int why = s->heal_why;

    if (r != E_CORRUPT)
        return r;
    /* Others write to it time and again, or it is being made anew, or just was: that takes its
     * time, and says nothing of what is stored. */
    if (!why && heals_now(s))
        why = -EAGAIN;
    return why ? why : r;
}

void repair_scrub(struct kvstore *s)
{
    if (!s->scrub_due)
        return;
    int r = index_scrub_start(&s->scrub, s->index);
    if (r < 0) {
        s->index_bad = true; /* the next start walks it */
        store_note(s, "the index could not be checked beside the running store (%s)",
                   err_str(r));
    }
}

void repair_close(struct kvstore *s)
{
    /* Not seen through: the next start walks it, or begins again. */
    index_scrub_stop(&s->scrub);
}
