/* test_http.c - the HTTP face over a fake core: shapes, refusals, streams across a restart. */
#include "daemon/front/fjson.h"
#include "tests/front/frontproc.h"

static char got[1 << 20];
static struct frontproc f;

static void up(const char *const *more)
{
    f = (struct frontproc){0};
    front_start(&f, false, true, more);
}

#define CHAT(words)                                                                            \
    "{\"model\":\"fake\",\"messages\":[{\"role\":\"user\",\"content\":\"" words "\"}]}"
#define STREAM(words)                                                                          \
    "{\"model\":\"fake\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":"        \
    "\"" words "\"}]}"

static bool has(const char *words)
{
    return strstr(got, words) != NULL;
}
/* All "content" of the chunks, joined. */
static void contents(char *ret, size_t cap)
{
    size_t n = 0;
    ret[0] = 0;
    for (char *p = got; (p = strstr(p, "\"content\":\"")); p += 5) {
        p += 11;
        for (; *p && *p != '"' && n + 1 < cap; p++)
            ret[n++] = *p;
        ret[n] = 0;
    }
}

static void small_addresses_answer(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 200);
    CHECK(has("{\"status\":\"ok\"}"));
    CHECK_EQ(http(f.port, "GET", "/metrics", NULL, NULL, got, sizeof got), 200);
    CHECK(has("fake_total 1"));
    CHECK_EQ(http(f.port, "GET", "/v1/models", NULL, NULL, got, sizeof got), 200);
    CHECK(has("\"object\":\"list\"") && has("\"id\":\"fake\"") && has("\"id\":\"other\"") &&
          has("\"context_length\":8192"));
    CHECK_EQ(http(f.port, "GET", "/v1/models/other", NULL, NULL, got, sizeof got), 200);
    CHECK(has("\"id\":\"other\"") && !has("fake"));
    CHECK_EQ(http(f.port, "GET", "/v1/models/nosuch", NULL, NULL, got, sizeof got), 404);
    CHECK(has("\"code\":\"model_not_found\""));
    CHECK_EQ(http(f.port, "GET", "/v2", NULL, NULL, got, sizeof got), 404);
    CHECK_EQ(http(f.port, "GET", "/v1/chat/completions", NULL, NULL, got, sizeof got), 405);
    CHECK(has("Allow: POST"));
    CHECK_EQ(http(f.port, "DELETE", "/v1/models", NULL, NULL, got, sizeof got), 405);
    front_stop(&f);
}

/* Neither a client's bytes nor a file's name make a reply that clients cannot decode, and no name
 * takes the others' answer away. */
static void what_is_no_text_comes_back_as_text(void)
{
    static const char *const paths[] = {"/v1/models/%ff", "/v1/models/caf%e9",
                                        "/v1/models/%f0%9f%a6", "/v1/models/%c3%28"};
    for (fakecore_latin1 = true;; fakecore_latin1 = false) {
        up(NULL);
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
            CHECK_EQ(http(f.port, "GET", paths[i], NULL, NULL, got, sizeof got), 404);
            if (!front_utf8_ok(got, strlen(got)) || !has("\xef\xbf\xbd"))
                t_fail(__FILE__, __LINE__, "%s: %s", paths[i], got);
        }
        CHECK_EQ(http(f.port, "GET", "/v1/models", NULL, NULL, got, sizeof got), 200);
        CHECK(has("\"id\":\"other\"") && front_utf8_ok(got, strlen(got)));
        CHECK_EQ(has("\"id\":\"caf\xef\xbf\xbd\""), fakecore_latin1);
        CHECK_EQ(http(f.port, "GET", "/v1/models/other", NULL, NULL, got, sizeof got), 200);
        CHECK_EQ(http(f.port, "GET", "/metrics", NULL, NULL, got, sizeof got), 200);
        CHECK(has("fake") && front_utf8_ok(got, strlen(got)));
        front_stop(&f);
        if (!fakecore_latin1)
            break;
    }
}

