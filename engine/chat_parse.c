/* chat_parse.c - chat templates from tokens to nodes (chat_jinja.h).
 *
 * A descent by hand in Jinja's precedence: conditional, or, and, not, comparison, + -, ~,
 * * // %, unary, postfix, filters and tests. */
#include "base/check.h"
#include "engine/chat_lex.h"
#include <errno.h>
#include <stdlib.h>

/* --- expressions ------------------------------------------------------------------------------- */
static struct jnode *expr(struct parse *s);
static struct jnode *unary(struct parse *s, bool with_filter);
static struct jnode *postfix(struct parse *s, struct jnode *of);
static struct jnode *or_expr(struct parse *s);

static struct jnode *constant(struct parse *s, struct jval v)
{
    struct jnode *n = lex_node(s, JN_CONST);
    if (n)
        n->v = v;
    return n;
}

static struct jnode *bin(struct parse *s, enum jop op, struct jnode *a, struct jnode *b)
{
    struct jnode *n = lex_node(s, JN_BIN);
    if (n) {
        n->op = op;
        n->a = a;
        n->b = b;
    }
    return n;
}

static bool deeper(struct parse *s)
{
    if (++s->depth <= JINJA_DEPTH_MAX)
        return true;
    lex_fail(s, E_LIMIT, "nested deeper than %d", JINJA_DEPTH_MAX);
    return false;
}

/* Items up to the closing operator, which is consumed; pairs: key : value of a literal dict. */
static struct jnode *items(struct parse *s, const char *close, bool pairs, uint32_t *ret_n)
{
    struct jnode *first = NULL, **tail = &first;
    uint32_t n = 0;
    while (s->err == 0 && !lex_op(s, close)) {
        struct jnode *x = expr(s);
        if (x == NULL)
            break;
        *tail = x;
        tail = &x->next;
        if (pairs) {
            lex_want_op(s, ":");
            if ((x = expr(s)) == NULL)
                break;
            *tail = x;
            tail = &x->next;
        }
        n++;
        if (!lex_skip_op(s, ",")) {
            if (!lex_op(s, close))
                lex_fail(s, E_UNSUPP, "want \",\" or \"%s\"", close);
            break;
        }
        if (n > 10000)
            lex_fail(s, E_LIMIT, "more than 10000 items");
    }
    if (ret_n)
        *ret_n = n;
    lex_want_op(s, close);
    return first;
}

static struct jnode *brackets(struct parse *s, const char *close, enum jtype type)
{
    lex_next(s);
    struct jnode *n = lex_node(s, type);
    struct jnode *a = items(s, close, type == JN_DICT, NULL);
    if (n)
        n->a = a;
    return n;
}

static struct jnode *parens(struct parse *s)
{
    lex_next(s);
    if (lex_op(s, ")")) {
        struct jnode *n = lex_node(s, JN_LIST);
        lex_next(s);
        return n;
    }
    struct jnode *x = expr(s);
    if (lex_op(s, ",")) {
        struct jnode *n = lex_node(s, JN_LIST);
        lex_next(s);
        struct jnode *rest = items(s, ")", false, NULL);
        if (n && x) {
            n->a = x;
            x->next = rest;
        }
        return n;
    }
    lex_want_op(s, ")");
    return s->err ? NULL : x;
}

static struct jnode *primary(struct parse *s)
{
    static const struct {
        const char *name;
        struct jval v;
    } words[] = {
        {"true", {J_BOOL, {.i = 1}}},  {"True", {J_BOOL, {.i = 1}}},
        {"false", {J_BOOL, {.i = 0}}}, {"False", {J_BOOL, {.i = 0}}},
        {"none", {J_NONE, {0}}},       {"None", {J_NONE, {0}}},
    };
    struct jnode *n = NULL;
    if (s->err || !s->in_tag) {
        lex_fail(s, E_UNSUPP, "an expression is missing");
        return NULL;
    }
    if (s->tok == T_INT) {
        n = constant(s, (struct jval){J_INT, {.i = s->value}});
        lex_next(s);
    } else if (s->tok == T_STR) {
        struct jstr w = s->word;
        lex_next(s);
        if (s->in_tag && s->tok == T_STR) {
            lex_fail(s, E_UNSUPP, "strings side by side");
            return NULL;
        }
        n = constant(s, (struct jval){J_STR, {.s = w}});
    } else if (s->tok == T_NAME) {
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (jstr_is(s->word, words[i].name)) {
                lex_next(s);
                return constant(s, words[i].v);
            }
        n = lex_node(s, JN_NAME);
        struct jstr w = lex_want_name(s);
        if (n)
            n->s = w;
    } else if (lex_op(s, "(")) {
        n = parens(s);
    } else if (lex_op(s, "[")) {
        n = brackets(s, "]", JN_LIST);
    } else if (lex_op(s, "{")) {
        n = brackets(s, "}", JN_DICT);
    } else {
        lex_fail(s, E_UNSUPP, "\"%.*s\" where a value should be",
                 (int)(s->word.n < 40 ? s->word.n : 40), s->word.p);
    }
    return n;
}

