/* test_tokenizer.c - ids against llama.cpp's, special tokens, limits, errors. */
#include "base/clock.h"
#include "tests/engine/tokfix.h"
#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- llama.cpp's ids (tests/peer/tokenizer_llamacpp.py wrote them) ------------------------ */
struct cur {
    const uint8_t *p, *end;
};
static const uint8_t *take(struct cur *c, size_t n)
{
    if ((size_t)(c->end - c->p) < n)
        abort();
    c->p += n;
    return c->p - n;
}
static uint64_t varint(struct cur *c)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        uint8_t b = *take(c, 1);
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128)
            return v;
    }
}

struct text {
    const char *p;
    uint32_t bytes;
    bool special;
};

static void show_ids(const char *what, const int32_t *p, size_t n)
{
    printf("      %s", what);
    for (size_t i = 0; i < n && i < 40; i++)
        printf(" %d", p[i]);
    putchar('\n');
}

static int wrong_ids(const struct tokenizer *t, const struct text *s, const uint16_t *want,
                     size_t n, const char *rule)
{
    struct tok_ids got = {0};
    uint8_t *mask = malloc(s->bytes + 1);
    memset(mask, 1, s->bytes + 1);
    int r = tok_encode(t, s->p, s->bytes, s->special ? mask : NULL, false, &got);
    bool same = r == 0 && got.n == n;
    for (size_t i = 0; same && i < n; i++)
        same = got.p[i] == want[i];
    if (!same) {
        int32_t w[40];
        for (size_t i = 0; i < n && i < 40; i++)
            w[i] = want[i];
        t_fail(__FILE__, __LINE__, "%s: \"%s\"%s: %d", rule, shown(s->p, s->bytes),
               s->special ? " with specials" : "", r);
        show_ids("got ", got.p, got.n);
        show_ids("want", w, n);
    }
    free(mask);
    tok_ids_fini(&got);
    return !same;
}

static void against_golden(const char *path, struct blob model)
{
    struct blob gold = blob_file(path);
    if (gold.p == NULL || gold.n < 12 || memcmp(gold.p, "HTG1", 4) != 0)
        return t_fail(__FILE__, __LINE__, "%s: not a golden", path);
    struct cur c = {gold.p + 12, gold.p + gold.n};
    uint32_t n = ld32(gold.p + 4), n_rules = ld32(gold.p + 8);
    char rules[8][32];
    struct text *s = calloc(n, sizeof *s);
    const uint16_t **first = calloc(n, sizeof *first);
    size_t *first_n = calloc(n, sizeof *first_n);
    uint16_t *ids = malloc(gold.n * 2), *id = ids; /* aligned copies */

    for (uint32_t i = 0; i < n_rules; i++) {
        uint8_t len = *take(&c, 1);
        snprintf(rules[i], sizeof rules[i], "%.*s", len, (const char *)take(&c, len));
    }
    for (uint32_t i = 0; i < n; i++) {
        s[i].bytes = ld32(take(&c, 4));
        s[i].special = *take(&c, 1);
        s[i].p = (const char *)take(&c, s[i].bytes);
    }
    for (uint32_t k = 0; k < n_rules; k++) {
        struct fix f;
        int bad = 0;
        int r = fix_open(&f, meta_with(model.p, "tokenizer.ggml.pre", rules[k]));
        if (r < 0)
            t_fail(__FILE__, __LINE__, "%s: %d %s", rules[k], r, f.eb.s);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t v = varint(&c);
            const uint16_t *want = first[i];
            size_t want_n = first_n[i];
            if (v != 1) {
                want_n = v / 2;
                memcpy(id, take(&c, want_n * 2), want_n * 2);
                want = id;
                id += want_n;
            }
            if (k == 0) {
                first[i] = want;
                first_n[i] = want_n;
            }
            if (r == 0 && bad < 10)
                bad += wrong_ids(f.t, &s[i], want, want_n, rules[k]);
        }
        printf("      %s: %u strings\n", rules[k], n);
        fix_close(&f);
    }
    CHECK(c.p == c.end);
    free(ids);
    free(first);
    free(first_n);
    free(s);
    free(gold.p);
}

