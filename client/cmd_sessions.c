/* cmd_sessions.c - the sessions verbs and du: thin over SESSION_*. */
#include "client/cli.h"
#include "client/ledger.h"
#include "client/named.h"
#include "client/say.h"
#include "client/table.h"
#include "client/words.h"
#include <stdlib.h>
#include <strings.h>
#include <time.h>

/* "-": it cannot be told until the model is loaded. */
static const char *bytes_of(char ret[WORDS_BYTES], const cJSON *s, const char *tier)
{
    const cJSON *n = j_get(j_get(s, "bytes"), tier);
    if (cJSON_IsNumber(n))
        return words_bytes(ret, n->valuedouble);
    snprintf(ret, WORDS_BYTES, "-");
    return ret;
}

static int turns_of(const cJSON *s)
{
    const cJSON *t = j_get(s, "turns");
    return cJSON_IsArray(t) ? cJSON_GetArraySize(t) : (int)j_num(s, "turns", 0);
}

/* How far its document has been read. */
static const char *ingest_words(const cJSON *s, char *ret, size_t cap)
{
    const cJSON *g = j_get(s, "ingest");
    char b[2][WORDS_BYTES];
    const char *done =
        cJSON_IsNumber(j_get(g, "done")) ? words_count(b[0], j_num(g, "done", 0)) : "some";
    snprintf(ret, cap, "%s: read %s of %s", j_bool(s, "running") ? "running" : "partial", done,
             words_count(b[1], j_num(g, "total", 0)));
    return ret;
}

/* all: those without a name were looked for, too. */
static int none_listed(struct cli *c, bool all)
{
    cJSON *st = NULL;
    int code = all ? CLI_OK : cli_call(c, HRT_STATUS, NULL, NULL, 0, &st, NULL);
    double more = j_num(j_get(st, "sessions"), "anonymous", 0);
    if (code == CLI_OK && more > 0)
        cli_note(c,
                 "no session has a name; `hearth sessions -a` lists the %.0f that %s none, too",
                 more, more > 1 ? "have" : "has");
    else if (code == CLI_OK)
        cli_note(
            c,
            "no sessions yet; `hearth chat -s NAME` or `hearth ingest -s NAME FILE` makes one");
    cJSON_Delete(st);
    return code;
}

int cmd_sessions(struct cli *c, const struct args *a)
{
    static const char *const head[] = {"NAME",  "MODEL", ">TOKENS", ">TURNS",
                                       ">HOST", ">DISK", "USED",    ""};
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    const cJSON *s;
    cJSON_AddBoolToObject(req, "all", args_has(a, "all"));
    int code = cli_sessions(c, req, &o);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        out_json(o);
        cJSON_Delete(o);
        return CLI_OK;
    }
    struct table t;
    table_init(&t, head, 8);
    cJSON_ArrayForEach(s, j_get(o, "sessions"))
    {
        char b[5][WORDS_BYTES], turns[16], note[100];
        snprintf(turns, sizeof turns, "%d", turns_of(s));
        table_add(&t, cli_session_name(s), j_str(s, "model", ""),
                  words_count(b[0], j_num(s, "tokens", 0)), turns, bytes_of(b[1], s, "host"),
                  bytes_of(b[2], s, "file"), words_idle(b[3], j_num(s, "idle_s", 0)),
                  j_get(s, "lost")       ? "lost turns"
                  : j_get(s, "ingest")   ? ingest_words(s, note, sizeof note)
                  : j_bool(s, "running") ? "running"
                  : j_bool(s, "pinned")  ? "pinned"
                                         : "");
    }
    if (t.rows)
        table_print(&t);
    else
        code = none_listed(c, args_has(a, "all"));
    cJSON_Delete(o);
    return code;
}

/* A request about the session that stands first: an exit code, and *ret to be taken. */
static int for_session(struct cli *c, const char *typed, bool changing, cJSON **ret)
{
    char name[NAME_BYTES_MAX + 1];
    int code = named_session(c, typed, changing ? NAMED_LEAST_SURE : NAMED_LEAST, false, name);
    if (code != CLI_OK)
        return code;
    *ret = changing ? j_req() : cJSON_CreateObject();
    cJSON_AddStringToObject(*ret, "session", name);
    return CLI_OK;
}

