/* ops_list.c - SESSION_LIST and SESSION_SHOW, a piece at a time (chores.h).
 *
 * Where a session's KV lies is found by the keys of its whole path, and those by reading and
 * hashing its tokens: a millisecond for a long one; and thousands of sessions, or of turns, make
 * a megabyte of JSON.  So a reply's text is put together in pieces between which the loop turns,
 * and a session that goes meanwhile is left out.
 *
 * A list goes through the table from its end: what takes the place of a removed one comes from
 * there, and is seen twice rather than not.  Of what it sees it keeps the LIST_MAX used last, in
 * a heap with the oldest on top; that is then sorted, and shown one by one. */
#include "base/bytes.h"
#include "daemon/call.h"
#include "daemon/chores.h"
#include "daemon/daemon.h"
#include "daemon/noroom.h"
#include "daemon/sess.h"
#include "proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_MAX = 4096, LOOK_MAX = 1024, SORT_MAX = 256, TURNS_MAX = 64, CURSOR_BYTES = 24 };

/* --- a JSON array, made by and by ----------------------------------------------------------------- */
struct items { /* zeroed */
    char *p;   /* "[" and all items so far, not terminated */
    size_t n, cap;
};

/* Takes o.  -ENOMEM. */
static int items_add(struct items *x, cJSON *o)
{
    char *text = o ? cJSON_PrintUnformatted(o) : NULL;
    size_t n = text ? strlen(text) : 0, cap = x->cap ? x->cap : 4096;

    cJSON_Delete(o);
    while (cap < x->n + n + 3)
        cap *= 2;
    if (text && cap != x->cap) {
        char *p = realloc(x->p, cap);

        if (!p) {
            free(text);
            return -ENOMEM;
        }
        x->p = p;
        x->cap = cap;
    }
    if (!text)
        return -ENOMEM;
    x->p[x->n] = x->n ? ',' : '[';
    memcpy(x->p + x->n + 1, text, n);
    x->n += n + 1;
    free(text);
    return 0;
}

/* As member `name` of o, in place of one there may be. */
static int items_end(struct items *x, cJSON *o, const char *name)
{
    cJSON *raw;

    if (x->n)
        memcpy(x->p + x->n, "]", 2);
    raw = cJSON_CreateRaw(x->n ? x->p : "[]");
    free(x->p);
    *x = (struct items){0};
    cJSON_DeleteItemFromObjectCaseSensitive(o, name);
    return raw && cJSON_AddItemToObject(o, name, raw) ? 0 : -ENOMEM;
}

/* --- a reply, made by and by ------------------------------------------------------------------------ */
struct reply {
    struct chore chore; /* first: found through it */
    struct call *c;
    cJSON *json;
    struct items items;
    void (*free)(struct reply *x); /* what else it has; x too */
};

static void reply_free(struct reply *x)
{
    chores_drop(x->c->d, &x->chore);
    x->c->on_gone = NULL;
    cJSON_Delete(x->json);
    free(x->items.p);
    x->free(x);
}

static void asker_left(struct call *c)
{
    reply_free(c->user);
    call_ok(c, NULL, NULL, 0); /* thrown away; frees the call */
}

static void reply_no_memory(struct reply *x)
{
    struct call *c = x->c;

    reply_free(x);
    call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL,
              "no memory for the reply; ask again");
}

/* x is zeroed but for its own part; on failure it is freed, and the call has been failed. */
static void reply_begin(struct reply *x, struct call *c, void (*piece)(struct chore *x),
                        void (*own)(struct reply *x))
{
    x->c = c;
    x->free = own;
    x->chore.piece = piece;
    if (chores_add(c->d, c->uid, &x->chore) < 0) {
        cJSON_Delete(x->json);
        own(x);
        call_fail(
            c, HRT_RESOURCE_EXHAUSTED, "queue_full", NULL,
            "of %d lists and sessions that are being shown at a time yours are your share "
            "already; wait until one is here",
            CHORES_MAX);
        return;
    }
    c->user = x;
    c->on_gone = asker_left;
}

/* --- SESSION_LIST --------------------------------------------------------------------------------------- */
struct item {
    struct kvs_id id;
    uint64_t used_ns;
};
struct listing {
    struct reply r;
    bool anonymous;
    bool after; /* only what comes after this: */
    struct item from;
    uint32_t look;     /* how much of the table is left to be seen */
    struct item *item; /* a heap of heap, then sorted: the newest first */
    uint32_t n, heap, done;
    uint64_t fit; /* of them all */
};

static int order(const struct item *x, const struct item *y)
{
    if (x->used_ns != y->used_ns)
        return x->used_ns > y->used_ns ? -1 : 1;
    return memcmp(&x->id, &y->id, sizeof x->id);
}

static void swap(struct item *a, struct item *b)
{
    struct item x = *a;

    *a = *b;
    *b = x;
}

static void sink(struct listing *x)
{
    struct item *v = x->item;

    for (uint32_t at = 0, k; (k = 2 * at + 1) < x->heap; at = k) {
        if (k + 1 < x->heap && order(&v[k + 1], &v[k]) > 0)
            k++;
        if (order(&v[at], &v[k]) >= 0)
            return;
        swap(&v[at], &v[k]);
    }
}

/* Keeps it if it is among the LIST_MAX first so far. */
static void keep(struct listing *x, const struct item *it)
{
    struct item *v = x->item;

    x->fit++;
    if (x->heap == LIST_MAX) {
        if (order(it, &v[0]) >= 0)
            return;
        v[0] = *it;
        sink(x);
        return;
    }
    v[x->heap] = *it;
    for (uint32_t at = x->heap++; at && order(&v[at], &v[(at - 1) / 2]) > 0; at = (at - 1) / 2)
        swap(&v[at], &v[(at - 1) / 2]);
    x->n = x->heap;
}

