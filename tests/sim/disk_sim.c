/* disk_sim.c - see disk_sim.h. */
#include "tests/sim/disk_sim.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512 };

struct sim_write {
    uint64_t off, bytes;
    struct sim_write *next;
    uint8_t data[];
};
struct sim_file {
    char path[PATH_MAX];
    uint8_t *durable;
    uint64_t bytes;
    struct sim_write *pending, **tail;
    struct sim_file *next;
};

uint64_t disk_sim_rand(struct disk_sim *d)
{
    uint64_t z = (d->rand += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void disk_sim_init(struct disk_sim *d, const char *live, const char *cut, uint64_t seed,
                   uint64_t cut_at)
{
    memset(d, 0, sizeof *d);
    snprintf(d->live, sizeof d->live, "%s", live);
    snprintf(d->cut, sizeof d->cut, "%s", cut);
    d->rand = seed;
    d->cut_at = cut_at;
}

static void forget(struct sim_file *f)
{
    while (f->pending) {
        struct sim_write *w = f->pending;
        f->pending = w->next;
        free(w);
    }
    f->tail = &f->pending;
}

static void file_drop(struct disk_sim *d, struct sim_file *f)
{
    struct sim_file **at = &d->files;

    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    forget(f);
    free(f->durable);
    free(f);
}

void disk_sim_fini(struct disk_sim *d)
{
    while (d->files)
        file_drop(d, d->files);
}

static struct sim_file *file_at(struct disk_sim *d, const char *path)
{
    struct sim_file *f = d->files;

    while (f && strcmp(f->path, path))
        f = f->next;
    return f;
}

static struct sim_file *file_of(struct disk_sim *d, int fd)
{
    char link[64], path[PATH_MAX];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return NULL;
    path[n] = 0;
    return file_at(d, path); /* files still being made under another name are none */
}

/* A whole new file: what it holds now is durable. */
static void file_made(struct disk_sim *d, const char *path)
{
    struct stat st;
    struct sim_file *f = file_at(d, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (f)
        file_drop(d, f);
    f = calloc(1, sizeof *f);
    snprintf(f->path, sizeof f->path, "%s", path);
    f->tail = &f->pending;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        f->bytes = (uint64_t)st.st_size;
        f->durable = calloc(1, f->bytes + 1);
        if (pread(fd, f->durable, f->bytes, 0) != (ssize_t)f->bytes)
            abort();
    }
    close(fd);
    f->next = d->files;
    d->files = f;
}

static void apply(struct sim_file *f, const uint8_t *data, uint64_t off, uint64_t bytes)
{
    if (off + bytes > f->bytes) {
        f->durable = realloc(f->durable, off + bytes);
        memset(f->durable + f->bytes, 0, off + bytes - f->bytes);
        f->bytes = off + bytes;
    }
    memcpy(f->durable + off, data, bytes);
}

void disk_sim_wrote(struct disk_sim *d, int fd, const void *buf, uint64_t off, uint64_t bytes)
{
    struct sim_file *f = file_of(d, fd);

    if (!f)
        return;
    struct sim_write *w = malloc(sizeof *w + bytes);
    w->off = off;
    w->bytes = bytes;
    w->next = NULL;
    memcpy(w->data, buf, bytes);
    *f->tail = w;
    f->tail = &w->next;
}

/* --- the cut --------------------------------------------------------------------------------- */

static void tear(struct disk_sim *d, struct sim_file *f, const uint8_t *data, uint64_t off,
                 uint64_t bytes)
{
    /* None, all, or sector by sector. */
    uint64_t how = disk_sim_rand(d) % 4;

    if (how == 0)
        return;
    for (uint64_t at = 0; at < bytes; at += SECTOR) {
        uint64_t n = bytes - at < SECTOR ? bytes - at : SECTOR;
        if (how == 1 || disk_sim_rand(d) % 2)
            apply(f, data + at, off + at, n);
    }
}

static void tear_out(void *ctx, int fd, const struct io_req *q)
{
    struct disk_sim *d = ctx;
    struct sim_file *f = file_of(d, fd);

    if (f)
        tear(d, f, q->buf, q->off, q->len);
}

static void mkdirs(const char *path)
{
    char p[PATH_MAX];

    snprintf(p, sizeof p, "%s", path);
    for (char *c = p + 1; *c; c++)
        if (*c == '/') {
            *c = 0;
            (void)mkdir(p, 0700);
            *c = '/';
        }
}

static void put_file(const char *path, const uint8_t *data, uint64_t bytes)
{
    mkdirs(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || pwrite(fd, data, bytes, 0) != (ssize_t)bytes)
        abort();
    close(fd);
}

static void cut(struct disk_sim *d)
{
    char path[PATH_MAX];

    if (d->before_cut)
        d->before_cut(d->user);
    if (d->ring)
        ring_sim_out(d->ring, tear_out, d);
    for (struct sim_file *f = d->files; f; f = f->next) {
        for (struct sim_write *w = f->pending; w; w = w->next)
            tear(d, f, w->data, w->off, w->bytes);
        snprintf(path, sizeof path, "%s%s", d->cut, f->path + strlen(d->live));
        put_file(path, f->durable, f->bytes);
    }
    snprintf(path, sizeof path, "%s/index.mdb", d->live);
    file_made(d, path);
    struct sim_file *idx = file_at(d, path);
    snprintf(path, sizeof path, "%s/index.mdb", d->cut);
    put_file(path, idx->durable, idx->bytes);
    file_drop(d, idx);
    d->cut_done = true;
}

void disk_sim_event(struct disk_sim *d)
{
    if (!d->cut_done && ++d->events == d->cut_at)
        cut(d);
}

static int hook(void *user, const struct sys_event *e)
{
    struct disk_sim *d = user;
    struct sim_file *f;

    if (!e->after) {
        disk_sim_event(d);
        return 0;
    }
    switch (e->op) {
    case SYS_WRITE: disk_sim_wrote(d, e->fd, e->buf, e->off, e->bytes); break;
    case SYS_SYNC:
        f = file_of(d, e->fd);
        for (struct sim_write *w = f ? f->pending : NULL; w; w = w->next)
            apply(f, w->data, w->off, w->bytes);
        if (f)
            forget(f);
        break;
    case SYS_MAKE: file_made(d, e->path); break;
    case SYS_UNLINK:
        f = file_at(d, e->path);
        if (f)
            file_drop(d, f);
        break;
    default: break;
    }
    disk_sim_event(d);
    return 0;
}

struct kvs_env disk_sim_env(struct disk_sim *d)
{
    return (struct kvs_env){.ring = &ring_sim, .io_user = d, .sys_hook = hook, .sys_user = d};
}
