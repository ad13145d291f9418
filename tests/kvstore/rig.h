/* rig.h - what the store's tests share: a directory, a store with or without threads, blocks
 * with known bytes, waiting calls. */
#ifndef TESTS_KVSTORE_RIG_H
#define TESTS_KVSTORE_RIG_H
#include "kvstore/env.h"
#include "kvstore/kvstore.h"
#include <pthread.h>
#include <stdatomic.h>

enum { RIG_HOT = 8192, RIG_COLD = 4096, RIG_SLOT = 4096 + RIG_HOT + RIG_COLD };

struct rig {
    char dir[256];
    struct kvs_opts o;
    struct kvs_env env;
    struct kvs_open_report rep;
    struct errbuf eb;
    struct kvstore *s;
    uint32_t layout;
    bool threads; /* false: whoever waits turns the three parts itself */
    pthread_t io, commit;
    _Atomic bool stop;
    uint64_t since_ns; /* the wait goes on without anything done; 0: no wait */
};

/* A fresh directory under $TMPDIR or /tmp; on memory when `fast`. */
void rig_init(struct rig *g, enum kvs_io io, bool fast);
void rig_fini(struct rig *g); /* closes when open, removes the directory */
int rig_open(struct rig *g);  /* kvs_open_env's answer; makes layout "test" known */
void rig_close(struct rig *g);
void rig_rest(struct rig *g); /* waits, and ends the threads: it stays open, for looks at it */
void rig_reopen(struct rig *g);
void rig_no_index(const struct rig *g); /* it is closed: only the log is left */
/* Until everything accepted is done. */
void rig_wait(struct rig *g);
void rig_turn(struct rig *g); /* one turn of each part, without waiting */

/* Block n of a chain: its key, parent, ids and payload follow from (seed, n). */
struct rig_block {
    struct kvs_block_req r;
    uint64_t seed;
    uint32_t n;
    bool done, wrong; /* wrong: a get handed over other bytes */
    int calls;
};
void rig_block_set(struct rig *g, struct rig_block *b, uint64_t seed, uint32_t n);
void rig_payload(uint64_t seed, uint32_t n, uint8_t *ret, uint64_t bytes);
int rig_put(struct rig *g, uint64_t seed, uint32_t n); /* waits; the request's res */
int rig_get(struct rig *g, uint64_t seed, uint32_t n, struct kvs_block_req *ret);
void rig_submit(struct rig *g, struct rig_block *b, bool put); /* retries -EAGAIN by turning */

/* Batches. */
struct kvs_id rig_id(uint64_t seed, uint64_t n);
int rig_batch(struct rig *g, const struct kvs_rec *rec, uint32_t n); /* waits */
void rig_session(struct kvs_session *s, uint64_t seed, uint64_t n, const char *name);
int32_t rig_token(uint64_t seed, uint64_t pos);
/* Makes a branch (root) and session, and appends n tokens in one batch. */
int rig_talk(struct rig *g, uint64_t seed, uint64_t from, uint64_t to);
/* Whether tokens [0, to) of branch `seed` are what rig_talk wrote. */
bool rig_tokens_ok(struct rig *g, uint64_t seed, uint64_t to);

/* Whether the word is in the path that the descriptor leads to. */
bool rig_leads(int fd, const char *word);
/* A hook's event that is about to write to a checkpoint of the log, and not a new file of the log,
 * which is written from its beginning on. */
bool rig_is_ckpt(const struct sys_event *e);
/* A checkpoint is under way. */
bool rig_compacting(const struct rig *g);

uint64_t rig_rand(uint64_t *state);
int rig_rm(const char *dir);
int rig_cp(const char *from, const char *to);

#endif
