#!/bin/sh
# tidy.sh - what clang-format cannot see: layers, banned calls, first comments, words.
# Fails on rules; reports sizes without failing.
cd "$(dirname "$0")/.." || exit 1
bad=0
no() { echo "tidy: $*"; bad=1; }

# Quoted includes of a folder may start only with what is listed: a layer is visible here.
may() { # GLOB ALLOWED...
    glob=$1
    shift
    pat=$(printf '|%s' "$@" | cut -c2-)
    # shellcheck disable=SC2086
    grep -nE '^[[:space:]]*#[[:space:]]*include "' $glob 2>/dev/null |
        grep -vE "include \"(base/|$pat)" && no "$glob may include only: base/ $*"
}
all() { find "$1" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | tr '\n' ' '; }
may 'include/*.h include/base/*.h'
may "$(all kernels)" kernels/
may "$(all kvstore)" kvstore/
may "$(all json)" json/
may "$(all engine)" engine/ kernels/
may 'daemon/*.[ch]' daemon/ engine/ kvstore/ kernels/ json/ 'proto\.h'
grep -nE 'include "daemon/front/' daemon/*.[ch] && no "daemon/ may not know daemon/front/"
may "$(all daemon/front)" daemon/front/ json/ 'proto\.h'
may "$(all client)" client/ 'proto\.h'
may 'bench/*.[ch]' bench/ engine/ kvstore/ kernels/ 'tests/kernels/cases\.h'
# The two halves that only daemon/ joins.
grep -nE 'include "kvstore/' engine/*.[ch] && no "engine/ knows kvstore/"
grep -nE 'include "(engine|kernels)/' kvstore/*.[ch] && no "kvstore/ knows engine/ or kernels/"

src=$(find include json kernels engine kvstore daemon client bench -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')
own() { # PATTERN FILES-ALLOWED WORDS
    # shellcheck disable=SC2086
    grep -nE "$1" $src | grep -vE "^($2):" && no "$3"
}
own '\bsigfillset[[:space:]]*\(' 'include/base/sigmask\.h|kvstore/index_check\.c|daemon/templates\.c' "sigfillset: base/sigmask.h leaves a thread its own faults"
own '\b(readdir|readdir_r)[[:space:]]*\(' 'include/base/dirlist\.h|client/[a-z_]*\.c' "readdir outside base/dirlist.h (and the command line), which tells an error from the end"
own '\b(strcpy|strcat|strncpy|strtok|sprintf|vsprintf|gets|atoi|alloca)[[:space:]]*\(' - "banned call"
own '\bgetenv\(' 'daemon/conf[a-z_]*\.c|daemon/front/main\.c|client/[a-z_]*\.c' "getenv outside conf.c, the front's main.c and the command line"
own '\bmdb_[a-z_]+ *\(|<lmdb\.h>' 'kvstore/index(_walk\.c|_sum\.c|_rows\.c|_trust\.c|_shrink\.c|_env\.h|\.c)' "LMDB outside kvstore/index*"
own '\bnn_[a-z]+ *\(|<nanomsg/' 'daemon/front/nn\.c|client/client\.c|daemon/front/nn\.h' "nanomsg outside daemon/front/nn.c, client/client.c"
own '\bio_uring_[a-z_]+ *\(|<liburing\.h>' 'kvstore/ring_uring\.c' "io_uring outside kvstore/ring_uring.c"
own '\bev(http|buffer|ent)_[a-z_]+ *\(|<event2/' 'daemon/front/(http|hx)\.c|daemon/front/httpconn\.h' "libevent outside daemon/front/http.c, hx.c"
own '\bseccomp_[a-z_]+ *\(|<seccomp\.h>' 'daemon/front/sandbox\.c' "libseccomp outside daemon/front/sandbox.c"
own '<cuda|\bcuda[A-Z][A-Za-z]+ *\(' 'kernels/cuda/[a-z_]*\.(cu|cuh|c|h)' "CUDA outside kernels/cuda/"
own 'pcre2_[a-z_]+ *\(|<pcre2\.h>' 'engine/[a-z_]*\.[ch]' "PCRE2 outside engine/"
# What came from outside is filtered on its way to a terminal: say.h.
grep -nE '\b(printf|fprintf|vprintf|vfprintf|puts)[[:space:]]*\(' client/*.c |
    grep -vE '^client/(say|help|complete)\.c:' && no "client/ prints by say.h"
# Library folders return errors; only daemon/, client/ and bench/ speak or end the program.
lib=$(find kernels engine kvstore -name '*.[ch]' -o -name '*.cu')
# shellcheck disable=SC2086
grep -nE '(^|[^a-z_.>])(printf|puts|putchar|perror|exit|log_at)[[:space:]]*\(|fprintf *\( *std' $lib && no "a library folder prints or exits"
tests=$(find tests \( -name '*.[ch]' -o -name '*.py' -o -name '*.sh' \))
# shellcheck disable=SC2086
grep -nE "\\b(TO""DO|FIX""ME|XX""X)\\b" $src $tests Makefile README.md docs/*.md scripts/* && no "an open note; finish it, or NEEDSWORK: with the decision"
for f in $src $(find tests -name '*.[ch]'); do
    case $(head -1 "$f") in
    "/* ${f##*/} - "*) ;;
    *) no "$f: first line should be /* ${f##*/} - what it is" ;;
    esac
done
# shellcheck disable=SC2086
big=$(wc -l $src | awk '$1 > 900 && $2 != "total" { print $2 " (" $1 ")" }')
[ -z "$big" ] || no "longer than 900 lines: $big"
echo "largest files:"
# shellcheck disable=SC2086
wc -l $src | sort -rn | sed -n 2,4p
exit $bad
