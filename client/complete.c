/* complete.c - completion scripts, written from the table of verbs: they cannot go stale. */
#include "client/cli.h"
#include "client/say.h"

static bool top(const struct verb *v)
{
    return !strchr(v->name, ' ');
}

static void verbs_top(void)
{
    for (size_t i = 0; i < n_verbs; i++)
        if (top(&verbs[i]))
            printf("%s ", verbs[i].name);
}

static bool is_help(const struct verb *v)
{
    return strcmp(v->name, "help") == 0;
}

/* The words that may follow a verb: its sub-verbs and flags. */
static void words_of(const struct verb *v)
{
    size_t n = strlen(v->name);
    for (size_t i = 0; i < n_verbs; i++)
        if (strncmp(verbs[i].name, v->name, n) == 0 && verbs[i].name[n] == ' ')
            printf("%s ", verbs[i].name + n + 1);
    for (const struct flag *const *g = v->flags; g && *g; g++)
        for (const struct flag *f = *g; f->name; f++)
            printf("--%s ", f->name);
    for (const struct flag *f = flags_global; f->name; f++)
        printf("--%s ", f->name);
}

/* What a positional argument of a verb is. */
static const char *kind(const struct verb *v)
{
    if (strncmp(v->name, "sessions ", 9) == 0 || strcmp(v->name, "why") == 0 ||
        strcmp(v->name, "cancel") == 0)
        return "session";
    if (strcmp(v->name, "run") == 0 || strcmp(v->name, "show") == 0 ||
        strcmp(v->name, "load") == 0 || strcmp(v->name, "unload") == 0 ||
        strcmp(v->name, "plan") == 0)
        return "model";
    return "file";
}

/* What a flag's value is a name of, or NULL. */
static const char *names_of(const struct flag *f)
{
    return strcmp(f->name, "session") == 0 ? "sessions"
           : strcmp(f->name, "model") == 0 ? "models"
                                           : NULL;
}

/* The shells run nothing that stands in a name: they read names a line at a time, compare them
 * literally, and quote what they put on the command line. */
static void bash(void)
{
    puts("# bash completion for hearth: source <(hearth completion bash)\n"
         "# $1 as it was typed, without its quotes: plain; a quote that is still open: open\n"
         "_hearth_plain() {\n"
         "    local i c\n"
         "    plain= open=\n"
         "    for ((i = 0; i < ${#1}; i++)); do\n"
         "        c=${1:i:1}\n"
         "        if [[ $c == \\\\ && $open != \\' ]]; then\n"
         "            ((++i))\n"
         "            plain+=${1:i:1}\n"
         "        elif [[ -n $open && $c == \"$open\" ]]; then\n"
         "            open=\n"
         "        elif [[ -z $open && ( $c == \\' || $c == '\"' ) ]]; then\n"
         "            open=$c\n"
         "        else\n"
         "            plain+=$c\n"
         "        fi\n"
         "    done\n"
         "}\n"
         "# The names, of sessions or models, that begin as typed, quoted as the word is\n"
         "_hearth_names() {\n"
         "    local n q\n"
         "    while IFS= read -r n; do\n"
         "        [[ $n == \"$plain\"* ]] || continue\n"
         "        case $open in\n"
         "        \"'\") q=${n//\\'/\\'\\\\\\'\\'};;\n"
         "        '\"')\n"
         "            printf -v q '%s' \"$n\"\n"
         "            q=${q//\\\\/\\\\\\\\}\n"
         "            q=${q//\\\"/\\\\\\\"}\n"
         "            q=${q//\\$/\\\\\\$}\n"
         "            q=${q//\\`/\\\\\\`}\n"
         "            q=${q//\\!/\\\"\\\\!\\\"};;\n"
         "        *) printf -v q %q \"$n\";;\n"
         "        esac\n"
         "        COMPREPLY+=(\"$q\")\n"
         "    done < <(hearth completion \"$1\" 2>/dev/null)\n"
         "}\n"
         "_hearth() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= w i "
         "kind=file plain open\n"
         "    COMPREPLY=()\n"
         "    _hearth_plain \"$cur\"\n"
         "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "        w=${COMP_WORDS[i]}\n"
         "        case $w in --socket) ((i++));; -*) ;; *) verb=${verb:+$verb }$w; [[ $verb == "
         "\"sessions \"* || $w != sessions ]] && break;; esac\n"
         "    done\n"
         "    case $prev in\n"
         "    -s|--session) _hearth_names sessions; return;;\n"
         "    -m|--model) _hearth_names models; return;;\n"
         "    esac\n"
         "    case $verb in");
    printf("    '') w='");
    verbs_top();
    puts("--socket --json --quiet --no-color --version --help' kind=none;;");
    printf("    help) w='");
    verbs_top();
    puts("' kind=none;;");
    for (size_t i = 0; i < n_verbs; i++) {
        if (is_help(&verbs[i]))
            continue;
        printf("    '%s') w='", verbs[i].name);
        words_of(&verbs[i]);
        printf("' kind=%s;;\n", kind(&verbs[i]));
    }
    puts(
        "    *) w=;;\n"
        "    esac\n"
        "    [[ $verb == completion ]] && w='bash zsh fish'\n"
        "    while IFS= read -r i; do\n"
        "        [[ -n $i && $i == \"$plain\"* ]] && COMPREPLY+=(\"$i\")\n"
        "    done <<< \"${w// /$'\\n'}\"\n"
        "    [[ $cur != -* && $kind == session ]] && _hearth_names sessions\n"
        "    [[ $cur != -* && $kind == model ]] && _hearth_names models\n"
        "    if [[ $kind == file && $cur != -* && $verb != sessions && $verb != completion ]]; "
        "then\n"
        "        COMPREPLY=()\n"
        "        compopt -o default 2>/dev/null # readline's own, which quotes file names\n"
        "    fi\n"
        "    return 0\n"
        "}\n"
        "complete -F _hearth hearth");
}

