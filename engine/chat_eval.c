/* chat_eval.c - nodes to text (chat_jinja.h).
 *
 * Scopes are Jinja's: a for makes one per item, an if makes none, set writes to the innermost,
 * and only namespace objects carry anything out of a loop.  The first failure is kept and the
 * rest of the evaluation runs to its end without effect, which needs no unwinding. */
#include "base/check.h"
#include "base/clock.h"
#include "engine/chat_jinja.h"
#include <errno.h>
#include <stdlib.h>

struct jframe {
    struct jframe *outer;
    struct jdict vars;
};

static struct jval eval(struct jeval *j, const struct jnode *n);
static void run(struct jeval *j, const struct jnode *n);

/* What a step costs beside what it touches: about as long as so many bytes take. */
enum { STEP_WORK = 16 };

static bool tick(struct jeval *j)
{
    if (j->err)
        return false;
    if (++j->steps > JINJA_STEPS_MAX) {
        jfail(j, E_LIMIT, "more than %d steps", JINJA_STEPS_MAX);
        return false;
    }
    return jwork(j, STEP_WORK);
}

/* --- output ------------------------------------------------------------------------------------- */
void chat_text_fini(struct chat_text *t)
{
    free(t->p);
    free(t->mask);
    *t = (struct chat_text){0};
}

static int text_room(struct chat_text *t, uint64_t n)
{
    if (n <= t->cap - t->n)
        return 0;
    uint64_t cap = (t->n + n) * 2 + 64;
    char *p = realloc(t->p, cap);
    if (p == NULL)
        return -ENOMEM;
    t->p = p;
    uint8_t *mask = realloc(t->mask, cap);
    if (mask == NULL)
        return -ENOMEM; /* cap stays: it bounds the smaller of the two */
    t->mask = mask;
    t->cap = cap;
    return 0;
}

int chat_text_add(struct chat_text *t, const char *p, const uint8_t *mask, uint64_t n)
{
    int r = text_room(t, n);
    if (r < 0 || n == 0)
        return r;
    memcpy(t->p + t->n, p, n);
    if (mask)
        memcpy(t->mask + t->n, mask, n);
    else
        memset(t->mask + t->n, 1, n);
    t->n += n;
    return 0;
}

static void write_out(struct jeval *j, struct jstr s)
{
    if (s.n == 0 || !jwork(j, s.n))
        return;
    if (s.n > j->mem.max || j->out.n > j->mem.max)
        jfail(j, E_LIMIT, "more than %llu bytes written", (unsigned long long)j->mem.max);
    else if (chat_text_add(&j->out, s.p, s.mask, s.n) < 0)
        jfail(j, -ENOMEM, "out of memory");
}

/* --- names ---------------------------------------------------------------------------------------- */
static struct jval lookup(struct jeval *j, struct jstr name)
{
    for (struct jframe *f = j->frame; f; f = f->outer) {
        struct jval *v = jdict_at(j, &f->vars, name);
        if (v)
            return *v;
    }
    if (jis_global(name)) {
        struct jcall *c = jmem_take(&j->mem, sizeof *c);
        if (c == NULL)
            return jnomem(j);
        c->name = name;
        return (struct jval){J_CALL, {.call = c}};
    }
    return (struct jval){0};
}

static struct jval attr(struct jeval *j, struct jval of, struct jstr name)
{
    if (of.kind == J_UNDEF)
        return jfail(j, -EINVAL, "\"%.*s\" of something undefined",
                     (int)(name.n < 60 ? name.n : 60), name.p);
    struct jval *v = of.kind == J_DICT ? jdict_at(j, of.dict, name) : NULL;
    /* A method hides a key of its name, as in Python: message.items is never a member. */
    if (jis_method(of, name)) {
        struct jcall *c = jmem_take(&j->mem, sizeof *c);
        if (c == NULL)
            return jnomem(j);
        *c = (struct jcall){name, of};
        return (struct jval){J_CALL, {.call = c}};
    }
    return v ? *v : (struct jval){0};
}

