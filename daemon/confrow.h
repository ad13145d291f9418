/* confrow.h - the shape of an option's row, and how a text becomes its value.
 *
 * Between conf.c (the table and who wins), confvalue.c (one text, one value), confplace.c
 * (what depends on the user and the machine) and confenv.c (what only looks like one); nobody else includes it. */
#ifndef DAEMON_CONFROW_H
#define DAEMON_CONFROW_H
#include "daemon/conf.h"
#include <stddef.h>

enum conf_type {
    T_PATH,     /* char *, absolute */
    T_WORD,     /* char[32], one of `words` or a prefix of it that ends in ':' */
    T_ENUM,     /* uint32: place in `words` */
    T_BOOL,     /* a flag without value means true */
    T_UINT,     /* uint32 in [min, max] */
    T_NUM,      /* double in [min, max] */
    T_SIZE,     /* uint64 bytes in [min, max], or auto (0) */
    T_SHARE,    /* struct share: bytes in [min, max], max 0: 2^62; or per cent of something */
    T_DURATION, /* double seconds >= min, or -1 */
    T_MODE,     /* uint32, octal; "auto" is 0 */
    T_HTTP,     /* struct http */
    T_ORIGINS,  /* char *: a list of SCHEME://HOST, which the front looks at more closely */
    T_MODEL,    /* [NAME=]PATH, repeatable */
};
enum { R_MODEL = 1, R_ONLY_MODEL = 2, R_DIAG = 4 };

struct share {
    uint64_t bytes;
    double percent; /* 0: bytes counts */
};
struct http {
    bool on;
    char addr[64];
    uint16_t port;
};
/* What rows write to before it is resolved into the public struct. */
struct raw_conf {
    struct share host, disk, day;
    struct http http;
    uint32_t io, log_level, wrong, socket_mode;
    char *config;
};
struct row {
    const char *name;
    enum conf_type type;
    uint32_t flags;
    bool raw; /* at is in struct raw_conf; else in conf_model (R_MODEL) or conf */
    size_t at;
    const char *def; /* NULL: computed or none */
    double min, max;
    const char *words; /* space-separated */
    const char *reason;
};
struct text { /* one value of one row */
    char *s;
    char where[160];
};

/* What stands before a complaint of `name` behind where: nothing where a flag or a variable names
 * the setting itself, "name: " behind a place in a file.  Returns ret. */
enum { CONFROW_NAME_BYTES = 64 };
const char *confrow_name(const char *where, const char *name, char ret[CONFROW_NAME_BYTES]);

/* The variables that are settings: their names, and how many. */
enum { CONF_ROWS_MAX = 64 };
uint32_t confrow_env(char ret[CONF_ROWS_MAX][64]);

/* Applies one text to its place in base (a conf, conf_model or raw_conf).  dir: what relative
 * paths start from, NULL: the working directory.  -EINVAL with words that begin with t->where. */
int confvalue_put(void *base, const struct row *row, const struct text *t, const char *dir,
                  struct errbuf *eb);

/* env reads one variable.  Fills what is still NULL: state, models, runtime, core_path. */
int confplace_paths(struct conf *c, const char *(*env)(const char *), struct errbuf *eb);
/* The configuration file nobody named: *ret is malloc'ed, or NULL when there is none. */
void confplace_file(const char *(*env)(const char *), bool system, char **ret);
/* Free on the file system of `state` now, plus what the store there has already. */
uint64_t confplace_disk(const char *state);

#endif
