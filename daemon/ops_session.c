/* ops_session.c - SESSION_OPEN, SHOW, FORK, REWIND, RENAME, PIN, REMOVE (LIST: ops_list.c).
 *
 * A change is made in memory, submitted as one batch together with the request's id and its
 * reply, and answered when that is durable; if it cannot be, it is taken back.  The same id
 * again gets the same answer: from the batch under way, or from the store. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/outbox.h"
#include "daemon/quota.h"
#include "daemon/req.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { JOINED_MAX = 8, SYSTEM_BYTES_MAX = 1500 };

/* One change on its way to the disk. */
struct change {
    struct out o; /* first */
    struct kvs_rec rec[3];
    uint32_t n_rec;
    struct kvs_session rec_s;
    struct kvs_req req, open;
    char *reply, *open_text;
    struct daemon *d;
    uint32_t uid;
    struct kvs_id id;
    struct call *call[JOINED_MAX]; /* who asked, resends included */
    uint32_t n_call;
    /* To take it back. */
    bool made;
    struct kvs_id sess;
    struct kvs_session old;
    struct branch *old_branch;
    uint64_t old_head;
    bool old_open;
    struct kvs_id old_open_req;
    struct toks *old_toks; /* of a rewind: what it cuts off */
    struct turn *old_turns;
    uint32_t n_old_turns;
    uint64_t no; /* in the order they were made */
    struct change *next;
};
/* Changes under way; the loop thread's own. */
static struct change *changes;
static uint64_t last_no;

void ops_session_hold(struct daemon *d)
{
    for (struct change *w = changes; w; w = w->next)
        if (w->old_branch)
            kvs_hold(d->store, &w->old_branch->rec.id);
}

static void change_free(struct change *w)
{
    branch_drop(w->d, w->old_branch);
    toks_drop(w->old_toks);
    free(w->old_turns);
    free(w->reply);
    free(w->open_text);
    free(w);
}

static void call_left(struct call *c)
{
    struct change *w = c->user;

    for (uint32_t i = 0; i < w->n_call; i++)
        if (w->call[i] == c) {
            w->call[i] = w->call[--w->n_call];
            break;
        }
    call_ok(c, NULL, NULL, 0);
}

static bool join(struct change *w, struct call *c)
{
    if (w->n_call == JOINED_MAX)
        return false;
    w->call[w->n_call++] = c;
    c->user = w;
    c->on_gone = call_left;
    return true;
}

/* --- beginning ---------------------------------------------------------------------------------- */
/* Reads the id; true: go on.  false: the call has been answered, or waits for the same
 * change that is under way. */
static bool begin(struct call *c, struct kvs_id *id)
{
    struct kvs_req q;
    char *reply = NULL;
    bool other;
    int r = want_hex(c, c->json, "id", id->b, sizeof id->b);

    if (r < 0)
        return false;
    if (r == 0) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "id: want 32 hex digits, made by the client for this change");
        return false;
    }
    if (c->d->stopping) {
        call_fail(c, HRT_UNAVAILABLE, "shutting_down", NULL, "the daemon is stopping");
        return false;
    }
    for (struct change *w = changes; w; w = w->next)
        if (w->uid == c->uid && memcmp(&w->id, id, sizeof *id) == 0) {
            if (!join(w, c))
                call_fail(c, HRT_RESOURCE_EXHAUSTED, "queue_full", NULL,
                          "this change is under way and asked for too often");
            return false;
        }
    /* A stream's record is written when it is admitted, and a load has none. */
    other = req_find(c->d, c->uid, id) != NULL;
    r = other ? 0 : kvs_req_get(c->d->store, c->uid, id, &q, &reply);
    if (r == -ENOENT)
        return true;
    if (noroom_later(r))
        noroom_fail(c, NULL, r);
    else if (r < 0)
        call_fail(c, HRT_INTERNAL, "internal", NULL, "the id cannot be looked up: %s",
                  err_str(r));
    else if (other || q.type != c->type)
        call_fail(c, HRT_ALREADY_EXISTS, "id_reused", NULL,
                  "id: it was used by another operation; make a new one for each");
    else
        call_ok(c, cJSON_ParseWithLength(reply ? reply : "{}", reply ? q.reply_bytes : 2), NULL,
                0);
    free(reply);
    return false;
}

