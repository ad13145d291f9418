/* test_frontchild.c - fronts are started, come back when they die, and end with us.
 *
 * The program is a script that writes down how it was called: starting, dying and reaping
 * are real, what a front does with its sockets is tested elsewhere. */
#include "base/clock.h"
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/frontchild.h"
#include "daemon/loop.h"
#include "tests/t.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct daemon d;
static struct conf conf;
static struct loop_watch sig;
static char dir[128], program[200], core[200];

/* The log, kept to be looked at. */
static char lines[50][300];
static int n_lines;
void log_at(enum log_level level, const char *fmt, ...)
{
    va_list ap;

    (void)level;
    va_start(ap, fmt);
    vsnprintf(lines[n_lines++ % 50], sizeof *lines, fmt, ap);
    va_end(ap);
}
static int logged(const char *word)
{
    int n = 0;

    for (int i = 0; i < n_lines && i < 50; i++)
        n += strstr(lines[i], word) != NULL;
    return n;
}

static void on_child(struct loop_watch *w, uint32_t events)
{
    struct signalfd_siginfo si;

    (void)events;
    while (read(w->fd, &si, sizeof si) == sizeof si)
        fronts_reap(&d);
}
static void begin(const char *script)
{
    sigset_t set;
    FILE *f;

    snprintf(dir, sizeof dir, "%s", t_tmpdir());
    snprintf(program, sizeof program, "%s/front", dir);
    snprintf(core, sizeof core, "%s/core.sock", dir);
    f = fopen(program, "w");
    fprintf(f, "#!/bin/sh\necho \"$$ $*\" >> %s/calls\n%s\n", dir, script);
    fclose(f);
    chmod(program, 0755);
    memset(&d, 0, sizeof d);
    memset(&conf, 0, sizeof conf);
    d.conf = &conf;
    conf.runtime = dir;
    conf.core_path = core;
    conf.front = program;
    conf.http = true;
    snprintf(conf.http_addr, sizeof conf.http_addr, "127.0.0.1");
    conf.http_port = 8765;
    CHECK_EQ(loop_open(&d.loop), 0);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sig = (struct loop_watch){.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC),
                              .events = EPOLLIN,
                              .ready = on_child};
    CHECK_EQ(loop_add(d.loop, &sig), 0);
}
static void end(void)
{
    fronts_close(&d);
    loop_del(d.loop, &sig);
    close(sig.fd);
    loop_close(d.loop);
}
static void stop(struct loop_timer *t)
{
    loop_stop(t->user);
}
static void run_for(uint64_t ms)
{
    struct loop_timer t = {.fire = stop, .user = d.loop};

    loop_timer_set(d.loop, &t, now_ns() + ms * 1000000);
    loop_run(d.loop);
}
/* Lines of `calls`; the pid of the last one that has `word` in it. */
static int calls(const char *word, pid_t *ret_pid, char *ret_line)
{
    char name[300], line[512];
    int n = 0;
    FILE *f;

    snprintf(name, sizeof name, "%s/calls", dir);
    f = fopen(name, "r");
    while (f && fgets(line, sizeof line, f))
        if (strstr(line, word)) {
            n++;
            if (ret_pid)
                *ret_pid = (pid_t)strtol(line, NULL, 10);
            if (ret_line)
                strcpy(ret_line, line);
        }
    if (f)
        fclose(f);
    return n;
}
static void run_until(const char *word, int want)
{
    uint64_t until = now_ns() + 10000000000u * T_SLOWER;

    while (calls(word, NULL, NULL) < want && now_ns() < until)
        run_for(10);
    CHECK(calls(word, NULL, NULL) >= want);
}

