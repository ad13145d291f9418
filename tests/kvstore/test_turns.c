/* test_turns.c - sessions, branches, tokens, turns, requests: what a batch may do and does. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "kvstore/index.h"
#include "kvstore/sys.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct rig g;

static void start(void)
{
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 8 << 20;
    CHECK_EQ(rig_open(&g), 0);
}

static int branch(uint64_t n, int64_t parent, uint64_t pos)
{
    struct kvs_branch b = {.id = rig_id(1, n), .parent_pos = pos, .owner = 1000};
    struct kvs_rec r = {.kind = KVS_REC_BRANCH, .branch = &b};

    if (parent >= 0)
        b.parent = rig_id(1, (uint64_t)parent);
    return rig_batch(&g, &r, 1);
}

static int tokens(uint64_t n, uint64_t first, uint32_t count, int32_t base)
{
    int32_t *ids = malloc((count + 1) * sizeof *ids);
    struct kvs_rec r = {.kind = KVS_REC_TOKENS, .tokens = {rig_id(1, n), first, ids, count}};

    for (uint32_t i = 0; i < count; i++)
        ids[i] = base + (int32_t)(first + i);
    int e = rig_batch(&g, &r, 1);
    free(ids);
    return e;
}

static int turn(uint64_t n, uint64_t first, uint64_t count, uint32_t role)
{
    struct kvs_turn t = {.branch = rig_id(1, n),
                         .first = first,
                         .n_tokens = count,
                         .role = role,
                         .params = "{\"t\":1}",
                         .seed = first};
    struct kvs_rec r = {.kind = KVS_REC_TURN, .turn = &t};

    return rig_batch(&g, &r, 1);
}

static int cut(uint64_t n, uint64_t first)
{
    struct kvs_rec r = {.kind = KVS_REC_CUT, .tokens = {rig_id(1, n), first, NULL, 0}};

    return rig_batch(&g, &r, 1);
}

/* One whose branch is not there has not begun. */
static void named(struct kvs_session *s, uint64_t n, const char *name)
{
    struct kvs_branch b;

    rig_session(s, 1, n, name);
    if (kvs_branch_get(g.s, &s->branch, &b) == -ENOENT)
        memset(&s->branch, 0, sizeof s->branch);
}

static int session(uint64_t n, const char *name)
{
    struct kvs_session s;
    struct kvs_rec r = {.kind = KVS_REC_SESSION, .session = &s};

    named(&s, n, name);
    return rig_batch(&g, &r, 1);
}

static int session_rm(uint64_t n)
{
    struct kvs_session s = {.id = rig_id(1, 1000 + n), .owner = 1000};
    struct kvs_rec r = {.kind = KVS_REC_SESSION_RM, .session = &s};

    return rig_batch(&g, &r, 1);
}

static bool path_is(uint64_t n, uint64_t to, const int32_t *base, const uint64_t *until, int k)
{
    struct kvs_id id = rig_id(1, n);
    int32_t *ids = malloc((to + 1) * sizeof *ids);
    bool ok = kvs_tokens(g.s, &id, 0, to, ids) == 0;
    int at = 0;

    for (uint64_t i = 0; i < to && ok; i++) {
        while (at < k - 1 && i >= until[at])
            at++;
        ok = ids[i] == base[at] + (int32_t)i;
    }
    free(ids);
    return ok;
}

static uint64_t end_of(uint64_t n)
{
    struct kvs_id id = rig_id(1, n);
    uint64_t end = 0;

    return kvs_branch_end(g.s, &id, &end) < 0 ? UINT64_MAX : end;
}

