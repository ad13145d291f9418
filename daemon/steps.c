/* steps.c - see steps.h.
 *
 * Runs once per round of the loop.  A request gets its pages when there are enough; while
 * blocks come up it waits; then each step takes what sched_plan() chooses of it.  A step
 * belongs to the engine thread until step_done(): a request in it keeps its pages and its
 * token array where they are. */
#include "daemon/steps.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/engd.h"
#include "daemon/model.h"
#include "daemon/prep.h"
#include "daemon/req.h"
#include "daemon/sched.h"
#include "daemon/turns.h"
#include "engine/engine.h"
#include "proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* So many times as long as one decode alone may a step take while another user may come. */
enum { CHUNK_DEFAULT = 512, CAP_STEPS = 2 };
#define OTHERS_NS        (10 * 1000000000ull) /* somebody else was here: he may come again */
#define CAP_MIN_NS       4000000ull /* what nobody notices: shorter steps cost more than they do */
#define RECENT_MAX       4096
#define PREFILL_GUESS_NS 1000000 /* a token, before anything was measured */
#define ALONE_US         400000  /* a client that leaves ends its request within a second */

/* Rows that must be there before the request can end (ingest) or pick its next token. */
static uint64_t rows_wanted(const struct req *r)
{
    return r->ingest ? r->toks->n - 1 : r->toks->n;
}

/* --- pages -------------------------------------------------------------------------------------- */
/* Who holds pages, each with what it may come to. */
struct holders {
    struct req *r[STEP_SEQS_MAX + 1];
    uint32_t n;
};
struct pages { /* what a user holds, and one of his keys */
    uint32_t user, owner;
};

static void holders_of(struct gmodel *gm, struct holders *ret)
{
    ret->n = 0;
    for (struct req *r = gm->gen->reqs; r && ret->n <= STEP_SEQS_MAX; r = r->next)
        if (r->m == gm->m && r->q.attached)
            ret->r[ret->n++] = r;
}

static struct pages pages_of(const struct holders *h, const struct req *of)
{
    struct pages p = {0};

    for (uint32_t i = 0; i < h->n; i++) {
        const struct req *r = h->r[i];
        uint32_t n = (uint32_t)(r->toks->n / BLOCK_TOKENS + 1);

        p.user += r->user == of->user ? n : 0;
        p.owner += r->uid == of->uid ? n : 0;
    }
    return p;
}

/* Of those who wait: the user who holds least goes first, of those the one who has had least; so
 * among his keys; of one key the request that came first. */
static bool queued_before(struct gmodel *gm, const struct req *r, struct pages p,
                          const struct req *b, struct pages q)
{
    const struct turns *t = &gm->turns;
    uint64_t had, least;

    if (r->uid == b->uid)
        return r->arrived_ns < b->arrived_ns;
    if (r->user != b->user) {
        if (p.user != q.user)
            return p.user < q.user;
        had = turns_spent(&t->user, r->user);
        least = turns_spent(&t->user, b->user);
    } else {
        if (p.owner != q.owner)
            return p.owner < q.owner;
        had = turns_spent(&t->owner, r->uid);
        least = turns_spent(&t->owner, b->uid);
    }
    return had != least ? had < least : r->arrived_ns < b->arrived_ns;
}

static struct req *next_queued(struct gmodel *gm)
{
    struct req *best = NULL;
    struct pages p, q = {0};
    struct holders h;

    holders_of(gm, &h);
    for (struct req *r = gm->gen->reqs; r; r = r->next) {
        if (r->m != gm->m || r->state != REQ_QUEUED || r->load_only || r->paused)
            continue;
        p = pages_of(&h, r);
        if (best && !queued_before(gm, r, p, best, q))
            continue;
        best = r;
        q = p;
    }
    return best;
}

/* Does x go before b when somebody must give pages up: more of its user, more of its key, begun
 * later. */
