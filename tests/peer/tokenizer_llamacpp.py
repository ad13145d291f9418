#!/usr/bin/env python3
"""Ids of hard strings as llama.cpp gives them, for each pre-tokenizer.

    tokenizer_llamacpp.py                       fresh strings, compared with the C tokenizer now
                                                (HEARTH_TEST_MODEL, HEARTH_BIN; SEED= repeats)
    tokenizer_llamacpp.py --write tests/golden  the goldens of make check

Options of the first: --every (all code points), --aliases (names that share a rule do), -n.

Only one vocabulary need be at hand: tokenizer.ggml.pre is set to each name in copies of it.
A second one is made here: its merges were learnt across words, so that a cut in the wrong
place changes ids, and it has what tidy vocabularies lack (bytes without a token, merges
without a result, words without merges, user-defined and overlapping special tokens).
Exit 77 where xllamacpp or gguf is missing.

Format of the golden, little-endian: "HTG1", u32 strings, u32 rules; per rule u8 length and
name; per string u32 bytes, u8 1 = special tokens count, the bytes; per rule and string a
varint: 1 = as the first rule, else 2 * ids, and the ids as u16.
"""
import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
try:
    import gguf
    import numpy
    import llama_vocab
    LIB = llama_vocab.library()
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

RULES = ["smollm", "gpt-2", "llama-bpe", "dbrx", "qwen2", "deepseek-llm"]
ALIASES = {
    "smollm": ["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
    "gpt-2": ["phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"],
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "pixtral"],
    "qwen2": ["stablelm2", "deepseek-r1-qwen", "megrez"],
    "dbrx": ["smaug-bpe"],
}
OWN_SPECIALS = [("<|a|>", 3), ("<|a|><|b|>", 3), ("<|b|>", 3), ("|>xx<|", 3), ("<ud>", 4), ("  ", 4), ("\u00e9!", 4),
                ("<unk>", 2), ("<|im_end|>", 1), ("un1used", 5)]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>",
            "<file_sep>", "<filename>", "<gh_stars>", "<issue_start>", "<jupyter_code>",
            "<empty_output>"]
SPACES = [" ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x85", "\xa0", "\u1680", "\u180e", "\u2000",
          "\u2003", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000",
          "\ufeff", "\x1c", "\x1f"]
WORDS = """the of and to in is that for it was on are as with his they at be this from have or
by one had not but what all were when we there can an your which their said if do will each
about how up out them then she many some so these would other into has more her two like him
see time could no make than first been its who now people my made over did down only way find
use may water long little very after words called just where most know""".split()
TEXTS = [
    "Привет, как дела? Ёлки-палки!", "Ελληνικά γράμματα", "עברית ועוד", "مرحبا بالعالم", "हिन्दी में लेख",
    "ไทยไม่มีช่องว่าง", "日本語のテキスト、テスト。", "中文字符测试，真的。", "한국어 문장입니다.", "ქართული ენა",
    "Tiếng Việt có dấu", "Zażółć gęślą jaźń", "naïve café déjà vu", "Ａｌｌ ｆｕｌｌ ｗｉｄｔｈ ！？",
    "ｶﾀｶﾅ half", "\u1e9e Straße STRASSE", "\u01c5 \u01c4 \u01c6 titlecase", "İstanbul ılık", "ﬁﬂ ligatures",
    "e\u0301 a\u0300\u0316 n\u0303", "\u0915\u094d\u0937", "Z\u0351\u036b\u0343alg\u0334o", "\u0e33\u0e49",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛", "𐐀𐐨 Deseret 𞤀𞤢", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea \U0001f3f4\U000e0067\U000e0062\U000e007f", "☃️ ★ ♥ ✂ ™ ®",
    "①②③ Ⅷ ⅷ ½ ¾ ² ³ ४५६ ٣٤٥ 一二三 〡〢 ㊿ 𐄇 𝍠", "𑽐𑽑 \U0001d2c0\U0001e4f0 new digits",
    "\U0001123f\U00011f02\U0001e030\U0002ebf0\U00031350 new letters", "₁₂₃ⁿ", "१२३४५६७८९०", "x²+y³=z⁴",
    "\u2018quoted\u2019 \u201cdouble\u201d \u2013 dash \u2014 \u2026", "price: $5.00, €6,50; £7 ¥8", "a\u00adb soft",
    "\u0300 leading mark", "\ufffd replacement", "\U000e0001 tag", "\ue000 private \U000f0000",
    "\u0378 unassigned \U0003fffd", "\x00nul\x00", "\x7f\x80\x81 controls", "ǅ ʰ ª º ƻ ǀ", "ᏣᎳᎩ ꮳꮃꭹ Cherokee",
]
CODE = [
    "int main(void)\n{\n\treturn 0;\n}\n", "for (size_t i = 0; i < n; ++i)\n        a[i] += b[i] * 3.14e-10f;",
    "def f(x):\n    if x > 0x1F:\n        return None\n\n\n    return x**2  # ok",
    "SELECT * FROM t WHERE a='it''s' AND b<>\"q\";", "<div class=\"a b\">\n  <p>Hi &amp; bye</p>\n</div>",
    "{\"key\": [1, 2.50, -3e+4, null, true], \"s\": \"\\u00e9\\n\"}", "#include <stdio.h>\r\n#define X(a) ((a)+1)\r\n",
    "https://example.org/a/b?c=d&e=%20f#g", "user@host:~$ ls -la | grep '^d' > /dev/null 2>&1",
    "x = a if b else c;y=lambda:0", "\\begin{equation} E = mc^2 \\end{equation}", "----====++++****////\\\\\\\\",
    "if(!a&&b||c){d?e:f;}", "0xDEADBEEF 0b1010 1_000_000 1.2.3.4", "```python\nprint('x')\n```", "| a | b |\n|---|:-:|\n",
]
CONTRACTIONS = ["s", "t", "re", "ve", "m", "ll", "d", "S", "T", "RE", "Re", "rE", "VE", "vE", "M", "LL", "lL",
                "D", "\u017f", "\u212a", "x", "", "sh", "llo", "rev", "5", " s"]
