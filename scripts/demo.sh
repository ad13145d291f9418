#!/bin/sh
# demo.sh [DIR] - the main job on real input: kill -9 in the middle of an answer, and go on.
#
# MODEL=FILE and DOC=FILE use another model and another document.  KEEP=1 keeps the store.
set -eu
cd "$(dirname "$0")/.."
HEARTH_BIN=$(cd "${1:-build/release}" && pwd)
HEARTH_TEST_MODEL=$(scripts/model.sh)
PYTHONDONTWRITEBYTECODE=1
export HEARTH_BIN HEARTH_TEST_MODEL PYTHONDONTWRITEBYTECODE
exec python3 scripts/demo.py
