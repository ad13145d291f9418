/* weightsid.c - see weightsid.h. */
#include "daemon/weightsid.h"
#include "base/sigmask.h"
#include "daemon/post.h"
#include "engine/engine.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

struct job {
    struct post_msg msg;
    struct job *next;
    struct weightsid *w;
    char *path;
    struct file_stamp file;
    void (*done)(void *user, int res, const uint8_t id[16], const char *words);
    void *user;
    int res;
    uint8_t id[16];
    struct errbuf eb;
};
struct weightsid {
    struct post post;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct job *head, **tail; /* waiting */
    struct job *out;          /* finished or in hand: ours to free at close */
    /* Set under the lock; eng_weights_id polls it without, between pieces: a stale read costs
     * one piece, and nothing else is told by it. */
    atomic_bool stop;
};

static void job_free(struct job *j)
{
    free(j->path);
    free(j);
}

static void job_back(struct post_msg *m)
{
    struct job *j = m->user;

    pthread_mutex_lock(&j->w->lock);
    for (struct job **p = &j->w->out; *p; p = &(*p)->next)
        if (*p == j) {
            *p = j->next;
            break;
        }
    pthread_mutex_unlock(&j->w->lock);
    j->done(j->user, j->res, j->id, j->eb.s);
    job_free(j);
}

static void job_run(struct job *j)
{
    struct file_stamp now = {0};
    int r = stamp_read(j->path, &now);

    if (r == 0 && stamp_same(&now, &j->file))
        j->res = eng_weights_id(j->path, &j->w->stop, j->id, &j->eb);
    else
        j->res = r < 0 ? r : -ESTALE;
    if (j->res == 0 && (stamp_read(j->path, &now) < 0 || !stamp_same(&now, &j->file)))
        j->res = -ESTALE;
    if (j->res < 0 && !j->eb.s[0])
        err_set(&j->eb, 0, "%s: %s", j->path,
                j->res == -ESTALE ? "changed while it was in use" : err_str(j->res));
}

static void *weightsid_main(void *arg)
{
    struct weightsid *w = arg;

    /* Of this thread alone on Linux; a refusal only makes it a little more noticeable. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct job *j;

        while (!w->head && !w->stop)
            pthread_cond_wait(&w->more, &w->lock);
        if (w->stop)
            break;
        j = w->head;
        w->head = j->next;
        if (!w->head)
            w->tail = &w->head;
        j->next = w->out;
        w->out = j;
        pthread_mutex_unlock(&w->lock);
        job_run(j);
        post_send(&w->post, &j->msg);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int weightsid_open(struct weightsid **ret, struct loop *l)
{
    struct weightsid *w = calloc(1, sizeof *w);
    sigset_t old;
    int r;

    if (!w)
        return -ENOMEM;
    w->tail = &w->head;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    r = post_init(&w->post, l);
    if (r == 0) {
        sigmask_hold(&old);
        r = -pthread_create(&w->thread, NULL, weightsid_main, w);
        sigmask_back(&old);
    }
    w->started = r == 0;
    if (r < 0) {
        weightsid_close(w);
        return r;
    }
    *ret = w;
    return 0;
}

void weightsid_close(struct weightsid *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    if (w->started)
        pthread_join(w->thread, NULL);
    post_fini(&w->post);
    while (w->head || w->out) {
        struct job **from = w->head ? &w->head : &w->out, *j = *from;

        *from = j->next;
        job_free(j);
    }
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int weightsid_submit(struct weightsid *w, const char *path, const struct file_stamp *file,
                     void (*done)(void *user, int res, const uint8_t id[16], const char *words),
                     void *user)
{
    struct job *j = calloc(1, sizeof *j);
    char *p = strdup(path);

    if (!j || !p) {
        free(j);
        free(p);
        return -ENOMEM;
    }
    *j = (struct job){.w = w, .path = p, .file = *file, .done = done, .user = user};
    j->msg = (struct post_msg){.fn = job_back, .user = j};
    pthread_mutex_lock(&w->lock);
    *w->tail = j;
    w->tail = &j->next;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    return 0;
}