struct sess *op_session(struct call *c)
{
    const char *name = NULL;
    struct sess *s;
    int r = want_str(c, c->json, "session", NAME_BYTES_MAX, &name);

    if (r < 0)
        return NULL;
    if (r == 0 || !name[0]) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "session: want a name or an id");
        return NULL;
    }
    s = sess_find(c->d, c->uid, name);
    if (!s || s->unborn || s->removing) {
        call_fail(c, HRT_NOT_FOUND, "session_not_found", NULL, "no session \"%s\"", name);
        return NULL;
    }
    return s;
}

static bool idle(struct call *c, const struct sess *s)
{
    char hex[33], own[33];

    if (!s->running)
        return true;
    hex_put(hex, s->running->id.b, sizeof s->running->id.b);
    call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", NULL,
              "session \"%s\" has a running request; wait for it, or stop it with "
              "`hearth cancel %s`",
              sess_label(s, own), hex);
    return false;
}

/* --- ends ------------------------------------------------------------------------------------------ */
static bool is_rm(const struct change *w)
{
    return w->rec[w->n_rec - 2].kind == KVS_REC_SESSION_RM;
}

/* The change of the same thing that was made next, if that is under way as well. */
static struct change *next_change(const struct change *w)
{
    struct change *next = NULL;

    for (struct change *v = changes; v; v = v->next)
        if (v->uid == w->uid && v->req.type == w->req.type && v->no > w->no &&
            (!next || v->no < next->no) && memcmp(&v->sess, &w->sess, sizeof v->sess) == 0)
            next = v;
    return next;
}

/* v was made on top of w, which is not to be: what was before w is what was before v. */
static void hand_down(struct change *w, struct change *v)
{
    const uint32_t flags = KVS_SESS_PINNED | KVS_SESS_ANONYMOUS;
    struct change had = *v;

    memcpy(v->old.name, w->old.name, sizeof v->old.name);
    v->old.flags = (v->old.flags & ~flags) | (w->old.flags & flags);
    if (w->req.type != HRT_SESSION_REWIND)
        return;
    v->old.flags |= w->old.flags & KVS_SESS_LOST;
    v->old.used_ns = w->old.used_ns;
    v->old.head = w->old.head;
    v->old_branch = w->old_branch;
    v->old_head = w->old_head;
    v->old_open = w->old_open;
    v->old_open_req = w->old_open_req;
    v->old_toks = w->old_toks;
    v->old_turns = w->old_turns;
    v->n_old_turns = w->n_old_turns;
    w->old_branch = had.old_branch;
    w->old_toks = had.old_toks;
    w->old_turns = had.old_turns;
}

static void take_back_rewind(struct change *w, struct sess *s)
{
    s->rec.used_ns = w->old.used_ns;
    if (w->old.flags & KVS_SESS_LOST)
        sess_lost_set(s, s->lost_from, s->lost_to);
    if (!w->old_branch)
        return;
    sess_place(w->d, s, branch_take(w->old_branch), w->old_head);
    s->rec.head = w->old.head;
    if (w->old_toks) {
        toks_drop(s->toks);
        s->toks = toks_take(w->old_toks);
    }
    /* What is ahead of the disk cannot be read again. */
    free(s->turns);
    s->turns = w->old_turns;
    s->n_turns = s->turns_cap = w->n_old_turns;
    s->turns_known = w->old_turns != NULL || s->changed || s->out;
    w->old_turns = NULL;
    sess_warm(s);
    if (w->old_open)
        sess_open_set(s, &w->old_open_req);
}

