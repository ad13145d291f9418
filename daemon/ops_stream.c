/* ops_stream.c - START, NEXT and CANCEL: a request's stream as its reader sees it.
 *
 * Nothing is pushed: a reader asks for what lies at its cursor and waits for it.  NEXT is
 * answered as soon as there is something to hear, else when its wait ends; a START waits
 * until its request is admitted and its beginning durable. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/text.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/req.h"
#include "daemon/steps.h"
#include "engine/engine.h"
#include "proto.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROGRESS_NS 250000000ull
/* Alternatives in one reply, and one of them but for its text. */
enum { TOPS_JSON_BYTES = JSON_BYTES_MAX / 2, TOP_JSON_BYTES = 80 };
enum { WAIT_MS_MAX = 30000, READ_BYTES_MAX = (1 << 20) - 65536, WAITS_MAX = 64 };

static const char *state_str(uint8_t s)
{
    static const char *const w[] = {"loading", "queued", "queued",     "restoring",
                                    "prefill", "decode", "committing", "done"};

    return w[s];
}

static double ms(uint64_t ns)
{
    return (double)(ns / 1000) / 1000.0;
}

/* --- what `done` adds -------------------------------------------------------------------------- */
static void add_error(cJSON *o, const struct req *r)
{
    cJSON *e = cJSON_AddObjectToObject(o, "error");

    cJSON_AddStringToObject(e, "status", hrt_status_str(r->err_status));
    cJSON_AddStringToObject(e, "slug", r->err_slug);
    cJSON_AddStringToObject(e, "message", r->err_words);
}

static void add_session(cJSON *o, const struct req *r)
{
    char hex[33];
    cJSON *s;

    if (!r->s)
        return;
    s = cJSON_AddObjectToObject(o, "session");
    hex_put(hex, r->s->rec.id.b, sizeof r->s->rec.id.b);
    cJSON_AddStringToObject(s, "id", hex);
    cJSON_AddStringToObject(s, "name", r->s->rec.name);
}

cJSON *req_done_json(struct req *r)
{
    cJSON *o, *u, *f, *t;

    if (r->done_json)
        return r->done_json;
    o = r->done_json = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "finish",
                            finish_str(r->finish) ? finish_str(r->finish) : "stop");
    if (r->err_status)
        add_error(o, r);
    add_session(o, r);
    cJSON_AddStringToObject(o, "model", r->m->name);
    if (r->load_only)
        return o;
    u = cJSON_AddObjectToObject(o, "usage");
    cJSON_AddNumberToObject(u, "context", (double)r->n_prompt);
    cJSON_AddNumberToObject(u, "reused", (double)r->reused);
    cJSON_AddNumberToObject(u, "prefilled",
                            (double)(r->finish == FIN_STOP || r->finish == FIN_LENGTH
                                         ? r->n_prompt - r->reused
                                         : r->prefilled));
    cJSON_AddNumberToObject(u, "generated", r->n_gen);
    f = cJSON_AddObjectToObject(o, "reused_from");
    cJSON_AddNumberToObject(f, "device", (double)r->found_device);
    cJSON_AddNumberToObject(f, "host", (double)r->found_host);
    cJSON_AddNumberToObject(f, "file", (double)r->found_file);
    t = cJSON_AddObjectToObject(o, "timings");
    cJSON_AddNumberToObject(t, "queue_ms", ms(r->queue_ns));
    cJSON_AddNumberToObject(t, "load_ms", ms(r->load_ns));
    cJSON_AddNumberToObject(t, "restore_ms", ms(r->restore_ns));
    cJSON_AddNumberToObject(t, "prefill_ms", ms(r->prefill_ns));
    cJSON_AddNumberToObject(t, "first_token_ms",
                            r->first_token_ns ? ms(r->first_token_ns - r->arrived_ns) : 0);
    cJSON_AddNumberToObject(t, "decode_ms", ms(r->decode_ns));
    cJSON_AddNumberToObject(o, "turn", r->turn_no);
    return o;
}

/* --- replies ------------------------------------------------------------------------------------- */
static void add_warnings(cJSON *o, struct req *r, bool all)
{
    cJSON *a;

    if (r->n_warn == 0 || (!all && r->warn_said == r->n_warn))
        return;
    a = cJSON_AddArrayToObject(o, "warnings");
    for (uint32_t i = all ? 0 : r->warn_said; i < r->n_warn; i++)
        cJSON_AddItemToArray(a, cJSON_CreateString(r->warn[i]));
    r->warn_said = r->n_warn;
}