static bool holds_more(const struct req *x, struct pages p, const struct req *b, struct pages q)
{
    if (x->user != b->user && p.user != q.user)
        return p.user > q.user;
    if (x->user == b->user && x->uid != b->uid && p.owner != q.owner)
        return p.owner > q.owner;
    return (x->user == b->user) && x->arrived_ns > b->arrived_ns;
}

/* An answer of r's own key that nobody reads: it can wait without pages as well. */
static struct req *unread_of(const struct holders *h, const struct req *r)
{
    for (uint32_t i = 0; i < h->n; i++)
        if (h->r[i]->uid == r->uid && h->r[i]->paused && !h->r[i]->in_step)
            return h->r[i];
    return NULL;
}

/* There is no room for r.  A user who holds more than he would if all had the same gives up what
 * the one of his keys that holds most began last, if r's would not hold more than that with it.
 * Where no other does, so it is between r's key and the others of its user; then r's key gives. */
static struct req *over_share(struct gmodel *gm, const struct req *r, uint32_t need)
{
    struct req *other = NULL, *same = NULL;
    struct pages mine, most = {0}, near = {0};
    struct holders h;

    holders_of(gm, &h);
    mine = pages_of(&h, r);
    for (uint32_t i = 0; i < h.n; i++) {
        struct req *x = h.r[i];
        struct pages p = pages_of(&h, x);

        if (x->uid == r->uid || x->in_step)
            continue;
        if (x->user != r->user && (!other || holds_more(x, p, other, most))) {
            most = p;
            other = x;
        } else if (x->user == r->user && (!same || holds_more(x, p, same, near))) {
            near = p;
            same = x;
        }
    }
    if (other && most.user > mine.user + need)
        return other;
    if (same && near.owner > mine.owner + need)
        return same;
    return unread_of(&h, r);
}

static void send_back(struct req *r)
{
    kvf_detach(&r->q);
    r->queue_from_ns = now_ns();
    req_state(r, REQ_QUEUED);
}

static uint32_t attached_count(struct gmodel *gm)
{
    uint32_t n = 0;

    for (struct req *r = gm->gen->reqs; r; r = r->next)
        n += r->m == gm->m && r->q.attached;
    return n;
}

/* Right after a model's first load its weights are still being hashed, and what the store
 * holds cannot be asked for.  Waiting pays as long as it costs less than half of computing
 * the input again. */
static bool awaits_key(const struct gmodel *gm, const struct req *r)
{
    uint64_t ns = gm->prefill_ns_per_tok ? gm->prefill_ns_per_tok : PREFILL_GUESS_NS;

    return !gm->m->keyed && r->toks->n >= BLOCK_TOKENS &&
           now_ns() - r->queue_from_ns < r->toks->n * ns / 2;
}

/* Who holds least first, of one user first come, first served; with others at work only when
 * some room is left for their growth, or the newcomer would be sent away again at once. */
static void give_pages(struct gmodel *gm)
{
    struct req *r, *over;

    while ((r = next_queued(gm))) {
        uint32_t others = attached_count(gm);
        uint32_t need = (uint32_t)(rows_wanted(r) / BLOCK_TOKENS + 1);
        int res;

        if (awaits_key(gm, r))
            return;
        /* Until r has its pages nobody else gets any: who was sent back would take them again. */
        while ((others && kvf_pages_free(gm->m) < need + others) || others >= STEP_SEQS_MAX) {
            if (!(over = over_share(gm, r, need)))
                return;
            send_back(over);
            others--;
        }
        r->q.toks = r->toks;
        res = kvf_attach(&r->q, rows_wanted(r));
        if (res == -EAGAIN && !others && kvf_pages(gm->m) < need) {
            req_fail(r, HRT_RESOURCE_EXHAUSTED, "out_of_memory",
                     "%llu tokens need %u pages of KV memory, model %s has %u",
                     (unsigned long long)r->toks->n, need, gm->m->name, kvf_pages(gm->m));
            continue;
        }
        if (res < 0)
            return; /* blocks still going down hold pages; their end brings us back */
        r->queue_ns += now_ns() - r->queue_from_ns;
        r->restore_from_ns = now_ns();
        req_state(r, REQ_RESTORING);
    }
}

