"""Scores that are means over samples: several choices, and the rank of a document."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from danlu.data.answers import Answer
from danlu.evaluation.scores.figures import Column, Expected, Part, Scores, finite, means_of

SMALLEST = float(
    np.finfo(np.float32).eps
)  # a probability below it counts as this much, as scikit-learn has it: or its log would be endless
NDCG_DEPTH = 10


class MeanScores(Scores):
    """Scores whose figures are all means: a kind says what of a sample they are means of."""

    names: tuple[str, ...] = ()
    main = 0  # which of them is a sample's own score

    def __init__(self) -> None:
        self.values = Column(np.float32, len(self.names))

    def of_sample(self, expected: Expected, answer: Answer) -> Sequence[float]:
        """One number for each of the names."""
        raise NotImplementedError

    def add(self, expected: Sequence[Expected], answers: Sequence[Answer]) -> list[float]:
        """Take a batch. Returns: each sample's own score."""
        found = [self.of_sample(*pair) for pair in zip(expected, answers, strict=True)]
        self.values.add(found)
        return [float(each[self.main]) for each in found]

    def __len__(self) -> int:
        return len(self.values)

    def figures(self, weights: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Every mean by its name. Shapes: weights (N,)."""
        values = self.values.array().astype(np.float64)
        return finite(dict(zip(self.names, np.average(values, axis=0, weights=weights), strict=True)))

    def parts(self, wanted: Collection[str] | None = None) -> list[Part]:
        """All of them in one part."""
        return [means_of(self.names, self.values.array().astype(np.float64))]


class ChoiceScores(MeanScores):
    """Several ways to go on, of which one is right: accuracy; the log-likelihood and probability of the right one; Brier over all."""

    names = ("accuracy", "log_loss", "right_probability", "brier")

    def of_sample(self, expected: Expected, answer: Answer) -> Sequence[float]:
        """Source of Brier: Brier 1950, Monthly Weather Review 78(1), over all choices."""
        right = int(expected)  # type: ignore[arg-type]
        if not answer.scores:
            return (float(answer.label == str(right)), np.nan, np.nan, np.nan)
        scores = np.asarray(answer.scores)
        target = np.arange(len(scores)) == right
        return (float(answer.label == str(right)), -np.log(max(scores[right], SMALLEST)), scores[right], ((scores - target) ** 2).sum())


class RankScores(MeanScores):
    """The rank of each query's own document among all, from 1: nDCG at 10, mean reciprocal rank, recall at 1 and 10.

    Source: Jarvelin & Kekalainen 2002, ACM TOIS 20(4), with one relevant document, so that the ideal is 1.
    """

    names = ("ndcg_at_10", "mrr", "recall_at_1", "recall_at_10")

    def of_sample(self, expected: Expected, answer: Answer) -> Sequence[float]:
        """Ranks count from 1."""
        rank = answer.value
        return (1 / np.log2(rank + 1) if rank <= NDCG_DEPTH else 0.0, 1 / rank, float(rank <= 1), float(rank <= 10))
