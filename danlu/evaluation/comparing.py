"""Two or more evaluations of the same rows: how far apart they are, and whether that can be told from chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from scipy import stats

from danlu.base.errors import ConfigError, DataError
from danlu.evaluation.differing import place_of
from danlu.evaluation.evaluated import Evaluation, read_evaluation
from danlu.evaluation.samples import SAMPLES, Sample, read_samples
from danlu.evaluation.scores.figures import LOWER_IS_BETTER, Column, Figure, Scores, interval, resampled
from danlu.evaluation.scores.kinds import scores_for

BATCH = 1024
RIGHT_OR_WRONG = {"classify": "accuracy", "choice": "accuracy", "translate": "exact_match", "chat": "exact_match"}
SURE = 0.05  # p below it, and an interval without 0: a difference can be told


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two evaluations on the rows that both have. `difference` is the first's main figure less the second's, by a paired bootstrap.

    `only_first` and `only_second` count the rows that one alone has right, None for kinds that are not right or wrong; `p` is that of
    McNemar's exact test on them where the main figure is the share that is right, or else the bootstrap's, two-sided; `p_of_all` is
    Holm's, for as many pairs as were compared.
    Source: McNemar 1947, Psychometrika 12(2); Holm 1979, Scandinavian Journal of Statistics 6(2).
    """

    first: str
    second: str
    rows: int
    left_out: int
    score: str
    difference: Figure
    only_first: int | None
    only_second: int | None
    test: str
    p: float
    p_of_all: float

    @property
    def told(self) -> bool:
        """Whether a difference can be told from chance."""
        return self.p_of_all < SURE and not self.difference.low <= 0 <= self.difference.high

    def __str__(self) -> str:
        by, p = self.difference, f"p = {self.p_of_all:.2g}" if self.p_of_all >= 0.001 else "p < 0.001"
        if not self.told:
            span = f"{by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f})"
            return f"{self.first} and {self.second}: no difference can be told, {self.score} {span}, {p}"
        first = (by.value > 0) != (self.score in LOWER_IS_BETTER)
        low, high = sorted((abs(by.low), abs(by.high)))
        better, worse = (self.first, self.second) if first else (self.second, self.first)
        return f"{better} is better than {worse} by {abs(by.value):.3f} ({low:.3f} to {high:.3f}) in {self.score}, {p}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Evaluations side by side under names that tell them apart, and every pair of them."""

    folders: tuple[Path, ...]
    names: tuple[str, ...]
    score: str
    evaluations: tuple[Evaluation, ...]
    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        wide = max(map(cell_len, self.names))
        lines = [
            f"{set_cell_size(name, wide)}  {self.score} {each.figures[self.score]}"
            for name, each in zip(self.names, self.evaluations, strict=True)
        ]
        return "\n".join([*lines, *map(str, self.pairs)])


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An evaluation's samples as numbers. Shapes: places (N,) tell samples apart; right (N,), 1, 0 or in between;
    wanted (N,), a hash of what each expects."""

    scores: Scores
    places: NDArray[np.uint64]
    right: NDArray[np.float32]
    wanted: NDArray[np.uint64]


def compare(folders: Sequence[Path], *, score: str = "", seed: int = 0) -> Comparison:
    """Compare evaluations of one kind, each in a folder that measure() wrote. `score` is the first one's main figure unless given.

    Raises: ConfigError if there are not two, or their kinds or figures differ; DataError if a folder is damaged or no row is in both.
    """
    if len(folders) < 2:
        raise ConfigError(f"{len(folders)} evaluation was given to compare; expected two or more")
    evaluations = [read_evaluation(folder) for folder in folders]
    kinds = {each.subject.kind for each in evaluations}
    if len(kinds) > 1:
        raise ConfigError(f"evaluations of different kinds ({', '.join(sorted(kinds))}) cannot be compared; expected one kind")
    score = score or evaluations[0].score
    for folder, each in zip(folders, evaluations, strict=True):
        if score not in each.figures:
            raise ConfigError(f"{folder} has no figure {score!r}; expected one of {', '.join(each.figures)}")
    scored = [read_scored(folder, each) for folder, each in zip(folders, evaluations, strict=True)]
    names = _names(folders, evaluations)
    found = [
        _pair(names[one], scored[one], names[other], scored[other], score, RIGHT_OR_WRONG.get(evaluations[0].subject.kind), seed)
        for one, other in combinations(range(len(folders)), 2)
    ]
    adjusted = holm([pair.p for pair in found])
    pairs = tuple(replace(pair, p_of_all=p) for pair, p in zip(found, adjusted, strict=True))
    return Comparison(folders=tuple(folders), names=names, score=score, evaluations=tuple(evaluations), pairs=pairs)


def read_scored(folder: Path, evaluation: Evaluation) -> Scored:
    """The samples of an evaluation as scores, read in bounded memory."""
    labels = evaluation.confusion.labels if evaluation.confusion else ()
    scores, places, right, wanted = scores_for(evaluation.subject.kind, labels), Column(np.uint64), Column(np.float32), Column(np.uint64)
    batch: list[Sample] = []

    def take() -> None:
        scores.add([sample.expected for sample in batch], [sample.answer for sample in batch])
        places.add([place_of(sample) for sample in batch])
        right.add([sample.score for sample in batch])
        wanted.add([xxhash.xxh3_64_intdigest(repr(sample.expected).encode()) for sample in batch])
        batch.clear()

    for sample in read_samples(folder / SAMPLES):
        batch.append(sample)
        if len(batch) == BATCH:
            take()
    take()
    return Scored(scores=scores, places=places.array(), right=right.array(), wanted=wanted.array())


def _pair(first: str, one: Scored, second: str, other: Scored, score: str, share: str | None, seed: int) -> Pair:
    _, mine, theirs = np.intersect1d(one.places, other.places, return_indices=True)
    order = np.argsort(mine)  # as they stand in the data, so that a draw does not depend on hashes
    mine, theirs, count = mine[order], theirs[order], len(mine)
    if not count:
        raise DataError(f"{first} and {second} have no row in common; evaluate both on the same data")
    if other_truth := int((one.wanted[mine] != other.wanted[theirs]).sum()):
        raise DataError(
            f"{first} and {second} were measured against different answers in {other_truth:,} of {count:,} rows; "
            "evaluate both on the same data"
        )
    drawn, points = zip(*(_drawn(each.scores, rows, score, seed) for each, rows in ((one, mine), (other, theirs))), strict=True)
    difference = interval(points[0] - points[1], drawn[0] - drawn[1])
    counts = _disagreements(one.right[mine], other.right[theirs]) if share else None
    p, test = _sign_p(drawn[0] - drawn[1]), "paired bootstrap"
    if counts is not None and score == share:
        p, test = mcnemar(*counts), "McNemar, exact"
    return Pair(
        first=first,
        second=second,
        rows=count,
        left_out=len(one.places) + len(other.places) - 2 * count,
        score=score,
        difference=difference,
        only_first=counts[0] if counts else None,
        only_second=counts[1] if counts else None,
        test=test,
        p=p,
        p_of_all=p,
    )


def _drawn(scores: Scores, rows: NDArray[np.intp], score: str, seed: int) -> tuple[NDArray[np.float64], float]:
    """A figure's draws and its value; the same seed and as many rows draw the same rows, which pairs two models' draws."""
    points = scores.figures(np.bincount(rows, minlength=len(scores)))
    if score not in points:
        raise DataError(f"{score} cannot be told of the {len(rows):,} rows that are in both evaluations; compare by another figure")
    drawn, own = resampled([part.rows(rows) for part in scores.parts((score,))], len(rows), seed=seed)
    return drawn[score] + (points[score] - own[score]), points[score]


def _disagreements(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[int, int]:
    return int(((one == 1) & (other != 1)).sum()), int(((one != 1) & (other == 1)).sum())


def mcnemar(only_first: int, only_second: int) -> float:
    """p of McNemar's exact test, two-sided: rows that one alone has right are the first's or the second's with equal chance."""
    both = only_first + only_second
    return float(stats.binomtest(only_first, both, 0.5).pvalue) if both else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Each p for the case that all were looked at. Source: Holm 1979, Scandinavian Journal of Statistics 6(2)."""
    found, least = [math.nan] * len(ps), 0.0
    for rank, place in enumerate(np.argsort(ps, kind="stable").tolist()):
        least = max(least, min(1.0, ps[place] * (len(ps) - rank)))
        found[place] = least
    return found


def _sign_p(differences: NDArray[Any]) -> float:
    """Twice the share of draws on the other side of 0, of which there is always one."""
    told = differences[np.isfinite(differences)]
    fewer = min((told <= 0).sum(), (told >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(told) + 1)))


def _names(folders: Sequence[Path], evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Models' names, or folders' where two models have the same, or whole paths where two folders have."""
    for names in ([each.subject.model for each in evaluations], [folder.name for folder in folders]):
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(map(str, folders))