static void reply_start(struct req *r, struct call *c)
{
    cJSON *o = cJSON_CreateObject();
    uint64_t left = r->n_prompt - (r->reused < r->n_prompt ? r->reused : r->n_prompt);
    struct gmodel *gm = r->d->gen->gm[r->m->index];
    char hex[33];

    hex_put(hex, r->id.b, sizeof r->id.b);
    cJSON_AddStringToObject(o, "stream", hex);
    add_session(o, r);
    cJSON_AddStringToObject(o, "model", r->m->name);
    cJSON_AddNumberToObject(o, "context", (double)r->n_prompt);
    cJSON_AddNumberToObject(o, "reused", (double)r->reused);
    cJSON_AddNumberToObject(o, "to_prefill", (double)left);
    if (gm && gm->prefill_ns_per_tok)
        cJSON_AddNumberToObject(o, "eta_ms", ms(left * gm->prefill_ns_per_tok));
    else
        cJSON_AddNullToObject(o, "eta_ms");
    cJSON_AddStringToObject(o, "state", state_str(r->state));
    add_warnings(o, r, false);
    r->told_state = r->state;
    call_ok(c, o, NULL, 0);
}

static void add_progress(cJSON *o, struct req *r, uint64_t now)
{
    uint64_t total = r->load_only ? 1000 : r->n_prompt, done = r->evaluated;
    uint64_t began = r->prefill_from_ns ? r->prefill_from_ns : now;
    double rate = 0, s;
    cJSON *p;

    if (r->state == REQ_LOADING) {
        done = r->m->state == MODEL_LOADED ? 1000 : (uint64_t)(r->m->load_done * 1000);
        total = 1000;
        began = r->arrived_ns;
    } else if (r->state == REQ_RESTORING) {
        done = r->q.from_device + r->q.from_host + r->q.from_file;
    }
    if (done > total)
        done = total;
    s = (double)(now - began) / 1e9;
    if (r->state == REQ_PREFILL && s > 0 && done > r->resumed)
        rate = (double)(done - r->resumed) / s;
    p = cJSON_AddObjectToObject(o, "progress");
    cJSON_AddNumberToObject(p, "done", (double)done);
    cJSON_AddNumberToObject(p, "total", (double)total);
    cJSON_AddNumberToObject(p, "tokens_per_s", round(rate * 10) / 10);
    if (rate > 0)
        cJSON_AddNumberToObject(p, "eta_ms", round((double)(total - done) / rate * 1000));
    else
        cJSON_AddNullToObject(p, "eta_ms");
    cJSON_AddNumberToObject(p, "resumed", (double)r->resumed);
}

/* A token's text, and its bytes where they are no text of their own (part of a character, or
 * a zero byte).  Moves *at behind the piece; returns how long this is in JSON, at most. */
static size_t add_piece(cJSON *o, const uint8_t **at)
{
    size_t n = ld16(*at), k = 0;
    const char *p = (const char *)*at + 2;
    struct tok_stream u = {{0}, 0};
    char *text;

    *at += 2 + n;
    text = malloc(n * 3 + 64);
    if (text) {
        k = tok_stream_feed(&u, p, n, text);
        k += tok_stream_end(&u, text + k);
        text[k] = 0;
    }
    cJSON_AddStringToObject(o, "text", text ? text : "");
    free(text);
    if (text_bad(p, n) < n) {
        cJSON *b = cJSON_AddArrayToObject(o, "bytes");

        for (size_t i = 0; i < n; i++)
            cJSON_AddItemToArray(b, cJSON_CreateNumber((uint8_t)p[i]));
    }
    return 16 * n; /* each byte as U+FFFD and as a number, or as \u00XX */
}

/* Top alternatives of the records handed out: of as many as one reply holds, one at least.
 * Returns where it stopped. */
static uint32_t add_tops(cJSON *o, struct req *r, uint32_t from, uint32_t to)
{
    size_t bytes = 0;
    cJSON *list;
    uint32_t i;

    if (!r->st.top_want || from == to)
        return to;
    list = cJSON_AddArrayToObject(o, "logprobs");
    for (i = from; i < to && bytes < TOPS_JSON_BYTES; i++) {
        cJSON *e = cJSON_CreateObject(), *top = cJSON_CreateArray();

        cJSON_AddNumberToObject(e, "index", i);
        uint32_t n_top;
        const struct smp_top *a = stream_tops(&r->st, i, &n_top);
        const uint8_t *piece = stream_pieces(&r->st, i);

        cJSON_AddNumberToObject(e, "at", (double)stream_begins(&r->st, i));
        bytes += TOP_JSON_BYTES + add_piece(e, &piece);
        for (uint32_t k = 0; k < n_top; k++, a++) {
            cJSON *x = cJSON_CreateObject();

            cJSON_AddNumberToObject(x, "id", a->id);
            cJSON_AddNumberToObject(x, "logprob", (double)a->logprob);
            bytes += TOP_JSON_BYTES + add_piece(x, &piece);
            cJSON_AddItemToArray(top, x);
        }
        cJSON_AddItemToObject(e, "top", top);
        cJSON_AddItemToArray(list, e);
    }
    return i;
}

