"""Whether a training is going wrong, told by its losses alone."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

WINDOW = 20  # losses whose mean is compared
MANY = 256  # answers in a step from which its loss hardly depends on which ones they are
RISE = 0.3  # how far the mean may rise, as a share of what it is compared with, and at least by RISE_NATS where answers are many
RISE_NATS = 0.5
ERRORS = 6.0  # and by so many standard errors of the mean: few answers make losses that jump by themselves
LEAP = 3.0  # times the mean before it that a single loss of many answers may be
LEAP_NATS = 2.0  # and so far it may lie above, in any case
LEAP_DEVIATIONS = 10.0  # and by so many standard deviations


@dataclass(kw_only=True)
class Health:
    """The last losses, the first mean and the lowest; part of a run's state, so that a run that goes on judges alike.

    Where a step has many answers, its mean must not leap, nor the window's rise far above the lowest there was. Where it has few, single
    losses say nothing, and the model is only lost when it is worse than when it began.
    """

    recent: list[float] = field(default_factory=list)
    first: float = math.nan
    lowest: float = math.inf

    def fault(self, loss: float, norm: float, answers: int) -> str | None:
        """Take one step's mean loss over so many answers, and its gradient's norm; say what is wrong, if anything is."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"the loss became {loss:g} and its gradient {norm:g}"
        if len(self.recent) == WINDOW:
            mean, deviation, many = statistics.fmean(self.recent), statistics.pstdev(self.recent), answers >= MANY
            self.first = mean if math.isnan(self.first) else self.first
            self.lowest = min(self.lowest, mean)
            if many and loss > max(LEAP * mean, mean + LEAP_NATS, mean + LEAP_DEVIATIONS * deviation):
                return f"the loss leapt from {mean:.3f} to {loss:.3f}"
            compared = self.lowest if many else self.first
            room = max(RISE * compared, RISE_NATS if many else 0.0, ERRORS * deviation / math.sqrt(WINDOW))
            if mean > compared + room:
                return f"the loss rose from {compared:.3f} to {mean:.3f}, means of {WINDOW} steps"
        self.recent = [*self.recent[-WINDOW + 1 :], loss]
        return None
