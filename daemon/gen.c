/* gen.c - see gen.h: the table of requests, and how each begins and ends. */
#include "daemon/gen.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/share.h"
#include "daemon/call.h"
#include "daemon/chores.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/engd.h"
#include "daemon/ident.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/outbox.h"
#include "daemon/quota.h"
#include "daemon/req.h"
#include "daemon/steps.h"
#include "daemon/swapped.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS    500000000ull
#define KEPT_NS    (600 * 1000000000ull) /* a stream after its end */
#define COMMIT_NS  (2 * 1000000000ull)
#define PAUSE_NS   (15 * 1000000000ull) /* nobody reads: pause, then cancel */
#define UNSEEN_NS  (4 * 1000000000ull)  /* and nobody would see the end of who read */
#define ABANDON_NS (60 * 1000000000ull)
#define GIVEWAY_NS (5 * 1000000000ull) /* nobody reads, and somebody wants the session */
#define AT_WORK_NS (200 * 1000000ull)  /* since it was last looked at for a step */
#define SWEEP_NS   (60 * 1000000000ull)
enum { KEPT_MAX = 1024, ANONYMOUS_MAX = 1024, EXPIRE_MAX = 4 };

/* --- the table ----------------------------------------------------------------------------------- */
struct req *req_new(struct daemon *d, uint32_t uid, const struct kvs_id *id)
{
    struct gen *g = d->gen;
    struct req *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->magic = REQ_MAGIC;
    r->d = d;
    r->uid = uid;
    r->user = ident_uid(d->idents, uid);
    r->id = *id;
    r->arrived_ns = r->read_ns = now_ns();
    r->wall_ns = wall_ns();
    r->keep = r->durable = true;
    r->next = g->reqs;
    if (r->next)
        r->next->prev = r;
    g->reqs = r;
    g->n_reqs++;
    g->n_active++;
    return r;
}

struct req *req_find(struct daemon *d, uint32_t uid, const struct kvs_id *id)
{
    for (struct req *r = d->gen->reqs; r; r = r->next)
        if (r->uid == uid && memcmp(&r->id, id, sizeof *id) == 0)
            return r;
    return NULL;
}

/* May owner have one more?  *ret_have: of what there are too many, his or all of his user's. */
static bool active_room(const struct gen *g, uint32_t owner, uint32_t *ret_have)
{
    uint32_t own = 0, all = 0, uid = ident_uid(g->d->idents, owner);

    for (struct req *r = g->reqs; r; r = r->next) {
        own += req_active(r) && r->uid == owner;
        all += req_active(r) && r->user == uid;
    }
    *ret_have = share_more(all, g->n_active, REQ_MAX) ? own : all;
    return share_more2(own, all, g->n_active, REQ_MAX, ident_keys(g->d->idents, uid));
}

bool req_room(struct call *c)
{
    const struct gen *g = c->d->gen;
    uint32_t own;
    cJSON *extra;

    if (active_room(g, c->uid, &own))
        return true;
    extra = cJSON_CreateObject();
    cJSON_AddNumberToObject(extra, "have", own);
    cJSON_AddNumberToObject(extra, "limit", REQ_MAX);
    call_fail(c, HRT_RESOURCE_EXHAUSTED, "queue_full", extra,
              "%u of your requests are running or waiting, your share of the %d this daemon "
              "takes; wait until one has ended, or cancel one",
              own, REQ_MAX);
    return false;
}

bool req_active(const struct req *r)
{
    return r->state != REQ_DONE;
}

void gen_session_gone(struct daemon *d, const struct sess *s)
{
    for (struct req *r = d->gen ? d->gen->reqs : NULL; r; r = r->next)
        if (r->s == s)
            r->s = NULL;
}

/* It ended, or never began: the session, its branch and the model are free again. */
static void let_go(struct req *r)
{
    struct sess *s = r->s;

    branch_disown(r->br, &r->id);
    /* Refused, or not resumed after all: what a crash left open is open still. */
    if (s && s->has_open)
        sess_open_set(s, &s->open_req);
    if (s && s->running == r) {
        s->running = NULL;
        r->d->gen->freed = true;
        if (s->unborn) {
            r->s = NULL;
            sess_forget(r->d, s);
        }
    }
    if (r->using_model)
        model_unuse(r->m);
    r->using_model = false;
}