static struct jnode *arguments(struct parse *s) /* after "(" */
{
    struct jnode *first = NULL, **tail = &first;
    while (s->err == 0 && !lex_op(s, ")")) {
        struct jnode *x = expr(s);
        if (x && x->type == JN_NAME && lex_op(s, "=")) {
            lex_next(s);
            x->type = JN_KW;
            x->a = expr(s);
        }
        if (x == NULL)
            break;
        *tail = x;
        tail = &x->next;
        if (!lex_skip_op(s, ","))
            break;
    }
    lex_want_op(s, ")");
    return first;
}

static struct jnode *subscript(struct parse *s, struct jnode *of) /* after "[" */
{
    struct jnode *part[3] = {NULL, NULL, NULL};
    int colons = 0;
    while (s->err == 0 && !lex_op(s, "]")) {
        if (lex_skip_op(s, ":")) {
            if (++colons > 2)
                lex_fail(s, E_UNSUPP, "a slice with too many colons");
            continue;
        }
        part[colons] = expr(s);
    }
    lex_want_op(s, "]");
    struct jnode *n = lex_node(s, colons ? JN_SLICE : JN_ITEM);
    if (n) {
        n->a = of;
        n->b = part[0];
        n->c = part[1];
        n->d = part[2];
        if (!colons && part[0] == NULL)
            lex_fail(s, E_UNSUPP, "an empty subscript");
    }
    return n;
}

static struct jnode *postfix(struct parse *s, struct jnode *of)
{
    for (uint32_t links = 0; s->err == 0; links++) {
        struct jnode *n;
        if (links > JINJA_DEPTH_MAX) {
            lex_fail(s, E_LIMIT, "more than %d links in one expression", JINJA_DEPTH_MAX);
            break;
        }
        if (lex_skip_op(s, ".")) {
            n = lex_node(s, JN_ATTR);
            struct jstr w = lex_want_name(s);
            if (n) {
                n->a = of;
                n->s = w;
            }
        } else if (lex_skip_op(s, "[")) {
            n = subscript(s, of);
        } else if (lex_skip_op(s, "(")) {
            n = lex_node(s, JN_CALL);
            struct jnode *args = arguments(s);
            if (n) {
                n->a = of;
                n->b = args;
            }
        } else {
            break;
        }
        of = n;
    }
    return of;
}

static struct jnode *test(struct parse *s, struct jnode *of) /* after "is" */
{
    static const char *const stops[] = {"else", "or", "and", "is", "if", "not", "in"};
    bool negated = lex_skip_name(s, "not");
    struct jnode *n = lex_node(s, JN_TEST);
    struct jstr name = lex_want_name(s);
    struct jnode *args = NULL;
    if (lex_skip_op(s, "(")) {
        args = arguments(s);
    } else if (s->in_tag &&
               (s->tok == T_NAME || s->tok == T_STR || s->tok == T_INT || lex_op(s, "["))) {
        bool stop = false;
        for (size_t i = 0; s->tok == T_NAME && i < sizeof stops / sizeof *stops; i++)
            stop = stop || jstr_is(s->word, stops[i]);
        if (!stop)
            args = postfix(s, primary(s));
    }
    if (n == NULL)
        return NULL;
    n->a = of;
    n->s = name;
    n->b = args;
    if (!negated)
        return n;
    struct jnode *not = lex_node(s, JN_NOT);
    if (not )
        not ->a = n;
    return not ;
}

