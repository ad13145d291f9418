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
# Of what these do, a good part is waiting for a disk or a clock: one more than there are processors.
echo "-- units"
JOBS=$(($(nproc) + 1)) TIMEOUT=${UNIT_TIMEOUT:-180} tests/run.sh "$dir" "$@" || bad=1
# Two at a time, longest first: no time that these measure is near its bound beside one other.
beside="resume.py tree.py http_hostile.py recover.py rebuild.py kill_compact.py fronts.py cli.py room.py eval.sh full.py
    bad_input.py rest.py dialect.py peer_templates.sh limit.py guard.py harm.py peer_tokens.sh peer_gguf.sh openai.py malformed.py
    words.py clients.py turns.py peer_logits.sh confined.py shared.py"
echo "-- end to end in pairs, and beside independent implementations"
# shellcheck disable=SC2046,SC2086
JOBS=2 TIMEOUT=${E2E_TIMEOUT:-400} tests/run.sh "$dir" $(printf 'tests/e2e/test_%s\n' $beside) || bad=1
# The others one at a time: they start daemons with all threads, and most measure time.
echo "-- end to end"
alone=$(ls tests/e2e/test_*.py tests/e2e/test_*.sh)
for t in $beside; do
    alone=$(echo "$alone" | grep -vx "tests/e2e/test_$t")
done
# shellcheck disable=SC2086
TIMEOUT=${E2E_TIMEOUT:-400} tests/run.sh "$dir" $alone || bad=1
s=$(($(date +%s) - start))
if [ $bad = 0 ]; then
    echo "make test: passed in $((s / 60)) min $((s % 60)) s"
else
    echo "make test: FAILED after $((s / 60)) min $((s % 60)) s; logs in $dir/log"
fi
exit $bad
