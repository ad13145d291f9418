/* answer.c - see answer.h. */
#include "client/answer.h"
#include "base/clock.h"
#include "client/jsonout.h"
#include "client/out.h"
#include "client/progress.h"
#include "client/say.h"
#include "client/words.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NEXT_WAIT_MS = 1000,
    NEXT_SPARE_MS = 2000,  /* past it the daemon is away, and the user should know */
    START_FIRST_MS = 5000, /* a START without a reply: load, or is the daemon away? */
    PING_MS = 2000,
    CANCEL_MS = 3000, /* who pressed Ctrl-C does not wait longer for a daemon that is away */
    END_MS = 10000,   /* nor for the end of an answer that was cancelled: its step goes on */
    IDLE_MAX = 4,     /* replies at once that bring nothing, in a row; then each costs a rest */
    IDLE_MS = 50,
    START_TRIES_MAX = 40,    /* of CLI_WAIT_MS each, while the daemon answers PING */
    TROUBLE_MS_MAX = 120000, /* how long a daemon may be away in the middle of an answer */
    AGAIN_MS = 300,
    LOAD_SAID_MS = 500, /* a model's load shorter than this is not worth a word */
};

struct run { /* one answer_run */
    struct cli *c;
    struct hearth_conn *conn;
    const struct answer_opts *o;
    struct answer *a;
    char *start; /* START's JSON */
    const void *tail;
    size_t tail_bytes;
    struct progress p;
    uint64_t trouble_ns; /* since when the daemon is away; 0: it is not */
    bool met;            /* the daemon has answered a PING while START waited */
    bool cancelled;      /* CANCEL was sent */
    uint64_t told_ns;    /* when it was answered */
    uint32_t idle;       /* replies in a row that came at once and brought nothing */
    bool wrote;          /* text is on stdout */
    char last;           /* the end of it */
    bool one_place;      /* stdout and stderr go to the same terminal, file or pipe */
    int warnings_said;   /* of those in warned */
    uint32_t restarts;
    cJSON *warned;
};

void answer_fini(struct answer *a)
{
    free(a->text);
    free(a->tokens);
    free(a->logprobs);
    cJSON_Delete(a->top);
    cJSON_Delete(a->start);
    cJSON_Delete(a->last);
    *a = (struct answer){0};
}
const char *answer_finish(const struct answer *a)
{
    return j_str(a->last, "finish", "");
}

/* --- records ------------------------------------------------------------------------------ */
static bool keep(struct answer *a, int32_t token, float logprob, const char *text, size_t n)
{
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? a->cap * 2 : 256;
        int32_t *t = realloc(a->tokens, cap * sizeof *t);
        if (t)
            a->tokens = t;
        float *l = t ? realloc(a->logprobs, cap * sizeof *l) : NULL;
        if (!l)
            return false;
        a->logprobs = l;
        a->cap = cap;
    }
    if (a->text_cap - a->text_n < n + 1) {
        size_t cap = (a->text_cap + n + 1) * 2;
        char *p = realloc(a->text, cap);
        if (!p)
            return false;
        a->text = p;
        a->text_cap = cap;
    }
    a->tokens[a->n] = token;
    a->logprobs[a->n++] = logprob;
    memcpy(a->text + a->text_n, text, n);
    a->text_n += n;
    a->text[a->text_n] = 0;
    return true;
}

static void put_text(struct run *r, const char *s, size_t n)
{
    cli_text(stdout, r->c->out_tty, s, n);
    r->wrote |= n > 0;
    r->last = n ? s[n - 1] : r->last;
}

