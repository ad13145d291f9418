/* test_sandbox.c - what a front can no longer do once it has closed its doors behind it. */
#include "daemon/front/sandbox.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* "Seccomp:\t2" of an open /proc/.../status. */
static int field(int fd, const char *name)
{
    char b[4096];
    ssize_t n = pread(fd, b, sizeof b - 1, 0);
    b[n > 0 ? n : 0] = 0;
    char *at = strstr(b, name);
    return at ? atoi(at + strlen(name)) : -1;
}

static int status_fd = -1, sync_pipe[2];
static void *stay(void *p)
{
    char path[64], c;
    snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)gettid());
    status_fd = open(path, O_RDONLY | O_CLOEXEC);
    (void)!write(sync_pipe[1], "x", 1);
    (void)p;
    for (;;)
        (void)!read(sync_pipe[0], &c, 0), usleep(1000);
    return NULL;
}

#define REFUSED(call)                                                                          \
    do {                                                                                       \
        errno = 0;                                                                             \
        if ((long)(call) >= 0 || errno != EPERM) {                                             \
            printf("    %s: errno %d\n", #call, errno);                                        \
            bad++;                                                                             \
        }                                                                                      \
    } while (0)

/* In a child: the number of things that were not as they should be. */
static int confined(bool reconnects)
{
    int bad = 0, own = open("/proc/self/status", O_RDONLY | O_CLOEXEC), pair[2];
    int file = open("/dev/null", O_RDWR | O_CLOEXEC);
    pthread_t t;
    char c;
    if (own < 0 || pipe2(sync_pipe, O_CLOEXEC) || pthread_create(&t, NULL, stay, NULL) ||
        read(sync_pipe[0], &c, 1) != 1 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
        return 100;
    sandbox_begin();
    sandbox_enter(reconnects);
    bad += field(own, "NoNewPrivs:\t") != 1;
    bad += field(own, "Seccomp:\t") != 2;
    bad += field(status_fd, "Seccomp:\t") != 2; /* the thread that ran before */
    REFUSED(open("/etc/passwd", O_RDONLY | O_CLOEXEC));
    REFUSED(open("/tmp/x", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    REFUSED(unlink("/tmp/x"));
    REFUSED(rename("/tmp/x", "/tmp/y"));
    REFUSED(execl("/bin/false", "false", NULL)); /* else its exit is this test's */
    REFUSED(fork());
    REFUSED(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    REFUSED(kill(getppid(), 0));
    REFUSED(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REFUSED(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!reconnects)
        REFUSED(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    else
        bad += socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0;
    bad += mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
    struct rlimit lim;
    REFUSED(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}));
    (void)lim;
    /* And what it lives by is left. */
    bad += write(pair[0], "y", 1) != 1 || read(pair[1], &c, 1) != 1;
    bad += write(file, "y", 1) != 1;
    void *big = malloc(8 << 20);
    bad += !big;
    free(big);
    return bad;
}

static int in_child(bool reconnects)
{
    int st = -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int bad = confined(reconnects);
        fflush(NULL);
        _exit(bad);
    }
    waitpid(pid, &st, 0);
    return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static void a_front_of_hearthd_can_open_run_and_call_nothing(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    t_skip("sanitizers need what the filter forbids");
#endif
    CHECK_EQ(in_child(false), 0);
}

static void a_front_that_outlives_hearthd_can_call_it_again(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    t_skip("sanitizers need what the filter forbids");
#endif
    CHECK_EQ(in_child(true), 0);
}

T_MAIN({"a_front_of_hearthd_can_open_run_and_call_nothing",
        a_front_of_hearthd_can_open_run_and_call_nothing},
       {"a_front_that_outlives_hearthd_can_call_it_again",
        a_front_that_outlives_hearthd_can_call_it_again})
