/* fuzz_gguf.c - any bytes as a GGUF file: refused with words or read safely, all of it. */
#include "base/check.h"
#include "engine/gguf.h"
#include "kernels/kern.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);

/* A key as a C string; longer ones than the buffer cannot be asked for here. */
static bool name_of(struct gguf_str s, char *to, size_t cap)
{
    if (s.bytes >= cap)
        return false;
    memcpy(to, s.p, (size_t)s.bytes);
    to[s.bytes] = 0;
    return true;
}

static uint64_t sink;
static void read_value(const struct gguf *g, const char *key, enum gguf_kv_type type)
{
    struct gguf_str s = {0};
    uint64_t u = 0;
    double f = 0;
    bool b = false;

    if (gguf_u64(g, key, &u))
        sink ^= u;
    if (gguf_f64(g, key, &f))
        sink ^= f > 0;
    must(gguf_bool(g, key, &b) == (type == GGUF_BOOL));
    must(gguf_str(g, key, &s) == (type == GGUF_STR));
    for (uint64_t i = 0; i < s.bytes; i++)
        sink += (uint8_t)s.p[i];
    for (int e = 0; e < GGUF_KV_TYPE_; e++) {
        int64_t len = gguf_arr(g, key, e);
        for (int64_t i = 0; i < len && i < 4096; i++) {
            if (e == GGUF_STR) {
                s = gguf_arr_str(g, key, (uint64_t)i);
                sink += s.bytes ? (uint8_t)s.p[s.bytes - 1] : 0;
            } else {
                sink ^= gguf_arr_num(g, key, (uint64_t)i) > 0;
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n)
{
    struct gguf *g = NULL;
    struct errbuf eb = {""};
    char name[4096];

    int r = gguf_parse(&g, d, n, &eb);
    if (r < 0) {
        must(eb.s[0] && g == NULL);
        return 0;
    }
    for (uint32_t i = 0; i < gguf_n_kv(g); i++) {
        enum gguf_kv_type type;
        if (name_of(gguf_key_at(g, i, &type), name, sizeof name))
            read_value(g, name, type);
    }
    for (uint32_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        must(name_of(t->name, name, sizeof name) && gguf_tensor(g, name) == t);
        must(t->at <= n && t->bytes <= n - t->at);
        if (t->dims[0] <= 65536) { /* one row of it, through the dequantiser */
            const struct k_type_info *ti = k_type_info(t->type);
            uint64_t bytes = t->dims[0] / ti->block * ti->block_bytes;
            float *row = malloc(t->dims[0] * sizeof *row);
            void *raw = malloc(bytes);
            must(gguf_read(g, t, t->bytes - bytes, raw, bytes, &eb) == 0);
            must(memcmp(raw, d + t->at + t->bytes - bytes, bytes) == 0);
            k_dequant_row(t->type, raw, row, (uint32_t)t->dims[0]);
            sink ^= row[0] > 0;
            free(row);
            free(raw);
        }
    }
    gguf_close(g);
    return 0;
}
