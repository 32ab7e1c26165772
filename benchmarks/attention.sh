#!/usr/bin/env bash
#
# Measures the attention kernel of docs/attention.md: the op alone, prefill by KV type, decode by depth, and folded plans.
# What is compared runs in turn in one process; prints Markdown tables of medians with the lowest and the highest value.
# Nothing else should run on the machine, and `bash native/build.sh --tools` has to have run.
#
#   bash benchmarks/attention.sh [--model FILE] [--shape FILE] [--rounds N] [--threads N] [--quick] [PART...]
#
#   --model    a trained model, for prefill and decode; default SmolLM2 where benchmarks/real-models.sh puts it
#   --shape    a model for decode and plans; default one of TinyLlama's shape with random weights, which is made
#   --rounds   how often each is measured; default 7
#   --threads  of prefill, decode and plans; default 2. The op is measured with 1 and 2
#   --quick    small depths and two rounds: shows that the script works, and measures nothing
#
# PART is op, batches, prefill, decode or plans; default all.

set -euo pipefail

root_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools_dir=$root_dir/native/target/build
model=$HOME/.cache/kvfold/models/SmolLM2-135M-Instruct.Q4_1.gguf
shape=
rounds=7
threads=2
layers=22
op_depths=1024,8192,32768,131072
prompts="2048 6144 16384"
model_depths=64,2000,6000
shape_depths=0,2048,8192,32768
plan_depths=8192,32768
op_options=()
generate=16
parts=()

while [ $# -gt 0 ]; do
    case $1 in
        --model)   model=${2:?--model needs a file}; shift ;;
        --shape)   shape=${2:?--shape needs a file}; shift ;;
        --rounds)  rounds=${2:?--rounds needs a number}; shift ;;
        --threads) threads=${2:?--threads needs a number}; shift ;;
        --quick)
            rounds=2 op_depths=256 prompts=64 model_depths=64 shape_depths=0,64 plan_depths=64 generate=2
            op_options=(--layers-mib 1)
            ;;
        --help)    sed -n '3,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
        op | batches | prefill | decode | plans) parts+=("$1") ;;
        *)         echo "attention.sh: unknown argument $1, see --help" >&2; exit 1 ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(op batches prefill decode plans)
[ -x "$tools_dir/attention_bench" ] || { echo "attention.sh: run native/build.sh --tools first" >&2; exit 1; }

# attention_bench OPTIONS..., for all shapes
op() {
    "$tools_dir/attention_bench" --shapes tinyllama,llama-3-8b,qwen3-8b,smollm2-135m,gemma-3-4b,ungrouped --types f16,q8_0,q4_0 \
        --threads 1,2 --depths "$op_depths" --rounds "$rounds" "${op_options[@]}" "$@"
}

# kv_bench OPTIONS..., for subjects that are added with `of`
subjects=()
of() { # FILE LABEL OPTIONS...
    [ -f "$1" ] || { echo "attention.sh: no model $1" >&2; exit 1; }
    subjects+=(--model "$1" --label "$2" "${@:3}")
}
bench() {
    "$tools_dir/kv_bench" "${subjects[@]}" --rounds "$rounds" --threads "$threads" --generate "$generate" "$@"
    subjects=()
}

make_shape() {
    [ -z "$shape" ] || return 0
    shape=$root_dir/benchmarks/target/tinyllama-shape.gguf
    mkdir -p "$(dirname "$shape")"
    [ -f "$shape" ] || "$tools_dir/make_model" --out "$shape" --layers $layers --embd 2048 --heads 32 --heads-kv 4 --ff 5632 \
        --vocab 32000 --ctx 32768 --type q4_0 >&2
}

# The plan under which every second of N layers is lazy.
half_lazy() {
    local plan= il
    for ((il = 0; il < $1; il++)); do
        plan+=_$il
        [ $((il%2)) = 0 ] || plan+=s
    done
    echo "${plan#_};window=1024;sinks=4"
}

measure() {
    printf '\n## %s\n\n' "$1"
    case $1 in
        op) op --batches 1 ;;
        batches) op --batches 8,32,8+ ;;
        prefill)
            for prompt in $prompts; do
                of "$model" "f16"
                of "$model" "f16, upstream" --cpu-attention upstream
                for type in f32 q8_0 q4_0; do
                    of "$model" $type --kv-type $type
                done
                bench --depths "" --sequences 1 --prompt "$prompt"
                echo
            done
            ;;
        decode)
            make_shape
            of "$model" "upstream" --cpu-attention upstream
            of "$model" "fused"
            bench --depths "$model_depths" --sequences ""
            echo
            of "$shape" "upstream" --cpu-attention upstream
            of "$shape" "fused"
            bench --depths "$shape_depths" --sequences ""
            ;;
        plans)
            make_shape
            of "$shape" standard
            for plan in cla:2 lckv:2; do
                of "$shape" $plan --kv-plan $plan
            done
            of "$shape" "half lazy" --kv-plan "$(half_lazy $layers)"
            for type in q8_0 q4_0; do
                of "$shape" "standard, $type" --kv-type $type
                of "$shape" "lckv:2, $type" --kv-plan lckv:2 --kv-type $type
            done
            bench --depths "$plan_depths" --sequences ""
            ;;
    esac
}

for part in "${parts[@]}"; do
    measure "$part"
done
