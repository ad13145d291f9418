/* test_types.c - element types: sizes, every type's values against gguf-py, layouts. */
#include "base/bytes.h"
#include "kernels/cpu/cpu.h"
#include "tests/kernels/cases.h"
#include "tests/t.h"

static uint8_t *golden(size_t *ret_bytes)
{
    FILE *f = fopen("tests/golden/dequant.bin", "rb");
    uint8_t *p = malloc(1 << 18);
    if (!f)
        t_skip("tests/golden/dequant.bin: run from the top of the tree");
    *ret_bytes = fread(p, 1, 1 << 18, f);
    fclose(f);
    return p;
}

static void rows_dequantise_as_gguf_py_does(void)
{
    size_t bytes, at = 0;
    uint8_t *p = golden(&bytes);
    int types = 0;
    while (at + 16 <= bytes) {
        uint32_t t = ld32(p + at), rows = ld32(p + at + 4), cols = ld32(p + at + 8),
                 data = ld32(p + at + 12);
        const struct k_type_info *ti = k_type_info(t);
        CHECK(ti != NULL);
        CHECK_EQ(data, rows * case_row_bytes((enum k_type)t, cols));
        float *v = malloc(cols * 4);
        uint32_t wrong = 0;
        for (uint32_t r = 0; r < rows; r++) {
            k_dequant_row((enum k_type)t, p + at + 16 + r * (data / rows), v, cols);
            for (uint32_t c = 0; c < cols; c++) /* -0 and 0 are one value */
                wrong += v[c] != num_float(ld32(p + at + 16 + data + 4 * (r * cols + c)));
        }
        if (wrong)
            t_fail(__FILE__, __LINE__, "%s: %u of %u values differ", ti->name, wrong,
                   rows * cols);
        free(v);
        at += 16 + data + 4ull * rows * cols;
        types++;
    }
    CHECK_EQ(at, bytes);
    CHECK_EQ(types, CASE_TYPES);
    free(p);
}

static void unknown_types_have_no_info(void)
{
    int known = 0;
    for (uint32_t t = 0; t < 300; t++)
        known += k_type_info(t) != NULL;
    CHECK_EQ(known, CASE_TYPES);
    CHECK(!k_type_info(4) && !k_type_info(K_TYPE_) && !k_type_info(0xffffffffu));
    CHECK(!strcmp(k_type_info(K_Q4_K)->name, "Q4_K"));
}

/* A look-up in laid-out weights gives the values of the row as stored, whatever lay in the
 * memory before; rows past the end are zeros. */
static void laid_out_rows_come_back_whole(void)
{
    uint64_t s = 7;
    for (int t = 0; t < CASE_TYPES; t++) {
        enum { ROWS = 11, COLS = 768 };
        void *d = case_weight(&s, case_types[t], ROWS, COLS);
        size_t row = case_row_bytes(case_types[t], COLS);
        struct k_weight_src src = {
            .name = "w", .data = d, .type = case_types[t], .rows = ROWS, .cols = COLS};
        uint8_t *lay = malloc(2 * cpu_lay_group_bytes(case_types[t], COLS));
        float a[COLS], b[COLS];
        memset(lay, 0xa5, 2 * cpu_lay_group_bytes(case_types[t], COLS));
        cpu_lay_groups(&src, row, 0, 2, lay);
        for (uint32_t r = 0; r < 16; r++) {
            memset(a, 0, sizeof a);
            if (r < ROWS)
                k_dequant_row(case_types[t], (uint8_t *)d + r * row, a, COLS);
            cpu_lay_row(case_types[t], lay + r / 8 * cpu_lay_group_bytes(case_types[t], COLS),
                        r % 8, b, COLS);
            for (uint32_t c = 0; r >= ROWS && c < COLS; c++)
                b[c] += 0.0f; /* a zero of either sign */
            if (memcmp(a, b, sizeof a))
                t_fail(__FILE__, __LINE__, "%s row %u", k_type_info(case_types[t])->name, r);
        }
        free(lay), free(d);
    }
}

T_MAIN({"rows_dequantise_as_gguf_py_does", rows_dequantise_as_gguf_py_does},
       {"unknown_types_have_no_info", unknown_types_have_no_info},
       {"laid_out_rows_come_back_whole", laid_out_rows_come_back_whole})