static void print_session(const cJSON *s)
{
    static const char *const head[] = {">TURN", "ROLE", ">AT", ">TOKENS", "WHEN", "END"};
    char b[8][WORDS_BYTES];
    const cJSON *t;
    say_out("%s\n  id       %s\n  model    %s\n  tokens   %s\n", shown(cli_session_name(s)),
            shown(j_str(s, "id", "")), shown(j_str(s, "model", "")),
            words_count(b[0], j_num(s, "tokens", 0)));
    say_out("  bytes    %s on the device, %s in memory, %s on disk%s\n",
            bytes_of(b[1], s, "device"), bytes_of(b[2], s, "host"), bytes_of(b[3], s, "file"),
            cJSON_IsNull(j_get(j_get(s, "bytes"), "file"))
                ? " (-: not known until the model is loaded)"
                : "");
    say_out("  created  %s, used %s%s%s\n", words_ago(b[4], j_num(s, "created", 0)),
            words_idle(b[5], j_num(s, "idle_s", 0)), j_bool(s, "pinned") ? ", pinned" : "",
            j_bool(s, "running") ? ", running" : "");
    char note[100];
    if (j_get(s, "ingest"))
        say_out(
            "  ingest   %s tokens of the last document%s\n", ingest_words(s, note, sizeof note),
            j_bool(s, "running") ? ""
                                 : "; the same `hearth ingest` goes on, as does a question");
    const cJSON *lost = j_get(s, "lost");
    double from = j_num(lost, "from", 0), to = j_num(lost, "to", 0);
    if (lost && to > from)
        say_out("  lost     tokens %.0f to %.0f, to damage on disk: it goes on from %.0f; "
                "`rewind` says that you have seen it\n",
                from, to, from);
    else if (lost)
        say_out("  lost     perhaps its newest turns, or the record of one, to damage on disk; "
                "`rewind` says that you have seen it\n");
    struct table tab;
    table_init(&tab, head, 6);
    cJSON_ArrayForEach(t, j_get(s, "turns"))
    {
        char n[16], finish[64];
        snprintf(n, sizeof n, "%.0f", j_num(t, "n", 0));
        snprintf(finish, sizeof finish, "%s%s",
                 j_bool(t, "interrupted") ? "interrupted" : j_str(t, "finish", ""),
                 j_get(t, "durable") && !j_bool(t, "durable") ? " not on disk" : "");
        table_add(&tab, n, j_str(t, "role", ""), words_count(b[0], j_num(t, "position", 0)),
                  words_count(b[1], j_num(t, "tokens", 0)),
                  words_ago(b[2], j_num(t, "time", 0)), finish);
    }
    if (tab.rows)
        table_print(&tab);
}

/* Every turn with its role, or in --json with a member "text" more. */
static int add_texts(struct cli *c, cJSON *session, const struct hearth_reply *ids)
{
    cJSON *t;
    cJSON_ArrayForEach(t, cJSON_GetObjectItem(session, "turns"))
    {
        char *text = NULL;
        size_t n = 0;
        int code = cli_turn_text(c, session, t, ids, &text, &n);
        if (code != CLI_OK)
            return code;
        if (c->json) {
            cJSON_AddStringToObject(t, "text", text);
        } else {
            bool dim = c->out_tty && c->color;
            fputs(dim ? "\033[2m" : "", stdout);
            say_out("[%.0f %s]", j_num(t, "n", 0), shown(j_str(t, "role", "?")));
            fputs(dim ? "\033[0m\n" : "\n", stdout);
            cli_text(stdout, c->out_tty, text, n);
            fputs(n && text[n - 1] == '\n' ? "\n" : "\n\n", stdout);
        }
        free(text);
    }
    return CLI_OK;
}

