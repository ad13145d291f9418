/* test_outbox.c - batches that find no room: kept, in their order, and written when there is some. */
#include "base/clock.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/noroom.h"
#include "daemon/outbox.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "kvstore/env.h"
#include "tests/t.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }

static struct daemon d;
static struct conf conf;
static struct gen gen;
static char dir[256];
static bool full; /* the log cannot be written */
static char order[256];

static int on_event(void *user, const struct sys_event *e)
{
    char at[64], path[512];
    ssize_t n;

    (void)user;
    if (!full || e->after || e->op != SYS_WRITE)
        return 0;
    snprintf(at, sizeof at, "/proc/self/fd/%d", e->fd);
    n = readlink(at, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    return strstr(path, "/log/") ? -ENOSPC : 0;
}

static void hold(void *ctx)
{
    (void)ctx;
    outbox_hold(&d);
}

static void up(bool fresh)
{
    struct kvs_opts o = {.dir = dir,
                         .io = KVS_IO_THREADS,
                         .host_bytes = 16 << 20,
                         .disk_bytes = 256 << 20,
                         .no_fsync = true};
    struct kvs_env env = {.sys_hook = on_event, .forget_ns = 1};
    struct kvs_open_report rep;
    struct errbuf eb = {""};
    static int n;
    int r;

    if (fresh)
        snprintf(dir, sizeof dir, "%s/o%d", t_tmpdir(), ++n);
    full = false;
    order[0] = 0;
    memset(&d, 0, sizeof d);
    conf.state = dir;
    d.conf = &conf;
    d.gen = &gen;
    r = kvs_open_env(&d.store, &o, &env, &rep, &eb);
    if (r == 0)
        r = sess_open(&d, &eb);
    if (r == 0)
        r = outbox_open(&d);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "up: %s %s", err_str(r), eb.s);
    kvs_on_collect(d.store, hold, NULL);
}

static void down(void)
{
    outbox_close(&d);
    kvs_on_collect(d.store, NULL, NULL);
    d.gen = NULL;
    sess_close(&d);
    kvs_close(d.store);
}

static void threads(int n)
{
    for (int i = 0; i < n; i++) {
        kvs_io_turn(d.store, 0);
        kvs_commit_turn(d.store, 0);
    }
}

/* Until nothing is in flight; with what is tried again by itself, until nothing waits. */
static void settle(bool again)
{
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;

    do {
        threads(4);
        kvs_loop_turn(d.store);
        if (again)
            outbox_tick(&d);
    } while ((kvs_in_flight(d.store) || (again && outbox_why(&d))) && now_ns() < until);
    CHECK(now_ns() < until);
}

/* A turn as a request makes one: `n` tokens more on s, on a branch of its own when asked. */
struct talk {
    struct out o; /* first */
    struct kvs_rec rec[3];
    struct kvs_branch br;
    struct kvs_session ses;
    int32_t ids[8];
    char name;
    int res; /* 1: not done yet */
    int refused;
};

static void talk_refused(struct out *o, int res)
{
    struct talk *t = (struct talk *)o;

    CHECK_EQ(res, -ENOSPC);
    t->refused++;
}

static void talk_done(struct out *o)
{
    struct talk *t = (struct talk *)o;

    t->res = o->b.res;
    if (t->res == 0)
        snprintf(order + strlen(order), sizeof order - strlen(order), "%c", t->name);
}

static void say(struct talk *t, char name, struct sess *s, const struct branch *from, bool own)
{
    struct branch *b = s->branch;
    uint32_t n = 0;

    memset(t, 0, sizeof *t);
    t->name = name;
    t->res = 1;
    if (own || !b) {
        CHECK_EQ(branch_new(&d, s->rec.owner, from, from ? from->end : 0, &b), 0);
        t->br = b->rec;
        t->rec[n].kind = KVS_REC_BRANCH;
        t->rec[n++].branch = &t->br;
    } else {
        (void)branch_take(b);
    }
    t->rec[n].kind = KVS_REC_TOKENS;
    t->rec[n].tokens.branch = b->rec.id;
    t->rec[n].tokens.first = b->end;
    t->rec[n].tokens.ids = t->ids;
    t->rec[n++].tokens.n = 8;
    b->end += 8;
    sess_place(&d, s, b, b->end);
    sess_record(s, &t->ses);
    t->rec[n].kind = KVS_REC_SESSION;
    t->rec[n++].session = &t->ses;
    t->o.rec = t->rec;
    t->o.b.n_rec = n;
    t->o.kind = OUT_KEPT;
    t->o.owner = s->rec.owner;
    t->o.session = s->rec.id;
    t->o.place = &t->ses;
    t->o.refused = talk_refused;
    t->o.done = talk_done;
    outbox_put(&d, &t->o);
}