void req_free(struct req *r)
{
    struct gen *g = r->d->gen;

    must_be(r, REQ_MAGIC);
    must(!r->in_step && !r->batches && !r->kept);
    if (r->s && r->s->running == r && r->state >= REQ_QUEUED && req_active(r))
        r->s->running = NULL;
    while (r->waits)
        wait_drop(r->waits);
    if (req_active(r))
        g->n_active--;
    kvf_close(&r->q);
    let_go(r);
    branch_drop(r->d, r->br);
    if (r->prep && r->state == REQ_PREP) {
        r->prep->r = NULL; /* the worker has it; its end frees it */
        prep_cancel(&r->prep->job);
    } else {
        prepared_free(r->prep);
    }
    toks_drop(r->toks);
    stream_fini(&r->st);
    ask_fini(&r->ask);
    cJSON_Delete(r->back);
    cJSON_Delete(r->done_json);
    *(r->prev ? &r->prev->next : &g->reqs) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    g->n_reqs--;
    r->magic = 0;
    free(r);
}

void req_state(struct req *r, enum req_state to)
{
    if (r->state == to)
        return;
    r->state = (uint8_t)to;
    waits_wake(r, true);
}

void req_warn(struct req *r, const char *fmt, ...)
{
    va_list ap;

    if (r->n_warn == sizeof r->warn / sizeof *r->warn)
        return;
    va_start(ap, fmt);
    vsnprintf(r->warn[r->n_warn], sizeof *r->warn, fmt, ap);
    va_end(ap);
    for (uint32_t i = 0; i < r->n_warn; i++)
        if (strcmp(r->warn[i], r->warn[r->n_warn]) == 0)
            return;
    r->n_warn++;
}

/* --- ends ----------------------------------------------------------------------------------------- */
/* What a conversation should know of its room before it has none. */
static void warn_room(struct req *r, enum finish fin)
{
    uint64_t context = eng_info(r->m->eng)->ctx_max, n = r->toks->n;

    if (fin == FIN_LENGTH && r->bounded)
        req_warn(
            r,
            "the answer ended at %u token%s, the default in a session, so that it keeps room "
            "for the next question; -n N (max_tokens) sets another limit",
            r->n_gen, r->n_gen == 1 ? "" : "s");
    if (r->goes_on && n >= context)
        req_warn(
            r,
            "the session is full, it has all of the model's %llu tokens and takes no "
            "question more: go on in a fork at an earlier turn (`hearth sessions fork NAME "
            "NEW --turn N`; `hearth sessions show NAME` numbers them), or begin another",
            (unsigned long long)context);
    else if (r->goes_on && context - n < context / 8)
        req_warn(
            r,
            "the session has %llu of the model's %llu tokens: before it is full, ask it for a "
            "summary to begin a new one with, or fork it at an earlier turn",
            (unsigned long long)n, (unsigned long long)context);
}

void req_finish(struct req *r, enum finish fin)
{
    uint64_t now = now_ns();
    char words[sizeof *r->warn], why[NOROOM_WORDS];

    must_be(r, REQ_MAGIC);
    must(!r->in_step && r->state >= REQ_QUEUED && r->state < REQ_COMMITTING);
    if (!r->st.stopped)
        (void)stream_end(&r->st);
    if (r->state == REQ_PREFILL && r->prefill_from_ns)
        r->prefill_ns += now - r->prefill_from_ns;
    if (r->decode_from_ns)
        r->decode_ns = now - r->decode_from_ns;
    r->finish = (uint8_t)fin;
    r->ended_ns = now;
    warn_room(r, fin);
    swapped_warn(r);
    if (kvflow_fault(r->m))
        req_warn(r,
                 "finished blocks do not reach the disk, and what is not kept in memory is "
                 "computed again: %s",
                 noroom_block(r->d, r->uid, r->m, kvflow_fault(r->m), why));
    if (!quota_puts(r->d, r->uid, words, sizeof words))
        req_warn(r, "%s", words);
    kvf_close(&r->q);
    if (r->br->end < r->toks->n)
        r->br->end = r->toks->n;
    sess_place(r->d, r->s, branch_take(r->br), r->toks->n);
    toks_drop(r->s->toks);
    r->s->toks = toks_take(r->toks);
    sess_warm(r->s);
    req_state(r, REQ_COMMITTING);
    turn_end(r);
}