static void a_fork_of_a_fork_reads_its_whole_path(void)
{
    const int32_t base[] = {0, 100000, 200000};
    const uint64_t until[] = {300, 777, 5000};

    start();
    CHECK_EQ(branch(0, -1, 0), 0);
    CHECK_EQ(tokens(0, 0, 1000, 0), 0);
    CHECK_EQ(branch(1, 0, 300), 0);
    CHECK_EQ(tokens(1, 300, 700, 100000), 0);
    CHECK_EQ(branch(2, 1, 777), 0);
    CHECK_EQ(tokens(2, 777, 1, 200000), 0);
    CHECK_EQ(tokens(2, 778, 600, 200000), 0);
    for (int again = 0; again < 2; again++) {
        CHECK_EQ(end_of(2), 1378);
        CHECK(path_is(2, 1378, base, until, 3));
        CHECK(path_is(1, 1000, base, until, 2));
        CHECK(path_is(0, 1000, base, until, 1));
        struct kvs_id id = rig_id(1, 2);
        int32_t one[2];
        CHECK_EQ(kvs_tokens(g.s, &id, 776, 778, one), 0);
        CHECK_EQ(one[0], 100776);
        CHECK_EQ(one[1], 200777);
        CHECK_EQ(kvs_tokens(g.s, &id, 1377, 1379, one), -ENOENT);
        CHECK_EQ(kvs_tokens(g.s, &id, 5, 5, one), 0);
        if (!again) { /* keep them from being collected */
            CHECK_EQ(session(0, "a"), 0);
            CHECK_EQ(session(1, "b"), 0);
            CHECK_EQ(session(2, "c"), 0);
            rig_reopen(&g);
        }
    }
    rig_fini(&g);
}

static void appends_of_any_length_join(void)
{
    const int32_t base[] = {0};
    const uint64_t until[] = {0};
    uint64_t seed = t_seed(), rnd = seed, at = 0;

    start();
    CHECK_EQ(branch(0, -1, 0), 0);
    while (at < 3000) {
        uint32_t n = (uint32_t)(rig_rand(&rnd) % 3 ? rig_rand(&rnd) % 9 : rig_rand(&rnd) % 700);
        CHECK_EQ(tokens(0, at, n, 0), 0);
        at += n;
    }
    CHECK_EQ(end_of(0), at);
    CHECK(path_is(0, at, base, until, 1));
    rig_fini(&g);
}

static void a_cut_drops_what_is_behind_it_and_appending_goes_on(void)
{
    static const uint64_t cuts[] = {0, 1, 255, 256, 257, 511, 512, 999, 1000};
    const int32_t base[] = {0, 5000};

    for (unsigned i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        uint64_t until[] = {cuts[i], 0};
        start();
        CHECK_EQ(branch(0, -1, 0), 0);
        CHECK_EQ(tokens(0, 0, 1000, 0), 0);
        CHECK_EQ(turn(0, 0, 500, 1), 0);
        CHECK_EQ(turn(0, 600, 400, 2), 0);
        CHECK_EQ(cut(0, cuts[i]), 0);
        CHECK_EQ(end_of(0), cuts[i]);
        CHECK_EQ(tokens(0, cuts[i], 300, 5000), 0);
        CHECK(path_is(0, cuts[i] + 300, base, until, 2));
        CHECK_EQ(cut(0, cuts[i] + 301), -EINVAL);
        rig_fini(&g);
    }
}

static int note_turn(void *ctx, const struct kvs_turn *t)
{
    uint64_t **at = ctx;

    *(*at)++ = t->first;
    return 0;
}

