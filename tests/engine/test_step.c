/* test_step.c - one arithmetic: the same bits however a token's past was cut, batched or kept.
 *
 * On tiny synthetic models, every backend that claims to be exact. */
#include "tests/engine/poison.h"
#include "tests/engine/tiny.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

/* The runs below are compared with this: 600 tokens, chunks of 256. */
enum { N = 600 };

static const struct backend {
    const char *name;
    const struct kern_ops *ops;
    bool plain_c;
    uint32_t threads;
} backends[] = {
    {"ref", &kern_ref, false, 1},
    {"cpu", &kern_cpu, false, 1},
    {"cpu, 2 threads", &kern_cpu, false, 2},
    {"cpu-c", &kern_cpu, true, 1},
};
/* The plain-C twin is slow: once it is shown to give the same bits, it may sit out. */
enum { BACKENDS = sizeof backends / sizeof *backends, FAST_BACKENDS = BACKENDS - 1 };

static struct engine *open_on(const struct backend *b, const struct mk_llama *m)
{
    struct eng_opts o = {.kern = b->ops,
                         .plain_c = b->plain_c,
                         .threads = b->threads,
                         .page_memory = 8 << 20}; /* room for several sequences */

    return tiny_open(m, &o);
}
#define FOR_BACKENDS(e)                                                                        \
    for (const struct backend *b_ = backends; b_ < backends + FAST_BACKENDS; b_++)             \
        for (struct engine *e = open_on(b_, &tiny_default); e; eng_close(e), e = NULL)
#define SAME(a, b, from, to, what)                                                             \
    do {                                                                                       \
        if (!tiny_same(a, b, from, to))                                                        \
            t_fail(__FILE__, __LINE__, "%s: %s: other bits", b_->name, what);                  \
    } while (0)

static void baseline(struct tiny *t, struct engine *e)
{
    tiny_init(t, e, 1);
    CHECK_EQ(tiny_run(t, 0, N, 256), 0);
    CHECK(tiny_alive(t, 0, N));
}

static void chunks_do_not_change_a_bit(void)
{
    static const uint32_t chunks[] = {1, 37, 257, 512};

    FOR_BACKENDS(e)
    {
        struct tiny a, b;
        baseline(&a, e);
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            tiny_init(&b, e, 1);
            CHECK_EQ(tiny_run(&b, 0, N, chunks[i]), 0);
            SAME(&a, &b, 0, N, "chunk");
            tiny_fini(&b);
        }
        tiny_fini(&a);
    }
}

static void prefill_replaced_by_decode_does_not_change_a_bit(void)
{
    FOR_BACKENDS(e)
    {
        struct tiny a, b;
        baseline(&a, e);
        tiny_init(&b, e, 1);
        CHECK_EQ(tiny_run(&b, 0, 300, 300), 0);
        CHECK_EQ(tiny_run(&b, 300, 340, 1), 0);
        CHECK_EQ(tiny_run(&b, 340, N, 128), 0);
        SAME(&a, &b, 0, N, "decode");
        tiny_fini(&b);
        tiny_fini(&a);
    }
}

static void another_sequence_in_the_batch_does_not_change_a_bit(void)
{
    FOR_BACKENDS(e)
    {
        struct tiny a, b, c;
        baseline(&a, e);
        tiny_init(&b, e, 1);
        tiny_init(&c, e, 2);
        CHECK_EQ(tiny_run(&c, 0, 90, 90), 0);
        /* b prefills beside c's decoding, then decodes beside c's prefill. */
        for (uint32_t i = 0; i < 5; i++) {
            struct eng_seq q[2] = {tiny_seq(&c, 90 + i, 91 + i),
                                   tiny_seq(&b, i * 100, (i + 1) * 100)};
            struct eng_step s = {.seq = q, .n_seqs = 2};
            CHECK_EQ(eng_step(e, &s), 0);
        }
        for (uint32_t i = 500; i < N; i += 20) {
            struct eng_seq q[2] = {tiny_seq(&b, i, i + 20), tiny_seq(&c, i - 405, i - 385)};
            struct eng_step s = {.seq = q, .n_seqs = 2};
            CHECK_EQ(eng_step(e, &s), 0);
        }
        SAME(&a, &b, 0, N, "batch");
        tiny_fini(&c);
        tiny_fini(&b);
        tiny_fini(&a);
    }
}