void req_done(struct req *r)
{
    if (r->s && sess_open_is(r->s, &r->id))
        sess_open_clear(r->s);
    let_go(r);
    /* The records say the rest; a path is megabytes, and a thousand streams are kept. */
    toks_drop(r->toks);
    r->toks = NULL;
    r->d->gen->n_active--;
    r->state = REQ_DONE;
    waits_wake(r, true);
}

void req_fail(struct req *r, uint32_t status, const char *slug, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(r->err_words, sizeof r->err_words, fmt, ap);
    va_end(ap);
    r->err_status = status;
    r->err_slug = slug;
    if (r->state >= REQ_QUEUED) {
        req_finish(r, FIN_ERROR);
        return;
    }
    /* Not admitted: nothing of it stays, and the same id may be tried again. */
    waits_fail(r);
    if (r->s && !r->s->unborn && r->s->running == r && r->br && !r->s->changed && !r->s->out)
        r->s->turns_known = false;
    if (r->batches) {
        /* A beginning that was submitted and then failed cannot happen: submit is last. */
        must(!"a batch under way of a request not admitted");
    }
    req_free(r);
}

void req_queue(struct req *r)
{
    r->queue_from_ns = now_ns();
    req_state(r, REQ_QUEUED);
    if (!gen_model(r->d->gen, r->m)) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, "out_of_memory", "no memory for a step");
        return;
    }
    gen_kick(r->d);
}

/* --- models -------------------------------------------------------------------------------------- */
struct gmodel *gen_model(struct gen *g, struct model *m)
{
    struct gmodel *gm = g->gm[m->index];

    if (!gm && (gm = calloc(1, sizeof *gm))) {
        gm->step = calloc(1, sizeof *gm->step);
        if (!gm->step) {
            free(gm);
            return NULL;
        }
        gm->gen = g;
        gm->m = m;
        const struct kv_layout *l = eng_layout(m->eng);
        uint64_t kv = (l->page_bytes[KV_HOT] + l->page_bytes[KV_COLD]) / BLOCK_TOKENS,
                 weights = eng_info(m->eng)->weight_bytes;

        turns_init(&gm->turns, weights ? (double)kv / (double)weights : 0);
        g->gm[m->index] = gm;
    }
    return gm;
}

static void gmodel_free(struct gmodel *gm)
{
    if (gm)
        free(gm->step);
    free(gm);
}

bool gen_model_forget(struct daemon *d, const struct model *m)
{
    struct gen *g = d->gen;

    for (const struct req *r = g ? g->reqs : NULL; r; r = r->next)
        if (r->m == m)
            return false;
    if (g) {
        gmodel_free(g->gm[m->index]);
        g->gm[m->index] = NULL;
    }
    return true;
}

static void model_changed(struct daemon *d, struct model *m)
{
    struct gen *g = d->gen;
    struct req *r, *next;

    if (!g)
        return;
    if (m->state == MODEL_LOADED && m->keyed)
        kvflow_model_keyed(d, m);
    for (r = g->reqs; r; r = next) {
        next = r->next;
        if (r->m != m || r->state != REQ_LOADING)
            continue;
        if (r->load_only) {
            if (m->state == MODEL_LOADED || m->state == MODEL_FAILED) {
                if (m->state == MODEL_FAILED)
                    load_failed(r);
                r->ended_ns = now_ns();
                req_done(r);
            } else {
                waits_wake(r, false);
            }
        } else if (m->state == MODEL_LOADED) {
            if (r->back)
                recover_ready(r);
            else
                admit_model_ready(r);
        } else if (m->state == MODEL_FAILED) {
            req_fail(r, HRT_FAILED_PRECONDITION, "model_load_failed", "model %s: %s", m->name,
                     m->error);
        }
    }
}

