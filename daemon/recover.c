/* recover.c - a request found again by its id after a restart.
 *
 * Its beginning was made durable with seed and parameters, its tokens as they came.  An open
 * one goes on behind the last durable token, and since randomness is a function of (seed,
 * position) the tokens that were lost come out again.  One that ended lately is read again:
 * its records are made from its tokens. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/probs.h"
#include "daemon/req.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_NS (600 * 1000000000ull)

static uint64_t num(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    return cJSON_IsNumber(v) && v->valuedouble > 0 ? (uint64_t)v->valuedouble : 0;
}

static bool flag(const cJSON *o, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, name));
}

/* How many tokens its end said it made, where it said so. */
static bool as_many(const struct req *r, uint64_t n)
{
    const cJSON *done = cJSON_GetObjectItemCaseSensitive(r->back, "done");
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(done, "usage");

    return !cJSON_HasObjectItem(usage, "generated") || num(usage, "generated") == n;
}

/* The tokens of the request's path: all that is durable of them.  A part of the request went
 * with each batch of them, so their number is known; what else lies behind an open one's is
 * not its. */
static int read_tokens(struct req *r, const struct kvs_req *q, bool ended)
{
    uint64_t n = 0, end = 0;
    int res = probs_count(r->d, r->uid, &r->id, r->back, &n);

    if (res == 0)
        res = branch_get(r->d, &q->branch, &r->br);
    if (res == 0)
        res = kvs_branch_end(r->d->store, &q->branch, &end);
    if (res == 0 && !as_many(r, n))
        res = E_CORRUPT;
    if (res < 0)
        return res;
    /* A record of an older version is written anew with the next tokens, and parts of all. */
    r->probs_sent = probs_old(r->back) ? 0 : (uint32_t)n;
    n += q->pos;
    if (!ended && (n != end || n != r->br->end))
        return E_CORRUPT;
    if (n > end || n < q->pos)
        return -ENOENT;
    r->toks = toks_new(n + 256);
    if (!r->toks)
        return -ENOMEM;
    res = n ? kvs_tokens(r->d->store, &q->branch, 0, n, r->toks->p) : 0;
    if (res == 0)
        r->toks->n = n;
    return res;
}

static int fill(struct req *r, const struct kvs_req *q, bool ended)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(r->back, "model");
    int res = ask_load(&r->ask, cJSON_GetObjectItemCaseSensitive(r->back, "ask"));

    stream_init(&r->st, r->ask.stop, r->ask.n_stop, r->ask.n_top);
    if (res < 0)
        return res;
    r->ingest = flag(r->back, "ingest");
    r->keep = flag(r->back, "keep");
    r->goes_on = flag(r->back, "goes_on");
    r->bounded = flag(r->back, "bounded");
    r->user_open = flag(r->back, "user_open");
    r->opened = flag(r->back, "opened");
    r->raw_turn = flag(r->back, "raw");
    r->role = cJSON_HasObjectItem(r->back, "role") ? (uint32_t)num(r->back, "role")
                                                   : KVS_ROLE_USER; /* of an older daemon */
    r->base = num(r->back, "base");
    r->turn_first = num(r->back, "turn_first");
    r->turn_no = (uint32_t)num(r->back, "turn");
    r->n_prompt = q->pos;
    r->begun = true;
    r->m = model_find(r->d, cJSON_IsString(v) ? v->valuestring : NULL, NULL);
    if (!r->m)
        return -ENOENT;
    res = read_tokens(r, q, ended);
    if (res < 0)
        return res;
    r->sent = r->toks->n;
    r->sent_ns = now_ns();
    return 0;
}

/* What its START asked for, where that was kept. */
static bool read_asked(const cJSON *back, uint8_t ret[ASKED_BYTES])
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(back, "asked");
    size_t n = 0;

    return cJSON_IsString(v) &&
           sodium_hex2bin(ret, ASKED_BYTES, v->valuestring, strlen(v->valuestring), NULL, &n,
                          NULL) == 0 &&
           n == ASKED_BYTES;
}

