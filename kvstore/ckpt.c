/* ckpt.c - the turn log is compacted while the store goes on: a checkpoint in slices.
 *
 * One view of the index is kept from beginning to end, so what is written is the state of one
 * moment; frames that are committed meanwhile lie in files behind it and apply to it.  Each
 * turn of the commit thread writes a little.  Whatever ends it early (a crash, a full disk)
 * leaves the old log, which is whole. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>

enum { SLICE_BYTES = 512 << 10 };
static const uint64_t SLICE_NS = 4000000u, AGAIN_NS = 60000000000u, FULL_NS = 2000000000u;

static int ckpt_rec(struct kvstore *s, uint32_t kind, const void *p)
{
    struct kvs_rec r = {.kind = kind};

    r.session = p; /* the union's members are all pointers here */
    return turnlog_checkpoint_add(s->log, &r);
}

/* A piece of the branch under way: some tokens, then some turns.  0: that was all. */
static int branch_piece(struct kvstore *s)
{
    enum { PIECE = 16384, TURNS = 16 };
    struct ckpt *c = &s->ckpt;
    int32_t *ids = c->pos < c->end ? malloc(PIECE * sizeof *ids) : NULL;
    struct kvs_turn *turn = ids ? NULL : malloc(TURNS * sizeof *turn);
    uint64_t to = c->end - c->pos < PIECE ? c->end : c->pos + PIECE, bad = 0;
    int n = ids || turn ? 1 : -ENOMEM, r = 0;

    if (ids) {
        struct kvs_rec rec = {.kind = KVS_REC_TOKENS,
                              .tokens = {c->branch.id, c->pos, ids, (uint32_t)(to - c->pos)}};
        r = index_tokens(s->idx, INDEX_SNAP, &c->branch.id, c->pos, to, ids);
        if (r == 0)
            r = turnlog_checkpoint_add(s->log, &rec);
        c->pos = to;
        if (to == c->end)
            index_at_turns(&c->turns, &c->branch.id);
    } else if (turn) {
        n = index_turns(s->idx, INDEX_SNAP, &c->turns, &c->branch.id, turn, TURNS, &bad);
        for (int i = 0; i < n && r == 0; i++)
            r = ckpt_rec(s, KVS_REC_TURN, &turn[i]);
    }
    free(ids);
    free(turn);
    c->in_branch = n > 0;
    return r < 0 ? r : bad ? E_CORRUPT : n < 0 ? n : 0;
}

static int branch_next(struct kvstore *s)
{
    struct ckpt *c = &s->ckpt;
    uint64_t bad = 0;
    int n = index_branches(s->idx, INDEX_SNAP, &c->at, &c->branch, &c->end, 1, &bad);

    if (bad || n != 1)
        return bad ? E_CORRUPT : n;
    c->pos = c->branch.parent_pos < c->end ? c->branch.parent_pos : c->end;
    c->in_branch = true;
    index_at_turns(&c->turns, &c->branch.id);
    int r = ckpt_rec(s, KVS_REC_BRANCH, &c->branch);
    return r < 0 ? r : 1;
}

static int ckpt_req(struct kvstore *s, const struct kvs_req *q)
{
    struct index_at at;
    struct kvs_part a;
    uint8_t *data;
    uint64_t bad = 0;
    int n = 1, r = ckpt_rec(s, KVS_REC_REQ, q);

    index_at_parts(&at, q->owner, &q->id);
    while (r == 0 && (n = index_parts(s->idx, INDEX_SNAP, &at, &a, &data, &bad)) == 1) {
        r = ckpt_rec(s, KVS_REC_PART, &a);
        free(data);
    }
    return r < 0 ? r : n < 0 ? n : bad ? E_CORRUPT : 0;
}

