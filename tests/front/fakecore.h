/* fakecore.h - a core for tests of fronts and clients: frames in, scripted frames out.
 *
 * A child process that answers on a unix socket as docs/PROTOCOL.md says, with made-up words
 * instead of a model; so a test can kill it, start another, and look at what it was asked
 * (one line "TYPE JSON" per request in a log).  Stateless on purpose: after a restart it
 * knows no stream, and the same START gives the same words.
 *
 * A START's answer is steered by its prompt (last message's text): "words=N" tokens (12),
 * "pace=MS" between them (0), "stop=N" (words from N on are a stop string), "emoji" (tokens whose text is held back), "cut" (cancelled by another), "late" (the end of one that went on after a restart), "warn" (of its second token), "fail" (ends in
 * error), "never" (logprobs that are no number for JSON), "endless" (NEXT brings nothing, at once, also after CANCEL), "long" (refused: context_length_exceeded), "full" (the same, by the session, or a fork of it), "busy" (refused: queue_full),
 * "behind" (another's comes before it into a session that grows), "slow" (START is answered after 3 s), "reads=MS" (so long it is a document of 40 tokens that is being read).  A session named "loose" has its turn not on disk. */
#ifndef TESTS_FAKECORE_H
#define TESTS_FAKECORE_H
#include "base/clock.h"
#include "proto.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FC_CONNS = 64, FC_STREAMS = 1024, FC_DUE = 1024, FC_BUF = 1 << 20 };

struct fc_stream {
    char id[33], text[64]; /* what was asked, its beginning */
    int words, pace_ms, reads_ms;
    bool emoji, fail, cut, late, warn, cancelled, ingest, probs, endless, never;
    int stop; /* words from here on are a stop string: no text; 0: none */
    uint64_t began_ns;
};
struct fc_due { /* a reply that waits for its time */
    int conn;
    struct hrt_frame f;
    int stream, cursor;
    uint64_t at_ns, until_ns;
    bool start;
};
struct fc {
    int listen, log;
    int fd[FC_CONNS];
    uint8_t *in[FC_CONNS];
    size_t n[FC_CONNS];
    struct fc_stream s[FC_STREAMS];
    int n_s;
    struct fc_due due[FC_DUE];
    int n_due;
    int looks, gone; /* of the sluggish model */
};

/* Set before it starts: its session has three tokens more with each START; else always three. */
__attribute__((unused)) static bool fakecore_grows;
__attribute__((unused)) static bool
    fakecore_bare; /* set before it starts: it has no model, and no session with a name */
static bool fakecore_latin1; /* set before it starts: a model's name is no UTF-8 */

static void fc_send(struct fc *c, int conn, const struct hrt_frame *req, uint32_t status,
                    const char *json, const void *tail, size_t n)
{
    uint8_t h[HRT_HEAD_BYTES];
    size_t len = strlen(json);
    hrt_pack(h, &(struct hrt_frame){req->type, HRT_REPLY, (uint32_t)len, (uint32_t)n, req->id,
                                    status});
    if (c->fd[conn] < 0)
        return;
    (void)!send(c->fd[conn], h, sizeof h, MSG_NOSIGNAL | MSG_MORE);
    (void)!send(c->fd[conn], json, len, MSG_NOSIGNAL | (n ? MSG_MORE : 0));
    if (n)
        (void)!send(c->fd[conn], tail, n, MSG_NOSIGNAL);
}

static const char *fc_str(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsString(v) ? v->valuestring : "";
}
static const char *fc_prompt(const cJSON *o, const char *tail)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(o, "messages");
    const cJSON *last = cJSON_GetArrayItem(m, cJSON_GetArraySize(m) - 1);
    return cJSON_IsArray(m) ? fc_str(last, "content") : tail;
}

/* The text of token i: words, or with emoji three bytes-less tokens and then a whole one. */
static int fc_word(const struct fc_stream *s, int i, char *ret)
{
    if (s->stop && i >= s->stop)
        return 0;
    if (!s->emoji)
        return sprintf(ret, "w%d ", i);
    return i % 4 == 3 ? sprintf(ret, "\xf0\x9f\xa6\x94") : 0;
}

