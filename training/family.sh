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
recall() { # BLOCK CHARACTERS COUNT SEED
    made "recall-$1/data.json" && return
    mkdir -p "$out/recall-text-$1"
    "$python" "$here/recall.py" "$data/train/books_pd.jsonl.gz" --characters "$2" --count "$3" --seed "$4" \
        --out "$out/recall-text-$1/recall.jsonl"
    "$python" "$here/data.py" "$out/recall-text-$1" --chat "$1" --tokenizer "$out/data" --out "$out/recall-$1"
}
recall 129 230 12000 1
recall 513 1300 6000 2
for block in 129 513; do
    made dialogues-$block/data.json || "$python" "$here/data.py" "$data/train" --files taskmaster,oasst,self_instruct \
        --chat $block --tokenizer "$out/data" --out "$out/dialogues-$block"
done
made wikitext.txt || "$python" "$here/wikitext.py" "$data/eval/wikitext-2.test.tokens" "$out/wikitext.txt"

# Trainings, as lines of arguments for train.py: the same data, steps and seeds for every plan of a size.
m="--hidden-size 192 --intermediate-size 384 --heads 6 --kv-heads 2 --tie-embeddings"
s="--hidden-size 96 --intermediate-size 256 --heads 3 --kv-heads 1 --tie-embeddings"
text="--data $out/data --context 256 --muon 0.02 --learning-rate 5e-3 --few-passes 0.75"
short="--data $out/data=1.5 $out/dialogues-129=2.5 $out/recall-129=12 --context 128 --muon 0.01 --learning-rate 2e-3
    --steps 150 --batch-size 16"
long="--data $out/data=1.5 $out/dialogues-513=3 $out/recall-513=5 --context 512 --muon 0.01 --learning-rate 2.5e-3
    --steps 80 --batch-size 4"
plans_of_two_sizes() {
    local plan seed
    for plan in $plans; do
        echo --out "$out/runs/m-${plan%:*}-1" --layer-types "${plan#*:}" $m $text --steps 400 --batch-size 8 --seed 1
        for seed in 1 2 3; do
            echo --out "$out/runs/s-${plan%:*}-$seed" --layer-types "${plan#*:}" $s $text --steps 200 --batch-size 4 --seed $seed
        done
    done
}
# Twice over short conversations, until the models find what stands a few sentences before, then over longer ones.
conversation_stage() { # NAME FROM ARGUMENTS
    local plan
    for plan in $(tr ' ' '\n' <<<"$plans" | grep -E '^(standard|lckv2):'); do
        echo --out "$out/runs/$1-${plan%:*}-1" --from "$out/runs/$2-${plan%:*}-1" --layer-types "${plan#*:}" $m "${@:3}"
    done
}
train_all() {
    OMP_NUM_THREADS=1 xargs -P "${JOBS:-2}" -L 1 "$python" "$here/train.py" ${TRAIN_ARGS:---threads 1 --bfloat16} \
        --evaluate-every 50 --checkpoint-every 50
}
plans_of_two_sizes | train_all
conversation_stage short m $short --few-passes 0.75 --seed 1 | train_all
conversation_stage again short $short --few-passes 0.75 --seed 2 | train_all
conversation_stage chat again $long --few-passes 0.5 --seed 1 | train_all

# Model files: one of each plan in f16, and the two demonstration models in q8_0.
gguf() { # RUN NAME TYPE ARGUMENTS
    made "$2.gguf" && return
    "$python" "$here/export.py" "$out/runs/$1" --data "$out/data" --out "$out/$2" "${@:4}"
    "$kvfold" convert "$out/$2" "$out/$2.gguf" --type "$3"
}
for plan in $plans; do
    gguf "m-${plan%:*}-1" "m-${plan%:*}" f16
done
gguf chat-standard-1 kvfold-demo-standard-q8_0 q8_0 --chat
gguf chat-lckv2-1 kvfold-demo-folded-q8_0 q8_0 --chat

# Measurements, each a table of docs/quality.md.
order() { for plan in $plans; do ls -d "$out/runs/$1-${plan%:*}"-?; done; }
"$python" "$here/quality.py" $(order m) --data "$out/data" --text "$out/wikitext.txt" | tee "$out/quality-m.md"
"$python" "$here/quality.py" $(order s) --data "$out/data" --text "$out/wikitext.txt" | tee "$out/quality-s.md"
"$python" "$here/native_perplexity.py" $(order m) --data "$out/data" --text "$out/wikitext.txt" | tee "$out/native.md"
"$here/retention.sh" "$data" "$out" | tee "$out/retention.md"
"$python" "$here/curves.py" $(order m) --out "$out/loss.png"
