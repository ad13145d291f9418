/* test_resume.c - the daemon's own code on a disk that waits, fails, or is edited meanwhile.
 *
 * hearthd's main() runs in a child of this program, where fdatasync and pread are the test's: it
 * holds them back or lets them fail at a word in shared memory.  What is durable, what was loaded
 * and what has changed since must show in the answers. */
#include <errno.h>
#include <unistd.h>
int hearthd_main(int argc, char **argv);
#define main hearthd_main
#include "daemon/main.c"
#undef main
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include "tests/daemon/genrig.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static struct {
    atomic_int hold, skip_sync, fail_sync, fail_read, fail_write, slow_read_ms;
    atomic_uint held, failed, reads;
} * ctl; /* shared with the daemon */

static bool of_block(int fd)
{
    char link[64], path[512];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, "/kv/") != NULL;
}

ssize_t pread(int fd, void *buf, size_t bytes, off_t off);
ssize_t pread(int fd, void *buf, size_t bytes, off_t off)
{
    if (ctl && (ctl->fail_read || ctl->slow_read_ms) && of_block(fd)) {
        ctl->reads++;
        usleep((unsigned)ctl->slow_read_ms * 1000u);
        if (ctl->fail_read) {
            errno = EIO;
            return -1;
        }
    }
    return syscall(SYS_pread64, fd, buf, bytes, off);
}

ssize_t pwrite(int fd, const void *buf, size_t bytes, off_t off);
ssize_t pwrite(int fd, const void *buf, size_t bytes, off_t off)
{
    if (ctl && ctl->fail_write && of_block(fd)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, buf, bytes, off);
}

int fdatasync(int fd)
{
    if (ctl && ctl->hold)
        ctl->held++;
    while (ctl && ctl->hold)
        usleep(1000);
    if (ctl && ctl->fail_sync) {
        ctl->failed++;
        errno = EIO;
        return -1;
    }
    return ctl && ctl->skip_sync ? 0 : (int)syscall(SYS_fdatasync, fd);
}

static int32_t ids[2048];
static struct answer a, b;
#define LONG                                                                                   \
    ",\"session\":\"x\",\"params\":{\"max_tokens\":3000,\"temperature\":0,\"ignore_eos\":"     \
    "true}"
#define GREEDY ",\"params\":{\"max_tokens\":24,\"temperature\":0,\"ignore_eos\":true}"

static void make_ctx(struct rig *g, uint32_t ctx)
{
    uint64_t s = 5;

    if (!ctl)
        ctl = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset((void *)ctl, 0, sizeof *ctl);
    for (int i = 0; i < 2048; i++)
        ids[i] = (int32_t)(mk_next(&s) % 250);
    rig_make_ctx(g, "--io threads", ctx);
    g->main = hearthd_main;
}
static void make(struct rig *g)
{
    make_ctx(g, 2048);
}

static bool warns(const struct answer *x, const char *words)
{
    char *s = cJSON_PrintUnformatted(x->last.json);
    bool found = s && strstr(s, words);

    if (!found)
        printf("    not said: '%s' in %.400s\n", words, s ? s : "");
    free(s);
    return found;
}

/* --- durable first ------------------------------------------------------------------------------ */

static void *let_go_later(void *arg)
{
    usleep(*(unsigned *)arg * 1000u);
    ctl->hold = 0;
    return NULL;
}

struct starter {
    struct rig *g;
    char id[33];
    uint32_t n;
    bool ok;
};
static void *start_body(void *arg)
{
    struct starter *t = arg;

    t->ok =
        rig_start(t->g, t->id, ids, t->n,
                  t->n > 20 ? ",\"session\":\"long\"" GREEDY : ",\"session\":\"short\"" GREEDY);
    return NULL;
}

/* What a process has had of the cores, in clock ticks. */
static unsigned long cpu_of(pid_t pid)
{
    unsigned long user = 0, sys = 0;
    char path[64], line[1024] = "";

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    CHECK(f && fgets(line, sizeof line, f));
    const char *rest = strrchr(line, ')');
    CHECK(rest && sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                         &user, &sys) == 2);
    if (f)
        fclose(f);
    return user + sys;
}

