/* test_origin.c - which web pages may ask and read the answer; over a real front. */
#include "daemon/front/netcheck.h"
#include "daemon/front/origin.h"
#include "tests/front/frontproc.h"

static char got[1 << 16];
static struct frontproc f;

static void origins_are_parsed_or_refused_with_words(void)
{
    static const char *const bad[] = {
        "*",      "https://*", "obsidian.md",   "app://",      "://x",
        "1a://x", "app://a/b", "http://a b://", "app://x\x01", "javascript:x"};
    static struct origins o;
    struct errbuf eb;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        eb.s[0] = 0;
        if (origins_parse(&o, bad[i], &eb) == 0 || !strstr(eb.s, "--http-origin"))
            t_fail(__FILE__, __LINE__, "\"%s\": taken, or without words", bad[i]);
    }
    CHECK_EQ(
        origins_parse(&o, " app://obsidian.md,https://a.example:8443 moz-extension://*, ", &eb),
        0);
    CHECK_EQ(o.n, 3);
    char many[1000] = "";
    for (int i = 0; i < 33; i++)
        sprintf(many + strlen(many), "app://a%d,", i);
    CHECK(origins_parse(&o, many, &eb) == E_LIMIT);
}

/* Listens as uid, until fd closes; the port. */
static int page_of(uint32_t uid, pid_t *ret_pid)
{
    int out[2], port = 0;
    CHECK_EQ(pipe(out), 0);
    fflush(NULL);
    *ret_pid = fork();
    if (*ret_pid == 0) {
        struct net_addr a;
        uint16_t p = 0;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (uid && (setgid(uid) != 0 || setuid(uid) != 0))
            _exit(1);
        CHECK_EQ(net_addr_parse("127.0.0.1:0", &a, NULL), 0);
        int fd = net_listen(&a, false, &p, NULL);
        port = p;
        if (fd < 0 || write(out[1], &port, sizeof port) != sizeof port)
            _exit(1);
        pause();
    }
    CHECK_EQ(read(out[0], &port, sizeof port), sizeof port);
    close(out[0]);
    close(out[1]);
    return port;
}

/* The status of a GET with these headers; whether the page may read it. */
static int ask(const char *origin, int port, const char *more, bool *ret_readable)
{
    char headers[400];
    int n = snprintf(headers, sizeof headers, "Host: localhost\r\n%s", more);
    if (origin)
        n += snprintf(headers + n, sizeof headers - (size_t)n,
                      port ? "Origin: %s:%d\r\n" : "Origin: %s\r\n", origin, port);
    int code = http(f.port, "GET", "/v1/models", headers, NULL, got, sizeof got);
    char want[300];
    snprintf(want, sizeof want,
             port ? "Access-Control-Allow-Origin: %s:%d\r\n"
                  : "Access-Control-Allow-Origin: %s\r\n",
             origin ? origin : "", port);
    *ret_readable = origin && strstr(got, want) != NULL;
    return code;
}

#define NEAR "Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n"
#define FAR  "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"
#define OWN  "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n"
#define NONE "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n"
#define LINK "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"

