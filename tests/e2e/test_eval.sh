#!/bin/sh
# test_eval.sh - hearth-eval: usage and exit codes; a snapshot continues with the same bits.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
ev=$bin/hearth-eval
[ -x "$ev" ] || { echo "$ev is not built"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0
no() { echo "$*"; bad=1; }
wants() { # CODE WORDS COMMAND...: exit code and a part of what it says
    code=$1 words=$2
    shift 2
    out=$("$@" 2>&1)
    rc=$?
    [ $rc -eq "$code" ] || no "exit $rc instead of $code: $* : $out"
    case $out in *"$words"*) ;; *) no "no '$words' in: $out" ;; esac
}

printf 'text' >"$tmp/text"
wants 2 "which model" "$ev"
wants 2 "--ids and --text" "$ev" model.gguf
wants 2 "--ids and --text" "$ev" model.gguf --ids a --text b
wants 2 "--chunk takes 1 to 8192" "$ev" model.gguf --text x --chunk 0
wants 2 "--threads takes" "$ev" model.gguf --text x --threads two
wants 2 "--device takes" "$ev" model.gguf --text x --device gpu
wants 2 "--backend takes" "$ev" model.gguf --text x --backend fast
wants 2 "needs --backend ref" "$ev" model.gguf --text x --act f32
wants 2 "--wrong" "$ev" model.gguf --text x --wrong 1
wants 2 "--text" "$ev" model.gguf --text
wants 4 "no such model" "$ev" "$tmp/none.gguf" --text "$tmp/text"
wants 4 "no such model" "$ev" --json "$tmp/none.gguf" --text "$tmp/text"
wants 1 "magic" "$ev" "$tmp/text" --text "$tmp/text"

m=${HEARTH_TEST_MODEL:-}
[ -f "$m" ] || {
    [ $bad -eq 0 ] || exit 1
    echo "HEARTH_TEST_MODEL names no model: only usage was tested"
    exit 77
}
[ $bad -eq 0 ] || exit 1

python3 - "$tmp" <<'PY'
import random, struct, sys
rng, tmp = random.Random(1), sys.argv[1]
def put(name, ids):
    with open(tmp + "/" + name, "wb") as f:
        f.write(struct.pack("<%di" % len(ids), *ids))
ids = [rng.randrange(49152) for _ in range(530)]
put("all", ids)
for cut in (0, 1, 255, 256, 257, 511, 512):
    put("head%d" % cut, ids[:cut])
    put("tail%d" % cut, ids[cut:])
put("odd", ids[:3])
put("far", [49152])
put("long", [5] * 8193)
PY
printf x >>"$tmp/odd"
wants 1 "whole number of int32" "$ev" "$m" --ids "$tmp/odd"
wants 1 "token 0 is 49152" "$ev" "$m" --ids "$tmp/far"
wants 1 "8193 tokens" "$ev" "$m" --ids "$tmp/long"
wants 1 "/none" "$ev" "$m" --text "$tmp/none"

wants 0 '"tokens":530' "$ev" "$m" --ids "$tmp/all" --logits "$tmp/all.out"
row=$((4 * 49152))
for cut in 0 1 255 256 257 511 512; do
    "$ev" "$m" --ids "$tmp/head$cut" --save "$tmp/snap$cut" >/dev/null || no "saving at $cut"
    "$ev" "$m" --ids "$tmp/tail$cut" --from "$tmp/snap$cut" --logits "$tmp/tail.out" >/dev/null ||
        no "continuing at $cut"
    tail -c +$((cut * row + 1)) "$tmp/all.out" | cmp -s - "$tmp/tail.out" ||
        no "continued at $cut: other bits"
done

# What does not fit or is damaged is refused by name.
wants 1 "layout is gqa-f16" "$ev" "$m" --ids "$tmp/tail1" --from "$tmp/snap1" --rows f32
wants 1 "numerics epoch" "$ev" "$m" --ids "$tmp/tail1" --from "$tmp/snap1" --backend ref
damage() { # BYTE: a copy with that byte changed
    cp "$tmp/snap257" "$tmp/bad"
    printf '\245' | dd of="$tmp/bad" bs=1 seek="$1" conv=notrunc 2>/dev/null
}
damage 0; wants 1 "not a snapshot" "$ev" "$m" --ids "$tmp/tail257" --from "$tmp/bad"
damage 17; wants 1 "header checksum" "$ev" "$m" --ids "$tmp/tail257" --from "$tmp/bad"
damage 4200; wants 1 "block 0 has a damaged header" "$ev" "$m" --ids "$tmp/tail257" --from "$tmp/bad"
damage 100000; wants 1 "block 0 has a wrong payload" "$ev" "$m" --ids "$tmp/tail257" --from "$tmp/bad"
head -c 6000000 "$tmp/snap257" >"$tmp/bad"
wants 1 "ends inside block 1" "$ev" "$m" --ids "$tmp/tail257" --from "$tmp/bad"
wants 1 "No such file" "$ev" "$m" --ids "$tmp/tail257" --from "$tmp/none"
exit $bad
