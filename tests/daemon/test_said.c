/* test_said.c - where the messages of an input lie in what a template made of them. */
#include "daemon/req.h"
#include "daemon/said.h"
#include "engine/chat.h"
#include "tests/t.h"
#include <stdlib.h>
#include <string.h>

static struct prepared p;
static struct chat_text t;

static void put(const char *s, uint8_t mask)
{
    size_t n = strlen(s);

    t.p = realloc(t.p, t.n + n + 1);
    t.mask = realloc(t.mask, t.n + n + 1);
    memcpy(t.p + t.n, s, n);
    memset(t.mask + t.n, mask, n);
    t.n += n;
}

/* As a template does that writes the role it was given: `text` is what becomes of the message. */
static void message(const char *role, const char *text)
{
    put("<|im_start|>", 1);
    put(role, 0);
    put("\n", 1);
    put(text, 0);
    put("<|im_end|>\n", 1);
}

static void clear(void)
{
    free(t.p);
    free(t.mask);
    free(p.said);
    memset(&t, 0, sizeof t);
    memset(&p, 0, sizeof p);
}

#define MSG(r, s) ((struct chat_msg){r, s, sizeof s - 1})

static void is(uint32_t i, const char *text, uint32_t role)
{
    const struct said *s = &p.said[i];

    CHECK_EQ(s->to - s->from, strlen(text));
    CHECK(memcmp(t.p + s->from, text, strlen(text)) == 0);
    CHECK(t.p[s->from - 1] == '\n');
    CHECK_EQ(s->role, role);
}

static void messages_are_found_behind_their_roles(void)
{
    const struct chat_msg m[] = {MSG("system", "Be brief."), MSG("user", "user"),
                                 MSG("assistant", "user"), MSG("tool", "assistant"),
                                 MSG("user", "What?")};

    for (size_t i = 0; i < 5; i++)
        message(m[i].role, m[i].text);
    CHECK_EQ(said_find(&p, m, 5, &t), 0);
    CHECK_EQ(p.n_said, 5);
    is(0, "Be brief.", KVS_ROLE_SYSTEM);
    is(1, "user", KVS_ROLE_USER);
    is(2, "user", KVS_ROLE_ASSISTANT);
    is(3, "assistant", KVS_ROLE_TOOL);
    is(4, "What?", KVS_ROLE_USER);
    clear();
}

static void blanks_around_a_text_are_the_templates_to_keep_or_leave(void)
{
    const struct chat_msg m[] = {MSG("user", "  One?\n"), MSG("assistant", "Two. ")};

    message("user", "One?");
    message("assistant", "Two. ");
    CHECK_EQ(said_find(&p, m, 2, &t), 0);
    CHECK_EQ(p.n_said, 2);
    is(0, "One?", KVS_ROLE_USER);
    is(1, "Two.", KVS_ROLE_ASSISTANT);
    clear();
}

static void a_message_that_says_nothing_is_none(void)
{
    const struct chat_msg m[] = {MSG("user", "One?"), MSG("assistant", " "),
                                 MSG("user", "Two?")};

    message("user", "One?");
    message("assistant", "");
    message("user", "Two?");
    CHECK_EQ(said_find(&p, m, 3, &t), 0);
    CHECK_EQ(p.n_said, 2);
    is(1, "Two?", KVS_ROLE_USER);
    clear();
}

static void of_what_a_template_changes_nothing_is_said(void)
{
    const struct chat_msg m[] = {MSG("user", "One?"), MSG("assistant", "<think>x</think>Two.")};
    const struct chat_msg turned[] = {MSG("system", "S"), MSG("user", "One?")};

    message("user", "One?");
    message("assistant", "Two.");
    CHECK_EQ(said_find(&p, m, 2, &t), 0);
    CHECK_EQ(p.n_said, 0);
    clear();
    message("user", "One?");
    message("system", "S"); /* at another place than it was given */
    CHECK_EQ(said_find(&p, turned, 2, &t), 0);
    CHECK_EQ(p.n_said, 0);
    clear();
}

static void of_too_many_the_first_are_one(void)
{
    enum { N = SAID_MAX + 10 };
    struct said_ids v = {.n = {0, 0}};
    static size_t end[2 * N + 1];
    static int32_t id[2 * N];

    p.said = calloc(N, sizeof *p.said);
    p.n_said = N;
    /* An opening and a text, each of one byte and one token. */
    for (uint32_t i = 0; i < N; i++)
        p.said[i] = (struct said){/* each begins at its text: no ids are looked at */
                                  .from = 2 * i + 1,
                                  .to = 2 * i + 2,
                                  .role = KVS_ROLE_ASSISTANT};
    for (size_t i = 0; i <= 2 * (size_t)N; i++)
        end[i] = i;
    v.id[1] = id;
    v.end[1] = end;
    v.n[1] = 2 * N;
    said_place(&p, &v, 100);
    CHECK_EQ(p.n_said, SAID_MAX);
    CHECK_EQ(p.said[0].first, 100);
    CHECK_EQ(p.said[1].first, 100 + 2 * 11 + 1);
    CHECK_EQ(p.said[SAID_MAX - 1].first, 100 + 2 * (N - 1) + 1);
    clear();
}

#define C(f)                                                                                   \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(C(messages_are_found_behind_their_roles),
       C(blanks_around_a_text_are_the_templates_to_keep_or_leave),
       C(a_message_that_says_nothing_is_none), C(of_what_a_template_changes_nothing_is_said),
       C(of_too_many_the_first_are_one))
