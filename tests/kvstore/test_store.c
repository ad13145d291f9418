/* test_store.c - the store as its users see it, on real files, with both kinds of I/O. */
#include "base/clock.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define BOTH(name)                                                                             \
    static void name##_on(enum kvs_io io);                                                     \
    static void name##_uring(void)                                                             \
    {                                                                                          \
        name##_on(KVS_IO_URING);                                                               \
    }                                                                                          \
    static void name##_threads(void)                                                           \
    {                                                                                          \
        name##_on(KVS_IO_THREADS);                                                             \
    }                                                                                          \
    static void name##_on(enum kvs_io io)
#define ROWS(name)                                                                             \
    {#name "_uring", name##_uring},                                                            \
    {                                                                                          \
#        name "_threads", name##_threads                                                       \
    }

static void open_or_skip(struct rig *g, enum kvs_io io)
{
    rig_init(g, io, false);
    int r = rig_open(g);
    if (r < 0 && io == KVS_IO_URING && (r == -EPERM || r == -ENOSYS || r == -ENOMEM)) {
        rig_fini(g);
        t_skip("io_uring is refused here");
    }
    CHECK_EQ(r, 0);
    if (r < 0) {
        printf("    %s\n", g->eb.s);
        exit(1);
    }
}

BOTH(a_block_put_is_got_again_also_after_a_restart)
{
    struct rig g;
    struct kvs_block_req got;

    open_or_skip(&g, io);
    for (uint32_t n = 0; n < 40; n++)
        CHECK_EQ(rig_put(&g, 1, n), 0);
    CHECK_EQ(rig_get(&g, 1, 5, &got), 0);
    CHECK_EQ(got.from, KVS_FROM_HOST);
    rig_reopen(&g);
    CHECK(g.rep.clean);
    CHECK(!g.rep.rebuilt);
    CHECK_EQ(g.rep.blocks, 40);
    for (uint32_t n = 0; n < 40; n++) {
        CHECK_EQ(rig_get(&g, 1, n, &got), 0);
        CHECK_EQ(got.from, KVS_FROM_FILE);
    }
    CHECK_EQ(rig_get(&g, 1, 39, &got), 0);
    CHECK_EQ(got.from, KVS_FROM_HOST);
    CHECK_EQ(rig_get(&g, 1, 40, &got), -ENOENT);
    rig_fini(&g);
}

/* Rows of an unfinished block: kept as any block, taken up once. */
BOTH(an_unfinished_block_is_got_by_its_own_tokens_and_once)
{
    struct rig g;
    struct rig_block b;
    struct kvs_stats st;

    open_or_skip(&g, io);
    CHECK_EQ(rig_put(&g, 6, 0), 0);
    for (int put = 1; put >= 0; put--) {
        rig_block_set(&g, &b, 6, 1);
        kvs_key_next(&b.r.parent, b.r.ids, 100, &b.r.key);
        b.r.n_tokens = 100;
        b.r.ids[100] = -1; /* nobody's business */
        rig_submit(&g, &b, put);
        rig_wait(&g);
        CHECK_EQ(b.r.res, 0);
        if (put)
            rig_reopen(&g);
    }
    CHECK_EQ(b.r.from, KVS_FROM_FILE);
    CHECK(!b.wrong);
    b.r.n_tokens = 99; /* the key of a hundred, and other tokens than the caller says */
    rig_submit(&g, &b, false);
    rig_wait(&g);
    CHECK_EQ(b.r.res, -ENOENT);
    CHECK_EQ(kvs_match(g.s, &b.r.key, 1, b.r.variant), 1);
    for (int i = 0; i < 2; i++) {
        b.r.n_tokens = 100;
        b.r.last = true;
        rig_submit(&g, &b, false);
        rig_wait(&g);
        CHECK_EQ(b.r.res, i ? -ENOENT : 0); /* taken up: it is gone, and its slot is free */
        for (int k = 0; k < 2000 && kvs_match(g.s, &b.r.key, 1, b.r.variant); k++) {
            usleep(1000); /* the io thread is behind its own word */
            if (!g.threads)
                rig_turn(&g);
        }
        CHECK_EQ(kvs_match(g.s, &b.r.key, 1, b.r.variant), 0);
    }
    kvs_stats(g.s, &st);
    CHECK_EQ(st.blocks, 1);
    CHECK_EQ(rig_get(&g, 6, 0, NULL), 0);
    rig_reopen(&g);
    CHECK_EQ(g.rep.blocks, 1);
    rig_fini(&g);
}

BOTH(many_blocks_at_once_are_all_durable)
{
    enum { N = 300 };
    struct rig g;
    struct rig_block *b = calloc(N, sizeof *b);
    struct kvs_stats st;

    open_or_skip(&g, io);
    for (uint32_t n = 0; n < N; n++) {
        rig_block_set(&g, &b[n], 2, n);
        rig_submit(&g, &b[n], true);
    }
    rig_wait(&g);
    kvs_stats(g.s, &st);
    printf("    %llu commits, %llu syncs for %d blocks\n", (unsigned long long)st.commits,
           (unsigned long long)st.syncs, N);
    CHECK(st.commits < N / 2);
    for (uint32_t n = 0; n < N; n++)
        CHECK_EQ(b[n].r.res, 0);
    rig_reopen(&g);
    CHECK_EQ(g.rep.blocks, N);
    for (uint32_t n = 0; n < N; n++) {
        rig_block_set(&g, &b[n], 2, n);
        rig_submit(&g, &b[n], false);
    }
    rig_wait(&g);
    for (uint32_t n = 0; n < N; n++) {
        CHECK_EQ(b[n].r.res, 0);
        CHECK(!b[n].wrong);
    }
    free(b);
    rig_fini(&g);
}

BOTH(turns_survive_and_read_back)
{
    struct rig g;

    open_or_skip(&g, io);
    CHECK_EQ(rig_talk(&g, 9, 0, 300), 0);
    CHECK_EQ(rig_talk(&g, 9, 300, 301), 0);
    CHECK_EQ(rig_talk(&g, 9, 301, 900), 0);
    CHECK(rig_tokens_ok(&g, 9, 900));
    rig_reopen(&g);
    CHECK_EQ(g.rep.sessions, 1);
    CHECK(rig_tokens_ok(&g, 9, 900));
    rig_fini(&g);
}

BOTH(what_is_forgotten_right_before_the_end_is_not_back)
{
    enum { N = 300, KEPT = 10 };
    struct rig g;
    struct rig_block *b = calloc(N, sizeof *b);
    struct kvs_key *key = calloc(N, sizeof *key);

    open_or_skip(&g, io);
    for (uint32_t n = 0; n < N; n++) {
        rig_block_set(&g, &b[n], 3, n);
        key[n] = b[n].r.key;
        rig_submit(&g, &b[n], true);
    }
    rig_close(&g);
    g.threads = false; /* nobody turns between the call and the end */
    CHECK_EQ(rig_open(&g), 0);
    CHECK_EQ(g.rep.blocks, N);
    kvs_forget(g.s, key + KEPT, N - KEPT, b[0].r.variant);
    rig_reopen(&g);
    CHECK(g.rep.clean);
    CHECK_EQ(g.rep.blocks, KEPT);
    for (uint32_t n = 0; n < N; n++)
        CHECK_EQ(rig_get(&g, 3, n, NULL), n < KEPT ? 0 : -ENOENT);
    free(b);
    free(key);
    rig_fini(&g);
}

/* Blocks of a size that the helper checks, in several transfers each. */
enum { BIG = 6 << 20, BIG_N = 12 };
static int big_copy(struct kvs_block_req *r, void *payload)
{
    struct rig_block *b = r->user;
    uint64_t *p = payload, bad = 0;

    for (uint64_t i = 0; i < BIG / 8; i++)
        if (r->put)
            p[i] = i * 0x9e3779b97f4a7c15u + b->n;
        else
            bad += p[i] != i * 0x9e3779b97f4a7c15u + b->n;
    b->wrong = bad != 0;
    return 0;
}

BOTH(big_blocks_come_back_and_a_hurt_one_does_not)
{
    struct kvs_layout l = {.id = "big", .hot_bytes = BIG};
    static struct rig_block b[BIG_N];
    char path[512];
    uint32_t n;
    struct rig g;

    rig_init(&g, io, true);
    g.o.host_bytes = 4 * (BIG + 4096);
    g.o.disk_bytes = 256 << 20;
    if (rig_open(&g) < 0) {
        rig_fini(&g);
        t_skip("io_uring is refused here");
    }
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(kvs_layout_add(g.s, &l, &n, &g.eb), 0);
        for (uint32_t i = 0; i < BIG_N; i++) {
            rig_block_set(&g, &b[i], 1, i);
            b[i].r.layout = n;
            b[i].r.copy = big_copy;
            rig_submit(&g, &b[i], round == 0);
        }
        rig_wait(&g);
        for (uint32_t i = 0; i < BIG_N; i++) {
            CHECK(!b[i].wrong);
            CHECK_EQ(b[i].r.res, round == 2 && i == 7 ? -ENOENT : 0);
            CHECK_EQ(b[i].r.corrupt, round == 2 && i == 7);
        }
        rig_close(&g);
        if (round == 1) { /* one bit, far inside */
            uint8_t byte;
            snprintf(path, sizeof path, "%s/kv/big/seg-0001", g.dir);
            FILE *f = fopen(path, "r+b");
            long at = 4096 + 7L * (BIG + 4096) + 4096 + BIG - 5;
            CHECK(f && fseek(f, at, SEEK_SET) == 0 && fread(&byte, 1, 1, f) == 1);
            byte ^= 4;
            CHECK(fseek(f, at, SEEK_SET) == 0 && fwrite(&byte, 1, 1, f) == 1);
            fclose(f);
        }
        CHECK_EQ(rig_open(&g), 0);
    }
    rig_fini(&g);
}

