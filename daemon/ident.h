/* ident.h - whose a request is: the uid of the link, or one of the API keys behind that uid's front.
 *
 * Holders of different keys come over one front, as one uid.  The front says with each request
 * whose it is (member `as`: a hash of the key), and each is an owner of its own: 32 bits, like a
 * uid, with the highest set.  So all that is kept by owner (sessions, requests, roots of chain
 * keys, shares) is kept apart for them without knowing of keys.
 *
 * The number is a keyed hash of uid and `as`, the key being the store's own random id: the same
 * after every restart and rebuild, with nothing stored.  Who could try numbers until one is
 * another's would read his sessions; so a daemon takes IDENT_KEYS_MAX different keys of one uid
 * in its life, and a number that two share is refused to the later.  None is forgotten before: keys
 * that come and go without a session would be tries without end.  There is room for the largest file
 * of keys a front takes to be changed whole fifteen times; one guess hits one owner in 2^31.
 * Loop thread only. */
#ifndef DAEMON_IDENT_H
#define DAEMON_IDENT_H
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { IDENT_BYTES = 16, IDENT_KEYS_MAX = 1024 };
#define IDENT_FIRST 0x80000000u /* owners above are keys'; no uid may be one of them */

struct idents;
int idents_open(struct idents **ret, const uint8_t secret[16]); /* -ENOMEM */
void idents_close(struct idents *t);                            /* NULL ok */
/* -EAGAIN: more keys of this uid than there may be; -EEXIST: the number is another's. */
int ident_owner(struct idents *t, uint32_t uid, const uint8_t as[IDENT_BYTES], uint32_t *ret);
/* Whose front an owner came over: anybody can name keys, so what must be left to another user
 * is counted by this.  A uid is its own; keys that nobody has used since the start are together
 * one user's, IDENT_FIRST, whom nobody is. */
uint32_t ident_uid(const struct idents *t, uint32_t owner);
bool ident_keys(const struct idents *t, uint32_t uid); /* has he any? */

#endif
