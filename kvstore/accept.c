/* accept.c - see accept.h.  Lists are short (one group) and searched from the newest end. */
#include "kvstore/accept.h"
#include "base/err.h"
#include "kvstore/codec.h"
#include "kvstore/turnlog.h"
#include <errno.h>

void accept_begin(struct accept *a, struct index *idx, int who)
{
    a->idx = idx;
    a->who = who;
    a->n_branch = a->n_session = 0;
}

static bool same(const struct kvs_id *a, const struct kvs_id *b)
{
    return memcmp(a->b, b->b, 16) == 0;
}

static int branch_find(const struct accept *a, const struct kvs_id *id, uint64_t *begin,
                       uint64_t *end)
{
    struct kvs_branch b;

    for (uint32_t i = a->n_branch; i-- > 0;)
        if (same(&a->branch[i].id, id)) {
            *begin = a->branch[i].begin;
            *end = a->branch[i].end;
            return 0;
        }
    int r = index_branch_get(a->idx, (enum index_who)a->who, id, &b, end);
    if (r == 0)
        *begin = b.parent_pos;
    return r;
}

/* Appended, never changed in place, so that a refused batch is taken back by a count. */
static int branch_note(struct accept *a, const struct kvs_id *id, uint64_t begin, uint64_t end)
{
    if (a->n_branch == ACCEPT_BRANCHES_MAX)
        return E_LIMIT;
    a->branch[a->n_branch].id = *id;
    a->branch[a->n_branch].begin = begin;
    a->branch[a->n_branch++].end = end;
    return 0;
}

static int session_note(struct accept *a, const struct kvs_session *s, bool gone)
{
    if (a->n_session == ACCEPT_SESSIONS_MAX)
        return E_LIMIT;
    a->session[a->n_session].id = s->id;
    a->session[a->n_session].owner = s->owner;
    a->session[a->n_session].gone = gone;
    snprintf(a->session[a->n_session].name, NAME_BYTES_MAX + 1, "%s", gone ? "" : s->name);
    a->n_session++;
    return 0;
}

/* Who has owner's name after everything accepted so far: 0 with *ret, or -ENOENT. */
static int name_holder(const struct accept *a, uint32_t owner, const char *name,
                       struct kvs_id *ret)
{
    /* The newest note of a session is what it is now; older ones are history. */
    for (uint32_t i = a->n_session; i-- > 0;) {
        bool newest = true;
        for (uint32_t j = i + 1; j < a->n_session && newest; j++)
            newest = !same(&a->session[j].id, &a->session[i].id);
        if (newest && !a->session[i].gone && a->session[i].owner == owner &&
            strcmp(a->session[i].name, name) == 0) {
            *ret = a->session[i].id;
            return 0;
        }
    }
    int r = index_name_get(a->idx, (enum index_who)a->who, owner, name, ret);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < a->n_session; i++)
        if (same(&a->session[i].id, ret))
            return -ENOENT; /* renamed or removed in this group */
    return 0;
}

/* What the record will change of the session, of which nobody can say what it is when it is damaged. */
static int row_ok(const struct accept *a, const struct kvs_id *session)
{
    struct kvs_session old;
    int r = index_session_get(a->idx, (enum index_who)a->who, session, &old);

    return r == -ENOENT ? 0 : r;
}

/* The same of the run of tokens that is cut, or added to, at this place.  One that an earlier batch
 * of the group has changed was looked at then. */
static int run_ok(const struct accept *a, const struct kvs_id *branch, uint64_t begin,
                  uint64_t at)
{
    int32_t id;

    for (uint32_t i = 0; i < a->n_branch; i++)
        if (same(&a->branch[i].id, branch))
            return 0;
    return at % BLOCK_TOKENS && at > begin
               ? index_tokens(a->idx, (enum index_who)a->who, branch, at - 1, at, &id)
               : 0;
}