static void a_whole_answer_has_openais_shape(void)
{
    up(NULL);
    CHECK_EQ(
        http(f.port, "POST", "/v1/chat/completions", NULL, CHAT("hi words=3"), got, sizeof got),
        200);
    CHECK(has("\"object\":\"chat.completion\"") && has("\"content\":\"w0 w1 w2 \"") &&
          has("\"finish_reason\":\"stop\""));
    CHECK(has("\"prompt_tokens\":30,\"completion_tokens\":3,\"total_tokens\":33,\"prompt_"
              "tokens_details\":{\"cached_tokens\":24}"));
    CHECK(has("\"durable\":true") && !has("ignored") && !has("metadata"));
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL,
                  "{\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":false,\"messages\":[{"
                  "\"role\":"
                  "\"user\",\"content\":\"words=2\"}]}",
                  got, sizeof got),
             200);
    CHECK(has("\"hearth\":{\"ignored\":[\"user\"],\"session\"") &&
          has("\"metadata\":{\"a\":\"b\"}"));
    CHECK_EQ(fakecore_count(f.core, "\"keep\":false"), 1);
    front_stop(&f);
}

static void a_stream_is_events_that_end_in_done(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, STREAM("hi words=5 pace=20"),
                  got, sizeof got),
             200);
    CHECK(has("Content-Type: text/event-stream"));
    CHECK(has("\"object\":\"chat.completion.chunk\"") &&
          has("\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"));
    CHECK(has("\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\""));
    CHECK(!has("\"usage\""));
    CHECK(strstr(got, "data: [DONE]\n\n"));
    char text[200];
    contents(text, sizeof text);
    CHECK(strcmp(text, "w0 w1 w2 w3 w4 ") == 0);
    /* Usage comes last, and only when asked for. */
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL,
                  "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"messages\":[{"
                  "\"role\":\"user\",\"content\":\"words=2\"}]}",
                  got, sizeof got),
             200);
    CHECK(has("\"choices\":[],\"usage\":{\"prompt_tokens\":30"));
    front_stop(&f);
}

static void no_chunk_splits_a_code_point(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, STREAM("emoji words=8 pace=5"),
                  got, sizeof got),
             200);
    char text[200];
    contents(text, sizeof text);
    CHECK(strcmp(text, "\xf0\x9f\xa6\x94\xf0\x9f\xa6\x94") == 0);
    front_stop(&f);
}

#define PROBS(stream, words)                                                                   \
    "{\"stream\":" stream                                                                      \
    ",\"logprobs\":true,\"top_logprobs\":2,\"messages\":[{\"role\":\"user\","                  \
    "\"content\":\"" words "\"}]}"

static int count(const char *words)
{
    int n = 0;
    for (const char *p = got; (p = strstr(p, words)); p++)
        n++;
    return n;
}

static void logprobs_have_the_tokens_bytes_and_end_with_the_text(void)
{
    static const char *const stream[] = {"false", "true"};
    up(NULL);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL,
                      i ? PROBS("true", "words=3 pace=20") : PROBS("false", "words=3"), got,
                      sizeof got),
                 200);
        CHECK(has(
            "{\"token\":\"w1 "
            "\",\"logprob\":-0.200000003,\"bytes\":[119,49,32],\"top_logprobs\":"
            "[{\"token\":\"w1 \",\"logprob\":-0.5,\"bytes\":[119,49,32]},{\"token\":\"x\","));
        CHECK_EQ(count("top_logprobs"), 3);
        /* A character of four tokens: each has its byte, and they come when it does. */
        CHECK_EQ(
            http(f.port, "POST", "/v1/chat/completions", NULL,
                 i ? PROBS("true", "emoji words=4 pace=20") : PROBS("false", "emoji words=4"),
                 got, sizeof got),
            200);
        CHECK(has("{\"token\":\"\\\\xf0\",\"logprob\":-0.100000001,\"bytes\":[240],"));
        CHECK(has("\"bytes\":[159],") && has("\"bytes\":[166],") && has("\"bytes\":[148],"));
        CHECK_EQ(count("top_logprobs"), 4);
        /* The tokens of a stop string are not listed. */
        CHECK_EQ(
            http(f.port, "POST", "/v1/chat/completions", NULL,
                 i ? PROBS("true", "words=5 stop=3 pace=20") : PROBS("false", "words=5 stop=3"),
                 got, sizeof got),
            200);
        CHECK(has("\"token\":\"w2 \"") && !has("\"token\":\"w3 \""));
        if (count("top_logprobs") != 3)
            t_fail(__FILE__, __LINE__, "stream %s: %d tokens listed, want 3", stream[i],
                   count("top_logprobs"));
    }
    front_stop(&f);
}

