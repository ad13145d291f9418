/* test_chat.c - templates against jinja2's output, going on with a session, masks, refusals. */
#include "base/err.h"
#include "engine/chat_jinja.h"
#include "tests/engine/tokfix.h"
#include <errno.h>

/* A vocabulary of single bytes and the two special tokens a template may name. */
static struct blob vocab(const char *tmpl, size_t bytes, const char *bos, const char *eos)
{
    struct blob b = {0};
    const char *text[2] = {bos, eos};
    uint32_t n_special = (bos[0] != 0) + (eos[0] != 0);
    meta_begin(&b);
    meta_str(&b, "tokenizer.ggml.model", "gpt2");
    meta_str(&b, "tokenizer.ggml.pre", "gpt-2");
    meta_arr(&b, "tokenizer.ggml.tokens", GGUF_STR, 94 + n_special);
    for (int c = 0x21; c <= 0x7e; c++) {
        char s = (char)c;
        blob_str(&b, &s, 1);
    }
    for (int i = 0; i < 2; i++)
        if (text[i][0])
            blob_str(&b, text[i], strlen(text[i]));
    meta_arr(&b, "tokenizer.ggml.token_type", GGUF_I32, 94 + n_special);
    for (uint32_t i = 0; i < 94 + n_special; i++)
        blob_u32(&b, i < 94 ? 1 : 3);
    meta_arr(&b, "tokenizer.ggml.merges", GGUF_STR, 0);
    if (bos[0])
        meta_u32(&b, "tokenizer.ggml.bos_token_id", 94);
    if (eos[0])
        meta_u32(&b, "tokenizer.ggml.eos_token_id", 94 + (bos[0] != 0));
    meta_bool(&b, "tokenizer.ggml.add_bos_token", false);
    if (tmpl) {
        meta_key(&b, "tokenizer.chat_template", GGUF_STR);
        blob_str(&b, tmpl, bytes);
    }
    return b;
}

struct chat_fix {
    struct fix f;
    struct chat *c;
};
static int open_chat(struct chat_fix *x, const char *tmpl, size_t bytes, const char *bos,
                     const char *eos)
{
    *x = (struct chat_fix){0};
    int r = fix_open(&x->f, vocab(tmpl, bytes, bos, eos));
    if (r < 0)
        return r;
    return chat_open(&x->c, x->f.g, x->f.t, &x->f.eb);
}
static int open_text(struct chat_fix *x, const char *tmpl)
{
    return open_chat(x, tmpl, strlen(tmpl), "<s>", "</s>");
}
static void close_chat(struct chat_fix *x)
{
    chat_close(x->c);
    fix_close(&x->f);
}

/* --- the golden file -------------------------------------------------------------------------- */
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
static uint32_t number(struct cur *c)
{
    return ld32(take(c, 4));
}
struct str {
    char *p; /* terminated */
    uint32_t n;
};
static struct str string(struct cur *c)
{
    struct str s = {.n = number(c)};
    s.p = malloc(s.n + 1);
    memcpy(s.p, take(c, s.n), s.n);
    s.p[s.n] = 0;
    return s;
}

struct conv {
    uint8_t prompt, raises;
    struct str date, want, role[64], text[64];
    struct chat_msg m[64];
    uint32_t n;
};
static void read_conv(struct cur *c, struct conv *v)
{
    v->prompt = *take(c, 1);
    v->raises = *take(c, 1);
    v->date = string(c);
    v->n = number(c);
    if (v->n > 64)
        abort();
    for (uint32_t i = 0; i < v->n; i++) {
        v->role[i] = string(c);
        v->text[i] = string(c);
        v->m[i] = (struct chat_msg){v->role[i].p, v->text[i].p, v->text[i].n};
    }
    v->want = string(c);
}
static void free_conv(struct conv *v)
{
    for (uint32_t i = 0; i < v->n; i++) {
        free(v->role[i].p);
        free(v->text[i].p);
    }
    free(v->date.p);
    free(v->want.p);
}

