/* model.c - see model.h.
 *
 * A load passes four stations, each on its own thread and each reported back to the loop:
 * prep reads the header (can it be loaded, how many pages), the engine thread loads, then the
 * model serves; the weights' hash follows in the background and makes it `keyed`.  An unload
 * waits until no page is being copied, then closes the engine. */
#include "daemon/model.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/daemon.h"
#include "daemon/engd.h"
#include "daemon/gen.h"
#include "daemon/kvflow.h"
#include "daemon/loop.h"
#include "daemon/modelfile.h"
#include "daemon/prep.h"
#include "daemon/ram.h"
#include "daemon/sdnotify.h"
#include "daemon/sess.h"
#include "daemon/weightsid.h"
#include "kvstore/kvstore.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHANGE_MAX = 4, UNLOAD_POLL_NS = 2000000 };
#define FAILED_FOR_NS 10000000000ull /* a failed load is not tried again sooner, unless asked */

struct slot {
    struct model m; /* first: the two are one object */
    struct daemon *d;
    struct loop_timer idle, unload;
    struct prep_job peek;
    bool peeking;
    struct modelfile file;
    struct file_stamp stamp;      /* of the file that was loaded ... */
    struct file_stamp hash_stamp; /* ... and of the one that is being hashed */
    int peek_res;
    struct errbuf peek_words;
    uint64_t page_bytes, available; /* the latter when it was peeked at */
    bool hashing, wanted_again;
    bool found; /* in the directory; not named by its path */
    bool unreadable;
    uint64_t failed_ns;
    struct file_stamp tried; /* of the file when the last load began; zeros: there was none */
    struct eng_info info;    /* of the last load; info_known */
    bool info_known;
};
struct model_table {
    struct slot *slot[MODELS_MAX];
    uint32_t n;
    void (*change[CHANGE_MAX])(struct daemon *d, struct model *m);
    uint32_t n_change;
    bool full_said;
};

static struct slot *slot_of(const struct model *m)
{
    return (struct slot *)(uintptr_t)m;
}

static void tell(struct slot *s)
{
    struct model_table *t = s->d->models;

    for (uint32_t i = 0; t && i < t->n_change; i++)
        t->change[i](s->d, &s->m);
}

static void failed(struct slot *s, const char *words)
{
    snprintf(s->m.error, sizeof s->m.error, "%s", words);
    s->m.state = MODEL_FAILED;
    s->failed_ns = now_ns();
    log_at(LOG_ERROR_, "model %s: cannot be loaded: %s", s->m.name, words);
    tell(s);
}

/* What was found wrong holds for the file that it was found in, and for a moment only. */
bool model_tried(const struct model *m)
{
    struct file_stamp now = {0};

    (void)stamp_read(m->path, &now);
    return stamp_same(&now, &slot_of(m)->tried);
}

static bool fails_still(const struct slot *s)
{
    return s->m.state == MODEL_FAILED && now_ns() - s->failed_ns < FAILED_FOR_NS &&
           model_tried(&s->m);
}

/* ---- identity of the weights ---------------------------------------------------------------- */
/* One fact per file, by device and inode, with all that tells a changed file apart: a file
 * that was written again replaces what was remembered of it. */
struct remembered {
    struct file_stamp file;
    uint8_t id[16];
};

static void remembered_name(const struct file_stamp *f, char ret[64])
{
    snprintf(ret, 64, "weights/%llx/%llx", (unsigned long long)f->dev,
             (unsigned long long)f->ino);
}

static void remember(struct slot *s, const struct file_stamp *f, const uint8_t id[16])
{
    struct remembered v = {.file = *f};
    char name[64];

    memcpy(v.id, id, sizeof v.id);
    remembered_name(f, name);
    int r = kvs_meta_put(s->d->store, name, &v, sizeof v);
    if (r < 0)
        log_at(LOG_WARN_,
               "model %s: its hash is not remembered (%s), it is made again next time",
               s->m.name, err_str(r));
}