static void refusals_have_the_codes_of_their_kind(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL,
                  "{\"model\":\"nosuch\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
                  got, sizeof got),
             404);
    CHECK(has("\"code\":\"model_not_found\",\"param\":\"model\""));
    CHECK_EQ(
        http(f.port, "POST", "/v1/chat/completions", NULL, STREAM("long"), got, sizeof got),
        400);
    CHECK(has("\"code\":\"context_length_exceeded\",\"param\":\"messages\""));
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, CHAT("busy"), got, sizeof got),
             429);
    CHECK(has("Retry-After: 2") && has("queue_full"));
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, "{", got, sizeof got), 400);
    CHECK(has("bad_json"));
    /* hearthd's own names are not for them. */
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL,
                  "{\"samplers\":\"foo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
                  got, sizeof got),
             400);
    CHECK(has("\"message\":\"samplers: want") && has("\"param\":\"samplers\"") &&
          !has("params."));
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions",
                  "Host: localhost\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n", NULL,
                  got, sizeof got),
             415);
    front_stop(&f);
}

static void an_error_in_the_middle_is_an_event(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, STREAM("fail words=2"), got,
                  sizeof got),
             200);
    CHECK(has("data: {\"error\":{\"message\":\"the numbers have "
              "changed\",\"type\":\"server_error\",\"code\":\"epoch_changed\""));
    CHECK(!has("[DONE]"));
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, CHAT("fail words=2"), got,
                  sizeof got),
             500);
    /* Cut by somebody else: never an end that looks like the answer's own. */
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, STREAM("cut words=2"), got,
                  sizeof got),
             200);
    CHECK(has("\"code\":\"cancelled\"") && !has("[DONE]") && !has("\"stop\""));
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, CHAT("cut words=2"), got,
                  sizeof got),
             499);
    CHECK(has("\"code\":\"cancelled\""));
    front_stop(&f);
}

static void other_sites_and_names_are_kept_out(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "GET", "/v1/models", "Host: evil.example\r\n", NULL, got, sizeof got),
             403);
    char way[64];
    snprintf(way, sizeof way, "use http://127.0.0.1:%d\"", f.port);
    CHECK(has(way));
    CHECK_EQ(http(f.port, "GET", "/v1/models", "", NULL, got, sizeof got), 400);
    CHECK_EQ(http(f.port, "GET", "/v1/models",
                  "Host: localhost\r\nOrigin: http://evil.example\r\n", NULL, got, sizeof got),
             403);
    CHECK_EQ(http(f.port, "GET", "/v1/models",
                  "Host: localhost\r\nOrigin: http://localhost:3000\r\n", NULL, got,
                  sizeof got),
             200);
    CHECK(has("Access-Control-Allow-Origin: http://localhost:3000"));
    front_stop(&f);
}

/* The 4-tuple of a peer of another user: only root can make one. */
/* Bytes as they are; the status of the first reply, -1: none came. */
static int raw(const char *bytes, size_t n)
{
    int fd = http_connect(f.port);
    CHECK(send(fd, bytes, n, MSG_NOSIGNAL) == (ssize_t)n);
    shutdown(fd, SHUT_WR);
    read_all(fd, got, sizeof got);
    close(fd);
    return strncmp(got, "HTTP/1.1 ", 9) == 0 ? atoi(got + 9) : -1;
}