/* Only what this change changed: others may have gone through since. */
static void take_back(struct change *w)
{
    const uint32_t pin = KVS_SESS_PINNED, anonymous = KVS_SESS_ANONYMOUS;

    struct sess *s = sess_by_id(w->d, w->uid, &w->sess);
    struct change *later;

    if (!s)
        return;
    if (is_rm(w)) {
        s->removing = false;
        return;
    }
    if (w->made) {
        if (!s->running) /* else it is that request's by now */
            sess_forget(w->d, s);
        return;
    }
    later = next_change(w);
    if (later) {
        hand_down(w, later);
        return;
    }
    if (w->req.type == HRT_SESSION_RENAME) {
        if (sess_name_set(s, w->old.name) < 0)
            log_at(LOG_WARN_, "no memory: session \"%s\" has its old name at the next start",
                   s->rec.name);
        s->rec.flags = (s->rec.flags & ~anonymous) | (w->old.flags & anonymous);
        sess_listed(s);
        outbox_renew(w->d, s);
    } else if (w->req.type == HRT_SESSION_PIN) {
        s->rec.flags = (s->rec.flags & ~pin) | (w->old.flags & pin);
        outbox_renew(w->d, s);
    } else {
        take_back_rewind(w, s);
    }
}

/* Gone from the disk, now from memory. */
static void removed(struct change *w)
{
    struct sess *s = sess_by_id(w->d, w->uid, &w->sess);

    if (!s)
        return;
    sess_blocks_forget(w->d, s);
    sess_forget(w->d, s);
    outbox_gone(w->d, w->uid, &w->sess);
}

static void refuse(struct call *c, const struct change *w, int res, bool before)
{
    char why[NOROOM_WORDS];

    if (res == -ESTALE) {
        call_fail(c, HRT_NOT_FOUND, "session_not_found", NULL,
                  "the session was removed before this change of it was written");
        return;
    }
    (void)noroom_words(w->d, c->uid, res, why);
    if (noroom_is(res))
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "disk_full", NULL, "%s%s; nothing was changed",
                  before ? "turns before this wait in memory for room to be written: " : "",
                  why);
    else
        call_fail(c, HRT_FAILED_PRECONDITION, "store_read_only", NULL,
                  "nothing was changed, the store cannot write: %s", why);
}

/* Or not: what came to start on the session meanwhile sees which. */
static void rewound(const struct change *w)
{
    struct sess *s = sess_by_id(w->d, w->uid, &w->sess);

    if (!s || --s->rewinds || !w->d->gen)
        return;
    w->d->gen->freed = true;
    gen_kick(w->d);
}

static void change_done(struct out *o)
{
    struct change *w = (struct change *)o;
    bool before = outbox_waits(w->d, w->uid);
    int res = o->b.res;

    for (struct change **at = &changes; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    if (res < 0)
        take_back(w);
    else if (is_rm(w))
        removed(w);
    if (w->req.type == HRT_SESSION_REWIND)
        rewound(w);
    for (uint32_t i = 0; i < w->n_call; i++) {
        struct call *c = w->call[i];

        c->on_gone = NULL;
        if (res == 0)
            call_ok(c, cJSON_Parse(w->reply), NULL, 0);
        else
            refuse(c, w, res, before);
    }
    change_free(w);
}

/* What s is before the change, should it be taken back. */
static struct change *change_new(struct call *c, const struct kvs_id *id, struct sess *s)
{
    struct change *w = calloc(1, sizeof *w);

    if (!w) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return NULL;
    }
    w->d = c->d;
    w->uid = c->uid;
    w->id = *id;
    w->req.type = c->type;
    if (s) {
        w->sess = s->rec.id;
        sess_record(s, &w->old);
        w->old_head = s->head;
        w->old_branch = s->branch ? branch_take(s->branch) : NULL;
    }
    return w;
}

/* Without memory for it the turns are read again, should they be wanted. */
static void keep_old(struct change *w, const struct sess *s)
{
    w->old_toks = s->toks ? toks_take(s->toks) : NULL;
    w->old_turns =
        s->turns_known && s->n_turns ? malloc(s->n_turns * sizeof *w->old_turns) : NULL;
    if (!w->old_turns)
        return;
    memcpy(w->old_turns, s->turns, s->n_turns * sizeof *w->old_turns);
    w->n_old_turns = s->n_turns;
}

