/* sess_table.c - all sessions: by id, by name, by use; and what is kept warm.  See sess.h. */
#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "daemon/daemon.h"
#include "daemon/ident.h"
#include "daemon/sess.h"
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* Tokens and turns kept in memory for sessions at rest. */
#define WARM_BYTES_MAX (64u << 20)
enum { BUCKETS_FIRST = 1024, ROWS_BYTES = 512 }; /* the latter: a session's rows and frames */

/* --- texts ------------------------------------------------------------------------------------ */
static const char none[] = "";

static void text_free(struct sess_table *t, const char *s)
{
    if (s == none)
        return;
    t->text_bytes -= strlen(s) + 1;
    free((void *)(uintptr_t)s);
}

static int text_set(struct sess_table *t, const char **at, const char *text)
{
    char *copy = text[0] ? strdup(text) : NULL;

    if (text[0] && !copy)
        return -ENOMEM;
    text_free(t, *at);
    *at = copy ? copy : none;
    t->text_bytes += copy ? strlen(copy) + 1 : 0;
    return 0;
}

/* --- buckets ---------------------------------------------------------------------------------- */
static uint32_t id_hash(const struct kvs_id *id)
{
    return ld32(id->b);
}

static uint32_t name_hash(const struct sess_table *t, uint32_t owner, const char *name)
{
    uint8_t h[8];

    /* Names come from outside: nobody may choose what collides. */
    crypto_shorthash(h, (const uint8_t *)name, strlen(name), t->name_key);
    return ld32(h) ^ owner * 2654435761u;
}

static void name_link(struct sess *s)
{
    struct sess_table *t = s->table;
    struct sess **at =
        &t->by_name[name_hash(t, s->rec.owner, s->rec.name) & (t->n_buckets - 1)];

    if (!s->rec.name[0])
        return;
    s->next_name = *at;
    *at = s;
}

static void name_unlink(struct sess *s)
{
    struct sess_table *t = s->table;
    struct sess **at =
        &t->by_name[name_hash(t, s->rec.owner, s->rec.name) & (t->n_buckets - 1)];

    if (!s->rec.name[0])
        return;
    while (*at != s)
        at = &(*at)->next_name;
    *at = s->next_name;
}

static void id_link(struct sess *s)
{
    struct sess **at = &s->table->by_id[id_hash(&s->rec.id) & (s->table->n_buckets - 1)];

    s->next_id = *at;
    *at = s;
}

static int buckets_grow(struct sess_table *t)
{
    uint32_t n = t->n_buckets ? 2 * t->n_buckets : BUCKETS_FIRST;
    struct sess **a = calloc(n, sizeof *a), **b = calloc(n, sizeof *b);

    if (!a || !b) {
        free(a);
        free(b);
        return -ENOMEM;
    }
    free(t->by_id);
    free(t->by_name);
    t->by_id = a;
    t->by_name = b;
    t->n_buckets = n;
    for (uint32_t i = 0; i < t->n; i++) {
        id_link(t->s[i]);
        name_link(t->s[i]);
    }
    return 0;
}

/* --- on disk ---------------------------------------------------------------------------------- */
static void group_weigh(struct sess_table *t, struct sess_group *g, uint64_t more)
{
    bool held = g->disk_bytes != 0;

    g->disk_bytes += more;
    t->n_holders += (g->disk_bytes != 0) - held;
}

static void weight_set(struct sess *s, uint64_t bytes)
{
    struct sess_table *t = s->table;
    struct sess_user *u = s->user;
    bool held = u->disk_bytes != 0;
    uint64_t more = bytes - s->disk_bytes; /* or less, modulo 2^64 */

    u->disk_bytes += more;
    t->disk_bytes += more;
    s->disk_bytes = bytes;
    group_weigh(t, u->group, more);
    u->group->holders += (u->disk_bytes != 0) - held;
}

void sess_weigh(struct sess *s)
{
    weight_set(s, s->head * sizeof(int32_t) + strlen(s->rec.name) + strlen(s->rec.settings) +
                      ROWS_BYTES);
}

/* --- by use ----------------------------------------------------------------------------------- */
static struct sess_group *group_of(struct sess_table *t, uint32_t uid)
{
    struct sess_group *g = t->groups;

    while (g && g->uid != uid)
        g = g->next;
    if (g || !(g = calloc(1, sizeof *g)))
        return g;
    *g = (struct sess_group){.next = t->groups, .uid = uid};
    t->groups = g;
    return g;
}

static uint32_t anonymous_of(const struct sess_user *u)
{
    return u->list[SESS_ANONYMOUS].n + u->list[SESS_BRIEF].n;
}

