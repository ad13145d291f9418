/* test_openai.c - a chat completion request: every field honoured or refused by its name. */
#include "daemon/front/fjson.h"
#include "daemon/front/openai.h"
#include "tests/t.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* Parses; the START as text (malloc'd) or NULL, with the error. */
static char *start_of(const char *body, struct openai_req *q, struct openai_error *e)
{
    struct errbuf eb;
    cJSON *o = front_parse(body, strlen(body), &eb);
    if (!o) {
        snprintf(e->message, sizeof e->message, "%s", eb.s);
        return NULL;
    }
    openai_exact(o, body, strlen(body));
    int r = openai_parse(o, q, e);
    cJSON_Delete(o);
    return r == 0 ? q->start : NULL;
}

static void what_is_not_honoured_is_refused_by_name(void)
{
    static const struct {
        const char *body, *param, *slug;
    } rows[] = {
        {"{" MSG ",\"tools\":[{\"type\":\"function\"}]}", "tools", "unsupported_field"},
        {"{" MSG ",\"tool_choice\":\"required\"}", "tool_choice", "unsupported_field"},
        {"{" MSG ",\"functions\":[{}]}", "functions", "unsupported_field"},
        {"{" MSG ",\"frobnicate\":false}", "frobnicate", "unsupported_field"},
        {"{" MSG ",\"mirostat\":2}", "mirostat", "unsupported_field"},
        {"{" MSG ",\"verbosity\":\"low\"}", "verbosity", "unsupported_field"},
        {"{" MSG ",\"modalities\":[\"text\",\"audio\"]}", "modalities", "unsupported_field"},
        {"{" MSG ",\"n\":2}", "n", "unsupported_field"},
        {"{" MSG ",\"n\":\"1\"}", "n", "unsupported_field"},
        {"{" MSG ",\"store\":true}", "store", "unsupported_field"},
        {"{" MSG ",\"audio\":{\"voice\":\"x\"}}", "audio", "unsupported_field"},
        {"{" MSG ",\"audio\":{}}", "audio", "unsupported_field"},
        {"{" MSG ",\"web_search_options\":{}}", "web_search_options", "unsupported_field"},
        {"{" MSG ",\"guided_json\":{}}", "guided_json", "unsupported_field"},
        {"{" MSG ",\"json_schema\":{}}", "json_schema", "unsupported_field"},
        {"{" MSG ",\"structured_outputs\":{}}", "structured_outputs", "unsupported_field"},
        {"{" MSG ",\"grammar\":\"root ::= x\"}", "grammar", "unsupported_field"},
        {"{" MSG ",\"tools\":{}}", "tools", "unsupported_field"},
        {"{" MSG ",\"tool_choice\":{}}", "tool_choice", "unsupported_field"},
        {"{" MSG ",\"response_format\":{}}", "response_format", "unsupported_field"},
        {"{" MSG ",\"reasoning_effort\":\"low\"}", "reasoning_effort", "unsupported_field"},
        {"{" MSG ",\"service_tier\":\"flex\"}", "service_tier", "unsupported_field"},
        {"{" MSG ",\"response_format\":{\"type\":\"json_object\"}}", "response_format",
         "unsupported_field"},
        {"{" MSG ",\"response_format\":\"text\"}", "response_format", "unsupported_field"},
        {"{" MSG ",\"temperature\":-0.1}", "temperature", "bad_field"},
        {"{" MSG ",\"temperature\":2.1}", "temperature", "bad_field"},
        {"{" MSG ",\"temperature\":\"1\"}", "temperature", "bad_field"},
        {"{" MSG ",\"top_p\":-0.1}", "top_p", "bad_field"},
        {"{" MSG ",\"top_p\":1.5}", "top_p", "bad_field"},
        {"{" MSG ",\"top_k\":1.5}", "top_k", "bad_field"},
        {"{" MSG ",\"min_p\":2}", "min_p", "bad_field"},
        {"{" MSG ",\"repeat_penalty\":0}", "repeat_penalty", "bad_field"},
        {"{" MSG ",\"max_tokens\":0}", "max_tokens", "bad_field"},
        {"{" MSG ",\"max_tokens\":1.5}", "max_tokens", "bad_field"},
        {"{" MSG ",\"max_tokens\":5,\"max_completion_tokens\":6}", "max_completion_tokens",
         "bad_field"},
        {"{" MSG ",\"seed\":1.5}", "seed", "bad_field"},
        {"{" MSG ",\"seed\":1e300}", "seed", "bad_field"},
        {"{" MSG ",\"presence_penalty\":3}", "presence_penalty", "bad_field"},
        {"{" MSG ",\"frequency_penalty\":-3}", "frequency_penalty", "bad_field"},
        {"{" MSG ",\"stop\":5}", "stop", "bad_field"},
        {"{" MSG ",\"stop\":[\"a\",5]}", "stop", "bad_field"},
        {"{" MSG ",\"stop\":\"\"}", "stop", "bad_field"},
        {"{" MSG ",\"stream\":1}", "stream", "bad_field"},
        {"{" MSG ",\"stream_options\":{\"include_usage\":true}}", "stream_options",
         "bad_field"},
        {"{" MSG ",\"stream\":true,\"stream_options\":{\"x\":1}}", "stream_options",
         "unsupported_field"},
        {"{" MSG ",\"logit_bias\":{\"5\":101}}", "logit_bias", "bad_field"},
        {"{" MSG ",\"logit_bias\":{\"a\":1}}", "logit_bias", "bad_field"},
        {"{" MSG ",\"logit_bias\":{\"01\":5,\"1\":-5}}", "logit_bias", "bad_field"},
        {"{" MSG ",\"logit_bias\":{\"00\":5}}", "logit_bias", "bad_field"},
        {"{" MSG ",\"metadata\":{\"a\":{\"b\":\"c\"}}}", "metadata", "bad_field"},
        {"{" MSG ",\"metadata\":{\"a\":\"b\",\"c\":1}}", "metadata", "bad_field"},
        {"{" MSG ",\"samplers\":7}", "samplers", "bad_field"},
        {"{" MSG ",\"samplers\":[\"top_k\",7]}", "samplers", "bad_field"},
        {"{" MSG ",\"logprobs\":5}", "logprobs", "bad_field"},
        {"{" MSG ",\"top_logprobs\":3}", "top_logprobs", "bad_field"},
        {"{" MSG ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "bad_field"},
        {"{" MSG ",\"model\":5}", "model", "bad_field"},
        {"{" MSG ",\"user\":5}", "user", "bad_field"},
        {"{" MSG ",\"metadata\":5}", "metadata", "bad_field"},
        {"{}", "messages", "bad_field"},
        {"{\"messages\":[]}", "messages", "bad_field"},
        {"{\"messages\":\"hi\"}", "messages", "bad_field"},
        {"{\"messages\":[5]}", "messages[0]", "bad_field"},
        {"{\"messages\":[{}]}", "messages[0].role", "bad_field"},
        {"{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages[0].role",
         "unsupported_field"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "bad_field"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content",
         "bad_field"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"refusal\":\"no\"}]}",
         "messages[0].refusal", "unsupported_field"},
        {"{" MSG ",\"stream\":true,\"stream_options\":{\"include_obfuscation\":true}}",
         "stream_options", "unsupported_field"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[{}]}]}",
         "messages[0].tool_calls", "unsupported_field"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
         "messages[0].content[0]", "unsupported_field"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}",
         "messages[0].content[0]", "bad_field"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct openai_req q = {0};
        struct openai_error e = {0};
        char *s = start_of(rows[i].body, &q, &e);
        if (s || e.code != 400 || strcmp(e.param, rows[i].param) != 0 ||
            strcmp(e.slug, rows[i].slug) != 0)
            t_fail(__FILE__, __LINE__, "%s: got %s, param \"%s\", slug %s: %s", rows[i].body,
                   s ? "accepted" : "refused", e.param, e.slug ? e.slug : "-", e.message);
        if (!s && rows[i].param[0] &&
            !strstr(e.message, rows[i].param[0] == 'm' ? "m" : rows[i].param))
            t_fail(__FILE__, __LINE__, "%s: the message does not name it: %s", rows[i].body,
                   e.message);
        free(s);
    }
}