/* START answers when its beginning is durable; whoever asks for its stream meanwhile gets nothing. */
static void no_token_comes_before_its_beginning_is_durable(void)
{
    struct rig g, other;
    struct starter t = {.g = &g};
    pthread_t th;

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 20, ",\"session\":\"warm\"" GREEDY, &a); /* the model is loaded */
    other = g;
    other.fd = wire_connect(g.core);
    for (t.n = 20; t.n <= 600; t.n += 580) { /* with all rows there, and with prefill to do */
        uint32_t early = 0, asked = 0;
        unsigned long cpu = cpu_of(g.pid);
        uint64_t began = now_ns();
        rig_id(t.id);
        ctl->held = 0;
        ctl->hold = 1;
        CHECK_EQ(pthread_create(&th, NULL, start_body, &t), 0);
        for (uint64_t t0 = now_ns(); now_ns() - t0 < 700000000u || !ctl->held;) {
            struct wire_reply r =
                rig_call(&other, HRT_NEXT, NULL, 0,
                         "{\"stream\":\"%s\",\"cursor\":0,\"max_wait_ms\":50}", t.id);
            asked += r.f.status == 0;
            early += r.f.status == 0 && r.f.tail_len > 0;
            wire_reply_fini(&r);
            usleep(10000);
        }
        CHECK_EQ(early, 0);
        CHECK(asked > 0);
        /* What is picked again is picked when it can be told, not until then. */
        double ticks = (double)(now_ns() - began) / 1e9 * (double)sysconf(_SC_CLK_TCK);
        CHECK(t.n > 20 || (double)(cpu_of(g.pid) - cpu) < ticks / 2);
        ctl->hold = 0;
        pthread_join(th, NULL);
        CHECK(t.ok);
        answer_clear(&b);
        CHECK(rig_read(&g, t.id, &b, UINT32_MAX));
        CHECK_EQ(b.n, 24);
    }
    close(other.fd);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Holds back what becomes durable from now on; true: the answer has tokens to go, so that its end
 * is among that. */
static bool hold_end(struct rig *g, const char *id, uint32_t n)
{
    ctl->hold = 1;
    if (!rig_read(g, id, &b, b.n + 1) && b.n < n)
        return true;
    ctl->hold = 0;
    (void)rig_read(g, id, &b, UINT32_MAX);
    return false;
}

static void done_is_said_when_the_end_is_durable(void)
{
    enum { TOKENS = 400 };
    struct rig g;
    char id[33], more[200];
    pthread_t th;
    unsigned ms = 700;
    bool held = false;

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 20, ",\"session\":\"warm\"" GREEDY, &a);
    for (int tries = 0; tries < 30 && !held; tries++) { /* it may be through before we look */
        rig_id(id);
        answer_clear(&b);
        snprintf(more, sizeof more,
                 ",\"session\":\"x%d\",\"params\":{\"max_tokens\":%d,\"temperature\":0,"
                 "\"ignore_eos\":true}",
                 tries, TOKENS);
        CHECK(rig_start(&g, id, ids, 40, more)); /* its beginning is durable */
        held = hold_end(&g, id, TOKENS);
    }
    CHECK(held);
    CHECK_EQ(pthread_create(&th, NULL, let_go_later, &ms), 0);
    bool done = rig_read(&g, id, &b, UINT32_MAX);
    CHECK(done && !ctl->hold);
    CHECK_EQ(b.n, TOKENS);
    pthread_join(th, NULL);
    rig_down(&g, SIGKILL);
    rig_up(&g); /* and it is there */
    answer_clear(&a);
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    CHECK(same(&a, &b));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Some time after the daemon has closed its links, which is what it does before it closes the store. */
static void *let_go_when_closed(void *arg)
{
    struct pollfd p = {.fd = *(int *)arg, .events = POLLIN};
    char c;

    while (poll(&p, 1, -1) == 1 && recv(p.fd, &c, 1, 0) > 0)
        ;
    usleep(500000);
    ctl->hold = 0;
    return NULL;
}

