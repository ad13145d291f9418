/* test_cli.c - the hearth command against a fake core: exit codes, streams, Ctrl-C. */
#include "client/cli.h"
#include "tests/client/cliproc.h"
#include <pty.h>

static void exit_codes_say_what_happened(void)
{
    up();
    CHECK_EQ(RUN("run", "fake", "hi"), 0);
    CHECK_EQ(RUN("run", "fake", "fail"), 1);
    CHECK_EQ(RUN("frobnicate"), 2);
    CHECK_EQ(RUN("run"), 2);
    CHECK_EQ(RUN("run", "fake", "hi", "--temp", "x"), 2);
    CHECK_EQ(RUN("run", "fake", ""), 2);
    CHECK_EQ(RUN("run", "nosuch", "hi"), 4);
    CHECK_EQ(RUN("ask", "-s", "nosuch", "hi"), 4);
    CHECK(strstr(err, "hearth sessions"));
    CHECK_EQ(RUN("sessions", "show", "nosuch"), 4);
    CHECK_EQ(RUN("run", "fake", "busy"), 75);
    CHECK_EQ(RUN("run", "fake", "hi", "--samplers", "foo"), 2);
    CHECK_EQ(RUN("sessions", "rewind", "fake", "--to", "99"), 1); /* the session has fewer */
    CHECK_EQ(RUN("run", "fake", "long"), 1);
    static const char *const later[] = {"why", "fsck"};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(RUN(later[i]), 1);
        CHECK(strstr(err, "is not in version") && !strstr(err, "unimplemented"));
    }
    CHECK_EQ(RUN("sessions", "export", "fake", "x"), 1);
    CHECK(strstr(err, "is not in version"));
    CHECK_EQ(RUN("completion", "tcsh"), 2);
    char gone[200];
    snprintf(gone, sizeof gone, "unix://%s/nobody.sock", dir);
    CHECK_EQ(RUN("--socket", gone, "status"), 3);
    CHECK(strstr(err, "hearth serve"));
    down();
}

/* What is wrong with a flag is said also where nothing comes to use it. */
static void flags_are_checked_whether_used_or_not(void)
{
    up();
    CHECK_EQ(RUN("run", "fake", "hi", "--encoding", "nosuch"), 2);
    CHECK(strstr(err, "--encoding: there is no \"nosuch\""));
    CHECK_EQ(RUN("ask", "-s", "fake", "hi", "--encoding", "nosuch"), 2);
    CHECK_EQ(RUN("tokenize", "hi", "--encoding", "nosuch"), 2);
    CHECK_EQ(RUN("run", "fake", "hi", "--encoding", "latin1"), 0);
    CHECK_EQ(RUN_IN("", "chat", "--top-p", "7"), 2);
    CHECK(strstr(err, "--top-p: want"));
    CHECK_EQ(RUN_IN("", "chat", "--temp", "0x1p1"), 2);
    down();
}

/* Who may not enter the socket's directory is not told to start what runs. */
static void a_daemon_out_of_reach_is_told_from_none(void)
{
    CHECK(strstr(cli_no_access("unix:///run/hearth/core.sock"), "usermod -aG hearth "));
    CHECK(!strstr(cli_no_access("unix:///run/user/1/hearth/core.sock"), "usermod"));
    up();
    CHECK_EQ(chmod(dir, geteuid() == 0 ? 0700 : 0), 0);
    as_uid = geteuid() == 0 ? 12345 : 0;
    int code = RUN("status");
    bool ran = code != 127; /* the other user may read where this was built */
    if (ran) {
        CHECK_EQ(code, 3);
        CHECK(strstr(err, "may not reach a daemon at ") && !strstr(err, "no daemon") &&
              strstr(err, "; ask whose it is"));
        CHECK_EQ(RUN("status", "--json"), 3);
        CHECK(strstr(out, "\"slug\":\"no_access\"") && strstr(out, "\"PERMISSION_DENIED\""));
        (void)RUN("doctor");
        CHECK(strstr(out, "may not reach a daemon") && strstr(out, "-> ask whose it is"));
    }
    as_uid = 0;
    CHECK_EQ(chmod(dir, 0777), 0); /* one that is not asked says itself what to do */
    (void)RUN("doctor");
    CHECK(strstr(out, "may be written by others") && !strstr(out, "-> start it"));
    CHECK_EQ(chmod(dir, 0700), 0);
    down();
    if (!ran)
        t_skip("another user may not run what was built here");
}