/* Where word i begins. */
static int fc_at(const struct fc_stream *s, int i)
{
    char w[32];
    int at = 0;
    for (int j = 0; j < i; j++)
        at += s->stop && j >= s->stop ? 3 : sprintf(w, "w%d ", j);
    return at;
}

static void fc_next(struct fc *c, const struct fc_due *d)
{
    struct fc_stream *s = &c->s[d->stream];
    uint64_t now = now_ns();
    int read_ms = (int)((now - s->began_ns) / 1000000);
    bool reads = !s->cancelled && read_ms < s->reads_ms;
    if (s->endless) {
        fc_send(c, d->conn, &d->f, HRT_OK, "{\"state\":\"decode\",\"cursor\":0}", NULL, 0);
        return;
    }
    int ready =
        s->pace_ms ? (int)((now - s->began_ns) / 1000000 / (uint64_t)s->pace_ms) : s->words;
    if (ready > s->words || s->cancelled)
        ready = s->cancelled && ready < s->words ? ready : s->words;
    uint8_t tail[8192], *p = tail;
    int i = d->cursor;
    for (; i < ready && p - tail < 8000; i++) {
        int len = fc_word(s, i, (char *)p + HRT_REC_BYTES);
        float lp = s->never ? -INFINITY : -0.1f * (float)(i + 1);
        st32(p, (uint32_t)i);
        st32(p + 4, (uint32_t)(1000 + i));
        memcpy(p + 8, &lp, 4);
        st16(p + 12, (uint16_t)len);
        p[14] = p[15] = 0;
        p += HRT_REC_BYTES + len;
    }
    char json[16000];
    bool done = !reads && (s->cancelled || i >= s->words) && i >= ready;
    int k = snprintf(json, sizeof json, "{\"state\":\"%s\",\"cursor\":%d",
                     done    ? "done"
                     : reads ? "prefill"
                             : "decode",
                     i);
    if (reads)
        k += snprintf(json + k, sizeof json - (size_t)k,
                      ",\"progress\":{\"done\":%d,\"total\":40,\"tokens_per_s\":5,\"eta_ms\":"
                      "900}",
                      read_ms * 40 / s->reads_ms);
    else if (!done && i == d->cursor)
        k += snprintf(
            json + k, sizeof json - (size_t)k,
            ",\"progress\":{\"done\":%d,\"total\":40,\"tokens_per_s\":10,\"eta_ms\":100}", i);
    for (int j = d->cursor, n = 0; s->probs && j < i; j++) {
        static const char *const part[] = {"240", "159", "166", "148"};
        k += snprintf(json + k, sizeof json - (size_t)k, "%s{\"index\":%d,\"at\":%d,\"top\":[",
                      n++ ? "," : ",\"logprobs\":[", j, s->emoji ? j / 4 * 4 : fc_at(s, j));
        k += s->emoji ? snprintf(json + k, sizeof json - (size_t)k,
                                 "],\"text\":\"\xef\xbf\xbd\",\"bytes\":[%s]}", part[j % 4])
                      : snprintf(json + k, sizeof json - (size_t)k,
                                 "{\"id\":%d,\"logprob\":%s,\"text\":\"w%d \"},{\"id\":7,"
                                 "\"logprob\":-2.25,\"text\":\"x\"}],\"text\":\"w%d \"}",
                                 1000 + j, s->never ? "-1e30" : "-0.5", j, j);
        if (j + 1 == i)
            k += snprintf(json + k, sizeof json - (size_t)k, "]");
    }
    if (s->warn && i > 1) /* in the middle of the text */
        k += snprintf(json + k, sizeof json - (size_t)k, ",\"warnings\":[\"fake: mind\"]");
    if (done && s->fail)
        k += snprintf(json + k, sizeof json - (size_t)k,
                      ",\"finish\":\"error\",\"error\":{\"status\":\"DATA_LOSS\",\"slug\":"
                      "\"epoch_changed\",\"message\":\"the numbers have changed\"}");
    else if (done)
        k += snprintf(json + k, sizeof json - (size_t)k,
                      ",\"finish\":\"%s\",\"usage\":{\"context\":30,\"reused\":24,"
                      "\"prefilled\":6,\"generated\":%d},"
                      "\"reused_from\":{\"device\":0,\"host\":24,\"file\":0},\"timings\":{"
                      "\"queue_ms\":0,\"load_ms\":0,\"restore_ms\":1,"
                      "\"prefill_ms\":%s,\"decode_ms\":4},\"turn\":2,"
                      "\"durable\":true,"
                      "\"session\":{\"id\":\"%032d\",\"name\":\"fake\"},\"model\":\"fake\"",
                      s->cancelled || s->cut ? "cancelled" : "stop", s->words,
                      s->late ? "0.01,\"first_token_ms\":0" : "2,\"first_token_ms\":3", 7);
    snprintf(json + k, sizeof json - (size_t)k, "}");
    fc_send(c, d->conn, &d->f, HRT_OK, json, tail, (size_t)(p - tail));
}

