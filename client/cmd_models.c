/* cmd_models.c - models, show, load, unload, ps, plan: thin over MODEL_*. */
#include "client/cli.h"
#include "client/progress.h"
#include "client/say.h"
#include "client/table.h"
#include "client/words.h"
#include <math.h>
#include <poll.h>
#include <stdlib.h>

enum { STATE_MS = 120000, LOOK_MS = 50 }; /* how long a load, or an unload, is waited for */

static const char *until(const cJSON *m, char b[WORDS_BYTES])
{
    double s = j_num(m, "keep_alive_s", -1);
    return s < 0 ? "for ever" : words_ms(b, s * 1000);
}

static int fetch(struct cli *c, cJSON **ret)
{
    return cli_call(c, HRT_MODEL_LIST, NULL, NULL, 0, ret, NULL);
}

int cmd_models(struct cli *c, const struct args *a)
{
    static const char *const head[] = {"NAME",     "ARCH",  "QUANT", ">SIZE",
                                       ">CONTEXT", "STATE", ""};
    cJSON *o = NULL;
    const cJSON *m;
    (void)a;
    int code = fetch(c, &o);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        out_json(o);
    } else {
        struct table t;
        table_init(&t, head, 7);
        cJSON_ArrayForEach(m, j_get(o, "models"))
        {
            char b[2][WORDS_BYTES];
            const char *note = j_str(m, "error", j_bool(m, "default") ? "default" : "");
            double context = j_num(m, "context", 0);
            table_add(&t, j_str(m, "name", ""), j_str(m, "arch", "?"), j_str(m, "quant", "?"),
                      words_bytes(b[0], j_num(m, "file_bytes", 0)),
                      context > 0 ? words_count(b[1], context) : "?", j_str(m, "state", "?"),
                      note);
        }
        if (t.rows)
            table_print(&t);
        else
            cli_note(
                c, "no models; put GGUF files into %s (%s), or start hearthd with --model FILE",
                shown(j_str(o, "directory", "the directory of its --models")), CLI_GET_MODEL);
    }
    cJSON_Delete(o);
    return CLI_OK;
}

/* Members as lines, nested ones indented: what there is, not what we thought of. */
static void print_members(const cJSON *o, int indent)
{
    for (const cJSON *m = o->child; m; m = m->next) {
        if (cJSON_IsObject(m)) {
            say_out("%*s%s\n", indent, "", shown(m->string));
            print_members(m, indent + 2);
            continue;
        }
        char *s = cJSON_IsString(m) ? NULL : cJSON_PrintUnformatted(m), b[WORDS_BYTES];
        bool bytes = cJSON_IsNumber(m) && strstr(m->string, "bytes");
        say_out("%*s%-*s %s%s%s%s\n", indent, "", 18 - indent, shown(m->string),
                s                   ? shown(s)
                : cJSON_IsString(m) ? shown(m->valuestring)
                                    : "",
                bytes ? " (" : "", bytes ? words_bytes(b, m->valuedouble) : "",
                bytes ? ")" : "");
        free(s);
    }
}