static const char *golden_path(const char *otherwise)
{
    const char *path = getenv("HEARTH_TOKENS_GOLDEN");
    return path ? path : otherwise;
}
static void golden_ids_of_the_real_vocabulary_are_llamacpps(void)
{
    struct blob m = test_model();
    against_golden(golden_path("tests/golden/tokens.bin"), m);
    free(m.p);
}
static void golden_ids_of_a_difficult_vocabulary_are_llamacpps(void)
{
    struct blob m = blob_file("tests/golden/own_vocab.gguf");
    against_golden(golden_path("tests/golden/own_tokens.bin"), m);
    free(m.p);
}

/* --- special tokens ---------------------------------------------------------------------------- */
static struct fix own(const char *pre)
{
    struct blob m = blob_file("tests/golden/own_vocab.gguf");
    struct fix f;
    int r = fix_open(&f, meta_with(m.p, "tokenizer.ggml.pre", pre));
    if (r < 0)
        t_fail(__FILE__, __LINE__, "%d %s", r, f.eb.s);
    free(m.p);
    return f;
}

/* mask: one digit per byte of text, NULL for none at all. */
static struct tok_ids ids_of(const struct tokenizer *t, const char *text, const char *mask)
{
    struct tok_ids v = {0};
    uint8_t m[256];
    for (size_t i = 0; mask && mask[i]; i++)
        m[i] = mask[i] == '1';
    CHECK(!mask || strlen(mask) == strlen(text));
    CHECK_EQ(tok_encode(t, text, strlen(text), mask ? m : NULL, false, &v), 0);
    return v;
}
static int has(struct tok_ids v, int32_t id)
{
    int n = 0;
    for (size_t i = 0; i < v.n; i++)
        n += v.p[i] == id;
    tok_ids_fini(&v);
    return n;
}

static void special_tokens_match_only_where_all_bytes_are_masked(void)
{
    struct fix f = own("gpt-2");
    int32_t a = tok_find(f.t, "<|a|>");
    CHECK(a >= 0);
    CHECK_EQ(has(ids_of(f.t, "x<|a|>y", NULL), a), 0);
    CHECK_EQ(has(ids_of(f.t, "x<|a|>y", "1111111"), a), 1);
    CHECK_EQ(has(ids_of(f.t, "x<|a|>y", "0111110"), a), 1);
    CHECK_EQ(has(ids_of(f.t, "x<|a|>y", "1111011"), a), 0);
    CHECK_EQ(has(ids_of(f.t, "x<|a|>y", "0000000"), a), 0);
    CHECK_EQ(has(ids_of(f.t, "<|a|><|a|>", "1111100000"), a), 1);
    fix_close(&f);
}

static void words_of_masked_and_unmasked_text_still_join(void)
{
    struct fix f = own("gpt-2");
    struct tok_ids whole = ids_of(f.t, "the first", NULL),
                   cut = ids_of(f.t, "the first", "111100000");
    CHECK(whole.n == cut.n && memcmp(whole.p, cut.p, whole.n * sizeof *whole.p) == 0);
    tok_ids_fini(&whole);
    tok_ids_fini(&cut);
    fix_close(&f);
}