/* Old tools have none; a browser, whose pages the name keeps out, always has one. */
static void a_request_of_http_1_0_needs_no_host_but_no_wrong_one(void)
{
    static const struct {
        const char *s;
        int code;
    } rows[] = {
        {"GET /v1/models HTTP/1.0\r\n\r\n", 200},
        {"GET /v1/models HTTP/1.0\r\nHost: localhost.\r\n\r\n", 200},
        {"GET /v1/models HTTP/1.0\r\nHost: evil.example\r\n\r\n", 403},
        {"GET /v1/models HTTP/1.0\r\nHost:\r\n\r\n", 403},
        {"GET http://evil.example/v1/models HTTP/1.0\r\n\r\n", 403},
        {"GET /v1/models HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n", 403},
        {"GET /v1/models HTTP/1.0\r\nOrigin: http://localhost:1\r\n\r\n", 403},
        {"GET /v1/models HTTP/1.0\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403},
        {"GET /v1/models HTTP/1.1\r\n\r\n", 400},
    };
    up(NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = raw(rows[i].s, strlen(rows[i].s));
        if (code != rows[i].code)
            t_fail(__FILE__, __LINE__, "%s: got %d, want %d", rows[i].s, code, rows[i].code);
    }
    front_stop(&f);
}

static void a_body_is_taken_as_it_is_or_its_coding_is_named(void)
{
    static const struct {
        const char *coding;
        int code;
    } rows[] = {{"gzip", 415}, {"BR", 415}, {"identity, gzip", 415}, {"Identity", 200}};
    up(NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char headers[100];
        snprintf(headers, sizeof headers, "Host: localhost\r\nContent-Encoding: %s\r\n",
                 rows[i].coding);
        CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", headers, CHAT("words=2"), got,
                      sizeof got),
                 rows[i].code);
        CHECK(rows[i].code == 200 || (has("Content-Encoding: ") && has(rows[i].coding)));
    }
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, "\xef\xbb\xbf" CHAT("words=2"),
                  got, sizeof got),
             200);
    front_stop(&f);
}

static void another_users_process_needs_a_key(void)
{
    if (getuid() != 0)
        t_skip("becoming another user needs root");
    const char *dir = fresh_dir();
    char keys[64], k[100];
    snprintf(keys, sizeof keys, "%.60s", dir);
    snprintf(k, sizeof k, "%s/keys", keys);
    FILE *p = fopen(k, "we");
    fprintf(p, "# one a line\n0123456789abcdefKEY\n");
    fclose(p);
    chmod(k, 0600);
    const char *more[] = {"--api-key-file", k, NULL};
    up(more);
    for (int key = 0; key < 3; key++) {
        int out[2];
        CHECK_EQ(pipe(out), 0);
        pid_t pid = fork();
        if (pid == 0) {
            if (setgid(65534) != 0 || setuid(65534) != 0)
                _exit(99);
            int code = http(
                f.port, "GET", "/v1/models",
                key == 0   ? NULL
                : key == 1 ? "Host: 127.0.0.1\r\nAuthorization: Bearer 0123456789abcdefKEX\r\n"
                           : "Host: 127.0.0.1\r\nAuthorization: Bearer 0123456789abcdefKEY\r\n",
                NULL, got, sizeof got);
            _exit(write(out[1], &code, sizeof code) == sizeof code ? 0 : 1);
        }
        int code = 0;
        CHECK_EQ(read(out[0], &code, sizeof code), sizeof code);
        waitpid(pid, NULL, 0);
        close(out[0]);
        close(out[1]);
        CHECK_EQ(code, key == 2 ? 200 : 401);
    }
    unlink(k);
    rmdir(keys);
    front_stop(&f);
}

static void a_client_that_leaves_cancels(void)
{
    up(NULL);
    const char *body = STREAM("words=1000 pace=20");
    int fd = http_connect(f.port);
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            "application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    CHECK(recv(fd, got, sizeof got, 0) > 0);
    close(fd);
    int n = 0;
    for (int i = 0; i < 200 && !(n = fakecore_count(f.core, "52 {\"stream\"")); i++)
        poll(NULL, 0, 10);
    CHECK_EQ(n, 1);
    front_stop(&f);
}

