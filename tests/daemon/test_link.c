/* test_link.c - links over real sockets: good frames, bad frames, where they listen and who comes. */
#include "daemon/ident.h"
#include "tests/daemon/linkrig.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char *dir(void)
{
    static const char *p;

    return p ? p : (p = t_tmpdir());
}

static bool closed(int fd)
{
    char b;
    struct pollfd w = {.fd = fd, .events = POLLIN};

    while (poll(&w, 1, WIRE_WAIT_MS) == 1) {
        ssize_t n = recv(fd, &b, 1, 0);
        if (n <= 0)
            return true;
    }
    return false;
}

/* --- good frames ------------------------------------------------------------------------------ */
static void a_frame_is_answered_with_its_id_and_type(void)
{
    begin();
    int fd = peer();
    go();
    ping_ok(fd, 7);
    ping_ok(fd, 0xffffffffffffffffu);
    end();
    close(fd);
}
static void a_frame_without_json_is_an_empty_object(void)
{
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    CHECK(wire_send(fd, HRT_PING, 1, NULL, NULL, 0));
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    end();
    close(fd);
}
static void a_frame_that_comes_byte_by_byte_is_answered(void)
{
    size_t n;
    uint8_t *b = wire_frame(HRT_PING, 9, "{\"x\":1}", "abc", 3, &n);
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (size_t i = 0; i < n; i++) {
        CHECK(wire_write(fd, b + i, 1));
        if (i % 5 == 0)
            usleep(200);
    }
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.id, 9);
    wire_reply_fini(&r);
    free(b);
    end();
    close(fd);
}
static void many_frames_in_one_write_are_all_answered(void)
{
    enum { N = 500 };
    size_t n, at = 0;
    uint8_t *all = malloc(N * 64);
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (uint64_t i = 0; i < N; i++) {
        uint8_t *b = wire_frame(HRT_PING, i, "{}", NULL, 0, &n);
        memcpy(all + at, b, n);
        at += n;
        free(b);
    }
    CHECK(wire_write(fd, all, at));
    for (uint64_t i = 0; i < N; i++) {
        CHECK(wire_recv(fd, &r));
        CHECK_EQ(r.f.id, i);
        wire_reply_fini(&r);
    }
    free(all);
    end();
    close(fd);
}
static void the_largest_tail_goes_in_and_comes_back(void)
{
    uint8_t *t = malloc(TAIL_BYTES_MAX);
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (size_t i = 0; i < TAIL_BYTES_MAX; i++)
        t[i] = (uint8_t)(i * 7 + (i >> 9));
    CHECK(wire_send(fd, HRT_PING, 1, "{}", t, TAIL_BYTES_MAX));
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.tail_len, TAIL_BYTES_MAX);
    CHECK(memcmp(r.tail, t, TAIL_BYTES_MAX) == 0);
    wire_reply_fini(&r);
    ping_ok(fd, 2);
    free(t);
    end();
    close(fd);
}
static void replies_come_in_any_order(void)
{
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (uint64_t i = 1; i <= 3; i++)
        CHECK(wire_send(fd, HRT_NEXT, i, "{}", NULL, 0));
    ping_ok(fd, 50);
    CHECK(wire_send(fd, HRT_CANCEL, 60, "{}", NULL, 0));
    for (uint64_t want = 3; want >= 1; want--) {
        CHECK(wire_recv(fd, &r));
        CHECK_EQ(r.f.id, want);
        wire_reply_fini(&r);
    }
    end();
    close(fd);
}

