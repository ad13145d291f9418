/* test_settle.c - log and index that do not say the same: which of them is believed, record by
 * record, and what is said of a turn that neither of them has. */
#include "base/clock.h"
#include "kvstore/codec.h"
#include "kvstore/store.h"
#include "tests/kvstore/flip.h"
#include "tests/kvstore/hurt.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static struct rig g;

static void start(void)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 16 << 20;
    g.o.no_fsync = true;
    g.threads = false;
    CHECK_EQ(rig_open(&g), 0);
}

/* The index as it is now, aside; and back, as if the store had not come further. */
static void index_copy(bool back)
{
    char path[400], old[400];

    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    snprintf(old, sizeof old, "%s/kept-index", g.dir);
    CHECK_EQ(back ? rig_cp(old, path) : rig_cp(path, old), 0);
}

/* Tokens [from, to) of branch 1 and turns of it, in one frame; its session stands at `to`. */
static void add(uint64_t from, uint64_t to, struct kvs_turn *turn, uint32_t n)
{
    struct kvs_id branch = rig_id(1, 0);
    struct kvs_session ses;
    struct kvs_rec rec[4];
    int32_t ids[1000];
    uint32_t k = 0;

    CHECK(to - from <= 1000 && n <= 2);
    for (uint64_t i = from; i < to; i++)
        ids[i - from] = rig_token(1, i);
    if (to > from)
        rec[k++] = (struct kvs_rec){.kind = KVS_REC_TOKENS,
                                    .tokens = {branch, from, ids, (uint32_t)(to - from)}};
    for (uint32_t i = 0; i < n; i++) {
        turn[i].branch = branch;
        rec[k++] = (struct kvs_rec){.kind = KVS_REC_TURN, .turn = &turn[i]};
    }
    rig_session(&ses, 1, 0, "s1");
    ses.head = ses.used_ns = to;
    rec[k++] = (struct kvs_rec){.kind = KVS_REC_SESSION, .session = &ses};
    CHECK_EQ(rig_batch(&g, rec, k), 0);
}

struct turns {
    uint32_t n;
    struct kvs_turn v[8];
};

static int turn_each(void *ctx, const struct kvs_turn *t)
{
    struct turns *x = ctx;

    if (x->n < 8)
        x->v[x->n++] = *t;
    return 0;
}

static int lost_each(void *ctx, const struct kvs_session *s)
{
    *(int *)ctx += (s->flags & KVS_SESS_LOST) != 0;
    return 0;
}

static int sessions_lost(void)
{
    int n = 0;

    CHECK_EQ(kvs_sessions(g.s, lost_each, &n), 0);
    return n;
}

/* Three sessions are in the copy of the index, and what the first then gets is not. */
static void go_on_after_a_copy(void)
{
    start();
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
}

/* An index from before them, and damage in front of them: only a merge keeps them. */
static void frames_behind_damage_that_the_index_has_not_seen_are_kept(void)
{
    go_on_after_a_copy();
    for (uint64_t at = 1000; at < 2000; at += 10) /* more than may be under way at once */
        CHECK_EQ(rig_talk(&g, 2, at, at + 10), 0);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    CHECK(!rig_tokens_ok(&g, 1, 1001));
    CHECK(rig_tokens_ok(&g, 2, 2000));
    CHECK(rig_tokens_ok(&g, 3, 1000));
    rig_fini(&g);
}

/* Frames that were under way together when the power went: one did not get whole, one behind it did.
 * Nobody was told of either. */
static void a_group_that_was_torn_is_no_damage(void)
{
    go_on_after_a_copy();
    CHECK_EQ(rig_talk(&g, 2, 1000, 1010), 0);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(!g.rep.rebuilt && g.rep.log_torn_bytes > 0);
    for (uint64_t s = 1; s < 4; s++) {
        CHECK(rig_tokens_ok(&g, s, 1000));
        CHECK(!rig_tokens_ok(&g, s, 1001));
    }
    rig_fini(&g);
}