INVALID = [b"\xff", b"\xfe\xff", b"\x80", b"\xbf\xbf", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x28\xa1", b"\xf0\x9f\x98",
           b"\xf0\x28\x8c\xbc", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xed\xbf\xbf",
           b"\xed\xa0\xbd\xed\xb8\x80", b"\xf0\x8f\xbf\xbf", b"\xf8\x88\x80\x80\x80", b"\xfc\x84", b"\xe2\x80\xa8\xe2\x80",
           b"\xf0\x80\x80\x80", b"\xe1\xa0\xc0", b"\xc2\xa0\xc2"]


def crashes_llama(b):
    """Values above U+10FFFF make llama.cpp throw through its C API; ours says U+FFFD."""
    for i in range(len(b) - 3):
        if 0xF4 <= b[i] <= 0xF7 and all(0x80 <= c <= 0xBF for c in b[i + 1:i + 4]) and \
                (b[i] > 0xF4 or b[i + 1] > 0x8F):
            return True
    return False


def strings(rng, n, specials=SPECIALS):
    """(bytes, special) pairs, each once: the fixed ones and n random ones."""
    got = {}

    def add(s, special=False):
        b = s if isinstance(s, bytes) else s.encode("utf-8", "surrogatepass")
        if not crashes_llama(b):
            got.setdefault((b, special))

    def cp():
        r = rng.random()
        if r < 0.25:
            return chr(rng.randrange(0x20, 0x7F))
        if r < 0.45:
            return chr(rng.randrange(0x80, 0x800))
        if r < 0.75:
            c = rng.randrange(0x800, 0x10000)
            return "\ufffd" if 0xD800 <= c < 0xE000 else chr(c)
        if r < 0.95:
            return chr(rng.choice([0x10000, 0x11000, 0x12000, 0x1D000, 0x1E000, 0x1F000, 0x20000, 0x30000])
                       + rng.randrange(0x1000))
        return chr(rng.randrange(0x40000, 0x110000))

    def word():
        return rng.choice([rng.choice(WORDS), rng.choice(WORDS).title(), rng.choice(WORDS).upper(),
                           rng.choice(TEXTS), str(rng.randrange(10 ** rng.randrange(1, 11))), rng.choice(CODE)])

    add("")
    for s in SPACES:
        for k in (1, 2, 3, 7):
            for around in ("%s", "a%sb", "a%s", "%sb", "1%s2", ".%s.", "a%s\nb", "世%s界", "a %s", "%s 7"):
                add(around % (s * k))
    for c in CONTRACTIONS:
        for q in ("'", "\u2019"):
            for f in ("it%s%s", "%s%s", " %s%s ", "5%s%s", "a'%s%s", "we%s%sx", "\n%s%s", "é%s%s!"):
                add(f % (q, c))
    for k in range(1, 11):
        for d in ("1234567890", "٠١٢٣٤٥٦٧٨٩", "①②③④⑤⑥⑦⑧⑨⑩", "ⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ", "½¼¾²³¹½¼¾²", "१२३४५६७८९०", "𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗𝟎"):
            for f in ("%s", " %s", "a%sb", "  %s", "%s.5", "$%s"):
                add(f % d[:k])
    for t in TEXTS + CODE:
        add(t)
        add(" " + t)
        add(t + "\n\n")
        add(t.upper())
    for b in INVALID:
        for f in (b"%s", b"a%s", b"%sb", b"a%sb", b"  %s  ", b"1%s2", b"\n%s\n", b"%s'%s"):
            add(f.replace(b"%s", b))
    for t in specials:
        for f in ("%s", "a%sb", " %s ", "%s%s", "\n%s\n", "x %sy", "<%s>", "%s5", "'%s", "user%s\nassistant"):
            add(f.replace("%s", t), True)
            add(f.replace("%s", t), False)
        add(t[:-1], True)
        add(t[1:], True)
        add(t[:4] + t, True)
        add(t + specials[0] + t + specials[2], True)
        add("<|a|>xx<|b|><|a|><|b|>" + t + "<|a|>", True)
    for k in (50, 97, 200, 900):
        for s in ("a", "ab", "the", "é", "\u0301", "世", "-", "=", " ", "\n", "\t", "1", "\U0001f600", "aA", "ſ", " a", "\r\n"):
            add((s * k)[:900])
            add("x" + (s * k)[:200] + "y")
        add("".join(chr(rng.randrange(0x61, 0x7B)) for _ in range(k)))
        add("".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(min(k, 400))))
    n += len(got)
    while len(got) < n:
        kind = rng.randrange(6)
        if kind == 0:
            add("".join(cp() for _ in range(rng.randrange(1, 40))))
        elif kind == 1:
            add("".join(word() + rng.choice(SPACES + [" "] * 30) * rng.choice([1, 1, 1, 2, 3])
                        for _ in range(rng.randrange(1, 12))))
        elif kind == 2:
            add(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 60))))
        elif kind == 3:
            add("".join(rng.choice(SPACES + list("aZ1.'é世\u0301-_") + ["'s", "'LL", "12345"])
                        for _ in range(rng.randrange(1, 30))))
        elif kind == 4:
            s = bytearray(rng.choice(TEXTS + CODE).encode())
            for _ in range(rng.randrange(1, 4)):
                s[rng.randrange(len(s))] = rng.randrange(256)
            add(bytes(s))
        else:
            add("".join(rng.choice([word(), rng.choice(specials), " ", "\n", "<|", "|>"])
                        for _ in range(rng.randrange(2, 9))), rng.random() < 0.6)
    return list(got)


