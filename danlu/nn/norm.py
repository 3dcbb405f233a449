"""Keep the size of activations steady."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from danlu.base.errors import ConfigError
from danlu.nn import native


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """Which normalisation, and the small number that keeps its division safe."""

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.kind not in ("rms", "layer"):
            raise ConfigError(f"norm.kind came as {self.kind!r}; expected 'rms' or 'layer'")
        if not isinstance(self.epsilon, int | float) or not 0 <= self.epsilon < 1:
            raise ConfigError(f"norm.epsilon came as {self.epsilon!r}; expected a number from 0 to 1")


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + epsilon) * weight, in the numbers that x comes in. Without a gradient the weight is rounded to these first.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def forward(self, x: Tensor, numbers: torch.dtype | None = None) -> Tensor:
        """In `numbers`, if they are given."""
        numbers = numbers or x.dtype
        if torch.is_grad_enabled() and x.device.type == "cpu":
            if native.norms(x, None, self.weight, None, numbers):
                assert self.eps is not None
                return native.normed(x, None, self.weight, None, self.eps, centred=False, numbers=numbers)[1]
            return _RMSNorm.apply(x, self.weight, self.eps).to(numbers)  # type: ignore[no-any-return]
        # A weight of another type than x would leave torch's fused kernel for four slow passes over x.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(numbers)


class LayerNorm(nn.LayerNorm):
    """(x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias.

    Source: Ba et al. 2016, arXiv:1607.06450, equation 4.
    """

    def forward(self, x: Tensor, numbers: torch.dtype | None = None) -> Tensor:
        """In `numbers`, if they are given; else as autocast has it."""
        if torch.is_grad_enabled() and x.dtype == torch.float32 and native.norms(x, None, self.weight, self.bias, numbers or x.dtype):
            return native.normed(x, None, self.weight, self.bias, self.eps, centred=True, numbers=numbers or x.dtype)[1]
        y = super().forward(x)
        return y if numbers is None else y.to(numbers)


class _RMSNorm(torch.autograd.Function):
    """The same with its gradient written out: torch derives it operation by operation, in two and a half times the time.

    With n = x / sqrt(mean(x^2) + epsilon) and g the gradient of n * weight: that of x is (g weight - n mean(g weight n)) / sqrt(...).
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_().div_(x.shape[-1])
        # What overflows makes NaN, not zeros, so that it is seen.
        scale = ((squares + epsilon).rsqrt_() + squares * 0).to(x.dtype)
        normed = x * scale
        context.save_for_backward(normed, scale, weight)
        return normed * weight.to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        normed, scale, weight = context.saved_tensors
        by_normed = (gradient * normed).flatten(0, -2)
        means = (by_normed @ weight.to(normed.dtype)).view(scale.shape) / normed.shape[-1]
        of_x = (gradient * weight.to(normed.dtype)).addcmul_(normed, means, value=-1).mul_(scale)
        return of_x, by_normed.sum(0, dtype=weight.dtype), None


def sum_normed(norm: nn.Module, x: Tensor, added: Tensor | None, numbers: torch.dtype) -> tuple[Tensor, Tensor]:
    """x + added (x alone without it), and that normalised, in `numbers`: by one pass over memory where a kernel was built for that.

    Shapes: (..., D) each.
    """
    if added is None:
        return x, norm(x, numbers)
    if torch.is_grad_enabled() and isinstance(norm, RMSNorm | LayerNorm) and norm.eps is not None:
        bias, centred = norm.bias if isinstance(norm, LayerNorm) else None, isinstance(norm, LayerNorm)
        if (not centred or x.dtype == torch.float32) and native.norms(x, added, norm.weight, bias, numbers):
            return native.normed(x, added, norm.weight, bias, norm.eps, centred, numbers)
    x = x + added
    return x, norm(x, numbers)


def make_norm(config: NormConfig, width: int) -> nn.Module:
    """Build a normalisation over the last axis."""
    return (RMSNorm if config.kind == "rms" else LayerNorm)(width, eps=config.epsilon)