static struct jval item(struct jeval *j, struct jval of, struct jval key)
{
    if (of.kind == J_UNDEF)
        return jfail(j, -EINVAL, "an item of something undefined");
    if (of.kind == J_DICT && key.kind == J_STR) {
        struct jval *v = jdict_at(j, of.dict, key.s);
        return v ? *v : (struct jval){0};
    }
    if (of.kind == J_LIST && (key.kind == J_INT || key.kind == J_BOOL)) {
        int64_t n = (int64_t)of.list->n, i = key.i < 0 ? key.i + n : key.i;
        return i >= 0 && i < n ? of.list->v[i] : (struct jval){0};
    }
    if (of.kind == J_STR && key.kind == J_INT) {
        int64_t n = (int64_t)jstr_chars(j, of.s), i = key.i < 0 ? key.i + n : key.i;
        if (i < 0 || i >= n || !jwork(j, of.s.n))
            return (struct jval){0};
        return jval_str(
            jstr_cut(of.s, jstr_at(of.s, (uint64_t)i), jstr_at(of.s, (uint64_t)i + 1)));
    }
    if (of.kind == J_STR && key.kind == J_STR)
        return jfail(j, E_UNSUPP, "a string indexed by a name");
    return (struct jval){0};
}

/* --- expressions ----------------------------------------------------------------------------------- */
static bool contains(struct jeval *j, struct jval x, struct jval in)
{
    switch (in.kind) {
    case J_STR:
        if (x.kind != J_STR) {
            jfail(j, -EINVAL, "\"in\" a string wants a string");
            return false;
        }
        return jwork(j, in.s.n + x.s.n) &&
               (x.s.n == 0 || memmem(in.s.p, in.s.n, x.s.p, x.s.n) != NULL);
    case J_LIST:
        for (uint64_t i = 0; i < in.list->n; i++)
            if (jequal(j, x, in.list->v[i]))
                return true;
        return false;
    case J_DICT: return x.kind == J_STR && jdict_at(j, in.dict, x.s) != NULL;
    case J_UNDEF: return false; /* an undefined iterates as if it were empty */
    default: jfail(j, -EINVAL, "\"in\" something that holds nothing"); return false;
    }
}

static bool in_order(struct jeval *j, enum jop op, struct jval a, struct jval b)
{
    int c;
    bool num_a = a.kind == J_INT || a.kind == J_BOOL,
         num_b = b.kind == J_INT || b.kind == J_BOOL;
    if (num_a && num_b) {
        c = a.i < b.i ? -1 : a.i > b.i;
    } else if (a.kind == J_STR && b.kind == J_STR) {
        /* UTF-8 compares as its code points do. */
        uint64_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        if (!jwork(j, n))
            return false;
        c = n ? memcmp(a.s.p, b.s.p, n) : 0;
        c = c ? c : a.s.n < b.s.n ? -1 : a.s.n > b.s.n;
    } else {
        jfail(j, -EINVAL, "values that have no order are compared");
        return false;
    }
    return op == JO_LT ? c < 0 : op == JO_LE ? c <= 0 : op == JO_GT ? c > 0 : c >= 0;
}

static struct jval number_op(struct jeval *j, enum jop op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool over = false;
    if ((op == JO_IDIV || op == JO_MOD) && (b == 0 || (b == -1 && a == INT64_MIN)))
        return jfail(j, -EINVAL, "a division by zero");
    switch (op) {
    case JO_ADD: over = __builtin_add_overflow(a, b, &r); break;
    case JO_SUB: over = __builtin_sub_overflow(a, b, &r); break;
    case JO_MUL: over = __builtin_mul_overflow(a, b, &r); break;
    case JO_IDIV: r = a / b - (a % b != 0 && (a < 0) != (b < 0)); break;
    default: r = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0); break;
    }
    return over ? jfail(j, E_LIMIT, "a number over 64 bits") : jval_int(r);
}

static struct jval add_lists(struct jeval *j, const struct jlist *a, const struct jlist *b)
{
    struct jval l = jlist_new(j, a->n + b->n);
    if (l.kind == J_LIST) {
        for (uint64_t i = 0; i < a->n; i++)
            l.list->v[i] = a->v[i];
        for (uint64_t i = 0; i < b->n; i++)
            l.list->v[a->n + i] = b->v[i];
    }
    return l;
}

