/* ops_text.c - TOKENIZE, DETOKENIZE, COUNT: text and ids, without a session.
 *
 * A call waits until its model is loaded (its tokenizer comes with it), then a job on the
 * worker thread does the work: a megabyte of text takes a tenth of a second, which the loop
 * does not have.  The call, and with it the tail the job reads, lives until the job is back,
 * even when the peer has gone. */
#include "daemon/ops_text.h"
#include "base/check.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/model.h"
#include "daemon/prep.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct text_job {
    struct prep_job job;
    struct text_job *next; /* waiting for the model */
    struct call *c;
    struct model *m;
    const struct tokenizer *tok;
    struct kvs_id sess; /* DETOKENIZE: whose ids they are */
    bool of_sess;
    bool special, bos;
    struct prepared *count; /* COUNT */
    int res;
    struct tok_ids ids;
    char *text;
    size_t bytes;
    int32_t bad_id;
    size_t bad_at;
};
/* Jobs whose model is not there yet; loop thread only, one daemon per process. */
static struct text_job *waiting;

static void text_free(struct text_job *t)
{
    prepared_free(t->count);
    tok_ids_fini(&t->ids);
    free(t->text);
    free(t);
}

/* ---- the work ------------------------------------------------------------------------------- */
static int text_turn(void *ctx)
{
    return prep_turn(ctx);
}

static void run_tokenize(struct text_job *t)
{
    struct tok_pause turn = {text_turn, &t->job};
    size_t n = t->c->tail_bytes;
    uint8_t *mask = t->special ? malloc(n + 1) : NULL;

    if (t->special && !mask) {
        t->res = -ENOMEM;
        return;
    }
    if (mask)
        memset(mask, 1, n + 1);
    t->res = tok_encode_in_turns(t->tok, n ? (const char *)t->c->tail : "", n, mask, t->bos,
                                 &turn, &t->ids);
    free(mask);
}

static void run_detokenize(struct text_job *t)
{
    size_t n = t->c->tail_bytes / 4, cap = 0;
    struct tok_stream s = {0};

    for (size_t i = 0; i < n; i++) {
        int32_t id = (int32_t)ld32(t->c->tail + 4 * i);
        size_t k = 0;
        const char *p = tok_piece(t->tok, id, t->special, &k);

        if (i % 4096 == 4095 && (t->res = prep_turn(&t->job)) < 0)
            return;
        if (!p) {
            t->bad_id = id;
            t->bad_at = i;
            t->res = -EINVAL;
            return;
        }
        if (t->bytes + k * 3 + 64 > cap) {
            cap = (t->bytes + k * 3 + 64) * 2;
            char *q = realloc(t->text, cap);
            if (!q) {
                t->res = -ENOMEM;
                return;
            }
            t->text = q;
        }
        t->bytes += tok_stream_feed(&s, p, k, t->text + t->bytes);
    }
    if (t->text)
        t->bytes += tok_stream_end(&s, t->text + t->bytes);
}

static void text_run(struct prep_job *j) /* worker thread */
{
    struct text_job *t = j->user;

    if (t->count)
        render_run(&t->count->job);
    else if (t->c->type == HRT_TOKENIZE)
        run_tokenize(t);
    else
        run_detokenize(t);
}

static void reply_count(struct text_job *t)
{
    struct prepared *p = t->count;
    cJSON *o;

    if (p->status) {
        call_fail(t->c, p->status, p->slug, NULL, "%s", p->words);
        return;
    }
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "model", t->m->name);
    cJSON_AddNumberToObject(o, "count", (double)p->out.n);
    const struct eng_info *i = model_info(t->m);
    cJSON_AddNumberToObject(o, "context", i ? i->ctx_max : 0);
    call_ok(t->c, o, NULL, 0);
}

