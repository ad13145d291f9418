/* out.c - see out.h. */
#include "client/out.h"
#include "client/cli.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <unistd.h>

enum { INTERRUPTED_MS = 2000 }; /* after a signal a reader has so long to take the next bytes */

static FILE *terminal; /* stdout as it was; NULL: still is */
static int lost;

/* Until the descriptor takes something: no bound, but for after a signal.  0, or an errno. */
static int await_reader(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};
    int r;
    do
        r = poll(&p, 1, cli_interrupted ? INTERRUPTED_MS : -1);
    while (r < 0 && errno == EINTR);
    return r < 0 ? errno : r == 0 ? EINTR : 0;
}

/* Takes all of it, whatever becomes of it: stdio's own mark of an error says nothing more. */
static ssize_t put(void *cookie, const char *s, size_t n)
{
    (void)cookie;
    for (size_t at = 0; at < n && !lost;) {
        /* So much a pipe that is ready takes without blocking. */
        size_t piece = cli_interrupted && n - at > PIPE_BUF ? PIPE_BUF : n - at;
        ssize_t k = write(STDOUT_FILENO, s + at, piece);
        if (k > 0)
            at += (size_t)k;
        else if (k < 0 && (errno == EAGAIN || errno == EINTR))
            lost = await_reader();
        else
            lost = k < 0 ? errno : EIO;
    }
    return (ssize_t)n;
}

void out_open(void)
{
    FILE *f = fopencookie(NULL, "w", (cookie_io_functions_t){.write = put});
    if (!f)
        return;
    (void)setvbuf(f, NULL, isatty(STDOUT_FILENO) ? _IOLBF : _IOFBF, BUFSIZ);
    terminal = stdout;
    stdout = f;
}
int out_flush(void)
{
    if (fflush(stdout) != 0 && !lost)
        lost = errno;
    return lost;
}
int out_lost(void)
{
    return lost;
}
FILE *out_terminal(void)
{
    return terminal ? terminal : stdout;
}
