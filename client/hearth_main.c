/* hearth_main.c - the hearth command. */
#include "base/stdfds.h"
#include "client/cli.h"
#include "client/out.h"
#include <locale.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    std_fds_open();
    out_open();
    (void)setlocale(LC_CTYPE, "");
    (void)signal(SIGPIPE, SIG_IGN); /* EPIPE says it where the writing is */
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    const char *sock = getenv("HEARTH_SOCKET");
    return cli_main(argc, argv, sock && sock[0] ? sock : NULL,
                    (no_color && no_color[0]) || !term || strcmp(term, "dumb") == 0);
}
