/* httpin.c - see httpin.h. */
#include "daemon/front/httpin.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BAD = -400, TOO_LONG = -431, NOT_DONE = -501, VERSION = -505 };
/* Twice would mean two things, each to another reader. */
static const char *const once[] = {
    "Host",   "Content-Length", "Transfer-Encoding", "Content-Type",   "Authorization",
    "Origin", "Expect",         "Sec-Fetch-Site",    "Sec-Fetch-Mode", "Content-Encoding"};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}
static bool is_token(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

int httpin_scan(const char *p, size_t n, size_t *seen, struct errbuf *eb)
{
    for (size_t i = *seen; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (i >= HTTPIN_HEAD_MAX)
            return err_set(eb, TOO_LONG, "the request's headers are longer than %d bytes",
                           HTTPIN_HEAD_MAX);
        if (c == '\n' ? i == 0 || p[i - 1] != '\r' : i > 0 && p[i - 1] == '\r')
            return err_set(eb, BAD, "headers: a line ends in %s; want CR LF",
                           c == '\n' ? "LF alone" : "CR alone");
        if ((c < 0x20 && c != '\r' && c != '\n' && c != '\t') || c == 0x7f)
            return err_set(eb, BAD, "headers: the control byte 0x%02x at byte %zu", c, i);
        *seen = i + 1;
        if (c == '\n' && i >= 3 && p[i - 2] == '\n')
            return (int)(i + 1);
    }
    return 0;
}

/* METHOD SP TARGET SP HTTP/1.x, in place. */
static int request_line(struct httpin_head *h, char *line, struct errbuf *eb)
{
    char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
    if (!version || strchr(version + 1, ' ') || target == line || version == target + 1)
        return err_set(eb, BAD, "request line: want METHOD TARGET HTTP/1.1, one space between");
    *target++ = 0;
    *version++ = 0;
    for (const char *m = line; *m; m++)
        if (!is_token(*m))
            return err_set(eb, BAD, "request line: the method is no word");
    if (strncmp(version, "HTTP/", 5) != 0)
        return err_set(eb, BAD, "request line: want HTTP/1.1 at its end");
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return err_set(eb, VERSION, "request line: this server speaks HTTP/1.1 and HTTP/1.0");
    h->minor = version[7] == '1';
    for (const char *t = target; *t; t++)
        if ((unsigned char)*t <= 0x20 || (unsigned char)*t >= 0x7f)
            return err_set(eb, BAD, "request line: bytes in the target that want escaping");
    if (strncasecmp(target, "http://", 7) == 0) { /* as proxies are asked */
        h->authority = target + 7;
        target = strchr(target + 7, '/');
        if (!target)
            return err_set(eb, BAD, "request line: the target has no path");
        h->authority_bytes = (uint32_t)(target - h->authority);
    }
    if (target[0] != '/' && strcmp(target, "*") != 0)
        return err_set(eb, BAD, "request line: want a target that begins with /");
    target[strcspn(target, "?#")] = 0;
    h->method = line;
    h->path = target;
    return 0;
}

static int field_line(struct httpin_head *h, char *line, struct errbuf *eb)
{
    size_t n = 0;
    if (line[0] == ' ' || line[0] == '\t')
        return err_set(eb, BAD,
                       "headers: a line begins with a space (folded lines are not taken)");
    while (is_token(line[n]))
        n++;
    if (n == 0 || line[n] != ':')
        return err_set(eb, BAD, "headers: want NAME: VALUE, without a space before the colon");
    if (h->n_fields == HTTPIN_FIELDS_MAX)
        return err_set(eb, TOO_LONG, "headers: more than %d fields", HTTPIN_FIELDS_MAX);
    line[n] = 0;
    char *v = line + n + 1;
    v += strspn(v, " \t");
    for (size_t k = strlen(v); k > 0 && (v[k - 1] == ' ' || v[k - 1] == '\t'); k--)
        v[k - 1] = 0;
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        if (strcasecmp(once[i], line) == 0 && httpin_field(h, line))
            return err_set(eb, BAD, "headers: %s is there twice", once[i]);
    h->field[h->n_fields].name = line;
    h->field[h->n_fields++].value = v;
    return 0;
}

/* Does a field that is a comma-separated list hold the word, in any of its lines? */
static bool lists(const struct httpin_head *h, const char *name, const char *word)
{
    size_t n = strlen(word);
    uint32_t at = 0;
    for (const char *s; (s = httpin_next(h, name, &at)) != NULL;)
        while (*s) {
            s += strspn(s, " \t,");
            size_t k = strcspn(s, " \t,");
            if (k == n && strncasecmp(s, word, n) == 0)
                return true;
            s += k;
        }
    return false;
}

static int body_form(struct httpin_head *h, struct errbuf *eb)
{
    const char *len = httpin_field(h, "Content-Length"),
               *te = httpin_field(h, "Transfer-Encoding"), *host = httpin_field(h, "Host"),
               *expect = httpin_field(h, "Expect");
    if (len && te)
        return err_set(eb, BAD,
                       "headers: Content-Length and Transfer-Encoding exclude each other");
    if (te && !h->minor)
        return err_set(eb, BAD, "headers: HTTP/1.0 has no Transfer-Encoding");
    if (te && strcasecmp(te, "chunked") != 0)
        return err_set(eb, NOT_DONE, "headers: of Transfer-Encoding only chunked is taken");
    h->chunked = te != NULL;
    if (len) {
        size_t n = strspn(len, "0123456789");
        if (n == 0 || len[n] || n > 18)
            return err_set(eb, BAD, "headers: Content-Length: want digits alone, got \"%.40s\"",
                           len);
        h->body_bytes = strtoull(len, NULL, 10);
    }
    if (h->minor && !host)
        return err_set(eb, BAD, "headers: HTTP/1.1 wants a Host");
    /* One reader goes by the one, another by the other. */
    if (h->authority && host &&
        (strlen(host) != h->authority_bytes ||
         strncasecmp(host, h->authority, h->authority_bytes) != 0))
        return err_set(eb, BAD, "request line: the target names another host than Host does");
    if (expect && h->minor) {
        if (strcasecmp(expect, "100-continue") != 0)
            return err_set(eb, -417, "headers: Expect: only 100-continue can be met");
        h->expects = h->chunked || h->body_bytes;
    }
    h->keep =
        !lists(h, "Connection", "close") && (h->minor || lists(h, "Connection", "keep-alive"));
    return 0;
}

int httpin_parse(struct httpin_head *ret, const char *p, size_t n, struct errbuf *eb)
{
    struct httpin_head h = {.text = malloc(n + 1)};
    if (!h.text)
        return err_set(eb, -503, "no memory for the headers");
    memcpy(h.text, p, n);
    h.text[n] = 0;
    int r = 0;
    for (char *line = h.text, *end; r == 0 && (end = strstr(line, "\r\n")) && end != line;
         line = end + 2) {
        *end = 0;
        r = line == h.text ? request_line(&h, line, eb) : field_line(&h, line, eb);
    }
    if (r == 0 && !h.method)
        r = err_set(eb, BAD, "request line: it is empty");
    if (r == 0)
        r = body_form(&h, eb);
    if (r < 0) {
        free(h.text);
        return r;
    }
    *ret = h;
    return 0;
}

void httpin_fini(struct httpin_head *h)
{
    free(h->text);
    *h = (struct httpin_head){0};
}

const char *httpin_next(const struct httpin_head *h, const char *name, uint32_t *at)
{
    while (*at < h->n_fields) {
        uint32_t i = (*at)++;
        if (strcasecmp(h->field[i].name, name) == 0)
            return h->field[i].value;
    }
    return NULL;
}

const char *httpin_field(const struct httpin_head *h, const char *name)
{
    uint32_t at = 0;
    return httpin_next(h, name, &at);
}

const char *httpin_reason(int code)
{
    switch (code) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Cancelled";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return code < 500 ? "Error" : "Internal Server Error";
    }
}