static void reply_next(struct wait *w)
{
    struct req *r = w->r;
    cJSON *o = cJSON_CreateObject();
    uint32_t to = w->cursor;
    uint64_t now = now_ns();
    size_t bytes;
    const uint8_t *tail = stream_read(&r->st, w->cursor, w->bytes_max, &to, &bytes);
    struct call *c = w->call;
    bool done;
    uint8_t state;

    to = add_tops(o, r, w->cursor, to);
    bytes = tail ? stream_bytes(&r->st, w->cursor, to) : 0;
    done = r->state == REQ_DONE && to >= r->st.n_rec;
    state = r->state == REQ_DONE && !done ? REQ_COMMITTING : r->state;
    cJSON_AddStringToObject(o, "state", state_str(state));
    cJSON_AddNumberToObject(o, "cursor", to);
    if (state < REQ_DECODE)
        add_progress(o, r, now);
    if (done) {
        const cJSON *v;

        cJSON_ArrayForEach(v, req_done_json(r))
            cJSON_AddItemToObject(o, v->string, cJSON_Duplicate(v, true));
        if (!r->load_only)
            cJSON_AddBoolToObject(o, "durable", r->durable);
    }
    add_warnings(o, r, done);
    r->told_state = state;
    r->told_done = r->evaluated;
    r->news_ns = now;
    w->call = NULL;
    wait_drop(w);
    call_ok(c, o, tail, bytes);
}

/* --- waiting --------------------------------------------------------------------------------------- */
void wait_drop(struct wait *w)
{
    struct req *r = w->r;

    for (struct wait **at = &r->waits; *at; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            break;
        }
    loop_timer_cancel(r->d->loop, &w->timer);
    r->read_ns = now_ns();
    if (w->call) {
        w->call->on_gone = NULL;
        call_fail(w->call, HRT_UNAVAILABLE, "shutting_down", NULL, "the daemon is stopping");
    }
    free(w);
}

static void wait_gone(struct call *c)
{
    struct wait *w = c->user;

    w->call = NULL;
    wait_drop(w);
    call_ok(c, NULL, NULL, 0); /* thrown away; frees the call */
}

static void wait_over(struct loop_timer *t)
{
    struct wait *w = t->user;

    w->call->on_gone = NULL;
    reply_next(w);
}

static struct wait *wait_new(struct req *r, struct call *c)
{
    struct wait *w = calloc(1, sizeof *w);
    uint32_t n = 0;

    for (struct wait *o = r->waits; o; o = o->next)
        n++;
    if (!w || n >= WAITS_MAX) {
        free(w);
        call_fail(c, HRT_RESOURCE_EXHAUSTED, w ? "queue_full" : "out_of_memory", NULL,
                  "stream: %u calls wait on it already", n);
        return NULL;
    }
    w->call = c;
    w->r = r;
    w->timer.fire = wait_over;
    w->timer.user = w;
    w->next = r->waits;
    r->waits = w;
    c->user = w;
    c->on_gone = wait_gone;
    return w;
}

static bool admitted(const struct req *r)
{
    return r->state >= REQ_COMMITTING || (r->state >= REQ_QUEUED && r->begun);
}

void wait_start(struct req *r, struct call *c)
{
    struct wait *w;

    if (admitted(r)) {
        reply_start(r, c);
        return;
    }
    w = wait_new(r, c);
    if (w)
        w->start = true;
}

/* Is there something to hear? */
static bool has_news(const struct req *r, const struct wait *w, uint64_t now)
{
    if (w->start)
        return admitted(r);
    if (r->st.visible > w->cursor || r->state == REQ_DONE || r->state != r->told_state ||
        r->n_warn != r->warn_said)
        return true;
    return (r->evaluated != r->told_done || r->state == REQ_LOADING ||
            r->state == REQ_RESTORING) &&
           r->state < REQ_DECODE && now - r->news_ns >= PROGRESS_NS;
}

