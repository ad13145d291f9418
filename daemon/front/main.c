/* main.c - hearth-front: the face of hearthd for clients that do not speak to it directly.
 *
 * One process serves one face.  Asked for both it becomes their keeper: a process for each,
 * started again when it dies, so that bytes that kill one leave the other alone. */
#include "base/clock.h"
#include "base/stdfds.h"
#include "base/text.h"
#include "daemon/front/flog.h"
#include "daemon/front/http.h"
#include "daemon/front/httplisten.h"
#include "daemon/front/keyfile.h"
#include "daemon/front/netcheck.h"
#include "daemon/front/nn.h"
#include "daemon/front/origin.h"
#include "daemon/front/sandbox.h"
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    EXIT_USAGE = 2,
    EXIT_PORT = 3,      /* the HTTP port is another user's */
    EXIT_CORE_GONE = 0, /* the core closed the link: that is the end, not a failure */
    HOLD_MS = 30000,
    AGAIN_MS = 10, /* no back-off below a hundred deaths a second */
};

struct opts {
    const char *nn, *http, *core, *api_key_file, *origins, *runtime;
    bool exit_with_core, any_port, check;
    int listen_fd;
};
static volatile int stop;

static void on_signal(int sig)
{
    (void)sig;
    stop = 1;
}

static const char usage[] =
    "usage: hearth-front [--nn ipc://PATH] [--http ADDR:PORT] --core PATH [OPTION]...\n"
    "Serves clients of hearthd over nanomsg and HTTP.\n\n"
    "  --nn ipc://PATH      nanomsg REQ/REP endpoint\n"
    "  --http ADDR:PORT     HTTP on a loopback port; the next free one when it is taken\n"
    "  --http-any-port      ... also when the one who took it is another user\n"
    "  --core PATH          hearthd's core.sock (default: RUNTIME/core.sock)\n"
    "  --runtime DIR        the port in use is written to DIR/http.port\n"
    "  --http-origin LIST   web pages that may ask beside this machine's: app://obsidian.md, "
    "...\n"
    "  --api-key-file FILE  keys that let other users in over HTTP, one a line\n"
    "  --exit-with-core     end when hearthd closes the link (when hearthd started us)\n"
    "  --check              only see whether HTTP could be served so, and say why not\n"
    "  --version, --help\n";

static int fail_usage(const char *words, const char *what)
{
    char shown[400];

    (void)text_show(shown, sizeof shown, what, strlen(what), false);
    fprintf(stderr, "hearth-front: %s%s\n%s", words, shown, usage);
    return EXIT_USAGE;
}

static int parse(int argc, char **argv, struct opts *o)
{
    enum {
        O_NN = 256,
        O_HTTP,
        O_CORE,
        O_KEYS,
        O_ORIGIN,
        O_RUNTIME,
        O_EXIT,
        O_ANY,
        O_CHECK,
        O_VERSION,
        O_HELP
    };
    static const struct option longs[] = {
        {"nn", 1, 0, O_NN},
        {"http", 1, 0, O_HTTP},
        {"core", 1, 0, O_CORE},
        {"api-key-file", 1, 0, O_KEYS},
        {"http-origin", 1, 0, O_ORIGIN},
        {"runtime", 1, 0, O_RUNTIME},
        {"exit-with-core", 0, 0, O_EXIT},
        {"http-any-port", 0, 0, O_ANY},
        {"check", 0, 0, O_CHECK},
        {"version", 0, 0, O_VERSION},
        {"help", 0, 0, O_HELP},
        {0},
    };
    for (int c; (c = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        switch (c) {
        case O_NN: o->nn = optarg; break;
        case O_HTTP: o->http = strcmp(optarg, "off") == 0 ? NULL : optarg; break;
        case O_CORE: o->core = optarg; break;
        case O_KEYS: o->api_key_file = optarg; break;
        case O_ORIGIN: o->origins = optarg; break;
        case O_RUNTIME: o->runtime = optarg; break;
        case O_EXIT: o->exit_with_core = true; break;
        case O_ANY: o->any_port = true; break;
        case O_CHECK: o->check = true; break;
        case O_VERSION: puts("hearth-front 0.1.0"); exit(0);
        case O_HELP:
        case 'h': fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); return EXIT_USAGE;
        }
    }
    if (optind < argc)
        return fail_usage("unexpected argument ", argv[optind]);
    return 0;
}

/* --- one face ------------------------------------------------------------------------------ */
static int run_face(const struct opts *o, bool nn)
{
    flog_init(nn ? "nn" : "http", getenv("JOURNAL_STREAM") != NULL, LOG_INFO_);
    struct corelink_opts core = {
        .path = o->core,
        .hello = "{\"min\":1,\"max\":1,\"client\":\"hearth-front nn\"}",
        .hold_ms = HOLD_MS,
        .exit_with_core = o->exit_with_core,
    };
    struct errbuf eb = {""};
    int r = nn ? nnface_run(o->nn, &core, &stop, &eb)
               : http_run(&(struct http_opts){.addr = o->http,
                                              .listen_fd = o->listen_fd,
                                              .any_port = o->any_port,
                                              .api_key_file = o->api_key_file,
                                              .origins = o->origins,
                                              .runtime = o->runtime,
                                              .core = core},
                          &stop, &eb);
    if (r < 0 && o->exit_with_core) /* hearthd, which says it as often as it is worth */
        dprintf(STDOUT_FILENO, "%s\n", eb.s);
    else if (r < 0)
        log_at(LOG_ERROR_, "%s", eb.s);
    if (!nn && r == -EADDRINUSE)
        return EXIT_PORT;
    /* A service manager need not try again what will be as wrong then; hearthd does, slowly, in
     * case a file is put right. */
    if (r == -EINVAL && !o->exit_with_core)
        return EXIT_USAGE;
    return r < 0 ? 1 : EXIT_CORE_GONE;
}

