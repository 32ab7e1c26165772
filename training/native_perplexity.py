#!/usr/bin/env python3
"""Compares the native library with PyTorch: the perplexity of the same weights (float32) on the same text.

  python3 training/native_perplexity.py RUNS/m-* --data training/target/data --text wikitext-2.test.txt

Prints a table with a row per run of train.py; fails if a difference is 0.5% or more. Native: `kvfold perplexity`, whole
chunks of 512 tokens as kv-prefill=auto computes them (the default) and with the plan's passes (kv-prefill=fixed), and token
by token (--ubatch 1). PyTorch: as many passes over the same chunks, and token by token. The second half of each chunk is
scored.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from evaluate import score, score_exactly
from export import load_checkpoint
from hf_folder import write_folder
from tokenizer import load_tokenizer

CONTEXT = 512
LIMIT = 0.5  # percent
KVFOLD = Path(__file__).resolve().parent.parent / "kvfold"


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def native_perplexity(kvfold, model, text, chunks, *options):
    out = run(*kvfold, "perplexity", "--model", model, "--text", text, "--ctx-size", CONTEXT, "--chunks", chunks, *options)
    return float(re.search(r"PPL = ([0-9.]+)", out)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data, whose tokenizer goes along")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8")
    parser.add_argument("--chunks", type=int, default=16, help="of 512 tokens; default %(default)s")
    parser.add_argument("--kvfold", type=str.split, default=[str(KVFOLD)], help="the kvfold command; default: this checkout's")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.data)
    tokens = tokenizer.encode(re.sub(r"\n\Z", "", args.text.read_text(encoding="utf-8")))[: args.chunks * CONTEXT]
    segments = torch.tensor(tokens).view(args.chunks, CONTEXT)

    print("| model | PyTorch, exact | native, default | difference | native, token by token | difference"
          " | PyTorch, whole chunks | native, `fixed` | difference |")
    print("|---" * 9 + "|")
    worst = 0.0
    for folder in args.runs:
        model = load_checkpoint(folder)
        exact = np.exp(score_exactly(model, segments, CONTEXT // 2).loss)
        whole = np.exp(score(model, segments, CONTEXT, model.config.passes, CONTEXT // 2).loss)
        with tempfile.TemporaryDirectory() as temporary:
            hf, gguf = Path(temporary) / "hf", Path(temporary) / "model.gguf"
            write_folder(hf, model, tokenizer)
            run(*args.kvfold, "convert", hf, gguf, "--type", "f32")
            cells = [folder.name, f"{exact:.4f}"]
            for reference, options in ((exact, []), (exact, ["--ubatch", 1]), (whole, ["--option", "kv-prefill=fixed"])):
                if reference is whole:
                    cells.append(f"{whole:.4f}")
                native = native_perplexity(args.kvfold, gguf, args.text, args.chunks, *options)
                difference = 100 * (native / reference - 1)
                worst = max(worst, abs(difference))
                cells += [f"{native:.4f}", f"{difference:+.3f}%"]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\nlargest difference {worst:.3f}%")
    sys.exit(0 if worst < LIMIT else f"a difference is not within {LIMIT}%")


if __name__ == "__main__":
    main()
