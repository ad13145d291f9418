/* stdfds.h - a program started with standard descriptors closed gets them from /dev/null.
 *
 * Otherwise its first socket or lock becomes descriptor 0, 1 or 2, and what it prints goes
 * there.  First thing in every main(). */
#ifndef BASE_STDFDS_H
#define BASE_STDFDS_H
#include <fcntl.h>

/* What is written to an output that was closed is refused, as without this: who prints notices. */
static inline void std_fds_open(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)open("/dev/null", fd == 1 ? O_RDONLY : O_RDWR); /* the lowest free: fd */
}

#endif
