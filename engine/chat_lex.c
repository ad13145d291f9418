/* chat_lex.c - see chat_lex.h.
 *
 * Text between tags is cut as Jinja cuts it: a tag's minus eats all space on its side; else,
 * of block and comment tags, a newline right after is dropped and so is the indentation of a
 * tag that begins its line. */
#include "engine/chat_lex.h"
#include "base/check.h"
#include "engine/utf8.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

/* --- failing: the first failure holds, and the cursor jumps to the end ----------------------- */
void lex_fail(struct parse *s, int code, const char *fmt, ...)
{
    char why[200];
    va_list ap;
    if (s->err == 0) {
        va_start(ap, fmt);
        vsnprintf(why, sizeof why, fmt, ap);
        va_end(ap);
        s->err = err_set(s->eb, code, "line %u: %s", s->line, why);
    }
    s->p = s->end;
    s->tok = T_END;
    s->in_tag = false;
}

void *lex_take(struct parse *s, uint64_t bytes)
{
    void *p = jmem_take(s->m, bytes);
    if (p == NULL)
        lex_fail(s, s->m->over ? E_LIMIT : -ENOMEM, "out of memory");
    return p;
}

/* NULL after any failure, so whoever fills a node asks first. */
struct jnode *lex_node(struct parse *s, enum jtype type)
{
    struct jnode *n = s->err ? NULL : lex_take(s, sizeof *n);
    if (n == NULL)
        return NULL;
    n->type = type;
    n->line = s->line;
    return n;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* --- tokens inside a tag ---------------------------------------------------------------------- */
static bool name_char(char c, bool first)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (!first && c >= '0' && c <= '9');
}

