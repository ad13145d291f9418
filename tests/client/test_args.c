/* test_args.c - verbs, flags, what is said when they are wrong. */
#include "client/args.h"
#include "client/cli.h"
#include "tests/t.h"
#include <errno.h>

static struct args a;
static struct errbuf eb;

/* Parses up to twenty words. */
static int parse(const char *const *words)
{
    char *argv[22] = {(char *)"hearth"};
    int n = 1;
    while (words[n - 1] && n < 21) {
        argv[n] = (char *)words[n - 1];
        n++;
    }
    eb.s[0] = 0;
    return args_parse(&a, n, argv, &eb);
}
#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void flags_may_stand_anywhere(void)
{
    CHECK_EQ(PARSE("--json", "run", "-n", "8", "m", "--greedy", "hello", "-q"), 0);
    CHECK(a.verb && strcmp(a.verb->name, "run") == 0);
    CHECK_EQ(a.n, 2);
    CHECK(strcmp(a.pos[0], "m") == 0 && strcmp(a.pos[1], "hello") == 0);
    CHECK(args_has(&a, "json") && args_has(&a, "quiet") && args_has(&a, "greedy"));
    CHECK(strcmp(args_str(&a, "max-tokens"), "8") == 0);
    CHECK_EQ(PARSE("ask", "-s", "book", "--fork", "And now?", "-n4"), 0);
    CHECK(strcmp(args_str(&a, "session"), "book") == 0 &&
          strcmp(args_str(&a, "max-tokens"), "4") == 0);
    CHECK_EQ(PARSE("--socket=unix:///x", "status"), 0);
    CHECK(strcmp(args_str(&a, "socket"), "unix:///x") == 0);
}

static void two_dashes_end_the_flags(void)
{
    CHECK_EQ(PARSE("run", "m", "--", "--not-a-flag"), 0);
    CHECK(strcmp(a.pos[1], "--not-a-flag") == 0);
    CHECK_EQ(PARSE("run", "m", "-"), 0); /* a lone dash is stdin, not a flag */
    CHECK(strcmp(a.pos[1], "-") == 0);
    CHECK_EQ(PARSE("run", "m", "x", "--temp", "-1"), 0); /* a value may look like one */
    CHECK(strcmp(args_str(&a, "temp"), "-1") == 0);
}

static void verbs_of_two_words_win(void)
{
    CHECK_EQ(PARSE("sessions"), 0);
    CHECK(strcmp(a.verb->name, "sessions") == 0);
    CHECK_EQ(PARSE("sessions", "ls", "--all"), 0);
    CHECK(strcmp(a.verb->name, "sessions ls") == 0);
    CHECK_EQ(PARSE("sessions", "rewind", "x", "--to", "3"), 0);
    CHECK(strcmp(a.verb->name, "sessions rewind") == 0);
    CHECK_EQ(PARSE("show", "m"), 0);
    CHECK(strcmp(a.verb->name, "show") == 0);
}

static void a_flag_can_be_given_more_than_once(void)
{
    CHECK_EQ(PARSE("run", "m", "x", "--stop", "a", "--stop", "b", "--temp", "1", "--temp=1"),
             0);
    int n = 0;
    for (int i = 0; i < a.n_given; i++)
        n += strcmp(a.given[i].flag->name, "stop") == 0;
    CHECK_EQ(n, 2);
    CHECK(strcmp(args_str(&a, "temp"), "1") == 0);
    CHECK_EQ(PARSE("-q", "ask", "--session=--fork", "--stop", "--", "-s--fork", "-q"), 0);
    CHECK(strcmp(args_str(&a, "stop"), "--") == 0);
}