int gen_load_stream(struct daemon *d, uint32_t uid, const struct kvs_id *id, struct model *m)
{
    struct req *r = req_find(d, uid, id);
    struct kvs_req q;
    char *reply = NULL;
    uint32_t own;

    if (r)
        return r->load_only && r->m == m ? 0 : -EEXIST;
    /* A load leaves no record: what is there is another operation's. */
    if (kvs_req_get(d->store, uid, id, &q, &reply) == 0) {
        free(reply);
        return -EEXIST;
    }
    if (!active_room(d->gen, uid, &own))
        return -EAGAIN;
    r = req_new(d, uid, id);
    if (!r)
        return -ENOMEM;
    r->load_only = true;
    r->m = m;
    stream_init(&r->st, NULL, 0, 0);
    if (m->state == MODEL_LOADED || m->state == MODEL_FAILED) {
        if (m->state == MODEL_FAILED)
            load_failed(r);
        r->ended_ns = now_ns();
        req_done(r);
    }
    return 0;
}

void req_cancel(struct req *r)
{
    must(r->state < REQ_COMMITTING);
    if (r->state < REQ_QUEUED && !r->back)
        req_fail(r, HRT_CANCELLED, "cancelled", "cancelled before it was admitted");
    else if (r->in_step || r->state < REQ_QUEUED)
        r->cancel = true;
    else
        req_finish(r, FIN_CANCELLED);
}

/* --- the timer: readers that went away, commits, what is old ------------------------------------------ */
static void watch_reader(struct req *r, uint64_t now)
{
    bool waits = r->waits != NULL;

    if (waits)
        r->read_ns = now;
    if (!r->in_step && !waits && now - r->read_ns > ABANDON_NS && r->state >= REQ_QUEUED &&
        r->state < REQ_COMMITTING) {
        log_at(LOG_INFO_, "session \"%s\": nobody reads its answer, cancelled and saved",
               r->s ? r->s->rec.name : "");
        req_finish(r, FIN_CANCELLED);
        return;
    }
    req_pause(r);
}

bool req_gives_way(struct req *r, uint64_t *ret_ms)
{
    uint64_t idle = now_ns() - r->read_ns;

    *ret_ms = 0;
    if (r->state < REQ_QUEUED || r->waits)
        return false;
    if (idle < GIVEWAY_NS) {
        *ret_ms = (GIVEWAY_NS - idle) / 1000000 + 1;
        return false;
    }
    if (r->state < REQ_COMMITTING && !r->cancel) {
        log_at(LOG_INFO_, "session \"%s\": its answer has no reader and gives way, saved",
               r->s->rec.name);
        if (r->in_step)
            r->cancel = true;
        else
            req_finish(r, FIN_CANCELLED);
    }
    return true;
}

/* --- STARTs that wait for a session ------------------------------------------------------------------- */
static void parked_gone(struct call *c)
{
    struct gen *g = c->user;

    for (uint32_t i = 0; i < g->n_parked; i++)
        if (g->parked[i] == c) {
            memmove(g->parked + i, g->parked + i + 1, (--g->n_parked - i) * sizeof *g->parked);
            break;
        }
    call_ok(c, NULL, NULL, 0);
}

int gen_park(struct gen *g, struct call *c)
{
    uint32_t own = 0, all = 0, uid = ident_uid(g->d->idents, c->uid);

    for (uint32_t i = 0; i < g->n_parked; i++) {
        own += g->parked[i]->uid == c->uid;
        all += ident_uid(g->d->idents, g->parked[i]->uid) == uid;
    }
    if (!share_more2(own, all, g->n_parked, sizeof g->parked / sizeof *g->parked,
                     ident_keys(g->d->idents, uid)))
        return -EAGAIN;
    g->parked[g->n_parked++] = c;
    c->user = g;
    c->on_gone = parked_gone;
    return 0;
}

/* Each from its beginning: much may have changed. */
static void unpark(struct gen *g)
{
    struct call *list[sizeof g->parked / sizeof *g->parked];
    uint32_t n = g->n_parked;

    g->freed = false;
    memcpy(list, g->parked, n * sizeof *list);
    g->n_parked = 0;
    for (uint32_t i = 0; i < n; i++) {
        list[i]->on_gone = NULL;
        op_start(list[i]);
    }
}

void req_pause(struct req *r)
{
    bool was = r->paused;

    r->paused =
        stream_unread(&r->st, r->acked) > STREAM_UNREAD_MAX ||
        (!r->waits && now_ns() - r->read_ns > (r->reader_unseen ? UNSEEN_NS : PAUSE_NS));
    if (was && !r->paused)
        gen_kick(r->d);
}

