/* httproute.c - see httproute.h. */
#include "daemon/front/httproute.h"
#include "daemon/front/fjson.h"
#include "daemon/front/httpin.h"
#include "daemon/front/openai.h"
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

/* --- small endpoints --------------------------------------------------------------------- */
struct probe {
    struct hx *x;
    int64_t ask;
    bool metrics;
};
static void on_probe(void *user, const struct corelink_reply *r)
{
    struct probe *p = user;
    cJSON *o = front_reply(r->json, r->json_len);
    if (r->status != HRT_OK)
        openai_fail(p->x, hrt_status_http(r->status), front_str(o, "slug", "internal"), NULL,
                    front_str(o, "message", "hearthd refused"), 1000);
    else if (p->metrics) {
        struct fbuf b = {0};
        fbuf_text(&b, (const char *)r->tail, r->tail_len);
        hx_reply(p->x, 200, "text/plain; version=0.0.4; charset=utf-8", b.p, b.n, 0);
        fbuf_fini(&b);
    } else
        hx_reply(p->x, 200, "application/json", "{\"status\":\"ok\"}", 15, 0);
    cJSON_Delete(o);
    free(p);
}
static void probe_gone(void *user)
{
    struct probe *p = user;
    (void)corelink_forget(hx_core(p->x), p->ask);
    free(p);
}
static void ask_core(struct hx *x, bool metrics)
{
    static const struct hx_ops ops = {.gone = probe_gone, .answer_ms = HTTP_HEALTH_MS};
    struct probe *p = NULL;
    /* Whoever asks for health wants to know now, not in half a minute. */
    if (corelink_up(hx_core(x)) && (p = calloc(1, sizeof *p))) {
        p->x = x;
        p->metrics = metrics;
        p->ask =
            corelink_send_as(hx_core(x), metrics ? hx_as(x) : NULL,
                             metrics ? HRT_METRICS : HRT_PING, "{}", 2, NULL, 0, on_probe, p);
    }
    if (!p || p->ask < 0) {
        free(p);
        openai_fail(x, 503, "core_unavailable", NULL, "hearthd does not answer", 1000);
        return;
    }
    hx_own(x, &ops, p);
}

/* --- routes ------------------------------------------------------------------------------ */
static bool method_is(struct hx *x, const char *name)
{
    bool get = strcmp(name, "GET") == 0;
    if (strcmp(hx_method(x), name) == 0 || (get && strcmp(hx_method(x), "HEAD") == 0))
        return true; /* hx_reply leaves the body out */
    char words[80];
    snprintf(words, sizeof words, "this address wants %s", name);
    hx_add_header(x, "Allow", get ? "GET, HEAD" : name);
    openai_fail(x, 405, "bad_field", NULL, words, 0);
    return false;
}

static void chat(struct hx *x)
{
    const char *type = hx_header(x, "Content-Type");
    bool page = hx_header(x, "Origin") || hx_header(x, "Sec-Fetch-Site");
    /* A page's plain form cannot send this type without asking first. */
    if (type ? strncasecmp(type, "application/json", 16) != 0 ||
                   (type[16] && !strchr("; \t", type[16]))
             : page) {
        openai_fail(x, 415, "bad_field", NULL, "want Content-Type: application/json", 0);
        return;
    }
    const char *coding = hx_header(x, "Content-Encoding");
    if (coding && coding[0] && strcasecmp(coding, "identity") != 0) {
        char words[160];
        snprintf(words, sizeof words,
                 "Content-Encoding: %.*s is not taken; send the body as it is",
                 front_cut(coding, 60), coding);
        openai_fail(x, 415, "unsupported_field", NULL, words, 0);
        return;
    }
    size_t n;
    const char *p = hx_body(x, &n);
    openai_chat(x, p ? p : "", n);
}

/* A browser asks whether a page may: who may not has been refused by now. */
static bool preflight(struct hx *x)
{
    static const char wanted[] = "Access-Control-Request-Headers";
    bool any = false;
    uint32_t at = 0;
    if (strcmp(hx_method(x), "OPTIONS") != 0 || !hx_header(x, "Origin") ||
        !hx_header(x, "Access-Control-Request-Method"))
        return false;
    hx_add_header(x, "Access-Control-Allow-Methods", "GET, POST");
    hx_add_header(x, "Access-Control-Max-Age", "600");
    if (hx_header(x, "Access-Control-Request-Private-Network"))
        hx_add_header(x, "Access-Control-Allow-Private-Network", "true");
    for (const char *v; (v = hx_header_next(x, wanted, &at)) != NULL;)
        if (strlen(v) < 600) {
            hx_add_header(x, "Access-Control-Allow-Headers", v);
            any = true;
        }
    if (!any)
        hx_add_header(x, "Access-Control-Allow-Headers", "authorization, content-type");
    hx_reply(x, 204, "text/plain", "", 0, 0);
    return true;
}

void httproute(struct hx *x, const char *path)
{
    static const char models[] = "/v1/models/";
    if (preflight(x))
        return;
    if (strcmp(path, "/v1/chat/completions") == 0) {
        if (method_is(x, "POST"))
            chat(x);
    } else if (strcmp(path, "/v1/models") == 0) {
        if (method_is(x, "GET"))
            openai_models(x, NULL);
    } else if (strncmp(path, models, sizeof models - 1) == 0 && path[sizeof models - 1]) {
        char *id = httpin_unescape(path + sizeof models - 1);
        if (method_is(x, "GET"))
            openai_models(x, id ? id : "");
        free(id);
    } else if (strcmp(path, "/health") == 0) {
        if (method_is(x, "GET"))
            ask_core(x, false);
    } else if (strcmp(path, "/metrics") == 0) {
        if (method_is(x, "GET"))
            ask_core(x, true);
    } else {
        char words[300];
        snprintf(words, sizeof words,
                 "no such address: %.100s; there are /v1/chat/completions, /v1/models, /health "
                 "and /metrics",
                 front_utf8_ok(path, strlen(path)) ? path : "(not UTF-8)");
        openai_fail(x, 404, "not_found", NULL, words, 0);
    }
}

void httproute_full(int fd, uint32_t conns, bool user)
{
    char words[200], reply[600];
    snprintf(words, sizeof words,
             "%u connections of this %s are in use, and no more of them are taken; use those",
             conns, user ? "user" : "address");
    char *json = openai_error_json(429, "queue_full", "", words);
    int n = snprintf(reply, sizeof reply,
                     "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: "
                     "application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                     json ? strlen(json) : 0, json ? json : "");
    free(json);
    if (n > 0 && n < (int)sizeof reply)
        (void)send(fd, reply, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
}
