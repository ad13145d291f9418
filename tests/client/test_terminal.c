/* test_terminal.c - nothing that came from outside steers a terminal, fakes a line or turns one.
 *
 * A core that puts escape sequences into every string it sends, and all verbs on a terminal and
 * on pipes. */
#include "base/text.h"
#include "client/say.h"
#include "tests/front/fakecore.h"
#include "tests/t.h"
#include <pty.h>

#define EVIL                                                                                   \
    "\033]0;"                                                                                  \
    "owned\007\302\2332J\342\200\256live\342\200\213\342\200\215\363\240\201\201\nFAKE: line"
#define EVIL_JSON                                                                              \
    "\\u001b]0;owned\\u0007\\u009b2J\\u202elive\\u200b\\u200d\\udb40\\udc41\\nFAKE: line"

static char dir[64], core[100], url[120], out[1 << 18], err[1 << 16];

/* --- the core ------------------------------------------------------------------------------ */
static const char reply[] =
    "{'name':H,'id':H,'owner':0,'model':H,'tokens':3,'turns':[{'n':1,'role':H,'position':0,"
    "'tokens':3,'time':1,'finish':H,'durable':true}],'bytes':{'device':0,'host':0,'file':0},"
    "'anonymous':true,'running':true,'created':1,'used':2,'request':H,'status':H,'slug':H,"
    "'message':H,'version':H,'server':H,'pid':1,'backend':H,'io':H,'http':H,'warnings':[H],"
    "'models':[{'name':H,'state':'loaded','error':H,'arch':H,'quant':H,'default':true},{'name':"
    "H,'state':'failed','error':H},{'name':H,'state':H}],'sessions':[{'name':H,'id':H,'model':"
    "H,"
    "'tokens':3,'running':true,'request':H},{'name':H,'id':H,'running':true}],'tiers':{},"
    "'stream':'0123','session':{'id':H,'name':H},'state':'done','cursor':1,'finish':H,'usage':{"
    "'generated':1},'written':{},'queue':{},'quant':H,'context':100,H:H,'o':{H:H},'removed':"
    "true,"
    "'durable':true,'logprobs':[{'index':0,'top':[{'id':1,'logprob':-1,'text':H}]}]}";

static void answer(int fd, uint32_t status)
{
    static char json[sizeof reply * 90];
    static uint8_t in[1 << 16];
    uint8_t h[HRT_HEAD_BYTES], tail[200];
    struct hrt_frame f = {0};
    for (;;) {
        if (recv(fd, h, sizeof h, MSG_WAITALL) != sizeof h || hrt_unpack(&f, h, NULL) < 0)
            return;
        if (f.json_len + f.tail_len &&
            recv(fd, in, f.json_len + f.tail_len, MSG_WAITALL) != f.json_len + f.tail_len)
            return;
        size_t n = 0, tail_n = 0;
        for (const char *p = reply; *p; p++)
            if (*p == 'H')
                n += (size_t)sprintf(json + n, "\"%s\"", EVIL_JSON);
            else
                json[n++] = *p == '\'' ? '"' : *p;
        json[n] = 0;
        if (f.type == HRT_NEXT) { /* one record */
            memset(tail, 0, HRT_REC_BYTES);
            st16(tail + 12, sizeof EVIL - 1);
            memcpy(tail + HRT_REC_BYTES, EVIL, sizeof EVIL - 1);
            tail_n = HRT_REC_BYTES + sizeof EVIL - 1;
        } else if (f.type == HRT_DETOKENIZE) {
            memcpy(tail, EVIL, tail_n = sizeof EVIL - 1);
        } else if (f.type == HRT_SESSION_SHOW) {
            memset(tail, 0, tail_n = 12);
        }
        hrt_pack(h, &(struct hrt_frame){f.type, HRT_REPLY, (uint32_t)n, (uint32_t)tail_n, f.id,
                                        status});
        (void)!send(fd, h, sizeof h, MSG_NOSIGNAL | MSG_MORE);
        (void)!send(fd, json, n, MSG_NOSIGNAL | (tail_n ? MSG_MORE : 0));
        (void)!send(fd, tail, tail_n, MSG_NOSIGNAL);
    }
}

static pid_t evil_core(uint32_t status)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(dir, sizeof dir, "%s", fresh_dir());
    snprintf(core, sizeof core, "%s/core.sock", dir);
    snprintf(url, sizeof url, "unix://%s", core);
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s", core);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(fd, 16) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)signal(SIGCHLD, SIG_IGN);
        for (int one; (one = accept(fd, NULL, NULL)) >= 0; close(one))
            if (fork() == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                answer(one, status);
                _exit(0);
            }
        _exit(0);
    }
    close(fd);
    return pid;
}
static void down(pid_t pid)
{
    char cmd[100];
    fakecore_kill(pid);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    CHECK(system(cmd) == 0);
}

