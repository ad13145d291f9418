/* test_nn.c - the nanomsg face: path rules, malformed frames and bytes, resends. */
#include "daemon/front/nn.h"
#include "tests/front/frontproc.h"
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>

static struct frontproc f;

static void paths_that_would_hurt_are_refused(void)
{
    struct errbuf eb;
    char dir[64], path[300], name[200];
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    CHECK(nnface_check_path("relative/x.ipc", &eb) < 0);
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(nnface_check_path(path, &eb) < 0); /* 108 bytes abort in bind */
    CHECK(strstr(eb.s, "107"));
    snprintf(path, sizeof path, "%s/none/x.ipc", dir);
    CHECK(nnface_check_path(path, &eb) < 0);
    snprintf(path, sizeof path, "%s/file", dir);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    CHECK(nnface_check_path(path, &eb) < 0); /* bind would delete it */
    CHECK(access(path, F_OK) == 0);
    unlink(path);
    CHECK_EQ(nnface_check_path(path, &eb), 0);
    chmod(dir, 0777);
    CHECK(nnface_check_path(path, &eb) < 0);
    CHECK(strstr(eb.s, "777"));
    rmdir(dir);
    CHECK(nnface_check_path("/usr/x.ipc", &eb) == 0 || getuid() != 0);
}

static int req_socket(void)
{
    char url[140];
    int s = nn_socket(AF_SP, NN_REQ), to = 10000, max = 64 << 20;
    snprintf(url, sizeof url, "ipc://%s", f.ipc);
    nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVTIMEO, &to, sizeof to);
    nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max, sizeof max);
    CHECK(nn_connect(s, url) >= 0);
    return s;
}

/* Sends n bytes, the reply's header and text. */
static int ask(int s, const void *p, size_t n, struct hrt_frame *ret, char *json, size_t cap)
{
    uint8_t *m = NULL;
    CHECK_EQ(nn_send(s, p, n, 0), (int)n);
    int k = nn_recv(s, &m, NN_MSG, 0);
    json[0] = 0;
    if (k < 0)
        return -1;
    int r = k < HRT_HEAD_BYTES ? -1 : hrt_unpack(ret, m, NULL);
    if (r == 0)
        snprintf(json, cap, "%.*s", (int)ret->json_len, (char *)m + HRT_HEAD_BYTES);
    nn_freemsg(m);
    return r;
}

static size_t frame(uint8_t *ret, uint8_t type, const char *json, const void *tail, size_t n)
{
    hrt_pack(ret, &(struct hrt_frame){.type = type,
                                      .json_len = (uint32_t)strlen(json),
                                      .tail_len = (uint32_t)n,
                                      .id = 77});
    memcpy(ret + HRT_HEAD_BYTES, json, strlen(json));
    if (n)
        memcpy(ret + HRT_HEAD_BYTES + strlen(json), tail, n);
    return HRT_HEAD_BYTES + strlen(json) + n;
}

static void up(void)
{
    f = (struct frontproc){0};
    front_start(&f, true, false, NULL);
}

static void a_request_keeps_its_id_and_type(void)
{
    uint8_t m[400];
    char json[4000];
    struct hrt_frame h = {0};
    up();
    int s = req_socket();
    CHECK_EQ(ask(s, m, frame(m, HRT_STATUS, "{}", NULL, 0), &h, json, sizeof json), 0);
    CHECK_EQ(h.id, 77);
    CHECK_EQ(h.type, HRT_STATUS);
    CHECK_EQ(h.status, HRT_OK);
    CHECK(strstr(json, "\"pid\":1"));
    nn_close(s);
    struct stat st;
    CHECK_EQ(stat(f.ipc, &st), 0);
    CHECK_EQ(st.st_mode & 0777, 0600);
    front_stop(&f);
}

static void bad_frames_are_answered_with_words(void)
{
    uint8_t m[400];
    char json[4000];
    struct hrt_frame h = {0};
    up();
    int s = req_socket();
    size_t n = frame(m, HRT_PING, "{}", NULL, 0);
    struct {
        int at;
        uint8_t v;
        const char *say;
    } rows[] = {{0, 'X', "magic"}, {28, 1, "checksum"}, {4, 9, "checksum"}};
    for (size_t i = 0; i < 3; i++) {
        uint8_t b[400];
        memcpy(b, m, n);
        b[rows[i].at] ^= rows[i].v | 1;
        CHECK_EQ(ask(s, b, n, &h, json, sizeof json), 0);
        CHECK_EQ(h.status, HRT_INVALID_ARGUMENT);
        if (!strstr(json, rows[i].say) || !strstr(json, "bad_frame"))
            t_fail(__FILE__, __LINE__, "byte %d: got %s", rows[i].at, json);
    }
    /* A major this side does not speak, rightly sealed. */
    uint8_t b[400];
    memcpy(b, m, n);
    b[4] = 9;
    st32(b + 28, crc32c(0, b, 28));
    CHECK_EQ(ask(s, b, n, &h, json, sizeof json), 0);
    CHECK_EQ(h.status, HRT_UNIMPLEMENTED);
    CHECK_EQ(h.id, 77);
    CHECK_EQ(ask(s, m, n - 1, &h, json, sizeof json), 0); /* shorter than it says */
    CHECK_EQ(h.status, HRT_INVALID_ARGUMENT);
    CHECK_EQ(ask(s, "abc", 3, &h, json, sizeof json), 0);
    CHECK_EQ(h.status, HRT_INVALID_ARGUMENT);
    CHECK_EQ(ask(s, m, n, &h, json, sizeof json), 0); /* and it still serves */
    CHECK_EQ(h.status, HRT_OK);
    nn_close(s);
    front_stop(&f);
}

