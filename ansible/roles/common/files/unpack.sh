#!/bin/sh
# Unpacks the archive that follows it into PREFIX/VERSION, whole or not at all. POSIX sh, and what is in every system.
# usage: unpack.sh PREFIX VERSION SHA256
set -u
umask 022
say_no() {
    echo "meshbridge: $*" >&2
    rm -rf "$new" 2>/dev/null
    exit 1
}
prefix=$1 version=$2 wanted=$3
new=$prefix/.$version.new

for tool in awk cut df gzip tail tar wc; do
    command -v "$tool" >/dev/null 2>&1 || say_no "there is no $tool here, which unpacking takes; install it"
done
mkdir -p "$prefix" 2>/dev/null || say_no "$prefix cannot be made; is the file system read-only? make it writable, or set common_prefix"
rm -rf "$new" 2>/dev/null
mkdir "$new" 2>/dev/null || say_no "nothing can be written below $prefix; is the file system read-only or full? make it writable, or set common_prefix"

first=$(awk '/^# ARCHIVE$/ { print NR + 1; exit }' "$0")
archive() { tail -n "+$first" "$0"; }

if command -v sha256sum >/dev/null 2>&1; then
    found=$(archive | sha256sum | cut -d ' ' -f 1)
elif command -v openssl >/dev/null 2>&1; then
    found=$(archive | openssl dgst -sha256 | sed 's/.*= *//')
else
    say_no "there is neither sha256sum nor openssl to check the archive with; install one of them"
fi
[ "$found" = "$wanted" ] || say_no "the archive is not the one that its .sha256 describes; make both again with \`make dist\`"

# Unpacked it takes about four times its size.
have=$(df -Pk "$new" | awk 'NR == 2 { print $4 }')
need=$(($(wc -c <"$0") / 256))
[ "$have" -gt "$need" ] || say_no "$prefix has $((have / 1024)) MiB left, and the release takes about $((need / 1024)) MiB; make room"

archive | gzip -dc 2>/dev/null | (cd "$new" && tar -xf -) 2>/dev/null || say_no "the archive cannot be unpacked below $prefix; is the disk full?"
# Archives may hold everything in one directory of the release's name.
inner=$new
[ -x "$new/bin/meshbridge" ] || inner=$(echo "$new"/meshbridge-*)
[ -x "$inner/bin/meshbridge" ] || say_no "there is no bin/meshbridge in the archive; make it again with \`make dist\`"
"$inner/bin/meshbridge" --version >/dev/null 2>&1 || say_no "the release does not run on this machine ($(uname -m), $(uname -s) $(uname -r)); make the archive for it"

rm -rf "${prefix:?}/$version"
mv "$inner" "$prefix/$version" || say_no "$prefix/$version cannot be put in place"
rm -rf "$new"
# Under SELinux services start only what carries the label of a program, which names give it and copies do not.
if command -v restorecon >/dev/null 2>&1; then restorecon -R "$prefix/$version" >/dev/null 2>&1; fi
exit 0
# ARCHIVE
