/* render.c - on the worker thread: a request's input becomes token ids.
 *
 * Renders through the model's template (or takes text as it is), tokenises the whole, and
 * looks for the longest stored path the result begins with.  What a session holds is never
 * rendered again: only what follows it is made here.
 *
 * An open user turn.  Documents join a session as the beginning of a user turn that the
 * question ends: the template's opening of a user turn, the text as it is; each further
 * document, and then the question, follows after an empty line ("\n\n").  The question also
 * closes the turn as the template closes it.  Where the template would put a text is found by
 * rendering a mark in its place. */
#include "base/check.h"
#include "base/clock.h"
#include "daemon/req.h"
#include "engine/chat.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include "proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char mark[] = "\x02"
                           "8d1f"
                           "\x03";

void prepared_free(struct prepared *p)
{
    if (!p)
        return;
    for (uint32_t i = 0; i < p->n_msg; i++) {
        free(p->msg[i].role);
        free(p->msg[i].text);
    }
    free(p->msg);
    free(p->system);
    free(p->text);
    free(p->ids);
    free(p->said);
    toks_drop(p->path);
    for (uint32_t i = 0; i < p->n_cand; i++)
        toks_drop(p->cand[i].toks);
    tok_ids_fini(&p->out);
    free(p);
}

void prepared_model(struct prepared *p, const struct engine *e)
{
    struct gguf_str text;

    p->tok = eng_tokenizer(e);
    p->chat = eng_chat(e);
    p->n_vocab = tok_n_vocab(p->tok);
    if (!p->chat && gguf_str(eng_gguf(e), "tokenizer.chat_template", &text) && text.bytes)
        p->chat_why = eng_chat_why(e);
}

__attribute__((format(printf, 4, 5))) static int refuse(struct prepared *p, uint32_t status,
                                                        const char *slug, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(p->words, sizeof p->words, fmt, ap);
    va_end(ap);
    p->status = status;
    p->slug = slug;
    return -EINVAL;
}

static int no_memory(struct prepared *p)
{
    return refuse(p, HRT_RESOURCE_EXHAUSTED, "out_of_memory", "no memory to prepare the input");
}

/* --- text ------------------------------------------------------------------------------------- */
static int text_add(struct chat_text *t, const char *s, size_t n, uint8_t mask)
{
    if (t->n + n > t->cap) {
        size_t cap = (t->n + n) * 2 + 256;
        char *p = realloc(t->p, cap);
        uint8_t *m;

        if (p)
            t->p = p;
        m = p ? realloc(t->mask, cap) : NULL;
        if (!m)
            return -ENOMEM;
        t->mask = m;
        t->cap = cap;
    }
    if (n) {
        memcpy(t->p + t->n, s, n);
        memset(t->mask + t->n, mask, n);
    }
    t->n += n;
    return 0;
}

static void text_cut_front(struct chat_text *t, size_t n)
{
    must(n <= t->n);
    memmove(t->p, t->p + n, t->n - n);
    memmove(t->mask, t->mask + n, t->n - n);
    t->n -= n;
}

/* --- what went before ---------------------------------------------------------------------------- */
struct before {
    bool first;     /* nothing at all */
    bool closed;    /* an assistant's turn, ended by its own token */
    bool user_open; /* inside a user turn */
    bool whole;     /* a complete message that is not the assistant's */
};

static void before_of(struct before *b, uint64_t head, const struct turn *t, bool have)
{
    memset(b, 0, sizeof *b);
    b->first = head == 0;
    if (b->first || !have)
        return;
    b->user_open = t->user_open && t->role == KVS_ROLE_USER;
    b->closed = t->role == KVS_ROLE_ASSISTANT && (t->flags & KVS_TURN_CLOSED_EOT);
    b->whole = t->role != KVS_ROLE_ASSISTANT && !b->user_open && !t->opened;
}

