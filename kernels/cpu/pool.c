/* pool.c - workers, the hybrid barrier, shared ranges.
 *
 * Nobody waits for a worker that has not begun: the caller works through the shares itself,
 * then closes the job's gate, and waits only for workers that are inside.  On a machine whose
 * cores are busy with other programs a woken worker may be milliseconds away, at 150 jobs a
 * token; waiting for it made two threads four times slower than one.
 *
 * The atomics of kernels/ live here.  `gate` holds the job's number, whether it may still be
 * entered, and how many workers are inside.  It is opened (release) after the job is written
 * and entered (acquire) by the workers; it is left (release) after a worker's writes and read
 * (acquire) by the caller: so the job's inputs and results travel with it.  `go` only wakes:
 * a stale read costs a turn of the spin.  Before a side sleeps it announces that, and then
 * the futex itself checks the value again. */
#include "kernels/cpu/pool.h"
#include "base/check.h"
#include "base/sigmask.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __x86_64__
#    include <immintrin.h>
#endif

enum { POOL_SPINS = 2000 };
#define GATE_OPEN   (1ull << 31)
#define GATE_INSIDE (GATE_OPEN - 1)
struct worker {
    struct cpu_pool *pool;
    pthread_t thread;
    uint32_t index;
    bool started;
};
struct cpu_pool {
    uint32_t threads;
    struct worker *worker;
    void (*fn)(void *ctx, uint32_t worker);
    void *ctx;
    _Atomic bool stop; /* raised before the last go: seen by whoever wakes for it */
    _Alignas(64) _Atomic uint32_t go;   /* number of the newest job */
    _Alignas(64) _Atomic uint64_t gate; /* job << 32 | GATE_OPEN | workers inside */
    _Alignas(64) _Atomic uint32_t left; /* counts departures while the caller sleeps */
    _Alignas(64) _Atomic uint32_t sleepers, main_sleeps;
};

static void pause_cpu(void)
{
#ifdef __x86_64__
    _mm_pause();
#endif
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Round to nearest, keep subnormals, mask traps: bits must not depend on what a library
 * loaded into this process once set. */
static uint32_t float_state(uint32_t want)
{
#ifdef __x86_64__
    uint32_t was = _mm_getcsr();
    if ((was ^ want) & ~0x3fu) /* the low bits are flags */
        _mm_setcsr(want);
    return was;
#else
    return want;
#endif
}
enum { FLOAT_PLAIN = 0x1f80 };

/* Into job number `job`, if it is the one at the gate and still open. */
static bool enter(struct cpu_pool *p, uint32_t job)
{
    uint64_t g = atomic_load_explicit(&p->gate, memory_order_acquire);

    while (g >> 32 == job && (g & GATE_OPEN))
        if (atomic_compare_exchange_weak(&p->gate, &g, g + 1))
            return true;
    return false;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct cpu_pool *p = w->pool;
    uint32_t seen = 0;

    for (;;) {
        for (int i = 0;
             i < POOL_SPINS && atomic_load_explicit(&p->go, memory_order_acquire) == seen; i++)
            pause_cpu();
        while (atomic_load(&p->go) == seen) {
            atomic_fetch_add(&p->sleepers, 1);
            futex(&p->go, FUTEX_WAIT, seen);
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen = atomic_load(&p->go);
        if (p->stop)
            return NULL;
        if (!enter(p, seen))
            continue; /* the others were done before this one got a core */
        float_state(FLOAT_PLAIN);
        p->fn(p->ctx, w->index);
        if ((atomic_fetch_sub(&p->gate, 1) & GATE_INSIDE) == 1 &&
            atomic_load(&p->main_sleeps)) {
            atomic_fetch_add(&p->left, 1);
            futex(&p->left, FUTEX_WAKE, 1);
        }
    }
}

static void start(struct cpu_pool *p)
{
    atomic_fetch_add(&p->go, 1);
    if (atomic_load(&p->sleepers))
        futex(&p->go, FUTEX_WAKE, INT32_MAX);
}

void cpu_pool_run(struct cpu_pool *p, void (*fn)(void *ctx, uint32_t worker), void *ctx)
{
    uint32_t was = float_state(FLOAT_PLAIN), left;

    if (p->threads > 1) {
        uint64_t job = atomic_load_explicit(&p->go, memory_order_relaxed) + 1u;

        p->fn = fn;
        p->ctx = ctx;
        atomic_store(&p->gate, (job & UINT32_MAX) << 32 | GATE_OPEN);
        start(p);
    }
    fn(ctx, 0);
    if (p->threads > 1) {
        atomic_fetch_and(&p->gate, ~GATE_OPEN);
        for (int i = 0; i < POOL_SPINS &&
                        (atomic_load_explicit(&p->gate, memory_order_acquire) & GATE_INSIDE);
             i++)
            pause_cpu();
        while (atomic_load(&p->gate) & GATE_INSIDE) {
            left = atomic_load(&p->left);
            atomic_store(&p->main_sleeps, 1);
            if (atomic_load(&p->gate) & GATE_INSIDE)
                futex(&p->left, FUTEX_WAIT, left);
            atomic_store(&p->main_sleeps, 0);
        }
    }
    float_state(was);
}

void cpu_pool_alone(void (*fn)(void *ctx, uint32_t worker), void *ctx)
{
    uint32_t was = float_state(FLOAT_PLAIN);
    fn(ctx, 0);
    float_state(was);
}

/* --- cores ------------------------------------------------------------------------------ */
static long first_sibling(int cpu)
{
    char path[96], text[32] = "";
    long v = cpu;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
             cpu);
    FILE *f = fopen(path, "re");
    if (f && fgets(text, sizeof text, f))
        v = strtol(text, NULL, 10);
    if (f)
        fclose(f);
    return v;
}

/* One thread per core: two hyperthreads share the units that these kernels saturate. */
static uint32_t physical_cores(void)
{
    cpu_set_t set, seen;
    uint32_t n = 0;
    CPU_ZERO(&seen);
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return 1;
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &set))
            continue;
        long s = first_sibling(i);
        if (s >= 0 && s < CPU_SETSIZE && CPU_ISSET(s, &seen))
            continue;
        if (s >= 0 && s < CPU_SETSIZE)
            CPU_SET(s, &seen);
        n++;
    }
    return n ? n : 1;
}