/* One is at the disk, another waits for it; neither is an answer, which a stop ends first. */
static void a_stop_waits_for_what_was_asked_before_it(void)
{
    static const char *const name[] = {"y", "z"};
    struct wire_reply r = {0};
    struct rig g;
    char json[200], id[33];
    pthread_t th;
    int fd;

    make(&g);
    rig_up(&g);
    for (int i = 0; i < 2; i++) { /* without a model: nothing else is on its way to the disk */
        rig_id(id);
        r = rig_call(&g, HRT_SESSION_OPEN, NULL, 0,
                     "{\"id\":\"%s\",\"name\":\"%c\",\"model\":\"m\",\"create\":true}", id,
                     "wx"[i]);
        CHECK_EQ(r.f.status, 0);
        wire_reply_fini(&r);
    }
    fd = wire_connect(g.core);
    CHECK(fd >= 0);
    ctl->held = 0;
    ctl->hold = 1;
    for (int i = 0; i < 2; i++) {
        rig_id(id);
        snprintf(json, sizeof json, "{\"id\":\"%s\",\"session\":\"%c\",\"name\":\"%s\"}", id,
                 "wx"[i], name[i]);
        CHECK(wire_send(fd, HRT_SESSION_RENAME, (uint64_t)i + 1, json, NULL, 0));
        for (uint64_t until = now_ns() + 20000000000u * T_SLOWER;
             !ctl->held && now_ns() < until;)
            usleep(1000);
        CHECK(ctl->held > 0);
    }
    /* Frames of a link are taken in their order: behind this one the others are in. */
    CHECK(wire_send(fd, HRT_STATUS, 3, "{}", NULL, 0));
    CHECK(wire_recv(fd, &r));
    CHECK_EQ(r.f.id, 3);
    wire_reply_fini(&r);
    CHECK_EQ(pthread_create(&th, NULL, let_go_when_closed, &fd), 0);
    rig_down(&g, SIGTERM); /* it ends well */
    pthread_join(th, NULL);
    close(fd);
    rig_up(&g);
    for (int i = 0; i < 2; i++) {
        r = rig_call(&g, HRT_SESSION_SHOW, NULL, 0, "{\"session\":\"%s\"}", name[i]);
        CHECK_EQ(r.f.status, 0);
        wire_reply_fini(&r);
    }
    rig_down(&g, SIGTERM);
}

static void a_turn_that_cannot_be_written_is_said(void)
{
    struct rig g;

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 20, ",\"session\":\"x\"" GREEDY, &a);
    CHECK(!cJSON_GetArraySize(cJSON_GetObjectItem(a.last.json, "warnings")));
    ctl->fail_sync = 1;
    rig_run(&g, ids + 20, 20, ",\"session\":\"x\"" GREEDY, &a);
    CHECK(ctl->failed > 0);
    CHECK(warns(&a, "will not survive a restart"));
    ctl->fail_sync = 0; /* what failed once is not trusted again */
    rig_run(&g, ids + 40, 20, ",\"session\":\"x\"" GREEDY, &a);
    CHECK(warns(&a, "an earlier turn of this session was not written"));
    CHECK(warns(&a, "will not survive a restart"));
    rig_down(&g, SIGTERM);
    rig_up(&g);
    rig_run(&g, ids + 60, 20, ",\"session\":\"x\"" GREEDY, &a);
    CHECK(usage(&a, "usage", "context") >= 20 + 24 + 20); /* the first turn, at least */
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

static void blocks_that_do_not_reach_the_disk_are_said(void)
{
    struct rig g;

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 300, ",\"session\":\"x\"" GREEDY, &a); /* there is a segment */
    ctl->fail_write = 1;
    rig_run(&g, ids + 300, 700, ",\"session\":\"x\"" GREEDY, &a);
    bool told = false;
    for (int i = 0; i < 12 && !told; i++) { /* they go down beside it, when there is time */
        usleep(250000);
        rig_run(&g, ids, 10, ",\"session\":\"x\"" GREEDY, &a);
        told = warns(&a, "do not reach the disk");
    }
    CHECK(told);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
}

/* --- what comes up -------------------------------------------------------------------------------- */