static bool recall(struct slot *s)
{
    struct remembered v;
    char name[64];

    remembered_name(&s->stamp, name);
    if (kvs_meta_get(s->d->store, name, &v, sizeof v) != (int)sizeof v ||
        !stamp_same(&v.file, &s->stamp))
        return false;
    memcpy(s->m.weights_id, v.id, sizeof v.id);
    return true;
}

/* Where the KV lies that this file's weights have made so far, to be found before the next load:
 * by whoever asks where, and by `rm`.  Blocks are taken under no key but a loaded model's. */
struct kv_found {
    struct file_stamp file;
    uint8_t fingerprint[32];
    uint64_t variant, block_bytes;
};

static void kv_name(const struct file_stamp *f, char ret[64])
{
    snprintf(ret, 64, "blocks/%llx/%llx", (unsigned long long)f->dev,
             (unsigned long long)f->ino);
}

static void kv_remember(const struct slot *s)
{
    struct kv_found v = {.file = s->stamp,
                         .variant = s->m.variant,
                         .block_bytes = s->m.known_block_bytes},
                    was;
    char name[64];

    memcpy(v.fingerprint, s->m.fingerprint, sizeof v.fingerprint);
    kv_name(&v.file, name);
    if (kvs_meta_get(s->d->store, name, &was, sizeof was) == (int)sizeof was &&
        memcmp(&was, &v, sizeof v) == 0)
        return;
    (void)kvs_meta_put(s->d->store, name, &v,
                       sizeof v); /* else it is known when it is loaded */
}

static void kv_recall(struct slot *s)
{
    struct file_stamp now = {0};
    struct kv_found v;
    char name[64];

    if (stamp_read(s->m.path, &now) < 0)
        return;
    kv_name(&now, name);
    if (kvs_meta_get(s->d->store, name, &v, sizeof v) != (int)sizeof v ||
        !stamp_same(&v.file, &now))
        return;
    memcpy(s->m.fingerprint, v.fingerprint, sizeof v.fingerprint);
    s->m.variant = v.variant;
    s->m.known_block_bytes = v.block_bytes;
}

/* From the weights id everything else follows; false: the store does not take the layout. */
static bool identify(struct slot *s)
{
    const struct kv_layout *l = eng_layout(s->m.eng);
    struct kvs_layout kl = {.hot_bytes = l->page_bytes[KV_HOT],
                            .cold_bytes = l->page_bytes[KV_COLD]};
    struct errbuf eb = {""};

    snprintf(kl.id, sizeof kl.id, "%s", l->id);
    int r = kvs_layout_add(s->d->store, &kl, &s->m.kvs_layout, &eb);
    if (r < 0) {
        daemon_warn(s->d,
                    "model %s: the store does not take its layout (%s); its KV is not kept",
                    s->m.name, eb.s[0] ? eb.s : err_str(r));
        return false;
    }
    eng_fingerprint(s->m.eng, s->m.weights_id, s->m.fingerprint);
    s->m.variant = kvs_variant(eng_info(s->m.eng)->epoch, 0);
    s->m.known_block_bytes = kl.hot_bytes + kl.cold_bytes;
    s->m.keyed = true;
    kv_remember(s);
    return true;
}

static void want_id(struct slot *s);

