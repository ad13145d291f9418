/* test_shares.c - who asks over HTTP, and what each has of what is bounded; over a real front. */
#include "daemon/front/http.h"
#include "daemon/front/peers.h"
#include "tests/front/frontproc.h"
#include <sys/resource.h>

static char got[1 << 16];
static struct frontproc f;
static char dir[64], key_path[100];

#define KEY1 "Authorization: Bearer first-key-0123456789\r\n"
#define KEY2 "Authorization: Bearer second-key-0123456789\r\n"
#define HEAD                                                                                   \
    "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"                                \
    "Content-Type: application/json\r\nContent-Length: "
#define ASK(text) "{\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]}"

static void up(void)
{
    struct rlimit lim;
    CHECK(getrlimit(RLIMIT_NOFILE, &lim) == 0);
    lim.rlim_cur = lim.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &lim);
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(key_path, sizeof key_path, "%s/keys", dir);
    FILE *p = fopen(key_path, "we");
    fprintf(p, "first-key-0123456789\nsecond-key-0123456789\n");
    fclose(p);
    chmod(key_path, 0600);
    const char *more[] = {"--api-key-file", key_path, NULL};
    f = (struct frontproc){0};
    front_start(&f, false, true, more);
}
static void down(void)
{
    front_stop(&f);
    unlink(key_path);
    rmdir(dir);
}

static bool has(const char *s)
{
    return strstr(got, s) != NULL;
}
/* One request with this key's header ("": without), a body of n bytes; its status. */
static int ask(const char *key, size_t n)
{
    static const char part[] = ASK("words=2 ");
    char *body = malloc(n + sizeof part), h[200];
    memset(body, ' ', n + sizeof part);
    memcpy(body, part, sizeof part - 1);
    body[n > sizeof part ? n : sizeof part - 1] = 0;
    snprintf(h, sizeof h, "Host: localhost\r\n%s", key);
    int code = http(f.port, "POST", "/v1/chat/completions", h, body, got, sizeof got);
    free(body);
    return code;
}
/* Is there a reply on fd?  It is in got. */
static bool answered(int fd, int ms)
{
    struct pollfd p = {fd, POLLIN, 0};
    got[0] = 0;
    if (poll(&p, 1, ms) <= 0)
        return false;
    ssize_t k = recv(fd, got, sizeof got - 1, 0);
    got[k > 0 ? k : 0] = 0;
    return true;
}

