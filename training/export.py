#!/usr/bin/env python3
"""Writes a checkpoint of train.py as a Hugging Face folder, which `./kvfold convert` turns into GGUF.

  python3 training/export.py training/target/lckv --data training/target/data --out training/target/lckv-hf

--chat adds the chat template of chat.py, for a model that was trained with such conversations.
"""

import argparse
from pathlib import Path

import torch

from chat import CHAT_TEMPLATE
from hf_folder import CHAT_TEMPLATE_FILE, write_folder
from model import Model, ModelConfig
from tokenizer import load_tokenizer
from train import CHECKPOINT


def load_checkpoint(folder):
    saved = torch.load(Path(folder) / CHECKPOINT, map_location="cpu")
    model = Model(ModelConfig(**saved["config"]))
    model.load_state_dict(saved["model"])
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --out folder of train.py")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data, whose tokenizer goes along")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chat", action="store_true", help="with the chat template")
    args = parser.parse_args()
    write_folder(args.out, load_checkpoint(args.run), load_tokenizer(args.data))
    if args.chat:
        (args.out / CHAT_TEMPLATE_FILE).write_text(CHAT_TEMPLATE)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