/* What a due reply still waits for. */
static bool fc_is_due(struct fc *c, const struct fc_due *d, uint64_t now)
{
    if (d->start || now >= d->until_ns)
        return now >= d->at_ns;
    const struct fc_stream *s = &c->s[d->stream];
    if (s->reads_ms && !s->cancelled)
        return false;
    return !s->pace_ms || s->endless || s->cancelled || d->cursor >= s->words ||
           now - s->began_ns >= (uint64_t)(d->cursor + 1) * (uint64_t)s->pace_ms * 1000000;
}

static int fc_find(struct fc *c, const char *id)
{
    for (int i = 0; i < c->n_s; i++)
        if (strcmp(c->s[i].id, id) == 0)
            return i;
    return -1;
}

static void fc_refuse(struct fc *c, int conn, const struct hrt_frame *f, uint32_t status,
                      const char *slug, const char *more)
{
    char json[400];
    snprintf(json, sizeof json,
             "{\"status\":\"%s\",\"slug\":\"%s\",\"message\":\"fake: %s\"%s}",
             hrt_status_str(status), slug, slug, more);
    fc_send(c, conn, f, status, json, NULL, 0);
}

static void fc_start(struct fc *c, int conn, const struct hrt_frame *f, const cJSON *o,
                     const char *tail)
{
    const char *id = fc_str(o, "id"), *p = fc_prompt(o, tail), *q;
    char more[200];
    const cJSON *max = cJSON_GetObjectItemCaseSensitive(
        cJSON_GetObjectItemCaseSensitive(o, "params"), "max_tokens");
    if (strcmp(fc_str(o, "model"), "nosuch") == 0) {
        fc_refuse(c, conn, f, HRT_NOT_FOUND, "model_not_found", "");
        return;
    }
    if (strcmp(fc_str(o, "model"), "broken") == 0) {
        fc_refuse(c, conn, f, HRT_FAILED_PRECONDITION, "model_load_failed", "");
        return;
    }
    if (strcmp(fc_str(o, "session"), "nosuch") == 0) {
        fc_refuse(c, conn, f, HRT_NOT_FOUND, "session_not_found", "");
        return;
    }
    if (strstr(p, "long")) {
        fc_refuse(c, conn, f, HRT_OUT_OF_RANGE, "context_length_exceeded",
                  ",\"tokens\":9000,\"context\":8192");
        return;
    }
    if (strstr(p, "full")) { /* of a fork, which goes again with what was refused */
        bool fork = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "fork"));
        snprintf(more, sizeof more,
                 ",\"tokens\":9000,\"context\":8192,\"held\":7000,\"session\":\"%.99s\"",
                 fork ? "76af2ef0000000000000000000000000" : fc_str(o, "session"));
        fc_refuse(c, conn, f, HRT_OUT_OF_RANGE, "context_length_exceeded", more);
        return;
    }
    if (strstr(p, "busy")) {
        fc_refuse(c, conn, f, HRT_RESOURCE_EXHAUSTED, "queue_full", ",\"retry_after_ms\":1500");
        return;
    }
    if (strcmp(fc_str(o, "input"), "tokens") == 0 && memcmp(tail, "\x3f\x42\x0f", 3) == 0) {
        fc_send(c, conn, f, HRT_INVALID_ARGUMENT,
                "{\"status\":\"INVALID_ARGUMENT\",\"slug\":\"bad_field\",\"message\":"
                "\"tokens[0]: want an id below 49152, got 999999\"}",
                NULL, 0);
        return;
    }
    if (strcmp(fc_str(cJSON_GetObjectItemCaseSensitive(o, "params"), "samplers"), "foo") == 0) {
        fc_send(c, conn, f, HRT_INVALID_ARGUMENT,
                "{\"status\":\"INVALID_ARGUMENT\",\"slug\":\"bad_field\",\"message\":"
                "\"params.samplers: want names of steps, got \\\"foo\\\"\"}",
                NULL, 0);
        return;
    }
    int i = fc_find(c, id);
    if (i < 0 && c->n_s < FC_STREAMS) {
        struct fc_stream s = {.words = 12, .began_ns = now_ns()};
        if (fakecore_grows && strstr(p, "behind"))
            snprintf(c->s[c->n_s++].text, 64, "what came between");
        snprintf(s.id, sizeof s.id, "%s", id);
        snprintf(s.text, sizeof s.text, "%s", p);
        if ((q = strstr(p, "words=")))
            s.words = atoi(q + 6);
        if ((q = strstr(p, "log=")))
            dprintf(c->log, "%.100s\n", q);
        if ((q = strstr(p, "pace=")))
            s.pace_ms = atoi(q + 5);
        if ((q = strstr(p, "reads=")))
            s.reads_ms = atoi(q + 6);
        if ((q = strstr(p, "stop=")))
            s.stop = atoi(q + 5);
        s.probs =
            cJSON_HasObjectItem(cJSON_GetObjectItemCaseSensitive(o, "params"), "logprobs");
        s.emoji = strstr(p, "emoji") != NULL;
        s.fail = strstr(p, "fail") != NULL;
        s.cut = strstr(p, "cut") != NULL;
        s.late = strstr(p, "late") != NULL;
        s.warn = strstr(p, "warn") != NULL;
        s.never = strstr(p, "never") != NULL;
        s.endless = strstr(p, "endless") != NULL;
        if (cJSON_IsNumber(max) && max->valuedouble < s.words)
            s.words = (int)max->valuedouble;
        c->s[i = c->n_s++] = s;
    }
    if (strstr(p, "slow") && c->n_due < FC_DUE) {
        c->due[c->n_due++] = (struct fc_due){conn, *f, i, 0, now_ns() + 3000000000ull, 0, true};
        return;
    }
    char json[300];
    snprintf(json, sizeof json,
             "{\"stream\":\"%s\",\"session\":{\"id\":\"%032d\",\"name\":\"fake\"},\"model\":"
             "\"fake\",\"context\":30,\"reused\":24,\"to_prefill\":6,\"eta_ms\":null,\"state\":"
             "\"queued\"}",
             id, 7);
    fc_send(c, conn, f, HRT_OK, json, NULL, 0);
}

