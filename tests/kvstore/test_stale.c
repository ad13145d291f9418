/* test_stale.c - pages of the index that an older state of them lies over: every row of them is
 * whole, and the log has all that they lack. */
#include "kvstore/index_env.h"
#include "kvstore/store.h"
#include "tests/kvstore/hurt.h"
#include "tests/t.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = 4096, STATES = 6, TALKERS = 5, FIRST = 110, TURN = 10 };

/* Tokens of a session at the end: each state but the first adds a turn to one of them. */
static uint64_t talked(uint64_t s)
{
    uint64_t to = FIRST;

    for (uint64_t i = 1; i < STATES; i++)
        to += s == 1 + i % TALKERS ? TURN : 0;
    return to;
}

static void file_put(const char *path, const uint8_t *p, size_t n)
{
    FILE *f = fopen(path, "we");

    CHECK(f && fwrite(p, 1, n, f) == n);
    fclose(f);
}

/* The index as it was after each state, and at the end. */
static void make(struct rig *g, uint8_t *was[STATES], size_t n[STATES])
{
    char path[512];

    rig_init(g, KVS_IO_THREADS, true);
    g->o.disk_bytes = 16 << 20;
    hurt_path(g, "index.mdb", path);
    for (uint64_t i = 0; i < STATES; i++) {
        CHECK_EQ(rig_open(g), 0);
        for (uint64_t s = 1; s <= TALKERS && i == 0; s++)
            CHECK_EQ(rig_talk(g, s, 0, FIRST), 0);
        if (i)
            CHECK_EQ(rig_talk(g, 1 + i % TALKERS, FIRST, FIRST + TURN), 0);
        rig_close(g);
        was[i] = hurt_load(path, &n[i]);
    }
}

static int head_each(void *ctx, const struct kvs_session *x)
{
    uint64_t *head = ctx, s = strtoull(x->name + 1, NULL, 10);

    CHECK(s >= 1 && s <= TALKERS);
    head[s] = x->head;
    return 0;
}

/* All that was said is there, but of session `but` (0: none). */
static bool whole(struct rig *g, uint64_t but)
{
    uint64_t head[TALKERS + 1] = {0};
    bool ok = true;

    CHECK_EQ(kvs_sessions(g->s, head_each, head), 0);
    for (uint64_t s = 1; s <= TALKERS; s++)
        ok = ok && (s == but || (head[s] == talked(s) && rig_tokens_ok(g, s, talked(s))));
    return ok;
}

/* hurt: a frame of the log as well, that brought a session's first tokens. */
static void older_pages(uint64_t hurt)
{
    uint8_t *was[STATES];
    char path[512], gold[300], words[4000];
    size_t n[STATES];
    struct rig g;
    int tried = 0, noticed = 0;

    make(&g, was, n);
    hurt_path(&g, "index.mdb", path);
    snprintf(gold, sizeof gold, "%s-gold", g.dir);
    CHECK_EQ(rig_cp(g.dir, gold), 0);
    const uint8_t *now = was[STATES - 1];
    for (int i = 0; i < STATES - 1; i++)
        for (size_t at = 0; at + PAGE <= n[STATES - 1] && at + PAGE <= n[i]; at += PAGE) {
            if (memcmp(was[i] + at, now + at, PAGE) == 0)
                continue;
            CHECK_EQ(rig_rm(g.dir), 0);
            CHECK_EQ(rig_cp(gold, g.dir), 0);
            uint8_t *b = malloc(n[STATES - 1]);
            memcpy(b, now, n[STATES - 1]);
            memcpy(b + at, was[i] + at, PAGE);
            file_put(path, b, n[STATES - 1]);
            free(b);
            if (hurt)
                CHECK(hurt_frame(&g, hurt, 0) > 0);
            CHECK_EQ(rig_open(&g), 0);
            hurt_notes(&g, words, sizeof words);
            if (!whole(&g, hurt) || (!hurt && strstr(words, "Lost")))
                t_fail(__FILE__, __LINE__, "page %zu of state %d: %s", at / PAGE, i, words);
            noticed += strstr(words, "damage") != NULL;
            tried++;
            rig_close(&g);
        }
    printf("    %d pages tried, %d noticed\n", tried, noticed);
    CHECK(tried > 30 && noticed > 5);
    CHECK_EQ(rig_rm(gold), 0);
    for (int i = 0; i < STATES; i++)
        free(was[i]);
    rig_fini(&g);
}