static void hashed(void *user, int res, const uint8_t id[16], const char *words)
{
    struct slot *s = user;
    struct file_stamp now = {0};

    s->hashing = false;
    if (res == -ECANCELED)
        return;
    if (res == 0)
        remember(s, &s->hash_stamp, id);
    /* Loaded again from another file meanwhile: it is that one's turn. */
    if (s->m.state == MODEL_LOADED && !s->m.keyed && !stamp_same(&s->hash_stamp, &s->stamp)) {
        want_id(s);
        if (s->m.keyed)
            kvflow_model_keyed(s->d, &s->m);
        tell(s);
        return;
    }
    if (res < 0) {
        daemon_warn(s->d,
                    "model %s: its file was not hashed (%s); its KV is not kept until it "
                    "is loaded again",
                    s->m.name, words);
        tell(s);
        return;
    }
    memcpy(s->m.weights_id, id, 16);
    /* Unloaded meanwhile, or the file is another by now: the id stays remembered for the file
     * it belongs to, and that is all. */
    if (s->m.state != MODEL_LOADED || s->m.keyed || stamp_read(s->m.path, &now) < 0 ||
        !stamp_same(&now, &s->stamp))
        return;
    if (identify(s)) {
        log_at(LOG_INFO_, "model %s: weights hashed, its KV is kept from now on", s->m.name);
        kvflow_model_keyed(s->d, &s->m);
    }
    tell(s);
}

/* The id as remembered, or a hash begins. */
static void want_id(struct slot *s)
{
    if (recall(s)) {
        (void)identify(s);
        return;
    }
    if (s->hashing)
        return;
    s->hash_stamp = s->stamp;
    s->hashing = weightsid_submit(s->d->wid, s->m.path, &s->stamp, hashed, s) == 0;
}

/* ---- keeping alive, unloading ---------------------------------------------------------------- */
static void idle_arm(struct slot *s)
{
    if (s->m.state != MODEL_LOADED || s->m.users || s->m.keep_alive_s < 0)
        return;
    loop_timer_set(s->d->loop, &s->idle, s->m.used_ns + (uint64_t)(s->m.keep_alive_s * 1e9));
}

static void idle_fire(struct loop_timer *t)
{
    struct slot *s = t->user;

    if (s->m.state == MODEL_LOADED && model_unload(s->d, &s->m) == 0)
        log_at(LOG_INFO_, "model %s: idle for %.0f s, unloading it", s->m.name,
               s->m.keep_alive_s);
}

static void unload_done(struct slot *s)
{
    bool again = s->wanted_again;

    engd_close(s->m.engd);
    s->m.engd = NULL;
    s->m.eng = NULL;
    kvflow_model_close(&s->m);
    s->m.keyed = false;
    s->wanted_again = false;
    s->m.state = MODEL_AVAILABLE;
    log_at(LOG_INFO_, "model %s: unloaded", s->m.name);
    tell(s);
    if (again && s->m.state == MODEL_AVAILABLE)
        (void)model_want(s->d, &s->m, NULL);
}

static void unload_poll(struct loop_timer *t)
{
    struct slot *s = t->user;

    if (kvflow_model_idle(&s->m) && !engd_busy(s->m.engd))
        unload_done(s);
    else
        loop_timer_set(s->d->loop, t, now_ns() + UNLOAD_POLL_NS);
}

bool model_hashing(const struct model *m)
{
    return slot_of(m)->hashing;
}

int model_unload(struct daemon *d, struct model *m)
{
    struct slot *s = slot_of(m);

    if (m->users || gen_uses(d, m) || m->state == MODEL_LOADING)
        return -EBUSY;
    if (m->state != MODEL_LOADED)
        return 0;
    loop_timer_cancel(d->loop, &s->idle);
    m->state = MODEL_UNLOADING;
    tell(s);
    loop_timer_set(d->loop, &s->unload, now_ns());
    return 0;
}

void model_use(struct model *m)
{
    m->users++;
    loop_timer_cancel(slot_of(m)->d->loop, &slot_of(m)->idle);
}

void model_unuse(struct model *m)
{
    must(m->users > 0);
    m->users--;
    m->used_ns = now_ns();
    idle_arm(slot_of(m));
}

/* ---- loading ---------------------------------------------------------------------------------- */
static void load_progress(void *user, double done)
{
    struct slot *s = user;

    s->m.load_done = done;
    /* Start-up may take as long as the disk takes, as long as it moves. */
    notify_extend(s->d, 30);
}