static void a_users_mistake_names_its_field(void)
{
    static const struct {
        const char *argv[8], *field;
        int code;
    } t[] = {{{"run", "fake", "hi", "--temp", "x"}, "--temp", 2},
             {{"run", "fake", "hi", "-n", "0"}, "--max-tokens", 2},
             {{"ask", "-s", "fake", "hi", "-n", "0"}, "--max-tokens", 2},
             {{"sessions", "rm", "--anonymous", "--older", "3"}, "--older", 2},
             {{"ingest", "-s", "fake", "/no/such/file"}, "/no/such/file", 1},
             {{"ingest", "-s", "fake", "/"}, "/", 1},
             {{"ingest", "-s", "fake", "/dev/null"}, "/dev/null", 1},
             {{"--socket", "nowhere", "status"}, "--socket", 2},
             {{"run", "fake", "hi", "-n"}, "-n", 2},
             {{"run", "fake", "hi", "--temp"}, "--temp", 2},
             {{"run", "fake", "hi", "--raw=1"}, "--raw", 2},
             {{"run", "fake", "hi", "--frob=1"}, "--frob", 2},
             {{"run", "fake", "hi", "--greedy", "--temp", "1"}, "--greedy", 2},
             {{"run", "fake", "hi", "--stop", "\377"}, "--stop", 2},
             {{"ask", "hi"}, "--session", 2},
             {{"ask", "hi", "-s", "fake", "-s", "book"}, "--session", 2},
             {{"chat", "fake", "-m", "other"}, "--model", 2},
             {{"ingest", "f"}, "--session", 2},
             {{"sessions", "rm", "--older", "1d"}, "--older", 2},
             {{"sessions", "show", "0000"}, "--session", 1},
             {{"completion", "tcsh"}, "--json", 2},
             {{"help"}, "--json", 2},
             {{"run", "--help"}, "--json", 2}};
    up();
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const char *argv[10] = {0};
        char want[80];
        int n = 0;
        while (t[i].argv[n]) {
            argv[n] = t[i].argv[n];
            n++;
        }
        argv[n] = "--json";
        CHECK_EQ(run_in(NULL, argv), t[i].code);
        snprintf(want, sizeof want, "\"field\":\"%s\"", t[i].field);
        if (!strstr(out, want) || !strstr(out, "\"status\":\"INVALID_ARGUMENT\"") ||
            !strstr(out, "\"slug\":\"bad_field\"") || strstr(out, "usage: "))
            t_fail(__FILE__, __LINE__, "case %zu says %s", i, out);
        argv[n] = NULL; /* in words there is no status */
        if (strcmp(t[i].field, "--json") != 0) {
            CHECK_EQ(run_in(NULL, argv), t[i].code);
            CHECK(!strstr(err, "INVALID") && !strstr(err, "bad_field"));
        }
    }
    CHECK_EQ(fakecore_count(core, "50 {"), 0);
    CHECK_EQ(RUN_IN("/rewind\n/quit\n", "chat", "--json"), 1);
    CHECK(strstr(out, "\"field\":\"/rewind\""));
    down();
}

/* By `hearth cancel` elsewhere: no failure, and not "by someone else". */
static void a_cancelled_answer_ends_as_one(void)
{
    up();
    CHECK_EQ(RUN("ask", "-s", "fake", "cut words=3", "--json"), 130);
    const char *last = strstr(out, "{\"type\":\"done\"");
    CHECK(last && strstr(last, "\"finish\":\"cancelled\"") &&
          strstr(last, "\"text\":\"w0 w1 w2 \""));
    CHECK(!strstr(out, "\"type\":\"error\"") && strcmp(err, "") == 0);
    CHECK_EQ(RUN("run", "fake", "cut words=3"), 130);
    CHECK(strcmp(out, "w0 w1 w2 \n") == 0 && strstr(err, "[cancelled]") &&
          strstr(err, "cancelled before its end") && !strstr(err, "someone"));
    /* Before there is a stream, or, on a machine that takes seconds for a signal, in one. */
    int o, e;
    pid_t pid =
        begin((const char *const[]){"run", "fake", "slow words=500 pace=20", "--json", NULL},
              &o, &e, NULL);
    for (int i = 0; i < 1000 && fakecore_count(core, "50 {") < 3; i++)
        poll(NULL, 0, 10);
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid, o, e), 130);
    CHECK(strstr(out, "\"type\":\"error\",\"status\":\"CANCELLED\",\"slug\":\"cancelled\"") ||
          strstr(out, "\"finish\":\"cancelled\""));
    down();
}

static void the_beginning_of_an_id_is_enough(void)
{
    static const char full[] = "\"session\":\"00000000deadbeef0000000000000000\"";
    up();
    CHECK_EQ(RUN("sessions", "show", "00000000DE"), 0);
    CHECK_EQ(fakecore_count(core, full), 1);
    CHECK_EQ(RUN("ask", "-s", "00000000de", "words=1"), 0);
    CHECK_EQ(fakecore_count(core, full), 2);
    CHECK_EQ(RUN_IN("words=1\n", "chat", "-s", "00000000de"), 0);
    CHECK_EQ(fakecore_count(core, full), 3);
    /* Two begin so. */
    CHECK_EQ(RUN("sessions", "show", "0000"), 1);
    CHECK(strstr(err, "0000 is the beginning of 2 ids: 000000000000 (fake), 00000000dead"));
    CHECK_EQ(RUN("ask", "-s", "0000", "words=1"), 1);
    CHECK_EQ(fakecore_count(core, "50 {"), 2);
    /* Too short, none such, or a new one's name. */
    CHECK_EQ(RUN("sessions", "show", "000"), 0);
    CHECK_EQ(fakecore_count(core, "\"session\":\"000\""), 1);
    CHECK_EQ(RUN("sessions", "show", "fade"), 0);
    CHECK_EQ(fakecore_count(core, "\"session\":\"fade\""), 1);
    CHECK_EQ(RUN_IN("words=1\n", "chat", "-s", "0000"), 0);
    CHECK_EQ(fakecore_count(core, "\"session\":\"0000\",\"create\":true"), 1);
    down();
}

/* It may be a name that has gone: another's id begins so. */
static void what_changes_or_removes_wants_eight_digits_of_an_id(void)
{
    static const char full[] = "\"session\":\"00000000deadbeef0000000000000000\"",
                      typed[] = "\"session\":\"0000000\"";
    static const char *const verb[][5] = {{"sessions", "rm", "0000000"},
                                          {"sessions", "rewind", "0000000", "--to", "1"},
                                          {"sessions", "rename", "0000000", "x"},
                                          {"sessions", "fork", "0000000", "x"},
                                          {"sessions", "pin", "0000000"}};
    up();
    for (int i = 0; i < 5; i++) {
        (void)RUN(verb[i][0], verb[i][1], verb[i][2], verb[i][3], verb[i][4]);
        CHECK_EQ(fakecore_count(core, typed), i + 1);
    }
    (void)RUN("cancel", "0000000");
    CHECK_EQ(fakecore_count(core, typed), 6);
    CHECK_EQ(fakecore_count(core, full), 0);
    CHECK_EQ(RUN("sessions", "rm", "00000000de"), 0);
    CHECK_EQ(fakecore_count(core, full), 1);
    CHECK(strstr(err, "removed n, id 00000000deadbeef0000000000000000"));
    /* A name as older versions took it is the daemon's to know. */
    CHECK_EQ(RUN("sessions", "rm", "a\302\233\342\200\213"), 0);
    CHECK_EQ(fakecore_count(core, "27 {"), 3);
    CHECK_EQ(RUN("sessions", "rm", "a\033"), 2);
    down();
}

