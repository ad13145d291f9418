/* status.c - see status.h: the STATUS object. */
#include "daemon/status.h"
#include "base/clock.h"
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/frontchild.h"
#include "daemon/gen.h"
#include "daemon/kvflow.h"
#include "daemon/model.h"
#include "daemon/noroom.h"
#include "daemon/outbox.h"
#include "daemon/quota.h"
#include "daemon/sess.h"
#include "daemon/units.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The front writes the port it got; a few bytes on a memory file system, read when asked. */
const char *status_http(struct daemon *d)
{
    char path[4096], line[16] = "";
    uint64_t port;

    d->http[0] = 0;
    if (!d->conf->http)
        return d->http;
    snprintf(path, sizeof path, "%s/http.port", d->conf->runtime);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return d->http;
    line[n] = 0;
    line[strcspn(line, "\n")] = 0;
    if (units_u64(line, &port) && port <= 65535)
        snprintf(d->http, sizeof d->http,
                 strchr(d->conf->http_addr, ':') ? "[%.50s]:%s" : "%.50s:%s",
                 d->conf->http_addr, line);
    return d->http;
}

static void tier(cJSON *in, const char *name, uint64_t used, uint64_t limit)
{
    cJSON *t = cJSON_AddObjectToObject(in, name);

    cJSON_AddNumberToObject(t, "used", (double)used);
    cJSON_AddNumberToObject(t, "limit", (double)limit);
}

/* Where a front of ours was told to serve HTTP; "" when none will. */
static const char *http_set(const struct daemon *d, char *ret, size_t cap)
{
    const struct conf *c = d->conf;

    ret[0] = 0;
    if (fronts_http(d))
        snprintf(ret, cap, strchr(c->http_addr, ':') ? "[%.50s]:%u" : "%.50s:%u", c->http_addr,
                 c->http_port);
    return ret;
}

/* The port is another than the one that was asked for: clients of that one reach a stranger. */
static void http_elsewhere(const struct daemon *d, cJSON *w)
{
    const struct conf *c = d->conf;
    const char *colon = strrchr(d->http, ':');
    char words[300];

    if (!colon || !fronts_http(d) || !c->http_port ||
        strtoul(colon + 1, NULL, 10) == c->http_port)
        return;
    snprintf(
        words, sizeof words,
        "HTTP is served on port %s: port %u was taken (the log says by whom), and clients "
        "that use %u reach that program instead; end it and restart, or set a port that is "
        "free with --http",
        colon + 1, c->http_port, c->http_port);
    cJSON_AddItemToArray(w, cJSON_CreateString(words));
}

/* What every answer of such a model says, for who asks none.  A day's budget and a store that is off
 * are said by themselves. */
static void blocks_stay(struct daemon *d, uint32_t uid, cJSON *w)
{
    char why[NOROOM_WORDS], said[NOROOM_WORDS + NAME_BYTES_MAX + 200];
    const struct model *m;

    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++) {
        int r = m->state == MODEL_LOADED ? kvflow_fault(m) : 0;

        if (r == 0 || r == -EDQUOT || r == -EROFS)
            continue;
        snprintf(said, sizeof said,
                 "model %s: finished blocks do not reach the disk, and what is not kept in "
                 "memory is computed again: %s",
                 m->name, noroom_block(d, uid, m, r, why));
        cJSON_AddItemToArray(w, cJSON_CreateString(said));
    }
}

/* It cannot be loaded, and is what this daemon is for: named at start, or what is answered with when
 * nobody names one. */
static bool missed(struct daemon *d, const struct model *m)
{
    return m->state == MODEL_FAILED && !m->gone && model_tried(m) &&
           (conf_model(d->conf, m->name)->path || model_is_default(d, m));
}

