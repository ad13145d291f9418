/* test_conf.c - options: who wins, what is refused and with which words, the INI file. */
#include "base/log.h"
#include "daemon/conf.h"
#include "daemon/units.h"
#include "tests/t.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *env_names[16], *env_values[16];
static int n_env;
static const char *env(const char *name)
{
    for (int i = 0; i < n_env; i++)
        if (strcmp(env_names[i], name) == 0)
            return env_values[i];
    return NULL;
}
static void set(const char *name, const char *value)
{
    env_names[n_env] = name;
    env_values[n_env++] = value;
}
static const char *dir(void)
{
    static const char *d;

    return d ? d : (d = t_tmpdir());
}
static struct errbuf eb;
/* Flags as one string, split at blanks; a home of its own, so that nothing of this machine
 * leaks in. */
static int open_with(struct conf **ret, const char *flags)
{
    static char buf[4096], home[256];
    char *argv[64] = {(char[]){"hearthd"}};
    int argc = 1;

    snprintf(home, sizeof home, "%s", dir());
    set("HOME", home);
    set("XDG_RUNTIME_DIR", "/run/user/7");
    snprintf(buf, sizeof buf, "%s", flags);
    for (char *p = strtok(buf, " "); p; p = strtok(NULL, " "))
        argv[argc++] = p;
    eb.s[0] = 0;
    int r = conf_open(ret, argc, argv, env, &eb);
    n_env = 0;
    return r;
}
static const char *file(const char *text)
{
    static char path[256];
    FILE *f;

    snprintf(path, sizeof path, "%s/hearth.conf", dir());
    f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    return path;
}
static int open_file(struct conf **ret, const char *text, const char *more)
{
    char flags[1024];

    snprintf(flags, sizeof flags, "--config %s %s", file(text), more);
    return open_with(ret, flags);
}