/* One that grows has a document of three tokens for each request. */
static void fc_session(char *ret, size_t cap, bool loose, int tokens, bool stopped)
{
    int n = snprintf(ret, cap,
                     "{\"id\":\"%032d\",\"name\":\"fake\",\"model\":\"fake\",\"tokens\":%d,"
                     "\"turns\":[",
                     loose ? 8 : 7, tokens);
    for (int i = 0; i < tokens / 3; i++)
        n += snprintf(ret + n, cap - (size_t)n,
                      "%s{\"n\":%d,\"role\":\"user\",\"position\":%d,\"tokens\":3,"
                      "\"document\":%s,\"durable\":%s}",
                      i ? "," : "", i + 1, 3 * i, fakecore_grows ? "true" : "false",
                      loose ? "false" : "true");
    snprintf(ret + n, cap - (size_t)n, "]%s}",
             stopped ? ",\"ingest\":{\"done\":11,\"total\":40}" : "");
}

/* A model that is being loaded when it is first looked at, and takes its time, also to go. */
static const char *fc_sluggish(struct fc *c, bool unload)
{
    if (unload && c->looks > 2)
        c->gone = c->looks = 1;
    else if (!unload)
        c->looks++;
    return c->looks > 2 ? (c->gone ? "available" : "loaded")
           : c->gone    ? "unloading"
                        : "loading";
}

