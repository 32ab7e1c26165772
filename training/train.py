#!/usr/bin/env python3
"""Trains a model on what data.py prepared; called again with the same --out, it goes on where it stopped.

  python3 training/train.py --data training/target/data --out training/target/lckv --layer-types 0_6_6_6_6_6_6_7 \\
      --hidden-size 192 --heads 6 --kv-heads 2 --context 256 --minutes 120

In --out: checkpoint.pt (weights, optimizer, settings), log.csv and loss.png.
"""

import argparse
import csv
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data import TokenFile, spread
from model import Model, ModelConfig

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
COLUMNS = ("step", "tokens", "seconds", "passes", "learning_rate", "train_loss", "validation_loss")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--out", type=Path, required=True)
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--layer-types", default="0_1_2_3_4_5_6_7", help="which layer reads whose keys and values; default %(default)s")
    add("--hidden-size", type=int, default=192)
    add("--intermediate-size", type=int, help="default: 8/3 of the hidden size, rounded up to a multiple of 32")
    add("--heads", type=int, default=6)
    add("--kv-heads", type=int, default=2)
    add("--tie-embeddings", action="store_true", help="the output layer is the table of token embeddings")
    add("--force-nodiag", action="store_true", help="no layer sees its own position")
    add("--sliding-window", type=int, default=128, help="of layers with an s; default %(default)s")
    add("--forward-passes", type=int, default=7, help="m, passes without gradient; default %(default)s")
    add("--backward-passes", type=int, default=2, help="b, passes with gradient; default %(default)s")
    training = parser.add_argument_group("training")
    add = training.add_argument
    length = training.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float, help="of training time; the learning rate then follows the clock")
    add("--batch-size", type=int, default=16, help="sequences per step; default %(default)s")
    add("--micro-batch", type=int, help="sequences at once, if the memory does not hold a batch")
    add("--context", type=int, default=256, help="tokens per sequence; default %(default)s")
    add("--learning-rate", type=float, default=2e-3)
    add("--few-passes", type=float, default=0.0, metavar="SHARE",
        help="the first SHARE of training makes only the b passes with gradient, which costs less; default %(default)s")
    add("--seed", type=int, default=1)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, help="of the CPU; 1 is fastest where other programs are busy")
    add("--evaluate-every", type=int, default=100, metavar="STEPS")
    add("--checkpoint-every", type=int, default=100, metavar="STEPS")
    return parser.parse_args()


def model_config(args, vocab_size):
    return ModelConfig(
        vocab_size=vocab_size,
        layer_types=args.layer_types,
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size or 32 * math.ceil(args.hidden_size * 8 / 3 / 32),
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=args.context,
        force_nodiag=args.force_nodiag,
        sliding_window=args.sliding_window,
        forward_passes=args.forward_passes,
        backward_passes=args.backward_passes,
        tie_word_embeddings=args.tie_embeddings)


def learning_rate(args, progress, step):
    """Up within 2% of training, then down to a tenth as a cosine."""
    warmup = min(1.0, progress / 0.02, (step + 1) / 20)
    return args.learning_rate * warmup * (0.55 + 0.45 * math.cos(math.pi * progress))


def loss_of(model, tokens, passes=None):
    logits = model(tokens[:, :-1], passes=passes)
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


