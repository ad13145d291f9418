/* calls.h - a disk below the system calls: what of a directory would be left after a power cut.
 *
 * For one test program that includes it: it takes the place of the C library's open, pwrite,
 * fdatasync, rename and their kin, for that program and for the libraries it links (LMDB's own
 * writes come through here as well).  Between calls_begin and calls_end everything that happens
 * below one directory is written down, with its bytes and with when each call began and ended.
 * calls_cut then makes, as often as is wanted, the directory that a disk may hold when the power
 * goes at the n-th event:
 *   data      a write is there when its file was synced after it, or it went through a
 *             descriptor with O_DSYNC; else each 512-byte sector is there or not; so is a size;
 *   names     of the names that were made, moved and removed in a directory that was not synced
 *             since, the first few are there; a file's sync does not make its name durable.
 * Or kill -9 instead: all that was done is there.
 *
 * Not seen: writes through a mapping (the store has none but LMDB's lock file, which is left
 * out) and through a ring.  Threads: any; an event has one place among all.  Header only. */
#ifndef TESTS_SIM_CALLS_H
#define TESTS_SIM_CALLS_H
#undef _FORTIFY_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What a control leaves out: each must be caught by whoever judges the directories. */
enum calls_wrong {
    CALLS_RIGHT,
    CALLS_NO_SYNC,      /* no sync reaches the disk at all */
    CALLS_NO_DIR_SYNC,  /* none of a directory */
    CALLS_NO_FILE_SYNC, /* none of a file whose path holds `wrong_path` */
};
struct calls_opts {
    const char *root; /* everything below it */
    enum calls_wrong wrong;
    const char *wrong_path;
};
void calls_begin(const struct calls_opts *o);
/* Something was said to the outside: it must hold at every cut behind this event.  Returns the
 * event's number. */
uint64_t calls_mark(void);
uint64_t calls_events(void);
/* One of the events soon after a name was made, moved or removed: what was not synced shows there. */
uint64_t calls_names(uint64_t random);
void calls_end(void); /* stops writing down; calls_cut may be asked until the next begin */
/* The directory as it is on the disk when the power goes (or the process, `kill`) at event n. */
void calls_cut(uint64_t n, bool kill, uint64_t seed, const char *to);

/* --- what was written down -------------------------------------------------------------------- */

enum { CALLS_SECTOR = 512, CALLS_NAME = 128 };
enum call_kind { CALL_WRITE, CALL_SIZE, CALL_SYNC, CALL_NAME, CALL_UNNAME, CALL_MARK };

struct call_node { /* a file or a directory */
    dev_t dev;
    ino_t ino;
    bool dir, gone; /* gone: its number may be another's by now */
    bool unsynced;  /* its syncs are left out */
    uint8_t *base;  /* what it held at the beginning */
    uint64_t base_bytes;
    struct call_node *next;
};
struct call_name { /* a name that was there at the beginning */
    struct call_node *dir, *node;
    char name[CALLS_NAME];
    struct call_name *next;
};
struct call {
    enum call_kind kind;
    bool dsync, void_; /* void: the call failed */
    uint64_t end;      /* the event count when it ended; UINT64_MAX: it has not */
    struct call_node *node, *dir;
    uint64_t off, bytes;
    uint8_t *data;
    char name[CALLS_NAME];
};
static struct {
    pthread_mutex_t lock;
    bool on;
    pid_t pid; /* a child of the store writes down nothing */
    struct calls_opts o;
    char root[PATH_MAX];
    struct call_node *nodes;
    struct call_name *names;
    struct call *call;
    uint64_t n, cap;
} calls_ = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int calls_raw_open(const char *path, int flags, mode_t mode)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static bool calls_watching(void)
{
    return __atomic_load_n(&calls_.on, __ATOMIC_ACQUIRE) && getpid() == calls_.pid;
}

/* Below the root, and not LMDB's lock file, which says nothing after a restart. */
static bool calls_ours(const char *path)
{
    size_t n = strlen(calls_.root), all = strlen(path);

    return strncmp(path, calls_.root, n) == 0 && (path[n] == '/' || !path[n]) &&
           !(all > 5 && strcmp(path + all - 5, "-lock") == 0);
}

static struct call_node *calls_node_of(const struct stat *st)
{
    struct call_node *x = calls_.nodes;