static void the_longest_special_token_wins_wherever_it_is(void)
{
    struct fix f = own("gpt-2");
    int32_t a = tok_find(f.t, "<|a|>"), both = tok_find(f.t, "<|a|><|b|>");
    CHECK_EQ(has(ids_of(f.t, "<|a|><|b|>", "1111111111"), both), 1);
    CHECK_EQ(has(ids_of(f.t, "<|a|><|b|>", "1111111111"), a), 0);
    CHECK_EQ(has(ids_of(f.t, "<|a|><|b|>", "1111100000"), a), 1);
    /* "|>xx<|" is longer than the "<|a|>" it shares two bytes with. */
    CHECK_EQ(has(ids_of(f.t, "<|a|>xx<|b|>", "111111111111"), a), 0);
    CHECK_EQ(has(ids_of(f.t, "<|a|>xx<|b|>", "111111111111"), tok_find(f.t, "|>xx<|")), 1);
    fix_close(&f);
}

static void user_defined_tokens_match_in_plain_text(void)
{
    struct fix f = own("gpt-2");
    CHECK_EQ(has(ids_of(f.t, "a<ud>b", NULL), tok_find(f.t, "<ud>")), 1);
    CHECK_EQ(has(ids_of(f.t, "a  b", NULL), tok_find(f.t, "  ")), 1);
    CHECK(!tok_is_special(f.t, tok_find(f.t, "<ud>")));
    CHECK(tok_is_special(f.t, tok_find(f.t, "<unk>")));
    fix_close(&f);
}

static void bos_comes_when_asked_for_and_wanted(void)
{
    struct fix f = own("gpt-2");
    struct tok_ids v = {0};
    CHECK_EQ(tok_encode(f.t, "", 0, NULL, true, &v), 0);
    CHECK_EQ(v.n, 1);
    CHECK(v.n == 1 && v.p[0] == tok_bos(f.t));
    CHECK_EQ(tok_encode(f.t, "", 0, NULL, false, &v), 0);
    CHECK_EQ(v.n, 1); /* appends */
    tok_ids_fini(&v);
    fix_close(&f);
}

static void end_tokens_are_eos_and_the_ends_of_turns(void)
{
    struct fix f = own("gpt-2");
    CHECK(tok_is_end(f.t, tok_eos(f.t)));
    CHECK(tok_is_end(f.t, tok_find(f.t, "<|im_end|>"))); /* whatever type the file gives it */
    CHECK(!tok_is_end(f.t, tok_find(f.t, "<|a|>")));
    CHECK(!tok_is_end(f.t, -1));
    CHECK(!tok_is_end(f.t, (int32_t)tok_n_vocab(f.t)));
    CHECK_EQ(tok_find(f.t, "hello"), -1);
    CHECK_EQ(tok_find(f.t, ""), -1);
    fix_close(&f);
}

static void pieces_are_bytes_and_silent_when_special(void)
{
    struct fix f = own("gpt-2");
    size_t n = 99;
    struct tok_ids v = ids_of(f.t, " ", NULL);
    CHECK_EQ(v.n, 1);
    const char *p = tok_piece(f.t, v.p[0], false, &n);
    CHECK(p && n == 1 && p[0] == ' ');
    p = tok_piece(f.t, tok_find(f.t, "<|a|>"), false, &n);
    CHECK(p && n == 0);
    p = tok_piece(f.t, tok_find(f.t, "<|a|>"), true, &n);
    CHECK(p && n == 5 && memcmp(p, "<|a|>", 5) == 0);
    p = tok_piece(f.t, tok_find(f.t, "<ud>"), false, &n);
    CHECK(p && n == 4);
    CHECK(tok_piece(f.t, -1, true, &n) == NULL);
    CHECK(tok_piece(f.t, (int32_t)tok_n_vocab(f.t), true, &n) == NULL);
    tok_ids_fini(&v);
    fix_close(&f);
}

