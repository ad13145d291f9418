/* admit.c - a new request: read, prepared, checked, placed in the tree, made durable.
 *
 * Nothing is changed before everything was checked: a request that is refused leaves no
 * session and no token behind. */
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/outbox.h"
#include "daemon/quota.h"
#include "daemon/req.h"
#include "engine/chat.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Stored tokens compared with one prompt at most: four million. */
#define CAND_TOKENS_MAX (4u << 20)
/* Tokens of an answer in a session: without a limit, and what a way out of a full one leaves. */
enum { ANSWER_MOST = 4096, ANSWER_LEAST = 128 };
enum { MESSAGES_MAX = 1 << 16, LOOKS_MAX = 1 << 14 };

/* --- reading START ---------------------------------------------------------------------------- */
static int no_memory(struct call *c)
{
    call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory for the request");
    return -ENOMEM;
}

static int bad(struct call *c, const char *words)
{
    call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "%s", words);
    return -EINVAL;
}

/* content: a string, null, or a list of text parts put together. */
static int read_content(struct call *c, uint32_t i, const cJSON *v, char **ret)
{
    const cJSON *part;
    size_t n = 0;
    char *s;

    if (!v || cJSON_IsNull(v)) {
        *ret = strdup("");
        return *ret ? 0 : no_memory(c);
    }
    if (cJSON_IsString(v)) {
        *ret = strdup(v->valuestring);
        return *ret ? 0 : no_memory(c);
    }
    if (!cJSON_IsArray(v)) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "messages[%u].content: want a string or a list of parts", i);
        return -EINVAL;
    }
    cJSON_ArrayForEach(part, v)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");

        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0 ||
            !cJSON_IsString(text)) {
            call_fail(c, HRT_INVALID_ARGUMENT, "unsupported_field", NULL,
                      "messages[%u].content: only parts of type \"text\" are understood", i);
            return -EINVAL;
        }
        n += strlen(text->valuestring);
    }
    s = malloc(n + 1);
    if (!s)
        return no_memory(c);
    s[0] = 0;
    n = 0;
    cJSON_ArrayForEach(part, v)
    {
        const char *text = cJSON_GetObjectItemCaseSensitive(part, "text")->valuestring;
        size_t len = strlen(text);

        memcpy(s + n, text, len + 1);
        n += len;
    }
    *ret = s;
    return 0;
}

