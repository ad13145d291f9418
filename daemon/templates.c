/* templates.c - see templates.h.
 *
 * Both ends are one program, so what travels is structs in their own byte order: a head, the
 * strings it counts, and back a head, the text, its mask and the words of an error.  The
 * answer is not believed: it comes from where a stranger's program ran. */
#include "daemon/templates.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/chat_jinja.h"
#include "engine/chat_job.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    ASK_MAGIC = 0x314b5341,
    SAY_MAGIC = 0x31594153,
    CHILD_FD = 3,
    CHILD_S = JINJA_WALL_MS_MAX / 1000 + 5, /* its own alarm ... */
    WAIT_S = CHILD_S + 5,                   /* ... and how long it is waited for */
};
#define CHILD_MEMORY ((uint64_t)4 << 30)
#define TEXT_MAX     ((uint64_t)128 << 20) /* inputs have 24 MiB at most */

struct ask {
    uint32_t magic, prompt;
    uint64_t tmpl, bos, eos, date, msgs;
    uint64_t bytes; /* of all that follows: those strings, then of each message its head,
                       role and text */
};
struct ask_msg {
    uint64_t role, text;
};
struct say {
    uint32_t magic;
    int32_t res;
    uint64_t bytes; /* of text; its mask has as many */
    char words[512];
};

/* --- the daemon's side ------------------------------------------------------------------- */
static struct {
    pthread_mutex_t lock;
    bool open, here; /* here: no process can be made, so templates run in the caller */
    int fd;
    pid_t pid;             /* 0: none runs */
    struct chat_jobs jobs; /* when here */
    _Atomic uint64_t lost; /* a counter; a stale read is an older count */
} side = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

/* Ends the process, if it has not ended by itself; how it ended. */
static int child_end(void)
{
    int status = 0;

    close(side.fd);
    side.fd = -1;
    /* Not waited for yet, so the number is still its own. */
    (void)kill(side.pid, SIGKILL);
    while (waitpid(side.pid, &status, 0) < 0 && errno == EINTR)
        ;
    side.pid = 0;
    return status;
}

static int child_start(void)
{
    static char name[] = "hearthd-templates", arg[] = TEMPLATES_ARG, fd[] = "3";
    char *const argv[] = {name, arg, fd, NULL}, *const env[] = {NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    sigset_t none, all;
    int sv[2], r;

    bound(CHILD_FD == 3, "fd[] says so");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return -errno;
    (void)posix_spawn_file_actions_init(&fa);
    (void)posix_spawnattr_init(&at);
    sigemptyset(&none);
    sigfillset(&all);
    r = posix_spawn_file_actions_adddup2(&fa, sv[1], CHILD_FD);
    if (r == 0)
        r = posix_spawnattr_setsigmask(&at, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(&at, &all);
    if (r == 0)
        r = posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (r == 0)
        r = posix_spawn(&side.pid, "/proc/self/exe", &fa, &at, argv, env);
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)posix_spawnattr_destroy(&at);
    close(sv[1]);
    if (r != 0) {
        side.pid = 0;
        close(sv[0]);
        return -r;
    }
    side.fd = sv[0];
    (void)fcntl(sv[0], F_SETFL, fcntl(sv[0], F_GETFL) | O_NONBLOCK);
    return 0;
}

/* Has it ended while it had nothing to do (the kernel was short of memory, say)?  It costs no
 * request, then: another begins.  It says nothing unasked, so that whatever is there to be read is
 * its end. */
static void child_look(void)
{
    struct pollfd f = {.fd = side.fd, .events = POLLIN};

    if (!side.pid || poll(&f, 1, 0) <= 0)
        return;
    (void)child_end();
    log_at(LOG_WARN_, "the process for chat templates had ended; another is begun");
}

/* All n bytes, one way, before a point in time. */
static int transfer(short events, void *p, size_t n, uint64_t until)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = events == POLLOUT ? send(side.fd, (char *)p + at, n - at, MSG_NOSIGNAL)
                                      : recv(side.fd, (char *)p + at, n - at, 0);
        struct pollfd f = {.fd = side.fd, .events = events};
        uint64_t now = now_ns();

        if (k > 0) {
            at += (size_t)k;
            continue;
        }
        if (k == 0 || (errno != EAGAIN && errno != EINTR))
            return -ECONNRESET;
        if (now >= until)
            return -ETIMEDOUT;
        (void)poll(&f, 1, (int)((until - now) / 1000000) + 1);
    }
    return 0;
}

static uint64_t put(uint8_t *to, uint64_t at, const void *p, size_t n)
{
    if (n)
        memcpy(to + at, p, n);
    return at + n;
}

