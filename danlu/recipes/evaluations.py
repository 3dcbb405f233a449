"""What `danlu evaluate` does with a task: measures, reports and comparisons."""

from __future__ import annotations

import json as encoder
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from danlu.data.examples import likeness_key
from danlu.evaluation.answerers.choosing import BASELINE, Asking, answerer_of, joined, solved_rows
from danlu.evaluation.answerers.ensemble import Members
from danlu.evaluation.comparing import compare as compare_evaluations
from danlu.evaluation.evaluated import EVALUATION, Evaluation, read_evaluation
from danlu.evaluation.measure import measure
from danlu.reports.evaluation import write_comparison, write_report
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part, licence_of, read_part, stream_part


def measure_task(model: str, name: str, out: Path | None, asking: Mapping[str, Any], rows: Mapping[str, Any], json: bool) -> Evaluation:
    """Ask a model about a task's rows, and write figures, samples and a report."""
    task, data = find_task(name), rows["data"]
    part: Part = rows["part"] or "test"
    _check(task, rows)
    if task.test_share == 0 and part == "test" and not data:
        part = "all"  # there is no part that nobody may train on: what a run has seen is named below
    folder = out or _folder(model, task, asking, rows)
    folder.mkdir(parents=True, exist_ok=True)  # a name that cannot be one is told before the work
    training = solved_rows(model, task, asking["shots"], rows["examples"], not data)
    how = Asking(**asking, examples=training, data=data)
    apart = bool(rows["examples"]) or task.test_share not in (0, 1)  # else a baseline's examples are the measured rows themselves
    answerer = answerer_of(model, task, how)
    if hasattr(answerer, "fit"):  # it searches among all
        answerer.fit(read_part(task, data, part).records)
    found = measure(
        task,
        answerer,
        stream_part(task, data, part),
        folder,
        data=", ".join(data) or ", ".join(task.sources),
        part="all" if data else part,
        licence="" if data else licence_of(task),
        seed=rows["seed"],
        limit=rows["limit"],
        threshold=rows["threshold"],
        trained_on=_seen(model, training if apart else None),
    )
    report = write_report(folder)
    if out is None and Run(Path(model)).exists():
        Run(Path(model)).write_evaluation(folder.name, flat(found, report))
    print(encoder.dumps(flat(found, report), ensure_ascii=False) if json else f"{found}\nreport: {report}", flush=True)
    return found


def _check(task: Task, rows: Mapping[str, Any]) -> None:
    """Raises: ConfigError for what does nothing, or cannot be."""
    if rows["data"] and rows["part"]:
        raise ConfigError(f"--split came as {rows['part']}, but --data is measured whole; leave one of them out")
    if rows["threshold"] is not None and task.kind != "classify":
        raise ConfigError(f"--threshold is for two classes; --task {task.name} ({task.kind}) has none")
    if rows["threshold"] is not None and not 0 <= rows["threshold"] <= 1:
        raise ConfigError(f"--threshold came as {rows['threshold']:g}; expected a score from 0 to 1")
    if rows["limit"] is not None and rows["limit"] < 1:
        raise ConfigError(f"--limit came as {rows['limit']}; expected at least 1")
    if rows["seed"] < 0:
        raise ConfigError(f"--seed came as {rows['seed']}; expected 0 or more")


def compare(names: Sequence[str], task: str | None, out: Path, json: bool) -> Any:
    """Put evaluations of the same rows side by side, with paired tests."""
    if len(names) < 2:
        raise ConfigError(f"{len(names)} evaluation came to be compared; expected two or more: danlu evaluate --compare A B")
    folders = [_evaluation_of(name, task) for name in names]
    found = compare_evaluations(folders)
    report = write_comparison(found, out)
    told = {"names": found.names, "score": found.score, "pairs": [asdict(pair) for pair in found.pairs], "report": str(report)}
    print(encoder.dumps(told, ensure_ascii=False) if json else f"{found}\nreport: {report}", flush=True)
    return found


def flat(found: Evaluation, report: Path) -> dict[str, Any]:
    """What --json prints: every figure under its own name, and its interval."""
    subject, checks = found.subject, found.checks
    return {
        **{key: value for key, value in asdict(subject).items() if value is not None},
        "rows": checks.scored,
        "score": found.score,
        **{name: figure.value for name, figure in found.figures.items()},
        "intervals": {name: asdict(figure) for name, figure in found.figures.items()},
        "per_class": {each.name: {name: figure.value for name, figure in each.figures.items()} for each in found.per_class},
        "thresholds": [asdict(each) for each in found.thresholds],
        "checks": asdict(checks),
        "warnings": list(found.warnings),
        "seed": found.seed,
        "wall_seconds": found.wall_seconds,
        "examples_per_second": found.examples_per_second,
        "report": str(report),
        "folder": str(report.parent),
    }


def _folder(model: str, task: Task, asking: Mapping[str, Any], rows: Mapping[str, Any]) -> Path:
    """Where an evaluation is kept: what was asked otherwise than usual is in its name, so that it does not take another's place."""
    place = Path(model)
    prompted = [f"{asking['shots']}-{asking['shots_by']}-shots"] * bool(asking["shots"]) + [f"by-{asking['by']}"] * (asking["by"] != "sum")
    part = [rows["part"]] * (rows["part"] not in (None, "test")) + [f"first-{rows['limit']}"] * (rows["limit"] is not None)
    name = "-".join([_slug(task.name), *prompted, *part])
    if Run(place).exists() or Members.read(place) is not None:
        folder = place / "evaluation" / name
    else:
        shown = Run.holding(place).folder.name if place.exists() else model
        folder = Path("evaluations") / f"{_slug(shown)}-{name}"
    sources = rows["data"] or task.sources
    with suppress(DataError, OSError):  # one that cannot be read gives way
        if read_evaluation(folder).subject.data != ", ".join(sources):
            return folder.with_name(f"{folder.name}-{_slug('-'.join(Path(source).stem for source in sources))}")
    return folder


def _slug(name: str) -> str:
    return re.sub(r"[^\w.\-+]+", "-", name).strip("-.") or "model"


def _seen(model: str, training: Sequence[Any] | None) -> set[int] | None:
    """What those who answer learnt from, a baseline from `training`; None where that is not known of all."""
    taught = None if training is None else set(map(likeness_key, training))
    found = [taught if name == BASELINE else _trained_on(name) for name in joined(model)]
    return None if any(each is None for each in found) else set[int]().union(*(each for each in found if each is not None))


def _trained_on(model: str) -> set[int] | None:
    """What a run, or the members of an ensemble, learnt from; None where that is not known."""
    place = Path(model)
    members = Members.read(place)
    runs = [Run(place / name) for name in members.names] if members is not None else [Run.holding(place)]
    return set().union(*(run.inputs() for run in runs)) if all(run.exists() for run in runs) else None


def _evaluation_of(name: str, task: str | None) -> Path:
    """The folder of an evaluation, by its own path or a run's."""
    place = Path(name)
    if (place / EVALUATION).is_file():
        return place
    found = sorted(file.parent for file in (place / "evaluation").glob(f"*/{EVALUATION}") if task in (None, file.parent.name))
    if len(found) != 1:
        others = sorted(file.parent.name for file in (place / "evaluation").glob(f"*/{EVALUATION}"))
        mend = f"it has {', '.join(others)}: name one with --task" if others else f"measure first: danlu evaluate {name} --task TASK"
        raise ConfigError(f"{name} is no evaluation{f' of {task}' if task else ''}; {mend}")
    return found[0]
