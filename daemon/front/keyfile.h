/* keyfile.h - the API keys that let other users in over HTTP. */
#ifndef FRONT_KEYFILE_H
#define FRONT_KEYFILE_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { KEYFILE_KEYS_MAX = 64, KEYFILE_KEY_BYTES_MAX = 256, KEYFILE_BYTES_MAX = 1 << 20 };
struct keyfile {
    char key[KEYFILE_KEYS_MAX][KEYFILE_KEY_BYTES_MAX + 1];
    char as[KEYFILE_KEYS_MAX][33]; /* how hearthd knows its holder: 32 digits of its hash */
    uint32_t line[KEYFILE_KEYS_MAX];
    uint32_t n;
};
/* One key a line, # begins a comment. Refuses a file that others may read, and one with a key
 * twice. 0; < 0 with words. */
int keyfile_read(struct keyfile *ret, const char *path, struct errbuf *eb);
/* Is the value of an Authorization header ("Bearer KEY") one of them?  Its `as`; NULL: no (or
 * no header). */
const char *keyfile_fits(const struct keyfile *k, const char *authorization);

#endif
