/* test_corelink.c - which of the frames that wait for the one link goes next. */
#include "base/bounds.h"
#include "daemon/front/corelink.h"
#include "tests/front/fakecore.h"
#include "tests/t.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccc"
enum { LARGE = 1 << 20, HUGE = 5 << 20, SEEN_MAX = 2000 };

/* The core's end: what came, by name, in its order. */
static struct {
    int listen, fd;
    uint8_t *in;
    size_t n;
    char log[40000]; /* since the last look */
    struct {
        char name[16];
        struct hrt_frame f;
    } seen[SEEN_MAX];
    int n_seen;
} core;
static struct corelink *l;
static char path[100];
static int answers;

static void on_answer(void *user, const struct corelink_reply *r)
{
    (void)user;
    answers += r->status == HRT_OK;
}

static void up(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(path, sizeof path, "%s/core.sock", fresh_dir());
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
    core.listen = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(core.listen, (void *)&sa, sizeof sa), 0);
    CHECK_EQ(listen(core.listen, 4), 0);
    CHECK_EQ(corelink_open(&l,
                           &(struct corelink_opts){
                               .path = path, .hello = "{\"n\":\"hello\"}", .hold_ms = 30000},
                           NULL),
             0);
    core.fd = accept4(core.listen, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    core.in = malloc(64 << 20);
    core.n = 0;
    core.n_seen = answers = 0;
}
static void down(void)
{
    corelink_close(l);
    close(core.fd);
    close(core.listen);
    free(core.in);
    unlink(path);
    *strrchr(path, '/') = 0;
    rmdir(path);
}

/* A request of n bytes or so. */
static int64_t ask(const char *as, const char *name, uint8_t type, size_t n)
{
    char *json = malloc(n + 100);
    int at = sprintf(json, "{\"n\":\"%s\",\"x\":\"", name);
    memset(json + at, 'x', n);
    strcpy(json + at + n, "\"}");
    int64_t r = corelink_send_as(l, as, type, json, strlen(json), NULL, 0, on_answer, NULL);
    free(json);
    return r;
}

static void take_frames(void)
{
    struct hrt_frame f;
    while (core.n >= HRT_HEAD_BYTES && hrt_unpack(&f, core.in, NULL) == 0 &&
           core.n >= (size_t)HRT_HEAD_BYTES + f.json_len + f.tail_len) {
        size_t all = (size_t)HRT_HEAD_BYTES + f.json_len + f.tail_len;
        char *name = memmem(core.in, all, "\"n\":\"", 5),
             *end = name ? strchr(name + 5, '"') : 0;
        CHECK(name && end && core.n_seen < SEEN_MAX);
        snprintf(core.seen[core.n_seen].name, 16, "%.*s", (int)(end - name - 5), name + 5);
        core.seen[core.n_seen].f = f;
        snprintf(core.log + strlen(core.log), sizeof core.log - strlen(core.log), "%s ",
                 core.seen[core.n_seen++].name);
        memmove(core.in, core.in + all, core.n -= all);
    }
}

/* Everything that will go out; the names, in their order. */
static const char *arrived(void)
{
    core.log[0] = 0;
    for (int still = 0; still < 3;) {
        struct pollfd p = {corelink_fd(l), corelink_events(l), 0};
        still++;
        if (p.fd >= 0 && poll(&p, 1, 5) > 0) {
            corelink_ready(l, p.revents);
            still = p.revents & POLLOUT ? 0 : still;
        }
        ssize_t k = recv(core.fd, core.in + core.n, (64 << 20) - core.n, 0);
        if (k > 0) {
            core.n += (size_t)k;
            still = 0;
            take_frames();
        }
    }
    return core.log;
}