static void turns_of_a_path_come_in_order_up_to_where_it_leaves(void)
{
    uint64_t first[16] = {0}, *at = first;
    struct kvs_id id = rig_id(1, 1);

    start();
    CHECK_EQ(branch(0, -1, 0), 0);
    CHECK_EQ(tokens(0, 0, 1000, 0), 0);
    CHECK_EQ(turn(0, 400, 600, 2), 0);
    CHECK_EQ(turn(0, 0, 100, 0), 0);
    CHECK_EQ(turn(0, 100, 200, 1), 0);
    CHECK_EQ(branch(1, 0, 300), 0);
    CHECK_EQ(turn(1, 300, 50, 1), 0); /* on record before its tokens */
    CHECK_EQ(kvs_turns(g.s, &id, 301, note_turn, &at), 0);
    CHECK_EQ(at - first, 3);
    CHECK_EQ(first[0], 0);
    CHECK_EQ(first[1], 100);
    CHECK_EQ(first[2], 300);
    at = first;
    CHECK_EQ(kvs_turns(g.s, &id, 100, note_turn, &at), 0);
    CHECK_EQ(at - first, 1);
    at = first;
    id = rig_id(1, 0);
    CHECK_EQ(kvs_turns(g.s, &id, 1000, note_turn, &at), 0);
    CHECK_EQ(at - first, 3);
    CHECK_EQ(first[2], 400);
    /* An answer cancelled before its first token stands at the end of the path; where it was
     * left for something else, that follows at the same place. */
    CHECK_EQ(turn(0, 1000, 0, 1), 0);
    at = first;
    CHECK_EQ(kvs_turns(g.s, &id, 1000, note_turn, &at), 0);
    CHECK_EQ(at - first, 4);
    CHECK_EQ(first[3], 1000);
    at = first;
    CHECK_EQ(kvs_turns(g.s, &id, 999, note_turn, &at), 0);
    CHECK_EQ(at - first, 3);
    id = rig_id(1, 2);
    CHECK_EQ(branch(2, 0, 1000), 0);
    CHECK_EQ(turn(2, 1000, 50, 1), 0);
    at = first;
    CHECK_EQ(kvs_turns(g.s, &id, 1050, note_turn, &at), 0);
    CHECK_EQ(at - first, 5);
    CHECK_EQ(first[3], 1000);
    CHECK_EQ(first[4], 1000);
    rig_fini(&g);
}

static void what_does_not_fit_is_refused_whole(void)
{
    struct kvs_branch b = {.id = rig_id(1, 7), .owner = 1000};
    int32_t id = 5;
    struct kvs_rec two[] = {{.kind = KVS_REC_BRANCH, .branch = &b},
                            {.kind = KVS_REC_TOKENS, .tokens = {b.id, 3, &id, 1}}};

    start();
    CHECK_EQ(branch(0, -1, 0), 0);
    CHECK_EQ(branch(0, -1, 0), -EEXIST);
    CHECK_EQ(branch(1, 5, 0), -ENOENT);
    CHECK_EQ(branch(1, 0, 1), -EINVAL);
    CHECK_EQ(tokens(0, 1, 5, 0), -EINVAL);
    CHECK_EQ(tokens(9, 0, 5, 0), -ENOENT);
    CHECK_EQ(turn(9, 0, 5, 0), -ENOENT);
    CHECK_EQ(rig_batch(&g, two, 2), -EINVAL);
    CHECK_EQ(end_of(7), UINT64_MAX); /* nothing of it stayed */
    struct kvs_rec odd = {.kind = 99};
    CHECK_EQ(rig_batch(&g, &odd, 1), -EINVAL);
    CHECK_EQ(tokens(0, 0, 5, 0), 0);
    rig_fini(&g);
}

static int last_name(void *ctx, const struct kvs_session *s)
{
    snprintf(ctx, 256, "%s", s->name);
    return 0;
}

static void a_name_belongs_to_one_session_and_moves_with_it(void)
{
    char name[256] = "";

    start();
    CHECK_EQ(session(1, "x"), 0);
    CHECK_EQ(session(1, "x"), 0); /* the same again */
    CHECK_EQ(session(2, "x"), -EEXIST);
    CHECK_EQ(session(1, "y"), 0);
    CHECK_EQ(session(2, "x"), 0);
    CHECK_EQ(session(2, "y"), -EEXIST);
    CHECK_EQ(session_rm(1), 0);
    CHECK_EQ(session_rm(1), 0);
    CHECK_EQ(session(2, "y"), 0);
    CHECK_EQ(kvs_sessions(g.s, last_name, name), 0);
    CHECK_STR(name, "y");
    /* Within one group, too. */
    struct kvs_session a, b;
    named(&a, 2, "z");
    named(&b, 3, "y");
    struct kvs_rec swap[] = {{.kind = KVS_REC_SESSION, .session = &a},
                             {.kind = KVS_REC_SESSION, .session = &b}};
    CHECK_EQ(rig_batch(&g, swap, 2), 0);
    named(&a, 4, "z");
    CHECK_EQ(rig_batch(&g, swap, 1), -EEXIST);
    rig_fini(&g);
}

