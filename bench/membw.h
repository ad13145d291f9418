/* membw.h - how fast this machine reads memory, the ceiling of decoding. */
#ifndef BENCH_MEMBW_H
#define BENCH_MEMBW_H
#include <stdint.h>
/* Bytes per second, best of several passes of `threads` threads over memory far larger than
 * any cache; 0 when there is no memory for it. */
double membw_read(uint32_t threads);
#endif
