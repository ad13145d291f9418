/* cmd_cancel.c - ends a request that somebody else, or an earlier shell, began. */
#include "client/cli.h"
#include "client/named.h"
#include "client/say.h"
#include "client/words.h"
#include <errno.h>
#include <stdlib.h>

enum { END_MS = 20000, LOOK_MS = 1000 }; /* how long its step may go on */

/* A call whose refusal is not said here: CLI_OK with *ret_status and *ret (to cJSON_Delete). */
static int ask(struct cli *c, enum hrt_type type, const char *member, const char *value,
               uint32_t *ret_status, cJSON **ret)
{
    struct hearth_reply rep = {0};
    struct errbuf eb = {""};
    cJSON *req = cJSON_CreateObject();
    cJSON_AddStringToObject(req, member, value);
    if (type == HRT_NEXT) { /* at a cursor nobody reaches: the answer is not ours to read */
        cJSON_AddNumberToObject(req, "cursor", UINT32_MAX);
        cJSON_AddNumberToObject(req, "max_wait_ms", LOOK_MS);
    }
    char *json = cJSON_PrintUnformatted(req);
    cJSON_Delete(req);
    int code = !json     ? cli_fail(c, CLI_FAILED, "no memory")
               : c->conn ? CLI_OK
                         : cli_connect(c, &c->conn);
    if (code == CLI_OK) {
        int r;
        do
            r = hearth_call(c->conn, type, json, NULL, 0, CLI_WAIT_MS, &rep, &eb);
        while (r == -EINTR && !cli_interrupted);
        if (r < 0)
            code = cli_fail_call(c, r, &eb);
    }
    free(json);
    if (code == CLI_OK) {
        *ret_status = rep.status;
        *ret = cJSON_Parse(rep.json_bytes ? rep.json : "{}");
    }
    hearth_reply_fini(&rep);
    return code;
}

/* Until it has ended: what comes next (rm, unload) finds it gone. *ret has its finish then. */
static int await_end(struct cli *c, const char *stream, cJSON **ret)
{
    for (int ms = 0; ms < END_MS && !cli_interrupted; ms += LOOK_MS) {
        uint32_t status = HRT_OK;
        cJSON *o = NULL;
        int code = ask(c, HRT_NEXT, "stream", stream, &status, &o);
        if (code != CLI_OK)
            return code;
        if (status != HRT_OK || strcmp(j_str(o, "state", ""), "done") == 0) {
            *ret = o; /* one that was not admitted yet leaves no stream */
            return CLI_OK;
        }
        cJSON_Delete(o);
    }
    return CLI_OK;
}

/* What is kept of what was stopped, into words: of a document what was read, and its session says how
 * much; in --json that member of the session's. */
static int kept(struct cli *c, const cJSON *end, cJSON *reply, char *words, size_t cap)
{
    const char *session = j_str(j_get(end, "session"), "id", "");
    char b[2][WORDS_BYTES];
    uint32_t status = HRT_OK;
    cJSON *s = NULL;
    int code = session[0] ? ask(c, HRT_SESSION_SHOW, "session", session, &status, &s) : CLI_OK;
    const cJSON *g = j_get(s, "ingest"), *done = j_get(g, "done");
    if (!g)
        snprintf(words, cap, "what there is of its answer is kept");
    else
        snprintf(words, cap,
                 "%s of its document's %s are read and kept, and the same ingest "
                 "goes on",
                 cJSON_IsNumber(done) ? words_count(b[0], done->valuedouble) : "some",
                 words_tokens(b[1], j_num(g, "total", 0)));
    if (g)
        cJSON_AddItemToObject(reply, "ingest", cJSON_Duplicate(g, true));
    cJSON_Delete(s);
    return code;
}

/* reply: CANCEL's. */
static int tell(struct cli *c, const char *what, cJSON *reply)
{
    const char *stream = j_str(reply, "stream", "");
    cJSON *end = NULL;
    int code = stream[0] ? await_end(c, stream, &end) : CLI_OK;
    const char *finish = j_str(end, "finish", end ? "cancelled" : "");
    char left[200] = "";
    if (code == CLI_OK && strcmp(finish, "cancelled") == 0)
        code = kept(c, end, reply, left, sizeof left);
    if (code != CLI_OK) {
        cJSON_Delete(end);
        return code;
    }
    if (finish[0]) {
        cJSON_ReplaceItemInObjectCaseSensitive(reply, "state", cJSON_CreateString("done"));
        cJSON_AddStringToObject(reply, "finish", finish);
    }
    if (c->json)
        out_json(reply);
    else if (!stream[0])
        cli_note(c, "nothing runs in session %s", shown(what));
    else if (!finish[0])
        cli_note(c, "request %s was told to end; it does so after its present step",
                 shown(stream));
    else if (strcmp(finish, "cancelled") == 0)
        cli_note(c, "request %s is cancelled; %s", shown(stream), left);
    else
        cli_note(c, "request %s had ended already (%s)", shown(stream), shown(finish));
    cJSON_Delete(end);
    return CLI_OK;
}

