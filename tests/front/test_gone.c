/* test_gone.c - HTTP clients that leave, and those that only have nothing more to say. */
#include "tests/front/frontproc.h"

static char got[1 << 20];
static struct frontproc f;

#define ASK(stream, words)                                                                     \
    "{\"model\":\"fake\",\"stream\":" stream                                                   \
    ",\"messages\":[{\"role\":\"user\",\"content\":\"" words "\"}]}"

static int post(const char *body)
{
    int fd = http_connect(f.port);
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: "
            "close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    return fd;
}

/* The core has heard n CANCELs; waits a second at most. */
static bool cancelled(int n)
{
    uint64_t until = now_ns() + 1000000000ull * T_SLOWER;
    while (fakecore_count(f.core, "52 {\"stream\"") < n && now_ns() < until)
        poll(NULL, 0, 10);
    return fakecore_count(f.core, "52 {\"stream\"") == n;
}

static void whoever_leaves_ends_his_request_in_any_phase(void)
{
    static const struct {
        const char *phase, *body;
    } rows[] = {
        {"whole, its START unanswered", ASK("false", "slow words=9")},
        {"whole, on its way", ASK("false", "words=1000 pace=20")},
        {"whole, before its first token", ASK("false", "words=2 pace=30000")},
        {"stream, its START unanswered", ASK("true", "slow words=9")},
        {"stream, on its way", ASK("true", "words=1000 pace=20")},
        {"stream, before its first token", ASK("true", "words=2 pace=30000")},
    };
    front_start(&f, false, true, NULL);
    for (int i = 0; i < (int)(sizeof rows / sizeof *rows); i++) {
        int fd = post(rows[i].body);
        poll(NULL, 0, 300);
        CHECK_EQ(fakecore_count(f.core, "52 {\"stream\""), i); /* not while he is there */
        close(fd);
        if (!cancelled(i + 1))
            t_fail(__FILE__, __LINE__, "%s: its client left, and it was not cancelled",
                   rows[i].phase);
    }
    front_stop(&f);
}

