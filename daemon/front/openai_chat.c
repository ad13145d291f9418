/* openai_chat.c - a stream of token records becomes a chat completion, whole or in chunks. */
#include "base/clock.h"
#include "daemon/front/fjson.h"
#include "daemon/front/openai.h"
#include "daemon/front/stream.h"
#include "proto.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>

struct chat {
    struct hx *x;
    struct gstream *g;
    struct openai_req req;
    struct fbuf model; /* as a JSON string */
    struct fbuf text;  /* whole: the answer so far */
    struct fbuf probs; /* logprobs.content so far: of the answer, or of the next chunk */
    struct fbuf held;  /* a line for each token whose text is not out: where it begins, JSON */
    uint64_t said;     /* bytes of text that are out */
    struct fbuf out;   /* one chunk in the making */
    long long created;
    uint64_t began_ns, wrote_ns;
    bool streaming; /* headers are out */
    bool full;      /* the client is behind */
};

static void chat_end(struct chat *c)
{
    gstream_close(c->g);
    openai_req_fini(&c->req);
    fbuf_fini(&c->model);
    fbuf_fini(&c->text);
    fbuf_fini(&c->probs);
    fbuf_fini(&c->held);
    fbuf_fini(&c->out);
    free(c);
}

/* --- failures ---------------------------------------------------------------------------- */
void openai_fail(struct hx *x, int code, const char *slug, const char *param, const char *words,
                 uint32_t retry_after_ms)
{
    char *json = openai_error_json(code, slug, param, words);
    hx_reply(x, code, "application/json", json ? json : "{}", json ? strlen(json) : 2,
             retry_after_ms);
    free(json);
}

void openai_fail_event(struct hx *x, int code, const char *slug, const char *words)
{
    char *json = openai_error_json(code, slug, NULL, words);
    struct fbuf b = {0};
    fbuf_puts(&b, "data: ");
    fbuf_puts(&b, json ? json : "{}");
    fbuf_puts(&b, "\n\n");
    if (!b.bad)
        hx_stream_write(x, b.p, b.n);
    hx_stream_end(x);
    fbuf_fini(&b);
    free(json);
}

/* What hearthd says of START's "params.top_p" is for a client who sent top_p. */
static const char *own_words(const char *words)
{
    return strncmp(words, "params.", 7) == 0 ? words + 7 : words;
}

/* "top_p: want ..." names its member; "": none. */
static void param_of(const char *words, char *ret, size_t cap)
{
    size_t n = strcspn(words, ":");
    ret[0] = 0;
    if (words[n] != ':' || strcspn(words, " ") < n)
        return;
    snprintf(ret, cap, "%.*s", (int)(n < cap ? n : cap - 1), words);
}

static void refuse(struct chat *c, const struct gstream_error *e)
{
    int code = hrt_status_http(e->status);
    const char *words = own_words(e->message);
    char param[96] = "";
    if (strcmp(e->slug, "bad_field") == 0 || strcmp(e->slug, "unsupported_field") == 0)
        param_of(words, param, sizeof param);
    else if (strcmp(e->slug, "context_length_exceeded") == 0)
        snprintf(param, sizeof param, "messages");
    else if (strcmp(e->slug, "model_not_found") == 0)
        snprintf(param, sizeof param, "model");
    if (!c->streaming) {
        openai_fail(c->x, code, e->slug, param, words, e->retry_after_ms);
    } else {
        openai_fail_event(c->x, code, e->slug, words);
    }
    chat_end(c);
}

static void no_memory(struct chat *c)
{
    refuse(c, &(struct gstream_error){.status = HRT_RESOURCE_EXHAUSTED,
                                      .slug = "out_of_memory",
                                      .message = "the front has no memory for this answer"});
}

/* --- pieces of JSON ---------------------------------------------------------------------- */
static void head(struct chat *c, const char *object)
{
    fbuf_printf(&c->out,
                "{\"id\":\"chatcmpl-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":",
                c->req.id, object, c->created);
    fbuf_put(&c->out, c->model.p, c->model.n);
}

