/* modelfile.h - what a model file says about itself before it is loaded.
 *
 * Reads the GGUF's head only: enough to choose how much memory its KV pages get and to
 * refuse at once what cannot be loaded.  Any thread; no state. */
#ifndef DAEMON_MODELFILE_H
#define DAEMON_MODELFILE_H
#include "base/err.h"
#include "daemon/conf.h"
#include <cjson/cJSON.h>
#include <stdint.h>

struct gguf;
struct modelfile {
    uint64_t file_bytes, context;
    uint64_t weight_bytes; /* once laid out */
    uint64_t token_bytes;  /* KV of one token, f16 rows; 0: not a family that says */
};
struct dirent;
int modelfile_named(const struct dirent *e); /* like a model, and not hidden: for scandir */
/* Why a file of the models' directory cannot be one: 0, it may be; -1: it has just gone; errno. */
int modelfile_unreadable(const char *path);
const char *modelfile_why(int why); /* in words */
int modelfile_read(const char *path, struct modelfile *ret, struct errbuf *eb);
/* Are the files that c names there, and can they be models?  0, or words about the first that is
 * not.  A section whose name fits no file of the models' directory gets words in warn. */
int modelfile_check(const struct conf *c, struct errbuf *warn, struct errbuf *eb);

/* Bytes for KV pages: what the options say, else four contexts within a quarter of ram, but
 * one whole context whenever that is at most half of it. */
uint64_t modelfile_pages(const struct modelfile *f, const struct conf_model *o, uint64_t ram);
/* Refuses (-ENOMEM, the words have all numbers) a load that would not fit into `available`
 * bytes (0: not known) less those that are promised to others; *pages shrinks to one context
 * first. */
int modelfile_fits(const struct modelfile *f, const struct conf_model *o, uint64_t available,
                   uint64_t promised, uint64_t *pages, struct errbuf *eb);
uint64_t modelfile_need(const struct modelfile *f); /* bytes beside the pages */

/* The model's default sampling: the options, else the file's general.sampling.*, else
 * temperature 0.8, top_k 40, top_p 0.95, min_p 0.05, repeat_penalty 1.  NULL: no memory. */
cJSON *modelfile_sampling(const struct gguf *g, const struct conf_model *o);

#endif
