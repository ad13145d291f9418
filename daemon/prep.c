/* prep.c - see prep.h. */
#include "daemon/prep.h"
#include "base/check.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct prep {
    struct post post;
    pthread_t thread;
    bool started, stop;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct prep_job *head, **tail; /* from submit until back on the loop, oldest first */
    struct prep_job *todo;         /* the first of them that has not begun */
};

static void prep_back(struct post_msg *m)
{
    struct prep_job *j = m->user;
    struct prep *p = j->prep;

    pthread_mutex_lock(&p->lock);
    must(p->head == j);
    p->head = j->next;
    if (!p->head)
        p->tail = &p->head;
    pthread_mutex_unlock(&p->lock);
    j->done(j);
}

static void *prep_main(void *arg)
{
    struct prep *p = arg;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct prep_job *j;

        while (!p->todo && !p->stop)
            pthread_cond_wait(&p->more, &p->lock);
        if (p->stop)
            break;
        j = p->todo;
        p->todo = j->next;
        pthread_mutex_unlock(&p->lock);
        j->run(j);
        post_send(&p->post, &j->msg);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int prep_open(struct prep **ret, struct loop *l)
{
    struct prep *p = calloc(1, sizeof *p);
    sigset_t all, old;
    int r = p ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    p->tail = &p->head;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    p->post.watch.fd = -1;
    r = post_init(&p->post, l);
    if (r == 0) {
        /* Signals belong to the loop thread. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = -pthread_create(&p->thread, NULL, prep_main, p);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (r < 0) {
        prep_close(p);
        return r;
    }
    p->started = true;
    *ret = p;
    return 0;
}

void prep_close(struct prep *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    if (p->started)
        pthread_join(p->thread, NULL);
    post_fini(&p->post);
    for (struct prep_job *j = p->head, *next; j; j = next) {
        next = j->next;
        if (j->drop)
            j->drop(j);
    }
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void prep_submit(struct prep *p, struct prep_job *j)
{
    must(j->run && j->done);
    j->prep = p;
    j->next = NULL;
    j->msg = (struct post_msg){.fn = prep_back, .user = j};
    pthread_mutex_lock(&p->lock);
    *p->tail = j;
    p->tail = &j->next;
    if (!p->todo)
        p->todo = j;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}