static void bounds_are_printed_as_whole_numbers(void)
{
    static const char *const rows[][2] = {
        {"{" MSG ",\"seed\":-9223372036854775809}",
         "seed: want an integer in [-9223372036854775808,9223372036854775807], got "
         "-9223372036854775809"},
        {"{" MSG ",\"seed\":9223372036854775808}",
         "seed: want an integer in [-9223372036854775808,9223372036854775807], got "
         "9223372036854775808"},
        {"{" MSG ",\"seed\":1e300}",
         "seed: want an integer in [-9223372036854775808,9223372036854775807], got "},
        {"{" MSG ",\"max_tokens\":0}", "max_tokens: want an integer in [1,1073741824], got 0"},
        {"{" MSG ",\"repeat_penalty\":0}", "repeat_penalty: want a number in (0,10], got 0"},
        {"{" MSG ",\"presence_penalty\":3}", "want a number in [-2,2], got 3"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct openai_req q = {0};
        struct openai_error e = {0};
        char *s = start_of(rows[i][0], &q, &e);
        if (s || !strstr(e.message, rows[i][1]))
            t_fail(__FILE__, __LINE__, "%s: got \"%s\"", rows[i][0], e.message);
        free(s);
    }
}

static void what_is_honoured_reaches_start(void)
{
    static const struct {
        const char *body, *want;
    } rows[] = {
        {"{" MSG "}", "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"},
        {"{" MSG "}", "\"params\":{}"},
        {"{" MSG ",\"model\":\"m\"}", "\"model\":\"m\""},
        {"{" MSG ",\"temperature\":0.8}", "\"temperature\":0.8"},
        {"{" MSG ",\"top_p\":0.9}", "\"top_p\":0.9"},
        {"{" MSG ",\"top_k\":40}", "\"top_k\":40"},
        {"{" MSG ",\"min_p\":0.05}", "\"min_p\":0.05"},
        {"{" MSG ",\"repeat_penalty\":1.1}", "\"repeat_penalty\":1.1"},
        {"{" MSG ",\"max_tokens\":48}", "\"max_tokens\":48"},
        {"{" MSG ",\"max_completion_tokens\":48}", "\"max_tokens\":48"},
        {"{" MSG ",\"seed\":9007199254740991}", "\"seed\":9007199254740991"},
        {"{" MSG ",\"seed\":-1}", "\"seed\":\"18446744073709551615\""},
        {"{" MSG ",\"seed\":9223372036854775807}", "\"seed\":\"9223372036854775807\""},
        {"{" MSG ",\"seed\":-9223372036854775808}", "\"seed\":\"9223372036854775808\""},
        {"{" MSG ",\"seed\":9007199254740993 }", "\"seed\":\"9007199254740993\""},
        {"{\"seed\" :\n-9007199254740995," MSG "}", "\"seed\":\"18437736874454810621\""},
        {"{\"metadata\":{\"seed\":\"1\",\"b\":\"\\\"seed\"},\"user\":\"seed\",\"seed\":"
         "9007199254740993," MSG "}",
         "\"seed\":\"9007199254740993\""},
        {"{" MSG ",\"seed\":1e18}", "\"seed\":\"1000000000000000000\""},
        {"{" MSG ",\"top_p\":0}", "\"top_p\":1e-06"},
        {"{" MSG ",\"top_k\":-1}", "\"top_k\":0"},
        {"{" MSG ",\"max_tokens\":5,\"max_completion_tokens\":5}", "\"max_tokens\":5"},
        {"{" MSG ",\"store\":false}", "\"keep\":false"},
        {"{" MSG ",\"cache_prompt\":true}", "\"params\":{}"},
        {"{" MSG ",\"cache_prompt\":false}", "\"hints\":{\"prefix\":false}"},
        {"{" MSG ",\"ignore_eos\":true}", "\"ignore_eos\":true"},
        {"{" MSG ",\"stop\":\"x\"}", "\"stop\":[\"x\"]"},
        {"{" MSG ",\"stop\":[\"x\",\"\\n\"]}", "\"stop\":[\"x\",\"\\n\"]"},
        {"{" MSG ",\"presence_penalty\":-2}", "\"presence_penalty\":-2"},
        {"{" MSG ",\"frequency_penalty\":2}", "\"frequency_penalty\":2"},
        {"{" MSG ",\"logit_bias\":{\"17\":-100}}", "\"logit_bias\":{\"17\":-100}"},
        {"{" MSG ",\"samplers\":[\"top_k\",\"temperature\"]}",
         "\"samplers\":[\"top_k\",\"temperature\"]"},
        {"{" MSG ",\"samplers\":\"top_k\"}", "\"samplers\":\"top_k\""},
        {"{" MSG ",\"logprobs\":true,\"top_logprobs\":3}", "\"logprobs\":3"},
        {"{" MSG ",\"logprobs\":true}", "\"logprobs\":1"},
        {"{" MSG ",\"n\":1,\"user\":\"u\",\"store\":false,\"metadata\":{\"a\":\"b\"}}",
         "\"input\":\"messages\""},
        {"{" MSG ",\"response_format\":{\"type\":\"text\"}}", "\"input\":\"messages\""},
        {"{" MSG ",\"tools\":null,\"stop\":null,\"temperature\":null}", "\"params\":{}"},
        {"{\"messages\":[{\"role\":\"developer\",\"content\":\"x\"}]}", "\"role\":\"system\""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{"
         "\"type\":\"text\",\"text\":\"b\"}]}]}",
         "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"refusal\":null,\"tool_"
         "calls\":null,\"annotations\":[]}]}",
         "{\"role\":\"assistant\",\"content\":\"x\"}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct openai_req q = {0};
        struct openai_error e = {0};
        char *s = start_of(rows[i].body, &q, &e);
        if (!s)
            t_fail(__FILE__, __LINE__, "%s: refused: %s", rows[i].body, e.message);
        else if (!strstr(s, rows[i].want))
            t_fail(__FILE__, __LINE__, "%s: got %s, want %s in it", rows[i].body, s,
                   rows[i].want);
        openai_req_fini(&q);
    }
}

static void what_changes_nothing_is_taken_and_hints_are_named(void)
{
#define TURNS(more)                                                                            \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","           \
    "\"content\":"                                                                             \
    "\"yes\"," more "},{\"role\":\"user\",\"content\":\"go\"}]}"
    static const struct {
        const char *body, *ignored;
    } rows[] = {
        {TURNS("\"provider_specific_fields\":{\"refusal\":null}"),
         "\"messages[].provider_specific_fields\""},
        {TURNS("\"refusal\":\"\",\"tool_calls\":[],\"function_call\":null"), ""},
        {TURNS("\"reasoning_content\":\"\",\"audio\":null,\"x\":null"),
         "\"messages[].reasoning_content\""},
        {TURNS("\"reasoning_content\":\"hm\",\"id\":\"msg_1\""),
         "\"messages[].reasoning_content\",\"messages[].id\""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"ann\"},"
         "{\"role\":\"user\",\"content\":\"x\",\"name\":\"ann\"}]}",
         "\"messages[].name\""},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\","
         "\"cache_"
         "control\":{\"type\":\"ephemeral\"}}]}]}",
         "\"messages[].content[].cache_control\""},
        {"{" MSG ",\"tools\":[],\"tool_choice\":\"none\",\"parallel_tool_calls\":false}", ""},
        {"{" MSG ",\"functions\":[],\"function_call\":\"auto\",\"tool_choice\":\"auto\"}", ""},
        {"{" MSG ",\"reasoning_effort\":\"none\",\"service_tier\":\"auto\"}", ""},
        {"{" MSG ",\"modalities\":[\"text\"],\"verbosity\":\"medium\"}", ""},
        {"{" MSG ",\"frobnicate\":[],\"more\":{},\"still\":\"\",\"none\":null}",
         "\"frobnicate\",\"more\",\"still\""},
        {"{" MSG ",\"reasoning\":{},\"think\":{},\"grammar\":\"\"}", "\"reasoning\",\"think\""},
        {"{" MSG ",\"audio\":null,\"web_search_options\":null,\"json_schema\":null}", ""},
        {"{" MSG ",\"logit_bias\":{\"0\":1,\"10\":-1},\"metadata\":{}}", ""},
        {"{" MSG ",\"stream\":true,\"stream_options\":{\"frob\":false}}",
         "\"stream_options.frob\""},
        {"{" MSG ",\"prompt_cache_key\":\"x\",\"user\":\"u\",\"safety_identifier\":\"s\"}",
         "\"prompt_cache_key\",\"user\",\"safety_identifier\""},
        {"{" MSG ",\"mirostat\":0,\"typical_p\":1.0,\"repetition_penalty\":1}", ""},
        {"{" MSG ",\"stream\":true,\"stream_options\":{\"include_usage\":true,"
         "\"include_obfuscation\":false}}",
         ""},
        {"{" MSG ",\"response_format\":{\"type\":\"text\",\"x\":1}}", ""},
    };
#undef TURNS
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct openai_req q = {0};
        struct openai_error e = {0};
        if (!start_of(rows[i].body, &q, &e))
            t_fail(__FILE__, __LINE__, "%s: refused: %s", rows[i].body, e.message);
        else if (strcmp(q.ignored, rows[i].ignored) != 0)
            t_fail(__FILE__, __LINE__, "%s: got ignored %s, want %s", rows[i].body, q.ignored,
                   rows[i].ignored);
        openai_req_fini(&q);
    }
    /* More names than there is room for: some are left out, none is cut. */
    char body[8000] = "{" MSG ",\"user\":\"u\"";
    strcpy(strstr(body, "\"}]"), "\"");
    for (int i = 0; i < 60; i++)
        sprintf(body + strlen(body), ",\"member_number_%d\":5", i);
    strcat(body, "}]}");
    struct openai_req q = {0};
    struct openai_error e = {0};
    CHECK(start_of(body, &q, &e));
    char list[600];
    snprintf(list, sizeof list, "{\"l\":[%s]}", q.ignored);
    cJSON *o = front_parse(list, strlen(list), NULL);
    CHECK(o && cJSON_GetArraySize(cJSON_GetObjectItem(o, "l")) > 5);
    cJSON_Delete(o);
    openai_req_fini(&q);
}

static void every_request_has_an_id_of_its_own(void)
{
    struct openai_req a = {0}, b = {0};
    struct openai_error e;
    char *s = start_of("{" MSG "}", &a, &e), *t = start_of("{" MSG "}", &b, &e);
    CHECK(strlen(a.id) == 32 && strspn(a.id, "0123456789abcdef") == 32);
    CHECK(strcmp(a.id, b.id) != 0);
    CHECK(s && strstr(s, a.id));
    free(s);
    free(t);
}

static void stream_and_usage_are_understood(void)
{
    struct openai_req q = {0};
    struct openai_error e;
    free(start_of("{" MSG ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}", &q,
                  &e));
    CHECK(q.stream && q.include_usage);
    q = (struct openai_req){0};
    free(start_of("{" MSG ",\"logprobs\":true}", &q, &e));
    CHECK(!q.stream && q.logprobs && q.top_logprobs == 0);
}

