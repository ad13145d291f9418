/* sess_path.c - what lies on a session's path: branches, tokens, turns.  See sess.h. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/kvflow.h"
#include "daemon/model.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- token arrays ---------------------------------------------------------------------------- */
struct toks *toks_new(uint64_t cap)
{
    struct toks *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->refs = 1;
    if (toks_reserve(t, cap) < 0) {
        free(t);
        return NULL;
    }
    return t;
}

struct toks *toks_take(struct toks *t)
{
    t->refs++;
    return t;
}

void toks_drop(struct toks *t)
{
    if (t && --t->refs == 0) {
        free(t->p);
        free(t);
    }
}

int toks_reserve(struct toks *t, uint64_t cap)
{
    int32_t *p;
    uint64_t want = cap < 256 ? 256 : cap;

    must(t->refs == 1);
    if (t->p && cap <= t->cap)
        return 0;
    if (want < t->cap + t->cap / 2)
        want = t->cap + t->cap / 2;
    p = realloc(t->p, want * sizeof *p);
    if (!p)
        return -ENOMEM;
    t->p = p;
    t->cap = want;
    return 0;
}

int toks_append(struct toks *t, const int32_t *ids, uint64_t n)
{
    int r = toks_reserve(t, t->n + n);

    if (r < 0)
        return r;
    if (n)
        memcpy(t->p + t->n, ids, n * sizeof *ids);
    t->n += n;
    return 0;
}

void toks_cut(struct toks **at, uint64_t n)
{
    struct toks *t = *at, *cut;

    if (!t || t->n <= n)
        return;
    if (t->refs == 1) {
        t->n = n;
        return;
    }
    cut = toks_new(n);
    if (cut && n)
        memcpy(cut->p, t->p, n * sizeof *cut->p);
    if (cut)
        cut->n = n;
    toks_drop(t);
    *at = cut;
}

/* --- branches ------------------------------------------------------------------------------- */
static struct branch **branch_slot(struct daemon *d, const struct kvs_id *id)
{
    return &d->sess->branch[ld32(id->b) & (d->sess->n_branch_buckets - 1)];
}

/* Room for one more.  Without memory for it the buckets are long, but the first are needed. */
static int branch_room(struct sess_table *t)
{
    uint32_t n = t->n_branch_buckets ? 2 * t->n_branch_buckets : 1024;
    struct branch **v;

    if (t->n_branches < t->n_branch_buckets)
        return 0;
    v = calloc(n, sizeof *v);
    if (!v)
        return t->n_branch_buckets ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < t->n_branch_buckets; i++)
        while (t->branch[i]) {
            struct branch *b = t->branch[i], **at = &v[ld32(b->rec.id.b) & (n - 1)];

            t->branch[i] = b->next;
            b->next = *at;
            *at = b;
        }
    free(t->branch);
    t->branch = v;
    t->n_branch_buckets = n;
    return 0;
}

static struct branch *branch_find(struct daemon *d, const struct kvs_id *id)
{
    struct branch *b = *branch_slot(d, id);

    while (b && memcmp(&b->rec.id, id, sizeof *id) != 0)
        b = b->next;
    return b;
}

/* What it hangs on has it for a child. */
static void branch_share(struct daemon *d, const struct branch *b)
{
    struct branch *up = branch_find(d, &b->rec.parent);

    if (up && up->shared < b->rec.parent_pos)
        up->shared = b->rec.parent_pos;
}

void branches_loaded(struct daemon *d)
{
    for (uint32_t i = 0; i < d->sess->n_branch_buckets; i++)
        for (struct branch *b = d->sess->branch[i]; b; b = b->next) {
            b->shared_known = true;
            branch_share(d, b);
        }
}

static void branch_link(struct daemon *d, struct branch *b)
{
    struct branch **slot = branch_slot(d, &b->rec.id);

    b->refs = 1;
    b->next = *slot;
    *slot = b;
    d->sess->n_branches++;
}

struct branch *branch_take(struct branch *b)
{
    b->refs++;
    return b;
}

