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

T_MAIN({"a_model_is_called_unloaded_when_it_is", a_model_is_called_unloaded_when_it_is},
       {"without_a_model_the_way_to_one_is_said", without_a_model_the_way_to_one_is_said},
       {"a_plan_says_what_is_known", a_plan_says_what_is_known},
       {"each_object_of_a_load_has_a_type", each_object_of_a_load_has_a_type})
