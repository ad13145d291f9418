/* fuzz_conf.c - a configuration file that may hold anything. */
#include "daemon/conf.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct errbuf eb = {""};
    int r = conf_parse_check((const char *)data, n, &eb);

    if (r < 0 && !eb.s[0])
        abort(); /* refused without a word */
    return 0;
}