/* 1100 tokens in one go (a), and the same with a restart in between and `how` the disk reads (b). */
static void read_back(int slow_ms, int fail, const char *words)
{
    struct rig g;

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 1100, ",\"session\":\"ref\"" GREEDY, &a);
    rig_run(&g, ids, 1000, ",\"session\":\"cut\",\"params\":{\"max_tokens\":0}", &b);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    rig_run(&g, ids, 8, ",\"session\":\"warm\"" GREEDY, &b); /* loaded and hashed */
    ctl->slow_read_ms = slow_ms;
    ctl->fail_read = fail;
    rig_run(&g, ids + 1000, 100, ",\"session\":\"cut\"" GREEDY, &b);
    CHECK(ctl->reads > 0);
    CHECK(same(&a, &b));
    if (words)
        CHECK(warns(&b, words));
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

static void blocks_are_waited_for(void)
{
    read_back(120, 0, NULL);
}
static void blocks_that_cannot_be_read_are_computed_again_and_said(void)
{
    read_back(0, 1, "computed again");
}

/* Two at once want the same blocks while they come up slowly. */
static void blocks_that_another_is_loading_are_waited_for(void)
{
    struct rig g;
    char one[33], two[33];

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 1030, ",\"session\":\"ref\"" GREEDY, &a);
    rig_down(&g, SIGTERM);
    rig_up(&g);
    rig_run(&g, ids, 8, ",\"session\":\"warm\"" GREEDY, &b);
    ctl->slow_read_ms = 150;
    rig_id(one);
    rig_id(two);
    CHECK(rig_start(&g, one, ids, 1030, ",\"session\":\"one\"" GREEDY));
    CHECK(rig_start(&g, two, ids, 1030, ",\"session\":\"two\"" GREEDY));
    for (int i = 0; i < 2; i++) {
        answer_clear(&b);
        CHECK(rig_read(&g, i ? two : one, &b, UINT32_MAX));
        CHECK(same(&a, &b));
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* The names of stored blocks: user, weights, epoch and tokens, computed here once more. */
static void blocks_are_kept_under_the_names_they_should_have(void)
{
    struct kvs_opts o = {.disk_bytes = 1 << 30, .host_bytes = 64 << 20};
    struct eng_opts eo = {.threads = 1};
    struct errbuf eb = {{0}};
    struct engine *e = NULL;
    struct kvs_key key[5];
    struct kvstore *s;
    uint8_t id[16], print[32];
    struct rig g;
    char dir[200];

    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 8, ",\"session\":\"warm\"" GREEDY, &a);
    usleep(200000); /* hashed */
    rig_run(&g, ids, 1030, ",\"session\":\"x\"" GREEDY, &a);
    rig_down(&g, SIGTERM);
    eo.path = g.model;
    CHECK_EQ(eng_open(&e, &eo, &eb), 0);
    CHECK_EQ(eng_weights_id(g.model, NULL, id, &eb), 0);
    eng_fingerprint(e, id, print);
    kvs_key_root(print, geteuid(), &key[0]);
    for (int i = 0; i < 4; i++)
        kvs_key_next(&key[i], ids + 256 * i, 256, &key[i + 1]);
    snprintf(dir, sizeof dir, "%s/state", g.base);
    o.dir = dir;
    CHECK_EQ(kvs_open(&s, &o, NULL, &eb), 0);
    CHECK_EQ(kvs_match(s, key + 1, 4, kvs_variant(eng_info(e)->epoch, 0)), 4);
    CHECK_EQ(kvs_match(s, key + 1, 4, kvs_variant(eng_info(e)->epoch + 1, 0)), 0);
    kvs_close(s);
    eng_close(e);
    answer_clear(&a);
}

/* --- what has changed ----------------------------------------------------------------------------- */

typedef void edit_fn(cJSON *o, struct kvs_req *q);
static struct kvs_req edited;
static uint64_t edited_end; /* where its branch ended */
static char *edited_text;
static edit_fn *edit;
static uint32_t edit_state;

static int edit_each(void *ctx, const struct kvs_req *q)
{
    (void)ctx;
    if (q->reply_bytes == 0 || q->state != edit_state ||
        (edit_state == KVS_REQ_ENDED && q->pos < 250))
        return 0;
    cJSON *o = cJSON_ParseWithLength(q->reply, q->reply_bytes);
    edited = *q;
    edit(o, &edited);
    edited_text = cJSON_PrintUnformatted(o);
    cJSON_Delete(o);
    return 1;
}
static void edited_done(struct kvs_batch *x)
{
    (void)x;
}

