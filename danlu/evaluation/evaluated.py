"""What an evaluation came to: one value that turns into JSON, a short table, and a report."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from danlu.base.errors import DataError
from danlu.base.storage import write_whole
from danlu.data.examples import Kind
from danlu.evaluation.checks import Checks
from danlu.evaluation.scores.curves import Bin, Confusion, Curves, Line, Threshold
from danlu.evaluation.scores.figures import Figure
from danlu.evaluation.slices import Slice

FORMAT = 1
EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """A class, tag or type of entity: its figures, and for classes how many samples are truly of it."""

    name: str
    rows: int | None
    figures: Mapping[str, Figure]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was measured on what: a model by the name that it was given, a task, and rows of data with their licence."""

    task: str
    kind: Kind
    model: str
    data: str
    part: str
    licence: str = ""
    prompt_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that measure() found. `score` names the main figure; what a kind does not have is empty.

    Units: wall_seconds of answering, scoring and writing samples; examples_per_second of the answerer alone.
    """

    format: int = FORMAT
    subject: Subject
    score: str
    figures: Mapping[str, Figure]
    per_class: tuple[ClassFigures, ...] = ()
    confusion: Confusion | None = None
    curves: Curves | None = None
    calibration: tuple[Bin, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    slices: tuple[Slice, ...] = ()
    checks: Checks
    warnings: tuple[str, ...] = ()
    seed: int
    environment: Mapping[str, str | int]
    wall_seconds: float
    examples_per_second: float

    @property
    def main(self) -> Figure:
        """The main figure."""
        return self.figures[self.score]

    def ordered(self) -> list[tuple[str, Figure]]:
        """Figures by name, the main one first."""
        return [(self.score, self.main), *((name, figure) for name, figure in self.figures.items() if name != self.score)]

    def write(self, folder: Path) -> Path:
        """Write evaluation.json into a folder."""
        content = json.dumps(asdict(self), ensure_ascii=False, allow_nan=False, indent=1)
        write_whole(folder / EVALUATION, content.encode() + b"\n")
        return folder / EVALUATION

    def __str__(self) -> str:
        subject, checks = self.subject, self.checks
        wide = max(map(len, self.figures))
        lines = [f"{subject.model} on {subject.task} ({subject.data}, {subject.part}): {checks.scored:,} rows"]
        lines += [f"{name:<{wide}}  {figure}" for name, figure in self.ordered()]
        left = {"set aside": checks.set_aside, "refused": checks.refused, "cut": checks.cut, "duplicates": checks.duplicates}
        left["also in training"] = checks.leaks or 0
        told = ", ".join(f"{count:,} {what}" for what, count in left.items() if count)
        return "\n".join([*lines, *([told] if told else []), *(f"note: {warning}" for warning in self.warnings)])

    def _repr_html_(self) -> str:
        head, *_ = str(self).splitlines()
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{each.value:.4f}</td><td>{each.low:.4f} to {each.high:.4f}</td></tr>"
            for name, each in self.ordered()
        )
        notes = "".join(f"<p>{html.escape(warning)}</p>" for warning in self.warnings)
        return f"<p><b>{html.escape(head)}</b></p><table><tbody>{rows}</tbody></table>{notes}"


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation that a folder holds. Raises: DataError if there is none, or one of another format."""
    file = folder / EVALUATION
    try:
        told: dict[str, Any] = json.loads(file.read_bytes())
        if told.get("format") != FORMAT:
            raise DataError(f"{file} has format {told.get('format')!r}, expected {FORMAT}; evaluate again")
        return _evaluation(told)
    except FileNotFoundError as error:
        raise DataError(f"{file} is not there; expected the folder of an evaluation") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} cannot be read ({error}); evaluate again") from error


def _figures(told: Mapping[str, Any]) -> dict[str, Figure]:
    return {name: Figure(**figure) for name, figure in told.items()}


def _evaluation(told: dict[str, Any]) -> Evaluation:
    curves, confusion = told.get("curves"), told.get("confusion")
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told["checks"].items()}
    changed = {
        "subject": Subject(**told["subject"]),
        "figures": _figures(told["figures"]),
        "per_class": tuple(ClassFigures(**each | {"figures": _figures(each["figures"])}) for each in told["per_class"]),
        "confusion": confusion and _confusion(confusion),
        "curves": curves and Curves(**{key: tuple(_line(line) for line in lines) for key, lines in curves.items()}),
        "calibration": tuple(Bin(**each) for each in told["calibration"]),
        "thresholds": tuple(Threshold(**each) for each in told["thresholds"]),
        "slices": tuple(Slice(**each | {"figure": each["figure"] and Figure(**each["figure"])}) for each in told["slices"]),
        "checks": Checks(**lists),
        "warnings": tuple(told["warnings"]),
    }
    return Evaluation(**told | changed)


def _confusion(told: Mapping[str, Any]) -> Confusion:
    return Confusion(labels=tuple(told["labels"]), answered=tuple(told["answered"]), counts=tuple(map(tuple, told["counts"])))


def _line(told: Mapping[str, Any]) -> Line:
    return Line(name=told["name"], x=tuple(told["x"]), y=tuple(told["y"]))