static void answer(struct wait *w)
{
    struct req *r = w->r;
    struct call *c = w->call;

    c->on_gone = NULL;
    if (!w->start) {
        reply_next(w);
        return;
    }
    w->call = NULL;
    wait_drop(w);
    reply_start(r, c);
}

void waits_wake(struct req *r, bool news)
{
    uint64_t now = now_ns();
    struct wait *list[WAITS_MAX];
    uint32_t n = 0;

    (void)news;
    for (struct wait *w = r->waits; w && n < WAITS_MAX; w = w->next)
        if (has_news(r, w, now))
            list[n++] = w;
    for (uint32_t i = 0; i < n; i++)
        answer(list[i]);
}

void waits_progress(struct gen *g, struct model *m)
{
    for (struct req *r = g->reqs; r; r = r->next)
        if (r->m == m && r->waits)
            waits_wake(r, false);
}

void waits_fail(struct req *r)
{
    if (r->asker)
        call_fail(r->asker, r->err_status, r->err_slug, NULL, "%s", r->err_words);
    r->asker = NULL;
    while (r->waits) {
        struct wait *w = r->waits;
        struct call *c = w->call;
        cJSON *extra = NULL;
        char own[33];

        if (r->err_b) {
            extra = cJSON_CreateObject();
            cJSON_AddNumberToObject(extra, "tokens", (double)r->err_a);
            cJSON_AddNumberToObject(extra, "context", (double)r->err_b);
            cJSON_AddNumberToObject(extra, "held", (double)r->err_held);
            if (r->err_held)
                cJSON_AddStringToObject(extra, "session", sess_label(r->s, own));
            if (r->err_turn >= 0)
                cJSON_AddNumberToObject(extra, "turn", (double)r->err_turn);
        }
        c->on_gone = NULL;
        w->call = NULL;
        wait_drop(w);
        call_fail(c, r->err_status, r->err_slug, extra, "%s", r->err_words);
    }
}

void load_failed(struct req *r)
{
    r->err_status = HRT_FAILED_PRECONDITION;
    r->err_slug = "model_load_failed";
    r->finish = FIN_ERROR;
    snprintf(r->err_words, sizeof r->err_words, "model %s: %.400s", r->m->name, r->m->error);
}

/* --- operations --------------------------------------------------------------------------------------- */
static void refuse_reused(struct call *c)
{
    call_fail(c, HRT_ALREADY_EXISTS, "id_reused", NULL,
              "id: it was used for something else; make a new one for each request, and send "
              "one again only as it was");
}

/* The stream of this id: in memory, or read back.  asked: of a START, NULL otherwise.  NULL:
 * the call has been failed (a START's: unless there is simply none). */
static struct req *find(struct call *c, const struct kvs_id *id, const uint8_t *asked,
                        bool *ret_none)
{
    struct daemon *d = c->d;
    uint32_t uid = c->uid;
    struct req *r = req_find(d, uid, id);
    int res = 0;

    *ret_none = false;
    if (r && asked &&
        (r->load_only || (r->asked_known && memcmp(r->asked, asked, ASKED_BYTES) != 0))) {
        refuse_reused(c);
        return NULL;
    }
    if (r)
        return r;
    res = recover(c, id, asked);
    if (res == 0)
        return req_find(d, uid, id); /* NULL: c has heard why not, and is gone */
    if (res == -ENOENT && asked)
        *ret_none = true;
    else if (res == -ENOENT)
        call_fail(c, HRT_NOT_FOUND, "stream_not_found", NULL,
                  "no such stream; START makes one");
    else if (res == -ESTALE)
        call_fail(c, HRT_FAILED_PRECONDITION, "stream_expired", NULL,
                  "this request ended more than ten minutes ago, or its session has gone on");
    else if (res == -EEXIST)
        refuse_reused(c);
    else if (res == -EBUSY)
        call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", NULL,
                  "its session has another request now; when that is admitted, this one ends "
                  "as interrupted");
    else if (res == E_CORRUPT)
        call_fail(c, HRT_DATA_LOSS, "data_loss", NULL,
                  "the stored tokens are not those of this request: it cannot go on");
    else if (noroom_later(res))
        noroom_fail(c, NULL, res);
    else
        call_fail(c, HRT_INTERNAL, "internal", NULL, "the request cannot be read back: %s",
                  err_str(res));
    return NULL;
}

static int want_id(struct call *c, const char *name, struct kvs_id *ret)
{
    int r = want_hex(c, c->json, name, ret->b, sizeof ret->b);

    if (r == 0) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "%s: want 32 hex digits", name);
        return -EINVAL;
    }
    return r < 0 ? r : 0;
}

