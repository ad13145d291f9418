/* sched.c - see sched.h. */
#include "daemon/sched.h"
#include "base/check.h"
#include <string.h>

/* Before anything was measured: small enough to be harmless on a slow machine. */
enum { CHUNK_UNKNOWN = 64, CHUNK_MIN = 16 };
/* A user who comes may begin with so many steps' time; not more than one part in so many of the
 * time he has rested. */
enum { BURST_STEPS = 8, BURST_REST = 10 };

uint32_t sched_chunk(uint32_t most, uint32_t alone_us, uint32_t ns_per_tok)
{
    /* What is not known is tried with a little more than beside a decode; and for fewer rows the
     * weights are not worth reading. */
    enum { ALONE_UNKNOWN = 128, ALONE_MIN = 64 };
    uint64_t n = ns_per_tok ? (uint64_t)alone_us * 1000 / ns_per_tok : ALONE_UNKNOWN;

    if (n < ALONE_MIN)
        n = ALONE_MIN;
    return n < most ? (uint32_t)n : most;
}

/* Pages that evaluating [pos, pos + n) needs and that do not exist yet: one per block begun. */
static uint32_t pages_for(uint64_t pos, uint64_t n)
{
    uint64_t first = (pos + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    uint64_t last = (pos + n + BLOCK_TOKENS - 1) / BLOCK_TOKENS;

    return (uint32_t)(last - first);
}

/* The longest n <= want that pages allow; 0 when even one token does not fit. */
static uint64_t fit_pages(uint64_t pos, uint64_t want, uint32_t pages)
{
    uint64_t room = (pos + BLOCK_TOKENS - 1) / BLOCK_TOKENS * BLOCK_TOKENS - pos +
                    (uint64_t)pages * BLOCK_TOKENS;

    return want < room ? want : room;
}

/* Sequences that have been served, or that must wait for a page. */
struct seen {
    uint64_t bit[(REQ_MAX + 63) / 64];
};
static bool is_seen(const struct seen *s, uint32_t i)
{
    return s->bit[i / 64] >> (i % 64) & 1;
}
static void see(struct seen *s, int i)
{
    s->bit[i / 64] |= 1ull << (i % 64);
}

/* The next to serve of one kind: longest waiting first, then lower id. */
static int next_of(const struct sched_view *v, const struct seen *seen, bool decoding)
{
    int best = -1;

    for (uint32_t i = 0; i < v->seqs; i++) {
        const struct sched_seq *s = &v->seq[i], *b = best < 0 ? NULL : &v->seq[best];

        if (!s->ready || s->decoding != decoding || s->todo == 0 || is_seen(seen, i))
            continue;
        if (!b || s->wait_us > b->wait_us || (s->wait_us == b->wait_us && s->id < b->id))
            best = (int)i;
    }
    return best;
}

static uint64_t prefill_budget(const struct sched_view *v, uint32_t decoders)
{
    uint64_t left_us, n;

    if (decoders == 0)
        return v->chunk_max;
    if (v->prefill_ns_per_tok == 0)
        return CHUNK_UNKNOWN < v->chunk_max ? CHUNK_UNKNOWN : v->chunk_max;
    left_us = v->goal_us > v->step_us ? v->goal_us - v->step_us : 0;
    n = left_us * 1000 / v->prefill_ns_per_tok;
    /* Never nothing: a prefill must end even beside a decode that is itself too slow. */
    if (n < CHUNK_MIN)
        n = CHUNK_MIN;
    return n < v->chunk_max ? n : v->chunk_max;
}

/* How many prefill tokens fit into a step that takes used_ns without them; where even the weights take
 * longer than it should, as many as are worth reading them. */
static uint64_t cap_tokens(const struct sched_view *v, uint64_t used_ns)
{
    uint64_t left = v->cap_ns > used_ns ? v->cap_ns - used_ns : 0;

    if (!v->cap_ns)
        return UINT64_MAX;
    if (!v->prefill_ns_per_tok)
        return CHUNK_UNKNOWN;
    if (left < v->base_ns / 2)
        left = v->base_ns / 2;
    return left / v->prefill_ns_per_tok ? left / v->prefill_ns_per_tok : 1;
}

static uint64_t row_of(const struct sched_seq *s)
{
    return s->row_ns ? s->row_ns : 1;
}

/* Stops at the last block edge that is reached, unless that is the input's end. */
static uint64_t to_edge(const struct sched_seq *s, uint64_t n)
{
    uint64_t edge = (s->pos + n) / BLOCK_TOKENS * BLOCK_TOKENS;

    return n < s->todo && edge > s->pos ? edge - s->pos : n;
}

/* --- several users -------------------------------------------------------------------------- */
struct shares {
    uint64_t used_ns[REQ_MAX], key_used_ns[REQ_MAX]; /* in this plan */
    uint64_t each_ns;                                /* what a user may use of it */
    uint64_t burst_ns;           /* what one who comes may use instead; 0: one has */
    uint32_t keys_left[REQ_MAX]; /* of a user, that have had nothing of it */
    struct seen key_served;
    uint32_t users;
    bool of_keys; /* there is one user, and his keys are the users */
    bool in_cap;  /* and another user may come, who shall not wait for what one begins with */
    bool decoding;
};

static const struct sched_who *who_of(const struct shares *h, const struct sched_seq *s)
{
    return h->of_keys ? &s->key : &s->user;
}

/* How many users have something to run, and which of their keys. */
static void count_users(const struct sched_view *v, struct shares *ret)
{
    struct seen user, key;
    uint32_t keys = 0;

    memset(&user, 0, sizeof user);
    memset(&key, 0, sizeof key);
    for (uint32_t i = 0; i < v->seqs; i++) {
        const struct sched_seq *s = &v->seq[i];

        must(s->user.n < REQ_MAX && s->key.n < REQ_MAX);
        if (!s->ready || s->todo == 0)
            continue;
        ret->users += !is_seen(&user, s->user.n);
        ret->keys_left[s->user.n] += !is_seen(&key, s->key.n);
        keys += !is_seen(&key, s->key.n);
        see(&user, (int)s->user.n);
        see(&key, (int)s->key.n);
    }
    ret->of_keys = ret->users == 1 && keys > 1;
    if (ret->of_keys)
        ret->users = keys;
}

/* What s's user may begin with because he has rested: more than his share, or 0. */
static uint64_t burst(const struct shares *h, const struct sched_seq *s)
{
    const struct sched_who *u = who_of(h, s);
    uint64_t rest = u->idle_ns / BURST_REST, ns = rest < h->burst_ns ? rest : h->burst_ns;

    return !s->decoding && !h->used_ns[u->n] && ns > h->each_ns ? ns : 0;
}

/* May it take that beside what the step may take?  A key may not when another user may come. */
static bool on_top(const struct shares *h, const struct sched_seq *s)
{
    return burst(h, s) && !h->in_cap;
}

/* What a user may take: of a decode's time alone three quarters, since between steps more is done
 * for more. */
static void shares_of(const struct sched_view *v, struct shares *ret)
{
    uint64_t row = 0;

    memset(ret, 0, sizeof *ret);
    count_users(v, ret);
    if (!ret->users)
        return;
    for (uint32_t i = 0; i < v->seqs; i++) {
        const struct sched_seq *s = &v->seq[i];

        if (!s->ready || s->todo == 0)
            continue;
        if ((s->decoding && !ret->decoding) ||
            (s->decoding == ret->decoding && (!row || s->row_ns < row)))
            row = s->row_ns;
        ret->decoding |= s->decoding;
    }
    ret->burst_ns = BURST_STEPS * (v->base_ns + row);
    ret->in_cap = ret->of_keys && v->users_come;
    if (ret->in_cap && ret->burst_ns + v->base_ns > v->cap_ns)
        ret->burst_ns = v->cap_ns > v->base_ns ? v->cap_ns - v->base_ns : 0;
    ret->each_ns = (v->base_ns + row) / 4 * 3;
    for (uint32_t i = 0; i < v->seqs;
         i++) /* prefills make room for who comes, as for a decode */
        ret->decoding |= v->seq[i].ready && v->seq[i].todo && burst(ret, &v->seq[i]);
    if (!ret->decoding)
        ret->each_ns = v->chunk_max * row / ret->users;
    if (v->cap_ns && !ret->decoding && ret->each_ns > v->cap_ns / ret->users)
        ret->each_ns = v->cap_ns / ret->users;
    if (ret->each_ns == 0)
        ret->each_ns = 1;
}

/* Does s go before b: its user has had less, or of the same its key; of one key the one that
 * decodes, then the one that waits longest. */
static bool goes_before(const struct shares *h, const struct sched_seq *s,
                        const struct sched_seq *b)
{
    const struct sched_who *u = who_of(h, s), *w = who_of(h, b);
    uint64_t had = u->spent_ns + h->used_ns[u->n], least = w->spent_ns + h->used_ns[w->n];

    if (had == least && u->n == w->n) {
        had = s->key.spent_ns + h->key_used_ns[s->key.n];
        least = b->key.spent_ns + h->key_used_ns[b->key.n];
    }
    if (had != least)
        return had < least;
    if (s->decoding != b->decoding)
        return s->decoding;
    return s->wait_us > b->wait_us || (s->wait_us == b->wait_us && s->id < b->id);
}

static int next_shared(const struct sched_view *v, const struct seen *seen,
                       const struct shares *h)
{
    int best = -1;

    for (uint32_t i = 0; i < v->seqs; i++) {
        const struct sched_seq *s = &v->seq[i];

        if (!s->ready || s->todo == 0 || is_seen(seen, i))
            continue;
        if (best < 0 || goes_before(h, s, &v->seq[best]))
            best = (int)i;
    }
    return best;
}

/* How many tokens of s its user's part of the step holds. */
static uint64_t share_rows(const struct shares *h, const struct sched_seq *s, bool alone)
{
    const struct sched_who *u = who_of(h, s);
    uint64_t used = h->used_ns[u->n], left = h->each_ns > used ? h->each_ns - used : 0;
    uint64_t row = row_of(s), n = left / row;
    uint32_t keys =
        h->of_keys ? 1 : h->keys_left[s->user.n] + is_seen(&h->key_served, s->key.n);

    if (n > 1 && keys > 1)
        n = n / keys ? n / keys : 1;
    if (n < burst(h, s) / row)
        n = burst(h, s) / row;
    if (n == 0 && used == 0 && u->idle_ns + h->each_ns >= row)
        n = 1;
    if (n == 0 && alone)
        n = 1;
    return n < s->todo ? n : s->todo;
}

static void share_use(struct shares *h, const struct sched_seq *s, uint64_t n)
{
    uint64_t ns = n * row_of(s);

    if (burst(h, s))
        h->burst_ns = 0;
    h->used_ns[who_of(h, s)->n] += ns;
    h->key_used_ns[s->key.n] += ns;
    h->keys_left[s->user.n] -= !is_seen(&h->key_served, s->key.n);
    see(&h->key_served, (int)s->key.n);
}

/* What of n is left when the step must not be long: who comes into it has his burst all the same. */
static uint64_t cap_rows(const struct sched_view *v, const struct shares *h,
                         const struct sched_seq *s, uint64_t used_ns, uint64_t n)
{
    uint64_t left = v->cap_ns > used_ns ? v->cap_ns - used_ns : 0;

    return v->cap_ns && !on_top(h, s) && n > left / row_of(s) ? left / row_of(s) : n;
}

static void plan_shared(const struct sched_view *v, struct shares *h, struct sched_plan *ret)
{
    uint32_t pages = v->pages_free;
    uint64_t used = v->base_ns;
    uint64_t budget = v->chunk_max < STEP_TOKENS_MAX ? v->chunk_max : STEP_TOKENS_MAX;
    struct seen seen;
    int i;

    memset(&seen, 0, sizeof seen);
    while (ret->runs < STEP_SEQS_MAX && (i = next_shared(v, &seen, h)) >= 0) {
        const struct sched_seq *s = &v->seq[i];
        uint64_t n = share_rows(h, s, ret->runs == 0);

        see(&seen, i);
        if (n && ret->runs && !(n = cap_rows(v, h, s, used, n)))
            continue; /* had least, so it is among the first of the next step */
        if (!s->decoding && n > budget && !(n = budget))
            continue;
        if (n == 0) {
            h->used_ns[who_of(h, s)->n] = UINT64_MAX / 4; /* saves for it */
            continue;
        }
        n = fit_pages(s->pos, n, pages);
        if (n == 0) {
            pages = 0; /* the next free page is its */
            continue;
        }
        n = to_edge(s, n);
        pages -= pages_for(s->pos, n);
        budget -= s->decoding ? 0 : n;
        used += on_top(h, s) ? 0 : n * row_of(s);
        share_use(h, s, n);
        ret->run[ret->runs].seq = (uint32_t)i;
        ret->run[ret->runs++].n = (uint32_t)n;
    }
}

void sched_plan(const struct sched_view *v, struct sched_plan *ret)
{
    uint32_t pages = v->pages_free;
    struct shares shares;
    struct seen seen;
    uint64_t budget, used = v->base_ns, cap = v->cap_ns;
    int i;

    must(v->seqs <= REQ_MAX);
    memset(ret, 0, sizeof *ret);
    memset(&seen, 0, sizeof seen);
    shares_of(v, &shares);
    if (shares.users > 1) {
        plan_shared(v, &shares, ret);
        return;
    }
    if (cap > used && next_of(v, &seen, false) >= 0)
        cap -= (cap - used) / 2; /* the other half is for prefill */
    while (ret->runs < STEP_SEQS_MAX && (i = next_of(v, &seen, true)) >= 0) {
        uint32_t need = pages_for(v->seq[i].pos, 1);

        if (v->cap_ns && ret->runs && used + row_of(&v->seq[i]) > cap)
            break; /* they wait longest in the next step */
        see(&seen, i);
        if (need > pages) {
            /* The longest waiting gets the next free page, not a luckier one behind it. */
            pages = 0;
            continue;
        }
        pages -= need;
        used += row_of(&v->seq[i]);
        ret->run[ret->runs].seq = (uint32_t)i;
        ret->run[ret->runs++].n = 1;
    }
    budget = prefill_budget(v, ret->runs);
    if (budget > cap_tokens(v, used))
        budget = cap_tokens(v, used);
    if (budget > STEP_TOKENS_MAX - ret->runs)
        budget = STEP_TOKENS_MAX - ret->runs;
    while (budget && ret->runs < STEP_SEQS_MAX && (i = next_of(v, &seen, false)) >= 0) {
        const struct sched_seq *s = &v->seq[i];
        uint64_t n = s->todo < budget ? s->todo : budget;

        see(&seen, i);
        n = fit_pages(s->pos, n, pages);
        if (n == 0) {
            pages = 0;
            continue;
        }
        n = to_edge(s, n);
        pages -= pages_for(s->pos, n);
        budget -= n;
        ret->run[ret->runs].seq = (uint32_t)i;
        ret->run[ret->runs++].n = (uint32_t)n;
    }
}

const char *sched_check(const struct sched_view *v, const struct sched_plan *p)
{
    uint64_t tokens = 0, pages = 0;
    bool any = false;

    if (p->runs > STEP_SEQS_MAX)
        return "more sequences than a step holds";
    for (uint32_t i = 0; i < p->runs; i++) {
        const struct sched_seq *s;

        if (p->run[i].seq >= v->seqs)
            return "a sequence that is not in the view";
        s = &v->seq[p->run[i].seq];
        for (uint32_t j = 0; j < i; j++)
            if (p->run[j].seq == p->run[i].seq)
                return "a sequence twice";
        if (!s->ready)
            return "a sequence that is not ready";
        if (p->run[i].n == 0 || p->run[i].n > s->todo)
            return "more tokens than there are, or none";
        if (s->decoding && p->run[i].n != 1)
            return "a decode of more than one token";
        tokens += p->run[i].n;
        pages += pages_for(s->pos, p->run[i].n);
    }
    if (tokens > STEP_TOKENS_MAX)
        return "more tokens than a step holds";
    if (pages > v->pages_free)
        return "more pages than are free";
    for (uint32_t i = 0; i < v->seqs; i++)
        any |= v->seq[i].ready && v->seq[i].todo && pages_for(v->seq[i].pos, 1) == 0;
    if (any && p->runs == 0)
        return "nothing runs though something could";
    return NULL;
}
