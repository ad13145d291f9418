/* cmd_doctor.c - looks at what Hearth needs of this machine, and says what to do. */
#include "base/access.h"
#include "base/shell.h"
#include "client/cli.h"
#include "client/place.h"
#include "client/say.h"
#include "client/words.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum verdict { GOOD, WARN, BAD };
struct doctor {
    struct cli *c;
    cJSON *list;
    int bad, warned;
    bool none;        /* there is no model: before that nothing can be asked */
    char state[4096]; /* where the store is, or would be; "" when nobody can say */
    bool runs;        /* a daemon has it now */
    int why;          /* that the last call of it failed: negative */
};

__attribute__((format(printf, 5, 6))) static void found(struct doctor *d, enum verdict v,
                                                        const char *what, const char *remedy,
                                                        const char *fmt, ...)
{
    static const char *const word[] = {"ok", "warn", "FAIL"}, *const color[] = {"\033[32m",
                                                                                "\033[33m",
                                                                                "\033[31m"};
    char words[400];
    bool paint = d->c->color && d->c->out_tty;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(words, sizeof words, fmt, ap);
    va_end(ap);
    d->bad += v == BAD;
    d->warned += v == WARN;
    if (d->c->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "check", what);
        cJSON_AddStringToObject(o, "result", v == BAD ? "fail" : word[v]);
        cJSON_AddStringToObject(o, "message", words);
        if (v != GOOD && remedy)
            cJSON_AddStringToObject(o, "remedy", remedy);
        cJSON_AddItemToArray(d->list, o);
        return;
    }
    fputs(paint ? color[v] : "", stdout);
    say_out("%-4s", word[v]);
    fputs(paint ? "\033[0m" : "", stdout);
    say_out("  %-12s %s\n", what, shown(words));
    if (v != GOOD && remedy)
        say_out("      %-12s -> %s\n", "", shown(remedy));
}

/* --- the daemon ---------------------------------------------------------------------------- */
static cJSON *ask(struct doctor *d, enum hrt_type type, struct errbuf *eb)
{
    struct hearth_reply rep = {0};
    cJSON *o = NULL;
    if (!d->c->conn && hearth_connect(&d->c->conn, d->c->url, eb) < 0)
        return NULL;
    int r = d->why = hearth_call(
        d->c->conn, type,
        type == HRT_HELLO ? "{\"min\":1,\"max\":1,\"client\":\"hearth doctor\"}" : NULL, NULL,
        0, 5000, &rep, eb);
    if (r == 0 && rep.status == HRT_OK)
        o = cJSON_Parse(rep.json);
    else if (r == 0)
        err_set(eb, -EIO, "it answers %s: %.300s", hrt_status_str(rep.status), rep.json);
    hearth_reply_fini(&rep);
    return o;
}

static void daemon_there(struct doctor *d)
{
    struct errbuf eb = {""};
    const cJSON *w;
    cJSON *hello = ask(d, HRT_HELLO, &eb), *st = hello ? ask(d, HRT_STATUS, &eb) : NULL;
    if (!hello) {
        found(d, WARN, "daemon",
              d->why == -EACCES  ? cli_no_access(d->c->url)
              : d->why == -EPERM ? NULL /* its words say what to do */
                                 : "start it: hearth serve, or systemctl --user start hearthd",
              "%s", eb.s);
        return;
    }
    found(d, GOOD, "daemon", NULL, "%s, pid %.0f, answers at %s", j_str(hello, "server", "?"),
          j_num(hello, "pid", 0), d->c->url);
    if (st && j_str(st, "state", NULL)) {
        snprintf(d->state, sizeof d->state, "%s", j_str(st, "state", ""));
        d->runs = true;
    }
    if (st) {
        bool ok = strcmp(j_str(st, "status", ""), "ok") == 0;
        found(d, ok ? GOOD : WARN, "status", "see the warnings, and the daemon's log",
              "%s, backend %s, I/O by %s", j_str(st, "status", "?"), j_str(st, "backend", "?"),
              j_str(st, "io", "?"));
        if (j_str(st, "http", NULL))
            found(d, GOOD, "http", NULL, "served at %s", j_str(st, "http", ""));
        else
            found(d, j_str(st, "http_set", NULL) ? WARN : GOOD, "http",
                  j_str(st, "http_error", NULL)
                      ? "see the warning"
                      : "see the daemon's log for why, or look again in a moment",
                  "%s", j_str(st, "http_set", NULL) ? "not served yet" : "off");
        cJSON_ArrayForEach(w, j_get(st, "warnings"))
            found(d, WARN, "warning", NULL, "%s", cJSON_IsString(w) ? w->valuestring : "?");
    }
    cJSON_Delete(hello);
    cJSON_Delete(st);
}

