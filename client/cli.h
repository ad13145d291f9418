/* cli.h - what all verbs of the hearth command share: the connection, errors, output.
 *
 * stdout is for answers, stderr for progress, timings and errors.  Every function that can fail
 * in a way the user must hear of says it itself and returns an exit code. */
#ifndef CLIENT_CLI_H
#define CLIENT_CLI_H
#include "client/args.h"
#include "client/client.h"
#include <cjson/cJSON.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

#define HEARTH_VERSION "0.1.0"
#define CLI_GET_MODEL  "`make model` where Hearth was built fetches a small one"
#define CLI_MAKE_PARTS                                                                         \
    "shorten the input, or make parts of it with `hearth ingest -s NAME --split FILE` and "    \
    "ask them "                                                                                \
    "with `hearth ask -s NAME-1`"
#define CLI_SPLIT_FILE "split it: `split -C 15M FILE part-` makes files of its lines"
#define SYSTEM_URL     "unix:///run/hearth/" /* of the system's daemon, and more */

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NO_DAEMON = 3,
    CLI_NOT_FOUND = 4,
    CLI_LATER = 75,
    CLI_INTERRUPTED = 130,
};
struct cli {
    char url[300];
    const char *url_from;    /* which flag or variable gave it */
    bool json, quiet, color; /* color: of stderr and stdout, when they are terminals */
    bool out_tty, err_tty;
    bool makes;           /* the verb may make the session it is about */
    uint32_t wait_ms;     /* how long a call may take; 0: CLI_WAIT_MS */
    const char *too_long; /* what to do about an input above the context; NULL: the usual */
    bool parts; /* the usual is to make parts of it, in a session that has nothing yet */
    const char *occupied; /* the same, where the session holds something; NULL: the usual */
    const char *forked;   /* the session a fork of which is asked: of what is refused there is
                                 no fork.  NULL: none */
    const cJSON *more;    /* members that an error object has in --json beside its own */
    struct hearth_conn *conn; /* for control; opened by the first call */
};
enum { CLI_WAIT_MS = 45000 }; /* longer than a front holds a request for a missing core */

extern volatile sig_atomic_t cli_interrupted; /* how often SIGINT, SIGTERM or SIGHUP came */
extern volatile sig_atomic_t cli_signal;      /* the last of them, 0: none */
/* From now on they are counted, so that a request can be cancelled first; the second one leaves
 * at once.  The exit code is 128 and the signal's number: 130 for Ctrl-C. */
void cli_catch_interrupt(void);

/* --- calls: req is taken (NULL: {}). CLI_OK and *ret (to cJSON_Delete; ret NULL: thrown away),
 * or an exit code, the error has been said. rep (NULL ok) keeps the tail. */
int cli_call(struct cli *c, enum hrt_type type, cJSON *req, const void *tail, size_t tail_bytes,
             cJSON **ret, struct hearth_reply *rep);
/* SESSION_LIST, all of it: as often as one reply does not hold it. */
int cli_sessions(struct cli *c, cJSON *req, cJSON **ret);
int cli_connect(struct cli *c, struct hearth_conn **ret); /* a connection of its own */

/* --- errors. Each prints one sentence (in --json one object) and returns its exit code.
 * A sentence is what is wrong and, behind the first "; " of fmt, what to do about it: in --json the
 * one is the message, the other the hint. Words that are given whole (cli_usage) have it behind
 * their last "; ". */
int cli_usage(struct cli *c, const char *words);
__attribute__((format(printf, 3, 4))) int cli_fail(struct cli *c, int code, const char *fmt,
                                                   ...);
/* What the user gave is wrong: a file's name, a command of chat's; CLI_FAILED. */
__attribute__((format(printf, 3, 4))) int cli_mistake(struct cli *c, const char *field,
                                                      const char *fmt, ...);
/* cli_fail, with a status and a slug that scripts can tell apart. */
__attribute__((format(printf, 5, 6))) int cli_fail_as(struct cli *c, int code,
                                                      enum hrt_status status, const char *slug,
                                                      const char *fmt, ...);
int cli_fail_call(struct cli *c, int r, const struct errbuf *eb); /* hearth_call's < 0 */
const char *cli_no_access(const char *url); /* what to do for whom its socket is closed */
int cli_fail_reply(struct cli *c, uint32_t status, const cJSON *reply);
int cli_exit_of(uint32_t status, const char *slug);
/* A name before it is sent: UTF-8 without control bytes, not too long.  What else a new one may not
 * have the daemon says: it may know an older one by such a name. what: "session".
 * CLI_OK, or CLI_USAGE with the name escaped. */