static void only_configured_pages_and_our_own_machines_get_in(void)
{
    const char *more[] = {"--http-origin",
                          "app://obsidian.md, https://chat.example, moz-extension://*", NULL};
    pid_t ours, theirs = 0;
    f = (struct frontproc){0};
    front_start(&f, false, true, more);
    int mine = page_of(0, &ours), other = getuid() == 0 ? page_of(65534, &theirs) : 0;
    const struct {
        const char *origin;
        int port;
        const char *more;
        int code;
        bool readable;
    } rows[] = {
        {NULL, 0, "", 200, false},
        {NULL, 0, NONE, 200, false},
        {NULL, 0, LINK, 200, false},
        {NULL, 0, FAR, 403, false},
        {NULL, 0, NEAR, 403, false},
        {NULL, 0, OWN, 200, false},
        {"app://obsidian.md", 0, FAR, 200, true},
        {"https://chat.example", 0, FAR, 200, true},
        {"https://chat.example", 8443, FAR, 403, false},
        {"https://chat.example.evil.example", 0, FAR, 403, false},
        {"moz-extension://0a1b-2c", 0, FAR, 200, true},
        {"chrome-extension://0a1b", 0, FAR, 403, false},
        {"null", 0, FAR, 403, false},
        {"http://evil.example", 0, "", 403, false},
        {"http://localhost", mine, NEAR, 200, true},
        {"http://127.0.0.1", mine, FAR, 200, true},
        {"http://localhost", mine, "", 200, true},
        {"http://localhost", 1, "", 200, true}, /* no browser, and nobody's page */
        {"http://localhost", 1, NEAR, 403, false},
        {"http://localhost", other, NEAR, 403, false},
        {"http://127.0.0.1", other, FAR, 403, false},
        {"http://localhost", other, "", 403, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bool readable;
        if (rows[i].port == 0 && rows[i].origin && strstr(rows[i].origin, "//localhost"))
            continue; /* making another user's page needs root */
        if (rows[i].port == 0 && rows[i].origin && strstr(rows[i].origin, "//127."))
            continue;
        int code = ask(rows[i].origin, rows[i].port, rows[i].more, &readable);
        if (code != rows[i].code || readable != rows[i].readable)
            t_fail(__FILE__, __LINE__, "row %zu, %s:%d %s: got %d, %s", i,
                   rows[i].origin ? rows[i].origin : "no origin", rows[i].port, rows[i].more,
                   code, readable ? "readable" : "not readable");
    }
    fakecore_kill(ours);
    if (theirs)
        fakecore_kill(theirs);
    front_stop(&f);
}

static void a_preflight_is_answered_for_pages_that_may(void)
{
#define PRE                                                                                    \
    "Host: localhost\r\nAccess-Control-Request-Method: "                                       \
    "POST\r\nAccess-Control-Request-Headers: "                                                 \
    "authorization,content-type,x-stainless-os\r\n"
    const char *more[] = {"--http-origin", "app://obsidian.md", NULL};
    f = (struct frontproc){0};
    front_start(&f, false, true, more);
    CHECK_EQ(
        http(f.port, "OPTIONS", "/v1/chat/completions",
             PRE
             "Access-Control-Request-Headers: x-second-line\r\n"
             "Origin: app://obsidian.md\r\nAccess-Control-Request-Private-Network: true\r\n",
             NULL, got, sizeof got),
        204);
    CHECK(strstr(got, "Access-Control-Allow-Origin: app://obsidian.md\r\n"));
    CHECK(strstr(
        got, "Access-Control-Allow-Headers: authorization,content-type,x-stainless-os\r\n"));
    CHECK(strstr(got, "Access-Control-Allow-Headers: x-second-line\r\n"));
    CHECK(strstr(got, "Access-Control-Allow-Methods: GET, POST\r\n"));
    CHECK(strstr(got, "Access-Control-Allow-Private-Network: true\r\n"));
    CHECK(strstr(got, "Vary: Origin\r\n") && !strstr(got, "Content-Length"));
    CHECK_EQ(http(f.port, "OPTIONS", "/v1/chat/completions",
                  PRE "Origin: http://evil.example\r\n", NULL, got, sizeof got),
             403);
    CHECK(!strstr(got, "Access-Control"));
    /* A page sends JSON as JSON, or it asked nobody whether it may. */
    const char *body = "{\"messages\":[{\"role\":\"user\",\"content\":\"words=2\"}]}";
    static const struct {
        const char *type;
        int code;
    } rows[] = {{"Content-Type: application/json\r\n", 200},
                {"Content-Type: application/json; charset=utf-8\r\n", 200},
                {"Content-Type: application/jsonx\r\n", 415},
                {"Content-Type: text/plain\r\n", 415},
                {"", 415}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fd = http_connect(f.port);
        dprintf(fd,
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                "Origin: app://obsidian.md\r\n%sContent-Length: %zu\r\n\r\n%s",
                rows[i].type, strlen(body), body);
        read_all(fd, got, sizeof got);
        close(fd);
        if (atoi(got + 9) != rows[i].code ||
            !strstr(got, "Access-Control-Allow-Origin: app://obsidian.md"))
            t_fail(__FILE__, __LINE__, "%s: got %.200s", rows[i].type, got);
    }
    front_stop(&f);
}

/* The status a stranger without a key gets for a preflight with this origin, or for what has its
 * headers alone. */
static int stranger_asks(const char *method, const char *origin, const char *more)
{
    int out[2], code = 0;
    CHECK_EQ(pipe(out), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        char headers[400];
        if (setgid(65534) != 0 || setuid(65534) != 0)
            _exit(99);
        snprintf(headers, sizeof headers, PRE "Origin: %s\r\n%s", origin, more);
        code = http(f.port, method, "/v1/models", headers, NULL, got, sizeof got);
        _exit(write(out[1], &code, sizeof code) == sizeof code ? 0 : 1);
    }
    CHECK_EQ(read(out[0], &code, sizeof code), sizeof code);
    waitpid(pid, NULL, 0);
    close(out[0]);
    close(out[1]);
    return code;
}

/* For him nobody looks up who serves a page: what was configured is all that counts. */
static void a_strangers_preflight_gets_in_by_the_list_alone(void)
{
    if (getuid() != 0)
        t_skip("becoming another user needs root");
    char dir[64], keys[100], own[80];
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(keys, sizeof keys, "%s/keys", dir);
    FILE *p = fopen(keys, "we");
    fprintf(p, "0123456789abcdefKEY\n");
    fclose(p);
    chmod(keys, 0600);
    for (int keyed = 1; keyed >= 0; keyed--) {
        const char *more[] = {"--http-origin", "app://obsidian.md",
                              keyed ? "--api-key-file" : NULL, keys, NULL};
        pid_t ours;
        bool readable;
        f = (struct frontproc){0};
        front_start(&f, false, true, more);
        int mine = page_of(0, &ours);
        snprintf(own, sizeof own, "http://localhost:%d", mine);
        CHECK_EQ(stranger_asks("OPTIONS", "app://obsidian.md", ""), keyed ? 204 : 401);
        CHECK_EQ(stranger_asks("OPTIONS", "app://obsidian.md", "Content-Length: 1000\r\n"),
                 401);
        CHECK_EQ(stranger_asks("GET", "app://obsidian.md", ""), 401);
        CHECK_EQ(stranger_asks("POST", "app://obsidian.md", ""), 401);
        CHECK_EQ(stranger_asks("OPTIONS", own, ""), 401);
        CHECK_EQ(stranger_asks("OPTIONS", "http://evil.example", ""), 401);
        CHECK_EQ(ask("http://localhost", mine, NEAR, &readable), 200); /* our own may */
        CHECK(readable);
        fakecore_kill(ours);
        front_stop(&f);
    }
    unlink(keys);
    rmdir(dir);
}

T_MAIN({"origins_are_parsed_or_refused_with_words", origins_are_parsed_or_refused_with_words},
       {"only_configured_pages_and_our_own_machines_get_in",
        only_configured_pages_and_our_own_machines_get_in},
       {"a_preflight_is_answered_for_pages_that_may",
        a_preflight_is_answered_for_pages_that_may},
       {"a_strangers_preflight_gets_in_by_the_list_alone",
        a_strangers_preflight_gets_in_by_the_list_alone})
