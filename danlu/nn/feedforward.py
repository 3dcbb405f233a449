"""The layer that works on each position alone: expand, bend, contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.base.errors import ConfigError
from danlu.nn import native
from danlu.nn.linear import Linear


@dataclass(frozen=True)
class Activation:
    """f(x), times another where a gate multiplies it; by one pass over memory where a kernel was built for that. Shapes: equal."""

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        other_fits = other is None or other.shape == x.shape
        if self.name in native.ACTIVATIONS and other_fits and native.serves(x, x if other is None else other):
            return native.bent(self.name, x, other)
        return self.function(x) if other is None else self.function(x) * other


ACTIVATIONS = {
    one.name: one
    for one in (
        Activation("gelu", F.gelu),
        Activation("gelu_tanh", partial(F.gelu, approximate="tanh")),
        Activation("relu", F.relu),
        Activation("silu", F.silu),
    )
}
UNBENT = Activation("none", lambda x: x)


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """Width inside the layer, its activation, and whether a gate multiplies it (SwiGLU is gated silu)."""

    hidden_width: int
    activation: str = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.hidden_width, int) or not 1 <= self.hidden_width <= 2**20:
            raise ConfigError(f"feedforward.hidden_width came as {self.hidden_width!r}; expected a whole number from 1 to {2**20}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"feedforward.activation came as {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}")


class FeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)) if gated, down(activation(up(x))) if not.

    Shapes: x (B, T, D) -> (B, T, D).
    Source: Shazeer 2020, arXiv:2002.05202, equation 6; Vaswani et al. 2017, arXiv:1706.03762, equation 2.
    """

    def __init__(self, config: FeedForwardConfig, width: int) -> None:
        super().__init__()
        self.config, self.activation = config, ACTIVATIONS[config.activation]
        self.gate = Linear(width, config.hidden_width, bias=config.bias) if config.gated else None
        self.up = Linear(width, config.hidden_width, bias=config.bias)
        self.down = Linear(config.hidden_width, width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x), self.up(x)))