int cmd_session_show(struct cli *c, const struct args *a)
{
    cJSON *req, *o = NULL;
    struct hearth_reply rep = {0};
    bool ids = args_has(a, "ids"), texts = args_has(a, "text");
    if (ids && texts && !c->json)
        return cli_usage(c, "--text and --ids: give one of them, or both with --json");
    int code = for_session(c, a->pos[0], false, &req);
    if (code != CLI_OK)
        return code;
    cJSON_AddBoolToObject(req, "ids", ids || texts);
    code = cli_call(c, HRT_SESSION_SHOW, req, NULL, 0, &o, &rep);
    if (code != CLI_OK)
        return code;
    size_t n = rep.tail_bytes / sizeof(int32_t);
    if (texts)
        code = add_texts(c, o, &rep);
    if (c->json && ids) {
        cJSON *list = cJSON_AddArrayToObject(o, "ids");
        for (size_t i = 0; i < n; i++)
            cJSON_AddItemToArray(list, cJSON_CreateNumber((int32_t)ld32(rep.tail + 4 * i)));
    }
    if (code != CLI_OK || (texts && !c->json)) {
        /* said already */
    } else if (c->json) {
        out_json(o);
    } else if (ids) {
        for (size_t i = 0; i < n; i++)
            say_out("%d%c", (int32_t)ld32(rep.tail + 4 * i), i + 1 < n ? ' ' : '\n');
    } else {
        print_session(o);
    }
    hearth_reply_fini(&rep);
    cJSON_Delete(o);
    return code;
}

