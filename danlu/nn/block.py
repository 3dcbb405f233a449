"""One layer of a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from danlu.nn.attention import Attention, AttentionConfig, KeyValue, LayerCache, Look
from danlu.nn.dropout import dropout
from danlu.nn.feedforward import FeedForward, FeedForwardConfig
from danlu.nn.norm import NormConfig, make_norm, sum_normed


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The parts of a layer, and whether each normalises its input (as GPT, T5) or the sum behind it (as BERT, BART)."""

    attention: AttentionConfig
    feedforward: FeedForwardConfig
    norm: NormConfig
    norm_first: bool = True
    cross: AttentionConfig | None = None  # attention to another sequence, between the two


def numbers_of_products(x: Tensor) -> torch.dtype:
    """What products with x are made in: converted once for all that read it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class Block(nn.Module):
    """Attention, cross attention where there is one, then feed-forward; each is added to what came in.

    Shapes: x (B, T, D) -> (B, T, D).
    Source: Vaswani et al. 2017, arXiv:1706.03762 (norm last); Xiong et al. 2020, arXiv:2002.04745 (norm first).
    """

    def __init__(self, config: BlockConfig, width: int) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout, self.recompute = 0.0, False  # habits of training, see nn/habits.py
        self.attention_norm = make_norm(config.norm, width)
        self.attention = Attention(config.attention, width, config.norm)
        self.cross_norm = make_norm(config.norm, width) if config.cross is not None else None
        self.cross = Attention(config.cross, width, config.norm) if config.cross is not None else None
        self.feedforward_norm = make_norm(config.norm, width)
        self.feedforward = FeedForward(config.feedforward, width)

    def forward(
        self,
        x: Tensor,
        look: Look,
        cache: LayerCache | None = None,
        source: KeyValue | None = None,
        source_look: Look | None = None,
    ) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(self._forward, x, look, cache, source, source_look, use_reentrant=False)  # type: ignore[no-any-return]
        return self._forward(x, look, cache, source, source_look)

    def _forward(self, x: Tensor, look: Look, cache: LayerCache | None, source: KeyValue | None, source_look: Look | None) -> Tensor:
        parts: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [(self.attention_norm, lambda y: self.attention(y, look, cache))]
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            parts.append((self.cross_norm, lambda y: cross(y, source_look or Look(), source=source)))
        parts.append((self.feedforward_norm, self.feedforward))
        numbers, added = numbers_of_products(x), None
        for norm, part in parts:
            if self.norm_first:
                x, y = sum_normed(norm, x, added, numbers)
                added = self._dropped(part(y))
            else:
                _, x = sum_normed(norm, x, self._dropped(part(x.to(numbers))), x.dtype)
        return x if added is None else x + added

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout) if self.dropout and self.training else x
