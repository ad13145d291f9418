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
enum { CHECK_MS = 5000 };

struct front {
    struct fronts *all;
    int kind;
    pid_t pid; /* 0: not running */
    struct loop_timer again;
    uint64_t started_ns, window_ns; /* deaths in the second that began at window_ns */
    uint32_t deaths;
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

static void front_start(struct front *f)
{
    const struct conf *c = f->all->d->conf;
    char nn[256], http[128];
    const char *argv[16];
    int n = 0;

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
        if (c->api_key_file) {
            argv[n++] = "--api-key-file";
            argv[n++] = c->api_key_file;
        }
        if (c->http_origin) {
            argv[n++] = "--http-origin";
            argv[n++] = c->http_origin;
        }
    }
    argv[n++] = "--core";
    argv[n++] = c->core_path;
    argv[n++] = "--runtime";
    argv[n++] = c->runtime;
    argv[n++] = "--exit-with-core";
    argv[n] = NULL;
    pid_t parent = getpid();
    f->started_ns = now_ns();
    /* Threads exist, so between fork and exec only async-signal-safe calls are made. */
    f->pid = fork();
    if (f->pid < 0) {
        log_at(LOG_ERROR_, "%s front: fork: %s, trying again in 1 s", front_word[f->kind],
               strerror(errno));
        f->pid = 0;
        loop_timer_set(f->all->d->loop, &f->again, now_ns() + 1000000000u);
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
        /* Whatever is open here, by whichever library, is not the front's. */
        if (close_range(3, ~0u, 0) < 0)
            closefrom(3);
        execv(f->all->program, (char *const *)(uintptr_t)argv);
        _exit(EXIT_EXEC);
    }
    log_at(LOG_DEBUG_, "%s front: started, pid %d", front_word[f->kind], (int)f->pid);
}

static void front_again(struct loop_timer *t)
{
    struct front *f = t->user;

    if (f->pid || f->off || f->all->closing)
        return;
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

    f->pid = 0;
    if (f->all->closing || d->stopping)
        return;
    if (exited && code == EXIT_PORT && f->kind == FRONT_HTTP) {
        daemon_warn(d,
                    "HTTP is off: another user has its port (see the log), and is given what "
                    "clients send to it; choose another port with --http");
        loop_timer_set(d->loop, &f->again, now + PORT_AGAIN_NS);
        return;
    }
    if (exited && (code == EXIT_USAGE || code == EXIT_EXEC)) {
        f->off = true;
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
    /* A signal is what a hostile peer causes: back at once.  An exit code so soon after the
     * start is a reason that the next try will meet again, and it is in the log. */
    if (++f->deaths >= FRONT_DEATHS_MAX || (exited && now - f->started_ns < 1000000000u))
        wait_ns = 1000000000u;
    f->all->restarts++;
    log_at(LOG_WARN_, "%s front: %s %d after %.1f s, starting it again%s", front_word[f->kind],
           exited ? "exit code" : "signal", code, (double)(now - f->started_ns) / 1e9,
           wait_ns ? " in 1 s" : "");
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

int fronts_check(const struct conf *c, struct errbuf *eb)
{
    char http[128], words[sizeof eb->s];
    char *program = c->no_front || !c->http ? NULL : find_program(c);
    const char *argv[] = {
        program, "--http", http, "--check", c->http_any_port ? "--http-any-port" : NULL, NULL};
    int out[2], code;

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
    return code == EXIT_PORT ? err_set(eb, -EADDRINUSE, "%s", words) : 0;
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
        a->f[i] = (struct front){.all = a, .kind = i};
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

uint64_t fronts_restarts(const struct daemon *d)
{
    return d->fronts ? d->fronts->restarts : 0;
}
