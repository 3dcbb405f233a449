"""Measure whoever answers: ask in batches, write every sample down, count what is wrong with the data, and tell figures with intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from danlu.base.errors import ConfigError, DataError
from danlu.base.progress import progress
from danlu.base.storage import write_whole
from danlu.data.answers import Answer, Refused
from danlu.data.choices import ChoiceExample
from danlu.data.examples import MOST_BAD, ClassifyExample, Example, LabelExample, Placed, SetAside, check_share
from danlu.evaluation.answerers.base import Answerer
from danlu.evaluation.checks import Ledger
from danlu.evaluation.environment import environment
from danlu.evaluation.evaluated import EVALUATION, ClassFigures, Evaluation, Subject
from danlu.evaluation.samples import SAMPLES, expected_of, line_of
from danlu.evaluation.scores.classes import ClassScores
from danlu.evaluation.scores.curves import bins_of, confusion_of, curves_of, thresholds_of
from danlu.evaluation.scores.figures import SEPARATOR, Figure, Scores, bootstrap
from danlu.evaluation.scores.kinds import figure_names, scores_for
from danlu.evaluation.slices import slices_of
from danlu.tasks.base import SCORES, Task

BATCH = 256  # examples asked at once
SHOWN_LABELS = 10  # in a message


def measure(
    task: Task,
    answerer: Answerer,
    stream: Iterable[Placed | SetAside],
    folder: Path,
    *,
    data: str,
    part: str,
    licence: str = "",
    seed: int = 0,
    limit: int | None = None,
    batch: int = BATCH,
    threshold: float | None = None,
    trained_on: AbstractSet[int] | None = None,
    max_bad: float = MOST_BAD,
    score: str = "",
) -> Evaluation:
    """Ask the answerer about each example of a stream, and write samples.jsonl and evaluation.json into a folder, each whole or not at all.

    `data` and `part` say where the stream comes from; `limit` takes its first rows only; `threshold` is a score of the positive one of two
    classes whose figures are wanted too; `trained_on` holds likeness_key() of the rows trained on; `score` is the main figure, the task's
    unless given. What stays in memory is a few numbers a row (of classes, one for each). Rows that cannot be used, or whose label the
    answerer does not know, are set aside; those that it refuses are counted beside them.

    Raises: DataError if more than `max_bad` of the rows could not be scored, or none, and then nothing is written; or, with file:line, if
    an answer is none: scores that are no numbers, an unknown label, too few tags. ConfigError if the main figure is none of the kind.
    """
    for name, count in (("limit", limit), ("batch", batch)):
        if count is not None and count < 1:
            raise ConfigError(f"{name} came as {count}; expected at least 1")
    began = time.perf_counter()
    wanted = _wanted_figure(score or task.score, task, answerer.labels)
    scores, ledger = scores_for(task.kind, answerer.labels), Ledger(kind=task.kind, trained_on=trained_on)
    asking = _Asking(task, answerer, scores, ledger, batch)

    def written(file: BinaryIO) -> None:
        asking.through(iter(stream) if limit is None else islice(stream, limit), file)
        lost = ledger.set_aside_count + ledger.refused_count
        check_share(ledger.set_aside + ledger.refused, len(scores), task.kind, data, max_bad, lost)
        (folder / EVALUATION).unlink(missing_ok=True)  # an older one would speak of samples that are no longer there

    write_whole(folder / SAMPLES, written)
    wall_seconds = time.perf_counter() - began
    found = bootstrap(scores, seed=seed)
    main, notes = _told_figure(wanted, task, found)
    classes = scores if isinstance(scores, ClassScores) else None
    evaluation = Evaluation(
        subject=Subject(
            task=task.name,
            kind=task.kind,
            model=answerer.name,
            data=data,
            part=part,
            licence=licence,
            prompt_sha256=getattr(answerer, "prompt_sha256", None),
        ),
        score=main,
        figures={name: figure for name, figure in found.items() if SEPARATOR not in name},
        per_class=_per_class(found, scores),
        confusion=confusion_of(classes) if classes else None,
        curves=curves_of(classes) if classes else None,
        calibration=bins_of(classes) if classes else (),
        thresholds=thresholds_of(classes, threshold) if classes else (),
        slices=slices_of(scores, main, ledger.lengths.array(), ledger.chinese.array(), seed),
        checks=ledger.close(),
        warnings=(*notes, *_without_width(main, found[main], len(scores)), *scores.warnings()),
        seed=seed,
        environment=environment(),
        wall_seconds=round(wall_seconds, 3),
        examples_per_second=round(len(scores) / max(asking.seconds, 1e-9), 3),
    )
    evaluation.write(folder)
    return evaluation


class _Asking:
    """One pass over the rows; `seconds` is the answerer's own time."""

    def __init__(self, task: Task, answerer: Answerer, scores: Scores, ledger: Ledger, batch: int) -> None:
        self.task, self.answerer, self.scores, self.ledger, self.batch = task, answerer, scores, ledger, batch
        self.known, self.seconds = frozenset(answerer.labels), 0.0

    def through(self, rows: Iterator[Placed | SetAside], file: BinaryIO) -> None:
        with progress(f"evaluating {self.task.name}", unit="examples") as meter:
            while asked := self._next(rows):
                began = time.perf_counter()
                answers = self.answerer.answer([placed.example for placed in asked])
                self.seconds += time.perf_counter() - began
                assert len(answers) == len(asked), "an answerer answers each example"
                self._take(asked, answers, file)
                meter.advance(len(asked))

    def _next(self, rows: Iterator[Placed | SetAside]) -> list[Placed]:
        """The next rows that can be asked; the others are left out."""
        found: list[Placed] = []
        for row in rows:
            if isinstance(row, Placed) and (unknown := self._unknown(row.example)):
                row = SetAside(file=row.file, line=row.line, reason=unknown)
            if isinstance(row, SetAside):
                self.ledger.leave_out(row)
                continue
            found.append(row)
            if len(found) == self.batch:
                break
        return found

    def _unknown(self, example: Example) -> str:
        """What of an example's own labels the answerer does not know."""
        own = (example.label,) if isinstance(example, ClassifyExample) else example.tags if isinstance(example, LabelExample) else ()
        strange = next((label for label in own if label not in self.known), None) if self.known else None
        if strange is None:
            return ""
        labels = self.answerer.labels
        more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
        return f"the label {strange!r} is none that {self.answerer.name} knows ({', '.join(labels[:SHOWN_LABELS])}{more})"

    def _take(self, asked: Sequence[Placed], answers: Sequence[Answer | Refused], file: BinaryIO) -> None:
        placed, told = list[Placed](), list[Answer]()
        for row, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Refused):
                self.ledger.leave_out(SetAside(file=row.file, line=row.line, reason=answer.reason), refused=True)
                continue
            if fault := self._fault(row.example, answer):
                raise DataError(f"{row.file}:{row.line}: {self.answerer.name} answered {fault}")
            placed.append(row)
            told.append(answer)
        if not placed:
            return
        own = self.scores.add([expected_of(row.example) for row in placed], told)
        self.ledger.add(placed, [answer.cut for answer in told])
        file.writelines(line_of(row, answer, score) for row, answer, score in zip(placed, told, own, strict=True))

    def _fault(self, example: Example, answer: Answer) -> str:
        """Why an answer is none, or nothing."""
        kind = self.task.kind
        if not all(map(math.isfinite, answer.scores)):
            return f"scores that are no numbers ({', '.join(f'{score:g}' for score in answer.scores[:SHOWN_LABELS])}); expected finite ones"
        if kind in ("regress", "retrieve") and not (math.isfinite(answer.value) and (kind == "regress" or answer.value >= 1)):
            return f"{answer.value:g}; expected a finite number" + ("" if kind == "regress" else ", a rank from 1")
        if isinstance(example, LabelExample) and len(answer.tags) != len(example.tokens):
            return f"{len(answer.tags)} tags to {len(example.tokens)} tokens; expected as many"
        if not isinstance(example, ClassifyExample | ChoiceExample):
            return ""
        labels = self.answerer.labels if isinstance(example, ClassifyExample) else tuple(map(str, range(len(example.choices))))
        if answer.scores and len(answer.scores) != len(labels):
            return f"{len(answer.scores)} scores; expected {len(labels)}"
        if answer.scores and abs(sum(answer.scores) - 1) > 1e-3:
            return f"scores that add up to {sum(answer.scores):g}; expected 1"
        if answer.label not in labels and (answer.scores or answer.label):  # an empty one says that the text was no label
            return f"{answer.label!r}; expected one of {', '.join(labels[:SHOWN_LABELS])}"
        return ""


