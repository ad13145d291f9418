/* test_modelfile.c - a load that would not fit is refused before anything is taken for it. */
#include "daemon/modelfile.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"
#include <errno.h>
#include <unistd.h>

/* A model file of one matrix of Q4_1, as sparse as it is large. */
static struct modelfile model_of(uint64_t rows, uint64_t cols)
{
    struct mk m = {0};
    struct modelfile f = {0};
    struct errbuf eb = {""};
    char path[64];

    mk_head(&m, 1, 6);
    mk_kv_str(&m, "general.architecture", "llama");
    mk_kv_u32(&m, "llama.context_length", 4096);
    mk_kv_u32(&m, "llama.block_count", 64);
    mk_kv_u32(&m, "llama.embedding_length", 4096);
    mk_kv_u32(&m, "llama.attention.head_count", 32);
    mk_kv_u32(&m, "llama.attention.head_count_kv", 8);
    mk_tensor(&m, "w", K_Q4_1, cols, rows, 0);
    mk_pad(&m, 32);
    mk_file(&m, path, sizeof path);
    CHECK_EQ(truncate(path, (off_t)(m.n + rows * cols / 32 * 20)), 0);
    if (modelfile_read(path, &f, &eb) < 0)
        t_fail(__FILE__, __LINE__, "%s", eb.s);
    CHECK_EQ(f.file_bytes, m.n + rows * cols / 32 * 20);
    unlink(path);
    free(m.p);
    return f;
}
#define GIB (1ull << 30)

static void what_weights_take_is_known_from_the_head(void)
{
    struct modelfile f = model_of(1 << 20, 65536); /* 40 GiB of it */

    CHECK_EQ(f.weight_bytes, 40 * GIB);
    CHECK(modelfile_need(&f) > 42 * GIB && modelfile_need(&f) < 43 * GIB);
    CHECK_EQ(f.context, 4096);
    CHECK_EQ(f.token_bytes, 64 * 8 * (128 + 128) * 2);
}

static void a_load_that_does_not_fit_says_all_numbers(void)
{
    struct modelfile f = model_of(1 << 20, 65536);
    struct conf_model o = {0};
    struct errbuf eb = {""};
    uint64_t pages = 6 * GIB;

    CHECK_EQ(modelfile_fits(&f, &o, 24 * GIB, 0, &pages, &eb), -ENOMEM);
    CHECK(strstr(eb.s, "42.5 GiB for weights") && strstr(eb.s, "1.0 GiB for KV pages") &&
          strstr(eb.s, "24.0 GiB are available;"));
    CHECK_EQ(pages, 6 * GIB);
    CHECK_EQ(modelfile_fits(&f, &o, 64 * GIB, 0, &pages, &eb), 0);
    CHECK_EQ(modelfile_fits(&f, &o, 64 * GIB, 30 * GIB, &pages, &eb), -ENOMEM);
    CHECK(strstr(eb.s, "64.0 GiB are available, of which 30.0 GiB are promised") != NULL);
    CHECK_EQ(modelfile_fits(&f, &o, 64 * GIB, 65 * GIB, &pages, &eb), -ENOMEM);
    CHECK_EQ(modelfile_fits(&f, &o, 0, 0, &pages, &eb), 0); /* not known: it is tried */
    CHECK_EQ(pages, 6 * GIB);
}

static void pages_shrink_to_one_context_before_a_model_is_refused(void)
{
    struct modelfile f = model_of(1 << 20, 65536);
    struct conf_model o = {0};
    struct errbuf eb = {""};
    uint64_t pages = 6 * GIB;

    CHECK_EQ(modelfile_fits(&f, &o, 44 * GIB, 0, &pages, &eb), 0);
    CHECK_EQ(pages, 4096 * f.token_bytes);
    /* What somebody asked for by number is not made smaller. */
    o.page_bytes = pages = 6 * GIB;
    CHECK_EQ(modelfile_fits(&f, &o, 44 * GIB, 0, &pages, &eb), -ENOMEM);
    CHECK_EQ(pages, 6 * GIB);
    CHECK(strstr(eb.s, "6.0 GiB for KV pages") != NULL);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(what_weights_take_is_known_from_the_head),
       CASE(a_load_that_does_not_fit_says_all_numbers),
       CASE(pages_shrink_to_one_context_before_a_model_is_refused))
