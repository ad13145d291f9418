/* cli.c - see cli.h. */
#include "client/cli.h"
#include "base/bounds.h"
#include "base/clock.h"
#include "base/text.h"
#include "client/encoding.h"
#include "client/jsonout.h"
#include "client/out.h"
#include "client/say.h"
#include "client/words.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { SUMMARY_TOKENS = 256 }; /* a question for one, and a short answer */

volatile sig_atomic_t cli_interrupted, cli_signal;

static void on_interrupt(int sig)
{
    cli_signal = sig;
    if (++cli_interrupted > 1)
        _exit(128 + sig);
}

void cli_catch_interrupt(void)
{
    struct sigaction sa = {.sa_handler = on_interrupt},
                     old; /* no SA_RESTART: calls come back */
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup stays */
        sigaction(SIGHUP, &sa, NULL);
}

/* --- errors -------------------------------------------------------------------------------- */
int cli_exit_of(uint32_t status, const char *slug)
{
    if (strcmp(slug, "session_busy") == 0)
        return CLI_LATER;
    switch (status) {
    case HRT_OK: return CLI_OK;
    case HRT_NOT_FOUND:
        return strcmp(slug, "model_not_found") == 0 || strcmp(slug, "session_not_found") == 0
                   ? CLI_NOT_FOUND
                   : CLI_FAILED;
    case HRT_RESOURCE_EXHAUSTED:
    case HRT_DEADLINE_EXCEEDED:
    case HRT_UNAVAILABLE: return CLI_LATER;
    case HRT_CANCELLED: return CLI_INTERRUPTED;
    default: return CLI_FAILED;
    }
}

/* Out of a full session, what keeps all of it first. */
static const char *make_room(const struct cli *c, const cJSON *numbers)
{
    static char way[3 * WORDS_SHELL_BYTES + 400];
    char b[WORDS_SHELL_BYTES], part[WORDS_BYTES];
    double held = j_num(numbers, "held", 0), tokens = j_num(numbers, "tokens", 0);
    double turn = j_num(numbers, "turn", -1), left = j_num(numbers, "context", 0) - held;
    const char *name =
        words_shell(b, c->forked ? c->forked : j_str(numbers, "session", "NAME"));
    const char *parts = c->too_long             ? c->too_long
                        : c->parts && held <= 0 ? CLI_MAKE_PARTS
                                                : NULL;
    if (c->occupied && held > 0)
        return c->occupied;
    if (turn > 0)
        snprintf(
            way, sizeof way,
            "`hearth sessions fork %s NEW --turn %.0f` goes on from there in a new session "
            "and keeps this one; `hearth sessions rewind %s --to %.0f` makes the room here, "
            "and forgets what came after",
            name, turn, name, turn);
    else if (parts && tokens > held)
        snprintf(way, sizeof way, "%s; as it is, %s of it would fit", parts,
                 words_share(part, left / (tokens - held)));
    else if (held > 0 && left >= SUMMARY_TOKENS)
        snprintf(way, sizeof way,
                 "shorten the input, or begin another session; for a summary to begin it with: "
                 "`hearth ask -s %s --fork \"Sum up what was said.\"`",
                 name);
    else if (held > 0)
        snprintf(way, sizeof way,
                 "begin another session; for a summary to begin it with, fork this one at an "
                 "earlier turn and ask there (`hearth sessions show %s` numbers them)",
                 name);
    else
        return "shorten the input";
    return way;
}

/* What to do about it, where the daemon's own sentence cannot know how it was called: of a
 * session that is busy, and of a model whose session is, the daemon says it itself. */
