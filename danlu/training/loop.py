"""The training loop: one step after another until the run is done or someone stops it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.base.device import computing_in
from danlu.base.errors import DanluError
from danlu.training.checkpoint import Progress
from danlu.training.config import Extent, TrainingConfig
from danlu.training.objective import Objective, Part
from danlu.training.schedule import rate_share
from danlu.training.team import Learner, Team


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
    """The loss is no number any more, or rises."""


def train_steps(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    objective: Objective,
    config: TrainingConfig,
    extent: Extent,
    progress: Progress,
    team: Team,
    after_step: Callable[[StepReport], bool],
) -> None:
    """Train until the extent is reached or the leader's `after_step` returns False; `progress` moves along.

    Only whole steps are ever seen from outside. Time that `after_step` takes (saving, sampling) counts toward a budget.
    Raises: Diverged, before the step changes any weight, if its loss is no number, leaps, or has been rising.
    """
    device = next(module.parameters()).device
    module.train()
    learner = team.learner(module, objective)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    clock = time.perf_counter() - progress.seconds
    going = True
    while True:
        began = time.perf_counter()
        done, going = team.agree((extent.done(progress.step, began - clock), going))
        if done >= 1 or not going:
            return
        share = rate_share(config, done) * progress.rate_share
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["peak"] * share
        loss, count, tokens = _gradients(learner, objective, config, progress, team, device)
        norm = _prepare(weights, config, team.size / max(count, 1))
        fault = progress.health.fault(loss / max(count, 1), norm, count)
        if fault is not None:
            raise Diverged(f"{fault} at step {progress.step + 1}")
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        progress.step, progress.tokens, progress.seconds = progress.step + 1, progress.tokens + tokens, now - clock
        report = StepReport(
            step=progress.step,
            loss_nats=loss / max(count, 1),
            tokens=progress.tokens,
            wall_seconds=round(progress.seconds, 3),
            rate=config.rate * share,
            gradient_norm=norm,
            tokens_per_second=round(tokens / (now - began), 1),
        )
        going = after_step(report)


def _gradients(
    learner: Learner, objective: Objective, config: TrainingConfig, progress: Progress, team: Team, device: torch.device
) -> tuple[float, int, int]:
    """Gradients of the step's summed loss, divided by the number of processes; the sum, answers and tokens over all of them.

    However a step's rows are dealt to parts and processes, each answer counts the same.
    """
    sums = [0.0, 0.0, 0.0]
    parts = config.accumulate * team.size
    for number in range(config.accumulate):
        batch = objective.batch(progress.step, Part(team.rank * config.accumulate + number, parts)).to(device)
        with learner.gathering(last=number == config.accumulate - 1):
            with computing_in(progress.precision, device):
                found = learner.loss(batch)
            found.total.backward()
        if batch.asks:
            sums = [sums[0] + found.total.item(), sums[1] + found.count, sums[2] + batch.tokens]
    loss, count, tokens = team.total(*sums)
    return loss, int(count), int(tokens)


@torch.no_grad()
def _prepare(weights: Sequence[Tensor], config: TrainingConfig, scale: float) -> float:
    """Scale gradients to the mean over all answers, add penalties, and cut them to the largest norm; return the norm before the cut."""
    asked = [weight for weight in weights if weight.grad is not None]
    gradients = [weight.grad for weight in asked if weight.grad is not None]
    if config.l1 or config.l2:
        torch._foreach_mul_(gradients, scale)
        scale = 1.0
        for weight, gradient in zip(asked, gradients, strict=True):
            if weight.dim() > 1:
                gradient.add_(weight.sign(), alpha=config.l1).add_(weight, alpha=config.l2)
    norm = float(nn.utils.get_total_norm(gradients)) * scale
    torch._foreach_mul_(gradients, scale * min(1.0, config.clip / (norm + 1e-6)))
    return norm
