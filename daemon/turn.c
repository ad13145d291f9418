/* turn.c - what a request makes durable, and when.
 *
 * Three kinds of batch, each whole or not at all:
 *   begin   the input's tokens, its turn, the answer's open turn, the request with seed and
 *           parameters, the session: before anything is sampled
 *   commit  tokens since the last batch, with their log probabilities: with each finished
 *           block and every two seconds; the request only where it says something new
 *   end     the rest, the turn closed, the request with its reply, the session's new place:
 *           `done` waits for it
 * When the store has no room the request goes on in memory, and says so; its batches stay in the
 * outbox and are written when there is some.  When the store cannot write any more (a failed sync)
 * the session goes on in memory for good, and every reply says so. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/outbox.h"
#include "daemon/probs.h"
#include "daemon/req.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* Requests are forgotten a day after they were last written. */
#define SAVE_AGAIN_NS (3600 * 1000000000ull)

struct tbatch {
    struct out o; /* first */
    struct req *r;
    enum { T_BEGIN, T_COMMIT, T_END } kind;
    struct kvs_rec *rec;
    uint32_t n_rec, rec_max;
    struct kvs_session sess;
    struct kvs_branch branch;
    struct kvs_turn *turn;
    uint32_t n_turn, turn_max;
    struct kvs_req req[2];
    uint32_t n_req;
    char *text[2];
    int32_t *ids;
    struct kvs_part probs;
    bool has_sess, kept;
    bool has_req; /* this request's record, which hashes to saved */
    uint8_t saved[16];
};

static void tbatch_free(struct tbatch *t)
{
    if (!t)
        return;
    free(t->text[0]);
    free(t->text[1]);
    free(t->ids);
    free((void *)(uintptr_t)t->probs.data);
    free(t->rec);
    free(t->turn);
    free(t);
}

/* Room for n turns more than those of its own. */
static struct tbatch *tbatch_new(uint32_t n)
{
    struct tbatch *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->rec_max = 12 + n;
    t->turn_max = 4 + n;
    t->rec = calloc(t->rec_max, sizeof *t->rec);
    t->turn = calloc(t->turn_max, sizeof *t->turn);
    if (!t->rec || !t->turn) {
        tbatch_free(t);
        return NULL;
    }
    return t;
}

/* --- what is kept with a request ------------------------------------------------------------------ */
cJSON *req_save(struct req *r, bool done)
{
    cJSON *o = cJSON_CreateObject();
    char epoch[20], hex[2 * sizeof r->m->fingerprint + 1];

    snprintf(epoch, sizeof epoch, "%016llx", (unsigned long long)eng_info(r->m->eng)->epoch);
    cJSON_AddNumberToObject(o, "v", 2);
    cJSON_AddStringToObject(o, "epoch", epoch);
    cJSON_AddStringToObject(o, "model", r->m->name);
    if (r->m->keyed) {
        hex_put(hex, r->m->fingerprint, sizeof r->m->fingerprint);
        cJSON_AddStringToObject(o, "fingerprint", hex);
    }
    if (r->asked_known) {
        hex_put(hex, r->asked, sizeof r->asked);
        cJSON_AddStringToObject(o, "asked", hex);
    }
    cJSON_AddItemToObject(o, "ask", ask_save(&r->ask));
    cJSON_AddBoolToObject(o, "ingest", r->ingest);
    cJSON_AddBoolToObject(o, "keep", r->keep);
    if (r->goes_on)
        cJSON_AddBoolToObject(o, "goes_on", true);
    if (r->bounded)
        cJSON_AddBoolToObject(o, "bounded", true);
    cJSON_AddBoolToObject(o, "user_open", r->user_open);
    cJSON_AddBoolToObject(o, "opened", r->opened);
    cJSON_AddBoolToObject(o, "raw", r->raw_turn);
    cJSON_AddNumberToObject(o, "role", r->role);
    cJSON_AddNumberToObject(o, "base", (double)r->base);
    cJSON_AddNumberToObject(o, "turn_first", (double)r->turn_first);
    cJSON_AddNumberToObject(o, "reused", (double)r->reused);
    cJSON_AddNumberToObject(o, "turn", r->turn_no);
    if (done) {
        cJSON_AddNumberToObject(o, "finish", r->finish);
        cJSON_AddItemToObject(o, "done", cJSON_Duplicate(req_done_json(r), true));
    }
    return o;
}