/* --- running hearth -------------------------------------------------------------------------- */
static void child(const char *const *words)
{
    const char *argv[20] = {"hearth", "--socket", url};
    for (int n = 3; *words && n < 19; n++)
        argv[n] = *words++;
    setenv("HOME", dir, 1);
    setenv("TERM", "dumb", 1);
    unsetenv("XDG_STATE_HOME");
    unsetenv("HEARTH_SOCKET");
    execv(built("hearth"), (char *const *)argv);
    _exit(127);
}
static void slurp(int fd, char *ret, size_t cap)
{
    size_t n = 0;
    ssize_t k;
    while (n < cap - 1 && (k = read(fd, ret + n, cap - 1 - n)) > 0)
        n += (size_t)k;
    ret[n] = 0;
    close(fd);
}
static void on_pipes(const char *const *words)
{
    int o[2], e[2];
    CHECK(pipe(o) == 0 && pipe(e) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(open("/dev/null", O_RDONLY), 0);
        dup2(o[1], 1);
        dup2(e[1], 2);
        close(o[0]);
        close(e[0]);
        child(words);
    }
    close(o[1]);
    close(e[1]);
    slurp(o[0], out, sizeof out);
    slurp(e[0], err, sizeof err);
    waitpid(pid, NULL, 0);
}
static bool on_terminal(const char *const *words)
{
    int fd;
    fflush(NULL);
    pid_t pid = forkpty(&fd, NULL, NULL, NULL);
    if (pid < 0)
        return false;
    if (pid == 0)
        child(words);
    slurp(fd, out, sizeof out);
    waitpid(pid, NULL, 0);
    return true;
}

/* lines: neither a newline in it nor a joiner is a fault (an answer has them). */
static void clean(const char *s, bool lines, const char *verb, const char *where)
{
    size_t n = strlen(s);
    for (size_t i = 0, len; i < n; i += len ? len : 1) {
        len = text_char(s + i, n - i);
        if (!text_plain(s + i, len) && !strchr("\r\n\t", s[i]) &&
            !(lines && len && text_joiner(text_code(s + i, len)))) {
            t_fail(__FILE__, __LINE__, "hearth %s, %s: byte 0x%02x at %zu: %.60s", verb, where,
                   (unsigned char)s[i], i, s + (i > 30 ? i - 30 : 0));
            return;
        }
    }
    if (!lines && strstr(s, "\nFAKE"))
        t_fail(__FILE__, __LINE__, "hearth %s, %s: a line is faked", verb, where);
}

static const struct verb_case {
    const char *words[8];
    bool text; /* prints an answer: into a pipe as it is */
} verbs[] = {
    {{"run", "m", "hi"}, true},
    {{"run", "m", "hi", "--json", "--logprobs=1"}, false},
    {{"ask", "-s", "x", "hi"}, true},
    {{"sessions"}, false},
    {{"sessions", "--json"}, false},
    {{"sessions", "show", "x"}, false},
    {{"sessions", "show", "x", "--text"}, true},
    {{"sessions", "show", "x", "--text", "--json"}, false},
    {{"sessions", "fork", "x"}, false},
    {{"sessions", "rewind", "x", "--to", "1"}, false},
    {{"sessions", "rename", "x", "y"}, false},
    {{"sessions", "pin", "x"}, false},
    {{"sessions", "rm", "x"}, false},
    {{"sessions", "rm", "--anonymous"}, false},
    {{"models"}, false},
    {{"show", "m"}, false},
    {{"load", "m"}, false},
    {{"unload", "m"}, false},
    {{"ps"}, false},
    {{"status"}, false},
    {{"du"}, false},
    {{"plan", "m"}, false},
    {{"doctor"}, false},
    {{"version"}, false},
    {{"cancel"}, false},
    {{"cancel", "x"}, false},
    {{"tokenize", "--ids", "1 2"}, true},
    {{"tokenize", "--ids", "1 2", "--json"}, false},
    {{"completion", "sessions"}, false},
    {{"ask", "-s", "a" EVIL, "hi"}, false},
    {{"ask", "-s", "a\342\200\256b", "hi"}, true},
    {{"run", "m", "hi", "--temp", "1" EVIL}, false},
    {{"ingest", "-s", "x", "/nonexistent/" EVIL}, false},
    {{"frob" EVIL}, false},
    {{"models", "--frob" EVIL}, false},
    {{"sessions", EVIL}, false},
    {{"--socket", "unix:///nonexistent/" EVIL, "status"}, false},
    {{"--socket", "http://" EVIL, "status"}, false},
};

