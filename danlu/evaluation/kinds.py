"""The scores that belong to each kind of task."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from danlu.base.errors import ConfigError
from danlu.data.examples import Kind
from danlu.evaluation.classes import ClassScores
from danlu.evaluation.figures import Scores
from danlu.evaluation.means import ChoiceScores, RankScores
from danlu.evaluation.numbers import NumberScores
from danlu.evaluation.tags import TagScores
from danlu.evaluation.texts import SpanScores, TextScores


def scores_for(kind: Kind, labels: Sequence[str] = ()) -> Scores:
    """Scores without samples yet; `labels` are the classes or tags that the answerer knows. Raises: ConfigError for classes without."""
    if kind == "classify":
        if len(labels) < 2:
            raise ConfigError(f"a model that knows {len(labels)} classes was asked to classify; expected at least two labels")
        return ClassScores(labels)
    if kind == "label":
        return TagScores(labels)
    plain: dict[str, Callable[[], Scores]] = {"choice": ChoiceScores, "regress": NumberScores, "retrieve": RankScores, "span": SpanScores}
    return plain.get(kind, TextScores)()