/* --- records --------------------------------------------------------------------------------------- */
static void add(struct tbatch *t, uint32_t kind, const void *what)
{
    must(t->n_rec < t->rec_max);
    struct kvs_rec *k = &t->rec[t->n_rec++];

    k->kind = kind;
    k->session = what; /* all members that are pointers share the place */
}

static int add_tokens(struct tbatch *t, struct req *r)
{
    uint64_t n = r->toks->n - r->sent;
    struct kvs_rec *k;

    if (n == 0)
        return 0;
    t->ids = malloc(n * sizeof *t->ids);
    if (!t->ids)
        return -ENOMEM;
    memcpy(t->ids, r->toks->p + r->sent, n * sizeof *t->ids);
    must(t->n_rec < t->rec_max && n <= UINT32_MAX);
    k = &t->rec[t->n_rec++];
    k->kind = KVS_REC_TOKENS;
    k->tokens.branch = r->br->rec.id;
    k->tokens.first = r->sent;
    k->tokens.ids = t->ids;
    k->tokens.n = (uint32_t)n;
    return 0;
}

static int add_probs(struct tbatch *t, struct req *r)
{
    int res;

    if (r->n_gen == r->probs_sent)
        return 0;
    res = probs_make(&r->st, r->probs_sent, r->n_gen, &t->probs);
    if (res < 0)
        return res;
    t->probs.owner = r->uid;
    t->probs.id = r->id;
    add(t, KVS_REC_PART, &t->probs);
    return 0;
}

/* only_new: not when it says what it said when it was last written. */
static int add_req(struct tbatch *t, struct req *r, bool done, bool only_new)
{
    struct kvs_req *q = &t->req[t->n_req];
    cJSON *o = req_save(r, done);
    char *s = cJSON_PrintUnformatted(o);

    cJSON_Delete(o);
    if (!s)
        return -ENOMEM;
    crypto_generichash(t->saved, sizeof t->saved, (const unsigned char *)s, strlen(s), NULL, 0);
    if (only_new && memcmp(t->saved, r->saved, sizeof t->saved) == 0 &&
        now_ns() - r->saved_ns < SAVE_AGAIN_NS) {
        free(s);
        return 0;
    }
    t->has_req = true;
    t->text[t->n_req++] = s;
    q->owner = r->uid;
    q->id = r->id;
    q->session = r->s->rec.id;
    q->branch = r->br->rec.id;
    q->pos = r->n_prompt;
    q->type = HRT_START;
    q->state = done ? KVS_REQ_ENDED : KVS_REQ_RUNNING;
    q->time_ns = wall_ns();
    q->reply = s;
    q->reply_bytes = (uint32_t)strlen(s);
    add(t, KVS_REC_REQ, q);
    return 0;
}

/* What the session will be; it is when the batch is on its way (submit). */
static void add_session(struct tbatch *t, struct req *r, uint64_t head)
{
    sess_record(r->s, &t->sess);
    t->sess.branch = r->br->rec.id;
    t->sess.head = head;
    t->sess.used_ns = wall_ns();
    memcpy(t->sess.tokenizer_id, eng_info(r->m->eng)->tokenizer_id,
           sizeof t->sess.tokenizer_id);
    t->has_sess = true;
    add(t, KVS_REC_SESSION, &t->sess);
}

static void turn_params(struct req *r, char ret[1024], bool input)
{
    cJSON *o = cJSON_CreateObject();
    char *s;

    if (input && r->user_open)
        cJSON_AddBoolToObject(o, "user_open", true);
    if (input && r->opened)
        cJSON_AddBoolToObject(o, "opened", true);
    if (input && r->ingest)
        cJSON_AddBoolToObject(o, "ingest", true);
    if (input && r->ingest && r->state == REQ_COMMITTING)
        cJSON_AddNumberToObject(o, "read", (double)r->evaluated);
    if (!input) {
        cJSON *ask = ask_save(&r->ask);

        /* The long ones are kept with the request; here is what people look at. */
        cJSON_DeleteItemFromObjectCaseSensitive(ask, "logit_bias");
        cJSON_DeleteItemFromObjectCaseSensitive(ask, "stop");
        cJSON_AddItemToObject(o, "ask", ask);
        if (r->st.stopped && r->state == REQ_COMMITTING) {
            cJSON *seen = cJSON_AddArrayToObject(o, "seen");
            uint32_t tokens, bytes;

            unseen_of(&r->st, eng_tokenizer(r->m->eng), r->toks->p + r->n_prompt,
                      r->toks->n - r->n_prompt, &tokens, &bytes);
            cJSON_AddItemToArray(seen, cJSON_CreateNumber(tokens));
            cJSON_AddItemToArray(seen, cJSON_CreateNumber(bytes));
        }
    }
    s = cJSON_PrintUnformatted(o);
    snprintf(ret, 1024, "%s", s ? s : "{}");
    free(s);
    cJSON_Delete(o);
}

