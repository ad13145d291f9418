/* logfile.h - the files of the turn log as bytes: names, headers, frames, what can be saved.
 *
 * For turnlog.c, which appends, and for whoever reads a log that was hurt.  Nothing here
 * changes a file.  Offset tables: docs/FORMATS.md. */
#ifndef KVSTORE_LOGFILE_H
#define KVSTORE_LOGFILE_H
#include "base/err.h"
#include "kvstore/turnlog.h"

#define LOG_NEWER_DO "start the newer hearthd, or put back a copy made before the upgrade"
enum { LOG_FORMAT_OLDEST = 1, LOG_FORMAT = 3, LOG_COPY_AT = 2048 };
/* No store of ours gets to a number beyond; a name that far behind the others is a stray. */
enum { LOG_NUMBER_MAX = 1 << 30, LOG_NUMBER_FAR = 1 << 20 };

struct log_head {
    uint8_t uuid[16];
    uint32_t number;
    uint32_t version;
    bool base;
    uint64_t seq; /* of the last frame before this file; of a checkpoint: its state's */
    uint32_t prev_crc;
    uint64_t bytes; /* of the whole file; 0: not known */
};
void log_head_put(uint8_t b[LOG_HEAD_BYTES], const struct log_head *h);
/* Either copy will do.  E_CORRUPT; E_VERSION only where a CRC over the version holds. */
int log_head_get(const uint8_t b[LOG_HEAD_BYTES], struct log_head *ret);

struct log_file {
    uint32_t number;
    uint64_t taken; /* bytes on disk */
    uint64_t bytes; /* its length, at least */
    bool bad;       /* hurt: kept aside when the log no longer needs it */
    bool own;       /* its header says this number as well */
};
/* The log's files by number, malloc'ed in *ret: those with the very name that log_path gives, any
 * other is left alone.  tidy: files that never became one (.tmp) go. */
int log_files(const char *dir, bool tidy, struct log_file **ret, uint32_t *ret_n,
              struct errbuf *eb);
/* Whether there was a newer file than this (logend.h): it is missing. */
bool log_lacks_end(const char *dir, uint32_t newest);
void log_path(const char *dir, uint32_t number, const char *suffix, char ret[PATH_MAX]);
/* Whether a name is one that log_path gives, with this behind the number. */
bool log_named(const char *name, const char *suffix, uint32_t *ret);
/* For one more file: a name that a start reads, behind those of the log, and not behind one that
 * only looks like them. */
uint32_t log_number_next(const struct log_file *v, uint32_t n);
int log_length(const char *path, uint64_t *ret); /* -errno: not that it is empty */
/* Only its header: E_CORRUPT, E_VERSION, or -errno when it could not be read. */
int log_head_read(const char *dir, uint32_t number, struct log_head *ret);

/* One file, read as far as one of ours can reach: to where its header says that it ends, else to
 * the most that any can have, which is a checkpoint of the largest index. */
#define LOG_PLAIN_BYTES    (256ull << 20) /* no file of frames has more, nor most checkpoints */
#define LOG_FILE_BYTES_MAX (32ull << 30)
struct log_bytes {
    int fd;
    uint64_t size;  /* on disk */
    uint64_t bytes; /* of these; less than size: others have made it longer */
    uint64_t used;  /* behind these there is nothing but zeros */
    uint8_t *b;     /* n of them, from `from` on */
    uint64_t from, n, cap;
    int why; /* it could not be read: -errno */
};
int log_open(const char *path, struct log_bytes *ret); /* log_shut, also after a failure */
void log_shut(struct log_bytes *f);
/* Bytes at [at, at + n), which lie in the file; until the next call. */
int log_get(struct log_bytes *f, uint64_t at, uint64_t n, const uint8_t **ret);
/* log_frame_get's answer, or that of log_get. */
int log_frame_at(struct log_bytes *f, uint64_t at, struct log_frame *ret, uint64_t *ret_bytes);
uint64_t log_used(struct log_bytes *f); /* behind the last byte that is not zero */
/* The first whole frame at or behind `at`, looking at every eighth byte; end when there is none. */
uint64_t log_frame_after(struct log_bytes *f, uint64_t at, uint64_t end);

/* Frames of one file, in order, and where the chain stands. */
struct log_walk {
    bool salvage; /* behind damage: look on for a whole frame */
    int (*each)(void *ctx, bool base, uint64_t seq, const uint8_t *recs, uint32_t bytes);
    void *ctx;
    uint64_t seq; /* of the last frame that counted */
    uint32_t crc;
    uint64_t frames, torn_bytes;
    bool damaged;      /* so far, in any file */
    uint64_t seen_seq; /* turnlog_opts' */
    uint32_t seen_crc;
    bool other;
    bool frames_torn; /* no salvage: whole frames behind what is torn in the last file */
};
/* E_STALE: the frame of this number is another one than was seen. */
int log_seen(struct log_walk *w, uint64_t seq, uint32_t crc);
/* *ret_end: behind the last whole frame; f->why when it could not be read.  *ret_bad: something in this file is not whole; what
 * is torn at the very end of the last one is not told from that. */
int log_walk_file(struct log_walk *w, const struct log_head *h, struct log_bytes *file,
                  uint64_t *ret_end, bool *ret_bad);

/* Every whole frame that can be found, oldest first: from the newest checkpoint that is whole,
 * else from the first file there is.  What a file's header says counts, or its frames where that is
 * gone, and its name only where neither is whole.  Where something is missing, each() is called
 * with recs NULL and the number of the last frame before it.  rep->damaged: something is missing
 * or hurt.  Reads only. */
int log_salvage(const char *dir,
                int (*each)(void *ctx, bool base, uint64_t seq, const uint8_t *recs,
                            uint32_t bytes),
                void *ctx, struct turnlog_report *rep, struct errbuf *eb);

#endif
