/* sys.h - the blocking file calls of open and of the commit thread, in one place.
 *
 * Every call finishes short transfers, retries EINTR and EAGAIN (bounded), returns 0 or a
 * negative code, and passes a hook before and after: tests fail the n-th call there, and the
 * power-cut harness learns there what has reached the disk.  The hook is NULL in production.
 * Any thread; counters are atomic. */
#ifndef KVSTORE_SYS_H
#define KVSTORE_SYS_H
#include "base/err.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum sys_op {
    SYS_WRITE,  /* fd, buf, off, bytes */
    SYS_SYNC,   /* fd */
    SYS_ALLOC,  /* fd, bytes */
    SYS_MAKE,   /* path: a whole new file appears under its name, synced */
    SYS_UNLINK, /* path */
    SYS_COMMIT, /* an index transaction */
    SYS_OP_
};
struct sys_event {
    enum sys_op op;
    bool after; /* false: about to happen, a negative return makes it fail with that code */
    int fd;
    const char *path;
    const void *buf;
    uint64_t off, bytes;
};
struct sys {
    int (*hook)(void *user, const struct sys_event *e);
    void *user;
    bool no_fsync;
    _Atomic uint64_t bytes_written, syncs;
};

int sys_hook(struct sys *y, enum sys_op op, bool after, int fd, const char *path,
             const void *buf, uint64_t off, uint64_t bytes);
int sys_write(struct sys *y, int fd, const void *buf, uint64_t bytes, uint64_t off);
int sys_read(int fd, void *buf, uint64_t bytes, uint64_t off); /* short: -ENODATA */
int sys_sync(struct sys *y, int fd);
int sys_alloc(struct sys *y, int fd, uint64_t bytes); /* size becomes bytes, space is taken */
int sys_sync_dir(struct sys *y, const char *path);
int sys_sync_parent(struct sys *y, const char *path); /* of the directory that it is in */
int sys_unlink(struct sys *y, const char *path);      /* missing is fine */
/* 0700; there already is fine.  Its name is durable when this returns, where the directory above
 * may be read at all. */
int sys_mkdir(struct sys *y, const char *path);
/* A file takes a name that nobody has: -EEXIST where something has it, which stays as it is.  For
 * every new name the store gives: what it did not list may be there all the same. */
int sys_rename_new(const char *from, const char *to);
/* A new file under path that is whole or absent: made beside it, allocated (alloc_bytes may
 * be 0), head written at its start, synced, renamed, directory synced.  It replaces none: -EEXIST. */
int sys_make(struct sys *y, const char *path, const void *head, uint64_t head_bytes,
             uint64_t alloc_bytes);
/* The same with the head once more in the last bytes of the file; alloc_bytes is not 0. */
int sys_make_twice(struct sys *y, const char *path, const void *head, uint64_t head_bytes,
                   uint64_t alloc_bytes);
/* A file to be read, and nothing else: -EISDIR, -ENXIO (a pipe, a socket, a device: opening one
 * may wait for ever), -errno. */
int sys_open_plain(const char *path);
/* What stands under a name is a file, or nothing: 0.  -ELOOP: a link, whatever it leads to; -EISDIR,
 * -ENXIO, -errno. */
int sys_plain(const char *path);
/* A name that leads to something, or is not there: 0.  A link to what is missing now (a disk that
 * is not mounted) says no more than that: why it leads nowhere, -ENOENT for one. */
int sys_leads(const char *path);
/* A name that only the store gives, and only for a time: a file or a link there goes, what a link
 * leads to stays.  Anything else is not ours: -EISDIR, -ENXIO, -errno, and words. */
int sys_clear(const char *path, struct errbuf *eb);
int sys_fresh(const char *path); /* cleared and made: a descriptor, -errno */
/* What to do about that code of that path; typed has room for what is to be typed. */
const char *sys_remedy(int code, const char *path, char *typed, size_t cap);
/* Why there is no start: "cannot VERB PATH", the reason, what to do.  Returns code. */
int sys_refuse(struct errbuf *eb, int code, const char *verb, const char *path);
/* What could not be read is not damage: the same. */
int sys_unread(struct errbuf *eb, int code, const char *path);
/* A lock file that is there must be a file this user may write, and no link to one, or whoever
 * opens it blames another: words that name it.  0: it is, or there is none. */
int sys_lock_ok(const char *path, struct errbuf *eb);
/* Renames what is damaged to NAME.bad-TIME beside it and writes that path into ret. */
int sys_set_aside(struct sys *y, const char *path, char *ret, size_t cap);
/* The same with path still there, as a second name; once for one file. */
int sys_link_aside(struct sys *y, const char *path, char *ret, size_t cap);
/* Space taken for a file beyond its end, its size unchanged.  May fail: then there is none. */
void sys_reserve(const char *path, uint64_t bytes);
/* Makes a file when missing (it follows no link) and takes blocks for its first bytes; it grows to that size.
 * -ENOSPC: the disk has none, and a shared mapping of the file would fault. */
int sys_take(const char *path, uint64_t bytes);
/* A code that says there is no room (a disk, a quota, a limit of file sizes): not for good. */
bool sys_full(int code);
/* Such a code as others may have it: -EFBIG, or -ENOSPC, as -EDQUOT is a limit of the store's own. */
int sys_full_as(int code);
/* Whether a file whose bytes beyond its end mean nothing can grow: a page is written there.  0, or
 * what became of it. */
int sys_grows(int fd);
/* Bytes this thread has ever passed to write calls, by the kernel's count; 0: unknown. */
uint64_t sys_thread_wrote(void);
/* Whether the name leads to that open file; also when nobody can tell. */
bool sys_same(const char *path, int fd);
uint64_t sys_free_bytes(const char *path);  /* of its file system, for us */
uint64_t sys_taken_bytes(const char *path); /* blocks of a file; 0 when missing */

#endif