static void zsh_flag(const struct flag *f)
{
    /* In an _arguments specification a colon and brackets end a description. */
    char does[120];
    snprintf(does, sizeof does, "%s", f->does);
    for (char *p = does; *p; p++)
        if (strchr(":[]'", *p))
            *p = ' ';
    printf(" '--%s%s[%s]%s'", f->name, f->value && f->value[0] != '[' ? "=" : "", does,
           !f->value || f->value[0] == '['   ? ""
           : !names_of(f)                    ? ":value: "
           : strcmp(f->name, "session") == 0 ? ":session:_hearth_names sessions"
                                             : ":model:_hearth_names models");
}

static void zsh(void)
{
    puts("#compdef hearth\n"
         "# zsh completion for hearth: hearth completion zsh > ~/.zfunc/_hearth\n"
         "_hearth_names() {\n"
         "    local -a n\n"
         "    n=(\"${(@f)$(hearth completion $1 2>/dev/null)}\")\n"
         "    compadd -a n\n"
         "}\n"
         "_hearth() {\n"
         "    local -a verbs subs\n"
         "    verbs=(");
    for (size_t i = 0; i < n_verbs; i++)
        if (top(&verbs[i]))
            printf("        '%s:%s'\n", verbs[i].name, verbs[i].does);
    puts("    )\n    subs=(");
    for (size_t i = 0; i < n_verbs; i++)
        if (!top(&verbs[i]))
            printf("        '%s:%s'\n", strchr(verbs[i].name, ' ') + 1, verbs[i].does);
    puts("    )\n"
         "    if (( CURRENT == 2 )); then _describe verb verbs; return; fi\n"
         "    if [[ ${words[2]} == sessions && CURRENT -eq 3 ]]; then _describe 'sessions "
         "verb' subs; return; fi\n"
         "    local key=${words[2]}\n"
         "    [[ $key == sessions ]] && key=\"sessions ${words[3]}\"\n"
         "    case $key in");
    for (size_t i = 0; i < n_verbs; i++) {
        const struct verb *v = &verbs[i];
        const char *k = kind(v);
        if (strcmp(v->name, "sessions") == 0)
            continue;
        if (is_help(v)) {
            puts("    'help') _describe verb verbs;;");
            continue;
        }
        printf("    '%s') _arguments", v->name);
        for (const struct flag *const *g = v->flags; g && *g; g++)
            for (const struct flag *f = *g; f->name; f++)
                zsh_flag(f);
        for (const struct flag *f = flags_global; f->name; f++)
            zsh_flag(f);
        if (strcmp(k, "file") == 0)
            puts(" '*:file:_files';;");
        else
            printf(" '*:%s:_hearth_names %ss';;\n", k, k);
    }
    puts("    esac\n}\n_hearth \"$@\"");
}

