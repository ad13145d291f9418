/* test_ingest.c - hearth ingest against a fake core: what is in already, and what was stopped. */
#include "tests/client/cliproc.h"

static void documents_are_put_in_once(void)
{
    fakecore_grows = true;
    up();
    char doc[120];
    snprintf(doc, sizeof doc, "%s/doc.txt", dir);
    FILE *f = fopen(doc, "we");
    fprintf(f, "words=0 a document without a newline at its end");
    fclose(f);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc, "--json"), 0);
    CHECK(strstr(out, "\"type\":\"done\"") && strstr(out, "\"generated\":0"));
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 1);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc), 0);
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 1); /* in already */
    CHECK(strstr(err, "already"));
    CHECK_EQ(RUN("ingest", "-s", "fake", doc, "--json"), 0);
    CHECK(strstr(out, "\"type\":\"done\""));
    int opened = fakecore_count(core, "\"create\":true");
    CHECK_EQ(RUN("ingest", "-s", "new", "/nonexistent"), 1);
    CHECK(strstr(err, "/nonexistent"));
    CHECK_EQ(RUN("ingest", "-s", "new", doc, "/nonexistent"), 1);
    CHECK_EQ(RUN_IN("", "ingest", "-s", "new", "-"), 1);
    CHECK(strstr(err, "is empty"));
    char none[120];
    snprintf(none, sizeof none, "%s/none.txt", dir);
    f = fopen(none, "we");
    fclose(f);
    for (int i = 0; i < 2; i++) { /* the first, and one behind it */
        CHECK_EQ(i ? RUN("ingest", "-s", "new", doc, none) : RUN("ingest", "-s", "new", none),
                 1);
        CHECK(strstr(err, "none.txt is empty"));
    }
    CHECK_EQ(RUN_IN("/quit\n", "chat", "-s", "new"), 0);
    CHECK_EQ(fakecore_count(core, "\"create\":true"), opened); /* nothing empty is left */
    CHECK_EQ(RUN("ingest", doc), 2);
    fakecore_grows = false;
    down();
}

/* A size of 0 is what the kernel says of files that it makes as they are read. */
static void what_has_no_size_is_read(void)
{
    fakecore_grows = true;
    up();
    char doc[120];
    snprintf(doc, sizeof doc, "%s/doc.txt", dir);
    FILE *f = fopen(doc, "we");
    fprintf(f, "words=0 a document");
    fclose(f);
    CHECK_EQ(RUN("ingest", "-s", "fake", "/proc/version"), 0);
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 1);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc, "/proc/self/status"), 0);
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 3);
    fakecore_grows = false;
    down();
}

/* Neither is asked for its text, which could be more than one answer holds. */
static void each_document_is_its_turn(void)
{
    fakecore_grows = true;
    up();
    char doc[2][120];
    for (int i = 0; i < 2; i++) {
        snprintf(doc[i], sizeof doc[i], "%s/doc%d.txt", dir, i);
        FILE *f = fopen(doc[i], "we");
        fprintf(f, "words=0 document %d", i);
        fclose(f);
        CHECK_EQ(RUN("ingest", "-s", "fake", doc[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(RUN("ingest", "-s", "fake", doc[i]), 0);
        CHECK(strstr(err, "already (3 tokens)"));
    }
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 2);
    CHECK_EQ(fakecore_count(core, "\"position\""), 0);
    fakecore_grows = false;
    down();
}

/* Between the look at the session and the document. */
static void one_that_came_between_is_not_taken_for_it(void)
{
    fakecore_grows = true;
    up();
    char doc[120], path[400];
    snprintf(doc, sizeof doc, "%s/doc.txt", dir);
    FILE *f = fopen(doc, "we");
    fprintf(f, "behind words=0");
    fclose(f);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc), 0);
    snprintf(path, sizeof path, "grep -qr '\"before\": *3[,}]' '%s'", dir);
    CHECK_EQ(system(path), 0);
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 1);
    fakecore_grows = false;
    down();
}

static void a_document_that_is_in_is_durable_when_the_daemon_says_so(void)
{
    static const char *const name[] = {"loose", "fake"};
    static const char *const want[] = {"\"durable\":false", "\"durable\":true"};
    fakecore_grows = true;
    up();
    char doc[120];
    snprintf(doc, sizeof doc, "%s/doc.txt", dir);
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(doc, "we");
        fprintf(f, "words=0 a document of %s", name[i]);
        fclose(f);
        CHECK_EQ(RUN("ingest", "-s", name[i], doc), 0);
        CHECK_EQ(RUN("ingest", "-s", name[i], doc), 0);
        CHECK(strstr(err, "already") && (strstr(err, "NOT on disk") != NULL) == (i == 0));
        CHECK_EQ(RUN("ingest", "-s", name[i], doc, "--json"), 0);
        CHECK(strstr(out, want[i]));
    }
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 2);
    fakecore_grows = false;
    down();
}