static int records(struct run *r, const uint8_t *p, size_t n)
{
    struct answer *a = r->a;
    while (n) {
        if (n < HRT_REC_BYTES || ld16(p + 12) > n - HRT_REC_BYTES)
            return cli_fail(r->c, CLI_FAILED, "the daemon sent records that cannot be read");
        uint32_t index = ld32(p), len = ld16(p + 12);
        int32_t token = (int32_t)ld32(p + 4);
        float logprob;
        memcpy(&logprob, p + 8, sizeof logprob);
        const char *text = (const char *)p + HRT_REC_BYTES;
        p += HRT_REC_BYTES + len;
        n -= HRT_REC_BYTES + len;
        if (index < a->n)
            continue; /* here already, before the daemon restarted */
        if (!keep(a, token, logprob, text, len))
            return cli_fail(r->c, CLI_FAILED, "no memory for the answer");
        progress_done(&r->p);
        if (r->o->quiet_text)
            continue;
        if (!r->c->json) {
            put_text(r, text, len);
            continue;
        }
        struct jout j = {0};
        jout_open(&j, NULL, '{');
        jout_str(&j, "type", "text", 4);
        jout_num(&j, "index", index);
        jout_num(&j, "token", token);
        jout_str(&j, "text", text, len);
        if (r->o->logprobs)
            jout_float(&j, "logprob", logprob);
        jout_close(&j, '}');
        jout_line(&j);
        jout_fini(&j);
    }
    (void)out_flush(); /* a failure stays, and ends the answer as Ctrl-C does */
    return CLI_OK;
}

/* --- what else a reply says ---------------------------------------------------------------- */
static void show_progress(struct run *r, const cJSON *reply)
{
    const cJSON *g = j_get(reply, "progress");
    const char *state = j_str(reply, "state", "");
    bool brief = strcmp(state, "decode") == 0 || strcmp(state, "committing") == 0;
    if (brief || strcmp(state, "done") == 0 || !state[0])
        return;
    if (r->c->json) {
        struct jout j = {0};
        jout_open(&j, NULL, '{');
        jout_str(&j, "type", "progress", 8);
        jout_str(&j, "state", state, strlen(state));
        for (const cJSON *m = g ? g->child : NULL; m; m = m->next)
            jout_json(&j, m->string, m);
        jout_close(&j, '}');
        jout_line(&j);
        jout_fini(&j);
        return;
    }
    progress_show(&r->p, &(struct progress_at){.stage = state,
                                               .done = j_num(g, "done", 0),
                                               .total = j_num(g, "total", 0),
                                               .share = strcmp(state, "loading") == 0,
                                               .tokens_per_s = j_num(g, "tokens_per_s", -1),
                                               .eta_ms = j_num(g, "eta_ms", -1)});
}

/* Between words and the text of an answer in one place: the text's line is ended first. */
static const char *torn(struct run *r)
{
    bool in_line = r->wrote && r->last != '\n' && r->one_place;
    r->last = in_line ? '\n' : r->last;
    return in_line ? "\n" : "";
}

/* Those that have not been said yet. */
static void say_warnings(struct run *r)
{
    for (const cJSON *w; (w = cJSON_GetArrayItem(r->warned, r->warnings_said)) != NULL;
         r->warnings_said++) {
        progress_clear(&r->p);
        if (!r->c->json)
            say_err("%shearth: warning: %s\n", torn(r), shown(w->valuestring));
    }
}

static void show_warnings(struct run *r, const cJSON *reply)
{
    const cJSON *w, *old;
    cJSON_ArrayForEach(w, j_get(reply, "warnings"))
    {
        bool seen = !cJSON_IsString(w);
        cJSON_ArrayForEach(old, r->warned)
        {
            seen |= cJSON_IsString(w) && strcmp(old->valuestring, w->valuestring) == 0;
        }
        if (seen)
            continue;
        cJSON_AddItemToArray(r->warned, cJSON_Duplicate(w, false));
    }
    /* Where the two may be joined again (2>&1, a pager), an answer is not cut in two by them. */
    if (!r->wrote || (r->c->out_tty && r->c->err_tty))
        say_warnings(r);
}

static void keep_top(struct answer *a, const cJSON *reply)
{
    const cJSON *e;
    cJSON_ArrayForEach(e, j_get(reply, "logprobs"))
    {
        if (!a->top)
            a->top = cJSON_CreateArray();
        const cJSON *last = a->top && a->top->child ? a->top->child->prev : NULL;
        if (!last || j_num(e, "index", 0) > j_num(last, "index", -1))
            cJSON_AddItemToArray(a->top, cJSON_Duplicate(e, true));
    }
}