static void a_stream_outlives_its_core(void)
{
    up(NULL);
    const char *body = STREAM("words=40 pace=25");
    int fd = http_connect(f.port);
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: "
            "close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    size_t n = 0;
    while (n < 2000) {
        ssize_t k = recv(fd, got + n, sizeof got - n - 1, 0);
        CHECK(k > 0);
        if (k <= 0)
            break;
        n += (size_t)k;
    }
    fakecore_kill(f.core_pid);
    poll(NULL, 0, 300);
    f.core_pid = fakecore(f.core);
    read_all(fd, got + n, sizeof got - n);
    close(fd);
    char text[400], want[400] = "";
    contents(text, sizeof text);
    for (int i = 0; i < 40; i++)
        sprintf(want + strlen(want), "w%d ", i);
    if (strcmp(text, want) != 0)
        t_fail(__FILE__, __LINE__, "got \"%s\"", text);
    CHECK(has("[DONE]"));
    CHECK_EQ(fakecore_count(f.core, "50 {"), 2); /* the same START, to both cores */
    front_stop(&f);
}

static void several_streams_run_at_once(void)
{
    up(NULL);
    enum { N = 8 };
    int fd[N];
    const char *body = STREAM("words=20 pace=25");
    uint64_t t0 = now_ns();
    for (int i = 0; i < N; i++) {
        fd[i] = http_connect(f.port);
        dprintf(fd[i],
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: "
                "close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                strlen(body), body);
    }
    for (int i = 0; i < N; i++) {
        read_all(fd[i], got, sizeof got);
        CHECK(has("[DONE]") && has("w19 "));
        close(fd[i]);
    }
    CHECK((now_ns() - t0) / 1000000 < 3000); /* one after the other would be 4 s */
    front_stop(&f);
}

static void requests_sent_ahead_are_answered_in_order(void)
{
    up(NULL);
    int fd = http_connect(f.port);
    const char *body = CHAT("words=3 pace=50");
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
            "application/json\r\nContent-Length: %zu\r\n\r\n%s"
            "GET /v1/models/other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            strlen(body), body);
    poll(NULL, 0, 50);
    dprintf(
        fd,
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"); /* and one more while it works */
    read_all(fd, got, sizeof got);
    close(fd);
    const char *a = strstr(got, "w0 w1 w2 "), *b = strstr(got, "\"id\":\"other\"");
    CHECK(a);
    CHECK(!b ||
          a < b); /* the second may be dropped with the connection, never before the first */
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 200);
    CHECK_EQ(waitpid(f.front_pid, NULL, WNOHANG), 0);
    front_stop(&f);
}

static void a_connection_serves_long_bodies_one_after_another(void)
{
    up(NULL);
    int fd = http_connect(f.port);
    char *body = malloc(500000);
    for (int i = 0; i < 3; i++) {
        int n = sprintf(body, "{\"messages\":[{\"role\":\"user\",\"content\":\"words=2 ");
        memset(body + n, 'x', 300000);
        strcpy(body + n + 300000, "\"}]}");
        dprintf(fd,
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                strlen(body), body);
        size_t n_got = 0;
        got[0] = 0;
        while (!strstr(got, "}}}\n")) {
            ssize_t k = recv(fd, got + n_got, sizeof got - 1 - n_got, 0);
            if (k <= 0)
                break;
            n_got += (size_t)k;
            got[n_got] = 0;
        }
        CHECK(has("w0 w1 "));
    }
    free(body);
    close(fd);
    front_stop(&f);
}

static void too_much_is_refused(void)
{
    up(NULL);
    char *big = malloc(40000);
    int n = sprintf(big, "Host: localhost\r\nX-Big: ");
    memset(big + n, 'a', 30000);
    strcpy(big + n + 30000, "\r\n");
    int code = http(f.port, "GET", "/health", big, NULL, got, sizeof got);
    CHECK_EQ(code, 431);
    free(big);
    int fd = http_connect(f.port);
    dprintf(fd, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                "application/json\r\nContent-Length: 99999999\r\n\r\n");
    read_all(fd, got, sizeof got);
    close(fd);
    CHECK(has("413"));
    /* Short to write, long to hold: each value takes a hundred bytes once it is parsed. */
    char *many = malloc(1 << 20);
    strcpy(many, "{\"messages\":[");
    for (int i = 0, k = (int)strlen(many); i < 300000; i++, k += 2)
        strcpy(many + k, "1,");
    strcat(many, "1]}");
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL, many, got, sizeof got), 400);
    CHECK(has("more than 262144 values"));
    free(many);
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 200);
    front_stop(&f);
}

