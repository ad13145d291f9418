/* stream.c - see stream.h. */
#include "daemon/front/stream.h"
#include "base/clock.h"
#include "daemon/front/fjson.h"
#include <errno.h>
#include <stdlib.h>

enum {
    GSTREAM_MAGIC = 0x6d727467,
    NEXT_WAIT_MS = 10000,
    RETRY_MS = 200,
    RETRY_FOR_MS = 30000, /* as long as the link holds a request for a missing core */
    RESTARTS_MAX = 20, /* without a record in between: then it is not a restart, it is a bug */
    BATCH = 256,
};
enum gstate { GS_STARTING, GS_READING, GS_WAITING, GS_PAUSED, GS_ENDED };

struct gstream {
    uint32_t magic;
    struct corelink *core;
    const char *as;
    const struct gstream_ops *ops;
    void *user;
    char *start;
    char id[33];
    uint8_t state; /* enum gstate */
    bool admitted, paused, closed;
    int busy;    /* inside ops: closing waits */
    int64_t ask; /* open on the link; 0: none */
    uint64_t cursor;
    uint64_t retry_ns, trouble_ns; /* when to try again; since when there is trouble */
    uint32_t restarts;
};

static void on_start(void *user, const struct corelink_reply *r);
static void on_next(void *user, const struct corelink_reply *r);

static void gstream_free(struct gstream *g)
{
    g->magic = 0;
    free(g->start);
    free(g);
}

static void fail(struct gstream *g, const struct gstream_error *e)
{
    g->state = GS_ENDED;
    g->ops->failed(g->user, e);
}

static void fail_plain(struct gstream *g, uint32_t status, const char *slug, const char *words)
{
    fail(g, &(struct gstream_error){.status = status, .slug = slug, .message = words});
}

/* Into the future: what the tick does when the link has no room. */
static void wait_then(struct gstream *g, uint32_t ms)
{
    g->state = GS_WAITING;
    g->retry_ns = now_ns() + (uint64_t)ms * 1000000;
}

static void ask_start(struct gstream *g)
{
    g->state = GS_STARTING;
    g->ask = corelink_send_as(g->core, g->as, HRT_START, g->start, strlen(g->start), NULL, 0,
                              on_start, g);
    if (g->ask < 0) {
        g->ask = 0;
        wait_then(g, RETRY_MS);
    }
}

static void ask_next(struct gstream *g)
{
    if (g->paused) {
        g->state = GS_PAUSED;
        return;
    }
    char json[160];
    int n =
        snprintf(json, sizeof json, "{\"stream\":\"%s\",\"cursor\":%llu,\"max_wait_ms\":%d}",
                 g->id, (unsigned long long)g->cursor, NEXT_WAIT_MS);
    g->state = GS_READING;
    g->ask = corelink_send_as(g->core, g->as, HRT_NEXT, json, (size_t)n, NULL, 0, on_next, g);
    if (g->ask < 0) {
        g->ask = 0;
        wait_then(g, RETRY_MS);
    }
}

/* The core said no.  Its restart is not the client's business; everything else is. */
static void on_refusal(struct gstream *g, const struct corelink_reply *r, bool next)
{
    cJSON *o = front_reply(r->json, r->json_len);
    const char *slug = front_str(o, "slug", "internal");
    double after = front_num(o, "retry_after_ms", 0);
    uint64_t now = now_ns();
    bool again = false;
    if (next && r->status == HRT_NOT_FOUND && strcmp(slug, "stream_expired") != 0)
        again = g->restarts++ < RESTARTS_MAX;
    else if (r->status == HRT_UNAVAILABLE && strcmp(slug, "core_unavailable") != 0)
        again = true;
    else if (r->status == HRT_RESOURCE_EXHAUSTED && g->admitted)
        again = true;
    if (!g->trouble_ns)
        g->trouble_ns = now;
    if (again && now - g->trouble_ns < RETRY_FOR_MS * 1000000ull) {
        if (next && r->status == HRT_NOT_FOUND && g->restarts <= 1)
            ask_start(g);
        else
            wait_then(g, after >= 10 && after < 5000 ? (uint32_t)after : RETRY_MS);
    } else {
        struct gstream_error e = {.status = r->status,
                                  .slug = slug,
                                  .message = front_str(o, "message", hrt_status_str(r->status)),
                                  .retry_after_ms =
                                      after > 0 && after < 3.6e6 ? (uint32_t)after : 0,
                                  .json = o};
        fail(g, &e);
    }
    cJSON_Delete(o);
}

static void leave(struct gstream *g)
{
    if (--g->busy == 0 && g->closed)
        gstream_free(g);
}

static void on_start(void *user, const struct corelink_reply *r)
{
    struct gstream *g = user;
    must_be(g, GSTREAM_MAGIC);
    g->ask = 0;
    g->busy++;
    if (r->status != HRT_OK) {
        on_refusal(g, r, false);
    } else {
        if (!g->admitted) {
            cJSON *o = front_reply(r->json, r->json_len);
            g->admitted = true;
            g->ops->admitted(g->user, o);
            cJSON_Delete(o);
        }
        if (!g->closed)
            ask_next(g);
    }
    leave(g);
}