/* Takes u, with all that he has, out of his group, or puts him into g. */
static void group_join(struct sess_table *t, struct sess_user *u, struct sess_group *g)
{
    struct sess_group *from = u->group;

    if (from) {
        group_weigh(t, from, -u->disk_bytes);
        from->holders -= u->disk_bytes != 0;
        from->anonymous -= anonymous_of(u);
    }
    if (from && u->put_count == t->put_count && from->put_count == t->put_count) {
        from->put_bytes -= u->put_bytes;
        if (g->put_count != u->put_count)
            g->put_bytes = 0;
        g->put_count = u->put_count;
        g->put_bytes += u->put_bytes;
    }
    u->group = g;
    group_weigh(t, g, u->disk_bytes);
    g->holders += u->disk_bytes != 0;
    g->anonymous += anonymous_of(u);
}

struct sess_user *sess_user(struct sess_table *t, uint32_t uid, bool make)
{
    uint32_t whose = ident_uid(t->idents, uid);
    struct sess_user *u = t->users;
    struct sess_group *g;

    while (u && u->uid != uid)
        u = u->next;
    if (u ? u->group->uid == whose : !make)
        return u;
    g = group_of(t, whose);
    if (!g) /* no memory: he stays where he is */
        return u;
    if (!u) {
        u = calloc(1, sizeof *u);
        if (!u)
            return NULL;
        u->uid = uid;
        u->next = t->users;
        t->users = u;
    }
    group_join(t, u, g);
    return u;
}

static uint8_t list_of(const struct sess *s)
{
    if (!(s->rec.flags & KVS_SESS_ANONYMOUS))
        return SESS_NAMED;
    return strstr(s->rec.settings, "\"keep\":\"no\"") ? SESS_BRIEF : SESS_ANONYMOUS;
}

static void list_leave(struct sess *s)
{
    if (s->list == SESS_LISTS_)
        return;
    *(s->older ? &s->older->newer : &s->user->list[s->list].oldest) = s->newer;
    *(s->newer ? &s->newer->older : &s->user->list[s->list].newest) = s->older;
    s->user->list[s->list].n--;
    s->user->group->anonymous -= s->list != SESS_NAMED;
    s->older = s->newer = NULL;
    s->list = SESS_LISTS_;
}

static void list_enter(struct sess *s)
{
    s->list = list_of(s);
    s->older = s->user->list[s->list].newest;
    s->newer = NULL;
    *(s->older ? &s->older->newer : &s->user->list[s->list].oldest) = s;
    s->user->list[s->list].newest = s;
    s->user->list[s->list].n++;
    s->user->group->anonymous += s->list != SESS_NAMED;
}

void sess_used(struct sess *s, uint64_t wall)
{
    s->rec.used_ns = wall;
    if (s->unborn)
        return;
    list_leave(s);
    list_enter(s);
}

void sess_listed(struct sess *s)
{
    if (s->unborn || s->list == list_of(s))
        return;
    list_leave(s);
    list_enter(s);
}

void sess_unborn(struct sess *s)
{
    s->unborn = true;
    list_leave(s);
}

void sess_born(struct sess *s)
{
    s->unborn = false;
    sess_listed(s);
}

/* --- warm ------------------------------------------------------------------------------------- */
static void warm_leave(struct sess *s)
{
    struct sess_table *t = s->table;

    if (!s->warm_bytes)
        return;
    *(s->warm_older ? &s->warm_older->warm_newer : &t->warm_old) = s->warm_newer;
    *(s->warm_newer ? &s->warm_newer->warm_older : &t->warm_new) = s->warm_older;
    t->warm_bytes -= s->warm_bytes;
    s->warm_bytes = 0;
    s->warm_older = s->warm_newer = NULL;
}

static uint64_t kept_bytes(const struct sess *s)
{
    return (s->toks ? s->toks->cap * sizeof(int32_t) + sizeof *s->toks : 0) +
           s->turns_cap * sizeof *s->turns;
}

static void warm_enter(struct sess *s)
{
    struct sess_table *t = s->table;

    s->warm_bytes = kept_bytes(s);
    if (!s->warm_bytes)
        return;
    t->warm_bytes += s->warm_bytes;
    s->warm_older = t->warm_new;
    *(t->warm_new ? &t->warm_new->warm_newer : &t->warm_old) = s;
    t->warm_new = s;
}

static bool turns_on_disk(const struct sess *s)
{
    for (uint32_t i = 0; i < s->n_turns; i++)
        if (!s->turns[i].durable || (s->turns[i].flags & KVS_TURN_OPEN))
            return false;
    return true;
}

