"""A frozen linear layer, and beside it two thin matrices that learn."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from danlu.nn.attention import Attention
from danlu.nn.feedforward import FeedForward
from danlu.nn.linear import Linear, linear


class LoRALinear(nn.Module):
    """W x + b + alpha / r * B A x, where A (r, D) and B (rows of W, r) learn and W and b need not.

    It begins as the layer that it was made of, whose tensors it shares: A is drawn, B is zero.
    Shapes: x (..., D) -> (..., rows of W).
    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, alpha / rank
        rows, width = base.weight.shape
        self.lora_A = nn.Parameter(torch.empty(rank, width, device=base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(rows, rank, device=base.weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + self.scale * linear(linear(x, self.lora_A), self.lora_B)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One linear layer that computes the same: W + alpha / r * B A. The base's own W stays as it is."""
        one = Linear(self.weight.shape[1], self.weight.shape[0], bias=False, device="meta")
        one.weight = nn.Parameter(self.weight + self.scale * (self.lora_B @ self.lora_A))
        one.bias = self.bias
        return one


def projections(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of all attention and feed-forward layers, with their names."""
    for name, part in list(module.named_modules()):
        if isinstance(part, Attention | FeedForward):
            for child, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    yield f"{name}.{child}", layer


def adapted(module: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The layers with two matrices beside theirs, with their names."""
    for name, part in list(module.named_modules()):
        if isinstance(part, LoRALinear):
            yield name, part


def is_added(name: str) -> bool:
    """Whether a parameter of this name is one of the two matrices."""
    return name.endswith((".lora_A", ".lora_B"))


def put(module: nn.Module, name: str, part: nn.Module) -> None:
    """Set a part within a module by its name."""
    owner, _, child = name.rpartition(".")
    setattr(module.get_submodule(owner), child, part)