/* Submits the session's record (kind: put or removal) with the reply; takes reply. */
static void change_submit(struct change *w, struct call *c, struct sess *s, uint32_t kind,
                          cJSON *reply)
{
    w->reply = cJSON_PrintUnformatted(reply);
    cJSON_Delete(reply);
    w->sess = s->rec.id;
    sess_record(s, &w->rec_s);
    w->req.owner = w->uid;
    w->req.id = w->id;
    w->req.session = s->rec.id;
    w->req.branch = s->rec.branch;
    w->req.pos = s->rec.head;
    w->req.state = KVS_REQ_ENDED;
    w->req.time_ns = wall_ns();
    w->req.reply = w->reply;
    w->req.reply_bytes = w->reply ? (uint32_t)strlen(w->reply) : 0;
    w->rec[w->n_rec].kind = kind;
    w->rec[w->n_rec++].session = &w->rec_s;
    w->rec[w->n_rec].kind = KVS_REC_REQ;
    w->rec[w->n_rec++].req = &w->req;
    w->o.rec = w->rec;
    w->o.b.n_rec = w->n_rec;
    w->o.kind = kind == KVS_REC_SESSION_RM ? OUT_FIRST : OUT_ONCE;
    w->o.owner = w->uid;
    w->o.session = s->rec.id;
    w->o.done = change_done;
    w->no = ++last_no;
    s->rewinds += w->req.type == HRT_SESSION_REWIND;
    w->next = changes;
    changes = w;
    (void)join(w, c);
    if (w->reply) {
        outbox_put(c->d, &w->o);
        return;
    }
    w->o.b.res = -ENOMEM;
    change_done(&w->o);
}

/* May he have one more session? */
static bool quota_left(struct call *c)
{
    char words[QUOTA_WORDS];

    if (quota_turns(c->d, c->uid, words, sizeof words))
        return true;
    call_fail(c, HRT_RESOURCE_EXHAUSTED, "disk_full", NULL, "%s: nothing was changed", words);
    return false;
}

static void no_room(struct call *c)
{
    call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
}

/* A name for a session that is to have it; NULL and answered: not this one. */
static const char *new_name(struct call *c, bool *ret_none)
{
    const char *name = NULL;
    struct errbuf eb = {{0}};
    int r = want_str(c, c->json, "name", NAME_BYTES_MAX, &name);

    *ret_none = false;
    if (r < 0)
        return NULL;
    if (r == 0) {
        *ret_none = true;
        return NULL;
    }
    if (sess_name_check(name, &eb) < 0) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "%s", eb.s);
        return NULL;
    }
    if (sess_find(c->d, c->uid, name)) {
        call_fail(c, HRT_ALREADY_EXISTS, "session_exists", NULL,
                  "there is a session \"%s\" already", name);
        return NULL;
    }
    return name;
}

/* --- operations ----------------------------------------------------------------------------------- */
static void open_new(struct call *c, const struct kvs_id *id, const char *name,
                     const char *model, const char *system)
{
    struct errbuf eb = {{0}};
    struct model *m = model_find(c->d, model, &eb);
    struct change *w;
    struct sess *s;
    int r;

    if (!m) {
        call_fail(c, HRT_NOT_FOUND, "model_not_found", NULL, "%s",
                  eb.s[0] ? eb.s : "no such model");
        return;
    }
    if (sess_name_check(name, &eb) < 0) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "%s", eb.s);
        return;
    }
    if (!quota_left(c) || !(w = change_new(c, id, NULL)))
        return;
    r = sess_make(c->d, c->uid, name, m->name, &s);
    if (r < 0) {
        change_free(w);
        no_room(c);
        return;
    }
    w->made = true;
    if (system &&
        (strlen(system) > SYSTEM_BYTES_MAX || sess_setting_set(s, "system", system) < 0)) {
        sess_forget(c->d, s);
        change_free(w);
        call_fail(
            c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
            "system: %zu bytes, at most %d can wait for the first turn; send it with that",
            strlen(system), SYSTEM_BYTES_MAX);
        return;
    }
    change_submit(w, c, s, KVS_REC_SESSION, sess_json(c->d, s));
}