static void a_request_of_16_mib_passes(void)
{
    uint8_t *m = malloc(HRT_HEAD_BYTES + TAIL_BYTES_MAX + 100),
            *tail = calloc(1, TAIL_BYTES_MAX);
    char json[4000];
    struct hrt_frame h = {0};
    up();
    int s = req_socket();
    CHECK_EQ(ask(s, m, frame(m, HRT_PING, "{}", tail, TAIL_BYTES_MAX), &h, json, sizeof json),
             0);
    CHECK_EQ(h.tail_len, TAIL_BYTES_MAX); /* the fake's PING sends it back */
    nn_close(s);
    free(m);
    free(tail);
    front_stop(&f);
}

static void a_request_waits_for_its_core(void)
{
    uint8_t m[400];
    char json[4000];
    struct hrt_frame h = {0};
    up();
    int s = req_socket();
    CHECK_EQ(ask(s, m, frame(m, HRT_PING, "{}", NULL, 0), &h, json, sizeof json), 0);
    fakecore_kill(f.core_pid);
    fflush(NULL);
    pid_t later = fork();
    if (later == 0) { /* somebody starts it again in a while */
        poll(NULL, 0, 500);
        pid_t pid = fakecore(f.core);
        char path[120];
        snprintf(path, sizeof path, "%s/pid", f.dir);
        FILE *p = fopen(path, "we");
        fprintf(p, "%d", (int)pid);
        fclose(p);
        poll(NULL, 0, 3000);
        _exit(0);
    }
    uint64_t t0 = now_ns();
    CHECK_EQ(ask(s, m, frame(m, HRT_STATUS, "{}", NULL, 0), &h, json, sizeof json), 0);
    CHECK_EQ(h.status, HRT_OK);
    CHECK((now_ns() - t0) / 1000000 >= 300);
    nn_close(s);
    kill(later, SIGKILL);
    waitpid(later, NULL, 0);
    f.core_pid = 0;
    front_stop(&f);
}

/* Raw bytes as a hostile peer sends them; with a keeper above it the face is back at once. */
static void malformed_bytes_kill_at_most_the_face(void)
{
    unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)getpid();
    printf("    SEED=%u\n", seed);
    srand(seed);
    f = (struct frontproc){0};
    front_start(&f, true, true, NULL); /* both faces: a keeper and two children */
    static const uint8_t hello[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", f.ipc);
    for (int i = 0; i < 150; i++) {
        uint8_t b[64];
        size_t n = sizeof hello;
        memcpy(b, hello, n);
        if (i % 10 == 0) { /* the 17 bytes that abort libnanomsg */
            memset(b + n, 0xff, 9);
            n += 9;
        } else {
            for (int k = rand() % 40; k > 0; k--)
                b[n++] = (uint8_t)rand();
            if (rand() % 2)
                b[(size_t)rand() % 8] = (uint8_t)rand();
        }
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0)
            (void)!send(fd, b, n, MSG_NOSIGNAL);
        if (i % 7 == 0)
            poll(NULL, 0, 5);
        close(fd);
    }
    CHECK(wait_socket(f.ipc));
    uint8_t m[400];
    char json[4000];
    struct hrt_frame h = {0};
    int s = req_socket();
    CHECK_EQ(ask(s, m, frame(m, HRT_PING, "{}", NULL, 0), &h, json, sizeof json), 0);
    CHECK_EQ(h.status, HRT_OK);
    nn_close(s);
    static char got[10000];
    CHECK_EQ(http(f.port, "GET", "/health", NULL, NULL, got, sizeof got),
             200); /* the same process all the time */
    CHECK_EQ(waitpid(f.front_pid, NULL, WNOHANG), 0);
    front_stop(&f);
}

static void a_second_front_on_one_path_gives_up_with_words(void)
{
    up();
    char ipc[140];
    int st = -1;
    snprintf(ipc, sizeof ipc, "ipc://%s", f.ipc);
    const char *argv[] = {built("hearth-front"), "--nn", ipc, "--core", f.core, NULL};
    pid_t pid = spawn(argv);
    for (int i = 0; i < 1000 && waitpid(pid, &st, WNOHANG) == 0; i++)
        poll(NULL, 0, 10);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 1);
    CHECK(wait_socket(f.ipc)); /* the first one's is untouched */
    front_stop(&f);
}

static void usage_errors_exit_with_2(void)
{
    static const char *const rows[][6] = {
        {"--nonsense"},
        {"--core", "/tmp/x"},
        {"--nn", "ipc:///tmp/x.ipc"},
        {"--core", "/tmp/x", "--nn", "ipc:///tmp/x.ipc", "extra"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *argv[8] = {built("hearth-front")};
        int st = 0;
        for (int k = 0; k < 5 && rows[i][k]; k++)
            argv[k + 1] = rows[i][k];
        pid_t pid = spawn(argv);
        waitpid(pid, &st, 0);
        CHECK_EQ(WEXITSTATUS(st), 2);
    }
}

T_MAIN({"paths_that_would_hurt_are_refused", paths_that_would_hurt_are_refused},
       {"a_request_keeps_its_id_and_type", a_request_keeps_its_id_and_type},
       {"bad_frames_are_answered_with_words", bad_frames_are_answered_with_words},
       {"a_request_of_16_mib_passes", a_request_of_16_mib_passes},
       {"a_request_waits_for_its_core", a_request_waits_for_its_core},
       {"malformed_bytes_kill_at_most_the_face", malformed_bytes_kill_at_most_the_face},
       {"a_second_front_on_one_path_gives_up_with_words",
        a_second_front_on_one_path_gives_up_with_words},
       {"usage_errors_exit_with_2", usage_errors_exit_with_2})
