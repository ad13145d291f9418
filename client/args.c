/* args.c - see args.h. */
#include "client/args.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>

int args_distance(const char *a, const char *b)
{
    enum { MAX = 32 };
    int d[3][MAX + 1], n = (int)strlen(a), m = (int)strlen(b);
    if (n > MAX || m > MAX)
        return MAX;
    for (int j = 0; j <= m; j++)
        d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = d[i % 3], *one = d[(i + 2) % 3], *two = d[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = one[j - 1] + (a[i - 1] != b[j - 1]);
            if (one[j] + 1 < best)
                best = one[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two[j - 2] + 1 < best)
                best = two[j - 2] + 1;
            now[j] = best;
        }
    }
    return d[n % 3][m];
}

/* Near enough to be what was meant. */
static bool nearer(const char *word, const char *candidate, int *best)
{
    int n = (int)strlen(word), d = args_distance(word, candidate);
    if (n >= 3 && strncmp(word, candidate, (size_t)n) == 0)
        d = 1; /* a beginning of it */
    if (d >= *best || d > (n <= 4 ? 1 : n <= 8 ? 2 : 3))
        return false;
    *best = d;
    return true;
}

const char *args_near_verb(const char *word)
{
    const char *got = NULL;
    int best = 99;
    for (size_t i = 0; i < n_verbs; i++)
        if (!strchr(verbs[i].name, ' ') && nearer(word, verbs[i].name, &best))
            got = verbs[i].name;
    return got;
}

