/* hurt_write.h - the disk that does not take what is written: the C library's fdatasync and pwrite
 * fail, interrupt or shorten the calls on files whose path holds a word.
 *
 * In one source of a test, which gets these two for the whole of it. */
#ifndef TESTS_KVSTORE_HURT_WRITE_H
#define TESTS_KVSTORE_HURT_WRITE_H
#include "tests/kvstore/rig.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    const char *sync, *write; /* which files; NULL: none */
    int times, code;          /* so often; 0: EIO */
    bool half;                /* writes are cut in half and interrupted, and go on */
    unsigned failed, n;
} bad;

static bool is_of(int fd, const char *word)
{
    return word && rig_leads(fd, word);
}

int fdatasync(int fd)
{
    if (bad.times > 0 && is_of(fd, bad.sync)) {
        bad.times--;
        bad.failed++;
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwrite(int fd, const void *buf, size_t bytes, off_t off);
ssize_t pwrite(int fd, const void *buf, size_t bytes, off_t off)
{
    if (bad.times > 0 && is_of(fd, bad.write)) {
        bad.times--;
        bad.failed++;
        errno = bad.code ? bad.code : EIO;
        return -1;
    }
    if (bad.half && is_of(fd, "/log/")) {
        if (bad.n++ % 3 == 0) {
            errno = bad.n % 2 ? EINTR : EAGAIN;
            return -1;
        }
        if (bytes > 100)
            bytes /= 2;
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, off);
}

#endif
