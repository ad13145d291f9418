/* main.c - hearthd: opens the parts in order, runs the loop, closes them in reverse.
 *
 * Exit codes: 0 stopped as told, 1 failed (said on stderr), 2 wrong usage or configuration. */
#include "base/clock.h"
#include "base/stdfds.h"
#include "base/text.h"
#include "daemon/busfault.h"
#include "daemon/chores.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/frontchild.h"
#include "daemon/gen.h"
#include "daemon/ident.h"
#include "daemon/link.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "daemon/model.h"
#include "daemon/modelfile.h"
#include "daemon/ops_text.h"
#include "daemon/outbox.h"
#include "daemon/prep.h"
#include "daemon/rundir.h"
#include "daemon/sdnotify.h"
#include "daemon/sess.h"
#include "daemon/status.h"
#include "daemon/stored.h"
#include "daemon/swapped.h"
#include "daemon/templates.h"
#include "daemon/weightsid.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, STORE_WAIT_S = 10, STUCK_S = 60 };

/* ---- signals -------------------------------------------------------------------------------- */
static const int handled[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGCHLD};

static void dump(struct daemon *d)
{
    cJSON *j = status_json(d, d->uid);
    char *s = j ? cJSON_PrintUnformatted(j) : NULL;
    size_t n = s ? strlen(s) : 0;

    /* A line of the log is bounded: the object goes out in pieces that are numbered. */
    for (size_t at = 0, i = 0; at < n; at += 1500, i++)
        log_at(LOG_INFO_, "status %zu: %.1500s", i, s + at);
    free(s);
    cJSON_Delete(j);
}

static void on_signal(struct loop_watch *w, uint32_t events)
{
    struct daemon *d = w->user;
    struct signalfd_siginfo si;

    (void)events;
    while (read(w->fd, &si, sizeof si) == sizeof si) {
        switch (si.ssi_signo) {
        case SIGCHLD: fronts_reap(d); break;
        case SIGHUP:
            log_at(LOG_INFO_,
                   "SIGHUP: settings are read at start only; restart to apply changes");
            break;
        case SIGUSR1: dump(d); break;
        default:
            if (si.ssi_pid) /* a terminal's Ctrl-C comes from the kernel */
                log_at(LOG_INFO_, "%s from pid %u, stopping", strsignal((int)si.ssi_signo),
                       si.ssi_pid);
            else
                log_at(LOG_INFO_, "%s, stopping", strsignal((int)si.ssi_signo));
            d->stopping = true;
            loop_stop(d->loop);
        }
    }
}

static int signals_open(struct daemon *d, struct loop_watch *w)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < sizeof handled / sizeof *handled; i++)
        sigaddset(&set, handled[i]);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file at its limit is an error of that write */
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    *w = (struct loop_watch){.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
                             .events = EPOLLIN,
                             .ready = on_signal,
                             .user = d};
    return w->fd < 0 ? -errno : loop_add(d->loop, w);
}

/* From here on a second signal ends the process at once, and so does a stop that hangs: what
 * was acknowledged is on disk already, so nothing is lost by that. */
static void signals_to_default(const struct conf *c)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGALRM);
    for (size_t i = 0; i < 2; i++)
        (void)signal(handled[i], SIG_DFL);
    (void)signal(SIGALRM, SIG_DFL);
    (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
    (void)alarm(c->stop_timeout_s + STORE_WAIT_S + 5);
}

/* What will keep the store from what it was promised is said before it happens. */
static void check_room(struct daemon *d)
{
    const struct conf *c = d->conf;
    struct rlimit lim;
    struct statvfs v;
    const double mib = 1 << 20;

    if (getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur != RLIM_INFINITY)
        daemon_warn(
            d,
            "no file of this process may grow past %.1f MiB (ulimit -f, LimitFSIZE=); the "
            "store takes that for a full disk: raise it",
            (double)lim.rlim_cur / mib);
    if (statvfs(c->state, &v) == 0 && c->disk_bytes > (uint64_t)v.f_blocks * v.f_frsize)
        daemon_warn(
            d,
            "disk: %.0f MiB are more than the file system of %s has in all (%.0f MiB): set "
            "a lower limit (--disk), or the disk is full before it is reached",
            (double)c->disk_bytes / mib, c->state,
            (double)v.f_blocks * (double)v.f_frsize / mib);
}