/* A process that dies, with more of its next request sent than anybody has read. */
static void whoever_dies_with_a_request_ahead_ends_his_request(void)
{
    f = (struct frontproc){0};
    front_start(&f, false, true, NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = post(ASK("false", "words=1000 pace=20"));
        dprintf(fd, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        poll(NULL, 0, 10000);
        _exit(0);
    }
    poll(NULL, 0, 300);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK(cancelled(1));
    front_stop(&f);
}

static void who_has_nothing_more_to_send_gets_his_answer(void)
{
    f = (struct frontproc){0};
    front_start(&f, false, true, NULL);
    int fd = post(ASK("false", "words=40 pace=25"));
    CHECK_EQ(shutdown(fd, SHUT_WR), 0);
    read_all(fd, got, sizeof got);
    close(fd);
    CHECK(strstr(got, "HTTP/1.1 200") && strstr(got, " w39 "));
    fd = post(ASK("true", "words=40 pace=25"));
    CHECK_EQ(shutdown(fd, SHUT_WR), 0);
    read_all(fd, got, sizeof got);
    close(fd);
    CHECK(strstr(got, "w39 ") && strstr(got, "[DONE]"));
    CHECK_EQ(fakecore_count(f.core, "52 {"), 0);
    /* And one that closes the rest of it later. */
    fd = post(ASK("true", "words=1000 pace=25"));
    CHECK_EQ(shutdown(fd, SHUT_WR), 0);
    poll(NULL, 0, 700);
    CHECK_EQ(fakecore_count(f.core, "52 {"), 0);
    close(fd);
    CHECK(cancelled(1));
    front_stop(&f);
}

/* What is open goes on; what a new file of keys says is not known, and the log says so. */
static void a_hangup_ends_nobody_and_is_said(void)
{
    char log[64] = "/tmp/hearth-t-XXXXXX", line[4000];
    int to = mkstemp(log);
    for (int face = 0; face < 3; face++) { /* HTTP, nanomsg, and their keeper */
        static const char *const name[] = {"http", "nn", "keeper"};
        int old = dup(2), st;
        f = (struct frontproc){0};
        CHECK_EQ(ftruncate(to, 0) + lseek(to, 0, SEEK_SET), 0);
        setenv("VERBOSE", "1", 1);
        dup2(to, 2);
        front_start(&f, face != 0, face != 1, NULL);
        dup2(old, 2);
        close(old);
        unsetenv("VERBOSE");
        int fd = face != 1 ? post(ASK("true", "words=40 pace=25")) : -1;
        poll(NULL, 0, 200);
        for (int i = 0; i < 2; i++) {
            bool said = false;
            CHECK_EQ(kill(f.front_pid, SIGHUP), 0);
            for (int k = 0; k < 100 && !said; k++) {
                ssize_t n = pread(to, line, sizeof line - 1, 0);
                line[n > 0 ? n : 0] = 0;
                char *at = strstr(line, ": SIGHUP: keys and settings are read at start only");
                said =
                    at && memcmp(at - strlen(name[face]), name[face], strlen(name[face])) == 0;
                poll(NULL, 0, 20);
            }
            if (!said)
                t_fail(__FILE__, __LINE__, "the %s said: %s", name[face], line);
        }
        CHECK_EQ(waitpid(f.front_pid, &st, WNOHANG), 0);
        if (fd >= 0) {
            read_all(fd, got, sizeof got);
            close(fd);
            CHECK(strstr(got, "w39 ") && strstr(got, "[DONE]"));
        }
        front_stop(&f);
    }
    close(to);
    unlink(log);
}

static bool saw(int fd, const char *a, const char *b)
{
    read_all(fd, got, sizeof got);
    close(fd);
    return strstr(got, a) && strstr(got, b);
}

static void whoever_waits_hears_that_it_stops(void)
{
    f = (struct frontproc){0};
    front_start(&f, false, true, NULL);
    int whole = post(ASK("false", "words=1000 pace=20")),
        first = post(ASK("false", "slow words=9"));
    int stream = post(ASK("true", "words=1000 pace=20"));
    int idle = http_connect(f.port);
    poll(NULL, 0, 300);
    uint64_t t0 = now_ns();
    kill(f.front_pid, SIGTERM);
    CHECK(saw(whole, "HTTP/1.1 503 ", "\"code\":\"shutting_down\""));
    CHECK(strstr(got, "Retry-After: 1") && strstr(got, "Content-Type: application/json"));
    CHECK(saw(first, "HTTP/1.1 503 ", "shutting_down"));
    CHECK(saw(stream, "w1 ", "data: {\"error\":{") && strstr(got, "shutting_down"));
    CHECK(!strstr(got, "[DONE]") && strstr(got, "0\r\n\r\n"));
    CHECK((now_ns() - t0) / 1000000 < 450 * T_SLOWER);
    close(idle);
    front_stop(&f);
}

static void whoever_waits_hears_that_the_core_has_ended(void)
{
    const char *more[] = {"--exit-with-core", NULL};
    f = (struct frontproc){0};
    front_start(&f, false, true, more);
    int whole = post(ASK("false", "words=1000 pace=20"));
    int stream = post(ASK("true", "words=1000 pace=20"));
    poll(NULL, 0, 300);
    fakecore_kill(f.core_pid);
    f.core_pid = 0;
    CHECK(saw(whole, "HTTP/1.1 503 ", "\"code\":\"core_unavailable\""));
    CHECK(saw(stream, "w1 ", "\"code\":\"core_unavailable\""));
    int st = -1;
    for (int i = 0; i < 300 && waitpid(f.front_pid, &st, WNOHANG) == 0; i++)
        poll(NULL, 0, 10);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0);
    f.front_pid = 0;
    front_stop(&f);
}

T_MAIN({"whoever_leaves_ends_his_request_in_any_phase",
        whoever_leaves_ends_his_request_in_any_phase},
       {"whoever_dies_with_a_request_ahead_ends_his_request",
        whoever_dies_with_a_request_ahead_ends_his_request},
       {"who_has_nothing_more_to_send_gets_his_answer",
        who_has_nothing_more_to_send_gets_his_answer},
       {"a_hangup_ends_nobody_and_is_said", a_hangup_ends_nobody_and_is_said},
       {"whoever_waits_hears_that_it_stops", whoever_waits_hears_that_it_stops},
       {"whoever_waits_hears_that_the_core_has_ended",
        whoever_waits_hears_that_the_core_has_ended})
