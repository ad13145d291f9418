/* sys.c - see sys.h. */
#include "kvstore/sys.h"
#include "base/access.h"
#include "base/dirlist.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { TRIES_MAX = 100 };

int sys_hook(struct sys *y, enum sys_op op, bool after, int fd, const char *path,
             const void *buf, uint64_t off, uint64_t bytes)
{
    struct sys_event e = {op, after, fd, path, buf, off, bytes};

    if (!y->hook)
        return 0;
    for (int tries = 0;; tries++) {
        int r = y->hook(y->user, &e);
        if (after || (r != -EINTR && r != -EAGAIN))
            return r;
        if (tries == TRIES_MAX)
            return -EIO;
    }
}

bool sys_full(int code)
{
    return code == -ENOSPC || code == -EDQUOT || code == -EFBIG;
}

int sys_full_as(int code)
{
    return code == -EFBIG ? code : -ENOSPC;
}

int sys_grows(int fd)
{
    uint8_t page[4096];
    uint64_t at = 0;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    memset(page, 0x55, sizeof page); /* no hole, where a file system makes some of zeros */
    for (int tries = 0; at < sizeof page;) {
        ssize_t n = pwrite(fd, page + at, sizeof page - at, st.st_size + (off_t)at);
        if (n > 0)
            at += (uint64_t)n;
        else if (n == 0 || errno != EINTR || ++tries > TRIES_MAX)
            return n == 0 ? -EIO : -errno;
    }
    return 0;
}

int sys_write(struct sys *y, int fd, const void *buf, uint64_t bytes, uint64_t off)
{
    int r = sys_hook(y, SYS_WRITE, false, fd, NULL, buf, off, bytes);
    uint64_t at = 0;

    for (int tries = 0; r == 0 && at < bytes;) {
        ssize_t n = pwrite(fd, (const char *)buf + at, bytes - at, (off_t)(off + at));
        if (n > 0) {
            at += (uint64_t)n;
            tries = 0;
        } else if (n == 0 || (errno != EINTR && errno != EAGAIN) || ++tries > TRIES_MAX) {
            r = n == 0 ? -EIO : -errno;
        }
    }
    if (r < 0)
        return r;
    y->bytes_written += bytes;
    (void)sys_hook(y, SYS_WRITE, true, fd, NULL, buf, off, bytes);
    return 0;
}

int sys_read(int fd, void *buf, uint64_t bytes, uint64_t off)
{
    uint64_t at = 0;

    while (at < bytes) {
        ssize_t n = pread(fd, (char *)buf + at, bytes - at, (off_t)(off + at));
        if (n == 0)
            return -ENODATA;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            at += (uint64_t)n;
    }
    return 0;
}

int sys_sync(struct sys *y, int fd)
{
    int r = sys_hook(y, SYS_SYNC, false, fd, NULL, NULL, 0, 0);

    if (r == 0 && !y->no_fsync && fdatasync(fd) < 0)
        r = -errno;
    if (r < 0)
        return r;
    y->syncs++;
    (void)sys_hook(y, SYS_SYNC, true, fd, NULL, NULL, 0, 0);
    return 0;
}

int sys_alloc(struct sys *y, int fd, uint64_t bytes)
{
    int r = sys_hook(y, SYS_ALLOC, false, fd, NULL, NULL, 0, bytes);

    if (r < 0)
        return r;
    if (fallocate(fd, 0, 0, (off_t)bytes) < 0) {
        if (errno != EOPNOTSUPP)
            return -errno;
        if (ftruncate(fd, (off_t)bytes) < 0) /* the file system cannot: take it as it comes */
            return -errno;
    }
    (void)sys_hook(y, SYS_ALLOC, true, fd, NULL, NULL, 0, bytes);
    return 0;
}

int sys_sync_dir(struct sys *y, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    if (!y->no_fsync && fsync(fd) < 0 && errno != EINVAL)
        r = -errno;
    close(fd);
    return r;
}