static void answer(const char *name)
{
    uint8_t h[HRT_HEAD_BYTES + 2];
    int i = core.n_seen - 1;
    while (i >= 0 && strcmp(core.seen[i].name, name) != 0)
        i--;
    CHECK(i >= 0);
    hrt_pack(h, &(struct hrt_frame){core.seen[i].f.type, HRT_REPLY, 2, 0, core.seen[i].f.id,
                                    HRT_OK});
    memcpy(h + HRT_HEAD_BYTES, "{}", 2);
    CHECK_EQ(send(core.fd, h, sizeof h, MSG_NOSIGNAL), sizeof h);
}

static void small_frames_go_before_large_ones_not_begun(void)
{
    up();
    CHECK_STR(arrived(), "hello ");
    CHECK(ask(A, "a1", HRT_START, LARGE) > 0);
    corelink_ready(l, POLLOUT); /* a part of it is on its way */
    CHECK(ask(B, "b1", HRT_START, LARGE) > 0);
    CHECK(ask(B, "b2", HRT_START, 30000) > 0);
    CHECK(ask(A, "next", HRT_NEXT, 10) > 0);
    CHECK(ask(C, "cancel", HRT_CANCEL, 10) > 0);
    CHECK_STR(arrived(), "a1 next cancel b2 b1 ");
    down();
}

static void owners_have_one_large_frame_each_under_way(void)
{
    up();
    (void)arrived();
    CHECK(ask(A, "a1", HRT_START, LARGE) > 0);
    CHECK(ask(A, "a2", HRT_START, LARGE) > 0);
    CHECK(ask(A, "a3", HRT_START, LARGE) > 0);
    CHECK(ask(NULL, "own1", HRT_START, LARGE) > 0);
    CHECK(ask(B, "b1", HRT_START, LARGE) > 0);
    CHECK(ask(B, "b2", HRT_START, LARGE) > 0);
    CHECK_STR(arrived(), "a1 own1 b1 ");
    CHECK(ask(A, "small", HRT_START, 100) > 0);
    CHECK_STR(arrived(), "small ");
    answer("b1");
    CHECK_STR(arrived(), "b2 ");
    answer("a1");
    CHECK_STR(arrived(), "a2 ");
    CHECK_EQ(answers, 2);
    down();
}

static void no_more_is_under_way_than_there_is_room_for(void)
{
    up();
    (void)arrived();
    CHECK(ask(A, "a1", HRT_START, HUGE) > 0);
    CHECK(ask(B, "b1", HRT_START, HUGE) > 0);
    CHECK(ask(A, "a2", HRT_START, HUGE) > 0);
    CHECK(ask(C, "c1", HRT_START, HUGE) > 0);
    CHECK(ask(NULL, "own1", HRT_START, LARGE) > 0);
    CHECK_STR(arrived(), "a1 b1 ");
    CHECK(ask(C, "c2", HRT_START, 30000) > 0);
    CHECK_STR(arrived(), "c2 ");
    answer("a1");
    CHECK_STR(arrived(), "c1 own1 "); /* in turn: c has had none */
    answer("c1");
    CHECK_STR(arrived(), "a2 ");
    down();
}

static void frames_of_middling_size_of_one_owner_leave_room(void)
{
    char name[16];
    int n = 0;
    up();
    (void)arrived();
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "a%d", i);
        CHECK(ask(A, name, HRT_START, 250000) > 0);
    }
    (void)arrived();
    for (const char *p = core.log; (p = strchr(p, ' ')); p++)
        n++;
    printf("    %d of 40 frames of 250 KB are under way\n", n);
    CHECK(n >= 5 && n <= 8);
    CHECK(ask(B, "b1", HRT_START, 250000) > 0);
    CHECK_STR(arrived(), "b1 ");
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "a%d", i);
        answer(name);
    }
    CHECK(strncmp(arrived(), "a", 1) == 0);
    down();
}

