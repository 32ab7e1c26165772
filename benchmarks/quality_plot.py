#!/usr/bin/env python3
"""Draws KL divergence over the share of tokens that stay: python3 benchmarks/quality_plot.py plot.png < TABLE

TABLE is what quality.sh prints. Cases named METHOD:SHARE are curves; others need a share in brackets, as in "q4_0 (0.28)",
and become points.
"""

import re
import sys


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    curves = {}
    for line in sys.stdin:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        case = re.fullmatch(r"`?([^`]*?)`?(?::| \()([\d.]+)[)`]?", cells[0]) if len(cells) > 2 else None
        if case:
            curves.setdefault(case[1], []).append((float(case[2]), float(cells[2])))

    figure, axes = pyplot.subplots(figsize=(10, 6))
    axes.set_prop_cycle(color=pyplot.cm.tab20.colors)
    for name, points in curves.items():
        single = len(points) == 1
        axes.plot(*zip(*sorted(points)), marker="D" if single else "o", linestyle="" if single else "-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.125, 0.25, 0.5], ["0.125", "0.25", "0.5"])
    axes.set_yscale("log")
    axes.set_xlabel("share of the prompt's keys and values that stay, in bytes")
    axes.set_ylabel("KL divergence to the whole cache in f16")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=80)


if __name__ == "__main__":
    main()
