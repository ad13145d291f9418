/* bench_main.c - hearth-bench: kernels, a model or the store, against this machine's ceilings. */
#include "bench/bench.h"
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *what;
    int (*run)(int argc, char **argv);
} subs[] = {
    {"kernels", "per kernel, shape and thread count: rate and share of the ceiling",
     bench_kernels},
    {"model", "FILE [-p 512] [-n 64] [-t N] [-d DEPTH]: tokens per second", bench_model},
    {"store", "[--dir D] [--layout L] [--tokens N]: restore and write rates", bench_store},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof subs / sizeof *subs; i++)
        if (strcmp(argv[1], subs[i].name) == 0)
            return subs[i].run(argc - 1, argv + 1);
    bool help = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    FILE *f = help ? stdout : stderr;

    fprintf(f, "usage: hearth-bench SUBCOMMAND ... [--json]\n");
    for (size_t i = 0; i < sizeof subs / sizeof *subs; i++)
        fprintf(f, "  %-8s %s\n", subs[i].name, subs[i].what);
    return help ? 0 : 2;
}
