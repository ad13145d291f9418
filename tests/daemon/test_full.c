/* test_full.c - the daemon has no room to write, and has some again: what waited is all there. */
#include "proto.h"
#include "tests/daemon/genrig.h"
#include <sys/resource.h>

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
#define SAYS(name)                                                                             \
    ",\"params\":{\"max_tokens\":20,\"ignore_eos\":true,\"seed\":3},\"session\":\"" name "\""

static int32_t ids[4][40];
static struct answer a, b;

/* No file may grow, as on a full disk. */
static void room(const struct rig *g, bool yes)
{
    struct rlimit lim;

    CHECK_EQ(prlimit(g->pid, RLIMIT_FSIZE, NULL, &lim), 0);
    lim.rlim_cur = yes ? lim.rlim_max : 4096;
    CHECK_EQ(prlimit(g->pid, RLIMIT_FSIZE, &lim, NULL), 0);
}

static void up(struct rig *g)
{
    for (int i = 0; i < 4; i++)
        some_ids(ids[i], 40, 11 + (uint64_t)i);
    rig_make(g, "");
    rig_up(g);
    rig_run(g, ids[0], 40, SAYS("x"), &a);
    CHECK(cJSON_IsTrue(cJSON_GetObjectItem(a.last.json, "durable")));
}

static bool durable(const struct answer *x)
{
    return cJSON_IsTrue(cJSON_GetObjectItem(x->last.json, "durable"));
}

/* What is said of it, with this in one of the warnings. */
static bool warns(const cJSON *json, const char *words)
{
    const cJSON *w;

    cJSON_ArrayForEach(w, cJSON_GetObjectItem(json, "warnings")) if (strstr(w->valuestring,
                                                                            words)) return true;
    return false;
}

static bool status_is(struct rig *g, const char *want, const char *words)
{
    struct wire_reply r = rig_call(g, HRT_STATUS, NULL, 0, "{}");
    /* In one sentence, of those that say what to do; the store's own is for the log. */
    bool is = strcmp(wire_str(&r, "status"), want) == 0 && !warns(r.json, "disk full (") &&
              !warns(r.json, "largest size (") &&
              warns(r.json, "in memory only") == (words != NULL) &&
              (!words || warns(r.json, words));

    wire_reply_fini(&r);
    return is;
}

static void wait_ok(struct rig *g)
{
    uint64_t until = now_ns() + 60000000000u * T_SLOWER;

    while (!status_is(g, "ok", NULL) && now_ns() < until)
        usleep(50000);
    CHECK(now_ns() < until);
}

static double tokens(struct rig *g, const char *session, bool all_durable)
{
    struct wire_reply r =
        rig_call(g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}", session);
    double n = r.f.status ? -1 : wire_num(&r, "tokens");
    const cJSON *t;

    cJSON_ArrayForEach(
        t, cJSON_GetObjectItem(
               r.json, "turns")) if (all_durable &&
                                     !cJSON_IsTrue(cJSON_GetObjectItem(t, "durable"))) n = -2;
    wire_reply_fini(&r);
    return n;
}

static void refused(struct rig *g, uint8_t type, const char *more)
{
    char id[33];

    rig_id(id);
    struct wire_reply r = rig_call(g, type, NULL, 0, "{\"id\":\"%s\"%s}", id, more);
    if (r.f.status != HRT_RESOURCE_EXHAUSTED ||
        strcmp(wire_str(&r, "slug"), "disk_full") != 0 ||
        !strstr(wire_str(&r, "message"), "turns before this wait"))
        t_fail(__FILE__, __LINE__, "%s: %u %s", more, r.f.status, wire_str(&r, "message"));
    wire_reply_fini(&r);
}

static void unread(struct rig *g, uint8_t type, const char *more)
{
    char id[33];

    rig_id(id);
    struct wire_reply r =
        rig_call(g, type, NULL, 0, "{\"id\":\"%s\",\"session\":\"x\"%s}", id, more);
    if (r.f.status != HRT_RESOURCE_EXHAUSTED ||
        strcmp(wire_str(&r, "slug"), "disk_full") != 0 ||
        !strstr(wire_str(&r, "message"), "cannot be read before"))
        t_fail(__FILE__, __LINE__, "%u%s: %u %s", type, more, r.f.status,
               wire_str(&r, "message"));
    wire_reply_fini(&r);
}

/* A key's change of its own session. */
static void other(struct rig *g)
{
    char id[33];

    rig_id(id);
    struct wire_reply r =
        rig_call(g, HRT_SESSION_OPEN, NULL, 0,
                 "{\"id\":\"%s\",\"model\":\"m\","
                 "\"as\":\"00112233445566778899aabbccddeeff\",\"name\":\"%s\"}",
                 id, id + 1);
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
}

