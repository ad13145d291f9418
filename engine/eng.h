/* eng.h - the engine's own struct, shared by its files (engine.c, step.c, pages.c, identity.c). */
#ifndef ENGINE_ENG_H
#define ENGINE_ENG_H
#include "engine/arch.h"
#include "engine/engine.h"
#include "engine/weights.h"
#include "kernels/kern.h"
#include <stdatomic.h>

enum {
    ENG_MAGIC = 0x31676e65,
    /* Larger steps run as several batches of this size: scratch stays small and warm in the
     * caches, and no bit depends on where a step is cut. */
    ENG_BATCH = 512,
    ENG_HEAD_ROWS = 64, /* logits rows computed at a time */
};

/* Pages of one part: owned by the caller's book-keeping thread, except `mem`. */
struct eng_pool {
    void *mem; /* dev */
    uint64_t page_bytes;
    uint32_t n, n_free;
    atomic_uint n_new; /* never taken: they are taken last.  Written by the book-keeping thread;
                          a stale read makes eng_warm stop a little early */
    _Atomic uint64_t warm; /* bytes from the front that are ready; eng_warm's.  A stale read
                              counts as promised what is there already */
    uint32_t *free;
    uint8_t *taken; /* by page */
};
struct engine {
    uint32_t magic;
    struct gguf *gguf;
    struct tokenizer *tok;
    struct chat *chat;
    struct errbuf chat_why;
    struct kern *k;
    const struct kern_ops *ops;
    struct arch *arch;
    struct kv_layout layout;
    struct eng_info info;
    struct weights weights;
    struct eng_pool pool[KV_PART_];
    atomic_bool stop; /* set by eng_abort, read between layers */

    /* One batch: host copies of what its operations are told. */
    uint32_t batch; /* tokens */
    int32_t *ids;
    uint32_t *rows;    /* tokens whose logits are wanted ... */
    float **rows_to;   /* ... and where they go */
    uint16_t *rows_of; /* ... and whose they are: number of the sequence in the step */
    float *logits;     /* dev, [ENG_HEAD_ROWS][n_vocab] */
    uint32_t *writer;  /* by hot page: 1 + the sequence of this step that writes it */
};

int pool_open(struct engine *e, struct errbuf *eb, uint64_t page_memory);
void pool_close(struct engine *e);

#endif