static void a_session_stands_only_where_something_is(void)
{
    struct kvs_session s;
    struct kvs_rec r[2] = {{.kind = KVS_REC_SESSION, .session = &s}};

    start();
    rig_session(&s, 1, 1, "x"); /* a branch that is not there */
    CHECK_EQ(rig_batch(&g, r, 1), -ENOENT);
    CHECK_EQ(branch(1, -1, 0), 0);
    CHECK_EQ(tokens(1, 0, 100, 0), 0);
    s.head = 101;
    CHECK_EQ(rig_batch(&g, r, 1), -EINVAL);
    s.head = 100;
    CHECK_EQ(rig_batch(&g, r, 1), 0);
    /* Damage takes what it stands on: it may say so again, and be renamed, and no other go there. */
    CHECK_EQ(cut(1, 40), 0);
    snprintf(s.name, sizeof s.name, "y");
    CHECK_EQ(rig_batch(&g, r, 1), 0);
    s.head = 99;
    CHECK_EQ(rig_batch(&g, r, 1), -EINVAL);
    rig_session(&s, 1, 2, "z");
    s.branch = rig_id(1, 1);
    s.head = 100;
    CHECK_EQ(rig_batch(&g, r, 1), -EINVAL);
    s.head = 40;
    CHECK_EQ(rig_batch(&g, r, 1), 0);
    rig_fini(&g);
}

static int count_req(void *ctx, const struct kvs_req *q)
{
    (void)q;
    (*(int *)ctx)++;
    return 0;
}

static void a_request_is_found_by_owner_and_id_with_its_reply(void)
{
    size_t big = 3 << 20;
    char *text = malloc(big), *reply = NULL;
    struct kvs_req q = {
        .owner = 5, .id = rig_id(1, 1), .pos = 7, .state = 1, .time_ns = 1ull << 62};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};
    struct kvs_req got;
    int n = 0;

    memset(text, 'r', big);
    rig_init(&g, KVS_IO_THREADS, true);
    g.o.disk_bytes = 32 << 20;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    CHECK_EQ(kvs_req_get(g.s, 5, &q.id, &got, &reply), 0);
    CHECK(!reply && got.pos == 7 && got.state == 1);
    q.state = 2;
    q.reply = text;
    q.reply_bytes = (uint32_t)big;
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    CHECK_EQ(kvs_req_get(g.s, 6, &q.id, &got, &reply), -ENOENT);
    rig_reopen(&g);
    CHECK_EQ(kvs_req_get(g.s, 5, &q.id, &got, &reply), 0);
    CHECK(reply && got.reply_bytes == big && memcmp(reply, text, big) == 0 && got.state == 2);
    free(reply);
    CHECK_EQ(kvs_reqs(g.s, count_req, &n), 0);
    CHECK_EQ(n, 1);
    free(text);
    rig_fini(&g);
}

static int part(uint64_t n, uint64_t first, const char *text)
{
    struct kvs_part a = {.owner = 5,
                         .id = rig_id(1, n),
                         .first = first,
                         .data = (const uint8_t *)text,
                         .bytes = (uint32_t)strlen(text)};
    struct kvs_rec r = {.kind = KVS_REC_PART, .part = &a};

    return rig_batch(&g, &r, 1);
}

static int request(uint64_t n, uint64_t time_ns)
{
    struct kvs_req q = {.owner = 5, .id = rig_id(1, n), .state = 1, .time_ns = time_ns};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};

    return rig_batch(&g, &r, 1);
}

static int join_part(void *ctx, const struct kvs_part *a)
{
    char *s = ctx;
    size_t n = strlen(s);

    snprintf(s + n, 4096 - n, "%llu:%.*s ", (unsigned long long)a->first, (int)a->bytes,
             (const char *)a->data);
    return n > 4000;
}