/* An index from so long before that not all of the frames behind it were under way. */
static void what_was_under_way_begins_where_the_index_ends(void)
{
    uint64_t at = 1000;

    start();
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    for (int i = 0; i < GROUP_BATCHES_MAX; i++, at += 10)
        CHECK_EQ(rig_talk(&g, 2, at, at + 10), 0);
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    CHECK_EQ(rig_talk(&g, 3, 1000, 1100), 0);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    CHECK(rig_tokens_ok(&g, 2, at));
    CHECK(rig_tokens_ok(&g, 3, 1100));
    rig_fini(&g);
}

/* The index has lost a branch without a trace, and the log's last frame goes on with it. */
static void a_frame_that_does_not_fit_is_not_left_out(void)
{
    struct sys sys = {.no_fsync = true};
    struct index_opts o = {.dir = g.dir, .sys = &sys, .no_fsync = true};
    struct kvs_id id = rig_id(1, 0);
    struct index *x = NULL;

    go_on_after_a_copy();
    rig_close(&g);
    index_copy(true);
    CHECK_EQ(index_open(&x, &o, NULL), 0);
    CHECK_EQ(index_begin(x), 0);
    CHECK_EQ(index_row_del(x, DB_BRANCH, id.b, 16), 0);
    CHECK_EQ(index_commit(x), 0);
    index_close(x);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 1100));
    CHECK(rig_tokens_ok(&g, 2, 1000) && rig_tokens_ok(&g, 3, 1000));
    CHECK_EQ(sessions_lost(), 0);
    rig_fini(&g);
}

/* It would be wiped, and was all that is left of the last turn. */
static void the_torn_end_of_a_log_without_an_index_is_kept(void)
{
    char dir[512];

    start();
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    rig_no_index(&g);
    CHECK(flip_tokens(g.dir, "log", 3, 10) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt && g.rep.log_torn_bytes > 0);
    CHECK(rig_tokens_ok(&g, 1, 1000) && rig_tokens_ok(&g, 2, 1000));
    CHECK_EQ(rig_talk(&g, 2, 1000, 1100), 0);
    hurt_path(&g, "log", dir);
    CHECK(hurt_count(dir, ".bad-") > 0);
    CHECK(flip_tokens(g.dir, "log", 3, 500) > 0); /* which of them does not matter */
    rig_reopen(&g);
    CHECK(rig_tokens_ok(&g, 2, 1100));
    rig_fini(&g);
}

/* Its end and the turn behind it are lost with one frame and two rows; the tokens are all there,
 * and the open turn seems to reach over them. */
static void a_lost_turn_behind_an_open_one_is_said(void)
{
    struct kvs_turn open = {.first = 600, .n_tokens = 300, .flags = KVS_TURN_OPEN},
                    ended[2] = {{.first = 600, .n_tokens = 300},
                                {.first = 900, .n_tokens = 300}},
                    last = {.first = 1200, .n_tokens = 600};

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 600), 0);
    add(600, 900, &open, 1);
    add(900, 1200, ended, 2);
    add(1200, 1800, &last, 1);
    rig_close(&g);
    CHECK(flip_turn(g.dir, 1, 600) > 0);
    CHECK(flip_turn(g.dir, 1, 900) > 0);
    CHECK(flip_tokens(g.dir, "log", 1, 900) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 1800));
    CHECK_EQ(sessions_lost(), 1);
    CHECK_EQ(g.rep.sessions_hurt, 1);
    rig_fini(&g);
}

