#!/bin/sh
# test_man.sh - man pages format without complaint and know every verb and flag.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
bad=0
no() { echo "$*"; bad=1; }
pages=$(ls man/*.[18] 2>/dev/null) || { echo "no man pages"; exit 1; }
for p in $pages; do
    if command -v mandoc >/dev/null; then
        out=$(mandoc -T lint -W warning "$p" 2>&1)
        [ -z "$out" ] || no "$out"
    fi
    if command -v groff >/dev/null; then
        out=$(groff -man -mandoc -ww -T utf8 -z "$p" 2>&1)
        [ -z "$out" ] || no "$p: $out"
    elif ! command -v mandoc >/dev/null; then
        echo "neither mandoc nor groff is installed"
        exit 77
    fi
done
# What stands behind a macro of fonts is arguments: of alternating ones words are glued together, and
# .B and .I change the font of all of it.  Text that runs on begins a line of its own.
glued() {
    awk '/^\.[BIR] / || /^\.(BR|RB|BI|IB|RI|IR) / {
        all = ($1 == ".B" || $1 == ".I" || $1 == ".R"); line = $0; sub(/^[^ ]+ +/, "", line); last = ""
        while (line != "") {
            quoted = substr(line, 1, 1) == "\""
            n = quoted ? index(substr(line, 2), "\"") + 1 : index(line " ", " ") - 1
            if (n < 2 && quoted) n = length(line)
            arg = quoted ? "" : substr(line, 1, n)
            if (arg ~ /^[.,;:]+$/ && (all || line ~ /^[^ ]+ +[A-Za-z]/) || \
                !all && last ~ /[A-Za-z.,;:]$/ && arg ~ /^[A-Za-z]/) {
                print FILENAME ":" FNR ": text runs on in a line of fonts: " $0; break
            }
            last = arg; line = substr(line, n + 1); sub(/^ +/, "", line)
        }
    }' "$@"
}
cat > "${TMPDIR:-/tmp}/hearth-man.$$" <<'END'
.BR \-\-state . When hearthd cannot start
.B ask , and then the rest
.BR help is "one of them"
.RB ( "sessions rm" ", " rewind ", " pin ).
.BR hearthd (8),
.B GET /v1/models\fR, \fBGET
END
[ "$(glued "${TMPDIR:-/tmp}/hearth-man.$$" | grep -c 'runs on')" = 3 ] || no "glued() does not know what it looks for"
rm -f "${TMPDIR:-/tmp}/hearth-man.$$"
# shellcheck disable=SC2086
out=$(glued $pages)
[ -z "$out" ] || no "$out"
# Backslashes that keep a dash a dash are roff's, not the reader's.
plain() { sed 's/\\-/-/g;s/\\&//g' "$1"; }
if [ -x "$bin/hearthd" ]; then
    for f in $("$bin/hearthd" --help | grep -oE '(^|[ ,])--[a-z][a-z-]+' | tr -d ' ,' | sort -u); do
        plain man/hearthd.8 | grep -q -e "$f" || no "hearthd.8 does not mention $f"
    done
fi
if [ -x "$bin/hearth" ]; then
    for w in serve run chat ingest ask cancel sessions models show load unload ps status tokenize doctor version completion \
        fork rewind rename pin unpin rm; do
        plain man/hearth.1 | grep -qw -e "$w" || no "hearth.1 does not mention $w"
    done
    for f in --socket --json --max-tokens --temp --top-k --top-p --min-p --repeat-penalty --presence-penalty \
        --frequency-penalty --seed --stop --system --raw --greedy --logprobs --ignore-eos --ids --fork --encoding --anonymous --older --split; do
        plain man/hearth.1 | grep -q -e "$f" || no "hearth.1 does not mention $f"
    done
    for c in 0 1 2 3 4 75 130; do
        plain man/hearth.1 | grep -qw -e "$c" || no "hearth.1 does not mention exit code $c"
    done
fi
exit $bad