static void text_done(struct prep_job *j)
{
    struct text_job *t = j->user;
    cJSON *o = NULL;

    model_unuse(t->m);
    if (t->count) {
        reply_count(t);
    } else if (t->res == -ENOMEM) {
        call_fail(t->c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL,
                  "no memory to tokenize %u bytes", t->c->tail_bytes);
    } else if (t->res == -EINVAL && t->c->type == HRT_DETOKENIZE) {
        call_fail(t->c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "tokens[%zu]: want an id below %u, got %d", t->bad_at, tok_n_vocab(t->tok),
                  t->bad_id);
    } else if (t->res < 0) {
        call_fail(t->c, HRT_INTERNAL, "internal", NULL, "%s", err_str(t->res));
    } else if (t->c->type == HRT_TOKENIZE && t->ids.n * 4 > TAIL_BYTES_MAX) {
        call_fail(t->c, HRT_OUT_OF_RANGE, "bad_field", NULL,
                  "tail: the text makes %zu tokens, a reply holds %d; send it in parts",
                  t->ids.n, TAIL_BYTES_MAX / 4);
    } else if (t->c->type == HRT_DETOKENIZE && t->bytes > TAIL_BYTES_MAX) {
        call_fail(t->c, HRT_OUT_OF_RANGE, "bad_field", NULL,
                  "tail: the ids make %zu bytes of text, a reply holds %d; send them in parts",
                  t->bytes, TAIL_BYTES_MAX);
    } else {
        o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "model", t->m->name);
        if (t->c->type == HRT_TOKENIZE) {
            cJSON_AddNumberToObject(o, "count", (double)t->ids.n);
            call_ok(t->c, o, t->ids.p, t->ids.n * 4);
        } else {
            call_ok(t->c, o, t->text, t->bytes);
        }
    }
    text_free(t);
}

/* ---- waiting for the model ----------------------------------------------------------------------- */
static void text_fail_load(struct text_job *t, int r, const char *words)
{
    call_fail(t->c, r == -ESHUTDOWN ? HRT_UNAVAILABLE : HRT_FAILED_PRECONDITION,
              r == -ESHUTDOWN ? "shutting_down" : "model_load_failed", NULL, "model %s: %s",
              t->m->name, words);
    text_free(t);
}

static void text_drop(struct prep_job *j)
{
    struct text_job *t = j->user;

    model_unuse(t->m);
    text_fail_load(t, -ESHUTDOWN, "the daemon is stopping");
}

static void text_start(struct text_job *t)
{
    struct sess *s = t->of_sess ? sess_by_id(t->c->d, t->c->uid, &t->sess) : NULL;
    char other[MISFIT_WORDS];

    if (s && sess_misfit(s, t->m, other)) {
        call_fail(t->c, HRT_FAILED_PRECONDITION, "session_read_only", NULL, "%s", other);
        text_free(t);
        return;
    }
    t->tok = eng_tokenizer(t->m->eng);
    if (t->count) {
        prepared_model(t->count, t->m->eng);
        t->count->turn = &t->job;
    }
    model_use(t->m); /* the tokenizer is the engine's: no unload under the job */
    t->job = (struct prep_job){.run = text_run,
                               .done = text_done,
                               .drop = text_drop,
                               .user = t,
                               .uid = ident_uid(t->c->d->idents, t->c->uid),
                               .owner = t->c->uid};
    prep_submit(t->c->d->prep, &t->job);
}

void ops_text_model_changed(struct daemon *d, struct model *m)
{
    struct text_job *t = waiting, *next;

    (void)d;
    if (m->state != MODEL_LOADED && m->state != MODEL_FAILED)
        return;
    /* Taken off first: starting or failing one may change the model again. */
    waiting = NULL;
    for (; t; t = next) {
        next = t->next;
        if (t->m != m) {
            t->next = waiting;
            waiting = t;
        } else if (m->state == MODEL_LOADED) {
            text_start(t);
        } else {
            text_fail_load(t, -EIO, m->error);
        }
    }
}

void ops_text_close(void)
{
    while (waiting) {
        struct text_job *t = waiting;

        waiting = t->next;
        text_fail_load(t, -ESHUTDOWN, "the daemon is stopping");
    }
}

