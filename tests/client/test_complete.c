/* test_complete.c - completion of the command line, in real shells against a fake core.
 *
 * bash and zsh are typed at on a terminal, and what stands on their line after a TAB is looked at; fish
 * says by itself what it would offer.  zsh and fish are asked where they are installed. */
#include "tests/client/cliproc.h"
#include <pty.h>

static int run_words(const char *const *words)
{
    int o, e;
    pid_t pid = begin(words, &o, &e, NULL);
    return finish(pid, o, e);
}
#undef RUN
#define RUN(...) run_words((const char *const[]){__VA_ARGS__, NULL})

static bool have(const char *shell)
{
    char cmd[100];
    snprintf(cmd, sizeof cmd, "command -v %s >/dev/null", shell);
    if (system(cmd) == 0)
        return true;
    fprintf(stderr, "%s is not installed: not asked\n", shell);
    return false;
}

/* The directory of the programs, for a PATH. */
static const char *programs(void)
{
    static char bin[4200], rel[4200];
    snprintf(rel, sizeof rel, "%s", built("hearth"));
    *strrchr(rel, '/') = 0;
    CHECK(realpath(rel, bin));
    return bin;
}

static void scripts_are_valid(void)
{
    up();
    static const char *const shells[] = {"bash", "zsh", "fish"};
    for (int i = 0; i < 3; i++) {
        char cmd[300];
        CHECK_EQ(RUN("completion", shells[i]), 0);
        CHECK(strstr(out, "hearth completion words -- "));
        if (!have(shells[i]))
            continue;
        snprintf(cmd, sizeof cmd, "%s -n", shells[i]);
        FILE *p = popen(cmd, "w");
        fputs(out, p);
        CHECK_EQ(pclose(p), 0);
    }
    CHECK_EQ(RUN("completion", "bash", "zsh"), 2);
    down();
}

/* ---- a shell on a terminal -------------------------------------------------------------------- */
static int tty_fd;
static pid_t tty_pid;
static char said[300]; /* where the shell writes its line, at ^G */

static void type(const char *keys)
{
    CHECK(write(tty_fd, keys, strlen(keys)) == (ssize_t)strlen(keys));
}

/* The line after the keys, as the shell has it; what it prints meanwhile is thrown away. */
static const char *line_after(const char *keys)
{
    static char line[2000];
    char waste[4096];
    (void)unlink(said);
    type(keys);
    type("\a");
    line[0] = 0;
    for (int i = 0; i < 1500; i++) {
        struct pollfd p = {.fd = tty_fd, .events = POLLIN};
        if (poll(&p, 1, 10) > 0)
            (void)!read(tty_fd, waste, sizeof waste);
        FILE *f = fopen(said, "r");
        size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
        if (f)
            fclose(f);
        line[n] = 0;
        if (n && line[n - 1] == '\n') {
            line[n - 1] = 0;
            return line;
        }
    }
    return "(no answer)";
}

/* Only then is the terminal the line editor's, which may throw away what was typed before. */
static void shell_ready(void)
{
    static const char prompt[] = "ready> ";
    char got[8192];
    size_t n = 0;
    for (int i = 0; i < 1500 && n < sizeof got - 1; i++) {
        struct pollfd p = {.fd = tty_fd, .events = POLLIN};
        ssize_t k = poll(&p, 1, 10) > 0 ? read(tty_fd, got + n, sizeof got - 1 - n) : 0;
        n += k > 0 ? (size_t)k : 0;
        got[n] = 0;
        if (strstr(got, prompt))
            return;
    }
    t_fail(__FILE__, __LINE__, "the shell does not prompt");
}