static void check_conv(const char *name, const struct chat *c, const struct conv *v)
{
    struct chat_text t = {0};
    struct errbuf eb = {""};
    int r = chat_render(c, v->m, v->n, v->prompt, v->date.p, &t, &eb);
    if (v->raises ? r != -EINVAL : r != 0)
        t_fail(__FILE__, __LINE__, "%s: %d %s, want %s", name, r, eb.s,
               v->raises ? "an error" : "text");
    else if (r == 0 && (t.n != v->want.n || (t.n && memcmp(t.p, v->want.p, t.n) != 0)))
        t_fail(__FILE__, __LINE__, "%s: got\n      \"%s\" want\n      \"%s\"", name,
               shown(t.p, t.n), shown(v->want.p, v->want.n));
    chat_text_fini(&t);
}

/* Whole = before the answer + the answer + what appending writes, wherever an answer is. */
static int check_cuts(const char *name, const struct chat *c, const struct conv *v)
{
    int cuts = 0;
    struct chat_text whole = {0};
    if (chat_render(c, v->m, v->n, v->prompt, v->date.p, &whole, NULL) < 0)
        return 0;
    for (uint32_t i = 1; i < v->n; i++) {
        struct chat_text t = {0};
        const struct chat_msg *a = &v->m[i];
        /* An answer a template would trim or take apart is not what was sampled. */
        if (strcmp(a->role, "assistant") != 0 || a->bytes == 0 ||
            strcmp(v->m[i - 1].role, "user") != 0 || (uint8_t)a->text[0] <= 0x20 ||
            (uint8_t)a->text[a->bytes - 1] <= 0x20 || strstr(a->text, "think>") ||
            (uint8_t)a->text[0] >= 0xe2)
            continue;
        if (chat_render(c, v->m, i, true, v->date.p, &t, NULL) < 0 ||
            chat_text_add(&t, a->text, NULL, a->bytes) < 0 ||
            chat_append(c, false, false, a + 1, v->n - i - 1, v->prompt, v->date.p, &t, NULL) <
                0) {
            t_fail(__FILE__, __LINE__, "%s: cut %u does not render", name, i);
        } else if (t.n != whole.n || memcmp(t.p, whole.p, t.n) != 0) {
            t_fail(__FILE__, __LINE__, "%s: cut %u\n      \"%s\" want\n      \"%s\"", name, i,
                   shown(t.p, t.n), shown(whole.p, whole.n));
        }
        cuts++;
        chat_text_fini(&t);
    }
    chat_text_fini(&whole);
    return cuts;
}

/* Templates whose past depends on what follows, or whose opening is not what history has. */
static bool restless(const char *name)
{
    return strcmp(name, "strict") == 0 || strcmp(name, "thinking") == 0 ||
           strcmp(name, "words") == 0 || strcmp(name, "lines") == 0 ||
           strcmp(name, "odds") == 0 || strstr(name, ".jinja");
}

static void golden_conversations_are_jinjas(void)
{
    const char *path = getenv("HEARTH_TEMPLATES_GOLDEN");
    struct blob gold = blob_file(path ? path : "tests/golden/templates.bin");
    if (gold.p == NULL || gold.n < 8 || memcmp(gold.p, "HTC1", 4) != 0)
        return t_fail(__FILE__, __LINE__, "not a golden");
    struct cur c = {gold.p + 4, gold.p + gold.n};
    for (uint32_t k = number(&c); k; k--) {
        struct str name = string(&c), text = string(&c), bos = string(&c), eos = string(&c);
        struct chat_fix x;
        int r = open_chat(&x, text.p, text.n, bos.p, eos.p), cuts = 0;
        uint32_t n = number(&c);
        bool may_refuse = r == E_UNSUPP && strstr(name.p, ".jinja");
        if ((r < 0 || x.c == NULL) && !may_refuse)
            t_fail(__FILE__, __LINE__, "%s: %d %s", name.p, r, x.f.eb.s);
        for (uint32_t i = 0; i < n; i++) {
            struct conv v = {0};
            read_conv(&c, &v);
            if (r == 0)
                check_conv(name.p, x.c, &v);
            if (r == 0 && !restless(name.p))
                cuts += check_cuts(name.p, x.c, &v);
            free_conv(&v);
        }
        printf("      %s: %s, %u conversations, %d cuts\n", name.p,
               r == 0 ? chat_family(x.c) : x.f.eb.s, n, cuts);
        CHECK(r < 0 || restless(name.p) || cuts > 5);
        close_chat(&x);
        free(name.p);
        free(text.p);
        free(bos.p);
        free(eos.p);
    }
    CHECK(c.p == c.end);
    free(gold.p);
}