/* --- open, close ------------------------------------------------------------------------ */
void cpu_pool_close(struct cpu_pool *p)
{
    if (!p)
        return;
    p->stop = true;
    start(p);
    for (uint32_t i = 1; p->worker && i < p->threads; i++)
        if (p->worker[i].started)
            pthread_join(p->worker[i].thread, NULL);
    free(p->worker);
    free(p);
}

int cpu_pool_open(struct cpu_pool **ret, uint32_t threads, struct errbuf *eb)
{
    struct cpu_pool *p = NULL;
    sigset_t was;
    int r = 0;

    if (threads > CPU_THREADS_MAX)
        return err_set(eb, E_LIMIT, "threads = %u, the limit is %d", threads, CPU_THREADS_MAX);
    if (posix_memalign((void **)&p, 64, sizeof *p))
        return err_set(eb, -ENOMEM, "no memory for worker threads");
    memset(p, 0, sizeof *p);
    p->threads = threads ? threads : physical_cores();
    if (p->threads > CPU_THREADS_MAX)
        p->threads = CPU_THREADS_MAX;
    if (!(p->worker = calloc(p->threads, sizeof *p->worker)))
        r = err_set(eb, -ENOMEM, "no memory for %u worker threads", p->threads);
    sigmask_hold(&was); /* signals are for the threads that expect them */
    for (uint32_t i = 1; i < p->threads && r == 0; i++) {
        p->worker[i].pool = p;
        p->worker[i].index = i;
        r = -pthread_create(&p->worker[i].thread, NULL, work, &p->worker[i]);
        if (r < 0)
            err_set(eb, r, "starting worker thread %u of %u: %s", i, p->threads, err_str(r));
        else
            p->worker[i].started = true;
    }
    sigmask_back(&was);
    if (r < 0) {
        cpu_pool_close(p);
        return r;
    }
    *ret = p;
    return 0;
}

uint32_t cpu_pool_threads(const struct cpu_pool *p)
{
    return p->threads;
}

/* --- shares ------------------------------------------------------------------------------ */
void cpu_share_init(struct cpu_share *s, uint32_t n, uint32_t chunk, uint32_t workers)
{
    uint64_t chunks = (n + (uint64_t)chunk - 1) / chunk;
    s->workers = workers;
    s->chunk = chunk;
    for (uint32_t i = 0; i < workers; i++) {
        uint64_t from = chunks * i / workers * chunk, to = chunks * (i + 1) / workers * chunk;
        s->run[i].next = (uint32_t)(from < n ? from : n);
        s->run[i].end = (uint32_t)(to < n ? to : n);
    }
}

bool cpu_share_take(struct cpu_share *s, uint32_t worker, uint32_t *ret_from, uint32_t *ret_to)
{
    for (uint32_t i = 0; i < s->workers; i++) {
        uint32_t w = worker + i < s->workers ? worker + i : worker + i - s->workers;
        if (__atomic_load_n(&s->run[w].next, __ATOMIC_RELAXED) >= s->run[w].end)
            continue;
        uint32_t from = __atomic_fetch_add(&s->run[w].next, s->chunk, __ATOMIC_RELAXED);
        if (from >= s->run[w].end)
            continue;
        *ret_from = from;
        *ret_to = from + s->chunk < s->run[w].end ? from + s->chunk : s->run[w].end;
        return true;
    }
    return false;
}

void cpu_share_stop(struct cpu_share *s)
{
    for (uint32_t i = 0; i < s->workers; i++)
        __atomic_store_n(&s->run[i].next, s->run[i].end, __ATOMIC_RELAXED);
}
