/* test_sess.c - sessions as places in a tree of tokens, on a real store. */
#include "base/clock.h"
#include "base/share.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/loop.h"
#include "daemon/model.h"
#include "daemon/quota.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "daemon/stored.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include "tests/t.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }

static struct daemon d;
static struct idents *idents;
static char dir[256];
static const uint64_t MIB = 1 << 20;
static uint64_t day_bytes, disk_mib = 256;

static void up(bool fresh)
{
    struct kvs_opts o = {.dir = dir,
                         .io = KVS_IO_THREADS,
                         .host_bytes = 16 << 20,
                         .disk_bytes = disk_mib * MIB,
                         .day_bytes = day_bytes,
                         .no_fsync = true};
    struct kvs_open_report rep;
    struct errbuf eb = {""};
    static int n;
    int r;

    if (fresh)
        snprintf(dir, sizeof dir, "%s/s%d", t_tmpdir(), ++n);
    memset(&d, 0, sizeof d);
    d.idents = idents;
    r = loop_open(&d.loop);
    if (r == 0)
        r = kvs_open(&d.store, &o, &rep, &eb);
    if (r == 0)
        r = stored_open(&d.stored, d.store, d.loop, NULL, NULL);
    if (r == 0)
        r = sess_open(&d, &eb);
    if (r < 0)
        t_fail(__FILE__, __LINE__, "up: %s %s", err_str(r), eb.s);
}

static void down(void)
{
    sess_close(&d);
    stored_close(d.stored, 1000000000);
    kvs_close(d.store);
    loop_close(d.loop);
}

static bool landed;
static int landed_res;
static void batch_done(struct kvs_batch *b)
{
    landed = true;
    landed_res = b->res;
    loop_stop(d.loop);
}

static void write_recs(const struct kvs_rec *rec, uint32_t n)
{
    struct kvs_batch b = {.rec = rec, .n_rec = n, .done = batch_done};

    landed = false;
    CHECK_EQ(kvs_batch_submit(d.store, &b), 0);
    while (!landed)
        (void)loop_run(d.loop);
    CHECK_EQ(landed_res, 0);
}

/* Says n tokens beginning with `first` on s, as a request does: on its branch when it stands
 * at the end of it, else on a new one. */
static void say(struct sess *s, uint32_t n, int32_t first)
{
    struct kvs_rec rec[4];
    struct kvs_session row;
    struct kvs_turn turn = {.role = KVS_ROLE_USER};
    struct branch *b;
    int32_t ids[512];
    uint32_t k = 0;

    for (uint32_t i = 0; i < n; i++)
        ids[i] = first + (int32_t)i;
    CHECK_EQ(sess_turns(&d, s), 0);
    if (sess_at_end(s)) {
        b = branch_take(s->branch);
    } else {
        CHECK_EQ(branch_new(&d, s->rec.owner, s->branch, s->head, &b), 0);
        rec[k].kind = KVS_REC_BRANCH;
        rec[k++].branch = &b->rec;
    }
    rec[k].kind = KVS_REC_TOKENS;
    rec[k].tokens.branch = b->rec.id;
    rec[k].tokens.first = s->head;
    rec[k].tokens.ids = ids;
    rec[k++].tokens.n = n;
    turn.branch = b->rec.id;
    turn.first = s->head;
    turn.n_tokens = n;
    turn.time_ns = wall_ns();
    rec[k].kind = KVS_REC_TURN;
    rec[k++].turn = &turn;
    b->end = s->head + n;
    CHECK_EQ(sess_turn_add(s, &(struct turn){.first = s->head,
                                             .n_tokens = n,
                                             .role = KVS_ROLE_USER,
                                             .durable = true}),
             0);
    sess_place(&d, s, b, b->end);
    rec[k].kind = KVS_REC_SESSION;
    rec[k++].session = &row;
    sess_record(s, &row);
    write_recs(rec, k);
}

static void save(struct sess *s)
{
    struct kvs_rec rec = {.kind = KVS_REC_SESSION};
    struct kvs_session row;

    sess_record(s, &row);
    rec.session = &row;
    write_recs(&rec, 1);
}

