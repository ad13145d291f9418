/* complete.c - completion of a command line: the scripts of three shells, and the one thing they ask.
 *
 * What may follow is worked out here, from the table of verbs, so that the shells cannot differ and
 * nothing goes stale: `hearth completion words -- WORD...` is given the words before the cursor (the
 * last one as far as it is typed) and answers
 *
 *     KIND PREFIX        words, names or files; what the last word keeps, such as --session=
 *     WORD TAB MEANING   one a line, not yet compared with what is typed; files: none
 *
 * Which daemon is asked for names is what the line itself says with --socket.  The shells run nothing
 * that stands in a name: they read a line at a time, compare literally, and quote what they put on
 * the command line. */
#include "client/cli.h"
#include "client/say.h"
#include <stdlib.h>

enum { NAMES_WAIT_MS = 1000 };

static void kind(const char *what, const char *prefix, int n)
{
    printf("%s %.*s\n", what, n, prefix);
}

/* Names one a line.  One with control bytes cannot be typed, and one that begins with a dash is a
 * flag where flags may stand (dash: none may): they are left out. */
static int names(struct cli *c, const char *what, enum hrt_type type, bool dash)
{
    cJSON *o = NULL;
    const cJSON *e;
    int code = type == HRT_SESSION_LIST ? cli_sessions(c, NULL, &o)
                                        : cli_call(c, type, NULL, NULL, 0, &o, NULL);
    cJSON_ArrayForEach(e, j_get(o, what))
    {
        const char *name = j_str(e, "name", "");
        bool plain = name[0] && (dash || name[0] != '-') && shown(name) == name;
        if (plain)
            puts(name);
    }
    cJSON_Delete(o);
    return code;
}

static int sessions(struct cli *c, const char *prefix, int n, bool dash)
{
    kind("names", prefix, n);
    return names(c, "sessions", HRT_SESSION_LIST, dash);
}

static int models(struct cli *c, const char *prefix, int n, bool dash)
{
    kind("names", prefix, n);
    return names(c, "models", HRT_MODEL_LIST, dash);
}

/* The verbs of one word, or of two that begin with `first`. */
static int verb_words(const char *first)
{
    size_t n = first ? strlen(first) : 0;
    for (size_t i = 0; i < n_verbs; i++) {
        const char *name = verbs[i].name;
        if (!first && !strchr(name, ' '))
            printf("%s\t%s\n", name, verbs[i].does);
        else if (first && strncmp(name, first, n) == 0 && name[n] == ' ')
            printf("%s\t%s\n", name + n + 1, verbs[i].does);
    }
    return CLI_OK;
}

static void flag_words(const struct flag *f, const char *hide, bool letters)
{
    for (; f->name; f++) {
        if (hide && strcmp(hide, f->name) == 0)
            continue;
        printf("--%s\t%s\n", f->name, f->does);
        if (f->letter && letters)
            printf("-%c\t%s\n", f->letter, f->does);
    }
}

/* ---- hearthd's own flags, out of its help: "  --name   * what it is [default]" ---------------- */
/* The next flag in *at, which is moved on; false: there is none. */
static bool next_row(char **at, char **ret_name, char **ret_does)
{
    for (char *line; (line = strsep(at, "\n")) != NULL;) {
        if (strncmp(line, "  --", 4) != 0)
            continue;
        char *name = line + 4, *does = name + strcspn(name, " ");
        if (*does)
            *does++ = 0;
        *ret_name = name;
        *ret_does = does + strspn(does, " *");
        return true;
    }
    return false;
}

/* A setting that is true or false stands alone; all others want a value, in the next word when it is
 * not with them.  Those without a default are paths. */
static bool row_wants(const char *does, bool *ret_path)
{
    size_t n = strlen(does);
    *ret_path = n && does[n - 1] != ']';
    return n < 7 || strcmp(does + n - 7, "[false]") != 0;
}