    while (x && (x->gone || x->dev != st->st_dev || x->ino != st->st_ino))
        x = x->next;
    return x;
}

static struct call_node *calls_node_new(const struct stat *st, const char *path)
{
    struct call_node *x = calloc(1, sizeof *x);

    if (!x)
        abort();
    x->dev = st->st_dev;
    x->ino = st->st_ino;
    x->dir = S_ISDIR(st->st_mode);
    x->unsynced =
        calls_.o.wrong == CALLS_NO_SYNC || (calls_.o.wrong == CALLS_NO_DIR_SYNC && x->dir) ||
        (calls_.o.wrong == CALLS_NO_FILE_SYNC && !x->dir && strstr(path, calls_.o.wrong_path));
    x->next = calls_.nodes;
    calls_.nodes = x;
    return x;
}

static struct call_node *calls_node_at(const char *path)
{
    struct stat st;

    return lstat(path, &st) < 0 ? NULL : calls_node_of(&st);
}

/* The last name of a path, and the directory it is in; NULL: that is not ours. */
static struct call_node *calls_parent(const char *path, const char **ret_name)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');

    if (!slash || (size_t)(slash - path) >= sizeof dir || strlen(slash + 1) >= CALLS_NAME)
        return NULL;
    memcpy(dir, path, (size_t)(slash - path));
    dir[slash - path] = 0;
    *ret_name = slash + 1;
    return calls_node_at(dir);
}

/* Under the lock.  The pointer is good until the next one. */
static struct call *calls_add(enum call_kind kind, struct call_node *node)
{
    if (calls_.n == calls_.cap) {
        calls_.cap = calls_.cap ? 2 * calls_.cap : 4096;
        calls_.call = realloc(calls_.call, calls_.cap * sizeof *calls_.call);
        if (!calls_.call)
            abort();
    }
    struct call *c = &calls_.call[calls_.n++];
    memset(c, 0, sizeof *c);
    c->kind = kind;
    c->node = node;
    c->end = UINT64_MAX;
    return c;
}

/* Ends event `at`, whose call answered r; hands r and errno on. */
static ssize_t calls_ended(uint64_t at, ssize_t r)
{
    int e = errno;

    if (at == UINT64_MAX)
        return r;
    pthread_mutex_lock(&calls_.lock);
    struct call *c = &calls_.call[at];
    c->end = calls_.n;
    c->void_ = r < 0;
    if (r >= 0)
        c->bytes = (uint64_t)r;
    pthread_mutex_unlock(&calls_.lock);
    errno = e;
    return r;
}

/* A name appears or goes: begun and ended at once, since the real call was made under the lock. */
static void calls_named(enum call_kind kind, const char *path, struct call_node *node)
{
    const char *name;
    struct call_node *dir = calls_parent(path, &name);

    if (!dir)
        return;
    struct call *c = calls_add(kind, node);
    c->dir = dir;
    snprintf(c->name, sizeof c->name, "%s", name);
    c->end = calls_.n;
}

/* --- the C library's entry points ----------------------------------------------------------------- */

static int calls_open(const char *path, int flags, mode_t mode)
{
    struct stat st;
    int fd;

    if (!calls_watching() || !(flags & O_CREAT) || !calls_ours(path))
        return calls_raw_open(path, flags, mode);
    pthread_mutex_lock(&calls_.lock);
    bool was = lstat(path, &st) == 0;
    fd = calls_raw_open(path, flags, mode);
    if (fd >= 0 && fstat(fd, &st) == 0) {
        struct call_node *x = calls_node_of(&st);
        if (!was) {
            if (x)
                x->gone = true;
            calls_named(CALL_NAME, path, calls_node_new(&st, path));
        } else if (x && (flags & O_TRUNC)) {
            struct call *c = calls_add(CALL_SIZE, x);
            c->end = calls_.n;
        }
    }
    pthread_mutex_unlock(&calls_.lock);
    return fd;
}

