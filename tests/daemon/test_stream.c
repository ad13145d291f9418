/* test_stream.c - what records say, token by token: text held back, stops, code points. */
#include "base/bytes.h"
#include "daemon/stream.h"
#include "engine/gguf.h"
#include "proto.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }

static struct tokenizer *tok;
static struct mk file;
static struct gguf *gguf;

/* A byte-level tokenizer: id n is byte n, 256 is the end. */
static void need_tok(void)
{
    static const struct mk_llama m = {.layers = 1,
                                      .embd = 32,
                                      .ff = 32,
                                      .head = 1,
                                      .kv = 1,
                                      .dim = 32,
                                      .ctx = 64,
                                      .type = K_F32,
                                      .tied = true,
                                      .seed = 1};
    struct errbuf eb = {""};

    if (tok)
        return;
    mk_llama(&file, &m);
    if (gguf_parse(&gguf, file.p, file.n, &eb) < 0 || tok_open(&tok, gguf, &eb) < 0)
        t_fail(__FILE__, __LINE__, "no tokenizer: %s", eb.s);
}

/* The text of records [0, n), and each record's length by index. */
static size_t text_of(const struct stream *s, char *ret, uint32_t *len)
{
    size_t n = 0;

    for (uint32_t i = 0; i < s->visible; i++) {
        const uint8_t *r = s->buf + s->off[i];

        CHECK_EQ(ld32(r), i);
        len[i] = ld16(r + 12);
        memcpy(ret + n, r + HRT_REC_BYTES, len[i]);
        n += len[i];
    }
    ret[n] = 0;
    return n;
}

static void feed(struct stream *s, const char *bytes)
{
    for (; *bytes && !s->stopped; bytes++)
        CHECK_EQ(stream_token(s, tok, (uint8_t)*bytes, -1.5f, NULL, 0, false), 0);
}

static char text[4096];
static uint32_t len[1024];

static void each_token_has_one_record_and_its_text(void)
{
    struct stream s;

    need_tok();
    stream_init(&s, NULL, 0, 0);
    feed(&s, "hello");
    CHECK_EQ(s.visible, 5);
    text_of(&s, text, len);
    CHECK_STR(text, "hello");
    CHECK_EQ(len[4], 1);
    CHECK(stream_logprob(&s, 2) == -1.5f);
    stream_fini(&s);
}

/* The next piece at *p is this one. */
static void piece_is(const uint8_t **p, const char *want, size_t n)
{
    if (ld16(*p) != n || memcmp(*p + 2, want, n) != 0)
        t_fail(__FILE__, __LINE__, "got %u bytes \"%.*s\", want %zu", ld16(*p), (int)ld16(*p),
               (const char *)*p + 2, n);
    *p += 2 + ld16(*p);
}

static void tokens_and_alternatives_keep_their_bytes(void)
{
    const struct smp_top top[2][3] = {{{.id = 'a'}, {.id = 0}, {.id = 0xe2}},
                                      {{.id = 'c'}, {.id = 'd'}, {.id = 'e'}}};
    struct stream s;
    const uint8_t *p;

    need_tok();
    stream_init(&s, NULL, 0, 3);
    CHECK_EQ(stream_token(&s, tok, 'x', -1.5f, top[0], 3, false), 0);
    CHECK_EQ(stream_token(&s, tok, 0xf0, -1.5f, top[1], 2, false), 0);
    p = stream_pieces(&s, 0);
    piece_is(&p, "x", 1);
    piece_is(&p, "a", 1);
    piece_is(&p, "\0", 1);
    piece_is(&p, "\xe2", 1);
    CHECK(p == stream_pieces(&s, 1));
    piece_is(&p, "\xf0", 1);
    piece_is(&p, "c", 1);
    piece_is(&p, "d", 1);
    stream_fini(&s);
}

