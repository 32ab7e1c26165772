#!/usr/bin/env bash
#
# Checks the series against an unpatched tree of the pinned llama.cpp:
#
#   bash patches/check.sh LLAMA_SOURCE
#
# - every patch in this folder is in the series, and the other way round
# - every patch says why it exists and what would let it go
# - the series applies in order and without fuzz, which git apply never allows itself
# - patches insert: at most max_removed lines of upstream are removed by the whole series
#
# Prints the lines that each patch adds and removes.

set -euo pipefail

patches_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=${1:?usage: check.sh LLAMA_SOURCE}
max_removed=10
failures=0

complain() { printf 'patches: %s\n' "$*" >&2; failures=$((failures + 1)); }

series=$(sed 's/#.*//;s/[[:space:]]*$//;/^$/d' "$patches_dir/series")
[ "$(printf '%s\n' "$series" | sort | uniq -d)" = "" ] || complain "a patch is in the series twice"
for name in $series; do
    [ -f "$patches_dir/$name" ] || complain "$name is in the series but not in the folder"
done
for path in "$patches_dir"/*.patch; do
    grep -qxF "$(basename "$path")" <<< "$series" || complain "$(basename "$path") is not in the series"
done
[ $failures -eq 0 ] || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# only the files that some patch touches
for name in $series; do
    sed -n 's|^--- a/||p' "$patches_dir/$name"
done | sort -u | while read -r file; do
    mkdir -p "$work/tree/$(dirname "$file")"
    cp "$source_dir/$file" "$work/tree/$file"
done

total_added=0 total_removed=0
for name in $series; do
    path=$patches_dir/$name
    header=$(sed '/^diff --git /,$d' "$path")
    grep -q '^Why: ' <<< "$header" || complain "$name does not say why it exists (Why: ...)"
    grep -q '^Can go when: ' <<< "$header" || complain "$name does not say what would let it go (Can go when: ...)"
    added=$(sed '1,/^diff --git /d' "$path" | grep -c '^+[^+]\|^+$' || true)
    removed=$(sed '1,/^diff --git /d' "$path" | grep -c '^-[^-]\|^-$' || true)
    total_added=$((total_added + added)) total_removed=$((total_removed + removed))
    printf '%-32s +%d -%d\n' "$name" "$added" "$removed"
    if ! output=$(cd "$work/tree" && GIT_CEILING_DIRECTORIES=$work git apply --verbose --whitespace=nowarn "$path" 2>&1); then
        complain "$name does not apply:"
        printf '%s\n' "$output" >&2
    fi
done
printf '%-32s +%d -%d\n' total "$total_added" "$total_removed"
[ "$total_removed" -le $max_removed ] || complain "the series removes $total_removed lines of upstream, the limit is $max_removed"
[ $failures -eq 0 ]
