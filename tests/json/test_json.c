/* test_json.c - what JSON from a peer is let through, and with what words it is refused. */
#include "base/bounds.h"
#include "tests/t.h"
#include "json/json.h"
#include <stdlib.h>
#include <string.h>

static int try(const char *text, size_t n, char *words)
{
    /* A heap copy of the exact size: a read past its end is seen by the sanitizer. */
    char *p = malloc(n ? n : 1);
    struct errbuf eb = {""};
    cJSON *v = NULL;

    memcpy(p, text, n);
    int r = json_parse(&v, p, n, &eb);
    free(p);
    if (words)
        memcpy(words, eb.s, sizeof eb.s);
    cJSON_Delete(v);
    return r;
}

static void good_texts_pass(void)
{
    static const char *const good[] = {"",
                                       "{}",
                                       " {\n} ",
                                       "{\"a\":1}",
                                       "{\"a\":-0.5e+10,\"b\":[],\"c\":{}}",
                                       "{\"a\":\"\\u00e9\\ud83d\\ude00\\n\"}",
                                       "{\"\":null,\"a\":[true,false,null]}",
                                       "{\"a\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"}",
                                       "{\"a\":{\"a\":1},\"b\":{\"a\":1}}",
                                       "{\"a\":[[[[[[]]]]]]}"};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (try(good[i], strlen(good[i]), NULL) != 0)
            t_fail(__FILE__, __LINE__, "refused: %s", good[i]);
}

/* Texts and what they say. */
static void half_a_surrogate_pair_is_a_replacement_character(void)
{
#define FFFD "\xef\xbf\xbd"
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"{\"a\":\"\\ud800\"}", FFFD},
        {"{\"a\":\"x\\uDBFF\"}", "x" FFFD},
        {"{\"a\":\"\\udc00y\"}", FFFD "y"},
        {"{\"a\":\"\\ud800\\u0041\"}", FFFD "A"},
        {"{\"a\":\"\\ud800\\ud83d\\ude00\"}", FFFD "\xf0\x9f\x98\x80"},
        {"{\"a\":\"\\ud83d\\ude00\\ude00\"}", "\xf0\x9f\x98\x80" FFFD},
        {"{\"a\":\"\\udc00\\ud800\"}", FFFD FFFD},
        {"{\"a\":\"\\ud800\\n\\\\ud800\"}", FFFD "\n\\ud800"},
        {"{\"a\":\"\\\\\\ud800\"}", "\\" FFFD},
    };
#undef FFFD
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct errbuf eb = {""};
        cJSON *v = NULL;
        size_t n = strlen(rows[i].text);
        char *p = malloc(n);

        memcpy(p, rows[i].text, n);
        CHECK_EQ(json_parse(&v, p, n, &eb), 0);
        free(p);
        const char *got = cJSON_GetStringValue(cJSON_GetObjectItem(v, "a"));
        if (!got || strcmp(got, rows[i].want) != 0)
            t_fail(__FILE__, __LINE__, "%s: got %s %s", rows[i].text, got ? got : "nothing",
                   eb.s);
        cJSON_Delete(v);
    }
}

