/* bytes.h - little- and big-endian loads and stores, checked sizes, alignment. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#    error "formats are little-endian and this tree loads them with memcpy"
#endif

static inline uint16_t ld16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint32_t ld32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline uint64_t ld64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void st16(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}
static inline void st32(void *p, uint32_t v)
{
    memcpy(p, &v, sizeof v);
}
static inline void st64(void *p, uint64_t v)
{
    memcpy(p, &v, sizeof v);
}
/* Big-endian: index keys, so that byte order is number order. */
static inline void st32be(void *p, uint32_t v)
{
    st32(p, __builtin_bswap32(v));
}
static inline void st64be(void *p, uint64_t v)
{
    st64(p, __builtin_bswap64(v));
}
static inline uint32_t ld32be(const void *p)
{
    return __builtin_bswap32(ld32(p));
}
static inline uint64_t ld64be(const void *p)
{
    return __builtin_bswap64(ld64(p));
}

/* true when it fits; *ret is written only then.  For any factor that came from outside. */
static inline bool mul_ok(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t v;
    if (__builtin_mul_overflow(a, b, &v))
        return false;
    *ret = v;
    return true;
}
static inline bool add_ok(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t v;
    if (__builtin_add_overflow(a, b, &v))
        return false;
    *ret = v;
    return true;
}
static inline uint64_t round_up(uint64_t v, uint64_t align) /* align: power of two */
{
    return (v + align - 1) & ~(align - 1);
}

#endif
