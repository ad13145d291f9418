#!/bin/sh
# run.sh DIR TEST... - runs each test, keeps its log in DIR/log, counts.  Exit 77 is a skip.
#
# JOBS at a time (default 1), each at most TIMEOUT seconds (default 60).  Tests find the
# programs through HEARTH_BIN=DIR.  *.py run under HEARTH_PY (default python3).
if [ "$1" = --one ]; then
    dir=$2 t=$3
    name=$(echo "${t#"$dir"/}" | tr / .)
    name=${name#tests.}
    log=$dir/log/$name.log
    t0=$(date +%s%N)
    case $t in
    *.py) timeout -k 10 "${TIMEOUT:-60}" "${HEARTH_PY:-python3}" "$t" ;;
    *) timeout -k 10 "${TIMEOUT:-60}" "$t" ;;
    esac >"$log" 2>&1 </dev/null
    rc=$?
    ms=$((($(date +%s%N) - t0) / 1000000))
    case $rc in
    0) word=ok ;;
    77) word=skip ;;
    *) word=FAIL ;;
    esac
    echo $word >"$dir/log/$name.res"
    line=$(printf '%-5s %-44s %4d.%01d s' $word "$name" $((ms / 1000)) $((ms % 1000 / 100)))
    case $rc in
    0) echo "$line" ;;
    77) echo "$line  $(tail -n 1 "$log" | cut -c1-100)" ;;
    124 | 137) echo "$line  stopped after ${TIMEOUT:-60} s"; tail -n 60 "$log" | sed 's/^/      /' ;;
    *) echo "$line  exit $rc"; tail -n 60 "$log" | sed 's/^/      /' ;;
    esac
    exit 0
fi
dir=$1
shift
mkdir -p "$dir/log"
[ $# -gt 0 ] || { echo "no tests"; exit 0; }
HEARTH_BIN=$(cd "$dir" && pwd)
PYTHONDONTWRITEBYTECODE=1
export HEARTH_BIN PYTHONDONTWRITEBYTECODE
for t in "$@"; do
    name=$(echo "${t#"$dir"/}" | tr / .)
    echo FAIL >"$dir/log/${name#tests.}.res"
done
printf '%s\n' "$@" | xargs -P "${JOBS:-1}" -n 1 "$0" --one "$dir"
pass=0 fail=0 skip=0
for t in "$@"; do
    name=$(echo "${t#"$dir"/}" | tr / .)
    case $(cat "$dir/log/${name#tests.}.res") in
    ok) pass=$((pass + 1)) ;;
    skip) skip=$((skip + 1)) ;;
    *) fail=$((fail + 1)) bad="${bad:-} ${name#tests.}" ;;
    esac
done
# Last, and short: the reasons, since what stands above them may be long.
for n in ${bad:-}; do
    echo "failed: $n"
    grep -aE '^FAIL |SEED=|^    [A-Za-z]*(Failed|Error|Gone): |^    [a-z0-9_/]+\.[ch]:[0-9]+: |ERROR: |runtime error' \
        "$dir/log/$n.log" | cut -c1-300 | head -n 8 | sed 's/^ */      /'
done
echo "$pass passed, $fail failed, $skip skipped"
[ $fail -eq 0 ]
