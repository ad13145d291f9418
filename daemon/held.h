/* held.h - how many bytes of its peers the daemon holds, by user.
 *
 * A frame counts from its header until its call is answered, at what it may come to in memory;
 * a reply until the peer has taken it.  held_add says whether there is room for a frame; who is
 * told no waits for `room`, which is called (never from inside held_add) when something was
 * given back.  A user who holds nothing is never told no, so that everybody gets on; small
 * frames (long polls, cancels) have some room of their own, so that large ones that wait do not
 * stand in their way.  Loop thread only. */
#ifndef DAEMON_HELD_H
#define DAEMON_HELD_H
#include <stdbool.h>
#include <stdint.h>

enum { HELD_SMALL_BYTES = 16 << 10 };
struct held;
struct held_user;
struct pace;

int held_open(struct held **ret, void (*room)(void *ctx), void *ctx); /* -ENOMEM */
void held_close(struct held *h); /* NULL ok; users may live on, and room is not called */
struct held_user *held_take(struct held *h, uint32_t uid); /* counted; NULL: no memory */
struct held_user *held_take_same(struct held_user *u);
void held_drop(struct held_user *u);                /* NULL ok */
bool held_add(struct held_user *u, uint64_t bytes); /* false: no room, nothing was added */
void held_add_reply(struct held_user *u, uint64_t bytes); /* it is there already */
void held_sub(struct held_user *u, uint64_t bytes);
struct pace *held_pace(struct held_user *u); /* his: kept here for who has links */
uint64_t held_bytes(const struct held *h);   /* of all */

#endif
