/* test_gen.c - answers of the real daemon with a tiny model: what comes out is the same whatever
 * happens in between. */
#include "tests/daemon/genrig.h"

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
#define SAMPLED                                                                                \
    "\"params\":{\"max_tokens\":40,\"temperature\":0.9,\"seed\":5,\"ignore_eos\":true}"

static int32_t ids[2048];
static struct answer a, b;

static void a_cut_anywhere_does_not_show_after_a_restart(void)
{
    static const uint32_t cut[] = {1, 2, 17, 255, 256, 257, 300, 511, 512, 513, 769, 1024};
    struct rig g;
    char more[256];

    some_ids(ids, 2048, 1);
    rig_make(&g, "");
    rig_up(&g);
    for (uint32_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        uint32_t n = cut[i], head = n > 2 ? n - 2 : n - 1;

        snprintf(more, sizeof more, ",\"session\":\"ref%u\"," SAMPLED, n);
        rig_run(&g, ids, n, more, &a);
        /* The same in two parts: ingest, die, go on with the rest. */
        if (head) {
            snprintf(more, sizeof more, ",\"session\":\"cut%u\",\"params\":{\"max_tokens\":0}",
                     n);
            rig_run(&g, ids, head, more, &b);
            CHECK_EQ(b.n, 0);
        }
        rig_down(&g, i % 2 ? SIGKILL : SIGTERM);
        rig_up(&g);
        snprintf(more, sizeof more, ",\"session\":\"cut%u\"," SAMPLED, n);
        rig_run(&g, ids + head, n - head, more, &b);
        CHECK(same(&a, &b));
        CHECK_EQ(usage(&b, "usage", "context"), n);
        if (head >= 256)
            CHECK(usage(&b, "usage", "reused") >= head / 256 * 256);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Does its turn i say that it was cut short? */
static bool cut(struct rig *g, const char *name, int i)
{
    struct wire_reply r = rig_call(g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}", name);
    const cJSON *t = cJSON_GetArrayItem(cJSON_GetObjectItem(r.json, "turns"), i);
    const char *finish = cJSON_GetStringValue(cJSON_GetObjectItem(t, "finish"));
    bool is = cJSON_IsTrue(cJSON_GetObjectItem(t, "interrupted"));

    CHECK(t && is == (finish && strcmp(finish, "interrupted") == 0));
    wire_reply_fini(&r);
    return is;
}

static void killed_in_the_middle_the_same_id_goes_on(void)
{
    struct rig g;
    char id[33];

    some_ids(ids, 300, 2);
    rig_make(&g, "");
    rig_up(&g);
    const char *more = ",\"params\":{\"max_tokens\":700,\"temperature\":3,\"seed\":9,"
                       "\"top_p\":0.6,\"samplers\":\"temperature;top_p\","
                       "\"ignore_eos\":true},\"session\":\"x\"";
    const char *ref = ",\"params\":{\"max_tokens\":700,\"temperature\":3,\"seed\":9,"
                      "\"top_p\":0.6,\"samplers\":\"temperature;top_p\","
                      "\"ignore_eos\":true},\"session\":\"ref\"";
    rig_run(&g, ids, 300, ref, &a);
    rig_id(id);
    answer_clear(&b);
    CHECK(rig_start(&g, id, ids, 300, more));
    for (uint32_t i = 0; i < 6; i++) {
        rig_read(&g, id, &b, b.n + (i == 0 ? 1 : 100));
        rig_down(&g, i % 2 ? SIGTERM : SIGKILL);
        rig_up(&g);
        CHECK(cut(&g, "x", 1)); /* until somebody asks for it again */
        if (i % 3 == 1)         /* a resend attaches, a bare NEXT does too */
            CHECK(rig_start(&g, id, ids, 300, more) && !cut(&g, "x", 1));
    }
    CHECK(rig_read(&g, id, &b, UINT32_MAX));
    CHECK(same(&a, &b));
    CHECK_STR(wire_str(&b.last, "finish"), "length");
    CHECK(!cut(&g, "x", 1));
    /* And again from the beginning, from memory and from the store. */
    for (int i = 0; i < 2; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, id, &b, UINT32_MAX));
        CHECK(same(&a, &b));
        rig_down(&g, SIGKILL);
        rig_up(&g);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void alternatives_come_back_with_the_tokens(void)
{
    struct rig g;
    char id[33];

    some_ids(ids, 30, 6);
    rig_make(&g, "");
    rig_up(&g);
    const char *more = ",\"params\":{\"max_tokens\":600,\"temperature\":1,\"seed\":9,"
                       "\"logprobs\":3,\"ignore_eos\":true},\"session\":\"x\"";
    const char *ref = ",\"params\":{\"max_tokens\":600,\"temperature\":1,\"seed\":9,"
                      "\"logprobs\":3,\"ignore_eos\":true},\"session\":\"ref\"";
    rig_run(&g, ids, 30, ref, &a);
    CHECK_EQ(a.n_top, 600);
    CHECK_EQ(a.top[0].n, 3);
    rig_id(id);
    answer_clear(&b);
    CHECK(rig_start(&g, id, ids, 30, more));
    rig_read(&g, id, &b, 400);
    for (int i = 0; i < 2; i++) { /* while it is open, and when it has ended */
        rig_down(&g, SIGKILL);
        rig_up(&g);
        answer_clear(&b);
        CHECK(rig_read(&g, id, &b, UINT32_MAX));
        CHECK(same(&a, &b));
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* From the beginning of a stream to its end; how many replies that took. */
static int read_all(struct rig *g, const char *id, uint32_t n)
{
    uint32_t cursor = 0;

    for (int replies = 1;; replies++) {
        struct wire_reply r =
            rig_call(g, HRT_NEXT, NULL, 0,
                     "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", id, cursor);
        const cJSON *list = r.json ? cJSON_GetObjectItem(r.json, "logprobs") : NULL;
        uint32_t to = (uint32_t)wire_num(&r, "cursor"), at = 0, in_tail = 0;
        bool done = strcmp(wire_str(&r, "state"), "done") == 0, failed = r.f.status != HRT_OK;

        if (failed)
            t_fail(__FILE__, __LINE__, "NEXT at %u: %s", cursor, wire_str(&r, "message"));
        for (; at + HRT_REC_BYTES <= r.f.tail_len; in_tail++)
            at += HRT_REC_BYTES + ld16(r.tail + at + 12);
        if (!failed) {
            CHECK_EQ(cJSON_GetArraySize(list), to - cursor);
            CHECK_EQ(in_tail, to - cursor);
        }
        wire_reply_fini(&r);
        if (done)
            CHECK_EQ(to, n);
        if (done || failed)
            return replies;
        cursor = to;
    }
}

static void alternatives_of_a_long_answer_come_in_several_replies(void)
{
    enum { N = 9000 };
    struct rig g;
    char id[33];

    some_ids(ids, 30, 9);
    rig_make_ctx(&g, "", 16384);
    rig_up(&g);
    rig_id(id);
    CHECK(rig_start(&g, id, ids, 30,
                    ",\"params\":{\"max_tokens\":9000,\"temperature\":1,\"seed\":9,"
                    "\"logprobs\":20,\"ignore_eos\":true}"));
    (void)read_all(&g, id, N);
    CHECK(read_all(&g, id, N) > 1); /* all of it is more than the JSON of one frame */
    rig_down(&g, SIGTERM);
}

/* Bytes in the log's files up to the zeros behind the last frame. */
static uint64_t log_bytes(const struct rig *g)
{
    static uint8_t buf[64 << 20];
    uint64_t sum = 0;

    for (int i = 1; i < 100; i++) {
        char path[300];

        snprintf(path, sizeof path, "%s/state/log/seg-%04d", g->base, i);
        FILE *f = fopen(path, "rb");
        size_t n = f ? fread(buf, 1, sizeof buf, f) : 0;

        while (n && !buf[n - 1])
            n--;
        sum += n;
        if (f)
            fclose(f);
    }
    return sum;
}

static void a_long_answer_costs_the_log_what_its_tokens_cost(void)
{
    static const uint32_t n[] = {1000, 2000, 4000};
    uint64_t cost[3];
    struct rig g;
    char more[200];

    some_ids(ids, 30, 8);
    rig_make_ctx(&g, "", 8192);
    rig_up(&g);
    rig_run(&g, ids, 10, ",\"params\":{\"max_tokens\":1}", &a); /* the log has a file */
    for (int i = 0; i < 3; i++) {
        uint64_t before = log_bytes(&g);

        snprintf(more, sizeof more,
                 ",\"params\":{\"max_tokens\":%u,\"temperature\":1,\"seed\":9,"
                 "\"ignore_eos\":true},\"session\":\"%u\"",
                 n[i], n[i]);
        rig_run(&g, ids, 30, more, &a);
        CHECK_EQ(a.n, n[i]);
        cost[i] = log_bytes(&g) - before;
        printf("    %u tokens: %llu bytes\n", n[i], (unsigned long long)cost[i]);
    }
    /* Four for the id, four for the logarithm, and a frame for each block of them. */
    CHECK(cost[2] - cost[1] < 2000 * 12);
    CHECK(cost[2] - cost[1] < (cost[1] - cost[0]) * 5 / 2);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

static void what_was_cut_short_can_be_closed_by_another_request(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 400, 5);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids, 300,
                    ",\"session\":\"s\",\"params\":{\"max_tokens\":1500,\"ignore_eos\":true}"));
    rig_read(&g, id, &a, 300);
    /* While it runs nobody else may. */
    char other[33];
    rig_id(other);
    r = rig_call(&g, HRT_START, ids, 4,
                 "{\"id\":\"%s\",\"session\":\"s\",\"input\":\"tokens\"}", other);
    CHECK_EQ(r.f.status, HRT_FAILED_PRECONDITION);
    CHECK_STR(wire_str(&r, "slug"), "session_busy");
    wire_reply_fini(&r);
    CHECK(!cut(&g, "s", 1));
    rig_down(&g, SIGTERM);
    rig_up(&g);
    CHECK(cut(&g, "s", 1) && !cut(&g, "s", 0)); /* also before anybody has gone on */
    rig_run(&g, ids + 300, 10, ",\"session\":\"s\"," SAMPLED, &b);
    CHECK(usage(&b, "usage", "context") >= 610);
    CHECK(cut(&g, "s", 1));
    /* The one that was cut off says so. */
    a.n = 0;
    a.bytes = 0;
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    CHECK_STR(cJSON_GetStringValue(
                  cJSON_GetObjectItem(cJSON_GetObjectItem(a.last.json, "error"), "slug")),
              "interrupted");
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Where there is more of the answer than was durable, and where there is nothing of it. */
static void what_a_rewind_takes_back_of_a_cut_answer_leaves_no_turn(void)
{
    static const char *const name[2] = {"much", "none"};
    struct wire_reply r;
    struct rig g;
    char id[33], more[200];

    some_ids(ids, 300, 5);
    rig_make(&g, "");
    for (int i = 0; i < 2; i++) {
        rig_up(&g);
        rig_id(id);
        answer_clear(&a);
        snprintf(more, sizeof more,
                 ",\"session\":\"%s\",\"params\":{\"max_tokens\":1500,\"ignore_eos\":true}",
                 name[i]);
        CHECK(rig_start(&g, id, ids, 300, more));
        rig_read(&g, id, &a, i ? 1 : 300);
        rig_down(&g, SIGKILL);
        rig_up(&g);
        CHECK(cut(&g, name[i], 1));
        rig_id(id);
        r = rig_call(&g, HRT_SESSION_REWIND, NULL, 0,
                     "{\"id\":\"%s\",\"session\":\"%s\",\"to_tokens\":300}", id, name[i]);
        CHECK_EQ(wire_num(&r, "turns"), 1);
        wire_reply_fini(&r);
        rig_down(&g, SIGKILL);
        rig_up(&g);
        r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}", name[i]);
        CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(r.json, "turns")), 1);
        CHECK_EQ(wire_num(&r, "tokens"), 300);
        wire_reply_fini(&r);
        rig_down(&g, SIGTERM);
    }
    answer_clear(&a);
}