static void bodies_of_one_leave_room_for_another(void)
{
    enum { N = 40, PART = 4 << 20 };
    static int fd[N];
    char *part = malloc(PART);
    int taken = 0;
    up();
    memset(part, ' ', PART);
    for (int i = 0; i < N; i++) {
        fd[i] = http_connect(f.port);
        dprintf(fd[i], HEAD "%d\r\n" KEY1 "\r\n", PART + 10); /* not whole */
        struct timeval tv = {.tv_sec = 10};
        setsockopt(fd[i], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
        (void)!send(fd[i], part, PART, MSG_NOSIGNAL);
        if (answered(fd[i], 100))
            break;
        taken++;
    }
    printf("    %d bodies of 4 MiB were taken\n", taken);
    CHECK(taken >= 8 && taken <= HTTP_BODIES_MAX / PART / 2);
    CHECK(has("HTTP/1.1 429 ") && has("yours, of at most 128: that is your share"));
    CHECK_EQ(ask(KEY2, 3 << 20), 200);
    CHECK_EQ(ask("", 3 << 20), 200);
    CHECK_EQ(ask(KEY1, 1 << 20), 429);
    CHECK_EQ(ask(KEY1, 10000), 200); /* small ones are always taken */
    for (int i = 0; i <= taken; i++)
        close(fd[i]);
    /* And what was given back is there again. */
    int code = 0;
    for (int i = 0; i < 100 && (code = ask(KEY1, 1 << 20)) != 200; i++)
        poll(NULL, 0, 20);
    CHECK_EQ(code, 200);
    free(part);
    down();
}

static void a_body_longer_than_hearthd_takes_is_refused_by_its_header(void)
{
    up();
    int fd = http_connect(f.port);
    dprintf(fd, HEAD "%d\r\n\r\n", JSON_BYTES_MAX + 1);
    CHECK(answered(fd, 5000));
    CHECK(has("HTTP/1.1 413 ") && has("at most 8388608 are taken"));
    close(fd);
    CHECK_EQ(ask("", JSON_BYTES_MAX), 200);
    down();
}

static void requests_of_one_leave_room_for_another(void)
{
    static const char body[] = ASK("words=1 pace=60000");
    static int fd[HTTP_OPEN_MAX];
    int n = 0;
    up();
    for (; n < HTTP_OPEN_MAX; n++) {
        fd[n] = http_connect(f.port);
        dprintf(fd[n], HEAD "%zu\r\n%s\r\n%s", sizeof body - 1, n % 2 ? KEY1 : "", body);
        if (n > HTTP_OPEN_MAX / 4 && answered(fd[n], 20))
            break;
    }
    CHECK(has("HTTP/1.1 429 ") && has("that is your share; wait for answers"));
    CHECK(n >= HTTP_OPEN_MAX / 2 && n < HTTP_OPEN_MAX);
    CHECK_EQ(ask(KEY2, 0), 200);
    for (int i = 0; i <= n; i++)
        close(fd[i]);
    int code = 0;
    for (int i = 0; i < 100 && (code = ask(KEY1, 0)) != 200; i++)
        poll(NULL, 0, 20);
    CHECK_EQ(code, 200);
    down();
}

/* hearthd answers none of them: they wait in the front. */
static void requests_that_wait_of_one_leave_room_for_another(void)
{
    enum { N = 40, BYTES = 7 << 20 };
    static int fd[N];
    static const char ask[] = ASK("slow words=2 ");
    char *body = malloc(BYTES);
    int n = 0;
    bool told = false;
    up();
    memset(body, 'x', BYTES);
    memcpy(body, ask, sizeof ask - 1 - 4);
    memcpy(body + BYTES - 4, "\"}]}", 4);
    kill(f.core_pid, SIGSTOP);
    for (; n < N && !told; n++) {
        fd[n] = http_connect(f.port);
        dprintf(fd[n], HEAD "%d\r\n" KEY1 "\r\n", BYTES);
        CHECK_EQ(send(fd[n], body, BYTES, MSG_NOSIGNAL), BYTES);
        told = answered(fd[n], n < 5 ? 0 : T_SLOWER > 1 ? 1500 : 300);
    }
    printf("    %d requests of 7 MiB wait\n", n - 1);
    CHECK(has("HTTP/1.1 429 ") && has("of yours, which is your share of 256 for all"));
    CHECK(n > 10 && n < CORELINK_BYTES_MAX / BYTES * 2 / 3);
    fd[n] = http_connect(f.port);
    dprintf(fd[n], HEAD "%d\r\n" KEY2 "\r\n", BYTES);
    CHECK_EQ(send(fd[n], body, BYTES, MSG_NOSIGNAL), BYTES);
    CHECK(!answered(fd[n], 500)); /* taken: it waits */
    for (int i = 0; i <= n; i++)
        close(fd[i]);
    kill(f.core_pid, SIGCONT);
    free(body);
    down();
}

static void connections_of_a_key_leave_room_for_another(void)
{
    static int fd[HTTP_CONNS_FOREIGN_MAX + 1];
    int n = 0;
    up();
    for (; n <= HTTP_CONNS_FOREIGN_MAX; n++) {
        fd[n] = http_connect(f.port);
        dprintf(fd[n], HEAD "10\r\n" KEY1 "\r\n{"); /* in use: its body is not whole */
        if (n > 100 && answered(fd[n], 20))
            break;
    }
    CHECK_EQ(n, HTTP_CONNS_FOREIGN_MAX / 2);
    CHECK(has("HTTP/1.1 429 ") && has("connections of this key are in use"));
    CHECK_EQ(ask(KEY2, 0), 200);
    CHECK_EQ(ask("", 0), 200);
    /* One that rests between two requests gives way. */
    dprintf(fd[0], "         ");
    CHECK(answered(fd[0], 5000)); /* 400: it is no JSON; the connection goes on */
    CHECK(has("HTTP/1.1 400 ") && !has("Connection: close"));
    CHECK_EQ(ask(KEY1, 0), 200);
    CHECK(answered(fd[0], 5000) && !got[0]);
    for (int i = 0; i <= n; i++)
        close(fd[i]);
    down();
}

/* Strangers' silent connections never keep a holder of a key out: the oldest of them go. */
static void silent_strangers_give_way(void)
{
    enum { N = 3 * HTTP_CONNS_PEER_MAX };
    static int fd[N];
    if (getuid() != 0)
        t_skip("becoming another user needs root");
    up();
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int closed = 0;
        if (setgid(65534) != 0 || setuid(65534) != 0)
            _exit(99);
        for (int i = 0; i < N; i++) {
            fd[i] = http_connect(f.port);
            if (i % 2)
                dprintf(fd[i], "GET /health HTTP/1.1\r\nHost: loc");
        }
        if (ask(KEY1, 0) != 200)
            _exit(1);
        for (int i = 0; i < N; i++) {
            struct pollfd p = {fd[i], POLLIN, 0};
            closed += poll(&p, 1, 0) > 0;
        }
        /* His share, and the oldest went. */
        _exit(closed != N - HTTP_CONNS_PEER_MAX + 1 ? 2 : answered(fd[N - 1], 0) ? 3 : 0);
    }
    int st = -1;
    waitpid(pid, &st, 0);
    CHECK(WIFEXITED(st));
    CHECK_EQ(WEXITSTATUS(st), 0);
    down();
}

