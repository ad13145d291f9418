/* codec.h - the records of record.h as bytes, for the turn log and for the index.
 *
 * In the log a record is kind u32, body bytes u32, body, zeros to a multiple of 8; the index
 * keeps bodies as values.  Integers little-endian.  Offset tables: docs/FORMATS.md.  Decoding
 * accepts any bytes: E_CORRUPT, never a read outside them.  Any thread; no state. */
#ifndef KVSTORE_CODEC_H
#define KVSTORE_CODEC_H
#include "kvstore/index.h"
#include "kvstore/record.h"
#include <stddef.h>

/* Room for any decoded record; tokens, replies and parts point into the bytes decoded. */
struct codec_rec {
    struct kvs_rec rec;
    union {
        struct kvs_session session;
        struct kvs_branch branch;
        struct kvs_turn turn;
        struct kvs_req req;
        struct kvs_part part;
    } u;
};

enum { CODEC_BRANCH_BYTES = 52, CODEC_FIXED_MAX = 4096 };

/* Bytes of the record in the log, padding included.  0: the record is not one we accept
 * (kind unknown, a string without its end, a reply, part or ids too long). */
size_t codec_size(const struct kvs_rec *r);
/* Writes codec_size() bytes. */
void codec_put(uint8_t *ret, const struct kvs_rec *r);
/* One record at b[0, n): its length with padding in *ret_bytes.  b is 8-aligned. */
int codec_get(const uint8_t *b, size_t n, struct codec_rec *ret, size_t *ret_bytes);

/* Bodies alone, for index values.  put returns the length; ret has room for
 * CODEC_FIXED_MAX, for a request plus its reply. */
size_t codec_session_put(uint8_t *ret, const struct kvs_session *s);
size_t codec_branch_put(uint8_t *ret, const struct kvs_branch *b);
size_t codec_turn_put(uint8_t *ret, const struct kvs_turn *t);
size_t codec_req_put(uint8_t *ret, const struct kvs_req *q);
int codec_session_get(const uint8_t *b, size_t n, struct kvs_session *ret);
int codec_branch_get(const uint8_t *b, size_t n, struct kvs_branch *ret);
int codec_turn_get(const uint8_t *b, size_t n, struct kvs_turn *ret);
int codec_req_get(const uint8_t *b, size_t n, struct kvs_req *ret);

/* A chunk of a branch's tokens: those of one aligned run of BLOCK_TOKENS positions. */
enum { CODEC_CHUNK_MAX = 12 + 4 * BLOCK_TOKENS };
size_t codec_chunk_put(uint8_t *ret, uint64_t first, uint32_t n, const int32_t *ids);
/* base: the run's first position.  ids has room for BLOCK_TOKENS. */
int codec_chunk_get(const uint8_t *b, size_t n, uint64_t base, uint64_t *ret_first,
                    uint32_t *ret_n, int32_t *ids);
/* A block's row: key and value. */
enum { CODEC_BLOCK_KEY = 40, CODEC_BLOCK_BYTES = 96 };
void codec_block_key(uint8_t ret[CODEC_BLOCK_KEY], const struct kvs_key *key, uint64_t variant);
void codec_block_put(uint8_t ret_key[CODEC_BLOCK_KEY], uint8_t ret[CODEC_BLOCK_BYTES],
                     const struct index_block *b);
int codec_block_get(const uint8_t *key, size_t n_key, const uint8_t *b, size_t n,
                    struct index_block *ret);

#endif