/* The next branch, session or request of the view: 1, or 0: there is no more of them. */
static int ckpt_next(struct kvstore *s)
{
    struct ckpt *c = &s->ckpt;
    struct kvs_session *ses;
    struct kvs_req q;
    uint64_t bad = 0;
    char *reply;
    int n = -ENOMEM, r = 0;

    if (c->in_branch) {
        r = branch_piece(s);
        return r < 0 ? r : 1;
    }
    if (c->phase == CKPT_BRANCHES) {
        n = branch_next(s);
    } else if (c->phase == CKPT_SESSIONS) {
        ses = malloc(sizeof *ses);
        if (ses)
            n = index_sessions(s->idx, INDEX_SNAP, &c->at, ses, 1, &bad);
        if (n == 1)
            r = ckpt_rec(s, KVS_REC_SESSION, ses);
        free(ses);
    } else {
        n = index_reqs(s->idx, INDEX_SNAP, &c->at, &q, &reply, &bad);
        if (n == 1) {
            if (!forget_due(s, INDEX_SNAP, &q))
                r = ckpt_req(s, &q);
            free(reply);
        }
    }
    return r < 0 ? r : bad ? E_CORRUPT : n;
}

bool ckpt_busy(const struct kvstore *s)
{
    return s->ckpt.phase != CKPT_NONE;
}

/* Until it is made anew there is no second copy: whatever keeps it from that is said as long. */
static void hurt_said(struct kvstore *s, int r)
{
    store_state(
        s, SAY_LOG,
        "the turn log in %.300s/log is damaged and could not be made anew (%s): the index "
        "is the only copy of what is missing there; %s",
        s->dir, err_str(r),
        s->index_bad  ? "it has damage too: restart hearthd, it then puts together what is "
                        "left and says what is lost"
        : sys_full(r) ? "free some space, it is tried again by itself"
                      : "check the disk, it is tried again in a minute");
}

static void made(struct kvstore *s)
{
    if (!s->log_hurt) {
        store_over(s, SAY_LOG, "the turn log could be compacted again");
        return;
    }
    bool kept = turnlog_keeps(s->log);
    s->log_hurt = false;
    store_over(s, SAY_LOG, "the turn log could be made anew");
    store_note(s, "the turn log in %s/log was damaged%s: it is made anew from the index%s",
               s->dir, kept ? "" : " or removed",
               kept ? ", the old files are kept as seg-*.bad-*" : "");
}

static void ckpt_over(struct kvstore *s, int r)
{
    index_unsnap(s->idx);
    s->ckpt.phase = CKPT_NONE;
    if (r == 0)
        made(s);
    if (r < 0) {
        turnlog_checkpoint_abort(s->log); /* the old log is as it was */
        bool full = sys_full(r);
        bool healed = index_trust(s->idx) != INDEX_FINE; /* or soon, and that is said */
        s->ckpt.again_ns = now_ns() + (full || healed ? FULL_NS : AGAIN_NS);
        if (s->log_hurt && !healed)
            hurt_said(s, r);
        else if (!full && !healed)
            store_state(s, SAY_LOG,
                        "the turn log (%.300s/log) could not be compacted (%s): it grows on, "
                        "and is tried again in a minute; if that goes on, %s",
                        s->dir, err_str(r),
                        r == -EEXIST ? "move away what has the next number there"
                                     : "check the disk");
    }
    commit_sizes(s);
}

void ckpt_stop(struct kvstore *s)
{
    if (ckpt_busy(s))
        ckpt_over(s, E_CORRUPT);
}

int ckpt_begin(struct kvstore *s)
{
    struct ckpt *c = &s->ckpt;
    uint8_t v[8] = {0};

    must(c->phase == CKPT_NONE);
    if (s->index_bad) /* the log may be the only whole copy */
        return E_CORRUPT;
    int r = index_snap(s->idx);
    if (r < 0)
        return r;
    /* The view is the state that the log ends with, or this is no time for it. */
    r = index_meta_get(s->idx, INDEX_SNAP, "logseq", v, 8);
    r = r == 8 && ld64(v) == turnlog_seq(s->log) ? 0 : E_STALE;
    if (r == 0)
        r = turnlog_checkpoint_begin(s->log);
    c->phase = CKPT_BRANCHES;
    c->in_branch = false;
    c->at.bytes = 0;
    s->collect.freed_bytes = 0;
    if (r < 0)
        ckpt_over(s, r);
    return r;
}

