/* lived.h - time that has passed while somebody watched, whatever the wall clock says.
 *
 * Records carry the wall clock.  One wrong reading of it must not make them old, and a clock
 * that is set back must not keep them for ever.  So the store keeps a clock of its own: it
 * goes on while the machine runs (between two opens in one boot too), and stands still while
 * nobody can know.  Epochs say which stretch of it the wall clock showed which hours in; with
 * them the wall time of a record becomes an age.  Where more than one fits, the youngest.
 * Pure over what it is told; lived_read() asks the machine.  Any thread. */
#ifndef KVSTORE_LIVED_H
#define KVSTORE_LIVED_H
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { LIVED_EPOCHS = 64, LIVED_BYTES = 40 + LIVED_EPOCHS * 32 };

struct lived_now {
    uint8_t boot[16]; /* this boot's name; zeros: unknown */
    uint64_t uptime_ns, wall_ns;
};
struct lived_epoch {
    uint64_t from, to; /* on this clock, ns */
    uint64_t wall_from, wall_to;
};
struct lived {
    pthread_mutex_t lock;
    struct lived_epoch v[LIVED_EPOCHS];
    uint32_t n;
    uint64_t lost_to; /* a time in no epoch is taken for this one */
    struct lived_now last;
};
/* From what lived_pack() said last (0 bytes: a new clock, already gone on for `gone_ns`).
 * Returns by how much the wall clock was set since, ns; 0: it was not, or nobody can know. */
int64_t lived_begin(struct lived *c, const uint8_t *b, size_t n, uint64_t gone_ns,
                    const struct lived_now *now);
/* From time to time: the same answer. */
int64_t lived_tick(struct lived *c, const struct lived_now *now);
uint64_t lived_at(struct lived *c, uint64_t wall_ns);  /* on this clock */
uint64_t lived_age(struct lived *c, uint64_t wall_ns); /* as of the last tick */
uint64_t lived_span(struct lived *c);                  /* where it stands */
size_t lived_pack(struct lived *c, uint8_t ret[LIVED_BYTES]);
void lived_fini(struct lived *c);
void lived_read(struct lived_now *ret);

#endif
