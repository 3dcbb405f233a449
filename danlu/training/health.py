"""Whether a training is going wrong, told by its losses alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

WINDOW = 20  # losses whose mean is compared
RISE = 1.3  # how far the mean may rise above the lowest there was; so far and by RISE_NATS
RISE_NATS = 0.5
LEAP = 3.0  # how far a single loss may lie above the mean before it; so far and by LEAP_NATS
LEAP_NATS = 2.0


@dataclass(kw_only=True)
class Health:
    """The last losses and the lowest mean so far; part of a run's state, so that a run that goes on judges alike."""

    recent: list[float] = field(default_factory=list)
    lowest: float = math.inf

    def fault(self, loss: float, norm: float) -> str | None:
        """Take one step's loss and gradient norm; say what is wrong, if anything is."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"the loss became {loss:g} and its gradient {norm:g}"
        if len(self.recent) == WINDOW:
            mean = sum(self.recent) / WINDOW
            self.lowest = min(self.lowest, mean)
            if loss > max(LEAP * mean, mean + LEAP_NATS):
                return f"the loss leapt from {mean:.3f} to {loss:.3f}"
            if mean > max(RISE * self.lowest, self.lowest + RISE_NATS):
                return f"the loss rose from {self.lowest:.3f} to {mean:.3f}, means of {WINDOW} steps"
        self.recent = [*self.recent[-WINDOW + 1 :], loss]
        return None