static struct kvs_turn *turn_room(struct tbatch *t)
{
    must(t->n_turn < t->turn_max);
    return &t->turn[t->n_turn++];
}

static void turn_put(struct tbatch *t, struct req *r, const struct kvs_turn *k)
{
    struct turn mem = sess_turn_of(k);

    add(t, KVS_REC_TURN, k);
    if (r->s->turns_known)
        (void)sess_turn_add(r->s, &mem);
}

/* The turn goes into the batch and into the session's list. */
static void add_turn(struct tbatch *t, struct req *r, bool input, uint64_t first, uint64_t n,
                     uint32_t flags, uint32_t finish)
{
    struct kvs_turn *k = turn_room(t);

    k->branch = r->br->rec.id;
    k->first = first;
    k->n_tokens = n;
    k->role = !input ? KVS_ROLE_ASSISTANT : r->raw_turn ? KVS_ROLE_RAW : r->role;
    k->flags = flags;
    k->time_ns = wall_ns();
    k->request = r->id;
    k->seed = r->ask.smp.seed;
    k->reused = (uint32_t)r->reused;
    k->prefilled = (uint32_t)r->prefilled;
    k->generated = input ? 0 : r->n_gen;
    k->finish = finish;
    turn_params(r, k->params, input);
    turn_put(t, r, k);
}

/* A message that came with the input, before the last. */
static void add_said(struct tbatch *t, struct req *r, const struct said *m, uint64_t end)
{
    struct kvs_turn *k = turn_room(t);

    k->branch = r->br->rec.id;
    k->first = m->first;
    k->n_tokens = end - m->first;
    k->role = m->role;
    k->flags = m->closed ? KVS_TURN_CLOSED_EOT : 0;
    k->time_ns = wall_ns();
    k->request = r->id;
    snprintf(k->params, sizeof k->params, "%s", m->opened ? "{\"opened\":true}" : "{}");
    turn_put(t, r, k);
}

/* --- an open turn of another request ends here -------------------------------------------------------- */
struct find_turn {
    struct kvs_turn *ret;
    uint64_t first;
    bool found;
};

static int find_each(void *ctx, const struct kvs_turn *k)
{
    struct find_turn *f = ctx;

    if (k->first == f->first) {
        *f->ret = *k;
        f->found = true;
    }
    return 0;
}

int turn_interrupted(struct daemon *d, struct sess *s, struct kvs_req *ret, char **ret_text,
                     uint64_t *ret_first)
{
    char *reply = NULL;
    cJSON *o, *done, *err;
    const cJSON *first;
    struct kvs_req q;
    int res = kvs_req_get(d->store, s->rec.owner, &s->open_req, &q, &reply);

    if (res < 0)
        return res;
    o = cJSON_ParseWithLength(reply ? reply : "{}", reply ? q.reply_bytes : 2);
    free(reply);
    first = cJSON_GetObjectItemCaseSensitive(o, "turn_first");
    if (ret_first)
        *ret_first =
            cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "ingest")) && cJSON_IsNumber(first)
                ? (uint64_t)first->valuedouble
                : q.pos;
    cJSON_AddNumberToObject(o, "finish", FIN_INTERRUPTED);
    done = cJSON_AddObjectToObject(o, "done");
    cJSON_AddStringToObject(done, "finish", "error");
    err = cJSON_AddObjectToObject(done, "error");
    cJSON_AddStringToObject(err, "status", hrt_status_str(HRT_CANCELLED));
    cJSON_AddStringToObject(err, "slug", "interrupted");
    cJSON_AddStringToObject(err, "message",
                            "the daemon ended in the middle of this answer, and the session "
                            "has gone on with another request");
    *ret_text = cJSON_PrintUnformatted(o);
    cJSON_Delete(o);
    if (!*ret_text)
        return -ENOMEM;
    q.state = KVS_REQ_ENDED;
    q.time_ns = wall_ns();
    q.reply = *ret_text;
    q.reply_bytes = (uint32_t)strlen(q.reply);
    *ret = q;
    return 0;
}