static void warnings(struct daemon *d, const struct kvs_stats *k, uint32_t uid, cJSON *j)
{
    cJSON *w = cJSON_AddArrayToObject(j, "warnings");
    char words[QUOTA_WORDS], why[NOROOM_WORDS], said[NOROOM_WORDS + 1024];

    http_elsewhere(d, w);
    /* Who may not see why it is off sees that it is; for others the reason says it. */
    if (k->fault == -EROFS && !(daemon_trusts(d, uid) && k->warning_fault[0] == -EROFS))
        cJSON_AddItemToArray(
            w, cJSON_CreateString("persistence is off: answers go on, nothing new survives a "
                                  "restart; who runs the daemon sees why in its status"));
    else if (k->fault == -EROFS)
        ;
    else if (k->fault == -ENOSPC) {
        snprintf(said, sizeof said, "%s; nothing new is kept until then",
                 noroom_words(d, uid, k->full_why, why));
        cJSON_AddItemToArray(w, cJSON_CreateString(said));
    } else if (k->fault)
        cJSON_AddItemToArray(w, cJSON_CreateString(err_str(k->fault)));
    if (k->index_hurt)
        cJSON_AddItemToArray(
            w, cJSON_CreateString("the index is damaged and not made anew so far; if this "
                                  "stays restart hearthd, which then does it; the turn log "
                                  "has what was acknowledged"));
    if (k->turns_full) {
        snprintf(said, sizeof said, "%s; nothing new is begun until then",
                 noroom_words(d, uid, -EDQUOT, why));
        cJSON_AddItemToArray(w, cJSON_CreateString(said));
    }
    if (outbox_words(d, uid, said, sizeof said))
        cJSON_AddItemToArray(w, cJSON_CreateString(said));
    if (!quota_turns(d, uid, words, sizeof words))
        cJSON_AddItemToArray(w, cJSON_CreateString(words));
    blocks_stay(d, uid, w);
    if (!quota_puts(d, uid, words, sizeof words))
        cJSON_AddItemToArray(w, cJSON_CreateString(words));
    for (uint32_t i = 0; i < k->n_warnings && daemon_trusts(d, uid); i++)
        if (k->fault != -ENOSPC || k->warning_fault[i] != -ENOSPC) /* else it is said */
            cJSON_AddItemToArray(w, cJSON_CreateString(k->warning[i]));
    if (k->corrupt && daemon_trusts(d, uid)) {
        snprintf(said, sizeof said,
                 "%llu stored block%s did not pass the check since the start, and %s computed "
                 "again; if it goes on look after the disk or the memory (dmesg, smartctl)",
                 (unsigned long long)k->corrupt, k->corrupt == 1 ? "" : "s",
                 k->corrupt == 1 ? "is" : "are");
        cJSON_AddItemToArray(w, cJSON_CreateString(said));
    }
    if (d->conf->no_fsync)
        cJSON_AddItemToArray(w, cJSON_CreateString("no-fsync is on: a power cut loses turns"));
    const struct model *m;
    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++)
        if (missed(d, m)) {
            char failed[sizeof m->error + NAME_BYTES_MAX + 64];

            snprintf(failed, sizeof failed, "model %s cannot be loaded: %s", m->name, m->error);
            cJSON_AddItemToArray(w, cJSON_CreateString(failed));
        }
    /* These may name sessions of others. */
    if (!daemon_trusts(d, uid)) {
        snprintf(words, sizeof words, "%u more: who runs the daemon sees them in its status",
                 d->n_warnings + k->n_warnings);
        if (d->n_warnings + k->n_warnings)
            cJSON_AddItemToArray(w, cJSON_CreateString(words));
        return;
    }
    for (uint32_t i = 0; i < d->n_warnings; i++)
        cJSON_AddItemToArray(w, cJSON_CreateString(d->warnings[i]));
}

static const char *state_word(struct daemon *d, const struct kvs_stats *k)
{
    const struct model *m;

    if (d->stopping)
        return "stopping";
    if (k->fault || k->turns_full || k->index_hurt || k->files_off || outbox_why(d))
        return "degraded";
    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++)
        if (m->state == MODEL_LOADING && conf_model(d->conf, m->name)->path)
            return "starting";
    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++)
        if (missed(d, m))
            return "degraded";
    return "ok";
}

