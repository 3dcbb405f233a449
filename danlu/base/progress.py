"""Progress of long work on stderr: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_SECONDS = 5.0  # between two plain lines


class Meter(Protocol):
    """Something that is told how far the work has come."""

    def advance(self, amount: float) -> None:
        """Say that `amount` more units are done."""


@contextmanager
def progress(what: str, total: float | None = None, unit: str = "B") -> Iterator[Meter]:
    """Show rate and time left of `what` while the block runs; `unit` is "B" for bytes or a plural noun."""
    meter = _Bar(what, total, unit) if sys.stderr.isatty() else _Lines(what, total, unit)
    try:
        yield meter
    finally:
        meter.close()


def amount_text(amount: float, unit: str) -> str:
    """A quantity for people: 1.2 MB, 3,400 documents."""
    if unit != "B":
        return f"{amount:,.0f} {unit}"
    for name in ("B", "kB", "MB", "GB"):
        if amount < 1000 or name == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} B" if name == "B" else f"{amount:.1f} {name}"


class _Bar:
    def __init__(self, what: str, total: float | None, unit: str) -> None:
        from rich.console import Console  # late: few see a bar
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.unit, self.start, self.done = unit, time.monotonic(), 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=False)
        self.task = self.bar.add_task(what, total=total, told="")
        self.bar.start()

    def advance(self, amount: float) -> None:
        self.done += amount
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        told = f"{amount_text(self.done, self.unit)}, {amount_text(rate, self.unit)}/s"
        self.bar.update(self.task, advance=amount, told=told)

    def close(self) -> None:
        self.bar.stop()


class _Lines:
    def __init__(self, what: str, total: float | None, unit: str) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0.0
        self.start = self.told = time.monotonic()

    def advance(self, amount: float) -> None:
        self.done += amount
        if time.monotonic() - self.told >= PLAIN_SECONDS:
            self.told = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        seconds = max(time.monotonic() - self.start, 1e-9)
        line = f"{self.what}: {amount_text(self.done, self.unit)}, {amount_text(self.done / seconds, self.unit)}/s"
        if self.total and self.done:
            line += f", {max(self.total - self.done, 0) / self.done * seconds:.0f} s left"
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.done:
            self._tell()
