"""Hugging Face model folders: config.json, model.safetensors and the tokenizer's files."""

import json
import struct
from pathlib import Path

import numpy as np
import torch

from model import Model, ModelConfig

CHAT_TEMPLATE_FILE = "chat_template.jinja"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32}


def write_folder(folder, model, tokenizer):
    """A standard map gives an ordinary Llama; every other one model_type lckv-llama, whose files have the same keys
    except that layers nobody reads have no k_proj and v_proj."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    values = {k: v for k, v in vars(config).items()}
    standard = model.map.is_standard and not config.force_nodiag
    if standard:
        for key in ("layer_types", "force_nodiag", "sliding_window", "forward_passes", "backward_passes"):
            del values[key]
    values.update(
        architectures=["LlamaForCausalLM" if standard else "LCKVLlamaForCausalLM"],
        model_type="llama" if standard else "lckv-llama",
        num_hidden_layers=len(model.map),
        head_dim=config.head_dim,
        hidden_act="silu",
        torch_dtype="float32",
        bos_token_id=None,
        eos_token_id=tokenizer.end_of_text)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    write_safetensors(folder / "model.safetensors", {hf_name(k): v for k, v in weights(model).items()})
    tokenizer.save(folder)


def read_folder(folder):
    """The model of a folder that write_folder wrote, or of any Llama or lckv-llama of LCKV's."""
    folder = Path(folder)
    values = json.loads((folder / "config.json").read_text())
    known = {k: v for k, v in values.items() if k in ModelConfig.__dataclass_fields__}
    known.setdefault("layer_types", "_".join(str(i) for i in range(values["num_hidden_layers"])))
    model = Model(ModelConfig(**known))
    tensors = {k.replace("model.", "", 1): v.float() for k, v in read_safetensors(folder / "model.safetensors").items()}
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
    model.load_state_dict(tensors)
    return model.eval()


def weights(model):
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def hf_name(name):
    return name if name.startswith("lm_head.") else "model." + name


def write_safetensors(path, tensors):
    """float32, in the order given. Format: header length (uint64), header (JSON), the tensors' bytes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + 4 * tensor.numel()]}
        offset += 4 * tensor.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())


def read_safetensors(path):
    data = np.memmap(path, dtype=np.uint8, mode="c")
    size = struct.unpack("<Q", data[:8].tobytes())[0]
    header = json.loads(data[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        raw = torch.from_numpy(data[8 + size + begin : 8 + size + end].copy())
        tensors[name] = raw.view(TYPES[entry["dtype"]]).view(entry["shape"])
    return tensors