/* Begins an event on a descriptor of ours; UINT64_MAX: it is not. */
static uint64_t calls_on_fd(int fd, enum call_kind kind, const struct iovec *v, int n_v,
                            uint64_t off)
{
    struct stat st;
    uint64_t at = UINT64_MAX, bytes = 0, put = 0;

    if (!calls_watching() || fstat(fd, &st) < 0)
        return at;
    pthread_mutex_lock(&calls_.lock);
    struct call_node *x = calls_node_of(&st);
    if (x && !(kind == CALL_SYNC && x->unsynced)) {
        for (int i = 0; i < n_v; i++)
            bytes += v[i].iov_len;
        at = calls_.n;
        struct call *c = calls_add(kind, x);
        c->off = off;
        c->bytes = bytes;
        c->dsync = !x->unsynced && (fcntl(fd, F_GETFL) & (O_DSYNC | O_SYNC)) != 0;
        c->data = bytes ? malloc(bytes) : NULL;
        for (int i = 0; i < n_v; i++) {
            memcpy(c->data + put, v[i].iov_base, v[i].iov_len);
            put += v[i].iov_len;
        }
    }
    pthread_mutex_unlock(&calls_.lock);
    return at;
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t off);
ssize_t pwrite(int fd, const void *buf, size_t n, off_t off)
{
    struct iovec v = {(void *)(uintptr_t)buf, n};
    uint64_t at = calls_on_fd(fd, CALL_WRITE, &v, 1, (uint64_t)off);

    return calls_ended(at, syscall(SYS_pwrite64, fd, buf, n, off));
}
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off);
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
    uint64_t at = calls_on_fd(fd, CALL_WRITE, v, n, (uint64_t)off);

    return calls_ended(at, syscall(SYS_pwritev, fd, v, n, off, 0L));
}
ssize_t write(int fd, const void *buf, size_t n);
ssize_t write(int fd, const void *buf, size_t n)
{
    struct iovec v = {(void *)(uintptr_t)buf, n};
    off_t off = calls_watching() ? lseek(fd, 0, SEEK_CUR) : -1;
    uint64_t at = off < 0 ? UINT64_MAX : calls_on_fd(fd, CALL_WRITE, &v, 1, (uint64_t)off);

    return calls_ended(at, syscall(SYS_write, fd, buf, n));
}
ssize_t writev(int fd, const struct iovec *v, int n);
ssize_t writev(int fd, const struct iovec *v, int n)
{
    off_t off = calls_watching() ? lseek(fd, 0, SEEK_CUR) : -1;
    uint64_t at = off < 0 ? UINT64_MAX : calls_on_fd(fd, CALL_WRITE, v, n, (uint64_t)off);

    return calls_ended(at, syscall(SYS_writev, fd, v, n));
}

static int calls_sync(int fd, long call)
{
    uint64_t at = calls_on_fd(fd, CALL_SYNC, NULL, 0, 0);

    /* The disk is imagined: nothing has to wait for the real one. */
    (void)call;
    return (int)calls_ended(at, fcntl(fd, F_GETFL) < 0 ? -1 : 0);
}
int fsync(int fd);
int fsync(int fd)
{
    return calls_watching() ? calls_sync(fd, SYS_fsync) : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd);
int fdatasync(int fd)
{
    return calls_watching() ? calls_sync(fd, SYS_fdatasync) : (int)syscall(SYS_fdatasync, fd);
}
int ftruncate(int fd, off_t bytes);
int ftruncate(int fd, off_t bytes)
{
    uint64_t at = calls_on_fd(fd, CALL_SIZE, NULL, 0, (uint64_t)bytes);

    return (int)calls_ended(at, syscall(SYS_ftruncate, fd, bytes));
}
int fallocate(int fd, int mode, off_t off, off_t bytes);
int fallocate(int fd, int mode, off_t off, off_t bytes)
{
    struct stat st;
    bool grows = mode == 0 && fstat(fd, &st) == 0 && st.st_size < off + bytes;
    uint64_t at =
        grows ? calls_on_fd(fd, CALL_SIZE, NULL, 0, (uint64_t)(off + bytes)) : UINT64_MAX;

    return (int)calls_ended(at, syscall(SYS_fallocate, fd, mode, off, bytes));
}
int posix_fallocate(int fd, off_t off, off_t bytes);
int posix_fallocate(int fd, off_t off, off_t bytes)
{
    return fallocate(fd, 0, off, bytes) < 0 ? errno : 0;
}
int open(const char *path, int flags, ...);
int open(const char *path, int flags, ...)
{
    va_list ap;

    va_start(ap, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return calls_open(path, flags, mode);
}

/* Directories' own calls, made under the lock so that names change in one order. */
static int calls_renamed(const char *from, const char *to, unsigned flags)
{
    if (!calls_watching() || !calls_ours(from))
        return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags);
    pthread_mutex_lock(&calls_.lock);
    struct call_node *x = calls_node_at(from), *over = calls_node_at(to);
    int r = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags), e = errno;
    if (r == 0 && x) {
        if (over && over != x)
            over->gone = true;
        /* One event to the disk: the old name goes with the new one's coming. */
        calls_named(CALL_NAME, to, x);
        struct call_node *was = calls_.n ? calls_.call[calls_.n - 1].dir : NULL;
        const char *name;
        struct call_node *dir = calls_parent(from, &name);
        if (dir && dir == was) {
            struct call *c = &calls_.call[calls_.n - 1];
            c->data = (uint8_t *)strdup(name);
        } else {
            calls_named(CALL_UNNAME, from, x);
        }
    }
    pthread_mutex_unlock(&calls_.lock);
    errno = e;
    return r;
}
int rename(const char *from, const char *to);
int rename(const char *from, const char *to)
{
    return calls_renamed(from, to, 0);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags);