static void models(struct doctor *d)
{
    struct errbuf eb = {""};
    char dir[4096], todo[4400];
    const cJSON *m;
    int n = 0;
    cJSON *o = d->c->conn ? ask(d, HRT_MODEL_LIST, &eb) : NULL;
    if (o) {
        cJSON_ArrayForEach(m, j_get(o, "models"))
        {
            n++;
            if (strcmp(j_str(m, "state", ""), "failed") == 0)
                found(d, BAD, "model", "replace or remove the file", "%s: %s",
                      j_str(m, "name", "?"), j_str(m, "error", "cannot be loaded"));
        }
        snprintf(
            todo, sizeof todo,
            "first of all: put a GGUF file into %s (%s), or start hearthd with --model FILE",
            j_str(o, "directory", "the directory of its --models"), CLI_GET_MODEL);
        d->none = n == 0;
        found(d, n ? GOOD : BAD, "models", todo, "%d known to the daemon", n);
        cJSON_Delete(o);
        return;
    }
    if (place_models(dir, sizeof dir) < 0)
        return;
    DIR *p = opendir(dir);
    for (struct dirent *e; p && (e = readdir(p));) {
        size_t len = strlen(e->d_name);
        n += len > 5 && strcmp(e->d_name + len - 5, ".gguf") == 0;
    }
    if (p)
        closedir(p);
    d->none = n == 0;
    found(d, n ? GOOD : BAD, "models",
          "first of all: put a GGUF file there (" CLI_GET_MODEL
          "), or start hearthd with --model FILE",
          "%d GGUF file%s in %s", n, words_s(n), dir);
}

/* --- the machine --------------------------------------------------------------------------- */
static void runtime_dir(struct doctor *d)
{
    char dir[4096], word[SHELL_WORD_BYTES(4096)], todo[sizeof word + 40];
    struct stat st;
    if (place_runtime(dir, sizeof dir) < 0)
        return;
    (void)shell_word(word, sizeof word, dir);
    snprintf(todo, sizeof todo, "chmod 700 %s", word);
    if (stat(dir, &st) < 0) {
        found(d, errno == ENOENT ? GOOD : BAD, "runtime dir", "check its parent's permissions",
              "%s: %s", dir,
              errno == ENOENT ? "not there yet, the daemon makes it" : strerror(errno));
        return;
    }
    if (!S_ISDIR(st.st_mode) || (st.st_uid != getuid() && st.st_uid != 0))
        found(d, BAD, "runtime dir",
              "remove it, or set XDG_RUNTIME_DIR to a directory of yours",
              "%s belongs to uid %u", dir, st.st_uid);
    else if (st.st_mode & 022)
        found(d, BAD, "runtime dir", todo, "%s may be written by others (mode %03o)", dir,
              st.st_mode & 0777);
    else
        found(d, GOOD, "runtime dir", NULL, "%s", dir);
}

/* --- the state directory -------------------------------------------------------------------- */
static struct {
    char path[4096], remedy[SHELL_WORD_BYTES(4096) + 40];
    int count, others; /* of them those that are another user's */
} denied;              /* nftw() hands its caller nothing on */

static int state_file(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)at;
    bool dir = type == FTW_D || type == FTW_DNR;
    if (type == FTW_NS || (!dir && !S_ISREG(st->st_mode)) ||
        faccessat(AT_FDCWD, path, R_OK | W_OK | (dir ? X_OK : 0), AT_EACCESS) == 0)
        return 0;
    denied.others += st->st_uid != geteuid();
    if (denied.count++ == 0) {
        snprintf(denied.path, sizeof denied.path, "%s", path);
        if (!access_remedy(path, denied.remedy, sizeof denied.remedy))
            snprintf(denied.remedy, sizeof denied.remedy, "give this user the right to it");
    }
    return 0;
}

