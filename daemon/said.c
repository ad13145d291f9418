/* said.c - see said.h. */
#include "daemon/said.h"
#include "base/check.h"
#include "daemon/req.h"
#include "engine/chat.h"
#include "kvstore/record.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- in the text ------------------------------------------------------------------------------ */
static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

static void strip(const char *p, size_t *from, size_t *to)
{
    while (*from < *to && blank(p[*from]))
        ++*from;
    while (*from < *to && blank(p[*to - 1]))
        --*to;
}

/* The next bytes that the template did not write, without the blanks around them. */
static bool next_run(const struct chat_text *t, size_t *at, size_t *from, size_t *to)
{
    while (*at < t->n) {
        while (*at < t->n && t->mask[*at])
            ++*at;
        *from = *at;
        while (*at < t->n && !t->mask[*at])
            ++*at;
        *to = *at;
        strip(t->p, from, to);
        if (*from < *to)
            return true;
    }
    return false;
}

static bool is_text(const struct chat_text *t, size_t from, size_t to, const char *s, size_t n)
{
    return to - from == n && memcmp(t->p + from, s, n) == 0;
}

static bool is_role(const struct chat_text *t, size_t from, size_t to, const struct chat_msg *m,
                    size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_text(t, from, to, m[i].role, strlen(m[i].role)))
            return true;
    return false;
}

static uint32_t role_of(const char *role)
{
    return strcmp(role, "system") == 0      ? KVS_ROLE_SYSTEM
           : strcmp(role, "assistant") == 0 ? KVS_ROLE_ASSISTANT
           : strcmp(role, "tool") == 0      ? KVS_ROLE_TOOL
                                            : KVS_ROLE_USER;
}

/* m[0]'s text in what the template was given, behind *at; mine: how many of m may have their
 * role there first.  A message that says the name of its role stands behind it. */
static bool find_one(const struct chat_text *t, size_t *at, const struct chat_msg *m,
                     size_t mine, struct said *ret)
{
    const struct chat_msg *last = m + mine - 1;
    size_t from = 0, to = last->bytes, x, y, z;

    strip(last->text, &from, &to);
    while (next_run(t, at, &x, &y)) {
        size_t then = *at, a, b;

        if (is_text(t, x, y, last->text + from, to - from)) {
            if (is_role(t, x, y, m, mine) && next_run(t, &then, &a, &b) &&
                is_text(t, a, b, last->text + from, to - from)) {
                x = a;
                y = b;
                *at = then;
            }
            z = y;
            *ret = (struct said){.from = x, .to = z, .role = role_of(last->role)};
            return true;
        }
        if (!is_role(t, x, y, m, mine))
            return false;
    }
    return false;
}

int said_find(struct prepared *p, const struct chat_msg *m, size_t n, const struct chat_text *t)
{
    size_t at = 0, since = 0;

    free(p->said);
    p->n_said = 0;
    p->said = n > 1 ? calloc(n, sizeof *p->said) : NULL;
    if (n > 1 && !p->said)
        return -ENOMEM;
    for (size_t i = 0; n > 1 && i < n; i++) {
        size_t from = 0, to = m[i].bytes;

        strip(m[i].text, &from, &to);
        if (from == to) /* says nothing: it is of the turn before */
            continue;
        if (!find_one(t, &at, m + since, i + 1 - since, &p->said[p->n_said])) {
            p->n_said = 0;
            break;
        }
        p->n_said++;
        since = i + 1;
    }
    return 0;
}

/* --- among the tokens ------------------------------------------------------------------------- */
static int32_t id_at(const struct said_ids *v, uint64_t i)
{
    return i < v->n[0] ? v->id[0][i] : v->id[1][i - v->n[0]];
}

/* Bytes of text before token i. */
static size_t bytes_at(const struct said_ids *v, uint64_t i)
{
    return i < v->n[0] ? v->end[0][i] : v->end[1][i - v->n[0]];
}

/* The first token at or behind `from` that begins at byte `b` or later. */
static uint64_t token_at(const struct said_ids *v, uint64_t from, size_t b)
{
    while (from < v->n[0] + v->n[1] && bytes_at(v, from) < b)
        from++;
    return from;
}