static void bodies_that_are_no_object_are_refused_with_words(void)
{
    static const char *const rows[] = {"",
                                       "{",
                                       "[]",
                                       "5",
                                       "\"x\"",
                                       "nul",
                                       "{\"a\":1}x",
                                       "{\"a\":\xff}",
                                       "{\"a\":01}",
                                       "{\"a\":\"b\nc\"}",
                                       "{\"a\":1,\"a\":2}",
                                       "{\"a\":[{\"role\":1,\"role\":2}]}",
                                       "{\"a\":\"\xc0\xaf\"}",
                                       "{\"a\":\"\xed\xa0\x80\"}",
                                       "{\"a\":\"\xf4\x90\x80\x80\"}"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct errbuf eb = {""};
        cJSON *o = front_parse(rows[i], strlen(rows[i]), &eb);
        if (o || !eb.s[0])
            t_fail(__FILE__, __LINE__, "\"%s\": %s", rows[i], o ? "accepted" : "no words");
        cJSON_Delete(o);
    }
    struct errbuf eb = {""};
    CHECK(!front_parse("{\"a\":\0}", 7, &eb));
    CHECK(!front_parse("{\"a\":\"b\\u0000c\"}", 16, &eb));
    CHECK(strstr(eb.s, "\\u0000") != NULL);
    cJSON *two = front_parse("{\"a\":\"b\\\\u0000c\"}", 17, &eb); /* a backslash, then text */
    CHECK(two != NULL);
    cJSON_Delete(two);
    char deep[400] = "{\"a\":";
    memset(deep + 5, '[', 100);
    CHECK(!front_parse(deep, strlen(deep), &eb));
    CHECK(strstr(eb.s, "32"));
}