static void put_usage(struct fbuf *b, const cJSON *reply)
{
    const cJSON *u = cJSON_GetObjectItemCaseSensitive(reply, "usage");
    double reused = front_num(u, "reused", 0);
    double prompt = front_num(u, "context", reused + front_num(u, "prefilled", 0));
    double made = front_num(u, "generated", 0);
    fbuf_printf(b,
                "{\"prompt_tokens\":%.0f,\"completion_tokens\":%.0f,\"total_tokens\":%.0f,"
                "\"prompt_tokens_details\":{\"cached_tokens\":%.0f}}",
                prompt, made, prompt + made, reused);
}

/* What OpenAI has no place for, under our own name. */
static void put_hearth(struct fbuf *b, const struct openai_req *q, const cJSON *reply)
{
    static const char *const members[] = {"session",     "turn",    "durable",
                                          "reused_from", "timings", "warnings"};
    if (q->metadata) {
        fbuf_puts(b, ",\"metadata\":");
        fbuf_puts(b, q->metadata);
    }
    fbuf_puts(b, ",\"hearth\":{");
    bool first = !q->ignored[0];
    if (!first) {
        fbuf_puts(b, "\"ignored\":[");
        fbuf_puts(b, q->ignored);
        fbuf_puts(b, "]");
    }
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        char *s = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(reply, members[i]));
        if (!s)
            continue;
        fbuf_printf(b, "%s\"%s\":", first ? "" : ",", members[i]);
        fbuf_puts(b, s);
        first = false;
        free(s);
    }
    fbuf_puts(b, "}");
}

static const char *finish_of(const cJSON *reply)
{
    return strcmp(front_str(reply, "finish", "stop"), "length") == 0 ? "length" : "stop";
}

/* JSON has no infinity: a forbidden token's is shown as OpenAI shows its own, -9999. */
static double shown_logprob(double v)
{
    return v > -9999 ? v : -9999.0;
}

/* A token of NEXT's list: its text, or where that is not all of it the bytes, as OpenAI writes
 * them ("\\xf0\\x9f"). */
static void put_prob(struct fbuf *b, const cJSON *t, double logprob)
{
    const cJSON *bytes = cJSON_GetObjectItemCaseSensitive(t, "bytes"), *v;
    const char *text = front_str(t, "text", "");
    struct fbuf name = {0}, list = {0};
    if (cJSON_IsArray(bytes)) {
        cJSON_ArrayForEach(v, bytes)
        {
            unsigned byte = (unsigned)v->valuedouble & 255;
            fbuf_printf(&name, "\\x%02x", byte);
            fbuf_printf(&list, list.n ? ",%u" : "%u", byte);
        }
    } else {
        fbuf_puts(&name, text);
        for (const char *p = text; *p; p++)
            fbuf_printf(&list, list.n ? ",%u" : "%u", (unsigned char)*p);
    }
    fbuf_puts(b, "{\"token\":");
    fbuf_json_str(b, name.n ? name.p : "", name.n);
    fbuf_printf(b, ",\"logprob\":%.9g,\"bytes\":[", shown_logprob(logprob));
    fbuf_put(b, list.p, list.n);
    fbuf_puts(b, "]");
    b->bad |= name.bad || list.bad;
    fbuf_fini(&name);
    fbuf_fini(&list);
}

/* NEXT's entry of this record, at *at or behind it: they come in the same order. */
static const cJSON *entry_of(const cJSON **at, const struct gstream_rec *r)
{
    while (*at && front_num(*at, "index", -1) < r->index)
        *at = (*at)->next;
    return *at && front_num(*at, "index", -1) == r->index ? *at : NULL;
}

/* What a record says of its token waits until the text has come to where the token begins: the
 * tokens of a stop string never come out.  A token that is no text is not listed. */
static void hold_probs(struct chat *c, const struct gstream_rec *r, const cJSON *e)
{
    const cJSON *t;
    uint32_t k = 0;
    if (!e || (!front_str(e, "text", "")[0] && !cJSON_HasObjectItem(e, "bytes")))
        return;
    fbuf_printf(&c->held, "%020.0f ", front_num(e, "at", 0));
    put_prob(&c->held, e, r->logprob);
    fbuf_puts(&c->held, ",\"top_logprobs\":[");
    cJSON_ArrayForEach(t, cJSON_GetObjectItemCaseSensitive(e, "top"))
    {
        if (k >= c->req.top_logprobs)
            break;
        if (k++)
            fbuf_puts(&c->held, ",");
        put_prob(&c->held, t, (float)front_num(t, "logprob", -9999));
        fbuf_puts(&c->held, "}");
    }
    fbuf_puts(&c->held, "]}\n");
}

