/* chat_jinja.h - the part of Jinja that chat templates are written in, exactly or not at all.
 *
 * A template is parsed once into nodes; each rendering evaluates them.  Whitespace follows
 * the settings every chat template is written for (trim_blocks, lstrip_blocks, one newline at
 * the end dropped).  What is not implemented is refused by name: by the parser when it is
 * syntax, by the evaluator when it is a filter, a test or a value.  Templates are outside
 * data: size, depth, steps, memory and work are bounded.  Work is what is touched: bytes copied,
 * compared or searched and values looked at, so that no single step can be a long one; a clock
 * stands behind it.
 *
 * Every string carries a mask beside its bytes: 1 for what the template wrote (literals,
 * bos_token), 0 for what came from a message.  Operations keep the two together.
 *
 * A parsed template is immutable: any thread.  An evaluation belongs to its caller. */
#ifndef ENGINE_CHAT_JINJA_H
#define ENGINE_CHAT_JINJA_H
#include "base/err.h"
#include "engine/chat.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JINJA_BYTES_MAX = 1 << 18, /* of a template */
    JINJA_DEPTH_MAX = 200,     /* nesting of statements and expressions */
    JINJA_STEPS_MAX = 20000000,
    JINJA_WALL_MS_MAX = 20000, /* of one rendering */
};
/* Work of one rendering: this, and so much more for each byte of its messages. */
#define JINJA_WORK_MAX  ((uint64_t)1 << 30)
#define JINJA_WORK_BYTE 64

/* --- memory: freed as a whole ---------------------------------------------------------------- */
struct jmem {
    struct jchunk *chunks;
    uint64_t used, max;
    bool over; /* the last refusal was for max */
};
void *jmem_take(struct jmem *m,
                uint64_t bytes); /* zeroed, aligned; NULL when out or over max */
void jmem_fini(struct jmem *m);

/* --- values ------------------------------------------------------------------------------------- */
enum jkind { J_UNDEF, J_NONE, J_BOOL, J_INT, J_STR, J_LIST, J_DICT, J_CALL };
struct jstr {
    const char *p;
    const uint8_t *mask; /* NULL: all bytes are the template's */
    uint64_t n;
};
struct jval {
    enum jkind kind;
    union {
        int64_t i; /* J_INT, J_BOOL */
        struct jstr s;
        struct jlist *list;
        struct jdict *dict; /* messages, namespaces, loop */
        struct jcall *call; /* a function, or a method and its object */
    };
};
struct jlist {
    struct jval *v;
    uint64_t n;
};
struct jdict {
    struct jstr *key;
    struct jval *v;
    uint32_t n, cap;
    bool space; /* a namespace: attributes may be set */
};
struct jcall {
    struct jstr name;
    struct jval self; /* J_UNDEF: a global */
};

/* --- nodes -------------------------------------------------------------------------------------- */
enum jtype {
    /* statements, chained by next */
    JN_TEXT, /* s */
    JN_OUT,  /* a */
    JN_FOR,  /* names: a (JN_NAME chain), of b, where c, body d, else e */
    JN_IF,   /* a, then b, else c */
    JN_SET,  /* s, attribute t or none, value a; without a, the body b is the value */
    JN_BREAK,
    JN_CONTINUE,
    /* expressions */
    JN_CONST,  /* v */
    JN_NAME,   /* s */
    JN_LIST,   /* items: a chain */
    JN_DICT,   /* items: a chain of key, value, key, value */
    JN_BIN,    /* op, a, b */
    JN_NOT,    /* a */
    JN_NEG,    /* a */
    JN_COND,   /* a if b else c (c may be NULL) */
    JN_ATTR,   /* a . s */
    JN_ITEM,   /* a [ b ] */
    JN_SLICE,  /* a [ b : c : d ] */
    JN_CALL,   /* a ( args: b chain; JN_KW where named ) */
    JN_KW,     /* s = a */
    JN_FILTER, /* a | s ( args: b ) */
    JN_TEST,   /* a is s ( args: b ) */
};
enum jop {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_IDIV,
    JO_MOD,
    JO_CAT,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOTIN,
    JO_AND,
    JO_OR,
};
struct jnode {
    enum jtype type;
    enum jop op;
    uint32_t line;
    struct jnode *a, *b, *c, *d, *e, *next;
    struct jstr s, t;
    struct jval v;
};

