/* utf8.h - UTF-8 as the tokenizers need it: what is whole, what is broken, and mending.
 *
 * Text comes from anyone, so nothing here assumes that it is valid.  Pure functions: any
 * thread. */
#ifndef ENGINE_UTF8_H
#define ENGINE_UTF8_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first `bytes` bytes (>= 1) of a possible code point: its length when they are a whole
 * one (strict: no overlong forms, surrogates or values above U+10FFFF), 0 when more bytes may
 * complete it, -1 when nothing can. */
int utf8_status(const uint8_t *p, size_t bytes);

/* True when the whole text is strict UTF-8. */
bool utf8_is_strict(const char *text, size_t bytes);

/* Decodes loosely and writes what a lenient reader sees, for text that is not strict: each
 * byte that belongs to nothing becomes U+FFFD, overlong forms their shortest, surrogates stay.
 * out and shadow have room for bytes * 3; shadow is the same text with U+FFFD for surrogates:
 * the same offsets, and strict.  Returns the length of both. */
size_t utf8_mend(const char *text, size_t bytes, char *out, char *shadow);

size_t utf8_put(uint32_t cp, char *out); /* 1..4; cp <= U+10FFFF, surrogates as 3 bytes */

#endif
