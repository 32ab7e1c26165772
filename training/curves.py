#!/usr/bin/env python3
"""Draws the validation loss of several trainings: python3 training/curves.py RUNS/m-* --out loss.png"""

import argparse
import csv
from pathlib import Path

from train import LOG


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="--out folders of train.py")
    parser.add_argument("--out", type=Path, required=True, help="a .png or .svg file")
    args = parser.parse_args()
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for run in args.runs:
        with open(run / LOG, newline="") as file:
            rows = list(csv.DictReader(file))
        axes.plot([int(row["tokens"]) / 1e6 for row in rows], [float(row["validation_loss"]) for row in rows], label=run.name)
    axes.set_xlabel("million tokens")
    axes.set_ylabel("validation loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