static void errors_are_json_when_asked(void)
{
    up();
    CHECK_EQ(RUN("run", "nosuch", "hi", "--json"), 4);
    CHECK(strstr(out, "\"type\":\"error\"") && strstr(out, "\"status\":\"NOT_FOUND\"") &&
          strstr(out, "\"slug\":\"model_not_found\""));
    CHECK_EQ(RUN("run", "fake", "long", "--json"), 1);
    CHECK(strstr(out, "\"tokens\":9000") && strstr(out, "\"context\":8192"));
    CHECK(strstr(out, "\"hint\":\"shorten the input"));
    CHECK_EQ(RUN("--json", "frobnicate"), 2);
    CHECK(strstr(out, "\"type\":\"error\""));
    down();
}

/* A fork is there only for an answer: what has none is asked of the session again. */
static void a_refused_fork_is_not_named(void)
{
    up();
    for (int fork = 0; fork < 2; fork++) {
        CHECK_EQ(RUN("ask", "-s", "my book", "full", fork ? "--fork" : "-q"), 1);
        CHECK(strstr(err, "hearth ask -s 'my book' --fork ") && !strstr(err, "76af"));
        CHECK_EQ(RUN("ask", "-s", "my book", "full", "--json", fork ? "--fork" : "-q"), 1);
        CHECK(strstr(out, "\"session\":\"my book\"") && !strstr(out, "76af"));
    }
    down();
}

/* What is wrong is the message, what to do about it the hint; as text they are one sentence. */
static void advice_is_the_hint(void)
{
    static const struct {
        const char *argv[6], *message, *hint;
        int code;
    } t[] = {
        {{"status"}, "nobody.sock (", "start one with `hearth serve`, or name it", 3},
        {{"sessions", "export", "fake", "x"}, "is not in version", "`hearth sessions show", 1},
        {{"ingest", "-s", "fake", "latin"}, "is not UTF-8 (byte 0xfc", "if it is text in", 1},
        {{"run", "fake", "hi", "--encoding", "none"},
         "there is no \"none\"",
         "`iconv -l` li",
         2},
        {{"frobnicate; x"}, "no verb \"frobnicate; x\"", "`hearth help` lists", 2},
        {{"ask", "-s", "fake", "hi", "--sede=1"},
         "has no flag --sede",
         "did you mean --seed?",
         2},
        {{"run", "broken", "hi"}, "", "its next use tries again", 1},
        {{"sessions", "show", "0000"}, "is the beginning of 2 ids", "type more of it", 1},
        {{"help"}, "--json: help and completion scripts are text", "leave it out", 2},
        {{"completion", "bash"}, "completion scripts are text", "leave it out", 2},
        {{"run", "fake", "long"},
         "",
         "shorten the input, or make parts of it with `hearth ingest -s NAME --split",
         1},
    };
    char file[200], gone[200];
    up();
    snprintf(file, sizeof file, "%s/latin", dir);
    snprintf(gone, sizeof gone, "unix://%s/nobody.sock", dir);
    FILE *f = fopen(file, "w");
    CHECK(f && fputs("M\xfcller", f) >= 0 && fclose(f) == 0);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        const char *argv[9] = {0};
        int n = 0;
        if (t[i].code == 3) {
            argv[n++] = "--socket";
            argv[n++] = gone;
        }
        for (int k = 0; k < 6 && t[i].argv[k]; k++)
            argv[n++] = strcmp(t[i].argv[k], "latin") == 0 ? file : t[i].argv[k];
        if (t[i].argv[1] || t[i].code == 3 || strchr(t[i].argv[0], ';')) {
            bool text = strcmp(argv[0], "completion") != 0;
            CHECK_EQ(run_in("", argv), text ? t[i].code : 0);
            const char *what = strstr(err, t[i].message), *todo = strstr(err, t[i].hint);
            if (text && (!what || !todo || todo < what || todo[-1] != ' ' || todo[-2] != ';'))
                t_fail(__FILE__, __LINE__, "%zu, as text: %s", i, err);
        }
        argv[n++] = "--json";
        CHECK_EQ(run_in("", argv), t[i].code);
        cJSON *o = cJSON_Parse(out);
        const cJSON *m = cJSON_GetObjectItem(o, "message"), *h = cJSON_GetObjectItem(o, "hint");
        if (!cJSON_IsString(m) || !cJSON_IsString(h) || !strstr(m->valuestring, t[i].message) ||
            !strstr(h->valuestring, t[i].hint) || strstr(m->valuestring, t[i].hint))
            t_fail(__FILE__, __LINE__, "%zu, as JSON: %s", i, out);
        cJSON_Delete(o);
    }
    down();
}