static void load_done(void *user, int res, struct engine *e, const char *words)
{
    struct slot *s = user;
    struct model *m = &s->m;

    if (res < 0) {
        engd_close(m->engd);
        m->engd = NULL;
        failed(s, words);
        return;
    }
    m->eng = e;
    m->state = MODEL_LOADED;
    m->load_done = 1;
    m->load_ms = (now_ns() - m->load_started_ns) / 1000000;
    m->used_ns = now_ns();
    m->loaded_ns = wall_ns();
    m->compared = false;
    m->error[0] = 0;
    s->info = *eng_info(e);
    s->info_known = true;
    /* Of what the engine read, not of what lay there when it was peeked at: the id remembered
     * for a file must never be taken for the weights of another. */
    s->stamp = s->info.file;
    s->d->epoch = s->info.epoch;
    uint32_t asked = conf_model(s->d->conf, m->name)->context, own = s->info.ctx_own;
    if (asked > own)
        daemon_warn(s->d, "model %s: context = %u is more than it can have; it has %u tokens",
                    m->name, asked, own);
    if (s->info.ctx_max < own && (!asked || s->info.ctx_max < asked))
        daemon_warn(s->d, "model %s: context is %u of %u tokens, what its page-memory holds",
                    m->name, s->info.ctx_max, own);
    snprintf(s->d->backend, sizeof s->d->backend, "%s", s->info.backend);
    cJSON_Delete(m->sampling);
    m->sampling = modelfile_sampling(eng_gguf(e), conf_model(s->d->conf, m->name));
    want_id(s);
    int r = kvflow_model_open(s->d, m);
    if (r < 0) {
        engd_close(m->engd);
        m->engd = NULL;
        m->eng = NULL;
        m->keyed = false;
        failed(s, r == -ENOMEM ? "no memory for its page book" : err_str(r));
        return;
    }
    log_at(LOG_INFO_, "model %s: loaded in %llu ms, %s %s, %.0f MiB, %u pages, context %u%s",
           m->name, (unsigned long long)m->load_ms, s->info.arch, s->info.quant,
           (double)s->info.weight_bytes / 0x1p20, s->info.pages, s->info.ctx_max,
           m->keyed ? "" : ", hashing weights");
    tell(s);
    idle_arm(s);
}

static void peek_run(struct prep_job *j) /* prep's thread */
{
    struct slot *s = j->user;

    s->peek_words.s[0] = 0;
    s->peek_res = modelfile_read(s->m.path, &s->file, &s->peek_words);
    if (s->peek_res < 0)
        return;
    const struct conf_model *o = conf_model(s->d->conf, s->m.name);
    s->page_bytes = modelfile_pages(&s->file, o, conf_ram_bytes());
    s->available = ram_available();
}

/* Memory that others were promised and have not taken yet, so that the machine still counts it
 * as available: what is left of loads under way, and KV pages that nobody has used. */
static uint64_t promised(const struct slot *but)
{
    const struct model_table *t = but->d->models;
    uint64_t all = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        const struct slot *s = t->slot[i];

        if (s->m.state == MODEL_LOADING && s->m.engd)
            all += s->page_bytes +
                   (uint64_t)((double)modelfile_need(&s->file) * (1 - s->m.load_done));
        else if (s->m.eng)
            for (int p = 0; p < KV_PART_; p++)
                all += eng_pages_new(s->m.eng, p) * eng_layout(s->m.eng)->page_bytes[p];
    }
    return all;
}

static void peek_done(struct prep_job *j)
{
    struct slot *s = j->user;
    const struct conf *c = s->d->conf;
    const struct conf_model *o = conf_model(c, s->m.name);
    struct engd_load load = {.opts = {.path = s->m.path,
                                      .threads = o->threads,
                                      .ctx_max = o->context,
                                      .plain_c = c->plain_c},
                             .progress = load_progress,
                             .done = load_done,
                             .user = s};

    s->peeking = false;
    if (s->d->stopping)
        return;
    int r = s->peek_res;
    if (r == 0)
        r = modelfile_fits(&s->file, o, s->available, promised(s), &s->page_bytes,
                           &s->peek_words);
    load.opts.page_memory = s->page_bytes;
    if (r == 0) {
        r = engd_open(&s->m.engd, s->d->loop, &load);
        if (r < 0)
            err_set(&s->peek_words, r, "its thread cannot be started: %s", err_str(r));
    }
    if (r < 0)
        failed(s, s->peek_words.s[0] ? s->peek_words.s : err_str(r));
}

