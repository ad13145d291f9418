/* call.h - one request from a peer, until it has its reply.
 *
 * link.c makes a call from a frame whose JSON has been parsed and checked for depth; the
 * operation's handler answers it with call_ok/call_fail at once or later (a long poll keeps
 * it).  The peer may go away in between: then c->gone is set, the handler's on_gone runs
 * (once), and the reply is thrown away.  Replying frees the call.  Loop thread only. */
#ifndef DAEMON_CALL_H
#define DAEMON_CALL_H
#include "base/err.h"
#include "proto.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct daemon;
struct model;
struct sess;
struct call {
    struct daemon *d;
    uint32_t uid; /* who asks: SO_PEERCRED of the link, or an API key behind it (ident.h) */
    uint8_t type; /* enum hrt_type */
    uint64_t frame_id;
    const cJSON *json; /* an object */
    const uint8_t *tail;
    uint32_t tail_bytes;
    bool gone;
    void (*on_gone)(struct call *c); /* set by a handler that keeps the call */
    void *user;
    uint64_t arrived_ns;
    /* link.c's own */
    void *link;
    struct call *next, *prev;
};

/* Takes reply (cJSON_Delete); NULL is {}.  tail is copied. */
void call_ok(struct call *c, cJSON *reply, const void *tail, size_t tail_bytes);
/* status, slug and one sentence; extra (taken, may be NULL) holds numbers that matter. */
__attribute__((format(printf, 5, 6))) void call_fail(struct call *c, uint32_t status,
                                                     const char *slug, cJSON *extra,
                                                     const char *fmt, ...);

/* --- reading members: 0 absent (ret untouched), 1 present, < 0 the call has been failed
 * with bad_field, naming the member.  path is the dotted name for the message; the lookup
 * uses its last part in obj. */
int want_str(struct call *c, const cJSON *obj, const char *path, size_t bytes_max,
             const char **ret);
int want_u64(struct call *c, const cJSON *obj, const char *path, uint64_t min, uint64_t max,
             uint64_t *ret);
int want_num(struct call *c, const cJSON *obj, const char *path, double min, double max,
             bool min_open, double *ret);
int want_bool(struct call *c, const cJSON *obj, const char *path, bool *ret);
int want_hex(struct call *c, const cJSON *obj, const char *path, uint8_t *ret, size_t bytes);
int want_obj(struct call *c, const cJSON *obj, const char *path, const cJSON **ret);
int want_arr(struct call *c, const cJSON *obj, const char *path, const cJSON **ret);
/* A front says with `as` whose of its users' request this is: c->uid becomes his.  false: the
 * call has been failed. */
bool call_as(struct call *c);
void hex_put(char *ret, const uint8_t *b, size_t n); /* 2n digits, terminated */

/* One row per operation; ops_find returns NULL for an unknown type. */
struct op {
    uint8_t type;
    const char *name;
    void (*run)(struct call *c);
};
const struct op *ops_find(uint8_t type);
/* Handlers, by file: ops_core.c (HELLO PING STATUS METRICS EXPORT IMPORT PREFETCH WHY EVENTS),
 * ops_model.c (MODEL_*), ops_list.c (SESSION_LIST SESSION_SHOW), ops_session.c (other SESSION_*),
 * ops_text.c (TOKENIZE DETOKENIZE COUNT), ops_stream.c (START NEXT CANCEL). */
void op_hello(struct call *c);
void op_ping(struct call *c);
void op_status(struct call *c);
void op_metrics(struct call *c);
void op_unimplemented(struct call *c);
/* The model that the request's member `model` names; NULL: the call has been failed. */
struct model *op_model(struct call *c);
/* The session that `session` names; NULL: the call has been failed. */
struct sess *op_session(struct call *c);
void op_model_list(struct call *c);
void op_model_show(struct call *c);
void op_model_load(struct call *c);
void op_model_unload(struct call *c);
void op_session_open(struct call *c);
void op_session_list(struct call *c);
void op_session_show(struct call *c);
void op_session_fork(struct call *c);
void op_session_rewind(struct call *c);
void op_session_rename(struct call *c);
void op_session_pin(struct call *c);
void op_session_remove(struct call *c);
void ops_session_hold(struct daemon *d); /* branches that changes under way may go back to */
void op_tokenize(struct call *c);
void op_detokenize(struct call *c);
void op_count(struct call *c);
void op_start(struct call *c);
void op_next(struct call *c);
void op_cancel(struct call *c);

#endif
