"""What people and TensorBoard see of a run while it goes on."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from danlu.training.config import Extent
from danlu.training.loop import StepReport

try:
    from danlu.training.curves import Curves
except ImportError:  # the extra `danlu[train]` brings it
    Curves = None  # type: ignore[assignment, misc]

PLAIN_SECONDS = 5.0  # between two plain lines where stderr is no terminal


class Watch:
    """A live line on a terminal, plain lines now and then elsewhere, and curves for TensorBoard."""

    def __init__(self, extent: Extent, tensorboard: Path, quiet: bool = False) -> None:
        self.extent, self.quiet = extent, quiet
        self.curves = Curves(tensorboard) if Curves is not None and not quiet else None
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True) if sys.stderr.isatty() and not quiet else None
        self.told = self.loss = 0.0

    def __enter__(self) -> Watch:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()
        if self.curves:
            self.curves.flush()

    def step(self, report: StepReport) -> None:
        """Show one step."""
        self.loss = report.loss_nats if not self.loss else 0.9 * self.loss + 0.1 * report.loss_nats
        if self.curves:
            self.curves.add("loss_nats", report.loss_nats, report.step)
            self.curves.add("rate", report.rate, report.step)
            self.curves.add("tokens_per_second", report.tokens_per_second, report.step)
        now = time.monotonic()
        if self.live is None and now - self.told < PLAIN_SECONDS:
            return
        done = self.extent.done(report.step, report.wall_seconds)
        left = report.wall_seconds / done * (1 - done) if done else 0.0
        rate = report.tokens / max(report.wall_seconds, 1e-9)
        line = f"step {report.step:,}  loss {self.loss:.3f} nats  {rate:,.0f} tokens/s  {left:.0f} s left"
        if self.live is not None:
            self.live.update(Text(line))
        elif now - self.told >= PLAIN_SECONDS:
            self.told = now
            print(line, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.quiet:
            return
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def curve(self, name: str, value: float, step: int) -> None:
        """One more point of a curve that is not of every step."""
        if self.curves:
            self.curves.add(name, value, step)