static struct jnode *filters(struct parse *s, struct jnode *of)
{
    for (uint32_t links = 0; s->err == 0; links++) {
        if (links > JINJA_DEPTH_MAX) {
            lex_fail(s, E_LIMIT, "more than %d filters in one expression", JINJA_DEPTH_MAX);
            break;
        }
        if (lex_skip_op(s, "|")) {
            struct jnode *n = lex_node(s, JN_FILTER);
            struct jstr name = lex_want_name(s);
            struct jnode *args = lex_skip_op(s, "(") ? arguments(s) : NULL;
            if (n) {
                n->a = of;
                n->s = name;
                n->b = args;
            }
            of = n;
        } else if (lex_skip_name(s, "is")) {
            of = test(s, of);
        } else if (lex_op(s, "(")) {
            lex_fail(s, E_UNSUPP, "a call of a filter's result");
        } else {
            break;
        }
    }
    return of;
}

static struct jnode *unary(struct parse *s, bool with_filter)
{
    struct jnode *n;
    if (!deeper(s))
        return NULL;
    if (lex_op(s, "-") || lex_op(s, "+")) {
        bool neg = lex_op(s, "-");
        lex_next(s);
        n = unary(s, false);
        if (neg) {
            struct jnode *m = lex_node(s, JN_NEG);
            if (m)
                m->a = n;
            n = m;
        }
    } else {
        n = primary(s);
    }
    n = postfix(s, n);
    if (with_filter)
        n = filters(s, n);
    s->depth--;
    return n;
}

static struct jnode *product(struct parse *s)
{
    struct jnode *a = unary(s, true);
    for (;;) {
        enum jop op;
        if (lex_op(s, "*"))
            op = JO_MUL;
        else if (lex_op(s, "//"))
            op = JO_IDIV;
        else if (lex_op(s, "%"))
            op = JO_MOD;
        else if (lex_op(s, "/") || lex_op(s, "**")) {
            lex_fail(s, E_UNSUPP, "the operator \"%.*s\"", (int)s->word.n, s->word.p);
            return a;
        } else
            return a;
        lex_next(s);
        a = bin(s, op, a, unary(s, true));
    }
}

static struct jnode *concat(struct parse *s)
{
    struct jnode *a = product(s);
    while (lex_skip_op(s, "~"))
        a = bin(s, JO_CAT, a, product(s));
    return a;
}

static struct jnode *sum(struct parse *s)
{
    struct jnode *a = concat(s);
    for (;;) {
        enum jop op = lex_op(s, "+") ? JO_ADD : JO_SUB;
        if (!lex_op(s, "+") && !lex_op(s, "-"))
            return a;
        lex_next(s);
        a = bin(s, op, a, concat(s));
    }
}

static struct jnode *comparison(struct parse *s)
{
    static const struct {
        const char *text;
        enum jop op;
    } ops[] = {{"==", JO_EQ}, {"!=", JO_NE}, {"<", JO_LT},
               {"<=", JO_LE}, {">", JO_GT},  {">=", JO_GE}};
    struct jnode *a = sum(s);
    for (uint32_t links = 0; s->err == 0; links++) {
        bool hit = false;
        enum jop op = JO_IN;
        for (size_t i = 0; i < sizeof ops / sizeof *ops && !hit; i++)
            if (lex_op(s, ops[i].text)) {
                op = ops[i].op;
                hit = true;
            }
        if (!hit && lex_name(s, "not")) {
            lex_next(s);
            if (!lex_name(s, "in")) {
                lex_fail(s, E_UNSUPP, "\"not\" after a value");
                return a;
            }
            op = JO_NOTIN;
            hit = true;
        } else if (!hit) {
            hit = lex_name(s, "in");
        }
        if (!hit)
            break;
        if (links) { /* a < b < c compares twice; no template needs it */
            lex_fail(s, E_UNSUPP, "a chain of comparisons");
            break;
        }
        lex_next(s);
        a = bin(s, op, a, sum(s));
    }
    return a;
}

