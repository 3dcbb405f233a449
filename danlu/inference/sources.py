"""What encoder-decoders have read, for several sequences at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.nn.attention import KeyValue

Stacked = tuple[list[KeyValue], Tensor | None]


def stack_sources(sources: Sequence[list[KeyValue]]) -> Stacked:
    """Sources of several sequences side by side, the shorter ones filled up, and where each is real.

    Shapes: B lists of (1, H, S, E) for each layer -> (B, H, S, E) for each layer; (B, 1, 1, S), or None if all are equally long.
    """
    lengths = [source[0][0].shape[2] for source in sources]
    longest = max(lengths)

    def together(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.pad(tensor, (0, 0, 0, longest - tensor.shape[2])) for tensor in tensors])

    layers = [(together([key for key, _ in layer]), together([value for _, value in layer])) for layer in zip(*sources, strict=True)]
    visible = None if min(lengths) == longest else (torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None, None]
    return layers, visible
