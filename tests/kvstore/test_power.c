/* test_power.c - power cuts: the right order loses nothing, the two wrong orders are caught.
 *
 * One run: a store on disk_sim does random work, the cut comes at a random event, and what
 * the disk would hold is opened and judged.  Wrong means: an acknowledged turn is missing, a
 * token or a byte of a block is not what was written, or the index names a block that is not
 * whole.  HEARTH_CUTS=n for more. */
#include "tests/kvstore/rig.h"
#include "tests/sim/disk_sim.h"
#include "tests/t.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BRANCHES = 4, OPS = 60, SMALL_OPS = 300, BLOCKS = 400 };

struct run {
    struct rig g;
    struct disk_sim d;
    uint64_t seed;
    uint64_t sent[BRANCHES], acked[BRANCHES]; /* tokens */
    uint64_t acked_at_cut[BRANCHES];
    uint32_t n_blocks, evicted;
    bool block_acked_at_cut[BLOCKS];
};
struct talk {
    struct kvs_batch b;
    struct run *r;
    uint32_t branch;
    uint64_t to;
    struct kvs_branch br;
    struct kvs_session ses;
    struct kvs_req req, old; /* the second is forgotten again at once */
    struct kvs_rec rec[6];
    int32_t ids[300];
};

static void talk_done(struct kvs_batch *b)
{
    struct talk *t = b->user;

    if (b->res == 0 && t->to > t->r->acked[t->branch])
        t->r->acked[t->branch] = t->to;
    free(t);
}

static void talk(struct run *r, uint64_t *rnd)
{
    struct talk *t = calloc(1, sizeof *t);
    uint32_t i = (uint32_t)(rig_rand(rnd) % BRANCHES), n = 1 + (uint32_t)(rig_rand(rnd) % 299);
    uint64_t from = r->sent[i];
    char name[32];

    t->r = r;
    t->branch = i;
    t->to = from + n;
    t->br = (struct kvs_branch){.id = rig_id(r->seed + i, 0), .owner = 1000};
    snprintf(name, sizeof name, "b%u", i);
    rig_session(&t->ses, r->seed + i, 0, name);
    t->ses.head = t->to;
    for (uint32_t k = 0; k < n; k++)
        t->ids[k] = rig_token(r->seed + i, from + k);
    uint32_t m = 0;
    if (from == 0)
        t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_BRANCH, .branch = &t->br};
    t->rec[m++] =
        (struct kvs_rec){.kind = KVS_REC_TOKENS, .tokens = {t->br.id, from, t->ids, n}};
    t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &t->ses};
    t->req = (struct kvs_req){.owner = 1000,
                              .id = rig_id(r->seed + i, 5000 + t->to),
                              .state = KVS_REQ_ENDED,
                              .time_ns = 1ull << 62};
    t->old = t->req;
    t->old.id = rig_id(r->seed + i, 1000000 + t->to);
    t->old.time_ns = 1;
    t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_REQ, .req = &t->old};
    t->rec[m++] = (struct kvs_rec){.kind = KVS_REC_REQ, .req = &t->req};
    t->b = (struct kvs_batch){.rec = t->rec, .n_rec = m, .done = talk_done, .user = t};
    r->sent[i] = t->to;
    if (kvs_batch_submit(r->g.s, &t->b) < 0)
        abort();
}

static void before_cut(void *user)
{
    struct run *r = user;

    /* Acknowledgements on their way have been seen: the client is faster than the power. */
    kvs_loop_turn(r->g.s);
    memcpy(r->acked_at_cut, r->acked, sizeof r->acked);
}

/* 0 right, else what is wrong. */
static const char *judge(struct run *r)
{
    struct rig c;
    const char *bad = NULL;
    struct kvs_stats st;
    struct kvs_req q;
    char *reply;

    memset(&c, 0, sizeof c);
    snprintf(c.dir, sizeof c.dir, "%s", r->d.cut);
    c.o = r->g.o;
    c.o.dir = c.dir;
    c.o.wrong = KVS_RIGHT;
    c.o.io = KVS_IO_THREADS;
    int e = rig_open(&c);
    if (e < 0) {
        printf("    open: %s\n", c.eb.s);
        return "the store does not open";
    }
    for (uint32_t i = 0; i < BRANCHES && !bad; i++) {
        struct kvs_id id = rig_id(r->seed + i, 0);
        uint64_t end = 0;
        (void)kvs_branch_end(c.s, &id, &end);
        if (end < r->acked_at_cut[i])
            bad = "an acknowledged turn is lost";
        else if (end > r->sent[i] || !rig_tokens_ok(&c, r->seed + i, end))
            bad = end ? "tokens are not what was said" : NULL;
        id = rig_id(r->seed + i, 5000 + r->acked_at_cut[i]);
        if (!bad && r->acked_at_cut[i] && kvs_req_get(c.s, 1000, &id, &q, &reply) < 0)
            bad = "an acknowledged request is lost";
    }
    if (c.rep.blocks_dropped)
        bad = "the index named a block that is not there";
    for (uint32_t n = 0; n < r->n_blocks && !bad; n++) {
        struct kvs_block_req b;
        e = rig_get(&c, r->seed, n, &b);
        kvs_stats(c.s, &st); /* it may evict, too */
        if (e == -9999)
            bad = "wrong bytes were served";
        else if (b.corrupt)
            bad = "the index named a block that is not whole";
        else if (e == -ENOENT && r->block_acked_at_cut[n] && r->evicted + st.evicted == 0)
            bad = "an acknowledged block is lost";
    }
    kvs_stats(c.s, &st);
    if (!bad && st.corrupt)
        bad = "something was corrupt";
    rig_close(&c);
    return bad;
}