static void look(struct listing *x)
{
    struct daemon *d = x->r.c->d;

    if (x->look > d->sess->n)
        x->look = d->sess->n;
    for (uint32_t k = 0; x->look && k < LOOK_MAX; k++) {
        const struct sess *s = sess_at(d, --x->look);
        struct item it = {s->rec.id, s->rec.used_ns};

        if (s->rec.owner == x->r.c->uid && !s->unborn &&
            (x->anonymous || !(s->rec.flags & KVS_SESS_ANONYMOUS)) &&
            (!x->after || order(&it, &x->from) > 0))
            keep(x, &it);
    }
}

static void sort(struct listing *x)
{
    for (uint32_t k = 0; x->heap && k < SORT_MAX; k++) {
        swap(&x->item[0], &x->item[--x->heap]);
        sink(x);
    }
}

static int show(struct listing *x)
{
    struct daemon *d = x->r.c->d;
    const struct item *it = &x->item[x->done++];
    struct sess *s = sess_by_id(d, x->r.c->uid, &it->id);
    bool warm = s && s->warm_bytes;
    int r;

    if (!s || (x->done > 1 && memcmp(&it[-1].id, &it->id, sizeof it->id) == 0))
        return 0;
    r = items_add(&x->r.items, sess_json(d, s));
    if (!warm) /* a look at many does not push out what is in use */
        sess_cool(s);
    return r;
}

static void list_end(struct listing *x)
{
    struct call *c = x->r.c;
    char hex[2 * CURSOR_BYTES + 1];
    uint8_t b[CURSOR_BYTES];
    cJSON *o = x->r.json;

    if (items_end(&x->r.items, o, "sessions") < 0) {
        reply_no_memory(&x->r);
        return;
    }
    cJSON_AddNumberToObject(o, "left", (double)(x->fit - x->n));
    if (x->fit > x->n) {
        st64be(b, x->item[x->n - 1].used_ns);
        memcpy(b + 8, &x->item[x->n - 1].id, 16);
        hex_put(hex, b, sizeof b);
        cJSON_AddStringToObject(o, "next", hex);
    }
    x->r.json = NULL;
    reply_free(&x->r);
    call_ok(c, o, NULL, 0);
}

static void list_piece(struct chore *chore)
{
    struct listing *x = (struct listing *)chore;

    if (!x->item) {
        x->item = malloc(LIST_MAX * sizeof *x->item);
        x->look = x->r.c->d->sess->n;
        if (!x->item)
            reply_no_memory(&x->r);
    } else if (x->look) {
        look(x);
    } else if (x->heap) {
        sort(x);
    } else if (x->done == x->n) {
        list_end(x);
    } else if (show(x) < 0) {
        reply_no_memory(&x->r);
    }
}

static void list_free(struct reply *r)
{
    free(((struct listing *)r)->item);
    free(r);
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
    if (!x || !(x->r.json = cJSON_CreateObject())) {
        free(x);
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return;
    }
    x->anonymous = anonymous;
    x->after = r > 0;
    if (r > 0) {
        x->from.used_ns = ld64be(from);
        memcpy(&x->from.id, from + 8, 16);
    }
    reply_begin(&x->r, c, list_piece, list_free);
}

/* --- SESSION_SHOW ----------------------------------------------------------------------------------------- */
struct showing {
    struct reply r;
    struct turn *turn;
    uint32_t n, done;
    struct toks *toks; /* NULL: not asked for */
    uint64_t head;
};

static void show_piece(struct chore *chore)
{
    struct showing *x = (struct showing *)chore;
    struct call *c = x->r.c;
    int r = 0;

    for (uint32_t k = 0; r == 0 && k < TURNS_MAX && x->done < x->n; k++) {
        x->done++;
        r = items_add(&x->r.items,
                      sess_turn_json(&x->turn[x->done - 1], x->done, x->done == x->n));
    }
    if (r == 0 && x->done < x->n)
        return;
    if (r < 0 || items_end(&x->r.items, x->r.json, "turns") < 0) {
        reply_no_memory(&x->r);
        return;
    }
    cJSON *o = x->r.json;
    struct toks *t = x->toks;
    uint64_t head = x->head;

    x->r.json = NULL;
    x->toks = NULL;
    reply_free(&x->r);
    call_ok(c, o, t ? t->p : NULL, t ? head * sizeof *t->p : 0);
    toks_drop(t);
}

static void show_free(struct reply *r)
{
    struct showing *x = (struct showing *)r;

    toks_drop(x->toks);
    free(x->turn);
    free(x);
}

void op_session_show(struct call *c)
{
    struct sess *s = op_session(c);
    struct toks *t = NULL;
    struct showing *x;
    bool ids = false;
    int r;

    if (!s || want_bool(c, c->json, "ids", &ids) < 0)
        return;
    r = sess_turns(c->d, s);
    if (noroom_later(r) || (ids && (r = sess_tokens(c->d, s, &t)) < 0)) {
        noroom_fail(c, s, r);
        return;
    }
    x = calloc(1, sizeof *x);
    if (x)
        x->r.json = sess_json(c->d, s);
    if (!x || !x->r.json || sess_turns_copy(c->d, s, &x->turn, &x->n) < 0) {
        if (x)
            cJSON_Delete(x->r.json);
        free(x);
        toks_drop(t);
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL, "no memory");
        return;
    }
    x->toks = t;
    x->head = s->head;
    reply_begin(&x->r, c, show_piece, show_free);
}