static const char *parts(uint64_t n)
{
    static char s[4096];
    struct kvs_id id = rig_id(1, n);

    s[0] = 0;
    CHECK_EQ(kvs_parts(g.s, 5, &id, join_part, s), 0);
    return s;
}

static void parts_of_a_request_come_in_order_and_go_with_it(void)
{
    char path[512];
    int n = 0;

    start();
    for (uint64_t i = 0; i < 3; i++) {
        CHECK_EQ(part(i, 0, "nobody's"), 0); /* leaves nothing */
        CHECK_EQ(request(i, 1ull << 62), 0);
    }
    CHECK_STR(parts(1), "");
    CHECK_EQ(part(1, 300, "c"), 0);
    CHECK_EQ(part(1, 0, "a"), 0);
    CHECK_EQ(part(1, 2, "x"), 0);
    CHECK_EQ(part(1, 2, "bb"), 0); /* replaces */
    CHECK_EQ(part(2, 7, ""), 0);
    CHECK_EQ(part(1, UINT64_MAX, "no"), -EINVAL);
    CHECK_EQ(request(1, 1ull << 62), 0); /* written again, it keeps them */
    for (int how = 0; how < 3; how++) {
        CHECK_STR(parts(0), "");
        CHECK_STR(parts(1), "0:a 2:bb 300:c ");
        CHECK_STR(parts(2), "7: ");
        n = 0;
        CHECK_EQ(kvs_reqs(g.s, count_req, &n), 0);
        CHECK_EQ(n, 3);
        for (int i = 0; how == 1 && i < 8000; i++) /* the log is compacted */
            CHECK_EQ(session(0, "busy"), 0);
        rig_close(&g);
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        if (how == 1)
            CHECK_EQ(remove(path), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK_EQ(g.rep.rebuilt, how == 1);
    }
    /* A day later they go with it, and only they. */
    for (uint64_t i = 0; i < 500; i++)
        CHECK_EQ(part(0, i, "old"), 0);
    CHECK_EQ(request(0, 1), 0);
    rig_reopen(&g);
    n = 0;
    CHECK_EQ(kvs_reqs(g.s, count_req, &n), 0);
    CHECK_EQ(n, 2);
    CHECK_EQ(request(0, 1ull << 62), 0);
    CHECK_STR(parts(0), "");
    CHECK_STR(parts(1), "0:a 2:bb 300:c ");
    rig_fini(&g);
}

static int put_req(uint64_t n, uint64_t time_ns, uint32_t state, uint64_t ses)
{
    struct kvs_req q = {.owner = 5,
                        .id = rig_id(1, n),
                        .state = state,
                        .time_ns = time_ns,
                        .session = rig_id(1, 1000 + ses),
                        .reply = "{}",
                        .reply_bytes = 2};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};

    return rig_batch(&g, &r, 1);
}

static bool has_req(uint64_t n)
{
    struct kvs_id id = rig_id(1, n);
    struct kvs_req q;
    char *reply = NULL;
    int r = kvs_req_get(g.s, 5, &id, &q, &reply);

    free(reply);
    CHECK(r == 0 || r == -ENOENT);
    return r == 0;
}

/* Rounds go on until n requests are there, and then some more. */
static int reqs_settle(int want)
{
    int n = -1, quiet = 0;

    for (int i = 0; i < 1000 && quiet < 20; i++) {
        n = 0;
        CHECK_EQ(kvs_reqs(g.s, count_req, &n), 0);
        quiet = n <= want ? quiet + 1 : 0;
        usleep(10000);
    }
    return n;
}

