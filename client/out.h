/* out.h - standard output: nothing is lost on its way, and whether anybody reads it is known.
 *
 * stdio throws away what a full pipe that does not block did not take, and a broken one leaves
 * only a mark.  Here the descriptor is waited for, and the first failure is kept; what is written
 * after it goes nowhere. */
#ifndef CLIENT_OUT_H
#define CLIENT_OUT_H
#include <stdbool.h>
#include <stdio.h>

/* Once, before anything is written.  Without memory for it stdout stays as it is. */
void out_open(void);
/* Hands on what is buffered.  0, or the first failure since the start as an errno: EPIPE when
 * nobody reads any more, EINTR when a signal came and the reader took nothing for two seconds. */
int out_flush(void);
/* The same without writing anything. */
int out_lost(void);
/* stdout as it was, for who wants its descriptor. */
FILE *out_terminal(void);

#endif
