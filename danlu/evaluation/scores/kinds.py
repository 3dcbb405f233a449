"""The scores that belong to each kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from danlu.base.errors import ConfigError
from danlu.data.examples import Kind
from danlu.evaluation.scores.classes import AREAS, ClassScores
from danlu.evaluation.scores.counts import AVERAGES, RATES
from danlu.evaluation.scores.figures import Scores
from danlu.evaluation.scores.means import ChoiceScores, MeanScores, RankScores
from danlu.evaluation.scores.numbers import NumberScores
from danlu.evaluation.scores.tags import TagScores
from danlu.evaluation.scores.texts import SpanScores, TextScores

MEANS: Mapping[Kind, type[MeanScores]] = {
    "choice": ChoiceScores,
    "retrieve": RankScores,
    "span": SpanScores,
    "translate": TextScores,
    "chat": TextScores,
}
AVERAGED = tuple(f"{rate}_{average}" for rate in RATES for average in AVERAGES)


def scores_for(kind: Kind, labels: Sequence[str] = ()) -> Scores:
    """Scores without samples yet; `labels` are the classes or tags that the answerer knows. Raises: ConfigError for classes without."""
    if kind == "classify":
        if len(labels) < 2:
            raise ConfigError(f"a model that knows {len(labels)} classes was asked to classify; expected at least two labels")
        return ClassScores(labels)
    if kind == "label":
        return TagScores(labels)
    return NumberScores() if kind == "regress" else MEANS[kind]()


def figure_names(kind: Kind, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """The figures that a kind can have; which of them the data can tell shows once it is there."""
    if kind == "classify":
        return ("accuracy", "mcc", *AVERAGED, *(RATES if len(labels) == 2 else ()), "log_loss", "brier", "ece", *AREAS)
    if kind == "label":
        return ("accuracy", *RATES, *AVERAGED)
    return ("mse", "mae", "r2", "pearson", "spearman") if kind == "regress" else MEANS[kind].names