/* --- bad frames ---------------------------------------------------------------------------------- */
struct bad_head {
    const char *what;
    int at;
    uint8_t value;
    bool fix_crc, goes_on;
    uint32_t status;
};
static void a_bad_header_is_refused_and_only_a_sound_one_keeps_the_link(void)
{
    static const struct bad_head bad[] = {
        {"magic", 0, 'X', true, false, HRT_INVALID_ARGUMENT},
        {"checksum", 29, 0x55, false, false, HRT_INVALID_ARGUMENT},
        {"major", 4, 9, true, false, HRT_UNIMPLEMENTED},
        {"flags", 6, 0x80, true, true, HRT_INVALID_ARGUMENT},
        {"a reply", 6, 1, true, true, HRT_INVALID_ARGUMENT},
        {"status", 24, 3, true, true, HRT_INVALID_ARGUMENT},
        {"json_len", 11, 0x7f, true, false, HRT_INVALID_ARGUMENT},
        {"tail_len", 15, 0x7f, true, false, HRT_INVALID_ARGUMENT},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct wire_reply r = {0};
        size_t n;
        uint8_t *b = wire_frame(HRT_PING, 77, "{\"a\":1}", "tail", 4, &n);

        begin();
        int fd = peer();
        go();
        b[bad[i].at] = bad[i].value == b[bad[i].at] ? (uint8_t)~bad[i].value : bad[i].value;
        if (bad[i].fix_crc)
            st32(b + 28, crc32c(0, b, 28));
        CHECK(wire_write(fd, b, n));
        if (!wire_recv(fd, &r))
            t_fail(__FILE__, __LINE__, "%s: no error reply", bad[i].what);
        if (r.f.status != bad[i].status || strcmp(wire_str(&r, "slug"), "bad_frame") != 0)
            t_fail(__FILE__, __LINE__, "%s: status %u slug %s", bad[i].what, r.f.status,
                   wire_str(&r, "slug"));
        if (bad[i].goes_on) {
            CHECK_EQ(r.f.id, 77);
            ping_ok(fd, 78);
        } else if (!closed(fd)) {
            t_fail(__FILE__, __LINE__, "%s: the link stays open", bad[i].what);
        }
        CHECK_EQ(atomic_load(&ran_count), bad[i].goes_on);
        wire_reply_fini(&r);
        free(b);
        end();
        close(fd);
    }
}
static void an_unknown_type_is_refused_and_the_link_goes_on(void)
{
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    CHECK(wire_send(fd, 200, 5, "{}", "xyz", 3));
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.status, HRT_UNIMPLEMENTED);
    CHECK_STR(wire_str(&r, "slug"), "unknown_type");
    CHECK_STR(wire_str(&r, "status"), "UNIMPLEMENTED");
    wire_reply_fini(&r);
    ping_ok(fd, 6);
    end();
    close(fd);
}
static void bad_json_is_refused_and_the_link_goes_on(void)
{
    static const char *const bad[] = {"[]", "{", "{\"a\":1,\"a\":1}", "{\"a\":\"\xff\"}",
                                      "{}}"};
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(wire_send(fd, HRT_PING, i, bad[i], "t", 1));
        CHECK(wire_recv(fd, &r));
        CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
        CHECK_STR(wire_str(&r, "slug"), "bad_json");
        wire_reply_fini(&r);
    }
    ping_ok(fd, 100);
    end();
    close(fd);
}
static void a_member_is_refused_by_name_with_what_was_wanted_and_got(void)
{
    static const struct {
        const char *json, *want;
    } t[] = {
        {"{\"id\":\"00\"}", "id: want 32 lower-case hexadecimal digits, got \"00\""},
        {"{\"id\":\"00112233445566778899AABBCCDDEEFF\"}", "id: want 32 lower-case"},
        {"{\"id\":12}", "id: want 32 lower-case hexadecimal digits, got 12"},
        {"{\"name\":7}", "name: want a string, got 7"},
        {"{\"name\":\"123456789\"}", "name: want a string of at most 8 bytes (this has 9)"},
        {"{\"flag\":\"yes\"}", "flag: want true or false, got \"yes\""},
        {"{\"params\":[]}", "params: want an object, got []"},
        {"{\"params\":{\"top_p\":\"x\"}}", "params.top_p: want a number in (0,1], got \"x\""},
        {"{\"params\":{\"top_p\":0}}", "params.top_p: want a number in (0,1], got 0"},
        {"{\"params\":{\"top_p\":1e999}}", "params.top_p: want a number in (0,1]"},
        {"{\"params\":{\"top_k\":1.5}}",
         "params.top_k: want a whole number in [0,100], got 1.5"},
        {"{\"params\":{\"top_k\":101}}",
         "params.top_k: want a whole number in [0,100], got 101"},
        {"{\"params\":{\"top_k\":-1}}", "params.top_k: want a whole number"},
        {"{\"params\":{\"stop\":{}}}", "params.stop: want an array, got {}"},
    };
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        CHECK(wire_send(fd, HRT_START, i, t[i].json, NULL, 0));
        CHECK(wire_recv(fd, &r));
        CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
        CHECK_STR(wire_str(&r, "slug"), "bad_field");
        if (!strstr(wire_str(&r, "message"), t[i].want))
            t_fail(__FILE__, __LINE__, "%s: \"%s\"", t[i].json, wire_str(&r, "message"));
        wire_reply_fini(&r);
    }
    CHECK(wire_send(fd, HRT_START, 99,
                    "{\"id\":\"00112233445566778899aabbccddeeff\",\"name\":null,\"flag\":true,"
                    "\"unknown\":[1],\"params\":{\"top_p\":1,\"top_k\":100,\"stop\":[]}}",
                    NULL, 0));
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    end();
    close(fd);
}

