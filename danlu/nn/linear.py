"""Products with weights: torch's, but by oneDNN where the library that torch asks for float32 leaves part of the processor unused, and
with gradients of weights by our own kernel where there are tiles."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional as F
from torch.profiler import record_function

from danlu.nn import native

# oneDNN keeps a program, and torch what belongs to it, for each shape that it has multiplied: a megabyte or two each, and examples that
# are packed without padding bring new shapes all the time. Both are read at the first product.
for _name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")

WEIGHT_GRADIENT = "danlu::weight_gradient"  # the mark of our own kernel's product in a profile, with its three sizes behind it
FEW = 2**22  # multiplications up to which asking oneDNN, or a kernel of ours, takes longer than it saves


class Linear(nn.Linear):
    """W x + b. Shapes: x (..., D) -> (..., rows of W)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b in the numbers that it comes in, or that autocast asks for. Shapes: x (..., D), weight (N, D), bias (N) -> (..., N)."""
    if x.dim() > 1 and x.numel() * len(weight) > FEW:
        if torch.is_autocast_enabled("cpu") and torch.is_grad_enabled() and weight.requires_grad:
            x = x.to(torch.get_autocast_dtype("cpu"))
            if native.makes_weight_gradient(x, weight):
                return _HalfProduct.apply(x, weight, bias)  # type: ignore[no-any-return]
        elif not torch.is_autocast_enabled("cpu") and better_by_onednn() and _fit(x, weight):
            return _Product.apply(x, weight, bias)  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def _can() -> dict[str, Any]:
    return getattr(torch.cpu, "get_capabilities", dict)()  # type: ignore[no-any-return]


@cache
def better_by_onednn() -> bool:
    """Whether torch's own float32 products leave a good part of the processor unused: MKL does so on all but Intel's."""
    return torch.backends.mkldnn.is_available() and str(_can().get("cpu_name")).startswith("AMD")


@cache
def _wide() -> bool:
    """Whether oneDNN is better at gradients of weights, too: with vectors of 16, to which MKL does not come there."""
    return bool(_can().get("avx512_f"))


def _fit(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN takes these: else torch says what is wrong with them."""
    here = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return here and weight.dim() == 2 and x.shape[-1] == weight.shape[1]


class _Product(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        for_x, for_weight, _ = context.needs_input_grad
        context.save_for_backward(x if for_weight else None, weight if for_x else None)
        return _multiplied(x, weight, None if bias is None else bias.contiguous())

    @staticmethod
    @once_differentiable
    def backward(context: Any, back: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = context.saved_tensors
        for_x, for_weight, for_bias = context.needs_input_grad
        rows = back.flatten(0, -2)
        return (
            _multiplied(back, weight.t()) if for_x else None,
            for_weights(rows, x.flatten(0, -2)) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


class _HalfProduct(Function):
    """In bfloat16; gradients of float32 weights come in float32 at once, where torch turns an array, sums the bias's, then converts."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        halves = weight.to(x.dtype)
        context.save_for_backward(x, halves)
        return F.linear(x, halves, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(context: Any, back: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:  # type: ignore[override]
        x, halves = context.saved_tensors
        for_x, _, for_bias = context.needs_input_grad
        rows = back.flatten(0, -2)
        with record_function(f"{WEIGHT_GRADIENT} {rows.shape[1]} {rows.shape[0]} {x.shape[-1]}"):
            found = native.weight_gradient(rows, x.flatten(0, -2), for_bias)
        return (rows @ halves).view(x.shape) if for_x else None, *found


def for_weights(back: Tensor, x: Tensor) -> Tensor:
    """The gradient of a product's weights. Shapes: back (rows, N), x (rows, K) -> (N, K)."""
    if back.dtype == torch.float32 and better_by_onednn() and _wide():
        return _multiplied(back.t(), x.t())
    return back.t() @ x


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")  # type: ignore[no-any-return]


def _dense(one: Tensor) -> Tensor:
    """The same numbers side by side: what lies otherwise (a third of a matrix that is turned, say) oneDNN may multiply one by one."""
    return one if one.is_contiguous() or (one.dim() == 2 and one.t().is_contiguous()) else one.contiguous()
