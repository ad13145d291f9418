/* test_list.c - a list of many long sessions while a stream decodes: nobody waits for it. */
#include "tests/daemon/genrig.h"

enum { SESSIONS = 300, TOKENS = 8192 };

/* Sessions of one path each, read back by a daemon that has none of them in memory. */
static void make_sessions(struct rig *g)
{
    static int32_t ids[TOKENS];
    static struct answer a;
    struct wire_reply r;
    char id[33];

    some_ids(ids, TOKENS, 3);
    rig_up(g);
    rig_run(g, ids, TOKENS, ",\"session\":\"s\",\"create\":true,\"params\":{\"max_tokens\":0}",
            &a);
    answer_clear(&a);
    for (int i = 1; i < SESSIONS; i++) {
        rig_id(id);
        r = rig_call(g, HRT_SESSION_FORK, NULL, 0,
                     "{\"id\":\"%s\",\"session\":\"s\",\"name\":\"s%d\"}", id, i);
        CHECK_EQ(r.f.status, 0);
        wire_reply_fini(&r);
    }
    rig_down(g, SIGTERM);
    rig_up(g);
}

static uint64_t next_token(struct rig *g, const char *id, struct answer *a)
{
    uint64_t t0 = now_ns();

    (void)rig_read(g, id, a, a->n + 1);
    return now_ns() - t0;
}

static bool readable(int fd)
{
    struct pollfd w = {.fd = fd, .events = POLLIN};

    return poll(&w, 1, 0) == 1;
}

static void a_list_of_many_long_sessions_holds_no_stream_up(void)
{
    static struct answer a;
    const int32_t few[] = {1, 2, 3};
    uint64_t longest = 0, alone = 0, took = 0;
    int between = 0;
    struct wire_reply r;
    struct rig g;
    char id[33];

    rig_make_ctx(&g, "", 16384);
    make_sessions(&g);
    (void)same, (void)usage, (void)rig_make; /* of the rig, not needed here */
    rig_id(id);
    CHECK(rig_start(&g, id, few, 3,
                    ",\"keep\":false,\"params\":{\"max_tokens\":4000,\"ignore_eos\":true}"));
    int fd = wire_connect(g.core);
    (void)rig_read(&g, id, &a, 50);
    for (int i = 0; i < 200; i++) {
        uint64_t ns = next_token(&g, id, &a);
        alone = ns > alone ? ns : alone;
    }
    for (int round = 0; round < 3; round++) {
        uint64_t t0 = now_ns();
        CHECK(wire_send(fd, HRT_SESSION_LIST, 1, "{\"all\":true}", NULL, 0));
        longest = 0;
        do {
            uint64_t ns = next_token(&g, id, &a);
            longest = ns > longest ? ns : longest;
            between++;
        } while (!readable(fd) && now_ns() - t0 < 20000000000u);
        CHECK(wire_recv(fd, &r));
        took = now_ns() - t0;
        const cJSON *s, *list = cJSON_GetObjectItem(r.json, "sessions");
        int n = 0;
        cJSON_ArrayForEach(s, list)
        {
            const cJSON *bytes = cJSON_GetObjectItem(s, "bytes");
            n += cJSON_GetObjectItem(s, "tokens")->valuedouble == TOKENS;
            if (n == 1)
                CHECK(cJSON_GetObjectItem(bytes, "file")->valuedouble > 0);
        }
        CHECK_EQ(n, SESSIONS);
        printf("    %d sessions of %d tokens in %.0f ms, longest gap %.1f ms (alone %.1f)\n", n,
               TOKENS, (double)took / 1e6, (double)longest / 1e6, (double)alone / 1e6);
        wire_reply_fini(&r);
    }
    CHECK(between >= 9); /* made in one go it lets one or two pass each time */
    close(fd);
    answer_clear(&a);
    rig_down(&g, SIGTERM);
}

static void who_asks_for_a_list_may_go_and_sessions_may_go_meanwhile(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    rig_make_ctx(&g, "", 16384);
    make_sessions(&g);
    for (int i = 1; i < 20; i++) {
        int fd = wire_connect(g.core), other = wire_connect(g.core);
        CHECK(wire_send(fd, HRT_SESSION_LIST, 1, "{}", NULL, 0));
        CHECK(wire_send(other, HRT_SESSION_LIST, 1, "{}", NULL, 0));
        usleep((useconds_t)i * 500);
        close(fd);
        rig_id(id);
        r = rig_call(&g, HRT_SESSION_REMOVE, NULL, 0, "{\"id\":\"%s\",\"session\":\"s%d\"}", id,
                     SESSIONS - i);
        CHECK_EQ(r.f.status, 0);
        wire_reply_fini(&r);
        CHECK(wire_recv(other, &r));
        int n = cJSON_GetArraySize(cJSON_GetObjectItem(r.json, "sessions"));
        CHECK(n == SESSIONS - i || n == SESSIONS - i + 1);
        wire_reply_fini(&r);
        close(other);
    }
    int fd = wire_connect(g.core);
    CHECK(wire_send(fd, HRT_SESSION_LIST, 1, "{}", NULL, 0));
    rig_down(&g, SIGTERM); /* with a list half made */
    close(fd);
}

#define CASE(name)                                                                             \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(CASE(a_list_of_many_long_sessions_holds_no_stream_up),
       CASE(who_asks_for_a_list_may_go_and_sessions_may_go_meanwhile))
