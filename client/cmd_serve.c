/* cmd_serve.c - hearth serve: becomes hearthd, or leaves one behind in the background. */
#include "client/cli.h"
#include "client/place.h"
#include "client/say.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_MS = 120000, HTTP_MS = 20000, PEEK_MS = 2000, LOOK_MS = 50, LINES_SHOWN = 3 };

/* hearthd beside this program, else on PATH. */
static void find_hearthd(char *ret, size_t cap)
{
    char self[3900];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0) {
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (slash) {
            *slash = 0;
            snprintf(ret, cap, "%s/hearthd", self);
            if (access(ret, X_OK) == 0)
                return;
        }
    }
    snprintf(ret, cap, "hearthd");
}

char *serve_help(void)
{
    enum { MAX = 64 << 10 };
    char prog[4096], *text = malloc(MAX);
    size_t n = 0;
    ssize_t k;
    int p[2], st = -1;
    find_hearthd(prog, sizeof prog);
    if (!text || pipe2(p, O_CLOEXEC) < 0) {
        free(text);
        return NULL;
    }
    fflush(NULL); /* what waits in stdout is not the child's, too */
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)dup2(null, 0);
        (void)dup2(p[1], 1);
        (void)dup2(null, 2);
        (void)signal(SIGPIPE, SIG_DFL);
        execlp(prog, prog, "--help", (char *)NULL);
        _exit(127);
    }
    close(p[1]);
    while (pid > 0 && n < MAX - 1 && (k = read(p[0], text + n, MAX - 1 - n)) != 0) {
        if (k > 0)
            n += (size_t)k;
        else if (errno != EINTR)
            break;
    }
    close(p[0]);
    while (pid > 0 && waitpid(pid, &st, 0) < 0 && errno == EINTR)
        ;
    text[n] = 0;
    if (pid > 0 && WIFEXITED(st) && WEXITSTATUS(st) == 0 && n)
        return text;
    free(text);
    return NULL;
}

static int become(struct cli *c, const char *prog, char **argv)
{
    execvp(prog, argv);
    return cli_fail(c, CLI_FAILED, "cannot start %s: %s; it belongs beside hearth, or on PATH",
                    prog, strerror(errno));
}

/* The socket the new daemon will listen on: --runtime's, or this user's. */
static void core_url(const struct args *a, char *ret, size_t cap)
{
    char dir[4096] = "";
    (void)place_runtime(dir, sizeof dir);
    for (int i = 0; i < a->n; i++) {
        if (strncmp(a->pos[i], "--runtime=", 10) == 0)
            snprintf(dir, sizeof dir, "%s", a->pos[i] + 10);
        else if (strcmp(a->pos[i], "--runtime") == 0 && i + 1 < a->n)
            snprintf(dir, sizeof dir, "%s", a->pos[i + 1]);
    }
    snprintf(ret, cap, "unix://%s/core.sock", dir);
}

/* --state's, or NULL. */
static const char *state_given(const struct args *a)
{
    const char *dir = NULL;
    for (int i = 0; i < a->n; i++) {
        if (strncmp(a->pos[i], "--state=", 8) == 0)
            dir = a->pos[i] + 8;
        else if (strcmp(a->pos[i], "--state") == 0 && i + 1 < a->n)
            dir = a->pos[i + 1];
    }
    return dir;
}

/* The log of --detach, beside what else the command keeps; where that cannot be written, as in a
 * home that is read-only, in --state's directory.  A descriptor, or -1: it has been said. */
