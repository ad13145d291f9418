/* test_pages.c - answers at once, with pages for few of them: each says what it says alone. */
#include "tests/daemon/genrig.h"

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
#define SAMPLED                                                                                \
    "\"params\":{\"max_tokens\":40,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true}"

static int32_t ids[2048];
static struct answer a, b;

static void many_at_once_say_what_each_says_alone(void)
{
    enum { N = 6 };
    static struct answer alone[N];
    struct rig g;
    char id[N][33], more[300];

    rig_make(&g, "");
    rig_up(&g);
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 700, 100 + i);
        snprintf(more, sizeof more, ",\"session\":\"a%u\"," SAMPLED, i);
        rig_run(&g, ids, 50 + i * 120, more, &alone[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 700, 100 + i);
        rig_id(id[i]);
        /* Another owner of the same tokens would find their pages: begin with one more. */
        snprintf(more, sizeof more, ",\"session\":\"b%u\"," SAMPLED, i);
        CHECK(rig_start(&g, id[i], ids, 50 + i * 120, more));
    }
    for (uint32_t i = 0; i < N; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Pages for one context only: the others wait, or are sent back and come again. */
static void with_few_pages_sessions_take_turns(void)
{
    enum { N = 5 };
    static struct answer alone[N];
    struct rig g;
    char id[N][33], more[300];

    rig_make(&g, "--page-memory 1MiB");
    rig_up(&g);
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 1500, 200 + i);
        snprintf(more, sizeof more,
                 ",\"session\":\"a%u\",\"params\":{\"max_tokens\":150,\"temperature\":0.9,"
                 "\"seed\":5,\"ignore_eos\":true}",
                 i);
        rig_run(&g, ids, 900 + i * 100, more, &alone[i]);
    }
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 1500, 200 + i);
        rig_id(id[i]);
        snprintf(more, sizeof more,
                 ",\"session\":\"b%u\",\"params\":{\"max_tokens\":150,\"temperature\":0.9,"
                 "\"seed\":5,\"ignore_eos\":true}",
                 i);
        CHECK(rig_start(&g, id[i], ids, 900 + i * 100, more));
    }
    for (uint32_t i = 0; i < N; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Twelve long answers of one user have all pages and wait for more; another comes, and need not
 * wait for them.  They say the same after. */
static void a_user_who_holds_all_pages_gives_some_to_another(void)
{
    enum { N = 12, SAME = 2 };
    static struct answer alone[SAME];
    static const char as[] = "\"as\":\"00112233445566778899aabbccddeeff\"";
    struct wire_reply r = {0};
    struct rig g;
    char id[N][33], mine[33], more[300];
    uint32_t ended = 0, got = 0;

    rig_make_ctx(&g, "--page-memory 1MiB", 4096);
    rig_up(&g);
    for (uint32_t k = 0; k < SAME + N; k++) {
        uint32_t i = k < SAME ? k : k - SAME;

        some_ids(ids, 1000, 300 + i);
        snprintf(more, sizeof more,
                 ",\"session\":\"%c%u\",\"params\":{\"max_tokens\":3000,\"temperature\":0.9,"
                 "\"seed\":5,\"ignore_eos\":true}",
                 k < SAME ? 'a' : 'b', i);
        if (k < SAME) {
            rig_run(&g, ids, 700 + i * 20, more, &alone[i]);
        } else {
            rig_id(id[i]);
            CHECK(rig_start(&g, id[i], ids, 700 + i * 20, more));
        }
    }
    answer_clear(&b);
    some_ids(ids, 900, 400);
    rig_id(mine);
    snprintf(more, sizeof more, ",%s,\"params\":{\"max_tokens\":5,\"ignore_eos\":true}", as);
    CHECK(rig_start(&g, mine, ids, 900, more));
    do {
        wire_reply_fini(&r);
        r = rig_call(&g, HRT_NEXT, NULL, 0,
                     "{%s,\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", as, mine,
                     got);
        got = (uint32_t)wire_num(&r, "cursor");
    } while (r.f.status == 0 && strcmp(wire_str(&r, "state"), "done") != 0);
    CHECK_EQ(r.f.status, 0);
    CHECK_EQ(got, 5);
    wire_reply_fini(&r);
    for (uint32_t i = 0; i < N; i++) {
        r = rig_call(&g, HRT_NEXT, NULL, 0,
                     "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":0}", id[i], i ? 0 : b.n);
        ended += strcmp(wire_str(&r, "state"), "done") == 0;
        wire_reply_fini(&r);
    }
    printf("      %u of %u had ended when the other's answer had\n", ended, N);
    /* Some that began before may end while this process waits for a core. */
    CHECK(ended <= N / 2);
    for (uint32_t i = 0; i < SAME; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    for (uint32_t i = SAME; i < N; i++) {
        r = rig_call(&g, HRT_CANCEL, NULL, 0, "{\"stream\":\"%s\"}", id[i]);
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&b);
}

T_MAIN(CASE(many_at_once_say_what_each_says_alone), CASE(with_few_pages_sessions_take_turns),
       CASE(a_user_who_holds_all_pages_gives_some_to_another))
