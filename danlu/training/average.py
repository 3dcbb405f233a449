"""An average of the weights over the last steps, often better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """a <- decay a + (1 - decay) w after every step; while young it forgets faster, so that the first weights do not linger.

    Source: Polyak & Juditsky 1992, doi:10.1137/0330046; the growing decay as in Tarvainen & Valpola 2017, arXiv:1703.01780.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.tensors = {name: weight.detach().clone() for name, weight in module.named_parameters() if weight.requires_grad}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move toward the weights after so many steps."""
        weights = dict(self.module.named_parameters())
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [weights[name].detach() for name in self.tensors], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the module has the averaged weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Give the module the averaged weights, and keep its own in their place."""
        for name, weight in self.module.named_parameters():
            if name in self.tensors:
                weight.data, self.tensors[name] = self.tensors[name], weight.data

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return self.tensors

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
