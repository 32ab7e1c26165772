#!/usr/bin/env bash
#
# Measures how far KV types and plans take a model's predictions from those with its whole cache in f16, as a table of
# docs/quality.md. What they leave to be found in long texts is what kvfold eval measures.
#
#   bash benchmarks/quality.sh MODEL TEXT NAME=OPTIONS...
#   bash benchmarks/quality.sh smollm2.gguf wiki.txt "f16=" "q4_0=--kv-type q4_0" "window=--kv-plan streaming:256"
#
# OPTIONS are those of kvfold perplexity that make a case.
#
#   CONTEXT  tokens of a chunk whose second half is scored; default: 2048
#   CHUNKS   default: 8
#   KVFOLD   the command; default: ./kvfold

set -euo pipefail

model=${1:?MODEL is missing} text=${2:?TEXT is missing}
shift 2
kvfold=${KVFOLD:-$(dirname "${BASH_SOURCE[0]}")/../kvfold}
base=$(mktemp)
trap 'rm -f "$base"' EXIT

perplexity() { "$kvfold" perplexity --model "$model" --kl-divergence-base "$base" "$@"; }

perplexity --text "$text" --ctx-size "${CONTEXT:-2048}" --chunks "${CHUNKS:-8}" > /dev/null
echo "| case | perplexity | KL divergence | 99.9% quantile | same top token |"
echo "|---|---|---|---|---|"
for case in "$@"; do
    read -ra options <<< "${case#*=}"
    perplexity --kl-divergence "${options[@]}" | tr '\n' ' ' | sed -E "s~PPL = ([0-9.]+) .*\
KL divergence = ([-0-9.]+) .*quantile ([-0-9.]+),.*top token = ([0-9.]+).*~| ${case%%=*} | \1 | \2 | \3 | \4% |~"
    echo
done
