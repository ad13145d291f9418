/* flip.h - damage on purpose: one bit beside some bytes, wherever a store's files have them. */
#ifndef TESTS_KVSTORE_FLIP_H
#define TESTS_KVSTORE_FLIP_H
#include <stddef.h>
#include <stdint.h>

/* The file g.dir/sub, or all in it when it is a directory.  A bit of the byte at off behind the
 * beginning of each place where the n bytes are; the first 8 KiB of an index and the header of a
 * file of the log are left alone.  How many places. */
int flip_bytes(const char *dir, const char *sub, const void *bytes, size_t n, long off);
/* The same at token `at` of branch `seed`, as rig_talk writes it. */
int flip_tokens(const char *dir, const char *sub, uint64_t seed, uint64_t at);
/* The row of a turn in the index: every copy of it. */
int flip_turn(const char *dir, uint64_t seed, uint64_t first);

#endif
