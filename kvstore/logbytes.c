/* logbytes.c - see logfile.h: a file of the turn log, of which a part is in memory.
 *
 * Its size is not believed: what others made of it may be larger than any memory.  A hole of a
 * sparse file is not read, nor is what lies behind the largest size that a file of ours can have;
 * of the rest there is one frame in memory at a time, and what is read ahead of it. */
#include "base/bytes.h"
#include "kvstore/logfile.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AHEAD_BYTES = 1 << 20, FRAME_LEAST = LOG_FRAME_HEAD_BYTES + 8 };

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Behind the last of it that is no hole; where the file system cannot tell there is none. */
static uint64_t data_end(int fd, uint64_t size)
{
    uint64_t end = 0;

    while (end < size) {
        off_t data = lseek(fd, (off_t)end, SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            return size;
        if (data < 0 || (uint64_t)data >= size)
            return end;
        off_t hole = lseek(fd, data, SEEK_HOLE);
        if (hole <= data)
            return size;
        end = (uint64_t)hole;
    }
    return size;
}

int log_open(const char *path, struct log_bytes *ret)
{
    uint8_t b[LOG_HEAD_BYTES];
    struct log_head h = {0};
    struct stat st;
    int r = 0, fd = sys_open_plain(path);

    memset(ret, 0, sizeof *ret);
    ret->fd = fd;
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        r = -errno;
    ret->size = r == 0 ? (uint64_t)st.st_size : 0;
    if (ret->size >= sizeof b)
        r = sys_read(fd, b, sizeof b, 0);
    if (r == 0 && (ret->size < sizeof b || log_head_get(b, &h) < 0 || h.base))
        h.bytes = 0;
    if (h.bytes < sizeof b) /* no file says so of itself */
        h.bytes = 0;
    ret->bytes = least(ret->size, h.bytes ? h.bytes : LOG_FILE_BYTES_MAX);
    /* What has an ordinary size is read, whatever the file system says of holes in it. */
    ret->used = ret->bytes > LOG_PLAIN_BYTES ? data_end(fd, ret->bytes) : ret->bytes;
    if (r < 0)
        log_shut(ret);
    return r;
}

void log_shut(struct log_bytes *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
    free(f->b);
    f->b = NULL;
}

int log_get(struct log_bytes *f, uint64_t at, uint64_t n, const uint8_t **ret)
{
    if (at < f->from || at + n > f->from + f->n) {
        uint64_t from = at & ~7ull, want = least(at - from + n + AHEAD_BYTES, f->bytes - from);
        f->n = 0;
        if (want > f->cap) {
            free(f->b);
            f->b = malloc(want);
            f->cap = f->b ? want : 0;
        }
        f->why = f->b ? sys_read(f->fd, f->b, want, from) : -ENOMEM;
        if (f->why < 0)
            return f->why;
        f->from = from;
        f->n = want;
    }
    *ret = f->b + (at - f->from);
    return 0;
}

int log_frame_at(struct log_bytes *f, uint64_t at, struct log_frame *ret, uint64_t *ret_bytes)
{
    const uint8_t *b;
    uint64_t left = f->bytes - at, n = least(left, FRAME_LEAST);
    int r = log_get(f, at, n, &b);

    if (r == 0 && n > 8 && !memcmp(b, "HFRM", 4)) { /* all of it, when it may be one */
        uint64_t whole = round_up(LOG_FRAME_HEAD_BYTES + (uint64_t)ld32(b + 4) + 4, 8);
        if (ld32(b + 4) <= LOG_FRAME_BYTES_MAX && whole <= left) {
            n = whole > n ? whole : n;
            r = log_get(f, at, n, &b);
        }
    }
    return r < 0 ? r : log_frame_get(b, n, ret, ret_bytes);
}

uint64_t log_used(struct log_bytes *f)
{
    const uint8_t *b;

    while (f->used > LOG_HEAD_BYTES) {
        uint64_t n = least(f->used - LOG_HEAD_BYTES, AHEAD_BYTES);
        if (log_get(f, f->used - n, n, &b) < 0)
            break;
        uint64_t left = n;
        while (left > 0 && b[left - 1] == 0)
            left--;
        f->used -= n - left;
        if (left > 0)
            return f->used;
    }
    return LOG_HEAD_BYTES;
}

/* Where there is something at or behind `at`; frames lie at every eighth byte. */
static uint64_t over_hole(const struct log_bytes *f, uint64_t at, uint64_t end)
{
    off_t data = lseek(f->fd, (off_t)at, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? end : at;
    return (uint64_t)data > at + 8 ? (uint64_t)data & ~7ull : at;
}

uint64_t log_frame_after(struct log_bytes *f, uint64_t at, uint64_t end)
{
    struct log_frame one;
    uint64_t whole;

    for (; at < end && f->why == 0; at += 8) {
        if (at < f->from || at + FRAME_LEAST > f->from + f->n) /* it is to be read */
            at = over_hole(f, at, end);
        if (at < end && log_frame_at(f, at, &one, &whole) == 0)
            return at;
    }
    return end;
}