static int read_messages(struct call *c, struct prepared *p)
{
    const cJSON *list = NULL, *m;
    int r = want_arr(c, c->json, "messages", &list);
    int n = list ? cJSON_GetArraySize(list) : 0;

    if (r < 0)
        return r;
    if (n == 0 || n > MESSAGES_MAX)
        return bad(c, "messages: want a list of 1 to 65536 messages");
    p->msg = calloc((size_t)n, sizeof *p->msg);
    if (!p->msg)
        return no_memory(c);
    cJSON_ArrayForEach(m, list)
    {
        const cJSON *role = cJSON_GetObjectItemCaseSensitive(m, "role");
        uint32_t i = p->n_msg;

        if (!cJSON_IsString(role) || !role->valuestring[0]) {
            call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                      "messages[%u].role: want a string", i);
            return -EINVAL;
        }
        p->n_msg++;
        p->msg[i].role = strdup(role->valuestring);
        if (!p->msg[i].role)
            return no_memory(c);
        r = read_content(c, i, cJSON_GetObjectItemCaseSensitive(m, "content"), &p->msg[i].text);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The tail is text.  Noise in it would be read as noise, and a zero byte end it early. */
static int check_text(struct call *c)
{
    size_t at = text_bad((const char *)c->tail, c->tail_bytes);

    if (at == c->tail_bytes)
        return 0;
    if (c->tail[at])
        call_fail(
            c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
            "tail: want UTF-8, byte %zu is 0x%02x; convert the text first (`hearth` does, "
            "with --encoding)",
            at, c->tail[at]);
    else
        call_fail(
            c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
            "tail: want text, byte %zu is zero; take such bytes out, or convert it to UTF-8",
            at);
    return -EINVAL;
}

static int read_input(struct call *c, struct prepared *p)
{
    static const char *const kind[] = {"messages", "prompt", "tokens", "documents"};
    const char *input = NULL, *text = NULL;
    int r = want_str(c, c->json, "input", 32, &input);

    if (r < 0)
        return r;
    for (p->input = 0; r > 0 && p->input < 4 && strcmp(kind[p->input], input) != 0;)
        p->input++;
    if (r == 0 || p->input == 4)
        return bad(c, "input: want one of messages, prompt, tokens, documents");
    r = want_bool(c, c->json, "raw", &p->raw);
    if (r >= 0)
        r = want_bool(c, c->json, "special", &p->special);
    if (r < 0)
        return r;
    if (p->input == IN_MESSAGES) {
        if (p->raw)
            return bad(c, "raw: messages are rendered by a template; raw wants prompt, "
                          "documents or tokens");
        return read_messages(c, p);
    }
    if (p->input == IN_TOKENS) {
        if (c->tail_bytes % 4 || c->tail_bytes / 4 > CTX_TOKENS_MAX)
            return bad(c, "tokens: want int32 ids in the tail, at most 1048576");
        p->n_ids = c->tail_bytes / 4;
        p->ids = malloc(c->tail_bytes + 4);
        if (!p->ids)
            return no_memory(c);
        if (c->tail_bytes)
            memcpy(p->ids, c->tail, c->tail_bytes);
        return 0;
    }
    r = p->input == IN_PROMPT ? want_str(c, c->json, "prompt", JSON_BYTES_MAX, &text) : 0;
    if (r == 0 && !text)
        r = check_text(c);
    if (r < 0)
        return r;
    p->text_bytes = text ? strlen(text) : c->tail_bytes;
    p->text = malloc(p->text_bytes + 1);
    if (!p->text)
        return no_memory(c);
    if (p->text_bytes)
        memcpy(p->text, text ? (const void *)text : c->tail, p->text_bytes);
    p->text[p->text_bytes] = 0;
    if (p->text_bytes == 0)
        return bad(c, p->input == IN_PROMPT ? "prompt: want some text, got none"
                                            : "documents: want text in the tail, got none");
    return 0;
}

/* --- the session it names ------------------------------------------------------------------------ */
static void system_hash(const char *text, char ret[33])
{
    uint8_t h[16];

    crypto_generichash(h, sizeof h, (const unsigned char *)text, strlen(text), NULL, 0);
    hex_put(ret, h, sizeof h);
}

/* Another request runs there: c waits for its end when nobody reads that, else it fails. */
static int busy(struct call *c, struct sess *s, const char *name)
{
    uint64_t ms;
    cJSON *extra;

    if (req_gives_way(s->running, &ms) && gen_park(c->d->gen, c) == 0)
        return -EBUSY;
    if (!ms) {
        char hex[33];

        hex_put(hex, s->running->id.b, sizeof s->running->id.b);
        call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", NULL,
                  "session \"%s\" has a running request; wait for it, stop it with `hearth "
                  "cancel %s`, or fork",
                  name, hex);
        return -EBUSY;
    }
    extra = cJSON_CreateObject();
    cJSON_AddNumberToObject(extra, "retry_after_ms", (double)ms);
    call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", extra,
              "session \"%s\" has a running request that nobody reads; it gives way to "
              "another in %.1f s: try again then",
              name, (double)ms / 1000);
    return -EBUSY;
}

/* Where it goes on from is known when the rewind is on the disk, or refused. */
static int rewinding(struct call *c, const char *name)
{
    if (gen_park(c->d->gen, c) < 0)
        call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", NULL,
                  "session \"%s\" is being rewound; try again when that has been answered",
                  name);
    return -EBUSY;
}

/* Finds or makes the session.  0 with *ret (NULL: none was named), or the call has failed, or
 * waits (busy). */