static void has(struct sess *s, const int32_t *want, uint64_t n)
{
    struct toks *t = NULL;

    CHECK(s != NULL);
    if (!s)
        return;
    CHECK_EQ(s->head, n);
    CHECK_EQ(sess_tokens(&d, s, &t), 0);
    CHECK(t && t->n >= n && memcmp(t->p, want, n * sizeof *want) == 0);
    toks_drop(t);
}

static void names_belong_to_their_owner(void)
{
    struct sess *a, *b, *c;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "x", "m", &a), 0);
    CHECK_EQ(sess_make(&d, 1, "x", "m", &c), -EEXIST);
    CHECK_EQ(sess_make(&d, 2, "x", "m", &b), 0);
    CHECK(sess_find(&d, 1, "x") == a && sess_find(&d, 2, "x") == b);
    CHECK(sess_find(&d, 3, "x") == NULL);
    CHECK(sess_by_id(&d, 2, &a->rec.id) == NULL);
    char hex[33];
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", a->rec.id.b[i]);
    CHECK(sess_find(&d, 1, hex) == a && sess_find(&d, 2, hex) == NULL);
    CHECK_EQ(sess_rename(&d, a, "y"), 0);
    CHECK(sess_find(&d, 1, "x") == NULL && sess_find(&d, 1, "y") == a);
    down();
}

static void names_are_checked(void)
{
    struct errbuf eb;
    char lng[300];

    memset(lng, 'a', sizeof lng);
    lng[256] = 0;
    CHECK_EQ(sess_name_check("book", &eb), 0);
    CHECK_EQ(sess_name_check("\xc3\xa9t\xc3\xa9 / 1", &eb), 0);
    CHECK_EQ(sess_name_check("", &eb), -EINVAL);
    CHECK_EQ(sess_name_check(lng, &eb), -EINVAL);
    CHECK(strstr(eb.s, "255") && strstr(eb.s, "256"));
    CHECK_EQ(sess_name_check("a\nb", &eb), -EINVAL);
    CHECK_EQ(sess_name_check("a\xc2\x9b", &eb), -EINVAL); /* U+009B steers, too */
    CHECK_EQ(sess_name_check("a\xe2\x80\xae", &eb), -EINVAL);
    CHECK_EQ(sess_name_check("a\xe2\x80\x8d"
                             "b",
                             &eb),
             -EINVAL); /* is it "ab"? */
    CHECK(strstr(eb.s, "byte 1") && strstr(eb.s, "U+200D"));
    CHECK_EQ(sess_name_check("a\xff", &eb), -EINVAL);
    CHECK_EQ(sess_name_check("0123456789abcdef0123456789abcdef", &eb), -EINVAL);
}

/* It was taken once: it is found by that name, and can get another or go. */
static void an_older_name_that_is_refused_now_still_works(void)
{
    static const char name[] = "a\xc2\x9b\xe2\x80\x8b";
    struct errbuf eb;
    struct sess *s;

    up(true);
    CHECK_EQ(sess_make(&d, 1, name, "m", &s), 0);
    say(s, 10, 5);
    down();
    up(false);
    CHECK_EQ(sess_name_check(name, &eb), -EINVAL);
    s = sess_find(&d, 1, name);
    CHECK(s != NULL && sess_count(&d, &(uint32_t){0}) == 1);
    CHECK_EQ(sess_rename(&d, s, "seen"), 0);
    save(s);
    down();
    up(false);
    CHECK(sess_find(&d, 1, name) == NULL && sess_find(&d, 1, "seen") != NULL);
    down();
}

static void tokens_and_turns_come_back_after_a_restart(void)
{
    int32_t want[30];
    struct sess *s;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 100);
    say(s, 20, 500);
    down();
    up(false);
    for (int i = 0; i < 10; i++)
        want[i] = 100 + i;
    for (int i = 0; i < 20; i++)
        want[10 + i] = 500 + i;
    s = sess_find(&d, 1, "s");
    has(s, want, 30);
    CHECK_EQ(sess_turns(&d, s), 0);
    CHECK_EQ(s->n_turns, 2);
    CHECK_EQ(s->turns[1].first, 10);
    CHECK_EQ(s->turns[1].n_tokens, 20);
    down();
}

