/* membw.c - see membw.h. */
#include "bench/membw.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 7, THREADS_MAX = 256 };
static const uint64_t ALL_BYTES = 768u << 20;

struct reader {
    pthread_t thread;
    pthread_barrier_t *start;
    const uint64_t *p;
    uint64_t words, sum;
    uint64_t begin_ns[PASSES], end_ns[PASSES];
};

/* Eight sums, so that additions never wait for one another; prefetch as the kernels do. */
static uint64_t read_all(const uint64_t *p, uint64_t words)
{
    uint64_t s[8] = {0};

    for (uint64_t i = 0; i + 8 <= words; i += 8) {
        __builtin_prefetch(p + i + 256);
        for (int j = 0; j < 8; j++)
            s[j] += p[i + j];
    }
    return s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;

    for (int i = 0; i < PASSES; i++) {
        pthread_barrier_wait(r->start);
        r->begin_ns[i] = now_ns();
        r->sum ^= read_all(r->p, r->words);
        r->end_ns[i] = now_ns();
    }
    return NULL;
}

double membw_read(uint32_t threads)
{
    uint32_t n = threads < 1 ? 1 : threads > THREADS_MAX ? THREADS_MAX : threads;
    uint64_t each = ALL_BYTES / n / 4096 * 4096;
    uint8_t *mem = aligned_alloc(4096, each * n);
    struct reader *r = calloc(n, sizeof *r);
    pthread_barrier_t start;
    double best = 0;

    if (!mem || !r || pthread_barrier_init(&start, NULL, n) != 0) {
        free(mem);
        free(r);
        return 0;
    }
    memset(mem, 1, each * n); /* real pages, not the one zero page */
    for (uint32_t i = 0; i < n; i++) {
        r[i].start = &start;
        r[i].p = (const uint64_t *)(const void *)(mem + i * each);
        r[i].words = each / 8;
        if (i > 0 && pthread_create(&r[i].thread, NULL, reader_main, &r[i]) != 0)
            abort(); /* the others wait for it */
    }
    reader_main(&r[0]);
    for (uint32_t i = 1; i < n; i++)
        pthread_join(r[i].thread, NULL);
    for (int p = 0; p < PASSES; p++) {
        uint64_t t0 = UINT64_MAX, t1 = 0;
        for (uint32_t i = 0; i < n; i++) {
            t0 = r[i].begin_ns[p] < t0 ? r[i].begin_ns[p] : t0;
            t1 = r[i].end_ns[p] > t1 ? r[i].end_ns[p] : t1;
        }
        double rate = (double)(each * n) / ((double)(t1 - t0) / 1e9);
        best = rate > best ? rate : best;
    }
    /* The sum is used, so that no reading is optimised away. */
    volatile uint64_t sink = r[0].sum;
    (void)sink;
    pthread_barrier_destroy(&start);
    free(mem);
    free(r);
    return best;
}
