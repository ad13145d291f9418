/* test_link.c - links over real sockets: good frames, bad frames, slow and dead peers.
 *
 * The loop runs on a thread of its own, as in the daemon; the case is the peer.  The table of
 * operations is the test's: what a link does with a call does not depend on which it is. */
#include "base/clock.h"
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/held.h"
#include "daemon/link.h"
#include "daemon/loop.h"
#include "daemon/pace.h"
#include "tests/daemon/wire.h"
#include "tests/t.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* --- operations of this test ------------------------------------------------------------- */
enum { BIG_BYTES = 1 << 20 };
static struct call *held[2000];
static int n_held;
static atomic_int gone_count, held_count, ran_count, spun_count, spun_before;

static void echo(struct call *c) /* PING */
{
    cJSON *o = cJSON_CreateObject();
    struct links_stats st;

    ran_count++;
    spun_before = spun_count;
    links_stats(c->d, &st);
    cJSON_AddNumberToObject(o, "uid", c->uid);
    cJSON_AddNumberToObject(o, "held", (double)st.held_bytes);
    call_ok(c, o, c->tail, c->tail_bytes);
}
static void forget(struct call *c)
{
    for (int i = 0; i < n_held; i++)
        if (held[i] == c)
            held[i] = held[--n_held];
    gone_count++;
    call_fail(c, HRT_CANCELLED, "cancelled", NULL, "gone");
}
static void hold(struct call *c) /* NEXT */
{
    c->on_gone = forget;
    held[n_held++] = c;
    held_count++;
}
static void release(struct call *c) /* CANCEL: the youngest first */
{
    while (n_held)
        call_ok(held[--n_held], NULL, NULL, 0);
    call_ok(c, NULL, NULL, 0);
}
static void big_reply(struct call *c) /* METRICS */
{
    static uint8_t buf[BIG_BYTES];

    memset(buf, 'x', sizeof buf);
    ran_count++;
    call_ok(c, NULL, buf, sizeof buf);
}
static void spin(struct call *c) /* STATUS: a fifth of what a user has of a round */
{
    uint64_t until = now_ns() + PACE_NS / 5;

    while (now_ns() < until)
        ;
    spun_count++;
    call_ok(c, NULL, NULL, 0);
}
static void wants(struct call *c) /* START: every kind of member */
{
    const char *s = NULL;
    uint64_t u = 0;
    double x = 0;
    bool b = false;
    uint8_t id[16];
    const cJSON *params = NULL, *stop = NULL;

    if (want_hex(c, c->json, "id", id, sizeof id) < 0 ||
        want_str(c, c->json, "name", 8, &s) < 0 || want_bool(c, c->json, "flag", &b) < 0 ||
        want_obj(c, c->json, "params", &params) < 0)
        return;
    if (params && (want_num(c, params, "params.top_p", 0, 1, true, &x) < 0 ||
                   want_u64(c, params, "params.top_k", 0, 100, &u) < 0 ||
                   want_arr(c, params, "params.stop", &stop) < 0))
        return;
    call_ok(c, NULL, NULL, 0);
}
static const struct op test_ops[] = {{HRT_PING, "PING", echo},
                                     {HRT_NEXT, "NEXT", hold},
                                     {HRT_CANCEL, "CANCEL", release},
                                     {HRT_STATUS, "STATUS", spin},
                                     {HRT_METRICS, "METRICS", big_reply},
                                     {HRT_START, "START", wants}};
const struct op *ops_find(uint8_t type)
{
    for (size_t i = 0; i < sizeof test_ops / sizeof *test_ops; i++)
        if (test_ops[i].type == type)
            return &test_ops[i];
    return NULL;
}

static const char *dir(void)
{
    static const char *p;

    return p ? p : (p = t_tmpdir());
}

/* --- a daemon that is nothing but links ---------------------------------------------------- */
static struct daemon d;
static struct conf conf;
static pthread_t thread;