/* Blocks are here (or were lost): from now on it takes part in steps. */
static void restored(struct req *r)
{
    uint64_t from, to, now = now_ns(), want = rows_wanted(r);

    r->restore_ns += now - r->restore_from_ns;
    r->prefill_from_ns = now;
    r->evaluated = kvf_gap(&r->q, want, &from, &to) ? from : want;
    if (!r->preempted) {
        uint64_t here = r->q.from_device + r->q.from_host + r->q.from_file;

        r->found_device = r->q.from_device;
        r->found_host = r->q.from_host;
        r->found_file = r->q.from_file;
        /* The last token is evaluated in any case, for its logits; rows that lie beyond the
         * prompt (an answer that goes on) are not the prompt's. */
        for (uint64_t over = here > r->n_prompt - 1 ? here - (r->n_prompt - 1) : 0; over;) {
            uint64_t *most = r->found_device ? &r->found_device
                             : r->found_host ? &r->found_host
                                             : &r->found_file;
            uint64_t cut = over < *most ? over : *most;

            *most -= cut;
            here -= cut;
            over -= cut;
        }
        r->reused = here;
        r->resumed = r->evaluated;
    }
    r->preempted = true; /* the next time is a return, not a beginning */
    if (r->q.corrupt)
        req_warn(r, "%u stored %s computed again", r->q.corrupt,
                 r->q.corrupt == 1 ? "block was damaged and is"
                                   : "blocks were damaged and are");
    else if (r->q.lost)
        req_warn(r, "%u stored %s computed again", r->q.lost,
                 r->q.lost == 1 ? "block could not be read and is"
                                : "blocks could not be read and are");
    r->q.corrupt = r->q.lost = 0;
    req_state(r, REQ_PREFILL);
}

/* The youngest lets go so that the others can go on; what it had stays in the book and in the
 * store for when its turn comes again. */
static bool send_back_youngest(struct gmodel *gm)
{
    struct req *young = NULL;
    uint32_t n = 0;

    for (struct req *r = gm->gen->reqs; r; r = r->next) {
        if (r->m != gm->m || !r->q.attached)
            continue;
        n++;
        if (!young || r->arrived_ns > young->arrived_ns)
            young = r;
    }
    if (n < 2) {
        if (young && kvf_pages_free(gm->m) == 0 && young->q.loading == 0) {
            struct kvflow_usage u;

            kvflow_usage(gm->gen->d, gm->m, &u);
            if (u.dirty == 0)
                req_fail(young, HRT_RESOURCE_EXHAUSTED, "out_of_memory",
                         "the answer has grown beyond the KV memory of model %s (%u pages)",
                         gm->m->name, kvf_pages(gm->m));
        }
        return false;
    }
    send_back(young);
    return true;
}

/* --- planning ------------------------------------------------------------------------------------- */
struct views {
    struct sched_seq seq[REQ_MAX];
    struct req *req[REQ_MAX];
    uint32_t n;
};

static void view_add(struct gmodel *gm, struct views *v, struct req *r, uint64_t now)
{
    uint64_t want = rows_wanted(r), from, to;
    struct sched_seq *s = &v->seq[v->n];

    if (!kvf_gap(&r->q, want, &from, &to)) {
        if (!r->begun)
            return; /* see item_done */
        from = want - 1;
        to = want;
    }
    memset(s, 0, sizeof *s);
    s->id = v->n;
    s->ready = true;
    s->decoding = r->n_gen > 0 && to - from == 1;
    s->pos = from;
    s->todo = to - from;
    s->wait_us = (now - (r->ran_ns ? r->ran_ns : r->arrived_ns)) / 1000;
    turns_see(&gm->turns, r->user, r->uid, now, &s->user.n, &s->key.n);
    s->row_ns = turns_row_ns(&gm->turns, from);
    v->req[v->n++] = r;
}

