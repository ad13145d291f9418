#!/bin/sh
# test.sh DIR UNIT... - `make test`: unit tests with a real model, then end to end.
#
# Fetches what it needs once (model, Python packages).  A test that cannot run here exits 77
# and is counted; anything else that is not 0 fails the whole.
set -u
cd "$(dirname "$0")/.." || exit 1
dir=$1
shift
start=$(date +%s)
HEARTH_TEST_MODEL=$(scripts/model.sh) || exit 1
HEARTH_VENV=$(scripts/venv.sh) || exit 1
HEARTH_PY=$HEARTH_VENV/bin/python3
export HEARTH_TEST_MODEL HEARTH_VENV HEARTH_PY
echo "model: $HEARTH_TEST_MODEL"
bad=0
echo "-- units"
JOBS=$(nproc) TIMEOUT=${UNIT_TIMEOUT:-180} tests/run.sh "$dir" "$@" || bad=1
# One at a time from here on: these start daemons with all threads, and some measure time.
echo "-- end to end, and beside independent implementations"
# shellcheck disable=SC2046
TIMEOUT=${E2E_TIMEOUT:-400} tests/run.sh "$dir" $(ls tests/e2e/test_*.py tests/e2e/test_*.sh 2>/dev/null) || bad=1
s=$(($(date +%s) - start))
if [ $bad = 0 ]; then
    echo "make test: passed in $((s / 60)) min $((s % 60)) s"
else
    echo "make test: FAILED after $((s / 60)) min $((s % 60)) s; logs in $dir/log"
fi
exit $bad