int sys_sync_parent(struct sys *y, const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');
    size_t n = !slash || slash == path ? 1 : (size_t)(slash - path);

    if (n >= sizeof dir)
        return -ENAMETOOLONG;
    memcpy(dir, slash ? path : ".", n);
    dir[n] = 0;
    return sys_sync_dir(y, dir);
}

int sys_unlink(struct sys *y, const char *path)
{
    int r = sys_hook(y, SYS_UNLINK, false, -1, path, NULL, 0, 0);

    if (r == 0 && unlink(path) < 0 && errno != ENOENT)
        r = -errno;
    if (r == 0)
        r = sys_sync_parent(y, path);
    if (r == 0)
        (void)sys_hook(y, SYS_UNLINK, true, -1, path, NULL, 0, 0);
    return r;
}

int sys_mkdir(struct sys *y, const char *path)
{
    int r = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;

    /* Also when it was there: whoever made it may have been killed before the sync. */
    if (r == 0 && (r = sys_sync_parent(y, path)) == -EACCES)
        r = 0;
    return r;
}

int sys_plain(const char *path)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
    return S_ISREG(st.st_mode)   ? 0
           : S_ISLNK(st.st_mode) ? -ELOOP
           : S_ISDIR(st.st_mode) ? -EISDIR
                                 : -ENXIO;
}

int sys_leads(const char *path)
{
    struct stat st;

    if (stat(path, &st) == 0)
        return 0;
    int e = errno;
    return e == ENOENT && lstat(path, &st) < 0 && errno == ENOENT ? 0 : -e;
}

int sys_clear(const char *path, struct errbuf *eb)
{
    int r = sys_plain(path);

    if (r == 0 || r == -ELOOP)
        r = unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR ? -errno : 0;
    return r < 0 ? sys_refuse(eb, r, "clear", path) : 0;
}