static void what_could_be_read_in_two_ways_is_refused(void)
{
#define HEAD "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
#define BODY "\r\n{\"messages\":[]}"
    static const struct {
        const char *bytes;
        size_t n;
        int code;
    } c[] = {
#define RAW(s, code) {s, sizeof s - 1, code}
        RAW(HEAD "Content-Length: 15\r\nContent-Length: 15\r\n" BODY, 400),
        RAW(HEAD "Content-Length: 15\r\nContent-Length: 3\r\n" BODY, 400),
        RAW(HEAD "Content-Length: 15, 15\r\n" BODY, 400),
        RAW(HEAD "Content-Length: +15\r\n" BODY, 400),
        RAW(HEAD "Content-Length: -1\r\n" BODY, 400),
        RAW(HEAD "Content-Length: 0xf\r\n" BODY, 400),
        RAW(HEAD "Content-Length: 1 5\r\n" BODY, 400),
        RAW(HEAD "Content-Length: \r\n" BODY, 400),
        RAW(HEAD "Content-Length: 18446744073709551631\r\n" BODY, 400),
        RAW(HEAD "Content-Length : 15\r\n" BODY, 400),
        RAW(HEAD "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n" BODY, 400),
        RAW(HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400),
        RAW(HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        RAW(HEAD "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", 400),
        RAW(HEAD "Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", 400),
        RAW(HEAD "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", 400),
        RAW(HEAD "Transfer-Encoding: chunked\r\n\r\nfffffffff\r\n", 400),
        RAW("GET /health HTTP/1.1\nHost: localhost\n\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x01b\r\n\r\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\r\n folded: y\r\n\r\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        RAW("GET /health HTTP/1.1\r\nHost: localhost\r\nnothing\r\n\r\n", 400),
        RAW("GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        RAW("GET /hea\x7flth HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        RAW("GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        RAW("GET /health\r\n\r\n", 400),
        RAW("GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    };
    up(NULL);
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        int code = raw(c[i].bytes, c[i].n);
        if (code != c[i].code)
            t_fail(__FILE__, __LINE__, "case %zu: got %d, want %d", i, code, c[i].code);
        CHECK(has("\"code\":\"bad_request\"")); /* not for what its body says */
        /* Refused as a whole: what follows is no request of its own. */
        CHECK(!strstr(got, "\nHTTP/1.1 "));
    }
    /* And what is good, also byte by byte. */
    static const char good[] = HEAD "Content-Type: application/json\r\nConnection: close\r\n"
                                    "Transfer-Encoding: chunked\r\n\r\n"
                                    "1;ext=1\r\n{\r\n0D\r\n\"messages\":[{\r\n"
                                    "27 \r\n\"role\":\"user\",\"content\":\"hi words=3\"}]}\r\n"
                                    "0\r\nX-Sum: 1\r\n\r\n";
    int fd = http_connect(f.port);
    for (size_t i = 0; i + 1 < sizeof good; i++)
        CHECK_EQ(send(fd, good + i, 1, MSG_NOSIGNAL), 1);
    read_all(fd, got, sizeof got);
    close(fd);
    CHECK(has("HTTP/1.1 200") && has("w0 w1 w2 "));
    front_stop(&f);
}

/* Of somebody who may not speak nothing is read but the headers: the refusal does not wait for
 * the body, nor keep it. */
static void a_body_is_read_after_its_sender_is_known(void)
{
    if (getuid() != 0)
        t_skip("becoming another user needs root");
    up(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (setgid(65534) != 0 || setuid(65534) != 0)
            _exit(99);
        int fd = http_connect(f.port);
        dprintf(fd, HEAD "Content-Length: 30000000\r\n\r\n");
        struct timeval tv = {.tv_sec = 5};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        read_all(fd, got, sizeof got);
        _exit(strncmp(got, "HTTP/1.1 401", 12) == 0 ? 0 : 1);
    }
    int st = -1;
    waitpid(pid, &st, 0);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0);
    front_stop(&f);
}

static void expect_continue_is_met(void)
{
    up(NULL);
    int fd = http_connect(f.port);
    const char *body = CHAT("words=3");
    dprintf(fd,
            HEAD
            "Content-Type: application/json\r\nConnection: close\r\nExpect: 100-continue\r\n"
            "Content-Length: %zu\r\n\r\n",
            strlen(body));
    ssize_t k = recv(fd, got, sizeof got - 1, 0);
    got[k > 0 ? k : 0] = 0;
    CHECK_STR(got, "HTTP/1.1 100 Continue\r\n\r\n");
    dprintf(fd, "%s", body);
    read_all(fd, got, sizeof got);
    CHECK(has("HTTP/1.1 200") && has("w0 w1 w2 "));
    close(fd);
    /* HTTP/1.0: the stream ends with its connection, without chunks. */
    const char *stream = STREAM("words=3");
    fd = http_connect(f.port);
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: "
            "application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(stream), stream);
    read_all(fd, got, sizeof got);
    close(fd);
    CHECK(has("[DONE]\n\n") && !has("chunked") && !has("\r\n0\r\n"));
    static const char *const paths[] = {"/v1/models", "/v1/models/fake", "/health", "/metrics"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        CHECK_EQ(http(f.port, "HEAD", paths[i], NULL, NULL, got, sizeof got), 200);
        CHECK(strstr(got, "\r\n\r\n") && strlen(strstr(got, "\r\n\r\n")) == 4);
        CHECK(has("Content-Length: ") && !has("Content-Length: 0"));
    }
    CHECK_EQ(http(f.port, "HEAD", "/v1/chat/completions", NULL, NULL, got, sizeof got), 405);
    CHECK(strlen(strstr(got, "\r\n\r\n")) == 4);
    front_stop(&f);
}

static void a_core_that_hangs_is_said_to_hang(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 200);
    kill(f.core_pid, SIGSTOP);
    static const struct {
        const char *path;
        uint64_t ms;
    } asked[] = {
        {"/health", 2000}, {"/metrics", 2000}, {"/v1/models", 8000}, {"/v1/models/fake", 8000}};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        uint64_t t0 = now_ns();
        CHECK_EQ(http(f.port, "GET", asked[i].path, NULL, NULL, got, sizeof got), 503);
        CHECK(has("core_unavailable") && has("Retry-After: 1") && has("does not answer"));
        CHECK((now_ns() - t0) / 1000000 < asked[i].ms * T_SLOWER);
    }
    kill(f.core_pid, SIGCONT);
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 200);
    front_stop(&f);
}

/* JSON has no infinity: what cannot be is written as OpenAI writes it. */
static void a_logprob_is_always_a_number(void)
{
    up(NULL);
    CHECK_EQ(http(f.port, "POST", "/v1/chat/completions", NULL,
                  "{\"logprobs\":true,\"top_logprobs\":2,\"messages\":[{\"role\":\"user\","
                  "\"content\":\"never words=2\"}]}",
                  got, sizeof got),
             200);
    CHECK_EQ(count("\"logprob\":-9999,"), 4); /* each word, and the first of its alternatives */
    CHECK(!has("inf") && !has("e+30"));
    front_stop(&f);
}

static void garbage_does_not_end_it(void)
{
    up(NULL);
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)getpid();
    printf("    SEED=%u\n", seed);
    srand(seed);
    static const char base[] =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        "application/json\r\nContent-Length: 20\r\n\r\n{\"messages\":[{\"role\"";
    for (int i = 0; i < 400; i++) {
        char b[400];
        size_t n = sizeof base - 1;
        memcpy(b, base, n);
        for (int k = rand() % 8; k >= 0; k--)
            b[(size_t)rand() % n] = (char)rand();
        if (rand() % 3 == 0)
            n = (size_t)rand() % n;
        int fd = http_connect(f.port);
        (void)!send(fd, b, n, MSG_NOSIGNAL);
        if (rand() % 2)
            shutdown(fd, SHUT_WR);
        close(fd);
    }
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 200);
    CHECK_EQ(waitpid(f.front_pid, NULL, WNOHANG), 0);
    front_stop(&f);
}

