/* chat.c - a conversation on a terminal: lines by libedit, answers as they come. */
#include "client/answer.h"
#include "client/encoding.h"
#include "client/named.h"
#include "client/out.h"
#include "client/place.h"
#include "client/say.h"
#include "client/words.h"
#include <histedit.h>
#include <stdlib.h>
#include <unistd.h>

enum { LAST_BYTES = 2000 }; /* of the last turn are shown when a conversation goes on */

struct chat {
    struct cli *c;
    const struct args *a;
    char session[256]; /* name or id of what we talk in; "": none yet */
    bool named;        /* it has a name: it does not expire */
    bool made;         /* there is such a session: a new name's comes with the first question */
    char model[256];   /* "": the daemon's default */
    bool zero;         /* a zero byte came in: what follows it in its line would be lost */
    EditLine *el;      /* NULL: stdin is no terminal */
    History *hist;
    char hist_path[4200];
    int failed; /* the worst exit code of a command */
};

static char *prompt_text(EditLine *el)
{
    static char text[] = "> ";
    (void)el;
    return text;
}

static void edit_open(struct chat *t)
{
    HistEvent ev;
    char dir[4096];
    if (!isatty(0) || !t->c->out_tty)
        return;
    t->el = el_init("hearth", stdin, out_terminal(), stderr);
    t->hist = history_init();
    if (!t->el || !t->hist)
        return;
    (void)history(t->hist, &ev, H_SETSIZE, 1000);
    (void)history(t->hist, &ev, H_SETUNIQUE, 1);
    if (place_state(dir, sizeof dir) == 0) {
        snprintf(t->hist_path, sizeof t->hist_path, "%s/history", dir);
        (void)history(t->hist, &ev, H_LOAD, t->hist_path);
    }
    el_set(t->el, EL_PROMPT, prompt_text);
    el_set(t->el, EL_EDITOR, "emacs");
    el_set(t->el, EL_HIST, history, t->hist);
    el_set(t->el, EL_SIGNAL, 1);
    (void)el_source(t->el, NULL); /* ~/.editrc */
}

static void edit_close(struct chat *t)
{
    HistEvent ev;
    if (t->hist && t->hist_path[0])
        (void)history(t->hist, &ev, H_SAVE, t->hist_path);
    if (t->hist)
        history_end(t->hist);
    if (t->el)
        el_end(t->el);
}

/* A line without its newline, malloc'd; a backslash at its end joins the next. NULL: the end. */
static char *read_line(struct chat *t)
{
    char *text = NULL;
    size_t n = 0;
    bool more = true;
    while (more) {
        const char *got = NULL;
        char *own = NULL;
        size_t cap = 0;
        int k = 0;
        if (t->el) {
            got = el_gets(t->el, &k);
        } else {
            k = (int)getline(&own, &cap, stdin);
            got = k > 0 ? own : NULL;
            t->zero |= got && memchr(got, 0, (size_t)k);
        }
        if (!got || k <= 0 || t->zero) {
            free(own);
            return text;
        }
        size_t len = (size_t)k;
        while (len && (got[len - 1] == '\n' || got[len - 1] == '\r'))
            len--;
        more = len && got[len - 1] == '\\';
        char *p = realloc(text, n + len + 2);
        if (p) {
            memcpy(p + n, got, len);
            n += len;
            if (more)
                p[n - 1] = '\n';
            p[n] = 0;
            text = p;
        }
        free(own);
        if (!p)
            return text;
    }
    HistEvent ev;
    if (t->hist && n)
        (void)history(t->hist, &ev, H_ENTER, text);
    return text;
}

/* --- commands ---------------------------------------------------------------------------- */
static const char help[] =
    "  /fork [NAME]    go on in a fork from here; this conversation stays as it is\n"
    "  /rewind [N]     take back the last N questions and their answers (1)\n"
    "  /save NAME      give this conversation a name, or another one; so it stays\n"
    "  /model [NAME]   begin a new conversation with another model\n"
    "  /help           this list\n"
    "  /quit           leave (also Ctrl-D)\n"
    "A backslash at the end of a line continues it on the next.\n";