/* The store of a daemon that is down: its open request, or more tokens behind its branch.  false:
 * the answer had no durable token yet, or it had ended. */
static bool edit_store(struct rig *g, edit_fn *how, bool tokens, uint32_t state)
{
    struct kvs_opts o = {.disk_bytes = 1 << 30, .host_bytes = 64 << 20};
    struct kvs_batch batch = {.n_rec = 1, .done = edited_done};
    struct errbuf eb = {{0}};
    struct kvs_rec rec = {0};
    struct kvstore *s;
    char dir[200];
    int32_t more[2] = {1, 2};
    uint64_t end = 0;

    snprintf(dir, sizeof dir, "%s/state", g->base);
    o.dir = dir;
    if (kvs_open(&s, &o, NULL, &eb) < 0) {
        t_fail(__FILE__, __LINE__, "%s", eb.s);
        return true;
    }
    edit = how;
    edit_state = state;
    edited_end = 0;
    if (kvs_reqs(s, edit_each, NULL) != 1 || kvs_branch_end(s, &edited.branch, &end) < 0 ||
        end == edited.pos) {
        kvs_close(s);
        return false;
    }
    edited_end = end;
    edited.reply = edited_text;
    edited.reply_bytes = (uint32_t)strlen(edited_text);
    rec.kind = KVS_REC_REQ;
    rec.req = &edited;
    if (tokens)
        rec = (struct kvs_rec){.kind = KVS_REC_TOKENS, .tokens = {edited.branch, end, more, 2}};
    batch.rec = &rec;
    CHECK_EQ(kvs_batch_submit(s, &batch), 0);
    while (kvs_in_flight(s)) {
        kvs_commit_turn(s, 1000000);
        kvs_loop_turn(s);
    }
    CHECK_EQ(batch.res, 0);
    kvs_close(s);
    free(edited_text);
    return true;
}

static void as_it_is(cJSON *o, struct kvs_req *q)
{
    (void)o, (void)q;
}
static void other_epoch(cJSON *o, struct kvs_req *q)
{
    (void)q;
    cJSON_ReplaceItemInObject(o, "epoch", cJSON_CreateString("0000000000000001"));
}
static void other_print(cJSON *o, struct kvs_req *q)
{
    (void)q;
    cJSON_ReplaceItemInObject(o, "fingerprint", cJSON_CreateString("00"));
}

/* An answer is killed in the middle, `how` the store is edited, and its id asked for again: what
 * comes must hold `words`, and no further token. */