/* More tokens than one batch holds, of sequences that do not end where batches do. */
static void a_step_larger_than_a_batch_does_not_change_a_bit(void)
{
    FOR_BACKENDS(e)
    {
        struct tiny a, b, c;
        baseline(&a, e);
        tiny_init(&b, e, 1);
        tiny_init(&c, e, 1);
        struct eng_seq q[2] = {tiny_seq(&b, 0, N), tiny_seq(&c, 0, N)};
        struct eng_step s = {.seq = q, .n_seqs = 2};
        CHECK_EQ(eng_step(e, &s), 0);
        SAME(&a, &b, 0, N, "first of a large step");
        SAME(&a, &c, 0, N, "second of a large step");
        tiny_fini(&c);
        tiny_fini(&b);
        tiny_fini(&a);
    }
}

/* A sequence that has the token has no logits, the one beside it has the bits it has alone. */
static void logits_that_are_no_numbers_fail_their_sequence_only(void)
{
    for (const struct backend *b_ = backends; b_ < backends + FAST_BACKENDS; b_++) {
        struct mk file = {0};
        struct errbuf eb = {""};
        struct eng_opts o = {.kern = b_->ops, .threads = b_->threads, .page_memory = 8 << 20};
        struct engine *e = NULL;
        struct tiny a, b, c;
        char path[64];

        poison_llama(&file, tiny_default);
        mk_file(&file, path, sizeof path);
        free(file.p);
        o.path = path;
        CHECK_EQ(eng_open(&e, &o, &eb), 0);
        unlink(path);
        if (!e)
            return;
        tiny_init(&a, e, 1);
        tiny_init(&b, e, 1);
        tiny_init(&c, e, 2);
        for (int i = 0; i < 40; i++)
            a.ids[i] = b.ids[i] = a.ids[i] == POISON ? 8 : a.ids[i], c.ids[i] = POISON;
        CHECK_EQ(tiny_run(&a, 0, 40, 40), 0);
        CHECK(tiny_alive(&a, 0, 40));
        struct eng_seq q[3] = {tiny_seq(&c, 0, 20), tiny_seq(&b, 0, 40), {0}};
        struct eng_step s = {.seq = q, .n_seqs = 2};
        q[1].res = -1;
        CHECK_EQ(eng_step(e, &s), 0);
        CHECK_EQ(q[0].res, E_NAN);
        CHECK_EQ(q[1].res, 0);
        SAME(&a, &b, 0, 40, "beside one that has none");
        q[0] = tiny_seq(&c, 20, 21); /* nothing wanted of it, nothing said */
        q[0].n_logits = 0;
        s.n_seqs = 1;
        CHECK_EQ(eng_step(e, &s), 0);
        CHECK_EQ(q[0].res, 0);
        tiny_fini(&c);
        tiny_fini(&b);
        tiny_fini(&a);
        eng_close(e);
    }
}

static void backends_of_one_arithmetic_agree_in_every_bit(void)
{
    struct tiny first = {0};

    for (const struct backend *b = backends + 1; b < backends + BACKENDS; b++) {
        struct engine *e = open_on(b, &tiny_default);
        struct tiny t;
        if (!e)
            continue;
        baseline(&t, e);
        if (first.logits && !tiny_same(&first, &t, 0, N))
            t_fail(__FILE__, __LINE__, "%s differs from %s", b->name, backends[1].name);
        struct tiny u;
        tiny_init(&u, e, 1);
        CHECK_EQ(tiny_run(&u, 0, 300, 37), 0);
        CHECK_EQ(tiny_run(&u, 300, 310, 1), 0);
        if (!tiny_same(&t, &u, 0, 310))
            t_fail(__FILE__, __LINE__, "%s: chunks of 37 give other bits", b->name);
        tiny_fini(&u);
        if (!first.logits) {
            first.logits = t.logits;
            t.logits = NULL;
        }
        tiny_fini(&t);
        eng_close(e);
    }
    free(first.logits);
}

