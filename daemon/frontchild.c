/* frontchild.c - see frontchild.h. */
#include "daemon/frontchild.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRONT_NN, FRONT_HTTP, FRONTS };
static const char *const front_word[FRONTS] = {"nanomsg", "HTTP"};

/* Statuses after which another try would end the same way: bad usage, exec failed. */
enum { EXIT_USAGE = 2, EXIT_PORT = 3, EXIT_EXEC = 127 };
#define PORT_AGAIN_NS 10000000000u /* another user has the port: look again then */
#define TOLD_NS       300000000u   /* whoever told a front to end may mean us, too */
#define WELL_NS       5000000000u  /* one that has failed and lives so long is well again */
#define SECOND_NS     1000000000u
enum { CHECK_MS = 5000 };

struct front {
    struct fronts *all;
    int kind;
    pid_t pid; /* 0: not running */
    struct loop_timer again;
    uint64_t started_ns, window_ns; /* deaths in the second that began at window_ns */
    uint32_t deaths;
    int said_fd;      /* its standard output: why it cannot go on, in one line; -1: none */
    char why[400];    /* why the last one ended, when that lasts; "": it does not */
    char warned[512]; /* the standing warning of it */
    uint32_t fails;   /* in a row; times: those for the same reason that are not in the log */
    uint32_t times;
    bool off;  /* not wanted, or given up */
    bool told; /* the last one ended because somebody told it to: not said yet */
};
struct fronts {
    struct daemon *d;
    char *program;
    struct front f[FRONTS];
    uint64_t restarts;
    bool closing;
};

static void http_addr(const struct conf *c, char *ret, size_t cap)
{
    snprintf(ret, cap, strchr(c->http_addr, ':') ? "[%s]:%u" : "%s:%u", c->http_addr,
             c->http_port);
}

/* What hearthd was given for the HTTP front to read: how many words. */
static int given(const struct conf *c, const char **argv)
{
    int n = 0;

    if (c->api_key_file) {
        argv[n++] = "--api-key-file";
        argv[n++] = c->api_key_file;
    }
    if (c->http_origin) {
        argv[n++] = "--http-origin";
        argv[n++] = c->http_origin;
    }
    return n;
}

static void front_start(struct front *f)
{
    const struct conf *c = f->all->d->conf;
    char nn[256], http[128];
    const char *argv[16];
    int n = 0, said[2] = {-1, -1};

    argv[n++] = f->all->program;
    if (f->kind == FRONT_NN) {
        snprintf(nn, sizeof nn, "ipc://%s/hearth.ipc", c->runtime);
        argv[n++] = "--nn";
        argv[n++] = nn;
    } else {
        http_addr(c, http, sizeof http);
        argv[n++] = "--http";
        argv[n++] = http;
        if (c->http_any_port)
            argv[n++] = "--http-any-port";
        n += given(c, argv + n);
    }
    argv[n++] = "--core";
    argv[n++] = c->core_path;
    argv[n++] = "--runtime";
    argv[n++] = c->runtime;
    argv[n++] = "--exit-with-core";
    argv[n] = NULL;
    pid_t parent = getpid();
    f->started_ns = now_ns();
    if (pipe2(said, O_CLOEXEC | O_NONBLOCK) < 0) /* then its reason would not be known */
        said[0] = said[1] = -1;
    /* Threads exist, so between fork and exec only async-signal-safe calls are made. */
    f->pid = fork();
    if (f->pid < 0) {
        log_at(LOG_ERROR_, "%s front: fork: %s, trying again in 1 s", front_word[f->kind],
               strerror(errno));
        f->pid = 0;
        for (int i = 0; i < 2; i++)
            if (said[i] >= 0)
                close(said[i]);
        loop_timer_set(f->all->d->loop, &f->again, now_ns() + SECOND_NS);
        return;
    }
    if (f->pid == 0) {
        sigset_t none;

        sigemptyset(&none);
        (void)signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is the daemon's to answer */
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)signal(SIGPIPE, SIG_DFL);
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent) /* it died before the line above */
            _exit(0);
        if (said[1] >= 0)
            (void)dup2(said[1], STDOUT_FILENO);
        /* Whatever is open here, by whichever library, is not the front's. */
        if (close_range(3, ~0u, 0) < 0)
            closefrom(3);
        execv(f->all->program, (char *const *)(uintptr_t)argv);
        _exit(EXIT_EXEC);
    }
    if (said[1] >= 0)
        close(said[1]);
    f->said_fd = said[0];
    if (f->why[0])
        loop_timer_set(f->all->d->loop, &f->again, f->started_ns + WELL_NS);
    log_at(LOG_DEBUG_, "%s front: started, pid %d", front_word[f->kind], (int)f->pid);
}

