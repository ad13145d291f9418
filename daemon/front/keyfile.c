/* keyfile.c - see keyfile.h. */
#include "daemon/front/keyfile.h"
#include <errno.h>
#include <sodium.h>
#include <strings.h>
#include <sys/stat.h>

/* The key itself never leaves this process; it is long and random, or the hash would not hide
 * it. */
static void keyfile_add(struct keyfile *k, const char *key, size_t n)
{
    static const char domain[] = "hearth api key 1";
    uint8_t h[16];

    memcpy(k->key[k->n], key, n + 1);
    crypto_generichash(h, sizeof h, (const uint8_t *)key, n, (const uint8_t *)domain,
                       sizeof domain);
    sodium_bin2hex(k->as[k->n], sizeof k->as[k->n], h, sizeof h);
    k->n++;
}

int keyfile_read(struct keyfile *ret, const char *path, struct errbuf *eb)
{
    FILE *f = fopen(path, "re");
    struct stat st;
    if (!f || fstat(fileno(f), &st) < 0) {
        int e = errno;
        if (f)
            fclose(f);
        return err_set(
            eb, -e,
            "--api-key-file: %s: %s; want a file of mode 600 with a key on each line "
            "(head -c 24 /dev/urandom | base64)",
            path, strerror(e));
    }
    int r = st.st_mode & 027 /* a group may be let in: systemd hands credentials over so */
                ? err_set(eb, -EPERM,
                          "--api-key-file: others may read %s (mode %03o); chmod 600 it", path,
                          st.st_mode & 0777)
                : 0;
    char line[1024];
    for (int n = 1; r == 0 && fgets(line, sizeof line, f); n++) {
        size_t len = strcspn(line, "\r\n");
        line[len] = 0;
        if (!len || line[0] == '#')
            continue;
        if (len < 16 || len > KEYFILE_KEY_BYTES_MAX || strchr(line, ' '))
            r = err_set(eb, -EINVAL,
                        "--api-key-file: %s:%d: want a key of 16 to %d bytes without spaces "
                        "(head -c 24 /dev/urandom | base64)",
                        path, n, KEYFILE_KEY_BYTES_MAX);
        else if (ret->n == KEYFILE_KEYS_MAX)
            r = err_set(eb, E_LIMIT, "--api-key-file: %s: more than %d keys", path,
                        KEYFILE_KEYS_MAX);
        else
            keyfile_add(ret, line, len);
    }
    sodium_memzero(line, sizeof line);
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
    uint32_t fits = 0;
    for (uint32_t i = 0; i < k->n; i++) /* every key, always: time tells nothing */
        fits |= (sodium_memcmp(want, k->key[i], sizeof want) == 0) * (i + 1);
    return fits ? k->as[fits - 1] : NULL;
}
