/* weights.h - tensors of a file become weight handles of a backend.
 *
 * A family takes tensors by name and shape; what it never asked for is refused at the end
 * (a bias we silently ignored would be a wrong model, not a slower one).  All handles belong
 * to the set and go with it.  Engine thread only. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H
#include "base/err.h"
#include "kernels/kern.h"
#include <stdbool.h>
#include <stdint.h>

struct gguf;
struct weights {
    const struct gguf *g;
    struct kern *k;
    const struct kern_ops *ops;
    struct k_weight **w; /* handles */
    uint32_t n, cap;
    bool *used;            /* by tensor */
    uint64_t bytes;        /* as laid out by the backend ... */
    uint64_t lookup_bytes; /* ... of them, tables of which a token reads one row */
    uint64_t done, total;  /* source bytes */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes); /* may be NULL */
    void *progress_ctx;
};

/* Zero-initialised caller's memory; g and k outlive it. */
int weights_init(struct weights *w, const struct gguf *g, struct kern *k,
                 const struct kern_ops *ops);
/* Bytes that all tensors of a file take, laid out: an upper bound, before anything is read. */
uint64_t weights_need(const struct gguf *g, const struct kern_ops *ops);
void weights_fini(struct weights *w); /* also half-built or zeroed */

bool weights_has(const struct weights *w, const char *name);
/* E_SHAPE when the tensor is absent or is not [rows][cols] (rows = 1: a vector). */
int weights_take(struct weights *w, const char *name, uint32_t rows, uint32_t cols,
                 uint32_t use, struct k_weight **ret, struct errbuf *eb);
/* A vector kept as a matrix that adds it: [rows][BIAS_COLS], the values in column 0, so that a
 * matmul with the input (1, 0, 0 ...) and `add` is y += bias on any backend, bit for bit. */
enum { BIAS_COLS = 32 };
int weights_take_bias(struct weights *w, const char *name, uint32_t rows, struct k_weight **ret,
                      struct errbuf *eb);
/* A small float vector for the host (rope factors); dst has room for n. */
int weights_take_floats(struct weights *w, const char *name, uint32_t n, float *dst,
                        struct errbuf *eb);
/* Names a tensor that exists and is known to change nothing. */
void weights_skip(struct weights *w, const char *name);
/* 0 when every tensor was taken or skipped, else E_UNSUPP with the name of the first. */
int weights_all_used(const struct weights *w, struct errbuf *eb);

#endif