int model_want(struct daemon *d, struct model *m, struct errbuf *eb)
{
    struct slot *s = slot_of(m);

    if (m->state == MODEL_LOADED)
        return 0;
    if (d->stopping)
        return err_set(eb, -ESHUTDOWN, "the daemon is stopping");
    if (m->state == MODEL_LOADING)
        return -EAGAIN;
    if (m->state == MODEL_UNLOADING) {
        s->wanted_again = true;
        return -EAGAIN;
    }
    if (fails_still(s))
        return err_set(eb, -EIO, "%s", m->error);
    m->state = MODEL_LOADING;
    m->load_done = 0;
    m->load_started_ns = now_ns();
    s->tried = (struct file_stamp){0};
    (void)stamp_read(m->path, &s->tried); /* before it is read: what comes later is another */
    s->peek = (struct prep_job){.run = peek_run,
                                .done = peek_done,
                                .user = s,
                                .uid = PREP_OF_NOBODY,
                                .owner = PREP_OF_NOBODY};
    s->peeking = true;
    prep_submit(d->prep, &s->peek);
    log_at(LOG_INFO_, "model %s: loading %s", m->name, m->path);
    tell(s);
    return -EAGAIN;
}

void model_forgive(struct model *m)
{
    slot_of(m)->failed_ns = 0;
}

/* ---- the table --------------------------------------------------------------------------------- */
static void slot_close(struct slot *s)
{
    struct daemon *d = s->d;

    loop_timer_cancel(d->loop, &s->idle);
    loop_timer_cancel(d->loop, &s->unload);
    if (s->m.eng)
        (void)kvflow_model_idle(&s->m);
    engd_close(s->m.engd);
    if (s->m.eng)
        kvflow_model_close(&s->m);
    cJSON_Delete(s->m.sampling);
    free(s->m.path);
    free(s);
}

/* Files that were taken out of the directory. */
static void look_for_gone(struct daemon *d)
{
    struct stat st;

    for (uint32_t i = 0; i < d->models->n; i++) {
        struct slot *s = d->models->slot[i];

        if (s->found && !s->m.users && !s->peeking && !s->hashing &&
            (s->m.state == MODEL_AVAILABLE || s->m.state == MODEL_FAILED))
            s->m.gone = lstat(s->m.path, &st) < 0 && (errno == ENOENT || errno == ENOTDIR);
    }
}

/* A place for one more: a new one, or that of a file that is gone and that nobody refers to any
 * more.  MODELS_MAX: there is none. */
static uint32_t slot_free(struct daemon *d)
{
    struct model_table *t = d->models;

    if (t->n < MODELS_MAX)
        return t->n;
    for (uint32_t i = 0; i < t->n; i++) {
        struct slot *s = t->slot[i];

        if (s->m.gone && !s->m.users && !s->peeking && !s->hashing && !s->m.engd && !s->m.kv &&
            s->m.state != MODEL_UNLOADING && gen_model_forget(d, &s->m)) {
            log_at(LOG_INFO_, "model %s: its file is gone, and so is its name", s->m.name);
            slot_close(s);
            t->slot[i] = NULL;
            return i;
        }
    }
    return MODELS_MAX;
}

