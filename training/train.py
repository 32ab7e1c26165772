#!/usr/bin/env python3
"""Trains a model on what data.py prepared; called again with the same --out, it goes on where it stopped.

  python3 training/train.py --data training/target/data --out training/target/lckv --layer-types 0_6_6_6_6_6_6_7 \\
      --hidden-size 192 --heads 6 --kv-heads 2 --context 256 --minutes 120

In --out: checkpoint.pt (weights, optimizer, settings), log.csv and loss.png.

Several --data folders with weights are mixed; the loss of a sequence is the mean over its trained tokens, see data.py.
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

from data import TokenFile
from model import Model, ModelConfig
from muon import Muon

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
COLUMNS = ("step", "tokens", "seconds", "passes", "learning_rate_share", "train_loss", "validation_loss")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, nargs="+", metavar="FOLDER[=WEIGHT]", help="folders of data.py; default weight 1")
    add("--out", type=Path, required=True)
    add("--from", dest="start", type=Path, metavar="RUN", help="the --out of a former training, to begin with its weights")
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
    add("--learning-rate", type=float, default=2e-3, help="of AdamW; default %(default)s")
    add("--muon", type=float, metavar="RATE",
        help="Muon at this learning rate, 0.02 for example, for the matrices of the layers; AdamW does the others")
    add("--few-passes", type=float, default=0.0, metavar="SHARE",
        help="the first SHARE of training makes only the b passes with gradient, which costs less; default %(default)s")
    add("--seed", type=int, default=1)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--bfloat16", action="store_true", help="mixed precision on a CPU, too; faster where PyTorch is current")
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


def schedule(progress, step):
    """The share of the learning rate: up within 2% of training, then down to a tenth as a cosine."""
    warmup = min(1.0, progress / 0.02, (step + 1) / 20)
    return warmup * (0.55 + 0.45 * math.cos(math.pi * progress))


def optimizers(model, args):
    """[(optimizer, its learning rate)]"""
    matrices = [weight for weight in model.layers.parameters() if weight.dim() > 1] if args.muon else []
    own = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in own]
    adam = torch.optim.AdamW(
        [{"params": [weight for weight in others if weight.dim() > 1], "weight_decay": 0.1},
         {"params": [weight for weight in others if weight.dim() <= 1], "weight_decay": 0.0}], betas=(0.9, 0.95))
    return [(adam, args.learning_rate)] + ([(Muon(matrices), args.muon)] if matrices else [])


def loss_of(model, tokens, scored, passes=None):
    """The mean over sequences of the mean over their scored tokens."""
    logits = model(tokens[:, :-1], passes=passes)
    targets, scored = tokens[:, 1:], scored[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none").view_as(targets)
    return ((losses * scored).sum(1) / scored.sum(1).clamp(min=1)).mean()


class Mixture:
    """Prepared folders of one vocabulary, mixed by weight."""

    def __init__(self, arguments, split):
        names, _, weights = zip(*(argument.partition("=") for argument in arguments))
        self.files = [TokenFile(name, split) for name in names]
        weights = np.array([float(weight or 1) for weight in weights])
        self.weights = weights / weights.sum()
        sizes = {file.meta["vocab_size"] for file in self.files}
        if len(sizes) > 1:
            raise SystemExit(f"the --data folders have vocabularies of {sorted(sizes)} tokens; prepare them with one")
        self.vocab_size = sizes.pop()

    def __len__(self):
        return sum(map(len, self.files))

    def sample(self, rng, batch, length):
        """(tokens, scored), both int64 [batch, length]."""
        counts = rng.multinomial(batch, self.weights)
        return self._joined(file.sample(rng, n, length) for file, n in zip(self.files, counts) if n)

    def held_out(self, count, length):
        """About `count` sequences, of each folder by its weight."""
        counts = (max(1, round(count * weight)) for weight in self.weights)
        return self._joined(file.spread(n, length) for file, n in zip(self.files, counts))

    @staticmethod
    def _joined(parts):
        return tuple(torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts))


class Trainer:
    def __init__(self, args):
        self.args = args
        self.data = Mixture(args.data, "train")
        self.held_out = Mixture(args.data, "validation").held_out(16, args.context + 1)
        torch.manual_seed(args.seed)
        self.config = model_config(args, self.data.vocab_size)
        self.model = Model(self.config).to(args.device)
        self.optimizers = optimizers(self.model, args)
        self.step, self.seconds, self.rows = 0, 0.0, []
        kind = args.device.split(":")[0]
        self.autocast = torch.autocast(kind, torch.bfloat16, enabled=args.bfloat16 or kind == "cuda")
        self._resume()

    def _resume(self):
        path = self.args.out / CHECKPOINT
        if not path.exists():
            if self.args.start:
                self._start_with(torch.load(self.args.start / CHECKPOINT, map_location=self.args.device))
            return
        saved = torch.load(path, map_location=self.args.device)
        if saved["config"] != vars(self.config):
            changed = [k for k, v in vars(self.config).items() if saved["config"].get(k) != v]
            raise SystemExit(f"{path} is of another model ({', '.join(changed)} differ); choose another --out")
        self.model.load_state_dict(saved["model"])
        for (optimizer, _), state in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        self.step, self.seconds, self.rows = saved["step"], saved["seconds"], saved["rows"]
        print(f"going on from step {self.step}, {path}")

    def _start_with(self, saved):
        changed = [k for k, v in vars(self.config).items() if saved["config"][k] != v and k != "max_position_embeddings"]
        if changed:
            raise SystemExit(f"{self.args.start} is of another model: {', '.join(changed)} differ")
        self.model.load_state_dict(saved["model"])

    def save(self):
        path = self.args.out / CHECKPOINT
        state = {"config": vars(self.config), "model": self.model.state_dict(),
                 "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers], "step": self.step,
                 "seconds": self.seconds, "rows": self.rows}
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
        losses, validation_loss = [], self.rows[-1][-1] if self.rows else math.nan
        started, report_at = time.monotonic() - self.seconds, 0.0
        while self.progress() < 1:
            progress = self.progress()
            passes = args.backward_passes if progress < args.few_passes else self.config.passes
            share = schedule(progress, self.step)
            losses.append(self.train_step(share, passes))
            self.step += 1
            self.seconds = time.monotonic() - started
            last = self.progress() >= 1
            if self.step % args.evaluate_every == 0 or last:
                validation_loss = self.evaluate()
                tokens = self.step * args.batch_size * args.context
                self.rows.append((self.step, tokens, round(self.seconds, 1), passes, round(share, 5),
                                  round(float(np.mean(losses)), 4), round(validation_loss, 4)))
                losses = []
            if self.step % args.checkpoint_every == 0 or last:
                self.save()
            if time.monotonic() - report_at > (1 if sys.stdout.isatty() else 30) or last:
                report_at = time.monotonic()
                self.report(losses, validation_loss, passes)
        print(f"\ndone: step {self.step}, validation loss {validation_loss:.4f} nats per token, in {args.out}")

    def train_step(self, share, passes):
        args = self.args
        rng = np.random.default_rng([args.seed, self.step])  # so that a resumed run sees the same batches
        batch = self.data.sample(rng, args.batch_size, args.context + 1)
        parts = list(self._parts(batch))
        total = 0.0
        for tokens, scored in parts:
            with self.autocast:
                loss = loss_of(self.model, tokens, scored, passes)
            (loss / len(parts)).backward()
            total += loss.item() / len(parts)
        if not math.isfinite(total):
            raise SystemExit(f"the loss is {total} at step {self.step}; try a smaller --learning-rate")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total

    @torch.no_grad()
    def evaluate(self):
        with self.autocast:
            losses = [loss_of(self.model, *part).item() * len(part[0]) for part in self._parts(self.held_out)]
        return sum(losses) / len(self.held_out[0])

    def _parts(self, batch):
        """A batch (tokens, scored) in parts of --micro-batch sequences, on the device."""
        size = self.args.micro_batch or self.args.batch_size
        return zip(*(tensor.to(self.args.device).split(size) for tensor in batch))

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
