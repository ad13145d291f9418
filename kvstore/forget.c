/* forget.c - requests that nobody can ask for any more, forgotten while the store is open.
 *
 * They are kept for a day; but when sessions find no room, those beyond a part of the store's limit
 * are given up sooner, the oldest first: a round counts them by their age, and the next one drops.
 *
 * A round walks all requests, a page at a time, and drops what is due in transactions of at
 * most TXN_BLOCKS_MAX rows; each turn of the commit thread does one of either, so that batches
 * wait for no more than that.  A crash in between leaves a request with some of its parts
 * missing: it is due at the next open as well.  The turn log is not told: what it brings back
 * when the index is lost is due again. */
#include "base/clock.h"
#include "kvstore/codec.h"
#include "kvstore/store.h"
#include "kvstore/turnlog.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    LOOK_MAX = 200,
    SHARE = 16 /* one part in so many of the limit is theirs in any case */
};
static const uint64_t ROUND_NS = 600000000000u, PRESSED_NS = 5000000000u;
/* Who asks with an id again has lost a link, or a daemon: that takes seconds. */
static const uint64_t KEEP_MIN_NS = 30000000000u;

bool forget_due(struct kvstore *s, enum index_who w, const struct kvs_req *q)
{
    uint64_t age = kvs_age_ns(s, q->time_ns);
    struct kvs_session *ses;
    int r;

    if (q->state != KVS_REQ_RUNNING)
        return age > (s->forget.keep_ns ? s->forget.keep_ns : REQ_KEEP_NS);
    if (age <= REQ_KEEP_NS)
        return false;
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

/* Ages grow by a quarter from one class to the next. */
static uint64_t age_class(uint32_t n)
{
    uint64_t ns = KEEP_MIN_NS;

    while (n--)
        ns += ns / 4;
    return ns;
}

static uint64_t req_bytes(const struct kvs_req *q)
{
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = q};

    return LOG_FRAME_HEAD_BYTES + codec_size(&r);
}

static void count(struct forget *f, uint64_t age_ns, uint64_t bytes)
{
    uint64_t to = KEEP_MIN_NS;
    uint32_t i = 0;

    for (; i < FORGET_AGES - 1 && age_ns > to; i++)
        to += to / 4;
    f->age[i] += bytes;
}

static uint64_t share_bytes(const struct kvstore *s)
{
    return s->o.disk_bytes / SHARE;
}

/* All have been counted: how old may be what stays? */
static uint64_t keep_ns(const struct kvstore *s)
{
    const struct forget *f = &s->forget;
    uint64_t bytes = f->age[0], all = 0, part = share_bytes(s);
    uint32_t i;

    for (i = 0; i < FORGET_AGES; i++)
        all += f->age[i];
    /* Pages that have lost some of theirs are full to a quarter at least: it is pages that count. */
    uint64_t pages = index_table_bytes(s->idx, DB_REQ);
    if (pages > all)
        part = (uint64_t)((double)part * (double)all / (double)pages);
    for (i = 0; i < FORGET_AGES - 1 && bytes + f->age[i + 1] <= part;)
        bytes += f->age[++i];
    return i == FORGET_AGES - 1 || age_class(i) > REQ_KEEP_NS ? REQ_KEEP_NS : age_class(i);
}

static void round_end(struct kvstore *s)
{
    struct forget *f = &s->forget;
    bool drops = f->counts && f->at.bytes;

    f->at.bytes = 0;
    f->n = f->done = 0;
    f->keep_ns = drops ? keep_ns(s) : 0;
    f->counts = false;
    f->look_ns = now_ns() + (s->env.forget_ns ? s->env.forget_ns : PRESSED_NS);
    f->next_ns = now_ns() + (drops ? 0 : s->env.forget_ns ? s->env.forget_ns : ROUND_NS);
}

/* Is it time for a round?  Sessions that find no room do not wait for it. */
static bool round_due(struct kvstore *s)
{
    struct forget *f = &s->forget;
    uint64_t now = now_ns();

    if (s->turns_short && now >= f->look_ns) {
        f->look_ns = now + (s->env.forget_ns ? s->env.forget_ns : PRESSED_NS);
        f->counts = index_table_bytes(s->idx, DB_REQ) > share_bytes(s);
        memset(f->age, 0, sizeof f->age);
        if (f->counts)
            return true;
    }
    return now >= f->next_ns;
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
        if (f->counts)
            count(f, kvs_age_ns(s, q.time_ns), req_bytes(&q));
        free(reply);
        if (!f->counts && forget_due(s, INDEX_COMMIT, &q)) {
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
    uint64_t freed = 0, bytes;
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
        bytes = req_bytes(&q);
        free(reply);
        if (!forget_due(s, INDEX_WRITE, &q))
            continue;
        r = index_req_del(s->idx, q.owner, &q.id, &rows);
        if (r == 1)
            break;
        freed += r == 0 ? bytes : 0;
    }
    if (r < 0) {
        index_abort(s->idx);
        return r;
    }
    r = index_commit(s->idx);
    if (r == 0) {
        f->done = i;
        s->collect.freed_bytes += freed;
    }
    return r;
}

void forget_turn(struct kvstore *s)
{
    struct forget *f = &s->forget;
    int r;

    if (f->next_ns == 0)
        round_end(s); /* the open has just done it */
    if (s->fault || (!forget_busy(s) && !round_due(s)))
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