static void no_io_uring(void)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {4, f};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
        _exit(77);
}

static void where_io_uring_is_refused_threads_do_it_and_say_so(void)
{
    struct rig g;
    int status;

    rig_init(&g, KVS_IO_AUTO, true);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        no_io_uring();
        if (rig_open(&g) < 0)
            _exit(1);
        if (strcmp(g.rep.io, "threads") || !strstr(g.rep.warning, "io_uring"))
            _exit(2);
        if (rig_put(&g, 1, 0) != 0 || rig_get(&g, 1, 0, NULL) != 0)
            _exit(3);
        rig_close(&g);
        g.o.io = KVS_IO_URING;
        _exit(rig_open(&g) == -EPERM && strstr(g.eb.s, "io=threads") ? 0 : 4);
    }
    waitpid(pid, &status, 0);
    rig_fini(&g);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        t_skip("no seccomp here");
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

T_MAIN(ROWS(a_block_put_is_got_again_also_after_a_restart),
       ROWS(an_unfinished_block_is_got_by_its_own_tokens_and_once),
       ROWS(many_blocks_at_once_are_all_durable), ROWS(turns_survive_and_read_back),
       ROWS(what_is_forgotten_right_before_the_end_is_not_back),
       ROWS(big_blocks_come_back_and_a_hurt_one_does_not),
       {"where_io_uring_is_refused_threads_do_it_and_say_so",
        where_io_uring_is_refused_threads_do_it_and_say_so})