static bool stopping(struct call *c)
{
    if (!c->d->stopping && !c->d->gen->stopping)
        return false;
    call_fail(c, HRT_UNAVAILABLE, "shutting_down", NULL, "the daemon is stopping");
    return true;
}

void op_start(struct call *c)
{
    uint8_t asked[ASKED_BYTES];
    struct kvs_id id;
    struct req *r;
    bool none;

    if (want_id(c, "id", &id) < 0 || stopping(c))
        return;
    if (asked_hash(c, asked) < 0) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL,
                  "no memory for the request");
        return;
    }
    r = find(c, &id, asked, &none);
    if (r) {
        if (reader_came(r, c) == 0)
            wait_start(r, c);
    } else if (none) {
        admit_start(c, &id, asked);
    }
}

void op_next(struct call *c)
{
    uint64_t cursor = 0, wait_ms = 0, bytes = READ_BYTES_MAX, now = now_ns();
    struct kvs_id id;
    struct wait *w;
    struct req *r;
    bool none;

    if (want_id(c, "stream", &id) < 0 ||
        want_u64(c, c->json, "cursor", 0, UINT32_MAX, &cursor) < 0 ||
        want_u64(c, c->json, "max_wait_ms", 0, WAIT_MS_MAX, &wait_ms) < 0 ||
        want_u64(c, c->json, "max_bytes", 1, TAIL_BYTES_MAX, &bytes) < 0 || stopping(c))
        return;
    r = find(c, &id, NULL, &none);
    if (!r || reader_came(r, c) < 0)
        return;
    if (cursor > r->acked && cursor <= r->st.n_rec)
        r->acked = (uint32_t)cursor;
    w = wait_new(r, c);
    if (!w)
        return;
    w->cursor = (uint32_t)cursor;
    w->bytes_max = bytes < READ_BYTES_MAX ? (size_t)bytes : READ_BYTES_MAX;
    if (r->state >= REQ_QUEUED && r->state < REQ_COMMITTING)
        req_pause(r);
    if (has_news(r, w, now) || wait_ms == 0)
        answer(w);
    else
        loop_timer_set(c->d->loop, &w->timer, now + wait_ms * 1000000ull);
}

/* The state it is in then; r may be gone. */
static const char *cancel(struct req *r)
{
    if (r->load_only || r->state >= REQ_COMMITTING)
        return state_str(r->state);
    if (r->state < REQ_QUEUED && !r->back) {
        req_cancel(r);
        return "done";
    }
    req_cancel(r);
    return state_str(r->state);
}

/* What runs in the session of this name or id, should anything. */
static void cancel_session(struct call *c, const char *name)
{
    struct sess *s = name[0] ? sess_find(c->d, c->uid, name) : NULL;
    cJSON *o, *e;
    char hex[33];

    if (!s || s->removing) {
        call_fail(c, HRT_NOT_FOUND, "session_not_found", NULL, "no session \"%s\"", name);
        return;
    }
    o = cJSON_CreateObject();
    e = cJSON_AddObjectToObject(o, "session");
    hex_put(hex, s->rec.id.b, sizeof s->rec.id.b);
    cJSON_AddStringToObject(e, "id", hex);
    cJSON_AddStringToObject(e, "name", s->rec.name);
    if (s->running) {
        hex_put(hex, s->running->id.b, sizeof s->running->id.b);
        cJSON_AddStringToObject(o, "stream", hex);
    }
    cJSON_AddStringToObject(o, "state", s->running ? cancel(s->running) : "idle");
    call_ok(c, o, NULL, 0);
}

void op_cancel(struct call *c)
{
    const char *session = NULL;
    struct kvs_id id;
    struct req *r;
    cJSON *o;
    char hex[33];
    bool none;
    int named = want_str(c, c->json, "session", NAME_BYTES_MAX, &session);

    if (named < 0)
        return;
    if (named > 0 && cJSON_HasObjectItem(c->json, "stream")) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL, "want one of stream and session");
        return;
    }
    if ((!named && want_id(c, "stream", &id) < 0) || stopping(c))
        return;
    if (named) {
        cancel_session(c, session);
        return;
    }
    r = find(c, &id, NULL, &none);
    if (!r)
        return;
    o = cJSON_CreateObject();
    hex_put(hex, id.b, sizeof id.b);
    cJSON_AddStringToObject(o, "stream", hex);
    cJSON_AddStringToObject(o, "state", cancel(r));
    call_ok(c, o, NULL, 0);
}
