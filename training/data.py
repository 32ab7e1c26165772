#!/usr/bin/env python3
"""Turns text files into the token files that train.py and evaluate.py read.

  python3 training/data.py ../shared/data/train --out training/target/data --tokenizer bpe --vocab-size 4096
  python3 training/data.py ../shared/data/train --files taskmaster,oasst --out training/target/chat --chat 513 \\
      --tokenizer training/target/data

One document in a hundred goes to validation.bin, chosen by a hash of its id; the others go to train.bin. Both hold little
endian uint16 token ids, with the end-of-text token after each document.

With --chat N, conversations take the form of the chat template, and fill blocks of N tokens: none begins in one block and
goes on in the next, what is longer than a block is cut, and end-of-text tokens fill up the rest. train.scored and
validation.scored hold a byte per token: 1 where it belongs to an answer and is trained.
"""

import argparse
import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np

from chat import messages_of, plain_text, tokens_of
from tokenizer import ByteTokenizer, SentencePieceTokenizer, load_tokenizer

META = "data.json"
VALIDATION_SHARE = 100  # one document in so many


def documents(path):
    """Yields (id, record) of the documents of a .txt, .jsonl or .jsonl.gz file."""
    name = path.name.split(".")[0]
    if path.suffix == ".txt":
        # blank lines end a speech or paragraph; pieces of some thousand characters can be held out one by one
        pieces = re.findall(r"(?s).{4000}.*?(?:\n\n|\Z)|.+\Z", path.read_text(encoding="utf-8"))
        yield from ((f"{name}/{i}", {"text": piece}) for i, piece in enumerate(pieces))
        return
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for i, line in enumerate(lines):
            record = json.loads(line)
            yield f"{name}/{record.get('id', i)}", record


def text_of(record):
    messages = messages_of(record)
    return plain_text(messages) if messages else record["text"]


def in_validation(document_id):
    return zlib.crc32(document_id.encode()) % VALIDATION_SHARE == 0


def find_files(folder, names):
    found = {path.name: path for path in sorted(folder.iterdir()) if path.name.endswith((".txt", ".jsonl", ".jsonl.gz"))}
    chosen = [path for name, path in found.items() if not names or any(name.startswith(part) for part in names)]
    if not chosen:
        raise SystemExit(f"{folder} has none of {names or 'the kinds .txt, .jsonl, .jsonl.gz'}; it has {sorted(found)}")
    return chosen


class Writer:
    """The two files of a split; in blocks of so many tokens and with .scored if `block` is not 0."""

    def __init__(self, folder, split, tokenizer, block):
        self.block, self.end_of_text = block, tokenizer.end_of_text
        self.count = 0
        self.tokens = open(folder / f"{split}.bin", "wb")
        self.scored = open(folder / f"{split}.scored", "wb") if block else None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.block:
            self._fill_block()
            self.scored.close()
        self.tokens.close()

    def add(self, ids, scored=None):
        if self.block:
            ids, scored = ids[: self.block], scored[: self.block]
            if self.count % self.block + len(ids) > self.block:
                self._fill_block()
            self.scored.write(bytes(scored))
        self.tokens.write(np.array(ids, dtype="<u2").tobytes())
        self.count += len(ids)

    def _fill_block(self):
        rest = -self.count % self.block
        if rest:
            self.add([self.end_of_text] * rest, [0] * rest)


