#!/bin/sh
# bench.sh [DIR] - measures this machine beside its own ceilings, one JSON object per line.
#
# MODEL=FILE names the model (else scripts/model.sh), THREADS the threads, PEER=1 also runs
# llama.cpp's published build on the same file.  docs/NUMBERS.md says how to read the figures.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=${1:-build/release}
model=$(scripts/model.sh) || exit 1
t=${THREADS:-$(lscpu -p=core 2>/dev/null | grep -v '^#' | sort -u | wc -l)}
[ "$t" -gt 0 ] || t=$(nproc)
rc=0
run() { echo "# $*"; "$@" || rc=1; }
echo "# $(uname -m), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $t threads, $(uname -r), $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit')"
run "$bin/hearth-bench" kernels --json
run "$bin/hearth-bench" model "$model" -p 512 -n 64 -t "$t" --json
run "$bin/hearth-bench" model "$model" -p 512 -n 32 -t "$t" -d 7936 --json
run "$bin/hearth-bench" store --layout smollm2 --tokens 8192 --json
run "$bin/hearth-bench" store --layout llama-8b --tokens 16384 --json
run python3 bench/restore.py "$bin" "$model"
run python3 bench/users.py "$bin" "$model"
if [ "${PEER:-0}" = 1 ]; then
    py=$(scripts/venv.sh)/bin/python3 || exit 1
    run "$py" bench/peer_speed.py "$bin" "$model" "$t" 3 7936
fi
exit $rc
