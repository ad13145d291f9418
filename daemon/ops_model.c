/* ops_model.c - MODEL_LIST, MODEL_SHOW, MODEL_LOAD, MODEL_UNLOAD. */
#include "daemon/call.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/gen.h"
#include "daemon/model.h"
#include "engine/chat.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include <errno.h>
#include <string.h>

void op_model_list(struct call *c)
{
    cJSON *o = cJSON_CreateObject(), *a = cJSON_AddArrayToObject(o, "models");
    const struct model *m;

    models_look(c->d);
    for (uint32_t i = 0; (m = model_at(c->d, i)) != NULL; i++)
        if (!m->gone)
            cJSON_AddItemToArray(a, model_json(c->d, m, c->uid));
    cJSON_AddStringToObject(o, "directory", c->d->conf->models);
    call_ok(c, o, NULL, 0);
}

struct model *op_model(struct call *c)
{
    const char *name = NULL;
    struct errbuf eb = {""};
    struct model *m;

    if (want_str(c, c->json, "model", 4096, &name) < 0)
        return NULL;
    m = model_find(c->d, name, &eb);
    if (!m)
        call_fail(c, HRT_NOT_FOUND, "model_not_found", NULL, "%s", eb.s);
    return m;
}

static void add_hex(cJSON *o, const char *name, const uint8_t *b, size_t n, bool known)
{
    char hex[65];

    if (!known) {
        cJSON_AddNullToObject(o, name);
        return;
    }
    hex_put(hex, b, n);
    cJSON_AddStringToObject(o, name, hex);
}

void op_model_show(struct call *c)
{
    struct model *m = op_model(c);
    const struct eng_info *i = m ? model_info(m) : NULL;
    uint64_t block = m ? m->known_block_bytes : 0; /* of an earlier load, of another daemon's */
    struct gguf_str s;
    cJSON *o;

    if (!m)
        return;
    o = model_json(c->d, m, c->uid);
    if (i) {
        cJSON_AddNumberToObject(o, "layers", i->n_layers);
        cJSON_AddNumberToObject(o, "embedding", i->n_embd);
        cJSON_AddNumberToObject(o, "heads", i->n_head);
        cJSON_AddNumberToObject(o, "kv_heads", i->n_kv_head);
        cJSON_AddNumberToObject(o, "head_dim", i->head_dim);
        cJSON_AddNumberToObject(o, "vocab", i->n_vocab);
    }
    if (m->state == MODEL_LOADED) {
        const struct chat *chat = eng_chat(m->eng);
        const struct kv_layout *l = eng_layout(m->eng);

        block = l->page_bytes[KV_HOT] + l->page_bytes[KV_COLD];
        if (chat) {
            cJSON_AddStringToObject(o, "chat", chat_family(chat));
        } else {
            cJSON_AddNullToObject(o, "chat");
            cJSON_AddStringToObject(o, "chat_why", eng_chat_why(m->eng));
        }
        if (gguf_str(eng_gguf(m->eng), "tokenizer.ggml.pre", &s) && s.bytes < 64) {
            char pre[64];

            memcpy(pre, s.p, s.bytes);
            pre[s.bytes] = 0;
            cJSON_AddStringToObject(o, "tokenizer", pre);
        }
        cJSON_AddStringToObject(o, "layout", l->id);
        if (m->sampling)
            cJSON_AddItemToObject(o, "sampling", cJSON_Duplicate(m->sampling, 1));
    }
    if (block) {
        cJSON_AddNumberToObject(o, "block_bytes", (double)block);
        cJSON_AddNumberToObject(o, "bytes_per_token", (double)(block / BLOCK_TOKENS));
    }
    add_hex(o, "weights_id", m->weights_id, sizeof m->weights_id, m->keyed);
    add_hex(o, "fingerprint", m->fingerprint, sizeof m->fingerprint, m->keyed);
    call_ok(c, o, NULL, 0);
}

void op_model_load(struct call *c)
{
    struct kvs_id id;
    struct errbuf eb = {""};
    struct model *m;
    char hex[33];
    int r = want_hex(c, c->json, "id", id.b, sizeof id.b);

    if (r < 0)
        return;
    if (r == 0) {
        call_fail(c, HRT_INVALID_ARGUMENT, "bad_field", NULL,
                  "id: is missing; want 32 lower-case hexadecimal digits made by the client");
        return;
    }
    m = op_model(c);
    if (!m)
        return;
    model_forgive(m); /* asked for by name: try again even if it failed a moment ago */
    r = model_want(c->d, m, &eb);
    if (r < 0 && r != -EAGAIN) {
        call_fail(c, r == -ESHUTDOWN ? HRT_UNAVAILABLE : HRT_FAILED_PRECONDITION,
                  r == -ESHUTDOWN ? "shutting_down" : "model_load_failed", NULL, "%s", eb.s);
        return;
    }
    r = gen_load_stream(c->d, c->uid, &id, m);
    if (r == -EEXIST) {
        call_fail(c, HRT_ALREADY_EXISTS, "id_reused", NULL,
                  "id: it was used for something else; make a new one for each load");
        return;
    }
    if (r < 0) {
        call_fail(c, HRT_RESOURCE_EXHAUSTED, r == -ENOMEM ? "out_of_memory" : "queue_full",
                  NULL, "the load runs, but there is no room for its stream: %s", err_str(r));
        return;
    }
    cJSON *o = cJSON_CreateObject();
    hex_put(hex, id.b, sizeof id.b);
    cJSON_AddStringToObject(o, "stream", hex);
    cJSON_AddStringToObject(o, "model", m->name);
    cJSON_AddStringToObject(o, "state", model_state_str(m));
    call_ok(c, o, NULL, 0);
}

void op_model_unload(struct call *c)
{
    struct model *m = op_model(c);
    cJSON *o;

    if (!m)
        return;
    if (!daemon_trusts(c->d, c->uid)) {
        call_fail(c, HRT_PERMISSION_DENIED, "permission_denied", NULL,
                  "model %s is shared by all users of this machine: root unloads it, and it "
                  "goes by itself when keep-alive says so",
                  m->name);
        return;
    }
    if (model_unload(c->d, m) == -EBUSY) {
        char who[NAME_BYTES_MAX + 96] = "a request";

        o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "requests", m->users);
        if (m->state == MODEL_LOADING)
            call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", o,
                      "%s is being loaded; unload it when it is", m->name);
        else {
            (void)gen_user(c->d, m, c->uid, who, sizeof who);
            call_fail(c, HRT_FAILED_PRECONDITION, "session_busy", o,
                      "%s runs on %s; stop it with `hearth cancel`, or wait for its end", who,
                      m->name);
        }
        return;
    }
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "model", m->name);
    cJSON_AddStringToObject(o, "state", model_state_str(m));
    call_ok(c, o, NULL, 0);
}
