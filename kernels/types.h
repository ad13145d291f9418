/* types.h - GGUF blocks taken apart, for the backends that lay weights out again.
 *
 * A unit is 32 consecutive elements of a row, whatever the type's own block is.
 * The value of element i is
 *     (d * sc[i / 16]) * (q[i] - off)  +  m              Q4_1, Q5_1 (sc = 1)
 *     (d * sc[i / 16]) * (q[i] - off)  -  m * mn[i / 16] K types (off or m is 0)
 * in float, each operation rounded by itself. */
#ifndef KERNELS_TYPES_H
#define KERNELS_TYPES_H
#include "kernels/kern.h"
#include <string.h>

struct k_unit {
    uint16_t d, m; /* halves */
    int8_t sc[2];
    uint8_t mn[2];
    uint8_t q[32];
};
/* How a type's units read: code bits, offset, and which parts it has. */
struct k_unit_info {
    uint8_t bits; /* of a code; 0: a float type, which has no units */
    uint8_t off;
    bool super;  /* d and m are shared by the 8 units of a 256-block */
    bool scaled; /* sc is not 1 */
    bool halves; /* sc and mn differ between the two halves */
    bool min;
};
const struct k_unit_info *k_unit_info(enum k_type t);
/* Unit b of a row of a type that has units.  Any thread. */
void k_unit(enum k_type t, const void *row, uint32_t b, struct k_unit *ret);
/* The 32 values of a unit. */
void k_unit_values(enum k_type t, const struct k_unit *u, float *dst);

/* Bytes [off, off + bytes) of a source: from memory, or as it reads them. */
static inline int k_src_read(const struct k_weight_src *s, uint64_t off, void *to,
                             uint64_t bytes, struct errbuf *eb)
{
    if (!s->data)
        return s->read(s->ctx, off, to, bytes, eb);
    memcpy(to, (const uint8_t *)s->data + off, bytes);
    return 0;
}

#endif
