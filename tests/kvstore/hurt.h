/* hurt.h - what the tests of damage share: a store with known sessions, how much of it is still
 * there, and bytes of its files. */
#ifndef TESTS_KVSTORE_HURT_H
#define TESTS_KVSTORE_HURT_H
#include "tests/kvstore/rig.h"

enum { HURT_SESSIONS = 8, HURT_TURNS = 6, HURT_TURN = 600 };

void hurt_path(const struct rig *g, const char *sub, char ret[512]);
/* Sessions with several turns each, the log in more than one file; closed. */
void hurt_make(struct rig *g);
/* hurt_make's sessions into a store that is open. */
void hurt_fill(struct rig *g);
/* Tokens of session s that are there from the beginning on, each of them right. */
uint64_t hurt_whole(struct rig *g, uint64_t s);

struct hurt_have { /* for kvs_sessions */
    uint32_t n;
    struct kvs_session s[HURT_SESSIONS * 2];
};
int hurt_have_each(void *ctx, const struct kvs_session *x);
/* How many sessions lack something; each of them that is there is marked.  Others are where a
 * hole in the log leaves open what was in it: how many of these in *ret_marked. */
int hurt_marked(struct rig *g, const char *what, int *ret_marked);
int hurt_lost(struct rig *g, const char *what); /* the same where none of those may be */
bool hurt_is_marked(struct rig *g, uint64_t s); /* session s, which is there */

int hurt_notes(struct rig *g, char *ret, size_t cap); /* all that is to be said, by lines */
int hurt_count(const char *dir, const char *part);    /* names in dir with this in them */

uint8_t *hurt_load(const char *path, size_t *ret_n); /* malloc'd */
void hurt_xor(const char *path, uint64_t at, uint8_t x);
/* One byte of the log, off behind each place of these in its files, or the first in each: how many. */
int hurt_log(struct rig *g, const void *bytes, size_t n_bytes, size_t off, bool first);
/* One byte of the frame that brings session s's tokens from `first` on, in whatever file: how many. */
int hurt_frame(struct rig *g, uint64_t s, uint64_t first);
/* One byte, off behind its beginning, in every copy of a row of the index: the live one is among
 * them.  Of the row with these tokens; of a session. */
int hurt_row(struct rig *g, const void *bytes, size_t n_bytes, size_t off);
int hurt_tokens(struct rig *g, uint64_t s, uint64_t at);
int hurt_session_row(struct rig *g, uint64_t s);
uint64_t hurt_sum(const char *dir); /* of all files but locks, by content and name */

#endif