static void goes_on_not(edit_fn *how, bool tokens, const char *pre, uint64_t seed,
                        const char *words)
{
    struct mk_llama other = rig_tiny(4096);
    struct rig g;
    char id[33];

    for (int tries = 0;; tries++) { /* the disk may be too slow, or the answer too fast */
        make_ctx(&g, 4096);
        rig_up(&g);
        rig_run(&g, ids, 8, ",\"session\":\"warm\"" GREEDY, &a); /* loaded and hashed */
        rig_down(&g, SIGTERM);
        rig_up(&g);
        rig_id(id);
        answer_clear(&b);
        CHECK(rig_start(&g, id, ids, 300, LONG));
        (void)rig_read(&g, id, &b, 600 + 300 * (uint32_t)tries);
        rig_down(&g, SIGKILL);
        if (edit_store(&g, how, tokens, KVS_REQ_RUNNING))
            break;
        if (tries == 6) {
            t_fail(__FILE__, __LINE__, "no answer could be cut in the middle");
            return;
        }
    }
    if (pre || seed) {
        struct mk m = {0};
        other.pre = pre;
        other.seed += seed;
        mk_llama(&m, &other);
        rig_model(&g, &m);
        free(m.p);
    }
    rig_up(&g);
    struct wire_reply r =
        rig_call(&g, HRT_START, ids, 300 * 4u,
                 "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\"%s}", id, LONG);
    answer_clear(&b);
    if (r.f.status == 0) {
        wire_reply_fini(&r);
        (void)rig_read(&g, id, &b, UINT32_MAX);
        r = b.last;
        b.last = (struct wire_reply){0};
    }
    char *s = cJSON_PrintUnformatted(r.json);
    if (words ? !s || !strstr(s, words) : b.n != 3000)
        t_fail(__FILE__, __LINE__, "want '%s', got %.300s after %u tokens", words ? words : "",
               s ? s : "", b.n);
    CHECK(!words || b.n < 3000);
    free(s);
    wire_reply_fini(&r);
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

/* Faster than the two seconds after which tokens are made durable in any case. */
static void a_finished_block_takes_its_tokens_down(void)
{
    struct rig g;
    char id[33];
    uint32_t fast = 0, kept = 0;

    for (int tries = 0; tries < 8 && !kept; tries++) {
        make_ctx(&g, 4096);
        ctl->skip_sync = 1; /* a kill is enough here: not to wait for a busy disk */
        rig_up(&g);
        rig_run(&g, ids, 8, ",\"session\":\"warm\"" GREEDY, &a);
        rig_id(id);
        answer_clear(&b);
        uint64_t t0 = now_ns();
        CHECK(rig_start(&g, id, ids, 300, LONG));
        (void)rig_read(&g, id, &b, 900 + 200 * (uint32_t)tries);
        rig_down(&g, SIGKILL);
        fast += now_ns() - t0 < 1500000000u;
        kept += now_ns() - t0 < 1500000000u && edit_store(&g, as_it_is, false, KVS_REQ_RUNNING);
    }
    CHECK(kept || fast < 4); /* a machine that is busy tells nothing */
    answer_clear(&a);
    answer_clear(&b);
}

/* A model of some milliseconds a token, which gets so little time that no block is finished. */
static void a_slow_answer_is_made_durable_as_time_goes_by(void)
{
    struct mk_llama slow = rig_tiny(4096);
    struct rig g;
    struct mk m = {0};
    char id[33];
    bool kept = false;

    slow.layers = 8;
    slow.embd = 512;
    slow.ff = 2048;
    mk_llama(&m, &slow);
    for (unsigned tries = 0; tries < 7 && !kept; tries++) {
        make_ctx(&g, 4096);
        rig_model(&g, &m);
        ctl->skip_sync = 1;
        rig_up(&g);
        rig_id(id);
        answer_clear(&b);
        CHECK(rig_start(&g, id, ids, 20, LONG));
        (void)rig_read(&g, id, &b, 1);
        for (uint64_t until = now_ns() + (4 + tries) * 1000000000ull; now_ns() < until;) {
            kill(g.pid, SIGSTOP);
            usleep(60000);
            kill(g.pid, SIGCONT);
            usleep(300u << tries);
        }
        rig_down(&g, SIGKILL);
        kept = edit_store(&g, as_it_is, false, KVS_REQ_RUNNING) && edited_end < BLOCK_TOKENS;
    }
    CHECK(kept);
    free(m.p);
    answer_clear(&b);
}

static void not_ended(cJSON *o, struct kvs_req *q)
{
    q->state = KVS_REQ_RUNNING;
    cJSON_DeleteItemFromObject(o, "done");
    cJSON_DeleteItemFromObject(o, "finish");
}
static void one_more(cJSON *o, struct kvs_req *q)
{
    cJSON *n = cJSON_GetObjectItem(cJSON_GetObjectItem(cJSON_GetObjectItem(o, "done"), "usage"),
                                   "generated");

    (void)q;
    CHECK(n != NULL);
    if (n)
        cJSON_SetNumberValue(n, n->valuedouble + 1);
}

/* An answer that ended is edited and asked for again. */
static void ended(edit_fn *how, const char *more, bool comes_back)
{
    struct rig g;
    char id[33];

    make(&g);
    rig_up(&g);
    rig_id(id);
    answer_clear(&a);
    CHECK(rig_start(&g, id, ids, 300, more));
    CHECK(rig_read(&g, id, &a, UINT32_MAX));
    rig_down(&g, SIGTERM);
    CHECK(edit_store(&g, how, false, KVS_REQ_ENDED));
    rig_up(&g);
    answer_clear(&b);
    struct wire_reply r =
        rig_call(&g, HRT_START, ids, 300 * 4u,
                 "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\"%s}", id, more);
    bool ok = r.f.status == 0 && rig_read(&g, id, &b, UINT32_MAX);
    wire_reply_fini(&r);
    if (comes_back) {
        CHECK(ok);
        CHECK(same(&a, &b));
        CHECK_STR(wire_str(&b.last, "finish"), wire_str(&a.last, "finish"));
        CHECK_EQ(cJSON_GetObjectItem(b.last.json, "turn")->valuedouble,
                 cJSON_GetObjectItem(a.last.json, "turn")->valuedouble);
    } else {
        CHECK(!ok || b.n == 0);
    }
    rig_down(&g, SIGTERM);
    answer_clear(&a);
    answer_clear(&b);
}

#define SAYS ",\"session\":\"x\",\"params\":{\"temperature\":0,\"ignore_eos\":true"
static void an_answer_whose_end_was_lost_ends_where_it_did(void)
{
    char more[200], stop[3] = "";

    ended(not_ended, SAYS ",\"max_tokens\":40}", true);
    /* A stop string: something it says, made of letters. */
    ended(as_it_is, SAYS ",\"max_tokens\":60}", true);
    struct rig g;
    make(&g);
    rig_up(&g);
    rig_run(&g, ids, 300, SAYS ",\"max_tokens\":60}", &a);
    for (size_t i = 20; i + 2 < a.bytes && !stop[0]; i++)
        if (a.text[i] >= '0' && a.text[i] <= 'z' && a.text[i] != '\\' && a.text[i] != '"')
            stop[0] = a.text[i];
    rig_down(&g, SIGTERM);
    CHECK(stop[0] != 0);
    snprintf(more, sizeof more, SAYS ",\"max_tokens\":200,\"stop\":[\"%s\"]}", stop);
    ended(not_ended, more, true);
}
static void an_answer_with_fewer_tokens_than_it_said_is_not_handed_out(void)
{
    ended(as_it_is, SAYS ",\"max_tokens\":40}", true);
    ended(one_more, SAYS ",\"max_tokens\":40}", false);
}

static void an_answer_goes_on_when_nothing_has_changed(void)
{
    goes_on_not(as_it_is, false, NULL, 0, NULL);
}
static void an_answer_does_not_go_on_in_another_epoch(void)
{
    goes_on_not(other_epoch, false, NULL, 0, "epoch_changed");
}
static void an_answer_does_not_go_on_with_other_weights(void)
{
    goes_on_not(other_print, false, NULL, 0, "epoch_changed");
    goes_on_not(as_it_is, false, NULL, 1, "epoch_changed");
}
static void an_answer_does_not_go_on_with_another_tokenizer(void)
{
    goes_on_not(as_it_is, false, "llama-bpe", 0, "session_read_only");
}
static void an_answer_does_not_go_on_behind_tokens_that_are_not_its(void)
{
    goes_on_not(as_it_is, true, NULL, 0, "request");
}

#define ROW(f)                                                                                 \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(ROW(no_token_comes_before_its_beginning_is_durable),
       ROW(done_is_said_when_the_end_is_durable),
       ROW(a_stop_waits_for_what_was_asked_before_it),
       ROW(a_turn_that_cannot_be_written_is_said),
       ROW(blocks_that_do_not_reach_the_disk_are_said), ROW(blocks_are_waited_for),
       ROW(blocks_that_cannot_be_read_are_computed_again_and_said),
       ROW(blocks_that_another_is_loading_are_waited_for),
       ROW(blocks_are_kept_under_the_names_they_should_have),
       ROW(a_finished_block_takes_its_tokens_down),
       ROW(a_slow_answer_is_made_durable_as_time_goes_by),
       ROW(an_answer_whose_end_was_lost_ends_where_it_did),
       ROW(an_answer_with_fewer_tokens_than_it_said_is_not_handed_out),
       ROW(an_answer_goes_on_when_nothing_has_changed),
       ROW(an_answer_does_not_go_on_in_another_epoch),
       ROW(an_answer_does_not_go_on_with_other_weights),
       ROW(an_answer_does_not_go_on_with_another_tokenizer),
       ROW(an_answer_does_not_go_on_behind_tokens_that_are_not_its))
