/* encoding.c - see encoding.h. */
#include "client/encoding.h"
#include "base/text.h"
#include "client/say.h"
#include <errno.h>
#include <iconv.h>
#include <stdlib.h>

const struct flag flags_encoding[] = {
    {"encoding", 0, "NAME",
     "files and standard input are in this encoding (latin1, cp1250, ...)"},
    {0},
};

/* What a byte order mark says; NULL: there is none. */
static const char *mark_of(const char *p, size_t n)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *name;
    } mark[] = {
        {"\xff\xfe\0\0", 4, "UTF-32LE"}, /* before UTF-16's, which is its beginning */
        {"\0\0\xfe\xff", 4, "UTF-32BE"}, {"\xef\xbb\xbf", 3, "UTF-8"},
        {"\xff\xfe", 2, "UTF-16LE"},     {"\xfe\xff", 2, "UTF-16BE"},
    };
    for (size_t i = 0; i < sizeof mark / sizeof *mark; i++)
        if (n >= mark[i].n && memcmp(p, mark[i].bytes, mark[i].n) == 0)
            return mark[i].name;
    return NULL;
}

static bool printable(unsigned byte)
{
    return byte >= 0x20 && byte < 0x7f;
}

/* Without a mark: three quarters of the units at least have a zero upper byte, no unit a zero lower
 * one, none is two letters of ASCII (text with stray zero bytes has such pairs), surrogates come in
 * pairs, and there are no control characters.  Numbers do not look so. */
static bool is_utf16(const char *text, size_t n, bool big)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t units = n / 2, latin = 0;
    bool high = false; /* the unit before was the first half of a pair */
    if (n % 2 || units < 2)
        return false;
    for (size_t i = 0; i < units; i++, p += 2) {
        unsigned u = big ? p[0] << 8 | p[1] : p[1] << 8 | p[0];
        bool low = u >= 0xdc00 && u < 0xe000, control = u < 0x20 && u != '\n' && u != '\r';
        bool two = printable(u >> 8) && printable(u & 0xff) &&
                   (u < 0x2020 || u > 0x2026); /* daggers, dots */
        if (two || (u & 0xff) == 0 || low != high || (control && u != '\t' && u != '\f') ||
            u >= 0xfffe || (u >= 0x7f && u < 0xa0))
            return false;
        high = u >= 0xd800 && u < 0xdc00;
        latin += u < 0x100;
    }
    return !high && latin * 4 >= units * 3;
}

/* in as UTF-8 into *ret, at most max bytes.  0; -EINVAL: no such encoding; -E2BIG, -ENOMEM;
 * -EILSEQ, *ret_at says where. */
static int convert(const char *from, const char *in, size_t n, size_t max, char **ret,
                   size_t *ret_n, size_t *ret_at)
{
    iconv_t cd = iconv_open("UTF-8", from);
    if (cd == (iconv_t)-1)
        return -EINVAL;
    char *src = (char *)(uintptr_t)in, *out = NULL;
    size_t left = n, used = 0, cap = 0;
    int r = -E2BIG;
    while (r == -E2BIG && used <= max) {
        cap = cap ? cap * 2 : n + 64;
        char *p = realloc(out, cap + 2), *dst;
        if (!p) {
            r = -ENOMEM;
            break;
        }
        out = p;
        dst = out + used;
        size_t room = cap - used;
        r = iconv(cd, &src, &left, &dst, &room) == (size_t)-1 ? -errno : 0;
        used = cap - room;
    }
    *ret_at = n - left;
    (void)iconv_close(cd);
    if (r == 0 && used > max)
        r = -E2BIG;
    if (r < 0) {
        free(out);
        return r == -EINVAL ? -EILSEQ : r; /* iconv's: it ends in half a character */
    }
    out[used] = 0;
    *ret = out;
    *ret_n = used;
    return 0;
}