int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
    if (a != AT_FDCWD || b != AT_FDCWD)
        return (int)syscall(SYS_renameat2, a, from, b, to, flags);
    return calls_renamed(from, to, flags);
}
int unlink(const char *path);
int unlink(const char *path)
{
    if (!calls_watching() || !calls_ours(path))
        return (int)syscall(SYS_unlink, path);
    pthread_mutex_lock(&calls_.lock);
    struct stat st = {0};
    (void)lstat(path, &st);
    struct call_node *x = calls_node_of(&st);
    int r = (int)syscall(SYS_unlink, path), e = errno;
    if (r == 0)
        calls_named(CALL_UNNAME, path, x);
    if (r == 0 && x && st.st_nlink < 2)
        x->gone = true;
    pthread_mutex_unlock(&calls_.lock);
    errno = e;
    return r;
}
int link(const char *from, const char *to);
int link(const char *from, const char *to)
{
    if (!calls_watching() || !calls_ours(to))
        return (int)syscall(SYS_link, from, to);
    pthread_mutex_lock(&calls_.lock);
    struct call_node *x = calls_node_at(from);
    int r = (int)syscall(SYS_link, from, to), e = errno;
    if (r == 0 && x)
        calls_named(CALL_NAME, to, x);
    pthread_mutex_unlock(&calls_.lock);
    errno = e;
    return r;
}
int mkdir(const char *path, mode_t mode);
int mkdir(const char *path, mode_t mode)
{
    struct stat st;

    if (!calls_watching() || !calls_ours(path))
        return (int)syscall(SYS_mkdir, path, mode);
    pthread_mutex_lock(&calls_.lock);
    int r = (int)syscall(SYS_mkdir, path, mode), e = errno;
    if (r == 0 && lstat(path, &st) == 0)
        calls_named(CALL_NAME, path, calls_node_new(&st, path));
    pthread_mutex_unlock(&calls_.lock);
    errno = e;
    return r;
}
int rmdir(const char *path);
int rmdir(const char *path)
{
    if (!calls_watching() || !calls_ours(path))
        return (int)syscall(SYS_rmdir, path);
    pthread_mutex_lock(&calls_.lock);
    struct call_node *x = calls_node_at(path);
    int r = (int)syscall(SYS_rmdir, path), e = errno;
    if (r == 0)
        calls_named(CALL_UNNAME, path, x);
    if (r == 0 && x)
        x->gone = true;
    pthread_mutex_unlock(&calls_.lock);
    errno = e;
    return r;
}

/* --- beginning and end ---------------------------------------------------------------------------- */

