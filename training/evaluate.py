#!/usr/bin/env python3
"""Measures how well a model predicts a text, token by token or in chunks with a number of passes.

  python3 training/evaluate.py HF_FOLDER --text FILE                                    exact
  python3 training/evaluate.py HF_FOLDER --text FILE --passes 1,2,3,4 --chunks 16,64    a table, compared with exact
  python3 training/evaluate.py HF_FOLDER --data DATA_FOLDER ...                         on its held-out documents

The text is cut into segments of --context tokens; every token but a segment's first is scored. Differences of
perplexity are relative to exact, paired by segment; the figure after ± is their standard error over segments.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import TokenFile, spread
from hf_folder import read_folder
from model import KvCache
from tokenizer import load_tokenizer

BATCH = 16


@torch.no_grad()
def losses(model, segments, chunk, passes):
    """Nats per scored token, one figure per segment. segments: int64 [n, context]"""
    result = []
    for batch in segments.split(BATCH):
        cache, total = KvCache(), 0.0
        for start in range(0, batch.shape[1], chunk):
            tokens = batch[:, start : start + chunk]
            targets = batch[:, start + 1 : start + chunk + 1]
            logits = model(tokens, cache, passes)[:, : targets.shape[1]]
            total += F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").sum(1)
        result.append(total / (batch.shape[1] - 1))
    return torch.cat(result).double().cpu().numpy()


def exact_losses(model, segments):
    """As losses(), one token at a time where that makes a difference."""
    upward = any(model.map.upward(i) for i in range(len(model.map)))
    return losses(model, segments, 1 if upward else segments.shape[1], 1)


def relative_difference(approximate, exact):
    """(perplexity / exact perplexity - 1, its standard error over segments)"""
    difference = approximate - exact
    ratio = float(np.exp(difference.mean()))
    error = ratio * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else float("nan")
    return ratio - 1, float(error)


def table(model, segments, exact, chunks, passes):
    """Markdown, one row per chunk size."""
    yield "| tokens per chunk | " + " | ".join(f"{p} passes" if p > 1 else "1 pass" for p in passes) + " |"
    yield "|---" * (len(passes) + 1) + "|"
    for chunk in chunks:
        row = []
        for p in passes:
            if p >= chunk:
                row.append("exact")
                continue
            difference, error = relative_difference(losses(model, segments, chunk, p), exact)
            row.append(f"{100*difference:+.3f}% ± {100*error:.3f}")
        yield f"| {chunk} | " + " | ".join(row) + " |"


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Hugging Face folder with a tokenizer")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, help="UTF-8")
    source.add_argument("--data", type=Path, help="a folder of data.py, whose held-out documents are taken")
    parser.add_argument("--context", type=int, default=256, help="tokens per segment; default %(default)s")
    parser.add_argument("--segments", type=int, default=64, help="at most, evenly spread; default %(default)s")
    parser.add_argument("--passes", type=numbers, help="comma-separated")
    parser.add_argument("--chunks", type=numbers, default=[256], help="comma-separated; default 256")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    model = read_folder(args.folder).to(args.device)
    if args.data:
        tokens = TokenFile(args.data, "validation").tokens
    else:
        tokens = np.array(load_tokenizer(args.folder).encode(args.text.read_text(encoding="utf-8")))
    segments = torch.from_numpy(spread(tokens, args.segments, args.context)).to(args.device)
    count = len(segments)

    exact = exact_losses(model, segments)
    error = exact.std(ddof=1) / np.sqrt(count) if count > 1 else float("nan")
    print(f"exact: perplexity {np.exp(exact.mean()):.4f}, {exact.mean():.4f} ± {error:.4f} nats per token,"
          f" {count * (args.context - 1)} tokens scored in {count} segments of {args.context}", flush=True)
    if args.passes:
        for line in table(model, segments, exact, args.chunks, args.passes):
            print(line, flush=True)


if __name__ == "__main__":
    main()
