/* forget.c - requests that nobody can ask for any more, forgotten while the store is open.
 *
 * A round walks all requests, a page at a time, and drops what is due in transactions of at
 * most TXN_BLOCKS_MAX rows; each turn of the commit thread does one of either, so that batches
 * wait for no more than that.  A crash in between leaves a request with some of its parts
 * missing: it is due at the next open as well.  The turn log is not told: what it brings back
 * when the index is lost is due again. */
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>

enum { LOOK_MAX = 200 };
static const uint64_t ROUND_NS = 600000000000u;

bool forget_due(struct kvstore *s, enum index_who w, const struct kvs_req *q)
{
    struct kvs_session *ses;
    int r;

    if (kvs_age_ns(s, q->time_ns) <= REQ_KEEP_NS)
        return false;
    if (q->state != KVS_REQ_RUNNING)
        return true;
    /* It may be at work this moment, or go on; without its session it cannot. */
    ses = malloc(sizeof *ses);
    r = ses ? index_session_get(s->idx, w, &q->session, ses) : -ENOMEM;
    free(ses);
    return r == -ENOENT;
}

bool forget_busy(const struct kvstore *s)
{
    return s->fault == 0 && (s->forget.at.bytes || s->forget.done < s->forget.n);
}

static void round_end(struct kvstore *s)
{
    s->forget.at.bytes = 0;
    s->forget.n = s->forget.done = 0;
    s->forget.next_ns = now_ns() + (s->env.forget_ns ? s->env.forget_ns : ROUND_NS);
}

/* The next page: what is due in it is noted.  The round ends with the last. */
static void look(struct kvstore *s)
{
    struct forget *f = &s->forget;
    uint64_t bad = 0;
    struct kvs_req q;
    char *reply;
    int r = 1;

    f->n = f->done = 0;
    for (uint32_t i = 0; i < LOOK_MAX && f->n < sizeof f->v / sizeof *f->v; i++) {
        r = index_reqs(s->idx, INDEX_COMMIT, &f->at, &q, &reply, &bad);
        if (r != 1)
            break;
        free(reply);
        if (forget_due(s, INDEX_COMMIT, &q)) {
            f->v[f->n].owner = q.owner;
            f->v[f->n++].id = q.id;
        }
    }
    if (r != 1 && f->n == 0)
        round_end(s);
}

/* Those noted, as many as fit; looked at again, since batches have gone through meanwhile. */
static int drop(struct kvstore *s)
{
    struct forget *f = &s->forget;
    uint32_t rows = TXN_BLOCKS_MAX, i;
    struct kvs_req q;
    char *reply;
    int r = index_begin(s->idx);

    if (r < 0)
        return r;
    for (i = f->done; i < f->n && r == 0; i++) {
        r = index_req_get(s->idx, INDEX_WRITE, f->v[i].owner, &f->v[i].id, &q, &reply);
        if (r < 0) {
            r = r == -ENOENT || r == E_CORRUPT ? 0 : r; /* a damaged one is not ours to mend */
            continue;
        }
        free(reply);
        if (forget_due(s, INDEX_WRITE, &q))
            r = index_req_del(s->idx, q.owner, &q.id, &rows);
        if (r == 1)
            break;
    }
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    r = index_commit(s->idx);
    if (r == 0)
        f->done = i;
    return r;
}

void forget_turn(struct kvstore *s)
{
    struct forget *f = &s->forget;
    int r;

    if (f->next_ns == 0)
        round_end(s); /* the open has just done it */
    if (s->fault || (!forget_busy(s) && now_ns() < f->next_ns))
        return;
    if (f->done == f->n) {
        look(s);
        return;
    }
    r = drop(s);
    commit_sizes(s);
    if (r == 0)
        return;
    round_end(s);
    if (!sys_full(r) && r != -ENOMEM && r != E_CORRUPT)
        store_fault(s, r, "forgetting old requests in the index", NULL);
}