/* For hearthd's start: the words go to stdout. */
static int check(const struct opts *o)
{
    static struct keyfile keys;
    static struct origins origins;
    struct errbuf eb = {""};
    char addr[64];
    uint16_t port;
    int fd[2];
    flog_init("http", false, LOG_ERROR_);
    int r = o->api_key_file ? keyfile_read(&keys, o->api_key_file, &eb) : 0;
    sodium_memzero(&keys, sizeof keys);
    if (r == 0)
        r = origins_parse(&origins, o->origins ? o->origins : "", &eb);
    if (r < 0) {
        printf("%s\n", eb.s);
        return EXIT_USAGE;
    }
    if (!o->http)
        return 0;
    r = http_listen(
        &(struct http_opts){.addr = o->http, .listen_fd = -1, .any_port = o->any_port},
        o->api_key_file != NULL, addr, &port, fd, &eb);
    if (r < 0)
        printf("%s\n", eb.s);
    return r == -EADDRINUSE ? EXIT_PORT : r < 0 ? 1 : 0;
}

/* --- the keeper of two ----------------------------------------------------------------------- */
static pid_t start_face(const struct opts *o, bool nn)
{
    pid_t keeper = getpid(), pid = fork();
    if (pid != 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != keeper)
        _exit(0); /* it died in between */
    int code = run_face(o, nn);
    fflush(NULL);
    _exit(code);
}

static int keep(const struct opts *o)
{
    pid_t face[2] = {start_face(o, true), start_face(o, false)};
    bool ended = false;
    int code = 0;
    flog_init("keeper", getenv("JOURNAL_STREAM") != NULL, LOG_INFO_);
    while (!stop && !ended) {
        int st;
        pid_t pid = waitpid(-1, &st, 0);
        flog_hup_said();
        if (pid < 0)
            continue; /* a signal: stop says */
        for (int i = 0; i < 2; i++) {
            if (pid != face[i])
                continue;
            face[i] = 0;
            if (WIFSIGNALED(st)) {
                log_at(LOG_WARN_, "the %s face died of signal %d, starting it again",
                       i ? "http" : "nn", WTERMSIG(st));
                (void)poll(NULL, 0, AGAIN_MS);
                face[i] = start_face(o, i == 0);
            } else {
                /* It said why and chose to end: so does the whole. */
                ended = true;
                code = WEXITSTATUS(st);
            }
        }
    }
    for (int i = 0; i < 2; i++)
        if (face[i] > 0)
            kill(face[i], SIGTERM);
    for (int i = 0; i < 2; i++)
        if (face[i] > 0)
            (void)waitpid(face[i], NULL, 0);
    return code;
}

/* systemd's socket activation: the first descriptor, if it is meant for us. */
static int passed_fd(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    if (!pid || !fds || strtol(pid, NULL, 10) != getpid() || strtol(fds, NULL, 10) < 1)
        return -1;
    return 3;
}

int main(int argc, char **argv)
{
    struct opts o = {.listen_fd = passed_fd()};
    char core[4096];
    std_fds_open();
    int r = parse(argc, argv, &o);
    if (r)
        return r;
    if (o.check)
        return o.http || o.api_key_file || o.origins
                   ? check(&o)
                   : fail_usage("--check wants --http, --api-key-file or --http-origin", "");
    if (!o.core && o.runtime) {
        snprintf(core, sizeof core, "%s/core.sock", o.runtime);
        o.core = core;
    }
    if (!o.core)
        return fail_usage("--core or --runtime is needed", "");
    bool http = o.http || o.listen_fd >= 0;
    if (!o.nn && !http)
        return fail_usage("--nn or --http is needed", "");
    if (sodium_init() < 0)
        return fail_usage("libsodium cannot start", "");

    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    /* Ignored when hearthd is the parent, which answers Ctrl-C itself. */
    if (signal(SIGINT, SIG_IGN) != SIG_IGN)
        sigaction(SIGINT, &sa, NULL);
    /* Not ended by it: streams are open.  It wakes whoever waits, to say that. */
    if (signal(SIGHUP, SIG_IGN) != SIG_IGN)
        sigaction(SIGHUP, &(struct sigaction){.sa_handler = flog_on_hup}, NULL);
    signal(SIGPIPE, SIG_IGN);
    sandbox_begin();
    umask(077);
    return o.nn && http ? keep(&o) : run_face(&o, o.nn != NULL);
}