static void view_who(struct sched_who *w, const struct turns_list *l, uint64_t now)
{
    w->spent_ns = l->who[w->n].spent_ns;
    w->idle_ns = now - l->who[w->n].ran_ns;
}

static void collect(struct gmodel *gm, struct views *v)
{
    uint64_t now = now_ns();
    struct req *r, *next;

    v->n = 0;
    turns_begin(&gm->turns);
    for (r = gm->gen->reqs; r; r = next) {
        uint64_t from, to;

        next = r->next;
        if (r->m != gm->m || !r->q.attached || r->q.loading)
            continue;
        if (r->state == REQ_RESTORING)
            restored(r);
        if (r->cancel) {
            req_finish(r, FIN_CANCELLED);
            continue;
        }
        if (r->ingest && !kvf_gap(&r->q, rows_wanted(r), &from, &to)) {
            r->evaluated = rows_wanted(r);
            req_finish(r, FIN_STOP);
            continue;
        }
        if (!r->paused && v->n < REQ_MAX)
            view_add(gm, v, r, now);
    }
    turns_settle(&gm->turns);
    for (uint32_t i = 0; i < v->n; i++) {
        view_who(&v->seq[i].user, &gm->turns.user, now);
        view_who(&v->seq[i].key, &gm->turns.owner, now);
    }
}

/* Work beside the steps rests for those whose they are. */
static void work_beside(struct daemon *d, const struct views *v)
{
    uint32_t uid = v->n ? v->req[0]->user : PREP_OF_NOBODY;

    for (uint32_t i = 1; i < v->n; i++)
        if (v->req[i]->user != uid)
            uid = PREP_OF_MANY;
    prep_beside(d->prep, uid);
}

static void step_done(struct engd_step *s);

/* One planned run into the step; false: no page for it. */
static bool step_add(struct gmodel *gm, struct req *r, uint64_t pos, uint32_t n, bool prefill)
{
    struct engd_step *s = gm->step;
    uint32_t i = s->step.n_seqs;
    struct eng_seq *q = &s->seq[i];
    struct engd_pick *k = &s->pick[i];
    uint64_t from, to, known = r->toks->n;
    bool again = !kvf_gap(&r->q, pos + n, &from, &to);

    if (kvf_prepare(&r->q, pos, n) < 0)
        return false;
    memset(q, 0, sizeof *q);
    memset(k, 0, sizeof *k);
    q->tokens = r->toks->p + pos;
    q->n = n;
    q->pos = pos;
    q->store_from = again ? pos + n : pos;
    for (int part = 0; part < KV_PART_; part++)
        q->pages[part] = r->q.table[part];
    q->n_pages = r->q.n_blocks;
    gm->item[i] = (struct run_item){.r = r, .pos = pos, .n = n};
    if (!r->ingest && pos + n == known) {
        k->params = &r->ask.smp;
        k->n_recent = known < RECENT_MAX ? (uint32_t)known : RECENT_MAX;
        k->recent = r->toks->p + known - k->n_recent;
        k->pos = known;
        gm->item[i].picks = true;
    }
    gm->n_prefill += prefill ? n : 0;
    r->in_step = true;
    s->step.n_seqs++;
    return true;
}

/* While others come and go, they shall not wait for a long step that has just begun. */
static uint64_t cap_ns(const struct gmodel *gm, const struct views *v)
{
    uint64_t goal = (uint64_t)gm->gen->d->conf->step_goal_ms * 1000000,
             few = CAP_STEPS * (gm->turns.base_ns + turns_row_ns(&gm->turns, 0));

    if (!turns_others(&gm->turns.owner, v->req[0]->uid, now_ns(), OTHERS_NS))
        return 0;
    few = few > CAP_MIN_NS ? few : CAP_MIN_NS;
    return few < goal ? few : goal;
}