static int serve_words(struct cli *c, const struct args *a, int from)
{
    static const struct flag ours[] = {
        {"detach", 0, NULL, "leave it running, once it is ready"},
        {"json", 0, NULL, "with --detach: say it as an object"},
        {"quiet", 'q', NULL, "with --detach: say nothing"},
        {"help", 'h', NULL, "what there is"},
        {0},
    };
    const char *last = a->pos[a->n - 1], *before = a->n - 1 > from ? a->pos[a->n - 2] : "";
    size_t given = strcspn(last, "=");
    char *text = serve_help(), *at = text, *name, *does;
    bool value = false, path = false;
    (void)c;
    for (char *p = at; p && next_row(&at, &name, &does) && !value;) {
        bool is_path, wants = row_wants(does, &is_path);
        /* As --name=VALUE, or in two words. */
        value = wants &&
                ((last[given] && strlen(name) + 2 == given && strncmp(last, "--", 2) == 0 &&
                  strncmp(last + 2, name, given - 2) == 0) ||
                 (strncmp(before, "--", 2) == 0 && strcmp(before + 2, name) == 0));
        path = value && is_path;
    }
    free(text);
    if (value || last[given]) {
        kind(path ? "files" : "words", last, last[given] ? (int)given + 1 : 0);
        return CLI_OK;
    }
    kind("words", "", 0);
    flag_words(ours, NULL, strcmp(last, "-") == 0);
    at = text = serve_help();
    while (at && next_row(&at, &name, &does))
        printf("--%s\t%s\n", name, does);
    if (text)
        puts("--check-config\tcheck the settings, and end\n--version\tits version");
    free(text);
    return CLI_OK;
}

/* ---- what may follow -------------------------------------------------------------------------- */
struct line {
    const struct verb *verb; /* NULL: none yet */
    const struct flag *open; /* its value is the last word; NULL: none */
    bool flags_over;         /* "--" was given */
    bool sub;                /* the last word may be the second of a verb */
    int n, at;               /* arguments before the last word; where hearthd's begin */
    const char *arg;         /* the last of them */
    const char *socket;      /* NULL: not given */
};

/* The flag whose value stands in the next word, of those in `word`; NULL: none does. */
static const struct flag *flag_open(struct line *l, const char *word)
{
    const struct flag *f = NULL;
    if (word[1] == '-') {
        size_t n = strcspn(word + 2, "=");
        f = args_flag(l->verb, word + 2, n, 0);
        if (f && word[2 + n] && strcmp(f->name, "socket") == 0)
            l->socket = word + 3 + n;
        return f && args_wants_value(f) && !word[2 + n] ? f : NULL;
    }
    for (const char *p = word + 1; *p; p++) {
        f = args_flag(l->verb, NULL, 0, *p);
        if (!f || args_wants_value(f))
            return f && !p[1] ? f : NULL;
    }
    return NULL;
}

/* All words but the last, as args_parse() takes them, but for their mistakes. */
static void read_line(struct line *l, const struct args *a, int from)
{
    for (int i = from; i < a->n - 1; i++) {
        const char *w = a->pos[i], *next = i + 2 < a->n ? a->pos[i + 1] : NULL;
        bool two = false;
        l->sub = false;
        if (l->open) {
            if (strcmp(l->open->name, "socket") == 0)
                l->socket = w;
            l->open = NULL;
        } else if (!l->flags_over && strcmp(w, "--") == 0) {
            l->flags_over = true;
        } else if (!l->flags_over && w[0] == '-' && w[1]) {
            l->open = flag_open(l, w);
        } else if (!l->verb) {
            l->verb = args_verb(w, next, &two);
            i += two;
            l->at = i + 1;
            l->sub = !two;
            if (!l->verb || l->verb->raw)
                return;
        } else {
            l->n++;
            l->arg = w;
        }
    }
}

static bool is(const struct verb *v, const char *name)
{
    return strcmp(v->name, name) == 0;
}

static int value_words(struct cli *c, const struct flag *f, const char *prefix, int n)
{
    if (strcmp(f->name, "session") == 0)
        return sessions(c, prefix, n, prefix[0]);
    if (strcmp(f->name, "model") == 0)
        return models(c, prefix, n, prefix[0]);
    kind("words", prefix, n); /* none: a number, or somebody's own words */
    return CLI_OK;
}

/* An argument of a verb: CLI_OK and more, or -1 when there is none that could be known. */
static int arg_words(struct cli *c, const struct line *l)
{
    const struct verb *v = l->verb;
    bool first = l->n == 0;
    if (is(v, "ingest") || (is(v, "sessions import") && first) ||
        (is(v, "sessions export") && l->n == 1)) {
        kind("files", "", 0);
        return CLI_OK;
    }
    if (is(v, "sessions rm") ||
        (first && (strncmp(v->name, "sessions ", 9) == 0 || is(v, "why") || is(v, "cancel")) &&
         v->pos_max))
        return sessions(c, "", 0, l->flags_over);
    if (first &&
        (is(v, "run") || is(v, "show") || is(v, "load") || is(v, "unload") || is(v, "plan")))
        return models(c, "", 0, l->flags_over);
    if (is(v, "help") && l->n < 2) {
        kind("words", "", 0);
        return verb_words(first ? NULL : l->arg);
    }
    if (is(v, "completion") && first) {
        kind("words", "", 0);
        puts("bash\nzsh\nfish");
        return CLI_OK;
    }
    return -1;
}