static void expired_done(struct out *o)
{
    free(o);
}

struct expiry {
    struct out o; /* first */
    struct kvs_rec rec;
    struct kvs_session s;
};

static bool stays(const struct sess *s)
{
    return (s->rec.flags & KVS_SESS_PINNED) || s->running || s->changed || s->out ||
           s->removing;
}

static bool expire(struct daemon *d, struct sess *s)
{
    struct expiry *e = calloc(1, sizeof *e);

    if (!e)
        return false;
    sess_record(s, &e->s);
    e->rec.kind = KVS_REC_SESSION_RM;
    e->rec.session = &e->s;
    e->o.rec = &e->rec;
    e->o.b.n_rec = 1;
    e->o.kind = OUT_FIRST;
    e->o.owner = s->rec.owner;
    e->o.done = expired_done;
    outbox_put(d, &e->o);
    sess_blocks_forget(d, s);
    sess_forget(d, s);
    return true;
}

/* By time that has passed: the wall clock may have been set meanwhile. */
static double age_s(const struct daemon *d, const struct sess *s)
{
    return (double)kvs_age_ns(d->store, s->rec.used_ns) / 1e9;
}

/* The oldest of a list go while they are older than age; at most *left of them. */
static void expire_old(struct daemon *d, struct sess *s, double age, uint32_t *left)
{
    for (struct sess *next; s && *left && age_s(d, s) > age; s = next) {
        next = s->newer;
        if (!stays(s) && expire(d, s))
            --*left;
    }
}

/* What u loses first: not what stays, nor one of this minute, which may be about to be gone on with.
 * NULL: there is none. */
static struct sess *to_lose(const struct daemon *d, const struct sess_user *u)
{
    struct sess *a = u->list[SESS_BRIEF].oldest, *b = u->list[SESS_ANONYMOUS].oldest;

    while (a || b) {
        struct sess **at = !b || (a && age_s(d, a) >= age_s(d, b)) ? &a : &b, *s = *at;

        *at = s->newer;
        if (age_s(d, s) < 60)
            *at = NULL; /* nor may younger ones */
        else if (!stays(s))
            return s;
    }
    return NULL;
}

/* A user has at most so many with all of his keys: of those that have any to lose, the key that has
 * most loses its oldest. */
static void expire_most(struct daemon *d, const struct sess_group *g, uint32_t *left)
{
    while (*left && g->anonymous > ANONYMOUS_MAX) {
        struct sess *oldest = NULL, *s;
        uint32_t n, had = 0;

        for (const struct sess_user *u = d->sess->users; u; u = u->next) {
            n = u->list[SESS_BRIEF].n + u->list[SESS_ANONYMOUS].n;
            if (u->group == g && n > had && (s = to_lose(d, u))) {
                had = n;
                oldest = s;
            }
        }
        if (!oldest || !expire(d, oldest))
            return;
        --*left;
    }
}

/* A few, each user's oldest first.  true: more may be due. */
static bool expire_sessions(struct daemon *d)
{
    double keep_s = d->conf->anonymous_expire_s;
    uint32_t left = EXPIRE_MAX;

    for (struct sess_user *u = d->sess->users; u && left; u = u->next) {
        expire_old(d, u->list[SESS_BRIEF].oldest, (double)KEPT_NS / 1e9, &left);
        if (keep_s >= 0) {
            expire_old(d, u->list[SESS_ANONYMOUS].oldest, keep_s, &left);
            expire_old(d, u->list[SESS_BRIEF].oldest, keep_s, &left);
        }
    }
    for (const struct sess_group *g = d->sess->groups; g && left; g = g->next)
        expire_most(d, g, &left);
    return left == 0;
}

static void expire_piece(struct chore *x)
{
    struct gen *g = ((struct gen_expiry *)x)->gen;

    if (expire_sessions(g->d))
        return;
    chores_drop(g->d, x);
    g->expiry.on = false;
    g->swept_ns = now_ns();
}