static void a_cancel_finds_room_where_nothing_else_does(void)
{
    up();
    int64_t r = 0;
    int n = 0;
    for (; n < 2 * CORELINK_ASKS_MAX && (r = ask(A, "next", HRT_NEXT, 10)) > 0; n++)
        ;
    CHECK(n >= CORELINK_ASKS_MAX - 1 && r == -EAGAIN);
    CHECK(ask(B, "cancel", HRT_CANCEL, 10) > 0);
    CHECK(strstr(arrived(), " cancel "));
    /* And hearthd is never sent more than it takes. */
    for (int i = 0; i < 100; i++)
        CHECK(ask(B, "cancel", HRT_CANCEL, 10) > 0);
    (void)arrived();
    CHECK(core.n_seen <= 1024);
    int before = core.n_seen;
    for (int i = 0; i < 50; i++) {
        core.seen[i + 1].name[0] = 0;
        snprintf(core.seen[i + 1].name, 16, "n%d", i);
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        answer(name);
    }
    (void)arrived();
    CHECK(core.n_seen > before + 40);
    down();
}

static void bytes_of_one_owner_leave_room_for_another(void)
{
    up();
    int n = 0;
    int64_t r = 0;
    for (; n < 100 && (r = ask(A, "a", HRT_START, HUGE)) > 0; n++)
        ;
    printf("    %d requests of 5 MiB wait\n", n);
    CHECK_EQ(r, -EAGAIN);
    CHECK(n * (HUGE >> 20) >= 100 && n * (HUGE >> 20) <= CORELINK_BYTES_MAX >> 21);
    CHECK(ask(B, "b", HRT_START, HUGE) > 0);
    CHECK(ask(A, "small", HRT_NEXT, 100) > 0);
    down();
}

static void what_was_forgotten_before_it_went_does_not_go(void)
{
    up();
    (void)arrived();
    int64_t a1 = ask(A, "a1", HRT_START, LARGE), a2 = ask(A, "a2", HRT_START, LARGE);
    CHECK_STR(arrived(), "a1 ");
    CHECK(!corelink_forget(l, a1)); /* it went */
    CHECK(corelink_forget(l, a2));
    answer("a1");
    CHECK_STR(arrived(), "");
    CHECK_EQ(answers, 0);
    CHECK_EQ(corelink_asks(l), 1); /* HELLO's */
    down();
}

static void what_was_under_way_goes_again_on_the_next_link(void)
{
    up();
    (void)arrived();
    int64_t a1 = ask(A, "a1", HRT_START, LARGE);
    CHECK(a1 > 0);
    CHECK(ask(A, "a2", HRT_START, LARGE) > 0);
    CHECK_STR(arrived(), "a1 ");
    close(core.fd);
    for (int i = 0; i < 100 && corelink_up(l); i++)
        corelink_ready(l, POLLIN);
    CHECK(!corelink_up(l));
    CHECK(ask(B, "next", HRT_NEXT, 10) > 0);
    for (int i = 0; i < 200 && !corelink_up(l); i++) {
        poll(NULL, 0, 10);
        corelink_tick(l);
    }
    core.n = 0;
    core.fd = accept4(core.listen, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK_STR(arrived(), "hello next a1 ");
    CHECK(!corelink_forget(l, a1)); /* an earlier core may have it */
    answer("a1");
    CHECK_STR(arrived(), "a2 ");
    down();
}

T_MAIN({"small_frames_go_before_large_ones_not_begun",
        small_frames_go_before_large_ones_not_begun},
       {"owners_have_one_large_frame_each_under_way",
        owners_have_one_large_frame_each_under_way},
       {"no_more_is_under_way_than_there_is_room_for",
        no_more_is_under_way_than_there_is_room_for},
       {"frames_of_middling_size_of_one_owner_leave_room",
        frames_of_middling_size_of_one_owner_leave_room},
       {"a_cancel_finds_room_where_nothing_else_does",
        a_cancel_finds_room_where_nothing_else_does},
       {"bytes_of_one_owner_leave_room_for_another", bytes_of_one_owner_leave_room_for_another},
       {"what_was_forgotten_before_it_went_does_not_go",
        what_was_forgotten_before_it_went_does_not_go},
       {"what_was_under_way_goes_again_on_the_next_link",
        what_was_under_way_goes_again_on_the_next_link})
