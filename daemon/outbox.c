/* outbox.c - see outbox.h.
 *
 * An owner's batches stand in one list, in their order.  While all of them fit, each goes to the
 * store as it is put.  When one is refused, the store refuses those submitted behind it as well
 * (kvstore.h), so that after the last of them is back the list is as it was put; from then on it
 * goes down in rounds, each begun when nothing of the owner is in flight. */
#include "daemon/outbox.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/share.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/noroom.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND_MAX = 64, KEPT_MAX = 3000 };
static const uint64_t KEPT_BYTES_MAX = 64 << 20;
static const uint64_t AGAIN_MIN_NS = 500000000u, AGAIN_MAX_NS = 5000000000u;

struct box { /* of one owner */
    uint32_t owner;
    struct out *head, *tail;
    uint32_t n_flight;
    uint64_t n_kept, kept_bytes; /* of them, in memory alone */
    int why;                     /* of the last refusal */
    bool refused;                /* in the round under way */
    bool held;                   /* somebody walks it */
    bool last;                   /* tried for the last time */
    uint64_t again_ns, pause_ns;
    struct box *next;
};
struct outbox {
    struct box *boxes;
    uint64_t n_kept, kept_bytes; /* of all */
    uint32_t n_flight;
};

int outbox_open(struct daemon *d)
{
    d->outbox = calloc(1, sizeof *d->outbox);
    return d->outbox ? 0 : -ENOMEM;
}

static struct box *box_of(const struct daemon *d, uint32_t owner)
{
    struct box *x = d->outbox->boxes;

    while (x && x->owner != owner)
        x = x->next;
    return x;
}

static struct box *box_make(struct daemon *d, uint32_t owner)
{
    struct box *x = box_of(d, owner);

    if (x || !(x = calloc(1, sizeof *x)))
        return x;
    x->owner = owner;
    x->next = d->outbox->boxes;
    d->outbox->boxes = x;
    return x;
}

static struct sess *sess_of(const struct out *o)
{
    return sess_by_id(o->d, o->owner, &o->session);
}

/* --- the list ----------------------------------------------------------------------------------- */
static uint64_t rec_bytes(const struct kvs_rec *r)
{
    switch (r->kind) {
    case KVS_REC_TOKENS: return sizeof *r + r->tokens.n * sizeof *r->tokens.ids;
    case KVS_REC_SESSION: return sizeof *r + sizeof *r->session;
    case KVS_REC_TURN: return sizeof *r + sizeof *r->turn;
    case KVS_REC_REQ: return sizeof *r + sizeof *r->req + r->req->reply_bytes;
    case KVS_REC_PART: return sizeof *r + sizeof *r->part + r->part->bytes;
    default: return sizeof *r;
    }
}

static void link_in(struct box *x, struct out *o)
{
    struct sess *s = sess_of(o);

    o->next = NULL;
    o->prev = x->tail;
    *(x->tail ? &x->tail->next : &x->head) = o;
    x->tail = o;
    if (s)
        s->out++;
}

/* It waits for room, in memory alone. */
static void keep(struct box *x, struct out *o)
{
    o->said = true;
    o->bytes = sizeof *o;
    for (uint32_t i = 0; i < o->b.n_rec; i++)
        o->bytes += rec_bytes(&o->rec[i]);
    x->kept_bytes += o->bytes;
    x->n_kept++;
    o->d->outbox->kept_bytes += o->bytes;
    o->d->outbox->n_kept++;
}

static void link_out(struct box *x, struct out *o)
{
    struct sess *s = sess_of(o);

    *(o->prev ? &o->prev->next : &x->head) = o->next;
    *(o->next ? &o->next->prev : &x->tail) = o->prev;
    if (s)
        s->out--;
    if (!o->said)
        return;
    x->kept_bytes -= o->bytes;
    x->n_kept--;
    o->d->outbox->kept_bytes -= o->bytes;
    o->d->outbox->n_kept--;
}

static void finish(struct box *x, struct out *o, int res)
{
    link_out(x, o);
    o->b.res = res;
    o->done(o);
}

/* --- submitting ---------------------------------------------------------------------------------- */

static void came_back(struct kvs_batch *b);

