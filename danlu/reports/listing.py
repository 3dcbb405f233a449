"""The runs of a folder: what `danlu runs` prints, and a notebook shows."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from danlu.base.errors import ConfigError
from danlu.base.run import Run, list_runs
from danlu.reports.comparison import Comparison, compare_runs
from danlu.reports.summary import RunSummary, summarize
from danlu.reports.tables import amount, duration, html_table, text_table

COLUMNS = ("name", "start", "task", "state", "steps", "tokens", "loss", "held out", "tokens/s", "time", "begun")
RIGHT = ("steps", "tokens", "loss", "held out", "tokens/s", "time")
SPARE = ("tokens", "task", "tokens/s", "start", "begun", "time")  # left out on a narrow terminal, in this order


class Runs(Mapping[str, RunSummary]):
    """The runs of a folder by name, newest first; shows itself as a table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = sorted((summarize(run) for run in list_runs(folder)), key=lambda each: each.name)
        self._runs = {each.name: each for each in sorted(found, key=lambda each: each.begun, reverse=True)}

    def __getitem__(self, name: str) -> RunSummary:
        return self._runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def compare(self, *names: str) -> Comparison:
        """Runs of this folder side by side, which shows itself in a notebook too."""
        return compare_runs([find_run(name, self.folder) for name in names])

    def __str__(self) -> str:
        if not self._runs:
            return f"no runs in {self.folder}; begin one with: danlu train gpt/tiny --data FILE"
        return text_table(self._columns(), [self._cells(each) for each in self.values()], RIGHT, SPARE)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self._runs:
            return f"<p>{html.escape(str(self))}</p>"
        return html_table(self._columns(), [self._cells(each) for each in self.values()], RIGHT)

    def _columns(self) -> Sequence[str]:
        return (*COLUMNS, "what is wrong") if any(each.fault for each in self.values()) else COLUMNS

    def _cells(self, each: RunSummary) -> list[str]:
        cells = [
            each.name,
            each.start or "?",
            each.task or "?",
            each.state,
            f"{each.steps:,}",
            amount(each.tokens),
            "" if each.loss_nats is None else f"{each.loss_nats:.3f}",
            each.held_out,
            "" if each.tokens_per_second is None else f"{each.tokens_per_second:,.0f}",
            duration(each.wall_seconds),
            each.begun[:16],
        ]
        return [*cells, each.fault or ""] if any(other.fault for other in self.values()) else cells


def find_run(name: str, folder: Path) -> Run:
    """A run by its name in a folder, or by its own path. Raises: ConfigError if it is neither."""
    for place in (folder / name, Path(name)):
        if place.is_dir() and (run := Run(place)).exists():
            return run
    known = [run.folder.name for run in list_runs(folder)] if folder.is_dir() else []
    there = f"{folder} has {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}" if known else f"{folder} has none"
    raise ConfigError(f"{name} is no run whose settings can be read; {there} (danlu runs lists them)")