/* One of the values would be dropped without a word, and the turn be kept in the wrong place. */
static void a_flag_with_two_values_is_refused(void)
{
    int asked = 0;
    CHECK_EQ(PARSE("ask", "-s", "book", "-s", "big", "q"), -EINVAL);
    CHECK(strcmp(eb.s,
                 "--session is given twice, as \"book\" and as \"big\"; give one of them") ==
          0);
    CHECK_EQ(PARSE("--socket=unix:///a", "status", "--socket", "unix:///b"), -EINVAL);
    for (size_t i = 0; i < n_verbs; i++)
        for (const struct flag *const *g = verbs[i].flags; g && *g; g++)
            for (const struct flag *f = *g; f->name; f++) {
                char words[2][100], verb[100],
                    *second = strchr(strcpy(verb, verbs[i].name), ' ');
                if (!f->value)
                    continue;
                if (second)
                    *second++ = 0;
                for (int k = 0; k < 2; k++)
                    snprintf(words[k], sizeof words[k], "--%s=%d", f->name, k + 1);
                const char *argv[] = {
                    verb, second ? second : "--help", words[0], words[1], "-h", NULL};
                int r = parse(argv);
                asked++;
                if (strcmp(f->name, "stop") == 0 ? r != 0 : r != -EINVAL)
                    t_fail(__FILE__, __LINE__, "%s --%s: %d", verbs[i].name, f->name, r);
            }
    CHECK(asked > 30);
}

static void an_optional_value_needs_an_equals_sign(void)
{
    CHECK_EQ(PARSE("run", "m", "--logprobs", "x"), 0);
    CHECK(args_has(&a, "logprobs") && !args_str(&a, "logprobs"));
    CHECK(strcmp(a.pos[1], "x") == 0);
    CHECK_EQ(PARSE("run", "m", "--logprobs=5", "x"), 0);
    CHECK(strcmp(args_str(&a, "logprobs"), "5") == 0);
}

