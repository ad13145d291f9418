/* sess.h - sessions: names for places in a tree of tokens.
 *
 * A session is a record (kvs_session) and a place: a branch and a head in it.  A branch's
 * tokens are only ever appended; a session whose place is not its branch's end (it was
 * rewound, or a fork went on first) gets a new branch with its next token.  All sessions are
 * in memory, some hundred bytes each: a hundred thousand are no trouble, and nothing here looks
 * at all of them.  Tokens and turns are read from the store when needed and kept while there is
 * room (64 MiB, those used last).
 *
 * Changes are made here in memory and become durable in a batch the caller submits
 * (turn.c for requests, ops_session.c for the rest).  Loop thread only. */
#ifndef DAEMON_SESS_H
#define DAEMON_SESS_H
#include "base/bounds.h"
#include "base/err.h"
#include "kvstore/record.h"
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct idents;
struct model;
struct req;

/* --- token arrays --------------------------------------------------------------------------
 * Counted, and never changed while more than one holds them: a request works on its own and
 * gives it to the session when it ends. */
struct toks {
    uint32_t refs;
    uint64_t n, cap;
    int32_t *p;
};
struct toks *toks_new(uint64_t cap); /* NULL: no memory */
struct toks *toks_take(struct toks *t);
void toks_drop(struct toks *t);                 /* NULL ok */
int toks_reserve(struct toks *t, uint64_t cap); /* moves p; only while alone */
int toks_append(struct toks *t, const int32_t *ids, uint64_t n);
/* The caller's hold becomes one on the first n only (a copy when others hold it; NULL when
 * there is no memory for that: it is read again). */
void toks_cut(struct toks **t, uint64_t n);

/* --- branches: shared by the sessions that stand in them ------------------------------------ */
struct branch {
    struct kvs_branch rec;
    uint64_t end; /* tokens in the path that ends here, those on their way to the disk too */
    /* Whose tokens come next: a request from its admission to its end, or one that a crash
     * left open.  Everybody else goes on in a branch of his own. */
    bool owned;
    struct kvs_id owner;
    uint32_t refs;     /* sessions and requests */
    uint32_t sessions; /* of these */
    uint64_t shared;   /* so many tokens are, or were, of branches that hang on it, too */
    uint64_t first;    /* hash of its first block's tokens; 0: not known yet */
    bool shared_known;
    struct branch *next;
};

enum finish { FIN_NONE, FIN_STOP, FIN_LENGTH, FIN_CANCELLED, FIN_ERROR, FIN_INTERRUPTED, FIN_ };
const char *finish_str(uint32_t f); /* "stop" ...; NULL for FIN_NONE and strangers */

struct turn { /* a kvs_turn without what only the disk needs */
    uint64_t first, n_tokens, time_ns;
    uint32_t role, flags, finish;
    struct kvs_id request; /* whose it is: forks have copies */
    bool user_open;        /* a user turn that the next question goes on with and closes */
    bool opened;           /* ends with the assistant's opening */
    bool durable;
    bool ingest;     /* documents: a question that follows is a turn of its own */
    bool ingest_cut; /* an ingest that ended before all of it was evaluated, or goes on */
    uint64_t read;   /* of its path was evaluated then; 0: not known (a crash), or not over */
    bool cut;        /* a question that ends earlier than it did, and is still being asked */
    /* A stop string ended it: its text is that of its first `seen` tokens, and seen_bytes of
     * the next one. */
    bool stopped;
    uint32_t seen, seen_bytes;
};

enum { SESS_MAGIC = 0x53455353, SESS_SETTINGS_MAX = sizeof((struct kvs_session *)0)->settings };

/* What a user of the kernel's has, with all of his keys (ident.h): what is his share goes by this,
 * and within it by what each of the owners has. */
struct sess_group {
    struct sess_group *next;
    uint32_t uid;
    uint32_t holders;    /* owners with a session */
    uint32_t anonymous;  /* sessions */
    uint64_t disk_bytes; /* sums of sess_user's */
    uint64_t put_bytes, put_count;
};
/* An owner's sessions by their use, oldest first.  Brief: an anonymous one that asked not to be
 * kept. */