static void requests_of_yesterday_are_forgotten_while_the_store_is_open(void)
{
    enum { RUNS = 700, RUNS_NOWHERE, PARTS, YOUNG, LATE };
    const uint64_t young = 1ull << 62;
    char path[512];

    start();
    rig_close(&g);
    g.env.forget_ns = 1;
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(session(1, "here"), 0);
    for (uint64_t i = 0; i < 600; i++)
        CHECK_EQ(put_req(i, i % 3 ? 1 : young, KVS_REQ_ENDED, 1), 0);
    CHECK_EQ(put_req(RUNS, 1, KVS_REQ_RUNNING, 1), 0);
    CHECK_EQ(part(RUNS, 0, "b"), 0);
    CHECK_EQ(put_req(RUNS_NOWHERE, 1, KVS_REQ_RUNNING, 2), 0);
    CHECK_EQ(put_req(YOUNG, young, KVS_REQ_ENDED, 1), 0);
    CHECK_EQ(part(YOUNG, 0, "a"), 0);
    CHECK_EQ(put_req(PARTS, young, KVS_REQ_ENDED, 1), 0);
    for (uint64_t i = 0; i < 450; i++)
        CHECK_EQ(part(PARTS, i, "old"), 0);
    CHECK_EQ(put_req(PARTS, 1, KVS_REQ_ENDED, 1), 0);
    CHECK_EQ(reqs_settle(202), 202);
    CHECK(has_req(RUNS) && has_req(YOUNG) && has_req(0) && has_req(597));
    CHECK(!has_req(RUNS_NOWHERE) && !has_req(PARTS) && !has_req(1));
    CHECK_STR(parts(YOUNG), "0:a ");
    CHECK_STR(parts(RUNS), "0:b ");
    CHECK_EQ(put_req(PARTS, young, KVS_REQ_ENDED, 1), 0);
    CHECK_STR(parts(PARTS), ""); /* none outlived it */
    CHECK_EQ(session_rm(1), 0);
    CHECK_EQ(reqs_settle(202), 202);
    CHECK(!has_req(RUNS));
    /* The log knows nothing of it: what it brings back is forgotten again. */
    g.env.forget_ns = 0;
    rig_close(&g);
    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(remove(path), 0);
    CHECK_EQ(rig_open(&g), 0);
    CHECK(g.rep.rebuilt);
    CHECK_EQ(reqs_settle(202), 202);
    CHECK_STR(parts(YOUNG), ""); /* went with its session */
    CHECK(has_req(YOUNG) && has_req(PARTS) && !has_req(RUNS));
    CHECK_EQ(put_req(LATE, 1, KVS_REQ_ENDED, 1), 0);
    CHECK(has_req(LATE)); /* ten minutes are not over */
    rig_fini(&g);
}

/* The newest file of the log, and how many there are. */
static int log_files(char ret[512])
{
    int n = 0;

    for (int i = 1; i < 100; i++) {
        char path[512];

        snprintf(path, sizeof path, "%s/log/seg-%04d", g.dir, i);
        if (access(path, F_OK) == 0) {
            snprintf(ret, 512, "%s", path);
            n++;
        }
    }
    return n;
}

/* The header as a program of that version wrote it; 4: one of tomorrow. */
static void set_version(const char *path, uint32_t version)
{
    uint8_t b[4096];
    int fd = open(path, O_RDWR);

    CHECK(fd >= 0 && pread(fd, b, sizeof b, 0) == sizeof b);
    st32(b + 8, version);
    if (version < 3)
        memset(b + 52, 0, sizeof b - 52);
    else /* its CRC is over both sides of the two CRC fields, up to 2048 */
        st32(b + 64, crc32c(crc32c(crc32c(0, b, 12), b + 16, 48), b + 68, 2048 - 68));
    st32(b + 12, crc32c(0, b + 16, sizeof b - 16));
    CHECK(pwrite(fd, b, sizeof b, 0) == sizeof b);
    close(fd);
}

static void set_schema(uint8_t to)
{
    struct sys y = {0};
    struct index_opts o = {.dir = g.dir, .sys = &y};
    struct index *idx;
    uint8_t v[8] = {to};

    CHECK_EQ(index_open(&idx, &o, &g.eb), 0);
    CHECK_EQ(index_begin(idx), 0);
    CHECK_EQ(index_meta_put(idx, "schema", v, 8), 0);
    CHECK_EQ(index_commit(idx), 0);
    index_close(idx);
}