static void a_cancelled_answer_is_kept_and_a_cancelled_ingest_goes_on(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 1800, 6);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids, 100,
                    ",\"session\":\"s\",\"params\":{\"max_tokens\":1800,\"ignore_eos\":true}"));
    rig_read(&g, id, &a, 20);
    r = rig_call(&g, HRT_CANCEL, NULL, 0, "{\"stream\":\"%s\"}", id);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    CHECK_STR(wire_str(&a.last, "finish"), "cancelled");
    CHECK(cJSON_IsTrue(cJSON_GetObjectItem(a.last.json, "durable")));
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    CHECK_EQ(wire_num(&r, "tokens"), 100 + (int)a.n);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void the_context_is_a_limit_that_is_said(void)
{
    struct wire_reply r;
    struct rig g;
    char id[33];

    some_ids(ids, 2048, 7);
    rig_make(&g, "");
    rig_up(&g);
    rig_id(id);
    r = rig_call(&g, HRT_START, ids, 2048 * 4,
                 "{\"id\":\"%s\",\"session\":\"s\",\"input\":\"tokens\"}", id);
    CHECK_EQ(r.f.status, HRT_OUT_OF_RANGE);
    CHECK_STR(wire_str(&r, "slug"), "context_length_exceeded");
    CHECK_EQ(wire_num(&r, "tokens"), 2048);
    CHECK_EQ(wire_num(&r, "context"), 2048);
    wire_reply_fini(&r);
    r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"s\"}");
    CHECK_EQ(r.f.status, HRT_NOT_FOUND); /* nothing was changed */
    wire_reply_fini(&r);
    /* What asks for no answer may fill it to the last token. */
    rig_run(&g, ids, 2048, ",\"session\":\"t\",\"params\":{\"max_tokens\":0}", &a);
    CHECK_EQ(usage(&a, "usage", "context"), 2048);
    rig_run(&g, ids, 2000,
            ",\"session\":\"s\",\"params\":{\"ignore_eos\":true,\"max_tokens\":2048}", &a);
    CHECK_EQ(a.n, 48);
    CHECK_STR(wire_str(&a.last, "finish"), "length");
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* The range that a refusal names is the range: its ends are taken, and what rounds to them. */
static void the_ends_of_every_range_are_taken(void)
{
    static const char *const ends[] = {"temperature\":1e-300",
                                       "temperature\":1e-40",
                                       "temperature\":100",
                                       "top_p\":1e-300",
                                       "top_p\":1",
                                       "min_p\":0",
                                       "min_p\":1",
                                       "min_p\":0.9999999999999",
                                       "repeat_penalty\":1e-300",
                                       "repeat_penalty\":100",
                                       "presence_penalty\":-2",
                                       "frequency_penalty\":2"};
    static const char *const beyond[][2] = {
        {"top_p\":0", "(0,1], got 0"},
        {"min_p\":1.1", "[0,1], got 1.1"},
        {"presence_penalty\":3", "[-2,2], got 3"},
        {"frequency_penalty\":-2.1", "[-2,2], got -2.1"},
    };
    struct rig g;
    char more[200], id[33];

    some_ids(ids, 40, 9);
    rig_make(&g, "");
    rig_up(&g);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        snprintf(more, sizeof more, ",\"params\":{\"max_tokens\":4,\"ignore_eos\":true,\"%s}",
                 ends[i]);
        rig_run(&g, ids, 40, more, &a);
        if (a.n != 4)
            t_fail(__FILE__, __LINE__, "%s: %s", ends[i], wire_str(&a.last, "message"));
    }
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        rig_id(id);
        struct wire_reply r =
            rig_call(&g, HRT_START, ids, 40,
                     "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\",\"params\":{\"%s}}",
                     id, beyond[i][0]);
        CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
        if (!strstr(wire_str(&r, "message"), beyond[i][1]))
            t_fail(__FILE__, __LINE__, "%s: %s", beyond[i][0], wire_str(&r, "message"));
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* Jobs of every kind wait for the worker, of requests that are there and that are not. */
static void told_to_stop_with_work_at_the_worker_it_ends_well(void)
{
    enum { TEXT_BYTES = 1 << 20, ROUNDS = 6 };
    char *text = malloc(TEXT_BYTES), json[256], id[33];
    struct wire_reply r;
    struct rig g;

    for (uint32_t i = 0; i < TEXT_BYTES; i++)
        text[i] = i % 7 == 6 ? ' ' : (char)('a' + i % 23);
    rig_make(&g, "");
    rig_up(&g);
    r = rig_call(&g, HRT_COUNT, "a", 1, "{\"model\":\"m\",\"raw\":true}"); /* loads it */
    CHECK_EQ(r.f.status, HRT_OK);
    wire_reply_fini(&r);
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        CHECK(wire_send(g.fd, HRT_COUNT, 100 + n, "{\"model\":\"m\",\"raw\":true}", text,
                        TEXT_BYTES));
        rig_id(id);
        snprintf(json, sizeof json,
                 "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"prompt\",\"raw\":true}", id);
        CHECK(wire_send(g.fd, HRT_START, 200 + n, json, text, TEXT_BYTES));
        snprintf(json, sizeof json, "{\"stream\":\"%s\"}", id);
        if (n % 2)
            CHECK(wire_send(g.fd, HRT_CANCEL, 300 + n, json, NULL, 0));
        CHECK(wire_send(g.fd, HRT_TOKENIZE, 400 + n, "{\"model\":\"m\"}", text, 1000));
    }
    /* Its reply says that the frames before it were taken up. */
    CHECK(wire_send(g.fd, HRT_PING, 999, "{}", NULL, 0));
    for (uint64_t got = 0; got != 999;) {
        if (!wire_recv(g.fd, &r)) {
            t_fail(__FILE__, __LINE__, "no reply to PING");
            break;
        }
        got = r.f.id;
        wire_reply_fini(&r);
    }
    free(text);
    rig_down(&g, SIGTERM);
}

T_MAIN(CASE(a_cut_anywhere_does_not_show_after_a_restart),
       CASE(killed_in_the_middle_the_same_id_goes_on),
       CASE(alternatives_come_back_with_the_tokens),
       CASE(alternatives_of_a_long_answer_come_in_several_replies),
       CASE(a_long_answer_costs_the_log_what_its_tokens_cost),
       CASE(what_was_cut_short_can_be_closed_by_another_request),
       CASE(a_cancelled_answer_is_kept_and_a_cancelled_ingest_goes_on),
       CASE(what_a_rewind_takes_back_of_a_cut_answer_leaves_no_turn),
       CASE(the_context_is_a_limit_that_is_said), CASE(the_ends_of_every_range_are_taken),
       CASE(told_to_stop_with_work_at_the_worker_it_ends_well))