/* What it said before it ended, on one line. */
static void front_said(struct front *f, char *ret, size_t cap)
{
    ssize_t n = f->said_fd < 0 ? 0 : read(f->said_fd, ret, cap - 1);

    if (f->said_fd >= 0)
        close(f->said_fd);
    f->said_fd = -1;
    ret[n > 0 ? n : 0] = 0;
    ret[strcspn(ret, "\n")] = 0;
}

/* How often what the log has once has happened since. */
static void front_count(struct front *f)
{
    if (f->times)
        log_at(LOG_WARN_, "%s front: the same %u more time%s: %s", front_word[f->kind],
               f->times, f->times == 1 ? "" : "s", f->why);
    f->times = 0;
}

/* It has ended for a reason that the next one will meet again: said once, and it stands in the
 * status until one lives. */
static void front_fails(struct front *f, const char *why, const char *todo)
{
    struct daemon *d = f->all->d;

    f->fails++;
    if (strcmp(why, f->why) == 0) {
        f->times++;
        return;
    }
    front_count(f);
    if (f->warned[0])
        daemon_unwarn(d, f->warned);
    snprintf(f->why, sizeof f->why, "%s", why);
    snprintf(f->warned, sizeof f->warned, "%s is off: %s; %s",
             f->kind == FRONT_HTTP ? "HTTP" : "nanomsg", f->why, todo);
    daemon_warn(d, "%s", f->warned);
}

static void front_well(struct front *f)
{
    front_count(f);
    daemon_unwarn(f->all->d, f->warned);
    f->why[0] = f->warned[0] = 0;
    f->fails = 0;
    log_at(LOG_INFO_, "%s front: works again", front_word[f->kind]);
}

/* 1 s, and twice as long each time. */
static uint64_t front_rest(const struct front *f)
{
    uint64_t s = f->fails > 5 ? FRONT_REST_MAX_S : 1u << (f->fails ? f->fails - 1 : 0);

    return (s < FRONT_REST_MAX_S ? s : FRONT_REST_MAX_S) * SECOND_NS;
}

static void front_again(struct loop_timer *t)
{
    struct front *f = t->user;

    if (f->off || f->all->closing)
        return;
    if (f->pid) {
        front_well(f);
        return;
    }
    if (f->told)
        log_at(LOG_WARN_, "%s front: ended, told to or without its link, starting it again",
               front_word[f->kind]);
    f->told = false;
    front_start(f);
}

