/* ram.h - how much memory this process may still take.
 *
 * The least of what the machine has available and what each control group above us leaves:
 * whoever passes either is ended by the kernel.  Any thread; no state. */
#ifndef DAEMON_RAM_H
#define DAEMON_RAM_H
#include <stdint.h>

uint64_t ram_available(void); /* bytes; 0: not known */
/* The same with /proc and /sys/fs/cgroup somewhere else (tests). */
uint64_t ram_available_at(const char *proc, const char *cgroup);

#endif
