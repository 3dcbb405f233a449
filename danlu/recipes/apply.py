"""`danlu apply`: a model's answers to rows whose answers are not known."""

from __future__ import annotations

import json as encoder
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from danlu.base.device import set_threads
from danlu.base.errors import ConfigError, DataError
from danlu.base.progress import progress
from danlu.base.storage import sole, sync_folder
from danlu.data.sources import find_files
from danlu.evaluation.answerers.base import Answerer
from danlu.evaluation.answerers.choosing import answerer_taught_by, joined, task_of
from danlu.evaluation.applying import Asked, answer_batch, resume, rows_of
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task

BATCH = 256  # rows answered, written and safe at once


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What one run of danlu apply made: every row that came is in `out`, answered or with the reason why not."""

    model: str
    task: str
    out: str
    rows: int
    answered: int
    refused: int
    cut: int
    skipped: int  # rows that an interrupted run had done before
    wall_seconds: float
    rows_per_second: float


def apply(
    model: str,
    *,
    task: str | None = None,
    source: Annotated[str, Parameter(name="--in")],
    out: Path,
    examples: tuple[str, ...] | str | Path = (),
    shots: int = 0,
    shots_by: str = "random",
    by: str = "sum",
    truncate: bool = False,
    precision: str = "float32",
    threads: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> Applied:
    """Answer every row of a file: one JSON object a row, in the same order, with the row's own fields and an `answer`.

    An answer is {"label", "score", "scores"} for classes, {"value"} for numbers, {"tags"} for tokens, {"text"} for texts; a field of the
    row's own called `answer` becomes `answer_given`. A row that cannot be answered has {"error"} and stays in its place. What is
    written is safe batch by batch: after an interruption the same command goes on behind the last row that was answered.

    Parameters
    ----------
    model
        A run, an ensemble's folder, a Hugging Face folder, a .gguf file, a catalog name, api:URL#model, or baseline; several answer
        together as runs/a+runs/b+baseline.
    task
        What is asked, as for `danlu evaluate`; by default what the run was trained for.
    source
        Rows (.jsonl, .json, .csv, .tsv, .parquet, also .gz and .zst) with the task's fields, its answers left out or not.
    out
        The file to write, .jsonl; it appears once every row is in it.
    examples
        Files of solved rows: what a baseline learns from, or where the shots in a prompt, and the classes to choose among, come from.
        By default the training part of a task that brings its data.
    shots
        Examples in a language model's prompt.
    shots_by
        How they are chosen, as for `danlu evaluate`.
    by
        How a language model chooses, as for `danlu evaluate`.
    truncate
        Cut texts that the model cannot read whole, and count them, instead of refusing them.
    precision
        As for `danlu evaluate`.
    threads
        CPU threads; all cores unless given.
    seed
        Draws the examples in prompts.
    json
        Print one JSON object at the end.
    """
    set_threads(threads)
    if out.suffix != ".jsonl":
        raise ConfigError(f"--out came as {out}; expected a name that ends in .jsonl, since answers are written as JSON lines")
    if out.exists():
        raise ConfigError(f"{out} is there already; remove it, or choose another --out")
    wanted = find_task(task) if task is not None else task_of(model)
    if wanted.kind == "retrieve":
        raise ConfigError("--task retrieve measures how a model finds documents, and applies to no single row; use danlu.load(...).embed")
    solved = (str(examples),) if isinstance(examples, str | Path) else tuple(map(str, examples))
    prompt: dict[str, Any] = {"shots": shots, "shots_by": shots_by, "by": by, "seed": seed}
    answerer = answerer_taught_by(model, wanted, solved, truncate=truncate, precision=precision, **prompt)
    rows = rows_of(source)
    partial, note = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.partial.json")
    asked = {"model": model, "task": wanted.name, "in": source, "truncate": truncate, "precision": precision}
    weights = [state for name in joined(model) for state in _state(Path(name))]
    seen = {"weights": weights, "rows": [_state(file.path) for file in find_files([source, *solved])]}
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = out.with_name(f".{out.name}.lock")
    with sole(lock, f"another process is writing {out}; wait until it ends, or choose another --out"):
        if out.exists():
            raise ConfigError(f"{out} was written by another process meanwhile; remove it, or choose another --out")
        made = _apply(model, wanted, answerer, rows, partial, note, {**asked, "examples": list(solved), **prompt, **seen}, out)
        lock.unlink(missing_ok=True)
    if json:
        print(encoder.dumps(asdict(made), ensure_ascii=False), flush=True)
    else:
        refused = f", {made.refused:,} could not be answered (they have an `error`)" if made.refused else ""
        cut = f", {made.cut:,} were cut" if made.cut else ""
        print(f"{made.rows:,} rows -> {out}{refused}{cut}; {made.rows_per_second:,.0f} rows/s")
    return made


def _state(place: Path) -> list[list[Any]]:
    """What changes if a file, or one of a folder's, is replaced: names, sizes and times."""
    files = sorted(place.rglob("*.safetensors")) if place.is_dir() else [place] if place.is_file() else []
    return [[file.name, (found := file.stat()).st_size, found.st_mtime_ns] for file in files if "checkpoints" not in file.parts]


def _apply(
    model: str,
    task: Task,
    answerer: Answerer,
    rows: Iterator[Asked],
    partial: Path,
    note: Path,
    asked: dict[str, Any],
    out: Path,
) -> Applied:
    """Answer all rows that are not answered yet, then give the file its name."""
    counts, began = resume(partial, note, asked), time.perf_counter()
    skipped = counts["answered"] + counts["refused"]
    if skipped:
        print(f"danlu: {skipped:,} rows were answered before; going on behind them", file=sys.stderr)
    done = skipped
    with partial.open("ab") as file, progress("applying", unit="rows") as meter:
        for _ in islice(rows, skipped):
            pass
        while batch := list(islice(rows, BATCH)):
            answer_batch(batch, task, answerer, file, counts)
            done += len(batch)
            meter.advance(len(batch))
    if not done:
        partial.unlink()
        note.unlink()
        raise DataError(f"{asked['in']} holds no rows; expected at least one")
    partial.replace(out)
    note.unlink(missing_ok=True)
    sync_folder(out.parent)
    seconds = time.perf_counter() - began
    return Applied(
        model=model, task=task.name, out=str(out), rows=done, skipped=skipped, **counts,
        wall_seconds=round(seconds, 2), rows_per_second=round((done - skipped) / seconds, 1),
    )  # fmt: skip