static void fc_request(struct fc *c, int conn, const struct hrt_frame *f, const char *json,
                       const char *tail)
{
    static const char session[] =
        "{\"id\":\"00000000000000000000000000000007\",\"name\":\"fake\",\"owner\":0,\"model\":"
        "\"fake\",\"tokens\":3,\"turns\":2,"
        "\"bytes\":{\"device\":0,\"host\":1024,\"file\":4096},\"pinned\":false,\"anonymous\":"
        "false,\"running\":false,\"created\":1,\"used\":2}";
    cJSON *o = cJSON_Parse(json);
    dprintf(c->log, "%u %s\n", f->type, json);
    bool loose = strcmp(fc_str(o, "name"), "loose") == 0 ||
                 strcmp(fc_str(o, "session"), "00000000000000000000000000000008") == 0;
    char out[200 + 120 * FC_STREAMS];
    int32_t ids[3 + 3 * FC_STREAMS] = {5, 6, 7};
    int has;
    switch (f->type) {
    case HRT_HELLO:
        fc_send(c, conn, f, HRT_OK, "{\"version\":1,\"server\":\"fakecore\",\"pid\":1}", NULL,
                0);
        break;
    case HRT_STATUS:
        fc_send(c, conn, f, HRT_OK,
                "{\"status\":\"ok\",\"pid\":1,\"version\":\"0\",\"models\":[],\"sessions\":{"
                "\"count\":5,\"anonymous\":2},\"tiers\":{},\"written\":{},\"queue\":{},"
                "\"warnings\":[]}",
                NULL, 0);
        break;
    case HRT_METRICS:
        fc_send(c, conn, f, HRT_OK, "{}",
                fakecore_latin1 ? "fake{m=\"\xe9\"} 1\n" : "fake_total 1\n",
                fakecore_latin1 ? 14 : 13);
        break;
    case HRT_MODEL_LIST:
        if (fakecore_bare) {
            fc_send(c, conn, f, HRT_OK, "{\"models\":[],\"directory\":\"/where/they/lie\"}",
                    NULL, 0);
            break;
        }
        if (fakecore_latin1) {
            fc_send(c, conn, f, HRT_OK,
                    "{\"models\":[{\"name\":\"caf\xe9\",\"state\":\"failed\"},{\"name\":"
                    "\"other\",\"state\":\"available\"}]}",
                    NULL, 0);
            break;
        }
        fc_send(c, conn, f, HRT_OK,
                "{\"models\":[{\"name\":\"fake\",\"state\":\"loaded\",\"context\":8192,\"file_"
                "bytes\":1000,\"keep_alive_s\":-1,\"sessions\":1,\"default\":true},{\"name\":"
                "\"other\",\"state\":\"available\"}]}",
                NULL, 0);
        break;
    case HRT_MODEL_SHOW:
        snprintf(out, sizeof out, "{\"name\":\"%.99s\",\"context\":100}", fc_str(o, "model"));
        if (strcmp(fc_str(o, "model"), "planned") == 0 ||
            strcmp(fc_str(o, "model"), "unplanned") == 0)
            snprintf(out, sizeof out,
                     "{\"name\":\"x\",\"state\":\"available\",\"context\":8192,\"file_bytes\":"
                     "1000%s}",
                     fc_str(o, "model")[0] == 'p' ? ",\"bytes_per_token\":100" : "");
        if (strcmp(fc_str(o, "model"), "sluggish") == 0)
            snprintf(out, sizeof out, "{\"name\":\"sluggish\",\"state\":\"%s\"}",
                     fc_sluggish(c, false));
        if (strcmp(fc_str(o, "model"), "nosuch") == 0)
            fc_refuse(c, conn, f, HRT_NOT_FOUND, "model_not_found", "");
        else
            fc_send(c, conn, f, HRT_OK, out, NULL, 0);
        break;
    case HRT_MODEL_UNLOAD:
        if (strcmp(fc_sluggish(c, true), "loading") == 0)
            fc_refuse(c, conn, f, HRT_FAILED_PRECONDITION, "session_busy", "");
        else
            fc_send(c, conn, f, HRT_OK, "{\"model\":\"sluggish\",\"state\":\"unloading\"}",
                    NULL, 0);
        break;
    case HRT_MODEL_LOAD:
        fc_send(c, conn, f, HRT_OK,
                "{\"stream\":\"loads\",\"model\":\"sluggish\",\"state\":\"loading\"}", NULL, 0);
        break;
    case HRT_SESSION_LIST:
        if (fakecore_bare) { /* none has a name, and two run */
            fc_send(
                c, conn, f, HRT_OK,
                cJSON_IsTrue(cJSON_GetObjectItem(o, "all"))
                    ? "{\"sessions\":[{\"id\":\"aaaa1111000000000000000000000000\",\"running\":"
                      "true,\"request\":\"b1\"},{\"id\":\"aaaa2222000000000000000000000000\","
                      "\"running\":true,\"request\":\"b2\"}]}"
                    : "{\"sessions\":[]}",
                NULL, 0);
            break;
        }
        snprintf(out, sizeof out,
                 "{\"sessions\":[%s,{\"name\":\"$(touch pwned) \\\"a b\\\"\",\"id\":"
                 "\"00000000deadbeef0000000000000000\"},{\"name\":"
                 "\"it's\"},{\"name\":\"\\u001b[2Jc\"},{\"name\":\"-d or not\"}]}",
                 session);
        fc_send(c, conn, f, HRT_OK, out, NULL, 0);
        break;
    case HRT_SESSION_OPEN:
    case HRT_SESSION_SHOW:
        has = fakecore_grows ? 3 * c->n_s : 3;
        for (int j = 0; fakecore_grows && j < has; j++)
            ids[j] = 100 + j / 3;
        fc_session(out, sizeof out, loose, has,
                   c->n_s && c->s[c->n_s - 1].reads_ms && c->s[c->n_s - 1].cancelled);
        if (strcmp(fc_str(o, "session"), "nosuch") == 0)
            fc_refuse(c, conn, f, HRT_NOT_FOUND, "session_not_found", "");
        else
            fc_send(c, conn, f, HRT_OK, out, ids,
                    cJSON_IsTrue(cJSON_GetObjectItem(o, "ids")) ? (size_t)has * sizeof *ids
                                                                : 0);
        break;
    case HRT_SESSION_REMOVE:
        if (strcmp(fc_str(o, "session"), "nosuch") == 0)
            fc_refuse(c, conn, f, HRT_NOT_FOUND, "session_not_found", "");
        else
            fc_send(
                c, conn, f, HRT_OK,
                "{\"removed\":true,\"id\":\"00000000deadbeef0000000000000000\",\"name\":\"n\"}",
                NULL, 0);
        break;
    case HRT_SESSION_REWIND:
        if (cJSON_GetNumberValue(cJSON_GetObjectItem(o, "to_turn")) == 0) {
            fc_send(c, conn, f, HRT_OK, "{\"name\":\"fake\",\"tokens\":0}", NULL, 0);
            break;
        }
        fc_send(
            c, conn, f, HRT_OUT_OF_RANGE,
            "{\"status\":\"OUT_OF_RANGE\",\"slug\":\"bad_field\",\"message\":\"to_turn: want 0 "
            "to 1, got 99\"}",
            NULL, 0);
        break;
    case HRT_TOKENIZE: /* each # is a token; without any there are three */
        has = 0;
        for (const char *q = tail; *q; q++)
            has += *q == '#';
        snprintf(out, sizeof out, "{\"model\":\"fake\",\"count\":%d}", has ? has : 3);
        fc_send(c, conn, f, HRT_OK, out, ids, 3 * sizeof *ids);
        break;
    case HRT_DETOKENIZE: /* a turn of one that grows, if "behind" or "between" is in it */
        has = f->tail_len >= 4 ? (int)ld32((const uint8_t *)tail) - 100 : -1;
        if (has >= 0 && has < c->n_s &&
            (strstr(c->s[has].text, "behind") || strstr(c->s[has].text, "between")))
            fc_send(c, conn, f, HRT_OK, "{}", c->s[has].text, strlen(c->s[has].text));
        else
            fc_refuse(c, conn, f, HRT_UNIMPLEMENTED, "unimplemented", "");
        break;
    case HRT_PING: fc_send(c, conn, f, HRT_OK, "{}", tail, f->tail_len); break;
    case HRT_START: fc_start(c, conn, f, o, tail); break;
    case HRT_NEXT: {
        int i = fc_find(c, fc_str(o, "stream"));
        double at = cJSON_GetNumberValue(cJSON_GetObjectItem(o, "cursor"));
        int wait = (int)cJSON_GetNumberValue(cJSON_GetObjectItem(o, "max_wait_ms"));
        if (strcmp(fc_str(o, "stream"), "loads") == 0)
            fc_send(c, conn, f, HRT_OK,
                    c->looks++
                        ? "{\"state\":\"done\"}"
                        : "{\"state\":\"loading\",\"progress\":{\"done\":1,\"total\":2}}",
                    NULL, 0);
        else if (i < 0)
            fc_refuse(c, conn, f, HRT_NOT_FOUND, "stream_not_found", "");
        else if (c->n_due < FC_DUE)
            c->due[c->n_due++] = (struct fc_due){
                conn,
                *f,
                i,
                at <= INT32_MAX ? (int)at : c->s[i].words,
                0,
                now_ns() + (uint64_t)(c->s[i].reads_ms && wait > 100 ? 100 : wait) * 1000000,
                false};
        break;
    }
    case HRT_CANCEL: {
        int i = fc_find(c, fc_str(o, "stream"));
        if (i < 0 && c->n_s && c->s[c->n_s - 1].reads_ms) /* that of the session */
            i = c->n_s - 1;
        if (i >= 0)
            c->s[i].cancelled = true;
        snprintf(out, sizeof out, "{\"stream\":\"%s\",\"state\":\"done\"}",
                 i >= 0 && c->s[i].reads_ms ? c->s[i].id : "");
        fc_send(c, conn, f, HRT_OK, out, NULL, 0);
        break;
    }
    default: fc_refuse(c, conn, f, HRT_UNIMPLEMENTED, "unimplemented", "");
    }
    cJSON_Delete(o);
}