class Trainer:
    def __init__(self, args):
        self.args = args
        self.data = TokenFile(args.data, "train")
        held_out = spread(TokenFile(args.data, "validation").tokens, 16, args.context + 1)
        self.held_out = torch.from_numpy(held_out).to(args.device)
        torch.manual_seed(args.seed)
        self.config = model_config(args, self.data.meta["vocab_size"])
        self.model = Model(self.config).to(args.device)
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95))
        self.step, self.seconds, self.rows = 0, 0.0, []
        kind = args.device.split(":")[0]
        self.autocast = torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")
        self._resume()

    def _resume(self):
        path = self.args.out / CHECKPOINT
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.args.device)
        if saved["config"] != vars(self.config):
            changed = [k for k, v in vars(self.config).items() if saved["config"].get(k) != v]
            raise SystemExit(f"{path} is of another model ({', '.join(changed)} differ); choose another --out")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds, self.rows = saved["step"], saved["seconds"], saved["rows"]
        print(f"going on from step {self.step}, {path}")

    def save(self):
        path = self.args.out / CHECKPOINT
        state = {"config": vars(self.config), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "step": self.step, "seconds": self.seconds, "rows": self.rows}
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
        with open(self.args.out / LOG, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])
        plot(self.rows, self.args.out / "loss.png")

    def progress(self):
        if self.args.steps:
            return self.step / self.args.steps
        return self.seconds / (60 * self.args.minutes)

    def run(self):
        args, model = self.args, self.model
        args.out.mkdir(parents=True, exist_ok=True)
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{parameters/1e6:.2f} M parameters, {len(model.map.producers)} of {len(model.map)} layers keep keys and"
              f" values, {len(self.data)/1e6:.1f} M tokens, {args.device}", flush=True)
        losses, validation_loss = [], math.nan
        started, report_at = time.monotonic() - self.seconds, 0.0
        while self.progress() < 1:
            progress = self.progress()
            passes = args.backward_passes if progress < args.few_passes else self.config.passes
            rate = learning_rate(args, progress, self.step)
            losses.append(self.train_step(rate, passes))
            self.step += 1
            self.seconds = time.monotonic() - started
            last = self.progress() >= 1
            if self.step % args.evaluate_every == 0 or last:
                validation_loss = self.evaluate()
                tokens = self.step * args.batch_size * args.context
                self.rows.append((self.step, tokens, round(self.seconds, 1), passes, round(rate, 7),
                                  round(float(np.mean(losses)), 4), round(validation_loss, 4)))
                losses = []
            if self.step % args.checkpoint_every == 0 or last:
                self.save()
            if time.monotonic() - report_at > (1 if sys.stdout.isatty() else 30) or last:
                report_at = time.monotonic()
                self.report(losses, validation_loss, passes)
        print(f"\ndone: step {self.step}, validation loss {validation_loss:.4f} nats per token, in {args.out}")

    def train_step(self, rate, passes):
        args = self.args
        rng = np.random.default_rng([args.seed, self.step])  # so that a resumed run sees the same batches
        batch = torch.from_numpy(self.data.sample(rng, args.batch_size, args.context + 1)).to(args.device)
        parts = batch.split(args.micro_batch or args.batch_size)
        total = 0.0
        for part in parts:
            with self.autocast:
                loss = loss_of(self.model, part, passes)
            (loss / len(parts)).backward()
            total += loss.item() / len(parts)
        if not math.isfinite(total):
            raise SystemExit(f"the loss is {total} at step {self.step}; try a smaller --learning-rate")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    @torch.no_grad()
    def evaluate(self):
        with self.autocast:
            parts = self.held_out.split(self.args.micro_batch or self.args.batch_size)
            return sum(loss_of(self.model, part).item() * len(part) for part in parts) / len(self.held_out)

    def report(self, losses, validation_loss, passes):
        loss = np.mean(losses[-50:]) if losses else self.rows[-1][5] if self.rows else math.nan
        left = self.seconds * (1 / self.progress() - 1)
        line = (f"step {self.step}  {100*min(1, self.progress()):.0f}%  loss {loss:.3f}  validation {validation_loss:.3f}"
                f"  passes {passes}  {self.step*self.args.batch_size*self.args.context/self.seconds:.0f} tokens/s"
                f"  {left/60:.1f} min left")
        terminal = sys.stdout.isatty()
        print(("\r\033[K" if terminal else "") + line, end="" if terminal else "\n", flush=True)


def plot(rows, path):
    try:
        import matplotlib
    except ImportError:
        return  # a server may not have it; log.csv has the same figures
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    columns = dict(zip(COLUMNS, zip(*rows))) if rows else {}
    if not columns:
        return
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(columns["tokens"], columns["train_loss"], label="training")
    axes.plot(columns["tokens"], columns["validation_loss"], label="validation")
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    Trainer(args).run()


if __name__ == "__main__":
    main()
