/* test_left.c - clients that leave while their answer waits for the disk: for what was stored of its
 * beginning (restoring), and for its end to be durable (committing).
 *
 * hearthd's main() runs in a child of this program, where fdatasync and pread are the test's: they
 * wait as long as a word in shared memory says, so each phase lasts until it has been looked at. */
#include <errno.h>
#include <unistd.h>
int hearthd_main(int argc, char **argv);
#define main hearthd_main
#include "daemon/main.c"
#undef main
#include "tests/daemon/genrig.h"
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static struct {
    atomic_int hold_read, hold_sync,
        pass;                 /* so many syncs of the log go through all the same */
    atomic_uint reads, syncs; /* that were held */
} * ctl;                      /* shared with the daemon */

static void held(atomic_int *hold, atomic_uint *count)
{
    if (*hold)
        ++*count;
    while (*hold)
        usleep(1000);
}

static bool of(int fd, const char *folder)
{
    char link[64], path[512];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, folder) != NULL;
}

ssize_t pread(int fd, void *buf, size_t bytes, off_t off);
ssize_t pread(int fd, void *buf, size_t bytes, off_t off)
{
    if (ctl && ctl->hold_read && of(fd, "/kv/"))
        held(&ctl->hold_read, &ctl->reads);
    return syscall(SYS_pread64, fd, buf, bytes, off);
}

int fdatasync(int fd)
{
    if (ctl && ctl->hold_sync && of(fd, "/log/") && ctl->pass-- <= 0)
        held(&ctl->hold_sync, &ctl->syncs);
    return (int)syscall(SYS_fdatasync, fd);
}

enum { LONG = 600 };
#define WAIT_NS (60000000000u * T_SLOWER)
static int32_t ids[LONG];
static struct answer a, b;
#define PARAMS(n) ",\"params\":{\"max_tokens\":" #n ",\"temperature\":0,\"ignore_eos\":true}"

static void up(struct rig *g)
{
    if (!ctl)
        ctl = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset((void *)ctl, 0, sizeof *ctl);
    some_ids(ids, LONG, 8);
    rig_make(g, "--io threads");
    g->main = hearthd_main;
    rig_up(g);
}

/* Until the stream is in this state; prints where it stands when it never is. */
static bool comes_to(struct rig *g, const char *id, const char *state)
{
    char was[40] = "";

    for (uint64_t t0 = now_ns(); now_ns() - t0 < WAIT_NS; usleep(2000)) {
        struct wire_reply r = rig_call(
            g, HRT_NEXT, NULL, 0, "{\"stream\":\"%s\",\"cursor\":0,\"max_wait_ms\":0}", id);
        snprintf(was, sizeof was, "%s", wire_str(&r, "state"));
        wire_reply_fini(&r);
        if (strcmp(was, state) == 0)
            return true;
    }
    printf("    %s, not %s\n", was, state);
    return false;
}

static bool nothing_runs(struct rig *g)
{
    double n = -1;

    for (uint64_t t0 = now_ns(); n && now_ns() - t0 < WAIT_NS; usleep(2000)) {
        struct wire_reply r = rig_call(g, HRT_STATUS, NULL, 0, "{}");
        const cJSON *q = cJSON_GetObjectItem(r.json, "queue");
        n = cJSON_GetNumberValue(cJSON_GetObjectItem(q, "running")) +
            cJSON_GetNumberValue(cJSON_GetObjectItem(q, "waiting"));
        wire_reply_fini(&r);
    }
    return n == 0;
}

static bool until_held(atomic_uint *count)
{
    for (uint64_t t0 = now_ns(); now_ns() - t0 < WAIT_NS; usleep(1000))
        if (*count)
            return true;
    return false;
}

static void cancel(struct rig *g, const char *id, const char *want_state)
{
    struct wire_reply r = rig_call(g, HRT_CANCEL, NULL, 0, "{\"stream\":\"%s\"}", id);

    CHECK_EQ(r.f.status, 0);
    if (want_state)
        CHECK_STR(wire_str(&r, "state"), want_state);
    wire_reply_fini(&r);
}

/* The disk does not answer: who leaves meanwhile does not wait for it, and nothing of what was
 * stored is spoilt by reads that come back to nobody. */
static void who_leaves_while_his_beginning_is_read_is_gone_at_once(void)
{
    struct rig g, other;
    char id[33];

    up(&g);
    rig_run(&g, ids, LONG, ",\"session\":\"s\"" PARAMS(24), &a);
    rig_down(&g, SIGTERM);
    rig_up(&g); /* all of it is on disk alone */
    rig_run(&g, ids, 20, PARAMS(1), &b);
    other = g;
    other.fd = wire_connect(g.core);
    ctl->hold_read = 1;
    rig_id(id);
    CHECK(rig_start(&other, id, ids, LONG, PARAMS(24)));
    CHECK(comes_to(&g, id, "restoring"));
    CHECK(until_held(&ctl->reads));
    cancel(&other, id, NULL); /* as a front does for who has hung up */
    close(other.fd);
    CHECK(comes_to(&g, id, "done"));
    CHECK(nothing_runs(&g));
    answer_clear(&b);
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK_STR(wire_str(&b.last, "finish"), "cancelled");
    ctl->hold_read = 0; /* the disk answers, and nobody is there */
    rig_run(&g, ids, LONG, PARAMS(24), &b);
    CHECK_STR(wire_str(&b.last, "finish"), "length");
    CHECK(b.n == 24 && same(&a, &b));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* What has been said is being written: leaving changes nothing of it, and nobody has to come back
 * for it to end. */
static void who_leaves_while_his_end_is_written_loses_nothing(void)
{
    struct rig g, other;
    char id[33];

    up(&g);
    rig_run(&g, ids, 20, ",\"session\":\"s\"" PARAMS(1), &a);
    for (int how = 0; how < 2; how++) {
        other = g;
        other.fd = wire_connect(g.core);
        rig_id(id);
        ctl->syncs = 0;
        ctl->pass = 1; /* its beginning: START is answered when that is durable */
        ctl->hold_sync = 1;
        CHECK(rig_start(&other, id, ids + 20, 30, ",\"session\":\"s\"" PARAMS(300)));
        CHECK(comes_to(&g, id, "committing"));
        CHECK(until_held(&ctl->syncs));
        if (how == 0)
            cancel(&g, id, "committing");
        close(other.fd);
        CHECK(comes_to(&g, id, "committing")); /* still: it is not said to be done */
        ctl->hold_sync = 0;
        CHECK(nothing_runs(&g));
        answer_clear(&a);
        CHECK(rig_read(&g, id, &a, UINT32_MAX));
        CHECK_STR(wire_str(&a.last, "finish"), "length");
        CHECK(cJSON_IsTrue(cJSON_GetObjectItem(a.last.json, "durable")));
        CHECK_EQ(a.n, 300);
        struct wire_reply r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
        CHECK_EQ(wire_num(&r, "tokens"), 21 + (how + 1) * 330);
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGKILL); /* acknowledged is durable */
    rig_up(&g);
    struct wire_reply r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    CHECK_EQ(wire_num(&r, "tokens"), 21 + 2 * 330);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(who_leaves_while_his_beginning_is_read_is_gone_at_once),
       CASE(who_leaves_while_his_end_is_written_loses_nothing))