static void a_store_of_an_old_version_goes_on_in_new_files(void)
{
    for (uint32_t version = 1; version < 3; version++) {
        char path[512] = "", newer[512] = "";
        start();
        CHECK_EQ(request(1, 1ull << 62), 0);
        CHECK_EQ(rig_talk(&g, 1, 0, 1000), 0);
        rig_close(&g);
        CHECK_EQ(log_files(path), 1);
        set_version(path, version);
        set_schema((uint8_t)version);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(!g.rep.rebuilt);
        CHECK(g.rep.format_was == version && g.rep.format == 3); /* for the log to say */
        CHECK_EQ(part(1, 0, "new"), 0);
        CHECK_EQ(rig_talk(&g, 1, 1000, 1500), 0);
        rig_close(&g);
        CHECK_EQ(log_files(newer), 2);
        CHECK(strcmp(path, newer) != 0);
        for (int rebuilt = 0; rebuilt < 2; rebuilt++) {
            snprintf(path, sizeof path, "%s/index.mdb", g.dir);
            if (rebuilt)
                CHECK_EQ(remove(path), 0);
            CHECK_EQ(rig_open(&g), 0);
            CHECK_EQ(g.rep.rebuilt, rebuilt);
            CHECK_EQ(g.rep.format_was, 0); /* once */
            CHECK(rig_tokens_ok(&g, 1, 1500));
            CHECK_STR(parts(1), "0:new ");
            rig_close(&g);
        }
        /* One of tomorrow is left alone. */
        set_schema(4);
        CHECK_EQ(rig_open(&g), E_VERSION);
        CHECK(
            strstr(g.eb.s, "has format 4, this program knows 1 to 3; start the newer hearthd"));
        set_schema(3);
        set_version(newer, 4);
        CHECK_EQ(rig_open(&g), E_VERSION);
        CHECK(strstr(g.eb.s, "newer version of the store; start the newer hearthd"));
        rig_fini(&g);
    }
}

static void branches_nobody_leads_to_are_collected_at_open(void)
{
    start();
    CHECK_EQ(branch(0, -1, 0), 0);
    CHECK_EQ(tokens(0, 0, 600, 0), 0);
    CHECK_EQ(branch(1, 0, 300), 0);
    CHECK_EQ(session(1, "kept"), 0); /* its branch hangs on the other */
    CHECK_EQ(branch(2, -1, 0), 0);
    CHECK_EQ(tokens(2, 0, 3000, 0), 0);
    CHECK_EQ(branch(3, -1, 0), 0);
    struct kvs_req q = {.owner = 5,
                        .id = rig_id(1, 50),
                        .branch = rig_id(1, 3),
                        .state = KVS_REQ_RUNNING,
                        .time_ns = 1ull << 62};
    struct kvs_rec r = {.kind = KVS_REC_REQ, .req = &q};
    CHECK_EQ(rig_batch(&g, &r, 1), 0);
    rig_reopen(&g);
    CHECK_EQ(end_of(0), 600);
    CHECK_EQ(end_of(1), 300);
    CHECK_EQ(end_of(2), UINT64_MAX);
    CHECK_EQ(end_of(3), 0); /* a request goes on there */
    rig_fini(&g);
}

static void the_log_is_compacted_and_still_holds_everything(void)
{
    struct kvs_stats st;
    char path[512];
    uint64_t most = 0;

    start();
    for (uint64_t at = 0; at < 150000; at += 3000) {
        CHECK_EQ(rig_talk(&g, 1, at, at + 3000), 0);
        kvs_stats(g.s, &st);
        most = st.log_bytes > most ? st.log_bytes : most;
    }
    for (int i = 0; i < 1000; i++) /* rewriting one session grows the log, not the state */
        CHECK_EQ(session(0, "busy"), 0);
    kvs_stats(g.s, &st);
    printf("    log at most %llu, now %llu bytes\n", (unsigned long long)most,
           (unsigned long long)st.log_bytes);
    CHECK(st.log_bytes < 4 << 20);
    rig_close(&g);
    snprintf(path, sizeof path, "%s/index.mdb", g.dir);
    CHECK_EQ(remove(path), 0);
    rig_reopen(&g);
    CHECK(g.rep.rebuilt);
    CHECK(rig_tokens_ok(&g, 1, 150000));
    CHECK_EQ(session(5, "busy"), -EEXIST);
    rig_fini(&g);
}