/* --- calls on the stream ------------------------------------------------------------------- */
/* false: the daemon was not reached, and nothing is to be waited for. */
static bool cancel(struct run *r)
{
    struct errbuf eb;
    struct hearth_reply rep = {0};
    char json[64];
    if (r->cancelled)
        return true;
    r->cancelled = true;
    progress_clear(&r->p);
    snprintf(json, sizeof json, "{\"stream\":\"%s\"}", r->a->request);
    /* A connection of its own: the stream's has NEXT open, and one carries one request. */
    if (!r->c->conn && cli_connect(r->c, &r->c->conn) != CLI_OK)
        return false;
    if (hearth_call(r->c->conn, HRT_CANCEL, json, NULL, 0, CANCEL_MS, &rep, &eb) < 0) {
        /* It sees that this process has ended; one that starts anew goes on with an answer only
         * for who comes back for it. */
        cli_note(
            r->c,
            "the daemon does not reply, so it was not told to stop; nobody %s any more, so "
            "it does not go on with it, now or after a restart; what %s of it is kept",
            r->o->quiet_text ? "waits for it" : "reads the answer",
            r->o->quiet_text ? "was read" : "there was");
        return false;
    }
    hearth_reply_fini(&rep);
    r->told_ns = now_ns();
    return true;
}

static bool answers_ping(struct run *r)
{
    struct errbuf eb;
    struct hearth_reply rep = {0};
    if (!r->c->conn && hearth_connect(&r->c->conn, r->c->url, &eb) < 0)
        return false;
    bool ok = hearth_call(r->c->conn, HRT_PING, NULL, NULL, 0, PING_MS, &rep, &eb) == 0 &&
              rep.status == HRT_OK;
    hearth_reply_fini(&rep);
    return ok;
}

/* Away too long? Otherwise a short rest. */
static bool patience(struct run *r)
{
    uint64_t now = now_ns();
    if (!r->trouble_ns) {
        r->trouble_ns = now;
        progress_stop(&r->p);
        cli_note(r->c, "%shearthd is gone or busy; waiting up to two minutes for it", torn(r));
    }
    if (cli_interrupted || now - r->trouble_ns > TROUBLE_MS_MAX * 1000000ull)
        return false;
    (void)poll(NULL, 0, AGAIN_MS);
    return true;
}

/* A START that failed with e: is it worth to be sent again?  *tries: how often for a PING. */
static bool start_again(struct run *r, int e, int *tries)
{
    if (e == -EINTR)
        return true;
    /* A model that is being loaded makes START wait: that is no trouble. */
    if (e == -ETIMEDOUT && *tries < START_TRIES_MAX && answers_ping(r)) {
        ++*tries;
        r->met = true;
        r->trouble_ns = 0;
        return true;
    }
    /* Who was there and is no more is waited for, as in the middle of an answer: the same
     * START finds or makes the stream.  Who was never there is not. */
    bool gone =
        (e == -ETIMEDOUT || e == -ECONNREFUSED || e == -EACCES) && hearth_reached(r->conn);
    return (gone || r->a->start) && patience(r);
}

/* START, first or again; r->a->start has the first reply. */
static int send_start(struct run *r)
{
    struct cli *c = r->c;
    int wait_ms = START_FIRST_MS, tries = 0;
    for (;;) {
        struct hearth_reply rep = {0};
        struct errbuf eb = {""};
        int e = hearth_call(r->conn, HRT_START, r->start, r->tail, r->tail_bytes,
                            (uint32_t)wait_ms, &rep, &eb);
        if (e == -EINTR && cli_interrupted) {
            (void)cancel(r);
            return CLI_INTERRUPTED;
        }
        wait_ms = CLI_WAIT_MS;
        if (e < 0 && start_again(r, e, &tries))
            continue;
        if (e < 0)
            return cli_interrupted ? CLI_INTERRUPTED : cli_fail_call(c, e, &eb);
        cJSON *o = cJSON_Parse(rep.json);
        uint32_t status = rep.status;
        hearth_reply_fini(&rep);
        if (status == HRT_UNAVAILABLE && (r->a->start || r->met) && patience(r)) {
            cJSON_Delete(o);
            continue;
        }
        if (status != HRT_OK) {
            r->a->refused = !r->a->start;
            int code = r->o->probe ? CLI_PROBE_MISSED : cli_fail_reply(c, status, o);
            cJSON_Delete(o);
            return code;
        }
        r->trouble_ns = 0;
        if (r->a->start)
            cJSON_Delete(o);
        else
            r->a->start = o;
        return CLI_OK;
    }
}