static void a_byte_order_mark_is_no_part_of_a_body(void)
{
    struct openai_req q = {0};
    struct openai_error e = {0};
    CHECK(start_of("\xef\xbb\xbf{" MSG "}", &q, &e) != NULL);
    openai_req_fini(&q);
    CHECK(!start_of("\xef\xbb\xbf\xef\xbb\xbf{" MSG "}", &q, &e));
    CHECK(!start_of("\xef\xbb{" MSG "}", &q, &e));
    e.message[0] = 0;
    CHECK(!start_of("\xef\xbb\xbf", &q, &e) && strstr(e.message, "the body is empty"));
}

static void half_a_surrogate_pair_is_a_replacement_character(void)
{
    struct openai_req q = {0};
    struct openai_error e = {0};
    char *s = start_of("{\"messages\":[{\"role\":\"user\",\"content\":\"a\\ud83d b\\ude00\"}]}",
                       &q, &e);
    CHECK(s && strstr(s, "\"a\xef\xbf\xbd b\xef\xbf\xbd\""));
    openai_req_fini(&q);
    s = start_of("{\"messages\":[{\"role\":\"user\",\"content\":\"\\ud83d\\ude00\"}]}", &q, &e);
    CHECK(s && strstr(s, "\"\xf0\x9f\x98\x80\""));
    openai_req_fini(&q);
}

