/* rows.h - where a stored row lies, and whether an operation's shapes agree. */
#ifndef KERNELS_ROWS_H
#define KERNELS_ROWS_H
#include "kernels/kern.h"
#include <errno.h>

/* Row of position pos, head h of an extent; the page must be resident. */
static inline void *rows_at(const struct k_rows *r, const struct k_seq *s, uint64_t pos,
                            uint32_t head)
{
    uint64_t per_block = BLOCK_TOKENS / r->ratio;
    return (uint8_t *)r->pool + s->pages[pos / BLOCK_TOKENS] * r->page_bytes + r->off +
           (head * per_block + pos % BLOCK_TOKENS / r->ratio) * r->row_bytes;
}

/* The first position a query at pos may see. */
static inline uint64_t rows_from(const struct k_attn_src *s, uint64_t pos)
{
    return s->window && pos + 1 > s->window ? pos + 1 - s->window : 0;
}

static inline int rows_check(const struct k_rows *r, uint32_t n_kv_head, uint32_t dim)
{
    uint64_t bytes = (uint64_t)dim * (r->fmt == K_ROW_F32 ? 4 : 2);
    if (!r->pool || r->fmt >= K_ROW_ || r->row_bytes < bytes)
        return -EINVAL;
    if (r->off + (uint64_t)n_kv_head * BLOCK_TOKENS * r->row_bytes > r->page_bytes)
        return -EINVAL;
    return r->ratio == 1 ? 0 : E_UNSUPP;
}

/* 0; -EINVAL: a page a step writes or reads is not resident, or shapes disagree. */
static inline int rows_check_pages(const struct k_seq *s, uint64_t from)
{
    if (!s->n)
        return 0;
    if ((s->pos + s->n - 1) / BLOCK_TOKENS >= s->n_pages)
        return -EINVAL;
    for (uint64_t b = from / BLOCK_TOKENS; b <= (s->pos + s->n - 1) / BLOCK_TOKENS; b++)
        if (s->pages[b] == K_PAGE_NONE)
            return -EINVAL;
    return 0;
}

static inline int rows_check_store(const struct k_rope_store *a)
{
    int r = 0;
    if (!a->head_dim || !a->n_kv_head || a->rope_dims % 2 || a->rope_dims > a->head_dim)
        return -EINVAL;
    if ((r = rows_check(&a->krows, a->n_kv_head, a->head_dim)) < 0 ||
        (r = rows_check(&a->vrows, a->n_kv_head, a->head_dim)) < 0)
        return r;
    for (uint32_t i = 0; i < a->n_seqs && r == 0; i++) {
        const struct k_seq *s = &a->seq[i];
        uint64_t from = s->pos > s->store_from ? s->pos : s->store_from;
        if (from < s->pos + s->n)
            r = rows_check_pages(s, from);
    }
    return r;
}

static inline int rows_check_attn(const struct k_attn *a)
{
    int r = 0;
    if (!a->n_src || a->n_src > 3 || !a->n_kv_head || a->n_head % a->n_kv_head || !a->head_dim)
        return -EINVAL;
    for (uint32_t j = 0; j < a->n_src; j++) {
        if ((r = rows_check(&a->src[j].k, a->n_kv_head, a->head_dim)) < 0 ||
            (r = rows_check(&a->src[j].v, a->n_kv_head, a->head_dim)) < 0)
            return r;
        if (a->src[j].select)
            return E_UNSUPP;
        for (uint32_t i = 0; i < a->n_seqs; i++)
            if ((r = rows_check_pages(&a->seq[i], rows_from(&a->src[j], a->seq[i].pos))) < 0)
                return r;
    }
    return 0;
}

#endif