cJSON *status_json(struct daemon *d, uint32_t uid)
{
    cJSON *j = cJSON_CreateObject(), *o;
    struct kvs_stats k = {0};
    struct kvflow_usage dev = {0};
    struct gen_counts g = {0};
    uint32_t anonymous = 0, sessions;
    uint8_t epoch[8];
    char hex[17], http[sizeof d->http];

    if (!j)
        return NULL;
    models_look(d); /* the word and the warnings speak of the same files */
    kvs_stats(d->store, &k);
    kvflow_usage(d, NULL, &dev);
    gen_counts(d, &g);
    sessions =
        daemon_trusts(d, uid) ? sess_count(d, &anonymous) : sess_count_of(d, uid, &anonymous);
    cJSON_AddStringToObject(j, "status", state_word(d, &k));
    cJSON_AddNumberToObject(j, "pid", (double)getpid());
    cJSON_AddStringToObject(j, "version", HEARTH_VERSION);
    cJSON_AddNumberToObject(j, "uptime_s", (double)(now_ns() - d->started_ns) / 1e9);
    cJSON_AddStringToObject(j, "backend", d->backend[0] ? d->backend : "cpu");
    cJSON_AddNumberToObject(j, "threads",
                            d->conf->threads ? d->conf->threads
                                             : (double)sysconf(_SC_NPROCESSORS_ONLN));
    cJSON_AddStringToObject(j, "io", k.uring ? "uring" : "threads");
    st64be(epoch, d->epoch);
    hex_put(hex, epoch, sizeof epoch);
    if (d->epoch)
        cJSON_AddStringToObject(j, "epoch", hex);
    else
        cJSON_AddNullToObject(j, "epoch");
    o = cJSON_AddArrayToObject(j, "models");
    const struct model *m;
    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++)
        if (!m->gone)
            cJSON_AddItemToArray(o, model_json(d, m, uid));
    o = cJSON_AddObjectToObject(j, "sessions");
    cJSON_AddNumberToObject(o, "count", sessions);
    cJSON_AddNumberToObject(o, "named", sessions - anonymous);
    cJSON_AddNumberToObject(o, "anonymous", anonymous);
    cJSON_AddNumberToObject(o, "running", g.running);
    cJSON_AddNumberToObject(o, "memory", (double)sess_bytes(d));
    o = cJSON_AddObjectToObject(j, "tiers");
    tier(o, "device", dev.used_bytes, dev.limit_bytes);
    tier(o, "host", k.host_used, k.host_limit);
    tier(o, "file", k.file_used, k.file_limit);
    cJSON_AddNumberToObject(cJSON_GetObjectItemCaseSensitive(o, "file"), "allocated",
                            (double)k.file_allocated);
    cJSON_AddNumberToObject(cJSON_GetObjectItemCaseSensitive(o, "file"), "kept",
                            (double)k.file_kept);
    o = cJSON_AddObjectToObject(j, "written");
    cJSON_AddNumberToObject(o, "bytes", (double)k.bytes_written);
    cJSON_AddNumberToObject(o, "new_state_bytes", (double)k.new_state_bytes);
    cJSON_AddNumberToObject(o, "today", (double)k.today_bytes);
    if (k.day_limit)
        cJSON_AddNumberToObject(o, "budget", (double)k.day_limit);
    else
        cJSON_AddNullToObject(o, "budget");
    o = cJSON_AddObjectToObject(j, "read");
    cJSON_AddNumberToObject(o, "bytes", (double)k.bytes_read);
    o = cJSON_AddObjectToObject(j, "blocks");
    cJSON_AddNumberToObject(o, "file", (double)k.blocks);
    cJSON_AddNumberToObject(o, "dirty", (double)(k.blocks_dirty + dev.dirty));
    cJSON_AddNumberToObject(o, "hits_host", (double)k.hits_host);
    cJSON_AddNumberToObject(o, "hits_file", (double)k.hits_file);
    cJSON_AddNumberToObject(o, "misses", (double)k.misses);
    cJSON_AddNumberToObject(o, "corrupt", (double)k.corrupt);
    cJSON_AddNumberToObject(o, "segments_unread", (double)k.segs_unread);
    cJSON_AddNumberToObject(o, "memory", (double)k.blocks_memory);
    o = cJSON_AddObjectToObject(j, "index");
    cJSON_AddNumberToObject(o, "repaired", (double)k.rows_repaired);
    cJSON_AddNumberToObject(o, "damaged", (double)k.rows_unrepaired);
    o = cJSON_AddObjectToObject(j, "queue");
    cJSON_AddNumberToObject(o, "running", g.running);
    cJSON_AddNumberToObject(o, "waiting", g.waiting);
    if (status_http(d)[0])
        cJSON_AddStringToObject(j, "http", d->http);
    else
        cJSON_AddNullToObject(j, "http");
    if (http_set(d, http, sizeof http)[0])
        cJSON_AddStringToObject(j, "http_set", http);
    else
        cJSON_AddNullToObject(j, "http_set");
    if (fronts_http_error(d)[0])
        cJSON_AddStringToObject(j, "http_error", fronts_http_error(d));
    else
        cJSON_AddNullToObject(j, "http_error");
    if (daemon_trusts(d, uid))
        cJSON_AddStringToObject(j, "state", d->conf->state);
    warnings(d, &k, uid, j);
    return j;
}
