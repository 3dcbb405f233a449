"""How positions exchange what they know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from danlu.base.errors import ConfigError
from danlu.nn import native
from danlu.nn.linear import Linear
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import Rotation, rotate

KeyValue = tuple[Tensor, Tensor]  # each (B, K, S, E)
WHOLE = 512  # positions up to which three operations over all scores are quicker: measured with bench.steps


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Heads of one attention layer; `num_kv_heads` smaller than `num_heads` groups the queries."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    causal: bool = True  # a position sees itself and those before it; if not, all
    input_bias: bool = False  # on queries, keys and values
    output_bias: bool = False
    query_key_norm: bool = False  # RMS over each head, as Qwen3 has it
    scaled: bool = True  # scores divided by sqrt(head_dim); T5 has that in its first weights instead

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads", "head_dim"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 2**16:
                raise ConfigError(f"attention.{name} came as {value!r}; expected a whole number from 1 to {2**16}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"attention came with {self.num_heads} heads over {self.num_kv_heads} key/value heads; "
                "expected the first to be a multiple of the second"
            )

    @classmethod
    def biased(cls, num_heads: int, width: int, causal: bool) -> AttentionConfig:
        """That of the first Transformers: heads share the width, and every projection has a bias."""
        head_dim = width // num_heads
        return cls(num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, causal=causal, input_bias=True, output_bias=True)


class LayerCache(Protocol):
    """Keys and values of one layer that later positions look at again."""

    def append(self, key: Tensor, value: Tensor) -> KeyValue:
        """Store new keys and values (B, K, T, E); return all that are to be looked at (B, K, S, E)."""


@dataclass(frozen=True)
class Packing:
    """Sequences one behind the other in a batch of one row, so that nothing is padded; each looks within itself only."""

    lengths: tuple[int, ...]

    @cached_property
    def starts(self) -> Tensor:
        """Where each sequence begins."""
        return F.pad(torch.tensor(self.lengths).cumsum(0), (1, 0))[:-1]

    @cached_property
    def positions(self) -> Tensor:
        """Each token's place within its own sequence. Shape: (1, T)."""
        return torch.cat([torch.arange(length) for length in self.lengths])[None]

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Neighbours of one length are computed together: (sequences, length) of each run."""
        return [(len(list(group)), length) for length, group in groupby(self.lengths)]

    @cached_property
    def sizes(self) -> list[int]:
        """Tokens of each run."""
        return [count * length for count, length in self.runs]


Visible = Tensor | Packing | None


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the positions of one pass see each other; the same for all layers of a stack.

    Shapes: visible (B or 1, 1, T or 1, S), True = may look; None: the layer's own habit, causal or all;
    bias (B or 1, H, T, S) is added to scores, with -inf where nothing may be seen: it then stands for `visible` too.
    """

    rotation: Rotation | None = None
    visible: Visible = None
    bias: Tensor | None = None