static const char *remedy(const struct cli *c, const char *slug, const cJSON *numbers)
{
    static const char *const rows[][2] = {
        {"session_not_found", "`hearth sessions` lists them"},
        {"model_not_found", "`hearth models` lists what there is"},
        {"model_load_failed",
         "its next use tries again, once its file has changed or ten seconds "
         "are over; `hearth load MODEL` tries at once"},
        {"session_exists", "choose another name, or `hearth sessions rm` the old one"},
        {"model_has_no_template", "use --raw to send plain text"},
        {"template_not_supported", "use --raw to send plain text"},
        {"queue_full", "try again in a moment"},
        {"core_unavailable", "start it with `hearth serve`"},
    };
    if (strcmp(slug, "context_length_exceeded") == 0)
        return make_room(c, numbers);
    if (c->makes && strcmp(slug, "session_not_found") == 0)
        return "`hearth sessions` lists them; `hearth ask -s NAME --create`, "
               "`hearth ingest -s NAME` and `hearth chat -s NAME` make one";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i][0], slug) == 0)
            return rows[i][1];
    return NULL;
}

/* Between what is wrong and what to do about it, until it is known where they go. */
#define ADVICE '\x1f'

__attribute__((format(printf, 3, 0))) static void sentence(char *ret, size_t cap,
                                                           const char *fmt, va_list ap)
{
    char own[600];
    const char *todo = strstr(fmt, "; ");

    if (todo && strlen(fmt) < sizeof own) {
        snprintf(own, sizeof own, "%.*s%c%s", (int)(todo - fmt), fmt, ADVICE, todo + 2);
        fmt = own;
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    vsnprintf(ret, cap, fmt, ap);
#pragma GCC diagnostic pop
}

/* Words that are whole, to ones with the mark: the last "; " is none of what was typed. */
static void mark(char *ret, size_t cap, const char *words)
{
    const char *last = NULL;

    for (const char *p = words; (p = strstr(p, "; ")) != NULL; p += 2)
        last = p;
    if (!last || strchr(words, ADVICE))
        snprintf(ret, cap, "%s", words);
    else
        snprintf(ret, cap, "%.*s%c%s", (int)(last - words), words, ADVICE, last + 2);
}

/* The daemon names members of the protocol.  Which flag that was is put into ret; the words behind
 * the name, or NULL: it is no flag's. */
static const char *flag_of(const char *words, char ret[64])
{
    static const char *const flags[][2] = {{"to_turn:", "--to"},
                                           {"to_tokens:", "--tokens"},
                                           {"turn:", "--turn"},
                                           {"at:", "--tokens"},
                                           {"tail:", "the input"},
                                           {"tokens[", "--ids"},
                                           {"params.temperature:", "--temp"}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        size_t n = strlen(flags[i][0]);
        if (strncmp(words, flags[i][0], n) == 0) {
            snprintf(ret, 64, "%s", flags[i][1]);
            return words + n - 1;
        }
    }
    size_t n = strcspn(words, ":[ ");
    if (strncmp(words, "params.", 7) != 0 || n >= 64 || !words[n] || words[n] == ' ')
        return NULL;
    snprintf(ret, 64, "--%.*s", (int)n - 7, words + 7);
    for (char *p = ret; *p; p++)
        *p = *p == '_' ? '-' : *p;
    return words + n;
}

static void say(struct cli *c, const char *status, const char *slug, const char *given,
                const cJSON *numbers)
{
    char own[1100], fact[1100], field[64];
    const char *words = fact, *todo = remedy(c, slug, numbers), *at = strrchr(given, ADVICE);
    snprintf(fact, sizeof fact, "%.*s", (int)(at ? (size_t)(at - given) : strlen(given)),
             given);
    if (at)
        todo = at + 1;
    const char *rest = flag_of(words, field);
    if (rest) {
        snprintf(own, sizeof own, "%s%s", field, rest);
        words = own;
    }
    if (c->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "type", "error");
        cJSON_AddStringToObject(o, "status", status);
        cJSON_AddStringToObject(o, "slug", slug);
        cJSON_AddStringToObject(o, "message", words);
        if (todo)
            cJSON_AddStringToObject(o, "hint", todo);
        if (rest)
            cJSON_AddStringToObject(o, "field", field);
        const cJSON *m;
        cJSON_ArrayForEach(m, numbers)
        {
            if (c->forked && strcmp(m->string, "session") == 0)
                cJSON_AddStringToObject(o, "session", c->forked);
            else if (!cJSON_HasObjectItem(o, m->string))
                cJSON_AddItemToObject(o, m->string, cJSON_Duplicate(m, true));
        }
        cJSON_ArrayForEach(m, c->more)
        {
            if (cJSON_GetArraySize(m) > 0)
                cJSON_AddItemToObject(o, m->string, cJSON_Duplicate(m, true));
        }
        out_json(o);
        cJSON_Delete(o);
        return;
    }
    bool more = todo && !strstr(words, todo), paint = c->err_tty && c->color;
    fputs(paint ? "\033[31mhearth:\033[0m " : "hearth: ", stderr);
    say_err("%s%s%s\n", shown(words), more ? "; " : "", more ? todo : "");
    if (!slug[0] || !status[0])
        return;
    fputs(cli_dim(c, true), stderr);
    say_err("(%s, %s)", shown(status), shown(slug));
    fputs(cli_dim(c, false), stderr);
    fputc('\n', stderr);
}

