/* pages.c - pools of KV pages and the slots of position-bound state.
 *
 * A pool is one allocation of the backend, cut into pages of the layout's size.  The free
 * list belongs to the caller's book-keeping thread; a running step touches only the memory. */
#include "base/bytes.h"
#include "base/check.h"
#include "engine/eng.h"
#include <errno.h>
#include <stdlib.h>

/* Small enough that a step which comes meanwhile does not notice. */
static const uint64_t WARM_STEP = 4 << 20, WARM_AHEAD = 512 << 20;

static int part_open(struct engine *e, enum kv_part part, uint32_t n, struct errbuf *eb)
{
    struct eng_pool *p = &e->pool[part];

    p->page_bytes = e->layout.page_bytes[part];
    p->mem = e->ops->alloc(e->k, n * p->page_bytes);
    p->free = calloc(n, sizeof *p->free);
    p->taken = calloc(n, sizeof *p->taken);
    if (!p->mem || !p->free || !p->taken)
        return err_set(eb, -ENOMEM, "no memory for %u KV pages of %llu bytes", n,
                       (unsigned long long)p->page_bytes);
    p->n = p->n_free = n;
    p->n_new = n;
    /* Taken from the end: low pages first, so that a lightly used pool stays compact. */
    for (uint32_t i = 0; i < n; i++)
        p->free[i] = n - 1 - i;
    return 0;
}

int pool_open(struct engine *e, struct errbuf *eb, uint64_t page_memory)
{
    uint64_t block = 0, n;
    uint64_t ctx_blocks = (e->info.ctx_max + BLOCK_TOKENS - 1) / BLOCK_TOKENS;

    for (int p = 0; p < KV_PART_; p++)
        block += e->layout.page_bytes[p];
    n = page_memory ? page_memory / block : ctx_blocks;
    if (n < 1)
        return err_set(eb, E_LIMIT,
                       "page-memory: %.1f MiB are less than one block of this model; want "
                       "%llu MiB or more",
                       (double)page_memory / 0x1p20,
                       (unsigned long long)((block + 0xfffff) >> 20));
    if (n > ENG_PAGE_NONE - 1)
        n = ENG_PAGE_NONE - 1;
    for (int p = 0; p < KV_PART_; p++) {
        int r = e->layout.page_bytes[p] ? part_open(e, p, (uint32_t)n, eb) : 0;
        if (r < 0)
            return r;
    }
    /* No session can have more tokens than all pages hold. */
    if (n * BLOCK_TOKENS < e->info.ctx_max)
        e->info.ctx_max = (uint32_t)(n * BLOCK_TOKENS);
    e->info.pages = (uint32_t)n;
    e->info.page_memory = n * block;
    return 0;
}

void pool_close(struct engine *e)
{
    for (int p = 0; p < KV_PART_; p++) {
        if (e->pool[p].mem)
            e->ops->free(e->k, e->pool[p].mem);
        free(e->pool[p].free);
        free(e->pool[p].taken);
    }
}

static struct eng_pool *pool_of(const struct engine *e, enum kv_part part)
{
    must_be(e, ENG_MAGIC);
    must(part < KV_PART_);
    return (struct eng_pool *)&e->pool[part];
}

int eng_page_take(struct engine *e, enum kv_part part, uint32_t *ret)
{
    struct eng_pool *p = pool_of(e, part);

    if (p->n_free == 0)
        return -EAGAIN;
    uint32_t page = p->free[--p->n_free];
    if (p->n_free < atomic_load_explicit(&p->n_new, memory_order_relaxed))
        atomic_store_explicit(&p->n_new, p->n_free, memory_order_relaxed);
    must(!p->taken[page]);
    p->taken[page] = 1;
    *ret = page;
    return 0;
}

void eng_page_drop(struct engine *e, enum kv_part part, uint32_t page)
{
    struct eng_pool *p = pool_of(e, part);

    must(page < p->n && p->taken[page]);
    p->taken[page] = 0;
    p->free[p->n_free++] = page;
}

uint32_t eng_pages_free(const struct engine *e, enum kv_part part)
{
    return pool_of(e, part)->n_free;
}

uint32_t eng_pages_new(const struct engine *e, enum kv_part part)
{
    struct eng_pool *p = pool_of(e, part);
    uint32_t n = atomic_load_explicit(&p->n_new, memory_order_relaxed);
    uint64_t warm = atomic_load_explicit(&p->warm, memory_order_relaxed) /
                    (p->page_bytes ? p->page_bytes : 1);

    return n < p->n - warm ? n : (uint32_t)(p->n - warm);
}

bool eng_warm(struct engine *e)
{
    must_be(e, ENG_MAGIC);
    for (int part = 0; part < KV_PART_ && e->ops->warm; part++) {
        struct eng_pool *p = &e->pool[part];
        uint64_t all = p->n * p->page_bytes, warm = p->warm;
        uint64_t context = (e->info.ctx_max + BLOCK_TOKENS - 1) / BLOCK_TOKENS * p->page_bytes;
        uint64_t used =
            all - atomic_load_explicit(&p->n_new, memory_order_relaxed) * p->page_bytes;
        uint64_t goal = used + (context < WARM_AHEAD ? context : WARM_AHEAD);

        goal = goal < all ? goal : all;
        if (warm >= goal)
            continue;
        uint64_t n = goal - warm < WARM_STEP ? goal - warm : WARM_STEP;
        e->ops->warm(e->k, (uint8_t *)p->mem + warm, n);
        atomic_store_explicit(&p->warm, warm + n, memory_order_relaxed);
        return true;
    }
    return false;
}

int eng_page_save(struct engine *e, enum kv_part part, uint32_t page, void *host)
{
    struct eng_pool *p = pool_of(e, part);

    must(page < p->n);
    return e->ops->down(e->k, host, (const uint8_t *)p->mem + page * p->page_bytes,
                        p->page_bytes);
}

int eng_page_load(struct engine *e, enum kv_part part, uint32_t page, const void *host)
{
    struct eng_pool *p = pool_of(e, part);

    must(page < p->n);
    return e->ops->up(e->k, (uint8_t *)p->mem + page * p->page_bytes, host, p->page_bytes);
}

/* --- state slots: every family here keeps its whole history in pages, so a slot is empty ---- */

int eng_slot_take(struct engine *e, uint32_t *ret)
{
    must_be(e, ENG_MAGIC);
    *ret = 0;
    return 0;
}
void eng_slot_drop(struct engine *e, uint32_t slot)
{
    must_be(e, ENG_MAGIC);
    must(slot == 0);
}
uint64_t eng_slot_bytes(const struct engine *e)
{
    uint64_t n = 0;

    must_be(e, ENG_MAGIC);
    for (uint32_t i = 0; i < e->layout.n_states; i++)
        n += e->layout.state[i].bytes;
    return n;
}
int eng_slot_reset(struct engine *e, uint32_t slot)
{
    must_be(e, ENG_MAGIC);
    must(slot == 0);
    return 0;
}
int eng_slot_copy(struct engine *e, uint32_t from, uint32_t to)
{
    must_be(e, ENG_MAGIC);
    must(from == 0 && to == 0);
    return 0;
}
int eng_slot_save(struct engine *e, uint32_t slot, void *host)
{
    (void)host;
    return eng_slot_reset(e, slot);
}
int eng_slot_load(struct engine *e, uint32_t slot, const void *host)
{
    (void)host;
    return eng_slot_reset(e, slot);
}