int recover(struct call *c, const struct kvs_id *id, const uint8_t *asked)
{
    struct daemon *d = c->d;
    uint32_t uid = c->uid;
    uint8_t before[ASKED_BYTES];
    struct kvs_req q;
    struct errbuf eb = {{0}};
    char *reply = NULL;
    cJSON *back;
    struct sess *s;
    struct req *r;
    bool ended, known;
    int res = kvs_req_get(d->store, uid, id, &q, &reply);

    if (res < 0)
        return res == -ENOENT ? -ENOENT : res;
    back = cJSON_ParseWithLength(reply ? reply : "{}", reply ? q.reply_bytes : 2);
    free(reply);
    known = read_asked(back, before);
    ended = q.state == KVS_REQ_ENDED;
    s = sess_by_id(d, uid, &q.session);
    if (q.type != HRT_START || (asked && known && memcmp(asked, before, sizeof before) != 0))
        res = -EEXIST;
    else if (!back)
        res = E_CORRUPT;
    else if (ended && kvs_age_ns(d->store, q.time_ns) > KEPT_NS)
        res = -ESTALE;
    else if (!ended && (!s || !sess_open_is(s, id) || s->removing))
        res = -ESTALE;
    else if (!ended && s->running)
        res = -EBUSY; /* another START came first: when it is admitted, this one has expired */
    r = res == 0 ? req_new(d, uid, id) : NULL;
    if (res == 0 && !r)
        res = -ENOMEM;
    if (res < 0) {
        cJSON_Delete(back);
        return res;
    }
    r->back = back;
    r->asked_known = known;
    if (known)
        memcpy(r->asked, before, sizeof before);
    res = fill(r, &q, ended);
    if (res < 0) {
        log_at(LOG_WARN_, "a request cannot be read back (%s)", err_str(res));
        req_free(r);
        return res == -ENOENT ? -ESTALE : res;
    }
    r->s = s;
    if (!ended) {
        s->running = r;
        branch_own(r->br, id);
    }
    model_use(r->m);
    r->using_model = true;
    r->asker = c;
    res = model_want(d, r->m, &eb);
    if (res == 0)
        recover_ready(r);
    else if (res != -EAGAIN)
        req_fail(r, HRT_FAILED_PRECONDITION, "model_load_failed", "model %s: %s", r->m->name,
                 eb.s[0] ? eb.s : err_str(res));
    r = req_find(d, uid, id);
    if (r)
        r->asker = NULL;
    return 0;
}

/* A record for one token that is there. */
static int make_record(void *ctx, uint64_t i, float logprob, const struct smp_top *top,
                       uint32_t n_top)
{
    struct req *r = ctx;

    if (r->st.stopped || i >= r->toks->n - r->n_prompt)
        return 0;
    r->n_gen++;
    return stream_token(&r->st, eng_tokenizer(r->m->eng), r->toks->p[r->n_prompt + i], logprob,
                        top, n_top, false);
}

static void recover_ended(struct req *r)
{
    if (!r->st.stopped)
        (void)stream_end(&r->st);
    r->finish = (uint8_t)num(r->back, "finish");
    r->done_json = cJSON_DetachItemFromObjectCaseSensitive(r->back, "done");
    r->ended_ns = now_ns();
    req_done(r);
}

/* The last token may have been durable without the end: then this is the end. */
static bool recover_end(struct req *r)
{
    const struct eng_info *info = eng_info(r->m->eng);
    int32_t last = r->n_gen ? r->toks->p[r->toks->n - 1] : -1;
    bool end = r->n_gen && !r->ask.ignore_eos && tok_is_end(eng_tokenizer(r->m->eng), last);

    if (r->ingest)
        return false;
    if (end || r->st.stopped) {
        r->eot = end;
        req_finish(r, FIN_STOP);
        return true;
    }
    if ((r->ask.max_tokens >= 0 && r->n_gen >= (uint64_t)r->ask.max_tokens) ||
        r->toks->n >= info->ctx_max) {
        req_finish(r, FIN_LENGTH);
        return true;
    }
    return false;
}

