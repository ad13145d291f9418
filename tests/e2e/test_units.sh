#!/bin/sh
# test_units.sh - units are right and tight; accounts and the example configuration are read.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-${1:-build/release}}
command -v systemd-analyze >/dev/null || { echo "systemd-analyze is not installed"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0
mkdir -p "$tmp/system" "$tmp/user" "$tmp/run" "$tmp/root/etc"
# The programs need not be installed for the units to be checked: one that exists stands in.
fill() { sed -e 's,@BINDIR@/[a-z-]*,/bin/true,;s,@SYSCONFDIR@,/etc,g' "$1" >"$2"; }
for u in systemd/*.service; do fill "$u" "$tmp/system/${u##*/}"; done
for u in systemd/user/*.service; do fill "$u" "$tmp/user/${u##*/}"; done

if ! out=$(systemd-analyze verify --man=no "$tmp"/system/*.service 2>&1) || [ -n "$out" ]; then
    echo "verify: $out"
    bad=1
fi
if ! out=$(XDG_RUNTIME_DIR="$tmp/run" systemd-analyze --user verify --man=no "$tmp"/user/*.service 2>&1) || [ -n "$out" ]; then
    echo "verify --user: $out"
    bad=1
fi
for u in "$tmp"/system/*.service; do
    level=$(systemd-analyze security --offline=yes "$u" | sed -n 's/.*: \([0-9.]*\) [A-Z].*/\1/p' | tail -n 1)
    echo "security ${u##*/}: $level"
    echo "$level" | awk '{ exit !($1 != "" && $1 <= 2.0) }' || { echo "  want <= 2.0"; bad=1; }
done
# A user's manager has no namespaces to give on every machine; what is left is a filter and limits.
for u in "$tmp"/user/*.service; do
    level=$(XDG_RUNTIME_DIR="$tmp/run" systemd-analyze --user security --offline=yes "$u" | sed -n 's/.*: \([0-9.]*\) [A-Z].*/\1/p' | tail -n 1)
    echo "security --user ${u##*/}: $level"
    echo "$level" | awk '{ exit !($1 != "" && $1 <= 6.5) }' || { echo "  want <= 6.5"; bad=1; }
    for w in NoNewPrivileges=yes RestrictNamespaces=yes SystemCallFilter=@system-service LimitCORE=0; do
        grep -q "^$w" "$u" || { echo "${u##*/} lacks $w"; bad=1; }
    done
done
# The front of key holders is nobody who owns the store.
grep -q '^User=hearth-front$' systemd/hearth-front.service || { echo "hearth-front.service has no account of its own"; bad=1; }

: >"$tmp/root/etc/passwd"
: >"$tmp/root/etc/group"
mkdir -p "$tmp/root/usr/lib/sysusers.d" "$tmp/root/usr/lib/tmpfiles.d"
cp systemd/hearth.sysusers "$tmp/root/usr/lib/sysusers.d/hearth.conf"
cp systemd/hearth.tmpfiles "$tmp/root/usr/lib/tmpfiles.d/hearth.conf"
if [ "$(id -u)" = 0 ]; then
    systemd-sysusers --root="$tmp/root" || bad=1
    for a in hearth hearth-front; do
        grep -q "^$a:" "$tmp/root/etc/passwd" || { echo "sysusers made no account $a"; bad=1; }
    done
    grep -q '^hearth:.*:hearth-front$' "$tmp/root/etc/group" || { echo "hearth-front may not reach the socket of hearth"; bad=1; }
    systemd-tmpfiles --root="$tmp/root" --create hearth.conf || bad=1
    [ -d "$tmp/root/var/lib/hearth-models" ] || { echo "tmpfiles made no directory"; bad=1; }
fi

if [ -x "$bin/hearthd" ]; then
    HOME=$tmp "$bin/hearthd" --config systemd/hearth.conf.example --check-config || { echo "the example configuration is refused"; bad=1; }
    # What is commented out must be good as well: every line that looks like a setting.
    (umask 077 && echo a-key-of-enough-bytes >"$tmp/key")
    sed -e 's/^# \([a-z-]* *=\)/\1/' -e 's/^# \(\[model\)/\1/' -e 's,/srv/models/small.gguf,'"$PWD"'/tests/golden/own_vocab.gguf,' \
        -e 's,~/,/tmp/,' -e "s,/etc/hearth/api-key,$tmp/key," systemd/hearth.conf.example >"$tmp/all.conf"
    HOME=$tmp "$bin/hearthd" --config "$tmp/all.conf" --check-config || { echo "a commented setting is refused"; bad=1; }
    # Each setting of the table that is not a diagnostic is in the example.
    for key in $("$bin/hearthd" --help | sed -n 's/^ *--\([a-z-]*\).*/\1/p'); do
        case $key in config | check-config | version | help | front | no-* | plain-c | wrong-order | system | socket-mode | step-* | stop-timeout | anonymous-expire | model) continue ;; esac
        grep -q "^[# ]*$key *=" systemd/hearth.conf.example || { echo "hearth.conf.example lacks '$key'"; bad=1; }
    done
fi
exit $bad
