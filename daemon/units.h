/* units.h - numbers as people write them: sizes, durations; and words near a misspelt one. */
#ifndef DAEMON_UNITS_H
#define DAEMON_UNITS_H
#include <stdbool.h>
#include <stdint.h>

/* "8GiB" "512M" "1.5 TiB" "4096"; KB MB GB TB are decimal, a bare letter is binary. */
bool units_size(const char *s, uint64_t *ret);
bool units_percent(const char *s, double *ret); /* "25%", 0 < x <= 100 */
/* Seconds: "90" "5m" "1h30m" "250ms" "7d"; "-1" is for ever. */
bool units_duration(const char *s, double *ret);
bool units_u64(const char *s, uint64_t *ret); /* decimal digits only */
bool units_num(const char *s, double *ret);   /* finite */
/* The word of list[n] nearest to s, NULL when none is near (edits <= 1/2 of its length). */
const char *units_nearest(const char *s, const char *const *list, uint32_t n);

#endif
