/* test_daemonlog.c - one line of the log stays one line, and steers no terminal. */
#include "base/text.h"
#include "daemon/log.h"
#include "tests/t.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void what_a_peer_sent_is_escaped(void)
{
    static const char evil[] = "\033[2J\tb\r\n<3>fake \302\233 \342\200\256 \377 caf\303\251";
    char got[8192], path[] = "/tmp/hearth-t-XXXXXX";
    int fd = mkstemp(path), old = dup(2);

    fflush(stderr);
    dup2(fd, 2);
    log_setup(LOG_INFO_, false);
    log_at(LOG_WARN_, "name \"%s\"", evil);
    for (int i = 0; i < 2; i++) /* longer than a line may be */
        log_at(LOG_WARN_, "%s%s%s%s%2000s", evil, evil, evil, evil, evil);
    fflush(stderr);
    dup2(old, 2);
    close(old);
    ssize_t n = pread(fd, got, sizeof got - 1, 0);
    got[n > 0 ? n : 0] = 0;
    close(fd);
    unlink(path);
    CHECK(strstr(
        got, "name \"\\x1b[2J\\x09b\\x0d\\x0a<3>fake \\u009b \\u202e \\xff caf\303\251\"\n"));
    int lines = 0;
    for (size_t i = 0, len; got[i]; i += len ? len : 1) {
        len = text_char(got + i, strlen(got + i));
        lines += got[i] == '\n';
        if (!text_plain(got + i, len) && got[i] != '\n')
            t_fail(__FILE__, __LINE__, "byte 0x%02x at %zu", (unsigned char)got[i], i);
    }
    CHECK_EQ(lines, 3);
}

T_MAIN({"what_a_peer_sent_is_escaped", what_a_peer_sent_is_escaped})
