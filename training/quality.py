#!/usr/bin/env python3
"""Prints what folding costs in quality: a table of trained models.

  python3 training/quality.py RUNS/m-* --data training/target/data --text wikitext-2.test.txt

A run is the --out of train.py, named NAME-SEED. Runs that differ in the seed make one row, with the mean ± the standard
deviation over seeds. The difference to the first row is paired by seed and segment; with one seed ± is its standard error
over segments. Everything is computed token by token where that makes a difference, on the same evenly spread segments.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch

from data import TokenFile, spread
from evaluate import score_exactly, standard_error
from export import load_checkpoint
from tokenizer import load_tokenizer


def rows(runs):
    """{name: [folder of each seed]}, in the order given"""
    result = {}
    for run in runs:
        name = re.fullmatch(r"(.+)-\d+", run.name)
        if not name:
            raise SystemExit(f"{run} is not named NAME-SEED")
        result.setdefault(name[1], []).append(run)
    return result


def spread_over_seeds(values, form):
    mean = form.format(np.mean(values))
    return mean if len(values) == 1 else mean + " ± " + form.format(np.std(values, ddof=1))


def difference(losses, baseline):
    """Of the perplexity in percent; losses: one array of segments per seed."""
    per_seed = [100 * np.expm1((own - other).mean()) for own, other in zip(losses, baseline)]
    error = standard_error(losses[0] - baseline[0]) * 100 if len(per_seed) == 1 else np.std(per_seed, ddof=1)
    return f"{np.mean(per_seed):+.1f}% ± {error:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data, whose held-out documents are taken")
    parser.add_argument("--text", type=Path, required=True, help="another text, UTF-8")
    parser.add_argument("--context", type=int, default=256, help="tokens per segment; default %(default)s")
    parser.add_argument("--segments", type=int, default=128, help="of each text; default %(default)s")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    text = np.array(load_tokenizer(args.data).encode(args.text.read_text(encoding="utf-8")))
    held_out = TokenFile(args.data, "validation").tokens
    texts = [torch.from_numpy(spread(tokens, args.segments, args.context)) for tokens in (held_out, text)]

    print("| model | seeds | KV layers | KV bytes per token, f16 | validation perplexity | difference | WikiText-2 perplexity"
          " | difference | next-token accuracy |")
    print("|---" * 9 + "|")
    baseline = None
    for name, folders in rows(args.runs).items():
        models = [load_checkpoint(folder) for folder in folders]
        scores = [[score_exactly(model, segments) for model in models] for segments in texts]
        losses = [[score.losses for score in of_text] for of_text in scores]
        baseline = baseline or losses
        config, layers = models[0].config, len(models[0].map.producers)
        row = [name, str(len(folders)), f"{layers} of {len(models[0].map)}", str(4 * config.num_key_value_heads * config.head_dim * layers)]
        for of_text, own, other in zip(scores, losses, baseline):
            row.append(spread_over_seeds([np.exp(score.loss) for score in of_text], "{:.2f}"))
            row.append("" if own is other else difference(own, other))
        row.append(spread_over_seeds([100 * score.accuracy for score in scores[0]], "{:.2f}%"))
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
