/* ram.c - see ram.h. */
#include "daemon/ram.h"
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The number after `key` in a file of lines, or with key "" the number the file is. */
static bool number_in(const char *path, const char *key, unsigned long long *ret)
{
    char line[256];
    size_t n = strlen(key);
    bool found = false;
    FILE *f = fopen(path, "re");

    while (f && !found && fgets(line, sizeof line, f))
        found = strncmp(line, key, n) == 0 && sscanf(line + n, "%llu", ret) == 1;
    if (f)
        fclose(f);
    return found;
}

static bool cgroup_number(const char *cgroup, const char *group, const char *file,
                          const char *key, unsigned long long *ret)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s%s/%s", cgroup, group, file);

    return n > 0 && (size_t)n < sizeof path && number_in(path, key, ret);
}

/* What one group leaves; files that it only caches go before anybody is ended. */
static uint64_t left_in(const char *cgroup, const char *group)
{
    unsigned long long max = 0, now = 0, active = 0, inactive = 0;

    if (!cgroup_number(cgroup, group, "memory.max", "", &max) || /* "max": no limit */
        !cgroup_number(cgroup, group, "memory.current", "", &now))
        return UINT64_MAX;
    (void)cgroup_number(cgroup, group, "memory.stat", "active_file ", &active);
    (void)cgroup_number(cgroup, group, "memory.stat", "inactive_file ", &inactive);
    now = now > active + inactive ? now - active - inactive : 0;
    return max > now ? max - now : 1; /* 0 would mean that nothing is known */
}

/* Our group in the one hierarchy (version 2), "" for its root; false: there is none. */
static bool own_group(const char *proc, char *group, size_t cap)
{
    char path[PATH_MAX], line[PATH_MAX];
    bool found = false;

    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        found = strncmp(line, "0::/", 4) == 0 && strlen(line + 3) < cap;
        if (found)
            snprintf(group, cap, "%s", line + 3);
    }
    if (f)
        fclose(f);
    return found;
}

uint64_t ram_available_at(const char *proc, const char *cgroup)
{
    char path[PATH_MAX], group[PATH_MAX];
    unsigned long long kib = 0;
    uint64_t least, left;

    snprintf(path, sizeof path, "%s/meminfo", proc);
    least = number_in(path, "MemAvailable:", &kib) ? kib * 1024 : UINT64_MAX;
    if (own_group(proc, group, sizeof group))
        for (char *end = group + strlen(group);; *end = 0) {
            left = left_in(cgroup, strcmp(group, "/") == 0 ? "" : group);
            least = left < least ? left : least;
            if (!group[0] || !(end = strrchr(group, '/')))
                break;
        }
    return least == UINT64_MAX ? 0 : least;
}

uint64_t ram_available(void)
{
    return ram_available_at("/proc", "/sys/fs/cgroup");
}