/* Reload: other pages of another engine, filled from saved bytes. */
static void saved_pages_continue_with_the_same_bits(void)
{
    static const uint32_t cuts[] = {1, 255, 256, 257, 511, 512, 590};

    for (const struct backend *b_ = backends; b_ < backends + FAST_BACKENDS; b_++) {
        struct engine *e = open_on(b_, &tiny_default), *f = open_on(b_, &tiny_default);
        struct tiny a, b;
        if (!e || !f)
            return;
        uint64_t bytes = eng_layout(e)->page_bytes[KV_HOT];
        uint8_t *host = malloc(bytes);
        baseline(&a, e);
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            tiny_init(&b, f, 1);
            (void)tiny_seq(&b, 0, cuts[i]);
            for (uint32_t p = 0; p * BLOCK_TOKENS < cuts[i]; p++) {
                CHECK_EQ(eng_page_save(e, KV_HOT, a.pages[p], host), 0);
                CHECK_EQ(eng_page_load(f, KV_HOT, b.pages[p], host), 0);
            }
            CHECK_EQ(tiny_run(&b, cuts[i], N, 64), 0);
            SAME(&a, &b, cuts[i], N, "reload");
            tiny_fini(&b);
        }
        tiny_fini(&a);
        free(host);
        eng_close(e);
        eng_close(f);
    }
}

/* A page is handed over as it was left: even not-a-numbers beyond the end must not matter. */
static void stale_bytes_in_a_page_do_not_matter(void)
{
    FOR_BACKENDS(e)
    {
        struct tiny a, b;
        uint64_t bytes = eng_layout(e)->page_bytes[KV_HOT];
        uint8_t *junk = malloc(bytes);
        baseline(&a, e);
        memset(junk, 0xff, bytes);
        tiny_init(&b, e, 1);
        (void)tiny_seq(&b, 0, N);
        for (uint32_t p = 0; p * BLOCK_TOKENS < N; p++)
            CHECK_EQ(eng_page_load(e, KV_HOT, b.pages[p], junk), 0);
        CHECK_EQ(tiny_run(&b, 0, 300, 37), 0);
        CHECK_EQ(tiny_run(&b, 300, N, 50), 0);
        SAME(&a, &b, 0, N, "stale bytes");
        tiny_fini(&b);
        tiny_fini(&a);
        free(junk);
    }
}

/* Replay over sealed, shared blocks: same logits, and not one byte below store_from changes. */
static void a_replay_never_writes_below_store_from(void)
{
    FOR_BACKENDS(e)
    {
        struct tiny a, b;
        uint64_t bytes = eng_layout(e)->page_bytes[KV_HOT];
        uint8_t *before = malloc(bytes * 2), *after = malloc(bytes * 2);
        baseline(&a, e);
        tiny_init(&b, e, 1);
        (void)tiny_seq(&b, 0, N);
        for (uint32_t p = 0; p < 2; p++)
            CHECK_EQ(eng_page_save(e, KV_HOT, a.pages[p], before + p * bytes), 0);
        /* Other rows than the tokens would give: what was stored must be what is read. */
        for (uint32_t p = 0; p < 3; p++) {
            CHECK_EQ(eng_page_save(e, KV_HOT, a.pages[p], after), 0);
            CHECK_EQ(eng_page_load(e, KV_HOT, b.pages[p], after), 0);
        }
        int32_t other[512];
        for (int i = 0; i < 512; i++)
            other[i] = (b.ids[i] + 1) % MK_VOCAB;
        struct eng_seq q = tiny_seq(&b, 0, 512);
        q.tokens = other;
        q.store_from = 512;
        struct eng_step s = {.seq = &q, .n_seqs = 1};
        CHECK_EQ(eng_step(e, &s), 0);
        for (uint32_t p = 0; p < 2; p++)
            CHECK_EQ(eng_page_save(e, KV_HOT, b.pages[p], after + p * bytes), 0);
        CHECK(memcmp(before, after, bytes * 2) == 0);
        /* In the middle of a block, with the right tokens. */
        q = tiny_seq(&b, 512, N);
        q.store_from = 570;
        CHECK_EQ(eng_step(e, &s), 0);
        SAME(&a, &b, 512, N, "replay");
        tiny_fini(&b);
        tiny_fini(&a);
        free(before);
        free(after);
    }
}

static void only_wanted_logits_are_written(void)
{
    FOR_BACKENDS(e)
    {
        struct tiny a, b;
        baseline(&a, e);
        tiny_init(&b, e, 1);
        struct eng_seq q = tiny_seq(&b, 0, N);
        q.n_logits = 3;
        q.logits = b.logits + (size_t)(N - 3) * MK_VOCAB;
        struct eng_step s = {.seq = &q, .n_seqs = 1};
        CHECK_EQ(eng_step(e, &s), 0);
        SAME(&a, &b, N - 3, N, "last three");
        bool zero = true;
        for (size_t i = 0; i < (size_t)(N - 3) * MK_VOCAB; i++)
            zero &= b.logits[i] == 0;
        CHECK(zero);
        q = tiny_seq(&b, 0, 10);
        q.n_logits = 0;
        q.logits = NULL;
        CHECK_EQ(eng_step(e, &s), 0);
        tiny_fini(&b);
        tiny_fini(&a);
    }
}