static void answers_go_to_stdout_and_the_rest_to_stderr(void)
{
    up();
    CHECK_EQ(RUN("run", "fake", "hi words=3"), 0);
    CHECK(strcmp(out, "w0 w1 w2 \n") == 0);
    CHECK(strstr(err, "3 tokens") && !strchr(err, '\033'));
    CHECK(strstr(err, "t/s") && strstr(err, "first after 3 ms") && strstr(err, "read in 2 ms"));
    CHECK_EQ(RUN("run", "fake", "hi words=3 late"), 0); /* of an end alone there is no rate */
    CHECK(strstr(err, "3 tokens") && strstr(err, "6 read") && !strstr(err, "t/s"));
    CHECK(!strstr(err, "first after") && !strstr(err, "read in"));
    CHECK_EQ(RUN("run", "fake", "hi words=3", "-q"), 0);
    CHECK(strcmp(err, "") == 0);
    CHECK_EQ(RUN_IN("words=2 from a pipe", "run", "fake"), 0);
    CHECK(strcmp(out, "w0 w1 \n") == 0);
    CHECK_EQ(RUN_IN("words=2", "ask", "-s", "fake", "-"), 0);
    CHECK(strcmp(out, "w0 w1 \n") == 0);
    down();
}

/* Also where both go to one file, as in a log: no word is glued to the answer, nor cuts it. */
static void words_and_an_answer_in_one_file_have_lines_of_their_own(void)
{
    char cmd[5000], file[200], got[1000] = "", gone[1000] = "";
    up();
    snprintf(file, sizeof file, "%s/both", dir);
    snprintf(cmd, sizeof cmd,
             "'%s' --socket '%s' run fake 'warn words=4 pace=30' </dev/null >'%s' 2>&1",
             built("hearth"), url, file);
    CHECK_EQ(system(cmd), 0);
    FILE *f = fopen(file, "re");
    got[fread(got, 1, sizeof got - 1, f)] = 0;
    fclose(f);
    if (strstr(got, "w0 w1 w2 w3 \nhearth: warning: fake: mind\n[stop] ") != got)
        t_fail(__FILE__, __LINE__, "got \"%s\"", got);
    /* What cannot wait ends the line. */
    snprintf(cmd, sizeof cmd,
             "'%s' --socket '%s' run fake 'words=60 pace=30' </dev/null >'%s' 2>&1 &",
             built("hearth"), url, file);
    CHECK_EQ(system(cmd), 0);
    poll(NULL, 0, 900);
    fakecore_kill(core_pid);
    poll(NULL, 0, 3600); /* so long it waits for a reply before it says a word */
    core_pid = fakecore(core);
    for (int i = 0; i < 100 && !strstr(gone, "[stop]"); i++) {
        poll(NULL, 0, 100);
        f = fopen(file, "re");
        gone[fread(gone, 1, sizeof gone - 1, f)] = 0;
        fclose(f);
    }
    if (!strstr(gone, "w59 \n[stop]") || !strstr(gone, " \nhearthd is gone or busy"))
        t_fail(__FILE__, __LINE__, "got \"%s\"", gone);
    down();
}

static void numbers_of_one_have_no_plural(void)
{
    up();
    CHECK_EQ(RUN("run", "fake", "words=1"), 0);
    CHECK(strstr(err, "] 1 token, first"));
    CHECK_EQ(RUN("run", "fake", "words=2"), 0);
    CHECK(strstr(err, "] 2 tokens, "));
    down();
}

static void who_removes_one_twice_removes_it_once(void)
{
    static const char *const twice[] = {"n", "00000000deadbeef0000000000000000",
                                        "00000000DEAD"};
    up();
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(RUN("sessions", "rm", "n", twice[i]), 0);
        CHECK_EQ(fakecore_count(core, "27 {"), i + 1);
    }
    CHECK_EQ(RUN("sessions", "rm", "nosuch"), 4);
    CHECK(strstr(err, "`hearth sessions` lists them") && !strstr(err, "ingest"));
    CHECK_EQ(RUN("ask", "-s", "nosuch", "x"), 4);
    CHECK(strstr(err, "--create"));
    down();
}

static void what_is_given_wrong_is_answered_in_words_of_it(void)
{
    char sub[100], state[140];
    up();
    snprintf(sub, sizeof sub, "%s/my docs", dir);
    CHECK_EQ(mkdir(sub, 0700), 0);
    CHECK_EQ(RUN("ingest", "-s", "fake", sub), 1);
    CHECK(strstr(err, "it is a directory; give the files in it: '/tmp/") &&
          strstr(err, "/my docs'/*"));
    char cmd[5000];
    snprintf(
        cmd, sizeof cmd,
        "head -c 16777300 /dev/zero | tr '\\0' x | '%s' --socket '%s' ingest -s fake - 2>&1 "
        "| grep -q '^hearth: standard input is longer than the '",
        built("hearth"), url);
    CHECK_EQ(system(cmd), 0);
    /* A home that nothing can be written to. */
    snprintf(state, sizeof state, "%s/.local", dir);
    FILE *f = fopen(state, "we");
    CHECK(f && fclose(f) == 0);
    CHECK_EQ(RUN("serve", "--detach"), 1);
    CHECK(strstr(err, "cannot write the log ") && strstr(err, "; give a directory that can be "
                                                              "written, for it and for the "
                                                              "sessions: --state DIR"));
    CHECK_EQ(RUN("serve", "--detach", "--state", sub, "--no-such-flag"), 2);
    CHECK(strstr(err, "my docs/hearthd.log"));
    down();
}

static void what_is_piped_in_follows_the_question(void)
{
    up();
    CHECK_EQ(RUN_IN("words=3\n", "run", "fake", "count"), 0);
    CHECK(strcmp(out, "w0 w1 w2 \n") == 0);
    CHECK_EQ(RUN_IN("words=2", "ask", "-s", "fake", "count"), 0);
    CHECK(strcmp(out, "w0 w1 \n") == 0);
    CHECK_EQ(RUN_IN("words=3", "run", "fake", "words=1"), 0); /* the question comes first */
    CHECK(strcmp(out, "w0 \n") == 0);
    CHECK_EQ(RUN_IN("7 8", "run", "fake", "5 6", "--ids"), 0);
    char cmd[5000]; /* a device is not read */
    snprintf(cmd, sizeof cmd, "'%s' --socket '%s' run fake words=1 </dev/zero >/dev/null 2>&1",
             built("hearth"), url);
    CHECK_EQ(system(cmd), 0);
    down();
}

