/* snapshot.h - a session's tokens and KV pages in one file, as the store would hold them.
 *
 * Little-endian; every record is a multiple of IO_ALIGN.
 *
 *   file header, 4096 bytes              block, once per BLOCK_TOKENS begun
 *     0  magic "HEARTHSN"                  0  magic "HEARTHBK"
 *     8  u32 version, 1                    8  u32 version, 1
 *    12  u32 blocks                       12  u32 tokens in it, 1..256
 *    16  u64 tokens                       16  u64 first position
 *    24  u64 payload bytes of a block     24  u64 payload bytes
 *    32  u64 numerics epoch               32  chain key (kvstore/key.h), owner 0
 *    40  fingerprint, 32                  64  XXH3-128 of the payload, canonical
 *    72  layout id, 64, zero-filled       80  256 i32 ids, zero-filled
 *   136  CRC32C of bytes 0..135         1104  CRC32C of bytes 0..1103
 *                                       4096  payload: hot page, then cold page
 *
 * Rows past the last token of the last block are whatever the page held. */
#ifndef BENCH_SNAPSHOT_H
#define BENCH_SNAPSHOT_H
#include "base/err.h"
#include <stdint.h>

struct engine;
struct snap {
    int32_t *ids; /* all tokens so far; room for ctx_max */
    uint64_t n;
    uint32_t *pages[2]; /* by part (KV_HOT, KV_COLD), by block; taken from the engine */
    uint32_t n_pages;
};
/* Room for a whole context; pages are taken as tokens come.  Zero-initialise first. */
int snap_init(struct snap *s, const struct engine *e);
void snap_fini(struct snap *s, struct engine *e);
/* Takes pages so that `tokens` fit; -EAGAIN when the pool is empty. */
int snap_room(struct snap *s, struct engine *e, uint64_t tokens);

int snap_save(const struct snap *s, struct engine *e, const uint8_t fingerprint[32],
              const char *path, struct errbuf *eb);
/* Refuses, by name, what another model, layout, format or backend wrote, and any damage. */
int snap_load(struct snap *s, struct engine *e, const uint8_t fingerprint[32], const char *path,
              struct errbuf *eb);

#endif