/* The template's words for messages that follow what went before. */
static int append(struct prepared *p, const struct before *b, const struct chat_msg *m,
                  size_t n, bool prompt, struct chat_text *out)
{
    struct chat_text rest = {0};
    struct errbuf eb = {{0}};
    int r;

    r = chat_append(p->chat, b->first, b->closed || b->whole || b->user_open, m, n, prompt,
                    p->date, out, &eb);
    /* A turn that is complete has nothing left to close: what the template would write to
     * close the assistant's is taken off again. */
    if (r == 0 && b->whole) {
        r = chat_append(p->chat, false, true, NULL, 0, false, p->date, &rest, &eb);
        if (r == 0 && rest.n <= out->n && memcmp(rest.p ? rest.p : "", out->p, rest.n) == 0)
            text_cut_front(out, rest.n);
        chat_text_fini(&rest);
    }
    if (r == -ENOMEM)
        return no_memory(p);
    if (r == -ECHILD)
        return refuse(p, HRT_INTERNAL, "internal", "messages: %s", eb.s);
    if (r < 0)
        return refuse(p, HRT_INVALID_ARGUMENT, "bad_field", "messages: %s",
                      eb.s[0] ? eb.s : err_str(r));
    return 0;
}

/* Where the mark is: the last one when the user's own text stands before it, else the first. */
static int mark_find(struct prepared *p, const struct chat_text *t, bool last, size_t *ret)
{
    const size_t n = sizeof mark - 1;
    size_t found = t->n;

    for (size_t at = 0; at + n <= t->n; at++)
        if (memcmp(t->p + at, mark, n) == 0) {
            found = at;
            if (!last)
                break;
        }
    if (found == t->n)
        return refuse(p, HRT_UNIMPLEMENTED, "unsupported_field",
                      "the model's template does not put a user's text out as it is; "
                      "use raw input");
    *ret = found;
    return 0;
}

/* Everything up to where a user's text would begin. */
static int open_user(struct prepared *p, const struct before *b, struct chat_text *out)
{
    struct chat_msg m[2];
    size_t n = 0, at = 0;
    int r;

    if (b->first && p->system)
        m[n++] = (struct chat_msg){"system", p->system, strlen(p->system)};
    m[n++] = (struct chat_msg){"user", mark, sizeof mark - 1};
    r = append(p, b, m, n, false, out);
    if (r == 0)
        r = mark_find(p, out, true, &at);
    if (r == 0)
        out->n = at;
    return r;
}

/* Goes on inside an open user turn with m[0]'s text, then the rest. */
static int go_on_user(struct prepared *p, struct chat_msg *m, size_t n, struct chat_text *out)
{
    const struct before inside = {.user_open = true};
    size_t bytes = sizeof mark - 1 + 2 + m[0].bytes, at = 0;
    char *text = malloc(bytes + 1);
    struct chat_msg first = m[0];
    int r;

    if (!text)
        return no_memory(p);
    memcpy(text, mark, sizeof mark - 1);
    memcpy(text + sizeof mark - 1, "\n\n", 2);
    memcpy(text + sizeof mark + 1, first.text, first.bytes);
    text[bytes] = 0;
    m[0] = (struct chat_msg){"user", text, bytes};
    r = append(p, &inside, m, n, p->generate, out);
    m[0] = first;
    free(text);
    if (r == 0)
        r = mark_find(p, out, false, &at);
    if (r == 0)
        text_cut_front(out, at + sizeof mark - 1);
    return r;
}

/* Closes an open user turn and goes on with messages that begin with another role. */
static int close_user(struct prepared *p, const struct chat_msg *m, size_t n,
                      struct chat_text *out)
{
    const struct before inside = {.user_open = true};
    struct chat_msg *all = calloc(n + 1, sizeof *all);
    size_t at = 0;
    int r;

    if (!all)
        return no_memory(p);
    all[0] = (struct chat_msg){"user", mark, sizeof mark - 1};
    memcpy(all + 1, m, n * sizeof *m);
    r = append(p, &inside, all, n + 1, p->generate, out);
    free(all);
    if (r == 0)
        r = mark_find(p, out, false, &at);
    if (r == 0)
        text_cut_front(out, at + sizeof mark - 1);
    return r;
}