static void the_done_object_has_its_keys(void)
{
    static const char *const keys[] = {"type",   "session",     "request", "model", "text",
                                       "tokens", "logprobs",    "finish",  "turn",  "durable",
                                       "usage",  "reused_from", "timings"};
    up();
    CHECK_EQ(RUN("ask", "-s", "fake", "words=3", "--json"), 0);
    char *last = strrchr(out, '{');
    while (last > out && last[-1] != '\n')
        last--;
    cJSON *o = cJSON_Parse(last);
    const cJSON *m = o ? o->child : NULL;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++, m = m ? m->next : NULL)
        if (!m || strcmp(m->string, keys[i]) != 0)
            t_fail(__FILE__, __LINE__, "member %zu is %s, want %s", i,
                   m ? m->string : "missing", keys[i]);
    CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(o, "tokens")), 3);
    CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItem(o, "logprobs")), 3);
    CHECK((float)cJSON_GetArrayItem(cJSON_GetObjectItem(o, "logprobs"), 2)->valuedouble ==
          -0.1f * 3);
    CHECK(strcmp(cJSON_GetObjectItem(o, "text")->valuestring, "w0 w1 w2 ") == 0);
    CHECK(strstr(out, "{\"type\":\"text\",\"index\":0,\"token\":1000,\"text\":\"w0 \"}"));
    cJSON_Delete(o);
    down();
}

static void text_lines_never_split_a_code_point(void)
{
    up();
    CHECK_EQ(RUN("run", "fake", "emoji words=8 pace=5", "--json"), 0);
    for (char *line = strtok(out, "\n"); line; line = strtok(NULL, "\n")) {
        cJSON *o = cJSON_Parse(line);
        const cJSON *t = cJSON_GetObjectItem(o, "text");
        CHECK(o && (!t || t->valuestring[0] == 0 ||
                    strncmp(t->valuestring, "\xf0\x9f\xa6\x94", 4) == 0));
        cJSON_Delete(o);
    }
    down();
}

static void flags_reach_start(void)
{
    up();
    CHECK_EQ(RUN("run", "fake", "hi", "-n", "5", "--greedy", "--top-k", "40", "--top-p", "0.9",
                 "--min-p", "0.1", "--seed", "7", "--stop", "x", "--stop", "y", "--system",
                 "be brief", "--ignore-eos", "--raw", "--logprobs=2"),
             0);
    static const char *const want[] = {
        "\"max_tokens\":5",       "\"temperature\":0",       "\"top_k\":40",
        "\"top_p\":0.9",          "\"min_p\":0.1",           "\"seed\":7",
        "\"stop\":[\"x\",\"y\"]", "\"system\":\"be brief\"", "\"ignore_eos\":true",
        "\"raw\":true",           "\"logprobs\":2",          "\"keep\":false",
        "\"model\":\"fake\""};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        if (fakecore_count(core, want[i]) != 1)
            t_fail(__FILE__, __LINE__, "START has no %s", want[i]);
    CHECK_EQ(RUN("run", "fake", "1 2,3", "--ids"), 0);
    CHECK_EQ(fakecore_count(core, "\"input\":\"tokens\""), 1);
    CHECK_EQ(RUN("run", "fake", "1 x", "--ids"), 2);
    CHECK_EQ(RUN("ask", "-s", "fake", "--fork", "hi"), 0);
    CHECK_EQ(fakecore_count(core, "\"fork\":true"), 1);
    down();
}

static void ctrl_c_cancels_and_keeps_what_is_there(void)
{
    up();
    int o, e;
    char first[64];
    pid_t pid = begin((const char *const[]){"run", "fake", "words=1000000 pace=20", NULL}, &o,
                      &e, NULL);
    CHECK(read(o, first, sizeof first) > 0);
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid, o, e), 130);
    CHECK(strstr(err, "[cancelled]"));
    CHECK_EQ(cancels(1), 1);
    down();
}

static void a_signal_cancels_like_ctrl_c(void)
{
    static const int sigs[] = {SIGTERM, SIGHUP};
    for (int i = 0; i < 2; i++) {
        up();
        int o, e;
        char first[64];
        pid_t pid = begin((const char *const[]){"run", "fake", "words=1000000 pace=20", NULL},
                          &o, &e, NULL);
        CHECK(read(o, first, sizeof first) > 0);
        kill(pid, sigs[i]);
        CHECK_EQ(finish(pid, o, e), 128 + sigs[i]);
        CHECK_EQ(cancels(1), 1);
        down();
    }
}

static void an_answer_outlives_its_daemon(void)
{
    up();
    int o, e;
    char first[64];
    pid_t pid = begin((const char *const[]){"run", "fake", "words=30 pace=30", "-q", NULL}, &o,
                      &e, NULL);
    ssize_t n = read(o, first, sizeof first);
    fakecore_kill(core_pid);
    poll(NULL, 0, 300);
    core_pid = fakecore(core);
    CHECK_EQ(finish(pid, o, e), 0);
    char want[400] = "", got[1000];
    for (int i = 0; i < 30; i++)
        sprintf(want + strlen(want), "w%d ", i);
    strcat(want, "\n");
    snprintf(got, sizeof got, "%.*s%.900s", (int)n, first, out);
    if (strcmp(got, want) != 0)
        t_fail(__FILE__, __LINE__, "got \"%s\"", got);
    CHECK_EQ(fakecore_count(core, "50 {"), 2);
    down();
}

