/* stdfds.h - a program started with standard descriptors closed gets them from /dev/null.
 *
 * Otherwise its first socket or lock becomes descriptor 0, 1 or 2, and what it prints goes
 * there.  First thing in every main(). */
#ifndef BASE_STDFDS_H
#define BASE_STDFDS_H
#include <fcntl.h>
#include <unistd.h>

static inline void std_fds_open(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

#endif
