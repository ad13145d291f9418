/* sess.c - see sess.h: loading sessions, making, changing and forgetting them. */
#include "daemon/sess.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/gen.h"
#include "daemon/probs.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LOST_LOGGED_MAX = 100 };

bool sess_open_is(const struct sess *s, const struct kvs_id *req)
{
    return s->has_open && memcmp(&s->open_req, req, sizeof *req) == 0;
}

void sess_open_set(struct sess *s, const struct kvs_id *req)
{
    s->has_open = true;
    s->open_req = *req;
    if (s->branch && !s->branch->owned)
        branch_own(s->branch, req);
}

void sess_open_clear(struct sess *s)
{
    if (s->has_open)
        branch_disown(s->branch, &s->open_req);
    s->has_open = false;
}

static void branch_left(struct daemon *d, struct sess *s)
{
    if (s->branch)
        s->branch->sessions--;
    branch_drop(d, s->branch);
    s->branch = NULL;
}

static void sess_free(struct daemon *d, struct sess *s)
{
    sess_open_clear(s);
    toks_drop(s->toks);
    s->toks = NULL;
    branch_left(d, s);
    free(s->turns);
    s->turns = NULL;
    sess_del(s);
}

/* --- loading ------------------------------------------------------------------------------- */
static int load_each(void *ctx, const struct kvs_session *x)
{
    struct daemon *d = ctx;
    struct sess *s;
    int r;

    if (x->flags & KVS_SESS_REMOVED)
        return 0;
    r = sess_add(d->sess, &x->id, x->owner, x->model, &s);
    if (r == 0)
        r = sess_name_set(s, x->name);
    if (r == 0)
        r = sess_settings_set(s, x->settings);
    if (r < 0)
        return r;
    s->rec.flags = x->flags;
    memcpy(s->rec.tokenizer_id, x->tokenizer_id, sizeof x->tokenizer_id);
    s->rec.branch = x->branch;
    s->rec.head = x->head;
    s->rec.created_ns = x->created_ns;
    s->rec.used_ns = x->used_ns;
    return 0;
}

struct used {
    uint64_t at; /* kvs_lived_ns: dates lie where the clock was set */
    struct sess *s;
};

static int by_use(const void *a, const void *b)
{
    const struct used *x = a, *y = b;

    return x->at < y->at ? -1 : x->at > y->at;
}

static int load_lists(struct daemon *d)
{
    struct sess_table *t = d->sess;
    struct used *v = malloc(t->n * sizeof *v + 1);

    if (!v)
        return -ENOMEM;
    for (uint32_t i = 0; i < t->n; i++)
        v[i] = (struct used){kvs_lived_ns(d->store, t->s[i]->rec.used_ns), t->s[i]};
    qsort(v, t->n, sizeof *v, by_use);
    for (uint32_t i = 0; i < t->n; i++) {
        t->s[i] = v[i].s;
        t->s[i]->at = i;
        sess_listed(t->s[i]);
    }
    free(v);
    return 0;
}

/* Each crash may leave REQ_MAX of them, and nobody has to go on with any before the next. */
struct open_reqs {
    struct daemon *d;
    struct open_req {
        uint32_t owner;
        struct kvs_id id, session, branch;
        uint64_t pos, end; /* of its own tokens */
    } * v;
    uint32_t n, cap;
};

/* Where the tokens of a request end.  When it cannot be read back, at its beginning. */
static uint64_t req_tokens(struct daemon *d, const struct kvs_req *r)
{
    cJSON *o = cJSON_ParseWithLength(r->reply ? r->reply : "{}", r->reply ? r->reply_bytes : 2);
    uint64_t n = 0;
    int res = probs_count(d, r->owner, &r->id, o, &n);

    if (res < 0)
        log_at(LOG_WARN_, "an open answer cannot be read back: %s", err_str(res));
    cJSON_Delete(o);
    return r->pos + n;
}

static int load_req(void *ctx, const struct kvs_req *r)
{
    struct open_reqs *o = ctx;

    if (r->state != KVS_REQ_RUNNING || r->type != HRT_START)
        return 0;
    if (o->n == o->cap) {
        uint32_t cap = o->cap ? 2 * o->cap : 64;
        struct open_req *v = realloc(o->v, cap * sizeof *v);

        if (!v)
            return -ENOMEM;
        o->v = v;
        o->cap = cap;
    }
    o->v[o->n++] = (struct open_req){.owner = r->owner,
                                     .id = r->id,
                                     .session = r->session,
                                     .branch = r->branch,
                                     .pos = r->pos,
                                     .end = req_tokens(o->d, r)};
    return 0;
}

