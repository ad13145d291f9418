#!/bin/sh
# soak.sh DIR - the long versions of the end-to-end tests, and of the power cuts.  N: kills of
# each kind (an answer, a start, a compaction, an old store's first start) on each kind of I/O,
# and a hundred times as many cuts.
set -u
cd "$(dirname "$0")/.." || exit 1
dir=$1
HEARTH_TEST_MODEL=$(scripts/model.sh) || exit 1
HEARTH_VENV=$(scripts/venv.sh) || exit 1
HEARTH_PY=$HEARTH_VENV/bin/python3
SOAK_KILLS=${N:-200}
BAD_PEERS=${BAD_PEERS:-10000}
SOAK_REQUESTS=${SOAK_REQUESTS:-10000}
HEARTH_CUTS=$((SOAK_KILLS * 100))
export HEARTH_TEST_MODEL HEARTH_VENV HEARTH_PY SOAK_KILLS BAD_PEERS SOAK_REQUESTS HEARTH_CUTS
TIMEOUT=7200 tests/run.sh "$dir" tests/e2e/test_kill.py tests/e2e/test_recover.py \
    tests/e2e/test_kill_compact.py tests/e2e/test_malformed.py \
    tests/e2e/test_http_hostile.py "$dir/tests/kvstore/test_cuts"
rc=$?
grep -h '^ *soak:' "$dir"/log/e2e.test_kill.py.log "$dir"/log/e2e.test_recover.py.log \
    "$dir"/log/e2e.test_kill_compact.py.log "$dir"/log/e2e.test_malformed.py.log \
    "$dir"/log/e2e.test_http_hostile.py.log 2>/dev/null
exit $rc
