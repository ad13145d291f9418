/* hurt_pread.h - the disk that fails: EIO in place of what pread would have given.
 *
 * In one source of a test, which gets this pread for the whole of it. */
#ifndef TESTS_KVSTORE_HURT_PREAD_H
#define TESTS_KVSTORE_HURT_PREAD_H
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HURT_EIO_MAX = 4 };
static struct {
    char path[512];
    uint64_t from; /* bytes of it that can be read */
} hurt_bad[HURT_EIO_MAX];
static int n_hurt_bad;

/* From this byte on the file cannot be read; NULL: all can again. */
static void hurt_eio(const char *path, uint64_t from)
{
    if (!path) {
        n_hurt_bad = 0;
        return;
    }
    snprintf(hurt_bad[n_hurt_bad].path, sizeof hurt_bad->path, "%s", path);
    hurt_bad[n_hurt_bad++].from = from;
}

ssize_t pread(int fd, void *buf, size_t n, off_t off)
{
    char link[64], path[512];
    ssize_t got = -1;

    for (int i = 0; i < n_hurt_bad; i++) {
        if ((uint64_t)off + n <= hurt_bad[i].from)
            continue;
        if (got < 0) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            got = readlink(link, path, sizeof path - 1);
            path[got > 0 ? got : 0] = 0;
        }
        if (strcmp(path, hurt_bad[i].path) == 0) {
            errno = EIO;
            return -1;
        }
    }
    return syscall(SYS_pread64, fd, buf, n, off);
}
ssize_t pread64(int fd, void *buf, size_t n, off_t off)
{
    return pread(fd, buf, n, off);
}

#endif
