/* index_check.h - the walk through an index, in a child process that damage may crash.
 *
 * Damage is told from what could not be done: a child that could not be made, was killed or
 * took too long says nothing about the file. */
#ifndef KVSTORE_INDEX_CHECK_H
#define KVSTORE_INDEX_CHECK_H
#include "base/err.h"
#include "kvstore/index.h"
#include <sys/types.h>

/* 0 sound; 1 closed cleanly and above quick_bytes: not walked; -ENOENT none; E_CORRUPT; else
 * -errno, and eb says which file, which error and what to do. */
int index_check(const char *path, uint64_t quick_bytes, struct errbuf *eb);

/* The same beside an open store: the child sees the index as it was at its beginning. */
struct index_scrub {
    pid_t pid; /* 0: none runs */
    int fd;
    uint32_t n, cap;
    struct index_hurt { /* rows whose CRC is wrong, found so far */
        uint8_t db;
        uint16_t bytes;
        uint8_t key[512];
    } * v;
};
int index_scrub_start(struct index_scrub *x, const char *path);
/* -EAGAIN: it runs on; else as index_check, and x->v has what it found. */
int index_scrub_poll(struct index_scrub *x);
void index_scrub_stop(struct index_scrub *x);
/* All of it at once, while nobody else touches the file; the rows are in x->v until the stop. */
int index_scrub_now(struct index_scrub *x, const char *path);

/* index_shrink of an index that was not walked: in a child too, which may crash. */
void index_shrink_apart(struct sys *y, const char *dir, const char *path, uint64_t disk_bytes);

#endif
