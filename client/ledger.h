/* ledger.h - what this user's ingests have put into a session, so that the same command goes on.
 *
 * One small JSON file per session id under place_state(); losing it costs at most that a
 * document is put in twice.  A document is known by the hash of its bytes; that it is still in
 * the session is proved by the hash of the token ids it became. */
#ifndef CLIENT_LEDGER_H
#define CLIENT_LEDGER_H
#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger {
    char path[4096];
    cJSON *root; /* {"docs":[DOC...]} */
};
struct ledger_doc {
    char hash[33];    /* of the document's bytes and of how they are read */
    char request[33]; /* the START that puts it in */
    uint64_t before;  /* the session's tokens when it began */
    uint64_t after;   /* and when it was done */
    char ids[33];     /* hash of ids [before, after) */
    bool done;
};
enum { LEDGERS_MAX = 1024 };
/* A ledger that cannot be read starts empty.  Where there are more than LEDGERS_MAX (their sessions
 * may have gone without this user's command: by themselves, or by another program), those written
 * longest ago go. */
void ledger_open(struct ledger *l, const char *session_id);
void ledger_close(struct ledger *l);
/* Of a session that is gone: its file goes, too. */
void ledger_unlink(const char *session_id);
bool ledger_find(const struct ledger *l, const char *hash, struct ledger_doc *ret);
/* What the other ledgers know of that document, where it is done: a fork has what its session had.
 * How many, at most max, no two alike. */
int ledger_elsewhere(const struct ledger *l, const char *hash, struct ledger_doc *ret, int max);
int ledger_put(struct ledger *l, const struct ledger_doc *d); /* and writes it; -errno */
void ledger_drop(struct ledger *l, const char *hash);
/* FNV-1a, 128 bits: tells documents apart, guards against nobody. seed: what else matters. */
void ledger_hash(const void *p, size_t n, const char *seed, char ret[33]);

#endif
