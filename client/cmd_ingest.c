/* cmd_ingest.c - puts documents into a session; stopped and started again, it goes on.
 *
 * Each FILE is one START of its own (input "documents", max_tokens 0).  Its request id is
 * remembered (ledger.h) before it is sent.  The same command again skips a document that is
 * in, goes on with one whose request the daemon still knows, and otherwise, when nothing
 * came behind it, takes the session back to where the document began and sends it anew: blocks
 * that were finished are found in the store, so nothing is computed twice.  What came behind it
 * stays, whatever it is. */
#include "client/answer.h"
#include "client/encoding.h"
#include "client/ledger.h"
#include "client/named.h"
#include "client/say.h"
#include "client/split.h"
#include "client/words.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    DOC_BYTES_MAX = TAIL_BYTES_MAX, /* as the daemon says it */
    SPLIT_FILES_MAX = 64,
    ELSEWHERE_MAX = 8,
    SETTLE_TRIES = 5,
    TOKEN_BYTES_MAX = 1024,   /* no vocabulary has longer ones */
    AROUND_TOKENS_MAX = 4096, /* what a template puts around a text, and more */
};

struct doc {
    void *text;
    size_t n;
    char what[200]; /* for words */
};
struct ingest {
    struct cli *c;
    const struct args *a;
    char session[33]; /* its id */
    const char *name;
    struct ledger ledger;
    bool warned, told;  /* told: that the part is in already */
    bool many;          /* documents: each line says of which it is */
    struct doc first;   /* read before anything is made */
    struct answer last; /* of the last document that was sent */
    bool has_last;
    cJSON *warnings; /* for the last object; NULL: none */
    cJSON *docs;     /* and what became of each document of this session */
    const char *path;
    size_t part, parts; /* of the one that goes in; part 0: it is whole */
};

/* Tokens of the session now; with ids: those from `from` on hashed into ret_hash. */
static int look(struct ingest *g, bool ids, uint64_t from, uint64_t to, uint64_t *ret_tokens,
                char ret_hash[33], cJSON **ret)
{
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    struct hearth_reply rep = {0};
    cJSON_AddStringToObject(req, "session", g->session);
    cJSON_AddBoolToObject(req, "ids", ids);
    int code = cli_call(g->c, HRT_SESSION_SHOW, req, NULL, 0, &o, &rep);
    if (code != CLI_OK)
        return code;
    uint64_t n = ids ? rep.tail_bytes / sizeof(int32_t) : 0;
    *ret_tokens = (uint64_t)j_num(o, "tokens", 0);
    ret_hash[0] = 0;
    if (to == 0)
        to = n;
    if (ids && from <= to && to <= n)
        ledger_hash(rep.tail + from * sizeof(int32_t), (to - from) * sizeof(int32_t), "",
                    ret_hash);
    hearth_reply_fini(&rep);
    if (ret)
        *ret = o;
    else
        cJSON_Delete(o);
    return CLI_OK;
}

/* Is what the session has below position `to` on the disk?  A turn is when all before it are. */
static bool on_disk(const cJSON *session, double to)
{
    const cJSON *t;
    bool durable = false;
    cJSON_ArrayForEach(t, j_get(session, "turns"))
    {
        if (j_num(t, "position", 0) < to)
            durable = j_bool(t, "durable");
    }
    return durable;
}

/* Is the document what the session has in [from, to)?  A document's tokens go in whole before any
 * of them is read, and with them what the template puts around it; some take blanks off its ends. */
static int is_there(struct ingest *g, const cJSON *session, const struct hearth_reply *ids,
                    double from, double to, const void *doc, size_t n, bool *ret)
{
    const size_t id = sizeof(int32_t);
    const char *p = doc;
    char *text = NULL;
    size_t text_n = 0;
    *ret = false;
    if (args_has(g->a, "ids")) {
        *ret =
            n == (size_t)(to - from) * id && memcmp(ids->tail + (size_t)from * id, doc, n) == 0;
        return CLI_OK;
    }
    for (; n && strchr(" \t\r\n", *p); p++)
        n--;
    while (n && strchr(" \t\r\n", p[n - 1]))
        n--;
    /* Most of a session's turns are seen to be another document without their text. */
    if ((double)n > (to - from) * TOKEN_BYTES_MAX ||
        (from > 0 && to - from > (double)n + AROUND_TOKENS_MAX))
        return CLI_OK;
    cJSON *range = cJSON_CreateObject();
    cJSON_AddNumberToObject(range, "position", from);
    cJSON_AddNumberToObject(range, "tokens", to - from);
    int code = cli_turn_text(g->c, session, range, ids, &text, &text_n);
    if (code == CLI_OK)
        *ret = n && memmem(text, text_n, p, n) != NULL;
    free(text);
    cJSON_Delete(range);
    return code;
}