/* The only request that runs, by its session. More of them are listed. */
static int find_running(struct cli *c, char ret[33])
{
    cJSON *req = cJSON_CreateObject(), *list = NULL;
    cJSON *one, *many = cJSON_CreateObject(), *all = cJSON_AddArrayToObject(many, "requests");
    const cJSON *s;
    int n = 0;
    cJSON_AddTrueToObject(req, "all");
    int code = cli_sessions(c, req, &list);
    cJSON_ArrayForEach(s, j_get(list, "sessions"))
    {
        if (j_bool(s, "running") && n++ == 0)
            snprintf(ret, 33, "%.32s", j_str(s, "request", j_str(s, "id", "")));
    }
    cJSON_ArrayForEach(s, j_get(list, "sessions"))
    {
        const char *name = cli_session_name(s);
        if (n < 2 || !j_bool(s, "running"))
            continue;
        cli_note(c, "  %s  %s", shown(j_str(s, "request", "?")), shown(name));
        cJSON_AddItemToArray(all, one = cJSON_CreateObject());
        cJSON_AddStringToObject(one, "request", j_str(s, "request", ""));
        cJSON_AddStringToObject(one, "session", name);
    }
    cJSON_Delete(list);
    c->more = many;
    if (code == CLI_OK && n > 1)
        code = cli_fail(c, CLI_USAGE, "%d requests run; which one? hearth cancel SESSION", n);
    c->more = NULL;
    cJSON_Delete(many);
    return code;
}

int cmd_cancel(struct cli *c, const struct args *a)
{
    static const char neither[] =
        "there is neither a request nor a session %s; `hearth sessions -a` shows which run";
    const char *what = a->n ? a->pos[0] : NULL;
    char found[33] = "";
    uint32_t status = HRT_OK, first = HRT_OK;
    cJSON *o = NULL, *refused = NULL;
    int code = what ? cli_name(c, "cancel", what) : find_running(c, found);
    if (code != CLI_OK)
        return code;
    cli_catch_interrupt();
    if (!what && !found[0]) {
        if (c->json)
            fputs("{\"state\":\"idle\"}\n", stdout);
        else
            cli_note(c, "nothing runs");
        return CLI_OK;
    }
    char whole[NAME_BYTES_MAX + 1];
    code = named_session(c, what ? what : found, NAMED_LEAST_SURE, true, whole);
    if (code != CLI_OK)
        return code;
    what = whole;
    /* Both kinds of ids look alike; a request is the likelier one, messages name it. */
    bool hex = strlen(what) == 32 && strspn(what, "0123456789abcdef") == 32;
    if (hex)
        code = ask(c, HRT_CANCEL, "stream", what, &first, &refused);
    if (code == CLI_OK && hex && first == HRT_OK) {
        o = refused;
        refused = NULL;
        if (!j_get(o, "stream"))
            cJSON_AddStringToObject(o, "stream", what);
    } else if (code == CLI_OK) {
        code = ask(c, HRT_CANCEL, "session", what, &status, &o);
        if (code == CLI_OK && status == HRT_NOT_FOUND && first == HRT_NOT_FOUND)
            code =
                cli_fail_as(c, CLI_NOT_FOUND, HRT_NOT_FOUND, "stream_not_found", neither, what);
        else if (code == CLI_OK && status == HRT_NOT_FOUND && !hex)
            code = cli_fail_as(c, CLI_NOT_FOUND, HRT_NOT_FOUND, "session_not_found", neither,
                               what);
        else if (code == CLI_OK && status != HRT_OK)
            code = hex ? cli_fail_reply(c, first, refused) : cli_fail_reply(c, status, o);
    }
    if (code == CLI_OK)
        code = tell(c, what, o);
    cJSON_Delete(refused);
    cJSON_Delete(o);
    return code;
}
