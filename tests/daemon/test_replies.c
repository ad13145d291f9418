/* test_replies.c - what a reply is made of, and whom it tells what. */
#include "base/text.h"
#include "tests/daemon/genrig.h"

static struct rig g;

/* All that is said is JSON, so UTF-8, whatever a file is called and wherever words are cut. */
static void what_is_no_text_is_said_as_text(void)
{
    char json[400], dir[200], file[230];

    rig_make(&g, "");
    snprintf(dir, sizeof dir, "%s/none", g.base);
    snprintf(file, sizeof file, "%s/caf\xe9.gguf", dir);
    CHECK_EQ(mkdir(dir, 0700), 0);
    CHECK_EQ(link(g.model, file), 0);
    rig_up(&g);
    int fd = wire_connect(g.core);
    for (int i = 0; i < 3; i++) {
        struct wire_reply r = {0};
        uint8_t h[HRT_HEAD_BYTES];

        snprintf(json, sizeof json, "{\"model\":\"%060d%s\"}", 1, "\u00e9\u00e9\u00e9");
        CHECK(wire_send(fd,
                        i == 0   ? HRT_MODEL_LIST
                        : i == 1 ? HRT_STATUS
                                 : HRT_MODEL_SHOW,
                        1, json, NULL, 0));
        CHECK(wire_read(fd, h, sizeof h) && hrt_unpack(&r.f, h, NULL) == 0);
        char *text = calloc(1, r.f.json_len + 1);
        CHECK(wire_read(fd, text, r.f.json_len));
        CHECK_EQ(text_bad(text, r.f.json_len), r.f.json_len);
        if (i < 2)
            CHECK(strstr(text, "caf\xef\xbf\xbd"));
        if (i == 0)
            CHECK(strstr(text, "its name is not UTF-8, rename it"));
        else if (i == 2)
            CHECK_EQ(r.f.status, HRT_NOT_FOUND);
        free(text);
    }
    close(fd);
    rig_down(&g, SIGTERM);
}

static void others_learn_nothing_of_sessions_from_metrics(void)
{
    static int32_t ids[50];
    static struct answer a;
    struct wire_reply r;

    (void)same, (void)usage; /* of the rig, not needed here */
    rig_make(&g, "");
    rig_up(&g);
    some_ids(ids, 50, 3);
    rig_run(&g, ids, 50, ",\"session\":\"s\",\"params\":{\"max_tokens\":4}", &a);
    r = rig_call(&g, HRT_METRICS, NULL, 0, "{}");
    r.tail[r.f.tail_len - 1] = 0;
    CHECK(strstr((char *)r.tail, "\nhearth_sessions 1\n"));
    CHECK(strstr((char *)r.tail, "hearth_frames_total"));
    wire_reply_fini(&r);
    r = rig_call(&g, HRT_METRICS, NULL, 0, "{\"as\":\"00112233445566778899aabbccddeeff\"}");
    CHECK_EQ(r.f.status, HRT_OK);
    r.tail[r.f.tail_len - 1] = 0;
    CHECK(strstr((char *)r.tail, "\nhearth_sessions 0\n"));
    CHECK(strstr((char *)r.tail, "hearth_build_info"));
    CHECK(!strstr((char *)r.tail, "hearth_frames_total") &&
          !strstr((char *)r.tail, "hearth_requests_running") &&
          !strstr((char *)r.tail, "hearth_model"));
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
}

T_MAIN({"what_is_no_text_is_said_as_text", what_is_no_text_is_said_as_text},
       {"others_learn_nothing_of_sessions_from_metrics",
        others_learn_nothing_of_sessions_from_metrics})
