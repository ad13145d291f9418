/* chat_builtin.c - filters, tests, methods and functions of chat templates (chat_jinja.h).
 *
 * Python's meaning where it can be had exactly, a refusal where it cannot: letters change case
 * only when they are ASCII, because Python's tables are not ours. */
#include "base/bytes.h"
#include "base/check.h"
#include "engine/chat_jinja.h"
#include "engine/utf8.h"
#include <errno.h>
#include <stdlib.h>

static const char *const globals[] = {"namespace", "range", "raise_exception", "strftime_now",
                                      "dict"};
static const char *const str_methods[] = {"strip", "lstrip", "rstrip", "startswith", "endswith",
                                          "split", "upper",  "lower",  "replace"};
/* Filters without arguments. */
static const char *const plain_filters[] = {"length", "count", "string",    "safe",
                                            "list",   "items", "first",     "last",
                                            "upper",  "lower", "capitalize"};
static const char *const dict_methods[] = {"items", "keys", "values", "get"};

static bool any_of(struct jstr name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (jstr_is(name, list[i]))
            return true;
    return false;
}
#define ANY_OF(name, list) any_of((name), (list), sizeof(list) / sizeof *(list))

bool jis_global(struct jstr name)
{
    return ANY_OF(name, globals);
}

bool jis_method(struct jval self, struct jstr name)
{
    if (self.kind == J_STR)
        return ANY_OF(name, str_methods);
    return self.kind == J_DICT && !self.dict->space && ANY_OF(name, dict_methods);
}

static struct jval unknown(struct jeval *j, const char *what, struct jstr name)
{
    return jfail(j, E_UNSUPP, "the %s \"%.*s\", which we do not have", what,
                 (int)(name.n < 60 ? name.n : 60), name.p);
}

/* --- strings ------------------------------------------------------------------------------------ */
static bool python_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