static void mistakes_are_named_with_what_was_meant(void)
{
    static const struct {
        const char *words[6], *say;
    } rows[] = {
        {{"chta"}, "`hearth chat`"},
        {{"session"}, "`hearth sessions`"},
        {{"frobnicate"}, "frobnicate"},
        {{"run", "m", "--tmep", "1"}, "--temp"},
        {{"run", "m", "--max-token", "1"}, "--max-tokens"},
        {{"run", "m", "--zzz"}, "--zzz"},
        {{"run", "m", "-z"}, "-z"},
        {{"run", "m", "--temp"}, "--temp T"},
        {{"run", "m", "-n"}, "-n N"},
        {{"ingest", "-s", "--split", "f"}, "-s wants a value and got --split"},
        {{"ask", "--session", "--fork", "q"}, "if that is meant: --session=--fork"},
        {{"run", "m", "--greedy=1"}, "--greedy"},
        {{"run"}, "hearth run MODEL"},
        {{"run", "m", "two", "words"}, "words"},
        {{"sessions", "frok", "x"}, "sessions fork"},
        {{"sessions", "fork"}, "sessions fork NAME"},
        {{"status", "x"}, "; hearth status\n"},
        {{"ask", "--sesion", "x"}, "--session"},
        {{"run", "--session", "x"}, "; it is of chat, ingest, ask"},
        {{"run", "-s", "x"}, "; it is of chat, ingest, ask"},
        {{"--fork", "ask"},
         "hearth has no flag --fork; it is of ask and stands after the verb"},
        {{"--jsn", "models"}, "hearth has no flag --jsn; did you mean --json?"},
        {{"--zzz"}, "hearth has no flag --zzz; `hearth help` lists them"},
        {{"ls"}, "`hearth models`"},
        {{"list"}, "`hearth sessions`"},
        {{"rm", "x"}, "`hearth sessions rm NAME`"},
        {{"delete"}, "`hearth sessions rm NAME`"},
        {{"pull", "x"}, "GGUF"},
        {{"stop"}, "kill PID"},
        {{"start"}, "`hearth serve`"},
        {{"sessions", "delete", "x"}, "`hearth sessions rm`"},
        {{"sessions", "list"}, "`hearth sessions ls`"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int r = parse(rows[i].words);
        char said[sizeof eb.s + 1]; /* with an end, so that a row can ask for it */
        snprintf(said, sizeof said, "%s\n", eb.s);
        if (r >= 0 || !strstr(said, rows[i].say))
            t_fail(__FILE__, __LINE__, "%s %s: %d, \"%s\"; want %s in it", rows[i].words[0],
                   rows[i].words[1] ? rows[i].words[1] : "", r, eb.s, rows[i].say);
    }
}

static void help_needs_no_arguments(void)
{
    CHECK_EQ(PARSE("run", "--help"), 0);
    CHECK_EQ(PARSE("-h"), 0);
    CHECK(!a.verb);
}

static void serve_hands_its_flags_on(void)
{
    CHECK_EQ(PARSE("serve", "--model", "x=y", "--detach", "-h"), 0);
    CHECK_EQ(a.n, 4);
    CHECK(strcmp(a.pos[0], "--model") == 0);
}

static void numbers_have_bounds(void)
{
    double v = 7;
    CHECK_EQ(PARSE("run", "m", "--temp", "0.8", "-n", "1.5", "--seed", "x", "--top-p", ""), 0);
    CHECK_EQ(args_num(&a, "temp", 0, 2, false, &v, &eb), 1);
    CHECK(v == 0.8);
    CHECK_EQ(args_num(&a, "min-p", 0, 1, false, &v, &eb), 0);
    CHECK(args_num(&a, "max-tokens", 0, 10, true, &v, &eb) < 0);
    CHECK(strstr(eb.s, "--max-tokens") && strstr(eb.s, "1.5"));
    CHECK(args_num(&a, "seed", 0, 9007199254740991.0, true, &v, &eb) < 0);
    CHECK(strstr(eb.s, "0 to 9007199254740991,")); /* all its digits */
    CHECK(args_num(&a, "top-p", 0, 1, false, &v, &eb) < 0);
    CHECK(args_num(&a, "temp", 0, 0.5, false, &v, &eb) < 0);
    CHECK(v == 0.8);
    static const char *const no[] = {"0x1p1", " 1", "1 ", "", "inf", "nan", "1e", "0x0", "1,5"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        const char *const argv[] = {"hearth", "run", "m", "--temp", no[i]};
        CHECK_EQ(args_parse(&a, 5, (char *const *)(uintptr_t)argv, &eb), 0);
        if (args_num(&a, "temp", 0, 100, false, &v, &eb) != -EINVAL)
            t_fail(__FILE__, __LINE__, "--temp \"%s\" is taken", no[i]);
    }
    static const char *const yes[] = {"1", "+1", "1.0", "10e-1", ".1e1"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        const char *const argv[] = {"hearth", "run", "m", "--temp", yes[i]};
        CHECK_EQ(args_parse(&a, 5, (char *const *)(uintptr_t)argv, &eb), 0);
        CHECK(args_num(&a, "temp", 0, 100, false, &v, &eb) == 1 && v == 1);
    }
}

static void distance_counts_edits(void)
{
    CHECK_EQ(args_distance("", "abc"), 3);
    CHECK_EQ(args_distance("chat", "chat"), 0);
    CHECK_EQ(args_distance("chta", "chat"), 1);
    CHECK_EQ(args_distance("sesions", "sessions"), 1);
    CHECK_EQ(args_distance("kitten", "sitting"), 3);
}

static void every_verb_and_flag_is_described(void)
{
    for (size_t i = 0; i < n_verbs; i++) {
        CHECK(verbs[i].does[0] && verbs[i].run);
        for (const struct flag *const *g = verbs[i].flags; g && *g; g++)
            for (const struct flag *f = *g; f->name; f++)
                if (!f->does || !f->does[0])
                    t_fail(__FILE__, __LINE__, "%s --%s", verbs[i].name, f->name);
    }
}

T_MAIN({"flags_may_stand_anywhere", flags_may_stand_anywhere},
       {"two_dashes_end_the_flags", two_dashes_end_the_flags},
       {"verbs_of_two_words_win", verbs_of_two_words_win},
       {"a_flag_can_be_given_more_than_once", a_flag_can_be_given_more_than_once},
       {"a_flag_with_two_values_is_refused", a_flag_with_two_values_is_refused},
       {"an_optional_value_needs_an_equals_sign", an_optional_value_needs_an_equals_sign},
       {"mistakes_are_named_with_what_was_meant", mistakes_are_named_with_what_was_meant},
       {"help_needs_no_arguments", help_needs_no_arguments},
       {"serve_hands_its_flags_on", serve_hands_its_flags_on},
       {"numbers_have_bounds", numbers_have_bounds},
       {"distance_counts_edits", distance_counts_edits},
       {"every_verb_and_flag_is_described", every_verb_and_flag_is_described})