def prepare(folder, out, kind, vocab_size, names, max_bytes, block=0):
    files = find_files(folder, names)
    out.mkdir(parents=True, exist_ok=True)

    def training_texts():
        return (text_of(record) for path in files for id, record in documents(path) if not in_validation(id))

    if kind == "bytes":
        tokenizer = ByteTokenizer()
    elif kind == "bpe":
        tokenizer = SentencePieceTokenizer.train(training_texts(), vocab_size)
    else:
        tokenizer = load_tokenizer(kind)
    tokenizer.save(out)

    written = {path.name: 0 for path in files}
    with Writer(out, "train", tokenizer, block) as train, Writer(out, "validation", tokenizer, block) as validation:
        for path in files:
            for id, record in documents(path):
                if max_bytes and written[path.name] >= max_bytes:
                    break
                text = text_of(record)
                writer = validation if in_validation(id) else train
                if not block:
                    writer.add([*tokenizer.encode(text), tokenizer.end_of_text])
                elif messages_of(record):
                    writer.add(*tokens_of(messages_of(record), tokenizer))
                else:
                    raise SystemExit(f"{path}: {id} is no conversation; leave the file out, or --chat")
                written[path.name] += len(text.encode())
            print(f"{path.name}: {written[path.name]/1e6:.1f} MB", flush=True)
    counts = {"train": train.count, "validation": validation.count}
    meta = {"vocab_size": tokenizer.vocab_size, "block": block, "tokens": counts, "bytes": written}
    (out / META).write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{counts['train']} tokens to train on, {counts['validation']} to validate with, in {out}")


class TokenFile:
    """Tokens of a prepared folder; the file stays on disk.

    tokens: uint16 [n]
    scored: uint8 [n], 1 for tokens that are trained; None for all
    block:  sequences begin at its multiples and are as long; 0 for anywhere
    """

    def __init__(self, folder, split):
        folder = Path(folder)
        self.meta = json.loads((folder / META).read_text())
        self.block = self.meta.get("block", 0)
        self.tokens = np.memmap(folder / f"{split}.bin", dtype="<u2", mode="r")
        self.scored = np.memmap(folder / f"{split}.scored", dtype="u1", mode="r") if self.block else None

    def __len__(self):
        return len(self.tokens)

    def sample(self, rng, batch, length):
        """(tokens, scored), both int64 [batch, length], of random places."""
        self._check(length)
        if self.block:
            starts = self.block * rng.integers(0, len(self) // self.block, size=batch)
        else:
            starts = rng.integers(0, len(self) - length + 1, size=batch)
        return self._parts(starts, length)

    def spread(self, count, length):
        """(tokens, scored), both int64 [at most count, length], of evenly spread places."""
        self._check(length)
        return self._parts(spread_starts(len(self), count, length, self.block or 1), length)

    def _check(self, length):
        if self.block and length != self.block:
            raise SystemExit(f"the data was prepared with --chat {self.block}, a sequence takes {length} tokens")
        if len(self) < length:
            raise SystemExit(f"the data has {len(self)} tokens, a sequence takes {length}")

    def _parts(self, starts, length):
        tokens = np.stack([self.tokens[s : s + length] for s in starts]).astype(np.int64)
        if self.scored is None:
            return tokens, np.ones_like(tokens)
        return tokens, np.stack([self.scored[s : s + length] for s in starts]).astype(np.int64)


def spread(tokens, count, length):
    """int64 [at most count, length]: evenly spread parts of tokens that do not overlap."""
    return np.stack([tokens[s : s + length] for s in spread_starts(len(tokens), count, length)]).astype(np.int64)


def spread_starts(total, count, length, unit=1):
    """Where at most `count` parts begin, all at multiples of `unit`."""
    count = min(count, total // length)
    if count == 0:
        raise SystemExit(f"the text has {total} tokens, a segment takes {length}")
    step = total // unit // count * unit
    return [i * step for i in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with .txt, .jsonl and .jsonl.gz files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", default="bpe", metavar="bytes|bpe|FOLDER",
                        help="FOLDER: that of a prepared folder; default bpe")
    parser.add_argument("--vocab-size", type=int, default=4096, help="of bpe; default %(default)s")
    parser.add_argument("--files", default="", help="comma-separated beginnings of file names; default all")
    parser.add_argument("--max-mb", type=float, default=0, help="of each file; default all")
    parser.add_argument("--chat", type=int, default=0, metavar="N", help="conversations in blocks of N tokens")
    args = parser.parse_args()
    names = [name for name in args.files.split(",") if name]
    prepare(args.folder, args.out, args.tokenizer, args.vocab_size, names, int(args.max_mb * 1e6),
            args.chat)


if __name__ == "__main__":
    main()
