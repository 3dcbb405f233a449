"""One figure of a model that is still learning, on examples that it does not learn from: what early stopping may watch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from danlu.base.errors import ConfigError
from danlu.data.answers import Answer
from danlu.data.examples import Example, Kind
from danlu.evaluation.answerers.choosing import Asking, answerer_for
from danlu.evaluation.samples import expected_of
from danlu.evaluation.scores.figures import LOWER_IS_BETTER
from danlu.evaluation.scores.kinds import figure_names, scores_for
from danlu.inference.model import Model
from danlu.tasks.base import Task

READ, WRITTEN = 512, 64  # examples at most: a run looks ten times


def check_figure(kind: Kind, labels: Sequence[str], figure: str) -> None:
    """Raises: ConfigError if a kind of task has no such figure."""
    if figure not in (known := figure_names(kind, labels)):
        raise ConfigError(f"--best-by came as {figure!r}; expected loss, {', '.join(known)}")


def judge(
    task: Task, labels: Sequence[str], examples: Sequence[Example], figure: str, truncate: bool
) -> tuple[Callable[[Model], float], bool]:
    """What tells a model's figure, and whether higher is better; NaN if the examples cannot tell it, as an area of one class.

    The first 512 examples are asked, or 64 whose answers are written; those that the model refuses do not count.
    Raises: ConfigError if the task's kind has no such figure.
    """
    check_figure(task.kind, labels, figure)
    examples = examples[: WRITTEN if task.kind in ("translate", "chat") else READ]

    def of(model: Model) -> float:
        answerer = answerer_for(model, task, Asking(truncate=truncate))
        scores = scores_for(task.kind, answerer.labels)
        asked = zip(examples, answerer.answer(examples), strict=True)
        told = [(expected_of(example), answer) for example, answer in asked if isinstance(answer, Answer)]
        scores.add([expected for expected, _ in told], [answer for _, answer in told])
        return scores.figures().get(figure, math.nan) if told else math.nan

    return of, figure not in LOWER_IS_BETTER
