/* hurt_readdir.h - the directory that cannot be read to its end: EIO in place of a name.
 *
 * In one source of a test, which gets this readdir for the whole of it. */
#ifndef TESTS_KVSTORE_HURT_READDIR_H
#define TESTS_KVSTORE_HURT_READDIR_H
#include "tests/kvstore/rig.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>

static struct {
    _Atomic(const char *) word; /* only directories whose path holds it; NULL: all */
    _Atomic int in;             /* the in-th call fails; 0: none */
    _Atomic int calls;          /* so far */
    _Atomic int failed;         /* and how many of them did */
    _Atomic bool all;           /* every one fails from there on */
    _Atomic int code;           /* 0: EIO */
} bad_dir;

static void bad_dir_set(const char *word, int in, bool all)
{
    bad_dir.in = 0; /* the store's threads list directories, too */
    bad_dir.word = word;
    bad_dir.all = all;
    bad_dir.calls = bad_dir.failed = 0;
    bad_dir.in = in;
}

struct dirent *readdir(DIR *d)
{
    struct dirent *(*real)(DIR *) = (struct dirent * (*)(DIR *)) dlsym(RTLD_NEXT, "readdir");
    const char *word = bad_dir.word;

    if (bad_dir.in && (!word || rig_leads(dirfd(d), word))) {
        int n = ++bad_dir.calls;
        if (n == bad_dir.in || (bad_dir.all && n > bad_dir.in)) {
            bad_dir.failed++;
            errno = bad_dir.code ? bad_dir.code : EIO;
            return NULL;
        }
    }
    return real(d);
}

#endif
