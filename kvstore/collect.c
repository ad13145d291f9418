/* collect.c - branches that no session and no request leads to, dropped while the store is open.
 *
 * A round marks what every session and every request leads to, and then drops the branches
 * that are left.  Each turn of the commit thread does a little of it.  Two things must not be
 * dropped though nothing on disk leads to them at the mark:
 *   - what a batch names that is accepted while the round is under way: it is marked then;
 *   - what the loop has in mind for a batch.  So between mark and sweep the loop is asked: once
 *     it has taken every answer that was on its way it hands over what it holds
 *     (kvs_on_collect), and that is marked with what the batches in the queue name.
 * What is found out after this is found on disk, and so has been marked.
 *
 * What is kept for these two alone may lead nowhere in a moment, and no batch says when: while
 * there is such a branch rounds go on.
 *
 * A request that has ended leads nowhere once its session is gone, and its parts go too.  The
 * log is not told: what it brings back when the index is lost is collected again. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "kvstore/codec.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>

enum { LOOK_MAX = 200 };
static const uint64_t SOON_NS = 100000000u, LATER_NS = 600000000000u;
static const uint64_t HELD_NS = 2000000000u; /* between rounds that kept what may go soon */
static const struct kvs_id NO_ID;

/* --- sets of ids --------------------------------------------------------------------------- */

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

static int keep_path(struct kvstore *s, struct idset *set, struct kvs_id id)
{
    struct kvs_branch b;
    uint64_t end;
    int r;

    while ((r = idset_add(set, &id)) == 1) {
        r = index_branch_get(s->idx, INDEX_COMMIT, &id, &b, &end);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        id = b.parent;
    }
    return r;
}

/* All that records name is kept in this round. */
static int hold_named(struct kvstore *s, const struct kvs_rec *rec, uint32_t n)
{
    struct idset *held = &s->collect.held;
    int r = 0;

    for (uint32_t i = 0; i < n && r >= 0; i++)
        switch (rec[i].kind) {
        case KVS_REC_SESSION: r = keep_path(s, held, rec[i].session->branch); break;
        case KVS_REC_BRANCH:
            r = keep_path(s, held, rec[i].branch->id);
            if (r >= 0)
                r = keep_path(s, held, rec[i].branch->parent);
            break;
        case KVS_REC_TOKENS:
        case KVS_REC_CUT: r = keep_path(s, held, rec[i].tokens.branch); break;
        case KVS_REC_TURN: r = keep_path(s, held, rec[i].turn->branch); break;
        case KVS_REC_REQ: r = keep_path(s, held, rec[i].req->branch); break;
        default: break;
        }
    return r;
}

/* --- what the loop holds ---------------------------------------------------------------------- */

struct answer { /* both arrays are the taker's, the batches are not */
    struct kvs_id *held;
    struct kvs_batch **queued;
    uint32_t n_held, n_queued;
};

void kvs_on_collect(struct kvstore *s, void (*hold)(void *ctx), void *ctx)
{
    must_be(s, STORE_MAGIC);
    s->hold = hold;
    s->hold_ctx = ctx;
}

void kvs_hold(struct kvstore *s, const struct kvs_id *branch)
{
    pthread_mutex_lock(&s->to_commit.lock);
    if (s->to_commit.n_held == s->to_commit.cap_held) {
        uint32_t cap = s->to_commit.cap_held ? 2 * s->to_commit.cap_held : 64;
        struct kvs_id *v = realloc(s->to_commit.held, cap * sizeof *v);
        if (v) {
            s->to_commit.held = v;
            s->to_commit.cap_held = cap;
        } else {
            s->to_commit.held_short = true;
        }
    }
    if (s->to_commit.n_held < s->to_commit.cap_held)
        s->to_commit.held[s->to_commit.n_held++] = *branch;
    pthread_mutex_unlock(&s->to_commit.lock);
}

/* Loop thread: everything done has been taken. */
void collect_asked(struct kvstore *s)
{
    if (s->hold)
        s->hold(s->hold_ctx);
    pthread_mutex_lock(&s->to_commit.lock);
    s->to_commit.answered = true;
    s->to_commit.woken = true;
    pthread_cond_signal(&s->to_commit.cond);
    pthread_mutex_unlock(&s->to_commit.lock);
}