/* The code point of s at byte i (broken bytes stand for themselves), and its length. */
static uint32_t cp_at(struct jstr s, uint64_t i, uint64_t *ret_bytes)
{
    const uint8_t *p = (const uint8_t *)s.p + i;
    int n = utf8_status(p, s.n - i);
    *ret_bytes = n > 0 ? (uint64_t)n : 1;
    switch (n) {
    case 1: return p[0];
    case 2: return (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
    case 3: return (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    case 4:
        return (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
               (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
    default: return 0x110000 + p[0];
    }
}

static bool strips(uint32_t cp, const struct jstr *set)
{
    if (set == NULL)
        return python_space(cp);
    for (uint64_t i = 0, n; i < set->n; i += n)
        if (cp_at(*set, i, &n) == cp)
            return true;
    return false;
}

static struct jstr strip(struct jeval *j, struct jstr s, bool left, bool right,
                         const struct jstr *set)
{
    /* Each code point of the set is decoded, for each of the text's: dearer than a byte copied. */
    uint64_t from = 0, to = s.n, n, each = set ? 8 * set->n + 1 : 1;
    while (left && from < to && jwork(j, each) && strips(cp_at(s, from, &n), set))
        from += n;
    while (right && to > from && jwork(j, each)) {
        uint64_t at = to - 1;
        while (at > from && to - at < 4 && (s.p[at] & 0xc0) == 0x80)
            at--;
        uint32_t cp = cp_at(jstr_cut(s, 0, to), at, &n);
        if (at + n != to) { /* a broken tail: its last byte by itself */
            at = to - 1;
            cp = 0x110000;
        }
        if (!strips(cp, set))
            break;
        to = at;
    }
    return jstr_cut(s, from, to);
}

static struct jval change_case(struct jeval *j, struct jstr s, bool upper, bool first_only)
{
    char *p;
    uint8_t *mask;
    if (!jwork(j, s.n))
        return (struct jval){0};
    for (uint64_t i = 0; i < s.n; i++)
        if ((uint8_t)s.p[i] >= 0x80)
            return jfail(j, E_UNSUPP, "a change of case outside ASCII");
    struct jstr r = jstr_room(j, s.n, &p, &mask);
    for (uint64_t i = 0; r.p && i < s.n; i++) {
        char c = s.p[i];
        bool up = first_only ? i == 0 : upper;
        if (up && c >= 'a' && c <= 'z')
            c = (char)(c - 32);
        else if (!up && c >= 'A' && c <= 'Z')
            c = (char)(c + 32);
        p[i] = c;
        mask[i] = s.mask ? s.mask[i] : 1;
    }
    return jval_str(r);
}

/* A text in the making, of a length known before. */
struct built {
    char *p;
    uint8_t *mask;
    uint64_t n;
};

static void built_add(struct built *t, struct jstr s)
{
    if (s.n == 0)
        return;
    memcpy(t->p + t->n, s.p, s.n);
    if (s.mask)
        memcpy(t->mask + t->n, s.mask, s.n);
    else
        memset(t->mask + t->n, 1, s.n);
    t->n += s.n;
}

/* The first `what` in s at or behind `from`, s.n when there is none. */
static uint64_t find(struct jstr s, struct jstr what, uint64_t from)
{
    const char *hit = memmem(s.p + from, s.n - from, what.p, what.n);

    return hit ? (uint64_t)(hit - s.p) : s.n;
}

static struct jval replace(struct jeval *j, struct jstr s, struct jstr what, struct jstr with)
{
    struct built t = {0};
    uint64_t hits = 0, at, all, grown;
    if (what.n == 0)
        return jfail(j, E_UNSUPP, "replacing an empty string");
    if (!jwork(j, 2 * s.n))
        return (struct jval){0};
    for (at = find(s, what, 0); at < s.n; at = find(s, what, at + what.n))
        hits++;
    if (hits == 0)
        return jval_str(s);
    if (!mul_ok(hits, with.n, &grown) || !add_ok(s.n - hits * what.n, grown, &all) ||
        all > j->mem.max)
        return jfail(j, E_LIMIT, "%llu replacements by %llu bytes each",
                     (unsigned long long)hits, (unsigned long long)with.n);
    struct jstr r = jstr_room(j, all, &t.p, &t.mask);
    for (uint64_t from = 0; r.p; from = at + what.n) {
        at = find(s, what, from);
        built_add(&t, jstr_cut(s, from, at));
        if (at == s.n)
            break;
        built_add(&t, with);
    }
    return jval_str(r);
}

static struct jval split(struct jeval *j, struct jstr s, struct jstr by)
{
    uint64_t n = 1, from = 0;
    if (by.n == 0)
        return jfail(j, -EINVAL, "an empty separator");
    if (!jwork(j, 2 * s.n))
        return (struct jval){0};
    for (uint64_t at = find(s, by, 0); at < s.n; at = find(s, by, at + by.n))
        n++;
    struct jval l = jlist_new(j, n);
    for (uint64_t i = 0; l.kind == J_LIST && i < n; i++) {
        uint64_t at = find(s, by, from);
        l.list->v[i] = jval_str(jstr_cut(s, from, at));
        from = at + by.n;
    }
    return l;
}

static struct jval join(struct jeval *j, struct jval of, struct jstr by)
{
    struct built t = {0};
    uint64_t all = 0;
    if (of.kind != J_LIST)
        return jfail(j, E_UNSUPP, "joining something that is no list");
    uint64_t n = of.list->n;
    struct jval part = jlist_new(j, n);
    for (uint64_t i = 0; j->err == 0 && i < n; i++) {
        part.list->v[i] = jval_str(jval_print(j, of.list->v[i]));
        if (!add_ok(all, part.list->v[i].s.n + (i ? by.n : 0), &all) || all > j->mem.max)
            jfail(j, E_LIMIT, "%llu items joined to too long a text", (unsigned long long)n);
    }
    struct jstr r = j->err ? (struct jstr){0} : jstr_room(j, all, &t.p, &t.mask);
    for (uint64_t i = 0; r.p && i < n; i++) {
        if (i)
            built_add(&t, by);
        built_add(&t, part.list->v[i].s);
    }
    return jval_str(r);
}

/* --- functions ------------------------------------------------------------------------------------ */
static const struct jval *arg(const struct jargs *a, uint32_t at, const char *name)
{
    for (uint32_t i = 0; i < a->n; i++)
        if (a->name[i].n ? jstr_is(a->name[i], name) : i == at)
            return &a->v[i];
    return NULL;
}

/* Arguments beyond `max`, or named otherwise than `name`: an option we would ignore. */
static bool only(struct jeval *j, const struct jargs *a, uint32_t max, const char *name)
{
    bool ok = a->n <= max;
    for (uint32_t i = 0; ok && i < a->n; i++)
        ok = a->name[i].n == 0 || (name && jstr_is(a->name[i], name));
    if (!ok)
        jfail(j, E_UNSUPP, "an argument we do not have");
    return ok;
}

static bool strings(struct jeval *j, const struct jargs *a, uint32_t n)
{
    if (!only(j, a, n, NULL))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (i >= a->n || a->v[i].kind != J_STR) {
            jfail(j, E_UNSUPP, "arguments that are not %u strings", n);
            return false;
        }
    return true;
}

static struct jval range(struct jeval *j, const struct jargs *a)
{
    int64_t v[3] = {0, 0, 1};
    if (!only(j, a, 3, NULL))
        return (struct jval){0};
    for (uint32_t i = 0; i < a->n; i++) {
        if (a->v[i].kind != J_INT)
            return jfail(j, -EINVAL, "range() of something that is no number");
        v[a->n == 1 ? 1 : i] = a->v[i].i;
    }
    if (a->n == 0 || v[2] == 0 || v[0] < -JINJA_STEPS_MAX || v[1] > JINJA_STEPS_MAX ||
        v[0] > JINJA_STEPS_MAX || v[1] < -JINJA_STEPS_MAX)
        return jfail(j, E_LIMIT, "range() of too much or nothing");
    int64_t n = 0;
    if (v[2] > 0 ? v[1] > v[0] : v[1] < v[0])
        n = v[2] > 0 ? (v[1] - v[0] + v[2] - 1) / v[2] : (v[0] - v[1] - v[2] - 1) / -v[2];
    struct jval l = jlist_new(j, (uint64_t)n);
    for (int64_t i = 0; l.kind == J_LIST && i < n; i++)
        l.list->v[i] = jval_int(v[0] + i * v[2]);
    return l;
}

static int digits(const char *p, int n)
{
    int v = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        v = v * 10 + (p[i] - '0');
    }
    return v;
}

/* The day a conversation began, in the C locale.  There is no time of day: it would make the
 * same conversation two prompts. */
static struct jval strftime_now(struct jeval *j, const struct jargs *a)
{
    static const char *const months[] = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
    static const char *const days[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
    const char *date = j->vars->date;
    if (!strings(j, a, 1))
        return (struct jval){0};
    int y = date && strlen(date) == 10 ? digits(date, 4) : -1;
    int m = y >= 0 && date[4] == '-' ? digits(date + 5, 2) : -1;
    int d = m >= 1 && m <= 12 && date[7] == '-' ? digits(date + 8, 2) : -1;
    if (d < 1 || d > 31)
        return jfail(j, -EINVAL, "the template prints a date; want YYYY-MM-DD, got \"%.20s\"",
                     date ? date : "");
    /* Sakamoto's day of the week. */
    static const int shift[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
    int yy = m < 3 ? y - 1 : y,
        wday = (yy + yy / 4 - yy / 100 + yy / 400 + shift[m - 1] + d) % 7;
    struct jstr f = a->v[0].s;
    char *p;
    uint8_t *mask;
    struct jstr s = jstr_room(j, f.n * 8 + 16, &p, &mask);
    uint64_t n = 0;
    for (uint64_t i = 0; s.p && i < f.n; i++) {
        char buf[16] = {f.p[i], 0};
        if (f.p[i] == '%') {
            char c = ++i < f.n ? f.p[i] : 0;
            switch (c) {
            case 'd': snprintf(buf, sizeof buf, "%02d", d); break;
            case 'm': snprintf(buf, sizeof buf, "%02d", m); break;
            case 'Y': snprintf(buf, sizeof buf, "%04d", y); break;
            case 'y': snprintf(buf, sizeof buf, "%02d", y % 100); break;
            case 'b': snprintf(buf, sizeof buf, "%.3s", months[m - 1]); break;
            case 'B': snprintf(buf, sizeof buf, "%s", months[m - 1]); break;
            case 'a': snprintf(buf, sizeof buf, "%.3s", days[wday]); break;
            case 'A': snprintf(buf, sizeof buf, "%s", days[wday]); break;
            case '%': break;
            default: return jfail(j, E_UNSUPP, "the date format %%%c", c ? c : ' ');
            }
        }
        for (const char *c = buf; *c; c++)
            p[n++] = *c;
    }
    if (s.p)
        memset(mask, 1, s.n);
    s.n = s.p ? n : 0;
    return jval_str(s);
}

struct jval jcall_global(struct jeval *j, struct jstr name, const struct jargs *a)
{
    if (jstr_is(name, "range"))
        return range(j, a);
    if (jstr_is(name, "strftime_now"))
        return strftime_now(j, a);
    if (jstr_is(name, "raise_exception")) {
        struct jstr s = a->n && a->v[0].kind == J_STR ? a->v[0].s : jtext("");
        return jfail(j, -EINVAL, "%.*s", (int)(s.n < 200 ? s.n : 200), s.p);
    }
    if (jstr_is(name, "dict")) {
        struct jval d = jdict_new(j);
        for (uint32_t i = 0; i < a->n && d.kind == J_DICT && j->err == 0; i++)
            if (a->name[i].n == 0)
                jfail(j, E_UNSUPP, "dict() of something without a name");
            else
                (void)jdict_put(j, d.dict, a->name[i], a->v[i]);
        return d;
    }
    return unknown(j, "function", name);
}

static struct jval str_method(struct jeval *j, struct jstr s, struct jstr name,
                              const struct jargs *a)
{
    if (jstr_is(name, "strip") || jstr_is(name, "lstrip") || jstr_is(name, "rstrip")) {
        if (a->n && !strings(j, a, 1))
            return (struct jval){0};
        return jval_str(
            strip(j, s, name.p[0] != 'r', name.p[0] != 'l', a->n ? &a->v[0].s : NULL));
    }
    if (jstr_is(name, "upper") || jstr_is(name, "lower"))
        return only(j, a, 0, NULL) ? change_case(j, s, name.p[0] == 'u', false)
                                   : (struct jval){0};
    if (jstr_is(name, "replace"))
        return strings(j, a, 2) ? replace(j, s, a->v[0].s, a->v[1].s) : (struct jval){0};
    if (!strings(j, a, 1))
        return (struct jval){0};
    struct jstr x = a->v[0].s;
    if (jstr_is(name, "split"))
        return split(j, s, x);
    if (x.n > s.n || !jwork(j, x.n))
        return jval_bool(false);
    return jval_bool(memcmp(jstr_is(name, "startswith") ? s.p : s.p + s.n - x.n, x.p, x.n) ==
                     0);
}

static struct jval dict_method(struct jeval *j, struct jdict *d, struct jstr name,
                               const struct jargs *a)
{
    if (jstr_is(name, "get")) {
        if (a->n < 1 || !only(j, a, 2, NULL) || a->v[0].kind != J_STR)
            return jfail(j, E_UNSUPP, "get() without a name");
        struct jval *v = jdict_at(j, d, a->v[0].s);
        return v ? *v : a->n > 1 ? a->v[1] : (struct jval){J_NONE, {0}};
    }
    if (!only(j, a, 0, NULL))
        return (struct jval){0};
    struct jval l = jlist_new(j, d->n);
    for (uint32_t i = 0; l.kind == J_LIST && i < d->n; i++) {
        struct jval key = jval_str(d->key[i]);
        if (jstr_is(name, "items")) {
            struct jval two = jlist_new(j, 2);
            if (two.kind != J_LIST)
                return two;
            two.list->v[0] = key;
            two.list->v[1] = d->v[i];
            l.list->v[i] = two;
        } else {
            l.list->v[i] = jstr_is(name, "keys") ? key : d->v[i];
        }
    }
    return l;
}

struct jval jcall_method(struct jeval *j, struct jval self, struct jstr name,
                         const struct jargs *a)
{
    return self.kind == J_STR ? str_method(j, self.s, name, a)
                              : dict_method(j, self.dict, name, a);
}

/* --- filters and tests -------------------------------------------------------------------------- */
static struct jval length(struct jeval *j, struct jval v)
{
    switch (v.kind) {
    case J_STR: return jval_int((int64_t)jstr_chars(j, v.s));
    case J_LIST: return jval_int((int64_t)v.list->n);
    case J_DICT: return jval_int(v.dict->n);
    case J_UNDEF: return jval_int(0);
    default: return jfail(j, -EINVAL, "the length of something that has none");
    }
}

static struct jval text_of(struct jeval *j, struct jval v)
{
    return v.kind == J_STR ? v : jval_str(jval_print(j, v));
}

struct jval jfilter(struct jeval *j, struct jval of, struct jstr name, const struct jargs *a)
{
    if (j->err)
        return (struct jval){0};
    if (jstr_is(name, "trim")) {
        const struct jval *set = arg(a, 0, "chars");
        if (!only(j, a, 1, "chars") || (set && set->kind != J_STR))
            return jfail(j, E_UNSUPP, "trim with other than a string");
        of = text_of(j, of);
        return jval_str(of.kind == J_STR ? strip(j, of.s, true, true, set ? &set->s : NULL)
                                         : jtext(""));
    }
    if (jstr_is(name, "default") || jstr_is(name, "d")) {
        const struct jval *other = arg(a, 0, "default_value"), *falsy = arg(a, 1, "boolean");
        bool use = of.kind == J_UNDEF || (falsy && jtrue(*falsy) && !jtrue(of));
        return use ? other ? *other : jval_str(jtext("")) : of;
    }
    if (jstr_is(name, "join")) {
        const struct jval *by = arg(a, 0, "d");
        if (!only(j, a, 1, "d") || (by && by->kind != J_STR))
            return jfail(j, E_UNSUPP, "join with other than a string");
        return join(j, of, by ? by->s : jtext(""));
    }
    if (jstr_is(name, "replace")) {
        of = text_of(j, of);
        return strings(j, a, 2) && of.kind == J_STR ? replace(j, of.s, a->v[0].s, a->v[1].s)
                                                    : (struct jval){0};
    }
    if (!ANY_OF(name, plain_filters))
        return unknown(j, "filter", name);
    if (!only(j, a, 0, NULL))
        return (struct jval){0};
    if (jstr_is(name, "length") || jstr_is(name, "count"))
        return length(j, of);
    if (jstr_is(name, "string"))
        return text_of(j, of);
    if (jstr_is(name, "safe"))
        return of;
    if (jstr_is(name, "list"))
        return of.kind == J_LIST ? of : jfail(j, E_UNSUPP, "a list of something that is none");
    if (jstr_is(name, "items"))
        return of.kind == J_DICT ? dict_method(j, of.dict, name, a) : jlist_new(j, 0);
    if (jstr_is(name, "first") || jstr_is(name, "last")) {
        if (of.kind != J_LIST)
            return jfail(j, E_UNSUPP, "the first or last of something that is no list");
        return of.list->n ? of.list->v[name.p[0] == 'f' ? 0 : of.list->n - 1]
                          : (struct jval){0};
    }
    of = text_of(j, of); /* upper, lower, capitalize */
    return of.kind == J_STR ? change_case(j, of.s, name.p[0] == 'u', name.p[0] == 'c') : of;
}

bool jtest(struct jeval *j, struct jval of, struct jstr name, const struct jargs *a)
{
    if (j->err)
        return false;
    if (jstr_is(name, "equalto") || jstr_is(name, "eq") || jstr_is(name, "sameas")) {
        if (a->n != 1) {
            jfail(j, -EINVAL, "a comparison with nothing");
            return false;
        }
        return jequal(j, of, a->v[0]);
    }
    if (jstr_is(name, "in")) {
        if (a->n != 1 || a->v[0].kind != J_LIST) {
            jfail(j, E_UNSUPP, "\"is in\" without a list");
            return false;
        }
        for (uint64_t i = 0; i < a->v[0].list->n; i++)
            if (jequal(j, of, a->v[0].list->v[i]))
                return true;
        return false;
    }
    if (!only(j, a, 0, NULL))
        return false;
    if (jstr_is(name, "defined"))
        return of.kind != J_UNDEF;
    if (jstr_is(name, "undefined"))
        return of.kind == J_UNDEF;
    if (jstr_is(name, "none"))
        return of.kind == J_NONE;
    if (jstr_is(name, "string"))
        return of.kind == J_STR;
    if (jstr_is(name, "mapping"))
        return of.kind == J_DICT;
    if (jstr_is(name, "boolean"))
        return of.kind == J_BOOL;
    if (jstr_is(name, "integer"))
        return of.kind == J_INT;
    if (jstr_is(name, "number"))
        return of.kind == J_INT || of.kind == J_BOOL;
    if (jstr_is(name, "true"))
        return of.kind == J_BOOL && of.i;
    if (jstr_is(name, "false"))
        return of.kind == J_BOOL && !of.i;
    if (jstr_is(name, "iterable"))
        return of.kind == J_STR || of.kind == J_LIST || of.kind == J_DICT || of.kind == J_UNDEF;
    if (jstr_is(name, "sequence"))
        return of.kind == J_STR || of.kind == J_LIST || of.kind == J_DICT || of.kind == J_UNDEF;
    if (jstr_is(name, "odd") || jstr_is(name, "even")) {
        if (of.kind != J_INT) {
            jfail(j, -EINVAL, "odd or even of something that is no number");
            return false;
        }
        return (of.i % 2 != 0) == (name.p[0] == 'o');
    }
    (void)unknown(j, "test", name);
    return false;
}