static void tokens_know_where_in_the_text_they_begin(void)
{
    static char word[] = "STOP", *stop[] = {word};
    static const size_t want[] = {0, 1, 1, 1, 1, 5, 6, 7, 8, 9, 10};
    const struct smp_top top = {.id = 'a'};
    struct stream s;

    need_tok();
    stream_init(&s, stop, 1, 1);
    for (const char *p = "a\xf0\x9f\x94\xa5yzSTOP"; *p; p++)
        CHECK_EQ(stream_token(&s, tok, (uint8_t)*p, -1.5f, &top, 1, false), 0);
    CHECK(s.stopped);
    text_of(&s, text, len);
    CHECK_EQ(strlen(text), 7); /* what begins at 7 or behind is the stop string's */
    CHECK_EQ(s.n_rec, 11);
    for (uint32_t i = 0; i < s.n_rec; i++)
        CHECK_EQ(stream_begins(&s, i), want[i]);
    stream_fini(&s);
}

static void a_code_point_is_never_split(void)
{
    struct stream s;

    need_tok();
    stream_init(&s, NULL, 0, 0);
    feed(&s, "\xf0\x9f\x94");
    CHECK_EQ(s.n_rec, 3);
    CHECK_EQ(s.visible, 2); /* the newest waits: it may have to carry what is held */
    feed(&s, "\xa5!");
    CHECK_EQ(s.visible, 5);
    text_of(&s, text, len);
    CHECK_STR(text, "\xf0\x9f\x94\xa5!");
    CHECK_EQ(len[0] + len[1] + len[2], 0);
    CHECK_EQ(len[3], 4);
    stream_fini(&s);
}

static void a_code_point_cut_off_at_the_end_comes_out_as_its_replacement(void)
{
    struct stream s;

    need_tok();
    stream_init(&s, NULL, 0, 0);
    feed(&s, "a\xe2\x82");
    CHECK_EQ(stream_end(&s), 0);
    CHECK_EQ(s.visible, 3);
    text_of(&s, text, len);
    CHECK_STR(text, "a\xef\xbf\xbd");
    CHECK_EQ(len[2], 3);
    stream_fini(&s);
}

static void a_stop_string_across_tokens_ends_the_text_before_it(void)
{
    char w0[] = "END", w1[] = "\n\n", *stop[] = {w0, w1};
    struct stream s;

    need_tok();
    stream_init(&s, stop, 2, 0);
    feed(&s, "a EN");
    CHECK_EQ(s.visible, 3);
    text_of(&s, text, len);
    CHECK_STR(text, "a "); /* what may begin a stop is held */
    feed(&s, "D and more");
    CHECK(s.stopped);
    CHECK_EQ(s.n_rec, 5);
    CHECK_EQ(s.visible, 5);
    text_of(&s, text, len);
    CHECK_STR(text, "a ");
    stream_fini(&s);
}

/* The code point that a stop cut off belongs to nothing any more: no record waits for it, and it
 * does not come out at the end.  (Of a byte that is no text the replacement comes out, which may
 * be the stop.) */
static void behind_a_stop_nothing_is_held(void)
{
    static char word[] = "\xef\xbf\xbd", *stop[] = {word};
    struct stream s;

    need_tok();
    stream_init(&s, stop, 1, 0);
    feed(&s, "ab\xf0\xf0");
    CHECK(s.stopped);
    CHECK_EQ(s.n_rec, 4);
    CHECK_EQ(s.visible, 4); /* the last one as well, or nobody reads to the end */
    CHECK_EQ(stream_end(&s), 0);
    text_of(&s, text, len);
    CHECK_STR(text, "ab");
    stream_fini(&s);
}

static void what_only_looked_like_a_stop_comes_out_later(void)
{
    char word[] = "abac", *stop[] = {word};
    struct stream s;

    need_tok();
    stream_init(&s, stop, 1, 0);
    feed(&s, "ababx");
    CHECK(!s.stopped);
    CHECK_EQ(s.visible, 5);
    text_of(&s, text, len);
    CHECK_STR(text, "ababx");
    CHECK_EQ(len[0] + len[1] + len[2], 0);
    CHECK_EQ(len[3], 2); /* "ab" can no longer begin it, the second "ab" can */
    feed(&s, "ababac");
    CHECK(s.stopped);
    text_of(&s, text, len);
    CHECK_STR(text, "ababxab");
    stream_fini(&s);
}