static void ask(struct kvstore *s)
{
    pthread_mutex_lock(&s->to_commit.lock);
    s->to_commit.answered = s->to_commit.held_short = false;
    s->to_commit.n_held = 0;
    pthread_mutex_unlock(&s->to_commit.lock);
    pthread_mutex_lock(&s->to_loop.lock);
    s->to_loop.asked = true;
    pthread_mutex_unlock(&s->to_loop.lock);
    store_event(s);
}

/* The answer, with what is in the queue by then: 1, 0: not yet, -ENOMEM. */
static int take_answer(struct kvstore *s, struct answer *ret)
{
    struct kvs_batch **v = NULL;
    uint32_t n = 0;

    pthread_mutex_lock(&s->to_commit.lock);
    bool answered = s->to_commit.answered, bad = s->to_commit.held_short;
    if (answered) {
        for (struct kvs_batch *b = s->to_commit.batches.head; b; b = b->next)
            n++;
        v = malloc((n + 1) * sizeof *v);
        n = 0;
        for (struct kvs_batch *b = s->to_commit.batches.head; b && v; b = b->next)
            v[n++] = b;
        *ret = (struct answer){s->to_commit.held, v, s->to_commit.n_held, n};
        s->to_commit.held = NULL;
        s->to_commit.n_held = s->to_commit.cap_held = 0;
        s->to_commit.answered = false;
    }
    pthread_mutex_unlock(&s->to_commit.lock);
    return !answered ? 0 : bad || !v ? -ENOMEM : 1;
}

/* --- a round --------------------------------------------------------------------------------- */

bool collect_busy(const struct kvstore *s)
{
    return s->fault == 0 && s->collect.phase != COLLECT_NONE &&
           s->collect.phase != COLLECT_ASKED; /* its answer wakes */
}

static void want(struct collect *c, uint64_t due)
{
    if (!c->wanted || due < c->due_ns) {
        c->wanted = true;
        c->due_ns = due;
    }
}

static void round_end(struct kvstore *s)
{
    struct collect *c = &s->collect;
    uint64_t now = now_ns(), took = now - c->began_ns;

    free(c->keep.v);
    free(c->held.v);
    c->keep = c->held = (struct idset){0};
    c->phase = COLLECT_NONE;
    c->n_gone = c->n_done = c->n_parts = c->n_parts_done = 0;
    /* A twentieth of the time at most. */
    c->rest_ns = now + 20 * took;
}

static int round_begin(struct kvstore *s)
{
    struct collect *c = &s->collect;

    c->phase = COLLECT_SESSIONS;
    c->at.bytes = 0;
    c->bad = 0;
    c->wanted = false;
    c->due_ns = UINT64_MAX;
    c->began_ns = now_ns();
    int r = idset_add(&c->keep, &(struct kvs_id){{1}}); /* never empty */
    return r < 0 ? r : idset_add(&c->held, &(struct kvs_id){{1}});
}

static int mark_sessions(struct kvstore *s, uint64_t *ret_n)
{
    struct collect *c = &s->collect;
    struct kvs_session *ses = malloc(sizeof *ses);
    int n = ses ? 1 : -ENOMEM, r = 0;

    for (uint32_t i = 0; i < LOOK_MAX && n == 1 && r >= 0; i++) {
        n = index_sessions(s->idx, INDEX_COMMIT, &c->at, ses, 1, &c->bad);
        if (n == 1) {
            (*ret_n)++;
            r = keep_path(s, &c->keep, ses->branch);
        }
    }
    free(ses);
    if (n == 0) {
        c->phase = COLLECT_REQS;
        c->at.bytes = 0;
    }
    return r < 0 ? r : n < 0 ? n : 0;
}

static bool has_parts(struct kvstore *s, const struct kvs_req *q)
{
    struct index_at at;
    struct kvs_part a;
    uint8_t *data;
    uint64_t bad = 0;

    index_at_parts(&at, q->owner, &q->id);
    if (index_parts(s->idx, INDEX_COMMIT, &at, &a, &data, &bad) != 1)
        return bad > 0;
    free(data);
    return true;
}

/* 1: it leads to its branch. */
static int leads(struct kvstore *s, const struct kvs_req *q)
{
    struct kvs_session *ses;
    int r;

    if (q->state == KVS_REQ_RUNNING)
        return 1;
    ses = malloc(sizeof *ses);
    r = ses ? index_session_get(s->idx, INDEX_COMMIT, &q->session, ses) : -ENOMEM;
    free(ses);
    return r == 0 || r == E_CORRUPT ? 1 : r == -ENOENT ? 0 : r;
}