static struct jnode *not_expr(struct parse *s)
{
    if (!lex_skip_name(s, "not"))
        return comparison(s);
    struct jnode *n = lex_node(s, JN_NOT);
    if (!deeper(s))
        return NULL;
    struct jnode *a = not_expr(s);
    s->depth--;
    if (n)
        n->a = a;
    return n;
}

static struct jnode *and_expr(struct parse *s)
{
    struct jnode *a = not_expr(s);
    while (lex_skip_name(s, "and"))
        a = bin(s, JO_AND, a, not_expr(s));
    return a;
}

static struct jnode *or_expr(struct parse *s)
{
    struct jnode *a = and_expr(s);
    while (lex_skip_name(s, "or"))
        a = bin(s, JO_OR, a, and_expr(s));
    return a;
}

static struct jnode *expr(struct parse *s)
{
    if (!deeper(s))
        return NULL;
    struct jnode *a = or_expr(s);
    while (lex_skip_name(s, "if")) {
        struct jnode *n = lex_node(s, JN_COND);
        struct jnode *when = or_expr(s), *other = NULL;
        if (lex_skip_name(s, "else"))
            other = expr(s);
        if (n) {
            n->a = a;
            n->b = when;
            n->c = other;
        }
        a = n;
    }
    s->depth--;
    return a;
}

/* --- statements -------------------------------------------------------------------------------- */
static struct jnode *body(struct parse *s, const char *const *stops, const char **ret_stop);

static void end_tag(struct parse *s)
{
    if (s->err == 0 && s->in_tag)
        lex_fail(s, E_UNSUPP, "\"%.*s\" before the end of a tag",
                 (int)(s->word.n < 40 ? s->word.n : 40), s->word.p);
}

static struct jnode *if_stmt(struct parse *s)
{
    static const char *const stops[] = {"elif", "else", "endif", NULL};
    static const char *const last[] = {"endif", NULL};
    struct jnode *n = lex_node(s, JN_IF);
    const char *stop = NULL;
    struct jnode *when = expr(s);
    end_tag(s);
    struct jnode *then = body(s, stops, &stop), *other = NULL;
    if (stop && strcmp(stop, "elif") == 0) {
        /* Not nesting for whoever wrote it, but it is for us. */
        if (deeper(s)) {
            other = if_stmt(s);
            s->depth--;
        }
    } else if (stop && strcmp(stop, "else") == 0) {
        end_tag(s);
        other = body(s, last, &stop);
        end_tag(s);
    } else {
        end_tag(s);
    }
    if (n) {
        n->a = when;
        n->b = then;
        n->c = other;
    }
    return n;
}

static struct jnode *for_stmt(struct parse *s)
{
    static const char *const stops[] = {"else", "endfor", NULL};
    static const char *const last[] = {"endfor", NULL};
    struct jnode *n = lex_node(s, JN_FOR), *names = NULL, **tail = &names;
    const char *stop = NULL;
    bool paren = lex_skip_op(s, "(");
    do {
        struct jnode *x = lex_node(s, JN_NAME);
        struct jstr w = lex_want_name(s);
        if (x == NULL)
            break;
        x->s = w;
        *tail = x;
        tail = &x->next;
    } while (lex_skip_op(s, ","));
    if (paren)
        lex_want_op(s, ")");
    if (s->err == 0 && !lex_skip_name(s, "in"))
        lex_fail(s, E_UNSUPP, "a for without in");
    /* Not expr(): an "if" here filters the items. */
    struct jnode *of = or_expr(s), *where = lex_skip_name(s, "if") ? or_expr(s) : NULL;
    if (lex_name(s, "recursive"))
        lex_fail(s, E_UNSUPP, "a recursive for");
    end_tag(s);
    struct jnode *inner = body(s, stops, &stop), *other = NULL;
    end_tag(s);
    if (stop && strcmp(stop, "else") == 0) {
        other = body(s, last, &stop);
        end_tag(s);
    }
    if (n) {
        n->a = names;
        n->b = of;
        n->c = where;
        n->d = inner;
        n->e = other;
    }
    return n;
}

