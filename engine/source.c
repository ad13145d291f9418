/* source.c - see source.h. */
#include "engine/source.h"
#include "base/check.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    SOURCE_MAGIC = 0x63727573,
    /* Far enough to keep a fast disk busy while what came before is laid out, and little
     * beside any model: it is page cache that is used at once. */
    AHEAD_BYTES = 32 << 20,
    READ_BYTES_MAX = 1 << 30, /* the kernel's own limit is a little below 2 GiB */
};
struct source {
    uint32_t magic;
    const uint8_t *mem; /* NULL: a file */
    int fd;
    char *path;
    uint64_t bytes;
    struct file_stamp stamp;
    /* End of what the kernel was told to read; a stale read tells it the same twice. */
    _Atomic uint64_t ahead;
};

static int source_new(struct source **ret, const uint8_t *mem, uint64_t bytes)
{
    struct source *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->magic = SOURCE_MAGIC;
    s->mem = mem;
    s->bytes = bytes;
    s->fd = -1;
    *ret = s;
    return 0;
}

int source_memory(struct source **ret, const void *p, uint64_t bytes)
{
    return source_new(ret, p ? p : (const void *)"", bytes);
}

int source_open(struct source **ret, const char *path, struct errbuf *eb)
{
    struct source *s = NULL;
    struct stat st;
    int r = source_new(&s, NULL, 0);

    /* A pipe without a writer would keep us here for ever. */
    if (r == 0) {
        s->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        r = s->fd < 0 || fstat(s->fd, &st) < 0 ? -errno : 0;
    }
    if (r == 0 && S_ISDIR(st.st_mode))
        r = -EISDIR;
    if (r == 0 && !S_ISREG(st.st_mode)) {
        source_close(s);
        return err_set(eb, -EINVAL, "%s: not a regular file", path);
    }
    if (r == 0 && !(s->path = strdup(path)))
        r = -ENOMEM;
    if (r < 0) {
        source_close(s);
        return err_set(eb, r, "%s: %s", path, strerror(-r));
    }
    s->stamp = stamp_of(&st);
    s->bytes = s->stamp.bytes;
    *ret = s;
    return 0;
}

void source_close(struct source *s)
{
    if (!s)
        return;
    must_be(s, SOURCE_MAGIC);
    s->magic = 0;
    if (s->fd >= 0)
        close(s->fd);
    free(s->path);
    free(s);
}

uint64_t source_bytes(const struct source *s)
{
    must_be(s, SOURCE_MAGIC);
    return s->bytes;
}

const struct file_stamp *source_stamp(const struct source *s)
{
    must_be(s, SOURCE_MAGIC);
    return &s->stamp;
}

/* In large pieces, once each: a call walks the pages it names, also those already there. */
static void ahead(struct source *s, uint64_t off, uint64_t bytes)
{
    uint64_t end = off + bytes + AHEAD_BYTES;
    uint64_t from = atomic_load_explicit(&s->ahead, memory_order_relaxed);

    if (from < off || from > end)
        from = off; /* the reader went elsewhere */
    end = end < s->bytes ? end : s->bytes;
    if (end <= from || (end - from < AHEAD_BYTES / 4 && end < s->bytes))
        return;
    atomic_store_explicit(&s->ahead, end, memory_order_relaxed);
    (void)posix_fadvise(s->fd, (off_t)from, (off_t)(end - from), POSIX_FADV_WILLNEED);
}

int source_read(struct source *s, uint64_t off, void *to, uint64_t bytes, struct errbuf *eb)
{
    unsigned long long from = off, end = off + bytes;
    struct stat st;

    must_be(s, SOURCE_MAGIC);
    must(off <= s->bytes && bytes <= s->bytes - off);
    if (s->mem) {
        memcpy(to, s->mem + off, bytes);
        return 0;
    }
    ahead(s, off, bytes);
    for (uint64_t done = 0; done < bytes;) {
        uint64_t want = bytes - done < READ_BYTES_MAX ? bytes - done : READ_BYTES_MAX;
        ssize_t n = pread(s->fd, (uint8_t *)to + done, want, (off_t)(off + done));
        if (n < 0 && errno != EINTR) {
            int e = errno;
            return err_set(eb, -e, "bytes %llu to %llu cannot be read: %s", from, end,
                           strerror(e));
        }
        if (n == 0)
            return err_set(eb, E_CORRUPT,
                           "bytes %llu to %llu are needed and the file ended at %lld: was it "
                           "replaced or truncated?  Load it again when it is whole",
                           from, end,
                           fstat(s->fd, &st) < 0 ? (long long)(off + done)
                                                 : (long long)st.st_size);
        done += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

int source_same(const struct source *s, struct errbuf *eb)
{
    struct file_stamp now = {0};

    must_be(s, SOURCE_MAGIC);
    if (s->mem)
        return 0;
    int r = stamp_read(s->path, &now);
    if (r < 0)
        return err_set(eb, -ESTALE, "the file went away while it was read: %s", strerror(-r));
    if (stamp_same(&now, &s->stamp))
        return 0;
    if (now.dev != s->stamp.dev || now.ino != s->stamp.ino)
        return err_set(eb, -ESTALE,
                       "another file took its place while it was read; load it again");
    return err_set(eb, -ESTALE,
                   "the file changed while it was read (%llu bytes before, %llu now); load it "
                   "again when nobody writes to it",
                   (unsigned long long)s->stamp.bytes, (unsigned long long)now.bytes);
}