/* A change of s's record, or its removal. */
static void change(struct talk *t, char name, struct sess *s, enum out_kind kind)
{
    memset(t, 0, sizeof *t);
    t->name = name;
    t->res = 1;
    sess_record(s, &t->ses);
    t->rec[0].kind = kind == OUT_FIRST ? KVS_REC_SESSION_RM : KVS_REC_SESSION;
    t->rec[0].session = &t->ses;
    t->o.rec = t->rec;
    t->o.b.n_rec = 1;
    t->o.kind = (uint8_t)kind;
    t->o.owner = s->rec.owner;
    t->o.session = s->rec.id;
    t->o.done = talk_done;
    outbox_put(&d, &t->o);
}

static struct sess *make(uint32_t uid, const char *name)
{
    struct sess *s = NULL;

    CHECK_EQ(sess_make(&d, uid, name, "m", &s), 0);
    return s;
}

static void what_finds_no_room_is_written_later_in_its_order(void)
{
    struct talk t[5];
    char words[2048];
    uint64_t end;

    up(true);
    struct sess *s = make(7, "a");
    say(&t[0], 'a', s, NULL, false);
    settle(false);
    CHECK_EQ(t[0].res, 0);
    full = true;
    say(&t[1], 'b', s, NULL, false);
    say(&t[2], 'c', s, NULL, false);
    settle(false);
    say(&t[3], 'd', s, NULL, false);
    settle(false);
    for (int i = 1; i < 4; i++) {
        CHECK_EQ(t[i].res, 1);
        CHECK_EQ(t[i].refused, 1);
    }
    CHECK_EQ(outbox_why(&d), -ENOSPC);
    CHECK(outbox_has(s) && outbox_waits(&d, 7) && !outbox_waits(&d, 8));
    CHECK(outbox_words(&d, 7, words, sizeof words) && strstr(words, "1 session (\"a\")") &&
          strstr(words, dir));
    CHECK(outbox_words(&d, 8, words, sizeof words) && !strstr(words, "\"a\""));
    /* It is there in memory alone: nothing of it may go. */
    CHECK_EQ(kvs_branch_end(d.store, &s->branch->rec.id, &end), 0);
    CHECK_EQ(end, 8);
    full = false;
    settle(true);
    CHECK_STR(order, "abcd");
    CHECK_EQ(kvs_branch_end(d.store, &s->branch->rec.id, &end), 0);
    CHECK_EQ(end, 32);
    CHECK(!outbox_has(s) && !outbox_words(&d, 7, words, sizeof words));
    down();
}

static void the_next_one_takes_along_what_waits(void)
{
    struct talk t[3];

    up(true);
    struct sess *s = make(7, "a");
    full = true;
    say(&t[0], 'a', s, NULL, false);
    settle(false);
    CHECK_EQ(t[0].refused, 1);
    full = false;
    say(&t[1], 'b', s, NULL, false);
    settle(false); /* no time has passed, for all that it knows */
    CHECK_STR(order, "ab");
    CHECK_EQ(t[1].refused, 0);
    /* What does not stay is written behind what waits, or fails with it. */
    full = true;
    say(&t[0], 'c', s, NULL, false);
    change(&t[2], 'd', s, OUT_ONCE);
    settle(false);
    CHECK_EQ(t[2].res, -ENOSPC);
    CHECK_EQ(t[0].res, 1);
    change(&t[2], 'e', s, OUT_ONCE);
    settle(false);
    CHECK_EQ(t[2].res, -ENOSPC);
    full = false;
    change(&t[2], 'f', s, OUT_ONCE);
    settle(false);
    CHECK_STR(order, "abcf");
    down();
}

static void another_owner_does_not_wait(void)
{
    struct talk t[2];

    up(true);
    struct sess *a = make(7, "a"), *b = make(8, "b");
    full = true;
    say(&t[0], 'a', a, NULL, false);
    threads(20); /* refused, and nobody has heard of it */
    full = false;
    say(&t[1], 'b', b, NULL, false);
    settle(false);
    CHECK_EQ(t[0].res, 1);
    CHECK_EQ(t[1].res, 0);
    CHECK_EQ(t[1].refused, 0);
    settle(true);
    CHECK_STR(order, "ba");
    down();
}

