/* arch.h - a model family: what it declares, what it loads, how it computes a batch.
 *
 * A family reads its hyper-parameters from the file, declares its streams and state
 * (kvlayout.h), takes weights by name (weights.h) and turns a batch of tokens into rows and
 * logits with the operations of a backend (kern.h).  The engine around it owns pages,
 * batches and threads and knows nothing of layers; layers of one model may differ in
 * everything.  Adding a family: one file, one line in arch.c.
 *
 * Engine thread only. */
#ifndef ENGINE_ARCH_H
#define ENGINE_ARCH_H
#include "base/err.h"
#include "engine/engine.h"
#include "kernels/kern.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gguf;
struct weights;

/* One batch, inside one step: tokens of several sequences, all pages resident. */
struct arch_batch {
    const int32_t *ids;
    uint32_t n;
    const struct k_seq *seq[KV_PART_]; /* the same sequences, each part with its own pages */
    uint32_t n_seqs;
    void *pool[KV_PART_];    /* dev */
    const atomic_bool *stop; /* pairs with eng_abort; a stale read costs one layer's time */
};

struct arch; /* an open family; its first member is `const struct arch_ops *ops` */
struct arch_ops {
    const char *name;         /* general.architecture */
    const char *const *needs; /* operations of kern_ops it calls, NULL-terminated */
    /* Reads and checks the hyper-parameters; fills the layout (closed) and, of info, what the
     * model decides (n_layers to ctx_max).  fmt: enum k_row. */
    int (*open)(struct arch **ret, const struct gguf *g, uint8_t fmt, struct kv_layout *layout,
                struct eng_info *info, struct errbuf *eb);
    void (*close)(struct arch *a); /* NULL ok; weights belong to `struct weights` */
    /* Takes all weights, then scratch for batches of up to `tokens`. */
    int (*load)(struct arch *a, struct weights *w, uint32_t tokens, struct errbuf *eb);
    /* 0, -ECANCELED when *stop turned true, E_DEVICE, -EINVAL. */
    int (*forward)(struct arch *a, const struct arch_batch *b);
    /* Logits of tokens rows[0..n) of the batch just computed; y is dev, [n][n_vocab]. */
    int (*head)(struct arch *a, const uint32_t *rows, uint32_t n, float *y);
    /* Everything that decides rows and logits besides weights, layout and tokenizer, as text. */
    const char *(*identity)(const struct arch *a);
    uint32_t (*cols_max)(
        const struct arch *a); /* widest row an operation sees, the head's aside */
};
struct arch {
    const struct arch_ops *ops;
};

extern const struct arch_ops arch_llama;

/* By general.architecture; E_UNSUPP names what there is. */
int arch_find(const struct arch_ops **ret, const struct gguf *g, struct errbuf *eb);

/* Hyper-parameters ARCH.key.  The error names the key, its value and the range.  When the key is
 * absent: *ret keeps its value if `optional`, else an error. */
int arch_u32(const struct gguf *g, const char *arch, const char *key, bool optional,
             uint32_t lo, uint32_t hi, uint32_t *ret, struct errbuf *eb);
int arch_f32(const struct gguf *g, const char *arch, const char *key, bool optional, double lo,
             double hi, float *ret, struct errbuf *eb);

#endif