/* What the user gave and shall give another way. field: NULL when no one of them is it. */
static void say_mistake(struct cli *c, const char *field, const char *words)
{
    cJSON *more = field ? cJSON_CreateObject() : NULL;
    if (field)
        cJSON_AddStringToObject(more, "field", field);
    say(c, "INVALID_ARGUMENT", !c->json ? "" : field ? "bad_field" : "usage", words, more);
    cJSON_Delete(more);
}

/* Of which flag, command or argument it is: "--temp: want ...", "--temp wants a value". */
int cli_usage(struct cli *c, const char *words)
{
    static const char none[] = "has no flag ";
    char field[64];
    const char *flag = strstr(words, none), *at = flag ? flag + sizeof none - 1 : words;
    size_t n = strcspn(at, " :;=\x1f");
    char marked[1100];
    bool named = n && n < sizeof field && (at[0] == '-' || (at[n] == ':' && at[n + 1] == ' '));
    snprintf(field, sizeof field, "%.*s", named ? (int)n : 0, at);
    mark(marked, sizeof marked, words);
    say_mistake(c, named ? field : NULL, marked);
    return CLI_USAGE;
}

int cli_mistake(struct cli *c, const char *field, const char *fmt, ...)
{
    char words[1024];
    va_list ap;
    va_start(ap, fmt);
    sentence(words, sizeof words, fmt, ap);
    va_end(ap);
    say_mistake(c, field, words);
    return CLI_FAILED;
}

int cli_fail(struct cli *c, int code, const char *fmt, ...)
{
    char words[1024];
    va_list ap;
    va_start(ap, fmt);
    sentence(words, sizeof words, fmt, ap);
    va_end(ap);
    if (code == CLI_USAGE)
        return cli_usage(c, words);
    say(c, c->json ? "INTERNAL" : "", c->json ? "client" : "", words, NULL);
    return code;
}

int cli_fail_as(struct cli *c, int code, enum hrt_status status, const char *slug,
                const char *fmt, ...)
{
    char words[1024];
    va_list ap;
    va_start(ap, fmt);
    sentence(words, sizeof words, fmt, ap);
    va_end(ap);
    say(c, hrt_status_str(status), slug, words, NULL);
    return code;
}

int cli_name(struct cli *c, const char *what, const char *name)
{
    size_t len = strlen(name);
    bool control = false;
    for (size_t i = 0; i < len; i++)
        control |= (unsigned char)name[i] < 0x20 || name[i] == 0x7f;
    if (!len)
        return cli_fail(c, CLI_USAGE, "%s: the name is empty", what);
    if (len > NAME_BYTES_MAX)
        return cli_fail(c, CLI_USAGE, "%s: a name may have %d bytes, this one has %zu", what,
                        NAME_BYTES_MAX, len);
    if (!control && text_bad(name, len) == len)
        return CLI_OK;
    return cli_fail(c, CLI_USAGE, "%s: the name \"%s\" %s", what, name,
                    control ? "has a control character" : "is not UTF-8");
}