static void *run(void *arg)
{
    (void)arg;
    loop_run(d.loop);
    return NULL;
}
static void begin(void)
{
    memset(&d, 0, sizeof d);
    memset(&conf, 0, sizeof conf);
    d.conf = &conf;
    n_held = 0;
    gone_count = held_count = ran_count = 0;
    if (loop_open(&d.loop) < 0 || links_open_bare(&d) < 0)
        t_fail(__FILE__, __LINE__, "cannot open");
}
static int peer_of(uint32_t uid) /* before go() */
{
    int s[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    CHECK_EQ(links_add(&d, s[0], uid), 0);
    return s[1];
}
static int peer(void)
{
    return peer_of(4242);
}
static void go(void)
{
    pthread_create(&thread, NULL, run, NULL);
}
static void end_loop(void) /* go() goes on */
{
    loop_stop(d.loop);
    pthread_join(thread, NULL);
}
static void end(void)
{
    end_loop();
    links_close(&d);
    loop_close(d.loop);
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
static void wait_count(atomic_int *v, int want)
{
    uint64_t until = now_ns() + 10000000000u * T_SLOWER;

    while (atomic_load(v) < want && now_ns() < until)
        usleep(500);
    CHECK_EQ(atomic_load(v), want);
}
static void ping_of(int fd, uint64_t id, uint32_t uid)
{
    struct wire_reply r;

    CHECK(wire_send(fd, HRT_PING, id, "{}", "tail", 4));
    if (!wire_recv(fd, &r)) {
        t_fail(__FILE__, __LINE__, "no reply to a good frame");
        return;
    }
    CHECK_EQ(r.f.status, 0);
    CHECK_EQ(r.f.id, id);
    CHECK_EQ(r.f.type, HRT_PING);
    CHECK_EQ(r.f.tail_len, 4);
    CHECK(memcmp(r.tail, "tail", 4) == 0);
    CHECK_EQ((long long)wire_num(&r, "uid"), uid);
    wire_reply_fini(&r);
}
static void ping_ok(int fd, uint64_t id)
{
    ping_of(fd, id, 4242);
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

/* --- bounds ---------------------------------------------------------------------------------------- */
static void calls_beyond_the_bound_are_refused_with_queue_full(void)
{
    struct wire_reply r;

    begin();
    int fd = peer();
    go();
    for (uint64_t i = 0; i < LINK_CALLS_MAX; i++)
        CHECK(wire_send(fd, HRT_NEXT, i, "{}", NULL, 0));
    wait_count(&held_count, LINK_CALLS_MAX);
    CHECK(wire_send(fd, HRT_NEXT, 5000, "{}", NULL, 0));
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.id, 5000);
    CHECK_EQ(r.f.status, HRT_RESOURCE_EXHAUSTED);
    CHECK_STR(wire_str(&r, "slug"), "queue_full");
    CHECK(wire_num(&r, "retry_after_ms") > 0);
    wire_reply_fini(&r);
    close(fd);
    wait_count(&gone_count, LINK_CALLS_MAX);
    end();
}
static void a_reader_that_does_not_read_stops_its_own_input_only(void)
{
    enum { N = 40 }; /* few enough to lie in the socket when nobody reads them */
    struct wire_reply r;

    begin();
    int slow = peer(), other = peer();
    go();
    for (uint64_t i = 0; i < N; i++)
        CHECK(wire_send(slow, HRT_METRICS, i, "{}", NULL, 0));
    /* Some are answered into the buffer, the rest must not even be read. */
    uint64_t until = now_ns() + 300000000u;
    int pings = 0;
    for (; now_ns() < until; pings++)
        ping_ok(other, 1);
    int big = ran_count - pings;
    CHECK(big > 0 && big <= LINK_OUT_MAX / BIG_BYTES + 4);
    for (uint64_t i = 0; i < N; i++) {
        if (!wire_recv(slow, &r)) {
            t_fail(__FILE__, __LINE__, "no reply %d", (int)i);
            break;
        }
        CHECK_EQ(r.f.id, i);
        CHECK_EQ(r.f.tail_len, BIG_BYTES);
        wire_reply_fini(&r);
        ping_ok(other, 2);
    }
    end();
    close(slow);
    close(other);
}
struct flood {
    int fd;
    uint64_t n;
    uint8_t *tail;
    pthread_t thread;
};
static void *flood_run(void *arg)
{
    struct flood *f = arg;

    for (uint64_t i = 0; i < f->n; i++)
        CHECK(wire_send(f->fd, HRT_NEXT, i, "{}", f->tail, BIG_BYTES));
    return NULL;
}
static double held_by_others(int fd) /* but for the call that asks */
{
    struct wire_reply r = {0};
    double n;

    CHECK(wire_send(fd, HRT_PING, 1, "{}", NULL, 0));
    CHECK(wire_recv(fd, &r));
    n = wire_num(&r, "held");
    wire_reply_fini(&r);
    return n < 1024 ? 0 : n;
}
static long rss_mib(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long all = 0, rss = 0;

    CHECK(f && fscanf(f, "%ld %ld", &all, &rss) == 2);
    fclose(f);
    return rss * (sysconf(_SC_PAGESIZE) >> 10) >> 10;
}
static void a_user_holds_his_share_and_the_others_are_served(void)
{
    enum { N = 200, SHARE = HELD_USER_MAX / BIG_BYTES };
    struct flood f = {.n = N, .tail = calloc(1, BIG_BYTES)};
    uint8_t *large = calloc(1, TAIL_BYTES_MAX);
    struct wire_reply r;
    uint64_t got = 0, ok = 0;

    begin();
    f.fd = peer();
    int same = peer(), other = peer_of(7);
    go();
    long before = rss_mib();
    pthread_create(&f.thread, NULL, flood_run, &f);
    wait_count(&held_count, SHARE - 1);
    uint64_t until = now_ns() + 500000000u;
    while (now_ns() < until)
        ping_ok(same, 1); /* small ones of the same user get by */
    CHECK_EQ(atomic_load(&held_count), SHARE - 1);
    double n = held_by_others(same);
    CHECK(n < HELD_USER_MAX + HELD_SMALL_BYTES);
    printf("    %.0f MiB held, %ld MiB more resident\n", n / (1 << 20), rss_mib() - before);
    CHECK(T_SLOWER > 1 || rss_mib() - before < (HELD_USER_MAX >> 20) + 16);
    CHECK(
        wire_send(other, HRT_PING, 9, "{}", large, TAIL_BYTES_MAX)); /* large ones of another */
    CHECK(wire_recv(other, &r));
    CHECK_EQ(r.f.tail_len, TAIL_BYTES_MAX);
    wire_reply_fini(&r);
    /* When there is room again the rest goes on by itself. */
    for (uint64_t round = 0; got < N; round++) {
        CHECK(wire_send(same, HRT_CANCEL, round, "{}", NULL, 0));
        if (!wire_recv(same, &r)) {
            t_fail(__FILE__, __LINE__, "no reply to round %d", (int)round);
            break;
        }
        wire_reply_fini(&r);
        struct pollfd w = {.fd = f.fd, .events = POLLIN};
        while (got < N && poll(&w, 1, 50) == 1 && wire_recv(f.fd, &r)) {
            got++;
            ok += r.f.status == 0;
            wire_reply_fini(&r);
        }
    }
    CHECK_EQ(ok, N);
    pthread_join(f.thread, NULL);
    CHECK_EQ(held_by_others(same), 0);
    end();
    close(f.fd);
    close(same);
    close(other);
    free(f.tail);
    free(large);
}
static void a_frame_that_finds_no_room_is_refused_and_what_follows_is_served(void)
{
    enum { SHARE = HELD_USER_MAX / BIG_BYTES };
    uint8_t *tail = calloc(1, BIG_BYTES);
    struct wire_reply r;

    begin();
    int full = peer(), late = peer();
    go();
    for (uint64_t i = 0; i < SHARE - 1; i++)
        CHECK(wire_send(full, HRT_NEXT, i, "{}", tail, BIG_BYTES));
    wait_count(&held_count, SHARE - 1);
    uint64_t t0 = now_ns();
    CHECK(wire_send(late, HRT_NEXT, 7, "{}", tail, BIG_BYTES));
    CHECK(wire_send(late, HRT_PING, 8, "{}", "tail", 4));
    CHECK(wire_recv(late, &r));
    CHECK_EQ(r.f.id, 7);
    CHECK_EQ(r.f.status, HRT_RESOURCE_EXHAUSTED);
    CHECK_STR(wire_str(&r, "slug"), "queue_full");
    CHECK(wire_num(&r, "retry_after_ms") > 0);
    CHECK((now_ns() - t0) / 1000000000u + 1 >= LINK_ROOM_S);
    wire_reply_fini(&r);
    CHECK(wire_recv(late, &r));
    CHECK_EQ(r.f.id, 8);
    wire_reply_fini(&r);
    /* A peer that goes gives back what it held; one that waits may go, too. */
    struct flood f = {.fd = late, .n = 1, .tail = tail};
    pthread_create(&f.thread, NULL, flood_run, &f);
    usleep(100000);
    close(full);
    pthread_join(f.thread, NULL);
    wait_count(&held_count, SHARE);
    close(late);
    wait_count(&gone_count, SHARE);
    end();
    free(tail);
}
static void a_peer_that_goes_makes_its_calls_gone_once(void)
{
    begin();
    int a = peer(), b = peer();
    go();
    for (uint64_t i = 0; i < 10; i++)
        CHECK(wire_send(a, HRT_NEXT, i, "{}", NULL, 0));
    CHECK(wire_send(b, HRT_NEXT, 1, "{}", NULL, 0));
    wait_count(&held_count, 11);
    close(a);
    wait_count(&gone_count, 10);
    ping_ok(b, 3);
    CHECK_EQ(atomic_load(&gone_count), 10);
    end(); /* b's call goes with its link */
    CHECK_EQ(atomic_load(&gone_count), 11);
    close(b);
}
static void a_peer_that_goes_with_replies_unsent_leaves_nothing_behind(void)
{
    begin();
    int a = peer(), b = peer();
    go();
    for (uint64_t i = 0; i < 20; i++)
        CHECK(wire_send(a, HRT_METRICS, i, "{}", NULL, 0));
    close(a);
    ping_ok(b, 1);
    ping_ok(b, 2);
    end();
    close(b);
}
/* Frames that are there already, over several connections, each answered at once. */
static void frames_of_one_user_leave_every_round_to_another(void)
{
    enum { LINKS = 4, EACH = 100 };
    static uint8_t all[EACH * 64];
    struct wire_reply r;
    int b[LINKS], a;
    size_t n = 0;

    begin();
    spun_count = spun_before = 0;
    for (int i = 0; i < LINKS; i++) {
        b[i] = peer_of(4243);
        for (int k = 0; k < EACH; k++) {
            uint8_t *f = wire_frame(HRT_STATUS, (uint64_t)k, "{}", NULL, 0, &n);

            memcpy(all + k * n, f, n);
            free(f);
        }
        CHECK(wire_write(b[i], all, EACH * n));
    }
    a = peer();
    CHECK(wire_send(a, HRT_PING, 1, "{}", NULL, 0));
    go();
    CHECK(wire_recv(a, &r));
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    printf("    %d of %d before the other's one\n", (int)spun_before, LINKS * EACH);
    CHECK(spun_before <= 6);
    /* All of his are answered, in their order. */
    for (int i = 0; i < LINKS; i++)
        for (int k = 0; k < EACH; k++) {
            CHECK(wire_recv(b[i], &r));
            CHECK_EQ(r.f.id, (uint64_t)k);
            wire_reply_fini(&r);
        }
    end();
    close(a);
    for (int i = 0; i < LINKS; i++)
        close(b[i]);
}
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

/* --- shares of links, and peers that keep the daemon waiting ------------------------------------------ */
static bool closed_within(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char c;

    return poll(&p, 1, ms) == 1 && recv(fd, &c, 1, MSG_DONTWAIT) <= 0;
}
static void one_user_cannot_have_all_links(void)
{
    int s[2], mine[LINKS_MAX], n = 0, other;
    struct wire_reply r;

    begin();
    while (n < LINKS_MAX) {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
        if (links_add(&d, s[0], 4242) < 0)
            break;
        mine[n++] = s[1];
    }
    CHECK_EQ(n, LINKS_MAX / 2);
    CHECK(wire_recv(s[1], &r)); /* told so */
    CHECK_EQ(r.f.status, HRT_RESOURCE_EXHAUSTED);
    CHECK_STR(cJSON_GetObjectItem(r.json, "slug")->valuestring, "queue_full");
    CHECK_EQ(cJSON_GetObjectItem(r.json, "have")->valueint, n);
    CHECK(cJSON_GetObjectItem(r.json, "retry_after_ms") != NULL);
    wire_reply_fini(&r);
    close(s[0]);
    close(s[1]);
    other = peer_of(4243);
    go();
    ping_of(other, 7, 4243);
    ping_ok(mine[0], 8);
    end();
    close(other);
    while (n)
        close(mine[--n]);
}
static void a_user_with_his_share_loses_what_was_idle_longest(void)
{
    int mine[LINKS_MAX / 2], n, more;

    begin();
    for (n = 0; n < LINKS_MAX / 2; n++)
        mine[n] = peer();
    go();
    ping_ok(mine[0], 1); /* used later than the others */
    usleep((LINK_IDLE_S * 1000 + 200) * 1000);
    ping_ok(mine[1], 2); /* in use */
    end_loop();
    more = peer();
    go();
    ping_ok(more, 3);
    ping_ok(mine[0], 4);
    ping_ok(mine[1], 5);
    CHECK(closed_within(mine[2], WIRE_WAIT_MS));
    end();
    close(more);
    while (n)
        close(mine[--n]);
}
static void half_a_frame_closes_the_link_however_slowly_it_goes_on(void)
{
    size_t n;
    uint8_t *f = wire_frame(HRT_PING, 1, "{\"abc\":1}", NULL, 0, &n);
    uint64_t from;
    int a, b;

    begin();
    links_patience(&d, 400000000ull);
    a = peer();
    b = peer();
    go();
    from = now_ns();
    for (size_t i = 0; i < n - 1 && now_ns() - from < 10000000000ull; i++) {
        if (send(a, f + i, 1, MSG_NOSIGNAL) < 0 || closed_within(a, 100))
            break;
    }
    CHECK(now_ns() - from < 3000000000ull * T_SLOWER);
    ping_ok(b, 2);
    usleep(600000); /* between frames one may rest */
    ping_ok(b, 3);
    end();
    close(a);
    close(b);
    free(f);
}

/* --- the crowd of malformed frames ------------------------------------------------------------------- */
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
       CASE(calls_beyond_the_bound_are_refused_with_queue_full),
       CASE(a_reader_that_does_not_read_stops_its_own_input_only),
       CASE(a_user_holds_his_share_and_the_others_are_served),
       CASE(a_frame_that_finds_no_room_is_refused_and_what_follows_is_served),
       CASE(a_peer_that_goes_makes_its_calls_gone_once),
       CASE(a_peer_that_goes_with_replies_unsent_leaves_nothing_behind),
       CASE(frames_of_one_user_leave_every_round_to_another),
       CASE(half_a_frame_and_a_close_harm_nobody), CASE(one_user_cannot_have_all_links),
       CASE(a_user_with_his_share_loses_what_was_idle_longest),
       CASE(half_a_frame_closes_the_link_however_slowly_it_goes_on),
       CASE(ten_thousand_malformed_frames_do_not_disturb_a_good_peer),
       CASE(the_socket_has_the_mode_asked_for_and_goes_at_close),
       CASE(a_dead_socket_is_replaced), CASE(a_living_socket_is_left_alone_and_its_pid_named),
       CASE(a_file_at_the_path_is_never_deleted),
       CASE(a_path_too_long_for_a_socket_is_refused_with_both_numbers))
