/* logend.c - see logend.h. */
#include "kvstore/logend.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "kvstore/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

enum { END_BYTES = 16 };
static const uint32_t END_MAGIC = 0x444e4548; /* "HEND" */

/* Not among the files of the log: who looks at these looks at all that is there. */
static void end_path(const char *dir, char ret[PATH_MAX])
{
    snprintf(ret, PATH_MAX, "%s.end", dir);
}

uint32_t logend_get(const char *dir)
{
    uint8_t b[END_BYTES];
    char path[PATH_MAX];

    end_path(dir, path);
    int fd = sys_open_plain(path);
    if (fd < 0)
        return 0;
    int r = sys_read(fd, b, sizeof b, 0);
    close(fd);
    return r == 0 && ld32(b) == END_MAGIC && ld32(b + 12) == crc32c(0, b, 12) ? ld32(b + 4) : 0;
}

/* In place: what a cut leaves half written says nothing, and nothing else is in the file. */
int logend_put(struct sys *y, const char *dir, uint32_t number)
{
    uint8_t b[END_BYTES] = {0};
    char path[PATH_MAX];

    st32(b, END_MAGIC);
    st32(b + 4, number);
    st32(b + 12, crc32c(0, b, 12));
    end_path(dir, path);
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? sys_make(y, path, b, sizeof b, 0) : -errno;
    int r = sys_write(y, fd, b, sizeof b, 0);
    if (r == 0)
        r = sys_sync(y, fd);
    close(fd);
    return r;
}