static struct sockaddr_storage at(const char *s)
{
    struct sockaddr_storage ss = {0};
    struct sockaddr_in *a4 = (void *)&ss;
    struct sockaddr_in6 *a6 = (void *)&ss;
    if (inet_pton(AF_INET, s, &a4->sin_addr) == 1)
        a4->sin_family = AF_INET;
    else if (inet_pton(AF_INET6, s, &a6->sin6_addr) == 1)
        a6->sin6_family = AF_INET6;
    return ss;
}

static void a_peer_is_a_key_or_a_user_or_an_address(void)
{
    static const char as1[] = "1", as2[] = "2";
    const uint32_t none = (uint32_t)PEER_UID_NONE;
    const struct {
        const char *as[2];
        uint32_t uid[2];
        const char *addr[2];
        bool same;
    } rows[] = {
        {{as1, as1}, {none, 7}, {"10.0.0.1", "10.0.0.2"}, true},
        {{as1, as2}, {none, none}, {"10.0.0.1", "10.0.0.1"}, false},
        {{as1, NULL}, {7, 7}, {"10.0.0.1", "10.0.0.1"}, false},
        {{NULL, NULL}, {7, 7}, {"127.0.0.1", "::1"}, true},
        {{NULL, NULL}, {7, 8}, {"127.0.0.1", "127.0.0.1"}, false},
        {{NULL, NULL}, {none, none}, {"10.0.0.1", "10.0.0.1"}, true},
        {{NULL, NULL}, {none, none}, {"10.0.0.1", "::ffff:10.0.0.1"}, true},
        {{NULL, NULL}, {none, none}, {"10.0.0.1", "10.0.0.2"}, false},
        {{NULL, NULL}, {none, none}, {"2001:db8::1", "2001:db8::ffff:0:2"}, true},
        {{NULL, NULL}, {none, none}, {"2001:db8::1", "2001:db8:0:1::1"}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct peers s = {0};
        struct sockaddr_storage a = at(rows[i].addr[0]), b = at(rows[i].addr[1]);
        struct peer *p = peer_take(&s, rows[i].as[0], rows[i].uid[0], &a);
        struct peer *q = peer_take(&s, rows[i].as[1], rows[i].uid[1], &b);
        if ((p == q) != rows[i].same)
            t_fail(__FILE__, __LINE__, "row %zu: one peer %d, want %d", i, p == q,
                   rows[i].same);
        CHECK_EQ(s.keyed, (rows[i].as[0] != NULL) + (rows[i].as[1] != NULL));
        peer_drop(&s, p);
        peer_drop(&s, q);
        CHECK(!s.first && !s.keyed);
    }
}

static void the_crowd_is_who_has_most_without_a_key(void)
{
    struct peers s = {0};
    struct sockaddr_storage a = at("10.0.0.1"), b = at("10.0.0.2");
    const uint32_t none = (uint32_t)PEER_UID_NONE;
    struct peer *p[10];
    int n = 0;
    for (int i = 0; i < 4; i++)
        p[n++] = peer_take(&s, "key", none, &a);
    for (int i = 0; i < 3; i++)
        p[n++] = peer_take(&s, NULL, 0, &a);
    CHECK(!peer_crowd(&s, 0));
    p[n++] = peer_take(&s, NULL, none, &a);
    CHECK(peer_crowd(&s, 0) == p[n - 1]);
    p[n++] = peer_take(&s, NULL, none, &b);
    p[n++] = peer_take(&s, NULL, none, &b);
    CHECK(peer_crowd(&s, 0) == p[n - 1]);
    while (n)
        peer_drop(&s, p[--n]);
}

T_MAIN({"bodies_of_one_leave_room_for_another", bodies_of_one_leave_room_for_another},
       {"a_body_longer_than_hearthd_takes_is_refused_by_its_header",
        a_body_longer_than_hearthd_takes_is_refused_by_its_header},
       {"requests_of_one_leave_room_for_another", requests_of_one_leave_room_for_another},
       {"requests_that_wait_of_one_leave_room_for_another",
        requests_that_wait_of_one_leave_room_for_another},
       {"connections_of_a_key_leave_room_for_another",
        connections_of_a_key_leave_room_for_another},
       {"silent_strangers_give_way", silent_strangers_give_way},
       {"a_peer_is_a_key_or_a_user_or_an_address", a_peer_is_a_key_or_a_user_or_an_address},
       {"the_crowd_is_who_has_most_without_a_key", the_crowd_is_who_has_most_without_a_key})