/* A place that is there.  One that damage took may be said again, by the session that has it. */
static int check_place(struct accept *a, const struct kvs_session *s)
{
    static const struct kvs_id none;
    struct kvs_session old;
    uint64_t begin, end = 0;
    int r = same(&s->branch, &none) ? 0 : branch_find(a, &s->branch, &begin, &end);

    if (r == 0 && s->head > end)
        r = -EINVAL;
    if (r != -EINVAL && r != -ENOENT)
        return r;
    int e = index_session_get(a->idx, (enum index_who)a->who, &s->id, &old);
    if (e == 0 && same(&old.branch, &s->branch) && old.head == s->head)
        return 0;
    return e < 0 && e != -ENOENT ? e : r;
}

static int check_session(struct accept *a, const struct kvs_session *s)
{
    struct kvs_id holder;
    int r = check_place(a, s);

    if (r == 0)
        r = row_ok(a, &s->id);
    if (r < 0)
        return r;
    if (s->name[0]) {
        r = name_holder(a, s->owner, s->name, &holder);
        if (r == 0 && !same(&holder, &s->id))
            return -EEXIST;
        if (r < 0 && r != -ENOENT)
            return r;
    }
    return session_note(a, s, false);
}

static int check_branch(struct accept *a, const struct kvs_branch *b)
{
    static const struct kvs_id none;
    uint64_t begin, end;
    int r = branch_find(a, &b->id, &begin, &end);

    if (r == 0 || same(&b->id, &none))
        return -EEXIST;
    if (r != -ENOENT)
        return r;
    if (!same(&b->parent, &none)) {
        r = branch_find(a, &b->parent, &begin, &end);
        if (r < 0)
            return r;
        if (b->parent_pos > end)
            return -EINVAL;
    } else if (b->parent_pos) {
        return -EINVAL;
    }
    return branch_note(a, &b->id, b->parent_pos, b->parent_pos);
}

static int check_one(struct accept *a, const struct kvs_rec *r)
{
    uint64_t begin = 0, end = 0;
    int e;

    switch (r->kind) {
    case KVS_REC_SESSION: return check_session(a, r->session);
    case KVS_REC_SESSION_RM:
        e = row_ok(a, &r->session->id);
        return e < 0 ? e : session_note(a, r->session, true);
    case KVS_REC_BRANCH: return check_branch(a, r->branch);
    case KVS_REC_TOKENS:
    case KVS_REC_CUT:
        e = branch_find(a, &r->tokens.branch, &begin, &end);
        if (e < 0)
            return e;
        if (r->kind == KVS_REC_CUT)
            e = r->tokens.first < begin || r->tokens.first > end ? -EINVAL : 0;
        else if (r->tokens.first != end || r->tokens.n > CTX_TOKENS_MAX)
            e = -EINVAL;
        if (e == 0)
            e = run_ok(a, &r->tokens.branch, begin, r->tokens.first);
        if (e < 0)
            return e;
        if (r->kind == KVS_REC_CUT)
            return branch_note(a, &r->tokens.branch, begin, r->tokens.first);
        return branch_note(a, &r->tokens.branch, begin, end + r->tokens.n);
    case KVS_REC_TURN: return branch_find(a, &r->turn->branch, &begin, &end);
    case KVS_REC_REQ:
    case KVS_REC_PART: return 0;
    default: return -EINVAL;
    }
}

int accept_batch(struct accept *a, const struct kvs_rec *rec, uint32_t n)
{
    uint32_t n_branch = a->n_branch, n_session = a->n_session;
    int r = 0;

    uint64_t bytes = 0;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        size_t one = codec_size(&rec[i]);
        bytes += one;
        r = !one ? -EINVAL : bytes > LOG_FRAME_BYTES_MAX ? -EMSGSIZE : check_one(a, &rec[i]);
    }
    if (r < 0) {
        a->n_branch = n_branch;
        a->n_session = n_session;
    }
    return r;
}
