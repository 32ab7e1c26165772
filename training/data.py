#!/usr/bin/env python3
"""Turns text files into the token files that train.py and evaluate.py read.

  python3 training/data.py ../shared/data/train --out training/target/data --tokenizer bpe --vocab-size 4096

One document in a hundred goes to validation.bin, chosen by a hash of its id; the others go to train.bin. Both hold little
endian uint16 token ids, with the end-of-text token after each document.
"""

import argparse
import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np

from tokenizer import ByteTokenizer, SentencePieceTokenizer

META = "data.json"
VALIDATION_SHARE = 100  # one document in so many


def documents(path):
    """Yields (id, text) of the documents of a .txt, .jsonl or .jsonl.gz file."""
    name = path.name.split(".")[0]
    if path.suffix == ".txt":
        # blank lines end a speech or paragraph; pieces of some thousand characters can be held out one by one
        pieces = re.findall(r"(?s).{4000}.*?(?:\n\n|\Z)|.+\Z", path.read_text(encoding="utf-8"))
        yield from ((f"{name}/{i}", piece) for i, piece in enumerate(pieces))
        return
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for i, line in enumerate(lines):
            record = json.loads(line)
            yield f"{name}/{record.get('id', i)}", text_of(record)


def text_of(record):
    """The text of one line of a .jsonl file: a document, a dialogue, a question with its answer, or an instruction."""
    if "messages" in record:
        return "".join(f"{m['role'].capitalize()}: {m['content'].strip()}\n" for m in record["messages"])
    if "question" in record:
        return f"User: {record['question'].strip()}\nAssistant: {record['answer'].strip()}\n"
    if "instances" in record:
        instance = record["instances"][0]
        request = "\n".join(part.strip() for part in (record["instruction"], instance["input"]) if part.strip())
        return f"User: {request}\nAssistant: {instance['output'].strip()}\n"
    return record["text"]


def in_validation(document_id):
    return zlib.crc32(document_id.encode()) % VALIDATION_SHARE == 0


def find_files(folder, names):
    found = {path.name: path for path in sorted(folder.iterdir()) if path.name.endswith((".txt", ".jsonl", ".jsonl.gz"))}
    chosen = [path for name, path in found.items() if not names or any(name.startswith(part) for part in names)]
    if not chosen:
        raise SystemExit(f"{folder} has none of {names or 'the kinds .txt, .jsonl, .jsonl.gz'}; it has {sorted(found)}")
    return chosen


def prepare(folder, out, kind, vocab_size, names, max_bytes):
    files = find_files(folder, names)
    out.mkdir(parents=True, exist_ok=True)

    def training_texts():
        return (text for path in files for id, text in documents(path) if not in_validation(id))

    if kind == "bytes":
        tokenizer = ByteTokenizer()
    else:
        tokenizer = SentencePieceTokenizer.train(training_texts(), vocab_size)
    tokenizer.save(out)

    counts = {"train": 0, "validation": 0}
    written = {path.name: 0 for path in files}
    with open(out / "train.bin", "wb") as train, open(out / "validation.bin", "wb") as validation:
        for path in files:
            for id, text in documents(path):
                if max_bytes and written[path.name] >= max_bytes:
                    break
                ids = np.array(tokenizer.encode(text) + [tokenizer.end_of_text], dtype="<u2")
                held_out = in_validation(id)
                (validation if held_out else train).write(ids.tobytes())
                counts["validation" if held_out else "train"] += len(ids)
                written[path.name] += len(text.encode())
            print(f"{path.name}: {written[path.name]/1e6:.1f} MB", flush=True)
    meta = {"vocab_size": tokenizer.vocab_size, "tokens": counts, "bytes": written}
    (out / META).write_text(json.dumps(meta, indent=2) + "\n")
    print(f"{counts['train']} tokens to train on, {counts['validation']} to validate with, in {out}")


class TokenFile:
    """Tokens of a prepared folder; the file stays on disk."""

    def __init__(self, folder, split):
        self.meta = json.loads((Path(folder) / META).read_text())
        self.tokens = np.memmap(Path(folder) / f"{split}.bin", dtype="<u2", mode="r")

    def __len__(self):
        return len(self.tokens)

    def sample(self, rng, batch, length):
        """int64 [batch, length] of random places."""
        if len(self) < length:
            raise SystemExit(f"the data has {len(self)} tokens, a sequence takes {length}")
        starts = rng.integers(0, len(self) - length + 1, size=batch)
        return np.stack([self.tokens[s : s + length] for s in starts]).astype(np.int64)


def spread(tokens, count, length):
    """int64 [at most count, length]: evenly spread parts of tokens that do not overlap."""
    count = min(count, len(tokens) // length)
    if count == 0:
        raise SystemExit(f"the text has {len(tokens)} tokens, a segment takes {length}")
    step = len(tokens) // count
    return np.stack([tokens[i * step : i * step + length] for i in range(count)]).astype(np.int64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with .txt, .jsonl and .jsonl.gz files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", choices=("bytes", "bpe"), default="bpe")
    parser.add_argument("--vocab-size", type=int, default=4096, help="of bpe; default %(default)s")
    parser.add_argument("--files", default="", help="comma-separated beginnings of file names; default all")
    parser.add_argument("--max-mb", type=float, default=0, help="of each file; default all")
    args = parser.parse_args()
    names = [name for name in args.files.split(",") if name]
    prepare(args.folder, args.out, args.tokenizer, args.vocab_size, names, int(args.max_mb * 1e6))


if __name__ == "__main__":
    main()
