/* cmd_serve.c - hearth serve: becomes hearthd, or leaves one behind in the background. */
#include "client/cli.h"
#include "client/place.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_MS = 120000, LOOK_MS = 50 };

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

/* Waits until the child answers or has died. */
static int await(struct cli *c, pid_t pid, const char *url, const char *log)
{
    struct hearth_conn *conn = NULL;
    struct hearth_reply rep = {0};
    struct errbuf eb;
    int code = -1, st;
    if (hearth_connect(&conn, url, &eb) < 0)
        return cli_fail(c, CLI_FAILED, "%s", eb.s);
    for (int waited = 0; code < 0; waited += LOOK_MS) {
        if (waitpid(pid, &st, WNOHANG) == pid) {
            code = cli_fail(c, CLI_FAILED, "hearthd ended at once; its log says why: %s", log);
        } else if (hearth_call(conn, HRT_HELLO,
                               "{\"min\":1,\"max\":1,\"client\":\"hearth serve\"}", NULL, 0,
                               1000, &rep, &eb) == 0) {
            cJSON *o = cJSON_Parse(rep.json);
            if (j_num(o, "pid", -1) != (double)pid)
                code = cli_fail(c, CLI_FAILED, "another hearthd (pid %.0f) answers at %s",
                                j_num(o, "pid", 0), url);
            else
                code = CLI_OK;
            cJSON_Delete(o);
            hearth_reply_fini(&rep);
        } else if (waited > READY_MS) {
            code = cli_fail(c, CLI_LATER, "hearthd is not ready yet; its log: %s", log);
        } else {
            (void)poll(NULL, 0, LOOK_MS);
        }
    }
    hearth_close(conn);
    return code;
}

int cmd_serve(struct cli *c, const struct args *a)
{
    static char *argv[ARGS_MAX + 2];
    char prog[4096], url[4200], dir[4000], log[4200] = "/dev/null";
    bool detach = false;
    int n = 0;
    find_hearthd(prog, sizeof prog);
    argv[n++] = prog;
    for (int i = 0; i < a->n; i++) {
        if (strcmp(a->pos[i], "--detach") == 0) {
            detach = true;
        } else if (strcmp(a->pos[i], "--help") == 0 || strcmp(a->pos[i], "-h") == 0) {
            help_verb(a->verb);
            return CLI_OK;
        } else {
            argv[n++] = (char *)a->pos[i];
        }
    }
    argv[n] = NULL;
    if (!detach)
        return become(c, prog, argv);

    if (place_state(dir, sizeof dir) == 0)
        snprintf(log, sizeof log, "%s/hearthd.log", dir);
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (out < 0)
        return cli_fail(c, CLI_FAILED, "cannot write the log %s: %s", log, strerror(errno));
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
        fprintf(stderr, "hearth: cannot start %s: %s\n", prog, strerror(errno));
        _exit(127);
    }
    close(out);
    if (pid < 0)
        return cli_fail(c, CLI_FAILED, "cannot start a process: %s", strerror(errno));
    core_url(a, url, sizeof url);
    int code = await(c, pid, url, log);
    if (code == CLI_OK && c->json)
        printf("{\"pid\":%d,\"socket\":\"%s\",\"log\":\"%s\"}\n", (int)pid, url, log);
    else if (code == CLI_OK)
        cli_note(c, "hearthd runs, pid %d; log: %s; stop it with: kill %d", (int)pid, log,
                 (int)pid);
    return code;
}
