/* test_unseen.c - the end of an answer that its reader never saw: where a conversation that is sent
 * back without it goes on. */
#include "base/err.h"
#include "daemon/req.h"
#include "engine/engine.h"
#include "proto.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"
#include <stdio.h>
#include <string.h>

static struct engine *eng;
static const struct tokenizer *tok; /* a token is a byte */

static void up(void)
{
    const struct mk_llama tiny = {.layers = 1,
                                  .embd = 32,
                                  .ff = 32,
                                  .head = 2,
                                  .kv = 1,
                                  .dim = 16,
                                  .ctx = 256,
                                  .type = K_F32,
                                  .tied = true,
                                  .seed = 7};
    struct eng_opts o = {.threads = 1};
    struct errbuf eb = {{0}};
    struct mk m = {0};
    char path[300];
    FILE *f;

    if (eng)
        return;
    snprintf(path, sizeof path, "%s/tiny.gguf", t_tmpdir());
    mk_llama(&m, &tiny);
    f = fopen(path, "wb");
    CHECK(f && fwrite(m.p, 1, m.n, f) == m.n && fclose(f) == 0);
    free(m.p);
    o.path = path;
    if (eng_open(&eng, &o, &eb) < 0)
        t_skip(eb.s);
    tok = eng_tokenizer(eng);
}

static uint32_t ids_of(const char *s, int32_t *ret)
{
    uint32_t n = 0;

    for (; s[n]; n++)
        ret[n] = (unsigned char)s[n];
    return n;
}

/* An answer of which `seen` tokens and `bytes` of the next were its text; a client has it up to
 * `base`, and says `more` there. */
static bool behind(const char *answer, uint32_t seen, uint32_t bytes, uint64_t base,
                   const char *more)
{
    int32_t path[64], out[64];
    struct turn t = {.stopped = true, .seen = seen, .seen_bytes = bytes};
    struct sess s = {.turns = &t, .n_turns = 1};
    struct prepared p = {.tok = tok, .base = base};

    t.n_tokens = s.head = ids_of(answer, path);
    p.out.p = out;
    p.out.n = ids_of(more, out);
    return unseen_behind(&s, &p, path);
}

static void text_up_to_a_stop_string_goes_on_behind_it(void)
{
    up();
    CHECK(behind("one. STOP", 5, 0, 3, ". And?"));
    CHECK(behind("one. STOP", 4, 0, 4, " And?")); /* all that was seen is in the path */
    CHECK(!behind("one. STOP", 4, 0, 3, "; And?"));
    CHECK(!behind("one. STOP", 4, 0, 3, ""));
    CHECK(!behind("one.", 4, 0, 3, ". And?")); /* nothing is behind it */
    /* A stop string may begin within a token. */
    CHECK(behind("one.!STOP", 4, 1, 3, ".! And?"));
    CHECK(!behind("one.!STOP", 4, 1, 3, ".? And?"));
}

static void spaces_at_its_end_may_be_missing(void)
{
    up();
    CHECK(behind("one. \n STOP", 7, 0, 3, ".And?"));
    CHECK(behind("one. \n STOP", 6, 1, 3, ".And?"));
    CHECK(!behind("one. \n STOP", 7, 0, 3, "And?"));
    CHECK(!behind("one . STOP", 6, 0, 3, ".And?")); /* not those within it */
}

static void tokens_and_bytes_of_its_text_are_counted(void)
{
    int32_t ids[64];
    uint32_t n = ids_of("one. STOP", ids), seen, bytes;
    struct stream st = {0};

    up();
    st.n_rec = 9;
    st.n = 9 * HRT_REC_BYTES + 5;
    unseen_of(&st, tok, ids, n, &seen, &bytes);
    CHECK_EQ(seen, 5);
    CHECK_EQ(bytes, 0);
    ids[4] = 257; /* "ab" */
    unseen_of(&st, tok, ids, n, &seen, &bytes);
    CHECK_EQ(seen, 4);
    CHECK_EQ(bytes, 1);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(text_up_to_a_stop_string_goes_on_behind_it), CASE(spaces_at_its_end_may_be_missing),
       CASE(tokens_and_bytes_of_its_text_are_counted))