/* ---- parts ------------------------------------------------------------------------------------ */
/* What begins and ends is in the store's own statistics meanwhile. */
static void store_said(void *user, int kind, const char *words)
{
    if (kind == KVS_NOTE_STANDS)
        daemon_warn(user, "store: %s", words);
    else
        log_at(kind == KVS_NOTE_OVER ? LOG_INFO_ : LOG_WARN_, "store: %s", words);
}

static int store_open(struct daemon *d, struct errbuf *eb)
{
    const struct conf *c = d->conf;
    struct kvs_open_report rep = {0};
    struct kvs_opts o = {.dir = c->state,
                         .io = c->io == CONF_IO_URING     ? KVS_IO_URING
                               : c->io == CONF_IO_THREADS ? KVS_IO_THREADS
                                                          : KVS_IO_AUTO,
                         .host_bytes = c->host_bytes,
                         .disk_bytes = c->disk_bytes,
                         .day_bytes = c->day_bytes,
                         .no_fsync = c->no_fsync,
                         .wrong = c->wrong == CONF_WRONG_INDEX_FIRST ? KVS_WRONG_INDEX_FIRST
                                  : c->wrong == CONF_WRONG_ACK_FIRST ? KVS_WRONG_ACK_FIRST
                                                                     : KVS_RIGHT};

    /* An index that was lost is rebuilt from every slot's header: that takes its time. */
    notify_extend(d, 600);
    notify_status(d, "opening the store in %s", c->state);
    uint64_t t0 = now_ns();
    int r = kvs_open(&d->store, &o, &rep, eb);
    if (r < 0) {
        if (!eb->s[0])
            err_set(eb, r, "store %s: %s", c->state, err_str(r));
        return r;
    }
    /* LMDB opens its files so that programs inherit them; nothing that is open here is for any. */
    (void)close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    bool fresh = !rep.sessions && !rep.blocks && !rep.log_bytes;
    log_at(LOG_INFO_, "store %s: open in %.0f ms, %llu sessions, %llu blocks, io %s%s%s",
           c->state, (double)(now_ns() - t0) / 1e6, (unsigned long long)rep.sessions,
           (unsigned long long)rep.blocks, rep.io ? rep.io : "?",
           rep.clean || fresh ? "" : ", was not closed cleanly",
           rep.rebuilt ? ", index rebuilt" : "");
    if (rep.format_was)
        log_at(LOG_INFO_,
               "store %s: was of format %u and is upgraded to %u: an older hearthd does not "
               "open it any more",
               c->state, rep.format_was, rep.format);
    if (rep.blocks_dropped || rep.log_torn_bytes)
        log_at(LOG_INFO_,
               "store: %llu blocks not finished were dropped, %llu torn bytes of the "
               "turn log",
               (unsigned long long)rep.blocks_dropped, (unsigned long long)rep.log_torn_bytes);
    check_room(d);
    struct kvs_stats k = {0};
    kvs_stats(d->store, &k);
    if (k.file_allocated > c->disk_bytes && rep.file_largest)
        daemon_warn(d,
                    "disk: the store took %.1f MiB at this start and --disk allows %llu MiB: "
                    "whole files "
                    "of KV, of up to %.1f MiB, go until it fits, those used longest ago first, "
                    "and what "
                    "was in them is computed again when it is asked for; to keep what is left, "
                    "stop and "
                    "raise --disk",
                    (double)k.file_allocated / (1 << 20),
                    (unsigned long long)(c->disk_bytes >> 20),
                    (double)rep.file_largest / (1 << 20));
    if (c->wrong != CONF_RIGHT)
        daemon_warn(d, "wrong-order is set: this daemon loses data on purpose");
    r = stored_open(&d->stored, d->store, d->loop, store_said, d);
    return r < 0 ? err_set(eb, r, "store threads: %s", err_str(r)) : 0;
}