/* What lies below path is durable: it was there before. */
static void calls_base(const char *path, struct call_node *dir, const char *name)
{
    struct stat st;

    if (lstat(path, &st) < 0 || (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) ||
        !calls_ours(path))
        return;
    struct call_node *x = calls_node_of(&st);
    bool seen = x != NULL;
    if (!x)
        x = calls_node_new(&st, path);
    if (dir) {
        struct call_name *n = calloc(1, sizeof *n);
        n->dir = dir;
        n->node = x;
        snprintf(n->name, sizeof n->name, "%s", name);
        n->next = calls_.names;
        calls_.names = n;
    }
    if (!x->dir && !seen) {
        int fd = calls_raw_open(path, O_RDONLY | O_CLOEXEC, 0);
        x->base_bytes = (uint64_t)st.st_size;
        x->base = malloc(x->base_bytes + 1);
        if (fd < 0 || !x->base ||
            pread(fd, x->base, x->base_bytes, 0) != (ssize_t)x->base_bytes)
            abort();
        close(fd);
    }
    DIR *d = x->dir ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        char below[PATH_MAX];
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") &&
            snprintf(below, sizeof below, "%s/%s", path, e->d_name) < PATH_MAX)
            calls_base(below, x, e->d_name);
    }
    if (d)
        closedir(d);
}

static void calls_forget(void)
{
    for (uint64_t i = 0; i < calls_.n; i++)
        free(calls_.call[i].data);
    calls_.n = 0;
    while (calls_.nodes) {
        struct call_node *x = calls_.nodes;
        calls_.nodes = x->next;
        free(x->base);
        free(x);
    }
    while (calls_.names) {
        struct call_name *x = calls_.names;
        calls_.names = x->next;
        free(x);
    }
}

void calls_begin(const struct calls_opts *o)
{
    calls_forget();
    calls_.o = *o;
    calls_.pid = getpid();
    snprintf(calls_.root, sizeof calls_.root, "%s", o->root);
    calls_base(o->root, NULL, NULL);
    if (!calls_.nodes)
        abort(); /* the root is there before: its own name is not the store's business */
    __atomic_store_n(&calls_.on, true, __ATOMIC_RELEASE);
}

void calls_end(void)
{
    __atomic_store_n(&calls_.on, false, __ATOMIC_RELEASE);
}

uint64_t calls_mark(void)
{
    pthread_mutex_lock(&calls_.lock);
    struct call *c = calls_add(CALL_MARK, NULL);
    c->end = calls_.n;
    uint64_t at = calls_.n - 1;
    pthread_mutex_unlock(&calls_.lock);
    return at;
}

uint64_t calls_events(void)
{
    return calls_.n;
}

uint64_t calls_names(uint64_t random)
{
    uint64_t n = 0, pick;

    for (uint64_t i = 0; i < calls_.n; i++)
        n += calls_.call[i].kind == CALL_NAME || calls_.call[i].kind == CALL_UNNAME;
    pick = n ? random / 8 % n : 0;
    for (uint64_t i = 0; i < calls_.n; i++)
        if ((calls_.call[i].kind == CALL_NAME || calls_.call[i].kind == CALL_UNNAME) &&
            pick-- == 0)
            return i + 1 + random % 8 < calls_.n ? i + 1 + random % 8 : calls_.n;
    return calls_.n;
}

/* --- the cut ----------------------------------------------------------------------------------------- */

struct calls_image {
    uint64_t n, rand;
    bool kill;
};