/* Each compared with all before it they would hold the front, and whoever asks it, for minutes. */
static void members_by_the_hundred_thousand_cost_no_time(void)
{
    enum { MEMBERS = 130000 };
    struct openai_req q = {0};
    struct openai_error e = {0};
    struct fbuf b = {0};
    for (int twin = 0; twin < 2; twin++) {
        fbuf_puts(&b, "{");
        for (int i = 0; i < MEMBERS; i++)
            fbuf_printf(&b, "\"k%06d\":null,", i % (MEMBERS - twin));
        fbuf_puts(&b, MSG "}");
        clock_t t0 = clock();
        char *s = start_of(b.p, &q, &e);
        CHECK((s != NULL) == !twin);
        CHECK((clock() - t0) / CLOCKS_PER_SEC < 5 * T_SLOWER);
        if (s)
            openai_req_fini(&q);
        fbuf_fini(&b);
    }
    CHECK(strstr(e.message, "\"k000000\" is there twice"));
}

static void strings_are_escaped_and_read_back(void)
{
    struct fbuf b = {0};
    char s[256];
    for (int i = 1; i < 128; i++)
        s[i - 1] = (char)i;
    s[127] = 0;
    fbuf_puts(&b, "{\"s\":");
    fbuf_json_str(&b, s, 127);
    fbuf_puts(&b, "}");
    cJSON *o = front_parse(b.p, b.n, NULL);
    CHECK(o && strcmp(front_str(o, "s", ""), s) == 0);
    cJSON_Delete(o);
    fbuf_fini(&b);
}