static void acked_blocks(struct run *r, const struct rig_block *block)
{
    for (uint32_t n = 0; n < r->n_blocks; n++)
        r->block_acked_at_cut[n] = block[n].done && block[n].r.res == 0;
}

/* One cut.  small: so little disk that slots are used again. */
static const char *run_once(uint64_t seed, int wrong, bool small)
{
    struct run *r = calloc(1, sizeof *r);
    static struct rig_block block[BLOCKS];
    char cut[300];
    uint64_t rnd = seed;
    struct kvs_stats st;

    r->seed = seed;
    rig_init(&r->g, KVS_IO_THREADS, true);
    snprintf(cut, sizeof cut, "%s-cut", r->g.dir);
    disk_sim_init(&r->d, r->g.dir, cut, seed ^ 0x5555,
                  20 + rig_rand(&rnd) % (small ? 2000 : 350));
    r->d.before_cut = before_cut;
    r->d.user = r;
    r->g.env = disk_sim_env(&r->d);
    r->g.env.forget_ns = 1;
    r->g.threads = false;
    r->g.o.wrong = wrong;
    r->g.o.disk_bytes = small ? 4 << 20 : 64 << 20;
    if (rig_open(&r->g) < 0) {
        printf("    %s\n", r->g.eb.s);
        exit(1);
    }
    for (int i = 0; i < (small ? SMALL_OPS : OPS) && !r->d.cut_done; i++) {
        uint32_t what = (uint32_t)(rig_rand(&rnd) % 4);
        if (what == 0) {
            talk(r, &rnd);
        } else if (what == 1) {
            for (uint32_t k = 0; k < 1 + rig_rand(&rnd) % 12 && r->n_blocks < BLOCKS; k++) {
                rig_block_set(&r->g, &block[r->n_blocks], seed, r->n_blocks);
                rig_submit(&r->g, &block[r->n_blocks++], true);
            }
        } else if (what == 2) {
            kvs_io_turn(r->g.s, 0);
        } else {
            rig_turn(&r->g);
        }
        if (!r->d.cut_done)
            acked_blocks(r, block);
    }
    /* Or later, while the rest comes down, or when all is quiet. */
    while (!r->d.cut_done && kvs_in_flight(r->g.s)) {
        rig_turn(&r->g);
        if (!r->d.cut_done)
            acked_blocks(r, block);
    }
    if (!r->d.cut_done) {
        r->d.cut_at = r->d.events + 1;
        disk_sim_event(&r->d);
    }
    kvs_stats(r->g.s, &st);
    r->evicted = (uint32_t)st.evicted;
    rig_wait(&r->g);
    const char *bad = judge(r);
    rig_fini(&r->g);
    rig_rm(cut);
    disk_sim_fini(&r->d);
    free(r);
    return bad;
}

static uint32_t cuts(uint32_t n)
{
    const char *more = getenv("HEARTH_CUTS");

    return more ? (uint32_t)strtoul(more, NULL, 10) : n;
}

static void no_cut_loses_or_corrupts_anything(void)
{
    uint64_t seed = t_seed();
    uint32_t n = cuts(120);

    for (uint32_t i = 0; i < n; i++) {
        const char *bad =
            run_once(seed + i * 1000, KVS_RIGHT, ((seed + i * 1000) >> 3) % 3 == 0);
        if (bad) {
            t_fail(__FILE__, __LINE__, "SEED=%llu: %s", (unsigned long long)(seed + i * 1000),
                   bad);
            return;
        }
    }
    printf("    %u cuts\n", n);
}

static uint32_t caught(int wrong, uint32_t n, const char *want)
{
    uint64_t seed = t_seed();
    uint32_t hits = 0;

    uint32_t i = 0;
    for (; i < n && hits < 3; i++) {
        const char *bad = run_once(seed + i * 1000, wrong, false);
        if (bad && strstr(bad, want))
            hits++;
    }
    printf("    caught in %u of %u cuts\n", hits, i);
    return hits;
}

static void index_before_payload_is_caught(void)
{
    CHECK(caught(KVS_WRONG_INDEX_FIRST, 300, "the index named a block") > 0);
}

static void acknowledging_before_the_commit_is_caught(void)
{
    CHECK(caught(KVS_WRONG_ACK_FIRST, 300, "acknowledged turn is lost") > 0);
}

T_MAIN({"no_cut_loses_or_corrupts_anything", no_cut_loses_or_corrupts_anything},
       {"index_before_payload_is_caught", index_before_payload_is_caught},
       {"acknowledging_before_the_commit_is_caught", acknowledging_before_the_commit_is_caught})