static void two_are_started_with_their_endpoint_and_the_core(void)
{
    char nn[512] = "", http[512] = "";

    begin("exec sleep 100");
    CHECK_EQ(fronts_open(&d), 0);
    run_until("--nn", 1);
    run_until("--http", 1);
    calls("--nn", NULL, nn);
    calls("--http", NULL, http);
    CHECK(strstr(nn, "ipc://") && strstr(nn, "/hearth.ipc --core ") && strstr(nn, core));
    CHECK(strstr(http, "--http 127.0.0.1:8765 --core ") != NULL);
    CHECK(!strstr(http, "--api-key-file"));
    end();
}
static void one_that_dies_of_a_signal_is_back_at_once(void)
{
    pid_t pid = 0, again = 0;

    begin("exec sleep 100");
    conf.http = false;
    CHECK_EQ(fronts_open(&d), 0);
    for (int i = 1; i <= 20; i++) {
        run_until("--nn", i);
        calls("--nn", &pid, NULL);
        CHECK(pid != again);
        again = pid;
        uint64_t from = now_ns();
        kill(pid, SIGKILL);
        run_until("--nn", i + 1);
        CHECK(now_ns() - from < 900000000u);
    }
    CHECK_EQ(fronts_restarts(&d), 20);
    CHECK_EQ(d.n_warnings, 0);
    end();
}
static void wrong_usage_is_not_tried_again(void)
{
    begin("exit 2");
    conf.http = false;
    CHECK_EQ(fronts_open(&d), 0);
    run_until("--nn", 1);
    run_for(200);
    CHECK_EQ(calls("--nn", NULL, NULL), 1);
    CHECK_EQ(d.n_warnings, 1);
    CHECK(strstr(d.warnings[0], "exit code 2") != NULL);
    end();
}
static void an_exit_right_after_the_start_waits_a_second(void)
{
    begin("exit 1");
    conf.http = false;
    CHECK_EQ(fronts_open(&d), 0);
    run_until("--nn", 1);
    run_for(500);
    CHECK_EQ(calls("--nn", NULL, NULL), 1);
    run_until("--nn", 2);
    end();
}
static void a_reason_that_lasts_is_said_once_and_tried_ever_more_rarely(void)
{
    char cmd[400];

    begin("[ -e ${0%/*}/mended ] && exec sleep 100\n"
          "echo 'the moon is in the way; wait for the sun'\nexit 1");
    conf.http = false;
    n_lines = 0;
    CHECK_EQ(fronts_open(&d), 0);
    run_until("--nn", 3); /* after 0, 1 and 3 seconds */
    run_for(2000);
    CHECK_EQ(calls("--nn", NULL, NULL), 3);
    CHECK_EQ(d.n_warnings, 1);
    CHECK(strstr(d.warnings[0], "the moon is in the way; wait for the sun") != NULL);
    CHECK_EQ(logged("the moon"), 1);
    snprintf(cmd, sizeof cmd, "touch %s/mended", dir);
    CHECK_EQ(system(cmd), 0);
    run_until("--nn", 4);
    for (int i = 0; i < 100 && d.n_warnings; i++)
        run_for(100);
    CHECK_EQ(d.n_warnings, 0);
    CHECK_EQ(logged("the same 2 more times: the moon"), 1);
    end();
}
static void a_program_that_is_not_there_is_a_warning(void)
{
    begin("exit 0");
    snprintf(program, sizeof program, "%s/nothing", dir);
    CHECK_EQ(fronts_open(&d), 0);
    CHECK_EQ(d.n_warnings, 1);
    CHECK(strstr(d.warnings[0], "unix://") != NULL);
    end();
}
static void close_ends_them_even_when_they_ignore_it(void)
{
    pid_t pid = 0;

    begin("trap '' TERM; while :; do sleep 1; done");
    conf.http = false;
    CHECK_EQ(fronts_open(&d), 0);
    run_until("--nn", 1);
    run_for(50);
    calls("--nn", &pid, NULL);
    CHECK_EQ(kill(pid, 0), 0);
    end();
    CHECK(kill(pid, 0) < 0 && errno == ESRCH);
}
static void they_end_when_we_are_killed(void)
{
    pid_t pid = 0, child;
    int st;

    begin("exec sleep 100");
    conf.http = false;
    fflush(NULL);
    child = fork();
    if (child == 0) {
        (void)fronts_open(&d);
        run_for(60000);
        _exit(0);
    }
    uint64_t until = now_ns() + 10000000000u * T_SLOWER;
    while (calls("--nn", &pid, NULL) < 1 && now_ns() < until)
        usleep(2000);
    usleep(50000);
    CHECK_EQ(kill(pid, 0), 0);
    kill(child, SIGKILL);
    waitpid(child, &st, 0);
    until = now_ns() + 5000000000u * T_SLOWER;
    /* Its new parent reaps it in its own time: a zombie counts as ended. */
    char name[64], state = 0;
    do {
        snprintf(name, sizeof name, "/proc/%d/stat", (int)pid);
        FILE *f = fopen(name, "r");
        state = 0;
        if (f) {
            (void)!fscanf(f, "%*d (%*[^)]) %c", &state);
            fclose(f);
        }
        usleep(2000);
    } while (state && state != 'Z' && now_ns() < until);
    CHECK(!state || state == 'Z');
    end();
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(two_are_started_with_their_endpoint_and_the_core),
       CASE(one_that_dies_of_a_signal_is_back_at_once), CASE(wrong_usage_is_not_tried_again),
       CASE(an_exit_right_after_the_start_waits_a_second),
       CASE(a_reason_that_lasts_is_said_once_and_tried_ever_more_rarely),
       CASE(a_program_that_is_not_there_is_a_warning),
       CASE(close_ends_them_even_when_they_ignore_it), CASE(they_end_when_we_are_killed))