/* Moves what is due to probs. */
static void let_go_probs(struct chat *c)
{
    size_t from = 0;
    while (from < c->held.n && strtoull(c->held.p + from, NULL, 10) < c->said) {
        const char *p = c->held.p + from + 21, *end = strchr(p, '\n');
        if (c->probs.n)
            fbuf_puts(&c->probs, ",");
        fbuf_put(&c->probs, p, (size_t)(end - p));
        from = (size_t)(end + 1 - c->held.p);
    }
    if (from) {
        memmove(c->held.p, c->held.p + from, c->held.n - from);
        c->held.n -= from;
        c->held.p[c->held.n] = 0;
    }
}

/* The records' text, and of logprobs what is due with it. */
static void take(struct chat *c, const struct gstream_rec *r, size_t n, const cJSON *reply)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(reply, "logprobs");
    const cJSON *at = list ? list->child : NULL;
    for (size_t i = 0; i < n; i++) {
        if (r[i].kind == HRT_KIND_TEXT) {
            fbuf_put(&c->text, r[i].text, r[i].len);
            c->said += r[i].len;
        }
        if (c->req.logprobs)
            hold_probs(c, &r[i], entry_of(&at, &r[i]));
    }
    if (c->req.logprobs)
        let_go_probs(c);
}

static void put_logprobs(struct chat *c)
{
    fbuf_puts(&c->out, ",\"logprobs\":");
    if (!c->req.logprobs || (c->req.stream && !c->probs.n)) {
        fbuf_puts(&c->out, "null");
        return;
    }
    fbuf_puts(&c->out, "{\"content\":[");
    fbuf_put(&c->out, c->probs.p, c->probs.n);
    fbuf_puts(&c->out, "],\"refusal\":null}");
    c->probs.n = 0;
}

/* --- chunks ------------------------------------------------------------------------------ */
static void write_out(struct chat *c)
{
    hx_stream_write(c->x, c->out.p, c->out.n);
    c->wrote_ns = now_ns();
    c->out.n = 0;
}

/* role: the first chunk; finish: the last one with a choice. */
static void chunk(struct chat *c, bool role, const char *text, size_t n, const char *finish,
                  const cJSON *reply)
{
    fbuf_puts(&c->out, "data: ");
    head(c, "chat.completion.chunk");
    fbuf_puts(&c->out, ",\"choices\":[{\"index\":0,\"delta\":{");
    if (role)
        fbuf_puts(&c->out, "\"role\":\"assistant\",");
    if (!finish) {
        fbuf_puts(&c->out, "\"content\":");
        fbuf_json_str(&c->out, text, n);
    }
    fbuf_puts(&c->out, "}");
    put_logprobs(c);
    fbuf_printf(&c->out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]",
                finish);
    if (c->req.include_usage)
        fbuf_puts(&c->out, ",\"usage\":null");
    if (finish)
        put_hearth(&c->out, &c->req, reply);
    fbuf_puts(&c->out, "}\n\n");
}

/* Headers and the first chunk: they need the model's name, or the wait has been long. */
static void begin(struct chat *c)
{
    if (c->streaming)
        return;
    hx_stream_begin(c->x);
    c->streaming = true;
}

/* Looks after a slow reader: what it has not taken stays with the core. */
static void check_backlog(struct chat *c)
{
    bool full = hx_backlog(c->x) > HTTP_BACKLOG_MAX;
    if (full != c->full) {
        c->full = full;
        gstream_pause(c->g, full);
    }
}

/* --- what the stream says ---------------------------------------------------------------- */
static void on_admitted(void *user, const cJSON *reply)
{
    struct chat *c = user;
    const char *m = front_str(reply, "model", c->req.model);
    c->model.n = 0;
    fbuf_json_str(&c->model, m, strlen(m));
    if (!c->req.stream)
        return;
    begin(c);
    chunk(c, true, "", 0, NULL, NULL);
    write_out(c);
}

