/* index_check.c - see index_check.h.  What the child says comes through a pipe: rows whose CRC
 * is wrong (database, length, key), then 255 and its result. */
#include "kvstore/index_check.h"
#include "base/bytes.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SAYS_RESULT = 255, HURT_MAX = 10000, WAIT_S = 60, BYTES_PER_S = 4 << 20 };
enum { SCRUB_S = 86400, NOT_SAID = 1000 };
/* Nothing else has it; others go on; they wait for it. */
enum walk { ALONE, BESIDE, AWAITED };

static int say(void *ctx, enum index_db db, const void *key, size_t n)
{
    uint8_t b[512 + 3] = {(uint8_t)db};

    st16(b + 1, (uint16_t)n);
    memcpy(b + 3, key, n);
    return write(*(int *)ctx, b, n + 3) == (ssize_t)(n + 3) ? 0 : -EIO;
}

/* What a child that may crash needs first; fd stays as 3. */
static void child_begin(int fd, unsigned limit_s)
{
    struct rlimit none = {0, 0};
    sigset_t all;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void)setrlimit(RLIMIT_CORE, &none);
    (void)dup2(null, 0);
    (void)dup2(null, 1);
    (void)dup2(null, 2);
    (void)dup2(fd < 0 ? null : fd, 3);
    (void)close_range(4, ~0u, 0); /* the store's lock among them: it is not ours to hold */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigfillset(&all);
    for (int i = 1; i < NSIG; i++)
        (void)signal(i, SIG_DFL);
    (void)sigprocmask(SIG_UNBLOCK, &all, NULL);
    (void)alarm(limit_s);
}

static _Noreturn void child(const char *path, enum walk how, uint64_t quick_bytes,
                            unsigned limit_s, int fd)
{
    uint8_t b[5] = {SAYS_RESULT};

    child_begin(fd, limit_s);
    fd = 3;
    if (how == BESIDE) {
        struct sched_param p = {0};
        (void)setpriority(PRIO_PROCESS, 0, 19);
        (void)sched_setscheduler(0, SCHED_IDLE, &p);
    }
    int r = index_verify(path, how != ALONE, quick_bytes, how != ALONE ? say : NULL, &fd);
    st32(b + 1, (uint32_t)r);
    _exit(write(fd, b, sizeof b) == sizeof b ? 0 : 1);
}

static int start(struct index_scrub *x, const char *path, enum walk how, uint64_t quick_bytes)
{
    struct stat st;
    int p[2];

    *x = (struct index_scrub){.fd = -1};
    if (stat(path, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) /* LMDB would wait for a pipe's other end */
        return S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    unsigned limit_s =
        how == BESIDE ? SCRUB_S : WAIT_S + (unsigned)((uint64_t)st.st_size / BYTES_PER_S);
    x->pid = fork();
    if (x->pid == 0)
        child(path, how, quick_bytes, limit_s, p[1]);
    int e = x->pid < 0 ? -errno : 0;
    close(p[1]);
    if (e < 0) {
        x->pid = 0;
        close(p[0]);
        return e;
    }
    x->fd = p[0];
    return 0;
}

/* n bytes, or fewer at the end. */
static ssize_t take(int fd, void *ret, size_t n)
{
    size_t at = 0;

    while (at < n) {
        ssize_t got = read(fd, (char *)ret + at, n - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 && at == 0 ? -errno : (ssize_t)at;
        at += (size_t)got;
    }
    return (ssize_t)at;
}

/* How it ended, when it did not say so. */
static int ended(int status)
{
    if (!WIFSIGNALED(status)) /* a sanitizer's end of a crash */
        return E_CORRUPT;
    switch (WTERMSIG(status)) {
    case SIGSEGV: /* what damage does */
    case SIGBUS:
    case SIGABRT:
    case SIGFPE:
    case SIGILL: return E_CORRUPT;
    case SIGALRM: return -ETIMEDOUT;
    default: return -ENOMEM; /* killed: by whoever frees memory, as a rule */
    }
}

static int finish(struct index_scrub *x, int r)
{
    int status = 0;
    pid_t got;

    while ((got = waitpid(x->pid, &status, 0)) < 0 && errno == EINTR)
        ;
    x->pid = 0;
    close(x->fd);
    x->fd = -1;
    return r != NOT_SAID ? r : got < 0 ? -ECHILD : ended(status);
}

static int hear(struct index_scrub *x)
{
    for (;;) {
        uint8_t b[512 + 3];
        ssize_t n = take(x->fd, b, 1);
        if (n == -EAGAIN)
            return -EAGAIN;
        if (n != 1)
            return finish(x, NOT_SAID);
        if (b[0] == SAYS_RESULT)
            return finish(x, take(x->fd, b, 4) == 4 ? (int)ld32(b) : NOT_SAID);
        if (take(x->fd, b + 1, 2) != 2 || ld16(b + 1) > 512 ||
            take(x->fd, b + 3, ld16(b + 1)) != ld16(b + 1))
            return finish(x, NOT_SAID);
        if (x->n == x->cap && x->n < HURT_MAX) {
            uint32_t cap = x->cap ? 2 * x->cap : 16;
            struct index_hurt *v = realloc(x->v, cap * sizeof *v);
            if (v) {
                x->v = v;
                x->cap = cap;
            }
        }
        if (x->n < x->cap) {
            x->v[x->n].db = b[0];
            x->v[x->n].bytes = ld16(b + 1);
            memcpy(x->v[x->n++].key, b + 3, ld16(b + 1));
        }
    }
}

int index_check(const char *path, uint64_t quick_bytes, struct errbuf *eb)
{
    struct index_scrub x;
    int r = start(&x, path, ALONE, quick_bytes);

    if (r == 0)
        r = hear(&x);
    if (r >= 0 || r == -ENOENT || r == E_CORRUPT)
        return r;
    return sys_unread(eb, r, path);
}

int index_scrub_start(struct index_scrub *x, const char *path)
{
    int r = start(x, path, BESIDE, 0);

    if (r == 0)
        (void)fcntl(x->fd, F_SETFL, O_NONBLOCK);
    return r;
}

int index_scrub_now(struct index_scrub *x, const char *path)
{
    int r = start(x, path, AWAITED, 0);

    return r < 0 ? r : hear(x);
}

int index_scrub_poll(struct index_scrub *x)
{
    return x->pid ? hear(x) : -EAGAIN;
}

void index_scrub_stop(struct index_scrub *x)
{
    if (x->pid) {
        (void)kill(x->pid, SIGKILL);
        (void)finish(x, 0);
    }
    free(x->v);
    *x = (struct index_scrub){.fd = -1};
}

void index_shrink_apart(struct sys *y, const char *dir, const char *path, uint64_t disk_bytes)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        child_begin(-1, SCRUB_S);
        index_shrink(y, dir, path, disk_bytes);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
}