static int slot_add(struct daemon *d, const char *name, const char *path, bool found)
{
    struct model_table *t = d->models;
    const struct conf_model *o = conf_model(d->conf, name);

    for (uint32_t i = 0; i < t->n; i++)
        if (strcmp(t->slot[i]->m.name, name) == 0) {
            char *p = t->slot[i]->m.gone ? strdup(path) : NULL;

            if (p) { /* back, perhaps spelled another way */
                free(t->slot[i]->m.path);
                t->slot[i]->m.path = p;
                t->slot[i]->m.gone = false;
            }
            return -EEXIST;
        }
    struct slot *s = calloc(1, sizeof *s);
    if (!s || !(s->m.path = strdup(path))) {
        free(s);
        return -ENOMEM;
    }
    s->d = d;
    s->m.index = slot_free(d);
    if (s->m.index == MODELS_MAX) {
        free(s->m.path);
        free(s);
        return -EAGAIN;
    }
    snprintf(s->m.name, sizeof s->m.name, "%s", name);
    s->found = found;
    s->m.keep_alive_s = o->keep_alive_s;
    s->m.sampling = modelfile_sampling(NULL, o); /* for requests that come before the load */
    s->idle = (struct loop_timer){.fire = idle_fire, .user = s};
    s->unload = (struct loop_timer){.fire = unload_poll, .user = s};
    t->slot[s->m.index] = s;
    t->n += s->m.index == t->n;
    kv_recall(s);
    return 0;
}

/* One that cannot be read is listed with the reason, and looked at again each time. */
static void note_unreadable(struct model_table *t, const char *name, const char *path, int why)
{
    for (uint32_t i = 0; i < t->n; i++) {
        struct slot *s = t->slot[i];
        struct stat st;

        if (!s->found || strcmp(s->m.name, name) != 0 || strcmp(s->m.path, path) != 0 ||
            (s->m.state != MODEL_AVAILABLE && s->m.state != MODEL_FAILED))
            continue;
        if (why) {
            bool link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);

            s->m.state = MODEL_FAILED;
            snprintf(s->m.error, sizeof s->m.error, "%s cannot be read: %s",
                     link ? "what its link leads to" : "its file", modelfile_why(why));
        } else if (s->unreadable) {
            s->m.state = MODEL_AVAILABLE;
        }
        s->unreadable = why != 0;
    }
}

static const char full_words[] = "models beyond";

/* left: how many files found no place; name: of one. */
static void say_full(struct daemon *d, uint32_t left, const char *name)
{
    struct model_table *t = d->models;

    if ((left != 0) == t->full_said)
        return;
    t->full_said = left != 0;
    if (!left)
        daemon_unwarn(d, full_words);
    else
        daemon_warn(
            d,
            "%s the %d this daemon can know lie in %s: \"%s\" and %u more are left out; "
            "delete or move files there that you do not use (`hearth models` lists those "
            "that are known; their places are given back), or name it with --model",
            full_words, MODELS_MAX, d->conf->models, name, left - 1);
}

/* Looks again at the models' directory: a file copied there is known without a restart. */
static void discover(struct daemon *d)
{
    struct dirent **e = NULL;
    int n;
    char path[PATH_MAX], name[NAME_BYTES_MAX + 6], out[NAME_BYTES_MAX + 6] = "";
    uint32_t left = 0;

    look_for_gone(d);
    n = scandir(d->conf->models, &e, modelfile_named, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", d->conf->models, e[i]->d_name);
        snprintf(name, sizeof name, "%s", e[i]->d_name);
        name[strlen(name) - 5] = 0;
        int why = modelfile_unreadable(path);
        /* A [model NAME] section with a path of its own owns the name already. */
        int r = why < 0 ? 0 : slot_add(d, name, path, true);
        if (why >= 0)
            note_unreadable(d->models, name, path, why);
        if (r == -EAGAIN && !left++)
            snprintf(out, sizeof out, "%s", name);
        free(e[i]);
    }
    if (n >= 0)
        say_full(d, left, out);
    free(e);
}

void models_look(struct daemon *d)
{
    discover(d);
}

