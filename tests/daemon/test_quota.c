/* test_quota.c - the day's write budget by the clock: what is said of a day is not said of the next. */
#include "base/clock.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/quota.h"
#include "daemon/sess.h"
#include "kvstore/env.h"
#include "tests/t.h"
#include <stdio.h>
#include <unistd.h>

static struct daemon d;
static struct conf conf = {.system = true};
static _Atomic int64_t off;
static const uint64_t DAY_NS = 86400000000000u, MIB = 1 << 20;

/* A daemon's store and sessions, at so much before midnight. */
static void up(uint64_t before_ns)
{
    char dir[256];
    struct kvs_opts o = {.dir = dir,
                         .io = KVS_IO_THREADS,
                         .host_bytes = 16 << 20,
                         .disk_bytes = 256 * MIB,
                         .day_bytes = 100 * MIB,
                         .no_fsync = true};
    struct kvs_env env = {.wall_off_ns = &off};
    struct kvs_open_report rep;
    struct errbuf eb = {""};
    int r;

    snprintf(dir, sizeof dir, "%s/s", t_tmpdir());
    off = (int64_t)(DAY_NS - wall_ns() % DAY_NS - before_ns);
    d.conf = &conf;
    r = kvs_open_env(&d.store, &o, &env, &rep, &eb);
    if (r == 0)
        r = sess_open(&d, &eb);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "up: %s %s", err_str(r), eb.s);
}

static void down(void)
{
    sess_close(&d);
    kvs_close(d.store);
}

static uint32_t put_down(uint32_t uid)
{
    uint32_t n = 0;

    while (n < 1000 && quota_put(&d, uid, MIB))
        n++;
    return n;
}

static void a_share_that_is_spent_is_there_again_the_next_day(void)
{
    uint64_t today, count, was, until = now_ns() + 20000000000u * T_SLOWER;
    char words[QUOTA_WORDS] = "";

    up(1500000000u);
    (void)kvs_day(d.store, &today, &was);
    uint32_t n = put_down(1), other = put_down(2);
    CHECK(n >= 45 && n <= 51);
    CHECK(other >= 20 && other <= 26);
    CHECK(!quota_puts(&d, 1, words, sizeof words) && strstr(words, "until midnight"));
    do {
        usleep(20000);
        kvs_commit_turn(d.store, 0);
        (void)kvs_day(d.store, &today, &count);
    } while (count == was && now_ns() < until);
    CHECK(count != was);
    CHECK(quota_puts(&d, 1, words, sizeof words));
    CHECK(quota_puts(&d, 2, words, sizeof words));
    /* Of the new day each has what he had of the one before; what was put then counts no more. */
    n = put_down(1);
    other = put_down(2);
    CHECK(n >= 45 && n <= 51);
    CHECK(other >= 20 && other <= 26);
    down();
}

T_MAIN({"a_share_that_is_spent_is_there_again_the_next_day",
        a_share_that_is_spent_is_there_again_the_next_day})
