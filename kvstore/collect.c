/* collect.c - what nobody needs any more: branches that no session and no request leads to,
 * requests nobody can ask for. */
#include "base/bytes.h"
#include "base/clock.h"
#include "kvstore/store.h"
#include <errno.h>
#include <stdlib.h>

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
int collect_open(struct kvstore *s, struct kvs_open_report *rep)
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
