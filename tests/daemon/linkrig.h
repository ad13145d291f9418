/* linkrig.h - links and nothing else of the daemon: a loop on a thread of its own, as there; the
 * case is the peer.  The table of operations is the test's: what a link does with a call does not
 * depend on which it is. */
#ifndef TESTS_DAEMON_LINKRIG_H
#define TESTS_DAEMON_LINKRIG_H
#include "base/clock.h"
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/link.h"
#include "daemon/loop.h"
#include "daemon/pace.h"
#include "tests/daemon/wire.h"
#include "tests/t.h"
#include <pthread.h>
#include <stdatomic.h>

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
__attribute__((unused)) static int peer_of(uint32_t uid) /* before go() */
{
    int s[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    CHECK_EQ(links_add(&d, s[0], uid), 0);
    return s[1];
}
__attribute__((unused)) static int peer(void)
{
    return peer_of(4242);
}
static void go(void)
{
    pthread_create(&thread, NULL, run, NULL);
}
__attribute__((unused)) static void end_loop(void) /* go() goes on */
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
__attribute__((unused)) static void ping_ok(int fd, uint64_t id)
{
    ping_of(fd, id, 4242);
}

#endif