static int ckpt_slice(struct kvstore *s)
{
    struct ckpt *c = &s->ckpt;
    uint64_t from = turnlog_checkpoint_bytes(s->log), until = now_ns() + SLICE_NS;
    int r;

    do {
        r = ckpt_next(s);
        if (r == 0) {
            c->phase++;
            c->at.bytes = 0;
        }
    } while (r >= 0 && c->phase < CKPT_END && now_ns() < until &&
             turnlog_checkpoint_bytes(s->log) - from < SLICE_BYTES);
    if (r >= 0)
        r = turnlog_checkpoint_flush(s->log);
    return r < 0 ? r : limit_passed(s) ? -ENOSPC : 0;
}

void ckpt_turn(struct kvstore *s)
{
    int r;

    if (s->fault == -EROFS) {
        if (ckpt_busy(s))
            ckpt_over(s, -EROFS);
        return;
    }
    if (s->ckpt.phase == CKPT_NONE) {
        r = turnlog_trim(s->log);
        if (r < 0)
            store_state(s, SAY_TRIM,
                        "an old file of the turn log (%.300s/log) cannot be removed (%s): it "
                        "takes its room; give the daemon's user the right to",
                        s->dir, err_str(r));
        else
            store_over(s, SAY_TRIM, "old files of the turn log can be removed again");
        if (r > 0 || !s->ckpt.trim)
            return;
        s->ckpt.trim = r > 0;
        commit_sizes(s);
        return;
    }
    if (s->ckpt.phase == CKPT_END) {
        /* What was written to meanwhile may have been read short: the old log stays. */
        r = index_trust(s->idx) == INDEX_FINE ? turnlog_checkpoint_end(s->log) : E_CORRUPT;
        s->ckpt.trim = r == 0;
        ckpt_over(s, r);
        return;
    }
    r = ckpt_slice(s);
    commit_sizes(s);
    if (r < 0)
        ckpt_over(s, r);
}

/* At open: all of it at once. */
int ckpt_all(struct kvstore *s)
{
    int r = ckpt_begin(s);

    while (r == 0 && s->ckpt.phase < CKPT_END && s->ckpt.phase != CKPT_NONE)
        r = ckpt_slice(s);
    if (r == 0)
        r = turnlog_checkpoint_end(s->log);
    if (ckpt_busy(s))
        ckpt_over(s, r);
    while (r == 0 && turnlog_trim(s->log) == 1)
        ;
    commit_sizes(s);
    return r;
}

void ckpt_look(struct kvstore *s)
{
    int cut = s->log_hurt ? 0 : turnlog_cut(s->log);

    if (cut < 0) {
        logwatch_failed(s, cut);
        return;
    }
    if (cut || (!s->log_hurt && logwatch_hurt(s))) {
        s->log_hurt = true;
        ckpt_stop(s);
        s->ckpt.again_ns = 0;
        turnlog_keep_old(s->log);
        store_note(s,
                   "the turn log in %s/log %s by another program: it is to be made anew from "
                   "the index",
                   s->dir,
                   cut                     ? "was cut short"
                   : turnlog_lacks(s->log) ? "has lost a file, which was removed"
                                           : "was overwritten");
    }
    if (s->log_hurt && s->index_bad)
        hurt_said(s, E_CORRUPT);
    else if (s->log_hurt && !ckpt_busy(s) && !s->ckpt.trim && now_ns() >= s->ckpt.again_ns)
        (void)ckpt_begin(s);
}