/* A last message of the assistant's is the beginning of the answer: it follows the opening as
 * it is, and nothing closes it. */
static int render_messages(struct prepared *p, const struct before *b, struct chat_text *out)
{
    struct chat_msg *m = calloc(p->n_msg + 2, sizeof *m), begun = {0};
    size_t n = 0;
    int r;

    if (!m)
        return no_memory(p);
    if (b->first && p->system)
        m[n++] = (struct chat_msg){"system", p->system, strlen(p->system)};
    for (uint32_t i = 0; i < p->n_msg; i++)
        m[n++] = (struct chat_msg){p->msg[i].role, p->msg[i].text, strlen(p->msg[i].text)};
    if (p->input != IN_MESSAGES)
        m[n++] = (struct chat_msg){"user", p->text, p->text_bytes};
    else if (p->generate && n && strcmp(m[n - 1].role, "assistant") == 0)
        begun = m[--n];
    if (b->user_open && n && strcmp(m[0].role, "user") == 0)
        r = go_on_user(p, m, n, out);
    else if (b->user_open)
        r = close_user(p, m, n, out);
    else
        r = append(p, b, m, n, p->generate, out);
    if (r == 0 && said_find(p, m, n, out) < 0)
        r = no_memory(p);
    if (r == 0 && begun.bytes && text_add(out, begun.text, begun.bytes, 0) < 0)
        r = no_memory(p);
    free(m);
    return r;
}

static int render_documents(struct prepared *p, const struct before *b, struct chat_text *out)
{
    int r = 0;

    if (b->user_open)
        r = text_add(out, "\n\n", 2, 0);
    else
        r = open_user(p, b, out);
    if (r == 0)
        r = text_add(out, p->text, p->text_bytes, 0);
    return r == -ENOMEM ? no_memory(p) : r;
}

/* The text that follows what went before.  ret_open: it ends inside a user turn. */
static int render_after(struct prepared *p, const struct before *b, struct chat_text *out)
{
    int r;

    p->user_open = p->opened = false;
    if (p->raw) {
        r = text_add(out, p->text, p->text_bytes, p->special);
        return r < 0 ? no_memory(p) : 0;
    }
    if (!p->chat && p->chat_why)
        return refuse(p, HRT_FAILED_PRECONDITION, "template_not_supported",
                      "the model's chat template cannot be run: %.440s", p->chat_why);
    if (!p->chat)
        return refuse(p, HRT_FAILED_PRECONDITION, "model_has_no_template",
                      "the model declares no chat template; send plain text (--raw)");
    if (p->input == IN_DOCUMENTS && !p->generate) {
        p->user_open = true;
        return render_documents(p, b, out);
    }
    p->opened = p->generate;
    return render_messages(p, b, out);
}

static int render_turn(void *ctx)
{
    return prep_turn(ctx);
}

static int encode(struct prepared *p, const struct chat_text *t, bool first,
                  struct tok_ids *out)
{
    bool bos = first && (p->raw || !chat_writes_bos(p->chat));
    struct tok_pause turn = {render_turn, p->turn};
    int r = tok_encode_in_turns(p->tok, t->p ? t->p : "", t->n, t->mask, bos, &turn, out);

    if (r == -ECANCELED)
        return refuse(p, HRT_CANCELLED, "cancelled", "nobody waits for the input any more");
    if (r == -ENOMEM)
        return no_memory(p);
    if (r < 0)
        return refuse(p, HRT_INVALID_ARGUMENT, "bad_field", "input: cannot be tokenised: %s",
                      err_str(r));
    return 0;
}

/* --- the longest stored beginning ------------------------------------------------------------------ */
/* Where each of ids ends in the text's bytes, from ends[0] = 0 on; false when the bytes of
 * the ids are not the text (a tokenizer that normalises): then only whole ids are compared. */