static int hex(char c)
{
    return is_digit(c)            ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

char *httpin_unescape(const char *s)
{
    char *out = malloc(strlen(s) + 1), *o = out;
    for (; out && *s; s++) {
        char c = *s;
        if (c == '%') {
            int a = hex(s[1]), b = a < 0 ? -1 : hex(s[2]);
            if (b < 0 || a * 16 + b == 0) {
                free(out);
                return NULL;
            }
            c = (char)(a * 16 + b);
            s += 2;
        }
        *o++ = c;
    }
    if (out)
        *o = 0;
    return out;
}

/* --- chunks -------------------------------------------------------------------------------- */
enum {
    SIZE,
    BLANKS, /* behind a size */
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER, /* at the beginning of a line behind the last chunk */
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
    DONE
};

int httpin_chunk(struct httpin_chunks *s, const char *p, size_t n, size_t *ret_used,
                 const char **ret_data, size_t *ret_n, struct errbuf *eb)
{
    size_t i = 0;
    *ret_n = 0;
    *ret_data = p;
    while (i < n && s->state != DONE) {
        char c = p[i];
        bool ok = true, blank = c == ' ' || c == '\t';
        bool plain = (unsigned char)c >= 0x20 && c != 0x7f;
        if (s->state == DATA) {
            size_t k = n - i < s->left ? n - i : (size_t)s->left;
            *ret_data = p + i;
            *ret_n = k;
            s->left -= k;
            if (!s->left)
                s->state = DATA_CR;
            *ret_used = i + k;
            return 0;
        }
        i++;
        bool room = s->state < TRAILER || ++s->trailer < HTTPIN_TRAILER_MAX;
        switch (s->state) {
        case SIZE:
            if (hex(c) >= 0 && s->digits < 8) {
                s->left = s->left * 16 + (uint64_t)hex(c);
                s->digits++;
            } else {
                ok = s->digits > 0 && (c == '\r' || c == ';' || blank);
                s->state = c == '\r' ? SIZE_LF : blank ? BLANKS : EXTENSION;
            }
            break;
        case BLANKS:
            ok = ++s->line < HTTPIN_CHUNK_LINE_MAX && (c == '\r' || c == ';' || blank);
            s->state = c == '\r' ? SIZE_LF : blank ? BLANKS : EXTENSION;
            break;
        case EXTENSION: /* nothing is known of any: passed over, as long as it is a line */
            if (c == '\r')
                s->state = SIZE_LF;
            else
                ok = ++s->line < HTTPIN_CHUNK_LINE_MAX && (plain || blank);
            break;
        case SIZE_LF:
            ok = c == '\n';
            s->state = s->left ? DATA : TRAILER;
            s->digits = s->line = 0;
            break;
        case DATA_CR: ok = c == '\r', s->state = DATA_LF; break;
        case DATA_LF: ok = c == '\n', s->state = SIZE; break;
        /* Trailer fields: nothing is known of any, and none may mean what a header does. */
        case TRAILER:
            ok = c == '\r' || is_token(c);
            s->state = c == '\r' ? LAST_LF : TRAILER_NAME;
            break;
        case TRAILER_NAME:
            ok = c == ':' || is_token(c);
            s->state = c == ':' ? TRAILER_VALUE : TRAILER_NAME;
            break;
        case TRAILER_VALUE:
            ok = c == '\r' || plain || blank;
            s->state = c == '\r' ? TRAILER_LF : TRAILER_VALUE;
            break;
        case TRAILER_LF: ok = c == '\n', s->state = TRAILER; break;
        default: ok = c == '\n', s->state = DONE; break;
        }
        if (!ok || !room)
            return err_set(eb, BAD, "the chunks of the body are not well formed");
    }
    *ret_used = i;
    return s->state == DONE;
}
