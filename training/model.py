"""A Llama decoder whose layers may read other layers' keys and values, in plain PyTorch (1.13 and later).

Which layer reads whose keys and values is said by LCKV's `layer_types`: one integer kv(i) per layer, joined by "_", and an
"s" after it where the layer sees a sliding window only. Layers that nobody reads have no k_proj and v_proj.

  standard      0_1_2_3_4_5_6_7
  CLA2          0_0_2_2_4_4_6_6
  LCKV, w = 2   0_6_6_6_6_6_6_7

LCKV: https://arxiv.org/abs/2405.10637. CLA: https://arxiv.org/abs/2405.12981.
"""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters; the names are those of config.json in a Hugging Face folder."""

    vocab_size: int
    layer_types: str
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 2048
    force_nodiag: bool = False  # every layer masks its own position, not only those that read upward
    sliding_window: int = 4096  # W of the "s" layers, which see W + 1 positions, as with LCKV's flash attention
    forward_passes: int = 7  # m: passes over an upward group that give no gradient
    backward_passes: int = 2  # b: passes that do
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    @property
    def passes(self):
        return self.forward_passes + self.backward_passes


class LayerMap:
    """A parsed `layer_types`.

    reads[i]:     the layer whose keys and values layer i reads
    windowed[i]:  whether it sees a sliding window only
    producers:    the layers that somebody reads
    groups:       (first, last, iterated) runs of layers in the order of their computation; an iterated one contains
                  layers that read upward and is repeated from its input
    """

    def __init__(self, layer_types):
        layers = [re.fullmatch(r"(\d+)(s?)", layer) for layer in layer_types.split("_")]
        if None in layers:
            raise ValueError(f"layer_types {layer_types!r}: expected a number and perhaps an s per layer, joined by _")
        self.reads = [int(layer[1]) for layer in layers]
        self.windowed = [layer[2] == "s" for layer in layers]
        self.producers = sorted(set(self.reads))
        if self.producers[-1] >= len(layers):
            raise ValueError(f"layer_types {layer_types!r} reads layer {self.producers[-1]} of {len(layers)}")
        self.groups = self._find_groups()

    def __len__(self):
        return len(self.reads)

    def upward(self, i):
        return self.reads[i] > i

    @property
    def is_standard(self):
        return self.reads == list(range(len(self))) and not any(self.windowed)

    def _find_groups(self):
        groups = []
        i = 0
        while i < len(self):
            last = i
            if self.upward(i):
                while last < max(self.reads[i : last + 1]):
                    last = max(self.reads[i : last + 1])
            else:
                while last + 1 < len(self) and not self.upward(last + 1):
                    last += 1
            groups.append((i, last, self.upward(i)))
            i = last + 1
        return groups


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x * scale.to(x.dtype)) * self.weight


class Rotary:
    """Rotary position embedding of positions [start, start + n), with the halves of a head paired as in HF Llama."""

    def __init__(self, config, start, n, device):
        half = config.head_dim // 2
        frequency = config.rope_theta ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        angle = torch.outer(torch.arange(start, start + n, device=device, dtype=torch.float32), frequency)
        self.cos, self.sin = angle.cos(), angle.sin()

    def __call__(self, x):
        """x: [batch, heads, n, head_dim]"""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attention(q, k, v, strict, window):
    """Causal attention of the last positions; a query that sees no key gets zeros.

    q:       [batch, heads, n, head_dim], the last n positions
    k, v:    [batch, kv_heads, n_past + n, head_dim]
    strict:  whether a query does not see its own position
    window:  how many positions a query sees at most, its own included; None for all
    """
    if strict:
        # Dropping the last key and, at the start of a text, the first query, makes this plain causal attention.
        blind = 1 if k.shape[2] == q.shape[2] else 0
        seen = attention(q[:, :, blind:], k[:, :, :-1], v[:, :, :-1], False, window and window - 1)
        return F.pad(seen, (0, 0, blind, 0))
    n, n_keys = q.shape[2], k.shape[2]
    if n == 0 or window == 0:
        return torch.zeros_like(q)
    repeat = q.shape[1] // k.shape[1]
    if repeat > 1:
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
    fused = hasattr(F, "scaled_dot_product_attention")
    if fused and n == n_keys and window is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    visible = torch.ones(n, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n)
    if window is not None:
        visible = visible.triu(n_keys - n - window + 1)
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    return scores.masked_fill(~visible, -math.inf).softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, config, produces):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        size, kv_size = config.hidden_size, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(size, size, bias=False)
        self.o_proj = nn.Linear(size, size, bias=False)
        if produces:
            self.k_proj = nn.Linear(size, kv_size, bias=False)
            self.v_proj = nn.Linear(size, kv_size, bias=False)

    def split(self, x, heads):
        return x.view(*x.shape[:2], heads, self.head_dim).transpose(1, 2)

    def keys_and_values(self, x, rotary):
        return rotary(self.split(self.k_proj(x), self.kv_heads)), self.split(self.v_proj(x), self.kv_heads)

    def forward(self, x, rotary, k, v, strict, window):
        q = rotary(self.split(self.q_proj(x), self.heads))
        seen = attention(q, k, v, strict, window)
        return self.o_proj(seen.transpose(1, 2).reshape(x.shape))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config, produces):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, produces)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)


class KvCache:
    """Keys and values of the positions so far, per producer: ([batch, kv_heads, n, head_dim], same)."""

    def __init__(self):
        self.length = 0
        self.rows = {}


class Model(nn.Module):
    """The parameters' names are those of HF Llama without the leading "model."."""

    def __init__(self, config):
        super().__init__()
        if config.hidden_size % config.num_attention_heads or config.head_dim % 2:
            raise ValueError(f"hidden_size {config.hidden_size} does not give {config.num_attention_heads} heads of even size")
        if config.num_attention_heads % config.num_key_value_heads:
            raise ValueError(f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} KV heads")
        self.config = config
        self.map = LayerMap(config.layer_types)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i in self.map.producers) for i in range(len(self.map)))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self._initialize()

    def _initialize(self):
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                # layers add up, so what each writes into the residual stream starts smaller (GPT-2)
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * len(self.map)) if residual else 0.02)

    def forward(self, tokens, cache=None, passes=None):
        """Logits [batch, n, vocab_size] of tokens [batch, n], which follow those in `cache` and are added to it.

        passes: how often a group with upward readers is computed; None for as often as in training. From n passes on the
                result is that of one token at a time.
        """
        config = self.config
        start = cache.length if cache else 0
        rotary = Rotary(config, start, tokens.shape[1], tokens.device)
        h = self.embed_tokens(tokens)
        rows = {}
        for first, last, iterated in self.map.groups:
            n = min(passes or config.passes, tokens.shape[1]) if iterated else 1
            if iterated:
                for i in range(first, last + 1):
                    if self.map.upward(i):
                        rows[self.map.reads[i]] = self._zero_rows(h)
            for _ in range(n - config.backward_passes):
                with torch.no_grad():
                    self._run(first, last, h, rows, cache, rotary, final=False)
            # autocast keeps the weights that it cast without gradient, and would give them no gradient ever after
            torch.clear_autocast_cache()
            for _ in range(min(n, config.backward_passes) - 1):
                self._run(first, last, h, rows, cache, rotary, final=False)
            h = self._run(first, last, h, rows, cache, rotary, final=True)
        if cache:
            cache.rows = {i: self._with_past(i, rows, cache) for i in self.map.producers}
            cache.length += tokens.shape[1]
        return self.lm_head(self.norm(h))

    def _run(self, first, last, h, rows, cache, rotary, final):
        """One pass from layer `first` to `last`. Before the final pass only the keys and values matter, so `last`, which
        is a producer, computes nothing else."""
        for i in range(first, last + 1):
            layer, source = self.layers[i], self.map.reads[i]
            x = layer.input_layernorm(h)
            above = None
            if self.map.upward(i):  # an upward reader takes the rows of the pass before
                above = self._with_past(source, rows, cache)
            if i in self.map.producers:
                rows[i] = layer.self_attn.keys_and_values(x, rotary)
            if i == last and not final:
                return None
            k, v = above or self._with_past(source, rows, cache)
            strict = self.map.upward(i) or self.config.force_nodiag
            window = self.config.sliding_window + 1 if self.map.windowed[i] else None
            h = h + layer.self_attn(x, rotary, k, v, strict, window)
            h = h + layer.mlp(layer.post_attention_layernorm(h))
        return h

    def _zero_rows(self, h):
        shape = h.shape[0], self.config.num_key_value_heads, h.shape[1], self.config.head_dim
        return h.new_zeros(shape), h.new_zeros(shape)

    @staticmethod
    def _with_past(i, rows, cache):
        if not cache or not cache.length:
            return rows[i]
        return tuple(torch.cat([past, new], dim=2) for past, new in zip(cache.rows[i], rows[i]))
