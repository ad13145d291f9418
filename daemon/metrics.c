/* metrics.c - see status.h: counters and gauges as Prometheus text, one table. */
#include "base/clock.h"
#include "base/text.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/frontchild.h"
#include "daemon/gen.h"
#include "daemon/kvflow.h"
#include "daemon/link.h"
#include "daemon/model.h"
#include "daemon/sess.h"
#include "daemon/status.h"
#include "kvstore/kvstore.h"
#include "proto.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void head(FILE *f, const char *name, bool counter, const char *help)
{
    fprintf(f, "# HELP hearth_%s %s\n# TYPE hearth_%s %s\n", name, help, name,
            counter ? "counter" : "gauge");
}

static void one(FILE *f, const char *name, bool counter, const char *help, double v)
{
    head(f, name, counter, help);
    fprintf(f, "hearth_%s %.17g\n", name, v);
}

/* A label's value: backslash, quote and newline are escaped, as the format wants. */
static void label(FILE *f, const char *s)
{
    for (size_t len; *s; s += len ? len : 1) {
        len = text_char(s, strlen(s));
        if (*s == '\\' || *s == '"')
            fputc('\\', f);
        if (*s == '\n')
            fputs("\\n", f);
        else if (len)
            fwrite(s, 1, len, f);
        else
            fputs("\xef\xbf\xbd", f);
    }
}

static void process_part(FILE *f)
{
    long pages = 0, rss = 0;
    FILE *p = fopen("/proc/self/statm", "re");

    if (p) {
        if (fscanf(p, "%ld %ld", &pages, &rss) != 2)
            rss = 0;
        fclose(p);
    }
    fprintf(f,
            "# HELP process_resident_memory_bytes Resident memory.\n"
            "# TYPE process_resident_memory_bytes gauge\n"
            "process_resident_memory_bytes %.17g\n",
            (double)rss * (double)sysconf(_SC_PAGESIZE));
}

static void store_part(FILE *f, struct daemon *d)
{
    struct kvs_stats k = {0};
    struct kvflow_usage dev = {0};

    kvs_stats(d->store, &k);
    kvflow_usage(d, NULL, &dev);
    one(f, "warnings", false, "Standing warnings.", d->n_warnings + k.n_warnings);
    head(f, "tier_used_bytes", false, "Bytes in use, by tier.");
    fprintf(f, "hearth_tier_used_bytes{tier=\"device\"} %" PRIu64 "\n", dev.used_bytes);
    fprintf(f, "hearth_tier_used_bytes{tier=\"host\"} %" PRIu64 "\n", k.host_used);
    fprintf(f, "hearth_tier_used_bytes{tier=\"file\"} %" PRIu64 "\n", k.file_used);
    head(f, "tier_limit_bytes", false, "Bytes that may be used, by tier.");
    fprintf(f, "hearth_tier_limit_bytes{tier=\"device\"} %" PRIu64 "\n", dev.limit_bytes);
    fprintf(f, "hearth_tier_limit_bytes{tier=\"host\"} %" PRIu64 "\n", k.host_limit);
    fprintf(f, "hearth_tier_limit_bytes{tier=\"file\"} %" PRIu64 "\n", k.file_limit);
    head(f, "tier_allocated_bytes", false, "Used, and reserved for more.");
    fprintf(f, "hearth_tier_allocated_bytes{tier=\"file\"} %" PRIu64 "\n", k.file_allocated);
    const struct {
        const char *name, *help;
        bool counter;
        uint64_t v;
    } m[] = {
        {"blocks", "Blocks in the file tier.", false, k.blocks},
        {"blocks_dirty", "Finished blocks not yet durable.", false, k.blocks_dirty + dev.dirty},
        {"block_misses_total", "Blocks asked for and not there.", true, k.misses},
        {"block_corrupt_total", "Copies dropped because a check failed.", true, k.corrupt},
        {"index_rows_repaired_total", "Damaged rows of the index made anew.", true,
         k.rows_repaired},
        {"index_rows_damaged_total", "Damaged rows that could not be.", true,
         k.rows_unrepaired},
        {"block_evicted_total", "Blocks evicted from a tier.", true, k.evicted},
        {"store_written_bytes_total", "Bytes written to disk.", true, k.bytes_written},
        {"store_new_state_bytes_total", "Bytes of new state behind them.", true,
         k.new_state_bytes},
        {"store_read_bytes_total", "Bytes read from disk.", true, k.bytes_read},
        {"store_written_today_bytes", "Counted against the day's write budget.", false,
         k.today_bytes},
        {"store_syncs_total", "fdatasync calls.", true, k.syncs},
        {"store_commits_total", "Index transactions.", true, k.commits},
        {"store_log_bytes", "Size of the turn log.", false, k.log_bytes},
        {"store_index_bytes", "Size of the index.", false, k.index_bytes},
        {"store_fault", "1 while persistence is impaired.", false, k.fault != 0},
        {"store_in_flight", "Store requests accepted and not done.", false,
         kvs_in_flight(d->store)},
    };
    for (size_t i = 0; i < sizeof m / sizeof *m; i++)
        one(f, m[i].name, m[i].counter, m[i].help, (double)m[i].v);
    head(f, "block_hits_total", true, "Blocks found, by tier.");
    fprintf(f, "hearth_block_hits_total{tier=\"host\"} %" PRIu64 "\n", k.hits_host);
    fprintf(f, "hearth_block_hits_total{tier=\"file\"} %" PRIu64 "\n", k.hits_file);
}

