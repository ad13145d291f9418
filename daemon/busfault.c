/* busfault.c - see busfault.h.
 *
 * The index and its lock file are mapped.  Their lengths are looked at before each use
 * (kvstore/index_trust.c), but a file can be cut, or a disk fail, in the middle of one: that is
 * a SIGBUS, and without a word it would look like a fault of the program.  Nothing is tried to
 * go on with: what was acknowledged is in the turn log. */
#include "daemon/busfault.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char words[2048];

static atomic_flag speaking = ATOMIC_FLAG_INIT;

/* Pages of one file that went fail in several threads at once.  The first one speaks; the handler
 * stands meanwhile, or the second's fault would end us before the words are out. */
static void on_bus(int sig, siginfo_t *si, void *ctx)
{
    struct sigaction dfl = {.sa_handler = SIG_DFL};

    (void)ctx;
    /* A kill sent by somebody is none of it. */
    if (si->si_code > 0) {
        while (atomic_flag_test_and_set(&speaking))
            (void)pause(); /* who speaks ends us all */
        (void)!write(STDERR_FILENO, words, strlen(words));
    }
    sigemptyset(&dfl.sa_mask);
    (void)sigaction(sig, &dfl, NULL);
    (void)raise(sig); /* it is blocked here: it ends us on the way out */
}

void busfault_open(const char *state, bool journal)
{
    static char stack[16384];
    const stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    (void)snprintf(words, sizeof words,
                   "%shearthd: a mapped file was cut short or cannot be read: %.800s/index.mdb "
                   "or its -lock; check the disk, and that no other program writes there, "
                   "then start again: what was acknowledged is in the turn log, and a damaged "
                   "index is made anew from it\n",
                   journal ? "<2>" : "", state);
    sigemptyset(&sa.sa_mask);
    (void)sigaltstack(&alt, NULL); /* of the main thread; others have room on their own */
    (void)sigaction(SIGBUS, &sa, NULL);
}