static void forget_requests(struct gen *g, uint64_t now)
{
    struct req *r, *next;
    uint32_t kept = 0;

    for (r = g->reqs; r; r = next) {
        next = r->next;
        if (req_active(r) || r->waits || r->batches || r->kept)
            continue;
        /* What is let go early is read back from the store when it is asked for. */
        if (now - r->ended_ns > KEPT_NS || ++kept > KEPT_MAX)
            req_free(r);
    }
}

static void gen_tick(struct loop_timer *t)
{
    struct gen *g = t->user;
    uint64_t now = now_ns();
    struct req *r, *next;

    for (r = g->reqs; r; r = next) {
        next = r->next;
        if (!req_active(r) || r->load_only)
            continue;
        if (r->state == REQ_COMMITTING) {
            if (r->end_waits)
                turn_end(r);
            continue;
        }
        if (r->state == REQ_LOADING && r->back && r->m->state == MODEL_LOADED) {
            recover_ready(r);
            continue;
        }
        if (!r->cancel && reader_gone(r, now)) {
            log_at(LOG_INFO_, "session \"%s\": its reader has gone, cancelled%s",
                   r->s ? r->s->rec.name : "", r->state < REQ_QUEUED ? "" : " and saved");
            req_cancel(r);
            continue;
        }
        if (r->state < REQ_QUEUED)
            continue;
        if (now - r->sent_ns > COMMIT_NS)
            turn_commit(r);
        watch_reader(r, now);
    }
    forget_requests(g, now);
    outbox_tick(g->d);
    if (!g->expiry.on && now - g->swept_ns > SWEEP_NS) {
        /* Each costs a batch, and reading its tokens: nobody waits for thousands of them. */
        g->expiry.gen = g;
        g->expiry.chore.piece = expire_piece;
        g->expiry.on = chores_add(g->d, IDENT_FIRST, &g->expiry.chore) == 0;
    }
    for (uint32_t i = 0; i < MODELS_MAX; i++)
        if (g->gm[i])
            waits_progress(g, g->gm[i]->m);
    loop_timer_set(g->d->loop, t, now + TICK_NS);
}

/* --- open and close -------------------------------------------------------------------------------------- */
static void gen_after(void *user)
{
    struct gen *g = user;

    if (g->stopping)
        return;
    if (g->freed)
        unpark(g);
    for (uint32_t i = 0; i < MODELS_MAX; i++)
        if (g->gm[i] && g->gm[i]->m->state == MODEL_LOADED && g->gm[i]->m->kv)
            steps_run(g->gm[i]);
}

void gen_kick(struct daemon *d)
{
    struct gen *g = d->gen;

    /* A timer that is due makes the loop come round. */
    if (!g->stopping)
        loop_timer_set(d->loop, &g->kick, now_ns());
}

static void kicked(struct loop_timer *t)
{
    (void)t; /* gen_after does the work */
}

/* A request's branch, and the place of a session that is made with it: what it began to go on
 * from may have been removed since.  One that has ended writes nothing any more, and what it said
 * is in memory: its branch is its session's alone. */
void gen_hold(struct daemon *d)
{
    for (struct req *r = d->gen->reqs; r; r = r->next) {
        if (!req_active(r) && !r->batches)
            continue;
        if (r->br)
            kvs_hold(d->store, &r->br->rec.id);
        if (r->br)
            kvs_hold(d->store, &r->br->rec.parent);
        if (r->s && r->s->branch)
            kvs_hold(d->store, &r->s->branch->rec.id);
    }
    outbox_hold(d);
    ops_session_hold(d);
}

static void hold(void *ctx)
{
    gen_hold(ctx);
}

int gen_open(struct daemon *d, struct errbuf *eb)
{
    struct gen *g = calloc(1, sizeof *g);

    if (!g)
        return err_set(eb, -ENOMEM, "requests: no memory");
    g->d = d;
    d->gen = g;
    g->timer.fire = gen_tick;
    g->timer.user = g;
    g->kick.fire = kicked;
    models_on_change(d, model_changed);
    kvs_on_collect(d->store, hold, d);
    loop_after(d->loop, gen_after, g);
    loop_timer_set(d->loop, &g->timer, now_ns() + TICK_NS);
    return 0;
}