def every_code_point():
    """All 1,112,064 of them, each after a letter, a space and a digit, 40 to a string."""
    cps = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    return [("".join(f"a{c} {c}7{c}\n" for c in map(chr, cps[i:i + 40])).encode(), False)
            for i in range(0, len(cps), 40)]


def renamed(model, reader, pre, path):
    """A copy of model whose tokenizer.ggml.pre is another name."""
    def end(field):
        return field.offset + sum(p.nbytes for p in field.parts)

    f = reader.fields["tokenizer.ggml.pre"]
    key, name = b"tokenizer.ggml.pre", pre.encode()
    field = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(name)) + name
    last = max(end(t.field) for t in reader.tensors)
    with open(model, "rb") as src, open(path, "wb") as dst:
        head = src.read(f.offset)
        old = src.read(end(f) - f.offset)
        assert old.startswith(field[:len(key) + 8])
        head += field + src.read(last - end(f))
        head += bytes(-len(head) % reader.alignment)
        dst.write(head)
        src.seek(reader.data_offset)
        while chunk := src.read(1 << 24):
            dst.write(chunk)


def oracle(model, reader, pre, texts):
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "model.gguf")
        renamed(model, reader, pre, path)
        v = llama_vocab.Vocab(LIB, path)
        ids = [v.encode(b, special) for b, special in texts]
        v.close()
    return ids


def byte_alphabet():
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(rest)}