static void fc_drop(struct fc *c, int conn)
{
    close(c->fd[conn]);
    c->fd[conn] = -1;
    for (int i = 0; i < c->n_due; i++)
        if (c->due[i].conn == conn)
            c->due[i--] = c->due[--c->n_due];
}

static void fc_read(struct fc *c, int conn)
{
    enum { CAP = HRT_HEAD_BYTES + JSON_BYTES_MAX + TAIL_BYTES_MAX };
    if (!c->in[conn])
        c->in[conn] = malloc(CAP);
    ssize_t k = recv(c->fd[conn], c->in[conn] + c->n[conn], CAP - c->n[conn], 0);
    if (k <= 0) {
        c->n[conn] = 0;
        fc_drop(c, conn);
        return;
    }
    c->n[conn] += (size_t)k;
    for (;;) {
        struct hrt_frame f = {0};
        uint8_t *p = c->in[conn];
        if (c->n[conn] < HRT_HEAD_BYTES)
            return;
        if (hrt_unpack(&f, p, NULL) < 0) {
            dprintf(c->log, "bad frame\n");
            c->n[conn] = 0;
            fc_drop(c, conn);
            return;
        }
        size_t n = (size_t)HRT_HEAD_BYTES + f.json_len + f.tail_len;
        if (c->n[conn] < n)
            return;
        char *json = strndup((char *)p + HRT_HEAD_BYTES, f.json_len);
        char *tail = calloc(1, f.tail_len + 1);
        memcpy(tail, p + HRT_HEAD_BYTES + f.json_len, f.tail_len);
        fc_request(c, conn, &f, json, tail);
        free(json);
        free(tail);
        memmove(p, p + n, c->n[conn] - n);
        c->n[conn] -= n;
        if (c->fd[conn] < 0)
            return;
    }
}

