/* test_ram.c - how much memory may be taken: of the machine, and of every group above us. */
#include "base/check.h"
#include "daemon/ram.h"
#include "tests/t.h"
#include <stdio.h>
#include <sys/stat.h>

static const char *root;
static void put(const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "w");
    must(f && fputs(text, f) >= 0 && fclose(f) == 0);
}
static void dir(const char *name)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", root, name);
    (void)mkdir(path, 0700);
}
static uint64_t now(void)
{
    char proc[256], cgroup[256];

    snprintf(proc, sizeof proc, "%s/proc", root);
    snprintf(cgroup, sizeof cgroup, "%s/cg", root);
    return ram_available_at(proc, cgroup);
}

static void nothing_known_is_zero(void)
{
    root = t_tmpdir();
    CHECK_EQ(now(), 0);
}

static void the_least_of_machine_and_groups_counts(void)
{
    root = t_tmpdir();
    dir("proc"), dir("proc/self"), dir("cg"), dir("cg/a"), dir("cg/a/b");
    put("proc/meminfo", "MemTotal:       100000 kB\nMemAvailable:    50000 kB\n");
    CHECK_EQ(now(), 50000 * 1024);
    put("proc/self/cgroup", "5:memory:/old\n0::/a/b\n");
    CHECK_EQ(now(), 50000 * 1024);
    put("cg/a/b/memory.max", "max\n");
    put("cg/a/b/memory.current", "7\n");
    CHECK_EQ(now(), 50000 * 1024);
    put("cg/a/memory.max", "40000000\n");
    put("cg/a/memory.current", "30000000\n");
    CHECK_EQ(now(), 10000000);
    put("cg/a/memory.stat", "anon 5\ninactive_file 1000000\nactive_file 2000000\n");
    CHECK_EQ(now(), 13000000);
    put("cg/a/b/memory.max", "9000007\n");
    CHECK_EQ(now(), 9000000);
    put("cg/a/b/memory.current", "9000008\n");
    CHECK_EQ(now(), 1); /* full: not the 0 of "not known" */
    /* In a namespace of its own a container sees itself as the root. */
    put("proc/self/cgroup", "0::/\n");
    CHECK_EQ(now(), 50000 * 1024);
    put("cg/memory.max", "6000000\n");
    put("cg/memory.current", "1000000\n");
    CHECK_EQ(now(), 5000000);
}

static void this_machine_has_some(void)
{
    CHECK(ram_available() > 1 << 20);
}

T_MAIN({"nothing_known_is_zero", nothing_known_is_zero},
       {"the_least_of_machine_and_groups_counts", the_least_of_machine_and_groups_counts},
       {"this_machine_has_some", this_machine_has_some})