/* Where that number is this process's; 0: unknown. */
static unsigned long pid_ns(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (unsigned long)st.st_ino : 0;
}

/* One NEXT. CLI_OK with *ret NULL: ask again. */
static int ask_next(struct run *r, cJSON **ret)
{
    struct hearth_reply rep = {0};
    struct errbuf eb = {""};
    char json[200];
    snprintf(json, sizeof json,
             "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":%d,\"pid\":%ld,\"pid_ns\":%lu}",
             r->a->request, r->a->n, NEXT_WAIT_MS, (long)getpid(), pid_ns());
    *ret = NULL;
    int e =
        hearth_call(r->conn, HRT_NEXT, json, NULL, 0, NEXT_WAIT_MS + NEXT_SPARE_MS, &rep, &eb);
    if (e == -EINTR)
        return cli_interrupted && !cancel(r) ? CLI_INTERRUPTED : CLI_OK;
    if (e < 0)
        return patience(r)       ? CLI_OK
               : cli_interrupted ? CLI_INTERRUPTED
                                 : cli_fail_call(r->c, e, &eb);
    cJSON *o = cJSON_Parse(rep.json);
    int code = CLI_OK;
    if (rep.status == HRT_NOT_FOUND && !r->cancelled && r->restarts++ < 20) {
        /* Another daemon than the one that began: the same START finds or makes the stream. */
        if (r->restarts > 1)
            (void)poll(NULL, 0, AGAIN_MS);
        code = send_start(r);
    } else if (rep.status == HRT_UNAVAILABLE && patience(r)) {
        code = CLI_OK;
    } else if (rep.status != HRT_OK) {
        code = cli_fail_reply(r->c, rep.status, o);
    } else {
        r->trouble_ns = 0;
        if (rep.tail_bytes)
            r->restarts = 0;
        code = records(r, rep.tail, rep.tail_bytes);
        if (code == CLI_OK) {
            *ret = o;
            o = NULL;
        }
    }
    cJSON_Delete(o);
    hearth_reply_fini(&rep);
    return code;
}

/* A cancelled answer whose end does not come, from whatever answers there. */
static bool no_end(struct run *r)
{
    if (!r->cancelled || now_ns() - r->told_ns < END_MS * 1000000ull)
        return false;
    cli_note(r->c, "%sthe daemon was told to stop, and does not say that the answer has ended",
             torn(r));
    return true;
}

/* A daemon waits with an empty reply; what does not is not asked without a rest. */
static void rest(struct run *r, uint64_t asked_ns, uint32_t had)
{
    bool idle = r->a->n == had && now_ns() - asked_ns < IDLE_MS * 1000000ull;
    r->idle = idle ? r->idle + 1 : 0;
    if (r->idle > IDLE_MAX)
        (void)poll(NULL, 0, IDLE_MS);
}

static int read_out(struct run *r)
{
    for (;;) {
        cJSON *o = NULL;
        if ((cli_interrupted || out_lost()) && !r->cancelled && !cancel(r))
            return CLI_INTERRUPTED;
        if (no_end(r))
            return CLI_INTERRUPTED;
        uint64_t asked_ns = now_ns();
        uint32_t had = r->a->n;
        int code = ask_next(r, &o);
        if (code != CLI_OK)
            return code;
        if (!o)
            continue;
        keep_top(r->a, o);
        show_progress(r, o);
        show_warnings(r, o);
        if (strcmp(j_str(o, "state", ""), "done") == 0) {
            r->a->last = o;
            return CLI_OK;
        }
        cJSON_Delete(o);
        rest(r, asked_ns, had);
    }
}