void op_session_open(struct call *c)
{
    const char *name = NULL, *session = NULL, *model = NULL, *system = NULL;
    bool create = true;
    struct kvs_id id;
    struct sess *s;

    if (!begin(c, &id) || want_str(c, c->json, "name", NAME_BYTES_MAX, &name) < 0 ||
        want_str(c, c->json, "session", NAME_BYTES_MAX, &session) < 0 ||
        want_str(c, c->json, "model", NAME_BYTES_MAX * 16, &model) < 0 ||
        want_str(c, c->json, "system", JSON_BYTES_MAX, &system) < 0 ||
        want_bool(c, c->json, "create", &create) < 0)
        return;
    if (!name)
        name = session;
    if (!name || !name[0]) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "name: want a session's name");
        return;
    }
    s = sess_find(c->d, c->uid, name);
    if (!s && !create) {
        call_fail(c, HRT_NOT_FOUND, "session_not_found", NULL, "no session \"%s\"", name);
    } else if (!s) {
        open_new(c, &id, name, model, system);
    } else if (s->unborn) {
        /* Whether it comes to be hangs on a request that may yet be refused. */
        call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", NULL,
                  "session \"%s\" is just being made by another request; try again", name);
    } else if (model && model[0] &&
               model_find(c->d, model, NULL) != model_find(c->d, s->rec.model, NULL)) {
        call_fail(
            c, HRT_FAILED_PRECONDITION, "bad_field", NULL,
            "model: session \"%s\" belongs to model %s; take another name; if this is that "
            "model's file under a new name, `--model %s=FILE` gives it the old one",
            name, s->rec.model, s->rec.model);
    } else {
        call_ok(c, sess_json(c->d, s), NULL, 0);
    }
}

/* Where turn n ends; -1: there is none such, and the call has been failed. */
static int64_t turn_end_at(struct call *c, struct sess *s, uint64_t n, const char *field)
{
    const struct turn *t;
    cJSON *extra;
    int r = sess_turns(c->d, s);

    if (r < 0) {
        noroom_fail(c, s, r);
        return -1;
    }
    t = n && n <= s->n_turns ? &s->turns[n - 1] : NULL;
    if (n == 0)
        return 0;
    if (t && t->first <= s->head && t->n_tokens <= s->head - t->first)
        return (int64_t)(t->first + t->n_tokens);
    extra = cJSON_CreateObject();
    cJSON_AddNumberToObject(extra, "turns", s->n_turns);
    cJSON_AddNumberToObject(extra, "want", (double)n);
    call_fail(c, HRT_OUT_OF_RANGE, "bad_field", extra, "%s: want 0 to %u, got %llu", field,
              s->n_turns, (unsigned long long)n);
    return -1;
}

/* A place in s's past, named by turn or by tokens; absent: its head.  -1: failed. */
static int64_t place(struct call *c, struct sess *s, const char *by_turn, const char *by_tokens,
                     bool needed)
{
    uint64_t turn = 0, tokens = 0;
    int a = want_u64(c, c->json, by_turn, 0, UINT32_MAX, &turn);
    int b = a < 0 ? a : want_u64(c, c->json, by_tokens, 0, CTX_TOKENS_MAX, &tokens);
    cJSON *extra;

    if (b < 0)
        return -1;
    if ((a > 0 && b > 0) || (needed && a == 0 && b == 0)) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "want one of %s and %s", by_turn,
                  by_tokens);
        return -1;
    }
    if (a > 0)
        return turn_end_at(c, s, turn, by_turn);
    if (b == 0)
        return (int64_t)s->head;
    if (tokens <= s->head)
        return (int64_t)tokens;
    extra = cJSON_CreateObject();
    cJSON_AddNumberToObject(extra, "tokens", (double)s->head);
    cJSON_AddNumberToObject(extra, "want", (double)tokens);
    call_fail(c, HRT_OUT_OF_RANGE, "bad_field", extra, "%s: want 0 to %llu, got %llu",
              by_tokens, (unsigned long long)s->head, (unsigned long long)tokens);
    return -1;
}