def own_model(path):
    """A tiny model around a vocabulary made to be difficult."""
    rng = random.Random(7)
    alphabet = byte_alphabet()
    corpus = "\n".join(TEXTS + CODE + [" ".join(rng.choice(WORDS) for _ in range(12)) for _ in range(60)]
                       + ["it's we'll I'VE they'RE 'S", "2024 100 3.14 1000000 12345 007 99", "   x\n\n  y\t\tz  \r\n"] * 4)
    seq = [alphabet[b] for b in corpus.encode()]
    merges, made = [], []
    while len(merges) < 900:
        pairs = {}
        for p in zip(seq, seq[1:]):
            pairs[p] = pairs.get(p, 0) + 1
        best = max(pairs, key=lambda p: (pairs[p], p))
        if pairs[best] < 2:
            break
        merges.append(best)
        made.append(best[0] + best[1])
        out, i = [], 0
        while i < len(seq):
            if i + 1 < len(seq) and (seq[i], seq[i + 1]) == best:
                out.append(made[-1])
                i += 2
            else:
                out.append(seq[i])
                i += 1
        seq = out
    lost = {0x07, ord("q"), 0xC0, 0xC1, *range(0xF5, 0x100)}
    tokens = [alphabet[b] for b in range(256) if b not in lost] + [m for m in made if "x" not in m.lower()]
    tokens += ["hello", alphabet[32] + "zebra", "1234", "HELLO", "world"]
    tokens = list(dict.fromkeys(tokens))
    types = [1] * len(tokens) + [t for _, t in OWN_SPECIALS]
    tokens += [t for t, _ in OWN_SPECIALS]

    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64)
    w.add_embedding_length(32)
    w.add_block_count(1)
    w.add_feed_forward_length(32)
    w.add_head_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([" ".join(m) for m in merges])
    w.add_bos_token_id(tokens.index("<|a|>"))
    w.add_eos_token_id(tokens.index("<|b|>"))
    w.add_add_bos_token(True)

    def zeros(name, *shape):
        w.add_tensor(name, numpy.zeros(shape, numpy.float32))

    zeros("token_embd.weight", len(tokens), 32)
    zeros("output_norm.weight", 32)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        zeros(f"blk.0.{name}.weight", 32, 32)
    for name in ("attn_norm", "ffn_norm"):
        zeros(f"blk.0.{name}.weight", 32)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def without_tensors(model, path):
    reader = gguf.GGUFReader(model)
    last = max(f.offset + sum(p.nbytes for p in f.parts) for f in reader.fields.values() if f.offset)
    with open(model, "rb") as src, open(path, "wb") as dst:
        head = bytearray(src.read(last))
        head[8:16] = bytes(8)
        dst.write(head)


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def golden(model, texts):
    reader = gguf.GGUFReader(model)
    out = bytearray(b"HTG1" + struct.pack("<II", len(texts), len(RULES)))
    for r in RULES:
        out += bytes([len(r)]) + r.encode()
    for b, special in texts:
        out += struct.pack("<IB", len(b), special) + b
    first = None
    for r in RULES:
        ids = oracle(model, reader, r, texts)
        for i, v in enumerate(ids):
            if first and first[i] == v:
                out += varint(1)
            else:
                out += varint(2 * len(v)) + struct.pack(f"<{len(v)}H", *v)
        first = first or ids
        print(f"{r}: {len(ids)} strings, {sum(map(len, ids))} ids")
    return bytes(out)


def check_aliases(model, texts):
    reader = gguf.GGUFReader(model)
    bad = 0
    for rule, names in ALIASES.items():
        want = oracle(model, reader, rule, texts)
        for name in names:
            same = oracle(model, reader, name, texts) == want
            bad += not same
            print(f"{name} is {rule}: {'yes' if same else 'NO'}")
    return bad


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--write", metavar="DIR")
    ap.add_argument("-n", type=int, default=600, help="random strings beside the fixed ones (600)")
    ap.add_argument("--aliases", action="store_true")
    ap.add_argument("--every", action="store_true")
    a = ap.parse_args()
    model = os.environ.get("HEARTH_TEST_MODEL")
    if not model:
        print("skipped: HEARTH_TEST_MODEL names no GGUF")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as tmp:
        sys.exit(work(a, model, tmp))


def work(a, model, tmp):
    own = os.path.join(tmp, "own.gguf")
    own_model(own)
    names = [t for t, _ in OWN_SPECIALS]
    both = [(own, names, "own_tokens.bin", "golden_ids_of_a_difficult"),
            (model, SPECIALS, "tokens.bin", "golden_ids_of_the_real")]
    if a.write:
        without_tensors(own, os.path.join(a.write, "own_vocab.gguf"))
        for path, specials, name, _ in both:
            write(os.path.join(a.write, name), golden(path, strings(random.Random(20261123), a.n, specials)))
        return 0
    if a.aliases:
        return check_aliases(own, strings(random.Random(1), 0, names)[::4])
    seed = int(os.environ.get("SEED") or random.randrange(1 << 30))
    print(f"SEED={seed}")
    bad = 0
    for path, specials, name, case in both:
        texts = every_code_point() if a.every else strings(random.Random(seed), a.n, specials)
        fresh = os.path.join(tmp, name)
        write(fresh, golden(path, texts))
        test = os.path.join(os.environ.get("HEARTH_BIN", "build/release"), "tests/engine/test_tokenizer")
        bad |= subprocess.run([test, case], env=dict(os.environ, HEARTH_TOKENS_GOLDEN=fresh)).returncode
    return bad


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)
    print(f"{path}: {len(data)} bytes")


if __name__ == "__main__":
    main()