/* Wherever a sentence cuts a client's words, it does so between two characters. */
static void what_is_shown_of_a_request_is_whole_characters(void)
{
    static const char *const rows[] = {
        "{" MSG ",\"%s\":1}", "{" MSG ",\"tool_choice\":\"%s\"}",
        "{\"messages\":[{\"role\":\"%s\",\"content\":\"x\"}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"%s\"}]}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":{\"%s\":1}}]}",
        "{" MSG ",\"stream\":true,\"stream_options\":{\"%s\":true}}",
        "{" MSG ",\"logit_bias\":{\"%s\":1}}", "{" MSG ",\"temperature\":\"%s\"}",
        "{" MSG ",\"metadata\":\"%s\"}",
        /* taken: the name is in hearth.ignored */
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"%s\":1}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\","
        "\"%s\":1}]}]}"};
    static const char *const letters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\xa6\x94"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t k = 0; k < 4 * 3; k++) {
            char words[400], body[800];
            size_t n = (size_t)snprintf(words, sizeof words, "%.*s", (int)(k % 4), "abc");
            while (n < 240)
                n += (size_t)snprintf(words + n, sizeof words - n, "%s", letters[k / 4]);
            const char *at = strstr(rows[i], "%s");
            snprintf(body, sizeof body, "%.*s%s%s", (int)(at - rows[i]), rows[i], words,
                     at + 2);
            struct openai_req q = {0};
            struct openai_error e = {0};
            bool taken = start_of(body, &q, &e) != NULL;
            char *s = openai_error_json(400, "bad_field", e.param, e.message);
            CHECK_EQ(taken, i >= sizeof rows / sizeof *rows - 2);
            if (!front_utf8_ok(s, strlen(s)) || strstr(s, "\xef\xbf\xbd") ||
                !front_utf8_ok(q.ignored, strlen(q.ignored)) ||
                strstr(q.ignored, "\xef\xbf\xbd"))
                t_fail(__FILE__, __LINE__, "row %zu, %zu: %s %s", i, k, s, q.ignored);
            free(s);
            openai_req_fini(&q);
        }
}

