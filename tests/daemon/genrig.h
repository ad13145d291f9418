/* genrig.h - the real daemon on a tiny model: start it, kill it, ask it, compare answers. */
#ifndef TESTS_DAEMON_GENRIG_H
#define TESTS_DAEMON_GENRIG_H
#include "base/clock.h"
#include "kvstore/key.h"
#include "tests/daemon/wire.h"
#include "tests/engine/mkgguf.h"
#include "tests/t.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct rig {
    char base[128], core[200], logf[200], model[200];
    const char *flags;                  /* more of them, blank-separated */
    const char *name;                   /* what the model is called; NULL: m */
    int (*main)(int argc, char **argv); /* the program, when it is part of the test */
    pid_t pid;
    int fd;
    uint64_t n_calls;
};
struct answer { /* all records of a stream, and its last reply */
    int32_t id[4096];
    float lp[4096];
    struct {
        int32_t id[4];
        double lp[4];
        uint32_t n;
    } top[4096];
    uint32_t n, n_top; /* records; how many of them came with alternatives */
    char text[65536];
    size_t bytes;
    struct wire_reply last;
};

/* Another model in the place of the rig's. */
__attribute__((unused)) static void rig_model(struct rig *g, const struct mk *m)
{
    FILE *f = fopen(g->model, "wb");

    if (!f || fwrite(m->p, 1, m->n, f) != m->n || fclose(f) != 0)
        t_fail(__FILE__, __LINE__, "cannot write %s", g->model);
}
/* The model it begins with. */
static struct mk_llama rig_tiny(uint32_t ctx)
{
    return (struct mk_llama){.layers = 2,
                             .embd = 96,
                             .ff = 96,
                             .head = 4,
                             .kv = 2,
                             .dim = 16,
                             .ctx = ctx,
                             .type = K_Q4_1,
                             .tied = true,
                             .seed = 7};
}
static void rig_make_ctx(struct rig *g, const char *flags, uint32_t ctx)
{
    const struct mk_llama tiny = rig_tiny(ctx);
    static int n;
    struct mk m = {0};

    memset(g, 0, sizeof *g);
    g->fd = -1;
    g->flags = flags;
    snprintf(g->base, sizeof g->base, "%s/%d", t_tmpdir(), ++n);
    mkdir(g->base, 0700);
    snprintf(g->core, sizeof g->core, "%s/run/core.sock", g->base);
    snprintf(g->logf, sizeof g->logf, "%s/log", g->base);
    snprintf(g->model, sizeof g->model, "%s/tiny.gguf", g->base);
    mk_llama(&m, &tiny);
    rig_model(g, &m);
    free(m.p);
}
__attribute__((unused)) static void rig_make(struct rig *g, const char *flags)
{
    rig_make_ctx(g, flags, 2048);
}
static void rig_up(struct rig *g)
{
    char program[512], buf[1024], *argv[64];
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;
    int argc = 0;

    snprintf(program, sizeof program, "%s/hearthd", t_bin());
    if (!g->main && access(program, X_OK) < 0)
        t_skip("the program hearthd is not built");
    snprintf(buf, sizeof buf,
             "--state %s/state --runtime %s/run --models %s/none --model %s=%s --no-front "
             "--disk 1GiB --host-memory 64MiB --threads 1 --http off %s",
             g->base, g->base, g->base, g->name ? g->name : "m", g->model,
             g->flags ? g->flags : "");
    argv[argc++] = program;
    for (char *p = strtok(buf, " "); p; p = strtok(NULL, " "))
        argv[argc++] = p;
    argv[argc] = NULL;
    fflush(NULL);
    do {
        int st;

        g->pid = fork();
        if (g->pid == 0) {
            int out = open(g->logf, O_WRONLY | O_CREAT | O_APPEND, 0600);

            dup2(out, 1);
            dup2(out, 2);
            unsetenv("HEARTH_CONFIG");
            setenv("HOME", g->base, 1);
            if (g->main)
                exit(g->main(argc, argv));
            execv(program, argv);
            _exit(127);
        }
        while ((g->fd = wire_connect(g->core)) < 0 && now_ns() < until &&
               waitpid(g->pid, &st, WNOHANG) != g->pid)
            usleep(1000);
    } while (g->fd < 0 && now_ns() < until); /* the one killed may still be dying */
    if (g->fd < 0)
        t_fail(__FILE__, __LINE__, "the daemon does not come up, see %s", g->logf);
}
static void rig_down(struct rig *g, int sig)
{
    int st = -1;

    if (g->fd >= 0)
        close(g->fd);
    g->fd = -1;
    kill(g->pid, sig);
    waitpid(g->pid, &st, 0);
    /* Told to end it ends well, also as the sanitizers see it. */
    if (sig == SIGTERM && !(WIFEXITED(st) && WEXITSTATUS(st) == 0)) {
        char cmd[300];

        t_fail(__FILE__, __LINE__, "the daemon ended with %#x", st);
        snprintf(cmd, sizeof cmd, "tail -40 %s", g->logf);
        (void)!system(cmd);
    }
}
static void answer_clear(struct answer *a)
{
    wire_reply_fini(&a->last);
    memset(a, 0, sizeof *a);
}
static struct wire_reply rig_call(struct rig *g, uint8_t type, const void *tail, size_t n,
                                  const char *fmt, ...) __attribute__((format(printf, 5, 6)));