/* --- round trip, identity, limits ------------------------------------------------------------ */
static uint64_t seed(void)
{
    const char *s = getenv("SEED");
    uint64_t v = s ? strtoull(s, NULL, 10) : now_ns();
    printf("      SEED=%llu\n", (unsigned long long)v);
    return v;
}
static uint64_t next(uint64_t *s)
{
    *s += 0x9e3779b97f4a7c15u;
    uint64_t x = *s;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Any valid text whose bytes all have tokens (here: without q and x) comes back byte for
 * byte, by each rule. */
static void pieces_of_ids_are_the_text(void)
{
    static const char *const rules[] = {"smollm", "gpt-2", "llama-bpe",
                                        "dbrx",   "qwen2", "deepseek-llm"};
    static const char *const bits[] = {"a",
                                       "the ",
                                       " ",
                                       "  ",
                                       "\n",
                                       "\r\n",
                                       "1",
                                       "23",
                                       "\xc3\xa9",
                                       "\xe4\xb8\x96",
                                       "\xf0\x9f\x98\x80",
                                       "'s",
                                       "'LL",
                                       ".",
                                       "\xe3\x80\x80",
                                       "\xc2\xa0",
                                       "<ud>",
                                       "\t",
                                       "\xcc\x81",
                                       "\xd0\x9f",
                                       "\xef\xbc\x81",
                                       "\xe2\x80\xa8"};
    uint64_t s = seed();
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        struct fix f = own(rules[k]);
        for (int i = 0; i < 300; i++) {
            struct blob text = {0}, back = {0};
            for (uint64_t n = next(&s) % 200; n; n--) {
                const char *b = bits[next(&s) % (sizeof bits / sizeof *bits)];
                blob_put(&text, b, strlen(b));
            }
            struct tok_ids v = {0};
            CHECK_EQ(tok_encode(f.t, (char *)text.p, text.n, NULL, false, &v), 0);
            for (size_t j = 0; j < v.n; j++) {
                size_t n;
                const char *p = tok_piece(f.t, v.p[j], true, &n);
                blob_put(&back, p, n);
            }
            if (back.n != text.n || (text.n && memcmp(back.p, text.p, text.n) != 0))
                t_fail(__FILE__, __LINE__, "%s: \"%s\" came back as \"%s\"", rules[k],
                       shown((char *)text.p, text.n), shown((char *)back.p, back.n));
            tok_ids_fini(&v);
            free(text.p);
            free(back.p);
        }
        fix_close(&f);
    }
}

static void repeated_words_get_the_same_ids_in_a_long_text(void)
{
    /* A long text remembers its words; taking it line by line does not. */
    struct blob file = blob_file("LICENSE"), text = {0};
    struct fix f = own("smollm");
    struct tok_ids whole = {0}, lines = {0};
    for (int i = 0; i < 20; i++)
        blob_put(&text, file.p, file.n);
    CHECK_EQ(tok_encode(f.t, (char *)text.p, text.n, NULL, false, &whole), 0);
    for (int i = 0; i < 20; i++)
        CHECK_EQ(tok_encode(f.t, (char *)file.p, file.n, NULL, false, &lines), 0);
    /* The file ends in a newline, which joins nothing that follows: the same words. */
    CHECK(file.n && whole.n == lines.n &&
          memcmp(whole.p, lines.p, whole.n * sizeof *whole.p) == 0);
    tok_ids_fini(&whole);
    tok_ids_fini(&lines);
    free(file.p);
    free(text.p);
    fix_close(&f);
}

static void identity_follows_all_that_decides_ids(void)
{
    struct blob m = blob_file("tests/golden/own_vocab.gguf");
    struct fix a = own("gpt-2"), b = own("gpt-2"), alias = own("phi-2"), other = own("qwen2"),
               c, d;
    CHECK(memcmp(tok_id(a.t), tok_id(b.t), 32) == 0);
    CHECK(memcmp(tok_id(a.t), tok_id(alias.t), 32) == 0);
    CHECK(memcmp(tok_id(a.t), tok_id(other.t), 32) != 0);
    struct blob no_bos = meta_with(m.p, "tokenizer.ggml.add_bos_token", NULL);
    CHECK_EQ(fix_open(&c, no_bos), 0);
    CHECK(memcmp(tok_id(a.t), tok_id(c.t), 32) != 0);
    struct blob renamed = meta_with(m.p, "general.name", "something else");
    CHECK_EQ(fix_open(&d, renamed), 0);
    CHECK(memcmp(tok_id(a.t), tok_id(d.t), 32) == 0);
    fix_close(&a);
    fix_close(&b);
    fix_close(&alias);
    fix_close(&other);
    fix_close(&c);
    fix_close(&d);
    free(m.p);
}