void op_session_fork(struct call *c)
{
    struct kvs_id id;
    struct change *w;
    struct sess *s, *f;
    const char *name;
    bool none;
    int64_t at;
    int r;

    if (!begin(c, &id) || !(s = op_session(c)))
        return;
    at = place(c, s, "turn", "at", false);
    if (at < 0)
        return;
    name = new_name(c, &none);
    if ((!name && !none) || !quota_left(c))
        return;
    (void)sess_turns(c->d, s);
    w = change_new(c, &id, NULL);
    if (!w)
        return;
    r = sess_fork(c->d, s, (uint64_t)at, name, &f);
    if (r < 0) {
        change_free(w);
        no_room(c);
        return;
    }
    w->made = true;
    change_submit(w, c, f, KVS_REC_SESSION, sess_json(c->d, f));
}

void op_session_rewind(struct call *c)
{
    struct kvs_id id;
    struct change *w;
    struct sess *s;
    uint64_t if_tokens = 0;
    int64_t at;
    int has = 0;

    if (!begin(c, &id) || !(s = op_session(c)) || !idle(c, s) ||
        (has = want_u64(c, c->json, "if_tokens", 0, CTX_TOKENS_MAX, &if_tokens)) < 0)
        return;
    if (has > 0 && s->head != if_tokens) {
        cJSON *extra = cJSON_CreateObject();

        cJSON_AddNumberToObject(extra, "tokens", (double)s->head);
        call_fail(c, HRT_FAILED_PRECONDITION, "session_changed", extra,
                  "if_tokens: the session has %llu tokens now, not %llu; nothing was changed",
                  (unsigned long long)s->head, (unsigned long long)if_tokens);
        return;
    }
    at = place(c, s, "to_turn", "to_tokens", true);
    if (at < 0)
        return;
    w = change_new(c, &id, s);
    if (!w)
        return;
    /* An answer a crash left open ends here: else the next start would take the session to
     * the end of it again. */
    if (s->has_open && turn_interrupted(c->d, s, &w->open, &w->open_text, NULL) == 0) {
        w->rec[w->n_rec].kind = KVS_REC_REQ;
        w->rec[w->n_rec++].req = &w->open;
    }
    w->old_open = s->has_open;
    w->old_open_req = s->open_req;
    sess_open_clear(s);
    (void)sess_turns(c->d, s);
    keep_old(w, s);
    sess_move(c->d, s, (uint64_t)at);
    sess_used(s, wall_ns());
    change_submit(w, c, s, KVS_REC_SESSION, sess_json(c->d, s));
}

void op_session_rename(struct call *c)
{
    struct kvs_id id;
    struct change *w;
    struct sess *s;
    const char *name;
    bool none;

    if (!begin(c, &id) || !(s = op_session(c)))
        return;
    name = new_name(c, &none);
    if (!name) {
        if (none)
            call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "name: want the new name");
        return;
    }
    w = change_new(c, &id, s);
    if (!w)
        return;
    if (sess_rename(c->d, s, name) < 0) {
        change_free(w);
        no_room(c);
        return;
    }
    change_submit(w, c, s, KVS_REC_SESSION, sess_json(c->d, s));
}

void op_session_pin(struct call *c)
{
    struct kvs_id id;
    struct change *w;
    struct sess *s;
    bool pinned = true;

    if (!begin(c, &id) || !(s = op_session(c)) || want_bool(c, c->json, "pinned", &pinned) < 0)
        return;
    w = change_new(c, &id, s);
    if (!w)
        return;
    s->rec.flags =
        pinned ? s->rec.flags | KVS_SESS_PINNED : s->rec.flags & ~(uint32_t)KVS_SESS_PINNED;
    change_submit(w, c, s, KVS_REC_SESSION, sess_json(c->d, s));
}

void op_session_remove(struct call *c)
{
    struct kvs_id id;
    struct change *w;
    struct sess *s;
    char hex[33];
    cJSON *o;

    if (!begin(c, &id) || !(s = op_session(c)) || !idle(c, s))
        return;
    w = change_new(c, &id, NULL);
    if (!w)
        return;
    o = cJSON_CreateObject();
    cJSON_AddBoolToObject(o, "removed", true);
    hex_put(hex, s->rec.id.b, sizeof s->rec.id.b);
    cJSON_AddStringToObject(o, "id", hex);
    if (s->rec.name[0])
        cJSON_AddStringToObject(o, "name", s->rec.name);
    s->removing = true;
    change_submit(w, c, s, KVS_REC_SESSION_RM, o);
}
