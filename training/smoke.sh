#!/usr/bin/env bash
# Trains a tiny LCKV model for about a minute, exports it, converts it and lets it speak. Fails if one of these does; exit
# code 3 says that PyTorch is not there.
#
#   training/smoke.sh [FOLDER]     keeps the files in FOLDER; otherwise they go away
#
#   PYTHON       default: the first of python3 and /usr/bin/python3 that has PyTorch
#   KVFOLD       the kvfold command; default: ./kvfold of this checkout, which is built if necessary
#   SMOKE_STEPS  default: 120
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kvfold=${KVFOLD:-$here/../kvfold}
python=""
for candidate in ${PYTHON:-python3 /usr/bin/python3}; do
    "$candidate" -c 'import numpy, torch' 2>/dev/null && python=$candidate && break
done
[ -n "$python" ] || {
    echo "training needs PyTorch and NumPy: apt-get install python3-torch libopenblas0-pthread python3-numpy" >&2
    exit 3
}

work=${1:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work/text"

# Sentences with an order to learn, so that no file has to be at hand.
"$python" - "$work/text/sentences.jsonl" <<'PYTHON'
import json, random, sys
rng = random.Random(0)
people, things, places = ("Ada", "Ben", "Cleo", "Dan"), ("a lamp", "the map", "two keys", "some tea"), ("shed", "attic", "garden")
with open(sys.argv[1], "w") as file:
    for i in range(4000):
        who, what, where = rng.choice(people), rng.choice(things), rng.choice(places)
        text = f"{who} looks for {what} in the {where}. There is {what} in the {where}, says {who}.\n"
        file.write(json.dumps({"id": f"s{i}", "text": text}) + "\n")
PYTHON

"$python" "$here/data.py" "$work/text" --out "$work/data" --tokenizer bytes
"$python" "$here/train.py" --data "$work/data" --out "$work/run" --layer-types 0_2_2_3 --hidden-size 64 --heads 2 \
    --kv-heads 2 --forward-passes 3 --context 64 --batch-size 16 --threads 1 --learning-rate 4e-3 \
    --steps "${SMOKE_STEPS:-120}" --evaluate-every 20 --device cpu
"$python" - "$work/run/log.csv" <<'PYTHON'
import csv, sys
losses = [float(row["validation_loss"]) for row in csv.DictReader(open(sys.argv[1]))]
print(f"validation loss {losses[0]:.3f} -> {losses[-1]:.3f}")
sys.exit(0 if losses[-1] < 0.75 * losses[0] else "the loss did not fall")
PYTHON
"$python" "$here/export.py" "$work/run" --data "$work/data" --out "$work/hf"
rm -f "$work/model.gguf"
"$kvfold" convert "$work/hf" "$work/model.gguf"
"$kvfold" inspect "$work/model.gguf"
said=$("$kvfold" generate --model "$work/model.gguf" --max-tokens 60 --temperature 0 --prompt "Ada looks for")
echo "$said"
case $said in
    *" in the "*) echo "smoke run passed" ;;
    *) echo "the model did not learn to say 'in the'" >&2; exit 1 ;;
esac