static struct jval binary(struct jeval *j, const struct jnode *n)
{
    struct jval a = eval(j, n->a);
    if (n->op == JO_AND)
        return jtrue(a) ? eval(j, n->b) : a;
    if (n->op == JO_OR)
        return jtrue(a) ? a : eval(j, n->b);
    struct jval b = eval(j, n->b);
    j->line = n->line;
    if (j->err)
        return (struct jval){0};
    switch (n->op) {
    case JO_EQ: return jval_bool(jequal(j, a, b));
    case JO_NE: return jval_bool(!jequal(j, a, b));
    case JO_IN: return jval_bool(contains(j, a, b));
    case JO_NOTIN: return jval_bool(!contains(j, a, b));
    case JO_LT:
    case JO_LE:
    case JO_GT:
    case JO_GE: return jval_bool(in_order(j, n->op, a, b));
    case JO_CAT: return jval_str(jstr_cat(j, jval_print(j, a), jval_print(j, b)));
    default: break;
    }
    if (n->op == JO_ADD && a.kind == J_STR && b.kind == J_STR)
        return jval_str(jstr_cat(j, a.s, b.s));
    if (n->op == JO_ADD && a.kind == J_LIST && b.kind == J_LIST)
        return add_lists(j, a.list, b.list);
    if ((a.kind == J_INT || a.kind == J_BOOL) && (b.kind == J_INT || b.kind == J_BOOL))
        return number_op(j, n->op, a.i, b.i);
    if (n->op == JO_MUL && a.kind == J_STR && b.kind == J_INT)
        return jfail(j, E_UNSUPP, "a string times a number");
    return jfail(j, -EINVAL, "an operator on values it has no meaning for%s",
                 a.kind == J_UNDEF || b.kind == J_UNDEF ? " (one is undefined)" : "");
}

static bool arguments(struct jeval *j, const struct jnode *n, struct jargs *ret)
{
    *ret = (struct jargs){0};
    for (; n && j->err == 0; n = n->next) {
        if (ret->n == sizeof ret->v / sizeof *ret->v) {
            jfail(j, E_UNSUPP, "more than %zu arguments", sizeof ret->v / sizeof *ret->v);
            break;
        }
        if (n->type == JN_KW)
            ret->name[ret->n] = n->s;
        ret->v[ret->n++] = eval(j, n->type == JN_KW ? n->a : n);
    }
    return j->err == 0;
}

static struct jval namespace_of(struct jeval *j, const struct jnode *args)
{
    struct jval d = jdict_new(j);
    if (d.kind != J_DICT)
        return d;
    d.dict->space = true;
    for (; args && j->err == 0; args = args->next) {
        if (args->type != JN_KW)
            return jfail(j, E_UNSUPP, "namespace() of something without a name");
        (void)jdict_put(j, d.dict, args->s, eval(j, args->a));
    }
    return d;
}

static struct jval call(struct jeval *j, const struct jnode *n)
{
    struct jargs a;
    struct jval f = eval(j, n->a);
    if (j->err)
        return (struct jval){0};
    j->line = n->line;
    if (f.kind == J_UNDEF)
        return jfail(j, E_UNSUPP, "a call of \"%.*s\", which we do not have",
                     (int)(n->a->s.n < 60 ? n->a->s.n : 60), n->a->s.n ? n->a->s.p : "");
    if (f.kind != J_CALL)
        return jfail(j, -EINVAL, "a call of something that is no function");
    if (f.call->self.kind == J_UNDEF && jstr_is(f.call->name, "namespace"))
        return namespace_of(j, n->b);
    if (!arguments(j, n->b, &a))
        return (struct jval){0};
    j->line = n->line;
    return f.call->self.kind == J_UNDEF ? jcall_global(j, f.call->name, &a)
                                        : jcall_method(j, f.call->self, f.call->name, &a);
}

