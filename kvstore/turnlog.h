/* turnlog.h - the turn log: every batch of records, in order, before the index has it.
 *
 * Files log/seg-NNNN: a 4 KiB header, then frames (one batch each) that carry a sequence
 * number, the CRC of the frame before, and their own CRC32C.  Files are preallocated with
 * zeros behind the last frame.  A checkpoint is a file of the same kind that begins the log
 * anew: it holds the live state up to a sequence number, and everything before it is deleted
 * once it is whole (what was hurt is set aside).  Owner: whoever opens the store, then the commit thread. */
#ifndef KVSTORE_TURNLOG_H
#define KVSTORE_TURNLOG_H
#include "base/err.h"
#include "kvstore/record.h"
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    LOG_HEAD_BYTES = 4096,
    LOG_FRAME_HEAD_BYTES = 24,
    LOG_FRAME_BYTES_MAX = 64 << 20, /* payload of one frame */
};
struct sys;
struct turnlog;

struct turnlog_report {
    uint64_t last_seq;   /* of the newest whole frame */
    uint64_t torn_bytes; /* behind it, written and not whole */
    uint64_t frames;     /* handed out */
    bool damaged;        /* a frame before the last one is missing or not whole */
    bool frames_torn;    /* whole frames lie behind it: of the same group, or it is damage */
    bool other;          /* a frame is not the one that was seen under its number */
    bool end_known;      /* which file was the newest is written down (logend.h) */
    bool have_uuid;
    uint8_t uuid[16];
};
/* Opens what is there and hands every whole frame to each(), oldest first: base says that it
 * belongs to a checkpoint, whose state is that of seq.  each() < 0 stops and is
 * returned.  Nothing behind a frame that is not whole is handed out (logfile.h: log_salvage);
 * nothing on disk is changed, and what could not be read fails the open (eb names it). */
struct turnlog_opts {
    const char *dir; /* STATE/log, there already */
    struct sys *sys;
    uint64_t seg_bytes;
    int (*each)(void *ctx, bool base, uint64_t seq, const uint8_t *recs, uint32_t bytes);
    void *ctx;
    /* The frame of this number (0: not known) had this CRC.  Another one of that number ends it
     * before it is handed out: E_STALE, and rep->other. */
    uint64_t seen_seq;
    uint32_t seen_crc;
};
int turnlog_open(struct turnlog **ret, const struct turnlog_opts *o, struct turnlog_report *rep,
                 struct errbuf *eb);
void turnlog_close(struct turnlog *l);
/* After damage, or where the index knows more, before start: the files that are there are not written to any more, and kept as
 * NAME.bad-TIME when a checkpoint takes their place, also those that are whole. */
void turnlog_keep_old(struct turnlog *l);
bool turnlog_keeps(const struct turnlog *l); /* trim is to set one aside that is there */
bool turnlog_lacks(const struct turnlog *l); /* a file that it wants is not there */
/* Once, before the first append: the store's name, for the headers; what is torn behind the
 * tail is wiped, so that no later frame can be taken for its successor. */
int turnlog_start(struct turnlog *l, const uint8_t uuid[16], uint64_t last_seq);

/* A group of frames.  begin; add each batch (0, E_LIMIT, -ENOMEM, -EINVAL: a record that
 * cannot be stored); then write: bytes and fdatasync.  A failed write leaves the log as it
 * was.  undo takes a written group back; when it fails the log must not be used again. */
void turnlog_begin(struct turnlog *l);
int turnlog_add(struct turnlog *l, const struct kvs_rec *r, uint32_t n);
const uint8_t *turnlog_group(const struct turnlog *l, uint64_t *ret_bytes); /* its frames */
int turnlog_write(struct turnlog *l, bool sync);
int turnlog_sync(struct turnlog *l);
int turnlog_undo(struct turnlog *l);
uint64_t turnlog_seq(const struct turnlog *l); /* of the last frame added or written */
/* Of that frame; false: it is not in the log. */
bool turnlog_crc(const struct turnlog *l, uint32_t *ret);
bool turnlog_in_place(const struct turnlog *l); /* the name of its file still leads there */
/* 1: others have cut one of its files short; -errno: it cannot be told, which is no damage. */
int turnlog_cut(const struct turnlog *l);
uint64_t turnlog_bytes(const struct turnlog *l);       /* taken on disk */
uint64_t turnlog_ahead_bytes(const struct turnlog *l); /* of these: for frames to come */
uint64_t turnlog_grown_bytes(const struct turnlog *l); /* frames since the last checkpoint */
uint64_t turnlog_base_bytes(const struct turnlog *l);  /* of the last checkpoint */
/* Whether the group that could not be written last, or a small one, could be now: whether there is
 * room for it is tried, and leaves nothing. */
int turnlog_room(struct turnlog *l);
/* What a group of bytes would take on disk beyond what is taken. */
uint64_t turnlog_need(const struct turnlog *l, uint64_t bytes);

/* A checkpoint of the state at turnlog_seq() as of begin: begin, any number of add and flush,
 * end.  Groups may be written meanwhile: their frames lie behind it.  A crash before end
 * leaves the old log; after it the files it replaces are of no use, and trim removes one at
 * each call (1: there are more).  abort after any failure of the first four. */
int turnlog_checkpoint_begin(struct turnlog *l);
int turnlog_checkpoint_add(struct turnlog *l, const struct kvs_rec *r);
int turnlog_checkpoint_flush(struct turnlog *l); /* to the file; now and then a sync */
int turnlog_checkpoint_end(struct turnlog *l);
void turnlog_checkpoint_abort(struct turnlog *l);
uint64_t turnlog_checkpoint_bytes(const struct turnlog *l); /* of the one under way, so far */
int turnlog_trim(struct turnlog *l);

/* For the fuzzer and the log's own reader: one frame at b[0, n), 8-aligned.  Its whole length
 * in *ret_bytes.  -ENOENT: zeros; E_CORRUPT. */
struct log_frame {
    uint64_t seq;
    uint32_t bytes, n_rec, prev_crc, crc;
    const uint8_t *recs;
};
int log_frame_get(const uint8_t *b, uint64_t n, struct log_frame *ret, uint64_t *ret_bytes);

#endif
