"""One run in a row: how far it came and how good it became, as far as its folder can still tell."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.base.errors import CheckpointError
from danlu.base.run import FORMAT, Run
from danlu.reports.curve import Curve, Point, draw_svg

LAST_STEPS = 20  # whose mean loss stands for a run's last one, since a single batch's is noisy
FRESH_SECONDS = 60.0  # a run that wrote something so recently may well be under way


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run came to; None where it is not known. `loss_nats` is the mean of the last 20 steps."""

    name: str
    folder: str
    start: str | None
    task: str | None
    state: str
    steps: int
    tokens: int
    loss_nats: float | None
    val_loss_nats: float | None
    val_bits_per_byte: float | None
    val_accuracy: float | None
    tokens_per_second: float | None  # of the step in the middle, so that pauses do not count
    wall_seconds: float | None
    begun: str
    fault: str | None  # what of the folder cannot be read

    @property
    def held_out(self) -> str:
        """How good the model is on what was held out, in the unit that says most."""
        if self.val_accuracy is not None:
            return f"{self.val_accuracy:.1%} right"
        if self.val_bits_per_byte is not None:
            return f"{self.val_bits_per_byte:.3f} bits/byte"
        return "" if self.val_loss_nats is None else f"{self.val_loss_nats:.3f} {self.unit}"

    @property
    def unit(self) -> str:
        """What the loss is counted in."""
        return unit_of(self.task)

    def curve(self) -> Curve:
        """The loss of every step, and what was held out."""
        return read_curve(Run(Path(self.folder)), self.name, self.unit)

    def __str__(self) -> str:
        loss = "" if self.loss_nats is None else f", loss {self.loss_nats:.3f} {self.unit}"
        held_out = f", held out {self.held_out}" if self.held_out else ""
        fault = f" ({self.fault})" if self.fault else ""
        return f"{self.name}: {self.state}, {self.steps:,} steps{loss}{held_out}{fault}"

    def _repr_html_(self) -> str:
        return draw_svg([self.curve()], title=str(self))


def summarize(run: Run) -> RunSummary:
    """Look at a run's folder. What is damaged is said in `fault` and never raises."""
    faults: list[str] = []
    config = _read(run, "config.json", faults)
    manifest = _read(run, "manifest.json", faults) if run.manifest_file.exists() else {}
    try:
        rows, fault = run.read_metrics()
    except OSError as error:
        rows, fault = [], f"metrics.jsonl: {error.strerror}"
    faults += [fault] if fault else []
    steps = [row for row in rows if _is_step(row)]
    measured: dict[str, Any] = {}
    for row in rows:
        measured.update({key: value for key, value in row.items() if row.get("kind") == "evaluation" and _number(value) is not None})
    last = steps[-1] if steps else {}
    speeds = [speed for row in steps if (speed := _number(row.get("tokens_per_second"))) is not None]
    losses = [float(row["loss_nats"]) for row in steps[-LAST_STEPS:]]
    return RunSummary(
        name=run.folder.name,
        folder=str(run.folder),
        start=_text(config.get("start")),
        task=_text(config.get("task")),
        state=_state(run, rows, last, manifest, bool(faults)),
        steps=int(last.get("step", 0)),
        tokens=int(_number(last.get("tokens")) or 0),
        loss_nats=sum(losses) / len(losses) if losses else None,
        val_loss_nats=_number(measured.get("val_loss_nats")),
        val_bits_per_byte=_number(measured.get("val_bits_per_byte")),
        val_accuracy=_number(measured.get("val_accuracy")),
        tokens_per_second=statistics.median(speeds) if speeds else None,
        wall_seconds=_number(last.get("wall_seconds")),
        begun=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.begun_at)),
        fault="; ".join(faults) or None,
    )


def unit_of(task: str | None) -> str:
    """What a task's loss is counted in."""
    return "squared error" if task == "regress" else "nats"


def read_curve(run: Run, name: str, unit: str) -> Curve:
    """A run's losses; rows that cannot be read are passed over."""
    rows, _ = run.read_metrics()
    steps = [row for row in rows if _is_step(row) and math.isfinite(row["loss_nats"])]
    seconds = [_number(row.get("wall_seconds")) or 0.0 for row in steps]
    at = {int(row["step"]): second for row, second in zip(steps, seconds, strict=True)}
    held_out = [
        Point(step=row["step"], seconds=at[row["step"]], loss=row["val_loss_nats"])
        for row in rows
        if row.get("kind") == "evaluation" and row.get("step") in at and _number(row.get("val_loss_nats")) is not None
    ]
    return Curve(
        name=name,
        unit=unit,
        steps=[int(row["step"]) for row in steps],
        seconds=seconds,
        losses=[float(row["loss_nats"]) for row in steps],
        held_out=held_out,
    )


def _state(run: Run, rows: Sequence[dict[str, Any]], last: dict[str, Any], manifest: dict[str, Any], damaged: bool) -> str:
    """finished, running?, interrupted at step N, never began; or damaged, if that cannot be told."""
    if run.final_at and (rows or not damaged) and _reached_end(run, rows, last, manifest):
        return "finished"
    if run.touched_at and time.time() - run.touched_at < FRESH_SECONDS:
        return "running?"  # nothing but the files' age tells it: the run may be on another machine
    if last:
        return f"interrupted at step {last['step']:,}"
    if damaged:
        return "damaged"
    return "interrupted at step 0" if manifest else "never began"


def _reached_end(run: Run, rows: Sequence[dict[str, Any]], last: dict[str, Any], manifest: dict[str, Any]) -> bool:
    """Whether final/ is of this run's last step: a finished run that went on and was interrupted still has an older one."""
    settings = manifest.get("settings")
    asked = _number(settings.get("steps")) if isinstance(settings, dict) else None
    if rows and rows[-1].get("kind") == "evaluation" and rows[-1].get("final", True):
        return True
    return last.get("step", 0) >= asked if asked else run.final_at >= run.touched_at - 1


def _read(run: Run, name: str, faults: list[str]) -> dict[str, Any]:
    try:
        content = run.config if name == "config.json" else run.manifest
    except FileNotFoundError:
        faults.append(f"{name} is missing")
    except (OSError, ValueError, CheckpointError) as error:
        faults.append(f"{name}: {getattr(error, 'strerror', None) or 'cannot be read'}")
    else:
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return content
        format = content.get("format") if isinstance(content, dict) else None
        faults.append(f"{name} has format {format!r}, expected {FORMAT}")
    return {}


def _is_step(row: dict[str, Any]) -> bool:
    return "kind" not in row and isinstance(row.get("step"), int) and isinstance(row.get("loss_nats"), int | float)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
