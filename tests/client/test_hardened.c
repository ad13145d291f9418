/* test_hardened.c - this variant's checks of buffers see sizes that only the run knows. */
#include "tests/t.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void a_copy_past_a_buffer_of_any_size_ends_the_process(void)
{
#if !defined(_FORTIFY_SOURCE) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    t_skip("this variant has other checks");
#endif
    static volatile size_t room = 24, bytes = 40;
    static char from[64], out[64];
    for (int past = 0; past < 2; past++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
            if (!getenv("VERBOSE"))
                (void)close(2);
            size_t n = room;
            char *p = malloc(n);
            if (!p)
                _exit(1);
            memcpy(p, from, past ? bytes : n);
            memcpy(out, p, n);
            _exit(0);
        }
        int st = 0;
        CHECK_EQ(waitpid(pid, &st, 0), pid);
        if (past)
            CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGABRT);
        else
            CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0);
    }
}

T_MAIN({"a_copy_past_a_buffer_of_any_size_ends_the_process",
        a_copy_past_a_buffer_of_any_size_ends_the_process})