int models_open(struct daemon *d, struct errbuf *eb)
{
    const struct conf *c = d->conf;
    int r = 0;

    if (strncmp(c->device, "cuda", 4) == 0)
        return err_set(eb, E_UNSUPP,
                       "device: %s is asked for, this build computes on the CPU "
                       "only; use --device cpu",
                       c->device);
    d->models = calloc(1, sizeof *d->models);
    if (!d->models)
        return err_set(eb, -ENOMEM, "no memory");
    for (uint32_t i = 0; i < c->n_models && r == 0; i++)
        if (c->model[i].path)
            r = slot_add(d, c->model[i].name, c->model[i].path, false);
    discover(d);
    for (uint32_t i = 0; i < c->n_models && r == 0; i++) {
        bool known = false;

        for (uint32_t k = 0; k < d->models->n; k++)
            known |= strcmp(d->models->slot[k]->m.name, c->model[i].name) == 0;
        if (!known)
            daemon_warn(d, "[model %s] has no path and %s has no such file", c->model[i].name,
                        c->models);
    }
    return r < 0 ? err_set(eb, r, "models: %s", err_str(r)) : 0;
}

/* Loads what was named with --model, in order. */
void models_start(struct daemon *d)
{
    for (uint32_t i = 0; i < d->models->n && i < d->conf->n_models; i++) {
        struct slot *s = d->models->slot[i];
        char words[PATH_MAX + 200];

        if (!conf_model(d->conf, s->m.name)->path)
            continue;
        /* Known at once, and so by whoever asks first. */
        if (access(s->m.path, R_OK) < 0) {
            snprintf(words, sizeof words,
                     "%s: %s; put the file there, or name another with --model", s->m.path,
                     strerror(errno));
            failed(s, words);
        } else {
            (void)model_want(d, &s->m, NULL);
        }
    }
}

void models_close(struct daemon *d)
{
    struct model_table *t = d->models;

    if (!t)
        return;
    for (uint32_t i = 0; i < t->n; i++)
        slot_close(t->slot[i]);
    free(t);
    d->models = NULL;
}

struct model *model_at(struct daemon *d, uint32_t index)
{
    return index < d->models->n ? &d->models->slot[index]->m : NULL;
}

/* What a request gets that names none, rather one that can be read; NULL: there is none. */
static struct model *first(struct daemon *d)
{
    struct model *other = NULL;

    for (uint32_t i = 0; i < d->models->n; i++) {
        struct slot *s = d->models->slot[i];

        if (!s->m.gone && !s->unreadable)
            return &s->m;
        if (!s->m.gone && !other)
            other = &s->m;
    }
    return other;
}

bool model_is_default(struct daemon *d, const struct model *m)
{
    return m == first(d);
}

/* By name; by name in another case, with or without ".gguf"; by the beginning of one name
 * only, in any case; by path. */
static struct model *find_now(struct daemon *d, const char *name, uint32_t *ret_near)
{
    struct model *near = NULL, *same = NULL;
    size_t n = strlen(name);
    uint32_t n_same = 0;
    char real[PATH_MAX], theirs[PATH_MAX];

    *ret_near = 0;
    for (uint32_t i = 0; i < d->models->n; i++)
        if (strcmp(d->models->slot[i]->m.name, name) == 0)
            return d->models->slot[i]->m.gone ? NULL : &d->models->slot[i]->m;
    if (n > 5 && strcasecmp(name + n - 5, ".gguf") == 0)
        n -= 5;
    for (uint32_t i = 0; i < d->models->n; i++) {
        struct model *m = &d->models->slot[i]->m;

        if (m->gone || strncasecmp(m->name, name, n) != 0)
            continue;
        near = m;
        ++*ret_near;
        if (!m->name[n]) {
            same = m;
            n_same++;
        }
    }
    if (n_same == 1)
        return same;
    if (*ret_near == 1)
        return near;
    if (name[0] == '/' && realpath(name, real))
        for (uint32_t i = 0; i < d->models->n; i++)
            if (!d->models->slot[i]->m.gone && realpath(d->models->slot[i]->m.path, theirs) &&
                strcmp(real, theirs) == 0)
                return &d->models->slot[i]->m;
    return NULL;
}