/* What is there is no UTF-8: why, and what to do. */
static int refuse(struct cli *c, const char *what, const char *p, size_t n, size_t at)
{
    if (p[at])
        return cli_mistake(
            c, what,
            "%s is not UTF-8 (byte 0x%02x at %zu); if it is text in another "
            "encoding, name it: --encoding latin1, cp1250, utf-16le, ... (`iconv -l` "
            "lists them)",
            what, (unsigned char)p[at], at);
    return cli_mistake(
        c, what,
        "%s has a zero byte at %zu of %zu, so it is no plain text; if they are strays, "
        "take them out (tr -d '\\000'), if it is another encoding, name it: --encoding "
        "utf-16le, ...",
        what, at, n);
}

static int unknown(struct cli *c, const char *name)
{
    return cli_fail(c, CLI_USAGE, "--encoding: there is no \"%.40s\"; `iconv -l` lists them",
                    name);
}

int encoding_known(struct cli *c, const char *name)
{
    iconv_t cd = iconv_open("UTF-8", name);
    if (cd == (iconv_t)-1)
        return unknown(c, name);
    (void)iconv_close(cd);
    return CLI_OK;
}

static int convert_from(struct cli *c, const char *what, const char *from, size_t max,
                        char **text, size_t *n)
{
    char *out = NULL;
    size_t out_n = 0, at = 0, bad;
    int r = convert(from, *text, *n, max, &out, &out_n, &at), code = CLI_OK;
    if (r == 0 && out_n >= 3 && memcmp(out, "\xef\xbb\xbf", 3) == 0)
        memmove(out, out + 3, (out_n -= 3) + 1); /* a mark is no text */
    if (r == -EINVAL)
        code = unknown(c, from);
    else if (r == -E2BIG)
        code = cli_mistake(c, what,
                           "%s is longer as UTF-8 than the %zu bytes one request may carry; "
                           "convert it first (`iconv "
                           "-f %.40s -t UTF-8`), then " CLI_SPLIT_FILE,
                           what, max, from);
    else if (r == -EILSEQ)
        code = cli_mistake(
            c, what,
            "%s is not %s from byte %zu of %zu on; give another --encoding (`iconv -l` "
            "lists them)",
            what, from, at, *n);
    else if (r < 0)
        code = cli_fail(c, CLI_FAILED, "no memory for %s", what);
    else if ((bad = text_bad(out, out_n)) < out_n)
        code = refuse(c, what, out, out_n, bad);
    free(*text);
    *text = code == CLI_OK ? out : NULL;
    *n = code == CLI_OK ? out_n : 0;
    if (code != CLI_OK)
        free(out);
    return code;
}

int encoding_take(struct cli *c, const struct args *a, const char *what, size_t max, bool hush,
                  char **text, size_t *n)
{
    const char *given = args_str(a, "encoding"), *from = given ? given : mark_of(*text, *n);
    size_t bad = text_bad(*text, *n);
    hush |= *n == 0; /* nothing is converted then, but --encoding is looked at */
    if (!from && bad < *n)
        from = is_utf16(*text, *n, false)  ? "UTF-16LE"
               : is_utf16(*text, *n, true) ? "UTF-16BE"
                                           : NULL;
    if (!from && bad < *n) {
        int code = refuse(c, what, *text, *n, bad);
        free(*text);
        *text = NULL;
        return code;
    }
    int code = from ? convert_from(c, what, from, max, text, n) : CLI_OK;
    if (!from || code != CLI_OK || hush || c->quiet)
        return code;
    /* With --json, too: what is sent is not what was there. */
    if (!given && strcmp(from, "UTF-8") == 0)
        say_err("hearth: %s: its byte order mark is left out\n", shown(what));
    else
        say_err("hearth: %s: converted from %s to UTF-8\n", shown(what), shown(from));
    return CLI_OK;
}

int encoding_typed(struct cli *c, const char *what, const char *words)
{
    size_t n = strlen(words), bad = text_bad(words, n);
    if (bad == n)
        return CLI_OK;
    return cli_fail(c, CLI_USAGE,
                    "%s is not UTF-8 (byte 0x%02x at %zu): this terminal or script has another "
                    "encoding; set it to UTF-8, or pipe the text in with --encoding",
                    what, (unsigned char)words[bad], bad);
}