enum sess_list { SESS_NAMED, SESS_ANONYMOUS, SESS_BRIEF, SESS_LISTS_ };
struct sess_user {
    uint32_t uid;
    struct sess_group *group;
    uint64_t disk_bytes; /* what his sessions take there, about: sess_weigh */
    uint64_t put_bytes;  /* of his blocks, sent down since put_count began (quota.h) */
    uint64_t put_count;
    bool put_past; /* no more of them go down in it */
    struct sess_user *next;
    struct sess_of *of;
    struct {
        struct sess *oldest, *newest;
        uint32_t n;
    } list[SESS_LISTS_];
};
struct sess_model { /* a model's name, once for all its sessions */
    struct sess_model *next;
    uint32_t n;
    char name[];
};
struct sess_of { /* one user's sessions of one model */
    struct sess_of *next;
    const struct sess_model *model;
    uint32_t n;
};
struct sess_table {
    struct sess **s;
    uint32_t n, cap;
    struct sess **by_id, **by_name; /* buckets */
    uint32_t n_buckets;             /* power of two */
    uint8_t name_key[16];
    struct branch **branch; /* buckets, by id */
    uint32_t n_branches, n_branch_buckets;
    struct sess_user *users;
    struct sess_group *groups;
    const struct idents *idents; /* who belongs together; NULL: no keys are known */
    struct sess_model *models;
    struct sess *warm_old, *warm_new; /* those with tokens or turns in memory, by use */
    uint64_t warm_bytes, text_bytes;
    uint64_t disk_bytes; /* of all users */
    uint64_t put_bytes, put_count;
    uint32_t n_holders; /* groups with a session */
};

struct sess_rec { /* a kvs_session at rest; the texts are changed by functions only */
    struct kvs_id id;
    uint32_t owner, flags;
    const char *name, *model, *settings;
    uint8_t tokenizer_id[32];
    struct kvs_id branch; /* branch and head: as of the last batch submitted */
    uint64_t head, created_ns, used_ns;
};
struct sess {
    uint32_t magic;
    uint32_t at; /* in the table's array */
    struct sess_rec rec;
    struct sess_table *table;
    struct sess_user *user;
    struct sess_model *model;
    struct sess_of *of;
    struct sess *next_id, *next_name; /* in their buckets */
    struct sess *older, *newer;       /* in the user's list */
    struct sess *warm_older, *warm_newer;
    uint64_t warm_bytes;   /* counted in the table's; 0: not among the warm */
    uint64_t disk_bytes;   /* counted in the user's and the table's */
    uint8_t list;          /* enum sess_list; SESS_LISTS_: in none */
    struct branch *branch; /* its place now */
    uint64_t head;
    struct toks *toks; /* the path's first toks->n, when cached; never beyond the path */
    struct turn *turns;
    uint32_t n_turns, turns_cap;
    bool turns_known;
    bool unborn;        /* made by a request that is not admitted yet: nobody else sees it */
    bool removing;      /* its removal is on the way to the disk: nothing may start on it */
    bool moved;         /* by damage, and its record says the old place as yet */
    uint32_t rewinds;   /* so many of it are on the way: what starts on it waits for them */
    uint64_t lost_from; /* KVS_SESS_LOST: damage took these tokens; none (equal): perhaps the */
    uint64_t lost_to;   /* newest turns, or the record of one */
    bool changed;       /* in memory it is ahead of the disk for good */
    uint32_t out;       /* outbox.c: batches of it that are not durable yet */
    uint64_t out_look;  /* and the mark of a count */
    int why;            /* what the store answered when it became so */
    uint64_t told_ns;   /* swapped.c: used then, and not told yet what its model is now; or 0 */
    struct req *running;
    struct kvs_id open_req; /* the request a crash or a stop left open */
    bool has_open;
};

/* --- the table (sess_table.c) -------------------------------------------------------------- */
int sess_table_new(struct sess_table **ret);
void sess_table_free(struct sess_table *t); /* empty; NULL ok */
/* A session in the table, in no list yet, without a name; its id and owner are set. */
int sess_add(struct sess_table *t, const struct kvs_id *id, uint32_t owner, const char *model,
             struct sess **ret);
