/* record.h - what the turn log and the index say about sessions: the truth.
 *
 * A batch of records becomes durable whole or not at all.  In the log a batch is one frame
 * (magic, bytes, sequence number, records, CRC32C); in the index its records are applied in
 * one transaction.  Pointers in a record are borrowed until the batch is done. */
#ifndef KVSTORE_RECORD_H
#define KVSTORE_RECORD_H
#include "base/bounds.h"
#include "kvstore/key.h"
#include <stdint.h>

enum kvs_rec_kind {
    KVS_REC_SESSION = 1, /* put: the whole session record, replacing */
    KVS_REC_SESSION_RM,  /* its name goes too; branches without a session are collected later */
    KVS_REC_BRANCH,      /* put: a new branch */
    KVS_REC_TOKENS,      /* append ids to a branch at a position (must be its end) */
    KVS_REC_TURN,        /* put: a turn of a branch, keyed by its first position */
    KVS_REC_REQ,         /* put: what a request did, for idempotency */
    KVS_REC_CUT,         /* crash repair: drop a branch's tokens and turns from a position on */
    KVS_REC_PART, /* put: more of a request; gone with it, nothing when it is not there */
};
enum kvs_role {
    KVS_ROLE_SYSTEM,
    KVS_ROLE_USER,
    KVS_ROLE_ASSISTANT,
    KVS_ROLE_TOOL,
    KVS_ROLE_RAW
};
enum kvs_turn_flags {
    KVS_TURN_OPEN = 1,        /* its request has not ended: a crash may leave it so */
    KVS_TURN_INTERRUPTED = 2, /* was open, closed by the session's next START */
    KVS_TURN_CLOSED_EOT = 4,  /* the end-of-turn token was sampled and is in the log */
};
enum {
    KVS_SESS_PINNED = 1,
    KVS_SESS_ANONYMOUS = 2,
    KVS_SESS_REMOVED = 4,
    KVS_SESS_LOST = 8, /* damage took some of it: tokens up to head, or a turn's record */
};

struct kvs_session {
    struct kvs_id id;
    uint32_t owner;                /* uid */
    uint32_t flags;                /* KVS_SESS_* */
    char name[NAME_BYTES_MAX + 1]; /* "" when anonymous; unique per owner otherwise */
    char model[NAME_BYTES_MAX + 1];
    uint8_t tokenizer_id[32];
    struct kvs_id branch;         /* its place: this branch ... */
    uint64_t head;                /* ... up to here: number of tokens */
    uint64_t created_ns, used_ns; /* wall */
    char settings[2048]; /* JSON: system, template date, sampling defaults; daemon's business */
};
struct kvs_branch {
    struct kvs_id id, parent; /* parent all zero: a root */
    uint64_t parent_pos;      /* tokens shared with the parent */
    uint32_t owner;
};
struct kvs_turn {
    struct kvs_id branch;
    uint64_t first, n_tokens; /* of the turn, template text included */
    uint32_t role, flags;
    uint64_t time_ns;
    struct kvs_id request;
    uint64_t seed;
    uint32_t reused, prefilled, generated, finish; /* usage */
    char params[1024];                             /* JSON as sampled with */
};
enum kvs_req_state { KVS_REQ_RUNNING = 1, KVS_REQ_ENDED };
/* Keyed by owner and id.  Forgotten 24 h after it was last written: at open, and from time to
 * time in between, but then not while it runs and its session is there. */
struct kvs_req {
    uint32_t owner;
    struct kvs_id id;
    struct kvs_id session, branch;
    uint64_t pos;   /* first position of what it generates */
    uint32_t type;  /* protocol operation */
    uint32_t state; /* enum kvs_req_state */
    uint64_t time_ns;
    const char *reply; /* JSON, not terminated; NULL while running */
    uint32_t reply_bytes;
};
/* What a request adds to itself as it goes on, so that its record need not be written again
 * for it: keyed by the request and first, which is its owner's to count. */
struct kvs_part {
    uint32_t owner;
    struct kvs_id id; /* the request's */
    uint64_t first;   /* not UINT64_MAX */
    const uint8_t *data;
    uint32_t bytes;
};
struct kvs_rec {
    uint32_t kind; /* enum kvs_rec_kind: which member counts */
    union {
        const struct kvs_session *session; /* SESSION; SESSION_RM uses id and owner only */
        const struct kvs_branch *branch;
        const struct kvs_turn *turn;
        const struct kvs_req *req;
        const struct kvs_part *part;
        struct {
            struct kvs_id branch;
            uint64_t first;
            const int32_t *ids;
            uint32_t n;
        } tokens; /* TOKENS, and CUT with n = 0 */
    };
};

#endif
