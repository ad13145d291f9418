/* step.c - one step: checked, cut into batches, computed, its logits handed out.
 *
 * Tokens of all sequences are laid one after the other and cut every ENG_BATCH of them,
 * wherever that falls.  Only rows whose logits are wanted go through the head. */
#include "base/bounds.h"
#include "base/check.h"
#include "engine/eng.h"
#include <errno.h>
#include <string.h>

bound(STEP_SEQS_MAX <= UINT16_MAX, "rows_of holds them");

static uint32_t blocks_of(uint64_t tokens)
{
    return (uint32_t)((tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS);
}

static bool seq_ok(const struct engine *e, const struct eng_seq *q)
{
    bool ok = q->tokens && q->n >= 1 && q->n <= STEP_TOKENS_MAX && q->pos <= e->info.ctx_max &&
              q->n <= e->info.ctx_max - q->pos && q->n_logits <= q->n && q->slot == 0 &&
              (q->n_logits == 0 || q->logits);

    for (int p = 0; ok && p < KV_PART_; p++)
        ok = !e->layout.page_bytes[p] || q->pages[p] || q->n_pages == 0;
    for (uint32_t i = 0; ok && i < q->n; i++)
        ok = q->tokens[i] >= 0 && (uint32_t)q->tokens[i] < e->info.n_vocab;
    return ok;
}

/* Pages the step names: all there are in the pool, and no two sequences write one. */
static bool pages_ok(struct engine *e, const struct eng_step *s)
{
    bool ok = true;

    for (uint32_t i = 0; ok && i < s->n_seqs; i++) {
        const struct eng_seq *q = &s->seq[i];
        uint64_t from = q->pos > q->store_from ? q->pos : q->store_from;
        uint32_t end = blocks_of(q->pos + q->n);
        for (int p = 0; ok && p < KV_PART_; p++)
            for (uint32_t b = 0; ok && q->pages[p] && b < end && b < q->n_pages; b++)
                ok = q->pages[p][b] == ENG_PAGE_NONE || q->pages[p][b] < e->pool[p].n;
        if (!q->pages[KV_HOT]) /* a family without such rows */
            continue;
        for (uint32_t b = (uint32_t)(from / BLOCK_TOKENS); ok && b < end && b < q->n_pages;
             b++) {
            uint32_t page = q->pages[KV_HOT][b];
            if (page == ENG_PAGE_NONE)
                continue;
            ok = e->writer[page] == 0 || e->writer[page] == i + 1;
            if (ok)
                e->writer[page] = i + 1;
        }
    }
    /* Leave the map clean for the next step. */
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct eng_seq *q = &s->seq[i];
        for (uint32_t b = 0; b < blocks_of(q->pos + q->n) && b < q->n_pages; b++)
            if (q->pages[KV_HOT] && q->pages[KV_HOT][b] < e->pool[KV_HOT].n)
                e->writer[q->pages[KV_HOT][b]] = 0;
    }
    return ok;
}

/* Every token sees all of its past: what is not resident is wanted, as far as the list goes. */
static int missing(const struct engine *e, struct eng_step *s)
{
    bool lacks = false;

    s->n_want = 0;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        const struct eng_seq *q = &s->seq[i];
        for (uint32_t b = 0; b < blocks_of(q->pos + q->n); b++) {
            if (!e->layout.page_bytes[KV_HOT] ||
                (b < q->n_pages && q->pages[KV_HOT][b] != ENG_PAGE_NONE))
                continue;
            lacks = true;
            if (s->n_want < s->want_max)
                s->want[s->n_want++] = (struct eng_want){.seq = i, .block = b};
        }
    }
    return lacks ? E_NEED : 0;
}

static int check(struct engine *e, struct eng_step *s)
{
    uint64_t n = 0;

    if (s->n_seqs < 1 || s->n_seqs > STEP_SEQS_MAX || !s->seq || (s->want_max && !s->want))
        return -EINVAL;
    for (uint32_t i = 0; i < s->n_seqs; i++) {
        if (!seq_ok(e, &s->seq[i]))
            return -EINVAL;
        n += s->seq[i].n;
    }
    if (n > STEP_TOKENS_MAX || !pages_ok(e, s))
        return -EINVAL;
    return missing(e, s);
}

