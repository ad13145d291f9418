/* test_kvbook.c - the book of device pages: names under the real fingerprint. */
#include "base/clock.h"
#include "daemon/kvbook.h"
#include "daemon/model.h"
#include "engine/engine.h"
#include "tests/t.h"
#include <stdlib.h>
#include <string.h>

enum { CHAINS = 40, BLOCKS = 500, PAGES = CHAINS * BLOCKS, PART_ROWS = 7 };

/* Chain c: the first half of it is chain c - 1's when c is odd.  The last page is not whole. */
static int32_t token(uint32_t c, uint32_t b, uint32_t i)
{
    return (int32_t)((b < BLOCKS / 2 ? c & ~1u : c) * 100000 + b * 300 + i);
}

static void name_of(const struct kvf *f, uint32_t c, uint32_t to, struct kvs_key *ret)
{
    int32_t ids[BLOCK_TOKENS];
    struct kvs_key k, next;

    kvs_key_root(f->fingerprint, 1000 + c / 2, &k);
    for (uint32_t b = 0; b < to; b++) {
        for (uint32_t i = 0; i < BLOCK_TOKENS; i++)
            ids[i] = token(c, b, i);
        kvs_key_next(&k, ids, BLOCK_TOKENS, &next);
        k = next;
    }
    *ret = k;
}

/* Pages in the book in an order that has nothing to do with their chains. */
static struct kvf_page *page_at(struct kvf *f, uint32_t c, uint32_t b)
{
    return &f->page[(uint64_t)(c * BLOCKS + b) * 7919 % PAGES];
}

static struct kvf *book(void)
{
    struct kvf *f = calloc(1, sizeof *f);

    f->n_pages = PAGES;
    f->hash_mask = 32767;
    f->hash = calloc(f->hash_mask + 1, sizeof *f->hash);
    f->page = calloc(PAGES, sizeof *f->page);
    memset(f->fingerprint, 1, sizeof f->fingerprint);
    for (uint32_t c = 0; c < CHAINS; c++) {
        struct kvs_key k;

        name_of(f, c, 0, &k);
        for (uint32_t b = 0; b < BLOCKS; b++) {
            struct kvf_page *p = page_at(f, c, b);

            for (int part = 0; part < KV_PART_; part++)
                p->index[part] = ENG_PAGE_NONE;
            p->uid = 1000 + c / 2;
            p->first_pos = (uint64_t)b * BLOCK_TOKENS;
            p->prev = k;
            p->n = b + 1 < BLOCKS ? BLOCK_TOKENS : PART_ROWS;
            for (uint32_t i = 0; i < BLOCK_TOKENS; i++)
                p->ids[i] = token(c, b, i);
            kvs_key_next(&p->prev, p->ids, BLOCK_TOKENS, &p->key);
            k = p->key;
            if (c & 1 && b < BLOCKS / 2)
                p->n = 0; /* the neighbour's will do: not there */
            else
                book_enter(f, p);
        }
    }
    return f;
}

static void book_done(struct kvf *f)
{
    free(f->hash);
    free(f->page);
    free(f);
}

static void pages_get_the_names_of_their_chains_quickly(void)
{
    struct kvf *f = book();
    struct kvs_key want;
    uint64_t t0 = clock_at(CLOCK_THREAD_CPUTIME_ID);

    memset(f->fingerprint, 2, sizeof f->fingerprint);
    book_rename(f);
    printf("    %u pages in %.1f ms\n", PAGES,
           (double)(clock_at(CLOCK_THREAD_CPUTIME_ID) - t0) / 1e6);
    for (uint32_t c = 0; c < CHAINS; c++)
        for (uint32_t b = c & 1 ? BLOCKS / 2 : 0; b < BLOCKS; b += 83) {
            struct kvf_page *p = page_at(f, c, b);

            CHECK(p->live);
            name_of(f, c, b, &want);
            CHECK(memcmp(&p->prev, &want, sizeof want) == 0);
            CHECK(p->n < BLOCK_TOKENS || book_whole(f, &want, p->ids) == p);
        }
    book_done(f);
}

static void what_stands_behind_a_gap_goes_unless_it_is_held(void)
{
    struct kvf *f = book();
    struct kvf_page *held;

    book_free(f, page_at(f, 3, BLOCKS / 2 + 20));
    held = page_at(f, 3, BLOCKS / 2 + 21);
    held->refs = 1;
    memset(f->fingerprint, 2, sizeof f->fingerprint);
    book_rename(f);
    CHECK(page_at(f, 3, BLOCKS / 2 + 19)->live);
    CHECK(!held->live && held->n == BLOCK_TOKENS);
    for (uint32_t b = BLOCKS / 2 + 22; b < BLOCKS; b++)
        CHECK(!page_at(f, 3, b)->live && page_at(f, 3, b)->n == 0);
    CHECK_EQ(f->n_free, BLOCKS - BLOCKS / 2 - 21);
    CHECK(page_at(f, 2, BLOCKS - 1)->live && page_at(f, 5, BLOCKS - 1)->live);
    book_done(f);
}

/* What has no name yet would go down under the one it gets. */
static void what_a_removed_session_has_does_not_go_down_later(void)
{
    enum { C = 5, FROM = BLOCKS / 2, N = BLOCKS - 1, HELD = FROM + 7, OUT = FROM + 9 };
    struct kvf *f = book();
    struct model m = {.kv = f};
    int32_t *ids = malloc((uint64_t)BLOCKS * BLOCK_TOKENS * sizeof *ids);

    for (uint32_t b = 0; b < BLOCKS; b++)
        for (uint32_t i = 0; i < BLOCK_TOKENS; i++)
            ids[b * BLOCK_TOKENS + i] = token(C, b, i);
    page_at(f, C, HELD)->refs = 1;
    page_at(f, C, OUT)->put = PUT_OUT;
    page_at(f, C, N)->put = PUT_WAIT;
    queue_init(&f->puts);
    queue_push(&f->puts, page_at(f, C, N));
    page_at(f, C, N)->n = COPY_ROWS_MIN;
    kvflow_forget(NULL, &m, 1000 + C / 2, ids, FROM, N, N * BLOCK_TOKENS + COPY_ROWS_MIN);
    CHECK(!page_at(f, C, N)->live);
    CHECK_EQ(f->puts.n, 0);
    for (uint32_t b = FROM; b < N; b++) {
        struct kvf_page *p = page_at(f, C, b);

        CHECK_EQ(p->live, b == HELD || b == OUT);
        CHECK_EQ(p->forget, b == OUT);
    }
    CHECK(page_at(f, C - 1, FROM - 1)->live && page_at(f, C - 1, FROM)->live);
    /* Taken up by somebody before it was down. */
    book_pin(f, page_at(f, C, OUT));
    CHECK(!page_at(f, C, OUT)->forget);
    free(ids);
    book_done(f);
}

#define CASE(name)                                                                             \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(CASE(pages_get_the_names_of_their_chains_quickly),
       CASE(what_stands_behind_a_gap_goes_unless_it_is_held),
       CASE(what_a_removed_session_has_does_not_go_down_later))
