/* sigmask.h - a thread that leaves signals to others, and still dies with words.
 *
 * A fault of the thread itself (SIGBUS: a mapped file that was cut) that is blocked there ends the
 * process at once, and no handler is run: so those stay open in every thread. */
#ifndef BASE_SIGMASK_H
#define BASE_SIGMASK_H
#include <signal.h>

/* Around the creation of a thread, which has the mask of its maker: all is blocked but what a
 * thread brings upon itself. */
static inline void sigmask_hold(sigset_t *ret_old)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    sigset_t all;

    sigfillset(&all);
    for (unsigned i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&all, own[i]);
    (void)pthread_sigmask(SIG_SETMASK, &all, ret_old);
}

static inline void sigmask_back(const sigset_t *old)
{
    (void)pthread_sigmask(SIG_SETMASK, old, NULL);
}

#endif
