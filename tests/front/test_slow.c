/* test_slow.c - clients that read or send slowly: what waits for them is bounded, and how long. */
#include "tests/front/frontproc.h"

enum { WORDS = 3000000 }; /* more text than the sockets between hold */

static char got[1 << 16];
static struct frontproc f;

/* A connection whose reader has little room. */
static int slow_connect(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)f.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval tv = {.tv_sec = 100};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 32 << 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    CHECK_EQ(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}
static void ask_for_much(int fd)
{
    char body[200];
    int n = snprintf(body, sizeof body,
                     "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"
                     "\"words=%d\"}]}",
                     WORDS);
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
            n, body);
}

/* How far the front has asked the core for the answer. */
static int cursor(void)
{
    char log[200], *line = NULL, *at;
    size_t cap = 0;
    int n = 0;
    snprintf(log, sizeof log, "%s.log", f.core);
    FILE *p = fopen(log, "re");
    while (p && getline(&line, &cap, p) > 0)
        if ((at = strstr(line, "\"cursor\":")))
            n = atoi(at + 9);
    free(line);
    if (p)
        fclose(p);
    return n;
}
/* Until it asks for no more. */
static int cursor_at_rest(void)
{
    int was = -1, is = 0;
    for (int i = 0; i < 100 && (is != was || is == 0); i++) {
        was = is;
        poll(NULL, 0, 500 * T_SLOWER);
        is = cursor();
    }
    return is;
}

/* What he has not read stays with the core, not in the front's memory. */
static void a_reader_who_rests_lets_the_answer_wait(void)
{
    f = (struct frontproc){0};
    front_start(&f, false, true, NULL);
    int fd = slow_connect();
    ask_for_much(fd);
    int at = cursor_at_rest();
    if (at == 0 || at > WORDS / 2)
        t_fail(__FILE__, __LINE__, "asked for %d of %d words that nobody reads", at, WORDS);
    /* He reads again, and it goes on to its end. */
    char tail[64] = "";
    size_t n, keep;
    while ((n = read_all(fd, got, sizeof got)) > 0) {
        keep = n < sizeof tail - 1 ? n : sizeof tail - 1;
        memcpy(tail, got + n - keep, keep);
        tail[keep] = 0;
    }
    CHECK(strstr(tail, "data: [DONE]"));
    CHECK(cursor() > at);
    close(fd);
    front_stop(&f);
}

/* Both wait at once, for a minute is long. */
static void nobody_holds_a_request_for_more_than_a_minute(void)
{
    f = (struct frontproc){0};
    front_start(&f, false, true, NULL);
    /* One takes nothing of his answer. */
    int reader = slow_connect();
    ask_for_much(reader);
    /* The other's headers are in time, and his body does not come: it had its share of the time
     * while they came. */
    int sender = slow_connect();
    uint64_t began = now_ns();
    dprintf(sender, "POST /v1/chat/completions HTTP/1.1\r\n");
    poll(NULL, 0, 8000);
    CHECK_EQ(fakecore_count(f.core, "52 {"), 0);
    dprintf(sender, "Host: localhost\r\nContent-Type: application/json\r\n"
                    "Content-Length: 100\r\n\r\n{");
    read_all(sender, got, sizeof got);
    uint64_t took_ms = (now_ns() - began) / 1000000;
    CHECK(strncmp(got, "HTTP/1.1 408 ", 13) == 0);
    if (took_ms < 59000 || took_ms > 64000)
        t_fail(__FILE__, __LINE__, "his time was over after %d ms", (int)took_ms);
    /* The first one's was it some moments later: what the sockets hold he had taken. */
    bool ended = false;
    for (int i = 0; i < 100 && !ended; i++) {
        ended = fakecore_count(f.core, "52 {\"stream\"") == 1;
        poll(NULL, 0, 100);
    }
    CHECK(ended);
    close(reader);
    close(sender);
    front_stop(&f);
}

T_MAIN({"a_reader_who_rests_lets_the_answer_wait", a_reader_who_rests_lets_the_answer_wait},
       {"nobody_holds_a_request_for_more_than_a_minute",
        nobody_holds_a_request_for_more_than_a_minute})
