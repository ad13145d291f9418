/* stream.h - one generation on behalf of a client that cannot pull: START, then NEXT until done.
 *
 * Survives the core: after a restart it sends the same START again (same id, so the same
 * answer) and goes on from its cursor, so that the dialect above sees one seamless stream.
 * Driven by the link's replies and by gstream_tick(); same thread as the link. */
#ifndef FRONT_STREAM_H
#define FRONT_STREAM_H
#include "daemon/front/corelink.h"
#include <cjson/cJSON.h>

struct gstream;

struct gstream_rec { /* one token record of proto.h */
    uint32_t index;
    int32_t token;
    float logprob;
    uint8_t kind;
    uint16_t len;
    const char *text;
};
/* What ended a stream that did not finish. */
struct gstream_error {
    uint32_t status;
    const char *slug, *message;
    uint32_t retry_after_ms;
    const cJSON *json; /* all members, or NULL */
};
struct gstream_ops {
    /* START was accepted; its reply.  Once. */
    void (*admitted)(void *user, const cJSON *reply);
    /* Records in order, each index once; reply: the NEXT reply they came with. */
    void (*records)(void *user, const struct gstream_rec *r, size_t n, const cJSON *reply);
    /* A NEXT reply without records: state and progress. */
    void (*waiting)(void *user, const cJSON *reply);
    /* Exactly one of these ends it; the gstream is to be closed then (within the call, too). */
    void (*done)(void *user, const cJSON *reply);
    void (*failed)(void *user, const struct gstream_error *e);
};

/* start: START's JSON, taken (malloc'd); id: its 32 hex digits; as: for whom, outlives the
 * stream (NULL: our own user). 0; -EAGAIN: too much is open. */
int gstream_open(struct gstream **ret, struct corelink *core, const char *as, char *start,
                 const char *id, const struct gstream_ops *ops, void *user);
/* Frees; when it has not ended, a core that is there is told to CANCEL (what is there is kept).
 * NULL ok. */
void gstream_close(struct gstream *g);
/* paused: the reader is slow, ask for no more; false again lets it go on. */
void gstream_pause(struct gstream *g, bool paused);
void gstream_tick(struct gstream *g);
bool gstream_admitted(const struct gstream *g);

#endif
