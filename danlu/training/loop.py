"""The training loop: one step after another until the run is done or someone stops it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from danlu.base.device import computing_in
from danlu.base.errors import DanluError
from danlu.training.checkpoint import Progress
from danlu.training.config import Extent, TrainingConfig
from danlu.training.objective import Objective
from danlu.training.schedule import cosine_share


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did. Units: loss in nats an answer (squared error for numbers); rate as the optimizer used it."""

    step: int
    loss_nats: float
    tokens: int
    wall_seconds: float
    rate: float
    gradient_norm: float
    tokens_per_second: float


class Diverged(DanluError):
    """The loss is no number any more."""


def train_steps(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    objective: Objective,
    config: TrainingConfig,
    extent: Extent,
    progress: Progress,
    after_step: Callable[[StepReport], bool],
) -> None:
    """Train until the extent is reached or `after_step` returns False; `progress` moves along.

    Only whole steps are ever seen from outside. Time that `after_step` takes (saving, sampling) counts toward a budget.
    Raises: Diverged if the loss becomes infinite or no number.
    """
    device = next(module.parameters()).device
    module.train()
    clock = time.perf_counter() - progress.seconds
    while extent.done(progress.step, time.perf_counter() - clock) < 1:
        began = time.perf_counter()
        share = cosine_share(config, extent.done(progress.step, began - clock))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * share
        batch = objective.batch(progress.step).to(device)
        with computing_in(progress.precision, device):
            found = objective.loss(module, batch)
        loss = found.total / max(found.count, 1)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(module.parameters(), config.clip))
        if not math.isfinite(norm) or not math.isfinite(loss.item()):
            raise Diverged(
                f"the loss became {loss.item():g} at step {progress.step + 1}; the last checkpoint is whole: "
                f"go on from it in a new run with a smaller --rate than {config.rate:g}"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        progress.step, progress.tokens, progress.seconds = progress.step + 1, progress.tokens + batch.tokens, now - clock
        report = StepReport(
            step=progress.step,
            loss_nats=loss.item(),
            tokens=progress.tokens,
            wall_seconds=round(progress.seconds, 3),
            rate=config.rate * share,
            gradient_norm=norm,
            tokens_per_second=round(batch.tokens / (now - began), 1),
        )
        if not after_step(report):
            return
