/* kvflow.h - device pages: where the engine's KV and the store's blocks meet.
 *
 * For each loaded model a book of device pages.  A page holds the rows of one block: which
 * is known by the chain key before the block and the ids of the rows in it, so a page is
 * found by what is wanted of it, whole (then it is shared, and never written again) or in
 * part (then its rows are copied, or the page is taken over when nobody else has it).
 * Pages nobody names stay until their memory is needed, leaves first.
 *
 * A finished block goes down to the store while the next step runs (write-behind); a page
 * is not given away before that.  What a sequence lacks is fetched from the store; what the
 * store lacks, or hands out damaged, is left as a gap for the engine to compute again.
 * When a model goes (the daemon stops, it is unloaded) the rows of unfinished blocks that
 * sessions rest in go down, too, under the key of as many ids, also where another has gone on
 * in the same page; so do those that an answer has come to when the daemon stops.  What is so
 * stored is taken up once, and forgotten.
 *
 * Until the model's weights are hashed (model.keyed) pages are found only in the book, under
 * a root made up for this load; nothing is stored or fetched.  Afterwards the pages are
 * renamed and go down.  Loop thread only, except the two copies the store makes on its io
 * thread.  Pages of a running step are pinned by their sequence. */
#ifndef DAEMON_KVFLOW_H
#define DAEMON_KVFLOW_H
#include "base/bounds.h"
#include "base/err.h"
#include "engine/kvlayout.h"
#include "kvstore/key.h"
#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct kvf;
struct kvf_page;
struct model;
struct toks;

/* --- by whoever loads and unloads models (model.c) ---------------------------------------- */
/* Right after the model became MODEL_LOADED (m->eng set), before anybody is told; m->kv. */
int kvflow_model_open(struct daemon *d, struct model *m);
/* m->keyed became true: pages are renamed, finished blocks start going down. */
void kvflow_model_keyed(struct daemon *d, struct model *m);
/* Before engd_close: true when no copy between pages and store is queued or under way.  The
 * first call sends unfinished blocks down and stops others from being queued; poll until true (blocks under way are short). */
bool kvflow_model_idle(struct model *m);
/* After engd_close.  Frees the books; nothing may be in flight in the store for this model
 * (kvflow_model_idle was true, or the store's threads are stopped).  m->kv NULL: nothing. */
void kvflow_model_close(struct model *m);

struct kvflow_usage {
    uint64_t used_bytes, limit_bytes; /* device pages holding rows, and all */
    uint32_t pages, pages_used, pages_pinned;
    uint32_t dirty;   /* finished blocks not yet in the store */
    uint64_t corrupt; /* blocks that came back damaged and are computed again */
};
/* Why finished blocks of this model do not reach the disk now; 0: they do. */
int kvflow_fault(const struct model *m);
/* Of one model, or of all (m NULL). */
void kvflow_usage(struct daemon *d, const struct model *m, struct kvflow_usage *ret);
/* How many blocks of this path are where; a block may be in several places.  Of a model that
 * is not loaded: by what its last load was (known_block_bytes is 0: nothing is known). */
struct kvflow_places {
    uint32_t device, host, file;
};
void kvflow_path(struct daemon *d, struct model *m, uint32_t uid, const int32_t *ids,
                 uint64_t n, struct kvflow_places *ret);
/* The blocks [from, n) of this path, and what an unfinished one holds of rows up to rest (in
 * block n at the most), are needed by nobody: the store may have their room.  Those of them that
 * have not got there yet do not, or not for long. */
void kvflow_forget(struct daemon *d, struct model *m, uint32_t uid, const int32_t *ids,
                   uint32_t from, uint32_t n, uint64_t rest);
uint64_t kvflow_block_bytes(const struct model *m); /* one block's payload */

/* --- one running sequence ------------------------------------------------------------------- */
struct kvf_seq { /* caller's memory; zeroed before open */
    struct kvf *f;
    uint32_t uid;
    /* Rows that were there when the session last came to rest, or a stop cut its answer: those of
     * them in an unfinished block may have gone down with the model (kvflow_model_idle).  0: none. */
    uint64_t rest;
    const struct toks *toks; /* the caller keeps it pointing at the sequence's tokens */
    struct kvs_key *key;     /* key[b]: the chain before block b; n_key of them */
    struct kvf_page **page;
    uint32_t *table[KV_PART_];
    uint32_t n_key, n_blocks, cap; /* n_blocks: entries in page and table */
    uint32_t loading;              /* pages under way from the store */
    bool attached;
    uint64_t from_device, from_host, from_file; /* tokens found, by where */
    uint32_t corrupt, lost; /* blocks damaged, or promised and not there; computed again */
    struct kvf_seq *next, *prev;
};
/* toks are the sequence's; they may grow while it is open. */
int kvf_open(struct kvf_seq *q, struct model *m, uint32_t uid, const struct toks *toks);
/* Looks at what is there for rows [0, want) and takes nothing: tokens from the front that are
 * on the device or in the store. */
uint64_t kvf_probe(struct kvf_seq *q, uint64_t want);
/* Takes pages for what exists of rows [0, want) and starts fetching.  Not while a step of
 * this model runs.  -EAGAIN: not enough pages can be had now (nothing is held then);
 * -ENOMEM. */
int kvf_attach(struct kvf_seq *q, uint64_t want);
/* The first row in [0, want) that must be computed, and the end of that gap (ret_to <= want).
 * false: all rows are there.  Meaningless while q->loading. */
bool kvf_gap(const struct kvf_seq *q, uint64_t want, uint64_t *ret_from, uint64_t *ret_to);
/* Makes pages for rows [pos, pos + n); -EAGAIN: no page (those made are kept). */
int kvf_prepare(struct kvf_seq *q, uint64_t pos, uint32_t n);
/* These rows were computed by a step that succeeded.  Finished blocks become shared and go
 * down.  Returns how many blocks were finished. */
uint32_t kvf_computed(struct kvf_seq *q, uint64_t pos, uint32_t n);
/* Lets go of all pages (they stay in the book).  Not while a step names them. */
void kvf_detach(struct kvf_seq *q);
void kvf_close(struct kvf_seq *q); /* detaches; frees what q holds; zeroed or closed: nothing */
uint32_t kvf_pages_free(const struct model *m); /* free, or can be had at once */
uint32_t kvf_pages(const struct model *m);

#endif