struct model *model_find(struct daemon *d, const char *name, struct errbuf *eb)
{
    struct model *m;
    uint32_t near = 0, n = 0;
    char list[320] = "";
    size_t at = 0;

    if (!name || !*name) {
        if (!first(d))
            discover(d);
        if (first(d))
            return first(d);
    } else {
        m = find_now(d, name, &near);
        if (!m) {
            discover(d);
            m = find_now(d, name, &near);
        }
        if (m)
            return m;
    }
    for (uint32_t i = 0; i < d->models->n && at < sizeof list - 64; i++)
        if (!d->models->slot[i]->m.gone)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%.48s", n++ ? ", " : "",
                                   d->models->slot[i]->m.name);
    if (!n)
        err_set(eb, -ENOENT,
                "no model is known; put a GGUF file into %s (`make model` where Hearth was "
                "built fetches a small one), or start hearthd with --model FILE",
                d->conf->models);
    else if (near > 1)
        err_set(eb, -ENOENT, "\"%.64s\" begins the names of %u models; there are: %s", name,
                near, list);
    else
        err_set(eb, -ENOENT, "no model \"%.64s\"%s; there are: %s", name ? name : "",
                d->models->full_said
                    ? ", and not all that lie there are known (see `hearth status`)"
                    : "",
                list);
    return NULL;
}

void models_on_change(struct daemon *d, void (*fn)(struct daemon *d, struct model *m))
{
    struct model_table *t = d->models;

    must(t->n_change < CHANGE_MAX);
    t->change[t->n_change++] = fn;
}

const struct eng_info *model_info(const struct model *m)
{
    return slot_of(m)->info_known ? &slot_of(m)->info : NULL;
}

cJSON *model_json(struct daemon *d, const struct model *m, uint32_t uid)
{
    const struct slot *s = slot_of(m);
    cJSON *j = cJSON_CreateObject();
    struct file_stamp f = {0};

    if (!j)
        return NULL;
    cJSON_AddStringToObject(j, "name", m->name);
    cJSON_AddStringToObject(j, "path", m->path);
    cJSON_AddStringToObject(j, "state", model_state_str(m));
    if (m->state == MODEL_FAILED)
        cJSON_AddStringToObject(j, "error", m->error);
    if (m->state == MODEL_LOADING)
        cJSON_AddNumberToObject(j, "load_done", m->load_done);
    if (s->info_known) {
        cJSON_AddStringToObject(j, "arch", s->info.arch);
        cJSON_AddStringToObject(j, "quant", s->info.quant);
        cJSON_AddNumberToObject(j, "context", s->info.ctx_max);
        cJSON_AddNumberToObject(j, "params", (double)s->info.n_params);
    }
    cJSON_AddNumberToObject(j, "file_bytes",
                            stamp_read(m->path, &f) == 0 ? (double)f.bytes : 0);
    cJSON_AddNumberToObject(j, "created", floor((double)f.mtime_ns / 1e9));
    if (m->state == MODEL_LOADED) {
        cJSON_AddNumberToObject(j, "loaded_bytes",
                                (double)(s->info.weight_bytes + s->info.page_memory));
        cJSON_AddNumberToObject(j, "page_bytes", (double)s->info.page_memory);
        cJSON_AddNumberToObject(j, "load_ms", (double)m->load_ms);
    }
    cJSON_AddNumberToObject(j, "keep_alive_s", m->keep_alive_s);
    cJSON_AddNumberToObject(j, "sessions",
                            daemon_trusts(d, uid) ? sess_count_model(d, m->name)
                                                  : sess_count_model_of(d, m->name, uid));
    cJSON_AddBoolToObject(j, "default", model_is_default(d, m));
    cJSON_AddBoolToObject(j, "hashing", s->hashing);
    return j;
}