static int words(struct cli *c, const struct args *a)
{
    struct line l = {0};
    if (a->n < 2)
        return cli_usage(c, "completion: words wants the words of a line; give them behind --");
    c->wait_ms = NAMES_WAIT_MS; /* who pressed the key is waiting */
    const char *last = a->pos[a->n - 1];
    read_line(&l, a, 1);
    if (l.socket && strlen(l.socket) < sizeof c->url)
        memcpy(c->url, l.socket, strlen(l.socket) + 1);
    if (!l.verb && l.at) /* there is no such verb */
        return CLI_OK;
    if (l.verb && l.verb->raw)
        return serve_words(c, a, l.at);
    if (l.open)
        return value_words(c, l.open, "", 0);
    bool dash = !l.flags_over && last[0] == '-';
    if (dash && last[1] == '-') {
        size_t n = strcspn(last + 2, "=");
        const struct flag *f = args_flag(l.verb, last + 2, n, 0);
        if (last[2 + n])
            return f && f->value ? value_words(c, f, last, (int)n + 3) : CLI_OK;
    } else if (dash && last[1]) { /* -sNAME */
        const struct flag *f = args_flag(l.verb, NULL, 0, last[1]);
        if (f && args_wants_value(f))
            return value_words(c, f, last, 2);
    }
    if (!dash) {
        int code = CLI_OK;
        bool subs = l.verb && l.sub && is(l.verb, "sessions");
        if (!l.verb || subs)
            kind("words", "", 0);
        if (!l.verb || subs)
            return verb_words(subs ? l.verb->name : NULL);
        code = arg_words(c, &l);
        if (code >= 0 || l.flags_over)
            return code < 0 ? CLI_OK : code;
    }
    kind("words", "", 0);
    for (const struct flag *const *g = l.verb ? l.verb->flags : NULL; g && *g; g++)
        flag_words(*g, l.verb->hide, strcmp(last, "-") == 0);
    flag_words(flags_global, NULL, strcmp(last, "-") == 0);
    return CLI_OK;
}

/* ---- the scripts ------------------------------------------------------------------------------ */
static const char bash[] =
    "# bash completion for hearth: source <(hearth completion bash)\n"
    "# The words of $1, without their quotes: words, of which the last is being typed; a quote "
    "of it\n"
    "# that is still open: open; how much of it lies before what bash will replace: cut; the "
    "last\n"
    "# word is a file to read or write: redir\n"
    "_hearth_split() {\n"
    "    local i c w= had=\n"
    "    for ((i = 0; i < ${#1}; i++)); do\n"
    "        c=${1:i:1}\n"
    "        if [[ $c == \\\\ && $open != \\' ]]; then\n"
    "            ((++i))\n"
    "            w+=${1:i:1} had=1\n"
    "        elif [[ -n $open ]]; then\n"
    "            if [[ $c == \"$open\" ]]; then open=; else w+=$c; fi\n"
    "        elif [[ $c == \\' || $c == '\"' ]]; then\n"
    "            open=$c had=1\n"
    "        elif [[ $c == [[:space:]\\<\\>] ]]; then\n"
    "            [[ -n $had && -z $redir && ! ( $c == [\\<\\>] && $w == [0-9\\&] ) ]] && "
    "words+=(\"$w\")\n"
    "            [[ -n $had ]] && redir=\n"
    "            [[ $c == [\\<\\>] ]] && redir=1\n"
    "            w= had= cut=0\n"
    "        else\n"
    "            w+=$c had=1\n"
    "            [[ $c == [:=] && $COMP_WORDBREAKS == *$c* ]] && cut=${#w}\n"
    "        fi\n"
    "    done\n"
    "    words+=(\"$w\")\n"
    "}\n"
    "_hearth() {\n"
    "    local words=() open= cut=0 redir= kind=files prefix= plain n q\n"
    "    COMPREPLY=()\n"
    "    _hearth_split \"${COMP_LINE:0:COMP_POINT}\"\n"
    "    plain=${words[${#words[@]}-1]}\n"
    "    [[ -n $redir ]] || {\n"
    "        IFS=' ' read -r kind prefix\n"
    "        while IFS=$'\\t' read -r n q; do\n"
    "            n=$prefix$n\n"
    "            [[ $n == \"$plain\"* ]] || continue\n"
    "            n=${n:cut}\n"
    "            case $open in\n"
    "            \"'\") q=${n//\\'/\\'\\\\\\'\\'};;\n"
    "            '\"')\n"
    "                q=${n//\\\\/\\\\\\\\}\n"
    "                q=${q//\\\"/\\\\\\\"}\n"
    "                q=${q//\\$/\\\\\\$}\n"
    "                q=${q//\\`/\\\\\\`}\n"
    "                q=${q//\\!/\\\"\\\\!\\\"};;\n"
    "            *) printf -v q %q \"$n\";;\n"
    "            esac\n"
    "            COMPREPLY+=(\"$q\")\n"
    "        done\n"
    "    } < <(hearth completion words -- \"${words[@]:1}\" 2>/dev/null)\n"
    "    [[ $kind == files ]] && compopt -o default 2>/dev/null # readline quotes file names "
    "itself\n"
    "    return 0\n"
    "}\n"
    "complete -F _hearth hearth\n";

