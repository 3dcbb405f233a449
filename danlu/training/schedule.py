"""How the rate rises and falls over a run."""

from __future__ import annotations

import math

from danlu.training.config import TrainingConfig


def cosine_share(config: TrainingConfig, done: float) -> float:
    """The share of the highest rate when a share `done` of the run is behind: linear warm-up, then half a cosine down to `final_rate`.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5.
    """
    if done < config.warmup:
        return max(done, 1e-3) / config.warmup
    fallen = (done - config.warmup) / (1 - config.warmup)
    return config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * fallen)) / 2
