/* bounds.h - every capacity in the program, and how they relate.
 *
 * Nothing queues, retries or grows past one of these.  "Too many" is an -EAGAIN
 * at the door, not an OOM inside. */
#ifndef BASE_BOUNDS_H
#define BASE_BOUNDS_H
#include "base/check.h"

enum {
    MODELS_MAX = 16,             /* models known to one daemon */
    REQ_MAX = 512,               /* requests accepted and not yet ended, of one user half */
    STEP_SEQS_MAX = 64,          /* sequences in one engine step */
    STEP_TOKENS_MAX = 8192,      /* tokens in one engine step, prefill plus decode */
    BLOCK_TOKENS = 256,          /* tokens in one KV block */
    RATIO_MAX = 128,             /* coarsest compression: tokens per stored row */
    STREAMS_MAX = 8,             /* kinds of KV row in one model */
    CTX_TOKENS_MAX = 1 << 20,    /* longest context of any model */
    NAME_BYTES_MAX = 255,        /* a session's name */
    IO_INFLIGHT_MAX = 64,        /* transfers handed to the kernel */
    IO_ALIGN = 4096,             /* O_DIRECT offset, length and address */
    TXN_BLOCKS_MAX = 200,        /* blocks one index transaction may touch */
    STREAM_UNREAD_MAX = 1 << 18, /* bytes a stream holds for its reader */
    JSON_BYTES_MAX = 8 << 20,    /* control part of a frame */
    TAIL_BYTES_MAX = 16 << 20,   /* bulk part of a frame */
    JSON_DEPTH_MAX = 32,
    HELD_USER_MAX = 64 << 20,  /* bytes of one user's frames and replies in the daemon */
    HELD_SMALL_MAX = 16 << 20, /* on top of it, for small frames alone */
    HELD_ALL_MAX = 256 << 20,  /* of all users' frames that are not small */
};

bound(BLOCK_TOKENS % RATIO_MAX == 0, "a block holds whole compressed rows");
bound(4 * JSON_BYTES_MAX + TAIL_BYTES_MAX < HELD_USER_MAX, "the largest frame fits its share");
bound(CTX_TOKENS_MAX * 4 <= TAIL_BYTES_MAX, "the longest context fits one frame");

#endif