static void a_flood_of_anything_is_never_quadratic(void)
{
    static const char *const runs[] = {
        "a", " ", "\n", "ab", "1", "\xe4\xb8\x96", "-", "\t", "\xff", "<|a|>", "<", " a", "'s"};
    static const char *const rules[] = {"smollm", "llama-bpe", "deepseek-llm"};
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        struct fix f = own(rules[k]);
        for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
            struct blob text = {0};
            struct tok_ids v = {0};
            while (text.n < (i == 0 ? 1000000u : 200000u))
                blob_put(&text, runs[i], strlen(runs[i]));
            uint8_t *mask = malloc(text.n);
            memset(mask, 1, text.n);
            uint64_t t0 = now_ns();
            CHECK_EQ(tok_encode(f.t, (char *)text.p, text.n, mask, false, &v), 0);
            double s = (double)(now_ns() - t0) / 1e9;
            /* A square would be minutes; a loaded machine or a sanitizer is only slow. */
            if (s > 15)
                t_fail(__FILE__, __LINE__, "%s: a flood of \"%s\" took %.1f s", rules[k],
                       runs[i], s);
            free(mask);
            tok_ids_fini(&v);
            free(text.p);
        }
        fix_close(&f);
    }
}

/* --- hostile text: work, turns and memory ------------------------------------------------------ */
static const char *const floods[] = {
    "a", " ",     "\n", " \n", "\xf0\x9f\x98\x80", "\xe4\xb8\x96", "\xff",
    "<", "<|a|>", ".",  NULL /* noise */};
enum { FLOODS = sizeof floods / sizeof *floods };

static struct blob flood_of(int i, size_t bytes)
{
    struct blob b = {0};
    uint64_t x = 88172645463325252u;

    while (b.n < bytes) {
        uint8_t c;

        if (floods[i]) {
            blob_put(&b, floods[i], strlen(floods[i]));
            continue;
        }
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        c = (uint8_t)x;
        blob_put(&b, &c, 1);
    }
    return b;
}
struct turns {
    uint64_t n, stop_at;
};
static int count_turn(void *ctx)
{
    struct turns *c = ctx;

    return ++c->n == c->stop_at ? -ECANCELED : 0;
}
static void turns_grow_as_the_text_does_and_may_end_it(void)
{
    static const char *const rules[] = {"smollm", "llama-bpe", "deepseek-llm"};

    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++) {
        struct fix f = own(rules[k]);

        for (int i = 0; i < FLOODS; i++) {
            struct turns c[2] = {0}, cut = {.stop_at = 3};
            struct tok_ids v = {0};

            for (int z = 0; z < 2; z++) {
                struct blob text = flood_of(i, z ? 1 << 20 : 1 << 17);
                struct tok_pause p = {count_turn, &c[z]};

                v.n = 0;
                CHECK_EQ(tok_encode_in_turns(f.t, (char *)text.p, text.n, NULL, false, &p, &v),
                         0);
                if (z) {
                    size_t before = v.n = v.n < 5 ? v.n : 5;
                    struct tok_pause q = {count_turn, &cut};

                    CHECK_EQ(
                        tok_encode_in_turns(f.t, (char *)text.p, text.n, NULL, false, &q, &v),
                        -ECANCELED);
                    CHECK_EQ(v.n, before);
                    CHECK_EQ(cut.n, 3);
                }
                free(text.p);
            }
            /* Eight times the text: eight times the turns, none of which is more than a
             * window's work. */
            if (c[1].n > c[0].n * 9 || c[1].n < (1u << 20) / (64u << 10))
                t_fail(__FILE__, __LINE__,
                       "%s, flood %d: %llu turns for 128 KiB, %llu for 1 MiB", rules[k], i,
                       (unsigned long long)c[0].n, (unsigned long long)c[1].n);
            tok_ids_fini(&v);
        }
        fix_close(&f);
    }
}

