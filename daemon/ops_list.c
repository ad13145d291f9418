/* ops_list.c - SESSION_LIST, a few sessions at a time.
 *
 * Where a session's KV lies is found by the keys of its whole path, and those by reading and
 * hashing its tokens: a millisecond for a long one.  So the list is made in slices between
 * which the loop turns; a session that goes meanwhile is left out. */
#include "base/clock.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/loop.h"
#include "daemon/sess.h"
#include "proto.h"
#include <stdlib.h>

#define SLICE_NS 3000000u

struct listing {
    struct call *c;
    struct loop_timer timer;
    cJSON *reply, *list;
    uint32_t n, done;
    struct item {
        struct kvs_id id;
        uint64_t used_ns;
    } item[];
};

static int by_use(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return x->used_ns > y->used_ns ? -1 : x->used_ns < y->used_ns;
}

static void listing_free(struct listing *x)
{
    loop_timer_cancel(x->c->d->loop, &x->timer);
    cJSON_Delete(x->reply);
    free(x);
}

static void asker_left(struct call *c)
{
    listing_free(c->user);
    call_ok(c, NULL, NULL, 0); /* thrown away; frees the call */
}

static void slice(struct loop_timer *t)
{
    struct listing *x = t->user;
    struct call *c = x->c;
    uint64_t until = now_ns() + SLICE_NS;

    do {
        struct sess *s = x->done < x->n ? sess_by_id(c->d, c->uid, &x->item[x->done].id) : NULL;

        if (s)
            cJSON_AddItemToArray(x->list, sess_json(c->d, s, false));
    } while (++x->done < x->n && now_ns() < until);
    if (x->done < x->n) {
        loop_timer_set(c->d->loop, t, now_ns());
        return;
    }
    cJSON *reply = x->reply;
    x->reply = NULL;
    listing_free(x);
    c->on_gone = NULL;
    call_ok(c, reply, NULL, 0);
}

void op_session_list(struct call *c)
{
    struct listing *x;
    bool anonymous = false;
    uint32_t n = 0;

    if (want_bool(c, c->json, "all", &anonymous) < 0)
        return;
    while (sess_at(c->d, n))
        n++;
    x = calloc(1, sizeof *x + n * sizeof *x->item);
    if (!x) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct sess *s = sess_at(c->d, i);

        if (s->rec.owner == c->uid && !s->unborn &&
            (anonymous || !(s->rec.flags & KVS_SESS_ANONYMOUS)))
            x->item[x->n++] = (struct item){s->rec.id, s->rec.used_ns};
    }
    qsort(x->item, x->n, sizeof *x->item, by_use);
    x->reply = cJSON_CreateObject();
    x->list = cJSON_AddArrayToObject(x->reply, "sessions");
    x->c = c;
    x->timer = (struct loop_timer){.fire = slice, .user = x};
    c->user = x;
    c->on_gone = asker_left;
    slice(&x->timer);
}
