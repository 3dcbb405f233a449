"""Figures with their intervals: what every kind of score can be asked for, and the bootstrap that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from danlu.data.answers import Answer

DRAWS = 1000
SHARE = 0.95  # of the draws that lie within an interval
AT_ONCE, WIDEST = 2_000_000, 32_768  # numbers in memory at a time (16 MB), and columns that a part's sums may have
TURNED = 1024  # samples
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mse", "mae"})
SEPARATOR = "/"  # f1/spam is the f1 of the class spam

Floats: TypeAlias = NDArray[np.float64]
Expected: TypeAlias = str | int | float | Sequence[str]  # what should have been answered: samples.py says which, by kind


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure, the bounds of its 95% bootstrap interval (percentiles), and its standard error (spread of the draws)."""

    value: float
    low: float
    high: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


class Part(ABC):
    """Some of a kind's figures, computed for many weightings of the samples at once."""

    @abstractmethod
    def of(self, weights: Floats) -> dict[str, Floats]:
        """Shapes: weights (N, draws) -> each figure (draws,)."""

    @abstractmethod
    def rows(self, chosen: NDArray[np.intp]) -> Part:
        """The same figures of some samples only."""


@dataclass(frozen=True, kw_only=True)
class Sums(Part):
    """Figures that follow from sums over samples alone, so that a thousand draws are a product of two matrices.

    Shapes: matrix (N, columns), sparse; formula takes the weighted sums (draws, columns) and the weights' sums (draws,) and
    gives each figure as (draws,).
    """

    matrix: sparse.csr_matrix
    formula: Callable[[Floats, Floats], dict[str, Floats]]

    def of(self, weights: Floats) -> dict[str, Floats]:
        """Shapes: weights (N, draws) -> each figure (draws,)."""
        return self.formula(np.ascontiguousarray((self.matrix.T @ weights).T), weights.sum(0))

    def rows(self, chosen: NDArray[np.intp]) -> Sums:
        """The same figures of some samples only."""
        return Sums(matrix=self.matrix[chosen], formula=self.formula)


class Scores(ABC):
    """The scores of one kind of task, which grow as answers come; of a sample a few numbers are kept, and none of its text.

    `figures` gives what the counting libraries say; `parts` the same by formulas that take many weightings at once. They agree, which
    the tests show; where a part groups what is nearly equal, the bootstrap shifts its draws by the difference.
    """

    @abstractmethod
    def add(self, expected: Sequence[Expected], answers: Sequence[Answer]) -> list[float]:
        """Take a batch. Returns: a score for each sample, higher is better (or a distance, for numbers, lower is better)."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def figures(self, weights: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Every figure by name; f1/spam belongs to one class. Those that the data cannot tell are left out.

        Shapes: weights (N,): how often each sample counts; once unless given.
        """

    @abstractmethod
    def parts(self, wanted: Collection[str] | None = None) -> list[Part]:
        """The same figures as formulas of weights; at least the wanted ones, or all."""

    def warnings(self) -> list[str]:
        """What a reader of the figures must know."""
        return []

    def groups(self) -> tuple[tuple[str, ...], NDArray[np.int64]] | None:
        """Classes and each sample's own (N,), or None for kinds without."""
        return None


def bootstrap(
    scores: Scores,
    rows: NDArray[np.intp] | None = None,
    wanted: Collection[str] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Figure]:
    """Each figure with its interval: samples are drawn with replacement, as many as there are. The same seed, the same numbers.

    `rows` takes some of the samples only; `wanted` names figures, where not all are asked for.
    Source: Efron & Tibshirani 1993, "An introduction to the bootstrap", chapters 6 and 13.
    """
    count = len(scores) if rows is None else len(rows)
    if not count:
        return {}
    weights = np.ones(len(scores), np.int64) if rows is None else np.bincount(rows, minlength=len(scores))
    points = scores.figures(None if rows is None else weights)
    parts = [part if rows is None else part.rows(rows) for part in scores.parts(wanted)]
    drawn, own = resampled(parts, count, seed=seed, draws=draws)
    chosen = points if wanted is None else {name: points[name] for name in wanted if name in points}
    return {name: interval(value, drawn[name] + (value - own[name])) for name, value in chosen.items()}


def resampled(parts: Sequence[Part], count: int, *, seed: int, draws: int = DRAWS) -> tuple[dict[str, Floats], dict[str, float]]:
    """Every figure of the parts for each of the draws, (draws,), and for the samples as they are."""
    random = np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {}
    own = {name: float(value[0]) for part in parts for name, value in part.of(np.ones((count, 1))).items()}
    step = max(1, min(draws, AT_ONCE // max(count, WIDEST)))
    for begin in range(0, draws, step):
        weights = _drawn(random, count, min(step, draws - begin))
        for part in parts:
            for name, values in part.of(weights).items():
                found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}, own


def _drawn(random: np.random.Generator, count: int, draws: int) -> Floats:
    """How often each sample is in each draw. Shapes: -> (count, draws)."""
    found = np.empty((count, draws))
    counted = np.empty((draws, count), np.int32)
    for row in counted:
        row[:] = np.bincount(random.integers(0, count, count, dtype=np.int32), minlength=count)
    for begin in range(0, count, TURNED):  # a piece that stays in the cache: turned as a whole it takes several times as long
        found[begin : begin + TURNED] = counted[:, begin : begin + TURNED].T
    return found


def interval(value: float, drawn: Floats) -> Figure:
    """A figure from its draws; those in which it cannot be told (a class was not drawn) are passed over."""
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 2:
        return Figure(value=value, low=value, high=value, error=0.0)
    low, high = np.quantile(drawn, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Figure(value=value, low=float(min(low, value)), high=float(max(high, value)), error=float(drawn.std(ddof=1)))


def means_of(names: Sequence[str], matrix: Floats) -> Sums:
    """Figures that are means over samples. Shapes: matrix (N, figures)."""
    return Sums(
        matrix=sparse.csr_matrix(matrix), formula=lambda sums, total: {name: sums[:, place] / total for place, name in enumerate(names)}
    )


def grouped(values: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Each number's group, from the lowest: one for each value, or of about equally many if those are too many.

    Shapes: (N,) -> (N,).
    """
    distinct, places = np.unique(values, return_inverse=True)
    if len(distinct) <= most:
        return places.astype(np.int64)
    before = np.cumsum(np.bincount(places)) - 1
    wide = before * most // len(values)
    return np.unique(wide[places], return_inverse=True)[1].astype(np.int64)


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures without those that the data cannot tell, as plain floats."""
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


class Column:
    """Numbers of samples that grow batch by batch. Shapes: (N,) or (N, width)."""

    def __init__(self, kind: type[np.generic], width: int | None = None) -> None:
        self._empty: NDArray[Any] = np.empty((0,) if width is None else (0, width), kind)
        self._parts: list[NDArray[Any]] = []

    def add(self, values: Sequence[Any] | NDArray[Any]) -> None:
        """Append a batch."""
        self._parts.append(np.asarray(values, self._empty.dtype).reshape(-1, *self._empty.shape[1:]))

    def array(self) -> NDArray[Any]:
        """All of them, in one piece."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate([self._empty, *self._parts])]
        return self._parts[0]

    def __len__(self) -> int:
        return sum(map(len, self._parts))