static void on_records(void *user, const struct gstream_rec *r, size_t n, const cJSON *reply)
{
    struct chat *c = user;
    struct fbuf *t = &c->text;
    if (c->req.stream)
        t->n = 0;
    take(c, r, n, reply);
    if (!c->req.stream)
        return;
    if (!t->n && !c->probs.n)
        return;
    chunk(c, false, t->n ? t->p : "", t->n, NULL, NULL);
    if (c->out.bad || t->bad || c->held.bad || c->probs.bad) {
        no_memory(c);
        return;
    }
    write_out(c);
    check_backlog(c);
}

static void on_waiting(void *user, const cJSON *reply)
{
    (void)user;
    (void)reply;
}

static void on_done(void *user, const cJSON *reply)
{
    struct chat *c = user;
    const char *finish = finish_of(reply);
    if (c->req.stream) {
        chunk(c, false, "", 0, finish, reply);
        if (c->req.include_usage) {
            fbuf_puts(&c->out, "data: ");
            head(c, "chat.completion.chunk");
            fbuf_puts(&c->out, ",\"choices\":[],\"usage\":");
            put_usage(&c->out, reply);
            fbuf_puts(&c->out, "}\n\n");
        }
        fbuf_puts(&c->out, "data: [DONE]\n\n");
        if (c->out.bad) {
            no_memory(c);
            return;
        }
        write_out(c);
        hx_stream_end(c->x);
        chat_end(c);
        return;
    }
    head(c, "chat.completion");
    fbuf_puts(&c->out,
              ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    fbuf_json_str(&c->out, c->text.n ? c->text.p : "", c->text.n);
    fbuf_puts(&c->out, ",\"refusal\":null}");
    put_logprobs(c);
    fbuf_printf(&c->out, ",\"finish_reason\":\"%s\"}],\"usage\":", finish);
    put_usage(&c->out, reply);
    put_hearth(&c->out, &c->req, reply);
    fbuf_puts(&c->out, "}\n");
    if (c->out.bad || c->text.bad || c->held.bad || c->probs.bad) {
        no_memory(c);
        return;
    }
    hx_reply(c->x, 200, "application/json", c->out.p, c->out.n, 0);
    chat_end(c);
}

static void on_failed(void *user, const struct gstream_error *e)
{
    refuse(user, e);
}

static void on_gone(void *user)
{
    chat_end(user); /* closing the stream cancels it */
}

static void on_tick(void *user)
{
    struct chat *c = user;
    uint64_t now = now_ns();
    /* A refusal within the first moments has its own HTTP code; after that the client gets its
     * headers, and an error would come as an event. */
    if (c->req.stream && !c->streaming && now - c->began_ns > HTTP_ADMIT_MS * 1000000ull)
        begin(c);
    if (c->streaming && now - c->wrote_ns > HTTP_KEEPALIVE_MS * 1000000ull) {
        fbuf_puts(&c->out, ": still working\n\n");
        write_out(c);
    }
    check_backlog(c);
    gstream_tick(c->g);
}

/* No room for one more on the link. */
static void fail_full(struct hx *x, int why)
{
    uint64_t own = corelink_bytes(hx_core(x), hx_as(x));
    char words[200];
    if (why == -EAGAIN && own >> 20) {
        snprintf(words, sizeof words,
                 "requests that hearthd has not answered hold %llu MiB of yours, which is your "
                 "share of %d for all; wait for answers",
                 (unsigned long long)(own >> 20), CORELINK_BYTES_MAX >> 20);
        openai_fail(x, 429, "queue_full", NULL, words, 1000);
        return;
    }
    openai_fail(x, 503, "queue_full", NULL, "too many requests are open; try again", 1000);
}

void openai_chat(struct hx *x, const char *body, size_t n)
{
    static const struct gstream_ops stream_ops = {on_admitted, on_records, on_waiting, on_done,
                                                  on_failed};
    static const struct hx_ops ops = {.gone = on_gone, .tick = on_tick};
    struct errbuf eb;
    struct openai_error e;
    cJSON *o = front_parse(body, n, &eb);
    if (!o) {
        openai_fail(x, 400, "bad_json", NULL, eb.s, 0);
        return;
    }
    struct chat *c = calloc(1, sizeof *c);
    openai_exact(o, body, n);
    int r = c ? openai_parse(o, &c->req, &e) : -ENOMEM;
    cJSON_Delete(o);
    if (r < 0) {
        if (c)
            openai_fail(x, e.code, e.slug, e.param, e.message, 0);
        else
            openai_fail(x, 503, "out_of_memory", NULL, "the front has no memory", 1000);
        free(c);
        return;
    }
    c->x = x;
    c->created = (long long)time(NULL);
    c->began_ns = c->wrote_ns = now_ns();
    fbuf_json_str(&c->model, c->req.model, strlen(c->req.model));
    char *start = c->req.start;
    c->req.start = NULL;
    r = gstream_open(&c->g, hx_core(x), hx_as(x), start, c->req.id, &stream_ops, c);
    if (r < 0) {
        c->g = NULL;
        fail_full(x, r);
        chat_end(c);
        return;
    }
    hx_own(x, &ops, c);
}

/* --- models ------------------------------------------------------------------------------ */
struct listing {
    struct hx *x;
    int64_t ask;
    char *id; /* NULL: all */
};

static void put_model(struct fbuf *b, const cJSON *m)
{
    const char *name = front_str(m, "name", ""), *state = front_str(m, "state", "available");
    double context = front_num(m, "context", 0);
    fbuf_puts(b, "{\"id\":");
    fbuf_json_str(b, name, strlen(name));
    fbuf_printf(b, ",\"object\":\"model\",\"created\":%.0f,\"owned_by\":\"hearth\",\"state\":",
                front_num(m, "created", 0));
    fbuf_json_str(b, state, strlen(state));
    if (context > 0)
        fbuf_printf(b, ",\"context_length\":%.0f,\"max_model_len\":%.0f", context, context);
    fbuf_puts(b, "}");
}

static void listing_end(struct listing *l)
{
    free(l->id);
    free(l);
}

static void on_models(void *user, const struct corelink_reply *r)
{
    struct listing *l = user;
    cJSON *o = front_reply(r->json, r->json_len);
    const cJSON *m, *list = cJSON_GetObjectItemCaseSensitive(o, "models");
    struct fbuf b = {0};
    if (r->status != HRT_OK || !o) {
        openai_fail(l->x, o ? hrt_status_http(r->status) : 500,
                    front_str(o, "slug", "internal"), NULL,
                    front_str(o, "message", "hearthd sent a reply that cannot be read"),
                    (uint32_t)front_num(o, "retry_after_ms", 0));
    } else {
        bool first = true, found = false;
        if (!l->id)
            fbuf_puts(&b, "{\"object\":\"list\",\"data\":[");
        cJSON_ArrayForEach(m, list)
        {
            if (l->id && strcmp(front_str(m, "name", ""), l->id) != 0)
                continue;
            if (!first)
                fbuf_puts(&b, ",");
            put_model(&b, m);
            found = true;
            first = false;
        }
        if (!l->id)
            fbuf_puts(&b, "]}");
        if (l->id && !found) {
            char words[400];
            snprintf(words, sizeof words, "no model \"%.*s\"; GET /v1/models lists them",
                     front_cut(l->id, 255), l->id);
            openai_fail(l->x, 404, "model_not_found", "model", words, 0);
        } else {
            hx_reply(l->x, 200, "application/json", b.p, b.n, 0);
        }
    }
    fbuf_fini(&b);
    cJSON_Delete(o);
    listing_end(l);
}

static void listing_gone(void *user)
{
    struct listing *l = user;
    (void)corelink_forget(hx_core(l->x), l->ask);
    listing_end(l);
}

void openai_models(struct hx *x, const char *id)
{
    static const struct hx_ops ops = {.gone = listing_gone, .answer_ms = HTTP_ANSWER_MS};
    struct listing *l = calloc(1, sizeof *l);
    int64_t r = -ENOMEM;
    if (l) {
        l->x = x;
        l->id = id ? strdup(id) : NULL;
        r = id && !l->id ? -ENOMEM
                         : corelink_send_as(hx_core(x), hx_as(x), HRT_MODEL_LIST, "{}", 2, NULL,
                                            0, on_models, l);
    }
    if (r < 0) {
        if (l)
            listing_end(l);
        openai_fail(x, 503, "queue_full", NULL, "too many requests are open; try again", 1000);
        return;
    }
    l->ask = r;
    hx_own(x, &ops, l);
}