static struct jnode *set_stmt(struct parse *s)
{
    static const char *const last[] = {"endset", NULL};
    struct jnode *n = lex_node(s, JN_SET);
    struct jstr name = lex_want_name(s), attr = {0};
    struct jnode *value = NULL, *inner = NULL;
    const char *stop;
    if (lex_skip_op(s, "."))
        attr = lex_want_name(s);
    if (lex_op(s, ","))
        lex_fail(s, E_UNSUPP, "a set of several names");
    if (lex_skip_op(s, "=")) {
        value = expr(s);
        end_tag(s);
    } else {
        end_tag(s);
        inner = body(s, last, &stop);
        end_tag(s);
    }
    if (n) {
        n->s = name;
        n->t = attr;
        n->a = value;
        n->b = inner;
    }
    return n;
}

/* One statement, or the word that ends the body we are in (*ret_stop). */
static struct jnode *statement(struct parse *s, const char *const *stops, const char **ret_stop)
{
    static const char *const marks[] = {"endgeneration", NULL};
    for (; stops && *stops; stops++)
        if (lex_name(s, *stops)) {
            *ret_stop = *stops;
            lex_next(s);
            return NULL;
        }
    if (lex_skip_name(s, "if"))
        return if_stmt(s);
    if (lex_skip_name(s, "for"))
        return for_stmt(s);
    if (lex_skip_name(s, "set"))
        return set_stmt(s);
    if (lex_name(s, "break") || lex_name(s, "continue")) {
        struct jnode *n = lex_node(s, lex_name(s, "break") ? JN_BREAK : JN_CONTINUE);
        lex_next(s);
        end_tag(s);
        return n;
    }
    if (lex_skip_name(s,
                      "generation")) { /* marks the assistant's words for training; no effect */
        const char *stop;
        struct jnode *n = lex_node(s, JN_IF);
        end_tag(s);
        struct jnode *inner = body(s, marks, &stop);
        end_tag(s);
        if (n) {
            n->a = constant(s, (struct jval){J_BOOL, {.i = 1}});
            n->b = inner;
        }
        return n;
    }
    lex_fail(s, E_UNSUPP, "the statement \"%.*s\"", (int)(s->word.n < 40 ? s->word.n : 40),
             s->word.p);
    return NULL;
}

static struct jnode *body(struct parse *s, const char *const *stops, const char **ret_stop)
{
    struct jnode *first = NULL, **tail = &first;
    *ret_stop = NULL;
    if (!deeper(s))
        return NULL;
    while (s->err == 0) {
        char kind;
        struct jnode *n = lex_text(s, &kind);
        if (n) {
            *tail = n;
            tail = &n->next;
        }
        if (kind == '#') {
            lex_comment(s);
            continue;
        }
        if (kind == 0) {
            while (stops && stops[1])
                stops++;
            if (stops)
                lex_fail(s, E_UNSUPP, "the template ends inside a block (want \"%s\")",
                         stops[0]);
            break;
        }
        lex_open_tag(s, kind);
        n = NULL;
        if (kind == '{') {
            struct jnode *a = expr(s);
            end_tag(s);
            if ((n = lex_node(s, JN_OUT)) != NULL)
                n->a = a;
        } else {
            n = statement(s, stops, ret_stop);
            if (*ret_stop)
                break;
        }
        if (n) {
            *tail = n;
            tail = &n->next;
        }
    }
    s->depth--;
    return first;
}

int jinja_parse(struct jnode **ret, struct jmem *m, const char *text, uint64_t bytes,
                struct errbuf *eb)
{
    struct parse s = {.m = m, .eb = eb, .line = 1, .line_start = true};
    const char *stop;
    if (bytes > JINJA_BYTES_MAX)
        return err_set(eb, E_LIMIT, "%llu bytes, at most %d", (unsigned long long)bytes,
                       JINJA_BYTES_MAX);
    /* Every kind of line end is one newline, and the last one is not part of the template. */
    char *copy = malloc(bytes + 1);
    uint64_t n = 0;
    if (copy == NULL)
        return -ENOMEM;
    for (uint64_t i = 0; i < bytes; i++) {
        if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n')
            continue;
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    n -= n && copy[n - 1] == '\n';
    s.p = copy;
    s.end = copy + n;
    struct jnode *t = body(&s, NULL, &stop);
    free(copy);
    if (s.err == 0)
        *ret = t;
    return s.err;
}