static void front_died(struct front *f, int status)
{
    struct daemon *d = f->all->d;
    uint64_t now = now_ns(), wait_ns = 0;
    bool exited = WIFEXITED(status);
    int code = exited ? WEXITSTATUS(status) : WTERMSIG(status);
    char why[sizeof f->why];

    f->pid = 0;
    loop_timer_cancel(d->loop, &f->again);
    front_said(f, why, sizeof why);
    if (!why[0])
        snprintf(why, sizeof why, "hearth-front ended with %s %d (its log lines may say why)",
                 exited ? "exit code" : "signal", code);
    if (f->all->closing || d->stopping)
        return;
    if (exited && code == EXIT_PORT && f->kind == FRONT_HTTP) {
        front_fails(f, why,
                    "that user is given what clients send to it; choose another port with "
                    "--http");
        f->all->restarts++;
        loop_timer_set(d->loop, &f->again, now + PORT_AGAIN_NS);
        return;
    }
    if (exited && (code == EXIT_USAGE || code == EXIT_EXEC)) {
        f->off = true;
        snprintf(f->why, sizeof f->why, "%s", why);
        daemon_warn(d, "the %s front (%s) ended with exit code %d at start and stays off; %s",
                    front_word[f->kind], f->all->program, code,
                    f->kind == FRONT_HTTP ? "see --http" : "core.sock still serves");
        return;
    }
    /* systemd and `kill 0` tell it first and us a moment later: then it is a stop. */
    if (exited && code == 0) {
        f->told = true;
        f->all->restarts++;
        loop_timer_set(d->loop, &f->again, now + TOLD_NS);
        return;
    }
    if (now - f->window_ns > 1000000000u) {
        f->window_ns = now;
        f->deaths = 0;
    }
    f->all->restarts++;
    /* A signal is what a hostile peer causes: back at once.  An exit code, or so many signals,
     * is a reason that the next try will meet again. */
    if (++f->deaths >= FRONT_DEATHS_MAX || exited) {
        front_fails(f, why,
                    f->kind == FRONT_HTTP
                        ? "it is tried again, at least every 30 s; see --http"
                        : "it is tried again, at least every 30 s; core.sock still serves");
        wait_ns = front_rest(f);
    } else {
        log_at(LOG_WARN_, "%s front: signal %d after %.1f s, starting it again",
               front_word[f->kind], code, (double)(now - f->started_ns) / 1e9);
    }
    /* By timer even when at once: a program that dies in exec must not recurse. */
    loop_timer_set(d->loop, &f->again, now + wait_ns);
}

void fronts_reap(struct daemon *d)
{
    int status;

    for (int i = 0; d->fronts && i < FRONTS; i++) {
        struct front *f = &d->fronts->f[i];

        if (f->pid && waitpid(f->pid, &status, WNOHANG) == f->pid)
            front_died(f, status);
    }
}

/* hearth-front beside this program: the two are built and installed together. */
static char *find_program(const struct conf *c)
{
    char self[4096], *p = NULL;
    ssize_t n;

    if (c->front)
        return strdup(c->front);
    n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return NULL;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (!slash)
        return NULL;
    *slash = 0;
    return asprintf(&p, "%s/hearth-front", self) < 0 ? NULL : p;
}

/* What the check said, until it ends or takes too long.  Its exit status, or -1: not known. */
static int check_read(pid_t pid, int fd, char *ret, size_t cap)
{
    uint64_t until = now_ns() + CHECK_MS * 1000000ull, now;
    size_t n = 0;
    ssize_t k = 1;
    int st = -1;

    while (k > 0 && n < cap - 1 && (now = now_ns()) < until) {
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (poll(&p, 1, (int)((until - now) / 1000000) + 1) > 0 &&
            (k = read(fd, ret + n, cap - 1 - n)) > 0)
            n += (size_t)k;
    }
    ret[n] = 0;
    ret[strcspn(ret, "\n")] = 0;
    if (k > 0)
        (void)kill(pid, SIGKILL);
    while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
        ;
    return k <= 0 && WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

/* The front looks itself: what it will read is read by nobody else. */
static int check(const struct conf *c, bool port, struct errbuf *eb)
{
    char http[128], words[sizeof eb->s];
    char *program = c->no_front || !c->http ? NULL : find_program(c);
    const char *argv[10] = {program, "--check"};
    int out[2], code, n = 2;

    if (port) {
        argv[n++] = "--http";
        argv[n++] = http;
        if (c->http_any_port)
            argv[n++] = "--http-any-port";
    }
    (void)given(c, argv + n);
    if (!program || access(program, X_OK) < 0 || pipe2(out, O_CLOEXEC) < 0) {
        free(program);
        return 0; /* fronts_open says what is missing */
    }
    http_addr(c, http, sizeof http);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(out[1], STDOUT_FILENO);
        execv(program, (char *const *)(uintptr_t)argv);
        _exit(EXIT_EXEC);
    }
    free(program);
    close(out[1]);
    code = pid < 0 ? -1 : check_read(pid, out[0], words, sizeof words);
    close(out[0]);
    return code == EXIT_PORT                ? err_set(eb, -EADDRINUSE, "%s", words)
           : code == EXIT_USAGE && words[0] ? err_set(eb, -EINVAL, "%s", words)
                                            : 0;
}

