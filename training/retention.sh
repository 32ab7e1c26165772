#!/usr/bin/env bash
# Measures retention on the two demonstration models; family.sh calls it.
#
#   training/retention.sh DATA FOLDER     as in family.sh
#
#   RECENT   tokens retained besides 4 sinks; default: 64
#   TRIALS   needles per depth and length; default: 5
#   MODELS   default: standard folded
set -euo pipefail

data=${1:?DATA is missing} out=${2:?FOLDER is missing}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
kvfold=${KVFOLD:-$here/../kvfold}
recent=${RECENT:-64}

for model in ${MODELS:-standard folded}; do
    gguf=$out/kvfold-demo-$model-q8_0.gguf
    cases=(--case full --case "q4_0=--kv-type q4_0")
    for threshold in 0.65 0.6 0.5; do
        found=$($kvfold plan lazy --model "$gguf" --text "$out/wikitext.txt" --recent "$recent" --threshold $threshold)
        echo "$found" >&2
        plan=$(sed -n 's/^--kv-plan //p' <<<"$found")
        cases+=(--case "lazy above $threshold=--kv-plan $plan")
    done
    cases+=(--case "lazy above $threshold, q4_0=--kv-type q4_0 --kv-plan $plan")
    if ! $kvfold inspect "$gguf" | grep -q above; then # plans that read upward decide nothing by themselves
        for threshold in 0.8 0.7 0.6; do
            cases+=(--case "simlayerkv:$threshold=--ubatch 32 --kv-plan simlayerkv:$threshold;window=$recent;sinks=4")
        done
        cases+=(--case "simlayerkv:0.8 at the end=--ubatch 32 --kv-plan simlayerkv:0.8;decide=end;window=$recent;sinks=4")
        cases+=(--case "lighttransfer:4=--ubatch 32 --kv-plan lighttransfer:4;window=$recent;sinks=4")
        cases+=(--case "lighttransfer:4, q4_0=--ubatch 32 --kv-type q4_0 --kv-plan lighttransfer:4;window=$recent;sinks=4")
    fi
    all=$($kvfold plan lazy --model "$gguf" --text "$out/wikitext.txt" --recent "$recent" --threshold 0 | sed -n 's/^--kv-plan //p')
    cases+=(--case "streaming=--kv-plan $all" --case "streaming, q4_0=--kv-type q4_0 --kv-plan $all")
    printf '\n%s\n\n' "$model"
    "$python" "$here/retention.py" "$gguf" "${cases[@]}" --data "$out/data" --needles "$data/train/books_pd.jsonl.gz" \
        --perplexity "$out/wikitext.txt" --plot "$out/needles-$model.png" --trials "${TRIALS:-5}" --kvfold "$kvfold"
done