static void what_is_written_is_utf8(void)
{
    static const struct {
        const char *in, *out;
    } rows[] = {{"caf\xe9", "\"caf\xef\xbf\xbd\""},
                {"\xff\"\xc3", "\"\xef\xbf\xbd\\\"\xef\xbf\xbd\""},
                {"a\xf0\x9f\xa6", "\"a\xef\xbf\xbd\""},
                {"\xf0\x9f\n\xa6\x94", "\"\xef\xbf\xbd\\n\xef\xbf\xbd\""},
                {"\xed\xa0\x80x", "\"\xef\xbf\xbdx\""},
                {"\xc3\xa9\xf0\x9f\xa6\x94", "\"\xc3\xa9\xf0\x9f\xa6\x94\""},
                {"", "\"\""}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct fbuf b = {0};
        fbuf_json_str(&b, rows[i].in, strlen(rows[i].in));
        CHECK_STR(b.p, rows[i].out);
        fbuf_fini(&b);
    }
    /* Whatever a cut leaves. */
    char *s = openai_error_json(400, "bad_field", "p\xc3", "cut here: \xe2\x82");
    CHECK(front_utf8_ok(s, strlen(s)));
    free(s);
}

static void errors_have_openais_shape(void)
{
    char *s = openai_error_json(429, "queue_full", "", "say \"when\"");
    cJSON *o = front_parse(s, strlen(s), NULL);
    const cJSON *e = cJSON_GetObjectItem(o, "error");
    CHECK(strcmp(front_str(e, "message", ""), "say \"when\"") == 0);
    CHECK(strcmp(front_str(e, "type", ""), "rate_limit_error") == 0);
    CHECK(strcmp(front_str(e, "code", ""), "queue_full") == 0);
    CHECK(cJSON_IsNull(cJSON_GetObjectItem(e, "param")));
    cJSON_Delete(o);
    free(s);
}

T_MAIN({"what_is_not_honoured_is_refused_by_name", what_is_not_honoured_is_refused_by_name},
       {"bounds_are_printed_as_whole_numbers", bounds_are_printed_as_whole_numbers},
       {"what_is_honoured_reaches_start", what_is_honoured_reaches_start},
       {"what_changes_nothing_is_taken_and_hints_are_named",
        what_changes_nothing_is_taken_and_hints_are_named},
       {"every_request_has_an_id_of_its_own", every_request_has_an_id_of_its_own},
       {"stream_and_usage_are_understood", stream_and_usage_are_understood},
       {"bodies_that_are_no_object_are_refused_with_words",
        bodies_that_are_no_object_are_refused_with_words},
       {"a_byte_order_mark_is_no_part_of_a_body", a_byte_order_mark_is_no_part_of_a_body},
       {"half_a_surrogate_pair_is_a_replacement_character",
        half_a_surrogate_pair_is_a_replacement_character},
       {"members_by_the_hundred_thousand_cost_no_time",
        members_by_the_hundred_thousand_cost_no_time},
       {"strings_are_escaped_and_read_back", strings_are_escaped_and_read_back},
       {"what_is_shown_of_a_request_is_whole_characters",
        what_is_shown_of_a_request_is_whole_characters},
       {"what_is_written_is_utf8", what_is_written_is_utf8},
       {"errors_have_openais_shape", errors_have_openais_shape})