/* Its peer is gone: nobody wants the answer.  While it waits for its model nothing reads the
 * call yet; the worker gives it back at its next turn. */
static void text_gone(struct call *c)
{
    struct text_job *t = c->user;

    for (struct text_job **p = &waiting; *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            call_fail(c, HRT_CANCELLED, "cancelled", NULL, "the peer is gone");
            text_free(t);
            return;
        }
    prep_cancel(&t->job);
}

static void text_submit(struct call *c, struct model *m, struct text_job *t)
{
    struct errbuf eb = {""};

    t->c = c;
    t->m = m;
    c->user = t;
    c->on_gone = text_gone;
    int r = model_want(c->d, m, &eb);
    if (r == 0) {
        text_start(t);
    } else if (r == -EAGAIN) {
        t->next = waiting;
        waiting = t;
    } else {
        text_fail_load(t, r, eb.s);
    }
}

static struct text_job *text_new(struct call *c)
{
    struct text_job *t = calloc(1, sizeof *t);

    if (!t)
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
    return t;
}

/* ---- the operations --------------------------------------------------------------------------------- */
void op_tokenize(struct call *c)
{
    bool special = true, bos = false;
    struct model *m;
    struct text_job *t;

    if (want_bool(c, c->json, "special", &special) < 0 ||
        want_bool(c, c->json, "bos", &bos) < 0 || !(m = op_model(c)) || !(t = text_new(c)))
        return;
    t->special = special;
    t->bos = bos;
    text_submit(c, m, t);
}

/* The session's model, which the call may name, too; NULL: the call has been failed. */
static struct model *model_of(struct call *c, const struct sess *s)
{
    struct errbuf eb = {""};
    char own[33];
    const char *name = NULL;
    struct model *m = model_find(c->d, s->rec.model, &eb);

    if (want_str(c, c->json, "model", 4096, &name) < 0)
        return NULL;
    if (name && name[0] && m && model_find(c->d, name, NULL) != m) {
        call_fail(c, HRT_FAILED_PRECONDITION, "bad_field", NULL,
                  "model: session \"%s\" belongs to model %s", sess_label(s, own),
                  s->rec.model);
        return NULL;
    }
    if (!m)
        call_fail(c, HRT_NOT_FOUND, "model_not_found", NULL,
                  "session \"%s\": %s; if the file of its model has another name now, "
                  "`--model %s=FILE` gives it this one again",
                  sess_label(s, own), eb.s, s->rec.model);
    return m;
}

void op_detokenize(struct call *c)
{
    bool special = true;
    struct sess *s = NULL;
    struct model *m;
    struct text_job *t;

    if (want_bool(c, c->json, "special", &special) < 0)
        return;
    if (c->tail_bytes % 4) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "tail: want int32 ids, so a multiple of 4 bytes, got %u", c->tail_bytes);
        return;
    }
    if (cJSON_HasObjectItem(c->json, "session") && !(s = op_session(c)))
        return;
    if (!(m = s ? model_of(c, s) : op_model(c)) || !(t = text_new(c)))
        return;
    t->special = special;
    if (s) {
        t->sess = s->rec.id;
        t->of_sess = true;
    }
    text_submit(c, m, t);
}

/* content: a text, or parts of type "text" that are put together.  NULL: refused. */
static char *content_text(struct call *c, const cJSON *content, int at)
{
    const cJSON *part;
    size_t n = 0;
    char *s;

    if (cJSON_IsString(content)) {
        s = strdup(content->valuestring);
        if (!s)
            call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return s;
    }
    if (!cJSON_IsArray(content)) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "messages[%d].content: want a string or an array of parts", at);
        return NULL;
    }
    cJSON_ArrayForEach(part, content)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(part, "type");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");

        if (!cJSON_IsString(type) || strcmp(type->valuestring, "text") != 0 ||
            !cJSON_IsString(text)) {
            call_fail(c, HRT_INVALID_ARGUMENT, "unsupported_field", NULL,
                      "messages[%d].content: only parts of type \"text\" are understood", at);
            return NULL;
        }
        n += strlen(text->valuestring);
    }
    s = malloc(n + 1);
    if (!s) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return NULL;
    }
    n = 0;
    cJSON_ArrayForEach(part, content)
    {
        const char *text = cJSON_GetObjectItemCaseSensitive(part, "text")->valuestring;

        memcpy(s + n, text, strlen(text));
        n += strlen(text);
    }
    s[n] = 0;
    return s;
}

