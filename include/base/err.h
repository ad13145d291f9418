/* err.h - the one error language of this tree.
 *
 * A function that can fail returns int: >= 0 is success, < 0 is a code.
 * -1..-4095 are -errno.  Our own codes start at -5001, clear of errno and of
 * LMDB's -307xx.  Foreign codes (MDB_*, nn_errno, cudaError_t, cqe->res) are
 * translated in the one file that makes the foreign call and go no further. */
#ifndef BASE_ERR_H
#define BASE_ERR_H
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    E_CORRUPT = -5001, /* checksum or structure wrong: drop that copy */
    E_STALE = -5002,   /* handle's generation is gone: look it up again */
    E_SHAPE = -5003,   /* weights, layout and model disagree: refuse to load */
    E_VERSION = -5004, /* an on-disk or wire version we do not speak */
    E_DEVICE = -5005,  /* accelerator fault: the backend is dead, reopen it */
    E_LIMIT = -5006,   /* would pass a bound in base/bounds.h */
    E_UNSUPP = -5007,  /* this backend or arch has no such operation */
    E_NEED = -5008,    /* a step stopped: supply what its want-list names, call again */
    E_NAN = -5009,     /* a result that is not a finite number */
};

/* Words for a human, filled only on failure, only by calls that read outside
 * data (open, load, parse).  Always the last parameter; NULL is accepted. */
struct errbuf {
    char s[512];
};

/* Fills eb (if there is one) and returns code, so that `return err_set(...)` reads well. */
__attribute__((format(printf, 3, 4), unused)) static int err_set(struct errbuf *eb, int code,
                                                                 const char *fmt, ...)
{
    if (eb) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(eb->s, sizeof eb->s, fmt, ap);
        va_end(ap);
    }
    return code;
}

static inline const char *err_str(int code) /* static storage, never NULL */
{
    switch (code) {
    case E_CORRUPT: return "corrupt data";
    case E_STALE: return "stale handle";
    case E_SHAPE: return "shape mismatch";
    case E_VERSION: return "unknown version";
    case E_DEVICE: return "device fault";
    case E_LIMIT: return "limit reached";
    case E_UNSUPP: return "unsupported";
    case E_NEED: return "more data needed";
    case E_NAN: return "not a finite number";
    default: return code < 0 && code > -4096 ? strerror(-code) : "unknown error";
    }
}

#endif
