"""`danlu train --folds`: several models of one task, measured on what they did not see, and kept as one that answers together."""

from __future__ import annotations

import json as encoder
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError
from danlu.base.run import sole_writer
from danlu.base.storage import write_whole
from danlu.data.examples import Placed, SetAside, check_share, label_names
from danlu.evaluation.folds import CrossValidated, cross_validate, digest, told
from danlu.evaluation.judging import check_figure
from danlu.reports.evaluation import write_report
from danlu.tasks.loading import find_task
from danlu.tasks.parts import licence_of, stream_part
from danlu.training.config import LOSS, Options, read_sources
from danlu.training.lesson import NEVER_LEARNT

NOTE = "folds.json"


def train_folds(
    learn: Callable[[Path, str, Options], str], start: str, wish: Options, folder: Path, folds: int, method: Any, resume: bool, json: bool
) -> CrossValidated:
    """Train the members, each a run below `folder`, and write their report. Raises: ConfigError if the folder is there already."""
    if wish.task == "text":
        raise ConfigError("--folds came for a text; it is for tasks of rows, such as --task classify")
    task, sources = find_task(wish.task), [name for name, _ in read_sources(wish.data)]
    if task.kind in NEVER_LEARNT:
        raise ConfigError(f"--task {task.name} measures a model, and nothing is trained for it; --folds needs a task that is learnt")
    with sole_writer(folder):
        found = list(stream_part(task, sources, "all" if task.test_share == 0 else "train"))
        examples = [each for each in found if isinstance(each, Placed)]
        aside = [each for each in found if isinstance(each, SetAside)]
        check_share(aside, len(examples), task.kind, ", ".join(sources) or task.name)
        for row in aside:
            print(f"danlu: set aside {row}", file=sys.stderr)
        labels = label_names(each.example for each in examples) if task.kind in ("classify", "label") else ()
        wish = replace(wish, labels=wish.labels or labels)
        if wish.best_by != LOSS:
            check_figure(task.kind, labels, wish.best_by)
        _note(folder, {"start": start, **asdict(wish), "folds": folds, "ensemble": method, "rows": digest(examples)}, resume)

        def member(rows: Path, name: str) -> str:
            return learn(folder, name, replace(wish, data=(str(rows),)))

        about: dict[str, Any] = {"data": ", ".join(sources) or ", ".join(task.sources), "licence": "" if sources else licence_of(task)}
        how: dict[str, Any] = {"folds": folds, "method": method, "seed": wish.seed, "truncate": wish.truncate}
        try:
            made = cross_validate(task, examples, folder, member, called=_found_again(wish.task), **how, **about)
        except KeyboardInterrupt as stop:
            left_off = str(stop).partition(";")[0] or "stopped"
            raise KeyboardInterrupt(f"{left_off} of a member; go on with the same command and --resume, --name {folder.name}") from None
        except ConfigError:
            if [path.name for path in folder.iterdir()] == [NOTE]:  # nothing was begun: the name stays free
                (folder / NOTE).unlink()
                folder.rmdir()
            raise
        write_report(Path(made.evaluation))
    print(encoder.dumps(told(made), ensure_ascii=False) if json else made, flush=True)
    return made


def _found_again(task: str) -> str:
    """A task's name from wherever it is asked for."""
    file, _, name = task.rpartition(".py")
    return f"{Path(file + '.py').resolve()}{name}" if file else task


def _note(folder: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write down what the members are, or see that they are the same. Raises: ConfigError if they are not, or the folder is taken."""
    file, settings = folder / NOTE, encoder.loads(encoder.dumps(settings))  # as it is written: lists, not tuples
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is there already, and is no ensemble; choose another --name")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, encoder.dumps(settings, indent=2, ensure_ascii=False).encode())
        return
    before = encoder.loads(file.read_text("utf-8"))
    if not resume:
        raise ConfigError(f"{folder} is there already; go on with --resume, or choose another --name")
    if changed := [key for key, value in settings.items() if before.get(key) != value]:
        told = ", ".join(f"{key} {before.get(key)!r} -> {settings[key]!r}" for key in changed)
        raise ConfigError(f"{folder} was begun otherwise ({told}); give the same again, or choose another --name")