/* Its record is whole in the index, its tokens are in neither: it does not stay without any. */
static void a_turn_that_lost_its_tokens_goes_with_them(void)
{
    struct kvs_turn one = {.first = 600, .n_tokens = 300},
                    two = {.first = 900, .n_tokens = 300};
    struct turns t = {0};
    struct kvs_id id = rig_id(1, 0);

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 600), 0);
    add(600, 900, &one, 1);
    add(900, 1200, &two, 1);
    rig_close(&g);
    CHECK(flip_tokens(g.dir, "index.mdb", 1, 900) > 0);
    CHECK(flip_tokens(g.dir, "log", 1, 900) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 900));
    CHECK_EQ(sessions_lost(), 1);
    CHECK_EQ(kvs_turns(g.s, &id, 1200, turn_each, &t), 0);
    CHECK(t.n > 0 && t.v[t.n - 1].first == 600);
    rig_fini(&g);
}

static void put_req(uint32_t state, uint64_t time_ns)
{
    struct kvs_req q = {.owner = 1000,
                        .id = rig_id(9, 1),
                        .session = rig_id(1, 1000),
                        .branch = rig_id(1, 0),
                        .state = state,
                        .time_ns = time_ns};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};

    CHECK_EQ(rig_batch(&g, &r, 1), 0);
}

/* The clock was set back between the two, and how far the index had come is not known. */
static void of_two_copies_the_ended_one_counts(void)
{
    struct kvs_turn open = {.first = 600, .flags = KVS_TURN_OPEN, .time_ns = 2000},
                    ended = {.first = 600, .n_tokens = 300, .time_ns = 1000};
    struct kvs_id branch = rig_id(1, 0), req = rig_id(9, 1);
    uint64_t now = wall_ns();
    static struct turns t;
    struct kvs_req q;
    char *reply = NULL;

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 600), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 1000), 0);
    add(600, 900, &open, 1);
    put_req(KVS_REQ_RUNNING, now);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    add(900, 900, &ended, 1);
    put_req(KVS_REQ_ENDED, now - 1000000000u);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_bytes(g.dir, "index.mdb", "logseq", 6, 6) > 0);
    CHECK(flip_tokens(g.dir, "log", 2, 100) > 0); /* so that the index's rows count at all */
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 900));
    CHECK(rig_tokens_ok(&g, 2, 1000));
    t.n = 0;
    CHECK_EQ(kvs_turns(g.s, &branch, 900, turn_each, &t), 0);
    CHECK_EQ(t.n, 2);
    CHECK_EQ(t.v[1].first, 600);
    CHECK_EQ(t.v[1].n_tokens, 300);
    CHECK_EQ(t.v[1].flags & KVS_TURN_OPEN, 0);
    CHECK_EQ(kvs_req_get(g.s, 1000, &req, &q, &reply), 0);
    CHECK_EQ(q.state, KVS_REQ_ENDED);
    free(reply);
    rig_fini(&g);
}

/* --- an index from before ------------------------------------------------------------------- */

static void compact(void)
{
    CHECK_EQ(ckpt_all(g.s), 0);
    CHECK_EQ(turnlog_trim(g.s->log), 0);
}

/* Session 2 has another name and is pinned, with no time of its own; session 3 is removed. */
static void change(void)
{
    struct kvs_session x;
    struct kvs_rec r[2] = {{.kind = KVS_REC_SESSION, .session = &x},
                           {.kind = KVS_REC_SESSION_RM, .session = &x}};

    rig_session(&x, 2, 0, "renamed");
    x.flags = KVS_SESS_PINNED;
    x.head = x.used_ns = 1000;
    CHECK_EQ(rig_batch(&g, &r[0], 1), 0);
    rig_session(&x, 3, 0, "s3");
    CHECK_EQ(rig_batch(&g, &r[1], 1), 0);
}

/* What change() did, and that session 1 has so many tokens. */
static void changed(const char *what, uint64_t tokens)
{
    static struct hurt_have h;
    int at = 0;

    h.n = 0;
    CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
    for (uint32_t i = 0; i < h.n; i++)
        at += strcmp(h.s[i].name, "renamed") == 0 && h.s[i].flags == KVS_SESS_PINNED;
    if (h.n != 2 || at != 1 || !rig_tokens_ok(&g, 1, tokens) || !rig_tokens_ok(&g, 2, 1000))
        t_fail(__FILE__, __LINE__, "%s: %u sessions, %d renamed", what, h.n, at);
}

