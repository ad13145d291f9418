/* args.h - one table of verbs and flags; parsing, help and completion all read it.
 *
 * Flags may stand before or after what they belong to; "--" ends them.  Pure: no output. */
#ifndef CLIENT_ARGS_H
#define CLIENT_ARGS_H
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cli;
struct args;

struct flag {
    const char *name;  /* without dashes */
    char letter;       /* 0: none */
    const char *value; /* its name in help; NULL: no value; "[N]": only as --name=N;
                          "N...": may be given again with another one, and all count */
    const char *does;
};
struct verb {
    const char *name;                /* "ask"; "sessions fork" */
    const char *takes;               /* "-s NAME QUESTION" */
    const char *does;                /* one line */
    const char *more;                /* further lines of help, or NULL */
    const struct flag *const *flags; /* groups of flags, each ended by a row without name */
    int pos_min, pos_max;            /* positional arguments; max -1: any number */
    int (*run)(struct cli *c, const struct args *a);
    bool raw;         /* arguments are handed on unread (serve) */
    const char *hide; /* a flag of the groups that this verb refuses, NULL: none */
};
extern const struct verb verbs[];
extern const size_t n_verbs;
extern const struct flag flags_global[];

enum { ARGS_MAX = 4096, GIVEN_MAX = 256 };
struct args {
    const struct verb *verb; /* NULL: none was named */
    int n;                   /* positional */
    const char *pos[ARGS_MAX];
    int n_given;
    struct {
        const struct flag *flag;
        const char *value; /* NULL: none */
    } given[GIVEN_MAX];
};

/* argv[1..]. 0; -EINVAL with words (what is wrong, and the nearest that is right). */
int args_parse(struct args *ret, int argc, char *const *argv, struct errbuf *eb);
bool args_has(const struct args *a, const char *name);
const char *args_str(const struct args *a, const char *name); /* the value, or NULL */
/* 1: given, decimal and in [min,max]; 0: not given; -EINVAL with words. */
int args_num(const struct args *a, const char *name, double min, double max, bool integer,
             double *ret, struct errbuf *eb);
/* The nearest of the verbs to a word, or NULL when none is near. */
const char *args_near_verb(const char *word);
/* The verb that begins with these words, that of two before that of one; NULL: none does.
 * second: NULL when there is none.  *ret_two is set for one of two words, and else left alone. */
const struct verb *args_verb(const char *first, const char *second, bool *ret_two);
/* A flag of v (NULL: no verb yet) or one of every verb: by its name's n bytes, or by its letter when
 * that is not 0. */
const struct flag *args_flag(const struct verb *v, const char *name, size_t n, char letter);
bool args_wants_value(const struct flag *f); /* in the next word, when it is not with it */
/* Edits between two words, adjacent swaps counting one. */
int args_distance(const char *a, const char *b);

#endif