int cli_not_yet(struct cli *c, const char *verb, const char *instead)
{
    char words[400];
    snprintf(words, sizeof words, "`hearth %s` is not in version %s yet%c%s", verb,
             HEARTH_VERSION, ADVICE, instead);
    say(c, c->json ? "UNIMPLEMENTED" : "", c->json ? "unimplemented" : "", words, NULL);
    return CLI_FAILED;
}

const char *cli_no_access(const char *url)
{
    return strncmp(url, SYSTEM_URL, sizeof SYSTEM_URL - 1) == 0
               ? "join the group hearth (`sudo usermod -aG hearth \"$USER\"`) and log in "
                 "again, "
                 "or start a daemon of your own with `hearth serve`"
               : "ask whose it is, start one of your own with `hearth serve`, or name another "
                 "with --socket";
}

int cli_fail_call(struct cli *c, int r, const struct errbuf *eb)
{
    char words[700];
    if (r == -EINTR)
        return CLI_INTERRUPTED;
    if (r == -ECONNREFUSED) {
        snprintf(words, sizeof words,
                 "%s%cstart one with `hearth serve`, or name it with --socket", eb->s, ADVICE);
        say(c, "UNAVAILABLE", "no_daemon", words, NULL);
        return CLI_NO_DAEMON;
    }
    if (r == -EACCES) {
        snprintf(words, sizeof words, "%s%c%s", eb->s, ADVICE, cli_no_access(c->url));
        say(c, "PERMISSION_DENIED", "no_access", words, NULL);
        return CLI_NO_DAEMON;
    }
    if (r == -ETIMEDOUT) {
        snprintf(words, sizeof words, "%s%ctry again, or see `hearth doctor`", eb->s, ADVICE);
        say(c, "DEADLINE_EXCEEDED", "no_reply", words, NULL);
        return CLI_LATER;
    }
    if (r == -EPERM) {
        mark(words, sizeof words, eb->s);
        say(c, "PERMISSION_DENIED", "untrusted_socket", words, NULL);
        return CLI_FAILED;
    }
    if (r == -EINVAL) { /* of the socket's address: "socket: ..." */
        snprintf(words, sizeof words, "%s%s", c->url_from, eb->s + strcspn(eb->s, ":"));
        return cli_usage(c, words);
    }
    if (r == E_LIMIT)
        return cli_mistake(c, "input", "%s; split it", eb->s);
    say(c, "INTERNAL", "client", eb->s, NULL);
    return CLI_FAILED;
}

int cli_fail_reply(struct cli *c, uint32_t status, const cJSON *reply)
{
    const char *slug = j_str(reply, "slug", "internal");
    const char *words = j_str(reply, "message", "the daemon refused");
    bool flag = strcmp(slug, "bad_field") == 0 &&
                (strncmp(words, "params.", 7) == 0 || strncmp(words, "tokens[", 7) == 0);
    say(c, hrt_status_str(status), slug, words, reply);
    return flag ? CLI_USAGE : cli_exit_of(status, slug); /* a flag's value, wrong in itself */
}

/* --- calls --------------------------------------------------------------------------------- */
int cli_connect(struct cli *c, struct hearth_conn **ret)
{
    struct errbuf eb;
    int r = hearth_connect(ret, c->url, &eb);
    return r < 0 ? cli_fail_call(c, r, &eb) : CLI_OK;
}