struct looks {
    const struct tok_ids *ids;
    uint64_t n; /* turns before the first id */
};
static int look_turn(void *ctx)
{
    struct looks *l = ctx;

    l->n += l->ids->n == 0;
    return 0;
}
/* Also what looks for special tokens, and finds none before the end, takes turns: as often in each
 * pass over the text. */
static void looking_for_special_tokens_takes_turns(void)
{
    enum { PASS = (1 << 20) / (64 << 10) };
    static const char *const ends[] = {"", "<|a|>xx<|b|>", ""}; /* those overlap a longer one */
    struct fix f = own("smollm");

    for (int i = 0; i < 3; i++) {
        struct blob text = {0};
        if (i < 2)
            text = flood_of(9, 1 << 20);
        while (i == 2 && text.n < 1 << 20) /* nearly one each time: looked at in full */
            blob_put(&text, "<|a|", 4);
        struct tok_ids v = {0};
        struct looks l = {.ids = &v};
        struct tok_pause p = {look_turn, &l};

        for (size_t at = 0; i == 1 && at < text.n;
             at += 3000) /* begins as one does, and is none */
            text.p[at] = '<';
        blob_put(&text, ends[i], strlen(ends[i]));
        uint8_t *mask = malloc(text.n);
        memset(mask, 1, text.n);
        CHECK_EQ(tok_encode_in_turns(f.t, (char *)text.p, text.n, mask, false, &p, &v), 0);
        free(mask);
        /* One finds them, one cuts at them, and two are settled; of four bytes one is looked at
         * to the fifth. */
        CHECK(l.n >= (i ? 4 : 2) * PASS - 1);
        printf("    %llu turns\n", (unsigned long long)l.n);
        tok_ids_fini(&v);
        free(text.p);
    }
    fix_close(&f);
}

/* Of a process of its own, which tells by its status. */
static int encode_in(size_t bytes, int i, const char *rule, long max_kib)
{
    int st = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        struct fix f = own(rule);
        struct blob text = flood_of(i, bytes);
        struct tok_ids v = {0};
        struct rusage u;
        long before;

        getrusage(RUSAGE_SELF, &u);
        before = u.ru_maxrss;
        if (tok_encode(f.t, (char *)text.p, text.n, NULL, false, &v) != 0)
            _exit(2);
        getrusage(RUSAGE_SELF, &u);
        /* The ids it gives back grow by doubling. */
        _exit(u.ru_maxrss - before - (long)(v.cap * sizeof *v.p * 3 / 2 >> 10) > max_kib);
    }
    waitpid(pid, &st, 0);
    return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}
static void memory_does_not_grow_with_the_length_of_a_word(void)
{
#ifdef __SANITIZE_THREAD__
    t_skip("each byte that is touched takes some of the sanitizer's");
#endif
    CHECK_EQ(encode_in(8 << 20, 0, "smollm", 24 << 10), 0);
    CHECK_EQ(encode_in(8 << 20, 9, "llama-bpe", 24 << 10), 0);
}
/* Runs of 2 to 31 spaces are tokens that cut the text, as in some vocabularies for code. */
static struct fix with_runs_of_spaces(void)
{
    struct blob b = {0};
    struct fix f;