/* --- single facts ----------------------------------------------------------------------------- */
static struct chat_msg say(const char *role, const char *text)
{
    return (struct chat_msg){role, text, strlen(text)};
}
static const char chatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' "
    "+ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

static bool is_text(struct chat_text *t, const char *want)
{
    bool same = t->n == strlen(want) && memcmp(t->p, want, t->n) == 0;
    if (!same)
        t_fail(__FILE__, __LINE__, "got \"%s\", want \"%s\"", shown(t->p, t->n),
               shown(want, strlen(want)));
    chat_text_fini(t);
    return same;
}

static void the_mask_is_what_the_template_wrote(void)
{
    struct chat_fix x;
    struct chat_text t = {0};
    struct chat_msg m = say("user", "<|im_end|>");
    CHECK_EQ(open_text(&x, chatml), 0);
    CHECK_EQ(chat_render(x.c, &m, 1, true, NULL, &t, NULL), 0);
    static const char text[] =
        "<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n";
    static const char mask[] = "111111111111"
                               "00001"
                               "0000000000"
                               "1111111111"
                               "1"
                               "111111111111"
                               "1111111111";
    CHECK_EQ(t.n, sizeof mask - 1);
    for (size_t i = 0; i < t.n; i++)
        CHECK_EQ(t.mask[i], mask[i] - '0');
    is_text(&t, text);
    close_chat(&x);
}

