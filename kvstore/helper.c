/* helper.c - see helper.h. */
#include "kvstore/helper.h"
#include "base/check.h"
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#    define MADV_POPULATE_WRITE                                                                \
        23 /* Linux 5.14; older kernels say EINVAL and nothing is lost */
#endif

enum { HELPER_MAGIC = 0x68656c70 };
static const uint64_t STEP = 8 << 20; /* warmed at a time, between looks for jobs */

struct helper {
    uint32_t magic;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct helper_job *head, **tail;
    bool stop;
    char *mem;
    uint64_t bytes, ahead, used, warm;
};

static void *body(void *arg)
{
    struct helper *h = arg;

    pthread_mutex_lock(&h->lock);
    for (;;) {
        struct helper_job *j = h->head;
        uint64_t goal = h->used + h->ahead < h->bytes ? h->used + h->ahead : h->bytes;
        if (j) {
            h->head = j->next;
            if (!h->head)
                h->tail = &h->head;
            pthread_mutex_unlock(&h->lock);
            j->run(j);
        } else if (h->stop) {
            break;
        } else if (h->warm < goal) {
            uint64_t at = h->warm, n = goal - at < STEP ? goal - at : STEP;
            pthread_mutex_unlock(&h->lock);
            if (madvise(h->mem + at, n, MADV_POPULATE_WRITE) < 0 && errno == EINVAL)
                n = h->bytes; /* this kernel cannot: memory warms as it is used */
            h->warm = at + n < h->bytes ? at + n : h->bytes;
        } else {
            pthread_cond_wait(&h->cond, &h->lock);
            continue;
        }
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

int helper_open(struct helper **ret, void *mem, uint64_t bytes, uint64_t ahead)
{
    struct helper *h = calloc(1, sizeof *h);

    if (!h)
        return -ENOMEM;
    h->tail = &h->head;
    h->mem = mem;
    h->bytes = bytes;
    h->ahead = ahead;
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->cond, NULL);
    int r = -pthread_create(&h->thread, NULL, body, h);
    if (r < 0) {
        free(h);
        return r;
    }
    h->magic = HELPER_MAGIC;
    *ret = h;
    return 0;
}

void helper_close(struct helper *h)
{
    if (!h)
        return;
    must_be(h, HELPER_MAGIC);
    h->magic = 0;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    pthread_cond_destroy(&h->cond);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void helper_submit(struct helper *h, struct helper_job *j)
{
    must_be(h, HELPER_MAGIC);
    pthread_mutex_lock(&h->lock);
    j->next = NULL;
    *h->tail = j;
    h->tail = &j->next;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

void helper_used(struct helper *h, uint64_t end)
{
    must_be(h, HELPER_MAGIC);
    pthread_mutex_lock(&h->lock);
    if (end > h->used) {
        h->used = end;
        pthread_cond_signal(&h->cond);
    }
    pthread_mutex_unlock(&h->lock);
}