int cmd_show(struct cli *c, const struct args *a)
{
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    cJSON_AddStringToObject(req, "model", a->pos[0]);
    int code = cli_call(c, HRT_MODEL_SHOW, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        out_json(o);
    else
        print_members(o, 0);
    cJSON_Delete(o);
    return CLI_OK;
}

int cmd_load(struct cli *c, const struct args *a)
{
    cJSON *req = j_req(), *o = NULL;
    cJSON_AddStringToObject(req, "model", a->pos[0]);
    int code = cli_call(c, HRT_MODEL_LOAD, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    char stream[33], model[256];
    snprintf(stream, sizeof stream, "%.32s", j_str(o, "stream", ""));
    snprintf(model, sizeof model, "%s", j_str(o, "model", a->pos[0]));
    struct progress p = {.tty = c->err_tty && c->color, .quiet = c->quiet || c->json};
    snprintf(p.what, sizeof p.what, "%.39s", shown(model));
    cli_catch_interrupt();
    while (code == CLI_OK && !cli_interrupted &&
           strcmp(j_str(o, "state", "done"), "done") != 0 &&
           strcmp(j_str(o, "state", ""), "loaded") != 0) {
        cJSON_Delete(o);
        o = NULL;
        req = cJSON_CreateObject();
        cJSON_AddStringToObject(req, "stream", stream);
        cJSON_AddNumberToObject(req, "cursor", 0);
        cJSON_AddNumberToObject(req, "max_wait_ms", 1000);
        code = cli_call(c, HRT_NEXT, req, NULL, 0, &o, NULL);
        const cJSON *g = j_get(o, "progress"), *err = j_get(o, "error");
        if (code == CLI_OK && cJSON_IsObject(err))
            code = cli_fail_reply(c, HRT_FAILED_PRECONDITION, err);
        else if (code == CLI_OK && c->json && g) {
            cJSON_AddStringToObject(o, "type", "progress");
            out_json(o);
        } else if (code == CLI_OK)
            progress_show(&p, &(struct progress_at){.stage = "loading",
                                                    .done = j_num(g, "done", 0),
                                                    .total = j_num(g, "total", 0),
                                                    .share = true,
                                                    .tokens_per_s = -1,
                                                    .eta_ms = j_num(g, "eta_ms", -1)});
    }
    if (code == CLI_OK && !cli_interrupted)
        progress_done(&p);
    progress_clear(&p);
    cJSON_Delete(o);
    if (code == CLI_OK && cli_interrupted)
        code = CLI_INTERRUPTED; /* the daemon goes on loading: that is what it is for */
    if (code != CLI_OK)
        return code;
    if (c->json) {
        cJSON *done = cJSON_CreateObject();
        cJSON_AddStringToObject(done, "type", "done");
        cJSON_AddStringToObject(done, "model", model);
        cJSON_AddStringToObject(done, "state", "loaded");
        out_json(done);
        cJSON_Delete(done);
    } else {
        cli_note(c, "%s is loaded", shown(model));
    }
    return CLI_OK;
}

/* Waits while the model is in that state.  An exit code; *name is its whole name then, *state what it
 * is in now (that, when it took too long). */
static int await(struct cli *c, const char *typed, const char *in, char name[256],
                 char state[32])
{
    for (int ms = 0;; ms += LOOK_MS) {
        cJSON *req = cJSON_CreateObject(), *o = NULL;
        cJSON_AddStringToObject(req, "model", typed);
        int code = cli_call(c, HRT_MODEL_SHOW, req, NULL, 0, &o, NULL);
        if (code != CLI_OK)
            return code;
        snprintf(name, 256, "%s", j_str(o, "name", typed));
        snprintf(state, 32, "%s", j_str(o, "state", ""));
        cJSON_Delete(o);
        if (strcmp(state, in) != 0 || ms >= STATE_MS)
            return CLI_OK;
        (void)poll(NULL, 0, LOOK_MS);
        if (cli_interrupted)
            return CLI_INTERRUPTED;
    }
}

/* A load that is under way is waited for, and so is the end of the unload: what comes next finds it
 * gone. */
int cmd_unload(struct cli *c, const struct args *a)
{
    cJSON *req = j_req(), *o = NULL;
    char name[256], before[32], state[32];
    cJSON_AddStringToObject(req, "model", a->pos[0]);
    cli_catch_interrupt();
    int code = await(c, a->pos[0], "loading", name, before);
    if (code == CLI_OK)
        code = cli_call(c, HRT_MODEL_UNLOAD, req, NULL, 0, &o, NULL);
    else
        cJSON_Delete(req);
    if (code == CLI_OK)
        code = await(c, name, "unloading", name, state);
    if (code == CLI_OK && c->json) {
        cJSON_ReplaceItemInObjectCaseSensitive(o, "state", cJSON_CreateString(state));
        out_json(o);
    } else if (code == CLI_OK) {
        bool was = strcmp(before, "loaded") == 0 || strcmp(before, "unloading") == 0;
        cli_note(c, "%s %s", shown(name),
                 !was                              ? "was not loaded"
                 : strcmp(state, "unloading") == 0 ? "is being unloaded, which takes a moment "
                                                     "more; its sessions stay"
                 : strcmp(state, "loading") == 0 || strcmp(state, "loaded") == 0
                     ? "was unloaded, and a request has it loaded again"
                     : "is unloaded; its sessions stay");
    }
    cJSON_Delete(o);
    return code;
}

int cmd_ps(struct cli *c, const struct args *a)
{
    static const char *const head[] = {"NAME",  ">SIZE",     "PROCESSOR", ">CONTEXT",
                                       "UNTIL", ">SESSIONS", ">PAGES"};
    cJSON *o = NULL, *st = NULL;
    const cJSON *m;
    (void)a;
    int code = fetch(c, &o);
    if (code == CLI_OK)
        code = cli_call(c, HRT_STATUS, NULL, NULL, 0, &st, NULL);
    if (code == CLI_OK && c->json) {
        cJSON *out = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(out, "models");
        cJSON_ArrayForEach(m, j_get(o, "models"))
        {
            if (strcmp(j_str(m, "state", ""), "available") != 0)
                cJSON_AddItemToArray(list, cJSON_Duplicate(m, true));
        }
        cJSON_AddItemToObject(out, "queue", cJSON_Duplicate(j_get(st, "queue"), true));
        out_json(out);
        cJSON_Delete(out);
    } else if (code == CLI_OK) {
        struct table t;
        table_init(&t, head, 7);
        cJSON_ArrayForEach(m, j_get(o, "models"))
        {
            char b[4][WORDS_BYTES], sessions[16];
            const char *state = j_str(m, "state", "");
            if (strcmp(state, "available") == 0 || strcmp(state, "failed") == 0)
                continue;
            snprintf(sessions, sizeof sessions, "%.0f", j_num(m, "sessions", 0));
            table_add(&t, j_str(m, "name", ""),
                      words_bytes(b[0], j_num(m, "loaded_bytes", j_num(m, "file_bytes", 0))),
                      strcmp(state, "loading") == 0 ? "loading" : j_str(st, "backend", "?"),
                      words_count(b[1], j_num(m, "context", 0)), until(m, b[2]), sessions,
                      words_bytes(b[3], j_num(m, "page_bytes", 0)));
        }
        if (t.rows)
            table_print(&t);
        else
            cli_note(c, "no model is loaded; the first request loads one");
    }
    cJSON_Delete(o);
    cJSON_Delete(st);
    return code;
}

static double meminfo(const char *name)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char line[200];
    double kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            kib = strtod(line + strlen(name) + 1, NULL);
    if (f)
        fclose(f);
    return kib * 1024;
}

int cmd_plan(struct cli *c, const struct args *a)
{
    static const char *const head[] = {"", ">SIZE", ""};
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    struct errbuf eb;
    double tokens = 0;
    int r = args_num(a, "tokens", 1, 1 << 30, true, &tokens, &eb);
    if (r < 0) {
        cJSON_Delete(req);
        return cli_usage(c, eb.s);
    }
    cJSON_AddStringToObject(req, "model", a->pos[0]);
    int code = cli_call(c, HRT_MODEL_SHOW, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    double file = j_num(o, "file_bytes", 0), per = j_num(o, "bytes_per_token", 0);
    double most = j_num(o, "context", 0);
    double context = tokens > 0 ? tokens : most, pages = j_num(o, "page_bytes", 0),
           weights = j_num(o, "loaded_bytes", file) - pages;
    /* The daemon sets its pages aside when the model is loaded; sessions live in them. */
    double kv = per * context, total = weights + (pages > 0 ? pages : kv);
    double mem = meminfo("MemTotal"), free_mem = meminfo("MemAvailable");
    bool beyond = most > 0 && context > most, known = (per > 0 && context > 0) || beyond;
    char longer[140], few[WORDS_BYTES];
    snprintf(longer, sizeof longer,
             "no: the model's context has %s; `hearth ingest --split` makes parts",
             words_tokens(few, most));
    const char *fits =
        !known
            ? "unknown: what a token takes is known once the model was loaded; `hearth load` it"
        : beyond                  ? longer
        : pages > 0 && kv > pages ? "no: the session has more than hearthd's --page-memory"
        : pages > 0               ? "yes: the memory is set aside already"
        : total < free_mem        ? "yes"
        : total < mem             ? "yes, when other programs give memory back"
                                  : "no: use a shorter context or a smaller model";
    if (c->json) {
        cJSON *out = cJSON_CreateObject();
        cJSON_AddStringToObject(out, "model", j_str(o, "name", a->pos[0]));
        cJSON_AddNumberToObject(out, "weights_bytes", weights);
        cJSON_AddNumberToObject(out, "bytes_per_token", per);
        cJSON_AddNumberToObject(out, "context", context);
        cJSON_AddNumberToObject(out, "session_bytes", kv);
        cJSON_AddNumberToObject(out, "page_bytes", pages);
        cJSON_AddNumberToObject(out, "total_bytes", total);
        cJSON_AddNumberToObject(out, "memory_bytes", mem);
        cJSON_AddNumberToObject(out, "memory_available_bytes", free_mem);
        if (known)
            cJSON_AddBoolToObject(out, "fits", fits[0] == 'y');
        else
            cJSON_AddNullToObject(out, "fits");
        cJSON_AddStringToObject(out, "verdict", fits);
        out_json(out);
        cJSON_Delete(out);
    } else {
        struct table t;
        char b[7][WORDS_BYTES], what[80];
        snprintf(what, sizeof what, context > 0 ? "one session of %s" : "one session",
                 words_tokens(b[0], context));
        table_init(&t, head, 3);
        table_add(&t, "weights", words_bytes(b[1], weights), j_str(o, "quant", ""));
        table_add(&t, what, per > 0 ? words_bytes(b[2], kv) : "?",
                  per > 0 ? "" : "not known before its first load");
        if (pages > 0)
            table_add(&t, "KV pages set aside", words_bytes(b[6], pages),
                      "for all its sessions that run (--page-memory)");
        table_add(&t, "together", words_bytes(b[3], total),
                  pages > 0 ? "weights and pages" : "");
        table_add(&t, "memory", words_bytes(b[4], mem), "");
        table_add(&t, "free now", words_bytes(b[5], free_mem), "");
        table_print(&t);
        say_out("fits: %s\n", fits);
    }
    cJSON_Delete(o);
    return CLI_OK;
}
