#!/bin/sh
# test_peer_gguf.sh - whole synthetic models of every tensor type beside numpy and llama.cpp.
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
py=${HEARTH_PY:-python3}
"$py" -c 'import numpy, gguf' 2>/dev/null || { echo "Python lacks one of: numpy, gguf"; exit 77; }
[ -x "$bin/hearth-eval" ] || { echo "$bin/hearth-eval is not built"; exit 77; }
[ -n "${HEARTH_TEST_MODEL:-}" ] || { echo "HEARTH_TEST_MODEL names no model"; exit 77; }
exec "$py" tests/peer/gguf_llamacpp.py "$bin/hearth-eval"
