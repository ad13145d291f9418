/* cliproc.h - the hearth command as a child process, against a fake core. */
#ifndef TESTS_CLIPROC_H
#define TESTS_CLIPROC_H
#include "tests/front/fakecore.h"
#include "tests/t.h"

static char dir[64], core[100], url[120];
static pid_t core_pid;
static char out[1 << 20], err[1 << 16];
static uid_t as_uid; /* hearth runs as this user; 0: as the test does */
static bool narrow;  /* standard output is a pipe of one page that does not block */

static void up(void)
{
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(core, sizeof core, "%s/core.sock", dir);
    snprintf(url, sizeof url, "unix://%s", core);
    core_pid = fakecore(core);
}
static void down(void)
{
    char cmd[100];
    fakecore_kill(core_pid);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    CHECK(system(cmd) == 0);
}

static pid_t begin(const char *const *words, int *ret_out, int *ret_err, const char *in)
{
    int o[2], e[2], i[2];
    CHECK(pipe(o) == 0 && pipe(e) == 0 && pipe(i) == 0);
    if (narrow)
        CHECK(fcntl(o[1], F_SETPIPE_SZ, 4096) == 4096 &&
              fcntl(o[1], F_SETFL, O_WRONLY | O_NONBLOCK) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        const char *argv[40] = {"hearth", "--socket", url};
        int n = *words && strcmp(*words, "--socket") == 0 ? 1 : 3; /* another's */
        while (*words && n < 39)
            argv[n++] = *words++;
        dup2(i[0], 0);
        dup2(o[1], 1);
        dup2(e[1], 2);
        for (int k = 0; k < 2; k++) {
            close(i[k]);
            close(o[k]);
            close(e[k]);
        }
        setenv("HOME", dir, 1);
        unsetenv("XDG_STATE_HOME");
        unsetenv("XDG_DATA_HOME");
        unsetenv("HEARTH_SOCKET");
        if (as_uid && setresuid(as_uid, as_uid, as_uid) < 0)
            _exit(126);
        execv(built("hearth"), (char *const *)argv);
        _exit(127);
    }
    if (in)
        (void)!write(i[1], in, strlen(in));
    close(i[0]);
    close(i[1]);
    close(o[1]);
    close(e[1]);
    *ret_out = o[0];
    *ret_err = e[0];
    return pid;
}
static int finish(pid_t pid, int o, int e)
{
    size_t n = 0, m = 0;
    ssize_t k;
    int st = 0;
    while ((k = read(o, out + n, sizeof out - 1 - n)) > 0)
        n += (size_t)k;
    while ((k = read(e, err + m, sizeof err - 1 - m)) > 0)
        m += (size_t)k;
    out[n] = err[m] = 0;
    close(o);
    close(e);
    waitpid(pid, &st, 0);
    return WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st);
}
/* How many CANCELs came, n of which are on their way: hearth waits three seconds for the answer to
 * one, and on a machine that is busy the fake core is later than that. */
__attribute__((unused)) static int cancels(int n)
{
    for (int i = 0; i < 3000 && fakecore_count(core, "52 {\"stream\"") < n; i++)
        poll(NULL, 0, 10);
    return fakecore_count(core, "52 {\"stream\"");
}
/* Run to its end: an exit code; what it said is in out and err. */
__attribute__((unused)) static int run_in(const char *in, const char *const *words)
{
    int o, e;
    pid_t pid = begin(words, &o, &e, in);
    return finish(pid, o, e);
}
#define RUN(...)        run_in(NULL, (const char *const[]){__VA_ARGS__, NULL})
#define RUN_IN(in, ...) run_in(in, (const char *const[]){__VA_ARGS__, NULL})
#endif
