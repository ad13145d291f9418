/* test_doctor.c - what `hearth doctor` says of a state directory, and the command that mends it.
 *
 * The doctor runs in a child, as another user than root: who may do anything finds nothing. */
#include "base/shell.h"
#include "client/cli.h"
#include "tests/t.h"
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { USER = 65534, OTHER = 12345 };
static char base[300], state[400], file[600];

/* Its standard output, with these words more; its exit code.  Unprivileged when we are root. */
static int doctor(const char *more, char *ret, size_t cap)
{
    const char *const argv[] = {"hearth", "--socket", "unix:///nowhere/core.sock",
                                "doctor", more,       NULL};
    size_t n = 0;
    ssize_t k;
    int p[2], st;

    CHECK_EQ(pipe(p), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(p[1], STDOUT_FILENO);
        if (geteuid() == 0 &&
            (setgroups(0, NULL) || setresgid(USER, USER, USER) || setresuid(USER, USER, USER)))
            _exit(9);
        (void)setenv("XDG_STATE_HOME", base, 1);
        int code = cli_main(more ? 5 : 4, (char *const *)(uintptr_t)argv, NULL, true);
        (void)fflush(NULL);
        _exit(code);
    }
    close(p[1]);
    while (n < cap - 1 && (k = read(p[0], ret + n, cap - 1 - n)) > 0)
        n += (size_t)k;
    ret[n] = 0;
    close(p[0]);
    CHECK_EQ(waitpid(pid, &st, 0), pid);
    return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static void make_in(const char *name)
{
    char log[500];

    snprintf(base, sizeof base, "%.200s/%s", t_tmpdir(), name);
    snprintf(state, sizeof state, "%s/hearth", base);
    snprintf(log, sizeof log, "%s/log", state);
    snprintf(file, sizeof file, "%s/seg-0001", log);
    for (char *p = base + 1; (p = strchr(p, '/')) != NULL; p++) { /* he must get there */
        struct stat st;
        *p = 0;
        if (stat(base, &st) == 0 && !(st.st_mode & 0001)) /* as little as will do */
            (void)chmod(base, (st.st_mode & 07777) | 0001);
        *p = '/';
    }
    (void)mkdir(base, 0700);
    (void)mkdir(state, 0700);
    (void)mkdir(log, 0700);
    int fd = open(file, O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0);
    close(fd);
    const char *all[] = {base, state, log, file};
    for (int i = 0; geteuid() == 0 && i < 4; i++)
        CHECK_EQ(chown(all[i], USER, USER), 0);
}

static void make(void)
{
    make_in("x");
}

/* One check that fails, and the remedy that is said for it, word for word. */
static void says(const char *words, const char *remedy)
{
    char out[16384];

    CHECK_EQ(doctor("--json", out, sizeof out), CLI_FAILED);
    cJSON *o = cJSON_Parse(out);
    const cJSON *c, *at = NULL;
    cJSON_ArrayForEach(c, j_get(o, "checks"))
    {
        if (strcmp(j_str(c, "check", ""), "state dir") == 0)
            at = c;
    }
    CHECK_STR(j_str(at, "result", "none"), "fail");
    CHECK(strstr(j_str(at, "message", ""), words) != NULL);
    CHECK_STR(j_str(at, "remedy", ""), remedy);
    cJSON_Delete(o);
}

static void a_state_directory_that_cannot_be_used_fails_with_the_command_that_mends_it(void)
{
    char out[16384], remedy[900], line[600];

    make();
    snprintf(line, sizeof line, "ok    state dir    %s", state);
    (void)doctor(NULL, out, sizeof out);
    CHECK(strstr(out, line) != NULL);

    CHECK_EQ(chmod(state, 0), 0);
    snprintf(remedy, sizeof remedy, "chmod u+rwx '%s'", state);
    says("may not read and write it", remedy);
    CHECK_EQ(chmod(state, 0700), 0);

    CHECK_EQ(chmod(base, 0600), 0);
    snprintf(remedy, sizeof remedy, "chmod u+x '%s'", base);
    says("may not read and write it", remedy);
    CHECK_EQ(chmod(base, 0700), 0);

    CHECK_EQ(chmod(file, 0), 0);
    snprintf(remedy, sizeof remedy, "chmod u+rw '%s'", file);
    says(file, remedy);
    CHECK_EQ(chmod(file, 0600), 0);

    /* Of several one command mends all. */
    char other[520], log[500];
    snprintf(log, sizeof log, "%s/log", state);
    snprintf(other, sizeof other, "%s/seg-0002", log);
    int fd = open(other, O_WRONLY | O_CREAT, 0600);
    CHECK(fd >= 0 && (geteuid() != 0 || fchown(fd, USER, USER) == 0));
    CHECK(fchmod(fd, 0) == 0 && chmod(file, 0) == 0);
    snprintf(remedy, sizeof remedy, "chmod -R u+rwX '%s'", state);
    says("and 1 more", remedy);
    if (geteuid() == 0) {
        CHECK(fchmod(fd, 0600) == 0 && fchown(fd, OTHER, OTHER) == 0);
        snprintf(remedy, sizeof remedy, "sudo chown -R %d '%s' && chmod -R u+rwX '%s'", USER,
                 state, state);
        says("and 1 more", remedy);
        CHECK(chmod(file, 0600) == 0 && chown(file, OTHER, OTHER) == 0);
        snprintf(remedy, sizeof remedy, "sudo chown -R %d '%s'", USER, state);
        says("and 1 more", remedy);
        CHECK_EQ(chown(file, USER, USER), 0);
    }
    close(fd);
    CHECK(unlink(other) == 0 && chmod(file, 0600) == 0);

    CHECK_EQ(chmod(state, 0722), 0);
    snprintf(remedy, sizeof remedy, "chmod go-w '%s'", state);
    says("may be written by others (mode 722)", remedy);
    CHECK_EQ(chmod(state, 0700), 0);
}

static void one_that_belongs_to_another_says_whose_it_is(void)
{
    char remedy[600];

    if (geteuid() != 0)
        t_skip("wants root, to give a directory to another user");
    make();
    CHECK_EQ(chown(state, OTHER, OTHER), 0);
    snprintf(remedy, sizeof remedy, "sudo chown -R %d '%s'", USER, state);
    says("may not read and write it", remedy);
    CHECK_EQ(chmod(state, 0755), 0); /* he may look, that is not enough */
    says("may not read and write it", remedy);
}

static void what_is_to_be_typed_is_quoted(void)
{
    char word[SHELL_WORD_BYTES(sizeof state)], remedy[sizeof word + 40];

    make_in("it's");
    CHECK(shell_word(word, sizeof word, state) && strstr(word, "/it'\\''s/hearth'"));
    CHECK_EQ(chmod(state, 0722), 0);
    snprintf(remedy, sizeof remedy, "chmod go-w %s", word);
    says("may be written by others", remedy);
    CHECK_EQ(chmod(state, 0), 0);
    snprintf(remedy, sizeof remedy, "chmod u+rwx %s", word);
    says("may not read and write it", remedy);
    CHECK_EQ(chmod(state, 0700), 0);
}

T_MAIN({"what_is_to_be_typed_is_quoted", what_is_to_be_typed_is_quoted},
       {"a_state_directory_that_cannot_be_used_fails_with_the_command_that_mends_it",
        a_state_directory_that_cannot_be_used_fails_with_the_command_that_mends_it},
       {"one_that_belongs_to_another_says_whose_it_is",
        one_that_belongs_to_another_says_whose_it_is})
