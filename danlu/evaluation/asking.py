"""`danlu.task`: a task with a model, ready to be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError, DataError
from danlu.data.answers import Answer, Refused
from danlu.data.examples import Example
from danlu.data.rows import BadRow
from danlu.data.unanswered import without_answer
from danlu.evaluation.answerers.choosing import answerer_taught_by
from danlu.tasks.loading import find_task


def task(
    name: str, model: str, *, examples: str | Path | Sequence[str | Path] = (), **asking: Any
) -> Callable[[Sequence[str | Mapping[str, Any]]], list[Answer]]:
    """A task with a model, ready to be asked: danlu.task("sentiment-zh", "runs/zh")(["很好", "不值"]) gives an Answer for each text.

    What is asked may be texts, or rows with the task's fields. The other keywords are as for `danlu apply`.
    Raises: DataError naming what cannot be answered.
    """
    wanted = find_task(name)
    if wanted.kind == "retrieve":
        raise ConfigError("retrieve measures how a model finds documents, and answers no single row; use danlu.load(...).embed")
    answerer = answerer_taught_by(model, wanted, examples, **asking)

    def ask(given: Sequence[str | Mapping[str, Any]]) -> list[Answer]:
        examples: list[Example] = []
        for place, each in enumerate([given] if isinstance(given, str | Mapping) else given):
            try:
                examples.append(without_answer(name, place + 1, {"text": each} if isinstance(each, str) else each, wanted.kind))
            except (BadRow, TypeError) as error:
                raise DataError(f"item {place + 1} cannot be asked: {error}") from None
        answers = answerer.answer(examples)
        for place, answer in enumerate(answers):
            if isinstance(answer, Refused):
                raise DataError(f"item {place + 1} cannot be answered: {answer.reason}")
        return [answer for answer in answers if isinstance(answer, Answer)]

    return ask