/* What the session is called, and its settings, as they are now. */
static void renew(struct out *o)
{
    const uint32_t mine = KVS_SESS_PINNED | KVS_SESS_ANONYMOUS;
    const struct sess *s = sess_of(o);
    struct kvs_session now;

    o->renew = false;
    if (!s || !o->place)
        return;
    sess_record(s, &now);
    memcpy(o->place->name, now.name, sizeof now.name);
    memcpy(o->place->settings, now.settings, sizeof now.settings);
    o->place->flags = (o->place->flags & ~mine) | (now.flags & mine);
}

/* 0: it is on its way; -EAGAIN: later; else it is done with. */
static int submit(struct box *x, struct out *o)
{
    int r;

    if (o->renew)
        renew(o);
    o->b.rec = o->rec;
    o->b.done = came_back;
    o->b.user = o;
    r = kvs_batch_submit(o->d->store, &o->b);
    if (r == 0) {
        o->in_flight = true;
        x->n_flight++;
        o->d->outbox->n_flight++;
    } else if (r != -EAGAIN) {
        finish(x, o, r);
    }
    return r;
}

static struct out *first_waiting(const struct box *x)
{
    struct out *o = x->head;

    while (o && o->in_flight)
        o = o->next;
    return o;
}

static void round_begin(struct box *x)
{
    bool was = x->held;

    x->refused = false;
    x->held = true;
    for (int n = 0; n < ROUND_MAX; n++) {
        struct out *o = first_waiting(x);

        if (!o || submit(x, o) == -EAGAIN)
            break;
    }
    x->held = was;
    x->again_ns =
        now_ns() + AGAIN_MIN_NS; /* should nothing come back: the store's queue is full */
}

/* Nothing is in flight any more and something found no room: in their order, those that stay hear
 * that they do, the others go. */
static void round_refused(struct box *x)
{
    struct out *next;

    x->refused = false;
    if (!x->pause_ns)
        x->pause_ns = AGAIN_MIN_NS;
    x->again_ns = now_ns() + x->pause_ns;
    for (struct out *o = x->head; o; o = next) {
        next = o->next;
        if (o->kind != OUT_KEPT) {
            finish(x, o, x->why);
        } else if (!o->said) {
            keep(x, o);
            o->refused(o, x->why);
            next = o->next; /* what it did may have put more */
        }
    }
}

static void settle(struct box *x)
{
    if (x->held || x->n_flight || !x->head)
        return;
    x->held = true;
    if (x->refused)
        round_refused(x);
    else
        round_begin(x);
    x->held = false;
}

/* What was removed is given back by and by: soon is soon enough. */
static void room_came(struct daemon *d)
{
    for (struct box *x = d->outbox->boxes; x; x = x->next)
        if (x->pause_ns) {
            x->pause_ns = 0;
            x->again_ns = now_ns() + AGAIN_MIN_NS;
        }
}

static void came_back(struct kvs_batch *b)
{
    struct out *o = b->user;
    struct daemon *d = o->d;
    struct box *x = box_of(d, o->owner);
    int res = b->res;

    must(x && o->in_flight);
    o->in_flight = false;
    x->n_flight--;
    d->outbox->n_flight--;
    if (noroom_is(res) && o->kind != OUT_FIRST) {
        x->why = res;
        x->refused = true;
    } else if (res == -ECANCELED) {
        if (o->kind == OUT_FIRST)
            (void)submit(x, o); /* -EAGAIN: with the others */
    } else {
        if (res == 0)
            x->pause_ns = 0;
        if (res == 0 && o->kind == OUT_FIRST)
            room_came(d);
        finish(x, o, res);
    }
    settle(x);
}

void outbox_put(struct daemon *d, struct out *o)
{
    struct box *x = box_make(d, o->owner);

    o->d = d;
    o->in_flight = o->said = o->renew = false;
    if (!x) {
        o->b.res = -ENOMEM;
        o->done(o);
        return;
    }
    bool behind = first_waiting(x) != NULL;
    link_in(x, o);
    if (o->kind == OUT_FIRST || !behind)
        (void)submit(x, o);
    else
        settle(x);
}

void outbox_tick(struct daemon *d)
{
    uint64_t now = now_ns();

    for (struct box **at = &d->outbox->boxes; *at;) {
        struct box *x = *at;

        if (!x->head) {
            *at = x->next;
            free(x);
            continue;
        }
        if (now >= x->again_ns && !x->n_flight) {
            x->pause_ns = x->pause_ns < AGAIN_MAX_NS / 2 ? 2 * x->pause_ns : AGAIN_MAX_NS;
            settle(x);
        }
        at = &x->next;
    }
}

