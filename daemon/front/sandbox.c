/* sandbox.c - see sandbox.h.  The only file that knows libseccomp. */
#include "daemon/front/sandbox.h"
#include "base/log.h"
#include <errno.h>
#include <seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NOFILE_MAX = 65536 };
static const rlim_t DATA_MAX = 1ull << 30, SPACE_MAX = 4ull << 30;

static void limit(int what, rlim_t most)
{
    struct rlimit lim;
    if (getrlimit(what, &lim) < 0)
        return;
    lim.rlim_max = lim.rlim_max < most ? lim.rlim_max : most;
    lim.rlim_cur = lim.rlim_cur < lim.rlim_max ? lim.rlim_cur : lim.rlim_max;
    (void)setrlimit(what, &lim);
}

void sandbox_begin(void)
{
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
        lim.rlim_cur = lim.rlim_max < NOFILE_MAX ? lim.rlim_max : NOFILE_MAX;
        (void)setrlimit(RLIMIT_NOFILE, &lim);
    }
    limit(RLIMIT_NOFILE, NOFILE_MAX);
    /* An abort of libnanomsg is expected now and then; its core files would only fill disks. */
    limit(RLIMIT_CORE, 0);
    (void)prctl(PR_SET_DUMPABLE, 0);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* Sanitizers map terabytes, and read files and trace themselves when they have something to say. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FOR_SANITIZERS = 1 };
#else
enum { FOR_SANITIZERS = 0 };
#endif

/* What epoll, libevent, libnanomsg, malloc and stdio call once everything is open. */
static const int plain[] = {
    /* what is open already */
    SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(writev),
    SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(fstat), SCMP_SYS(fcntl), SCMP_SYS(poll),
    SCMP_SYS(ppoll), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),
    SCMP_SYS(epoll_ctl),
    /* sockets that are there, and those that come in */
    SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
    SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(shutdown), SCMP_SYS(getsockname),
    SCMP_SYS(getpeername), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
    /* memory; programs in it, below */
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
    /* time, threads that run, the end */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(futex), SCMP_SYS(sched_yield),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(geteuid),
    SCMP_SYS(getuid), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack), SCMP_SYS(tgkill), SCMP_SYS(restart_syscall), SCMP_SYS(getrandom),
    /* a thread that is just starting */
    SCMP_SYS(rseq), SCMP_SYS(set_robust_list), SCMP_SYS(exit), SCMP_SYS(exit_group)};

static int rules(scmp_filter_ctx f, bool reconnects)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof plain / sizeof *plain; i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, plain[i], 0);
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0) /* how much is there to read: libevent */
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, FIONREAD));
    if (r == 0 && reconnects)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    if (r == 0 && reconnects)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(connect), 0);
    return r;
}

void sandbox_enter(bool reconnects)
{
    limit(RLIMIT_NPROC, 0);
    limit(RLIMIT_MEMLOCK, 0);
    limit(RLIMIT_MSGQUEUE, 0);
    if (FOR_SANITIZERS)
        return;
    limit(RLIMIT_DATA, DATA_MAX);
    limit(RLIMIT_AS, SPACE_MAX);
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = f ? 0 : -ENOMEM;
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = rules(f, reconnects);
    if (r == 0)
        r = seccomp_load(f);
    if (f)
        seccomp_release(f);
    if (r < 0)
        log_at(LOG_WARN_,
               "this kernel takes no filter of system calls (%s); the front works, less "
               "confined than it could be",
               strerror(-r));
}