/* The whole question in one piece; malloc'd. */
static uint8_t *pack(const struct chat_job *j, uint64_t *ret_bytes)
{
    struct ask a = {.magic = ASK_MAGIC,
                    .prompt = j->prompt,
                    .tmpl = j->tmpl_bytes,
                    .bos = j->bos_bytes,
                    .eos = j->eos_bytes,
                    .date = j->date ? strlen(j->date) : 0,
                    .msgs = j->n_msgs};
    uint64_t at;

    a.bytes = a.tmpl + a.bos + a.eos + a.date;
    for (size_t i = 0; i < j->n_msgs; i++)
        a.bytes += sizeof(struct ask_msg) + strlen(j->msg[i].role) + j->msg[i].bytes;
    uint8_t *p = malloc(sizeof a + a.bytes);
    if (!p)
        return NULL;
    at = put(p, 0, &a, sizeof a);
    at = put(p, at, j->tmpl, a.tmpl);
    at = put(p, at, j->bos, a.bos);
    at = put(p, at, j->eos, a.eos);
    at = put(p, at, j->date, a.date);
    for (size_t i = 0; i < j->n_msgs; i++) {
        struct ask_msg m = {strlen(j->msg[i].role), j->msg[i].bytes};
        at = put(p, at, &m, sizeof m);
        at = put(p, at, j->msg[i].role, m.role);
        at = put(p, at, j->msg[i].text, m.text);
    }
    must(at == sizeof a + a.bytes);
    *ret_bytes = at;
    return p;
}

static int take_answer(struct chat_text *out, struct errbuf *eb, int *ret, uint64_t until)
{
    struct say s;
    int r = transfer(POLLIN, &s, sizeof s, until);

    if (r < 0)
        return r;
    s.words[sizeof s.words - 1] = 0;
    if (s.magic != SAY_MAGIC || s.bytes > TEXT_MAX || (s.res != 0 && s.bytes) || s.res > 0)
        return -EPROTO;
    uint8_t *p = malloc(2 * s.bytes + 1);
    if (!p)
        return -ENOMEM;
    r = transfer(POLLIN, p, 2 * s.bytes, until);
    for (uint64_t i = 0; r == 0 && i < s.bytes; i++)
        r = p[s.bytes + i] > 1 ? -EPROTO : 0;
    if (r == 0 && s.res == 0)
        s.res = chat_text_add(out, (char *)p, p + s.bytes, s.bytes);
    else if (r == 0)
        err_set(eb, s.res, "%s", s.words);
    free(p);
    *ret = s.res;
    return r;
}

static int exchange(const struct chat_job *j, struct chat_text *out, struct errbuf *eb)
{
    uint64_t n = 0, until = now_ns() + WAIT_S * 1000000000ull;
    uint8_t *p = pack(j, &n);
    int res = 0, r = p ? 0 : -ENOMEM;

    if (!p)
        return r;
    child_look();
    if (!side.pid)
        r = child_start();
    if (r < 0) {
        free(p);
        log_at(LOG_WARN_, "no process for chat templates (%s): they run in this one",
               err_str(r));
        side.here = true;
        return chat_job_run(&side.jobs, j, out, eb);
    }
    r = transfer(POLLOUT, p, n, until);
    free(p);
    if (r == 0)
        r = take_answer(out, eb, &res, until);
    if (r == 0)
        return res;
    int status = child_end();
    if (r == -ENOMEM)
        return r;
    atomic_fetch_add_explicit(&side.lost, 1, memory_order_relaxed);
    if (r == -ETIMEDOUT || (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM))
        err_set(eb, -ECHILD, "the chat template did not end within %d s", CHILD_S);
    else if (WIFSIGNALED(status) && r != -EPROTO)
        err_set(eb, -ECHILD, "the chat template's interpreter was ended by %s",
                strsignal(WTERMSIG(status)));
    else
        err_set(eb, -ECHILD, "the chat template's interpreter ended in the middle");
    log_at(LOG_ERROR_, "%s; this rendering is lost, the next begins anew", eb->s);
    return -ECHILD;
}

static int host_run(void *ctx, const struct chat_job *j, struct chat_text *out,
                    struct errbuf *eb)
{
    struct errbuf own;

    (void)ctx;
    pthread_mutex_lock(&side.lock);
    int r = side.here ? chat_job_run(&side.jobs, j, out, eb ? eb : &own)
                      : exchange(j, out, eb ? eb : &own);
    pthread_mutex_unlock(&side.lock);
    return r;
}

int templates_open(void)
{
    const struct chat_host h = {.run = host_run};

    chat_host_set(&h);
    side.open = true;
    return 0;
}

void templates_close(void)
{
    if (!side.open)
        return;
    chat_host_set(NULL);
    if (side.pid)
        (void)child_end();
    chat_jobs_fini(&side.jobs);
    side.open = false;
}

uint64_t templates_lost(void)
{
    return atomic_load_explicit(&side.lost, memory_order_relaxed);
}

/* --- the process itself -------------------------------------------------------------------- */
static bool read_all(int fd, void *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = read(fd, (char *)p + at, n - at);
        if (k > 0)
            at += (size_t)k;
        else if (k == 0 || errno != EINTR)
            return false;
    }
    return true;
}

static bool write_all(int fd, const void *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = write(fd, (const char *)p + at, n - at);
        if (k > 0)
            at += (size_t)k;
        else if (k == 0 || errno != EINTR)
            return false;
    }
    return true;
}

