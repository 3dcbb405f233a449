"""How the rate rises and falls over a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from danlu.training.config import ScheduleName, TrainingConfig

DECAYING = 0.2  # the last share of the run in which "wsd" falls
LEAST = 1e-3  # where "exponential" ends if it is to end at 0, which it never reaches


def rate_share(config: TrainingConfig, done: float) -> float:
    """The share of the highest rate when a share `done` of the run is behind: linear warm-up, then the schedule down to `final_rate`."""
    if done < config.warmup:
        return max(done, 1e-3) / config.warmup
    fallen = (done - config.warmup) / (1 - config.warmup)
    return FALLS[config.schedule](fallen, config.final_rate)


def _constant(fallen: float, final: float) -> float:
    return 1.0


def _linear(fallen: float, final: float) -> float:
    return 1 + (final - 1) * fallen


def _exponential(fallen: float, final: float) -> float:
    return max(final, LEAST) ** fallen


def _cosine(fallen: float, final: float) -> float:
    """Half a cosine. Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5."""
    return final + (1 - final) * (1 + math.cos(math.pi * fallen)) / 2


def _wsd(fallen: float, final: float) -> float:
    """Warm-up, stable, decay by a square root. Source: Hägele et al. 2024, arXiv:2405.18392, equation 1."""
    return 1 - (1 - final) * math.sqrt(max(0.0, fallen - (1 - DECAYING)) / DECAYING)


FALLS: dict[ScheduleName, Callable[[float, float], float]] = {
    "constant": _constant, "linear": _linear, "exponential": _exponential, "cosine": _cosine, "wsd": _wsd,
}  # fmt: skip
