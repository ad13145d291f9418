/* key.h - what a block is called: a hash chain over everything that decides its bytes.
 *
 *   K_0     = BLAKE2b-256(domain 'root'  | fingerprint | owner uid)
 *   K_{i+1} = BLAKE2b-256(domain 'block' | K_i | n | ids of the next n tokens)
 *
 * all lengths explicit, integers little-endian.  Two sessions share a block exactly when
 * model, owner and every token up to its end agree.  Any thread; no state. */
#ifndef KVSTORE_KEY_H
#define KVSTORE_KEY_H
#include <stdint.h>

struct kvs_key {
    uint8_t b[32];
};
struct kvs_id { /* sessions, branches, requests: 128 random bits */
    uint8_t b[16];
};
void kvs_key_root(const uint8_t fingerprint[32], uint32_t owner_uid, struct kvs_key *ret);
void kvs_key_next(const struct kvs_key *prev, const int32_t *ids, uint32_t n,
                  struct kvs_key *ret);
/* 8 bytes of BLAKE2b(numerics epoch | row class): keeps kinds of bits apart. */
uint64_t kvs_variant(uint64_t epoch, uint32_t row_class);
void kvs_id_new(struct kvs_id *ret);
/* BLAKE2b-64 of id: the seed of a request that names none. */
uint64_t kvs_id_seed(const struct kvs_id *id);

#endif