static int pick_session(struct call *c, bool create, bool fork, struct model **m,
                        const char *model, struct sess **ret)
{
    struct daemon *d = c->d;
    const char *name = NULL;
    struct errbuf eb = {{0}};
    struct sess *s = NULL, *f;
    int r = want_str(c, c->json, "session", NAME_BYTES_MAX, &name);

    *ret = NULL;
    if (r < 0)
        return r;
    if (name && name[0])
        s = sess_find(d, c->uid, name);
    if (s && s->removing) {
        call_fail(c, HRT_NOT_FOUND, "session_not_found", NULL,
                  "session \"%s\" is being removed", name);
        return -ENOENT;
    }
    if (name && name[0] && !s && (!create || fork)) {
        call_fail(c, HRT_NOT_FOUND, "session_not_found", NULL, "no session \"%s\"", name);
        return -ENOENT;
    }
    *m = model_find(d, s && !model ? s->rec.model : model, &eb);
    if (!*m) {
        if (s && !model)
            call_fail(c, HRT_NOT_FOUND, "model_not_found", NULL,
                      "session \"%s\": %s; if the file of its model has another name now, "
                      "`--model %s=FILE` gives it this one again",
                      name, eb.s[0] ? eb.s : "no such model", s->rec.model);
        else
            call_fail(c, HRT_NOT_FOUND, "model_not_found", NULL, "%s",
                      eb.s[0] ? eb.s : "no such model");
        return -ENOENT;
    }
    if (s && model && s->head && model_find(d, s->rec.model, NULL) != *m) {
        call_fail(c, HRT_FAILED_PRECONDITION, "bad_field", NULL,
                  "model: session \"%s\" belongs to model %s, not to %s; take another name; "
                  "if this is that model's file under a new name, `--model %s=FILE` gives it "
                  "the old one",
                  name, s->rec.model, (*m)->name, s->rec.model);
        return -EINVAL;
    }
    if (!name || !name[0])
        return 0;
    if (!s) {
        r = sess_name_check(name, &eb);
        if (r < 0)
            return bad(c, eb.s);
        r = sess_make(d, c->uid, name, (*m)->name, &s);
        if (r == 0)
            sess_unborn(s);
    } else if (fork) {
        r = sess_fork(d, s, s->head, NULL, &f);
        if (r == 0) {
            s = f;
            sess_unborn(s);
        }
    } else if (s->running) {
        return busy(c, s, name);
    } else if (s->rewinds) {
        return rewinding(c, name);
    }
    if (r < 0)
        return no_memory(c);
    *ret = s;
    return 0;
}

static int take_system(struct call *c, struct sess *s, struct prepared *p)
{
    const char *text = NULL;
    char had[33], now[33], kept[SESS_SETTINGS_MAX];
    int r = want_str(c, c->json, "system", JSON_BYTES_MAX, &text);

    if (r < 0)
        return r;
    if (text && (p->raw || p->input == IN_TOKENS))
        return bad(c, "system: raw input and tokens have no system message");
    if (text && p->n_msg && strcmp(p->msg[0].role, "system") == 0)
        return bad(c, "system: messages[0] is a system message already");
    if (text && s && s->head) {
        system_hash(text, now);
        if (strcmp(sess_setting(s, "system_hash", had, sizeof had), now) == 0)
            return 0;
        return bad(c, "system: the session has begun with another system message");
    }
    if (!text && s && !s->head && sess_setting(s, "system", kept, sizeof kept)[0])
        text = kept;
    if (text && !(p->system = strdup(text)))
        return no_memory(c);
    return 0;
}