/* --- refusals ------------------------------------------------------------------------------ */

static void a_missing_page_is_wanted_by_name(void)
{
    struct engine *e = open_on(&backends[0], &tiny_default);
    struct tiny a;
    struct eng_want want[2];

    if (!e)
        return;
    tiny_init(&a, e, 1);
    CHECK_EQ(tiny_run(&a, 0, N, N), 0);
    struct eng_seq q = tiny_seq(&a, N, N + 10);
    struct eng_step s = {.seq = &q, .n_seqs = 1, .want = want, .want_max = 2};
    uint32_t page = a.pages[1];
    a.pages[1] = ENG_PAGE_NONE;
    CHECK_EQ(eng_step(e, &s), E_NEED);
    CHECK_EQ(s.n_want, 1);
    CHECK_EQ(want[0].seq, 0);
    CHECK_EQ(want[0].kind, 0);
    CHECK_EQ(want[0].block, 1);
    a.pages[1] = page;
    q.n_pages = 1; /* the table itself is too short: two blocks are wanted */
    CHECK_EQ(eng_step(e, &s), E_NEED);
    CHECK_EQ(s.n_want, 2);
    q.n_pages = TINY_BLOCKS;
    CHECK_EQ(eng_step(e, &s), 0);
    tiny_fini(&a);
    eng_close(e);
}

static void members_outside_their_bounds_are_refused(void)
{
    struct engine *e = open_on(&backends[0], &tiny_default);
    struct tiny a, b;
    int32_t bad[1] = {MK_VOCAB}, neg[1] = {-1};

    if (!e)
        return;
    tiny_init(&a, e, 1);
    tiny_init(&b, e, 1);
    struct eng_seq q[2] = {tiny_seq(&a, 0, 1), tiny_seq(&b, 0, 1)};
    struct eng_step s = {.seq = q, .n_seqs = 1};
#define REFUSED(change)                                                                        \
    q[0] = tiny_seq(&a, 0, 1);                                                                 \
    s.n_seqs = 1;                                                                              \
    change;                                                                                    \
    CHECK_EQ(eng_step(e, &s), -EINVAL)
    REFUSED(s.n_seqs = 0);
    REFUSED(s.n_seqs = STEP_SEQS_MAX + 1);
    REFUSED(q[0].n = 0);
    REFUSED(q[0].n = STEP_TOKENS_MAX + 1);
    REFUSED(q[0].tokens = bad);
    REFUSED(q[0].tokens = neg);
    REFUSED(q[0].tokens = NULL);
    REFUSED(q[0].pos = TINY_CTX);
    REFUSED(q[0].pos = UINT64_MAX);
    REFUSED(q[0].n_logits = 2);
    REFUSED(q[0].logits = NULL);
    REFUSED(q[0].slot = 1);
    uint32_t far[1] = {eng_info(e)->pages};
    REFUSED(q[0].pages[KV_HOT] = far; q[0].n_pages = 1);
    /* Two sequences that would write one page. */
    REFUSED(s.n_seqs = 2; q[1] = tiny_seq(&a, 0, 1));
#undef REFUSED
    q[0] = tiny_seq(&a, 0, 1);
    q[1] = tiny_seq(&b, 0, 1);
    CHECK_EQ(eng_step(e, &s), 0);
    tiny_fini(&b);
    tiny_fini(&a);
    eng_close(e);
}

struct aborter {
    struct engine *e;
    atomic_bool *up, *end;
};
static void *abort_main(void *arg)
{
    struct aborter *a = arg;

    atomic_store(a->up, true);
    while (!atomic_load(a->end)) /* one that comes before the step has begun is lost */
        eng_abort(a->e);
    return NULL;
}