static void the_first_token_that_differs_starts_a_branch(void)
{
    struct sess *s, *f;
    int32_t a[14], b[13];

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 0);
    CHECK_EQ(sess_fork(&d, s, 10, "f", &f), 0);
    CHECK(f->branch == s->branch); /* the same place under a new name */
    save(f);
    say(s, 4, 50); /* s goes on first: the branch is its own */
    CHECK(f->branch == s->branch && !sess_at_end(f) && sess_at_end(s));
    say(f, 3, 70);
    CHECK(f->branch != s->branch);
    CHECK_EQ(f->branch->rec.parent_pos, 10);
    for (int i = 0; i < 10; i++)
        a[i] = b[i] = i;
    for (int i = 0; i < 4; i++)
        a[10 + i] = 50 + i;
    for (int i = 0; i < 3; i++)
        b[10 + i] = 70 + i;
    has(s, a, 14);
    has(f, b, 13);
    down();
    up(false);
    has(sess_find(&d, 1, "s"), a, 14);
    has(sess_find(&d, 1, "f"), b, 13);
    down();
}

/* A message that began before the place it is gone on with from. */
static void a_turn_that_begins_inside_another_takes_its_place(void)
{
    struct sess *s;

    for (int again = 0; again < 2; again++) {
        struct kvs_turn k = {.role = KVS_ROLE_USER, .first = 5, .n_tokens = 20};
        struct kvs_rec rec = {.kind = KVS_REC_TURN, .turn = &k};

        up(true);
        CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
        say(s, 10, 0);
        say(s, 10, 20);
        say(s, 5, 40);
        if (again) { /* as it is read again */
            k.branch = s->branch->rec.id;
            write_recs(&rec, 1);
            save(s);
            down();
            up(false);
            s = sess_find(&d, 1, "s");
            CHECK_EQ(sess_turns(&d, s), 0);
            CHECK_EQ(s->n_turns, 4);
            CHECK_EQ(s->turns[1].n_tokens, 5);
        } else {
            struct turn t = sess_turn_of(&k);

            CHECK_EQ(sess_turn_add(s, &t), 0);
            CHECK_EQ(s->n_turns, 2);
            CHECK_EQ(s->turns[1].n_tokens, 20);
        }
        CHECK_EQ(s->turns[0].n_tokens, 5);
        CHECK_EQ(s->turns[1].first, 5);
        CHECK(s->turns[0].cut && s->turns[0].user_open);
        down();
    }
}

static void a_rewound_session_keeps_what_is_before_and_goes_on_elsewhere(void)
{
    struct sess *s;
    int32_t want[7] = {0, 1, 2, 3, 4, 90, 91};

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 0);
    say(s, 10, 20);
    sess_move(&d, s, 5);
    CHECK_EQ(s->n_turns, 1);
    CHECK_EQ(s->turns[0].n_tokens, 5); /* cut in its middle: an open question */
    CHECK(s->turns[0].user_open);
    CHECK(!sess_at_end(s));
    save(s);
    down();
    up(false);
    s = sess_find(&d, 1, "s");
    CHECK_EQ(sess_turns(&d, s), 0);
    CHECK_EQ(s->n_turns, 1);
    CHECK_EQ(s->turns[0].n_tokens, 5);
    say(s, 2, 90);
    has(s, want, 7);
    sess_move(&d, s, 0);
    CHECK(s->branch == NULL && s->n_turns == 0);
    say(s, 3, 0);
    has(s, want, 3);
    down();
}

static void a_branch_hangs_on_the_one_that_holds_its_last_token(void)
{
    struct sess *s, *f, *g;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 0);
    CHECK_EQ(sess_fork(&d, s, 8, "f", &f), 0);
    say(f, 5, 30);
    CHECK_EQ(sess_fork(&d, f, 6, "g", &g), 0); /* a place in f's path, but s's tokens */
    say(g, 1, 60);
    CHECK(memcmp(&g->branch->rec.parent, &s->branch->rec.id, 16) == 0);
    int32_t want[7] = {0, 1, 2, 3, 4, 5, 60};
    has(g, want, 7);
    CHECK_EQ(sess_fork(&d, f, 8, "h", &g), 0); /* where f leaves s: the last token is s's too */
    say(g, 1, 70);
    CHECK(memcmp(&g->branch->rec.parent, &s->branch->rec.id, 16) == 0);
    down();
}