static struct jval literal(struct jeval *j, const struct jnode *n)
{
    if (n->type == JN_LIST) {
        uint64_t count = 0, i = 0;
        for (const struct jnode *x = n->a; x; x = x->next)
            count++;
        struct jval l = jlist_new(j, count);
        for (const struct jnode *x = n->a; x && l.kind == J_LIST; x = x->next)
            l.list->v[i++] = eval(j, x);
        return l;
    }
    struct jval d = jdict_new(j);
    for (const struct jnode *x = n->a; x && x->next && d.kind == J_DICT && j->err == 0;
         x = x->next->next) {
        struct jval key = eval(j, x);
        if (key.kind != J_STR)
            return jfail(j, E_UNSUPP, "a key that is not a string");
        (void)jdict_put(j, d.dict, key.s, eval(j, x->next));
    }
    return d;
}

static struct jval eval_node(struct jeval *j, const struct jnode *n)
{
    struct jargs a;
    struct jval v, w;
    switch (n->type) {
    case JN_CONST: return n->v;
    case JN_NAME: return lookup(j, n->s);
    case JN_LIST:
    case JN_DICT: return literal(j, n);
    case JN_BIN: return binary(j, n);
    case JN_NOT: return jval_bool(!jtrue(eval(j, n->a)));
    case JN_NEG:
        v = eval(j, n->a);
        return v.kind == J_INT
                   ? number_op(j, JO_SUB, 0, v.i)
                   : jfail(j, -EINVAL, "a minus before something that is no number");
    case JN_COND:
        if (jtrue(eval(j, n->b)))
            return eval(j, n->a);
        return n->c ? eval(j, n->c) : (struct jval){0};
    case JN_ATTR:
        v = eval(j, n->a);
        j->line = n->line;
        return j->err ? v : attr(j, v, n->s);
    case JN_ITEM:
        v = eval(j, n->a);
        w = eval(j, n->b);
        j->line = n->line;
        return j->err ? v : item(j, v, w);
    case JN_SLICE: {
        struct jval part[3] = {{0}, {0}, {0}};
        v = eval(j, n->a);
        if (n->b)
            part[0] = eval(j, n->b);
        if (n->c)
            part[1] = eval(j, n->c);
        if (n->d)
            part[2] = eval(j, n->d);
        j->line = n->line;
        return j->err ? v : jslice(j, v, part[0], part[1], part[2]);
    }
    case JN_CALL: return call(j, n);
    case JN_FILTER:
        v = eval(j, n->a);
        if (!arguments(j, n->b, &a))
            return (struct jval){0};
        j->line = n->line;
        return jfilter(j, v, n->s, &a);
    case JN_TEST:
        v = eval(j, n->a);
        if (!arguments(j, n->b, &a))
            return (struct jval){0};
        j->line = n->line;
        return jval_bool(jtest(j, v, n->s, &a));
    default: return jfail(j, E_UNSUPP, "a named argument outside a call");
    }
}

static struct jval eval(struct jeval *j, const struct jnode *n)
{
    if (n == NULL || !tick(j))
        return (struct jval){0};
    if (++j->depth > 4 * JINJA_DEPTH_MAX)
        return jfail(j, E_LIMIT, "nested deeper than %d", 4 * JINJA_DEPTH_MAX);
    struct jval v = eval_node(j, n);
    j->depth--;
    return j->err ? (struct jval){0} : v;
}

/* --- statements ------------------------------------------------------------------------------------- */
static struct jval items_of(struct jeval *j, struct jval of)
{
    switch (of.kind) {
    case J_LIST: return of;
    case J_UNDEF: return jlist_new(j, 0);
    case J_DICT: {
        struct jval l = jlist_new(j, of.dict->n);
        for (uint32_t i = 0; l.kind == J_LIST && i < of.dict->n; i++)
            l.list->v[i] = jval_str(of.dict->key[i]);
        return l;
    }
    case J_STR: {
        uint64_t n = jstr_chars(j, of.s), at = 0;
        struct jval l = jlist_new(j, n);
        for (uint64_t i = 0; l.kind == J_LIST && i < n; i++) {
            uint64_t to = at + 1;
            while (to < of.s.n && (of.s.p[to] & 0xc0) == 0x80)
                to++;
            l.list->v[i] = jval_str(jstr_cut(of.s, at, to));
            at = to;
        }
        return l;
    }
    default: return jfail(j, -EINVAL, "a loop over something that has no items");
    }
}