static void it_ends_with_its_core_when_told_so(void)
{
    const char *more[] = {"--exit-with-core", NULL};
    int st = -1;
    up(more);
    fakecore_kill(f.core_pid);
    f.core_pid = 0;
    for (int i = 0; i < 300 && waitpid(f.front_pid, &st, WNOHANG) == 0; i++)
        poll(NULL, 0, 10);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0);
    f.front_pid = 0;
    front_stop(&f);
}

static void without_a_core_health_says_so_at_once(void)
{
    up(NULL);
    fakecore_kill(f.core_pid);
    f.core_pid = 0;
    poll(NULL, 0, 50);
    uint64_t t0 = now_ns();
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got), 503);
    CHECK(has("core_unavailable"));
    CHECK((now_ns() - t0) / 1000000 < 2000);
    front_stop(&f);
}

static void headers_come_while_start_is_slow(void)
{
    up(NULL);
    const char *body = STREAM("slow words=2");
    int fd = http_connect(f.port);
    uint64_t t0 = now_ns();
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: "
            "close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
    ssize_t k = recv(fd, got, sizeof got - 1, 0);
    got[k > 0 ? k : 0] = 0;
    CHECK(has("HTTP/1.1 200"));
    CHECK((now_ns() - t0) / 1000000 < 2900);
    read_all(fd, got, sizeof got);
    CHECK(has("w1 ") && has("[DONE]"));
    close(fd);
    front_stop(&f);
}