void admit_start(struct call *c, const struct kvs_id *id, const uint8_t asked[ASKED_BYTES])
{
    struct daemon *d = c->d;
    bool create = true, fork = false, keep = true;
    const cJSON *params = NULL, *hints = NULL;
    const char *model = NULL;
    bool prefix = true;
    uint64_t pid, pid_ns;
    struct prepared *p;
    struct sess *s = NULL;
    struct model *m = NULL;
    struct ask ask;
    struct errbuf eb = {{0}};
    struct req *r;
    int res;

    if (!req_room(c))
        return;
    if (want_bool(c, c->json, "create", &create) < 0 ||
        want_bool(c, c->json, "fork", &fork) < 0 || want_bool(c, c->json, "keep", &keep) < 0 ||
        want_str(c, c->json, "model", NAME_BYTES_MAX * 16, &model) < 0 ||
        want_obj(c, c->json, "params", &params) < 0 ||
        want_obj(c, c->json, "hints", &hints) < 0 || reader_said(c, &pid, &pid_ns) < 0 ||
        (hints && want_bool(c, hints, "hints.prefix", &prefix) < 0))
        return;
    p = calloc(1, sizeof *p);
    if (!p) {
        (void)no_memory(c);
        return;
    }
    res = read_input(c, p);
    if (res == 0)
        res = pick_session(c, create, fork, &m, model && model[0] ? model : NULL, &s);
    if (res == 0)
        res = take_system(c, s, p);
    if (res == 0)
        res = ask_parse(c, params, m->sampling, id, &ask);
    if (res < 0) {
        prepared_free(p);
        if (s && s->unborn)
            sess_forget(d, s);
        return;
    }
    r = req_new(d, c->uid, id);
    if (!r) {
        ask_fini(&ask);
        prepared_free(p);
        if (s && s->unborn)
            sess_forget(d, s);
        (void)no_memory(c);
        return;
    }
    r->prep = p;
    r->ask = ask;
    memcpy(r->asked, asked, ASKED_BYTES);
    r->asked_known = true;
    r->ingest = ask.max_tokens == 0;
    r->fork = fork;
    r->keep = keep;
    r->prefix = prefix;
    r->s = s;
    if (s) {
        s->running = r;
        r->sess_used_ns = s->unborn ? 0 : s->rec.used_ns;
    }
    r->m = m;
    model_use(m);
    r->using_model = true;
    p->r = r;
    p->generate = !r->ingest;
    stream_init(&r->st, r->ask.stop, r->ask.n_stop, r->ask.n_top);
    (void)reader_came(r, c); /* cannot fail: what it reads was looked at above */
    wait_start(r, c);
    res = model_want(d, m, &eb);
    if (res == 0)
        admit_model_ready(r);
    else if (res != -EAGAIN)
        req_fail(r, HRT_FAILED_PRECONDITION, "model_load_failed", "model %s: %s", m->name,
                 eb.s[0] ? eb.s : err_str(res));
}

/* --- preparing -------------------------------------------------------------------------------------- */
/* The owner's sessions of this model, latest use first: of the latest some. */
static void take_cands(struct req *r, struct prepared *p)
{
    struct daemon *d = r->d;
    const struct sess_user *u = sess_user(d->sess, r->uid, false);
    struct sess *at[SESS_LISTS_] = {0};
    uint64_t tokens = 0;
    char other[MISFIT_WORDS];

    for (int k = 0; u && k < SESS_LISTS_; k++)
        at[k] = u->list[k].newest;
    for (uint32_t i = 0; i < LOOKS_MAX && p->n_cand < CANDS_MAX && tokens < CAND_TOKENS_MAX;
         i++) {
        struct cand *c = &p->cand[p->n_cand];
        struct sess *s = NULL;
        int from = 0;

        for (int k = 0; k < SESS_LISTS_; k++)
            if (at[k] && (!s || at[k]->rec.used_ns > s->rec.used_ns)) {
                s = at[k];
                from = k;
            }
        if (!s)
            return;
        at[from] = s->older;
        if (s->removing || !s->head || strcmp(s->rec.model, r->m->name) != 0 ||
            sess_misfit(s, r->m, other) || sess_tokens(d, s, &c->toks) < 0)
            continue;
        c->session = s->rec.id;
        c->head = s->head;
        tokens += c->head;
        p->n_cand++;
    }
}

static void prepared_done(struct prep_job *j);
static void prepared_drop(struct prep_job *j);