static bool bind(struct jeval *j, const struct jnode *names, struct jval v)
{
    if (names->next == NULL)
        return jdict_put(j, &j->frame->vars, names->s, v);
    uint64_t i = 0;
    for (; names; names = names->next, i++) {
        if (v.kind != J_LIST || i >= v.list->n) {
            jfail(j, -EINVAL, "a loop wants more values than an item has");
            return false;
        }
        if (!jdict_put(j, &j->frame->vars, names->s, v.list->v[i]))
            return false;
    }
    if (i != v.list->n)
        jfail(j, -EINVAL, "a loop wants fewer values than an item has");
    return j->err == 0;
}

static void loop_vars(struct jeval *j, struct jdict *d, const struct jlist *l, uint64_t i)
{
    const struct {
        const char *name;
        struct jval v;
    } vars[] = {
        {"index", jval_int((int64_t)i + 1)},
        {"index0", jval_int((int64_t)i)},
        {"revindex", jval_int((int64_t)(l->n - i))},
        {"revindex0", jval_int((int64_t)(l->n - i - 1))},
        {"first", jval_bool(i == 0)},
        {"last", jval_bool(i + 1 == l->n)},
        {"length", jval_int((int64_t)l->n)},
        {"previtem", i ? l->v[i - 1] : (struct jval){0}},
        {"nextitem", i + 1 < l->n ? l->v[i + 1] : (struct jval){0}},
    };
    for (size_t k = 0; k < sizeof vars / sizeof *vars; k++)
        (void)jdict_put(j, d, jtext(vars[k].name), vars[k].v);
}

/* Items that the loop's "if" lets through: the loop counts only those. */
static struct jval filtered(struct jeval *j, const struct jnode *n, struct jval all)
{
    struct jval l = jlist_new(j, all.list->n);
    uint64_t kept = 0;
    for (uint64_t i = 0; l.kind == J_LIST && i < all.list->n && tick(j); i++) {
        struct jframe f = {.outer = j->frame};
        j->frame = &f;
        if (bind(j, n->a, all.list->v[i]) && jtrue(eval(j, n->c)))
            l.list->v[kept++] = all.list->v[i];
        j->frame = f.outer;
    }
    if (l.kind == J_LIST)
        l.list->n = kept;
    return l;
}

static void run_for(struct jeval *j, const struct jnode *n)
{
    struct jval all = items_of(j, eval(j, n->b));
    if (j->err == 0 && n->c)
        all = filtered(j, n, all);
    if (j->err)
        return;
    if (all.list->n == 0)
        return run(j, n->e);
    struct jval loop = jdict_new(j);
    for (uint64_t i = 0; i < all.list->n && tick(j); i++) {
        struct jframe f = {.outer = j->frame};
        j->frame = &f;
        loop_vars(j, loop.dict, all.list, i);
        if (j->err == 0 && jdict_put(j, &f.vars, jtext("loop"), loop) &&
            bind(j, n->a, all.list->v[i]))
            run(j, n->d);
        j->frame = f.outer;
        if (j->flow == JBREAK) {
            j->flow = JGO;
            break;
        }
        j->flow = JGO;
    }
}

static void run_set(struct jeval *j, const struct jnode *n)
{
    struct jval v;
    if (n->a) {
        v = eval(j, n->a);
    } else { /* the body's text is the value */
        struct chat_text outer = j->out;
        j->out = (struct chat_text){0};
        run(j, n->b);
        char *p;
        uint8_t *mask;
        struct jstr s = jstr_room(j, j->out.n, &p, &mask);
        if (s.p && j->out.n) {
            memcpy(p, j->out.p, j->out.n);
            memcpy(mask, j->out.mask, j->out.n);
        }
        chat_text_fini(&j->out);
        j->out = outer;
        v = jval_str(s);
    }
    if (j->err)
        return;
    if (n->t.n == 0) {
        (void)jdict_put(j, &j->frame->vars, n->s, v);
        return;
    }
    struct jval space = lookup(j, n->s);
    if (space.kind != J_DICT || !space.dict->space)
        jfail(j, -EINVAL, "an attribute is set on something that is no namespace");
    else
        (void)jdict_put(j, space.dict, n->t, v);
}