int cli_call(struct cli *c, enum hrt_type type, cJSON *req, const void *tail, size_t tail_bytes,
             cJSON **ret, struct hearth_reply *rep)
{
    struct hearth_reply own = {0};
    struct errbuf eb = {""};
    int code = c->conn ? CLI_OK : cli_connect(c, &c->conn), r = 0;
    char *json = req ? cJSON_PrintUnformatted(req) : NULL;
    cJSON_Delete(req);
    if (code == CLI_OK) {
        do
            r = hearth_call(c->conn, type, json, tail, tail_bytes,
                            c->wait_ms ? c->wait_ms : CLI_WAIT_MS, &own, &eb);
        while (r == -EINTR && !cli_interrupted);
        if (r < 0)
            code = cli_fail_call(c, r, &eb);
    }
    free(json);
    if (code != CLI_OK)
        return code;
    cJSON *o = cJSON_Parse(own.json_bytes ? own.json : "{}");
    if (own.status != HRT_OK)
        code = cli_fail_reply(c, own.status, o);
    else if (!o)
        code = cli_fail(c, CLI_FAILED, "the daemon's reply is not JSON");
    if (code == CLI_OK && ret) {
        *ret = o;
        o = NULL;
    }
    cJSON_Delete(o);
    if (code == CLI_OK && rep)
        *rep = own;
    else
        hearth_reply_fini(&own);
    return code;
}

int cli_sessions(struct cli *c, cJSON *req, cJSON **ret)
{
    cJSON *all = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(all, "sessions");
    int code;

    for (char next[64] = "";;) {
        cJSON *one = req ? cJSON_Duplicate(req, true) : cJSON_CreateObject(), *o = NULL, *s;
        if (next[0])
            cJSON_AddStringToObject(one, "after", next);
        code = cli_call(c, HRT_SESSION_LIST, one, NULL, 0, &o, NULL);
        while (code == CLI_OK &&
               (s = cJSON_DetachItemFromArray(cJSON_GetObjectItem(o, "sessions"), 0)) != NULL)
            cJSON_AddItemToArray(list, s);
        snprintf(next, sizeof next, "%s", code == CLI_OK ? j_str(o, "next", "") : "");
        cJSON_Delete(o);
        if (!next[0])
            break;
    }
    cJSON_Delete(req);
    if (code == CLI_OK)
        *ret = all;
    else
        cJSON_Delete(all);
    return code;
}

/* --- small things -------------------------------------------------------------------------- */
void cli_note(struct cli *c, const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    if (c->quiet || c->json)
        return;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    fputs(cli_dim(c, true), stderr);
    say_text(stderr, s, (size_t)n);
    fputs(cli_dim(c, false), stderr);
    fputc('\n', stderr);
    free(s);
}
const char *cli_dim(const struct cli *c, bool on)
{
    return !c->color || !c->err_tty ? "" : on ? "\033[2m" : "\033[0m";
}

const cJSON *j_get(const cJSON *o, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(o, name);
}
const char *j_str(const cJSON *o, const char *name, const char *otherwise)
{
    const cJSON *v = j_get(o, name);
    return cJSON_IsString(v) ? v->valuestring : otherwise;
}
double j_num(const cJSON *o, const char *name, double otherwise)
{
    const cJSON *v = j_get(o, name);
    return cJSON_IsNumber(v) ? v->valuedouble : otherwise;
}
bool j_bool(const cJSON *o, const char *name)
{
    return cJSON_IsTrue(j_get(o, name));
}
const char *cli_session_name(const cJSON *s)
{
    const char *name = j_str(s, "name", "");
    return name[0] ? name : j_str(s, "id", "?");
}
cJSON *j_req(void)
{
    char id[33];
    hearth_new_id(id);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "id", id);
    return o;
}

void out_json(const cJSON *o)
{
    char *s = cJSON_PrintUnformatted(o);
    if (s)
        say_json(stdout, s);
    free(s);
}
int out_end(struct cli *c)
{
    int e = out_flush();
    (void)c;
    if (e == 0)
        return CLI_OK;
    if (e == EPIPE || e == EINTR) /* a reader that has seen enough is no failure to speak of */
        return CLI_INTERRUPTED;
    say_err("hearth: cannot write the output: %s\n", strerror(e));
    return CLI_FAILED;
}