static void masks_survive_every_operation(void)
{
    static const struct {
        const char *tmpl, *mask; /* of the content "ab" */
    } cases[] = {
        {"{{ 'x' + messages[0].content + 'y' }}", "1001"},
        {"{{ messages[0].content | trim }}", "00"},
        {"{{ messages[0].content[1:] }}!", "01"},
        {"{{ messages[0].content | upper }}", "00"},
        {"{{ messages[0].content.replace('a', '--') }}", "110"},
        {"{{ messages[0].content.split('b')[0] ~ 'k' }}", "01"},
        {"{% set s %}<{{ messages[0].content }}>{% endset %}{{ s }}", "1001"},
        {"{{ [messages[0].content, 'z'] | join(',') }}", "0011"},
        {"{% for c in messages[0].content %}{{ c }}.{% endfor %}", "0101"},
        {"{{ {'k': messages[0].content}.k if true }}", "00"},
        {"{{ messages[0].role }}", "0000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fix x;
        struct chat_text t = {0};
        struct chat_msg m = say("user", "ab");
        char got[64];
        CHECK_EQ(open_text(&x, cases[i].tmpl), 0);
        CHECK_EQ(chat_render(x.c, &m, 1, true, NULL, &t, &x.f.eb), 0);
        for (size_t k = 0; k < t.n && k < 63; k++)
            got[k] = (char)('0' + t.mask[k]);
        got[t.n < 63 ? t.n : 63] = 0;
        if (strcmp(got, cases[i].mask) != 0)
            t_fail(__FILE__, __LINE__, "%s: \"%s\" %s, want %s", cases[i].tmpl, shown(t.p, t.n),
                   got, cases[i].mask);
        chat_text_fini(&t);
        close_chat(&x);
    }
}

static void appending_closes_the_turn_and_opens_the_next(void)
{
    struct chat_fix x;
    struct chat_text t = {0};
    struct chat_msg m = say("user", "more");
    CHECK_EQ(open_chat(&x, chatml, sizeof chatml - 1, "<|im_start|>", "<|im_end|>"), 0);
    CHECK_EQ(chat_append(x.c, false, false, &m, 1, true, NULL, &t, NULL), 0);
    is_text(&t, "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n");
    /* The end was sampled; the newline after it was not. */
    CHECK_EQ(chat_append(x.c, false, true, &m, 1, true, NULL, &t, NULL), 0);
    is_text(&t, "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n");
    CHECK_EQ(chat_append(x.c, true, false, &m, 1, false, NULL, &t, NULL), 0);
    is_text(&t, "<|im_start|>user\nmore<|im_end|>\n");
    CHECK_EQ(chat_append(x.c, false, true, NULL, 0, false, NULL, &t, NULL), 0);
    is_text(&t, "\n");
    /* It appends to what is there. */
    CHECK_EQ(chat_append(x.c, false, true, NULL, 0, false, NULL, &t, NULL), 0);
    CHECK_EQ(chat_append(x.c, false, true, NULL, 0, true, NULL, &t, NULL), 0);
    is_text(&t, "\n\n<|im_start|>assistant\n");
    close_chat(&x);
}

static void a_message_cannot_pass_for_the_past_of_an_append(void)
{
    struct chat_fix x;
    struct chat_text t = {0};
    struct chat_msg m = say("user", "\x01"
                                    "a\x02 again \x01"
                                    "a\x02");
    CHECK_EQ(open_text(&x, chatml), 0);
    CHECK_EQ(chat_append(x.c, false, true, &m, 1, false, NULL, &t, NULL), 0);
    is_text(&t, "<|im_end|>\n<|im_start|>user\n\x01"
                "a\x02 again \x01"
                "a\x02<|im_end|>\n");
    close_chat(&x);
}

static void bos_is_known_to_be_written_or_not(void)
{
    struct chat_fix x;
    CHECK_EQ(open_text(&x, chatml), 0);
    CHECK(!chat_writes_bos(x.c));
    close_chat(&x);
    CHECK_EQ(open_text(&x, "{{ bos_token }}{{ messages[0].content }}"), 0);
    CHECK(chat_writes_bos(x.c));
    close_chat(&x);
    CHECK_EQ(open_chat(&x, "{{ bos_token }}", 15, "", "</s>"), 0); /* the model has none */
    CHECK(!chat_writes_bos(x.c));
    close_chat(&x);
}

static void the_date_is_the_one_that_is_given(void)
{
    static const char tmpl[] = "{{ strftime_now('%d %b %Y|%A %a %B %m %y %%') }}";
    struct chat_fix x;
    struct chat_text t = {0};
    struct errbuf eb = {""};
    CHECK_EQ(open_text(&x, tmpl), 0);
    CHECK_EQ(chat_render(x.c, NULL, 0, true, "2024-02-29", &t, NULL), 0);
    is_text(&t, "29 Feb 2024|Thursday Thu February 02 24 %");
    CHECK_EQ(chat_render(x.c, NULL, 0, true, "2000-01-01", &t, NULL), 0);
    is_text(&t, "01 Jan 2000|Saturday Sat January 01 00 %");
    CHECK_EQ(chat_render(x.c, NULL, 0, true, NULL, &t, &eb), -EINVAL);
    CHECK_EQ(chat_render(x.c, NULL, 0, true, "2024-2-9", &t, &eb), -EINVAL);
    CHECK(strstr(eb.s, "YYYY-MM-DD") != NULL);
    CHECK_EQ(t.n, 0);
    close_chat(&x);
}

static void a_model_without_a_template_has_no_chat(void)
{
    struct chat_fix x;
    CHECK_EQ(open_chat(&x, NULL, 0, "<s>", "</s>"), 0);
    CHECK(x.c == NULL);
    close_chat(&x);
    CHECK_EQ(open_text(&x, ""), 0);
    CHECK(x.c == NULL);
    close_chat(&x);
}

static void what_a_template_raises_is_an_error_in_its_words(void)
{
    struct chat_fix x;
    struct chat_text t = {0};
    struct chat_msg m[2] = {say("user", "a"), say("user", "b")};
    CHECK_EQ(open_text(&x, "{% for m in messages %}{% if loop.index > 1 %}\n{{ "
                           "raise_exception('one only, please') }}"
                           "{% endif %}{% endfor %}ok"),
             0);
    CHECK_EQ(chat_render(x.c, m, 1, true, NULL, &t, &x.f.eb), 0);
    CHECK_EQ(chat_render(x.c, m, 2, true, NULL, &t, &x.f.eb), -EINVAL);
    CHECK(strstr(x.f.eb.s, "line 2: one only, please") != NULL);
    is_text(&t, "ok"); /* untouched by the failure */
    close_chat(&x);
}

static void what_we_lack_is_refused_by_name_with_a_way_out(void)
{
    static const struct {
        const char *tmpl, *word;
    } cases[] = {
        {"{% macro f() %}{% endmacro %}", "\"macro\""},
        {"{% include 'x' %}", "\"include\""},
        {"\n\n{{ messages | groupby('x') }}", "line 3: the filter \"groupby\""},
        {"{{ messages is callable }}", "the test \"callable\""},
        {"{{ cycler(1, 2) }}", "cycler"},
        {"{{ 1.5 }}", "plain integers"},
        {"{{ 1 / 2 }}", "operator \"/\""},
        {"{{ 1 < 2 < 3 }}", "chain"},
        {"{{ '\\q' }}", "escape"},
        {"{{ messages", "not closed"},
        {"{% if x %}", "endif"},
        {"{% for x y %}{% endfor %}", "without in"},
        {"{# never", "not closed"},
        {"{{ (1 }}", "want"},
        {"{{ }}", "missing"},
        {"{{ '\xc3\x84' | upper }}", "outside ASCII"},
        {"{{ messages }}", "writing out"},
        {"{{ strftime_now('%H:%M') }}", "%H"},
        {"{{ messages[0].content | indent(2) }}", "indent"},
        {"{% endfor %}", "endfor"},
        {"{{ undefined_thing.x }}", "undefined"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fix x;
        int r = open_text(&x, cases[i].tmpl);
        if (r != E_UNSUPP || strstr(x.f.eb.s, cases[i].word) == NULL ||
            strstr(x.f.eb.s, "--raw") == NULL)
            t_fail(__FILE__, __LINE__, "%s: %d %s", cases[i].tmpl, r, x.f.eb.s);
        CHECK(x.c == NULL);
        close_chat(&x);
    }
}

static void repeat(char *to, const char *what, int n)
{
    for (; n; n--) {
        size_t len = strlen(what);
        memcpy(to, what, len + 1);
        to += len;
    }
}

static void a_hostile_template_is_bounded(void)
{
    static char big[70000];
    static const char *const loops[] = {
        "{% for a in range(20000000) %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s "
        "%}{% endfor %}",
        "{% for a in range(9999999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
        "{{ range(99999999999999999) }}",
    };
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        struct chat_fix x;
        int r = open_text(&x, loops[i]);
        if (r != E_UNSUPP)
            t_fail(__FILE__, __LINE__, "%s: %d %s", loops[i], r, x.f.eb.s);
        close_chat(&x);
    }
    static const char *const nests[][2] = {{"{{ ", "("},
                                           {"{{ ", "["},
                                           {"{{ ", "not "},
                                           {"{{ ", "-"},
                                           {"", "{% if 1 %}"},
                                           {"{{ x", ".x"},
                                           {"{{ x", "|trim"},
                                           {"{{ 1", " if 1 else 1"},
                                           {"{% if 1 %}", "{% elif 1 %}"},
                                           {"{{ x", "[x"},
                                           {"{{ 1", "+1"}};
    for (size_t i = 0; i < sizeof nests / sizeof *nests; i++) {
        struct chat_fix x;
        memcpy(big, nests[i][0], strlen(nests[i][0]) + 1);
        repeat(big + strlen(nests[i][0]), nests[i][1], 5000);
        int r = open_text(&x, big);
        CHECK_EQ(r, E_UNSUPP);
        close_chat(&x);
    }
}

/* Few steps, much work: each of these ran for ever, or down the stack, when only steps counted. */
static void work_is_bounded_whatever_a_step_touches(void)
{
#define CIRCLES                                                                                \
    "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = b %}{% set b.x = a %}"
#define DOUBLED(start)                                                                         \
    "{% set ns = namespace(v=" start ") %}{% for i in range(60) %}"                            \
    "{% set ns.v = [ns.v, ns.v] %}{% endfor %}"
#define LONG                                                                                   \
    "{% set ns = namespace(s='abcdefgh') %}{% for i in range(17) %}"                           \
    "{% set ns.s = ns.s + ns.s %}{% endfor %}"
    static const struct {
        const char *tmpl, *word;
    } cases[] = {
        {CIRCLES "{{ a == b }}", "nested deeper than 200"},
        {CIRCLES "{{ a != b }}", "nested deeper than 200"},
        {CIRCLES "{{ a in [b] }}", "nested deeper than 200"},
        {CIRCLES "{{ a is in [b] }}", "nested deeper than 200"},
        {CIRCLES "{{ a is eq(b) }}", "nested deeper than 200"},
        {DOUBLED("[1]") "{{ ns.v == ns.v }}", "bytes are copied, compared or searched"},
        {DOUBLED("{'k': 1}") "{{ ns.v == ns.v }}", "bytes are copied, compared or searched"},
        {LONG "{% for i in range(9999) %}{{ 'z' in ns.s }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s == ns.s + '' }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s < ns.s }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s | length }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s[1000000] }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s[9:10] }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s.startswith(ns.s) }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s.strip('abcdefgh') }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{{ ns.s.split('z')[1] }}{% endfor %}", "searched"},
        {LONG "{% for i in range(9999) %}{% set t = ns.s.replace('z', '') %}{% endfor %}",
         "searched"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct chat_fix x;
        int r = open_text(&x, cases[i].tmpl);
        bool late =
            T_SLOWER > 1 && strstr(x.f.eb.s, "takes longer"); /* as good a bound there */
        if (!late && (r != E_UNSUPP || strstr(x.f.eb.s, cases[i].word) == NULL))
            t_fail(__FILE__, __LINE__, "%s: %d %s", cases[i].tmpl, r, x.f.eb.s);
        close_chat(&x);
    }
}

static void a_rendering_has_a_time(void)
{
    static const char slow[] = "{% for a in range(4000) %}{% for b in range(4000) %}"
                               "{% endfor %}{% endfor %}";
    struct jmem m = {.max = 1 << 20};
    struct jnode *t = NULL;
    struct errbuf eb = {""};
    struct chat_text out = {0};
    struct jvars v = {.wall_ms = 1};
    CHECK_EQ(jinja_parse(&t, &m, slow, sizeof slow - 1, &eb), 0);
    CHECK_EQ(jinja_render(t, &v, &out, &eb), E_LIMIT);
    CHECK(strstr(eb.s, "longer than 1 ms") != NULL);
    jmem_fini(&m);
}

/* What a document may hold thousands of: joined pairwise, they cost their square. */
static void thousands_of_replacements_are_one_text(void)
{
    enum { N = 20000 };
    struct chat_fix x;
    struct chat_text t = {0};
    static char text[3 * N];
    for (int i = 0; i < N; i++)
        memcpy(text + 3 * i, i % 2 ? "a<b" : "<<c", 3);
    struct chat_msg m = {"user", text, sizeof text};
    CHECK_EQ(open_text(&x, "{{ messages[0].content.replace('<', '&lt;') }}|"
                           "{{ messages[0].content.split('<') | join('-') | length }}"),
             0);
    CHECK_EQ(chat_render(x.c, &m, 1, true, NULL, &t, &x.f.eb), 0);
    static const char tail[] = "|60000"; /* one character for each that was cut at */
    CHECK_EQ(t.n, sizeof text + 3 * (N / 2 * 3) + sizeof tail - 1);
    CHECK(t.n > 18 && memcmp(t.p, "&lt;&lt;ca&lt;b", 15) == 0);
    CHECK(memcmp(t.p + t.n - (sizeof tail - 1), tail, sizeof tail - 1) == 0);
    /* Of "&lt;" the template wrote all, of the rest nothing. */
    CHECK(t.mask[0] && t.mask[7] && !t.mask[8] && !t.mask[9] && t.mask[10] && !t.mask[14]);
    chat_text_fini(&t);
    close_chat(&x);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(golden_conversations_are_jinjas), CASE(the_mask_is_what_the_template_wrote),
       CASE(masks_survive_every_operation), CASE(appending_closes_the_turn_and_opens_the_next),
       CASE(a_message_cannot_pass_for_the_past_of_an_append),
       CASE(bos_is_known_to_be_written_or_not), CASE(the_date_is_the_one_that_is_given),
       CASE(a_model_without_a_template_has_no_chat),
       CASE(what_a_template_raises_is_an_error_in_its_words),
       CASE(what_we_lack_is_refused_by_name_with_a_way_out),
       CASE(a_hostile_template_is_bounded), CASE(work_is_bounded_whatever_a_step_touches),
       CASE(a_rendering_has_a_time), CASE(thousands_of_replacements_are_one_text))
