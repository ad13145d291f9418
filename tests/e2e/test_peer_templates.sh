#!/bin/sh
# test_peer_templates.sh - rendered conversations beside Jinja.
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
py=${HEARTH_PY:-python3}
"$py" -c 'import jinja2, gguf' 2>/dev/null || { echo "Python lacks one of: jinja2, gguf"; exit 77; }
[ -x "$bin/tests/engine/test_chat" ] || { echo "$bin/tests/engine/test_chat is not built"; exit 77; }
[ -n "${HEARTH_TEST_MODEL:-}" ] || { echo "HEARTH_TEST_MODEL names no model"; exit 77; }
exec "$py" tests/peer/template_jinja.py
