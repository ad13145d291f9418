#!/bin/sh
# test_hardened.sh - the programs carry what the compiler can do against mistakes in C.
#
# Read from the files themselves: addresses that are not fixed, relocations and stack that cannot be
# written or run, checks of buffers, canaries, probes of large frames, landing pads for branches.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
case $(basename "$bin") in release) ;; *) echo "a variant that is not for users"; exit 77 ;; esac
for c in readelf objdump; do command -v $c >/dev/null || { echo "binutils are not installed"; exit 77; }; done
[ -x "$bin/hearthd" ] || { echo "$bin/hearthd is not built"; exit 77; }
bad=0
no() { echo "$*"; bad=1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

for p in hearthd hearth-front hearth hearth-eval hearth-bench; do
    f=$bin/$p
    [ -x "$f" ] || { no "$p is not built"; continue; }
    readelf -hW "$f" >"$tmp/head"
    readelf -lW "$f" >"$tmp/segments"
    readelf -dW "$f" >"$tmp/dynamic"
    readelf --dyn-syms -W "$f" >"$tmp/symbols"
    grep -q 'Type: *DYN' "$tmp/head" || no "$p: loaded at a fixed address (no PIE)"
    grep -q 'GNU_RELRO' "$tmp/segments" || no "$p: relocations stay writable (no RELRO)"
    grep -q 'FLAGS.*NOW' "$tmp/dynamic" || no "$p: functions are bound late (no -z now)"
    grep 'GNU_STACK' "$tmp/segments" | grep -q ' RW ' || no "$p: the stack can be run"
    awk '$1 == "LOAD" && /RWE/ { exit 1 }' "$tmp/segments" || no "$p: a segment that can be written and run"
    # Code in pages of its own: no segment that can be run begins with the file's headers.
    awk '$1 == "LOAD" && / R E / && $2 ~ /^0x0+$/ { exit 1 }' "$tmp/segments" || no "$p: headers and code share pages"
    grep -q '__stack_chk_fail' "$tmp/symbols" || no "$p: no stack canaries"
    grep -q '__\(memcpy\|snprintf\|vsnprintf\|memset\|read\|strcpy\)_chk' "$tmp/symbols" || no "$p: no checked buffers (FORTIFY)"
    # What each file was compiled with stands in its debugging information.
    readelf -p .debug_str -p .debug_line_str "$f" 2>/dev/null | grep 'GNU C1[0-9]' >"$tmp/producers"
    [ -s "$tmp/producers" ] || { no "$p: no debugging information to read options from"; continue; }
    for o in -fstack-clash-protection -fstack-protector-strong; do
        ! grep -v -e "$o" "$tmp/producers" | grep -q . || no "$p: a file was compiled without $o"
    done
    if [ "$(uname -m)" = x86_64 ]; then
        ! grep -v -e '-fcf-protection=full' "$tmp/producers" | grep -q . || no "$p: a file was compiled without -fcf-protection=full"
        objdump -d --no-show-raw-insn --disassemble=main "$f" | awk '/<main>:/ { getline; print; exit }' | grep -q endbr64 ||
            no "$p: main has no landing pad (CET)"
    fi
done
if [ "$(uname -m)" = x86_64 ]; then
    for a in "$bin"/lib*.a; do
        n=$(ar t "$a" | grep -c '\.c\.o$')
        k=$(readelf -nW "$a" 2>/dev/null | grep -c 'x86 feature: IBT, SHSTK')
        [ "$k" -ge "$n" ] || no "${a##*/}: $k of $n objects are marked for CET"
    done
fi
exit $bad
