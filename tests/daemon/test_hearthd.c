/* test_hearthd.c - the real program: starting, refusing to, answering, stopping, dying. */
#include "base/clock.h"
#include "daemon/ident.h"
#include "tests/daemon/wire.h"
#include "tests/t.h"
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char base[128], core[200], log_file[200];
static pid_t pid;
static int next_id = 1;

static const char *dir(void)
{
    static const char *p;

    return p ? p : (p = t_tmpdir());
}
/* Each case has directories of its own. */
static void fresh(void)
{
    static int n;

    snprintf(base, sizeof base, "%s/%d", dir(), ++n);
    mkdir(base, 0700);
    snprintf(core, sizeof core, "%s/run/core.sock", base);
    snprintf(log_file, sizeof log_file, "%s/log", base);
}
/* flags: split at blanks; @ in them is base. fd3: handed over as the first descriptor. */
static pid_t spawn_with(const char *flags, int fd3, const char *notify)
{
    char program[512], buf[2048], *argv[64];
    int argc = 0;
    size_t n = 0;

    snprintf(program, sizeof program, "%s/hearthd", t_bin());
    for (const char *f = flags; *f && n < sizeof buf - 200; f++)
        if (*f == '@') {
            n += (size_t)snprintf(buf + n, sizeof buf - n, "%s", base);
        } else {
            buf[n++] = *f;
        }
    buf[n] = 0;
    argv[argc++] = program;
    for (char *p = strtok(buf, " "); p; p = strtok(NULL, " "))
        argv[argc++] = p;
    argv[argc] = NULL;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char me[32];
        int out = open(log_file, O_WRONLY | O_CREAT | O_APPEND, 0600);

        dup2(out, 1);
        dup2(out, 2);
        unsetenv("HEARTH_CONFIG");
        setenv("HOME", base, 1);
        if (notify)
            setenv("NOTIFY_SOCKET", notify, 1);
        if (fd3 >= 0) {
            dup2(fd3, 3);
            snprintf(me, sizeof me, "%d", (int)getpid());
            setenv("LISTEN_PID", me, 1);
            setenv("LISTEN_FDS", "1", 1);
        }
        execv(program, argv);
        _exit(127);
    }
    return child;
}
#define USUAL                                                                                  \
    "--state @/state --runtime @/run --models @/models --no-front --disk 1GiB "                \
    "--host-memory 64MiB "
static void start(const char *more)
{
    char flags[1024];

    snprintf(flags, sizeof flags, USUAL "%s", more);
    pid = spawn_with(flags, -1, NULL);
}
static int wait_exit(pid_t p) /* exit code, or 1000 + signal, or -1 when it takes too long */
{
    uint64_t until = now_ns() + 20000000000u * T_SLOWER;
    int st;

    while (waitpid(p, &st, WNOHANG) != p) {
        if (now_ns() > until) {
            kill(p, SIGKILL);
            waitpid(p, &st, 0);
            return -1;
        }
        usleep(2000);
    }
    return WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st);
}
static const char *log_text(void)
{
    static char text[65536];
    int fd = open(log_file, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);

    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    return text;
}
static int up(void) /* a connection, as soon as it answers */
{
    uint64_t until = now_ns() + 10000000000u * T_SLOWER;
    int fd, st;

    while ((fd = wire_connect(core)) < 0 && now_ns() < until) {
        if (waitpid(pid, &st, WNOHANG) == pid)
            break;
        usleep(2000);
    }
    if (fd < 0)
        t_fail(__FILE__, __LINE__, "it does not come up: %s", log_text());
    return fd;
}
static struct wire_reply ask(int fd, uint8_t type, const char *json, const void *tail, size_t n)
{
    struct wire_reply r = {0};

    if (!wire_send(fd, type, (uint64_t)next_id, json, tail, n) || !wire_recv(fd, &r))
        t_fail(__FILE__, __LINE__, "no reply to type %u: %s", type, log_text());
    else
        CHECK_EQ(r.f.id, next_id);
    next_id++;
    return r;
}
static void stop(void)
{
    kill(pid, SIGTERM);
    int code = wait_exit(pid);
    if (code != 0)
        t_fail(__FILE__, __LINE__, "it ended with %d: %s", code, log_text());
}
/* Runs to its end: exit code, and the log holds `want`. */
static void refuses(const char *flags, int code, const char *want)
{
    int got = wait_exit(spawn_with(flags, -1, NULL));

    if (got != code || !strstr(log_text(), want))
        t_fail(__FILE__, __LINE__, "%s: exit %d, want %d with \"%s\", said: %s", flags, got,
               code, want, log_text());
    unlink(log_file);
}

