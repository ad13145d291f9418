/* test_tokfault.c - tokenizer and templates when memory runs out at the n-th allocation. */
#include "tests/engine/tokfix.h"
#include <errno.h>

/* glibc's own entry points, so that the ones programs call can be ours. */
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#    define CAN_FAULT 1
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t n);
void free(void *p);

static long countdown = -1; /* -1: never fail; else the allocation that does */
static long live;

static int fails(void)
{
    return countdown >= 0 && countdown-- == 0;
}
void *malloc(size_t n)
{
    void *p = fails() ? NULL : __libc_malloc(n);
    live += p != NULL;
    return p;
}
void *calloc(size_t n, size_t size)
{
    void *p = fails() ? NULL : __libc_calloc(n, size);
    live += p != NULL;
    return p;
}
void *realloc(void *old, size_t n)
{
    void *p = fails() ? NULL : __libc_realloc(old, n);
    live += p != NULL && old == NULL;
    return p;
}
void free(void *p)
{
    live -= p != NULL;
    __libc_free(p);
}
#else
#    define CAN_FAULT 0
static long countdown, live;
#endif

static struct blob file;
static void need_faults(void)
{
    if (!CAN_FAULT)
        t_skip("allocations cannot be made to fail in this build");
    if (file.p == NULL)
        file = blob_file("tests/golden/own_vocab.gguf");
}

/* Runs op with the first, second, third ... allocation failing until none does.  Each failure
 * is -ENOMEM (or `also`) and leaves nothing behind.  A few thousand are enough; then strides. */
static void until_it_works(int (*op)(void), int also)
{
    long n = 0;
    for (long stride = 1;; n += stride) {
        long before = live;
        countdown = n;
        int r = op();
        bool failed = countdown < 0;
        countdown = -1;
        if (live != before)
            return t_fail(__FILE__, __LINE__, "allocation %ld: %ld left behind", n,
                          live - before);
        if (r == 0 && !failed)
            break;
        if (r != 0 && r != -ENOMEM && r != also)
            return t_fail(__FILE__, __LINE__, "allocation %ld: %d", n, r);
        if (n > 300)
            stride = n / 50;
    }
    CHECK(n > 3);
    printf("      %ld allocations\n", n);
}

static struct gguf *g;
static struct tokenizer *tok;

static int open_tokenizer(void)
{
    struct tokenizer *t = NULL;
    struct errbuf eb;
    int r = tok_open(&t, g, &eb);
    if (r == 0)
        tok_close(t);
    return r;
}

static void opening_a_tokenizer_survives_every_failed_allocation(void)
{
    need_faults();
    struct errbuf eb;
    CHECK_EQ(gguf_parse(&g, file.p, file.n, &eb), 0);
    /* PCRE2 without memory for machine code interprets: that is no failure. */
    until_it_works(open_tokenizer, 0);
    gguf_close(g);
}

static int encode(void)
{
    static char text[6000];
    static uint8_t mask[6000];
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = "the \xff <|a|> word<ud> aaaaaaaa"[i % 29];
        mask[i] = 1;
    }
    memset(text + 3000, 'b', 200); /* longer than a short word */
    struct tok_ids v = {0};
    int r = tok_encode(tok, text, sizeof text, mask, true, &v);
    CHECK(r == 0 || v.n == 0);
    tok_ids_fini(&v);
    return r;
}

static void encoding_survives_every_failed_allocation(void)
{
    need_faults();
    struct errbuf eb;
    CHECK_EQ(gguf_parse(&g, file.p, file.n, &eb), 0);
    CHECK_EQ(tok_open(&tok, g, &eb), 0);
    until_it_works(encode, 0);
    tok_close(tok);
    gguf_close(g);
}

static int converse(void)
{
    static const struct chat_msg m[] = {
        {"user", "a question", 10}, {"assistant", "an answer", 9}, {"user", "b", 1}};
    struct chat *c = NULL;
    struct chat_text t = {0};
    struct errbuf eb;
    int r = chat_open(&c, g, tok, &eb);
    if (r == 0)
        r = chat_render(c, m, 3, true, "2026-01-31", &t, &eb);
    if (r == 0)
        r = chat_append(c, false, true, m, 1, true, "2026-01-31", &t, &eb);
    chat_text_fini(&t);
    chat_close(c);
    return r;
}

static void conversing_survives_every_failed_allocation(void)
{
    need_faults();
    struct errbuf eb;
    CHECK_EQ(gguf_parse(&g, file.p, file.n, &eb), 0);
    CHECK_EQ(tok_open(&tok, g, &eb), 0);
    gguf_close(g);
    struct blob b = {0};
    meta_begin(&b);
    meta_str(&b, "tokenizer.chat_template",
             "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% "
             "set x %}<{{ ns.n }}>{% endset %}"
             "{{ x + m.role + ':' + m.content | trim + '\n' }}{% endfor %}{{ ['a', 'b'] | "
             "join(',') }}");
    CHECK_EQ(gguf_parse(&g, b.p, b.n, &eb), 0);
    until_it_works(converse,
                   E_UNSUPP); /* a probe at open without memory says what stopped it */
    tok_close(tok);
    gguf_close(g);
    free(b.p);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(opening_a_tokenizer_survives_every_failed_allocation),
       CASE(encoding_survives_every_failed_allocation),
       CASE(conversing_survives_every_failed_allocation))
