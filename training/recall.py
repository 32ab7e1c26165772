#!/usr/bin/env python3
"""Makes conversations about passages of a text, whose answers are facts planted in the passage. They train a model to look
up what it has read.

  python3 training/recall.py ../shared/data/train/books_pd.jsonl.gz --out training/target/recall.jsonl --count 20000

The facts are of a few fixed kinds and their values single words, which a model of a few million parameters learns to find
within minutes. Looking up arbitrary keys, a code for each of many boxes for example, takes it far longer.
"""

import argparse
import json
import random
import re
from pathlib import Path

from chat import message
from data import documents, in_validation

NOUNS = ("bread cheese fish cake milk tea coffee wine butter house door horse book table letter garden window wall ship stone"
         " tree road key ring hat box boat room church river town king queen sea sun moon gold silver fire water bird dog cat"
         " ball bed chair coat glass hand head paper rock snow rain star street train watch wood night").split()
NAMES = "Mary John Tom Anna Peter Jane Paul Alice Henry George Emma Frank Lucy Arthur Helen Robert Clara David".split()
PLACES = "London Paris Rome Boston Egypt Spain France Africa India China Ireland Oxford America England Germany Canada".split()
COLOURS = "red blue green white black brown grey yellow".split()

# (statement, question, values, how often)
KINDS = (
    ("The secret word is {}.", "What is the secret word?", NOUNS, 3),
    ("The owner of the shop is {}.", "Who is the owner of the shop?", NAMES, 1),
    ("The office is in {}.", "Where is the office?", PLACES, 1),
    ("The colour of the car is {}.", "What is the colour of the car?", COLOURS, 1),
)


class Fact:
    def __init__(self, rng, kind):
        form, self.question, values, _ = kind
        self.value = rng.choice(values)
        self.statement = form.format(self.value)

    def answer(self, whole):
        """A message, of which the value alone is trained unless `whole`."""
        return {**message("assistant", self.statement), **({} if whole else {"value": self.value})}


def facts(rng, count):
    """Of different kinds."""
    kinds = {}
    while len(kinds) < count:
        kind, = rng.choices(KINDS, weights=[often for *_, often in KINDS])
        kinds[kind[0]] = kind
    return [Fact(rng, kind) for kind in kinds.values()]


def planted(rng, sentences, statements):
    """The sentences with the statements between them, at places of any depth."""
    lines = list(sentences)
    for statement in statements:
        lines.insert(rng.randint(0, len(lines)), statement)
    return " ".join(lines)


def conversation(rng, sentences, characters):
    """One about a passage of up to so many characters; short ones are more frequent."""
    start = rng.randrange(len(sentences))
    limit = characters * rng.random() ** 2
    passage, size = [sentences[start]], len(sentences[start])
    for sentence in sentences[start + 1 :]:
        if size + len(sentence) > limit:
            break
        passage.append(sentence)
        size += len(sentence)
    known = facts(rng, rng.choice((1, 1, 1, 2, 3)))
    text = planted(rng, passage, [fact.statement for fact in known])
    rng.shuffle(known)
    form = rng.random()
    if form < 0.6:
        messages = [message("user", f"{text}\n{known[0].question}")]
    elif form < 0.8:
        messages = [message("user", f"{known[0].question}\n\nAnswer using the following information:\n{text}")]
    else:
        messages = [message("system", text), message("user", known[0].question)]
    # the words around a value are learned at once, and would outweigh it ever after
    whole = rng.random() < 0.2
    messages.append(known[0].answer(whole))
    for fact in known[1:]:
        messages += [message("user", fact.question), fact.answer(whole)]
    return messages


def sentences_of(path, characters, held_out=False):
    """Of the first documents that data.py trains with, or holds out, up to so many characters."""
    kept = []
    for id, record in documents(path):
        if in_validation(id) != held_out:
            continue
        text = re.sub(r"\s+", " ", record["text"])[5000:65000]
        kept += [s for s in re.split(r"(?<=[.!?]) ", text) if 20 < len(s) < 300]
        characters -= len(text)
        if characters < 0:
            break
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a .txt, .jsonl or .jsonl.gz file")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file")
    parser.add_argument("--count", type=int, default=20_000, help="conversations; default %(default)s")
    parser.add_argument("--characters", type=int, default=1300, help="of a passage, at most; default %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    sentences = sentences_of(args.text, 10_000_000)
    with open(args.out, "w", encoding="utf-8") as file:
        for i in range(args.count):
            messages = conversation(rng, sentences, args.characters)
            file.write(json.dumps({"id": f"recall-{args.seed}-{i}", "messages": messages}) + "\n")
    print(f"{args.count} conversations in {args.out}")


if __name__ == "__main__":
    main()