def _wanted_figure(wanted: str, task: Task, labels: Sequence[str]) -> str:
    """The main figure's name. Raises: ConfigError if the kind has none of that name."""
    names = figure_names(task.kind, labels)
    if wanted not in names:
        raise ConfigError(f"the figure {wanted!r} is none of {task.kind}; expected {', '.join(names)}")
    return wanted


def _told_figure(wanted: str, task: Task, found: Mapping[str, Figure]) -> tuple[str, list[str]]:
    """The main figure, or the kind's own where the data cannot tell the wanted one, and then a word about it."""
    if wanted in found:
        return wanted, []
    usual = SCORES[task.kind] if SCORES[task.kind] in found else next(iter(found))
    return usual, [f"{wanted} cannot be told of this data; {usual} stands in its place"]


def _without_width(name: str, figure: Figure, rows: int) -> list[str]:
    """A word about an interval that draws cannot give a width. Source: the rule of three (Hanley and Lippman-Hand 1983)."""
    if figure.low < figure.high:
        return []
    bound = f"; of a share that is {figure.value:g} in {rows:,} rows, the truth may lie {min(1.0, 3 / rows):.3g} away (95%)"
    return [f"{name} is the same in every draw of these rows, so its interval has no width{bound if figure.value in (0, 1) else ''}"]


def _per_class(found: dict[str, Figure], scores: Scores) -> tuple[ClassFigures, ...]:
    """Figures such as f1/NAME by name."""
    tables: dict[str, dict[str, Figure]] = {}
    for key, figure in found.items():
        head, separator, name = key.partition(SEPARATOR)
        if separator:
            tables.setdefault(name, {})[head] = figure
    grouped = scores.groups()
    counts = dict(zip(grouped[0], np.bincount(grouped[1], minlength=len(grouped[0])).tolist(), strict=True)) if grouped else {}
    return tuple(ClassFigures(name=name, rows=counts.get(name), figures=figures) for name, figures in tables.items())
