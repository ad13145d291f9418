/* merge_settle.c - the pieces of a merge fitted together; see merge.h.
 *
 * Tokens of a branch count up to the first hole; turns behind it go; a session whose path has a
 * hole is moved to before it and marked, and so is one whose newest record may be missing. */
#include "kvstore/merge_env.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

enum { DEPTH_MAX = 65536 };

/* As many as fit are named. */
static void name_lost(struct merge *m, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void name_lost(struct merge *m, const char *fmt, ...)
{
    size_t had = strlen(m->rep->named), cap = sizeof m->rep->named;
    char words[160];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    if (had + strlen(words) + 3 > cap)
        m->rep->more = true;
    else
        snprintf(m->rep->named + had, cap - had, "%s%s", had ? "; " : "", words);
}

/* Its name, or the beginning of its id, by which `sessions show` finds it too. */
static void who_is(const char *name, size_t n, const struct kvs_id *id, char ret[64])
{
    if (n)
        snprintf(ret, 64, "\"%.*s\"", n < 48 ? (int)n : 48, name);
    else
        snprintf(ret, 64, "id %02x%02x%02x%02x%02x%02x", id->b[0], id->b[1], id->b[2], id->b[3],
                 id->b[4], id->b[5]);
}

/* Rows of one branch and kind from first on go. */
static int rows_cut(struct merge *m, const struct kvs_id *branch, uint8_t kind, uint64_t first)
{
    const uint8_t *v;
    size_t bytes;

    for (;;) {
        struct index_at at;
        merge_at_before(&at, branch, kind, first);
        int r = index_row_next(m->idx, DB_LOG, &at, &v, &bytes);
        if (r == -ENOENT || (r == 0 && !merge_at_in(&at, branch, kind)))
            return 0;
        if (r == 0)
            r = merge_step(m);
        if (r == 0)
            r = index_row_del(m->idx, DB_LOG, at.key, LOG_KEY);
        if (r < 0)
            return r;
    }
}

/* --- branches ---------------------------------------------------------------------------- */

/* Where the branch's tokens end without a hole from pos on, pieces put in where they fit. */
static int end_of(struct merge *m, const struct kvs_id *branch, uint64_t pos, uint64_t *ret)
{
    int32_t ids[BLOCK_TOKENS];
    uint8_t k[LOG_KEY];
    const uint8_t *v;
    size_t bytes;

    for (;;) {
        uint64_t base = pos - pos % BLOCK_TOKENS, at;
        uint32_t n;
        merge_log_key(k, branch, 0, base);
        int r = index_row_get(m->idx, DB_LOG, k, sizeof k, &v, &bytes);
        if (r == 0)
            r = codec_chunk_get(v, bytes, base, &at, &n, ids);
        if (r == 0 && at <= pos && pos < at + n) {
            pos = at + n;
            continue;
        }
        if (r < 0 && r != -ENOENT && r != E_CORRUPT)
            return r;
        /* Or a piece, which begins in the same run at pos or before. */
        struct index_at it;
        bool found = false;
        merge_at_before(&it, branch, MERGE_PIECE, base);
        while (!found && (r = index_row_next(m->idx, DB_LOG, &it, &v, &bytes)) == 0 &&
               merge_at_in(&it, branch, MERGE_PIECE) && ld64be(it.key + 17) <= pos)
            found = codec_chunk_get(v, bytes, base, &at, &n, ids) == 0 && pos < at + n;
        if (r < 0 && r != -ENOENT)
            return r;
        if (!found) {
            *ret = pos;
            return 0;
        }
        r = index_row_del(m->idx, DB_LOG, it.key, LOG_KEY);
        if (r == 0)
            r = merge_run_put(m, branch, at, n, (const uint8_t *)ids);
        if (r < 0)
            return r;
        pos = at + n;
    }
}

/* What lies behind the end: turns that have lost their tokens. */
static int turns_settle(struct merge *m, const struct kvs_id *branch, uint64_t end, bool lost)
{
    struct index_at at;
    struct kvs_turn *t = malloc(sizeof *t);
    const uint8_t *v;
    size_t bytes;
    int r = t ? 0 : -ENOMEM;

    merge_at_before(&at, branch, 1, 0);
    while (r == 0 && (r = index_row_next(m->idx, DB_LOG, &at, &v, &bytes)) == 0 &&
           merge_at_in(&at, branch, 1)) {
        if (codec_turn_get(v, bytes, t) < 0)
            continue;
        if (t->first > end || (t->first == end && lost))
            r = index_row_del(m->idx, DB_LOG, at.key, LOG_KEY);
    }
    free(t);
    return r == -ENOENT ? 0 : r;
}

/* The bytes behind the end of the last run, and the runs and pieces behind it. */
static int runs_settle(struct merge *m, const struct kvs_branch *b, uint64_t end)
{
    uint64_t base = end - end % BLOCK_TOKENS, at;
    int32_t ids[BLOCK_TOKENS];
    uint8_t k[LOG_KEY];
    const uint8_t *v;
    size_t bytes;
    uint32_t n;
    bool part = end % BLOCK_TOKENS && end > b->parent_pos;

    if (part) { /* the run that it ends in stays when it ends there */
        merge_log_key(k, &b->id, 0, base);
        int r = index_row_get(m->idx, DB_LOG, k, sizeof k, &v, &bytes);
        part = r == 0 && codec_chunk_get(v, bytes, base, &at, &n, ids) == 0 && at + n == end;
    }
    int r = rows_cut(m, &b->id, 0, part ? base + BLOCK_TOKENS : base);
    return r < 0 ? r : rows_cut(m, &b->id, MERGE_PIECE, 0);
}

static int branches_settle(struct merge *m)
{
    struct index_at at = {0};
    struct kvs_branch b;
    uint64_t want, end = 0, bad = 0;
    int n = 1, r = 0;

    while (r == 0 && (n = index_branches(m->idx, INDEX_WRITE, &at, &b, &want, 1, &bad)) == 1) {
        r = merge_step(m);
        if (r == 0)
            r = end_of(m, &b.id, b.parent_pos, &end);
        if (r == 0)
            r = runs_settle(m, &b, end);
        if (r == 0)
            r = turns_settle(m, &b.id, end, want > end);
        if (r == 0 && want != end) {
            uint8_t v[CODEC_BRANCH_BYTES];
            codec_branch_put(v, &b);
            st64(v + sizeof v - 8, end);
            r = index_row_put(m->idx, DB_BRANCH, b.id.b, 16, v, sizeof v);
        }
    }
    return r < 0 ? r : n < 0 ? n : 0;
}

/* A session's branch whose row nobody has: it was a root when its tokens begin at 0. */
static int root_again(struct merge *m, const struct kvs_session *x)
{
    struct kvs_branch b = {.id = x->branch, .owner = x->owner};
    uint8_t k[LOG_KEY];

    if (!memcmp(x->branch.b, MERGE_NONE.b, 16) || merge_row_is(m, DB_BRANCH, x->branch.b, 16))
        return 0;
    merge_log_key(k, &b.id, 0, 0);
    return merge_row_is(m, DB_LOG, k, sizeof k) ? merge_branch_note(m, &b, x->head) : 0;
}

/* The place nearest to the root where the path is broken: where it is whole up to. */
static int path_break(struct merge *m, const struct kvs_session *x, struct kvs_id *ret,
                      uint64_t *ret_whole)
{
    struct kvs_id id = x->branch;
    uint64_t to = x->head, end;
    struct kvs_branch b;

    *ret = x->branch;
    *ret_whole = x->head;
    for (int i = 0; i < DEPTH_MAX && memcmp(id.b, MERGE_NONE.b, 16); i++) {
        int r = index_branch_get(m->idx, INDEX_WRITE, &id, &b, &end);
        if (r == -ENOENT) {
            *ret = id;
            *ret_whole = 0;
            return 0;
        }
        if (r < 0)
            return r;
        if (end < to) {
            *ret = id;
            *ret_whole = end;
        }
        to = b.parent_pos < to ? b.parent_pos : to;
        id = b.parent;
    }
    return 0;
}

/* Do turns lie side by side from the branch's beginning up to head?  Where they do not, the
 * record of one is missing. */
static int branch_turns_look(struct merge *m, const struct kvs_branch *b, uint64_t head,
                             bool *ret)
{
    struct index_at at;
    struct kvs_turn *t = malloc(sizeof *t);
    uint64_t to = b->parent_pos;
    const uint8_t *v;
    size_t bytes;
    int r = t ? 0 : -ENOMEM;

    merge_at_before(&at, &b->id, 1, 0);
    while (r == 0 && (r = index_row_next(m->idx, DB_LOG, &at, &v, &bytes)) == 0 &&
           merge_at_in(&at, &b->id, 1)) {
        if (codec_turn_get(v, bytes, t) < 0 || t->first >= head)
            continue;
        *ret |= t->first > to;
        to = t->flags & KVS_TURN_OPEN ? head : t->first + t->n_tokens;
    }
    free(t);
    *ret |= to < head;
    return r == -ENOENT ? 0 : r;
}

/* The same on all of the session's path. */
static int turns_look(struct merge *m, const struct kvs_session *x, bool *ret)
{
    struct kvs_id id = x->branch;
    uint64_t to = x->head, end;
    struct kvs_branch b;
    int r = 0;

    *ret = false;
    for (int i = 0; i < DEPTH_MAX && !*ret && memcmp(id.b, MERGE_NONE.b, 16); i++) {
        r = index_branch_get(m->idx, INDEX_WRITE, &id, &b, &end);
        if (r == 0)
            r = branch_turns_look(m, &b, to < end ? to : end, ret);
        if (r < 0)
            break;
        to = b.parent_pos < to ? b.parent_pos : to;
        id = b.parent;
    }
    return r == -ENOENT ? 0 : r;
}

/* A turn's record that was hurt in the index and is not in the log. */
static bool turn_lost(struct merge *m, const struct kvs_id *branch, uint64_t head)
{
    for (uint32_t i = 0; i < m->n_hurt; i++)
        if (m->hurt[i].db == DB_LOG && !memcmp(m->hurt[i].key, branch->b, 16) &&
            m->hurt[i].key[16] == 1 && ld64be(m->hurt[i].key + 17) < head &&
            !merge_row_is(m, DB_LOG, m->hurt[i].key, LOG_KEY))
            return true;
    return false;
}

static int session_settle(struct merge *m, struct kvs_session *x)
{
    struct kvs_session was = *x;
    struct kvs_id where, holder;
    struct kvs_rec c = {.kind = KVS_REC_SESSION, .session = x};
    uint64_t whole;
    /* Its newest record may be what was in a hole of the log: then its tokens say how far it
     * had come. */
    bool hole = false,
         unsure = m->holes && !merge_ids_is(&m->ids, &x->id, m->holes) &&
                  (m->hole_behind || !merge_ids_is(&m->ids, &x->id, MERGE_FROM_INDEX));
    struct kvs_branch b;
    uint64_t end;
    char who[64];

    if (unsure && index_branch_get(m->idx, INDEX_WRITE, &x->branch, &b, &end) == 0 &&
        end > x->head)
        x->head = end;
    int r = memcmp(x->branch.b, MERGE_NONE.b, 16) ? path_break(m, x, &where, &whole) : 1;

    if (r == 0 && m->lossy && whole == x->head)
        r = turns_look(m, x, &hole);
    if (r < 0)
        return r;
    if (r == 0) {
        hole |= turn_lost(m, &x->branch, x->head);
        x->branch = where;
        if (whole < x->head || hole) {
            m->rep->sessions++;
            m->rep->tokens += x->head - whole;
            who_is(x->name, strlen(x->name), &x->id, who);
            name_lost(m, "%s of user %u from token %llu of %llu on", who, x->owner,
                      (unsigned long long)whole, (unsigned long long)x->head);
        }
        if (whole < x->head || hole || unsure)
            x->flags |= KVS_SESS_LOST;
        m->rep->unsure += unsure;
    }
    /* One name, one session: the record of a renaming may be what is missing. */
    for (int i = 2;
         x->name[0] && index_name_get(m->idx, INDEX_WRITE, x->owner, x->name, &holder) == 0 &&
         memcmp(holder.b, x->id.b, 16) && merge_row_is(m, DB_SESSION, holder.b, 16);
         i++)
        snprintf(x->name, sizeof x->name, "%.200s~%d", was.name, i);
    if (memcmp(&was, x, sizeof was) == 0 &&
        (!x->name[0] || index_name_get(m->idx, INDEX_WRITE, x->owner, x->name, &holder) == 0))
        return 0;
    return index_apply(m->idx, &c);
}

static int sessions_settle(struct merge *m, int (*each)(struct merge *, struct kvs_session *))
{
    struct kvs_session *x = malloc(sizeof *x);
    struct index_at at = {0};
    uint64_t bad = 0;
    int n = x ? 1 : -ENOMEM, r = 0;

    while (n > 0 && r == 0) {
        n = index_sessions(m->idx, INDEX_WRITE, &at, x, 1, &bad);
        if (n == 1 && (r = merge_step(m)) == 0)
            r = each(m, x);
    }
    free(x);
    return r < 0 ? r : n < 0 ? n : 0;
}

static int root_each(struct merge *m, struct kvs_session *x)
{
    return root_again(m, x);
}

/* A part whose request is missing is nobody's. */
static int parts_settle(struct merge *m)
{
    struct index_at at = {0};
    const uint8_t *v;
    size_t bytes;
    uint8_t req[20] = {0};
    int r;

    while ((r = index_row_next(m->idx, DB_REQ, &at, &v, &bytes)) == 0) {
        if (at.bytes == sizeof req)
            memcpy(req, at.key, sizeof req);
        else if (at.bytes < sizeof req || memcmp(req, at.key, sizeof req))
            r = merge_step(m);
        else
            continue;
        if (r == 0 && at.bytes != sizeof req)
            r = index_row_del(m->idx, DB_REQ, at.key, at.bytes);
        if (r < 0)
            return r;
    }
    return r == -ENOENT ? 0 : r;
}

static bool is_lost(struct merge *m, const struct kvs_id *id)
{
    return memcmp(id->b, MERGE_NONE.b, 16) && !merge_row_is(m, DB_SESSION, id->b, 16) &&
           !merge_ids_is(&m->ids, id, MERGE_REMOVED) && !merge_ids_is(&m->ids, id, MERGE_SAID);
}

/* A name without its session: the session's record is lost. */
static int name_look(void *ctx, bool ok, enum index_db db, const uint8_t *key, size_t n,
                     const uint8_t *v, size_t bytes)
{
    struct merge *m = ctx;
    struct kvs_id id;
    char who[64];

    if (!ok || db != DB_NAME || bytes != 16)
        return 0;
    memcpy(id.b, v, 16);
    if (!is_lost(m, &id))
        return 0;
    m->rep->gone++;
    who_is((const char *)key + 4, n - 4, &id, who);
    name_lost(m, "%s of user %u whole", who, ld32be(key));
    return merge_ids_set(&m->ids, &id, MERGE_SAID);
}

/* An id that was a session, to all appearance, and is none: where there are holes its record may
 * have been in one; but a session that was removed leaves requests for a day, too. */
static int maybe_lost(struct merge *m, const struct kvs_id *id, uint32_t owner)
{
    char who[64];

    if (!is_lost(m, id))
        return 0;
    m->rep->maybe++;
    who_is("", 0, id, who);
    if (owner != UINT32_MAX)
        name_lost(m, "%s of user %u perhaps", who, owner);
    else
        name_lost(m, "%s perhaps", who);
    return merge_ids_set(&m->ids, id, MERGE_SAID);
}

static int reqs_look(struct merge *m)
{
    struct index_at at = {0};
    const uint8_t *v;
    size_t bytes;
    struct kvs_req q;
    int r = 0;

    while (r == 0 && (r = index_row_next(m->idx, DB_REQ, &at, &v, &bytes)) == 0)
        if (at.bytes == 20 && codec_req_get(v, bytes, &q) == 0)
            r = maybe_lost(m, &q.session, q.owner);
    return r == -ENOENT ? 0 : r;
}

/* Rows of the old index that are hurt and that nobody else has. */
static int hurt_look(struct merge *m)
{
    int r = 0;

    for (uint32_t i = 0; i < m->n_hurt && r == 0; i++) {
        const struct hurt *h = &m->hurt[i];
        struct kvs_id id;
        m->rep->requests +=
            h->db == DB_REQ && h->bytes == 20 && !merge_row_is(m, DB_REQ, h->key, 20);
        memcpy(id.b, h->key, 16);
        /* Branches have ids of the same kind. */
        if (h->db == DB_SESSION && h->bytes == 16 && !merge_row_is(m, DB_BRANCH, h->key, 16))
            r = maybe_lost(m, &id, UINT32_MAX);
    }
    return r;
}

static int lost_count(struct merge *m, const char *old, struct errbuf *eb)
{
    bool current;
    int r = 0;

    if ((m->lossy && m->old_counts) || m->rep->other)
        r = index_salvage(old, name_look, m, &current, eb);
    if (r == 0)
        r = hurt_look(m);
    if (r == 0 && m->holes)
        r = reqs_look(m);
    return r;
}

int merge_settle(struct merge *m, const char *old, struct errbuf *eb)
{
    int r = sessions_settle(m, root_each);

    if (r == 0)
        r = branches_settle(m);
    if (r == 0)
        r = sessions_settle(m, session_settle);
    if (r == 0)
        r = parts_settle(m);
    return r < 0 ? r : lost_count(m, old, eb);
}