static void fc_serve(struct fc *c)
{
    for (;;) {
        struct pollfd p[FC_CONNS + 1] = {{c->listen, POLLIN, 0}};
        for (int i = 0; i < FC_CONNS; i++)
            p[i + 1] = (struct pollfd){c->fd[i], POLLIN, 0};
        (void)poll(p, FC_CONNS + 1, c->n_due ? 2 : 1000);
        if (p[0].revents) {
            int fd = accept4(c->listen, NULL, NULL, SOCK_CLOEXEC), i = 0;
            while (i < FC_CONNS && c->fd[i] >= 0)
                i++;
            if (i < FC_CONNS && fd >= 0)
                c->fd[i] = fd;
            else if (fd >= 0)
                close(fd);
        }
        for (int i = 0; i < FC_CONNS; i++)
            if (p[i + 1].revents && c->fd[i] >= 0)
                fc_read(c, i);
        uint64_t now = now_ns();
        for (int i = 0; i < c->n_due; i++) {
            struct fc_due d = c->due[i];
            if (!fc_is_due(c, &d, now))
                continue;
            c->due[i--] = c->due[--c->n_due];
            if (d.start)
                fc_send(c, d.conn, &d.f, HRT_OK, "{\"model\":\"fake\",\"state\":\"queued\"}",
                        NULL, 0);
            else
                fc_next(c, &d);
        }
    }
}

