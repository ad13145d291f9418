/* ops_list.c - SESSION_LIST, a few sessions at a time.
 *
 * Where a session's KV lies is found by the keys of its whole path, and those by reading and
 * hashing its tokens: a millisecond for a long one.  So the list is made in slices between
 * which the loop turns; a session that goes meanwhile is left out.  First the table is gone
 * through from its end: what takes the place of a removed one comes from there, and is seen
 * twice rather than not.  One reply holds the LIST_MAX used last, and says where the next goes on. */
#include "base/bytes.h"
#include "base/clock.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/loop.h"
#include "daemon/sess.h"
#include "proto.h"
#include <stdlib.h>
#include <string.h>

#define SLICE_NS 3000000u
enum { LIST_MAX = 4096, LOOK_MAX = 4096, CURSOR_BYTES = 24 };

struct item {
    struct kvs_id id;
    uint64_t used_ns;
};
struct listing {
    struct call *c;
    struct loop_timer timer;
    cJSON *reply, *list;
    bool anonymous, sorted;
    bool after; /* only what comes after this: */
    struct item from;
    uint32_t look; /* how much of the table is left to be seen */
    struct item *item;
    uint32_t n, cap, done;
};

static int order(const struct item *x, const struct item *y)
{
    if (x->used_ns != y->used_ns)
        return x->used_ns > y->used_ns ? -1 : 1;
    return memcmp(&x->id, &y->id, sizeof x->id);
}

static int by_use(const void *a, const void *b)
{
    return order(a, b);
}

static void listing_free(struct listing *x)
{
    loop_timer_cancel(x->c->d->loop, &x->timer);
    cJSON_Delete(x->reply);
    free(x->item);
    free(x);
}

static void asker_left(struct call *c)
{
    listing_free(c->user);
    call_ok(c, NULL, NULL, 0); /* thrown away; frees the call */
}

/* false: no memory. */
static bool look(struct listing *x)
{
    struct daemon *d = x->c->d;

    if (x->look > d->sess->n)
        x->look = d->sess->n;
    for (uint32_t k = 0; x->look && k < LOOK_MAX; k++) {
        const struct sess *s = sess_at(d, --x->look);
        struct item it = {s->rec.id, s->rec.used_ns};

        if (s->rec.owner != x->c->uid || s->unborn ||
            (!x->anonymous && (s->rec.flags & KVS_SESS_ANONYMOUS)) ||
            (x->after && order(&it, &x->from) <= 0))
            continue;
        if (x->n == x->cap) {
            uint32_t cap = x->cap ? 2 * x->cap : 256;
            struct item *v = realloc(x->item, cap * sizeof *v);

            if (!v)
                return false;
            x->item = v;
            x->cap = cap;
        }
        x->item[x->n++] = it;
    }
    return true;
}

static void sort(struct listing *x)
{
    char hex[2 * CURSOR_BYTES + 1];
    uint8_t b[CURSOR_BYTES];

    x->sorted = true;
    uint32_t n = 0;
    if (x->n)
        qsort(x->item, x->n, sizeof *x->item, by_use);
    for (uint32_t i = 0; i < x->n; i++)
        if (n == 0 || memcmp(&x->item[n - 1].id, &x->item[i].id, sizeof x->item->id) != 0)
            x->item[n++] = x->item[i];
    x->n = n;
    cJSON_AddNumberToObject(x->reply, "left", x->n > LIST_MAX ? x->n - LIST_MAX : 0);
    if (x->n <= LIST_MAX)
        return;
    x->n = LIST_MAX;
    st64be(b, x->item[x->n - 1].used_ns);
    memcpy(b + 8, &x->item[x->n - 1].id, 16);
    hex_put(hex, b, sizeof b);
    cJSON_AddStringToObject(x->reply, "next", hex);
}

static void show(struct listing *x)
{
    struct daemon *d = x->c->d;
    struct sess *s = sess_by_id(d, x->c->uid, &x->item[x->done].id);
    bool warm = s && s->warm_bytes;

    if (!s)
        return;
    cJSON_AddItemToArray(x->list, sess_json(d, s, false));
    if (!warm) /* a look at many does not push out what is in use */
        sess_cool(s);
}

static void slice(struct loop_timer *t)
{
    struct listing *x = t->user;
    struct call *c = x->c;
    uint64_t until = now_ns() + SLICE_NS;
    bool over = false, memory = true;

    do {
        if (x->look) {
            memory = look(x);
        } else if (!x->sorted) {
            sort(x);
        } else {
            over = x->done == x->n;
            if (!over)
                show(x);
            x->done += !over;
        }
    } while (memory && !over && now_ns() < until);
    if (memory && !over) {
        loop_timer_set(c->d->loop, t, now_ns());
        return;
    }
    cJSON *reply = x->reply;
    x->reply = NULL;
    listing_free(x);
    c->on_gone = NULL;
    if (memory) {
        call_ok(c, reply, NULL, 0);
        return;
    }
    cJSON_Delete(reply);
    call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory for the list");
}

void op_session_list(struct call *c)
{
    struct listing *x;
    uint8_t from[CURSOR_BYTES];
    bool anonymous = false;
    int r;

    if (want_bool(c, c->json, "all", &anonymous) < 0)
        return;
    r = want_hex(c, c->json, "after", from, sizeof from);
    if (r < 0)
        return;
    x = calloc(1, sizeof *x);
    if (!x) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return;
    }
    x->anonymous = anonymous;
    x->look = c->d->sess->n;
    x->after = r > 0;
    if (r > 0) {
        x->from.used_ns = ld64be(from);
        memcpy(&x->from.id, from + 8, 16);
    }
    x->reply = cJSON_CreateObject();
    x->list = cJSON_AddArrayToObject(x->reply, "sessions");
    x->c = c;
    x->timer = (struct loop_timer){.fire = slice, .user = x};
    c->user = x;
    c->on_gone = asker_left;
    slice(&x->timer);
}
