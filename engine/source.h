/* source.h - the bytes of a model: a file that is read piece by piece, or memory.
 *
 * A file is never mapped: when somebody truncates it, or the disk fails, touching a mapping
 * is a SIGBUS that ends the process and every model in it; reading is an error with words.
 * Weights larger than memory (K_RES_MAPPED) will want a mapping all the same: it belongs here,
 * together with what makes a fault survivable, and nobody above has to know.
 *
 * source_read from any thread, several at once; the rest by the owner. */
#ifndef ENGINE_SOURCE_H
#define ENGINE_SOURCE_H
#include "base/err.h"
#include "base/stamp.h"
#include <stdint.h>

struct source;

/* -ENOENT, -EACCES..., -EISDIR, -EINVAL (a pipe, a device...: not a regular file); the words
 * begin with path.  Never blocks on a pipe. */
int source_open(struct source **ret, const char *path, struct errbuf *eb);
int source_memory(struct source **ret, const void *p, uint64_t bytes); /* caller's; -ENOMEM */
void source_close(struct source *s);                                   /* NULL ok */

uint64_t source_bytes(const struct source *s);                 /* when it was opened */
const struct file_stamp *source_stamp(const struct source *s); /* zeros for memory */

/* Bytes [off, off + bytes) into `to`.  E_CORRUPT when the file has become shorter, -EIO and
 * the like from the disk.  The words say which bytes, and neither file nor tensor.  The kernel
 * is told to read on behind them, so that ascending reads find their bytes in memory. */
int source_read(struct source *s, uint64_t off, void *to, uint64_t bytes, struct errbuf *eb);

/* Is the file what was opened, still there under its name?  -ESTALE with words when not: what
 * was read may then be half of one file and half of another. */
int source_same(const struct source *s, struct errbuf *eb);

#endif
