/* conf.h - one table of options, and what they came to for this run.
 *
 * Every option is one row of conf.c: name, default, bounds, one line of reason.  The same row
 * serves the flag (--host-memory), the environment (HEARTH_HOST_MEMORY), the INI file
 * (host-memory = 8GiB) and --help.  Precedence: flag > environment > [model NAME] section >
 * the file's own keys > default.  An unknown key is an error that names file, line and the
 * nearest known key.  This is the only file of the daemon that reads the environment.
 *
 * Read once at start, immutable afterwards: any thread may read. */
#ifndef DAEMON_CONF_H
#define DAEMON_CONF_H
#include "base/bounds.h"
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEARTH_VERSION "0.1.0"

enum conf_does { CONF_RUN, CONF_CHECK, CONF_VERSION, CONF_HELP };
enum conf_io { CONF_IO_AUTO, CONF_IO_URING, CONF_IO_THREADS };
enum conf_wrong { CONF_RIGHT, CONF_WRONG_INDEX_FIRST, CONF_WRONG_ACK_FIRST };

/* One [model NAME] section, or one --model, with everything above it already applied. */
struct conf_model {
    char name[NAME_BYTES_MAX + 1]; /* "": the file's own name (without .gguf) */
    char *path;                    /* NULL: a section for a model found in --models */
    bool bare;                     /* the path was given as a file's name alone */
    double keep_alive_s;           /* -1: for ever */
    uint64_t page_bytes;           /* device memory for KV pages; 0: chosen at load */
    uint32_t threads;              /* 0: physical cores */
    uint32_t context;              /* 0: the model's own */
    /* Default sampling; NAN: not set here. */
    double temperature, top_k, top_p, min_p, repeat_penalty;
};

struct conf {
    enum conf_does does;
    char *file;  /* the configuration file that was read, or NULL */
    char *state; /* absolute paths */
    char *runtime;
    char *models;
    char *core_path;       /* RUNTIME/core.sock, shorter than a socket address allows */
    char *front;           /* program to start as front; NULL: beside this one */
    struct conf_model any; /* what a model without a section gets */
    struct conf_model model[MODELS_MAX];
    uint32_t n_models;
    uint64_t host_bytes; /* resolved: percentages are of this machine */
    uint64_t disk_bytes;
    uint64_t day_bytes; /* 0: no write budget */
    uint32_t threads;   /* 0: physical cores */
    char device[32];    /* "auto" | "cpu" | "cuda:N" */
    enum conf_io io;
    bool http; /* false: --http off */
    char http_addr[64];
    uint16_t http_port;
    bool http_any_port; /* also beside another user who has http_port */
    char *api_key_file; /* or NULL */
    char *http_origin;  /* web pages that may ask, as a list; or NULL */
    bool system;        /* --system: one daemon for the machine */
    bool no_front;
    uint32_t socket_mode;      /* of core.sock */
    int log_level;             /* enum log_level */
    double anonymous_expire_s; /* unnamed sessions live this long after their last use; -1 */
    uint32_t step_tokens;      /* most prefill tokens in one step, <= STEP_TOKENS_MAX */
    uint32_t step_goal_ms;     /* longest step while somebody decodes */
    uint32_t stop_timeout_s;   /* graceful stop gives up after this */
    /* Diagnostics. */
    bool no_fsync;
    bool plain_c; /* the C twin even where AVX2 exists */
    enum conf_wrong wrong;
    /* From the service manager, not rows. */
    char *notify_socket; /* $NOTIFY_SOCKET or NULL */
    uint64_t watchdog_us;
    bool journal;        /* stderr goes to the journal */
    uint32_t listen_fds; /* sockets handed over, from fd 3 on */
};

/* env: how to read one variable, NULL for getenv (tests bring their own).  0; -EINVAL with
 * words that name the flag, variable or file:line: the caller says them and exits with 2. */
int conf_open(struct conf **ret, int argc, char *const *argv,
              const char *(*env)(const char *name), struct errbuf *eb);
void conf_close(struct conf *c); /* NULL ok */
void conf_help(void);            /* to stdout, from the table */
/* Parses one file's text as conf_open would (no defaults, nothing kept): for the fuzzer. */
int conf_parse_check(const char *text, uint64_t bytes, struct errbuf *eb);
/* What the settings came to, "name = value" lines, to stdout (--check-config). */
void conf_print(const struct conf *c);
/* Can the models' directory be listed?  It may be made later: words for a warning. */
int conf_models_dir(const struct conf *c, struct errbuf *eb);

/* Words for a warning about a variable of env from *at on that is named HEARTH_ and something and is
 * no setting; *at is moved behind it.  false: there is none left. */
bool conf_env_odd(char *const *env, size_t *at, struct errbuf *ret);

/* Memory of this machine, or of the container or unit it runs in. */
uint64_t conf_ram_bytes(void);

/* The options for a model by name: its section, or c->any.  Never NULL. */
const struct conf_model *conf_model(const struct conf *c, const char *name);

#endif
