#!/usr/bin/env python3
"""Measures token eviction with kvpress, on the text and the tokens that kvfold perplexity scores.

  pip install torch transformers gguf kvpress
  ./kvfold perplexity -m model.gguf --text wiki.txt -c 2048 --chunks 2 --kl-divergence-base base.kld
  python3 benchmarks/quality_kvpress.py model.gguf base.kld snapkv:0.5 knorm:0.25 streaming:0.125

Of the base only the tokens are taken: what is compared with is kvpress' own model with its whole cache, in float32. As in
kvfold, the prompt of a chunk ends with the first token whose prediction is scored, and that prediction is from the whole
prompt; kvpress keeps the positions that keys were rotated to. Prints a Markdown table.
"""

import argparse
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from kvpress import KeyDiffPress, KnormPress, LagKVPress, SnapKVPress, StreamingLLMPress, TOVAPress
from transformers import AutoModelForCausalLM, DynamicCache

PRESSES = {
    "knorm": KnormPress,
    "keydiff": KeyDiffPress,
    "lagkv": LagKVPress,
    "streaming": StreamingLLMPress,
    "snapkv": SnapKVPress,
    "tova": TOVAPress,
}


def chunks_of(base, bos):
    """[chunks, tokens] of a file that llama-perplexity --kl-divergence-base or kvfold perplexity wrote."""
    with open(base, "rb") as file:
        if file.read(8) != b"_logits_":
            raise SystemExit(f"{base} is no file of llama-perplexity --kl-divergence-base")
        context, _, n_chunks = np.fromfile(file, "<i4", 3)
        chunks = np.fromfile(file, "<i4", n_chunks * context).reshape(n_chunks, context)
    if bos is not None:
        chunks[:, 0] = bos
    return torch.from_numpy(chunks).long()


def bos_of(model):
    """The token that a text begins with, or None."""
    fields = GGUFReader(model).fields
    add = fields.get("tokenizer.ggml.add_bos_token")
    return int(fields["tokenizer.ggml.bos_token_id"].contents()) if add and add.contents() else None


def predictions(model, tokens, n_prompt, press):
    """[scored, vocabulary]: log-probabilities of what follows the prompt's last token and each one behind it."""
    cache = DynamicCache()
    with press(model) if press else nullcontext():
        last = model(tokens[None, :n_prompt], past_key_values=cache, logits_to_keep=1).logits
    behind = model(tokens[None, n_prompt:-1], past_key_values=cache,
                   position_ids=torch.arange(n_prompt, len(tokens) - 1)[None]).logits
    return torch.log_softmax(torch.cat([last, behind], 1)[0], -1)


def press_of(case):
    method, _, budget = case.partition(":")
    if method not in PRESSES:
        raise SystemExit(f"'{method}' is none of {', '.join(PRESSES)}")
    return PRESSES[method](compression_ratio=1 - float(budget))


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("base", type=Path, help="file with the tokens")
    parser.add_argument("cases", nargs="+", metavar="METHOD:SHARE", help="what stays, such as snapkv:0.5")
    args = parser.parse_args()

    presses = {"full": None, **{case: press_of(case) for case in args.cases}}
    model = AutoModelForCausalLM.from_pretrained(args.model.parent, gguf_file=args.model.name, dtype=torch.float32)
    figures = {case: [] for case in presses}  # negative log-likelihood, divergence, same top token; of each scored token
    for tokens in chunks_of(args.base, bos_of(args.model)):
        n_prompt = len(tokens) // 2 + 1
        for case, press in presses.items():
            found = predictions(model, tokens, n_prompt, press)
            if press is None:
                full = found
            figures[case].append(torch.stack([
                -found.gather(1, tokens[n_prompt:, None])[:, 0],
                (full.exp() * (full - found)).sum(1),
                (full.argmax(1) == found.argmax(1)).float(),
            ]))

    print("| case | perplexity | KL divergence | 99.9% quantile | same top token |\n|---|---|---|---|---|")
    for case, parts in figures.items():
        loss, divergence, same = torch.cat(parts, 1)
        print(f"| {case} | {math.exp(loss.mean()):.4f} | {divergence.mean():.6f} | {divergence.quantile(0.999):.6f} | "
              f"{100 * same.mean():.3f}% |")


if __name__ == "__main__":
    main()
