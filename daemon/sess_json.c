/* sess_json.c - a session as the protocol shows it, and the settings kept with it. */
#include "base/log.h"
#include "daemon/call.h"
#include "daemon/daemon.h"
#include "daemon/kvflow.h"
#include "daemon/model.h"
#include "daemon/req.h"
#include "daemon/sess.h"
#include "engine/engine.h"
#include "kvstore/kvstore.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- settings ------------------------------------------------------------------------------- */
const char *sess_setting(struct sess *s, const char *key, char *ret, size_t cap)
{
    cJSON *o = s->rec.settings[0] ? cJSON_Parse(s->rec.settings) : NULL;
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);

    snprintf(ret, cap, "%s", cJSON_IsString(v) ? v->valuestring : "");
    cJSON_Delete(o);
    return ret;
}

int sess_setting_set(struct sess *s, const char *key, const char *value)
{
    cJSON *o = s->rec.settings[0] ? cJSON_Parse(s->rec.settings) : NULL;
    char *text;
    int r = 0;

    if (!o)
        o = cJSON_CreateObject();
    cJSON_DeleteItemFromObjectCaseSensitive(o, key);
    if (value)
        cJSON_AddStringToObject(o, key, value);
    text = cJSON_PrintUnformatted(o);
    if (!text || strlen(text) >= SESS_SETTINGS_MAX)
        r = E_LIMIT;
    else
        r = sess_settings_set(s, strcmp(text, "{}") ? text : "");
    free(text);
    cJSON_Delete(o);
    sess_listed(s);
    return r;
}

void sess_date(struct sess *s, char ret[11])
{
    time_t at = (time_t)(s->rec.created_ns / 1000000000u);
    struct tm tm;

    sess_setting(s, "date", ret, 11);
    if (strlen(ret) == 10)
        return;
    localtime_r(&at, &tm);
    strftime(ret, 11, "%Y-%m-%d", &tm);
}

/* --- the protocol's view ---------------------------------------------------------------------- */
static const char *role_str(uint32_t role)
{
    static const char *const w[] = {"system", "user", "assistant", "tool", "raw"};

    return role < sizeof w / sizeof *w ? w[role] : "raw";
}

/* Of the answer that is being made: so far. */
static uint64_t turn_tokens(const struct sess *s, const struct turn *t)
{
    const struct req *r = s->running;

    if ((t->flags & KVS_TURN_OPEN) && r && r->toks && r->toks->n > t->first &&
        memcmp(&r->id, &t->request, sizeof r->id) == 0)
        return r->toks->n - t->first;
    return t->n_tokens;
}

/* One that a crash or a stop cut, and that its request has not taken up again: so far it is what it
 * stays should nobody do so. */
static void turn_left(struct daemon *d, const struct sess *s, struct turn *t)
{
    if (!(t->flags & KVS_TURN_OPEN) || req_find(d, s->rec.owner, &t->request))
        return;
    t->flags |= KVS_TURN_INTERRUPTED;
    t->finish = FIN_INTERRUPTED;
}

int sess_turns_copy(struct daemon *d, const struct sess *s, struct turn **ret, uint32_t *ret_n)
{
    struct turn *v = malloc((s->n_turns + 1) * sizeof *v);

    if (!v)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->n_turns; i++) {
        v[i] = s->turns[i];
        v[i].n_tokens = turn_tokens(s, &v[i]);
        turn_left(d, s, &v[i]);
    }
    *ret = v;
    *ret_n = s->n_turns;
    return 0;
}

cJSON *sess_turn_json(const struct turn *t, uint32_t n, bool last)
{
    cJSON *o = cJSON_CreateObject();

    cJSON_AddNumberToObject(o, "n", n);
    cJSON_AddStringToObject(o, "role", role_str(t->role));
    cJSON_AddNumberToObject(o, "position", (double)t->first);
    cJSON_AddNumberToObject(o, "tokens", (double)t->n_tokens);
    cJSON_AddNumberToObject(o, "time", (double)t->time_ns / 1e9);
    cJSON_AddBoolToObject(o, "durable", t->durable);
    if (t->finish && finish_str(t->finish))
        cJSON_AddStringToObject(o, "finish", finish_str(t->finish));
    if (t->flags & KVS_TURN_INTERRUPTED)
        cJSON_AddBoolToObject(o, "interrupted", true);
    if (t->user_open && last)
        cJSON_AddBoolToObject(o, "open", true);
    if (t->ingest)
        cJSON_AddBoolToObject(o, "document", true);
    return o;
}

/* Its last turn is a document that is being read, or whose reading was cut off.  found: so many
 * blocks of its path are there. */
