/* sess_lost.c - what damage took from sessions: where they stand now, and that it stays so.  See
 * sess.h.
 *
 * A session that lost tokens stands at the end of those that its branch has left, and so does
 * everybody else who stood behind: whoever goes on first appends to that branch.  So a place that
 * damage moved is written down before anything can be: else the next start would find the record's
 * head inside of what another has said. */
#include "base/check.h"
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/outbox.h"
#include "daemon/sess.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char lost_key[] = "lost";

void sess_lost_set(struct sess *s, uint64_t from, uint64_t to)
{
    char v[48];

    s->rec.flags |= KVS_SESS_LOST;
    s->lost_from = from;
    s->lost_to = to;
    snprintf(v, sizeof v, "%" PRIu64 "-%" PRIu64, from, to);
    if (to > from) /* without room for it the mark alone outlives a restart */
        (void)sess_setting_set(s, lost_key, v);
}

void sess_lost_clear(struct sess *s)
{
    if (!(s->rec.flags & KVS_SESS_LOST))
        return;
    s->rec.flags &= ~(uint32_t)KVS_SESS_LOST;
    (void)sess_setting_set(s, lost_key, NULL);
}

bool sess_lost(const struct sess *s, char *ret, size_t cap, bool *ret_none)
{
    const char *name = s->rec.name;
    char hex[33];

    *ret_none = false;
    if (!(s->rec.flags & KVS_SESS_LOST))
        return false;
    hex_put(hex, s->rec.id.b, sizeof s->rec.id.b);
    if (!name[0])
        name = hex;
    *ret_none = s->head == 0 && s->lost_to > 0;
    if (*ret_none)
        snprintf(ret, cap, "session \"%s\": all of its %llu tokens were lost to damage on disk",
                 name, (unsigned long long)s->lost_to);
    else if (s->lost_to > s->lost_from)
        snprintf(ret, cap,
                 "session \"%s\": %llu of its %llu tokens were lost to damage on disk; it %s "
                 "at token %llu, before them",
                 name, (unsigned long long)(s->lost_to - s->lost_from),
                 (unsigned long long)s->lost_to, s->head > s->lost_from ? "went on" : "stands",
                 (unsigned long long)s->lost_from);
    else
        snprintf(
            ret, cap,
            "session \"%s\": its newest turns, or the record of one, may have been lost to "
            "damage on disk: look at it before you go on",
            name);
    return true;
}

/* --- at a start --------------------------------------------------------------------------------- */
struct newer {
    struct kvstore *store;
    uint64_t used, after; /* by kvs_lived_ns: the wall clock may have been set back */
    struct kvs_turn found;
    bool is;
};

static int newer_each(void *ctx, const struct kvs_turn *k)
{
    struct newer *n = ctx;

    if (n->is || k->first < n->after || kvs_lived_ns(n->store, k->time_ns) <= n->used ||
        k->role == KVS_ROLE_ASSISTANT || sess_turn_of(k).ingest)
        return 0;
    n->found = *k;
    n->is = true;
    return 0;
}

/* Older versions wrote no such place down, and others may have gone on in the branch since: with an
 * input (an answer or a document that was under way gets a later time when it ends) that was made
 * after s was used last, and not by s.  Where the first of them begins; UINT64_MAX: none. */
static uint64_t others_begin(struct daemon *d, const struct sess *s, uint64_t end)
{
    struct newer n = {.store = d->store, .used = kvs_lived_ns(d->store, s->rec.used_ns)};
    struct kvs_req q;
    char *reply;

    for (;;) {
        n.is = false;
        if (kvs_turns(d->store, &s->branch->rec.id, end, newer_each, &n) < 0 || !n.is)
            return UINT64_MAX;
        reply = NULL;
        bool other = kvs_req_get(d->store, s->rec.owner, &n.found.request, &q, &reply) == 0 &&
                     memcmp(&q.session, &s->rec.id, sizeof q.session) != 0;
        free(reply);
        if (other)
            return n.found.first;
        n.after = n.found.first + 1;
    }
}

static bool lost_kept(struct sess *s)
{
    char v[48], *end;

    if (!(s->rec.flags & KVS_SESS_LOST) || !sess_setting(s, lost_key, v, sizeof v)[0])
        return false;
    s->lost_from = strtoull(v, &end, 10);
    s->lost_to = *end == '-' ? strtoull(end + 1, NULL, 10) : 0;
    return s->lost_to > s->lost_from;
}

void sess_lost_load(struct daemon *d, struct sess *s)
{
    static const struct kvs_id none;
    uint64_t was = s->rec.head, whole = was, others;
    bool kept = lost_kept(s);

    if (!kept)
        s->lost_from = s->lost_to = was;
    if (s->branch) {
        whole = s->branch->end < was ? s->branch->end : was;
        if ((s->rec.flags & KVS_SESS_LOST) && !kept &&
            (others = others_begin(d, s, whole)) < whole)
            whole = others;
    } else if (memcmp(&s->rec.branch, &none, sizeof none) != 0) {
        /* Its record stays as it is: it leads to the branch, should that be found again. */
        s->rec.flags |= KVS_SESS_LOST;
        s->lost_from = 0;
        return;
    }
    s->head = whole;
    if (whole == was)
        return;
    s->rec.head = whole;
    s->moved = true;
    sess_lost_set(s, whole, was > s->lost_to ? was : s->lost_to);
}

struct moved {
    struct out o; /* first */
    struct kvs_rec rec;
    struct kvs_session s;
};

static void moved_refused(struct out *o, int res)
{
    (void)o, (void)res; /* it goes down before all that its owner does next */
}

static void moved_done(struct out *o)
{
    const struct moved *w = (struct moved *)o;

    if (o->b.res < 0 && o->b.res != -ESTALE)
        log_at(LOG_ERROR_,
               "session \"%s\": that it stands at token %llu now could not be written: %s",
               w->s.name, (unsigned long long)w->s.head, err_str(o->b.res));
    free(o);
}

int sess_lost_write(struct daemon *d)
{
    struct moved *w;

    for (uint32_t i = 0; i < d->sess->n; i++) {
        struct sess *s = d->sess->s[i];

        if (!s->moved)
            continue;
        if (!(w = calloc(1, sizeof *w)))
            return -ENOMEM;
        s->moved = false;
        sess_record(s, &w->s);
        w->rec.kind = KVS_REC_SESSION;
        w->rec.session = &w->s;
        w->o.rec = &w->rec;
        w->o.b.n_rec = 1;
        w->o.kind = OUT_KEPT;
        w->o.owner = s->rec.owner;
        w->o.session = s->rec.id;
        w->o.place = &w->s;
        w->o.refused = moved_refused;
        w->o.done = moved_done;
        outbox_put(d, &w->o);
    }
    return 0;
}
