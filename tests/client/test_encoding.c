/* test_encoding.c - text in another encoding is converted when that is certain, else refused. */
#include "base/text.h"
#include "client/encoding.h"
#include "tests/t.h"
#include <iconv.h>
#include <stdlib.h>
#include <unistd.h>

static const char words[] = "M\xc3\xbcller gr\xc3\xbc\xc3\x9ft die B\xc3\xa4"
                            "ckerei,\n\tzehn Br\xc3\xb6tchen \xe2\x80\x93 \xf0\x9f\xa6\x94.\n";
static char said[4096];

/* encoding_take of n bytes with --encoding given (NULL: without); what is said goes to said. */
static int take(const char *given, const void *p, size_t n, size_t max, char **ret,
                size_t *ret_n)
{
    static struct args a;
    struct errbuf eb;
    struct cli c = {.json = false};
    const char *const argv[] = {"hearth", "ingest", "x", "--encoding", given};
    char path[] = "/tmp/hearth-t-XXXXXX";
    int fd = mkstemp(path), old = dup(2);
    CHECK_EQ(args_parse(&a, given ? 5 : 3, (char *const *)(uintptr_t)argv, &eb), 0);
    *ret = malloc(n + 1);
    memcpy(*ret, p, n);
    (*ret)[n] = 0;
    *ret_n = n;
    dup2(fd, 2);
    int code = encoding_take(&c, &a, "x.txt", max, false, ret, ret_n);
    dup2(old, 2);
    close(old);
    ssize_t k = pread(fd, said, sizeof said - 1, 0);
    said[k > 0 ? k : 0] = 0;
    close(fd);
    unlink(path);
    return code;
}

/* words in another encoding, with bytes before them. */
static size_t in(const char *name, const char *mark, size_t mark_n, const char *text, char *ret)
{
    iconv_t cd = iconv_open(name, "UTF-8");
    char *src = (char *)(uintptr_t)text, *dst = ret + mark_n;
    size_t left = strlen(text), room = 4000;
    memcpy(ret, mark, mark_n);
    CHECK(cd != (iconv_t)-1 && iconv(cd, &src, &left, &dst, &room) != (size_t)-1);
    iconv_close(cd);
    return (size_t)(dst - ret);
}

static void becomes_words(const char *given, const char *p, size_t n, const char *name)
{
    char *got;
    size_t got_n;
    int code = take(given, p, n, 1 << 20, &got, &got_n);
    if (code != 0 || strcmp(got, words) != 0 || got_n != strlen(words))
        t_fail(__FILE__, __LINE__, "%s: %d \"%s\" (%s)", name, code, got ? got : "", said);
    if (name[0] && !strstr(said, name))
        t_fail(__FILE__, __LINE__, "%s is not said: \"%s\"", name, said);
    if (!name[0] && said[0])
        t_fail(__FILE__, __LINE__, "said of plain UTF-8: \"%s\"", said);
    free(got);
}

static void refused(const char *given, const void *p, size_t n, int code, const char *why)
{
    char *got;
    size_t got_n;
    CHECK_EQ(take(given, p, n, 1 << 20, &got, &got_n), code);
    CHECK(got == NULL);
    if (!strstr(said, why))
        t_fail(__FILE__, __LINE__, "\"%s\" does not say %s", said, why);
}

static void what_is_certain_is_converted_and_said(void)
{
    static const struct {
        const char *name, *mark;
        size_t n;
    } rows[] = {{"UTF-16LE", "\xff\xfe", 2},
                {"UTF-16BE", "\xfe\xff", 2},
                {"UTF-16LE", "", 0},
                {"UTF-16BE", "", 0},
                {"UTF-32LE", "\xff\xfe\0\0", 4},
                {"UTF-32BE", "\0\0\xfe\xff", 4}};
    char b[4096];
    becomes_words(NULL, words, strlen(words), "");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        becomes_words(NULL, b, in(rows[i].name, rows[i].mark, rows[i].n, words, b),
                      rows[i].name);
    becomes_words(NULL, b, in("UTF-8", "\xef\xbb\xbf", 3, words, b), "byte order mark");
}