void sess_cool(struct sess *s)
{
    if (s->changed || s->out) /* in memory it is ahead of the disk */
        return;
    toks_drop(s->toks);
    s->toks = NULL;
    if (!s->running && !s->unborn && !s->removing && s->head && turns_on_disk(s)) {
        free(s->turns);
        s->turns = NULL;
        s->n_turns = s->turns_cap = 0;
        s->turns_known = false;
    }
    bool was = s->warm_bytes != 0;
    warm_leave(s);
    if (was)
        warm_enter(s); /* what could not be let go */
}

void sess_warm(struct sess *s)
{
    struct sess_table *t = s->table;

    warm_leave(s);
    warm_enter(s);
    /* Those that cannot go come to the front, once each. */
    for (struct sess *old = t->warm_old, *last = t->warm_new;
         old && t->warm_bytes > WARM_BYTES_MAX;) {
        struct sess *next = old->warm_newer;

        if (old == s || old == last)
            break;
        sess_cool(old);
        old = next;
    }
}

/* --- sessions --------------------------------------------------------------------------------- */
int sess_table_new(struct sess_table **ret)
{
    struct sess_table *t = calloc(1, sizeof *t);

    if (!t || buckets_grow(t) < 0) {
        free(t);
        return -ENOMEM;
    }
    randombytes_buf(t->name_key, sizeof t->name_key);
    *ret = t;
    return 0;
}

void sess_table_free(struct sess_table *t)
{
    if (!t)
        return;
    must(t->n == 0 && t->warm_bytes == 0);
    while (t->users) {
        struct sess_user *u = t->users;

        t->users = u->next;
        while (u->of) {
            struct sess_of *o = u->of;

            u->of = o->next;
            free(o);
        }
        free(u);
    }
    while (t->groups) {
        struct sess_group *g = t->groups;

        t->groups = g->next;
        free(g);
    }
    while (t->models) {
        struct sess_model *m = t->models;

        t->models = m->next;
        free(m);
    }
    free(t->s);
    free(t->by_id);
    free(t->by_name);
    free(t->branch);
    free(t);
}

static struct sess_model *model_of(struct sess_table *t, const char *name, bool make)
{
    struct sess_model *m = t->models;
    size_t n = strlen(name) + 1;

    while (m && strcmp(m->name, name) != 0)
        m = m->next;
    if (m || !make || !(m = malloc(sizeof *m + n)))
        return m;
    *m = (struct sess_model){.next = t->models};
    memcpy(m->name, name, n);
    t->models = m;
    return m;
}

static struct sess_of *of_model(struct sess_user *u, const struct sess_model *m, bool make)
{
    struct sess_of *o = u->of;

    while (o && o->model != m)
        o = o->next;
    if (o || !make || !(o = calloc(1, sizeof *o)))
        return o;
    *o = (struct sess_of){.next = u->of, .model = m};
    u->of = o;
    return o;
}

int sess_add(struct sess_table *t, const struct kvs_id *id, uint32_t owner, const char *model,
             struct sess **ret)
{
    struct sess_model *m = model_of(t, model, true);
    struct sess_user *u = sess_user(t, owner, true);
    struct sess_of *of = m && u ? of_model(u, m, true) : NULL;
    struct sess *s = of ? calloc(1, sizeof *s) : NULL;

    if (!s)
        return -ENOMEM;
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : BUCKETS_FIRST;
        struct sess **v = realloc(t->s, cap * sizeof *v);

        if (!v) {
            free(s);
            return -ENOMEM;
        }
        t->s = v;
        t->cap = cap;
    }
    if (t->n >= t->n_buckets && buckets_grow(t) < 0) {
        free(s);
        return -ENOMEM;
    }
    *s = (struct sess){
        .magic = SESS_MAGIC,
        .at = t->n,
        .rec = {.id = *id, .owner = owner, .name = none, .model = m->name, .settings = none},
        .table = t,
        .user = u,
        .model = m,
        .of = of,
        .list = SESS_LISTS_};
    m->n++;
    of->n++;
    t->s[t->n++] = s;
    id_link(s);
    sess_weigh(s);
    *ret = s;
    return 0;
}

