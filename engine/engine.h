/* engine.h - one model on one backend, one step at a time.
 *
 * The engine evaluates tokens; it has no sessions, no requests and no files but the
 * model's.  KV lives in pages the caller takes and names in each step.
 *
 * EXACTNESS (when eng_info.exact): rows and logits of a token are a pure function of
 * (fingerprint, ids up to it): same bits in any batch, chunk or thread count, as prefill
 * or decode, after any reload of its pages.  A session of n tokens at rest has evaluated
 * n - 1; whoever continues it runs token n - 1 first.
 *
 * Threads: open, close, step by one engine thread; eng_abort, eng_info, eng_layout,
 * page_save and page_load from any thread (a page being saved or loaded must not be
 * named, writable, by a running step). */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H
#include "base/err.h"
#include "base/stamp.h"
#include "engine/kvlayout.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct engine;
struct tokenizer;
struct chat;
struct gguf;
struct kern_ops;

struct eng_opts {
    const char *path;            /* GGUF file (later also a directory of safetensors) */
    const struct kern_ops *kern; /* NULL: kern_cpu */
    uint32_t threads;            /* 0: physical cores */
    uint64_t page_memory;        /* bytes for KV pages; 0: as many as one context needs */
    uint32_t ctx_max;            /* 0: the model's own */
    bool rows_f32;               /* oracle: keep K and V as f32 */
    bool act_f32;                /* oracle: with kern_ref, float activations */
    bool plain_c;                /* kern_cpu: the C twin even where AVX2 exists */
    /* Called between stages of a long load, on the opening thread; may be NULL. */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
};
struct eng_info {
    char arch[32], name[128];
    uint32_t n_layers, n_vocab, n_embd, n_head, n_kv_head, head_dim, ctx_max;
    uint32_t ctx_own; /* the file's; ctx_max is less by the options: of itself, or the pages' */
    uint64_t n_params, file_bytes, weight_bytes; /* weights as laid out by the backend */
    uint64_t token_bytes;                        /* of them, what decoding one token reads */
    uint64_t page_memory;
    uint32_t pages;   /* in the pool */
    char backend[32]; /* "cpu-avx2" */
    char quant[16];   /* type of most weight bytes: "Q4_1" */
    bool exact;
    uint64_t epoch; /* numerics epoch of the backend */
    uint8_t tokenizer_id[32];
    struct file_stamp file; /* what was loaded: from open to the last byte it did not change */
};

/* Reads the whole model; the file is closed again when it returns.  A file that is truncated,
 * replaced or written to meanwhile, or a disk that fails, is an error whose words name file,
 * tensor and bytes (E_CORRUPT, -ESTALE, -EIO). */
int eng_open(struct engine **ret, const struct eng_opts *o, struct errbuf *eb);
void eng_close(struct engine *e); /* NULL ok */
const struct eng_info *eng_info(const struct engine *e);
const struct kv_layout *eng_layout(const struct engine *e);
const struct tokenizer *eng_tokenizer(const struct engine *e); /* immutable, any thread */
const struct chat *eng_chat(const struct engine *e); /* NULL: no template, or an unknown one */
const char *eng_chat_why(const struct engine *e);    /* why there is none; "" when there is */
const struct gguf *eng_gguf(const struct engine *e);

/* Fingerprint = BLAKE2b-256 over: weights id, architecture and hyper-parameters, layout id
 * and record format, tokenizer id, LoRA ids (none yet), rope overrides. */
void eng_fingerprint(const struct engine *e, const uint8_t weights_id[16], uint8_t ret[32]);
/* XXH3-128 over all bytes of a model file, streamed; stops with -ECANCELED when *stop.
 * -ESTALE when the file changed meanwhile. */
int eng_weights_id(const char *path, const atomic_bool *stop, uint8_t ret[16],
                   struct errbuf *eb);

/* --- pages: one block of one part ------------------------------------------------------- */
enum { ENG_PAGE_NONE = 0xffffffffu };
/* Owned by the loop thread's book-keeping: take/drop are not thread-safe against each
 * other, but are against a running step.  -EAGAIN: the pool is empty.  A page taken holds
 * whatever it held before: rows not yet written are never read. */
int eng_page_take(struct engine *e, enum kv_part part, uint32_t *ret);
void eng_page_drop(struct engine *e, enum kv_part part, uint32_t page);
uint32_t eng_pages_free(const struct engine *e, enum kv_part part);
/* Of them, those never taken: memory that is ours and that the machine still thinks it has. */
uint32_t eng_pages_new(const struct engine *e, enum kv_part part);
/* Makes a few megabytes of pages ready ahead of their first use, as far as a context beyond those
 * in use (512 MiB at most).  true: there is more to do.  The step's thread, between steps. */
bool eng_warm(struct engine *e);
/* Whole pages, exactly page_bytes[part], to and from host memory. */
int eng_page_save(struct engine *e, enum kv_part part, uint32_t page, void *host);
int eng_page_load(struct engine *e, enum kv_part part, uint32_t page, const void *host);

/* --- state slots (families with position-bound state; GQA has none, bytes = 0) ----------- */
int eng_slot_take(struct engine *e, uint32_t *ret);
void eng_slot_drop(struct engine *e, uint32_t slot);
uint64_t eng_slot_bytes(const struct engine *e);
int eng_slot_reset(struct engine *e, uint32_t slot);
int eng_slot_copy(struct engine *e, uint32_t from, uint32_t to);
int eng_slot_save(struct engine *e, uint32_t slot, void *host);
int eng_slot_load(struct engine *e, uint32_t slot, const void *host);

/* --- steps -------------------------------------------------------------------------------- */
struct eng_seq {
    const int32_t *tokens; /* to evaluate now, at positions pos, pos + 1 ... */
    uint32_t n;            /* >= 1 */
    uint64_t pos;
    uint64_t store_from; /* rows below it are read, never written (replay, sharing) */
    const uint32_t *pages[KV_PART_]; /* by block; ENG_PAGE_NONE where not resident */
    uint32_t n_pages;
    uint32_t slot;     /* state slot; 0 for families without */
    uint32_t n_logits; /* of the last n_logits tokens of this sequence */
    float *logits;     /* host, [n_logits][n_vocab] */
    int res;           /* filled when the step is 0: 0, or E_NAN: one of the logits is not a
                          finite number and none of them means anything; others are unharmed */
};
struct eng_want { /* what a step lacks: rows or experts */
    uint32_t seq, layer;
    uint32_t kind; /* 0: page of `block`; more kinds with tiered experts */
    uint64_t block;
};
struct eng_step {
    struct eng_seq *seq;
    uint32_t n_seqs;
    struct eng_want *want; /* room for want_max; n_want is filled with E_NEED */
    uint32_t want_max, n_want;
};
/* 0; -ECANCELED after eng_abort (pages written so far are garbage above the old end, state
 * slots are lost); E_NEED: supply and call again; -EINVAL (a member outside its bounds, or two
 * sequences that would write one page: nothing was done); E_DEVICE.  What concerns one sequence
 * only is its res.
 * Pages from pos / BLOCK_TOKENS on must be the sequence's own; those below may be shared. */
int eng_step(struct engine *e, struct eng_step *s);
/* Any thread, async-signal-safe.  Ends the step in flight at its next layer; the start of a
 * step clears it, so an abort that comes too early or too late is lost and must be repeated. */
void eng_abort(struct engine *e);

#endif