/* One command for one file; for several one that mends them all, whosever they are. */
static void remedy_for(const char *dir, char *ret, size_t cap)
{
    char word[SHELL_WORD_BYTES(4096)];
    (void)shell_word(word, sizeof word, dir);
    if (denied.count < 2)
        snprintf(ret, cap, "%s", denied.remedy);
    else if (!denied.others)
        snprintf(ret, cap, "chmod -R u+rwX %s", word);
    else if (denied.others == denied.count)
        snprintf(ret, cap, "sudo chown -R %u %s", geteuid(), word);
    else
        snprintf(ret, cap, "sudo chown -R %u %s && chmod -R u+rwX %s", geteuid(), word, word);
}

/* What is in it, for who runs the daemon: the system's is its own user's. */
static void state_inside(struct doctor *d)
{
    char more[64] = "", todo[2 * SHELL_WORD_BYTES(4096) + 100];
    denied.count = denied.others = 0;
    (void)nftw(d->state, state_file, 8, FTW_PHYS);
    if (denied.count > 1)
        snprintf(more, sizeof more, ", and %d more", denied.count - 1);
    remedy_for(d->state, todo, sizeof todo);
    if (denied.count)
        found(d, BAD, "state dir", todo, "%s cannot be read and written%s", denied.path, more);
    else
        found(d, GOOD, "state dir", NULL, "%s", d->state);
}

static void state_dir(struct doctor *d)
{
    bool system = strncmp(d->c->url, SYSTEM_URL, sizeof SYSTEM_URL - 1) == 0;
    char word[SHELL_WORD_BYTES(4096)], todo[sizeof word + 100] = "";
    struct stat st;
    if (!d->state[0] && place_store(d->state, sizeof d->state, system) < 0)
        return;
    (void)shell_word(word, sizeof word, d->state);
    if (stat(d->state, &st) < 0 && errno == ENOENT) {
        found(d, d->runs ? BAD : GOOD, "state dir", "see the warnings above", "%s: %s",
              d->state,
              d->runs ? "is gone while a daemon uses it"
                      : "not there yet, the "
                        "daemon makes it");
    } else if (access_remedy(d->state, todo, sizeof todo) && !system) {
        found(d, BAD, "state dir", todo, "%s: this user may not read and write it", d->state);
    } else if (system && geteuid() != 0) {
        found(d, GOOD, "state dir", NULL, "%s is the system daemon's", d->state);
    } else if (stat(d->state, &st) < 0) {
        found(d, BAD, "state dir", "mend that, or give hearthd another --state", "%s: %s",
              d->state, strerror(errno));
    } else if (!S_ISDIR(st.st_mode)) {
        found(d, BAD, "state dir", "move it away", "%s is no directory", d->state);
    } else if (!system && st.st_uid != geteuid()) {
        snprintf(todo, sizeof todo, "sudo chown -R %u %s", geteuid(), word);
        found(d, BAD, "state dir", todo, "%s belongs to uid %u, this is uid %u", d->state,
              st.st_uid, geteuid());
    } else if (st.st_mode & 022) {
        snprintf(todo, sizeof todo, "chmod go-w %s", word);
        found(d, BAD, "state dir", todo, "%s may be written by others (mode %03o)", d->state,
              st.st_mode & 0777);
    } else {
        state_inside(d);
    }
}

static void io_uring(struct doctor *d)
{
    char params[120] = {0}; /* struct io_uring_params; only whether the call exists matters */
    long fd = syscall(SYS_io_uring_setup, 4, params);
    if (fd >= 0) {
        close((int)fd);
        found(d, GOOD, "io_uring", NULL, "available");
        return;
    }
    found(d, WARN, "io_uring",
          errno == EPERM
              ? "sysctl kernel.io_uring_disabled=0, or loosen the container's seccomp filter"
              : "Linux 5.6 or newer has it",
          "not available (%s); threads are used, which is slower for small blocks only",
          strerror(errno));
}