/* Calls, prints the session that came of it, or one line. */
static int change(struct cli *c, enum hrt_type type, cJSON *req, const char *did)
{
    cJSON *o = NULL;
    char b[WORDS_BYTES];
    int code = cli_call(c, type, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        out_json(o);
    else
        cli_note(c, "%s %s, %s", did, shown(cli_session_name(o)),
                 words_tokens(b, j_num(o, "tokens", 0)));
    cJSON_Delete(o);
    return CLI_OK;
}

/* --turn or --to, --at or --tokens: a whole number into req; 1 when given. */
static int place(struct cli *c, const struct args *a, const char *flag, cJSON *req,
                 const char *member)
{
    struct errbuf eb;
    double v;
    int r = args_num(a, flag, 0, 1 << 30, true, &v, &eb);
    if (r < 0)
        return cli_usage(c, eb.s), -1;
    if (r > 0)
        cJSON_AddNumberToObject(req, member, v);
    return r;
}

int cmd_session_fork(struct cli *c, const struct args *a)
{
    cJSON *req, *o = NULL;
    int code = for_session(c, a->pos[0], true, &req);
    if (code != CLI_OK)
        return code;
    if (a->n > 1 && strcmp(j_str(req, "session", ""), a->pos[1]) == 0) {
        cJSON_Delete(req);
        return cli_usage(c, "that is the session's own name, the fork needs another: hearth "
                            "sessions fork NAME NEW");
    }
    if (a->n > 1)
        cJSON_AddStringToObject(req, "name", a->pos[1]);
    int t = place(c, a, "turn", req, "turn"), k = t < 0 ? -1 : place(c, a, "tokens", req, "at");
    if (k < 0 || (t > 0 && k > 0)) {
        cJSON_Delete(req);
        return k < 0 ? CLI_USAGE : cli_usage(c, "--turn and --tokens: give one of them");
    }
    code = cli_call(c, HRT_SESSION_FORK, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        out_json(o);
    else
        say_out("%s\n", shown(cli_session_name(
                            o))); /* an anonymous fork's id is what the caller needs next */
    if (a->n < 2)
        cli_note(
            c,
            "the fork has no name: it is called by this id, and expires when it is not used; "
            "`hearth sessions rename %s NAME` keeps it",
            shown(j_str(o, "id", "")));
    cJSON_Delete(o);
    return CLI_OK;
}

int cmd_session_rewind(struct cli *c, const struct args *a)
{
    cJSON *req;
    int code = for_session(c, a->pos[0], true, &req);
    if (code != CLI_OK)
        return code;
    int t = place(c, a, "to", req, "to_turn"),
        k = t < 0 ? -1 : place(c, a, "tokens", req, "to_tokens");
    if (k < 0 || t + k != 1) {
        cJSON_Delete(req);
        return k < 0 ? CLI_USAGE
                     : cli_usage(c, "how far? --to TURN keeps turns 1 to TURN, --tokens N "
                                    "keeps the first N "
                                    "tokens");
    }
    return change(c, HRT_SESSION_REWIND, req, "rewound");
}

int cmd_session_rename(struct cli *c, const struct args *a)
{
    cJSON *req;
    int code = for_session(c, a->pos[0], true, &req);
    if (code != CLI_OK)
        return code;
    if (strcmp(j_str(req, "session", ""), a->pos[1]) == 0) {
        cJSON_Delete(req);
        return cli_usage(c, "that is its name already: hearth sessions rename NAME NEW");
    }
    cJSON_AddStringToObject(req, "name", a->pos[1]);
    return change(c, HRT_SESSION_RENAME, req, "renamed to");
}

static int pin(struct cli *c, const struct args *a, bool pinned)
{
    cJSON *req;
    int code = for_session(c, a->pos[0], true, &req);
    if (code != CLI_OK)
        return code;
    cJSON_AddBoolToObject(req, "pinned", pinned);
    return change(c, HRT_SESSION_PIN, req, pinned ? "pinned" : "unpinned");
}
int cmd_session_pin(struct cli *c, const struct args *a)
{
    return pin(c, a, true);
}
int cmd_session_unpin(struct cli *c, const struct args *a)
{
    return pin(c, a, false);
}

/* All without a name that nobody has used for a while. Those that run, or are pinned, stay. */
static int rm_anonymous(struct cli *c, double older_s)
{
    cJSON *req = cJSON_CreateObject(), *list = NULL, *out = cJSON_CreateObject();
    cJSON *gone = cJSON_CreateArray();
    const cJSON *s;
    int removed = 0, kept = 0, stay = 0;
    cJSON_AddTrueToObject(req, "all");
    int code = cli_sessions(c, req, &list);
    cli_catch_interrupt();
    cJSON_ArrayForEach(s, j_get(list, "sessions"))
    {
        const char *id = j_str(s, "id", "");
        if (code != CLI_OK || !j_bool(s, "anonymous"))
            continue;
        if (j_num(s, "idle_s", 0) < older_s) { /* by the daemon's clock: walls are set */
            kept++;
            continue;
        }
        if (j_bool(s, "running") || j_bool(s, "pinned")) {
            stay++;
            continue;
        }
        if (cli_interrupted) {
            code = CLI_INTERRUPTED;
            continue;
        }
        req = j_req();
        cJSON_AddStringToObject(req, "session", id);
        code = cli_call(c, HRT_SESSION_REMOVE, req, NULL, 0, NULL, NULL);
        if (code == CLI_NOT_FOUND)
            code = CLI_OK; /* it expired meanwhile */
        if (code != CLI_OK)
            continue;
        ledger_unlink(id);
        removed++;
        cJSON_AddItemToArray(gone, cJSON_CreateString(id));
    }
    cJSON_AddNumberToObject(out, "removed", removed);
    cJSON_AddNumberToObject(out, "kept", kept + stay);
    cJSON_AddItemToObject(out, "sessions", gone);
    if (c->json && list)
        out_json(out);
    else if (list)
        cli_note(c, "removed %d session%s without a name, %d kept%s", removed, words_s(removed),
                 kept + stay, stay ? " (those that run or are pinned stay)" : "");
    cJSON_Delete(out);
    cJSON_Delete(list);
    return code;
}

/* The whole of what it was: what was typed may have been the beginning of its id. */
static void removed_say(struct cli *c, const cJSON *o, const char *typed)
{
    const char *id = j_str(o, "id", ""), *name = j_str(o, "name", "");
    if (name[0] && id[0])
        cli_note(c, "removed %s, id %s", shown(name), shown(id));
    else
        cli_note(c, "removed %s", shown(id[0] ? id : typed));
}

/* Is it one of those that went before?  Named twice, by its name, its id or the beginning of that,
 * it is to go once. */
static bool gone_already(const cJSON *gone, const char *typed, const char *whole)
{
    const cJSON *o;
    cJSON_ArrayForEach(o, gone)
    {
        const char *id = j_str(o, "id", "");
        if (strcmp(j_str(o, "session", ""), typed) == 0 ||
            strcmp(j_str(o, "name", ""), typed) == 0 || strcmp(id, whole) == 0 ||
            (strlen(typed) >= NAMED_LEAST_SURE && strncasecmp(id, typed, strlen(typed)) == 0))
            return true;
    }
    return false;
}

int cmd_session_rm(struct cli *c, const struct args *a)
{
    const char *older = args_str(a, "older");
    double s = 0;
    int worst = CLI_OK;
    if (older && !words_seconds(older, &s))
        return cli_fail(c, CLI_USAGE,
                        "--older: want a time as 90s, 30m, 12h or 1d, got \"%.40s\"", older);
    if (args_has(a, "anonymous") && a->n)
        return cli_usage(c, "--anonymous: give it, or names");
    if (args_has(a, "anonymous"))
        return rm_anonymous(c, s);
    if (older || !a->n)
        return cli_usage(c, older ? "--older goes with --anonymous"
                                  : "which? hearth sessions rm NAME..., or --anonymous");
    cJSON *gone = cJSON_CreateArray();
    for (int i = 0; i < a->n; i++) {
        cJSON *req = NULL, *o = NULL;
        int code = for_session(c, a->pos[i], true, &req);
        if (code == CLI_OK && gone_already(gone, a->pos[i], j_str(req, "session", ""))) {
            cJSON_Delete(req);
            continue;
        }
        if (code == CLI_OK)
            code = cli_call(c, HRT_SESSION_REMOVE, req, NULL, 0, &o, NULL);
        if (code != CLI_OK) {
            worst = code;
            continue;
        }
        ledger_unlink(j_str(o, "id", ""));
        cJSON_AddStringToObject(o, "session", a->pos[i]);
        if (c->json)
            out_json(o);
        else
            removed_say(c, o, a->pos[i]);
        cJSON_AddItemToArray(gone, o);
    }
    cJSON_Delete(gone);
    return worst;
}

int cmd_session_export(struct cli *c, const struct args *a)
{
    (void)a;
    return cli_not_yet(c, "sessions export",
                       "`hearth sessions show NAME --ids` prints a session's tokens");
}

int cmd_session_import(struct cli *c, const struct args *a)
{
    (void)a;
    return cli_not_yet(c, "sessions import",
                       "`hearth ingest -s NAME --ids FILE` puts token ids into a session");
}

int cmd_du(struct cli *c, const struct args *a)
{
    static const char *const head[] = {">DISK", ">HOST", ">DEVICE", ">TOKENS", "SESSION"};
    cJSON *req = cJSON_CreateObject(), *list = NULL, *st = NULL;
    const cJSON *s;
    (void)a;
    cJSON_AddTrueToObject(req, "all");
    int code = cli_sessions(c, req, &list);
    if (code == CLI_OK)
        code = cli_call(c, HRT_STATUS, NULL, NULL, 0, &st, NULL);
    if (code == CLI_OK && c->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToObject(o, "tiers", cJSON_Duplicate(j_get(st, "tiers"), true));
        cJSON_AddItemToObject(o, "written", cJSON_Duplicate(j_get(st, "written"), true));
        cJSON_AddItemToObject(o, "sessions", cJSON_Duplicate(j_get(list, "sessions"), true));
        out_json(o);
        cJSON_Delete(o);
    } else if (code == CLI_OK) {
        struct table t;
        char b[6][WORDS_BYTES];
        const cJSON *tiers = j_get(st, "tiers");
        table_init(&t, head, 5);
        cJSON_ArrayForEach(s, j_get(list, "sessions"))
            table_add(&t, bytes_of(b[0], s, "file"), bytes_of(b[1], s, "host"),
                      bytes_of(b[2], s, "device"), words_count(b[3], j_num(s, "tokens", 0)),
                      cli_session_name(s));
        table_add(&t, words_bytes(b[0], j_num(j_get(tiers, "file"), "used", 0)),
                  words_bytes(b[1], j_num(j_get(tiers, "host"), "used", 0)),
                  words_bytes(b[2], j_num(j_get(tiers, "device"), "used", 0)), "",
                  "in use (shared blocks once)");
        table_add(&t, words_bytes(b[0], j_num(j_get(tiers, "file"), "allocated", 0)), "-", "-",
                  "", "allocated on disk");
        table_add(&t, words_bytes(b[0], j_num(j_get(tiers, "file"), "limit", 0)),
                  words_bytes(b[1], j_num(j_get(tiers, "host"), "limit", 0)),
                  words_bytes(b[2], j_num(j_get(tiers, "device"), "limit", 0)), "", "limit");
        table_print(&t);
    }
    cJSON_Delete(list);
    cJSON_Delete(st);
    return code;
}