    meta_begin(&b);
    meta_str(&b, "tokenizer.ggml.model", "gpt2");
    meta_str(&b, "tokenizer.ggml.pre", "gpt-2");
    meta_arr(&b, "tokenizer.ggml.tokens", GGUF_STR, 32);
    for (uint64_t i = 0; i < 32; i++)
        blob_str(&b, i < 2 ? "ab" + i : "                               ", i < 2 ? 1 : i);
    meta_arr(&b, "tokenizer.ggml.token_type", GGUF_I32, 32);
    for (uint32_t i = 0; i < 32; i++)
        blob_u32(&b, i < 2 ? 1 : 4);
    meta_arr(&b, "tokenizer.ggml.merges", GGUF_STR, 0);
    if (fix_open(&f, b) < 0)
        t_fail(__FILE__, __LINE__, "%s", f.eb.s);
    return f;
}
static void specials_that_overlap_everywhere_take_bounded_memory(void)
{
    struct fix f = with_runs_of_spaces();
    struct blob text = flood_of(1, 4 << 20);
    struct tok_ids v = {0};
    struct rusage u;
    long before;
    pid_t pid;
    int st = 0;

    CHECK_EQ(tok_encode(f.t, (char *)text.p, 100, NULL, false, &v), 0);
    CHECK_EQ(v.n, 4); /* the longest first, as often as it goes in */
    CHECK(v.p[0] == 31 && v.p[1] == 31 && v.p[2] == 31 && v.p[3] == 7);
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        getrusage(RUSAGE_SELF, &u);
        before = u.ru_maxrss;
        if (tok_encode(f.t, (char *)text.p, text.n, NULL, false, &v) != 0)
            _exit(2);
        getrusage(RUSAGE_SELF, &u);
        _exit(u.ru_maxrss - before > 40 << 10);
    }
    waitpid(pid, &st, 0);
    CHECK(WIFEXITED(st));
    CHECK_EQ(WEXITSTATUS(st), 0);
    tok_ids_fini(&v);
    free(text.p);
    fix_close(&f);
}

struct job {
    const struct tokenizer *t;
    const struct blob *text;
    struct tok_ids v;
};
static void *encode_all(void *ctx)
{
    struct job *j = ctx;
    for (int i = 0; i < 5; i++) {
        j->v.n = 0;
        if (tok_encode(j->t, (char *)j->text->p, j->text->n, NULL, true, &j->v) != 0)
            j->v.n = 0;
    }
    return NULL;
}