static bool count_messages(struct call *c, const cJSON *list, struct prepared *p)
{
    int n = cJSON_GetArraySize(list), i = 0;
    const cJSON *x;

    p->msg = calloc((size_t)n + 1, sizeof *p->msg);
    if (!p->msg) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return false;
    }
    cJSON_ArrayForEach(x, list)
    {
        const cJSON *role = cJSON_GetObjectItemCaseSensitive(x, "role");

        if (!cJSON_IsString(role)) {
            call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                      "messages[%d].role: want a string", i);
            return false;
        }
        char *text = content_text(c, cJSON_GetObjectItemCaseSensitive(x, "content"), i);
        char *who = text ? strdup(role->valuestring) : NULL;
        if (!text)
            return false;
        p->msg[p->n_msg++] = (struct msg){.role = who, .text = text};
        if (!who) {
            call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
            return false;
        }
        i++;
    }
    return true;
}

/* Fills p from the request; false: the call has been failed. */
static bool count_input(struct call *c, struct prepared *p)
{
    const cJSON *list = NULL, *tools = NULL;
    const char *prompt = NULL, *system = NULL;
    int messages, text;

    if (want_arr(c, c->json, "tools", &tools) < 0)
        return false;
    if (tools && cJSON_GetArraySize(tools)) {
        call_fail(c, HRT_UNIMPLEMENTED, "unsupported_field", NULL,
                  "tools: are not understood by this version");
        return false;
    }
    messages = want_arr(c, c->json, "messages", &list);
    text = messages < 0 ? -1 : want_str(c, c->json, "prompt", JSON_BYTES_MAX, &prompt);
    if (text < 0 || want_bool(c, c->json, "raw", &p->raw) < 0 ||
        want_bool(c, c->json, "special", &p->special) < 0 ||
        want_str(c, c->json, "system", JSON_BYTES_MAX, &system) < 0)
        return false;
    if ((messages > 0) == (text > 0 || c->tail_bytes > 0) || (messages > 0 && p->raw)) {
        call_fail(
            c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
            "want either messages, or prompt (or a tail of text), which alone may be raw");
        return false;
    }
    p->generate = true;
    if (system && !(p->system = strdup(system))) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return false;
    }
    if (messages > 0) {
        p->input = IN_MESSAGES;
        return count_messages(c, list, p);
    }
    p->input = IN_PROMPT;
    p->text_bytes = text > 0 ? strlen(prompt) : c->tail_bytes;
    p->text = malloc(p->text_bytes + 1);
    if (!p->text) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return false;
    }
    memcpy(p->text, text > 0 ? (const void *)prompt : c->tail, p->text_bytes);
    p->text[p->text_bytes] = 0;
    return true;
}

void op_count(struct call *c)
{
    struct model *m = op_model(c);
    struct text_job *t = m ? text_new(c) : NULL;
    time_t now = time(NULL);
    struct tm tm;

    if (!t)
        return;
    t->count = calloc(1, sizeof *t->count);
    if (!t->count) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        text_free(t);
        return;
    }
    t->count->job.user = t->count;
    /* What a session made now would freeze. */
    (void)strftime(t->count->date, sizeof t->count->date, "%F", localtime_r(&now, &tm));
    if (!count_input(c, t->count)) {
        text_free(t);
        return;
    }
    text_submit(c, m, t);
}