static void ctrl_c_without_a_daemon_says_what_becomes_of_the_answer(void)
{
    up();
    int o, e;
    char first[64];
    pid_t pid =
        begin((const char *const[]){"run", "fake", "words=500 pace=20", NULL}, &o, &e, NULL);
    CHECK(read(o, first, sizeof first) > 0);
    fakecore_kill(core_pid);
    poll(NULL, 0, 300);
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid, o, e), 130);
    CHECK(strstr(err, "was not told to stop; nobody reads the answer any more, so it does not "
                      "go on with it, now or after a restart") &&
          !strstr(err, "may go on"));
    core_pid = fakecore(core);
    down();
}

/* Before START was answered there is nothing yet to go on with: the same START is sent again. */
static void a_question_outlives_its_daemon(void)
{
    up();
    int o, e;
    pid_t pid = begin((const char *const[]){"run", "fake", "slow words=3", NULL}, &o, &e, NULL);
    poll(NULL, 0, 1000);
    fakecore_kill(core_pid);
    poll(NULL, 0, 1500);
    core_pid = fakecore(core);
    CHECK_EQ(finish(pid, o, e), 0);
    CHECK(strcmp(out, "w0 w1 w2 \n") == 0);
    CHECK(strstr(err, "waiting up to two minutes"));
    CHECK(fakecore_count(core, "50 {") >= 2);
    fakecore_kill(core_pid);
    uint64_t t0 = now_ns();
    CHECK_EQ(RUN("run", "fake", "words=1"), 3); /* never there: no waiting */
    CHECK(now_ns() - t0 < 4000000000ull);
    core_pid = fakecore(core);
    down();
}

static void chat_reads_lines_and_commands(void)
{
    up();
    CHECK_EQ(RUN_IN("words=2\n/help\nwords=1\n/nosuch\n/quit\nwords=9\n", "chat", "-m", "fake"),
             2);
    CHECK(strcmp(out, "w0 w1 \nw0 \n") == 0);
    CHECK(strstr(err, "/rewind") && strstr(err, "/nosuch"));
    CHECK_EQ(fakecore_count(core, "50 {"), 2);
    CHECK_EQ(fakecore_count(core, "\"session\":\"fake\""), 1); /* the second turn names it */
    CHECK_EQ(RUN_IN("one \\\nquestion words=1\n", "chat", "-s", "fake"), 0);
    CHECK_EQ(fakecore_count(core, "50 {"), 3);
    down();
}

static void chat_refuses_what_ask_refuses(void)
{
    up();
    CHECK_EQ(RUN_IN("hi\n", "chat", "-s", "fake", "-m", "other"), 1);
    CHECK(strstr(err, "belongs to model fake, not to other"));
    CHECK_EQ(RUN_IN("hi\n", "chat", "-m", "nosuch"), 4);
    CHECK_EQ(RUN_IN("hi\n", "chat", "-s", "talk", "-m", "nosuch"), 4);
    CHECK_EQ(RUN_IN("hi\n", "chat", "-s", "a\033[2Jb"), 2);
    CHECK(strstr(err, "a\\x1b[2Jb") && !strchr(err, '\033'));
    CHECK_EQ(RUN_IN("hi\n", "chat", "-s", "a\xff"), 2);
    CHECK(strstr(err, "\"a\\xff\" is not UTF-8"));
    CHECK_EQ(fakecore_count(core, "50 {"), 0);
    CHECK_EQ(RUN_IN("/save x\n/fork\n/rewind\n/quit\n", "chat", "-s", "talk"), 1);
    CHECK(strstr(err, "/save: nothing has been said here yet") && strstr(err, "/fork: ") &&
          strstr(err, "/rewind: ") && !strstr(err, "no session"));
    down();
}