static void add_ingest(cJSON *o, const struct sess *s, uint32_t found)
{
    const struct turn *t = s->turns_known && s->n_turns ? &s->turns[s->n_turns - 1] : NULL;
    uint64_t total, read;

    if (!t || !t->ingest_cut || t->first + t->n_tokens < s->head)
        return;
    total = turn_tokens(s, t);
    read = s->running ? s->running->evaluated : t->read;
    if (!read)
        read = (uint64_t)found * BLOCK_TOKENS;
    read = read > t->first ? read - t->first : 0;
    o = cJSON_AddObjectToObject(o, "ingest");
    if (read)
        cJSON_AddNumberToObject(o, "done", (double)(read < total ? read : total));
    else
        cJSON_AddNullToObject(o, "done");
    cJSON_AddNumberToObject(o, "total", (double)total);
}

/* How many bytes of the session's KV lie where; what cannot be told is null: host and file of
 * a model whose file was never loaded.  found: the most of its blocks that lie in one place. */
static cJSON *bytes_json(struct daemon *d, struct sess *s, uint32_t *found)
{
    struct model *m = model_find(d, s->rec.model, NULL);
    struct kvflow_places at = {0};
    uint64_t page = 0;
    struct toks *t;
    cJSON *o = cJSON_CreateObject();
    bool loaded = m && m->state == MODEL_LOADED && m->kv;
    bool known = m && (loaded ? m->keyed : m->known_block_bytes != 0);

    if (s->head < BLOCK_TOKENS) {
        known = true;
    } else if ((loaded || known) && sess_tokens_peek(d, s, &t) == 0) {
        kvflow_path(d, m, s->rec.owner, t->p, s->head, &at);
        page = loaded ? kvflow_block_bytes(m) : m->known_block_bytes;
        toks_drop(t);
    }
    *found = at.device > at.host ? at.device : at.host;
    if (*found < at.file)
        *found = at.file;
    cJSON_AddNumberToObject(o, "device", (double)(at.device * page));
    if (known) {
        cJSON_AddNumberToObject(o, "host", (double)(at.host * page));
        cJSON_AddNumberToObject(o, "file", (double)(at.file * page));
    } else {
        cJSON_AddNullToObject(o, "host");
        cJSON_AddNullToObject(o, "file");
    }
    return o;
}

bool sess_misfit(const struct sess *s, const struct model *m, char ret[MISFIT_WORDS])
{
    const struct eng_info *info = eng_info(m->eng);
    static const uint8_t none[32];
    char hex[33];

    if (!s->head || memcmp(s->rec.tokenizer_id, none, sizeof none) == 0 ||
        memcmp(s->rec.tokenizer_id, info->tokenizer_id, sizeof none) == 0)
        return false;
    snprintf(ret, MISFIT_WORDS,
             "session \"%s\" was made with another tokenizer than model %s has now, its tokens "
             "are other text there; put back the file it was made with, or name it: "
             "--model %s=FILE",
             sess_label(s, hex), m->name, m->name);
    return true;
}

const char *sess_label(const struct sess *s, char ret[33])
{
    if (s->rec.name[0])
        return s->rec.name;
    hex_put(ret, s->rec.id.b, sizeof s->rec.id.b);
    return ret;
}

cJSON *sess_json(struct daemon *d, struct sess *s)
{
    cJSON *o = cJSON_CreateObject();
    uint32_t found = 0;
    char hex[33];

    hex_put(hex, s->rec.id.b, sizeof s->rec.id.b);
    cJSON_AddStringToObject(o, "id", hex);
    cJSON_AddStringToObject(o, "name", s->rec.name);
    cJSON_AddNumberToObject(o, "owner", s->rec.owner);
    cJSON_AddStringToObject(o, "model", s->rec.model);
    cJSON_AddNumberToObject(o, "tokens", (double)s->head);
    if (sess_turns(d, s) < 0)
        log_at(LOG_WARN_, "session \"%s\": its turns cannot be read", s->rec.name);
    cJSON_AddNumberToObject(o, "turns", s->n_turns);
    cJSON_AddItemToObject(o, "bytes", bytes_json(d, s, &found));
    add_ingest(o, s, found);
    cJSON_AddBoolToObject(o, "pinned", (s->rec.flags & KVS_SESS_PINNED) != 0);
    cJSON_AddBoolToObject(o, "anonymous", (s->rec.flags & KVS_SESS_ANONYMOUS) != 0);
    cJSON_AddBoolToObject(o, "running", s->running != NULL);
    if (s->running) {
        hex_put(hex, s->running->id.b, sizeof s->running->id.b);
        cJSON_AddStringToObject(o, "request", hex);
    }
    if (s->rec.flags & KVS_SESS_LOST) {
        cJSON *l = cJSON_AddObjectToObject(o, "lost");

        cJSON_AddNumberToObject(l, "from", (double)s->lost_from);
        cJSON_AddNumberToObject(l, "to", (double)s->lost_to);
    }
    cJSON_AddNumberToObject(o, "created", (double)s->rec.created_ns / 1e9);
    cJSON_AddNumberToObject(o, "used", (double)s->rec.used_ns / 1e9);
    cJSON_AddNumberToObject(o, "idle_s", (double)kvs_age_ns(d->store, s->rec.used_ns) / 1e9);
    return o;
}