static void now_in(struct chat *t, const cJSON *s)
{
    const char *name = j_str(s, "name", "");
    snprintf(t->session, sizeof t->session, "%s", name[0] ? name : j_str(s, "id", ""));
    t->named = name[0] != 0;
    t->made = true;
}

static int begun(struct chat *t, const char *command)
{
    return t->made ? CLI_OK
                   : cli_mistake(
                         t->c, command,
                         "%s: nothing has been said here yet; ask your first question, then %s",
                         command, command);
}

static int do_fork(struct chat *t, const char *name)
{
    cJSON *req = j_req(), *o = NULL;
    cJSON_AddStringToObject(req, "session", t->session);
    if (name[0])
        cJSON_AddStringToObject(req, "name", name);
    int code = cli_call(t->c, HRT_SESSION_FORK, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    char old[sizeof t->session];
    snprintf(old, sizeof old, "%s", t->session);
    now_in(t, o);
    cli_note(t->c, "forked: you are in %s now, with all that was said; %s stays as it is",
             shown(t->session), shown(old));
    if (!t->named)
        cli_note(t->c, "it has no name and will expire; /save NAME keeps it");
    cJSON_Delete(o);
    return CLI_OK;
}

static int do_rewind(struct chat *t, const char *arg)
{
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    const cJSON *turn;
    char *end, b[WORDS_BYTES];
    long back = arg[0] ? strtol(arg, &end, 10) : 1, keep = -1;
    int n = (int)back;
    if (back < 1 || back > INT32_MAX || (arg[0] && *end)) {
        cJSON_Delete(req);
        return cli_fail(t->c, CLI_USAGE,
                        "/rewind: want how many questions to take back, got \"%.20s\"", arg);
    }
    cJSON_AddStringToObject(req, "session", t->session);
    int code = cli_call(t->c, HRT_SESSION_SHOW, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    const cJSON *turns = j_get(o, "turns");
    for (int i = cJSON_GetArraySize(turns); i-- > 0 && back;) {
        turn = cJSON_GetArrayItem(turns, i);
        if (strcmp(j_str(turn, "role", ""), "user") == 0 && !j_bool(turn, "document") &&
            --back == 0)
            keep = (long)j_num(turn, "n", 1) - 1;
    }
    cJSON_Delete(o);
    if (keep < 0)
        return cli_mistake(t->c, "/rewind",
                           "/rewind: the conversation has fewer questions than that");
    req = j_req();
    o = NULL;
    cJSON_AddStringToObject(req, "session", t->session);
    cJSON_AddNumberToObject(req, "to_turn", (double)keep);
    code = cli_call(t->c, HRT_SESSION_REWIND, req, NULL, 0, &o, NULL);
    if (code == CLI_OK)
        cli_note(t->c, "took back %d question%s; the conversation has %s", n, words_s(n),
                 words_tokens(b, j_num(o, "tokens", 0)));
    cJSON_Delete(o);
    return code;
}

static int do_save(struct chat *t, const char *name)
{
    cJSON *req = j_req(), *o = NULL;
    cJSON_AddStringToObject(req, "session", t->session);
    cJSON_AddStringToObject(req, "name", name);
    int code = cli_call(t->c, HRT_SESSION_RENAME, req, NULL, 0, &o, NULL);
    if (code != CLI_OK)
        return code;
    char old[sizeof t->session], word[WORDS_SHELL_BYTES];
    snprintf(old, sizeof old, "%s", t->session);
    if (t->named)
        cli_note(t->c,
                 "renamed: session %s is called %s now, there is no %s any more; /fork NAME "
                 "would have kept both",
                 shown(old), shown(name), shown(old));
    now_in(t, o);
    cli_note(t->c, "saved as %s, where you are; `hearth chat -s %s` goes on here", shown(name),
             shown(words_shell(word, name)));
    cJSON_Delete(o);
    return CLI_OK;
}

/* Its whole name into ret; an exit code. */
static int find_model(struct chat *t, const char *name, char *ret, size_t cap)
{
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    int code = cli_name(t->c, "the model", name);
    cJSON_AddStringToObject(req, "model", name);
    if (code == CLI_OK)
        code = cli_call(t->c, HRT_MODEL_SHOW, req, NULL, 0, &o, NULL);
    else
        cJSON_Delete(req);
    if (code == CLI_OK)
        snprintf(ret, cap, "%s", j_str(o, "name", name));
    cJSON_Delete(o);
    return code;
}

/* A line that begins with a slash. false: leave. */
static bool command(struct chat *t, char *line)
{
    static const char *const known[] = {"/help",  "/fork", "/rewind", "/save",
                                        "/model", "/quit", "/exit"};
    char *arg = line + strcspn(line, " ");
    if (*arg)
        *arg++ = 0;
    arg += strspn(arg, " ");
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        return false;
    int code = CLI_OK;
    if (strcmp(line, "/help") == 0) {
        fputs(help, stderr);
    } else if (strcmp(line, "/fork") == 0) {
        code = begun(t, line);
        if (code == CLI_OK)
            code = do_fork(t, arg);
    } else if (strcmp(line, "/rewind") == 0) {
        code = begun(t, line);
        if (code == CLI_OK)
            code = do_rewind(t, arg);
    } else if (strcmp(line, "/save") == 0) {
        if (arg[0] && strcmp(arg, t->session) == 0)
            cli_note(t->c, "it is called %s already", shown(arg));
        else
            code = !arg[0] ? cli_fail(t->c, CLI_USAGE, "/save: under which name?")
                           : cli_name(t->c, "/save", arg);
        if (code == CLI_OK && strcmp(arg, t->session) != 0) {
            code = begun(t, line);
            if (code == CLI_OK)
                code = do_save(t, arg);
        }
    } else if (strcmp(line, "/model") == 0) {
        if (!arg[0]) {
            cli_note(t->c, "model: %s", t->model[0] ? shown(t->model) : "the daemon's default");
        } else if ((code = find_model(t, arg, t->model, sizeof t->model)) == CLI_OK) {
            t->made = t->named = false;
            t->session[0] = 0; /* a session belongs to its model: the old one stays as it is */
            cli_note(t->c, "a new conversation with %s", shown(t->model));
        }
    } else {
        int best = 3;
        const char *near = NULL;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (args_distance(line, known[i]) < best) {
                best = args_distance(line, known[i]);
                near = known[i];
            }
        code =
            cli_fail(t->c, CLI_USAGE,
                     near ? "no command %.20s; did you mean %s? (a question that begins with / "
                            "stands behind a blank)"
                          : "no command %.20s; /help lists them%s (a question that begins with "
                            "/ stands behind a blank)",
                     line, near ? near : "");
    }
    t->failed = code > t->failed ? code : t->failed;
    return true;
}

/* --- a question ---------------------------------------------------------------------------- */
static int say(struct chat *t, const char *text)
{
    int typed = encoding_typed(t->c, "the question", text);
    if (typed != CLI_OK)
        return typed;
    cJSON *start = j_req();
    if (t->session[0]) {
        cJSON_AddStringToObject(start, "session", t->session);
        cJSON_AddTrueToObject(start, "create");
    }
    if (t->model[0])
        cJSON_AddStringToObject(start, "model", t->model);
    cJSON_AddStringToObject(start, "input", "prompt");
    int code = gen_flags(t->c, t->a, start);
    if (code != CLI_OK) {
        cJSON_Delete(start);
        return code;
    }
    /* --system opens a conversation; later turns have it behind them. */
    struct answer_opts o = {.logprobs = args_has(t->a, "logprobs")};
    struct answer ans;
    code = answer_run(t->c, start, text, strlen(text), &o, &ans);
    const cJSON *s =
        j_get(ans.last, "session") ? j_get(ans.last, "session") : j_get(ans.start, "session");
    if (s)
        now_in(t, s);
    const char *m = j_str(ans.last, "model", j_str(ans.start, "model", ""));
    if (m[0])
        snprintf(t->model, sizeof t->model, "%s", m);
    if (ans.last && (code == CLI_OK || code == CLI_INTERRUPTED)) {
        if (t->c->json)
            answer_print_done(&ans, args_str(t->a, "logprobs") != NULL);
        else
            answer_print_stats(t->c, &ans, "");
    }
    answer_fini(&ans);
    return code;
}

/* Without a name: which model will answer. */
static void greet_new(struct chat *t)
{
    cJSON *list = NULL;
    const cJSON *m;
    const char *model = t->model[0] ? t->model : NULL;
    if (!t->el)
        return;
    if (!model)
        (void)cli_call(t->c, HRT_MODEL_LIST, NULL, NULL, 0, &list, NULL);
    cJSON_ArrayForEach(m, j_get(list, "models"))
    {
        if (j_bool(m, "default"))
            model = j_str(m, "name", NULL);
    }
    if (model)
        cli_note(t->c, "%s; /help lists what can be typed", shown(model));
    else
        cli_note(t->c, "/help lists what can be typed");
    cJSON_Delete(list);
}

/* The session the conversation goes on with, as SESSION_LIST has it: into ret, or NULL. */
static int find_session(struct chat *t, cJSON **ret)
{
    cJSON *list = NULL, *req = cJSON_CreateObject();
    cJSON *s, *o = NULL;
    cJSON_AddTrueToObject(req, "all");
    int code = cli_sessions(t->c, req, &list);
    cJSON_ArrayForEach(s, j_get(list, "sessions"))
    {
        if (strcmp(j_str(s, "name", ""), t->session) == 0 ||
            strcmp(j_str(s, "id", ""), t->session) == 0)
            o = s;
    }
    *ret = o ? cJSON_DetachItemViaPointer(cJSON_GetObjectItem(list, "sessions"), o) : NULL;
    cJSON_Delete(list);
    return code;
}

/* Where we were: the last turn, on a terminal. What fails here is no reason not to talk. */
static void show_last(struct chat *t)
{
    struct hearth_reply ids = {0};
    cJSON *req = cJSON_CreateObject(), *o = NULL;
    char *text = NULL;
    size_t n = 0;
    if (!isatty(0) || !t->c->out_tty || t->c->quiet || t->c->json) {
        cJSON_Delete(req);
        return;
    }
    cJSON_AddStringToObject(req, "session", t->session);
    cJSON_AddTrueToObject(req, "ids");
    int code = cli_call(t->c, HRT_SESSION_SHOW, req, NULL, 0, &o, &ids);
    const cJSON *turns = j_get(o, "turns");
    int last = cJSON_GetArraySize(turns) - 1;
    if (code == CLI_OK && last >= 0)
        code = cli_turn_text(t->c, o, cJSON_GetArrayItem(turns, last), &ids, &text, &n);
    if (code == CLI_OK && text) {
        size_t from = n > LAST_BYTES ? n - LAST_BYTES : 0;
        while (from && from < n && ((unsigned char)text[from] & 0xc0) == 0x80)
            from++;
        fputs(cli_dim(t->c, true), stderr);
        fputs(from ? "... " : "", stderr);
        cli_text(stderr, true, text + from, n - from);
        fputs(cli_dim(t->c, false), stderr);
        fputs(n && text[n - 1] == '\n' ? "" : "\n", stderr);
    }
    free(text);
    cJSON_Delete(o);
    hearth_reply_fini(&ids);
}

/* What a named conversation is about to go on with.  A session keeps to its model: another one
 * is refused before anything is asked. */
static int greet(struct chat *t)
{
    char b[2][WORDS_BYTES];
    cJSON *o = NULL;
    int code = find_session(t, &o);
    const char *model = j_str(o, "model", "");
    /* A new one is made by its first question, so that none is left behind by /quit. */
    if (code == CLI_OK && !o)
        cli_note(t->c, "%s begins with your first question; /help lists what can be typed",
                 shown(t->session));
    t->made = o != NULL;
    t->named = !o || j_str(o, "name", "")[0];
    if (o && t->model[0] && strcmp(t->model, model) != 0 && j_num(o, "tokens", 0) > 0) {
        code =
            cli_mistake(t->c, "--model",
                        "session \"%s\" belongs to model %s, not to %s; leave out -m, or take "
                        "another name",
                        t->session, model, t->model);
    } else if (o) {
        if (!t->model[0])
            snprintf(t->model, sizeof t->model, "%s", model);
        show_last(t);
        cli_note(t->c, "%s with %s: %s, last used %s; /help lists what can be typed",
                 shown(t->session), shown(t->model), words_tokens(b[0], j_num(o, "tokens", 0)),
                 words_idle(b[1], j_num(o, "idle_s", 0)));
    }
    cJSON_Delete(o);
    return code;
}

int cmd_chat(struct cli *c, const struct args *a)
{
    struct chat t = {.c = c, .a = a};
    const char *name = args_str(a, "session");
    const char *model = args_str(a, "model") ? args_str(a, "model") : a->n ? a->pos[0] : NULL;
    if (args_has(a, "ids"))
        return cli_usage(c, "--ids is for run, ask and ingest");
    if (a->n && args_str(a, "model") && strcmp(a->pos[0], args_str(a, "model")) != 0)
        return cli_usage(c, "--model: another MODEL is given beside it; give one of them");
    cJSON *unused = cJSON_CreateObject(); /* a wrong flag is said before the first question */
    int code = gen_flags(c, a, unused);
    cJSON_Delete(unused);
    if (code == CLI_OK && name)
        code = named_session(c, name, NAMED_LEAST_SURE, false, t.session);
    if (code == CLI_OK && model)
        code = find_model(&t, model, t.model, sizeof t.model);
    if (code == CLI_OK && t.session[0])
        code = greet(&t);
    if (code != CLI_OK)
        return code;
    edit_open(&t);
    bool interactive = t.el != NULL;
    if (!t.session[0])
        greet_new(&t);
    cli_catch_interrupt();
    for (bool once = false;;) {
        cli_interrupted = 0;
        char *line = read_line(&t);
        if (!line && cli_interrupted && cli_signal == SIGINT && !once && t.el) {
            once = true; /* a line given up; the second time in a row leaves */
            fputs("\n(Ctrl-C again or /quit leaves)\n", stderr);
            continue;
        }
        if (t.zero) {
            free(line);
            code = cli_mistake(c, "standard input",
                               "standard input has a zero byte, so it is no plain "
                               "text; convert it to UTF-8 (iconv -t UTF-8)");
            break;
        }
        if (!line) {
            code = cli_interrupted ? CLI_INTERRUPTED : code;
            break;
        }
        once = false;
        bool go_on = true;
        if (line[0] == '/')
            go_on = command(&t, line);
        else if (line[strspn(line, " \t\n")])
            code = say(&t, line);
        free(line);
        /* On a terminal a failed question is not the end; a script wants to know. */
        if (!go_on || (!t.el && code != CLI_OK))
            break;
        if (cli_signal == SIGTERM || cli_signal == SIGHUP || out_lost())
            break;
        code = CLI_OK;
    }
    edit_close(&t);
    /* Who sits there has read it; a script goes on behind a command that failed, and is told. */
    if (code == CLI_OK && !interactive)
        code = t.failed;
    if (t.made && !t.named && c->out_tty && !t.c->quiet)
        cli_note(c,
                 "this conversation has no name and will expire; `hearth sessions rename %s "
                 "NAME` keeps it",
                 t.session);
    return code;
}