static void run(struct jeval *j, const struct jnode *n)
{
    if (++j->depth > 4 * JINJA_DEPTH_MAX)
        jfail(j, E_LIMIT, "nested deeper than %d", 4 * JINJA_DEPTH_MAX);
    for (; n && j->flow == JGO && tick(j); n = n->next) {
        j->line = n->line;
        switch (n->type) {
        case JN_TEXT: write_out(j, n->s); break;
        case JN_OUT: write_out(j, jval_print(j, eval(j, n->a))); break;
        case JN_IF: run(j, jtrue(eval(j, n->a)) ? n->b : n->c); break;
        case JN_FOR: run_for(j, n); break;
        case JN_SET: run_set(j, n); break;
        case JN_BREAK: j->flow = JBREAK; break;
        case JN_CONTINUE: j->flow = JCONTINUE; break;
        default: must(!"a statement");
        }
    }
    j->depth--;
}

static bool give(struct jeval *j, struct jframe *f)
{
    const struct jvars *v = j->vars;
    struct jval list = jlist_new(j, v->n_msgs);
    for (size_t i = 0; list.kind == J_LIST && i < v->n_msgs; i++) {
        /* Whoever sends a message writes its role, too: neither counts as the template's. */
        struct jval d = jdict_new(j);
        char *p;
        uint8_t *mask;
        uint64_t n = strlen(v->msg[i].role);
        struct jstr role = jstr_room(j, n, &p, &mask);
        if (d.kind != J_DICT || role.p == NULL)
            return false;
        memcpy(p, v->msg[i].role, n);
        struct jstr text = jstr_room(j, v->msg[i].bytes, &p, &mask);
        if (text.p == NULL)
            return false;
        if (text.n)
            memcpy(p, v->msg[i].text, text.n);
        (void)jdict_put(j, d.dict, jtext("role"), jval_str(role));
        (void)jdict_put(j, d.dict, jtext("content"), jval_str(text));
        list.list->v[i] = d;
    }
    (void)jdict_put(j, &f->vars, jtext("messages"), list);
    (void)jdict_put(j, &f->vars, jtext("add_generation_prompt"), jval_bool(v->prompt));
    (void)jdict_put(j, &f->vars, jtext("tools"), (struct jval){J_NONE, {0}});
    (void)jdict_put(j, &f->vars, jtext("documents"), (struct jval){J_NONE, {0}});
    if (v->bos.n)
        (void)jdict_put(j, &f->vars, jtext("bos_token"), jval_str(v->bos));
    if (v->eos.n)
        (void)jdict_put(j, &f->vars, jtext("eos_token"), jval_str(v->eos));
    return j->err == 0;
}

int jinja_render(const struct jnode *t, const struct jvars *v, struct chat_text *out,
                 struct errbuf *eb)
{
    struct jeval j = {.vars = v, .eb = eb, .line = 1};
    struct jframe f = {0};
    uint64_t bytes = 0;

    for (size_t i = 0; i < v->n_msgs; i++)
        bytes += v->msg[i].bytes;
    /* Each message is joined a few times on its way; anything far above that is not a
     * conversation being laid out. */
    j.mem.max = bytes * 32 + v->n_msgs * 16384 + (16u << 20);
    j.work_max = JINJA_WORK_MAX + bytes * JINJA_WORK_BYTE;
    j.until_ns = now_ns() + (v->wall_ms ? v->wall_ms : JINJA_WALL_MS_MAX) * (uint64_t)1000000;
    j.frame = &f;
    if (give(&j, &f))
        run(&j, t);
    if (j.err == 0)
        j.err = chat_text_add(out, j.out.p, j.out.mask, j.out.n);
    chat_text_fini(&j.out);
    jmem_fini(&j.mem);
    return j.err;
}