/* Forks, rewinds and additions at random, against plain copies. */
static void any_history_reads_back_as_it_was_said(void)
{
    enum { N = 12, LEN = 400 };
    static int32_t want[N][LEN];
    uint32_t len[N] = {0};
    struct sess *s[N] = {0};
    uint64_t seed = t_seed();
    char name[16];
    uint32_t n = 1;

    srand((unsigned)seed);
    up(true);
    CHECK_EQ(sess_make(&d, 7, "n0", "m", &s[0]), 0);
    for (int step = 0; step < 300; step++) {
        uint32_t i = (uint32_t)rand() % n, k = (uint32_t)rand() % 10;

        if (k < 6 && len[i] + 40 < LEN) {
            uint32_t m = 1 + (uint32_t)rand() % 40;
            int32_t first = rand() % 1000;

            say(s[i], m, first);
            for (uint32_t j = 0; j < m; j++)
                want[i][len[i] + j] = first + (int32_t)j;
            len[i] += m;
        } else if (k < 8 && n < N && len[i]) {
            uint32_t at = (uint32_t)rand() % (len[i] + 1);

            snprintf(name, sizeof name, "n%u", n);
            CHECK_EQ(sess_fork(&d, s[i], at, name, &s[n]), 0);
            save(s[n]);
            memcpy(want[n], want[i], at * 4);
            len[n++] = at;
        } else if (len[i]) {
            len[i] = (uint32_t)rand() % (len[i] + 1);
            sess_move(&d, s[i], len[i]);
            save(s[i]);
        }
        if (step % 60 == 59) {
            down();
            up(false);
            for (uint32_t j = 0; j < n; j++) {
                snprintf(name, sizeof name, "n%u", j);
                s[j] = sess_find(&d, 7, name);
                if (j == 0 && !s[0]) /* never written: nothing was said yet */
                    CHECK_EQ(sess_make(&d, 7, "n0", "m", &s[0]), 0);
            }
        }
        for (uint32_t j = 0; j < n; j++)
            has(s[j], want[j], len[j]);
    }
    down();
}

static void a_branch_has_one_owner(void)
{
    struct kvs_id id, other;
    struct sess *s, *f;

    up(true);
    kvs_id_new(&id);
    kvs_id_new(&other);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 100);
    CHECK_EQ(sess_fork(&d, s, 10, "f", &f), 0);
    CHECK(sess_at_end(s) && sess_at_end(f));
    branch_own(s->branch, &id);
    CHECK(!sess_at_end(s) && !sess_at_end(f));
    branch_disown(s->branch, &other);
    CHECK(!sess_at_end(f));
    branch_disown(s->branch, &id);
    CHECK(sess_at_end(f));
    /* What a crash left open owns it too: only its session may go on there. */
    sess_open_set(s, &id);
    CHECK(sess_at_end(s) && !sess_at_end(f));
    sess_forget(&d, s);
    CHECK(sess_at_end(f));
    down();
}

static void a_turn_that_a_rewind_cut_is_as_short_after_a_restart(void)
{
    struct sess *s;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 100);
    say(s, 20, 500);
    sess_move(&d, s, 15);
    say(s, 4, 900);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(sess_turns(&d, s), 0);
        CHECK_EQ(s->n_turns, 3);
        CHECK_EQ(s->turns[1].n_tokens, 5);
        CHECK(s->turns[1].user_open);
        CHECK_EQ(s->turns[2].first, 15);
        CHECK_EQ(s->turns[2].n_tokens, 4);
        down();
        up(false);
        s = sess_find(&d, 1, "s");
        CHECK(s != NULL);
    }
    down();
}

/* What a crash leaves: an answer's turn without a length, and tokens of it. */
static void an_open_turn_reaches_to_where_its_session_stands(void)
{
    struct sess *s;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    say(s, 10, 100);
    struct kvs_turn open = {.branch = s->branch->rec.id,
                            .first = 6,
                            .role = KVS_ROLE_ASSISTANT,
                            .flags = KVS_TURN_OPEN};
    struct kvs_rec rec = {.kind = KVS_REC_TURN, .turn = &open};
    write_recs(&rec, 1);
    down();
    up(false);
    s = sess_find(&d, 1, "s");
    CHECK(s != NULL);
    if (s) {
        CHECK_EQ(sess_turns(&d, s), 0);
        CHECK_EQ(s->n_turns, 2);
        CHECK_EQ(s->turns[0].n_tokens, 6);
        CHECK_EQ(s->turns[1].first, 6);
        CHECK_EQ(s->turns[1].n_tokens, 4);
    }
    down();
}

