/* test_out.c - what the command line writes: numbers, words, bars, tables, JSON. */
#include "tests/t.h"
#include "base/clock.h"
#include "client/jsonout.h"
#include "client/progress.h"
#include "client/split.h"
#include "client/table.h"
#include "client/words.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SAYS(got, want)                                                                        \
    do {                                                                                       \
        const char *g_ = (got);                                                                \
        if (strcmp(g_, want) != 0)                                                             \
            t_fail(__FILE__, __LINE__, "got \"%s\", want \"%s\"", g_, want);                   \
    } while (0)

static void numbers_read_as_people_write_them(void)
{
    char b[WORDS_BYTES];
    SAYS(words_count(b, 0), "0");
    SAYS(words_count(b, 999), "999");
    SAYS(words_count(b, 412330), "412,330");
    SAYS(words_count(b, 1048576), "1,048,576");
    SAYS(words_count(b, -1234), "-1,234");
    SAYS(words_count(b, INFINITY), "0");
    SAYS(words_tokens(b, 1), "1 token");
    SAYS(words_tokens(b, 0), "0 tokens");
    SAYS(words_tokens(b, 412330), "412,330 tokens");
    SAYS(words_share(b, 0.999), "about 99 %");
    SAYS(words_share(b, 0.004), "less than 1 %");
    SAYS(words_share(b, -1), "none");
    SAYS(words_short(b, 830), "830");
    SAYS(words_short(b, 212400), "212k");
    SAYS(words_short(b, 1048576), "1.05M");
    SAYS(words_bytes(b, 0), "0 B");
    SAYS(words_bytes(b, 98362432), "93.8 MiB");
    SAYS(words_bytes(b, 512.0 * 1024 * 1024 * 1024), "512 GiB");
    SAYS(words_ms(b, 47), "47 ms");
    SAYS(words_ms(b, 3100), "3.1 s");
    SAYS(words_ms(b, 372000), "6m12s");
    SAYS(words_ms(b, 7500000), "2h05m");
    SAYS(words_ago(b, (double)time(NULL) - 3 * 3600 - 5), "3 h ago");
    SAYS(words_ago(b, 0), "never");
}

static void a_stage_is_one_line_without_a_terminal(void)
{
    char s[200];
    struct progress_at at = {"prefill", 212000, 512000, 830, 372000, false};
    progress_line(s, sizeof s, "book", &at);
    SAYS(s, "book: prefill 41 % 212k/512k 830 t/s ETA 6m12s");
    at = (struct progress_at){"queued", 0, 0, -1, -1, false};
    progress_line(s, sizeof s, "", &at);
    SAYS(s, "queued");
    /* Of a model's file the counts mean nothing. */
    at = (struct progress_at){"loading", 450, 1000, 830, -1, .share = true};
    progress_line(s, sizeof s, "m", &at);
    SAYS(s, "m: loading 45 %");
}

static void a_name_is_one_word_of_a_shell(void)
{
    char b[WORDS_SHELL_BYTES], name[256];
    SAYS(words_shell(b, "book-2.1"), "book-2.1");
    SAYS(words_shell(b, "my book"), "'my book'");
    SAYS(words_shell(b, ""), "''");
    SAYS(words_shell(b, "it's $HOME"), "'it'\\''s $HOME'");
    memset(name, '\'', 255);
    name[255] = 0;
    CHECK_EQ(strlen(words_shell(b, name)), 2 + 4 * 255);
}

/* What f writes to stderr. */
static const char *said(void (*f)(struct progress *), struct progress *p)
{
    static char got[500];
    char path[] = "/tmp/hearth-t-XXXXXX";
    int fd = mkstemp(path), old = dup(2);
    dup2(fd, 2);
    f(p);
    dup2(old, 2);
    close(old);
    ssize_t n = pread(fd, got, sizeof got - 1, 0);
    got[n > 0 ? n : 0] = 0;
    close(fd);
    unlink(path);
    return got;
}
static void short_stages(struct progress *p)
{
    progress_show(p, &(struct progress_at){"queued", 0, 0, -1, -1, false});
    progress_show(p, &(struct progress_at){"prefill", 0, 36, -1, -1, false});
    progress_show(p, &(struct progress_at){"prefill", 36, 36, 900, 0, false});
    progress_done(p);
    progress_done(p);
}
static void a_long_stage(struct progress *p)
{
    progress_show(p, &(struct progress_at){"prefill", 0, 3000, -1, -1, false});
    usleep(600000);
    progress_show(p, &(struct progress_at){"prefill", 1500, 3000, 900, 100, false});
    usleep(600000);
    progress_done(p);
    progress_done(p);
}
static void only_what_takes_time_is_told_a_log(void)
{
    struct progress p = {.what = "book"};
    unsigned rate = 0;
    SAYS(said(short_stages, &p), "");
    const char *got = said(a_long_stage, &p);
    CHECK(sscanf(got, "book: prefill 100 %% 3000/3000 %u t/s, ", &rate) == 1);
    CHECK(rate > 100 && rate <= 2500);
    CHECK(strchr(got, '\n') && !strchr(got, '\n')[1]);
}

static void times_have_a_unit(void)
{
    static const char *const wrong[] = {"",    "1w",  "-1",  "d", "1dd", "1e3s",
                                        "nan", "0x9", "1 d", "3", "1h30"};
    double s = 0;
    CHECK(words_seconds("90s", &s) && s == 90);
    CHECK(words_seconds("1h30m", &s) && s == 5400);
    CHECK(words_seconds("1.5d", &s) && s == 129600);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (words_seconds(wrong[i], &s))
            t_fail(__FILE__, __LINE__, "\"%s\" is taken for a time", wrong[i]);
}

