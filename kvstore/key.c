/* key.c - chain keys, variants and ids: BLAKE2b over explicit lengths. */
#include "kvstore/key.h"
#include "base/bounds.h"
#include "base/bytes.h"
#include "base/check.h"
#include <sodium.h>
#include <stddef.h>

/* Domains are 16 bytes so that no text of one can be the beginning of another. */
static const char ROOT[16] = "hearth root v1", BLOCK[16] = "hearth block v1",
                  VARIANT[16] = "hearth variant1", SEED[16] = "hearth seed v1";

void kvs_key_root(const uint8_t fingerprint[32], uint32_t owner_uid, struct kvs_key *ret)
{
    uint8_t in[16 + 32 + 4];

    memcpy(in, ROOT, 16);
    memcpy(in + 16, fingerprint, 32);
    st32(in + 48, owner_uid);
    crypto_generichash(ret->b, sizeof ret->b, in, sizeof in, NULL, 0);
}

void kvs_key_next(const struct kvs_key *prev, const int32_t *ids, uint32_t n,
                  struct kvs_key *ret)
{
    uint8_t in[16 + 32 + 4 + 4 * BLOCK_TOKENS];

    must(n > 0 && n <= BLOCK_TOKENS);
    memcpy(in, BLOCK, 16);
    memcpy(in + 16, prev->b, 32);
    st32(in + 48, n);
    memcpy(in + 52, ids, 4 * (size_t)n);
    crypto_generichash(ret->b, sizeof ret->b, in, 52 + 4 * (size_t)n, NULL, 0);
}

/* Eight bytes are cut from the shortest hash the library makes: its length is part of what
 * BLAKE2b hashes, and 16 is the least it takes here. */
static uint64_t hash8(const void *in, size_t n)
{
    uint8_t h[crypto_generichash_BYTES_MIN];

    crypto_generichash(h, sizeof h, in, n, NULL, 0);
    return ld64(h);
}

uint64_t kvs_variant(uint64_t epoch, uint32_t row_class)
{
    uint8_t in[16 + 8 + 4];

    memcpy(in, VARIANT, 16);
    st64(in + 16, epoch);
    st32(in + 24, row_class);
    return hash8(in, sizeof in);
}

void kvs_id_new(struct kvs_id *ret)
{
    randombytes_buf(ret->b, sizeof ret->b);
}

uint64_t kvs_id_seed(const struct kvs_id *id)
{
    uint8_t in[16 + 16];

    memcpy(in, SEED, 16);
    memcpy(in + 16, id->b, 16);
    return hash8(in, sizeof in);
}
