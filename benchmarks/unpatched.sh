#!/usr/bin/env bash
#
# Compiles the pinned llama.cpp as upstream has it, with the options of native/build.sh, links kv_bench, llama_rate and
# llama_logits against it, and builds llama-perplexity and llama-server: the other side of a comparison with the patched one.
# For Linux.
#
#   bash benchmarks/unpatched.sh [FOLDER]
#
# FOLDER gets the programs; default benchmarks/target/unpatched.

set -euo pipefail

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$root_dir/benchmarks/target/unpatched}
llama=$(bash "$root_dir/native/build.sh" --backend cpu --unpatched)
mkdir -p "$out"
mapfile -t archives < <(find "$llama/build" -name '*.a')
for tool in kv_bench llama_rate llama_logits; do
    "${CXX:-c++}" -O3 -std=c++17 -DKVFOLD_UNPATCHED -I "$llama/src/include" -I "$llama/src/src" -I "$llama/src/ggml/include" \
        "$root_dir/native/tools/$tool.cpp" -o "$out/$tool" \
        -Wl,--start-group "${archives[@]}" -Wl,--end-group -lpthread -ldl -lm
done
cmake --build "$llama/build" --target llama-perplexity llama-server >&2
cp "$llama/build/bin/"llama-{perplexity,server} "$out"
echo "built kv_bench, llama_rate, llama_logits, llama-perplexity and llama-server in $out" >&2
