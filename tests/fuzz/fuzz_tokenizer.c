/* fuzz_tokenizer.c - text, masks, bytes and templates from anyone.
 *
 * Input: one byte of choices, then a text; a template and messages instead when its top bit
 * is set.  The vocabulary is the tests' own, read once. */
#include "base/check.h"
#include "engine/chat.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "tests/engine/tokfix.h"

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);

static struct fix *vocab_of(uint32_t rule)
{
    static const char *const rules[] = {"smollm", "gpt-2", "llama-bpe",
                                        "dbrx",   "qwen2", "deepseek-llm"};
    static struct fix fix[6];
    static struct blob file;
    if (file.p == NULL)
        file = blob_file("tests/golden/own_vocab.gguf");
    must(file.p != NULL); /* run from the root of the tree */
    if (fix[rule].t == NULL)
        must(fix_open(&fix[rule], meta_with(file.p, "tokenizer.ggml.pre", rules[rule])) == 0);
    return &fix[rule];
}

/* Ids are in range, and their pieces stream out as strict UTF-8. */
static void encode(uint8_t choice, const uint8_t *d, size_t n)
{
    const struct tokenizer *t = vocab_of(choice % 6)->t;
    struct tok_ids v = {0};
    struct tok_stream s = {0};
    uint8_t *mask = malloc(n + 1);
    must(mask != NULL);
    for (size_t i = 0; i < n; i++)
        mask[i] = choice & 64 || d[i] % 7;
    must(tok_encode(t, (const char *)d, n, choice & 32 ? mask : NULL, choice & 16, &v) == 0);
    for (size_t i = 0; i < v.n; i++) {
        size_t bytes = 0;
        char out[512];
        const char *p = tok_piece(t, v.p[i], true, &bytes);
        must(p != NULL && bytes <= 128);
        must(utf8_is_strict(out, tok_stream_feed(&s, p, bytes, out)));
    }
    tok_ids_fini(&v);
    free(mask);
}

static void render(const uint8_t *d, size_t n)
{
    struct blob b = {0};
    struct gguf *g = NULL;
    struct chat *c = NULL;
    struct errbuf eb;
    meta_begin(&b);
    meta_key(&b, "tokenizer.chat_template", GGUF_STR);
    blob_str(&b, (const char *)d, n);
    must(gguf_parse(&g, b.p, b.n, &eb) == 0);
    if (chat_open(&c, g, vocab_of(1)->t, &eb) == 0 && c) {
        struct chat_msg m[3] = {
            {"system", " s ", 3}, {"user", (const char *)d, n}, {"assistant", "a\n", 2}};
        struct chat_text t = {0};
        for (size_t k = 0; k <= 3; k++)
            if (chat_render(c, m, k, k & 1, "2026-01-31", &t, &eb) == 0)
                for (size_t i = 0; i < t.n; i++)
                    must(t.mask[i] <= 1);
        (void)chat_append(c, false, true, m + 1, 1, true, "2026-01-31", &t, &eb);
        chat_text_fini(&t);
    }
    chat_close(c);
    gguf_close(g);
    free(b.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n)
{
    if (n == 0 || n > 1 << 16)
        return 0;
    if (d[0] & 128)
        render(d + 1, n - 1);
    else
        encode(d[0], d + 1, n - 1);
    return 0;
}