bool outbox_stop(struct daemon *d)
{
    for (struct box *x = d->outbox->boxes; x; x = x->next)
        if (x->head && !x->n_flight && !x->last) {
            x->last = true;
            settle(x);
        }
    return d->outbox->n_flight == 0;
}

static void say_lost(struct daemon *d, const struct box *x)
{
    static uint64_t look = 1ull << 63;
    char why[NOROOM_WORDS], label[33];

    look++;
    for (const struct out *o = x->head; o; o = o->next) {
        struct sess *s = o->said ? sess_of(o) : NULL;

        if (!s || s->out_look == look)
            continue;
        s->out_look = look;
        log_at(LOG_ERROR_, "session \"%s\": its newest turns are lost with this stop: %s",
               sess_label(s, label), noroom_words(d, d->uid, x->why, why));
    }
}

void outbox_close(struct daemon *d)
{
    struct outbox *b = d->outbox;
    struct out *next;

    if (!b)
        return;
    while (b->boxes) {
        struct box *x = b->boxes;

        x->held = true;
        say_lost(d, x);
        for (struct out *o = x->head; o; o = next) {
            next = o->next;
            if (!o->in_flight) /* else the store still has it */
                finish(x, o, o->said ? -ESTALE : -ECANCELED);
        }
        b->boxes = x->next;
        free(x);
    }
    free(b);
    d->outbox = NULL;
}

/* --- asked ---------------------------------------------------------------------------------------- */
bool outbox_full(const struct daemon *d, uint32_t owner)
{
    const struct outbox *b = d->outbox;
    struct {
        uint64_t n, bytes;
    } own = {0, 0}, user = {0, 0};
    uint32_t uid = ident_uid(d->idents, owner);
    bool keys = ident_keys(d->idents, uid);

    for (const struct box *x = b->n_kept ? b->boxes : NULL; x; x = x->next) {
        if (ident_uid(d->idents, x->owner) != uid)
            continue;
        user.n += x->n_kept;
        user.bytes += x->kept_bytes;
        own.n += x->owner == owner ? x->n_kept : 0;
        own.bytes += x->owner == owner ? x->kept_bytes : 0;
    }
    return !share_more2(own.n, user.n, b->n_kept, KEPT_MAX, keys) ||
           !share_more2(own.bytes, user.bytes, b->kept_bytes, KEPT_BYTES_MAX, keys);
}

static bool any_kept(const struct box *x)
{
    return x->n_kept > 0;
}

int outbox_why(const struct daemon *d)
{
    for (const struct box *x = d->outbox->n_kept ? d->outbox->boxes : NULL; x; x = x->next)
        if (any_kept(x))
            return x->why;
    return 0;
}

bool outbox_waits(const struct daemon *d, uint32_t owner)
{
    const struct box *x = box_of(d, owner);

    return x && any_kept(x);
}

bool outbox_has(const struct sess *s)
{
    return s->out > 0;
}

static void hold_rec(struct kvstore *s, const struct kvs_rec *r)
{
    switch (r->kind) {
    case KVS_REC_SESSION: kvs_hold(s, &r->session->branch); break;
    case KVS_REC_BRANCH:
        kvs_hold(s, &r->branch->id);
        kvs_hold(s, &r->branch->parent);
        break;
    case KVS_REC_TOKENS: kvs_hold(s, &r->tokens.branch); break;
    case KVS_REC_TURN: kvs_hold(s, &r->turn->branch); break;
    default: break;
    }
}

void outbox_hold(struct daemon *d)
{
    for (struct box *x = d->outbox->boxes; x; x = x->next)
        for (struct out *o = x->head; o; o = o->next)
            for (uint32_t i = 0; i < o->b.n_rec; i++)
                hold_rec(d->store, &o->rec[i]);
}

/* His sessions with something kept, and two of their names. */
static uint32_t kept_sessions(const struct box *x, struct sess *ret[2])
{
    static uint64_t look;
    uint32_t n = 0;

    look++;
    for (struct out *o = x->head; o; o = o->next) {
        struct sess *s = o->said ? sess_of(o) : NULL;

        if (!s || s->out_look == look)
            continue;
        s->out_look = look;
        if (n < 2)
            ret[n] = s;
        n++;
    }
    return n;
}

