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

T_MAIN({"a_model_is_called_unloaded_when_it_is", a_model_is_called_unloaded_when_it_is},
       {"each_object_of_a_load_has_a_type", each_object_of_a_load_has_a_type})
