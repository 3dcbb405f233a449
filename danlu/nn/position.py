"""Where a token stands: rotary, relative and sinusoidal positions (learned ones are an embedding)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from danlu.base.errors import ConfigError

Rotation = tuple[Tensor, Tensor]  # cosines and sines, in a module each (B or 1, 1, T, E)


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
        if torch.get_default_device().type != "meta":
            self.fill()

    cosines: Tensor
    sines: Tensor

    def fill(self) -> None:
        """Compute the tables; later for a model that was built without memory, since files hold weights alone."""
        for name, half in zip(("cosines", "sines"), turns(self.config, self.head_dim, 0, self.context_length), strict=True):
            self.register_buffer(name, half.repeat(1, 2), persistent=False)

    def forward(self, positions: Tensor | int, dtype: torch.dtype) -> Rotation:
        """Look up the angles of `positions` (B, T), or of the first T positions if a number T is given."""
        if isinstance(positions, int):
            return self.cosines[:positions].to(dtype)[None, None], self.sines[:positions].to(dtype)[None, None]
        return self.cosines[positions].to(dtype)[:, None], self.sines[positions].to(dtype)[:, None]


def turns(config: RotaryConfig, head_dim: int, start: int, end: int) -> Rotation:
    """Cosines and sines of these positions' angles, each (end - start, E / 2), float32; by numpy, since a model is served without torch's.

    Frequencies are rounded where transformers rounds them: at position 8,192 the last bit of one is an angle of up to 0.0005.
    """
    powers = config.base ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)).astype(np.float64)
    frequencies = FREQUENCY_SCALINGS[config.kind](1 / powers.astype(np.float32), config.scaling)
    angles = np.outer(np.arange(start, end, dtype=np.float32), frequencies)
    return torch.from_numpy(np.cos(angles)), torch.from_numpy(np.sin(angles))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn every pair of channels of x (B, H, T, E) by its position's angle, in the numbers that x comes in."""
    cosines, sines = (each.to(x.dtype) for each in rotation)
    if x.requires_grad:
        return _Turn.apply(x, *(each.chunk(2, dim=-1)[0] for each in (cosines, sines)))  # type: ignore[no-any-return]
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class _Turn(torch.autograd.Function):
    """The same by hand, since autograd would keep and pass over several times as much: the way back is the turn by the negative angle."""

    @staticmethod
    def forward(context: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        context.save_for_backward(cosines, sines)
        return _turned(x, cosines, sines)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cosines, sines = context.saved_tensors
        return _turned(gradient, cosines, -sines), None, None


def _turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.empty_like(x)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(first, cosines, out=left).addcmul_(second, sines, value=-1)
    torch.mul(second, cosines, out=right).addcmul_(first, sines)
    return turned


def _unscaled(frequencies: NDArray[Any], scaling: dict[str, Any]) -> NDArray[Any]:
    return frequencies


def _linear(frequencies: NDArray[Any], scaling: dict[str, Any]) -> NDArray[Any]:
    """Position interpolation: every angle smaller by one factor. Source: Chen et al. 2023, arXiv:2306.15595."""
    return frequencies / np.float32(scaling["factor"])


def _llama3(frequencies: NDArray[Any], scaling: dict[str, Any]) -> NDArray[Any]:
    """Slow angles smaller by a factor, fast ones kept, a ramp between. Source: Llama 3 report, arXiv:2407.21783."""
    trained = float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    seen = trained * frequencies / (2 * math.pi)  # full turns over the context seen in pretraining
    kept = np.clip((seen - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / float(scaling["factor"]))


FREQUENCY_SCALINGS = {"default": _unscaled, "linear": _linear, "llama3": _llama3}
SCALING_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


class RelativePositions(nn.Module):
    """A number for each head and distance, added to attention's scores; far distances share buckets that widen as logarithms.

    Shapes: forward(positions of queries (B or 1, T), of keys (B or 1, S)) -> (B or 1, H, T, S).
    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1.
    """

    def __init__(self, num_heads: int, num_buckets: int, farthest: int, causal: bool) -> None:
        super().__init__()
        self.num_buckets, self.farthest, self.causal = num_buckets, farthest, causal
        self.bias = nn.Embedding(num_buckets, num_heads)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return self.bias(self.bucket(keys[:, None, :] - queries[:, :, None])).permute(0, 3, 1, 2)

    def bucket(self, distance: Tensor) -> Tensor:
        """Key's position less query's to a bucket: half of them exact, half logarithmic; without causality one half for each side."""
        if self.causal:
            buckets, side, far = self.num_buckets, torch.zeros_like(distance), (-distance).clamp(min=0)
        else:
            buckets = self.num_buckets // 2
            side, far = (distance > 0).long() * buckets, distance.abs()
        exact = buckets // 2
        steps = torch.log(far.clamp(min=1).float() / exact) / math.log(self.farthest / exact) * (buckets - exact)
        return side + torch.where(far < exact, far, (exact + steps.long()).clamp(max=buckets - 1))


def positions_of(tokens: Tensor, positions: Tensor | None) -> Tensor:
    """The positions given, or 0, 1, 2, ... for every row. Shape: (B or 1, T)."""
    return torch.arange(tokens.shape[1], device=tokens.device)[None] if positions is None else positions


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines of ever slower waves in the first half of the channels, cosines in the second: (..., T) -> (..., T, D).

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5 (there, sines and cosines alternate).
    """
    waves = 10_000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions[..., None].double() * waves
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :width].float()
