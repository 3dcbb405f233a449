"""What a run is to get better at, on what it does not learn from: its loss, or a figure of its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from danlu.inference.model import Model


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A figure of a model, and whether higher is better. Training knows no task's figures: the recipe brings one."""

    name: str
    of: Callable[[Model], float]
    rises: bool = True

    def distance(self, value: float) -> float:
        """The figure as something that should fall, as a loss does."""
        return -value if self.rises else value
