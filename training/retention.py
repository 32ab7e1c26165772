#!/usr/bin/env python3
"""Measures what dropping keys and values costs: perplexity, and facts found again in long texts.

  python3 training/retention.py MODEL.gguf --data training/target/data --needles books_pd.jsonl.gz \\
      --perplexity wikitext-2.test.txt --plot needles.png \\
      --case "full" --case "streaming=--kv-plan streaming:64" --case "q4_0=--kv-type q4_0"

A case is a name and the options of `./kvfold` that make it. A needle is a fact as recall.py plants them, "The secret word is
horse.", one per text, at a depth of the text; the model gets text and question, and has found the needle if the word is in
its greedy answer. The texts are sentences of documents that data.py holds out from training. All cases see the
same texts. Prints a table and draws, for each case, depth x length.
"""

import argparse
import json
import random
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from native_perplexity import KVFOLD, native_perplexity, run
from recall import KINDS, Fact, sentences_of
from tokenizer import load_tokenizer

PORT = 18437
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def question_of(fact, text):
    return f"{text}\n{fact.question}"


def needle(rng, sentences, tokenizer, length, depth):
    """(question, answer): a text that makes the question about `length` tokens long, with a fact at a depth."""
    fact = Fact(rng, KINDS[0])
    start = rng.randrange(len(sentences) - 200)
    chosen, size = [], len(tokenizer.encode(question_of(fact, fact.statement)))
    for sentence in sentences[start:]:
        size += len(tokenizer.encode(" " + sentence))
        if size > length:
            break
        chosen.append(sentence)
    chosen.insert(round(depth * len(chosen)), fact.statement)
    return question_of(fact, " ".join(chosen)), fact.value


class Server:
    """`kvfold serve` of one case."""

    def __init__(self, kvfold, model, options):
        command = [*kvfold, "serve", "--model", model, "--port", PORT, "--threads", 1, *options]
        self.process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"kvfold serve ended with {self.process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise SystemExit("kvfold serve does not answer")

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()

    def answer(self, question):
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 12}
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]


def found(server, args, sentences, tokenizer):
    """[depths, lengths]: the share of needles found."""
    result = np.zeros((len(DEPTHS), len(args.lengths)))
    for i, depth in enumerate(DEPTHS):
        for j, length in enumerate(args.lengths):
            for trial in range(args.trials):
                rng = random.Random(f"{length} {depth} {trial}")
                question, word = needle(rng, sentences, tokenizer, length, depth)
                result[i, j] += word in server.answer(question)
    return result / args.trials


def kept(args, options, questions):
    """(lazy layers, bytes of the keys and values kept at the longest length), from what `kvfold inspect` says of plan and
    type. Under a plan that decides by itself, the mean over the questions."""
    plan_and_type = [options[i : i + 2] for i, option in enumerate(options) if option in ("--kv-plan", "--kv-type")]
    out = run(*args.kvfold, "inspect", args.model, *sum(plan_and_type, []))
    size, unit, producers, layers = re.search(r"([\d.]+) (B|KiB) per token in (\d+) of (\d+) layers", out).groups()
    bytes_per_row = float(size) * {"B": 1, "KiB": 1024}[unit] / int(producers)
    plan = re.search(r"^KV plan +(\d\S*)", out, re.MULTILINE)
    plan = plan[1] if plan else "_".join(map(str, range(int(layers))))
    lazy = lazy_layers(plan)
    if lazy is None:
        lazy = np.mean([found_lazy(args, options, question) for question in questions])
    return lazy, bytes_per_row * kept_rows(plan, max(args.lengths), lazy)


def parsed(plan):
    """({reader: whether it sees a window only} of each producer, attributes) of a plan in full."""
    layers, *attributes = plan.split(";")
    readers = {}
    for i, layer in enumerate(layers.split("_")):
        readers.setdefault(int(layer.rstrip("s")), {})[i] = layer.endswith("s")
    return readers, dict(attribute.partition("=")[::2] for attribute in attributes)