static void no_verb_hands_a_terminal_what_it_was_sent(void)
{
    static const uint32_t status[] = {HRT_OK, HRT_NOT_FOUND};
    for (int s = 0; s < 2; s++) {
        pid_t pid = evil_core(status[s]);
        bool pty = true;
        for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
            const struct verb_case *v = &verbs[i];
            on_pipes(v->words);
            clean(err, false, v->words[0], "stderr");
            if (!v->text)
                clean(out, false, v->words[0], "a pipe");
            else if (s == 0 && strncmp(v->words[0], "tok", 3) == 0)
                CHECK_STR(out, EVIL); /* for scripts: as it is */
            pty = on_terminal(v->words);
            if (pty)
                clean(out, v->text, v->words[0], "a terminal");
        }
        down(pid);
        if (!pty)
            t_skip("no terminal can be made here (is /dev/pts mounted?)");
    }
}

/* --- the filter ------------------------------------------------------------------------------ */
static void every_character_is_shown_or_escaped(void)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"plain \303\244 \360\237\246\224", "plain \303\244 \360\237\246\224"},
        {"\033[2J", "\\x1b[2J"},
        {"a\nb\tc", "a\\x0ab\\x09c"},
        {"\177", "\\x7f"},
        {"\302\233", "\\u009b"},
        {"\303", "\\xc3"},
        {"\355\240\200", "\\xed\\xa0\\x80"},
        {"a\342\200\256b", "a\\u202eb"},
        {"\342\200\216\342\201\246\330\234", "\\u200e\\u2066\\u061c"},
        /* what is not seen */
        {"a\302\255b", "a\\u00adb"},
        {"\342\200\213\342\200\214\342\200\215", "\\u200b\\u200c\\u200d"},
        {"\342\201\240\342\201\244\357\273\277", "\\u2060\\u2064\\ufeff"},
        {"\363\240\200\200\363\240\201\277", "\\udb40\\udc00\\udb40\\udc7f"},
        /* what lies beside it is seen */
        {"\302\256\342\200\212\342\200\220", "\302\256\342\200\212\342\200\220"},
        {"\342\201\237\342\201\260\357\273\276", "\342\201\237\342\201\260\357\273\276"},
        {"\363\237\277\277\363\240\204\200", "\363\237\277\277\363\240\204\200"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CHECK_STR(shown(rows[i].in), rows[i].out);
    CHECK(shown(rows[0].in) == rows[0].in);
    uint64_t s = t_seed();
    for (int i = 0; i < 20000; i++) {
        char b[24], got[24 * TEXT_SHOWN_MAX];
        size_t n = (size_t)(s >> 40) % sizeof b, len;
        for (size_t k = 0; k < n; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            b[k] = (char)((s >> 60) < 4 ? 0xe2 : (s >> 60) < 8 ? 0x80 : s >> 40);
        }
        size_t m = text_show(got, 1 + (size_t)(s >> 33) % (sizeof got - 1), b, n, false);
        CHECK(got[m] == 0);
        for (size_t k = 0; k < m; k += len) {
            len = text_char(got + k, m - k);
            if (!text_plain(got + k, len)) {
                t_fail(__FILE__, __LINE__, "noise %d: byte 0x%02x came through", i,
                       (unsigned char)got[k]);
                break;
            }
        }
    }
}

/* They make one of two emoji, and words of some scripts. */
static void joiners_are_text_in_an_answer_and_not_in_a_name(void)
{
    static const char text[] = "\360\237\221\250\342\200\215\360\237\222\273\n\331\205\333\214"
                               "\342\200\214\302\255";
    char got[100];
    CHECK(text_show(got, sizeof got, text, sizeof text - 1, true) > 0);
    CHECK_STR(got, "\360\237\221\250\342\200\215\360\237\222\273\n\331\205\333\214"
                   "\342\200\214\\u00ad");
    CHECK_STR(shown(text), "\360\237\221\250\\u200d\360\237\222\273\\x0a\331\205\333\214"
                           "\\u200c\\u00ad");
}

T_MAIN({"every_character_is_shown_or_escaped", every_character_is_shown_or_escaped},
       {"joiners_are_text_in_an_answer_and_not_in_a_name",
        joiners_are_text_in_an_answer_and_not_in_a_name},
       {"no_verb_hands_a_terminal_what_it_was_sent", no_verb_hands_a_terminal_what_it_was_sent})
