"""Tokenizers: plain bytes, or BPE with bytes for what it does not know (SentencePiece)."""

import io
import json
import random
from pathlib import Path

SENTENCE_PIECE_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
TRAINING_CHARACTERS = 30_000_000  # more hardly changes the first 8K tokens


class ByteTokenizer:
    """A token per byte, id = byte. Byte 0, which no text has, ends a text. Written as a byte-level BPE without merges."""

    vocab_size = 256
    end_of_text = 0

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(i for i in ids if i).decode(errors="replace")

    def save(self, folder):
        tokens = ["<|endoftext|>", *byte_alphabet()[1:]]
        end = {"id": 0, "content": tokens[0], "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        tokenizer = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": {token: id for id, token in enumerate(tokens)}, "merges": []},
        }
        write_json(Path(folder) / JSON_FILE, tokenizer)
        write_json(Path(folder) / "tokenizer_config.json",
                   {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens[0], "add_bos_token": False})


class SentencePieceTokenizer:
    """BPE of the kind that Llama 2 has. Text is taken as it is: no normalisation, no space put in front."""

    def __init__(self, model):
        self.model = model
        self.processor = import_sentencepiece().SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.processor.vocab_size()
        self.end_of_text = self.processor.eos_id()

    @classmethod
    def train(cls, texts, vocab_size):
        if not 512 <= vocab_size <= 65536:
            raise SystemExit(f"--vocab-size {vocab_size} is not in [512, 65536]")
        model = io.BytesIO()
        import_sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(sample_lines(texts)), model_writer=model, model_type="bpe", vocab_size=vocab_size,
            byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=False, allow_whitespace_only_pieces=True, character_coverage=0.9999, minloglevel=1,
            max_sentence_length=100_000, num_threads=2)
        return cls(model.getvalue())

    def encode(self, text):
        return self.processor.encode(text)

    def decode(self, ids):
        return self.processor.decode([int(i) for i in ids])

    def save(self, folder):
        (Path(folder) / SENTENCE_PIECE_FILE).write_bytes(self.model)
        write_json(Path(folder) / "tokenizer_config.json",
                   {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "add_bos_token": False,
                    "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def import_sentencepiece():
    try:
        import sentencepiece
    except ImportError:
        raise SystemExit("the bpe tokenizer needs SentencePiece: apt-get install python3-sentencepiece, or take bytes")
    return sentencepiece


def load_tokenizer(folder):
    """That of a prepared or Hugging Face folder."""
    folder = Path(folder)
    if (folder / SENTENCE_PIECE_FILE).exists():
        return SentencePieceTokenizer((folder / SENTENCE_PIECE_FILE).read_bytes())
    path = folder / JSON_FILE
    if path.exists() and not json.loads(path.read_text(encoding="utf-8"))["model"]["merges"]:
        return ByteTokenizer()
    raise SystemExit(f"{folder} has neither {SENTENCE_PIECE_FILE} nor the {JSON_FILE} of a byte tokenizer")


def byte_alphabet():
    """The printable character that stands for each byte in GPT-2's byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def sample_lines(texts):
    """Lines of texts, evenly thinned out to what training needs."""
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    random.Random(0).shuffle(lines)
    characters = 0
    for line in lines:
        yield line[:20_000]
        characters += len(line)
        if characters >= TRAINING_CHARACTERS:
            return


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