static bool ends_of(const struct prepared *p, const struct tok_ids *ids, size_t bytes,
                    size_t *ends)
{
    size_t at = 0, first = 0;

    for (size_t i = 0; i < ids->n; i++) {
        size_t n = 0;

        ends[i] = at;
        if (!tok_piece(p->tok, ids->p[i], true, &n))
            return false;
        first = i ? first : n;
        at += n;
    }
    ends[ids->n] = at;
    if (at == bytes)
        return true;
    /* A BOS that the tokenizer put there stands for none of the text. */
    if (!ids->n || ids->p[0] != tok_bos(p->tok) || at != bytes + first)
        return false;
    for (size_t i = 1; i <= ids->n; i++)
        ends[i] -= first;
    return true;
}

struct agreed {
    uint64_t base; /* tokens of the stored path that stay */
    size_t rest;   /* index in the fresh ids where the rest begins */
};

/* As far as the stored tokens say the same bytes as the text they stay.  They may end where
 * fresh ids begin (cutting elsewhere would tokenise a piece by itself); a special token
 * agrees only with a special token.  path_ends: NULL, or where each of the path's ids ends. */
static struct agreed agree_bytes(const struct prepared *p, const struct chat_text *t,
                                 const struct tok_ids *ids, const size_t *ends,
                                 const int32_t *path, uint64_t head, size_t *path_ends)
{
    struct agreed a = {0, 0};
    size_t at = 0, j = 0; /* bytes that agree; fresh ids that end at or before them */

    for (uint64_t i = 0; i < head; i++) {
        size_t n = 0;
        const char *piece = tok_piece(p->tok, path[i], true, &n);

        if (j < ids->n && ends[j] == at && ids->p[j] == path[i] && ends[j + 1] >= at) {
            at = ends[++j];
        } else {
            if (!piece || n == 0 || at + n > t->n || memcmp(t->p + at, piece, n) != 0 ||
                tok_is_special(p->tok, path[i]))
                break;
            /* None of the fresh ids these bytes touch may be special. */
            size_t k = j;
            bool special = false;
            while (k < ids->n && ends[k] < at + n)
                special |= tok_is_special(p->tok, ids->p[k++]);
            if (special)
                break;
            at += n;
            while (j < ids->n && ends[j + 1] <= at)
                j++;
        }
        if (path_ends)
            path_ends[i + 1] = at;
        if (j <= ids->n && ends[j] == at)
            a = (struct agreed){i + 1, j};
    }
    return a;
}

static struct agreed agree_ids(const struct tok_ids *ids, const int32_t *path, uint64_t head)
{
    size_t i = 0;

    while (i < head && i < ids->n && ids->p[i] == path[i])
        i++;
    return (struct agreed){i, i};
}

/* Where its messages begin in the path chosen, and in what follows it. */
static int place_said(struct prepared *p, const struct chat_text *t, const size_t *ends,
                      const struct agreed *best)
{
    const struct toks *path = best->base ? p->cand[p->base_cand].toks : NULL;
    size_t *path_ends = calloc(best->base + 1, sizeof *path_ends);

    if (!path_ends)
        return no_memory(p);
    if (path)
        (void)agree_bytes(p, t, &p->out, ends, path->p, best->base, path_ends);
    said_place(p,
               &(struct said_ids){{path ? path->p : NULL, p->out.p + best->rest},
                                  {path_ends, ends + best->rest},
                                  {best->base, p->out.n - best->rest}},
               0);
    free(path_ends);
    return 0;
}