/* Records of the tail from the cursor on, in batches; false: it is not a run of records. */
static bool hand_out(struct gstream *g, const uint8_t *p, size_t n, const cJSON *reply,
                     size_t *ret_count)
{
    struct gstream_rec rec[BATCH];
    size_t k = 0, count = 0;
    while (n && !g->closed) {
        if (n < HRT_REC_BYTES || ld16(p + 12) > n - HRT_REC_BYTES)
            return false;
        struct gstream_rec r = {.index = ld32(p),
                                .token = (int32_t)ld32(p + 4),
                                .len = ld16(p + 12),
                                .kind = p[14],
                                .text = (const char *)p + HRT_REC_BYTES};
        memcpy(&r.logprob, p + 8, 4);
        p += HRT_REC_BYTES + r.len;
        n -= (size_t)HRT_REC_BYTES + r.len;
        if (r.index < g->cursor)
            continue; /* handed out before the core restarted */
        if (!front_utf8_ok(r.text, r.len))
            return false;
        g->cursor = (uint64_t)r.index + 1;
        rec[k++] = r;
        count++;
        if (k == BATCH || n == 0) {
            g->ops->records(g->user, rec, k, reply);
            k = 0;
        }
    }
    if (k && !g->closed)
        g->ops->records(g->user, rec, k, reply);
    *ret_count = count;
    return true;
}

static void on_next(void *user, const struct corelink_reply *r)
{
    struct gstream *g = user;
    must_be(g, GSTREAM_MAGIC);
    g->ask = 0;
    g->busy++;
    cJSON *o = NULL;
    size_t count = 0;
    if (r->status != HRT_OK) {
        on_refusal(g, r, true);
    } else if (!(o = front_reply(r->json, r->json_len)) ||
               !hand_out(g, r->tail, r->tail_len, o, &count)) {
        if (!g->closed)
            fail_plain(g, HRT_INTERNAL, "internal", "hearthd sent a reply that cannot be read");
    } else if (!g->closed) {
        const char *state = front_str(o, "state", "");
        g->trouble_ns = 0;
        if (count)
            g->restarts = 0;
        else
            g->ops->waiting(g->user, o);
        const cJSON *err = cJSON_GetObjectItemCaseSensitive(o, "error");
        if (g->closed) {
            ; /* waiting() closed it */
        } else if (strcmp(state, "done") != 0) {
            ask_next(g);
        } else if (strcmp(front_str(o, "finish", ""), "error") == 0 || cJSON_IsObject(err)) {
            uint32_t status = HRT_INTERNAL;
            for (uint32_t s = 0; s <= HRT_UNAUTHENTICATED; s++)
                if (strcmp(hrt_status_str(s), front_str(err, "status", "INTERNAL")) == 0)
                    status = s;
            fail(g, &(struct gstream_error){
                        .status = status,
                        .slug = front_str(err, "slug", "internal"),
                        .message = front_str(err, "message", "the generation failed"),
                        .json = err});
        } else if (strcmp(front_str(o, "finish", ""), "cancelled") == 0) {
            /* This client has not left, which would end it as well: no dialect has a way to end
             * that says so but an error. */
            fail(g, &(struct gstream_error){
                        .status = HRT_CANCELLED,
                        .slug = "cancelled",
                        .message =
                            "the answer was cancelled before its end (`hearth cancel`, or "
                            "nobody read it for a minute); what there is of it stays in the "
                            "session"});
        } else {
            g->state = GS_ENDED;
            g->ops->done(g->user, o);
        }
    }
    cJSON_Delete(o);
    leave(g);
}

int gstream_open(struct gstream **ret, struct corelink *core, const char *as, char *start,
                 const char *id, const struct gstream_ops *ops, void *user)
{
    struct gstream *g = calloc(1, sizeof *g);
    if (!g) {
        free(start);
        return -ENOMEM;
    }
    *g = (struct gstream){.core = core, .as = as, .ops = ops, .user = user, .start = start};
    snprintf(g->id, sizeof g->id, "%s", id);
    g->state = GS_STARTING;
    g->ask = corelink_send_as(core, as, HRT_START, start, strlen(start), NULL, 0, on_start, g);
    if (g->ask < 0) {
        int r = (int)g->ask;
        gstream_free(g);
        return r;
    }
    g->magic = GSTREAM_MAGIC;
    *ret = g;
    return 0;
}

static void ignore(void *user, const struct corelink_reply *r)
{
    (void)user;
    (void)r;
}

void gstream_close(struct gstream *g)
{
    if (!g)
        return;
    must_be(g, GSTREAM_MAGIC);
    /* Is there nothing to cancel, for START has not gone out? */
    bool unsent =
        g->ask && corelink_forget(g->core, g->ask) && g->state == GS_STARTING && !g->admitted;
    g->ask = 0;
    /* A core that is away goes on with nothing that nobody asks it for. */
    if (g->state != GS_ENDED && corelink_up(g->core) && !unsent) {
        char json[64];
        int n = snprintf(json, sizeof json, "{\"stream\":\"%s\"}", g->id);
        (void)corelink_send_as(g->core, g->as, HRT_CANCEL, json, (size_t)n, NULL, 0, ignore,
                               NULL);
    }
    g->state = GS_ENDED;
    g->closed = true;
    if (!g->busy)
        gstream_free(g);
}

void gstream_pause(struct gstream *g, bool paused)
{
    must_be(g, GSTREAM_MAGIC);
    g->paused = paused;
    if (!paused && g->state == GS_PAUSED)
        ask_next(g);
}

void gstream_tick(struct gstream *g)
{
    must_be(g, GSTREAM_MAGIC);
    if (g->state != GS_WAITING || now_ns() < g->retry_ns)
        return;
    g->busy++;
    /* START again is right whatever happened: the same id attaches to the same stream. */
    ask_start(g);
    leave(g);
}

bool gstream_admitted(const struct gstream *g)
{
    return g->admitted;
}
