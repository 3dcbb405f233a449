"""What `danlu evaluate` does with a task: measures, reports and comparisons."""

from __future__ import annotations

import json as encoder
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError
from danlu.base.run import Run
from danlu.data.examples import input_key
from danlu.evaluation.baselines import baseline
from danlu.evaluation.choosing import Asking, answerer_of
from danlu.evaluation.comparing import compare as compare_evaluations
from danlu.evaluation.ensemble import Members
from danlu.evaluation.evaluated import EVALUATION, Evaluation
from danlu.evaluation.measure import measure
from danlu.reports.evaluation import write_comparison, write_report
from danlu.tasks.base import Task
from danlu.tasks.loading import find_task
from danlu.tasks.parts import licence_of, read_part, stream_part

BASELINE = "baseline"


def measure_task(model: str, name: str, out: Path | None, asking: Mapping[str, Any], rows: Mapping[str, Any], json: bool) -> Evaluation:
    """Ask a model about a task's rows, and write figures, samples and a report."""
    task, data, part = find_task(name), rows["data"], rows["part"]
    if task.test_share == 0 and part == "test" and not data:
        part = "all"  # there is no part that nobody may train on: what a run has seen is named below
    training = _shown(task, data, asking, model)
    answerer = (
        baseline(task, training) if model == BASELINE else answerer_of(model, task, Asking(**asking, examples=tuple(training), data=data))
    )
    if hasattr(answerer, "fit"):  # it searches among all
        answerer.fit(read_part(task, data, part).records)
    folder = out or _folder(model, task)
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
        trained_on=_trained_on(model) if model != BASELINE else None if task.test_share in (0, 1) else set(map(input_key, training)),
    )
    report = write_report(folder)
    if Run(Path(model)).exists():
        Run(Path(model)).write_evaluation(task.name, flat(found, report))
    print(encoder.dumps(flat(found, report), ensure_ascii=False) if json else f"{found}\nreport: {report}", flush=True)
    return found


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
        "checks": asdict(checks),
        "warnings": list(found.warnings),
        "seed": found.seed,
        "wall_seconds": found.wall_seconds,
        "examples_per_second": found.examples_per_second,
        "report": str(report),
        "folder": str(report.parent),
    }


def _shown(task: Task, data: Sequence[str], asking: Mapping[str, Any], model: str) -> list[Any]:
    """Examples that a baseline learns from, or that stand in a prompt; those of a task that only measures are its own rows."""
    if model != BASELINE and not asking["shots"]:
        return []
    if data:
        raise ConfigError("--shots and baseline learn from a task's own training part; with --data there is none: train a model instead")
    return list(read_part(task, (), "all" if task.test_share in (0, 1) else "train").records)


def _folder(model: str, task: Task) -> Path:
    place = Path(model)
    if Run(place).exists() or Members.read(place) is not None:
        return place / "evaluation" / _slug(task.name)
    return Path("evaluations") / f"{_slug(Path(model).name if place.exists() else model)}-{_slug(task.name)}"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "model"


def _trained_on(model: str) -> set[int] | None:
    """What a run, or the members of an ensemble, learnt from; None where that is not known."""
    place = Path(model)
    members = Members.read(place)
    runs = [Run(place / name) for name in members.names] if members is not None else [Run(place)]
    return set().union(*(run.inputs() for run in runs)) if all(run.exists() for run in runs) else None


def _evaluation_of(name: str, task: str | None) -> Path:
    """The folder of an evaluation, by its own path or a run's."""
    place = Path(name)
    if (place / EVALUATION).is_file():
        return place
    found = sorted(file.parent for file in (place / "evaluation").glob(f"*/{EVALUATION}") if task in (None, file.parent.name))
    if len(found) != 1:
        there = f"has {', '.join(folder.name for folder in found)}: name one with --task" if found else "has none"
        raise ConfigError(f"{name} is no evaluation, and {there}; measure first: danlu evaluate {name} --task TASK")
    return found[0]