/* A chat with the core of up() on a terminal of its own. */
static pid_t chat_on_terminal(int *ret_fd, const char *locale)
{
    int fd, st;

    if (openpty(&fd, &st, NULL, NULL, NULL) < 0)
        t_skip("no terminal can be made here (is /dev/pts mounted?)");
    close(fd);
    close(st);
    up();
    fflush(NULL);
    pid_t pid = forkpty(ret_fd, NULL, NULL, NULL);
    CHECK(pid >= 0);
    if (pid == 0) {
        setenv("HOME", dir, 1);
        setenv("TERM", "dumb", 1);
        setenv("LC_ALL", locale, 1); /* empty: as unset */
        unsetenv("LC_CTYPE");
        unsetenv("LANG");
        execl(built("hearth"), "hearth", "--socket", url, "chat", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void chat_says_on_a_terminal_who_answers(void)
{
    char got[8192];
    size_t n = 0;
    int fd, st;

    pid_t pid = chat_on_terminal(&fd, "C.UTF-8");
    while (n < sizeof got - 1) {
        ssize_t k = read(fd, got + n, sizeof got - 1 - n);
        if (k <= 0)
            break;
        n += (size_t)k;
        got[n] = 0;
        if (strstr(got, "> "))
            (void)!write(fd, "/quit\r", 6);
    }
    got[n] = 0;
    close(fd);
    waitpid(pid, &st, 0);
    CHECK(strstr(got, "fake; /help lists what can be typed"));
    down();
}

/* Not every machine has the locale that somebody's shell names. */
static void what_is_typed_arrives_in_any_locale(void)
{
    static const char *const locale[] = {"", "C", "C.UTF-8", "xx_YY.UTF-8"};
    for (size_t i = 0; i < sizeof locale / sizeof *locale; i++) {
        char got[8192] = "";
        size_t n = 0, from = 0, step = 0;
        int fd, st;

        pid_t pid = chat_on_terminal(&fd, locale[i]);
        while (n < sizeof got - 1) {
            ssize_t k = read(fd, got + n, sizeof got - 1 - n);
            if (k <= 0)
                break;
            n += (size_t)k;
            got[n] = 0;
            if (step == 2 || !strstr(got + from, step ? "w0 w1" : "> "))
                continue;
            const char *keys = step ? "/quit\r" : "words=2 log=Gr\303\274\303\237e\r";
            (void)!write(fd, keys, strlen(keys));
            from = n;
            step++;
        }
        close(fd);
        waitpid(pid, &st, 0);
        if (step != 2 || fakecore_count(core, "log=Gr\303\274\303\237e") != 1)
            t_fail(__FILE__, __LINE__, "LC_ALL=%s: step %zu: %s", locale[i], step, got);
        down();
    }
}

/* The daemon goes while somebody sits at the prompt: he is told, and asks again when it is back. */
static void chat_stays_at_its_prompt_without_a_daemon(void)
{
    static const char *const wait[] = {"> ", "hearth serve", "w0 w1 w2"};
    static const char *const type[] = {"hi\r", "words=3\r", "/quit\r"};
    char got[8192] = "";
    size_t n = 0, from = 0, step = 0;
    int fd, st;

    pid_t pid = chat_on_terminal(&fd, "C.UTF-8");
    while (n < sizeof got - 1) {
        ssize_t k = read(fd, got + n, sizeof got - 1 - n);
        if (k <= 0)
            break;
        n += (size_t)k;
        got[n] = 0;
        if (step == 3 || !strstr(got + from, wait[step]))
            continue;
        if (step == 0)
            fakecore_kill(core_pid);
        else if (step == 1)
            core_pid = fakecore(core);
        (void)!write(fd, type[step], strlen(type[step]));
        from = n;
        step++;
    }
    close(fd);
    waitpid(pid, &st, 0);
    if (step != 3 || !WIFEXITED(st) || WEXITSTATUS(st) != 0)
        t_fail(__FILE__, __LINE__, "step %zu, status %d: %s", step, st, got);
    if (step < 2)
        core_pid = fakecore(core);
    down();
}

static void what_is_said_is_of_what_was_typed(void)
{
    up();
    CHECK_EQ(RUN("ask", "-s", "caf\xe9", "hi"), 2);
    CHECK(strstr(err, "--session: the name \"caf\\xe9\" is not UTF-8"));
    CHECK_EQ(RUN("sessions", "rename", "fake", "\xed\xa0\x80"), 2);
    CHECK(strstr(err, "\\xed\\xa0\\x80"));
    CHECK_EQ(RUN("run", "m\033", "hi"), 2);
    CHECK_EQ(RUN("ask", "-s", "caf\xc3\xa9 \xf0\x9f\xa6\x94", "hi"), 0);
    CHECK_EQ(RUN("sessions", "rewind", "fake", "--to", "99"), 1);
    CHECK(strstr(err, "--to: want 0 to 1"));
    CHECK_EQ(RUN("sessions", "rewind", "fake", "--to", "99", "--json"), 1);
    CHECK(strstr(out, "\"--to: want 0 to 1") && strstr(out, "\"field\":\"--to\""));
    down();
}

static void lists_print_tables_and_json(void)
{
    up();
    CHECK_EQ(RUN("models"), 0);
    CHECK(strstr(out, "NAME") && strstr(out, "fake") && strstr(out, "8,192"));
    CHECK_EQ(RUN("models", "--json"), 0);
    CHECK(strstr(out, "{\"models\":["));
    CHECK_EQ(RUN("sessions"), 0);
    CHECK(strstr(out, "fake") && strstr(out, "4.0 KiB"));
    CHECK_EQ(RUN("sessions", "ls", "--json"), 0);
    CHECK(strstr(out, "{\"sessions\":["));
    CHECK_EQ(RUN("sessions", "show", "fake", "--ids", "--json"), 0);
    CHECK(strstr(out, "\"ids\":[5,6,7]"));
    CHECK_EQ(RUN("ps"), 0);
    CHECK(strstr(out, "for ever") && !strstr(out, "other"));
    CHECK_EQ(RUN("tokenize", "hello"), 0);
    CHECK(strcmp(out, "5 6 7\n") == 0);
    CHECK_EQ(RUN("tokenize", "hello", "--json"), 0);
    CHECK(strstr(out, "\"tokens\":[5,6,7]"));
    CHECK_EQ(RUN("status", "--json"), 0);
    CHECK_EQ(RUN("status"), 0);
    CHECK(strstr(out, "sessions 3 named, 2 anonymous"));
    CHECK(!strstr(out, " \n"));
    CHECK_EQ(RUN("models"), 0);
    CHECK(!strstr(out, " \n"));
    CHECK_EQ(RUN("du"), 0);
    CHECK_EQ(RUN("version"), 0);
    CHECK(strstr(out, "fakecore"));
    int code = RUN("doctor", "--json");
    CHECK(code == 0 || code == 1 || code == 130);
    CHECK(strstr(out, "\"check\":\"daemon\",\"result\":\"ok\""));
    down();
}

/* Its daemon is an extra, but nothing is left out without a word, or asked for in vain. */
static void a_version_says_why_there_is_none_of_a_daemon(void)
{
    char gone[200];
    up();
    snprintf(gone, sizeof gone, "unix://%s/nobody.sock", dir);
    for (int flag = 0; flag < 2; flag++) {
        const char *verb = flag ? "--version" : "version";
        CHECK_EQ(RUN("--socket", "tcp://x", verb), 2);
        CHECK(!out[0] && strstr(err, "--socket: want ipc://PATH or unix://PATH"));
        CHECK_EQ(RUN("--socket", "tcp://x", verb, "--json"), 2);
        CHECK(strstr(out, "\"field\":\"--socket\""));
        CHECK_EQ(RUN("--socket", gone, verb), 0);
        CHECK(strncmp(out, "hearth ", 7) == 0 && strstr(err, "no daemon listens at "));
        CHECK_EQ(RUN("--socket", gone, verb, "-q"), 0);
        CHECK(!err[0]);
        CHECK_EQ(RUN("--socket", gone, verb, "--json"), 0);
        CHECK(strstr(out, "\"daemon\":null") && !err[0]);
    }
    CHECK_EQ(RUN("--version"), 0);
    CHECK(strstr(out, "fakecore") && !err[0]);
    CHECK_EQ(RUN("fsck"), 1);
    CHECK(strstr(err, "from the turn log"));
    down();
}

static void help_lists_every_verb(void)
{
    up();
    CHECK_EQ(RUN("help"), 0);
    CHECK(strstr(out, "machine-readable output (help and completion are text)"));
    static const char *const v[] = {"serve",         "run",    "chat", "ingest", "ask",
                                    "sessions fork", "models", "load", "doctor"};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        CHECK(strstr(out, v[i]));
    CHECK_EQ(RUN("help", "ask"), 0);
    CHECK(strstr(out, "--fork") && strstr(out, "--temp"));
    CHECK_EQ(RUN("ask", "--help"), 0);
    CHECK(strstr(out, "--fork"));
    CHECK_EQ(RUN("help", "sessions", "rewind"), 0);
    CHECK(strstr(out, "--tokens"));
    CHECK_EQ(RUN("help", "chat"), 0);
    CHECK(!strstr(out, "--ids") && strstr(out, "--temp"));
    CHECK_EQ(RUN("help", "akk"), 2);
    down();
}

static bool line_has(const char *name, const char *words)
{
    char line[400];
    const char *at = strstr(out, name), *end = at ? strchr(at, '\n') : NULL;
    while (end && at > out && at[-1] != '\n')
        at--;
    snprintf(line, sizeof line, "%.*s", end ? (int)(end - at) : 0, at ? at : "");
    return strstr(line, words) != NULL;
}

static void bytes_that_are_not_known_are_a_dash(void)
{
    up();
    static const char *const verb[] = {"sessions", "du"};
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ(RUN(verb[i]), 0);
        CHECK(line_has("fake", "4.0 KiB"));
        CHECK(line_has("it's", " - ") && !line_has("it's", " B"));
    }
    down();
}

T_MAIN({"flags_are_checked_whether_used_or_not", flags_are_checked_whether_used_or_not},
       {"exit_codes_say_what_happened", exit_codes_say_what_happened},
       {"errors_are_json_when_asked", errors_are_json_when_asked},
       {"a_refused_fork_is_not_named", a_refused_fork_is_not_named},
       {"advice_is_the_hint", advice_is_the_hint},
       {"a_daemon_out_of_reach_is_told_from_none", a_daemon_out_of_reach_is_told_from_none},
       {"a_users_mistake_names_its_field", a_users_mistake_names_its_field},
       {"a_cancelled_answer_ends_as_one", a_cancelled_answer_ends_as_one},
       {"the_beginning_of_an_id_is_enough", the_beginning_of_an_id_is_enough},
       {"what_changes_or_removes_wants_eight_digits_of_an_id",
        what_changes_or_removes_wants_eight_digits_of_an_id},
       {"answers_go_to_stdout_and_the_rest_to_stderr",
        answers_go_to_stdout_and_the_rest_to_stderr},
       {"words_and_an_answer_in_one_file_have_lines_of_their_own",
        words_and_an_answer_in_one_file_have_lines_of_their_own},
       {"numbers_of_one_have_no_plural", numbers_of_one_have_no_plural},
       {"who_removes_one_twice_removes_it_once", who_removes_one_twice_removes_it_once},
       {"what_is_given_wrong_is_answered_in_words_of_it",
        what_is_given_wrong_is_answered_in_words_of_it},
       {"what_is_piped_in_follows_the_question", what_is_piped_in_follows_the_question},
       {"the_done_object_has_its_keys", the_done_object_has_its_keys},
       {"text_lines_never_split_a_code_point", text_lines_never_split_a_code_point},
       {"flags_reach_start", flags_reach_start},
       {"ctrl_c_cancels_and_keeps_what_is_there", ctrl_c_cancels_and_keeps_what_is_there},
       {"a_signal_cancels_like_ctrl_c", a_signal_cancels_like_ctrl_c},
       {"ctrl_c_without_a_daemon_says_what_becomes_of_the_answer",
        ctrl_c_without_a_daemon_says_what_becomes_of_the_answer},
       {"an_answer_outlives_its_daemon", an_answer_outlives_its_daemon},
       {"a_question_outlives_its_daemon", a_question_outlives_its_daemon},
       {"chat_reads_lines_and_commands", chat_reads_lines_and_commands},
       {"chat_refuses_what_ask_refuses", chat_refuses_what_ask_refuses},
       {"chat_says_on_a_terminal_who_answers", chat_says_on_a_terminal_who_answers},
       {"what_is_typed_arrives_in_any_locale", what_is_typed_arrives_in_any_locale},
       {"chat_stays_at_its_prompt_without_a_daemon", chat_stays_at_its_prompt_without_a_daemon},
       {"what_is_said_is_of_what_was_typed", what_is_said_is_of_what_was_typed},
       {"lists_print_tables_and_json", lists_print_tables_and_json},
       {"a_version_says_why_there_is_none_of_a_daemon",
        a_version_says_why_there_is_none_of_a_daemon},
       {"help_lists_every_verb", help_lists_every_verb},
       {"bytes_that_are_not_known_are_a_dash", bytes_that_are_not_known_are_a_dash})
