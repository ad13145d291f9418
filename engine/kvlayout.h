/* kvlayout.h - what a model family keeps per token: streams of rows, and state.
 *
 * Data, not code: the store sees only ids and sizes.  A page is one block (BLOCK_TOKENS
 * consecutive tokens) of one part; a block's payload is its hot page, then its cold page.
 * Inside a part: layer by layer, stream by stream, head by head, row by row, without gaps, so
 * that for GQA a page is [layer][K, V][kv_head][256][dim].  The page itself is filled up to
 * a multiple of IO_ALIGN.  Plain values: any thread. */
#ifndef ENGINE_KVLAYOUT_H
#define ENGINE_KVLAYOUT_H
#include "base/bounds.h"
#include <stdint.h>

enum kv_part {
    KV_HOT,    /* needed in full for every token */
    KV_COLD,   /* read by selection; may stay below */
    KV_WINDOW, /* position-bound rows: part of the state, never of a block */
    KV_PART_,
};
struct kv_stream {
    char name[16];       /* "k", "v", "csa" ... */
    uint8_t part;        /* enum kv_part */
    uint8_t fmt;         /* enum k_row */
    uint16_t tokens_row; /* tokens per stored row: 1, 4, 128 */
    uint32_t heads;      /* extents per layer */
    uint32_t row_bytes;  /* one head's row */
    uint32_t n_layers;
    uint16_t layers[256]; /* which layers have it, ascending */
};
struct kv_state { /* fixed-size, position-bound; none for GQA */
    char name[16];
    uint64_t bytes;
};
struct kv_layout {
    char id[64]; /* "gqa-f16-L30-H3-D64": names the folder in the store; [A-Za-z0-9.-] */
    struct kv_stream stream[STREAMS_MAX];
    uint32_t n_streams;
    struct kv_state state[STREAMS_MAX];
    uint32_t n_states;
    uint64_t page_bytes[KV_PART_]; /* derived by kv_layout_close(), IO_ALIGNed */
};

enum { KV_LAYERS_MAX = 256, KV_PAGE_BYTES_MAX = 1 << 30 };
/* Derives page_bytes and checks the rest; 0, or E_LIMIT when a member is outside its bounds or
 * a page would pass KV_PAGE_BYTES_MAX. */
int kv_layout_close(struct kv_layout *l);
/* Byte offset of (stream, layer, head 0) in its part's page; layer must have the stream. */
uint64_t kv_layout_off(const struct kv_layout *l, uint32_t stream, uint32_t layer);

#endif