/* --- starting and stopping ------------------------------------------------------------------- */
static void wrong_usage_ends_with_2_and_a_sentence(void)
{
    fresh();
    refuses("--thread 2", 2, "did you mean \"threads\"?");
    refuses("--threads x", 2, "--threads: want a whole number");
    refuses("--config @/none.conf", 2, "none.conf: No such file");
    refuses("serve", 2, "unexpected argument");
}
static void version_help_and_check_config_end_with_0(void)
{
    fresh();
    refuses("--version", 0, "hearthd 0.1.0");
    refuses("--help", 0, "--host-memory");
    refuses("--check-config --state @/x", 0, "/x\n");
    refuses("--check-config --step-goal 70", 0, "step-goal = 70\n");
    refuses("--check-config --host-memory 2GiB", 0, "host-memory = 2GiB\n");
    setenv("HEARTH_STEP_GAOL", "70", 1);
    refuses("--check-config", 0,
            "hearthd: warning: environment: HEARTH_STEP_GAOL is no setting");
    unsetenv("HEARTH_STEP_GAOL");
    refuses("--check-config --model a=@/none.gguf", 2, "none.gguf: No such file");
    CHECK(access(core, F_OK) < 0);
}
static void without_models_it_serves_and_stops_cleanly(void)
{
    char dir[200];

    fresh();
    setenv("HEARTH_STEP_GAOL", "70", 1);
    start("");
    unsetenv("HEARTH_STEP_GAOL");
    int fd = up();
    CHECK(strstr(log_text(), "HEARTH_STEP_GAOL is no setting and does nothing; did you mean "
                             "HEARTH_STEP_GOAL?"));
    struct wire_reply r = ask(fd, HRT_HELLO, "{\"min\":1,\"max\":1,\"client\":\"t\"}", NULL, 0);
    CHECK_EQ(r.f.status, 0);
    CHECK_EQ((int)wire_num(&r, "version"), 1);
    CHECK_EQ((int)wire_num(&r, "pid"), pid);
    CHECK_EQ((uid_t)wire_num(&r, "uid"), getuid());
    wire_reply_fini(&r);
    r = ask(fd, HRT_STATUS, "{}", NULL, 0);
    CHECK_STR(wire_str(&r, "status"), "ok");
    CHECK(cJSON_GetObjectItem(r.json, "tiers") && cJSON_GetObjectItem(r.json, "warnings"));
    wire_reply_fini(&r);
    r = ask(fd, HRT_METRICS, "{}", NULL, 0);
    CHECK(r.f.tail_len > 500 && memcmp(r.tail, "# HELP hearth_", 14) == 0);
    wire_reply_fini(&r);
    r = ask(fd, HRT_MODEL_LIST, "{}", NULL, 0);
    CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(r.json, "models")), 0);
    snprintf(dir, sizeof dir, "%s/models", base); /* where one would go */
    CHECK_STR(wire_str(&r, "directory"), dir);
    wire_reply_fini(&r);
    r = ask(fd, HRT_TOKENIZE, "{}", "x", 1);
    CHECK_EQ(r.f.status, HRT_NOT_FOUND);
    CHECK_STR(wire_str(&r, "slug"), "model_not_found");
    CHECK(strstr(wire_str(&r, "message"), dir) &&
          strstr(wire_str(&r, "message"), "make model"));
    wire_reply_fini(&r);
    r = ask(fd, HRT_WHY, "{}", NULL, 0);
    CHECK_EQ(r.f.status, HRT_UNIMPLEMENTED);
    CHECK_STR(wire_str(&r, "slug"), "unimplemented");
    wire_reply_fini(&r);
    r = ask(fd, HRT_HELLO, "{\"min\":2,\"max\":3}", NULL, 0);
    CHECK_EQ(r.f.status, HRT_UNIMPLEMENTED);
    wire_reply_fini(&r);
    close(fd);
    stop();
    CHECK(access(core, F_OK) < 0);
}
static void the_socket_is_its_owners_alone(void)
{
    struct stat st;

    fresh();
    start("");
    close(up());
    CHECK_EQ(stat(core, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0600);
    char run[200];
    snprintf(run, sizeof run, "%s/run", base);
    CHECK_EQ(stat(run, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0700);
    stop();
}
static void two_on_one_runtime_directory_or_one_store_name_the_first(void)
{
    char want[64];

    fresh();
    start("");
    close(up());
    snprintf(want, sizeof want, "(pid %d)", (int)pid);
    char first[200];
    memcpy(first, log_file, sizeof first);
    snprintf(log_file, sizeof log_file, "%s/log2", base);
    refuses("--state @/state2 --runtime @/run --no-front", 1, want);
    snprintf(want, sizeof want, "%d", (int)pid);
    refuses("--state @/state --runtime @/run2 --no-front", 1, want);
    memcpy(log_file, first, sizeof first);
    int fd = up(); /* and the first one is unharmed */
    struct wire_reply r = ask(fd, HRT_PING, "{}", NULL, 0);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    close(fd);
    stop();
}
static void after_kill_9_it_comes_up_again_over_the_dead_socket(void)
{
    fresh();
    for (int i = 0; i < 5; i++) {
        start("");
        close(up());
        kill(pid, SIGKILL);
        CHECK_EQ(wait_exit(pid), 1000 + SIGKILL);
        CHECK_EQ(access(core, F_OK), 0);
    }
    uint64_t from = now_ns();
    start("");
    close(up());
    CHECK(now_ns() - from < 5000000000u * T_SLOWER);
    stop();
}
static void a_file_in_the_sockets_place_is_kept_and_named(void)
{
    char run[200];

    fresh();
    snprintf(run, sizeof run, "%s/run", base);
    mkdir(run, 0700);
    fclose(fopen(core, "w"));
    refuses(USUAL, 1, "is there and is not a socket");
    CHECK_EQ(access(core, F_OK), 0);
}
static void directories_that_cannot_be_used_are_named(void)
{
    char file[200];

    fresh();
    snprintf(file, sizeof file, "%s/file", base);
    fclose(fopen(file, "w"));
    refuses("--state @/file/state --runtime @/run --no-front", 1, "/file/state");
    refuses("--state @/state --runtime @/file/run --no-front", 1, "/file/run");
}
static void a_stop_during_start_up_and_a_second_signal_both_end_it(void)
{
    fresh();
    for (int i = 0; i < 10; i++) {
        start("");
        usleep((useconds_t)(i * 4000));
        kill(pid, SIGTERM);
        kill(pid, SIGTERM);
        int code = wait_exit(pid);
        CHECK(code == 0 || code == 1000 + SIGTERM);
    }
    start("");
    close(up());
    stop();
}
/* More of them would be guesses at another's number; but that is for good, and not for a moment. */
static void a_key_too_many_is_told_the_remedy_and_not_to_wait(void)
{
    struct wire_reply r;
    char json[64];

    fresh();
    start("");
    int fd = up();
    for (int i = 0; i <= IDENT_KEYS_MAX; i++) {
        snprintf(json, sizeof json, "{\"as\":\"%032x\"}", i);
        r = ask(fd, HRT_PING, json, NULL, 0);
        CHECK_EQ(r.f.status, i < IDENT_KEYS_MAX ? HRT_OK : HRT_PERMISSION_DENIED);
        if (i == IDENT_KEYS_MAX) {
            CHECK_STR(wire_str(&r, "slug"), "permission_denied");
            CHECK(strstr(wire_str(&r, "message"), "restart hearthd"));
            CHECK(!cJSON_HasObjectItem(r.json, "retry_after_ms"));
        }
        wire_reply_fini(&r);
    }
    r = ask(fd, HRT_PING, "{\"as\":\"00000000000000000000000000000007\"}", NULL, 0);
    CHECK_EQ(r.f.status, HRT_OK); /* those it knows go on */
    wire_reply_fini(&r);
    close(fd);
    stop();
}
static void hup_and_usr1_leave_it_running(void)
{
    fresh();
    start("");
    int fd = up();
    kill(pid, SIGHUP);
    kill(pid, SIGUSR1);
    struct wire_reply r = ask(fd, HRT_PING, "{}", NULL, 0);
    wire_reply_fini(&r);
    usleep(50000);
    CHECK(strstr(log_text(), "SIGHUP") != NULL);
    CHECK(strstr(log_text(), "status 0: {\"status\":") != NULL);
    close(fd);
    stop();
}
static void ready_is_said_when_it_answers_and_stopping_when_told(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char path[200], b[256];
    int m = socket(AF_UNIX, SOCK_DGRAM, 0);
    bool ready = false, stopping = false;

    fresh();
    snprintf(path, sizeof path, "%s/n", base);
    snprintf(a.sun_path, sizeof a.sun_path, "%.100s", path);
    CHECK_EQ(bind(m, (struct sockaddr *)&a, sizeof a), 0);
    struct timeval tv = {.tv_sec = 10};
    setsockopt(m, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    pid = spawn_with(USUAL, -1, path);
    ssize_t n;
    while (!ready && (n = recv(m, b, sizeof b - 1, 0)) > 0) {
        b[n] = 0;
        ready = strstr(b, "READY=1") != NULL;
    }
    CHECK(ready);
    int fd = wire_connect(core); /* at once, without waiting */
    CHECK(fd >= 0);
    struct wire_reply r = ask(fd, HRT_PING, "{}", NULL, 0);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    close(fd);
    kill(pid, SIGTERM);
    while (!stopping && (n = recv(m, b, sizeof b - 1, 0)) > 0) {
        b[n] = 0;
        stopping = strstr(b, "STOPPING=1") != NULL;
    }
    CHECK(stopping);
    CHECK_EQ(wait_exit(pid), 0);
    close(m);
}
static void a_socket_of_the_service_manager_is_taken_and_left_in_place(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int l = socket(AF_UNIX, SOCK_STREAM, 0);

    fresh();
    char run[200];
    snprintf(run, sizeof run, "%s/run", base);
    mkdir(run, 0700);
    snprintf(a.sun_path, sizeof a.sun_path, "%.100s", core);
    CHECK_EQ(bind(l, (struct sockaddr *)&a, sizeof a), 0);
    CHECK_EQ(listen(l, 8), 0);
    int fd = wire_connect(core); /* before anybody accepts */
    pid = spawn_with(USUAL, l, NULL);
    struct wire_reply r = ask(fd, HRT_PING, "{}", NULL, 0);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    close(fd);
    stop();
    CHECK_EQ(access(core, F_OK), 0);
    close(l);
}
static void noise_on_the_socket_does_not_reach_anybody(void)
{
    uint8_t b[300];

    srand((unsigned)t_seed());
    fresh();
    start("");
    int good = up();
    for (int i = 0; i < 2000; i++) {
        int bad = wire_connect(core);

        for (size_t k = 0; k < sizeof b; k++)
            b[k] = (uint8_t)rand();
        if (rand() % 2) { /* a good header, noise behind it */
            struct hrt_frame f = {.type = (uint8_t)(rand() % 70),
                                  .json_len = (uint32_t)(rand() % 200),
                                  .tail_len = (uint32_t)(rand() % 200),
                                  .id = 1};
            hrt_pack(b, &f);
        }
        (void)!send(bad, b, (size_t)rand() % sizeof b, MSG_NOSIGNAL);
        close(bad);
        if (i % 50 == 0) {
            struct wire_reply r = ask(good, HRT_STATUS, "{}", NULL, 0);
            CHECK_EQ(r.f.status, 0);
            wire_reply_fini(&r);
        }
    }
    close(good);
    stop();
}
static void a_disk_that_is_full_at_start_is_said(void)
{
    char small[200], fill[256];

    fresh();
    snprintf(small, sizeof small, "%s/small", base);
    mkdir(small, 0700);
    if (mount("none", small, "tmpfs", 0, "size=256k") < 0)
        t_skip("wants the right to mount a tmpfs");
    snprintf(fill, sizeof fill, "%s/fill", small);
    int fd = open(fill, O_CREAT | O_WRONLY, 0600);
    char zero[4096] = {0};
    while (write(fd, zero, sizeof zero) == sizeof zero)
        ;
    close(fd);
    pid = spawn_with("--state @/small/state --runtime @/run --models @/m --no-front", -1, NULL);
    uint64_t until = now_ns() + 5000000000u * T_SLOWER;
    int st, s = -1;
    bool ended = false;
    while (now_ns() < until && !(ended = waitpid(pid, &st, WNOHANG) == pid) &&
           (s = wire_connect(core)) < 0)
        usleep(5000);
    /* Either way is fine: up and saying so in status, or not up and saying so. */
    if (ended) {
        CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 1);
        if (!strstr(log_text(), "space"))
            t_fail(__FILE__, __LINE__, "said: %s", log_text());
    } else {
        struct wire_reply r = ask(s, HRT_STATUS, "{}", NULL, 0);
        CHECK(cJSON_GetArraySize(cJSON_GetObjectItem(r.json, "warnings")) > 0);
        wire_reply_fini(&r);
        close(s);
        stop();
    }
    umount2(small, MNT_DETACH);
}

/* --- with a model --------------------------------------------------------------------------------- */
static struct wire_reply model_show(int fd)
{
    return ask(fd, HRT_MODEL_SHOW, "{\"model\":\"m\"}", NULL, 0);
}
static bool model_is(int fd, const char *state, bool keyed)
{
    uint64_t until = now_ns() + 60000000000u * T_SLOWER;
    bool ok = false;

    while (!ok && now_ns() < until) {
        struct wire_reply r = model_show(fd);
        ok = strcmp(wire_str(&r, "state"), state) == 0 &&
             (!keyed || wire_str(&r, "weights_id")[0]);
        wire_reply_fini(&r);
        if (!ok)
            usleep(10000);
    }
    return ok;
}
static void text_comes_back_from_its_tokens_and_is_counted(void)
{
    static const char text[] =
        "Hearth keeps models warm: na\xc3\xafve \xf0\x9f\x94\xa5 <|im_end|>\n";
    char more[512];
    const char *m = t_model();

    fresh();
    snprintf(more, sizeof more, "--model m=%s", m);
    start(more);
    int fd = up();
    /* Asked at once: the call waits for the model. */
    struct wire_reply r = ask(fd, HRT_TOKENIZE, "{\"model\":\"m\"}", text, sizeof text - 1);
    CHECK_EQ(r.f.status, 0);
    CHECK_EQ(r.f.tail_len, 4 * (int)wire_num(&r, "count"));
    struct wire_reply back = ask(fd, HRT_DETOKENIZE, "{}", r.tail, r.f.tail_len);
    CHECK_EQ(back.f.tail_len, sizeof text - 1);
    CHECK(back.tail && memcmp(back.tail, text, sizeof text - 1) == 0);
    wire_reply_fini(&back);
    wire_reply_fini(&r);
    static const int32_t bad[] = {1, 2, 1 << 30};
    r = ask(fd, HRT_DETOKENIZE, "{}", bad, sizeof bad);
    CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
    CHECK(strstr(wire_str(&r, "message"), "tokens[2]: want an id below ") != NULL);
    wire_reply_fini(&r);
    r = ask(fd, HRT_DETOKENIZE, "{}", "abc", 3);
    CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
    wire_reply_fini(&r);
    r = ask(fd, HRT_COUNT, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", NULL, 0);
    CHECK_EQ(r.f.status, 0);
    double plain = wire_num(&r, "count");
    CHECK(plain > 3 && wire_num(&r, "context") > plain);
    wire_reply_fini(&r);
    r = ask(fd, HRT_COUNT,
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}"
            "]}]}",
            NULL, 0);
    CHECK(wire_num(&r, "count") == plain);
    wire_reply_fini(&r);
    r = ask(fd, HRT_COUNT, "{\"prompt\":\"hi\"}", NULL, 0);
    CHECK(wire_num(&r, "count") == plain);
    wire_reply_fini(&r);
    r = ask(fd, HRT_COUNT, "{}", NULL, 0);
    CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
    wire_reply_fini(&r);
    r = ask(fd, HRT_COUNT,
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]}", NULL, 0);
    CHECK_EQ(r.f.status, HRT_INVALID_ARGUMENT);
    CHECK_STR(wire_str(&r, "slug"), "unsupported_field");
    wire_reply_fini(&r);
    close(fd);
    stop();
}
static void the_weights_are_hashed_once_and_remembered(void)
{
    char more[512], id[64] = "";
    const char *m = t_model();

    fresh();
    snprintf(more, sizeof more, "--model m=%s", m);
    start(more);
    int fd = up();
    CHECK(model_is(fd, "loaded", true));
    struct wire_reply r = model_show(fd);
    snprintf(id, sizeof id, "%s", wire_str(&r, "weights_id"));
    CHECK_EQ(strlen(id), 32);
    CHECK_EQ(strlen(wire_str(&r, "fingerprint")), 64);
    wire_reply_fini(&r);
    close(fd);
    stop();
    unlink(log_file);
    start(more);
    fd = up();
    CHECK(model_is(fd, "loaded", true));
    r = model_show(fd);
    CHECK_STR(wire_str(&r, "weights_id"), id);
    double token = wire_num(&r, "bytes_per_token");
    wire_reply_fini(&r);
    CHECK(!strstr(log_text(), "hashing"));
    r = ask(fd, HRT_MODEL_UNLOAD, "{\"model\":\"m\"}", NULL, 0);
    wire_reply_fini(&r);
    CHECK(model_is(fd, "available", false));
    r = model_show(fd); /* what a session will take can be planned */
    CHECK(token > 0 && wire_num(&r, "bytes_per_token") == token);
    wire_reply_fini(&r);
    close(fd);
    stop();
}
static void it_is_unloaded_when_told_when_idle_and_loaded_again_when_wanted(void)
{
    char more[512];
    const char *m = t_model();

    fresh();
    snprintf(more, sizeof more, "--model m=%s --keep-alive 300ms", m);
    start(more);
    int fd = up();
    CHECK(model_is(fd, "loaded", false));
    CHECK(model_is(fd, "available", false)); /* by itself */
    for (int i = 0; i < 3; i++) {
        struct wire_reply r = ask(fd, HRT_TOKENIZE, "{\"model\":\"m\"}", "again", 5);
        CHECK_EQ(r.f.status, 0);
        wire_reply_fini(&r);
        r = ask(fd, HRT_MODEL_UNLOAD,
                "{\"id\":\"00112233445566778899aabbccddeeff\",\"model\":\"m\"}", NULL, 0);
        CHECK_EQ(r.f.status, 0);
        CHECK_STR(wire_str(&r, "state"), "unloading"); /* not done when it is said */
        wire_reply_fini(&r);
        /* Wanted while it goes: it comes back. */
    }
    close(fd);
    stop();
}
static void a_damaged_or_cut_model_says_why_and_leaves_the_daemon_up(void)
{
    char path[200], flags[600], buf[65536];
    const char *m = t_model();

    fresh();
    snprintf(path, sizeof path, "%s/models", base);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/models/cut.gguf", base);
    FILE *in = fopen(m, "r"), *out = fopen(path, "w");
    fwrite(buf, 1, fread(buf, 1, sizeof buf, in), out);
    fclose(in);
    fclose(out);
    snprintf(path, sizeof path, "%s/models/noise.gguf", base);
    out = fopen(path, "w");
    fputs("this is no model", out);
    fclose(out);
    snprintf(flags, sizeof flags, "--model gone=%s/nothing.gguf", base);
    start(flags);
    int fd = up();
    const char *const name[] = {"cut", "noise", "gone"};
    for (int i = 0; i < 3; i++) {
        char json[100];
        snprintf(json, sizeof json, "{\"model\":\"%s\"}", name[i]);
        struct wire_reply r = ask(fd, HRT_TOKENIZE, json, "x", 1);
        CHECK_EQ(r.f.status, HRT_FAILED_PRECONDITION);
        CHECK_STR(wire_str(&r, "slug"), "model_load_failed");
        CHECK(strlen(wire_str(&r, "message")) > 20);
        wire_reply_fini(&r);
        r = ask(fd, HRT_MODEL_SHOW, json, NULL, 0);
        CHECK_STR(wire_str(&r, "state"), "failed");
        CHECK(wire_str(&r, "error")[0]);
        wire_reply_fini(&r);
    }
    struct wire_reply r = ask(fd, HRT_MODEL_SHOW, "{\"model\":\"noise\"}", NULL, 0);
    CHECK(strstr(wire_str(&r, "error"), "not a GGUF file (it begins with \"this\"") != NULL);
    wire_reply_fini(&r);
    r = ask(fd, HRT_STATUS, "{}", NULL, 0);
    CHECK_EQ(r.f.status, 0);
    CHECK_STR(wire_str(&r, "status"), "degraded");
    const cJSON *w = cJSON_GetObjectItem(r.json, "warnings");
    const char *words = cJSON_GetStringValue(cJSON_GetArrayItem(w, 0));
    CHECK(words && strstr(words, "nothing.gguf") != NULL);
    wire_reply_fini(&r);
    close(fd);
    stop();
}
/* The only one, so the default, found in the directory and named by nobody. */
static void a_default_that_fails_degrades_and_its_new_file_is_tried_at_once(void)
{
    const char *m = t_model(); /* or it is skipped, before there is a daemon */
    char path[200], made[220];

    fresh();
    snprintf(path, sizeof path, "%s/models", base);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/models/mended.gguf", base);
    FILE *out = fopen(path, "w");
    fputs("this is no model", out);
    fclose(out);
    start("");
    int fd = up();
    struct wire_reply r = ask(fd, HRT_STATUS, "{}", NULL, 0);
    CHECK_STR(wire_str(&r, "status"), "ok"); /* nobody has tried it */
    wire_reply_fini(&r);
    for (int i = 0; i < 2; i++) { /* the second time out of its memory */
        r = ask(fd, HRT_TOKENIZE, "{}", "x", 1);
        CHECK_EQ(r.f.status, HRT_FAILED_PRECONDITION);
        wire_reply_fini(&r);
    }
    const char *once = strstr(log_text(), "mended: loading ");
    CHECK(once && !strstr(once + 1, "mended: loading "));
    r = ask(fd, HRT_STATUS, "{}", NULL, 0);
    CHECK_STR(wire_str(&r, "status"), "degraded");
    const char *words =
        cJSON_GetStringValue(cJSON_GetArrayItem(cJSON_GetObjectItem(r.json, "warnings"), 0));
    CHECK(words && strstr(words, "model mended cannot be loaded: ") && strstr(words, "GGUF"));
    wire_reply_fini(&r);
    snprintf(made, sizeof made, "%s.part", path);
    CHECK_EQ(symlink(m, made), 0);
    CHECK_EQ(rename(made, path), 0);
    r = ask(fd, HRT_TOKENIZE, "{}", "x", 1);
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    r = ask(fd, HRT_STATUS, "{}", NULL, 0);
    CHECK_STR(wire_str(&r, "status"), "ok");
    wire_reply_fini(&r);
    close(fd);
    stop();
}
static void a_model_file_copied_there_later_is_found(void)
{
    char path[200];
    const char *m = t_model();

    fresh();
    start("");
    int fd = up();
    struct wire_reply r = ask(fd, HRT_MODEL_SHOW, "{\"model\":\"late\"}", NULL, 0);
    CHECK_EQ(r.f.status, HRT_NOT_FOUND);
    CHECK(strstr(wire_str(&r, "message"), "/models") != NULL);
    wire_reply_fini(&r);
    snprintf(path, sizeof path, "%s/models", base);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/models/later-on.gguf", base);
    CHECK_EQ(symlink(m, path), 0);
    r = ask(fd, HRT_MODEL_SHOW, "{\"model\":\"late\"}", NULL, 0); /* by the begin of its name */
    CHECK_EQ(r.f.status, 0);
    CHECK_STR(wire_str(&r, "name"), "later-on");
    wire_reply_fini(&r);
    r = ask(fd, HRT_MODEL_SHOW, "{\"model\":\"LATER-ON.gguf\"}", NULL, 0);
    CHECK_STR(wire_str(&r, "name"), "later-on");
    wire_reply_fini(&r);
    r = ask(fd, HRT_TOKENIZE, "{\"model\":\"Later\"}", "x", 1); /* waits for the load */
    CHECK_EQ(r.f.status, 0);
    wire_reply_fini(&r);
    r = ask(fd, HRT_MODEL_SHOW, "{\"model\":\"late\"}", NULL, 0);
    const cJSON *s = cJSON_GetObjectItem(r.json, "sampling");
    CHECK(cJSON_GetNumberValue(cJSON_GetObjectItem(s, "temperature")) == 0.8);
    CHECK(cJSON_GetNumberValue(cJSON_GetObjectItem(s, "top_k")) == 40);
    wire_reply_fini(&r);
    close(fd);
    stop();
}
static void put_model(int n, bool there)
{
    char path[200];

    snprintf(path, sizeof path, "%s/models/m%03d.gguf", base, n);
    int f = there ? open(path, O_CREAT | O_WRONLY, 0600) : -1;
    CHECK(there ? f >= 0 && close(f) == 0 : unlink(path) == 0);
}
static bool model_known(int fd, int n)
{
    char js[64];

    snprintf(js, sizeof js, "{\"model\":\"m%03d\"}", n);
    struct wire_reply r = ask(fd, HRT_MODEL_SHOW, js, NULL, 0);
    bool known = r.f.status == 0;
    CHECK(known || strstr(wire_str(&r, "message"), "hearth status"));
    wire_reply_fini(&r);
    return known;
}
/* What the status says of models beyond the bound; "": nothing. */
static void said_of_models(int fd, char *ret, size_t cap)
{
    struct wire_reply r = ask(fd, HRT_STATUS, "{}", NULL, 0);
    const cJSON *w;

    ret[0] = 0;
    cJSON_ArrayForEach(w, cJSON_GetObjectItem(r.json, "warnings"))
    {
        if (strstr(w->valuestring, "models beyond"))
            snprintf(ret, cap, "%s", w->valuestring);
    }
    wire_reply_fini(&r);
}
static void the_name_of_a_model_that_is_gone_is_given_back(void)
{
    char path[200], words[512];

    fresh();
    snprintf(path, sizeof path, "%s/models", base);
    CHECK_EQ(mkdir(path, 0700), 0);
    for (int i = 0; i < MODELS_MAX; i++)
        put_model(i, true);
    start("");
    int fd = up();
    for (int i = 0; i < MODELS_MAX; i++)
        CHECK(model_known(fd, i));
    said_of_models(fd, words, sizeof words);
    CHECK_STR(words, "");
    put_model(MODELS_MAX, true);
    CHECK(!model_known(fd, MODELS_MAX));
    said_of_models(fd, words, sizeof words);
    CHECK(strstr(words, "16") && strstr(words, "m016") && strstr(words, "delete") &&
          strstr(words, "--model"));
    /* Each new one in place of an older one, many more than there are places. */
    for (int i = 0; i < 3 * MODELS_MAX; i++) {
        put_model(i, false);
        CHECK(model_known(fd, MODELS_MAX + i));
        put_model(MODELS_MAX + i + 1, true);
    }
    put_model(4 * MODELS_MAX, false);
    said_of_models(fd, words, sizeof words);
    CHECK_STR(words, "");
    close(fd);
    stop();
}
static void a_model_too_large_for_its_pages_is_refused_with_the_numbers(void)
{
    char more[512];
    const char *m = t_model();

    fresh();
    snprintf(more, sizeof more, "--model m=%s --page-memory 4TiB", m);
    start(more);
    int fd = up();
    struct wire_reply r = ask(fd, HRT_TOKENIZE, "{}", "x", 1);
    CHECK_EQ(r.f.status, HRT_FAILED_PRECONDITION);
    CHECK(strstr(wire_str(&r, "message"), "GiB are available") != NULL);
    wire_reply_fini(&r);
    close(fd);
    stop();
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(wrong_usage_ends_with_2_and_a_sentence),
       CASE(version_help_and_check_config_end_with_0),
       CASE(without_models_it_serves_and_stops_cleanly), CASE(the_socket_is_its_owners_alone),
       CASE(two_on_one_runtime_directory_or_one_store_name_the_first),
       CASE(after_kill_9_it_comes_up_again_over_the_dead_socket),
       CASE(a_file_in_the_sockets_place_is_kept_and_named),
       CASE(directories_that_cannot_be_used_are_named),
       CASE(a_stop_during_start_up_and_a_second_signal_both_end_it),
       CASE(a_key_too_many_is_told_the_remedy_and_not_to_wait),
       CASE(hup_and_usr1_leave_it_running),
       CASE(ready_is_said_when_it_answers_and_stopping_when_told),
       CASE(a_socket_of_the_service_manager_is_taken_and_left_in_place),
       CASE(noise_on_the_socket_does_not_reach_anybody),
       CASE(a_disk_that_is_full_at_start_is_said),
       CASE(text_comes_back_from_its_tokens_and_is_counted),
       CASE(the_weights_are_hashed_once_and_remembered),
       CASE(it_is_unloaded_when_told_when_idle_and_loaded_again_when_wanted),
       CASE(a_damaged_or_cut_model_says_why_and_leaves_the_daemon_up),
       CASE(the_name_of_a_model_that_is_gone_is_given_back),
       CASE(a_default_that_fails_degrades_and_its_new_file_is_tried_at_once),
       CASE(a_model_file_copied_there_later_is_found),
       CASE(a_model_too_large_for_its_pages_is_refused_with_the_numbers))
