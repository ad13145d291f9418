#!/bin/sh
# venv.sh - a Python environment for the tests: made once, its path on stdout.
#
# venv.sh base   an empty one (pip only)
# venv.sh        with the packages of requirements.txt
# Lies in build/venv; HEARTH_VENV names another place.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${HEARTH_VENV:-$(dirname "$here")/build/venv}
log() { echo "venv: $*" >&2; }

if ! [ -x "$venv/bin/python3" ]; then
    log "making $venv"
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv" >&2
fi
if [ "${1:-}" != base ] && ! cmp -s "$here/requirements.txt" "$venv/.done"; then
    log "installing test packages (once)"
    n=1
    until "$venv/bin/python3" -m pip install -q --disable-pip-version-check \
        --only-binary :all: -r "$here/requirements.txt" >&2; do
        [ $n -lt 3 ] || { log "pip failed $n times"; exit 1; }
        n=$((n + 1))
        sleep 3
    done
    cp "$here/requirements.txt" "$venv/.done"
fi
(cd "$venv" && pwd)
