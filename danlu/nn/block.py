"""One layer of a Transformer."""

from __future__ import annotations

from torch import Tensor, nn

from danlu.nn.attention import Attention, AttentionConfig, LayerCache
from danlu.nn.feedforward import FeedForward, FeedForwardConfig
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import Rotation


class Block(nn.Module):
    """Attention, then feed-forward, each on a normalised copy and added back to its input.

    Shapes: x (B, T, D) -> (B, T, D).
    Source: Xiong et al. 2020, arXiv:2002.04745 (normalisation before each part).
    """

    def __init__(self, width: int, attention: AttentionConfig, feedforward: FeedForwardConfig, norm: NormConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(norm, width)
        self.attention = Attention(attention, width, norm)
        self.feedforward_norm = make_norm(norm, width)
        self.feedforward = FeedForward(feedforward, width)

    def forward(self, x: Tensor, rotation: Rotation | None, visible: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotation, visible, cache)
        return x + self.feedforward(self.feedforward_norm(x))
