/* confplace.c - see confrow.h: directories of this user, sizes of this machine. */
#include "daemon/confrow.h"
#include "daemon/units.h"
#include <errno.h>
#include <ftw.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <unistd.h>

typedef const char *env_fn(const char *name);

static char *join(const char *a, const char *b)
{
    char *p;

    return asprintf(&p, "%s/%s", a, b) < 0 ? NULL : p;
}

static const char *env_path(env_fn *env, const char *name)
{
    const char *v = env(name);

    return v && v[0] == '/' ? v : NULL;
}

static char *home_join(env_fn *env, const char *xdg, const char *under_home, const char *last)
{
    const char *x = env_path(env, xdg), *home = env_path(env, "HOME");
    struct passwd *pw;
    char *p;

    if (x)
        return join(x, last);
    if (!home && (pw = getpwuid(geteuid())) != NULL)
        home = pw->pw_dir;
    return asprintf(&p, "%s/%s/%s", home ? home : "", under_home, last) < 0 ? NULL : p;
}

/* systemd names the directories it made; several are joined by ':'. */
static const char *env_dir(env_fn *env, const char *name)
{
    const char *v = env_path(env, name);

    return v && !strchr(v, ':') ? v : NULL;
}

int confplace_paths(struct conf *c, env_fn *env, struct errbuf *eb)
{
    const char *state = env_dir(env, "STATE_DIRECTORY"),
               *run = env_dir(env, "RUNTIME_DIRECTORY");
    const char *xdg = env_path(env, "XDG_RUNTIME_DIR");
    char *tmp = NULL;

    if (!c->state)
        c->state = state       ? strdup(state)
                   : c->system ? strdup("/var/lib/hearth")
                               : home_join(env, "XDG_STATE_HOME", ".local/state", "hearth");
    if (!c->models)
        c->models = c->system
                        ? join(c->state ? c->state : "", "models")
                        : home_join(env, "XDG_DATA_HOME", ".local/share", "hearth/models");
    if (!c->runtime) {
        if (run)
            c->runtime = strdup(run);
        else if (xdg && !c->system)
            c->runtime = join(xdg, "hearth");
        else if (c->system || geteuid() == 0)
            c->runtime = strdup("/run/hearth");
        else
            c->runtime = asprintf(&tmp, "/tmp/hearth-%u", (unsigned)geteuid()) < 0 ? NULL : tmp;
    }
    c->core_path = c->runtime ? join(c->runtime, "core.sock") : NULL;
    if (!c->state || !c->models || !c->core_path)
        return err_set(eb, -ENOMEM, "no memory");
    const size_t room = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    /* hearth.ipc, the front's, is one byte longer than core.sock. */
    if (strlen(c->core_path) + 1 > room)
        return err_set(eb, -EINVAL,
                       "runtime: \"%s\" has %zu bytes; sockets in it can have names of at most "
                       "%zu bytes in all, so at most %zu are left for the directory",
                       c->runtime, strlen(c->runtime), room, room - 1 - strlen("/core.sock"));
    return 0;
}

void confplace_file(env_fn *env, bool system, char **ret)
{
    char *p =
        system ? NULL : home_join(env, "XDG_CONFIG_HOME", ".config", "hearth/hearth.conf");

    if (p && access(p, F_OK) == 0) {
        *ret = p;
        return;
    }
    free(p);
    *ret =
        access("/etc/hearth/hearth.conf", F_OK) == 0 ? strdup("/etc/hearth/hearth.conf") : NULL;
}

uint64_t conf_ram_bytes(void)
{
    struct sysinfo si;
    uint64_t ram = sysinfo(&si) == 0 ? (uint64_t)si.totalram * si.mem_unit : 1u << 30, lim;
    char line[64] = "";
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "re");

    /* A container's or unit's limit is this machine's memory as far as we are concerned. */
    if (f) {
        if (fgets(line, sizeof line, f)) {
            line[strcspn(line, "\n")] = 0;
            if (units_u64(line, &lim) && lim < ram)
                ram = lim;
        }
        fclose(f);
    }
    return ram;
}

static _Thread_local uint64_t du_bytes; /* nftw has no context pointer */
static int du_each(const char *path, const struct stat *st, int kind, struct FTW *f)
{
    if (kind == FTW_D && f->level == 1 && strcmp(path + f->base, "models") == 0)
        return FTW_SKIP_SUBTREE;
    du_bytes += (uint64_t)st->st_blocks * 512;
    return FTW_CONTINUE;
}

uint64_t confplace_disk(const char *state)
{
    char *p = strdup(state);
    struct statvfs v;
    uint64_t whole = 0;

    while (p && statvfs(p, &v) < 0) {
        char *slash = strrchr(p, '/');

        if ((errno != ENOENT && errno != ENOTDIR) || !slash || slash == p)
            break;
        *slash = 0;
    }
    if (p && statvfs(p[0] ? p : "/", &v) == 0)
        whole = (uint64_t)v.f_bavail * v.f_frsize;
    free(p);
    du_bytes = 0;
    (void)nftw(state, du_each, 16, FTW_PHYS | FTW_MOUNT | FTW_ACTIONRETVAL);
    return whole + du_bytes;
}
