"""Settings of training, without torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from danlu.base.errors import ConfigError

OptimizerName = Literal["sgd", "adam", "adamw", "muon"]
SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How weights are moved. Rates are per step; `final_rate` and `warmup` are shares of the highest rate and of the run.

    `optimizer` is sgd (with `momentum`), adam, adamw, or muon for the matrices within blocks (at `muon_rate`) with adamw for the rest.
    `weight_decay` shrinks matrices apart from their gradient, which is what adamw adds to adam; sgd and adam have none.
    """

    rate: float
    batch_rows: int
    context_length: int
    optimizer: OptimizerName = "adamw"
    muon_rate: float = 0.02
    warmup: float = 0.03
    final_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0  # largest norm of all gradients together

    def __post_init__(self) -> None:
        for name in ("rate", "batch_rows", "context_length", "muon_rate", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} came as {value}; expected a positive number")
        if self.optimizer not in get_args(OptimizerName):
            raise ConfigError(f"--optimizer came as {self.optimizer!r}; expected auto, {', '.join(get_args(OptimizerName))}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum came as {self.momentum}; expected a number from 0 to below 1")
        if not 0 <= self.warmup < 1 or not 0 <= self.final_rate <= 1:
            raise ConfigError(f"warmup and final_rate came as {self.warmup} and {self.final_rate}; expected shares from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How long to train: so many steps, or so many seconds of wall time."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ConfigError("training needs to know when to end: give either --steps N or --budget TIME (60s, 5m)")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps came as {self.steps}; expected at least 1")

    def done(self, steps: int, seconds: float) -> float:
        """Share of the whole that is behind us, from 0 to 1."""
        return min(1.0, steps / self.steps if self.steps is not None else seconds / (self.seconds or math.inf))


def read_seconds(text: str) -> float:
    """60s, 5m, 1h or 90 to seconds. Raises: ConfigError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(found[1]) * SECONDS[found[2] or "s"] if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"--budget came as {text!r}; expected a time such as 60s, 5m or 1h")
    return seconds
