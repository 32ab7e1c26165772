#!/usr/bin/env bash
# Trains and measures everything that docs/quality.md tells of, and makes the two demonstration models.
#
#   training/family.sh DATA [FOLDER]
#
#   DATA    a folder with train/books_pd.jsonl.gz and the other files named below, and eval/wikitext-2.test.tokens
#   FOLDER  where everything goes; default: training/target/family. What is there already is not made again, so an
#           interrupted run goes on where it stopped
#
#   PYTHON       default: python3; PyTorch, NumPy, Matplotlib and SentencePiece
#   TRAIN_ARGS   more arguments for train.py; default: --threads 1 --bfloat16, for a current PyTorch on a CPU
#   JOBS         trainings side by side; default: 2
set -euo pipefail

data=${1:?DATA is missing, see the head of this file}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${2:-$here/target/family}
python=${PYTHON:-python3}
kvfold=$here/../kvfold
mkdir -p "$out/runs"

plans="standard:0_1_2_3_4_5_6_7 cla2:0_0_2_2_4_4_6_6 sandwich-top4:0_1_6_6_6_6_6_7
    lckv2:0_6_6_6_6_6_6_7 sandwich-middle3:0_3_3_3_3_3_3_7 pizza-bottom3:0_1_2_2_2_2_2_2"
files=books,openstax,us_presidential,gsm8k,oasst,self_instruct,taskmaster

made() { [ -e "$out/$1" ]; }

# Data: text; conversations, and passages with questions about what stands in them, in the chat format.
made data/data.json || "$python" "$here/data.py" "$data/train" --files $files --max-mb 10 --vocab-size 4096 --out "$out/data"
made recall-text/recall.jsonl || {
    mkdir -p "$out/recall-text"
    "$python" "$here/recall.py" "$data/train/books_pd.jsonl.gz" --count 12000 --out "$out/recall-text/recall.jsonl"
}
chat() { # NAME FOLDER ARGUMENTS
    made "$1/data.json" || "$python" "$here/data.py" "${@:2}" --chat 513 --tokenizer "$out/data" --out "$out/$1"
}
chat recall "$out/recall-text"
chat dialogues "$data/train" --files taskmaster,oasst,self_instruct
made wikitext.txt || "$python" "$here/wikitext.py" "$data/eval/wikitext-2.test.tokens" "$out/wikitext.txt"

# Trainings, as lines of arguments for train.py.
m="--hidden-size 192 --intermediate-size 384 --heads 6 --kv-heads 2 --tie-embeddings"
s="--hidden-size 96 --intermediate-size 256 --heads 3 --kv-heads 1 --tie-embeddings"
text="--data $out/data --context 256 --muon 0.02 --learning-rate 5e-3 --few-passes 0.75"
mixed="--data $out/data=2 $out/dialogues=3 $out/recall=5 --context 512 --muon 0.015 --learning-rate 4e-3
    --few-passes 0.6"
trainings() { # 1 for the first stage, 2 for what goes on from it
    local plan seed
    for plan in $plans; do
        local map="--layer-types ${plan#*:}" name=${plan%:*}
        [ "$1" = 2 ] || echo --out "$out/runs/m-$name-1" $map $m $text --steps 400 --batch-size 8 --seed 1
        [ "$1" = 2 ] || for seed in 1 2 3; do
            echo --out "$out/runs/s-$name-$seed" $map $s $text --steps 150 --batch-size 4 --seed $seed
        done
        case $1-$name in
            2-standard | 2-lckv2)
                echo --out "$out/runs/chat-$name-1" --from "$out/runs/m-$name-1" $map $m $mixed --steps 200 --batch-size 8 \
                    --seed 1 ;;
        esac
    done
}
for stage in 1 2; do
    trainings $stage | OMP_NUM_THREADS=1 xargs -P "${JOBS:-2}" -L 1 \
        "$python" "$here/train.py" ${TRAIN_ARGS:---threads 1 --bfloat16} --evaluate-every 50 --checkpoint-every 50
done

# The demonstration models.
for model in standard:standard lckv2:folded; do
    name=kvfold-demo-${model#*:}
    made "$name-q8_0.gguf" || {
        "$python" "$here/export.py" "$out/runs/chat-${model%:*}-1" --data "$out/data" --out "$out/$name" --chat
        "$kvfold" convert "$out/$name" "$out/$name-q8_0.gguf" --type q8_0
    }
done

# Measurements, each a table of docs/quality.md.
order() { for plan in $plans; do ls -d "$out/runs/$1-${plan%:*}"-?; done; }
"$python" "$here/quality.py" $(order m) --data "$out/data" --text "$out/wikitext.txt" | tee "$out/quality-m.md"
"$python" "$here/quality.py" $(order s) --data "$out/data" --text "$out/wikitext.txt" | tee "$out/quality-s.md"
"$python" "$here/native_perplexity.py" $(order m) --data "$out/data" --text "$out/wikitext.txt" | tee "$out/native.md"
"$here/retention.sh" "$data" "$out" | tee "$out/retention.md"
"$python" "$here/curves.py" $(order m) --out "$out/loss.png"