/* A model may say anything; a terminal must not obey it, and a script wants it as it is. */
void cli_text(FILE *f, bool tty, const char *s, size_t n)
{
    if (tty)
        say_text(f, s, n);
    else
        (void)fwrite(s, 1, n, f);
}

int cli_turn_text(struct cli *c, const cJSON *session, const cJSON *turn,
                  const struct hearth_reply *ids, char **ret, size_t *ret_n)
{
    struct hearth_reply rep = {0};
    double at = j_num(turn, "position", -1), n = j_num(turn, "tokens", -1);
    size_t all = ids->tail_bytes / sizeof(int32_t);
    if (at < 0 || n < 0 || at + n > (double)all)
        return cli_fail(c, CLI_FAILED, "the daemon's turns do not fit its tokens");
    cJSON *req = cJSON_CreateObject();
    cJSON_AddStringToObject(req, "model", j_str(session, "model", ""));
    cJSON_AddStringToObject(req, "session", j_str(session, "id", ""));
    int code = cli_call(c, HRT_DETOKENIZE, req, ids->tail + (size_t)at * sizeof(int32_t),
                        (size_t)n * sizeof(int32_t), NULL, &rep);
    if (code != CLI_OK)
        return code;
    rep.tail[rep.tail_bytes] = 0; /* one byte more than the tail is always there */
    *ret = (char *)rep.tail;
    *ret_n = rep.tail_bytes;
    free(rep.json);
    return CLI_OK;
}

int cli_read(struct cli *c, const char *path, size_t max, char **ret, size_t *ret_n)
{
    const char *what = strcmp(path, "-") == 0 ? "standard input" : path;
    FILE *f = what != path ? stdin : fopen(path, "re");
    if (!f)
        return cli_mistake(c, path, "cannot read %s: %s", path, strerror(errno));
    size_t n = 0, cap = 1 << 16;
    char *p = malloc(cap + 1);
    bool big = false;
    while (p && !big) {
        size_t k = fread(p + n, 1, cap - n, f);
        n += k;
        big = n > max;
        if (k == 0 || feof(f)) /* of a terminal the next read would wait for more */
            break;
        if (n == cap) {
            char *q = realloc(p, cap * 2 + 1);
            if (!q)
                free(p);
            p = q;
            cap *= 2;
        }
    }
    int e = ferror(f) ? errno : 0;
    if (f != stdin)
        fclose(f);
    int code =
        !p    ? cli_fail(c, CLI_FAILED, "no memory for %s", what)
        : e   ? cli_mistake(c, what, "cannot read %s: %s", what, strerror(e))
        : big ? cli_mistake(
                    c, what,
                    "%s is longer than the %zu bytes one request may carry; " CLI_SPLIT_FILE,
                    what, max)
              : CLI_OK;
    if (code != CLI_OK) {
        free(p);
        return code;
    }
    p[n] = 0;
    *ret = p;
    *ret_n = n;
    return CLI_OK;
}

int cli_ids(struct cli *c, const char *text, int32_t **ret, size_t *ret_n)
{
    size_t n = 0, cap = strlen(text) / 2 + 1;
    int32_t *ids = malloc(cap * sizeof *ids);
    if (!ids)
        return cli_fail(c, CLI_FAILED, "no memory for the ids");
    for (const char *p = text;;) {
        p += strspn(p, " \t\r\n,[]");
        if (!*p)
            break;
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX || !strchr(" \t\r\n,[]", *end)) {
            free(ids);
            return cli_fail(
                c, CLI_USAGE,
                "--ids: want numbers of 0 to %d with blanks or commas between, got \"%.20s\"",
                INT32_MAX, p);
        }
        ids[n++] = (int32_t)v;
        p = end;
    }
    if (n == 0) {
        free(ids);
        return cli_fail(c, CLI_USAGE, "--ids: there is no number in the input");
    }
    *ret = ids;
    *ret_n = n;
    return CLI_OK;
}