void admit_model_ready(struct req *r)
{
    struct prepared *p = r->prep;
    struct daemon *d = r->d;
    const struct eng_info *info = eng_info(r->m->eng);
    struct errbuf eb = {{0}};
    struct sess *s = r->s;
    int res;

    r->load_ns = now_ns() - r->arrived_ns;
    for (uint32_t i = 0; i < r->ask.smp.n_bias; i++)
        if ((uint32_t)r->ask.bias[i].id >= info->n_vocab) {
            req_fail(r, HRT_INVALID_ARGUMENT, "bad_field",
                     "params.logit_bias.%d: want a token of 0 to %u", r->ask.bias[i].id,
                     info->n_vocab - 1);
            return;
        }
    if (smp_check(&r->ask.smp, info->n_vocab, &eb) < 0) {
        req_fail(r, HRT_INVALID_ARGUMENT, "bad_field", "params.%s", eb.s);
        return;
    }
    char other[MISFIT_WORDS];
    if (s && sess_misfit(s, r->m, other)) {
        req_fail(r, HRT_FAILED_PRECONDITION, "session_read_only", "%s", other);
        return;
    }
    prepared_model(p, r->m->eng);
    if (s) {
        char words[512], own[33];
        bool nothing;

        if (sess_lost(s, words, sizeof words, &nothing) && nothing) {
            req_fail(
                r, HRT_DATA_LOSS, "data_loss",
                "%s: `hearth sessions rm %s` removes it, a rewind to turn 0 begins it anew",
                words, sess_label(s, own));
            return;
        }
        if (s->rec.flags & KVS_SESS_LOST)
            req_warn(r,
                     "%s; this answer goes on from what is there, `hearth sessions show` and "
                     "`rewind` choose another place",
                     words);
        sess_date(s, p->date);
        res = sess_tokens(d, s, &p->path);
        if (res == 0)
            res = sess_turns(d, s);
        if (res < 0) {
            struct unread no;

            noroom_unread(d, r->uid, s, res, &no);
            req_fail(r, no.status, no.slug, "%s", no.words);
            return;
        }
        p->head = s->head;
        p->n_turns = s->n_turns;
        if (s->n_turns)
            p->last = s->turns[s->n_turns - 1];
        if (s->n_turns > 1)
            p->before = s->turns[s->n_turns - 2];
        /* An answer cut off between its last token and its end is closed all the same. */
        if (p->n_turns && (p->last.flags & KVS_TURN_OPEN) && p->head > p->last.first &&
            p->last.role == KVS_ROLE_ASSISTANT && tok_is_end(p->tok, p->path->p[p->head - 1]))
            p->last.flags |= KVS_TURN_CLOSED_EOT;
    } else {
        time_t now = time(NULL);
        struct tm tm;

        localtime_r(&now, &tm);
        strftime(p->date, sizeof p->date, "%Y-%m-%d", &tm);
        if (r->prefix)
            take_cands(r, p);
    }
    p->job.run = render_run;
    p->job.done = prepared_done;
    p->job.drop = prepared_drop;
    p->job.user = p;
    p->job.uid = r->user;
    p->job.owner = r->uid;
    p->turn = &p->job;
    req_state(r, REQ_PREP);
    prep_submit(d->prep, &p->job);
}

/* --- admission ---------------------------------------------------------------------------------------- */
/* The last turn after which `more` tokens and a short answer still fit; -1: none, 0: from the
 * beginning.  A question whose answer is cut off is no place to go on from. */
static int64_t turn_with_room(const struct sess *s, uint64_t more, uint64_t context)
{
    for (uint32_t i = s->turns_known ? s->n_turns : 0; i-- > 0;) {
        const struct turn *t = &s->turns[i];

        if ((t->role != KVS_ROLE_USER || t->user_open) &&
            t->first + t->n_tokens + more + ANSWER_LEAST <= context)
            return i + 1;
    }
    return more + ANSWER_LEAST <= context ? 0 : -1;
}