static int hex_of(const char *p, int digits)
{
    int v = 0;
    for (int i = 0; i < digits; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* Python's escapes, as far as templates use them. */
static void string_token(struct parse *s)
{
    char quote = *s->p++;
    const char *q = s->p;
    while (q < s->end && *q != quote)
        q += *q == '\\' && q + 1 < s->end ? 2 : 1;
    if (q >= s->end)
        return lex_fail(s, E_UNSUPP, "a string is not closed");
    char *out = lex_take(s, (uint64_t)(q - s->p) + 4);
    if (out == NULL)
        return;
    uint64_t n = 0;
    for (const char *c = s->p; c < q; c++) {
        if (*c == '\n')
            s->line++;
        if (*c != '\\') {
            out[n++] = *c;
            continue;
        }
        c++;
        int v;
        switch (*c) {
        case 'n': out[n++] = '\n'; break;
        case 't': out[n++] = '\t'; break;
        case 'r': out[n++] = '\r'; break;
        case '\\':
        case '\'':
        case '"': out[n++] = *c; break;
        case '\n': break;
        case 'x':
        case 'u':
            v = q - c > (*c == 'x' ? 2 : 4) ? hex_of(c + 1, *c == 'x' ? 2 : 4) : -1;
            if (v < 0 || (v >= 0xd800 && v < 0xe000))
                return lex_fail(s, E_UNSUPP, "a string has an escape that is not understood");
            n += utf8_put((uint32_t)v, out + n);
            c += *c == 'x' ? 2 : 4;
            break;
        default: return lex_fail(s, E_UNSUPP, "the escape \\%c in a string", *c);
        }
    }
    s->p = q + 1;
    s->tok = T_STR;
    s->word = (struct jstr){out, NULL, n};
}

/* The end of a tag, with what its sign and the settings say about the space after it. */
static bool tag_end(struct parse *s)
{
    char sign = *s->p == '-' || *s->p == '+' ? *s->p : 0;
    const char *c = s->p + (sign != 0);
    if (s->end - c < 2 || memcmp(c, s->close, 2) != 0)
        return false;
    if (sign == '+' && s->close[0] == '}')
        return false;
    s->p = c + 2;
    s->eat_space = sign == '-';
    s->line_start = false;
    if (s->close[0] == '%' && sign == 0 && s->p < s->end && *s->p == '\n') {
        s->p++;
        s->line++;
        s->line_start = true;
    }
    s->in_tag = false;
    s->tok = T_END;
    return true;
}

void lex_next(struct parse *s)
{
    static const char *const pairs[] = {"==", "!=", "<=", ">=", "//", "**"};
    if (!s->in_tag)
        return;
    while (s->p < s->end && is_space(*s->p))
        s->line += *s->p++ == '\n';
    if (s->p >= s->end)
        return lex_fail(s, E_UNSUPP, "a tag is not closed");
    if (s->open == 0 && tag_end(s))
        return;
    char c = *s->p;
    const char *start = s->p;
    if (name_char(c, true)) {
        while (s->p < s->end && name_char(*s->p, false))
            s->p++;
        s->tok = T_NAME;
    } else if (c >= '0' && c <= '9') {
        s->value = 0;
        while (s->p < s->end && *s->p >= '0' && *s->p <= '9' && s->p - start < 18)
            s->value = s->value * 10 + (*s->p++ - '0');
        if (s->p < s->end && (name_char(*s->p, false) || (*s->p == '.' && s->p + 1 < s->end &&
                                                          s->p[1] >= '0' && s->p[1] <= '9')))
            return lex_fail(s, E_UNSUPP, "numbers that are not plain integers");
        s->tok = T_INT;
    } else if (c == '\'' || c == '"') {
        return string_token(s);
    } else {
        s->p++;
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
            if (s->end - start > 1 && memcmp(start, pairs[i], 2) == 0)
                s->p = start + 2;
        s->tok = T_OP;
        s->open += c == '(' || c == '[' || c == '{';
        s->open -= s->open && (c == ')' || c == ']' || c == '}');
    }
    s->word = (struct jstr){start, NULL, (uint64_t)(s->p - start)};
}

bool lex_op(const struct parse *s, const char *op)
{
    return s->in_tag && s->tok == T_OP && jstr_is(s->word, op);
}

bool lex_name(const struct parse *s, const char *name)
{
    return s->in_tag && s->tok == T_NAME && jstr_is(s->word, name);
}

bool lex_skip_op(struct parse *s, const char *op)
{
    if (!lex_op(s, op))
        return false;
    lex_next(s);
    return true;
}

bool lex_skip_name(struct parse *s, const char *name)
{
    if (!lex_name(s, name))
        return false;
    lex_next(s);
    return true;
}

void lex_want_op(struct parse *s, const char *op)
{
    if (s->err == 0 && !lex_skip_op(s, op))
        lex_fail(s, E_UNSUPP, "want \"%s\", found \"%.*s\"", op,
                 (int)(s->word.n < 40 ? s->word.n : 40),
                 s->in_tag ? s->word.p : "the end of the tag");
}

struct jstr lex_keep(struct parse *s, struct jstr w)
{
    char *p = lex_take(s, w.n + 1);
    if (p == NULL)
        return (struct jstr){0};
    memcpy(p, w.p, w.n);
    return (struct jstr){p, NULL, w.n};
}

struct jstr lex_want_name(struct parse *s)
{
    if (!s->in_tag || s->tok != T_NAME) {
        lex_fail(s, E_UNSUPP, "want a name");
        return (struct jstr){0};
    }
    struct jstr w = lex_keep(s, s->word);
    lex_next(s);
    return w;
}

/* Text up to the next tag, cut as the tag's sign and the settings say; then the tag's opening
 * is consumed.  *ret_tag: '%', '{', or 0 at the end of the template. */
struct jnode *lex_text(struct parse *s, char *ret_tag)
{
    struct jnode *n = NULL;
    *ret_tag = 0;
    if (s->eat_space)
        while (s->p < s->end && is_space(*s->p))
            s->line += *s->p++ == '\n';
    s->eat_space = false;
    const char *from = s->p, *q = s->p;
    while (q < s->end &&
           !(*q == '{' && q + 1 < s->end && (q[1] == '%' || q[1] == '{' || q[1] == '#'))) {
        s->line += *q == '\n';
        q++;
    }
    const char *to = q;
    if (q < s->end) {
        char kind = q[1], sign = q + 2 < s->end ? q[2] : 0;
        *ret_tag = kind;
        s->p = q + 2;
        if (sign == '-') {
            s->p++;
            while (to > from && is_space(to[-1]))
                to--;
        } else {
            bool plus = sign == '+' && kind != '{';
            s->p += plus;
            const char *line = q;
            while (line > from && line[-1] != '\n' && (is_space(line[-1])))
                line--;
            if (!plus && kind != '{' && line < q &&
                (line > from ? line[-1] == '\n' : s->line_start))
                to = line;
        }
    } else {
        s->p = s->end;
    }
    s->line_start = false;
    if (to > from && (n = lex_node(s, JN_TEXT)) != NULL)
        n->s = lex_keep(s, (struct jstr){from, NULL, (uint64_t)(to - from)});
    return n;
}

void lex_comment(struct parse *s)
{
    while (s->end - s->p >= 2 && memcmp(s->p, "#}", 2) != 0)
        s->line += *s->p++ == '\n';
    if (s->end - s->p < 2)
        return lex_fail(s, E_UNSUPP, "a comment is not closed");
    s->eat_space = s->p[-1] == '-';
    bool plus = s->p[-1] == '+';
    s->p += 2;
    if (!s->eat_space && !plus && s->p < s->end && *s->p == '\n') {
        s->p++;
        s->line++;
        s->line_start = true;
    }
}

void lex_open_tag(struct parse *s, char kind)
{
    s->close[0] = kind == '%' ? '%' : '}';
    s->close[1] = '}';
    s->in_tag = true;
    s->open = 0;
    lex_next(s);
}