static void what_is_named_is_converted(void)
{
    char b[4096], *got;
    size_t n = in("LATIN1", "", 0, "M\xc3\xbcller", b), got_n;
    CHECK_EQ(take("latin1", b, n, 100, &got, &got_n), 0);
    CHECK_STR(got, "M\xc3\xbcller");
    CHECK(strstr(said, "latin1"));
    free(got);
    n = in("CP1250", "", 0, "K\xc5\xaf\xc5\x88", b);
    CHECK_EQ(take("cp1250", b, n, 100, &got, &got_n), 0);
    CHECK_STR(got, "K\xc5\xaf\xc5\x88");
    free(got);
    becomes_words("utf-16le", b, in("UTF-16LE", "\xff\xfe", 2, words, b), "utf-16le");
    becomes_words("utf-8", words, strlen(words), "utf-8");
    n = in("LATIN1", "", 0, "\xc3\xbc\xc3\xbc", b);
    CHECK_EQ(take("latin1", b, n, 3, &got, &got_n), 1); /* two bytes become four */
    CHECK(strstr(said, "split it"));
    refused("latin99", "x", 1, 2, "iconv -l");
    refused("utf-8", "a\xff", 2, 1, "from byte 1");
    refused("ascii", "a\xc3\xbc", 3, 1, "from byte 1");
    refused("utf-16le", "a\0b", 3, 1, "from byte 2");
    refused("latin1", "a\0b", 3, 1, "zero byte at 1");
}

static void what_is_not_certain_is_refused_with_the_way_out(void)
{
    char b[4096];
    size_t n = in("LATIN1", "", 0, "M\xc3\xbcller", b);
    refused(NULL, b, n, 1, "byte 0xfc at 1");
    refused(NULL, b, n, 1, "--encoding latin1");
    refused(NULL, "text\0\0\0\0end", 11, 1, "zero byte at 4");
    refused(NULL, "abc\0def\n", 8, 1, "zero byte at 3"); /* no Chinese, for all its pairs */
    refused(NULL, "a\0b\0c\0d\0e\0f\0g\0hi", 16, 1, "zero byte at 1");
    refused(NULL, "\0a\0b\0c\0d\0e\0f\0ghi", 16, 1, "zero byte at 0");
    n = in("UTF-16LE", "", 0, "\xd0\x96\xd0\x96\xd0\x96\xd0\x96\xd0\x96 \xd0\x96", b);
    refused(NULL, b, n, 1, "--encoding"); /* it may be anything */
    static const uint16_t numbers[] = {1, 2, 3, 400, 5, 6, 7, 8, 900, 10};
    refused(NULL, numbers, sizeof numbers, 1, "zero byte");
    refused(NULL,
            "\xff\xfe"
            "a\0b",
            5, 1, "is not UTF-16LE from byte 4");
    refused(NULL, "\xff\xfe\0\xdc", 4, 1, "is not UTF-16LE"); /* half a pair */
}

/* Whatever comes in: UTF-8 without zeros comes out, or it is refused. */
static void noise_never_passes(void)
{
    uint64_t s = t_seed();
    for (int i = 0; i < 3000; i++) {
        char b[64], *got;
        size_t n = 1 + (size_t)(s >> 33) % 40, got_n;
        for (size_t k = 0; k < n; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            b[k] = (char)((s >> 40) % 3 ? s >> 33 : (s >> 40) % 2 ? 0 : 'a');
        }
        int code = take(NULL, b, n, 1 << 20, &got, &got_n);
        if (code == 0 && text_bad(got, got_n) != got_n)
            t_fail(__FILE__, __LINE__, "noise %d came through", i);
        free(got);
    }
}

static void of_nothing_nothing_is_said(void)
{
    char *got;
    size_t n;
    CHECK_EQ(take("latin1", "", 0, 100, &got, &n), 0);
    CHECK(n == 0 && said[0] == 0);
    free(got);
    CHECK_EQ(take("no-such", "", 0, 100, &got, &n), CLI_USAGE);
    CHECK(strstr(said, "no-such") != NULL);
}

T_MAIN({"of_nothing_nothing_is_said", of_nothing_nothing_is_said},
       {"what_is_certain_is_converted_and_said", what_is_certain_is_converted_and_said},
       {"what_is_named_is_converted", what_is_named_is_converted},
       {"what_is_not_certain_is_refused_with_the_way_out",
        what_is_not_certain_is_refused_with_the_way_out},
       {"noise_never_passes", noise_never_passes})