/* The loop turns, or this would not be asked; what else could be stuck is a worker that renders
 * or tokenises, or the disk.  Without any progress for this long, a restart is what is left to
 * try. */
static bool healthy(struct daemon *d)
{
    static uint64_t seen, since_ns;
    struct kvs_stats k = {0};

    if (d->prep && prep_silent_ns(d->prep) > STUCK_S * 1000000000ull) {
        log_at(LOG_ERROR_,
               "a worker has prepared one request for %d s, the watchdog is not fed", STUCK_S);
        return false;
    }
    if (!d->store || !kvs_in_flight(d->store)) {
        since_ns = 0;
        return true;
    }
    kvs_stats(d->store, &k);
    uint64_t now = now_ns(), sum = k.bytes_written + k.bytes_read + k.syncs + k.commits;
    if (!since_ns || sum != seen) {
        seen = sum;
        since_ns = now;
    }
    if (now - since_ns < STUCK_S * 1000000000ull)
        return true;
    log_at(LOG_ERROR_, "the disk has not finished anything for %d s, the watchdog is not fed",
           STUCK_S);
    return false;
}

static int opened(int r, const char *what, struct errbuf *eb)
{
    if (r < 0 && !eb->s[0])
        err_set(eb, r, "%s: %s", what, err_str(r));
    return r;
}

static int daemon_open(struct daemon *d, struct loop_watch *sig, struct errbuf *eb)
{
    int r = rundir_take(d->conf, &d->lock_fd, eb);

    if (r == 0)
        r = rundir_state(d->conf, eb);
    if (r == 0)
        r = fronts_check(d->conf, eb);
    if (r == 0)
        r = opened(loop_open(&d->loop), "event loop", eb);
    if (r == 0)
        r = opened(signals_open(d, sig), "signals", eb);
    if (r == 0)
        r = opened(notify_open(d, healthy), "notify", eb);
    if (r == 0)
        r = store_open(d, eb);
    if (r == 0)
        r = opened(idents_open(&d->idents, kvs_uuid(d->store)), "owners", eb);
    if (r == 0)
        r = opened(chores_open(d), "chores", eb);
    if (r == 0)
        r = opened(prep_open(&d->prep, d->loop), "worker thread", eb);
    if (r == 0)
        r = opened(weightsid_open(&d->wid, d->loop), "hash thread", eb);
    if (r == 0)
        r = opened(templates_open(), "chat templates", eb);
    if (r == 0)
        r = models_open(d, eb);
    if (r == 0)
        models_on_change(d, ops_text_model_changed);
    if (r == 0)
        models_on_change(d, swapped_model);
    if (r == 0)
        r = opened(sess_open(d, eb), "sessions", eb);
    if (r == 0)
        r = opened(outbox_open(d), "outbox", eb);
    if (r == 0)
        r = opened(sess_lost_write(d), "sessions", eb);
    if (r == 0)
        r = opened(gen_open(d, eb), "requests", eb);
    if (r == 0)
        r = links_open(d, eb);
    if (r == 0)
        r = opened(fronts_open(d), "fronts", eb);
    return r;
}

static void daemon_close(struct daemon *d)
{
    ops_text_close();
    if (d->gen)
        gen_stop(d);
    fronts_close(d);
    links_close(d);
    chores_close(d);
    prep_close(d->prep);
    weightsid_close(d->wid);
    stored_close(d->stored, STORE_WAIT_S * 1000000000ull);
    models_close(d);
    templates_close();
    outbox_close(d);
    if (d->gen)
        gen_close(d);
    if (d->sess)
        sess_close(d);
    idents_close(d->idents);
    if (d->store)
        kvs_close(d->store);
    notify_close(d);
    loop_close(d->loop);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
}