void sess_del(struct sess *s); /* its tokens, turns and branch are gone already */
int sess_name_set(struct sess *s, const char *name); /* -ENOMEM; does not ask who else has it */
int sess_settings_set(struct sess *s, const char *text);
/* Its head or a text has changed: so has what its owner's sessions take on disk.  By the tokens to
 * its head, those that a fork shares with others too, the texts, and half a KiB for the rest. */
void sess_weigh(struct sess *s);
/* As it goes to the store; and what a batch that is on its way says of it. */
void sess_record(const struct sess *s, struct kvs_session *ret);
void sess_written(struct sess *s, const struct kvs_session *x);
/* Used now: the newest of its list.  listed: its list may be another than it was; it is in
 * none while it is unborn. */
void sess_used(struct sess *s, uint64_t wall);
void sess_listed(struct sess *s);
void sess_unborn(struct sess *s);
void sess_born(struct sess *s);
/* The owner, or NULL; in the group that he belongs to by now: a key that is stored is nobody's
 * until it is used. */
struct sess_user *sess_user(struct sess_table *t, uint32_t uid, bool make);
uint32_t sess_count_model(struct daemon *d, const char *model);
uint32_t sess_count_model_of(struct daemon *d, const char *model, uint32_t uid);
uint64_t sess_bytes(struct daemon *d); /* of memory: all of them, with what is kept warm */
/* What it keeps in memory has changed, and it is the one used last; others give way. */
void sess_warm(struct sess *s);
/* Its tokens and turns are let go, where they can be read again. */
void sess_cool(struct sess *s);

/* The answer s was left open in is over, or is not: so is its hold on s's branch. */
void sess_open_set(struct sess *s, const struct kvs_id *req);
void sess_open_clear(struct sess *s);
bool sess_open_is(const struct sess *s, const struct kvs_id *req);

/* Loads every session; remembers which have an open turn. */
int sess_open(struct daemon *d, struct errbuf *eb);
void sess_close(struct daemon *d);

/* name_or_id: a name of this owner, or 32 hex digits.  NULL: none. */
struct sess *sess_find(struct daemon *d, uint32_t uid, const char *name_or_id);
struct sess *sess_by_id(struct daemon *d, uint32_t uid, const struct kvs_id *id);
struct sess *sess_by_name(struct daemon *d, uint32_t uid, const char *name); /* not "" */
struct sess *sess_at(struct daemon *d, uint32_t i); /* NULL past the end; order may change */
uint32_t sess_count(struct daemon *d, uint32_t *ret_anonymous);
uint32_t sess_count_of(struct daemon *d, uint32_t uid, uint32_t *ret_anonymous);
/* A name a session may have: 1..NAME_BYTES_MAX bytes of UTF-8, all of it characters that are seen
 * (text_plain()), not shaped like an id.  -EINVAL with words. */
int sess_name_check(const char *name, struct errbuf *eb);

/* A new, empty session in memory (a root branch of its own comes with its first token).
 * name NULL: anonymous.  -EEXIST, -ENOMEM. */
int sess_make(struct daemon *d, uint32_t uid, const char *name, const char *model,
              struct sess **ret);
/* The same place under a new name; at <= head.  No I/O: O(1). */
int sess_fork(struct daemon *d, struct sess *s, uint64_t at, const char *name,
              struct sess **ret);
void sess_forget(struct daemon *d,
                 struct sess *s); /* out of the table; the disk is the caller's */
int sess_rename(struct daemon *d, struct sess *s, const char *name); /* -EEXIST, -ENOMEM */
void sess_move(struct daemon *d, struct sess *s, uint64_t head); /* rewind: head <= s->head */

