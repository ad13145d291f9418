/* test_pages.c - answers at once, with pages for few of them: each says what it says alone. */
#include "tests/daemon/genrig.h"

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
#define SAMPLED                                                                                \
    "\"params\":{\"max_tokens\":40,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true}"
#define LONG(more)                                                                             \
    "\"params\":{\"max_tokens\":16000,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true" more \
    "}"
#define BRIEF                                                                                  \
    "\"params\":{\"max_tokens\":3000,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true}"
#define OTHER "\"as\":\"00112233445566778899aabbccddeeff\""

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

static double told(struct rig *g, const char *name)
{
    struct wire_reply r = rig_call(g, HRT_MODEL_SHOW, NULL, 0, "{\"model\":\"m\"}");
    double n = cJSON_GetNumberValue(cJSON_GetObjectItem(r.json, name));

    wire_reply_fini(&r);
    return n;
}

/* A session that outgrew them could never be gone on with: the end is the context's, and is said
 * as such. */
static void the_context_is_what_the_pages_hold(void)
{
    static int32_t many[8200];
    struct wire_reply r;
    struct rig g;
    char id[33];

    rig_make_ctx(&g, "--page-memory 1MiB", 16384);
    rig_up(&g);
    some_ids(ids, 3, 1);
    rig_run(&g, ids, 3, ",\"params\":{\"max_tokens\":0}", &a);
    const double ctx = told(&g, "context"), per = told(&g, "bytes_per_token");
    const uint32_t n = (uint32_t)ctx;
    CHECK(n && n < 8192 && ctx == told(&g, "page_bytes") / per);
    r = rig_call(&g, HRT_STATUS, NULL, 0, "{}");
    CHECK(strstr(cJSON_GetArrayItem(cJSON_GetObjectItem(r.json, "warnings"), 0)->valuestring,
                 "of 16384 tokens, what its page-memory holds"));
    wire_reply_fini(&r);
    /* An answer ends there as it does at any context. */
    some_ids(many, n + 1, 2);
    rig_run(&g, many, n - 40, ",\"session\":\"s\",\"create\":true," LONG(""), &a);
    CHECK_STR(wire_str(&a.last, "finish"), "length");
    CHECK_EQ(a.n, 40);
    /* One that is read alone may fill it; one that is answered leaves room for a token. */
    rig_run(&g, many, n, ",\"params\":{\"max_tokens\":0}", &a);
    CHECK_STR(wire_str(&a.last, "finish"), "stop");
    for (uint32_t more = 0; more < 2; more++) {
        rig_id(id);
        r = rig_call(&g, HRT_START, many, (n + more) * 4,
                     "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\",%s}", id,
                     more ? "\"params\":{\"max_tokens\":0}" : SAMPLED);
        CHECK_STR(wire_str(&r, "slug"), "context_length_exceeded");
        CHECK(strstr(wire_str(&r, "message"), "(by the setting `page-memory`, its file"));
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* What there is of an answer, from its beginning: nothing of it counts as read. */
static struct wire_reply peek(struct rig *g, const char *id)
{
    return rig_call(g, HRT_NEXT, NULL, 0, "{\"stream\":\"%s\",\"cursor\":0,\"max_wait_ms\":0}",
                    id);
}

/* They have said so much that they wait for their reader, who looks at them now and then. */
static void wait_paused(struct rig *g, char id[][33], uint32_t n)
{
    for (uint32_t paused = 0; paused < n;) {
        paused = 0;
        for (uint32_t i = 0; i < n; i++) {
            struct wire_reply r = peek(g, id[i]);
            bool runs = r.f.status == 0 && strcmp(wire_str(&r, "state"), "done") != 0;

            paused += r.f.tail_len > STREAM_UNREAD_MAX;
            wire_reply_fini(&r);
            CHECK(runs);
            if (!runs)
                return;
        }
        usleep(100000);
    }
}

/* To its end, as another user; false: it waits for good. */
static bool read_other(struct rig *g, const char *id, uint32_t n)
{
    uint32_t got = 0, idle = 0;
    bool done = false;

    while (!done && idle < 4 * T_SLOWER) {
        struct wire_reply r = rig_call(
            g, HRT_NEXT, NULL, 0,
            "{" OTHER ",\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", id, got);
        uint32_t to = (uint32_t)wire_num(&r, "cursor");

        CHECK_EQ(r.f.status, 0);
        done = strcmp(wire_str(&r, "state"), "done") == 0;
        idle = to == got ? idle + 1 : 0;
        got = to;
        wire_reply_fini(&r);
    }
    return done && got == n;
}

static void cancel(struct rig *g, const char *id)
{
    struct wire_reply r = rig_call(g, HRT_CANCEL, NULL, 0, "{\"stream\":\"%s\"}", id);

    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
}

static void start_named(struct rig *g, char id[33], const char *name, uint32_t no, uint32_t n,
                        const char *params)
{
    char more[300];

    snprintf(more, sizeof more, ",\"session\":\"%s%u\",%s", name, no, params);
    rig_id(id);
    CHECK(rig_start(g, id, ids, n, more));
}

/* Two answers of one user have all pages and go on no further, since nobody reads them; ten more of
 * his wait for theirs.  Another comes, and need not wait for them.  Two of those say the same after. */
static void a_user_who_holds_all_pages_gives_some_to_another(void)
{
    enum { HOLD = 2, N = 12, SAME = 2 };
    static struct answer alone[SAME];
    struct wire_reply r = {0};
    struct rig g;
    char id[N][33], mine[33];
    uint32_t ended = 0;

    rig_make_ctx(&g, "--page-memory 8MiB", 16384);
    rig_up(&g);
    for (uint32_t i = 0; i < SAME; i++) {
        some_ids(ids, 1000, 300 + HOLD + i);
        answer_clear(&alone[i]);
        start_named(&g, mine, "a", i, 700 + i * 20, BRIEF);
        CHECK(rig_read(&g, mine, &alone[i], UINT32_MAX));
    }
    for (uint32_t i = 0; i < N; i++) {
        some_ids(ids, 1000, 300 + i);
        if (i < HOLD) /* one byte a token: both come as far, and hardly a page is left */
            start_named(&g, id[i], "b", i, 300, LONG(",\"logit_bias\":{\"97\":100}"));
        else
            start_named(&g, id[i], "b", i, 700 + (i - HOLD) * 20,
                        i < HOLD + SAME ? BRIEF : LONG(""));
        if (i == HOLD - 1)
            wait_paused(&g, id, HOLD);
    }
    some_ids(ids, 900, 400);
    rig_id(mine);
    CHECK(rig_start(&g, mine, ids, 900,
                    "," OTHER ",\"params\":{\"max_tokens\":5,\"ignore_eos\":true}"));
    CHECK(read_other(&g, mine, 5));
    for (uint32_t i = 0; i < N; i++) {
        r = peek(&g, id[i]);
        ended += strcmp(wire_str(&r, "state"), "done") == 0;
        wire_reply_fini(&r);
    }
    printf("      %u of %u had ended when the other's answer had\n", ended, N);
    CHECK(ended <= 3);
    for (uint32_t i = 0; i < N; i++)
        if (i < HOLD || i >= HOLD + SAME)
            cancel(&g, id[i]);
    for (uint32_t i = 0; i < SAME; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id[HOLD + i], &b, UINT32_MAX));
        CHECK(same(&alone[i], &b));
        answer_clear(&alone[i]);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&b);
}