/* Before there is a log: a file's name or a value may be in it. */
static void complain(const char *kind, const char *words)
{
    char shown[2 * sizeof(struct errbuf)];

    (void)text_show(shown, sizeof shown, words, strlen(words), false);
    fprintf(stderr, "hearthd: %s%s\n", kind, shown);
}

int main(int argc, char **argv)
{
    struct conf *c;
    struct errbuf eb = {""};
    struct daemon d = {.lock_fd = -1, .uid = geteuid(), .started_ns = now_ns()};
    struct loop_watch sig = {.fd = -1};
    struct rlimit lim;

    std_fds_open();
    if (argc == 3 && strcmp(argv[1], TEMPLATES_ARG) == 0 && strcmp(argv[2], "3") == 0)
        templates_child(3);
    if (conf_open(&c, argc, argv, NULL, &eb) < 0) {
        complain("", eb.s);
        return EXIT_USAGE;
    }
    if (c->does != CONF_RUN) {
        if (c->does == CONF_HELP)
            conf_help();
        else if (c->does == CONF_VERSION)
            printf("hearthd %s\n", HEARTH_VERSION);
        else {
            conf_print(c);
            (void)fflush(stdout);
            struct errbuf dir = {""}, section = {""}, odd;
            size_t at = 0;
            while (conf_env_odd(environ, &at, &odd))
                complain("warning: ", odd.s);
            if (conf_models_dir(c, &dir) < 0)
                complain("warning: ", dir.s);
            int r = modelfile_check(c, &section, &eb);
            if (section.s[0])
                complain("warning: ", section.s);
            if (r < 0 || fronts_check_given(c, &eb) < 0)
                complain("", eb.s);
        }
        conf_close(c);
        return eb.s[0] ? EXIT_USAGE : 0;
    }
    if (fronts_check_given(c, &eb) < 0) {
        complain("", eb.s);
        conf_close(c);
        return EXIT_USAGE;
    }
    log_setup(c->log_level, c->journal);
    size_t at = 0;
    while (conf_env_odd(environ, &at, &eb))
        log_at(LOG_WARN_, "%s", eb.s);
    eb.s[0] = 0;
    if (conf_models_dir(c, &eb) < 0) {
        log_at(LOG_WARN_, "%s", eb.s);
        eb.s[0] = 0;
    }
    umask(077);
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max < 65536 ? lim.rlim_max : 65536;
        (void)setrlimit(RLIMIT_NOFILE, &lim);
    }
    if (getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        (void)setrlimit(RLIMIT_FSIZE, &lim);
    }
    d.conf = c;
    busfault_open(c->state, c->journal);
    int r = daemon_open(&d, &sig, &eb);
    if (r == 0) {
        log_at(LOG_INFO_, "hearthd %s ready on %s, pid %d", HEARTH_VERSION, c->core_path,
               (int)getpid());
        if (isatty(STDERR_FILENO) && tcgetpgrp(STDERR_FILENO) == getpgrp())
            log_at(LOG_INFO_, "stop with Ctrl-C");
        notify_status(&d, "ready");
        notify_ready(&d);
        models_start(&d);
        r = loop_run(d.loop);
        if (r < 0)
            err_set(&eb, r, "event loop: %s", err_str(r));
    }
    if (r < 0)
        log_at(LOG_ERROR_, "%s", eb.s);
    d.stopping = true;
    notify_stopping(&d);
    signals_to_default(c);
    notify_status(&d, "stopping");
    links_stop(&d);
    daemon_close(&d);
    if (sig.fd >= 0)
        close(sig.fd);
    if (r == 0)
        log_at(LOG_INFO_, "hearthd stopped");
    conf_close(c);
    return r < 0 ? EXIT_FAILED : 0;
}