static struct wire_reply rig_call(struct rig *g, uint8_t type, const void *tail, size_t n,
                                  const char *fmt, ...)
{
    struct wire_reply r = {0};
    char json[16384];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(json, sizeof json, fmt, ap);
    va_end(ap);
    if (!wire_send(g->fd, type, ++g->n_calls, json, tail, n) || !wire_recv(g->fd, &r))
        t_fail(__FILE__, __LINE__, "no reply to %u %s, see %s", type, json, g->logf);
    return r;
}
static void rig_id(char ret[33])
{
    struct kvs_id id;

    kvs_id_new(&id);
    for (int i = 0; i < 16; i++)
        snprintf(ret + 2 * i, 3, "%02x", id.b[i]);
}
static void answer_tops(struct answer *a, const cJSON *reply)
{
    const cJSON *e, *x;

    cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(reply, "logprobs"))
    {
        uint32_t n = 0;

        CHECK_EQ(cJSON_GetObjectItem(e, "index")->valuedouble, a->n_top);
        cJSON_ArrayForEach(x, cJSON_GetObjectItem(e, "top"))
        {
            CHECK(n < 4);
            a->top[a->n_top].id[n] = (int32_t)cJSON_GetObjectItem(x, "id")->valuedouble;
            a->top[a->n_top].lp[n++] = cJSON_GetObjectItem(x, "logprob")->valuedouble;
        }
        a->top[a->n_top++].n = n;
    }
}
/* Reads on from what a has; until: stops when so many records are there. */
static bool rig_read(struct rig *g, const char *id, struct answer *a, uint32_t until)
{
    for (;;) {
        struct wire_reply r =
            rig_call(g, HRT_NEXT, NULL, 0,
                     "{\"stream\":\"%s\",\"cursor\":%u,\"max_wait_ms\":5000}", id, a->n);

        if (!r.json || r.f.status) {
            wire_reply_fini(&a->last);
            a->last = r;
            return false;
        }
        for (uint32_t at = 0; at + HRT_REC_BYTES <= r.f.tail_len;) {
            uint32_t len = ld16(r.tail + at + 12);

            CHECK_EQ(ld32(r.tail + at), a->n);
            a->id[a->n] = (int32_t)ld32(r.tail + at + 4);
            memcpy(&a->lp[a->n++], r.tail + at + 8, 4);
            memcpy(a->text + a->bytes, r.tail + at + HRT_REC_BYTES, len);
            a->bytes += len;
            at += HRT_REC_BYTES + len;
        }
        answer_tops(a, r.json);
        bool done = strcmp(wire_str(&r, "state"), "done") == 0;
        wire_reply_fini(&a->last);
        a->last = r;
        if (done || a->n >= until)
            return done;
    }
}
/* START with raw ids and everything else in more (JSON members, comma first). */
static bool rig_start(struct rig *g, const char *id, const int32_t *ids, uint32_t n,
                      const char *more)
{
    struct wire_reply r =
        rig_call(g, HRT_START, ids, n * 4u,
                 "{\"id\":\"%s\",\"model\":\"m\",\"input\":\"tokens\"%s}", id, more);
    bool ok = r.json && r.f.status == 0;

    if (!ok)
        t_fail(__FILE__, __LINE__, "START %s: %s", more, wire_str(&r, "message"));
    wire_reply_fini(&r);
    return ok;
}
__attribute__((unused)) static void rig_run(struct rig *g, const int32_t *ids, uint32_t n,
                                            const char *more, struct answer *a)
{
    char id[33];

    rig_id(id);
    answer_clear(a);
    if (rig_start(g, id, ids, n, more))
        (void)rig_read(g, id, a, UINT32_MAX);
    CHECK_STR(wire_str(&a->last, "state"), "done");
}
/* Token for token and bit for bit. */
__attribute__((unused)) static bool same(const struct answer *a, const struct answer *b)
{
    if (a->n_top != b->n_top || memcmp(a->top, b->top, a->n_top * sizeof *a->top) != 0) {
        printf("    other alternatives: of %u and %u tokens\n", a->n_top, b->n_top);
        return false;
    }
    if (a->n == b->n && memcmp(a->id, b->id, a->n * 4) == 0 &&
        memcmp(a->lp, b->lp, a->n * 4) == 0 && a->bytes == b->bytes &&
        memcmp(a->text, b->text, a->bytes) == 0)
        return true;
    for (uint32_t i = 0; i < a->n && i < b->n; i++)
        if (a->id[i] != b->id[i] || memcmp(&a->lp[i], &b->lp[i], 4) != 0) {
            printf("    differs at %u of %u and %u: %d %.9g, %d %.9g\n", i, a->n, b->n,
                   a->id[i], (double)a->lp[i], b->id[i], (double)b->lp[i]);
            break;
        }
    return false;
}
__attribute__((unused)) static double usage(const struct answer *a, const char *obj,
                                            const char *name)
{
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(a->last.json, obj);
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    return cJSON_IsNumber(v) ? v->valuedouble : -1;
}
__attribute__((unused)) static void some_ids(int32_t *ret, uint32_t n, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++)
        ret[i] = (int32_t)(mk_next(&seed) % 256);
}

#endif
