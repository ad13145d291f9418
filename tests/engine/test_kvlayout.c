/* test_kvlayout.c - page sizes and extents follow from what a family declares. */
#include "tests/t.h"
#include "base/err.h"
#include "engine/kvlayout.h"
#include "kernels/kern.h"
#include <string.h>

static struct kv_layout gqa(uint32_t layers, uint32_t heads, uint32_t row_bytes)
{
    struct kv_layout l = {.id = "gqa-f16", .n_streams = 2};

    for (int s = 0; s < 2; s++) {
        l.stream[s] = (struct kv_stream){
            .tokens_row = 1, .heads = heads, .row_bytes = row_bytes, .n_layers = layers};
        l.stream[s].name[0] = s ? 'v' : 'k';
        for (uint32_t i = 0; i < layers; i++)
            l.stream[s].layers[i] = (uint16_t)i;
    }
    return l;
}

static void gqa_pages_are_layer_then_k_v_then_head(void)
{
    struct kv_layout l = gqa(30, 3, 128);
    uint64_t one = 3 * 256 * 128;

    CHECK_EQ(kv_layout_close(&l), 0);
    CHECK_EQ(l.page_bytes[KV_HOT], 30 * 2 * one); /* 5.9 MB: SmolLM2-135M */
    CHECK_EQ(l.page_bytes[KV_COLD], 0);
    CHECK_EQ(kv_layout_off(&l, 0, 0), 0);
    CHECK_EQ(kv_layout_off(&l, 1, 0), one);
    CHECK_EQ(kv_layout_off(&l, 0, 1), 2 * one);
    CHECK_EQ(kv_layout_off(&l, 1, 29), 59 * one);
}

/* Streams of some layers, of several parts, with rows of many tokens. */
static void layers_may_differ(void)
{
    struct kv_layout l = {.id = "mixed", .n_streams = 3};
    static const struct kv_stream s[3] = {
        {.name = "idx",
         .part = KV_HOT,
         .tokens_row = 4,
         .heads = 1,
         .row_bytes = 68,
         .n_layers = 2,
         .layers = {1, 3}},
        {.name = "hca",
         .part = KV_HOT,
         .tokens_row = 128,
         .heads = 1,
         .row_bytes = 584,
         .n_layers = 2,
         .layers = {0, 3}},
        {.name = "csa",
         .part = KV_COLD,
         .tokens_row = 4,
         .heads = 1,
         .row_bytes = 584,
         .n_layers = 2,
         .layers = {1, 3}},
    };

    memcpy(l.stream, s, sizeof s);
    CHECK_EQ(kv_layout_close(&l), 0);
    CHECK_EQ(l.page_bytes[KV_HOT], 12288);  /* 2 * 64 * 68 + 2 * 2 * 584 = 11040 */
    CHECK_EQ(l.page_bytes[KV_COLD], 77824); /* 2 * 64 * 584 = 74752 */
    CHECK_EQ(kv_layout_off(&l, 1, 0), 0);
    CHECK_EQ(kv_layout_off(&l, 0, 1), 2 * 584);
    CHECK_EQ(kv_layout_off(&l, 0, 3), 2 * 584 + 64 * 68);
    CHECK_EQ(kv_layout_off(&l, 1, 3), 2 * 584 + 2 * 64 * 68);
    CHECK_EQ(kv_layout_off(&l, 2, 1), 0);
    CHECK_EQ(kv_layout_off(&l, 2, 3), 64 * 584);
}

static void members_outside_their_bounds_are_refused(void)
{
    struct kv_layout l;

#define BAD(change)                                                                            \
    l = gqa(4, 2, 64);                                                                         \
    change;                                                                                    \
    CHECK_EQ(kv_layout_close(&l), E_LIMIT)
    BAD(l.id[0] = 0);
    BAD(strcpy(l.id, "../up"));
    BAD(strcpy(l.id, ".."));
    BAD(strcpy(l.id, ".hidden"));
    BAD(l.n_streams = STREAMS_MAX + 1);
    BAD(l.stream[0].tokens_row = 0);
    BAD(l.stream[0].tokens_row = 3);
    BAD(l.stream[0].tokens_row = 256);
    BAD(l.stream[1].heads = 0);
    BAD(l.stream[1].row_bytes = 0);
    BAD(l.stream[1].n_layers = 257);
    BAD(l.stream[1].layers[2] = 1);
    BAD(l.stream[1].part = KV_PART_);
    BAD(l.stream[1].fmt = K_ROW_);
    BAD(l.stream[1].row_bytes = UINT32_MAX);
#undef BAD
    l = gqa(4, 2, 64);
    CHECK_EQ(kv_layout_close(&l), 0);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(gqa_pages_are_layer_then_k_v_then_head), CASE(layers_may_differ),
       CASE(members_outside_their_bounds_are_refused))
