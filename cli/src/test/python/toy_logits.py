"""What transformers computes for the folders that ConvertedFoldersTest converts.

    mvn test -pl cli -am -Dtest=ConvertedFoldersTest -Dsurefire.failIfNoSpecifiedTests=false -Dkvfold.toy-folders=/tmp/toys
    pip install torch transformers
    python cli/src/test/python/toy_logits.py /tmp/toys cli/src/test/resources/pytorch

Writes NAME.f32 for each folder, float32, little endian: the logits of all tokens, or where the folder is one of
sentence-transformers the embedding of its file text, of length 1. A file kv_plan in a folder says which layer's keys and values each layer reads.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, DynamicCache

TOKENS = [(7 * i + 3) % 40 for i in range(24)]


class SharedCache(DynamicCache):
    """Hands each layer the keys and values of the layer that it reads, which has been computed before."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan
        self.stored = {}

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        if self.plan[layer_idx] == layer_idx:
            self.stored[layer_idx] = key_states, value_states
        return self.stored[self.plan[layer_idx]]


def config_of(folder):
    """transformers leaves attn_factor out of account, by which some write attention_factor."""
    file = folder / "config.json"
    values = json.loads(file.read_text())
    scaling = values.get("rope_scaling") or {}
    if "attn_factor" in scaling:
        scaling["attention_factor"] = scaling.pop("attn_factor")
        file.write_text(json.dumps(values))
    return AutoConfig.from_pretrained(folder)


@torch.no_grad()
def compute(folder):
    config = config_of(folder)
    tokens = torch.tensor([TOKENS])
    options = {"config": config, "dtype": torch.float32, "attn_implementation": "eager"}
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.exists():
        tokens = AutoTokenizer.from_pretrained(folder)((folder / "text").read_text(), return_tensors="pt").input_ids
        states = AutoModel.from_pretrained(folder, **options).eval()(tokens).last_hidden_state[0]
        last = json.loads(pooling.read_text()).get("pooling_mode_lasttoken")
        pooled = states[-1] if last else states.mean(0)
        return pooled / pooled.norm()
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    plan = folder / "kv_plan"
    if not plan.exists():
        return model(tokens, use_cache=False).logits[0]
    cache = SharedCache([int(layer) for layer in plan.read_text().split("_")])
    return model(tokens, past_key_values=cache, use_cache=True).logits[0]


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        result = compute(folder).contiguous()
        (out / (folder.name + ".f32")).write_bytes(result.numpy().astype("<f4").tobytes())
        print(folder.name, tuple(result.shape))


if __name__ == "__main__":
    main()
