/* stamp.h - what a file is known by without reading it: another stamp is another content. */
#ifndef BASE_STAMP_H
#define BASE_STAMP_H
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct file_stamp {
    uint64_t dev, ino, bytes, mtime_ns, ctime_ns;
};

static inline struct file_stamp stamp_of(const struct stat *st)
{
    return (struct file_stamp){
        .dev = st->st_dev,
        .ino = st->st_ino,
        .bytes = (uint64_t)st->st_size,
        .mtime_ns = (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec,
        .ctime_ns = (uint64_t)st->st_ctim.tv_sec * 1000000000u + (uint64_t)st->st_ctim.tv_nsec};
}
static inline int stamp_read(const char *path, struct file_stamp *ret) /* 0, -errno */
{
    struct stat st;

    if (stat(path, &st) < 0)
        return -errno;
    *ret = stamp_of(&st);
    return 0;
}
static inline bool stamp_same(const struct file_stamp *a, const struct file_stamp *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->bytes == b->bytes &&
           a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

#endif