/* Parses text into *ret, allocated from m (as are the strings: text need not outlive it).
 * E_UNSUPP with the line and the word that is not understood; E_LIMIT, -ENOMEM. */
int jinja_parse(struct jnode **ret, struct jmem *m, const char *text, uint64_t bytes,
                struct errbuf *eb);

/* --- evaluation ------------------------------------------------------------------------------ */
struct jvars { /* what the caller gives a template */
    const struct chat_msg *msg;
    size_t n_msgs;
    bool prompt;          /* add_generation_prompt */
    const char *date;     /* "YYYY-MM-DD" or NULL */
    struct jstr bos, eos; /* n = 0: not defined */
    uint32_t wall_ms;     /* 0: JINJA_WALL_MS_MAX */
};
/* Appends the rendering to out.  -EINVAL with words when the template raises or an operation
 * has no meaning; E_UNSUPP for what we lack; E_LIMIT; -ENOMEM.  out is untouched on failure. */
int jinja_render(const struct jnode *t, const struct jvars *v, struct chat_text *out,
                 struct errbuf *eb);

/* Appends bytes and their mask (NULL: all ones); -ENOMEM. */
int chat_text_add(struct chat_text *t, const char *p, const uint8_t *mask, uint64_t n);

/* --- used by both halves of the evaluator ------------------------------------------------------- */
struct jframe;
struct jeval {
    struct jmem mem;
    struct jframe *frame; /* innermost scope */
    struct chat_text out;
    const struct jvars *vars;
    uint64_t steps, work, work_max, look_at; /* look_at: of work, when the clock is read next */
    uint64_t until_ns;
    uint32_t depth, line;
    int err;
    enum { JGO, JBREAK, JCONTINUE } flow;
    struct errbuf *eb;
};
/* Notes the first failure and returns undefined. */
struct jval jfail(struct jeval *j, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
struct jval jnomem(struct jeval *j); /* after jmem_take() gave NULL */
/* Charges what is about to be touched.  false when nothing more may be done: the failure is
 * noted, or was before. */
bool jwork(struct jeval *j, uint64_t n);
struct jval jval_str(struct jstr s);
struct jval jval_int(int64_t i);
struct jval jval_bool(bool b);
bool jtrue(struct jval v);
bool jequal(struct jeval *j, struct jval a, struct jval b); /* false also when it fails */
bool jstr_is(struct jstr s, const char *text);
struct jstr jtext(const char *s); /* the template's own words */
/* Room for n bytes and their mask; p NULL when memory is out (the failure is noted). */
struct jstr jstr_room(struct jeval *j, uint64_t n, char **ret_p, uint8_t **ret_mask);
struct jstr jstr_cat(struct jeval *j, struct jstr a, struct jstr b);
struct jstr jstr_cut(struct jstr s, uint64_t from, uint64_t to); /* bytes */
uint64_t jstr_chars(struct jeval *j, struct jstr s);             /* code points */
uint64_t jstr_at(struct jstr s, uint64_t chars); /* byte where it begins; after jstr_chars */
struct jval jlist_new(struct jeval *j, uint64_t n);
struct jval *jdict_at(struct jeval *j, struct jdict *d, struct jstr key); /* NULL: none */
bool jdict_put(struct jeval *j, struct jdict *d, struct jstr key, struct jval v);
struct jval jdict_new(struct jeval *j);
struct jstr jval_print(struct jeval *j, struct jval v); /* as {{ v }} writes it */
struct jval jslice(struct jeval *j, struct jval of, struct jval from, struct jval to,
                   struct jval step);
/* Filters, tests, methods and globals, by name (chat_builtin.c). */
struct jargs {
    struct jval v[4];
    struct jstr name[4]; /* n = 0: by position */
    uint32_t n;
};
struct jval jfilter(struct jeval *j, struct jval of, struct jstr name, const struct jargs *a);
bool jtest(struct jeval *j, struct jval of, struct jstr name, const struct jargs *a);
struct jval jcall_method(struct jeval *j, struct jval self, struct jstr name,
                         const struct jargs *a);
struct jval jcall_global(struct jeval *j, struct jstr name, const struct jargs *a);
bool jis_method(struct jval self, struct jstr name);
bool jis_global(struct jstr name);

#endif