void branch_drop(struct daemon *d, struct branch *b)
{
    struct branch **p;

    if (!b || --b->refs)
        return;
    for (p = branch_slot(d, &b->rec.id); *p != b; p = &(*p)->next)
        must(*p);
    *p = b->next;
    d->sess->n_branches--;
    free(b);
}

void branch_own(struct branch *b, const struct kvs_id *req)
{
    b->owned = true;
    b->owner = *req;
}

void branch_disown(struct branch *b, const struct kvs_id *req)
{
    if (b && b->owned && memcmp(&b->owner, req, sizeof *req) == 0)
        b->owned = false;
}

int branch_get(struct daemon *d, const struct kvs_id *id, struct branch **ret)
{
    struct branch *b;
    int r = branch_room(d->sess);

    if (r < 0)
        return r;
    b = branch_find(d, id);
    if (b) {
        *ret = branch_take(b);
        return 0;
    }
    b = calloc(1, sizeof *b);
    if (!b)
        return -ENOMEM;
    r = kvs_branch_get(d->store, id, &b->rec);
    if (r == 0)
        r = kvs_branch_end(d->store, id, &b->end);
    if (r < 0) {
        free(b);
        return r;
    }
    branch_link(d, b);
    *ret = b;
    return 0;
}

int branch_new(struct daemon *d, uint32_t uid, const struct branch *from, uint64_t at,
               struct branch **ret)
{
    static const struct kvs_id none;
    struct branch *b = calloc(1, sizeof *b);
    struct kvs_branch up;

    if (!b || branch_room(d->sess) < 0) {
        free(b);
        return -ENOMEM;
    }
    kvs_id_new(&b->rec.id);
    b->rec.owner = uid;
    b->end = at;
    if (from && at > 0) {
        must(at <= from->end);
        b->rec.parent = from->rec.id;
        b->rec.parent_pos = at;
        /* Hang on the branch that holds token at - 1 itself, so that chains stay short. */
        up = from->rec;
        while (at <= up.parent_pos && memcmp(&up.parent, &none, sizeof none) != 0) {
            b->rec.parent = up.parent;
            if (kvs_branch_get(d->store, &up.parent, &up) < 0)
                break;
        }
    }
    b->shared_known = true;
    branch_link(d, b);
    branch_share(d, b);
    *ret = b;
    return 0;
}

/* --- tokens ---------------------------------------------------------------------------------- */
int sess_tokens_hold(struct sess *s)
{
    const struct req *q = s->running;
    struct toks *t;

    if (!q || !q->toks || q->br != s->branch || q->toks->n < s->head ||
        (s->toks && s->toks->n >= s->head))
        return 0;
    t = toks_new(s->head);
    if (!t)
        return -ENOMEM;
    (void)toks_append(t, q->toks->p, s->head); /* there is room */
    toks_drop(s->toks);
    s->toks = t;
    sess_warm(s);
    return 0;
}

int sess_tokens_peek(struct daemon *d, struct sess *s, struct toks **ret)
{
    struct toks *t;
    int r;

    must_be(s, SESS_MAGIC);
    r = sess_tokens_hold(s);
    if (r < 0)
        return r;
    if (s->toks && s->toks->n >= s->head) {
        *ret = toks_take(s->toks);
        return 0;
    }
    t = toks_new(s->head);
    if (!t)
        return -ENOMEM;
    if (s->head) {
        r = kvs_tokens(d->store, &s->branch->rec.id, 0, s->head, t->p);
        if (r < 0) {
            toks_drop(t);
            return r;
        }
        t->n = s->head;
    }
    *ret = t;
    return 0;
}

int sess_tokens(struct daemon *d, struct sess *s, struct toks **ret)
{
    struct toks *t;
    int r = sess_tokens_peek(d, s, &t);

    if (r < 0)
        return r;
    if (t != s->toks) {
        toks_drop(s->toks);
        s->toks = toks_take(t);
    }
    sess_warm(s);
    *ret = t;
    return 0;
}

