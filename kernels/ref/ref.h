/* ref.h - inside the oracle backend: its state and its operations. */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H
#include "kernels/kern.h"

struct kern {
    const struct kern_ops *ops;
};
struct kern_ref {
    struct kern kern;
    uint32_t magic;
    bool act_f32;
    uint32_t n_alloc, n_weight; /* live, for close() to check */
    uint64_t saturations;
};
struct k_weight {
    enum k_type type;
    uint32_t rows, cols;
    uint64_t row_bytes;
    const uint8_t *raw; /* the source, when f is NULL */
    float *f;           /* rows * cols */
};

int ref_embed(struct kern *kern, const struct k_embed *a);
int ref_matmul(struct kern *kern, const struct k_matmul *a);
int ref_ffn(struct kern *kern, const struct k_ffn *a);
int ref_norm(struct kern *kern, const struct k_norm *a);
int ref_rope_store(struct kern *kern, const struct k_rope_store *a);
int ref_attn(struct kern *kern, const struct k_attn *a);

#endif