void steps_run(struct gmodel *gm)
{
    struct daemon *d = gm->gen->d;
    struct engd_step *s = gm->step;
    struct sched_view view = {0};
    struct sched_plan plan;
    static struct views v; /* the loop thread's own; too large for its stack */

    if (!gm->m->engd)
        prep_beside(d->prep, PREP_OF_NOBODY);
    if (!gm->m->engd || engd_busy(gm->m->engd))
        return;
    give_pages(gm);
    collect(gm, &v);
    work_beside(d, &v);
    if (v.n == 0)
        return;
    view.seq = v.seq;
    view.seqs = v.n;
    view.pages_free = kvf_pages_free(gm->m);
    view.chunk_max = d->conf->step_tokens ? d->conf->step_tokens : CHUNK_DEFAULT;
    view.cap_ns = cap_ns(gm, &v);
    view.users_come = turns_others(&gm->turns.user, v.req[0]->user, now_ns(), OTHERS_NS);
    view.base_ns = gm->turns.base_ns;
    view.goal_us = d->conf->step_goal_ms * 1000;
    view.step_us = gm->step_us;
    view.chunk_max = sched_chunk(view.chunk_max, ALONE_US, gm->prefill_ns_per_tok);
    /* Small chunks cost more a token than the large ones of an undisturbed prefill. */
    view.prefill_ns_per_tok =
        gm->mixed_ns_per_tok ? gm->mixed_ns_per_tok : gm->prefill_ns_per_tok / 2 * 3;
    sched_plan(&view, &plan);
    costly(!sched_check(&view, &plan));
    memset(&s->step, 0, sizeof s->step);
    gm->n_items = gm->n_prefill = 0;
    for (uint32_t i = 0; i < plan.runs; i++) {
        const struct sched_seq *q = &v.seq[plan.run[i].seq];

        (void)step_add(gm, v.req[plan.run[i].seq], q->pos, plan.run[i].n, !q->decoding);
    }
    gm->n_items = s->step.n_seqs;
    if (gm->n_items == 0) {
        if (send_back_youngest(gm))
            gen_kick(d);
        return;
    }
    s->done = step_done;
    s->user = gm;
    if (engd_submit(gm->m->engd, s) < 0)
        must(!"an engine thread that is not busy takes a step");
}

/* --- what a step brought ------------------------------------------------------------------------------ */
/* A running mean that follows within a few steps. */
static void mean(uint32_t *m, uint64_t v)
{
    uint32_t now = v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;

    *m = *m ? *m - *m / 4 + now / 4 : now;
}

static void measure(struct gmodel *gm, uint64_t us, uint64_t now)
{
    uint64_t rows = 0, positions = 0;
    double part[STEP_SEQS_MAX], all = 0;
    uint32_t decoders = 0;

    for (uint32_t i = 0; i < gm->n_items; i++) {
        const struct run_item *it = &gm->item[i];

        decoders += it->r->n_gen > 0 && it->n == 1;
        rows += it->n;
        positions += it->n * it->pos;
        all += part[i] = (double)turns_row_ns(&gm->turns, it->pos) * it->n;
    }
    for (uint32_t i = 0; i < gm->n_items; i++)
        turns_spend(&gm->turns, gm->item[i].r->user, gm->item[i].r->uid,
                    (uint64_t)((double)us * 1000 * part[i] / all), now);
    turns_measure(&gm->turns, us, rows, positions);
    if (gm->n_prefill == 0)
        mean(&gm->step_us, us);
    else if (decoders && gm->n_prefill >= 8)
        mean(&gm->mixed_ns_per_tok,
             us > gm->step_us ? (us - gm->step_us) * 1000 / gm->n_prefill : 1);
    else if (gm->n_prefill >= 16)
        mean(&gm->prefill_ns_per_tok, us * 1000 / gm->n_prefill);
}

