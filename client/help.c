/* help.c - help texts, from the table of verbs. */
#include "client/cli.h"
#include "client/table.h"
#include <stdlib.h>

/* left in a column of `width`, counted as a terminal does: an ellipsis is three bytes.  Where it is
 * wider, what it does has a line of its own, so that the column stays one. */
static void print_row(const char *left, int width, const char *does)
{
    int gap = width - table_width(left);
    printf(gap < 0 ? "  %s\n  %*s %s\n" : "  %s%*s %s\n", left, gap < 0 ? width : gap, "",
           does);
}

static void print_flags(const struct flag *f, const char *hide)
{
    for (; f->name; f++) {
        char left[64], both[80], letter[8] = "    ";
        if (hide && strcmp(f->name, hide) == 0)
            continue;
        bool inside = f->value && f->value[0] == '[';
        if (f->letter)
            snprintf(letter, sizeof letter, "-%c, ", f->letter);
        if (inside) /* "[N]": --logprobs[=N] */
            snprintf(left, sizeof left, "--%s[=%s", f->name, f->value + 1);
        else
            snprintf(left, sizeof left, "--%s%s%s", f->name, f->value ? " " : "",
                     f->value ? f->value : "");
        snprintf(both, sizeof both, "%s%s", letter, left);
        print_row(both, 28, f->does);
    }
}

void help_verb(const struct verb *v)
{
    size_t n = strlen(v->name);
    printf("usage: hearth %s%s%s%s\n%s\n", v->name, v->flags ? " [FLAG]..." : "",
           v->takes[0] ? " " : "", v->takes, v->does);
    if (v->more)
        printf("\n%s", v->more);
    bool subs = false;
    for (size_t i = 0; i < n_verbs; i++) {
        if (strncmp(verbs[i].name, v->name, n) != 0 || verbs[i].name[n] != ' ')
            continue;
        if (!subs)
            puts("");
        subs = true;
        char left[80];
        snprintf(left, sizeof left, "%s %s", verbs[i].name + n + 1, verbs[i].takes);
        print_row(left, 36, verbs[i].does);
    }
    if (v->flags) {
        puts("");
        for (const struct flag *const *f = v->flags; *f; f++)
            print_flags(*f, v->hide);
    }
    if (v->raw) { /* what it is handed is another program's to explain */
        char *theirs = serve_help();
        printf("%s%s", theirs ? "\n" : "", theirs ? theirs : "");
        free(theirs);
    }
}

void help_all(void)
{
    puts("usage: hearth [FLAG]... VERB [ARGUMENT]...\n"
         "Talks to hearthd, which keeps language models loaded and every conversation with "
         "them.\n");
    for (size_t i = 0; i < n_verbs; i++) {
        const char *space = strchr(verbs[i].name, ' ');
        char left[80];
        if (space && strcmp(space, " ls") == 0)
            continue;
        snprintf(left, sizeof left, "%s %s", verbs[i].name, verbs[i].takes);
        print_row(left, 46, verbs[i].does);
    }
    puts("\nWith every verb:");
    print_flags(flags_global, NULL);
    puts("\nExit codes: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 no such model or session,\n"
         "75 try again later, 130 interrupted or cancelled.  `hearth help VERB` says more; so "
         "does man "
         "hearth.");
}

int cmd_help(struct cli *c, const struct args *a)
{
    char name[64];
    if (a->n == 0) {
        help_all();
        return CLI_OK;
    }
    snprintf(name, sizeof name, a->n > 1 ? "%.30s %.30s" : "%.30s", a->pos[0],
             a->n > 1 ? a->pos[1] : "");
    for (size_t i = 0; i < n_verbs; i++)
        if (strcmp(verbs[i].name, name) == 0) {
            help_verb(&verbs[i]);
            return CLI_OK;
        }
    const char *near = args_near_verb(a->pos[0]);
    return cli_fail(c, CLI_USAGE,
                    near ? "hearth has no verb \"%s\"; did you mean %s?"
                         : "hearth has no verb \"%s\"%s",
                    name, near ? near : "");
}
