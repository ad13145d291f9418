/* crc32c.h - CRC-32C (Castagnoli), the check of every small record and frame.
 *
 * crc32c(0, p, n) is the checksum of n bytes; feeding its result back as seed
 * continues it over the next piece.  Uses the SSE4.2 instruction where the
 * build's base has it; elsewhere a table-free loop with the same result. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H
#include "base/bytes.h"
#include <stddef.h>

static inline uint32_t crc32c(uint32_t seed, const void *data, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)data;
    uint32_t c = ~seed;
#ifdef __SSE4_2__
    for (; bytes >= 8; bytes -= 8, p += 8)
        c = (uint32_t)__builtin_ia32_crc32di(c, ld64(p));
    for (; bytes; bytes--, p++)
        c = __builtin_ia32_crc32qi(c, *p);
#else
    for (; bytes; bytes--, p++) {
        c ^= *p;
        for (int i = 0; i < 8; i++)
            c = (c >> 1) ^ (0x82f63b78u & (0u - (c & 1)));
    }
#endif
    return ~c;
}

#endif
