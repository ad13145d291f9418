/* host.c - see host.h: extents with their neighbours, a list of holes, a list by use. */
#include "kvstore/host.h"
#include "base/bounds.h"
#include "base/bytes.h"
#include "base/check.h"
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { HOST_MAGIC = 0x686f7374 };

struct host {
    uint32_t magic;
    uint8_t *base;
    uint64_t bytes, top;
    _Atomic uint64_t used; /* others look, for statistics */
    struct host_page *newest, *oldest, *holes;
    struct host_page *spare; /* descriptors, linked by right */
    void (*evict)(void *ctx, struct host_page *p);
    void *ctx;
};

static struct host_page *desc_take(struct host *h)
{
    struct host_page *p = h->spare;

    if (p)
        h->spare = p->right;
    else
        p = malloc(sizeof *p);
    if (p)
        *p = (struct host_page){0};
    return p;
}

static void desc_drop(struct host *h, struct host_page *p)
{
    p->right = h->spare;
    h->spare = p;
}

static void hole_link(struct host *h, struct host_page *p)
{
    p->used = false;
    p->newer = NULL;
    p->older = h->holes;
    if (h->holes)
        h->holes->newer = p;
    h->holes = p;
}

static void hole_unlink(struct host *h, struct host_page *p)
{
    if (p->newer)
        p->newer->older = p->older;
    else
        h->holes = p->older;
    if (p->older)
        p->older->newer = p->newer;
}

static void use_link(struct host *h, struct host_page *p)
{
    p->newer = NULL;
    p->older = h->newest;
    if (h->newest)
        h->newest->newer = p;
    else
        h->oldest = p;
    h->newest = p;
}

static void use_unlink(struct host *h, struct host_page *p)
{
    if (p->newer)
        p->newer->older = p->older;
    else
        h->newest = p->older;
    if (p->older)
        p->older->newer = p->newer;
    else
        h->oldest = p->newer;
}

int host_open(struct host **ret, uint64_t bytes, void (*evict)(void *ctx, struct host_page *p),
              void *ctx)
{
    struct host *h = calloc(1, sizeof *h);
    int r = h ? 0 : -ENOMEM;

    if (r == 0) {
        h->bytes = bytes - bytes % IO_ALIGN;
        h->evict = evict;
        h->ctx = ctx;
        if (h->bytes) {
            /* Address space now, memory as it is used. */
            h->base = mmap(NULL, h->bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (h->base == MAP_FAILED) {
                h->base = NULL;
                r = -ENOMEM;
            }
        }
    }
    if (r == 0 && h->bytes) {
        (void)madvise(h->base, h->bytes, MADV_HUGEPAGE); /* fewer faults, shorter I/O lists */
        (void)madvise(h->base, h->bytes, MADV_DONTDUMP);
        struct host_page *p = desc_take(h);
        if (!p) {
            r = -ENOMEM;
        } else {
            p->mem = h->base;
            p->bytes = h->bytes;
            hole_link(h, p);
        }
    }
    if (r < 0) {
        host_close(h);
        return r;
    }
    h->magic = HOST_MAGIC;
    *ret = h;
    return 0;
}

void host_close(struct host *h)
{
    if (!h)
        return;
    h->magic = 0;
    for (struct host_page *p = h->newest, *next; p; p = next) {
        next = p->older;
        free(p);
    }
    for (struct host_page *p = h->holes, *next; p; p = next) {
        next = p->older;
        free(p);
    }
    for (struct host_page *p = h->spare, *next; p; p = next) {
        next = p->right;
        free(p);
    }
    if (h->base)
        munmap(h->base, h->bytes);
    free(h);
}

/* The hole left behind takes in the holes beside it. */
void host_drop(struct host *h, struct host_page *p)
{
    must_be(h, HOST_MAGIC);
    must(p->used && p->pins == 0);
    use_unlink(h, p);
    h->used -= p->bytes;
    p->owner = NULL;
    p->dirty = false;
    struct host_page *l = p->left, *r = p->right;
    if (l && !l->used) {
        hole_unlink(h, l);
        l->bytes += p->bytes;
        l->right = r;
        if (r)
            r->left = l;
        desc_drop(h, p);
        p = l;
    }
    if (r && !r->used) {
        hole_unlink(h, r);
        p->bytes += r->bytes;
        p->right = r->right;
        if (r->right)
            r->right->left = p;
        desc_drop(h, r);
    }
    hole_link(h, p);
}

static struct host_page *hole_find(struct host *h, uint64_t bytes)
{
    struct host_page *p = h->holes;

    while (p && p->bytes < bytes)
        p = p->older;
    return p;
}

int host_take(struct host *h, uint64_t bytes, void *owner, struct host_page **ret)
{
    struct host_page *p, *at;

    must_be(h, HOST_MAGIC);
    bytes = round_up(bytes, IO_ALIGN);
    /* Dropping merges holes and never moves the descriptors of used pages, so the walk may
     * go on from the next newer page. */
    for (at = h->oldest; !(p = hole_find(h, bytes)) && at;) {
        struct host_page *old = at;
        at = at->newer;
        if (old->pins || old->dirty)
            continue;
        h->evict(h->ctx, old);
        host_drop(h, old);
    }
    if (!p)
        return -EAGAIN;
    if (p->bytes > bytes) {
        struct host_page *rest = desc_take(h);
        if (!rest)
            return -EAGAIN;
        rest->mem = p->mem + bytes;
        rest->bytes = p->bytes - bytes;
        rest->left = p;
        rest->right = p->right;
        if (p->right)
            p->right->left = rest;
        p->right = rest;
        hole_unlink(h, p);
        p->bytes = bytes;
        hole_link(h, rest);
    } else {
        hole_unlink(h, p);
    }
    p->used = true;
    p->dirty = false;
    p->pins = 0;
    p->owner = owner;
    use_link(h, p);
    h->used += bytes;
    if ((uint64_t)(p->mem - h->base) + bytes > h->top)
        h->top = (uint64_t)(p->mem - h->base) + bytes;
    *ret = p;
    return 0;
}

void host_touch(struct host *h, struct host_page *p)
{
    use_unlink(h, p);
    use_link(h, p);
}

uint64_t host_used(const struct host *h)
{
    return h->used;
}

uint64_t host_bytes(const struct host *h)
{
    return h->bytes;
}

uint64_t host_top(const struct host *h)
{
    return h->top;
}

void *host_base(const struct host *h)
{
    return h->base;
}