int cli_name(struct cli *c, const char *what, const char *name);
/* A verb this version does not have, and what there is instead. */
int cli_not_yet(struct cli *c, const char *verb, const char *instead);

/* --- stderr, unless -q */
__attribute__((format(printf, 2, 3))) void cli_note(struct cli *c, const char *fmt, ...);
const char *cli_dim(const struct cli *c, bool on); /* escape sequence or "" */

/* --- JSON members with an otherwise */
const char *j_str(const cJSON *o, const char *name, const char *otherwise);
double j_num(const cJSON *o, const char *name, double otherwise);
bool j_bool(const cJSON *o, const char *name);
const cJSON *j_get(const cJSON *o, const char *name);
cJSON *j_req(void);                           /* {"id": new} */
const char *cli_session_name(const cJSON *s); /* one without a name is called by its id */

/* stdout. out_json prints o (not taken) on one line. */
void out_json(const cJSON *o);
int out_end(
    struct cli
        *c); /* flushes; CLI_OK; CLI_INTERRUPTED: nobody reads on; CLI_FAILED: not written */

/* Text of a model or a user; a terminal is not given the control bytes in it. */
void cli_text(FILE *f, bool tty, const char *s, size_t n);
/* The text of one of SESSION_SHOW's turns, from ids, its tail; malloc'd, terminated. An exit
 * code. Markers of the chat template are a part of it. */
int cli_turn_text(struct cli *c, const cJSON *session, const cJSON *turn,
                  const struct hearth_reply *ids, char **ret, size_t *ret_n);

/* A whole file or stdin ("-"), at most max bytes; malloc'd, terminated. An exit code. */
int cli_read(struct cli *c, const char *path, size_t max, char **ret, size_t *ret_n);
/* "1 2,3" or "[1,2,3]" as int32; malloc'd. An exit code. */
int cli_ids(struct cli *c, const char *text, int32_t **ret, size_t *ret_n);

/* The verbs, by file. */
int cmd_run(struct cli *c, const struct args *a); /* cmd_run.c */
int cmd_ask(struct cli *c, const struct args *a);
int cmd_ingest(struct cli *c, const struct args *a);   /* cmd_ingest.c */
int cmd_chat(struct cli *c, const struct args *a);     /* chat.c */
int cmd_cancel(struct cli *c, const struct args *a);   /* cmd_cancel.c */
int cmd_sessions(struct cli *c, const struct args *a); /* cmd_sessions.c */
int cmd_session_show(struct cli *c, const struct args *a);
int cmd_session_fork(struct cli *c, const struct args *a);
int cmd_session_rewind(struct cli *c, const struct args *a);
int cmd_session_rename(struct cli *c, const struct args *a);
int cmd_session_pin(struct cli *c, const struct args *a);
int cmd_session_unpin(struct cli *c, const struct args *a);
int cmd_session_rm(struct cli *c, const struct args *a);
int cmd_session_export(struct cli *c, const struct args *a);
int cmd_session_import(struct cli *c, const struct args *a);
int cmd_du(struct cli *c, const struct args *a);
int cmd_models(struct cli *c, const struct args *a); /* cmd_models.c */
int cmd_show(struct cli *c, const struct args *a);
int cmd_load(struct cli *c, const struct args *a);
int cmd_unload(struct cli *c, const struct args *a);
int cmd_ps(struct cli *c, const struct args *a);
int cmd_plan(struct cli *c, const struct args *a);
int cmd_status(struct cli *c, const struct args *a); /* cmd_status.c */
int cmd_why(struct cli *c, const struct args *a);
int cmd_fsck(struct cli *c, const struct args *a);
int cmd_version(struct cli *c, const struct args *a);
int cmd_tokenize(struct cli *c, const struct args *a); /* cmd_tokenize.c */
int cmd_doctor(struct cli *c, const struct args *a);   /* cmd_doctor.c */
int cmd_serve(struct cli *c, const struct args *a);    /* cmd_serve.c */
char *serve_help(void); /* what `hearthd --help` says, or NULL; to free */
int cmd_completion(struct cli *c, const struct args *a); /* complete.c */
int cmd_help(struct cli *c, const struct args *a);       /* help.c */
void help_verb(const struct verb *v);
void help_all(void);
/* The whole command: argv to exit code. env_socket: $HEARTH_SOCKET or NULL. */
int cli_main(int argc, char *const *argv, const char *env_socket, bool no_color);

#endif
