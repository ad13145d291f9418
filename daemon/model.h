/* model.h - the table of models: known by name, loaded on demand, one engine each.
 *
 * Found in --models and named by --model; loading happens on the model's engine thread
 * (engd.h).  The weights id (hash of every byte) is computed in the background at first
 * load and remembered in the store by device, inode, size, mtime and ctime; until it is
 * known nothing of the model's KV is reused or stored (model.keyed is false).  Loop thread
 * only; `eng` may be used from any thread as engine.h allows while state is MODEL_LOADED. */
#ifndef DAEMON_MODEL_H
#define DAEMON_MODEL_H
#include "base/bounds.h"
#include "base/err.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct eng_info;
struct engd;
struct engine;

enum model_state {
    MODEL_AVAILABLE,
    MODEL_LOADING,
    MODEL_LOADED,
    MODEL_UNLOADING,
    MODEL_FAILED
};
struct model {
    uint32_t index; /* in the table; another's once it is gone and nobody refers to it */
    char name[NAME_BYTES_MAX + 1];
    char *path;
    uint8_t state; /* enum model_state */
    char error[512];
    struct engd *engd;   /* its thread; NULL unless loading or loaded */
    struct engine *eng;  /* valid while MODEL_LOADED */
    bool gone;           /* its file was taken out of the directory: nobody is shown it */
    bool keyed;          /* weights_id, fingerprint, variant are those of what is loaded */
    bool compared;       /* and were compared with what the name stood for (swapped.h) */
    uint64_t loaded_ns;  /* wall clock of the last load */
    uint64_t swapped_ns; /* since then (wall clock) it is what is loaded now; 0: always */
    uint8_t weights_id[16], fingerprint[32];
    uint64_t variant;
    uint64_t known_block_bytes; /* 0: it was never keyed; stays when it is unloaded */
    uint32_t kvs_layout;        /* number from kvs_layout_add, valid while loaded */
    uint32_t users;             /* requests running or queued: never unloaded while > 0 */
    uint64_t used_ns;
    double keep_alive_s; /* -1: for ever */
    double load_done;    /* 0..1 while loading */
    uint64_t load_started_ns, load_ms;
    cJSON *sampling; /* the model's own defaults, or NULL */
    void *kv;        /* kvflow's books for this model; kvflow_model_open/close */
};

int models_open(struct daemon *d, struct errbuf *eb);
void models_start(
    struct daemon *d); /* starts loading what --model named; after everything else */
void models_close(struct daemon *d);
/* By name, by unique prefix of a name, or by path of a known file; name NULL or "": the
 * default (the first --model, else the only or first one found).  NULL: none; eb lists what
 * there is. */
struct model *model_find(struct daemon *d, const char *name, struct errbuf *eb);
bool model_is_default(struct daemon *d, const struct model *m);
struct model *model_at(struct daemon *d, uint32_t index); /* NULL past the end */
/* Looks at the models' directory again: what is new is known, what is gone is so. */
void models_look(struct daemon *d);
/* Starts loading when needed.  0: loaded now; -EAGAIN: under way, models_on_change callbacks
 * will say; other: failed, eb says (a failure is kept for ten seconds, or until the file
 * is another, before the next try). */
int model_want(struct daemon *d, struct model *m, struct errbuf *eb);
/* keyed will become true, or is not going to be. */
bool model_hashing(const struct model *m);
bool model_tried(const struct model *m); /* its file is the one the last load began with */
void model_forgive(struct model *m);     /* the next model_want tries at once */
void model_use(struct model *m);         /* users++ */
void model_unuse(struct model *m);       /* users--, used_ns = now */
int model_unload(struct daemon *d, struct model *m); /* 0, -EBUSY */
/* Calls fn on the loop thread whenever some model's state or keyed changes. */
void models_on_change(struct daemon *d, void (*fn)(struct daemon *d, struct model *m));
const struct eng_info *model_info(const struct model *m); /* of the last load; NULL: none yet */
static inline const char *model_state_str(const struct model *m)
{
    static const char *const word[] = {"available", "loading", "loaded", "unloading", "failed"};

    return word[m->state];
}
/* MODEL of docs/PROTOCOL.md, as uid may see it. */
cJSON *model_json(struct daemon *d, const struct model *m, uint32_t uid);

#endif
