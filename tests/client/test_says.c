/* test_says.c - what the verbs say is so, and is of use to who reads it; against a fake core. */
#include "tests/client/cliproc.h"

/* What comes next, ps or another load, finds what was said. */
static void a_model_is_called_unloaded_when_it_is(void)
{
    up();
    CHECK_EQ(RUN("unload", "sluggish"), 0);
    CHECK_STR(err, "sluggish is unloaded; its sessions stay\n");
    down();
    up();
    CHECK_EQ(RUN("unload", "sluggish", "--json"), 0);
    CHECK_STR(out, "{\"model\":\"sluggish\",\"state\":\"available\"}\n");
    CHECK_EQ(RUN("unload", "sluggish"), 0);
    CHECK_STR(err, "sluggish was not loaded\n");
    down();
}

static void each_object_of_a_load_has_a_type(void)
{
    up();
    CHECK_EQ(RUN("load", "sluggish", "--json"), 0);
    CHECK_STR(out, "{\"state\":\"loading\",\"progress\":{\"done\":1,\"total\":2},\"type\":"
                   "\"progress\"}\n"
                   "{\"type\":\"done\",\"model\":\"sluggish\",\"state\":\"loaded\"}\n");
    down();
}

/* Who has no model is told where one goes, and that nothing else comes before it. */
static void without_a_model_the_way_to_one_is_said(void)
{
    char want[200];
    fakecore_bare = true;
    up();
    CHECK_EQ(RUN("models"), 0);
    CHECK(strstr(err, "put GGUF files into /where/they/lie (`make model`"));
    CHECK_EQ(RUN("doctor"), 1);
    CHECK(strstr(out, "FAIL  models       0 known to the daemon\n"));
    CHECK(strstr(out, "-> first of all: put a GGUF file into /where/they/lie (`make model`"));
    fakecore_kill(core_pid);
    CHECK_EQ(RUN("doctor"), 1);
    snprintf(want, sizeof want,
             "FAIL  models       0 GGUF files in %s/.local/share/hearth/models\n", dir);
    CHECK(strstr(out, want) &&
          strstr(out, "-> first of all: put a GGUF file there (`make model`"));
    CHECK(!strstr(out, "it will work"));
    fakecore_bare = false;
    down();
}

/* Of a model that is not loaded, too. */
static void a_plan_says_what_is_known(void)
{
    up();
    CHECK_EQ(RUN("plan", "planned", "--tokens", "4000"), 0);
    CHECK(strstr(out, "391 KiB\n") && strstr(out, "fits: yes\n"));
    CHECK_EQ(RUN("plan", "planned", "--tokens", "100000"), 0);
    CHECK(strstr(out, "fits: no: the model's context has 8,192 tokens"));
    CHECK_EQ(RUN("plan", "unplanned", "--tokens", "100000"), 0);
    CHECK(strstr(out, "fits: no: the model's context has 8,192 tokens"));
    CHECK_EQ(RUN("plan", "unplanned", "--tokens", "4000"), 0);
    CHECK(strstr(out, "fits: unknown: ") && strstr(out, "hearth load"));
    CHECK_EQ(RUN("plan", "unplanned", "--tokens", "4000", "--json"), 0);
    CHECK(strstr(out, "\"fits\":null"));
    down();
}

static void help_has_one_column(void)
{
    up();
    CHECK_EQ(RUN("help", "sessions"), 0);
    CHECK(strstr(out, "  rm NAME... | --anonymous [--older DURATION]\n        "));
    CHECK_EQ(RUN("help"), 0);
    CHECK(strstr(out, "  sessions rm NAME... | --anonymous [--older DURATION]\n        "));
    CHECK(strstr(out, "  ps                                             models that"));
    down();
}

/* Of the foreground all output is hearthd's. */
static void flags_of_detach_are_refused_without_it(void)
{
    up();
    CHECK_EQ(RUN("serve", "--check-config", "--json"), 2);
    CHECK(strstr(out, "\"message\":\"--json: goes with --detach\""));
    CHECK_EQ(RUN("serve", "--check-config", "-q"), 2);
    CHECK(strstr(err, "--quiet: goes with --detach"));
    CHECK_EQ(RUN("serve", "--check-config"), 0);
    down();
}