/* The tokens [0, head), cached or read.  *ret is taken for the caller. */
int sess_tokens(struct daemon *d, struct sess *s, struct toks **ret);
/* The same for a look at many sessions: what was not cached is not cached for it. */
int sess_tokens_peek(struct daemon *d, struct sess *s, struct toks **ret);
/* What its running request has of them is cached: the store may not have them yet. */
int sess_tokens_hold(struct sess *s);
/* Turns up to head, cached or read. */
int sess_turns(struct daemon *d, struct sess *s);
int sess_turn_add(struct sess *s, const struct turn *t); /* replaces one that began there */
void sess_turns_clamp(struct daemon *d, struct sess *s); /* forgets what lies above head */
struct turn sess_turn_of(const struct kvs_turn *k);      /* as it is read again; not durable */
/* k has ended: so have the copies that forks took of it while it was open. */
void sess_turn_ended(struct daemon *d, const struct kvs_turn *k);
/* What has ended of this request is durable, wherever it was copied to. */
void sess_turns_durable(struct daemon *d, const struct kvs_id *req);
const struct turn *sess_last_turn(struct daemon *d, struct sess *s); /* NULL: none */

/* May s, whose turns are known, append to its branch as it stands: at the end of it, with no turn
 * on record there, and nobody else owns it?  Otherwise branch_new. */
bool sess_at_end(const struct sess *s);
/* The session is going: what of its KV is its alone, and in no other session of its owner's by
 * the same text, is given back. */
void sess_blocks_forget(struct daemon *d, struct sess *s);
void branches_loaded(struct daemon *d); /* every session has its branch */
/* A new branch for appending after `at` tokens of from's path (from NULL or at 0: a root). */
int branch_new(struct daemon *d, uint32_t uid, const struct branch *from, uint64_t at,
               struct branch **ret);
int branch_get(struct daemon *d, const struct kvs_id *id, struct branch **ret); /* takes */
struct branch *branch_take(struct branch *b);
void branch_drop(struct daemon *d, struct branch *b); /* NULL ok */
void branch_own(struct branch *b, const struct kvs_id *req);
void branch_disown(struct branch *b, const struct kvs_id *req); /* NULL, or not the owner: ok */
void sess_place(struct daemon *d, struct sess *s, struct branch *b,
                uint64_t head); /* takes b */

/* Damage took something of it (sess_lost.c): said in its JSON, and in every answer until one that
 * said so is durable, or a rewind.  false: nothing is missing.  *ret_none: nothing is left of it. */
bool sess_lost(const struct sess *s, char *ret, size_t cap, bool *ret_none);
/* The mark, and what was lost, with its settings; and neither any more. */
void sess_lost_set(struct sess *s, uint64_t from, uint64_t to);
void sess_lost_clear(struct sess *s);
/* s, which has its branch by now, or none: where it stands, by its record and by what is left. */
void sess_lost_load(struct daemon *d, struct sess *s);
/* The places that this changed go to the outbox, before anything else does.  -ENOMEM. */
int sess_lost_write(struct daemon *d);

/* The tokens of s, if it has any, are not of the tokenizer that m has now (loaded): in words, with the
 * way on. */
enum { MISFIT_WORDS = 3 * NAME_BYTES_MAX + 320 };
bool sess_misfit(const struct sess *s, const struct model *m, char ret[MISFIT_WORDS]);

/* settings: JSON members kept with the session; "" when absent. */
int sess_setting_set(struct sess *s, const char *key,
                     const char *value); /* NULL: remove; E_LIMIT, -ENOMEM */
const char *sess_setting(struct sess *s, const char *key, char *ret, size_t cap);
void sess_date(struct sess *s, char ret[11]); /* the template's date: the day it was made */

/* What to call it in words: its name, or its id (in ret) when it has none. */
const char *sess_label(const struct sess *s, char ret[33]);
/* SESSION of docs/PROTOCOL.md, with the number of its turns. */
cJSON *sess_json(struct daemon *d, struct sess *s);
/* Its turns as they are now, to be shown later: a copy (*ret, to be freed) of *ret_n.  An answer that
 * is open and that nobody makes is interrupted there. */
int sess_turns_copy(struct daemon *d, const struct sess *s, struct turn **ret, uint32_t *ret_n);
cJSON *sess_turn_json(const struct turn *t, uint32_t n, bool last);

#endif
