/* access.h - what to type so that a path this process may not use becomes one that it may. */
#ifndef BASE_ACCESS_H
#define BASE_ACCESS_H
#include "base/shell.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* For a path that must be read and written (a directory: entered, too).  The first thing on the
 * way to it that stands in the way decides.  false: it is not for want of a right that can be
 * given so, or ret is too small. */
static inline bool access_remedy(const char *path, char *ret, size_t cap)
{
    char at[PATH_MAX], word[SHELL_WORD_BYTES(PATH_MAX)];
    struct stat st;
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof at)
        return false;
    for (size_t i = 1; i <= n; i++) {
        bool last = i == n;
        if (!last && path[i] != '/')
            continue;
        memcpy(at, path, i);
        at[i] = 0;
        if (stat(at, &st) < 0)
            return false;
        int want = last ? R_OK | W_OK | (S_ISDIR(st.st_mode) ? X_OK : 0) : X_OK;
        if (faccessat(AT_FDCWD, at, want, AT_EACCESS) == 0)
            continue;
        if (errno != EACCES)
            return false;
        const char *own = !last ? "x" : S_ISDIR(st.st_mode) ? "rwx" : "rw";
        int m;
        (void)shell_word(word, sizeof word, at); /* there is room for any */
        if (st.st_uid == geteuid())
            m = snprintf(ret, cap, "chmod u+%s %s", own, word);
        else if (last)
            m = snprintf(ret, cap, "sudo chown -R %u %s", geteuid(), word);
        else
            m = snprintf(ret, cap, "sudo chmod o+x %s (it is uid %u's)", word, st.st_uid);
        return m > 0 && (size_t)m < cap;
    }
    return false;
}

#endif
