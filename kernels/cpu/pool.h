/* pool.h - worker threads that run one function together, and share out ranges.
 *
 * The engine thread is worker 0.  Waiting is a hybrid: about 2000 pauses of spinning, then a
 * futex, because steps have gaps of microseconds, but on a busy machine a pure spin waits a
 * whole time slice (4 ms) for a peer that is not running, and an idle daemon must sleep. */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct cpu_pool;
enum { CPU_THREADS_MAX = 256 };

/* threads: workers, the caller included; 0: physical cores this process may use. */
int cpu_pool_open(struct cpu_pool **ret, uint32_t threads, struct errbuf *eb);
void cpu_pool_close(struct cpu_pool *p); /* NULL ok */
uint32_t cpu_pool_threads(const struct cpu_pool *p);
/* Runs fn(ctx, 0) on the caller and fn(ctx, worker) on each worker that gets a core before the
 * caller is through; returns when all that began are done.  So fn takes its work from a
 * cpu_share until there is none, and never counts on another worker.  Rounding is to nearest,
 * subnormals are kept, on every worker, the caller included. */
void cpu_pool_run(struct cpu_pool *p, void (*fn)(void *ctx, uint32_t worker), void *ctx);
/* The same on the caller alone, as worker 0: for what is smaller than a barrier. */
void cpu_pool_alone(void (*fn)(void *ctx, uint32_t worker), void *ctx);

/* Shares [0, n) out in chunks.  Every worker walks a run of its own, so that it reads one
 * stream, and then helps the others: one that is descheduled costs a chunk, not its share. */
struct cpu_share {
    struct {
        uint32_t next; /* atomic; a stale read only makes a worker try in vain */
        uint32_t end;
        uint8_t pad[56]; /* a cache line each */
    } run[CPU_THREADS_MAX];
    uint32_t workers, chunk;
};
void cpu_share_init(struct cpu_share *s, uint32_t n, uint32_t chunk, uint32_t workers);
bool cpu_share_take(struct cpu_share *s, uint32_t worker, uint32_t *ret_from, uint32_t *ret_to);
/* Nobody takes any more of it: for a worker that failed.  Chunks taken are still worked on. */
void cpu_share_stop(struct cpu_share *s);

#endif
