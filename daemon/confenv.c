/* confenv.c - variables that look like settings and are none: conf_env_odd() of conf.h. */
#include "daemon/conf.h"
#include "daemon/confrow.h"
#include "daemon/units.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

bool conf_env_odd(char *const *env, size_t *at, struct errbuf *ret)
{
    /* Of the command line, and of what builds and tests this program. */
    static const char *const others[] = {
        "HEARTH_SOCKET", "HEARTH_BIN",           "HEARTH_BLOCKS",
        "HEARTH_CUTS",   "HEARTH_EVAL",          "HEARTH_KILLS",
        "HEARTH_PY",     "HEARTH_PY_TRIED",      "HEARTH_TEMPLATES_GOLDEN",
        "HEARTH_VENV",   "HEARTH_TOKENS_GOLDEN", "HEARTH_TEST_MODEL"};
    char known[CONF_ROWS_MAX][64], name[64];
    const char *list[CONF_ROWS_MAX];
    uint32_t n = confrow_env(known);

    for (uint32_t i = 0; i < n; i++)
        list[i] = known[i] + 7; /* what all begin with would make any two of them near */
    while (env && env[*at]) {
        const char *e = env[(*at)++];
        size_t len = strcspn(e, "=");
        bool odd = strncmp(e, "HEARTH_", 7) == 0 && e[len] && e[len + 1];

        snprintf(name, sizeof name, "%.*s", (int)len, e);
        for (uint32_t i = 0; i < n && odd; i++)
            odd = strcmp(name, known[i]) != 0;
        for (size_t i = 0; i < sizeof others / sizeof *others && odd; i++)
            odd = strcmp(name, others[i]) != 0;
        if (!odd)
            continue;
        const char *near = units_nearest(name + 7, list, n);
        (void)err_set(ret, -EINVAL,
                      near ? "environment: %s is no setting and does nothing; did you mean "
                             "HEARTH_%s?"
                           : "environment: %s is no setting and does nothing%s (hearthd --help "
                             "lists them all)",
                      name, near ? near : "");
        return true;
    }
    return false;
}