static int verdict(struct run *r)
{
    const struct answer *a = r->a;
    const cJSON *err = j_get(a->last, "error");
    if (r->o->probe && !r->cancelled &&
        (cJSON_IsObject(err) || strcmp(answer_finish(a), "cancelled") == 0))
        return CLI_PROBE_MISSED;
    if (strcmp(answer_finish(a), "error") == 0 || cJSON_IsObject(err)) {
        uint32_t status = HRT_INTERNAL;
        for (uint32_t s = 0; s <= HRT_UNAUTHENTICATED; s++)
            if (strcmp(hrt_status_str(s), j_str(err, "status", "INTERNAL")) == 0)
                status = s;
        return cli_fail_reply(r->c, status, err);
    }
    if (strcmp(answer_finish(a), "cancelled") != 0)
        return CLI_OK;
    if (!r->cancelled) /* from another terminal, or nobody has read it: here nothing was pressed */
        cli_note(r->c, "cancelled before its end; what %s of it is kept",
                 r->o->quiet_text ? "was read" : "there is");
    return CLI_INTERRUPTED;
}

static bool same_file(int a, int b)
{
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

int answer_run(struct cli *c, cJSON *start, const void *tail, size_t tail_bytes,
               const struct answer_opts *o, struct answer *ret)
{
    struct winsize ws = {0};
    struct run r = {.c = c, .o = o, .a = ret, .tail = tail, .tail_bytes = tail_bytes};
    *ret = (struct answer){.text = calloc(1, 1), .text_cap = 1};
    snprintf(ret->request, sizeof ret->request, "%s", j_str(start, "id", ""));
    /* Who reads: when this process has ended, nobody does. */
    cJSON_AddNumberToObject(start, "pid", (double)getpid());
    cJSON_AddNumberToObject(start, "pid_ns", (double)pid_ns());
    r.start = cJSON_PrintUnformatted(start);
    r.warned = cJSON_CreateArray();
    cJSON_Delete(start);
    r.p = (struct progress){.tty = c->err_tty && c->color, .quiet = c->quiet || c->json};
    snprintf(r.p.what, sizeof r.p.what, "%s", o->what ? shown(o->what) : "");
    if (ioctl(2, TIOCGWINSZ, &ws) == 0)
        r.p.width = ws.ws_col;
    r.one_place = c->out_tty ? c->err_tty : same_file(STDOUT_FILENO, STDERR_FILENO);
    cli_interrupted = 0;
    cli_catch_interrupt();
    int code = r.start && r.warned && ret->text ? cli_connect(c, &r.conn)
                                                : cli_fail(c, CLI_FAILED, "no memory");
    if (code == CLI_OK)
        code = send_start(&r);
    if (code == CLI_OK)
        code = read_out(&r);
    /* Whoever stopped it, a stage that was cut off has not come to its end. */
    if (code == CLI_OK && strcmp(answer_finish(ret), "cancelled") != 0 &&
        !j_get(ret->last, "error"))
        progress_done(&r.p);
    progress_stop(&r.p);
    if (r.wrote && (ret->text_n == 0 || ret->text[ret->text_n - 1] != '\n')) {
        putchar('\n');
        (void)out_flush();
        r.last = '\n';
    }
    say_warnings(&r);
    if (code == CLI_OK)
        code = verdict(&r);
    /* Who reads JSON is told how it ended, also before there was anything to be done with. */
    if (code == CLI_INTERRUPTED && c->json && !ret->last)
        code = cli_fail_as(c, code, HRT_CANCELLED, "cancelled",
                           "interrupted before the answer had an end that could be read");
    ret->interrupted = r.cancelled;
    hearth_close(r.conn);
    free(r.start);
    cJSON_Delete(r.warned);
    return code;
}

/* --- the end ------------------------------------------------------------------------------- */
void answer_print_done(const struct answer *a, bool top)
{
    static const char *const parts[] = {"usage", "reused_from", "timings"};
    const cJSON *l = a->last,
                *s = j_get(l, "session") ? j_get(l, "session") : j_get(a->start, "session");
    const char *name = j_str(s, "name", ""), *id = j_str(s, "id", "");
    const char *m = j_str(l, "model", j_str(a->start, "model", ""));
    const char *finish = j_str(l, "finish", "error");
    struct jout j = {0};
    jout_open(&j, NULL, '{');
    jout_str(&j, "type", "done", 4);
    if (name[0] || id[0])
        jout_str(&j, "session", name[0] ? name : id, strlen(name[0] ? name : id));
    else
        jout_json(&j, "session", NULL);
    jout_str(&j, "request", a->request, strlen(a->request));
    jout_str(&j, "model", m, strlen(m));
    jout_str(&j, "text", a->text, a->text_n);
    jout_open(&j, "tokens", '[');
    for (uint32_t i = 0; i < a->n; i++)
        jout_num(&j, NULL, a->tokens[i]);
    jout_close(&j, ']');
    jout_open(&j, "logprobs", '[');
    for (uint32_t i = 0; i < a->n; i++)
        jout_float(&j, NULL, a->logprobs[i]);
    jout_close(&j, ']');
    if (top)
        jout_json(&j, "top_logprobs", a->top);
    jout_str(&j, "finish", finish, strlen(finish));
    jout_json(&j, "turn", j_get(l, "turn"));
    jout_bool(&j, "durable", j_bool(l, "durable"));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        jout_json(&j, parts[i], j_get(l, parts[i]));
    if (j_get(l, "warnings"))
        jout_json(&j, "warnings", j_get(l, "warnings"));
    if (j_get(l, "documents"))
        jout_json(&j, "documents", j_get(l, "documents"));
    jout_close(&j, '}');
    jout_line(&j);
    jout_fini(&j);
}

void answer_print_stats(struct cli *c, const struct answer *a, const char *of)
{
    const cJSON *u = j_get(a->last, "usage"), *t = j_get(a->last, "timings");
    char b[7][WORDS_BYTES], line[700];
    double made = j_num(u, "generated", a->n), decode = j_num(t, "decode_ms", 0);
    double read = j_num(u, "prefilled", 0), prefill = j_num(t, "prefill_ms", 0);
    double load = j_num(t, "load_ms", 0), first = j_num(t, "first_token_ms", 0);
    bool whole =
        first > 0; /* no first token: this is the end of one that went on after a restart */
    int n = snprintf(line, sizeof line, "%.200s%s[%.40s] ", shown(of), of[0] ? ": " : "",
                     shown(answer_finish(a)));
    if (made > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, "%s", words_tokens(b[0], made));
    if (whole && made > 1 && decode > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, ", %.1f t/s",
                      (made - 1) * 1000 / decode);
    if (whole && made > 0)
        n += snprintf(line + n, sizeof line - (size_t)n, ", first after %s",
                      words_ms(b[1], first));
    n += snprintf(line + n, sizeof line - (size_t)n, "%scontext %s: %s kept, %s read",
                  made > 0 ? "; " : "", words_count(b[2], j_num(u, "context", 0) + made),
                  words_count(b[3], j_num(u, "reused", 0)), words_count(b[4], read));
    if (read > 0 && prefill >= 1)
        n += snprintf(line + n, sizeof line - (size_t)n, " in %s", words_ms(b[5], prefill));
    if (made <= 0 && read > 0 && prefill >= 1)
        n += snprintf(line + n, sizeof line - (size_t)n, ", %.0f t/s", read * 1000 / prefill);
    if (load > LOAD_SAID_MS)
        n += snprintf(line + n, sizeof line - (size_t)n, "; model loaded in %s",
                      words_ms(b[6], load));
    if (!j_bool(a->last, "durable"))
        snprintf(line + n, sizeof line - (size_t)n, "; NOT on disk");
    cli_note(c, "%s", line);
}