/* How far it had come is not known any more, or hardly anything of its first pages. */
static void hurt_l(bool pages)
{
    char path[512];
    size_t n;

    if (!pages) {
        CHECK(flip_bytes(g.dir, "index.mdb", "logseq", 6, 6) > 0);
        return;
    }
    hurt_path(&g, "index.mdb", path);
    free(hurt_load(path, &n));
    for (size_t at = 8192; at < n && at < 8192 + 20000; at++)
        hurt_xor(path, at, (uint8_t)(1 + at * 7 % 251));
}

static void an_old_index_with_damage_brings_nothing_back(void)
{
    char said[4096], what[64];

    for (int how = 0; how < 8; how++) {
        bool compacted = how & 1, pages = how & 2, more = how & 4;
        snprintf(what, sizeof what, "compacted %d, pages %d, more %d", compacted, pages, more);
        start();
        for (uint64_t s = 1; s < 4; s++)
            CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
        rig_close(&g);
        index_copy(false);
        CHECK_EQ(rig_open(&g), 0);
        change();
        if (compacted)
            compact();
        if (more)
            CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
        rig_close(&g);
        index_copy(true);
        hurt_l(pages);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(g.rep.rebuilt);
        CHECK_EQ(g.rep.sessions_hurt, 0);
        changed(what, more ? 1100 : 1000);
        CHECK_EQ(sessions_lost(), 0);
        CHECK(hurt_notes(&g, said, sizeof said) > 0);
        if (strstr(said, "Lost") || !strstr(said, "nothing is missing"))
            t_fail(__FILE__, __LINE__, "%s: %s", what, said);
        rig_fini(&g);
    }
}

/* The log is an older copy, and the index has a damaged row: that a session is not in it may be its
 * removal, or the damage. */
static void what_an_older_log_brings_back_is_said(void)
{
    static struct hurt_have h;
    char said[4096], log[512];
    size_t bytes;

    start();
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    hurt_path(&g, "log/seg-0001", log);
    uint8_t *old = hurt_load(log, &bytes);
    CHECK_EQ(rig_open(&g), 0);
    change();
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    rig_close(&g);
    int fd = open(log, O_WRONLY);
    CHECK_EQ(pwrite(fd, old, bytes, 0), (ssize_t)bytes);
    close(fd);
    free(old);
    CHECK(flip_tokens(g.dir, "index.mdb", 2, 300) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 1100) && rig_tokens_ok(&g, 2, 1000));
    h.n = 0;
    CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    CHECK(h.n == 2 || strstr(said, "removed sessions may be there again"));
    rig_fini(&g);
}

/* The log is an older copy, and of the index are hurt how far it had come and the newest session's
 * row: that it was one is known by its name. */
static void a_session_that_an_older_log_lacks_is_named(void)
{
    char said[4096], log[512];
    size_t bytes;

    start();
    CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
    rig_close(&g);
    hurt_path(&g, "log/seg-0001", log);
    uint8_t *old = hurt_load(log, &bytes);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 2, 0, 1000), 0);
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    rig_close(&g);
    int fd = open(log, O_WRONLY);
    CHECK_EQ(pwrite(fd, old, bytes, 0), (ssize_t)bytes);
    close(fd);
    free(old);
    hurt_l(false);
    CHECK(hurt_session_row(&g, 2) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 1100));
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    printf("    %s", said);
    CHECK(strstr(said, "1 session whole") && strstr(said, "\"s2\""));
    CHECK_EQ(sessions_lost(), 0);
    rig_fini(&g);
}

