/* kvbook.h - the book of device pages, as kvflow.c and kvmove.c share it.  See kvflow.h. */
#ifndef DAEMON_KVBOOK_H
#define DAEMON_KVBOOK_H
#include "daemon/kvflow.h"
#include "kvstore/kvstore.h"

struct engine;

enum kvf_load { LOAD_NONE, LOAD_WAIT, LOAD_OUT };                 /* on its way up */
enum kvf_put { PUT_NO, PUT_WAIT, PUT_OUT, PUT_DONE, PUT_FAILED }; /* on its way down */

struct kvf_page {
    uint32_t index[KV_PART_]; /* the engine's */
    struct kvs_key prev, key; /* chain before, and after when n is BLOCK_TOKENS */
    int32_t ids[BLOCK_TOKENS];
    uint32_t n;    /* rows that hold what ids says */
    uint32_t part; /* of an unfinished block on its way up: how many rows; 0: all */
    uint32_t uid;
    uint64_t first_pos;
    uint32_t refs;     /* sequences that name it, and: */
    uint32_t tails;    /* unfinished blocks on their way down from it */
    uint8_t load, put; /* enum kvf_load, kvf_put */
    bool live;         /* has engine pages and stands in the hash */
    bool writer;       /* one sequence adds rows to it */
    bool idle;         /* in the list of pages nobody names */
    bool forget;       /* needed by nobody; on its way down, and not to stay there */
    struct kvf_page *hash_next;
    struct kvf_page *next, *prev_idle; /* idle list, or next alone: the free list */
    struct kvf_page *wait_next;        /* load or put queue */
};

/* One transfer between a page and the store. */
struct kvf_io {
    struct kvs_block_req req;
    struct kvf *f;
    struct kvf_page *page;
    bool busy;
};
enum { KVF_IO_MAX = 16, KVF_PUTS_MAX = 6, KVF_TAILS_MAX = 256 };
/* Rows worth copying, or storing, rather than computing: a copy moves the whole page. */
enum { COPY_ROWS_MIN = 8 };

struct kvf_queue {
    struct kvf_page *head, **tail;
    uint32_t n;
};

struct kvf {
    struct daemon *d;
    struct model *m;
    struct engine *eng;
    uint64_t part_bytes[KV_PART_]; /* of hot and cold; 0: the layout has none */
    uint8_t fingerprint[32];       /* the model's, or made up for this load */
    bool keyed, closing;
    struct kvf_page *page;
    uint32_t n_pages;
    struct kvf_page **hash;
    uint32_t hash_mask;
    struct kvf_page *free;
    uint32_t n_free;
    struct kvf_page *idle_old, *idle_new; /* least and most recently let go */
    struct kvf_queue loads, puts;
    struct kvf_io io[KVF_IO_MAX];
    uint32_t loads_out, puts_out;
    struct kvf_seq *seqs;
    void *copy_buf;         /* one page, for copies between pages */
    struct kvf_page *tails; /* unfinished blocks on their way down: not of the book */
    uint32_t n_tails;
    uint64_t corrupt;
    int put_fault; /* why the last block did not go down; 0: it did */
};

/* Finds room for a page: a free one, or the one longest not named.  NULL: none. */
struct kvf_page *book_take(struct kvf *f);
void book_enter(struct kvf *f, struct kvf_page *p); /* into the hash, by prev */
void book_free(struct kvf *f, struct kvf_page *p);  /* out of everything; refs must be 0 */
void book_pin(struct kvf *f, struct kvf_page *p);
void book_unpin(struct kvf *f, struct kvf_page *p);
struct kvf_page *book_whole(struct kvf *f, const struct kvs_key *prev, const int32_t *ids);
/* Every live page gets the name it has under f->fingerprint. */
void book_rename(struct kvf *f);

void queue_init(struct kvf_queue *q);
void queue_push(struct kvf_queue *q, struct kvf_page *p);
struct kvf_page *queue_pop(struct kvf_queue *q);
void queue_remove(struct kvf_queue *q, struct kvf_page *p);

/* kvmove.c */
/* Before the model goes: the rows of unfinished blocks that sessions rest in, or that answers have
 * come to, go down, too, the latest used first.  Once. */
void move_tails_down(struct kvf *f);
void move_pump(struct kvf *f);                     /* hands waiting pages to the store */
void move_down(struct kvf *f, struct kvf_page *p); /* a finished page */

#endif