/* --- turns ----------------------------------------------------------------------------------- */
const char *finish_str(uint32_t f)
{
    static const char *const w[] = {NULL,        "stop",  "length",
                                    "cancelled", "error", "interrupted"};

    return f < FIN_ ? w[f] : NULL;
}

/* t ends at `end`, earlier than it did. */
static void turn_cut(struct turn *t, uint64_t end)
{
    t->n_tokens = end - t->first;
    t->flags &= ~(uint32_t)KVS_TURN_CLOSED_EOT;
    t->finish = FIN_NONE;
    t->stopped = false;
    /* Half a question is a question that is still being asked. */
    if (t->role == KVS_ROLE_USER) {
        t->user_open = t->cut = true;
        t->opened = false;
    }
}

/* Room for one more, sorted by first; a turn that began at the same place is replaced. */
int sess_turn_add(struct sess *s, const struct turn *t)
{
    uint32_t i = s->n_turns;

    must(s->turns_known);
    while (i > 0 && s->turns[i - 1].first >= t->first)
        i--;
    if (i && s->turns[i - 1].n_tokens > t->first - s->turns[i - 1].first)
        turn_cut(&s->turns[i - 1], t->first);
    if (i < s->n_turns) {
        s->turns[i] = *t;
        s->n_turns = i + 1;
        return 0;
    }
    if (s->n_turns == s->turns_cap) {
        uint32_t cap = s->turns_cap ? s->turns_cap * 2 : 8;
        struct turn *p = realloc(s->turns, cap * sizeof *p);

        if (!p)
            return -ENOMEM;
        s->turns = p;
        s->turns_cap = cap;
        sess_warm(s);
    }
    s->turns[s->n_turns++] = *t;
    return 0;
}

/* t, which is without tokens at s's head: is there such a turn?  One that ended so, or of an answer
 * that somebody there is about to get: a fork as well, for it may end so.  An open one that is
 * nobody's is the beginning of an answer that s was taken back to. */
static bool empty_stays(struct daemon *d, const struct sess *s, const struct turn *t)
{
    return !(t->flags & KVS_TURN_OPEN) || sess_open_is(s, &t->request) ||
           (s->running && memcmp(&s->running->id, &t->request, sizeof t->request) == 0) ||
           (d->gen && req_find(d, s->rec.owner, &t->request));
}

void sess_turns_clamp(struct daemon *d, struct sess *s)
{
    struct turn *t;

    for (; s->n_turns; s->n_turns--) {
        t = &s->turns[s->n_turns - 1];
        if (t->first < s->head ||
            (t->first == s->head && t->n_tokens == 0 && s->head && empty_stays(d, s, t)))
            break;
    }
    if (!s->n_turns)
        return;
    t = &s->turns[s->n_turns - 1];
    if (t->n_tokens > s->head - t->first)
        turn_cut(t, s->head);
}

struct turn sess_turn_of(const struct kvs_turn *k)
{
    struct turn t = {.first = k->first,
                     .n_tokens = k->n_tokens,
                     .time_ns = k->time_ns,
                     .role = k->role,
                     .flags = k->flags,
                     .finish = k->finish,
                     .request = k->request};

    t.user_open = strstr(k->params, "\"user_open\":true") != NULL;
    t.opened = strstr(k->params, "\"opened\":true") != NULL;
    const char *seen = strstr(k->params, "\"seen\":[");
    t.stopped = seen && sscanf(seen + 8, "%u,%u", &t.seen, &t.seen_bytes) == 2;
    t.ingest = strstr(k->params, "\"ingest\":true") != NULL;
    t.ingest_cut = t.ingest && k->finish != FIN_LENGTH && k->finish != FIN_STOP;
    const char *read = t.ingest ? strstr(k->params, "\"read\":") : NULL;
    t.read = read ? strtoull(read + 7, NULL, 10) : 0;
    return t;
}

