/* gguf.h - a GGUF v3 file: its head read and checked field by field, its tensors on demand.
 *
 * Nothing in the file is believed: counts, offsets, overlaps, shapes, string lengths and
 * array sizes are checked before use, and an error names the field, the value found and
 * the limit.  After gguf_open() every accessor is safe.  Immutable: any thread.
 * Metadata and directory are kept in memory; the file is never mapped (source.h says why).
 * Layout of the format: magic, version, n_tensors, n_kv, the pairs, the tensor directory,
 * padding to general.alignment, data. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H
#include "base/err.h"
#include "base/stamp.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gguf;

enum gguf_kv_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARR,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_KV_TYPE_,
};
struct gguf_str { /* not terminated; may hold any byte */
    const char *p;
    uint64_t bytes;
};
struct gguf_tensor {
    struct gguf_str name;
    uint32_t type; /* enum k_type, known */
    uint32_t n_dims;
    uint64_t dims[4];   /* dims[0] is the fastest: columns */
    uint64_t at, bytes; /* where its data lies in the file */
};

/* -ENOENT, -EACCES..., -EISDIR, -EINVAL (not a regular file), E_CORRUPT, E_VERSION, E_LIMIT
 * (metadata and directory of more than 128 MiB), E_UNSUPP (a tensor type we lack, arrays of
 * arrays), -EIO.  The words begin with path. */
int gguf_open(struct gguf **ret, const char *path, struct errbuf *eb);
/* The same over memory the caller keeps (fuzzing, tests). */
int gguf_parse(struct gguf **ret, const void *data, size_t bytes, struct errbuf *eb);
void gguf_close(struct gguf *g); /* NULL ok */

/* Copies bytes [off, off + bytes) of a tensor, which must lie inside it.  E_CORRUPT when the
 * file was truncated since, -EIO...; the words say where in the file, the caller knows which
 * tensor.  Any thread, several at once; not after gguf_detach. */
int gguf_read(const struct gguf *g, const struct gguf_tensor *t, uint64_t off, void *to,
              uint64_t bytes, struct errbuf *eb);
/* Closes the file: all that is wanted of it was read.  -ESTALE, with words, when it is not the
 * file any more that was opened: then what was read may be of two files.  Metadata stays. */
int gguf_detach(struct gguf *g, struct errbuf *eb);

uint64_t gguf_bytes(const struct gguf *g);                 /* the whole file */
const struct file_stamp *gguf_stamp(const struct gguf *g); /* when it was opened */

uint32_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint32_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name); /* NULL: none */

/* Metadata by key.  true when present *and* of a fitting kind; *ret untouched otherwise.
 * Integers convert where the value fits; floats take F32 and F64. */
bool gguf_u64(const struct gguf *g, const char *key, uint64_t *ret);
bool gguf_f64(const struct gguf *g, const char *key, double *ret);
bool gguf_bool(const struct gguf *g, const char *key, bool *ret);
bool gguf_str(const struct gguf *g, const char *key, struct gguf_str *ret);
/* Arrays: element count, or -1 when absent or of another element type.  The two accessors
 * below need an array that is there, of that kind (str, or any number), and i < its count. */
int64_t gguf_arr(const struct gguf *g, const char *key, enum gguf_kv_type type);
struct gguf_str gguf_arr_str(const struct gguf *g, const char *key, uint64_t i); /* O(1) */
double gguf_arr_num(const struct gguf *g, const char *key, uint64_t i);
/* Iteration for `hearth show`: key and type of the i-th pair. */
uint32_t gguf_n_kv(const struct gguf *g);
struct gguf_str gguf_key_at(const struct gguf *g, uint32_t i, enum gguf_kv_type *ret_type);

#endif
