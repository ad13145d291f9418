/* dirlist.h - the names in a directory, with an error told from the end.
 *
 * readdir answers NULL for both.  A directory that was read in part passes for one that holds
 * less, or nothing, and whoever believes that begins anew over what is there: so nobody calls
 * readdir himself. */
#ifndef BASE_DIRLIST_H
#define BASE_DIRLIST_H
#include <dirent.h>
#include <errno.h>
#include <string.h>

/* each() for every name but "." and "..", in no order; one that is not 0 ends it and is returned.
 * 0: these were all; -errno: it could not be opened, or not be read to its end. */
static inline int dir_list(const char *path, int (*each)(void *ctx, const char *name),
                           void *ctx)
{
    DIR *d = opendir(path);
    struct dirent *e;
    int r = 0;

    if (!d)
        return -errno;
    while (r == 0 && (errno = 0, e = readdir(d)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = each(ctx, e->d_name);
    if (r == 0) /* else it was ended, and errno is whoever's */
        r = -errno;
    closedir(d);
    return r;
}

#endif