/* As the answer of a removal does. */
static void gone(struct sess *s)
{
    const struct kvs_id id = s->rec.id;
    uint32_t owner = s->rec.owner;

    sess_forget(&d, s);
    outbox_gone(&d, owner, &id);
}

static void a_removal_does_not_wait_and_nothing_comes_back(void)
{
    struct talk t[6];
    uint64_t end;

    up(true);
    struct sess *s = make(7, "a"), *f, *x = make(7, "x");
    full = true;
    say(&t[0], 'a', s, NULL, false);
    say(&t[1], 'b', x, NULL, false);
    settle(false);
    CHECK_EQ(sess_fork(&d, s, s->head, "f", &f), 0);
    say(&t[2], 'c', f, s->branch, true); /* hangs on what is not written yet */
    say(&t[3], 'd', s, s->branch, true);
    settle(false);
    CHECK_EQ(t[3].refused, 1);
    full = false;
    change(&t[4], 'r', s, OUT_FIRST);
    change(&t[5], 'q', x, OUT_FIRST);
    threads(20);
    struct kvs_id root = f->branch->rec.parent, left = s->branch->rec.id;
    gone(s);
    gone(x);
    settle(true);
    CHECK_STR(order, "rqac");
    CHECK_EQ(t[1].res, -ESTALE); /* nobody's any more */
    CHECK_EQ(t[3].res, -ESTALE);
    down();
    up(false);
    CHECK_EQ(sess_count(&d, NULL), 1);
    f = sess_by_name(&d, 7, "f");
    CHECK(f && f->head == 16);
    CHECK_EQ(kvs_branch_end(d.store, &root, &end), 0);
    CHECK_EQ(kvs_branch_end(d.store, &left, &end), -ENOENT);
    down();
}

static struct sess *removed;

static void removal_done(struct out *o)
{
    talk_done(o);
    CHECK_EQ(o->b.res, 0);
    gone(removed);
}

/* A change that another's want of room has sent back stands behind the removal then. */
static void a_change_that_a_removal_has_passed_is_not_written(void)
{
    struct talk t[4];

    up(true);
    struct sess *s = make(7, "a"), *x = make(8, "x");
    removed = s;
    say(&t[0], 'a', s, NULL, false);
    settle(false);
    full = true;
    say(&t[1], 'x', x, NULL, false);
    threads(20); /* refused, and nobody has heard of it */
    full = false;
    change(&t[2], 'b', s, OUT_ONCE);
    change(&t[3], 'r', s, OUT_FIRST);
    t[3].o.done = removal_done;
    settle(true);
    CHECK_STR(order, "arx");
    CHECK_EQ(t[2].res, -ESTALE);
    down();
    up(false);
    CHECK_EQ(sess_count(&d, NULL), 1);
    down();
}

static void what_a_failed_change_said_is_not_written_later(void)
{
    struct talk t[3];

    up(true);
    struct sess *s = make(7, "a");
    full = true;
    say(&t[0], 'a', s, NULL, false);
    CHECK_EQ(sess_rename(&d, s, "b"), 0);
    s->rec.flags |= KVS_SESS_PINNED;
    change(&t[1], 'b', s, OUT_ONCE);
    say(&t[2], 'c', s, NULL, false); /* its record has the new name, and the pin */
    settle(false);
    CHECK_EQ(t[1].res, -ENOSPC);
    CHECK_EQ(sess_rename(&d, s, "a"), 0);
    s->rec.flags &= ~(uint32_t)KVS_SESS_PINNED;
    outbox_renew(&d, s);
    full = false;
    struct sess *other = make(7, "b");
    struct talk o;
    say(&o, 'o', other, NULL, false);
    settle(true);
    CHECK_STR(order, "aco");
    down();
    up(false);
    s = sess_by_name(&d, 7, "a");
    CHECK(s && s->head == 16 && !(s->rec.flags & KVS_SESS_PINNED));
    CHECK(sess_by_name(&d, 7, "b") && sess_by_name(&d, 7, "b")->head == 8);
    down();
}

static bool is_there(const struct kvs_id *branch)
{
    uint64_t end;

    return kvs_branch_end(d.store, branch, &end) == 0;
}