/* In single quotes: in double ones fish puts in the values of variables. */
static void fish_does(const char *does)
{
    printf(" -d '");
    for (; *does; does++)
        printf(*does == '\'' || *does == '\\' ? "\\%c" : "%c", *does);
    puts("'");
}

static void fish_flags(const char *cond, const struct flag *f)
{
    for (; f->name; f++) {
        printf("complete -c hearth -n '%s' -l %s", cond, f->name);
        if (f->letter)
            printf(" -s %c", f->letter);
        if (f->value && f->value[0] != '[')
            printf(" -r");
        if (names_of(f))
            printf(" -f -a '(__hearth_names %s)'", names_of(f));
        fish_does(f->does);
    }
}

static void fish(void)
{
    puts("# fish completion for hearth: hearth completion fish | source\n"
         "function __hearth_names\n"
         "    hearth completion $argv[1] 2>/dev/null\n"
         "end");
    for (size_t i = 0; i < n_verbs; i++) {
        const struct verb *v = &verbs[i];
        char cond[160];
        if (top(v)) {
            printf("complete -c hearth -f -n __fish_use_subcommand -a %s", v->name);
            fish_does(v->does);
            snprintf(cond, sizeof cond, "__fish_seen_subcommand_from %s", v->name);
        } else {
            const char *sub = strchr(v->name, ' ') + 1;
            printf("complete -c hearth -f -n '__fish_seen_subcommand_from sessions' -a %s",
                   sub);
            fish_does(v->does);
            snprintf(cond, sizeof cond,
                     "__fish_seen_subcommand_from sessions; and __fish_seen_subcommand_from %s",
                     sub);
        }
        for (const struct flag *const *g = v->flags; g && *g; g++)
            fish_flags(cond, *g);
        if (is_help(v)) {
            printf("complete -c hearth -f -n '%s' -a '", cond);
            verbs_top();
            puts("'");
        } else if (strcmp(kind(v), "file") != 0)
            printf("complete -c hearth -f -n '%s' -a '(__hearth_names %ss)'\n", cond, kind(v));
    }
    fish_flags("true", flags_global);
}

/* Names one a line, for the scripts. One with control bytes cannot be typed: it is left out. */
static int names(struct cli *c, const char *what, enum hrt_type type)
{
    cJSON *o = NULL;
    const cJSON *e;
    int code = type == HRT_SESSION_LIST ? cli_sessions(c, NULL, &o)
                                        : cli_call(c, type, NULL, NULL, 0, &o, NULL);
    cJSON_ArrayForEach(e, j_get(o, what))
    {
        const char *name = j_str(e, "name", "");
        bool plain = name[0] && shown(name) == name;
        if (plain)
            puts(name);
    }
    cJSON_Delete(o);
    return code;
}

int cmd_completion(struct cli *c, const struct args *a)
{
    if (strcmp(a->pos[0], "bash") == 0)
        bash();
    else if (strcmp(a->pos[0], "zsh") == 0)
        zsh();
    else if (strcmp(a->pos[0], "fish") == 0)
        fish();
    else if (strcmp(a->pos[0], "sessions") == 0)
        return names(c, "sessions", HRT_SESSION_LIST);
    else if (strcmp(a->pos[0], "models") == 0)
        return names(c, "models", HRT_MODEL_LIST);
    else
        return cli_fail(c, CLI_USAGE, "completion: want bash, zsh or fish, got \"%.30s\"",
                        a->pos[0]);
    return CLI_OK;
}