static void an_aborted_step_ends_and_the_next_one_runs(void)
{
    struct engine *e = open_on(&backends[0], &tiny_default);
    atomic_bool up = false, end = false;
    struct aborter ab = {e, &up, &end};
    struct tiny a, b;
    pthread_t th;
    int r = 0;

    if (!e)
        return;
    baseline(&a, e);
    tiny_init(&b, e, 1);
    CHECK_EQ(tiny_run(&b, 0, 256, 256), 0);
    CHECK_EQ(pthread_create(&th, NULL, abort_main, &ab), 0);
    while (!atomic_load(&up))
        ;
    /* On a busy machine the other thread may not run at all during one step. */
    for (int i = 0; i < 1000 && r == 0; i++)
        r = tiny_run(&b, 256, N, N);
    CHECK_EQ(r, -ECANCELED);
    atomic_store(&end, true);
    pthread_join(th, NULL);
    /* Rows below the old end are whole; those above are written again. */
    CHECK_EQ(tiny_run(&b, 256, N, 100), 0);
    CHECK(tiny_same(&a, &b, 0, N));
    tiny_fini(&b);
    tiny_fini(&a);
    eng_close(e);
}

/* A backend in which somebody aborts the step while a layer is computed. */
static struct engine *aborted;
static int layers_run;
static int ffn_and_abort(struct kern *k, const struct k_ffn *a)
{
    layers_run++;
    eng_abort(aborted);
    return kern_ref.ffn(k, a);
}
static void an_aborted_step_computes_no_further_layer(void)
{
    struct kern_ops ops = kern_ref;
    struct eng_opts o = {.kern = &ops};
    struct tiny t;

    ops.ffn = ffn_and_abort;
    aborted = tiny_open(&tiny_default, &o);
    if (!aborted)
        return;
    tiny_init(&t, aborted, 1);
    layers_run = 0;
    CHECK_EQ(tiny_run(&t, 0, 10, 10), -ECANCELED);
    CHECK_EQ(layers_run, 1);
    tiny_fini(&t);
    eng_close(aborted);
}

static void the_page_pool_gives_every_page_once(void)
{
    struct eng_opts o = {.kern = &kern_ref, .page_memory = 0};
    struct engine *e = tiny_open(&tiny_default, &o);
    uint32_t page = 0, n = 0;
    uint8_t seen[64] = {0};

    if (!e)
        return;
    CHECK_EQ(eng_info(e)->pages, TINY_BLOCKS);
    CHECK_EQ(eng_pages_free(e, KV_HOT), TINY_BLOCKS);
    /* A page that was taken once holds memory, whoever has it now. */
    CHECK_EQ(eng_page_take(e, KV_HOT, &page), 0);
    CHECK_EQ(eng_pages_new(e, KV_HOT), TINY_BLOCKS - 1);
    eng_page_drop(e, KV_HOT, page);
    CHECK_EQ(eng_pages_new(e, KV_HOT), TINY_BLOCKS - 1);
    while (eng_page_take(e, KV_HOT, &page) == 0 && n < 64) {
        CHECK(page < 64 && !seen[page]);
        seen[page & 63] = 1;
        n++;
    }
    CHECK_EQ(n, TINY_BLOCKS);
    CHECK_EQ(eng_pages_new(e, KV_HOT), 0);
    CHECK_EQ(eng_page_take(e, KV_HOT, &page), -EAGAIN);
    CHECK_EQ(eng_page_take(e, KV_COLD, &page), -EAGAIN);
    eng_page_drop(e, KV_HOT, 3);
    CHECK_EQ(eng_page_take(e, KV_HOT, &page), 0);
    CHECK_EQ(page, 3);
    for (uint32_t i = 0; i < n; i++)
        eng_page_drop(e, KV_HOT, i);
    CHECK_EQ(eng_pages_free(e, KV_HOT), TINY_BLOCKS);
    CHECK_EQ(eng_slot_bytes(e), 0);
    eng_close(e);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(chunks_do_not_change_a_bit), CASE(prefill_replaced_by_decode_does_not_change_a_bit),
       CASE(another_sequence_in_the_batch_does_not_change_a_bit),
       CASE(a_step_larger_than_a_batch_does_not_change_a_bit),
       CASE(logits_that_are_no_numbers_fail_their_sequence_only),
       CASE(backends_of_one_arithmetic_agree_in_every_bit),
       CASE(saved_pages_continue_with_the_same_bits), CASE(stale_bytes_in_a_page_do_not_matter),
       CASE(a_replay_never_writes_below_store_from), CASE(only_wanted_logits_are_written),
       CASE(a_missing_page_is_wanted_by_name), CASE(members_outside_their_bounds_are_refused),
       CASE(an_aborted_step_ends_and_the_next_one_runs),
       CASE(an_aborted_step_computes_no_further_layer),
       CASE(the_page_pool_gives_every_page_once))