static void threads_share_a_tokenizer(void)
{
    struct blob text = blob_file("LICENSE");
    struct fix f = own("llama-bpe");
    struct job job[4] = {0};
    pthread_t th[4];
    for (int i = 0; i < 4; i++) {
        job[i] = (struct job){f.t, &text, {0}};
        CHECK_EQ(pthread_create(&th[i], NULL, encode_all, &job[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(th[i], NULL);
    for (int i = 0; i < 4; i++) {
        CHECK(job[i].v.n && job[i].v.n == job[0].v.n &&
              memcmp(job[i].v.p, job[0].v.p, job[0].v.n * sizeof *job[0].v.p) == 0);
    }
    for (int i = 0; i < 4; i++)
        tok_ids_fini(&job[i].v);
    free(text.p);
    fix_close(&f);
}

/* --- files that are wrong ------------------------------------------------------------------------ */
struct parts {
    const char *model, *pre;
    int tokens, types; /* -1: the key is absent */
    const char *merge;
    const char *twin; /* a token that is there twice */
};
static int open_parts(struct parts p, struct errbuf *eb)
{
    struct blob b = {0};
    struct fix f;
    meta_begin(&b);
    if (p.model)
        meta_str(&b, "tokenizer.ggml.model", p.model);
    if (p.pre)
        meta_str(&b, "tokenizer.ggml.pre", p.pre);
    if (p.tokens >= 0) {
        meta_arr(&b, "tokenizer.ggml.tokens", GGUF_STR, (uint64_t)p.tokens);
        for (int i = 0; i < p.tokens; i++) {
            char s[2] = {(char)('a' + i), 0};
            const char *t = p.twin && i == p.tokens - 1 ? p.twin : s;
            blob_str(&b, t, strlen(t));
        }
    }
    if (p.types >= 0) {
        meta_arr(&b, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)p.types);
        for (int i = 0; i < p.types; i++)
            blob_u32(&b, 1);
    }
    if (p.merge) {
        meta_arr(&b, "tokenizer.ggml.merges", GGUF_STR, 1);
        blob_str(&b, p.merge, strlen(p.merge));
    }
    int r = fix_open(&f, b);
    *eb = f.eb;
    fix_close(&f);
    return r;
}
static void wrong(struct parts p, int want, const char *word)
{
    struct errbuf eb;
    int r = open_parts(p, &eb);
    if (r != want || (want && strstr(eb.s, word) == NULL))
        t_fail(__FILE__, __LINE__, "got %d \"%s\", want %d with \"%s\"", r, eb.s, want, word);
}

static void a_wrong_file_is_refused_by_the_name_of_the_field(void)
{
    struct parts good = {"gpt2", "gpt-2", 5, 5, "a b", NULL}, p;
    wrong(good, 0, "");
    p = good, p.model = NULL, wrong(p, E_CORRUPT, "tokenizer.ggml.model");
    p = good, p.model = "llama", wrong(p, E_UNSUPP, "want \"gpt2\"");
    p = good, p.pre = NULL, wrong(p, E_UNSUPP, "tokenizer.ggml.pre");
    p = good, p.pre = "made-up",
    wrong(p, E_UNSUPP, "no pre-tokenizer \"made-up\"; known: smollm gpt-2");
    p = good, p.tokens = -1, wrong(p, E_CORRUPT, "tokenizer.ggml.tokens");
    p = good, p.tokens = 0, wrong(p, E_CORRUPT, "tokenizer.ggml.tokens");
    p = good, p.types = 3, wrong(p, E_CORRUPT, "tokenizer.ggml.token_type");
    p = good, p.types = -1, wrong(p, 0, "");
    p = good, p.merge = NULL, wrong(p, E_CORRUPT, "tokenizer.ggml.merges");
    p = good, p.merge = "ab", wrong(p, E_CORRUPT, "tokenizer.ggml.merges[0]");
    p = good, p.merge = "a ", wrong(p, E_CORRUPT, "tokenizer.ggml.merges[0]");
    p = good, p.merge = "", wrong(p, E_CORRUPT, "tokenizer.ggml.merges[0]");
    p = good, p.merge = "\xff \xfe", wrong(p, 0, ""); /* spells no bytes: never met */
    p = good, p.twin = "a", wrong(p, E_CORRUPT, "same text");
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(golden_ids_of_the_real_vocabulary_are_llamacpps),
       CASE(golden_ids_of_a_difficult_vocabulary_are_llamacpps),
       CASE(special_tokens_match_only_where_all_bytes_are_masked),
       CASE(words_of_masked_and_unmasked_text_still_join),
       CASE(the_longest_special_token_wins_wherever_it_is),
       CASE(user_defined_tokens_match_in_plain_text), CASE(bos_comes_when_asked_for_and_wanted),
       CASE(end_tokens_are_eos_and_the_ends_of_turns),
       CASE(pieces_are_bytes_and_silent_when_special), CASE(pieces_of_ids_are_the_text),
       CASE(repeated_words_get_the_same_ids_in_a_long_text), CASE(threads_share_a_tokenizer),
       CASE(identity_follows_all_that_decides_ids),
       CASE(a_flood_of_anything_is_never_quadratic),
       CASE(turns_grow_as_the_text_does_and_may_end_it),
       CASE(memory_does_not_grow_with_the_length_of_a_word),
       CASE(specials_that_overlap_everywhere_take_bounded_memory),
       CASE(looking_for_special_tokens_takes_turns),
       CASE(a_wrong_file_is_refused_by_the_name_of_the_field))