void sess_turn_ended(struct daemon *d, const struct kvs_turn *k)
{
    /* Who knows turns is among the warm. */
    for (struct sess *s = d->sess->warm_old; s; s = s->warm_newer) {
        for (uint32_t j = 0; s->turns_known && j < s->n_turns; j++) {
            struct turn *t = &s->turns[j], was = *t;

            if (t->first != k->first || memcmp(&t->request, &k->request, sizeof k->request))
                continue;
            *t = sess_turn_of(k);
            t->durable = was.durable;
            /* Cut where its next one begins, or by the head: as it is read again. */
            if (j + 1 == s->n_turns)
                sess_turns_clamp(d, s);
            else if (t->n_tokens > t[1].first - t->first)
                turn_cut(t, t[1].first);
            break;
        }
    }
}

void sess_turns_durable(struct daemon *d, const struct kvs_id *req)
{
    for (struct sess *s = d->sess->warm_old; s; s = s->warm_newer)
        for (uint32_t j = 0; j < s->n_turns; j++) {
            struct turn *t = &s->turns[j];

            if (!t->durable && !(t->flags & KVS_TURN_OPEN))
                t->durable = memcmp(&t->request, req, sizeof *req) == 0;
        }
}

/* A turn that a rewind cut keeps its length on the disk: the next one's beginning says where
 * it ends. */
static int turn_each(void *ctx, const struct kvs_turn *k)
{
    struct sess *s = ctx;
    struct turn t = sess_turn_of(k);

    t.durable = true;
    if (s->n_turns) {
        struct turn *last = &s->turns[s->n_turns - 1];

        if (last->first < k->first && last->n_tokens <= k->first - last->first &&
            (last->flags & KVS_TURN_OPEN))
            last->n_tokens = k->first - last->first; /* a crash left it without a length */
    }
    return sess_turn_add(s, &t);
}

int sess_turns(struct daemon *d, struct sess *s)
{
    int r = 0;

    if (s->turns_known)
        return 0;
    s->n_turns = 0;
    s->turns_known = true;
    if (s->branch && s->head)
        r = kvs_turns(d->store, &s->branch->rec.id, s->head, turn_each, s);
    if (r < 0) {
        s->turns_known = false;
        s->n_turns = 0;
        return r;
    }
    /* An answer that was cut short has no length on disk yet: it reaches to the end. */
    if (s->n_turns && (s->turns[s->n_turns - 1].flags & KVS_TURN_OPEN) &&
        s->turns[s->n_turns - 1].first <= s->head)
        s->turns[s->n_turns - 1].n_tokens = s->head - s->turns[s->n_turns - 1].first;
    sess_turns_clamp(d, s);
    sess_warm(s);
    return 0;
}

const struct turn *sess_last_turn(struct daemon *d, struct sess *s)
{
    return sess_turns(d, s) == 0 && s->n_turns ? &s->turns[s->n_turns - 1] : NULL;
}

/* --- what its KV leaves behind --------------------------------------------------------------- */

/* Blocks go by what is in them: a session with the same text uses the same ones, and nothing
 * but its tokens says so.  Most differ from s in their first block, and a hash of that is kept;
 * of the rest the first block that s may have alone is read, until nobody has it.  Where that is
 * a look at too many, s keeps what it has: blocks that nobody uses are evicted by their age. */
enum { KIN_LOOKS = 1024, KIN_READS = 256 };
struct kin {
    struct daemon *d;
    const struct sess *s;
    const struct model *m;
    const struct toks *t;
    uint64_t first;
    uint32_t n, end, from; /* whole blocks; with a rest; those before from are others', too */
    uint32_t reads;
    const struct sess_model *other; /* looked at last */
    bool other_kv;                  /* its blocks are never s's */
};

static uint64_t first_hash(const int32_t *ids)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */

    for (uint32_t i = 0; i < BLOCK_TOKENS; i++)
        h = (h ^ (uint32_t)ids[i]) * 1099511628211u;
    return h ? h : 1;
}