static bool all_finite(const float *v, uint64_t n)
{
    uint32_t any = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, v + i, sizeof bits);
        any |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !any;
}

/* Runs the head over the wanted rows, a few at a time, and hands the results out.  Rows of one
 * sequence lie together, so neighbours go in one copy. */
static int hand_out(struct engine *e, const struct eng_step *s, uint32_t n_rows)
{
    uint64_t nv = e->info.n_vocab;

    for (uint32_t i = 0; i < n_rows;) {
        uint32_t n = n_rows - i < ENG_HEAD_ROWS ? n_rows - i : ENG_HEAD_ROWS;
        if (atomic_load_explicit(&e->stop, memory_order_relaxed))
            return -ECANCELED;
        int r = e->arch->ops->head(e->arch, e->rows + i, n, e->logits);
        for (uint32_t j = 0, m; r == 0 && j < n; j += m) {
            for (m = 1; j + m < n && e->rows_to[i + j + m] == e->rows_to[i + j] + m * nv;)
                m++;
            r = e->ops->down(e->k, e->rows_to[i + j], e->logits + j * nv,
                             m * nv * sizeof(float));
        }
        if (r < 0)
            return r;
        for (uint32_t j = i; j < i + n; j++)
            if (!all_finite(e->rows_to[j], nv))
                s->seq[e->rows_of[j]].res = E_NAN;
        i += n;
    }
    return 0;
}

/* Takes up to e->batch tokens from *seq, *at on; moves both past them. */
static int run_batch(struct engine *e, const struct eng_step *s, uint32_t *seq, uint32_t *at)
{
    struct k_seq parts[KV_PART_][STEP_SEQS_MAX];
    struct arch_batch b = {.ids = e->ids, .stop = &e->stop};
    uint32_t n_rows = 0;

    for (; *seq < s->n_seqs && b.n < e->batch; b.n_seqs++) {
        const struct eng_seq *q = &s->seq[*seq];
        uint32_t n = q->n - *at < e->batch - b.n ? q->n - *at : e->batch - b.n;
        for (int p = 0; p < KV_PART_; p++)
            parts[p][b.n_seqs] = (struct k_seq){.first = b.n,
                                                .n = n,
                                                .pos = q->pos + *at,
                                                .store_from = q->store_from,
                                                .pages = q->pages[p],
                                                .n_pages = q->n_pages};
        memcpy(e->ids + b.n, q->tokens + *at, n * sizeof *e->ids);
        uint32_t first = q->n - q->n_logits; /* the first token whose logits are wanted */
        for (uint32_t i = *at > first ? *at : first; i < *at + n; i++) {
            e->rows[n_rows] = b.n + (i - *at);
            e->rows_of[n_rows] = (uint16_t)*seq;
            e->rows_to[n_rows++] = q->logits + (uint64_t)(i - first) * e->info.n_vocab;
        }
        b.n += n;
        *at += n;
        if (*at == q->n) {
            *at = 0;
            ++*seq;
        }
    }
    for (int p = 0; p < KV_PART_; p++) {
        b.seq[p] = parts[p];
        b.pool[p] = e->pool[p].mem;
    }
    int r = e->arch->ops->forward(e->arch, &b);
    if (r == 0)
        r = hand_out(e, s, n_rows);
    int synced = e->ops->sync(e->k);
    return r < 0 ? r : synced;
}

int eng_step(struct engine *e, struct eng_step *s)
{
    uint32_t seq = 0, at = 0;

    must_be(e, ENG_MAGIC);
    must(s);
    atomic_store_explicit(&e->stop, false, memory_order_relaxed);
    int r = check(e, s);
    for (uint32_t i = 0; r == 0 && i < s->n_seqs; i++)
        s->seq[i].res = 0;
    while (r == 0 && seq < s->n_seqs)
        r = run_batch(e, s, &seq, &at);
    return r;
}

void eng_abort(struct engine *e)
{
    must_be(e, ENG_MAGIC);
    atomic_store_explicit(&e->stop, true, memory_order_relaxed);
}