/* What became of a document that this user has begun to put in. */
struct found {
    bool whole; /* all of it is there, last in d's before to after, with their ids */
    bool open;  /* it is the end of the session, and its reading was stopped */
    bool more;  /* there is something behind it, or in its place */
    uint64_t now;
};

/* Looks for the turn that it is: where it began tells little, for the daemon goes on with a turn
 * that another request has begun.  What is only begun and has nothing behind it is nobody's
 * acknowledged turn; all else that is found behind d->before is. */
static int find(struct ingest *g, struct ledger_doc *d, const void *doc, size_t n,
                struct found *ret)
{
    cJSON *req = cJSON_CreateObject(), *s = NULL;
    struct hearth_reply rep = {0};
    const cJSON *t;
    cJSON_AddStringToObject(req, "session", g->session);
    cJSON_AddTrueToObject(req, "ids");
    *ret = (struct found){0};
    int code = cli_call(g->c, HRT_SESSION_SHOW, req, NULL, 0, &s, &rep);
    double all = (double)(rep.tail_bytes / sizeof(int32_t)), before = (double)d->before;
    ret->now = (uint64_t)all;
    const cJSON *turns = j_get(s, "turns");
    for (int i = cJSON_GetArraySize(turns); i-- > 0 && code == CLI_OK;) {
        t = cJSON_GetArrayItem(turns, i);
        double from = j_num(t, "position", 0), to = from + j_num(t, "tokens", 0);
        if (to > all)
            continue;
        if (to > before) {
            ret->more |= from > before || to < all || !j_get(s, "ingest");
            ret->open |= from >= before && to == all && j_get(s, "ingest");
        }
        if (ret->whole || to <= from || !j_bool(t, "document"))
            continue;
        code = is_there(g, s, &rep, from, to, doc, n, &ret->whole);
        if (code != CLI_OK || !ret->whole)
            continue;
        d->before = (uint64_t)from;
        d->after = (uint64_t)to;
        ledger_hash(rep.tail + d->before * sizeof(int32_t),
                    (d->after - d->before) * sizeof(int32_t), "", d->ids);
        ret->open = to == all && j_get(s, "ingest");
    }
    hearth_reply_fini(&rep);
    cJSON_Delete(s);
    return code;
}

/* The document is the first that the session has from d->before on: its turn, without asking for its
 * text, which may be more than one answer holds.  *ret_n: so many of them there are. */
static int next_turn(struct ingest *g, struct ledger_doc *d, uint32_t *ret_n)
{
    cJSON *s = NULL;
    const cJSON *t;
    uint64_t all, from = d->before;
    char none[33];
    int code = look(g, false, 0, 0, &all, none, &s);
    if (code != CLI_OK)
        return code;
    d->after = all;
    *ret_n = 0;
    cJSON_ArrayForEach(t, j_get(s, "turns"))
    {
        double at = j_num(t, "position", 0), n = j_num(t, "tokens", 0);
        if (!j_bool(t, "document") || at < (double)from || n <= 0 || (*ret_n)++)
            continue;
        d->before = (uint64_t)at;
        d->after = (uint64_t)(at + n);
    }
    cJSON_Delete(s);
    return look(g, true, d->before, d->after, &all, d->ids, NULL);
}

static void remember(struct ingest *g, const struct ledger_doc *d)
{
    if (ledger_put(&g->ledger, d) < 0 && !g->warned) {
        cli_note(g->c, "cannot write %s: a second run will not know what this one did",
                 g->ledger.path[0] ? shown(g->ledger.path) : "the state directory");
        g->warned = true;
    }
}

