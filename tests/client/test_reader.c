/* test_reader.c - the hearth command and who reads its standard output: nobody, or slowly. */
#include "tests/client/cliproc.h"
#include <sys/ioctl.h>

static void a_reader_that_goes_away_ends_the_answer(void)
{
    static const char *const how[][7] = {
        {"run", "fake", "words=200 pace=5", "-q"},
        {"ask", "-s", "fake", "words=200 pace=5", "-q"},
        {"chat", "-s", "fake", "-q"},
        {"run", "fake", "words=200 pace=5", "-q", "--json"},
        {"ask", "-s", "fake", "words=200 pace=5", "-q", "--json"},
        {"chat", "-s", "fake", "-q", "--json"},
    };
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        up();
        int o, e;
        bool chat = strcmp(how[i][0], "chat") == 0;
        pid_t pid = begin(how[i], &o, &e, chat ? "words=200 pace=5\nwords=2\n" : NULL);
        char first[16];
        CHECK(read(o, first, sizeof first) > 0);
        close(o);
        o = open("/dev/null", O_RDONLY | O_CLOEXEC);
        int code = finish(pid, o, e);
        if (code != 130 || err[0])
            t_fail(__FILE__, __LINE__, "%s %zu: exit code %d, want 130; said \"%s\"", how[i][0],
                   i, code, err);
        CHECK_EQ(cancels(1), 1);                   /* the rest is not computed */
        CHECK_EQ(fakecore_count(core, "50 {"), 1); /* nor is a next question asked */
        down();
    }
}

/* The words of an answer, and that nothing else is there. */
static void says_words(const char *s, int n)
{
    char want[1 << 16];
    size_t len = 0;
    for (int i = 0; i < n; i++)
        len += (size_t)snprintf(want + len, sizeof want - len, "w%d ", i);
    snprintf(want + len, sizeof want - len, "\n");
    if (strcmp(s, want) != 0)
        t_fail(__FILE__, __LINE__, "got %zu bytes, want %zu", strlen(s), strlen(want));
}

/* Until the next piece does not fit: a short write goes in whole or not at all. */
static void await_full(int fd)
{
    for (int had = -1, now = 0; now < 2048 || now != had; poll(NULL, 0, 300)) {
        had = now;
        CHECK(ioctl(fd, FIONREAD, &now) == 0);
    }
}

static void a_full_pipe_is_waited_for(void)
{
    up();
    int o, e;
    narrow = true;
    pid_t pid = begin((const char *const[]){"run", "fake", "words=3000 pace=0", "-q", NULL}, &o,
                      &e, NULL);
    await_full(o);
    CHECK_EQ(finish(pid, o, e), 0);
    CHECK(strcmp(err, "") == 0);
    says_words(out, 3000);
    /* Ctrl-C does not wait for a reader that takes nothing. */
    pid = begin((const char *const[]){"run", "fake", "words=3000 pace=0", "-q", NULL}, &o, &e,
                NULL);
    await_full(o);
    kill(pid, SIGINT);
    int st = 0;
    CHECK(waitpid(pid, &st, 0) == pid && WIFEXITED(st));
    CHECK_EQ(WEXITSTATUS(st), 130);
    close(o);
    close(e);
    narrow = false;
    down();
}

/* Whatever it is that answers: who is told to stop stops, and asks it nothing without a rest. */
static void an_answer_without_an_end_ends_when_told_to(void)
{
    for (int json = 0; json < 2; json++) {
        up();
        int o, e;
        pid_t pid =
            begin((const char *const[]){"run", "fake", "endless", json ? "--json" : NULL, NULL},
                  &o, &e, NULL);
        for (int i = 0; i < 500 && fakecore_count(core, "51 {") == 0; i++)
            poll(NULL, 0, 10);
        uint64_t from = now_ns();
        poll(NULL, 0, 1000);
        int asked = fakecore_count(core, "51 {");
        if (asked == 0 || (uint64_t)asked > 10 + (now_ns() - from) / 25000000)
            t_fail(__FILE__, __LINE__, "asked %d times in a second", asked);
        uint64_t t0 = now_ns();
        kill(pid, SIGTERM);
        CHECK_EQ(finish(pid, o, e), 128 + SIGTERM);
        CHECK((now_ns() - t0) / 1000000 < 15000 * T_SLOWER);
        CHECK_EQ(cancels(1), 1);
        CHECK(strstr(json ? out : err, json ? "\"slug\":\"cancelled\"" : "told to stop"));
        down();
    }
}

T_MAIN({"an_answer_without_an_end_ends_when_told_to",
        an_answer_without_an_end_ends_when_told_to},
       {"a_reader_that_goes_away_ends_the_answer", a_reader_that_goes_away_ends_the_answer},
       {"a_full_pipe_is_waited_for", a_full_pipe_is_waited_for})