/* Answers that nobody reads hold all pages; what their own user asks next has some of these, and
 * they wait without, until somebody reads. */
static void what_nobody_reads_gives_pages_to_the_next_of_its_user(void)
{
    enum { HOLD = 2 };
    struct wire_reply r = {0};
    struct rig g;
    char id[HOLD][33], mine[33];

    rig_make_ctx(&g, "--page-memory 8MiB", 16384);
    rig_up(&g);
    for (uint32_t i = 0; i < HOLD; i++) {
        some_ids(ids, 1000, 300 + i);
        start_named(&g, id[i], "b", i, 300, LONG(",\"logit_bias\":{\"97\":100}"));
    }
    wait_paused(&g, id, HOLD);
    for (uint32_t k = 0; k < 2; k++) {
        some_ids(ids, 2000, 400 + k);
        start_named(&g, mine, "c", k, 1900,
                    "\"params\":{\"max_tokens\":5,\"ignore_eos\":true}");
        answer_clear(&b);
        CHECK(rig_read(&g, mine, &b, UINT32_MAX));
        CHECK_EQ(b.n, 5);
    }
    for (uint32_t i = 0; i < HOLD; i++) {
        r = peek(&g, id[i]);
        CHECK_EQ(r.f.status, 0);
        CHECK(strcmp(wire_str(&r, "state"), "done") != 0);
        wire_reply_fini(&r);
        cancel(&g, id[i]);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&b);
}

T_MAIN(CASE(many_at_once_say_what_each_says_alone), CASE(the_context_is_what_the_pages_hold),
       CASE(with_few_pages_sessions_take_turns),
       CASE(a_user_who_holds_all_pages_gives_some_to_another),
       CASE(what_nobody_reads_gives_pages_to_the_next_of_its_user))