static void a_bar_fits_its_terminal(void)
{
    static const char *const ends[] = {"prefill", "%", "1/2", "t/s", "6m12s"};
    struct progress_at at = {"prefill", 1, 2, 830, 372000, false};
    for (int width = 1; width < 200; width++) {
        char s[300];
        progress_bar(s, sizeof s, width, "a-name-of-some-length", &at);
        if ((int)strlen(s) > width)
            t_fail(__FILE__, __LINE__, "%d columns: %zu bytes", width, strlen(s));
        char *bar = strstr(s, " ["); /* the bar is cut to what there is */
        if (bar)
            *bar = 0;
        char *last = strrchr(s, ' ');
        bool whole = width <= 32 || !last; /* what is worked on may be cut */
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
            whole |= strcmp(last ? last + 1 : "", ends[i]) == 0;
        if (!whole)
            t_fail(__FILE__, __LINE__, "%d columns: %s", width, s);
    }
    char s[300];
    progress_bar(s, sizeof s, 100, "x", &at);
    CHECK(strstr(s, "[###############...............]"));
    at.done = 5; /* past its end: full, not longer */
    progress_bar(s, sizeof s, 100, "x", &at);
    CHECK(strstr(s, "[##############################]") && strstr(s, "100 %"));
}

/* Every float, written and read, is the same float. */
static void floats_read_back(void)
{
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)now_ns();
    printf("    SEED=%u\n", seed);
    srandom(seed);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)random() << 16 ^ (uint32_t)random();
        float v, w;
        memcpy(&v, &bits, 4);
        if (!isfinite(v))
            continue;
        struct jout j = {0};
        jout_float(&j, NULL, v);
        w = strtof(j.p, NULL);
        float x = (float)strtod(j.p, NULL); /* as a reader that has only doubles does it */
        if (memcmp(&v, &w, 4) != 0 || memcmp(&v, &x, 4) != 0) {
            t_fail(__FILE__, __LINE__, "%a written as %s reads as %a", (double)v, j.p,
                   (double)w);
            jout_fini(&j);
            return;
        }
        jout_fini(&j);
    }
    struct jout j = {0};
    jout_float(&j, NULL, -INFINITY);
    CHECK(isinf(strtof(j.p, NULL)));
    jout_fini(&j);
}

static void objects_are_json(void)
{
    struct jout j = {0};
    jout_open(&j, NULL, '{');
    jout_str(&j, "a", "x\"\\\n\t\x01\x7f\xc3\xa4", 9);
    jout_num(&j, "b", 9007199254740991.0);
    jout_num(&j, "c", 0.1);
    jout_num(&j, "d", NAN);
    jout_bool(&j, "e", true);
    jout_open(&j, "f", '[');
    jout_num(&j, NULL, 1);
    jout_num(&j, NULL, 2);
    jout_close(&j, ']');
    jout_json(&j, "g", NULL);
    jout_close(&j, '}');
    SAYS(j.p, "{\"a\":\"x\\\"\\\\\\n\\t\\u0001\\u007f\xc3\xa4\",\"b\":9007199254740991,\"c\":0."
              "1,\"d\":null,\"e\":true,\"f\":[1,2],\"g\":null}");
    cJSON *o = cJSON_Parse(j.p);
    CHECK(o);
    cJSON_Delete(o);
    jout_fini(&j);
}

static void a_text_is_cut_where_a_reader_would(void)
{
    static const char s[] = "one two\nthree four\n\nfive six \303\244\303\266\303\274 end";
    size_t n = strlen(s);
    CHECK_EQ(split_at(s, 0, 23, n), 20); /* after the blank line */
    CHECK_EQ(split_at(s, 0, 10, n), 8);  /* after the line */
    CHECK_EQ(split_at(s, 0, 7, n), 7);   /* no word ends in the last quarter */
    CHECK_EQ(split_at(s, 20, 30, n), 29);
    for (size_t at = 21; at < n; at++) {
        size_t to = split_at(s, 20, at, n);
        CHECK(to > 20 && to <= n && ((unsigned char)s[to] & 0xc0) != 0x80);
    }
}

static void columns_line_up(void)
{
    static const char *const head[] = {"NAME", ">SIZE", "X"};
    char path[] = "/tmp/hearth-t-XXXXXX", got[500];
    int fd = mkstemp(path), old;
    fflush(stdout);
    old = dup(1);
    dup2(fd, 1);
    struct table t;
    table_init(&t, head, 3);
    table_add(&t, "a", "1", "x");
    table_add(&t, "longer", "1000", "y\033[31m");
    table_print(&t);
    fflush(stdout);
    dup2(old, 1);
    close(old);
    ssize_t n = pread(fd, got, sizeof got - 1, 0);
    got[n > 0 ? n : 0] = 0;
    close(fd);
    unlink(path);
    SAYS(got, "NAME    SIZE  X\na          1  x\nlonger  1000  y\\x1b[31m\n");
}

T_MAIN({"numbers_read_as_people_write_them", numbers_read_as_people_write_them},
       {"a_stage_is_one_line_without_a_terminal", a_stage_is_one_line_without_a_terminal},
       {"only_what_takes_time_is_told_a_log", only_what_takes_time_is_told_a_log},
       {"times_have_a_unit", times_have_a_unit},
       {"a_bar_fits_its_terminal", a_bar_fits_its_terminal},
       {"floats_read_back", floats_read_back}, {"objects_are_json", objects_are_json},
       {"a_text_is_cut_where_a_reader_would", a_text_is_cut_where_a_reader_would},
       {"columns_line_up", columns_line_up},
       {"a_name_is_one_word_of_a_shell", a_name_is_one_word_of_a_shell})
