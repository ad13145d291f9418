/* engd.c - see engd.h.
 *
 * Two words pass between loop and thread: `cmd` (what to do) under a mutex with a condition,
 * and messages back through post.h.  A step's memory is handed over with cmd and comes back
 * with its message, so nothing of it is shared. */
#include "daemon/engd.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/sigmask.h"
#include "daemon/post.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

struct engd {
    struct post post;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct engd_step *step; /* submitted, not taken */
    bool computes;          /* it has taken one and is not at its end */
    bool stop;

    struct engd_load load;
    struct engine *eng; /* written by the thread before the load message is sent */
    int load_res;
    struct errbuf load_words;
    struct post_msg loaded_msg, progress_msg, step_msg;
    /* Per-mille of the load; read by the loop's progress message, a stale read shows an
     * older bar. */
    atomic_uint load_done;
    atomic_bool progress_out; /* a progress message is under way: do not send another */

    struct engd_step *out; /* loop: the step in flight */
    float *logits;         /* thread: STEP_SEQS_MAX rows at most, grown as needed */
    uint32_t logits_rows;
    void *scratch;
};

static void engd_progress_back(struct post_msg *m)
{
    struct engd *g = m->user;
    unsigned done = atomic_load_explicit(&g->load_done, memory_order_relaxed);

    atomic_store_explicit(&g->progress_out, false, memory_order_release);
    if (g->load.progress)
        g->load.progress(g->load.user, done / 1000.0);
}

static void engd_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct engd *g = ctx;
    unsigned pm = total_bytes ? (unsigned)(done_bytes * 1000 / total_bytes) : 0;

    atomic_store_explicit(&g->load_done, pm, memory_order_relaxed);
    if (!atomic_exchange_explicit(&g->progress_out, true, memory_order_acquire))
        post_send(&g->post, &g->progress_msg);
}

static void engd_loaded_back(struct post_msg *m)
{
    struct engd *g = m->user;

    g->load.done(g->load.user, g->load_res, g->eng, g->load_words.s);
}

static void engd_step_back(struct post_msg *m)
{
    struct engd *g = m->user;
    struct engd_step *s = g->out;

    g->out = NULL;
    s->done(s);
}

/* Rows for every sequence that wants a token, and the sampler's scratch. */
static int engd_room(struct engd *g, uint32_t rows)
{
    uint32_t n_vocab = eng_info(g->eng)->n_vocab;
    float *p;

    if (!g->scratch && !(g->scratch = malloc((size_t)n_vocab * SMP_SCRATCH)))
        return -ENOMEM;
    if (rows <= g->logits_rows)
        return 0;
    p = realloc(g->logits, (size_t)rows * n_vocab * sizeof *p);
    if (!p)
        return -ENOMEM;
    g->logits = p;
    g->logits_rows = rows;
    return 0;
}

static int engd_run(struct engd *g, struct engd_step *s)
{
    uint32_t n_vocab = eng_info(g->eng)->n_vocab, rows = 0;
    int r;

    for (uint32_t i = 0; i < s->step.n_seqs; i++)
        rows += s->pick[i].params != NULL;
    r = rows ? engd_room(g, rows) : 0;
    if (r < 0)
        return r;
    rows = 0;
    for (uint32_t i = 0; i < s->step.n_seqs; i++) {
        s->seq[i].n_logits = s->pick[i].params ? 1 : 0;
        s->seq[i].logits = s->pick[i].params ? g->logits + (size_t)n_vocab * rows++ : NULL;
    }
    s->step.seq = s->seq;
    r = eng_step(g->eng, &s->step);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < s->step.n_seqs; i++) {
        struct engd_pick *k = &s->pick[i];

        k->res = s->seq[i].res;
        if (k->params && k->res == 0)
            k->res = smp_pick(k->params, s->seq[i].logits, n_vocab, k->recent, k->n_recent,
                              k->pos, NULL, g->scratch, &k->result);
    }
    return 0;
}

static void *engd_main(void *arg)
{
    struct engd *g = arg;
    struct eng_opts o = g->load.opts;

    o.progress = engd_progress;
    o.progress_ctx = g;
    g->load_res = eng_open(&g->eng, &o, &g->load_words);
    if (g->load_res < 0 && !g->load_words.s[0])
        err_set(&g->load_words, 0, "%s", err_str(g->load_res));
    post_send(&g->post, &g->loaded_msg);
    bool warm = g->load_res == 0; /* idle, and memory may be made ready for what comes */
    pthread_mutex_lock(&g->lock);
    for (;;) {
        struct engd_step *s;

        while (!g->step && !g->stop) {
            if (!warm) {
                pthread_cond_wait(&g->more, &g->lock);
                continue;
            }
            pthread_mutex_unlock(&g->lock);
            warm = eng_warm(g->eng);
            pthread_mutex_lock(&g->lock);
        }
        if (g->stop)
            break;
        s = g->step;
        g->step = NULL;
        g->computes = true;
        pthread_mutex_unlock(&g->lock);
        s->started_ns = now_ns();
        s->res = engd_run(g, s);
        s->ended_ns = now_ns();
        warm = true; /* it may have taken new pages into use */
        post_send(&g->post, &g->step_msg);
        pthread_mutex_lock(&g->lock);
        g->computes = false;
    }
    pthread_mutex_unlock(&g->lock);
    eng_close(g->eng);
    return NULL;
}

int engd_open(struct engd **ret, struct loop *l, const struct engd_load *load)
{
    struct engd *g = calloc(1, sizeof *g);
    sigset_t old;
    int r = g ? 0 : -ENOMEM;

    must(load->done);
    if (r < 0)
        return r;
    g->load = *load;
    g->loaded_msg = (struct post_msg){.fn = engd_loaded_back, .user = g};
    g->progress_msg = (struct post_msg){.fn = engd_progress_back, .user = g};
    g->step_msg = (struct post_msg){.fn = engd_step_back, .user = g};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->more, NULL);
    g->post.watch.fd = -1;
    r = post_init(&g->post, l);
    if (r == 0) {
        sigmask_hold(&old);
        r = -pthread_create(&g->thread, NULL, engd_main, g);
        sigmask_back(&old);
    }
    g->started = r == 0;
    if (r < 0) {
        engd_close(g);
        return r;
    }
    *ret = g;
    return 0;
}

int engd_submit(struct engd *g, struct engd_step *s)
{
    must(s->step.n_seqs >= 1 && s->step.n_seqs <= STEP_SEQS_MAX);
    must(s->done);
    if (g->out)
        return -EAGAIN;
    g->out = s;
    pthread_mutex_lock(&g->lock);
    g->step = s;
    pthread_cond_signal(&g->more);
    pthread_mutex_unlock(&g->lock);
    return 0;
}

void engd_abort(struct engd *g)
{
    if (g->out)
        eng_abort(g->eng);
}

bool engd_busy(const struct engd *g)
{
    return g->out != NULL;
}

bool engd_rests(struct engd *g)
{
    if (!g)
        return true;
    pthread_mutex_lock(&g->lock);
    bool rests = !g->step && !g->computes;
    pthread_mutex_unlock(&g->lock);
    return rests;
}

void engd_close(struct engd *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_signal(&g->more);
    pthread_mutex_unlock(&g->lock);
    if (g->started)
        pthread_join(g->thread, NULL);
    post_fini(&g->post);
    pthread_cond_destroy(&g->more);
    pthread_mutex_destroy(&g->lock);
    free(g->logits);
    free(g->scratch);
    free(g);
}