/* Do its tokens mean the same to the model as it is now? */
static bool same_tokenizer(struct req *r)
{
    const struct eng_info *info = eng_info(r->m->eng);
    static const uint8_t none[sizeof r->s->rec.tokenizer_id];

    for (uint64_t i = 0; i < r->toks->n; i++)
        if (r->toks->p[i] < 0 || (uint32_t)r->toks->p[i] >= info->n_vocab)
            return false;
    return !r->s || memcmp(r->s->rec.tokenizer_id, none, sizeof none) == 0 ||
           memcmp(r->s->rec.tokenizer_id, info->tokenizer_id, sizeof none) == 0;
}

/* 0: an answer that has begun goes on with the same arithmetic; -EAGAIN: that is not known
 * yet; else the request has been refused, and stays open. */
static int same_numbers(struct req *r)
{
    const cJSON *epoch = cJSON_GetObjectItemCaseSensitive(r->back, "epoch");
    const cJSON *print = cJSON_GetObjectItemCaseSensitive(r->back, "fingerprint");
    char now[2 * sizeof r->m->fingerprint + 1];

    if (r->toks->n == r->n_prompt)
        return 0;
    snprintf(now, sizeof now, "%016llx", (unsigned long long)eng_info(r->m->eng)->epoch);
    if (cJSON_IsString(epoch) && strcmp(epoch->valuestring, now) != 0) {
        req_fail(r, HRT_FAILED_PRECONDITION, "epoch_changed",
                 "the arithmetic of this machine or build has changed since the answer began "
                 "(%s, now %s): it would not go on with the same tokens",
                 epoch->valuestring, now);
        return -EINVAL;
    }
    if (!cJSON_IsString(print))
        return 0;
    if (!r->m->keyed && model_hashing(r->m))
        return -EAGAIN;
    if (!r->m->keyed) {
        req_warn(r, "model %s: its file could not be compared with the one the answer began on",
                 r->m->name);
        return 0;
    }
    hex_put(now, r->m->fingerprint, sizeof r->m->fingerprint);
    if (strcmp(print->valuestring, now) == 0)
        return 0;
    req_fail(r, HRT_FAILED_PRECONDITION, "epoch_changed",
             "model %s: its file has changed since the answer began: it would not go on with "
             "the same tokens; put the old file back, or go on with another request",
             r->m->name);
    return -EINVAL;
}

void recover_ready(struct req *r)
{
    bool ended = cJSON_HasObjectItem(r->back, "done");
    struct unread no;
    int res;

    r->load_ns = now_ns() - r->arrived_ns;
    if (!same_tokenizer(r)) {
        req_fail(r, HRT_FAILED_PRECONDITION, "session_read_only",
                 "the request was made with another tokenizer than model %s has now",
                 r->m->name);
        return;
    }
    if (!ended && same_numbers(r) < 0)
        return;
    res = ended ? 0 : sess_turns(r->d, r->s);
    if (res == 0)
        res = probs_each(r->d, r->uid, &r->id, r->back, make_record, r);
    if (res < 0) {
        noroom_unread(r->d, r->uid, r->s, res, &no);
        req_fail(r, no.status, no.slug, "%s", no.words);
        return;
    }
    if (ended) {
        recover_ended(r);
        return;
    }
    r->admitted_ns = now_ns();
    r->state = REQ_QUEUED;
    if (recover_end(r))
        return;
    if (kvf_open(&r->q, r->m, r->uid, r->toks) < 0) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, "out_of_memory", "no memory for the answer");
        return;
    }
    r->q.rest = r->toks->n ? r->toks->n - 1 : 0;
    r->reused = kvf_probe(&r->q, r->toks->n);
    if (r->reused >= r->n_prompt)
        r->reused = r->n_prompt ? r->n_prompt - 1 : 0;
    log_at(LOG_INFO_, "session \"%s\": an answer goes on after %u tokens", r->s->rec.name,
           r->n_gen);
    req_queue(r);
    waits_wake(r, true);
}