/* Where the message behind s begins, whose text does at byte `next`. */
static uint64_t begin_of(const struct prepared *p, const struct said_ids *v, struct said *s,
                         const struct said *next)
{
    uint64_t text = token_at(v, s->text_end, next->from), i = s->text_end;

    if (bytes_at(v, text) > next->from && text > s->text_end)
        text--; /* the token has the end of the opening and the beginning of the text */
    if (next->role == KVS_ROLE_ASSISTANT) {
        s->opened = true;
        return text;
    }
    while (i < text && !tok_is_end(p->tok, id_at(v, i)))
        i++;
    if (i == text)
        return s->text_end;
    i++;
    s->closed = s->role == KVS_ROLE_ASSISTANT;
    /* What is written between a question's end and the next opening is its own. */
    for (uint64_t k = i; !s->closed && k < text; k++)
        if (tok_is_special(p->tok, id_at(v, k)))
            return k;
    return i;
}

void said_place(struct prepared *p, const struct said_ids *v, uint64_t before)
{
    uint32_t n = 0, more;

    for (uint32_t i = 0; i < p->n_said; i++) {
        struct said s = p->said[i], *last = n ? &p->said[n - 1] : NULL;

        s.first = !last                           ? 0
                  : last->role == KVS_ROLE_SYSTEM ? last->first
                                                  : begin_of(p, v, last, &s);
        s.text_end = token_at(v, s.first, s.to);
        if (last && last->role == KVS_ROLE_SYSTEM)
            *last = s;
        else
            p->said[n++] = s;
    }
    p->n_said = n;
    for (uint32_t i = 0; i < n; i++) {
        p->said[i].first += before;
        p->said[i].text_end += before;
    }
    if (n <= SAID_MAX)
        return;
    more = n - SAID_MAX;
    p->said[more].first = before;
    memmove(p->said, p->said + more, SAID_MAX * sizeof *p->said);
    p->n_said = SAID_MAX;
}

/* --- beside what is stored ---------------------------------------------------------------------- */
/* How many of the messages are turns of s as they are: not the last, which is asked now. */
static uint32_t held(const struct sess *s, struct said *said, uint32_t n)
{
    uint32_t i = 0;

    for (uint32_t k = 0; k < s->n_turns && i + 1 < n; k++) {
        const struct turn *t = &s->turns[k];
        uint64_t end = t->first + t->n_tokens;

        if (t->first != said[i].first || t->role != said[i].role)
            break;
        /* An answer that did not come to its end has none: what closes it is the next one's. */
        if (end != said[i + 1].first && (t->role != KVS_ROLE_ASSISTANT ||
                                         end < said[i].text_end || end > said[i + 1].first))
            break;
        said[++i].first = end;
    }
    return i;
}

/* Without a list: where the input begins that goes on from r->base tokens of another's. */
static uint64_t first_of(const struct req *r, const struct prepared *p)
{
    const struct sess *s = r->s;
    bool one = p->input != IN_MESSAGES || p->n_msg < 2 ||
               (p->n_msg == 2 && strcmp(p->msg[0].role, "system") == 0);

    if (!s->unborn)
        return r->base; /* one raw text goes on from another and its answer */
    if (one)
        return 0;
    for (uint32_t i = 0; i < s->n_turns; i++)
        if (s->turns[i].first < r->base &&
            s->turns[i].first + s->turns[i].n_tokens >= r->base && s->turns[i].cut)
            return s->turns[i].first;
    return r->base;
}

void said_settle(struct req *r, struct prepared *p, bool anonymous)
{
    uint32_t at = 0;

    r->said = NULL;
    r->n_said = 0;
    r->role = KVS_ROLE_USER;
    if (p->again)
        return;
    (void)sess_turns(r->d, r->s); /* those that cannot be read are written anew */
    if (!anonymous && p->n_turns && p->last.cut && !p->last.ingest && !p->raw &&
        p->input != IN_TOKENS && p->base == p->head) {
        r->turn_first = p->last.first; /* the rest of a question that a rewind has cut */
        if (p->n_said)
            p->said[0].first = r->turn_first;
    }
    if (p->n_said > 1) {
        if (anonymous)
            at = held(r->s, p->said, p->n_said);
        r->said = p->said + at;
        r->n_said = p->n_said - 1 - at;
        r->turn_first = p->said[p->n_said - 1].first;
        if (p->said[p->n_said - 1].role != KVS_ROLE_ASSISTANT)
            r->role = p->said[p->n_said - 1].role;
    } else if (anonymous) {
        r->turn_first = first_of(r, p);
    }
}
