/* test_daemonlog.c - one line of the log stays one line, and steers no terminal. */
#include "base/lograte.h"
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

static void what_repeats_is_counted_instead(void)
{
    struct lograte l = {0};
    uint64_t t = 1000000000ull;
    uint32_t held = 7, out = 0;

    for (int i = 0; i < 1000; i++)
        out += lograte_ok(&l, "one %d", t += 1000, &held);
    CHECK_EQ(out, LOGRATE_LINES);
    CHECK(lograte_ok(&l, "two", t, &held)); /* another kind has its own account */
    CHECK_EQ(held, 0);
    t += LOGRATE_WINDOW_S * 1000000000ull + 1;
    CHECK(lograte_ok(&l, "one %d", t, &held));
    CHECK_EQ(held, 1000 - LOGRATE_LINES);
    /* As many kinds as there are: the table is bounded, and each still gets its lines. */
    static char kind[3 * LOGRATE_KINDS];
    for (size_t i = 0; i < sizeof kind; i++)
        CHECK(lograte_ok(&l, &kind[i], t += 1000, &held));
    /* Through the log itself: an error of which a peer makes a thousand is twenty lines. */
    char got[65536], path[] = "/tmp/hearth-t-XXXXXX";
    int fd = mkstemp(path), old = dup(2);
    fflush(stderr);
    dup2(fd, 2);
    log_setup(LOG_INFO_, false);
    for (int i = 0; i < 1000; i++)
        log_at(LOG_ERROR_, "accept: %d", i);
    for (int i = 0; i < 30; i++)
        log_at(LOG_INFO_, "news: %d", i);
    dup2(old, 2);
    close(old);
    ssize_t n = pread(fd, got, sizeof got - 1, 0);
    got[n > 0 ? n : 0] = 0;
    close(fd);
    unlink(path);
    int lines = 0;
    for (size_t i = 0; got[i]; i++)
        lines += got[i] == '\n';
    CHECK_EQ(lines, LOGRATE_LINES + 30); /* what is no trouble is not held back */
}

T_MAIN({"what_a_peer_sent_is_escaped", what_a_peer_sent_is_escaped},
       {"what_repeats_is_counted_instead", what_repeats_is_counted_instead})