/* In the log by name; in status, which all users read, by number. */
static void lost_said(struct daemon *d)
{
    char words[512];
    uint32_t n = 0;
    bool none;

    for (uint32_t i = 0; i < d->sess->n; i++)
        if (sess_lost(d->sess->s[i], words, sizeof words, &none) && n++ < LOST_LOGGED_MAX)
            log_at(LOG_WARN_, "%s", words);
    if (n)
        daemon_warn(d,
                    "damage on disk took turns of %u session%s, or may have: `hearth sessions` "
                    "marks them, their next answer says so",
                    n, n > 1 ? "s" : "");
}

/* Puts a loaded session where its record says, or as near as the log allows. */
static void load_place(struct daemon *d, struct sess *s)
{
    static const struct kvs_id none;

    if (memcmp(&s->rec.branch, &none, sizeof none) != 0 &&
        branch_get(d, &s->rec.branch, &s->branch) == 0)
        s->branch->sessions++;
    sess_lost_load(d, s);
    if (s->branch)
        sess_weigh(s);
}

int sess_open(struct daemon *d, struct errbuf *eb)
{
    struct sess_table *t = NULL;
    struct open_reqs o = {.d = d};
    int r = sess_table_new(&t);

    d->sess = t;
    if (r == 0)
        t->idents = d->idents;
    if (r == 0)
        r = kvs_sessions(d->store, load_each, d);
    if (r == 0)
        r = load_lists(d);
    if (r == 0)
        r = kvs_reqs(d->store, load_req, &o);
    for (uint32_t i = 0; r == 0 && i < t->n; i++)
        load_place(d, t->s[i]);
    if (r == 0)
        branches_loaded(d);
    /* An open turn's tokens are the session's: it stands at the end of them. */
    for (uint32_t i = 0; r == 0 && i < o.n; i++) {
        const struct open_req *q = &o.v[i];
        struct sess *s = sess_by_id(d, q->owner, &q->session);

        if (!s || !s->branch || memcmp(&s->branch->rec.id, &q->branch, 16) != 0)
            continue;
        /* A session stands where its open answer begins.  One that stands elsewhere went on, or
         * was taken back, after an answer that has ended: damage took the record that says so,
         * and the session's own is the newer. */
        if (s->rec.head < q->pos || s->rec.head > q->end)
            continue;
        s->head = q->end < s->branch->end ? q->end : s->branch->end;
        sess_weigh(s);
        sess_open_set(s, &q->id);
    }
    free(o.v);
    if (r == 0)
        lost_said(d);
    if (r < 0) {
        sess_close(d);
        return err_set(eb, r, "sessions: %s", err_str(r));
    }
    return 0;
}

void sess_close(struct daemon *d)
{
    struct sess_table *t = d->sess;

    if (!t)
        return;
    while (t->n)
        sess_free(d, t->s[t->n - 1]);
    for (uint32_t i = 0; i < t->n_branch_buckets; i++)
        while (t->branch[i]) {
            struct branch *b = t->branch[i];

            t->branch[i] = b->next;
            free(b);
        }
    sess_table_free(t);
    d->sess = NULL;
}

/* --- finding -------------------------------------------------------------------------------- */
static bool id_parse(const char *s, struct kvs_id *ret)
{
    struct kvs_id id;

    if (strlen(s) != 32)
        return false;
    for (int i = 0; i < 32; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *p = strchr(digits, s[i]);

        if (!p)
            return false;
        id.b[i / 2] = (uint8_t)(i % 2 ? id.b[i / 2] | (p - digits) : (p - digits) << 4);
    }
    *ret = id;
    return true;
}

struct sess *sess_find(struct daemon *d, uint32_t uid, const char *name_or_id)
{
    struct kvs_id id;
    struct sess *s = name_or_id[0] ? sess_by_name(d, uid, name_or_id) : NULL;

    return s || !id_parse(name_or_id, &id) ? s : sess_by_id(d, uid, &id);
}

int sess_name_check(const char *name, struct errbuf *eb)
{
    size_t n = strlen(name);
    struct kvs_id id;

    if (n == 0 || n > NAME_BYTES_MAX)
        return err_set(eb, -EINVAL, "name: want 1 to %d bytes, got %zu", NAME_BYTES_MAX, n);
    for (size_t i = 0, len; i < n; i += len) {
        len = text_char(name + i, n - i);
        if (!text_plain(name + i, len))
            return err_set(eb, -EINVAL,
                           "name: at byte %zu there is a character that is not seen (U+%04X)",
                           i, text_code(name + i, len));
    }
    if (id_parse(name, &id))
        return err_set(eb, -EINVAL, "name: 32 hex digits are read as an id; choose another");
    return 0;
}

/* --- changing -------------------------------------------------------------------------------- */
int sess_make(struct daemon *d, uint32_t uid, const char *name, const char *model,
              struct sess **ret)
{
    struct kvs_id id;
    struct sess *s;
    int r;