/* Tokens [at, at + n) of x's path, in buf or where they are; NULL: they cannot be read now. */
static const int32_t *kin_tokens(struct kin *k, const struct sess *x, uint64_t at, uint64_t n,
                                 int32_t *buf)
{
    if (x->toks && x->toks->n >= at + n)
        return x->toks->p + at;
    if (++k->reads > KIN_READS ||
        kvs_tokens(k->d->store, &x->branch->rec.id, at, at + n, buf) < 0)
        return NULL;
    return buf;
}

/* In doubt it has. */
static bool kin_has(struct kin *k, const struct sess *x, uint32_t block)
{
    uint64_t at = (uint64_t)block * BLOCK_TOKENS;
    uint64_t n = block < k->n ? BLOCK_TOKENS : k->s->head - 1 - at;
    const struct toks *run = x->running ? x->running->toks : NULL;
    int32_t buf[BLOCK_TOKENS];
    const int32_t *p;

    if (run && run->n >= at + n)
        return memcmp(run->p + at, k->t->p + at, n * sizeof *buf) == 0;
    if (x->head < at + n)
        return false;
    p = kin_tokens(k, x, at, n, buf);
    return !p || memcmp(p, k->t->p + at, n * sizeof *buf) == 0;
}

static bool kin_begins(struct kin *k, const struct sess *x)
{
    int32_t buf[BLOCK_TOKENS];
    const int32_t *p;

    if (!k->n || x->running || x->head < BLOCK_TOKENS)
        return true;
    if (!x->branch->first) {
        p = kin_tokens(k, x, 0, BLOCK_TOKENS, buf);
        if (!p)
            return true;
        x->branch->first = first_hash(p);
    }
    return x->branch->first == k->first;
}

static bool kin_of(struct kin *k, const struct sess *x)
{
    const struct model *m;

    if (x == k->s)
        return false;
    if (x->model != k->other) {
        m = x->model == k->s->model ? NULL : model_find(k->d, x->rec.model, NULL);
        k->other = x->model;
        k->other_kv = m && m != k->m && m->keyed && k->m->keyed &&
                      memcmp(m->fingerprint, k->m->fingerprint, sizeof m->fingerprint) != 0;
    }
    return !k->other_kv;
}

/* Moves from past what his other sessions have. */
static void kin_look(struct kin *k)
{
    const struct sess_user *u = k->s->user;
    uint64_t all = 0;

    for (int l = 0; l < SESS_LISTS_; l++)
        all += u->list[l].n;
    if (all > KIN_LOOKS)
        k->from = k->end;
    for (int l = 0; l < SESS_LISTS_; l++)
        for (const struct sess *x = u->list[l].newest; x && k->from < k->end; x = x->older)
            if (kin_of(k, x) && kin_begins(k, x))
                while (k->from < k->end && kin_has(k, x, k->from))
                    k->from++;
}

void sess_blocks_forget(struct daemon *d, struct sess *s)
{
    const struct branch *b = s->branch;
    struct model *m = b ? model_find(d, s->rec.model, NULL) : NULL;
    uint32_t n = (uint32_t)(s->head / BLOCK_TOKENS);
    struct kin k = {.d = d, .s = s, .m = m, .n = n};
    struct toks *t;

    if (!m || b->sessions != 1 || !b->shared_known || s->changed)
        return;
    /* The block in which it leaves the other is of both, and so its own. */
    k.from = (uint32_t)(b->rec.parent_pos / BLOCK_TOKENS);
    if (k.from < b->shared / BLOCK_TOKENS)
        k.from = (uint32_t)(b->shared / BLOCK_TOKENS);
    k.end = n + (s->head % BLOCK_TOKENS > 1);
    if (k.from >= k.end || sess_tokens_peek(d, s, &t) < 0)
        return;
    k.t = t;
    k.first = n ? first_hash(t->p) : 0;
    kin_look(&k);
    if (k.from < k.end)
        kvflow_forget(d, m, s->rec.owner, t->p, k.from, n, s->head - 1);
    toks_drop(t);
}