static void shell_open(const char *shell, const char *rc)
{
    char path[300];
    snprintf(said, sizeof said, "%s/said", dir);
    snprintf(path, sizeof path, "%s/%s", dir, strcmp(shell, "zsh") == 0 ? ".zshrc" : "rc");
    FILE *f = fopen(path, "w");
    CHECK(f);
    fprintf(f,
            "PATH='%s':$PATH\ncd '%s'\nexport HEARTH_SOCKET='%s' said='%s' PS1='ready> '\n%s",
            programs(), dir, url, said, rc);
    fclose(f);
    snprintf(path, sizeof path, "%s/afile", dir);
    f = fopen(path, "w");
    CHECK(f);
    fclose(f);
    fflush(NULL);
    tty_pid = forkpty(&tty_fd, NULL, NULL, &(struct winsize){.ws_row = 50, .ws_col = 200});
    CHECK(tty_pid >= 0);
    if (tty_pid == 0) {
        setenv("HOME", dir, 1);
        setenv("ZDOTDIR", dir, 1);
        setenv("TERM", "dumb", 1);
        unsetenv("HISTFILE");
        if (strcmp(shell, "zsh") == 0)
            execlp("zsh", "zsh", "-d", "-i", (char *)NULL);
        snprintf(path, sizeof path, "%s/rc", dir);
        execlp("bash", "bash", "--noprofile", "--rcfile", path, "-i", (char *)NULL);
        _exit(127);
    }
    shell_ready();
}

static void shell_close(void)
{
    kill(tty_pid, SIGKILL);
    waitpid(tty_pid, NULL, 0);
    close(tty_fd);
}

/* What is typed before a TAB, and the line after it. */
static const char *const typed[][2] = {
    {"hearth sess", "hearth sessions "},
    {"hearth --json sess", "hearth --json sessions "},
    {"hearth sessions ren", "hearth sessions rename "},
    {"hearth sessions show fa", "hearth sessions show fake "},
    {"hearth sessions show re", "hearth sessions show re"},
    {"hearth sessions rename fake fa", "hearth sessions rename fake fa"},
    {"hearth sessions rm --al", "hearth sessions rm --al"},
    {"hearth sessions rm --an", "hearth sessions rm --anonymous "},
    {"hearth ask --session fa", "hearth ask --session fake "},
    {"hearth ask --session=fa", "hearth ask --session=fake "},
    {"hearth ask -s fa", "hearth ask -s fake "},
    {"hearth ask -sfa", "hearth ask -sfake "},
    {"hearth ask -s 'fa", "hearth ask -s 'fake' "},
    {"hearth ask --cr", "hearth ask --create "},
    {"hearth run oth", "hearth run other "},
    {"hearth unload oth", "hearth unload other "},
    {"hearth chat -q -m oth", "hearth chat -q -m other "},
    {"hearth help comp", "hearth help completion "},
    {"hearth help sessions ren", "hearth help sessions rename "},
    {"hearth help sessions serv", "hearth help sessions serv"},
    {"hearth completion zs", "hearth completion zsh "},
    {"hearth completion afi", "hearth completion afi"},
    {"hearth ingest -s fake afi", "hearth ingest -s fake afile "},
    {"hearth serve --det", "hearth serve --detach "},
    {"hearth serve --page-m", "hearth serve --page-memory "},
    {"hearth serve --no-col", "hearth serve --no-col"},
    {"hearth serve --state afi", "hearth serve --state afile "},
    {"hearth serve --detach --state=afi", "hearth serve --detach --state=afile "},
    {"hearth serve --threads afi", "hearth serve --threads afi"},
    {"hearth --socket sess", "hearth --socket sess"},
    {"hearth --socket unix:///nosuch ask -s fa", "hearth --socket unix:///nosuch ask -s fa"},
    {"hearth --socket=unix:///nosuch ask -s fa", "hearth --socket=unix:///nosuch ask -s fa"},
};

static void type_all(const char *shell)
{
    for (size_t i = 0; i < sizeof typed / sizeof *typed; i++) {
        char keys[300];
        snprintf(keys, sizeof keys, "%s\t", typed[i][0]);
        const char *got = line_after(keys);
        if (strcmp(got, typed[i][1]) != 0)
            t_fail(__FILE__, __LINE__, "%s, %s: got \"%s\", want \"%s\"", shell, typed[i][0],
                   got, typed[i][1]);
        (void)line_after("\x15"); /* ^U */
    }
    /* The other daemon of the machine is asked when the line names it, and only then. */
    char keys[400], want[400];
    type("export HEARTH_SOCKET=unix:///nosuch\n");
    snprintf(want, sizeof want, "hearth --socket %s ask -s fake ", url);
    snprintf(keys, sizeof keys, "hearth --socket %s ask -s fa\t", url);
    const char *got = line_after(keys);
    if (strcmp(got, want) != 0)
        t_fail(__FILE__, __LINE__, "%s: got \"%s\", want \"%s\"", shell, got, want);
}

