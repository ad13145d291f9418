/* test_busfault.c - a mapped file that is cut ends the process as ever, and with words. */
#include "tests/t.h"
#include "base/sigmask.h"
#include "daemon/busfault.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a child that does this says on stderr; its status. */
static int said_by(void (*act)(void), char *ret, size_t cap)
{
    const struct rlimit none = {0, 0};
    int p[2], status = 0;
    size_t n = 0;
    ssize_t got;

    CHECK_EQ(pipe(p), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)dup2(p[1], STDERR_FILENO);
        busfault_open("/a/state", false);
        act();
        _exit(0);
    }
    close(p[1]);
    while (n + 1 < cap && (got = read(p[0], ret + n, cap - 1 - n)) > 0)
        n += (size_t)got;
    ret[n] = 0;
    close(p[0]);
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static void cut(void)
{
    char path[512];

    snprintf(path, sizeof path, "%.400s/mapped", t_tmpdir());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, 8192) < 0)
        _exit(1);
    volatile const char *m = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED || ftruncate(fd, 0) < 0)
        _exit(2);
    (void)unlink(path);
    _exit(m[4096] ? 3 : 4);
}

static void *cut_there(void *arg)
{
    (void)arg;
    cut();
    return NULL;
}

/* As the threads of the daemon are made. */
static pthread_t held(void *(*run)(void *))
{
    pthread_t t;
    sigset_t old;

    sigmask_hold(&old);
    if (pthread_create(&t, NULL, run, NULL))
        _exit(5);
    sigmask_back(&old);
    return t;
}

static void cut_in_a_thread(void)
{
    (void)pthread_join(held(cut_there), NULL);
}

static atomic_bool slow; /* who writes to stderr takes his time there */
static atomic_int writing;

ssize_t write(int fd, const void *b, size_t n)
{
    if (fd == STDERR_FILENO && slow) {
        writing++;
        usleep(200000);
    }
    return syscall(SYS_write, fd, b, n);
}

static void *cut_behind(void *arg)
{
    while (!writing)
        usleep(1000);
    return cut_there(arg);
}

static void cut_in_two_threads(void)
{
    slow = true;
    pthread_t second = held(cut_behind);
    (void)pthread_join(held(cut_there), NULL);
    (void)pthread_join(second, NULL);
}

static void is_blocked(int sig, bool want)
{
    sigset_t now;

    if (pthread_sigmask(SIG_SETMASK, NULL, &now) || sigismember(&now, sig) != want)
        _exit(6);
}

static void masks(void)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t old;

    sigmask_hold(&old);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        is_blocked(own[i], false);
    is_blocked(SIGTERM, true);
    is_blocked(SIGINT, true);
    is_blocked(SIGALRM, true);
    is_blocked(SIGUSR1, true);
    sigmask_back(&old);
    is_blocked(SIGTERM, false);
}

static void sent(void)
{
    (void)kill(getpid(), SIGBUS);
}

static void a_mapped_file_that_is_cut_is_said(void)
{
    char words[4096];
    int status = said_by(cut, words, sizeof words);

    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    CHECK(strstr(words, "/a/state/index.mdb") && strstr(words, "start again"));
}

static void a_signal_that_was_sent_blames_no_file(void)
{
    char words[4096];
    int status = said_by(sent, words, sizeof words);

    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    CHECK_STR(words, "");
}

static void it_is_said_by_a_thread_that_leaves_signals_to_others(void)
{
    char words[4096];
    int status = said_by(cut_in_a_thread, words, sizeof words);

    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    CHECK(strstr(words, "/a/state/index.mdb") && strstr(words, "start again"));
}

static void of_two_threads_that_fault_at_once_one_speaks(void)
{
    char words[4096];
    int status = said_by(cut_in_two_threads, words, sizeof words);

    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    const char *first = strstr(words, "hearthd: a mapped file");
    CHECK(first && !strstr(first + 1, "hearthd: a mapped file"));
}

static void a_threads_own_faults_are_never_blocked(void)
{
    char words[4096];

    CHECK_EQ(said_by(masks, words, sizeof words), 0);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_mapped_file_that_is_cut_is_said), ROW(a_signal_that_was_sent_blames_no_file),
       ROW(it_is_said_by_a_thread_that_leaves_signals_to_others),
       ROW(of_two_threads_that_fault_at_once_one_speaks),
       ROW(a_threads_own_faults_are_never_blocked))
