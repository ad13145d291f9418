#!/bin/sh
# test_peer_logits.sh - the whole model beside transformers, on three texts; needs torch.
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
py=${HEARTH_PY:-python3}
"$py" -c 'import torch, transformers, gguf' 2>/dev/null || { echo "Python lacks one of: torch, transformers, gguf"; exit 77; }
[ -x "$bin/hearth-eval" ] || { echo "$bin/hearth-eval is not built"; exit 77; }
[ -n "${HEARTH_TEST_MODEL:-}" ] || { echo "HEARTH_TEST_MODEL names no model"; exit 77; }
exec "$py" \
    tests/peer/logits_transformers.py "$bin/hearth-eval" "$HEARTH_TEST_MODEL" \
    /usr/share/common-licenses/GPL-3 /usr/share/common-licenses/Apache-2.0 engine/gguf.c
