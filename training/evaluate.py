#!/usr/bin/env python3
"""Measures how well a model predicts a text, token by token or in chunks with a number of passes.

  python3 training/evaluate.py HF_FOLDER --text FILE                                    exact
  python3 training/evaluate.py HF_FOLDER --text FILE --passes 1,2,3,4 --chunks 16,64    a table, compared with exact
  python3 training/evaluate.py HF_FOLDER --data DATA_FOLDER ...                         on its held-out documents

The text is cut into segments of --context tokens; every token but a segment's first is scored. A cell of the table is
the difference of the perplexity from exact in percent, paired by segment, ± its standard error over segments, and in
parentheses in how many percent of the positions the most likely next token is the one of exact.
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

BATCH = 32


class Score:
    """losses: nats per scored token, one figure per segment; best: the most likely next token of each scored position;
    accuracy: the share of these that is the text's."""

    def __init__(self, losses, best, accuracy):
        self.losses, self.best, self.accuracy = losses, best, accuracy

    @property
    def loss(self):
        return float(self.losses.mean())

    @property
    def standard_error(self):
        return standard_error(self.losses)

    def compare(self, exact):
        """(perplexity / exact perplexity - 1, its standard error over segments, share of equal best tokens)"""
        difference = self.losses - exact.losses
        ratio = float(np.exp(difference.mean()))
        return ratio - 1, ratio * standard_error(difference), float((self.best == exact.best).mean())


def standard_error(values):
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


@torch.no_grad()
def score(model, segments, chunk, passes, unscored=0):
    """Segments int64 [n, context] in chunks with a number of passes; predictions of the first `unscored` positions of a
    segment do not count."""
    losses, best, right = [], [], []
    for batch in segments.split(BATCH):
        cache, logits = KvCache(), []
        for start in range(0, batch.shape[1], chunk):
            logits.append(model(batch[:, start : start + chunk], cache, passes).float())
        logits = torch.cat(logits, dim=1)[:, unscored:-1]
        targets = batch[:, unscored + 1 :]
        losses.append(F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double().mean(1))
        best.append(logits.argmax(-1))
        right.append(best[-1] == targets)
    return Score(torch.cat(losses).cpu().numpy(), torch.cat(best).cpu().numpy(), torch.cat(right).float().mean().item())


def score_exactly(model, segments, unscored=0):
    """One token at a time where that makes a difference."""
    upward = any(model.map.upward(i) for i in range(len(model.map)))
    return score(model, segments, 1 if upward else segments.shape[1], 1, unscored)


def table(model, segments, exact, chunks, passes, unscored=0):
    """Markdown, one row per chunk size."""
    yield "| tokens per chunk | " + " | ".join(f"{p} passes" if p > 1 else "1 pass" for p in passes) + " |"
    yield "|---" * (len(passes) + 1) + "|"
    for chunk in chunks:
        row = []
        for p in passes:
            if p >= chunk:
                row.append("exact")
                continue
            difference, error, same = score(model, segments, chunk, p, unscored).compare(exact)
            row.append(f"{100*difference:+.2f} ± {100*error:.2f} ({100*same:.1f})")
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
    parser.add_argument("--second-half", action="store_true",
                        help="score only the second half of a segment, as kvfold perplexity does")
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

    unscored = args.context // 2 if args.second_half else 0
    exact = score_exactly(model, segments, unscored)
    print(f"exact: perplexity {np.exp(exact.loss):.4f}, {exact.loss:.4f} ± {exact.standard_error:.4f} nats per token,"
          f" accuracy {100*exact.accuracy:.1f}%, {count * (args.context - 1 - unscored)} tokens scored in {count} segments of {args.context}", flush=True)
    if args.passes:
        for line in table(model, segments, exact, args.chunks, args.passes, unscored):
            print(line, flush=True)


if __name__ == "__main__":
    main()