static void bash_completes_what_is_typed(void)
{
    if (!have("bash"))
        return;
    up();
    shell_open("bash", "bind 'set bell-style none'\nbind 'set enable-bracketed-paste off'\n"
                       "bind -x '\"\\C-g\": printf \"%s\\n\" \"$READLINE_LINE\" > \"$said\"'\n"
                       "source <(hearth completion bash)\n");
    type_all("bash");
    shell_close();
    down();
}

#define ZSH                                                                                    \
    "unsetopt beep zle_bracketed_paste\nbindkey -e\nsay() { print -r -- $BUFFER > $said }\n"   \
    "zle -N say\nbindkey '^G' say\n"

static void zsh_completes_what_is_typed(void)
{
    if (!have("zsh"))
        return;
    up();
    shell_open("zsh", "hearth completion zsh > _hearth\nfpath=($PWD $fpath)\n"
                      "autoload -Uz compinit && compinit -u -D\n" ZSH);
    type_all("zsh");
    shell_close();
    /* Read in by hand it offers nothing by itself, and works as well. */
    shell_open("zsh", "autoload -Uz compinit && compinit -u -D\n" ZSH
                      "source <(hearth completion zsh)\n");
    const char *got = line_after("hearth sess\t");
    if (strcmp(got, "hearth sessions ") != 0)
        t_fail(__FILE__, __LINE__, "zsh, read in: got \"%s\"", got);
    shell_close();
    down();
}

static void fish_offers_what_may_follow(void)
{
    /* All that is offered, without what it means, in fish's order. */
    static const char *const cases[][2] = {
        {"hearth --json sess", "sessions|"},
        {"hearth sessions show fa", "fake|"},
        {"hearth sessions show re", ""},
        {"hearth sessions rm --a", "--anonymous|"},
        {"hearth ask -s fa", "fake|"},
        {"hearth ask --session=fa", "--session=fake|"},
        {"hearth run o", "other|"},
        {"hearth completion ", "bash|fish|zsh|"},
        {"hearth help sessions ren", "rename|"},
        {"hearth serve --det", "--detach|"},
        {"hearth serve --page-m", "--page-memory|"},
        {"hearth ingest afi", "afile|"},
        {"hearth --socket unix:///nosuch ask -s fa", ""},
    };
    if (!have("fish"))
        return;
    up();
    char cmd[4800], got[4000];
    snprintf(cmd, sizeof cmd, "touch '%s/afile'", dir);
    CHECK(system(cmd) == 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(
            cmd, sizeof cmd,
            "cd '%s' && HOME='%s' PATH='%s':\"$PATH\" HEARTH_SOCKET='%s' fish --no-config -c "
            "'hearth completion fish | source; complete -C \"%s\"' | cut -f1 | tr '\\n' '|'",
            dir, dir, programs(), url, cases[i][0]);
        FILE *f = popen(cmd, "r");
        size_t n = fread(got, 1, sizeof got - 1, f);
        got[n] = 0;
        CHECK_EQ(pclose(f), 0);
        if (strcmp(got, cases[i][1]) != 0)
            t_fail(__FILE__, __LINE__, "fish, %s: got \"%s\", want \"%s\"", cases[i][0], got,
                   cases[i][1]);
    }
    down();
}

