#!/usr/bin/env bash
#
# Compares the logits of the standard plan under cpu-attention=upstream with those of an unpatched llama.cpp, to the last
# bit, and says that those of cpu-attention=fused are others. Compiles the unpatched one first, once.
#
#   bash native/test/unpatched.sh [MODEL.gguf...]
#
# Takes what `bash native/build.sh --tools` leaves. Without a model it makes one with heads of 64 dimensions.

set -euo pipefail

native_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools_dir=$native_dir/target/build
unpatched_dir=$native_dir/target/unpatched

[ -x "$tools_dir/llama_logits" ] || { echo "unpatched.sh: run native/build.sh --tools first" >&2; exit 1; }
bash "$native_dir/../benchmarks/unpatched.sh" "$unpatched_dir"

if [ $# -eq 0 ]; then
    model=$unpatched_dir/model.gguf
    "$tools_dir/make_model" --out "$model" --layers 4 --embd 512 --heads 8 --heads-kv 2 --ff 512 --vocab 512 --ctx 1024
    set -- "$model"
fi
for model; do
    unpatched=$("$unpatched_dir/llama_logits" "$model")
    if [ "$("$tools_dir/llama_logits" "$model" upstream)" != "$unpatched" ]; then
        echo "unpatched.sh: cpu-attention=upstream and an unpatched llama.cpp differ on $model" >&2
        exit 1
    fi
    if [ "$("$tools_dir/llama_logits" "$model" fused)" = "$unpatched" ]; then
        echo "unpatched.sh: cpu-attention=fused computes what an unpatched llama.cpp does on $model: it is not in use" >&2
        exit 1
    fi
    echo "$model: cpu-attention=upstream gives the logits of an unpatched llama.cpp to the last bit"
done
