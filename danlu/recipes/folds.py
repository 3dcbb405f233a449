"""`danlu train --folds`: several models of one task, measured on what they did not see, and kept as one that answers together."""

from __future__ import annotations

import json as encoder
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError
from danlu.data.examples import Placed, SetAside, check_share
from danlu.evaluation.folds import CrossValidated, cross_validate, told
from danlu.reports.evaluation import write_report
from danlu.tasks.loading import find_task
from danlu.tasks.parts import licence_of, stream_part
from danlu.training.config import Options, read_sources


def train_folds(
    learn: Callable[[Path, str, Options], str], wish: Options, folder: Path, folds: int, method: str, resume: bool, json: bool
) -> CrossValidated:
    """Train the members, each a run below `folder`, and write their report. Raises: ConfigError if the folder is there already."""
    if wish.task == "text":
        raise ConfigError("--folds came for a text; it is for tasks of rows, such as --task classify")
    if folder.exists() and not resume:
        raise ConfigError(f"{folder} is there already; go on with --resume, or choose another --name")
    task, sources = find_task(wish.task), [name for name, _ in read_sources(wish.data)]
    found = list(stream_part(task, sources, "all" if task.test_share == 0 else "train"))
    examples = [each for each in found if isinstance(each, Placed)]
    check_share([each for each in found if isinstance(each, SetAside)], len(examples), task.kind, ", ".join(sources) or task.name)

    def member(rows: Path, name: str) -> str:
        return learn(folder, name, replace(wish, data=(str(rows),), truncate=True))

    how: Any = method
    about = {"data": ", ".join(sources) or ", ".join(task.sources), "licence": "" if sources else licence_of(task)}
    made = cross_validate(task, examples, folder, member, folds=folds, method=how, seed=wish.seed, **about)
    write_report(folder / "evaluation" / task.name)
    print(encoder.dumps(told(made), ensure_ascii=False) if json else made, flush=True)
    return made