/* A process that dies at its n-th event from where the log begins a second file. */
static uint64_t dies_at, events;

static int die_hook(void *user, const struct sys_event *e)
{
    (void)user;
    bool log = e->op == SYS_MAKE && strstr(e->path, "/log/") && !strstr(e->path, "seg-0001");
    if ((events || log) && ++events == dies_at)
        kill(getpid(), SIGKILL);
    return 0;
}

static void a_log_killed_as_it_begins_a_file_has_lost_nothing(void)
{
    enum { STEPS = 8, TALK = 2000 };

    for (uint64_t at = 1; at <= STEPS; at++) {
        char path[512];
        uint64_t acked = 0, to;
        int up[2], st;

        rig_init(&g, KVS_IO_THREADS, true);
        g.o.disk_bytes = 8 << 20;
        CHECK_EQ(pipe(up), 0);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            dies_at = at;
            g.env.sys_hook = die_hook;
            if (rig_open(&g) < 0)
                _exit(1);
            for (to = TALK; rig_talk(&g, 1, to - TALK, to) == 0; to += TALK)
                if (write(up[1], &to, sizeof to) != (ssize_t)sizeof to)
                    break;
            _exit(1);
        }
        close(up[1]);
        while (read(up[0], &to, sizeof to) == (ssize_t)sizeof to)
            acked = to;
        close(up[0]);
        waitpid(pid, &st, 0);
        CHECK(WIFSIGNALED(st) && acked > TALK);
        /* The log alone: an end that a kill left is no damage. */
        snprintf(path, sizeof path, "%s/index.mdb", g.dir);
        CHECK_EQ(remove(path), 0);
        CHECK_EQ(rig_open(&g), 0);
        CHECK(g.rep.rebuilt);
        CHECK_EQ(g.rep.sessions_hurt, 0);
        CHECK(rig_tokens_ok(&g, 1, acked));
        rig_fini(&g);
    }
}

static void small_facts_outlive_a_restart(void)
{
    char v[32] = "";

    start();
    CHECK_EQ(kvs_meta_get(g.s, "weights", v, sizeof v), -ENOENT);
    CHECK_EQ(kvs_meta_put(g.s, "weights", "abc", 3), 0);
    rig_reopen(&g);
    CHECK_EQ(kvs_meta_get(g.s, "weights", v, sizeof v), 3);
    CHECK_STR(v, "abc");
    rig_fini(&g);
}

#define ROW(name)                                                                              \
    {                                                                                          \
#        name, name                                                                            \
    }
T_MAIN(ROW(a_fork_of_a_fork_reads_its_whole_path), ROW(appends_of_any_length_join),
       ROW(a_cut_drops_what_is_behind_it_and_appending_goes_on),
       ROW(turns_of_a_path_come_in_order_up_to_where_it_leaves),
       ROW(what_does_not_fit_is_refused_whole),
       ROW(a_name_belongs_to_one_session_and_moves_with_it),
       ROW(a_session_stands_only_where_something_is),
       ROW(a_request_is_found_by_owner_and_id_with_its_reply),
       ROW(parts_of_a_request_come_in_order_and_go_with_it),
       ROW(requests_of_yesterday_are_forgotten_while_the_store_is_open),
       ROW(a_store_of_an_old_version_goes_on_in_new_files),
       ROW(branches_nobody_leads_to_are_collected_at_open),
       ROW(the_log_is_compacted_and_still_holds_everything),
       ROW(a_log_killed_as_it_begins_a_file_has_lost_nothing),
       ROW(small_facts_outlive_a_restart))
