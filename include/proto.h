/* proto.h - the wire format: one frame, one table of operations, one table of statuses.
 *
 * Carriers: nanomsg REQ/REP (one frame = one message) and AF_UNIX streams (frames back to
 * back).  docs/PROTOCOL.md lists the JSON members of every operation.
 *
 *   offset  type   field
 *   0       u8[4]  magic "HRT1"
 *   4       u8     protocol major, 1
 *   5       u8     type (enum hrt_type); a reply carries its request's
 *   6       u16    flags: bit 0 reply; a receiver rejects what it does not know
 *   8       u32    json_len <= JSON_BYTES_MAX
 *   12      u32    tail_len <= TAIL_BYTES_MAX
 *   16      u64    request id, the client's
 *   24      u32    status (replies), 0 in requests
 *   28      u32    CRC32C of bytes 0..27
 *   32             json_len bytes of UTF-8 JSON, then tail_len bytes */
#ifndef PROTO_H
#define PROTO_H
#include "base/bounds.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/err.h"
#include <stdint.h>

enum { HRT_HEAD_BYTES = 32, HRT_MAJOR = 1, HRT_REPLY = 1 };

enum hrt_type {
    HRT_HELLO = 1,
    HRT_PING = 2,
    HRT_STATUS = 3,
    HRT_MODEL_LIST = 10,
    HRT_MODEL_SHOW = 11,
    HRT_MODEL_LOAD = 12,
    HRT_MODEL_UNLOAD = 13,
    HRT_SESSION_OPEN = 20,
    HRT_SESSION_LIST = 21,
    HRT_SESSION_SHOW = 22,
    HRT_SESSION_FORK = 23,
    HRT_SESSION_REWIND = 24,
    HRT_SESSION_RENAME = 25,
    HRT_SESSION_PIN = 26,
    HRT_SESSION_REMOVE = 27,
    HRT_SESSION_EXPORT = 28,
    HRT_SESSION_IMPORT = 29,
    HRT_SESSION_PREFETCH = 30,
    HRT_TOKENIZE = 40,
    HRT_DETOKENIZE = 41,
    HRT_COUNT = 42,
    HRT_START = 50,
    HRT_NEXT = 51,
    HRT_CANCEL = 52,
    HRT_WHY = 60,
    HRT_METRICS = 61,
    HRT_EVENTS = 62,
};

/* gRPC's canonical numbers: for ever. */
enum hrt_status {
    HRT_OK = 0,
    HRT_CANCELLED = 1,
    HRT_INVALID_ARGUMENT = 3,
    HRT_DEADLINE_EXCEEDED = 4,
    HRT_NOT_FOUND = 5,
    HRT_ALREADY_EXISTS = 6,
    HRT_PERMISSION_DENIED = 7,
    HRT_RESOURCE_EXHAUSTED = 8,
    HRT_FAILED_PRECONDITION = 9,
    HRT_OUT_OF_RANGE = 11,
    HRT_UNIMPLEMENTED = 12,
    HRT_INTERNAL = 13,
    HRT_UNAVAILABLE = 14,
    HRT_DATA_LOSS = 15,
    HRT_UNAUTHENTICATED = 16,
};
static inline const char *hrt_status_str(uint32_t s)
{
    static const char *const w[] = {"OK",
                                    "CANCELLED",
                                    "UNKNOWN",
                                    "INVALID_ARGUMENT",
                                    "DEADLINE_EXCEEDED",
                                    "NOT_FOUND",
                                    "ALREADY_EXISTS",
                                    "PERMISSION_DENIED",
                                    "RESOURCE_EXHAUSTED",
                                    "FAILED_PRECONDITION",
                                    "ABORTED",
                                    "OUT_OF_RANGE",
                                    "UNIMPLEMENTED",
                                    "INTERNAL",
                                    "UNAVAILABLE",
                                    "DATA_LOSS",
                                    "UNAUTHENTICATED"};
    return s < sizeof w / sizeof *w ? w[s] : "UNKNOWN";
}
static inline int hrt_status_http(uint32_t s)
{
    static const short h[] = {200, 499, 500, 400, 504, 404, 409, 403, 429,
                              409, 409, 400, 501, 500, 503, 500, 401};
    return s < sizeof h / sizeof *h ? h[s] : 500;
}

struct hrt_frame {
    uint8_t type;
    uint16_t flags;
    uint32_t json_len, tail_len;
    uint64_t id;
    uint32_t status;
};
static inline void hrt_pack(uint8_t ret[HRT_HEAD_BYTES], const struct hrt_frame *f)
{
    memcpy(ret, "HRT1", 4);
    ret[4] = HRT_MAJOR;
    ret[5] = f->type;
    st16(ret + 6, f->flags);
    st32(ret + 8, f->json_len);
    st32(ret + 12, f->tail_len);
    st64(ret + 16, f->id);
    st32(ret + 24, f->status);
    st32(ret + 28, crc32c(0, ret, 28));
}
/* 0; E_CORRUPT (magic, CRC), E_VERSION (major), -EINVAL (flags, a request with a status),
 * E_LIMIT (lengths).  Whether the type is known is the receiver's question. */
static inline int hrt_unpack(struct hrt_frame *ret, const uint8_t h[HRT_HEAD_BYTES],
                             struct errbuf *eb)
{
    if (memcmp(h, "HRT1", 4) != 0)
        return err_set(eb, E_CORRUPT, "frame: want magic HRT1");
    if (ld32(h + 28) != crc32c(0, h, 28))
        return err_set(eb, E_CORRUPT, "frame: header checksum does not fit");
    if (h[4] != HRT_MAJOR)
        return err_set(eb, E_VERSION, "frame: protocol major %u, this side speaks %u", h[4],
                       HRT_MAJOR);
    struct hrt_frame f = {h[5],         ld16(h + 6),  ld32(h + 8),
                          ld32(h + 12), ld64(h + 16), ld32(h + 24)};
    if (f.flags & ~HRT_REPLY)
        return err_set(eb, -22, "frame: unknown flags 0x%x", f.flags);
    if (!(f.flags & HRT_REPLY) && f.status)
        return err_set(eb, -22, "frame: a request carries status %u", f.status);
    if (f.json_len > JSON_BYTES_MAX)
        return err_set(eb, E_LIMIT, "frame: json_len %u is above the limit %u", f.json_len,
                       JSON_BYTES_MAX);
    if (f.tail_len > TAIL_BYTES_MAX)
        return err_set(eb, E_LIMIT, "frame: tail_len %u is above the limit %u", f.tail_len,
                       TAIL_BYTES_MAX);
    *ret = f;
    return 0;
}

/* NEXT's tail is a run of these, each followed by len bytes of UTF-8; none splits a code
 * point.  A token whose bytes are held back appears with len 0; its text joins a later one.
 *   offset  0 u32 index (0-based in the answer)   4 i32 token   8 f32 logprob
 *          12 u16 len   14 u8 kind   15 u8 0 */
enum { HRT_REC_BYTES = 16 };
enum hrt_kind { HRT_KIND_TEXT, HRT_KIND_REASONING, HRT_KIND_TOOL_CALL };

#endif