static void settings_are_kept_and_bounded(void)
{
    char buf[64], lng[3000];
    struct sess *s;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "s", "m", &s), 0);
    CHECK_EQ(sess_setting_set(s, "date", "2026-01-02"), 0);
    CHECK_EQ(sess_setting_set(s, "system", "a \"quoted\"\nline"), 0);
    CHECK_STR(sess_setting(s, "system", buf, sizeof buf), "a \"quoted\"\nline");
    memset(lng, 'x', sizeof lng);
    lng[sizeof lng - 1] = 0;
    CHECK_EQ(sess_setting_set(s, "system", lng), E_LIMIT);
    CHECK_STR(sess_setting(s, "system", buf, sizeof buf), "a \"quoted\"\nline");
    char date[11];
    sess_date(s, date);
    CHECK_STR(date, "2026-01-02");
    CHECK_EQ(sess_setting_set(s, "system", NULL), 0);
    CHECK_STR(sess_setting(s, "system", buf, sizeof buf), "");
    down();
}

/* Several crashes, and nobody came back in between. */
static void every_open_answer_is_remembered_however_many_there_are(void)
{
    enum { N = 2 * REQ_MAX + 88 };
    uint32_t found = 0;

    up(true);
    for (uint32_t i = 0; i < N; i++) {
        struct sess *s;
        char name[16];

        snprintf(name, sizeof name, "s%u", i);
        CHECK_EQ(sess_make(&d, 1, name, "m", &s), 0);
        say(s, 3, (int32_t)i);
        struct kvs_req q = {.owner = 1,
                            .session = s->rec.id,
                            .branch = s->branch->rec.id,
                            .pos = s->head,
                            .type = HRT_START,
                            .state = KVS_REQ_RUNNING,
                            .time_ns = wall_ns(),
                            .reply = "{\"v\":2}",
                            .reply_bytes = 7};
        struct kvs_rec rec = {.kind = KVS_REC_REQ, .req = &q};

        kvs_id_new(&q.id);
        write_recs(&rec, 1);
    }
    down();
    up(false);
    for (uint32_t i = 0; sess_at(&d, i); i++)
        found += sess_at(&d, i)->has_open && sess_at(&d, i)->head == 3;
    CHECK_EQ(found, N);
    down();
}

static void sessions_go_in_any_order(void)
{
    struct sess *s[5], *left[3];

    up(true);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(sess_make(&d, 1, (char[]){(char)('a' + i), 0}, "m", &s[i]), 0);
    sess_forget(&d, s[1]);
    sess_forget(&d, s[4]); /* which had taken the other's place */
    for (uint32_t i = 0; i < 3; i++)
        left[i] = sess_at(&d, i);
    CHECK(!sess_at(&d, 3));
    for (int i = 0; i < 4; i += i ? 1 : 2) /* a, c, d */
        CHECK(left[0] == s[i] || left[1] == s[i] || left[2] == s[i]);
    down();
}

static void turns_that_are_not_on_the_disk_stay_in_memory(void)
{
    struct sess *s;

    up(true);
    CHECK_EQ(sess_make(&d, 1, "a", "m", &s), 0);
    say(s, 10, 100);
    save(s);
    CHECK_EQ(sess_turns(&d, s), 0);
    CHECK_EQ(s->n_turns, 1);
    s->turns[0].durable = false;
    sess_cool(s);
    CHECK(s->turns_known && s->n_turns == 1);
    s->turns[0].durable = true;
    sess_cool(s);
    CHECK(!s->turns_known && s->n_turns == 0);
    CHECK_EQ(sess_turns(&d, s), 0);
    CHECK_EQ(s->n_turns, 1);
    down();
}

static void who_has_more_than_a_share(void)
{
    static const struct {
        uint64_t own, all;
        uint32_t n;
        bool over;
    } t[] = {
        {0, 0, 0, false},    {0, 100, 1, false}, {100, 100, 1, true},
        {50, 100, 1, false}, {51, 100, 1, true}, {33, 100, 2, false},
        {34, 100, 2, true},  {90, 100, 9, true}, {10, 100, 9, false},
        {11, 100, 9, true},  {1, 1, 1, true},    {UINT64_MAX, UINT64_MAX, UINT32_MAX, true},
    };

    for (uint32_t i = 0; i < sizeof t / sizeof *t; i++)
        if (share_over(t[i].own, t[i].all, t[i].n) != t[i].over)
            t_fail(__FILE__, __LINE__, "line %u of the table", i);
    CHECK(share_more(0, 0, 1) && share_more(49, 49, 100) && share_more(24, 75, 100));
    CHECK(!share_more(50, 50, 100) && !share_more(25, 75, 100));
    CHECK(!share_more(0, 100, 100) && !share_more(0, 101, 100)); /* it was lowered */
}