/* A token was picked for r. */
static void picked(struct req *r, const struct smp_result *p, uint64_t now)
{
    const struct tokenizer *tok = eng_tokenizer(r->m->eng);
    uint64_t context = eng_info(r->m->eng)->ctx_max;
    bool end = !r->ask.ignore_eos && tok_is_end(tok, p->id), full;

    if (r->n_gen == 0) {
        r->first_token_ns = now;
        r->decode_from_ns = now;
    } else if (!r->decode_from_ns) {
        r->decode_from_ns = now;
    }
    if (r->state == REQ_PREFILL) {
        r->prefill_ns += now - r->prefill_from_ns;
        r->state = REQ_DECODE;
    }
    if (toks_append(r->toks, &p->id, 1) < 0) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, "out_of_memory", "no memory for the answer");
        return;
    }
    r->n_gen++;
    full = (r->ask.max_tokens >= 0 && r->n_gen >= (uint64_t)r->ask.max_tokens) ||
           r->toks->n >= context;
    if (stream_token(&r->st, tok, p->id, p->logprob, p->top, p->n_top, end || full) < 0) {
        req_fail(r, HRT_RESOURCE_EXHAUSTED, "out_of_memory", "no memory for the answer");
        return;
    }
    if (end || r->st.stopped) {
        r->eot = end;
        req_finish(r, FIN_STOP);
    } else if (full) {
        req_finish(r, FIN_LENGTH);
    } else if (r->cancel) {
        req_finish(r, FIN_CANCELLED);
    } else {
        req_pause(r);
        waits_wake(r, true);
    }
}

static void item_done(struct gmodel *gm, const struct run_item *it, const struct engd_pick *k,
                      int res, uint64_t now)
{
    struct req *r = it->r;
    uint32_t finished;

    (void)gm;
    r->in_step = false;
    r->ran_ns = now;
    if (res == -ECANCELED)
        return; /* rows above the old end were not counted: the next step does them again */
    if (res < 0) {
        req_fail(r, HRT_INTERNAL, "internal", "the engine failed: %s", err_str(res));
        return;
    }
    finished = kvf_computed(&r->q, it->pos, it->n);
    if (it->pos + it->n > r->evaluated)
        r->evaluated = it->pos + it->n;
    if (it->pos < r->n_prompt) {
        uint64_t end = it->pos + it->n < r->n_prompt ? it->pos + it->n : r->n_prompt;

        r->prefilled += end - it->pos;
    }
    /* Nobody hears a token before seed and parameters are durable, which they mostly are by now;
     * else the same one is picked again when they are. */
    if (it->picks && !r->begun) {
        waits_wake(r, false);
        return;
    }
    if (it->picks && k->res < 0) {
        log_at(LOG_WARN_, "model %s: no token after %llu of a sequence: %s", r->m->name,
               (unsigned long long)k->pos, err_str(k->res));
        if (k->res == -EINVAL)
            req_fail(r, HRT_INVALID_ARGUMENT, "bad_field",
                     "params.logit_bias: no token is left to choose from");
        else
            req_fail(r, HRT_INTERNAL, "internal",
                     "after %llu tokens the model's output is not a number any more: its "
                     "weights do not carry this text; what was said before is kept",
                     (unsigned long long)k->pos);
        return;
    }
    if (it->picks) {
        picked(r, &k->result, now);
        if (r->state == REQ_DECODE && finished)
            turn_commit(r);
        return;
    }
    waits_wake(r, false);
}

static void step_done(struct engd_step *s)
{
    struct gmodel *gm = s->user;
    uint64_t now = now_ns(), us = (s->ended_ns - s->started_ns) / 1000;
    uint32_t n = gm->n_items;

    if (s->res == 0)
        measure(gm, us, now);
    else if (s->res != -ECANCELED)
        log_at(LOG_ERROR_, "model %s: a step of %u sequences failed: %s", gm->m->name, n,
               err_str(s->res));
    /* Cleared first: an item's end may lead back here by way of the plan. */
    gm->n_items = 0;
    for (uint32_t i = 0; i < n; i++)
        item_done(gm, &gm->item[i], &s->pick[i], s->res, now);
}
