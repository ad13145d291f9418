/* flip.c - see flip.h. */
#include "tests/kvstore/flip.h"
#include "base/bytes.h"
#include "tests/kvstore/rig.h"
#include "tests/t.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int flip_file(const char *path, const uint8_t *bytes, size_t n, long off)
{
    off_t from = strstr(path, "index.mdb") ? 8192 : 4096;
    int fd = open(path, O_RDWR | O_CLOEXEC), done = 0;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        t_fail(__FILE__, __LINE__, "cannot open %s", path);
        return 0;
    }
    uint8_t *b = malloc((size_t)st.st_size + 1);
    CHECK(b && pread(fd, b, (size_t)st.st_size, 0) == st.st_size);
    for (off_t at = from; b && at + (off_t)n <= st.st_size; at++)
        if (memcmp(b + at, bytes, n) == 0) {
            uint8_t x = b[at + off] ^ 0x10;
            CHECK(pwrite(fd, &x, 1, at + off) == 1);
            done++;
        }
    free(b);
    close(fd);
    return done;
}

int flip_bytes(const char *dir, const char *sub, const void *bytes, size_t n, long off)
{
    char path[512], one[800];
    int done = 0;

    snprintf(path, sizeof path, "%.400s/%.100s", dir, sub);
    DIR *d = opendir(path);
    if (!d)
        return flip_file(path, bytes, n, off);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(one, sizeof one, "%s/%s", path, e->d_name);
        done += flip_file(one, bytes, n, off);
    }
    closedir(d);
    return done;
}

int flip_tokens(const char *dir, const char *sub, uint64_t seed, uint64_t at)
{
    uint8_t want[16];

    for (uint64_t i = 0; i < 4; i++)
        st32(want + 4 * i, (uint32_t)rig_token(seed, at + i));
    return flip_bytes(dir, sub, want, sizeof want, 2);
}

int flip_turn(const char *dir, uint64_t seed, uint64_t first)
{
    struct kvs_id branch = rig_id(seed, 0);
    uint8_t key[25];

    memcpy(key, branch.b, 16);
    key[16] = 1;
    st64be(key + 17, first);
    return flip_bytes(dir, "index.mdb", key, sizeof key, sizeof key + 30);
}