void gen_stop(struct daemon *d)
{
    struct gen *g = d->gen;
    uint64_t until, limit_s = d->conf->stop_timeout_s;

    if (!g)
        return;
    g->stopping = true;
    loop_timer_cancel(d->loop, &g->timer);
    loop_timer_cancel(d->loop, &g->kick);
    until = now_ns() + (limit_s && limit_s < 5 ? limit_s : 5) * 1000000000ull;
    struct model *m;
    for (uint32_t i = 0; (m = model_at(d, i)); i++)
        if (m->engd) /* what it would bring is not waited for */
            engd_abort(m->engd);
    for (;;) {
        struct pollfd p = {.fd = kvs_event_fd(d->store), .events = POLLIN};
        bool quiet = true;

        for (struct req *r = g->reqs; r; r = r->next) {
            if (req_active(r) && r->state >= REQ_QUEUED && r->state < REQ_COMMITTING)
                turn_commit(r);
            quiet &= r->batches == 0;
        }
        for (uint32_t i = 0; (m = model_at(d, i)); i++)
            quiet &= kvflow_model_idle(m);
        quiet &= outbox_stop(d);
        if (quiet || now_ns() > until)
            break;
        (void)poll(&p, 1, 50);
        kvs_loop_turn(d->store);
    }
}

void gen_close(struct daemon *d)
{
    struct gen *g = d->gen;

    if (!g)
        return;
    kvs_on_collect(d->store, NULL, NULL);
    g->stopping = true;
    loop_timer_cancel(d->loop, &g->timer);
    loop_timer_cancel(d->loop, &g->kick);
    while (g->n_parked) {
        struct call *c = g->parked[--g->n_parked];

        c->on_gone = NULL;
        call_fail(c, HRT_UNAVAILABLE, "shutting_down", NULL, "the daemon is stopping");
    }
    while (g->reqs) {
        struct req *r = g->reqs;

        /* Engine threads, worker, store threads and books are gone. */
        r->in_step = r->using_model = false;
        r->batches = r->kept = 0;
        if (r->state == REQ_PREP)
            r->state = REQ_LOADING;
        req_free(r);
    }
    for (uint32_t i = 0; i < MODELS_MAX; i++)
        gmodel_free(g->gm[i]);
    free(g);
    d->gen = NULL;
}

void gen_counts(struct daemon *d, struct gen_counts *ret)
{
    memset(ret, 0, sizeof *ret);
    for (struct req *r = d->gen ? d->gen->reqs : NULL; r; r = r->next) {
        ret->streams++;
        if (!req_active(r) || r->load_only)
            continue;
        if (r->state <= REQ_QUEUED)
            ret->waiting++;
        else
            ret->running++;
    }
}

bool gen_others(const struct daemon *d, uint32_t uid)
{
    for (uint32_t i = 0; d->gen && i < MODELS_MAX; i++)
        if (d->gen->gm[i] &&
            turns_others(&d->gen->gm[i]->turns.user, uid, now_ns(), AT_WORK_NS))
            return true;
    return false;
}

/* One of uid's rather than another's. */
static struct req *user_of(struct daemon *d, const struct model *m, uint32_t uid)
{
    struct req *other = NULL;

    for (struct req *r = d->gen ? d->gen->reqs : NULL; r; r = r->next)
        if (r->m == m && req_active(r)) {
            if (r->uid == uid)
                return r;
            other = r;
        }
    return other;
}

bool gen_uses(struct daemon *d, const struct model *m)
{
    return user_of(d, m, d->uid) != NULL;
}

bool gen_user(struct daemon *d, const struct model *m, uint32_t uid, char *ret, size_t cap)
{
    const struct req *r = user_of(d, m, uid);
    char hex[33], own[33];

    if (!r)
        return false;
    if (r->uid != uid) {
        snprintf(ret, cap, "a request of another user");
        return true;
    }
    hex_put(hex, r->id.b, sizeof r->id.b);
    if (r->s && !(r->s->rec.flags & KVS_SESS_ANONYMOUS)) {
        snprintf(ret, cap, "request %s of session \"%s\"", hex, r->s->rec.name);
    } else if (r->s) {
        hex_put(own, r->s->rec.id.b, sizeof r->s->rec.id.b);
        snprintf(ret, cap, "request %s of session %s", hex, own);
    } else {
        snprintf(ret, cap, "request %s", hex);
    }
    return true;
}