/* A frame behind the checkpoint is lost: the index, which is from before, cannot have it. */
static void an_old_index_counts_for_nothing_that_a_checkpoint_holds(void)
{
    char said[4096];

    start();
    for (uint64_t s = 1; s < 4; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    change();
    compact();
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    for (uint64_t at = 1000; at < 2000; at += 10)
        CHECK_EQ(rig_talk(&g, 4, at - 1000, at - 990), 0);
    rig_close(&g);
    index_copy(true);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 4, 1000));
    struct kvs_id id = rig_id(3, 1000);
    struct kvs_session *x = malloc(sizeof *x);
    CHECK_EQ(index_session_get(g.s->idx, INDEX_LOOP, &id, x), -ENOENT);
    id = rig_id(2, 1000);
    CHECK_EQ(index_session_get(g.s->idx, INDEX_LOOP, &id, x), 0);
    CHECK(strcmp(x->name, "renamed") == 0);
    free(x);
    CHECK(hurt_notes(&g, said, sizeof said) > 0);
    CHECK(strstr(said, "Lost") && !strstr(said, "s3"));
    rig_fini(&g);
}

/* The same where the log is hurt in another place: what it says of a session behind that counts. */
static void an_old_index_does_not_undo_what_a_hurt_log_still_says(void)
{
    go_on_after_a_copy();
    change();
    rig_close(&g);
    index_copy(true);
    hurt_l(false);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    changed("hurt log", 1000);
    rig_fini(&g);
}

