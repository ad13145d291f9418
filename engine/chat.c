/* chat.c - see chat.h.
 *
 * The model's own template is parsed and evaluated (chat_parse.c, chat_eval.c), so there is
 * nothing to recognise and nothing to approximate: what we do not implement is refused.  The
 * family is only a name for people.
 *
 * Going on with a session renders a stand-in past (one question, one answer) followed by the
 * new messages, and takes what comes after the stand-in's answer: the template closes a turn
 * and opens the next in the same words whatever was said in it. */
#include "engine/chat.h"
#include "base/check.h"
#include "engine/chat_jinja.h"
#include "engine/chat_job.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include <errno.h>
#include <stdlib.h>

enum { CHAT_MAGIC = 0x43484131 };

struct chat {
    uint32_t magic;
    struct chat_host host; /* run NULL: here */
    struct jmem mem;
    struct jnode *t; /* NULL with a host, which does the parsing */
    char *text;
    size_t bytes;
    const struct tokenizer *tok;
    struct jstr bos, eos;
    const char *family;
    bool writes_bos;
};

static struct chat_host host; /* set before threads, read by all */

void chat_host_set(const struct chat_host *h)
{
    host = h ? *h : (struct chat_host){0};
}

/* Stand-ins that no template writes or cuts. */
#define ASKED "\x01q\x02"
#define ANSWERED                                                                               \
    "\x01"                                                                                     \
    "a\x02"

static struct jstr token_text(const struct tokenizer *tok, int32_t id)
{
    size_t n = 0;
    const char *p = id >= 0 ? tok_piece(tok, id, true, &n) : NULL;
    return (struct jstr){p ? p : "", NULL, p ? n : 0};
}

static const char *family_of(const struct chat_text *t)
{
    static const struct {
        const char *mark, *name;
    } families[] = {
        {"<|im_start|>", "chatml"},   {"<|start_header_id|>", "llama3"},
        {"<start_of_turn>", "gemma"}, {"[INST]", "mistral"},
        {"<|user|>", "zephyr"},       {"<\xef\xbd\x9cUser\xef\xbd\x9c>", "deepseek"},
    };
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (t->n && memmem(t->p, t->n, families[i].mark, strlen(families[i].mark)))
            return families[i].name;
    return "jinja";
}

static int render(const struct chat *c, const struct chat_msg *m, size_t n, bool prompt,
                  const char *date, struct chat_text *out, struct errbuf *eb)
{
    struct jvars v = {
        .msg = m, .n_msgs = n, .prompt = prompt, .date = date, .bos = c->bos, .eos = c->eos};
    struct chat_job job = {.tmpl = c->text,
                           .tmpl_bytes = c->bytes,
                           .bos = c->bos.p,
                           .bos_bytes = c->bos.n,
                           .eos = c->eos.p,
                           .eos_bytes = c->eos.n,
                           .msg = m,
                           .n_msgs = n,
                           .prompt = prompt,
                           .date = date};
    return c->host.run ? c->host.run(c->host.ctx, &job, out, eb)
                       : jinja_render(c->t, &v, out, eb);
}

/* One plain exchange must work, or the template is not one we can use. */
static int probe(struct chat *c, struct errbuf *eb)
{
    static const struct chat_msg hello = {"user", ASKED, sizeof ASKED - 1};
    struct chat_text t = {0};
    int r = render(c, &hello, 1, true, "2000-01-01", &t, eb);
    if (r == 0) {
        c->family = family_of(&t);
        c->writes_bos = c->bos.n && t.n >= c->bos.n && memcmp(t.p, c->bos.p, c->bos.n) == 0 &&
                        memchr(t.mask, 0, c->bos.n) == NULL;
    }
    chat_text_fini(&t);
    return r;
}