static uint64_t calls_rand(struct calls_image *m)
{
    uint64_t z = (m->rand += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Was event i on the disk for certain, at the cut? */
static bool calls_durable(const struct calls_image *m, uint64_t i, const struct call_node *of)
{
    const struct call *c = &calls_.call[i];

    if (m->kill || (c->dsync && c->end <= m->n))
        return c->end <= m->n;
    for (uint64_t k = c->end; k < m->n; k++)
        if (calls_.call[k].kind == CALL_SYNC && calls_.call[k].node == of &&
            calls_.call[k].end <= m->n && !calls_.call[k].void_)
            return true;
    return false;
}

static void calls_put(uint8_t **b, uint64_t *bytes, uint64_t off, const uint8_t *p, uint64_t n)
{
    if (off + n > *bytes) {
        *b = realloc(*b, off + n + 1);
        if (!*b)
            abort();
        memset(*b + *bytes, 0, off + n - *bytes);
        *bytes = off + n;
    }
    if (n)
        memcpy(*b + off, p, n);
}

static void calls_apply(struct calls_image *m, uint64_t i, uint8_t **b, uint64_t *bytes)
{
    const struct call *c = &calls_.call[i];
    bool sure = calls_durable(m, i, c->node);
    uint64_t how = sure ? 1 : m->kill ? calls_rand(m) % 2 : calls_rand(m) % 4;

    if (how == 0)
        return;
    if (c->kind == CALL_SIZE) {
        if (c->off < *bytes)
            *bytes = c->off;
        else
            calls_put(b, bytes, c->off, NULL, 0);
        return;
    }
    for (uint64_t at = 0; at < c->bytes; at += CALLS_SECTOR) {
        uint64_t n = c->bytes - at < CALLS_SECTOR ? c->bytes - at : CALLS_SECTOR;
        if (how == 1 || calls_rand(m) % 2)
            calls_put(b, bytes, c->off + at, c->data + at, n);
    }
}

static void calls_file(struct calls_image *m, const struct call_node *x, const char *to)
{
    uint64_t bytes = x->base_bytes;
    uint8_t *b = malloc(bytes + 1);
    int fd = calls_raw_open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (!b || fd < 0)
        abort();
    memcpy(b, x->base ? x->base : (const uint8_t *)"", bytes);
    for (uint64_t i = 0; i < m->n; i++)
        if (calls_.call[i].node == x && !calls_.call[i].void_ &&
            (calls_.call[i].kind == CALL_WRITE || calls_.call[i].kind == CALL_SIZE))
            calls_apply(m, i, &b, &bytes);
    for (uint64_t at = 0; at < bytes;) { /* files are mostly holes */
        uint64_t n = bytes - at < 4096 ? bytes - at : 4096;
        bool zero = b[at] == 0 && memcmp(b + at, b + at + 1, n - 1) == 0;
        if (!zero && syscall(SYS_pwrite64, fd, b + at, n, at) != (ssize_t)n)
            abort();
        at += n;
    }
    if (syscall(SYS_ftruncate, fd, bytes) < 0)
        abort();
    close(fd);
    free(b);
}

struct calls_entry {
    const char *name;
    const struct call_node *node;
};

static void calls_entry_set(struct calls_entry *e, uint32_t *n, const char *name,
                            const struct call_node *node)
{
    uint32_t i = 0;

    while (i < *n && strcmp(e[i].name, name))
        i++;
    if (i == *n)
        e[(*n)++].name = name;
    e[i].node = node;
}

/* Names of a directory change in order: those that were synced, then some of the next. */
static void calls_dir(struct calls_image *m, const struct call_node *x, const char *to)
{
    enum { ENTRIES = 4096 };
    struct calls_entry *e = calloc(ENTRIES, sizeof *e);
    uint32_t n = 0, left = 0;
    bool lost = false;
    char below[PATH_MAX];

    (void)syscall(SYS_mkdir, to, 0700);
    for (const struct call_name *b = calls_.names; b; b = b->next)
        if (b->dir == x)
            calls_entry_set(e, &n, b->name, b->node);
    for (uint64_t i = 0; i < m->n; i++) {
        const struct call *c = &calls_.call[i];
        if (c->dir == x && !m->kill && !calls_durable(m, i, x))
            left++;
    }
    uint64_t keep = left ? calls_rand(m) % (left + 1) : 0;
    for (uint64_t i = 0; i < m->n && !lost; i++) {
        const struct call *c = &calls_.call[i];
        if (c->dir != x)
            continue;
        if (!m->kill && !calls_durable(m, i, x)) {
            lost = keep == 0;
            keep -= !lost;
        }
        if (lost)
            break;
        if (c->kind == CALL_NAME && c->data) /* a name that moved */
            calls_entry_set(e, &n, (const char *)c->data, NULL);
        calls_entry_set(e, &n, c->name, c->kind == CALL_NAME ? c->node : NULL);
        if (n > ENTRIES - 4)
            abort();
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!e[i].node || snprintf(below, sizeof below, "%s/%s", to, e[i].name) >= PATH_MAX)
            continue;
        if (e[i].node->dir)
            calls_dir(m, e[i].node, below);
        else
            calls_file(m, e[i].node, below);
    }
    free(e);
}

void calls_cut(uint64_t n, bool kill, uint64_t seed, const char *to)
{
    struct calls_image m = {.n = n, .rand = seed, .kill = kill};
    struct call_node *root = calls_.nodes;

    while (root->next) /* the first that was noted */
        root = root->next;
    calls_dir(&m, root, to);
}

#endif
