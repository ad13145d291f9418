#!/bin/sh
# test_peer_tokens.sh - token ids of fresh hard strings beside llama.cpp.
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
py=${HEARTH_PY:-python3}
"$py" -c 'import xllamacpp, gguf' 2>/dev/null || { echo "Python lacks one of: xllamacpp, gguf"; exit 77; }
[ -x "$bin/tests/engine/test_tokenizer" ] || { echo "$bin/tests/engine/test_tokenizer is not built"; exit 77; }
[ -n "${HEARTH_TEST_MODEL:-}" ] || { echo "HEARTH_TEST_MODEL names no model"; exit 77; }
exec "$py" tests/peer/tokenizer_llamacpp.py