static void refuse_context(struct req *r, uint64_t tokens, uint64_t context)
{
    uint32_t own = eng_info(r->m->eng)->ctx_own;
    char way[120] = "", set[80] = "";

    if (own > context)
        snprintf(set, sizeof set, " (by the setting `%s`, its file allows %u)",
                 context == (uint64_t)kvf_pages(r->m) * BLOCK_TOKENS ? "page-memory"
                                                                     : "context",
                 own);
    r->err_a = tokens;
    r->err_b = context;
    r->err_held = r->s ? r->s->head : 0;
    r->err_turn = -1;
    if (r->err_held && tokens >= r->err_held)
        r->err_turn = turn_with_room(r->s, tokens - r->err_held, context);
    if (r->err_turn > 0)
        snprintf(way, sizeof way, "; after turn %lld there is room for it",
                 (long long)r->err_turn);
    req_fail(
        r, HRT_OUT_OF_RANGE, "context_length_exceeded",
        /* Programs know this error by the first half, as OpenAI words it. */
        "this model's maximum context length is %llu tokens%s, the input comes to %llu%s%s; "
        "nothing was changed%s",
        (unsigned long long)context, set, (unsigned long long)tokens,
        r->err_held ? " with what the session holds" : "",
        tokens == context ? " and leaves no room for an answer" : "", way);
}

/* A model that goes in circles would write until the context is full, and that were the end of the
 * conversation: without a limit of its own an answer gets half of what is left, and no more than
 * anybody reads. */
static void bound_answer(struct req *r, uint64_t context)
{
    uint64_t half = (context - r->n_prompt) / 2;

    if (!r->goes_on || r->ingest || r->ask.max_tokens >= 0)
        return;
    r->bounded = true;
    r->ask.max_tokens = half < 1 ? 1 : half > ANSWER_MOST ? ANSWER_MOST : (int64_t)half;
}

/* Where a request without a session runs: on the anonymous session whose whole path (as far as
 * its client has seen it) it extends, else in a new one that shares the path it matched. */
static int place_anonymous(struct req *r, struct prepared *p)
{
    struct daemon *d = r->d;
    struct sess *from = NULL, *s;
    int res;

    if (p->base_cand >= 0) {
        const struct cand *k = &p->cand[p->base_cand];
        struct toks *now = NULL;

        from = sess_by_id(d, r->uid, &k->session);
        if (from && from->removing)
            from = NULL;
        /* It may have gone or moved while the worker was busy: then its tokens are used,
         * but not its place. */
        if (from && (from->head < p->base || sess_tokens(d, from, &now) < 0 ||
                     memcmp(now->p, k->toks->p, p->base * sizeof *now->p) != 0))
            from = NULL;
        toks_drop(now);
        if (from && sess_turns(d, from) < 0)
            from = NULL;
        if (from && (from->rec.flags & KVS_SESS_ANONYMOUS) && !from->running &&
            !from->has_open &&
            ((from->head == p->base && sess_at_end(from)) ||
             unseen_behind(from, p, k->toks->p))) {
            if (from->head > p->base)
                sess_move(d, from, p->base); /* written with the beginning of r */
            r->s = from;
            r->sess_used_ns = from->rec.used_ns;
            from->running = r;
            if (r->keep) /* what one question began is a conversation now */
                (void)sess_setting_set(from, "keep", NULL);
            return 0;
        }
    }
    if (from && p->base)
        res = sess_fork(d, from, p->base, NULL, &s);
    else
        res = sess_make(d, r->uid, NULL, r->m->name, &s);
    if (res < 0)
        return res;
    sess_unborn(s);
    s->running = r;
    (void)sess_setting_set(s, "date", p->date);
    r->s = s;
    return 0;
}

static int place_tokens(struct req *r, struct prepared *p)
{
    const struct toks *path = p->base_cand >= 0 ? p->cand[p->base_cand].toks : p->path;
    uint64_t n = p->base + p->out.n;
    int res;

    r->toks = toks_new(n + 256);
    if (!r->toks)
        return -ENOMEM;
    res = p->base ? toks_append(r->toks, path->p, p->base) : 0;
    if (res == 0)
        res = toks_append(r->toks, p->out.p, p->out.n);
    r->n_prompt = n;
    return res;
}

/* The branch its tokens go to: the session's own when it stands at that branch's end and
 * nobody else appends to it.  It owns the branch until it ends. */
