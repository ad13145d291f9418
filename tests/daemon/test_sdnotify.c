/* test_sdnotify.c - the words the service manager gets, over a real datagram socket. */
#include "base/clock.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/loop.h"
#include "daemon/sdnotify.h"
#include "tests/t.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct daemon d;
static struct conf conf;
static char path[108];
static int manager;

static void begin(uint64_t watchdog_us, bool (*healthy)(struct daemon *))
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(path, sizeof path, "%.80s/notify", t_tmpdir());
    memcpy(a.sun_path, path, sizeof path);
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    CHECK_EQ(bind(manager, (struct sockaddr *)&a, sizeof a), 0);
    memset(&d, 0, sizeof d);
    memset(&conf, 0, sizeof conf);
    conf.notify_socket = path;
    conf.watchdog_us = watchdog_us;
    d.conf = &conf;
    CHECK_EQ(loop_open(&d.loop), 0);
    CHECK_EQ(notify_open(&d, healthy), 0);
}
static void end(void)
{
    notify_close(&d);
    loop_close(d.loop);
    close(manager);
}
static bool heard(const char *want)
{
    char b[512];
    ssize_t n = recv(manager, b, sizeof b - 1, 0);

    if (n < 0)
        return false;
    b[n] = 0;
    if (strcmp(b, want) != 0)
        t_fail(__FILE__, __LINE__, "heard \"%s\", want \"%s\"", b, want);
    return true;
}
static void stop(struct loop_timer *t)
{
    loop_stop(t->user);
}
static void run_for(uint64_t ms)
{
    struct loop_timer t = {.fire = stop, .user = d.loop};

    loop_timer_set(d.loop, &t, now_ns() + ms * 1000000);
    loop_run(d.loop);
}

static void ready_is_said_once(void)
{
    begin(0, NULL);
    notify_ready(&d);
    notify_ready(&d);
    CHECK(heard("READY=1"));
    CHECK(!heard("READY=1"));
    end();
}
static void status_extend_and_stopping_have_the_managers_words(void)
{
    begin(0, NULL);
    notify_status(&d, "loading %s,\n%d %%", "m", 40);
    notify_extend(&d, 30);
    notify_stopping(&d);
    CHECK(heard("STATUS=loading m, 40 %"));
    CHECK(heard("EXTEND_TIMEOUT_USEC=30000000"));
    CHECK(heard("STOPPING=1"));
    end();
}
static void the_watchdog_is_fed_twice_a_period_from_the_loop(void)
{
    int n = 0;

    begin(40000, NULL);
    run_for(130);
    while (heard("WATCHDOG=1"))
        n++;
    CHECK(n >= 4 && n <= 9);
    end();
}
static bool sick(struct daemon *x)
{
    (void)x;
    return false;
}
static void a_sick_daemon_does_not_feed_it(void)
{
    begin(20000, sick);
    run_for(60);
    CHECK(!heard("WATCHDOG=1"));
    end();
}
static void without_a_manager_nothing_happens(void)
{
    memset(&d, 0, sizeof d);
    memset(&conf, 0, sizeof conf);
    d.conf = &conf;
    CHECK_EQ(loop_open(&d.loop), 0);
    CHECK_EQ(notify_open(&d, NULL), 0);
    notify_ready(&d);
    notify_status(&d, "x");
    notify_close(&d);
    notify_ready(&d); /* and after it was closed */
    loop_close(d.loop);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(ready_is_said_once), CASE(status_extend_and_stopping_have_the_managers_words),
       CASE(the_watchdog_is_fed_twice_a_period_from_the_loop),
       CASE(a_sick_daemon_does_not_feed_it), CASE(without_a_manager_nothing_happens))
