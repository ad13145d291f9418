#!/bin/sh
# test_install.sh - install puts everything where systemd, man and shells look; a second make is idle.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${HEARTH_BIN:-build/release}
[ -x "$bin/hearthd" ] || { echo "$bin/hearthd is not built"; exit 77; }
BDIR=$(dirname "$bin")
build=$(basename "$bin")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0
no() { echo "$*"; bad=1; }
unset MAKEFLAGS MFLAGS MAKELEVEL

m() { make --no-print-directory BDIR="$BDIR" BUILD="$build" "$@"; }
out=$(m all 2>&1)
case $out in *"CC  "* | *LINK* | *"AR  "*) no "a second make does something: $out" ;; esac
m -q all || no "make -q all says there is work left"

(umask 077 && m install DESTDIR="$tmp" PREFIX=/usr) >"$tmp/log" 2>&1 || { cat "$tmp/log"; no "make install failed"; }
for f in usr/bin/hearthd usr/bin/hearth usr/bin/hearth-front usr/bin/hearth-eval usr/bin/hearth-bench \
    usr/lib/libhearth.a usr/lib/pkgconfig/hearth.pc usr/include/hearth/client.h usr/include/hearth/proto.h usr/include/hearth/base/err.h \
    usr/lib/systemd/system/hearthd.service usr/lib/systemd/system/hearth-front.service \
    usr/lib/systemd/user/hearthd.service usr/lib/systemd/user/hearth-front.service usr/lib/systemd/user/hearth-front-http.service \
    usr/lib/sysusers.d/hearth.conf usr/lib/tmpfiles.d/hearth.conf etc/hearth/hearth.conf.example \
    usr/share/man/man1/hearth.1 usr/share/man/man8/hearthd.8 usr/share/doc/hearth/README.md usr/share/doc/hearth/LICENSE \
    usr/share/bash-completion/completions/hearth usr/share/zsh/site-functions/_hearth usr/share/fish/vendor_completions.d/hearth.fish; do
    [ -s "$tmp/$f" ] || no "not installed: /$f"
done
# Others can read and enter all of it, whoever installed it with whichever umask.
tight=$(find "$tmp/usr" "$tmp/etc" \( -type d ! -perm -755 -o -type f ! -perm -644 \) | head)
[ -z "$tight" ] || no "not for everybody: $tight"
for p in hearthd hearth hearth-front; do [ "$(stat -c %a "$tmp/usr/bin/$p")" = 755 ] || no "$p is not 755"; done
grep -rl '@[A-Z]*@' "$tmp/usr/lib/systemd" 2>/dev/null && no "a unit still has a placeholder"
grep -q '^ExecStart=/usr/bin/hearthd' "$tmp/usr/lib/systemd/system/hearthd.service" || no "the unit starts another program"
"$tmp/usr/bin/hearthd" --version >/dev/null || no "the installed hearthd does not run"
"$tmp/usr/bin/hearth" --version >/dev/null || no "the installed hearth does not run"

# libhearth and its header are enough for a program.
cat >"$tmp/use.c" <<'C'
#include <client.h>
#include <stdio.h>
int main(void)
{
    char id[33];
    struct errbuf eb = {{0}};
    struct hearth_conn *c = NULL;
    hearth_new_id(id);
    int r = hearth_connect(&c, "unix:///nonexistent/core.sock", &eb);
    hearth_close(c);
    printf("%s %d\n", id, r);
    return 0;
}
C
cc -std=gnu17 -I"$tmp/usr/include/hearth" -o "$tmp/use" "$tmp/use.c" "$tmp/usr/lib/libhearth.a" -lnanomsg -lcjson -lm 2>"$tmp/cc" ||
    { cat "$tmp/cc"; no "a program cannot be built with libhearth"; }
[ ! -x "$tmp/use" ] || "$tmp/use" >/dev/null || no "a program with libhearth fails"
# With the flags that are said, as <client.h> and as what lies in a folder of that name.
if command -v pkg-config >/dev/null; then
    flags=$(PKG_CONFIG_SYSROOT_DIR="$tmp" PKG_CONFIG_PATH="$tmp/usr/lib/pkgconfig" PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 \
        pkg-config --cflags --libs hearth) || no "pkg-config does not know hearth"
    for include in client.h hearth/client.h; do
        sed "s,<client.h>,<$include>," "$tmp/use.c" >"$tmp/pc.c"
        # shellcheck disable=SC2086
        cc -o "$tmp/pc" "$tmp/pc.c" $flags 2>"$tmp/cc" || { cat "$tmp/cc"; no "no program with <$include> and: $flags"; }
        "$tmp/pc" >/dev/null || no "a program with <$include> fails"
        rm -f "$tmp/pc"
    done
    [ "$(PKG_CONFIG_PATH="$tmp/usr/lib/pkgconfig" pkg-config --modversion hearth)" = "$("$bin/hearth" --version -q --socket unix:///nowhere 2>/dev/null | grep -oE '[0-9]+\.[0-9.]+' | head -1)" ] || no "hearth.pc has another version"
fi
bash -n "$tmp/usr/share/bash-completion/completions/hearth" 2>&1 || no "bash completion does not parse"

m uninstall DESTDIR="$tmp" PREFIX=/usr >/dev/null 2>&1 || no "make uninstall failed"
left=$(find "$tmp/usr" "$tmp/etc" -type f)
[ -z "$left" ] || no "left after uninstall: $left"

# Below HOME: where one user's systemd looks, and nothing that only the machine's would read.
m install DESTDIR="$tmp" HOME=/home/u PREFIX=/home/u/.local SYSCONFDIR=/home/u/.config >"$tmp/log" 2>&1 ||
    { cat "$tmp/log"; no "make install for one user failed"; }
[ -s "$tmp/home/u/.local/share/systemd/user/hearthd.service" ] || no "one user's unit is not where systemd looks"
! find "$tmp/home" -path '*systemd/system*' -o -name '*sysusers*' -o -name '*tmpfiles*' | grep -q . || no "one user got the machine's files"
m uninstall DESTDIR="$tmp" HOME=/home/u PREFIX=/home/u/.local SYSCONFDIR=/home/u/.config >/dev/null 2>&1 || no "make uninstall for one user failed"
left=$(find "$tmp/home" -type f)
[ -z "$left" ] || no "left after one user's uninstall: $left"
exit $bad