bool outbox_words(struct daemon *d, uint32_t uid, char *ret, size_t cap)
{
    char why[NOROOM_WORDS], label[33], names[2 * NAME_BYTES_MAX + 64] = "";
    struct sess *s[2] = {0};
    uint32_t n = 0, others = 0;
    int res = -ENOSPC;

    for (struct box *x = d->outbox->boxes; x; x = x->next) {
        struct sess *any[2];
        uint32_t has = kept_sessions(x, any);

        if (has && (x->owner == uid || !n))
            res = x->why;
        if (x->owner == uid) {
            n = has;
            memcpy(s, any, sizeof s);
        } else {
            others += has;
        }
    }
    if (!n && !others)
        return false;
    if (n)
        snprintf(names, sizeof names, " (\"%s\"", sess_label(s[0], label));
    if (n > 1)
        snprintf(names + strlen(names), sizeof names - strlen(names), ", \"%s\"",
                 sess_label(s[1], label));
    if (n)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s)",
                 n > 2 ? ", ..." : "");
    snprintf(ret, cap,
             "turns of %u %ssession%s%s are in memory only and are written as soon as there is "
             "room; a restart before that loses them: %s",
             n ? n : others, n ? "" : "other users' ", (n ? n : others) > 1 ? "s" : "", names,
             noroom_words(d, uid, res, why));
    return true;
}

/* --- sessions that change --------------------------------------------------------------------------- */
void outbox_renew(struct daemon *d, const struct sess *s)
{
    const struct box *x = box_of(d, s->rec.owner);

    for (struct out *o = x ? x->head : NULL; o; o = o->next)
        if (memcmp(&o->session, &s->rec.id, sizeof o->session) == 0)
            o->renew = true;
}

static bool same(const struct kvs_id *a, const struct kvs_id *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static bool names(const struct kvs_rec *r, const struct kvs_id *branch)
{
    switch (r->kind) {
    case KVS_REC_SESSION: return same(&r->session->branch, branch);
    case KVS_REC_BRANCH: return same(&r->branch->parent, branch);
    case KVS_REC_TOKENS: return same(&r->tokens.branch, branch);
    case KVS_REC_TURN: return same(&r->turn->branch, branch);
    default: return false;
    }
}

/* Does anything behind o, or a request that has put nothing yet, lead to this branch? */
static bool is_needed(const struct out *o, const struct kvs_id *branch)
{
    for (const struct out *p = o->next; p; p = p->next)
        for (uint32_t i = 0; i < p->b.n_rec; i++)
            if (names(&p->rec[i], branch))
                return true;
    for (const struct req *r = o->d->gen->reqs; r; r = r->next)
        if (req_active(r) && r->br &&
            (same(&r->br->rec.id, branch) || same(&r->br->rec.parent, branch)))
            return true;
    return false;
}

static bool leads(const struct out *o)
{
    for (uint32_t i = 0; i < o->b.n_rec; i++) {
        const struct kvs_rec *r = &o->rec[i];

        if ((r->kind == KVS_REC_BRANCH && is_needed(o, &r->branch->id)) ||
            (r->kind == KVS_REC_TOKENS && is_needed(o, &r->tokens.branch)))
            return true;
    }
    return false;
}

/* Nothing of its session's is left in it: the branch, and what is on it, may be others' too. */
static void strip(struct out *o)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < o->b.n_rec; i++)
        if (o->rec[i].kind == KVS_REC_BRANCH || o->rec[i].kind == KVS_REC_TOKENS ||
            o->rec[i].kind == KVS_REC_TURN)
            o->rec[n++] = o->rec[i];
    o->b.n_rec = n;
    o->place = NULL;
    memset(&o->session, 0, sizeof o->session);
}

void outbox_gone(struct daemon *d, uint32_t owner, const struct kvs_id *session)
{
    struct box *x = box_of(d, owner);
    struct out *prev;

    /* From the newest on: one leads to those before it.  A change that was sent back, or found the
     * store's queue full, may stand here behind the removal that passed it. */
    for (struct out *o = x ? x->tail : NULL; o; o = prev) {
        prev = o->prev;
        if (o->in_flight || o->kind == OUT_FIRST || !same(&o->session, session))
            continue;
        if (o->kind == OUT_KEPT)
            strip(o);
        if (o->kind == OUT_ONCE || !leads(o))
            finish(x, o, -ESTALE);
    }
}