static uint64_t disk_of(uint32_t uid)
{
    const struct sess_user *u = sess_user(d.sess, uid, false);

    return u ? u->disk_bytes : 0;
}

/* The sums against a walk of all sessions. */
static void sums_agree(void)
{
    uint64_t all = 0, each[4] = {0};
    uint32_t holders = 0;
    struct sess *s;

    for (uint32_t i = 0; (s = sess_at(&d, i)); i++)
        each[s->rec.owner] += 512 + 4 * s->head + strlen(s->rec.name) + strlen(s->rec.settings);
    for (uint32_t uid = 0; uid < 4; uid++) {
        CHECK_EQ(disk_of(uid), each[uid]);
        all += each[uid];
        holders += each[uid] != 0;
    }
    CHECK_EQ(d.sess->disk_bytes, all);
    CHECK_EQ(d.sess->n_holders, holders);
}

static void what_each_user_has_on_disk_is_known_as_it_changes(void)
{
    struct sess *a, *b, *f;
    uint64_t was;

    up(true);
    sums_agree();
    CHECK_EQ(sess_make(&d, 1, "a", "m", &a), 0);
    CHECK_EQ(sess_make(&d, 2, "b", "m", &b), 0);
    sums_agree();
    say(a, 300, 100);
    say(b, 10, 100);
    sums_agree();
    CHECK(disk_of(1) > disk_of(2) && disk_of(2) > 0 && disk_of(3) == 0);
    CHECK_EQ(sess_setting_set(a, "system", "be brief"), 0);
    save(a);
    CHECK_EQ(sess_rename(&d, b, "a longer name"), 0);
    save(b);
    sums_agree();
    was = disk_of(1);
    CHECK_EQ(sess_fork(&d, a, 200, "f", &f), 0);
    save(f);
    CHECK(disk_of(1) >= was + 800);
    sums_agree();
    sess_move(&d, a, 50);
    save(a);
    sums_agree();
    was = disk_of(1);
    down();
    up(false);
    sums_agree();
    CHECK_EQ(disk_of(1), was);
    b = sess_find(&d, 2, "a longer name");
    CHECK(b != NULL);
    sess_forget(&d, b);
    CHECK_EQ(disk_of(2), 0);
    sums_agree();
    down();
}

static void key(uint32_t uid, uint8_t n, uint32_t *ret)
{
    uint8_t as[IDENT_BYTES] = {n};

    CHECK_EQ(ident_owner(d.idents, uid, as, ret), 0);
}

static const struct sess_group *group(uint32_t owner)
{
    const struct sess_user *u = sess_user(d.sess, owner, false);

    return u ? u->group : NULL;
}

/* What keys have is their user's; after a start they are nobody's until they are used. */
static void keys_count_with_their_user(void)
{
    static const uint8_t secret[16] = "0123456789abcdef";
    uint32_t k[3], other;
    struct sess *s[5];

    CHECK_EQ(idents_open(&idents, secret), 0);
    up(true);
    for (uint8_t i = 0; i < 3; i++)
        key(2, i, &k[i]);
    key(1, 0, &other);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(sess_make(&d, k[i], i ? "named" : NULL, "m", &s[i]), 0);
    CHECK_EQ(sess_make(&d, 2, NULL, "m", &s[3]), 0);
    CHECK_EQ(sess_make(&d, other, "a", "m", &s[4]), 0);
    for (int i = 0; i < 5; i++) {
        say(s[i], 10, 10);
        save(s[i]);
    }
    CHECK_EQ(d.sess->n_holders, 2);
    CHECK(group(2) && group(2) == group(k[0]) && group(2) == group(k[2]));
    CHECK(group(other) != group(2) && group(other)->uid == 1);
    CHECK_EQ(group(2)->holders, 4);
    CHECK_EQ(group(2)->anonymous, 2);
    CHECK_EQ(group(2)->disk_bytes, disk_of(2) + disk_of(k[0]) + disk_of(k[1]) + disk_of(k[2]));
    down();
    idents_close(idents);
    CHECK_EQ(idents_open(&idents, secret), 0);
    up(false);
    CHECK_EQ(d.sess->n_holders, 2); /* uid 2, and nobody */
    CHECK(group(k[0]) == group(other) && group(2) != group(other));
    CHECK_EQ(group(k[0])->holders, 4);
    key(2, 1, &k[1]);
    key(1, 0, &other);
    CHECK(group(k[1]) == group(2) && group(other)->uid == 1);
    CHECK_EQ(d.sess->n_holders, 3);
    CHECK_EQ(group(2)->holders, 2);
    CHECK_EQ(group(k[0])->holders, 2);
    CHECK_EQ(group(k[0])->anonymous, 1);
    CHECK_EQ(group(2)->anonymous, 1);
    CHECK_EQ(group(2)->disk_bytes, disk_of(2) + disk_of(k[1]));
    down();
    idents_close(idents);
    idents = NULL;
}