static void model_part(FILE *f, struct daemon *d)
{
    const struct model *m;

    head(f, "model_loaded", false, "1 when the model is loaded.");
    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++) {
        fputs("hearth_model_loaded{model=\"", f);
        label(f, m->name);
        fprintf(f, "\"} %d\n", m->state == MODEL_LOADED);
    }
    head(f, "model_requests", false, "Requests running or queued, by model.");
    for (uint32_t i = 0; (m = model_at(d, i)) != NULL; i++) {
        fputs("hearth_model_requests{model=\"", f);
        label(f, m->name);
        fprintf(f, "\"} %u\n", m->users);
    }
}

static void link_part(FILE *f, struct daemon *d)
{
    struct links_stats l;

    links_stats(d, &l);
    one(f, "links", false, "Connections on core.sock.", l.links);
    one(f, "links_accepted_total", true, "Connections accepted.", (double)l.accepted);
    one(f, "frames_total", true, "Frames read.", (double)l.frames);
    one(f, "bad_frames_total", true, "Frames refused before any operation.",
        (double)l.bad_frames);
    one(f, "calls_open", false, "Requests without their reply yet.", (double)l.calls_open);
    one(f, "link_held_bytes", false, "Bytes of requests and replies that peers have here.",
        (double)l.held_bytes);
    one(f, "link_read_bytes_total", true, "Bytes read from peers.", (double)l.bytes_in);
    one(f, "link_written_bytes_total", true, "Bytes written to peers.", (double)l.bytes_out);
    head(f, "replies_total", true, "Replies, by status.");
    for (uint32_t s = 0; s < sizeof l.replies / sizeof *l.replies; s++)
        if (l.replies[s])
            fprintf(f, "hearth_replies_total{status=\"%s\"} %" PRIu64 "\n", hrt_status_str(s),
                    l.replies[s]);
}

/* What all users' requests together come to: from how it moves each could tell what another does. */
static void whole_part(FILE *f, struct daemon *d)
{
    struct gen_counts g = {0};

    gen_counts(d, &g);
    one(f, "requests_running", false, "Requests in steps or being restored.", g.running);
    one(f, "requests_waiting", false, "Requests queued.", g.waiting);
    one(f, "streams", false, "Streams in memory, ended ones too.", g.streams);
    one(f, "front_restarts_total", true, "hearth-front processes started again.",
        (double)fronts_restarts(d));
    store_part(f, d);
    model_part(f, d);
    link_part(f, d);
    process_part(f);
}

char *metrics_text(struct daemon *d, uint32_t uid, size_t *ret_bytes)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_bytes);
    uint32_t anonymous = 0, sessions;
    bool whole = daemon_trusts(d, uid);

    if (!f)
        return NULL;
    head(f, "build_info", false, "Always 1; the labels say what runs.");
    fprintf(f, "hearth_build_info{version=\"%s\",backend=\"%s\"} 1\n", HEARTH_VERSION,
            d->backend[0] ? d->backend : "cpu");
    one(f, "uptime_seconds", false, "Since start.", (double)(now_ns() - d->started_ns) / 1e9);
    sessions = whole ? sess_count(d, &anonymous) : sess_count_of(d, uid, &anonymous);
    one(f, "sessions", false, "Sessions known.", sessions);
    one(f, "sessions_anonymous", false, "Of them without a name.", anonymous);
    if (whole)
        whole_part(f, d);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