def lazy_layers(plan):
    """How many producers are read by lazy layers only; None if that is found out for each text."""
    readers, attributes = parsed(plan)
    if "lazy" in attributes or "full" in attributes:
        return None
    return sum(all(windowed.values()) for windowed in readers.values())


def kept_rows(plan, tokens, lazy):
    """How many tokens all layers together keep, of so many, if so many layers are lazy."""
    readers, attributes = parsed(plan)
    few = min(tokens, int(attributes.get("window", 0)) + int(attributes.get("sinks", 0)))
    return lazy * few + (len(readers) - lazy) * tokens


def found_lazy(args, options, question):
    """How many layers turned out lazy for a question."""
    prompt = f"User: {question}\nAssistant:"
    out = run(*args.kvfold, "generate", "--model", args.model, "--prompt", prompt, "--max-tokens", 2,
              "--json", *options)
    return len(json.loads(out)["kv_cache"]["lazy_layers"])


def plot(grids, lengths, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    columns = min(4, len(grids))
    lines = -(-len(grids) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(2.6 * columns, 2.6 * lines), squeeze=False, sharex=True,
                                   sharey=True)
    for ax in axes.flat[len(grids) :]:
        ax.set_visible(False)
    for ax, (name, grid) in zip(axes.flat, grids.items()):
        image = ax.imshow(grid, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for (i, j), share in np.ndenumerate(grid):
            ax.text(j, i, f"{100*share:.0f}", ha="center", va="center", fontsize=8)
        ax.set_title(name, fontsize=9)
        ax.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        ax.set_yticks(range(len(DEPTHS)), [f"{100*depth:.0f}%" for depth in DEPTHS])
    for ax in axes[-1]:
        ax.set_xlabel("tokens of the question")
    for ax in axes[:, 0]:
        ax.set_ylabel("depth of the needle")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file, with a chat template")
    parser.add_argument("--case", action="append", required=True, metavar="NAME[=OPTIONS]")
    parser.add_argument("--data", type=Path, required=True, help="prepared data, for its tokenizer")
    parser.add_argument("--needles", type=Path, required=True, metavar="FILE", help=".jsonl.gz whose held-out texts are taken")
    parser.add_argument("--perplexity", type=Path, required=True, metavar="TEXT", help="UTF-8")
    parser.add_argument("--chunks", type=int, default=40, help="of 512 tokens, for the perplexity; default %(default)s")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[128, 256, 384, 480])
    parser.add_argument("--trials", type=int, default=10, help="needles per depth and length; default %(default)s")
    parser.add_argument("--plot", type=Path, help="a .png or .svg file")
    parser.add_argument("--kvfold", type=str.split, default=[str(KVFOLD)], help="the kvfold command; default: this checkout's")
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.data)
    sentences = sentences_of(args.needles, 10_000_000, held_out=True)

    longest = [needle(random.Random(f"{max(args.lengths)} {depth} 0"), sentences, tokenizer, max(args.lengths), depth)[0]
               for depth in DEPTHS]
    print(f"| case | lazy layers | keys and values of {max(args.lengths)} tokens | perplexity | needles found |")
    print("|---" * 5 + "|")
    grids = {}
    for case in args.case:
        name, _, options = case.partition("=")
        options = shlex.split(options)
        perplexity = native_perplexity(args.kvfold, args.model, args.perplexity, args.chunks, "--threads", 1, *options)
        with Server(args.kvfold, args.model, options) as server:
            grids[name] = found(server, args, sentences, tokenizer)
        lazy, size = kept(args, options, longest)
        print(f"| {name} | {lazy:.3g} | {size/1024:.0f} KiB | {perplexity:.2f} | {100*grids[name].mean():.0f}% |", flush=True)
    if args.plot:
        plot(grids, args.lengths, args.plot)


if __name__ == "__main__":
    main()
