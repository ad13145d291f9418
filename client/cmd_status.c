/* cmd_status.c - status, why, fsck, version. */
#include "client/cli.h"
#include "client/say.h"
#include "client/table.h"
#include "client/words.h"

static void tier(struct table *t, const cJSON *tiers, const char *name, const char *words)
{
    char b[2][WORDS_BYTES];
    const cJSON *o = j_get(tiers, name);
    double limit = j_num(o, "limit", 0);
    table_add(t, words, words_bytes(b[0], j_num(o, "used", 0)),
              limit > 0 ? words_bytes(b[1], limit) : "-");
}

static void print_status(const cJSON *o)
{
    static const char *const head[] = {"TIER", ">USED", ">LIMIT"};
    char b[6][WORDS_BYTES];
    const cJSON *s = j_get(o, "sessions"), *q = j_get(o, "queue"), *w = j_get(o, "written"), *m;
    say_out("hearthd %s: %s, pid %.0f, up %s\n", shown(j_str(o, "version", "?")),
            shown(j_str(o, "status", "?")), j_num(o, "pid", 0),
            words_ms(b[0], j_num(o, "uptime_s", 0) * 1000));
    say_out("backend  %s, %.0f thread%s, I/O by %s\n", shown(j_str(o, "backend", "?")),
            j_num(o, "threads", 0), words_s(j_num(o, "threads", 0)),
            shown(j_str(o, "io", "?")));
    const char *at = j_str(o, "http", NULL), *set = j_str(o, "http_set", NULL), *port;
    bool moved = at && set && (port = strrchr(set, ':')) && strcmp(port, ":0") != 0 &&
                 strcmp(at, set) != 0;
    say_out("http     %s%s%s%s\n",
            shown(at                             ? at
                  : j_str(o, "http_error", NULL) ? "not served, see the warnings"
                  : set                          ? "not up yet"
                                                 : "off"),
            moved ? ", since " : "", moved ? shown(set) : "", moved ? " was taken" : "");
    say_out("models  ");
    bool any = false;
    cJSON_ArrayForEach(m, j_get(o, "models"))
    {
        say_out("%s %s (%s)", any ? "," : "", shown(j_str(m, "name", "?")),
                shown(j_str(m, "state", "?")));
        any = true;
    }
    say_out("%s\n", any ? "" : " none");
    say_out("sessions %.0f named, %.0f anonymous, %.0f running; %.0f waiting\n",
            j_num(s, "count", 0) - j_num(s, "anonymous", 0), j_num(s, "anonymous", 0),
            j_num(q, "running", j_num(s, "running", 0)), j_num(q, "waiting", 0));
    say_out("written  %s", words_bytes(b[1], j_num(w, "bytes", 0)));
    if (j_num(w, "new_state_bytes", 0) > 0)
        say_out(", %.2f per byte of new state",
                j_num(w, "bytes", 0) / j_num(w, "new_state_bytes", 1));
    say_out("; today %s", words_bytes(b[2], j_num(w, "today", 0)));
    if (j_num(w, "budget", 0) > 0)
        say_out(" of %s", words_bytes(b[3], j_num(w, "budget", 0)));
    putchar('\n');
    struct table t;
    table_init(&t, head, 3);
    tier(&t, j_get(o, "tiers"), "device", "device");
    tier(&t, j_get(o, "tiers"), "host", "host");
    tier(&t, j_get(o, "tiers"), "file", "disk");
    table_print(&t);
    m = j_get(j_get(o, "tiers"), "file");
    if (j_num(m, "allocated", 0) > j_num(m, "used", 0))
        say_out("reserved %s more on disk, for blocks and turns to come\n",
                words_bytes(b[0], j_num(m, "allocated", 0) - j_num(m, "used", 0)));
    if (j_num(m, "kept", 0) > 0)
        say_out("kept     %s of the disk's limit free, to compact the turn log\n",
                words_bytes(b[0], j_num(m, "kept", 0)));
    cJSON_ArrayForEach(m, j_get(o, "warnings"))
    {
        say_out("warning: %s\n", cJSON_IsString(m) ? shown(m->valuestring) : "?");
    }
}

int cmd_status(struct cli *c, const struct args *a)
{
    cJSON *o = NULL;
    (void)a;
    int code = cli_call(c, HRT_STATUS, NULL, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        out_json(o);
    else
        print_status(o);
    cJSON_Delete(o);
    return CLI_OK;
}

int cmd_why(struct cli *c, const struct args *a)
{
    (void)a;
    return cli_not_yet(c, "why",
                       "what an answer reused is in its last line, and in its "
                       "\"usage\" with --json");
}

int cmd_fsck(struct cli *c, const struct args *a)
{
    (void)a;
    return cli_not_yet(
        c, "fsck",
        "hearthd checks every block when it reads it, and makes a lost index anew "
        "from the turn log at its next start");
}

int cmd_version(struct cli *c, const struct args *a)
{
    struct hearth_conn *conn = NULL;
    struct hearth_reply rep = {0};
    struct errbuf eb;
    cJSON *o = NULL;
    (void)a;
    int r = hearth_connect(&conn, c->url, &eb);
    if (r < 0)
        return cli_fail_call(c, r, &eb);
    /* Who asks for a version wants one at once; a daemon's is an extra. */
    r = hearth_call(conn, HRT_HELLO,
                    "{\"min\":1,\"max\":1,\"client\":\"hearth " HEARTH_VERSION "\"}", NULL, 0,
                    1000, &rep, &eb);
    if (r == 0 && rep.status == HRT_OK)
        o = cJSON_Parse(rep.json);
    uint32_t status = rep.status;
    hearth_reply_fini(&rep);
    hearth_close(conn);
    if (c->json) {
        cJSON *out = cJSON_CreateObject();
        cJSON_AddStringToObject(out, "client", HEARTH_VERSION);
        cJSON_AddNumberToObject(out, "protocol", HRT_MAJOR);
        if (o)
            cJSON_AddStringToObject(out, "daemon", j_str(o, "server", "?"));
        else
            cJSON_AddNullToObject(out, "daemon");
        out_json(out);
        cJSON_Delete(out);
    } else {
        say_out("hearth %s, protocol %d\n", HEARTH_VERSION, HRT_MAJOR);
        if (o)
            say_out("%s, pid %.0f, at %s\n", shown(j_str(o, "server", "hearthd ?")),
                    j_num(o, "pid", 0), shown(c->url));
        else if (r < 0)
            cli_note(c, "no daemon's version: %s", eb.s);
        else
            cli_note(c, "no daemon's version: it answers %s", hrt_status_str(status));
    }
    cJSON_Delete(o);
    return CLI_OK;
}