/* In front of a hole, where a newer one may have been: the one that was used later. */
static void of_two_copies_of_a_session_the_later_one_counts(void)
{
    struct kvs_session x;
    struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};
    static struct hurt_have h;

    start();
    for (uint64_t s = 1; s < 3; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    rig_session(&x, 2, 0, "renamed");
    x.head = 1000;
    x.used_ns = 1050;
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
    CHECK_EQ(rig_talk(&g, 3, 0, 1000), 0);
    rig_close(&g);
    index_copy(true);
    hurt_l(false);
    CHECK(flip_tokens(g.dir, "log", 1, 1000) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    h.n = 0;
    CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
    CHECK_EQ(h.n, 3);
    int found = 0;
    for (uint32_t i = 0; i < h.n; i++)
        found += strcmp(h.s[i].name, "renamed") == 0;
    CHECK_EQ(found, 1);
    rig_fini(&g);
}

/* The other way round: the log is from before, and what it does not know of is in the index. */
static void a_log_from_before_takes_nothing_away(void)
{
    char cmd[1200];

    for (int compacted = 0; compacted < 2; compacted++) {
        start();
        for (uint64_t s = 1; s < 4; s++)
            CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
        if (compacted)
            compact();
        rig_close(&g);
        snprintf(cmd, sizeof cmd, "cp -a '%s/log' '%s/kept-log'", g.dir, g.dir);
        CHECK_EQ(system(cmd), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(rig_talk(&g, 1, 1000, 1100), 0);
        CHECK_EQ(rig_talk(&g, 4, 0, 1000), 0);
        rig_close(&g);
        snprintf(cmd, sizeof cmd, "rm -r '%s/log' && mv '%s/kept-log' '%s/log'", g.dir, g.dir,
                 g.dir);
        CHECK_EQ(system(cmd), 0);
        hurt_l(false);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(g.rep.rebuilt);
        CHECK(rig_tokens_ok(&g, 1, 1100));
        CHECK(rig_tokens_ok(&g, 4, 1000));
        rig_fini(&g);
    }
}

/* Log [0, 10) and [10, 20) are hurt and the index has the first only: no token between them is
 * made up. */
static void between_two_pieces_of_a_run_is_a_hole(void)
{
    struct kvs_id branch = rig_id(1, 0);
    uint64_t end = 0;

    start();
    CHECK_EQ(rig_talk(&g, 2, 0, 100), 0);
    CHECK_EQ(rig_talk(&g, 1, 0, 10), 0);
    rig_close(&g);
    index_copy(false);
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_talk(&g, 1, 10, 20), 0);
    CHECK_EQ(rig_talk(&g, 1, 20, 30), 0);
    rig_close(&g);
    index_copy(true);
    hurt_l(false);
    CHECK(flip_tokens(g.dir, "log", 1, 0) > 0);
    CHECK(flip_tokens(g.dir, "log", 1, 10) > 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(kvs_branch_end(g.s, &branch, &end), 0);
    CHECK_EQ(end, 10);
    CHECK(rig_tokens_ok(&g, 1, 10));
    CHECK(sessions_lost() > 0);
    rig_fini(&g);
}

/* The first page of the index with this in it, or behind the end of the file. */
static void page_with(const char *bytes, uint8_t page[4096], bool append)
{
    char path[512];
    size_t n;

    hurt_path(&g, "index.mdb", path);
    if (append) {
        FILE *f = fopen(path, "a");
        CHECK(f && fwrite(page, 4096, 1, f) == 1 && fclose(f) == 0);
        return;
    }
    uint8_t *b = hurt_load(path, &n);
    bool found = false;
    for (size_t at = 8192; at + 4096 <= n && !found; at += 4096) {
        found = memmem(b + at, 4096, bytes, strlen(bytes)) != NULL;
        memcpy(page, b + at, 4096);
    }
    CHECK(found);
    free(b);
}

/* A page of the index from before lies behind those of now, and the log is from before: how far the
 * index had come is what the newest row says. */
static void of_two_rows_of_how_far_the_index_had_come_the_newest_counts(void)
{
    struct kvs_session x;
    struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &x};
    static struct hurt_have h;
    uint8_t page[4096];
    char cmd[1200];

    start();
    for (uint64_t s = 1; s < 3; s++)
        CHECK_EQ(rig_talk(&g, s, 0, 1000), 0);
    rig_close(&g);
    page_with("logseq", page, false);
    snprintf(cmd, sizeof cmd, "cp -a '%s/log' '%s/kept-log'", g.dir, g.dir);
    CHECK_EQ(system(cmd), 0);
    CHECK_EQ(rig_open(&g), 0);
    rig_session(&x, 2, 0, "renamed");
    x.head = x.used_ns = 1000;
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    rig_close(&g);
    snprintf(cmd, sizeof cmd, "rm -r '%s/log' && mv '%s/kept-log' '%s/log'", g.dir, g.dir,
             g.dir);
    CHECK_EQ(system(cmd), 0);
    CHECK(flip_tokens(g.dir, "index.mdb", 1, 100) > 0);
    page_with("", page, true);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 1000));
    h.n = 0;
    CHECK_EQ(kvs_sessions(g.s, hurt_have_each, &h), 0);
    int found = 0;
    for (uint32_t i = 0; i < h.n; i++)
        found += strcmp(h.s[i].name, "renamed") == 0;
    CHECK_EQ(found, 1);
    rig_fini(&g);
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(frames_behind_damage_that_the_index_has_not_seen_are_kept),
       ROW(a_group_that_was_torn_is_no_damage),
       ROW(what_was_under_way_begins_where_the_index_ends),
       ROW(a_frame_that_does_not_fit_is_not_left_out),
       ROW(the_torn_end_of_a_log_without_an_index_is_kept),
       ROW(a_lost_turn_behind_an_open_one_is_said),
       ROW(a_turn_that_lost_its_tokens_goes_with_them),
       ROW(a_session_that_an_older_log_lacks_is_named), ROW(of_two_copies_the_ended_one_counts),
       ROW(an_old_index_with_damage_brings_nothing_back),
       ROW(what_an_older_log_brings_back_is_said),
       ROW(an_old_index_counts_for_nothing_that_a_checkpoint_holds),
       ROW(an_old_index_does_not_undo_what_a_hurt_log_still_says),
       ROW(of_two_copies_of_a_session_the_later_one_counts),
       ROW(between_two_pieces_of_a_run_is_a_hole),
       ROW(of_two_rows_of_how_far_the_index_had_come_the_newest_counts),
       ROW(a_log_from_before_takes_nothing_away))
