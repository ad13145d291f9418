/* complete.c - completion scripts, written from the table of verbs: they cannot go stale. */
#include "client/cli.h"

static bool top(const struct verb *v)
{
    return !strchr(v->name, ' ');
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
    if (strncmp(v->name, "sessions ", 9) == 0 || strcmp(v->name, "why") == 0)
        return "session";
    if (strcmp(v->name, "run") == 0 || strcmp(v->name, "show") == 0 ||
        strcmp(v->name, "load") == 0 || strcmp(v->name, "unload") == 0 ||
        strcmp(v->name, "plan") == 0)
        return "model";
    return "file";
}

static void bash(void)
{
    puts("# bash completion for hearth: source <(hearth completion bash)\n"
         "_hearth_names() {\n"
         "    hearth \"$1\" --json 2>/dev/null | grep -o '\"name\":\"[^\"]*\"' | cut -d'\"' "
         "-f4\n"
         "}\n"
         "_hearth() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= w i "
         "kind=file\n"
         "    COMPREPLY=()\n"
         "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "        w=${COMP_WORDS[i]}\n"
         "        case $w in --socket) ((i++));; -*) ;; *) verb=${verb:+$verb }$w; [[ $verb == "
         "\"sessions \"* || $w != sessions ]] && break;; esac\n"
         "    done\n"
         "    case $prev in\n"
         "    -s|--session) COMPREPLY=($(compgen -W \"$(_hearth_names sessions)\" -- "
         "\"$cur\")); return;;\n"
         "    -m|--model) COMPREPLY=($(compgen -W \"$(_hearth_names models)\" -- \"$cur\")); "
         "return;;\n"
         "    esac\n"
         "    case $verb in");
    printf("    '') w='");
    for (size_t i = 0; i < n_verbs; i++)
        if (top(&verbs[i]))
            printf("%s ", verbs[i].name);
    puts("--socket --json --quiet --no-color --version --help' kind=none;;");
    for (size_t i = 0; i < n_verbs; i++) {
        printf("    '%s') w='", verbs[i].name);
        words_of(&verbs[i]);
        printf("' kind=%s;;\n", kind(&verbs[i]));
    }
    puts("    *) w=;;\n"
         "    esac\n"
         "    [[ $verb == completion ]] && w='bash zsh fish'\n"
         "    [[ $cur != -* && $kind == session ]] && w+=\" $(_hearth_names sessions)\"\n"
         "    [[ $cur != -* && $kind == model ]] && w+=\" $(_hearth_names models)\"\n"
         "    COMPREPLY=($(compgen -W \"$w\" -- \"$cur\"))\n"
         "    [[ $kind == file && $cur != -* ]] && COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
         "}\n"
         "complete -o filenames -F _hearth hearth");
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
           f->value && f->value[0] != '[' ? ":value: " : "");
}

static void zsh(void)
{
    puts("#compdef hearth\n"
         "# zsh completion for hearth: hearth completion zsh > ~/.zfunc/_hearth\n"
         "_hearth_names() {\n"
         "    local -a n\n"
         "    n=(${(f)\"$(hearth $1 --json 2>/dev/null | grep -o '\"name\":\"[^\"]*\"' | cut "
         "-d'\"' -f4)\"})\n"
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

static void fish_flags(const char *cond, const struct flag *f)
{
    for (; f->name; f++) {
        printf("complete -c hearth -n '%s' -l %s", cond, f->name);
        if (f->letter)
            printf(" -s %c", f->letter);
        if (f->value && f->value[0] != '[')
            printf(" -r");
        printf(" -d \"%s\"\n", f->does);
    }
}

static void fish(void)
{
    puts("# fish completion for hearth: hearth completion fish | source\n"
         "function __hearth_names\n"
         "    hearth $argv[1] --json 2>/dev/null | string match -rag '\"name\":\"([^\"]*)\"'\n"
         "end");
    for (size_t i = 0; i < n_verbs; i++) {
        const struct verb *v = &verbs[i];
        char cond[160];
        if (top(v)) {
            printf("complete -c hearth -f -n __fish_use_subcommand -a %s -d \"%s\"\n", v->name,
                   v->does);
            snprintf(cond, sizeof cond, "__fish_seen_subcommand_from %s", v->name);
        } else {
            const char *sub = strchr(v->name, ' ') + 1;
            printf("complete -c hearth -f -n '__fish_seen_subcommand_from sessions' -a %s -d "
                   "\"%s\"\n",
                   sub, v->does);
            snprintf(cond, sizeof cond,
                     "__fish_seen_subcommand_from sessions; and __fish_seen_subcommand_from %s",
                     sub);
        }
        for (const struct flag *const *g = v->flags; g && *g; g++)
            fish_flags(cond, *g);
        if (strcmp(kind(v), "file") != 0)
            printf("complete -c hearth -f -n '%s' -a '(__hearth_names %ss)'\n", cond, kind(v));
    }
    fish_flags("true", flags_global);
    puts("complete -c hearth -n '__fish_contains_opt -s s session' -f -a '(__hearth_names "
         "sessions)'");
}

int cmd_completion(struct cli *c, const struct args *a)
{
    if (strcmp(a->pos[0], "bash") == 0)
        bash();
    else if (strcmp(a->pos[0], "zsh") == 0)
        zsh();
    else if (strcmp(a->pos[0], "fish") == 0)
        fish();
    else
        return cli_fail(c, CLI_USAGE, "completion: want bash, zsh or fish, got \"%.30s\"",
                        a->pos[0]);
    return CLI_OK;
}