/* The branch that a kept batch hangs on leads nowhere else: it is not collected meanwhile. */
static void branches_that_are_named_here_are_held(void)
{
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;
    struct talk t[3], x[2];

    up(true);
    struct sess *s = make(7, "a"), *f, *z = make(8, "z");
    say(&t[0], 'a', s, NULL, false);
    say(&x[0], 'z', z, NULL, false);
    settle(false);
    struct kvs_id held = s->branch->rec.id, left = z->branch->rec.id;
    CHECK_EQ(sess_fork(&d, s, s->head, "f", &f), 0);
    full = true;
    say(&t[1], 'f', f, s->branch, true);
    settle(false);
    CHECK_EQ(t[1].refused, 1);
    full = false;
    change(&t[2], 'r', s, OUT_FIRST);
    threads(20);
    full = true; /* what waits is tried once more behind it */
    settle(false);
    CHECK_EQ(t[2].res, 0);
    gone(s);
    threads(200);
    /* A round of which the store hears nothing but what is held. */
    full = false;
    change(&x[1], 'q', z, OUT_FIRST);
    settle(false);
    CHECK_EQ(x[1].res, 0);
    CHECK_EQ(t[1].res, 1);
    sess_forget(&d, z);
    while (is_there(&left) && now_ns() < until) { /* what is nobody's is collected */
        threads(1);
        kvs_loop_turn(d.store);
    }
    CHECK(!is_there(&left));
    threads(200); /* the rest of that round */
    CHECK(is_there(&held));
    settle(true);
    CHECK_EQ(t[1].res, 0);
    down();
    up(false);
    CHECK(sess_by_name(&d, 7, "f") && sess_by_name(&d, 7, "f")->head == 16);
    down();
}

/* As many as wait; the store is full. */
static int flood(struct talk *t, int max, char name, struct sess *s)
{
    int n = 0;

    for (; n < max && !outbox_full(&d, s->rec.owner); n++) {
        say(&t[n], name, s, NULL, false);
        if (n % 50 == 0)
            settle(false);
    }
    settle(false);
    CHECK(outbox_full(&d, s->rec.owner));
    return n;
}

/* Of a user, and of one of his keys, and there is always some left for another. */
static void so_much_may_wait_and_no_more(void)
{
    enum { MAX = 3100 };
    const uint8_t secret[16] = {1}, as[2][IDENT_BYTES] = {{2}, {3}};
    struct talk *t = calloc(MAX, sizeof *t);
    uint32_t key[2];

    up(true);
    CHECK_EQ(idents_open(&d.idents, secret), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(ident_owner(d.idents, 9, as[i], &key[i]), 0);
    struct sess *a = make(7, "a"), *k = make(key[0], "k"), *b = make(8, "b");
    full = true;
    int n = flood(t, MAX, 'a', a), m;
    CHECK(n >= 1500 && n < 1600);
    CHECK(!outbox_full(&d, 8) && !outbox_full(&d, key[0]));
    m = flood(t + n, MAX - n, 'k', k);
    CHECK(m >= 300 && m < 450);
    CHECK(!outbox_full(&d, 8) && !outbox_full(&d, 9) && !outbox_full(&d, key[1]));
    n += m;
    n += flood(t + n, MAX - n, 'b', b);
    CHECK(!outbox_full(&d, 10));
    full = false;
    settle(true);
    CHECK(!outbox_full(&d, 7) && !outbox_full(&d, 8) && !outbox_full(&d, key[0]));
    for (int i = 0; i < n; i++)
        CHECK_EQ(t[i].res, 0);
    down();
    idents_close(d.idents);
    free(t);
}

/* In the buffer, which is all that some look at; and a limit that nothing has met is not blamed. */
static void every_reason_has_words(void)
{
    char words[NOROOM_WORDS];
    struct rlimit was, large;

    up(true);
    for (int e = 1; e < 134; e++) {
        words[0] = 0;
        CHECK_STR(noroom_words(&d, 7, -e, words), words);
        CHECK(words[0] != 0);
        words[0] = 0;
        CHECK_STR(daemon_why(&d, 7, -e, words), words);
        CHECK(words[0] != 0);
    }
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &was), 0);
    large = (struct rlimit){1ull << 40, was.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &large), 0);
    CHECK(!strstr(noroom_words(&d, 7, -ENOSPC, words), "ulimit"));
    CHECK(strstr(noroom_words(&d, 7, -EFBIG, words), "ulimit -f") != NULL);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &was), 0);
    down();
}

T_MAIN(CASE(what_finds_no_room_is_written_later_in_its_order),
       CASE(the_next_one_takes_along_what_waits), CASE(another_owner_does_not_wait),
       CASE(a_removal_does_not_wait_and_nothing_comes_back),
       CASE(a_change_that_a_removal_has_passed_is_not_written),
       CASE(what_a_failed_change_said_is_not_written_later),
       CASE(branches_that_are_named_here_are_held), CASE(so_much_may_wait_and_no_more),
       CASE(every_reason_has_words))
