/* cpu.c - the cpu backend: open, memory, scratch, its table. */
#include "kernels/cpu/cpu.h"
#include "base/check.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#    define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

enum { CPU_MAGIC = 0x43707531 };
static const uint64_t HUGE = 2 << 20, CHUNK = 32 << 20;

/* --- sets of kernels ----------------------------------------------------------------------- */
const struct cpu_vec *const *cpu_vec_list(void)
{
    static const struct cpu_vec *list[4];
    const struct cpu_vec **p = list;
    if (list[0])
        return list;
#ifdef __x86_64__
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("bmi2"); /* f16c is older than avx2; clang cannot ask */
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        *p++ = &cpu_vec_avx512;
    if (avx2)
        *p++ = &cpu_vec_avx2;
#endif
    *p++ = &cpu_vec_c;
    return list;
}

static void cpu_close(struct kern *kern)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    if (!k)
        return;
    must(k->n_alloc == 0);
    must(k->n_weight == 0);
    cpu_pool_close(k->pool);
    if (k->scratch)
        munmap(k->scratch, k->scratch_bytes);
    free(k->cs);
    free(k->chunk);
    k->magic = 0;
    free(k);
}

int cpu_open_vec(struct kern **ret, const struct kern_opts *o, const struct cpu_vec *vec,
                 struct errbuf *eb)
{
    struct kern_cpu *k = calloc(1, sizeof *k);
    int r = k ? 0 : err_set(eb, -ENOMEM, "cpu: no memory for the backend");

    if (r == 0 && !(k->chunk = calloc(CPU_CHUNKS_MAX, sizeof *k->chunk)))
        r = err_set(eb, -ENOMEM, "cpu: no memory for the backend");
    if (r == 0)
        r = cpu_pool_open(&k->pool, o ? o->threads : 0, eb);
    if (r < 0) {
        cpu_close(k ? &k->kern : NULL);
        return r;
    }
    k->kern.ops = &kern_cpu;
    k->vec = vec;
    k->threads = cpu_pool_threads(k->pool);
    k->magic = CPU_MAGIC;
    *ret = &k->kern;
    return 0;
}

static int cpu_open(struct kern **ret, const struct kern_opts *o, struct errbuf *eb)
{
    return cpu_open_vec(ret, o, o && o->plain_c ? &cpu_vec_c : cpu_vec_list()[0], eb);
}

static void cpu_props(const struct kern *kern, struct kern_props *ret)
{
    const struct kern_cpu *k = (const struct kern_cpu *)kern;
    must_be(k, CPU_MAGIC);
    *ret = (struct kern_props){.name = k->vec->name,
                               .exact = true,
                               .host_memory = true,
                               .head_dim_of = CPU_DIM_OF,
                               .head_dim_max = CPU_DIM_MAX};
}

/* --- memory ---------------------------------------------------------------------------------- */
/* 2 MiB alignment and advice: behind 4 KiB pages a stream of weights loses up to a quarter. */
static void *map_huge(uint64_t bytes)
{
    uint8_t *p =
        mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint64_t skip = (HUGE - (uintptr_t)p % HUGE) % HUGE;
    if (skip)
        munmap(p, skip);
    if (HUGE - skip)
        munmap(p + skip + bytes, HUGE - skip);
    (void)madvise(p + skip, bytes, MADV_HUGEPAGE);
    return p + skip;
}

void *cpu_huge_take(struct kern_cpu *k, uint64_t bytes, uint32_t *ret_chunk)
{
    uint32_t i, empty = CPU_CHUNKS_MAX;
    bytes = (bytes + 63) & ~63ull;
    for (i = 0; i < CPU_CHUNKS_MAX; i++) {
        struct cpu_chunk *c = &k->chunk[i];
        if (!c->base && empty == CPU_CHUNKS_MAX)
            empty = i;
        if (c->base && c->size - c->used >= bytes)
            break;
    }
    if (i == CPU_CHUNKS_MAX) {
        i = empty;
        if (i == CPU_CHUNKS_MAX)
            return NULL;
        uint64_t size = bytes > CHUNK ? (bytes + HUGE - 1) / HUGE * HUGE : CHUNK;
        k->chunk[i] = (struct cpu_chunk){.base = map_huge(size), .size = size};
        if (!k->chunk[i].base)
            return NULL;
    }
    struct cpu_chunk *c = &k->chunk[i];
    void *p = c->base + c->used;
    c->used += bytes;
    c->weights++;
    *ret_chunk = i;
    return p;
}

void cpu_huge_drop(struct kern_cpu *k, uint32_t chunk)
{
    struct cpu_chunk *c = &k->chunk[chunk];
    must(c->weights > 0);
    if (--c->weights == 0) {
        munmap(c->base, c->size);
        memset(c, 0, sizeof *c);
    }
}

static void *cpu_alloc(struct kern *kern, uint64_t bytes)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    must_be(k, CPU_MAGIC);
    /* The size is kept in the page in front, so that free() needs only the address. */
    uint64_t all;
    if (__builtin_add_overflow(bytes, 2 * HUGE, &all))
        return NULL;
    bytes = (bytes + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN + IO_ALIGN;
    uint8_t *p = bytes >= HUGE ? map_huge((bytes + HUGE - 1) / HUGE * HUGE)
                               : mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!p || p == MAP_FAILED)
        return NULL;
    *(uint64_t *)p = bytes >= HUGE ? (bytes + HUGE - 1) / HUGE * HUGE : bytes;
    k->n_alloc++;
    return p + IO_ALIGN;
}

static void cpu_free(struct kern *kern, void *p)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    must_be(k, CPU_MAGIC);
    if (!p)
        return;
    uint8_t *base = (uint8_t *)p - IO_ALIGN;
    k->n_alloc--;
    munmap(base, *(uint64_t *)base);
}