int fronts_check_given(const struct conf *c, struct errbuf *eb)
{
    return c->api_key_file || c->http_origin ? check(c, false, eb) : 0;
}
int fronts_check(const struct conf *c, struct errbuf *eb)
{
    return check(c, true, eb);
}

/* Nobody is told of a port that is served no more, or not yet. */
static void port_forget(const struct daemon *d)
{
    char path[4096];

    if (d->conf->http &&
        snprintf(path, sizeof path, "%s/http.port", d->conf->runtime) < (int)sizeof path)
        (void)unlink(path);
}

int fronts_open(struct daemon *d)
{
    const struct conf *c = d->conf;
    struct fronts *a;

    if (c->no_front)
        return 0;
    port_forget(d);
    a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    a->d = d;
    d->fronts = a;
    a->program = find_program(c);
    for (int i = 0; i < FRONTS; i++) {
        a->f[i] = (struct front){.all = a, .kind = i, .said_fd = -1};
        a->f[i].again = (struct loop_timer){.fire = front_again, .user = &a->f[i]};
        a->f[i].off = i == FRONT_HTTP && !c->http;
    }
    if (!a->program || access(a->program, X_OK) < 0) {
        daemon_warn(d,
                    "%s is not there or cannot be run, so there is no hearth.ipc and no HTTP; "
                    "clients can use unix://%s",
                    a->program ? a->program : "hearth-front", c->core_path);
        for (int i = 0; i < FRONTS; i++)
            a->f[i].off = true;
        return 0;
    }
    for (int i = 0; i < FRONTS; i++)
        if (!a->f[i].off)
            front_start(&a->f[i]);
    return 0;
}

void fronts_close(struct daemon *d)
{
    struct fronts *a = d->fronts;
    uint64_t until = now_ns() + 500000000u;
    int status;

    if (!a)
        return;
    a->closing = true;
    for (int i = 0; i < FRONTS; i++) {
        loop_timer_cancel(d->loop, &a->f[i].again);
        front_count(&a->f[i]);
        if (a->f[i].said_fd >= 0)
            close(a->f[i].said_fd);
        if (a->f[i].pid)
            (void)kill(a->f[i].pid, SIGTERM);
    }
    for (int i = 0; i < FRONTS; i++)
        while (a->f[i].pid) {
            pid_t r = waitpid(a->f[i].pid, &status, WNOHANG);

            if (r == a->f[i].pid || (r < 0 && errno != EINTR)) {
                a->f[i].pid = 0;
            } else if (now_ns() > until) {
                (void)kill(a->f[i].pid, SIGKILL);
                (void)waitpid(a->f[i].pid, &status, 0);
                a->f[i].pid = 0;
            } else {
                /* The only wait without an event: two children, half a second, at exit. */
                struct timespec ms = {.tv_nsec = 2000000};
                (void)nanosleep(&ms, NULL);
            }
        }
    /* The front itself has no right to remove anything. */
    char ipc[256];
    if (!a->f[FRONT_NN].off &&
        snprintf(ipc, sizeof ipc, "%s/hearth.ipc", d->conf->runtime) < (int)sizeof ipc)
        (void)unlink(ipc);
    port_forget(d);
    free(a->program);
    free(a);
    d->fronts = NULL;
}

bool fronts_http(const struct daemon *d)
{
    return d->fronts && !d->fronts->f[FRONT_HTTP].off;
}

const char *fronts_http_error(const struct daemon *d)
{
    return d->fronts ? d->fronts->f[FRONT_HTTP].why : "";
}

uint64_t fronts_restarts(const struct daemon *d)
{
    return d->fronts ? d->fronts->restarts : 0;
}