static void an_older_page_in_the_index_costs_nothing(void)
{
    older_pages(0);
}

static void with_a_hurt_frame_of_the_log_it_costs_what_both_lost(void)
{
    older_pages(3);
}

/* Older versions kept no sums: the next open makes them. */
static void a_store_without_sums_gets_them(void)
{
    uint8_t v[INDEX_SUMS_BYTES + 1], again[INDEX_SUMS_BYTES + 1];
    struct rig g;

    rig_init(&g, KVS_IO_THREADS, true);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, FIRST), 0);
    rig_rest(&g);
    CHECK_EQ(index_meta_get(g.s->idx, INDEX_COMMIT, "sums", v, sizeof v), INDEX_SUMS_BYTES);
    CHECK_EQ(index_begin(g.s->idx), 0);
    g.s->idx->summed = false;
    CHECK_EQ(index_row_del(g.s->idx, DB_META, "sums", 4), 0);
    CHECK_EQ(index_commit(g.s->idx), 0);
    CHECK_EQ(index_meta_get(g.s->idx, INDEX_COMMIT, "sums", v, sizeof v), -ENOENT);
    rig_close(&g);
    for (int i = 0; i < 2; i++) { /* as they were made, and as they are kept from then on */
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(index_meta_get(g.s->idx, INDEX_LOOP, "sums", v, sizeof v), INDEX_SUMS_BYTES);
        CHECK_EQ(rig_talk(&g, 1, FIRST + 10 * (uint64_t)i, FIRST + 10 * (uint64_t)i + 10), 0);
        rig_rest(&g);
        CHECK_EQ(index_meta_get(g.s->idx, INDEX_COMMIT, "sums", again, sizeof again),
                 INDEX_SUMS_BYTES);
        CHECK(memcmp(v, again, INDEX_SUMS_BYTES) != 0);
        rig_close(&g);
        CHECK(!strstr(g.eb.s, "damage") && !g.rep.rebuilt);
    }
    rig_fini(&g);
}

/* --- an index of an earlier stop ------------------------------------------------------------------ */

static bool notes_say(struct rig *g, const char *a, const char *b)
{
    char all[4000];

    hurt_notes(g, all, sizeof all);
    return strstr(all, a) && strstr(all, b);
}

static int count_lost(void *ctx, const struct kvs_session *x)
{
    *(int *)ctx += (x->flags & KVS_SESS_LOST) != 0;
    return 0;
}

/* The index of a stop (or of a crash) before the log's last frames, the last of which is hurt.  Beside
 * that of a crash it was torn as it was written, and nobody was told of it. */
static void beside_an_index_that_was_closed_before_a_torn_end_may_be_a_loss(void)
{
    char path[512];
    size_t n[2];

    for (int k = 0; k < 3; k++) { /* of a stop; of a crash; of a stop, and the log is whole */
        struct rig g;
        int lost = 0;
        rig_init(&g, KVS_IO_THREADS, true);
        g.o.disk_bytes = 16 << 20;
        hurt_path(&g, "index.mdb", path);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
        rig_close(&g);
        uint8_t *stop = hurt_load(path, &n[0]);
        CHECK_EQ(rig_open(&g), 0);
        uint8_t *crash = hurt_load(path, &n[1]);
        CHECK_EQ(rig_talk(&g, 2, 0, 100), 0);
        CHECK_EQ(rig_talk(&g, 1, 100, 200), 0);
        CHECK_EQ(rig_talk(&g, 1, 200, 300), 0);
        rig_close(&g);
        file_put(path, k == 1 ? crash : stop, k == 1 ? n[1] : n[0]);
        if (k < 2)
            CHECK_EQ(hurt_frame(&g, 1, 200), 1);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(rig_tokens_ok(&g, 1, k == 2 ? 300 : 200) && rig_tokens_ok(&g, 2, 100));
        bool said = notes_say(&g, "Lost: ", "perhaps what was acknowledged as frames");
        CHECK_EQ(kvs_sessions(g.s, count_lost, &lost), 0);
        CHECK_EQ(said, k == 0);
        CHECK_EQ(lost, k == 0 ? 2 : 0);
        struct kvs_stats st;
        kvs_stats(g.s, &st);
        CHECK_EQ(st.n_warnings > 0, k == 0);
        CHECK_EQ(rig_talk(&g, 3, 0, 100), 0);
        rig_reopen(&g);
        lost = 0;
        CHECK(g.rep.clean && rig_tokens_ok(&g, 3, 100) && rig_tokens_ok(&g, 2, 100));
        CHECK_EQ(kvs_sessions(g.s, count_lost, &lost), 0);
        CHECK_EQ(lost, k == 0 ? 2 : 0);
        CHECK_EQ(notes_say(&g, "Lost: ", "perhaps"), k == 0);
        free(stop);
        free(crash);
        rig_fini(&g);
    }
}