static int mark_reqs(struct kvstore *s)
{
    struct collect *c = &s->collect;
    struct kvs_req q;
    char *reply;
    int n = 1, r = 0;

    c->n_parts = c->n_parts_done = 0;
    for (uint32_t i = 0; i < LOOK_MAX && r >= 0 && c->n_parts < COLLECT_MAX; i++) {
        n = index_reqs(s->idx, INDEX_COMMIT, &c->at, &q, &reply, &c->bad);
        if (n != 1)
            break;
        free(reply);
        r = leads(s, &q);
        if (r == 1) {
            r = keep_path(s, &c->keep, q.branch);
        } else if (r == 0 && has_parts(s, &q)) {
            c->parts[c->n_parts].owner = q.owner;
            c->parts[c->n_parts++].id = q.id;
        }
    }
    if (r >= 0 && n == 0) {
        c->phase = c->bad ? COLLECT_END : COLLECT_ASK;
        c->at.bytes = 0;
    }
    return r < 0 ? r : n < 0 ? n : 0;
}

/* Branches that are not marked, as many as may be dropped at once. */
static int sweep(struct kvstore *s)
{
    struct collect *c = &s->collect;
    struct kvs_branch b;
    uint64_t end, place;
    int n = 1;

    c->n_gone = c->n_done = 0;
    for (uint32_t i = 0; i < LOOK_MAX && c->n_gone < COLLECT_MAX; i++) {
        n = index_branches(s->idx, INDEX_COMMIT, &c->at, &b, &end, 1, &c->bad);
        if (n != 1 || c->bad)
            break;
        if (idset_has(&c->keep, &b.id, &place))
            continue;
        if (idset_has(&c->held, &b.id, &place)) {
            want(c, now_ns() + HELD_NS);
            continue;
        }
        c->gone[c->n_gone].id = b.id;
        c->gone[c->n_gone++].bytes = 4 * (end > b.parent_pos ? end - b.parent_pos : 0);
    }
    if (n == 0 || c->bad)
        c->phase = COLLECT_END;
    return n < 0 ? n : 0;
}

/* One transaction of what was found: at most TXN_BLOCKS_MAX rows. */
static int drop(struct kvstore *s)
{
    struct collect *c = &s->collect;
    uint32_t rows = TXN_BLOCKS_MAX, done = c->n_done, parts = c->n_parts_done;
    uint64_t place, freed = 0;
    int r = index_begin(s->idx);

    if (r < 0)
        return r;
    for (; parts < c->n_parts && r == 0; parts += r == 0)
        r = index_parts_del(s->idx, c->parts[parts].owner, &c->parts[parts].id, &rows);
    while (done < c->n_gone && r == 0) {
        /* A batch may have named it since it was found. */
        if (!idset_has(&c->held, &c->gone[done].id, &place)) {
            r = index_branch_del(s->idx, &c->gone[done].id, &rows);
            if (r != 0)
                break;
            freed += c->gone[done].bytes;
        }
        done++;
    }
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    r = index_commit(s->idx);
    if (r == 0) {
        c->n_done = done;
        c->n_parts_done = parts;
        c->freed_bytes += freed;
    }
    return r;
}

/* What the batches of the queue name, and what the loop holds besides, is marked. */
static int mark_held(struct kvstore *s)
{
    struct answer a = {0};
    int r = take_answer(s, &a);

    if (r == 1)
        s->collect.phase = COLLECT_SWEEP;
    for (uint32_t i = 0; i < a.n_held && r >= 0; i++)
        r = keep_path(s, &s->collect.held, a.held[i]);
    for (uint32_t i = 0; i < a.n_queued && r >= 0; i++)
        r = hold_named(s, a.queued[i]->rec, a.queued[i]->n_rec);
    free(a.held);
    free(a.queued);
    return r < 0 ? r : 0;
}