static const char *near_sub(const char *first, const char *word)
{
    static const char *const same[][2] = {{"delete", "rm"}, {"remove", "rm"}, {"list", "ls"},
                                          {"mv", "rename"}, {"copy", "fork"}, {"cp", "fork"}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (strcmp(same[i][0], word) == 0)
            word = same[i][1];
    const char *got = NULL;
    int best = 99;
    size_t n = strlen(first);
    for (size_t i = 0; i < n_verbs; i++)
        if (strncmp(verbs[i].name, first, n) == 0 && verbs[i].name[n] == ' ' &&
            nearer(word, verbs[i].name + n + 1, &best))
            got = verbs[i].name + n + 1;
    return got;
}

/* The verb of two words wins over that of one. */
const struct verb *args_verb(const char *first, const char *second, bool *ret_two)
{
    const struct verb *one = NULL;
    size_t n = strlen(first);
    for (size_t i = 0; i < n_verbs; i++) {
        const char *name = verbs[i].name;
        if (strcmp(name, first) == 0)
            one = &verbs[i];
        if (second && strncmp(name, first, n) == 0 && name[n] == ' ' &&
            strcmp(name + n + 1, second) == 0) {
            *ret_two = true;
            return &verbs[i];
        }
    }
    return one;
}

static bool has_subs(const char *first)
{
    size_t n = strlen(first);
    for (size_t i = 0; i < n_verbs; i++)
        if (strncmp(verbs[i].name, first, n) == 0 && verbs[i].name[n] == ' ')
            return true;
    return false;
}

/* Over all flags that may stand here: the global ones and the verb's. */
static const struct flag *each_flag(const struct verb *v, int *group, int *row)
{
    for (;;) {
        const struct flag *g = *group < 0      ? flags_global
                               : v && v->flags ? v->flags[*group]
                                               : NULL;
        if (!g)
            return NULL;
        if (g[*row].name)
            return &g[(*row)++];
        (*group)++;
        *row = 0;
    }
}
const struct flag *args_flag(const struct verb *v, const char *name, size_t n, char letter)
{
    int group = -1, row = 0;
    for (const struct flag *f; (f = each_flag(v, &group, &row));)
        if (letter ? f->letter == letter
                   : strlen(f->name) == n && memcmp(f->name, name, n) == 0)
            return f;
    return NULL;
}

/* "chat, ingest": the verbs that have a flag this one has not; "" when none has it. */
static void owners_of(const char *name, char letter, char *ret, size_t cap)
{
    size_t at = 0;
    ret[0] = 0;
    for (size_t i = 0; i < n_verbs; i++) {
        bool has = false;
        for (const struct flag *const *g = verbs[i].flags; g && *g; g++)
            for (const struct flag *f = *g; f->name; f++)
                has |= letter ? f->letter == letter : strcmp(f->name, name) == 0;
        if (!has || (verbs[i].hide && !letter && strcmp(verbs[i].hide, name) == 0) || at >= cap)
            continue;
        int n = snprintf(ret + at, cap - at, "%s%s", at ? ", " : "", verbs[i].name);
        at += (size_t)n;
    }
}

static int no_flag(const struct verb *v, const char *arg, const char *near, const char *owners,
                   struct errbuf *eb)
{
    const char *where = v ? v->name : "", *blank = v ? " " : "";
    if (owners[0])
        return err_set(eb, -EINVAL, "hearth %s%shas no flag %.80s; it is of %s%s", where, blank,
                       arg, owners, v ? "" : " and stands after the verb");
    if (near)
        return err_set(eb, -EINVAL, "hearth %s%shas no flag %.80s; did you mean --%s?", where,
                       blank, arg, near);
    return err_set(eb, -EINVAL, "hearth %s%shas no flag %.80s; `hearth help%s%s` lists them",
                   where, blank, arg, blank, where);
}

static int unknown_flag(const struct verb *v, const char *arg, struct errbuf *eb)
{
    char word[64], owners[200];
    const char *got = NULL;
    int best = 99, group = -1, row = 0;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
    for (const struct flag *f; (f = each_flag(v, &group, &row));)
        if (nearer(word, f->name, &best))
            got = f->name;
    owners_of(word, 0, owners, sizeof owners);
    return no_flag(v, arg, got, owners, eb);
}

static int unknown_letter(const struct verb *v, char letter, struct errbuf *eb)
{
    char owners[200];
    owners_of("", letter, owners, sizeof owners);
    return no_flag(v, (char[]){'-', letter, 0}, NULL, owners, eb);
}

/* "-s --split": the value was forgotten.  One that looks so is given as --session=--split. */
static bool is_flag(const struct verb *v, const char *word)
{
    return strncmp(word, "--", 2) == 0 && word[2] &&
           args_flag(v, word + 2, strlen(word + 2), 0);
}

static bool repeats(const struct flag *f)
{
    const char *end = f->value ? strstr(f->value, "...") : NULL;
    return end && !end[3];
}

/* Of two values one would be dropped without a word: which is meant is not known here. */
static int give(struct args *a, const struct flag *f, const char *value, struct errbuf *eb)
{
    const char *was = repeats(f) ? NULL : args_str(a, f->name);
    if (was && value && strcmp(was, value) != 0)
        return err_set(eb, -EINVAL,
                       "--%s is given twice, as \"%.80s\" and as \"%.80s\"; give one of them",
                       f->name, was, value);
    if (a->n_given == GIVEN_MAX)
        return err_set(eb, -EINVAL, "more than %d flags", GIVEN_MAX);
    a->given[a->n_given].flag = f;
    a->given[a->n_given++].value = value;
    return 0;
}

bool args_wants_value(const struct flag *f)
{
    return f->value && f->value[0] != '[';
}

/* One word that begins with a dash, and the next if it is its value. Returns words used. */
static int take_flag(struct args *a, const char *arg, const char *next, struct errbuf *eb)
{
    const struct verb *v = a->verb;
    if (arg[1] == '-') {
        size_t n = strcspn(arg + 2, "=");
        const char *eq = arg[2 + n] ? arg + 3 + n : NULL;
        const struct flag *f = args_flag(v, arg + 2, n, 0);
        if (!f)
            return unknown_flag(v, arg, eb);
        if (eq && !f->value)
            return err_set(eb, -EINVAL, "--%s takes no value", f->name);
        if (!eq && args_wants_value(f) && !next)
            return err_set(eb, -EINVAL, "--%s wants a value: --%s %s", f->name, f->name,
                           f->value);
        if (!eq && args_wants_value(f) && is_flag(v, next))
            return err_set(eb, -EINVAL,
                           "--%s wants a value and got %s; if that is meant: --%s=%s", f->name,
                           next, f->name, next);
        int r = give(a, f, eq ? eq : args_wants_value(f) ? next : NULL, eb);
        return r < 0 ? r : !eq && args_wants_value(f) ? 2 : 1;
    }
    for (const char *p = arg + 1; *p; p++) {
        const struct flag *f = args_flag(v, NULL, 0, *p);
        if (!f)
            return unknown_letter(v, *p, eb);
        if (!args_wants_value(f)) {
            int r = give(a, f, NULL, eb);
            if (r < 0)
                return r;
            continue;
        }
        const char *value = p[1] ? p + 1 : next;
        if (!value)
            return err_set(eb, -EINVAL, "-%c wants a value: -%c %s", *p, *p, f->value);
        if (!p[1] && is_flag(v, next))
            return err_set(eb, -EINVAL,
                           "-%c wants a value and got %s; if that is meant: --%s=%s", *p, next,
                           f->name, next);
        int r = give(a, f, value, eb);
        return r < 0 ? r : p[1] ? 1 : 2;
    }
    return 1;
}

/* What other programs call it, and what it is here. */
static const char *habit(const char *word)
{
    static const char *const rows[][2] = {
        {"ls", "`hearth models` lists models, `hearth sessions` conversations"},
        {"list", "`hearth models` lists models, `hearth sessions` conversations"},
        {"rm",
         "`hearth sessions rm NAME` forgets a conversation; a model is a file, remove that"},
        {"delete",
         "`hearth sessions rm NAME` forgets a conversation; a model is a file, remove that"},
        {"pull", "put a GGUF file into the daemon's models directory "
                 "(~/.local/share/hearth/models), `hearth models` lists it then"},
        {"start", "`hearth serve` starts the daemon"},
        {"stop", "`hearth unload MODEL` unloads a model; the daemon ends by Ctrl-C, by `kill "
                 "PID` (`hearth status` says it), or by `systemctl --user stop hearthd`"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i][0], word) == 0)
            return rows[i][1];
    return NULL;
}