/* The session stood in the middle of an answer when the daemon ended, and goes on with
 * something else: what there is of the answer stays, marked. */
static int add_interrupted(struct tbatch *t, struct req *r)
{
    struct sess *s = r->s;
    struct kvs_req *q = &t->req[t->n_req];
    struct find_turn f = {.ret = &t->turn[t->n_turn]}; /* counted where one was found */
    int res;

    if (!s->has_open || sess_open_is(s, &r->id))
        return 0;
    res = turn_interrupted(r->d, s, q, &t->text[t->n_req], &f.first);
    if (res < 0)
        return res == -ENOMEM ? res : 0; /* else nobody can ask for it any more */
    t->n_req++;
    add(t, KVS_REC_REQ, q);
    if (s->head > f.first)
        (void)kvs_turns(r->d->store, &q->branch, s->head, find_each, &f);
    if (!f.found)
        return 0;
    t->n_turn++;
    f.ret->n_tokens = s->head - f.first;
    f.ret->flags = (f.ret->flags & ~(uint32_t)KVS_TURN_OPEN) | KVS_TURN_INTERRUPTED;
    f.ret->finish = FIN_INTERRUPTED;
    add(t, KVS_REC_TURN, f.ret);
    sess_turn_ended(r->d, f.ret);
    return 0;
}

/* --- submitting ---------------------------------------------------------------------------------------- */
/* Only the first failure says why: those after it name a branch or a turn that it left out. */
static void not_written(struct req *r, int res)
{
    bool before = r->s && r->s->changed;
    char why[DAEMON_WHY];

    if (!r->durable && !r->behind)
        return;
    if (before)
        res = r->s->why;
    log_at(LOG_ERROR_,
           "session \"%s\": a turn goes on in memory only, it could not be written: %s",
           r->s ? r->s->rec.name : "", daemon_why(r->d, r->d->uid, res, why));
    r->durable = r->behind = false;
    if (before) {
        req_warn(
            r,
            "an earlier turn of this session was not written: nor is this one, it will not "
            "survive a restart; start a new session when the store can write again; why: %s",
            daemon_why(r->d, r->uid, res, why));
        return;
    }
    if (r->s) {
        r->s->changed = true;
        r->s->why = res;
    }
    req_warn(r,
             "this turn is in memory only and will not survive a restart, the store cannot "
             "write: %s",
             daemon_why(r->d, r->uid, res, why));
}

static void not_yet(struct req *r, int res)
{
    char why[NOROOM_WORDS];

    if (!r->durable)
        return;
    (void)noroom_words(r->d, r->uid, res, why);
    log_at(LOG_WARN_, "session \"%s\": a turn waits in memory until it can be written: %s",
           r->s ? r->s->rec.name : "", why);
    r->durable = false;
    r->behind = true;
    req_warn(r, "this turn is in memory only until there is room to write it: %s", why);
}

/* It is on disk, and with it all that its session had before. */
static void written(const struct tbatch *t)
{
    struct req *r = t->r;
    struct sess *s = r->s;

    if (t->kind == T_COMMIT)
        return;
    for (uint32_t i = 0; s && !outbox_has(s) && i < s->n_turns; i++)
        s->turns[i].durable |= !(s->turns[i].flags & KVS_TURN_OPEN);
    /* What has ended of it may have ended in a batch that is still behind. */
    if (t->kind == T_END || !s || !outbox_has(s))
        sess_turns_durable(r->d, &r->id);
    if (t->kind != T_END || !r->behind || (s && s->changed))
        return;
    r->durable = true;
    r->behind = false;
    log_at(LOG_INFO_, "session \"%s\": the turn that waited is written", s ? s->rec.name : "");
    if (!t->kept)
        req_warn(r, "there is room again: this turn is on disk");
}

static void went_on(struct req *r, int kind)
{
    r->batches--;
    if (kind == T_BEGIN) {
        r->begun = true;
        waits_wake(r, true);
        gen_kick(r->d);
    } else if (kind == T_END) {
        req_done(r);
    }
}