    if (name && sess_find(d, uid, name))
        return -EEXIST;
    kvs_id_new(&id);
    r = sess_add(d->sess, &id, uid, model, &s);
    if (r == 0 && name && (r = sess_name_set(s, name)) < 0)
        sess_del(s);
    if (r < 0)
        return r;
    s->rec.flags = name ? 0 : KVS_SESS_ANONYMOUS;
    s->rec.created_ns = wall_ns();
    s->turns_known = true;
    sess_used(s, s->rec.created_ns);
    *ret = s;
    return 0;
}

int sess_fork(struct daemon *d, struct sess *s, uint64_t at, const char *name,
              struct sess **ret)
{
    struct sess *f;
    int r;

    must_be(s, SESS_MAGIC);
    must(at <= s->head);
    r = sess_tokens_hold(s);
    if (r < 0)
        return r;
    r = sess_make(d, s->rec.owner, name, s->rec.model, &f);
    if (r < 0)
        return r;
    r = sess_settings_set(f, s->rec.settings);
    if (r < 0) {
        sess_forget(d, f);
        return r;
    }
    memcpy(f->rec.tokenizer_id, s->rec.tokenizer_id, sizeof f->rec.tokenizer_id);
    /* The template's date is the conversation's, not the name's. */
    if (!strstr(f->rec.settings, "\"date\"")) {
        char date[11];

        sess_date(s, date);
        sess_setting_set(f, "date", date);
    }
    sess_setting_set(f, "keep", NULL);
    sess_setting_set(f, "lost", NULL);
    if (at >= s->lost_from && (s->rec.flags & KVS_SESS_LOST))
        sess_lost_set(f, s->lost_from, s->lost_to); /* it is missing here as well */
    if (at > 0)
        sess_place(d, f, branch_take(s->branch), at);
    if (s->toks) {
        f->toks = toks_take(s->toks);
        toks_cut(&f->toks, at);
    }
    f->changed = s->changed;
    f->why = s->why;
    f->turns_known = false;
    if (s->turns_known && s->n_turns) {
        f->turns = malloc(s->n_turns * sizeof *f->turns);
        if (f->turns) {
            memcpy(f->turns, s->turns, s->n_turns * sizeof *f->turns);
            f->n_turns = f->turns_cap = s->n_turns;
        }
    }
    f->turns_known = s->turns_known && f->n_turns == s->n_turns;
    if ((s->changed || s->out) && s->n_turns && !f->turns) { /* they cannot be read again */
        sess_forget(d, f);
        return -ENOMEM;
    }
    if (f->turns_known)
        sess_turns_clamp(d, f);
    sess_warm(f);
    *ret = f;
    return 0;
}

void sess_forget(struct daemon *d, struct sess *s)
{
    must_be(s, SESS_MAGIC);
    must(!s->running);
    gen_session_gone(d, s);
    sess_free(d, s);
}

int sess_rename(struct daemon *d, struct sess *s, const char *name)
{
    const struct sess *o = sess_find(d, s->rec.owner, name);

    if (o && o != s)
        return -EEXIST;
    int r = sess_name_set(s, name);
    if (r < 0)
        return r;
    s->rec.flags &= ~(uint32_t)KVS_SESS_ANONYMOUS;
    sess_listed(s);
    return 0;
}

void sess_move(struct daemon *d, struct sess *s, uint64_t head)
{
    must_be(s, SESS_MAGIC);
    must(head <= s->head);
    if (head == 0) {
        branch_left(d, s);
        memset(&s->rec.branch, 0, sizeof s->rec.branch);
    }
    s->head = s->rec.head = head;
    sess_lost_clear(s); /* whoever rewinds has looked */
    sess_weigh(s);
    toks_cut(&s->toks, head);
    sess_turns_clamp(d, s);
}

void sess_place(struct daemon *d, struct sess *s, struct branch *b, uint64_t head)
{
    must(head <= b->end);
    b->sessions++; /* it may be the one it stands in */
    branch_left(d, s);
    s->branch = b;
    s->head = s->rec.head = head;
    s->rec.branch = b->rec.id;
    sess_weigh(s);
}

bool sess_at_end(const struct sess *s)
{
    const struct branch *b = s->branch;
    const struct turn *last = s->turns_known && s->n_turns ? &s->turns[s->n_turns - 1] : NULL;

    /* A turn without tokens, an answer cancelled before it began, is on record at the end: a turn
     * that begins there in the same branch would take its place, also for the others who stand
     * there. */
    if (last && last->first == s->head && last->n_tokens == 0 && s->head)
        return false;
    return b && b->end == s->head && (!b->owned || sess_open_is(s, &b->owner));
}
