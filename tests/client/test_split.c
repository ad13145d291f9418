/* test_split.c - a text in parts: each fits, whatever is where in it, and together they are it. */
#include "client/split.h"
#include "tests/client/cliproc.h"

enum { THIN = 600, DENSE = 120 }; /* words that are next to no tokens, then a token a byte */

static void each_part_leaves_a_quarter_of_the_context(void)
{
    char text[THIN + DENSE];
    struct cli c = {0};
    struct part *p = NULL;
    size_t n = 0, at = 0;

    up();
    snprintf(c.url, sizeof c.url, "%s", url);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = i >= THIN ? '#' : i % 6 == 5 ? ' ' : 'x';
    CHECK_EQ(split_text(&c, NULL, "it", text, sizeof text, &p, &n), 0);
    CHECK(n > 1);
    for (size_t i = 0; i < n; at += p[i++].n) {
        int tokens = 0;

        CHECK_EQ(p[i].from, at);
        for (size_t k = 0; k < p[i].n; k++)
            tokens += text[at + k] == '#';
        if (tokens > 75)
            t_fail(__FILE__, __LINE__, "part %zu of %zu has %d tokens", i + 1, n, tokens);
    }
    CHECK_EQ(at, sizeof text);
    free(p);
    hearth_close(c.conn);
    down();
}

T_MAIN({"each_part_leaves_a_quarter_of_the_context", each_part_leaves_a_quarter_of_the_context})