static int place_branch(struct req *r, struct prepared *p)
{
    struct sess *s = r->s;
    bool follows = s->head == p->base;
    int res;

    r->base = follows ? p->base : 0; /* not on a known path: all of it goes to a new root */
    r->sent = r->base;
    r->turn_first = p->again ? p->last.first : r->base;
    if (follows && sess_at_end(s)) {
        r->br = branch_take(s->branch);
        branch_own(r->br, &r->id);
        return 0;
    }
    r->new_branch = true;
    res = branch_new(r->d, r->uid, follows ? s->branch : NULL, r->base, &r->br);
    if (res == 0)
        branch_own(r->br, &r->id);
    return res;
}

static void admit(struct req *r, struct prepared *p)
{
    const struct eng_info *info = eng_info(r->m->eng);
    uint64_t n = p->base + p->out.n, context = info->ctx_max;
    char hash[33], words[QUOTA_WORDS], full[NOROOM_WORDS];
    struct sess *s;
    int res;

    if (p->status) {
        req_fail(r, p->status, p->slug, "%s", p->words);
        return;
    }
    if (n == 0) {
        req_fail(r, HRT_INVALID_ARGUMENT, "bad_field", "input: it is empty");
        return;
    }
    if (n > context || (n == context && !r->ingest)) {
        refuse_context(r, n, context);
        return;
    }
    if (!quota_turns(r->d, r->uid, words, sizeof words)) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, "disk_full", "%s: nothing was changed", words);
        return;
    }
    if (kvs_turns_full(r->d->store) || outbox_full(r->d, r->uid)) {
        int why = kvs_turns_full(r->d->store) ? -EDQUOT : outbox_why(r->d);

        req_fail(r, HRT_RESOURCE_EXHAUSTED, "disk_full", "%s; nothing was changed",
                 noroom_words(r->d, r->uid, why, full));
        return;
    }
    r->goes_on = r->keep && (r->s || p->input == IN_PROMPT);
    bool anonymous = !r->s;
    res = anonymous ? place_anonymous(r, p) : 0;
    if (res == 0)
        res = place_tokens(r, p);
    if (res == 0)
        bound_answer(r, context);
    if (res == 0)
        res = place_branch(r, p);
    if (res < 0) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, res == -EAGAIN ? "queue_full" : "out_of_memory",
                 res == -EAGAIN ? "there are too many sessions" : "no memory for the request");
        return;
    }
    said_settle(r, p, anonymous);
    s = r->s;
    r->user_open = p->user_open;
    r->opened = p->opened;
    r->raw_turn = p->raw || p->input == IN_TOKENS;
    if (p->system && s->head == 0) {
        system_hash(p->system, hash);
        (void)sess_setting_set(s, "system", NULL);
        (void)sess_setting_set(s, "system_hash", hash);
    }
    if (!r->keep && s->unborn && (s->rec.flags & KVS_SESS_ANONYMOUS))
        (void)sess_setting_set(s, "keep", "no");
    res = kvf_open(&r->q, r->m, r->uid, r->toks);
    if (res == 0 && r->base)
        r->q.rest = r->base - 1; /* a session at rest has evaluated all but its last token */
    if (res == 0)
        res = turn_begin(r);
    r->said = NULL; /* p's */
    r->n_said = 0;
    if (res < 0) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, res == -EAGAIN ? "queue_full" : "out_of_memory",
                 res == -EAGAIN ? "the store's queue is full" : "no memory for the request");
        return;
    }
    sess_born(s);
    sess_open_clear(s);
    sess_place(r->d, s, branch_take(r->br), n);
    r->admitted_ns = now_ns();
    r->reused = kvf_probe(&r->q, n);
    if (r->reused >= n)
        r->reused = n - 1;
    req_queue(r);
}

static void prepared_done(struct prep_job *j)
{
    struct prepared *p = j->user;
    struct req *r = p->r;

    if (r) {
        r->prep = NULL;
        admit(r, p);
    }
    prepared_free(p);
}

/* The daemon stops: a request that is still there frees it when it is freed itself. */
static void prepared_drop(struct prep_job *j)
{
    struct prepared *p = j->user;

    if (!p->r)
        prepared_free(p);
}
