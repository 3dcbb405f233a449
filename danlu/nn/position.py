"""Where a token stands: rotary and learned positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from danlu.base.errors import ConfigError

Rotation = tuple[Tensor, Tensor]  # cosines and sines, each (B or 1, 1, T, E)


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """Angles of rotary positions; `scaling` is the "rope_scaling" of a Hugging Face configuration."""

    base: float = 10_000.0
    scaling: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FREQUENCY_SCALINGS:
            raise ConfigError(f"rotary scaling came as {self.kind!r}; expected one of {', '.join(FREQUENCY_SCALINGS)}")
        numbers = {"base": self.base} | {name: self.scaling.get(name) for name in SCALING_NUMBERS[self.kind]}
        for name, value in numbers.items():
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"rotary {name} came as {value!r}; expected a positive number")

    @property
    def kind(self) -> str:
        return str(self.scaling.get("rope_type", self.scaling.get("type", "default")))


class Rotary(nn.Module):
    """Turn pairs of channels by angles that grow with the position, so that scores depend on distance alone.

    Channel e and channel e + E/2 make one pair, as Hugging Face weights have it.
    Source: Su et al. 2021, arXiv:2104.09864, equation 34.
    """

    def __init__(self, config: RotaryConfig, head_dim: int, context_length: int) -> None:
        super().__init__()
        self.config, self.head_dim, self.context_length = config, head_dim, context_length
        self.fill()

    cosines: Tensor
    sines: Tensor

    def fill(self) -> None:
        """Compute the tables; again after a model was built without memory, since files hold weights alone."""
        frequencies = self.config.base ** -(torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
        frequencies = FREQUENCY_SCALINGS[self.config.kind](frequencies, self.config.scaling)
        angles = torch.outer(torch.arange(self.context_length, dtype=torch.float32), frequencies).repeat(1, 2)  # (S, E)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, positions: Tensor | int, dtype: torch.dtype) -> Rotation:
        """Look up the angles of `positions` (B, T), or of the first T positions if a number T is given."""
        if isinstance(positions, int):
            return self.cosines[:positions].to(dtype)[None, None], self.sines[:positions].to(dtype)[None, None]
        return self.cosines[positions].to(dtype)[:, None], self.sines[positions].to(dtype)[:, None]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn every pair of channels of x (B, H, T, E) by its position's angle."""
    cosines, sines = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


def _unscaled(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    return frequencies


def _linear(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Position interpolation: every angle smaller by one factor. Source: Chen et al. 2023, arXiv:2306.15595."""
    return frequencies / float(scaling["factor"])


def _llama3(frequencies: Tensor, scaling: dict[str, Any]) -> Tensor:
    """Slow angles smaller by a factor, fast ones kept, a ramp between. Source: Llama 3 report, arXiv:2407.21783."""
    trained = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = trained * frequencies / (2 * math.pi)  # full turns over the context seen in pretraining
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / float(scaling["factor"]))


FREQUENCY_SCALINGS = {"default": _unscaled, "linear": _linear, "llama3": _llama3}
SCALING_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