static int step(struct kvstore *s, bool opening, uint64_t *ret_sessions)
{
    struct collect *c = &s->collect;

    if (c->n_done < c->n_gone || c->n_parts_done < c->n_parts)
        return drop(s);
    switch (c->phase) {
    case COLLECT_SESSIONS: return mark_sessions(s, ret_sessions);
    case COLLECT_REQS: return mark_reqs(s);
    case COLLECT_ASK:
        c->phase = opening ? COLLECT_SWEEP : COLLECT_ASKED;
        if (!opening)
            ask(s);
        return 0;
    case COLLECT_ASKED: return mark_held(s);
    case COLLECT_SWEEP: return sweep(s);
    default: round_end(s); return 0;
    }
}

/* What its record takes in the log. */
static uint64_t session_bytes(struct kvstore *s, const struct kvs_id *id)
{
    struct kvs_session *ses = malloc(sizeof *ses);
    struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = ses};
    uint64_t n = 0;

    if (ses && index_session_get(s->idx, INDEX_COMMIT, id, ses) == 0)
        n = LOG_FRAME_HEAD_BYTES + codec_size(&r);
    free(ses);
    return n;
}

/* A batch has been accepted. */
void collect_seen(struct kvstore *s, const struct kvs_rec *rec, uint32_t n)
{
    struct collect *c = &s->collect;
    uint64_t due = UINT64_MAX, now = now_ns(), soon = s->env.forget_ns ? 0 : SOON_NS;

    for (uint32_t i = 0; i < n; i++)
        if (rec[i].kind == KVS_REC_SESSION_RM) {
            due = now + soon;
            c->freed_bytes += session_bytes(s, &rec[i].session->id);
        } else if (rec[i].kind == KVS_REC_SESSION && due == UINT64_MAX)
            due = now + (s->turns_full ? SOON_NS : LATER_NS); /* it may have moved */
    if (due != UINT64_MAX)
        want(c, due);
    /* When not all of it can be marked nothing is dropped this time. */
    if (c->phase != COLLECT_NONE && hold_named(s, rec, n) < 0) {
        round_end(s);
        want(c, now + LATER_NS);
    }
}

bool collect_gains(const struct kvstore *s)
{
    const struct collect *c = &s->collect;

    return c->phase != COLLECT_NONE || (c->wanted && c->due_ns < now_ns() + 2 * SOON_NS);
}

void collect_turn(struct kvstore *s)
{
    struct collect *c = &s->collect;
    uint64_t now = now_ns(), none = 0;
    int r = 0;

    if (s->fault == -EROFS)
        return;
    if (c->phase == COLLECT_NONE) {
        if (!c->wanted || now < c->due_ns || (now < c->rest_ns && !s->limit_hold))
            return;
        r = round_begin(s);
    } else {
        r = step(s, false, &none);
    }
    commit_sizes(s);
    if (r >= 0)
        return;
    bool asked = c->phase == COLLECT_ASKED;
    round_end(s);
    c->wanted = true; /* another round, later */
    c->due_ns = now + LATER_NS;
    if (asked)
        return;
    if (!sys_full(r) && r != -ENOMEM && r != E_CORRUPT)
        store_fault(s, r, "dropping branches from the index", NULL);
}

/* --- at open -------------------------------------------------------------------------------- */

static int req_drop(struct kvstore *s, const struct kvs_req *q)
{
    int r;

    do {
        uint32_t rows = TXN_BLOCKS_MAX;
        r = index_begin(s->idx);
        if (r < 0)
            return r;
        r = index_req_del(s->idx, q->owner, &q->id, &rows);
        if (r < 0) {
            index_abort(s->idx);
            return r;
        }
        int e = index_commit(s->idx);
        r = e < 0 ? e : r;
    } while (r == 1);
    return r;
}

static int old_reqs(struct kvstore *s)
{
    struct index_at at = {0};
    struct kvs_req q;
    char *reply;
    uint64_t bad = 0;
    int n = 1, r = 0;

    while (r == 0 && (n = index_reqs(s->idx, INDEX_COMMIT, &at, &q, &reply, &bad)) == 1) {
        free(reply);
        if (kvs_age_ns(s, q.time_ns) > REQ_KEEP_NS)
            r = req_drop(s, &q);
    }
    return r < 0 ? r : n < 0 ? n : 0;
}

int collect_open(struct kvstore *s, struct kvs_open_report *rep)
{
    int r = old_reqs(s);

    if (r == 0)
        r = round_begin(s);
    while (r >= 0 && s->collect.phase != COLLECT_NONE)
        r = step(s, true, &rep->sessions);
    s->collect.rest_ns = 0;
    return r < 0 ? r : 0;
}
