/* keyfile.c - see keyfile.h. */
#include "daemon/front/keyfile.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* The line of the same key; 0: it is new. */
static uint32_t line_of(const struct keyfile *k, const char *key, size_t n)
{
    char want[KEYFILE_KEY_BYTES_MAX + 1] = {0};
    uint32_t at = 0;

    memcpy(want, key, n);
    while (at < k->n && sodium_memcmp(want, k->key[at], sizeof want) != 0)
        at++;
    sodium_memzero(want, sizeof want);
    return at < k->n ? k->line[at] : 0;
}

/* The key itself never leaves this process; it is long and random, or the hash would not hide
 * it. */
static void keyfile_add(struct keyfile *k, const char *key, size_t n, uint32_t line)
{
    static const char domain[] = "hearth api key 1";
    uint8_t h[16];

    memcpy(k->key[k->n], key, n + 1);
    k->line[k->n] = line;
    crypto_generichash(h, sizeof h, (const uint8_t *)key, n, (const uint8_t *)domain,
                       sizeof domain);
    sodium_bin2hex(k->as[k->n], sizeof k->as[k->n], h, sizeof h);
    k->n++;
}

/* What a header can carry; a zero byte or a return within would end the key, shorter than meant. */
static bool is_plain(const char *key, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (key[i] <= ' ' || key[i] > '~')
            return false;
    return true;
}

int keyfile_read(struct keyfile *ret, const char *path, struct errbuf *eb)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe nobody writes: no wait */
    struct stat st;
    int e = fd < 0 || fstat(fd, &st) < 0 ? errno : S_ISREG(st.st_mode) ? 0 : EINVAL;
    FILE *f = e ? NULL : fdopen(fd, "r");
    if (!f) {
        e = e ? e : errno;
        if (fd >= 0)
            close(fd);
        return err_set(
            eb, -e,
            "--api-key-file: %s: %s; want a file of mode 600 with a key on each line "
            "(head -c 24 /dev/urandom | base64)",
            path, e == EINVAL ? "not a regular file" : strerror(e));
    }
    if (st.st_size > KEYFILE_BYTES_MAX) {
        fclose(f);
        return err_set(eb, E_LIMIT, "--api-key-file: %s: more than %d KiB", path,
                       KEYFILE_BYTES_MAX >> 10);
    }
    int r = st.st_mode & 027 /* a group may be let in: systemd hands credentials over so */
                ? err_set(eb, -EPERM,
                          "--api-key-file: others may read %s (mode %03o); chmod 600 it", path,
                          st.st_mode & 0777)
                : 0;
    char *line = NULL;
    size_t cap = 0;
    ssize_t got;
    uint32_t twin;
    for (int n = 1; r == 0 && (got = getline(&line, &cap, f)) > 0; n++) {
        size_t len = (size_t)got;
        while (len && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            len--;
        line[len] = 0;
        if (!len || line[0] == '#')
            continue;
        if (len < 16 || len > KEYFILE_KEY_BYTES_MAX || !is_plain(line, len))
            r = err_set(eb, -EINVAL,
                        "--api-key-file: %s:%d: want a key of 16 to %d bytes, letters, digits "
                        "and signs (head -c 24 /dev/urandom | base64)",
                        path, n, KEYFILE_KEY_BYTES_MAX);
        else if ((twin = line_of(ret, line, len)))
            r = err_set(eb, -EINVAL,
                        "--api-key-file: %s: lines %u and %d hold the same key; two that were "
                        "given it would be one user: make a key for each, or take one line out",
                        path, twin, n);
        else if (ret->n == KEYFILE_KEYS_MAX)
            r = err_set(eb, E_LIMIT, "--api-key-file: %s: more than %d keys", path,
                        KEYFILE_KEYS_MAX);
        else
            keyfile_add(ret, line, len, (uint32_t)n);
    }
    if (line)
        sodium_memzero(line, cap);
    free(line);
    fclose(f);
    if (r == 0 && !ret->n)
        r = err_set(eb, -EINVAL,
                    "--api-key-file: %s holds no key; want one a line (head -c 24 /dev/urandom "
                    "| base64)",
                    path);
    return r;
}

const char *keyfile_fits(const struct keyfile *k, const char *auth)
{
    char want[KEYFILE_KEY_BYTES_MAX + 1] = {0};
    if (!auth || strncasecmp(auth, "Bearer ", 7) != 0 ||
        strlen(auth + 7) > KEYFILE_KEY_BYTES_MAX)
        return NULL;
    memcpy(want, auth + 7, strlen(auth + 7));
    /* Every key, always: time tells nothing.  What is chosen is the index of one that fits and
     * nothing made of several: should two be equal, it is the first. */
    uint32_t at = k->n;
    for (uint32_t i = k->n; i-- > 0;) {
        uint32_t fits = 0u - (uint32_t)(sodium_memcmp(want, k->key[i], sizeof want) == 0);
        at = (at & ~fits) | (i & fits);
    }
    return at < k->n ? k->as[at] : NULL;
}
