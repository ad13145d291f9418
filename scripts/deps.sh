#!/bin/sh
# deps.sh - installs the Debian packages that are missing, and nothing else.
#
# deps.sh [-v] LIST...   lists: build model test lint bench fuzz
# Quiet when everything is there (-v says so).  apt-get runs through sudo unless we are root.
set -eu
say=0
[ "${1:-}" = -v ] && say=1 && shift

list() {
    case $1 in
    build) echo gcc libc6-dev make pkg-config liburing-dev liblmdb-dev libnanomsg-dev \
        libevent-dev libcjson-dev libsodium-dev libxxhash-dev libpcre2-dev \
        libedit-dev libseccomp-dev ;;
    model) echo python3 python3-venv ;;
    test) echo python3 python3-venv systemd man-db groff-base libfaketime ;;
    lint) echo python3 clang-format shellcheck systemd man-db groff-base ;;
    bench) echo fio ;;
    fuzz) echo clang libclang-rt-dev ;;
    *) echo "deps: unknown list '$1', want one of: build model test lint bench fuzz" >&2; exit 2 ;;
    esac
}
want=
for l in "$@"; do want="$want $(list "$l")"; done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "deps: not a Debian system; these packages, or what they are called here, must be there:$want" >&2
    exit 0
fi
missing=
for p in $want; do
    case " $missing " in *" $p "*) continue ;; esac
    st=$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)
    [ "$st" = installed ] || missing="$missing $p"
done
if [ -z "$missing" ]; then
    [ $say = 0 ] || echo "deps: all packages are installed"
    exit 0
fi

root=
if [ "$(id -u)" != 0 ]; then
    root=sudo
    if ! command -v sudo >/dev/null; then
        echo "deps: missing, and neither root nor sudo here. As root: apt-get install$missing" >&2
        exit 1
    fi
fi
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
get() { # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >"$log" 2>&1
}
# The package lists on this machine may be absent or old: one refresh, then one more try.
if ! get; then
    echo "deps: refreshing the package lists"
    if ! { $root apt-get update -q >"$log" 2>&1 && get; }; then
        tail -n 20 "$log" >&2
        echo "deps: apt-get failed; the packages are:$missing" >&2
        exit 1
    fi
fi
echo "deps: done"