int chat_open(struct chat **ret, const struct gguf *g, const struct tokenizer *tok,
              struct errbuf *eb)
{
    struct gguf_str text;
    struct errbuf why = {""};
    *ret = NULL;
    if (!gguf_str(g, "tokenizer.chat_template", &text) || text.bytes == 0)
        return 0;
    struct chat *c = calloc(1, sizeof *c);
    if (c == NULL)
        return -ENOMEM;
    c->mem.max = 64u << 20;
    c->tok = tok;
    c->bos = token_text(tok, tok_bos(tok));
    c->eos = token_text(tok, tok_eos(tok));
    c->host = host;
    c->bytes = text.bytes;
    c->text = malloc(text.bytes);
    int r = c->text ? 0 : -ENOMEM;
    if (r == 0)
        memcpy(c->text, text.p, text.bytes);
    if (r == 0 && !c->host.run)
        r = jinja_parse(&c->t, &c->mem, text.p, text.bytes, &why);
    if (r == 0)
        r = probe(c, &why);
    if (r < 0) {
        chat_close(c);
        if (r == -ENOMEM)
            return r;
        return err_set(
            eb, E_UNSUPP,
            "tokenizer.chat_template: %s; it begins \"%.*s\". Text without roles still "
            "works: --raw",
            why.s, (int)(text.bytes < 60 ? text.bytes : 60), text.p);
    }
    c->magic = CHAT_MAGIC;
    *ret = c;
    return 0;
}

void chat_close(struct chat *c)
{
    if (c == NULL)
        return;
    c->magic = 0;
    jmem_fini(&c->mem);
    free(c->text);
    free(c);
}

const char *chat_family(const struct chat *c)
{
    must_be(c, CHAT_MAGIC);
    return c->family;
}

bool chat_writes_bos(const struct chat *c)
{
    must_be(c, CHAT_MAGIC);
    return c->writes_bos;
}

int chat_render(const struct chat *c, const struct chat_msg *m, size_t n, bool prompt,
                const char *date, struct chat_text *out, struct errbuf *eb)
{
    must_be(c, CHAT_MAGIC);
    return render(c, m, n, prompt, date, out, eb);
}

/* Bytes of the end-of-turn token that begins this text, 0 when none does. */
static size_t end_token(const struct chat *c, const char *p, const uint8_t *mask, size_t n)
{
    uint32_t n_vocab = tok_n_vocab(c->tok);
    for (uint32_t id = 0; id < n_vocab; id++) {
        if (!tok_is_end(c->tok, (int32_t)id))
            continue;
        size_t bytes;
        const char *end = tok_piece(c->tok, (int32_t)id, true, &bytes);
        if (bytes && bytes <= n && memcmp(p, end, bytes) == 0 && memchr(mask, 0, bytes) == NULL)
            return bytes;
    }
    return 0;
}

int chat_append(const struct chat *c, bool first, bool closed, const struct chat_msg *m,
                size_t n, bool prompt, const char *date, struct chat_text *out,
                struct errbuf *eb)
{
    must_be(c, CHAT_MAGIC);
    if (first)
        return render(c, m, n, prompt, date, out, eb);

    struct chat_text t = {0};
    struct chat_msg *all = calloc(n + 2, sizeof *all);
    int r = all ? 0 : -ENOMEM;
    if (r == 0) {
        all[0] = (struct chat_msg){"user", ASKED, sizeof ASKED - 1};
        all[1] = (struct chat_msg){"assistant", ANSWERED, sizeof ANSWERED - 1};
        if (n)
            memcpy(all + 2, m, n * sizeof *m);
        r = render(c, all, n + 2, prompt, date, &t, eb);
    }
    const char *at = r == 0 && t.n ? memmem(t.p, t.n, ANSWERED, sizeof ANSWERED - 1) : NULL;
    if (r == 0 && at == NULL)
        r = err_set(eb, E_UNSUPP,
                    "the chat template leaves earlier answers out; it cannot go on "
                    "with a session (--raw can)");
    if (r == 0) {
        size_t from = (size_t)(at - t.p) + sizeof ANSWERED - 1;
        if (closed)
            from += end_token(c, t.p + from, t.mask + from, t.n - from);
        r = chat_text_add(out, t.p + from, t.mask + from, t.n - from);
    }
    chat_text_fini(&t);
    free(all);
    return r;
}
