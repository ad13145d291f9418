/* link.h - peers on core.sock: frames in, calls out, replies back in any order.
 *
 * One listening AF_UNIX stream socket.  Each connection is a link: the kernel says whose it
 * is (SO_PEERCRED), frames are parsed as their bytes arrive and never trusted: a header that
 * does not check closes the link after one error reply; a sound header with a bad body gets
 * an error reply by its id and the link goes on.  Bounds per link: LINK_CALLS_MAX calls
 * unanswered (more are refused with queue_full), LINK_OUT_MAX bytes unsent (then nothing more
 * is read from that peer).  Bounds per user, over all his links: time in each round of the loop
 * (pace.h), beyond which frames wait for the next; bytes (held.h); a frame beyond
 * them waits in its socket, LINK_ROOM_S at most, then it is refused with queue_full; and
 * connections (share.h): at his share the one of his that has been idle for longest makes room,
 * else the new one is told so in a reply without id, and closed.  A frame that is not whole
 * after LINK_HALF_FRAME_S (and time for its bytes), or a reply that is not taken for
 * LINK_TAKE_S, closes the link.
 * A peer that goes away turns its calls `gone` (call.h).  Loop thread only. */
#ifndef DAEMON_LINK_H
#define DAEMON_LINK_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call;
struct daemon;
struct links;

enum {
    LINKS_MAX = 512,        /* peers at once */
    LINK_CALLS_MAX = 1024,  /* of one peer: a front carries all streams of its user */
    LINK_OUT_MAX = 8 << 20, /* bytes waiting for a slow reader before its input stops */
    LINK_HALF_FRAME_S = 15,
    LINK_TAKE_S = 60,
    LINK_IDLE_S = 3, /* nothing came for so long: may make room for another of its user */
    LINK_ROOM_S = 5, /* a frame waits for room among its user's before it is refused */
};

/* Binds conf->core_path (or takes the socket the service manager handed over); sets d->links.
 * The runtime directory is ours already (rundir.h).  A socket nobody answers on is replaced,
 * anything else at that path is left alone and refused.  -EADDRINUSE: another hearthd runs
 * there, eb says its pid. */
int links_open(struct daemon *d, struct errbuf *eb);
/* As links_open, but listens nowhere: peers come from links_add alone. */
int links_open_bare(struct daemon *d);
/* Closes every link (their calls become gone), removes the socket. */
void links_close(struct daemon *d);
/* Adopts a connected stream socket (nonblocking from here on). */
int links_add(struct daemon *d, int fd, uint32_t uid);
/* For tests: in place of LINK_HALF_FRAME_S. */
void links_patience(struct daemon *d, uint64_t half_frame_ns);
/* Stops accepting; links that exist go on. */
void links_stop(struct daemon *d);

/* Sends the reply and frees the call (call.c's way out). json is borrowed. */
void link_reply(struct call *c, uint32_t status, const char *json, size_t json_bytes,
                const void *tail, size_t tail_bytes);

struct links_stats {
    uint32_t links;
    uint64_t accepted, frames, bad_frames, calls_open, bytes_in, bytes_out;
    uint64_t held_bytes;  /* held.h */
    uint64_t replies[17]; /* by enum hrt_status */
};
void links_stats(const struct daemon *d, struct links_stats *ret);

#endif