/* Names that go into requests: what is said of them there is of JSON, which nobody has typed.  And
 * what is wrong with a flag is said also where nothing comes to use it. */
static int check_names(struct cli *c, const struct args *a)
{
    static const char *const of_models[] = {"run", "show", "load", "unload", "plan"};
    int code = CLI_OK, names = strncmp(a->verb->name, "sessions ", 9) == 0 ? a->n : 0;
    for (int i = 0; i < a->n_given && code == CLI_OK; i++)
        if (strcmp(a->given[i].flag->name, "session") == 0)
            code = cli_name(c, "--session", a->given[i].value);
        else if (strcmp(a->given[i].flag->name, "model") == 0)
            code = cli_name(c, "--model", a->given[i].value);
        else if (strcmp(a->given[i].flag->name, "system") == 0)
            code = encoding_typed(c, "--system", a->given[i].value);
        else if (strcmp(a->given[i].flag->name, "stop") == 0)
            code = encoding_typed(c, "--stop", a->given[i].value);
        else if (strcmp(a->given[i].flag->name, "encoding") == 0)
            code = encoding_known(c, a->given[i].value);
    for (int i = 0; i < names && code == CLI_OK; i++)
        code = cli_name(c, a->verb->name, a->pos[i]);
    for (size_t i = 0; i < sizeof of_models / sizeof *of_models && code == CLI_OK; i++)
        if (a->n && strcmp(a->verb->name, of_models[i]) == 0)
            code = cli_name(c, a->verb->name, a->pos[0]);
    return code;
}

/* What is written out, and the exit code of it all. */
static int finish(struct cli *c, int code)
{
    hearth_close(c->conn);
    int end = out_end(c);
    if (code == CLI_INTERRUPTED && cli_signal)
        code = 128 + cli_signal;
    /* Interrupted because the output failed: that is the reason. */
    return code == CLI_OK || (code == CLI_INTERRUPTED && end == CLI_FAILED) ? end : code;
}

/* --- the whole ------------------------------------------------------------------------------ */
int cli_main(int argc, char *const *argv, const char *env_socket, bool no_color)
{
    static struct args a; /* too large for a stack */
    struct errbuf eb;
    struct cli c = {.out_tty = isatty(1), .err_tty = isatty(2), .color = !no_color};
    int r = args_parse(&a, argc, argv, &eb);
    c.json = args_has(&a, "json");
    for (int i = 1; r < 0 && i < argc; i++) /* what is wrong may stand before it */
        c.json |= strcmp(argv[i], "--json") == 0;
    c.quiet = args_has(&a, "quiet");
    if (args_has(&a, "no-color"))
        c.color = false;
    if (r < 0)
        return cli_usage(&c, eb.s);
    const char *url = args_str(&a, "socket");
    c.url_from = url || !env_socket ? "--socket" : "HEARTH_SOCKET";
    if (!url)
        url = env_socket;
    if (url && strlen(url) >= sizeof c.url)
        return cli_fail(&c, CLI_USAGE, "%s: that is longer than any socket's path", c.url_from);
    if (url)
        memcpy(c.url, url, strlen(url) + 1);
    else
        (void)hearth_default_url(c.url, sizeof c.url);
    if (args_has(&a, "version"))
        return finish(&c, cmd_version(&c, &a));
    if (c.json && (args_has(&a, "help") || !a.verb || a.verb->run == cmd_help ||
                   a.verb->run == cmd_completion))
        return cli_usage(&c, "--json: help and completion scripts are text; leave it out");
    if (args_has(&a, "help") || !a.verb) {
        if (a.verb)
            help_verb(a.verb);
        else
            help_all();
        return args_has(&a, "help") ? out_end(&c) : CLI_USAGE;
    }
    int code = check_names(&c, &a);
    if (code != CLI_OK)
        return code;
    c.makes = a.verb->run == cmd_ask || a.verb->run == cmd_ingest || a.verb->run == cmd_chat;
    return finish(&c, a.verb->run(&c, &a));
}
