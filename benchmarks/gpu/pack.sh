#!/usr/bin/env bash
#
# Packs this checkout and the source of llama.cpp into one archive, for a machine without network that runs run.sh.
#
#   bash benchmarks/gpu/pack.sh ARCHIVE.tar.gz
#
# Holds the tracked files as they are on disk, and llama.cpp without its documentation and models.

set -euo pipefail

archive=${1:?usage: pack.sh ARCHIVE.tar.gz}
root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
llama_dir=$(bash "$root_dir/native/build.sh" --fetch-source)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/kvfold"
(cd "$root_dir" && git ls-files -z | tar -cf - --null -T -) | tar -xf - -C "$work/kvfold"
cp -R "$llama_dir" "$work/kvfold/llama.cpp"
rm -rf "$work/kvfold/llama.cpp"/{.git,docs,models} # two thirds of it
tar -czf "$archive" -C "$work" kvfold
echo "packed $(du -h "$archive" | cut -f1) into $archive; there: tar -xzf $(basename "$archive") && bash kvfold/benchmarks/gpu/run.sh" >&2