/* Sessions of the fake core are named to be run, split and misquoted by a careless script. */
static void bash_runs_nothing_and_quotes(void)
{
    static const char *const cases[][2] = {
        {"hearth ask -s ", "fake|\\$\\(touch\\ pwned\\)\\ \\\"a\\ b\\\"|it\\'s|"},
        {"hearth ask -s ''", "fake|\\$\\(touch\\ pwned\\)\\ \\\"a\\ b\\\"|it\\'s|"},
        {"hearth ask -s $", "\\$\\(touch\\ pwned\\)\\ \\\"a\\ b\\\"|"},
        {"hearth ask -s \"$(", "\\$(touch pwned) \\\"a b\\\"|"},
        {"hearth ask -s '$(", "$(touch pwned) \"a b\"|"},
        {"hearth ask -s 'i", "it'\\''s|"},
        {"hearth ask -s it\\'", "it\\'s|"},
        {"hearth ask --session=it\\'", "it\\'s|"},
        {"hearth ask -s $(touch pwned", ""},
        {"hearth sessions rm f", "fake|"},
        {"hearth ask -s *", ""},
        {"hearth ask -s fake < fa", ""},
        {"hearth ask 2>x -s fa", "fake|"},
        {"hearth sessions show -d", ""},
        {"hearth sessions show -- -d", "-d\\ or\\ not|"},
        {"hearth ask --session=-d", "-d\\ or\\ not|"},
    };
    if (!have("bash"))
        return;
    up();
    char path[200], cmd[400], got[600];
    snprintf(path, sizeof path, "%s/t.bash", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FILE *f = fopen(path, "w");
        CHECK(f);
        fprintf(f,
                "PATH='%s':$PATH\ncd '%s' || exit 9\n"
                "export HEARTH_SOCKET='%s'\nsource <(hearth completion bash)\n"
                "IFS= read -r COMP_LINE <<'END'\n%s\nEND\nCOMP_POINT=${#COMP_LINE}\n_hearth\n"
                "[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%%s|' \"${COMPREPLY[@]}\"\n"
                "[[ ! -e pwned ]]\n",
                programs(), dir, url, cases[i][0]);
        fclose(f);
        snprintf(cmd, sizeof cmd, "bash '%s'", path);
        f = popen(cmd, "r");
        size_t n = fread(got, 1, sizeof got - 1, f);
        got[n] = 0;
        CHECK_EQ(pclose(f), 0);
        if (strcmp(got, cases[i][1]) != 0)
            t_fail(__FILE__, __LINE__, "%s: got \"%s\", want \"%s\"", cases[i][0], got,
                   cases[i][1]);
    }
    down();
}

/* hearthd's flags come from hearthd: without it hearth's own are left. */
static void serve_knows_hearthds_flags(void)
{
    up();
    CHECK_EQ(RUN("serve", "--help"), 0);
    CHECK(strstr(out, "--detach") && strstr(out, "--host-memory"));
    CHECK_EQ(RUN("help", "serve"), 0);
    CHECK(strstr(out, "--host-memory"));
    CHECK_EQ(RUN("completion", "words", "--", "serve", "--"), 0);
    CHECK(strstr(out, "\n--detach\t") && strstr(out, "\n--host-memory\t"));
    CHECK(!strstr(out, "--socket\t") && !strstr(out, "--no-color"));
    char cmd[4600], got[4000];
    snprintf(
        cmd, sizeof cmd,
        "mkdir '%s/alone' && cp '%s' '%s/alone' && PATH=/nowhere '%s/alone/hearth' completion "
        "words -- serve --",
        dir, built("hearth"), dir, dir);
    FILE *f = popen(cmd, "r");
    size_t n = fread(got, 1, sizeof got - 1, f);
    got[n] = 0;
    CHECK_EQ(pclose(f), 0);
    CHECK(strstr(got, "--detach") && !strstr(got, "--host-memory"));
    down();
}

T_MAIN({"scripts_are_valid", scripts_are_valid},
       {"bash_completes_what_is_typed", bash_completes_what_is_typed},
       {"zsh_completes_what_is_typed", zsh_completes_what_is_typed},
       {"fish_offers_what_may_follow", fish_offers_what_may_follow},
       {"bash_runs_nothing_and_quotes", bash_runs_nothing_and_quotes},
       {"serve_knows_hearthds_flags", serve_knows_hearthds_flags})