static int open_log(struct cli *c, const struct args *a, char *ret, size_t cap)
{
    const char *state = state_given(a);
    char dir[4000];
    int fd = -1, e = -place_state(dir, sizeof dir);
    snprintf(ret, cap, "%s/hearthd.log", dir);
    if (e == 0) {
        fd = open(ret, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        e = errno;
    }
    if (fd < 0 && state && place_make(state) == 0) {
        snprintf(ret, cap, "%s/hearthd.log", state);
        fd = open(ret, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        e = errno;
    }
    if (fd < 0)
        (void)cli_fail(c, CLI_FAILED,
                       "cannot write the log %s: %s; give a directory that can be written, for "
                       "it and for the sessions: --state DIR",
                       ret, strerror(e));
    return fd;
}

/* What hearthd wrote since `from`: its errors, or the last lines when it says none.  The end of
 * text; line[]: at most LINES_SHOWN of it.  How many. */
static int last_lines(const char *log, off_t from, char *text, size_t cap,
                      const char *line[LINES_SHOWN])
{
    int fd = open(log, O_RDONLY | O_CLOEXEC), count[2] = {0};
    off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    const char *found[2][LINES_SHOWN]; /* any, and those that are errors; in turns */
    if (end - from > (off_t)cap - 1)
        from = end - (off_t)cap + 1;
    ssize_t n = fd < 0 || end <= from ? 0 : pread(fd, text, cap - 1, from);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    for (char *at = text, *rest; (at = strtok_r(at, "\n", &rest)) != NULL; at = NULL) {
        bool error = strstr(at, " error ") || strncmp(at, "hearth", 6) == 0;
        found[0][count[0]++ % LINES_SHOWN] = at;
        if (error)
            found[1][count[1]++ % LINES_SHOWN] = at;
    }
    int which = count[1] > 0, all = count[which], k = 0;
    for (int i = all > LINES_SHOWN ? all - LINES_SHOWN : 0; i < all; i++)
        line[k++] = found[which][i % LINES_SHOWN];
    return k;
}

/* Without the date and the level, which begin a line of the log. */
static const char *bare(const char *line)
{
    const char *error = strstr(line, " error ");
    return error && line[0] >= '0' && line[0] <= '9' ? error + 7 : line;
}

/* It ended: its own words and exit code, so that a script can tell a wrong flag from a failed
 * start. */
static int ended(struct cli *c, int st, const char *log, off_t from)
{
    char text[8192], words[5400];
    const char *line[LINES_SHOWN], *how = WIFEXITED(st) ? "exit code" : "signal";
    int n = last_lines(log, from, text, sizeof text, line);
    int code = WIFEXITED(st) && WEXITSTATUS(st) ? WEXITSTATUS(st) : CLI_FAILED;
    int number = WIFEXITED(st) ? WEXITSTATUS(st) : WTERMSIG(st);
    if (!c->json) {
        for (int i = 0; i < n; i++)
            say_err("%s\n", shown(line[i]));
        return cli_fail(c, code, "hearthd ended at once (%s %d); its log: %s", how, number,
                        log);
    }
    const char *why = n ? bare(line[n - 1]) : "", *todo = strstr(why, "; ");
    snprintf(words, sizeof words, "hearthd ended at once (%s %d)%s%.*s", how, number,
             n ? ": " : "", (int)(todo ? (size_t)(todo - why) : strlen(why)), why);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "slug", code == CLI_USAGE ? "usage" : "hearthd_ended");
    cJSON_AddStringToObject(o, "message", words);
    snprintf(words, sizeof words, "%.600s%sits log: %s", todo ? todo + 2 : "", todo ? "; " : "",
             log);
    cJSON_AddStringToObject(o, "hint", words);
    cJSON *reason = cJSON_AddArrayToObject(o, "reason");
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(reason, cJSON_CreateString(line[i]));
    cJSON_AddStringToObject(o, "log", log);
    (void)cli_fail_reply(c, code == CLI_USAGE ? HRT_INVALID_ARGUMENT : HRT_INTERNAL, o);
    cJSON_Delete(o);
    return code;
}

/* Its own words again, which say what to do. */
static int runs_already(struct cli *c, pid_t other, const char *url, const char *log,
                        off_t from)
{
    char text[8192];
    const char *line[LINES_SHOWN];
    int n = last_lines(log, from, text, sizeof text, line);
    const char *why = n ? strstr(line[n - 1], "another hearthd") : NULL;
    const char *todo = why ? strstr(why, "; ") : NULL;
    if (!todo)
        return cli_fail_as(c, CLI_FAILED, HRT_ALREADY_EXISTS, "daemon_runs",
                           "another hearthd (pid %d) answers at %s; its log: %s", (int)other,
                           url, log);
    return cli_fail_as(c, CLI_FAILED, HRT_ALREADY_EXISTS, "daemon_runs", "%.*s; %s",
                       (int)(todo - why), why, todo + 2);
}

/* Is a model's file looked at still?  Whether it can be one is known before its load moves. */
static bool peeks(const cJSON *st)
{
    const cJSON *m;
    cJSON_ArrayForEach(m, j_get(st, "models"))
    {
        if (strcmp(j_str(m, "state", ""), "loading") == 0 && j_num(m, "load_done", 1) <= 0)
            return true;
    }
    return false;
}

/* STATUS, once HTTP is up and the models named are seen to be some, or the daemon has had its time
 * for that; NULL: none. */
static cJSON *status_with_http(struct hearth_conn *conn)
{
    struct errbuf eb;
    for (int waited = 0;; waited += LOOK_MS) {
        struct hearth_reply rep = {0};
        if (hearth_call(conn, HRT_STATUS, NULL, NULL, 0, 5000, &rep, &eb) < 0)
            return NULL;
        cJSON *o = rep.status == HRT_OK ? cJSON_Parse(rep.json) : NULL;
        hearth_reply_fini(&rep);
        bool http = o && (!j_str(o, "http_set", NULL) || j_str(o, "http", NULL) ||
                          j_str(o, "http_error", NULL));
        if (!o || waited > HTTP_MS || (http && (!peeks(o) || waited > PEEK_MS)))
            return o;
        cJSON_Delete(o);
        (void)poll(NULL, 0, LOOK_MS);
    }
}

/* What is to be said of a daemon that runs, in words and in JSON: its warnings, and the models of its
 * directory that it could not load (of those named at start it warns itself; those still being loaded
 * are not known yet).  The caller's. */
static cJSON *warnings_of(const cJSON *st)
{
    cJSON *all = cJSON_CreateArray();
    const cJSON *w, *m;
    cJSON_ArrayForEach(w, j_get(st, "warnings"))
    {
        if (cJSON_IsString(w))
            cJSON_AddItemToArray(all, cJSON_CreateString(w->valuestring));
    }
    cJSON_ArrayForEach(m, j_get(st, "models"))
    {
        char words[1024];
        bool said = strcmp(j_str(m, "state", ""), "failed") != 0;
        snprintf(words, sizeof words, "model %s cannot be loaded: %s", j_str(m, "name", "?"),
                 j_str(m, "error", "see the log"));
        cJSON_ArrayForEach(w, all) said |= strcmp(w->valuestring, words) == 0;
        if (!said)
            cJSON_AddItemToArray(all, cJSON_CreateString(words));
    }
    return all;
}

/* HELLO's pid, or 0: nobody answers. */
static pid_t who_answers(struct hearth_conn *conn)
{
    struct hearth_reply rep = {0};
    struct errbuf eb;
    if (hearth_call(conn, HRT_HELLO, "{\"min\":1,\"max\":1,\"client\":\"hearth serve\"}", NULL,
                    0, 1000, &rep, &eb) < 0)
        return 0;
    cJSON *o = cJSON_Parse(rep.json);
    pid_t pid = (pid_t)j_num(o, "pid", -1);
    cJSON_Delete(o);
    hearth_reply_fini(&rep);
    return pid;
}

/* Waits until the child answers or has died.  *ret: its STATUS, perhaps NULL; the caller's. */
static int await(struct cli *c, pid_t pid, const char *url, const char *log, off_t from,
                 cJSON **ret)
{
    struct hearth_conn *conn = NULL;
    struct errbuf eb;
    int code = -1, st;
    if (hearth_connect(&conn, url, &eb) < 0)
        return cli_fail(c, CLI_FAILED, "%s", eb.s);
    for (int waited = 0; code < 0; waited += LOOK_MS) {
        bool died = waitpid(pid, &st, WNOHANG) == pid;
        pid_t other = who_answers(conn);
        /* While ours lives the other may be on its way out: ours waits for its lock. */
        if (other == pid && !died) {
            code = CLI_OK;
        } else if (died && other && !(WIFEXITED(st) && WEXITSTATUS(st) == CLI_USAGE)) {
            code = runs_already(c, other, url, log, from);
        } else if (died) {
            code = ended(c, st, log, from);
        } else if (waited > READY_MS) {
            code = cli_fail(c, CLI_LATER, "hearthd is not ready yet; its log: %s", log);
        } else {
            (void)poll(NULL, 0, LOOK_MS);
        }
    }
    if (code == CLI_OK)
        *ret = status_with_http(conn);
    hearth_close(conn);
    return code;
}

int cmd_serve(struct cli *c, const struct args *a)
{
    static char *argv[ARGS_MAX + 2];
    char prog[4096], url[4200], log[4200];
    bool detach = false;
    int n = 0;
    find_hearthd(prog, sizeof prog);
    argv[n++] = prog;
    for (int i = 0; i < a->n; i++) {
        if (strcmp(a->pos[i], "--detach") == 0) {
            detach = true;
        } else if (strcmp(a->pos[i], "-q") == 0 || strcmp(a->pos[i], "--quiet") == 0) {
            c->quiet = true; /* ours: hearthd has no such flags */
        } else if (strcmp(a->pos[i], "--json") == 0) {
            c->json = true;
        } else if (strcmp(a->pos[i], "--help") == 0 || strcmp(a->pos[i], "-h") == 0) {
            help_verb(a->verb);
            return CLI_OK;
        } else {
            argv[n++] = (char *)a->pos[i];
        }
    }
    argv[n] = NULL;
    if (!detach && (c->json || c->quiet)) /* in the foreground all output is hearthd's */
        return cli_fail(c, CLI_USAGE, "%s: goes with --detach; leave it out, or add that",
                        c->json ? "--json" : "--quiet");
    if (!detach)
        return become(c, prog, argv);

    int out = open_log(c, a, log, sizeof log);
    if (out < 0)
        return CLI_FAILED;
    off_t from = lseek(out, 0, SEEK_END);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        (void)setsid();
        (void)dup2(null, 0);
        (void)dup2(out, 1);
        (void)dup2(out, 2);
        (void)signal(SIGPIPE, SIG_DFL);
        execvp(prog, argv);
        say_err("hearth: cannot start %s: %s\n", shown(prog), strerror(errno));
        _exit(127);
    }
    close(out);
    if (pid < 0)
        return cli_fail(c, CLI_FAILED, "cannot start a process: %s", strerror(errno));
    core_url(a, url, sizeof url);
    cJSON *st = NULL;
    int code = await(c, pid, url, log, from, &st);
    const char *http = j_str(st, "http", NULL);
    if (code == CLI_OK && c->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "pid", (double)pid);
        cJSON_AddStringToObject(o, "socket", url);
        if (http)
            cJSON_AddStringToObject(o, "http", http);
        else
            cJSON_AddNullToObject(o, "http");
        cJSON_AddStringToObject(o, "log", log);
        cJSON_AddItemToObject(o, "warnings", warnings_of(st));
        out_json(o);
        cJSON_Delete(o);
    } else if (code == CLI_OK) {
        cJSON *all = warnings_of(st), *w;
        cJSON_ArrayForEach(w, all) say_err("hearth: warning: %s\n", shown(w->valuestring));
        cJSON_Delete(all);
        cli_note(c, "hearthd runs, pid %d%s%s; log: %s; stop it with: kill %d", (int)pid,
                 http ? ", HTTP at " : "", http ? shown(http) : "", shown(log), (int)pid);
    }
    cJSON_Delete(st);
    return code;
}