T_MAIN({"small_addresses_answer", small_addresses_answer},
       {"what_is_no_text_comes_back_as_text", what_is_no_text_comes_back_as_text},
       {"a_whole_answer_has_openais_shape", a_whole_answer_has_openais_shape},
       {"a_stream_is_events_that_end_in_done", a_stream_is_events_that_end_in_done},
       {"no_chunk_splits_a_code_point", no_chunk_splits_a_code_point},
       {"logprobs_have_the_tokens_bytes_and_end_with_the_text",
        logprobs_have_the_tokens_bytes_and_end_with_the_text},
       {"refusals_have_the_codes_of_their_kind", refusals_have_the_codes_of_their_kind},
       {"an_error_in_the_middle_is_an_event", an_error_in_the_middle_is_an_event},
       {"other_sites_and_names_are_kept_out", other_sites_and_names_are_kept_out},
       {"a_request_of_http_1_0_needs_no_host_but_no_wrong_one",
        a_request_of_http_1_0_needs_no_host_but_no_wrong_one},
       {"a_body_is_taken_as_it_is_or_its_coding_is_named",
        a_body_is_taken_as_it_is_or_its_coding_is_named},
       {"another_users_process_needs_a_key", another_users_process_needs_a_key},
       {"a_client_that_leaves_cancels", a_client_that_leaves_cancels},
       {"a_stream_outlives_its_core", a_stream_outlives_its_core},
       {"several_streams_run_at_once", several_streams_run_at_once},
       {"requests_sent_ahead_are_answered_in_order", requests_sent_ahead_are_answered_in_order},
       {"a_connection_serves_long_bodies_one_after_another",
        a_connection_serves_long_bodies_one_after_another},
       {"too_much_is_refused", too_much_is_refused},
       {"what_could_be_read_in_two_ways_is_refused", what_could_be_read_in_two_ways_is_refused},
       {"a_body_is_read_after_its_sender_is_known", a_body_is_read_after_its_sender_is_known},
       {"expect_continue_is_met", expect_continue_is_met},
       {"a_core_that_hangs_is_said_to_hang", a_core_that_hangs_is_said_to_hang},
       {"garbage_does_not_end_it", garbage_does_not_end_it},
       {"it_ends_with_its_core_when_told_so", it_ends_with_its_core_when_told_so},
       {"a_logprob_is_always_a_number", a_logprob_is_always_a_number},
       {"without_a_core_health_says_so_at_once", without_a_core_health_says_so_at_once},
       {"headers_come_while_start_is_slow", headers_come_while_start_is_slow})