static void shares_have_two_levels(void)
{
    /* All of 120: what a user, and one of his keys, may take more of. */
    CHECK(share_more2(50, 50, 50, 120, false) && !share_more2(60, 60, 60, 120, false));
    CHECK(share_more2(29, 29, 29, 120, true) && !share_more2(31, 31, 31, 120, true));
    CHECK(share_more2(0, 59, 59, 120, true) && !share_more2(0, 60, 60, 120, true));
    CHECK(!share_more2(20, 40, 80, 120, true)); /* nobody may beside 40 of another's */
    CHECK(share_more2(10, 20, 60, 120, true) && !share_more2(20, 20, 60, 120, true));
    /* 120 held by two users: 40 each, were there one more; of 40, two keys had 13 each. */
    CHECK(!share_over2(40, 40, 120, 2, 1) && share_over2(41, 41, 120, 2, 1));
    CHECK(share_over2(1, 41, 120, 2, 40)); /* many small keys of one */
    CHECK(!share_over2(13, 26, 120, 2, 2) && share_over2(14, 26, 120, 2, 2));
    /* Nobody else may come: he has all, and his keys share it. */
    CHECK(!share_over2(120, 120, 120, 0, 1));
    CHECK(share_over2(61, 120, 120, 0, 2) && !share_over2(40, 120, 120, 0, 2));
}

static void who_has_more_than_a_share_waits_where_little_is_left(void)
{
    struct conf conf = {.system = true};
    char words[QUOTA_WORDS] = "";
    struct sess *a, *b;

    disk_mib = 8;
    up(true);
    d.conf = &conf;
    CHECK_EQ(sess_make(&d, 1, "a", "m", &a), 0);
    CHECK_EQ(sess_make(&d, 2, "b", "m", &b), 0);
    say(b, 10, 100);
    say(a, 500, 100);
    CHECK(quota_turns(&d, 1, words, sizeof words)); /* there is room */
    for (int i = 0; i < 20000 && !kvs_turns_short(d.store); i++)
        say(a, 500, i);
    CHECK(kvs_turns_short(d.store));
    CHECK(!quota_turns(&d, 1, words, sizeof words) && strstr(words, "sessions rm"));
    CHECK(quota_turns(&d, 2, words, sizeof words));
    CHECK(quota_turns(&d, 3, words, sizeof words));
    down();
    disk_mib = 256;
}

static uint32_t put_down(uint32_t uid, uint32_t most)
{
    uint32_t n = 0;

    while (n < most && quota_put(&d, uid, MIB))
        n++;
    return n;
}

static void keys_do_not_write_more_of_the_day_than_their_user(void)
{
    struct conf conf = {.system = true};
    char words[QUOTA_WORDS] = "";
    uint32_t k, n, all = 0;

    CHECK_EQ(idents_open(&idents, (const uint8_t *)"0123456789abcdef"), 0);
    day_bytes = 100 * MIB;
    up(true);
    d.conf = &conf;
    for (uint8_t i = 0; i < 40; i++) {
        key(2, i, &k);
        n = put_down(k, 1000);
        CHECK(n <= 26); /* of his user's half, half */
        all += n;
        CHECK(!quota_puts(&d, k, words, sizeof words));
    }
    CHECK(all >= 40 && all <= 51);
    n = put_down(1, 1000);
    CHECK(n >= 20 && n <= 30);
    down();
    idents_close(idents);
    idents = NULL;
    d.conf = NULL;
    day_bytes = 0;
}

