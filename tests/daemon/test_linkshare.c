/* test_linkshare.c - what one link, and one user, may have of the daemon: peers that are slow, dead,
 * many, or too many at once. */
#include "daemon/held.h"
#include "tests/daemon/linkrig.h"

static void wait_count(atomic_int *v, int want)
{
    uint64_t until = now_ns() + 10000000000u * T_SLOWER;

    while (atomic_load(v) < want && now_ns() < until)
        usleep(500);
    CHECK_EQ(atomic_load(v), want);
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
/* Frames count from their header on: the bytes that it announces need not come. */
static int announce(uint32_t uid, int *ret_fd)
{
    const struct hrt_frame f = {.type = HRT_PING,
                                .json_len = 2,
                                .tail_len = TAIL_BYTES_MAX - (64 << 10), /* calls count, too */
                                .id = 1};
    uint8_t head[HRT_HEAD_BYTES];
    int n = 0;

    hrt_pack(head, &f);
    for (; n < HELD_USER_MAX / TAIL_BYTES_MAX; n++) {
        ret_fd[n] = peer_of(uid);
        CHECK(wire_write(ret_fd[n], head, sizeof head));
    }
    return n;
}
static void all_users_together_hold_what_is_bounded(void)
{
    enum { USERS = HELD_ALL_MAX / HELD_USER_MAX, LINKS = HELD_USER_MAX / TAIL_BYTES_MAX };
    uint8_t *tail = calloc(1, BIG_BYTES);
    int fd[USERS * LINKS], n = 0, last, same;
    struct wire_reply r = {0};

    begin();
    for (uint32_t u = 0; u < USERS; u++)
        n += announce(100 + u, fd + n);
    last = peer();
    same = peer();
    go();
    CHECK(wire_send(last, HRT_NEXT, 1, "{}", tail, BIG_BYTES)); /* who holds nothing may */
    wait_count(&held_count, 1);
    CHECK(held_by_others(same) > HELD_ALL_MAX - BIG_BYTES);
    CHECK(wire_send(last, HRT_PING, 2, "{}", tail, 2 * HELD_SMALL_BYTES)); /* the next waits */
    ping_ok(same, 3); /* small ones get by */
    struct pollfd w = {.fd = last, .events = POLLIN};
    CHECK_EQ(poll(&w, 1, 300), 0);
    close(fd[--n]); /* another user gives something back */
    CHECK(wire_recv(last, &r));
    CHECK_EQ(r.f.id, 2);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    close(last);
    wait_count(&gone_count, 1);
    end();
    close(same);
    while (n)
        close(fd[--n]);
    free(tail);
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
    int mine[LINKS_MAX / 2], n, other, more;
    size_t bytes;
    uint8_t *f = wire_frame(HRT_PING, 6, "{}", "tail", 4, &bytes);
    struct wire_reply r = {0};

    begin();
    other = peer_of(4243); /* idle for longer than any of his, and not his */
    for (n = 0; n < LINKS_MAX / 2; n++)
        mine[n] = peer();
    go();
    /* Half a frame: no byte for longer than any of his others, but not idle. */
    CHECK(wire_write(mine[0], f, bytes / 2));
    for (int i = 1; i < n; i++)
        ping_ok(mine[i], 1);
    usleep((LINK_IDLE_S * 1000 + 200) * 1000);
    ping_ok(mine[1], 2); /* in use */
    end_loop();
    more = peer();
    go();
    ping_ok(more, 3);
    ping_of(other, 4, 4243);
    ping_ok(mine[1], 5);
    CHECK(wire_write(mine[0], f + bytes / 2, bytes - bytes / 2));
    CHECK(wire_recv(mine[0], &r));
    CHECK_EQ(r.f.id, 6);
    wire_reply_fini(&r);
    ping_ok(mine[3], 7); /* used later than the second */
    CHECK(closed_within(mine[2], WIRE_WAIT_MS));
    end();
    close(more);
    close(other);
    while (n)
        close(mine[--n]);
    free(f);
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

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(calls_beyond_the_bound_are_refused_with_queue_full),
       CASE(a_reader_that_does_not_read_stops_its_own_input_only),
       CASE(a_user_holds_his_share_and_the_others_are_served),
       CASE(all_users_together_hold_what_is_bounded),
       CASE(a_frame_that_finds_no_room_is_refused_and_what_follows_is_served),
       CASE(a_peer_that_goes_makes_its_calls_gone_once),
       CASE(a_peer_that_goes_with_replies_unsent_leaves_nothing_behind),
       CASE(frames_of_one_user_leave_every_round_to_another),
       CASE(one_user_cannot_have_all_links),
       CASE(a_user_with_his_share_loses_what_was_idle_longest),
       CASE(half_a_frame_closes_the_link_however_slowly_it_goes_on))
