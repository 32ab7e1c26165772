#!/usr/bin/env python3
"""Makes conversations about passages of a text, whose answers stand in the passage: facts planted in it, words that follow
others, and sentences to repeat. They train a model to look up what it has read.

  python3 training/recall.py ../shared/data/train/books_pd.jsonl.gz --out training/target/recall.jsonl --count 20000
"""

import argparse
import json
import random
import re
from pathlib import Path

from chat import message
from data import documents, in_validation

COLOURS = "red blue green white black brown grey golden silver yellow".split()
THINGS = "box door house room boat horse book table letter garden window bridge wall ship stone tree road key ring hat".split()
NAMES = "Mary John Tom Anna Peter Jane Paul Alice Henry George Emma Frank Lucy Arthur Helen Robert Clara David".split()
PLACES = "London Paris Rome Boston Egypt Spain France Africa India China Ireland Oxford Dublin Athens Berlin Vienna".split()
FOODS = "bread cheese apples soup fish rice eggs honey cake beans corn milk tea coffee wine butter".split()


class Fact:
    def __init__(self, key, statement, question):
        self.key, self.statement, self.question = key, statement, question


def code_fact(rng):
    thing = f"{rng.choice(COLOURS)} {rng.choice(THINGS)}"
    number = "".join(rng.choices("0123456789", k=4))
    return Fact(thing, f"The code of the {thing} is {number}.", f"What is the code of the {thing}?")


def place_fact(rng):
    name = rng.choice(NAMES)
    return Fact(name, f"{name} lives in {rng.choice(PLACES)}.", f"Where does {name} live?")


def food_fact(rng):
    name = rng.choice(NAMES)
    return Fact(name + " likes", f"{name} likes {rng.choice(FOODS)}.", f"What does {name} like?")


def colour_fact(rng):
    thing, name = rng.choice(THINGS), rng.choice(NAMES)
    return Fact(f"{thing} of {name}", f"The {thing} of {name} is {rng.choice(COLOURS)}.",
                f"What colour is the {thing} of {name}?")


FACTS = (code_fact, code_fact, place_fact, food_fact, colour_fact)


def facts(rng, count):
    """Facts about different things."""
    chosen = {}
    while len(chosen) < count:
        fact = rng.choice(FACTS)(rng)
        chosen.setdefault(fact.key, fact)
    return list(chosen.values())


def planted(rng, sentences, statements):
    """The sentences with the statements between them, at places of any depth."""
    lines = list(sentences)
    for statement in statements:
        lines.insert(rng.randint(0, len(lines)), statement)
    return " ".join(lines)


def about_facts(rng, passage):
    known = facts(rng, rng.randint(1, 5))
    text = planted(rng, passage, [fact.statement for fact in known])
    rng.shuffle(known)
    first, *others = known
    form = rng.random()
    if form < 0.5:
        messages = [message("user", f"{text}\n{first.question}")]
    elif form < 0.75:
        messages = [message("user", f"{first.question}\n\nAnswer using the following information:\n{text}")]
    else:
        messages = [message("system", text), message("user", first.question)]
    messages.append(message("assistant", first.statement))
    for fact in others:
        messages += [message("user", fact.question), message("assistant", fact.statement)]
    return messages


def about_words(rng, passage):
    """What follows some words of the passage."""
    text = " ".join(passage)
    words = text.split()
    if len(words) < 16:
        return about_repeating(rng, passage)
    messages = []
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words) - 14)
        question = f'What comes after "{" ".join(words[at : at + 4])}"?'
        messages.append(message("user", question if messages else f"{text}\n{question}"))
        messages.append(message("assistant", " ".join(words[at + 4 : at + 14])))
    return messages


def about_repeating(rng, passage):
    return [message("user", f"Please repeat: {passage[0]}"), message("assistant", passage[0])]


def conversation(rng, sentences, characters):
    """One about a passage of up to so many characters; short ones are more frequent."""
    start = rng.randrange(len(sentences))
    limit = characters * rng.random() ** 2.5
    passage, size = [sentences[start]], len(sentences[start])
    for sentence in sentences[start + 1 :]:
        if size + len(sentence) > limit:
            break
        passage.append(sentence)
        size += len(sentence)
    kind = rng.choices((about_facts, about_words, about_repeating), weights=(5, 3, 2))[0]
    return kind(rng, passage)


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
    parser.add_argument("--characters", type=int, default=1000, help="of a passage, at most; default %(default)s")
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