static void a_bad_address_is_blamed_on_who_gave_it(void)
{
    char cmd[4400], said[400] = "";
    snprintf(cmd, sizeof cmd, "HEARTH_SOCKET=foo '%s' ps 2>&1", built("hearth"));
    FILE *p = popen(cmd, "re");
    CHECK(p && fgets(said, sizeof said, p) != NULL);
    CHECK_EQ(WEXITSTATUS(pclose(p)), 2);
    CHECK(strstr(said, "hearth: HEARTH_SOCKET: want ipc://PATH or unix://PATH, got \"foo\""));
    CHECK_EQ(RUN("--socket", "foo", "ps"), 2);
    CHECK(strstr(err, "hearth: --socket: want ipc"));
}

static void sessions_without_a_name_are_not_none(void)
{
    fakecore_bare = true;
    up();
    CHECK_EQ(RUN("sessions"), 0);
    CHECK(strstr(err, "`hearth sessions -a` lists the 2 that have none"));
    /* Who reads JSON can choose, too. */
    CHECK_EQ(RUN("cancel", "--json"), 2);
    CHECK(strstr(out, "\"requests\":[{\"request\":\"b1\",\"session\":"
                      "\"aaaa1111000000000000000000000000\"},{\"request\":\"b2\""));
    CHECK_EQ(RUN("sessions", "show", "aaaa", "--json"), 1);
    CHECK(strstr(out, "\"candidates\":[{\"id\":\"aaaa1111000000000000000000000000\""));
    fakecore_bare = false;
    down();
    up();
    CHECK_EQ(RUN("sessions", "show", "fake"), 0);
    CHECK(strstr(out, "WHEN   END\n"));
    down();
}

static void what_is_too_long_is_refused_with_a_way(void)
{
    char big[120];
    up();
    CHECK_EQ(RUN("ask", "-s", "new", "--create", "a long one"), 1);
    CHECK(strstr(err, "`hearth ingest -s NAME --split FILE`"));
    snprintf(big, sizeof big, "%s/big.txt", dir);
    FILE *f = fopen(big, "we");
    CHECK(f && fputs("x", f) >= 0 && fclose(f) == 0 && truncate(big, 17 << 20) == 0);
    CHECK_EQ(RUN("ingest", "-s", "new", big, "--split"), 1);
    CHECK(strstr(err, "; split it: `split -C 15M "));
    CHECK_EQ(RUN("ask", "-s", "fake", "--ids", "999999"), 2);
    CHECK(strstr(err, "hearth: --ids[0]: want an id below 49152, got 999999"));
    down();
}

static void a_rewind_says_what_there_is_and_not_what_is_left(void)
{
    up();
    CHECK_EQ(RUN_IN("/rewind 1\n/quit\n", "chat", "-s", "fake"), 0);
    CHECK(strstr(err, "took back 1 question; the conversation has 0 tokens\n"));
    down();
}

T_MAIN({"a_model_is_called_unloaded_when_it_is", a_model_is_called_unloaded_when_it_is},
       {"without_a_model_the_way_to_one_is_said", without_a_model_the_way_to_one_is_said},
       {"a_plan_says_what_is_known", a_plan_says_what_is_known},
       {"help_has_one_column", help_has_one_column},
       {"flags_of_detach_are_refused_without_it", flags_of_detach_are_refused_without_it},
       {"a_bad_address_is_blamed_on_who_gave_it", a_bad_address_is_blamed_on_who_gave_it},
       {"sessions_without_a_name_are_not_none", sessions_without_a_name_are_not_none},
       {"what_is_too_long_is_refused_with_a_way", what_is_too_long_is_refused_with_a_way},
       {"a_rewind_says_what_there_is_and_not_what_is_left",
        a_rewind_says_what_there_is_and_not_what_is_left},
       {"each_object_of_a_load_has_a_type", each_object_of_a_load_has_a_type})
