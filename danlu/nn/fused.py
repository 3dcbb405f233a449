"""The same layers for reading only, on processors: weights laid out for oneDNN once, activations in the pass that makes their input."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from danlu.nn.attention import Attention
from danlu.nn.feedforward import UNBENT, FeedForward

# What oneDNN calls activations, each with its algorithm.
POST_OPERATIONS = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", ""), "silu": ("swish", "")}

Module = TypeVar("Module", bound=nn.Module)


class FusedLinear(nn.Module):
    """activation(W x + b), without gradients: the product's result is bent before it leaves the processor's cache.

    Shapes: x (..., D) -> (..., rows of W).
    """

    def __init__(self, linear: nn.Linear, activation: str | None = None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias
        self.operation, self.algorithm = ("none", "") if activation is None else POST_OPERATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.operation, [], self.algorithm)


def fused(module: Module) -> Module:
    """A twin that computes the same to float32's last digits, faster, over weights of its own; all but products is shared.

    Where it cannot be (accelerators, other number formats, a torch without oneDNN) the module itself.
    """
    if not torch.backends.mkldnn.is_available() or any(
        one.device.type != "cpu" or one.dtype != torch.float32 for one in module.parameters()
    ):
        return module
    twin = copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})
    for part in list(twin.modules()):
        bent, activation = None, None  # the product that an activation follows
        if isinstance(part, FeedForward):
            bent, activation = part.up if part.gate is None else part.gate, part.config.activation
            if isinstance(bent, nn.Linear):  # else it has an adapter beside it, and the activation stays behind both
                part.activation = UNBENT
        if isinstance(part, Attention | FeedForward):
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, FusedLinear(child, activation if child is bent else None))
    return twin