/* A copy of the store went on elsewhere, and its log came back longer: one frame of each number is
 * another one.  What the index alone has is not in the log, and its name is said. */
static void beside_an_index_of_another_history_what_goes_is_named(void)
{
    char path[512], log[512], other[300], cmd[1500], all[4000];

    for (int k = 0; k < 3;
         k++) { /* as it is; compacted meanwhile; an index of a program before */
        struct rig g;
        rig_init(&g, KVS_IO_THREADS, true);
        g.o.disk_bytes = 16 << 20;
        g.threads = false;
        hurt_path(&g, "index.mdb", path);
        hurt_path(&g, "log", log);
        snprintf(other, sizeof other, "%.250s-other", g.dir);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 1, 0, 100), 0);
        rig_close(&g);
        CHECK_EQ(rig_cp(g.dir, other), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 2, 0, 100), 0); /* here */
        if (k == 1)
            CHECK_EQ(ckpt_all(g.s), 0);
        if (k == 2) {
            CHECK_EQ(index_begin(g.s->idx), 0);
            CHECK_EQ(index_row_del(g.s->idx, DB_META, "logcrc", 6), 0);
            CHECK_EQ(index_commit(g.s->idx), 0);
        }
        rig_close(&g);
        struct rig o = g;
        snprintf(o.dir, sizeof o.dir, "%.255s", other);
        o.o.dir = o.dir;
        CHECK_EQ(rig_open(&o), 0);
        for (uint64_t at = 0; at < 300; at += 100)
            CHECK_EQ(rig_talk(&o, 3, at, at + 100), 0); /* and there */
        rig_close(&o);
        snprintf(cmd, sizeof cmd, "rm -rf '%s' && cp -a '%s/log' '%s'", log, other, log);
        CHECK_EQ(system(cmd), 0);
        CHECK_EQ(rig_open(&g), 0);
        hurt_notes(&g, all, sizeof all);
        CHECK(rig_tokens_ok(&g, 1, 100) && rig_tokens_ok(&g, 3, 300));
        if (k < 2) {
            if (!strstr(all, "two copies of one store") ||
                !strstr(all, "\"s2\" of user 1000 whole") ||
                strstr(all, "nothing is missing") || strstr(all, "had damage"))
                t_fail(__FILE__, __LINE__, "%d: %s", k, all);
            CHECK(hurt_count(g.dir, "index.mdb.bad-") == 1); /* where it still is */
        } else {
            CHECK(!strstr(all, "two copies"));
        }
        rig_reopen(&g);
        CHECK(g.rep.clean && rig_tokens_ok(&g, 3, 300));
        rig_fini(&g);
        rig_rm(other);
    }
}

T_MAIN({"a_store_without_sums_gets_them", a_store_without_sums_gets_them},
       {"with_a_hurt_frame_of_the_log_it_costs_what_both_lost",
        with_a_hurt_frame_of_the_log_it_costs_what_both_lost},
       {"beside_an_index_that_was_closed_before_a_torn_end_may_be_a_loss",
        beside_an_index_that_was_closed_before_a_torn_end_may_be_a_loss},
       {"beside_an_index_of_another_history_what_goes_is_named",
        beside_an_index_of_another_history_what_goes_is_named},
       {"an_older_page_in_the_index_costs_nothing", an_older_page_in_the_index_costs_nothing})
