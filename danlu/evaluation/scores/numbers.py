"""Scores of numbers: how far off they are, and how well they go together."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats
from sklearn import metrics

from danlu.data.answers import Answer
from danlu.evaluation.scores.figures import Column, Expected, Floats, Part, Scores, Sums, finite, grouped

MOST_GROUPS = 8192  # of nearly equal numbers, in the bootstrap of ranks


class NumberScores(Scores):
    """Mean squared and absolute error, Pearson's and Spearman's correlation, and R2. A sample's own score is its absolute error."""

    def __init__(self) -> None:
        self.truth, self.told = Column(np.float64), Column(np.float64)

    def add(self, expected: Sequence[Expected], answers: Sequence[Answer]) -> list[float]:
        """Take a batch. Returns: absolute errors."""
        truth, told = np.array([float(each) for each in expected]), np.array([answer.value for answer in answers])  # type: ignore[arg-type]
        self.truth.add(truth)
        self.told.add(told)
        return [float(each) for each in np.abs(truth - told)]

    def __len__(self) -> int:
        return len(self.truth)

    def figures(self, weights: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Correlations are left out where all numbers are the same. Shapes: weights (N,)."""
        truth, told = self.truth.array(), self.told.array()
        if weights is not None:
            truth, told = np.repeat(truth, weights), np.repeat(told, weights)
        found = {"mse": metrics.mean_squared_error(truth, told), "mae": metrics.mean_absolute_error(truth, told)}
        if len(truth) > 1 and np.ptp(truth):
            found["r2"] = metrics.r2_score(truth, told)
            if np.ptp(told):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", stats.NearConstantInputWarning)
                    found |= {"pearson": stats.pearsonr(truth, told)[0], "spearman": stats.spearmanr(truth, told)[0]}
        return finite(found)

    def parts(self, wanted: Collection[str] | None = None) -> list[Part]:
        """Moments, and ranks if they are wanted."""
        truth, told = self.truth.array(), self.told.array()
        if not len(truth):
            return []
        off = truth - told
        x, y = truth - truth.mean(), told - told.mean()  # or the squares would be differences of large numbers
        moments = Sums(matrix=sparse.csr_matrix(np.stack([off**2, np.abs(off), x, y, x * x, y * y, x * y], 1)), formula=_from_moments)
        return (
            [moments]
            if wanted is not None and "spearman" not in wanted
            else [moments, Ranked(*(grouped(each, MOST_GROUPS) for each in (truth, told)))]
        )


class Ranked(Part):
    """Spearman's correlation of weighted samples: ranks depend on what was drawn, so each draw is counted by itself.

    Shapes: places, two of (N,): each sample's group of equal, or nearly equal, numbers, from the lowest.
    """

    def __init__(self, *places: NDArray[np.int64]) -> None:
        self.places = places

    def of(self, weights: Floats) -> dict[str, Floats]:
        """Shapes: weights (N, draws) -> (draws,)."""
        return {"spearman": np.array([self._one(np.ascontiguousarray(column)) for column in weights.T])}

    def rows(self, chosen: NDArray[np.intp]) -> Ranked:
        """The same of some samples only."""
        return Ranked(*(each[chosen] for each in self.places))

    def _one(self, weights: Floats) -> float:
        ranks, spreads, middle = [], [], weights.sum() / 2
        for places in self.places:
            counts = np.bincount(places, weights)
            rank = np.cumsum(counts) - counts / 2 - middle  # the mean rank of those that are equal, less that of all
            ranks.append(rank[places])
            spreads.append((counts * rank * rank).sum())
        across = spreads[0] * spreads[1]
        return float((weights * ranks[0] * ranks[1]).sum() / np.sqrt(across)) if across > 0 else np.nan


def _from_moments(sums: Floats, total: Floats) -> dict[str, Floats]:
    squared, absolute, x, y, xx, yy, xy = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_x, spread_y, both = xx - x * x / total, yy - y * y / total, xy - x * y / total
        return {
            "mse": squared / total,
            "mae": absolute / total,
            "r2": 1 - squared / np.where(spread_x > 0, spread_x, np.nan),
            "pearson": both / np.sqrt(np.where(spread_x * spread_y > 0, spread_x * spread_y, np.nan)),
        }