static void limits(struct doctor *d)
{
    struct rlimit r;
    char b[WORDS_BYTES];
    if (getrlimit(RLIMIT_MEMLOCK, &r) == 0) {
        bool enough = r.rlim_cur == RLIM_INFINITY || r.rlim_cur >= 64u << 20;
        found(d, enough ? GOOD : WARN, "memlock",
              "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited", "%s may be locked",
              r.rlim_cur == RLIM_INFINITY ? "any amount" : words_bytes(b, (double)r.rlim_cur));
    }
    if (getrlimit(RLIMIT_NOFILE, &r) == 0)
        found(d, r.rlim_max >= 4096 ? GOOD : WARN, "open files",
              "ulimit -Hn 65536, or LimitNOFILE= in the unit", "up to %.0f",
              (double)r.rlim_max);
}

static void memory(struct doctor *d)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char line[200], b[2][WORDS_BYTES];
    double total = 0, avail = 0, huge = 0;
    while (f && fgets(line, sizeof line, f)) {
        double v = strchr(line, ':') ? strtod(strchr(line, ':') + 1, NULL) : 0;
        if (strncmp(line, "MemTotal:", 9) == 0)
            total = v * 1024;
        else if (strncmp(line, "MemAvailable:", 13) == 0)
            avail = v * 1024;
        else if (strncmp(line, "HugePages_Free:", 15) == 0)
            huge = v;
    }
    if (f)
        fclose(f);
    found(d, avail > 1e9 ? GOOD : WARN, "memory", "end other programs, or use a smaller model",
          "%s, %s free", words_bytes(b[0], total), words_bytes(b[1], avail));
    f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    char thp[100] = "";
    if (f) {
        if (!fgets(thp, sizeof thp, f))
            thp[0] = 0;
        fclose(f);
    }
    bool on = thp[0] && !strstr(thp, "[never]");
    found(d, on || huge > 0 ? GOOD : WARN, "huge pages",
          "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
          "transparent: %s, reserved and free: %.0f",
          !thp[0] ? "unknown"
          : on    ? "on"
                  : "off",
          huge);
}

static void disk(struct doctor *d)
{
    char b[2][WORDS_BYTES], *slash;
    struct statvfs v;
    /* Before the first start it is not there: then it is on its parents' disk. */
    char at[4096];
    memcpy(at, d->state, sizeof at);
    while (statvfs(at, &v) < 0) {
        slash = strrchr(at, '/');
        if (!slash || slash == at)
            return;
        *slash = 0;
    }
    double room = (double)v.f_bavail * (double)v.f_frsize,
           all = (double)v.f_blocks * (double)v.f_frsize;
    found(d, room > 2e9 ? GOOD : WARN, "disk",
          "free some space, or give hearthd a --state on another disk",
          "%s free of %s where state is kept%s (%s)", words_bytes(b[0], room),
          words_bytes(b[1], all), d->runs ? "" : " unless --state says else", d->state);
}

static void cpu(struct doctor *d)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
    found(d, avx2 ? GOOD : WARN, "processor",
          "the portable kernels work, but several times slower", "%ld processors, %s", n,
          avx512 ? "AVX2 and AVX-512 VNNI"
          : avx2 ? "AVX2"
                 : "no AVX2");
#else
    found(d, GOOD, "processor", NULL, "%ld processors, portable kernels", n);
#endif
}

int cmd_doctor(struct cli *c, const struct args *a)
{
    struct doctor d = {.c = c, .list = cJSON_CreateArray()};
    (void)a;
    daemon_there(&d);
    models(&d);
    runtime_dir(&d);
    state_dir(&d);
    disk(&d);
    io_uring(&d);
    limits(&d);
    memory(&d);
    cpu(&d);
    if (c->json) {
        cJSON *o = cJSON_CreateObject();
        cJSON_AddItemToObject(o, "checks", d.list);
        cJSON_AddNumberToObject(o, "failed", d.bad);
        cJSON_AddNumberToObject(o, "warnings", d.warned);
        out_json(o);
        cJSON_Delete(o);
    } else {
        say_out("%s\n", d.none && d.bad == 1 ? "it wants a model first; all else will do"
                        : d.bad              ? "something must be mended"
                        : d.warned           ? "it will work; some things could be better"
                                             : "all is well");
        cJSON_Delete(d.list);
    }
    return d.bad ? CLI_FAILED : CLI_OK;
}
