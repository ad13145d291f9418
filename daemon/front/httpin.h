/* httpin.h - one HTTP/1 request as bytes on a wire, taken strictly.
 *
 * What two parsers could read in two ways is refused (RFC 9112): bare LF or CR, zero and control
 * bytes, folded lines, space before a colon, a length that is not digits alone, two lengths, a
 * length beside Transfer-Encoding, an absolute target that is not Host's.  Knows no sockets; nothing here blocks or keeps state. */
#ifndef FRONT_HTTPIN_H
#define FRONT_HTTPIN_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HTTPIN_HEAD_MAX = 16 << 10,
    HTTPIN_FIELDS_MAX = 100,
    HTTPIN_CHUNK_LINE_MAX = 256,  /* behind a chunk's size */
    HTTPIN_TRAILER_MAX = 4 << 10, /* behind the last chunk; passed over */
};

struct httpin_head {
    char *text;                /* malloc'd; what follows points into it */
    const char *method, *path; /* path begins with '/', ends before a '?' */
    const char
        *authority; /* of an absolute target, the same as Host; not terminated; or NULL */
    uint32_t authority_bytes;
    struct {
        const char *name, *value;
    } field[HTTPIN_FIELDS_MAX];
    uint32_t n_fields;
    uint8_t minor; /* HTTP/1.minor */
    bool keep;     /* the client would send another request here */
    bool chunked;  /* the body's form; else body_bytes of it */
    bool expects;  /* waits for 100 Continue */
    uint64_t body_bytes;
};

/* The length of the head at p, its empty line included; 0: not yet whole; < 0: -400 or -431, the
 * status to answer, with words.  *seen says how far an earlier call looked: 0 at first. */
int httpin_scan(const char *p, size_t n, size_t *seen, struct errbuf *eb);
/* The head of n bytes that scan found.  0; < 0: minus the status to answer, with words, and
 * nothing to free. */
int httpin_parse(struct httpin_head *ret, const char *p, size_t n, struct errbuf *eb);
void httpin_fini(struct httpin_head *h); /* a zeroed one is fine */
/* The field's value, or NULL.  Names are compared without case. */
const char *httpin_field(const struct httpin_head *h, const char *name);
/* A list may stand in several lines: the next of them, from *at on (0 at first), or NULL. */
const char *httpin_next(const struct httpin_head *h, const char *name, uint32_t *at);
const char *httpin_reason(int code); /* the words of a status line */
/* "%2F" becomes "/"; malloc'd; NULL: not a good escape, a zero byte in it, or no memory. */
char *httpin_unescape(const char *s);

/* A chunked body, piece by piece; begins zeroed. */
struct httpin_chunks {
    int state;
    uint64_t left;
    uint32_t digits, line, trailer;
};
/* Takes *ret_used bytes of p; those that are body are ret_data[0..*ret_n), within p.
 * 1: the body is whole; 0: go on with what is left, or with more; -400 with words. */
int httpin_chunk(struct httpin_chunks *s, const char *p, size_t n, size_t *ret_used,
                 const char **ret_data, size_t *ret_n, struct errbuf *eb);

#endif
