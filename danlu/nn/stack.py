"""Layers one above the other, with what stands before the first and behind the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danlu.nn.attention import Attention, KeyValue, LayerCache, Look, lean
from danlu.nn.block import Block, BlockConfig
from danlu.nn.norm import make_norm
from danlu.nn.position import RelativePositions, positions_of, sinusoids

LEARNED_SHIFT = 2  # the first rows of BART's positions were meant for padding


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """One side of an encoder-decoder: how its layers are built and how they know positions.

    `num_buckets` and `farthest` are the distances that relative positions tell apart.
    """

    num_layers: int
    block: BlockConfig
    positions: Literal["relative", "learned", "sinusoidal"]
    context_length: int
    norm_embedding: bool = False
    norm_last: bool = False
    num_buckets: int = 32
    farthest: int = 128

    def writing(self, num_layers: int) -> StackConfig:
        """The side that writes, built as this one that reads: causal, with attention to what was read."""
        attention = self.block.attention
        return replace(self, num_layers=num_layers, block=replace(self.block, attention=replace(attention, causal=True), cross=attention))


class Stack(nn.Module):
    """Embedded tokens to hidden states: positions, layers, norms before and behind where there are any.

    Shapes: x (B, T, D) -> (B, T, D).
    """

    def __init__(self, config: StackConfig, width: int) -> None:
        super().__init__()
        self.config, attention, norm = config, config.block.attention, config.block.norm
        self.relative = (
            RelativePositions(attention.num_heads, config.num_buckets, config.farthest, causal=attention.causal)
            if config.positions == "relative"
            else None
        )
        self.position = nn.Embedding(config.context_length + LEARNED_SHIFT, width) if config.positions == "learned" else None
        self.embedding_norm = make_norm(norm, width) if config.norm_embedding else None
        self.blocks = nn.ModuleList(Block(config.block, width) for _ in range(config.num_layers))
        self.norm = make_norm(norm, width) if config.norm_last else None

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None,
        visible: Any,
        cache: Sequence[LayerCache] | None = None,
        read: Sequence[KeyValue] | None = None,
        source_look: Look | None = None,
    ) -> Tensor:
        places = positions_of(x[..., 0], positions)  # (B or 1, T)
        if self.position is not None:
            x = x + self.position(places + LEARNED_SHIFT)
        elif self.config.positions == "sinusoidal":
            x = x + sinusoids(places, x.shape[-1]).to(x)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        look = self._look(places, visible, cached=cache is not None)
        for index, block in enumerate(self.blocks):
            x = block(x, look, None if cache is None else cache[index], None if read is None else read[index], source_look)
        return x if self.norm is None else self.norm(x)

    def crosses(self) -> list[Attention]:
        """The attention to another sequence, layer by layer."""
        return [part for part in (block.cross for block in self.blocks) if isinstance(part, Attention)]

    def _look(self, places: Tensor, visible: Any, cached: bool) -> Look:
        if self.relative is None:
            return Look(visible=visible)
        # In a cache, a key's column is its position.
        columns = visible.shape[-1] if visible is not None else int(places.max()) + 1
        keys = torch.arange(columns, device=places.device)[None] if cached else places
        new_only = visible is None and cached and places.shape[1] == 1
        return Look(bias=lean(self.relative(places, keys), visible, causal=self.config.block.attention.causal and not new_only))