static void defaults_are_those_of_the_documents(void)
{
    struct conf *c;
    char want[300];

    CHECK_EQ(open_with(&c, ""), 0);
    snprintf(want, sizeof want, "%s/.local/state/hearth", dir());
    CHECK_STR(c->state, want);
    snprintf(want, sizeof want, "%s/.local/share/hearth/models", dir());
    CHECK_STR(c->models, want);
    CHECK_STR(c->runtime, "/run/user/7/hearth");
    CHECK_STR(c->core_path, "/run/user/7/hearth/core.sock");
    CHECK_STR(c->device, "auto");
    CHECK_STR(c->http_addr, "127.0.0.1");
    CHECK_EQ(c->http_port, 8765);
    CHECK(c->http);
    CHECK_EQ(c->io, CONF_IO_AUTO);
    CHECK_EQ(c->socket_mode, 0600);
    CHECK_EQ(c->log_level, LOG_INFO_);
    CHECK(c->any.keep_alive_s == -1);
    CHECK_EQ(c->day_bytes, 0);
    CHECK(c->host_bytes >= 16 << 20);
    CHECK(c->disk_bytes > 0);
    CHECK(isnan(c->any.temperature));
    CHECK_EQ(c->does, CONF_RUN);
    conf_close(c);
}
static void the_system_service_has_places_of_its_own(void)
{
    struct conf *c;

    CHECK_EQ(open_with(&c, "--system"), 0);
    CHECK_STR(c->state, "/var/lib/hearth");
    CHECK_STR(c->runtime, "/run/hearth");
    CHECK_EQ(c->socket_mode, 0660);
    CHECK(c->no_front);
    conf_close(c);
}
static void directories_made_by_the_manager_are_used(void)
{
    struct conf *c;

    set("STATE_DIRECTORY", "/var/lib/x");
    set("RUNTIME_DIRECTORY", "/run/x");
    CHECK_EQ(open_with(&c, ""), 0);
    CHECK_STR(c->state, "/var/lib/x");
    CHECK_STR(c->runtime, "/run/x");
    conf_close(c);
}
static void http_for_other_machines_wants_keys(void)
{
    struct conf *c;

    CHECK_EQ(open_with(&c, "--http 0.0.0.0:8765"), -EPERM);
    CHECK(strstr(eb.s, "http: 0.0.0.0") && strstr(eb.s, "api-key-file"));
    CHECK_EQ(open_with(&c, "--http [::]:0"), -EPERM);
    CHECK_EQ(open_with(&c, "--http 0.0.0.0:8765 --api-key-file /keys"), 0);
    conf_close(c);
    CHECK_EQ(open_with(&c, "--http 0.0.0.0:8765 --no-front"), 0);
    conf_close(c);
    CHECK_EQ(open_with(&c, "--http [::1]:8765"), 0);
    conf_close(c);
}
static void origins_of_pages_are_a_list(void)
{
    struct conf *c;

    CHECK_EQ(open_with(&c, "--http-origin obsidian"), -EINVAL);
    CHECK(strstr(eb.s, "http-origin") && strstr(eb.s, "app://obsidian.md"));
    CHECK_EQ(open_file(&c, "http-origin = app://obsidian.md, moz-extension://*\n", ""), 0);
    CHECK_STR(c->http_origin, "app://obsidian.md, moz-extension://*");
    conf_close(c);
}
static void a_flag_beats_the_environment_beats_the_file_beats_the_default(void)
{
    struct conf *c;

    CHECK_EQ(open_file(&c, "step-tokens = 100\n", ""), 0);
    CHECK_EQ(c->step_tokens, 100);
    conf_close(c);
    set("HEARTH_STEP_TOKENS", "200");
    CHECK_EQ(open_file(&c, "step-tokens = 100\n", ""), 0);
    CHECK_EQ(c->step_tokens, 200);
    conf_close(c);
    set("HEARTH_STEP_TOKENS", "200");
    CHECK_EQ(open_file(&c, "step-tokens = 100\n", "--step-tokens 300"), 0);
    CHECK_EQ(c->step_tokens, 300);
    conf_close(c);
}
static void a_models_section_beats_the_file_and_loses_to_a_flag(void)
{
    static const char text[] =
        "keep-alive = 5m\nthreads = 2\n"
        "[model a]\npath = /m/a.gguf\nkeep-alive = 0\ntemperature = 0.5\n"
        "[model b]\ncontext = 4096\n";
    struct conf *c;

    CHECK_EQ(open_file(&c, text, ""), 0);
    CHECK(c->any.keep_alive_s == 300);
    CHECK(conf_model(c, "a")->keep_alive_s == 0);
    CHECK(conf_model(c, "a")->temperature == 0.5);
    CHECK_STR(conf_model(c, "a")->path, "/m/a.gguf");
    CHECK_EQ(conf_model(c, "a")->threads, 2);
    CHECK(conf_model(c, "b")->keep_alive_s == 300);
    CHECK_EQ(conf_model(c, "b")->context, 4096);
    CHECK(conf_model(c, "b")->path == NULL);
    CHECK(conf_model(c, "other") == &c->any);
    conf_close(c);
    CHECK_EQ(open_file(&c, text, "--keep-alive=-1"), 0);
    CHECK(conf_model(c, "a")->keep_alive_s == -1);
    conf_close(c);
}
static void models_come_from_flags_environment_and_file_in_that_order(void)
{
    struct conf *c;

    set("HEARTH_MODEL", "e=/m/e.gguf");
    CHECK_EQ(
        open_file(&c, "model = /m/f.gguf\nmodel = one=/m/late.gguf\n[model one]\nthreads = 3\n",
                  "--model one=/m/1.gguf --model /m/Two.GGUF"),
        0);
    CHECK_EQ(c->n_models, 4);
    CHECK_STR(c->model[0].name, "one");
    CHECK_STR(c->model[0].path, "/m/1.gguf");
    CHECK_EQ(c->model[0].threads, 3);
    CHECK_STR(c->model[1].name, "Two");
    CHECK_STR(c->model[2].name, "e");
    CHECK_STR(c->model[3].name, "f");
    conf_close(c);
}
static void a_relative_path_starts_where_it_was_written(void)
{
    struct conf *c;
    char want[300], cwd[200];

    CHECK_EQ(open_file(&c, "state = st\n[model m]\npath = sub/m.gguf\n", "--models here/"), 0);
    snprintf(want, sizeof want, "%s/st", dir());
    CHECK_STR(c->state, want);
    snprintf(want, sizeof want, "%s/sub/m.gguf", dir());
    CHECK_STR(c->model[0].path, want);
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(want, sizeof want, "%s/here", cwd);
    CHECK_STR(c->models, want);
    conf_close(c);
}
static void values_out_of_bounds_are_refused_by_name_with_what_was_wanted(void)
{
    static const struct {
        const char *flags, *want;
    } t[] = {
        {"--threads x", "--threads: want a whole number in [0,1024], got \"x\""},
        {"--threads -1", "want a whole number in [0,1024]"},
        {"--threads 1025", "want a whole number in [0,1024]"},
        {"--threads", "--threads: wants a value"},
        {"--host-memory 5x", "--host-memory: want a size"},
        {"--host-memory 1024TiB", "--host-memory: 1048576.0 GiB is more than nine tenths"},
        {"--disk 1025TiB", "--disk: want at most 1024TiB"},
        {"--write-budget 1025TiB", "want at most 1024TiB"},
        {"--page-memory 5TiB", "--page-memory: want a size of 1MiB to 4TiB, or auto"},
        {"--device cpu --page-memory 4TiB", "--page-memory: 4096.0 GiB is more than"},
        {"--page-memory 1023KiB", "want a size of 1MiB to 4TiB, or auto"},
        {"--host-memory 101%", "want a size (8GiB, 512MiB) or a percentage"},
        {"--host-memory 1MiB", "at least 16777216 bytes"},
        {"--disk 0%", "want a size"},
        {"--write-budget 5%", "want a size (50GiB) or none"},
        {"--io mmap", "want one of: auto uring threads, got \"mmap\""},
        {"--device gpu", "want auto, cpu or cuda:N"},
        {"--device cuda:", "want auto, cpu or cuda:N"},
        {"--device cuda:1x", "want auto, cpu or cuda:N"},
        {"--http 8765", "want ADDR:PORT"},
        {"--http 127.0.0.1:99999", "want ADDR:PORT"},
        {"--http :1", "want ADDR:PORT"},
        {"--keep-alive soon", "want a duration"},
        {"--keep-alive 5q", "want a duration"},
        {"--socket-mode 9", "want an octal mode"},
        {"--socket-mode 0400", "want an octal mode"},
        {"--no-front=maybe", "want true or false"},
        {"--page-memory 3", "want a size of 1MiB to 4TiB, or auto"},
        {"--model =x", "want [NAME=]PATH"},
        {"--log-level loud", "want one of: error warn info debug"},
        {"--thread 3", "unknown flag \"thread\"; did you mean \"threads\"?"},
        {"--hostmemory 3", "did you mean \"host-memory\"?"},
        {"--temperature 1", "unknown flag \"temperature\""},
        {"--zzzzzz 1", "unknown flag \"zzzzzz\" (hearthd --help"},
        {"file.gguf", "unexpected argument \"file.gguf\""},
        {"--", "unexpected argument"},
        {"--config /nonexistent/x", "configuration /nonexistent/x: No such file"},
    };
    struct conf *c;

    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        if (open_with(&c, t[i].flags) != -EINVAL && !strstr(eb.s, "No such file"))
            t_fail(__FILE__, __LINE__, "accepted: %s", t[i].flags);
        else if (!strstr(eb.s, t[i].want))
            t_fail(__FILE__, __LINE__, "%s: \"%s\", want \"%s\"", t[i].flags, eb.s, t[i].want);
}
static void a_bad_file_is_refused_with_its_line(void)
{
    static const struct {
        const char *text, *want;
    } t[] = {
        {"\n\nthread = 3\n",
         "hearth.conf:3: unknown key \"thread\"; did you mean \"threads\"?"},
        {"threads\n", ":1: want \"key = value\", got \"threads\""},
        {"= 3\n", ":1: a key is missing"},
        {"[model a\n", ":1: a section wants ']'"},
        {"[]\n", ":1: a section wants a name"},
        {"[modell a]\n", ":1: unknown section [modell a]"},
        {"[model]\n", ":1: unknown section [model]"},
        {"[model a]\n[model a]\n", ":2: section [model a] is there twice"},
        {"[model a]\nstate = /x\n", ":2: \"state\" belongs before the sections"},
        {"temperature = 1\n", ":1: \"temperature\" belongs into a [model NAME] section"},
        {"threads = 1\nthreads = 2\n", ":2: \"threads\" was set already at"},
        {"config = /x\n", "\"config\" cannot be set"},
        {"[model a]\ntop-p = 2\n", ":2: top-p: want a number in [0,1], got \"2\""},
        {"[model a]\ntopp = 1\n", "unknown key \"topp\"; did you mean \"top-p\"?"},
        {"threads = 9999\n", ":1: threads: want a whole number in [0,1024]"},
    };
    struct conf *c;

    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        if (open_file(&c, t[i].text, "") != -EINVAL)
            t_fail(__FILE__, __LINE__, "accepted: %s", t[i].text);
        else if (!strstr(eb.s, t[i].want))
            t_fail(__FILE__, __LINE__, "%s: \"%s\", want \"%s\"", t[i].text, eb.s, t[i].want);
}
static void a_value_hidden_by_a_better_source_is_still_checked(void)
{
    struct conf *c;

    CHECK_EQ(open_file(&c, "threads = many\n", "--threads 2"), -EINVAL);
    set("HEARTH_IO", "mmap");
    CHECK_EQ(open_with(&c, "--io threads"), -EINVAL);
    CHECK(strstr(eb.s, "HEARTH_IO: want one of") != NULL);
}
static void comments_blanks_quotes_and_line_ends_are_understood(void)
{
    struct conf *c;

    CHECK_EQ(open_file(&c,
                       "\xef\xbb\xbf# first\r\n  ; second\r\n\tstate\t=  \"/a b/c\" \r\n"
                       "[hearthd]\r\nno-front = true\r\nhttp = off",
                       ""),
             0);
    CHECK_STR(c->state, "/a b/c");
    CHECK(c->no_front);
    CHECK(!c->http);
    conf_close(c);
}
static void a_file_too_large_is_refused(void)
{
    struct conf *c;
    char *text = malloc((1 << 20) + 10);

    memset(text, '\n', (1 << 20) + 9);
    text[(1 << 20) + 9] = 0;
    CHECK_EQ(open_file(&c, text, ""), -EINVAL);
    CHECK(strstr(eb.s, "the limit is 1048576") != NULL);
    memset(text, 'a', 5000);
    text[5000] = 0;
    CHECK_EQ(open_file(&c, text, ""), -EINVAL);
    CHECK(strstr(eb.s, ":1: a line of 5000 bytes, the limit is 4096") != NULL);
    free(text);
}
static void the_users_file_is_read_when_nobody_names_one(void)
{
    char path[300];
    struct conf *c;
    FILE *f;

    snprintf(path, sizeof path, "%s/.config", dir());
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/.config/hearth", dir());
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/.config/hearth/hearth.conf", dir());
    f = fopen(path, "w");
    fputs("step-goal = 77\n", f);
    fclose(f);
    CHECK_EQ(open_with(&c, ""), 0);
    CHECK_EQ(c->step_goal_ms, 77);
    CHECK_STR(c->file, path);
    conf_close(c);
    unlink(path);
}
static void a_runtime_directory_too_long_for_sockets_is_refused(void)
{
    char flags[200] = "--runtime /";
    struct conf *c;

    memset(flags + 11, 'r', 120);
    flags[131] = 0;
    CHECK_EQ(open_with(&c, flags), -EINVAL);
    CHECK(strstr(eb.s, "at most 107 bytes") != NULL);
    flags[11 + 95] = 0; /* 96 bytes with the slash: exactly what is left */
    CHECK_EQ(open_with(&c, flags), 0);
    CHECK_EQ(strlen(c->core_path), 106);
    conf_close(c);
    flags[11 + 95] = 'r';
    flags[11 + 96] = 0;
    CHECK_EQ(open_with(&c, flags), -EINVAL);
}
static void sizes_and_durations_are_read_as_people_write_them(void)
{
    static const struct {
        const char *s;
        uint64_t want;
    } size[] = {{"0", 0},           {"4096", 4096},       {"1k", 1024},
                {"1KB", 1000},      {"8GiB", 8ull << 30}, {"1.5 GiB", 3ull << 29},
                {"2T", 2ull << 40}, {"0.5MB", 500000}};
    static const char *const not_size[] = {"",  "x",   "-1", "1.2.3",         "1 X",
                                           ".", "1e3", "5%", "99999999999TiB"};
    static const struct {
        const char *s;
        double want;
    } dur[] = {{"-1", -1}, {"0", 0}, {"90", 90}, {"5m", 300}, {"1h30m", 5400}, {"250ms", 0.25}};
    static const char *const not_dur[] = {"", "-2", "m", "5x", "1h-1", "inf", "1e3"};
    uint64_t u;
    double d;

    for (size_t i = 0; i < sizeof size / sizeof *size; i++) {
        CHECK(units_size(size[i].s, &u));
        CHECK_EQ(u, size[i].want);
    }
    for (size_t i = 0; i < sizeof not_size / sizeof *not_size; i++)
        if (units_size(not_size[i], &u))
            t_fail(__FILE__, __LINE__, "a size: %s", not_size[i]);
    for (size_t i = 0; i < sizeof dur / sizeof *dur; i++) {
        CHECK(units_duration(dur[i].s, &d));
        CHECK(d == dur[i].want);
    }
    for (size_t i = 0; i < sizeof not_dur / sizeof *not_dur; i++)
        if (units_duration(not_dur[i], &d))
            t_fail(__FILE__, __LINE__, "a duration: %s", not_dur[i]);
}
static void the_service_managers_words_are_taken_only_when_meant_for_us(void)
{
    struct conf *c;
    char pid[32];

    set("NOTIFY_SOCKET", "/run/n");
    set("WATCHDOG_USEC", "30000000");
    set("LISTEN_FDS", "2");
    set("LISTEN_PID", "1");
    CHECK_EQ(open_with(&c, ""), 0);
    CHECK_STR(c->notify_socket, "/run/n");
    CHECK_EQ(c->watchdog_us, 30000000);
    CHECK_EQ(c->listen_fds, 0);
    conf_close(c);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    set("LISTEN_FDS", "2");
    set("LISTEN_PID", pid);
    set("WATCHDOG_USEC", "30000000");
    set("WATCHDOG_PID", "1");
    CHECK_EQ(open_with(&c, ""), 0);
    CHECK_EQ(c->listen_fds, 2);
    CHECK_EQ(c->watchdog_us, 0);
    conf_close(c);
}
static void what_to_do_instead_of_running_is_said(void)
{
    struct conf *c;

    CHECK_EQ(open_with(&c, "--version --nonsense"), 0);
    CHECK_EQ(c->does, CONF_VERSION);
    conf_close(c);
    CHECK_EQ(open_with(&c, "-h"), 0);
    CHECK_EQ(c->does, CONF_HELP);
    conf_close(c);
    CHECK_EQ(open_with(&c, "--check-config --threads 1"), 0);
    CHECK_EQ(c->does, CONF_CHECK);
    conf_close(c);
    CHECK_EQ(open_with(&c, "--check-config --threads one"), -EINVAL);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
/* A key of the file that is unknown is an error; the environment is not ours alone. */
static void a_misspelt_variable_is_said_and_those_of_others_are_not(void)
{
    char *const e[] = {(char[]){"HEARTH_BOGUS=1"},
                       (char[]){"HEARTH_HOST_MEMORY=1GiB"},
                       (char[]){"HEARTH_SOCKET=unix:///x"},
                       (char[]){"HEARTH_TEST_MODEL=m.gguf"},
                       (char[]){"HEARTH_STAT=/x"},
                       (char[]){"HEARTH_TOP_K=1"},
                       (char[]){"HEARTH_EMPTY="},
                       (char[]){"HEARTHSTONE=1"},
                       NULL};
    static const char *const want[] = {
        "environment: HEARTH_BOGUS is no setting and does nothing (hearthd --help lists them "
        "all)",
        "environment: HEARTH_STAT is no setting and does nothing; did you mean HEARTH_STATE?",
        "environment: HEARTH_TOP_K is no setting and does nothing"};
    size_t at = 0;

    for (int i = 0; i < 3; i++) {
        CHECK(conf_env_odd(e, &at, &eb));
        if (strncmp(eb.s, want[i], strlen(want[i])) != 0)
            t_fail(__FILE__, __LINE__, "got \"%s\", want \"%s\"", eb.s, want[i]);
    }
    CHECK(!conf_env_odd(e, &at, &eb));
}

T_MAIN(CASE(a_misspelt_variable_is_said_and_those_of_others_are_not),
       CASE(defaults_are_those_of_the_documents),
       CASE(the_system_service_has_places_of_its_own),
       CASE(directories_made_by_the_manager_are_used),
       CASE(a_flag_beats_the_environment_beats_the_file_beats_the_default),
       CASE(http_for_other_machines_wants_keys), CASE(origins_of_pages_are_a_list),
       CASE(a_models_section_beats_the_file_and_loses_to_a_flag),
       CASE(models_come_from_flags_environment_and_file_in_that_order),
       CASE(a_relative_path_starts_where_it_was_written),
       CASE(values_out_of_bounds_are_refused_by_name_with_what_was_wanted),
       CASE(a_bad_file_is_refused_with_its_line),
       CASE(a_value_hidden_by_a_better_source_is_still_checked),
       CASE(comments_blanks_quotes_and_line_ends_are_understood),
       CASE(a_file_too_large_is_refused), CASE(the_users_file_is_read_when_nobody_names_one),
       CASE(a_runtime_directory_too_long_for_sockets_is_refused),
       CASE(sizes_and_durations_are_read_as_people_write_them),
       CASE(the_service_managers_words_are_taken_only_when_meant_for_us),
       CASE(what_to_do_instead_of_running_is_said))