static void what_waits_is_written_by_itself_and_survives(void)
{
    struct rig g;
    char id[33];

    up(&g);
    room(&g, false);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids[1], 40, SAYS("x")));
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    CHECK(!durable(&a));
    CHECK(warns(a.last.json, "ulimit -f"));
    rig_run(&g, ids[2], 40, SAYS("x"), &b);
    CHECK(!durable(&b));
    rig_run(&g, ids[3], 40, SAYS("y"), &b);
    CHECK(status_is(&g, "degraded", "2 sessions (\"x\", \"y\")"));
    refused(&g, HRT_SESSION_FORK, ",\"session\":\"y\",\"name\":\"f\"");
    refused(&g, HRT_SESSION_REWIND, ",\"session\":\"x\",\"to_turn\":2");
    refused(&g, HRT_SESSION_RENAME, ",\"session\":\"x\",\"name\":\"z\"");
    CHECK_EQ(tokens(&g, "x", false), 180);
    room(&g, true);
    wait_ok(&g);
    CHECK_EQ(tokens(&g, "x", true), 180);
    CHECK_EQ(tokens(&g, "y", true), 60);
    /* Its stream says so, too. */
    answer_clear(&b);
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK(durable(&b));
    rig_down(&g, SIGKILL);
    rig_up(&g);
    CHECK_EQ(tokens(&g, "x", true), 180);
    CHECK_EQ(tokens(&g, "y", true), 60);
    answer_clear(&b);
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    rig_down(&g, SIGTERM);
}

/* Another's turn finds room while what was refused has not been tried again. */
static void while_a_turn_waits_the_daemon_is_degraded(void)
{
    bool waits = false;
    struct rig g;

    up(&g);
    for (int i = 0; i < 50 && !waits; i++) {
        room(&g, false);
        rig_run(&g, ids[1], 40, SAYS("x"), &a);
        CHECK(!durable(&a));
        room(&g, true);
        other(&g);
        struct wire_reply r = rig_call(&g, HRT_STATUS, NULL, 0, "{}");
        waits = warns(r.json, "in memory only");
        CHECK_STR(wire_str(&r, "status"), waits ? "degraded" : "ok");
        wire_reply_fini(&r);
    }
    CHECK(waits);
    rig_down(&g, SIGTERM);
}

/* The index as a damaged disk leaves it. */
static void spoil_index(const struct rig *g)
{
    static const uint8_t zeros[4096];
    char path[300];
    off_t n;

    snprintf(path, sizeof path, "%s/state/index.mdb", g->base);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    n = lseek(fd, 0, SEEK_END);
    for (off_t at = 2 * sizeof zeros; at < n; at += (off_t)sizeof zeros)
        CHECK_EQ(pwrite(fd, zeros, sizeof zeros, at), (ssize_t)sizeof zeros);
    close(fd);
}

/* A damaged index is made anew when there is room: until then nothing of it can be read. */
static void what_waits_for_room_to_be_read_is_not_called_lost(void)
{
    struct rig g;

    up(&g);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    room(&g, false);
    spoil_index(&g);
    unread(&g, HRT_SESSION_SHOW, ",\"ids\":true");
    unread(&g, HRT_SESSION_SHOW, "");
    unread(&g, HRT_SESSION_FORK, ",\"turn\":1");
    unread(&g, HRT_SESSION_REWIND, ",\"to_turn\":1");
    room(&g, true);
    wait_ok(&g);
    CHECK_EQ(tokens(&g, "x", true), 60);
    rig_down(&g, SIGTERM);
}

static void the_next_turn_or_change_takes_it_along(void)
{
    struct rig g;
    char id[33];

    up(&g);
    for (int i = 1; i < 3; i++) {
        room(&g, false);
        rig_run(&g, ids[i], 40, SAYS("x"), &a);
        CHECK(!durable(&a));
        room(&g, true);
        if (i == 1) {
            rig_run(&g, ids[3], 40, SAYS("x"), &b);
            CHECK(durable(&b));
        } else {
            rig_id(id);
            struct wire_reply r =
                rig_call(&g, HRT_SESSION_FORK, NULL, 0,
                         "{\"id\":\"%s\",\"session\":\"x\",\"name\":\"f\"}", id);
            CHECK_EQ(r.f.status, HRT_OK);
            wire_reply_fini(&r);
        }
        rig_down(&g, SIGKILL);
        rig_up(&g);
        CHECK_EQ(tokens(&g, "x", true), i == 1 ? 180 : 240);
    }
    CHECK_EQ(tokens(&g, "f", true), 240);
    rig_down(&g, SIGTERM);
}

static void a_stop_writes_what_waits(void)
{
    struct rig g;

    up(&g);
    room(&g, false);
    rig_run(&g, ids[1], 40, SAYS("x"), &a);
    CHECK(!durable(&a));
    room(&g, true);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK_EQ(tokens(&g, "x", true), 120);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

T_MAIN(CASE(what_waits_for_room_to_be_read_is_not_called_lost),
       CASE(while_a_turn_waits_the_daemon_is_degraded),
       CASE(what_waits_is_written_by_itself_and_survives),
       CASE(the_next_turn_or_change_takes_it_along), CASE(a_stop_writes_what_waits))
