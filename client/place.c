/* place.c - see place.h. */
#include "client/place.h"
#include "client/client.h"
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && v[0] == '/' ? v : NULL; /* the XDG rule: a relative path counts as unset */
}

static const char *home(void)
{
    const char *h = env("HOME");
    const struct passwd *pw = h ? NULL : getpwuid(getuid());
    return h ? h : pw ? pw->pw_dir : "/";
}

static int put(char *ret, size_t cap, int n)
{
    (void)ret;
    return n >= 0 && (size_t)n < cap ? 0 : -ENAMETOOLONG;
}

int place_runtime(char *ret, size_t cap)
{
    const char *d = env("XDG_RUNTIME_DIR");
    if (d)
        return put(ret, cap, snprintf(ret, cap, "%s/hearth", d));
    if (getuid() == 0)
        return put(ret, cap, snprintf(ret, cap, "/run/hearth"));
    return put(ret, cap, snprintf(ret, cap, "/tmp/hearth-%u", getuid()));
}

int place_models(char *ret, size_t cap)
{
    const char *d = env("XDG_DATA_HOME");
    return put(ret, cap,
               d ? snprintf(ret, cap, "%s/hearth/models", d)
                 : snprintf(ret, cap, "%s/.local/share/hearth/models", home()));
}

int place_make(const char *dir)
{
    char path[4096];
    if (strlen(dir) >= sizeof path)
        return -ENAMETOOLONG;
    memcpy(path, dir, strlen(dir) + 1);
    for (char *p = path + 1;; p++) {
        if (*p && *p != '/')
            continue;
        char c = *p;
        *p = 0;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return -errno;
        *p = c;
        if (!c)
            return 0;
    }
}

int place_state(char *ret, size_t cap)
{
    const char *d = env("XDG_STATE_HOME");
    int r = put(ret, cap,
                d ? snprintf(ret, cap, "%s/hearth-cli", d)
                  : snprintf(ret, cap, "%s/.local/state/hearth-cli", home()));
    return r < 0 ? r : place_make(ret);
}

int place_store(char *ret, size_t cap, bool system)
{
    const char *d = env("XDG_STATE_HOME");
    return put(ret, cap,
               system ? snprintf(ret, cap, "/var/lib/hearth")
               : d    ? snprintf(ret, cap, "%s/hearth", d)
                      : snprintf(ret, cap, "%s/.local/state/hearth", home()));
}

int hearth_default_url(char *ret, size_t cap)
{
    static const char system_sock[] = "/run/hearth/core.sock";
    char dir[4096];
    struct stat st;
    int r = place_runtime(dir, sizeof dir);
    if (r == 0)
        r = put(ret, cap, snprintf(ret, cap, "ipc://%s/hearth.ipc", dir));
    /* A directory in /tmp that somebody else made first is not ours to trust. */
    if (r == 0 && stat(dir, &st) == 0 && (st.st_uid == geteuid() || st.st_uid == 0) &&
        stat(ret + 6, &st) == 0)
        return 0;
    /* Who is not in its group is told so, and not that there is no daemon. */
    if (stat(system_sock, &st) == 0 || errno == EACCES)
        return put(ret, cap, snprintf(ret, cap, "unix://%s", system_sock));
    return r < 0 ? r : -ENOENT;
}
