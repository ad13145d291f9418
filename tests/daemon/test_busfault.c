/* test_busfault.c - a mapped file that is cut ends the process as ever, and with words. */
#include "tests/t.h"
#include "daemon/busfault.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
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

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(a_mapped_file_that_is_cut_is_said), ROW(a_signal_that_was_sent_blames_no_file))