/* Page faults taken ahead of use: on a machine whose memory is lent to it page by page they cost
 * ten times what copying a row does.  Older kernels refuse, and memory warms as it is used. */
static void cpu_warm(struct kern *kern, void *dev, uint64_t bytes)
{
    must_be((struct kern_cpu *)kern, CPU_MAGIC);
    (void)madvise(dev, bytes, MADV_POPULATE_WRITE);
}

static int cpu_copy(struct kern *kern, void *to, const void *from, uint64_t bytes)
{
    (void)kern;
    memcpy(to, from, bytes);
    return 0;
}

/* --- scratch ----------------------------------------------------------------------------------- */
/* Cuts one piece off p; with p NULL only adds up. */
static void *cut(uint8_t **p, uint64_t *at, uint64_t bytes)
{
    void *r = *p ? *p + *at : NULL;
    *at += (bytes + 63) & ~63ull;
    return r;
}

static uint64_t cut_worker(uint8_t *base, uint32_t cols, struct cpu_worker *w)
{
    uint64_t at = 0, tile = (uint64_t)CPU_TILE * CPU_DIM_MAX * 4;
    uint64_t block = (uint64_t)BLOCK_TOKENS * CPU_DIM_MAX * 4;
    w->panel = cut(&base, &at, cpu_panel_bytes(cols));
    w->strip = cut(&base, &at, (uint64_t)cols * 4 * CPU_STRIP + 64 * CPU_STRIP);
    w->g = cut(&base, &at, CPU_FFN_TOKENS * 32 * 4);
    w->u = cut(&base, &at, CPU_FFN_TOKENS * 32 * 4);
    w->kt = cut(&base, &at, block);
    w->vf = cut(&base, &at, block);
    w->p = cut(&base, &at, (uint64_t)CPU_TILE * BLOCK_TOKENS * 4);
    w->m = cut(&base, &at, CPU_TILE * 4);
    w->l = cut(&base, &at, CPU_TILE * 4);
    w->bm = cut(&base, &at, CPU_TILE * 4);
    w->bl = cut(&base, &at, CPU_TILE * 4);
    w->o = cut(&base, &at, tile);
    w->bo = cut(&base, &at, tile);
    w->t = cut(&base, &at, CPU_DIM_MAX * 4);
    return (at + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
}

void cpu_worker(const struct kern_cpu *k, uint32_t worker, struct cpu_worker *ret)
{
    cut_worker(k->worker + worker * k->worker_bytes, k->cols, ret);
}

static uint64_t cut_all(struct kern_cpu *k, uint8_t *base, uint32_t tokens, uint32_t cols)
{
    uint64_t at = 0, units = (uint64_t)tokens * (cols / 32 + 1);
    struct cpu_worker w;
    for (int i = 0; i < 2; i++) {
        k->xq[i] = cut(&base, &at, units * sizeof(struct cpu_xq));
        k->xf[i] = cut(&base, &at, (uint64_t)tokens * cols * 4);
    }
    k->part = cut(&base, &at, (uint64_t)CPU_PART_FLOATS * 4);
    k->worker_bytes = cut_worker(NULL, cols, &w);
    at = (at + IO_ALIGN - 1) / IO_ALIGN * IO_ALIGN;
    k->worker = cut(&base, &at, k->worker_bytes * k->threads);
    return at;
}

/* Address space only: pages that no step touches stay unbacked. */
int cpu_reserve(struct kern_cpu *k, uint32_t tokens, uint32_t cols)
{
    if (tokens <= k->tokens && cols <= k->cols)
        return 0;
    tokens = tokens > k->tokens ? tokens : k->tokens;
    cols = cols > k->cols ? cols : k->cols;
    if (k->scratch)
        munmap(k->scratch, k->scratch_bytes);
    k->scratch = NULL;
    k->tokens = k->cols = 0;
    uint64_t bytes = (cut_all(k, NULL, tokens, cols) + HUGE - 1) / HUGE * HUGE;
    if (!(k->scratch = map_huge(bytes)))
        return -ENOMEM;
    k->scratch_bytes = bytes;
    k->tokens = tokens;
    k->cols = cols;
    cut_all(k, k->scratch, tokens, cols);
    return 0;
}

static int cpu_reserve_op(struct kern *kern, uint32_t tokens, uint32_t cols_max, uint64_t ctx)
{
    struct kern_cpu *k = (struct kern_cpu *)kern;
    (void)ctx; /* rows are walked block by block: nothing here grows with the context */
    must_be(k, CPU_MAGIC);
    return cpu_reserve(k, tokens, cols_max);
}

static int cpu_sync(struct kern *kern)
{
    (void)kern; /* operations have ended when they return */
    return 0;
}

static uint64_t cpu_saturations(const struct kern *kern)
{
    return __atomic_load_n(&((const struct kern_cpu *)kern)->saturations, __ATOMIC_RELAXED);
}

const struct kern_ops kern_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .props = cpu_props,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .warm = cpu_warm,
    .up = cpu_copy,
    .down = cpu_copy,
    .weight = cpu_weight,
    .weight_free = cpu_weight_free,
    .weight_bytes = cpu_weight_bytes,
    .weight_need = cpu_weight_need,
    .reserve = cpu_reserve_op,
    .embed = cpu_embed,
    .matmul = cpu_matmul,
    .ffn = cpu_ffn,
    .norm = cpu_norm,
    .rope_store = cpu_rope_store,
    .attn = cpu_attn,
    .sync = cpu_sync,
    .epoch = cpu_epoch,
    .saturations = cpu_saturations,
};
