/* ops_core.c - HELLO, PING, STATUS, METRICS, and the operations that are not there yet. */
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/status.h"
#include <stdlib.h>
#include <unistd.h>

enum { WAIT_MAX_MS = 30000 };

void op_hello(struct call *c)
{
    static const char *const feature[] = {"sessions", "fork",   "rewind",   "ingest",
                                          "logprobs", "resume", "tokenize", "metrics"};
    uint64_t min = HRT_MAJOR, max = HRT_MAJOR;
    const char *client = NULL;
    cJSON *o, *l;

    if (want_u64(c, c->json, "min", 0, 255, &min) < 0 ||
        want_u64(c, c->json, "max", 0, 255, &max) < 0 ||
        want_str(c, c->json, "client", 256, &client) < 0)
        return;
    if (min > HRT_MAJOR || max < HRT_MAJOR) {
        o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "version", HRT_MAJOR);
        call_fail(c, HRT_UNIMPLEMENTED, "unimplemented", o,
                  "this daemon speaks protocol %d, the client asks for %llu to %llu", HRT_MAJOR,
                  (unsigned long long)min, (unsigned long long)max);
        return;
    }
    o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "version", HRT_MAJOR);
    cJSON_AddStringToObject(o, "server", "hearthd " HEARTH_VERSION);
    cJSON_AddNumberToObject(o, "pid", (double)getpid());
    cJSON_AddNumberToObject(o, "uid", c->uid);
    l = cJSON_AddArrayToObject(o, "features");
    for (size_t i = 0; i < sizeof feature / sizeof *feature; i++)
        cJSON_AddItemToArray(l, cJSON_CreateString(feature[i]));
    l = cJSON_AddObjectToObject(o, "limits");
    cJSON_AddNumberToObject(l, "json_bytes", JSON_BYTES_MAX);
    cJSON_AddNumberToObject(l, "tail_bytes", TAIL_BYTES_MAX);
    cJSON_AddNumberToObject(l, "max_wait_ms", WAIT_MAX_MS);
    cJSON_AddNumberToObject(l, "name_bytes", NAME_BYTES_MAX);
    cJSON_AddStringToObject(o, "runtime", c->d->conf->runtime);
    call_ok(c, o, NULL, 0);
}

void op_ping(struct call *c)
{
    call_ok(c, NULL, NULL, 0);
}

void op_status(struct call *c)
{
    call_ok(c, status_json(c->d, c->uid), NULL, 0);
}

void op_metrics(struct call *c)
{
    size_t n = 0;
    char *text = metrics_text(c->d, c->uid, &n);

    if (!text) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, "out_of_memory", NULL,
                  "no memory for the metrics");
        return;
    }
    call_ok(c, NULL, text, n);
    free(text);
}

void op_unimplemented(struct call *c)
{
    const struct op *op = ops_find(c->type);

    call_fail(c, HRT_UNIMPLEMENTED, "unimplemented", NULL, "%s is not available in version %s",
              op->name, HEARTH_VERSION);
}