static const char zsh[] =
    "#compdef hearth\n"
    "# zsh completion for hearth: hearth completion zsh > ~/.zfunc/_hearth\n"
    "_hearth() {\n"
    "    local -a before lines list\n"
    "    local l kind prefix\n"
    "    (( CURRENT > 2 )) && before=(\"${(@Q)words[2,CURRENT-1]}\")\n"
    "    lines=(\"${(@f)$(hearth completion words -- \"${(@)before}\" \"${(Q)PREFIX}\" "
    "2>/dev/null)}\")\n"
    "    kind=${lines[1]%% *} prefix=${lines[1]#* }\n"
    "    shift lines\n"
    "    [[ -n $prefix ]] && compset -p ${#prefix}\n"
    "    case $kind in\n"
    "    files) _files;;\n"
    "    names) (( $#lines )) && compadd -- \"${(@)lines}\";;\n"
    "    words)\n"
    "        for l in \"${(@)lines}\"; do\n"
    "            list+=(\"${${l%%$'\\t'*}//:/\\\\:}:${l#*$'\\t'}\")\n"
    "        done\n"
    "        (( $#list )) && _describe 'hearth' list;;\n"
    "    esac\n"
    "}\n"
    "# As a file of $fpath it is run for each completion, by `source` once.\n"
    "if [[ ${funcstack[1]} == _hearth ]]; then _hearth \"$@\"; else compdef _hearth hearth; "
    "fi\n";

static const char fish[] =
    "# fish completion for hearth: hearth completion fish | source\n"
    "function __hearth_complete\n"
    "    set -l line (commandline -opc)\n"
    "    set -l last (commandline -ot)\n"
    "    set -l lines (hearth completion words -- $line[2..-1] \"$last\" 2>/dev/null)\n"
    "    set -l kind (string split -m 1 ' ' -- $lines[1])\n"
    "    if test \"$kind[1]\" = files\n"
    "        __fish_complete_path (string replace -- \"$kind[2]\" '' $last) | string replace "
    "-r -- "
    "'^' \"$kind[2]\"\n"
    "    else\n"
    "        for l in $lines[2..-1]\n"
    "            printf '%s\\n' $kind[2]$l\n"
    "        end\n"
    "    end\n"
    "end\n"
    "complete -c hearth -f -a '(__hearth_complete)'\n";

int cmd_completion(struct cli *c, const struct args *a)
{
    const char *what = a->pos[0];
    if (strcmp(what, "words") == 0)
        return words(c, a);
    if (a->n > 1)
        return cli_usage(c, "completion: want bash, zsh or fish, and nothing more");
    if (strcmp(what, "bash") == 0)
        printf("%s", bash);
    else if (strcmp(what, "zsh") == 0)
        printf("%s", zsh);
    else if (strcmp(what, "fish") == 0)
        printf("%s", fish);
    else
        return cli_fail(c, CLI_USAGE, "completion: want bash, zsh or fish, got \"%.30s\"",
                        what);
    return CLI_OK;
}
