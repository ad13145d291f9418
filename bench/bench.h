/* bench.h - hearth-bench's subcommands, one file each. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H
int bench_kernels(int argc, char **argv);
int bench_model(int argc, char **argv);
int bench_store(int argc, char **argv);
#endif
