/* hearth_main.c - the hearth command. */
#include "base/stdfds.h"
#include "client/cli.h"
#include "client/out.h"
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* All text here is UTF-8.  Without a locale, or with one that is not installed, libc knows ASCII
 * alone, and the line editor drops whatever else is typed. */
static void know_utf8(void)
{
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "ANSI_X3.4-1968") == 0)
        (void)setlocale(LC_CTYPE, "C.UTF-8");
}

int main(int argc, char **argv)
{
    std_fds_open();
    out_open();
    know_utf8();
    (void)signal(SIGPIPE, SIG_IGN); /* EPIPE says it where the writing is */
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    const char *sock = getenv("HEARTH_SOCKET");
    return cli_main(argc, argv, sock && sock[0] ? sock : NULL,
                    (no_color && no_color[0]) || !term || strcmp(term, "dumb") == 0);
}