int sys_fresh(const char *path)
{
    int r = sys_clear(path, NULL), fd = -1;

    if (r == 0 && (fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0)
        r = -errno;
    return r < 0 ? r : fd;
}

int sys_rename_new(const char *from, const char *to)
{
    struct stat st;

    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    /* A file system without it (NFS): who has the store's lock is the only one who makes names. */
    if (lstat(to, &st) == 0)
        return -EEXIST;
    if (errno != ENOENT)
        return -errno;
    return rename(from, to) < 0 ? -errno : 0;
}

static int make(struct sys *y, const char *path, const void *head, uint64_t head_bytes,
                uint64_t alloc_bytes, bool twice)
{
    char tmp[4096];
    int fd, r = sys_hook(y, SYS_MAKE, false, -1, path, NULL, 0, 0);

    if (r < 0)
        return r;
    if ((size_t)snprintf(tmp, sizeof tmp, "%s.tmp", path) >= sizeof tmp)
        return -ENAMETOOLONG;
    fd = sys_fresh(tmp);
    if (fd < 0)
        return fd;
    if (alloc_bytes)
        r = sys_alloc(y, fd, alloc_bytes);
    if (r == 0 && head_bytes)
        r = sys_write(y, fd, head, head_bytes, 0);
    if (r == 0 && twice)
        r = sys_write(y, fd, head, head_bytes, alloc_bytes - head_bytes);
    if (r == 0 && !y->no_fsync && fsync(fd) < 0)
        r = -errno;
    close(fd);
    if (r == 0)
        r = sys_rename_new(tmp, path);
    if (r < 0) {
        (void)unlink(tmp);
        return r;
    }
    r = sys_sync_parent(y, path);
    if (r == 0)
        (void)sys_hook(y, SYS_MAKE, true, -1, path, NULL, 0, 0);
    else
        (void)unlink(path); /* ours: nothing was there */
    return r;
}

int sys_make(struct sys *y, const char *path, const void *head, uint64_t head_bytes,
             uint64_t alloc_bytes)
{
    return make(y, path, head, head_bytes, alloc_bytes, false);
}

int sys_make_twice(struct sys *y, const char *path, const void *head, uint64_t head_bytes,
                   uint64_t alloc_bytes)
{
    return make(y, path, head, head_bytes, alloc_bytes, true);
}

int sys_open_plain(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        r = -errno;
    else if (!S_ISREG(st.st_mode))
        r = S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

/* A link by its own name and where it leads: what is wrong is there. */
static bool link_remedy(const char *path, char *ret, size_t cap)
{
    char to[200];
    ssize_t n = readlink(path, to, sizeof to - 1);

    if (n <= 0)
        return false;
    to[n] = 0;
    snprintf(
        ret, cap,
        "it is a symbolic link to %s: put back what that should be (is its disk mounted?), "
        "or the right one in place of the link",
        to);
    return true;
}

const char *sys_remedy(int code, const char *path, char *typed, size_t cap)
{
    switch (code) {
    case -EROFS: return "mount its file system for writing";
    case -EACCES:
    case -EPERM:
        return access_remedy(path, typed, cap)
                   ? typed
                   : "give this user the right to read and write it (chown, chmod, mount)";
    case -EIO: return "the disk fails: copy the store to another one and start there";
    case -EMFILE:
    case -ENFILE: return "allow more open files (ulimit -n, LimitNOFILE=)";
    case -ENOMEM: return "free some memory, or allow more of it (ulimit -v, MemoryMax=)";
    case -EAGAIN: return "free some memory, or raise the limit of processes";
    case -ENOSPC:
    case -EDQUOT: return "free some space";
    case -EFBIG: return "let files be larger (ulimit -f, LimitFSIZE=)";
    case -ENOENT:
    case -ELOOP:
    case -ENOTDIR:
    case -EISDIR:
    case -ENXIO:
        return link_remedy(path, typed, cap) ? typed
               : code == -EISDIR             ? "a directory stands in its place: move it away"
               : code == -ENXIO   ? "what stands in its place is no file: move it away"
               : code == -ENOTDIR ? "what stands in its place is no directory: move it away"
                                  : "put it back";
    case -ETIMEDOUT: return "start again when the disk has less to do";
    default: return "remove the cause";
    }
}

int sys_refuse(struct errbuf *eb, int code, const char *verb, const char *path)
{
    char typed[400];

    return err_set(eb, code, "cannot %s %s: %s; nothing was changed; %s, then start again",
                   verb, path, err_str(code), sys_remedy(code, path, typed, sizeof typed));
}

int sys_unread(struct errbuf *eb, int code, const char *path)
{
    return sys_refuse(eb, code, "read", path);
}

int sys_lock_ok(const char *path, struct errbuf *eb)
{
    int r = sys_plain(path), fd;

    if (r == -ELOOP || r == -EISDIR || r == -ENXIO)
        return err_set(eb, r,
                       "%s is %s and should be a file: move it away, it is made again, then "
                       "start again; nothing was changed",
                       path,
                       r == -ELOOP    ? "a symbolic link"
                       : r == -EISDIR ? "a directory"
                                      : "a pipe, socket or device");
    if (r < 0)
        return sys_unread(eb, r, path);
    fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 && errno != EACCES && errno != EPERM) /* it is not the file's fault */
        return sys_refuse(eb, -errno, "open", path);
    if (fd < 0)
        return err_set(eb, -errno,
                       "cannot open %s for writing: %s; give it to this user (chown, chmod "
                       "600), or delete it, it is made again; then start again; nothing was "
                       "changed",
                       path, strerror(errno));
    close(fd);
    return 0;
}

/* A name beside path that nobody has. */
static int aside_name(const char *path, char *ret, size_t cap)
{
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    struct stat st;

    (void)strftime(when, sizeof when, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
    for (int i = 0;; i++) { /* a second one within a second gets a number */
        int n = i ? snprintf(ret, cap, "%s.bad-%s-%d", path, when, i)
                  : snprintf(ret, cap, "%s.bad-%s", path, when);
        if (n < 0 || (size_t)n >= cap)
            return -ENAMETOOLONG;
        if (lstat(ret, &st) < 0)
            return errno == ENOENT ? 0 : -errno;
    }
}

int sys_set_aside(struct sys *y, const char *path, char *ret, size_t cap)
{
    int r = sys_hook(y, SYS_UNLINK, false, -1, path, NULL, 0, 0);

    if (r == 0)
        r = aside_name(path, ret, cap);
    if (r < 0)
        return r;
    r = sys_rename_new(path, ret);
    if (r < 0)
        return r;
    r = sys_sync_parent(y, path);
    if (r == 0)
        (void)sys_hook(y, SYS_UNLINK, true, -1, path, NULL, 0, 0);
    return r;
}

/* A NAME.bad-* beside path that is the same file.  Links elsewhere are others', a backup's for
 * one.  Where the directory cannot be listed there is none: one too many does no harm. */
struct linked {
    const char *path, *name; /* the whole of it; its last part */
    const struct stat *st;
    char *ret;
    size_t cap;
};

static int linked_one(void *ctx, const char *e)
{
    struct linked *l = ctx;
    size_t n = strlen(l->name);
    int dir = (int)(l->name - l->path);
    struct stat other;

    return !strncmp(e, l->name, n) && !strncmp(e + n, ".bad-", 5) &&
           (size_t)snprintf(l->ret, l->cap, "%.*s%s", dir, l->path, e) < l->cap &&
           lstat(l->ret, &other) == 0 && other.st_ino == l->st->st_ino &&
           other.st_dev == l->st->st_dev;
}

static bool linked_aside(const char *path, const struct stat *st, char *ret, size_t cap)
{
    const char *slash = strrchr(path, '/');
    struct linked l = {path, slash ? slash + 1 : path, st, ret, cap};
    char dir[4096];

    if (st->st_nlink < 2 ||
        (size_t)snprintf(dir, sizeof dir, "%.*s", (int)(l.name - path), path) >= sizeof dir)
        return false;
    return dir_list(dir[0] ? dir : ".", linked_one, &l) == 1;
}

int sys_link_aside(struct sys *y, const char *path, char *ret, size_t cap)
{
    struct stat st;
    int r = stat(path, &st) < 0 ? -errno : 0;

    if (r == 0 && linked_aside(path, &st, ret, cap)) /* a killed start has done it already */
        return 0;
    if (r == 0)
        r = aside_name(path, ret, cap);
    if (r == 0 && link(path, ret) < 0)
        r = -errno;
    return r < 0 ? r : sys_sync_parent(y, path);
}

bool sys_same(const char *path, int fd)
{
    struct stat name, file;

    if (fstat(fd, &file) < 0)
        return true;
    if (stat(path, &name) < 0)
        return errno != ENOENT && errno != ENOTDIR;
    return name.st_ino == file.st_ino && name.st_dev == file.st_dev;
}

uint64_t sys_free_bytes(const char *path)
{
    struct statvfs v;

    return statvfs(path, &v) < 0 ? 0 : (uint64_t)v.f_bavail * v.f_frsize;
}

uint64_t sys_taken_bytes(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

void sys_reserve(const char *path, uint64_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    if (fd < 0)
        return;
    (void)fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
    close(fd);
}

int sys_take(const char *path, uint64_t bytes)
{
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600), r;

    if (fd < 0)
        return -errno;
    do
        r = -posix_fallocate(fd, 0, (off_t)bytes);
    while (r == -EINTR);
    close(fd);
    return r;
}

uint64_t sys_thread_wrote(void)
{
    char b[512];
    int fd = open("/proc/thread-self/io", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, b, sizeof b - 1);

    if (fd >= 0)
        close(fd);
    b[n > 0 ? n : 0] = 0;
    const char *w = strstr(b, "wchar: ");
    return w ? strtoull(w + 7, NULL, 10) : 0;
}
