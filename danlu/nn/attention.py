"""How positions exchange what they know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.base.errors import ConfigError
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import Rotation, rotate


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Heads of one attention layer; `num_kv_heads` smaller than `num_heads` groups the queries."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    input_bias: bool = False  # on queries, keys and values
    output_bias: bool = False
    query_key_norm: bool = False  # RMS over each head, as Qwen3 has it

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


class LayerCache(Protocol):
    """Keys and values of one layer that later positions look at again."""

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, E); return all that are to be looked at (B, K, S, E)."""


class Attention(nn.Module):
    """Mix positions: softmax(q k^T / sqrt(E)) v; groups of queries share one key/value head.

    Shapes: x (B, T, D) -> (B, T, D); visible (B or 1, 1, T, S), True = may look; None: each position sees itself and all before it.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Ainslie et al. 2023, arXiv:2305.13245 (groups).
    """

    def __init__(self, config: AttentionConfig, width: int, norm: NormConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.grouped = config.num_heads != config.num_kv_heads
        inner, inner_kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = nn.Linear(width, inner, bias=config.input_bias)
        self.key = nn.Linear(width, inner_kv, bias=config.input_bias)
        self.value = nn.Linear(width, inner_kv, bias=config.input_bias)
        self.output = nn.Linear(inner, width, bias=config.output_bias)
        self.query_norm = make_norm(norm, config.head_dim) if config.query_key_norm else None
        self.key_norm = make_norm(norm, config.head_dim) if config.query_key_norm else None

    def forward(self, x: Tensor, rotation: Rotation | None, visible: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        query, key, value = (self.split_heads(project(x)) for project in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:  # whoever owns the cache owns positions and visibility
            key, value = cache.append(key, value)
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, is_causal=visible is None and query.shape[2] > 1, enable_gqa=self.grouped
        )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, heads * E) -> (B, heads, T, E)."""
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)
