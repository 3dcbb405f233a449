"""Keep the size of activations steady."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.base.errors import ConfigError


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
    """x / sqrt(mean(x^2) + epsilon) * weight, in the numbers that x comes in.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467, equation 4.
    """

    def forward(self, x: Tensor) -> Tensor:
        # A weight of another type than x would leave torch's fused kernel for four slow passes over x.
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: NormConfig, width: int) -> nn.Module:
    """Build a normalisation over the last axis. Source for "layer": Ba et al. 2016, arXiv:1607.06450."""
    return (RMSNorm if config.kind == "rms" else nn.LayerNorm)(width, eps=config.epsilon)