static void bad_texts_are_refused_with_the_place_and_the_reason(void)
{
    static const struct {
        const char *text, *want;
    } bad[] = {
        {"[]", "want an object"},
        {"1", "want an object"},
        {" ", "want an object"},
        {"{", "want a member's name"},
        {"{\"a\"}", "want ':'"},
        {"{\"a\":}", "want a value"},
        {"{\"a\":1,}", "want a member's name"},
        {"{\"a\":[1,]}", "want a value"},
        {"{\"a\":1]", "want ',' or '}'"},
        {"{\"a\":[1}", "want ',' or ']'"},
        {"{}x", "bytes after the end"},
        {"{}{}", "bytes after the end"},
        {"{\"a\":01}", "want ',' or '}'"},
        {"{\"a\":1.}", "want a digit after the point"},
        {"{\"a\":.5}", "want a value"},
        {"{\"a\":+1}", "want a value"},
        {"{\"a\":1e}", "want a digit in the exponent"},
        {"{\"a\":-}", "want a digit"},
        {"{\"a\":NaN}", "want a value"},
        {"{\"a\":Infinity}", "want a value"},
        {"{\"a\":tru}", "want a value"},
        {"{\"a\":\"x", "ends inside a string"},
        {"{\"a\":\"\\", "ends inside a string"},
        {"{\"a\":\"\\q\"}", "unknown escape"},
        {"{\"a\":\"\\u12\"}", "four hexadecimal digits"},
        {"{\"a\":\"\\u0000\"}", "\\u0000"},
        {"{\"a\":\"\\ud800", "ends inside a string"},
        {"{\"a\":\"\\ud800\\u00\"}", "four hexadecimal digits"},
        {"{\"a\":\"\n\"}", "control character"},
        {"{\"a\":\"\xff\"}", "not UTF-8"},
        {"{\"a\":\"\xc0\xaf\"}", "not UTF-8"},
        {"{\"a\":\"\xed\xa0\x80\"}", "not UTF-8"},
        {"{\"a\":\"\xf4\x90\x80\x80\"}", "not UTF-8"},
        {"{\"a\":\"\xe2\x82\"}", "not UTF-8"},
        {"{\"a\":1,\"a\":2}", "\"a\" is there twice"},
        {"{\"x\":[{\"b\":1,\"c\":2,\"b\":3}]}", "\"b\" is there twice"},
        {"{\"a\":1,\"\\u0061\":2}", "\"a\" is there twice"},
        {"{\"a\":1111111111111111111111111111111111111111111111111111111111111}",
         "more than 60 characters"},
        {"{'a':1}", "want a member's name"},
        {"{\"a\":1 /* */}", "want ',' or '}'"},
    };
    char words[sizeof((struct errbuf *)0)->s];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (try(bad[i].text, strlen(bad[i].text), words) == 0 || !strstr(words, bad[i].want))
            t_fail(__FILE__, __LINE__, "%s: \"%s\", want \"%s\"", bad[i].text, words,
                   bad[i].want);
}

static void a_zero_byte_in_the_text_is_refused(void)
{
    CHECK(try("{\"a\":\"x\0y\"}", 11, NULL) < 0);
    CHECK(try("{}\0", 3, NULL) < 0);
}

static void depth_32_passes_and_33_does_not(void)
{
    for (int depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
        char t[256] = "{\"a\":";
        size_t n = strlen(t);

        for (int i = 1; i < depth; i++)
            t[n++] = '[';
        for (int i = 1; i < depth; i++)
            t[n++] = ']';
        t[n++] = '}';
        CHECK_EQ(try(t, n, NULL) == 0, depth == JSON_DEPTH_MAX);
    }
}

static void a_text_of_too_many_values_is_refused_before_a_tree_is_made(void)
{
    size_t n = 6 << 20;
    char *t = malloc(n), words[sizeof((struct errbuf *)0)->s];

    memcpy(t, "{\"a\":[", 6);
    for (size_t i = 6; i < n - 2; i += 2)
        memcpy(t + i, "1,", 2);
    memcpy(t + n - 3, "1]}", 3);
    CHECK(try(t, n, words) < 0);
    CHECK(strstr(words, "more than 262144 values") != NULL);
    free(t);
}

/* Whatever passes must be what the library makes of it: no crash, no leak, on 200,000 texts
 * that are nearly right. */
static void mutated_texts_never_harm(void)
{
    static const char base[] =
        "{\"id\":\"00ff\",\"params\":{\"top_p\":0.9,\"stop\":[\"a\",\"b\\n\"],"
        "\"seed\":12},\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9\"}]}";
    char t[sizeof base];
    int passed = 0;

    srand((unsigned)t_seed());
    for (int i = 0; i < 200000; i++) {
        size_t n = sizeof base - 1;

        memcpy(t, base, n);
        for (int k = rand() % 3; k >= 0; k--)
            t[(size_t)rand() % n] =
                (char)(rand() % 4 ? "{}[],:\"\\0e-. u"[rand() % 15] : rand());
        if (rand() % 4 == 0)
            n = (size_t)rand() % n;
        passed += try(t, n, NULL) == 0;
    }
    CHECK(passed > 0);
}

T_MAIN({"good_texts_pass", good_texts_pass},
       {"half_a_surrogate_pair_is_a_replacement_character",
        half_a_surrogate_pair_is_a_replacement_character},
       {"bad_texts_are_refused_with_the_place_and_the_reason",
        bad_texts_are_refused_with_the_place_and_the_reason},
       {"a_zero_byte_in_the_text_is_refused", a_zero_byte_in_the_text_is_refused},
       {"depth_32_passes_and_33_does_not", depth_32_passes_and_33_does_not},
       {"a_text_of_too_many_values_is_refused_before_a_tree_is_made",
        a_text_of_too_many_values_is_refused_before_a_tree_is_made},
       {"mutated_texts_never_harm", mutated_texts_never_harm})