static void batch_refused(struct out *o, int res)
{
    struct tbatch *t = (struct tbatch *)o;

    must_be(t->r, REQ_MAGIC);
    t->kept = true;
    t->r->kept++;
    not_yet(t->r, res);
    went_on(t->r, t->kind);
}

static void batch_done(struct out *o)
{
    struct tbatch *t = (struct tbatch *)o;
    struct req *r = t->r;
    int kind = t->kind;
    bool kept = t->kept;

    must_be(r, REQ_MAGIC);
    if (o->b.res == 0)
        written(t);
    else if (o->b.res != -ESTALE)
        not_written(r, o->b.res);
    r->kept -= kept;
    tbatch_free(t);
    if (!kept)
        went_on(r, kind);
}

static void submit(struct tbatch *t, struct req *r, int kind)
{
    t->r = r;
    t->kind = kind;
    t->o.rec = t->rec;
    t->o.b.n_rec = t->n_rec;
    t->o.kind = OUT_KEPT;
    t->o.owner = r->uid;
    t->o.session = r->s->rec.id;
    t->o.place = t->has_sess ? &t->sess : NULL;
    t->o.refused = batch_refused;
    t->o.done = batch_done;
    if (t->has_sess)
        sess_written(r->s, &t->sess);
    r->sent = r->toks->n;
    r->probs_sent = r->n_gen;
    r->sent_ns = now_ns();
    if (t->has_req) {
        memcpy(r->saved, t->saved, sizeof r->saved);
        r->saved_ns = r->sent_ns;
    }
    if (r->br->end < r->sent)
        r->br->end = r->sent;
    r->batches++;
    outbox_put(r->d, &t->o);
}

int turn_begin(struct req *r)
{
    struct tbatch *t = tbatch_new(r->n_said);
    uint64_t n = r->toks->n;
    int res = t ? 0 : -ENOMEM;

    if (res == 0)
        res = add_interrupted(t, r);
    if (res == 0 && r->new_branch) {
        t->branch = r->br->rec;
        add(t, KVS_REC_BRANCH, &t->branch);
    }
    if (res == 0)
        res = add_tokens(t, r);
    if (res < 0) {
        tbatch_free(t);
        return res;
    }
    for (uint32_t i = 0; i < r->n_said; i++)
        add_said(t, r, &r->said[i], r->said[i + 1].first);
    if (n > r->turn_first)
        add_turn(t, r, true, r->turn_first, n - r->turn_first, r->ingest ? KVS_TURN_OPEN : 0,
                 0);
    if (!r->ingest)
        add_turn(t, r, false, n, 0, KVS_TURN_OPEN, 0);
    r->turn_no = r->s->n_turns;
    add_session(t, r, n);
    res = add_req(t, r, false, false);
    if (res < 0) {
        tbatch_free(t);
        return res;
    }
    submit(t, r, T_BEGIN);
    return 0;
}

void turn_commit(struct req *r)
{
    struct tbatch *t;

    if (r->batches || r->toks->n == r->sent || !r->begun)
        return;
    must(r->br->end == r->sent); /* nobody else appends here */
    t = tbatch_new(0);
    /* The request before its parts, should it be the first time that it is written. */
    if (!t || add_tokens(t, r) < 0 || add_req(t, r, false, true) < 0 || add_probs(t, r) < 0) {
        tbatch_free(t);
        return; /* the next one carries it */
    }
    submit(t, r, T_COMMIT);
}

void turn_end(struct req *r)
{
    struct tbatch *t = tbatch_new(0);
    uint64_t n = r->toks->n;
    uint32_t flags = r->eot ? KVS_TURN_CLOSED_EOT : 0;

    r->end_waits = true;
    if (!t || add_tokens(t, r) < 0) {
        tbatch_free(t);
        return; /* no memory: tried again by the timer */
    }
    if (r->ingest && n > r->turn_first)
        add_turn(t, r, true, r->turn_first, n - r->turn_first, 0, r->finish);
    if (!r->ingest)
        add_turn(t, r, false, r->n_prompt, n - r->n_prompt, flags, r->finish);
    if (t->n_turn)
        sess_turn_ended(r->d, &t->turn[t->n_turn - 1]);
    sess_lost_clear(r->s); /* its reader is told with this end */
    add_session(t, r, n);
    if (add_req(t, r, true, false) < 0 || add_probs(t, r) < 0) {
        tbatch_free(t);
        return;
    }
    r->end_waits = false;
    submit(t, r, T_END);
}