/* Chooses the stored path that serves best, and leaves in out only what follows it. */
static int match(struct prepared *p, const struct chat_text *t)
{
    struct agreed best = {0, 0};
    size_t *ends = t ? malloc((p->out.n + 2) * sizeof *ends) : NULL;
    bool bytes;

    p->base_cand = -1;
    if (t && !ends)
        return no_memory(p);
    bytes = t && ends_of(p, &p->out, t->n, ends);
    for (uint32_t i = 0; i < p->n_cand; i++) {
        const struct cand *c = &p->cand[i];

        if (prep_turn(p->turn) < 0) {
            free(ends);
            return refuse(p, HRT_CANCELLED, "cancelled", "nobody waits for the input any more");
        }
        struct agreed a = bytes ? agree_bytes(p, t, &p->out, ends, c->toks->p, c->head, NULL)
                                : agree_ids(&p->out, c->toks->p, c->head);

        if (a.base > best.base) {
            best = a;
            p->base_cand = (int32_t)i;
        }
    }
    if (bytes && p->n_said && place_said(p, t, ends, &best) < 0) {
        free(ends);
        return -ENOMEM;
    }
    if (!bytes)
        p->n_said = 0;
    free(ends);
    p->base = best.base;
    memmove(p->out.p, p->out.p + best.rest, (p->out.n - best.rest) * sizeof *p->out.p);
    p->out.n -= best.rest;
    return 0;
}

/* The same of what goes on from a session's path. */
static int place_named(struct prepared *p, const struct chat_text *t)
{
    size_t *ends = p->n_said ? malloc((p->out.n + 2) * sizeof *ends) : NULL;

    if (!p->n_said)
        return 0;
    if (!ends)
        return no_memory(p);
    if (ends_of(p, &p->out, t->n, ends))
        said_place(p, &(struct said_ids){{NULL, p->out.p}, {ends, ends}, {0, p->out.n}},
                   p->base);
    else
        p->n_said = 0;
    free(ends);
    return 0;
}

/* --- the job --------------------------------------------------------------------------------------- */
static int check_ids(struct prepared *p)
{
    for (uint64_t i = 0; i < p->n_ids; i++)
        if (p->ids[i] < 0 || (uint32_t)p->ids[i] >= p->n_vocab)
            return refuse(p, HRT_INVALID_ARGUMENT, "bad_field",
                          "tokens[%llu]: want an id below %u, got %d", (unsigned long long)i,
                          p->n_vocab, p->ids[i]);
    p->out = (struct tok_ids){.p = p->ids, .n = p->n_ids, .cap = p->n_ids};
    p->ids = NULL;
    return 0;
}

/* The ingest that was cut off and comes again: its tokens are in the session already. */
static int try_again(struct prepared *p)
{
    const struct turn *t = &p->last;
    struct chat_text text = {0};
    struct tok_ids ids = {0};
    struct before b;
    int r;

    if (!p->path || !p->n_turns || !t->ingest_cut || p->input == IN_TOKENS || p->generate)
        return 0;
    before_of(&b, t->first, &p->before, p->n_turns > 1);
    r = render_after(p, &b, &text);
    if (r == 0)
        r = encode(p, &text, t->first == 0, &ids);
    if (r == 0 && ids.n == p->head - t->first &&
        memcmp(ids.p, p->path->p + t->first, ids.n * sizeof *ids.p) == 0)
        p->again = true;
    chat_text_fini(&text);
    tok_ids_fini(&ids);
    return r;
}

static int render_all(struct prepared *p)
{
    struct chat_text text = {0};
    struct before b;
    int r = 0;

    p->base_cand = -1;
    p->base = p->head;
    if (p->input == IN_TOKENS) {
        r = check_ids(p);
        return r == 0 && p->n_cand ? match(p, NULL) : r;
    }
    r = try_again(p);
    if (r < 0 || p->again)
        return r;
    before_of(&b, p->head, &p->last, p->n_turns > 0);
    r = render_after(p, &b, &text);
    if (r == 0)
        r = encode(p, &text, b.first, &p->out);
    if (r == 0 && (p->n_cand || (!p->path && p->n_said)))
        r = match(p, p->raw ? NULL : &text);
    else if (r == 0)
        r = place_named(p, &text);
    chat_text_fini(&text);
    return r;
}

void render_run(struct prep_job *j)
{
    struct prepared *p = j->user;
    uint64_t from = now_ns();

    (void)render_all(p);
    p->took_ns = now_ns() - from;
}