static void a_stopped_ingest_goes_on(void)
{
    up();
    char doc[120];
    int o, e;
    snprintf(doc, sizeof doc, "%s/doc.txt", dir);
    FILE *f = fopen(doc, "we");
    fprintf(f, "a document that takes a while: slow\n");
    fclose(f);
    pid_t pid = begin((const char *const[]){"ingest", "-s", "fake", doc, NULL}, &o, &e, NULL);
    for (int i = 0; i < 300 && !fakecore_count(core, "\"input\":\"documents\""); i++)
        poll(NULL, 0, 10);
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid, o, e), 130);
    CHECK(strstr(err, "goes on"));
    /* The fake forgets it with a restart: what is not known any more is a request of its own. */
    fakecore_kill(core_pid);
    core_pid = fakecore(core);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc), 0);
    CHECK_EQ(fakecore_count(core, "\"input\":\"documents\""), 2);
    char log[200], id[2][64] = {"", ""}, *line = NULL;
    size_t cap = 0;
    int n = 0;
    snprintf(log, sizeof log, "%s.log", core);
    f = fopen(log, "re");
    while (getline(&line, &cap, f) > 0)
        if (strstr(line, "documents") && n < 2)
            snprintf(id[n++], 64, "%.44s", line);
    fclose(f);
    free(line);
    CHECK(id[0][0] && id[1][0] && strcmp(id[0], id[1]) != 0);
    down();
}

/* By another than who waits for it: what was read is not all, and a document is no answer. */
static void a_cancelled_ingest_is_not_read_to_its_end(void)
{
    up();
    char doc[120];
    int o, e;
    snprintf(doc, sizeof doc, "%s/doc.txt", dir);
    FILE *f = fopen(doc, "we");
    fprintf(f, "reads=30000\n");
    fclose(f);
    pid_t pid = begin((const char *const[]){"ingest", "-s", "fake", doc, NULL}, &o, &e, NULL);
    for (int i = 0; i < 300 && !fakecore_count(core, "\"input\":\"documents\""); i++)
        poll(NULL, 0, 10);
    poll(NULL, 0, 1500); /* longer than a stage that is not worth a line */
    CHECK_EQ(RUN("cancel", "fake"), 0);
    CHECK(strstr(err, "is cancelled; 11 of its document's 40 tokens are read and kept"));
    CHECK(!strstr(err, "answer"));
    CHECK_EQ(finish(pid, o, e), 130);
    CHECK(!strstr(err, "100 %") && !strstr(err, "t/s"));
    CHECK(strstr(err, "cancelled before its end; what was read of it is kept"));
    CHECK_EQ(RUN("cancel", "fake", "--json"), 0);
    CHECK(strstr(out, "\"ingest\":{\"done\":11,\"total\":40}"));
    down();
}

/* --json says of each document what the words say. */
static void each_document_is_told(void)
{
    fakecore_grows = true;
    up();
    char doc[2][120], want[500];
    for (int i = 0; i < 2; i++) {
        snprintf(doc[i], sizeof doc[i], "%s/doc%d.txt", dir, i);
        FILE *f = fopen(doc[i], "we");
        fprintf(f, "document %d\n", i);
        fclose(f);
    }
    CHECK_EQ(RUN("ingest", "-s", "fake", doc[0], "--json"), 0);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc[0], doc[1], "--json"), 0);
    snprintf(want, sizeof want,
             "\"documents\":[{\"document\":\"%s\",\"session\":\"fake\",\"already\":true,"
             "\"finish\":\"stop\",\"tokens\":3,\"durable\":true},{\"document\":\"%s\","
             "\"session\":\"fake\",\"already\":false,\"finish\":\"stop\",\"tokens\":3,"
             "\"durable\":true,\"usage\":{",
             doc[0], doc[1]);
    CHECK(strstr(out, want));
    char *done = strstr(out, "\"type\":\"done\"");
    CHECK(done && !strstr(done + 1, "\"type\":\"done\"")); /* one for the session */
    CHECK_EQ(RUN("ingest", "-s", "fake", doc[0], doc[1], "--json"), 0); /* nothing to be sent */
    CHECK(strstr(out, "\"usage\"") && strstr(out, doc[0]) && strstr(out, doc[1]));
    FILE *f = fopen(doc[1], "we");
    fprintf(f, "fail\n");
    fclose(f);
    CHECK_EQ(RUN("ingest", "-s", "fake", doc[0], doc[1], "--json"), 1);
    CHECK(strstr(out, "\"type\":\"error\"") && strstr(out, "\"documents\":[{\"document\":"));
    CHECK(!strstr(out, doc[1])); /* it is not in */
    fakecore_grows = false;
    down();
}

T_MAIN({"what_has_no_size_is_read", what_has_no_size_is_read},
       {"documents_are_put_in_once", documents_are_put_in_once},
       {"each_document_is_its_turn", each_document_is_its_turn},
       {"one_that_came_between_is_not_taken_for_it", one_that_came_between_is_not_taken_for_it},
       {"a_document_that_is_in_is_durable_when_the_daemon_says_so",
        a_document_that_is_in_is_durable_when_the_daemon_says_so},
       {"a_stopped_ingest_goes_on", a_stopped_ingest_goes_on},
       {"each_document_is_told", each_document_is_told},
       {"a_cancelled_ingest_is_not_read_to_its_end", a_cancelled_ingest_is_not_read_to_its_end})