static void the_days_budget_is_shared(void)
{
    struct conf conf = {.system = true};
    char words[QUOTA_WORDS] = "";
    struct sess *a, *b;

    day_bytes = 100 * MIB;
    up(true);
    d.conf = &conf;
    CHECK(quota_puts(&d, 1, words, sizeof words));
    /* Half of what the store has not taken itself; then half of the rest, or nearly. */
    uint32_t n = put_down(1, 1000);
    CHECK(n >= 45 && n <= 51);
    CHECK(!quota_puts(&d, 1, words, sizeof words) && strstr(words, "of 100"));
    CHECK(quota_puts(&d, 2, words, sizeof words));
    n = put_down(2, 1000);
    CHECK(n >= 20 && n <= 26);
    CHECK(quota_put(&d, 3, MIB));
    CHECK(!quota_put(&d, 1, MIB) && !quota_put(&d, 2, MIB));
    /* What was not written counts for nobody. */
    for (int i = 0; i < 30; i++)
        quota_back(&d, 1, MIB);
    CHECK(quota_put(&d, 1, MIB) && quota_puts(&d, 1, words, sizeof words));
    /* More than the day has: the store's word. */
    CHECK(quota_put(&d, 2, 90 * MIB));
    down();
    /* Who is alone on his own daemon has all of it; no more when there is a second. */
    up(true);
    conf.system = false;
    d.conf = &conf;
    CHECK_EQ(sess_make(&d, 1, "a", "m", &a), 0);
    CHECK_EQ(put_down(1, 200), 200);
    CHECK_EQ(sess_make(&d, 2, "b", "m", &b), 0);
    n = put_down(1, 1000);
    CHECK(n >= 45 && n <= 51);
    down();
    /* And without a budget nothing is asked. */
    day_bytes = 0;
    up(true);
    conf.system = true;
    d.conf = &conf;
    CHECK_EQ(put_down(1, 1000), 1000);
    CHECK(quota_puts(&d, 1, words, sizeof words));
    down();
}

/* Its turns may be read again before anything of it is. */
static void an_answer_that_begins_is_a_turn_of_its_session_alone(void)
{
    struct req r = {.id = {{1}}};
    struct turn t = {.first = 3, .flags = KVS_TURN_OPEN, .request = r.id};
    struct sess s = {.head = 3, .turns = &t, .n_turns = 1, .running = &r};

    sess_turns_clamp(&d, &s);
    CHECK_EQ(s.n_turns, 1);
    s.running = NULL;
    sess_turns_clamp(&d, &s);
    CHECK_EQ(s.n_turns, 0);
}

T_MAIN(CASE(the_days_budget_is_shared), CASE(keys_count_with_their_user),
       CASE(shares_have_two_levels), CASE(keys_do_not_write_more_of_the_day_than_their_user),
       CASE(sessions_go_in_any_order), CASE(turns_that_are_not_on_the_disk_stay_in_memory),
       CASE(who_has_more_than_a_share),
       CASE(who_has_more_than_a_share_waits_where_little_is_left),
       CASE(what_each_user_has_on_disk_is_known_as_it_changes),
       CASE(names_belong_to_their_owner), CASE(names_are_checked),
       CASE(an_older_name_that_is_refused_now_still_works),
       CASE(tokens_and_turns_come_back_after_a_restart),
       CASE(a_turn_that_begins_inside_another_takes_its_place),
       CASE(the_first_token_that_differs_starts_a_branch),
       CASE(a_rewound_session_keeps_what_is_before_and_goes_on_elsewhere),
       CASE(a_branch_hangs_on_the_one_that_holds_its_last_token),
       CASE(any_history_reads_back_as_it_was_said), CASE(a_branch_has_one_owner),
       CASE(a_turn_that_a_rewind_cut_is_as_short_after_a_restart),
       CASE(an_open_turn_reaches_to_where_its_session_stands),
       CASE(settings_are_kept_and_bounded),
       CASE(an_answer_that_begins_is_a_turn_of_its_session_alone),
       CASE(every_open_answer_is_remembered_however_many_there_are))