static int unknown_verb(const char *word, struct errbuf *eb)
{
    if (habit(word))
        return err_set(eb, -EINVAL, "hearth has no verb \"%s\": %s", word, habit(word));
    const char *near = args_near_verb(word);
    return near ? err_set(eb, -EINVAL,
                          "hearth has no verb \"%.40s\"; did you mean `hearth %s`?", word, near)
                : err_set(eb, -EINVAL, "hearth has no verb \"%.40s\"; `hearth help` lists them",
                          word);
}

static int check_count(const struct args *a, struct errbuf *eb)
{
    const struct verb *v = a->verb;
    if (a->n < v->pos_min)
        return err_set(eb, -EINVAL, "something is missing: hearth %s %s", v->name, v->takes);
    if (v->pos_max >= 0 && a->n > v->pos_max) {
        if (has_subs(v->name)) {
            const char *near = near_sub(v->name, a->pos[0]);
            return err_set(
                eb, -EINVAL,
                near ? "hearth %s has no \"%.40s\"; did you mean `hearth %s %s`?"
                     : "hearth %s has no \"%.40s\"; `hearth help %s` lists what there is%s",
                v->name, a->pos[0], v->name, near ? near : "");
        }
        return err_set(eb, -EINVAL, "too much: \"%.60s\"; hearth %s%s%s%s", a->pos[v->pos_max],
                       v->name, v->takes[0] ? " " : "", v->takes,
                       v->pos_max ? " (quote text that has spaces)" : "");
    }
    return 0;
}

int args_parse(struct args *ret, int argc, char *const *argv, struct errbuf *eb)
{
    *ret = (struct args){0};
    bool flags_over = false;
    for (int i = 1; i < argc;) {
        const char *arg = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!flags_over && arg[0] == '-' && arg[1]) {
            if (strcmp(arg, "--") == 0) {
                flags_over = true;
                i++;
                continue;
            }
            int r = take_flag(ret, arg, next, eb);
            if (r < 0)
                return r;
            i += r;
            continue;
        }
        i++;
        if (!ret->verb) {
            bool two = false;
            ret->verb = args_verb(arg, next, &two);
            if (!ret->verb)
                return unknown_verb(arg, eb);
            i += two;
            if (ret->verb->raw) {
                for (; i < argc && ret->n < ARGS_MAX; i++)
                    ret->pos[ret->n++] = argv[i];
                return 0;
            }
            continue;
        }
        if (ret->n == ARGS_MAX)
            return err_set(eb, -EINVAL, "more than %d arguments", ARGS_MAX);
        ret->pos[ret->n++] = arg;
    }
    return ret->verb && !args_has(ret, "help") ? check_count(ret, eb) : 0;
}

const char *args_str(const struct args *a, const char *name)
{
    for (int i = a->n_given; i-- > 0;)
        if (strcmp(a->given[i].flag->name, name) == 0)
            return a->given[i].value;
    return NULL;
}
bool args_has(const struct args *a, const char *name)
{
    for (int i = 0; i < a->n_given; i++)
        if (strcmp(a->given[i].flag->name, name) == 0)
            return true;
    return false;
}

int args_num(const struct args *a, const char *name, double min, double max, bool integer,
             double *ret, struct errbuf *eb)
{
    const char *s = args_str(a, name);
    if (!s)
        return 0;
    char *end;
    double v = strtod(s, &end);
    /* strtod takes blanks, words and hexadecimals, too. */
    bool decimal = s[0] && strspn(s, "0123456789.+-eE") == strlen(s);
    if (!decimal || *end || !isfinite(v) || v < min || v > max || (integer && v != floor(v)))
        return err_set(eb, -EINVAL, "--%s: want %s of %.16g to %.16g, got \"%.40s\"", name,
                       integer ? "a whole number" : "a number", min, max, s);
    *ret = v;
    return 1;
}