class Attention(nn.Module):
    """Mix positions: softmax(q k^T / sqrt(E) + bias) v; groups of queries share one key/value head.

    Shapes: x (B, T, D) -> (B, T, D). With `source`, keys and values read from another sequence, it is cross attention.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Ainslie et al. 2023, arXiv:2305.13245 (groups).
    """

    def __init__(self, config: AttentionConfig, width: int, norm: NormConfig) -> None:
        super().__init__()
        self.config, self.head_dim = config, config.head_dim
        self.grouped = config.num_heads != config.num_kv_heads
        self.scale = None if config.scaled else 1.0
        inner, inner_kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = Linear(width, inner, bias=config.input_bias)
        self.key = Linear(width, inner_kv, bias=config.input_bias)
        self.value = Linear(width, inner_kv, bias=config.input_bias)
        self.output = Linear(inner, width, bias=config.output_bias)
        self.query_norm = make_norm(norm, config.head_dim) if config.query_key_norm else None
        self.key_norm = make_norm(norm, config.head_dim) if config.query_key_norm else None
        self.watched: list[Tensor] | None = None

    def forward(self, x: Tensor, look: Look, cache: LayerCache | None = None, source: KeyValue | None = None) -> Tensor:
        query = self.split_heads(self.query(x), self.query_norm)
        key, value = self.read(x) if source is None else source
        if look.rotation is not None:
            query, key = rotate(query, look.rotation), rotate(key, look.rotation)
        if cache is not None:  # whoever owns the cache owns positions and visibility
            key, value = cache.append(key, value)
        if isinstance(look.visible, Packing):
            mixed = self._mix_packed(query, key, value, look, look.visible)
        else:
            mixed = self._mix(query, key, value, look.visible if look.bias is None else look.bias)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def read(self, x: Tensor) -> KeyValue:
        """Keys and values of positions that queries may look at: (B, S, D) -> two of (B, K, S, E)."""
        return self.split_heads(self.key(x), self.key_norm), self.split_heads(self.value(x))

    def split_heads(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """(B, T, heads * E) -> (B, heads, T, E), each head normalised where there is a norm."""
        heads = x.unflatten(2, (-1, self.head_dim))
        return (heads if norm is None else norm(heads)).transpose(1, 2)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        causal = self.config.causal and mask is None and query.shape[2] > 1
        if self.watched is not None:
            weights = attention_weights(query, key, mask, causal, self.scale)
            self.watched.append(weights)
            return weights @ value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        if mask is None and causal == self.config.causal and at_once(query, key, value, causal):
            with record_function("danlu::attention"):
                return whole_attention(query, key, value, causal, self.scale)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=self.grouped
        )

    def _mix_packed(self, query: Tensor, key: Tensor, value: Tensor, look: Look, packing: Packing) -> Tensor:
        """Each run of equally long sequences is one batch of its own: (1, H, T, E) -> (1, H, T, E)."""
        # Split, not sliced: a slice's gradient is as large as what it was cut from.
        heads = [x.transpose(1, 2).squeeze(0).split(packing.sizes) for x in (query, key, value)]
        mixed = []
        for (count, length), *parts in zip(packing.runs, *heads, strict=True):
            q, k, v = (part.unflatten(0, (count, length)).transpose(1, 2) for part in parts)
            mix = self._mix(q, k, v, None if look.bias is None else look.bias[:, :, :length, :length])  # (count, H, length, E)
            mixed.append(mix.transpose(1, 2).flatten(0, 1))
        return torch.cat(mixed).transpose(0, 1)[None]


def lean(bias: Tensor, visible: Tensor | None, causal: bool) -> Tensor:
    """Numbers to add to scores, with -inf where nothing may be seen. Shapes: as in Look."""
    if visible is None and causal:
        visible = torch.ones(bias.shape[2:], dtype=torch.bool, device=bias.device).tril()
    return bias if visible is None else bias.masked_fill(~visible, -math.inf)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None = None) -> Tensor:
    """What each position gives to each it sees: softmax(q k^T * scale + mask), rows that sum to 1.

    Shapes: query (B, H, T, E), key (B, K, S, E), mask (B or 1, H or 1, T or 1, S), True = may look or numbers to add -> (B, H, T, S).
    """
    scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3)
    scores = scores * (scale if scale is not None else 1 / math.sqrt(query.shape[3]))
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def at_once(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> bool:
    """Whether whole sequences are quicker than torch's blocks, on a processor: by our kernel or, short ones in training, in bfloat16."""
    if query.device.type != "cpu" or query.shape[2] != key.shape[2]:
        return False
    short = query.dtype == torch.bfloat16 and query.requires_grad and query.shape[1] == key.shape[1] and key.shape[2] <= WHOLE
    return short or native.attends(query, key, value, causal)


def whole_attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> Tensor:
    """softmax(q k^T * scale) v by one kernel, or by three operations over all scores. Shapes: (B, H, T, E) each -> the same."""
    batch, heads, length, channels = query.shape
    scale = channels**-0.5 if scale is None else scale
    if native.attends(query, key, value, causal):
        return native.attended(query, key, value, causal, scale)
    q, k, v = (x.reshape(batch * heads, length, channels) for x in (query, key, value))
    shown = _later(length, q.dtype).expand(batch * heads, length, length) if causal else q.new_zeros(1, 1, 1)
    scores = torch.baddbmm(shown, q, k.mT, beta=1 if causal else 0, alpha=scale)
    return torch.bmm(scores.softmax(-1), v).view(batch, heads, length, channels)


@lru_cache(maxsize=8)
def _later(length: int, dtype: torch.dtype) -> Tensor:
    """0 where a position may look, -inf at those behind it: (T, T)."""
    return torch.full((length, length), -math.inf).triu(1).to(dtype)


@contextmanager
def watched_attention(module: nn.Module) -> Iterator[list[Tensor]]:
    """While open, collect the weights (B, H, T, S) of every attention layer, in the order in which they are computed."""
    found: list[Tensor] = []
    layers = [part for part in module.modules() if isinstance(part, Attention)]
    for layer in layers:
        layer.watched = found
    try:
        yield found
    finally:
        for layer in layers:
            layer.watched = None