void sess_del(struct sess *s)
{
    struct sess_table *t = s->table;
    struct sess **at = &t->by_id[id_hash(&s->rec.id) & (t->n_buckets - 1)];

    must_be(s, SESS_MAGIC);
    must(!s->toks && !s->turns);
    weight_set(s, 0);
    warm_leave(s);
    list_leave(s);
    name_unlink(s);
    while (*at != s)
        at = &(*at)->next_id;
    *at = s->next_id;
    t->s[s->at] = t->s[--t->n];
    t->s[s->at]->at = s->at;
    s->model->n--;
    s->of->n--;
    text_free(t, s->rec.name);
    text_free(t, s->rec.settings);
    s->magic = 0;
    free(s);
}

int sess_name_set(struct sess *s, const char *name)
{
    name_unlink(s);
    int r = text_set(s->table, &s->rec.name, name);
    name_link(s);
    sess_weigh(s);
    return r;
}

int sess_settings_set(struct sess *s, const char *text)
{
    int r = text_set(s->table, &s->rec.settings, text);
    sess_weigh(s);
    return r;
}

void sess_record(const struct sess *s, struct kvs_session *ret)
{
    const struct sess_rec *r = &s->rec;

    memset(ret, 0, sizeof *ret);
    ret->id = r->id;
    ret->owner = r->owner;
    ret->flags = r->flags;
    snprintf(ret->name, sizeof ret->name, "%s", r->name);
    snprintf(ret->model, sizeof ret->model, "%s", r->model);
    memcpy(ret->tokenizer_id, r->tokenizer_id, sizeof ret->tokenizer_id);
    ret->branch = r->branch;
    ret->head = r->head;
    ret->created_ns = r->created_ns;
    ret->used_ns = r->used_ns;
    snprintf(ret->settings, sizeof ret->settings, "%s", r->settings);
}

void sess_written(struct sess *s, const struct kvs_session *x)
{
    memcpy(s->rec.tokenizer_id, x->tokenizer_id, sizeof x->tokenizer_id);
    s->rec.branch = x->branch;
    s->rec.head = x->head;
    sess_used(s, x->used_ns);
}

struct sess *sess_by_id(struct daemon *d, uint32_t uid, const struct kvs_id *id)
{
    const struct sess_table *t = d->sess;
    struct sess *s = t->by_id[id_hash(id) & (t->n_buckets - 1)];

    while (s && memcmp(&s->rec.id, id, sizeof *id) != 0)
        s = s->next_id;
    return s && s->rec.owner == uid ? s : NULL;
}

struct sess *sess_by_name(struct daemon *d, uint32_t uid, const char *name)
{
    const struct sess_table *t = d->sess;
    struct sess *s = t->by_name[name_hash(t, uid, name) & (t->n_buckets - 1)];

    while (s && (s->rec.owner != uid || strcmp(s->rec.name, name) != 0))
        s = s->next_name;
    return s;
}

struct sess *sess_at(struct daemon *d, uint32_t i)
{
    return i < d->sess->n ? d->sess->s[i] : NULL;
}

uint32_t sess_count(struct daemon *d, uint32_t *ret_anonymous)
{
    uint32_t named = 0, anonymous = 0;

    for (const struct sess_user *u = d->sess->users; u; u = u->next) {
        named += u->list[SESS_NAMED].n;
        anonymous += u->list[SESS_ANONYMOUS].n + u->list[SESS_BRIEF].n;
    }
    if (ret_anonymous)
        *ret_anonymous = anonymous;
    return named + anonymous;
}

uint32_t sess_count_model(struct daemon *d, const char *model)
{
    const struct sess_model *m = d->sess ? model_of(d->sess, model, false) : NULL;

    return m ? m->n : 0;
}

uint32_t sess_count_of(struct daemon *d, uint32_t uid, uint32_t *ret_anonymous)
{
    const struct sess_user *u = sess_user(d->sess, uid, false);

    *ret_anonymous = u ? u->list[SESS_ANONYMOUS].n + u->list[SESS_BRIEF].n : 0;
    return *ret_anonymous + (u ? u->list[SESS_NAMED].n : 0);
}

uint32_t sess_count_model_of(struct daemon *d, const char *model, uint32_t uid)
{
    const struct sess_model *m = d->sess ? model_of(d->sess, model, false) : NULL;
    struct sess_user *u = m ? sess_user(d->sess, uid, false) : NULL;
    const struct sess_of *of = u ? of_model(u, m, false) : NULL;

    return of ? of->n : 0;
}

uint64_t sess_bytes(struct daemon *d)
{
    const struct sess_table *t = d->sess;

    return sizeof *t + t->n * sizeof(struct sess) + t->cap * sizeof(void *) +
           2 * t->n_buckets * sizeof(void *) + t->text_bytes + t->warm_bytes +
           t->n_branches * sizeof(struct branch) + t->n_branch_buckets * sizeof(void *);
}
