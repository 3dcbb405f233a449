"""Keep the size of activations steady."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

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


def make_norm(config: NormConfig, width: int) -> nn.Module:
    """Build a normalisation over the last axis.

    Source: Zhang & Sennrich 2019, arXiv:1910.07467 (rms); Ba et al. 2016, arXiv:1607.06450 (layer).
    """
    kind = nn.RMSNorm if config.kind == "rms" else nn.LayerNorm
    return kind(width, eps=config.epsilon)