/* Nothing can be opened, started or reached from here, and nothing grows without end.  What the
 * kernel does not know is left out: the interpreter has its own bounds. */
static void lock_in(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&                         \
    (defined(__x86_64__) || defined(__aarch64__))
#    if defined(__x86_64__)
    const uint32_t arch = AUDIT_ARCH_X86_64;
#    else
    const uint32_t arch = AUDIT_ARCH_AARCH64;
#    endif
#    define ALLOW(call)                                                                        \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1),                                 \
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    const struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(read),
        ALLOW(write),
        ALLOW(mmap),
        ALLOW(munmap),
        ALLOW(mremap),
        ALLOW(madvise),
        ALLOW(brk),
        ALLOW(getrandom), /* malloc's own */
        ALLOW(setitimer), /* alarm() */
        ALLOW(clock_gettime),
        ALLOW(futex),
        ALLOW(restart_syscall),
        ALLOW(rt_sigreturn),
        ALLOW(rt_sigprocmask), /* abort() */
        ALLOW(tgkill),
        ALLOW(gettid),
        ALLOW(getpid),
#    ifdef SYS_alarm
        ALLOW(alarm),
#    endif
        ALLOW(exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    const struct sock_fprog prog = {sizeof f / sizeof *f, (struct sock_filter *)(uintptr_t)f};
    const struct rlimit memory = {CHILD_MEMORY, CHILD_MEMORY}, none = {0, 0};

    (void)setrlimit(RLIMIT_AS, &memory);
    (void)setrlimit(RLIMIT_NOFILE, &none);
    (void)setrlimit(RLIMIT_FSIZE, &none);
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        (void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
#endif
}

/* A string of n bytes at *at of p; NULL when they are not all there. */
static const char *string(const uint8_t *p, uint64_t bytes, uint64_t *at, uint64_t n)
{
    if (n > bytes - *at)
        return NULL;
    *at += n;
    return (const char *)p + *at - n;
}

/* The question as it came: a job whose strings lie in p; roles are terminated in `roles`. */
static bool unpack(const struct ask *a, uint8_t *p, struct chat_job *j, struct chat_msg *m,
                   char *roles, char date[16])
{
    uint64_t at = 0;
    const char *d;

    j->tmpl_bytes = a->tmpl;
    j->bos_bytes = a->bos;
    j->eos_bytes = a->eos;
    j->tmpl = string(p, a->bytes, &at, a->tmpl);
    j->bos = j->tmpl ? string(p, a->bytes, &at, a->bos) : NULL;
    j->eos = j->bos ? string(p, a->bytes, &at, a->eos) : NULL;
    d = j->eos && a->date < 16 ? string(p, a->bytes, &at, a->date) : NULL;
    if (!d)
        return false;
    memcpy(date, d, a->date);
    date[a->date] = 0;
    j->date = a->date ? date : NULL;
    for (uint64_t i = 0; i < a->msgs; i++) {
        struct ask_msg h;
        const char *s = string(p, a->bytes, &at, sizeof h), *role;
        if (!s)
            return false;
        memcpy(&h, s, sizeof h);
        role = string(p, a->bytes, &at, h.role);
        m[i].text = role ? string(p, a->bytes, &at, h.text) : NULL;
        if (!m[i].text)
            return false;
        m[i].bytes = h.text;
        m[i].role = roles;
        memcpy(roles, role, h.role);
        roles[h.role] = 0;
        roles += h.role + 1;
    }
    j->msg = m;
    j->n_msgs = a->msgs;
    j->prompt = a->prompt;
    return at == a->bytes;
}

_Noreturn void templates_child(int fd)
{
    struct chat_jobs jobs = {0};
    struct ask a;

    (void)close_range((unsigned)fd + 1, ~0u, 0);
    (void)signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is the daemon's to answer */
    lock_in();
    while (read_all(fd, &a, sizeof a) && a.magic == ASK_MAGIC && a.bytes < CHILD_MEMORY &&
           a.msgs <= a.bytes / sizeof(struct ask_msg)) {
        struct say s = {.magic = SAY_MAGIC};
        struct chat_text out = {0};
        struct chat_job j = {0};
        struct errbuf eb = {""};
        char date[16];
        uint8_t *p = malloc(a.bytes + 1);
        struct chat_msg *m = calloc(a.msgs + 1, sizeof *m);
        char *roles = malloc(a.bytes + a.msgs + 1);

        if (!p || !m || !roles || !read_all(fd, p, a.bytes) ||
            !unpack(&a, p, &j, m, roles, date))
            break;
        (void)alarm(CHILD_S);
        s.res = chat_job_run(&jobs, &j, &out, &eb);
        (void)alarm(0);
        s.bytes = s.res == 0 ? out.n : 0;
        snprintf(s.words, sizeof s.words, "%s", eb.s);
        bool ok = write_all(fd, &s, sizeof s) && write_all(fd, out.p, s.bytes) &&
                  write_all(fd, out.mask, s.bytes);
        chat_text_fini(&out);
        free(p);
        free(m);
        free(roles);
        if (!ok)
            break;
    }
    _exit(0);
}
