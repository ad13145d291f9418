/* words.h - numbers, sizes and times as people read them. Each writes to ret and returns it. */
#ifndef CLIENT_WORDS_H
#define CLIENT_WORDS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WORDS_BYTES = 32 };
const char *words_count(char ret[WORDS_BYTES], double n);  /* 412,330 */
const char *words_tokens(char ret[WORDS_BYTES], double n); /* 1 token; 412,330 tokens */
const char *words_short(char ret[WORDS_BYTES], double n);  /* 412k, 1.05M: for a narrow line */
const char *words_bytes(char ret[WORDS_BYTES], double n);  /* 5.9 MiB */
const char *words_ms(char ret[WORDS_BYTES], double ms);    /* 47 ms, 3.1 s, 6m12s, 2h05m */
const char *words_ago(char ret[WORDS_BYTES], double unix_s); /* just now, 3 h ago */
const char *words_idle(char ret[WORDS_BYTES], double s);     /* the same, of an age */

/* Seconds: "90s" "5m" "1h30m" "7d", as hearthd reads them, but for a number without a unit,
 * which here may be meant as days; false: it is none. */
bool words_seconds(const char *s, double *ret);
/* "about 40 %", "less than 1 %", "none" */
const char *words_share(char ret[WORDS_BYTES], double of_one);
/* "" for one, "s" for any other number */
const char *words_s(double n);

/* A name as one word of a shell's command line: in quotes where it needs them. */
enum { WORDS_SHELL_BYTES = 1100 };
const char *words_shell(char ret[WORDS_SHELL_BYTES], const char *name);

#endif