/* Serves path; the log is path.log (appended). Its pid; end it with fakecore_kill. */
__attribute__((unused)) static pid_t fakecore(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    char log[200];
    snprintf(log, sizeof log, "%s.log", path);
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(fd, 64) < 0)
        return -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        static struct fc c;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        c.listen = fd;
        c.log = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        for (int i = 0; i < FC_CONNS; i++)
            c.fd[i] = -1;
        fc_serve(&c);
    }
    close(fd);
    return pid;
}
__attribute__((unused)) static void fakecore_kill(pid_t pid)
{
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}
/* How many lines of the log hold the words. */
__attribute__((unused)) static int fakecore_count(const char *path, const char *words)
{
    char log[200], *line = NULL;
    size_t cap = 0;
    int n = 0;
    snprintf(log, sizeof log, "%s.log", path);
    FILE *f = fopen(log, "re");
    while (f && getline(&line, &cap, f) > 0)
        n += strstr(line, words) != NULL;
    free(line);
    if (f)
        fclose(f);
    return n;
}

/* --- programs under test ------------------------------------------------------------------- */

/* A program of this build: beside the tests' directory. */
__attribute__((unused)) static const char *built(const char *name)
{
    static char path[4200];
    char self[4000];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
    }
    snprintf(path, sizeof path, "%s/%s", self, name);
    return path;
}
__attribute__((unused)) static const char *fresh_dir(void)
{
    static char dir[64];
    snprintf(dir, sizeof dir, "/tmp/hearth-t-XXXXXX");
    return mkdtemp(dir) ? dir : "/tmp";
}

#endif