/* --- the crowd of malformed frames ------------------------------------------------------------------- */
static void half_a_frame_and_a_close_harm_nobody(void)
{
    size_t n;
    uint8_t *f = wire_frame(HRT_PING, 1, "{\"abc\":1}", "0123456789", 10, &n);

    for (size_t cut = 0; cut < n; cut += 3) {
        begin();
        int a = peer(), b = peer();
        go();
        CHECK(wire_write(a, f, cut));
        close(a);
        ping_ok(b, 2);
        CHECK_EQ(atomic_load(&ran_count), 1);
        end();
        close(b);
    }
    free(f);
}
static size_t malformed(uint8_t *b)
{
    size_t n;
    uint8_t *f =
        wire_frame((uint8_t)(rand() % 80), (uint64_t)rand(),
                   "{\"id\":\"00112233445566778899aabbccddeeff\",\"params\":{\"top_p\":1}}",
                   "tail", 4, &n);

    memcpy(b, f, n);
    free(f);
    switch (rand() % 5) {
    case 0: /* noise from the start */
        for (size_t i = 0; i < n; i++)
            b[i] = (uint8_t)rand();
        break;
    case 1: /* a damaged header */
        b[rand() % HRT_HEAD_BYTES] ^= (uint8_t)(1 + rand() % 255);
        break;
    case 2: /* wrong lengths under a right checksum */
        st32(b + 8 + 4 * (rand() % 2), (uint32_t)rand() << (rand() % 2 ? 0 : 12));
        st32(b + 28, crc32c(0, b, 28));
        break;
    case 3: /* a damaged body */
        b[HRT_HEAD_BYTES + (size_t)rand() % (n - HRT_HEAD_BYTES)] = (uint8_t)rand();
        break;
    default: /* cut short */ n = (size_t)rand() % n;
    }
    return n;
}
static void ten_thousand_malformed_frames_do_not_disturb_a_good_peer(void)
{
    char path[128];
    uint8_t b[512];
    int good;

    srand((unsigned)t_seed());
    begin();
    links_close(&d);
    snprintf(path, sizeof path, "%s/core.sock", dir());
    conf.core_path = path;
    conf.socket_mode = 0600;
    CHECK_EQ(links_open(&d, NULL), 0);
    go();
    good = wire_connect(path);
    CHECK(good >= 0);
    for (int i = 0; i < 10000; i++) {
        int bad = wire_connect(path);

        if (bad < 0) {
            t_fail(__FILE__, __LINE__, "connection %d refused", i);
            break;
        }
        for (int k = rand() % 3; k >= 0; k--)
            if (send(bad, b, malformed(b), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                break;
        close(bad);
        if (i % 100 == 0) {
            struct wire_reply r;

            CHECK(wire_send(good, HRT_PING, (uint64_t)i, "{}", NULL, 0));
            CHECK(wire_recv(good, &r));
            CHECK_EQ(r.f.id, i);
            CHECK_EQ((long long)wire_num(&r, "uid"), getuid());
            wire_reply_fini(&r);
        }
    }
    end();
    close(good);
}

/* --- listening ------------------------------------------------------------------------------------------ */
/* A descriptor that a process of that uid has connected; -1: it could not. */
static int connected_by(uint32_t uid, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), st = -1;
    pid_t pid;

    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        _exit(setresuid(uid, uid, uid) < 0 ? 2
                                           : connect(fd, (struct sockaddr *)&a, sizeof a) < 0);
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    if (st == 0)
        return fd;
    close(fd);
    return -1;
}
static void a_uid_that_would_be_a_keys_owner_is_not_let_in(void)
{
    char path[128];
    int low, high;

    if (geteuid() != 0)
        t_skip("only root can connect as another user");
    begin();
    links_close(&d);
    snprintf(path, sizeof path, "%s/owners.sock", dir());
    conf.core_path = path;
    conf.socket_mode = 0666;
    CHECK_EQ(chmod(dir(), 0711), 0);
    CHECK_EQ(links_open(&d, NULL), 0);
    low = connected_by(IDENT_FIRST - 1, path);
    high = connected_by(IDENT_FIRST + 1, path);
    if (low < 0 || high < 0) {
        links_close(&d);
        loop_close(d.loop);
        t_skip("this machine has no such uids, or they cannot get to its directory");
    }
    go();
    ping_of(low, 1, IDENT_FIRST - 1);
    CHECK(closed(high));
    ping_of(low, 2, IDENT_FIRST - 1);
    end();
    close(low);
    close(high);
}
static void the_socket_has_the_mode_asked_for_and_goes_at_close(void)
{
    char path[128];
    struct stat st;

    begin();
    links_close(&d);
    snprintf(path, sizeof path, "%s/mode.sock", dir());
    conf.core_path = path;
    conf.socket_mode = 0660;
    CHECK_EQ(links_open(&d, NULL), 0);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0660);
    links_close(&d);
    CHECK(stat(path, &st) < 0 && errno == ENOENT);
    loop_close(d.loop);
}
static void a_dead_socket_is_replaced(void)
{
    char path[100];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    begin();
    links_close(&d);
    snprintf(path, sizeof path, "%s/dead.sock", dir());
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    CHECK_EQ(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    conf.core_path = path;
    conf.socket_mode = 0600;
    CHECK_EQ(links_open(&d, NULL), 0);
    links_close(&d);
    loop_close(d.loop);
}
static void a_living_socket_is_left_alone_and_its_pid_named(void)
{
    char path[128], pid[32];
    struct daemon other = {.conf = &conf};
    struct errbuf eb = {""};

    begin();
    links_close(&d);
    snprintf(path, sizeof path, "%s/live.sock", dir());
    conf.core_path = path;
    conf.socket_mode = 0600;
    CHECK_EQ(links_open(&d, NULL), 0);
    CHECK_EQ(loop_open(&other.loop), 0);
    CHECK_EQ(links_open(&other, &eb), -EADDRINUSE);
    snprintf(pid, sizeof pid, "(pid %d)", (int)getpid());
    CHECK(strstr(eb.s, pid) != NULL);
    CHECK_EQ(access(path, F_OK), 0);
    loop_close(other.loop);
    links_close(&d);
    loop_close(d.loop);
}
static void a_file_at_the_path_is_never_deleted(void)
{
    char path[128];
    struct errbuf eb = {""};
    int fd;

    begin();
    links_close(&d);
    snprintf(path, sizeof path, "%s/file.sock", dir());
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    conf.core_path = path;
    CHECK_EQ(links_open(&d, &eb), -EEXIST);
    CHECK(strstr(eb.s, "not a socket") != NULL);
    CHECK_EQ(access(path, F_OK), 0);
    loop_close(d.loop);
}
static void a_path_too_long_for_a_socket_is_refused_with_both_numbers(void)
{
    char path[200];
    struct errbuf eb = {""};

    begin();
    links_close(&d);
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[150] = 0;
    conf.core_path = path;
    CHECK_EQ(links_open(&d, &eb), -ENAMETOOLONG);
    CHECK(strstr(eb.s, "150") && strstr(eb.s, "107"));
    loop_close(d.loop);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(a_frame_is_answered_with_its_id_and_type),
       CASE(a_frame_without_json_is_an_empty_object),
       CASE(a_frame_that_comes_byte_by_byte_is_answered),
       CASE(many_frames_in_one_write_are_all_answered),
       CASE(the_largest_tail_goes_in_and_comes_back), CASE(replies_come_in_any_order),
       CASE(a_bad_header_is_refused_and_only_a_sound_one_keeps_the_link),
       CASE(an_unknown_type_is_refused_and_the_link_goes_on),
       CASE(bad_json_is_refused_and_the_link_goes_on),
       CASE(a_member_is_refused_by_name_with_what_was_wanted_and_got),
       CASE(half_a_frame_and_a_close_harm_nobody),
       CASE(ten_thousand_malformed_frames_do_not_disturb_a_good_peer),
       CASE(a_uid_that_would_be_a_keys_owner_is_not_let_in),
       CASE(the_socket_has_the_mode_asked_for_and_goes_at_close),
       CASE(a_dead_socket_is_replaced), CASE(a_living_socket_is_left_alone_and_its_pid_named),
       CASE(a_file_at_the_path_is_never_deleted),
       CASE(a_path_too_long_for_a_socket_is_refused_with_both_numbers))
