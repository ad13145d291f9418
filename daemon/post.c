/* post.c - see post.h. */
#include "daemon/post.h"
#include "base/check.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void post_ready(struct loop_watch *w, uint32_t events)
{
    struct post *p = w->user;
    uint64_t n;
    struct post_msg *m;

    (void)events;
    (void)!read(w->fd, &n, sizeof n);
    pthread_mutex_lock(&p->lock);
    m = p->head;
    p->head = NULL;
    p->tail = &p->head;
    pthread_mutex_unlock(&p->lock);
    while (m) {
        /* fn may send m again or free what holds it: nothing of m is touched after. */
        struct post_msg *next = m->next;
        m->next = NULL;
        m->sent = false;
        m->fn(m);
        m = next;
    }
}

int post_init(struct post *p, struct loop *l)
{
    memset(p, 0, sizeof *p);
    p->loop = l;
    p->tail = &p->head;
    p->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->watch.fd < 0)
        return -errno;
    pthread_mutex_init(&p->lock, NULL);
    p->watch.events = EPOLLIN;
    p->watch.ready = post_ready;
    p->watch.user = p;
    return loop_add(l, &p->watch);
}

void post_fini(struct post *p)
{
    if (!p->loop || p->watch.fd < 0)
        return;
    loop_del(p->loop, &p->watch);
    close(p->watch.fd);
    pthread_mutex_destroy(&p->lock);
    p->watch.fd = -1;
}

void post_send(struct post *p, struct post_msg *m)
{
    uint64_t one = 1;

    pthread_mutex_lock(&p->lock);
    must(!m->sent);
    m->sent = true;
    m->next = NULL;
    *p->tail = m;
    p->tail = &m->next;
    pthread_mutex_unlock(&p->lock);
    /* The counter cannot overflow in practice; a full one still leaves the fd readable. */
    (void)!write(p->watch.fd, &one, sizeof one);
}
