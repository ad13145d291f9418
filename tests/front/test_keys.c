/* test_keys.c - the file of API keys, and who each request on a connection is for. */
#include "daemon/front/httplisten.h"
#include "daemon/front/keyfile.h"
#include "tests/front/frontproc.h"

#define KEY1 "a-key-of-16-bytes-and-more-1"
#define KEY2 "a-key-of-16-bytes-and-more-2" /* the same first 16 bytes, and more */

static char dir[64], path[100];
static struct frontproc f;

static void write_keys(const char *text, mode_t mode)
{
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(path, sizeof path, "%s/keys", dir);
    FILE *p = fopen(path, "we");
    fputs(text, p);
    fclose(p);
    CHECK_EQ(chmod(path, mode), 0);
}
static void drop_keys(void)
{
    unlink(path);
    rmdir(dir);
}

static void others_may_not_have_the_file(void)
{
    static const struct {
        mode_t mode;
        bool ok;
    } rows[] = {{0600, true},  {0400, true},  {0640, true},  {0440, true}, {0660, false},
                {0620, false}, {0604, false}, {0602, false}, {0644, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static struct keyfile k;
        struct errbuf eb = {""};
        k = (struct keyfile){.n = 0};
        write_keys(KEY1 "\n", rows[i].mode);
        int r = keyfile_read(&k, path, &eb);
        if ((r == 0) != rows[i].ok || (r < 0 && !strstr(eb.s, "chmod 600")))
            t_fail(__FILE__, __LINE__, "mode %03o: got %d, %s", (unsigned)rows[i].mode, r,
                   eb.s);
        drop_keys();
    }
}

static void a_key_has_16_bytes_at_least(void)
{
    static struct keyfile k;
    struct errbuf eb = {""};
    write_keys("123456789012345\n", 0600);
    CHECK_EQ(keyfile_read(&k, path, &eb), -EINVAL);
    CHECK(strstr(eb.s, "16 to 256 bytes"));
    drop_keys();
    k = (struct keyfile){.n = 0};
    write_keys("# a comment, which is none\n\n1234567890123456\n", 0600);
    CHECK_EQ(keyfile_read(&k, path, &eb), 0);
    CHECK_EQ(k.n, 1);
    CHECK(!keyfile_fits(&k, "Bearer # a comment, which is none"));
    drop_keys();
}

static void keys_are_told_apart_to_their_ends(void)
{
    static struct keyfile k;
    struct errbuf eb = {""};
    write_keys(KEY1 "\n" KEY2 "\n" KEY1 "-and-more\n", 0600);
    CHECK_EQ(keyfile_read(&k, path, &eb), 0);
    CHECK_EQ(k.n, 3);
    CHECK(strcmp(k.as[0], k.as[1]) != 0);
    CHECK(strcmp(k.as[0], k.as[2]) != 0);
    CHECK_STR(keyfile_fits(&k, "Bearer " KEY1), k.as[0]);
    CHECK_STR(keyfile_fits(&k, "Bearer " KEY2), k.as[1]);
    CHECK_STR(keyfile_fits(&k, "bearer " KEY1 "-and-more"), k.as[2]);
    static const char *const bad[] = {
        "Bearer " KEY2 "x", "Bearer a-key-of-16-byte", KEY1, "Bearer ", "Bearer  " KEY1,
        "Basic " KEY1,      "Bearer " KEY1 "-and-mor"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (keyfile_fits(&k, bad[i]))
            t_fail(__FILE__, __LINE__, "\"%s\" is taken", bad[i]);
    CHECK(!keyfile_fits(&k, NULL));
    drop_keys();
}

/* Refused, for it is a mistake: who was given the second would be who was given the first. */
static void a_key_that_stands_twice_is_refused_with_its_lines(void)
{
    static struct keyfile k;
    struct errbuf eb = {""};
    char text[2000] = "";
    write_keys("# ours\n" KEY1 "\n\n" KEY2 "\n" KEY1 "\r\n", 0600);
    k = (struct keyfile){.n = 0};
    CHECK_EQ(keyfile_read(&k, path, &eb), -EINVAL);
    CHECK(strstr(eb.s, "lines 2 and 5 ") && !strstr(eb.s, KEY1));
    drop_keys();
    for (int i = 0; i < KEYFILE_KEYS_MAX; i++) /* the last two of as many as there may be */
        sprintf(text + strlen(text), "a-key-of-a-set-%02d\n", i < 62 ? i : 62);
    write_keys(text, 0600);
    k = (struct keyfile){.n = 0};
    CHECK_EQ(keyfile_read(&k, path, &eb), -EINVAL);
    CHECK(strstr(eb.s, "lines 63 and 64 "));
    drop_keys();
}

/* However they came there: it is one of the equal ones, and never a third. */
static void equal_keys_are_the_first_of_them(void)
{
    static struct keyfile k;
    static const struct {
        uint32_t n, twin[2];
    } rows[] = {{3, {0, 1}}, {64, {62, 63}}, {64, {0, 63}}, {64, {21, 42}}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const uint32_t *twin = rows[i].twin;
        char shown[64];
        k = (struct keyfile){.n = rows[i].n};
        for (uint32_t j = 0; j < k.n; j++) {
            sprintf(k.key[j], "a-key-of-a-set-%02u", j == twin[1] ? twin[0] : j);
            sprintf(k.as[j], "%032u", j);
        }
        for (uint32_t j = 0; j < k.n; j++) {
            sprintf(shown, "Bearer %s", k.key[j]);
            CHECK_STR(keyfile_fits(&k, shown), k.as[j == twin[1] ? twin[0] : j]);
        }
        CHECK(!keyfile_fits(&k, "Bearer a-key-of-a-set-99"));
    }
}

/* One request on a connection that stays; its status. */
static int ask(int fd, const char *authorization)
{
    char got[4096] = "";
    size_t n = 0;
    const char *end, *len;
    dprintf(fd, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n%s\r\n", authorization);
    while (!(end = strstr(got, "\r\n\r\n")) || !(len = strstr(got, "Content-Length: ")) ||
           n < (size_t)(end + 4 - got) + (size_t)atoi(len + 16)) {
        ssize_t k = recv(fd, got + n, sizeof got - 1 - n, 0);
        if (k <= 0)
            return -1;
        n += (size_t)k;
        got[n] = 0;
    }
    return atoi(got + 9);
}
#define BEARER(key) "Authorization: Bearer " key "\r\n"

/* What hearthd was asked for this owner; NULL: the owner of the front. */
static int asked_for(const char *as)
{
    char line[100];
    snprintf(line, sizeof line, as ? "%u {\"as\":\"%s\"" : "%u {}", HRT_MODEL_LIST, as);
    return fakecore_count(f.core, line);
}

/* The answers that a user of this uid gets on two connections, as one number. */
static int answers_of(uid_t uid)
{
    int out[2], code[6] = {0};
    CHECK_EQ(pipe(out), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (uid && (setgid(uid) != 0 || setuid(uid) != 0))
            _exit(99);
        int fd = http_connect(f.port);
        code[0] = ask(fd, BEARER(KEY1));
        code[1] = ask(fd, BEARER(KEY2));
        code[2] = ask(fd, "");
        fd = http_connect(f.port);
        code[3] = ask(fd, BEARER(KEY2));
        code[4] = ask(fd, BEARER(KEY2 "x"));
        fd = http_connect(f.port);
        code[5] = ask(fd, BEARER(KEY1 "x"));
        _exit(write(out[1], code, sizeof code) == sizeof code ? 0 : 1);
    }
    CHECK_EQ(read(out[0], code, sizeof code), sizeof code);
    waitpid(pid, NULL, 0);
    close(out[0]);
    close(out[1]);
    int all = 0;
    for (int i = 0; i < 6; i++)
        all = all * 10 + (code[i] == 200 ? 2 : code[i] == 401 ? 4 : 9);
    return all;
}

static void each_request_is_for_the_key_it_shows(void)
{
    static struct keyfile k;
    write_keys(KEY1 "\n" KEY2 "\n", 0600);
    CHECK_EQ(keyfile_read(&k, path, NULL), 0);
    const char *more[] = {"--api-key-file", path, NULL};
    f = (struct frontproc){0};
    front_start(&f, false, true, more);
    /* Our own user needs no key; one that is none makes him nobody else. */
    CHECK_EQ(answers_of(0), 222222);
    CHECK_EQ(asked_for(k.as[0]), 1);
    CHECK_EQ(asked_for(k.as[1]), 2);
    CHECK_EQ(asked_for(NULL), 3);
    if (getuid() == 0) { /* becoming another user needs root */
        CHECK_EQ(answers_of(65534), 224244);
        CHECK_EQ(asked_for(k.as[0]), 2);
        CHECK_EQ(asked_for(k.as[1]), 4);
        CHECK_EQ(asked_for(NULL), 3);
    }
    front_stop(&f);
    drop_keys();
}

static void beyond_this_machine_it_serves_with_keys_alone(void)
{
    const struct http_opts o = {.addr = "0.0.0.0:0", .listen_fd = -1};
    struct errbuf eb = {""};
    char addr[64];
    uint16_t port;
    int fd[2] = {-1, -1};
    CHECK_EQ(http_listen(&o, false, addr, &port, fd, &eb), -EPERM);
    CHECK(strstr(eb.s, "--api-key-file"));
    CHECK_EQ(http_listen(&o, true, addr, &port, fd, &eb), 0);
    /* The same of a socket that systemd has bound. */
    struct http_opts passed = {.listen_fd = fd[0]};
    CHECK_EQ(http_listen(&passed, false, addr, &port, fd, &eb), -EPERM);
    CHECK_EQ(http_listen(&passed, true, addr, &port, fd, &eb), 0);
    close(passed.listen_fd);
    /* And of the program. */
    write_keys(KEY1 "\n", 0600);
    const char *argv[] = {built("hearth-front"), "--http", "0.0.0.0:0", "--core",
                          "/nowhere/core.sock",  NULL,     NULL,        NULL};
    for (int keyed = 0; keyed < 2; keyed++) {
        int st = 0;
        argv[5] = keyed ? "--api-key-file" : NULL;
        argv[6] = keyed ? path : NULL;
        pid_t pid = spawn(argv), ended = 0;
        for (int i = 0; i < (keyed ? 50 : 500) && !ended; i++) {
            poll(NULL, 0, 10);
            ended = waitpid(pid, &st, WNOHANG);
        }
        CHECK_EQ(ended == pid, !keyed);
        CHECK(keyed || (WIFEXITED(st) && WEXITSTATUS(st) == 1));
        if (!ended)
            fakecore_kill(pid);
    }
    drop_keys();
}

T_MAIN({"others_may_not_have_the_file", others_may_not_have_the_file},
       {"a_key_has_16_bytes_at_least", a_key_has_16_bytes_at_least},
       {"keys_are_told_apart_to_their_ends", keys_are_told_apart_to_their_ends},
       {"a_key_that_stands_twice_is_refused_with_its_lines",
        a_key_that_stands_twice_is_refused_with_its_lines},
       {"equal_keys_are_the_first_of_them", equal_keys_are_the_first_of_them},
       {"each_request_is_for_the_key_it_shows", each_request_is_for_the_key_it_shows},
       {"beyond_this_machine_it_serves_with_keys_alone",
        beyond_this_machine_it_serves_with_keys_alone})