/* Said in words at once, in --json as a warning of the last object. */
static void tell(struct ingest *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(struct ingest *g, const char *fmt, ...)
{
    char words[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    if (!g->warnings)
        g->warnings = cJSON_CreateArray();
    cJSON_AddItemToArray(g->warnings, cJSON_CreateString(words));
    if (!g->c->json)
        say_err("hearth: warning: %s\n", shown(words));
}

/* A call whose refusal is not the user's business.  The reply's status, or negative; of an
 * object the caller deletes. */
static int ask_quietly(struct ingest *g, enum hrt_type type, cJSON *req, cJSON **ret)
{
    struct hearth_reply rep = {0};
    struct errbuf eb;
    char *json = cJSON_PrintUnformatted(req);
    cJSON_Delete(req);
    int r =
        json ? hearth_call(g->c->conn, type, json, NULL, 0, CLI_WAIT_MS, &rep, &eb) : -ENOMEM;
    free(json);
    if (r == 0) {
        r = (int)rep.status;
        if (ret)
            *ret = cJSON_Parse(rep.json_bytes ? rep.json : "{}");
    }
    hearth_reply_fini(&rep);
    return r;
}

/* Takes the session back to where the document began, unless somebody has written to it since it
 * was looked at: *ret_again then. */
static int take_back(struct ingest *g, uint64_t to, uint64_t now, bool *ret_again)
{
    cJSON *req = j_req(), *o = NULL;
    cJSON_AddStringToObject(req, "session", g->session);
    cJSON_AddNumberToObject(req, "to_tokens", (double)to);
    cJSON_AddNumberToObject(req, "if_tokens", (double)now);
    int r = ask_quietly(g, HRT_SESSION_REWIND, req, &o), code = CLI_OK;
    *ret_again = strcmp(j_str(o, "slug", ""), "session_changed") == 0;
    if (r < 0)
        code = cli_fail_call(g->c, r, &(struct errbuf){""});
    else if (r != HRT_OK && !*ret_again)
        code = cli_fail_reply(g->c, (uint32_t)r, o);
    cJSON_Delete(o);
    return code;
}

/* A stopped one that cannot be continued by its id.  Where something has come behind it, that was
 * acknowledged and stays: it has had the document read to its end (then d->done), or the document
 * is not there (any more), and goes in at the end.  Else back to where it began. */
static int settle(struct ingest *g, struct ledger_doc *d, const char *what, const void *doc,
                  size_t n)
{
    struct found f = {0};
    const uint64_t began = d->before;
    bool again = true;
    int code = CLI_OK;
    for (int tries = SETTLE_TRIES; again && code == CLI_OK; tries--) {
        if (tries == 0)
            return cli_fail(g->c, CLI_LATER, "session %s: others write to it; try again",
                            g->name);
        again = false;
        d->before = began;
        code = find(g, d, doc, n, &f);
        if (code == CLI_OK && f.whole && !f.open) {
            d->done = true;
            return CLI_OK;
        }
        /* What is whole the daemon knows by itself, and goes on with it. */
        bool goes_on = f.whole && !args_has(g->a, "ids") && !args_str(g->a, "system");
        if (code == CLI_OK && f.open && (f.whole || !f.more)) {
            if (!goes_on)
                code = take_back(g, d->before, f.now, &again);
            f.now = d->before;
            f.more = false;
        }
    }
    if (code == CLI_OK && f.more)
        tell(g,
             "%s was stopped, is not whole in session %s, and other turns came after it; they "
             "stay, and it goes in behind them",
             what, g->name);
    hearth_new_id(d->request);
    d->before = f.now;
    return code;
}

/* Is there a session of this name?  When that cannot be told, it was not made here. */
static bool none_such(struct ingest *g)
{
    cJSON *req = cJSON_CreateObject();
    cJSON_AddStringToObject(req, "session", g->name);
    return ask_quietly(g, HRT_SESSION_SHOW, req, NULL) == HRT_NOT_FOUND;
}

/* The session was made for a document that was refused: what nothing got into goes again.  A
 * request that still runs keeps it (the daemon refuses). */
static void unmake(struct ingest *g)
{
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    cJSON_AddStringToObject(req, "session", g->session);
    if (ask_quietly(g, HRT_SESSION_SHOW, req, &o) == HRT_OK && j_num(o, "tokens", 1) == 0) {
        req = j_req();
        cJSON_AddStringToObject(req, "session", g->session);
        (void)ask_quietly(g, HRT_SESSION_REMOVE, req, NULL);
    }
    cJSON_Delete(o);
}

/* Does the daemon know the request?  One that it has forgotten would be taken for a new one, and
 * the document put in a second time.  It is asked: no clock here says how old that is there. */
static bool known_there(struct ingest *g, const struct ledger_doc *d)
{
    cJSON *req = cJSON_CreateObject();
    cJSON_AddStringToObject(req, "stream", d->request);
    cJSON_AddNumberToObject(req, "cursor", 0);
    cJSON_AddNumberToObject(req, "max_wait_ms", 0);
    return ask_quietly(g, HRT_NEXT, req, NULL) == HRT_OK;
}

static int send_doc(struct ingest *g, const struct ledger_doc *d, const char *what,
                    const void *tail, size_t n, bool probe)
{
    cJSON *start = cJSON_CreateObject();
    cJSON_AddStringToObject(start, "id", d->request);
    cJSON_AddStringToObject(start, "session", g->session);
    cJSON_AddStringToObject(start, "input", args_has(g->a, "ids") ? "tokens" : "documents");
    if (args_has(g->a, "raw"))
        cJSON_AddTrueToObject(start, "raw");
    if (args_str(g->a, "system"))
        cJSON_AddStringToObject(start, "system", args_str(g->a, "system"));
    cJSON *p = cJSON_AddObjectToObject(start, "params");
    cJSON_AddNumberToObject(p, "max_tokens", 0);
    if (g->has_last)
        answer_fini(&g->last);
    g->has_last = true;
    struct answer_opts o = {.what = what, .quiet_text = true, .probe = probe};
    return answer_run(g->c, start, tail, n, &o, &g->last);
}

/* What a file is called while it goes in. */
static void doc_name(const struct args *a, int i, char *ret, size_t cap)
{
    const char *slash = strrchr(a->pos[i], '/'), *name = slash ? slash + 1 : a->pos[i];
    if (a->n > 1)
        snprintf(ret, cap, "%s (%d of %d)", name, i + 1, a->n);
    else
        snprintf(ret, cap, "%s", name);
}

/* For --json, what the words say of each document.  end: of its request; NULL: it was in already. */
static void note_doc(struct ingest *g, const struct ledger_doc *d, bool durable,
                     const cJSON *end)
{
    static const char *const parts[] = {"usage", "timings"};
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "document", g->path);
    if (g->part) {
        cJSON_AddNumberToObject(o, "part", (double)g->part);
        cJSON_AddNumberToObject(o, "parts", (double)g->parts);
    }
    cJSON_AddStringToObject(o, "session", g->name);
    cJSON_AddBoolToObject(o, "already", !end);
    cJSON_AddStringToObject(o, "finish", j_str(end, "finish", "stop"));
    if (d->after > d->before)
        cJSON_AddNumberToObject(o, "tokens", (double)(d->after - d->before));
    cJSON_AddBoolToObject(o, "durable", durable);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (j_get(end, parts[i]))
            cJSON_AddItemToObject(o, parts[i], cJSON_Duplicate(j_get(end, parts[i]), true));
    cJSON_AddItemToArray(g->docs, o);
}

static int say_it_is_in(struct ingest *g, const char *what, const struct ledger_doc *d)
{
    char b[WORDS_BYTES], none[33];
    cJSON *s = NULL;
    uint64_t now;
    int code = look(g, false, 0, 0, &now, none, &s);
    g->told = true;
    if (code == CLI_OK)
        note_doc(g, d, on_disk(s, (double)d->after), NULL);
    if (code == CLI_OK)
        cli_note(g->c, "%s is in session %s already (%s)%s", shown(what), shown(g->name),
                 words_tokens(b, (double)(d->after - d->before)),
                 on_disk(s, (double)d->after) ? "" : "; NOT on disk");
    cJSON_Delete(s);
    return code;
}

/* Did the session have it before it was one of its own, as a fork has?  The ids prove it. */
static int known_by_fork(struct ingest *g, struct ledger_doc *d, bool *ret)
{
    struct ledger_doc there[ELSEWHERE_MAX];
    int n = ledger_elsewhere(&g->ledger, d->hash, there, ELSEWHERE_MAX), code = CLI_OK;
    char ids[33];
    uint64_t now;
    *ret = false;
    for (int i = 0; i < n && code == CLI_OK && !*ret; i++) {
        code = look(g, true, there[i].before, there[i].after, &now, ids, NULL);
        if (code == CLI_OK && strcmp(ids, there[i].ids) == 0) { /* the same text */
            *d = there[i];
            *ret = true;
        }
    }
    return code;
}

/* A document is its bytes, and how they are read. */
static void doc_hash(const struct ingest *g, const void *doc, size_t n, char ret[33])
{
    ledger_hash(doc, n,
                args_has(g->a, "ids")   ? "ids"
                : args_has(g->a, "raw") ? "raw"
                                        : "text",
                ret);
}

static int one_doc(struct ingest *g, const char *what, const void *tail, size_t n)
{
    struct cli *c = g->c;
    struct ledger_doc d = {0};
    char hash[33], ids[33];
    uint64_t now;
    doc_hash(g, tail, n, hash);
    bool known = ledger_find(&g->ledger, hash, &d), fresh = !known;
    cJSON *s = NULL;
    int code = look(g, known && d.done, d.before, d.after, &now, ids, &s);
    if (code != CLI_OK)
        return code;
    /* In it may be, and not read to its end: who took back what had read it left it so. */
    bool cut = j_get(s, "ingest") != NULL, open = now == d.after && cut;
    cJSON_Delete(s);
    if (known && d.done && d.ids[0] && strcmp(ids, d.ids) == 0) {
        if (!open)
            return say_it_is_in(g, what, &d);
        d.done = false;
        hearth_new_id(d.request);
        remember(g, &d);
    }
    bool forked = false;
    if (!known && now) {
        snprintf(d.hash, sizeof d.hash, "%s", hash);
        code = known_by_fork(g, &d, &forked);
        if (code != CLI_OK)
            return code;
    }
    if (forked) {
        remember(g, &d);
        return say_it_is_in(g, what, &d);
    }
    if (known && (d.done || now < d.before))
        fresh = true; /* the session was taken back past it since */
    if (fresh) {
        d = (struct ledger_doc){.before = now};
        snprintf(d.hash, sizeof d.hash, "%s", hash);
        hearth_new_id(d.request);
        remember(g, &d);
    }
    bool probe = !fresh && known_there(g, &d);
    if (fresh || probe)
        code = send_doc(g, &d, what, tail, n, probe);
    if (!fresh && (!probe || code == CLI_PROBE_MISSED)) {
        code = settle(g, &d, what, tail, n);
        if (code != CLI_OK)
            return code;
        remember(g, &d);
        if (d.done)
            return say_it_is_in(g, what, &d);
        code = send_doc(g, &d, what, tail, n, false);
    }
    if (fresh && g->last.refused) /* nothing of it was begun */
        ledger_drop(&g->ledger, d.hash);
    if (code == CLI_INTERRUPTED) {
        if (g->last.last)
            note_doc(g, &d, j_bool(g->last.last, "durable"), g->last.last);
        cli_note(c, "stopped; the same command goes on with %s", shown(what));
        return code;
    }
    if (code != CLI_OK)
        return code;
    /* One that began earlier may have ended long ago, with others behind it; what had been cut off may
     * have been gone on with; and another may have come between the look and this one. */
    struct found f = {0};
    struct ledger_doc own = d;
    uint32_t n_docs = 0;
    code = next_turn(g, &own, &n_docs);
    if (code == CLI_OK && (!fresh || cut || n_docs > 1))
        code = find(g, &d, tail, n, &f);
    d = f.whole ? d : own;
    d.done = d.after > d.before;
    if (code == CLI_OK)
        remember(g, &d);
    if (code == CLI_OK)
        note_doc(g, &d, j_bool(g->last.last, "durable"), g->last.last);
    if (!c->json)
        answer_print_stats(c, &g->last, g->many ? what : "");
    return code;
}

static void add_documents(struct ingest *g, cJSON *done)
{
    cJSON_AddItemToObject(done, "documents", cJSON_Duplicate(g->docs, true));
}

/* The done object when nothing had to be sent. */
static int print_nothing_to_do(struct ingest *g)
{
    cJSON *s = NULL;
    uint64_t n;
    char none[33];
    int code = look(g, false, 0, 0, &n, none, &s);
    if (code != CLI_OK)
        return code;
    struct answer a = {.text = strdup("")};
    const char *m = j_str(s, "model", "");
    a.last = cJSON_CreateObject();
    cJSON *t = cJSON_AddObjectToObject(a.last, "session");
    cJSON_AddStringToObject(t, "id", g->session);
    cJSON_AddStringToObject(t, "name", g->name);
    cJSON_AddStringToObject(a.last, "model", m);
    cJSON_AddStringToObject(a.last, "finish", "stop");
    cJSON_AddNumberToObject(a.last, "turn", cJSON_GetArraySize(j_get(s, "turns")));
    cJSON_AddBoolToObject(a.last, "durable", on_disk(s, HUGE_VAL));
    cJSON *u = cJSON_AddObjectToObject(a.last, "usage");
    cJSON_AddNumberToObject(u, "context", (double)n);
    cJSON_AddNumberToObject(u, "reused", (double)n);
    cJSON_AddNumberToObject(u, "prefilled", 0);
    cJSON_AddNumberToObject(u, "generated", 0);
    add_documents(g, a.last);
    answer_print_done(&a, false);
    answer_fini(&a);
    cJSON_Delete(s);
    return CLI_OK;
}

/* A document ends in a newline: what follows it, another or the question, begins a line. */
static int read_doc(struct cli *c, const struct args *a, const char *path, bool hush,
                    void **ret, size_t *ret_n)
{
    char *text = NULL;
    size_t n = 0;
    const char *what = strcmp(path, "-") == 0 ? "standard input" : path;
    int code = cli_read(c, path, DOC_BYTES_MAX, &text, &n);
    if (code == CLI_OK && !args_has(a, "ids"))
        code = encoding_take(c, a, what, DOC_BYTES_MAX, hush, &text, &n);
    if (code != CLI_OK)
        return code;
    if (n == 0) {
        free(text);
        return cli_mistake(c, what, "%s is empty", what);
    }
    if (args_has(a, "ids")) {
        int32_t *ids = NULL;
        code = cli_ids(c, text, &ids, ret_n);
        free(text);
        *ret = ids;
        *ret_n *= sizeof *ids;
        return code;
    }
    if (text[n - 1] != '\n' && n < DOC_BYTES_MAX)
        text[n++] = '\n'; /* over the terminator: the length counts from here */
    *ret = text;
    *ret_n = n;
    return CLI_OK;
}

static int a_directory(struct cli *c, const char *path)
{
    char dir[4096], word[WORDS_SHELL_BYTES];
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    snprintf(dir, sizeof dir, "%.*s", (int)n, path);
    return cli_mistake(c, path, "cannot read %s: it is a directory; give the files in it: %s/*",
                       path, n == 1 && dir[0] == '/' ? "" : words_shell(word, dir));
}

/* What can be known of the files before a session is made for them: an exit code. */
static int check_files(struct cli *c, const struct args *a)
{
    for (int i = 0; i < a->n; i++) {
        struct stat st;
        const char *path = a->pos[i];
        if (strcmp(path, "-") == 0)
            continue;
        if (stat(path, &st) < 0 || access(path, R_OK) < 0)
            return cli_mistake(c, path, "cannot read %s: %s", path, strerror(errno));
        if (S_ISDIR(st.st_mode))
            return a_directory(c, path);
        if (S_ISREG(st.st_mode) && st.st_size > DOC_BYTES_MAX)
            return cli_mistake(c, path,
                               "%s has %lld bytes, one document may have %d; " CLI_SPLIT_FILE,
                               path, (long long)st.st_size, DOC_BYTES_MAX);
        void *text = NULL;
        size_t n;
        int code = i && S_ISREG(st.st_mode) ? read_doc(c, a, path, true, &text, &n) : CLI_OK;
        free(text); /* that of the first is read at once, and said then */
        if (code != CLI_OK)
            return code;
    }
    return CLI_OK;
}

/* Beside those that the daemon has for its answer. */
static void add_warnings(struct ingest *g)
{
    cJSON *w = cJSON_GetObjectItemCaseSensitive(g->last.last, "warnings"), *one;
    if (!w && g->warnings)
        w = cJSON_AddArrayToObject(g->last.last, "warnings");
    while ((one = cJSON_DetachItemFromArray(g->warnings, 0)) != NULL)
        cJSON_AddItemToArray(w, one);
}

/* Makes the session and puts docs into it, the files of the command line or (part) one of theirs. */
static int into_session(struct ingest *g, const struct doc *part)
{
    struct cli *c = g->c;
    cJSON *s = NULL;
    bool made = none_such(g);
    cJSON *req = j_req();
    cJSON_AddStringToObject(req, "name", g->name);
    cJSON_AddTrueToObject(req, "create");
    if (args_str(g->a, "model"))
        cJSON_AddStringToObject(req, "model", args_str(g->a, "model"));
    int code = cli_call(c, HRT_SESSION_OPEN, req, NULL, 0, &s, NULL);
    if (code != CLI_OK)
        return code;
    snprintf(g->session, sizeof g->session, "%s", j_str(s, "id", ""));
    cJSON_Delete(s);
    ledger_open(&g->ledger, g->session);
    cJSON *more = cJSON_CreateObject();
    g->docs = cJSON_AddArrayToObject(more, "documents");
    c->more = more;
    for (int i = 0; i < (part ? 1 : g->a->n) && code == CLI_OK; i++) {
        struct doc d = part ? *part : (struct doc){0};
        if (!part && i == 0) {
            d = g->first;
            g->first.text = NULL;
        } else if (!part) {
            code = read_doc(c, g->a, g->a->pos[i], false, &d.text, &d.n);
        }
        if (!part)
            doc_name(g->a, i, d.what, sizeof d.what);
        if (!part)
            g->path = g->a->pos[i];
        if (code == CLI_OK)
            code = one_doc(g, d.what, d.text, d.n);
        if (!part)
            free(d.text);
    }
    if (made && code != CLI_OK)
        unmake(g);
    if (c->json &&
        (code == CLI_OK || (code == CLI_INTERRUPTED && g->has_last && g->last.last))) {
        if (g->has_last && g->last.last) {
            add_warnings(g);
            add_documents(g, g->last.last);
            answer_print_done(&g->last, false);
        } else {
            code = print_nothing_to_do(g);
        }
    }
    if (g->has_last)
        answer_fini(&g->last);
    g->has_last = false;
    cJSON_Delete(g->warnings);
    g->warnings = NULL;
    cJSON_Delete(more);
    c->more = g->docs = NULL;
    ledger_close(&g->ledger);
    return code;
}

/* Is the session of that name free for the part: there is none, nothing is in it, or the part is
 * (what this user has written down says so, or that of the session it was forked from)?  Others
 * would be mixed with it. */
static int free_for(struct ingest *g, const struct doc *part)
{
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    struct ledger_doc d = {0};
    bool ours = false;
    cJSON_AddStringToObject(req, "session", g->name);
    int r = ask_quietly(g, HRT_SESSION_SHOW, req, &o), code = CLI_OK;
    if (r == HRT_OK && j_num(o, "tokens", 0) > 0) {
        snprintf(g->session, sizeof g->session, "%s", j_str(o, "id", ""));
        ledger_open(&g->ledger, g->session);
        doc_hash(g, part->text, part->n, d.hash);
        ours = ledger_find(&g->ledger, d.hash, &d);
        if (!ours)
            code = known_by_fork(g, &d, &ours);
        ledger_close(&g->ledger);
        if (code == CLI_OK && !ours)
            code = cli_fail_as(
                g->c, CLI_FAILED, HRT_ALREADY_EXISTS, "session_exists",
                "session %s has something else in it than %s, and nothing was put in; give "
                "this split another NAME, or remove what the old one left: `hearth sessions "
                "rm %s`",
                g->name, part->what, g->name);
    }
    cJSON_Delete(o);
    return code;
}

/* --split: all files in parts, each in a session of its own, NAME-1 and so on; of only one part in
 * all, NAME.  All names are looked at before the first is written to. */
static int in_parts(struct ingest *g)
{
    struct cli *c = g->c;
    const char *base = g->name;
    struct doc file[SPLIT_FILES_MAX] = {g->first};
    struct part *part[SPLIT_FILES_MAX] = {NULL};
    size_t n[SPLIT_FILES_MAX] = {0}, all = 0;
    char name[NAME_BYTES_MAX + 32];
    int code = CLI_OK;
    g->first.text = NULL;
    for (int i = 0; i < g->a->n && code == CLI_OK; i++) {
        if (i)
            code = read_doc(c, g->a, g->a->pos[i], false, &file[i].text, &file[i].n);
        if (code == CLI_OK)
            code = split_text(c, args_str(g->a, "model"), g->a->pos[i], file[i].text, file[i].n,
                              &part[i], &n[i]);
        all += n[i];
    }
    g->many = all > 1;
    g->name = name;
    for (int round = all > 1 ? 0 : 1; round < 2; round++) {
        size_t at = 0;
        for (int i = 0; i < g->a->n; i++) {
            for (size_t k = 0; k < n[i] && code == CLI_OK; k++) {
                struct doc d = {(char *)file[i].text + part[i][k].from, part[i][k].n, ""};
                char of[140];
                at++;
                snprintf(name, sizeof name, all > 1 ? "%s-%zu" : "%s", base, at);
                doc_name(g->a, i, of, sizeof of);
                if (n[i] > 1)
                    snprintf(d.what, sizeof d.what, "%.139s, part %zu of %zu", of, k + 1, n[i]);
                else
                    snprintf(d.what, sizeof d.what, "%s", of);
                g->told = false;
                g->path = g->a->pos[i];
                g->part = n[i] > 1 ? k + 1 : 0;
                g->parts = n[i];
                code = cli_name(c, "--session", name);
                if (code == CLI_OK)
                    code = round ? into_session(g, &d) : free_for(g, &d);
                if (round && code == CLI_OK && all > 1 && !g->told)
                    cli_note(c, "%s is in session %s", shown(d.what), shown(name));
            }
        }
    }
    for (int i = 0; i < g->a->n; i++) {
        free(file[i].text);
        free(part[i]);
    }
    g->name = base;
    return code;
}

int cmd_ingest(struct cli *c, const struct args *a)
{
    struct ingest g = {.c = c, .a = a, .name = args_str(a, "session")};
    bool split = args_has(a, "split");
    char whole[NAME_BYTES_MAX + 1];
    if (!g.name || !g.name[0])
        return cli_usage(c, "--session: which one? hearth ingest -s NAME FILE...");
    if (split && (args_has(a, "ids") || a->n > SPLIT_FILES_MAX))
        return cli_fail(c, CLI_USAGE,
                        "--split: cuts text, not --ids, of at most %d files at a time",
                        SPLIT_FILES_MAX);
    if (!split && !args_has(a, "ids"))
        c->too_long =
            "the same command with --split makes parts of it, NAME-1 and so on, each a "
            "session with room for questions";
    if (split)
        c->occupied = "there is other text in it already; give this split another NAME";
    g.many = a->n > 1;
    int code = check_files(c, a);
    if (code == CLI_OK)
        code = read_doc(c, a, a->pos[0], false, &g.first.text, &g.first.n);
    if (code == CLI_OK && !c->conn)
        code = cli_connect(c, &c->conn);
    if (code == CLI_OK && !split) {
        code = named_session(c, g.name, NAMED_LEAST_SURE, false, whole);
        g.name = whole;
    }
    if (code == CLI_OK)
        code = split ? in_parts(&g) : into_session(&g, NULL);
    free(g.first.text);
    return code;
}