static void an_end_without_a_stop_lets_go_of_what_was_held(void)
{
    char word[] = "stop", *stop[] = {word};
    struct stream s;

    need_tok();
    stream_init(&s, stop, 1, 0);
    feed(&s, "don't sto");
    CHECK_EQ(s.visible, 8);
    /* The end-of-text token: no text of its own, it carries what was held. */
    CHECK_EQ(stream_token(&s, tok, 256, 0, NULL, 0, true), 0);
    CHECK_EQ(s.visible, 10);
    text_of(&s, text, len);
    CHECK_STR(text, "don't sto");
    CHECK_EQ(len[9], 3);
    stream_fini(&s);
}

static void records_are_read_whole_and_within_the_limit(void)
{
    struct stream s;
    uint32_t to;
    size_t n;

    need_tok();
    stream_init(&s, NULL, 0, 0);
    feed(&s, "abcdefgh");
    CHECK(stream_read(&s, 0, 1, &to, &n) != NULL); /* one at least */
    CHECK_EQ(to, 1);
    CHECK(stream_read(&s, 2, 3 * 17 + 16, &to, &n) != NULL);
    CHECK_EQ(to, 5);
    CHECK_EQ(n, 3 * 17);
    CHECK(stream_read(&s, 8, 1000, &to, &n) == NULL);
    CHECK_EQ(to, 8);
    CHECK_EQ(stream_unread(&s, 6), 2 * 17);
    stream_fini(&s);
}

/* However the tokens fall, the text is the text up to the first stop, and records made again
 * from the same tokens are the same. */
static void any_text_with_any_stops_is_cut_at_the_first(void)
{
    uint64_t seed = t_seed();

    need_tok();
    for (int run = 0; run < 2000; run++) {
        char word[2][4] = {{0}}, *stop[2] = {word[0], word[1]}, in[40] = {0};
        struct stream s, again;
        size_t cut, n;

        for (int i = 0; i < 2; i++)
            for (uint64_t k = 0, m = 1 + mk_next(&seed) % 3; k < m; k++)
                word[i][k] = (char)('a' + mk_next(&seed) % 2);
        n = mk_next(&seed) % 39;
        for (size_t i = 0; i < n; i++)
            in[i] = (char)('a' + mk_next(&seed) % 3);
        cut = n;
        /* The stop that is complete first wins; of those the one that began first. */
        for (size_t end = 1; end <= n && cut == n; end++)
            for (int i = 0; i < 2; i++) {
                size_t l = strlen(word[i]);

                if (l <= end && memcmp(in + end - l, word[i], l) == 0 && end - l < cut)
                    cut = end - l;
            }
        stream_init(&s, stop, 2, 0);
        feed(&s, in);
        if (!s.stopped)
            CHECK_EQ(stream_end(&s), 0);
        text_of(&s, text, len);
        in[cut] = 0;
        CHECK_STR(text, in);
        stream_init(&again, stop, 2, 0);
        for (uint32_t i = 0; i < s.n_rec; i++)
            CHECK_EQ(stream_token(&again, tok, (int32_t)ld32(s.buf + s.off[i] + 4), -1.5f, NULL,
                                  0, i + 1 == s.n_rec && !s.stopped),
                     0);
        CHECK_EQ(again.n, s.n);
        CHECK(again.n == s.n && (s.n == 0 || memcmp(again.buf, s.buf, s.n) == 0));
        stream_fini(&again);
        stream_fini(&s);
    }
}

T_MAIN(CASE(each_token_has_one_record_and_its_text),
       CASE(tokens_and_alternatives_keep_their_bytes),
       CASE(tokens_know_where_in_the_text_they_begin), CASE(a_code_point_is_never_split),
       CASE(a_code_point_cut_off_at_the_end_comes_out_as_its_replacement),
       CASE(a_stop_string_across_tokens_ends_the_text_before_it),
       CASE(behind_a_stop_nothing_is_held), CASE(what_only_looked_like_a_stop_comes_out_later),
       CASE(an_end_without_a_stop_lets_go_of_what_was_held),
       CASE(records_are_read_whole_and_within_the_limit),
       CASE(any_text_with_any_stops_is_cut_at_the_first))
