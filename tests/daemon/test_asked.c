/* test_asked.c - two ways to ask for the same are the same, two things asked for are not. */
#include "daemon/asked.h"
#include "daemon/call.h"
#include "tests/t.h"
#include <stdlib.h>

static void hash(const char *json, const char *tail, uint8_t ret[ASKED_BYTES])
{
    cJSON *o = cJSON_Parse(json);
    struct call c = {.json = o,
                     .tail = (const uint8_t *)tail,
                     .tail_bytes = tail ? (uint32_t)strlen(tail) : 0};

    CHECK(o);
    CHECK_EQ(asked_hash(&c, ret), 0);
    cJSON_Delete(o);
}

static bool same(const char *a, const char *a_tail, const char *b, const char *b_tail)
{
    uint8_t x[ASKED_BYTES], y[ASKED_BYTES];

    hash(a, a_tail, x);
    hash(b, b_tail, y);
    return memcmp(x, y, sizeof x) == 0;
}

#define USER(content) "{\"input\":\"messages\",\"messages\":[{\"role\":\"user\"" content "}]}"

static void the_way_it_is_written_does_not_count(void)
{
    static const char *const row[][2] = {
        {"{}",
         "{\"create\":true,\"fork\":false,\"params\":{},\"model\":\"\",\"session\":null}"},
        {"{\"params\":{\"top_p\":0.5,\"top_k\":40}}",
         "{\"params\":{\"top_k\":4e1,\"top_p\":5e-1}}"},
        {"{\"params\":{\"seed\":9007199254740991}}",
         "{\"params\":{\"seed\":\"9007199254740991\"}}"},
        {"{\"params\":{\"min_p\":0}}", "{\"params\":{\"min_p\":-0.0}}"},
        {"{\"params\":{\"logit_bias\":{\"1\":2,\"3\":4}}}",
         "{\"params\":{\"logit_bias\":{\"3\":4,\"1\":2}}}"},
        {"{\"input\":\"prompt\",\"prompt\":\"x\"}",
         "{\"prompt\":\"\\u0078\",\"input\":\"prompt\"}"},
        {USER(",\"content\":\"ab\""), USER(",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{"
                                           "\"type\":\"text\",\"text\":\"b\"}]")},
        {USER(",\"content\":\"\""), USER(",\"content\":null,\"name\":\"n\"")},
        {USER(",\"content\":\"\""), USER("")},
        {"{}", "{\"prompt\":\"not asked for\",\"id\":\"0\",\"hints\":{\"prefix\":false}}"},
    };

    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (!same(row[i][0], NULL, row[i][1], NULL))
            t_fail(__FILE__, __LINE__, "%s is not %s", row[i][0], row[i][1]);
    CHECK(
        same("{\"input\":\"prompt\",\"prompt\":\"xy\"}", NULL, "{\"input\":\"prompt\"}", "xy"));
    CHECK(same(USER(",\"content\":\"a\""), NULL, USER(",\"content\":\"a\""), "ignored"));
}

static void what_is_said_counts(void)
{
    static const char *const row[] = {
        "{}",
        "{\"session\":\"a\"}",
        "{\"model\":\"a\"}",
        "{\"create\":false}",
        "{\"fork\":true}",
        "{\"keep\":false}",
        "{\"raw\":true}",
        "{\"special\":true}",
        "{\"system\":\"a\"}",
        "{\"session\":3}",
        "{\"create\":3}",
        "{\"input\":\"prompt\",\"prompt\":\"a\"}",
        "{\"input\":\"documents\"}",
        "{\"input\":\"tokens\"}",
        "{\"params\":{\"max_tokens\":1}}",
        "{\"params\":{\"top_k\":1}}",
        "{\"params\":{\"seed\":1}}",
        "{\"params\":{\"logprobs\":1}}",
        "{\"params\":{\"ignore_eos\":true}}",
        "{\"params\":{\"stop\":[\"a\"]}}",
        "{\"params\":{\"stop\":[\"a\",\"b\"]}}",
        "{\"params\":{\"stop\":[\"b\",\"a\"]}}",
        "{\"params\":{\"stop\":[\"ab\"]}}",
        "{\"params\":{\"samplers\":[]}}",
        "{\"params\":{\"samplers\":[\"top_k\"]}}",
        "{\"params\":{\"samplers\":[\"top_k\",\"min_p\"]}}",
        "{\"params\":{\"samplers\":[\"min_p\",\"top_k\"]}}",
        "{\"params\":{\"samplers\":\"top_k\"}}",
        "{\"params\":{\"logit_bias\":{\"1\":2}}}",
        "{\"params\":{\"logit_bias\":{\"2\":1}}}",
        USER(",\"content\":\"a\""),
        USER(",\"content\":\"b\""),
        USER(",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\"}]"),
        USER(",\"content\":\"\"},{\"role\":\"user\",\"content\":\"a\""),
        "{\"input\":\"messages\",\"messages\":[{\"role\":\"system\",\"content\":\"a\"}]}",
    };
    enum { N = sizeof row / sizeof *row };

    for (int i = 0; i < N; i++)
        for (int j = 0; j < i; j++)
            if (same(row[i], NULL, row[j], NULL))
                t_fail(__FILE__, __LINE__, "%s is taken for %s", row[i], row[j]);
    CHECK(!same("{\"input\":\"tokens\"}", "abcd", "{\"input\":\"tokens\"}", "abce"));
    CHECK(!same("{\"input\":\"tokens\"}", "abcd", "{\"input\":\"documents\"}", "abcd"));
}

T_MAIN({"the_way_it_is_written_does_not_count", the_way_it_is_written_does_not_count},
       {"what_is_said_counts", what_is_said_counts})
